use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use millpond_record::GroupId;
use millpond_runtime::sim::{DiskFaults, NodeId, World, block_on};

use super::{BEGINNING, append, options, read, start, write};
use crate::journal::scan::ReplayFrom;
use crate::journal::{JournalEntry, JournalHandle};
use crate::{StorageError, StorageOptions};

const NODE: NodeId = NodeId(1);
const SMALL: u64 = StorageOptions::MIN_JOURNAL_FILE_BYTES;

/// Plays the checkpoint: everything that was submitted counts as covered when the journal asks.
fn checkpoint_at_once(journal: &JournalHandle) -> Arc<AtomicU64> {
    let covered = Arc::new(AtomicU64::new(1));
    let (handle, covered_file) = (journal.clone(), covered.clone());
    journal.set_checkpoint(move || {
        let (file, _) = handle.position().expect("the journal works");
        covered_file.store(file, Ordering::SeqCst);
        handle.free_before(file);
    });
    covered
}

#[test]
fn entries_are_read_back_in_the_order_of_their_submission() {
    block_on(1, async {
        let runtime = World::new(1).runtime_for(NODE);
        let (journal, _) = start(&runtime, &options(1 << 20, 3), BEGINNING);
        for index in 0..50 {
            journal.submit(append(index % 3, index, 20 * index as usize), None).unwrap();
        }
        write(&journal, append(7, 0, 1)).await.unwrap();
        let (entries, scanned) = read(&*runtime.disk(), BEGINNING).unwrap();
        let mut expected: Vec<_> = (0..50).map(|index| append(index % 3, index, 20 * index as usize)).collect();
        expected.push(append(7, 0, 1));
        assert_eq!(entries.into_iter().map(|(_, entry)| entry).collect::<Vec<_>>(), expected);
        assert_eq!(scanned.next_sequence, 52);
        assert_eq!(journal.next_sequence(), 52);
    });
}

#[test]
fn every_done_is_called_in_order_and_not_before_a_sync_that_covers_it() {
    for seed in 0..30 {
        block_on(seed, async {
            let world = World::new(seed);
            let runtime = world.runtime_for(NODE);
            let (journal, _) = start(&runtime, &options(1 << 20, 3), BEGINNING);
            let next = Arc::new(AtomicU64::new(0));
            let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
            let mut submitted = 0;
            for submitter in 0..20 {
                for _ in 0..5 {
                    let (number, next, sender) = (submitted, next.clone(), sender.clone());
                    let done = move |result: Result<(), StorageError>| {
                        result.unwrap();
                        assert_eq!(next.fetch_add(1, Ordering::SeqCst), number);
                        sender.send(number).unwrap();
                    };
                    journal.submit(append(submitter, number, 500), Some(Box::new(done))).unwrap();
                    submitted += 1;
                }
                runtime.sleep(std::time::Duration::from_millis(submitter % 4)).await;
            }
            // A power cut at any time keeps what was reported, in whatever pages the disk chose to keep.
            let mut reported = 0;
            while reported < submitted / 2 {
                receiver.recv().await.unwrap();
                reported += 1;
            }
            world.crash(NODE, millpond_runtime::sim::Crash::PowerCut);
            let reported = next.load(Ordering::SeqCst);
            let runtime = world.restart(NODE);
            let (entries, _) = read(&*runtime.disk(), BEGINNING).unwrap();
            assert!(entries.len() as u64 >= reported, "seed {seed}: {} of {reported}", entries.len());
        });
    }
}

#[test]
fn entries_that_arrive_during_a_sync_share_the_next_one() {
    block_on(3, async {
        let runtime = World::new(3).runtime_for(NODE);
        let (journal, _) = start(&runtime, &options(1 << 20, 3), BEGINNING);
        for index in 0..1000 {
            journal.submit(append(1, index, 10), None).unwrap();
        }
        write(&journal, append(1, 1000, 10)).await.unwrap();
        let mut stats = Default::default();
        journal.read_stats(&mut stats);
        assert_eq!((stats.journal_records, stats.journal_pending_bytes), (1001, 0));
        assert!(stats.journal_rounds <= 2, "{} rounds", stats.journal_rounds);
    });
}

