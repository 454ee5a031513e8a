//! The bytes of every file, held to what they are: a change of a layout shows here, and needs a new version of its
//! format once one has been released.

use bytes::{Bytes, BytesMut};
use millpond_record::{
    FilePosition, GroupId, LeaderEpoch, LogId, Offset, PartitionIndex, RaftIndex, RaftOnlyKind, ReplicaId, Term,
    Timestamp, TopicId, raft_only_batch,
};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::index::{IndexEntry, IndexError, IndexHeader, Trailer};
use crate::journal::JournalEntry;
use crate::journal::file::FileHeader;
use crate::journal::record::{Place, encode};
use crate::journal::scan::ReplayFrom;
use crate::partition_folder::PartitionMetadata;
use crate::producer::Producers;
use crate::table::Table;
use crate::types::{
    EpochStart, FlushMode, GroupRow, GroupSpec, LogOptions, LogPosition, Newest, Retained, SegmentPosition, Taint, Vote,
};

fn row() -> GroupRow {
    let log_id = |term, index| LogId { term: Term(term), index: RaftIndex(index) };
    GroupRow {
        group: GroupId(1),
        topic: "events".into(),
        partition: PartitionIndex(2),
        topic_id: TopicId([3; 16]),
        replica: ReplicaId(4),
        vote: Vote { term: Term(9), replica: ReplicaId(4), committed: true },
        purged: Some(LogPosition { term: Term(5), index: RaftIndex(6), offset: Offset(7) }),
        membership_at_p: Bytes::from_static(b"at p"),
        membership: Bytes::from_static(b"latest"),
        log_start: Offset(8),
        log_end: Offset(90),
        committed: Some(log_id(9, 100)),
        last: Some(log_id(9, 101)),
        durable: Some(SegmentPosition {
            base_offset: Offset(50),
            first_index: RaftIndex(51),
            position: FilePosition(52),
        }),
        epochs: vec![EpochStart { term: Term(9), index: RaftIndex(10), offset: Offset(11) }],
        journal_sequence: 12,
        set_aside: true,
        taint: Taint::None,
        options: options(),
        retained: Retained {
            bytes: 13,
            oldest_bytes: 14,
            oldest_newest: Some(Newest { record: Timestamp(15), append: Timestamp(16) }),
            active_since: Timestamp(17),
            last_append: Timestamp(18),
            freeable: true,
        },
    }
}

fn options() -> LogOptions {
    LogOptions { flush: FlushMode::Relaxed, segment_bytes: 19, segment_ms: 20, segment_jitter_ms: 21 }
}

fn records() -> Vec<JournalEntry> {
    let (group, term) = (GroupId(1), Term(9));
    let position = LogPosition { term, index: RaftIndex(6), offset: Offset(7) };
    let spec = GroupSpec {
        group,
        topic: "events".into(),
        partition: PartitionIndex(2),
        topic_id: TopicId([3; 16]),
        replica: ReplicaId(4),
        options: options(),
    };
    let batch = raft_only_batch(RaftOnlyKind::Blank, b"", Offset(7), LeaderEpoch(9), Timestamp(8));
    let (index, append_time) = (RaftIndex(5), Timestamp(8));
    vec![
        JournalEntry::Append { group, index, term, append_time, begins_segment: true, batch },
        JournalEntry::Truncate { group, after: Some(RaftIndex(5)) },
        JournalEntry::Vote { group, vote: Vote { term, replica: ReplicaId(4), committed: true } },
        JournalEntry::Purge { group, position, membership: Bytes::from_static(b"at p") },
        JournalEntry::LogStart { group, offset: Offset(7) },
        JournalEntry::Create { spec },
        JournalEntry::Delete { group },
        JournalEntry::Options { group, options: options() },
        JournalEntry::Placed { group, index, term, append_time },
    ]
}

fn record_bytes(entry: &JournalEntry) -> Vec<u8> {
    let mut out = BytesMut::new();
    let place = Place { file_number: 1, salt: 2, sequence: 3, back: 4 };
    let tail = encode(entry, place, &mut out).cloned().unwrap_or_default();
    [&out[..], &tail[..]].concat()
}

