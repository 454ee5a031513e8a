//! A partition with several replicas: proposals go through Raft, and leadership comes and goes.

use std::sync::atomic::{AtomicU8, AtomicU16, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use millpond_record::{BrokerId, ReplicaId, Term};
use millpond_storage::{Frontiers, Log, Proposal, StorageError};

use super::{Acks, Inner, Partition, Phase, Queued, Work};
use crate::error::{ProposeError, RaftError};
use crate::leaders::{News, Standing};
use crate::membership;
use crate::metadata::GroupMember;
use crate::receipt::{Flight, Receipt};
use crate::replica::{Owner, Replica, ReplicaState, Role};

/// How long a group of one voter may take to elect it.
const ALONE: Duration = Duration::from_secs(5);

/// Whether a partition has a Raft object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// Only its log can say: it has not been committed to yet what its table row could.
    Unknown,
    Solo,
    Replicated,
}

impl Kind {
    /// By the group's membership: this replica alone, or others too.
    pub(super) fn of(membership: Bytes, replica: ReplicaId) -> Kind {
        if membership.is_empty() {
            return Kind::Unknown;
        }
        match membership::decode(membership) {
            Ok(membership) if membership.nodes().map(|(id, _)| *id).eq([replica.0]) => Kind::Solo,
            // One that cannot be read is told when it is opened.
            _ => Kind::Replicated,
        }
    }
}

/// What a partition has beyond its log when it has other replicas.
pub(super) struct Replication {
    kind: AtomicU8,
    replica: OnceLock<Replica>,
    min_insync: Arc<AtomicU16>,
}

impl Replication {
    pub(super) fn new(kind: Kind) -> Replication {
        Replication {
            kind: AtomicU8::new(kind as u8),
            replica: OnceLock::new(),
            min_insync: Arc::new(AtomicU16::new(1)),
        }
    }

    pub(super) fn kind(&self) -> Kind {
        match self.kind.load(Ordering::Acquire) {
            1 => Kind::Solo,
            2 => Kind::Replicated,
            _ => Kind::Unknown,
        }
    }

    pub(super) fn set_kind(&self, kind: Kind) {
        self.kind.store(kind as u8, Ordering::Release);
    }
}

impl Partition {
    /// Whether this replica leads the partition and serves it.
    pub fn leads(&self) -> bool {
        match self.0.replication.kind() {
            Kind::Solo => !self.0.stopped.load(Ordering::Acquire),
            Kind::Replicated | Kind::Unknown => {
                self.0.replication.replica.get().is_some_and(Replica::serves) && !self.has_failed()
            }
        }
    }

    /// Whether the partition has, or is to have, other replicas.
    pub fn is_replicated(&self) -> bool {
        self.0.replication.kind() != Kind::Solo
    }

    /// How many replicas must have a batch that is acknowledged by all, at least (`min.insync.replicas`).
    pub fn set_min_insync(&self, replicas: u16) {
        self.0.replication.min_insync.store(replicas, Ordering::Relaxed);
    }

    /// Hands leadership to the replica on a broker; returns when another leads. Proposals wait meanwhile, and are
    /// refused then.
    ///
    /// # Errors
    /// [`RaftError::NotLeader`], [`RaftError::NoReplicaOn`], [`RaftError::Behind`]; [`RaftError::NotTaken`]
    /// when the other did not take over in time: then somebody is elected.
    pub async fn transfer(&self, to: BrokerId) -> Result<(), RaftError> {
        // Once begun it goes to its end, whoever waits for it: openraft takes no transfer back.
        let (partition, runtime) = (self.clone(), &self.0.shared.runtime);
        let handed = runtime.spawn(async move { partition.hand_over(to).await }).await;
        handed.unwrap_or_else(|error| Err(RaftError::Fatal { group: self.0.group, why: error.to_string().into() }))
    }

