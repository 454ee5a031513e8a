//! What a disk returns wrong is found and named, never served; arbitrary bytes are never a panic.

use std::collections::BTreeSet;
use std::io::IoSlice;

use millpond_record::{BatchView, StampedBatch};
use millpond_runtime::OpenMode;
use proptest::prelude::*;

use super::*;
use crate::index::{self, INDEX_ENTRY_BYTES, INDEX_HEADER_BYTES, IndexEntry, SegmentCursor};
use crate::segment::{Expected, Segment, SegmentFile, SegmentName, scan};

/// A log of several closed segments and an active one, all of it only in the files.
pub(super) fn cold_log(bench: &mut Bench) {
    for at in 0..40 {
        bench.put(1 + at / 20, 2, 100 + at as usize, at as i64);
        if at % 7 == 0 {
            bench.append(1 + at / 20, blank(b"x"));
        }
    }
    bench.commit_all();
    bench.checkpoint();
    bench.log.evict(RaftIndex(u64::MAX));
}

pub(super) fn flip(bench: &Bench, path: &Path, at: usize, bit: u8) {
    let disk = bench.world.runtime_for(NODE).disk();
    let file = disk.open(path, OpenMode::Write).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at as u64).unwrap();
    file.write_all_at(&[IoSlice::new(&[byte[0] ^ 1 << bit])], at as u64).unwrap();
}

pub(super) fn content(bench: &Bench, path: &Path) -> Vec<u8> {
    bench.world.runtime_for(NODE).disk().read(path, 1 << 30).unwrap()
}

