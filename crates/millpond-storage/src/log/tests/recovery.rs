//! What a recovery refuses, keeps and makes durable.

use millpond_runtime::sim::DiskFaults;

use super::*;

fn refusal(bench: &mut Bench) -> String {
    bench.recover().unwrap_err().to_string()
}

#[test]
fn a_log_whose_vote_was_lost_is_refused() {
    with_log(1, small_options(), durable(1 << 20), |mut bench| async move {
        bench.put(101, 1, 10, 0);
        bench.journal.sync();
        bench.crash(Crash::PowerCut, 0);
        assert!(refusal(&mut bench).contains("a vote was lost"));
    });
}

#[test]
fn a_log_that_ends_before_p_or_before_what_was_committed_is_refused() {
    for with_p in [true, false] {
        with_log(1, small_options(), durable(1 << 20), |mut bench| async move {
            bench.checkpoint();
            let mut damaged = bench.table.clone();
            let id = millpond_record::LogId { term: Term(3), index: RaftIndex(9) };
            if with_p {
                damaged.purged = Some(crate::types::LogPosition { term: id.term, index: id.index, offset: Offset(4) });
            } else {
                damaged.committed = Some(id);
            }
            bench.table = damaged;
            bench.crash(Crash::Kill, 0);
            let expected = if with_p { "before P" } else { "before the committed entry" };
            let error = refusal(&mut bench);
            assert!(error.contains(expected), "{error}");
        });
    }
}

#[test]
fn a_relaxed_log_that_lost_its_tail_is_committed_up_to_what_is_left() {
    with_log(1, small_options(), relaxed(1 << 20), |mut bench| async move {
        bench.put(1, 2, 10, 0);
        bench.checkpoint();
        bench.put(1, 3, 10, 0);
        bench.commit_all();
        bench.table.committed = bench.log.frontiers().committed;
        bench.crash(Crash::PowerCut, 0);
        bench.recover().unwrap();
        let frontiers = bench.log.frontiers();
        assert_eq!((frontiers.log_end, frontiers.high_watermark), (Offset(2), Offset(2)));
        assert_eq!(frontiers.committed, frontiers.last);
    });
}

#[test]
fn a_segment_that_is_shorter_than_the_table_says_is_refused() {
    with_log(1, small_options(), durable(1 << 20), |mut bench| async move {
        bench.put(1, 2, 100, 0);
        bench.put(1, 2, 100, 0);
        bench.checkpoint();
        let path = bench.files("log").remove(0);
        let disk = bench.world.runtime_for(NODE).disk();
        disk.open(&path, millpond_runtime::OpenMode::Write).unwrap().set_len(50).unwrap();
        bench.crash(Crash::Kill, 0);
        assert!(refusal(&mut bench).contains("shorter than the table says"));
        assert!(Log::open(&bench.context, &bench.table).is_err());
    });
}

#[test]
fn what_the_segments_hold_beyond_the_journal_is_kept_and_made_durable() {
    with_log(1, small_options(), durable(1 << 20), |mut bench| async move {
        bench.put(1, 2, 100, 0);
        bench.put(1, 3, 100, 0);
        bench.log.write_behind(u64::MAX).unwrap();
        let written = bench.entries();
        bench.crash(Crash::Kill, 0);
        bench.recover().unwrap();
        assert_eq!(bench.entries(), written);
        assert_eq!(bench.journal.len(), 2, "the journal is told, so that what follows continues it");
        bench.crash(Crash::PowerCut, 0);
        bench.recover().unwrap();
        assert_eq!(bench.entries(), written, "it was reported, so it is durable");
    });
}

#[test]
fn a_torn_end_of_the_segment_is_cut() {
    with_log(1, small_options(), durable(1 << 20), |mut bench| async move {
        bench.put(1, 2, 100, 0);
        bench.put(1, 2, 100, 0);
        bench.log.write_behind(u64::MAX).unwrap();
        let path = bench.files("log").remove(0);
        let file = bench.world.runtime_for(NODE).disk().open(&path, millpond_runtime::OpenMode::Write).unwrap();
        let half = file.len().unwrap() * 3 / 4;
        file.set_len(half).unwrap();
        bench.crash(Crash::Kill, 0);
        bench.recover().unwrap();
        assert_eq!(bench.entries().len(), 1);
        let left = bench.world.peek(NODE, &path).unwrap();
        assert_eq!(left.len(), bench.entries()[0].1.size_bytes());
    });
}

