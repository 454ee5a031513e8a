//! Group 0, the metadata: an openraft group on every broker, of which the first three or five brokers vote.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millpond_record::{BatchHeader, BatchView, BrokerId, RaftIndex, ReplicaId, Term, Timestamp};
use millpond_storage::{Frontiers, Log, Proposal};
use openraft::errors::ClientWriteError;
use openraft::impls::ProgressResponder;
use openraft::vote::leader_id_std::CommittedLeaderId;
use tokio::sync::watch;

use crate::error::RaftError;
use crate::replica::{Owner, Replica, ReplicaState, Role};
use crate::shared::Shared;
use crate::state_machine::Applier;
use crate::types::{Member, Payload};

/// How a broker comes to its replica of the metadata group. A replica that is there already is reopened as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetadataStart {
    /// As the only voter of a new cluster.
    Found(ReplicaId),
    /// As a replica that the controller adds, with an empty log.
    Join(ReplicaId),
}

/// Who leads the metadata group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MetadataLeadership {
    /// The leader's broker, as far as this replica knows.
    pub leader: Option<BrokerId>,
    /// The term that this replica is in.
    pub term: Term,
    /// This broker leads, and has applied everything that was committed before.
    pub here: bool,
}

/// One replica of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupMember {
    /// Its Raft node id.
    pub replica: ReplicaId,
    /// The broker that has it.
    pub broker: BrokerId,
    /// Whether it votes.
    pub voter: bool,
    /// How far its log is known to agree with the leader's; only on the leader.
    pub matched: Option<RaftIndex>,
}

/// The metadata group of this broker. A clone is the same group.
#[derive(Clone)]
pub struct MetadataGroup {
    replica: Replica,
    leadership: Arc<watch::Sender<MetadataLeadership>>,
    /// Kept, because the replica only has a weak one.
    _owner: Arc<MetadataOwner>,
}

impl std::fmt::Debug for MetadataGroup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MetadataGroup(replica {})", self.replica.id())
    }
}

/// Hears of the group's replica.
struct MetadataOwner {
    shared: Arc<Shared>,
    replica: ReplicaId,
    leadership: Arc<watch::Sender<MetadataLeadership>>,
}

impl Owner for MetadataOwner {
    fn committed(&self, _frontiers: &Frontiers) {}

    fn role_changed(&self, role: Role) {
        self.shared.role_changed(crate::groups::METADATA, self.replica, role);
        let leader = role.leader.map(|(_, broker)| broker);
        self.leadership.send_replace(MetadataLeadership { leader, term: role.term, here: role.serves });
    }

    fn ended(&self, why: &str) {
        tracing::error!(why, "the metadata group has stopped");
    }
}

impl MetadataGroup {
    /// Starts the group on its log. If this broker has the only vote it leads when this returns, and has applied all
    /// that was committed before, its own blank included; else it leads or follows when the others are there.
    pub(crate) async fn start(
        shared: &Arc<Shared>,
        replica: ReplicaId,
        log: Arc<Log>,
        applier: Arc<dyn Applier>,
    ) -> Result<MetadataGroup, RaftError> {
        let leadership: Arc<watch::Sender<MetadataLeadership>> = Arc::default();
        let owner = MetadataOwner { shared: Arc::clone(shared), replica, leadership: Arc::clone(&leadership) };
        let owner = Arc::new(owner);
        let hears: std::sync::Weak<MetadataOwner> = Arc::downgrade(&owner);
        let majority = Arc::new(std::sync::atomic::AtomicU16::new(1));
        let state = ReplicaState::new(crate::groups::METADATA, replica, log, majority, hears);
        let replica = Replica::start(shared, state, Some(applier)).await?;
        let metadata = MetadataGroup { replica, leadership, _owner: owner };
        let voters = metadata.members().into_iter().filter(|member| member.voter);
        if voters.map(|member| member.replica).eq([metadata.replica.id()]) {
            // It needs nobody's consent.
            metadata.replica.elect().await?;
            // Not the replica's role: that is there a moment before, and callers go by this.
            let mut leadership = metadata.leadership();
            tokio::select! {
                biased;
                led = leadership.wait_for(|now| now.here) => drop(led),
                error = metadata.failed() => return Err(error),
            }
        }
        shared.add(&metadata.replica);
        Ok(metadata)
    }

