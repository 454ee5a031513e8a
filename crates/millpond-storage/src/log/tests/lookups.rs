//! Look-ups: by time, by epoch, duplicates, membership, the log start.

use millpond_record::{LeaderEpoch, parse_raft_only};

use super::*;
use crate::{SequenceError, VoidReason, log_start_payload};

/// Runs a check with everything in memory, and once more with everything only in the files.
fn in_memory_and_cold(bench: &Bench, check: impl Fn(&Log)) {
    check(&bench.log);
    bench.log.write_behind(u64::MAX).unwrap();
    bench.log.evict(RaftIndex(u64::MAX));
    check(&bench.log);
}

#[test]
fn a_time_finds_the_first_record_that_is_not_older() {
    for segment_bytes in [200, 1 << 20] {
        with_log(1, small_options(), durable(segment_bytes), |bench| async move {
            let t = 1_000_000;
            let batch = |times: &[i64]| {
                let mut builder = BatchBuilder::new();
                for time in times {
                    builder.append(Timestamp(t + time), None, Some(b"v"));
                }
                Body::Proposed(proposal(builder.build()))
            };
            bench.append(1, batch(&[0, 10]));
            bench.append(1, blank(b"later than all"));
            bench.append(2, batch(&[100, 50]));
            bench.append(2, batch(&[70]));
            bench.commit_all();
            in_memory_and_cold(&bench, |log| {
                let end = log.frontiers().log_end;
                for (asked, offset, time, epoch) in
                    [(-5, 0, 0, 1), (0, 0, 0, 1), (5, 1, 10, 1), (10, 1, 10, 1), (11, 2, 100, 2), (100, 2, 100, 2)]
                {
                    let found = log.offset_for_timestamp(Timestamp(t + asked), end).unwrap().unwrap();
                    let expected = (Offset(offset), Timestamp(t + time), LeaderEpoch(epoch));
                    assert_eq!((found.offset, found.timestamp, found.leader_epoch), expected, "time {asked}");
                }
                assert_eq!(log.offset_for_timestamp(Timestamp(t + 101), end).unwrap(), None);
                assert_eq!(log.offset_for_timestamp(Timestamp(t + 60), Offset(2)).unwrap(), None, "not above `to`");
                let max = log.max_timestamp(end).unwrap().unwrap();
                assert_eq!((max.offset, max.timestamp), (Offset(2), Timestamp(t + 100)));
                assert_eq!(log.max_timestamp(Offset(0)).unwrap(), None);
            });
        });
    }
}

#[test]
fn the_first_record_from_an_offset_on_has_its_own_time() {
    for segment_bytes in [200, 1 << 20] {
        with_log(1, small_options(), durable(segment_bytes), |bench| async move {
            let batch = |times: &[i64]| {
                let mut builder = BatchBuilder::new();
                for time in times {
                    builder.append(Timestamp(*time), None, Some(b"v"));
                }
                Body::Proposed(proposal(builder.build()))
            };
            bench.append(1, batch(&[1_000, 3_000, 2_000]));
            bench.append(1, blank(b"no record"));
            bench.append(1, batch(&[5_000]));
            bench.commit_all();
            in_memory_and_cold(&bench, |log| {
                for (from, to, expected) in [
                    (0, 4, Some((0, 1_000))),
                    (1, 4, Some((1, 3_000))),
                    (2, 4, Some((2, 2_000))),
                    (3, 4, Some((3, 5_000))),
                    (4, 4, None),
                    (3, 3, None),
                ] {
                    let found = log.first_from(Offset(from), Offset(to)).unwrap();
                    let found = found.map(|found| (found.offset.0, found.timestamp.0));
                    assert_eq!(found, expected, "from {from} to {to}");
                }
                assert!(log.first_from(Offset(5), Offset(9)).is_err(), "above the log's end");
            });
        });
    }
}

#[test]
fn the_highest_timestamp_is_the_first_of_several() {
    with_log(1, small_options(), durable(1 << 20), |bench| async move {
        for time in [5, 9, 9, 3] {
            bench.put(1, 1, 400, time);
        }
        in_memory_and_cold(&bench, |log| {
            assert_eq!(log.max_timestamp(Offset(4)).unwrap().unwrap().offset, Offset(1));
        });
    });
}