    async fn hand_over(&self, to: BrokerId) -> Result<(), RaftError> {
        let replica = self.leading()?;
        let group = self.0.group;
        if to == self.0.shared.broker {
            return Ok(());
        }
        let members = replica.members().into_iter();
        let mut voters = members.filter(|member| member.voter && !replica.stands_in_for(member.replica));
        let voter = voters.find(|member| member.broker == to);
        let alive = voter.filter(|_| self.0.shared.peers.is_alive(to));
        let voter = alive.ok_or(RaftError::NoReplicaOn { group, broker: to })?;
        {
            let mut gate = self.0.lock_gate();
            if gate.held {
                return Err(RaftError::Behind { group, by: voter.replica });
            }
            gate.held = true;
        }
        let holding = Holding(Arc::clone(&self.0));
        self.0.shared.expect_transfer(group, voter.replica);
        let handed = replica.transfer(voter.replica).await;
        drop(holding);
        handed
    }

    /// Whether this replica leads beyond doubt: another may have been elected while it was cut off, or stood still.
    /// Asks a majority of the replicas; false if it does not answer within `limit`.
    pub async fn surely_leads(&self, limit: Duration) -> bool {
        match self.0.replication.replica.get() {
            Some(replica) => replica.surely_leads(limit).await.is_some(),
            None => self.leads(),
        }
    }

    /// Makes these replicas, in order of preference, the members of the group, on its leader: new ones are filled
    /// first. A partition that had one replica gets its Raft object for it, and keeps it until the next start. Returns
    /// when the change is complete; may be called again when it fails.
    ///
    /// # Errors
    /// [`RaftError::StaleAssignment`] for a version that is older than the group's, [`RaftError::MembersUnchanged`],
    /// [`RaftError::NotLeader`].
    pub async fn change_members(
        &self,
        members: &[(ReplicaId, BrokerId)],
        assignment_version: u64,
    ) -> Result<(), RaftError> {
        if self.0.replication.kind() == Kind::Solo {
            if members == [(self.0.replica, self.0.shared.broker)] {
                // A move that was taken back before it began.
                return Ok(());
            }
            // Once begun it goes to its end, whoever waits for it: what is proposed meanwhile waits for that.
            let (inner, runtime) = (Arc::clone(&self.0), &self.0.shared.runtime);
            let begun = runtime.spawn(async move { inner.become_replicated().await }).await;
            begun.map_err(|error| RaftError::Fatal { group: self.0.group, why: error.to_string().into() })??;
        }
        self.leading()?.change_members(members, assignment_version).await
    }

    /// The assignment version that the group's membership is at, as this replica knows, and whether the change to it is
    /// complete. `None` while the partition is not open.
    pub fn members_version(&self) -> Option<(u64, bool)> {
        self.0.replication.replica.get().map(Replica::members_version)
    }

    /// The replicas; on the leader with how far each one's log is known to agree with its own. None while the partition
    /// is not open.
    pub fn progress(&self) -> Vec<GroupMember> {
        self.0.replication.replica.get().map(Replica::members).unwrap_or_default()
    }

    /// The Raft node id of the replica here.
    pub fn id(&self) -> ReplicaId {
        self.0.replica
    }

    fn leading(&self) -> Result<&Replica, RaftError> {
        let replica = self.0.replication.replica.get().filter(|replica| replica.serves());
        replica.ok_or(RaftError::NotLeader(self.0.group))
    }

    /// The replica's Raft object; opens the partition if it is not open. `None` if it has none.
    pub(crate) async fn replica(&self) -> Result<Option<Replica>, RaftError> {
        self.opening().await?;
        Ok(self.0.replication.replica.get().cloned())
    }
}

/// Lets the queue go when leadership has been handed over, or not.
struct Holding(Arc<Inner>);

impl Drop for Holding {
    fn drop(&mut self) {
        let mut gate = self.0.lock_gate();
        gate.held = false;
        self.0.let_go(&mut gate);
    }
}

