//! A checkpoint: everything that the journal's older files say is brought to where it belongs (segments,
//! `groups.table`), so that those files may be recycled.
//!
//! The order is what makes it safe:
//! 1. note the journal's position;
//! 2. sync every open log's segments and capture its row (it covers at least the records before that position); of a
//!    log that was set aside meanwhile, save the journal's records in its folder;
//! 3. make the data directory's folder entries durable;
//! 4. replace `groups.table` by one that says: replay from that position;
//! 5. free the files before it;
//! 6. remove the segments that the table now has below P and below the log start.
//!
//! A crash between any two of them leaves the old table, the journal files it needs, and segments that hold more than
//! the table says; replay skips what is there already.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use millpond_record::GroupId;
use millpond_runtime::{Disk, Driver, Round, Rounds, Runtime};

use crate::journal::scan::ReplayFrom;
use crate::journal::{JournalHandle, kept};
use crate::log::{is_passing, is_too_many_files};
use crate::registry::{Registry, Slot};
use crate::table::{TABLE_FILE, Table};
use crate::types::{FlushMode, GroupRow};
use crate::writer::Writer;
use crate::{OpenError, StorageError};

/// Logs that are synced at the same time: a disk takes many syncs at once about as fast as one.
const SYNCS_AT_ONCE: usize = 32;

/// What the syncs of a clean stop may take. What is left then the journal still has, and the next start replays it.
const LAST_SYNCS: Duration = Duration::from_millis(1_000);

/// Checkpoints that try to read the journal for what is to be kept of a group, before that is given up.
const KEEPING_TRIES: u32 = 8;

/// A group that was set aside and whose records in the journal are to be kept.
struct ToKeep {
    /// They are below this number: its log takes nothing any more.
    below: u64,
    /// How often the journal could not be read.
    tries: u32,
}

/// Writes checkpoints, one at a time.
pub(crate) struct Checkpointer {
    runtime: Runtime,
    disk: Arc<dyn Disk>,
    root: PathBuf,
    journal: JournalHandle,
    /// Whoever it tells tells the operator.
    writer: Arc<Writer>,
    registry: Arc<Registry>,
    /// What the table on disk says.
    written: Mutex<ReplayFrom>,
    /// Of that the record that replay begins with.
    replayed_from: AtomicU64,
    driver: OnceLock<Driver>,
    requested: AtomicBool,
    forced: AtomicBool,
    to_keep: Mutex<BTreeMap<GroupId, ToKeep>>,
    /// Why the last checkpoint could not free any file.
    held_back: Mutex<Option<StorageError>>,
    count: AtomicU64,
}

