use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use millpond_runtime::sim::{Crash, DiskFaults, NodeId, World, block_on};

use super::{BEGINNING, append, options, read, start, write};
use crate::StorageOptions;
use crate::journal::JournalEntry;
use crate::journal::scan::ReplayFrom;

const NODE: NodeId = NodeId(1);

/// Lives of one journal, each ended by a power cut at some disk operation. After each, the journal must read back as a
/// prefix of what was submitted in the lives before, with everything that was reported, and nothing else.
fn lives(seed: u64) {
    block_on(seed, async {
        let world = World::new(seed);
        let mut rng = world.rng("test");
        let mut runtime = world.runtime_for(NODE);
        let mut kept: Vec<JournalEntry> = Vec::new();
        let mut from = BEGINNING;
        let mut first_kept = 1;
        for life in 0..6 {
            let options = options(StorageOptions::MIN_JOURNAL_FILE_BYTES, 4);
            let (journal, _) = start(&runtime, &options, from);
            // The checkpoint that frees files, and what the table would say then.
            let handle = journal.clone();
            let covered = Arc::new(std::sync::Mutex::new(from));
            let written = covered.clone();
            journal.set_checkpoint(move || {
                if let Ok((file_number, sequence)) = handle.position() {
                    *written.lock().expect("no panic") = ReplayFrom { file_number, sequence };
                    handle.free_before(file_number);
                }
            });
            let kind = if rng.chance(0.7) { Crash::PowerCut } else { Crash::Kill };
            world.crash_at_disk_op(NODE, world.disk_op_count(NODE) + 1 + rng.below(60), kind);
            let reported = Arc::new(AtomicU64::new(0));
            let mut submitted = kept.clone();
            let deadline = runtime.now() + std::time::Duration::from_secs(5);
            while world.is_alive(NODE) && runtime.now() < deadline {
                let entry = append(life, submitted.len() as u64, rng.index(9000));
                let (reported, sequence) = (reported.clone(), journal.next_sequence());
                let done = move |result: Result<(), crate::StorageError>| {
                    if result.is_ok() {
                        reported.fetch_max(sequence, Ordering::SeqCst);
                    }
                };
                if journal.submit(entry.clone(), Some(Box::new(done))).is_ok() {
                    submitted.push(entry);
                }
                if rng.chance(0.2) {
                    runtime.sleep(std::time::Duration::from_millis(rng.below(5))).await;
                }
            }
            world.crash(NODE, kind);
            runtime = world.restart(NODE);
            from = *covered.lock().expect("no panic");
            let (entries, scanned) =
                read(&*runtime.disk(), from).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            let end = scanned.next_sequence;
            assert!(end > reported.load(Ordering::SeqCst), "seed {seed}: a reported record is lost");
            for (sequence, entry) in &entries {
                let expected = &submitted[(sequence - first_kept) as usize];
                assert_eq!(entry, expected, "seed {seed} life {life}: record {sequence}");
            }
            submitted.truncate((end - first_kept) as usize);
            // What a checkpoint covered is gone from the journal; it only keeps its numbers.
            kept = submitted;
            first_kept = 1;
        }
    });
}

#[test]
fn a_journal_reads_back_what_it_reported_and_nothing_else_over_many_crashes() {
    for seed in 0..60 {
        lives(seed);
    }
}

#[test]
fn a_write_whose_sync_failed_is_made_durable_before_it_is_believed() {
    for seed in 0..40 {
        block_on(seed, async {
            let world = World::new(seed);
            let runtime = world.runtime_for(NODE);
            let options = options(1 << 20, 4);
            let (journal, _) = start(&runtime, &options, BEGINNING);
            for index in 0..seed {
                write(&journal, append(1, index, 700)).await.unwrap();
            }
            world.set_disk_faults(NODE, DiskFaults { sync_error: 1.0, ..DiskFaults::default() });
            for index in seed..seed + 20 {
                // Until it is known to have failed, when submitting is refused.
                let _ = journal.submit(append(1, index, 700), None);
            }
            assert!(write(&journal, append(2, 0, 700)).await.is_err());
            world.set_disk_faults(NODE, DiskFaults::default());
            // The process ends, the machine lives on and shows the next one what it has in its page cache.
            world.crash(NODE, Crash::Kill);
            let runtime = world.restart(NODE);
            let _journal = start(&runtime, &options, BEGINNING);
            let (believed, _) = read(&*runtime.disk(), BEGINNING).unwrap();
            world.crash(NODE, Crash::PowerCut);
            let runtime = world.restart(NODE);
            let (kept, _) = read(&*runtime.disk(), BEGINNING).unwrap();
            assert_eq!(kept, believed, "seed {seed}");
        });
    }
}
