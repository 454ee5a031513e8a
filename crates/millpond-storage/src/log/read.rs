//! Reading: from the tail cache when the batches are there, else from the segments.
//!
//! Batches that are read from a file are proven on every read (CRC and running hash, see
//! [`SegmentView::load`](crate::segment::SegmentView::load)): a bit that flipped on disk is found before it is served.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use millpond_record::{HEADER_BYTES, LogId, Offset, RaftIndex, StampedBatch, Term};

use super::Log;
use super::cold::ColdPlan;
use super::state::LogState;
use super::types::StoredEntry;
use crate::StorageError;
use crate::segment::SegmentError;

/// Records smaller than this are copied next to their header: two chunks per small batch cost more than the copy.
const COPIED_TAIL_BYTES: usize = 1024;

/// How often a read is planned anew when a truncation changes the files under it.
const TRUNCATED_READS: usize = 8;

/// Why nothing can be read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    /// The offset is not in the log.
    #[error("the offset is not in the log, which has {log_start} to {log_end}")]
    OutOfRange {
        /// The first offset that may be read.
        log_start: Offset,
        /// The offset that the next data batch takes: it may be read, and is empty.
        log_end: Offset,
    },
    /// The log cannot be read.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Batches by offset.
#[derive(Debug)]
pub enum Read {
    /// Whole data batches, as chunks to be sent one behind the other. Empty if there is none in the range.
    Ready(Vec<Bytes>),
    /// They left the tail cache: run it where blocking is allowed.
    Cold(ColdRead),
}

/// Entries by Raft index.
#[derive(Debug)]
pub enum Entries {
    /// Consecutive entries, the Raft-only ones too. At least the first one asked for, if the log has it.
    Ready(Vec<StoredEntry>),
    /// They left the tail cache: run it where blocking is allowed.
    Cold(ColdEntries),
}

/// A read that needs the disk.
pub struct ColdRead {
    log: Arc<Log>,
    plan: ColdPlan,
    from: Offset,
    to: Offset,
    max_bytes: usize,
    whole_first: bool,
    truncations: u64,
}

/// A read of entries that needs the disk.
pub struct ColdEntries {
    log: Arc<Log>,
    plan: ColdPlan,
    from: RaftIndex,
    to: RaftIndex,
    max_bytes: usize,
    truncations: u64,
}

impl std::fmt::Debug for ColdRead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ColdRead").field("log", &self.log).field("from", &self.from).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for ColdEntries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ColdEntries").field("log", &self.log).field("from", &self.from).finish_non_exhaustive()
    }
}

impl Log {
    /// Reads whole data batches from the one that holds `from` on, as long as they end at or before `to` (exclusive;
    /// the high watermark for a consumer) and fit into `max_bytes`. With `whole_first` the first batch comes whatever
    /// its size. Raft-only entries are left out.
    ///
    /// # Errors
    ///
    /// [`ReadError::OutOfRange`] below the log start or above the log's end.
    pub fn read(&self, from: Offset, to: Offset, max_bytes: usize, whole_first: bool) -> Result<Read, ReadError> {
        let state = self.state();
        if from < state.log_start || from > state.log_end {
            return Err(ReadError::OutOfRange { log_start: state.log_start, log_end: state.log_end });
        }
        let to = to.min(state.log_end);
        if from >= to {
            return Ok(Read::Ready(Vec::new()));
        }
        if state.tail.front().is_some_and(|front| front.base_offset <= from) {
            return Ok(Read::Ready(read_tail(&state, from, to, max_bytes, whole_first)));
        }
        // The tail of a log that was set aside is gone.
        self.check_readable(&state)?;
        let at = state.segments.partition_point(|segment| segment.name.base_offset <= from).saturating_sub(1);
        let plan = ColdPlan::of(&state, at).ok_or_else(|| self.corrupt(format!("offset {from} is in no segment")))?;
        let log = self.arc()?;
        let truncations = state.truncations;
        Ok(Read::Cold(ColdRead { log, plan, from, to, max_bytes, whole_first, truncations }))
    }

