//! openraft's log storage on [`Log`]: every entry is one record batch.
//!
//! | entry | in the log |
//! | --- | --- |
//! | blank | Raft-only batch, no payload |
//! | membership | Raft-only batch, payload as in `membership.rs` |
//! | data, `Payload::Proposed` | the producer's batch, stamped in the append; a void entry if its sequence is refused |
//! | data, `Payload::Stored` | the batch as it is (the leader's log start, compaction step and void entries too) |
//!
//! Read back, everything but blanks and memberships is `Payload::Stored`; of a batch in the tail cache only the
//! header is copied.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds, RangeInclusive};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use millpond_record::{LogId, RaftIndex, RaftOnlyKind, StampedBatch, Timestamp, parse_raft_only};
use millpond_runtime::{PlantedFault, Runtime, planted};
use millpond_storage::{
    AppendEntry, Body, DataDir, Done, Entries, Hold, Log, Outcome, StorageError, Stored, log_start_payload,
};
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{EntryPayload, OptionalSend, RaftLogReader};
use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{Notify, oneshot};

use crate::error::ProposeError;
use crate::flights::Carrier;
use crate::membership;
use crate::receipt::Written;
use crate::replica::ReplicaState;
use crate::types::{
    Entry, Payload, RaftLogId, RaftVote, TypeConfig, from_raft, to_raft, vote_from_store, vote_to_store,
};

/// The bytes of entries that are read at a time: what one message to a peer carries, and the step of longer reads.
const READ_BYTES: usize = 1 << 20;

/// Between two looks at a log that is being switched over, which takes a few milliseconds.
const SWITCH_PAUSE: Duration = Duration::from_millis(2);
/// How long a vote waits for entries before it that are not in the journal. It takes a write to the page cache, or a
/// checkpoint if a membership is among them. On a full disk it may take for ever, and an answer that comes when the
/// candidate waits no more helps nobody.
pub(crate) const FLUSH_PATIENCE: Duration = Duration::from_millis(300);

/// The index behind an entry.
fn behind(id: Option<LogId>) -> RaftIndex {
    id.map_or(RaftIndex(0), |id| RaftIndex(id.index.0 + 1))
}

/// The log of one group as openraft sees it. A clone is the same log.
#[derive(Clone)]
pub(crate) struct LogStore {
    runtime: Runtime,
    data_dir: DataDir,
    log: Arc<Log>,
    replica: Arc<ReplicaState>,
    known: Arc<Mutex<Known>>,
    appends: Arc<Appends>,
}

/// What openraft has not been told yet of what it appended.
#[derive(Default)]
struct Appends {
    unflushed: AtomicUsize,
    /// One has failed; openraft hears of that in its own time.
    failed: AtomicBool,
    none_left: Notify,
    /// A vote went before some of them: later ones do not wait either, until none is left.
    overtaken: AtomicBool,
}

/// A proposal on its way into the log.
struct Proposed {
    /// Its place among the entries of the call.
    at: usize,
    index: RaftIndex,
    append_time: Timestamp,
    carrier: Arc<Carrier>,
}

/// An append that openraft waits for.
struct Appended {
    /// `None` when it was told already.
    callback: Option<IOFlushed<TypeConfig>>,
    holds: Vec<Hold>,
    data_dir: DataDir,
    unflushed: Unflushed,
}

/// One append that openraft has not been told of, until it is dropped.
struct Unflushed(Arc<Appends>);

impl Unflushed {
    fn new(all: &Arc<Appends>) -> Unflushed {
        all.unflushed.fetch_add(1, Ordering::AcqRel);
        Unflushed(Arc::clone(all))
    }
}

impl Drop for Unflushed {
    fn drop(&mut self) {
        if self.0.unflushed.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.overtaken.store(false, Ordering::Release);
            self.0.none_left.notify_waiters();
        }
    }
}

