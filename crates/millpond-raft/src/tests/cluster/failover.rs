//! Who is a candidate, and who is not.

use std::path::Path;
use std::time::Duration;

use millpond_record::{BrokerId, GroupId};
use millpond_runtime::sim::{DiskFaults, NodeId};

use super::{BROKERS, Cluster, clustered, numbers};

/// The epoch in which a broker leads the group.
fn epoch(cluster: &Cluster, broker: i32) -> i32 {
    let leader = cluster.hosts[&broker].groups.leaders().of(GroupId(1)).expect("a leader");
    assert_eq!(leader.broker, BrokerId(broker));
    leader.epoch.0
}

#[test]
fn a_broker_that_alone_has_lost_its_connection_to_the_leader_deposes_nobody() {
    for seed in 1..4 {
        clustered(seed, |cluster| async move {
            cluster.create(1).await;
            cluster.write(1, "0").await;
            let leader = cluster.leader(1).await.broker.0;
            let before = epoch(&cluster, leader);
            // First in line where the first replica leads no more.
            let lonely = if leader == 2 { 1 } else { 2 };
            let (from, to) = (NodeId(lonely as u16), NodeId(leader as u16));
            cluster.world.block(from, to);
            cluster.world.block(to, from);
            for value in numbers(1..20) {
                cluster.client.sleep(Duration::from_millis(200)).await;
                cluster.hosts[&leader].write(1, &value).await.expect("the leader has a majority all the time");
            }
            cluster.world.unblock(from, to);
            cluster.world.unblock(to, from);
            cluster.has(lonely, 1, &numbers(0..20)).await;
            assert_eq!(epoch(&cluster, leader), before, "seed {seed}");
        });
    }
}

#[test]
fn a_candidate_asks_again_when_a_voter_misses_the_leader_later_than_it_does() {
    /// So many that a turn takes long.
    const GROUPS: u64 = 200;
    clustered(1, |mut cluster| async move {
        for group in 1..=GROUPS {
            cluster.create(group).await;
        }
        for group in 1..=GROUPS {
            cluster.leader(group).await;
        }
        // To the second broker, who is the next in line, the first is silent for so much longer.
        cluster.world.block(NodeId(1), NodeId(2));
        cluster.world.block(NodeId(2), NodeId(1));
        cluster.client.sleep(Duration::from_millis(300)).await;
        cluster.kill(1).await;
        let killed = cluster.client.now();
        for group in 1..=GROUPS {
            cluster.leader(group).await;
        }
        let took = cluster.client.now() - killed;
        assert!(took < Duration::from_millis(700), "{took:?}");
    });
}

#[test]
fn a_replica_that_has_come_to_a_later_term_alone_is_led_again_though_nothing_is_written() {
    for seed in 1..4 {
        clustered(seed, |cluster| async move {
            cluster.create(1).await;
            cluster.write(1, "0").await;
            for broker in BROKERS {
                cluster.has(broker, 1, &numbers(0..1)).await;
            }
            let leader = cluster.leader(1).await.broker.0;
            let before = epoch(&cluster, leader);
            let lonely = if leader == 2 { 1 } else { 2 };
            let others: Vec<NodeId> =
                BROKERS.iter().filter(|one| **one != lonely).map(|one| NodeId(*one as u16)).collect();
            let lonely = NodeId(lonely as u16);
            for other in &others {
                cluster.world.block(lonely, *other);
                cluster.world.block(*other, lonely);
            }
            let host = &cluster.hosts[&i32::from(lonely.0)];
            let replica = host.groups.running(GroupId(1)).expect("it runs");
            for _ in 0..3 {
                replica.elect().await.expect("it is a candidate");
                cluster.client.sleep(Duration::from_millis(1100)).await;
            }
            assert!(replica.role().term.0 > before as u64 + 1);
            for other in &others {
                cluster.world.unblock(lonely, *other);
                cluster.world.unblock(*other, lonely);
            }
            let agreed = async {
                loop {
                    let epochs = cluster.hosts.values().map(|host| host.partition(1).leader_epoch());
                    let epochs: Vec<_> = epochs.collect();
                    let leads = cluster.hosts.values().filter(|host| host.partition(1).leads()).count();
                    if leads == 1 && epochs.iter().all(|epoch| *epoch == epochs[0]) {
                        return;
                    }
                    cluster.client.sleep(Duration::from_millis(20)).await;
                }
            };
            let agreed = cluster.client.timeout(Duration::from_secs(5), agreed).await;
            agreed.unwrap_or_else(|_| panic!("seed {seed}: they do not agree on a leader"));
        });
    }
}

