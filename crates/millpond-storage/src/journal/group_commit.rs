//! Group commit: all that was submitted while the last sync ran is the next round, and one sync makes it durable.
//!
//! Order: records get their sequence numbers in [`JournalHandle::submit`], are written in that order, and their `done`
//! is called in that order, after the sync that covers them. When a round goes on in a second file, the first is synced
//! before the second is written: a record in a file proves that all earlier files are complete.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};

use bytes::BytesMut;
use millpond_runtime::{Driver, File, Round, Rounds, Runtime};

use super::file::{FILE_HEADER_BYTES, path_of};
use super::placing::{PlaceRound, Placement, Segments, SyncCost};
use super::record::JournalEntry;
use super::recycle::{self, FileRounds, Maker};
use super::round::{CommitRound, CurrentFile, Pending};
use crate::options::StorageOptions;
use crate::stats::{JournalCounters, StorageStats};
use crate::types::Done;
use crate::{OpenError, StorageError};

/// Called once, when the journal can no longer be written.
pub(crate) type OnFatal = Arc<dyn Fn(&StorageError) + Send + Sync>;

/// What the journal begins with, as recovery found it.
pub(crate) struct JournalStart {
    /// The data directory (for messages).
    pub(crate) root: PathBuf,
    /// The folder of the journal's files; it exists.
    pub(crate) folder: PathBuf,
    /// The sequence number of the next record.
    pub(crate) next_sequence: u64,
    /// A file number above all that were ever used.
    pub(crate) next_number: u64,
    /// Files with records that `groups.table` does not cover yet, oldest first.
    pub(crate) written: Vec<u64>,
    /// Files that may be recycled.
    pub(crate) free: Vec<u64>,
}

/// The journal, as logs and the data directory use it. Clones name the same journal.
#[derive(Clone)]
pub(crate) struct JournalHandle(pub(super) Arc<Journal>);

pub(super) struct Journal {
    pub(super) runtime: Runtime,
    pub(super) root: PathBuf,
    pub(super) folder: PathBuf,
    pub(super) file_bytes: u64,
    pub(super) max_files: u32,
    max_batch_bytes: u64,
    segment_sync_bytes: u64,
    pub(super) counters: JournalCounters,
    state: Mutex<State>,
    pub(super) flush: OnceLock<Driver>,
    pub(super) files: OnceLock<Driver>,
    request_checkpoint: OnceLock<Box<dyn Fn() + Send + Sync>>,
    /// Whether [`State::stuck`] is set.
    is_stuck: AtomicBool,
    on_fatal: OnFatal,
}

pub(super) struct State {
    next_sequence: u64,
    /// Records below this one are on the disk.
    durable_below: u64,
    pub(super) pending: VecDeque<Pending>,
    pub(super) pending_bytes: u64,
    /// What the last round did to the front of `pending`.
    pub(super) placement: Option<Placement>,
    pub(super) sync_cost: SyncCost,
    pub(super) current: CurrentFile,
    /// Full files that the table does not cover yet, oldest first.
    pub(super) written: VecDeque<u64>,
    /// Files to switch to, in the order of their numbers.
    pub(super) ready: VecDeque<ReadyFile>,
    pub(super) maker: Maker,
    /// Set while the flush waits for a file.
    starved: bool,
    /// Why it may wait for long.
    stuck: Option<Arc<StorageError>>,
    /// A round that found no room: the next one, as it is, once `try_again` is set. A file that a start has made is
    /// filled by its records, so that this is no damage.
    parked: Option<CommitRound>,
    try_again: bool,
    pub(super) failed: Option<StorageError>,
    closed: bool,
    pub(super) scratch: BytesMut,
}

pub(super) struct ReadyFile {
    pub(super) number: u64,
    /// Random, see [`FileHeader::salt`].
    pub(super) salt: u32,
    pub(super) file: Arc<dyn File>,
}

