//! From memory to the segment files: write-behind, cuts, syncs, producer snapshots.
//!
//! All of it happens under the log's file mutex, one step at a time. A step is taken from the state, done without the
//! state's mutex, and then told to the state, which ignores it if the log was truncated meanwhile: the files are cut
//! before the next step.

use std::io::IoSlice;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, TryLockError};

use millpond_record::{FilePosition, LogId, RaftIndex, StampedBatch};
use millpond_runtime::write_atomically;

use super::Log;
use super::cold::ColdPlan;
use super::file_state::{FileState, Unsynced};
use super::stall::is_too_many_files;
use super::state::{Cut, LogState};
use crate::StorageError;
use crate::index::{INDEX_HEADER_BYTES, IndexEntry, IndexHeader, Trailer, entry_position};
use crate::journal::Segments;
use crate::segment::{Segment, SegmentError, SegmentFile, SegmentFiles, SegmentName};
use crate::types::{Done, FlushMode, GroupRow, SegmentPosition};

/// The most that one step writes.
const STEP_BYTES: usize = 4 << 20;
/// The most slices of one write (Linux takes 1024).
const STEP_SLICES: usize = 1024;
/// A durable log asks the system to begin writing out after this many bytes, so that the sync before a journal file is
/// recycled finds little to do. A relaxed log does not: its appends wait for the writer.
const WRITE_BACK_BYTES: u64 = 1 << 20;
/// Closed segments that stay open for reads.
const OPEN_SEGMENTS: usize = 8;

/// The next thing to do to the files.
enum Step {
    Cut(Cut),
    Write(Write),
    /// A truncation is not durable yet.
    Blocked,
    Idle,
}

/// A run of batches of one segment with their index entries.
struct Write {
    segment: Arc<Segment>,
    truncations: u64,
    position: u64,
    batches: Vec<StampedBatch>,
    /// The first index behind the run.
    until: RaftIndex,
    cost: u64,
    entries: Vec<IndexEntry>,
    entries_before: u32,
    trailer: Option<Trailer>,
    relaxed: bool,
}

/// What writing came to.
pub(crate) struct Written {
    /// Appends of relaxed logs that may be reported.
    pub(crate) acks: Vec<Done>,
    /// Whether there is more to write.
    pub(crate) more: bool,
}

/// The end of the active segment.
pub(crate) fn end_of(state: &LogState) -> Option<SegmentPosition> {
    let name = state.segments.last()?.name;
    Some(SegmentPosition {
        base_offset: name.base_offset,
        first_index: name.first_index,
        position: FilePosition(u64::from(state.cursor.position)),
    })
}

impl LogState {
    fn next_step(&self) -> Step {
        if self.installing.is_some() {
            return Step::Blocked;
        }
        match self.cut {
            Some(cut) if cut.durable => return Step::Cut(cut),
            Some(_) => return Step::Blocked,
            None => {}
        }
        let Some(work) = self.unwritten.front() else { return Step::Idle };
        let end = work.end.map_or(self.next_index(), |trailer| trailer.next_index);
        let (mut batches, mut bytes, mut cost) = (Vec::new(), 0, 0);
        let (mut until, mut position) = (self.next_unwritten, u64::from(self.cursor.position));
        while until < end && bytes < STEP_BYTES && batches.len() * 2 < STEP_SLICES {
            let Some(cached) = self.cached(until) else { break };
            if batches.is_empty() {
                position = u64::from(cached.before.position);
            }
            bytes += cached.batch.size_bytes();
            cost += cached.cost;
            batches.push(cached.batch.clone());
            until = RaftIndex(until.0 + 1);
        }
        let whole = until >= end;
        let covered = position + bytes as u64;
        let within = |entry: &&IndexEntry| whole || u64::from(entry.position) < covered;
        let entries: Vec<IndexEntry> = work.entries.iter().take_while(within).copied().collect();
        let trailer = work.end.filter(|_| whole);
        if batches.is_empty() && entries.is_empty() && trailer.is_none() {
            return Step::Idle;
        }
        Step::Write(Write {
            segment: work.segment.clone(),
            truncations: self.truncations,
            position,
            batches,
            until,
            cost,
            entries,
            entries_before: work.entries_written,
            trailer,
            relaxed: self.options.flush == FlushMode::Relaxed,
        })
    }

