//! What a data directory does when the disk fails it in one place.

use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::time::Duration;

use millpond_record::GroupId;
use millpond_runtime::sim::{Crash, DiskFaults, World, block_on};
use millpond_runtime::{OpenMode, Runtime};

use super::{NODE, Told, append, entries, open, root, spec, vote};
use crate::journal::{JournalEntry, kept, record};
use crate::table::Table;
use crate::{DataDir, Log, StorageError};

/// A group that takes appends of term 1.
async fn group(world: &World, data_dir: &DataDir, number: u64) -> std::sync::Arc<Log> {
    let told = Told::default();
    let log = data_dir.create_group(spec(number, &format!("topic{number}")), told.done()).unwrap();
    assert!(told.wait(world).await);
    let told = Told::default();
    vote(&log, 1, told.done());
    assert!(told.wait(world).await);
    log
}

async fn fill(world: &World, log: &Log, count: usize) {
    let mut last = Told::default();
    for _ in 0..count {
        last = Told::default();
        append(log, 1, &[7; 3000], last.done()).unwrap();
    }
    assert!(last.wait(world).await);
}

fn count(log: &Log) -> usize {
    entries(log).unwrap().len()
}

/// The indexes of the entries in a file of kept records.
fn kept_appends(runtime: &Runtime, path: &Path) -> Vec<u64> {
    let mut reader = kept::KeptReader::open(runtime.disk().open(path, OpenMode::Read).unwrap()).unwrap();
    let mut indexes = Vec::new();
    while let Some(found) = reader.next().unwrap() {
        if let JournalEntry::Append { index, .. } = record::decode(&found.header, &found.bytes).unwrap() {
            indexes.push(index.0);
        }
    }
    indexes
}

#[test]
fn a_failed_sync_of_segments_sets_that_copy_aside_and_no_other() {
    block_on(1, async {
        let world = World::new(1);
        let runtime = world.runtime_for(NODE);
        let (data_dir, _) = open(&runtime).unwrap();
        let (bad, good) = (group(&world, &data_dir, 1).await, group(&world, &data_dir, 2).await);
        fill(&world, &bad, 10).await;
        fill(&world, &good, 10).await;
        world
            .set_disk_faults(NODE, DiskFaults { sync_error: 1.0, sync_error_in: "/topic1-0", ..DiskFaults::default() });
        data_dir.checkpoint().unwrap();
        world.set_disk_faults(NODE, DiskFaults::default());
        assert!(matches!(append(&bad, 1, b"x", Box::new(|_| ())), Err(StorageError::SetAside(GroupId(1)))));
        fill(&world, &good, 10).await;
        data_dir.close().unwrap();
        let (data_dir, report) = open(&runtime).unwrap();
        assert!(report.clean);
        assert!(matches!(data_dir.log(GroupId(1)), Err(StorageError::SetAside(GroupId(1)))));
        assert_eq!(count(&data_dir.log(GroupId(2)).unwrap().unwrap()), 20);
    });
}

/// The kept file in a partition's folder.
fn kept_file(runtime: &Runtime, folder: &str) -> Option<PathBuf> {
    let entries = runtime.disk().read_dir(&root().join(folder)).unwrap();
    let name = entries.iter().find(|entry| entry.name.to_str().is_some_and(|name| kept::sequence_of(name).is_some()));
    name.map(|entry| root().join(folder).join(&entry.name))
}

