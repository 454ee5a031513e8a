//! Group 0, the metadata, as an openraft group of one voter.

use std::sync::Arc;

use bytes::Bytes;
use millpond_record::{BatchHeader, BatchView, BrokerId, GroupId, RaftIndex, ReplicaId, Term, Timestamp};
use millpond_runtime::Runtime;
use millpond_storage::{Log, Proposal};
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, Fatal, RaftError as OpenraftError};
use openraft::{Config, Raft, RaftMetrics, SnapshotPolicy};

use crate::error::RaftError;
use crate::log_store::LogStore;
use crate::network::NoPeers;
use crate::state_machine::{Applier, StateMachine};
use crate::types::{Payload, TypeConfig};

/// The metadata group of this broker. A clone is the same group.
#[derive(Clone)]
pub struct MetadataGroup {
    runtime: Runtime,
    group: GroupId,
    log: Arc<Log>,
    raft: Raft<TypeConfig, StateMachine>,
    leadership: Arc<tokio::sync::watch::Sender<MetadataLeadership>>,
}

impl std::fmt::Debug for MetadataGroup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MetadataGroup({})", self.group)
    }
}

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

/// One replica of the metadata group.
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

/// How openraft is configured for every group (design section 5: each row was found by experiment).
pub(crate) fn raft_config(group: GroupId) -> Config {
    Config {
        cluster_name: format!("group {group}"),
        heartbeat_interval: 500,
        election_timeout_min: 2500,
        election_timeout_max: 5000,
        enable_pre_vote: Some(true),
        // By default a restarted leader resumes its term although entries that its followers committed may never have
        // been flushed by it, and overwrites them.
        enable_leader_restore: Some(false),
        // The owner drives P; a snapshot is a manifest.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        ..Config::default()
    }
}

impl MetadataGroup {
    /// Starts the group on its log, which has its founding membership. Returns when it leads and has applied all that
    /// was committed before, its own blank included.
    pub(crate) async fn start(
        runtime: &Runtime,
        group: GroupId,
        replica: ReplicaId,
        log: Arc<Log>,
        applier: Arc<dyn Applier>,
    ) -> Result<MetadataGroup, RaftError> {
        // openraft asks for the runtime of the task that it is called from.
        let starting = runtime.clone();
        let started = runtime.spawn(async move { Self::start_in_task(starting, group, replica, log, applier).await });
        started.await.unwrap_or_else(|error| Err(RaftError::Fatal { group, why: error.to_string().into() }))
    }

    async fn start_in_task(
        runtime: Runtime,
        group: GroupId,
        replica: ReplicaId,
        log: Arc<Log>,
        applier: Arc<dyn Applier>,
    ) -> Result<MetadataGroup, RaftError> {
        let fatal = |why: String| RaftError::Fatal { group, why: why.into() };
        if log.vote().term >= Term::MAX {
            return Err(RaftError::TermsUsedUp { group, term: Term::MAX });
        }
        let config = raft_config(group).validate().map_err(|error| fatal(error.to_string()))?;
        let state_machine =
            StateMachine::new(Arc::clone(&log), applier).map_err(|what| RaftError::BadMembership { group, what })?;
        let log_store = LogStore::new(runtime.clone(), Arc::clone(&log));
        let raft = Raft::new(replica.0, Arc::new(config), NoPeers, log_store, state_machine)
            .await
            .map_err(|error| fatal(error.to_string()))?;
        // The only voter needs nobody's consent and has nobody's lease to wait out. A pre-vote would ask nobody too.
        raft.trigger().elect(false).await.map_err(|error| fatal(error.to_string()))?;
        let leadership = Arc::new(tokio::sync::watch::Sender::default());
        let metadata = MetadataGroup { runtime, group, log, raft, leadership };
        metadata.until(leads_and_applied_its_blank).await?;
        Ok(metadata)
    }