    /// A write is done; false if a truncation made it void.
    fn write_done(&mut self, write: &Write) -> bool {
        if self.truncations != write.truncations {
            return false;
        }
        self.next_unwritten = write.until;
        self.dirty_bytes -= write.cost;
        if let Some(work) = self.unwritten.front_mut() {
            work.entries.drain(..write.entries.len());
            work.entries_written += write.entries.len() as u32;
        }
        if write.trailer.is_some() {
            self.unwritten.pop_front();
        }
        true
    }
}

impl Log {
    /// Writes what is dirty, up to about `max_bytes`. Blocks. A failure stalls the log or sets it aside, see
    /// [`Log::write_failed`].
    pub(crate) fn write_behind(&self, max_bytes: u64) -> Result<Written, StorageError> {
        self.write_dirty(self.files(), max_bytes)
    }

    /// Writes all that is dirty, and answers those who waited for that.
    pub(super) fn write_all_behind(&self) -> Result<(), StorageError> {
        let written = self.write_behind(u64::MAX)?;
        for done in written.acks {
            done(Ok(()));
        }
        Ok(())
    }

    /// As [`Log::write_behind`], for the writer of all logs: it does not wait while the files of a durable log are
    /// synced. Who syncs them lists the log again: see [`Log::files_are_free`].
    pub(crate) fn write_turn(&self, max_bytes: u64) -> Result<Written, StorageError> {
        if self.state().options.flush == FlushMode::Relaxed {
            return self.write_behind(max_bytes);
        }
        match self.files.try_lock() {
            Ok(files) => self.write_dirty(files, max_bytes),
            Err(TryLockError::WouldBlock) => Ok(Written { acks: Vec::new(), more: false }),
            Err(TryLockError::Poisoned(files)) => self.write_dirty(files.into_inner(), max_bytes),
        }
    }

    /// Writes what is dirty, if that needs no file to be made and nobody is at the files. False if something is left to
    /// the writer.
    pub(super) fn write_at_once(&self) -> bool {
        let Ok(files) = self.files.try_lock() else { return false };
        let able = {
            let state = self.state();
            let active = state.segments.last().map(|segment| segment.name);
            state.stall.is_none() && active.is_some_and(|name| files.unsynced.contains_key(&name))
        };
        if !able {
            return false;
        }
        let Ok(Written { acks, more }) = self.write_dirty(files, u64::MAX) else { return false };
        for done in acks {
            done(Ok(()));
        }
        !more
    }

    /// The writer may have passed this log by while its files were synced: it is listed again if anything is left to
    /// do, and at once if somebody waits for it.
    pub(super) fn files_are_free(&self) {
        let (left, awaited) = {
            let state = self.state();
            let awaited = !state.relaxed_acks.is_empty() || state.cut.is_some_and(|cut| cut.durable);
            (state.dirty_bytes > 0 || awaited, awaited)
        };
        if left && let Some(log) = self.me.upgrade() {
            self.context.writer.dirty(&log, awaited);
        }
    }

    fn write_dirty(&self, mut files: MutexGuard<'_, FileState>, max_bytes: u64) -> Result<Written, StorageError> {
        let result = self.write_steps(&mut files, max_bytes);
        drop(files);
        match result {
            Ok(more) => {
                self.write_succeeded();
                Ok(Written { acks: self.state().take_acks(), more })
            }
            Err(error) => Err(self.write_failed(error)),
        }
    }

