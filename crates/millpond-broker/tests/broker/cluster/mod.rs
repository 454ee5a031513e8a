//! Three brokers in this process that form a cluster over loopback.

mod followers;
mod groups;
mod lag;
mod leaders;

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

use millpond_wire::ErrorCode;
use millpond_wire::create_topics::{CreatableTopic, CreatableTopicConfig, CreateTopicsRequest};
use millpond_wire::metadata::{MetadataRequest, MetadataRequestTopic, MetadataResponse, MetadataResponsePartition};

use crate::support::{Client, Served, assert_code, batch, until};

/// Brokers 1 to 3; broker N stands in rack `rN`.
pub struct Cluster {
    nodes: Vec<Served>,
}

/// A port that nobody has, and that no other cluster of this test program takes.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 15_000 + u16::try_from(std::process::id() % 5_000).expect("below 5000");
    loop {
        let port = first + NEXT.fetch_add(1, Ordering::Relaxed);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

impl Cluster {
    pub fn start() -> Cluster {
        let ports = [free_port(), free_port(), free_port()];
        let peers: Vec<String> = (1..).zip(ports).map(|(id, port)| format!("{id}@127.0.0.1:{port}")).collect();
        let peers = peers.join(",");
        // Each waits for the others.
        let starting = (1..).zip(ports).map(|(id, port)| {
            let peers = peers.clone();
            std::thread::spawn(move || {
                let (id, rack, peer) = (format!("{id}"), format!("r{id}"), format!("127.0.0.1:{port}"));
                Served::with(&[
                    ("node.id", &id),
                    ("broker.rack", &rack),
                    ("millpond.peer.listener", &peer),
                    ("millpond.peers", &peers),
                ])
            })
        });
        let starting: Vec<_> = starting.collect();
        let nodes = starting.into_iter().map(|node| node.join().expect("it starts")).collect();
        let cluster = Cluster { nodes };
        for node in 1..=3 {
            let mut client = cluster.client(node);
            until("all brokers are alive", || metadata(&mut client, "").brokers.len() == 3);
        }
        cluster
    }

    pub fn client(&self, node: i32) -> Client {
        self.node(node).client()
    }

    pub fn node(&self, node: i32) -> &Served {
        &self.nodes[usize::try_from(node - 1).expect("1 to 3")]
    }

    /// Ends a broker without a word.
    pub fn kill(&mut self, node: i32) {
        self.nodes[usize::try_from(node - 1).expect("1 to 3")].kill();
    }

    /// Stops a broker, which hands over what it leads.
    pub fn stop(&mut self, node: i32) {
        self.nodes[usize::try_from(node - 1).expect("1 to 3")].stop();
    }

    /// Starts a broker on its folder that was stopped.
    pub fn start_again(&mut self, node: i32) {
        self.nodes[usize::try_from(node - 1).expect("1 to 3")].launch();
    }

    /// Waits until all of `nodes` name a leader of the topic's first partition that is one of them, the same.
    pub fn leader(&self, topic: &str, nodes: &[i32]) -> i32 {
        let mut clients: Vec<Client> = nodes.iter().map(|node| self.client(*node)).collect();
        let mut leader = -1;
        until("all name one leader", || {
            let told: Vec<i32> = clients.iter_mut().map(|client| partition(client, topic).leader_id).collect();
            leader = told[0];
            nodes.contains(&leader) && told.iter().all(|one| *one == leader)
        });
        leader
    }
}

impl Cluster {
    /// Has the leader write a record that all replicas must have, whoever leads: on a busy machine brokers may take
    /// each other for dead. Gives the leader.
    pub fn write(&self, topic: &str, nodes: &[i32], value: &str) -> i32 {
        let mut leader = -1;
        until("a leader takes the record", || {
            leader = self.leader(topic, nodes);
            let written = self.client(leader).produce(topic, -1, batch(&[value]));
            let code = ErrorCode(written.error_code);
            assert!(matches!(code, ErrorCode::NONE | ErrorCode::NOT_LEADER_OR_FOLLOWER), "{code}");
            code == ErrorCode::NONE
        });
        leader
    }

    /// Does something with the leader until it is as it should be.
    pub fn with_leader(&self, topic: &str, nodes: &[i32], what: &str, mut holds: impl FnMut(&mut Client) -> bool) {
        until(what, || holds(&mut self.client(self.leader(topic, nodes))));
    }
}

/// The nodes but one.
pub fn others(node: i32) -> Vec<i32> {
    (1..=3).filter(|other| *other != node).collect()
}

/// What a broker says of one topic, of none with an empty name.
pub fn metadata(client: &mut Client, topic: &str) -> MetadataResponse {
    let topics = match topic {
        "" => Vec::new(),
        name => vec![MetadataRequestTopic { name: Some(name.into()), ..Default::default() }],
    };
    client.call(12, &MetadataRequest { topics: Some(topics), allow_auto_topic_creation: false, ..Default::default() })
}

/// What a broker says of a topic's first partition, once it knows of it.
pub fn partition(client: &mut Client, topic: &str) -> MetadataResponsePartition {
    let mut found = None;
    until("the topic is known", || {
        found = metadata(client, topic).topics.remove(0).partitions.into_iter().next();
        found.is_some()
    });
    found.expect("it was waited for")
}

/// Creates a topic with one partition of three replicas.
pub fn create(client: &mut Client, name: &str, configs: &[(&str, &str)]) {
    let configs =
        configs.iter().map(|(name, value)| CreatableTopicConfig { name: (*name).into(), value: Some((*value).into()) });
    let topic = CreatableTopic {
        name: name.into(),
        num_partitions: 1,
        replication_factor: 3,
        configs: configs.collect(),
        ..Default::default()
    };
    let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: 30_000, ..Default::default() };
    let response = client.call(7, &request);
    assert_code(response.topics[0].error_code, ErrorCode::NONE);
}
