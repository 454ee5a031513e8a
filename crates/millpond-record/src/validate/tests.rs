use std::collections::BTreeSet;

use super::*;
use crate::batch::{Attributes, HEADER_BYTES, LENGTH_AT, MAGIC_AT};
use crate::builder::{BatchBuilder, assemble};
use crate::checksum::verify_crc;
use crate::codec::compress;
use crate::ids::{Offset, ProducerEpoch, ProducerId};
use crate::record::{Record, RecordHeader, records};
use proptest::prelude::*;

const NOW: Timestamp = Timestamp(1_700_000_000_000);
const HOUR_MS: i64 = 3_600_000;

fn rules() -> ProduceRules {
    ProduceRules::default()
}

fn deep() -> ProduceRules {
    ProduceRules { deep: true, ..rules() }
}

fn batch() -> Bytes {
    batch_of(Codec::None)
}

fn batch_of(codec: Codec) -> Bytes {
    BatchBuilder::new().codec(codec).record(NOW, Some(b"k"), Some(b"a")).record(NOW, None, Some(b"b")).build()
}

/// A batch of two records with a changed header, CRC redone.
fn forged(codec: Codec, change: impl Fn(&mut BatchHeader)) -> Vec<u8> {
    let original = batch_of(codec);
    let mut header = BatchHeader::read(&original).unwrap();
    change(&mut header);
    assemble(header, &original[HEADER_BYTES..]).to_vec()
}

fn forged_payload(codec: Codec, payload: &[u8]) -> Vec<u8> {
    assemble(BatchHeader::read(&batch_of(codec)).unwrap(), payload).to_vec()
}

