//! A partition with one replica: the gate keeps the order, acknowledgements their promise, each life has its epoch.

use std::path::Path;
use std::sync::{Arc, Mutex};

use futures::FutureExt;
use futures::future::join_all;
use millpond_record::{GroupId, LeaderEpoch, Offset};
use millpond_runtime::Runtime;
use millpond_runtime::sim::DiskFaults;
use millpond_storage::{GroupSpec, SequenceError};

use super::world::{
    Machine, NODE, batches, close, groups, on_the_real_disk, open, proposal, relaxed, sequenced, simulated, spec,
    with_crashes,
};
use crate::{Acks, Groups, Partition, ProposeError, RaftError};

/// A partition on a fresh data directory, with the groups that it belongs to.
async fn fresh(runtime: &Runtime, path: &Path, spec: GroupSpec) -> (Groups, Partition) {
    let groups = super::world::start(runtime, open(runtime, path).await);
    let partition = super::world::create(&groups, spec).await.expect("a new partition");
    (groups, partition)
}

async fn finishes_what_an_earlier_attempt_began(runtime: Runtime, path: std::path::PathBuf) {
    let data_dir = open(&runtime, &path).await;
    let groups = super::world::start(&runtime, data_dir.clone());
    let (done, durable) = tokio::sync::oneshot::channel();
    let made = data_dir.clone();
    let group = runtime.blocking(move || made.create_group(spec(1), Box::new(move |result| drop(done.send(result)))));
    drop(group.await.expect("a group without entries"));
    durable.await.expect("called").expect("durable");
    let partition = super::world::create(&groups, spec(1)).await.expect("the rest of it");
    let written = partition.propose(proposal("a"), Acks::All, None).await.expect("written");
    assert_eq!(written.base_offset, Offset(0));
    groups.shutdown().await;
    close(&runtime, data_dir).await;
}

#[test]
fn a_partition_whose_making_was_interrupted_is_made_by_the_next_attempt() {
    on_the_real_disk(finishes_what_an_earlier_attempt_began);
    simulated(1, finishes_what_an_earlier_attempt_began);
}

#[test]
fn a_copy_that_cannot_be_used_is_a_partition_that_has_failed_and_hinders_no_attempt_to_make_it() {
    with_crashes(1, |machine: Machine| async move {
        let world = machine.world.clone();
        machine
            .live(|runtime| async move {
                let data_dir = open(&runtime, Path::new("/data")).await;
                let groups = super::world::start(&runtime, data_dir.clone());
                let folder = DiskFaults { sync_error: 1.0, sync_error_in: "/topic-1-0", ..DiskFaults::default() };
                world.set_disk_faults(NODE, folder);
                let partition = super::world::create(&groups, spec(1)).await.expect("made, as far as it goes");
                runtime.blocking(move || data_dir.checkpoint()).await.expect("of all the others");
                let refused = partition.propose(proposal("a"), Acks::All, None).await.expect_err("it is set aside");
                assert!(matches!(refused, ProposeError::Fatal(_)) && partition.has_failed(), "{refused}");
                world.set_disk_faults(NODE, DiskFaults::default());
                let again = super::world::create(&groups, spec(1)).await.expect("it is there, such as it is");
                assert!(again.has_failed());
                super::world::create(&groups, spec(2)).await.expect("another");
            })
            .await;
        machine.cut_power();
        machine
            .live(|runtime| async move {
                let groups = groups(&runtime).await;
                for partition in [groups.partition(GroupId(1)), super::world::create(&groups, spec(1)).await.ok()] {
                    assert!(partition.expect("it is known").has_failed());
                }
                let whole = groups.partition(GroupId(2)).expect("it is known");
                whole.propose(proposal("b"), Acks::All, None).await.expect("written");
            })
            .await;
    });
}

