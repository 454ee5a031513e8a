use std::io::IoSlice;

use bytes::BytesMut;
use millpond_runtime::sim::{NodeId, World, block_on};
use millpond_runtime::{Disk, OpenMode};
use proptest::prelude::*;

use super::{BEGINNING, append, batch, make_folder, read};
use crate::OpenError;
use crate::journal::file::{FILE_HEADER_BYTES, FileHeader, number_of, path_of};
use crate::journal::record::{Place, encode};
use crate::journal::scan::{ReplayFrom, folder_of};
use crate::journal::{JournalEntry, scan};

/// A record as it would be written; its write began `back` records before it.
fn record(number: u64, salt: u32, sequence: u64, back: u32, entry: &JournalEntry) -> Vec<u8> {
    let mut out = BytesMut::new();
    let tail = encode(entry, Place { file_number: number, salt, sequence, back }, &mut out).cloned();
    let mut record = out.to_vec();
    record.extend_from_slice(&tail.unwrap_or_default());
    record
}

/// A file's bytes: a header, then records of one write each, numbered from `first`.
fn file(number: u64, salt: u32, first: u64, entries: &[JournalEntry]) -> Vec<u8> {
    let mut bytes = FileHeader { number, first_sequence: first, salt }.encode();
    for (sequence, entry) in (first..).zip(entries) {
        bytes.extend_from_slice(&record(number, salt, sequence, 0, entry));
    }
    bytes
}

fn put(disk: &dyn Disk, number: u64, bytes: &[u8]) {
    let folder = folder_of(&super::root());
    make_folder(disk, &folder);
    let file = disk.open(&path_of(&folder, number), OpenMode::Create).unwrap();
    file.set_len(0).unwrap();
    file.write_all_at(&[IoSlice::new(bytes)], 0).unwrap();
}

fn on_a_disk<T>(test: impl FnOnce(&dyn Disk) -> T) -> T {
    block_on(1, async { test(&*World::new(1).runtime_for(NodeId(1)).disk()) })
}

fn sequences(disk: &dyn Disk, from: ReplayFrom) -> Vec<u64> {
    read(disk, from).unwrap().0.iter().map(|(sequence, _)| *sequence).collect()
}

#[test]
fn a_journal_reads_back_over_several_files() {
    on_a_disk(|disk| {
        let entries: Vec<_> = (0..6).map(|index| append(1, index, 100)).collect();
        put(disk, 1, &file(1, 11, 1, &entries[..3]));
        put(disk, 2, &file(2, 22, 4, &entries[3..3]));
        put(disk, 5, &file(5, 55, 4, &entries[3..]));
        let (read, scanned) = read(disk, BEGINNING).unwrap();
        assert_eq!(read.into_iter().map(|(_, entry)| entry).collect::<Vec<_>>(), entries);
        assert_eq!((scanned.next_sequence, scanned.records, scanned.files), (7, 6, vec![1, 2, 5]));
    });
}

#[test]
fn records_before_the_wanted_one_are_read_over() {
    on_a_disk(|disk| {
        let entries: Vec<_> = (0..6).map(|index| append(1, index, 100)).collect();
        put(disk, 3, &file(3, 1, 40, &entries));
        put(disk, 2, &file(2, 1, 30, &entries));
        assert_eq!(sequences(disk, ReplayFrom { file_number: 3, sequence: 43 }), [43, 44, 45]);
        assert_eq!(sequences(disk, ReplayFrom { file_number: 3, sequence: 46 }), [0; 0]);
        assert_eq!(read(disk, ReplayFrom { file_number: 4, sequence: 46 }).unwrap().1.next_sequence, 46);
    });
}

#[test]
fn a_recycled_file_that_was_not_written_to_yet_is_passed_over() {
    on_a_disk(|disk| {
        let entries: Vec<_> = (0..3).map(|index| append(1, index, 100)).collect();
        put(disk, 7, &file(7, 1, 20, &entries));
        // Recycled under the number 8, with an old header that even has the wanted sequence number.
        put(disk, 8, &file(2, 1, 23, &entries));
        put(disk, 9, &file(9, 1, 23, &entries));
        assert_eq!(sequences(disk, ReplayFrom { file_number: 7, sequence: 20 }), [20, 21, 22, 23, 24, 25]);
    });
}

