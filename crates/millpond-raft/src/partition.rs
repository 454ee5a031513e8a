//! One partition. With one replica it has no Raft object: the same log, the same append, the same journal.
//!
//! ```text
//!            log()                  propose()
//! Asleep ───────────▶ Opening ─▶ Open ───────▶ Waking ─▶ Serving          any ─▶ Closed
//!    └───────────────────▲ propose(): goes on to Waking
//! ```
//!
//! *Opening* reads the end of the log from disk; *Open* serves reads. *Waking* takes leadership: it journals a vote for
//! itself in a new term, waits until the vote is durable, appends the term's blank and then what gathered in the queue,
//! in its order. That happens once in the life of the process, at the first proposal; the term is known before (one
//! more than the last vote's), so that Metadata can announce it. Committed is what is flushed.
//!
//! A partition with several replicas (`replicated.rs`) has a [`Replica`] on its log from *Opening* on; *Member* is then
//! what *Open* to *Serving* are for one. It stays *Tainted* instead if it may miss what it acknowledged (`taint.rs`).
//!
//! The gate is one lock around the phase and the queue. A proposal is enqueued or appended while it is held, so
//! batches enter the log in the order in which their connection proposed them. Neither the queue nor what the journal
//! has not written yet is bounded here: every proposal comes with a [`Hold`] on the broker's memory for produce, which
//! is let go when the batch is durable, whatever its `acks`, and that bounds both.

mod replicated;
mod retention;
mod solo;
mod taint;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use millpond_record::{BrokerId, GroupId, LeaderEpoch, Offset, RaftIndex, ReplicaId, Term};
use millpond_storage::{Frontiers, GroupRow, Hold, Log, Proposal, StorageError, Vote};
use tokio::sync::{oneshot, watch};

pub use retention::Retention;
pub use taint::Remains;

use crate::error::{ProposeError, RaftError};
use crate::membership::voters;
use crate::receipt::{Flight, Receipt, Written};
use crate::shared::Shared;
use crate::types::Member;
use replicated::{Kind, Replication};

/// What a producer waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acks {
    /// Nothing (acks=0); the receipt resolves as with [`Acks::Leader`].
    None,
    /// The append on the leader (acks=1).
    Leader,
    /// The flush on enough replicas (acks=all).
    All,
}

/// What a fetch waits on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionState {
    /// How far the log is; all zero until `serving`.
    pub frontiers: Frontiers,
    /// The epoch in which this replica leads, or follows.
    pub leader_epoch: LeaderEpoch,
    /// This replica leads, and serves clients.
    pub leads: bool,
    /// The log is open and may be read.
    pub serving: bool,
}

/// A partition of which this broker has a replica. A clone is the same partition.
#[derive(Clone)]
pub struct Partition(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    group: GroupId,
    replica: ReplicaId,
    /// The term that this process leads in, once it has woken; of a partition with one replica.
    term: Term,
    replication: Replication,
    gate: Mutex<Gate>,
    /// Set once, when the log is open.
    log: OnceLock<Arc<Log>>,
    /// Made when somebody watches.
    state: OnceLock<watch::Sender<PartitionState>>,
    log_start: AtomicI64,
    /// Duplicates whose original is not committed, with the original's index.
    duplicates: Mutex<Vec<(RaftIndex, Written, Arc<Flight>)>>,
    /// What went wrong first. Not a phase, because a flush must be able to report it without the gate, whose holder may
    /// be waiting for the journal.
    failure: OnceLock<Arc<str>>,
    /// The copy here cannot be used any more.
    damaged: AtomicBool,
    /// The copy here may miss what it acknowledged.
    tainted: AtomicBool,
    /// Closed or failed: whoever watches has been told, and a late flush must not tell otherwise.
    stopped: AtomicBool,
    /// Set while batches are to be committed when the log can be written again.
    stalled: AtomicBool,
}

struct Gate {
    phase: Phase,
    /// Proposals wait in the queue while leadership is handed over.
    held: bool,
    queue: VecDeque<Queued>,
    openers: Vec<oneshot::Sender<Result<Arc<Log>, RaftError>>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Asleep,
    Opening,
    Open,
    Waking,
    Serving,
    Member,
    Tainted,
    Closed,
}