async fn keeps_the_order_across_waking(runtime: Runtime, path: std::path::PathBuf) {
    let data_dir = open(&runtime, &path).await;
    let groups = super::world::start(&runtime, data_dir.clone());
    super::world::create(&groups, spec(1)).await.expect("a new partition");
    groups.shutdown().await;
    close(&runtime, data_dir).await;

    let data_dir = open(&runtime, &path).await;
    let groups = super::world::start(&runtime, data_dir.clone());
    let partition = groups.partition(GroupId(1)).expect("known from the table");
    let acks = [Acks::All, Acks::Leader, Acks::None];
    // The first wakes it; others come while it wakes, the last when it serves.
    let early: Vec<_> = (0..30).map(|n| partition.propose(proposal(&n.to_string()), acks[n % 3], None)).collect();
    let written = join_all(early).await;
    let late = partition.propose(proposal("30"), Acks::All, None).await.expect("written");
    let offsets: Vec<i64> = written.into_iter().map(|written| written.expect("written").base_offset.0).collect();
    assert_eq!(offsets, (0..30).collect::<Vec<_>>());
    assert_eq!(late.base_offset, Offset(30));
    let log = partition.log().await.expect("open");
    let expected: Vec<(i64, i32, String)> = (0..31).map(|n| (n, partition.leader_epoch().0, n.to_string())).collect();
    assert_eq!(batches(&runtime, &log).await, expected);
    groups.shutdown().await;
    close(&runtime, data_dir).await;
}

#[test]
fn batches_enter_the_log_in_the_order_of_their_proposal_across_waking() {
    on_the_real_disk(keeps_the_order_across_waking);
    for seed in 0..10 {
        simulated(seed, keeps_the_order_across_waking);
    }
}

#[test]
fn acks_of_the_leader_are_given_at_once_and_acks_of_all_after_the_flush() {
    for spec in [spec(1), relaxed(1)] {
        simulated(1, |runtime, path| async move {
            let durable = spec.options.flush == millpond_storage::FlushMode::Durable;
            let (_groups, partition) = fresh(&runtime, &path, spec).await;
            partition.propose(proposal("awake"), Acks::All, None).await.expect("written");
            let mut state = partition.watch();
            assert_eq!(state.borrow_and_update().frontiers.high_watermark, Offset(1));

            let leader = partition.propose(proposal("leader"), Acks::Leader, None).now_or_never();
            let leader = leader.expect("resolved at once").expect("written");
            let all = partition.propose(proposal("all"), Acks::All, None);
            let mut all = std::pin::pin!(all);
            assert_eq!((&mut all).now_or_never().is_some(), !durable && state.borrow().frontiers.high_watermark.0 == 3);
            if durable {
                assert_eq!(state.borrow().frontiers.high_watermark, Offset(1), "nothing is committed before its flush");
            }
            let all = all.await.expect("written");
            assert_eq!((leader.base_offset, all.base_offset), (Offset(1), Offset(2)));
            assert_eq!(state.borrow().frontiers.high_watermark, Offset(3), "whoever is answered reads what it wrote");
        });
    }
}

#[test]
fn a_duplicate_is_answered_with_the_original_and_not_before_it() {
    simulated(3, |runtime, path| async move {
        let (_groups, partition) = fresh(&runtime, &path, spec(1)).await;
        partition.propose(proposal("awake"), Acks::All, None).await.expect("written");
        let original = partition.propose(sequenced(0), Acks::All, None);
        let duplicate = partition.propose(sequenced(0), Acks::All, None);
        let hasty = partition.propose(sequenced(0), Acks::Leader, None).now_or_never().expect("resolved at once");
        let (mut original, mut duplicate) = (std::pin::pin!(original), std::pin::pin!(duplicate));
        assert!((&mut original).now_or_never().is_none());
        assert!((&mut duplicate).now_or_never().is_none(), "its original is not on disk");
        let duplicate = duplicate.await.expect("written");
        let original = original.now_or_never().expect("the original is answered too").expect("written");
        assert_eq!((original.base_offset, original.duplicate), (Offset(1), false));
        assert_eq!((duplicate.base_offset, duplicate.duplicate), (Offset(1), true));
        assert_eq!(hasty.expect("written").base_offset, Offset(1));

        let later = partition.propose(sequenced(0), Acks::All, None).now_or_never().expect("the original is committed");
        assert!(later.expect("written").duplicate);
        let refused = partition.propose(sequenced(5), Acks::All, None).await.expect_err("a gap");
        let expected = SequenceError::OutOfOrder { found: 5, expected: 1 };
        assert!(matches!(refused, ProposeError::Sequence(error) if error == expected), "{refused}");
        let next = partition.propose(sequenced(1), Acks::All, None).await.expect("in order");
        assert_eq!(next.base_offset, Offset(2), "a refused batch takes no offset");
    });
}