#[test]
fn a_new_leader_serves_when_an_entry_of_its_own_term_is_committed_and_not_before() {
    for seed in 1..4 {
        clustered(seed, |mut cluster| async move {
            cluster.create(1).await;
            cluster.write(1, "0").await;
            let leader = cluster.leader(1).await.broker.0;
            // Voting takes the others a while, and so does taking the first entry of the one that they elect.
            for broker in BROKERS {
                let slow = DiskFaults { slow_sync: 1.0, slow_sync_ms: 400, ..DiskFaults::default() };
                cluster.world.set_disk_faults(NodeId(broker as u16), slow);
            }
            cluster.kill(leader).await;
            let (mut elected, mut serves) = (0, 0);
            while serves == 0 {
                for host in cluster.hosts.values() {
                    let role = host.groups.running(GroupId(1)).expect("it runs").role();
                    let committed = host.partition(1).log().await.expect("open").frontiers().committed;
                    if host.partition(1).leads() {
                        assert_eq!(committed.map(|last| last.term), Some(role.term), "seed {seed}");
                        serves += 1;
                    }
                    elected += usize::from(role.leader.is_some_and(|(_, broker)| broker == host.broker));
                }
                cluster.client.sleep(Duration::from_millis(20)).await;
            }
            assert!(elected > serves, "seed {seed}: it never led without serving");
        });
    }
}

#[test]
fn a_leader_that_has_given_up_may_be_elected_again_in_a_later_term() {
    clustered(1, |cluster| async move {
        cluster.create(1).await;
        cluster.write(1, "0").await;
        let leader = cluster.leader(1).await;
        let before = epoch(&cluster, leader.broker.0);
        let replica = leader.groups.running(GroupId(1)).expect("it runs");
        // As after a transfer that failed: its engine leads, and takes nothing.
        let term = replica.step_back();
        leader.runtime.spawn(async move { replica.shared.gave_up(GroupId(1), term) }).await.expect("said");
        let asked = cluster.client.now();
        cluster.write(1, "1").await;
        assert!(cluster.client.now() - asked < Duration::from_secs(1));
        let leader = cluster.leader(1).await.broker.0;
        assert!(epoch(&cluster, leader) > before);
    });
}

#[test]
fn a_partition_that_is_deleted_while_it_is_opened_leaves_no_replica_behind() {
    for seed in 1..30 {
        clustered(seed, |mut cluster| async move {
            cluster.create(1).await;
            cluster.write(1, "0").await;
            cluster.kill(3).await;
            cluster.restart(3).await;
            let host = &cluster.hosts[&3];
            // Its engine is being started when it goes.
            cluster.client.sleep(Duration::from_micros(100 * seed)).await;
            let groups = host.groups.clone();
            let deleted = host.runtime.spawn(async move { groups.delete(GroupId(1)).await });
            deleted.await.expect("the task").expect("deleted");
            cluster.client.sleep(Duration::from_millis(500)).await;
            assert!(host.groups.running(GroupId(1)).is_none(), "seed {seed}");
        });
    }
}

#[test]
fn a_leader_that_finds_damage_in_what_it_sends_is_to_be_replaced() {
    clustered(1, |mut cluster| async move {
        cluster.create(1).await;
        cluster.kill(3).await;
        for value in numbers(0..40) {
            cluster.write(1, &value.repeat(2_000)).await;
        }
        for broker in [1, 2] {
            let host = &cluster.hosts[&broker];
            let data_dir = host._data_dir.clone();
            host.runtime.spawn(async move { data_dir.checkpoint().expect("written") }).await.expect("the task");
        }
        // What is read from now on is not in memory any more.
        cluster.kill(1).await;
        cluster.restart(1).await;
        let leader = cluster.leader(1).await;
        if leader.broker != BrokerId(1) {
            let partition = leader.partition(1);
            let handed = leader.runtime.spawn(async move { partition.transfer(BrokerId(1)).await });
            handed.await.expect("the task").expect("handed over");
        }
        let segment = Path::new("/data/topic-1-0/00000000000000000000.0000000000.log");
        for _ in 0..20 {
            assert!(cluster.world.flip_bit(NodeId(1), segment));
        }
        cluster.restart(3).await;
        let told = async {
            while !cluster.hosts[&1].partition(1).is_damaged() {
                cluster.client.sleep(Duration::from_millis(20)).await;
            }
        };
        cluster.client.timeout(Duration::from_secs(10), told).await.expect("it notices");
        assert!(cluster.hosts[&1].partition(1).has_failed());
        // The others have it all, and go on.
        cluster.write(1, "more").await;
    });
}