struct Queued {
    work: Work,
    flight: Arc<Flight>,
}

/// What is proposed.
enum Work {
    Batch { proposal: Proposal, acks: Acks, hold: Option<Hold> },
    LogStart(Offset),
}

impl std::fmt::Debug for Partition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Partition(group {}, term {})", self.0.group, self.0.term)
    }
}

impl Partition {
    /// What a partition takes of memory while it is asleep.
    #[cfg(test)]
    pub(crate) const SLEEPING_BYTES: usize = size_of::<Inner>() + 2 * size_of::<usize>() + size_of::<Partition>();

    /// A partition that the data directory has. Nothing of it is opened.
    pub(crate) fn asleep(shared: Arc<Shared>, row: &GroupRow) -> Partition {
        let kind = match Kind::of(row.membership.clone(), row.replica) {
            // Its log may know of replicas that came after the row was written.
            Kind::Solo if !shared.peers.is_alone() => Kind::Unknown,
            Kind::Solo => {
                // A broker without others shares nothing.
                shared.data_dir.not_shared(row.group);
                Kind::Solo
            }
            kind => kind,
        };
        let partition = Self::new(shared, row.group, row.replica, row.vote, kind);
        if kind == Kind::Solo {
            partition.0.announce_solo();
        }
        if row.set_aside {
            partition.0.spoil();
            partition.0.fail(&StorageError::SetAside(row.group).to_string());
        }
        partition
    }

    /// A partition that was just created and has its first membership, or is to be filled by other replicas.
    pub(crate) fn open(
        shared: Arc<Shared>,
        replica: ReplicaId,
        group: GroupId,
        log: Arc<Log>,
        replicated: bool,
    ) -> Partition {
        let kind = if replicated { Kind::Replicated } else { Kind::Solo };
        let partition = Self::new(shared, group, replica, log.vote(), kind);
        if replicated {
            partition.wake();
        } else {
            partition.0.announce_solo();
            partition.0.opened(log);
            partition.0.lock_gate().phase = Phase::Open;
        }
        partition
    }

    /// A partition whose copy here cannot be used.
    pub(crate) fn failed(
        shared: Arc<Shared>,
        replica: ReplicaId,
        group: GroupId,
        replicated: bool,
        why: &StorageError,
    ) -> Partition {
        let kind = if replicated { Kind::Replicated } else { Kind::Solo };
        let partition = Self::new(shared, group, replica, Vote::default(), kind);
        partition.0.spoil();
        partition.0.fail(&why.to_string());
        partition
    }

    fn new(shared: Arc<Shared>, group: GroupId, replica: ReplicaId, vote: Vote, kind: Kind) -> Partition {
        Partition(Arc::new(Inner {
            shared,
            group,
            replica,
            term: Term(vote.term.0 + 1),
            replication: Replication::new(kind),
            gate: Mutex::new(Gate { phase: Phase::Asleep, held: false, queue: VecDeque::new(), openers: Vec::new() }),
            log: OnceLock::new(),
            state: OnceLock::new(),
            log_start: AtomicI64::new(0),
            duplicates: Mutex::new(Vec::new()),
            failure: OnceLock::new(),
            damaged: AtomicBool::new(false),
            tainted: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            stalled: AtomicBool::new(false),
        }))
    }

    /// The group that holds the partition.
    pub fn group(&self) -> GroupId {
        self.0.group
    }

    /// The epoch in which this broker leads the partition; known before it does where it has the only replica. On a
    /// follower: the epoch that it follows in.
    pub fn leader_epoch(&self) -> LeaderEpoch {
        if self.0.replication.kind() == Kind::Replicated {
            return self.0.role().term.leader_epoch();
        }
        if self.0.term > Term::MAX { LeaderEpoch::NONE } else { self.0.term.leader_epoch() }
    }

    /// Proposes a batch. By the time this returns its place in the order is fixed.
    ///
    /// `hold`, a share of a memory budget, is dropped when the batch is durable or will never be, which may be long
    /// after the receipt of a batch with `acks` below all has resolved.
    pub fn propose(&self, proposal: Proposal, acks: Acks, hold: Option<Hold>) -> Receipt {
        self.submit(Work::Batch { proposal, acks, hold })
    }