#[test]
fn duplicates_that_wait_at_the_gate_are_answered_too() {
    with_crashes(4, |machine: Machine| async move {
        machine.live(|runtime| async move { drop(fresh(&runtime, Path::new("/data"), spec(1)).await) }).await;
        machine.cut_power();
        machine
            .live(|runtime| async move {
                let groups = groups(&runtime).await;
                let partition = groups.partition(GroupId(1)).expect("known");
                let receipts = [0, 0, 1, 0, 1].map(|sequence| partition.propose(sequenced(sequence), Acks::All, None));
                let written = join_all(receipts).await;
                let written = written.into_iter().map(|written| written.expect("written"));
                let places: Vec<_> = written.map(|written| (written.base_offset.0, written.duplicate)).collect();
                assert_eq!(places, [(0, false), (0, true), (1, false), (0, true), (1, true)]);
            })
            .await;
    });
}

#[test]
fn every_life_has_a_higher_epoch_that_is_known_before_it_and_on_disk_before_the_first_acknowledgement() {
    for relax in [false, true] {
        with_crashes(5, |machine: Machine| async move {
            let spec = if relax { relaxed(1) } else { spec(1) };
            machine.live(|runtime| async move { drop(fresh(&runtime, Path::new("/data"), spec).await) }).await;
            machine.cut_power();
            for life in 1..6 {
                let announced = machine
                    .live(move |runtime| async move {
                        let groups = groups(&runtime).await;
                        let partition = groups.partition(GroupId(1)).expect("known");
                        let announced = partition.leader_epoch();
                        assert_eq!(announced, LeaderEpoch(life));
                        // Acks of the leader are the earliest that there are.
                        partition.propose(proposal("x"), Acks::Leader, None).await.expect("written");
                        let log = partition.log().await.expect("open");
                        assert_eq!(log.vote().term.leader_epoch(), announced);
                        assert_eq!(log.leader_epoch_at(Offset(log.frontiers().log_end.0 - 1)), Some(announced));
                        announced
                    })
                    .await;
                machine.cut_power();
                let vote = machine
                    .live(|runtime| async move {
                        let data_dir = open(&runtime, Path::new("/data")).await;
                        let row = data_dir.groups().into_iter().next().expect("the group");
                        row.vote
                    })
                    .await;
                assert_eq!(vote.term.leader_epoch(), announced, "the vote was on disk");
                assert!(vote.committed);
                machine.cut_power();
            }
        });
    }
}

#[test]
fn reading_opens_a_partition_without_beginning_a_term() {
    with_crashes(6, |machine: Machine| async move {
        machine
            .live(|runtime| async move {
                let (_groups, partition) = fresh(&runtime, Path::new("/data"), spec(1)).await;
                partition.propose(proposal("a"), Acks::All, None).await.expect("written");
            })
            .await;
        machine.cut_power();
        machine
            .live(|runtime| async move {
                let groups = groups(&runtime).await;
                let partition = groups.partition(GroupId(1)).expect("known");
                let mut state = partition.watch();
                assert!(!state.borrow_and_update().serving);
                let (first, second) = (partition.log(), partition.log());
                let (first, second) = futures::join!(first, second);
                let (log, same) = (first.expect("open"), second.expect("open"));
                assert!(Arc::ptr_eq(&log, &same));
                assert!(state.has_changed().expect("watched"));
                let now = *state.borrow_and_update();
                assert!(now.serving);
                assert_eq!(now.frontiers.high_watermark, Offset(1), "what was recovered is committed");
                assert_eq!(batches(&runtime, &log).await, [(0, 1, "a".to_owned())]);
                assert_eq!(log.vote().term.0, 1, "nobody took leadership");
                assert_eq!(partition.leader_epoch(), LeaderEpoch(2));
            })
            .await;
    });
}

