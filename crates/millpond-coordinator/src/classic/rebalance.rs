//! Rebalances: how one begins, whom it waits for, how it ends.

use millpond_wire::Str;

use super::member::{Member, Wait};
use super::{ClassicGroup, InitialDelay, PENDING_BYTES, Phase};
use crate::error::GroupError;
use crate::exchange::{JoinReply, Reply};
use crate::shard::Turn;

/// Members that a reason names; of the others it says how many there are.
const NAMED: usize = 3;

/// Members as the reason of a rebalance names them.
pub(crate) fn named(ids: &[Str]) -> String {
    let names: Vec<&str> = ids.iter().take(NAMED).map(|id| &**id).collect();
    let (noun, names) = (if ids.len() == 1 { "member" } else { "members" }, names.join(", "));
    match ids.len().saturating_sub(NAMED) {
        0 => format!("{noun} {names}"),
        others => format!("{noun} {names} and {others} others"),
    }
}

/// Whatever the members' timeouts are, a rebalance that nobody has joined is not tried again faster.
const MIN_WAIT_MS: u64 = 1_000;

impl ClassicGroup {
    pub(super) fn insert_member(&mut self, id: Str, member: Member) {
        self.bytes += member.bytes(&id);
        if let Some(instance) = &member.instance_id {
            self.static_members.insert(instance.clone(), id.clone());
        }
        if self.leader.is_none() {
            self.leader = Some(id.clone());
        }
        self.members.insert(id, member);
    }

    /// Takes the member out of the lists; the leadership stays with its id.
    pub(super) fn take_member(&mut self, id: &str) -> Option<Member> {
        let member = self.members.remove(id)?;
        self.bytes -= member.bytes(id);
        if let Some(instance) = &member.instance_id
            && self.static_members.get(&**instance).is_some_and(|current| **current == *id)
        {
            self.static_members.remove(&**instance);
        }
        Some(member)
    }

    /// Changes a member that there is, and counts what it takes then.
    pub(super) fn change_member<T>(&mut self, id: &str, change: impl FnOnce(&mut Member) -> T) -> T {
        let member = self.members.get_mut(id).expect("only called for members of the group");
        let before = member.bytes(id);
        let result = change(member);
        self.bytes = self.bytes + member.bytes(id) - before;
        result
    }

    /// Removes a member; whatever it waits for is answered with `error`.
    pub(super) fn remove_member(&mut self, turn: &mut Turn<'_>, id: &Str, error: GroupError) {
        let Some(mut member) = self.take_member(id) else { return };
        self.answer_waiting(turn, id, &mut member, error);
        turn.timers.cancel(&self.member_timer(id));
        if self.is_leader(id) {
            self.leader = self.members.keys().next().cloned();
        }
    }

    pub(super) fn remove_pending(&mut self, turn: &mut Turn<'_>, id: &Str) {
        if self.pending.remove(&**id) {
            self.bytes -= PENDING_BYTES + id.len();
            turn.timers.cancel(&self.member_timer(id));
        }
    }

    pub(super) fn answer_waiting(&self, turn: &mut Turn<'_>, id: &Str, member: &mut Member, error: GroupError) {
        if let Some(ticket) = std::mem::replace(&mut member.joining, Wait::No).ticket() {
            // Without a member id the client asks for a new one.
            let member_id = if error == GroupError::UnknownMember { Str::EMPTY } else { id.clone() };
            turn.reply(ticket, Reply::Join(JoinReply { member_id, outcome: Err(error) }));
        }
        if let Some(ticket) = std::mem::replace(&mut member.syncing, Wait::No).ticket() {
            turn.reply(ticket, Reply::Sync(Err(error)));
        }
    }

    /// Members have been removed: the others share what they had.
    pub(super) fn after_removal(&mut self, turn: &mut Turn<'_>, why: &str) {
        match self.phase {
            Phase::Empty => {}
            Phase::Completing | Phase::Stable => self.prepare(turn, why),
            Phase::Preparing { .. } => self.complete_if_all_joined(turn),
        }
    }

    /// A member waits for the next generation: a rebalance begins, unless one is under way.
    pub(super) fn rebalance_or_complete(&mut self, turn: &mut Turn<'_>, why: &str) {
        match self.phase {
            Phase::Empty | Phase::Completing | Phase::Stable => self.prepare(turn, why),
            Phase::Preparing { .. } => self.complete_if_all_joined(turn),
        }
    }

    /// Begins a rebalance.
    pub(super) fn prepare(&mut self, turn: &mut Turn<'_>, why: &str) {
        if self.phase == Phase::Completing {
            // What the leader computes is for members that will not be the same.
            self.answer_syncs(turn, GroupError::RebalanceInProgress);
        }
        turn.timers.cancel(&self.sync_timer());
        for member in self.members.values_mut() {
            member.owes_sync = false;
        }
        self.rebalances.begin(turn.now.wall, why);
        let delay_ms = turn.settings.initial_rebalance_delay_ms;
        if self.phase == Phase::Empty && delay_ms > 0 {
            let remaining_ms = self.rebalance_timeout_ms().saturating_sub(delay_ms);
            self.enter(
                turn,
                Phase::Preparing { initial: Some(InitialDelay { delay_ms, remaining_ms, more_came: false }) },
            );
            turn.timers.set(self.join_timer(), turn.now.monotonic_ms.saturating_add(delay_ms));
            return;
        }
        let at_once = self.phase == Phase::Empty;
        self.enter(turn, Phase::Preparing { initial: None });
        if at_once || self.all_have_joined() {
            self.complete_join(turn);
        } else {
            self.wait_for_members(turn);
        }
    }

