//! ConsumerGroupHeartbeat: joining, staying, changing one's mind.

use std::collections::BTreeSet;

use millpond_record::TopicId;
use millpond_wire::Str;
use millpond_wire::consumer_group_heartbeat::{ConsumerGroupHeartbeatRequest, TopicPartitions};
use millpond_wire::consumer_group_member_metadata_value::{
    ClassicMemberMetadata, ClassicProtocol, ConsumerGroupMemberMetadataValue,
};

use super::reconcile::is_within;
use super::subscriptions::whole_name;
use super::{Assignment, Assignor, ConsumerChange, ConsumerGroup, ConsumerMember, LEAVES_FOR_A_WHILE, MemberState};
use crate::error::GroupError;
use crate::exchange::ConsumerHeartbeat;
use crate::request::JoinContext;
use crate::shard::Turn;
use crate::topics::Topics;

/// Names go into records, whose format holds 32 KiB at most.
const MAX_NAME_BYTES: usize = 4096;
/// From here on members make their own ids.
const FIRST_VERSION_WITH_OWN_IDS: i16 = 1;

/// Holds a request to what any group asks of it.
pub(crate) fn check_heartbeat(request: &ConsumerGroupHeartbeatRequest, version: i16) -> Result<(), GroupError> {
    let invalid = |what| Err(GroupError::InvalidRequest(what));
    let epoch = request.member_epoch;
    let empty = |text: &Option<Str>| text.as_ref().is_some_and(|text| text.is_empty());
    let names = [Some(&request.group_id), Some(&request.member_id), request.instance_id.as_ref()];
    let names = names.into_iter().chain([request.rack_id.as_ref(), request.subscribed_topic_regex.as_ref()]).flatten();
    let topics = request.subscribed_topic_names.iter().flatten();
    match () {
        _ if request.group_id.is_empty() => invalid("the group id is empty"),
        _ if request.member_id.is_empty() && (version >= FIRST_VERSION_WITH_OWN_IDS || epoch != 0) => {
            invalid("the member id is empty")
        }
        _ if empty(&request.instance_id) => invalid("the instance id is empty"),
        _ if empty(&request.rack_id) => invalid("the rack id is empty"),
        _ if names.chain(topics).any(|name| name.len() > MAX_NAME_BYTES) => Err(GroupError::NamesTooLong),
        _ if epoch < LEAVES_FOR_A_WHILE => invalid("the member epoch is below -2"),
        _ if epoch == LEAVES_FOR_A_WHILE && request.instance_id.is_none() => {
            invalid("only a member with an instance id leaves for a while")
        }
        _ if epoch != 0 => Ok(()),
        _ if request.rebalance_timeout_ms < 0 => invalid("the first heartbeat of a member names its rebalance timeout"),
        _ if request.topic_partitions.as_ref().is_none_or(|owned| !owned.is_empty()) => {
            invalid("the first heartbeat of a member says that it owns no partitions")
        }
        _ if request.subscribed_topic_names.is_none() && request.subscribed_topic_regex.is_none() => {
            invalid("the first heartbeat of a member says what it subscribes to")
        }
        _ => Ok(()),
    }
}

/// Checks what only a heartbeat that stays needs.
pub(crate) fn check_subscription(request: &ConsumerGroupHeartbeatRequest) -> Result<(), GroupError> {
    if request.server_assignor.as_ref().is_some_and(|name| Assignor::by_name(name).is_none()) {
        return Err(GroupError::UnsupportedAssignor);
    }
    match request.subscribed_topic_regex.as_ref().filter(|regex| !regex.is_empty()) {
        Some(regex) => whole_name(regex).map(|_| ()),
        None => Ok(()),
    }
}

fn owned_by(reported: &[TopicPartitions]) -> Assignment {
    let mut owned = Assignment::new();
    for one in reported.iter().filter(|one| !one.partitions.is_empty()) {
        owned.entry(TopicId(one.topic_id)).or_default().extend(&one.partitions);
    }
    owned
}