#[test]
fn a_power_cut_in_the_middle_of_appends_loses_nothing_acknowledged_and_repeats_nothing() {
    for seed in 0..40 {
        with_crashes(seed, |machine: Machine| async move {
            let acknowledged = Arc::new(Mutex::new(Vec::new()));
            machine.live(|runtime| async move { drop(fresh(&runtime, Path::new("/data"), spec(1)).await) }).await;
            for life in 0..4u64 {
                let acknowledged = Arc::clone(&acknowledged);
                machine
                    .live_until(5 + seed % 7 + 11 * life, move |runtime| async move {
                        let groups = groups(&runtime).await;
                        let partition = groups.partition(GroupId(1)).expect("known");
                        let producers = (0..4).map(|producer| {
                            let (partition, acknowledged) = (partition.clone(), Arc::clone(&acknowledged));
                            async move {
                                for number in 0.. {
                                    let value = format!("{life}.{producer}.{number}");
                                    let written = partition.propose(proposal(&value), Acks::All, None).await;
                                    let Ok(written) = written else { return };
                                    acknowledged.lock().expect("unpoisoned").push((written.base_offset.0, value));
                                }
                            }
                        });
                        join_all(producers).await;
                    })
                    .await;
            }
            let stored = machine
                .live(|runtime| async move {
                    let groups = groups(&runtime).await;
                    let log = groups.partition(GroupId(1)).expect("known").log().await.expect("open");
                    batches(&runtime, &log).await
                })
                .await;
            let offsets: Vec<i64> = stored.iter().map(|(offset, ..)| *offset).collect();
            assert_eq!(offsets, (0..stored.len() as i64).collect::<Vec<_>>(), "seed {seed}: no gap");
            let mut values: Vec<&String> = stored.iter().map(|(.., value)| value).collect();
            values.sort_unstable();
            values.dedup();
            assert_eq!(values.len(), stored.len(), "seed {seed}: nothing twice");
            assert!(stored.is_sorted_by_key(|(_, epoch, _)| *epoch), "seed {seed}: epochs only rise");
            for (offset, value) in acknowledged.lock().expect("unpoisoned").iter() {
                let found = stored.get(*offset as usize).map(|(.., value)| value);
                assert_eq!(found, Some(value), "seed {seed}: acknowledged at offset {offset}");
            }
        });
    }
}

#[test]
fn a_partition_whose_creation_was_cut_before_its_first_entry_is_usable() {
    with_crashes(7, |machine: Machine| async move {
        machine
            .live(|runtime| async move {
                let data_dir = open(&runtime, Path::new("/data")).await;
                let (done, durable) = tokio::sync::oneshot::channel();
                let creating = data_dir.clone();
                let created = runtime.blocking(move || {
                    creating.create_group(spec(1), Box::new(move |result| drop(done.send(result)))).map(drop)
                });
                created.await.expect("created");
                durable.await.expect("answered").expect("durable");
            })
            .await;
        machine.cut_power();
        machine
            .live(|runtime| async move {
                let groups = groups(&runtime).await;
                assert!(groups.partition(GroupId(1)).is_none(), "it is still to be created");
                let partition = super::world::create(&groups, spec(1)).await.expect("created");
                let written = partition.propose(proposal("a"), Acks::All, None).await.expect("written");
                assert_eq!(written.base_offset, Offset(0));
                let log = partition.log().await.expect("open");
                let (_, membership) = log.membership();
                let membership = crate::membership::decode(membership).expect("readable");
                assert_eq!(membership.voter_ids().collect::<Vec<_>>(), [2], "the replica of the group");
            })
            .await;
    });
}