#[test]
fn old_records_behind_the_tail_of_a_recycled_file_are_not_replayed() {
    on_a_disk(|disk| {
        let old: Vec<_> = (0..5).map(|index| append(9, index, 100)).collect();
        let new: Vec<_> = (0..2).map(|index| append(1, index, 100)).collect();
        // The old life had the same record sizes, so its third record begins where the new one's tail ends. It is made
        // to match in every single thing but the file's number, then in every one but the salt.
        for (number, salt) in [(4, 77), (12, 78)] {
            let mut bytes = file(12, 77, 100, &new);
            let old_life = file(number, salt, 100, &old);
            bytes.extend_from_slice(&old_life[bytes.len()..]);
            put(disk, 12, &bytes);
            let from = ReplayFrom { file_number: 12, sequence: 100 };
            assert_eq!(sequences(disk, from), [100, 101]);
        }
    });
}

#[test]
fn a_scan_ends_at_a_record_whose_sequence_number_does_not_follow() {
    on_a_disk(|disk| {
        let mut bytes = file(1, 5, 1, &[append(1, 0, 10)]);
        bytes.extend_from_slice(&record(1, 5, 3, 2, &append(1, 1, 10)));
        put(disk, 1, &bytes);
        assert_eq!(sequences(disk, BEGINNING), [1]);
    });
}

#[test]
fn a_write_that_was_not_finished_is_cut_where_it_ends() {
    on_a_disk(|disk| {
        let mut bytes = file(1, 5, 1, &[append(1, 0, 10)]);
        let synced = bytes.len();
        // One write of three records, whose middle did not reach the disk.
        for (sequence, back) in [(2, 0), (3, 1), (4, 2)] {
            bytes.extend_from_slice(&record(1, 5, sequence, back, &append(1, sequence, 600)));
        }
        let third = synced + 2 * (64 + 61 + 1 + 600);
        for lost in [synced..synced + 1, synced + 100..synced + 200, third - 300..third] {
            let mut torn = bytes.clone();
            torn[lost.clone()].fill(0xee);
            put(disk, 1, &torn);
            let kept: &[u64] = if lost.start < synced + 600 { &[1] } else { &[1, 2] };
            assert_eq!(sequences(disk, BEGINNING), kept, "{lost:?}");
        }
        for length in synced..bytes.len() {
            put(disk, 1, &bytes[..length]);
            assert!(sequences(disk, BEGINNING).len() < 4, "cut at {length}");
        }
    });
}

#[test]
fn a_damaged_record_before_a_later_write_refuses_the_start() {
    on_a_disk(|disk| {
        let entries: Vec<_> = (0..4).map(|index| append(1, index, 300)).collect();
        let bytes = file(1, 5, 1, &entries);
        let record_bytes = 64 + 61 + 1 + 300;
        for (damaged, proof) in [(0, "record 2"), (1, "record 3"), (2, "record 4")] {
            // In the length, the header, the batch's header, its payload.
            for at in [0, 20, 64 + 10, 64 + 200] {
                let mut bytes = bytes.clone();
                bytes[FILE_HEADER_BYTES + damaged * record_bytes + at] ^= 4;
                put(disk, 1, &bytes);
                let error = read(disk, BEGINNING).unwrap_err();
                assert!(matches!(&error, OpenError::Damaged { what, .. } if what.contains(proof)), "{error}");
            }
        }
        // The last write proves nothing but those before it: its damage cannot be told from a crash.
        let mut bytes = bytes.clone();
        bytes[FILE_HEADER_BYTES + 3 * record_bytes + 200] ^= 4;
        put(disk, 1, &bytes);
        assert_eq!(sequences(disk, BEGINNING), [1, 2, 3]);
    });
}

#[test]
fn a_file_that_does_not_continue_the_one_before_refuses_the_start() {
    on_a_disk(|disk| {
        let entries: Vec<_> = (0..3).map(|index| append(1, index, 300)).collect();
        put(disk, 1, &file(1, 5, 1, &entries[..2]));
        put(disk, 2, &file(2, 6, 4, &entries));
        let error = read(disk, BEGINNING).unwrap_err();
        assert!(error.to_string().contains("record 3 is missing"), "{error}");
        // The first file begins behind what is needed.
        put(disk, 1, &file(1, 5, 2, &entries[..2]));
        let error = read(disk, BEGINNING).unwrap_err();
        assert!(error.to_string().contains("record 1 is missing"), "{error}");
    });
}

#[test]
fn a_start_that_found_unneeded_records_missing_may_go_on_at_the_first_needed_one() {
    on_a_disk(|disk| {
        let entries: Vec<_> = (0..3).map(|index| append(1, index, 300)).collect();
        // A checkpoint covered all up to 50 while records 12 to 49 were still on their way; the crash took them.
        put(disk, 1, &file(1, 5, 10, &entries[..2]));
        put(disk, 2, &file(2, 6, 50, &entries));
        assert_eq!(sequences(disk, ReplayFrom { file_number: 1, sequence: 50 }), [50, 51, 52]);
    });
}