    fn write_steps(&self, files: &mut FileState, max_bytes: u64) -> Result<bool, StorageError> {
        let mut bytes = 0;
        while bytes < max_bytes {
            match self.step(files)? {
                Some(written) => bytes += written,
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Does one step; tells how many bytes it wrote, `None` if there is nothing to do now.
    fn step(&self, files: &mut FileState) -> Result<Option<u64>, StorageError> {
        if self.retired.load(Ordering::Acquire) {
            return Err(StorageError::LogClosed(self.identity.group));
        }
        let step = {
            let state = self.state();
            if state.set_aside {
                return Err(StorageError::SetAside(self.identity.group));
            }
            state.next_step()
        };
        match step {
            Step::Blocked | Step::Idle => Ok(None),
            Step::Cut(cut) => {
                self.cut(files, &cut).map_err(|error| self.segment_error(error))?;
                let mut state = self.state();
                // A further truncation may have come, lower or not durable yet; it is cut again.
                if state.cut == Some(cut) {
                    state.cut = None;
                }
                Ok(Some(0))
            }
            Step::Write(write) => {
                let bytes = self.write(files, &write).map_err(|error| self.segment_error(error))?;
                if self.state().write_done(&write) && !write.batches.is_empty() {
                    let last = RaftIndex(write.until.0 - 1);
                    self.context.cache.written(write.cost, self.me.clone(), last);
                }
                if write.relaxed {
                    self.context.unjournaled_written(bytes);
                }
                Ok(Some(bytes))
            }
        }
    }

    /// Cuts the files: later segments go, the one named keeps what lies before the position.
    fn cut(&self, files: &mut FileState, cut: &Cut) -> Result<(), SegmentError> {
        let whole = cut.position == 0;
        let doomed: Vec<SegmentName> =
            files.present.range(cut.segment..).copied().filter(|name| whole || *name != cut.segment).collect();
        let (maker, active) = {
            let state = self.state();
            let active = state.segments.iter().find(|segment| segment.name == cut.segment).cloned();
            (doomed.iter().map(|name| state.maker.make(*name)).collect::<Vec<_>>(), active)
        };
        // From the end, so that a crash in between leaves no gap.
        for segment in maker.iter().rev() {
            files.folder_changed = true;
            segment.remove()?;
            files.present.remove(&segment.name);
            files.unsynced.remove(&segment.name);
        }
        files.write_back = None;
        let Some(segment) = active else { return Ok(()) };
        if whole {
            segment.release();
            return Ok(());
        }
        let path = segment.path(SegmentFile::Index);
        let kept = entry_position(cut.entries);
        let handles = segment.files()?;
        let index_error = |error| segment.io("cut", SegmentFile::Index, error);
        if handles.index.len().map_err(index_error)? > kept {
            // Replaced, not made shorter: a reader may have it mapped.
            let mut bytes = vec![0; kept as usize];
            handles.index.read_exact_at(&mut bytes, 0).map_err(index_error)?;
            write_atomically(self.context.disk.as_ref(), &path, &bytes).map_err(index_error)?;
            segment.release();
            files.unsynced.remove(&segment.name);
        }
        let handles = segment.files()?;
        let log_error = |error| segment.io("cut", SegmentFile::Log, error);
        if handles.log.len().map_err(log_error)? > u64::from(cut.position) {
            handles.log.set_len(cut.position.into()).map_err(log_error)?;
        }
        files.written(&segment, handles);
        Ok(())
    }

    fn write(&self, files: &mut FileState, write: &Write) -> Result<u64, SegmentError> {
        let segment = &write.segment;
        let handles = segment.files()?;
        if files.present.insert(segment.name) {
            files.folder_changed = true;
        }
        files.written(segment, handles.clone());
        // A crash may have left files of this name that hold something else.
        if write.entries_before == 0 {
            handles.index.set_len(0).map_err(|error| segment.io("cut", SegmentFile::Index, error))?;
            if write.position == 0 && !write.batches.is_empty() {
                handles.log.set_len(0).map_err(|error| segment.io("cut", SegmentFile::Log, error))?;
            }
        }
        let slices: Vec<IoSlice<'_>> = write.batches.iter().flat_map(StampedBatch::io_slices).collect();
        let bytes: u64 = write.batches.iter().map(|batch| batch.size_bytes() as u64).sum();
        if !slices.is_empty() {
            let result = handles.log.write_all_at(&slices, write.position);
            result.map_err(|error| segment.io("write", SegmentFile::Log, error))?;
        }
        let mut index = Vec::with_capacity(INDEX_HEADER_BYTES + write.entries.len() * 48);
        let at = if write.entries_before == 0 {
            let name = segment.name;
            let interval_bytes = self.context.options.index_interval_bytes;
            let (base_offset, first_index) = (name.base_offset, name.first_index);
            index.extend_from_slice(&IndexHeader { base_offset, first_index, interval_bytes }.encode());
            0
        } else {
            entry_position(write.entries_before)
        };
        for entry in &write.entries {
            index.extend_from_slice(&entry.encode());
        }
        let index_error = |error| segment.io("write", SegmentFile::Index, error);
        if !index.is_empty() {
            handles.index.write_all_at(&[IoSlice::new(&index)], at).map_err(index_error)?;
        }
        if let Some(trailer) = &write.trailer {
            let end = entry_position(write.entries_before + write.entries.len() as u32);
            let mut before = vec![0; end as usize];
            handles.index.read_exact_at(&mut before, 0).map_err(index_error)?;
            handles.index.write_all_at(&[IoSlice::new(&trailer.encode(&before))], end).map_err(index_error)?;
        }
        if !write.relaxed && bytes > 0 {
            self.write_back(files, write, bytes)?;
        }
        Ok(bytes)
    }

    fn write_back(&self, files: &mut FileState, write: &Write, bytes: u64) -> Result<(), SegmentError> {
        let (name, end) = (write.segment.name, write.position + bytes);
        let from = match files.write_back {
            Some((segment, from, to)) if segment == name && to == write.position => from,
            _ => write.position,
        };
        files.write_back = Some((name, from, end));
        if end - from >= WRITE_BACK_BYTES {
            let log = write.segment.files()?.log;
            log.start_writeback(from, end - from)
                .map_err(|error| write.segment.io("write", SegmentFile::Log, error))?;
            files.write_back = Some((name, end, end));
        }
        Ok(())
    }

    /// Writes and syncs everything that was appended before the call, and gives the row that says so. Blocks; does
    /// nothing when nothing changed.
    ///
    /// # Errors
    ///
    /// [`StorageError::TruncationPending`]: try again when the journal has synced. [`StorageError::SetAside`]: a sync
    /// or a write failed for good. What a write says that may do better later: nothing is lost, the batches are in
    /// the tail cache still.
    pub(crate) fn sync_segments(&self) -> Result<GroupRow, StorageError> {
        self.remove_leftover();
        self.syncing.fetch_add(1, Ordering::SeqCst);
        let result = self.sync_ahead().and_then(|()| self.sync_steps(&mut self.files()));
        self.syncing.fetch_sub(1, Ordering::SeqCst);
        self.files_are_free();
        let (row, acks) = result.map_err(|error| self.write_failed(error))?;
        self.write_succeeded();
        for done in acks {
            done(Ok(()));
        }
        self.context.cache.make_room();
        Ok(row)
    }

    fn sync_steps(&self, files: &mut FileState) -> Result<(GroupRow, Vec<Done>), StorageError> {
        let mut switched = self.finish_switch(files)?;
        loop {
            let (row, truncations, snapshot) = {
                let state = self.state();
                if state.set_aside {
                    return Err(StorageError::SetAside(self.identity.group));
                }
                if state.installing.is_some() || state.cut.is_some_and(|cut| !cut.durable) {
                    return Err(StorageError::TruncationPending(self.identity.group));
                }
                (self.capture(&state), state.truncations, self.snapshot_due(&state))
            };
            self.write_up_to(files, &row, truncations)?;
            self.sync(files)?;
            if !files.entered && self.state().unjournaled.is_some() {
                // The checkpoint makes the folders' own entries durable when it is done with all logs, which is later:
                // a membership that comes in between counts on what is synced here.
                self.sync_dir(&self.context.root)?;
                files.entered = true;
            }
            if let Some((name, bytes)) = snapshot {
                self.write_snapshot(files, name, &bytes);
            }
            let mut state = self.state();
            if state.truncations != truncations {
                // What was captured is not what the files hold.
                continue;
            }
            state.synced = row.durable;
            state.journaled_checkpoints = state.journaled_checkpoints.saturating_sub(1);
            state.next_unsynced = row.last.map_or(RaftIndex(0), |last| RaftIndex(last.index.0 + 1));
            let next_unsynced = state.next_unsynced;
            state.unjournaled = state.unjournaled.filter(|index| *index >= next_unsynced);
            switched.extend(state.take_acks());
            return Ok((row, switched));
        }
    }

    /// Syncs the files of a relaxed log without keeping its writer, whose appends wait for it, from them: what is left
    /// for the sync that counts is little. A durable log is not synced twice side by side: only one would hear of an
    /// error, and the other might acknowledge.
    fn sync_ahead(&self) -> Result<(), StorageError> {
        let logs: Vec<SegmentFiles> = {
            let files = self.files();
            let state = self.state();
            if state.options.flush != FlushMode::Relaxed || state.set_aside {
                return Ok(());
            }
            files.unsynced.values().map(|unsynced| unsynced.files.clone()).collect()
        };
        for files in logs {
            files.log.sync_data().map_err(|error| self.sync_failed(self.sync_error(&self.folder, error)))?;
        }
        Ok(())
    }

    /// Writes up to entry `last`; false if that cannot be. A failure is left to the writer, which meets it again.
    fn place_steps(&self, files: &mut FileState, last: LogId) -> bool {
        loop {
            {
                let state = self.state();
                if !state.may_place(last) || state.stall.is_some() || self.retired.load(Ordering::Acquire) {
                    return false;
                }
                if state.next_unwritten > last.index {
                    return true;
                }
            }
            if !matches!(self.step(files), Ok(Some(_))) {
                return false;
            }
        }
    }

    fn write_up_to(&self, files: &mut FileState, row: &GroupRow, truncations: u64) -> Result<(), StorageError> {
        let next = row.last.map_or(RaftIndex(0), |last| RaftIndex(last.index.0 + 1));
        loop {
            {
                let state = self.state();
                let active = row.durable.map(|durable| (durable.base_offset, durable.first_index));
                let older = |name: SegmentName| Some((name.base_offset, name.first_index)) < active;
                let sealed = state.unwritten.front().is_none_or(|work| !older(work.segment.name));
                let indexed = state.unwritten.front().is_none_or(|work| {
                    let end = row.durable.map_or(0, |durable| durable.position.0);
                    work.entries.front().is_none_or(|entry| u64::from(entry.position) >= end)
                });
                let written = state.next_unwritten >= next && sealed && indexed && state.cut.is_none();
                if written || state.truncations != truncations {
                    return Ok(());
                }
            }
            if self.step(files)?.is_none() {
                return Ok(());
            }
        }
    }

    /// Syncs the files that were written since the last sync.
    pub(super) fn sync(&self, files: &mut FileState) -> Result<(), StorageError> {
        // It has forgotten what it wrote: nobody may take that for synced.
        if self.retired.load(Ordering::Acquire) {
            return Err(StorageError::LogClosed(self.identity.group));
        }
        // This copy no longer holds what it said.
        let failed = |error: SegmentError| match self.segment_error(error) {
            closed @ StorageError::LogClosed(_) => closed,
            error => self.sync_failed(error),
        };
        for Unsynced { segment, files: handles, .. } in std::mem::take(&mut files.unsynced).into_values() {
            for (kind, file) in [(SegmentFile::Log, &handles.log), (SegmentFile::Index, &handles.index)] {
                file.sync_data().map_err(|error| failed(segment.io("sync", kind, error)))?;
            }
            // Opened again when it is written or read: a log that rests holds no file open.
            segment.release();
        }
        self.sync_folder(files)
    }

    fn sync_folder(&self, files: &mut FileState) -> Result<(), StorageError> {
        if files.folder_changed {
            self.sync_dir(&self.folder)?;
            files.folder_changed = false;
        }
        Ok(())
    }

    /// Syncs a folder. A failure sets the copy aside, but for too many open files.
    pub(super) fn sync_dir(&self, path: &Path) -> Result<(), StorageError> {
        match self.context.disk.sync_dir(path) {
            Ok(()) => Ok(()),
            // It was not even opened.
            Err(error) if is_too_many_files(&error) => Err(self.sync_error(path, error)),
            Err(error) => Err(self.sync_failed(self.sync_error(path, error))),
        }
    }

    fn sync_error(&self, path: &Path, error: std::io::Error) -> StorageError {
        let path = path.to_path_buf();
        self.segment_error(SegmentError::Io { operation: "sync", path, source: Arc::new(error) })
    }

    /// Syncs what was written and lets go of all files: they are opened again when they are needed.
    pub(crate) fn rest(&self) -> Result<(), StorageError> {
        let synced = self.sync(&mut self.files());
        for segment in &self.state().segments {
            segment.release();
        }
        synced
    }

    /// Ends the log before its folder goes: when it returns no file operation of it starts any more, and appends are
    /// refused. Appends that were waiting for the writer are told so.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
        // Who puts received segments beside it looks at that first.
        drop(self.receiving());
        let mut files = self.files();
        // Somebody may hold on to the log for long, and an open file keeps its disk space.
        files.unsynced.clear();
        let acks: Vec<Done> = {
            let mut state = self.state();
            for segment in &state.segments {
                segment.release();
            }
            // Somebody may hold on to the log, but its batches must not count as unwritten any more.
            let (cost, dirty) = (state.tail.drain(..).map(|cached| cached.cost).sum(), state.dirty_bytes);
            state.dirty_bytes = 0;
            state.end_stall(self);
            self.context.cache.removed(cost, dirty);
            state.relaxed_acks.drain(..).map(|ack| ack.done).collect()
        };
        drop(files);
        for done in acks {
            done(Err(StorageError::LogClosed(self.identity.group)));
        }
    }

    /// Bytes of batches that are not written.
    pub(crate) fn dirty_bytes(&self) -> u64 {
        self.state().dirty_bytes
    }

    /// A closed segment was opened for a read: the one that was longest unused is closed if there are too many.
    pub(super) fn opened(&self, plan: &ColdPlan) {
        if !plan.is_closed() {
            return;
        }
        let mut recent = self.recent();
        recent.retain(|segment| !Arc::ptr_eq(segment, &plan.segment));
        if plan.segment.is_removed() {
            return;
        }
        recent.push_back(plan.segment.clone());
        if recent.len() > OPEN_SEGMENTS
            && let Some(oldest) = recent.pop_front()
        {
            oldest.release();
        }
    }
}

impl Segments for Log {
    fn place(&self, last: LogId) -> bool {
        // A writer is soon done. A checkpoint may take long, and all logs wait for this round.
        if self.syncing.load(Ordering::SeqCst) > 0 {
            return false;
        }
        let mut files = self.files();
        if !self.place_steps(&mut files, last) {
            drop(files);
            self.files_are_free();
            return false;
        }
        for unsynced in files.unsynced.values().filter(|unsynced| !unsynced.log_synced) {
            // It only begins what the sync completes.
            if let Ok(length) = unsynced.files.log.len() {
                drop(unsynced.files.log.start_writeback(0, length));
            }
        }
        true
    }

    fn sync_placed(&self, bytes: u64) -> Result<bool, StorageError> {
        if self.syncing.load(Ordering::SeqCst) > 0 {
            return Ok(false);
        }
        // The mutex is held throughout: of two syncs side by side only one hears of an error.
        let mut files = self.files();
        // Once more: a checkpoint that began before the mutex was ours may be syncing without it. And a log that was
        // retired since has forgotten what it wrote.
        if self.syncing.load(Ordering::SeqCst) > 0 || self.retired.load(Ordering::Acquire) {
            return Ok(false);
        }
        {
            let state = self.state();
            if state.set_aside {
                return Err(StorageError::SetAside(self.identity.group));
            }
            // Nothing more is written or synced of what the switch replaces.
            if state.installing.is_some() {
                return Ok(false);
            }
        }
        // All files: an older one that loses its end takes with it what follows.
        for unsynced in files.unsynced.values_mut().filter(|unsynced| !unsynced.log_synced) {
            let synced = unsynced.files.log.sync_data();
            synced.map_err(|error| self.sync_failed(self.sync_error(&self.folder, error)))?;
            unsynced.log_synced = true;
        }
        // A checkpoint syncs the entries of all partition folders, but perhaps none has come since this one was made.
        let entered = files.entered || self.sync_dir(&self.context.root).map_or_else(unless_final, |()| Ok(true))?;
        files.entered = entered;
        let placed = entered && self.sync_folder(&mut files).map_or_else(unless_final, |()| Ok(true))?;
        drop(files);
        self.files_are_free();
        if placed {
            self.context.unjournaled_written(bytes);
        }
        Ok(placed)
    }
}

/// What could not be tried leaves the log as it is.
fn unless_final(error: StorageError) -> Result<bool, StorageError> {
    if matches!(error, StorageError::SetAside(_)) { Err(error) } else { Ok(false) }
}
