//! A classic group of consumers becomes a consumer group and back (KIP-848).

use bytes::Bytes;
use millpond_wire::Str;
use millpond_wire::consumer_group_metadata_value::ConsumerGroupMetadataValue;
use millpond_wire::consumer_group_target_assignment_metadata_value::ConsumerGroupTargetAssignmentMetadataValue;

use super::member::{Member, Protocol, Wait};
use super::{ClassicGroup, PENDING_BYTES};
use crate::consumer::{Assignment, ConsumerChange, ConvertedMember};
use crate::consumer_protocol::{assigned_partitions, subscription};
use crate::error::GroupError;
use crate::shard::Turn;
use crate::topics::Topics;

/// What members of the classic protocol offer, by member id: a record holds only what they agreed on.
pub(crate) type Offered = Vec<(Str, Vec<(Str, Bytes)>)>;

impl ClassicGroup {
    /// The records that make a consumer group of this one: its generation is the epoch, and everybody has what it has.
    /// `None` for a group that has other members than consumers, or one whose bytes cannot be read.
    pub(crate) fn as_consumer_group(&self, topics: &dyn Topics) -> Option<Vec<ConsumerChange>> {
        if !self.is_consumers() {
            return None;
        }
        let mut changes = Vec::new();
        for (id, member) in &self.members {
            changes.extend(self.convert(id, member, topics)?);
        }
        let value = ConsumerGroupMetadataValue { epoch: self.generation, metadata_hash: 0 };
        changes.push(ConsumerChange::Epoch(Some(value)));
        let value = ConsumerGroupTargetAssignmentMetadataValue { assignment_epoch: self.generation };
        changes.push(ConsumerChange::TargetEpoch(Some(value)));
        Some(changes)
    }

    fn convert(&self, id: &Str, member: &Member, topics: &dyn Topics) -> Option<[ConsumerChange; 3]> {
        let metadata = match self.protocol.as_ref().and_then(|protocol| member.metadata_of(protocol)) {
            Some(metadata) => metadata,
            None => &member.protocols.first()?.metadata,
        };
        let subscribed = subscription(metadata)?;
        let mut owned = Assignment::new();
        for (topic, partition) in assigned_partitions(&member.assignment).unwrap_or_default() {
            if let Some((topic, _)) = topics.topic(&topic) {
                owned.entry(topic).or_default().insert(partition.0);
            }
        }
        Some(ConsumerChange::of_classic_member(ConvertedMember {
            id: id.clone(),
            instance_id: member.instance_id.clone(),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            rebalance_timeout: member.rebalance_timeout,
            session_timeout: member.session_timeout,
            protocols: member.protocols.iter().map(|one| (one.name.clone(), one.metadata.clone())).collect(),
            subscribed,
            owned,
            epoch: self.generation,
        }))
    }

    /// Tells all that wait to join again: the group becomes another one.
    pub(crate) fn send_away(&mut self, turn: &mut Turn<'_>) {
        self.cancel_timers(turn.timers);
        for id in std::mem::take(&mut self.pending) {
            self.bytes -= PENDING_BYTES + id.len();
        }
        let ids: Vec<Str> = self.members.keys().cloned().collect();
        for id in ids {
            let (joining, syncing) = self.change_member(&id, |member| {
                (std::mem::replace(&mut member.joining, Wait::No), std::mem::replace(&mut member.syncing, Wait::No))
            });
            let mut waiting = Member { joining, syncing, ..self.members[&*id].clone() };
            self.answer_waiting(turn, &id, &mut waiting, GroupError::RebalanceInProgress);
        }
    }

    /// The group was a consumer group until now, and its members are to join: nobody assigns for them any more.
    pub(crate) fn taken_over(&mut self, turn: &mut Turn<'_>, offered: Offered) {
        for (id, protocols) in offered {
            if self.members.contains_key(&*id) {
                let protocols = protocols.into_iter().map(|(name, metadata)| Protocol { name, metadata });
                self.change_member(&id, |member| member.protocols = protocols.collect());
            }
        }
        self.loaded(turn);
        self.prepare(turn, "the last member of the consumer protocol left");
    }
}
