//! A damaged index of a closed segment: made anew from a segment that is whole, and stood in for where it is not.

use millpond_record::BatchView;
use millpond_runtime::OpenMode;
use millpond_runtime::sim::DiskFaults;
use proptest::prelude::*;

use super::super::mend::Found;
use super::damage::{cold_log, content, entries, flip, read_all};
use super::*;
use crate::index::{INDEX_ENTRY_BYTES, INDEX_HEADER_BYTES, TRAILER_CRC_AT};
use crate::retention::Limits;

/// What was told of damage since the last call.
fn told(bench: &Bench) -> Vec<String> {
    bench.context.writer.retry().damaged.into_iter().map(|(_, what)| what).collect()
}

/// What retention by age lets go at `now`.
fn expired(bench: &Bench, ms: u64, now: i64) -> Option<i64> {
    let limits = Limits { retention_ms: Some(ms), retention_bytes: None };
    bench.log.retention(limits, Timestamp(now)).unwrap().map(|offset| offset.0)
}

/// Writes zeros over what an index has to prove its segment: the hashes of its last entry and of its end, its checksum.
fn forget_hashes(bench: &Bench, path: &Path) {
    let file = bench.world.runtime_for(NODE).disk().open(path, OpenMode::Write).unwrap();
    let end = file.len().unwrap();
    for back in [8, 8 + INDEX_ENTRY_BYTES as u64] {
        file.write_all_at(&[std::io::IoSlice::new(&[0; 8])], end - back).unwrap();
    }
    let crc = end - (INDEX_ENTRY_BYTES - TRAILER_CRC_AT) as u64;
    file.write_all_at(&[std::io::IoSlice::new(&[0; 4])], crc).unwrap();
}

