//! Look-ups by time (Kafka's ListOffsets).
//!
//! The index tells the max timestamp of all that lies before each entry, so the block in which it reaches a time is
//! found by a binary search; then the batch by its header, then the record. Only the batch that holds the answer is
//! opened, as a rule: a compressed batch whose header promises a time that no record has costs one more.

use millpond_record::{BatchHeader, DecompressLimit, LeaderEpoch, Offset, StampedBatch, Timestamp, records};

use super::Log;
use super::cold::ColdPlan;
use super::state::LogState;
use super::types::Found;
use crate::StorageError;
use crate::segment::SegmentError;

/// Batches that are opened in vain, because their headers promise a time that no record has, before the look-up gives
/// up.
const MAX_LIARS: usize = 64;

/// How much of the tail cache is looked at.
const MAX_CANDIDATES: usize = MAX_LIARS;

/// How much is read at once.
const BLOCK_BYTES: usize = 256 << 10;

/// The longest batch that is opened, in bytes after decompression.
const MAX_OPENED_BYTES: usize = 256 << 20;

impl Log {
    /// The first record with a timestamp of at least `time`, among those below `to`. Blocks.
    ///
    /// # Errors
    ///
    /// What a read of the segments says.
    pub fn offset_for_timestamp(&self, time: Timestamp, to: Offset) -> Result<Option<Found>, StorageError> {
        self.while_segments_go(|| self.find_time(time, to))
    }

    fn find_time(&self, time: Timestamp, to: Offset) -> Result<Option<Found>, StorageError> {
        let (plans, tail, log_start) = self.candidates(|max| max >= time, to)?;
        let mut liars = 0;
        for plan in &plans {
            let max = self.with_index(&plan.segment, || plan.max_timestamp());
            if max.map_err(|error| self.segment_error(error))? < time {
                continue;
            }
            self.opened(plan);
            let found = self.with_index(&plan.segment, || first_in_segment(plan, time, log_start, to, &mut liars));
            if let Some(found) = found.map_err(|error| self.segment_error(error))? {
                return Ok(Some(found));
            }
        }
        let in_tail = tail.iter().find_map(|batch| {
            first_record(&batch.to_bytes(), &batch.header(), log_start, |timestamp| timestamp >= time)
        });
        Ok(in_tail.filter(|found| found.offset < to))
    }

    /// The first record that has the highest timestamp of all below `to`. Blocks.
    ///
    /// # Errors
    ///
    /// As for [`Log::offset_for_timestamp`].
    pub fn max_timestamp(&self, to: Offset) -> Result<Option<Found>, StorageError> {
        self.while_segments_go(|| self.find_max_timestamp(to))
    }

    fn find_max_timestamp(&self, to: Offset) -> Result<Option<Found>, StorageError> {
        let (plans, newest, log_start) = {
            let state = self.state();
            self.check_readable(&state)?;
            let plans = state.plans_from_log_start();
            let data = state.tail.iter().filter(|cached| !cached.raft_only && cached.next_offset <= to);
            let data = data.filter(|cached| cached.next_offset > state.log_start);
            // The batch that the log start lies in has the time of what is left of it, which must be looked for.
            let (cut, whole): (Vec<_>, Vec<_>) = data.partition(|cached| cached.base_offset < state.log_start);
            let best = whole
                .into_iter()
                .reduce(|best, cached| if cached.max_timestamp > best.max_timestamp { cached } else { best });
            let newest: Vec<StampedBatch> = cut.into_iter().chain(best).map(|cached| cached.batch.clone()).collect();
            (plans, newest, state.log_start)
        };
        let (mut highest, mut holder) = (Timestamp::NONE, None);
        for plan in &plans {
            let max = self.with_index(&plan.segment, || {
                if plan.segment.name.base_offset < log_start {
                    // Its highest time may be that of a record below the log start.
                    max_from(plan, log_start, to)
                } else {
                    plan.max_timestamp()
                }
            });
            let max = max.map_err(|error| self.segment_error(error))?;
            if max > highest {
                (highest, holder) = (max, Some(plan));
            }
        }
        let mut in_tail = None;
        for batch in newest {
            let (header, bytes) = (batch.header(), batch.to_bytes());
            let whole = header.base_offset >= log_start;
            let max = if whole { header.max_timestamp } else { newest_from(&bytes, &header, log_start) };
            if max > highest {
                (highest, in_tail) = (max, Some((header, bytes)));
            }
        }
        if let Some((header, bytes)) = in_tail {
            return Ok(first_record(&bytes, &header, log_start, |time| time >= highest));
        }
        let Some(plan) = holder else { return Ok(None) };
        self.opened(plan);
        let found = self.with_index(&plan.segment, || first_in_segment(plan, highest, log_start, to, &mut 0));
        found.map_err(|error| self.segment_error(error))
    }

