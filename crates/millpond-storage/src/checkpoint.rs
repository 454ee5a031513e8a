//! A checkpoint: everything that the journal's older files say is brought to where it belongs (segments, `groups.table`),
//! so that those files may be recycled.
//!
//! The order is what makes it safe:
//! 1. note the journal's position;
//! 2. sync every open log's segments and capture its row (it covers at least the records before that position);
//! 3. make the data directory's folder entries durable;
//! 4. replace `groups.table` by one that says: replay from that position;
//! 5. free the files before it.
//!
//! A crash between any two of them leaves the old table, the journal files it needs, and segments that hold more than
//! the table says; replay skips what is there already.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use millpond_runtime::{Disk, Driver, Round, Rounds, Runtime};

use crate::StorageError;
use crate::journal::JournalHandle;
use crate::journal::scan::ReplayFrom;
use crate::registry::Registry;
use crate::table::{TABLE_FILE, Table};

/// Writes checkpoints, one at a time.
pub(crate) struct Checkpointer {
    disk: Arc<dyn Disk>,
    root: PathBuf,
    journal: JournalHandle,
    registry: Arc<Registry>,
    /// What the table on disk says.
    written: Mutex<ReplayFrom>,
    driver: OnceLock<Driver>,
    requested: AtomicBool,
    forced: AtomicBool,
    count: AtomicU64,
}

impl Checkpointer {
    pub(crate) fn start(
        runtime: &Runtime,
        root: PathBuf,
        journal: JournalHandle,
        registry: Arc<Registry>,
        written: ReplayFrom,
    ) -> Arc<Checkpointer> {
        let checkpointer = Arc::new(Checkpointer {
            disk: runtime.disk(),
            root,
            journal,
            registry,
            written: Mutex::new(written),
            driver: OnceLock::new(),
            requested: AtomicBool::new(false),
            forced: AtomicBool::new(false),
            count: AtomicU64::new(0),
        });
        let rounds = Arc::new(CheckpointRounds(checkpointer.clone()));
        checkpointer.driver.get_or_init(|| runtime.drive("checkpoint", rounds));
        checkpointer
    }

    /// Asks for a checkpoint, unless the journal turns out not to need one.
    pub(crate) fn request(&self) {
        self.requested.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// Asks for a checkpoint in any case.
    pub(crate) fn force(&self) {
        self.forced.store(true, Ordering::SeqCst);
        self.wake();
    }

    fn wake(&self) {
        if let Some(driver) = self.driver.get() {
            driver.wake();
        }
    }

    pub(crate) fn stop(&self) {
        if let Some(driver) = self.driver.get() {
            driver.stop();
        }
    }

    /// Checkpoints written since the start.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Writes a checkpoint. Blocking. Its failure is final for the data directory, and the journal is told.
    pub(crate) fn run(&self) -> Result<(), StorageError> {
        let position = self.journal.position()?;
        self.write(ReplayFrom { file_number: position.0, sequence: position.1 })
            .inspect_err(|error| self.journal.fail(error.clone()))
    }

    /// The last checkpoint: nothing is submitted or pending any more, and a start finds the journal empty.
    /// False if something could not be brought to where it belongs and the next start has to replay it.
    pub(crate) fn run_last(&self) -> Result<bool, StorageError> {
        let (_, sequence) = self.journal.position()?;
        let last = ReplayFrom { file_number: self.journal.number_after_all(), sequence };
        self.write(last).inspect_err(|error| self.journal.fail(error.clone()))?;
        Ok(*self.written.lock().expect("nothing panics while it writes a checkpoint") == last)
    }

    fn write(&self, position: ReplayFrom) -> Result<(), StorageError> {
        let mut written = self.written.lock().expect("nothing panics while it writes a checkpoint");
        // After the position was noted: a group that was created before it is in the registry by now.
        let slots = self.registry.slots();
        let mut rows = Vec::with_capacity(slots.len());
        let mut held_back = None;
        for slot in slots {
            let row = match slot.open_log().map(|log| log.sync_segments()) {
                // Its deletion is not durable yet. Should it not become so, the records are needed.
                None if slot.folder().is_none() => {
                    held_back = Some(StorageError::LogClosed(slot.group));
                    slot.checkpointed()
                }
                None => slot.checkpointed(),
                Some(Ok(row)) => {
                    slot.captured(&row);
                    row
                }
                Some(Err(StorageError::SetAside(_))) => slot.set_aside(),
                Some(Err(error @ StorageError::JournalFailed { .. })) => return Err(error),
                // Its old row stays, and with it the records that follow that row. A truncation or a
                // deletion that is not durable yet is one reason, a disk that is full another.
                Some(Err(error)) => {
                    held_back = Some(error);
                    slot.checkpointed()
                }
            };
            rows.push(row);
        }
        let sync_error = |error| StorageError::io("sync", &self.root, error);
        self.disk.sync_dir(&self.root).map_err(sync_error)?;
        let replay_from = if held_back.is_some() { *written } else { position };
        Table::write(&*self.disk, &self.root, replay_from, rows.iter())
            .map_err(|error| StorageError::io("write", &self.root.join(TABLE_FILE), error))?;
        *written = replay_from;
        self.count.fetch_add(1, Ordering::Relaxed);
        match held_back {
            None => self.journal.free_before(position.file_number),
            Some(error) => {
                if !self.journal.lend_file() {
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}

struct CheckpointRounds(Arc<Checkpointer>);

impl Rounds for CheckpointRounds {
    fn take(&self) -> Option<Box<dyn Round>> {
        let requested = self.0.requested.swap(false, Ordering::SeqCst);
        let forced = self.0.forced.swap(false, Ordering::SeqCst);
        // While the last one ran, requests may have come that it has answered.
        let wanted = forced || (requested && self.0.journal.wants_checkpoint());
        wanted.then(|| Box::new(CheckpointRound(self.0.clone())) as Box<dyn Round>)
    }
}

struct CheckpointRound(Arc<Checkpointer>);

impl Round for CheckpointRound {
    fn run(&mut self) {
        // A failure has been told to the journal, which tells everyone.
        let _ = self.0.run();
    }

    fn complete(self: Box<Self>) {}
}
