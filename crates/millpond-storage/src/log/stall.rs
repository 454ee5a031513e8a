//! What becomes of a log whose segments cannot be written.
//!
//! A disk that is full, or a process that has too many files open, will do better later: the log *stalls*. Its batches
//! stay in the tail cache, new ones of producers are refused, what waits for the writer is told so, and the writer
//! tries again, less often each time. Whatever else a write says is as final as a failed sync: the copy is *set aside*.
//! Other logs go on either way.

use std::io::ErrorKind;
use std::sync::Arc;

use super::Log;
use super::state::{LogState, RelaxedAck};
use crate::StorageError;
use crate::types::Done;

/// The longest pause between two tries, in calls of [`DataDir::retry_writes`](crate::DataDir::retry_writes).
const LONGEST_PAUSE: u32 = 8;

/// Why the segments of a log cannot be written now.
pub(crate) struct Stall {
    why: Arc<StorageError>,
    /// What was unwritten when it began, as the tail cache counts it.
    dirty_bytes: u64,
    /// Calls between two tries, and how many of them are left.
    pause: u32,
    left: u32,
}

impl Stall {
    /// What the tail cache was told.
    pub(super) fn dirty_bytes(&self) -> u64 {
        self.dirty_bytes
    }
}

impl StorageError {
    /// Whether the same operation may do better later, though nothing but this process or its operator changes: no
    /// room, too many open files, no permission.
    pub fn is_passing(&self) -> bool {
        let StorageError::Io { source, .. } = self else { return false };
        is_passing(source)
    }
}

/// Linux: too many open files, of the system and of the process.
const TOO_MANY_FILES: [i32; 2] = [23, 24];

/// Whether a file or folder could not be opened because too many are.
pub(crate) fn is_too_many_files(error: &std::io::Error) -> bool {
    error.raw_os_error().is_some_and(|code| TOO_MANY_FILES.contains(&code))
}

/// See [`StorageError::is_passing`].
pub(crate) fn is_passing(error: &std::io::Error) -> bool {
    let passing = [
        ErrorKind::StorageFull,
        ErrorKind::QuotaExceeded,
        ErrorKind::OutOfMemory,
        ErrorKind::Interrupted,
        ErrorKind::PermissionDenied,
        ErrorKind::ReadOnlyFilesystem,
    ];
    passing.contains(&error.kind()) || is_too_many_files(error)
}

impl LogState {
    /// Why its own segments cannot be written.
    fn stalled_itself(&self, log: &Log) -> Option<StorageError> {
        let why = self.stall.as_ref().map(|stall| stall.why.clone());
        why.map(|why| StorageError::Stalled { group: log.identity.group, why })
    }

    /// Why producers are refused. A log whose segments can be written takes more until the batches of those that cannot
    /// fill the cache, or their records the journal.
    fn stalled(&self, log: &Log) -> Option<StorageError> {
        self.stalled_itself(log).or_else(|| {
            let full = if log.context.cache.is_stalled() { log.context.writer.why_stalled() } else { None };
            let why = full.or_else(|| log.context.journal.why_stuck());
            why.map(|why| StorageError::Stalled { group: log.identity.group, why })
        })
    }

    /// Nothing of the log is written or read any more, and its batches count nowhere.
    fn put_aside(&mut self, log: &Log) {
        self.set_aside = true;
        self.failed.get_or_insert(StorageError::SetAside(log.identity.group));
        self.end_stall(log);
        let cost = self.tail.drain(..).map(|cached| cached.cost).sum();
        log.context.cache.removed(cost, std::mem::take(&mut self.dirty_bytes));
    }

    pub(super) fn end_stall(&mut self, log: &Log) {
        if let Some(stall) = self.stall.take() {
            log.context.cache.resumed(stall.dirty_bytes);
        }
    }

    /// Takes the appends that wait for the writer alone. What the journal or a checkpoint will answer stays, and so
    /// does all order.
    fn take_waiting(&mut self) -> Vec<Done> {
        let acks = std::mem::take(&mut self.relaxed_acks);
        let unwritten = self.next_unwritten;
        let waits = |ack: &RelaxedAck| ack.journal.is_none() && ack.synced.is_none() && ack.until > unwritten;
        let (alone, kept): (Vec<_>, Vec<_>) = acks.into_iter().partition(waits);
        self.relaxed_acks = kept.into();
        alone.into_iter().map(|ack| ack.done).collect()
    }
}

impl Log {
    /// Why producers' batches are refused for now: the segments cannot be written. `None` while they can.
    pub fn stalled(&self) -> Option<StorageError> {
        self.state().stalled(self)
    }