fn encoded(records: &[Record<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for record in records {
        record.encode(&mut bytes);
    }
    bytes
}

fn edited(change: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = batch().to_vec();
    change(&mut bytes);
    bytes
}

fn refusal(sent: &[u8], rules: &ProduceRules) -> InvalidBatch {
    validate_produce(sent, rules, NOW).expect_err("the batch is refused")
}

struct Row {
    rule: &'static str,
    sent: Vec<u8>,
    rules: ProduceRules,
    error: InvalidBatch,
    kind: InvalidKind,
}

fn row(rule: &'static str, sent: impl Into<Vec<u8>>, error: InvalidBatch, kind: InvalidKind) -> Row {
    Row { rule, sent: sent.into(), rules: rules(), error, kind }
}

fn batch_rows() -> Vec<Row> {
    use InvalidKind::*;
    let size = batch().len();
    let producer = |id, epoch, sequence| {
        forged(Codec::None, move |header| {
            (header.producer_id, header.producer_epoch) = (ProducerId(id), ProducerEpoch(epoch));
            header.base_sequence = sequence;
        })
    };
    let with_rules = |row: Row, rules| Row { rules, ..row };
    vec![
        row("there are bytes up to the length field", [], InvalidBatch::NoBatch { found: 0 }, InvalidRecord),
        row("there are bytes up to the length field", [0], InvalidBatch::NoBatch { found: 1 }, InvalidRecord),
        row(
            "the length field is that of a message or more",
            [0; 61],
            InvalidBatch::Length { found: 0 },
            CorruptMessage,
        ),
        row(
            "the length field is that of a message or more",
            edited(|b| b[LENGTH_AT] = 0xff),
            InvalidBatch::Length { found: -0x0100_0000 + size as i32 - 12 },
            CorruptMessage,
        ),
        row(
            "there are bytes up to the magic byte",
            &batch()[..MAGIC_AT],
            InvalidBatch::NoBatch { found: 16 },
            InvalidRecord,
        ),
        row(
            "the magic byte is 0, 1 or 2",
            edited(|b| b[MAGIC_AT] = 3),
            InvalidBatch::UnknownMagic { found: 3 },
            CorruptMessage,
        ),
        row(
            "the magic byte is 0, 1 or 2",
            edited(|b| b[MAGIC_AT] = 0xff),
            InvalidBatch::UnknownMagic { found: -1 },
            CorruptMessage,
        ),
        row("the magic byte is 2", legacy_message(0), InvalidBatch::OldMagic { found: 0 }, InvalidRecord),
        row("the magic byte is 2", legacy_message(1), InvalidBatch::OldMagic { found: 1 }, InvalidRecord),
        row(
            "the batch is not cut short",
            &batch()[..size - 3],
            InvalidBatch::NoBatch { found: size - 3 },
            InvalidRecord,
        ),
        row(
            "the length field is that of a batch header or more",
            edited(|b| b[LENGTH_AT + 3] = 48),
            InvalidBatch::Length { found: 48 },
            CorruptMessage,
        ),
        row(
            "what follows the batch, if anything, could be a batch",
            [&batch()[..], &[0; 20]].concat(),
            InvalidBatch::GarbageBehind { found: 20 },
            CorruptMessage,
        ),
        row(
            "there is one batch",
            [batch(), batch()].concat(),
            InvalidBatch::SeveralBatches { found: size },
            InvalidRecord,
        ),
        row(
            "there is one batch",
            [&batch()[..], b"x"].concat(),
            InvalidBatch::SeveralBatches { found: 1 },
            InvalidRecord,
        ),
        with_rules(
            row(
                "the size is within max.message.bytes",
                batch(),
                InvalidBatch::TooLarge { found: size as u32, limit: size as u32 - 1 },
                MessageTooLarge,
            ),
            ProduceRules { max_message_bytes: size as u32 - 1, ..rules() },
        ),
        with_rules(
            row(
                "the size is within segment.bytes",
                batch(),
                InvalidBatch::LargerThanSegment { found: size as u32, limit: size as u32 - 1 },
                RecordListTooLarge,
            ),
            ProduceRules { segment_bytes: size as u32 - 1, ..rules() },
        ),
        row("the CRC matches", edited(|b| *b.last_mut().unwrap() ^= 0x20), InvalidBatch::Crc, CorruptMessage),
        row(
            "the base offset is 0",
            forged(Codec::None, |header| header.base_offset = Offset(55)),
            InvalidBatch::BaseOffset { found: 55 },
            InvalidRecord,
        ),
        row(
            "no control bit",
            forged(Codec::None, |header| header.attributes.0 = Attributes::CONTROL),
            InvalidBatch::ControlBatch,
            InvalidRecord,
        ),
        row(
            "no attribute bit from 6 to 15",
            forged(Codec::None, |header| header.attributes.0 = Attributes::DELETE_HORIZON),
            InvalidBatch::Attributes { found: 0x40 },
            InvalidRecord,
        ),
        row(
            "no attribute bit from 6 to 15",
            forged(Codec::None, |header| header.attributes.0 = Attributes::RAFT_ONLY),
            InvalidBatch::Attributes { found: 0x8000 },
            InvalidRecord,
        ),
        row(
            "the codec exists",
            forged(Codec::None, |header| header.attributes.0 = 5),
            InvalidBatch::UnknownCodec { found: 5 },
            UnsupportedCompressionType,
        ),
        with_rules(
            row(
                "zstd only where the request may carry it",
                batch_of(Codec::Zstd),
                InvalidBatch::ZstdNotAllowed,
                UnsupportedCompressionType,
            ),
            ProduceRules { zstd_allowed: false, ..rules() },
        ),
        count_row(0, -1),
        count_row(0, 0),
        count_row(0, 1),
        count_row(-1, -2),
        count_row(5, 1),
        count_row(2, 7),
        row(PRODUCER_RULE, producer(9, 0, -1), InvalidBatch::Producer { id: 9, epoch: 0, sequence: -1 }, InvalidRecord),
        row(PRODUCER_RULE, producer(9, -1, 0), InvalidBatch::Producer { id: 9, epoch: -1, sequence: 0 }, InvalidRecord),
        row(PRODUCER_RULE, producer(-2, 0, 0), InvalidBatch::Producer { id: -2, epoch: 0, sequence: 0 }, InvalidRecord),
        row(
            PRODUCER_RULE,
            forged(Codec::None, |header| header.attributes.0 = Attributes::TRANSACTIONAL),
            InvalidBatch::Producer { id: -1, epoch: -1, sequence: -1 },
            InvalidRecord,
        ),
        row(
            "the header's times are within the limits, where the records are not walked",
            forged(Codec::Gzip, |header| header.max_timestamp.0 += HOUR_MS + 1),
            InvalidBatch::Timestamps { base: NOW.0, max: NOW.0 + HOUR_MS + 1 },
            InvalidTimestamp,
        ),
    ]
}

const PRODUCER_RULE: &str = "a producer id comes with epoch and sequence, a transaction with a producer id";

fn count_row(count: i32, last_offset_delta: i32) -> Row {
    row(
        "the record count is above 0 and last offset delta + 1",
        forged(Codec::None, |header| (header.record_count, header.last_offset_delta) = (count, last_offset_delta)),
        InvalidBatch::Count { count, last_offset_delta },
        InvalidKind::InvalidRecord,
    )
}

/// A message as clients sent it before Kafka 0.11, without key and value; its CRC is not looked at.
fn legacy_message(magic: u8) -> Vec<u8> {
    let mut body = vec![0, 0, 0, 0, magic, 0];
    body.extend_from_slice(&[0; 8][..8 * usize::from(magic)]);
    body.extend_from_slice(&[0xff; 8]);
    [&[0; 8][..], &(body.len() as i32).to_be_bytes(), &body].concat()
}

#[test]
fn every_rule_for_batches_refuses_what_breaks_it() {
    for Row { rule, sent, rules, error, kind } in batch_rows() {
        let candidate = Candidate { sent: &sent, rules: &rules, now: NOW };
        let first = BATCH_RULES.iter().find(|rule| !(rule.holds)(&candidate)).expect("a rule is broken");
        assert_eq!(first.name, rule, "the first rule that {error:?} breaks");
        let found = refusal(&sent, &rules);
        assert_eq!(found, error, "{rule}");
        assert_eq!(found.kind(), kind, "{rule}");
    }
}

#[test]
fn every_rule_for_batches_has_a_test() {
    let tested: BTreeSet<_> = batch_rows().iter().map(|row| row.rule).collect();
    let rules: BTreeSet<_> = BATCH_RULES.iter().map(|rule| rule.name).collect();
    assert_eq!(tested, rules);
}

struct RecordRow {
    rule: &'static str,
    records: Vec<Record<'static>>,
    rules: ProduceRules,
    errors: Vec<RecordError>,
    kind: InvalidKind,
}

fn record_rows() -> Vec<RecordRow> {
    let at = |offset_delta, timestamp_delta, key| Record {
        offset_delta,
        timestamp_delta,
        key,
        value: Some(&b"value"[..]),
        ..Record::default()
    };
    let key = Some(&b"key"[..]);
    let wrong = |index, fault| RecordError { index, fault };
    let second = |fault| vec![wrong(1, fault)];
    let compacted = ProduceRules { compacted: true, ..deep() };
    let limits = |before_max_ms, after_max_ms| ProduceRules {
        timestamp: TimestampRules { before_max_ms, after_max_ms, ..TimestampRules::default() },
        ..deep()
    };
    vec![
        RecordRow {
            rule: "the offset delta is the record's place",
            records: vec![at(0, 0, key), at(5, 0, key)],
            rules: deep(),
            errors: second(RecordFault::OffsetDelta),
            kind: InvalidKind::InvalidRecord,
        },
        RecordRow {
            rule: "the offset delta is the record's place",
            records: vec![at(1, 0, key), at(0, 0, key)],
            rules: deep(),
            errors: vec![wrong(0, RecordFault::OffsetDelta), wrong(1, RecordFault::OffsetDelta)],
            kind: InvalidKind::InvalidRecord,
        },
        RecordRow {
            rule: "the time is within the limits",
            records: vec![at(0, HOUR_MS, key), at(1, HOUR_MS + 1, key)],
            rules: deep(),
            errors: second(RecordFault::Timestamp),
            kind: InvalidKind::InvalidTimestamp,
        },
        RecordRow {
            rule: "the time is within the limits",
            records: vec![at(0, -500, key), at(1, -501, key)],
            rules: limits(500, 0),
            errors: second(RecordFault::Timestamp),
            kind: InvalidKind::InvalidTimestamp,
        },
        RecordRow {
            rule: "the time is within the limits",
            records: vec![at(0, 0, key), at(1, i64::MAX, key)],
            rules: limits(i64::MAX, i64::MAX),
            errors: second(RecordFault::Timestamp),
            kind: InvalidKind::InvalidTimestamp,
        },
        RecordRow {
            rule: "a compacted topic's record has a key",
            records: vec![at(0, 0, key), at(1, 0, None), at(2, 0, key), at(3, 0, None), at(4, 0, Some(b""))],
            rules: compacted,
            errors: vec![wrong(1, RecordFault::NullKey), wrong(3, RecordFault::NullKey)],
            kind: InvalidKind::InvalidRecord,
        },
        RecordRow {
            rule: "a compacted topic's record has a key",
            records: vec![at(0, 0, None), at(1, 2 * HOUR_MS, key)],
            rules: compacted,
            errors: vec![wrong(0, RecordFault::NullKey), wrong(1, RecordFault::Timestamp)],
            kind: InvalidKind::InvalidTimestamp,
        },
    ]
}

#[test]
fn every_rule_for_records_names_the_records_that_break_it_in_every_codec() {
    for codec in Codec::ALL {
        for RecordRow { rule, records, rules, errors, kind } in record_rows() {
            let mut header = BatchHeader::read(&batch_of(codec)).unwrap();
            header.record_count = records.len() as i32;
            header.last_offset_delta = header.record_count - 1;
            let sent = assemble(header, &compress(codec, &encoded(&records)));
            let found = refusal(&sent, &rules);
            assert_eq!(found, InvalidBatch::Records(errors.clone()), "{rule}, {codec}");
            assert_eq!(found.record_errors(), errors, "{rule}, {codec}");
            assert_eq!(found.kind(), kind, "{rule}, {codec}");
        }
    }
}

#[test]
fn every_rule_for_records_has_a_test() {
    let tested: BTreeSet<_> = record_rows().iter().map(|row| row.rule).collect();
    let rules: BTreeSet<_> = RECORD_RULES.iter().map(|rule| rule.name).collect();
    assert_eq!(tested, rules);
}

#[test]
fn a_refusal_names_a_thousand_records_at_most() {
    let mut builder = BatchBuilder::new();
    for _ in 0..5000 {
        builder.append(NOW, None, Some(b"v"));
    }
    let found = refusal(&builder.build(), &ProduceRules { compacted: true, ..rules() });
    assert_eq!(found.record_errors().len(), MAX_RECORD_ERRORS);
}

#[test]
fn a_good_batch_of_every_codec_is_accepted_as_it_is() {
    for codec in Codec::ALL {
        for rules in [rules(), deep()] {
            let sent = batch_of(codec);
            let accepted = validate_produce(&sent, &rules, NOW).unwrap();
            assert_eq!(accepted.header, BatchHeader::read(&sent).unwrap());
            assert!(accepted.corrections.is_empty(), "{codec}: {:?}", accepted.corrections);
            let (batch, header) = accepted.into_batch(&sent);
            assert_eq!((batch.as_ptr(), header), (sent.as_ptr(), accepted.header), "the same bytes, not a copy");
        }
    }
}

#[test]
fn raw_snappy_is_walked_like_framed_snappy() {
    let uncompressed = batch();
    let raw = snap::raw::Encoder::new().compress_vec(&uncompressed[HEADER_BYTES..]).unwrap();
    validate_produce(&forged_payload(Codec::Snappy, &raw), &deep(), NOW).unwrap();
}

#[test]
fn a_count_that_the_records_do_not_bear_out_is_refused() {
    for codec in [Codec::None, Codec::Gzip, Codec::Lz4] {
        for count in [1, 5, i32::MAX] {
            let sent = forged(codec, |header| (header.record_count, header.last_offset_delta) = (count, count - 1));
            let expected = match count {
                1 => InvalidBatch::BytesBehindRecords { declared: 1 },
                _ => InvalidBatch::TooFewRecords { declared: count, found: 2 },
            };
            assert_eq!(refusal(&sent, &deep()), expected, "{codec}, count {count}");
            assert_eq!(expected.kind(), InvalidKind::InvalidRecord);
        }
    }
}

#[test]
fn records_that_do_not_parse_are_refused() {
    let good = batch()[HEADER_BYTES..].to_vec();
    let cut = good[..good.len() - 2].to_vec();
    let lengthened = [&good[..], b"xx"].concat();
    let mut shorter_than_its_fields = good.clone();
    shorter_than_its_fields[0] -= 2;
    // A record of one header whose name has length -1: length 8, attributes, deltas, null key and value, one header.
    let nameless = [14, 0, 0, 0, 1, 1, 2, 1, 16, 0, 0, 2, 1, 0, 0, 0, 0];
    let negative_length = [1, 0, 0, 0, 1, 1, 0];
    let overlong_number = [0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
    for (what, payload) in [
        ("cut", &cut[..]),
        ("lengthened", &lengthened),
        ("length", &shorter_than_its_fields),
        ("nameless header", &nameless),
        ("negative length", &negative_length),
        ("overlong number", &overlong_number),
        ("garbage", &[0xff; 50]),
        ("empty", &[]),
    ] {
        for codec in Codec::ALL {
            let sent = forged_payload(codec, &compress(codec, payload));
            let found = refusal(&sent, &deep());
            assert_eq!(found.kind(), InvalidKind::InvalidRecord, "{what}, {codec}: {found}");
        }
    }
    assert_eq!(
        refusal(&forged_payload(Codec::None, &nameless), &rules()),
        InvalidBatch::MalformedRecord { index: 0, reason: "a header has no name" }
    );
}

#[test]
fn a_payload_that_does_not_decompress_is_refused_where_it_is_opened() {
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let sent = forged_payload(codec, &[0xa5; 50]);
        assert!(validate_produce(&sent, &rules(), NOW).is_ok(), "{codec} is not opened");
        for opening in [deep(), ProduceRules { compacted: true, ..rules() }] {
            let found = refusal(&sent, &opening);
            assert!(matches!(found, InvalidBatch::Undecodable(CodecError::Corrupt { .. })), "{codec}: {found}");
            assert_eq!(found.kind(), InvalidKind::InvalidRecord);
        }
    }
}

#[test]
fn records_beyond_the_decompression_limit_are_refused() {
    let mut builder = BatchBuilder::new();
    builder.append(NOW, Some(b"k"), Some(&vec![0; 1 << 20]));
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let sent = builder.clone().codec(codec).build();
        let limited = |bytes| ProduceRules { decompress_limit: DecompressLimit(bytes), ..deep() };
        let found = refusal(&sent, &limited(1 << 20));
        assert!(matches!(found, InvalidBatch::Undecodable(CodecError::TooLarge { .. })), "{codec}: {found}");
        let records_bytes = builder.uncompressed_bytes() - HEADER_BYTES;
        assert!(validate_produce(&sent, &limited(records_bytes), NOW).is_ok(), "{codec}");
    }
}

