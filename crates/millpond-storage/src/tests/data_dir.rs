use std::io::IoSlice;
use std::sync::atomic::Ordering;
use std::time::Duration;

use millpond_record::{BrokerId, GroupId};
use millpond_runtime::sim::{Crash, DiskFaults, World, block_on};
use millpond_runtime::{Disk, OpenMode};

use super::{NODE, Told, append, entries, open, open_with, root, small, spec, vote};
use crate::{DataDir, OpenError, StorageError, StorageOptions};

/// A group with a vote of term 1 and some entries, all durable.
async fn fill(world: &World, data_dir: &DataDir, group: u64, topic: &str, count: u64) {
    let told = Told::default();
    let log = data_dir.create_group(spec(group, topic), told.done()).unwrap();
    assert!(told.wait(world).await);
    let told = Told::default();
    vote(&log, 1, told.done());
    assert!(told.wait(world).await);
    let mut last = Told::default();
    for index in 0..count {
        last = Told::default();
        append(&log, 1, &payload(group, index), last.done()).unwrap();
    }
    assert!(count == 0 || last.wait(world).await);
}

fn payload(group: u64, index: u64) -> Vec<u8> {
    vec![(group * 17 + index) as u8; 500 + index as usize % 700]
}

fn assert_filled(data_dir: &DataDir, group: u64, count: u64) {
    let log = data_dir.log(GroupId(group)).unwrap().expect("the group exists");
    let found = entries(&log).unwrap();
    assert_eq!(found.len() as u64, count);
    for (index, (found_index, term, bytes)) in (0..).zip(&found) {
        assert_eq!((*found_index, *term, &bytes[..]), (index, 1, &payload(group, index)[..]));
    }
    assert_eq!(log.vote().term.0, 1);
}

fn folders(disk: &dyn Disk) -> Vec<String> {
    let entries = disk.read_dir(root()).unwrap();
    let folders = entries.into_iter().filter(|entry| entry.is_dir && entry.name != "journal");
    folders.map(|entry| entry.name.into_string().unwrap()).collect()
}

#[test]
fn a_new_directory_is_made_and_a_second_opener_is_refused() {
    block_on(1, async {
        let runtime = World::new(1).runtime_for(NODE);
        let (data_dir, report) = open(&runtime).unwrap();
        assert!(report.clean && report.groups == 0 && report.journal_records == 0);
        assert!(matches!(open(&runtime), Err(OpenError::Locked(_))));
        let first = data_dir.meta().clone();
        data_dir.close().unwrap();
        let (data_dir, report) = open(&runtime).unwrap();
        assert!(report.clean);
        assert_eq!(data_dir.meta().directory_id, first.directory_id);
        assert_eq!(data_dir.meta().cluster_id, first.cluster_id);
        assert_ne!(data_dir.meta().boot_id, first.boot_id);
    });
}

#[test]
fn a_directory_of_another_node_or_cluster_is_refused_with_the_way_out() {
    block_on(1, async {
        let runtime = World::new(1).runtime_for(NODE);
        open(&runtime).unwrap().0.close().unwrap();
        let other = StorageOptions { node_id: BrokerId(4), ..small() };
        let error = open_with(&runtime, other).0.err().unwrap();
        assert!(error.to_string().contains("belongs to node 3, not to node 4: use --node-id 3"), "{error}");
        let other = StorageOptions { cluster_id: Some("elsewhere".into()), ..small() };
        assert!(matches!(open_with(&runtime, other).0, Err(OpenError::OtherCluster { .. })));
    });
}

#[test]
fn settings_that_cannot_work_are_refused() {
    block_on(1, async {
        let runtime = World::new(1).runtime_for(NODE);
        for options in [
            StorageOptions { journal_files: 2, ..small() },
            StorageOptions { journal_file_bytes: 1000, ..small() },
            StorageOptions { journal_file_bytes: u64::MAX, ..small() },
        ] {
            assert!(matches!(open_with(&runtime, options).0, Err(OpenError::Options(_))));
        }
    });
}