#[test]
fn a_failed_sync_is_final_and_is_reported_once() {
    for seed in 0..20 {
        block_on(seed, async {
            let world = World::new(seed);
            let runtime = world.runtime_for(NODE);
            let (journal, fatal) = start(&runtime, &options(1 << 20, 3), BEGINNING);
            write(&journal, append(1, 0, 100)).await.unwrap();
            world.set_disk_faults(NODE, DiskFaults { sync_error: 1.0, ..DiskFaults::default() });
            let failed = Arc::new(AtomicU64::new(0));
            for index in 1..20 {
                let failed = failed.clone();
                let done = move |result: Result<(), StorageError>| {
                    assert!(matches!(result, Err(StorageError::JournalFailed { .. })));
                    failed.fetch_add(1, Ordering::SeqCst);
                };
                // Once it is known, a submit is refused at once.
                if let Err(error) = journal.submit(append(1, index, 100), Some(Box::new(done))) {
                    assert!(matches!(error, StorageError::JournalFailed { .. }));
                    break;
                }
                runtime.sleep(std::time::Duration::from_millis(1)).await;
            }
            while fatal.count() == 0 {
                runtime.sleep(std::time::Duration::from_millis(1)).await;
            }
            assert!(journal.position().is_err());
            // The disk works again, but what the failed sync covered may be gone, so nothing is written any more.
            world.set_disk_faults(NODE, DiskFaults::default());
            let operations = world.disk_op_count(NODE);
            assert!(journal.submit(append(1, 99, 100), None).is_err());
            runtime.sleep(std::time::Duration::from_millis(100)).await;
            assert_eq!(world.disk_op_count(NODE), operations);
            assert_eq!(fatal.count(), 1);
            assert!(failed.load(Ordering::SeqCst) > 0);
            assert!(journal.close(|| Ok(())).is_err());
        });
    }
}

#[test]
fn a_batch_that_fits_into_no_file_is_refused_with_the_limit() {
    block_on(1, async {
        let runtime = World::new(1).runtime_for(NODE);
        let options = options(SMALL, 3);
        let (journal, _) = start(&runtime, &options, BEGINNING);
        let most = journal.max_batch_bytes() as usize - 62;
        let error = journal.submit(append(1, 0, most + 1), None).unwrap_err();
        assert!(matches!(error, StorageError::BatchTooLarge { limit, .. } if limit == journal.max_batch_bytes()));
        assert_eq!(journal.next_sequence(), 1, "nothing was appended");
        let together = [append(1, 0, 5), append(1, 1, most + 1)];
        assert!(journal.submit_all(together, None).is_err());
        assert_eq!(journal.next_sequence(), 1, "of several, none was appended");
        checkpoint_at_once(&journal);
        for index in 0..5 {
            write(&journal, append(1, index, most)).await.unwrap();
        }
    });
}

#[test]
fn a_large_batch_behind_a_small_record_gets_a_new_file() {
    for close in [false, true] {
        block_on(1, async {
            let runtime = World::new(1).runtime_for(NODE);
            let (journal, _) = start(&runtime, &options(1 << 20, 3), BEGINNING);
            write(&journal, append(1, 0, 10)).await.unwrap();
            let large = append(1, 1, journal.max_batch_bytes() as usize - 62);
            if close {
                journal.submit(large, None).unwrap();
                journal.close(|| Ok(())).unwrap();
            } else {
                write(&journal, large).await.unwrap();
            }
            assert_eq!(read(&*runtime.disk(), BEGINNING).unwrap().0.len(), 2);
        });
    }
}

#[test]
fn closing_a_journal_on_a_full_disk_ends_with_an_error() {
    block_on(1, async {
        let world = World::new(1);
        let runtime = world.runtime_for(NODE);
        let (journal, fatal) = start(&runtime, &options(1 << 20, 3), BEGINNING);
        write(&journal, append(1, 0, 10)).await.unwrap();
        world.set_disk_faults(NODE, DiskFaults { capacity_bytes: 0, ..DiskFaults::default() });
        journal.submit(append(1, 1, journal.max_batch_bytes() as usize - 62), None).unwrap();
        assert!(journal.close(|| Ok(())).is_err());
        assert_eq!(fatal.count(), 1);
    });
}