    fn submit(&self, work: Work) -> Receipt {
        let inner = &self.0;
        let mut gate = inner.lock_gate();
        if let Some(why) = inner.failure.get() {
            return Receipt::ready(Err(ProposeError::Fatal(Arc::clone(why))));
        }
        match gate.phase {
            Phase::Serving => return inner.do_work(work, None),
            Phase::Member if !gate.held => return inner.hand_in(work, None),
            Phase::Closed => return Receipt::ready(Err(ProposeError::Closed)),
            Phase::Tainted => return Receipt::ready(Err(ProposeError::NotLeader)),
            Phase::Asleep | Phase::Opening | Phase::Open | Phase::Waking | Phase::Member => {}
        }
        let flight = Arc::new(Flight::default());
        gate.queue.push_back(Queued { work, flight: Arc::clone(&flight) });
        match gate.phase {
            Phase::Asleep => inner.start_opening(&mut gate),
            Phase::Open => inner.start_waking(&mut gate),
            _ => {}
        }
        Receipt::waiting(flight)
    }

    /// Whether it has stopped because something went wrong: it answers nothing but errors until the next start.
    pub fn has_failed(&self) -> bool {
        self.0.failure.get().is_some()
    }

    /// Whether the copy here cannot be used any more, now or after a restart: it is damaged, or a write or sync of its
    /// segments failed. It has failed then, too.
    pub fn is_damaged(&self) -> bool {
        self.0.damaged.load(Ordering::Acquire)
    }

    /// Follows the frontiers of the log.
    pub fn watch(&self) -> watch::Receiver<PartitionState> {
        let inner = &self.0;
        let receiver = inner.state.get_or_init(|| watch::Sender::new(inner.unopened_state())).subscribe();
        // What was committed before the channel was there was published to nobody.
        if let Some(log) = inner.log.get() {
            inner.publish(log.frontiers());
        }
        receiver
    }

    /// The log, opened if it is not open. Reading does not begin a term.
    pub async fn log(&self) -> Result<Arc<Log>, RaftError> {
        let inner = &self.0;
        if let Some(log) = inner.log.get() {
            inner.check_alive()?;
            return Ok(Arc::clone(log));
        }
        self.opening().await
    }

    /// The log if it is open, and not failed.
    pub fn opened_log(&self) -> Option<Arc<Log>> {
        let inner = &self.0;
        inner.check_alive().ok()?;
        inner.log.get().cloned()
    }

    /// Whether nothing of it was opened yet, and nothing keeps it from being opened.
    pub fn is_asleep(&self) -> bool {
        self.0.log.get().is_none() && self.0.check_alive().is_ok() && !self.is_tainted()
    }

    /// Opens the partition if it is not open, and waits until it is.
    async fn opening(&self) -> Result<Arc<Log>, RaftError> {
        let inner = &self.0;
        let opened = {
            let mut gate = inner.lock_gate();
            inner.check_alive()?;
            match gate.phase {
                Phase::Closed => return Err(RaftError::Closed(inner.group)),
                Phase::Tainted => return Err(RaftError::Tainted(inner.group)),
                Phase::Asleep => inner.start_opening(&mut gate),
                Phase::Opening => {}
                Phase::Open | Phase::Waking | Phase::Serving | Phase::Member => {
                    return Ok(Arc::clone(inner.open_log()));
                }
            }
            let (sender, receiver) = oneshot::channel();
            gate.openers.push(sender);
            receiver
        };
        opened.await.unwrap_or(Err(RaftError::Closed(inner.group)))
    }

    /// Opens the partition if it is not open.
    fn wake(&self) {
        let mut gate = self.0.lock_gate();
        if gate.phase == Phase::Asleep {
            self.0.start_opening(&mut gate);
        }
    }

