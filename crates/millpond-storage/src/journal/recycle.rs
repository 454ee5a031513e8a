//! Journal files are made ahead of their use: recycled by a rename, or created and filled with zeros, because
//! overwriting written blocks syncs faster than extending a file. Off the flush driver.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

use millpond_runtime::{Disk, File, OpenMode, PlantedFault, Round, Rounds, Runtime, planted};

use super::file::path_of;
use super::group_commit::{Journal, JournalStart, ReadyFile, io_error};
use crate::OpenError;
use crate::options::StorageOptions;

/// Files that are kept ready ahead of the flush.
pub(super) const READY_FILES: usize = 2;

/// Zeros are written in pieces of this size.
const FILL_BYTES: usize = 1 << 20;

/// After so many pieces they are synced, so that no sync of the journal has to wait for all of them.
const FILL_SYNC_PIECES: u64 = 8;

/// Part of a file's size after which a journal leaves a file that was never filled, once it has a better one.
const UNFILLED_SHARE: u64 = 8;

/// What the maker of files knows. Part of the journal's state.
pub(super) struct Maker {
    /// Numbers of files that may be recycled.
    pub(super) free: VecDeque<u64>,
    /// Above all numbers that were ever used.
    pub(super) next_number: u64,
    /// Files there are, the one in the making included.
    total: u32,
    /// Files that there may be beyond the configured number, because a checkpoint could not free any.
    pub(super) lent: u32,
    busy: bool,
    /// A new file could not be filled (disk full): no other is tried until one was recycled.
    pub(super) disk_full: bool,
}

impl Maker {
    /// True when it neither makes a file nor could make one.
    pub(super) fn is_idle(&self, max_files: u32) -> bool {
        !self.busy && self.free.is_empty() && (self.total >= max_files + self.lent || self.disk_full)
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
        disk_full: false,
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
        if state.failed.is_some() || state.maker.busy || !state.wants_file() {
            return None;
        }
        let maker = &mut state.maker;
        let task = match maker.free.pop_front() {
            // Fewer files are wanted than before.
            Some(old) if maker.total > journal.max_files + maker.lent => Task::Remove { old },
            Some(old) => Task::Recycle { old, number: maker.next_number },
            None if maker.total < journal.max_files + maker.lent && !maker.disk_full => {
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

struct FileRound {
    journal: Arc<Journal>,
    task: Task,
    result: io::Result<Option<ReadyFile>>,
}

impl Round for FileRound {
    fn run(&mut self) {
        let journal = &self.journal;
        let disk = journal.runtime.disk();
        let ready = |number, file| Some(ReadyFile { number, salt: salt(&journal.runtime), file });
        let made = match self.task {
            Task::Recycle { old, number } => {
                recycle(&*disk, &journal.path_of(old), &journal.path_of(number), journal.file_bytes)
                    .map(|file| ready(number, file))
            }
            Task::Create { number } => {
                create(&*disk, &journal.path_of(number), journal.file_bytes).map(|file| ready(number, file))
            }
            Task::Remove { old } => disk.remove_file(&journal.path_of(old)).map(|()| None),
        };
        // The name must be durable before the journal writes under it.
        self.result = made.and_then(|made| disk.sync_dir(&journal.folder).map(|()| made));
    }

    fn complete(self: Box<Self>) {
        let FileRound { journal, result, .. } = *self;
        let failed = {
            let mut guard = journal.lock();
            let state = &mut *guard;
            state.maker.busy = false;
            let others = state.written.len() + state.ready.len() + state.maker.free.len();
            match result {
                Ok(Some(ready)) => {
                    state.maker.disk_full = false;
                    state.ready.push_back(ready);
                    None
                }
                Ok(None) => {
                    state.maker.total -= 1;
                    None
                }
                // The journal does with fewer files as long as there is another to come.
                Err(error) if error.kind() == io::ErrorKind::StorageFull && others > 0 => {
                    state.maker.total -= 1;
                    state.maker.disk_full = true;
                    None
                }
                Err(error) => Some(error),
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
fn recycle(disk: &dyn Disk, old: &Path, new: &Path, file_bytes: u64) -> io::Result<Arc<dyn File>> {
    disk.rename(old, new)?;
    let file = disk.open(new, OpenMode::Write)?;
    let length = file.len()?;
    if length > file_bytes {
        file.set_len(file_bytes)?;
        file.sync_all()?;
    } else if length < file_bytes {
        fill_or_remove(disk, new, &*file, length, file_bytes)?;
    }
    Ok(file)
}

/// Makes a file of zeros.
fn create(disk: &dyn Disk, path: &Path, file_bytes: u64) -> io::Result<Arc<dyn File>> {
    let file = disk.open(path, OpenMode::Create)?;
    fill_or_remove(disk, path, &*file, 0, file_bytes)?;
    Ok(file)
}

/// Writes zeros to the end. When the disk is full the file goes.
fn fill_or_remove(disk: &dyn Disk, path: &Path, file: &dyn File, from: u64, to: u64) -> io::Result<()> {
    fill(file, from, to).inspect_err(|_| {
        // The first error is the one to report; nobody needs the file's records either way.
        let _ = disk.remove_file(path);
    })
}

fn fill(file: &dyn File, from: u64, to: u64) -> io::Result<()> {
    let zeros = vec![0; FILL_BYTES.min((to - from) as usize)];
    let mut position = from;
    for piece in 1.. {
        if position == to {
            break;
        }
        let bytes = zeros.len().min((to - position) as usize);
        file.write_all_at(&[IoSlice::new(&zeros[..bytes])], position)?;
        position += bytes as u64;
        if piece % FILL_SYNC_PIECES == 0 {
            file.sync_data()?;
        }
    }
    file.sync_all()
}
