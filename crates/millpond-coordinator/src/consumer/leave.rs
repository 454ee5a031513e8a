//! Leaving a consumer group, on one's own or because one is not heard of any more.

use millpond_wire::Str;

use super::{ConsumerChange, ConsumerGroup, LEAVES, LEAVES_FOR_A_WHILE, MemberState};
use crate::error::GroupError;
use crate::exchange::ConsumerHeartbeat;
use crate::shard::Turn;

impl ConsumerGroup {
    /// A heartbeat with epoch -1 or, for a static member that comes back, -2.
    pub(crate) fn leave(
        &mut self,
        turn: &mut Turn<'_>,
        member_id: &Str,
        instance_id: Option<&Str>,
        epoch: i32,
    ) -> Result<ConsumerHeartbeat, GroupError> {
        if let Some(instance) = instance_id {
            match self.static_members.get(&**instance) {
                None => return Err(GroupError::UnknownMember),
                Some(current) if current != member_id => return Err(GroupError::FencedInstance),
                Some(_) => {}
            }
        }
        let (id, member) = self.members.get_key_value(&**member_id).ok_or(GroupError::UnknownMember)?;
        let id = id.clone();
        if epoch == LEAVES_FOR_A_WHILE {
            let mut away = member.clone();
            away.previous_epoch = away.epoch;
            away.epoch = LEAVES_FOR_A_WHILE;
            away.state = MemberState::Stable;
            away.revoking.clear();
            self.emit(turn, ConsumerChange::current(&id, &away))?;
            // Its session runs on: if it does not come back in time, it is gone.
            turn.timers.cancel(&self.rebalance_timer(&id));
        } else {
            self.remove(turn, &id, format!("member {id} left"))?;
        }
        let epoch = if epoch == LEAVES_FOR_A_WHILE { epoch } else { LEAVES };
        Ok(ConsumerHeartbeat { member_id: id, member_epoch: epoch, interval_ms: 0, assignment: None })
    }

    /// Removes a member for good: the others share what it had.
    pub(super) fn remove(&mut self, turn: &mut Turn<'_>, member_id: &Str, why: String) -> Result<(), GroupError> {
        self.forget_member(turn, member_id)?;
        self.raise_epoch(turn, self.metadata_hash, why)
    }

    /// Writes tombstones for all that is known of the member.
    pub(super) fn forget_member(&mut self, turn: &mut Turn<'_>, member_id: &Str) -> Result<(), GroupError> {
        turn.timers.cancel(&self.member_timer(member_id));
        turn.timers.cancel(&self.rebalance_timer(member_id));
        self.emit(turn, ConsumerChange::Current(member_id.clone(), None))?;
        self.emit(turn, ConsumerChange::Target(member_id.clone(), None))?;
        self.emit(turn, ConsumerChange::Member(member_id.clone(), None))
    }

    /// The member has not been heard of for its session, or has not followed for its rebalance timeout.
    pub(crate) fn member_expired(&mut self, turn: &mut Turn<'_>, member_id: &Str, why: &str) {
        if self.members.contains_key(&**member_id) {
            // Tombstones of records that fit in the log fit as well.
            let removed = self.remove(turn, member_id, format!("member {member_id} {why}"));
            removed.expect("the names stood in the member's own records");
        }
    }

    /// Whether only members of the classic protocol are left, so that the group can be a classic one again.
    pub(crate) fn is_for_classic_members(&self) -> bool {
        !self.members.is_empty() && self.members.values().all(|member| member.classic.is_some())
    }

    /// Tombstones for all that is known of the group; it has no member.
    pub(crate) fn tombstones(&self) -> Vec<ConsumerChange> {
        let members = self.members.keys().flat_map(|id| {
            [
                ConsumerChange::Current(id.clone(), None),
                ConsumerChange::Target(id.clone(), None),
                ConsumerChange::Member(id.clone(), None),
            ]
        });
        let regexes = self.regexes.keys().map(|regex| ConsumerChange::Regex(regex.clone(), None));
        members.chain(regexes).chain([ConsumerChange::TargetEpoch(None), ConsumerChange::Epoch(None)]).collect()
    }
}
