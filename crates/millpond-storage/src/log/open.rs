//! Opening a log: after a clean stop by its row, after anything else by its row and what the segments' tail holds.
//!
//! | found | clean | after a crash |
//! | --- | --- | --- |
//! | the active segment as long as the row says | taken | taken |
//! | it is longer | as after a crash | valid batches behind the row's end are kept, the rest is cut |
//! | segments newer than the row's | as after a crash | scanned if they continue the log, else removed |
//! | it is shorter, or has other batches at its end | refused | a Truncate record must explain it, or it is refused |
//! | its index is missing or damaged | rebuilt | rebuilt |
//! | no producer snapshot that can be proven | headers are read from the oldest segment on | the same |

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::OsStr;
use std::io::IoSlice;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex};

use millpond_record::{LogId, RaftIndex, StampedBatch, Term};
use millpond_runtime::File;

use super::cold::ColdPlan;
use super::file_state::FileState;
use super::state::{LogState, Place, Recovery, SegmentMaker, SegmentWork};
use super::switch::{first_index_of_part, is_part};
use super::{Entries, Identity, Log, LogContext};
use crate::StorageError;
use crate::index::{self, IndexEntry, SegmentCursor};
use crate::journal::JournalEntry;
use crate::producer::{MAX_SNAPSHOT_BYTES, Producers, Snapshot, read_snapshot};
use crate::segment::{Expected, Segment, SegmentError, SegmentFile, SegmentName, scan};
use crate::types::{FlushMode, GroupRow};

/// How much is read at once to make the producers' state.
const REPLAY_BLOCK_BYTES: usize = 1 << 20;

/// How far the entries of a log are tracked while it is opened.
struct Tracking {
    /// The next entry.
    next: RaftIndex,
    /// Producers know everything up to here.
    covered: Option<RaftIndex>,
    /// Entries up to here are committed.
    committed: Option<RaftIndex>,
}

/// What a log's folder holds.
#[derive(Default)]
pub(super) struct Folder {
    /// With their lengths in bytes.
    pub(super) logs: BTreeMap<SegmentName, u64>,
    pub(super) indexes: BTreeSet<SegmentName>,
    snapshots: BTreeSet<SegmentName>,
    /// The last of the first entries of segments that were received and not taken up.
    received: Option<RaftIndex>,
}

impl Log {
    /// Opens a log after a clean stop, or before its first entry.
    ///
    /// Blocks. Reads the end of the active segment and the headers that the last producer snapshot does not cover.
    ///
    /// # Errors
    ///
    /// [`StorageError::Corrupt`] if the segments are not what the row says, [`StorageError::SetAside`], I/O.
    pub(crate) fn open(context: &Arc<LogContext>, row: &GroupRow) -> Result<Arc<Log>, StorageError> {
        let (log, folder) = Log::load(context, row)?;
        if folder.logs.keys().next_back().copied() > name_of(row)
            || !log.resume(row).map_err(|error| log.segment_error(error))?
        {
            // A log that was not opened between a crash and the clean stop: what it had beyond its row was never taken
            // up.
            let log = Log::recover(context, row)?;
            log.finish_recovery()?;
            return Ok(log);
        }
        // Only an index that was made anew is written.
        log.write_behind(u64::MAX)?;
        log.finish(row)?;
        Ok(log)
    }

    /// Opens a log after a crash: takes what the row says and adds what the segments hold beyond it, if it is valid.
    /// The journal is replayed next, then [`Log::finish_recovery`] is called; nothing else before that.
    ///
    /// Blocks. Reads what the segments hold beyond the row.
    ///
    /// # Errors
    ///
    /// As for [`Log::open`].
    pub(crate) fn recover(context: &Arc<LogContext>, row: &GroupRow) -> Result<Arc<Log>, StorageError> {
        let (log, folder) = Log::load(context, row)?;
        let next = log.next_index();
        let mut recovery = Recovery {
            tolerates_gaps: row.options.flush == FlushMode::Relaxed,
            found_end: next,
            journaled_end: next,
            ..Recovery::default()
        };
        let resumed = log.resume(row);
        if let Err(error) = &resumed {
            recovery.diverged = Some(error.to_string());
            let mut state = log.state();
            let segment = state.segments.last().cloned().expect("only a row with a segment can differ from it");
            state.unwritten.push_back(SegmentWork { segment, entries: VecDeque::new(), entries_written: 0, end: None });
        }
        log.state().recovery = Some(recovery);
        // What the last run made may not be durable in the folder.
        log.files().folder_changed = true;
        if resumed.is_ok() {
            log.take_up(row, &folder).map_err(|error| log.segment_error(error))?;
            log.write_behind(u64::MAX)?;
        }
        Ok(log)
    }

