//! Logs whose segments cannot be written, and a journal that gets no file.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use millpond_record::{GroupId, Term};
use millpond_runtime::Runtime;
use millpond_runtime::sim::{Crash, DiskFaults, World, block_on};

use super::{NODE, Told, append, entries, open, open_with, small, spec, vote};
use crate::log::tests::{plain, proposal};
use crate::types::{FlushMode, GroupSpec, Hold, LogOptions};
use crate::{DataDir, Log, StorageError};

fn relaxed(group: u64, topic: &str) -> GroupSpec {
    let options = LogOptions { flush: FlushMode::Relaxed, ..spec(group, topic).options };
    GroupSpec { options, ..spec(group, topic) }
}

/// A group that takes appends of term 1.
async fn group(world: &World, data_dir: &DataDir, spec: GroupSpec) -> Arc<Log> {
    let told = Told::default();
    let log = data_dir.create_group(spec, told.done()).unwrap();
    assert!(told.wait(world).await);
    let told = Told::default();
    vote(&log, 1, told.done());
    assert!(told.wait(world).await);
    log
}

/// A producer's batch of about 3 kB.
fn produce(log: &Log, told: &Told) -> Result<(), StorageError> {
    log.append_solo(Term(1), proposal(plain(1, 3000, 5)), told.done()).map(drop)
}

async fn produced(world: &World, log: &Log, count: usize) {
    for _ in 0..count {
        let told = Told::default();
        produce(log, &told).unwrap();
        assert!(told.wait(world).await);
    }
}

fn count(log: &Log) -> usize {
    let mut from = millpond_record::RaftIndex(0);
    let mut found = 0;
    loop {
        let read = crate::log::tests::entries_of(log, from, 1 << 16).unwrap();
        let Some((last, _)) = read.last() else { return found };
        from = millpond_record::RaftIndex(last.index.0 + 1);
        found += read.len();
    }
}

/// Asks for retries, as a broker does, until the log takes batches again.
async fn until_it_goes_on(runtime: &Runtime, data_dir: &DataDir, log: &Log) {
    for _ in 0..100 {
        if log.stalled().is_none() {
            return;
        }
        data_dir.retry_writes();
        runtime.sleep(Duration::from_millis(500)).await;
    }
    panic!("it stays stalled: {:?}", log.stalled());
}

#[test]
fn a_log_that_finds_the_disk_full_refuses_producers_alone_and_goes_on_later() {
    for options in [spec(1, "topic1"), relaxed(1, "topic1")] {
        block_on(1, async {
            let world = World::new(1);
            let runtime = world.runtime_for(NODE);
            let (data_dir, _) = open(&runtime).unwrap();
            let bad = group(&world, &data_dir, options.clone()).await;
            let good = group(&world, &data_dir, spec(2, "topic2")).await;
            produced(&world, &bad, 3).await;
            let full = DiskFaults { capacity_bytes: 0, full_in: "/topic1-0", ..DiskFaults::default() };
            world.set_disk_faults(NODE, full);
            // A durable log notices at the checkpoint, a relaxed one at the next write.
            let last = Told::default();
            produce(&bad, &last).unwrap();
            let relaxed = options.options.flush == FlushMode::Relaxed;
            assert_eq!(last.wait(&world).await, !relaxed, "what waits for the write alone is told at once");
            data_dir.checkpoint().unwrap();
            assert!(matches!(produce(&bad, &Told::default()), Err(StorageError::Stalled { group: GroupId(1), .. })));
            let flushed = Told::default();
            bad.notify_flushed(flushed.done());
            let troubles = data_dir.retry_writes();
            assert!(troubles.stalled.is_some() && troubles.stalled_logs == 1 && troubles.set_aside.is_empty());
            assert_eq!(data_dir.stats().stalled_logs, 1);
            // Control entries and other logs go on.
            append(&bad, 1, b"control", Told::default().done()).unwrap();
            produced(&world, &good, 10).await;
            assert!(good.stalled().is_none());

            world.set_disk_faults(NODE, DiskFaults::default());
            until_it_goes_on(&runtime, &data_dir, &bad).await;
            assert!(flushed.wait(&world).await || !relaxed, "what was refused an answer is flushed now");
            produced(&world, &bad, 2).await;
            data_dir.checkpoint().unwrap();
            assert_eq!(data_dir.retry_writes().stalled_logs, 0);
            world.crash(NODE, Crash::PowerCut);
            let (data_dir, _) = open(&world.restart(NODE)).unwrap();
            assert_eq!(count(&data_dir.log(GroupId(1)).unwrap().unwrap()), 7);
            assert_eq!(count(&data_dir.log(GroupId(2)).unwrap().unwrap()), 10);
        });
    }
}