    /// Why its own segments cannot be written for now.
    pub(crate) fn stalled_itself(&self) -> Option<StorageError> {
        self.state().stalled_itself(self)
    }

    /// Refuses a producer's batch where [`Log::stalled`] does.
    pub(super) fn check_stalled(&self, state: &LogState) -> Result<(), StorageError> {
        state.stalled(self).map_or(Ok(()), Err)
    }

    /// A step of writing or syncing failed: stalls the log or sets it aside, and tells those who wait for the writer.
    /// Gives the error as the rest of the directory is to see it. No mutex of the log may be held.
    pub(crate) fn write_failed(&self, error: StorageError) -> StorageError {
        let (told, waiting, first) = {
            let mut state = self.state();
            if state.recovery.is_some() && (error.is_passing() || matches!(error, StorageError::Corrupt { .. })) {
                // The log is not in use yet: its opening fails, and whoever opens it decides.
                return error;
            }
            let was = (state.set_aside, state.stall.is_some());
            let told = match &error {
                _ if error.is_passing() => {
                    let why = Arc::new(error.clone());
                    match &mut state.stall {
                        Some(stall) => {
                            stall.why = why;
                            stall.pause = (stall.pause * 2).min(LONGEST_PAUSE);
                            stall.left = stall.pause;
                        }
                        None => {
                            let dirty_bytes = state.dirty_bytes;
                            self.context.cache.stalled(dirty_bytes);
                            state.stall = Some(Stall { why, dirty_bytes, pause: 1, left: 1 });
                        }
                    }
                    state.stalled_itself(self).unwrap_or(error.clone())
                }
                StorageError::Io { .. } | StorageError::Corrupt { .. } | StorageError::SetAside(_) => {
                    state.put_aside(self);
                    StorageError::SetAside(self.identity.group)
                }
                // A truncation on its way, or the end of the log: nobody's fault, and told elsewhere.
                _ => return error,
            };
            let first = was != (state.set_aside, state.stall.is_some());
            let waiting = match (&told, first) {
                (StorageError::SetAside(_), _) => state.relaxed_acks.drain(..).map(|ack| ack.done).collect(),
                (_, true) => state.take_waiting(),
                (_, false) => Vec::new(),
            };
            (told, waiting, first)
        };
        if let Some(log) = self.me.upgrade() {
            self.context.writer.failed(&log, &told, first.then_some(&error));
        }
        for done in waiting {
            done(Err(told.clone()));
        }
        if matches!(told, StorageError::SetAside(_)) { told } else { error }
    }

    /// A sync failed, which is final whatever it said. Gives [`StorageError::SetAside`]; who waits is told by
    /// [`Log::write_failed`].
    pub(super) fn sync_failed(&self, error: StorageError) -> StorageError {
        let aside = StorageError::SetAside(self.identity.group);
        self.state().put_aside(self);
        if let Some(log) = self.me.upgrade() {
            self.context.writer.failed(&log, &aside, Some(&error));
        }
        aside
    }

    /// Everything was written that was to be written.
    pub(super) fn write_succeeded(&self) {
        self.state().end_stall(self);
    }

    /// Whether it is this stalled log's turn to be tried again, now that it was asked once more. A log that is not
    /// stalled need not be asked any more.
    pub(crate) fn is_due(&self) -> bool {
        let mut state = self.state();
        let Some(stall) = &mut state.stall else { return true };
        stall.left = stall.left.saturating_sub(1);
        stall.left == 0
    }

    /// Whether the writer should leave the log alone until it is its turn.
    pub(crate) fn is_waiting(&self) -> bool {
        self.state().stall.as_ref().is_some_and(|stall| stall.left > 0)
    }

    /// Calls `done` when all that the log holds now is flushed: what was answered with [`StorageError::Stalled`] is in
    /// the log still, and counts when it is written; where batches are not journaled, when it is synced.
    pub fn notify_flushed(&self, done: Done) {
        let (refused, wants_checkpoint) = {
            let mut state = self.state();
            match self.check_open(&state) {
                Ok(()) => {
                    let until = state.next_index();
                    // What was refused may have been a membership.
                    let synced = state.unjournaled;
                    state.relaxed_acks.push_back(RelaxedAck { until, journal: None, synced, done });
                    (None, state.awaits_checkpoint())
                }
                Err(error) => (Some((done, error)), false),
            }
        };
        match refused {
            Some((done, error)) => done(Err(error)),
            None => {
                if let Some(log) = self.me.upgrade() {
                    self.context.writer.dirty(&log, true);
                }
                if wants_checkpoint {
                    self.context.want_checkpoint();
                }
            }
        }
    }
}