impl JournalHandle {
    /// Takes a file to write to and starts the journal's drivers. Blocking.
    pub(crate) fn start(
        runtime: &Runtime,
        options: &StorageOptions,
        start: JournalStart,
        on_fatal: OnFatal,
    ) -> Result<JournalHandle, OpenError> {
        let (first, maker) = recycle::first_file(runtime, options, &start)?;
        let journal = Arc::new(Journal {
            runtime: runtime.clone(),
            root: start.root,
            folder: start.folder,
            file_bytes: options.journal_file_bytes,
            max_files: options.journal_files,
            max_batch_bytes: options.max_batch_bytes(),
            segment_sync_bytes: options.segment_sync_bytes,
            counters: JournalCounters::default(),
            state: Mutex::new(State {
                next_sequence: start.next_sequence,
                durable_below: start.next_sequence,
                pending: VecDeque::new(),
                pending_bytes: 0,
                placement: None,
                sync_cost: SyncCost::default(),
                current: CurrentFile::new(first.ready, first.soft_limit, options.journal_file_bytes),
                written: start.written.into(),
                ready: VecDeque::new(),
                maker,
                starved: false,
                stuck: None,
                parked: None,
                try_again: false,
                failed: None,
                closed: false,
                scratch: BytesMut::new(),
            }),
            flush: OnceLock::new(),
            files: OnceLock::new(),
            request_checkpoint: OnceLock::new(),
            is_stuck: AtomicBool::new(false),
            on_fatal,
        });
        journal.flush.get_or_init(|| runtime.drive("journal", Arc::new(FlushRounds(journal.clone()))));
        journal.files.get_or_init(|| runtime.drive("journal-files", Arc::new(FileRounds(journal.clone()))));
        Ok(JournalHandle(journal))
    }

    /// Tells the journal whom to ask for a checkpoint. Called once, before the first submit.
    pub(crate) fn set_checkpoint(&self, request: impl Fn() + Send + Sync + 'static) {
        let set = self.0.request_checkpoint.set(Box::new(request));
        assert!(set.is_ok(), "the data directory sets this once");
    }

    /// Appends an entry. `done` is called on the journal's driver when it is durable or never will be.
    ///
    /// # Errors
    ///
    /// When the journal failed or is closed, or the batch is too long; `done` is dropped then.
    pub(crate) fn submit(&self, entry: JournalEntry, done: Option<Done>) -> Result<(), StorageError> {
        self.submit_all([entry], done)
    }