/// Everything that can be read, or the first error.
pub(super) fn read_all(log: &Log) -> Result<Vec<u8>, String> {
    let end = log.frontiers().log_end.0;
    let (mut out, mut from) = (Vec::new(), 0);
    while from < end {
        let bytes = read(log, from, end, 1000, true).map_err(|error| error.to_string())?;
        let mut rest = &bytes[..];
        assert!(!rest.is_empty(), "there is a batch at {from}");
        while !rest.is_empty() {
            let batch = BatchView::first_of(rest).unwrap();
            from = batch.header().next_offset().0;
            rest = &rest[batch.size_bytes()..];
        }
        out.extend_from_slice(&bytes);
    }
    Ok(out)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_flipped_bit_in_a_closed_segment_is_found_and_named(
        which in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        bit in 0..8u8,
    ) {
        with_log(3, small_options(), durable(2000), |mut bench| async move {
            cold_log(&mut bench);
            let files = bench.files("log");
            let path = &files[which.index(files.len() - 1)];
            // Opened anew: what was proven once is not read again.
            bench.reopen();
            flip(&bench, path, at.index(content(&bench, path).len()), bit);
            let error = read_all(&bench.log).unwrap_err();
            let stem = path.file_stem().unwrap().to_str().unwrap();
            assert!(error.contains("damaged") && error.contains(stem), "{error}");
        });
    }

    #[test]
    fn a_flipped_bit_in_the_active_segment_is_never_served(at in any::<prop::sample::Index>(), bit in 0..8u8) {
        with_log(3, small_options(), durable(1 << 20), |mut bench| async move {
            cold_log(&mut bench);
            let path = bench.files("log").pop().unwrap();
            flip(&bench, &path, at.index(content(&bench, &path).len()), bit);
            assert!(read_all(&bench.log).is_err(), "Raft-only entries are proven with the block that they are in");
        });
    }

    #[test]
    fn a_flipped_bit_in_the_active_index_serves_nothing_wrong(at in any::<prop::sample::Index>(), bit in 0..8u8) {
        with_log(3, small_options(), durable(1 << 20), |mut bench| async move {
            cold_log(&mut bench);
            let whole = read_all(&bench.log).unwrap();
            let path = bench.files("idx").pop().unwrap();
            flip(&bench, &path, at.index(content(&bench, &path).len()), bit);
            assert!(read_all(&bench.log).is_err() || read_all(&bench.log).unwrap() == whole);
        });
    }

    #[test]
    fn an_index_cut_anywhere_is_no_closed_index(keep in any::<prop::sample::Index>()) {
        with_log(3, small_options(), durable(2000), |mut bench| async move {
            cold_log(&mut bench);
            let path = &bench.files("idx")[0];
            let bytes = content(&bench, path);
            let name = SegmentName { base_offset: Offset(0), first_index: RaftIndex(0) };
            assert!(index::check_closed(&bytes, name.base_offset, name.first_index).is_ok());
            let cut = &bytes[..keep.index(bytes.len())];
            assert!(index::check_closed(cut, name.base_offset, name.first_index).is_err());
            assert!(index::check_closed(&bytes, Offset(1), name.first_index).is_err(), "another segment's");
        });
    }

    #[test]
    fn arbitrary_bytes_in_the_files_are_an_error_and_no_panic(
        log_bytes in prop::collection::vec(any::<u8>(), 0..600),
        index_bytes in prop::collection::vec(any::<u8>(), 0..400),
        sealed: bool,
    ) {
        with_log(3, small_options(), durable(1 << 20), |mut bench| async move {
            cold_log(&mut bench);
            bench.reopen();
            let disk = bench.world.runtime_for(NODE).disk();
            let mut index_bytes = index_bytes;
            if sealed {
                // A right header and whole entries of arbitrary content.
                let (base_offset, first_index) = (Offset(0), RaftIndex(0));
                let header = index::IndexHeader { base_offset, first_index, interval_bytes: 256 }.encode();
                let entries = index_bytes.len() / INDEX_ENTRY_BYTES * INDEX_ENTRY_BYTES;
                index_bytes = [&header[..], &index_bytes[..entries]].concat();
            }
            for (extension, bytes) in [("log", &log_bytes), ("idx", &index_bytes)] {
                let file = disk.open(&bench.files(extension)[0], OpenMode::Write).unwrap();
                file.write_all_at(&[IoSlice::new(bytes)], 0).unwrap();
            }
            let _ = read_all(&bench.log);
            let _ = bench.log.offset_for_timestamp(Timestamp(20), Offset(1000));
            let _ = bench.log.max_timestamp(Offset(1000));
            let _ = entries_of(&bench.log, RaftIndex(3), 1000);
            bench.crash(Crash::Kill, 0);
            let _ = bench.recover();
        });
    }

    #[test]
    fn a_scan_of_arbitrary_bytes_stops_and_stays_in_bounds(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        with_log(3, small_options(), durable(1 << 20), |bench| async move {
            let disk = bench.world.runtime_for(NODE).disk();
            let name = SegmentName { base_offset: Offset(0), first_index: RaftIndex(0) };
            let segment = Segment::new(disk, bench.folder().into(), Arc::default(), name);
            let log = segment.files().unwrap().log;
            // A batch that parses, then noise: as the end of a torn write looks.
            let batch = StampedBatch::new(plain(1, 10, 0), Offset(0), Term(0).leader_epoch()).unwrap();
            let mut whole = batch.to_bytes().to_vec();
            let first = whole.len() as u64;
            whole.extend_from_slice(&bytes);
            log.write_all_at(&[IoSlice::new(&whole)], 0).unwrap();
            let expected = Expected { offset: Offset(0), index: RaftIndex(0), term: Term(0) };
            let mut batches = 0;
            let end = scan(&segment, log.as_ref(), 0, whole.len() as u64, expected, |_, _, _| batches += 1).unwrap();
            assert!(end >= first && batches >= 1);
        });
    }
}

/// The entries of an index file, append times left out.
pub(super) fn entries(bytes: &[u8]) -> Vec<IndexEntry> {
    let entries = bytes[INDEX_HEADER_BYTES..].as_chunks::<INDEX_ENTRY_BYTES>().0.iter().map(IndexEntry::decode);
    entries.map(|entry| IndexEntry { append_time: Timestamp(0), ..entry }).collect()
}

