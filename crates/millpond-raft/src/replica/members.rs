//! How a group gets other members.

use std::collections::{BTreeMap, BTreeSet};

use millpond_record::{BrokerId, ReplicaId};
use openraft::ChangeMembers;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, RaftError as OpenraftError};
use openraft::raft::Precondition;
use openraft::type_config::TypeConfigExt;
use openraft::type_config::alias::InstantOf;

use super::Replica;
use crate::error::RaftError;
use crate::types::{Member, TypeConfig};

/// How far a new replica may be behind when it becomes a voter, in entries; the rest follows at once.
const CAUGHT_UP: u64 = 1000;

impl Replica {
    /// That the members are still those that this leader knows now, of whom it is one: openraft keeps a leader that has
    /// left for a while, and its engine ends there when it is to change members (a debug assertion).
    fn unless_changed(&self) -> Result<Precondition<TypeConfig>, RaftError> {
        let metrics = self.raft.server_metrics();
        let known = &metrics.borrow_watched().membership_config;
        match known.membership().get_node(&self.id().0) {
            Some(_) => Ok(Precondition::LastMembershipLogId { last_membership_log_id: *known.log_id() }),
            None => Err(RaftError::NotLeader(self.group())),
        }
    }

    /// Asks openraft for it. Refused if the members change meanwhile, by another call or another leader.
    async fn change(&self, changes: ChangeMembers<u64, Member>, retain: bool) -> Result<(), RaftError> {
        let (raft, unless_changed) = (self.raft.clone(), self.unless_changed()?);
        let changing = async move { raft.change_membership_if(changes, retain, [unless_changed]).await.map(drop) };
        self.changed(self.shared.runtime.spawn(changing).await)
    }

    /// Adds a replica that does not vote, unless it is a member already.
    pub(crate) async fn add_learner(&self, replica: ReplicaId, member: Member) -> Result<(), RaftError> {
        if self.members().iter().any(|known| known.replica == replica) {
            return Ok(());
        }
        self.change(ChangeMembers::AddNodes([(replica.0, member)].into()), true).await
    }

    /// Makes `voters`, who must be members, the voters. The others leave the group, unless `retain` keeps them as
    /// learners. Nothing if that is so.
    pub(crate) async fn set_voters(&self, voters: BTreeMap<ReplicaId, Member>, retain: bool) -> Result<(), RaftError> {
        let ids: BTreeSet<u64> = voters.keys().map(|id| id.0).collect();
        let nodes: BTreeMap<u64, Member> = voters.into_iter().map(|(id, member)| (id.0, member)).collect();
        let is_so = {
            let metrics = self.raft.server_metrics();
            let now = metrics.borrow_watched();
            let membership = now.membership_config.membership();
            membership.get_joint_config() == std::slice::from_ref(&ids)
                && nodes.iter().all(|(id, member)| membership.get_node(id) == Some(member))
                && now.membership_config.log_id() == now.committed_membership_config.log_id()
        };
        if is_so {
            return Ok(());
        }
        let changes = ChangeMembers::Batch(vec![ChangeMembers::SetNodes(nodes), ChangeMembers::ReplaceAllVoters(ids)]);
        self.change(changes, retain).await
    }

    /// Removes replicas that do not vote.
    pub(crate) async fn remove(&self, replicas: BTreeSet<ReplicaId>) -> Result<(), RaftError> {
        self.change(ChangeMembers::RemoveNodes(replicas.iter().map(|id| id.0).collect()), false).await
    }

    fn changed(
        &self,
        result: Result<
            Result<(), OpenraftError<TypeConfig, ClientWriteError<TypeConfig>>>,
            millpond_runtime::JoinError,
        >,
    ) -> Result<(), RaftError> {
        let fatal = |why: String| RaftError::Fatal { group: self.group(), why: why.into() };
        match result.map_err(|error| fatal(error.to_string()))? {
            Ok(()) => Ok(()),
            Err(OpenraftError::APIError(ClientWriteError::ForwardToLeader(_))) => {
                Err(RaftError::NotLeader(self.group()))
            }
            Err(OpenraftError::APIError(error)) => {
                Err(RaftError::MembersUnchanged { group: self.group(), why: error.to_string().into() })
            }
            Err(OpenraftError::Fatal(error)) => Err(self.fatal(&error)),
        }
    }

    /// Makes these replicas the members of the group: new ones are filled before they vote. For the leader.
    pub(crate) async fn change_members(&self, target: &[(ReplicaId, BrokerId)], version: u64) -> Result<(), RaftError> {
        let (known, complete) = self.members_version();
        if version < known {
            return Err(RaftError::StaleAssignment { group: self.group(), version, known });
        }
        let target: BTreeMap<ReplicaId, Member> =
            target.iter().map(|&(replica, broker)| (replica, Member { broker, assignment_version: version })).collect();
        let voters: BTreeSet<ReplicaId> =
            self.members().iter().filter(|member| member.voter).map(|member| member.replica).collect();
        if version == known && complete && voters.iter().eq(target.keys()) {
            return Ok(());
        }
        if target.keys().any(|id| !self.members().iter().any(|member| member.replica == *id)) {
            // What it is filled with are closed segments; without this it would get all of the log by Raft.
            self.advance_p(|replica| target.contains_key(&replica)).await?;
        }
        for (&replica, &member) in &target {
            self.add_learner(replica, member).await?;
        }
        self.in_step(&target, None).await?;
        // A voter of before may be gone since, or may have lost what it acknowledged and take no part: what is known of
        // its log does not say. Without these members the change could be neither done nor taken back.
        let now = TypeConfig::now();
        self.tell_committed().await;
        self.in_step(&target, Some(now)).await?;
        self.set_voters(target.clone(), false).await?;
        if !target.contains_key(&self.id()) {
            // It leads no more when that is committed; who leads then sees to the rest.
            return Ok(());
        }
        let left: BTreeSet<ReplicaId> =
            self.members().iter().map(|member| member.replica).filter(|id| !target.contains_key(id)).collect();
        if left.is_empty() { Ok(()) } else { self.remove(left).await }
    }

    /// Waits until the logs of these members are not far behind this leader's, and each has answered something that it
    /// was sent at `since` or later.
    async fn in_step(
        &self,
        target: &BTreeMap<ReplicaId, Member>,
        since: Option<InstantOf<TypeConfig>>,
    ) -> Result<(), RaftError> {
        self.until(|metrics| {
            let stood_for = self.stood_for();
            let (Some(replication), Some(answered)) = (&metrics.replication, &metrics.heartbeat) else { return true };
            let last = metrics.last_log_index.unwrap_or(0);
            target.keys().filter(|id| id.0 != metrics.id).all(|id| {
                // Nothing is known of one that is answered for.
                if stood_for.contains(id) {
                    return false;
                }
                let matched = replication.get(&id.0).and_then(Option::as_ref);
                let answered = answered.get(&id.0).and_then(Option::as_ref).map(|at| **at);
                matched.is_some_and(|matched| matched.index() + CAUGHT_UP >= last)
                    && since.is_none_or(|since| answered.is_some_and(|at| at >= since))
            })
        })
        .await
    }
}
