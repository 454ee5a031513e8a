//! One partition log: append, truncate, commit, read, look up.
//!
//! A [`Log`] is state in memory behind one mutex ([`state`]), the segment files that are written behind it
//! ([`persist`]), and recovery ([`open`], [`replay`]). The mutex is held for memory work only; the two exceptions are a
//! truncation of entries that left the tail cache and the look-up of where P is, which read a block of a segment.
//!
//! Order: an append, truncation or vote is handed to the journal while the mutex is held, so the order of the journal
//! is the order of the log. Files are written under a second mutex that is always taken first.

mod ahead;
mod append;
mod buffers;
mod cold;
mod context;
mod file_run;
mod file_state;
mod install;
mod max_time;
mod mend;
mod open;
mod persist;
mod read;
mod replay;
mod retain;
mod ship;
mod snapshots;
mod stall;
mod state;
pub(crate) mod switch;
mod times;
mod truncate;
mod types;
mod void;

#[cfg(test)]
pub(crate) mod tests;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use millpond_record::{GroupId, LeaderEpoch, LogId, Offset, PartitionIndex, RaftIndex, ReplicaId, Timestamp, TopicId};

pub use ahead::ReadAhead;
pub(crate) use context::LogContext;
pub use file_run::FileRun;
pub use install::{Installation, Wanted};
pub(crate) use max_time::LookedThrough;
pub(crate) use persist::Written;
pub use read::{ColdEntries, ColdRead, Entries, Piece, Read, ReadError};
pub(crate) use replay::{Action, Replayed, Where, decide};
pub use retain::Freeing;
pub(crate) use retain::may_be_first;
pub use ship::Shipment;
pub(crate) use stall::{is_passing, is_too_many_files};
pub use types::{AppendEntry, Body, Found, Frontiers, Outcome, Proposal, SequenceError, Stored, StoredEntry};
pub use void::{VoidReason, log_start_payload};

use crate::StorageError;
use crate::journal::JournalEntry;
use crate::producer::ActiveProducer;
use crate::segment::{Segment, SegmentError};
use crate::types::{Done, GroupRow, LogOptions, LogPosition, Taint, Vote};
use file_state::FileState;
use ship::Pins;
use state::LogState;

/// What a log is, as opposed to how far it is.
#[derive(Clone, Debug)]
struct Identity {
    group: GroupId,
    topic: String,
    partition: PartitionIndex,
    topic_id: TopicId,
    replica: ReplicaId,
}

/// The log of one partition. All methods take `&self` and may be called from any thread.
///
/// Unless a method says that it blocks it does memory work only and may be called on a runtime thread.
pub struct Log {
    context: Arc<LogContext>,
    identity: Identity,
    folder: Arc<Path>,
    retired: Arc<AtomicBool>,
    me: Weak<Log>,
    state: Mutex<LogState>,
    /// Taken before `state` by whoever touches the files.
    files: Mutex<FileState>,
    /// Who is at the files for long: a checkpoint, which also syncs some of them without the mutex, or who replaces an
    /// index. The journal does not wait for them.
    syncing: AtomicUsize,
    /// Taken before `files` by who proves a segment whose index is damaged: others then find it mended.
    mending: Mutex<()>,
    /// Closed segments that are open for reads, the longest unused first.
    recent: Mutex<VecDeque<Arc<Segment>>>,
    /// Installations that were begun and not dropped.
    filling: AtomicUsize,
    /// Held, and taken before `files`, by who touches the files of received segments.
    receiving: Mutex<()>,
    /// Behind the entry up to which the log must be committed for received segments beside it to be of no use; 0 when
    /// there are none.
    leftover: AtomicU64,
    /// Taken last.
    pins: Mutex<Pins>,
    /// Whether it waits in the writer's queues: of urgent logs, of dirty ones.
    pub(crate) queued: AtomicBool,
    pub(crate) listed: AtomicBool,
}

impl Log {
    /// The group.
    pub fn group(&self) -> GroupId {
        self.identity.group
    }