#[test]
fn bytes_of_a_client_that_look_like_a_record_do_not_refuse_the_start() {
    on_a_disk(|disk| {
        // A payload that holds a record of a later write of this very file, as well as a client can guess it.
        let forged = record(1, 0, 900, 0, &append(1, 1, 10));
        let payload = [&[0; 50][..], &forged, &[0; 50]].concat();
        let entry = JournalEntry::Append {
            group: millpond_record::GroupId(1),
            index: millpond_record::RaftIndex(0),
            term: millpond_record::Term(1),
            append_time: millpond_record::Timestamp(0),
            begins_segment: false,
            batch: batch(&payload),
        };
        let mut bytes = file(1, 0xdead, 1, &[append(1, 0, 10), entry]);
        let torn = bytes.len() - 10;
        bytes[torn..].fill(0xee);
        put(disk, 1, &bytes);
        assert_eq!(sequences(disk, BEGINNING), [1]);
    });
}

#[test]
fn a_damaged_header_is_read_from_its_second_copy() {
    on_a_disk(|disk| {
        for at in 0..36 {
            let mut bytes = file(1, 5, 1, &[append(1, 0, 10)]);
            bytes[at] ^= 0x10;
            put(disk, 1, &bytes);
            assert_eq!(sequences(disk, BEGINNING), [1], "byte {at}");
        }
    });
}

#[test]
fn a_file_of_a_newer_version_is_refused() {
    on_a_disk(|disk| {
        let mut bytes = file(1, 5, 1, &[]);
        bytes[8] = 2;
        let crc = crc32fast::hash(&bytes[..32]);
        bytes[32..36].copy_from_slice(&crc.to_le_bytes());
        put(disk, 1, &bytes);
        let error = read(disk, BEGINNING).unwrap_err();
        assert!(matches!(error, OpenError::NewerFormat { found: 2, supported: 1, .. }), "{error}");
    });
}

#[test]
fn a_record_of_an_unknown_kind_refuses_the_start() {
    on_a_disk(|disk| {
        let mut bytes = file(1, 5, 1, &[JournalEntry::Delete { group: millpond_record::GroupId(1) }]);
        let at = FILE_HEADER_BYTES;
        bytes[at + 56] = 200;
        let mut crc = crc32fast::Hasher::new_with_initial(5);
        crc.update(&bytes[at..at + 4]);
        crc.update(&bytes[at + 8..at + 64]);
        bytes[at + 4..at + 8].copy_from_slice(&crc.finalize().to_le_bytes());
        put(disk, 1, &bytes);
        assert!(matches!(read(disk, BEGINNING), Err(OpenError::Damaged { .. })));
    });
}

#[test]
fn only_names_of_journal_files_are_taken_for_journal_files() {
    assert_eq!(number_of("0000000000000012.wal"), Some(12));
    assert_eq!(number_of("12345678901234567.wal"), Some(12_345_678_901_234_567));
    for name in ["0000000000000000.wal", "12.wal", "+000000000000012.wal", "0000000000000012.tmp", "", ".wal"] {
        assert_eq!(number_of(name), None, "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn arbitrary_bytes_in_a_journal_file_never_panic(
        whole in 0..3_usize,
        bytes in proptest::collection::vec(any::<u8>(), 0..3000),
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
    ) {
        on_a_disk(|disk| {
            let entries: Vec<_> = (0..whole as u64 * 2).map(|index| append(1, index, 50)).collect();
            let mut content = if whole > 0 { file(1, 5, 1, &entries) } else { Vec::new() };
            content.extend_from_slice(&bytes);
            for (at, byte) in edits {
                if !content.is_empty() {
                    let at = at.index(content.len());
                    content[at] = byte;
                }
            }
            put(disk, 1, &content);
            // Refused or read: what matters is that it returns, and returns nothing but what was written.
            if let Ok((read, _)) = read(disk, BEGINNING) {
                assert!(read.len() <= entries.len());
                assert!(read.iter().zip(&entries).all(|((_, read), written)| read == written));
            }
        });
    }
}

#[test]
fn a_record_that_claims_more_bytes_than_the_file_has_is_the_end() {
    on_a_disk(|disk| {
        let mut bytes = file(1, 5, 1, &[append(1, 0, 10)]);
        bytes[FILE_HEADER_BYTES..FILE_HEADER_BYTES + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        put(disk, 1, &bytes);
        assert_eq!(sequences(disk, BEGINNING), [0; 0]);
    });
    // A list of a folder that is not there is an error, not an empty journal.
    on_a_disk(|disk| assert!(scan::list(disk, &folder_of(&super::root())).is_err()));
}
