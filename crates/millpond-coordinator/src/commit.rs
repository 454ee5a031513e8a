//! Committing and deleting offsets, and deleting groups.

use millpond_record::{PartitionIndex, Timestamp, TopicId};
use millpond_wire::Str;

use crate::error::GroupError;
use crate::exchange::{Effects, Now, Reply, Ticket};
use crate::membership::Membership;
use crate::offsets::CommittedOffset;
use crate::records::Change;
use crate::request::{CommitOffsets, OffsetToCommit, OffsetToDelete};
use crate::shard::Shard;

/// What an offset that is new takes at most besides its text, about: as a topic of its own in a group of its own.
const NEW_OFFSET_BYTES: usize = 1024;

impl Shard {
    /// OffsetCommit.
    ///
    /// Whoever claims no membership may commit to a group without members, which begins to exist if need be. Members
    /// may commit but between join and sync.
    ///
    /// # Errors
    /// In the reply: [`GroupError::UnknownGroup`] for a generation of a group that there is not;
    /// [`UnknownMember`](GroupError::UnknownMember), [`FencedInstance`](GroupError::FencedInstance),
    /// [`IllegalGeneration`](GroupError::IllegalGeneration), [`RebalanceInProgress`](GroupError::RebalanceInProgress);
    /// by offset [`MetadataTooLarge`](GroupError::MetadataTooLarge), [`NoMemory`](GroupError::NoMemory),
    /// [`NamesTooLong`](GroupError::NamesTooLong).
    pub fn commit_offsets(&mut self, ticket: Ticket, now: Now, request: &CommitOffsets) -> Effects {
        let mut effects = Effects::default();
        let allowed = if self.groups.contains_key(&*request.group_id) {
            let committer = &request.committer;
            let check = self.in_group(&request.group_id, now, &mut effects, |group, turn| {
                group.may_commit(turn, committer, request.version)
            });
            check.expect("the group was just found")
        } else if request.committer.generation < 0 {
            Ok(())
        } else {
            Err(GroupError::UnknownGroup)
        };
        let results = allowed.map(|()| {
            let commit = |one| self.commit_one(now, request, one, &mut effects);
            request.offsets.iter().map(commit).collect()
        });
        effects.replies.push((ticket, Reply::CommitOffsets(results)));
        effects
    }

    fn commit_one(
        &mut self,
        now: Now,
        request: &CommitOffsets,
        one: &OffsetToCommit,
        effects: &mut Effects,
    ) -> Result<(), GroupError> {
        let max = self.settings.max_offset_metadata;
        // Counting is only needed where the bytes do not settle it.
        if one.metadata.len() > max && one.metadata.encode_utf16().count() > max {
            return Err(GroupError::MetadataTooLarge { max });
        }
        let more = match self.committed_offset(&request.group_id, &one.topic, TopicId::ZERO, one.partition) {
            Some(before) => one.metadata.len().saturating_sub(before.metadata.len()),
            None => NEW_OFFSET_BYTES + request.group_id.len() + one.topic.len() + one.metadata.len(),
        };
        if more > 0 && self.state_bytes + more > self.settings.max_state_bytes {
            return Err(GroupError::NoMemory);
        }
        let value = CommittedOffset {
            offset: one.offset,
            leader_epoch: one.leader_epoch,
            metadata: one.metadata.clone(),
            committed_at: now.wall,
            expires_at: request.retention_ms.map(|kept| Timestamp(now.wall.0.saturating_add(kept))),
            topic_id: one.topic_id,
        };
        let (group, topic) = (request.group_id.clone(), one.topic.clone());
        let change = Change::Offset { group, topic, partition: one.partition, value: Some(value) };
        self.emit(change, effects).map_err(|_| GroupError::NamesTooLong)
    }