    /// Refuses everything from now on and answers what is queued. Batches that are in the log still get their flush.
    pub(crate) fn close(&self) {
        let inner = &self.0;
        let (queue, openers) = {
            let mut gate = inner.lock_gate();
            gate.phase = Phase::Closed;
            (std::mem::take(&mut gate.queue), std::mem::take(&mut gate.openers))
        };
        for queued in queue {
            queued.flight.complete(Err(ProposeError::Closed));
        }
        for opener in openers {
            // Gone if the caller of log() gave up.
            let _ = opener.send(Err(RaftError::Closed(inner.group)));
        }
        inner.publish_stopped();
        inner.shared.leaders.forget(inner.group);
    }
}

impl Inner {
    fn lock_gate(&self) -> MutexGuard<'_, Gate> {
        // A panic under the gate can only come from the storage layer's own invariants; the group then fails by itself.
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_alive(&self) -> Result<(), RaftError> {
        match self.failure.get() {
            Some(why) => Err(RaftError::Fatal { group: self.group, why: Arc::clone(why) }),
            None if self.stopped.load(Ordering::Acquire) => Err(RaftError::Closed(self.group)),
            None => Ok(()),
        }
    }

    fn start_opening(self: &Arc<Self>, gate: &mut Gate) {
        gate.phase = Phase::Opening;
        let inner = Arc::clone(self);
        self.shared.runtime.spawn(async move { inner.open().await });
    }

    fn start_waking(self: &Arc<Self>, gate: &mut Gate) {
        gate.phase = Phase::Waking;
        let inner = Arc::clone(self);
        self.shared.runtime.spawn(async move { inner.wake().await });
    }

    /// Opens the log from disk; then wakes if something was proposed meanwhile.
    async fn open(self: Arc<Self>) {
        let (data_dir, group) = (self.shared.data_dir.clone(), self.group);
        let opened = self.shared.runtime.blocking(move || data_dir.log(group)).await;
        let log = match opened {
            Ok(Some(log)) => log,
            Ok(None) => return self.stop(&RaftError::NoSuchGroup(group).to_string()),
            Err(error @ StorageError::Io { .. }) => return self.stay_asleep(&error),
            Err(error) => {
                if matches!(error, StorageError::Corrupt { .. } | StorageError::SetAside(_)) {
                    self.spoil();
                }
                return self.stop(&error.to_string());
            }
        };
        if self.is_kept_out(&log) {
            return self.keep_out();
        }
        let replicated = match self.replication.kind() {
            Kind::Replicated => true,
            Kind::Solo | Kind::Unknown => Kind::of(log.membership().1, self.replica) == Kind::Replicated,
        };
        if replicated && let Err(error) = self.start_replica(Arc::clone(&log)).await {
            return self.stop(&error.to_string());
        }
        if !replicated {
            self.replication.set_kind(Kind::Solo);
            self.announce_solo();
            self.opened(Arc::clone(&log));
        }
        let openers = {
            let mut gate = self.lock_gate();
            if gate.phase != Phase::Opening {
                return;
            }
            if replicated {
                gate.phase = Phase::Member;
                self.let_go(&mut gate);
            } else {
                gate.phase = Phase::Open;
                if !gate.queue.is_empty() {
                    self.start_waking(&mut gate);
                }
            }
            std::mem::take(&mut gate.openers)
        };
        for opener in openers {
            // Gone if the caller of log() gave up.
            let _ = opener.send(Ok(Arc::clone(&log)));
        }
    }

    /// The log could not be opened now (too many open files, say): who waits is told, and the next request tries again.
    fn stay_asleep(&self, error: &StorageError) {
        let (queue, openers) = {
            let mut gate = self.lock_gate();
            if gate.phase != Phase::Opening {
                return;
            }
            gate.phase = Phase::Asleep;
            (std::mem::take(&mut gate.queue), std::mem::take(&mut gate.openers))
        };
        let why: Arc<str> = error.to_string().into();
        for queued in queue {
            queued.flight.complete(Err(ProposeError::Fatal(Arc::clone(&why))));
        }
        for opener in openers {
            // Gone if the caller of log() gave up.
            let _ = opener.send(Err(RaftError::Storage(error.clone())));
        }
    }