#[test]
fn epochs_end_where_the_next_one_begins() {
    with_log(1, small_options(), durable(1 << 20), |bench| async move {
        assert_eq!(bench.log.epoch_end_offset(LeaderEpoch(0)), None, "an empty log");
        bench.put(2, 3, 10, 0);
        bench.append(3, blank(b""));
        bench.append(5, blank(b""));
        bench.put(5, 2, 10, 0);
        let end = |epoch| bench.log.epoch_end_offset(LeaderEpoch(epoch)).map(|(epoch, offset)| (epoch.0, offset.0));
        assert_eq!(end(1), Some((1, 0)), "older than all: the log start");
        assert_eq!(end(2), Some((2, 3)));
        assert_eq!(end(3), Some((3, 3)), "an epoch without data");
        assert_eq!(end(4), Some((3, 3)));
        assert_eq!(end(5), Some((5, 5)));
        assert_eq!(end(6), Some((5, 5)), "newer than all: it has no entry");
        assert_eq!(bench.log.leader_epoch_at(Offset(2)), Some(LeaderEpoch(2)));
        assert_eq!(bench.log.leader_epoch_at(Offset(3)), Some(LeaderEpoch(5)));
    });
}

#[test]
fn a_refused_proposal_becomes_a_void_entry_that_says_why() {
    with_log(1, small_options(), durable(1 << 20), |bench| async move {
        let send = |sequence, records| bench.append(1, Body::Proposed(proposal(idempotent(7, 0, sequence, records))));
        assert!(matches!(send(0, 2), Outcome::Appended { base_offset: Offset(0), last_offset: Offset(1), .. }));
        let waiting = Outcome::Duplicate { base_offset: Offset(0), last_offset: Offset(1), index: Some(RaftIndex(0)) };
        assert_eq!(send(0, 2), waiting, "the original is not committed");
        bench.commit_all();
        let known = Outcome::Duplicate { base_offset: Offset(0), last_offset: Offset(1), index: None };
        assert_eq!(send(0, 2), known);
        let error = SequenceError::OutOfOrder { found: 5, expected: 2 };
        assert_eq!(send(5, 1), Outcome::Refused(error));
        assert!(matches!(send(2, 1), Outcome::Appended { base_offset: Offset(2), .. }), "a void takes no offset");
        let voids: Vec<_> = bench.entries()[1..4].iter().map(|(_, batch)| parse_raft_only(batch).unwrap()).collect();
        assert!(voids.iter().all(|(kind, _)| *kind == RaftOnlyKind::Void));
        let duplicate = VoidReason::Duplicate { base_offset: Offset(0), last_offset: Offset(1) };
        assert_eq!(VoidReason::read(&voids[0].1), Some(duplicate));
        assert_eq!(VoidReason::read(&voids[2].1), Some(VoidReason::Refused(error)));
        assert_eq!(VoidReason::read(b"what"), None);
    });
}

#[test]
fn with_one_replica_a_duplicate_appends_nothing_and_is_answered_at_once() {
    with_log(1, small_options(), durable(1 << 20), |bench| async move {
        let send = |sequence| {
            let (done, count) = counted();
            let batch = proposal(idempotent(7, 0, sequence, 1));
            (bench.log.append_solo(Term(1), batch, done).unwrap(), count.load(Ordering::Relaxed))
        };
        assert!(matches!(send(0), (Outcome::Appended { .. }, 0)), "it waits for the journal");
        assert!(matches!(send(0), (Outcome::Duplicate { index: Some(RaftIndex(0)), .. }, 1)));
        assert!(matches!(send(3), (Outcome::Refused(_), 1)));
        assert_eq!(bench.log.next_index(), RaftIndex(1));
    });
}

#[test]
fn producers_are_known_after_a_clean_stop_and_after_a_crash() {
    for clean in [true, false] {
        with_log(1, small_options(), durable(300), |mut bench| async move {
            for sequence in 0..8 {
                bench.append(1, Body::Proposed(proposal(idempotent(7, 0, sequence, 1))));
                if sequence == 4 {
                    bench.commit_all();
                    bench.checkpoint();
                }
            }
            bench.journal.sync();
            if clean {
                bench.reopen();
            } else {
                bench.crash(Crash::PowerCut, 0);
                bench.recover().unwrap();
            }
            let send = |sequence| bench.append(1, Body::Proposed(proposal(idempotent(7, 0, sequence, 1))));
            let original =
                |at: i64, index| Outcome::Duplicate { base_offset: Offset(at), last_offset: Offset(at), index };
            assert_eq!(send(7), original(7, Some(RaftIndex(7))), "not committed yet");
            assert_eq!(send(3), original(3, None));
            assert!(matches!(send(2), Outcome::Refused(SequenceError::OutOfOrder { found: 2, expected: 8 })));
        });
    }
}

