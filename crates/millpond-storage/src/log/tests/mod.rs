//! Tests of the log on a simulated disk and with a journal whose syncs the test decides.

mod damage;
mod lookups;
mod max_time;
mod mend;
mod model;
mod recovery;
mod relaxed;
mod retain;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

use bytes::Bytes;
use millpond_record::{
    BatchBuilder, BatchHeader, GroupId, Offset, PartitionIndex, ProducerEpoch, ProducerId, RaftIndex, RaftOnlyKind,
    ReplicaId, Term, Timestamp, TopicId,
};
use millpond_runtime::sim::{Crash, NodeId, World, block_on};

use super::context::JournalSink;
use super::{AppendEntry, Body, Entries, Log, LogContext, Outcome, Proposal, Read, ReadError, StoredEntry};
use crate::journal::{JournalEntry, Segments};
use crate::types::{Done, FlushMode, GroupRow, GroupSpec, LogOptions, Vote};
use crate::{StorageError, StorageOptions};

pub(crate) const NODE: NodeId = NodeId(1);
pub(crate) const GROUP: GroupId = GroupId(7);

/// A journal in memory: entries become durable when the test says so.
#[derive(Default)]
pub(crate) struct TestJournal {
    state: Mutex<JournalState>,
}

#[derive(Default)]
struct JournalState {
    entries: Vec<JournalEntry>,
    synced: usize,
    waiting: Vec<(usize, Done)>,
}

impl JournalSink for TestJournal {
    fn submit(&self, entries: Vec<JournalEntry>, done: Option<Done>) -> Result<(), StorageError> {
        let mut state = self.state.lock().unwrap();
        state.entries.extend(entries);
        let place = state.entries.len();
        state.waiting.extend(done.map(|done| (place, done)));
        Ok(())
    }

    fn submit_from(
        &self,
        entries: Vec<JournalEntry>,
        _: Weak<dyn Segments>,
        done: Option<Done>,
    ) -> Result<(), StorageError> {
        self.submit(entries, done)
    }

    fn next_sequence(&self) -> u64 {
        self.state.lock().unwrap().entries.len() as u64
    }

    fn max_batch_bytes(&self) -> u64 {
        1 << 20
    }

    fn why_stuck(&self) -> Option<Arc<StorageError>> {
        None
    }
}

impl TestJournal {
    /// Makes the first `entries` durable and calls who waits for them.
    pub(crate) fn sync_to(&self, entries: usize) {
        let ready: Vec<Done> = {
            let mut state = self.state.lock().unwrap();
            state.synced = state.synced.max(entries.min(state.entries.len()));
            let synced = state.synced;
            let (ready, waiting) = std::mem::take(&mut state.waiting).into_iter().partition(|(at, _)| *at <= synced);
            state.waiting = waiting;
            let ready: Vec<(usize, Done)> = ready;
            ready.into_iter().map(|(_, done)| done).collect()
        };
        for done in ready {
            done(Ok(()));
        }
    }

    pub(crate) fn sync(&self) {
        self.sync_to(usize::MAX);
    }

    /// What a power cut leaves: what was synced, and as many more entries as the disk happened to have.
    fn crash(&self, more: usize) -> TestJournal {
        let state = self.state.lock().unwrap();
        let kept = (state.synced + more).min(state.entries.len());
        let entries = state.entries[..kept].to_vec();
        TestJournal { state: Mutex::new(JournalState { entries, synced: kept, waiting: Vec::new() }) }
    }

    fn from(&self, sequence: u64) -> Vec<JournalEntry> {
        self.state.lock().unwrap().entries[sequence as usize..].to_vec()
    }

    pub(crate) fn len(&self) -> usize {
        self.state.lock().unwrap().entries.len()
    }
}

