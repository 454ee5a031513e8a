//! What a group is: classic or consumer; and how one becomes the other (KIP-848).
//!
//! An empty group becomes whatever its first member speaks. A live classic group of consumers becomes a consumer group
//! when a member of that protocol joins; the classic ones stay, and are told to join again. When only those are left,
//! the group is a classic one again.

use std::collections::BTreeMap;

use millpond_record::{PartitionIndex, Timestamp};
use millpond_wire::Str;
use millpond_wire::consumer_group_heartbeat::ConsumerGroupHeartbeatRequest;

use crate::classic::ClassicGroup;
use crate::consumer::ConsumerGroup;
use crate::describe::{GroupSummary, MemberSummary};
use crate::error::GroupError;
use crate::exchange::{ConsumerHeartbeat, Effects, Now, Reply, Ticket};
use crate::expiry::Retention;
use crate::member_id::new_member_id;
use crate::records::Change;
use crate::request::{Committer, JoinContext};
use crate::shard::{Shard, Turn};
use crate::timers::Timers;
use crate::topics::Topics;

/// Who is in a group, by the protocol that it speaks.
#[derive(Debug)]
pub(crate) enum Membership {
    Classic(ClassicGroup),
    Consumer(ConsumerGroup),
}

impl Membership {
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Membership::Classic(group) => group.bytes(),
            Membership::Consumer(group) => group.bytes(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Membership::Classic(group) => group.is_empty(),
            Membership::Consumer(group) => group.is_empty(),
        }
    }

    /// Whether nobody is in it or about to join.
    pub(crate) fn is_unused(&self) -> bool {
        match self {
            Membership::Classic(group) => group.is_unused(),
            Membership::Consumer(group) => group.is_empty(),
        }
    }

    /// Whether it is as a new group: no record tells of it.
    pub(crate) fn is_vacant(&self) -> bool {
        matches!(self, Membership::Classic(group) if group.is_vacant())
    }

    pub(crate) fn cancel_timers(&mut self, timers: &mut Timers) {
        match self {
            Membership::Classic(group) => group.cancel_timers(timers),
            Membership::Consumer(group) => group.cancel_timers(timers),
        }
    }

    pub(crate) fn loaded(&mut self, turn: &mut Turn<'_>) {
        match self {
            Membership::Classic(group) => group.loaded(turn),
            Membership::Consumer(group) => group.loaded(turn),
        }
    }

    pub(crate) fn may_commit(
        &mut self,
        turn: &mut Turn<'_>,
        committer: &Committer,
        version: i16,
    ) -> Result<(), GroupError> {
        match self {
            Membership::Classic(group) => group.may_commit(turn, committer),
            Membership::Consumer(group) => group.may_commit(committer, version),
        }
    }

    pub(crate) fn may_delete_offsets(&self) -> Result<(), GroupError> {
        match self {
            Membership::Classic(group) => group.may_delete_offsets(),
            Membership::Consumer(_) => Ok(()),
        }
    }

    pub(crate) fn is_subscribed_to(&self, topic: &str) -> bool {
        match self {
            Membership::Classic(group) => group.is_subscribed_to(topic),
            Membership::Consumer(group) => group.is_subscribed_to(topic),
        }
    }

    pub(crate) fn retention_of(&self, topic: &str) -> Retention {
        match self {
            Membership::Classic(group) => group.retention_of(topic),
            Membership::Consumer(group) if group.is_subscribed_to(topic) => Retention::InUse,
            Membership::Consumer(_) => Retention::SinceCommit,
        }
    }

    pub(crate) fn summary(&self) -> GroupSummary<'_> {
        match self {
            Membership::Classic(group) => group.summary(),
            Membership::Consumer(group) => group.summary(),
        }
    }

    pub(crate) fn members(&self) -> Vec<MemberSummary<'_>> {
        match self {
            Membership::Classic(group) => group.members().collect(),
            Membership::Consumer(group) => group.members().collect(),
        }
    }

    pub(crate) fn recent_rebalances(&self) -> Vec<(Timestamp, &str)> {
        match self {
            Membership::Classic(group) => group.recent_rebalances().collect(),
            Membership::Consumer(group) => group.recent_rebalances().collect(),
        }
    }

    pub(crate) fn owners(&self) -> BTreeMap<(Str, PartitionIndex), MemberSummary<'_>> {
        match self {
            Membership::Classic(group) => group.owners(),
            Membership::Consumer(group) => group.owners(),
        }
    }

    pub(crate) fn member_expired(&mut self, turn: &mut Turn<'_>, member_id: &Str) {
        match self {
            Membership::Classic(group) => group.member_expired(turn, member_id),
            Membership::Consumer(group) => group.member_expired(turn, member_id, "was not heard of for its session"),
        }
    }
}