#[test]
fn files_are_recycled_under_load_and_their_number_is_bounded() {
    for seed in 0..20 {
        block_on(seed, async {
            let world = World::new(seed);
            let runtime = world.runtime_for(NODE);
            let (journal, fatal) = start(&runtime, &options(SMALL, 4), BEGINNING);
            let covered = checkpoint_at_once(&journal);
            // About 40 files' worth.
            for index in 0..300 {
                journal.submit(append(1, index, 8000), None).unwrap();
                if index % 16 == 0 {
                    write(&journal, JournalEntry::Delete { group: GroupId(index) }).await.unwrap();
                }
            }
            write(&journal, append(1, 300, 8000)).await.unwrap();
            let disk = runtime.disk();
            let folder = crate::journal::scan::folder_of(&super::root());
            let numbers = crate::journal::scan::list(&*disk, &folder).unwrap();
            assert!(numbers.len() <= 4, "{numbers:?}");
            assert!(*numbers.last().unwrap() > 30, "{numbers:?}");
            let from = covered.load(Ordering::SeqCst);
            // What is not covered reads back without a gap, up to the very last.
            let first = numbers.iter().position(|number| *number >= from).expect("the file written to is there");
            let bytes = disk.read(&crate::journal::file::path_of(&folder, numbers[first]), 1 << 20).unwrap();
            let header = crate::journal::file::FileHeader::find(&bytes, numbers[first]);
            let crate::journal::file::HeaderFound::Header(header) = header else { panic!("no header") };
            let from = ReplayFrom { file_number: from, sequence: header.first_sequence };
            let (entries, scanned) = read(&*disk, from).unwrap();
            assert_eq!(scanned.next_sequence, journal.next_sequence());
            assert_eq!(entries.last().unwrap().1, append(1, 300, 8000));
            assert_eq!(fatal.count(), 0);
        });
    }
}

#[test]
fn the_flush_waits_for_a_checkpoint_when_no_file_is_free() {
    block_on(5, async {
        let runtime = World::new(5).runtime_for(NODE);
        let (journal, _) = start(&runtime, &options(SMALL, 3), BEGINNING);
        let asked = Arc::new(AtomicBool::new(false));
        let flag = asked.clone();
        journal.set_checkpoint(move || flag.store(true, Ordering::SeqCst));
        let finished = Arc::new(AtomicBool::new(false));
        for index in 0..40 {
            let finished = finished.clone();
            let last = index == 39;
            let done = move |result: Result<(), StorageError>| {
                result.unwrap();
                finished.fetch_or(last, Ordering::SeqCst);
            };
            journal.submit(append(1, index, 8000), Some(Box::new(done))).unwrap();
        }
        runtime.sleep(std::time::Duration::from_secs(2)).await;
        assert!(asked.load(Ordering::SeqCst));
        assert!(!finished.load(Ordering::SeqCst));
        let mut stats = Default::default();
        journal.read_stats(&mut stats);
        assert_eq!(stats.journal_waits, 1, "it waits once and does not spin");
        let bound = runtime.now() + std::time::Duration::from_secs(10);
        while !finished.load(Ordering::SeqCst) {
            assert!(runtime.now() < bound);
            journal.free_before(journal.position().unwrap().0);
            runtime.sleep(std::time::Duration::from_millis(50)).await;
        }
    });
}

#[test]
fn a_disk_that_is_full_stops_the_growth_and_not_the_journal() {
    block_on(8, async {
        let world = World::new(8);
        let runtime = world.runtime_for(NODE);
        let (journal, fatal) = start(&runtime, &options(SMALL, 8), BEGINNING);
        checkpoint_at_once(&journal);
        for index in 0..12 {
            write(&journal, append(1, index, 8000)).await.unwrap();
        }
        // The ready files are filled by now; no other can be made.
        runtime.sleep(std::time::Duration::from_secs(1)).await;
        world.set_disk_faults(NODE, DiskFaults { capacity_bytes: 0, ..DiskFaults::default() });
        for index in 12..200 {
            write(&journal, append(1, index, 8000)).await.unwrap();
        }
        assert_eq!(fatal.count(), 0);
    });
}

#[test]
fn closing_writes_what_is_pending_and_refuses_what_comes_later() {
    for seed in 0..20 {
        block_on(seed, async {
            let runtime = World::new(seed).runtime_for(NODE);
            let (journal, _) = start(&runtime, &options(SMALL, 3), BEGINNING);
            let done = Arc::new(AtomicU64::new(0));
            for index in 0..60 {
                let done = done.clone();
                let count = move |result: Result<(), StorageError>| {
                    result.unwrap();
                    done.fetch_add(1, Ordering::SeqCst);
                };
                journal.submit(append(1, index, 8000), Some(Box::new(count))).unwrap();
            }
            if seed % 2 == 0 {
                runtime.sleep(std::time::Duration::from_millis(seed)).await;
            }
            let handle = journal.clone();
            let close = move || {
                handle.free_before(handle.position()?.0);
                Ok(())
            };
            journal.close(close).unwrap();
            assert_eq!(done.load(Ordering::SeqCst), 60);
            assert!(matches!(journal.submit(append(1, 60, 1), None), Err(StorageError::Closed(_))));
        });
    }
}
