//! A partition whose copy here may miss what it acknowledged ([`Taint`]): no Raft object is opened on it, so that it
//! neither votes nor acknowledges, leads or serves, until it is replaced by a new replica or trusted by an operator.
//!
//! Why that matters: a follower that acknowledged an entry, lost it and votes all the same may elect a leader that
//! never had the entry, although no majority of the replicas has lost it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use millpond_record::{LogId, ReplicaId};
use millpond_runtime::{PlantedFault, planted};
use millpond_storage::{Log, Taint};

use super::replicated::Kind;
use super::{Inner, Partition, Phase};
use crate::error::{ProposeError, RaftError};
use crate::membership;

/// What there is of a partition on a broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remains {
    /// It may miss what it acknowledged.
    pub tainted: bool,
    /// The last entry of its log, or P if there is none behind it; `None` for an empty log.
    pub last: Option<LogId>,
    /// Who votes, as its log has it: a majority of each of these sets decides. One set, or two while it changes.
    pub electorates: Vec<BTreeSet<ReplicaId>>,
}

impl Partition {
    /// Whether the copy here may miss what it acknowledged, so that it takes no part.
    pub fn is_tainted(&self) -> bool {
        self.0.tainted.load(Ordering::Acquire)
    }

    /// What there is of the partition here; opens it if it is not open. `None` where its copy is damaged or cannot be
    /// read.
    pub async fn remains(&self) -> Option<Remains> {
        if self.is_damaged() {
            return None;
        }
        let (log, tainted) = match self.opening().await {
            Ok(log) => (log, false),
            Err(RaftError::Tainted(group)) => {
                let data_dir = self.0.shared.data_dir.clone();
                (self.0.shared.runtime.blocking(move || data_dir.log(group)).await.ok()??, true)
            }
            Err(_) => return None,
        };
        if self.is_damaged() {
            return None;
        }
        let last = log.frontiers().last.or_else(|| log.purged().map(|purged| purged.log_id()));
        let membership = membership::decode(log.membership().1).ok()?;
        let voters = |voters: &BTreeSet<u64>| voters.iter().copied().map(ReplicaId).collect();
        Some(Remains { tainted, last, electorates: membership.get_joint_config().iter().map(voters).collect() })
    }

    /// The copy here is taken for what it is; the data directory says so durably.
    pub(crate) fn trusted(&self) {
        {
            let mut gate = self.0.lock_gate();
            if gate.phase != Phase::Tainted {
                return;
            }
            gate.phase = Phase::Asleep;
            self.0.tainted.store(false, Ordering::Release);
        }
        self.wake();
    }
}

impl Inner {
    /// Whether the copy that was just opened takes no part. One that turns out to have no other replica does: nobody
    /// has more than it.
    pub(super) fn is_kept_out(&self, log: &Log) -> bool {
        let taint = self.shared.data_dir.taint(self.group);
        if taint == Taint::None || planted(PlantedFault::IgnoresTaint) {
            return false;
        }
        let alone = Kind::of(log.membership().1, self.replica) == Kind::Solo;
        // The first entry is never lost: without any it has acknowledged nothing.
        let empty = log.frontiers().last.is_none() && log.purged().is_none();
        if empty || (alone && taint == Taint::IfShared) {
            self.shared.data_dir.not_shared(self.group);
            return false;
        }
        true
    }

    /// The partition takes no part. Whoever waits for it is told.
    pub(super) fn keep_out(self: Arc<Self>) {
        self.replication.set_kind(Kind::Replicated);
        let (queue, openers) = {
            let mut gate = self.lock_gate();
            if gate.phase != Phase::Opening {
                return;
            }
            gate.phase = Phase::Tainted;
            self.tainted.store(true, Ordering::Release);
            (std::mem::take(&mut gate.queue), std::mem::take(&mut gate.openers))
        };
        for queued in queue {
            queued.flight.complete(Err(ProposeError::NotLeader));
        }
        for opener in openers {
            // Gone if the caller of log() gave up.
            let _ = opener.send(Err(RaftError::Tainted(self.group)));
        }
    }
}
