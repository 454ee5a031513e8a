//! Brokers come and go: register, decommission, unregister.

use std::collections::BTreeSet;

use millpond_record::{BrokerId, PartitionIndex, ReplicaId};

use crate::image::{FIRST_METADATA_REPLICA, Image};
use crate::placement::Placement;
use crate::reassign::replace_replicas;
use crate::record::{Broker, DirectoryId, MetadataRecord};

/// Replicas of a lost data directory that are replaced in the batch that registers the broker; more follow in others.
const REPLACED_AT_ONCE: usize = 10_000;

/// What a broker says of itself when it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    pub id: BrokerId,
    /// The host that clients connect to.
    pub host: String,
    /// The port that clients connect to.
    pub port: u16,
    /// Where other brokers connect, as `HOST:PORT`; empty for a broker without peers.
    pub peer: String,
    pub directory: DirectoryId,
    pub rack: Option<String>,
    /// The Raft node id of the replica of group 0 that its data directory holds, if it holds one.
    pub metadata_replica: Option<ReplicaId>,
}

/// A broker as it is registered once the records are committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// The Raft node id of its replica of group 0.
    pub metadata_replica: ReplicaId,
    /// Empty when it is registered just so. They belong into one batch.
    pub records: Vec<MetadataRecord>,
}

/// Why a broker cannot register or leave.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum BrokerError {
    #[error("broker id {0} is negative: set node.id to 0 or more")]
    NegativeId(BrokerId),
    #[error("broker {id} advertises {host:?}:{port}, which no client can connect to: set advertised.listeners")]
    NoAddress { id: BrokerId, host: String, port: u16 },
    #[error("broker {0} names no address for its peers: set millpond.peer.listener (--peer)")]
    NoPeerAddress(BrokerId),
    #[error("broker {id} comes with the peer address {peer} of broker {other}: set millpond.peer.listener (--peer)")]
    PeerAddressTaken { id: BrokerId, peer: String, other: BrokerId },
    #[error(
        "node.id {id} is taken: the broker that has it runs on data directory {registered}, this one comes with \
         {found}: give this one another node.id (--node-id)"
    )]
    Taken { id: BrokerId, registered: DirectoryId, found: DirectoryId },
    #[error(
        "the data directory of broker {0} is not what the cluster has of this broker any more: the broker was \
         unregistered, or came back with another directory meanwhile, and its replicas were replaced. Start on an \
         empty one; the other brokers fill it"
    )]
    Replaced(BrokerId),
    /// BROKER_ID_NOT_REGISTERED
    #[error("broker {0} is not registered")]
    NotRegistered(BrokerId),
    #[error("broker {0} is running: stop it first")]
    Running(BrokerId),
    #[error("broker {broker} has {replicas} replicas: decommission it first")]
    HasReplicas { broker: BrokerId, replicas: usize },
    #[error(
        "broker {broker} cannot be decommissioned: partition {partition} of topic {topic:?} has {replicas} replicas, \
         and only {left} brokers would be left for them"
    )]
    TooFewLeft { broker: BrokerId, topic: String, partition: PartitionIndex, replicas: usize, left: usize },
    #[error("broker {0} cannot be decommissioned: it is the only one")]
    TheOnlyOne(BrokerId),
    #[error("broker {0} is not being decommissioned")]
    NotLeaving(BrokerId),
}

/// The records that register a broker, or that say where it is now.
///
/// `running` says that a broker with this id is alive elsewhere. One that comes with another data directory has lost
/// what its replicas held: each gets a new id, so that none of them votes on what it does not remember. One whose
/// directory holds a replica of group 0 that is not the registered one comes with a directory of another time, which
/// must not take the place of the one that is in use.
///
/// # Errors
/// [`BrokerError::Replaced`] for a directory of another time; [`BrokerError::Taken`] when the broker that has the id
/// runs on another data directory; and what makes it unreachable.
pub fn register_broker(image: &Image, broker: &Registration, running: bool) -> Result<Registered, BrokerError> {
    let id = broker.id;
    if id.0 < 0 {
        return Err(BrokerError::NegativeId(id));
    }
    let before = image.broker(id);
    if let Some(held) = broker.metadata_replica {
        let is_its_own = match before {
            Some(before) => (before.metadata_replica, before.directory) == (held, broker.directory),
            // Whoever founds the cluster holds a replica before anybody is registered.
            None => image.broker_count() == 0 && held == FIRST_METADATA_REPLICA,
        };
        if !is_its_own {
            return Err(BrokerError::Replaced(id));
        }
    }
    if broker.host.is_empty() || broker.port == 0 {
        return Err(BrokerError::NoAddress { id, host: broker.host.clone(), port: broker.port });
    }
    let mut others = image.brokers().filter(|other| other.id != id).peekable();
    if broker.peer.is_empty() && others.peek().is_some() {
        return Err(BrokerError::NoPeerAddress(id));
    }
    if let Some(other) = others.find(|other| !other.peer.is_empty() && other.peer == broker.peer) {
        return Err(BrokerError::PeerAddressTaken { id, peer: broker.peer.clone(), other: other.id });
    }
    let mut records = image.opening();
    let (metadata_replica, lost) = match before {
        Some(before) if before.directory == broker.directory => (before.metadata_replica, false),
        Some(before) if running => {
            let (registered, found) = (before.directory, broker.directory);
            return Err(BrokerError::Taken { id, registered, found });
        }
        None if image.broker_count() == 0 => (FIRST_METADATA_REPLICA, false),
        _ => {
            records.push(MetadataRecord::NextReplica(ReplicaId(image.next_replica().0 + 1)));
            (image.next_replica(), before.is_some())
        }
    };
    let record = Broker {
        id,
        host: broker.host.clone(),
        port: broker.port,
        directory: broker.directory,
        rack: broker.rack.clone(),
        peer: broker.peer.clone(),
        metadata_replica,
        draining: before.is_some_and(|before| before.draining),
    };
    if before.is_some_and(|before| **before == record) {
        return Ok(Registered { metadata_replica, records: Vec::new() });
    }
    records.push(MetadataRecord::Broker(record));
    if lost && let Ok(registered) = image.apply(&records) {
        records.extend(replace_replicas(&registered, REPLACED_AT_ONCE));
    }
    Ok(Registered { metadata_replica, records })
}