    /// Appends entries side by side; `done` is called when the last of them is durable. Nothing is appended on an
    /// error. There must be one at least.
    pub(crate) fn submit_all<I>(&self, entries: I, done: Option<Done>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = JournalEntry> + AsRef<[JournalEntry]>,
    {
        self.submit_from(entries, None, done)
    }

    /// As [`JournalHandle::submit_all`]; batches may be synced in these segments instead of being written here.
    pub(crate) fn submit_from<I>(
        &self,
        entries: I,
        segments: Option<Weak<dyn Segments>>,
        done: Option<Done>,
    ) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = JournalEntry> + AsRef<[JournalEntry]>,
    {
        let journal = &*self.0;
        assert!(!entries.as_ref().is_empty(), "`done` belongs to an entry");
        for entry in entries.as_ref() {
            journal.check_size(entry)?;
        }
        {
            let mut state = journal.lock();
            if let Some(error) = &state.failed {
                return Err(error.clone());
            }
            if state.closed {
                return Err(StorageError::Closed(journal.root.clone()));
            }
            for entry in entries {
                let (sequence, bytes) = (state.next_sequence, entry.record_bytes());
                state.next_sequence += 1;
                state.pending_bytes += bytes;
                let segments = segments.clone();
                state.pending.push_back(Pending { entry, sequence, bytes, done: None, segments, refused: None });
            }
            state.pending.back_mut().expect("an entry was just appended").done = done;
        }
        journal.wake_flush();
        Ok(())
    }

    /// The sequence number that the next submitted entry gets.
    pub(crate) fn next_sequence(&self) -> u64 {
        self.0.lock().next_sequence
    }

    /// Whether all records below this one are on the disk.
    pub(crate) fn is_durable_below(&self, sequence: u64) -> bool {
        self.0.lock().durable_below >= sequence
    }

    /// The folder of its files.
    pub(crate) fn folder(&self) -> &Path {
        &self.0.folder
    }

    /// The files that hold records which the table does not cover, oldest first.
    pub(crate) fn files(&self) -> Vec<u64> {
        let state = self.0.lock();
        state.written.iter().copied().chain([state.current.number]).collect()
    }

    /// The longest batch that can be submitted, in bytes.
    pub(crate) fn max_batch_bytes(&self) -> u64 {
        self.0.max_batch_bytes
    }

    /// The file that is written to now and the next sequence number: a checkpoint that captures its rows after this
    /// call covers every record before that sequence number, and so every file before that file.
    pub(crate) fn position(&self) -> Result<(u64, u64), StorageError> {
        let state = self.0.lock();
        match &state.failed {
            Some(error) => Err(error.clone()),
            None => Ok((state.current.number, state.next_sequence)),
        }
    }

    /// A file number that is above all files there are or will be: the journal position of a clean stop.
    pub(crate) fn number_after_all(&self) -> u64 {
        self.0.lock().maker.next_number
    }

    /// The table is durable and covers all files before `number`: they may be recycled.
    pub(crate) fn free_before(&self, number: u64) {
        self.0.free_before(number);
    }

    /// A checkpoint could free no file, because of `held_back`. If the flush waits for one, the journal may have one
    /// more for now, up to twice the configured number. There is no such limit while all that holds checkpoints back is
    /// `queued`, a deletion or truncation in the queue: each file lent brings it nearer, and the queue is bounded.
    ///
    /// When no more may be lent, or none can be made, the journal is stuck until something goes better at a
    /// [`JournalHandle::retry`]. False if it will not, because it is being closed.
    pub(crate) fn lend_file(&self, held_back: &StorageError, queued: bool) -> bool {
        let journal = &self.0;
        {
            let mut state = journal.lock();
            // One that is being made, or could be, comes first: checkpoints may be held back several times meanwhile.
            if !state.starved || !state.maker.is_idle(journal.max_files) {
                return true;
            }
            let blocked = state.maker.blocked.as_ref().map(|blocked| blocked.why.clone());
            let used_up = state.maker.lent >= journal.max_files && !queued;
            if blocked.is_some() || used_up {
                let is_last = state.maker.lent >= journal.max_files;
                if !state.closed {
                    journal.stick(&mut state, blocked.unwrap_or_else(|| held_back.clone()));
                    return true;
                }
                if is_last {
                    return false;
                }
            }
            state.maker.lent += 1;
            state.maker.blocked = None;
        }
        journal.wake_files();
        true
    }

    /// Why the journal waits for a file that it may not get: what is submitted now waits, too. Cheap while it does not.
    pub(crate) fn why_stuck(&self) -> Option<Arc<StorageError>> {
        let journal = &self.0;
        if journal.is_stuck.load(Ordering::Acquire) { journal.lock().stuck.clone() } else { None }
    }

    /// Lets the journal try again to make a file or to write a round, if it could not, and gives why it could not.
    pub(crate) fn retry(&self) -> Option<StorageError> {
        let why = {
            let mut state = self.0.lock();
            let blocked = state.maker.blocked.take().map(|blocked| blocked.why);
            let parked = state.parked.is_some().then(|| state.stuck.clone()).flatten();
            state.try_again |= state.parked.is_some();
            blocked.or_else(|| parked.map(|why| (*why).clone()))?
        };
        self.0.wake_files();
        self.0.wake_flush();
        Some(why)
    }

    /// Ends the journal as after a failed sync: something else that must be durable cannot be made so.
    pub(crate) fn fail(&self, error: StorageError) {
        self.0.fail(error);
    }

    /// Whether a checkpoint would help the journal now.
    pub(crate) fn wants_checkpoint(&self) -> bool {
        let state = self.0.lock();
        self.0.wants_checkpoint(&state, state.starved)
    }

    /// Takes no more entries, stops both drivers and writes what is pending. Blocking. When the flush needs a free
    /// file,
    /// `checkpoint` is called to get one.
    pub(crate) fn close(&self, checkpoint: impl Fn() -> Result<(), StorageError>) -> Result<(), StorageError> {
        let journal = &self.0;
        journal.lock().closed = true;
        self.stop();
        let (flush, files) = (FlushRounds(journal.clone()), FileRounds(journal.clone()));
        let mut tried_again = false;
        loop {
            while run_one(&flush) {}
            let parked = journal.lock().parked.is_some();
            if parked && tried_again {
                journal.fail(journal.failure(std::io::ErrorKind::StorageFull.into()));
                continue;
            }
            if parked {
                tried_again = true;
                journal.lock().try_again = true;
                continue;
            }
            let starved = {
                let state = journal.lock();
                if let Some(error) = &state.failed {
                    return Err(error.clone());
                }
                if state.pending.is_empty() {
                    return Ok(());
                }
                state.written.front().is_some_and(|_| state.maker.is_idle(journal.max_files))
            };
            if starved {
                checkpoint()?;
            }
            if !run_one(&files) && !starved {
                // There is no file, and no way to one.
                let error = journal.failure(std::io::ErrorKind::StorageFull.into());
                journal.fail(error);
            }
        }
    }

    /// Stops the drivers and leaves what is pending undone.
    pub(crate) fn stop(&self) {
        for driver in [&self.0.flush, &self.0.files] {
            if let Some(driver) = driver.get() {
                driver.stop();
            }
        }
    }

    /// Gives up the round that waits for room: it holds on to the journal.
    pub(crate) fn give_up(&self) {
        let parked = self.0.lock().parked.take();
        drop(parked);
    }

    /// Bytes of the files that the journal may still make: they take disk space only when it is used.
    pub(crate) fn unmade_bytes(&self) -> u64 {
        let made = self.0.lock().maker.total;
        u64::from(self.0.max_files.saturating_sub(made)) * self.0.file_bytes
    }

    /// Adds the journal's figures.
    pub(crate) fn read_stats(&self, stats: &mut StorageStats) {
        self.0.counters.read(stats);
        stats.journal_pending_bytes = self.0.lock().pending_bytes;
    }
}

fn run_one(rounds: &dyn Rounds) -> bool {
    let Some(mut round) = rounds.take() else { return false };
    round.run();
    round.complete();
    true
}

impl Journal {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds the journal's lock")
    }

