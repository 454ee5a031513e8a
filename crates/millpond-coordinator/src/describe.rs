//! Describing and listing groups, for clients and for operators.

use bytes::Bytes;
use millpond_record::{PartitionIndex, Timestamp};
use millpond_wire::Str;

use crate::error::GroupError;
use crate::offsets::CommittedOffset;
use crate::shard::Shard;

/// Where a group stands. The names are Kafka's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupState {
    Empty,
    PreparingRebalance,
    CompletingRebalance,
    Stable,
}

impl GroupState {
    /// As DescribeGroups and ListGroups show it.
    pub fn name(self) -> &'static str {
        match self {
            GroupState::Empty => "Empty",
            GroupState::PreparingRebalance => "PreparingRebalance",
            GroupState::CompletingRebalance => "CompletingRebalance",
            GroupState::Stable => "Stable",
        }
    }
}

/// The protocol that the members of a group speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupType {
    /// JoinGroup and SyncGroup; also a group that has offsets only.
    Classic,
}

impl GroupType {
    /// As ListGroups shows it.
    pub fn name(self) -> &'static str {
        match self {
            GroupType::Classic => "classic",
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
}

/// A committed offset with the member that the partition is assigned to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionSummary<'a> {
    pub topic: &'a Str,
    pub partition: PartitionIndex,
    pub committed: &'a CommittedOffset,
    /// The member id; `None` when nobody has the partition, or the group is no group of consumers.
    pub owner: Option<&'a Str>,
}

impl Shard {
    /// DescribeGroups for one group.
    ///
    /// # Errors
    /// [`GroupError::UnknownGroup`].
    pub fn describe_group(&self, group_id: &str) -> Result<GroupDescription, GroupError> {
        let group = self.groups.get(group_id).ok_or(GroupError::UnknownGroup)?;
        Ok(group.classic.describe())
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
        self.groups.values().map(|group| group.classic.summary())
    }

    /// One group.
    pub fn summary(&self, group_id: &str) -> Option<GroupSummary<'_>> {
        self.groups.get(group_id).map(|group| group.classic.summary())
    }

    /// The committed offsets of a group, each with its partition's owner.
    pub fn partitions(&self, group_id: &str) -> Vec<PartitionSummary<'_>> {
        let Some(group) = self.groups.get(group_id) else { return Vec::new() };
        let owners = group.classic.owners();
        let summary = |(topic, partition, committed)| PartitionSummary {
            topic,
            partition,
            committed,
            owner: owners.get(&(topic.clone(), partition)).copied(),
        };
        group.offsets.iter().map(summary).collect()
    }
}
