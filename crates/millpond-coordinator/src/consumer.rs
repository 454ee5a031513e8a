//! A consumer group (KIP-848): the broker assigns, and members follow it one by one, heartbeat by heartbeat.
//!
//! The group has an *epoch*, which grows whenever members or topics change; a *target assignment*, computed for an
//! epoch; and each member a current assignment of its own, with the epoch up to which it has followed. A member that is
//! to give partitions up is told so, and stays in its epoch until it no longer reports them; only then may another one
//! have them. So a partition never has two owners.
//!
//! All of this is in records (Kafka's, classes GroupMetadataManager and CurrentAssignmentBuilder are the model); only
//! timers are not. Members that speak the classic protocol can be in such a group too: `classic_members.rs`.

mod assignors;
mod changes;
mod classic_members;
mod convert;
mod heartbeat;
mod leave;
mod reconcile;
mod subscriptions;
mod view;

use std::collections::{BTreeMap, BTreeSet};

use millpond_record::TopicId;
use millpond_wire::Str;

use crate::error::GroupError;
use crate::rebalances::Rebalances;
use crate::request::Committer;
use crate::shard::Turn;
use crate::timers::{Timer, Timers};
pub(crate) use assignors::{Assignment, Assignor};
pub(crate) use changes::ConsumerChange;
pub(crate) use convert::ConvertedMember;
pub(crate) use heartbeat::{check_heartbeat, check_subscription};

/// The epoch of a member that leaves.
const LEAVES: i32 = -1;
/// The epoch of a static member that leaves for a while.
const LEAVES_FOR_A_WHILE: i32 = -2;

/// What a group, a member, and a partition of an assignment take in memory besides texts, about.
const GROUP_BYTES: usize = 1024;
const MEMBER_BYTES: usize = 1024;
const PARTITION_BYTES: usize = 64;

/// A group of the consumer protocol.
#[derive(Debug)]
pub(crate) struct ConsumerGroup {
    id: Str,
    epoch: i32,
    /// Of the topics that are read, as they were when the epoch began.
    metadata_hash: i64,
    /// The epoch of the target assignment.
    target_epoch: i32,
    members: BTreeMap<Str, ConsumerMember>,
    targets: BTreeMap<Str, Assignment>,
    /// The topics that each regular expression in use matches.
    regexes: BTreeMap<Str, BTreeSet<Str>>,
    static_members: BTreeMap<Str, Str>,
    /// Who has a partition, or has not said yet that it gave it up.
    owners: BTreeMap<(TopicId, i32), Str>,
    /// The version of the topics that the group has looked at.
    seen_topics: Option<u64>,
    /// The names of the topics that were read then.
    topic_names: BTreeMap<TopicId, Str>,
    rebalances: Rebalances,
}

