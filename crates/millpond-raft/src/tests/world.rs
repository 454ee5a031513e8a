//! The small world of the tests: a data directory, groups on it, crashes.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use millpond_record::{
    BatchBuilder, BatchView, BrokerId, GroupId, Offset, PartitionIndex, ProducerEpoch, ProducerId, RaftIndex,
    ReplicaId, StampedBatch, Timestamp, TopicId,
};
use millpond_runtime::sim::{self, Crash, NodeId, World};
use millpond_runtime::{RealDisk, Runtime};
use millpond_storage::{DataDir, FlushMode, Frontiers, GroupSpec, Log, LogOptions, Proposal, Read, StorageOptions};

use crate::log_store::LogStore;
use crate::replica::{Owner, ReplicaState, Role};
use crate::state_machine::StateMachine;
use crate::{Applier, ApplyError, Groups, Partition, Peers, RaftError};

/// Long enough for anything that ends at all; in the simulator it costs nothing.
const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) const NODE: NodeId = NodeId(1);

/// Runs a test in a task on a fresh folder of the real disk.
pub(crate) fn on_the_real_disk<F>(test: impl FnOnce(Runtime, PathBuf) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    // The clock is paused: it jumps over the sleeps of openraft's suite when nothing else can run.
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().expect("tokio");
    tokio.block_on(async {
        let runtime = Runtime::real(RealDisk::shared());
        runtime.spawn(test(runtime.clone(), folder.path().to_owned())).await.expect("the test");
    });
}

/// Runs a test in a task of a simulated node.
pub(crate) fn simulated<F>(seed: u64, test: impl FnOnce(Runtime, PathBuf) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    sim::block_on(seed, async {
        let world = World::new(seed);
        let runtime = world.runtime_for(NODE);
        let test = runtime.spawn(test(runtime.clone(), PathBuf::from("/data")));
        runtime.timeout(DEADLINE, test).await.expect("the test ends").expect("the test");
    });
}

/// Runs a test that crashes its node and starts it again.
pub(crate) fn with_crashes<F: Future<Output = ()>>(seed: u64, test: impl FnOnce(Machine) -> F) {
    sim::block_on(seed, async { test(Machine { world: World::new(seed) }).await });
}

/// One simulated machine.
pub(crate) struct Machine {
    pub(crate) world: World,
}

impl Machine {
    /// Runs `life` as the machine's process until it ends.
    pub(crate) async fn live<T, F>(&self, life: impl FnOnce(Runtime) -> F) -> T
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let runtime = self.world.runtime_for(NODE);
        let life = runtime.spawn(life(runtime.clone()));
        runtime.timeout(DEADLINE, life).await.expect("the process ends its work").expect("the process")
    }

    /// Runs `life` and cuts the power after `ms` milliseconds, whatever it is doing.
    pub(crate) async fn live_until<F>(&self, ms: u64, life: impl FnOnce(Runtime) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let runtime = self.world.runtime_for(NODE);
        let life = runtime.spawn(life(runtime.clone()));
        // Err: the life was still going on, which is the point.
        let _ = runtime.timeout(Duration::from_millis(ms), life).await;
        self.cut_power();
    }

    pub(crate) fn cut_power(&self) {
        self.world.crash(NODE, Crash::PowerCut);
        self.world.restart(NODE);
    }
}

pub(crate) async fn open(runtime: &Runtime, path: &Path) -> DataDir {
    open_as(runtime, path, StorageOptions::default().node_id).await
}

/// Opens the data directory of a broker.
pub(crate) async fn open_as(runtime: &Runtime, path: &Path, node_id: BrokerId) -> DataDir {
    let (opening, path) = (runtime.clone(), path.to_owned());
    let options =
        StorageOptions { node_id, journal_file_bytes: 1 << 20, journal_files: 3, ..StorageOptions::default() };
    let opened = runtime.blocking(move || DataDir::open(&opening, &path, options, Arc::new(|_| {}))).await;
    opened.expect("a data directory that opens").0
}

pub(crate) const BROKER: BrokerId = BrokerId(1);

/// The groups of a broker that has no peers.
pub(crate) fn start(runtime: &Runtime, data_dir: DataDir) -> Groups {
    Groups::start(runtime.clone(), data_dir, Peers::alone(runtime, BROKER))
}

/// A partition with one replica.
pub(crate) async fn create(groups: &Groups, spec: GroupSpec) -> Result<Partition, RaftError> {
    let member = (spec.replica, BROKER);
    groups.create(spec, &[member], 1).await
}

