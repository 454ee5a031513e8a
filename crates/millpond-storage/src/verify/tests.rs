//! What `verify` finds, and that it changes nothing.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::path::{Path, PathBuf};

use millpond_record::{
    BatchBuilder, BatchHeader, Codec, GroupId, Offset, PartitionIndex, ProducerEpoch, ProducerId, RaftIndex,
    RaftOnlyKind, Timestamp,
};
use millpond_runtime::sim::{Crash, World, block_on};
use millpond_runtime::{Disk, OpenMode, Runtime};

use super::{Finding, Severity, VerifySummary, verify};
use crate::index::{INDEX_ENTRY_BYTES, INDEX_HEADER_BYTES};
use crate::log::{AppendEntry, Body, Entries, Log, Proposal, StoredEntry};
use crate::tests::{NODE, Told, open, open_with, root, small, spec, vote};
use crate::types::{FlushMode, GroupSpec, LogOptions};
use crate::{DataDir, OpenError, StorageOptions};

/// Two partitions, the relaxed one first: what is in the journal at the end is the other's.
const GROUPS: [u64; 2] = [2, 1];

fn options() -> StorageOptions {
    StorageOptions { index_interval_bytes: 256, ..small() }
}

fn log_spec(group: u64) -> GroupSpec {
    let flush = if group == 2 { FlushMode::Relaxed } else { FlushMode::Durable };
    let partition = PartitionIndex(group as i32 - 1);
    GroupSpec {
        partition,
        options: LogOptions { flush, segment_bytes: 1500, ..LogOptions::default() },
        ..spec(group, "events")
    }
}

pub(super) fn body(at: i64) -> Body {
    if at % 9 == 4 {
        let payload = vec![at as u8; 30].into();
        return Body::RaftOnly { kind: RaftOnlyKind::Blank, payload, time: Timestamp(at) };
    }
    let codec = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd][at as usize % 5];
    let mut builder = BatchBuilder::new().codec(codec);
    if at % 2 == 0 {
        builder = builder.producer(ProducerId(at % 6), ProducerEpoch(0), (at / 6 * 2) as i32);
    }
    for record in 0..2 {
        builder.append(Timestamp(at * 10 + record), Some(b"key"), Some(&[at as u8; 60]));
    }
    let batch = builder.build();
    let header = BatchHeader::read(&batch).unwrap();
    Body::Proposed(Proposal { frame_bytes: batch.len(), header, append_time: Timestamp(at * 10), batch })
}

pub(super) async fn lead(world: &World, log: &Log, term: u64) {
    let told = Told::default();
    vote(log, term, told.done());
    assert!(told.wait(world).await);
}

/// Appends and waits until all is durable, one write after the other.
async fn fill(world: &World, log: &Log, term: u64, range: std::ops::Range<i64>) {
    for at in range {
        let told = Told::default();
        let entry = AppendEntry { index: log.next_index(), term: millpond_record::Term(term), body: body(at) };
        log.append(vec![entry], told.done()).unwrap();
        assert!(told.wait(world).await);
    }
    log.commit(RaftIndex(u64::MAX));
}

fn start(runtime: &Runtime) -> Result<DataDir, OpenError> {
    open_with(runtime, options()).0.map(|(data_dir, _)| data_dir)
}

/// A directory with two terms, several segments and a snapshot in each of its logs.
pub(crate) async fn filled(world: &World) -> DataDir {
    let data_dir = start(&world.runtime_for(NODE)).unwrap();
    for group in GROUPS {
        let told = Told::default();
        let log = data_dir.create_group(log_spec(group), told.done()).unwrap();
        assert!(told.wait(world).await);
        lead(world, &log, 1).await;
        fill(world, &log, 1, 0..14).await;
        data_dir.checkpoint().unwrap();
        lead(world, &log, 3).await;
        fill(world, &log, 3, 14..26).await;
    }
    data_dir
}

fn check(disk: &dyn Disk) -> (VerifySummary, Vec<Finding>) {
    let mut findings = Vec::new();
    let summary = verify(disk, root(), &mut |finding| findings.push(finding.clone())).unwrap();
    (summary, findings)
}

pub(crate) type Files = BTreeMap<PathBuf, Vec<u8>>;

fn files_below(disk: &dyn Disk, folder: &Path, files: &mut Files) {
    for entry in disk.read_dir(folder).unwrap() {
        let path = folder.join(&entry.name);
        if entry.is_dir {
            files_below(disk, &path, files);
        } else {
            files.insert(path.clone(), disk.read(&path, 1 << 30).unwrap());
        }
    }
}

