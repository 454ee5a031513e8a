//! The log start, P and the removal of segments, one step after the other and with a crash between any two.

use super::*;
use crate::log::Freeing;
use crate::retention::Limits;
use crate::types::Newest;

const SEGMENT: u32 = 2000;

/// Three closed segments and an active one, of two batches each; what they hold ends at these offsets.
fn fill(bench: &Bench) -> Vec<i64> {
    let mut ends = Vec::new();
    for batch in 0..8 {
        bench.put(1, 3, 280, 1000 * batch);
        if batch % 2 == 1 {
            ends.push(bench.log.frontiers().log_end.0);
        }
    }
    bench.commit_all();
    ends
}

fn move_log_start(bench: &Bench, offset: i64) {
    bench.log.append_log_start(Term(1), Offset(offset), Timestamp(9_000), Box::new(|_| {})).unwrap();
    bench.commit_all();
}

fn is_out_of_range(bench: &Bench, offset: i64) -> bool {
    matches!(bench.log.read(Offset(offset), Offset(1 << 40), 100, true), Err(ReadError::OutOfRange { .. }))
}

#[test]
fn segments_below_the_log_start_go_with_the_checkpoint_that_knows_it_and_stay_gone() {
    with_log(1, small_options(), durable(SEGMENT), |mut bench| async move {
        let ends = fill(&bench);
        assert_eq!(ends.len(), 4);
        bench.checkpoint();
        assert_eq!((bench.files("log").len(), bench.files("idx").len()), (4, 4));

        move_log_start(&bench, ends[1] + 1);
        assert!(is_out_of_range(&bench, ends[1]) && !is_out_of_range(&bench, ends[1] + 1));
        bench.checkpoint();
        assert_eq!(bench.files("log").len(), 4, "nothing goes before P has moved");
        assert!(bench.log.retained().freeable);

        assert_eq!(bench.log.free_below_log_start().unwrap(), Freeing::AwaitsCheckpoint);
        assert_eq!(bench.log.purged().map(|purged| purged.offset), Some(Offset(ends[1])));
        assert_eq!(bench.files("log").len(), 4, "nothing goes before the table knows");
        bench.checkpoint();
        assert_eq!((bench.files("log").len(), bench.files("idx").len()), (2, 2));
        assert_eq!(bench.log.free_below_log_start().unwrap(), Freeing::Nothing);

        for again in 0..3 {
            match again {
                0 => bench.reopen(),
                1 => {
                    bench.crash(Crash::PowerCut, 0);
                    bench.recover().unwrap();
                }
                _ => {
                    bench.crash(Crash::Kill, 9);
                    bench.recover().unwrap();
                }
            }
            bench.commit_all();
            let frontiers = bench.log.frontiers();
            assert_eq!((frontiers.log_start.0, frontiers.log_end.0), (ends[1] + 1, ends[3]));
            assert_eq!(bench.files("log").len(), 2);
            assert!(!read(&bench.log, ends[1] + 1, ends[3], 1 << 20, true).unwrap().is_empty());
        }
    });
}

#[test]
fn a_crash_after_any_step_of_a_removal_leaves_a_log_that_goes_on_with_it() {
    for step in 0..6 {
        for kind in [Crash::Kill, Crash::PowerCut] {
            with_log(10 + step, small_options(), durable(SEGMENT), |mut bench| async move {
                let ends = fill(&bench);
                if step != 1 {
                    bench.checkpoint();
                }
                if step >= 2 {
                    move_log_start(&bench, ends[3]);
                }
                if step >= 3 {
                    bench.log.free_below_log_start().unwrap();
                }
                if step >= 4 {
                    bench.journal.sync();
                    bench.table = bench.log.sync_segments().unwrap();
                }
                if step >= 5 {
                    bench.log.remove_below(&bench.table);
                }
                bench.journal.sync();
                bench.crash(kind, 0);
                bench.recover().unwrap();
                bench.commit_all();
                assert_eq!(bench.log.frontiers().log_end.0, ends[3]);
                let expected = if step >= 2 { ends[3] } else { 0 };
                assert_eq!(bench.log.frontiers().log_start.0, expected, "after step {step}");
                if step >= 4 {
                    assert_eq!(bench.files("log").len(), 1, "a start removes what its row knows to be gone");
                }

                move_log_start(&bench, ends[3]);
                bench.log.free_below_log_start().unwrap();
                bench.checkpoint();
                assert_eq!(bench.files("log").len(), 1);
                bench.put(1, 1, 10, 20_000);
                bench.commit_all();
                assert!(!read(&bench.log, ends[3], ends[3] + 1, 1 << 20, true).unwrap().is_empty());
            });
        }
    }
}

