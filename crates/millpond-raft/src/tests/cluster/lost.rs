//! Pairs of replicas of which one is on a disk that is lost.

use millpond_record::GroupId;

use super::*;
use crate::RaftError;

const GROUP: u64 = 1;

/// A group of replicas on these brokers.
async fn create_on(cluster: &Cluster, brokers: &[i32]) {
    let members: Vec<_> = brokers.iter().map(|broker| (replica_of(GROUP, *broker), BrokerId(*broker))).collect();
    let made = brokers.iter().map(|broker| {
        let spec = GroupSpec { replica: replica_of(GROUP, *broker), ..spec(GROUP) };
        let (groups, members) = (cluster.hosts[broker].groups.clone(), members.clone());
        cluster.hosts[broker].runtime.spawn(async move { groups.create(spec, &members, 1).await })
    });
    for made in join_all(made).await {
        made.expect("the task").expect("a replica");
    }
}

async fn written(cluster: &Cluster, range: std::ops::Range<usize>) {
    for value in numbers(range) {
        cluster.write(GROUP, &value).await;
    }
}

fn know_lost(cluster: &Cluster, broker: i32, lost: &[i32]) {
    let lost = lost.iter().map(|broker| (replica_of(GROUP, *broker), BrokerId(*broker))).collect();
    cluster.hosts[&broker].groups.set_lost(GroupId(GROUP), lost);
}

/// That nothing is acknowledged for a while.
async fn takes_nothing(cluster: &Cluster, broker: i32) {
    // Until it is noticed who is dead.
    cluster.client.sleep(Duration::from_secs(2)).await;
    for _ in 0..20 {
        let refused = cluster.hosts[&broker].write(GROUP, "lost").await;
        assert!(
            matches!(refused, Err(ProposeError::NotLeader | ProposeError::NotEnoughReplicas { .. })),
            "{refused:?}"
        );
        cluster.client.sleep(Duration::from_millis(100)).await;
    }
}

#[test]
fn the_other_one_of_two_goes_on_alone_and_is_joined_by_a_new_one() {
    // Whether the one that leads is lost, or the other one; and whether that is known before it is away or later.
    for (seed, (stays, lost)) in [(1, (1, 2)), (2, (2, 1)), (3, (2, 1))] {
        clustered(seed, |mut cluster| async move {
            create_on(&cluster, &[1, 2]).await;
            written(&cluster, 0..20).await;
            cluster.kill(lost).await;
            takes_nothing(&cluster, stays).await;
            if seed == 3 {
                cluster.kill(stays).await;
                cluster.restart(stays).await;
                cluster.client.sleep(Duration::from_secs(1)).await;
            }
            know_lost(&cluster, stays, &[lost]);
            let before = cluster.client.now();
            cluster.write(GROUP, "20").await;
            let took = cluster.client.now() - before;
            assert!(took < Duration::from_secs(2), "seed {seed}: {took:?}");
            written(&cluster, 21..30).await;
            let host = &cluster.hosts[&stays];
            let partition = host.partition(GROUP);
            let sure = partition.clone();
            let asked = host.runtime.spawn(async move { sure.surely_leads(Duration::from_secs(1)).await });
            assert!(asked.await.expect("the task"), "it needs nobody");
            let known = partition.progress().into_iter().find(|member| member.replica == replica_of(GROUP, lost));
            assert_eq!(known.expect("a member").matched, None, "nobody has what is answered for it");
            let to = partition.clone();
            let handed = host.runtime.spawn(async move { to.transfer(BrokerId(lost)).await });
            let refused = handed.await.expect("the task");
            assert!(matches!(refused, Err(RaftError::NoReplicaOn { .. })), "{refused:?}");
            let members = [(replica_of(GROUP, stays), BrokerId(stays)), (replica_of(GROUP, 3), BrokerId(3))];
            let spec = GroupSpec { replica: replica_of(GROUP, 3), ..spec(GROUP) };
            let groups = cluster.hosts[&3].groups.clone();
            let made = cluster.hosts[&3].runtime.spawn(async move { groups.create(spec, &members, 2).await });
            made.await.expect("the task").expect("a replica");
            let changed = host.runtime.spawn(async move { partition.change_members(&members, 2).await });
            let changed = cluster.client.timeout(SOON, changed).await;
            changed.expect("in time").expect("the task").expect("changed");
            cluster.has(3, GROUP, &numbers(0..30)).await;
            // They are a pair like any other.
            cluster.kill(3).await;
            takes_nothing(&cluster, stays).await;
            cluster.restart(3).await;
            cluster.write(GROUP, "30").await;
            cluster.has(3, GROUP, &numbers(0..31)).await;
        });
    }
}

#[test]
fn of_three_nobody_decides_for_one_that_is_lost() {
    clustered(1, |mut cluster| async move {
        create_on(&cluster, &[1, 2, 3]).await;
        written(&cluster, 0..5).await;
        cluster.kill(2).await;
        cluster.kill(3).await;
        know_lost(&cluster, 1, &[3]);
        takes_nothing(&cluster, 1).await;
        cluster.restart(2).await;
        written(&cluster, 5..6).await;
        cluster.has(2, GROUP, &numbers(0..6)).await;
    });
}

#[test]
fn one_whose_own_disk_is_lost_decides_for_nobody() {
    clustered(1, |mut cluster| async move {
        create_on(&cluster, &[1, 2]).await;
        written(&cluster, 0..5).await;
        cluster.kill(2).await;
        know_lost(&cluster, 1, &[1, 2]);
        takes_nothing(&cluster, 1).await;
    });
}

#[test]
fn a_batch_on_its_way_to_two_replicas_is_not_acknowledged_with_one() {
    clustered(1, |mut cluster| async move {
        create_on(&cluster, &[1, 2]).await;
        written(&cluster, 0..5).await;
        let partition = cluster.hosts[&1].partition(GROUP);
        partition.set_min_insync(2);
        cluster.kill(2).await;
        let (proposing, proposal) = (partition.clone(), proposal("alone"));
        let writing =
            cluster.hosts[&1].runtime.spawn(async move { proposing.propose(proposal, Acks::All, None).await });
        cluster.client.sleep(Duration::from_millis(50)).await;
        know_lost(&cluster, 1, &[2]);
        let waited = cluster.client.timeout(Duration::from_secs(5), writing).await;
        assert!(waited.is_err(), "{waited:?}");
        assert_eq!(partition.watch().borrow().frontiers.log_end, Offset(6), "it is there");
    });
}

#[test]
fn a_batch_that_asks_for_two_replicas_is_not_taken_by_one() {
    clustered(1, |mut cluster| async move {
        create_on(&cluster, &[1, 2]).await;
        written(&cluster, 0..5).await;
        cluster.hosts[&1].partition(GROUP).set_min_insync(2);
        cluster.kill(2).await;
        know_lost(&cluster, 1, &[2]);
        takes_nothing(&cluster, 1).await;
        cluster.hosts[&1].partition(GROUP).set_min_insync(1);
        cluster.write(GROUP, "5").await;
    });
}
