//! Replicas that cannot be brought up by entries alone.

use millpond_record::RaftIndex;
use millpond_storage::{Entries, Limits, Log, LogOptions};

use super::*;

const GROUP: u64 = 1;
/// Some values to a segment.
const SEGMENT_BYTES: u32 = 1_000;

impl Host {
    async fn log(&self) -> Arc<Log> {
        let partition = self.partition(GROUP);
        let log = self.runtime.spawn(async move { partition.log().await });
        log.await.expect("the task").expect("open")
    }

    /// Every entry that it has: index, term, bytes.
    async fn entries(&self) -> Vec<(u64, u64, Bytes)> {
        let log = self.log().await;
        let reading = self.runtime.clone();
        let read = self.runtime.spawn(async move {
            let (mut all, mut next) = (Vec::new(), RaftIndex(0));
            loop {
                let read = match log.entries(next, RaftIndex(u64::MAX), 1 << 20).expect("readable") {
                    Entries::Ready(entries) => entries,
                    Entries::Cold(cold) => reading.blocking(move || cold.run()).await.expect("readable"),
                };
                let Some((last, _)) = read.last() else { return all };
                next = RaftIndex(last.index.0 + 1);
                all.extend(read.into_iter().map(|(id, batch)| (id.index.0, id.term.0, batch.to_bytes())));
            }
        });
        read.await.expect("read")
    }

    async fn checkpoint(&self) {
        let data_dir = self._data_dir.clone();
        let written = self.runtime.spawn({
            let runtime = self.runtime.clone();
            async move { runtime.blocking(move || data_dir.checkpoint()).await }
        });
        written.await.expect("the task").expect("a checkpoint");
    }

    /// Lets go of what is below the log start, as the broker's upkeep does.
    async fn free(&self) {
        let partition = self.partition(GROUP);
        let unlimited = || Limits { retention_ms: None, retention_bytes: None };
        let freed = self.runtime.spawn(async move { partition.retain(unlimited).await });
        freed.await.expect("the task").expect("retained");
        self.checkpoint().await;
        self.checkpoint().await;
    }
}

impl Cluster {
    async fn create_with_small_segments(&self) {
        self.create(GROUP).await;
        for host in self.hosts.values() {
            let options = LogOptions { segment_bytes: SEGMENT_BYTES, ..LogOptions::default() };
            host.log().await.set_options(options).expect("set");
        }
    }

    async fn write_all(&self, values: std::ops::Range<usize>) {
        for value in numbers(values) {
            self.write(GROUP, &value).await;
        }
    }

    async fn move_log_start(&self, offset: i64) {
        let leader = self.leader(GROUP).await;
        let partition = leader.partition(GROUP);
        let moved = leader.runtime.spawn(async move { partition.move_log_start(Offset(offset)).await });
        moved.await.expect("the task").expect("moved");
    }
}

#[test]
fn a_replica_that_was_away_while_retention_took_what_it_lacks_is_filled_by_segments() {
    for seed in 1..4 {
        clustered(seed, |mut cluster| async move {
            cluster.create_with_small_segments().await;
            cluster.write_all(0..20).await;
            cluster.kill(3).await;
            cluster.write_all(20..120).await;
            cluster.move_log_start(60).await;
            for broker in [1, 2] {
                cluster.has(broker, GROUP, &numbers(60..120)).await;
                let host = &cluster.hosts[&broker];
                host.free().await;
                let log = host.log().await;
                assert!(log.purged().is_some_and(|p| p.offset > Offset(20)), "{:?}", log.purged());
                assert!(log.log_id_at(RaftIndex(20)).is_none(), "the entries are gone");
            }
            cluster.write_all(120..130).await;
            cluster.restart(3).await;
            cluster.has(3, GROUP, &numbers(60..130)).await;
            // It takes part again: with it alone there is a majority.
            cluster.kill(2).await;
            cluster.write_all(130..140).await;
            cluster.has(3, GROUP, &numbers(60..140)).await;
            cluster.restart(2).await;
            cluster.has(2, GROUP, &numbers(60..140)).await;
        });
    }
}

#[test]
fn a_new_replica_gets_closed_segments_as_files_and_the_rest_by_raft() {
    clustered(11, |mut cluster| async move {
        cluster.create_with_small_segments().await;
        cluster.write_all(0..100).await;
        let (added, host) = (ReplicaId(900), &cluster.hosts[&3]);
        let new: Vec<(ReplicaId, BrokerId)> =
            vec![(replica_of(GROUP, 1), BrokerId(1)), (replica_of(GROUP, 2), BrokerId(2)), (added, BrokerId(3))];
        // The broker's disk was lost: the replica that it had is replaced by another.
        let (groups, members, here) = (host.groups.clone(), new.clone(), host.runtime.clone());
        let replaced = host.runtime.spawn(async move {
            groups.delete(GroupId(GROUP)).await.expect("deleted");
            let spec = GroupSpec { replica: added, ..spec(GROUP) };
            // The one before is deleted in the background.
            for _ in 0..1_000 {
                if groups.create(spec.clone(), &members, 2).await.is_ok() {
                    return;
                }
                here.sleep(Duration::from_millis(10)).await;
            }
            panic!("the deleted replica stays in the way");
        });
        replaced.await.expect("the task");
        let leader = cluster.leader(GROUP).await;
        let partition = leader.partition(GROUP);
        let changed = leader.runtime.spawn(async move { partition.change_members(&new, 2).await });
        changed.await.expect("the task").expect("changed");
        cluster.has(3, GROUP, &numbers(0..100)).await;
        let log = cluster.hosts[&3].log().await;
        assert!(log.purged().is_some_and(|p| p.offset > Offset(50)), "{:?}", log.purged());
        cluster.kill(1).await;
        cluster.write_all(100..110).await;
        cluster.has(3, GROUP, &numbers(0..110)).await;
        cluster.kill(3).await;
        cluster.restart(1).await;
        cluster.restart(3).await;
        cluster.has(3, GROUP, &numbers(0..110)).await;
    });
}