#[test]
fn a_log_start_at_the_end_closes_the_active_segment_so_that_all_of_it_can_go() {
    with_log(3, small_options(), durable(1 << 20), |mut bench| async move {
        let ends = fill(&bench);
        bench.checkpoint();
        let before = bench.log.retained();
        assert_eq!(before.bytes, before.oldest_bytes);
        move_log_start(&bench, ends[3]);
        bench.log.free_below_log_start().unwrap();
        bench.checkpoint();
        assert_eq!(bench.files("log").len(), 1);
        let after = bench.log.retained();
        assert!(after.bytes < 100 && !after.freeable, "{after:?}");
        assert_eq!(bench.log.leader_epoch_at(Offset(ends[3])), Some(Term(1).leader_epoch()));
        // A second one finds nothing to close.
        move_log_start(&bench, ends[3]);
        bench.checkpoint();
        assert_eq!(bench.files("log").len(), 1);
    });
}

#[test]
fn a_read_under_way_when_its_segment_goes_gets_its_data_or_is_told_that_it_is_out_of_range() {
    for opened in [false, true] {
        with_log(
            4,
            StorageOptions { tail_cache_bytes: 0, ..small_options() },
            durable(SEGMENT),
            |mut bench| async move {
                let ends = fill(&bench);
                bench.checkpoint();
                bench.log.evict(RaftIndex(u64::MAX));
                if opened {
                    read(&bench.log, 0, ends[3], 100, true).unwrap();
                }
                let Ok(Read::Cold(under_way)) = bench.log.read(Offset(0), Offset(ends[3]), 100, true) else {
                    panic!("the batches are in the cache still");
                };
                let Ok(Entries::Cold(entries)) = bench.log.entries(RaftIndex(0), RaftIndex(2), 100) else {
                    panic!("the entries are in the cache still");
                };
                move_log_start(&bench, ends[2]);
                bench.log.free_below_log_start().unwrap();
                bench.checkpoint();
                assert_eq!(bench.files("log").len(), 1);
                let found = under_way.run();
                assert!(matches!(found, Err(ReadError::OutOfRange { .. })), "{found:?}");
                assert_eq!(entries.run().unwrap().len(), 0);
                let time = bench.log.offset_for_timestamp(Timestamp(0), Offset(ends[3])).unwrap().unwrap();
                assert_eq!(time.offset, Offset(ends[2]));
            },
        );
    }
}

#[test]
fn the_highest_time_is_that_of_a_record_that_is_left() {
    for cache in [0, 1 << 20] {
        let options = StorageOptions { tail_cache_bytes: cache, ..small_options() };
        with_log(21, options, durable(1 << 20), |mut bench| async move {
            for (base, times) in [(0, [90, 50, 70]), (3, [80, 10, 20]), (6, [5, 6, 7])] {
                let mut builder = BatchBuilder::new();
                for time in times {
                    builder.append(Timestamp(time), None, Some(b"v"));
                }
                let outcome = bench.append(1, Body::Proposed(proposal(builder.build())));
                assert!(matches!(outcome, Outcome::Appended { base_offset, .. } if base_offset == Offset(base)));
            }
            bench.commit_all();
            bench.checkpoint();
            if cache == 0 {
                bench.log.evict(RaftIndex(u64::MAX));
            }
            for (start, expected) in [(0, (0, 90)), (1, (3, 80)), (3, (3, 80)), (4, (5, 20)), (6, (8, 7)), (8, (8, 7))]
            {
                if start > 0 {
                    move_log_start(&bench, start);
                }
                let found =
                    bench.log.max_timestamp(Offset(9)).unwrap().map(|found| (found.offset.0, found.timestamp.0));
                assert_eq!(found, Some(expected), "the log starts at {start}");
            }
            move_log_start(&bench, 9);
            assert_eq!(bench.log.max_timestamp(Offset(9)).unwrap(), None);
        });
    }
}

