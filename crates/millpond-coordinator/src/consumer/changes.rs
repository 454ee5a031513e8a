//! The records of a consumer group, and how each changes it.

use std::collections::BTreeSet;

use bytes::Bytes;
use millpond_record::TopicId;
use millpond_wire::consumer_group_current_member_assignment_key::ConsumerGroupCurrentMemberAssignmentKey;
use millpond_wire::consumer_group_current_member_assignment_value::{
    ConsumerGroupCurrentMemberAssignmentValue, TopicPartitions,
};
use millpond_wire::consumer_group_member_metadata_key::ConsumerGroupMemberMetadataKey;
use millpond_wire::consumer_group_member_metadata_value::ConsumerGroupMemberMetadataValue;
use millpond_wire::consumer_group_metadata_key::ConsumerGroupMetadataKey;
use millpond_wire::consumer_group_metadata_value::ConsumerGroupMetadataValue;
use millpond_wire::consumer_group_partition_metadata_key::ConsumerGroupPartitionMetadataKey;
use millpond_wire::consumer_group_regular_expression_key::ConsumerGroupRegularExpressionKey;
use millpond_wire::consumer_group_regular_expression_value::ConsumerGroupRegularExpressionValue;
use millpond_wire::consumer_group_target_assignment_member_key::ConsumerGroupTargetAssignmentMemberKey;
use millpond_wire::consumer_group_target_assignment_member_value::{
    ConsumerGroupTargetAssignmentMemberValue, TopicPartition,
};
use millpond_wire::consumer_group_target_assignment_metadata_key::ConsumerGroupTargetAssignmentMetadataKey;
use millpond_wire::consumer_group_target_assignment_metadata_value::ConsumerGroupTargetAssignmentMetadataValue;
use millpond_wire::{Data, DecodeError, EncodeError, RecordKey, Str};

use super::{Assignment, ClassicMember, ConsumerGroup, ConsumerMember, MemberState};
use crate::exchange::Record;
use crate::records::RecordError;

/// What a record says of a consumer group; `None` is a tombstone.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ConsumerChange {
    Epoch(Option<ConsumerGroupMetadataValue>),
    Member(Str, Option<ConsumerGroupMemberMetadataValue>),
    TargetEpoch(Option<ConsumerGroupTargetAssignmentMetadataValue>),
    Target(Str, Option<ConsumerGroupTargetAssignmentMemberValue>),
    Current(Str, Option<ConsumerGroupCurrentMemberAssignmentValue>),
    Regex(Str, Option<ConsumerGroupRegularExpressionValue>),
    /// What brokers before Kafka 4.0 wrote of the topics: not needed.
    Topics,
}

impl ConsumerChange {
    /// Reads a record of this kind with the group that it is about; `None` for another kind.
    pub(crate) fn decode(
        kind: i16,
        key: Bytes,
        value: Option<Bytes>,
    ) -> Result<Option<(Str, ConsumerChange)>, RecordError> {
        let in_key = |error| RecordError::Key { kind, error };
        let in_value = |error| RecordError::Value { kind, error };
        fn read<T: Data>(value: Option<Bytes>) -> Result<Option<T>, DecodeError> {
            value.map(T::from_bytes).transpose()
        }
        Ok(Some(match kind {
            ConsumerGroupMetadataKey::KIND => {
                let key = ConsumerGroupMetadataKey::from_key_bytes(key).map_err(in_key)?;
                (key.group_id, ConsumerChange::Epoch(read(value).map_err(in_value)?))
            }
            ConsumerGroupPartitionMetadataKey::KIND => {
                let key = ConsumerGroupPartitionMetadataKey::from_key_bytes(key).map_err(in_key)?;
                (key.group_id, ConsumerChange::Topics)
            }
            ConsumerGroupMemberMetadataKey::KIND => {
                let key = ConsumerGroupMemberMetadataKey::from_key_bytes(key).map_err(in_key)?;
                (key.group_id, ConsumerChange::Member(key.member_id, read(value).map_err(in_value)?))
            }
            ConsumerGroupTargetAssignmentMetadataKey::KIND => {
                let key = ConsumerGroupTargetAssignmentMetadataKey::from_key_bytes(key).map_err(in_key)?;
                (key.group_id, ConsumerChange::TargetEpoch(read(value).map_err(in_value)?))
            }
            ConsumerGroupTargetAssignmentMemberKey::KIND => {
                let key = ConsumerGroupTargetAssignmentMemberKey::from_key_bytes(key).map_err(in_key)?;
                (key.group_id, ConsumerChange::Target(key.member_id, read(value).map_err(in_value)?))
            }
            ConsumerGroupCurrentMemberAssignmentKey::KIND => {
                let key = ConsumerGroupCurrentMemberAssignmentKey::from_key_bytes(key).map_err(in_key)?;
                (key.group_id, ConsumerChange::Current(key.member_id, read(value).map_err(in_value)?))
            }
            ConsumerGroupRegularExpressionKey::KIND => {
                let key = ConsumerGroupRegularExpressionKey::from_key_bytes(key).map_err(in_key)?;
                (key.group_id, ConsumerChange::Regex(key.regular_expression, read(value).map_err(in_value)?))
            }
            _ => return Ok(None),
        }))
    }