    /// Reads entries by Raft index, `from` up to `to` (exclusive), about `max_bytes` of them but at least one. Entries
    /// that the log does not have are left out.
    ///
    /// # Errors
    ///
    /// When the log was closed.
    pub fn entries(&self, from: RaftIndex, to: RaftIndex, max_bytes: usize) -> Result<Entries, StorageError> {
        let state = self.state();
        let to = to.min(state.next_index());
        let first = state.segments.first().map_or(state.next_index(), |segment| segment.name.first_index);
        if from >= to || from < first {
            return Ok(Entries::Ready(Vec::new()));
        }
        if from >= state.tail_first() {
            let (mut entries, mut bytes) = (Vec::new(), 0);
            for index in from.0..to.0 {
                let index = RaftIndex(index);
                let (Some(cached), Some(term)) = (state.cached(index), state.term_at(index)) else { break };
                bytes += cached.batch.size_bytes();
                if bytes > max_bytes && !entries.is_empty() {
                    break;
                }
                entries.push((LogId { term, index }, cached.batch.clone()));
            }
            return Ok(Entries::Ready(entries));
        }
        self.check_readable(&state)?;
        let at = state.segments.partition_point(|segment| segment.name.first_index <= from).saturating_sub(1);
        let plan = ColdPlan::of(&state, at).ok_or_else(|| self.corrupt(format!("entry {from} is in no segment")))?;
        let log = self.arc()?;
        Ok(Entries::Cold(ColdEntries { log, plan, from, to, max_bytes, truncations: state.truncations }))
    }

    pub(super) fn arc(&self) -> Result<Arc<Log>, StorageError> {
        self.me.upgrade().ok_or(StorageError::LogClosed(self.identity.group))
    }
}

/// Batches of the tail: headers and small batches together in one allocation, the rest of large ones shared.
fn read_tail(state: &LogState, from: Offset, to: Offset, max_bytes: usize, whole_first: bool) -> Vec<Bytes> {
    let start = state.tail.partition_point(|cached| cached.next_offset <= from);
    let (mut chunks, mut run, mut bytes) = (Vec::new(), BytesMut::new(), 0);
    for cached in state.tail.range(start..).filter(|cached| !cached.raft_only) {
        let size = cached.batch.size_bytes();
        let first = bytes == 0;
        if cached.next_offset > to || (bytes + size > max_bytes && !(first && whole_first)) {
            break;
        }
        if first {
            run.reserve(HEADER_BYTES + size.min(COPIED_TAIL_BYTES));
        }
        bytes += size;
        run.extend_from_slice(cached.batch.head());
        let tail = cached.batch.tail();
        if tail.len() < COPIED_TAIL_BYTES {
            run.extend_from_slice(tail);
        } else {
            chunks.push(run.split().freeze());
            chunks.push(tail.clone());
        }
    }
    if !run.is_empty() {
        chunks.push(run.freeze());
    }
    chunks
}

impl ColdRead {
    /// Reads. Blocks; reads `max_bytes` at most, or one batch and what is between two index entries if that is more.
    /// Gives nothing if what was asked for was truncated meanwhile.
    ///
    /// # Errors
    ///
    /// [`ReadError::OutOfRange`] if the log start has moved beyond what was asked for and its segment is gone.
    /// [`StorageError::Corrupt`] names the segment and the position where the disk returned something else than what
    /// was written; [`StorageError::Io`], [`StorageError::LogClosed`].
    pub fn run(self) -> Result<Vec<Bytes>, ReadError> {
        let mut cold = self;
        for _ in 0..TRUNCATED_READS {
            match cold.chunks() {
                Ok(chunks) => return Ok(chunks),
                // The block may reach beyond what is committed, into what was truncated, or the segment may be gone
                // because it is below the log start; then it is not damage.
                Err(error) => {
                    let state = cold.log.state();
                    if state.truncations == cold.truncations && cold.from >= state.log_start {
                        drop(state);
                        return Err(cold.log.segment_error(error).into());
                    }
                }
            }
            let log = cold.log.clone();
            cold = match log.read(cold.from, cold.to, cold.max_bytes, cold.whole_first) {
                Ok(Read::Cold(again)) => again,
                Ok(Read::Ready(chunks)) => return Ok(chunks),
                Err(ReadError::OutOfRange { log_end, .. }) if cold.from > log_end => return Ok(Vec::new()),
                Err(error) => return Err(error),
            };
        }
        Err(cold.log.corrupt("batches were truncated under every attempt to read them").into())
    }

