//! What of a group outlives the shard: the record of a generation.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use millpond_record::Timestamp;
use millpond_wire::Str;
use millpond_wire::group_metadata_value::{GroupMetadataValue, MemberMetadata};
use millpond_wire::sync_group::SyncGroupRequestAssignment;

use super::member::{Member, Protocol, Wait};
use super::{ClassicGroup, Phase};
use crate::error::GroupError;
use crate::records::Change;
use crate::shard::Turn;

impl ClassicGroup {
    /// Records this generation with what is assigned to each member: what the leader says now, or what was before. A
    /// member that the leader names not has nothing.
    pub(super) fn persist(
        &mut self,
        turn: &mut Turn<'_>,
        assignments: Option<&[SyncGroupRequestAssignment]>,
    ) -> Result<(), GroupError> {
        // Kafka takes the last one, when a member is named twice; so does a map.
        let assigned: Option<BTreeMap<&Str, &Bytes>> =
            assignments.map(|all| all.iter().map(|one| (&one.member_id, &one.assignment)).collect());
        let assignment_of = |id: &Str, member: &Member| match &assigned {
            Some(assigned) => assigned.get(id).copied().cloned().unwrap_or_default(),
            None => member.assignment.clone(),
        };
        let protocol = self.protocol.as_deref().unwrap_or_default();
        let members = self.members.iter().map(|(id, member)| MemberMetadata {
            member_id: id.clone(),
            group_instance_id: member.instance_id.clone(),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            rebalance_timeout: member.rebalance_timeout,
            session_timeout: member.session_timeout,
            subscription: member.metadata_of(protocol).cloned().unwrap_or_default(),
            assignment: assignment_of(id, member),
        });
        let value = GroupMetadataValue {
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            generation: self.generation,
            protocol: self.protocol.clone(),
            leader: self.leader.clone(),
            current_state_timestamp: turn.now.wall.0,
            members: members.collect(),
        };
        self.record(turn, value)
    }

    /// Nobody is left: the next generation has no members.
    pub(super) fn become_empty(&mut self, turn: &mut Turn<'_>) {
        let value = GroupMetadataValue {
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            generation: self.generation.wrapping_add(1).max(0),
            protocol: None,
            leader: None,
            current_state_timestamp: turn.now.wall.0,
            members: Vec::new(),
        };
        self.record(turn, value).expect("the names in it are short, as joining checks");
    }

    fn record(&mut self, turn: &mut Turn<'_>, value: GroupMetadataValue) -> Result<(), GroupError> {
        let change = Change::Group { group: self.id.clone(), value: Some(value) };
        let record = change.encode().map_err(|_| GroupError::NamesTooLong)?;
        let (bytes, max) =
            (record.key.len() + record.value.as_ref().map_or(0, Bytes::len), turn.settings.max_record_bytes);
        if bytes > max {
            return Err(GroupError::RecordTooLarge { bytes, max });
        }
        turn.effects.records.push(record);
        if let Change::Group { value: Some(value), .. } = change {
            self.replay(value);
        }
        Ok(())
    }

    /// Takes what a record says. What no record says stays: whether members wait, and what else they offer.
    pub(crate) fn replay(&mut self, value: GroupMetadataValue) {
        let copy = |text: &Str| text.detached();
        self.protocol_type = Some(&value.protocol_type).filter(|text| !text.is_empty()).map(copy);
        self.generation = value.generation;
        self.protocol = value.protocol.as_ref().map(copy);
        self.since = (value.current_state_timestamp >= 0).then_some(Timestamp(value.current_state_timestamp));
        self.phase = if value.members.is_empty() { Phase::Empty } else { Phase::Stable };

        let kept: BTreeSet<&Str> = value.members.iter().map(|member| &member.member_id).collect();
        let gone: Vec<Str> = self.members.keys().filter(|id| !kept.contains(id)).cloned().collect();
        for id in &gone {
            self.take_member(id);
        }
        for member in &value.members {
            self.replay_member(member);
        }
        self.leader = value.leader.as_ref().map(copy);
        self.subscribed = self.topics_of_members();
    }

    fn replay_member(&mut self, value: &MemberMetadata) {
        let assignment = Bytes::copy_from_slice(&value.assignment);
        let protocol = self.protocol.clone().unwrap_or_default();
        if let Some(member) = self.members.get(&*value.member_id) {
            let same_metadata = member.metadata_of(&protocol) == Some(&value.subscription);
            if same_metadata && member.instance_id == value.group_instance_id {
                return self.change_member(&value.member_id, |member| member.assignment = assignment);
            }
            self.take_member(&value.member_id);
        }
        let rebalance = value.rebalance_timeout;
        let member = Member {
            instance_id: value.group_instance_id.as_ref().map(Str::detached),
            client_id: value.client_id.detached(),
            client_host: value.client_host.detached(),
            rebalance_timeout: if rebalance < 0 { value.session_timeout } else { rebalance },
            session_timeout: value.session_timeout,
            protocols: vec![Protocol { name: protocol, metadata: Bytes::copy_from_slice(&value.subscription) }],
            assignment,
            is_new: false,
            knows_id: true,
            joining: Wait::No,
            syncing: Wait::No,
            owes_sync: false,
        };
        self.insert_member(value.member_id.detached(), member);
    }
}
