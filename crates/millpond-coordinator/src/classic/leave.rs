//! LeaveGroup.

use millpond_wire::Str;
use millpond_wire::leave_group::MemberIdentity;

use super::ClassicGroup;
use super::rebalance::named;
use super::sync::unknown_group;
use crate::error::GroupError;
use crate::exchange::{Effects, Now, Reply, Ticket};
use crate::membership::Membership;
use crate::shard::{Shard, Turn};

impl Shard {
    /// LeaveGroup, for members by their id, or by their group instance id alone, as the admin client does it.
    ///
    /// # Errors
    /// In the reply: [`GroupError::InvalidGroupId`]; by member [`UnknownMember`](GroupError::UnknownMember) (also when
    /// there is no such group), [`FencedInstance`](GroupError::FencedInstance).
    pub fn leave(&mut self, ticket: Ticket, now: Now, group_id: &str, members: &[MemberIdentity]) -> Effects {
        let mut effects = Effects::default();
        let results = self.in_group(group_id, now, &mut effects, |group, turn| match group {
            Membership::Classic(group) => group.leave(turn, members),
            Membership::Consumer(group) => group.classic_leave(turn, members),
        });
        self.become_classic_if_due(&Str::from(group_id), now, &mut effects);
        let results = match results {
            Some(results) => Ok(results),
            None if group_id.is_empty() => Err(GroupError::InvalidGroupId),
            None => Ok(members.iter().map(|_| Err(unknown_group(group_id))).collect()),
        };
        effects.replies.push((ticket, Reply::Leave(results)));
        effects
    }
}

impl ClassicGroup {
    fn leave(&mut self, turn: &mut Turn<'_>, members: &[MemberIdentity]) -> Vec<Result<(), GroupError>> {
        let mut left = Vec::new();
        let mut leave = |member| self.leave_one(turn, member).map(|id| left.push(id));
        let results: Vec<_> = members.iter().map(&mut leave).collect();
        if !left.is_empty() {
            let reason = members.iter().find_map(|member| member.reason.as_deref().filter(|reason| !reason.is_empty()));
            let why = match reason {
                Some(reason) => format!("{} left: {reason}", named(&left)),
                None => format!("{} left", named(&left)),
            };
            self.after_removal(turn, &why);
        }
        results
    }

    /// Gives the id of the member that left.
    fn leave_one(&mut self, turn: &mut Turn<'_>, who: &MemberIdentity) -> Result<Str, GroupError> {
        let instance = who.group_instance_id.as_ref();
        let member_id: Str = if who.member_id.is_empty() {
            let found = instance.and_then(|instance| self.static_members.get(&**instance));
            found.cloned().ok_or(GroupError::UnknownMember)?
        } else if self.pending.contains(&*who.member_id) {
            self.remove_pending(turn, &who.member_id);
            return Ok(who.member_id.clone());
        } else {
            self.check_member(&who.member_id, instance)?;
            who.member_id.clone()
        };
        self.remove_member(turn, &member_id, GroupError::UnknownMember);
        Ok(member_id)
    }
}
