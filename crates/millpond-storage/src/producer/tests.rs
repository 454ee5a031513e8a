//! The sequence check as a table, the two layers, the snapshot.

use super::*;
use millpond_record::{Attributes, LeaderEpoch};
use proptest::prelude::*;

const ID: i64 = 7;

fn header(id: i64, epoch: i16, sequence: i32, records: i32) -> BatchHeader {
    BatchHeader {
        base_offset: Offset(0),
        size_bytes: 100,
        leader_epoch: LeaderEpoch(1),
        crc: 0,
        attributes: Attributes(0),
        last_offset_delta: records - 1,
        base_timestamp: Timestamp(0),
        max_timestamp: Timestamp(0),
        producer_id: ProducerId(id),
        producer_epoch: ProducerEpoch(epoch),
        base_sequence: sequence,
        record_count: records,
    }
}

/// Appends batches of (epoch, first sequence, records) at the offsets that they take; the first is index 0.
fn state(batches: &[(i16, i32, i32)], committed: usize) -> Producers {
    let mut producers = Producers::default();
    let mut offset = 0;
    for (index, (epoch, sequence, records)) in batches.iter().enumerate() {
        let mut header = header(ID, *epoch, *sequence, *records);
        header.base_offset = Offset(offset);
        offset += i64::from(*records);
        producers.appended(&header, RaftIndex(index as u64), Timestamp(index as i64));
    }
    for _ in 0..committed {
        producers.committed(ProducerId(ID));
    }
    producers
}

fn duplicate(base: i64, last: i64, uncommitted: Option<u64>) -> Result<Checked, SequenceError> {
    let uncommitted = uncommitted.map(RaftIndex);
    Ok(Checked::Duplicate { base_offset: Offset(base), last_offset: Offset(last), uncommitted })
}

fn out_of_order(found: i32, expected: i32) -> Result<Checked, SequenceError> {
    Err(SequenceError::OutOfOrder { found, expected })
}

#[test]
fn the_sequence_check_is_kafkas_row_by_row() {
    const MAX: i32 = i32::MAX;
    type Row<'a> = (&'a str, &'a [(i16, i32, i32)], (i16, i32, i32), Result<Checked, SequenceError>);
    let eight: Vec<(i16, i32, i32)> = (0..8).map(|sequence| (0, sequence, 1)).collect();
    let next = Ok(Checked::Next);
    let rows: &[Row<'_>] = &[
        ("an unknown producer starts at 0", &[], (0, 0, 1), next),
        ("or anywhere", &[], (0, 5, 1), next),
        ("the next sequence", &[(0, 0, 3)], (0, 3, 1), next),
        ("a gap", &[(0, 0, 3)], (0, 4, 1), out_of_order(4, 3)),
        ("one too low", &[(0, 0, 3)], (0, 2, 1), out_of_order(2, 3)),
        ("the newest again", &eight, (0, 7, 1), duplicate(7, 7, None)),
        ("the fifth newest again", &eight, (0, 3, 1), duplicate(3, 3, None)),
        ("the sixth newest again", &eight, (0, 2, 1), out_of_order(2, 8)),
        ("a duplicate is known by first and last sequence", &[(0, 0, 3), (0, 3, 1)], (0, 0, 3), duplicate(0, 2, None)),
        ("a part of it is none", &[(0, 0, 3), (0, 3, 1)], (0, 0, 2), out_of_order(0, 4)),
        ("nor is more than it", &[(0, 0, 3), (0, 3, 1)], (0, 0, 4), out_of_order(0, 4)),
        ("nor one that overlaps two", &[(0, 0, 3), (0, 3, 1)], (0, 2, 2), out_of_order(2, 4)),
        ("after the largest comes 0", &[(0, MAX - 1, 2)], (0, 0, 1), next),
        ("a batch may hold the wrap", &[(0, MAX, 3)], (0, 2, 1), next),
        ("and be known again", &[(0, MAX, 3)], (0, MAX, 3), duplicate(0, 2, None)),
        ("a lower epoch is fenced", &[(3, 0, 1)], (2, 1, 1), Err(SequenceError::OldEpoch { found: 2, current: 3 })),
        ("also a duplicate", &[(3, 0, 1), (4, 0, 1)], (3, 0, 1), Err(SequenceError::OldEpoch { found: 3, current: 4 })),
        ("a higher epoch starts at 0", &[(3, 0, 1)], (4, 0, 1), next),
        ("and nowhere else", &[(3, 0, 1)], (4, 5, 1), out_of_order(5, 0)),
        (
            "what is left of the old epoch is no duplicate",
            &[(3, 0, 2), (3, 2, 1), (4, 0, 1)],
            (4, 2, 1),
            out_of_order(2, 1),
        ),
    ];
    for (name, before, (epoch, sequence, records), expected) in rows {
        let found = state(before, before.len()).check(&header(ID, *epoch, *sequence, *records));
        assert_eq!(found, *expected, "{name}, all committed");
        // Uncommitted batches count the same; a duplicate of one says what to wait for.
        let found = match state(before, 0).check(&header(ID, *epoch, *sequence, *records)) {
            Ok(Checked::Duplicate { base_offset, last_offset, uncommitted: Some(_) }) => {
                Ok(Checked::Duplicate { base_offset, last_offset, uncommitted: None })
            }
            other => other,
        };
        assert_eq!(found, *expected, "{name}, none committed");
    }
}

