//! JoinGroup.

use millpond_wire::Str;
use millpond_wire::join_group::JoinGroupRequest;

use super::member::{Member, Wait};
use super::{ClassicGroup, PENDING_BYTES, Phase};
use crate::consumer_protocol::subscribed_topics;
use crate::error::GroupError;
use crate::exchange::{Effects, JoinReply, Joined, JoinedMember, Now, Reply, Ticket};
use crate::member_id::new_member_id;
use crate::membership::Membership;
use crate::request::JoinContext;
use crate::settings::GroupSettings;
use crate::shard::{Shard, Turn};
use crate::topics::Topics;

/// Names go into records, whose format holds 32 KiB at most.
const MAX_NAME_BYTES: usize = 4096;

/// From here on a new member is told its id first, and must come back with it (KIP-394).
const FIRST_VERSION_WITH_ID_REQUIRED: i16 = 4;
/// From here on a leader can be told that it need not assign (KIP-814).
const FIRST_VERSION_WITH_SKIP: i16 = 9;

impl Shard {
    /// JoinGroup. The answer may come later: when the other members have joined, too.
    ///
    /// # Errors
    /// In the reply: [`GroupError::InvalidGroupId`], [`InvalidSessionTimeout`](GroupError::InvalidSessionTimeout),
    /// [`MemberIdRequired`](GroupError::MemberIdRequired), [`UnknownMember`](GroupError::UnknownMember),
    /// [`FencedInstance`](GroupError::FencedInstance), [`InconsistentProtocol`](GroupError::InconsistentProtocol),
    /// [`GroupFull`](GroupError::GroupFull), [`NoMemory`](GroupError::NoMemory),
    /// [`NamesTooLong`](GroupError::NamesTooLong).
    pub fn join(
        &mut self,
        ticket: Ticket,
        now: Now,
        request: &JoinGroupRequest,
        context: &JoinContext,
        topics: &dyn Topics,
    ) -> Effects {
        let mut effects = Effects::default();
        let known = self.groups.contains_key(&*request.group_id);
        let admissible = check_request(request, &self.settings).and_then(|()| {
            let group = self.groups.get(&*request.group_id);
            let more = match group.map(|group| &group.membership) {
                Some(Membership::Classic(group)) => group.growth_by(request),
                // It is counted already.
                Some(Membership::Consumer(group)) if group.has_member(&request.member_id) => 0,
                _ => bytes_of(request),
            };
            match () {
                _ if !known && !request.member_id.is_empty() => Err(GroupError::UnknownMember),
                _ if more > 0 && self.state_bytes.saturating_add(more) > self.settings.max_state_bytes => {
                    Err(GroupError::NoMemory)
                }
                _ => Ok(()),
            }
        });
        if let Err(error) = admissible {
            refuse(&mut effects, ticket, &request.member_id, error);
            return effects;
        }
        self.become_classic(&request.group_id, &mut effects);
        self.group_or_new(&request.group_id);
        self.in_group(&request.group_id, now, &mut effects, |group, turn| match group {
            Membership::Classic(group) => group.join(turn, ticket, request, context),
            Membership::Consumer(group) => {
                let reply = group.classic_join(turn, request, context, topics);
                turn.reply(ticket, Reply::Join(reply));
            }
        });
        if self.groups.get(&*request.group_id).is_some_and(|group| group.is_vacant()) {
            self.forget(&request.group_id);
        }
        effects
    }
}

fn refuse(effects: &mut Effects, ticket: Ticket, member_id: &Str, error: GroupError) {
    let reply = JoinReply { member_id: member_id.detached(), outcome: Err(error) };
    effects.replies.push((ticket, Reply::Join(reply)));
}

