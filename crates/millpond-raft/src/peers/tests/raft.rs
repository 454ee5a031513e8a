//! Groups of three replicas over the transport.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use millpond_record::{BatchBuilder, BrokerId, GroupId, RaftIndex, RaftOnlyKind, ReplicaId, Term, Timestamp};
use millpond_runtime::sim::{Crash, DiskFaults, NetworkDelays, World};
use millpond_storage::{AppendEntry, Body, DataDir, Log, Proposal};
use openraft::Raft;
use openraft::async_runtime::WatchReceiver;
use openraft::raft::TransferLeaderRequest;
use tokio::sync::oneshot;

use super::network::{Node, addresses, cluster, node, sees, simulated, start};
use crate::log_store::LogStore;
use crate::membership;
use crate::peers::{GroupRaft, Missing};
use crate::replica::raft_config;
use crate::state_machine::StateMachine;
use crate::tests::world::{Remembered, open, ownerless, propose, spec};
use crate::types::{Member, Membership, Payload};

const BROKERS: [i32; 3] = [1, 2, 3];
/// When the leaders of the tests append, by their clock.
const APPENDED_AT: i64 = 5_000;
const SOON: Duration = Duration::from_secs(30);

/// A replica of a test, on the broker of its number.
struct Replica {
    node: Node,
    raft: GroupRaft,
    log: Arc<Log>,
    applied: Remembered,
    /// The log ends with it.
    _data_dir: DataDir,
}

fn replica_of(broker: i32) -> ReplicaId {
    ReplicaId(10 + broker as u64)
}

fn founders() -> Bytes {
    let member = |broker: i32| Member { broker: BrokerId(broker), assignment_version: 0 };
    let nodes: BTreeMap<u64, Member> = BROKERS.iter().map(|&broker| (replica_of(broker).0, member(broker))).collect();
    let voters: BTreeSet<u64> = nodes.keys().copied().collect();
    membership::encode(&Membership::new(vec![voters], nodes).expect("every voter is a node"))
}

async fn log_of(node: &Node, broker: i32, group: u64) -> (DataDir, Arc<Log>) {
    let data_dir = open(&node.runtime, Path::new("/data")).await;
    if let Some(log) = data_dir.log(GroupId(group)).expect("readable") {
        return (data_dir, log);
    }
    let (done, durable) = oneshot::channel();
    let spec = millpond_storage::GroupSpec { replica: replica_of(broker), ..spec(group) };
    let log = data_dir.create_group(spec, Box::new(move |result| drop(done.send(result)))).expect("created");
    durable.await.expect("told").expect("durable");
    let (done, durable) = oneshot::channel();
    let body = Body::RaftOnly { kind: RaftOnlyKind::Membership, payload: founders(), time: Timestamp(1) };
    let first = AppendEntry { index: RaftIndex(0), term: Term(0), body };
    log.append(vec![first], Box::new(move |result| drop(done.send(result)))).expect("appended");
    durable.await.expect("told").expect("durable");
    (data_dir, log)
}

/// Starts the replica of group 1 on a broker.
async fn replica(node: &Node, broker: i32) -> Replica {
    let (node, in_task) = (node.clone(), node.clone());
    let started = node.runtime.spawn(async move {
        let (data_dir, log) = log_of(&in_task, broker, 1).await;
        let applied = Remembered::default();
        let network = in_task.peers.network(GroupId(1), replica_of(broker));
        let state = ownerless(&log);
        let store = LogStore::new(in_task.runtime.clone(), data_dir.clone(), Arc::clone(&state));
        let machine = StateMachine::new(in_task.runtime.clone(), state, Some(Arc::new(applied.clone())))
            .expect("a state machine");
        let config = Arc::new(raft_config(GroupId(1), millpond_storage::FlushMode::Durable).validate().expect("valid"));
        let raft = Raft::new(replica_of(broker).0, config, network, store, machine).await.expect("started");
        in_task.ears.serve(GroupId(1), replica_of(broker), Ok(raft.clone()));
        (raft, log, applied, data_dir)
    });
    let (raft, log, applied, _data_dir) = started.await.expect("the task");
    Replica { node, raft, log, applied, _data_dir }
}

impl Replica {
    fn applied(&self) -> Vec<String> {
        self.applied.values()
    }

    async fn elect(&self) {
        self.stand().await;
        self.leads().await;
    }

