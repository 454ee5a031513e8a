//! The look-up of the highest timestamp (Kafka's ListOffsets with -3).
//!
//! An index entry tells the highest timestamp of all that lies before it in its segment. So the index alone tells how
//! high a segment reaches and between which two entries it does so first, and only that stretch is read. It cannot tell
//! where the log start lies within the segment and nothing behind it is newer than what lies before it. Then all
//! batches behind are looked through, once: the segment remembers what was found.

use std::ops::Range;

use millpond_record::{BatchHeader, DecompressLimit, Offset, RaftIndex, Timestamp, records};

use super::Log;
use super::cold::ColdPlan;
use super::times::{BLOCK_BYTES, MAX_OPENED_BYTES};
use super::types::Found;
use crate::StorageError;
use crate::segment::{SegmentError, SegmentView};

/// The highest timestamp of a part of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Highest {
    time: Timestamp,
    /// The batch that has it; `None` where the index leads to it.
    at: Option<RaftIndex>,
}

/// What a segment remembers of having been looked through from a log start on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LookedThrough {
    log_start: Offset,
    /// Up to the index entry of this batch.
    to: RaftIndex,
    highest: Option<Highest>,
}

/// A segment, and the offset at which what can be read of it ends.
struct Readable {
    plan: ColdPlan,
    end: Offset,
}

impl Log {
    /// The first record that has the highest timestamp of all below `to`. Blocks.
    ///
    /// # Errors
    ///
    /// As for [`Log::offset_for_timestamp`].
    pub fn max_timestamp(&self, to: Offset) -> Result<Option<Found>, StorageError> {
        self.while_segments_go(|| self.find_max_timestamp(to))
    }

    fn find_max_timestamp(&self, to: Offset) -> Result<Option<Found>, StorageError> {
        let (readable, tail, log_start) = {
            let state = self.state();
            self.check_readable(&state)?;
            let written = state.tail.front().map_or(state.log_end, |cached| cached.base_offset);
            let below = state.segments_below(state.log_start);
            let readable: Vec<Readable> = (below..state.segments.len())
                .filter_map(|at| {
                    let plan = ColdPlan::of(&state, at)?;
                    let next = state.segments.get(at + 1).map(|next| next.name.base_offset);
                    // All of a closed segment can be read, though its batches may be in the tail, too.
                    let end = next.filter(|next| plan.is_closed() || *next < written).unwrap_or(written);
                    Some(Readable { plan, end })
                })
                .collect();
            let data = state.tail.iter().filter(|cached| !cached.raft_only && cached.next_offset <= to);
            let data = data.filter(|cached| cached.next_offset > state.log_start);
            // The batch that the log start lies in has the time of what is left of it, which must be looked for.
            let (cut, whole): (Vec<_>, Vec<_>) = data.partition(|cached| cached.base_offset < state.log_start);
            let best = whole
                .into_iter()
                .reduce(|best, cached| if cached.max_timestamp > best.max_timestamp { cached } else { best });
            let tail: Vec<_> = cut.into_iter().chain(best).map(|cached| cached.batch.clone()).collect();
            (readable, tail, state.log_start)
        };
        let (mut highest, mut holder) = (Timestamp::NONE, None);
        for readable in &readable {
            let found = self.with_index(&readable.plan.segment, || readable.highest(log_start, to));
            if let Some(found) = found.map_err(|error| self.segment_error(error))?
                && found.time > highest
            {
                (highest, holder) = (found.time, Some((&readable.plan, found)));
            }
        }
        let mut in_tail = None;
        for batch in tail {
            let (header, bytes) = (batch.header(), batch.to_bytes());
            let found = newest_from(&bytes, &header, log_start);
            let whole = header.base_offset >= log_start;
            let time = if whole { header.max_timestamp } else { found.timestamp };
            if time > highest {
                (highest, in_tail) = (time, Some(found));
            }
        }
        let Some((plan, found)) = holder.filter(|_| in_tail.is_none()) else { return Ok(in_tail) };
        self.opened(plan);
        let found = self.with_index(&plan.segment, || record_of(plan, found, log_start, to));
        found.map_err(|error| self.segment_error(error))
    }
}

impl Readable {
    /// The highest timestamp of the batches that have a record from the log start on and end at or before `to`.
    fn highest(&self, log_start: Offset, to: Offset) -> Result<Option<Highest>, SegmentError> {
        let (begin, plan) = (self.plan.segment.name.base_offset, &self.plan);
        if begin >= to {
            return Ok(None);
        }
        let by_index = |time| Some(Highest { time, at: None });
        let reaches = plan.max_timestamp()?;
        // What cannot be read might be higher.
        plan.segment.check_readable_to(to)?;
        if begin >= log_start && self.end <= to {
            return Ok(by_index(reaches));
        }
        let view = plan.open()?;
        // The stretch that the log start lies in, and the one that `to` lies in; there is none if all of it counts.
        let first = if begin < log_start { view.floor(|entry| entry.offset <= log_start)? } else { None };
        let last = if self.end > to { Some(view.floor(|entry| entry.offset < to)?.unwrap_or(0)) } else { None };
        let stop = last.unwrap_or(view.index.len());
        let before = |number: u32| {
            let entry = if number < view.index.len() { Some(view.entry(number)?) } else { None };
            Ok::<_, SegmentError>(entry.map_or(reaches, |entry| entry.max_timestamp_before))
        };
        let mut highest = match first {
            None => by_index(before(stop)?),
            Some(first) if first >= stop => None,
            Some(first) if before(stop)? > before(first + 1)? => by_index(before(stop)?),
            Some(first) => self.look_through_once(&view, first..stop, log_start, to)?,
        };
        if let Some(last) = last {
            look_through(&view, last..last + 1, log_start, to, &mut highest)?;
        }
        Ok(highest)
    }