    /// OffsetDelete.
    ///
    /// # Errors
    /// In the reply: [`GroupError::InvalidGroupId`], [`UnknownGroup`](GroupError::UnknownGroup);
    /// [`NonEmptyGroup`](GroupError::NonEmptyGroup) for a group with members that are no consumers; by partition
    /// [`SubscribedToTopic`](GroupError::SubscribedToTopic). To delete what is not there is no error.
    pub fn delete_offsets(&mut self, ticket: Ticket, group_id: &Str, partitions: &[OffsetToDelete]) -> Effects {
        let mut effects = Effects::default();
        let allowed = match self.groups.get(&**group_id) {
            _ if group_id.is_empty() => Err(GroupError::InvalidGroupId),
            None => Err(GroupError::UnknownGroup),
            Some(group) => group.membership.may_delete_offsets(),
        };
        let results = allowed.map(|()| {
            let delete = |one: &OffsetToDelete| {
                if self.groups.get(&**group_id).is_some_and(|group| group.membership.is_subscribed_to(&one.topic)) {
                    return Err(GroupError::SubscribedToTopic);
                }
                self.delete_offset(group_id, &one.topic, one.partition, &mut effects);
                Ok(())
            };
            partitions.iter().map(delete).collect()
        });
        effects.replies.push((ticket, Reply::DeleteOffsets(results)));
        effects
    }

    /// DeleteGroups: the groups go with their offsets.
    ///
    /// # Errors
    /// By group, in the reply: [`GroupError::UnknownGroup`], [`NonEmptyGroup`](GroupError::NonEmptyGroup).
    pub fn delete_groups(&mut self, ticket: Ticket, group_ids: &[Str]) -> Effects {
        let mut effects = Effects::default();
        let delete = |id: &Str| match self.groups.get(&**id) {
            None => Err(GroupError::UnknownGroup),
            Some(group) if !group.membership.is_empty() => Err(GroupError::NonEmptyGroup),
            Some(_) => {
                self.delete_group(id, &mut effects);
                Ok(())
            }
        };
        let results = group_ids.iter().map(delete).collect();
        effects.replies.push((ticket, Reply::DeleteGroups(results)));
        effects
    }

    /// A topic is gone, and with it what was committed for it: all of its partitions, in every group.
    ///
    /// Offsets that were committed for another topic of the name, as told by the id, stay.
    pub fn on_topic_deleted(&mut self, topic: &str, topic_id: TopicId) -> Effects {
        let mut effects = Effects::default();
        let mut found: Vec<(Str, PartitionIndex)> = Vec::new();
        for (id, group) in &self.groups {
            let of_topic = group.offsets.of_topic(topic).filter(|(_, committed)| committed.is_of(topic_id));
            found.extend(of_topic.map(|(partition, _)| (id.clone(), partition)));
        }
        for (group, partition) in found {
            self.delete_offset(&group, topic, partition, &mut effects);
        }
        effects
    }

    /// Writes a tombstone, if there is an offset.
    pub(crate) fn delete_offset(&mut self, group: &str, topic: &str, partition: PartitionIndex, effects: &mut Effects) {
        if self.committed_offset(group, topic, TopicId::ZERO, partition).is_some() {
            let change = Change::Offset { group: Str::from(group), topic: Str::from(topic), partition, value: None };
            self.emit(change, effects).expect("the names stood in the record of the offset");
        }
    }

    /// Writes tombstones for all offsets of a group without members, and for the group.
    pub(crate) fn delete_group(&mut self, id: &Str, effects: &mut Effects) {
        let offsets: Vec<_> =
            self.committed_offsets(id).map(|(topic, partition, _)| (topic.clone(), partition)).collect();
        for (topic, partition) in offsets {
            self.delete_offset(id, &topic, partition, effects);
        }
        if let Some(Membership::Consumer(group)) = self.groups.get(&**id).map(|group| &group.membership) {
            for change in group.tombstones() {
                let change = Change::Consumer { group: id.clone(), change };
                self.emit(change, effects).expect("the names stood in the group's own records");
            }
            return;
        }
        let change = Change::Group { group: id.clone(), value: None };
        // An id that is too long for a record has none that could need a tombstone.
        if self.emit(change, effects).is_err() {
            self.forget(id);
        }
    }
}
