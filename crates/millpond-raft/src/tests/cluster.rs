//! Three brokers in the simulator: groups of three replicas that are replicated, lose their leader and go on.

mod catch_up;
mod failover;
mod lost;
mod taint;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, join_all};
use millpond_record::{BrokerId, GroupId, Offset, ReplicaId};
use millpond_runtime::sim::{self, Crash, DiskFaults, NetworkDelays, NodeId, World};
use millpond_runtime::{HostPort, Runtime};
use millpond_storage::{DataDir, DirectoryId, GroupSpec};

use super::world::{Remembered, batches, open_as, proposal, sequenced, spec};
use crate::{Acks, Groups, MetadataGroup, MetadataStart, Partition, PeerServices, Peers, ProposeError, Standing};

const PORT: u16 = 9093;
const BROKERS: [i32; 3] = [1, 2, 3];
const SOON: Duration = Duration::from_secs(30);

/// Does nothing for others but Raft.
struct NoServices;

impl PeerServices for NoServices {
    fn call(&self, _: BrokerId, _: u16, _: Bytes) -> BoxFuture<'static, Result<Bytes, String>> {
        Box::pin(std::future::ready(Err("nothing".to_owned())))
    }
}

/// The life of a broker.
struct Host {
    broker: BrokerId,
    runtime: Runtime,
    _data_dir: DataDir,
    groups: Groups,
}

fn address(world: &World, broker: i32) -> SocketAddr {
    world.address(NodeId(broker as u16), PORT)
}

/// Starts a broker on whatever its node's disk has.
async fn start(world: &World, broker: i32, boot: u8) -> Host {
    let runtime = world.runtime_for(NodeId(broker as u16));
    let (all, here) = (BROKERS.map(|broker| (broker, address(world, broker))), runtime.clone());
    let started = runtime.spawn(async move {
        let data_dir = open_as(&here, Path::new("/data"), BrokerId(broker)).await;
        let standing = Standing {
            broker: BrokerId(broker),
            cluster_id: Some("cluster".to_owned()),
            directory_id: DirectoryId([broker as u8; 16]),
            boot_id: DirectoryId([boot; 16]),
        };
        let peers = Peers::start(here.clone(), standing, Arc::new(NoServices));
        let own = all.iter().find(|(number, _)| *number == broker).expect("listed").1;
        let listener = here.listen(own).await.expect("a free port");
        let (accepting, serving) = (here.clone(), peers.clone());
        accepting.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                serving.serve(stream);
            }
        });
        let addresses = all.map(|(broker, address)| {
            (BrokerId(broker), HostPort { host: address.ip().to_string(), port: address.port() })
        });
        peers.set_brokers(BTreeMap::from(addresses));
        let groups = Groups::start(here.clone(), data_dir.clone(), peers.clone());
        (data_dir, groups)
    });
    let (_data_dir, groups) = started.await.expect("started");
    Host { broker: BrokerId(broker), runtime, _data_dir, groups }
}

fn replica_of(group: u64, broker: i32) -> ReplicaId {
    ReplicaId(100 * group + broker as u64)
}

fn members(group: u64) -> Vec<(ReplicaId, BrokerId)> {
    BROKERS.map(|broker| (replica_of(group, broker), BrokerId(broker))).to_vec()
}

impl Host {
    async fn create(&self, group: u64) -> Partition {
        let spec = GroupSpec { replica: replica_of(group, self.broker.0), ..spec(group) };
        let groups = self.groups.clone();
        let made = self.runtime.spawn(async move { groups.create(spec, &members(group), 1).await });
        made.await.expect("the task").expect("a replica")
    }

    fn partition(&self, group: u64) -> Partition {
        self.groups.partition(GroupId(group)).expect("a replica")
    }