#[test]
fn after_a_clean_stop_no_folder_is_opened_before_its_log_is_used() {
    block_on(1, async {
        let world = World::new(1);
        let runtime = world.runtime_for(NODE);
        let (data_dir, _) = open(&runtime).unwrap();
        for group in 1..4 {
            fill(&world, &data_dir, group, &format!("topic{group}"), 30).await;
        }
        let before = data_dir.groups();
        data_dir.close().unwrap();
        let (data_dir, report) = open(&runtime).unwrap();
        assert!(report.clean);
        assert_eq!((report.journal_records, report.groups, report.groups_replayed), (0, 3, 0));
        for (row, before) in data_dir.groups().iter().zip(&before) {
            assert!(data_dir.open_log(row.group).is_none());
            assert_eq!((row.log_end, row.last, row.vote), (before.log_end, before.last, before.vote));
        }
        assert_filled(&data_dir, 2, 30);
        assert!(data_dir.open_log(GroupId(1)).is_none() && data_dir.open_log(GroupId(2)).is_some());
        assert!(data_dir.log(GroupId(9)).unwrap().is_none());
    });
}

#[test]
fn after_a_power_cut_the_journal_brings_back_what_was_reported() {
    for seed in 0..10 {
        block_on(seed, async {
            let world = World::new(seed);
            let (data_dir, _) = open(&world.runtime_for(NODE)).unwrap();
            fill(&world, &data_dir, 1, "one", 200).await;
            fill(&world, &data_dir, 2, "two", 5).await;
            world.crash(NODE, Crash::PowerCut);
            let runtime = world.restart(NODE);
            let (data_dir, report) = open(&runtime).unwrap();
            assert!(!report.clean);
            assert!(report.records_applied + report.records_covered <= report.journal_records);
            assert_filled(&data_dir, 1, 200);
            assert_filled(&data_dir, 2, 5);
            // Once more, without anything in between but the checkpoint that a replay asks for.
            runtime.sleep(Duration::from_secs(1)).await;
            world.crash(NODE, Crash::PowerCut);
            let (data_dir, report) = open(&world.restart(NODE)).unwrap();
            assert_eq!(report.journal_records, 0, "the checkpoint after the replay covers it");
            assert_filled(&data_dir, 1, 200);
            assert_filled(&data_dir, 2, 5);
        });
    }
}

#[test]
fn a_deleted_group_is_unknown_at_once_and_its_folder_goes() {
    block_on(1, async {
        let world = World::new(1);
        let runtime = world.runtime_for(NODE);
        let disk = runtime.disk();
        let (data_dir, _) = open(&runtime).unwrap();
        fill(&world, &data_dir, 1, "events", 20).await;
        let log = data_dir.log(GroupId(1)).unwrap().unwrap();
        let told = Told::default();
        data_dir.delete_group(GroupId(1), told.done()).unwrap();
        assert!(data_dir.log(GroupId(1)).unwrap().is_none() && data_dir.groups().is_empty());
        assert!(matches!(append(&log, 1, b"x", Box::new(|_| ())), Err(StorageError::LogClosed(_))));
        assert!(matches!(data_dir.delete_group(GroupId(1), Box::new(|_| ())), Err(StorageError::NoSuchGroup(_))));
        // A topic of the same name can be made before the deletion is durable.
        fill(&world, &data_dir, 2, "events", 3).await;
        assert!(told.wait(&world).await);
        runtime.sleep(Duration::from_secs(1)).await;
        assert_eq!(folders(&*disk), ["events-0"]);
        data_dir.close().unwrap();
        let (data_dir, _) = open(&runtime).unwrap();
        assert_eq!(data_dir.groups().len(), 1);
        assert_filled(&data_dir, 2, 3);
    });
}

#[test]
fn a_copy_that_is_put_aside_leaves_its_files_and_the_next_one_none() {
    block_on(1, async {
        let world = World::new(1);
        let runtime = world.runtime_for(NODE);
        let disk = runtime.disk();
        let (data_dir, _) = open(&runtime).unwrap();
        for group in [1, 2, 3] {
            fill(&world, &data_dir, group, "events", 20).await;
            data_dir.checkpoint().unwrap();
            let told = Told::default();
            data_dir.put_group_aside(GroupId(group), told.done()).unwrap();
            assert!(data_dir.groups().is_empty());
            assert!(told.wait(&world).await);
            runtime.sleep(Duration::from_secs(1)).await;
            assert_eq!(folders(&*disk), ["events-0.1.stray"]);
        }
        let kept = disk.read_dir(&root().join("events-0.1.stray")).unwrap();
        assert!(kept.iter().any(|entry| entry.name.to_str().is_some_and(|name| name.ends_with(".log"))));
        data_dir.close().unwrap();
        let (data_dir, report) = open(&runtime).unwrap();
        assert!(data_dir.groups().is_empty() && report.strays.is_empty());
        assert_eq!(folders(&*disk), ["events-0.1.stray"]);
    });
}