#[test]
fn a_log_that_stays_stalled_is_tried_less_and_less_often() {
    block_on(1, async {
        let world = World::new(1);
        let runtime = world.runtime_for(NODE);
        let (data_dir, _) = open(&runtime).unwrap();
        let log = group(&world, &data_dir, relaxed(1, "topic1")).await;
        world.set_disk_faults(NODE, DiskFaults { capacity_bytes: 0, full_in: "/topic1-0", ..DiskFaults::default() });
        produce(&log, &Told::default()).unwrap();
        let mut tries = Vec::new();
        for call in 0..40 {
            runtime.sleep(Duration::from_secs(1)).await;
            let before = world.disk_op_count(NODE);
            data_dir.retry_writes();
            runtime.sleep(Duration::from_secs(1)).await;
            if world.disk_op_count(NODE) > before {
                tries.push(call);
            }
        }
        assert_eq!(tries, [0, 2, 6, 14, 22, 30, 38]);
    });
}

#[test]
fn a_failed_write_of_segments_sets_that_copy_aside_and_no_other() {
    for options in [spec(1, "topic1"), relaxed(1, "topic1")] {
        block_on(1, async {
            let world = World::new(1);
            let runtime = world.runtime_for(NODE);
            let (data_dir, _) = open(&runtime).unwrap();
            let bad = group(&world, &data_dir, options.clone()).await;
            let good = group(&world, &data_dir, spec(2, "topic2")).await;
            let broken = DiskFaults { write_error: 1.0, write_error_in: "/topic1-0", ..DiskFaults::default() };
            world.set_disk_faults(NODE, broken);
            let told = Told::default();
            produce(&bad, &told).unwrap();
            assert_eq!(told.wait(&world).await, options.options.flush == FlushMode::Durable);
            produced(&world, &good, 10).await;
            data_dir.checkpoint().unwrap();
            assert!(matches!(produce(&bad, &Told::default()), Err(StorageError::SetAside(GroupId(1)))));
            assert!(entries(&bad).is_err(), "nothing of it is served");
            let troubles = data_dir.retry_writes();
            let [(GroupId(1), StorageError::Io { operation, .. })] = &troubles.set_aside[..] else {
                panic!("{troubles:?}");
            };
            assert!(["create", "open", "write", "cut"].contains(operation), "{operation}");
            assert!(troubles.stalled.is_none() && data_dir.retry_writes().set_aside.is_empty(), "it is told once");
            world.set_disk_faults(NODE, DiskFaults::default());
            // The checkpoint was not held back.
            produced(&world, &good, 100).await;
            data_dir.close().unwrap();
            let (data_dir, report) = open(&runtime).unwrap();
            assert!(report.clean);
            assert!(matches!(data_dir.log(GroupId(1)), Err(StorageError::SetAside(_))));
            assert_eq!(count(&data_dir.log(GroupId(2)).unwrap().unwrap()), 110);
        });
    }
}

