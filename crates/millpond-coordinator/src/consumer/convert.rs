//! Members of the classic protocol on their way from one kind of group to the other (KIP-848).

use bytes::Bytes;
use millpond_wire::Str;
use millpond_wire::consumer_protocol_subscription::ConsumerProtocolSubscription;
use millpond_wire::group_metadata_value::{GroupMetadataValue, MemberMetadata};

use super::{Assignment, ClassicMember, ConsumerChange, ConsumerGroup, ConsumerMember};
use crate::classic::Offered;
use crate::consumer::heartbeat::value_of;
use crate::consumer_protocol::{CONSUMER, assignment_bytes};
use crate::exchange::Now;

/// A member of a classic group that becomes a consumer group.
pub(crate) struct ConvertedMember {
    pub(crate) id: Str,
    pub(crate) instance_id: Option<Str>,
    pub(crate) client_id: Str,
    pub(crate) client_host: Str,
    pub(crate) rebalance_timeout: i32,
    pub(crate) session_timeout: i32,
    pub(crate) protocols: Vec<(Str, Bytes)>,
    pub(crate) subscribed: ConsumerProtocolSubscription,
    pub(crate) owned: Assignment,
    pub(crate) epoch: i32,
}

impl ConsumerChange {
    /// The records of a member that has what it was assigned.
    pub(crate) fn of_classic_member(from: ConvertedMember) -> [ConsumerChange; 3] {
        let classic = ClassicMember { session_timeout: from.session_timeout, protocols: from.protocols };
        let member = ConsumerMember {
            instance_id: from.instance_id,
            rack_id: from.subscribed.rack_id.filter(|rack| !rack.is_empty()),
            client_id: from.client_id,
            client_host: from.client_host,
            names: from.subscribed.topics.into_iter().collect(),
            rebalance_timeout: from.rebalance_timeout,
            classic: Some(classic),
            epoch: from.epoch,
            previous_epoch: from.epoch,
            assigned: from.owned,
            ..ConsumerMember::empty()
        };
        [
            ConsumerChange::Member(from.id.clone(), Some(value_of(&member))),
            ConsumerChange::target(&from.id, &member.assigned),
            ConsumerChange::current(&from.id, &member),
        ]
    }
}

impl ConsumerGroup {
    /// Whether no record tells of it.
    pub(crate) fn is_unrecorded(&self) -> bool {
        self.epoch == 0 && self.target_epoch == 0 && self.members.is_empty() && self.regexes.is_empty()
    }

    /// The record that makes a classic group of this one, which has only members of that protocol, and what each of
    /// them offers. `None` when they share no protocol, which joining does not allow.
    pub(crate) fn as_classic_group(&self, now: Now) -> Option<(GroupMetadataValue, Offered)> {
        let offers: Vec<(&Str, &ConsumerMember, &ClassicMember)> =
            self.members.iter().filter_map(|(id, member)| Some((id, member, member.classic.as_ref()?))).collect();
        let knows = |classic: &ClassicMember, name: &Str| classic.protocols.iter().any(|(known, _)| known == name);
        let (leader, _, first) = offers.first()?;
        let mut candidates = first.protocols.iter().map(|(name, _)| name);
        let protocol = candidates.find(|name| offers.iter().all(|(_, _, classic)| knows(classic, name)))?;
        let metadata = |&(id, member, classic): &(&Str, &ConsumerMember, &ClassicMember)| {
            let own = classic.protocols.iter().find(|(name, _)| name == protocol);
            let subscription = own.map(|(_, metadata)| metadata.clone()).unwrap_or_default();
            let named = member.assigned.iter().filter_map(|(topic, partitions)| {
                Some((self.topic_names.get(topic)?.clone(), partitions.iter().copied().collect()))
            });
            MemberMetadata {
                member_id: id.clone(),
                group_instance_id: member.instance_id.clone(),
                client_id: member.client_id.clone(),
                client_host: member.client_host.clone(),
                rebalance_timeout: member.rebalance_timeout,
                session_timeout: classic.session_timeout,
                assignment: assignment_bytes(&named.collect::<Vec<_>>(), &subscription),
                subscription,
            }
        };
        let value = GroupMetadataValue {
            protocol_type: Str::from_static(CONSUMER),
            generation: self.epoch,
            protocol: Some(protocol.clone()),
            leader: Some((*leader).clone()),
            current_state_timestamp: now.wall.0,
            members: offers.iter().map(metadata).collect(),
        };
        let offered = offers.iter().map(|(id, _, classic)| ((*id).clone(), classic.protocols.clone())).collect();
        Some((value, offered))
    }
}
