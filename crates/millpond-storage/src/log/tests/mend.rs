//! A damaged index of a closed segment: made anew from a segment that is whole, and stood in for where it is not.

use millpond_record::BatchView;
use millpond_runtime::OpenMode;
use proptest::prelude::*;

use super::damage::{cold_log, content, entries, flip, read_all};
use super::*;
use crate::index::{INDEX_ENTRY_BYTES, INDEX_HEADER_BYTES};
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

/// Writes zeros over the running hashes of an index: of its last entry and of its end.
fn forget_hashes(bench: &Bench, path: &Path) {
    let file = bench.world.runtime_for(NODE).disk().open(path, OpenMode::Write).unwrap();
    let end = file.len().unwrap();
    for back in [8, 8 + INDEX_ENTRY_BYTES as u64] {
        file.write_all_at(&[std::io::IoSlice::new(&[0; 8])], end - back).unwrap();
    }
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
            assert_eq!(entries(&after), entries(&before).into_iter().take(entries(&after).len()).collect::<Vec<_>>());
            assert_eq!(after.len(), before.len());
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
            assert!(bench.log.max_timestamp(Offset(end)).unwrap().is_some());
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