    /// Asks for votes, whatever anybody's lease says.
    async fn stand(&self) {
        let (raft, vote) = (self.raft.clone(), self.raft.metrics().borrow_watched().vote);
        let stood = self.node.runtime.spawn(async move {
            if !vote.committed {
                return raft.trigger().elect(false).await;
            }
            let to = raft.metrics().borrow_watched().id;
            raft.handle_transfer_leader(TransferLeaderRequest::new(vote, to, None)).await?.expect("it may stand");
            Ok(())
        });
        stood.await.expect("the task").expect("it runs");
    }

    async fn leads(&self) {
        let mut metrics = self.raft.metrics();
        self.within(async {
            loop {
                {
                    let now = metrics.borrow_watched();
                    let applied = now.last_applied.as_ref().map(|id| id.committed_leader_id().term);
                    if now.current_leader == Some(now.id) && applied == Some(now.current_term) {
                        return;
                    }
                }
                metrics.changed().await.expect("it runs");
            }
        })
        .await;
    }

    async fn within<T>(&self, what: impl Future<Output = T>) -> T {
        self.node.runtime.timeout(SOON, what).await.expect("in time")
    }

    /// Proposes, and waits until it is committed.
    async fn write(&self, value: &str) {
        let batch = BatchBuilder::new().record(Timestamp(1), None, Some(value.as_bytes())).build();
        let (raft, payload) = (
            self.raft.clone(),
            Payload::Proposed(Proposal { append_time: Timestamp(APPENDED_AT), ..propose(batch) }, None),
        );
        let written = self.node.runtime.spawn(async move { raft.client_write(payload).await });
        self.within(written).await.expect("the task").expect("committed");
    }

    async fn write_all(&self, values: impl Iterator<Item = String>) {
        join_all(values.map(|value| async move { self.write(&value).await })).await;
    }

    async fn has_applied(&self, entries: usize) {
        let mut metrics = self.raft.metrics();
        self.within(async {
            while self.applied().len() < entries {
                metrics.changed().await.expect("it runs");
            }
        })
        .await;
    }
}

async fn three(world: &World) -> Vec<Replica> {
    let mut replicas = Vec::new();
    for (node, broker) in cluster(world, &BROKERS).await.iter().zip(BROKERS) {
        replicas.push(replica(node, broker).await);
    }
    replicas
}

fn values(range: std::ops::Range<u32>) -> impl Iterator<Item = String> {
    range.map(|number| format!("value {number}"))
}

#[test]
fn three_replicas_elect_a_leader_and_have_a_thousand_batches_alike() {
    for seed in 0..3 {
        simulated(seed, |world| async move {
            let replicas = three(&world).await;
            replicas[0].elect().await;
            replicas[0].write_all(values(0..1000)).await;
            let wanted: Vec<String> = values(0..1000).collect();
            for replica in &replicas {
                replica.has_applied(1000).await;
                assert_eq!(replica.applied(), wanted);
                assert_eq!(replica.log.frontiers().last, replicas[0].log.frontiers().last);
            }
            replicas[0].node.runtime.sleep(Duration::from_secs(1)).await;
            for figures in replicas[0].node.peers.figures() {
                assert_eq!((figures.bytes_in_flight, figures.connects), (0, 1), "{figures:?}");
            }
            // The leadership goes to another one, by the leader's will.
            let (leader, next) = (&replicas[0], &replicas[1]);
            let raft = leader.raft.clone();
            let handed = leader.node.runtime.spawn(async move { raft.trigger().transfer_leader(12).await });
            handed.await.expect("the task").expect("triggered");
            next.leads().await;
            next.write("by the next leader").await;
            for replica in &replicas {
                replica.has_applied(1001).await;
            }
            let asked = replicas[2].node.ears.candidates();
            let by_leader: Vec<_> = asked.iter().map(|asked| (asked.replica.0, asked.by_leader)).collect();
            assert_eq!(by_leader, [(11, false), (12, true)]);
            assert!(replicas[2].node.ears.transfers().contains(&ReplicaId(12)));
        });
    }
}

