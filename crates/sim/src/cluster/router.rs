//! How a client of a cluster finds its way: one connection per broker, and the newest that it heard of who leads what.

use std::collections::BTreeMap;
use std::time::Duration;

use millpond_runtime::Runtime;
use millpond_runtime::sim::{NodeId, Rng};
use millpond_wire::metadata::{MetadataRequest, MetadataResponse};
use millpond_wire::{ErrorCode, Request};

use super::claims::Cluster;
use super::machines::kafka_address;
use super::scenario::BROKERS;
use crate::connection::{Connection, ConnectionError};
use crate::history::Partition;

/// How long a client waits for an answer before it asks somebody else: a broker that is paused or cut off gives none.
const ANSWER_TIME: Duration = Duration::from_secs(4);
/// Metadata in which topics have ids.
const METADATA_VERSIONS: [i16; 3] = [10, 12, 13];

/// Who leads a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The leader.
    pub leader: i32,
    /// In which epoch.
    pub epoch: i32,
}

/// A client's ways.
pub struct Router {
    /// The run.
    pub cluster: Cluster,
    /// The client's runtime.
    pub runtime: Runtime,
    /// Its choices.
    pub rng: Rng,
    node: NodeId,
    name: String,
    connections: BTreeMap<i32, Connection>,
    places: BTreeMap<Partition, Place>,
    replicas: BTreeMap<Partition, Vec<i32>>,
}

impl Router {
    /// A client with a name for the trace and for the brokers, on a node of its own.
    pub fn new(cluster: &Cluster, node: NodeId, name: String) -> Router {
        let world = &cluster.shared.world;
        Router {
            runtime: world.runtime_for(node),
            rng: world.rng(&name),
            cluster: cluster.clone(),
            node,
            name,
            connections: BTreeMap::new(),
            places: BTreeMap::new(),
            replicas: BTreeMap::new(),
        }
    }

    /// Notes something in the trace.
    pub fn note(&self, text: &str) {
        self.cluster.shared.world.note(self.node, &format!("{}: {text}", self.name));
    }

    /// Records a contradiction.
    pub fn fail(&self, what: String) {
        self.note(&what);
        self.cluster.shared.history().fail(what);
    }

    /// Waits for a random time of `low..=high` milliseconds.
    pub async fn pause(&mut self, low: u64, high: u64) {
        let milliseconds = self.rng.between(low, high);
        self.runtime.sleep(Duration::from_millis(milliseconds)).await;
    }

    /// Any broker.
    pub fn any(&mut self) -> i32 {
        self.rng.between(1, BROKERS as u64) as i32
    }

    /// Who leads a partition, as far as is known.
    pub fn place(&self, partition: Partition) -> Option<Place> {
        self.places.get(&partition).copied()
    }

    /// The brokers that have a replica.
    pub fn replicas(&self, partition: Partition) -> Vec<i32> {
        self.replicas.get(&partition).cloned().unwrap_or_default()
    }

    /// An answer says who leads a partition; older epochs than the one that is known are not believed, as Kafka's
    /// clients do it.
    pub fn heard(&mut self, partition: Partition, leader: i32, epoch: i32) {
        if leader < 0 || epoch < 0 {
            return;
        }
        self.cluster.leads(partition, epoch, leader);
        if self.places.get(&partition).is_none_or(|place| place.epoch <= epoch) {
            self.places.insert(partition, Place { leader, epoch });
        }
    }

    /// Asks any broker for all metadata. `None` without an answer.
    pub async fn refresh(&mut self) -> Option<MetadataResponse> {
        let (broker, version) = (self.any(), self.rng.pick(&METADATA_VERSIONS));
        let request = MetadataRequest { topics: None, ..MetadataRequest::default() };
        let response = self.call(broker, version, &request).await?;
        for topic in &response.topics {
            for found in &topic.partitions {
                let partition = Partition { topic: topic.topic_id, index: found.partition_index };
                self.replicas.insert(partition, found.replica_nodes.clone());
                if ErrorCode(found.error_code) == ErrorCode::NONE {
                    self.heard(partition, found.leader_id, found.leader_epoch);
                }
            }
        }
        Some(response)
    }

    /// Sends a request; false when the broker is not reached (and the request may have arrived).
    pub async fn send<R: Request>(&mut self, broker: i32, version: i16, request: &R) -> bool {
        let runtime = self.runtime.clone();
        if !self.connections.contains_key(&broker) {
            let address = kafka_address(&self.cluster.shared.world, broker);
            match runtime.timeout(ANSWER_TIME, Connection::open(&runtime, address, &self.name)).await {
                Ok(Ok(connection)) => {
                    self.connections.insert(broker, connection);
                }
                Ok(Err(error)) => self.lost(broker, &error),
                Err(_) => self.lost(broker, &ConnectionError::TimedOut),
            }
        }
        let Some(connection) = self.connections.get_mut(&broker) else { return false };
        match runtime.timeout(ANSWER_TIME, connection.send(version, request)).await {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => self.lost(broker, &error),
            Err(_) => self.lost(broker, &ConnectionError::TimedOut),
        }
        false
    }

    /// Receives a broker's oldest answer; `None` when the connection is lost.
    pub async fn receive<R: Request>(&mut self, broker: i32, version: i16) -> Option<R::Response> {
        let connection = self.connections.get_mut(&broker)?;
        match self.runtime.timeout(ANSWER_TIME, connection.receive::<R>(version)).await {
            Ok(Ok(response)) => return Some(response),
            Ok(Err(error)) => self.lost(broker, &error),
            Err(_) => self.lost(broker, &ConnectionError::TimedOut),
        }
        None
    }

    /// Sends a request and receives its answer; `None` without one.
    pub async fn call<R: Request>(&mut self, broker: i32, version: i16, request: &R) -> Option<R::Response> {
        if self.send(broker, version, request).await { self.receive::<R>(broker, version).await } else { None }
    }

    /// Gives a connection up. An answer that breaks the protocol fails the run.
    fn lost(&mut self, broker: i32, error: &ConnectionError) {
        self.note(&format!("broker {broker}: {error}"));
        if let ConnectionError::Protocol(_) = error {
            self.fail(format!("broker {broker}: {error}"));
        }
        self.disconnect(broker);
    }

    /// Closes the connection to a broker.
    pub fn disconnect(&mut self, broker: i32) {
        self.connections.remove(&broker);
    }
}
