//! A classic group: members meet in JoinGroup, one of them assigns, SyncGroup hands out what it assigned.
//!
//! ```text
//!            first member joins            all have joined, or time is up
//!   Empty ───────────────────▶ Preparing ───────────────────────────────▶ Completing
//!     ▲                          ▲  │ nobody is left                          │ the leader's SyncGroup: the record
//!     └──────────────────────────┼──┘                                         ▼
//!                                └──── a member comes, goes or changes ◀─── Stable
//! ```
//!
//! What outlives the shard is the record of the last SyncGroup of a leader, and of the last member's leaving. A group
//! that is loaded is as that record says; whoever has joined since must join again. What Kafka's classic groups do is
//! the model (its class ClassicGroup, KIP-62, KIP-345, KIP-394, KIP-814).

mod convert;
mod join;
mod leave;
mod member;
mod persist;
mod protocol;
mod rebalance;
mod sync;
mod view;

use std::collections::{BTreeMap, BTreeSet};

use millpond_record::Timestamp;
use millpond_wire::Str;

use crate::describe::GroupState;
use crate::error::GroupError;
use crate::exchange::Ticket;
use crate::rebalances::Rebalances;
use crate::request::Committer;
use crate::shard::Turn;
use crate::timers::{Timer, Timers};
pub(crate) use convert::Offered;
use member::{Member, Wait};
pub(crate) use rebalance::named as named_members;

/// What a group takes in memory besides texts, about.
const FIXED_BYTES: usize = 512;
/// What a member id takes that has been given out, besides its text, about.
const PENDING_BYTES: usize = 256;

/// A classic group, or one that has nothing but offsets.
#[derive(Debug)]
pub(crate) struct ClassicGroup {
    id: Str,
    /// None until there is a member, and in a group that has offsets only.
    protocol_type: Option<Str>,
    generation: i32,
    /// What the members of this generation agreed on.
    protocol: Option<Str>,
    leader: Option<Str>,
    phase: Phase,
    /// When the phase began; none for what an old broker wrote.
    since: Option<Timestamp>,
    members: BTreeMap<Str, Member>,
    /// Member ids by group instance id.
    static_members: BTreeMap<Str, Str>,
    /// Member ids that have been given out, and did not join yet (KIP-394).
    pending: BTreeSet<Str>,
    /// The topics of this generation's consumers. None when it is not known: then it is taken to be any.
    subscribed: Option<BTreeSet<Str>>,
    /// What members and ids take in memory, about.
    bytes: usize,
    rebalances: Rebalances,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Empty,
    /// Members join.
    Preparing {
        /// The group was empty: it waits for more members, whoever is there.
        initial: Option<InitialDelay>,
    },
    /// The leader assigns.
    Completing,
    Stable,
}

/// The wait of an empty group for its first members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct InitialDelay {
    /// The delay that runs.
    delay_ms: u64,
    /// How much longer it may become.
    remaining_ms: u64,
    /// A member came while it ran.
    more_came: bool,
}

impl ClassicGroup {
    /// A group that nobody has joined.
    pub(crate) fn new(id: Str) -> ClassicGroup {
        let bytes = FIXED_BYTES + id.len();
        ClassicGroup {
            id,
            protocol_type: None,
            generation: 0,
            protocol: None,
            leader: None,
            phase: Phase::Empty,
            since: None,
            members: BTreeMap::new(),
            static_members: BTreeMap::new(),
            pending: BTreeSet::new(),
            subscribed: None,
            bytes,
            rebalances: Rebalances::default(),
        }
    }