impl Appended {
    /// Tells openraft when it is flushed. A disk that is full for a while delays that: the entries are in the log, and
    /// an error would end the group here for good.
    fn when_flushed(self, log: Weak<Log>) -> Done {
        Box::new(move |result| match (result, log.upgrade()) {
            (Err(StorageError::Stalled { .. }), Some(open)) => open.notify_flushed(self.when_flushed(log)),
            (result, _) => self.tell(result),
        })
    }

    fn tell(self, result: Result<(), StorageError>) {
        if result.is_err() {
            self.unflushed.0.failed.store(true, Ordering::Release);
        }
        if let Some(callback) = self.callback {
            callback.io_completed(result.map_err(io_error));
        }
        for hold in self.holds {
            self.data_dir.release(hold);
        }
    }
}

/// What openraft has said, beyond what the log keeps.
#[derive(Default)]
struct Known {
    /// Up to where openraft wants to see no entry. At or above the log's P: P lies at segment boundaries only, and what
    /// lies between them is hidden here, which is lost and not missed on a restart.
    purged: Option<LogId>,
    /// The commit that openraft has saved. It reaches `groups.table` through the log's own, and is clamped to its end.
    committed: Option<LogId>,
    /// The replica's own vote for itself, on its way to the disk.
    candidacy: Option<oneshot::Receiver<Result<(), StorageError>>>,
}

/// What comes of a write to the journal.
async fn durable(written: oneshot::Receiver<Result<(), StorageError>>) -> Result<(), io::Error> {
    written.await.map_err(|_| io::Error::other("the data directory was closed"))?.map_err(io_error)
}

impl LogStore {
    pub(crate) fn new(runtime: Runtime, data_dir: DataDir, replica: Arc<ReplicaState>) -> LogStore {
        let log = Arc::clone(&replica.log);
        let purged = log.purged().map(|p| p.log_id());
        let committed = log.frontiers().committed;
        log.keep_entries_from(behind(purged));
        LogStore {
            runtime,
            data_dir,
            log,
            replica,
            known: Arc::new(Mutex::new(Known { purged, committed, candidacy: None })),
            appends: Arc::default(),
        }
    }

    /// openraft may append what comes behind a snapshot while the log is still being switched over to that.
    async fn until_filled(&self, next: Option<RaftIndex>) {
        while self.log.is_filling() && next.is_some_and(|next| next > self.log.next_index()) {
            self.runtime.sleep(SWITCH_PAUSE).await;
        }
    }

    /// Whether openraft has been told of all that it appended.
    pub(crate) fn has_told_all(&self) -> bool {
        self.appends.unflushed.load(Ordering::Acquire) == 0
    }

