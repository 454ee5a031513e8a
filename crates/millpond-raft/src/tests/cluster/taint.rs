//! Replicas of relaxed groups whose machines lost power.

use millpond_record::GroupId;

use super::*;
use crate::tests::world::relaxed;

const GROUP: u64 = 1;

async fn create_relaxed(cluster: &Cluster) {
    let made = cluster.hosts.values().map(|host| {
        let spec = GroupSpec { replica: replica_of(GROUP, host.broker.0), ..relaxed(GROUP) };
        let groups = host.groups.clone();
        host.runtime.spawn(async move { groups.create(spec, &members(GROUP), 1).await })
    });
    for made in join_all(made).await {
        made.expect("the task").expect("a replica");
    }
}

async fn crash(cluster: &mut Cluster, broker: i32, kind: Crash) {
    cluster.world.crash(NodeId(broker as u16), kind);
    cluster.hosts.remove(&broker);
}

/// What there is on a broker, asked by a task of it.
async fn remains(cluster: &Cluster, broker: i32) -> Option<crate::Remains> {
    let host = &cluster.hosts[&broker];
    let partition = host.partition(GROUP);
    host.runtime.spawn(async move { partition.remains().await }).await.expect("the task")
}

/// The second and third broker are back, of which the second lost power, and the third lacks what was acknowledged
/// last; the first is away.
async fn two_are_back(cluster: &mut Cluster) {
    create_relaxed(cluster).await;
    for value in numbers(0..10) {
        cluster.write(GROUP, &value).await;
    }
    cluster.has(3, GROUP, &numbers(0..10)).await;
    crash(cluster, 3, Crash::Kill).await;
    for value in numbers(10..20) {
        cluster.write(GROUP, &value).await;
    }
    crash(cluster, 2, Crash::PowerCut).await;
    crash(cluster, 1, Crash::Kill).await;
    cluster.restart(2).await;
    cluster.restart(3).await;
}

#[test]
fn a_replica_that_lost_power_makes_no_leader_of_one_that_lacks_what_was_acknowledged() {
    clustered(1, |mut cluster| async move {
        two_are_back(&mut cluster).await;
        cluster.client.sleep(Duration::from_secs(10)).await;
        for (broker, tainted) in [(2, true), (3, false)] {
            let partition = cluster.hosts[&broker].partition(GROUP);
            assert_eq!((partition.is_tainted(), partition.leads(), partition.has_failed()), (tainted, false, false));
            let found = remains(&cluster, broker).await.expect("a copy");
            assert_eq!(found.tainted, tainted, "broker {broker}");
            let voters = BROKERS.map(|broker| replica_of(GROUP, broker)).into();
            assert_eq!(found.electorates, vec![voters]);
        }
        assert_eq!(cluster.hosts[&2].groups.tainted(), [GroupId(GROUP)]);
        assert!(cluster.hosts[&2].groups.running(GroupId(GROUP)).is_none(), "it has no Raft object");
        let refused = cluster.hosts[&2].write(GROUP, "lost").await;
        assert!(matches!(refused, Err(ProposeError::NotLeader)), "{refused:?}");
        cluster.restart(1).await;
        for broker in [1, 3] {
            cluster.has(broker, GROUP, &numbers(0..20)).await;
        }
        cluster.write(GROUP, "20").await;
        assert!(cluster.hosts[&2].partition(GROUP).is_tainted(), "the others replace it");
    });
}

async fn trust(cluster: &Cluster, broker: i32) {
    let host = &cluster.hosts[&broker];
    let until_tainted = async {
        while !host.partition(GROUP).is_tainted() {
            cluster.client.sleep(Duration::from_millis(5)).await;
        }
    };
    cluster.client.timeout(SOON, until_tainted).await.expect("tainted");
    let groups = host.groups.clone();
    let trusted = host.runtime.spawn(async move { groups.trust(GroupId(GROUP), replica_of(GROUP, broker)).await });
    trusted.await.expect("the task").expect("trusted");
}

#[test]
fn a_trusted_replica_gets_again_what_it_lost_from_a_leader_that_leads_on() {
    for seed in 1..8 {
        clustered(seed, |mut cluster| async move {
            create_relaxed(&cluster).await;
            crash(&mut cluster, 3, Crash::Kill).await;
            for value in numbers(0..20) {
                cluster.write(GROUP, &value).await;
            }
            // The leader has heard of it that it has all of this.
            crash(&mut cluster, 2, Crash::PowerCut).await;
            cluster.restart(2).await;
            trust(&cluster, 2).await;
            cluster.write(GROUP, "20").await;
            for broker in [1, 2] {
                cluster.has(broker, GROUP, &numbers(0..21)).await;
            }
        });
    }
}

#[test]
fn a_replica_that_is_trusted_takes_part_also_after_the_next_start() {
    clustered(2, |mut cluster| async move {
        two_are_back(&mut cluster).await;
        let host = &cluster.hosts[&2];
        let groups = host.groups.clone();
        let trusted = host.runtime.spawn(async move { groups.trust(GroupId(GROUP), replica_of(GROUP, 3)).await });
        assert!(trusted.await.expect("the task").is_err(), "that replica is elsewhere");
        trust(&cluster, 2).await;
        cluster.write(GROUP, "further").await;
        let expected = cluster.hosts[&3].values(GROUP).await;
        cluster.has(2, GROUP, &expected).await;
        assert_eq!(expected[..10], numbers(0..10), "a majority has had these");
        crash(&mut cluster, 2, Crash::Kill).await;
        cluster.restart(2).await;
        cluster.has(2, GROUP, &expected).await;
        cluster.restart(1).await;
        cluster.write(GROUP, "last").await;
        let expected = [expected, vec!["last".to_owned()]].concat();
        for broker in BROKERS {
            cluster.has(broker, GROUP, &expected).await;
        }
    });
}

#[test]
fn a_leader_is_elected_by_the_vote_of_a_replica_whose_disk_is_full() {
    for seed in 1..4 {
        clustered(seed, |mut cluster| async move {
            create_relaxed(&cluster).await;
            cluster.write(GROUP, "0").await;
            assert_eq!(cluster.leader(GROUP).await.broker, BrokerId(1));
            let full = DiskFaults { capacity_bytes: 0, full_in: ".log", ..DiskFaults::default() };
            cluster.world.set_disk_faults(NodeId(3), full);
            // The third takes one more into memory, and then no more: only the second can win.
            for value in numbers(1..4) {
                cluster.write(GROUP, &value).await;
            }
            cluster.kill(1).await;
            // It serves when there is room for what it writes first; but it leads, and so knows how far others are.
            let leads = || cluster.hosts[&2].partition(GROUP).progress().iter().any(|member| member.matched.is_some());
            let elected = async {
                while !leads() {
                    cluster.client.sleep(Duration::from_millis(5)).await;
                }
            };
            cluster.client.timeout(Duration::from_secs(4), elected).await.expect("two of three are alive");
        });
    }
}