    /// Ends a recovery: the log is what rows, segments and journal made of it, and may be used.
    ///
    /// # Errors
    ///
    /// [`StorageError::Corrupt`] if it lost what it had acknowledged: it ends before P or before what the table says
    /// was synced, or in a term that its vote does not know. I/O.
    pub(crate) fn finish_recovery(&self) -> Result<(), StorageError> {
        let (recovery, row) = {
            let state = self.state();
            let Some(recovery) = state.recovery.clone() else { return Ok(()) };
            (recovery, self.capture(&state))
        };
        if let Some(why) = recovery.diverged {
            return Err(self.corrupt(why));
        }
        let last = row.last.map(|last| last.index);
        if let Some(missing) = recovery.missing {
            return Err(self.corrupt(format!("it ends with {last:?}, before entry {missing}, which was synced")));
        }
        if let Some(purged) = row.purged
            && last.is_none_or(|last| last < purged.index)
        {
            return Err(self.corrupt(format!("it ends with {last:?}, before P ({})", purged.index)));
        }
        let committed = row.committed.map(|committed| committed.index);
        if committed > last && !recovery.tolerates_gaps {
            return Err(self.corrupt(format!("it ends with {last:?}, before the committed entry {committed:?}")));
        }
        if row.last.is_some_and(|last| last.term > row.vote.term) {
            let (last, vote) = (row.last.map(|last| last.term), row.vote.term);
            return Err(
                self.corrupt(format!("it ends in term {last:?} but its vote is of term {vote}: a vote was lost"))
            );
        }
        self.write_behind(u64::MAX)?;
        {
            let mut files = self.files();
            let state = self.state();
            for index in &recovery.cuts {
                // The segment that was cut now ends there, or the entry is in it.
                let behind = state.segments.partition_point(|segment| segment.name.first_index <= *index);
                for segment in &state.segments[behind.saturating_sub(2)..behind] {
                    if files.present.contains(&segment.name) {
                        let handles = segment.existing_files().map_err(|error| self.segment_error(error))?;
                        files.written(segment, handles);
                    }
                }
            }
            drop(state);
            if recovery.kept && !recovery.is_journaled() {
                // Nothing else makes it durable: no row has it, and perhaps no journal.
                self.sync(&mut files)?;
            }
        }
        if !recovery.tolerates_gaps {
            self.journal_found(recovery.journaled_end, recovery.found_end)?;
        }
        self.finish(&row)?;
        let waits = {
            let mut state = self.state();
            state.unjournaled = last.filter(|_| recovery.tolerates_gaps);
            state.unjournaled.is_some() && state.options.flush == FlushMode::Durable
        };
        if waits {
            self.context.want_checkpoint();
        }
        Ok(())
    }

    /// Hands the journal what the segments held and it did not: what is appended next continues it there, too.
    fn journal_found(&self, from: RaftIndex, to: RaftIndex) -> Result<(), StorageError> {
        let mut next = from;
        while next < to {
            let entries = match self.entries(next, to, REPLAY_BLOCK_BYTES)? {
                Entries::Ready(entries) => entries,
                Entries::Cold(cold) => cold.run()?,
            };
            let Some((last, _)) = entries.last() else { break };
            next = RaftIndex(last.index.0 + 1);
            let state = self.state();
            let records = entries.into_iter().map(|(id, batch)| JournalEntry::Append {
                group: self.identity.group,
                index: id.index,
                term: id.term,
                append_time: self.context.append_time_of(&batch.header()),
                begins_segment: state.begins_segment(id.index),
                batch,
            });
            let records = records.collect();
            drop(state);
            self.context.journal.submit(records, None)?;
        }
        Ok(())
    }

