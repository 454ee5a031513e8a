//! openraft's state machine: the log itself is the state, so applying an entry moves the high watermark, nothing more.
//!
//! Group 0 also hands its data batches to an [`Applier`]. What it builds is in memory, so a restart applies
//! everything again from P on; a partition begins where its commit is.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::{Stream, TryStreamExt};
use millpond_record::{LogId, RaftIndex, RaftOnlyKind, StampedBatch, parse_raft_only};
use millpond_runtime::Runtime;
use millpond_storage::{Log, Stored};
use openraft::alias::SnapshotOf;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};

use crate::catch_up;
use crate::membership;
use crate::replica::ReplicaState;
use crate::snapshot::Manifest;
use crate::types::{Applied, Payload, RaftLogId, SnapshotMeta, StoredMembership, TypeConfig, from_raft, to_raft};

/// Why a batch cannot be applied. The group stops, because its state would differ from that of the other replicas.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct ApplyError(pub String);

/// Builds what the metadata group's records mean.
pub trait Applier: Send + Sync + 'static {
    /// Takes a committed data batch. Called in the log's order; on a restart again for every batch of the log.
    fn apply(&self, index: RaftIndex, batch: &StampedBatch) -> Result<(), ApplyError>;
}

/// The state machine of one group. A clone is the same one.
#[derive(Clone)]
pub(crate) struct StateMachine {
    runtime: Runtime,
    log: Arc<Log>,
    replica: Arc<ReplicaState>,
    applier: Option<Arc<dyn Applier>>,
    state: Arc<Mutex<State>>,
}

#[derive(Clone, Default)]
struct State {
    applied: Option<RaftLogId>,
    membership: StoredMembership,
    snapshot: Option<(SnapshotMeta, Manifest)>,
}

impl StateMachine {
    /// A state machine whose applier knows nothing yet begins at P.
    ///
    /// One without applier begins where its commit is: it has nothing to build.
    pub(crate) fn new(
        runtime: Runtime,
        replica: Arc<ReplicaState>,
        applier: Option<Arc<dyn Applier>>,
    ) -> Result<StateMachine, String> {
        let log = Arc::clone(&replica.log);
        let begin = match (&applier, log.frontiers().committed, log.purged()) {
            (None, Some(committed), _) => Some((committed, log.committed_membership())),
            (_, _, Some(p)) => Some((p.log_id(), log.membership_at_p())),
            (_, _, None) => None,
        };
        let state = match begin {
            None => State::default(),
            Some((applied, membership)) => {
                let applied = Some(to_raft(applied));
                let membership = StoredMembership::new(applied, membership::decode(membership)?);
                State { applied, membership, snapshot: None }
            }
        };
        Ok(StateMachine { runtime, log, replica, applier, state: Arc::new(Mutex::new(state)) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn apply_data(&self, index: RaftIndex, payload: &Payload) -> Result<bool, io::Error> {
        let Payload::Stored(Stored { batch, .. }) = payload else {
            return Err(io::Error::other(format!("entry {index} is applied as it was proposed, not as it was stored")));
        };
        if batch.header().attributes.is_raft_only() {
            let (kind, _) = parse_raft_only(batch).map_err(io::Error::other)?;
            return Ok(kind == RaftOnlyKind::Void);
        }
        if let Some(applier) = &self.applier {
            applier.apply(index, batch).map_err(io::Error::other)?;
        }
        Ok(false)
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = Manifest;
    type SnapshotBuilder = StateMachine;

    async fn applied_state(&mut self) -> Result<(Option<RaftLogId>, StoredMembership), io::Error> {
        let state = self.state();
        Ok((state.applied, state.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            let LogId { term, index } = from_raft(&entry.log_id);
            let void = match &entry.payload {
                EntryPayload::Normal(payload) => self.apply_data(index, payload)?,
                EntryPayload::Blank | EntryPayload::Membership(_) => false,
            };
            let frontiers = self.log.commit(index);
            self.replica.committed(index, &frontiers);
            if matches!(entry.payload, EntryPayload::Blank) {
                self.replica.blank_applied(term);
            }
            {
                let mut state = self.state();
                state.applied = Some(entry.log_id);
                if let EntryPayload::Membership(membership) = entry.payload {
                    state.membership = StoredMembership::new(Some(entry.log_id), membership);
                }
            }
            if let Some(responder) = responder {
                responder.send(Applied { index, void });
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> StateMachine {
        self.clone()
    }

    /// Switches the log over to what was gathered for this snapshot
    /// ([`gather_snapshot`](crate::replica::Replica::gather_snapshot)). The log ends with P then.
    async fn install_snapshot(&mut self, meta: &SnapshotMeta, manifest: Manifest) -> Result<(), io::Error> {
        let p = meta.last_log_id.as_ref().map(from_raft);
        let frontiers = self.log.frontiers();
        // Where a snapshot has no record there is nothing that an empty log must have: its first entry may have any
        // index.
        let lacks_nothing = frontiers.last.is_none() && manifest.end == frontiers.log_end;
        match p.and_then(|p| self.replica.gathered.take(p)) {
            Some(_) if self.applier.is_some() => {
                return Err(io::Error::other("the metadata is not purged, so nothing of it can be missing"));
            }
            Some(gathered) => {
                catch_up::install(&self.runtime, gathered, &self.replica.ending).await.map_err(io::Error::other)?
            }
            None if lacks_nothing || self.log.purged().map(|purged| purged.log_id()) == p => {}
            None => {
                let what = format!("the segments of the snapshot as of {p:?} were not gathered before");
                return Err(io::Error::other(what));
            }
        }
        {
            let mut state = self.state();
            state.applied = meta.last_log_id;
            state.membership = meta.last_membership.clone();
            state.snapshot = Some((meta.clone(), manifest));
        }
        if let Some(p) = p {
            self.replica.committed(p.index, &self.log.frontiers());
        }
        Ok(())
    }

    /// The snapshot as of P. Without P nothing was purged, and nobody needs one.
    async fn get_current_snapshot(&mut self) -> Result<Option<SnapshotOf<TypeConfig, Manifest>>, io::Error> {
        if self.log.purged().is_some() {
            return self.build_snapshot().await.map(Some);
        }
        let snapshot = self.state().snapshot.clone();
        Ok(snapshot.map(|(meta, snapshot)| SnapshotOf::<TypeConfig, Manifest> { meta, snapshot }))
    }
}

impl RaftSnapshotBuilder<TypeConfig> for StateMachine {
    type SnapshotData = Manifest;

    /// The manifest as of P; as of what is applied while the log has no P. Cheap: it names data and copies none.
    async fn build_snapshot(&mut self) -> Result<SnapshotOf<TypeConfig, Manifest>, io::Error> {
        let frontiers = self.log.frontiers();
        let (meta, end) = match self.log.purged() {
            Some(p) => {
                let id = Some(to_raft(p.log_id()));
                let membership = membership::decode(self.log.membership_at_p()).map_err(io::Error::other)?;
                let last_membership = StoredMembership::new(id, membership);
                (SnapshotMeta { last_log_id: id, last_membership }, p.offset)
            }
            None => {
                let state = self.state();
                let (last_log_id, last_membership) = (state.applied, state.membership.clone());
                (SnapshotMeta { last_log_id, last_membership }, frontiers.high_watermark)
            }
        };
        // The entry that moved the log start further may lie behind P, and moves it again.
        let snapshot = Manifest { log_start: frontiers.log_start.min(end), end };
        self.state().snapshot = Some((meta.clone(), snapshot));
        Ok(SnapshotOf::<TypeConfig, Manifest> { meta, snapshot })
    }
}
