//! The metadata group: founded once, reopened after any crash, served only when everything before is applied.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millpond_record::{BatchBuilder, LeaderEpoch, RaftIndex, ReplicaId, StampedBatch, Timestamp};
use millpond_runtime::Runtime;

use super::world::{Machine, Remembered, groups, with_crashes};
use crate::{Applier, ApplyError, Groups, MetadataGroup, MetadataStart, RaftError};

fn batch(value: &str) -> Bytes {
    BatchBuilder::new().record(Timestamp(1), Some(b"key"), Some(value.as_bytes())).build()
}

/// Proposes what is decided now.
async fn propose(group: &MetadataGroup, batch: Bytes) -> Result<RaftIndex, RaftError> {
    let term = group.leadership().borrow().term;
    group.propose(batch, term).await
}

async fn metadata(runtime: &Runtime, applier: &Remembered) -> (Groups, MetadataGroup) {
    let groups = groups(runtime).await;
    let metadata = groups.metadata(MetadataStart::Found(ReplicaId(1)), Arc::new(applier.clone())).await;
    (groups, metadata.expect("the metadata group"))
}

#[test]
fn a_proposal_is_applied_when_it_returns() {
    with_crashes(1, |machine: Machine| async move {
        machine
            .live(|runtime| async move {
                let applied = Remembered::default();
                let (_groups, group) = metadata(&runtime, &applied).await;
                // 0 is the membership, 1 the leader's blank.
                assert_eq!(propose(&group, batch("a")).await.expect("applied"), RaftIndex(2));
                assert_eq!(applied.values(), ["a"]);
                assert_eq!(propose(&group, batch("b")).await.expect("applied"), RaftIndex(3));
                assert_eq!(applied.values(), ["a", "b"]);
                assert_eq!(group.log().frontiers().high_watermark.0, 2);
            })
            .await;
    });
}

#[test]
fn it_leads_at_once_without_waiting_for_an_election_timeout() {
    with_crashes(1, |machine: Machine| async move {
        for _ in 0..2 {
            machine
                .live(|runtime| async move {
                    let groups = groups(&runtime).await;
                    let before = runtime.now();
                    let applier = Arc::new(Remembered::default());
                    groups.metadata(MetadataStart::Found(ReplicaId(1)), applier).await.expect("the metadata group");
                    let took = runtime.now() - before;
                    assert!(took < Duration::from_millis(500), "{took:?}");
                })
                .await;
            machine.cut_power();
        }
    });
}

#[test]
fn it_survives_restarts_under_its_first_replica_id_and_in_a_higher_epoch_each_time() {
    with_crashes(2, |machine: Machine| async move {
        let mut epochs: Vec<LeaderEpoch> = Vec::new();
        for round in 0..5u64 {
            let epoch = machine
                .live(move |runtime| async move {
                    let applied = Remembered::default();
                    let groups = groups(&runtime).await;
                    let applier = Arc::new(applied.clone());
                    // Another replica id is offered; the one on disk counts.
                    let group =
                        groups.metadata(MetadataStart::Found(ReplicaId(1 + round)), applier).await.expect("reopened");
                    let before: Vec<String> = (0..round).map(|round| format!("round {round}")).collect();
                    assert_eq!(applied.values(), before, "everything is applied before it serves");
                    propose(&group, batch(&format!("round {round}"))).await.expect("applied");
                    assert_eq!(applied.values().len() as u64, round + 1);
                    assert_eq!(group.log().vote().replica, ReplicaId(1));
                    group.log().vote().term.leader_epoch()
                })
                .await;
            epochs.push(epoch);
            machine.cut_power();
        }
        assert!(epochs.windows(2).all(|pair| pair[0] < pair[1]), "{epochs:?}");
    });
}