impl ConsumerGroup {
    /// A heartbeat of a member that stays or joins.
    pub(crate) fn heartbeat(
        &mut self,
        turn: &mut Turn<'_>,
        request: &ConsumerGroupHeartbeatRequest,
        member_id: &Str,
        context: &JoinContext,
        topics: &dyn Topics,
    ) -> Result<ConsumerHeartbeat, GroupError> {
        let joins = request.member_epoch == 0;
        let owned = request.topic_partitions.as_deref().map(owned_by);
        self.has_room_for(member_id, turn)?;
        let instance = request.instance_id.as_ref();
        let replaced = self.find_place(member_id, instance, joins, |member| {
            check_epoch(member, request.member_epoch, owned.as_ref())
        })?;
        let regex = request.subscribed_topic_regex.as_ref().filter(|regex| !regex.is_empty());
        if let Some(new) = regex.filter(|regex| !self.regexes.contains_key(&***regex)) {
            // Before anything is taken from the member, because it may be refused. If it is, nobody uses the record.
            self.match_regex(turn, topics, new.detached())?;
        }
        let mut why = None;
        if let Some(former) = replaced {
            self.replace(turn, &former, member_id)?;
        } else if !self.members.contains_key(&**member_id) {
            why = Some(format!("member {member_id} is new"));
        }
        let before = self.members.get(&**member_id).cloned().unwrap_or_else(ConsumerMember::empty);
        let value = told_by(request, &before, context);
        self.take_subscription(turn, member_id, value, &mut why)?;
        self.follow_topics(turn, topics, why)?;
        self.reconcile(turn, member_id, owned.as_ref())?;
        self.extend_session(turn, member_id);
        let member = &self.members[&**member_id];
        let subscribes = request.subscribed_topic_names.is_some() || request.subscribed_topic_regex.is_some();
        let tells_all = owned.is_some() && request.rebalance_timeout_ms >= 0 && subscribes;
        // Beyond Kafka: whoever reports another assignment than it has is told, for it may have lost an answer.
        let differs = owned.is_some_and(|owned| owned != member.assigned) || member.assigned != before.assigned;
        let assignment = (joins || tells_all || differs).then(|| member.assigned.clone());
        Ok(ConsumerHeartbeat {
            member_id: member_id.clone(),
            member_epoch: member.epoch,
            interval_ms: self.interval_ms(turn),
            assignment: assignment.map(|topics| {
                topics.into_iter().map(|(topic, partitions)| (topic, partitions.into_iter().collect())).collect()
            }),
        })
    }

    /// While members still follow, heartbeats come faster: nothing else tells one that a partition is free.
    fn interval_ms(&self, turn: &Turn<'_>) -> i32 {
        let settled = self.members.values().all(|member| self.has_followed(member));
        let usual = turn.settings.consumer_heartbeat_interval_ms;
        if settled { usual } else { usual.min(turn.settings.consumer_following_interval_ms) }
    }

    pub(super) fn has_followed(&self, member: &ConsumerMember) -> bool {
        let gone = member.epoch == LEAVES_FOR_A_WHILE;
        gone || member.state == MemberState::Stable && member.epoch == self.epoch
    }

    pub(super) fn has_room_for(&self, member_id: &str, turn: &Turn<'_>) -> Result<(), GroupError> {
        let max = turn.settings.max_group_size;
        let has_place = self.members.contains_key(member_id) || self.members.len() < max;
        if has_place { Ok(()) } else { Err(GroupError::GroupFull { max }) }
    }

    /// Which member's place this one takes, if it takes one. One that does not join must have its place.
    pub(super) fn find_place(
        &self,
        member_id: &Str,
        instance_id: Option<&Str>,
        joins: bool,
        check: impl FnOnce(&ConsumerMember) -> Result<(), GroupError>,
    ) -> Result<Option<Str>, GroupError> {
        if let Some(instance) = instance_id {
            match self.static_members.get(&**instance) {
                None if joins => return Ok(None),
                None => return Err(GroupError::UnknownMember),
                Some(current) if current == member_id => {}
                Some(_) if !joins => return Err(GroupError::FencedInstance),
                Some(current) if self.members[&**current].epoch == LEAVES_FOR_A_WHILE => {
                    return Ok(Some(current.clone()));
                }
                Some(_) => return Err(GroupError::UnreleasedInstance),
            }
        }
        match self.members.get(&**member_id) {
            Some(member) if !joins => check(member).map(|()| None),
            Some(_) => Ok(None),
            None if joins => Ok(None),
            None => Err(GroupError::UnknownMember),
        }
    }

    /// A static member has come back under another id: it takes over what its former self had.
    pub(super) fn replace(&mut self, turn: &mut Turn<'_>, former: &Str, member_id: &Str) -> Result<(), GroupError> {
        let mut member = self.members[&**former].clone();
        let target = self.targets.get(&**former).cloned().unwrap_or_default();
        self.forget_member(turn, former)?;
        (member.epoch, member.previous_epoch, member.state) = (0, 0, MemberState::Stable);
        member.revoking.clear();
        self.emit(turn, ConsumerChange::Member(member_id.clone(), Some(value_of(&member))))?;
        self.emit(turn, ConsumerChange::target(member_id, &target))?;
        self.emit(turn, ConsumerChange::current(member_id, &member))
    }

