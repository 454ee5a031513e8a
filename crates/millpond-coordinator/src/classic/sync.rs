//! SyncGroup and Heartbeat.

use bytes::Bytes;
use millpond_wire::Str;
use millpond_wire::heartbeat::HeartbeatRequest;
use millpond_wire::sync_group::{SyncGroupRequest, SyncGroupRequestAssignment};

use super::member::Wait;
use super::{ClassicGroup, Phase};
use crate::error::GroupError;
use crate::exchange::{Effects, Now, Reply, Synced, Ticket};
use crate::membership::Membership;
use crate::shard::{Shard, Turn};
use crate::topics::Topics;

impl Shard {
    /// SyncGroup. The answer to a follower may come later: when the leader has assigned.
    ///
    /// # Errors
    /// In the reply: [`GroupError::InvalidGroupId`], [`UnknownMember`](GroupError::UnknownMember) (also for a group
    /// that there is not), [`FencedInstance`](GroupError::FencedInstance),
    /// [`IllegalGeneration`](GroupError::IllegalGeneration),
    /// [`InconsistentProtocol`](GroupError::InconsistentProtocol),
    /// [`RebalanceInProgress`](GroupError::RebalanceInProgress), [`RecordTooLarge`](GroupError::RecordTooLarge),
    /// [`NoMemory`](GroupError::NoMemory).
    pub fn sync(&mut self, ticket: Ticket, now: Now, request: &SyncGroupRequest, topics: &dyn Topics) -> Effects {
        let mut effects = Effects::default();
        let found = self.in_group(&request.group_id, now, &mut effects, |group, turn| match group {
            Membership::Classic(group) => group.sync(turn, ticket, request),
            Membership::Consumer(group) => {
                let synced = group.classic_sync(turn, request, topics);
                turn.reply(ticket, Reply::Sync(synced));
            }
        });
        if found.is_none() {
            effects.replies.push((ticket, Reply::Sync(Err(unknown_group(&request.group_id)))));
        }
        effects
    }

    /// Heartbeat.
    ///
    /// # Errors
    /// In the reply: [`GroupError::InvalidGroupId`], [`UnknownMember`](GroupError::UnknownMember) (also for a group
    /// that there is not), [`FencedInstance`](GroupError::FencedInstance),
    /// [`IllegalGeneration`](GroupError::IllegalGeneration), [`RebalanceInProgress`](GroupError::RebalanceInProgress).
    pub fn heartbeat(&mut self, ticket: Ticket, now: Now, request: &HeartbeatRequest) -> Effects {
        let mut effects = Effects::default();
        let (member, instance) = (&request.member_id, request.group_instance_id.as_ref());
        let result = self.in_group(&request.group_id, now, &mut effects, |group, turn| match group {
            Membership::Classic(group) => group.heartbeat(turn, member, instance, request.generation_id),
            Membership::Consumer(group) => group.classic_heartbeat(turn, member, instance, request.generation_id),
        });
        let result = result.unwrap_or_else(|| Err(unknown_group(&request.group_id)));
        effects.replies.push((ticket, Reply::Heartbeat(result)));
        effects
    }
}

/// To members a group that there is not is one that does not know them.
pub(super) fn unknown_group(group_id: &str) -> GroupError {
    if group_id.is_empty() { GroupError::InvalidGroupId } else { GroupError::UnknownMember }
}

impl ClassicGroup {
    fn sync(&mut self, turn: &mut Turn<'_>, ticket: Ticket, request: &SyncGroupRequest) {
        if let Err(error) = self.check_sync(request) {
            return turn.reply(ticket, Reply::Sync(Err(error)));
        }
        let (member_id, _) = self.members.get_key_value(&*request.member_id).expect("it has just been checked");
        let member_id = member_id.clone();
        let member = self.members.get_mut(&*member_id).expect("as above");
        member.owes_sync = false;
        if self.phase == Phase::Completing {
            let superseded = std::mem::replace(&mut member.syncing, Wait::For(ticket)).ticket();
            turn.parked.insert(ticket, (self.id.clone(), member_id.clone()));
            if let Some(superseded) = superseded {
                turn.reply(superseded, Reply::Sync(Err(GroupError::RebalanceInProgress)));
            }
            if self.is_leader(&member_id) {
                self.assign(turn, &request.assignments);
            }
        } else {
            let synced = self.synced_as(&member_id);
            self.extend_session(turn, &member_id);
            turn.reply(ticket, Reply::Sync(Ok(synced)));
        }
        if self.members.values().all(|member| !member.owes_sync) {
            turn.timers.cancel(&self.sync_timer());
        }
    }

    fn check_sync(&self, request: &SyncGroupRequest) -> Result<(), GroupError> {
        self.check_member(&request.member_id, request.group_instance_id.as_ref())?;
        self.check_generation(request.generation_id)?;
        let differ = |claimed: &Option<Str>, own: &Option<Str>| claimed.is_some() && own.is_some() && claimed != own;
        if differ(&request.protocol_type, &self.protocol_type) || differ(&request.protocol_name, &self.protocol) {
            return Err(GroupError::InconsistentProtocol);
        }
        match self.phase {
            Phase::Empty => Err(GroupError::UnknownMember),
            Phase::Preparing { .. } => Err(GroupError::RebalanceInProgress),
            Phase::Completing | Phase::Stable => Ok(()),
        }
    }

    /// The leader has assigned: the generation is recorded, and whoever waits gets its share.
    fn assign(&mut self, turn: &mut Turn<'_>, assignments: &[SyncGroupRequestAssignment]) {
        let before: usize = self.members.values().map(|member| member.assignment.len()).sum();
        let more = assignments.iter().map(|one| one.assignment.len()).sum::<usize>().saturating_sub(before);
        let taken = match more > turn.room {
            true => Err(GroupError::NoMemory),
            false => self.persist(turn, Some(assignments)),
        };
        if let Err(error) = taken {
            self.answer_syncs(turn, error);
            return self.prepare(turn, &format!("the assignment was not taken: {error}"));
        }
        let ids: Vec<Str> = self.members.keys().cloned().collect();
        for id in ids {
            let member = self.members.get_mut(&*id).expect("just listed");
            let waited = std::mem::replace(&mut member.syncing, Wait::No);
            if waited == Wait::No {
                continue;
            }
            self.extend_session(turn, &id);
            let synced = self.synced_as(&id);
            if let Some(ticket) = waited.ticket() {
                turn.reply(ticket, Reply::Sync(Ok(synced)));
            }
        }
    }

    /// Answers all that wait in SyncGroup, and forgets what was assigned to anyone.
    pub(super) fn answer_syncs(&mut self, turn: &mut Turn<'_>, error: GroupError) {
        let ids: Vec<Str> = self.members.keys().cloned().collect();
        for id in ids {
            let waited = self.change_member(&id, |member| {
                member.assignment = Bytes::new();
                std::mem::replace(&mut member.syncing, Wait::No)
            });
            if waited != Wait::No {
                self.extend_session(turn, &id);
            }
            if let Some(ticket) = waited.ticket() {
                turn.reply(ticket, Reply::Sync(Err(error)));
            }
        }
    }

    fn synced_as(&self, member_id: &str) -> Synced {
        Synced {
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            assignment: self.members.get(member_id).map(|member| member.assignment.clone()).unwrap_or_default(),
        }
    }
}