    /// The log as its row has it, its segments known and none of them read.
    fn load(context: &Arc<LogContext>, row: &GroupRow) -> Result<(Arc<Log>, Folder), StorageError> {
        if row.set_aside {
            return Err(StorageError::SetAside(row.group));
        }
        let path: Arc<Path> = context.root.join(row.folder()).into();
        let mut found = list(context, &path)?;
        let retired = Arc::new(AtomicBool::new(false));
        let maker = SegmentMaker { disk: context.disk.clone(), folder: path.clone(), retired: retired.clone() };
        let mut names: Vec<SegmentName> =
            found.logs.keys().copied().filter(|name| Some(*name) <= name_of(row)).collect();
        if let Some(active) = name_of(row)
            && !names.contains(&active)
        {
            // Without a byte it has no file yet; with some, reading it will tell that they are gone.
            names.push(active);
        }
        let freeable = Log::remove_leftovers(&maker, &mut found, &mut names, row);
        let segments: Vec<Arc<Segment>> = names.iter().map(|name| maker.make(*name)).collect();
        let newest = |at: usize| row.retained.oldest_newest.filter(|_| at == freeable);
        for (at, segment) in segments.iter().enumerate().rev().skip(1) {
            segment.know(found.logs.get(&segment.name).copied().unwrap_or(0), newest(at));
        }
        let next = row.last.map_or(RaftIndex(0), |last| RaftIndex(last.index.0 + 1));
        if row.epochs.iter().any(|epoch| epoch.term > Term::MAX) {
            let what = "its row has a term beyond 2^31".to_owned();
            return Err(StorageError::Corrupt { group: row.group, what });
        }
        let state = LogState {
            group: row.group,
            maker,
            interval_bytes: context.options.index_interval_bytes,
            options: row.options,
            vote: row.vote,
            purged: row.purged,
            membership_at_p: row.membership_at_p.clone(),
            membership: (None, row.membership.clone()),
            memberships: row.committed.map(|at| (at.index, row.membership.clone())).into_iter().collect(),
            log_start: row.log_start,
            high_watermark: row.log_start,
            log_end: row.log_end,
            committed: row.committed,
            last: row.last,
            first_index: RaftIndex(0),
            epochs: row.epochs.clone(),
            pending: VecDeque::new(),
            pending_first: next,
            producers: Producers::default(),
            recovery: Some(Recovery::default()),
            segments,
            cursor: SegmentCursor::START,
            active_since: row.retained.active_since,
            tail: VecDeque::new(),
            next_unwritten: next,
            dirty_bytes: 0,
            unwritten: VecDeque::new(),
            cut: None,
            truncations: 0,
            relaxed_acks: VecDeque::new(),
            next_ack: 0,
            unjournaled: None,
            barrier: false,
            journaled_checkpoints: 0,
            synced: row.durable,
            next_unsynced: next,
            bytes_since_snapshot: 0,
            snapshot_due: false,
            set_aside: false,
            stall: None,
            failed: None,
            still_read: None,
            installing: None,
        };
        let files = FileState::new(found.logs.keys().copied().collect(), found.snapshots.iter().copied().collect());
        let identity = Identity {
            group: row.group,
            topic: row.topic.clone(),
            partition: row.partition,
            topic_id: row.topic_id,
            replica: row.replica,
        };
        let log = Arc::new_cyclic(|me| Log {
            context: context.clone(),
            identity,
            folder: path,
            retired,
            me: me.clone(),
            state: Mutex::new(state),
            files: Mutex::new(files),
            syncing: AtomicUsize::new(0),
            mending: Mutex::default(),
            recent: Mutex::default(),
            filling: AtomicUsize::new(0),
            receiving: Mutex::default(),
            leftover: AtomicU64::new(found.received.map_or(0, |first| first.0 + 1)),
            pins: Mutex::default(),
            queued: AtomicBool::new(false),
            listed: AtomicBool::new(false),
        });
        Ok((log, found))
    }