#[test]
fn producers_whose_batches_are_all_gone_are_remembered() {
    with_log(5, small_options(), durable(SEGMENT), |mut bench| async move {
        bench.append(1, Body::Proposed(proposal(idempotent(7, 0, 0, 5))));
        let ends = fill(&bench);
        move_log_start(&bench, ends[3]);
        bench.log.free_below_log_start().unwrap();
        bench.checkpoint();
        assert_eq!((bench.files("log").len(), bench.files("snap").len()), (1, 1));
        for crash in [false, true] {
            if crash {
                bench.crash(Crash::PowerCut, 0);
                bench.recover().unwrap();
            } else {
                bench.reopen();
            }
            bench.commit_all();
            let done: Done = Box::new(|_| {});
            let outcome = bench.log.append_solo(Term(1), proposal(idempotent(7, 0, 0, 5)), done).unwrap();
            assert!(matches!(outcome, Outcome::Duplicate { base_offset: Offset(0), .. }), "{outcome:?}");
        }
    });
}

#[test]
fn terms_whose_entries_are_gone_are_forgotten_but_for_the_one_that_goes_on() {
    with_log(6, small_options(), durable(SEGMENT), |mut bench| async move {
        for term in 1..=8 {
            bench.put(term, 3, 280, 0);
        }
        bench.commit_all();
        let end = bench.log.frontiers().log_end.0;
        bench.log.append_log_start(Term(8), Offset(end / 2), Timestamp(1), Box::new(|_| {})).unwrap();
        bench.commit_all();
        bench.log.free_below_log_start().unwrap();
        bench.checkpoint();
        let terms: Vec<u64> = bench.table.epochs.iter().map(|epoch| epoch.term.0).collect();
        assert_eq!(terms, (1..=8).collect::<Vec<_>>(), "the row was captured before the removal");
        bench.checkpoint();
        let terms: Vec<(u64, i64)> = bench.table.epochs.iter().map(|epoch| (epoch.term.0, epoch.offset.0)).collect();
        assert_eq!(terms, [(5, 12), (6, 15), (7, 18), (8, 21)]);
        bench.reopen();
        let epoch = |term: u64| Term(term).leader_epoch();
        assert_eq!(bench.log.epoch_end_offset(epoch(2)), Some((epoch(2), Offset(12))));
        assert_eq!(bench.log.epoch_end_offset(epoch(5)), Some((epoch(5), Offset(15))));
        assert_eq!(bench.log.leader_epoch_at(Offset(12)), Some(epoch(5)));
    });
}

#[test]
fn what_a_row_says_of_a_log_is_what_the_log_says_when_it_is_opened() {
    with_log(7, small_options(), durable(SEGMENT), |mut bench| async move {
        fill(&bench);
        bench.checkpoint();
        let retained = bench.log.retained();
        assert_eq!(bench.table.retained, retained);
        let newest = Newest { record: Timestamp(1002), append: Timestamp(1002) };
        assert_eq!((retained.oldest_newest, retained.last_append), (Some(newest), Timestamp(7002)));
        bench.reopen();
        assert_eq!(bench.log.retained(), retained);
        bench.crash(Crash::PowerCut, 0);
        bench.recover().unwrap();
        assert_eq!(bench.log.retained(), retained);
    });
}

#[test]
fn retention_looks_into_an_index_only_for_what_the_row_does_not_know() {
    with_log(8, small_options(), durable(SEGMENT), |mut bench| async move {
        let ends = fill(&bench);
        let limits = |ms: u64| Limits { retention_ms: Some(ms), retention_bytes: None };
        let decide = |bench: &Bench, ms: u64, now: i64| bench.log.retention(limits(ms), Timestamp(now)).unwrap();
        assert_eq!(decide(&bench, 1000, 2002), None);
        assert_eq!(decide(&bench, 1000, 2003), Some(Offset(ends[0])));
        bench.checkpoint();
        bench.reopen();
        assert_eq!(decide(&bench, 1000, 2002), None);
        assert_eq!(decide(&bench, 1000, 2003), Some(Offset(ends[0])));
        assert_eq!(decide(&bench, 1000, 4003), Some(Offset(ends[1])));
        assert_eq!(decide(&bench, 1000, 100_000), Some(Offset(ends[3])), "the active segment, too");
    });
}