#[test]
fn a_journal_that_no_checkpoint_helps_waits_and_refuses_producers_until_one_does() {
    block_on(1, async {
        let world = World::new(1);
        let runtime = world.runtime_for(NODE);
        let (opened, fatal) = open_with(&runtime, small());
        let (data_dir, _) = opened.unwrap();
        let bad = group(&world, &data_dir, spec(1, "topic1")).await;
        let good = group(&world, &data_dir, spec(2, "topic2")).await;
        produced(&world, &bad, 3).await;
        world.set_disk_faults(NODE, DiskFaults { capacity_bytes: 0, full_in: "/topic1-0", ..DiskFaults::default() });
        let (mut taken, mut last) = (3, Told::durable());
        // 1.5 MiB into a journal of 256 KiB, which may become twice as large.
        for _ in 0..500 {
            let told = Told::default();
            match produce(&good, &told) {
                Ok(()) => (taken, last) = (taken + 1, told),
                Err(StorageError::Stalled { .. }) => break,
                Err(error) => panic!("{error}"),
            }
            runtime.sleep(Duration::from_millis(20)).await;
            data_dir.retry_writes();
        }
        assert!(good.stalled().is_some() && taken > 100, "{taken} were taken");
        assert!(!last.is_durable());
        runtime.sleep(Duration::from_secs(60)).await;
        data_dir.retry_writes();
        world.set_disk_faults(NODE, DiskFaults::default());
        until_it_goes_on(&runtime, &data_dir, &bad).await;
        until_it_goes_on(&runtime, &data_dir, &good).await;
        assert!(last.wait(&world).await, "what was in the queue is written");
        assert_eq!(fatal.load(Ordering::SeqCst), 0);
        assert_eq!(count(&good) + 3, taken);
    });
}

#[test]
fn too_many_open_files_end_nothing_and_lose_nothing() {
    block_on(1, async {
        let world = World::new(1);
        let runtime = world.runtime_for(NODE);
        let (opened, fatal) = open_with(&runtime, small());
        let (data_dir, _) = opened.unwrap();
        let log = group(&world, &data_dir, spec(1, "topic1")).await;
        produced(&world, &log, 30).await;
        world.set_disk_faults(NODE, DiskFaults { open_files: 0, ..DiskFaults::default() });
        let mut taken = 30;
        for _ in 0..300 {
            match produce(&log, &Told::default()) {
                Ok(()) => taken += 1,
                Err(StorageError::Stalled { .. }) => {}
                Err(error) => panic!("{error}"),
            }
            runtime.sleep(Duration::from_millis(20)).await;
            data_dir.retry_writes();
        }
        assert!(log.stalled().is_some(), "{taken} were taken");
        world.set_disk_faults(NODE, DiskFaults::default());
        until_it_goes_on(&runtime, &data_dir, &log).await;
        produced(&world, &log, 50).await;
        assert_eq!((fatal.load(Ordering::SeqCst), count(&log)), (0, taken + 50));
        world.crash(NODE, Crash::PowerCut);
        let (data_dir, report) = open(&world.restart(NODE)).unwrap();
        assert!(report.damaged.is_empty());
        assert_eq!(count(&data_dir.log(GroupId(1)).unwrap().unwrap()), taken + 50);
    });
}

#[test]
fn a_start_after_a_crash_opens_few_files_at_a_time() {
    for kind in [Crash::Kill, Crash::PowerCut] {
        block_on(1, async {
            let world = World::new(1);
            let mut options = small();
            options.journal_file_bytes = 16 << 20;
            options.open_logs = 64;
            let (data_dir, _) = open_with(&world.runtime_for(NODE), options.clone()).0.unwrap();
            let mut logs = Vec::new();
            for number in 1..=400 {
                logs.push(group(&world, &data_dir, spec(number, &format!("topic{number}"))).await);
            }
            for log in &logs {
                produced(&world, log, 1).await;
            }
            world.crash(NODE, kind);
            drop(logs);
            let runtime = world.restart(NODE);
            world.set_disk_faults(NODE, DiskFaults { open_files: 200, ..DiskFaults::default() });
            let (data_dir, report) = open_with(&runtime, options).0.unwrap();
            assert_eq!((report.groups_replayed, report.damaged.len()), (400, 0));
            world.set_disk_faults(NODE, DiskFaults::default());
            for number in 1..=400 {
                assert_eq!(count(&data_dir.log(GroupId(number)).unwrap().unwrap()), 1);
            }
        });
    }
}

