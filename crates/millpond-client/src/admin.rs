//! The admin client: what an operator asks of a cluster.
//!
//! A call that is about many things answers for each of them ([`Outcomes`]); an error of the whole call is one that has
//! answered for none. Calls are tried again on failures that pass. One that changes something may then find its own
//! work: a topic that "already exists", because the answer to the first try was lost.

mod cluster;
mod configs;
mod elections;
mod groups;
mod offsets;
mod partitions;
mod reassignments;
mod topics;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

pub use cluster::{BrokerDescription, ClusterDescription, QuorumDescription, QuorumReplica};
pub use configs::{AlterConfig, ConfigChange, ConfigEntry, ConfigResource, ConfigSource, ResourceKind};
pub use elections::ElectionType;
pub(crate) use groups::{FETCH_OF_MANY, FETCH_OF_STABLE};
pub use groups::{GroupDescription, GroupListing, GroupMember, GroupOffset};
pub use offsets::OffsetAt;
pub(crate) use offsets::{ask_leaders, look_up};
pub use reassignments::Reassignment;
pub use topics::{CreatedTopic, NewTopic, PartitionDescription, TopicDescription, TopicListing};

use crate::cluster::Cluster;
use crate::config::ClientConfig;
use crate::error::{Error, Result};
use crate::transport::Transport;

/// What became of each thing that a call was about.
pub type Outcomes<K, T> = BTreeMap<K, Result<T>>;

/// A partition of a topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic's name.
    pub topic: String,
    /// From 0 on.
    pub partition: i32,
}

impl TopicPartition {
    /// Partition `partition` of `topic`.
    pub fn new(topic: impl Into<String>, partition: i32) -> TopicPartition {
        TopicPartition { topic: topic.into(), partition }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "partition {} of {}", self.partition, self.topic)
    }
}

/// Manages topics, partitions, settings and the cluster. Clones share their connections.
#[derive(Clone)]
pub struct Admin {
    cluster: Cluster,
}

impl Admin {
    /// Connects over TCP. Fails soon when no broker answers: each bootstrap address is tried once.
    ///
    /// # Errors
    /// Those of [`Cluster::connect`].
    pub async fn connect(config: ClientConfig) -> Result<Admin> {
        Ok(Admin { cluster: Cluster::connect(config).await? })
    }

    /// Connects over this transport.
    ///
    /// # Errors
    /// Those of [`Cluster::connect`].
    pub async fn connect_with(config: ClientConfig, transport: Arc<dyn Transport>) -> Result<Admin> {
        Ok(Admin { cluster: Cluster::connect_with(config, transport).await? })
    }

    /// The cluster that it manages.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    fn broker_timeout_ms(&self) -> i32 {
        broker_timeout_ms(&self.cluster)
    }
}

/// How long a broker may work on a request before it answers as far as it has come: half of what the request is given,
/// so that the answer still arrives.
fn broker_timeout_ms(cluster: &Cluster) -> i32 {
    let config = cluster.config();
    let limit = config.request_limit.min(config.deadline) / 2;
    i32::try_from(limit.as_millis()).unwrap_or(i32::MAX)
}

impl From<Cluster> for Admin {
    fn from(cluster: Cluster) -> Admin {
        Admin { cluster }
    }
}

/// The first of these error codes that says that the whole request came to the wrong broker, or that the controller
/// cannot take it yet. It stands in the answer for each thing, and is worth another try of all.
fn judge_parts(what: &str, mut codes: impl Iterator<Item = i16>) -> Result<()> {
    let misdirected =
        [millpond_wire::ErrorCode::NOT_CONTROLLER, millpond_wire::ErrorCode::COORDINATOR_LOAD_IN_PROGRESS];
    match codes.find(|code| misdirected.iter().any(|known| known.0 == *code)) {
        Some(code) => Error::check(code, None, || what.to_owned()),
        None => Ok(()),
    }
}

/// Partitions by topic, as most requests want them.
fn by_topic<'a>(partitions: impl IntoIterator<Item = &'a TopicPartition>) -> BTreeMap<&'a str, Vec<i32>> {
    let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    for wanted in partitions {
        topics.entry(&wanted.topic).or_default().push(wanted.partition);
    }
    topics
}