#[test]
fn a_group_that_was_deleted_comes_back_when_no_start_would_delete_it_again() {
    for crash in [Crash::Kill, Crash::PowerCut] {
        block_on(1, async {
            let world = World::new(1);
            let runtime = world.runtime_for(NODE);
            let (data_dir, _) = open(&runtime).unwrap();
            fill(&world, &data_dir, 1, "events", 20).await;
            let told = Told::default();
            data_dir.delete_group(GroupId(1), told.done()).unwrap();
            assert!(told.wait(&world).await);
            let returning = || data_dir.create_group(spec(1, "events"), Box::new(|_| ())).err();
            let mut refused = returning();
            assert!(refused.is_some(), "the journal says that the group is deleted");
            while let Some(error) = refused {
                assert!(matches!(error, StorageError::GroupExists(_) | StorageError::DeletedLately(_)), "{error}");
                runtime.sleep(Duration::from_millis(10)).await;
                let early = data_dir.stats().checkpoints == 0;
                refused = returning();
                assert!(refused.is_some() || !early, "it came back before the checkpoint");
            }
            let log = data_dir.log(GroupId(1)).unwrap().expect("it is back");
            let told = Told::default();
            vote(&log, 1, told.done());
            assert!(told.wait(&world).await);
            let told = Told::default();
            append(&log, 1, &payload(1, 0), told.done()).unwrap();
            assert!(told.wait(&world).await);
            drop((log, data_dir));
            world.crash(NODE, crash);
            let (data_dir, _) = open(&world.restart(NODE)).unwrap();
            assert_filled(&data_dir, 1, 1);
        });
    }
}

#[test]
fn a_group_is_refused_that_exists_or_whose_folder_is_taken_or_cannot_be() {
    block_on(1, async {
        let world = World::new(1);
        let (data_dir, _) = open(&world.runtime_for(NODE)).unwrap();
        fill(&world, &data_dir, 1, "events", 1).await;
        let create = |group, topic: &str| data_dir.create_group(spec(group, topic), Box::new(|_| ())).err().unwrap();
        assert!(matches!(create(1, "other"), StorageError::GroupExists(GroupId(1))));
        assert!(matches!(create(2, "events"), StorageError::FolderTaken { owner: GroupId(1), .. }));
        for topic in ["", "..", "a/b"] {
            assert!(matches!(create(2, topic), StorageError::BadTopicName(_)), "{topic}");
        }
    });
}

#[test]
fn a_folder_of_no_known_group_is_kept_aside_when_its_name_is_needed() {
    block_on(1, async {
        let world = World::new(1);
        let runtime = world.runtime_for(NODE);
        let disk = runtime.disk();
        let (data_dir, _) = open(&runtime).unwrap();
        disk.create_dir_all(&root().join("events-0")).unwrap();
        let file = disk.open(&root().join("events-0/data.log"), OpenMode::Create).unwrap();
        file.write_all_at(&[IoSlice::new(b"somebody's")], 0).unwrap();
        fill(&world, &data_dir, 1, "events", 3).await;
        assert_eq!(folders(&*disk), ["events-0", "events-0.1.stray"]);
        assert_eq!(disk.read(&root().join("events-0.1.stray/data.log"), 100).unwrap(), b"somebody's");
        assert_filled(&data_dir, 1, 3);
    });
}