#[test]
fn a_failed_sync_stops_the_partition_and_answers_everybody() {
    with_crashes(8, |machine: Machine| async move {
        let world = machine.world.clone();
        machine
            .live(|runtime| async move {
                let (_groups, partition) = fresh(&runtime, Path::new("/data"), spec(1)).await;
                partition.propose(sequenced(0), Acks::All, None).await.expect("written");
                world.set_disk_faults(NODE, DiskFaults { sync_error: 1.0, ..DiskFaults::default() });
                let receipts = [1, 2, 1].map(|sequence| partition.propose(sequenced(sequence), Acks::All, None));
                for failed in join_all(receipts).await {
                    assert!(matches!(failed, Err(ProposeError::Fatal(_))), "{failed:?}");
                }
                let refused = partition.propose(sequenced(3), Acks::Leader, None).await;
                assert!(matches!(refused, Err(ProposeError::Fatal(_))), "{refused:?}");
                assert!(matches!(partition.log().await, Err(RaftError::Fatal { .. })));
                assert!(!partition.watch().borrow().serving);
            })
            .await;
    });
}

#[test]
fn a_deleted_partition_is_closed_for_everybody_and_gone() {
    with_crashes(9, |machine: Machine| async move {
        machine.live(|runtime| async move { drop(fresh(&runtime, Path::new("/data"), spec(1)).await) }).await;
        machine.cut_power();
        machine
            .live(|runtime| async move {
                let groups = groups(&runtime).await;
                let partition = groups.partition(GroupId(1)).expect("known");
                // It is waking when the deletion comes.
                let queued = partition.propose(proposal("queued"), Acks::All, None);
                let deleting = groups.delete(GroupId(1));
                let (queued, deleted) = futures::join!(queued, deleting);
                assert!(matches!(queued, Err(ProposeError::Closed)), "{queued:?}");
                deleted.expect("deleted");
                let refused = partition.propose(proposal("late"), Acks::None, None).await;
                assert!(matches!(refused, Err(ProposeError::Closed)), "{refused:?}");
                assert!(matches!(partition.log().await, Err(RaftError::Closed(_))));
                assert!(groups.partition(GroupId(1)).is_none());
                let again = groups.delete(GroupId(1)).await;
                assert!(
                    matches!(again, Err(RaftError::Storage(millpond_storage::StorageError::NoSuchGroup(GroupId(1))))),
                    "{again:?}"
                );
            })
            .await;
        machine.cut_power();
        machine.live(|runtime| async move { assert!(groups(&runtime).await.is_empty()) }).await;
    });
}

#[test]
fn a_shutdown_answers_what_is_queued_and_flushes_what_was_appended() {
    with_crashes(10, |machine: Machine| async move {
        machine.live(|runtime| async move { drop(fresh(&runtime, Path::new("/data"), spec(1)).await) }).await;
        machine.cut_power();
        machine
            .live(|runtime| async move {
                let data_dir = open(&runtime, Path::new("/data")).await;
                let groups = super::world::start(&runtime, data_dir.clone());
                let partition = groups.partition(GroupId(1)).expect("known");
                partition.propose(proposal("a"), Acks::All, None).await.expect("written");
                let appended = partition.propose(proposal("b"), Acks::All, None);
                groups.shutdown().await;
                close(&runtime, data_dir).await;
                assert_eq!(appended.await.expect("flushed").base_offset, Offset(1));
                let refused = partition.propose(proposal("c"), Acks::All, None).await;
                assert!(matches!(refused, Err(ProposeError::Closed)), "{refused:?}");
            })
            .await;
    });
}

#[test]
fn a_batch_that_no_journal_file_can_hold_is_refused_and_the_partition_goes_on() {
    simulated(11, |runtime, path| async move {
        let (_groups, partition) = fresh(&runtime, &path, spec(1)).await;
        let huge = "x".repeat(2 << 20);
        for acks in [Acks::All, Acks::Leader] {
            let refused = partition.propose(proposal(&huge), acks, None).await;
            assert!(matches!(refused, Err(ProposeError::TooLarge { .. })), "{refused:?}");
        }
        let written = partition.propose(proposal("a"), Acks::All, None).await.expect("written");
        assert_eq!(written.base_offset, Offset(0));
    });
}

#[test]
fn a_sleeping_partition_costs_a_few_hundred_bytes() {
    let bytes = Partition::SLEEPING_BYTES;
    assert!(bytes <= 512, "{bytes} bytes");
}
