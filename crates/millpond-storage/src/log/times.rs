//! Look-ups by time (Kafka's ListOffsets).
//!
//! The index tells the max timestamp of all that lies before each entry, so the block in which it reaches a time is
//! found by a binary search; then the batch by its header, then the record. Only the batch that holds the answer is
//! opened, as a rule: a compressed batch whose header promises a time that no record has costs one more.

use millpond_record::{
    BatchHeader, DecompressLimit, LeaderEpoch, Offset, StampedBatch, Timestamp, TimestampType, records,
};

use super::Log;
use super::cold::ColdPlan;
use super::read::{Read, ReadError};
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
pub(super) const BLOCK_BYTES: usize = 256 << 10;

/// The longest batch that is opened, in bytes after decompression.
pub(super) const MAX_OPENED_BYTES: usize = 256 << 20;

/// The longest batch that is opened for the time of one record alone.
const MAX_GLANCED_BYTES: usize = 16 << 20;

impl Log {
    /// The first record with a timestamp of at least `time`, among those below `to`. Blocks.
    ///
    /// # Errors
    ///
    /// What a read of the segments says.
    pub fn offset_for_timestamp(&self, time: Timestamp, to: Offset) -> Result<Option<Found>, StorageError> {
        self.while_segments_go(|| self.find_time(time, to))
    }

    /// The first record at or after an offset, of those below `to`: what a consumer reads next. Reads one batch, and
    /// opens it only when the offset lies within it; one that is too large to be opened, or cannot be, answers with the
    /// time of its first record. Blocks.
    ///
    /// # Errors
    ///
    /// As for [`Log::read`] and the read that it may give.
    pub fn first_from(&self, from: Offset, to: Offset) -> Result<Option<Found>, ReadError> {
        let chunks = match self.read(from, to, 1, true)? {
            Read::Ready(chunks) => chunks,
            Read::Cold(cold) => cold.run()?,
        };
        let batch = chunks.concat();
        let Ok(header) = BatchHeader::read(&batch) else { return Ok(None) };
        let first_time = match header.attributes.timestamp_type() {
            TimestampType::CreateTime => header.base_timestamp,
            TimestampType::LogAppendTime => header.max_timestamp,
        };
        let (leader_epoch, offset) = (header.leader_epoch, header.base_offset.max(from));
        let by_header = Found { offset, timestamp: first_time, leader_epoch };
        if header.base_offset >= from && !header.attributes.has_delete_horizon() {
            return Ok(Some(by_header));
        }
        let Ok(records) = records(&batch, DecompressLimit(MAX_GLANCED_BYTES)) else { return Ok(Some(by_header)) };
        let found = records.iter().map_while(Result::ok).find(|record| record.offset(&header) >= from);
        Ok(Some(found.map_or(by_header, |record| Found {
            offset: record.offset(&header),
            timestamp: record.timestamp(&header),
            leader_epoch,
        })))
    }

    fn find_time(&self, time: Timestamp, to: Offset) -> Result<Option<Found>, StorageError> {
        let (plans, tail, log_start) = self.candidates(|max| max >= time, to)?;
        let mut liars = 0;
        for plan in &plans {
            let max = self.with_index(&plan.segment, || plan.max_timestamp());
            if max.map_err(|error| self.segment_error(error))? >= time {
                self.opened(plan);
                let found = self.with_index(&plan.segment, || first_in_segment(plan, time, log_start, to, &mut liars));
                if let Some(found) = found.map_err(|error| self.segment_error(error))? {
                    return Ok(Some(found));
                }
            }
            // What cannot be read might have been the answer.
            plan.segment.check_readable_to(to).map_err(|error| self.segment_error(error))?;
        }
        let in_tail = tail.iter().find_map(|batch| {
            first_record(&batch.to_bytes(), &batch.header(), log_start, |timestamp| timestamp >= time)
        });
        Ok(in_tail.filter(|found| found.offset < to))
    }

    /// Looks again if a segment went under the look-up because the log start moved.
    pub(super) fn while_segments_go(
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

fn first_in_segment(
    plan: &ColdPlan,
    time: Timestamp,
    log_start: Offset,
    to: Offset,
    liars: &mut usize,
) -> Result<Option<Found>, SegmentError> {
    let view = plan.open()?;
    let reaches = view.floor(|entry| entry.max_timestamp_before < time)?;
    let mut number = reaches.max(view.floor(|entry| entry.offset <= log_start)?).unwrap_or(0);
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
