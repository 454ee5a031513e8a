//! Members of the classic protocol in a consumer group: they join and sync as ever, and get what the broker assigned.

use std::collections::BTreeSet;

use bytes::Bytes;
use millpond_record::TopicId;
use millpond_wire::Str;
use millpond_wire::consumer_group_member_metadata_value::{
    ClassicMemberMetadata, ClassicProtocol, ConsumerGroupMemberMetadataValue,
};
use millpond_wire::consumer_protocol_subscription::ConsumerProtocolSubscription;
use millpond_wire::join_group::JoinGroupRequest;
use millpond_wire::leave_group::MemberIdentity;
use millpond_wire::sync_group::SyncGroupRequest;

use super::heartbeat::value_of;
use super::{Assignment, ConsumerGroup, ConsumerMember, MemberState};
use crate::classic::named_members;
use crate::consumer_protocol::{CONSUMER, assignment_bytes, subscription};
use crate::error::GroupError;
use crate::exchange::{JoinReply, Joined, Synced};
use crate::member_id::new_member_id;
use crate::request::JoinContext;
use crate::shard::Turn;
use crate::topics::Topics;

/// From here on a new member is told its id first, and must come back with it (KIP-394).
const FIRST_VERSION_WITH_ID_REQUIRED: i16 = 4;

impl ConsumerGroup {
    /// JoinGroup: answered at once, with the member's epoch as its generation.
    pub(crate) fn classic_join(
        &mut self,
        turn: &mut Turn<'_>,
        request: &JoinGroupRequest,
        context: &JoinContext,
        topics: &dyn Topics,
    ) -> JoinReply {
        let instance = request.group_instance_id.as_ref();
        let member_id = match &request.member_id {
            given if given.is_empty() => new_member_id(instance, context),
            given => given.detached(),
        };
        if request.member_id.is_empty() && instance.is_none() && context.version >= FIRST_VERSION_WITH_ID_REQUIRED {
            return JoinReply { member_id, outcome: Err(GroupError::MemberIdRequired) };
        }
        match self.try_classic_join(turn, &member_id, request, context, topics) {
            Ok(joined) => JoinReply { member_id, outcome: Ok(joined) },
            Err(error) => JoinReply { member_id: request.member_id.detached(), outcome: Err(error) },
        }
    }

    fn try_classic_join(
        &mut self,
        turn: &mut Turn<'_>,
        member_id: &Str,
        request: &JoinGroupRequest,
        context: &JoinContext,
        topics: &dyn Topics,
    ) -> Result<Joined, GroupError> {
        self.has_room_for(member_id, turn)?;
        let first = request.protocols.first().filter(|_| *request.protocol_type == *CONSUMER);
        let first = first.ok_or(GroupError::InconsistentProtocol)?;
        if !request.protocols.iter().any(|offered| self.classic_members_know(&offered.name)) {
            return Err(GroupError::InconsistentProtocol);
        }
        let subscribed = subscription(&first.metadata).ok_or(GroupError::InconsistentProtocol)?;
        let instance = request.group_instance_id.as_ref();
        let mut why = None;
        match instance.and_then(|instance| self.static_members.get(&**instance)).cloned() {
            Some(current) if current == *member_id => {}
            // A classic member that restarts does not say before that it leaves.
            Some(former) if request.member_id.is_empty() => self.replace(turn, &former, member_id)?,
            Some(_) => return Err(GroupError::FencedInstance),
            None if instance.is_some() && !request.member_id.is_empty() => return Err(GroupError::UnknownMember),
            None if self.members.contains_key(&**member_id) => {}
            None => why = Some(format!("member {member_id} is new")),
        }
        let before = self.members.get(&**member_id).cloned().unwrap_or_else(ConsumerMember::empty);
        let owned = owned_by(&subscribed, topics);
        let value = told_by(request, &subscribed, &before, context);
        self.take_subscription(turn, member_id, value, &mut why)?;
        self.follow_topics(turn, topics, why)?;
        self.reconcile(turn, member_id, Some(&owned))?;
        self.extend_session(turn, member_id);
        // It has to sync in time.
        turn.timers.cancel(&self.rebalance_timer(member_id));
        self.expect_progress(turn, member_id);
        Ok(Joined {
            generation: self.members[&**member_id].epoch,
            protocol_type: Some(Str::from_static(CONSUMER)),
            protocol: Some(first.name.detached()),
            // Nobody leads: the broker assigns.
            leader: Str::EMPTY,
            skip_assignment: false,
            members: Vec::new(),
        })
    }

    fn classic_members_know(&self, protocol: &str) -> bool {
        let classic = self.members.values().filter_map(|member| member.classic.as_ref());
        let mut each = classic.map(|classic| classic.protocols.iter().any(|(name, _)| *name == *protocol));
        each.all(|knows| knows)
    }

    fn check_classic_member(
        &self,
        member_id: &str,
        instance_id: Option<&Str>,
        generation: i32,
    ) -> Result<(&Str, &ConsumerMember), GroupError> {
        if let Some(instance) = instance_id {
            match self.static_members.get(&**instance) {
                None => return Err(GroupError::UnknownMember),
                Some(current) if **current != *member_id => return Err(GroupError::FencedInstance),
                Some(_) => {}
            }
        }
        let (id, member) = self.members.get_key_value(member_id).ok_or(GroupError::UnknownMember)?;
        if member.classic.is_none() {
            return Err(GroupError::UnknownMember);
        }
        let (given, current) = (generation, member.epoch);
        if given == current { Ok((id, member)) } else { Err(GroupError::IllegalGeneration { given, current }) }
    }

