//! The produce path in one process, from a validated batch to its acknowledgement: what a produce handler does for each
//! batch, on a partition on the real disk. A round proposes a window of batches with acks=all and awaits all of them.
//!
//! Files are made in the system's folder for temporary files, which should be on the disk to be measured (`TMPDIR`).
#![expect(clippy::disallowed_methods, reason = "a benchmark makes its own folder on the real disk")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use millpond_raft::{Acks, Groups, Partition, Peers};
use millpond_record::{
    BatchBuilder, DecompressLimit, GroupId, PartitionIndex, ProduceRules, ReplicaId, Timestamp, TimestampRules,
    TimestampType, TopicId, validate_produce,
};
use millpond_runtime::{RealDisk, Runtime};
use millpond_storage::{DataDir, FlushMode, GroupSpec, LogOptions, Proposal, StorageError, StorageOptions};

/// Batches on their way at once.
const WINDOW: usize = 64;
const NOW: Timestamp = Timestamp(1_700_000_000_000);

/// A folder that goes when it is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("millpond-bench-{name}-{}", std::process::id()));
        // What an interrupted run left.
        let _ = std::fs::remove_dir_all(&path);
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A batch of one record.
fn batch(record_bytes: usize) -> Bytes {
    BatchBuilder::new().record(NOW, None, Some(&vec![b'x'; record_bytes])).build()
}

fn rules() -> ProduceRules {
    ProduceRules {
        max_message_bytes: 1 << 20,
        segment_bytes: 1 << 30,
        zstd_allowed: true,
        deep: false,
        compacted: false,
        timestamp: TimestampRules {
            timestamp_type: TimestampType::CreateTime,
            before_max_ms: i64::MAX,
            after_max_ms: 3_600_000,
        },
        decompress_limit: DecompressLimit(1 << 20),
    }
}

async fn start(runtime: Runtime, path: PathBuf, flush: FlushMode) -> (DataDir, Groups, Partition) {
    let opening = runtime.clone();
    let opened = runtime.blocking(move || {
        let fatal = Arc::new(|error: &StorageError| panic!("{error}"));
        DataDir::open(&opening, &path, StorageOptions::default(), fatal)
    });
    let (data_dir, _) = opened.await.expect("the folder is new");
    let broker = data_dir.meta().node_id;
    let peers = Peers::alone(&runtime, broker);
    let groups = Groups::start(runtime, data_dir.clone(), peers);
    let spec = GroupSpec {
        group: GroupId(1),
        topic: "bench".into(),
        partition: PartitionIndex(0),
        topic_id: TopicId([7; 16]),
        replica: ReplicaId(1),
        options: LogOptions { flush, ..LogOptions::default() },
    };
    let partition = groups.create(spec, &[(ReplicaId(1), broker)], 1).await.expect("the group is new");
    (data_dir, groups, partition)
}

async fn round(partition: &Partition, sent: &Bytes, rules: &ProduceRules) {
    let receipts: Vec<_> = (0..WINDOW)
        .map(|_| {
            let (batch, header) = validate_produce(sent, rules, NOW).expect("a good batch").into_batch(sent);
            let proposal = Proposal { frame_bytes: batch.len(), batch, header, append_time: NOW };
            partition.propose(proposal, Acks::All, None)
        })
        .collect();
    for receipt in receipts {
        receipt.await.expect("the disk works");
    }
}

fn produce_path(criterion: &mut Criterion) {
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("threads");
    let mut group = criterion.benchmark_group("produce_path");
    group.measurement_time(Duration::from_secs(5)).sample_size(20);
    for (name, flush) in [("durable", FlushMode::Durable), ("relaxed", FlushMode::Relaxed)] {
        let folder = Folder::new(&format!("produce-{name}"));
        let runtime = tokio.block_on(async { Runtime::real(RealDisk::shared()) });
        let (data_dir, groups, partition) = tokio.block_on(start(runtime, folder.0.clone(), flush));
        let rules = rules();
        for (size, record_bytes) in [("100 B", 100), ("16 KiB", 16 << 10)] {
            let sent = batch(record_bytes);
            group.throughput(Throughput::Bytes((sent.len() * WINDOW) as u64));
            group.bench_function(format!("{name}/{size}"), |bencher| {
                bencher.iter(|| tokio.block_on(round(&partition, &sent, &rules)));
            });
        }
        tokio.block_on(groups.shutdown());
        data_dir.close().expect("the disk works");
    }
    group.finish();
}

criterion_group!(benches, produce_path);
criterion_main!(benches);