impl Shard {
    /// ConsumerGroupHeartbeat: a member joins, stays or leaves.
    ///
    /// # Errors
    /// In the reply: [`GroupError::InvalidRequest`], [`NamesTooLong`](GroupError::NamesTooLong),
    /// [`UnknownGroup`](GroupError::UnknownGroup), [`UnknownMember`](GroupError::UnknownMember),
    /// [`FencedMemberEpoch`](GroupError::FencedMemberEpoch), [`FencedInstance`](GroupError::FencedInstance),
    /// [`UnreleasedInstance`](GroupError::UnreleasedInstance),
    /// [`UnsupportedAssignor`](GroupError::UnsupportedAssignor), [`InvalidRegex`](GroupError::InvalidRegex),
    /// [`GroupFull`](GroupError::GroupFull), [`NoMemory`](GroupError::NoMemory),
    /// [`RecordTooLarge`](GroupError::RecordTooLarge).
    pub fn consumer_heartbeat(
        &mut self,
        ticket: Ticket,
        now: Now,
        request: &ConsumerGroupHeartbeatRequest,
        context: &JoinContext,
        topics: &dyn Topics,
    ) -> Effects {
        let mut effects = Effects::default();
        let result = self.try_consumer_heartbeat(now, request, context, topics, &mut effects);
        effects.replies.push((ticket, Reply::ConsumerHeartbeat(result)));
        effects
    }

    fn try_consumer_heartbeat(
        &mut self,
        now: Now,
        request: &ConsumerGroupHeartbeatRequest,
        context: &JoinContext,
        topics: &dyn Topics,
        effects: &mut Effects,
    ) -> Result<ConsumerHeartbeat, GroupError> {
        crate::consumer::check_heartbeat(request, context.version)?;
        let (id, epoch) = (&request.group_id, request.member_epoch);
        if epoch < 0 {
            let (member, instance) = (&request.member_id, request.instance_id.as_ref());
            let left =
                self.in_consumer_group(id, now, effects, |group, turn| group.leave(turn, member, instance, epoch));
            let left = left.ok_or(GroupError::UnknownGroup)?;
            self.become_classic_if_due(id, now, effects);
            return left;
        }
        crate::consumer::check_subscription(request)?;
        if epoch == 0 {
            let more =
                16_384 + request.subscribed_topic_names.iter().flatten().map(|name| 64 + name.len()).sum::<usize>();
            let known = match self.groups.get(&**id).map(|group| &group.membership) {
                Some(Membership::Consumer(group)) => group.has_member(&request.member_id),
                _ => false,
            };
            // A member that is there is counted already; what it says anew is held to the limit where it is written.
            if !known && self.state_bytes.saturating_add(more) > self.settings.max_state_bytes {
                return Err(GroupError::NoMemory);
            }
            self.become_consumer(id, now, topics, effects)?;
        }
        // In version 0 the broker makes the ids.
        let member_id = match &request.member_id {
            given if given.is_empty() => new_member_id(None, context),
            given => given.detached(),
        };
        let answer = self.in_consumer_group(id, now, effects, |group, turn| {
            group.heartbeat(turn, request, &member_id, context, topics)
        });
        let answer = answer.ok_or(GroupError::UnknownGroup)?;
        if answer.is_err() {
            self.forget_unrecorded_consumer_group(id);
        }
        answer
    }

