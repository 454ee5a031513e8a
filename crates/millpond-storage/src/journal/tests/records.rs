use bytes::{Bytes, BytesMut};
use millpond_record::{
    FilePosition, GroupId, LeaderEpoch, Offset, PartitionIndex, RaftIndex, RaftOnlyKind, ReplicaId, Term, Timestamp,
    TopicId, raft_only_batch,
};
use proptest::prelude::*;

use crate::journal::JournalEntry;
use crate::journal::record::{
    Place, RECORD_HEAD_BYTES, RECORD_HEADER_BYTES, RecordHeader, decode, encode, prove_head, prove_rest,
};
use crate::log::switch::Installed;
use crate::manifest::ManifestSegment;
use crate::types::{FlushMode, GroupRow, GroupSpec, LogOptions, LogPosition, SegmentPosition, Vote};

fn options() -> impl Strategy<Value = LogOptions> {
    let numbers = (any::<u32>(), any::<u64>(), any::<u64>());
    (any::<bool>(), numbers).prop_map(|(relaxed, (segment_bytes, segment_ms, segment_jitter_ms))| LogOptions {
        flush: if relaxed { FlushMode::Relaxed } else { FlushMode::Durable },
        segment_bytes,
        segment_ms,
        segment_jitter_ms,
    })
}

fn blob(most: usize) -> impl Strategy<Value = Bytes> {
    proptest::collection::vec(any::<u8>(), 0..most).prop_map(Bytes::from)
}

/// Any entry of any kind.
fn entry() -> impl Strategy<Value = JournalEntry> {
    let group = any::<u64>().prop_map(GroupId);
    let term = any::<u64>().prop_map(Term);
    let append = (group.clone(), any::<u64>(), term.clone(), any::<i64>(), 0..i64::MAX, blob(3000)).prop_map(
        |(group, index, term, time, offset, payload)| JournalEntry::Append {
            group,
            index: RaftIndex(index),
            term,
            append_time: Timestamp(time),
            begins_segment: time % 2 == 0,
            batch: raft_only_batch(RaftOnlyKind::Void, &payload, Offset(offset), LeaderEpoch(3), Timestamp(time)),
        },
    );
    let truncate = (group.clone(), any::<Option<u64>>())
        .prop_map(|(group, after)| JournalEntry::Truncate { group, after: after.map(RaftIndex) });
    let vote =
        (group.clone(), term.clone(), any::<u64>(), any::<bool>()).prop_map(|(group, term, replica, committed)| {
            JournalEntry::Vote { group, vote: Vote { term, replica: ReplicaId(replica), committed } }
        });
    let purge = (group.clone(), term, any::<u64>(), any::<i64>(), blob(300)).prop_map(
        |(group, term, index, offset, membership)| {
            let position = LogPosition { term, index: RaftIndex(index), offset: Offset(offset) };
            JournalEntry::Purge { group, position, membership }
        },
    );
    let log_start = (group.clone(), any::<i64>())
        .prop_map(|(group, offset)| JournalEntry::LogStart { group, offset: Offset(offset) });
    let create = (group.clone(), "[a-zA-Z0-9_-]{1,249}", 0..i32::MAX, any::<[u8; 16]>(), any::<u64>(), options())
        .prop_map(|(group, topic, partition, id, replica, options)| {
            let (partition, topic_id, replica) = (PartitionIndex(partition), TopicId(id), ReplicaId(replica));
            JournalEntry::Create { spec: GroupSpec { group, topic, partition, topic_id, replica, options } }
        });
    let delete = group.clone().prop_map(|group| JournalEntry::Delete { group });
    let change = (group.clone(), options()).prop_map(|(group, options)| JournalEntry::Options { group, options });
    let install = (group, any::<u64>(), 0..i64::MAX, blob(300), 0..20u64).prop_map(installed);
    prop_oneof![append, truncate, vote, purge, log_start, create, delete, change, install]
}

