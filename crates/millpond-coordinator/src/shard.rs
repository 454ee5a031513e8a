//! All groups of one partition of `__consumer_offsets`.

use std::collections::BTreeMap;

use millpond_record::{Timestamp, TopicId};
use millpond_wire::{EncodeError, Str};

use crate::classic::ClassicGroup;
use crate::consumer::{ConsumerChange, ConsumerGroup};
use crate::error::GroupError;
use crate::exchange::{Effects, Now, Record, Reply, Ticket};
use crate::membership::Membership;
use crate::offsets::{CommittedOffset, Offsets};
use crate::records::{Change, RecordError};
use crate::settings::GroupSettings;
use crate::timers::{Timer, Timers};

/// The groups of one partition of `__consumer_offsets`, and their committed offsets.
///
/// It is loaded by [`replay`](Shard::replay) of all records, then [`loaded`](Shard::loaded); after that, every handler
/// takes the time and gives [`Effects`].
#[derive(Debug)]
pub struct Shard {
    pub(crate) settings: GroupSettings,
    pub(crate) groups: BTreeMap<Str, Group>,
    pub(crate) timers: Timers,
    pub(crate) parked: Parked,
    /// What members and offsets take in memory, about.
    pub(crate) state_bytes: usize,
    /// Where the search for expired offsets goes on; `None`: from the first group.
    pub(crate) expiry_from: Option<Str>,
    loaded_at: Option<Timestamp>,
}

/// A group: who is in it, and how far it has read.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) membership: Membership,
    pub(crate) offsets: Offsets,
}

impl Group {
    fn new(id: &str) -> Group {
        Group { membership: Membership::Classic(ClassicGroup::new(Str::from(id))), offsets: Offsets::default() }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.membership.bytes() + self.offsets.bytes()
    }

    /// Whether no record would be needed to forget it.
    pub(crate) fn is_vacant(&self) -> bool {
        self.offsets.is_empty() && self.membership.is_vacant()
    }
}

/// Which member each unanswered request belongs to.
pub(crate) type Parked = BTreeMap<Ticket, (Str, Str)>;

/// What a group needs while it works on one call.
pub(crate) struct Turn<'a> {
    pub(crate) now: Now,
    pub(crate) settings: &'a GroupSettings,
    /// How much more memory members may take, in bytes.
    pub(crate) room: usize,
    pub(crate) timers: &'a mut Timers,
    pub(crate) parked: &'a mut Parked,
    pub(crate) effects: &'a mut Effects,
}

impl Turn<'_> {
    pub(crate) fn reply(&mut self, ticket: Ticket, reply: Reply) {
        self.parked.remove(&ticket);
        self.effects.replies.push((ticket, reply));
    }
}

/// What became of a record that was replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replayed {
    Applied,
    /// Its kind is unknown: a later version wrote it.
    Skipped,
}

impl Shard {
    /// A shard without groups.
    pub fn new(settings: GroupSettings) -> Shard {
        Shard {
            settings,
            groups: BTreeMap::new(),
            timers: Timers::default(),
            parked: Parked::new(),
            state_bytes: 0,
            expiry_from: None,
            loaded_at: None,
        }
    }

    /// Takes other settings from now on. Timers that run keep their deadlines.
    pub fn set_settings(&mut self, settings: GroupSettings) {
        self.settings = settings;
    }

    /// Applies a record of the partition, in the order of the log, before [`loaded`](Shard::loaded).
    ///
    /// # Errors
    /// When the bytes are no record of this topic; nothing has changed then.
    pub fn replay(&mut self, record: &Record) -> Result<Replayed, RecordError> {
        match Change::decode(record)? {
            Some(change) => {
                self.apply(change);
                Ok(Replayed::Applied)
            }
            None => Ok(Replayed::Skipped),
        }
    }

    /// All records have been replayed: the sessions of all members start anew, and a group that has more members than
    /// are allowed now rebalances.
    pub fn loaded(&mut self, now: Now) -> Effects {
        let mut effects = Effects::default();
        self.timers.clear();
        self.loaded_at = Some(now.wall);
        self.timers.set(Timer::Expiry, now.monotonic_ms.saturating_add(self.settings.offsets_retention_check_ms));
        let ids: Vec<Str> = self.groups.keys().cloned().collect();
        for id in ids {
            self.in_group(&id, now, &mut effects, |group, turn| group.loaded(turn));
        }
        effects
    }

    /// Since when the coordinator is here; what was before, for example rebalances, is not known. `None` while the
    /// shard is being loaded.
    pub fn loaded_at(&self) -> Option<Timestamp> {
        self.loaded_at
    }

