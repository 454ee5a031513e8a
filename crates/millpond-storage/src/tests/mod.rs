mod crashes;
mod data_dir;
mod faults;
mod install_faults;
mod installs;
mod layouts;
mod meta;
mod model;
mod partition_folder;
mod placing;
mod stalls;
mod table;
mod taint;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use millpond_record::{
    BrokerId, GroupId, PartitionIndex, RaftIndex, RaftOnlyKind, ReplicaId, Term, Timestamp, TopicId, parse_raft_only,
};
use millpond_runtime::Runtime;
use millpond_runtime::sim::{NodeId, World};

use crate::log::{AppendEntry, Body, Entries, Log};
use crate::types::{Done, GroupSpec, LogOptions, Vote};
use crate::{DataDir, OpenError, RecoveryReport, StorageError, StorageOptions};

pub(crate) const NODE: NodeId = NodeId(1);

pub(crate) fn root() -> &'static Path {
    Path::new("/srv/millpond/data")
}

pub(crate) fn small() -> StorageOptions {
    StorageOptions {
        node_id: BrokerId(3),
        journal_file_bytes: StorageOptions::MIN_JOURNAL_FILE_BYTES,
        journal_files: 4,
        tail_cache_bytes: 1 << 20,
        segment_sync_bytes: u64::MAX,
        ..StorageOptions::default()
    }
}

pub(crate) fn open(runtime: &Runtime) -> Result<(DataDir, RecoveryReport), OpenError> {
    open_with(runtime, small()).0
}

/// Opens a directory and counts its fatal errors.
pub(crate) fn open_with(
    runtime: &Runtime,
    options: StorageOptions,
) -> (Result<(DataDir, RecoveryReport), OpenError>, Arc<AtomicU64>) {
    let fatal = Arc::new(AtomicU64::new(0));
    let count = fatal.clone();
    let on_fatal = Arc::new(move |_: &StorageError| {
        count.fetch_add(1, Ordering::SeqCst);
    });
    (DataDir::open(runtime, root(), options, on_fatal), fatal)
}

pub(crate) fn spec(group: u64, topic: &str) -> GroupSpec {
    GroupSpec {
        group: GroupId(group),
        topic: topic.to_owned(),
        partition: PartitionIndex(0),
        topic_id: TopicId([group as u8; 16]),
        replica: ReplicaId(group + 100),
        options: LogOptions { segment_bytes: 20_000, ..LogOptions::default() },
    }
}

/// What a crash left holds no damage: a start mends it.
fn assert_undamaged(runtime: &Runtime, context: &str) {
    let mut damages = Vec::new();
    let verified = crate::verify(&*runtime.disk(), root(), &mut |finding| {
        if finding.severity == crate::Severity::Damage {
            damages.push(finding.to_string());
        }
    });
    assert!(damages.is_empty(), "{context}: {damages:?}");
    // Before the first start was through there is nothing to verify.
    assert!(matches!(verified, Ok(_) | Err(OpenError::NotADataDirectory { .. })), "{context}: {verified:?}");
}

/// What a `done` said: nothing yet, durable, failed.
#[derive(Clone, Default)]
pub(crate) struct Told(Arc<AtomicU8>);

impl Told {
    /// One that was told already.
    fn durable() -> Told {
        Told(Arc::new(AtomicU8::new(1)))
    }

    pub(crate) fn done(&self) -> Done {
        let told = self.0.clone();
        Box::new(move |result| {
            let before = told.swap(if result.is_ok() { 1 } else { 2 }, Ordering::SeqCst);
            assert_eq!(before, 0, "`done` is called once");
        })
    }

    fn is_durable(&self) -> bool {
        self.0.load(Ordering::SeqCst) == 1
    }

    /// Waits for the answer; false when it failed or the node is dead.
    pub(crate) async fn wait(&self, world: &World) -> bool {
        let deadline = world.elapsed_ms() + 60_000;
        while self.0.load(Ordering::SeqCst) == 0 && world.is_alive(NODE) {
            assert!(world.elapsed_ms() < deadline, "`done` was not called");
            world.runtime_for(NODE).sleep(Duration::from_millis(1)).await;
        }
        self.is_durable()
    }
}

fn append(log: &Log, term: u64, payload: &[u8], done: Done) -> Result<(), StorageError> {
    let body =
        Body::RaftOnly { kind: RaftOnlyKind::Blank, payload: Bytes::copy_from_slice(payload), time: Timestamp(1_000) };
    log.append(vec![AppendEntry { index: log.next_index(), term: Term(term), body }], done).map(drop)
}

pub(crate) fn vote(log: &Log, term: u64, done: Done) {
    log.save_vote(Vote { term: Term(term), replica: ReplicaId(7), committed: true }, done);
}

/// All entries of a log: index, term, payload.
fn entries(log: &Log) -> Result<Vec<(u64, u64, Bytes)>, StorageError> {
    let mut found = Vec::new();
    loop {
        let from = found.last().map_or(0, |(index, _, _)| index + 1);
        let read = match log.entries(RaftIndex(from), RaftIndex(u64::MAX), 1 << 16)? {
            Entries::Ready(read) => read,
            Entries::Cold(cold) => cold.run()?,
        };
        if read.is_empty() {
            return Ok(found);
        }
        for (id, batch) in read {
            let (_, payload) = parse_raft_only(&batch).expect("the tests write no others");
            found.push((id.index.0, id.term.0, payload));
        }
    }
}