    /// Finds the end of the active segment as the row has it; tells whether its file ends there.
    fn resume(&self, row: &GroupRow) -> Result<bool, SegmentError> {
        let Some(durable) = row.durable else { return Ok(true) };
        let mut exact = true;
        let mut state = self.state();
        let segment = state.segments.last().cloned().expect("the row's active segment is always among the segments");
        let mut work =
            SegmentWork { segment: segment.clone(), entries: VecDeque::new(), entries_written: 0, end: None };
        if durable.position.0 > 0 {
            let files = segment.existing_files()?;
            let length = files.log.len().map_err(|error| segment.io("read", SegmentFile::Log, error))?;
            if length < durable.position.0 {
                return Err(segment.damaged(length, "it is shorter than the table says"));
            }
            exact = length == durable.position.0;
            let position = u32::try_from(durable.position.0).map_err(|_| segment.damaged(0, "it is too long"))?;
            let (mut cursor, entries) = self.end_of_segment(&segment, position, row)?;
            cursor.append_time = row.retained.last_append;
            state.cursor = cursor;
            work.entries_written = cursor.entries - entries.len() as u32;
            work.entries = entries.into();
            let keep = index::entry_position(work.entries_written);
            let cut = files.index.len().and_then(|now| if now > keep { files.index.set_len(keep) } else { Ok(()) });
            cut.map_err(|error| segment.io("cut", SegmentFile::Index, error))?;
        }
        state.unwritten.push_back(work);
        Ok(exact)
    }

    /// The cursor at `position` of the active segment, and the index entries that its index misses.
    fn end_of_segment(
        &self,
        segment: &Arc<Segment>,
        position: u32,
        row: &GroupRow,
    ) -> Result<(SegmentCursor, Vec<IndexEntry>), SegmentError> {
        match self.end_by_index(segment, position, row) {
            Ok(cursor) => Ok((cursor, Vec::new())),
            Err(SegmentError::Index { .. } | SegmentError::Log { .. }) => {
                // Rebuilt from the batches, if those are right.
                let name = segment.name;
                let start = Expected { offset: name.base_offset, index: name.first_index, term: Term(0) };
                let mut entries = Vec::new();
                let cursor = self.scan_to(segment, SegmentCursor::START, start, position, row, &mut entries)?;
                Ok((cursor, entries))
            }
            Err(error) => Err(error),
        }
    }

    fn end_by_index(
        &self,
        segment: &Arc<Segment>,
        position: u32,
        row: &GroupRow,
    ) -> Result<SegmentCursor, SegmentError> {
        let files = segment.existing_files()?;
        let (name, wrong) = (segment.name, |error| segment.index_error(error));
        let source = index::open_active(files.index, name.base_offset, name.first_index, position).map_err(wrong)?;
        let number = source.len().checked_sub(1).ok_or_else(|| wrong(index::IndexError::Order))?;
        let entry = source.entry(number).map_err(wrong)?;
        let previous = number.checked_sub(1).map(|before| source.entry(before)).transpose().map_err(wrong)?;
        let cursor = SegmentCursor::before(&entry, number, previous.as_ref());
        let start = Expected { offset: entry.offset, index: entry.index, term: Term(0) };
        let mut entries = Vec::new();
        let cursor = self.scan_to(segment, cursor, start, position, row, &mut entries)?;
        // The scan makes the last entry again and no other, or the index is not this log's.
        let same = |made: &IndexEntry| {
            (made.position, made.index, made.hash_before) == (entry.position, entry.index, entry.hash_before)
        };
        if entries.len() != 1 || !entries.first().is_some_and(same) {
            return Err(wrong(index::IndexError::Order));
        }
        Ok(cursor)
    }

    /// Scans up to exactly `position`, where the log must be where the row says.
    fn scan_to(
        &self,
        segment: &Arc<Segment>,
        mut cursor: SegmentCursor,
        start: Expected,
        position: u32,
        row: &GroupRow,
        entries: &mut Vec<IndexEntry>,
    ) -> Result<SegmentCursor, SegmentError> {
        let interval = self.context.options.index_interval_bytes;
        let log = segment.existing_files()?.log;
        let (from, mut last, mut offset) = (u64::from(cursor.position), None, start.offset);
        let end = scan(segment, log.as_ref(), from, position.into(), start, |index, head, batch| {
            let header = batch.header();
            entries.extend(cursor.push(index, head, header, self.context.append_time_of(header), interval));
            let term = Term(header.leader_epoch.0 as u64);
            (last, offset) = (Some(LogId { term, index }), header.next_offset());
        })?;
        if end != u64::from(position) || last != row.last || offset != row.log_end {
            return Err(segment.damaged(end, "its batches are not those that the table knows"));
        }
        Ok(cursor)
    }