fn check_request(request: &JoinGroupRequest, settings: &GroupSettings) -> Result<(), GroupError> {
    let (given_ms, min_ms, max_ms) =
        (request.session_timeout_ms, settings.min_session_timeout_ms, settings.max_session_timeout_ms);
    if request.group_id.is_empty() {
        return Err(GroupError::InvalidGroupId);
    }
    if !(min_ms..=max_ms).contains(&given_ms) {
        return Err(GroupError::InvalidSessionTimeout { given_ms, min_ms, max_ms });
    }
    let names = [Some(&request.group_id), request.group_instance_id.as_ref(), Some(&request.protocol_type)];
    let protocols = request.protocols.iter().map(|protocol| &protocol.name);
    if names.into_iter().flatten().chain(protocols).any(|name| name.len() > MAX_NAME_BYTES) {
        return Err(GroupError::NamesTooLong);
    }
    Ok(())
}

/// The longest delay that may be over between the answer that gives a member its id and the request that comes with it.
const ROUND_TRIP_MS: u64 = 100;

/// What a new member will take in memory, about and at most.
fn bytes_of(request: &JoinGroupRequest) -> usize {
    8192 + bytes_offered(request)
}

/// What it offers of that.
fn bytes_offered(request: &JoinGroupRequest) -> usize {
    request.protocols.iter().map(|protocol| 128 + protocol.name.len() + protocol.metadata.len()).sum()
}

impl ClassicGroup {
    /// How much more memory the group may take with this join, about and at most: a member that asks again, or a static
    /// one that takes its former self's place, is counted already, but for what it offers beyond what it offered.
    fn growth_by(&self, request: &JoinGroupRequest) -> usize {
        let former = request.group_instance_id.as_ref().and_then(|instance| self.static_members.get(&**instance));
        let id = if request.member_id.is_empty() { former.map_or("", |id| id) } else { &request.member_id };
        match self.members.get(id) {
            Some(member) => bytes_offered(request).saturating_sub(member.bytes_offered()),
            None => bytes_of(request),
        }
    }

    fn join(&mut self, turn: &mut Turn<'_>, ticket: Ticket, request: &JoinGroupRequest, context: &JoinContext) {
        if let Err(error) = self.has_room_for(&request.member_id, turn.settings) {
            if self.members.contains_key(&*request.member_id) {
                self.remove_member(turn, &request.member_id, GroupError::UnknownMember);
                self.after_removal(turn, &format!("member {} had no place any more", request.member_id));
            }
            return refuse(turn.effects, ticket, &Str::EMPTY, error);
        }
        if !self.supports(request) {
            return refuse(turn.effects, ticket, &request.member_id, GroupError::InconsistentProtocol);
        }
        if request.member_id.is_empty() {
            self.join_new(turn, ticket, request, context);
        } else {
            self.join_known(turn, ticket, request, context);
        }
    }

    /// While members join, only those that wait count: the others may be gone.
    fn has_room_for(&self, member_id: &str, settings: &GroupSettings) -> Result<(), GroupError> {
        let max = settings.max_group_size;
        let member = self.members.get(member_id);
        let has_place = match self.phase {
            Phase::Empty => true,
            Phase::Preparing { .. } => {
                let waiting = self.members.values().filter(|member| member.joining != Wait::No).count();
                member.is_some_and(|member| member.joining != Wait::No) || waiting < max
            }
            Phase::Completing | Phase::Stable => member.is_some() || self.members.len() < max,
        };
        let has_place = has_place && (!member_id.is_empty() || self.pending.len() < max);
        if has_place { Ok(()) } else { Err(GroupError::GroupFull { max }) }
    }

    fn join_new(&mut self, turn: &mut Turn<'_>, ticket: Ticket, request: &JoinGroupRequest, context: &JoinContext) {
        let member_id = new_member_id(request.group_instance_id.as_ref(), context);
        if let Some(instance) = &request.group_instance_id {
            return match self.static_members.get(&**instance).cloned() {
                Some(old_id) => self.replace_static(turn, ticket, &old_id, member_id, request, context),
                None => self.add_member(turn, ticket, member_id, request, context),
            };
        }
        if context.version < FIRST_VERSION_WITH_ID_REQUIRED {
            return self.add_member(turn, ticket, member_id, request, context);
        }
        if turn.settings.initial_rebalance_delay_ms <= ROUND_TRIP_MS {
            // It comes back with its id at once. Longer delays do without: who asks for ids and never comes, as clients
            // do that do not know of them, must not hold up a group for long.
            self.have_first_members_wait();
        }
        self.bytes += PENDING_BYTES + member_id.len();
        self.pending.insert(member_id.clone());
        let session_ms = u64::try_from(request.session_timeout_ms).unwrap_or(0);
        turn.timers.set(self.member_timer(&member_id), turn.now.monotonic_ms.saturating_add(session_ms));
        refuse(turn.effects, ticket, &member_id, GroupError::MemberIdRequired);
    }