    /// Proposes one batch and waits until it is durable and applied. Gives the entry's index. `decided_in`: the term in
    /// which this broker led when it decided on it. What it decided on may have changed if it has lost leadership
    /// since, even where it leads again: such a batch is refused.
    ///
    /// # Errors
    ///
    /// [`RaftError::TooLarge`], [`RaftError::BadBatch`] and [`RaftError::NotLeader`], when nothing was written as far
    /// as this replica knows: one that has just lost leadership may have written it all the same. All others may end
    /// the group.
    pub async fn propose(&self, batch: Bytes, decided_in: Term) -> Result<RaftIndex, RaftError> {
        // Inside the append it would be too late: what Raft proposes must go into the log.
        let (bytes, limit) = (batch.len() as u64, self.log().max_batch_bytes());
        if bytes > limit {
            return Err(RaftError::TooLarge { bytes, limit });
        }
        let header: BatchHeader = *BatchView::parse(&batch)?.header();
        let runtime = &self.replica.shared.runtime;
        let append_time = Timestamp(runtime.wall_clock());
        let frame_bytes = batch.len();
        let payload = Payload::Proposed(Proposal { batch, header, append_time, frame_bytes }, None);
        let raft = self.replica.raft.clone();
        // In a task of its own: a caller that gives up must not take the write with it halfway.
        let group = self.replica.group();
        let fatal = |why: String| RaftError::Fatal { group, why: why.into() };
        let written = runtime.spawn(async move {
            let (responder, written) = ProgressResponder::complete_only();
            let write = raft.write(payload).with_leader(CommittedLeaderId::new(decided_in.0));
            write.responder(responder).await.map(|()| written)
        });
        let written = written.await.map_err(|error| fatal(error.to_string()))?;
        let written = written.map_err(|error| self.replica.fatal(&error))?;
        match written.await {
            Ok(Ok(response)) => Ok(response.data.index),
            Ok(Err(ClientWriteError::ForwardToLeader(_) | ClientWriteError::LogEntryDiscarded(_))) => {
                Err(RaftError::NotLeader(group))
            }
            Ok(Err(error)) => Err(fatal(error.to_string())),
            // Nothing else lets go of a write without an answer.
            Err(_) => Err(self.failed().await),
        }
    }

    /// Whether this broker has led the group, and nobody else, from `decided_in` on until after this was asked. Asks a
    /// majority of the voters; false if it does not answer within `limit`. What a leader says without writing anything
    /// needs this: another may have been elected while it was cut off, or stood still.
    pub async fn surely_led(&self, decided_in: Term, limit: Duration) -> bool {
        self.replica.surely_leads(limit).await == Some(decided_in)
    }

    /// Resolves when the group has stopped, with the reason: [`RaftError::Closed`] after an ordinary shutdown.
    pub async fn failed(&self) -> RaftError {
        match self.replica.until(|_| false).await {
            Err(error) => error,
            Ok(()) => RaftError::Closed(self.replica.group()),
        }
    }

    /// Follows who leads the group.
    pub fn leadership(&self) -> watch::Receiver<MetadataLeadership> {
        self.leadership.subscribe()
    }

    /// The replicas of the group by the latest membership that this replica knows.
    pub fn members(&self) -> Vec<GroupMember> {
        self.replica.members()
    }

    /// Adds a replica that does not vote, if it is not there; returns when the change is committed.
    ///
    /// # Errors
    /// [`RaftError::NotLeader`], [`RaftError::MembersUnchanged`].
    pub async fn add_learner(&self, replica: ReplicaId, broker: BrokerId) -> Result<(), RaftError> {
        self.replica.add_learner(replica, Member { broker, assignment_version: 1 }).await
    }

    /// Makes these replicas, and no others, voters; they must be members. Others stay as learners. Returns when the
    /// change is committed, which takes a majority of the old voters and of the new.
    ///
    /// # Errors
    /// As of [`MetadataGroup::add_learner`].
    pub async fn set_voters(&self, voters: BTreeSet<ReplicaId>) -> Result<(), RaftError> {
        let known: BTreeMap<ReplicaId, BrokerId> =
            self.members().into_iter().map(|member| (member.replica, member.broker)).collect();
        let stranger = |replica: &ReplicaId| RaftError::MembersUnchanged {
            group: self.replica.group(),
            why: format!("replica {replica} is no member").into(),
        };
        let voters = voters.into_iter().map(|replica| {
            let broker = *known.get(&replica).ok_or_else(|| stranger(&replica))?;
            Ok((replica, Member { broker, assignment_version: 1 }))
        });
        self.replica.set_voters(voters.collect::<Result<_, RaftError>>()?, true).await
    }

    /// Removes a replica that does not vote.
    ///
    /// # Errors
    /// As of [`MetadataGroup::add_learner`].
    pub async fn remove(&self, replica: ReplicaId) -> Result<(), RaftError> {
        self.replica.remove(BTreeSet::from([replica])).await
    }

    /// Hands leadership to the replica on a broker; returns when another leads.
    ///
    /// # Errors
    /// [`RaftError::NotLeader`], [`RaftError::NoReplicaOn`], [`RaftError::NotTaken`].
    pub async fn transfer(&self, to: BrokerId) -> Result<(), RaftError> {
        let (group, shared) = (self.replica.group(), Arc::clone(&self.replica.shared));
        let voter = self.members().into_iter().find(|member| member.voter && member.broker == to);
        let voter = voter.filter(|_| shared.peers.is_alive(to)).ok_or(RaftError::NoReplicaOn { group, broker: to })?;
        shared.expect_transfer(group, voter.replica);
        let replica = self.replica.clone();
        // Once begun it goes to its end, whoever waits for it.
        let handed = shared.runtime.spawn(async move { replica.transfer(voter.replica).await }).await;
        handed.unwrap_or_else(|error| Err(RaftError::Fatal { group, why: error.to_string().into() }))
    }

    /// The group's log.
    pub fn log(&self) -> &Arc<Log> {
        &self.replica.state.log
    }

    /// Stops the group. What was proposed before is durable or refused when it returns.
    pub(crate) async fn shutdown(&self) {
        self.replica.shutdown().await;
    }
}