/// A node with one log.
pub(crate) struct Bench {
    pub(crate) world: World,
    pub(crate) options: StorageOptions,
    pub(crate) journal: Arc<TestJournal>,
    pub(crate) context: Arc<LogContext>,
    pub(crate) log: Arc<Log>,
    /// The row that `groups.table` has.
    pub(crate) table: GroupRow,
}

pub(crate) fn small_options() -> StorageOptions {
    StorageOptions { tail_cache_bytes: 1 << 20, index_interval_bytes: 256, ..StorageOptions::default() }
}

/// Runs a test on a simulated node with an empty log.
pub(crate) fn with_log<F: Future<Output = ()>>(
    seed: u64,
    options: StorageOptions,
    log_options: LogOptions,
    test: impl FnOnce(Bench) -> F,
) {
    block_on(seed, async { test(Bench::new(World::new(seed), options, log_options)).await });
}

impl Bench {
    fn new(world: World, options: StorageOptions, log_options: LogOptions) -> Bench {
        let spec = GroupSpec {
            group: GROUP,
            topic: "t".to_owned(),
            partition: PartitionIndex(0),
            topic_id: TopicId::ZERO,
            replica: ReplicaId(1),
            options: log_options,
        };
        let mut table = GroupRow::new(&spec, 0);
        table.vote = Vote { term: Term(100), replica: ReplicaId(1), committed: true };
        let runtime = world.runtime_for(NODE);
        runtime.disk().create_dir_all(&root().join(table.folder())).unwrap();
        runtime.disk().sync_dir(&root()).unwrap();
        runtime.disk().sync_dir(Path::new("/")).unwrap();
        let journal = Arc::new(TestJournal::default());
        let context = LogContext::new(runtime, root(), options.clone(), journal.clone());
        let log = Log::open(&context, &table).unwrap();
        Bench { world, options, journal, context, log, table }
    }

    /// Writes a checkpoint.
    pub(crate) fn checkpoint(&mut self) {
        self.journal.sync();
        self.table = self.log.sync_segments().unwrap();
        self.log.remove_below(&self.table);
    }

    fn start(&mut self, journal: TestJournal) {
        self.journal = Arc::new(journal);
        self.context =
            LogContext::new(self.world.runtime_for(NODE), root(), self.options.clone(), self.journal.clone());
    }

    /// Stops cleanly and starts again.
    pub(crate) fn reopen(&mut self) {
        self.context.stop();
        self.checkpoint();
        let journal = self.journal.crash(0);
        self.world.restart(NODE);
        self.start(journal);
        self.log = Log::open(&self.context, &self.table).unwrap();
    }

    /// Crashes; the journal keeps up to `more` entries that were not synced.
    pub(crate) fn crash(&mut self, kind: Crash, more: usize) {
        let journal = self.journal.crash(more);
        self.world.crash(NODE, kind);
        self.world.restart(NODE);
        self.start(journal);
    }

    /// Recovers the log after a crash.
    pub(crate) fn recover(&mut self) -> Result<(), StorageError> {
        let log = Log::recover(&self.context, &self.table)?;
        for entry in self.journal.from(self.table.journal_sequence) {
            log.replay(entry)?;
        }
        log.finish_recovery()?;
        self.log = log;
        Ok(())
    }

    pub(crate) fn folder(&self) -> PathBuf {
        root().join("t-0")
    }

    /// The files of the folder with this extension, oldest first.
    pub(crate) fn files(&self, extension: &str) -> Vec<PathBuf> {
        let entries = self.world.runtime_for(NODE).disk().read_dir(&self.folder()).unwrap();
        let paths = entries.iter().map(|entry| self.folder().join(&entry.name));
        paths.filter(|path| path.extension().is_some_and(|found| found == extension)).collect()
    }

    /// The next entry, of the last term or of `term`.
    pub(crate) fn entry(&self, term: u64, body: Body) -> AppendEntry {
        AppendEntry { index: self.log.next_index(), term: Term(term), body }
    }

