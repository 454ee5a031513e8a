//! Metadata records and their bytes.
//!
//! A record is a pair (key, value) as in any compacted topic: the last value of a key counts, a null value deletes it.
//!
//! ```text
//! key   = RecordKey   { 1: type u32, 2: id bytes, 3: may_ignore bool }     (protobuf)
//! value = RecordValue { 1: version u32, 2: body bytes }                    (protobuf; body: one message per type)
//!
//! type                 id                                      body
//! 1 feature level      empty                                   FeatureLevelBody
//! 2 broker             broker id, 4 bytes big-endian           BrokerBody
//! 3 topic              topic id, 16 bytes                      TopicBody
//! 4 partition          topic id, 16 bytes + index, 4 bytes     PartitionBody
//! 5 next group id      empty                                   CounterBody
//! 6 next replica id    empty                                   CounterBody
//! 7 next producer id   empty                                   CounterBody
//! 8 broker settings    broker id, or empty for all brokers     SettingsBody
//! 9 client quota       QuotaId                                 QuotaBody
//! ```
//!
//! A broker that meets a type or a version that it does not know must stop, because its image would differ from the
//! image of the others; unless the key says `may_ignore`, which a later version sets on what changes no decision.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use millpond_record::{BrokerId, GroupId, PartitionIndex, ProducerId, ReplicaId, TopicId};
use prost::Message;

use crate::image::FIRST_METADATA_REPLICA;
use crate::quotas::{ClientQuota, EntityName, QuotaEntity};

/// The feature level that this code writes and the highest that it can read. It gates formats: metadata records,
/// what brokers say to each other, what compaction writes.
pub const FEATURE_LEVEL: u32 = 1;

/// The newest version of every record type, as written by this code.
const VERSION: u32 = 1;

/// The identity of one data directory (a random UUID in its `meta.properties`), so that a replica on an emptied disk is
/// not taken for the replica that was there before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DirectoryId(pub [u8; 16]);

impl fmt::Display for DirectoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        TopicId(self.0).fmt(f)
    }
}

/// A registered broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broker {
    pub id: BrokerId,
    /// The host that clients connect to.
    pub host: String,
    /// The port that clients connect to.
    pub port: u16,
    /// The data directory that the broker writes to.
    pub directory: DirectoryId,
    /// Where the broker stands, for spreading replicas (`broker.rack`).
    pub rack: Option<String>,
    /// Where other brokers connect (`millpond.peer.listener`), as `HOST:PORT`; empty for a broker without peers.
    pub peer: String,
    /// The Raft node id of its replica of group 0. A broker whose data directory was lost gets a new one.
    pub metadata_replica: ReplicaId,
    /// It is being decommissioned: it gets no replicas any more, and those that it has move elsewhere.
    pub draining: bool,
}

/// A topic without its partitions, which have records of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicRecord {
    pub id: TopicId,
    pub name: String,
    /// Settings that were set on the topic itself, by Kafka's names.
    pub configs: BTreeMap<String, String>,
    /// How many partitions the topic has: 1 or more.
    pub partitions: u32,
}

/// One replica of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replica {
    /// The Raft node id, never used again.
    pub id: ReplicaId,
    pub broker: BrokerId,
    pub directory: DirectoryId,
}

/// One partition: the Raft group that holds its log and the replicas that the group should have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    pub topic: TopicId,
    pub index: PartitionIndex,
    pub group: GroupId,
    /// In order of preference; the first is the preferred leader. Never empty.
    pub replicas: Vec<Replica>,
    /// Those of `replicas` that the group need not have yet.
    pub adding: Vec<ReplicaId>,
    /// What the group may still have and is to lose. None of them is in `replicas`.
    pub removing: Vec<Replica>,
    /// The replicas that the group is founded with, kept while it may still be to be founded: from the first change of
    /// `replicas` on until that is complete. See [`Partition::founders`].
    pub founding: Vec<Replica>,
    /// Grows with every change of which replicas there are to be, so that a stale controller can be told from the
    /// current one.
    pub assignment_version: u64,
}

