//! Relaxed logs: what is journaled, when an append is reported, how a log becomes durable.

use millpond_runtime::sim::DiskFaults;

use super::*;

/// Appends and gives the count of calls of `done`.
fn append(bench: &Bench, body: Body) -> Arc<AtomicUsize> {
    let (done, count) = counted();
    bench.log.append(vec![bench.entry(1, body)], done).unwrap();
    count
}

fn write(bench: &Bench) {
    let written = bench.log.write_behind(u64::MAX).unwrap();
    written.acks.into_iter().for_each(|done| done(Ok(())));
}

fn called(count: &Arc<AtomicUsize>) -> usize {
    count.load(Ordering::Relaxed)
}

fn data() -> Body {
    Body::Proposed(proposal(plain(1, 10, 0)))
}

fn voters() -> Body {
    Body::RaftOnly { kind: RaftOnlyKind::Membership, payload: Bytes::from_static(b"voters"), time: Timestamp(1) }
}

/// Counts how often a checkpoint is asked for.
fn asked(bench: &Bench) -> Arc<AtomicUsize> {
    let count = Arc::new(AtomicUsize::new(0));
    let asked = count.clone();
    bench.context.on_checkpoint_wanted(move || {
        asked.fetch_add(1, Ordering::Relaxed);
    });
    count
}

#[test]
fn a_batch_of_a_relaxed_log_skips_the_journal_and_is_reported_by_its_write() {
    with_log(1, small_options(), relaxed(1 << 20), |bench| async move {
        let count = append(&bench, data());
        assert_eq!((bench.journal.len(), called(&count)), (0, 0));
        write(&bench);
        assert_eq!(called(&count), 1);
    });
}

#[test]
fn a_control_entry_of_a_relaxed_log_waits_for_the_journal_and_for_the_writes_before_it() {
    with_log(1, small_options(), relaxed(1 << 20), |bench| async move {
        let first = append(&bench, data());
        let control = append(&bench, blank(b""));
        let last = append(&bench, data());
        assert_eq!(bench.journal.len(), 1);
        bench.journal.sync();
        assert_eq!(called(&control), 0, "the batch before it is not written");
        write(&bench);
        assert_eq!([called(&first), called(&control), called(&last)], [1, 1, 1]);

        let control = append(&bench, blank(b""));
        let behind = append(&bench, data());
        write(&bench);
        assert_eq!([called(&control), called(&behind)], [0, 0], "reports keep the order of the log");
        bench.journal.sync();
        assert_eq!([called(&control), called(&behind)], [1, 1]);
    });
}

#[test]
fn votes_of_a_relaxed_log_are_journaled() {
    with_log(1, small_options(), relaxed(1 << 20), |bench| async move {
        let (done, count) = counted();
        bench.log.save_vote(Vote { term: Term(200), replica: ReplicaId(1), committed: true }, done);
        assert_eq!((bench.journal.len(), called(&count)), (1, 0));
        bench.journal.sync();
        assert_eq!(called(&count), 1);
    });
}

#[test]
fn a_log_that_becomes_durable_reports_when_what_came_before_is_synced() {
    with_log(1, small_options(), relaxed(1 << 20), |mut bench| async move {
        append(&bench, data());
        write(&bench);
        bench.log.set_options(durable(1 << 20)).unwrap();
        let count = append(&bench, data());
        bench.journal.sync();
        write(&bench);
        assert_eq!(called(&count), 0, "the relaxed batch before it is only in the page cache");
        bench.table = bench.log.sync_segments().unwrap();
        assert_eq!(called(&count), 1);
        let count = append(&bench, data());
        bench.journal.sync();
        assert_eq!(called(&count), 1, "from now on the journal alone reports");
        bench.crash(Crash::PowerCut, 0);
        bench.recover().unwrap();
        assert_eq!(bench.entries().len(), 3);
    });
}

#[test]
fn a_membership_of_a_relaxed_log_is_reported_when_all_before_it_is_synced() {
    with_log(1, small_options(), relaxed(1 << 20), |mut bench| async move {
        let asked = asked(&bench);
        let first = append(&bench, voters());
        bench.journal.sync();
        write(&bench);
        assert_eq!([called(&first), called(&asked)], [1, 0], "everything is in the journal");
        let before = append(&bench, data());
        let membership = append(&bench, voters());
        let behind = append(&bench, data());
        bench.journal.sync();
        write(&bench);
        assert_eq!([called(&before), called(&membership), called(&behind)], [1, 0, 0]);
        assert_eq!(called(&asked), 1);
        bench.table = bench.log.sync_segments().unwrap();
        assert_eq!([called(&membership), called(&behind)], [1, 1]);
        append(&bench, data());
        write(&bench);
        bench.crash(Crash::PowerCut, 0);
        bench.recover().unwrap();
        assert_eq!(bench.entries().len(), 4, "what it was told of is there, and what came after need not be");
    });
}