#[test]
fn a_start_after_a_crash_puts_folders_right() {
    block_on(1, async {
        let world = World::new(1);
        let runtime = world.runtime_for(NODE);
        let disk = runtime.disk();
        let (data_dir, _) = open(&runtime).unwrap();
        for group in 1..3 {
            fill(&world, &data_dir, group, &format!("topic{group}"), 30).await;
        }
        data_dir.checkpoint().unwrap();
        world.crash(NODE, Crash::Kill);
        let runtime = world.restart(NODE);
        drop(disk);
        let disk = runtime.disk();
        let make = |name: &str, bytes: &[u8]| {
            disk.create_dir_all(&root().join(name)).unwrap();
            let file = disk.open(&root().join(name).join("00.log"), OpenMode::Create).unwrap();
            file.write_all_at(&[IoSlice::new(bytes)], 0).unwrap();
        };
        // A deletion that did not become durable, and a new group in its place that did not either.
        disk.rename(&root().join("topic1-0"), &root().join("topic1-0.1.deleted")).unwrap();
        make("topic1-0", b"");
        // A deletion that did.
        make("gone-3.77.deleted", b"data");
        // Folders of nobody: without data, with data, and not ours.
        make("empty-0", b"");
        make("full-0", b"data");
        make("lost+found", b"data");
        let (data_dir, report) = open(&runtime).unwrap();
        assert_eq!(report.strays, ["full-0.1.stray"]);
        assert_eq!(report.empty_folders_removed, 2);
        runtime.sleep(Duration::from_secs(1)).await;
        assert_eq!(folders(&*disk), ["full-0.1.stray", "lost+found", "topic1-0", "topic2-0"]);
        assert_filled(&data_dir, 1, 30);
        assert_filled(&data_dir, 2, 30);
    });
}

#[test]
fn a_folder_that_says_it_belongs_to_another_group_is_not_opened() {
    block_on(1, async {
        let world = World::new(1);
        let runtime = world.runtime_for(NODE);
        let (data_dir, _) = open(&runtime).unwrap();
        for group in 1..3 {
            fill(&world, &data_dir, group, &format!("topic{group}"), 3).await;
        }
        data_dir.close().unwrap();
        let disk = runtime.disk();
        let at = |name: &str| root().join(name);
        for (from, to) in [("topic1-0", "x"), ("topic2-0", "topic1-0"), ("x", "topic2-0")] {
            disk.rename(&at(from), &at(to)).unwrap();
        }
        let (data_dir, _) = open(&runtime).unwrap();
        let error = data_dir.log(GroupId(1)).err().unwrap();
        assert!(error.to_string().contains("says that it belongs to group 2"), "{error}");
    });
}

#[test]
fn closing_is_idempotent_and_later_calls_say_so() {
    block_on(1, async {
        let world = World::new(1);
        let (data_dir, _) = open(&world.runtime_for(NODE)).unwrap();
        fill(&world, &data_dir, 1, "events", 3).await;
        let log = data_dir.log(GroupId(1)).unwrap().unwrap();
        data_dir.close().unwrap();
        data_dir.close().unwrap();
        assert!(append(&log, 1, b"late", Box::new(|_| ())).is_err());
        assert!(matches!(data_dir.log(GroupId(1)), Err(StorageError::Closed(_))));
        assert!(matches!(data_dir.create_group(spec(2, "b"), Box::new(|_| ())), Err(StorageError::Closed(_))));
        assert!(matches!(data_dir.delete_group(GroupId(1), Box::new(|_| ())), Err(StorageError::Closed(_))));
        assert!(matches!(data_dir.checkpoint(), Err(StorageError::Closed(_))));
    });
}

#[test]
fn the_journal_stays_bounded_while_logs_are_written() {
    block_on(1, async {
        let world = World::new(1);
        let runtime = world.runtime_for(NODE);
        let (data_dir, _) = open(&runtime).unwrap();
        // Each log writes about 20 journal files.
        fill(&world, &data_dir, 1, "one", 1500).await;
        fill(&world, &data_dir, 2, "two", 1500).await;
        let disk = runtime.disk();
        assert!(disk.read_dir(&root().join("journal")).unwrap().len() <= 4);
        let stats = data_dir.stats();
        assert!(stats.checkpoints > 5 && stats.journal_switches > 20, "{stats:?}");
        assert_eq!((stats.open_logs, stats.journal_pending_bytes), (2, 0));
        world.crash(NODE, Crash::PowerCut);
        let (data_dir, report) = open(&world.restart(NODE)).unwrap();
        assert!(report.journal_files <= 4);
        assert_filled(&data_dir, 1, 1500);
        assert_filled(&data_dir, 2, 1500);
    });
}

