//! Journal files are made ahead of their use: recycled by a rename, or created and filled with zeros, because
//! overwriting written blocks syncs faster than extending a file. Off the flush driver.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

use millpond_runtime::{Disk, File, OpenMode, PlantedFault, Round, Rounds, Runtime, planted};

use super::file::path_of;
use super::group_commit::{Journal, JournalStart, ReadyFile, io_error};
use crate::log::is_passing;
use crate::options::StorageOptions;
use crate::{OpenError, StorageError};

/// Files that are kept ready ahead of the flush.
pub(super) const READY_FILES: usize = 2;

/// Zeros are written and synced in pieces of this size, because a sync of the journal may have to wait for one.
const FILL_BYTES: usize = 256 << 10;

/// The same while the journal has no file ready: it would have to wait longer for a file than for a piece.
const HURRIED_FILL_BYTES: usize = 8 << 20;

/// Part of a file's size after which a journal leaves a file that was never filled, once it has a better one.
const UNFILLED_SHARE: u64 = 8;

/// What the maker of files knows. Part of the journal's state.
pub(super) struct Maker {
    /// Numbers of files that may be recycled.
    pub(super) free: VecDeque<u64>,
    /// Above all numbers that were ever used.
    pub(super) next_number: u64,
    /// Files there are, the one in the making included.
    pub(super) total: u32,
    /// Files that there may be beyond the configured number, because a checkpoint could not free any.
    pub(super) lent: u32,
    busy: bool,
    /// Why the last file could not be made, though it may be possible later.
    pub(super) blocked: Option<Blocked>,
}

/// What keeps files from being made for now: a full disk, too many open files.
pub(super) struct Blocked {
    pub(super) why: StorageError,
    /// Recycling failed, too. Otherwise only new files are not tried, until one was recycled.
    recycling: bool,
}

impl Maker {
    /// True when it neither makes a file nor could make one.
    pub(super) fn is_idle(&self, max_files: u32) -> bool {
        let new = self.total < max_files + self.lent && self.blocked.is_none();
        !self.busy && !new && (self.free.is_empty() || !self.recycles())
    }

    fn recycles(&self) -> bool {
        self.blocked.as_ref().is_none_or(|blocked| !blocked.recycling)
    }
}

/// The file that a starting journal writes to.
pub(super) struct FirstFile {
    pub(super) ready: ReadyFile,
    pub(super) soft_limit: u64,
}

/// Takes the first file: a recycled one if there is one, else a new and empty one, which is not filled, because a
/// start must not wait for that. The folder is synced, so that what follows is found again under the right names.
pub(super) fn first_file(
    runtime: &Runtime,
    options: &StorageOptions,
    start: &JournalStart,
) -> Result<(FirstFile, Maker), OpenError> {
    let disk = runtime.disk();
    let total = (start.written.len() + start.free.len()) as u32;
    let mut free = VecDeque::from(start.free.clone());
    let path = path_of(&start.folder, start.next_number);
    let recycled = free.pop_front();
    let file = match recycled {
        Some(old) => disk
            .rename(&path_of(&start.folder, old), &path)
            .and_then(|()| disk.open(&path, OpenMode::Write))
            .map_err(|error| io_error("recycle", &path, error))?,
        None => disk.open(&path, OpenMode::CreateNew).map_err(|error| io_error("create", &path, error))?,
    };
    disk.sync_dir(&start.folder).map_err(|error| io_error("sync", &start.folder, error))?;
    let length = file.len().map_err(|error| io_error("read", &path, error))?;
    let soft_limit = length.clamp(options.journal_file_bytes / UNFILLED_SHARE, options.journal_file_bytes);
    let maker = Maker {
        free,
        next_number: start.next_number + 1,
        total: if recycled.is_some() { total } else { total + 1 },
        lent: 0,
        busy: false,
        blocked: None,
    };
    let ready = ReadyFile { number: start.next_number, salt: salt(runtime), file };
    Ok((FirstFile { ready, soft_limit }, maker))
}

fn salt(runtime: &Runtime) -> u32 {
    if planted(PlantedFault::StaleJournalRecord) { 0 } else { runtime.random_u64() as u32 }
}

/// Where the driver `journal-files` gets its rounds.
pub(super) struct FileRounds(pub(super) Arc<Journal>);

impl Rounds for FileRounds {
    fn take(&self) -> Option<Box<dyn Round>> {
        let journal = &self.0;
        let mut guard = journal.lock();
        let state = &mut *guard;
        if state.failed.is_some() || state.maker.busy || !state.wants_file() || !state.maker.recycles() {
            return None;
        }
        let maker = &mut state.maker;
        let task = match maker.free.pop_front() {
            // Fewer files are wanted than before.
            Some(old) if maker.total > journal.max_files + maker.lent => Task::Remove { old },
            Some(old) => Task::Recycle { old, number: maker.next_number },
            None if maker.total < journal.max_files + maker.lent && maker.blocked.is_none() => {
                maker.total += 1;
                Task::Create { number: maker.next_number }
            }
            None => return None,
        };
        maker.busy = true;
        maker.next_number += u64::from(!matches!(task, Task::Remove { .. }));
        Some(Box::new(FileRound { journal: journal.clone(), task, result: Ok(None) }))
    }
}

