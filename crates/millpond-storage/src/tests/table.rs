use bytes::Bytes;
use millpond_record::{
    FilePosition, GroupId, LogId, Offset, PartitionIndex, RaftIndex, ReplicaId, Term, Timestamp, TopicId,
};
use millpond_runtime::sim::{NodeId, World, block_on};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;

use crate::journal::scan::ReplayFrom;
use crate::table::{Table, TableError};
use crate::types::{
    EpochStart, FlushMode, GroupRow, LogOptions, LogPosition, Newest, Retained, SegmentPosition, Taint, Vote,
};

fn log_id() -> impl Strategy<Value = LogId> {
    (any::<u64>(), any::<u64>()).prop_map(|(term, index)| LogId { term: Term(term), index: RaftIndex(index) })
}

fn blob() -> impl Strategy<Value = Bytes> {
    proptest::collection::vec(any::<u8>(), 0..100).prop_map(Bytes::from)
}

prop_compose! {
    fn row()(
        (group, replica, topic_id) in (any::<u64>(), any::<u64>(), any::<[u8; 16]>()),
        (topic, partition) in ("[a-zA-Z0-9_-]{1,40}", 0..i32::MAX),
        (vote, voted, committed_vote) in (any::<u64>(), any::<u64>(), any::<bool>()),
        purged in proptest::option::of((log_id(), any::<i64>())),
        (membership_at_p, membership) in (blob(), blob()),
        (log_start, log_end) in (any::<i64>(), any::<i64>()),
        (committed, last) in (proptest::option::of(log_id()), proptest::option::of(log_id())),
        durable in proptest::option::of((any::<i64>(), any::<u64>(), any::<u64>())),
        epochs in proptest::collection::vec((log_id(), any::<i64>()), 0..5),
        (journal_sequence, set_aside) in (any::<u64>(), any::<bool>()),
        taint in prop_oneof![Just(Taint::None), Just(Taint::IfShared), Just(Taint::Shared)],
        (relaxed, segment_bytes) in (any::<bool>(), any::<u32>()),
        (segment_ms, segment_jitter_ms) in (any::<u64>(), any::<u64>()),
        retained in (any::<[u64; 2]>(), proptest::option::of(any::<[i64; 2]>()), any::<[i64; 2]>(), any::<bool>()),
    ) -> GroupRow {
        GroupRow {
            group: GroupId(group),
            topic,
            partition: PartitionIndex(partition),
            topic_id: TopicId(topic_id),
            replica: ReplicaId(replica),
            vote: Vote { term: Term(vote), replica: ReplicaId(voted), committed: committed_vote },
            purged: purged.map(|(id, offset)| LogPosition { term: id.term, index: id.index, offset: Offset(offset) }),
            membership_at_p,
            membership,
            log_start: Offset(log_start),
            log_end: Offset(log_end),
            committed,
            last,
            durable: durable.map(|(base_offset, first_index, position)| SegmentPosition {
                base_offset: Offset(base_offset),
                first_index: RaftIndex(first_index),
                position: FilePosition(position),
            }),
            epochs: epochs
                .into_iter()
                .map(|(id, offset)| EpochStart { term: id.term, index: id.index, offset: Offset(offset) })
                .collect(),
            journal_sequence,
            set_aside,
            taint,
            options: LogOptions {
                flush: if relaxed { FlushMode::Relaxed } else { FlushMode::Durable },
                segment_bytes,
                segment_ms,
                segment_jitter_ms,
            },
            retained: Retained {
                bytes: retained.0[0],
                oldest_bytes: retained.0[1],
                oldest_newest: retained.1.map(|[record, append]| {
                    Newest { record: Timestamp(record), append: Timestamp(append) }
                }),
                active_since: Timestamp(retained.2[0]),
                last_append: Timestamp(retained.2[1]),
                freeable: retained.3,
            },
        }
    }
}

fn table() -> impl Strategy<Value = Table> {
    (any::<u64>(), any::<u64>(), proptest::collection::vec(row(), 0..6)).prop_map(|(file_number, sequence, rows)| {
        Table {
            replay_from: ReplayFrom { file_number, sequence },
            rows: rows.into_iter().map(|row| (row.group, row)).collect(),
        }
    })
}

fn encode(table: &Table) -> Vec<u8> {
    Table::encode(table.replay_from, table.rows.values().collect::<Vec<_>>().into_iter()).to_vec()
}

/// Makes the checksum right again.
fn seal(bytes: &mut [u8]) {
    // Of version 2 the version is covered, too.
    let version = if bytes[8] > 1 { &bytes[8..12] } else { &[] };
    let crc = crc32fast::hash(&[version, &bytes[16..]].concat());
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
}

proptest! {
    #[test]
    fn a_table_comes_back_from_its_bytes(table in table()) {
        prop_assert_eq!(Table::decode(&encode(&table)), Ok(table));
    }

    #[test]
    fn a_table_with_one_changed_byte_is_refused(
        table in table(),
        at in any::<prop::sample::Index>(),
        by in 1..=255_u8,
    ) {
        let mut bytes = encode(&table);
        let at = at.index(bytes.len());
        bytes[at] ^= by;
        prop_assert!(Table::decode(&bytes).is_err());
    }

    #[test]
    fn arbitrary_bytes_behind_a_right_checksum_never_panic(
        table in table(),
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        length in any::<prop::sample::Index>(),
    ) {
        let mut bytes = encode(&table);
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(16 + length.index(bytes.len() - 15));
        seal(&mut bytes);
        // Refused or read: that it returns, without an allocation for a count that the bytes cannot hold.
        let _ = Table::decode(&bytes);
    }
}

#[test]
fn a_count_of_rows_or_epochs_that_the_file_cannot_hold_is_refused() {
    let table = Table { replay_from: ReplayFrom { file_number: 1, sequence: 1 }, rows: BTreeMap::new() };
    let mut bytes = encode(&table);
    let at = bytes.len() - 4;
    bytes[at..].copy_from_slice(&u32::MAX.to_le_bytes());
    seal(&mut bytes);
    assert!(matches!(Table::decode(&bytes), Err(TableError::Field(_))));
}

#[test]
fn a_table_of_a_newer_version_is_refused_by_that_reason() {
    let table = Table { replay_from: ReplayFrom { file_number: 1, sequence: 1 }, rows: BTreeMap::new() };
    let mut bytes = encode(&table);
    bytes[8] = 9;
    assert_eq!(Table::decode(&bytes), Err(TableError::Newer(9)));
    assert_eq!(Table::decode(b"MILLPTB"), Err(TableError::NotATable));
}

#[test]
fn a_table_replaces_the_old_one_whole() {
    block_on(1, async {
        let disk = World::new(1).runtime_for(NodeId(1)).disk();
        let root = Path::new("/");
        for sequence in [1, 7] {
            let replay_from = ReplayFrom { file_number: 1, sequence };
            Table::write(&*disk, root, replay_from, [].iter()).unwrap();
            assert_eq!(Table::read(&*disk, root).unwrap().replay_from, replay_from);
        }
    });
}