#[test]
fn a_failed_sync_ends_the_directory_once_and_a_restart_recovers_what_was_reported() {
    for seed in 0..10 {
        block_on(seed, async {
            let world = World::new(seed);
            let runtime = world.runtime_for(NODE);
            let (opened, fatal) = open_with(&runtime, small());
            let (data_dir, _) = opened.unwrap();
            fill(&world, &data_dir, 1, "events", 40).await;
            world.set_disk_faults(NODE, DiskFaults { sync_error: 1.0, ..DiskFaults::default() });
            let log = data_dir.log(GroupId(1)).unwrap().unwrap();
            let told = Told::default();
            append(&log, 1, b"never reported", told.done()).unwrap();
            assert!(!told.wait(&world).await);
            world.set_disk_faults(NODE, DiskFaults::default());
            assert!(append(&log, 1, b"refused", Box::new(|_| ())).is_err());
            assert!(data_dir.close().is_err());
            assert_eq!(fatal.load(Ordering::SeqCst), 1);
            world.crash(NODE, Crash::PowerCut);
            let (data_dir, _) = open(&world.restart(NODE)).unwrap();
            let log = data_dir.log(GroupId(1)).unwrap().unwrap();
            assert!(entries(&log).unwrap().len() >= 40);
        });
    }
}

#[test]
fn data_without_meta_properties_and_a_missing_table_are_refused() {
    block_on(1, async {
        let world = World::new(1);
        let runtime = world.runtime_for(NODE);
        let (data_dir, _) = open(&runtime).unwrap();
        fill(&world, &data_dir, 1, "events", 3).await;
        data_dir.close().unwrap();
        let disk = runtime.disk();
        let (meta, table, aside) = (root().join("meta.properties"), root().join("groups.table"), root().join("aside"));
        disk.rename(&meta, &aside).unwrap();
        let error = open(&runtime).err().unwrap();
        assert!(error.to_string().contains("it is missing, but there is data"), "{error}");
        disk.rename(&aside, &meta).unwrap();
        disk.rename(&table, &aside).unwrap();
        let error = open(&runtime).err().unwrap();
        assert!(matches!(&error, OpenError::Damaged { path, .. } if *path == table), "{error}");
    });
}

#[test]
fn a_group_with_the_longest_of_names_is_deleted_and_its_name_is_free_at_once() {
    block_on(1, async {
        let world = World::new(1);
        let runtime = world.runtime_for(NODE);
        let (data_dir, _) = open(&runtime).unwrap();
        let topic = "x".repeat(249);
        for group in 1..4 {
            fill(&world, &data_dir, group, &topic, 3).await;
            let told = Told::default();
            data_dir.delete_group(GroupId(group), told.done()).unwrap();
            assert!(data_dir.log(GroupId(group)).unwrap().is_none());
            if group == 2 {
                assert!(told.wait(&world).await);
            }
        }
        fill(&world, &data_dir, 9, &topic, 5).await;
        data_dir.close().unwrap();
        let (data_dir, _) = open(&runtime).unwrap();
        assert_filled(&data_dir, 9, 5);
        while folders(&*runtime.disk()) != [format!("{topic}-0")] {
            runtime.sleep(Duration::from_millis(10)).await;
        }
    });
}

#[test]
fn a_power_cut_before_a_deletion_is_durable_brings_a_group_with_the_longest_of_names_back() {
    for seed in 0..20 {
        block_on(seed, async {
            let world = World::new(seed);
            let runtime = world.runtime_for(NODE);
            let topic = "y".repeat(249);
            let (data_dir, _) = open(&runtime).unwrap();
            fill(&world, &data_dir, 1, &topic, 3).await;
            data_dir.delete_group(GroupId(1), Told::default().done()).unwrap();
            // The rename may have been kept, the journal's record is not.
            runtime.disk().sync_dir(root()).unwrap();
            world.crash(NODE, Crash::PowerCut);
            drop(data_dir);
            let runtime = world.restart(NODE);
            let (data_dir, report) = open(&runtime).unwrap();
            assert!(report.strays.is_empty(), "{:?}", report.strays);
            assert_filled(&data_dir, 1, 3);
        });
    }
}