#[test]
fn what_the_journal_has_of_a_copy_that_is_set_aside_while_running_is_kept_before_its_files_go() {
    block_on(1, async {
        let world = World::new(1);
        let runtime = world.runtime_for(NODE);
        let (data_dir, _) = open(&runtime).unwrap();
        let (bad, good) = (group(&world, &data_dir, 1).await, group(&world, &data_dir, 2).await);
        fill(&world, &bad, 10).await;
        data_dir.checkpoint().unwrap();
        fill(&world, &bad, 10).await;
        let faults = DiskFaults { sync_error: 1.0, sync_error_in: "/topic1-0/0", ..DiskFaults::default() };
        world.set_disk_faults(NODE, faults);
        data_dir.checkpoint().unwrap();
        world.set_disk_faults(NODE, DiskFaults::default());
        let kept = kept_file(&runtime, "topic1-0").expect("it is kept");
        assert_eq!(kept_appends(&runtime, &kept), (10..20).collect::<Vec<_>>());
        let told = data_dir.retry_writes().damaged;
        assert!(told.iter().any(|(group, what)| *group == GroupId(1) && what.contains(".kept")), "{told:?}");
        // The journal's files are used again, and later checkpoints keep nothing anew.
        for _ in 0..8 {
            fill(&world, &good, 40).await;
            data_dir.checkpoint().unwrap();
        }
        assert!(data_dir.retry_writes().damaged.is_empty());
        data_dir.close().unwrap();
        assert_eq!(kept_appends(&runtime, &kept), (10..20).collect::<Vec<_>>());
        let mut found = Vec::new();
        let summary = crate::verify(&*runtime.disk(), root(), &mut |finding| found.push(finding.clone())).unwrap();
        assert!(found.iter().any(|note| note.path == kept && note.what.contains("keeps 10 records")), "{found:?}");
        assert_eq!(summary.damages, 0, "{found:?}");

        let disk = runtime.disk();
        let dump = || {
            let mut items = Vec::new();
            let end = crate::dump(&*disk, &kept, &mut |item| {
                items.push(item.what);
                Ok(())
            });
            (items, end.map_err(|error| error.to_string()))
        };
        let (items, end) = dump();
        assert_eq!((items.len(), items[1], end), (11, "append", Ok(crate::DumpKind::Kept)));
        let length = disk.read(&kept, 1 << 20).unwrap().len() as u64;
        disk.open(&kept, OpenMode::Write).unwrap().write_all_at(&[IoSlice::new(&[0xff])], length - 9).unwrap();
        let (items, end) = dump();
        assert!(items.len() == 10 && end.as_ref().is_err_and(|why| why.contains("damaged")), "{end:?}");
        let summary = crate::verify(&*disk, root(), &mut |_| {}).unwrap();
        assert_eq!(summary.damages, 1);
    });
}

#[test]
fn a_journal_that_cannot_be_read_is_read_again_before_the_only_copy_is_given_up() {
    for is_whole_later in [true, false] {
        block_on(1, async {
            let world = World::new(1);
            let runtime = world.runtime_for(NODE);
            let (data_dir, _) = open(&runtime).unwrap();
            let (bad, good) = (group(&world, &data_dir, 1).await, group(&world, &data_dir, 2).await);
            fill(&world, &bad, 10).await;
            fill(&world, &good, 1).await;
            let disk = runtime.disk();
            let flip = |path: &Path, at: u64| {
                let file = disk.open(path, OpenMode::Write).unwrap();
                let mut byte = [0];
                file.read_exact_at(&mut byte, at).unwrap();
                file.write_all_at(&[IoSlice::new(&[byte[0] ^ 1])], at).unwrap();
            };
            let folder = root().join("journal");
            let files = disk.read_dir(&folder).unwrap().into_iter().map(|entry| folder.join(entry.name));
            let in_record = |path: PathBuf| {
                let at = disk.read(&path, 1 << 30).unwrap().windows(100).position(|bytes| bytes == [7; 100])?;
                Some((path, at as u64 + 50))
            };
            let (path, at) = files.into_iter().find_map(in_record).expect("the journal has it");
            flip(&path, at);
            let faults = DiskFaults { sync_error: 1.0, sync_error_in: "/topic1-0/0", ..DiskFaults::default() };
            world.set_disk_faults(NODE, faults);
            data_dir.checkpoint().unwrap();
            world.set_disk_faults(NODE, DiskFaults::default());
            data_dir.checkpoint().unwrap();
            let troubles = data_dir.retry_writes();
            assert!(troubles.stalled.is_some() && troubles.damaged.is_empty(), "it is told, and not given up");
            assert_eq!(kept_file(&runtime, "topic1-0"), None);
            if is_whole_later {
                flip(&path, at);
                data_dir.checkpoint().unwrap();
                let kept = kept_file(&runtime, "topic1-0").expect("it is kept");
                assert_eq!(kept_appends(&runtime, &kept), (0..10).collect::<Vec<_>>());
                return;
            }
            let mut told = Vec::new();
            for _ in 0..8 {
                data_dir.checkpoint().unwrap();
                told.extend(data_dir.retry_writes().damaged);
            }
            let [(GroupId(1), what)] = &told[..] else { panic!("it is told once: {told:?}") };
            assert!(what.contains("cannot be kept"), "{what}");
            assert!(data_dir.retry_writes().stalled.is_none(), "the journal goes on");
        });
    }
}

