//! The records of `__consumer_offsets`: what they mean, and their bytes as key and value.
//!
//! | kind | key | value | written |
//! | --- | --- | --- | --- |
//! | 0 | LegacyOffsetCommitKey | LegacyOffsetCommitValue 0 | never |
//! | 1 | OffsetCommitKey | OffsetCommitValue 0–4 | 4; 1 with a retention of its own |
//! | 2 | GroupMetadataKey | GroupMetadataValue 0–4 | 3 |
//! | 3, 5–8, 16 | ConsumerGroup…Key | ConsumerGroup…Value 0 | 0: `consumer/changes.rs` |
//! | 4 | ConsumerGroupPartitionMetadataKey | not read | never |
//!
//! The versions written are those of Kafka 4.2. Each key starts with its kind, each value with its version.

use bytes::Bytes;
use millpond_record::{Offset, PartitionIndex, Timestamp, TopicId};
use millpond_wire::group_metadata_key::GroupMetadataKey;
use millpond_wire::group_metadata_value::GroupMetadataValue;
use millpond_wire::legacy_offset_commit_key::LegacyOffsetCommitKey;
use millpond_wire::legacy_offset_commit_value::LegacyOffsetCommitValue;
use millpond_wire::offset_commit_key::OffsetCommitKey;
use millpond_wire::offset_commit_value::OffsetCommitValue;
use millpond_wire::{Data, DecodeError, EncodeError, RecordKey, Str};
use thiserror::Error;

use crate::consumer::ConsumerChange;
use crate::exchange::Record;
use crate::offsets::CommittedOffset;

const OFFSET_VERSION: i16 = 4;
/// The only version that says when the offset expires.
const OFFSET_VERSION_WITH_EXPIRY: i16 = 1;
const GROUP_VERSION: i16 = 3;

/// What a record says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Change {
    /// The committed offset of a partition; `None`: there is none any more.
    Offset { group: Str, topic: Str, partition: PartitionIndex, value: Option<CommittedOffset> },
    /// Something of a consumer group.
    Consumer { group: Str, change: ConsumerChange },
    /// A classic group after a rebalance; `None`: it is gone.
    Group { group: Str, value: Option<GroupMetadataValue> },
}

/// Bytes that are no record of this topic.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RecordError {
    #[error("the record has no kind: its key has less than two bytes")]
    NoKind,
    #[error("the key of a record of kind {kind}: {error}")]
    Key { kind: i16, error: DecodeError },
    #[error("the value of a record of kind {kind}: {error}")]
    Value { kind: i16, error: DecodeError },
}

impl Change {
    /// Reads a record; `None` for a kind that this crate does not know, as Kafka does.
    pub(crate) fn decode(record: &Record) -> Result<Option<Change>, RecordError> {
        let Some(kind) = record.key.first_chunk().map(|bytes| i16::from_be_bytes(*bytes)) else {
            return Err(RecordError::NoKind);
        };
        let in_key = |error| RecordError::Key { kind, error };
        let in_value = |error| RecordError::Value { kind, error };
        let (key, value) = (record.key.clone(), record.value.clone());
        Ok(Some(match kind {
            LegacyOffsetCommitKey::KIND => {
                let key = LegacyOffsetCommitKey::from_key_bytes(key).map_err(in_key)?;
                let value = value.map(LegacyOffsetCommitValue::from_bytes).transpose().map_err(in_value)?;
                let (group, topic, partition) = (key.group, key.topic, PartitionIndex(key.partition));
                Change::Offset { group, topic, partition, value: value.map(CommittedOffset::from) }
            }
            OffsetCommitKey::KIND => {
                let key = OffsetCommitKey::from_key_bytes(key).map_err(in_key)?;
                let value = value.map(OffsetCommitValue::from_bytes).transpose().map_err(in_value)?;
                let (group, topic, partition) = (key.group, key.topic, PartitionIndex(key.partition));
                Change::Offset { group, topic, partition, value: value.map(CommittedOffset::from) }
            }
            GroupMetadataKey::KIND => {
                let key = GroupMetadataKey::from_key_bytes(key).map_err(in_key)?;
                let value = value.map(GroupMetadataValue::from_bytes).transpose().map_err(in_value)?;
                Change::Group { group: key.group, value }
            }
            _ => {
                let found = ConsumerChange::decode(kind, key, value)?;
                return Ok(found.map(|(group, change)| Change::Consumer { group, change }));
            }
        }))
    }

    /// The record that says this.
    ///
    /// # Errors
    /// [`EncodeError::TooLong`] for a name of 32 KiB or more.
    pub(crate) fn encode(&self) -> Result<Record, EncodeError> {
        match self {
            Change::Offset { group, topic, partition, value } => {
                let key = OffsetCommitKey { group: group.clone(), topic: topic.clone(), partition: partition.0 };
                Ok(Record { key: key.to_key_bytes()?, value: value.as_ref().map(encode_offset).transpose()? })
            }
            Change::Consumer { group, change } => change.encode(group),
            Change::Group { group, value } => {
                let key = GroupMetadataKey { group: group.clone() }.to_key_bytes()?;
                let value: Option<Bytes> = value.as_ref().map(|value| value.to_bytes(GROUP_VERSION)).transpose()?;
                Ok(Record { key, value })
            }
        }
    }
}

fn encode_offset(committed: &CommittedOffset) -> Result<Bytes, EncodeError> {
    let value = OffsetCommitValue {
        offset: committed.offset.0,
        leader_epoch: committed.leader_epoch,
        metadata: committed.metadata.clone(),
        commit_timestamp: committed.committed_at.0,
        expire_timestamp: committed.expires_at.map_or(-1, |at| at.0),
        topic_id: committed.topic_id.0,
    };
    match committed.expires_at {
        None => value.to_bytes(OFFSET_VERSION),
        Some(_) => value.to_bytes(OFFSET_VERSION_WITH_EXPIRY),
    }
}

impl From<OffsetCommitValue> for CommittedOffset {
    fn from(value: OffsetCommitValue) -> CommittedOffset {
        CommittedOffset {
            offset: Offset(value.offset),
            leader_epoch: value.leader_epoch,
            metadata: value.metadata,
            committed_at: Timestamp(value.commit_timestamp),
            expires_at: (value.expire_timestamp >= 0).then_some(Timestamp(value.expire_timestamp)),
            topic_id: TopicId(value.topic_id),
        }
    }
}

impl From<LegacyOffsetCommitValue> for CommittedOffset {
    fn from(value: LegacyOffsetCommitValue) -> CommittedOffset {
        CommittedOffset {
            offset: Offset(value.offset),
            leader_epoch: -1,
            metadata: value.metadata,
            committed_at: Timestamp(value.commit_timestamp),
            expires_at: None,
            topic_id: TopicId::ZERO,
        }
    }
}
