//! The brokers of the tests, each on a node of its own.

use crate::catch_up::Filling;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use millpond_record::{BrokerId, GroupId, LogId, RaftIndex, ReplicaId};
use millpond_runtime::sim::{self, NodeId, World};
use millpond_runtime::{HostPort, Runtime};
use millpond_storage::DirectoryId;

use crate::peers::{Candidate, GroupRaft, Missing, PeerServices, Peers, RaftServices, Standing};

const PORT: u16 = 9_090;
const DEADLINE: Duration = Duration::from_secs(3_000);

/// Runs a test in a simulated world. `NodeId(n)` is the machine of broker n; the test itself is on none of them.
pub(super) fn simulated<F: Future<Output = ()>>(seed: u64, test: impl FnOnce(World) -> F) {
    sim::block_on(seed, async {
        let world = World::new(seed);
        let clock = world.runtime_for(NodeId(999));
        clock.timeout(DEADLINE, test(world)).await.expect("the test ends");
    });
}

pub(super) fn node(broker: i32) -> NodeId {
    NodeId(u16::try_from(broker).expect("a small id"))
}

pub(super) fn address(world: &World, broker: i32) -> HostPort {
    world.address(node(broker), PORT).to_string().parse().expect("an address")
}

pub(super) fn standing(broker: i32, cluster: Option<&str>) -> Standing {
    Standing {
        broker: BrokerId(broker),
        cluster_id: cluster.map(str::to_owned),
        directory_id: DirectoryId([broker as u8; 16]),
        boot_id: DirectoryId([100 + broker as u8; 16]),
    }
}

pub(super) fn addresses(world: &World, brokers: &[i32]) -> BTreeMap<BrokerId, HostPort> {
    brokers.iter().map(|broker| (BrokerId(*broker), address(world, *broker))).collect()
}

/// What a broker was asked and told, and the replicas that it has.
#[derive(Default)]
pub(super) struct Ears {
    pub(super) told: Mutex<Vec<(BrokerId, Bytes)>>,
    pub(super) running: Mutex<(usize, usize)>,
    replicas: Mutex<BTreeMap<(GroupId, ReplicaId), Result<GroupRaft, Missing>>>,
    asked: AtomicUsize,
    metadata: AtomicU64,
    refuses: AtomicBool,
    is_full: AtomicBool,
    pub(super) stands_in: AtomicBool,
    candidates: Mutex<Vec<Candidate>>,
    transfers: Mutex<Vec<ReplicaId>>,
}

impl Ears {
    pub(super) fn serve(&self, group: GroupId, replica: ReplicaId, raft: Result<GroupRaft, Missing>) {
        self.replicas.lock().expect("unpoisoned").insert((group, replica), raft);
    }

    /// How often a replica was asked for.
    pub(super) fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    pub(super) fn set_metadata(&self, version: u64) {
        self.metadata.store(version, Ordering::Relaxed);
    }

    pub(super) fn refuse_votes(&self, refuses: bool) {
        self.refuses.store(refuses, Ordering::Relaxed);
    }

    pub(super) fn fill(&self, is_full: bool) {
        self.is_full.store(is_full, Ordering::Relaxed);
    }

    pub(super) fn candidates(&self) -> Vec<Candidate> {
        self.candidates.lock().expect("unpoisoned").clone()
    }

    pub(super) fn transfers(&self) -> Vec<ReplicaId> {
        self.transfers.lock().expect("unpoisoned").clone()
    }
}

impl RaftServices for Ears {
    fn told(&self, from: BrokerId, message: Bytes) {
        self.told.lock().expect("unpoisoned").push((from, message));
    }

