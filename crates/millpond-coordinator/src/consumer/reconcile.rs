//! How a member follows its target: what it must give up first, then what is free for it (KIP-848).

use millpond_record::TopicId;
use millpond_wire::Str;

use super::changes::partitions;
use super::{Assignment, ConsumerChange, ConsumerGroup, ConsumerMember, MemberState};
use crate::error::GroupError;
use crate::shard::Turn;

impl ConsumerGroup {
    /// Lets the member follow as far as it can. `owned` is what it says that it has; `None` when it does not say, which
    /// is no sign that it has given anything up.
    pub(super) fn reconcile(
        &mut self,
        turn: &mut Turn<'_>,
        member_id: &Str,
        owned: Option<&Assignment>,
    ) -> Result<(), GroupError> {
        let member = &self.members[&**member_id];
        let next = match member.state {
            MemberState::Stable if member.epoch == self.target_epoch => None,
            // It has what it was told to give up, as far as anyone knows.
            MemberState::Unrevoked if still_has(owned, &member.revoking) => None,
            // What was given up was for the epoch after the member's.
            MemberState::Unrevoked => Some(self.next_step(member_id, member, member.epoch.saturating_add(1), owned)),
            MemberState::Stable | MemberState::Unreleased => {
                Some(self.next_step(member_id, member, member.epoch, owned))
            }
        };
        if let Some(next) = next.filter(|next| next != member) {
            self.emit(turn, ConsumerChange::current(member_id, &next))?;
        }
        match self.members[&**member_id].state {
            MemberState::Unrevoked => self.expect_progress(turn, member_id),
            MemberState::Stable | MemberState::Unreleased if self.members[&**member_id].classic.is_none() => {
                turn.timers.cancel(&self.rebalance_timer(member_id));
            }
            MemberState::Stable | MemberState::Unreleased => {}
        }
        Ok(())
    }

    /// The member one step on: first it gives up what is not its own any more; when it has, it gets what is free.
    fn next_step(
        &self,
        member_id: &Str,
        member: &ConsumerMember,
        epoch: i32,
        owned: Option<&Assignment>,
    ) -> ConsumerMember {
        let none = Assignment::new();
        let target = self.targets.get(&**member_id).unwrap_or(&none);
        let in_target = |&(topic, partition): &(TopicId, i32)| contains(target, topic, partition);
        let (kept, given_up): (Vec<_>, Vec<_>) = partitions(&member.assigned).partition(in_target);
        let wanted = partitions(target).filter(|&(topic, partition)| !contains(&member.assigned, topic, partition));
        let (free, taken): (Vec<_>, Vec<_>) = wanted.partition(|key| !self.owners.contains_key(key));
        // What it gives up itself and is to have again is free when it has said so, a heartbeat later.
        let (kept, given_up) = (collect(kept), collect(given_up));
        let mut next = ConsumerMember { assigned: kept, revoking: Assignment::new(), ..member.clone() };
        if !given_up.is_empty() && still_has(owned, &given_up) {
            next.state = MemberState::Unrevoked;
            next.revoking = given_up;
            if epoch != member.epoch {
                (next.previous_epoch, next.epoch) = (member.epoch, epoch);
            }
            return next;
        }
        for (topic, partition) in free {
            next.assigned.entry(topic).or_default().insert(partition);
        }
        next.state = if taken.is_empty() { MemberState::Stable } else { MemberState::Unreleased };
        if member.epoch != self.target_epoch {
            (next.previous_epoch, next.epoch) = (member.epoch, self.target_epoch);
        }
        next
    }

    /// Whether a member waits for partitions, and every one of them is still with another member.
    pub(super) fn waits_for_others(&self, member_id: &Str) -> bool {
        let member = &self.members[&**member_id];
        let target = self.targets.get(&**member_id);
        let wanted = target.into_iter().flat_map(partitions);
        let mut wanted = wanted.filter(|&(topic, partition)| !contains(&member.assigned, topic, partition));
        wanted.all(|key| self.owners.contains_key(&key))
    }
}

fn contains(assignment: &Assignment, topic: TopicId, partition: i32) -> bool {
    assignment.get(&topic).is_some_and(|partitions| partitions.contains(&partition))
}

/// Whether a member that reports `owned` has any of these partitions, or does not report.
fn still_has(owned: Option<&Assignment>, of: &Assignment) -> bool {
    owned.is_none_or(|owned| partitions(of).any(|(topic, partition)| contains(owned, topic, partition)))
}

/// Whether all of `owned` is in `assignment`.
pub(super) fn is_within(owned: &Assignment, assignment: &Assignment) -> bool {
    partitions(owned).all(|(topic, partition)| contains(assignment, topic, partition))
}

fn collect(keys: Vec<(TopicId, i32)>) -> Assignment {
    let mut assignment = Assignment::new();
    for (topic, partition) in keys {
        assignment.entry(topic).or_default().insert(partition);
    }
    assignment
}