    /// Takes up what the segments hold beyond the row.
    fn take_up(&self, row: &GroupRow, folder: &Folder) -> Result<(), SegmentError> {
        let mut files = self.files();
        let mut state = self.state();
        let mut newer: VecDeque<SegmentName> =
            folder.logs.keys().copied().filter(|name| Some(*name) > name_of(row)).collect();
        if state.segments.last().is_some_and(|active| folder.logs.contains_key(&active.name)) {
            self.take_up_segment(&mut state, &mut files)?;
        }
        while let Some(name) = newer.front().copied() {
            // An empty log's first entry may have any index, but then it is not known that none is missing.
            if name != (SegmentName { base_offset: state.log_end, first_index: state.next_index() }) {
                break;
            }
            newer.pop_front();
            let next = state.next_index();
            state.close_active(next);
            state.start_segment(name, SegmentCursor::START);
            self.take_up_segment(&mut state, &mut files)?;
        }
        // What does not continue the log was written after batches that are lost; if it matters, the journal has it.
        let stray = folder.indexes.iter().filter(|name| !folder.logs.contains_key(name)).copied();
        let stray = stray.filter(|name| Some(*name) >= name_of(row));
        for name in stray.chain(newer.into_iter().rev()) {
            state.maker.make(name).remove()?;
            files.present.remove(&name);
            files.folder_changed = true;
        }
        Ok(())
    }

    /// Takes up what the active segment holds behind the cursor and cuts what is not valid.
    fn take_up_segment(&self, state: &mut LogState, files: &mut FileState) -> Result<(), SegmentError> {
        let segment = state.segments.last().cloned().expect("the caller made it the active one");
        let handles = segment.files()?;
        let length = handles.log.len().map_err(|error| segment.io("read", SegmentFile::Log, error))?;
        let from = u64::from(state.cursor.position);
        let keep = index::entry_position(state.unwritten.back().map_or(0, |work| work.entries_written));
        let cut = handles.index.len().and_then(|now| if now > keep { handles.index.set_len(keep) } else { Ok(()) });
        cut.map_err(|error| segment.io("cut", SegmentFile::Index, error))?;
        if length <= from {
            return Ok(());
        }
        let start = Expected {
            offset: state.log_end,
            index: state.next_index(),
            term: state.last.map_or(Term(0), |last| last.term),
        };
        let end = scan(&segment, handles.log.as_ref(), from, length, start, |_, head, batch| {
            state.found(head, batch.header(), self.context.append_time_of(batch.header()));
        })?;
        let next = state.next_index();
        if end > from
            && let Some(recovery) = &mut state.recovery
        {
            (recovery.kept, recovery.found_end) = (true, next);
            // An earlier sync may have failed and left the system believing that these bytes are on the disk.
            write_again(handles.log.as_ref(), from, end)
                .map_err(|error| segment.io("write", SegmentFile::Log, error))?;
        }
        if end < length {
            handles.log.set_len(end).map_err(|error| segment.io("cut", SegmentFile::Log, error))?;
        }
        files.written(&segment, handles);
        Ok(())
    }

    /// Where entry `index` starts, or would start, in the log's `at`th segment; found without trusting an index,
    /// because the files may have been cut and written again behind it.
    pub(super) fn locate_by_scan(
        &self,
        state: &mut LogState,
        at: usize,
        index: RaftIndex,
    ) -> Result<Place, StorageError> {
        let Some(segment) = state.segments.get(at).cloned() else {
            return Err(self.corrupt("there is no segment to truncate"));
        };
        let name = segment.name;
        let start = Expected { offset: name.base_offset, index: name.first_index, term: Term(0) };
        let (mut cursor, mut offset, mut entries) = (SegmentCursor::START, name.base_offset, VecDeque::new());
        if index < name.first_index {
            return Err(self.corrupt(format!("the segment with entry {index} is missing")));
        }
        if index > name.first_index {
            let handles = segment.existing_files().map_err(|error| self.segment_error(error))?;
            let length = handles.log.len().map_err(|error| StorageError::io("read", &self.folder, error))?;
            let interval = self.context.options.index_interval_bytes;
            let mut reached = name.first_index;
            scan(&segment, handles.log.as_ref(), 0, length, start, |found, head, batch| {
                let header = batch.header();
                // The same index and term is the same entry: what is written here now may be a later leader's.
                let known = state.term_at(found).map(Term::leader_epoch) == Some(header.leader_epoch);
                if found == reached && found < index && known {
                    let append_time = self.context.append_time_of(header);
                    entries.extend(cursor.push(found, head, header, append_time, interval));
                    (offset, reached) = (header.next_offset(), RaftIndex(found.0 + 1));
                }
            })
            .map_err(|error| self.segment_error(error))?;
            if reached != index {
                return Err(self.corrupt(format!("the segment {name} ends with entry {reached}, before {index}")));
            }
        }
        // Its index is written anew.
        state.unwritten.retain(|work| work.segment.name < name);
        state.unwritten.push_back(SegmentWork { segment, entries, entries_written: 0, end: None });
        Ok(Place { segment: at, cursor, offset })
    }