    /// All that a log holds when it is opened is on disk, and its only replica has it: it is committed.
    fn opened(&self, log: Arc<Log>) {
        let frontiers = match log.frontiers().last {
            Some(last) => log.commit(last.index),
            None => log.frontiers(),
        };
        self.log_start.store(frontiers.log_start.0, Ordering::Relaxed);
        // A partition is opened once; were it twice, the data directory would give the same log.
        let _ = self.log.set(log);
        self.publish(frontiers);
    }

    /// Takes leadership: the vote, the blank, then the queue.
    async fn wake(self: Arc<Self>) {
        if let Err(error) = self.begin_term().await {
            return self.stop(&error.to_string());
        }
        let mut gate = self.lock_gate();
        if gate.phase != Phase::Waking {
            return;
        }
        // Appended while the gate is held, so that nothing overtakes the queue.
        while let Some(Queued { work, flight }) = gate.queue.pop_front() {
            self.do_work(work, Some(flight));
        }
        gate.phase = Phase::Serving;
    }

    /// The copy here cannot be used any more.
    fn spoil(&self) {
        self.damaged.store(true, Ordering::Release);
    }

    /// The partition stops for good. Gives what went wrong first.
    fn fail(&self, why: &str) -> Arc<str> {
        let first = self.failure.get_or_init(|| {
            tracing::error!(group = self.group.0, why, "a partition has stopped");
            why.into()
        });
        self.fail_duplicates(first);
        self.publish_stopped();
        Arc::clone(first)
    }

    /// Fails while opening or waking: whatever waits at the gate is answered. A partition that was closed meanwhile has
    /// answered it already, and what failed is how it notices.
    fn stop(&self, why: &str) {
        if self.lock_gate().phase == Phase::Closed {
            return;
        }
        let why = self.fail(why);
        let (queue, openers) = {
            let mut gate = self.lock_gate();
            (std::mem::take(&mut gate.queue), std::mem::take(&mut gate.openers))
        };
        for queued in queue {
            queued.flight.complete(Err(ProposeError::Fatal(Arc::clone(&why))));
        }
        for opener in openers {
            // Gone if the caller of log() gave up.
            let _ = opener.send(Err(RaftError::Fatal { group: self.group, why: Arc::clone(&why) }));
        }
    }

    fn publish(&self, frontiers: Frontiers) {
        let Some(sender) = self.state.get() else { return };
        sender.send_if_modified(|state| {
            if self.stopped.load(Ordering::Acquire) {
                state.leads = false;
                return std::mem::replace(&mut state.serving, false);
            }
            // Two threads may publish; only what is ahead counts.
            let ahead =
                frontiers.committed > state.frontiers.committed || frontiers.log_start > state.frontiers.log_start;
            let role = if self.replication.kind() == Kind::Solo { None } else { Some(self.role()) };
            let (leads, epoch) =
                role.map_or((true, state.leader_epoch), |role| (role.serves, role.term.leader_epoch()));
            if state.serving && !ahead && state.leads == leads && state.leader_epoch == epoch {
                return false;
            }
            if ahead || !state.serving {
                state.frontiers = frontiers;
            }
            (state.leads, state.leader_epoch, state.serving) = (leads, epoch, true);
            true
        });
    }

    fn publish_stopped(&self) {
        self.stopped.store(true, Ordering::Release);
        if let Some(sender) = self.state.get() {
            sender.send_modify(|state| (state.serving, state.leads) = (false, false));
        }
    }

    fn unopened_state(&self) -> PartitionState {
        let zero = Offset(0);
        let frontiers = Frontiers {
            log_start: zero,
            high_watermark: zero,
            last_stable: zero,
            log_end: zero,
            committed: None,
            last: None,
        };
        let leader_epoch = Term(self.term.0.min(Term::MAX.0)).leader_epoch();
        PartitionState { frontiers, leader_epoch, leads: false, serving: false }
    }

    fn open_log(&self) -> &Arc<Log> {
        self.log.get().expect("the log is open in every phase after Opening")
    }
}

/// The first entry of a new group's log, the same bytes on every replica.
pub(crate) fn founding_membership(members: &[(ReplicaId, BrokerId)]) -> Bytes {
    voters(members.iter().map(|&(replica, broker)| (replica, Member { broker, assignment_version: 1 })))
}