#[test]
fn a_lost_index_of_the_active_segment_is_rebuilt_as_it_was() {
    for damage in [None, Some(3), Some(40), Some(300)] {
        with_log(5, small_options(), durable(1 << 20), |mut bench| async move {
            cold_log(&mut bench);
            let whole = read_all(&bench.log).unwrap();
            let path = bench.files("idx").pop().unwrap();
            let before = content(&bench, &path);
            let disk = bench.world.runtime_for(NODE).disk();
            match damage {
                None => disk.remove_file(&path).unwrap(),
                Some(at) => disk.open(&path, OpenMode::Write).unwrap().set_len(at).unwrap(),
            }
            bench.crash(Crash::Kill, 0);
            bench.log = Log::open(&bench.context, &bench.table).unwrap();
            assert_eq!(entries(&content(&bench, &path)), entries(&before));
            assert!(read_all(&bench.log).unwrap() == whole);
        });
    }
}

#[test]
fn a_closed_segment_without_its_index_is_an_error_that_names_it() {
    with_log(5, small_options(), durable(2000), |mut bench| async move {
        cold_log(&mut bench);
        bench.reopen();
        let path = bench.files("idx").remove(0);
        bench.world.runtime_for(NODE).disk().remove_file(&path).unwrap();
        let error = read_all(&bench.log).unwrap_err();
        assert!(error.contains("00000000000000000000.0000000000.idx"), "{error}");
        assert!(!bench.files("idx").contains(&path), "it is not made anew");
    });
}

#[test]
fn a_missing_segment_is_found_when_the_log_is_opened() {
    with_log(5, small_options(), durable(2000), |mut bench| async move {
        cold_log(&mut bench);
        let path = bench.files("log").remove(0);
        bench.world.runtime_for(NODE).disk().remove_file(&path).unwrap();
        bench.crash(Crash::Kill, 0);
        let error = Log::open(&bench.context, &bench.table).unwrap_err().to_string();
        assert!(error.contains("the segment with entry 0 is missing"), "{error}");
    });
}

#[test]
fn the_index_has_every_raft_only_batch_and_an_entry_per_interval() {
    with_log(5, small_options(), durable(1 << 20), |mut bench| async move {
        cold_log(&mut bench);
        let found = entries(&content(&bench, &bench.files("idx")[0]));
        let log = content(&bench, &bench.files("log")[0]);
        let (mut cursor, mut expected, mut at, mut index) = (SegmentCursor::START, Vec::new(), 0, 0);
        let mut raft_only = BTreeSet::new();
        while at < log.len() {
            let batch = BatchView::first_of(&log[at..]).unwrap();
            if batch.header().attributes.is_raft_only() {
                raft_only.insert((at as u32, batch.size_bytes() as u32));
            }
            let head = batch.bytes().first_chunk().unwrap();
            expected.extend(cursor.push(RaftIndex(index), head, batch.header(), Timestamp(0), 256));
            (at, index) = (at + batch.size_bytes(), index + 1);
        }
        assert_eq!(found, expected);
        let listed = found.iter().filter(|entry| entry.raft_only_bytes > 0);
        assert_eq!(listed.map(|entry| (entry.position, entry.raft_only_bytes)).collect::<BTreeSet<_>>(), raft_only);
        for pair in found.windows(2) {
            assert!(pair[1].position - pair[0].position < 256 + 400, "an interval and a batch at most");
            assert!(pair[1].max_timestamp_before >= pair[0].max_timestamp_before);
        }
    });
}

#[test]
fn segment_names_are_read_as_they_are_written_and_nothing_else_is() {
    let name = SegmentName { base_offset: Offset(42), first_index: RaftIndex(12_345_678_901) };
    for kind in [SegmentFile::Log, SegmentFile::Index, SegmentFile::Snapshot] {
        assert_eq!(SegmentName::parse(name.file(kind).as_ref()), Some((name, kind)));
    }
    for other in [
        "partition.metadata",
        "00000000000000000042.0000000001.log.tmp",
        "42.1.log",
        "-0000000000000000042.0000000001.log",
        "00000000000000000042.log",
        "",
    ] {
        assert_eq!(SegmentName::parse(other.as_ref()), None, "{other}");
    }
}