    /// Proposes from a task of the broker.
    async fn write(&self, group: u64, value: &str) -> Result<Offset, ProposeError> {
        let (partition, proposal) = (self.partition(group), proposal(value));
        let written = self.runtime.spawn(async move { partition.propose(proposal, Acks::All, None).await });
        written.await.map_err(|_| ProposeError::Closed)?.map(|written| written.base_offset)
    }

    async fn values(&self, group: u64) -> Vec<String> {
        let (runtime, partition) = (self.runtime.clone(), self.partition(group));
        let read = self.runtime.spawn(async move {
            let log = partition.log().await.expect("open");
            batches(&runtime, &log).await
        });
        read.await.expect("read").into_iter().map(|(_, _, value)| value).collect()
    }
}

struct Cluster {
    world: World,
    client: Runtime,
    hosts: BTreeMap<i32, Host>,
    boots: u8,
}

impl Cluster {
    async fn start(world: World) -> Cluster {
        let client = world.runtime_for(NodeId(99));
        let mut hosts = BTreeMap::new();
        for broker in BROKERS {
            hosts.insert(broker, start(&world, broker, 0).await);
        }
        Cluster { world, client, hosts, boots: 0 }
    }

    async fn create(&self, group: u64) {
        join_all(self.hosts.values().map(|host| host.create(group))).await;
    }

    /// The broker that leads and serves the group, waited for.
    async fn leader(&self, group: u64) -> &Host {
        let found = async {
            loop {
                let leads = |host: &&Host| host.groups.partition(GroupId(group)).is_some_and(|p| p.leads());
                if let Some(leader) = self.hosts.values().find(leads) {
                    return leader;
                }
                self.client.sleep(Duration::from_millis(5)).await;
            }
        };
        self.client.timeout(SOON, found).await.expect("somebody leads")
    }

