//! What others may know of a group.

use std::collections::BTreeMap;

use millpond_record::{PartitionIndex, Timestamp};
use millpond_wire::Str;

use super::member::{Member, Wait};
use super::{ClassicGroup, Phase};
use crate::consumer_protocol::assigned_partitions;
use crate::describe::{GroupDescription, GroupSummary, GroupType, MAX_OWNED, MemberDescription, MemberSummary};
use crate::error::GroupError;
use crate::expiry::Retention;

impl ClassicGroup {
    /// Since when the offsets of a topic are not needed.
    pub(crate) fn retention_of(&self, topic: &str) -> Retention {
        if self.protocol_type.is_none() {
            return Retention::SinceCommit;
        }
        match self.phase {
            Phase::Empty => self.since.map_or(Retention::SinceCommit, Retention::Since),
            Phase::Stable if !self.is_subscribed_to(topic) => Retention::SinceCommit,
            Phase::Preparing { .. } | Phase::Completing | Phase::Stable => Retention::InUse,
        }
    }

    /// Whether offsets may be deleted at all: what members of other types than consumers read, nobody here knows.
    pub(crate) fn may_delete_offsets(&self) -> Result<(), GroupError> {
        if self.is_empty() || self.is_consumers() { Ok(()) } else { Err(GroupError::NonEmptyGroup) }
    }

    /// Whether a member of this generation may read the topic.
    pub(crate) fn is_subscribed_to(&self, topic: &str) -> bool {
        match &self.subscribed {
            _ if self.phase == Phase::Empty => false,
            Some(topics) => topics.contains(topic),
            None => true,
        }
    }

    pub(crate) fn describe(&self) -> GroupDescription {
        let protocol = self.protocol.as_ref().filter(|_| self.phase == Phase::Stable);
        let describe = |(id, member): (&Str, &Member)| MemberDescription {
            member_id: id.clone(),
            instance_id: member.instance_id.clone(),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            metadata: protocol.and_then(|name| member.metadata_of(name)).cloned().unwrap_or_default(),
            assignment: protocol.map(|_| member.assignment.clone()).unwrap_or_default(),
        };
        GroupDescription {
            state: self.state(),
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            protocol: protocol.cloned().unwrap_or_default(),
            members: self.members.iter().map(describe).collect(),
        }
    }

    pub(crate) fn summary(&self) -> GroupSummary<'_> {
        let preparing = matches!(self.phase, Phase::Preparing { .. });
        let awaited = |member: &&Member| match self.phase {
            Phase::Preparing { .. } => member.joining == Wait::No,
            _ => member.owes_sync,
        };
        GroupSummary {
            group_id: &self.id,
            group_type: GroupType::Classic,
            state: self.state(),
            protocol_type: self.protocol_type.as_ref(),
            protocol: self.protocol.as_ref().filter(|_| !preparing),
            generation: self.generation,
            members: self.members.len(),
            pending_members: self.pending.len(),
            awaited_members: self.members.values().filter(awaited).count(),
            rebalances: self.rebalances.count(),
            last_rebalance: self.rebalances.last(),
            since: self.since,
        }
    }

    pub(crate) fn recent_rebalances(&self) -> impl Iterator<Item = (Timestamp, &str)> {
        self.rebalances.recent()
    }

    pub(crate) fn members(&self) -> impl Iterator<Item = MemberSummary<'_>> {
        self.members.iter().map(summary_of)
    }

    /// Which member each partition is assigned to; empty for members that are no consumers.
    pub(crate) fn owners(&self) -> BTreeMap<(Str, PartitionIndex), MemberSummary<'_>> {
        if !self.is_consumers() {
            return BTreeMap::new();
        }
        let of = |(id, member)| {
            let member: &Member = member;
            let owner = summary_of((id, member));
            assigned_partitions(&member.assignment).unwrap_or_default().into_iter().map(move |one| (one, owner))
        };
        self.members.iter().flat_map(of).take(MAX_OWNED).collect()
    }
}

fn summary_of<'a>((member_id, member): (&'a Str, &'a Member)) -> MemberSummary<'a> {
    MemberSummary {
        member_id,
        instance_id: member.instance_id.as_ref(),
        client_id: &member.client_id,
        client_host: &member.client_host,
    }
}