/// Where the second half of a closed segment's batches begins: the position in the file and the offset.
fn middle(bytes: &[u8]) -> (usize, i64) {
    let mut at = 0;
    loop {
        let batch = BatchView::first_of(&bytes[at..]).unwrap();
        if at > bytes.len() / 2 && !batch.header().attributes.is_raft_only() {
            return (at, batch.header().base_offset.0);
        }
        at += batch.size_bytes();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn a_flipped_bit_in_the_index_of_a_closed_segment_costs_nothing_and_is_told_once(
        which in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        bit in 0..8u8,
        first in 0..4,
    ) {
        with_log(3, small_options(), durable(2000), |mut bench| async move {
            cold_log(&mut bench);
            let whole = read_all(&bench.log).unwrap();
            let files = bench.files("idx");
            let path = &files[which.index(files.len() - 1)];
            // Opened anew: what was proven once is not read again.
            bench.reopen();
            bench.commit_all();
            let before = content(&bench, path);
            flip(&bench, path, at.index(before.len()), bit);
            let end = bench.log.frontiers().log_end;
            // Whoever comes first meets it.
            match first {
                0 => drop(bench.log.max_timestamp(end).unwrap()),
                1 => assert_eq!(expired(&bench, 1, 1_000_000), Some(end.0)),
                2 => drop(bench.log.offset_for_timestamp(Timestamp(1 << 40), end).unwrap()),
                _ => drop(entries_from(&bench.log, RaftIndex(0))),
            }
            assert!(read_all(&bench.log).unwrap() == whole);
            assert_eq!(expired(&bench, 1, 1_000_000), Some(end.0));
            assert_eq!(bench.log.max_timestamp(end).unwrap().unwrap().timestamp, Timestamp(40));
            let told = told(&bench);
            let name = path.file_name().unwrap().to_str().unwrap();
            assert!(told.len() == 1 && told[0].contains(name) && told[0].contains("made anew"), "{told:?}");
            let after = content(&bench, path);
            let but_trailer = |bytes: &[u8]| entries(&bytes[..bytes.len() - INDEX_ENTRY_BYTES]);
            assert_eq!(but_trailer(&after), but_trailer(&before));
            assert_eq!(after.len(), before.len());
            // Only of the append times nothing else tells than the checksum.
            let (at, trailer) = (at.index(before.len()), before.len() - INDEX_ENTRY_BYTES);
            let in_entry = at.checked_sub(INDEX_HEADER_BYTES).map(|at| at % INDEX_ENTRY_BYTES);
            let in_time = in_entry.is_some_and(|at| (32..40).contains(&at));
            let in_crc = (trailer + TRAILER_CRC_AT..trailer + TRAILER_CRC_AT + 4).contains(&at);
            assert!(in_time || in_crc || after == before, "it is what it was");
            bench.reopen();
            assert!(read_all(&bench.log).unwrap() == whole, "the new index is a whole one");
            assert!(self::told(&bench).is_empty());
        });
    }
}

#[test]
fn where_the_segment_is_damaged_too_reads_go_on_up_to_the_damage_and_behind_the_segment() {
    for whole_hashes in [true, false] {
        with_log(3, small_options(), durable(2000), |mut bench| async move {
            cold_log(&mut bench);
            let end = bench.log.frontiers().log_end.0;
            bench.reopen();
            bench.commit_all();
            let (log, path) = (&bench.files("log")[1], &bench.files("idx")[1]);
            let (at, offset) = middle(&content(&bench, log));
            flip(&bench, log, at + 70, 1);
            if whole_hashes {
                flip(&bench, path, 40, 1)
            } else {
                forget_hashes(&bench, path)
            }
            let index = content(&bench, path);

            let first = millpond_record::Offset(0);
            let mut from = first.0;
            let error = loop {
                match read(&bench.log, from, end, 1000, true) {
                    Ok(bytes) => from = BatchView::first_of(&bytes).unwrap().header().next_offset().0,
                    Err(error) => break error.to_string(),
                }
            };
            assert_eq!(from, offset, "{error}");
            let name = log.file_name().unwrap().to_str().unwrap();
            assert!(error.contains("damaged") && error.contains(name), "{error}");
            let next: i64 = bench.files("log")[2].file_name().unwrap().to_str().unwrap()[..20].parse().unwrap();
            assert!(!read(&bench.log, next, end, 1000, true).unwrap().is_empty());
            // A look-up speaks for what lies before the damage, and for nothing that might lie behind it.
            let first_from = |time, to| bench.log.offset_for_timestamp(Timestamp(time), Offset(to));
            assert_eq!(first_from(0, end).unwrap().map(|found| found.offset), Some(Offset(0)));
            assert_eq!(first_from(1 << 40, offset).unwrap(), None);
            for error in [first_from(40, end).unwrap_err(), first_from(1 << 40, offset + 1).unwrap_err()] {
                assert!(matches!(error, StorageError::Corrupt { .. }), "{error}");
            }
            assert!(bench.log.max_timestamp(Offset(offset)).unwrap().is_some());
            let error = bench.log.max_timestamp(Offset(end)).unwrap_err();
            assert!(matches!(error, StorageError::Corrupt { .. }), "{error}");
            assert_eq!(expired(&bench, 1, 1_000_000), Some(end));
            let told = told(&bench);
            assert!(told.len() == 1 && told[0].contains("not made anew"), "{told:?}");
            assert_eq!(content(&bench, path), index, "what is left of it is left");
        });
    }
}

#[test]
fn an_index_whose_hashes_are_not_those_of_the_batches_is_not_made_anew_and_its_segment_is_read_all_the_same() {
    with_log(3, small_options(), durable(2000), |mut bench| async move {
        cold_log(&mut bench);
        let whole = read_all(&bench.log).unwrap();
        bench.reopen();
        bench.commit_all();
        let path = &bench.files("idx")[1];
        forget_hashes(&bench, path);
        let index = content(&bench, path);
        for _ in 0..2 {
            assert!(read_all(&bench.log).unwrap() == whole);
            assert_eq!(expired(&bench, 1, 1_000_000), Some(bench.log.frontiers().log_end.0));
        }
        let told = told(&bench);
        assert!(told.len() == 1 && told[0].contains("running hashes"), "{told:?}");
        assert_eq!(content(&bench, path), index);
    });
}

#[test]
fn a_segment_whose_time_nobody_can_tell_goes_with_the_one_behind_it() {
    with_log(3, small_options(), durable(600), |mut bench| async move {
        let mut begins = Vec::new();
        for time in 0..5 {
            begins.push(bench.log.frontiers().log_end.0);
            bench.put(1, 2, 200, time * 1000);
        }
        bench.commit_all();
        bench.checkpoint();
        bench.reopen();
        bench.commit_all();
        for file in [&bench.files("log")[1], &bench.files("idx")[1]] {
            flip(&bench, file, INDEX_HEADER_BYTES + 40, 3);
        }
        let decide = |now: i64| expired(&bench, 500, now);
        assert_eq!(decide(501), None);
        // The second segment is as old as its records say at 1502; it stays as long as the third.
        assert_eq!([decide(502), decide(1502), decide(2501)], [Some(begins[1]); 3]);
        assert_eq!(decide(2502), Some(begins[3]));
    });
}

#[test]
fn a_segment_is_proven_while_others_are_at_the_files_and_not_mended_if_the_log_was_truncated_meanwhile() {
    with_log(3, small_options(), durable(2000), |mut bench| async move {
        cold_log(&mut bench);
        let whole = read_all(&bench.log).unwrap();
        bench.reopen();
        bench.commit_all();
        let path = &bench.files("idx")[1];
        let before = content(&bench, path);
        flip(&bench, path, 40, 1);
        let damaged = content(&bench, path);
        let segment = bench.log.state().segments[1].clone();
        {
            // Whoever appends, writes and syncs may hold this.
            let mut files = bench.log.files();
            let Found::Damaged(diagnosis) = bench.log.diagnose(&segment).unwrap() else { panic!("it is damaged") };
            bench.log.state().truncations += 1;
            assert!(!bench.log.mend(&mut files, &segment, *diagnosis).unwrap());
            assert!(content(&bench, path) == damaged);
        }
        assert!(told(&bench).is_empty());
        assert!(read_all(&bench.log).unwrap() == whole);
        assert!(content(&bench, path) == before);
        assert_eq!(told(&bench).len(), 1);
    });
}

#[test]
fn a_disk_that_no_longer_gives_a_segment_is_asked_once_and_keeps_nothing_from_retention() {
    with_log(3, small_options(), durable(2000), |mut bench| async move {
        cold_log(&mut bench);
        let end = bench.log.frontiers().log_end.0;
        bench.reopen();
        bench.commit_all();
        let (log, path) = (&bench.files("log")[1], &bench.files("idx")[1]);
        let begin: i64 = log.file_name().unwrap().to_str().unwrap()[..20].parse().unwrap();
        flip(&bench, path, 40, 1);
        let fails = DiskFaults { read_error: 1.0, read_error_in: ".log", ..DiskFaults::default() };
        bench.world.set_disk_faults(NODE, fails);
        assert_eq!(expired(&bench, 1, 1_000_000), Some(end));
        assert!(read(&bench.log, begin, end, 1000, true).is_err());
        let told = told(&bench);
        assert!(told.len() == 1 && told[0].contains("cannot be read behind byte 0"), "{told:?}");
        // It is not read again, whether or not it could be.
        bench.world.set_disk_faults(NODE, DiskFaults::default());
        assert!(read(&bench.log, begin, end, 1000, true).is_err());
        assert!(self::told(&bench).is_empty());
        // A process that has too many files open may have fewer.
        bench.reopen();
        bench.commit_all();
        bench.world.set_disk_faults(NODE, DiskFaults { open_files: 0, ..DiskFaults::default() });
        assert!(read(&bench.log, begin, end, 1000, true).is_err());
        bench.world.set_disk_faults(NODE, DiskFaults::default());
        assert!(!read(&bench.log, begin, end, 1000, true).unwrap().is_empty());
    });
}

#[test]
fn a_segment_whose_index_is_made_anew_goes_no_earlier_than_its_append_lets_it() {
    // In the running hash of the end, and in the append time, which nothing else tells.
    for (back, in_time) in [(8, false), (16, true)] {
        let options = StorageOptions { opened_at: Timestamp(7_000), ..small_options() };
        with_log(3, options, durable(600), |mut bench| async move {
            let mut begins = Vec::new();
            for append_time in (1_000_000..).step_by(1_000).take(5) {
                begins.push(bench.log.frontiers().log_end.0);
                let proposal = proposal(plain(2, 200, i64::MAX - 5));
                let proposal = Proposal { append_time: Timestamp(append_time), ..proposal };
                bench.append(1, Body::Proposed(proposal));
            }
            bench.commit_all();
            bench.checkpoint();
            bench.reopen();
            bench.commit_all();
            let path = &bench.files("idx")[1];
            flip(&bench, path, content(&bench, path).len() - back, 6);
            let decide = |now: i64| expired(&bench, 1000, now);
            assert_eq!([decide(1_001_000), decide(1_001_001)], [None, Some(begins[1])]);
            assert_eq!(decide(1_002_000), Some(begins[1]));
            let end = bench.log.frontiers().log_end.0;
            if in_time {
                assert_eq!([decide(1_005_000), decide(1_005_001)], [Some(begins[1]), Some(end)]);
            } else {
                assert_eq!([decide(1_002_001), decide(1_005_001)], [Some(begins[2]), Some(end)]);
            }
            let told = told(&bench);
            assert!(told.len() == 1 && told[0].contains("made anew from"), "{told:?}");
        });
    }
}

#[test]
fn an_index_of_zeros_vouches_for_no_segment() {
    with_log(3, small_options(), durable(600), |mut bench| async move {
        for time in 0..4 {
            bench.put(1, 2, 200, time);
        }
        bench.commit_all();
        bench.checkpoint();
        bench.log.evict(RaftIndex(u64::MAX));
        let whole = read_all(&bench.log).unwrap();
        bench.reopen();
        bench.commit_all();
        let path = &bench.files("idx")[1];
        let zeros = vec![0; content(&bench, path).len()];
        assert_eq!(zeros.len(), INDEX_HEADER_BYTES + 2 * INDEX_ENTRY_BYTES, "one entry and the trailer");
        let file = bench.world.runtime_for(NODE).disk().open(path, OpenMode::Write).unwrap();
        file.write_all_at(&[std::io::IoSlice::new(&zeros)], 0).unwrap();
        assert!(read_all(&bench.log).unwrap() == whole);
        let told = told(&bench);
        assert!(told.len() == 1 && told[0].contains("running hashes"), "{told:?}");
        assert!(content(&bench, path) == zeros);
    });
}
