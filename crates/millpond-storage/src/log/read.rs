//! Reading: from the tail cache when the batches are there, else from the segments.
//!
//! Batches that are read from a file are proven on every read (CRC and running hash, see
//! [`SegmentView::prove_into`](crate::segment::SegmentView::prove_into)): a bit that flipped on disk is found before it
//! is served. Long runs are then sent from the file itself, out of the page cache that was just proven
//! ([`FileRun`]): neither this process's memory nor its processor time pays for them twice.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use millpond_record::{GroupId, HEADER_BYTES, LogId, Offset, RaftIndex, StampedBatch, Term, Timestamp};
use millpond_runtime::File;

use super::Log;
use super::ahead::{Place, ReadAhead};
use super::cold::ColdPlan;
use super::file_run::{FileRun, PlacedRun};
use super::state::LogState;
use super::types::StoredEntry;
use crate::StorageError;
use crate::segment::{BlockBatch, ProvenRun, SegmentError};

/// Records smaller than this are copied next to their header: two chunks per small batch cost more than the copy.
const COPIED_TAIL_BYTES: usize = 1024;

/// Runs of at least this length are sent from the file; shorter ones share a vectored write with their neighbours.
pub(super) const SENT_BYTES: usize = 64 << 10;

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

/// A run of whole data batches that were read from a file.
#[derive(Clone, Debug)]
pub enum Piece {
    /// In memory.
    Memory(Bytes),
    /// Proven, and left in the file.
    File(FileRun),
}

impl Piece {
    /// The length in bytes.
    pub fn len(&self) -> usize {
        match self {
            Piece::Memory(bytes) => bytes.len(),
            Piece::File(run) => run.len(),
        }
    }

    /// Whether there is no batch in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
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