    /// When [`tick`](Shard::tick) has something to do: milliseconds of the monotonic clock.
    pub fn next_deadline(&self) -> Option<u64> {
        self.timers.next_deadline()
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Now) -> Effects {
        let mut effects = Effects::default();
        while let Some(timer) = self.timers.pop_due(now.monotonic_ms) {
            match timer {
                Timer::Member { group, member } => {
                    self.in_group(&group, now, &mut effects, |group, turn| group.member_expired(turn, &member));
                    self.become_classic_if_due(&group, now, &mut effects);
                    // Nothing but an id that was given out and not used may have been there.
                    if self.groups.get(&*group).is_some_and(Group::is_vacant) {
                        self.forget(&group);
                    }
                }
                Timer::Rebalance { group, member } => {
                    let why = "did not follow within its rebalance timeout";
                    let expire =
                        |group: &mut ConsumerGroup, turn: &mut Turn<'_>| group.member_expired(turn, &member, why);
                    self.in_consumer_group(&group, now, &mut effects, expire);
                    self.become_classic_if_due(&group, now, &mut effects);
                }
                Timer::Join { group } => {
                    self.in_classic_group(&group, now, &mut effects, |group, turn| group.join_time_is_up(turn));
                }
                Timer::Sync { group } => {
                    self.in_classic_group(&group, now, &mut effects, |group, turn| group.sync_time_is_up(turn));
                }
                Timer::Expiry => {
                    // The rest of the search comes with the next tick, after what was found has been appended.
                    self.expire(now, &mut effects);
                    break;
                }
            }
        }
        effects
    }

    /// The connection of an unanswered request is gone: the ticket will not be answered.
    pub fn abandon(&mut self, ticket: Ticket, now: Now) -> Effects {
        let mut effects = Effects::default();
        if let Some((group, member)) = self.parked.remove(&ticket) {
            self.in_classic_group(&group, now, &mut effects, |group, turn| group.abandoned(turn, &member, ticket));
        }
        effects
    }

    /// The requests that wait for an answer.
    pub fn parked(&self) -> impl Iterator<Item = Ticket> {
        self.parked.keys().copied()
    }

    /// What members and offsets take in memory, about, in bytes.
    pub fn state_bytes(&self) -> usize {
        self.state_bytes
    }

