//! Group commit: all that was submitted while the last sync ran is the next round, and one sync makes it durable.
//!
//! Order: records get their sequence numbers in [`JournalHandle::submit`], are written in that order, and their `done`
//! is called in that order, after the sync that covers them. When a round goes on in a second file, the first is synced
//! before the second is written: a record in a file proves that all earlier files are complete.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use bytes::{BufMut, Bytes, BytesMut};
use millpond_runtime::{Driver, File, Round, Rounds, Runtime};

use super::file::{FILE_HEADER_BYTES, FileHeader, path_of};
use super::record::{JournalEntry, Place, encode};
use super::recycle::{self, FileRounds, Maker};
use crate::options::StorageOptions;
use crate::stats::{JournalCounters, StorageStats};
use crate::types::Done;
use crate::{OpenError, StorageError};

/// A round takes at most this many bytes, so that its latency and the memory it pins are bounded.
const MAX_ROUND_BYTES: u64 = 64 << 20;

/// A batch's tail up to this length is copied behind its header: one more slice for the kernel costs more.
const COPY_TAIL_BYTES: usize = 1024;

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
    pub(super) counters: JournalCounters,
    state: Mutex<State>,
    pub(super) flush: OnceLock<Driver>,
    pub(super) files: OnceLock<Driver>,
    request_checkpoint: OnceLock<Box<dyn Fn() + Send + Sync>>,
    on_fatal: OnFatal,
}

pub(super) struct State {
    next_sequence: u64,
    pending: VecDeque<Pending>,
    pending_bytes: u64,
    current: CurrentFile,
    /// Full files that the table does not cover yet, oldest first.
    pub(super) written: VecDeque<u64>,
    /// Files to switch to, in the order of their numbers.
    pub(super) ready: VecDeque<ReadyFile>,
    pub(super) maker: Maker,
    /// Set while the flush waits for a file.
    starved: bool,
    pub(super) failed: Option<StorageError>,
    closed: bool,
    scratch: BytesMut,
}

pub(super) struct ReadyFile {
    pub(super) number: u64,
    /// Random, see [`FileHeader::salt`].
    pub(super) salt: u32,
    pub(super) file: Arc<dyn File>,
}

struct CurrentFile {
    number: u64,
    salt: u32,
    file: Arc<dyn File>,
    /// 0 until the header is written with the first records.
    position: u64,
    /// From here on the journal switches as soon as there is a file to switch to.
    soft_limit: u64,
    hard_limit: u64,
}

struct Pending {
    entry: JournalEntry,
    sequence: u64,
    bytes: u64,
    done: Option<Done>,
}

/// What a round writes into one file.
struct Part {
    number: u64,
    salt: u32,
    file: Arc<dyn File>,
    header: Option<FileHeader>,
    position: u64,
    entries: Range<usize>,
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
            counters: JournalCounters::default(),
            state: Mutex::new(State {
                next_sequence: start.next_sequence,
                pending: VecDeque::new(),
                pending_bytes: 0,
                current: CurrentFile::new(first.ready, first.soft_limit, options.journal_file_bytes),
                written: start.written.into(),
                ready: VecDeque::new(),
                maker,
                starved: false,
                failed: None,
                closed: false,
                scratch: BytesMut::new(),
            }),
            flush: OnceLock::new(),
            files: OnceLock::new(),
            request_checkpoint: OnceLock::new(),
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

    /// Appends entries side by side; `done` is called when the last of them is durable. Nothing is appended on an error.
    /// There must be one at least.
    pub(crate) fn submit_all<I>(&self, entries: I, done: Option<Done>) -> Result<(), StorageError>
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
                state.pending.push_back(Pending { entry, sequence, bytes, done: None });
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