    /// Makes the producers' state and the pending entries, and ends the recovery.
    fn finish(&self, row: &GroupRow) -> Result<(), StorageError> {
        let mut files = self.files();
        let snapshot = self.read_snapshots(&mut files)?;
        self.check_first_segment()?;
        let (plans, end, mut tracking) = {
            let mut state = self.state();
            let last = state.last;
            let committed = row.committed.filter(|committed| Some(*committed) <= last).or(row.committed.and(last));
            let committed = committed.max(row.purged.map(|purged| purged.log_id()));
            let covers = snapshot.as_ref().map(|snapshot| snapshot.covers);
            let first = state.segments.first().map_or(state.next_index(), |segment| segment.name.first_index);
            // Entries between the two are read for what they do to the log, not for their producers.
            let lower = covers.zip(committed).map(|(covers, committed)| covers.index.min(committed.index));
            let from = lower.map_or(first, |lower| RaftIndex(lower.0 + 1)).max(first);
            let start = state.segments.first().map_or(state.log_end, |segment| segment.name.base_offset);
            state.high_watermark = snapshot.as_ref().map_or(start, |snapshot| snapshot.next_offset);
            state.pending_first = from;
            state.bytes_since_snapshot = 0;
            state.committed = from.0.checked_sub(1).and_then(|before| state.log_id_at(RaftIndex(before)));
            if let Some(snapshot) = snapshot {
                state.producers = snapshot.producers;
            }
            let plans: Vec<ColdPlan> = (0..state.segments.len()).filter_map(|at| ColdPlan::of(&state, at)).collect();
            let committed = committed.max(covers).map(|committed| committed.index);
            let covered = covers.map(|covers| covers.index);
            (plans, state.next_index(), Tracking { next: from, covered, committed })
        };
        for (at, plan) in plans.iter().enumerate() {
            let ends = plans.get(at + 1).map_or(end, ColdPlan::first_index);
            if tracking.next < ends {
                self.track_segment(&mut files, plan, &mut tracking).map_err(|error| self.segment_error(error))?;
            }
        }
        let mut state = self.state();
        let seen = tracking.next.0.saturating_sub(state.tail_first().0) as usize;
        let cached = state.tail.iter().skip(seen);
        let cached: Vec<_> = cached.map(|cached| (cached.batch.clone(), cached.append_time)).collect();
        for (batch, append_time) in cached {
            let remember = Some(tracking.next) > tracking.covered;
            state.track(&batch, &batch.header(), tracking.next, append_time, remember);
            tracking.next = RaftIndex(tracking.next.0 + 1);
        }
        if let Some(committed) = tracking.committed {
            state.apply(committed);
        }
        if tracking.next < end {
            return Err(self.corrupt(format!("entry {} is missing, {end} should be the next one", tracking.next)));
        }
        // A log start that the journal moved lies at or below what was committed then.
        state.high_watermark = state.high_watermark.max(state.log_start).min(state.log_end);
        state.log_start = state.log_start.min(state.high_watermark);
        state.recovery = None;
        for segment in &state.segments {
            segment.release();
        }
        state.frontiers().assert_ordered();
        Ok(())
    }

    /// Everything behind P must be in a segment.
    fn check_first_segment(&self) -> Result<(), StorageError> {
        let state = self.state();
        let lowest = state.purged.map(|purged| RaftIndex(purged.index.0 + 1)).or(state.lowest());
        let first = state.segments.first().map(|segment| segment.name.first_index);
        let (Some(lowest), Some(last)) = (lowest, state.last) else { return Ok(()) };
        if lowest <= last.index && first.is_none_or(|first| first > lowest) {
            return Err(self.corrupt(format!("the segment with entry {lowest} is missing")));
        }
        Ok(())
    }