#[test]
fn a_wrong_max_timestamp_is_put_right_where_the_records_are_walked() {
    let year_ms = 365 * 24 * HOUR_MS;
    for codec in Codec::ALL {
        for wrong in [NOW.0 + year_ms, NOW.0 - year_ms, -1] {
            let sent: Bytes = forged(codec, |header| header.max_timestamp = Timestamp(wrong)).into();
            let accepted = validate_produce(&sent, &deep(), NOW).unwrap();
            assert_eq!(accepted.corrections, Corrections { max_timestamp: Some(NOW), ..Corrections::default() });
            let (batch, header) = accepted.into_batch(&sent);
            assert_eq!(header.max_timestamp, NOW);
            assert!(verify_crc(&batch));
            assert_eq!(batch[HEADER_BYTES..], sent[HEADER_BYTES..]);
        }
    }
}

#[test]
fn with_create_time_the_timestamp_type_bit_is_cleared() {
    for codec in Codec::ALL {
        let sent: Bytes = forged(codec, |header| header.attributes.0 |= Attributes::LOG_APPEND_TIME).into();
        let (batch, header) = validate_produce(&sent, &rules(), NOW).unwrap().into_batch(&sent);
        assert_eq!(header.attributes.timestamp_type(), TimestampType::CreateTime);
        assert_eq!(header.attributes.compression(), Ok(codec));
        assert!(verify_crc(&batch));
        assert!(validate_produce(&batch, &rules(), NOW).unwrap().corrections.is_empty());
    }
}