    /// A checkpoint could free no file. If the flush waits for one, the journal may have one more for now, up to twice the
    /// configured number; false beyond that.
    pub(crate) fn lend_file(&self) -> bool {
        let journal = &self.0;
        {
            let mut state = journal.lock();
            if !state.starved {
                return true;
            }
            if state.maker.lent >= journal.max_files {
                return false;
            }
            state.maker.lent += 1;
        }
        journal.wake_files();
        true
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

    /// Takes no more entries, stops both drivers and writes what is pending. Blocking. When the flush needs a free file,
    /// `checkpoint` is called to get one.
    pub(crate) fn close(&self, checkpoint: impl Fn() -> Result<(), StorageError>) -> Result<(), StorageError> {
        let journal = &self.0;
        journal.lock().closed = true;
        self.stop();
        let (flush, files) = (FlushRounds(journal.clone()), FileRounds(journal.clone()));
        loop {
            while run_one(&flush) {}
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
            run_one(&files);
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
        }
        self.wake_files();
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
        if state.pending.is_empty() {
            return None;
        }
        if let Some(error) = state.failed.clone() {
            let entries = state.pending.drain(..).collect();
            state.pending_bytes = 0;
            return Some(Box::new(CommitRound::refused(journal.clone(), entries, error)));
        }
        let plan = state.plan();
        let ask = (plan.switched || plan.starved) && journal.wants_checkpoint(state, plan.starved);
        if plan.starved && !state.starved {
            journal.counters.waited();
        }
        state.starved = plan.starved;
        let make = state.wants_file();
        let round = (!plan.parts.is_empty()).then(|| {
            let scratch = std::mem::take(&mut state.scratch);
            Box::new(CommitRound {
                journal: journal.clone(),
                parts: plan.parts,
                entries: plan.entries,
                bytes: plan.bytes,
                scratch,
                micros: 0,
                result: Ok(()),
            }) as Box<dyn Round>
        });
        drop(guard);
        if plan.switched {
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

#[derive(Default)]
struct Plan {
    parts: Vec<Part>,
    entries: Vec<Pending>,
    bytes: u64,
    switched: bool,
    /// The next entry fits into no file that there is.
    starved: bool,
}

impl State {
    /// Lays the pending entries out over the current file and, if there is one, the next.
    fn plan(&mut self) -> Plan {
        let mut plan = Plan::default();
        while let Some(next) = self.pending.front() {
            if !plan.entries.is_empty() && plan.bytes + next.bytes > MAX_ROUND_BYTES {
                break;
            }
            let (sequence, end) = (next.sequence, self.current.end_with(next.bytes));
            if end > self.current.hard_limit || (end > self.current.soft_limit && !self.ready.is_empty()) {
                let Some(ready) = self.ready.pop_front() else {
                    plan.starved = true;
                    break;
                };
                if self.current.position == 0 {
                    // A file that was passed over gets its header all the same.
                    self.current.begin_part(&mut plan, sequence);
                }
                self.written.push_back(self.current.number);
                let limit = self.current.hard_limit;
                self.current = CurrentFile::new(ready, limit, limit);
                plan.switched = true;
                continue;
            }
            self.current.begin_part(&mut plan, sequence);
            let next = self.pending.pop_front().expect("it was just looked at");
            self.current.position = end;
            self.pending_bytes -= next.bytes;
            plan.bytes += next.bytes;
            plan.entries.push(next);
            plan.parts.last_mut().expect("the part was just begun").entries.end = plan.entries.len();
        }
        plan
    }

    /// Whether the maker should look for work: a file to recycle costs little and is taken at once; a new one is
    /// filled only when the journal is in use, so that an idle broker writes nothing.
    pub(super) fn wants_file(&self) -> bool {
        self.ready.len() < recycle::READY_FILES
            && (!self.maker.free.is_empty() || self.current.position * 4 >= self.current.soft_limit)
    }
}

impl CurrentFile {
    fn new(ready: ReadyFile, soft_limit: u64, hard_limit: u64) -> CurrentFile {
        let ReadyFile { number, salt, file } = ready;
        CurrentFile { number, salt, file, position: 0, soft_limit, hard_limit }
    }

    fn end_with(&self, bytes: u64) -> u64 {
        self.position.max(FILE_HEADER_BYTES as u64) + bytes
    }

    /// Makes the plan's last part one of this file.
    fn begin_part(&mut self, plan: &mut Plan, sequence: u64) {
        if plan.parts.last().is_some_and(|part| part.number == self.number) {
            return;
        }
        let header = FileHeader { number: self.number, first_sequence: sequence, salt: self.salt };
        let header = (self.position == 0).then_some(header);
        let at = plan.entries.len();
        plan.parts.push(Part {
            number: self.number,
            salt: self.salt,
            file: self.file.clone(),
            header,
            position: self.position,
            entries: at..at,
        });
        self.position = self.end_with(0);
    }
}

/// One write and one sync (one of each per file).
struct CommitRound {
    journal: Arc<Journal>,
    parts: Vec<Part>,
    entries: Vec<Pending>,
    bytes: u64,
    scratch: BytesMut,
    micros: u64,
    result: Result<(), StorageError>,
}

impl CommitRound {
    fn refused(journal: Arc<Journal>, entries: Vec<Pending>, error: StorageError) -> CommitRound {
        let scratch = BytesMut::new();
        CommitRound { journal, parts: Vec::new(), entries, bytes: 0, scratch, micros: 0, result: Err(error) }
    }
}

impl Round for CommitRound {
    fn run(&mut self) {
        if self.result.is_err() {
            return;
        }
        let begin = self.journal.runtime.now();
        for part in &self.parts {
            let entries = &self.entries[part.entries.clone()];
            if let Err(error) = write_part(part, entries, &mut self.scratch) {
                self.result = Err(self.journal.failure(error));
                break;
            }
        }
        let micros = (self.journal.runtime.now() - begin).as_micros();
        self.micros = u64::try_from(micros).unwrap_or(u64::MAX);
    }

    fn complete(self: Box<Self>) {
        let CommitRound { journal, entries, bytes, scratch, micros, result, .. } = *self;
        match &result {
            Ok(()) => {
                journal.counters.round(entries.len() as u64, bytes, micros);
                journal.lock().scratch = scratch;
            }
            // Before anyone hears of it, so that nobody can submit more after having heard.
            Err(error) => journal.fail(error.clone()),
        }
        for pending in entries {
            if let Some(done) = pending.done {
                done(result.clone());
            }
        }
    }
}

/// Writes one part with one call and syncs its file.
fn write_part(part: &Part, entries: &[Pending], scratch: &mut BytesMut) -> std::io::Result<()> {
    scratch.clear();
    if let Some(header) = &part.header {
        scratch.put_slice(&header.encode());
    }
    // Where in `scratch` a batch's tail, which is not copied, belongs.
    let mut tails: Vec<(usize, &Bytes)> = Vec::new();
    for (back, pending) in entries.iter().enumerate() {
        let back = u32::try_from(back).expect("a round has fewer than 2^32 records of at least 64 bytes");
        let place = Place { file_number: part.number, salt: part.salt, sequence: pending.sequence, back };
        match encode(&pending.entry, place, scratch) {
            Some(tail) if tail.len() <= COPY_TAIL_BYTES => scratch.put_slice(tail),
            Some(tail) => tails.push((scratch.len(), tail)),
            None => {}
        }
    }
    let mut slices = Vec::with_capacity(2 * tails.len() + 1);
    let mut from = 0;
    for (at, tail) in tails {
        slices.push(IoSlice::new(&scratch[from..at]));
        slices.push(IoSlice::new(tail));
        from = at;
    }
    slices.push(IoSlice::new(&scratch[from..]));
    part.file.write_all_at(&slices, part.position)?;
    part.file.sync_data()
}

/// For messages about a file of the journal.
pub(super) fn io_error(operation: &'static str, path: &Path, error: std::io::Error) -> OpenError {
    OpenError::io(operation, path, error)
}