/// How far a member has followed its target. The numbers are those of the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MemberState {
    /// It has all that it can have in its epoch.
    Stable = 0,
    /// It still has to give partitions up.
    Unrevoked = 1,
    /// Others still have to give up partitions for it.
    Unreleased = 2,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct ConsumerMember {
    instance_id: Option<Str>,
    rack_id: Option<Str>,
    client_id: Str,
    client_host: Str,
    names: BTreeSet<Str>,
    regex: Option<Str>,
    rebalance_timeout: i32,
    assignor: Option<Str>,
    /// What it offers, if it speaks the classic protocol.
    classic: Option<ClassicMember>,
    epoch: i32,
    previous_epoch: i32,
    state: MemberState,
    assigned: Assignment,
    /// What it has been told to give up, and may still have.
    revoking: Assignment,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct ClassicMember {
    session_timeout: i32,
    protocols: Vec<(Str, bytes::Bytes)>,
}

impl ConsumerMember {
    fn empty() -> ConsumerMember {
        ConsumerMember {
            instance_id: None,
            rack_id: None,
            client_id: Str::EMPTY,
            client_host: Str::EMPTY,
            names: BTreeSet::new(),
            regex: None,
            rebalance_timeout: -1,
            assignor: None,
            classic: None,
            epoch: 0,
            previous_epoch: 0,
            state: MemberState::Stable,
            assigned: Assignment::new(),
            revoking: Assignment::new(),
        }
    }

    fn rebalance_timeout_ms(&self) -> u64 {
        u64::try_from(self.rebalance_timeout).unwrap_or(0)
    }

    fn bytes(&self) -> usize {
        let texts = [&self.instance_id, &self.rack_id, &self.regex, &self.assignor].into_iter().flatten();
        let texts = texts.chain(&self.names).chain([&self.client_id, &self.client_host]).map(|text| 64 + text.len());
        let classic = self.classic.iter().flat_map(|classic| &classic.protocols);
        let partitions = self.assigned.values().chain(self.revoking.values()).map(BTreeSet::len).sum::<usize>();
        MEMBER_BYTES
            + texts.sum::<usize>()
            + classic.map(|(name, metadata)| 64 + name.len() + metadata.len()).sum::<usize>()
            + 2 * partitions * PARTITION_BYTES
    }
}

impl ConsumerGroup {
    pub(crate) fn new(id: Str) -> ConsumerGroup {
        ConsumerGroup {
            id,
            epoch: 0,
            metadata_hash: 0,
            target_epoch: 0,
            members: BTreeMap::new(),
            targets: BTreeMap::new(),
            regexes: BTreeMap::new(),
            static_members: BTreeMap::new(),
            owners: BTreeMap::new(),
            seen_topics: None,
            topic_names: BTreeMap::new(),
            rebalances: Rebalances::default(),
        }
    }

    /// What it takes in memory, about.
    pub(crate) fn bytes(&self) -> usize {
        let members = self.members.iter().map(|(id, member)| 3 * id.len() + member.bytes());
        let targets = self.targets.values().flat_map(|own| own.values()).map(|own| own.len() * PARTITION_BYTES);
        let regexes = self.regexes.values().flatten().map(|topic| 64 + topic.len());
        GROUP_BYTES
            + self.id.len()
            + self.rebalances.bytes()
            + members.sum::<usize>()
            + targets.sum::<usize>()
            + regexes.sum::<usize>()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub(crate) fn has_member(&self, member_id: &str) -> bool {
        self.members.contains_key(member_id)
    }

    fn member_timer(&self, member_id: &Str) -> Timer {
        Timer::Member { group: self.id.clone(), member: member_id.clone() }
    }

    fn rebalance_timer(&self, member_id: &Str) -> Timer {
        Timer::Rebalance { group: self.id.clone(), member: member_id.clone() }
    }

    /// The member has been heard of.
    fn extend_session(&self, turn: &mut Turn<'_>, member_id: &Str) {
        let Some((id, member)) = self.members.get_key_value(&**member_id) else { return };
        let session_ms = match &member.classic {
            Some(classic) => u64::try_from(classic.session_timeout).unwrap_or(0),
            None => turn.settings.consumer_session_timeout_ms,
        };
        turn.timers.set(self.member_timer(id), turn.now.monotonic_ms.saturating_add(session_ms));
    }

    /// The member must come back, or give up what it is to give up, within its rebalance timeout.
    fn expect_progress(&self, turn: &mut Turn<'_>, member_id: &Str) {
        let Some((id, member)) = self.members.get_key_value(&**member_id) else { return };
        let deadline = turn.now.monotonic_ms.saturating_add(member.rebalance_timeout_ms());
        turn.timers.set_if_absent(self.rebalance_timer(id), deadline);
    }

    pub(crate) fn cancel_timers(&mut self, timers: &mut Timers) {
        for member in self.members.keys() {
            timers.cancel(&self.member_timer(member));
            timers.cancel(&self.rebalance_timer(member));
        }
    }

    /// The shard has been loaded: sessions start anew.
    pub(crate) fn loaded(&mut self, turn: &mut Turn<'_>) {
        let ids: Vec<Str> = self.members.keys().cloned().collect();
        for id in &ids {
            self.extend_session(turn, id);
            if self.members[&**id].state == MemberState::Unrevoked {
                self.expect_progress(turn, id);
            }
        }
    }

    /// Whether an OffsetCommit may go on.
    pub(crate) fn may_commit(&self, committer: &Committer, version: i16) -> Result<(), GroupError> {
        if committer.generation < 0 && self.is_empty() {
            return Ok(());
        }
        let member = self.members.get(&*committer.member_id).ok_or(GroupError::UnknownMember)?;
        let (given, current) = (committer.generation, member.epoch);
        match member.classic {
            None if version < FIRST_COMMIT_WITH_EPOCHS => Err(GroupError::CommitVersionTooOld),
            None if given != current => Err(GroupError::StaleMemberEpoch { given, current }),
            Some(_) if given != current => Err(GroupError::IllegalGeneration { given, current }),
            _ => Ok(()),
        }
    }

    /// Whether an OffsetFetch of this member may go on; without member id and epoch anyone may ask.
    pub(crate) fn may_fetch(&self, member_id: Option<&Str>, epoch: i32) -> Result<(), GroupError> {
        let Some(member_id) = member_id else {
            return if epoch < 0 { Ok(()) } else { Err(GroupError::UnknownMember) };
        };
        let current = self.members.get(&**member_id).ok_or(GroupError::UnknownMember)?.epoch;
        if epoch == current { Ok(()) } else { Err(GroupError::StaleMemberEpoch { given: epoch, current }) }
    }

    fn begin_rebalance(&mut self, turn: &Turn<'_>, why: &str) {
        self.rebalances.begin(turn.now.wall, why);
    }
}

/// Before it, OffsetCommit has no name for the error of a member that is behind.
const FIRST_COMMIT_WITH_EPOCHS: i16 = 9;