    /// Runs `work` on a group that exists, and counts what it takes afterwards.
    pub(crate) fn in_group<T>(
        &mut self,
        id: &str,
        now: Now,
        effects: &mut Effects,
        work: impl FnOnce(&mut Membership, &mut Turn<'_>) -> T,
    ) -> Option<T> {
        let group = self.groups.get_mut(id)?;
        let (timers, parked) = (&mut self.timers, &mut self.parked);
        let room = self.settings.max_state_bytes.saturating_sub(self.state_bytes);
        let mut turn = Turn { now, settings: &self.settings, room, timers, parked, effects };
        let before = group.membership.bytes();
        let result = work(&mut group.membership, &mut turn);
        self.state_bytes = self.state_bytes + group.membership.bytes() - before;
        Some(result)
    }

    /// As [`in_group`](Shard::in_group), if it is a classic one.
    pub(crate) fn in_classic_group<T>(
        &mut self,
        id: &str,
        now: Now,
        effects: &mut Effects,
        work: impl FnOnce(&mut ClassicGroup, &mut Turn<'_>) -> T,
    ) -> Option<T> {
        let found = self.in_group(id, now, effects, |group, turn| match group {
            Membership::Classic(group) => Some(work(group, turn)),
            Membership::Consumer(_) => None,
        });
        found.flatten()
    }

    /// As [`in_group`](Shard::in_group), if it is a consumer group.
    pub(crate) fn in_consumer_group<T>(
        &mut self,
        id: &str,
        now: Now,
        effects: &mut Effects,
        work: impl FnOnce(&mut ConsumerGroup, &mut Turn<'_>) -> T,
    ) -> Option<T> {
        let found = self.in_group(id, now, effects, |group, turn| match group {
            Membership::Consumer(group) => Some(work(group, turn)),
            Membership::Classic(_) => None,
        });
        found.flatten()
    }

    /// The group of this id, which begins to exist if need be.
    pub(crate) fn group_or_new(&mut self, id: &str) -> &mut Group {
        if !self.groups.contains_key(id) {
            let group = Group::new(id);
            self.state_bytes += group.bytes();
            self.groups.insert(Str::from(id), group);
        }
        self.groups.get_mut(id).expect("it was there or has been put there")
    }

    /// Removes the group with its timers. It has no member that waits.
    pub(crate) fn forget(&mut self, id: &str) {
        let Some(mut group) = self.groups.remove(id) else { return };
        self.state_bytes -= group.bytes();
        group.membership.cancel_timers(&mut self.timers);
    }

    /// Hands out the record and applies it.
    pub(crate) fn emit(&mut self, change: Change, effects: &mut Effects) -> Result<(), EncodeError> {
        effects.records.push(change.encode()?);
        self.apply(change);
        Ok(())
    }

    /// The only way in which offsets change, and in which a group changes that has no member.
    fn apply(&mut self, change: Change) {
        match change {
            Change::Offset { group, topic, partition, value: Some(committed) } => {
                let group = self.group_or_new(&group);
                let before = group.offsets.bytes();
                group.offsets.set(&topic, partition, committed);
                let after = group.offsets.bytes();
                self.state_bytes = self.state_bytes + after - before;
            }
            Change::Offset { group, topic, partition, value: None } => {
                let Some(group) = self.groups.get_mut(&*group) else { return };
                let before = group.offsets.bytes();
                group.offsets.remove(&topic, partition);
                self.state_bytes = self.state_bytes + group.offsets.bytes() - before;
            }
            Change::Group { group, value: Some(value) } => {
                let group = self.group_or_new(&group);
                let before = group.membership.bytes();
                match &mut group.membership {
                    Membership::Classic(group) => group.replay(value),
                    Membership::Consumer(_) => {
                        // Tombstones come before; without them the log is one that this broker did not write.
                        let mut classic = ClassicGroup::new(group.membership.summary().group_id.clone());
                        classic.replay(value);
                        group.membership = Membership::Classic(classic);
                    }
                }
                let after = group.membership.bytes();
                self.state_bytes = self.state_bytes + after - before;
            }
            Change::Group { group: id, value: None } => {
                // In a compacted log it may come behind the records of the consumer group that took its place.
                if self.groups.get(&*id).is_some_and(|group| matches!(group.membership, Membership::Classic(_))) {
                    self.forget_membership(&id);
                }
            }
            Change::Consumer { group, change } => self.apply_to_consumer_group(&group, change),
        }
    }

    fn apply_to_consumer_group(&mut self, id: &Str, change: ConsumerChange) {
        let ends = change == ConsumerChange::Epoch(None);
        let known = matches!(self.groups.get(&**id).map(|group| &group.membership), Some(Membership::Consumer(_)));
        if !known && change.is_tombstone() {
            return;
        }
        let group = self.consumer_group_or_new(id);
        let before = group.bytes();
        group.replay(change);
        let (after, ended) = (group.bytes(), ends && group.is_empty());
        self.state_bytes = self.state_bytes + after - before;
        if ended {
            self.forget_membership(id);
        }
    }

    /// A group's tombstone ends its membership; offsets have tombstones of their own.
    fn forget_membership(&mut self, id: &str) {
        let Some(group) = self.groups.get_mut(id) else { return };
        let offsets = std::mem::take(&mut group.offsets);
        self.state_bytes -= offsets.bytes();
        self.forget(id);
        if !offsets.is_empty() {
            self.state_bytes += offsets.bytes();
            self.group_or_new(id).offsets = offsets;
        }
    }

    /// The committed offset of a partition; `None` when there is none, also in a group that does not exist.
    ///
    /// With a topic id, an offset that was committed for another topic of the same name is none. Read only what is
    /// committed: like a reply, the answer must wait for all records handed out before.
    pub fn committed_offset(
        &self,
        group_id: &str,
        topic: &str,
        topic_id: TopicId,
        partition: millpond_record::PartitionIndex,
    ) -> Option<&CommittedOffset> {
        let committed = self.groups.get(group_id)?.offsets.get(topic, partition)?;
        committed.is_of(topic_id).then_some(committed)
    }

    /// Whether a member may read the offsets of its group: OffsetFetch 9 and later name member and epoch. Without them
    /// anyone may.
    ///
    /// # Errors
    /// In a consumer group [`GroupError::UnknownMember`], [`StaleMemberEpoch`](GroupError::StaleMemberEpoch).
    pub fn may_fetch(&self, group_id: &str, member_id: Option<&Str>, epoch: i32) -> Result<(), GroupError> {
        match self.groups.get(group_id).map(|group| &group.membership) {
            Some(Membership::Consumer(group)) => group.may_fetch(member_id, epoch),
            Some(Membership::Classic(_)) | None => Ok(()),
        }
    }

    /// All committed offsets of a group, by topic and partition; none when there is no such group.
    pub fn committed_offsets(
        &self,
        group_id: &str,
    ) -> impl Iterator<Item = (&Str, millpond_record::PartitionIndex, &CommittedOffset)> {
        self.groups.get(group_id).into_iter().flat_map(|group| group.offsets.iter())
    }
}
