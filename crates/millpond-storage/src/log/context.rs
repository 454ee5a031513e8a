//! What all logs of a data directory share.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use millpond_record::{BatchHeader, Timestamp};
use millpond_runtime::{Disk, Runtime};

use super::ahead::ProvenAhead;
use super::buffers::BufferPool;
use crate::cache::TailCache;
use crate::journal::{JournalEntry, JournalHandle, Segments};
use crate::writer::Writer;
use crate::{Done, StorageError, StorageOptions};

/// Where a log hands in what must become durable, in the order of the calls. A log calls it with its mutex held, so
/// that the order of the journal is the order of the log.
pub(crate) trait JournalSink: Send + Sync {
    /// Appends entries side by side; `done` is called when the last of them is durable or never will be.
    ///
    /// # Errors
    ///
    /// When the journal failed or is closed: final. `done` is dropped then.
    fn submit(&self, entries: Vec<JournalEntry>, done: Option<Done>) -> Result<(), StorageError>;

    /// As [`JournalSink::submit`]; what is behind `segments` may have the batches synced there instead.
    fn submit_from(
        &self,
        entries: Vec<JournalEntry>,
        segments: Weak<dyn Segments>,
        done: Option<Done>,
    ) -> Result<(), StorageError>;

    /// The sequence number that the next entry gets.
    fn next_sequence(&self) -> u64;

    /// The longest batch that can be submitted.
    fn max_batch_bytes(&self) -> u64;

    /// Why what is submitted now may have to wait for long: there is no room for the journal to go on.
    fn why_stuck(&self) -> Option<Arc<StorageError>>;
}

impl JournalSink for JournalHandle {
    fn submit(&self, entries: Vec<JournalEntry>, done: Option<Done>) -> Result<(), StorageError> {
        self.submit_all(entries, done)
    }

    fn submit_from(
        &self,
        entries: Vec<JournalEntry>,
        segments: Weak<dyn Segments>,
        done: Option<Done>,
    ) -> Result<(), StorageError> {
        JournalHandle::submit_from(self, entries, Some(segments), done)
    }

    fn next_sequence(&self) -> u64 {
        JournalHandle::next_sequence(self)
    }

    fn max_batch_bytes(&self) -> u64 {
        JournalHandle::max_batch_bytes(self)
    }

    fn why_stuck(&self) -> Option<Arc<StorageError>> {
        JournalHandle::why_stuck(self)
    }
}

type CheckpointWanted = Box<dyn Fn() + Send + Sync>;

/// What all logs of a data directory share: the journal, the tail cache, the writer of the segments.
pub(crate) struct LogContext {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) root: PathBuf,
    pub(crate) options: StorageOptions,
    pub(crate) journal: Arc<dyn JournalSink>,
    pub(crate) cache: TailCache,
    pub(crate) writer: Arc<Writer>,
    /// Buffers in which cold reads prove what is then sent from the file.
    pub(super) proving: BufferPool,
    /// What was proven before a reader asked for it.
    pub(super) ahead: ProvenAhead,
    closing: AtomicBool,
    /// Bytes in segments only, since a checkpoint was last asked for.
    unsynced_bytes: AtomicU64,
    checkpoint_wanted: OnceLock<CheckpointWanted>,
}

impl LogContext {
    /// Starts the writer of the segments.
    pub(crate) fn new(
        runtime: Runtime,
        root: PathBuf,
        options: StorageOptions,
        journal: Arc<dyn JournalSink>,
    ) -> Arc<LogContext> {
        let writer = Writer::start(&runtime);
        let context = Arc::new(LogContext {
            disk: runtime.disk(),
            root,
            cache: TailCache::new(options.tail_cache_bytes),
            options,
            journal,
            writer,
            proving: BufferPool::default(),
            ahead: ProvenAhead::default(),
            closing: AtomicBool::new(false),
            unsynced_bytes: AtomicU64::new(0),
            checkpoint_wanted: OnceLock::new(),
        });
        context.writer.attach(&context);
        context
    }

    /// Whom to ask for a checkpoint when [`StorageOptions::relaxed_sync_bytes`] were written since the last that no
    /// journal holds.
    pub(crate) fn on_checkpoint_wanted(&self, wanted: impl Fn() + Send + Sync + 'static) {
        let set = self.checkpoint_wanted.set(Box::new(wanted));
        assert!(set.is_ok(), "the data directory sets this once");
    }

    /// Batches were written to a segment that no journal holds.
    pub(crate) fn unjournaled_written(&self, bytes: u64) {
        let before = self.unsynced_bytes.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes >= self.options.relaxed_sync_bytes {
            self.unsynced_bytes.store(0, Ordering::Relaxed);
            self.want_checkpoint();
        }
    }

    /// Cold reads that found what they asked for read and proven.
    pub(crate) fn read_ahead_used(&self) -> u64 {
        self.ahead.used()
    }

    /// Asks for a checkpoint.
    pub(crate) fn want_checkpoint(&self) {
        if let Some(wanted) = self.checkpoint_wanted.get() {
            wanted();
        }
    }

    /// Stops the writer. What it has not written is left to [`crate::log::Log::sync_segments`], which from now on also
    /// leaves a snapshot that makes the next start short.
    pub(crate) fn stop(&self) {
        self.closing.store(true, Ordering::Release);
        self.writer.stop();
    }

    /// When a batch was appended at the latest, as far as the batch tells.
    pub(crate) fn append_time_of(&self, header: &BatchHeader) -> Timestamp {
        let newest = header.max_timestamp;
        if newest < Timestamp(0) { self.options.opened_at } else { newest.min(self.options.opened_at) }
    }

    pub(crate) fn closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }
}