    fn check_size(&self, entry: &JournalEntry) -> Result<(), StorageError> {
        let bytes = entry.record_bytes();
        if FILE_HEADER_BYTES as u64 + bytes <= self.file_bytes && bytes <= u64::from(u32::MAX) {
            return Ok(());
        }
        let overhead = super::record::RECORD_HEADER_BYTES as u64;
        Err(StorageError::BatchTooLarge { bytes: bytes - overhead, limit: self.max_batch_bytes })
    }

    pub(super) fn wake_flush(&self) {
        if let Some(driver) = self.flush.get() {
            driver.wake();
        }
    }

    pub(super) fn wake_files(&self) {
        if let Some(driver) = self.files.get() {
            driver.wake();
        }
    }

    pub(super) fn path_of(&self, number: u64) -> PathBuf {
        path_of(&self.folder, number)
    }

    fn ask_for_checkpoint(&self) {
        if let Some(request) = self.request_checkpoint.get() {
            request();
        }
    }

    fn free_before(&self, number: u64) {
        {
            let state = &mut *self.lock();
            while let Some(oldest) = state.written.front().copied().filter(|oldest| *oldest < number) {
                state.written.pop_front();
                state.maker.free.push_back(oldest);
            }
            state.maker.lent = 0;
            self.go_on(state);
        }
        self.wake_files();
    }

    fn stick(&self, state: &mut State, why: StorageError) {
        state.stuck = Some(Arc::new(why));
        self.is_stuck.store(true, Ordering::Release);
    }