#[test]
fn a_timestamp_of_the_future_keeps_a_segment_no_longer_than_its_append() {
    let options = StorageOptions { opened_at: Timestamp(7_000), ..small_options() };
    with_log(9, options, durable(1 << 20), |mut bench| async move {
        let batch = plain(1, 10, i64::MAX - 5);
        let put = |bench: &Bench, append_time: i64| {
            let proposal = Proposal { append_time: Timestamp(append_time), ..proposal(batch.clone()) };
            bench.append(1, Body::Proposed(proposal));
        };
        put(&bench, 4_000);
        // It lies behind the last index entry: its time is not the index's to tell.
        put(&bench, 5_000);
        bench.commit_all();
        let limits = Limits { retention_ms: Some(1000), retention_bytes: None };
        let decide = |bench: &Bench, now: i64| bench.log.retention(limits, Timestamp(now)).unwrap();
        assert_eq!((decide(&bench, 6_000), decide(&bench, 6_001)), (None, Some(Offset(2))));
        bench.reopen();
        bench.commit_all();
        assert_eq!((decide(&bench, 6_000), decide(&bench, 6_001)), (None, Some(Offset(2))));
        // Found without a record of its append: it was before the directory was opened.
        put(&bench, 6_500);
        bench.log.write_behind(u64::MAX).unwrap();
        bench.crash(Crash::Kill, 0);
        bench.recover().unwrap();
        bench.commit_all();
        assert_eq!(bench.log.frontiers().log_end, Offset(3));
        assert_eq!((decide(&bench, 8_000), decide(&bench, 8_001)), (None, Some(Offset(3))));
    });
}

#[test]
fn what_was_appended_while_the_clock_was_far_behind_is_kept_as_long_as_its_records_say() {
    with_log(10, small_options(), durable(SEGMENT), |mut bench| async move {
        // The records are right: their producers have another clock.
        for (append_time, time) in (0..8).zip((1_000_000..).step_by(1000)) {
            let proposal = Proposal { append_time: Timestamp(append_time), ..proposal(plain(3, 280, time)) };
            bench.append(1, Body::Proposed(proposal));
        }
        bench.commit_all();
        let limits = Limits { retention_ms: Some(10_000), retention_bytes: None };
        let decide = |bench: &Bench, now: i64| bench.log.retention(limits, Timestamp(now)).unwrap();
        let (oldest, all) = (Some(Offset(6)), Some(bench.log.frontiers().log_end));
        for _ in 0..2 {
            // The clock is not right yet, then it is.
            assert_eq!((decide(&bench, 10), decide(&bench, 1_008_000)), (None, None));
            assert_eq!((decide(&bench, 1_011_002), decide(&bench, 1_011_003)), (None, oldest));
            assert_eq!(decide(&bench, 1_017_003), all);
            bench.checkpoint();
            bench.reopen();
            bench.commit_all();
        }
    });
}

#[test]
fn a_segment_is_closed_by_the_first_append_after_its_time_and_replay_closes_it_there_too() {
    let options = LogOptions { segment_ms: 1000, ..durable(1 << 20) };
    with_log(11, small_options(), options, |mut bench| async move {
        // What founds a group has no time, and no age.
        for time in [0, 7001, 8001, 8002, 8501, 9002, 9003, 12_001] {
            bench.put(1, 1, 10, time);
        }
        bench.commit_all();
        let offsets = |bench: &Bench| -> Vec<String> {
            bench.files("log").iter().map(|path| path.file_name().unwrap().to_string_lossy()[18..20].into()).collect()
        };
        bench.journal.sync();
        // Nothing is written to a segment: all of it is replayed.
        bench.crash(Crash::PowerCut, 0);
        bench.recover().unwrap();
        bench.commit_all();
        bench.checkpoint();
        assert_eq!(offsets(&bench), ["00", "03", "06", "07"]);
        // The age of the active segment is known after a start.
        bench.reopen();
        bench.put(1, 1, 10, 13_001);
        bench.put(1, 1, 10, 13_002);
        bench.checkpoint();
        assert_eq!(offsets(&bench), ["00", "03", "06", "07", "09"]);
    });
}

#[test]
fn jitter_shortens_the_time_of_a_segment_by_no_more_than_it_says_and_by_a_draw_for_each() {
    let options = LogOptions { segment_ms: 1000, segment_jitter_ms: 600, ..durable(1 << 20) };
    with_log(12, small_options(), options, |bench| async move {
        let mut closed_after = Vec::new();
        let mut since = 0;
        let mut segments = 1;
        for time in 0..20_000 {
            bench.put(1, 1, 10, time);
            let now = bench.log.state().segments.len();
            if now > segments {
                closed_after.push(time - since);
                (segments, since) = (now, time);
            }
        }
        assert!(closed_after.iter().all(|after| (401..=1001).contains(after)), "{closed_after:?}");
        closed_after.sort_unstable();
        closed_after.dedup();
        assert!(closed_after.len() > 5, "{closed_after:?}");
    });
}