#[test]
fn a_checkpoint_that_a_truncation_kept_from_a_log_is_asked_for_again() {
    for becomes_durable in [false, true] {
        with_log(1, small_options(), relaxed(1 << 20), |bench| async move {
            let asked = asked(&bench);
            append(&bench, data());
            append(&bench, data());
            write(&bench);
            bench.log.truncate_after(Some(RaftIndex(0))).unwrap();
            let late = if becomes_durable {
                bench.log.set_options(durable(1 << 20)).unwrap();
                None
            } else {
                Some(append(&bench, voters()))
            };
            assert_eq!(called(&asked), 1);
            assert!(matches!(bench.log.sync_segments(), Err(StorageError::TruncationPending(GROUP))));
            bench.journal.sync();
            assert_eq!(called(&asked), 2);
            let late = late.unwrap_or_else(|| append(&bench, data()));
            bench.journal.sync();
            write(&bench);
            assert_eq!(called(&late), 0);
            bench.log.sync_segments().unwrap();
            assert_eq!(called(&late), 1);
        });
    }
}

#[test]
fn a_disk_that_is_full_for_a_while_delays_a_membership_and_ends_nothing() {
    with_log(1, small_options(), relaxed(1 << 20), |bench| async move {
        append(&bench, data());
        let membership = append(&bench, voters());
        bench.journal.sync();
        write(&bench);
        bench.world.set_disk_faults(NODE, DiskFaults { capacity_bytes: 0, ..DiskFaults::default() });
        let behind = append(&bench, voters());
        bench.journal.sync();
        assert!(bench.log.sync_segments().is_err());
        assert_eq!([called(&membership), called(&behind)], [0, 0], "nobody is told of an error, which would be final");
        bench.world.set_disk_faults(NODE, DiskFaults::default());
        bench.log.sync_segments().unwrap();
        assert_eq!([called(&membership), called(&behind)], [1, 1]);
    });
}

#[test]
fn a_membership_counts_as_soon_as_what_was_before_it_is_synced() {
    with_log(1, small_options(), relaxed(1 << 20), |bench| async move {
        append(&bench, data());
        write(&bench);
        bench.log.sync_segments().unwrap();
        let before = append(&bench, voters());
        append(&bench, data());
        bench.journal.sync();
        write(&bench);
        assert_eq!(called(&before), 1, "what comes after it need not be synced");
    });
}

#[test]
fn a_membership_behind_a_checkpoint_that_is_not_done_counts_on_a_folder_that_stays() {
    // What a power cut takes of what was not synced is up to the seed.
    for seed in 0..20 {
        with_log(seed, small_options(), relaxed(1 << 20), |mut bench| async move {
            let row = GroupRow { partition: PartitionIndex(1), ..bench.table.clone() };
            let disk = bench.world.runtime_for(NODE).disk();
            disk.create_dir_all(&root().join(row.folder())).unwrap();
            bench.log = Log::open(&bench.context, &row).unwrap();
            append(&bench, data());
            write(&bench);
            // A checkpoint syncs the data directory when it has synced all logs.
            bench.log.sync_segments().unwrap();
            let membership = append(&bench, voters());
            bench.journal.sync();
            write(&bench);
            assert_eq!(called(&membership), 1);
            bench.crash(Crash::PowerCut, 0);
            let left = bench.world.runtime_for(NODE).disk().read_dir(&root()).unwrap();
            assert!(left.iter().any(|entry| Path::new(&entry.name) == Path::new(&row.folder())), "{left:?}");
        });
    }
}

#[test]
fn a_log_that_becomes_relaxed_reports_nothing_before_what_was_durable() {
    with_log(1, small_options(), durable(1 << 20), |bench| async move {
        let first = append(&bench, data());
        bench.log.set_options(relaxed(1 << 20)).unwrap();
        let second = append(&bench, data());
        let third = append(&bench, data());
        write(&bench);
        assert_eq!([called(&first), called(&second), called(&third)], [0, 0, 0]);
        bench.journal.sync();
        assert_eq!([called(&first), called(&second), called(&third)], [1, 1, 1]);
        assert_eq!(bench.journal.len(), 3, "two batches and the setting: the third batch skipped it");
    });
}

#[test]
fn after_a_truncation_a_relaxed_log_journals_batches_until_the_record_cannot_be_replayed_any_more() {
    with_log(1, small_options(), relaxed(1 << 20), |mut bench| async move {
        append(&bench, data());
        append(&bench, data());
        write(&bench);
        bench.log.truncate_after(Some(RaftIndex(0))).unwrap();
        let count = append(&bench, data());
        assert_eq!(bench.journal.len(), 2);
        bench.journal.sync();
        write(&bench);
        assert_eq!(called(&count), 1);
        // The process ends and the page cache stays: the truncation is replayed, and the batch behind it.
        bench.crash(Crash::Kill, 0);
        bench.recover().unwrap();
        assert_eq!(bench.entries().len(), 2);
        for _ in 0..3 {
            bench.checkpoint();
        }
        let journaled = bench.journal.len();
        append(&bench, data());
        assert_eq!(bench.journal.len(), journaled);
    });
}