    /// When the entries from `from` on were appended by their leader, `most` at most: as many as are in the tail cache
    /// without a gap. What has left the cache keeps its time only as far as the index tells.
    pub fn append_times(&self, from: RaftIndex, most: usize) -> Vec<Timestamp> {
        let state = self.state();
        let cached = (from.0..).take(most).map_while(|index| state.cached(RaftIndex(index)));
        cached.map(|cached| cached.append_time).collect()
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
    /// Reads into memory. Blocks; reads `max_bytes` at most, or one batch and what is between two index entries if that
    /// is more. Gives nothing if what was asked for was truncated meanwhile.
    ///
    /// # Errors
    ///
    /// [`ReadError::OutOfRange`] if the log start has moved beyond what was asked for and its segment is gone.
    /// [`StorageError::Corrupt`] names the segment and the position where the disk returned something else than what
    /// was written; [`StorageError::Io`], [`StorageError::LogClosed`].
    pub fn run(self) -> Result<Vec<Bytes>, ReadError> {
        let in_memory = |piece| match piece {
            Piece::Memory(bytes) => bytes,
            Piece::File(_) => unreachable!("only a read for sending leaves batches in the file"),
        };
        Ok(self.pieces(usize::MAX, None)?.into_iter().map(in_memory).collect())
    }

    pub(super) fn place(&self) -> Place {
        Place { group: self.log.identity.group, from: self.from, truncations: self.truncations }
    }

    /// Reads for a socket: proves the batches as [`ColdRead::run`] does, and leaves long runs where they are. Gives
    /// also what should be read while they are sent, if there is more and not too much of that is going on already.
    /// `now` is the time on the monotonic clock: what was proven is used only for a short time.
    ///
    /// # Errors
    ///
    /// As for [`ColdRead::run`].
    pub fn run_for_sending(self, now: Instant) -> Result<(Vec<Piece>, Option<ReadAhead>), ReadError> {
        let (log, to, max_bytes) = (Arc::clone(&self.log), self.to, self.max_bytes);
        let pieces = match log.context.ahead.take(self.place(), to, max_bytes, now) {
            Some(pieces) => pieces,
            None => self.pieces(SENT_BYTES, Some(now))?,
        };
        let ahead = match pieces.last() {
            Some(Piece::File(run)) if run.next_offset() < to => ReadAhead::of(log, run.next_offset(), to, max_bytes),
            _ => None,
        };
        Ok((pieces, ahead))
    }

    fn pieces(self, left_from: usize, now: Option<Instant>) -> Result<Vec<Piece>, ReadError> {
        let mut cold = self;
        for _ in 0..TRUNCATED_READS {
            match cold.log.with_index(&cold.plan.segment, || cold.read(left_from)) {
                Ok(found) => return Ok(found.into_pieces(cold.log.identity.group, now)),
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
                Ok(Read::Ready(chunks)) => return Ok(chunks.into_iter().map(Piece::Memory).collect()),
                Err(ReadError::OutOfRange { log_end, .. }) if cold.from > log_end => return Ok(Vec::new()),
                Err(error) => return Err(error),
            };
        }
        Err(cold.log.corrupt("batches were truncated under every attempt to read them").into())
    }

    /// Runs of `left_from` bytes or more are left in the file, if it can send them.
    pub(super) fn read(&self, left_from: usize) -> Result<FoundParts, SegmentError> {
        let view = self.plan.open()?;
        self.log.opened(&self.plan);
        let left_from = if view.log.descriptor().is_some() { left_from } else { usize::MAX };
        let mut number = view.floor(|entry| entry.offset <= self.from)?.unwrap_or(0);
        while number < view.index.len() {
            if left_from > self.max_bytes {
                // The buffer becomes the answer.
                let block = view.load(number, self.max_bytes)?;
                if let Some(runs) = self.runs(&block.batches) {
                    let parts = runs.into_iter().map(|run| Part::Memory(block.bytes.slice(run.bytes))).collect();
                    return Ok(FoundParts { file: view.log, parts });
                }
                number = block.next_entry;
                continue;
            }
            let (parts, next) = self.log.context.proving.with(|buffer| {
                let proven = view.prove_into(buffer, number, self.max_bytes)?;
                let part = |run: Run| match run.bytes.len() >= left_from {
                    true => Part::Left(run.placed(&proven)),
                    false => Part::Memory(Bytes::copy_from_slice(&buffer[run.bytes])),
                };
                let runs = self.runs(&proven.batches);
                Ok((runs.map(|runs| runs.into_iter().map(part).collect()), proven.next_entry))
            })?;
            if let Some(parts) = parts {
                return Ok(FoundParts { file: view.log, parts });
            }
            number = next;
        }
        Err(view.segment.damaged(view.end.into(), "a batch that should be in it is missing"))
    }

    /// What of a block is to be handed out, as runs of adjacent batches. `None` if the block ends before it begins; an
    /// empty list if nothing may be handed out.
    fn runs(&self, batches: &[BlockBatch]) -> Option<Vec<Run>> {
        let (mut runs, mut bytes): (Vec<Run>, usize) = (Vec::new(), 0);
        for batch in batches {
            let (at, size) = (batch.at as usize, batch.header.size_bytes as usize);
            let next_offset = batch.header.next_offset();
            if batch.header.attributes.is_raft_only() || next_offset <= self.from {
                continue;
            }
            let fits = bytes + size <= self.max_bytes || (bytes == 0 && self.whole_first);
            if next_offset > self.to || !fits {
                return Some(runs);
            }
            match runs.last_mut() {
                Some(run) if run.bytes.end == at => {
                    run.bytes.end += size;
                    run.next_offset = next_offset;
                    run.hashes.1 = batch.hashes.1;
                }
                _ => {
                    runs.push(Run { bytes: at..at + size, next_offset, first_index: batch.index, hashes: batch.hashes })
                }
            }
            bytes += size;
        }
        (!runs.is_empty()).then_some(runs)
    }
}

/// Adjacent batches of a block.
struct Run {
    /// Where they are in the block.
    bytes: Range<usize>,
    /// The offset behind the last of them.
    next_offset: Offset,
    first_index: RaftIndex,
    hashes: (u64, u64),
}

impl Run {
    fn placed(&self, proven: &ProvenRun) -> PlacedRun {
        let position = u64::from(proven.position) + self.bytes.start as u64;
        let Run { next_offset, first_index, hashes, .. } = *self;
        PlacedRun { position, length: self.bytes.len(), next_offset, first_index, hashes }
    }
}

/// What a read has found in one segment.
pub(super) struct FoundParts {
    pub(super) file: Arc<dyn File>,
    pub(super) parts: Vec<Part>,
}

/// A run of whole data batches.
pub(super) enum Part {
    Memory(Bytes),
    Left(PlacedRun),
}

impl Part {
    pub(super) fn left(self) -> Option<PlacedRun> {
        match self {
            Part::Left(run) => Some(run),
            Part::Memory(_) => None,
        }
    }
}

impl FoundParts {
    /// `now`: when it was proven; without it nothing is left in the file.
    fn into_pieces(self, group: GroupId, now: Option<Instant>) -> Vec<Piece> {
        let FoundParts { file, parts } = self;
        let piece = |part| match (part, now) {
            (Part::Memory(bytes), _) => Some(Piece::Memory(bytes)),
            (Part::Left(run), Some(proven_at)) => {
                Some(Piece::File(FileRun { group, file: Arc::clone(&file), run, proven_at, sent: 0 }))
            }
            (Part::Left(_), None) => None,
        };
        parts.into_iter().filter_map(piece).collect()
    }
}

impl ColdEntries {
    /// Reads. Blocks; takes memory as [`ColdRead::run`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn run(self) -> Result<Vec<StoredEntry>, StorageError> {
        self.run_with_time().map(|(entries, _)| entries)
    }

    /// Reads. Tells also when the first of them was appended by its leader, as far as the index tells: that, or the
    /// time of one shortly before it; none was appended earlier.
    ///
    /// # Errors
    ///
    /// As for [`ColdEntries::run`].
    pub fn run_with_time(self) -> Result<(Vec<StoredEntry>, Timestamp), StorageError> {
        let mut cold = self;
        for _ in 0..TRUNCATED_READS {
            match cold.log.with_index(&cold.plan.segment, || cold.read()) {
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
                Entries::Ready(entries) => {
                    let time = log.append_times(cold.from, 1).first().copied().unwrap_or(Timestamp::NONE);
                    return Ok((entries, time));
                }
                Entries::Cold(again) => again,
            };
        }
        Err(cold.log.corrupt("entries were truncated under every attempt to read them"))
    }

    fn read(&self) -> Result<(Vec<StoredEntry>, Timestamp), SegmentError> {
        let view = self.plan.open()?;
        self.log.opened(&self.plan);
        let number = view.floor(|entry| entry.index <= self.from)?.unwrap_or(0);
        let time = view.index.entry(number).map_err(|error| view.segment.index_error(error))?.append_time;
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
        Ok((entries, time))
    }
}
