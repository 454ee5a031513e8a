//! What the crate promises of batches as a whole: built, validated, stamped, read back, damaged.

use bytes::Bytes;
use millpond_record::*;
use proptest::prelude::*;

const LIMIT: DecompressLimit = DecompressLimit(16 << 20);
const NOW: Timestamp = Timestamp(1_700_000_000_000);

fn rules() -> ProduceRules {
    ProduceRules {
        deep: true,
        timestamp: TimestampRules { after_max_ms: i64::MAX, ..TimestampRules::default() },
        ..ProduceRules::default()
    }
}

#[derive(Clone, Debug)]
struct Row {
    timestamp: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

fn bytes_or_null() -> impl Strategy<Value = Option<Vec<u8>>> {
    prop::option::of(prop::collection::vec(any::<u8>(), 0..200))
}

fn rows() -> impl Strategy<Value = Vec<Row>> {
    let headers = prop::collection::vec((prop::collection::vec(any::<u8>(), 0..20), bytes_or_null()), 0..4);
    let row = (0..i64::MAX / 2, bytes_or_null(), bytes_or_null(), headers);
    prop::collection::vec(
        row.prop_map(|(timestamp, key, value, headers)| Row { timestamp, key, value, headers }),
        1..40,
    )
}

fn codec() -> impl Strategy<Value = Codec> {
    prop::sample::select(&Codec::ALL)
}

fn build(rows: &[Row], codec: Codec) -> Bytes {
    let base = rows[0].timestamp;
    let mut builder = BatchBuilder::new().codec(codec).base_timestamp(Timestamp(base));
    for (delta, row) in rows.iter().enumerate() {
        builder.push(&Record {
            offset_delta: delta as i32,
            timestamp_delta: row.timestamp - base,
            key: row.key.as_deref(),
            value: row.value.as_deref(),
            headers: row.headers.iter().map(|(name, value)| RecordHeader { name, value: value.as_deref() }).collect(),
        });
    }
    builder.build()
}

fn one_batch() -> Bytes {
    BatchBuilder::new().record(NOW, Some(b"key"), Some(b"value")).record(NOW, None, Some(b"more")).build()
}

proptest! {
    #[test]
    fn what_is_built_is_valid_and_reads_back(rows in rows(), codec in codec()) {
        let batch = build(&rows, codec);
        let accepted = validate_produce(&batch, &rules(), NOW).unwrap();
        prop_assert!(accepted.corrections.is_empty());
        let header = accepted.header;
        prop_assert_eq!(header.record_count as usize, rows.len());
        prop_assert_eq!(header.max_timestamp.0, rows.iter().map(|row| row.timestamp).max().unwrap());
        let read = records(&batch, LIMIT).unwrap();
        for (at, (record, row)) in read.iter().zip(&rows).enumerate() {
            let record = record.unwrap();
            prop_assert_eq!(record.offset(&header), Offset(at as i64));
            prop_assert_eq!(record.timestamp(&header), Timestamp(row.timestamp));
            prop_assert_eq!(record.key, row.key.as_deref());
            prop_assert_eq!(record.value, row.value.as_deref());
            let headers: Vec<_> =
                record.headers.iter().map(|h| (h.name.to_vec(), h.value.map(<[u8]>::to_vec))).collect();
            prop_assert_eq!(&headers, &row.headers);
        }
        prop_assert_eq!(read.iter().count(), rows.len());
    }

    #[test]
    fn a_flipped_bit_behind_the_magic_is_caught_by_the_crc(
        rows in rows(), codec in codec(), at: prop::sample::Index, bit in 0u32..8,
    ) {
        let mut batch = build(&rows, codec).to_vec();
        prop_assert!(verify_crc(&batch));
        let covered = batch.len() - 17;
        batch[17 + at.index(covered)] ^= 1u8 << bit;
        prop_assert!(!verify_crc(&batch));
        prop_assert_eq!(validate_produce(&batch, &rules(), NOW), Err(InvalidBatch::Crc));
    }

    #[test]
    fn a_damaged_batch_never_panics(
        rows in rows(), codec in codec(), at: prop::sample::Index, flip in 1u8.., cut: bool,
    ) {
        let mut batch = build(&rows, codec).to_vec();
        let at = at.index(batch.len());
        if cut { batch.truncate(at) } else { batch[at] ^= flip }
        let _ = validate_produce(&batch, &rules(), NOW);
        let _ = StampedBatch::from_slice(&batch);
        // Also with the CRC made to fit, so that what lies behind that check is reached.
        if batch.len() >= HEADER_BYTES {
            rewrite_crc(&mut batch);
            let _ = validate_produce(&batch, &rules(), NOW);
            let _ = recompress(&batch, Codec::None, LIMIT);
        }
        if let Ok(records) = records(&batch, LIMIT) {
            let _ = records.iter().count();
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = BatchHeader::read(&bytes);
        let _ = BatchView::first_of(&bytes);
        let _ = records(&bytes, LIMIT).map(|records| records.iter().count());
        if let Ok(stamped) = StampedBatch::from_slice(&bytes) {
            let _ = parse_raft_only(&stamped);
        }
    }

    #[test]
    fn arbitrary_headers_survive_encoding(bytes: [[u8; 32]; 2]) {
        let mut head = [0; HEADER_BYTES];
        head.copy_from_slice(&bytes.concat()[..HEADER_BYTES]);
        head[8] &= 0x7f;
        head[9] |= 1;
        head[16] = 2;
        let header = BatchHeader::read(&head).unwrap();
        prop_assert_eq!(header.encode(), head);
        let _ = (header.last_offset(), header.next_offset(), header.last_sequence());
    }

    #[test]
    fn a_recompressed_batch_holds_the_same_records(rows in rows(), from in codec(), to in codec()) {
        let sent = build(&rows, from);
        let stored = recompress(&sent, to, LIMIT).unwrap();
        let accepted = validate_produce(&stored, &rules(), NOW).unwrap();
        prop_assert!(accepted.corrections.is_empty());
        prop_assert_eq!(accepted.header.attributes.compression(), Ok(to));
        let (sent, stored) = (records(&sent, LIMIT).unwrap(), records(&stored, LIMIT).unwrap());
        prop_assert!(sent.iter().eq(stored.iter()));
    }

    #[test]
    fn stamping_changes_offset_and_epoch_and_nothing_else(
        rows in rows(), codec in codec(), offset in 0..i64::MAX / 2, epoch in 0..i32::MAX,
    ) {
        let sent = build(&rows, codec);
        let stamped = StampedBatch::new(sent.clone(), Offset(offset), LeaderEpoch(epoch)).unwrap();
        let sent_header = BatchHeader::read(&sent).unwrap();
        let header = stamped.header();
        let (base_offset, leader_epoch) = (Offset(offset), LeaderEpoch(epoch));
        prop_assert_eq!(header, BatchHeader { base_offset, leader_epoch, ..sent_header });
        prop_assert_eq!(header.next_offset().0, offset + rows.len() as i64);
        prop_assert!(stamped.verify_crc());
        let bytes = stamped.to_bytes();
        prop_assert_eq!(&bytes[16..], &sent[16..]);
        prop_assert_eq!(stamped.size_bytes(), bytes.len());
        prop_assert_eq!(stamped.to_chunks().concat(), bytes.to_vec());
        prop_assert_eq!(&StampedBatch::from_bytes(bytes.clone()).unwrap(), &stamped);
        prop_assert_eq!(&StampedBatch::from_slice(&bytes).unwrap(), &stamped);
    }

    #[test]
    fn a_raft_only_entry_gives_back_its_payload(
        kind in prop::sample::select(&RaftOnlyKind::ALL), payload: Vec<u8>, offset in 0..i64::MAX, epoch in 0..i32::MAX,
    ) {
        let entry = raft_only_batch(kind, &payload, Offset(offset), LeaderEpoch(epoch), NOW);
        let read = StampedBatch::from_bytes(entry.to_bytes()).unwrap();
        prop_assert!(read.verify_crc());
        prop_assert!(verify_crc(&entry.to_bytes()));
        prop_assert_eq!(parse_raft_only(&read).unwrap(), (kind, Bytes::from(payload)));
        let header = read.header();
        prop_assert!(header.attributes.is_raft_only() && header.attributes.is_control());
        prop_assert_eq!((header.base_offset, header.next_offset()), (Offset(offset), Offset(offset)));
        prop_assert_eq!((header.leader_epoch, header.max_timestamp), (LeaderEpoch(epoch), NOW));
    }
}

/// Built by another implementation: the conformance suite's writer in Python.
const FOREIGN_BATCH: &str = concat!(
    "000000000000000000000057ffffffff0284e05c100010000000020000018bcfe568000000018bcfe5692c00000000000012",
    "6700037ffffffe000000032a000000066b65790a76616c756504026802310268010e00d804020101000e00cf0f04000000",
);

fn foreign_batch() -> Vec<u8> {
    (0..FOREIGN_BATCH.len()).step_by(2).map(|at| u8::from_str_radix(&FOREIGN_BATCH[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn a_batch_of_another_implementation_is_understood_and_built_alike() {
    let sent = foreign_batch();
    let header = validate_produce(&sent, &rules(), NOW).unwrap().header;
    assert_eq!(
        (header.producer_id, header.producer_epoch, header.base_sequence),
        (ProducerId(4711), ProducerEpoch(3), 2_147_483_646)
    );
    assert_eq!(header.last_sequence(), 0, "2147483646, 2147483647, 0");
    assert!(header.attributes.is_transactional() && !header.attributes.is_control());

    let row = |timestamp: i64, key: Option<&[u8]>, value: Option<&[u8]>| Row {
        timestamp,
        key: key.map(<[u8]>::to_vec),
        value: value.map(<[u8]>::to_vec),
        headers: Vec::new(),
    };
    let with_headers = Row {
        headers: vec![(b"h".to_vec(), Some(b"1".to_vec())), (b"h".to_vec(), None)],
        ..row(NOW.0, Some(b"key"), Some(b"value"))
    };
    let rows = [with_headers, row(NOW.0 + 300, None, None), row(NOW.0 - 1000, Some(b""), Some(b""))];
    let mut builder = BatchBuilder::new()
        .producer(ProducerId(4711), ProducerEpoch(3), 2_147_483_646)
        .transactional()
        .base_timestamp(NOW);
    for record in &records(&build(&rows, Codec::None), LIMIT).unwrap() {
        builder.push(&record.unwrap());
    }
    assert_eq!(builder.build(), sent);
}

#[test]
fn sequences_wrap_to_zero() {
    let last = |base_sequence, records| {
        let mut builder = BatchBuilder::new().producer(ProducerId(1), ProducerEpoch(0), base_sequence);
        for _ in 0..records {
            builder.append(NOW, None, None);
        }
        BatchHeader::read(&builder.build()).unwrap().last_sequence()
    };
    assert_eq!(last(0, 1), 0);
    assert_eq!(last(5, 3), 7);
    assert_eq!(last(i32::MAX, 1), i32::MAX);
    assert_eq!(last(i32::MAX, 3), 1);
    assert_eq!(last(-1, 3), -1, "no sequence");
}

#[test]
fn bytes_that_are_no_batch_are_told_apart() {
    let batch = one_batch();
    let size = batch.len();
    let edited = |at: usize, byte: u8| {
        let mut bytes = batch.to_vec();
        bytes[at] = byte;
        bytes
    };
    let rows: [(&str, Vec<u8>, BatchError); 6] = [
        ("nothing", vec![], BatchError::TooShort { found: 0 }),
        ("a header cut short", batch[..60].to_vec(), BatchError::TooShort { found: 60 }),
        ("another magic", edited(16, 1), BatchError::Magic { found: 1 }),
        ("a length below a header", edited(11, 48), BatchError::Length { found: 48 }),
        ("cut", batch[..size - 1].to_vec(), BatchError::Size { declared: size as u32, found: size - 1 }),
        ("lengthened", [&batch[..], b"x"].concat(), BatchError::Size { declared: size as u32, found: size + 1 }),
    ];
    for (what, bytes, error) in rows {
        assert_eq!(BatchView::parse(&bytes).unwrap_err(), error, "{what}");
        assert_eq!(StampedBatch::from_slice(&bytes).unwrap_err(), error, "{what}");
        assert_eq!(records(&bytes, LIMIT).unwrap_err(), RecordsError::Batch(error), "{what}");
    }
}

#[test]
fn the_first_batch_of_several_is_cut_off() {
    let (first, second) = (one_batch(), BatchBuilder::new().record(NOW, None, Some(b"x")).build());
    let both = [&first[..], &second].concat();
    let view = BatchView::first_of(&both).unwrap();
    assert_eq!(view.bytes(), first);
    assert_eq!(view.payload(), &first[HEADER_BYTES..]);
    assert!(view.verify_crc());
    assert_eq!(BatchView::first_of(&both[view.size_bytes()..]).unwrap().bytes(), second);
    assert!(BatchView::first_of(&both[..first.len() - 1]).is_err());
}

#[test]
fn stamping_shares_the_records() {
    let sent = one_batch();
    let stamped = StampedBatch::new(sent.clone(), Offset(7), LeaderEpoch(1)).unwrap();
    let there = sent[HEADER_BYTES..].as_ptr();
    assert_eq!(stamped.tail().as_ptr(), there);
    assert_eq!(stamped.clone().tail().as_ptr(), there);
    assert_eq!(stamped.to_chunks()[1].as_ptr(), there);
    assert_eq!(stamped.io_slices()[1].as_ptr(), there);
}

#[test]
fn a_batch_of_only_a_header_is_a_batch() {
    let empty = BatchBuilder::new().codec(Codec::Gzip).build();
    assert_eq!(empty.len(), HEADER_BYTES);
    let stamped = StampedBatch::new(empty, Offset(3), LeaderEpoch(0)).unwrap();
    assert!(stamped.tail().is_empty() && stamped.verify_crc());
    assert_eq!(records(&stamped.to_bytes(), LIMIT).unwrap().iter().count(), 0);
}

#[test]
fn what_is_not_raft_only_is_not_taken_for_it() {
    let stamp = |bytes| StampedBatch::from_bytes(bytes).unwrap();
    let edited = |at: usize, byte: u8| {
        let mut bytes = raft_only_batch(RaftOnlyKind::Blank, b"", Offset(5), LeaderEpoch(1), NOW).to_bytes().to_vec();
        bytes[at] = byte;
        stamp(bytes.into())
    };
    let without_kind = BatchBuilder::new().control().build();
    for (what, batch) in [
        ("a data batch", stamp(one_batch())),
        ("a control batch", stamp(without_kind)),
        ("no control bit", edited(22, 0)),
        ("no bit 15", edited(21, 0)),
        ("an offset", edited(26, 0)),
        ("a record count", edited(60, 1)),
        ("an unknown kind", edited(61, 99)),
    ] {
        assert_eq!(parse_raft_only(&batch), Err(BatchError::NotRaftOnly), "{what}");
    }
    assert!(parse_raft_only(&edited(61, RaftOnlyKind::Void as u8)).is_ok());
}

#[test]
fn the_numbers_of_raft_only_kinds_never_change() {
    let numbers = RaftOnlyKind::ALL.map(|kind| (format!("{kind:?}"), kind as u8));
    let expected = [("Blank", 1), ("Membership", 2), ("LogStart", 3), ("CompactionStep", 4), ("Void", 5)];
    assert_eq!(numbers, expected.map(|(name, number)| (name.to_owned(), number)));
}

#[test]
fn a_raft_only_entry_has_no_records_and_a_client_cannot_send_one() {
    let entry = raft_only_batch(RaftOnlyKind::Membership, b"members", Offset(0), LeaderEpoch(0), NOW).to_bytes();
    assert_eq!(records(&entry, LIMIT).unwrap().iter().count(), 0);
    assert_eq!(validate_produce(&entry, &rules(), NOW), Err(InvalidBatch::ControlBatch));
}

#[test]
fn the_rewrites_change_their_field_and_the_crc() {
    let sent = one_batch();
    let header = BatchHeader::read(&sent).unwrap();
    let rewritten = |rewrite: &dyn Fn(&mut [u8])| {
        let mut bytes = sent.to_vec();
        rewrite(&mut bytes);
        assert!(verify_crc(&bytes));
        assert_eq!(bytes[HEADER_BYTES..], sent[HEADER_BYTES..]);
        BatchHeader::read(&bytes).unwrap()
    };
    let time = Timestamp(NOW.0 + 5);
    let appended = rewritten(&|bytes| set_log_append_time(bytes, time));
    let expected = BatchHeader { crc: appended.crc, attributes: Attributes(8), max_timestamp: time, ..header };
    assert_eq!(appended, expected);
    let later = rewritten(&|bytes| set_max_timestamp(bytes, time));
    assert_eq!(later, BatchHeader { crc: later.crc, max_timestamp: time, ..header });
    let restored = rewritten(&|bytes| {
        set_log_append_time(bytes, NOW);
        set_create_time(bytes);
    });
    assert_eq!(restored, header);
}

#[test]
fn reading_records_tells_what_is_wrong() {
    let header = BatchHeader::read(&one_batch()).unwrap();
    let with_count = |count| {
        let mut bytes = one_batch().to_vec();
        bytes[57..61].copy_from_slice(&i32::to_be_bytes(count));
        bytes
    };
    let error = |bytes: Vec<u8>| records(&bytes, LIMIT).unwrap().iter().find_map(Result::err);
    assert_eq!(header.record_count, 2);
    assert_eq!(error(with_count(2)), None);
    assert_eq!(error(with_count(3)), Some(RecordsError::TooFew { declared: 3, found: 2 }));
    assert!(matches!(error(with_count(1)), Some(RecordsError::TrailingBytes { bytes: 1.. })));
    let mut unknown = one_batch().to_vec();
    unknown[22] |= 6;
    assert_eq!(records(&unknown, LIMIT).unwrap_err(), RecordsError::UnknownCodec(6));
    let zipped = BatchBuilder::new().codec(Codec::Gzip).record(NOW, None, Some(&[0; 5000])).build();
    let too_large = records(&zipped, DecompressLimit(1000)).unwrap_err();
    assert!(matches!(too_large, RecordsError::Codec(CodecError::TooLarge { .. })), "{too_large}");
}