    /// Appends one entry; `done` is not looked at.
    pub(crate) fn append(&self, term: u64, body: Body) -> Outcome {
        self.log.append(vec![self.entry(term, body)], Box::new(|_| {})).unwrap()[0]
    }

    /// Appends a batch of `records` records of `bytes` each at `time`.
    pub(crate) fn put(&self, term: u64, records: usize, bytes: usize, time: i64) -> Outcome {
        self.append(term, Body::Proposed(proposal(plain(records, bytes, time))))
    }

    pub(crate) fn commit_all(&self) {
        self.log.commit(RaftIndex(u64::MAX));
    }

    /// Every entry of the log.
    pub(crate) fn entries(&self) -> Vec<StoredEntry> {
        let first = self.log.purged().map_or(0, |purged| purged.index.0 + 1);
        entries_from(&self.log, RaftIndex(first))
    }
}

fn root() -> PathBuf {
    PathBuf::from("/data")
}

pub(crate) fn durable(segment_bytes: u32) -> LogOptions {
    LogOptions { flush: FlushMode::Durable, segment_bytes, ..LogOptions::default() }
}

pub(crate) fn relaxed(segment_bytes: u32) -> LogOptions {
    LogOptions { flush: FlushMode::Relaxed, segment_bytes, ..LogOptions::default() }
}

/// A batch without producer.
pub(crate) fn plain(records: usize, bytes: usize, time: i64) -> Bytes {
    let mut builder = BatchBuilder::new();
    for record in 0..records {
        builder.append(Timestamp(time + record as i64), None, Some(&vec![b'a' + (record % 26) as u8; bytes]));
    }
    builder.build()
}

/// A batch of an idempotent producer.
pub(crate) fn idempotent(id: i64, epoch: i16, sequence: i32, records: usize) -> Bytes {
    let mut builder = BatchBuilder::new().producer(ProducerId(id), ProducerEpoch(epoch), sequence);
    for record in 0..records {
        builder.append(Timestamp(record as i64), None, Some(b"v"));
    }
    builder.build()
}

pub(crate) fn proposal(batch: Bytes) -> Proposal {
    let header = BatchHeader::read(&batch).unwrap();
    Proposal { frame_bytes: batch.len(), header, append_time: header.max_timestamp, batch }
}

pub(crate) fn blank(payload: &'static [u8]) -> Body {
    Body::RaftOnly { kind: RaftOnlyKind::Blank, payload: Bytes::from_static(payload), time: Timestamp(1) }
}

/// A `done` that counts its calls, and the count.
pub(crate) fn counted() -> (Done, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let later = count.clone();
    let done: Done = Box::new(move |result| {
        result.unwrap();
        later.fetch_add(1, Ordering::Relaxed);
    });
    (done, count)
}

pub(crate) fn read(log: &Log, from: i64, to: i64, max_bytes: usize, whole_first: bool) -> Result<Vec<u8>, ReadError> {
    let chunks = match log.read(Offset(from), Offset(to), max_bytes, whole_first)? {
        Read::Ready(chunks) => chunks,
        Read::Cold(cold) => cold.run()?,
    };
    Ok(chunks.concat())
}

pub(crate) fn entries_of(log: &Log, from: RaftIndex, max_bytes: usize) -> Result<Vec<StoredEntry>, StorageError> {
    match log.entries(from, RaftIndex(u64::MAX), max_bytes)? {
        Entries::Ready(entries) => Ok(entries),
        Entries::Cold(cold) => cold.run(),
    }
}

pub(crate) fn entries_from(log: &Log, first: RaftIndex) -> Vec<StoredEntry> {
    let mut entries: Vec<StoredEntry> = Vec::new();
    loop {
        let next = entries.last().map_or(first, |(id, _)| RaftIndex(id.index.0 + 1));
        let more = entries_of(log, next, 1 << 16).unwrap();
        if more.is_empty() {
            return entries;
        }
        entries.extend(more);
    }
}