    /// Waits until openraft has been told of all that it appended, for [`FLUSH_PATIENCE`] at most.
    async fn until_flushed(&self) {
        let flushed = async {
            loop {
                let mut none_left = pin!(self.appends.none_left.notified());
                // From here on nothing is missed.
                none_left.as_mut().enable();
                if self.has_told_all() || self.appends.overtaken.load(Ordering::Acquire) {
                    return;
                }
                none_left.await;
            }
        };
        if self.runtime.timeout(FLUSH_PATIENCE, flushed).await.is_err() {
            self.appends.overtaken.store(true, Ordering::Release);
            if self.has_told_all() {
                // Just now: what is appended next is waited for again.
                return self.appends.overtaken.store(false, Ordering::Release);
            }
            let group = self.replica.group.0;
            let what = "a vote was given before the latest writes of a relaxed topic's partition were written here";
            tracing::warn!(
                group,
                "{what}: if this process is killed now, what a former leader acknowledged may be lost"
            );
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bounds of what is there, as `from..to`.
    fn clamp(&self, range: &impl RangeBounds<u64>) -> (u64, u64) {
        let from = match range.start_bound() {
            Bound::Included(index) => *index,
            Bound::Excluded(index) => index.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(index) => index.saturating_add(1),
            Bound::Excluded(index) => *index,
            Bound::Unbounded => u64::MAX,
        };
        let purged = self.known().purged.map_or(0, |id| id.index.0 + 1);
        let end = self.log.frontiers().last.map_or(0, |id| id.index.0 + 1);
        (from.max(purged), to.min(end))
    }

    /// What the engine hears of an error; it ends with it.
    fn failed(&self, error: StorageError) -> io::Error {
        if matches!(error, StorageError::Corrupt { .. } | StorageError::SetAside(_)) {
            self.replica.spoil();
        }
        io_error(error)
    }

    /// The entries from `from` on, up to `to`, exclusive, or to the limit of bytes, at least one.
    async fn read(&self, from: u64, to: u64) -> Result<Vec<Entry>, io::Error> {
        let failed = |error| self.failed(error);
        let (stored, time) = match self.log.entries(RaftIndex(from), RaftIndex(to), READ_BYTES).map_err(failed)? {
            Entries::Ready(stored) => (stored, None),
            Entries::Cold(cold) => {
                let (stored, time) = self.runtime.blocking(move || cold.run_with_time()).await.map_err(failed)?;
                (stored, Some(time))
            }
        };
        let mut times = self.log.append_times(RaftIndex(from), stored.len()).into_iter();
        let with_time = |(id, batch): (LogId, StampedBatch)| {
            let stored = Stored::from(batch);
            let append_time = times.next().or(time).unwrap_or(stored.append_time);
            entry_from_store(id, Stored { append_time, ..stored })
        };
        stored.into_iter().map(with_time).collect()
    }

    /// The first entry that the log has in `from..to`. A log that begins behind a snapshot has none before.
    fn first_from(&self, from: u64, to: u64) -> u64 {
        if self.log.log_id_at(RaftIndex(from)).is_some() {
            return from;
        }
        let (mut absent, mut present) = (from, to);
        while absent < present {
            let middle = absent + (present - absent) / 2;
            if self.log.log_id_at(RaftIndex(middle)).is_some() { present = middle } else { absent = middle + 1 }
        }
        present
    }

    fn to_store(&self, entry: Entry) -> AppendEntry {
        let id = from_raft(&entry.log_id());
        let raft_only = |kind, payload, time| Body::RaftOnly { kind, payload, time };
        // The engine has no room for a time in these, and each replica makes its own: with none, all have the same.
        let own = |kind, payload| raft_only(kind, payload, Timestamp(0));
        let body = match entry.payload {
            EntryPayload::Blank => own(RaftOnlyKind::Blank, Bytes::new()),
            EntryPayload::Membership(members) => own(RaftOnlyKind::Membership, membership::encode(&members)),
            EntryPayload::Normal(Payload::Proposed(proposal, _)) => Body::Proposed(proposal),
            EntryPayload::Normal(Payload::LogStart(offset, _)) => {
                raft_only(RaftOnlyKind::LogStart, log_start_payload(offset), Timestamp(self.runtime.wall_clock()))
            }
            EntryPayload::Normal(Payload::Stored(stored)) => Body::Stored(stored),
        };
        AppendEntry { index: id.index, term: id.term, body }
    }

    /// Tells the proposers where their batches are.
    fn tell(&self, proposed: Vec<Proposed>, outcomes: &[Outcome]) {
        let log_start = self.log.frontiers().log_start;
        for Proposed { at, index, append_time, carrier } in proposed {
            let Some(outcome) = outcomes.get(at) else { continue };
            let written = Written { base_offset: log_start, append_time, log_start, duplicate: false };
            self.replica.flights.appended(&carrier, index, outcome, written);
        }
        // A commit may have come before its batch was listed.
        if let Some(committed) = self.log.frontiers().committed {
            self.replica.answer(committed.index);
        }
    }
}

fn entry_from_store(id: LogId, stored: Stored) -> Result<Entry, io::Error> {
    let payload = if stored.batch.header().attributes.is_raft_only() {
        match parse_raft_only(&stored.batch).map_err(io::Error::other)? {
            (RaftOnlyKind::Blank, _) => EntryPayload::Blank,
            (RaftOnlyKind::Membership, payload) => {
                EntryPayload::Membership(membership::decode(payload).map_err(io::Error::other)?)
            }
            (RaftOnlyKind::LogStart | RaftOnlyKind::CompactionStep | RaftOnlyKind::Void, _) => {
                EntryPayload::Normal(Payload::Stored(stored))
            }
        }
    } else {
        EntryPayload::Normal(Payload::Stored(stored))
    };
    Ok(Entry::new(to_raft(id), payload))
}

pub(crate) fn io_error(error: StorageError) -> io::Error {
    io::Error::other(error)
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let (mut from, to) = self.clamp(&range);
        let mut entries: Vec<Entry> = Vec::new();
        while from < to {
            let step = self.read(from, to).await?;
            let Some(last) = step.last() else {
                let first = self.first_from(from, to);
                if !entries.is_empty() || first == from {
                    return Err(io::Error::other(format!("entry {from} of {range:?} is missing from the log")));
                }
                from = first;
                continue;
            };
            from = last.index() + 1;
            entries.extend(step);
        }
        Ok(entries)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        let (from, to) = self.clamp(&(start..end));
        let from = self.first_from(from, to);
        if from < to { self.read(from, to).await } else { Ok(Vec::new()) }
    }

    async fn read_vote(&mut self) -> Result<Option<RaftVote>, io::Error> {
        Ok(vote_from_store(self.log.vote()))
    }

    /// The last entry of each term, from the terms that the log keeps in memory: opening a group reads nothing cold.
    async fn get_key_log_ids(&mut self, range: RangeInclusive<RaftLogId>) -> Result<Vec<RaftLogId>, io::Error> {
        let (first, last) = (from_raft(range.start()), from_raft(range.end()));
        let missing = |index| io::Error::other(format!("the log does not know the term of entry {index}"));
        let mut keys = Vec::new();
        let mut current = first;
        while current.term < last.term {
            // The end of the term: below `beyond` and at or above `current`, where the term no longer is `current`'s.
            let (mut inside, mut beyond) = (current.index.0, last.index.0);
            while beyond - inside > 1 {
                let middle = RaftIndex(inside + (beyond - inside) / 2);
                let term = self.log.log_id_at(middle).ok_or_else(|| missing(middle))?.term;
                if term == current.term { inside = middle.0 } else { beyond = middle.0 }
            }
            keys.push(to_raft(LogId { term: current.term, index: RaftIndex(inside) }));
            let next = RaftIndex(beyond);
            current = self.log.log_id_at(next).ok_or_else(|| missing(next))?;
        }
        keys.push(to_raft(last));
        Ok(keys)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let purged = self.known().purged;
        let last = self.log.frontiers().last.max(purged);
        Ok(LogState { last_purged_log_id: purged.map(to_raft), last_log_id: last.map(to_raft) })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    /// Durable on return, but for two votes whose waits a change of leaders would have one after the other:
    ///
    /// - The replica's own for itself elects nobody before it is saved again as committed, and is waited for then,
    ///   before this replica leads. Meanwhile the others are asked. In the engine what is flushed is one mark for votes
    ///   and entries, and a vote is above all entries of earlier terms: so it goes on only where none of them is on its
    ///   way to the disk. Nor is an earlier such vote: of two that a power cut took others would know the later one.
    ///   Otherwise the vote is waited for.
    /// - That a vote is committed is not needed after a crash: no leader resumes its term, and nobody votes in the term
    ///   for another one than before.
    ///
    /// A vote that is waited for is behind all entries in the journal. Not all of a relaxed log's are there: they are
    /// waited for, too, for a while.
    async fn save_vote(&mut self, vote: &RaftVote) -> Result<(), io::Error> {
        let vote = vote_to_store(vote)?;
        let before = self.log.vote();
        let (done, mut written) = oneshot::channel();
        // The receiver is gone only when openraft gave up on the vote, or nobody needs to know.
        self.log.save_vote(vote, Box::new(move |result| drop(done.send(result))));
        let is_own = vote.replica == self.replica.id;
        let candidacy = self.known().candidacy.take();
        if vote.committed && (vote.term, vote.replica) == (before.term, before.replica) {
            return match candidacy.filter(|_| is_own) {
                Some(candidacy) => durable(candidacy).await,
                None => Ok(()),
            };
        }
        let one_is_written =
            candidacy.is_some_and(|mut earlier| matches!(earlier.try_recv(), Err(TryRecvError::Empty)));
        let goes_on = is_own && !vote.committed && !one_is_written;
        if goes_on && self.has_told_all() {
            match written.try_recv() {
                Err(TryRecvError::Empty) => self.known().candidacy = Some(written),
                Ok(result) => result.map_err(io_error)?,
                Err(TryRecvError::Closed) => durable(written).await?,
            }
        } else {
            durable(written).await?;
            self.until_flushed().await;
        }
        match self.appends.failed.load(Ordering::Acquire) {
            false => Ok(()),
            true => Err(io::Error::other("an entry before the vote was not written")),
        }
    }

    async fn save_committed(&mut self, committed: Option<RaftLogId>) -> Result<(), io::Error> {
        let committed = committed.as_ref().map(from_raft);
        let mut known = self.known();
        known.committed = known.committed.max(committed);
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<RaftLogId>, io::Error> {
        let last = self.log.frontiers().last;
        // A commit beyond the end: the end was lost in a crash, and with it what was committed only by others.
        Ok(self
            .known()
            .committed
            .map(|id| last.map_or(id, |last| id.min(last)))
            .filter(|_| last.is_some())
            .map(to_raft))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let (mut proposed, mut holds, mut stored) = (Vec::new(), Vec::new(), Vec::new());
        for (at, entry) in entries.into_iter().enumerate() {
            if let EntryPayload::Normal(Payload::Proposed(_, Some(carrier)) | Payload::LogStart(_, Some(carrier))) =
                &entry.payload
            {
                let append_time = match &entry.payload {
                    EntryPayload::Normal(Payload::Proposed(proposal, _)) => proposal.append_time,
                    _ => Timestamp(self.runtime.wall_clock()),
                };
                let (index, carrier) = (RaftIndex(entry.index()), Arc::clone(carrier));
                holds.extend(carrier.take_hold());
                proposed.push(Proposed { at, index, append_time, carrier });
            }
            stored.push(self.to_store(entry));
        }
        let early = planted(PlantedFault::ReportsUnflushed);
        let (at_once, callback) = if early { (Some(callback), None) } else { (None, Some(callback)) };
        let unflushed = Unflushed::new(&self.appends);
        let appended = Appended { callback, holds, data_dir: self.data_dir.clone(), unflushed };
        let done = appended.when_flushed(Arc::downgrade(&self.log));
        self.until_filled(stored.first().map(|entry| entry.index)).await;
        let outcomes = self.log.append(stored, done).map_err(|error| self.failed(error))?;
        if !proposed.is_empty() {
            self.tell(proposed, &outcomes);
        }
        if let Some(callback) = at_once {
            callback.io_completed(Ok(()));
        }
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<RaftLogId>) -> Result<(), io::Error> {
        let log = Arc::clone(&self.log);
        let after = last.map(|id| RaftIndex(id.index()));
        if log.frontiers().last.is_none_or(|end| after.is_some_and(|after| after >= end.index)) {
            return Ok(());
        }
        // Another leader's entries take their places: an index that is committed then is not theirs.
        self.replica.flights.fail(&ProposeError::NotLeader);
        // It may have to read where the kept part ends.
        self.runtime.blocking(move || log.truncate_after(after)).await.map_err(|error| self.failed(error))
    }

    /// Hides what lies up to `id`. The owner has moved P before, so that nothing is deleted here; what lies between P
    /// and `id` stays in the log.
    async fn purge(&mut self, id: RaftLogId) -> Result<(), io::Error> {
        let purged = {
            let mut known = self.known();
            known.purged = known.purged.max(Some(from_raft(&id)));
            known.purged
        };
        self.log.keep_entries_from(behind(purged));
        Ok(())
    }
}