    /// Reads the entries of a segment from the next one on into the pending ones, and commits what is committed.
    fn track_segment(
        &self,
        files: &mut FileState,
        plan: &ColdPlan,
        tracking: &mut Tracking,
    ) -> Result<(), SegmentError> {
        let view = self.open_plan(files, plan)?;
        self.opened(plan);
        let mut number = view.floor(|entry| entry.index <= tracking.next)?.unwrap_or(0);
        while number < view.index.len() {
            let block = view.load(number, REPLAY_BLOCK_BYTES)?;
            let mut state = self.state();
            for batch in &block.batches {
                if batch.index < tracking.next {
                    continue;
                }
                let position = u64::from(batch.at);
                let stamped = StampedBatch::from_bytes(block.batch(batch))
                    .map_err(|_| view.segment.damaged(position, "a proven batch does not parse"))?;
                let remember = Some(batch.index) > tracking.covered;
                let append_time = self.context.append_time_of(&batch.header);
                state.track(&stamped, &batch.header, batch.index, append_time, remember);
                state.bytes_since_snapshot += u64::from(batch.header.size_bytes);
                tracking.next = RaftIndex(batch.index.0 + 1);
            }
            if let Some(committed) = tracking.committed {
                state.apply(committed);
            }
            number = block.next_entry;
        }
        Ok(())
    }

    /// The newest producer snapshot that can be proven and that the log still covers; files of no use are removed.
    fn read_snapshots(&self, files: &mut FileState) -> Result<Option<Snapshot>, StorageError> {
        while let Some(name) = files.snapshots.last().copied() {
            let path = self.folder.join(name.file(SegmentFile::Snapshot));
            let bytes = self.context.disk.read(&path, MAX_SNAPSHOT_BYTES);
            let snapshot = bytes.ok().and_then(|bytes| read_snapshot(&bytes).ok());
            let covered = snapshot.filter(|snapshot| {
                let id = self.state().log_id_at(snapshot.covers.index);
                id == Some(snapshot.covers) && name.base_offset == snapshot.next_offset
            });
            if covered.is_some() {
                return Ok(covered);
            }
            self.context.disk.remove_file(&path).map_err(|error| StorageError::io("remove", &path, error))?;
            files.snapshots.pop();
        }
        Ok(None)
    }
}

/// Writes a part of a file over itself: the system then believes of none of it that it is on the disk already.
pub(super) fn write_again(file: &dyn File, from: u64, to: u64) -> std::io::Result<()> {
    let mut position = from;
    let mut buffer = vec![0; REPLAY_BLOCK_BYTES.min((to - from) as usize)];
    while position < to {
        let part = ((to - position) as usize).min(buffer.len());
        file.read_exact_at(&mut buffer[..part], position)?;
        file.write_all_at(&[IoSlice::new(&buffer[..part])], position)?;
        position += part as u64;
    }
    Ok(())
}

/// The name of the row's active segment.
fn name_of(row: &GroupRow) -> Option<SegmentName> {
    row.durable.map(|durable| SegmentName { base_offset: durable.base_offset, first_index: durable.first_index })
}

fn list(context: &LogContext, path: &Path) -> Result<Folder, StorageError> {
    let mut folder = Folder::default();
    let entries = match context.disk.read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(StorageError::io("list", path, error)),
    };
    for entry in entries.iter().filter(|entry| !entry.is_dir) {
        match SegmentName::parse(&entry.name) {
            Some((name, SegmentFile::Log)) => drop(folder.logs.insert(name, entry.len)),
            Some((name, SegmentFile::Index)) => drop(folder.indexes.insert(name)),
            Some((name, SegmentFile::Snapshot)) => drop(folder.snapshots.insert(name)),
            // A crash came before a file that replaces another was renamed.
            None if Path::new(&entry.name).extension() == Some(OsStr::new("tmp")) => {
                let _ = context.disk.remove_file(&path.join(&entry.name));
            }
            None if is_part(&entry.name) => folder.received = folder.received.max(first_index_of_part(&entry.name)),
            None => {}
        }
    }
    Ok(folder)
}
