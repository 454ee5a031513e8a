//! What others may know of a consumer group.

use std::collections::BTreeMap;

use millpond_record::{PartitionIndex, Timestamp};
use millpond_wire::Str;

use super::changes::partitions;
use super::{Assignment, ConsumerGroup, ConsumerMember};
use crate::consumer_protocol::CONSUMER;
use crate::describe::{
    ConsumerGroupDescription, ConsumerMemberDescription, GroupState, GroupSummary, GroupType, MAX_OWNED, MemberSummary,
    NamedPartitions,
};
use crate::topics::Topics;

impl ConsumerGroup {
    pub(crate) fn state(&self) -> GroupState {
        match () {
            _ if self.members.is_empty() => GroupState::Empty,
            _ if self.epoch > self.target_epoch => GroupState::Assigning,
            _ if self.members.values().any(|member| !self.has_followed(member)) => GroupState::Reconciling,
            _ => GroupState::Stable,
        }
    }

    /// Whether a member reads the topic.
    pub(crate) fn is_subscribed_to(&self, topic: &str) -> bool {
        self.members.values().any(|member| self.names_of(member).any(|name| **name == *topic))
    }

    pub(crate) fn describe(&self, topics: &dyn Topics) -> ConsumerGroupDescription {
        let named = |assignment: &Assignment| {
            let named = assignment.iter().filter_map(|(topic_id, partitions)| {
                let topic = topics.name(*topic_id)?;
                Some(NamedPartitions { topic_id: *topic_id, topic, partitions: partitions.iter().copied().collect() })
            });
            named.collect()
        };
        let none = Assignment::new();
        let describe = |(id, member): (&Str, &ConsumerMember)| ConsumerMemberDescription {
            member_id: id.clone(),
            instance_id: member.instance_id.clone(),
            rack_id: member.rack_id.clone(),
            member_epoch: member.epoch,
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            subscribed_topics: member.names.iter().cloned().collect(),
            subscribed_regex: member.regex.clone(),
            assignment: named(&member.assigned),
            target: named(self.targets.get(&**id).unwrap_or(&none)),
            speaks_classic: member.classic.is_some(),
        };
        ConsumerGroupDescription {
            state: self.state(),
            epoch: self.epoch,
            assignment_epoch: self.target_epoch,
            assignor: self.assignor().name(),
            members: self.members.iter().map(describe).collect(),
        }
    }

    pub(crate) fn summary(&self) -> GroupSummary<'_> {
        GroupSummary {
            group_id: &self.id,
            group_type: GroupType::Consumer,
            state: self.state(),
            protocol_type: Some(&PROTOCOL_TYPE),
            protocol: None,
            generation: self.epoch,
            members: self.members.len(),
            pending_members: 0,
            awaited_members: self.members.values().filter(|member| !self.has_followed(member)).count(),
            rebalances: self.rebalances.count(),
            last_rebalance: self.rebalances.last(),
            since: self.rebalances.last().map(|(at, _)| at),
        }
    }

    pub(crate) fn recent_rebalances(&self) -> impl Iterator<Item = (Timestamp, &str)> {
        self.rebalances.recent()
    }

    pub(crate) fn members(&self) -> impl Iterator<Item = MemberSummary<'_>> {
        self.members.iter().map(summary_of)
    }

    /// Which member has each partition, by the topic's name.
    pub(crate) fn owners(&self) -> BTreeMap<(Str, PartitionIndex), MemberSummary<'_>> {
        let of = |(id, member)| {
            let member: &ConsumerMember = member;
            let owner = summary_of((id, member));
            let own = partitions(&member.assigned);
            own.filter_map(move |(topic, partition)| {
                Some(((self.topic_names.get(&topic)?.clone(), PartitionIndex(partition)), owner))
            })
        };
        self.members.iter().flat_map(of).take(MAX_OWNED).collect()
    }
}

fn summary_of<'a>((member_id, member): (&'a Str, &'a ConsumerMember)) -> MemberSummary<'a> {
    MemberSummary {
        member_id,
        instance_id: member.instance_id.as_ref(),
        client_id: &member.client_id,
        client_host: &member.client_host,
    }
}

static PROTOCOL_TYPE: Str = Str::from_static(CONSUMER);