#[test]
fn the_entries_of_all_replicas_are_the_same_bytes_those_of_the_engine_too() {
    clustered(12, |mut cluster| async move {
        cluster.create_with_small_segments().await;
        cluster.write_all(0..10).await;
        // Blanks of later terms, and memberships that are not the founding one.
        cluster.kill(1).await;
        cluster.write_all(10..20).await;
        cluster.restart(1).await;
        let leader = cluster.leader(GROUP).await;
        let (partition, same) = (leader.partition(GROUP), members(GROUP));
        let changed = leader.runtime.spawn(async move { partition.change_members(&same, 2).await });
        changed.await.expect("the task").expect("changed");
        cluster.write_all(20..30).await;
        for broker in BROKERS {
            cluster.has(broker, GROUP, &numbers(0..30)).await;
        }
        let first = cluster.hosts[&1].entries().await;
        assert!(first.len() >= 30 + 4, "{} entries", first.len());
        for broker in [2, 3] {
            assert!(cluster.hosts[&broker].entries().await == first, "broker {broker} has other bytes");
        }
    });
}

#[test]
fn members_are_not_left_for_ones_of_whom_too_many_are_gone() {
    clustered(8, |mut cluster| async move {
        cluster.create_with_small_segments().await;
        cluster.write_all(0..1).await;
        let leader = cluster.leader(GROUP).await.broker.0;
        let [gone, left] = BROKERS.into_iter().filter(|broker| *broker != leader).collect::<Vec<_>>()[..] else {
            unreachable!("three less one")
        };
        cluster.has(gone, GROUP, &numbers(0..1)).await;
        cluster.kill(gone).await;
        // What it answered in its last moment has come.
        cluster.client.sleep(Duration::from_millis(100)).await;
        let host = &cluster.hosts[&leader];
        let target: Vec<_> = members(GROUP).into_iter().filter(|(_, broker)| broker.0 != left).collect();
        let change = |target: Vec<_>| {
            let partition = host.partition(GROUP);
            host.runtime.spawn(async move { partition.change_members(&target, 2).await })
        };
        let waits = cluster.client.timeout(Duration::from_secs(5), change(target.clone())).await;
        assert!(waits.is_err(), "{waits:?}");
        assert_eq!(host.partition(GROUP).members_version(), Some((1, true)), "nothing was begun");
        cluster.write_all(1..2).await;
        cluster.restart(gone).await;
        // The first call may be at it, too, and the second is refused then.
        let mut tries = 0;
        while cluster.leader(GROUP).await.partition(GROUP).members_version() != Some((2, true)) {
            tries += 1;
            let host = cluster.leader(GROUP).await;
            let (partition, target) = (host.partition(GROUP), target.clone());
            let changed = host.runtime.spawn(async move { partition.change_members(&target, 2).await });
            let changed = changed.await.expect("the task");
            assert!(tries < 1_000, "{changed:?}");
            cluster.client.sleep(Duration::from_millis(10)).await;
        }
        cluster.has(gone, GROUP, &numbers(0..2)).await;
    });
}

#[test]
fn a_former_leader_whose_tail_goes_beyond_p_is_filled_by_segments() {
    for seed in 1..4 {
        clustered(seed, |mut cluster| async move {
            cluster.create_with_small_segments().await;
            cluster.write_all(0..40).await;
            let former = cluster.leader(GROUP).await.broker.0;
            let others = BROKERS.into_iter().filter(|broker| *broker != former);
            for other in others.clone() {
                cluster.kill(other).await;
            }
            let host = &cluster.hosts[&former];
            let partition = host.partition(GROUP);
            let appended = host.runtime.spawn(async move {
                for value in numbers(1_000..1_200) {
                    partition.propose(proposal(&value), Acks::Leader, None).await.expect("appended");
                }
            });
            appended.await.expect("the task");
            let tail = host.log().await.frontiers().last.expect("entries");
            // The journal has it by then.
            cluster.client.sleep(Duration::from_secs(1)).await;
            cluster.kill(former).await;
            for other in others {
                cluster.restart(other).await;
            }
            cluster.write_all(40..140).await;
            let leader = cluster.leader(GROUP).await;
            let partition = leader.partition(GROUP);
            let moved = leader.runtime.spawn(async move {
                let replica = partition.replica().await.expect("open").expect("several replicas");
                replica.advance_p(|_| true).await
            });
            let p = moved.await.expect("the task").expect("moved").expect("a closed segment");
            assert!(p.index > RaftIndex(60) && p.index < tail.index, "{p}, and the former leader has {tail}");
            cluster.restart(former).await;
            cluster.has(former, GROUP, &numbers(0..140)).await;
            let filled = cluster.hosts[&former].log().await.purged().map(|purged| purged.log_id());
            assert_eq!(filled, Some(p));
        });
    }
}