    fn chunks(&self) -> Result<Vec<Bytes>, SegmentError> {
        let view = self.plan.open()?;
        self.log.opened(&self.plan);
        let mut number = view.floor(|entry| entry.offset <= self.from)?.unwrap_or(0);
        let mut chunks = Vec::new();
        while number < view.index.len() && chunks.is_empty() {
            let block = view.load(number, self.max_bytes)?;
            let (mut run, mut bytes) = (0..0, 0);
            for batch in &block.batches {
                let (at, size) = (batch.at as usize, batch.header.size_bytes as usize);
                if batch.header.attributes.is_raft_only() || batch.header.next_offset() <= self.from {
                    continue;
                }
                let beyond = batch.header.next_offset() > self.to;
                if beyond || (bytes + size > self.max_bytes && !(bytes == 0 && self.whole_first)) {
                    if bytes == 0 {
                        return Ok(Vec::new());
                    }
                    break;
                }
                if run.end != at {
                    if !run.is_empty() {
                        chunks.push(block.bytes.slice(run));
                    }
                    run = at..at;
                }
                run.end += size;
                bytes += size;
            }
            if !run.is_empty() {
                chunks.push(block.bytes.slice(run));
            }
            number = block.next_entry;
        }
        if chunks.is_empty() {
            return Err(view.segment.damaged(view.end.into(), "a batch that should be in it is missing"));
        }
        Ok(chunks)
    }
}

impl ColdEntries {
    /// Reads. Blocks; takes memory as [`ColdRead::run`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn run(self) -> Result<Vec<StoredEntry>, StorageError> {
        let mut cold = self;
        for _ in 0..TRUNCATED_READS {
            match cold.read() {
                Ok(entries) => return Ok(entries),
                // A truncation may have changed the files under the read, or the segment may be gone because it is
                // below the log start; then it is not damage.
                Err(error) => {
                    let state = cold.log.state();
                    let first = state.segments.first().map(|segment| segment.name.first_index);
                    if state.truncations == cold.truncations && first.is_none_or(|first| first <= cold.from) {
                        drop(state);
                        return Err(cold.log.segment_error(error));
                    }
                }
            }
            let log = cold.log.clone();
            cold = match log.entries(cold.from, cold.to, cold.max_bytes)? {
                Entries::Ready(entries) => return Ok(entries),
                Entries::Cold(again) => again,
            };
        }
        Err(cold.log.corrupt("entries were truncated under every attempt to read them"))
    }

    fn read(&self) -> Result<Vec<StoredEntry>, SegmentError> {
        let view = self.plan.open()?;
        self.log.opened(&self.plan);
        let number = view.floor(|entry| entry.index <= self.from)?.unwrap_or(0);
        let block = view.load(number, self.max_bytes)?;
        let (mut entries, mut bytes) = (Vec::new(), 0);
        for batch in block.batches.iter().filter(|batch| batch.index >= self.from && batch.index < self.to) {
            bytes += batch.header.size_bytes as usize;
            if bytes > self.max_bytes && !entries.is_empty() {
                break;
            }
            let position = u64::from(batch.at);
            let stamped = StampedBatch::from_bytes(block.batch(batch))
                .map_err(|_| view.segment.damaged(position, "a proven batch does not parse"))?;
            let term = Term(batch.header.leader_epoch.0 as u64);
            entries.push((LogId { term, index: batch.index }, stamped));
        }
        if entries.is_empty() {
            return Err(view.segment.damaged(view.end.into(), "an entry that should be in it is missing"));
        }
        Ok(entries)
    }
}