#[test]
fn a_start_syncs_no_segment_whose_batches_the_journal_has() {
    for written in [false, true] {
        block_on(1, async {
            let world = World::new(1);
            let (data_dir, _) = open(&world.runtime_for(NODE)).unwrap();
            let log = group(&world, &data_dir, spec(1, "topic1")).await;
            produced(&world, &log, 10).await;
            if written {
                log.write_behind(u64::MAX).unwrap();
            }
            world.crash(NODE, Crash::Kill);
            drop(log);
            let runtime = world.restart(NODE);
            let faults = DiskFaults { sync_error: 1.0, sync_error_in: "/topic1-0", ..DiskFaults::default() };
            world.set_disk_faults(NODE, faults);
            let (data_dir, report) = open(&runtime).unwrap();
            assert_eq!((report.groups_replayed, report.damaged.len()), (1, 0), "a sync would have failed");
            assert_eq!(count(&data_dir.log(GroupId(1)).unwrap().unwrap()), 10);
            // Nor does the next one need it.
            world.crash(NODE, Crash::PowerCut);
            let (data_dir, report) = open(&world.restart(NODE)).unwrap();
            assert_eq!((report.groups_replayed, report.damaged.len()), (1, 0));
            assert_eq!(count(&data_dir.log(GroupId(1)).unwrap().unwrap()), 10);
        });
    }
}

#[test]
fn a_deletion_behind_more_bytes_than_the_journal_has_gets_the_files_that_it_needs() {
    block_on(1, async {
        let world = World::new(1);
        let (opened, fatal) = open_with(&world.runtime_for(NODE), small());
        let (data_dir, _) = opened.unwrap();
        let deleted = group(&world, &data_dir, spec(1, "topic1")).await;
        let log = group(&world, &data_dir, spec(2, "topic2")).await;
        produced(&world, &deleted, 1).await;
        let last = Told::default();
        // 1.2 MiB in front of the deletion: more than twice the journal's 256 KiB. No checkpoint frees anything before
        // the deletion is durable.
        for _ in 0..400 {
            produce(&log, &Told::default()).unwrap();
        }
        data_dir.delete_group(GroupId(1), last.done()).unwrap();
        assert!(last.wait(&world).await);
        produced(&world, &log, 10).await;
        assert_eq!((fatal.load(Ordering::SeqCst), count(&log)), (0, 410));
    });
}

#[test]
fn a_deleted_log_gives_its_share_of_the_tail_cache_back_while_somebody_has_it() {
    block_on(1, async {
        let world = World::new(1);
        let (data_dir, _) = open(&world.runtime_for(NODE)).unwrap();
        let log = group(&world, &data_dir, spec(1, "topic1")).await;
        produced(&world, &log, 20).await;
        assert!(data_dir.stats().cache_bytes > 60_000);
        let told = Told::default();
        data_dir.delete_group(GroupId(1), told.done()).unwrap();
        assert!(told.wait(&world).await);
        assert_eq!(data_dir.stats().cache_bytes, 0);
        drop(log);
        assert_eq!(data_dir.stats().cache_bytes, 0, "it is not given back twice");
    });
}

/// A share that says when it is given back.
struct Share(Arc<AtomicBool>);