#[derive(Clone, Copy)]
enum Task {
    Recycle { old: u64, number: u64 },
    Create { number: u64 },
    Remove { old: u64 },
}

impl Task {
    fn number(self) -> u64 {
        match self {
            Task::Recycle { number, .. } | Task::Create { number } | Task::Remove { old: number } => number,
        }
    }
}

struct FileRound {
    journal: Arc<Journal>,
    task: Task,
    result: Result<Option<ReadyFile>, NotMade>,
}

/// Why a file was not made.
struct NotMade {
    error: io::Error,
    /// The number of the file that is there all the same, and may be recycled.
    left: Option<u64>,
}

impl Round for FileRound {
    fn run(&mut self) {
        let journal = &self.journal;
        let disk = journal.runtime.disk();
        let ready = |number, file| Some(ReadyFile { number, salt: salt(&journal.runtime), file });
        let (made, number) = match self.task {
            Task::Recycle { old, number } => {
                (recycle(&*disk, journal, old, number).map(|file| ready(number, file)), number)
            }
            Task::Create { number } => {
                let made = create(&*disk, journal, &journal.path_of(number));
                (made.map(|file| ready(number, file)).map_err(|error| NotMade { error, left: None }), number)
            }
            Task::Remove { old } => {
                let removed = disk.remove_file(&journal.path_of(old)).map(|()| None);
                (removed.map_err(|error| NotMade { error, left: Some(old) }), old)
            }
        };
        // The name must be durable before the journal writes under it.
        self.result = made.and_then(|made| match disk.sync_dir(&journal.folder) {
            Ok(()) => Ok(made),
            Err(error) => Err(NotMade { error, left: made.is_some().then_some(number) }),
        });
    }

    fn complete(self: Box<Self>) {
        let FileRound { journal, task, result } = *self;
        let failed = {
            let mut guard = journal.lock();
            let state = &mut *guard;
            state.maker.busy = false;
            match result {
                Ok(Some(ready)) => {
                    state.maker.blocked = None;
                    state.ready.push_back(ready);
                    journal.go_on(state);
                    None
                }
                Ok(None) => {
                    state.maker.total -= 1;
                    None
                }
                // The journal does with the files it has, and waits when it has none.
                Err(NotMade { error, left }) if is_passing(&error) => {
                    match left {
                        Some(number) => state.maker.free.push_front(number),
                        None => state.maker.total -= 1,
                    }
                    // A full disk has no room for a new file, and need not for a recycled one.
                    let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
                    let why = StorageError::io("make", &journal.path_of(task.number()), error);
                    state.maker.blocked = Some(Blocked { why, recycling: !full });
                    None
                }
                Err(NotMade { error, .. }) => Some(error),
            }
        };
        match failed {
            Some(error) => journal.fail(journal.failure(error)),
            None => {
                journal.wake_flush();
                journal.wake_files();
            }
        }
    }
}

/// Gives a file whose records nobody needs a new number, and the journal's file size if that has changed.
fn recycle(disk: &dyn Disk, journal: &Journal, old: u64, number: u64) -> Result<Arc<dyn File>, NotMade> {
    let new = journal.path_of(number);
    let renamed = disk.rename(&journal.path_of(old), &new);
    renamed.map_err(|error| NotMade { error, left: Some(old) })?;
    let file_bytes = journal.file_bytes;
    let opened = disk.open(&new, OpenMode::Write).and_then(|file| Ok((file.len()?, file)));
    let (length, file) = opened.map_err(|error| NotMade { error, left: Some(number) })?;
    if length > file_bytes {
        let cut = file.set_len(file_bytes).and_then(|()| file.sync_all());
        cut.map_err(|error| NotMade { error, left: Some(number) })?;
    } else if length < file_bytes {
        let filled = fill_or_remove(disk, journal, &new, &*file, length);
        filled.map_err(|error| NotMade { error, left: None })?;
    }
    Ok(file)
}

/// Makes a file of zeros.
fn create(disk: &dyn Disk, journal: &Journal, path: &Path) -> io::Result<Arc<dyn File>> {
    let file = disk.open(path, OpenMode::Create)?;
    fill_or_remove(disk, journal, path, &*file, 0)?;
    Ok(file)
}

/// Writes zeros to the end. When the disk is full the file goes.
fn fill_or_remove(disk: &dyn Disk, journal: &Journal, path: &Path, file: &dyn File, from: u64) -> io::Result<()> {
    let hurried = || journal.lock().ready.is_empty();
    fill(file, from, journal.file_bytes, hurried).inspect_err(|_| {
        // The first error is the one to report; nobody needs the file's records either way.
        let _ = disk.remove_file(path);
    })
}

fn fill(file: &dyn File, from: u64, to: u64, hurried: impl Fn() -> bool) -> io::Result<()> {
    let zeros = vec![0; FILL_BYTES];
    let mut position = from;
    while position < to {
        let piece = if hurried() { HURRIED_FILL_BYTES } else { FILL_BYTES };
        let until = to.min(position + piece as u64);
        while position < until {
            let bytes = zeros.len().min((until - position) as usize);
            file.write_all_at(&[IoSlice::new(&zeros[..bytes])], position)?;
            position += bytes as u64;
        }
        file.sync_data()?;
    }
    file.sync_all()
}