    /// The record that says this of the group.
    ///
    /// # Errors
    /// [`EncodeError::TooLong`] for a name of 32 KiB or more.
    pub(crate) fn encode(&self, group: &Str) -> Result<Record, EncodeError> {
        fn value<T: Data>(value: &Option<T>) -> Result<Option<Bytes>, EncodeError> {
            value.as_ref().map(|value| value.to_bytes(0)).transpose()
        }
        let group_id = group.clone();
        Ok(match self {
            ConsumerChange::Epoch(epoch) => {
                Record { key: ConsumerGroupMetadataKey { group_id }.to_key_bytes()?, value: value(epoch)? }
            }
            ConsumerChange::Topics => {
                Record { key: ConsumerGroupPartitionMetadataKey { group_id }.to_key_bytes()?, value: None }
            }
            ConsumerChange::Member(member_id, member) => {
                let key = ConsumerGroupMemberMetadataKey { group_id, member_id: member_id.clone() };
                Record { key: key.to_key_bytes()?, value: value(member)? }
            }
            ConsumerChange::TargetEpoch(epoch) => {
                let key = ConsumerGroupTargetAssignmentMetadataKey { group_id };
                Record { key: key.to_key_bytes()?, value: value(epoch)? }
            }
            ConsumerChange::Target(member_id, target) => {
                let key = ConsumerGroupTargetAssignmentMemberKey { group_id, member_id: member_id.clone() };
                Record { key: key.to_key_bytes()?, value: value(target)? }
            }
            ConsumerChange::Current(member_id, current) => {
                let key = ConsumerGroupCurrentMemberAssignmentKey { group_id, member_id: member_id.clone() };
                Record { key: key.to_key_bytes()?, value: value(current)? }
            }
            ConsumerChange::Regex(regex, topics) => {
                let key = ConsumerGroupRegularExpressionKey { group_id, regular_expression: regex.clone() };
                Record { key: key.to_key_bytes()?, value: value(topics)? }
            }
        })
    }

    pub(crate) fn is_tombstone(&self) -> bool {
        match self {
            ConsumerChange::Epoch(value) => value.is_none(),
            ConsumerChange::Member(_, value) => value.is_none(),
            ConsumerChange::TargetEpoch(value) => value.is_none(),
            ConsumerChange::Target(_, value) => value.is_none(),
            ConsumerChange::Current(_, value) => value.is_none(),
            ConsumerChange::Regex(_, value) => value.is_none(),
            ConsumerChange::Topics => true,
        }
    }

    pub(super) fn target(member_id: &Str, target: &Assignment) -> ConsumerChange {
        let partitions = |(id, partitions): (&TopicId, &BTreeSet<i32>)| TopicPartition {
            topic_id: id.0,
            partitions: partitions.iter().copied().collect(),
        };
        let topic_partitions = target.iter().map(partitions).collect();
        let value = ConsumerGroupTargetAssignmentMemberValue { topic_partitions };
        ConsumerChange::Target(member_id.clone(), Some(value))
    }

    /// How far the member has followed.
    pub(super) fn current(member_id: &Str, member: &ConsumerMember) -> ConsumerChange {
        let list = |assignment: &Assignment| {
            let partitions = |(id, partitions): (&TopicId, &BTreeSet<i32>)| TopicPartitions {
                topic_id: id.0,
                partitions: partitions.iter().copied().collect(),
            };
            assignment.iter().map(partitions).collect()
        };
        let value = ConsumerGroupCurrentMemberAssignmentValue {
            member_epoch: member.epoch,
            previous_member_epoch: member.previous_epoch,
            state: member.state as i8,
            assigned_partitions: list(&member.assigned),
            partitions_pending_revocation: list(&member.revoking),
        };
        ConsumerChange::Current(member_id.clone(), Some(value))
    }
}

fn assignment_of(topics: impl Iterator<Item = ([u8; 16], Vec<i32>)>) -> Assignment {
    let mut assignment = Assignment::new();
    for (topic_id, partitions) in topics.filter(|(_, partitions)| !partitions.is_empty()) {
        assignment.entry(TopicId(topic_id)).or_default().extend(partitions);
    }
    assignment
}