    /// SyncGroup: what the broker has assigned.
    pub(crate) fn classic_sync(
        &mut self,
        turn: &mut Turn<'_>,
        request: &SyncGroupRequest,
        topics: &dyn Topics,
    ) -> Result<Synced, GroupError> {
        let (id, instance) = (&request.member_id, request.group_instance_id.as_ref());
        let (id, member) = self.check_classic_member(id, instance, request.generation_id)?;
        let id = id.clone();
        let first = member.classic.as_ref().and_then(|classic| classic.protocols.first());
        let (protocol, metadata) = first.ok_or(GroupError::InconsistentProtocol)?;
        let claims = |claimed: &Option<Str>, own: &str| claimed.as_ref().is_none_or(|claimed| **claimed == *own);
        if !claims(&request.protocol_type, CONSUMER) || !claims(&request.protocol_name, protocol) {
            return Err(GroupError::InconsistentProtocol);
        }
        // One that still has to give something up syncs first: it must learn what it may keep.
        if self.epoch > member.epoch && member.state != MemberState::Unrevoked {
            self.expect_progress(turn, &id);
            return Err(GroupError::RebalanceInProgress);
        }
        let assignment = assignment_bytes(&self.by_name(&member.assigned, topics), metadata);
        let synced =
            Synced { protocol_type: Some(Str::from_static(CONSUMER)), protocol: Some(protocol.clone()), assignment };
        turn.timers.cancel(&self.rebalance_timer(&id));
        if self.members[&*id].state == MemberState::Unrevoked {
            self.expect_progress(turn, &id);
        }
        self.extend_session(turn, &id);
        Ok(synced)
    }

    fn by_name(&self, assignment: &Assignment, topics: &dyn Topics) -> Vec<(Str, Vec<i32>)> {
        let named = |(id, partitions): (&TopicId, &BTreeSet<i32>)| {
            Some((topics.name(*id)?, partitions.iter().copied().collect()))
        };
        assignment.iter().filter_map(named).collect()
    }

    /// Heartbeat: whether the member has to join again to follow.
    pub(crate) fn classic_heartbeat(
        &mut self,
        turn: &mut Turn<'_>,
        member_id: &str,
        instance_id: Option<&Str>,
        generation: i32,
    ) -> Result<(), GroupError> {
        let (id, member) = self.check_classic_member(member_id, instance_id, generation)?;
        let id = id.clone();
        let must_join = match member.state {
            _ if member.epoch < self.epoch => true,
            MemberState::Unrevoked => true,
            MemberState::Unreleased => !self.waits_for_others(&id),
            MemberState::Stable => false,
        };
        self.extend_session(turn, &id);
        if must_join {
            self.expect_progress(turn, &id);
            return Err(GroupError::RebalanceInProgress);
        }
        Ok(())
    }

    /// LeaveGroup.
    pub(crate) fn classic_leave(
        &mut self,
        turn: &mut Turn<'_>,
        members: &[MemberIdentity],
    ) -> Vec<Result<(), GroupError>> {
        let mut left = Vec::new();
        let mut leave_one = |who: &MemberIdentity| {
            let instance = who.group_instance_id.as_ref();
            let current = instance.and_then(|instance| self.static_members.get(&**instance));
            let id = match (who.member_id.is_empty(), current) {
                (true, current) => current.cloned().ok_or(GroupError::UnknownMember)?,
                (false, Some(current)) if *current != who.member_id => return Err(GroupError::FencedInstance),
                (false, None) if instance.is_some() => return Err(GroupError::UnknownMember),
                (false, _) => who.member_id.clone(),
            };
            // An operator may remove any static member; others leave by the protocol that they speak.
            let speaks = self.members.get(&*id).is_some_and(|member| member.classic.is_some() || instance.is_some());
            if !speaks {
                return Err(GroupError::UnknownMember);
            }
            self.forget_member(turn, &id)?;
            left.push(id);
            Ok(())
        };
        let results: Vec<_> = members.iter().map(&mut leave_one).collect();
        if !left.is_empty() {
            let raised = self.raise_epoch(turn, self.metadata_hash, format!("{} left", named_members(&left)));
            raised.expect("the group's id stood in its records");
        }
        results
    }
}

/// What the subscription says that the member has.
fn owned_by(subscribed: &ConsumerProtocolSubscription, topics: &dyn Topics) -> Assignment {
    let mut owned = Assignment::new();
    for one in subscribed.owned_partitions.iter().filter(|one| !one.partitions.is_empty()) {
        if let Some((topic, _)) = topics.topic(&one.topic) {
            owned.entry(topic).or_default().extend(&one.partitions);
        }
    }
    owned
}

fn told_by(
    request: &JoinGroupRequest,
    subscribed: &ConsumerProtocolSubscription,
    before: &ConsumerMember,
    context: &JoinContext,
) -> ConsumerGroupMemberMetadataValue {
    let names: BTreeSet<Str> = subscribed.topics.iter().map(Str::detached).collect();
    let rebalance = request.rebalance_timeout_ms;
    let protocols = request.protocols.iter().map(|offered| ClassicProtocol {
        name: offered.name.detached(),
        metadata: Bytes::copy_from_slice(&offered.metadata),
    });
    ConsumerGroupMemberMetadataValue {
        instance_id: request.group_instance_id.as_ref().map(Str::detached),
        rack_id: subscribed.rack_id.as_ref().filter(|rack| !rack.is_empty()).map(Str::detached),
        client_id: context.client_id.detached(),
        client_host: context.client_host.detached(),
        subscribed_topic_names: names.into_iter().collect(),
        subscribed_topic_regex: None,
        rebalance_timeout_ms: if rebalance < 0 { request.session_timeout_ms } else { rebalance },
        classic_member_metadata: Some(ClassicMemberMetadata {
            session_timeout_ms: request.session_timeout_ms,
            supported_protocols: protocols.collect(),
        }),
        ..value_of(before)
    }
}