#[test]
fn copies_that_are_set_aside_together_are_kept_together_and_one_that_cannot_be_hinders_no_other() {
    block_on(1, async {
        let world = World::new(1);
        let runtime = world.runtime_for(NODE);
        let (data_dir, _) = open(&runtime).unwrap();
        let mut logs = Vec::new();
        for number in 1..=40 {
            logs.push(group(&world, &data_dir, number).await);
        }
        for log in &logs {
            let told = Told::default();
            append(log, 1, b"kept", told.done()).unwrap();
            assert!(told.wait(&world).await);
        }
        let faults = DiskFaults { sync_error: 1.0, sync_error_in: "-0/0", ..DiskFaults::default() };
        let faults = DiskFaults { write_error: 1.0, write_error_in: "/topic7-0/journal.", ..faults };
        world.set_disk_faults(NODE, faults);
        data_dir.checkpoint().unwrap();
        for number in 1..=40 {
            let kept = kept_file(&runtime, &format!("topic{number}-0"));
            assert_eq!(kept.is_some(), number != 7, "{number}");
            let appends = kept.map(|kept| kept_appends(&runtime, &kept));
            assert!(appends.is_none_or(|appends| appends == [0]));
        }
        let told = data_dir.retry_writes().damaged;
        let of_seven = told.iter().find(|(group, _)| *group == GroupId(7));
        assert!(told.len() == 40 && of_seven.is_some_and(|(_, what)| what.contains("cannot be kept")), "{told:?}");
    });
}

#[test]
fn a_disk_without_room_for_what_is_to_be_kept_holds_the_journal_back_until_there_is_some() {
    for is_room_later in [false, true] {
        block_on(1, async {
            let world = World::new(1);
            let runtime = world.runtime_for(NODE);
            let (data_dir, _) = open(&runtime).unwrap();
            let (bad, good) = (group(&world, &data_dir, 1).await, group(&world, &data_dir, 2).await);
            fill(&world, &bad, 10).await;
            fill(&world, &good, 1).await;
            data_dir.checkpoint().unwrap();
            fill(&world, &bad, 1).await;
            let sync_fails = DiskFaults { sync_error: 1.0, sync_error_in: "/topic1-0/0", ..DiskFaults::default() };
            world.set_disk_faults(NODE, DiskFaults { capacity_bytes: 0, full_in: ".kept", ..sync_fails });
            for _ in 0..3 {
                data_dir.checkpoint().unwrap();
                fill(&world, &good, 10).await;
            }
            assert_eq!(kept_file(&runtime, "topic1-0"), None);
            assert!(data_dir.retry_writes().stalled.is_some(), "somebody is told");
            world.set_disk_faults(NODE, DiskFaults::default());
            if is_room_later {
                data_dir.checkpoint().unwrap();
                let kept = kept_file(&runtime, "topic1-0").expect("there is room");
                assert_eq!(kept_appends(&runtime, &kept), [10]);
            }
            world.crash(NODE, Crash::Kill);
            let (data_dir, _) = open(&world.restart(NODE)).unwrap();
            if is_room_later {
                assert!(matches!(data_dir.log(GroupId(1)), Err(StorageError::SetAside(GroupId(1)))));
            } else {
                // To this start it is as if the sync had never failed: it replays what the journal still has.
                assert_eq!(count(&data_dir.log(GroupId(1)).unwrap().unwrap()), 11);
            }
        });
    }
}

#[test]
fn a_full_disk_holds_the_checkpoint_back_until_there_is_room() {
    block_on(1, async {
        let world = World::new(1);
        let runtime = world.runtime_for(NODE);
        let (data_dir, _) = open(&runtime).unwrap();
        let log = group(&world, &data_dir, 1).await;
        // Beyond the first journal file, so that those in use have their size already.
        fill(&world, &log, 40).await;
        runtime.sleep(Duration::from_secs(1)).await;
        world.set_disk_faults(NODE, DiskFaults { capacity_bytes: 0, ..DiskFaults::default() });
        let before = data_dir.stats().checkpoints;
        fill(&world, &log, 2).await;
        data_dir.checkpoint().unwrap();
        assert_eq!(data_dir.stats().checkpoints, before, "there was no room for it");
        fill(&world, &log, 2).await;
        assert!(data_dir.retry_writes().stalled.is_some(), "somebody is told");
        world.set_disk_faults(NODE, DiskFaults::default());
        while data_dir.stats().checkpoints == before {
            runtime.sleep(Duration::from_millis(100)).await;
            data_dir.retry_writes();
        }
        fill(&world, &log, 40).await;
        world.crash(NODE, Crash::PowerCut);
        let (data_dir, _) = open(&world.restart(NODE)).unwrap();
        assert_eq!(count(&data_dir.log(GroupId(1)).unwrap().unwrap()), 84);
    });
}