    pub(super) fn enter(&mut self, turn: &Turn<'_>, phase: Phase) {
        self.phase = phase;
        self.since = Some(turn.now.wall);
    }

    fn wait_for_members(&self, turn: &mut Turn<'_>) {
        turn.timers.set(self.join_timer(), turn.now.monotonic_ms.saturating_add(self.rebalance_timeout_ms()));
    }

    fn all_have_joined(&self) -> bool {
        self.pending.is_empty() && self.members.values().all(|member| member.joining != Wait::No)
    }

    /// Ends the rebalance if it waits for nobody any more. The delay of an empty group is not cut short.
    pub(super) fn complete_if_all_joined(&mut self, turn: &mut Turn<'_>) {
        if self.phase == (Phase::Preparing { initial: None }) && self.all_have_joined() {
            self.complete_join(turn);
        }
    }

    /// The time for joining is over.
    pub(crate) fn join_time_is_up(&mut self, turn: &mut Turn<'_>) {
        match self.phase {
            // Members keep coming: wait on, as long as the most patient one allows.
            Phase::Preparing { initial: Some(InitialDelay { delay_ms, remaining_ms, more_came: true }) }
                if remaining_ms > 0 =>
            {
                let next_ms = turn.settings.initial_rebalance_delay_ms.min(remaining_ms);
                let remaining_ms = remaining_ms.saturating_sub(delay_ms);
                let initial = InitialDelay { delay_ms: next_ms, remaining_ms, more_came: false };
                self.phase = Phase::Preparing { initial: Some(initial) };
                turn.timers.set(self.join_timer(), turn.now.monotonic_ms.saturating_add(next_ms));
            }
            Phase::Preparing { .. } => self.complete_join(turn),
            Phase::Empty | Phase::Completing | Phase::Stable => {}
        }
    }

    /// Ends the joining: whoever waits is in the next generation; of the others only static members stay.
    fn complete_join(&mut self, turn: &mut Turn<'_>) {
        turn.timers.cancel(&self.join_timer());
        let absent = self.members.iter().filter(|(_, member)| member.joining == Wait::No);
        let absent: Vec<Str> =
            absent.filter(|(_, member)| member.instance_id.is_none()).map(|(id, _)| id.clone()).collect();
        for id in &absent {
            self.remove_member(turn, id, GroupError::UnknownMember);
        }
        if self.members.is_empty() {
            return self.become_empty(turn);
        }
        if !self.elect_leader() {
            // Only static members that are away: their sessions decide. Meanwhile look now and then who has joined.
            let wait_ms = self.rebalance_timeout_ms().max(MIN_WAIT_MS);
            return turn.timers.set(self.join_timer(), turn.now.monotonic_ms.saturating_add(wait_ms));
        }
        self.generation = self.generation.wrapping_add(1).max(0);
        self.protocol = self.elected_protocol();
        self.subscribed = self.topics_of_members();
        self.enter(turn, Phase::Completing);
        let ids: Vec<Str> = self.members.keys().cloned().collect();
        for id in ids {
            let joined = self.joined_as(&id);
            let member = self.members.get_mut(&*id).expect("just listed");
            let waited = std::mem::replace(&mut member.joining, Wait::No);
            if waited == Wait::No {
                continue;
            }
            member.is_new = false;
            member.owes_sync = true;
            self.extend_session(turn, &id);
            if let Some(ticket) = waited.ticket() {
                turn.reply(ticket, Reply::Join(JoinReply { member_id: id, outcome: Ok(joined) }));
            }
        }
        let deadline = turn.now.monotonic_ms.saturating_add(self.rebalance_timeout_ms());
        turn.timers.set(self.sync_timer(), deadline);
    }

    /// The leader stays if it has joined; otherwise another member leads that has. Tells whether there is one.
    fn elect_leader(&mut self) -> bool {
        let has_joined = |id: &Str| self.members.get(&**id).is_some_and(|member| member.joining != Wait::No);
        if self.leader.as_ref().is_some_and(has_joined) {
            return true;
        }
        let joined = self.members.iter().find(|(_, member)| member.joining != Wait::No);
        match joined.map(|(id, _)| id.clone()) {
            Some(id) => {
                self.leader = Some(id);
                true
            }
            None => false,
        }
    }

    /// Not all members have sent their SyncGroup in time: those that did not are removed.
    pub(crate) fn sync_time_is_up(&mut self, turn: &mut Turn<'_>) {
        if !matches!(self.phase, Phase::Completing | Phase::Stable) {
            return;
        }
        let owing: Vec<Str> =
            self.members.iter().filter(|(_, member)| member.owes_sync).map(|(id, _)| id.clone()).collect();
        if owing.is_empty() {
            return;
        }
        for id in &owing {
            self.remove_member(turn, id, GroupError::UnknownMember);
        }
        self.prepare(turn, &format!("{} did not sync in time", named(&owing)));
    }

    /// The shard has been loaded: sessions start anew.
    pub(crate) fn loaded(&mut self, turn: &mut Turn<'_>) {
        let ids: Vec<Str> = self.members.keys().cloned().collect();
        for id in &ids {
            self.extend_session(turn, id);
        }
        if self.members.len() > turn.settings.max_group_size {
            self.prepare(turn, "the group has more members than are allowed now");
        }
    }
}
