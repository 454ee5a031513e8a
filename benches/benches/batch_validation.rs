//! What one produced batch costs before it is proposed: the CRC alone, the rules with a walk of the records, and the
//! streaming look into compressed records. Figures are bytes of the batch as sent.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use millpond_record::{BatchBuilder, Codec, HEADER_BYTES, ProduceRules, Timestamp, validate_produce, verify_crc};

const NOW: Timestamp = Timestamp(1_700_000_000_000);

/// A batch of close to `batch_bytes` of records with values of `record_bytes`, half of which compress well.
fn batch(codec: Codec, record_bytes: usize, batch_bytes: usize) -> bytes::Bytes {
    let mut builder = BatchBuilder::new().codec(codec);
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    while builder.uncompressed_bytes() + record_bytes + HEADER_BYTES < batch_bytes {
        let value: Vec<u8> = (0..record_bytes)
            .map(|at| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                if at % 16 < 8 { (state >> 56) as u8 } else { b'x' }
            })
            .collect();
        builder.append(NOW, None, Some(&value));
    }
    builder.build()
}

const RECORD_BYTES: [usize; 2] = [100, 1024];
const BATCH_BYTES: [usize; 2] = [16 << 10, 1_000_000];

fn uncompressed(criterion: &mut Criterion) {
    for (name, validate) in [("crc", false), ("validate", true)] {
        let mut group = criterion.benchmark_group(name);
        for record_bytes in RECORD_BYTES {
            for batch_bytes in BATCH_BYTES {
                let batch = batch(Codec::None, record_bytes, batch_bytes);
                let rules = ProduceRules::default();
                group.throughput(Throughput::Bytes(batch.len() as u64));
                group.bench_function(BenchmarkId::new(format!("{record_bytes}B_records"), batch_bytes), |bench| {
                    if validate {
                        bench.iter(|| validate_produce(black_box(&batch), &rules, NOW).expect("the batch is valid"));
                    } else {
                        bench.iter(|| assert!(verify_crc(black_box(&batch))));
                    }
                });
            }
        }
        group.finish();
    }
}

fn compressed(criterion: &mut Criterion) {
    for (name, deep) in [("validate_header_compressed", false), ("validate_deep", true)] {
        let mut group = criterion.benchmark_group(name);
        for codec in Codec::ALL.into_iter().filter(|codec| *codec != Codec::None) {
            let batch = batch(codec, RECORD_BYTES[1], 256 << 10);
            let rules = ProduceRules { deep, ..ProduceRules::default() };
            group.throughput(Throughput::Bytes(batch.len() as u64));
            group.bench_function(codec.name(), |bench| {
                bench.iter(|| validate_produce(black_box(&batch), &rules, NOW).expect("the batch is valid"));
            });
        }
        group.finish();
    }
}

criterion_group!(benches, uncompressed, compressed);
criterion_main!(benches);