pub(crate) fn files(disk: &dyn Disk) -> Files {
    let mut files = Files::new();
    files_below(disk, root(), &mut files);
    files
}

/// Makes the directory hold exactly these files.
fn restore(disk: &dyn Disk, wanted: &Files) {
    for path in files(disk).keys().filter(|path| !wanted.contains_key(*path)) {
        disk.remove_file(path).unwrap();
    }
    for (path, bytes) in wanted {
        let file = disk.open(path, OpenMode::Create).unwrap();
        file.set_len(bytes.len() as u64).unwrap();
        file.write_all_at(&[IoSlice::new(bytes)], 0).unwrap();
    }
}

fn write_byte(disk: &dyn Disk, path: &Path, at: usize, byte: u8) {
    disk.open(path, OpenMode::Write).unwrap().write_all_at(&[IoSlice::new(&[byte])], at as u64).unwrap();
}

/// The entries of every group, or why they cannot be had.
fn read_all(data_dir: &DataDir) -> BTreeMap<u64, Result<Vec<StoredEntry>, String>> {
    let read = |group: u64| -> Result<Vec<StoredEntry>, crate::StorageError> {
        let log = data_dir.log(GroupId(group))?.expect("the group is in the table");
        let mut entries: Vec<StoredEntry> = Vec::new();
        loop {
            let next = RaftIndex(entries.len() as u64);
            let more = match log.entries(next, RaftIndex(u64::MAX), 1 << 16)? {
                Entries::Ready(entries) => entries,
                Entries::Cold(cold) => cold.run()?,
            };
            if more.is_empty() {
                return Ok(entries);
            }
            entries.extend(more);
        }
    };
    GROUPS.iter().map(|group| (*group, read(*group).map_err(|error| error.to_string()))).collect()
}

/// What no check of a stopped directory looks at, and why that does no harm.
fn is_not_covered(path: &Path, at: usize, bytes: &[u8], newest_index: &[PathBuf]) -> bool {
    let name = path.file_name().unwrap().to_str().unwrap();
    // After a clean stop the journal holds nothing that is read back: its files are written anew.
    let journal = name.ends_with(".wal");
    // The append time in an index that is not closed yet: nothing else says it. It counts for nothing that is served.
    let in_entry = at.checked_sub(INDEX_HEADER_BYTES).map(|at| at % INDEX_ENTRY_BYTES);
    let append_time = newest_index.iter().any(|index| index == path)
        && in_entry.is_some_and(|at| (32..40).contains(&at))
        && bytes.len() > INDEX_HEADER_BYTES;
    journal || append_time
}

#[test]
fn a_clean_directory_is_whole_and_is_left_as_it_was() {
    block_on(3, async {
        let world = World::new(3);
        let data_dir = filled(&world).await;
        let runtime = world.runtime_for(NODE);
        assert!(matches!(verify(&*runtime.disk(), root(), &mut |_| {}), Err(OpenError::Locked(_))));
        data_dir.close().unwrap();
        let before = files(&*runtime.disk());
        let (summary, findings) = check(&*runtime.disk());
        assert_eq!(findings, []);
        assert!(summary.clean_stop && summary.groups == 2 && summary.batches == 52, "{summary:?}");
        assert!(summary.segments >= 6 && summary.snapshots >= 2 && summary.records > 80, "{summary:?}");
        assert_eq!(files(&*runtime.disk()), before);
    });
}

#[test]
fn every_flipped_bit_is_found_or_harmless_and_never_served_as_good_data() {
    block_on(4, async {
        let world = World::new(4);
        let data_dir = filled(&world).await;
        data_dir.close().unwrap();
        drop(data_dir);
        let runtime = world.restart(NODE);
        let mut disk = runtime.disk();
        let good = files(&*disk);
        let original = {
            let data_dir = start(&runtime).unwrap();
            let original = read_all(&data_dir);
            data_dir.close().unwrap();
            original
        };
        assert!(original.values().all(|entries| entries.as_ref().is_ok_and(|entries| entries.len() == 26)));
        restore(&*disk, &good);
        let newest_index: Vec<PathBuf> = ["events-0", "events-1"]
            .iter()
            .filter_map(|folder| {
                good.keys().rfind(|path| {
                    path.parent().unwrap().ends_with(folder) && path.extension().is_some_and(|ending| ending == "idx")
                })
            })
            .cloned()
            .collect();
        let mut rng = world.rng("flips");
        let (mut flips, mut read, mut not_covered) = (0_u64, 0, 0);
        for (path, bytes) in good.iter().filter(|(path, _)| !path.ends_with("millpond.lock")) {
            // Every byte of every file but the journal's, which are long and full of nothing.
            let step = if path.extension().is_some_and(|ending| ending == "wal") { 997 } else { 1 };
            for at in (0..bytes.len()).step_by(step) {
                let bit = rng.below(8) as u8;
                write_byte(&*disk, path, at, bytes[at] ^ 1 << bit);
                flips += 1;
                let (summary, findings) = check(&*disk);
                let found = summary.damages > 0;
                if is_not_covered(path, at, bytes, &newest_index) {
                    not_covered += 1;
                } else {
                    assert!(found, "bit {bit} of byte {at} of {}: {findings:?}", path.display());
                }
                // Opening it is slow, so a part of them has to do; all kinds of files are among them.
                if flips.is_multiple_of(23) {
                    read += 1;
                    serves_nothing_wrong(&world, &original, &format!("bit {bit} of byte {at} of {}", path.display()));
                    disk = world.runtime_for(NODE).disk();
                    restore(&*disk, &good);
                } else {
                    write_byte(&*disk, path, at, bytes[at]);
                }
            }
        }
        assert!(
            flips > 6_000 && read > 200 && not_covered < flips / 5,
            "{flips} flips, {read} read, {not_covered} not"
        );
    });
}