    /// Looks again if a segment went under the look-up because the log start moved.
    fn while_segments_go(
        &self,
        look: impl Fn() -> Result<Option<Found>, StorageError>,
    ) -> Result<Option<Found>, StorageError> {
        loop {
            let log_start = self.state().log_start;
            match look() {
                Err(StorageError::Io { .. } | StorageError::Corrupt { .. }) if self.state().log_start > log_start => {}
                found => return found,
            }
        }
    }

    /// The segments, and the batches of the tail whose max timestamp is wanted.
    fn candidates(
        &self,
        wanted: impl Fn(Timestamp) -> bool,
        to: Offset,
    ) -> Result<(Vec<ColdPlan>, Vec<StampedBatch>, Offset), StorageError> {
        let state = self.state();
        self.check_readable(&state)?;
        let plans = state.plans_from_log_start();
        let data = state.tail.iter().filter(|cached| !cached.raft_only && cached.next_offset <= to);
        let tail = data
            .filter(|cached| cached.next_offset > state.log_start && wanted(cached.max_timestamp))
            .take(MAX_CANDIDATES)
            .map(|cached| cached.batch.clone());
        Ok((plans, tail.collect(), state.log_start))
    }
}

impl LogState {
    /// What can be read of the segments that are not wholly below the log start.
    fn plans_from_log_start(&self) -> Vec<ColdPlan> {
        let below = self.segments_below(self.log_start);
        (below..self.segments.len()).filter_map(|at| ColdPlan::of(self, at)).collect()
    }
}

/// The highest timestamp of a segment's batches that have a record from the log start on. Of the batch that the log
/// start lies in, only the records that are left count.
fn max_from(plan: &ColdPlan, log_start: Offset, to: Offset) -> Result<Timestamp, SegmentError> {
    let view = plan.open()?;
    let mut highest = Timestamp::NONE;
    let mut number = view.floor(|entry| entry.offset <= log_start)?.unwrap_or(0);
    while number < view.index.len() {
        let block = view.load(number, BLOCK_BYTES)?;
        for batch in &block.batches {
            let header = &batch.header;
            let readable = header.next_offset() > log_start && header.next_offset() <= to;
            if header.attributes.is_raft_only() || !readable || header.max_timestamp <= highest {
                continue;
            }
            if header.base_offset >= log_start {
                highest = header.max_timestamp;
            } else {
                let newest = newest_from(&block.batch(batch), header, log_start);
                highest = highest.max(newest);
            }
        }
        number = block.next_entry;
    }
    Ok(highest)
}

/// The highest timestamp of a batch's records from an offset on. A batch that cannot be opened answers by its header.
fn newest_from(batch: &[u8], header: &BatchHeader, from: Offset) -> Timestamp {
    let Ok(records) = records(batch, DecompressLimit(MAX_OPENED_BYTES)) else { return header.max_timestamp };
    let mut newest = Timestamp::NONE;
    for record in records.iter() {
        let Ok(record) = record else { return header.max_timestamp };
        if record.offset(header) >= from {
            newest = newest.max(record.timestamp(header));
        }
    }
    newest
}

fn first_in_segment(
    plan: &ColdPlan,
    time: Timestamp,
    log_start: Offset,
    to: Offset,
    liars: &mut usize,
) -> Result<Option<Found>, SegmentError> {
    let view = plan.open()?;
    let mut number = view.floor(|entry| entry.max_timestamp_before < time)?.unwrap_or(0);
    while number < view.index.len() {
        let block = view.load(number, BLOCK_BYTES)?;
        for batch in &block.batches {
            let header = &batch.header;
            if header.attributes.is_raft_only() || header.max_timestamp < time || header.next_offset() <= log_start {
                continue;
            }
            if header.next_offset() > to || *liars == MAX_LIARS {
                return Ok(None);
            }
            if let Some(found) = first_record(&block.batch(batch), header, log_start, |timestamp| timestamp >= time) {
                return Ok(Some(found));
            }
            *liars += 1;
        }
        number = block.next_entry;
    }
    Ok(None)
}

/// The first record of a batch whose timestamp is wanted. A batch that cannot be opened answers by its header: it is
/// what the producer sent, and a consumer will see the same.
fn first_record(
    batch: &[u8],
    header: &BatchHeader,
    log_start: Offset,
    wanted: impl Fn(Timestamp) -> bool,
) -> Option<Found> {
    let leader_epoch: LeaderEpoch = header.leader_epoch;
    let whole = Found { offset: header.base_offset, timestamp: header.max_timestamp, leader_epoch };
    let Ok(records) = records(batch, DecompressLimit(MAX_OPENED_BYTES)) else { return Some(whole) };
    for record in records.iter() {
        let Ok(record) = record else { return Some(whole) };
        let (offset, timestamp) = (record.offset(header), record.timestamp(header));
        if offset >= log_start && wanted(timestamp) {
            return Some(Found { offset, timestamp, leader_epoch });
        }
    }
    None
}