    fn join_known(&mut self, turn: &mut Turn<'_>, ticket: Ticket, request: &JoinGroupRequest, context: &JoinContext) {
        let member_id = &request.member_id;
        if self.pending.contains(&**member_id) {
            // Ids are only given out to members without an instance id.
            if request.group_instance_id.is_some() {
                return refuse(turn.effects, ticket, member_id, GroupError::UnknownMember);
            }
            let member_id = member_id.detached();
            self.remove_pending(turn, &member_id);
            return self.add_member(turn, ticket, member_id, request, context);
        }
        if let Err(error) = self.check_member(member_id, request.group_instance_id.as_ref()) {
            return refuse(turn.effects, ticket, member_id, error);
        }
        let (member_id, member) = self.members.get_key_value(&**member_id).expect("it has just been checked");
        let member_id = member_id.clone();
        let unchanged = member.offers_the_same(request);
        let why = match self.phase {
            Phase::Completing if unchanged => None,
            Phase::Stable if unchanged && !self.is_leader(&member_id) => None,
            Phase::Empty => None,
            Phase::Preparing { .. } => Some(format!("member {member_id} joins")),
            Phase::Stable if unchanged => Some(format!("leader {member_id} asks for a new assignment")),
            Phase::Completing | Phase::Stable => Some(format!("member {member_id} changed what it offers")),
        };
        let Some(why) = why else {
            // It may not have got the answer to its last join. A leader may assign anew only in a rebalance.
            self.extend_session(turn, &member_id);
            let joined = self.joined_as(&member_id);
            return turn.reply(ticket, Reply::Join(JoinReply { member_id, outcome: Ok(joined) }));
        };
        self.update_member(turn, ticket, &member_id, request);
        self.rebalance_or_complete(turn, &with_reason(why, request));
    }

    fn add_member(
        &mut self,
        turn: &mut Turn<'_>,
        ticket: Ticket,
        member_id: Str,
        request: &JoinGroupRequest,
        context: &JoinContext,
    ) {
        let mut member = Member::joining(request, context);
        member.joining = Wait::For(ticket);
        turn.parked.insert(ticket, (self.id.clone(), member_id.clone()));
        self.have_first_members_wait();
        if self.members.is_empty() {
            self.protocol_type = Some(request.protocol_type.detached());
        }
        let why = with_reason(format!("member {member_id} is new"), request);
        // It cannot send heartbeats before it is answered. This bounds how long one that has gone counts.
        let deadline = turn.now.monotonic_ms.saturating_add(turn.settings.new_member_join_timeout_ms);
        turn.timers.set(self.member_timer(&member_id), deadline);
        self.insert_member(member_id, member);
        self.rebalance_or_complete(turn, &why);
    }

    /// Somebody else comes: those that are there already wait another delay.
    fn have_first_members_wait(&mut self) {
        if let Phase::Preparing { initial: Some(initial) } = &mut self.phase {
            initial.more_came = true;
        }
    }