/// The records that begin a decommission: the broker gets no replicas any more, and `drain` moves away what it has.
/// None when it has begun before. `usable` are the brokers that are alive.
///
/// # Errors
/// [`BrokerError::NotRegistered`]; [`BrokerError::TooFewLeft`] when the replicas of a partition would find no place.
pub fn decommission(
    image: &Image,
    id: BrokerId,
    usable: &BTreeSet<BrokerId>,
) -> Result<Vec<MetadataRecord>, BrokerError> {
    let broker = image.broker(id).ok_or(BrokerError::NotRegistered(id))?;
    if broker.draining {
        return Ok(Vec::new());
    }
    if image.broker_count() == 1 {
        return Err(BrokerError::TheOnlyOne(id));
    }
    let staying: BTreeSet<BrokerId> = usable.iter().copied().filter(|other| *other != id).collect();
    // Of them those that do not leave themselves.
    let places: BTreeSet<BrokerId> = Placement::new(image, &staying).loads().map(|(broker, _)| broker).collect();
    let leaves = |other: BrokerId| other == id || image.broker(other).is_some_and(|other| other.draining);
    for topic in image.topics() {
        for partition in topic.partitions.iter().filter(|partition| has_replica(partition, id)) {
            // A dead broker keeps the replicas that it has; one that leaves does not.
            let keeping = partition.replicas.iter().map(|replica| replica.broker).filter(|broker| !leaves(*broker));
            let left = places.iter().copied().chain(keeping).collect::<BTreeSet<BrokerId>>().len();
            if left < partition.replicas.len() {
                return Err(BrokerError::TooFewLeft {
                    broker: id,
                    topic: topic.name.to_string(),
                    partition: partition.index,
                    replicas: partition.replicas.len(),
                    left,
                });
            }
        }
    }
    Ok(vec![MetadataRecord::Broker(Broker { draining: true, ..(**broker).clone() })])
}

/// The records that take a decommission back: the broker may get replicas again. What has moved away stays there, and
/// so does what is on its way.
///
/// # Errors
/// [`BrokerError::NotRegistered`]; [`BrokerError::NotLeaving`] when there is nothing to take back.
pub fn cancel_decommission(image: &Image, id: BrokerId) -> Result<Vec<MetadataRecord>, BrokerError> {
    let broker = image.broker(id).ok_or(BrokerError::NotRegistered(id))?;
    if !broker.draining {
        return Err(BrokerError::NotLeaving(id));
    }
    Ok(vec![MetadataRecord::Broker(Broker { draining: false, ..(**broker).clone() })])
}

/// How many replicas a broker has that is being decommissioned. Once that is none it gets none any more.
///
/// # Errors
/// [`BrokerError::NotRegistered`], [`BrokerError::NotLeaving`].
pub fn left_to_move(image: &Image, id: BrokerId) -> Result<usize, BrokerError> {
    match image.broker(id) {
        None => Err(BrokerError::NotRegistered(id)),
        Some(broker) if !broker.draining => Err(BrokerError::NotLeaving(id)),
        Some(_) => Ok(replicas_on(image, id)),
    }
}

fn has_replica(partition: &crate::record::Partition, broker: BrokerId) -> bool {
    partition.replicas.iter().any(|replica| replica.broker == broker)
}

/// How many replicas a broker has, those that are on their way out included.
pub fn replicas_on(image: &Image, broker: BrokerId) -> usize {
    let partitions = image.topics().flat_map(|topic| &topic.partitions);
    partitions.flat_map(|partition| partition.all_replicas()).filter(|replica| replica.broker == broker).count()
}

/// The records that forget a broker which is not running and has no replicas.
///
/// # Errors
/// [`BrokerError::NotRegistered`], [`BrokerError::Running`], [`BrokerError::HasReplicas`].
pub fn unregister_broker(image: &Image, id: BrokerId, running: bool) -> Result<Vec<MetadataRecord>, BrokerError> {
    if image.broker(id).is_none() {
        return Err(BrokerError::NotRegistered(id));
    }
    if running {
        return Err(BrokerError::Running(id));
    }
    match replicas_on(image, id) {
        0 => Ok(vec![MetadataRecord::BrokerRemoved(id)]),
        replicas => Err(BrokerError::HasReplicas { broker: id, replicas }),
    }
}