    /// A round could not be written: it is the next one, whatever comes.
    pub(super) fn park(&self, round: CommitRound, error: std::io::Error) {
        let mut state = self.lock();
        self.stick(&mut state, StorageError::io("write", &self.folder, error));
        state.parked = Some(round);
        state.try_again = false;
    }

    /// A round is on the disk, and with it all records below `below`, if it wrote any.
    pub(super) fn round_is_written(&self, below: Option<u64>, bytes: u64, micros: u64, scratch: Option<BytesMut>) {
        let mut state = self.lock();
        state.durable_below = state.durable_below.max(below.unwrap_or(0));
        state.sync_cost.count(bytes, micros);
        if let Some(scratch) = scratch {
            state.scratch = scratch;
        }
        if !state.starved {
            self.go_on(&mut state);
        }
    }

    /// There is a file, or will be.
    pub(super) fn go_on(&self, state: &mut State) {
        if state.stuck.take().is_some() {
            self.is_stuck.store(false, Ordering::Release);
        }
    }

    pub(super) fn fail(&self, error: StorageError) {
        let first = {
            let mut state = self.lock();
            let first = state.failed.is_none();
            state.failed.get_or_insert_with(|| error.clone());
            first
        };
        if first {
            (self.on_fatal)(&error);
        }
        self.wake_flush();
    }

    pub(super) fn failure(&self, source: std::io::Error) -> StorageError {
        StorageError::JournalFailed { path: self.root.clone(), source: Arc::new(source) }
    }

    /// A checkpoint is started while several files are still in hand, so that the flush need not wait for it.
    fn wants_checkpoint(&self, state: &State, starved: bool) -> bool {
        let full = state.written.len() as u64;
        full * 8 >= u64::from(self.max_files) * 3 || (starved && full > 0)
    }
}

/// Where the flush driver gets its rounds.
struct FlushRounds(Arc<Journal>);

impl Rounds for FlushRounds {
    fn take(&self) -> Option<Box<dyn Round>> {
        let journal = &self.0;
        let mut guard = journal.lock();
        let state = &mut *guard;
        if let Some(round) = state.parked.take() {
            if state.failed.is_none() && !state.try_again {
                state.parked = Some(round);
                return None;
            }
            state.try_again = false;
            if let Some(error) = state.failed.clone() {
                return Some(Box::new(CommitRound::refused(journal.clone(), round.into_entries(), error)));
            }
            return Some(Box::new(round));
        }
        if state.pending.is_empty() {
            return None;
        }
        if let Some(error) = state.failed.clone() {
            let entries = state.pending.drain(..).collect();
            state.pending_bytes = 0;
            return Some(Box::new(CommitRound::refused(journal.clone(), entries, error)));
        }
        if state.placement.is_none()
            && let Some(round) = PlaceRound::of(journal, state, journal.segment_sync_bytes)
        {
            return Some(round);
        }
        let plan = state.plan();
        let ask = (plan.switched || plan.starved) && journal.wants_checkpoint(state, plan.starved);
        if plan.starved && !state.starved {
            journal.counters.waited();
        }
        state.starved = plan.starved;
        let make = state.wants_file();
        let switched = plan.switched;
        let round = CommitRound::of(journal, plan, &mut state.scratch);
        drop(guard);
        if switched {
            journal.counters.switched();
        }
        if ask {
            journal.ask_for_checkpoint();
        }
        if make {
            journal.wake_files();
        }
        round
    }
}

impl State {
    /// Whether the maker should look for work: a file to recycle costs little and is taken at once; a new one is
    /// filled only when the journal is in use, so that an idle broker writes nothing.
    pub(super) fn wants_file(&self) -> bool {
        self.ready.len() < recycle::READY_FILES
            && (self.starved || !self.maker.free.is_empty() || self.current.position * 4 >= self.current.soft_limit)
    }
}

/// For messages about a file of the journal.
pub(super) fn io_error(operation: &'static str, path: &Path, error: std::io::Error) -> OpenError {
    OpenError::io(operation, path, error)
}
