//! Rounds that sync segments instead of writing batches to the journal, too.

use std::path::PathBuf;
use std::sync::Arc;

use millpond_record::{GroupId, RaftIndex};
use millpond_runtime::sim::{Crash, DiskFaults, World, block_on};

use super::{NODE, Told, append, entries, open_with, root, small, spec, vote};
use crate::journal::Segments;
use crate::{DataDir, Log, StorageError, StorageOptions};

const BATCH: [u8; 3000] = [7; 3000];

fn options() -> StorageOptions {
    StorageOptions { segment_sync_bytes: 8 << 10, ..small() }
}

async fn start(world: &World) -> (DataDir, Arc<Log>) {
    let (data_dir, _) = open_with(&world.runtime_for(NODE), options()).0.unwrap();
    let told = Told::default();
    let log = data_dir.create_group(spec(1, "events"), told.done()).unwrap();
    vote(&log, 1, Box::new(|_| ()));
    assert!(told.wait(world).await);
    (data_dir, log)
}

/// Appends at once, so that it is one round, and waits.
async fn fill(world: &World, log: &Log, count: usize) -> bool {
    let told: Vec<Told> = (0..count).map(|_| Told::default()).collect();
    for told in &told {
        append(log, 1, &BATCH, told.done()).unwrap();
    }
    let mut durable = true;
    for told in &told {
        durable &= told.wait(world).await;
    }
    durable
}

#[test]
fn a_large_round_is_not_written_twice_and_outlives_a_power_cut() {
    for seed in 0..20 {
        block_on(seed, async {
            let world = World::new(seed);
            let (data_dir, log) = start(&world).await;
            for round in 1..=6 {
                // Over several segments of 20,000 bytes.
                assert!(fill(&world, &log, 5 + round).await);
            }
            let stats = data_dir.stats();
            assert!(stats.journal_placed_bytes > 40 * 3000, "{stats:?}");
            assert!(stats.journal_bytes < stats.journal_placed_bytes / 2, "{stats:?}");
            // A small round behind them goes to the journal.
            assert!(fill(&world, &log, 1).await);
            world.crash(NODE, Crash::PowerCut);
            let (data_dir, report) = open_with(&world.restart(NODE), options()).0.unwrap();
            assert_eq!(report.damaged, []);
            let log = data_dir.log(GroupId(1)).unwrap().unwrap();
            let found = entries(&log).unwrap();
            assert_eq!(found.len(), 52, "seed {seed}");
            assert!(found.iter().all(|(_, term, payload)| *term == 1 && payload[..] == BATCH));
            assert!(fill(&world, &log, 10).await);
        });
    }
}

#[test]
fn small_rounds_and_rounds_of_many_logs_go_to_the_journal() {
    block_on(1, async {
        let world = World::new(1);
        let (data_dir, log) = start(&world).await;
        let others: Vec<_> =
            (2..12).map(|n| data_dir.create_group(spec(n, &format!("t{n}")), Box::new(|_| ())).unwrap()).collect();
        others.iter().for_each(|other| vote(other, 1, Box::new(|_| ())));
        assert!(fill(&world, &log, 1).await);
        let told: Vec<Told> = others.iter().map(|_| Told::default()).collect();
        for (other, told) in others.iter().zip(&told) {
            append(other, 1, &BATCH, told.done()).unwrap();
        }
        for told in told {
            assert!(told.wait(&world).await);
        }
        assert_eq!(data_dir.stats().journal_placed_bytes, 0);
    });
}

#[test]
fn after_a_truncation_batches_go_to_the_journal() {
    block_on(1, async {
        let world = World::new(1);
        let (data_dir, log) = start(&world).await;
        assert!(fill(&world, &log, 10).await);
        let placed = data_dir.stats().journal_placed_bytes;
        log.truncate_after(Some(RaftIndex(3))).unwrap();
        assert!(fill(&world, &log, 10).await);
        assert_eq!(data_dir.stats().journal_placed_bytes, placed);
        world.crash(NODE, Crash::PowerCut);
        let (data_dir, _) = open_with(&world.restart(NODE), options()).0.unwrap();
        let log = data_dir.log(GroupId(1)).unwrap().unwrap();
        assert_eq!(entries(&log).unwrap().len(), 14);
    });
}

#[test]
fn a_failed_sync_of_a_placed_round_is_not_acknowledged_and_sets_that_log_aside() {
    block_on(1, async {
        let world = World::new(1);
        let (data_dir, log) = start(&world).await;
        assert!(fill(&world, &log, 5).await);
        let faults = DiskFaults { sync_error: 1.0, sync_error_in: "/events-0", ..DiskFaults::default() };
        world.set_disk_faults(NODE, faults);
        assert!(!fill(&world, &log, 10).await);
        world.set_disk_faults(NODE, DiskFaults::default());
        assert!(matches!(append(&log, 1, &BATCH, Box::new(|_| ())), Err(StorageError::SetAside(GroupId(1)))));
        let told = Told::default();
        data_dir.create_group(spec(2, "other"), told.done()).unwrap();
        assert!(told.wait(&world).await, "the others go on");
    });
}

#[test]
fn a_segment_without_what_was_synced_there_is_damaged() {
    block_on(1, async {
        let world = World::new(1);
        let (_data_dir, log) = start(&world).await;
        assert!(fill(&world, &log, 5).await);
        world.crash(NODE, Crash::Kill);
        let runtime = world.restart(NODE);
        let disk = runtime.disk();
        let folder = root().join("events-0");
        let logs: Vec<PathBuf> =
            disk.read_dir(&folder).unwrap().into_iter().map(|entry| folder.join(entry.name)).collect();
        let path = logs.iter().find(|path| path.extension().is_some_and(|kind| kind == "log")).unwrap();
        let file = disk.open(path, millpond_runtime::OpenMode::Write).unwrap();
        file.set_len(file.len().unwrap() - 1).unwrap();
        let (_, report) = open_with(&runtime, options()).0.unwrap();
        let [damaged] = &report.damaged[..] else { panic!("{report:?}") };
        assert_eq!(damaged.group, GroupId(1));
        assert!(damaged.what.contains("which was synced"), "{damaged:?}");
    });
}

#[test]
fn a_log_that_is_retired_while_its_batches_are_unsynced_says_of_none_that_it_is_durable() {
    block_on(1, async {
        let world = World::new(1);
        let (_data_dir, log) = start(&world).await;
        assert!(fill(&world, &log, 1).await);
        log.write_behind(u64::MAX).unwrap();
        let last = log.row().last.unwrap();
        // The journal is between the two steps, and a checkpoint has just begun, when the group is deleted.
        assert!(log.place(last));
        log.retire();
        assert!(!log.sync_placed(3000).unwrap(), "the journal takes the batches");
        assert!(matches!(log.sync_segments(), Err(StorageError::LogClosed(GroupId(1)))), "no row covers them");
    });
}