    /// Takes what a JoinGroup of a member says, and lets it wait.
    fn update_member(&mut self, turn: &mut Turn<'_>, ticket: Ticket, member_id: &Str, request: &JoinGroupRequest) {
        let superseded = self.change_member(member_id, |member| {
            member.take_from(request);
            std::mem::replace(&mut member.joining, Wait::For(ticket)).ticket()
        });
        if self.members[&**member_id].is_new {
            // Its connection may have been gone for a while: it waits as long as any new member again.
            let deadline = turn.now.monotonic_ms.saturating_add(turn.settings.new_member_join_timeout_ms);
            turn.timers.set(self.member_timer(member_id), deadline);
        }
        turn.parked.insert(ticket, (self.id.clone(), member_id.clone()));
        if let Some(superseded) = superseded {
            let reply = JoinReply { member_id: member_id.clone(), outcome: Err(GroupError::RebalanceInProgress) };
            turn.reply(superseded, Reply::Join(reply));
        }
    }

    /// A static member has restarted: it takes the place of its former self under a new id (KIP-345).
    fn replace_static(
        &mut self,
        turn: &mut Turn<'_>,
        ticket: Ticket,
        old_id: &Str,
        new_id: Str,
        request: &JoinGroupRequest,
        context: &JoinContext,
    ) {
        let former_leader = self.leader.clone();
        let Some(mut member) = self.take_member(old_id) else { return };
        self.answer_waiting(turn, old_id, &mut member, GroupError::FencedInstance);
        turn.timers.cancel(&self.member_timer(old_id));
        if former_leader.as_ref() == Some(old_id) {
            self.leader = Some(new_id.clone());
        }
        let topics_before = self.protocol.as_ref().and_then(|name| subscribed_topics(member.metadata_of(name)?));
        member.client_id = context.client_id.detached();
        member.client_host = context.client_host.detached();
        self.insert_member(new_id.clone(), member);
        self.update_member(turn, ticket, &new_id, request);
        let member = &self.members[&*new_id];
        if !member.is_new {
            let deadline = turn.now.monotonic_ms.saturating_add(member.session_timeout_ms());
            turn.timers.set(self.member_timer(&new_id), deadline);
        }

        let same_topics =
            || self.protocol.as_ref().and_then(|name| subscribed_topics(member.metadata_of(name)?)) == topics_before;
        if self.phase != Phase::Stable || self.elected_protocol() != self.protocol || !same_topics() {
            let why = with_reason(format!("static member {new_id} takes the place of {old_id}"), request);
            return match self.phase {
                Phase::Preparing { .. } => self.complete_if_all_joined(turn),
                Phase::Empty | Phase::Completing | Phase::Stable => self.rebalance_or_complete(turn, &why),
            };
        }
        self.change_member(&new_id, |member| member.joining = Wait::No);
        if let Err(error) = self.persist(turn, None) {
            let reply = JoinReply { member_id: new_id, outcome: Err(error) };
            return turn.reply(ticket, Reply::Join(reply));
        }
        let mut joined = self.joined_as(&new_id);
        if context.version >= FIRST_VERSION_WITH_SKIP {
            joined.skip_assignment = self.is_leader(&new_id);
        } else {
            // A leader would assign anew, and there is no rebalance in which to do that: it is told its old id.
            joined.members.clear();
            joined.leader = former_leader.unwrap_or_default();
        }
        turn.reply(ticket, Reply::Join(JoinReply { member_id: new_id, outcome: Ok(joined) }));
    }

    /// This generation, as the member is told of it.
    pub(super) fn joined_as(&self, member_id: &str) -> Joined {
        let members = if self.is_leader(member_id) { self.joined_members() } else { Vec::new() };
        Joined {
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            leader: self.leader.clone().unwrap_or_default(),
            skip_assignment: false,
            members,
        }
    }

    fn joined_members(&self) -> Vec<JoinedMember> {
        let protocol = self.protocol.as_deref().unwrap_or_default();
        let joined = |(id, member): (&Str, &Member)| JoinedMember {
            member_id: id.clone(),
            instance_id: member.instance_id.clone(),
            metadata: member.metadata_of(protocol).cloned().unwrap_or_default(),
        };
        self.members.iter().map(joined).collect()
    }
}

fn with_reason(why: String, request: &JoinGroupRequest) -> String {
    match &request.reason {
        Some(reason) if !reason.is_empty() => format!("{why}: {reason}"),
        _ => why,
    }
}