#[test]
fn with_log_append_time_bit_and_time_are_set_and_the_producers_times_ignored() {
    let rules = ProduceRules {
        timestamp: TimestampRules { timestamp_type: TimestampType::LogAppendTime, before_max_ms: 0, after_max_ms: 0 },
        ..deep()
    };
    for codec in Codec::ALL {
        let sent = BatchBuilder::new()
            .codec(codec)
            .record(Timestamp(1000), None, Some(b"a"))
            .record(Timestamp(i64::MAX), None, Some(b"b"))
            .build();
        let (batch, header) = validate_produce(&sent, &rules, NOW).unwrap().into_batch(&sent);
        assert_eq!((header.attributes.timestamp_type(), header.max_timestamp), (TimestampType::LogAppendTime, NOW));
        assert!(verify_crc(&batch));
        for record in &records(&batch, rules.decompress_limit).unwrap() {
            assert_eq!(record.unwrap().timestamp(&header), NOW);
        }
    }
}

#[test]
fn a_record_without_time_is_within_any_limits() {
    let rules = ProduceRules {
        timestamp: TimestampRules { before_max_ms: 0, after_max_ms: 0, ..TimestampRules::default() },
        ..rules()
    };
    for codec in Codec::ALL {
        let sent = BatchBuilder::new().codec(codec).record(Timestamp::NONE, None, Some(b"a")).build();
        assert!(validate_produce(&sent, &rules, NOW).unwrap().corrections.is_empty(), "{codec}");
    }
}