    /// Writes through whoever leads, again while nobody does.
    async fn write(&self, group: u64, value: &str) -> Offset {
        let writing = async {
            loop {
                let leader = self.leader(group).await;
                match leader.write(group, value).await {
                    Ok(offset) => return offset,
                    Err(ProposeError::NotLeader | ProposeError::NotEnoughReplicas { .. } | ProposeError::Closed) => {
                        self.client.sleep(Duration::from_millis(20)).await;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        };
        self.client.timeout(SOON, writing).await.expect("written in time")
    }

    async fn kill(&mut self, broker: i32) {
        self.world.crash(NodeId(broker as u16), Crash::PowerCut);
        // What a dead process held goes without a word.
        self.hosts.remove(&broker);
    }

    async fn restart(&mut self, broker: i32) {
        self.boots += 1;
        self.world.restart(NodeId(broker as u16));
        let host = start(&self.world, broker, self.boots).await;
        self.hosts.insert(broker, host);
    }

    /// Waits until a broker can read these values.
    async fn has(&self, broker: i32, group: u64, expected: &[String]) {
        let host = &self.hosts[&broker];
        let reading = async {
            while host.values(group).await != expected {
                self.client.sleep(Duration::from_millis(20)).await;
            }
        };
        if self.client.timeout(SOON, reading).await.is_err() {
            panic!("broker {broker} has {:?}, not {expected:?}", host.values(group).await);
        }
    }
}

fn clustered<F: Future<Output = ()>>(seed: u64, test: impl FnOnce(Cluster) -> F) {
    sim::block_on(seed, async {
        let world = World::new(seed);
        // A network within a data centre: the tests ask for times.
        world.set_network_delays(NetworkDelays { slow_ms: 20, ..NetworkDelays::default() });
        let cluster = Cluster::start(world).await;
        test(cluster).await;
    });
}

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

#[test]
fn a_new_group_is_led_by_its_first_replica_and_all_replicas_get_what_is_written() {
    clustered(1, |cluster| async move {
        cluster.create(1).await;
        let before = cluster.client.now();
        let leader = cluster.leader(1).await;
        assert_eq!(leader.broker, BrokerId(1));
        for value in numbers(0..50) {
            cluster.write(1, &value).await;
        }
        let took = cluster.client.now() - before;
        assert!(took < Duration::from_secs(2), "{took:?}");
        for broker in BROKERS {
            cluster.has(broker, 1, &numbers(0..50)).await;
        }
        for broker in BROKERS {
            let known = cluster.hosts[&broker].groups.leaders().of(GroupId(1)).expect("a leader");
            assert_eq!(known.broker, BrokerId(1));
        }
    });
}

#[test]
fn what_is_acknowledged_survives_the_leader_and_writes_go_on_within_a_second() {
    for seed in 1..6 {
        clustered(seed, |mut cluster| async move {
            cluster.create(1).await;
            for value in numbers(0..20) {
                cluster.write(1, &value).await;
            }
            cluster.kill(1).await;
            let before = cluster.client.now();
            cluster.write(1, "20").await;
            let took = cluster.client.now() - before;
            assert!(took < Duration::from_secs(1), "seed {seed}: {took:?}");
            for value in numbers(21..40) {
                cluster.write(1, &value).await;
            }
            cluster.restart(1).await;
            for broker in BROKERS {
                cluster.has(broker, 1, &numbers(0..40)).await;
            }
        });
    }
}

#[test]
fn without_a_majority_nothing_is_acknowledged_and_with_one_again_it_goes_on() {
    clustered(3, |mut cluster| async move {
        cluster.create(1).await;
        cluster.write(1, "0").await;
        cluster.kill(2).await;
        cluster.kill(3).await;
        cluster.client.sleep(Duration::from_secs(2)).await;
        let refused = cluster.hosts[&1].write(1, "lost").await;
        assert!(matches!(refused, Err(ProposeError::NotEnoughReplicas { alive: 1, needed: 2 })), "{refused:?}");
        cluster.restart(3).await;
        cluster.write(1, "1").await;
        cluster.restart(2).await;
        for broker in BROKERS {
            cluster.has(broker, 1, &numbers(0..2)).await;
        }
    });
}

#[test]
fn all_brokers_may_die_at_once_and_everything_acknowledged_is_there_when_they_are_back() {
    for seed in 1..4 {
        clustered(seed, |mut cluster| async move {
            for group in 1..6 {
                cluster.create(group).await;
            }
            for value in numbers(0..10) {
                join_all((1..6).map(|group| cluster.write(group, &value))).await;
            }
            for broker in BROKERS {
                cluster.kill(broker).await;
            }
            for broker in BROKERS {
                cluster.restart(broker).await;
            }
            let before = cluster.client.now();
            join_all((1..6).map(|group| cluster.write(group, "10"))).await;
            let took = cluster.client.now() - before;
            assert!(took < Duration::from_secs(3), "seed {seed}: {took:?}");
            for group in 1..6 {
                cluster.has(2, group, &numbers(0..11)).await;
            }
        });
    }
}

#[test]
fn leadership_is_handed_over_without_losing_a_write() {
    clustered(5, |cluster| async move {
        cluster.create(1).await;
        let mut expected = Vec::new();
        for (round, to) in [2, 3, 1, 3].into_iter().enumerate() {
            let value = round.to_string();
            cluster.write(1, &value).await;
            expected.push(value);
            let leader = cluster.leader(1).await;
            let (partition, runtime) = (leader.partition(1), leader.runtime.clone());
            let handed = runtime.spawn(async move { partition.transfer(BrokerId(to)).await });
            let before = leader.groups.leaders().of(GroupId(1)).expect("a leader").epoch;
            handed.await.expect("the task").expect("handed over");
            let leader = cluster.leader(1).await;
            assert_eq!(leader.broker, BrokerId(to));
            // One election is enough.
            let now = leader.groups.leaders().of(GroupId(1)).expect("a leader").epoch;
            assert_eq!(now.0, before.0 + 1);
        }
        for broker in BROKERS {
            cluster.has(broker, 1, &expected).await;
        }
    });
}

#[test]
fn a_restarted_follower_learns_what_is_committed_though_nothing_is_written_any_more() {
    clustered(15, |mut cluster| async move {
        cluster.create(1).await;
        cluster.write(1, "the last").await;
        let leader = cluster.leader(1).await.broker;
        for follower in BROKERS.into_iter().filter(|broker| BrokerId(*broker) != leader) {
            cluster.has(follower, 1, &["the last".to_owned()]).await;
            cluster.kill(follower).await;
            cluster.restart(follower).await;
            cluster.has(follower, 1, &["the last".to_owned()]).await;
        }
        assert_eq!(cluster.leader(1).await.broker, leader);
    });
}

#[test]
fn a_leader_that_is_cut_off_acknowledges_nothing_and_follows_when_it_is_back() {
    for seed in 1..4 {
        clustered(seed, |cluster| async move {
            cluster.create(1).await;
            cluster.write(1, "0").await;
            for other in [2, 3] {
                cluster.world.block(NodeId(1), NodeId(other));
                cluster.world.block(NodeId(other), NodeId(1));
            }
            let cut_off = cluster.hosts[&1].write(1, "lost");
            let refused = cluster.client.timeout(Duration::from_secs(2), cut_off).await;
            assert!(!matches!(refused, Ok(Ok(_))), "{refused:?}");
            let others = async {
                loop {
                    for broker in [2, 3] {
                        if cluster.hosts[&broker].partition(1).leads()
                            && cluster.hosts[&broker].write(1, "1").await.is_ok()
                        {
                            return;
                        }
                    }
                    cluster.client.sleep(Duration::from_millis(20)).await;
                }
            };
            cluster.client.timeout(Duration::from_secs(3), others).await.expect("the majority goes on");
            for other in [2, 3] {
                cluster.world.unblock(NodeId(1), NodeId(other));
                cluster.world.unblock(NodeId(other), NodeId(1));
            }
            let expected: Vec<String> = vec!["0".to_owned(), "1".to_owned()];
            for broker in BROKERS {
                cluster.has(broker, 1, &expected).await;
            }
            assert!(!cluster.hosts[&1].partition(1).leads());
        });
    }
}

#[test]
fn a_deposed_leader_that_reaches_only_a_follower_again_does_not_lead_beyond_doubt() {
    for seed in 1..4 {
        clustered(seed, |cluster| async move {
            cluster.create(1).await;
            cluster.write(1, "0").await;
            let [first, second, third] = [1, 2, 3].map(|broker| cluster.hosts[&broker].partition(1));
            assert!(first.surely_leads(SOON).await);
            assert!(!second.surely_leads(SOON).await, "it follows");
            for other in [2, 3] {
                cluster.world.block(NodeId(1), NodeId(other));
                cluster.world.block(NodeId(other), NodeId(1));
            }
            let elected = async {
                while !second.leads() && !third.leads() {
                    cluster.client.sleep(Duration::from_millis(5)).await;
                }
            };
            cluster.client.timeout(SOON, elected).await.expect("the majority goes on");
            assert!(!first.surely_leads(Duration::from_millis(100)).await);
            let follower = NodeId(if second.leads() { 3 } else { 2 });
            cluster.world.unblock(NodeId(1), follower);
            cluster.world.unblock(follower, NodeId(1));
            assert!(!first.surely_leads(SOON).await);
        });
    }
}

#[test]
fn a_deposed_leader_refuses_no_sequence_that_it_has_not_heard_of() {
    clustered(5, |cluster| async move {
        cluster.create(1).await;
        cluster.write(1, "0").await;
        let first = cluster.hosts[&1].partition(1);
        assert!(first.leads());
        let produce = |partition: &Partition, sequence| {
            let (partition, runtime) = (partition.clone(), cluster.client.clone());
            async move { runtime.timeout(SOON, partition.propose(sequenced(sequence), Acks::All, None)).await }
        };
        produce(&first, 0).await.expect("answered").expect("taken");
        let refused = produce(&first, 5).await.expect("answered");
        assert!(matches!(refused, Err(ProposeError::Sequence(_))), "{refused:?}");
        for other in [2, 3] {
            cluster.world.block(NodeId(1), NodeId(other));
            cluster.world.block(NodeId(other), NodeId(1));
        }
        // Others may have taken what is before it by now.
        let asked = produce(&first, 5);
        let heals = async {
            let led = [2, 3].map(|broker| cluster.hosts[&broker].partition(1));
            while !led.iter().any(Partition::leads) {
                cluster.client.sleep(Duration::from_millis(5)).await;
            }
            for other in [2, 3] {
                cluster.world.unblock(NodeId(1), NodeId(other));
                cluster.world.unblock(NodeId(other), NodeId(1));
            }
        };
        let (answer, ()) = tokio::join!(asked, heals);
        assert!(matches!(answer, Ok(Err(ProposeError::NotLeader))), "{answer:?}");
    });
}

#[test]
fn a_batch_that_all_replicas_must_have_is_acknowledged_when_all_have_it() {
    clustered(11, |cluster| async move {
        cluster.create(1).await;
        for host in cluster.hosts.values() {
            host.partition(1).set_min_insync(3);
        }
        cluster.write(1, "0").await;
        // The third is alive and hears nothing of this leader's.
        let leader = cluster.leader(1).await;
        let slow = DiskFaults { slow_sync: 1.0, slow_sync_ms: 3_000, ..DiskFaults::default() };
        let third = BROKERS.into_iter().find(|broker| BrokerId(*broker) != leader.broker).expect("there are three");
        cluster.world.set_disk_faults(NodeId(third as u16), slow);
        for value in numbers(1..6) {
            leader.write(1, &value).await.expect("written");
            let reached = cluster.hosts[&third].partition(1).log().await.expect("open").frontiers();
            assert_eq!(reached.log_end.0, value.parse::<i64>().expect("a number") + 1, "it has what is acknowledged");
        }
    });
}

#[test]
fn a_partition_with_one_replica_gets_two_more_and_loses_the_first() {
    clustered(13, |mut cluster| async move {
        let (group, alone) = (7, [(replica_of(7, 1), BrokerId(1))]);
        let (groups, first) = (cluster.hosts[&1].groups.clone(), GroupSpec { replica: alone[0].0, ..spec(group) });
        let made = cluster.hosts[&1].runtime.spawn(async move { groups.create(first, &alone, 1).await });
        made.await.expect("the task").expect("created");
        for value in numbers(0..100) {
            cluster.write(group, &value).await;
        }
        for broker in [2, 3] {
            let (groups, spec) =
                (cluster.hosts[&broker].groups.clone(), GroupSpec { replica: replica_of(7, broker), ..spec(group) });
            let made = cluster.hosts[&broker].runtime.spawn(async move { groups.create(spec, &members(7), 2).await });
            made.await.expect("the task").expect("created");
        }
        let change = |cluster: &Cluster, broker: i32, to: Vec<(ReplicaId, BrokerId)>, version: u64| {
            let (partition, runtime) = (cluster.hosts[&broker].partition(7), cluster.hosts[&broker].runtime.clone());
            runtime.spawn(async move { partition.change_members(&to, version).await })
        };
        change(&cluster, 1, alone.to_vec(), 2).await.expect("the task").expect("nothing is to be done");
        change(&cluster, 1, members(7), 2).await.expect("the task").expect("changed");
        cluster.write(group, "100").await;
        for broker in BROKERS {
            cluster.has(broker, group, &numbers(0..101)).await;
            assert_eq!(cluster.hosts[&broker].partition(7).members_version(), Some((2, true)));
        }
        let without: Vec<_> = members(7).into_iter().filter(|(_, broker)| *broker != BrokerId(1)).collect();
        let stale = change(&cluster, 1, without.clone(), 1).await.expect("the task");
        assert!(matches!(stale, Err(crate::RaftError::StaleAssignment { version: 1, known: 2, .. })), "{stale:?}");
        let (partition, runtime) = (cluster.hosts[&1].partition(7), cluster.hosts[&1].runtime.clone());
        let handed = runtime.spawn(async move { partition.transfer(BrokerId(2)).await });
        handed.await.expect("the task").expect("handed over");
        let leader = cluster.leader(group).await.broker.0;
        change(&cluster, leader, without, 3).await.expect("the task").expect("changed");
        cluster.kill(1).await;
        cluster.write(group, "101").await;
        for broker in [2, 3] {
            cluster.has(broker, group, &numbers(0..102)).await;
        }
    });
}

#[test]
fn a_partition_takes_writes_whenever_the_move_of_its_only_replica_is_given_up() {
    clustered(14, |cluster| async move {
        for ms in 0..12 {
            let group = 20 + ms;
            let alone = [(replica_of(group, 1), BrokerId(1))];
            let (groups, first) = (cluster.hosts[&1].groups.clone(), GroupSpec { replica: alone[0].0, ..spec(group) });
            let made = cluster.hosts[&1].runtime.spawn(async move { groups.create(first, &alone, 1).await });
            made.await.expect("the task").expect("created");
            cluster.write(group, "0").await;
            // The others do not know of it, so that it has to be given up.
            let (partition, runtime) = (cluster.hosts[&1].partition(group), cluster.hosts[&1].runtime.clone());
            let limited = runtime.clone();
            let changed = runtime.spawn(async move {
                let to = members(group);
                limited.timeout(Duration::from_millis(ms), partition.change_members(&to, 2)).await
            });
            assert!(changed.await.expect("the task").is_err(), "it is still being changed after {ms} ms");
            cluster.write(group, "1").await;
            cluster.has(1, group, &numbers(0..2)).await;
        }
    });
}

#[test]
fn a_move_that_takes_the_leader_away_is_asked_for_again_at_any_moment() {
    clustered(15, |cluster| async move {
        for step in 0..100 {
            let (group, pause) = (40 + step, Duration::from_micros(200) * step as u32);
            cluster.create(group).await;
            cluster.write(group, "0").await;
            let host = cluster.leader(group).await;
            let to: Vec<_> = members(group).into_iter().filter(|(_, broker)| *broker != host.broker).collect();
            let change = |to: Vec<_>, version: u64| {
                let (partition, runtime) = (host.partition(group), host.runtime.clone());
                host.runtime.spawn(async move {
                    runtime.timeout(Duration::from_secs(2), partition.change_members(&to, version)).await
                })
            };
            let first = change(to.clone(), 2);
            cluster.client.sleep(pause).await;
            // The same, or another one to a replica that is nowhere, which is given up.
            let second = match step % 2 {
                0 => change(to, 2),
                _ => change(to.into_iter().chain([(ReplicaId(900 + step), host.broker)]).collect(), 3),
            };
            let second = second.await.expect("the task");
            assert!(!matches!(second, Ok(Err(crate::RaftError::Fatal { .. }))), "after {pause:?}: {second:?}");
            let first = first.await.expect("the task");
            assert!(!matches!(first, Ok(Err(crate::RaftError::Fatal { .. }))), "after {pause:?}: {first:?}");
            // As its broker does with a replica that is not to be there any more.
            let groups = host.groups.clone();
            let deleted = host.runtime.spawn(async move { groups.delete(GroupId(group)).await });
            deleted.await.expect("the task").expect("deleted");
            cluster.write(group, "1").await;
        }
    });
}

#[test]
fn a_batch_that_is_sent_again_to_the_next_leader_is_there_once() {
    clustered(7, |mut cluster| async move {
        cluster.create(1).await;
        let leader = cluster.leader(1).await;
        let (partition, runtime) = (leader.partition(1), leader.runtime.clone());
        let first = runtime.spawn(async move { partition.propose(sequenced(0), Acks::All, None).await });
        let first = first.await.expect("the task").expect("written");
        cluster.kill(1).await;
        let leader = cluster.leader(1).await;
        let (partition, runtime) = (leader.partition(1), leader.runtime.clone());
        let again = runtime.spawn(async move { partition.propose(sequenced(0), Acks::All, None).await });
        let again = again.await.expect("the task").expect("known");
        assert!(again.duplicate);
        assert_eq!(again.base_offset, first.base_offset);
    });
}

#[test]
fn the_metadata_group_grows_from_its_founder_to_three_voters_and_survives_it() {
    clustered(9, |mut cluster| async move {
        let applied: BTreeMap<i32, Remembered> = BROKERS.map(|broker| (broker, Remembered::default())).into();
        let mut metadata: BTreeMap<i32, MetadataGroup> = BTreeMap::new();
        for broker in BROKERS {
            let host = &cluster.hosts[&broker];
            let replica = ReplicaId(broker as u64);
            let start = if broker == 1 { MetadataStart::Found(replica) } else { MetadataStart::Join(replica) };
            let (groups, applier) = (host.groups.clone(), Arc::new(applied[&broker].clone()));
            let started = host.runtime.spawn(async move { groups.metadata(start, applier).await });
            metadata.insert(broker, started.await.expect("the task").expect("started"));
        }
        let founder = metadata[&1].clone();
        let grown = cluster.hosts[&1].runtime.spawn(async move {
            let term = founder.leadership().borrow().term;
            founder.propose(super::world::proposal("a").batch, term).await.expect("written");
            for broker in [2, 3] {
                founder.add_learner(ReplicaId(broker), BrokerId(broker as i32)).await.expect("added");
            }
            founder.set_voters([1, 2, 3].map(ReplicaId).into()).await.expect("voters");
            founder.propose(super::world::proposal("b").batch, term).await.expect("written");
            founder.members()
        });
        let members = grown.await.expect("grown");
        assert_eq!(members.iter().filter(|member| member.voter).count(), 3);
        cluster.kill(1).await;
        let led = async |brokers: &[i32]| {
            let leader = async {
                loop {
                    if let Some(leader) = brokers.iter().find(|broker| metadata[broker].leadership().borrow().here) {
                        return *leader;
                    }
                    cluster.client.sleep(Duration::from_millis(10)).await;
                }
            };
            cluster.client.timeout(Duration::from_secs(2), leader).await.expect("a new controller")
        };
        let leader = led(&[2, 3]).await;
        assert_eq!(applied[&leader].values(), ["a", "b"]);
        let term = metadata[&leader].leadership().borrow().term;
        let propose = async |value: &str| {
            let (group, batch) = (metadata[&leader].clone(), super::world::proposal(value).batch);
            let written = cluster.hosts[&leader].runtime.spawn(async move { group.propose(batch, term).await });
            written.await.expect("the task")
        };
        propose("c").await.expect("written");
        assert_eq!(applied[&leader].values(), ["a", "b", "c"]);

        // It loses the office and gets it back: what it decided before may not be true any more.
        let other = 5 - leader;
        for (from, to) in [(leader, other), (other, leader)] {
            let group = metadata[&from].clone();
            let handed = cluster.hosts[&from].runtime.spawn(async move { group.transfer(BrokerId(to)).await });
            handed.await.expect("the task").expect("handed over");
            led(&[to]).await;
        }
        let late = propose("late").await;
        assert!(matches!(late, Err(crate::RaftError::NotLeader(_))), "{late:?}");
        assert_eq!(applied[&leader].values(), ["a", "b", "c"]);
    });
}