impl Partition {
    /// The group is not known to have just the replicas that it should have.
    pub fn is_moving(&self) -> bool {
        !self.adding.is_empty() || !self.removing.is_empty()
    }

    /// The replicas whose logs all begin with the same first entry, which names them as voters, if the group may still
    /// be to be founded. Every other replica begins empty, and is filled by these.
    pub fn founders(&self) -> &[Replica] {
        if self.assignment_version == 1 { &self.replicas } else { &self.founding }
    }

    /// The replicas that the group has or should have, those that are to go last.
    pub fn all_replicas(&self) -> impl Iterator<Item = &Replica> {
        self.replicas.iter().chain(&self.removing)
    }
}

/// One change of the cluster's metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetadataRecord {
    FeatureLevel(u32),
    Broker(Broker),
    BrokerRemoved(BrokerId),
    Topic(TopicRecord),
    TopicRemoved(TopicId),
    Partition(Partition),
    PartitionRemoved(TopicId, PartitionIndex),
    /// The group id that the next partition gets.
    NextGroup(GroupId),
    /// The replica id that the next replica gets.
    NextReplica(ReplicaId),
    /// The first producer id of the next block.
    NextProducerId(ProducerId),
    /// What was set at run time on one broker, or on all (`None`), by the names of broker settings; none deletes it.
    BrokerSettings(Option<BrokerId>, BTreeMap<String, String>),
    /// The quota of an entity; one without limits deletes it.
    ClientQuota(QuotaEntity, ClientQuota),
}