#[test]
fn a_clean_start_reads_no_more_than_the_end_of_the_log() {
    with_log(
        1,
        StorageOptions { index_interval_bytes: 4096, ..small_options() },
        durable(1 << 30),
        |mut bench| async move {
            for at in 0..700 {
                bench.put(1, 1, 1000, at);
            }
            bench.commit_all();
            bench.reopen();
            assert_eq!(bench.files("snap").len(), 1, "a clean stop leaves a snapshot");
            assert_eq!(bench.log.frontiers().high_watermark, Offset(700));
            // The first batches are damaged; nobody looks at them.
            let path = bench.files("log").remove(0);
            let file = bench.world.runtime_for(NODE).disk().open(&path, millpond_runtime::OpenMode::Write).unwrap();
            file.write_all_at(&[std::io::IoSlice::new(&[0xff; 5000])], 0).unwrap();
            bench.reopen();
            assert_eq!(bench.log.frontiers().high_watermark, Offset(700));
            assert!(read(&bench.log, 699, 700, 10, true).is_ok());
            assert!(read(&bench.log, 0, 700, 10, true).is_err());
        },
    );
}

#[test]
fn segments_are_not_cut_before_the_journal_has_the_truncation() {
    with_log(1, small_options(), durable(1 << 20), |mut bench| async move {
        bench.put(1, 2, 100, 0);
        bench.put(1, 2, 100, 0);
        bench.checkpoint();
        bench.log.truncate_after(Some(RaftIndex(0))).unwrap();
        bench.put(2, 1, 10, 0);
        let path = bench.files("log").remove(0);
        let before = bench.world.peek(NODE, &path).unwrap().len();
        bench.log.write_behind(u64::MAX).unwrap();
        assert_eq!(bench.world.peek(NODE, &path).unwrap().len(), before);
        assert!(matches!(bench.log.sync_segments(), Err(StorageError::TruncationPending(GROUP))));
        bench.journal.sync();
        bench.log.write_behind(u64::MAX).unwrap();
        assert!(bench.world.peek(NODE, &path).unwrap().len() < before);
        bench.log.sync_segments().unwrap();
    });
}

#[test]
fn a_failed_sync_of_a_segment_sets_the_copy_aside() {
    with_log(1, small_options(), durable(1 << 20), |bench| async move {
        bench.put(1, 2, 100, 0);
        bench.journal.sync();
        let faults = DiskFaults { sync_error: 1.0, ..DiskFaults::default() };
        bench.world.set_disk_faults(NODE, faults);
        assert!(matches!(bench.log.sync_segments(), Err(StorageError::SetAside(GROUP))));
        bench.world.set_disk_faults(NODE, DiskFaults::default());
        assert!(matches!(bench.log.sync_segments(), Err(StorageError::SetAside(GROUP))), "it is not tried again");
        assert!(bench.log.row().set_aside);
        let refused = bench.log.append_solo(Term(1), proposal(plain(1, 1, 0)), Box::new(|_| {}));
        assert!(refused.is_err(), "it acknowledges nothing any more");
        let row = bench.log.row();
        assert!(matches!(Log::open(&bench.context, &row), Err(StorageError::SetAside(GROUP))));
    });
}

#[test]
fn a_batch_stays_in_the_cache_until_it_is_written() {
    let options = StorageOptions { tail_cache_bytes: 0, ..small_options() };
    with_log(1, options, durable(1 << 20), |bench| async move {
        bench.put(1, 2, 100, 0);
        bench.put(1, 2, 100, 0);
        assert_eq!(bench.log.evict(RaftIndex(u64::MAX)), 0);
        assert!(matches!(bench.log.read(Offset(0), Offset(4), 1000, true), Ok(Read::Ready(_))));
        bench.log.write_behind(u64::MAX).unwrap();
        bench.context.cache.make_room();
        assert_eq!((bench.context.cache.used_bytes(), bench.context.cache.dirty_bytes()), (0, 0));
        assert!(matches!(bench.log.read(Offset(0), Offset(4), 1000, true), Ok(Read::Cold(_))));
        assert_eq!(read(&bench.log, 0, 4, 1000, true).unwrap().len(), bench.entries()[0].1.size_bytes() * 2);
    });
}

#[test]
fn a_retired_log_takes_and_reads_nothing_and_gives_its_memory_back() {
    with_log(1, small_options(), relaxed(1 << 20), |bench| async move {
        bench.put(1, 2, 100, 0);
        bench.log.retire();
        assert_eq!((bench.context.cache.used_bytes(), bench.context.cache.dirty_bytes()), (0, 0));
        let refused = bench.log.append_solo(Term(1), proposal(plain(1, 1, 0)), Box::new(|_| {}));
        assert!(matches!(refused, Err(StorageError::LogClosed(GROUP))));
        assert!(bench.log.write_behind(u64::MAX).is_err() || bench.files("log").is_empty());
    });
}