/// A log as a replica without owner has it.
pub(crate) fn ownerless(log: &Arc<Log>) -> Arc<ReplicaState> {
    struct Nobody;
    impl Owner for Nobody {
        fn committed(&self, _: &Frontiers) {}
        fn role_changed(&self, _: Role) {}
        fn ended(&self, _: &str) {}
    }
    let row = log.row();
    let min_insync = Arc::new(std::sync::atomic::AtomicU16::new(1));
    ReplicaState::new(row.group, row.replica, Arc::clone(log), min_insync, std::sync::Weak::<Nobody>::new())
}

/// openraft's storage on a log.
pub(crate) fn stores(runtime: &Runtime, data_dir: &DataDir, log: &Arc<Log>) -> (LogStore, StateMachine) {
    let replica = ownerless(log);
    let applier: Arc<dyn Applier> = Arc::new(Remembered::default());
    let state_machine = StateMachine::new(runtime.clone(), Arc::clone(&replica), Some(applier)).expect("no membership");
    (LogStore::new(runtime.clone(), data_dir.clone(), replica), state_machine)
}

pub(crate) async fn groups(runtime: &Runtime) -> Groups {
    start(runtime, open(runtime, Path::new("/data")).await)
}

pub(crate) async fn close(runtime: &Runtime, data_dir: DataDir) {
    runtime.blocking(move || data_dir.close()).await.expect("a clean close");
}

pub(crate) fn spec(group: u64) -> GroupSpec {
    GroupSpec {
        group: GroupId(group),
        topic: format!("topic-{group}"),
        partition: PartitionIndex(0),
        topic_id: TopicId([group as u8; 16]),
        replica: ReplicaId(group + 1),
        options: LogOptions::default(),
    }
}

pub(crate) fn relaxed(group: u64) -> GroupSpec {
    GroupSpec { options: LogOptions { flush: FlushMode::Relaxed, ..LogOptions::default() }, ..spec(group) }
}

/// A batch of one record.
pub(crate) fn proposal(value: &str) -> Proposal {
    propose(BatchBuilder::new().record(Timestamp(1), None, Some(value.as_bytes())).build())
}

/// A batch of one record of producer 7.
pub(crate) fn sequenced(sequence: i32) -> Proposal {
    let batch = BatchBuilder::new().producer(ProducerId(7), ProducerEpoch(0), sequence);
    propose(batch.record(Timestamp(1), None, Some(b"once")).build())
}

pub(crate) fn propose(batch: Bytes) -> Proposal {
    let header = *BatchView::parse(&batch).expect("a batch").header();
    let frame_bytes = batch.len();
    Proposal { batch, header, append_time: Timestamp(1), frame_bytes }
}

/// Every data batch below the high watermark, as (base offset, leader epoch, first value).
pub(crate) async fn batches(runtime: &Runtime, log: &Arc<Log>) -> Vec<(i64, i32, String)> {
    let log = Arc::clone(log);
    let chunks = runtime.blocking(move || {
        let (from, to) = (log.frontiers().log_start, log.frontiers().high_watermark);
        let mut chunks = Vec::new();
        let mut next = from;
        while next < to {
            let read = match log.read(next, to, 1 << 20, true).expect("readable") {
                Read::Ready(read) => read,
                Read::Cold(cold) => cold.run().expect("readable"),
            };
            let bytes: Vec<u8> = read.concat();
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let view = BatchView::first_of(rest).expect("whole batches");
                let header = *view.header();
                let (batch, after) = rest.split_at(header.size_bytes as usize);
                chunks.push(StampedBatch::from_slice(batch).expect("a batch"));
                next = Offset(header.base_offset.0 + i64::from(header.last_offset_delta) + 1);
                rest = after;
            }
        }
        chunks
    });
    chunks
        .await
        .iter()
        .map(|batch| (batch.header().base_offset.0, batch.header().leader_epoch.0, value(batch)))
        .collect()
}

pub(crate) fn value(batch: &StampedBatch) -> String {
    let bytes = batch.to_bytes();
    let records = millpond_record::records(&bytes, millpond_record::DecompressLimit(1 << 20)).expect("records");
    let first = records.iter().next().expect("a record").expect("readable");
    String::from_utf8(first.value.expect("a value").to_vec()).expect("text")
}

/// Remembers what it was given.
#[derive(Clone, Default)]
pub(crate) struct Remembered(Arc<Mutex<Vec<(u64, String)>>>);

impl Remembered {
    pub(crate) fn values(&self) -> Vec<String> {
        self.0.lock().expect("unpoisoned").iter().map(|(_, value)| value.clone()).collect()
    }

    pub(crate) fn indexes(&self) -> Vec<u64> {
        self.0.lock().expect("unpoisoned").iter().map(|(index, _)| *index).collect()
    }
}

impl Applier for Remembered {
    fn apply(&self, index: RaftIndex, batch: &StampedBatch) -> Result<(), ApplyError> {
        self.0.lock().expect("unpoisoned").push((index.0, value(batch)));
        Ok(())
    }
}