/// Why the bytes are not a metadata record that this broker may apply.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RecordError {
    #[error(
        "metadata record type {0} is not known to this version of millpond: run the version that wrote it, or newer"
    )]
    UnknownType(u32),
    #[error(
        "metadata record type {kind} has version {version}, this millpond reads up to {VERSION}: run the version that \
         wrote it, or newer"
    )]
    UnknownVersion { kind: u32, version: u32 },
    #[error("metadata record type {kind}: {what}")]
    Malformed { kind: u32, what: &'static str },
    #[error("metadata record without a readable key: {0}")]
    MalformedKey(&'static str),
}

#[derive(Clone, PartialEq, prost::Message)]
struct RecordKey {
    #[prost(uint32, tag = "1")]
    kind: u32,
    #[prost(bytes = "bytes", tag = "2")]
    id: Bytes,
    #[prost(bool, tag = "3")]
    may_ignore: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RecordValue {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(bytes = "bytes", tag = "2")]
    body: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct FeatureLevelBody {
    #[prost(uint32, tag = "1")]
    level: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct BrokerBody {
    #[prost(string, tag = "1")]
    host: String,
    #[prost(uint32, tag = "2")]
    port: u32,
    #[prost(bytes = "bytes", tag = "3")]
    directory: Bytes,
    #[prost(string, optional, tag = "4")]
    rack: Option<String>,
    #[prost(string, tag = "5")]
    peer: String,
    /// 0 in what was written before there were peers: the founder's.
    #[prost(uint64, tag = "6")]
    metadata_replica: u64,
    #[prost(bool, tag = "7")]
    draining: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct TopicBody {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(btree_map = "string, string", tag = "2")]
    configs: BTreeMap<String, String>,
    #[prost(uint32, tag = "3")]
    partitions: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PartitionBody {
    #[prost(uint64, tag = "1")]
    group: u64,
    #[prost(message, repeated, tag = "2")]
    replicas: Vec<ReplicaBody>,
    #[prost(uint64, tag = "3")]
    assignment_version: u64,
    #[prost(uint64, repeated, tag = "4")]
    adding: Vec<u64>,
    #[prost(message, repeated, tag = "5")]
    removing: Vec<ReplicaBody>,
    #[prost(message, repeated, tag = "6")]
    founding: Vec<ReplicaBody>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ReplicaBody {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int32, tag = "2")]
    broker: i32,
    #[prost(bytes = "bytes", tag = "3")]
    directory: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct CounterBody {
    #[prost(uint64, tag = "1")]
    next: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SettingsBody {
    #[prost(btree_map = "string, string", tag = "1")]
    settings: BTreeMap<String, String>,
}

/// Kinds: 0 not part of the entity, 1 the default, 2 named.
#[derive(Clone, PartialEq, prost::Message)]
struct QuotaId {
    #[prost(uint32, tag = "1")]
    user_kind: u32,
    #[prost(string, tag = "2")]
    user: String,
    #[prost(uint32, tag = "3")]
    client_kind: u32,
    #[prost(string, tag = "4")]
    client: String,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct QuotaBody {
    #[prost(uint64, optional, tag = "1")]
    produce: Option<u64>,
    #[prost(uint64, optional, tag = "2")]
    fetch: Option<u64>,
}

const KIND_FEATURE_LEVEL: u32 = 1;
const KIND_BROKER: u32 = 2;
const KIND_TOPIC: u32 = 3;
const KIND_PARTITION: u32 = 4;
const KIND_NEXT_GROUP: u32 = 5;
const KIND_NEXT_REPLICA: u32 = 6;
const KIND_NEXT_PRODUCER_ID: u32 = 7;
const KIND_BROKER_SETTINGS: u32 = 8;
const KIND_CLIENT_QUOTA: u32 = 9;
const KINDS: std::ops::RangeInclusive<u32> = KIND_FEATURE_LEVEL..=KIND_CLIENT_QUOTA;

impl MetadataRecord {
    /// The record as key and value; a value of `None` deletes the key.
    pub fn encode(&self) -> (Vec<u8>, Option<Vec<u8>>) {
        let (kind, id, body) = match self {
            Self::FeatureLevel(level) => {
                (KIND_FEATURE_LEVEL, Bytes::new(), Some(FeatureLevelBody { level: *level }.encode_to_vec()))
            }
            Self::Broker(broker) => (KIND_BROKER, broker_key(broker.id), Some(broker_body(broker))),
            Self::BrokerRemoved(id) => (KIND_BROKER, broker_key(*id), None),
            Self::Topic(topic) => (KIND_TOPIC, topic_key(topic.id), Some(topic_body(topic))),
            Self::TopicRemoved(id) => (KIND_TOPIC, topic_key(*id), None),
            Self::Partition(partition) => {
                (KIND_PARTITION, partition_key(partition.topic, partition.index), Some(partition_body(partition)))
            }
            Self::PartitionRemoved(topic, index) => (KIND_PARTITION, partition_key(*topic, *index), None),
            Self::NextGroup(id) => (KIND_NEXT_GROUP, Bytes::new(), Some(counter_body(id.0))),
            Self::NextReplica(id) => (KIND_NEXT_REPLICA, Bytes::new(), Some(counter_body(id.0))),
            Self::NextProducerId(id) => {
                // Never negative: allocation starts at 0 and checks for overflow.
                (KIND_NEXT_PRODUCER_ID, Bytes::new(), Some(counter_body(id.0.unsigned_abs())))
            }
            Self::BrokerSettings(broker, settings) => {
                let body = SettingsBody { settings: settings.clone() };
                let body = (!settings.is_empty()).then(|| body.encode_to_vec());
                (KIND_BROKER_SETTINGS, broker.map_or_else(Bytes::new, broker_key), body)
            }
            Self::ClientQuota(entity, quota) => {
                let body = QuotaBody { produce: quota.produce, fetch: quota.fetch };
                let body = (!quota.is_empty()).then(|| body.encode_to_vec());
                (KIND_CLIENT_QUOTA, quota_key(entity), body)
            }
        };
        let key = RecordKey { kind, id, may_ignore: false }.encode_to_vec();
        let value = body.map(|body| RecordValue { version: VERSION, body: body.into() }.encode_to_vec());
        (key, value)
    }

    /// Reads a key and a value. `Ok(None)` is a record that this version does not know and that may be ignored.
    pub fn decode(key: &[u8], value: Option<&[u8]>) -> Result<Option<Self>, RecordError> {
        let RecordKey { kind, id, may_ignore } =
            RecordKey::decode(key).map_err(|_| RecordError::MalformedKey("not a protobuf record key"))?;
        if !KINDS.contains(&kind) {
            return if may_ignore { Ok(None) } else { Err(RecordError::UnknownType(kind)) };
        }
        let malformed = |what| RecordError::Malformed { kind, what };
        let Some(value) = value else {
            return match kind {
                KIND_BROKER => Ok(Some(Self::BrokerRemoved(broker_from_key(&id).ok_or(malformed("bad id"))?))),
                KIND_TOPIC => Ok(Some(Self::TopicRemoved(topic_from_key(&id).ok_or(malformed("bad id"))?))),
                KIND_PARTITION => {
                    let (topic, index) = partition_from_key(&id).ok_or(malformed("bad id"))?;
                    Ok(Some(Self::PartitionRemoved(topic, index)))
                }
                KIND_BROKER_SETTINGS => {
                    let broker = settings_from_key(&id).ok_or(malformed("bad id"))?;
                    Ok(Some(Self::BrokerSettings(broker, BTreeMap::new())))
                }
                KIND_CLIENT_QUOTA => {
                    let entity = quota_from_key(&id).ok_or(malformed("bad id"))?;
                    Ok(Some(Self::ClientQuota(entity, ClientQuota::default())))
                }
                _ => Err(malformed("cannot be deleted")),
            };
        };
        let value = RecordValue::decode(value).map_err(|_| malformed("not a protobuf record value"))?;
        if value.version == 0 || value.version > VERSION {
            let version = value.version;
            return if may_ignore { Ok(None) } else { Err(RecordError::UnknownVersion { kind, version }) };
        }
        decode_body(kind, &id, value.body).map(Some)
    }
}

fn decode_body(kind: u32, id: &[u8], body: Bytes) -> Result<MetadataRecord, RecordError> {
    let malformed = |what| RecordError::Malformed { kind, what };
    let unreadable = |_| malformed("unreadable body");
    let counter = |body: Bytes| CounterBody::decode(body).map(|counter| counter.next).map_err(unreadable);
    Ok(match kind {
        KIND_FEATURE_LEVEL => MetadataRecord::FeatureLevel(FeatureLevelBody::decode(body).map_err(unreadable)?.level),
        KIND_BROKER => {
            let body = BrokerBody::decode(body).map_err(unreadable)?;
            MetadataRecord::Broker(Broker {
                id: broker_from_key(id).ok_or(malformed("bad id"))?,
                host: body.host,
                port: u16::try_from(body.port).map_err(|_| malformed("port above 65535"))?,
                directory: directory(&body.directory).ok_or(malformed("directory id is not 16 bytes"))?,
                rack: body.rack,
                peer: body.peer,
                metadata_replica: match body.metadata_replica {
                    0 => FIRST_METADATA_REPLICA,
                    replica => ReplicaId(replica),
                },
                draining: body.draining,
            })
        }
        KIND_TOPIC => {
            let body = TopicBody::decode(body).map_err(unreadable)?;
            if body.partitions == 0 {
                return Err(malformed("a topic without partitions"));
            }
            MetadataRecord::Topic(TopicRecord {
                id: topic_from_key(id).ok_or(malformed("bad id"))?,
                name: body.name,
                configs: body.configs,
                partitions: body.partitions,
            })
        }
        KIND_PARTITION => {
            let (topic, index) = partition_from_key(id).ok_or(malformed("bad id"))?;
            let body = PartitionBody::decode(body).map_err(unreadable)?;
            let of = |bodies: &[ReplicaBody]| bodies.iter().map(replica).collect::<Option<Vec<_>>>();
            let replicas = of(&body.replicas).ok_or(malformed("directory id is not 16 bytes"))?;
            let removing = of(&body.removing).ok_or(malformed("directory id is not 16 bytes"))?;
            let founding = of(&body.founding).ok_or(malformed("directory id is not 16 bytes"))?;
            if replicas.is_empty() {
                return Err(malformed("a partition without replicas"));
            }
            let assignment_version = body.assignment_version;
            let group = GroupId(body.group);
            let adding = body.adding.into_iter().map(ReplicaId).collect();
            MetadataRecord::Partition(Partition {
                topic,
                index,
                group,
                replicas,
                adding,
                removing,
                founding,
                assignment_version,
            })
        }
        KIND_NEXT_GROUP => MetadataRecord::NextGroup(GroupId(counter(body)?)),
        KIND_NEXT_REPLICA => MetadataRecord::NextReplica(ReplicaId(counter(body)?)),
        KIND_NEXT_PRODUCER_ID => {
            let next = i64::try_from(counter(body)?).map_err(|_| malformed("producer id above 2^63"))?;
            MetadataRecord::NextProducerId(ProducerId(next))
        }
        KIND_BROKER_SETTINGS => {
            let broker = settings_from_key(id).ok_or(malformed("bad id"))?;
            let SettingsBody { settings } = SettingsBody::decode(body).map_err(unreadable)?;
            MetadataRecord::BrokerSettings(broker, settings)
        }
        KIND_CLIENT_QUOTA => {
            let entity = quota_from_key(id).ok_or(malformed("bad id"))?;
            let QuotaBody { produce, fetch } = QuotaBody::decode(body).map_err(unreadable)?;
            MetadataRecord::ClientQuota(entity, ClientQuota { produce, fetch })
        }
        _ => return Err(RecordError::UnknownType(kind)),
    })
}

fn broker_body(broker: &Broker) -> Vec<u8> {
    BrokerBody {
        host: broker.host.clone(),
        port: broker.port.into(),
        directory: Bytes::copy_from_slice(&broker.directory.0),
        rack: broker.rack.clone(),
        peer: broker.peer.clone(),
        metadata_replica: broker.metadata_replica.0,
        draining: broker.draining,
    }
    .encode_to_vec()
}

fn topic_body(topic: &TopicRecord) -> Vec<u8> {
    TopicBody { name: topic.name.clone(), configs: topic.configs.clone(), partitions: topic.partitions }.encode_to_vec()
}

fn partition_body(partition: &Partition) -> Vec<u8> {
    PartitionBody {
        group: partition.group.0,
        replicas: partition.replicas.iter().map(replica_body).collect(),
        assignment_version: partition.assignment_version,
        adding: partition.adding.iter().map(|id| id.0).collect(),
        removing: partition.removing.iter().map(replica_body).collect(),
        founding: partition.founding.iter().map(replica_body).collect(),
    }
    .encode_to_vec()
}

fn replica_body(replica: &Replica) -> ReplicaBody {
    ReplicaBody { id: replica.id.0, broker: replica.broker.0, directory: Bytes::copy_from_slice(&replica.directory.0) }
}

/// `None` where the directory id is none.
fn replica(body: &ReplicaBody) -> Option<Replica> {
    let directory = directory(&body.directory)?;
    Some(Replica { id: ReplicaId(body.id), broker: BrokerId(body.broker), directory })
}

fn counter_body(next: u64) -> Vec<u8> {
    CounterBody { next }.encode_to_vec()
}

fn directory(bytes: &[u8]) -> Option<DirectoryId> {
    bytes.try_into().ok().map(DirectoryId)
}

fn broker_key(id: BrokerId) -> Bytes {
    Bytes::copy_from_slice(&id.0.to_be_bytes())
}

fn broker_from_key(id: &[u8]) -> Option<BrokerId> {
    id.try_into().ok().map(|id| BrokerId(i32::from_be_bytes(id)))
}

fn topic_key(id: TopicId) -> Bytes {
    Bytes::copy_from_slice(&id.0)
}

fn topic_from_key(id: &[u8]) -> Option<TopicId> {
    id.try_into().ok().map(TopicId)
}

fn partition_key(topic: TopicId, index: PartitionIndex) -> Bytes {
    let mut key = Vec::with_capacity(20);
    key.extend_from_slice(&topic.0);
    key.extend_from_slice(&index.0.to_be_bytes());
    key.into()
}

fn partition_from_key(id: &[u8]) -> Option<(TopicId, PartitionIndex)> {
    let (topic, index) = id.split_at_checked(16)?;
    let index = i32::from_be_bytes(index.try_into().ok()?);
    (index >= 0).then_some((topic_from_key(topic)?, PartitionIndex(index)))
}

/// The broker that settings belong to, or all brokers.
fn settings_from_key(id: &[u8]) -> Option<Option<BrokerId>> {
    if id.is_empty() { Some(None) } else { broker_from_key(id).map(Some) }
}

fn quota_key(entity: &QuotaEntity) -> Bytes {
    let part = |name: &Option<EntityName>| match name {
        None => (0, String::new()),
        Some(EntityName::Default) => (1, String::new()),
        Some(EntityName::Named(name)) => (2, name.clone()),
    };
    let ((user_kind, user), (client_kind, client)) = (part(&entity.user), part(&entity.client_id));
    QuotaId { user_kind, user, client_kind, client }.encode_to_vec().into()
}

fn quota_from_key(id: &[u8]) -> Option<QuotaEntity> {
    let part = |kind, name| match kind {
        0 => Some(None),
        1 => Some(Some(EntityName::Default)),
        2 => Some(Some(EntityName::Named(name))),
        _ => None,
    };
    let id = QuotaId::decode(id).ok()?;
    let (user, client_id) = (part(id.user_kind, id.user)?, part(id.client_kind, id.client)?);
    (user.is_some() || client_id.is_some()).then_some(QuotaEntity { user, client_id })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_type_stops_the_broker_unless_the_key_says_that_it_may_be_ignored() {
        let key = |may_ignore| RecordKey { kind: 99, id: Bytes::new(), may_ignore }.encode_to_vec();
        assert_eq!(MetadataRecord::decode(&key(false), Some(b"")), Err(RecordError::UnknownType(99)));
        assert_eq!(MetadataRecord::decode(&key(false), None), Err(RecordError::UnknownType(99)));
        assert_eq!(MetadataRecord::decode(&key(true), Some(b"")), Ok(None));
    }

    #[test]
    fn a_newer_version_stops_the_broker_unless_the_key_says_that_it_may_be_ignored() {
        let value = RecordValue { version: VERSION + 1, body: Bytes::new() }.encode_to_vec();
        let key = |may_ignore| RecordKey { kind: KIND_NEXT_GROUP, id: Bytes::new(), may_ignore }.encode_to_vec();
        let refused = RecordError::UnknownVersion { kind: KIND_NEXT_GROUP, version: VERSION + 1 };
        assert_eq!(MetadataRecord::decode(&key(false), Some(&value)), Err(refused));
        assert_eq!(MetadataRecord::decode(&key(true), Some(&value)), Ok(None));
    }

    #[test]
    fn an_allocator_cannot_be_deleted() {
        let (key, _) = MetadataRecord::NextGroup(GroupId(7)).encode();
        assert!(matches!(MetadataRecord::decode(&key, None), Err(RecordError::Malformed { .. })));
    }

    #[test]
    fn a_partition_without_replicas_is_malformed() {
        let (key, _) = MetadataRecord::PartitionRemoved(TopicId([1; 16]), PartitionIndex(0)).encode();
        let body = PartitionBody { group: 1, ..PartitionBody::default() }.encode_to_vec();
        let value = RecordValue { version: 1, body: body.into() }.encode_to_vec();
        assert!(matches!(MetadataRecord::decode(&key, Some(&value)), Err(RecordError::Malformed { .. })));
    }
}
