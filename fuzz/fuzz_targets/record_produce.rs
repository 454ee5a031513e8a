//! A produced batch: accepted or refused; what is accepted can be read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use millpond_record::{
    BatchBuilder, Codec, DecompressLimit, HEADER_BYTES, ProduceRules, Timestamp, TimestampRules, TimestampType,
    records, rewrite_crc, validate_produce,
};

const NOW: Timestamp = Timestamp(1_700_000_000_000);

/// A valid batch made of the bytes, then changed in some places: three bytes each for where and what.
fn almost_valid(data: &[u8]) -> Vec<u8> {
    let [codec, edits, rest @ ..] = data else { return Vec::new() };
    let (contents, edits) = rest.split_at(rest.len() - (usize::from(edits % 4) * 3).min(rest.len()));
    let mut builder = BatchBuilder::new().codec(Codec::ALL[usize::from(*codec) % Codec::ALL.len()]);
    for record in contents.chunks(24) {
        let (key, value) = record.split_at(usize::from(record[0] % 8).min(record.len()));
        builder.append(NOW, (!key.is_empty()).then_some(key), Some(value));
    }
    let mut batch = builder.build().to_vec();
    for edit in edits.chunks_exact(3) {
        let at = usize::from(u16::from_be_bytes([edit[0], edit[1]])) % batch.len();
        batch[at] = edit[2];
    }
    batch
}

const LIMIT: DecompressLimit = DecompressLimit(1 << 20);

fuzz_target!(|data: &[u8]| {
    let [mode, batch @ ..] = data else { return };
    let timestamp_type = if mode & 1 == 0 { TimestampType::CreateTime } else { TimestampType::LogAppendTime };
    let rules = ProduceRules {
        zstd_allowed: mode & 2 == 0,
        deep: mode & 4 == 0,
        compacted: mode & 8 != 0,
        timestamp: TimestampRules { timestamp_type, ..TimestampRules::default() },
        decompress_limit: LIMIT,
        ..ProduceRules::default()
    };
    let mut batch = if mode & 32 == 0 { batch.to_vec() } else { almost_valid(batch) };
    if mode & 16 == 0 && batch.len() >= HEADER_BYTES {
        // What stands before the records and is checked first: offset, length, magic, CRC.
        let length = (batch.len() - 12) as i32;
        batch[..8].fill(0);
        batch[8..12].copy_from_slice(&length.to_be_bytes());
        batch[16] = 2;
        rewrite_crc(&mut batch);
    }
    let Ok(accepted) = validate_produce(&batch, &rules, NOW) else { return };
    let opened = rules.deep || rules.compacted || batch[22] & 7 == 0;
    if opened {
        let records = records(&batch, LIMIT).expect("an accepted batch opens");
        assert_eq!(records.header(), &accepted.header);
        let count = records.iter().map(|record| record.expect("an accepted batch has whole records")).count();
        assert_eq!(count, accepted.header.record_count as usize);
    }
    let (batch, header) = accepted.into_batch(&batch.into());
    assert!(millpond_record::verify_crc(&batch));
    assert_eq!(batch.len(), header.size_bytes as usize);
});