    /// Proposes one batch and waits until it is durable and applied. Gives the entry's index.
    ///
    /// # Errors
    ///
    /// [`RaftError::TooLarge`] and [`RaftError::BadBatch`], when nothing was written; all others may end the group.
    pub async fn propose(&self, batch: Bytes) -> Result<RaftIndex, RaftError> {
        // Inside the append it would be too late: what Raft proposes must go into the log.
        let (bytes, limit) = (batch.len() as u64, self.log.max_batch_bytes());
        if bytes > limit {
            return Err(RaftError::TooLarge { bytes, limit });
        }
        let header: BatchHeader = *BatchView::parse(&batch)?.header();
        let append_time = Timestamp(self.runtime.wall_clock());
        let frame_bytes = batch.len();
        let payload = Payload::Proposed(Proposal { batch, header, append_time, frame_bytes });
        let raft = self.raft.clone();
        // In a task of its own: a caller that gives up must not take the write with it halfway.
        let written = self.runtime.spawn(async move { raft.client_write(payload).await }).await;
        let fatal = |why: String| RaftError::Fatal { group: self.group, why: why.into() };
        match written.map_err(|error| fatal(error.to_string()))? {
            Ok(response) => Ok(response.data.index),
            Err(OpenraftError::APIError(ClientWriteError::ForwardToLeader(_))) => Err(RaftError::NotLeader(self.group)),
            Err(OpenraftError::APIError(error)) => Err(fatal(error.to_string())),
            Err(OpenraftError::Fatal(error)) => Err(self.ended(&error)),
        }
    }

    /// Resolves when the group has stopped, with the reason: [`RaftError::Closed`] after an ordinary shutdown.
    pub async fn failed(&self) -> RaftError {
        match self.until(|_| false).await {
            Err(error) => error,
            Ok(()) => RaftError::Closed(self.group),
        }
    }

    /// Follows who leads the group.
    pub fn leadership(&self) -> tokio::sync::watch::Receiver<MetadataLeadership> {
        self.leadership.subscribe()
    }

    /// The replicas of the group by the latest membership that this replica knows.
    pub fn members(&self) -> Vec<GroupMember> {
        Vec::new()
    }

    /// Adds a replica that does not vote, if it is not there; returns when the change is committed.
    pub async fn add_learner(&self, _replica: ReplicaId, _broker: BrokerId) -> Result<(), RaftError> {
        Err(RaftError::NotLeader(self.group))
    }

    /// Makes these replicas, and no others, voters; they must be members. Others stay as learners.
    pub async fn set_voters(&self, _voters: std::collections::BTreeSet<ReplicaId>) -> Result<(), RaftError> {
        Err(RaftError::NotLeader(self.group))
    }

    /// Removes a replica that does not vote.
    pub async fn remove(&self, _replica: ReplicaId) -> Result<(), RaftError> {
        Err(RaftError::NotLeader(self.group))
    }

    /// Hands leadership to the replica on a broker; returns when another leads.
    pub async fn transfer(&self, _to: BrokerId) -> Result<(), RaftError> {
        Err(RaftError::NotLeader(self.group))
    }

    /// The group's log.
    pub fn log(&self) -> &Arc<Log> {
        &self.log
    }

    /// Stops the group. What was proposed before is durable or refused when it returns.
    pub(crate) async fn shutdown(&self) {
        let raft = self.raft.clone();
        let stopped = self.runtime.spawn(async move { raft.shutdown().await }).await;
        if let Ok(Err(error)) = stopped {
            tracing::warn!(%error, "the metadata group did not stop cleanly");
        }
    }

    fn ended(&self, error: &Fatal<TypeConfig>) -> RaftError {
        match error {
            Fatal::Stopped => RaftError::Closed(self.group),
            error => RaftError::Fatal { group: self.group, why: error.to_string().into() },
        }
    }

    async fn until(&self, condition: impl Fn(&RaftMetrics<TypeConfig>) -> bool) -> Result<(), RaftError> {
        let mut metrics = self.raft.metrics();
        loop {
            {
                let now = metrics.borrow_watched();
                if let Err(error) = &now.running_state {
                    return Err(self.ended(error));
                }
                if condition(&now) {
                    return Ok(());
                }
            }
            if metrics.changed().await.is_err() {
                return Err(RaftError::Closed(self.group));
            }
        }
    }
}

/// Everything committed in earlier terms is applied with the first entry of the leader's own.
pub(crate) fn leads_and_applied_its_blank(metrics: &RaftMetrics<TypeConfig>) -> bool {
    let applied_term = metrics.last_applied.as_ref().map(|id| id.committed_leader_id().term);
    metrics.current_leader == Some(metrics.id) && applied_term == Some(metrics.current_term)
}
