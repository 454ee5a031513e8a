//! What the comparison of stopped brokers' directories finds.

use std::io::IoSlice;
use std::path::PathBuf;
use std::sync::Arc;

use millpond_record::{BrokerId, GroupId, RaftIndex, Term};
use millpond_runtime::sim::{World, block_on};
use millpond_runtime::{Disk, OpenMode, Runtime};

use super::compare::{CompareSummary, Difference, compare};
use super::tests::{body, lead};
use crate::log::AppendEntry;
use crate::tests::{NODE, Told, small, spec};
use crate::{DataDir, Log, LogOptions, OpenError, StorageOptions};

/// Brokers 1 to 3, each with a directory of its own on one disk.
fn roots() -> Vec<PathBuf> {
    (1..4).map(|broker| PathBuf::from(format!("/srv/broker-{broker}"))).collect()
}

fn open(runtime: &Runtime, broker: i32, cluster: &str) -> DataDir {
    let options = StorageOptions {
        node_id: BrokerId(broker),
        cluster_id: Some(cluster.to_owned()),
        index_interval_bytes: 256,
        ..small()
    };
    let root = PathBuf::from(format!("/srv/broker-{broker}"));
    DataDir::open(runtime, &root, options, Arc::new(|_| {})).unwrap().0
}

/// Writes the entries of `from..to` as a leader of `term` made them.
async fn write(world: &World, log: &Log, term: u64, from: i64, to: i64) {
    for at in from..to {
        let told = Told::default();
        let entry = AppendEntry { index: log.next_index(), term: Term(term), body: body(at) };
        log.append(vec![entry], told.done()).unwrap();
        assert!(told.wait(world).await);
    }
}

/// What each broker has: the entries up to `ends`, in segments of different lengths, committed up to `committed`.
async fn brokers(world: &World, ends: [i64; 3], committed: [u64; 3]) -> Vec<DataDir> {
    let runtime = world.runtime_for(NODE);
    let mut all = Vec::new();
    for (broker, (end, committed)) in (1..).zip(ends.into_iter().zip(committed)) {
        let data_dir = open(&runtime, broker, "one");
        let mut spec = spec(5, "events");
        spec.options = LogOptions { segment_bytes: 700 * broker as u32, ..LogOptions::default() };
        let log = data_dir.create_group(spec, Box::new(|_| {})).unwrap();
        lead(world, &log, 2).await;
        write(world, &log, 2, 0, end).await;
        log.commit(RaftIndex(committed));
        all.push(data_dir);
    }
    all
}

fn stop(all: Vec<DataDir>) {
    for data_dir in all {
        data_dir.close().unwrap();
    }
}

fn compared(disk: &dyn Disk, roots: &[PathBuf]) -> Result<(CompareSummary, Vec<Difference>), OpenError> {
    let mut found = Vec::new();
    let summary = compare(disk, roots, &mut |difference| found.push(difference.clone()))?;
    Ok((summary, found))
}

#[test]
fn replicas_with_segments_of_other_lengths_are_equal_and_what_is_not_committed_everywhere_is_not_held_to_them() {
    block_on(1, async {
        let world = World::new(1);
        let all = brokers(&world, [40, 40, 30], [39, 36, 24]).await;
        let alone = all[1].create_group(spec(6, "alone"), Box::new(|_| {})).unwrap();
        drop(alone);
        let disk = world.runtime_for(NODE).disk();
        assert!(matches!(compared(&*disk, &roots()), Err(OpenError::Locked(_))), "they run");
        stop(all);
        let (summary, found) = compared(&*disk, &roots()).unwrap();
        assert_eq!(found, []);
        assert_eq!((summary.groups, summary.replicas, summary.alone), (1, 3, 1));
        assert_eq!((summary.entries, summary.not_compared), (37 + 25, 3 + 15));
    });
}

#[test]
fn the_first_entry_that_differs_is_named_with_both_brokers() {
    block_on(2, async {
        let world = World::new(2);
        let all = brokers(&world, [20, 20, 12], [19, 19, 11]).await;
        let log = all[2].log(GroupId(5)).unwrap().unwrap();
        // What another leader would have written.
        write(&world, &log, 2, 13, 21).await;
        log.commit(RaftIndex(u64::MAX));
        stop(all);
        let disk = world.runtime_for(NODE).disk();
        let (summary, found) = compared(&*disk, &roots()).unwrap();
        assert_eq!(summary.differences, 1);
        let [difference] = &found[..] else { panic!("{found:?}") };
        assert_eq!((difference.index, difference.brokers), (RaftIndex(12), (BrokerId(1), BrokerId(3))));
        let said = difference.to_string();
        assert!(said.starts_with("events-0, offset ") && said.contains(", entry 12, brokers 1 and 3: "), "{said}");
    });
}

#[test]
fn a_replica_that_lost_committed_entries_or_whose_batch_is_damaged_differs() {
    block_on(3, async {
        let world = World::new(3);
        stop(brokers(&world, [30, 30, 30], [29, 29, 29]).await);
        let disk = world.runtime_for(NODE).disk();
        let segments = |broker: i32| {
            let folder = PathBuf::from(format!("/srv/broker-{broker}/events-0"));
            let names = disk.read_dir(&folder).unwrap().into_iter().map(|entry| folder.join(entry.name));
            let mut names: Vec<PathBuf> = names.filter(|path| path.extension().is_some_and(|is| is == "log")).collect();
            names.sort();
            names
        };
        disk.remove_file(segments(2).last().unwrap()).unwrap();
        let damaged = disk.open(&segments(3)[0], OpenMode::Write).unwrap();
        damaged.write_all_at(&[IoSlice::new(&[0x55])], damaged.len().unwrap() - 1).unwrap();
        let (summary, found) = compared(&*disk, &roots()).unwrap();
        assert_eq!(summary.differences, 2, "{found:?}");
        let says = |broker: i32| found.iter().find(|found| found.brokers.1 == BrokerId(broker)).unwrap().to_string();
        assert!(says(2).contains("broker 2 does not have it"), "{}", says(2));
        assert!(says(3).contains("broker 3 does not have it") && says(3).contains(".log, byte "), "{}", says(3));
    });
}

#[test]
fn directories_of_other_clusters_or_of_one_broker_are_not_compared() {
    block_on(4, async {
        let world = World::new(4);
        let runtime = world.runtime_for(NODE);
        for (broker, cluster) in [(1, "one"), (2, "two")] {
            open(&runtime, broker, cluster).close().unwrap();
        }
        let disk = runtime.disk();
        let other = compared(&*disk, &roots()[..2]).unwrap_err().to_string();
        assert!(other.contains("/srv/broker-1 belongs to cluster one"), "{other}");
        assert!(matches!(compared(&*disk, &roots()[1..]), Err(OpenError::NotADataDirectory { .. })));
    });
}
