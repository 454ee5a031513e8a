//! Describing and listing groups, for clients and for operators.

use bytes::Bytes;
use millpond_record::{PartitionIndex, Timestamp, TopicId};
use millpond_wire::Str;

use crate::error::GroupError;
use crate::membership::Membership;
use crate::offsets::CommittedOffset;
use crate::shard::Shard;
use crate::topics::Topics;

/// Where a group stands. The names are Kafka's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupState {
    Empty,
    PreparingRebalance,
    CompletingRebalance,
    /// Of a consumer group: the assignment is to be computed.
    Assigning,
    /// Of a consumer group: members have not followed the assignment.
    Reconciling,
    Stable,
}

impl GroupState {
    /// As DescribeGroups and ListGroups show it.
    pub fn name(self) -> &'static str {
        match self {
            GroupState::Empty => "Empty",
            GroupState::PreparingRebalance => "PreparingRebalance",
            GroupState::CompletingRebalance => "CompletingRebalance",
            GroupState::Assigning => "Assigning",
            GroupState::Reconciling => "Reconciling",
            GroupState::Stable => "Stable",
        }
    }
}

/// The protocol that the members of a group speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupType {
    /// JoinGroup and SyncGroup; also a group that has offsets only.
    Classic,
    /// ConsumerGroupHeartbeat (KIP-848).
    Consumer,
}

impl GroupType {
    /// As ListGroups shows it.
    pub fn name(self) -> &'static str {
        match self {
            GroupType::Classic => "classic",
            GroupType::Consumer => "consumer",
        }
    }
}

/// A classic group, as DescribeGroups shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupDescription {
    pub state: GroupState,
    /// Empty when the group has never had members.
    pub protocol_type: Str,
    /// Empty unless the group is stable.
    pub protocol: Str,
    pub members: Vec<MemberDescription>,
}

/// A member, as DescribeGroups shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberDescription {
    pub member_id: Str,
    pub instance_id: Option<Str>,
    pub client_id: Str,
    pub client_host: Str,
    /// Empty unless the group is stable, as the next.
    pub metadata: Bytes,
    pub assignment: Bytes,
}

/// A consumer group, as ConsumerGroupDescribe shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerGroupDescription {
    pub state: GroupState,
    pub epoch: i32,
    pub assignment_epoch: i32,
    pub assignor: &'static str,
    pub members: Vec<ConsumerMemberDescription>,
}

/// A member of a consumer group, as ConsumerGroupDescribe shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerMemberDescription {
    pub member_id: Str,
    pub instance_id: Option<Str>,
    pub rack_id: Option<Str>,
    pub member_epoch: i32,
    pub client_id: Str,
    pub client_host: Str,
    pub subscribed_topics: Vec<Str>,
    pub subscribed_regex: Option<Str>,
    /// What it may own now.
    pub assignment: Vec<NamedPartitions>,
    /// What it is to own.
    pub target: Vec<NamedPartitions>,
    /// Whether it speaks the classic protocol.
    pub speaks_classic: bool,
}

/// Partitions of a topic that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedPartitions {
    pub topic_id: TopicId,
    pub topic: Str,
    pub partitions: Vec<i32>,
}

/// A group, as ListGroups shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedGroup {
    pub group_id: Str,
    pub protocol_type: Str,
    pub state: GroupState,
    pub group_type: GroupType,
}

/// Which groups ListGroups asks for. Names count in any case of letters; a name that there is not matches nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupFilter {
    /// Empty: any.
    pub states: Vec<Str>,
    /// Empty: any.
    pub types: Vec<Str>,
}

/// What an operator wants to know of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSummary<'a> {
    pub group_id: &'a Str,
    pub group_type: GroupType,
    pub state: GroupState,
    pub protocol_type: Option<&'a Str>,
    pub protocol: Option<&'a Str>,
    pub generation: i32,
    pub members: usize,
    /// Member ids that have been given out and did not join yet: a rebalance waits for them.
    pub pending_members: usize,
    /// Members that a rebalance under way still waits for.
    pub awaited_members: usize,
    /// Rebalances since the shard was loaded.
    pub rebalances: u64,
    /// When the last of them began, and why.
    pub last_rebalance: Option<(Timestamp, &'a str)>,
    /// When its state began, as far as that is known.
    pub since: Option<Timestamp>,
}