    /// What it takes in memory, about.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes + self.rebalances.bytes()
    }

    fn state(&self) -> GroupState {
        match self.phase {
            Phase::Empty => GroupState::Empty,
            Phase::Preparing { .. } => GroupState::PreparingRebalance,
            Phase::Completing => GroupState::CompletingRebalance,
            Phase::Stable => GroupState::Stable,
        }
    }

    /// Whether it has no member.
    pub(crate) fn is_empty(&self) -> bool {
        self.phase == Phase::Empty
    }

    /// Whether nobody is in it or about to join.
    pub(crate) fn is_unused(&self) -> bool {
        self.is_empty() && self.pending.is_empty()
    }

    /// Whether it is as a new group: no record tells of it.
    pub(crate) fn is_vacant(&self) -> bool {
        self.is_unused() && self.generation == 0 && self.protocol_type.is_none()
    }

    fn is_leader(&self, member_id: &str) -> bool {
        self.leader.as_deref() == Some(member_id)
    }

    /// How long a rebalance may take: as long as the most patient member allows.
    fn rebalance_timeout_ms(&self) -> u64 {
        self.members.values().map(Member::rebalance_timeout_ms).max().unwrap_or(0)
    }

    /// Holds a request to the membership that it claims.
    fn check_member(&self, member_id: &str, instance_id: Option<&Str>) -> Result<(), GroupError> {
        if let Some(instance) = instance_id {
            match self.static_members.get(&**instance) {
                None => return Err(GroupError::UnknownMember),
                Some(current) if **current != *member_id => return Err(GroupError::FencedInstance),
                Some(_) => {}
            }
        }
        if self.members.contains_key(member_id) { Ok(()) } else { Err(GroupError::UnknownMember) }
    }

    fn check_generation(&self, given: i32) -> Result<(), GroupError> {
        let current = self.generation;
        if given == current { Ok(()) } else { Err(GroupError::IllegalGeneration { given, current }) }
    }

    /// Whether an OffsetCommit may go on. A member's commit is a sign of life.
    pub(crate) fn may_commit(&mut self, turn: &mut Turn<'_>, committer: &Committer) -> Result<(), GroupError> {
        let Committer { member_id, instance_id, generation } = committer;
        if *generation < 0 && self.is_empty() {
            return Ok(());
        }
        let claims_membership = *generation >= 0 || !member_id.is_empty() || instance_id.is_some();
        if !claims_membership {
            return if self.is_empty() { Ok(()) } else { Err(GroupError::UnknownMember) };
        }
        self.check_member(member_id, instance_id.as_ref())?;
        self.check_generation(*generation)?;
        if self.phase == Phase::Completing {
            return Err(GroupError::RebalanceInProgress);
        }
        self.extend_session(turn, member_id);
        Ok(())
    }

    /// Heartbeat.
    pub(crate) fn heartbeat(
        &mut self,
        turn: &mut Turn<'_>,
        member_id: &Str,
        instance_id: Option<&Str>,
        generation: i32,
    ) -> Result<(), GroupError> {
        self.check_member(member_id, instance_id)?;
        self.check_generation(generation)?;
        self.extend_session(turn, member_id);
        match self.phase {
            Phase::Preparing { .. } => Err(GroupError::RebalanceInProgress),
            Phase::Empty | Phase::Completing | Phase::Stable => Ok(()),
        }
    }

    fn member_timer(&self, member_id: &Str) -> Timer {
        Timer::Member { group: self.id.clone(), member: member_id.clone() }
    }

    fn join_timer(&self) -> Timer {
        Timer::Join { group: self.id.clone() }
    }

    fn sync_timer(&self) -> Timer {
        Timer::Sync { group: self.id.clone() }
    }

    /// The member has been heard of: its session starts anew. One that waits for its first join is not bound to its
    /// session, but to the time that a new member may wait.
    fn extend_session(&self, turn: &mut Turn<'_>, member_id: &Str) {
        let Some((id, member)) = self.members.get_key_value(&**member_id) else { return };
        if member.is_new && member.joining != Wait::No {
            return;
        }
        let deadline = turn.now.monotonic_ms.saturating_add(member.session_timeout_ms());
        turn.timers.set(self.member_timer(id), deadline);
    }

    pub(crate) fn cancel_timers(&mut self, timers: &mut Timers) {
        for member in self.members.keys().chain(&self.pending) {
            timers.cancel(&self.member_timer(member));
        }
        timers.cancel(&self.join_timer());
        timers.cancel(&self.sync_timer());
    }

    /// The session of a member has run out, or the time in which an id that was given out had to be used.
    pub(crate) fn member_expired(&mut self, turn: &mut Turn<'_>, member_id: &Str) {
        if self.pending.contains(&**member_id) {
            self.remove_pending(turn, member_id);
            return self.complete_if_all_joined(turn);
        }
        let Some(member) = self.members.get(&**member_id) else { return };
        // Whoever waits for the others cannot send heartbeats; its session starts when it is answered.
        let excused = !member.is_new && (member.joining != Wait::No || member.syncing != Wait::No);
        if !excused {
            self.remove_member(turn, member_id, GroupError::UnknownMember);
            self.after_removal(turn, &format!("the session of member {member_id} timed out"));
        }
    }

    /// The connection of a waiting request is gone. The member keeps its place, as in Kafka: it may ask again. One that
    /// nobody can ask for, because its id was never told, goes at once.
    pub(crate) fn abandoned(&mut self, turn: &mut Turn<'_>, member_id: &Str, ticket: Ticket) {
        let Some(member) = self.members.get_mut(&**member_id) else { return };
        for wait in [&mut member.joining, &mut member.syncing] {
            if *wait == Wait::For(ticket) {
                *wait = Wait::Abandoned;
            }
        }
        if !member.is_new || member.instance_id.is_some() {
            return;
        }
        if member.knows_id {
            let deadline = turn.now.monotonic_ms.saturating_add(member.session_timeout_ms());
            turn.timers.set(self.member_timer(member_id), deadline);
        } else {
            self.remove_member(turn, member_id, GroupError::UnknownMember);
            self.after_removal(turn, &format!("new member {member_id} went away before it was told its id"));
        }
    }
}