impl ConsumerGroup {
    /// Takes what a record says. In a compacted log the order is that of the last change of each key, so that a
    /// member's assignment may come before the member.
    pub(crate) fn replay(&mut self, change: ConsumerChange) {
        match change {
            ConsumerChange::Epoch(Some(value)) => {
                self.epoch = value.epoch;
                self.metadata_hash = value.metadata_hash;
            }
            ConsumerChange::Epoch(None) => self.epoch = 0,
            ConsumerChange::Member(id, Some(value)) => self.replay_member(&id, value),
            ConsumerChange::Member(id, None) => {
                if let Some(member) = self.members.remove(&*id) {
                    self.release(&id, &member);
                    self.forget_instance(&id, &member);
                }
            }
            ConsumerChange::TargetEpoch(value) => self.target_epoch = value.map_or(0, |value| value.assignment_epoch),
            ConsumerChange::Target(id, Some(value)) => {
                let topics = value.topic_partitions.into_iter().map(|one| (one.topic_id, one.partitions));
                self.targets.insert(id.detached(), assignment_of(topics));
            }
            ConsumerChange::Target(id, None) => {
                self.targets.remove(&*id);
            }
            ConsumerChange::Current(id, value) => self.replay_current(&id, value),
            ConsumerChange::Regex(regex, Some(value)) => {
                self.regexes.insert(regex.detached(), value.topics.iter().map(Str::detached).collect());
            }
            ConsumerChange::Regex(regex, None) => {
                self.regexes.remove(&*regex);
            }
            ConsumerChange::Topics => {}
        }
    }

    fn member_or_new(&mut self, id: &Str) -> &mut ConsumerMember {
        self.members.entry(id.detached()).or_insert_with(ConsumerMember::empty)
    }

    fn forget_instance(&mut self, id: &Str, member: &ConsumerMember) {
        if let Some(instance) = &member.instance_id
            && self.static_members.get(&**instance) == Some(id)
        {
            self.static_members.remove(&**instance);
        }
    }

    fn replay_member(&mut self, id: &Str, value: ConsumerGroupMemberMetadataValue) {
        let copy = |text: &Str| text.detached();
        if let Some(before) = self.members.get(&**id).cloned() {
            self.forget_instance(id, &before);
        }
        if let Some(instance) = &value.instance_id {
            self.static_members.insert(instance.detached(), id.detached());
        }
        let member = self.member_or_new(id);
        member.instance_id = value.instance_id.as_ref().map(copy);
        member.rack_id = value.rack_id.as_ref().map(copy);
        member.client_id = value.client_id.detached();
        member.client_host = value.client_host.detached();
        member.names = value.subscribed_topic_names.iter().map(copy).collect();
        member.regex = value.subscribed_topic_regex.as_ref().filter(|regex| !regex.is_empty()).map(copy);
        member.rebalance_timeout = value.rebalance_timeout_ms;
        member.assignor = value.server_assignor.as_ref().map(copy);
        member.classic = value.classic_member_metadata.map(|classic| ClassicMember {
            session_timeout: classic.session_timeout_ms,
            protocols: classic
                .supported_protocols
                .iter()
                .map(|protocol| (protocol.name.detached(), Bytes::copy_from_slice(&protocol.metadata)))
                .collect(),
        });
    }

    fn replay_current(&mut self, id: &Str, value: Option<ConsumerGroupCurrentMemberAssignmentValue>) {
        if let Some(before) = self.members.get(&**id).cloned() {
            self.release(id, &before);
        }
        let Some(value) = value else {
            if let Some(member) = self.members.get_mut(&**id) {
                (member.epoch, member.previous_epoch) = (super::LEAVES, super::LEAVES);
                member.assigned.clear();
                member.revoking.clear();
            }
            return;
        };
        let topics =
            |topics: Vec<TopicPartitions>| assignment_of(topics.into_iter().map(|one| (one.topic_id, one.partitions)));
        let (assigned, revoking) = (topics(value.assigned_partitions), topics(value.partitions_pending_revocation));
        for (topic, partition) in partitions(&assigned).chain(partitions(&revoking)) {
            self.owners.insert((topic, partition), id.detached());
        }
        let member = self.member_or_new(id);
        member.epoch = value.member_epoch;
        member.previous_epoch = value.previous_member_epoch;
        // A state that a later version has is that of one that waits: it will be computed anew.
        member.state = match value.state {
            0 => MemberState::Stable,
            1 => MemberState::Unrevoked,
            _ => MemberState::Unreleased,
        };
        member.assigned = assigned;
        member.revoking = revoking;
    }

    /// The member's partitions are free, unless another one has them already.
    fn release(&mut self, id: &Str, member: &ConsumerMember) {
        for key in partitions(&member.assigned).chain(partitions(&member.revoking)) {
            if self.owners.get(&key) == Some(id) {
                self.owners.remove(&key);
            }
        }
    }
}

/// The partitions of an assignment, one by one.
pub(super) fn partitions(assignment: &Assignment) -> impl Iterator<Item = (TopicId, i32)> {
    assignment.iter().flat_map(|(topic, partitions)| partitions.iter().map(move |&partition| (*topic, partition)))
}
