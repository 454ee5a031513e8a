//! The log start of a partition: moved through the gate, kept through crashes, and moved by what retention asks for.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::join_all;
use millpond_record::{GroupId, Offset, Timestamp};
use millpond_storage::Limits;

use super::world::{Machine, batches, groups, proposal, relaxed, spec, with_crashes};
use crate::Acks;

const BY_SIZE: Limits = Limits { retention_ms: None, retention_bytes: Some(0) };
const BY_AGE: Limits = Limits { retention_ms: Some(1_000), retention_bytes: None };

#[test]
fn a_log_start_that_was_acknowledged_is_there_after_a_power_cut() {
    for spec in [spec(1), relaxed(1)] {
        with_crashes(1, |machine: Machine| async move {
            machine
                .live(|runtime| async move {
                    let partition = super::world::create(&groups(&runtime).await, spec).await.expect("a new partition");
                    let batches = (0..5).map(|n| partition.propose(proposal(&n.to_string()), Acks::All, None));
                    join_all(batches).await;
                    let moved = partition.move_log_start(Offset(3)).await.expect("durable");
                    assert_eq!(moved.log_start, Offset(3));
                    let next = partition.propose(proposal("5"), Acks::All, None).await.expect("written");
                    assert_eq!((next.base_offset, next.log_start), (Offset(5), Offset(3)));
                    // Down it never moves, nor beyond what is committed.
                    for asked in [0, 2] {
                        partition.move_log_start(Offset(asked)).await.expect("durable");
                    }
                    partition.move_log_start(Offset(4)).await.expect("durable");
                    let log = partition.log().await.expect("open");
                    assert_eq!(log.frontiers().log_start, Offset(4));
                })
                .await;
            machine.cut_power();
            machine
                .live(|runtime| async move {
                    let partition = groups(&runtime).await.partition(GroupId(1)).expect("known");
                    let log = partition.log().await.expect("open");
                    let frontiers = log.frontiers();
                    assert!(frontiers.log_start <= frontiers.high_watermark);
                    if log.options().flush == millpond_storage::FlushMode::Durable {
                        assert_eq!((frontiers.log_start, frontiers.log_end), (Offset(4), Offset(6)));
                        let left: Vec<i64> = batches(&runtime, &log).await.iter().map(|batch| batch.0).collect();
                        assert_eq!(left, [4, 5]);
                    }
                })
                .await;
        });
    }
}

#[test]
fn moves_wait_at_the_gate_in_the_order_of_their_proposal() {
    with_crashes(2, |machine: Machine| async move {
        machine
            .live(|runtime| async move {
                let partition = super::world::create(&groups(&runtime).await, spec(1)).await.expect("a new partition");
                join_all((0..3).map(|_| partition.propose(proposal("x"), Acks::All, None))).await;
            })
            .await;
        machine.cut_power();
        machine
            .live(|runtime| async move {
                let partition = groups(&runtime).await.partition(GroupId(1)).expect("known");
                let first = partition.propose(proposal("y"), Acks::All, None);
                let moved = partition.move_log_start(Offset(2));
                let second = partition.propose(proposal("z"), Acks::All, None);
                let (first, moved, second) = (first.await, moved.await, second.await);
                assert_eq!(first.expect("written").base_offset, Offset(3));
                assert_eq!(moved.expect("durable").log_start, Offset(2));
                assert_eq!(second.expect("written").base_offset, Offset(4));
                assert_eq!(partition.log().await.expect("open").frontiers().log_start, Offset(2));
            })
            .await;
    });
}

#[test]
fn retention_deletes_what_its_limits_let_go_and_a_partition_that_sleeps_tells_without_being_opened() {
    with_crashes(3, |machine: Machine| async move {
        machine
            .live(|runtime| async move {
                let data_dir = super::world::open(&runtime, Path::new("/data")).await;
                let groups = super::world::start(&runtime, data_dir.clone());
                let partition = super::world::create(&groups, spec(1)).await.expect("a new partition");
                assert!(!partition.retained().expect("known").freeable);
                join_all((0..3).map(|_| partition.propose(proposal("x"), Acks::All, None))).await;
                let nothing = Limits { retention_bytes: Some(1 << 20), ..Limits::default() };
                assert_eq!(partition.retain(|| nothing).await.expect("looked").moved, None);
                groups.shutdown().await;
                super::world::close(&runtime, data_dir).await;
            })
            .await;
        machine
            .live(|runtime| async move {
                let data_dir = super::world::open(&runtime, Path::new("/data")).await;
                let groups = super::world::start(&runtime, data_dir.clone());
                let partition = groups.partition(GroupId(1)).expect("known");
                let asleep = partition.retained().expect("known");
                assert_eq!(data_dir.stats().open_logs, 0);
                // The records are of 1970.
                assert!(
                    asleep.bytes > 100 && asleep.oldest_newest.is_some_and(|newest| newest.record == Timestamp(1)),
                    "{asleep:?}"
                );
                let done = partition.retain(|| BY_AGE).await.expect("done");
                assert_eq!((done.moved, done.awaits_checkpoint), (Some(Offset(3)), true));
                let next = partition.propose(proposal("y"), Acks::All, None).await.expect("written");
                assert_eq!((next.base_offset, next.log_start), (Offset(3), Offset(3)));
                assert_eq!(partition.retain(|| BY_SIZE).await.expect("done").moved, Some(Offset(4)));
                assert_eq!(partition.retain(|| BY_SIZE).await.expect("done").moved, None);
                groups.shutdown().await;
                super::world::close(&runtime, data_dir).await;
            })
            .await;
    });
}

#[test]
fn limits_that_change_while_retention_decides_count_as_they_are_then() {
    with_crashes(4, |machine: Machine| async move {
        machine
            .live(|runtime| async move {
                let partition = super::world::create(&groups(&runtime).await, spec(1)).await.expect("a new partition");
                join_all((0..3).map(|_| partition.propose(proposal("x"), Acks::All, None))).await;
                let asked = AtomicUsize::new(0);
                let raised = || if asked.fetch_add(1, Ordering::Relaxed) == 0 { BY_SIZE } else { Limits::default() };
                assert_eq!(partition.retain(raised).await.expect("looked").moved, None);
                assert!(asked.load(Ordering::Relaxed) > 2, "it decided once more");
                let lowered = || if asked.fetch_sub(1, Ordering::Relaxed) > 3 { Limits::default() } else { BY_SIZE };
                assert_eq!(partition.retain(lowered).await.expect("done").moved, Some(Offset(3)));
            })
            .await;
    });
}