    /// Records what the member says of itself, if that is new.
    pub(super) fn take_subscription(
        &mut self,
        turn: &mut Turn<'_>,
        member_id: &Str,
        value: ConsumerGroupMemberMetadataValue,
        why: &mut Option<String>,
    ) -> Result<(), GroupError> {
        let before = self.members.get(&**member_id);
        let unchanged = before.is_some_and(|before| value_of(before) == value);
        if unchanged {
            return Ok(());
        }
        let read_before = before.map(|before| (before.names.clone(), before.regex.clone(), before.assignor.clone()));
        self.emit(turn, ConsumerChange::Member(member_id.clone(), Some(value)))?;
        let member = &self.members[&**member_id];
        let reads = (member.names.clone(), member.regex.clone(), member.assignor.clone());
        if why.is_none() && read_before != Some(reads) {
            *why = Some(format!("member {member_id} changed its subscription"));
        }
        Ok(())
    }

    /// Begins an epoch for the reason, or because the topics have changed; then computes who is to have what.
    pub(super) fn follow_topics(
        &mut self,
        turn: &mut Turn<'_>,
        topics: &dyn Topics,
        why: Option<String>,
    ) -> Result<(), GroupError> {
        if why.is_some() || !self.has_seen(topics) {
            let hash = self.look_at_topics(turn, topics)?;
            let changed = (hash != self.metadata_hash).then(|| "topics have changed".to_string());
            if let Some(why) = why.or(changed) {
                self.raise_epoch(turn, hash, why)?;
            }
        }
        self.update_target(turn, topics)
    }
}

/// A member is in its epoch, or has not got the answer that raised it and owns nothing beyond its assignment.
fn check_epoch(member: &ConsumerMember, given: i32, owned: Option<&Assignment>) -> Result<(), GroupError> {
    let current = member.epoch;
    let lost_answer = given == member.previous_epoch && owned.is_some_and(|owned| is_within(owned, &member.assigned));
    if given == current || given < current && lost_answer {
        Ok(())
    } else {
        Err(GroupError::FencedMemberEpoch { given, current })
    }
}

/// What the member is after this request, which leaves out what has not changed.
fn told_by(
    request: &ConsumerGroupHeartbeatRequest,
    before: &ConsumerMember,
    context: &JoinContext,
) -> ConsumerGroupMemberMetadataValue {
    let mut value = value_of(before);
    let joins = request.member_epoch == 0;
    let copy = |text: &Option<Str>| text.as_ref().map(Str::detached);
    value.client_id = context.client_id.detached();
    value.client_host = context.client_host.detached();
    // A member that speaks this protocol does not speak the other one any more.
    value.classic_member_metadata = None;
    value.instance_id = copy(&request.instance_id).or(value.instance_id);
    value.rack_id = copy(&request.rack_id).or(value.rack_id);
    value.server_assignor = copy(&request.server_assignor).or(value.server_assignor);
    if request.rebalance_timeout_ms >= 0 {
        value.rebalance_timeout_ms = request.rebalance_timeout_ms;
    }
    if joins || request.subscribed_topic_names.is_some() {
        let names: BTreeSet<Str> = request.subscribed_topic_names.iter().flatten().map(Str::detached).collect();
        value.subscribed_topic_names = names.into_iter().collect();
    }
    if joins || request.subscribed_topic_regex.is_some() {
        value.subscribed_topic_regex = copy(&request.subscribed_topic_regex).filter(|regex| !regex.is_empty());
    }
    value
}

/// The record of a member.
pub(super) fn value_of(member: &ConsumerMember) -> ConsumerGroupMemberMetadataValue {
    let classic = member.classic.as_ref().map(|classic| ClassicMemberMetadata {
        session_timeout_ms: classic.session_timeout,
        supported_protocols: classic
            .protocols
            .iter()
            .map(|(name, metadata)| ClassicProtocol { name: name.clone(), metadata: metadata.clone() })
            .collect(),
    });
    ConsumerGroupMemberMetadataValue {
        instance_id: member.instance_id.clone(),
        rack_id: member.rack_id.clone(),
        client_id: member.client_id.clone(),
        client_host: member.client_host.clone(),
        subscribed_topic_names: member.names.iter().cloned().collect(),
        subscribed_topic_regex: member.regex.clone(),
        rebalance_timeout_ms: member.rebalance_timeout,
        server_assignor: member.assignor.clone(),
        classic_member_metadata: classic,
    }
}