/// A start refuses the directory, or each log gives an error or what was written.
fn serves_nothing_wrong(world: &World, original: &BTreeMap<u64, Result<Vec<StoredEntry>, String>>, context: &str) {
    let runtime = world.restart(NODE);
    if let Ok(data_dir) = start(&runtime) {
        for (group, entries) in read_all(&data_dir) {
            assert!(entries.is_err() || entries == original[&group], "{context}: group {group}");
        }
    }
    world.crash(NODE, Crash::Kill);
    world.restart(NODE);
}

#[test]
fn a_damaged_batch_is_named_with_its_place_and_what_is_behind_it_is_read_too() {
    block_on(5, async {
        let world = World::new(5);
        let data_dir = filled(&world).await;
        data_dir.close().unwrap();
        let disk = world.runtime_for(NODE).disk();
        let (before, _) = check(&*disk);
        let log = root().join("events-0/00000000000000000000.0000000000.log");
        let bytes = disk.read(&log, 1 << 20).unwrap();
        let first = BatchHeader::read(&bytes).unwrap().size_bytes as usize;
        write_byte(&*disk, &log, first + 70, bytes[first + 70] ^ 4);
        let (summary, findings) = check(&*disk);
        let [damage] = &findings[..] else { panic!("{findings:?}") };
        assert_eq!((damage.severity, damage.position), (Severity::Damage, Some(first as u64)));
        assert_eq!(damage.offset, Some(Offset(2)));
        assert!(damage.to_string().contains("CRC-32C"), "{damage}");
        assert!(summary.batches < before.batches && summary.batches + 5 > before.batches, "{summary:?}");
    });
}

#[test]
fn after_a_kill_the_directory_needs_recovery_and_is_not_damaged() {
    for crash in [Crash::Kill, Crash::PowerCut] {
        block_on(6, async {
            let world = World::new(6);
            let data_dir = filled(&world).await;
            world.crash(NODE, crash);
            drop(data_dir);
            let runtime = world.restart(NODE);
            let before = files(&*runtime.disk());
            let (summary, findings) = check(&*runtime.disk());
            assert!(summary.damages == 0 && summary.recoveries > 0, "{findings:?}");
            assert!(!summary.clean_stop && summary.journal_records > 10, "{summary:?}");
            assert_eq!(files(&*runtime.disk()), before);
            start(&runtime).unwrap().close().unwrap();
            let (summary, findings) = check(&*runtime.disk());
            assert_eq!(summary.damages, 0, "{findings:?}");
        });
    }
}

#[test]
fn a_damaged_record_within_the_journal_is_damage_and_an_unfinished_last_write_is_not() {
    block_on(7, async {
        let world = World::new(7);
        let data_dir = filled(&world).await;
        world.crash(NODE, Crash::Kill);
        drop(data_dir);
        let disk = world.restart(NODE).disk();
        let good = files(&*disk);
        let (summary, _) = check(&*disk);
        let (path, bytes) = good
            .iter()
            .rfind(|(path, bytes)| {
                path.extension().is_some_and(|ending| ending == "wal") && bytes[4096..].iter().any(|byte| *byte != 0)
            })
            .unwrap();
        let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
        write_byte(&*disk, path, end, bytes[end] ^ 1);
        let (torn, findings) = check(&*disk);
        assert!(torn.damages == 0 && torn.journal_records == summary.journal_records - 1, "{findings:?}");
        assert!(findings.iter().any(|finding| finding.what.contains("unfinished")), "{findings:?}");
        restore(&*disk, &good);
        write_byte(&*disk, path, 4096 + 30, bytes[4096 + 30] ^ 1);
        let (damaged, findings) = check(&*disk);
        assert!(damaged.damages > 0, "{findings:?}");
        restore(&*disk, &good);
        write_byte(&*disk, path, 20, bytes[20] ^ 1);
        assert!(check(&*disk).1.iter().any(|finding| finding.what.contains("two copies")));
    });
}