impl Inner {
    pub(super) fn role(&self) -> Role {
        self.replication.replica.get().map(Replica::role).unwrap_or_default()
    }

    fn news(&self, term: Term, standing: Standing) -> News {
        News { group: self.group, term, broker: self.shared.broker, standing }
    }

    /// The only replica leads.
    pub(super) fn announce_solo(&self) {
        if self.term <= Term::MAX {
            self.shared.say(&[self.news(self.term, Standing::Serves)]);
        }
    }

    /// Starts the Raft object on the open log.
    pub(super) async fn start_replica(self: &Arc<Self>, log: Arc<Log>) -> Result<(), RaftError> {
        self.replication.set_kind(Kind::Replicated);
        let owner: Weak<Inner> = Arc::downgrade(self);
        let min_insync = Arc::clone(&self.replication.min_insync);
        let state = ReplicaState::new(self.group, self.replica, Arc::clone(&log), min_insync, owner);
        let started = Replica::start(&self.shared, Arc::clone(&state), None).await;
        if started.is_err() && state.is_damaged() {
            self.spoil();
        }
        let replica = started?;
        let closed = {
            let gate = self.lock_gate();
            // Who closes the partition takes out what is there then, and nobody would what comes later.
            let closed = gate.phase == Phase::Closed;
            if !closed {
                // A partition is opened once; were it twice, the data directory would give the same log.
                let _ = self.log.set(log);
                self.shared.add(&replica);
                let _ = self.replication.replica.set(replica.clone());
            }
            closed
        };
        if closed {
            replica.shutdown().await;
            return Err(RaftError::Closed(self.group));
        }
        self.publish(self.open_log().frontiers());
        Ok(())
    }

    /// Goes on as a group of one voter that may have others. What is proposed meanwhile waits.
    async fn become_replicated(self: &Arc<Self>) -> Result<(), RaftError> {
        let partition = Partition(Arc::clone(self));
        let log = partition.opening().await?;
        let before = {
            let mut gate = self.lock_gate();
            match gate.phase {
                Phase::Open | Phase::Serving => std::mem::replace(&mut gate.phase, Phase::Opening),
                Phase::Member => return Ok(()),
                Phase::Closed => return Err(RaftError::Closed(self.group)),
                // Somebody else is about it, or it begins its term.
                Phase::Asleep | Phase::Opening | Phase::Waking | Phase::Tainted => {
                    return Err(RaftError::NotLeader(self.group));
                }
            }
        };
        // openraft takes what it finds in a log for flushed.
        let (done, flushed) = tokio::sync::oneshot::channel();
        log.notify_flushed(Box::new(move |result| drop(done.send(result))));
        let began = match flushed.await {
            Ok(Ok(())) => self.start_replica(log).await,
            Ok(Err(error @ StorageError::Stalled { .. })) => {
                // The disk is full for now: everything as before.
                let mut gate = self.lock_gate();
                if gate.phase == Phase::Opening {
                    gate.phase = before;
                    match before {
                        Phase::Serving => {
                            while let Some(Queued { work, flight }) = gate.queue.pop_front() {
                                self.do_work(work, Some(flight));
                            }
                        }
                        _ if !gate.queue.is_empty() => self.start_waking(&mut gate),
                        _ => {}
                    }
                    for opener in std::mem::take(&mut gate.openers) {
                        // Gone if the caller of log() gave up.
                        let _ = opener.send(Ok(Arc::clone(&log)));
                    }
                }
                return Err(error.into());
            }
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(RaftError::Closed(self.group)),
        };
        if let Err(error) = began {
            self.stop(&error.to_string());
            return Err(error);
        }
        if let Some(replica) = self.replication.replica.get() {
            // It has the only vote, and what was said of it before is of a term that it has not begun.
            let mut roles = replica.roles();
            if let Err(error) = replica.elect().await {
                self.stop(&error.to_string());
                return Err(error);
            }
            let serves = roles.wait_for(|role| role.serves);
            drop(self.shared.runtime.timeout(ALONE, serves).await);
        }
        let openers = {
            let mut gate = self.lock_gate();
            if gate.phase == Phase::Opening {
                gate.phase = Phase::Member;
                self.let_go(&mut gate);
            }
            std::mem::take(&mut gate.openers)
        };
        for opener in openers {
            // Gone if the caller of log() gave up.
            let _ = opener.send(Ok(Arc::clone(self.open_log())));
        }
        Ok(())
    }