impl Drop for Share {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn a_hold_is_kept_while_the_unwritten_batches_exceed_the_cache_and_not_longer() {
    block_on(1, async {
        let world = World::new(1);
        let mut options = small();
        options.tail_cache_bytes = 30_000;
        let (data_dir, _) = open_with(&world.runtime_for(NODE), options).0.unwrap();
        let log = group(&world, &data_dir, spec(1, "topic1")).await;
        let hold = |given_back: &Arc<AtomicBool>| -> Hold { Arc::new(Share(given_back.clone())) };
        let early = Arc::new(AtomicBool::new(false));
        data_dir.release(hold(&early));
        assert!(early.load(Ordering::SeqCst), "nothing is unwritten");
        // Without a pause, so that the writer has no turn.
        for _ in 0..20 {
            produce(&log, &Told::default()).unwrap();
        }
        let late = Arc::new(AtomicBool::new(false));
        data_dir.release(hold(&late));
        assert!(!late.load(Ordering::SeqCst));
        let deadline = world.elapsed_ms() + 10_000;
        while !late.load(Ordering::SeqCst) {
            assert!(world.elapsed_ms() < deadline, "the writer gives it back");
            world.runtime_for(NODE).sleep(Duration::from_millis(1)).await;
        }
    });
}

#[test]
fn a_group_that_finds_no_room_for_its_folder_leaves_nothing_and_can_be_made_later() {
    block_on(1, async {
        let world = World::new(1);
        let runtime = world.runtime_for(NODE);
        let (data_dir, _) = open(&runtime).unwrap();
        world.set_disk_faults(NODE, DiskFaults { capacity_bytes: 0, ..DiskFaults::default() });
        for _ in 0..3 {
            let refused = data_dir.create_group(spec(1, "topic1"), Box::new(|_| panic!("nothing was made")));
            assert!(matches!(refused, Err(StorageError::Io { .. })));
        }
        world.set_disk_faults(NODE, DiskFaults::default());
        let folders = runtime.disk().read_dir(super::root()).unwrap();
        assert!(folders.iter().all(|entry| !entry.name.to_string_lossy().starts_with("topic1")), "{folders:?}");
        let log = group(&world, &data_dir, spec(1, "topic1")).await;
        produced(&world, &log, 1).await;
    });
}

#[test]
fn a_journal_that_finds_no_room_for_a_write_goes_on_with_that_write_when_there_is() {
    for close in [false, true] {
        block_on(1, async {
            let world = World::new(1);
            let runtime = world.runtime_for(NODE);
            let (opened, fatal) = open_with(&runtime, small());
            let (data_dir, _) = opened.unwrap();
            // The file that a start makes is not filled ahead: its records make it longer.
            let log = group(&world, &data_dir, spec(1, "topic1")).await;
            world.set_disk_faults(NODE, DiskFaults { capacity_bytes: 0, ..DiskFaults::default() });
            let told = Told::default();
            produce(&log, &told).unwrap();
            runtime.sleep(Duration::from_secs(5)).await;
            assert!(!told.is_durable());
            assert!(matches!(produce(&log, &Told::default()), Err(StorageError::Stalled { .. })));
            let control = Told::default();
            append(&log, 1, b"control", control.done()).unwrap();
            assert!(data_dir.retry_writes().stalled.is_some());
            runtime.sleep(Duration::from_secs(5)).await;
            if close {
                assert!(data_dir.close().is_err(), "what is in the queue cannot be written");
                assert!(!told.is_durable() && !control.is_durable());
                return;
            }
            world.set_disk_faults(NODE, DiskFaults::default());
            until_it_goes_on(&runtime, &data_dir, &log).await;
            assert!(told.wait(&world).await && control.wait(&world).await);
            produced(&world, &log, 50).await;
            assert_eq!(fatal.load(Ordering::SeqCst), 0);
            world.crash(NODE, Crash::PowerCut);
            let (data_dir, _) = open(&world.restart(NODE)).unwrap();
            assert_eq!(count(&data_dir.log(GroupId(1)).unwrap().unwrap()), 52);
        });
    }
}