#[test]
fn any_age_is_accepted_by_default_and_one_hour_ahead() {
    for time in [0, 1000, NOW.0 + 55 * 60_000] {
        for codec in Codec::ALL {
            let sent = BatchBuilder::new().codec(codec).record(Timestamp(time), None, Some(b"a")).build();
            assert!(validate_produce(&sent, &rules(), NOW).is_ok(), "{codec}, {time}");
        }
    }
}

#[test]
fn a_record_with_headers_is_accepted() {
    let mut builder = BatchBuilder::new().base_timestamp(NOW);
    let headers = vec![
        RecordHeader { name: b"h", value: Some(b"1") },
        RecordHeader { name: b"h", value: None },
        RecordHeader { name: b"", value: Some(b"") },
    ];
    builder.push(&Record { key: Some(b"k"), headers, ..Record::default() });
    for codec in Codec::ALL {
        assert!(validate_produce(&builder.clone().codec(codec).build(), &deep(), NOW).is_ok(), "{codec}");
    }
}

#[test]
fn a_size_at_the_limit_is_accepted() {
    let size = batch().len() as u32;
    let exact = ProduceRules { max_message_bytes: size, segment_bytes: size, ..rules() };
    assert!(validate_produce(&batch(), &exact, NOW).is_ok());
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_refused_without_a_panic(sent: Vec<u8>, deep: bool, compacted: bool) {
        let _ = validate_produce(&sent, &ProduceRules { deep, compacted, ..rules() }, NOW);
    }

    #[test]
    fn arbitrary_records_under_a_good_header_never_panic(
        payload in prop::collection::vec(any::<u8>(), 0..300),
        count in 1i32..50,
        codec in 0usize..5,
        compressed: bool,
    ) {
        let codec = Codec::ALL[codec];
        let payload = if compressed { compress(codec, &payload) } else { payload };
        let mut header = BatchHeader::read(&batch_of(codec)).unwrap();
        (header.record_count, header.last_offset_delta) = (count, count - 1);
        let sent = assemble(header, &payload);
        let verdict = validate_produce(&sent, &deep(), NOW);
        // What the validator accepts, the reader reads, and the other way round but for rules on single records.
        let read: Result<Vec<_>, _> = records(&sent, deep().decompress_limit).and_then(|r| {
            r.iter().map(|record| record.map(|record| record.offset_delta)).collect()
        });
        match verdict {
            Ok(_) => prop_assert_eq!(read.unwrap().len(), count as usize),
            Err(InvalidBatch::Records(_)) => prop_assert!(read.is_ok()),
            Err(_) => prop_assert!(read.is_err()),
        }
    }
}