impl Checkpointer {
    pub(crate) fn start(
        runtime: &Runtime,
        root: PathBuf,
        journal: JournalHandle,
        writer: Arc<Writer>,
        registry: Arc<Registry>,
        written: ReplayFrom,
    ) -> Arc<Checkpointer> {
        let checkpointer = Arc::new(Checkpointer {
            runtime: runtime.clone(),
            disk: runtime.disk(),
            root,
            journal,
            writer,
            registry,
            written: Mutex::new(written),
            replayed_from: AtomicU64::new(written.sequence),
            driver: OnceLock::new(),
            requested: AtomicBool::new(false),
            forced: AtomicBool::new(false),
            to_keep: Mutex::default(),
            held_back: Mutex::new(None),
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

    /// Tries again what a disk that was full held back, and gives why it was.
    pub(crate) fn retry(&self) -> Option<StorageError> {
        let held_back = self.held_back.lock().expect("nothing panics while it holds this").take()?;
        self.force();
        Some(held_back)
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

    /// The journal record that a start would begin to replay with.
    pub(crate) fn replayed_from(&self) -> u64 {
        self.replayed_from.load(Ordering::Acquire)
    }

    /// Checkpoints written since the start.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Writes a checkpoint. Blocking. Its failure is final for the data directory, and the journal is told.
    pub(crate) fn run(&self) -> Result<(), StorageError> {
        self.run_now().map(drop)
    }

    /// As [`Checkpointer::run`]; false where the table is still the old one, because the disk is full.
    pub(crate) fn run_now(&self) -> Result<bool, StorageError> {
        let position = self.journal.position()?;
        self.write(ReplayFrom { file_number: position.0, sequence: position.1 }, None)
            .inspect_err(|error| self.journal.fail(error.clone()))
    }

    /// The last checkpoint: nothing is submitted or pending any more, and a start finds the journal empty.
    /// False if something could not be brought to where it belongs and the next start has to replay it.
    pub(crate) fn run_last(&self) -> Result<bool, StorageError> {
        let (_, sequence) = self.journal.position()?;
        let last = ReplayFrom { file_number: self.journal.number_after_all(), sequence };
        self.write(last, Some(LAST_SYNCS)).inspect_err(|error| self.journal.fail(error.clone()))?;
        Ok(*self.written.lock().expect("nothing panics while it writes a checkpoint") == last)
    }

    /// Gives whether the table was written.
    fn write(&self, position: ReplayFrom, at_most: Option<Duration>) -> Result<bool, StorageError> {
        let mut written = self.written.lock().expect("nothing panics while it writes a checkpoint");
        // After the position was noted: a group that was created before it is in the registry by now.
        let mut slots = self.registry.slots();
        slots.retain(|slot| !slot.is_gone());
        let captured = self.capture(&slots, at_most);
        let mut rows = Vec::with_capacity(slots.len());
        let (mut held_back, mut queued) = (None, true);
        let set_aside = slots.iter().zip(&captured).filter(|(_, row)| matches!(row, Err(StorageError::SetAside(_))));
        let mut not_kept = self.keep_records(set_aside.map(|(slot, _)| slot), *written);
        for (slot, captured) in slots.iter().zip(captured) {
            let row = match captured {
                Ok(row) => row,
                Err(StorageError::SetAside(_)) => match not_kept.remove(&slot.group) {
                    None => slot.set_aside(),
                    // To the next start it is as if nothing had happened: the journal still has what it replays.
                    Some(error) => {
                        queued &= matches!(error, StorageError::SetAside(_));
                        hold_back(&mut held_back, error);
                        slot.checkpointed()
                    }
                },
                Err(error @ StorageError::JournalFailed { .. }) => return Err(error),
                // Its old row stays, and with it the records that follow that row. A truncation or a deletion that is
                // not durable yet is one reason, a disk that is full another.
                Err(error) => {
                    queued &= matches!(error, StorageError::LogClosed(_) | StorageError::TruncationPending(_));
                    hold_back(&mut held_back, error);
                    slot.checkpointed()
                }
            };
            rows.push(row);
        }
        let replay_from = if held_back.is_some() { *written } else { position };
        let mut is_written = false;
        match self.disk.sync_dir(&self.root) {
            Ok(()) => match Table::write(&*self.disk, &self.root, replay_from, rows.iter()) {
                Ok(()) => {
                    *written = replay_from;
                    self.replayed_from.store(replay_from.sequence, Ordering::Release);
                    self.count.fetch_add(1, Ordering::Relaxed);
                    is_written = true;
                }
                // The old table is there still, and so is what it needs.
                Err(error) if is_passing(&error) => {
                    held_back = Some(StorageError::io("write", &self.root.join(TABLE_FILE), error));
                    queued = false;
                }
                Err(error) => return Err(StorageError::io("write", &self.root.join(TABLE_FILE), error)),
            },
            Err(error) if is_too_many_files(&error) => {
                held_back = Some(StorageError::io("sync", &self.root, error));
                queued = false;
            }
            Err(error) => return Err(StorageError::io("sync", &self.root, error)),
        }
        match held_back {
            None => self.journal.free_before(position.file_number),
            Some(error) => {
                if matches!(error, StorageError::Io { .. }) {
                    *self.held_back.lock().expect("nothing panics while it holds this") = Some(error.clone());
                }
                if !self.journal.lend_file(&error, queued) {
                    return Err(error);
                }
            }
        }
        if is_written && at_most.is_none() {
            // Last, because the journal does not wait for it. A stop leaves it to the next start.
            for (slot, row) in slots.iter().zip(&rows) {
                if let Some(log) = slot.open_log() {
                    log.remove_below(row);
                }
            }
        }
        Ok(is_written)
    }
}

impl Checkpointer {
    /// Saves what the journal has of groups that were set aside: this is the last checkpoint whose table says from
    /// where to replay it. Gives those of which it is still to be kept, and why: [`StorageError::SetAside`] while some
    /// of it is on its way into the journal; what a full disk or a journal that cannot be read says.
    fn keep_records<'a>(
        &self,
        slots: impl Iterator<Item = &'a Arc<Slot>>,
        from: ReplayFrom,
    ) -> BTreeMap<GroupId, StorageError> {
        let mut to_keep = self.to_keep.lock().expect("nothing panics while it keeps records");
        let (mut not_kept, mut below) = (BTreeMap::new(), from.sequence);
        let (mut folders, mut keeping) = (BTreeMap::new(), Vec::new());
        for slot in slots {
            let (group, row) = (slot.group, slot.checkpointed());
            if row.set_aside {
                continue;
            }
            let new = || ToKeep { below: self.journal.next_sequence(), tries: 0 };
            let own = to_keep.entry(group).or_insert_with(new).below;
            if !self.journal.is_durable_below(own) {
                not_kept.insert(group, StorageError::SetAside(group));
                continue;
            }
            // All of it is on the disk up to the highest, and none of it is of a group whose own is lower.
            below = below.max(own);
            folders.insert(group, self.root.join(row.folder()));
            keeping.push((slot, row));
        }
        if keeping.is_empty() {
            return not_kept;
        }
        let (journal, files) = (self.journal.folder(), self.journal.files());
        let mut kept = kept::keep(&*self.disk, journal, &files, from, below, &folders);
        for (slot, row) in keeping {
            let group = slot.group;
            let tries = to_keep.get(&group).map_or(0, |found| found.tries) + 1;
            let (own, is_read) = match &mut kept {
                Ok(kept) => (kept.remove(&group).transpose(), true),
                Err(error) => (Err(io_error(journal, error)), false),
            };
            let told = match own {
                Ok(None) => None,
                Ok(Some(name)) => Some(format!("{name} in its folder keeps what the journal had of it")),
                Err(OpenError::Io { operation, path, source }) if is_passing(&source) => {
                    not_kept.insert(group, StorageError::Io { operation, path, source });
                    continue;
                }
                // What is damaged now may be whole when it is read again, and it is the only copy.
                Err(OpenError::Io { operation, path, source }) if !is_read && tries < KEEPING_TRIES => {
                    to_keep.entry(group).and_modify(|found| found.tries = tries);
                    not_kept.insert(group, StorageError::Io { operation, path, source });
                    continue;
                }
                Err(error) => Some(format!("what the journal had of it cannot be kept: {error}")),
            };
            if let Some(told) = told {
                self.writer.damaged(group, format!("the partition {} is set aside; {told}", row.folder()));
            }
            to_keep.remove(&group);
        }
        not_kept
    }

    /// Syncs the logs that are open, many at once, and gives every group's row. Relaxed logs come first: nothing else
    /// has what they hold.
    fn capture(&self, slots: &[Arc<Slot>], at_most: Option<Duration>) -> Vec<Result<GroupRow, StorageError>> {
        let begin = self.runtime.now();
        let in_time = || at_most.is_none_or(|at_most| self.runtime.now() - begin <= at_most);
        let rows: Vec<OnceLock<_>> = slots.iter().map(|_| OnceLock::new()).collect();
        let mut open = Vec::new();
        for (number, (slot, row)) in slots.iter().zip(&rows).enumerate() {
            match slot.open_log() {
                Some(log) => open.push((number, log)),
                None => drop(row.set(closed_row(slot))),
            }
        }
        open.sort_by_key(|(_, log)| log.options().flush != FlushMode::Relaxed);
        self.runtime.parallel(SYNCS_AT_ONCE, open.len(), &|at| {
            let (number, log) = &open[at];
            let slot = &slots[*number];
            let row = if in_time() { log.sync_segments() } else { Err(StorageError::LogClosed(slot.group)) };
            drop(rows[*number].set(row.map(|row| slot.captured(row))));
        });
        rows.into_iter().map(|row| row.into_inner().expect("each group's row was set once above")).collect()
    }
}

/// Why the journal in a folder could not be read, as the error of a read.
fn io_error(journal: &Path, error: &OpenError) -> OpenError {
    match error {
        OpenError::Io { operation, path, source } => {
            OpenError::Io { operation, path: path.clone(), source: source.clone() }
        }
        damage => OpenError::io("read", journal, io::Error::new(io::ErrorKind::InvalidData, damage.to_string())),
    }
}

/// One more reason to keep files. What a disk says must not be forgotten for another: nothing else asks for the
/// checkpoint that is to follow when it does better.
fn hold_back(held_back: &mut Option<StorageError>, why: StorageError) {
    if !matches!(held_back, Some(StorageError::Io { .. })) {
        *held_back = Some(why);
    }
}

/// The row of a group whose log is not open.
fn closed_row(slot: &Slot) -> Result<GroupRow, StorageError> {
    match slot.folder() {
        Some(_) => Ok(slot.checkpointed()),
        // Its deletion is not durable yet. Should it not become so, the records are needed.
        None => Err(StorageError::LogClosed(slot.group)),
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