    fn replica(&self, group: GroupId, replica: ReplicaId) -> BoxFuture<'static, Result<GroupRaft, Missing>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let known = self.replicas.lock().expect("unpoisoned").get(&(group, replica)).cloned();
        Box::pin(std::future::ready(known.unwrap_or(Err(Missing::Unknown))))
    }

    fn takes(&self, _group: GroupId, _bytes: u64) -> Result<(), String> {
        let refused = self.is_full.load(Ordering::Relaxed);
        if refused { Err("the disk is full".to_owned()) } else { Ok(()) }
    }

    fn metadata_version(&self) -> RaftIndex {
        RaftIndex(self.metadata.load(Ordering::Relaxed))
    }

    fn metadata_known(&self) -> RaftIndex {
        RaftIndex(self.metadata.load(Ordering::Relaxed))
    }

    fn may_vote(&self, candidate: &Candidate) -> bool {
        self.candidates.lock().expect("unpoisoned").push(*candidate);
        !self.refuses.load(Ordering::Relaxed)
    }

    fn stands_in(&self, _: GroupId, _: ReplicaId, _: ReplicaId) -> bool {
        self.stands_in.load(Ordering::Relaxed)
    }

    fn transferring(&self, _group: GroupId, to: ReplicaId) {
        self.transfers.lock().expect("unpoisoned").push(to);
    }

    fn gather(&self, _: GroupId, _: ReplicaId, _: BrokerId, _: LogId) -> BoxFuture<'static, Result<Filling, String>> {
        // The replicas of these tests have what a snapshot names.
        Box::pin(async { Ok(Filling::begin(Arc::default()).await) })
    }

    fn piece(&self, _: BrokerId, _: Bytes) -> BoxFuture<'static, Result<Bytes, String>> {
        Box::pin(std::future::ready(Err("nothing is shipped".to_owned())))
    }
}

/// Service 1 says who asked what; 2 refuses; 3 never answers, nor does 6, which takes long; 4 answers with as many
/// bytes as it is asked for; 5 takes ten milliseconds and counts how many are at it.
pub(super) struct Services {
    runtime: Runtime,
    ears: Arc<Ears>,
}

impl PeerServices for Services {
    fn call(&self, from: BrokerId, service: u16, body: Bytes) -> BoxFuture<'static, Result<Bytes, String>> {
        let (runtime, ears) = (self.runtime.clone(), Arc::clone(&self.ears));
        Box::pin(async move {
            match service {
                1 => Ok(Bytes::from([from.to_string().as_bytes(), b" asked ", &body[..]].concat())),
                2 => Err("this broker does not feel like it".to_owned()),
                3 | 6 => std::future::pending().await,
                4 => Ok(Bytes::from(vec![9; String::from_utf8_lossy(&body).parse().expect("a number")])),
                _ => {
                    {
                        let mut running = ears.running.lock().expect("unpoisoned");
                        running.0 += 1;
                        running.1 = running.1.max(running.0);
                    }
                    runtime.sleep(Duration::from_millis(10)).await;
                    ears.running.lock().expect("unpoisoned").0 -= 1;
                    Ok(body)
                }
            }
        })
    }

    fn takes_long(&self, service: u16) -> bool {
        service == 6
    }
}

/// One broker's share of the network.
#[derive(Clone)]
pub(super) struct Node {
    pub(super) runtime: Runtime,
    pub(super) peers: Peers,
    pub(super) ears: Arc<Ears>,
}

/// Starts a broker that listens and knows nobody.
pub(super) async fn start(world: &World, broker: i32, cluster: Option<&str>) -> Node {
    start_as(world, broker, standing(broker, cluster)).await
}

pub(super) async fn start_as(world: &World, on: i32, standing: Standing) -> Node {
    start_on(world.runtime_for(node(on)), world.address(node(on), PORT), standing).await.0
}

/// Starts a broker in any world. Gives where it listens, too.
pub(super) async fn start_on(runtime: Runtime, at: SocketAddr, standing: Standing) -> (Node, SocketAddr) {
    let ears = Arc::new(Ears::default());
    let services = Arc::new(Services { runtime: runtime.clone(), ears: Arc::clone(&ears) });
    let peers = Peers::start(runtime.clone(), standing, services);
    let raft: Arc<dyn RaftServices> = ears.clone();
    peers.serve_raft(Arc::downgrade(&raft));
    let listener = runtime.listen(at).await.expect("a free port");
    let at = listener.local_addr().expect("it listens");
    let serving = peers.clone();
    runtime.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            serving.serve(stream);
        }
    });
    (Node { runtime, peers, ears }, at)
}

/// Starts brokers that know each other, and waits until each has found all.
pub(super) async fn cluster(world: &World, brokers: &[i32]) -> Vec<Node> {
    let mut nodes = Vec::new();
    for broker in brokers {
        let node = start(world, *broker, Some("cluster")).await;
        node.peers.set_brokers(addresses(world, brokers));
        nodes.push(node);
    }
    for node in &nodes {
        sees(node, brokers).await;
    }
    nodes
}

/// Waits until the broker sees exactly these alive.
pub(super) async fn sees(node: &Node, brokers: &[i32]) {
    let wanted: BTreeSet<BrokerId> = brokers.iter().copied().map(BrokerId).collect();
    let mut alive = node.peers.alive();
    alive.wait_for(|alive| **alive == wanted).await.expect("the peers are there");
}