#[test]
fn what_is_no_data_directory_is_refused_in_a_sentence() {
    let disk = World::new(8).runtime_for(NODE).disk();
    let refused = |path: &str| verify(&*disk, Path::new(path), &mut |_| {}).unwrap_err().to_string();
    disk.create_dir_all(Path::new("/srv/other")).unwrap();
    disk.open(Path::new("/srv/file"), OpenMode::Create).unwrap();
    assert!(refused("/srv/missing").contains("no such folder"));
    assert!(refused("/srv/other").contains("neither meta.properties nor groups.table"));
    assert!(refused("/srv/file").contains("is not a data directory"), "{}", refused("/srv/file"));
}

#[test]
fn a_missing_folder_segment_or_index_is_damage() {
    block_on(9, async {
        let world = World::new(9);
        let data_dir = filled(&world).await;
        data_dir.close().unwrap();
        let disk = world.runtime_for(NODE).disk();
        let good = files(&*disk);
        for ending in ["log", "idx"] {
            for path in good.keys().filter(|path| path.extension().is_some_and(|found| found == ending)) {
                disk.remove_file(path).unwrap();
                assert!(check(&*disk).0.damages > 0, "{}", path.display());
                restore(&*disk, &good);
            }
        }
        disk.remove_file(&root().join("groups.table")).unwrap();
        assert_eq!(check(&*disk).0.damages, 1, "the folders are read without it");
        assert!(check(&*disk).0.batches > 50);
        restore(&*disk, &good);
        disk.remove_dir_all(&root().join("events-0")).unwrap();
        assert!(check(&*disk).0.damages > 0);
    });
}

#[test]
fn an_empty_directory_that_was_opened_once_is_whole() {
    block_on(10, async {
        let world = World::new(10);
        let (data_dir, _) = open(&world.runtime_for(NODE)).unwrap();
        data_dir.close().unwrap();
        assert_eq!(check(&*world.runtime_for(NODE).disk()).1, []);
    });
}

#[test]
fn segments_below_the_log_start_are_missed_by_nobody_and_what_is_left_of_their_removal_is_no_damage() {
    block_on(5, async {
        let world = World::new(5);
        let data_dir = filled(&world).await;
        let disk = world.runtime_for(NODE).disk();
        let log = data_dir.log(GroupId(1)).unwrap().unwrap();
        let told = Told::default();
        let start_at = Offset(log.frontiers().log_end.0 - 3);
        log.append_log_start(millpond_record::Term(3), start_at, Timestamp(1), told.done()).unwrap();
        assert!(told.wait(&world).await);
        log.commit(RaftIndex(u64::MAX));
        log.free_below_log_start().unwrap();
        let before = files(&*disk);
        data_dir.checkpoint().unwrap();
        data_dir.close().unwrap();
        let (summary, findings) = check(&*disk);
        assert_eq!(summary.damages, 0, "{findings:?}");

        let after = files(&*disk);
        let is_segment = |path: &Path| path.extension().is_some_and(|kind| kind == "log" || kind == "idx");
        let gone: Files =
            before.into_iter().filter(|(path, _)| is_segment(path) && !after.contains_key(path)).collect();
        assert!(gone.len() >= 4, "{:?}", gone.keys());
        let mut interrupted = after.clone();
        // The oldest went, the next did not: a power cut may leave any of them.
        interrupted.extend(gone.into_iter().skip(2));
        restore(&*disk, &interrupted);
        let (summary, findings) = check(&*disk);
        assert_eq!(summary.damages, 0, "{findings:?}");
        assert!(findings.iter().any(|finding| finding.severity == Severity::NeedsRecovery), "{findings:?}");

        let data_dir = start(&world.runtime_for(NODE)).unwrap();
        assert_eq!(data_dir.log(GroupId(1)).unwrap().unwrap().frontiers().log_start, start_at);
        let left = files(&*disk);
        assert!(after.keys().filter(|path| is_segment(path)).eq(left.keys().filter(|path| is_segment(path))));
        data_dir.close().unwrap();
    });
}