    /// Hands in what waited. The caller holds the gate.
    pub(super) fn let_go(self: &Arc<Self>, gate: &mut super::Gate) {
        while let Some(Queued { work, flight }) = gate.queue.pop_front() {
            self.hand_in(work, Some(flight));
        }
    }

    /// Proposes to Raft. The caller holds the gate.
    pub(super) fn hand_in(self: &Arc<Self>, work: Work, flight: Option<Arc<Flight>>) -> Receipt {
        let flight = flight.unwrap_or_default();
        let refused = match &work {
            Work::Batch { proposal, acks, .. } => self.refusal(proposal, *acks),
            Work::LogStart(_) => None,
        };
        let replica = self.replication.replica.get().filter(|replica| replica.serves());
        let (replica, None) = (replica, &refused) else {
            let error = refused.unwrap_or(ProposeError::NotLeader);
            flight.complete(Err(error.clone()));
            return Receipt::ready(Err(error));
        };
        let Some(replica) = replica else {
            flight.complete(Err(ProposeError::NotLeader));
            return Receipt::ready(Err(ProposeError::NotLeader));
        };
        match work {
            Work::Batch { proposal, acks, hold } => replica.propose(proposal, acks, hold, flight),
            Work::LogStart(offset) => {
                let offset = offset.min(self.open_log().frontiers().high_watermark);
                replica.propose_log_start(offset, flight)
            }
        }
    }

    /// Why a batch cannot be proposed now. Inside the append it would be too late: an error there ends the group.
    fn refusal(&self, proposal: &Proposal, acks: Acks) -> Option<ProposeError> {
        let log = self.open_log();
        let (bytes, limit) = (proposal.batch.len() as u64, log.max_batch_bytes());
        if bytes > limit {
            return Some(ProposeError::TooLarge { bytes, limit });
        }
        match log.check_takes_batches() {
            Ok(()) => {}
            Err(error @ StorageError::Stalled { .. }) => return Some(ProposeError::Stalled(error.to_string().into())),
            Err(error) => return Some(ProposeError::Fatal(error.to_string().into())),
        }
        if acks != Acks::All {
            return None;
        }
        let (alive, needed) = self.insync()?;
        (alive < needed).then_some(ProposeError::NotEnoughReplicas { alive, needed })
    }

    /// How many voters are alive, and how many must have a batch.
    fn insync(&self) -> Option<(usize, usize)> {
        let replica = self.replication.replica.get()?;
        let voters = replica.voters();
        Some((voters.live, replica.state.needed(voters)))
    }
}

impl Owner for Inner {
    fn committed(&self, frontiers: &Frontiers) {
        self.log_start.store(frontiers.log_start.0, Ordering::Relaxed);
        self.publish(*frontiers);
    }

    fn role_changed(&self, role: Role) {
        self.shared.role_changed(self.group, self.replica, role);
        if let Some(log) = self.log.get() {
            self.publish(log.frontiers());
        }
    }

    fn ended(&self, why: &str) {
        if self.replication.replica.get().is_some_and(|replica| replica.state.is_damaged()) {
            self.spoil();
        }
        self.fail(why);
        let last = self.shared.leaders.last(self.group).filter(|last| last.broker == self.shared.broker);
        if let Some(last) = last {
            self.shared.gave_up(self.group, last.term);
        }
    }
}