#[test]
fn a_follower_that_is_cut_off_costs_bounded_memory_and_has_everything_when_it_is_back() {
    simulated(11, |world| async move {
        let replicas = three(&world).await;
        replicas[0].elect().await;
        replicas[0].write_all(values(0..100)).await;
        for other in [1, 2] {
            world.block(node(3), node(other));
            world.block(node(other), node(3));
        }
        // A majority is enough, and it is not delayed.
        let before = replicas[0].node.runtime.now();
        replicas[0].write_all(values(100..2000)).await;
        assert!(replicas[0].node.runtime.now() - before < Duration::from_secs(20));
        sees(&replicas[0].node, &[1, 2]).await;
        let figures = replicas[0].node.peers.figures();
        assert_eq!((figures[1].broker, figures[1].alive, figures[1].bytes_in_flight), (BrokerId(3), false, 0));
        // Nothing is tried while there is no connection, but for dialling.
        let dialled = figures[1].frames_sent;
        replicas[0].node.runtime.sleep(Duration::from_secs(60)).await;
        assert_eq!(replicas[0].node.peers.figures()[1].frames_sent, dialled);
        for other in [1, 2] {
            world.unblock(node(3), node(other));
            world.unblock(node(other), node(3));
        }
        replicas[2].has_applied(2000).await;
        assert_eq!(replicas[2].applied(), replicas[0].applied());
    });
}

#[test]
fn a_killed_follower_catches_up_after_its_restart_and_a_killed_leader_loses_nothing_that_was_committed() {
    simulated(12, |world| async move {
        let mut replicas = three(&world).await;
        replicas[0].elect().await;
        replicas[0].write_all(values(0..50)).await;
        for round in 1..=3u32 {
            world.crash(node(2), Crash::PowerCut);
            replicas[0].write_all(values(round * 50..round * 50 + 25)).await;
            world.restart(node(2));
            let back = start(&world, 2, Some("cluster")).await;
            back.peers.set_brokers(addresses(&world, &BROKERS));
            replicas[1] = replica(&back, 2).await;
            replicas[0].write_all(values(round * 50 + 25..(round + 1) * 50)).await;
            replicas[1].has_applied((round as usize + 1) * 50).await;
            assert_eq!(replicas[1].applied(), values(0..(round + 1) * 50).collect::<Vec<_>>());
        }
        world.crash(node(1), Crash::PowerCut);
        sees(&replicas[1].node, &[2, 3]).await;
        replicas[1].elect().await;
        replicas[1].write("after the crash").await;
        let mut wanted: Vec<String> = values(0..200).collect();
        wanted.push("after the crash".to_owned());
        for replica in &replicas[1..] {
            replica.has_applied(201).await;
            assert_eq!(replica.applied(), wanted);
        }
    });
}

#[test]
fn a_replica_that_is_not_there_yet_is_waited_for_and_one_that_is_gone_is_not() {
    simulated(13, |world| async move {
        let nodes = cluster(&world, &BROKERS).await;
        let leader = replica(&nodes[0], 1).await;
        let _follower = replica(&nodes[1], 2).await;
        // Broker 3 has yet to learn of the group: its metadata is older than the sender's.
        nodes[0].ears.set_metadata(7);
        leader.elect().await;
        leader.write("one").await;
        nodes[0].runtime.sleep(Duration::from_millis(200)).await;
        let asked = nodes[2].ears.asked();
        assert!(asked > 3, "asked {asked} times, with pauses of milliseconds");
        let late = replica(&nodes[2], 3).await;
        late.has_applied(1).await;
        // Now it is gone, and broker 3 knows all that the sender knows.
        nodes[2].ears.set_metadata(7);
        nodes[2].ears.serve(GroupId(1), replica_of(3), Err(Missing::Unknown));
        let before = nodes[2].ears.asked();
        leader.write_all(values(0..50)).await;
        world.block(node(3), node(1));
        sees(&nodes[0], &[1, 2]).await;
        world.unblock(node(3), node(1));
        sees(&nodes[0], &BROKERS).await;
        nodes[0].runtime.sleep(Duration::from_secs(10)).await;
        leader.write_all(values(50..100)).await;
        let asked = nodes[2].ears.asked() - before;
        assert!((1..=60).contains(&asked), "asked {asked} times within 10 s");
    });
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let hash = Arc::new(AtomicU64::new(0));
        let kept = Arc::clone(&hash);
        simulated(seed, |world| async move {
            let replicas = three(&world).await;
            replicas[0].elect().await;
            replicas[0].write_all(values(0..50)).await;
            world.crash(node(3), Crash::Kill);
            replicas[0].write_all(values(50..100)).await;
            sees(&replicas[0].node, &[1, 2]).await;
            kept.store(world.trace_hash(), Ordering::Relaxed);
        });
        hash.load(Ordering::Relaxed)
    };
    for seed in 0..5 {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
    assert_ne!(run(1), run(2));
}