    /// Looks through the stretches of some entries, but for what was looked through before.
    fn look_through_once(
        &self,
        view: &SegmentView,
        numbers: Range<u32>,
        log_start: Offset,
        to: Offset,
    ) -> Result<Option<Highest>, SegmentError> {
        let Range { start, end } = numbers;
        let mut known = self.plan.segment.looked_through();
        let index_at = |number: u32| Ok(if number < view.index.len() { Some(view.entry(number)?.index) } else { None });
        let (behind, limit): (Option<RaftIndex>, Option<RaftIndex>) = (index_at(start + 1)?, index_at(end)?);
        // What was found from an earlier log start on holds if it lies behind the stretch of this one, and what was
        // found further on than is asked for if it lies before that.
        let holds = known.filter(|known| {
            let found = known.highest.and_then(|highest| highest.at);
            let is_behind = behind.zip(found).is_some_and(|(behind, found)| found >= behind);
            let is_before = limit.zip(found).is_none_or(|(limit, found)| found < limit);
            (known.log_start == log_start || (known.log_start < log_start && is_behind)) && is_before
        });
        let mut highest = holds.and_then(|known| known.highest);
        let from = match holds {
            Some(known) => view.floor(|entry| entry.index <= known.to)?.unwrap_or(start).max(start),
            None => start,
        };
        look_through(view, from..end, log_start, to, &mut highest)?;
        // The last stretch is looked through again: it may have grown.
        let to = view.entry(end.min(view.index.len() - 1))?.index;
        if known.is_none_or(|known| known.log_start != log_start || known.to <= to) {
            *known = Some(LookedThrough { log_start, to, highest });
        }
        Ok(highest)
    }
}

/// Reads the stretches of some entries and raises `highest` to the first of their batches that is higher.
fn look_through(
    view: &SegmentView,
    numbers: Range<u32>,
    log_start: Offset,
    to: Offset,
    highest: &mut Option<Highest>,
) -> Result<(), SegmentError> {
    let mut number = numbers.start;
    while number < numbers.end {
        let block = view.load(number, if numbers.len() == 1 { 0 } else { BLOCK_BYTES })?;
        for batch in &block.batches {
            let header = &batch.header;
            let known = highest.map_or(Timestamp::NONE, |highest| highest.time);
            if header.attributes.is_raft_only() || !counts(header, log_start, to) || header.max_timestamp <= known {
                continue;
            }
            let whole = header.base_offset >= log_start;
            let time = if whole {
                header.max_timestamp
            } else {
                newest_from(&block.batch(batch), header, log_start).timestamp
            };
            if time > known {
                *highest = Some(Highest { time, at: Some(batch.index) });
            }
        }
        number = block.next_entry;
    }
    Ok(())
}

/// Whether a batch has a record from the log start on, and ends at or before `to`.
fn counts(header: &BatchHeader, log_start: Offset, to: Offset) -> bool {
    header.next_offset() > log_start && header.next_offset() <= to
}

/// The record that has the highest timestamp of a segment. Reads one stretch of it.
fn record_of(plan: &ColdPlan, highest: Highest, log_start: Offset, to: Offset) -> Result<Option<Found>, SegmentError> {
    let view = plan.open()?;
    let number = match highest.at {
        Some(index) => view.floor(|entry| entry.index <= index)?,
        None => view.floor(|entry| entry.max_timestamp_before < highest.time)?,
    };
    let block = view.load(number.unwrap_or(0), 0)?;
    let found = block.batches.iter().find(|batch| {
        let header = &batch.header;
        let is_it = highest.at.map_or(header.max_timestamp >= highest.time, |index| batch.index == index);
        is_it && !header.attributes.is_raft_only() && counts(header, log_start, to)
    });
    Ok(found.map(|batch| newest_from(&block.batch(batch), &batch.header, log_start)))
}

/// The first of the newest records of a batch, from an offset on. A batch that cannot be opened answers by its header:
/// it is what the producer sent, and a consumer will see the same.
fn newest_from(batch: &[u8], header: &BatchHeader, from: Offset) -> Found {
    let leader_epoch = header.leader_epoch;
    let whole = Found { offset: header.base_offset.max(from), timestamp: header.max_timestamp, leader_epoch };
    let mut newest = Found { timestamp: Timestamp::NONE, ..whole };
    let Ok(records) = records(batch, DecompressLimit(MAX_OPENED_BYTES)) else { return whole };
    for record in records.iter() {
        let Ok(record) = record else { return whole };
        let (offset, timestamp) = (record.offset(header), record.timestamp(header));
        if offset >= from && timestamp > newest.timestamp {
            newest = Found { offset, timestamp, leader_epoch };
        }
    }
    newest
}