#[test]
fn a_duplicate_of_an_uncommitted_batch_names_its_index() {
    let producers = state(&[(0, 0, 1), (0, 1, 1), (0, 2, 1)], 1);
    assert_eq!(producers.check(&header(ID, 0, 2, 1)), duplicate(2, 2, Some(2)));
    assert_eq!(producers.check(&header(ID, 0, 1, 1)), duplicate(1, 1, Some(1)));
    assert_eq!(producers.check(&header(ID, 0, 0, 1)), duplicate(0, 0, None));
}

#[test]
fn a_truncation_takes_back_what_it_truncates() {
    let mut producers = state(&[(0, 0, 1), (0, 1, 1), (1, 0, 1)], 1);
    producers.truncated(ProducerId(ID));
    assert_eq!(producers.check(&header(ID, 0, 2, 1)), Ok(Checked::Next), "the raised epoch is gone");
    producers.truncated(ProducerId(ID));
    assert_eq!(producers.check(&header(ID, 0, 1, 1)), Ok(Checked::Next));
    let mut fresh = state(&[(0, 5, 1)], 0);
    fresh.truncated(ProducerId(ID));
    assert_eq!(fresh.check(&header(ID, 0, 9, 1)), Ok(Checked::Next), "nothing is left of an unknown producer");
}

#[test]
fn only_data_of_a_producer_with_an_id_concerns_the_state() {
    assert!(Producers::concerns(&header(0, 0, 0, 1)));
    assert!(!Producers::concerns(&header(-1, -1, -1, 1)));
    let marker = BatchHeader { attributes: Attributes(0x30), ..header(ID, 0, -1, 1) };
    assert!(!Producers::concerns(&marker));
}

#[test]
fn beyond_the_limit_the_producer_that_was_silent_for_longest_is_forgotten() {
    let mut producers = Producers::with_limit(2);
    for (index, id) in [1, 2, 1, 3].into_iter().enumerate() {
        let sequence = if index == 2 { 1 } else { 0 };
        producers.appended(&header(id, 0, sequence, 1), RaftIndex(index as u64), Timestamp(0));
        producers.committed(ProducerId(id));
    }
    assert_eq!(producers.len(), 2);
    assert_eq!(producers.check(&header(2, 0, 9, 1)), Ok(Checked::Next), "2 is forgotten");
    assert_eq!(producers.check(&header(1, 0, 9, 1)), out_of_order(9, 2), "1 is not");
}

#[test]
fn expiry_forgets_by_append_time_and_spares_what_is_uncommitted() {
    let mut producers = state(&[(0, 0, 1), (0, 1, 1)], 1);
    assert_eq!(producers.expire(Timestamp(100)), 0, "its second batch is not committed");
    producers.committed(ProducerId(ID));
    assert_eq!(producers.expire(Timestamp(1)), 0, "its last batch is of time 1");
    assert_eq!(producers.expire(Timestamp(2)), 1);
    assert_eq!((producers.len(), producers.check(&header(ID, 0, 9, 1))), (0, Ok(Checked::Next)));
}

#[test]
fn a_snapshot_holds_the_committed_layer_and_nothing_else() {
    let batches: Vec<(i16, i32, i32)> = (0..7).map(|at| (2, at * 2, 2)).collect();
    let covers = LogId { term: Term(3), index: RaftIndex(6) };
    let bytes = state(&batches, 7).snapshot(covers, Offset(14));
    let read = read_snapshot(&bytes).unwrap();
    assert_eq!((read.covers, read.next_offset, read.producers.len()), (covers, Offset(14), 1));
    assert_eq!(read.producers.check(&header(ID, 2, 12, 2)), duplicate(12, 13, None));
    assert_eq!(read.producers.check(&header(ID, 2, 4, 2)), duplicate(4, 5, None));
    assert_eq!(read.producers.check(&header(ID, 2, 2, 2)), out_of_order(2, 14), "five are remembered");
    assert_eq!(read.producers.snapshot(covers, Offset(14)), bytes, "the same state has the same bytes");
    assert_eq!(state(&batches, 0).snapshot(covers, Offset(14)).len(), SNAPSHOT_HEADER_BYTES + 4);
}

proptest! {
    #[test]
    fn a_snapshot_with_a_flipped_bit_is_refused(at in any::<prop::sample::Index>(), bit in 0..8u8) {
        let covers = LogId { term: Term(3), index: RaftIndex(6) };
        let mut bytes = state(&[(0, 0, 1), (0, 1, 2)], 2).snapshot(covers, Offset(3)).to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(read_snapshot(&bytes).is_err());
    }

    #[test]
    fn arbitrary_bytes_are_no_snapshot_and_no_panic(
        mut bytes in prop::collection::vec(any::<u8>(), 0..400),
        seal: bool,
    ) {
        if seal && bytes.len() >= 12 {
            // With a right head and checksum the fields themselves are looked at.
            bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
            bytes[4..8].copy_from_slice(&VERSION.to_le_bytes());
            let crc = crc32fast::hash(&bytes);
            bytes.extend_from_slice(&crc.to_le_bytes());
        }
        let _ = read_snapshot(&bytes);
    }
}

#[test]
fn a_producer_is_listed_by_its_newest_batch_committed_or_not() {
    let listed = |batches: &[(i16, i32, i32)], committed| {
        let all = state(batches, committed).list();
        all.into_iter().map(|one| (one.epoch.0, one.last_sequence, one.last_append.0)).collect::<Vec<_>>()
    };
    assert_eq!(listed(&[], 0), []);
    assert_eq!(listed(&[(0, 0, 3), (0, 3, 1)], 2), [(0, 3, 1)]);
    assert_eq!(listed(&[(0, 0, 3), (0, 3, 1)], 1), [(0, 3, 1)]);
    assert_eq!(listed(&[(0, 0, 3), (1, 0, 5)], 0), [(1, 4, 1)]);
}