#[test]
fn a_row_that_counts_records_which_were_never_written_covers_nothing_of_the_next_life() {
    for kind in [Crash::Kill, Crash::PowerCut] {
        block_on(1, async {
            let world = World::new(1);
            let (data_dir, _) = open(&world.runtime_for(NODE)).unwrap();
            let log = group(&world, &data_dir, 1).await;
            fill(&world, &log, 5).await;
            data_dir.checkpoint().unwrap();
            world.crash(NODE, kind);
            let runtime = world.restart(NODE);
            // As if entries had been submitted between the position that the checkpoint noted and the row it captured.
            let mut table = Table::read(&*runtime.disk(), root()).unwrap();
            table.rows.get_mut(&GroupId(1)).unwrap().journal_sequence += 50;
            Table::write(&*runtime.disk(), root(), table.replay_from, table.rows.values()).unwrap();
            let (data_dir, report) = open(&runtime).unwrap();
            assert_eq!(report.journal_records, 0);
            fill(&world, &data_dir.log(GroupId(1)).unwrap().unwrap(), 8).await;
            world.crash(NODE, kind);
            let (data_dir, _) = open(&world.restart(NODE)).unwrap();
            assert_eq!(count(&data_dir.log(GroupId(1)).unwrap().unwrap()), 13);
        });
    }
}

#[test]
fn a_damaged_log_ends_its_group_and_no_other() {
    for group_number in [1, 0] {
        block_on(1, async {
            let world = World::new(1);
            let runtime = world.runtime_for(NODE);
            let (data_dir, _) = open(&runtime).unwrap();
            let (bad, good) = (group(&world, &data_dir, group_number).await, group(&world, &data_dir, 2).await);
            for log in [&bad, &good] {
                fill(&world, log, 3).await;
            }
            data_dir.checkpoint().unwrap();
            for log in [&bad, &good] {
                fill(&world, log, 3).await;
            }
            world.crash(NODE, Crash::Kill);
            let runtime = world.restart(NODE);
            let disk = runtime.disk();
            let folder = root().join(format!("topic{group_number}-0"));
            let segments = disk.read_dir(&folder).unwrap();
            let segment = segments.iter().find(|file| file.name.to_str().unwrap().ends_with(".log")).unwrap();
            let file = disk.open(&folder.join(&segment.name), OpenMode::Write).unwrap();
            // Within what the last checkpoint synced.
            file.write_all_at(&[IoSlice::new(b"damage")], 100).unwrap();
            file.set_len(4000).unwrap();
            let opened = open(&runtime);
            if group_number == 0 {
                assert!(opened.is_err(), "without the metadata group there is no broker");
                return;
            }
            let (data_dir, report) = opened.unwrap();
            let [damaged] = &report.damaged[..] else { panic!("{report:?}") };
            assert_eq!((damaged.group, damaged.folder.as_str()), (GroupId(1), "topic1-0"));
            // What the journal had of it is kept, also when the power goes now and when the journal has gone on.
            let kept = folder.join(damaged.kept.as_ref().expect("the journal had something of it"));
            let first = kept_appends(&runtime, &kept);
            assert_eq!(first, [3, 4, 5]);
            fill(&world, &data_dir.log(GroupId(2)).unwrap().unwrap(), 200).await;
            world.crash(NODE, Crash::PowerCut);
            let runtime = world.restart(NODE);
            let (data_dir, report) = open(&runtime).unwrap();
            assert!(report.damaged.is_empty(), "a second start has nothing to say: {report:?}");
            assert_eq!(kept_appends(&runtime, &kept), first);
            assert_eq!(count(&data_dir.log(GroupId(2)).unwrap().unwrap()), 206);
            assert!(matches!(data_dir.log(GroupId(1)), Err(StorageError::SetAside(_))));
            data_dir.close().unwrap();
            let (data_dir, report) = open(&runtime).unwrap();
            assert!(report.clean && report.damaged.is_empty());
            assert!(matches!(data_dir.log(GroupId(1)), Err(StorageError::SetAside(_))));
            // It can be deleted.
            let told = Told::default();
            data_dir.delete_group(GroupId(1), told.done()).unwrap();
            assert!(told.wait(&world).await);
        });
    }
}