#[test]
fn a_stored_batch_that_does_not_continue_the_log_is_refused() {
    with_log(1, small_options(), durable(1 << 20), |bench| async move {
        bench.put(1, 2, 10, 0);
        let stamped = |offset, epoch| {
            millpond_record::StampedBatch::new(plain(1, 1, 0), Offset(offset), LeaderEpoch(epoch)).unwrap()
        };
        let append = |index, term, offset, epoch| {
            let body = Body::Stored(stamped(offset, epoch).into());
            let entry = AppendEntry { index: RaftIndex(index), term: Term(term), body };
            bench.log.append(vec![entry], Box::new(|_| {})).map(|_| ())
        };
        assert!(matches!(append(1, 1, 7, 1), Err(StorageError::OffsetMismatch { expected: Offset(2), .. })));
        assert!(matches!(append(3, 1, 2, 1), Err(StorageError::NotNext { index: RaftIndex(3), .. })));
        assert!(matches!(append(1, 1, 2, 2), Err(StorageError::Corrupt { .. })), "the epoch is not the term");
        assert!(matches!(append(1, 0, 2, 0), Err(StorageError::Corrupt { .. })), "the term falls");
        append(1, 1, 2, 1).unwrap();
    });
}

#[test]
fn the_membership_falls_back_when_its_entry_is_truncated() {
    with_log(1, small_options(), durable(1 << 20), |bench| async move {
        let members = |text: &'static str| Body::RaftOnly {
            kind: RaftOnlyKind::Membership,
            payload: Bytes::from_static(text.as_bytes()),
            time: Timestamp(0),
        };
        bench.append(0, members("one"));
        bench.commit_all();
        bench.put(1, 1, 1, 0);
        bench.append(1, members("two"));
        assert_eq!(bench.log.membership().1, "two");
        assert_eq!(bench.log.membership().0.unwrap().index, RaftIndex(2));
        assert_eq!(bench.log.row().membership, "one", "the row has the committed one");
        bench.log.truncate_after(Some(RaftIndex(1))).unwrap();
        assert_eq!(bench.log.membership().1, "one");
        let below = bench.log.truncate_after(None);
        assert!(matches!(below, Err(StorageError::TruncatesCommitted { committed: Some(RaftIndex(0)), .. })));
    });
}

#[test]
fn the_log_start_moves_when_its_entry_is_committed() {
    with_log(1, small_options(), durable(1 << 20), |bench| async move {
        bench.put(1, 5, 1, 0);
        let payload = log_start_payload(Offset(3));
        bench.append(1, Body::RaftOnly { kind: RaftOnlyKind::LogStart, payload, time: Timestamp(0) });
        assert_eq!(bench.log.frontiers().log_start, Offset(0));
        bench.commit_all();
        assert_eq!(bench.log.frontiers().log_start, Offset(3));
        assert!(matches!(
            bench.log.read(Offset(2), Offset(5), 100, true),
            Err(ReadError::OutOfRange { log_start: Offset(3), log_end: Offset(5) })
        ));
        assert!(!read(&bench.log, 3, 5, 1, true).unwrap().is_empty(), "the batch that holds it comes whole");
    });
}

#[test]
fn a_small_batch_is_cut_loose_from_its_frame_and_a_large_one_counts_the_frame() {
    with_log(1, small_options(), durable(1 << 20), |bench| async move {
        let frame = 100_000;
        let append = |bytes| {
            let before = bench.context.cache.used_bytes();
            let mut sent = proposal(plain(1, bytes, 0));
            sent.frame_bytes = frame;
            bench.append(1, Body::Proposed(sent));
            bench.context.cache.used_bytes() - before
        };
        assert!((1000..3000).contains(&append(1000)));
        assert!((100_000..102_000).contains(&append(50_000)));
    });
}