    /// A group that was made for a member that was refused is no group.
    fn forget_unrecorded_consumer_group(&mut self, id: &str) {
        let Some(group) = self.groups.get_mut(id) else { return };
        if matches!(&group.membership, Membership::Consumer(consumer) if consumer.is_unrecorded()) {
            let before = group.membership.bytes();
            group.membership = Membership::Classic(ClassicGroup::new(Str::from(id)));
            self.state_bytes = self.state_bytes + group.membership.bytes() - before;
            if group.is_vacant() {
                self.forget(id);
            }
        }
    }

    /// Makes sure that the group is one that a member of the consumer protocol can join.
    fn become_consumer(
        &mut self,
        id: &Str,
        now: Now,
        topics: &dyn Topics,
        effects: &mut Effects,
    ) -> Result<(), GroupError> {
        let before = match self.groups.get(&**id).map(|group| &group.membership) {
            Some(Membership::Consumer(_)) => return Ok(()),
            Some(Membership::Classic(group)) if !group.is_empty() => {
                let converted = group.as_consumer_group(topics).ok_or(GroupError::UnknownGroup)?;
                self.in_classic_group(id, now, effects, |group, turn| group.send_away(turn));
                Some(converted)
            }
            Some(Membership::Classic(group)) if group.is_vacant() => None,
            Some(Membership::Classic(_)) => Some(Vec::new()),
            None => None,
        };
        if let Some(changes) = before {
            let tombstone = Change::Group { group: id.clone(), value: None };
            self.emit(tombstone, effects).map_err(|_| GroupError::NamesTooLong)?;
            for change in changes {
                let change = Change::Consumer { group: id.clone(), change };
                self.emit(change, effects).map_err(|_| GroupError::NamesTooLong)?;
            }
        }
        self.consumer_group_or_new(id);
        let room = self.settings.max_state_bytes.saturating_sub(self.state_bytes);
        let group = &mut self.groups.get_mut(&**id).expect("just made").membership;
        let (timers, parked) = (&mut self.timers, &mut self.parked);
        let mut turn = Turn { now, settings: &self.settings, room, timers, parked, effects };
        group.loaded(&mut turn);
        Ok(())
    }

    /// A consumer group in which only members of the classic protocol are left is a classic group again.
    pub(crate) fn become_classic_if_due(&mut self, id: &Str, now: Now, effects: &mut Effects) {
        let value = match self.groups.get_mut(&**id).map(|group| &mut group.membership) {
            Some(Membership::Consumer(group)) if group.is_for_classic_members() => {
                group.cancel_timers(&mut self.timers);
                (group.as_classic_group(now), group.tombstones())
            }
            _ => return,
        };
        let (Some((value, offered)), tombstones) = value else { return };
        for change in tombstones {
            let change = Change::Consumer { group: id.clone(), change };
            self.emit(change, effects).expect("the names stood in the group's own records");
        }
        let change = Change::Group { group: id.clone(), value: Some(value) };
        self.emit(change, effects).expect("as above");
        self.in_classic_group(id, now, effects, |group, turn| group.taken_over(turn, offered));
    }

    /// An empty consumer group becomes a classic one: its first member speaks that.
    pub(crate) fn become_classic(&mut self, id: &Str, effects: &mut Effects) {
        let tombstones = match self.groups.get(&**id).map(|group| &group.membership) {
            Some(Membership::Consumer(group)) if group.is_empty() => group.tombstones(),
            _ => return,
        };
        for change in tombstones {
            let change = Change::Consumer { group: id.clone(), change };
            self.emit(change, effects).expect("the names stood in the group's own records");
        }
    }

    /// The consumer group of this id, which begins to exist if need be.
    pub(crate) fn consumer_group_or_new(&mut self, id: &str) -> &mut ConsumerGroup {
        let group = self.group_or_new(id);
        if let Membership::Classic(_) = group.membership {
            let before = group.membership.bytes();
            group.membership = Membership::Consumer(ConsumerGroup::new(Str::from(id)));
            let after = group.membership.bytes();
            self.state_bytes = self.state_bytes + after - before;
        }
        match &mut self.groups.get_mut(id).expect("just made").membership {
            Membership::Consumer(group) => group,
            Membership::Classic(_) => unreachable!("it has just become a consumer group"),
        }
    }
}