/// Who a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberSummary<'a> {
    pub member_id: &'a Str,
    pub instance_id: Option<&'a Str>,
    pub client_id: &'a Str,
    pub client_host: &'a Str,
}

/// A partition that a group has committed an offset for, or that a member of it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionSummary<'a> {
    pub topic: Str,
    pub partition: PartitionIndex,
    pub committed: Option<&'a CommittedOffset>,
    /// `None` when nobody has the partition, or the group is no group of consumers.
    pub owner: Option<MemberSummary<'a>>,
}

/// Partitions with an owner that are looked at; no group of any use has as many.
pub(crate) const MAX_OWNED: usize = 100_000;

impl Shard {
    /// DescribeGroups for one group.
    ///
    /// # Errors
    /// [`GroupError::UnknownGroup`], also for a consumer group.
    pub fn describe_group(&self, group_id: &str) -> Result<GroupDescription, GroupError> {
        match self.groups.get(group_id).map(|group| &group.membership) {
            Some(Membership::Classic(group)) => Ok(group.describe()),
            Some(Membership::Consumer(_)) | None => Err(GroupError::UnknownGroup),
        }
    }

    /// ConsumerGroupDescribe for one group.
    ///
    /// # Errors
    /// [`GroupError::UnknownGroup`], also for a classic group.
    pub fn describe_consumer_group(
        &self,
        group_id: &str,
        topics: &dyn Topics,
    ) -> Result<ConsumerGroupDescription, GroupError> {
        match self.groups.get(group_id).map(|group| &group.membership) {
            Some(Membership::Consumer(group)) => Ok(group.describe(topics)),
            Some(Membership::Classic(_)) | None => Err(GroupError::UnknownGroup),
        }
    }

    /// ListGroups.
    pub fn list_groups(&self, filter: &GroupFilter) -> Vec<ListedGroup> {
        let named = |names: &[Str], name: &str| {
            names.is_empty() || names.iter().any(|wanted| wanted.eq_ignore_ascii_case(name))
        };
        let listed = self
            .summaries()
            .filter(|group| named(&filter.states, group.state.name()) && named(&filter.types, group.group_type.name()));
        let listed = listed.map(|group| ListedGroup {
            group_id: group.group_id.clone(),
            protocol_type: group.protocol_type.cloned().unwrap_or_default(),
            state: group.state,
            group_type: group.group_type,
        });
        listed.collect()
    }

    /// All groups, by id.
    pub fn summaries(&self) -> impl Iterator<Item = GroupSummary<'_>> {
        self.groups.values().map(|group| group.membership.summary())
    }

    /// One group.
    pub fn summary(&self, group_id: &str) -> Option<GroupSummary<'_>> {
        self.groups.get(group_id).map(|group| group.membership.summary())
    }

    /// What a group has committed and what its members have, by topic and partition.
    pub fn partitions(&self, group_id: &str) -> Vec<PartitionSummary<'_>> {
        let Some(group) = self.groups.get(group_id) else { return Vec::new() };
        let mut owners = group.membership.owners();
        let committed = |(topic, partition, committed): (&Str, PartitionIndex, _)| {
            let owner = owners.remove(&(topic.clone(), partition));
            PartitionSummary { topic: topic.clone(), partition, committed: Some(committed), owner }
        };
        let mut partitions: Vec<_> = group.offsets.iter().map(committed).collect();
        let without = owners.into_iter().map(|((topic, partition), owner)| PartitionSummary {
            topic,
            partition,
            committed: None,
            owner: Some(owner),
        });
        partitions.extend(without);
        partitions.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
        partitions
    }

    /// The members of a group, by id.
    pub fn members(&self, group_id: &str) -> Vec<MemberSummary<'_>> {
        self.groups.get(group_id).map(|group| group.membership.members()).unwrap_or_default()
    }

    /// When the last rebalances of a group began, and why; the oldest first. They are known from the time on when the
    /// shard was loaded.
    pub fn recent_rebalances(&self, group_id: &str) -> Vec<(Timestamp, &str)> {
        self.groups.get(group_id).map(|group| group.membership.recent_rebalances()).unwrap_or_default()
    }
}