#[test]
fn what_was_acknowledged_before_a_power_cut_in_the_middle_of_writes_is_applied_again_in_order() {
    for seed in 0..20 {
        with_crashes(seed, |machine: Machine| async move {
            let acknowledged = Remembered::default();
            for life in 0..4 {
                let acknowledged = acknowledged.clone();
                machine
                    .live_until(20 + 13 * life + seed, move |runtime| async move {
                        let (_groups, group) = metadata(&runtime, &Remembered::default()).await;
                        for number in 0.. {
                            let value = format!("{life}.{number}");
                            let Ok(index) = propose(&group, batch(&value)).await else { return };
                            let stamped = StampedBatch::from_bytes(batch(&value)).expect("a batch");
                            acknowledged.apply(index, &stamped).expect("remembered");
                        }
                    })
                    .await;
            }
            let applied = Remembered::default();
            let after = applied.clone();
            machine.live(|runtime| async move { drop(metadata(&runtime, &after).await) }).await;
            let applied: Vec<(u64, String)> = applied.indexes().into_iter().zip(applied.values()).collect();
            assert!(applied.is_sorted(), "applied in order of the log");
            for pair in acknowledged.indexes().into_iter().zip(acknowledged.values()) {
                assert!(applied.contains(&pair), "{pair:?} was acknowledged");
            }
        });
    }
}

#[test]
fn a_record_that_cannot_be_applied_stops_the_group_and_says_why() {
    struct Refuses;
    impl Applier for Refuses {
        fn apply(&self, _: RaftIndex, _: &StampedBatch) -> Result<(), ApplyError> {
            Err(ApplyError("unknown record type 99".to_owned()))
        }
    }
    with_crashes(1, |machine: Machine| async move {
        machine
            .live(|runtime| async move {
                let groups = groups(&runtime).await;
                let group =
                    groups.metadata(MetadataStart::Found(ReplicaId(1)), Arc::new(Refuses)).await.expect("founded");
                let refused = propose(&group, batch("x")).await.expect_err("not applied");
                assert!(matches!(refused, RaftError::Fatal { .. }), "{refused}");
                let failed = group.failed().await.to_string();
                assert!(failed.contains("unknown record type 99"), "{failed}");
            })
            .await;
    });
}

#[test]
fn it_takes_proposals_after_minutes_of_silence() {
    with_crashes(1, |machine: Machine| async move {
        let runtime = machine.world.runtime_for(super::world::NODE);
        let in_task = runtime.clone();
        let late = runtime.spawn(async move {
            let (_groups, group) = metadata(&in_task, &Remembered::default()).await;
            in_task.sleep(Duration::from_secs(300)).await;
            propose(&group, batch("late")).await
        });
        assert_eq!(late.await.expect("the process").expect("it has nobody's lease to lose"), RaftIndex(2));
    });
}

#[test]
fn a_shutdown_closes_it_and_is_no_failure() {
    with_crashes(1, |machine: Machine| async move {
        machine
            .live(|runtime| async move {
                let (groups, group) = metadata(&runtime, &Remembered::default()).await;
                groups.shutdown().await;
                assert!(matches!(group.failed().await, RaftError::Closed(_)));
                let refused = propose(&group, batch("late")).await.expect_err("closed");
                assert!(matches!(refused, RaftError::Closed(_)), "{refused}");
            })
            .await;
    });
}

#[test]
fn bytes_that_are_no_batch_are_refused_before_the_log_sees_them() {
    with_crashes(1, |machine: Machine| async move {
        machine
            .live(|runtime| async move {
                let (_groups, group) = metadata(&runtime, &Remembered::default()).await;
                let last = group.log().frontiers().last;
                let refused = propose(&group, Bytes::from_static(b"not a batch")).await.expect_err("refused");
                assert!(matches!(refused, RaftError::BadBatch(_)), "{refused}");
                assert_eq!(group.log().frontiers().last, last);
            })
            .await;
    });
}

#[test]
fn a_batch_that_fits_into_no_journal_file_is_refused_and_the_group_goes_on() {
    with_crashes(1, |machine: Machine| async move {
        machine
            .live(|runtime| async move {
                let remembered = Remembered::default();
                let (_groups, group) = metadata(&runtime, &remembered).await;
                let refused =
                    propose(&group, batch(&"x".repeat(1 << 20))).await.expect_err("the journal's files have 1 MiB");
                assert!(matches!(refused, RaftError::TooLarge { .. }), "{refused}");
                propose(&group, batch("small")).await.expect("applied");
                assert_eq!(remembered.values(), ["small"]);
            })
            .await;
    });
}