#[test]
fn a_replica_that_cannot_take_batches_now_gets_none_and_lives() {
    simulated(17, |world| async move {
        let replicas = three(&world).await;
        replicas[0].elect().await;
        replicas[0].write_all(values(0..100)).await;
        replicas[2].has_applied(100).await;
        replicas[2].node.ears.fill(true);
        replicas[0].write_all(values(100..300)).await;
        replicas[0].node.runtime.sleep(Duration::from_secs(10)).await;
        assert_eq!(replicas[2].applied().len(), 100);
        let tried = replicas[0].node.peers.figures()[1].frames_received;
        replicas[0].node.runtime.sleep(Duration::from_secs(10)).await;
        let tried = replicas[0].node.peers.figures()[1].frames_received - tried;
        assert!(tried < 250, "{tried} answers in 10 s: 100 beats, and a message every half a second");
        replicas[2].node.ears.fill(false);
        replicas[2].has_applied(300).await;
        assert_eq!(replicas[2].applied(), replicas[0].applied());
    });
}

#[test]
fn a_vote_that_may_not_be_given_is_refused_and_changes_nothing() {
    simulated(14, |world| async move {
        let replicas = three(&world).await;
        replicas[0].elect().await;
        replicas[0].write("one").await;
        for replica in &replicas {
            replica.has_applied(1).await;
            replica.node.ears.refuse_votes(true);
        }
        replicas[1].stand().await;
        replicas[1].node.runtime.sleep(Duration::from_secs(5)).await;
        assert_eq!(replicas[2].raft.metrics().borrow_watched().current_term, 1);
        assert_eq!(replicas[0].raft.metrics().borrow_watched().current_leader, Some(11));
        assert!(replicas[2].node.ears.candidates().iter().any(|asked| asked.replica.0 == 12 && asked.term.0 == 2));
    });
}

#[test]
fn a_follower_that_answers_beats_and_flushes_nothing_costs_bounded_memory_and_delays_nobody() {
    simulated(16, |world| async move {
        world.set_network_delays(NetworkDelays { usual_ms: 0, buffer_bytes: 4 << 20, ..NetworkDelays::default() });
        let replicas = three(&world).await;
        replicas[0].elect().await;
        replicas[0].write("first").await;
        replicas[2].has_applied(1).await;
        // It has flushed it, too, and said so.
        replicas[0].node.runtime.sleep(Duration::from_secs(1)).await;
        world.set_disk_faults(node(3), DiskFaults { slow_sync: 1.0, slow_sync_ms: 120_000, ..DiskFaults::default() });
        let before = replicas[0].node.runtime.now();
        let large = "x".repeat(200_000);
        for _ in 0..15 {
            replicas[0].write_all((0..10).map(|_| large.clone())).await;
        }
        let took = replicas[0].node.runtime.now() - before;
        assert!(took < Duration::from_secs(20), "{took:?}");
        let figures = replicas[0].node.peers.figures();
        let stuck = figures[1].bytes_in_flight;
        assert!(figures[1].alive && figures[1].connects == 1, "{figures:?}");
        assert!((8 << 20..18 << 20).contains(&stuck), "{stuck} of 30 MB are on their way");
        world.set_disk_faults(node(3), DiskFaults::default());
        replicas[0].node.runtime.sleep(Duration::from_secs(600)).await;
        replicas[2].has_applied(151).await;
        assert_eq!(replicas[2].applied(), replicas[0].applied());
        assert_eq!(replicas[0].node.peers.figures()[1].bytes_in_flight, 0);
    });
}

#[test]
fn entries_keep_their_time_and_are_slices_of_their_frame() {
    simulated(15, |world| async move {
        let replicas = three(&world).await;
        replicas[0].elect().await;
        let large = "x".repeat(400_000);
        replicas[0].write(&large).await;
        replicas[0].write("small").await;
        for replica in &replicas {
            replica.has_applied(2).await;
            assert_eq!(replica.applied(), [large.clone(), "small".to_owned()]);
            // What the leader's clock said, not the time in the batch.
            let times = replica.log.append_times(RaftIndex(2), 9);
            assert_eq!(times, [Timestamp(APPENDED_AT), Timestamp(APPENDED_AT)]);
        }
        let followers: BTreeSet<u64> = replicas[0]
            .raft
            .metrics()
            .borrow_watched()
            .replication
            .as_ref()
            .expect("it leads")
            .keys()
            .copied()
            .collect();
        assert_eq!(followers, BTreeSet::from([11, 12, 13]));
    });
}