fn installed((group, hash, offset, membership, segments): (GroupId, u64, i64, Bytes, u64)) -> JournalEntry {
    let spec = GroupSpec {
        group,
        topic: "t".to_owned(),
        partition: PartitionIndex(0),
        topic_id: TopicId([1; 16]),
        replica: ReplicaId(hash),
        options: LogOptions::default(),
    };
    let position = LogPosition { term: Term(hash), index: RaftIndex(hash), offset: Offset(offset) };
    let row = GroupRow {
        purged: Some(position),
        durable: Some(SegmentPosition {
            base_offset: Offset(offset),
            first_index: RaftIndex(hash),
            position: FilePosition(0),
        }),
        membership_at_p: membership,
        ..GroupRow::new(&spec, hash)
    };
    let segment = |number: u64| ManifestSegment {
        base_offset: Offset(offset),
        first_index: RaftIndex(number),
        next_index: RaftIndex(number + 1),
        log_bytes: number as u32,
        index_bytes: number,
        hash,
    };
    JournalEntry::Install { installed: Box::new(Installed { row, segments: (0..segments).map(segment).collect() }) }
}

fn record(entry: &JournalEntry, place: Place) -> Vec<u8> {
    let mut out = BytesMut::from(&b"before"[..]);
    let tail = encode(entry, place, &mut out).cloned();
    let mut record = out.split_off(6).to_vec();
    record.extend_from_slice(&tail.unwrap_or_default());
    record
}

const PLACE: Place = Place { file_number: 7, salt: 0xfeed, sequence: 99, back: 3 };

fn prove(header: &RecordHeader, record: &[u8], salt: u32) -> bool {
    let head = &record[..record.len().min(RECORD_HEAD_BYTES)];
    prove_head(header, head, salt) && prove_rest(header, record, salt)
}

fn read(record: &[u8], salt: u32) -> Option<JournalEntry> {
    let header = RecordHeader::read(record.first_chunk()?);
    if !header.fits(record.len() as u64) {
        return None;
    }
    let record = &record[..header.length as usize];
    prove(&header, record, salt).then(|| decode(&header, record).expect("it was encoded by this version"))
}

proptest! {
    #[test]
    fn every_kind_of_entry_comes_back_from_its_record(entry in entry()) {
        let record = record(&entry, PLACE);
        prop_assert_eq!(record.len() as u64, entry.record_bytes());
        let header = RecordHeader::read(record.first_chunk().unwrap());
        prop_assert_eq!((header.file_number, header.sequence, header.back), (7, 99, 3));
        prop_assert_eq!(header.group, entry.group());
        prop_assert_eq!(read(&record, PLACE.salt), Some(entry));
    }

    #[test]
    fn a_record_with_one_flipped_bit_is_not_believed(entry in entry(), bit in any::<prop::sample::Index>()) {
        let mut record = record(&entry, PLACE);
        let bit = bit.index(record.len() * 8);
        record[bit / 8] ^= 1 << (bit % 8);
        prop_assert_eq!(read(&record, PLACE.salt), None);
    }

    #[test]
    fn a_record_of_a_file_with_another_salt_is_not_believed(entry in entry(), salt in any::<u32>()) {
        prop_assume!(salt != PLACE.salt);
        prop_assert_eq!(read(&record(&entry, PLACE), salt), None);
    }

    #[test]
    fn bytes_that_were_proven_by_chance_are_refused_or_decoded_but_never_panic(
        kind in any::<u8>(),
        payload in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut bytes = vec![0; RECORD_HEADER_BYTES];
        bytes[56] = kind;
        bytes.extend_from_slice(&payload);
        let length = bytes.len() as u32;
        bytes[..4].copy_from_slice(&length.to_le_bytes());
        let header = RecordHeader::read(bytes.first_chunk().unwrap());
        // Only that it returns matters.
        let _ = decode(&header, &bytes);
    }
}

#[test]
fn a_topic_name_that_leaves_the_data_directory_is_not_decoded() {
    for topic in ["..", "../x", "a/b", ""] {
        let spec = GroupSpec {
            group: GroupId(1),
            topic: topic.to_owned(),
            partition: PartitionIndex(0),
            topic_id: TopicId([1; 16]),
            replica: ReplicaId(1),
            options: LogOptions::default(),
        };
        let record = record(&JournalEntry::Create { spec }, PLACE);
        let header = RecordHeader::read(record.first_chunk().unwrap());
        assert!(prove(&header, &record, PLACE.salt));
        assert!(decode(&header, &record).is_err(), "{topic:?}");
    }
}