    fn state(&self) -> MutexGuard<'_, LogState> {
        // A panic while the mutex is held is a broken invariant; the log answers no one after it.
        self.state.lock().unwrap_or_else(|_| panic!("the state of the log of group {} is broken", self.identity.group))
    }

    fn files(&self) -> MutexGuard<'_, FileState> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn recent(&self) -> MutexGuard<'_, VecDeque<Arc<Segment>>> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_readable(&self, state: &LogState) -> Result<(), StorageError> {
        if self.retired.load(Ordering::Acquire) {
            return Err(StorageError::LogClosed(self.identity.group));
        }
        if state.set_aside { Err(StorageError::SetAside(self.identity.group)) } else { Ok(()) }
    }

    fn check_open(&self, state: &LogState) -> Result<(), StorageError> {
        self.check_readable(state)?;
        if self.context.closing() {
            return Err(StorageError::Closed(self.context.root.clone()));
        }
        state.failed.clone().map_or(Ok(()), Err)
    }

    fn check_not_installing(&self, state: &LogState) -> Result<(), StorageError> {
        match state.installing {
            Some(_) => Err(StorageError::Installing(self.identity.group)),
            None => Ok(()),
        }
    }

    fn corrupt(&self, what: impl Into<String>) -> StorageError {
        StorageError::Corrupt { group: self.identity.group, what: what.into() }
    }

    fn segment_error(&self, error: SegmentError) -> StorageError {
        match error {
            SegmentError::Io { operation, path, source } => StorageError::Io { operation, path, source },
            SegmentError::Closed => StorageError::LogClosed(self.identity.group),
            damaged => self.corrupt(damaged.to_string()),
        }
    }

    /// Has the operator told of damage; see [`WriteTroubles`](crate::WriteTroubles).
    pub(crate) fn tell(&self, what: String) {
        self.context.writer.damaged(self.identity.group, what);
    }

    /// How far the log is.
    pub fn frontiers(&self) -> Frontiers {
        self.state().frontiers()
    }

    /// Everything up to and including `index` is committed: moves the high watermark, the producers' committed state,
    /// the membership and the log start. An index beyond the log's end commits up to the end; one that is committed
    /// already changes nothing.
    pub fn commit(&self, index: RaftIndex) -> Frontiers {
        let mut state = self.state();
        state.commit(index);
        state.frontiers()
    }

    /// The latest vote, durable or not.
    pub fn vote(&self) -> Vote {
        self.state().vote
    }

    /// Replaces the vote; `done` is called when it is durable.
    pub fn save_vote(&self, vote: Vote, done: Done) {
        // The journal drops what it refuses, and nothing may be called under the mutex.
        let shared = Arc::new(Mutex::new(Some(done)));
        let take = |shared: &Mutex<Option<Done>>| shared.lock().unwrap_or_else(PoisonError::into_inner).take();
        let later = shared.clone();
        let forward: Done = Box::new(move |result| {
            if let Some(done) = take(&later) {
                done(result);
            }
        });
        let submitted = {
            let mut state = self.state();
            self.check_open(&state).and_then(|()| {
                let entry = JournalEntry::Vote { group: self.identity.group, vote };
                self.context.journal.submit(vec![entry], Some(forward))?;
                state.vote = vote;
                Ok(())
            })
        };
        if let Err(error) = submitted
            && let Some(done) = take(&shared)
        {
            done(Err(error));
        }
    }

    /// The purged position P: everything up to and including it is behind a snapshot.
    pub fn purged(&self) -> Option<LogPosition> {
        self.state().purged
    }

    /// The membership as of P, as it was given to [`Log::advance_p`]; empty while nothing was purged.
    pub fn membership_at_p(&self) -> Bytes {
        self.state().membership_at_p.clone()
    }

    /// The latest membership in the log, committed or not, and the entry that brought it (unknown for one that was only
    /// kept in the table). Empty while there is none.
    pub fn membership(&self) -> (Option<LogId>, Bytes) {
        self.state().latest_membership()
    }

    /// The membership in force at a committed entry at or behind P, as far as the log remembers: where it changed
    /// between P and what was committed at the last start, the one of then.
    pub fn membership_as_of(&self, index: RaftIndex) -> Bytes {
        self.state().membership_as_of(index)
    }

    /// The membership in force at the last committed entry; empty while there is none.
    pub fn committed_membership(&self) -> Bytes {
        self.state().membership.1.clone()
    }

    /// Whether a leader may put a batch into the log now.
    ///
    /// # Errors
    ///
    /// [`StorageError::Stalled`] while its segments cannot be written; what ended the log.
    pub fn check_takes_batches(&self) -> Result<(), StorageError> {
        let state = self.state();
        self.check_open(&state)?;
        self.check_stalled(&state)
    }

    /// Replaces the committed membership, which [`GroupRow::membership`] keeps. Appended membership entries do this by
    /// themselves when they are committed.
    pub fn set_membership(&self, membership: Bytes) {
        let mut state = self.state();
        let at = state.committed;
        state.memberships.extend(at.map(|at| (at.index, membership.clone())));
        state.membership = (at, membership);
    }

    /// The longest batch that can be appended, in bytes.
    pub fn max_batch_bytes(&self) -> u64 {
        self.context.journal.max_batch_bytes()
    }

    /// The index of the first entry that the log has.
    #[cfg(test)]
    pub(crate) fn first_index(&self) -> RaftIndex {
        let state = self.state();
        state.segments.first().map_or(state.next_index(), |segment| segment.name.first_index)
    }

    /// The log's settings.
    pub fn options(&self) -> LogOptions {
        self.state().options
    }

    /// The log id of an entry that the log has, or of P.
    pub fn log_id_at(&self, index: RaftIndex) -> Option<LogId> {
        self.state().log_id_at(index)
    }

    /// The leader epoch of the data batch at an offset, or of the next one at the log's end. `None` in an empty log.
    pub fn leader_epoch_at(&self, offset: Offset) -> Option<LeaderEpoch> {
        let state = self.state();
        let after = state.epochs.partition_point(|epoch| epoch.offset <= offset);
        after.checked_sub(1).map(|at| state.epochs[at].term.leader_epoch())
    }

    /// Where an epoch ends: the largest known epoch that is not above it, and the offset after its last record (Kafka's
    /// OffsetForLeaderEpoch, `LeaderEpochFileCache.endOffsetFor`). For an epoch older than all it is that epoch itself
    /// and the log start. For one newer than all, it is the newest and the log end: a term may end before it has an
    /// entry, and only the caller knows which terms there were. `None` in an empty log.
    pub fn epoch_end_offset(&self, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        let state = self.state();
        if state.epochs.is_empty() {
            return None;
        }
        let after = state.epochs.partition_point(|start| start.term.leader_epoch() <= epoch);
        let end = state.epochs.get(after).map_or(state.log_end, |next| next.offset);
        match after.checked_sub(1) {
            Some(at) => Some((state.epochs[at].term.leader_epoch(), end.max(state.log_start))),
            None => Some((epoch, state.log_start)),
        }
    }

    /// Forgets producers that were silent since before `before` (leader's append times); tells how many. All replicas
    /// must do it at the same place of the log.
    pub fn expire_producers(&self, before: Timestamp) -> usize {
        self.state().producers.expire(before)
    }

    /// The idempotent producers that are remembered, in order of their ids.
    pub fn producers(&self) -> Vec<ActiveProducer> {
        self.state().producers.list()
    }

    /// How many idempotent producers are remembered.
    pub fn producer_count(&self) -> usize {
        self.state().producers.len()
    }

    /// Lets go of cached batches up to `written` that are in their segment; returns their cost.
    pub(crate) fn evict(&self, written: RaftIndex) -> u64 {
        self.state().evict(written)
    }

    /// The row as the memory has it. Its `durable` is what was synced last.
    pub fn row(&self) -> GroupRow {
        let state = self.state();
        let mut row = self.capture(&state);
        row.durable = state.synced;
        row
    }

    fn capture(&self, state: &LogState) -> GroupRow {
        let identity = self.identity.clone();
        GroupRow {
            group: identity.group,
            topic: identity.topic,
            partition: identity.partition,
            topic_id: identity.topic_id,
            replica: identity.replica,
            vote: state.vote,
            purged: state.purged,
            membership_at_p: state.membership_at_p.clone(),
            membership: state.membership.1.clone(),
            log_start: state.log_start,
            log_end: state.log_end,
            committed: state.committed,
            last: state.last,
            durable: persist::end_of(state),
            epochs: state.epochs.clone(),
            journal_sequence: self.context.journal.next_sequence(),
            set_aside: state.set_aside,
            taint: Taint::None,
            options: state.options,
            retained: state.retained(),
        }
    }
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        let cost = state.tail.iter().map(|cached| cached.cost).sum();
        if let Some(stall) = state.stall.take() {
            self.context.cache.resumed(stall.dirty_bytes());
        }
        self.context.cache.removed(cost, state.dirty_bytes);
    }
}