fn index_bytes() -> Vec<u8> {
    let header = IndexHeader { base_offset: Offset(1), first_index: RaftIndex(2), interval_bytes: 3 };
    let entry = IndexEntry {
        offset: Offset(1),
        index: RaftIndex(2),
        position: 3,
        raft_only_bytes: 4,
        max_timestamp_before: Timestamp(5),
        append_time: Timestamp(6),
        hash_before: 7,
    };
    let end = Trailer {
        next_index: RaftIndex(8),
        log_bytes: 9,
        max_timestamp: Timestamp(10),
        append_time: Timestamp(11),
        hash: 12,
    };
    let before = [&header.encode()[..], &entry.encode()].concat();
    [&before[..], &end.encode(&before)].concat()
}

#[test]
fn every_format_has_the_bytes_that_its_version_has_always_had() {
    let replay_from = ReplayFrom { file_number: 1, sequence: 2 };
    let covers = LogId { term: Term(1), index: RaftIndex(2) };
    let mut found = vec![
        ("groups.table", Table::encode(replay_from, [row()].iter()).to_vec()),
        ("tainted", Table::encode(replay_from, [GroupRow { taint: Taint::IfShared, ..row() }].iter()).to_vec()),
        ("tainted", Table::encode(replay_from, [GroupRow { taint: Taint::Shared, ..row() }].iter()).to_vec()),
        ("journal file", FileHeader { number: 1, first_sequence: 2, salt: 3 }.encode()),
        ("index", index_bytes()),
        ("snapshot", Producers::default().snapshot(covers, Offset(3)).to_vec()),
        (
            "partition.metadata",
            PartitionMetadata { group: GroupId(1), topic_id: TopicId([3; 16]) }.encode().into_bytes(),
        ),
    ];
    found.extend(records().iter().map(|entry| ("journal record", record_bytes(entry))));
    let found: Vec<(&str, usize, u64)> =
        found.iter().map(|(what, bytes)| (*what, bytes.len(), xxh3_64_with_seed(bytes, 0))).collect();
    let expected = [
        ("groups.table", 323, 0x4ef047adb7294056),
        ("tainted", 323, 0x38c7852c09f544c5),
        ("tainted", 323, 0xc68756231452eed9),
        ("journal file", 4096, 0x1b064c176f7a4d84),
        ("index", 128, 0x019b75d08dc17786),
        ("snapshot", 40, 0x06a6f9ba19af9ce8),
        ("partition.metadata", 53, 0xfd2a861d9934aa7f),
        ("journal record", 126, 0x3aadce3c3e36c17b),
        ("journal record", 64, 0x295f0e564f83f839),
        ("journal record", 64, 0x75a8df494e2b3a72),
        ("journal record", 85, 0x5acabe834fda8c1e),
        ("journal record", 77, 0xe853976b5e403097),
        ("journal record", 126, 0x31b022ca7a33ee7e),
        ("journal record", 64, 0x3926334540e34b17),
        ("journal record", 90, 0xe06df3e89fd0c84f),
        ("journal record", 64, 0x837de0cd167e2660),
    ];
    assert_eq!(found, expected);
}

#[test]
fn an_index_of_another_version_is_no_damage_and_is_never_made_anew() {
    let mut bytes = index_bytes();
    assert!(IndexHeader::decode(&bytes).is_ok());
    bytes[4] = 2;
    assert!(matches!(IndexHeader::decode(&bytes), Err(IndexError::Header)), "a flipped bit");
    let crc = crc32fast::hash(&bytes[..28]);
    bytes[28..32].copy_from_slice(&crc.to_le_bytes());
    let error = IndexHeader::decode(&bytes).unwrap_err();
    assert!(error.to_string().contains("format version 2"), "{error}");
    let source = crate::segment::SegmentError::Index { path: "some.idx".into(), source: error };
    assert!(!source.is_of_index());
}
