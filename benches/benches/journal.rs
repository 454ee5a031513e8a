//! Journal rounds on the real disk: batches of 16 KiB appended at once to one log or to a thousand, until all are
//! durable; and what a preallocated file is worth: a sync after overwriting against a sync after extending.
//!
//! Files are made in the system's folder for temporary files, which should be on the disk to be measured (`TMPDIR`).
#![expect(clippy::disallowed_methods, reason = "a benchmark makes its own files on the real disk")]

use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use millpond_record::{BatchBuilder, GroupId, PartitionIndex, ReplicaId, Term, Timestamp, TopicId};
use millpond_runtime::{Disk, OpenMode, RealDisk, Runtime};
use millpond_storage::{
    DataDir, GroupSpec, Log, LogOptions, Proposal, RecoveryReport, StorageError, StorageOptions, Vote,
};

const BATCH_BYTES: usize = 16 << 10;
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

fn proposal() -> Proposal {
    let mut builder = BatchBuilder::new();
    builder.append(NOW, None, Some(&vec![b'x'; BATCH_BYTES - 100]));
    let batch = builder.build();
    let header = millpond_record::BatchHeader::read(&batch).expect("it was just built");
    Proposal { frame_bytes: batch.len(), batch, header, append_time: NOW }
}

fn reopen(path: &Path) -> (DataDir, RecoveryReport) {
    let runtime = Runtime::real(RealDisk::shared());
    let fatal = Arc::new(|error: &StorageError| panic!("{error}"));
    DataDir::open(&runtime, path, StorageOptions::default(), fatal).expect("the folder is new, or was closed")
}

fn open(path: &Path, groups: u64) -> (DataDir, Vec<Arc<Log>>) {
    let (data_dir, _) = reopen(path);
    let logs: Vec<_> = (1..=groups)
        .map(|group| {
            let spec = GroupSpec {
                group: GroupId(group),
                topic: "bench".into(),
                partition: PartitionIndex(group as i32),
                topic_id: TopicId([7; 16]),
                replica: ReplicaId(group),
                options: LogOptions::default(),
            };
            let log = data_dir.create_group(spec, Box::new(|_| ())).expect("the group is new");
            log.save_vote(
                Vote { term: Term(1), replica: ReplicaId(group), committed: true },
                Box::new(|result| result.expect("the disk works")),
            );
            log
        })
        .collect();
    (data_dir, logs)
}

fn rounds(criterion: &mut Criterion) {
    for groups in [1, 1000] {
        let folder = Folder::new(&format!("journal-{groups}"));
        let (data_dir, logs) = open(&folder.0, groups);
        let proposal = proposal();
        let mut group = criterion.benchmark_group(format!("journal_{groups}_groups"));
        group.measurement_time(Duration::from_secs(5)).sample_size(20);
        let mut next = 0;
        for concurrent in [1, 16, 256] {
            group.throughput(Throughput::Bytes((concurrent * BATCH_BYTES) as u64));
            group.bench_function(BenchmarkId::from_parameter(concurrent), |bench| {
                bench.iter(|| {
                    let (sender, receiver) = mpsc::channel();
                    for _ in 0..concurrent {
                        next = (next + 1) % logs.len();
                        let sender = sender.clone();
                        let done = Box::new(move |result| sender.send(result).expect("the receiver waits"));
                        logs[next].append_solo(Term(1), proposal.clone(), done).expect("the log is open");
                    }
                    for _ in 0..concurrent {
                        receiver.recv().expect("`done` is called").expect("the disk works");
                    }
                });
            });
        }
        group.finish();
        let stats = data_dir.stats();
        let rounds = stats.journal_rounds.max(1);
        println!(
            "{groups} groups: {rounds} rounds, {} records a round, {} us a round, {} checkpoints, {} waits",
            stats.journal_records / rounds,
            stats.journal_sync_micros_sum / rounds,
            stats.checkpoints,
            stats.journal_waits
        );
        let begin = Instant::now();
        data_dir.close().expect("the disk works");
        let closed = begin.elapsed();
        drop(logs);
        drop(data_dir);
        let begin = Instant::now();
        let (data_dir, report) = reopen(&folder.0);
        println!("{groups} groups: closed in {closed:?}, clean: {}, opened in {:?}", report.clean, begin.elapsed());
        data_dir.close().expect("the disk works");
    }
}

/// One write and one sync of the data, at rising positions of a file that is empty or was filled with zeros before.
fn preallocation(criterion: &mut Criterion) {
    const FILE_BYTES: u64 = 256 << 20;
    let mut group = criterion.benchmark_group("sync_64KiB");
    group.measurement_time(Duration::from_secs(5)).sample_size(20);
    for filled in [false, true] {
        let folder = Folder::new(if filled { "overwrite" } else { "extend" });
        let disk = RealDisk::shared();
        disk.create_dir_all(&folder.0).expect("the disk works");
        let bytes = vec![b'x'; 64 << 10];
        group.bench_function(if filled { "overwrite" } else { "extend" }, |bench| {
            bench.iter_custom(|times| {
                let mut took = Duration::ZERO;
                let mut file = prepare(&*disk, &folder.0, filled.then_some(FILE_BYTES));
                let mut position = 0;
                for _ in 0..times {
                    if position + bytes.len() as u64 > FILE_BYTES {
                        file = prepare(&*disk, &folder.0, filled.then_some(FILE_BYTES));
                        position = 0;
                    }
                    let begin = Instant::now();
                    file.write_all_at(&[IoSlice::new(&bytes)], position).expect("the disk works");
                    file.sync_data().expect("the disk works");
                    took += begin.elapsed();
                    position += bytes.len() as u64;
                }
                took
            });
        });
    }
    group.finish();
}

fn prepare(disk: &dyn Disk, folder: &Path, filled: Option<u64>) -> Arc<dyn millpond_runtime::File> {
    let file = disk.open(&folder.join("file"), OpenMode::Create).expect("the disk works");
    if filled.is_none() || file.len().expect("the disk works") == 0 {
        file.set_len(0).expect("the disk works");
        let zeros = vec![0; 1 << 20];
        for position in (0..filled.unwrap_or(0)).step_by(zeros.len()) {
            file.write_all_at(&[IoSlice::new(&zeros)], position).expect("the disk works");
        }
        file.sync_all().expect("the disk works");
    }
    file
}

criterion_group!(benches, preallocation, rounds);
criterion_main!(benches);
