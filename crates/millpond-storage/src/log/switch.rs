//! How a log is switched over to what was received of another replica's: one journal record, then file names.
//!
//! | step | a crash behind it leaves |
//! | --- | --- |
//! | received segments (`….part`), proven and synced beside the log's own | the old log |
//! | the folder is synced; the producers as of P: `….snap.part`, synced | the old log |
//! | the journal record, durable: from here on the log is the new one | a start carries out what follows |
//! | segments that are not of the new log are removed, received ones get their names; the folder is synced | the same |
//! | `….snap.part` gets its name; the folder is synced | the new log |
//! | appends go on behind P | the new log |
//!
//! So `….snap.part` tells a start whether the files are still to be put right. Where it is gone the row that the record
//! holds describes the files as a checkpoint's row would, and what lies behind P was appended afterwards.
//!
//! A switch that a full disk or the like interrupts is tried again by whoever installs, and by each checkpoint: until
//! it is through, the journal must keep its record.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{BufMut, Bytes, BytesMut};
use millpond_record::{RaftIndex, Timestamp};
use millpond_runtime::{Disk, OpenMode};

use super::Log;
use super::file_state::FileState;
use super::state::{LogState, SegmentWork};
use crate::StorageError;
use crate::cache::TailCache;
use crate::fields::{FieldError, FieldReader};
use crate::index::{SegmentCursor, check_closed};
use crate::manifest::{ManifestSegment, read_segments};
use crate::producer::{Producers, read_snapshot};
use crate::segment::{Segment, SegmentFile, SegmentName};
use crate::table::{put_row, read_row};
use crate::types::{Done, GroupRow, Retained};

/// The ending of a file that is received, or waits for a switch.
pub(crate) const PART: &str = "part";

/// What a log was switched over to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Installed {
    /// The log as of P. Its journal sequence is that of the record that brings it.
    pub(crate) row: GroupRow,
    /// The closed segments, oldest first.
    pub(crate) segments: Vec<ManifestSegment>,
}

/// A switch whose record the journal was handed.
pub(crate) struct Switching {
    installed: Installed,
    /// The producers as of P, as a snapshot file.
    producers: Bytes,
    durable: AtomicBool,
}

impl Switching {
    pub(super) fn new(installed: Installed, producers: Bytes) -> Arc<Switching> {
        Arc::new(Switching { installed, producers, durable: AtomicBool::new(false) })
    }

    /// The record is durable.
    pub(super) fn became_durable(&self) {
        self.durable.store(true, Ordering::Release);
    }
}

impl Installed {
    pub(crate) fn put(&self, out: &mut BytesMut) {
        put_row(out, &self.row);
        out.put_u32_le(u32::try_from(self.segments.len()).expect("a log has fewer than 2^32 segments"));
        for segment in &self.segments {
            segment.put(out);
        }
    }

    /// Bytes that [`Installed::put`] writes.
    pub(crate) fn size_bytes(&self) -> usize {
        let mut out = BytesMut::new();
        self.put(&mut out);
        out.len()
    }

    pub(crate) fn read(fields: &mut FieldReader<'_>) -> Result<Installed, FieldError> {
        let installed = Installed { row: read_row(fields)?, segments: read_segments(fields)? };
        let whole = installed.row.purged.is_some() && installed.row.durable.is_some();
        if whole { Ok(installed) } else { Err(FieldError::Value) }
    }

    /// The segment that begins behind P.
    fn active(&self) -> SegmentName {
        let at = self.row.durable.expect("checked where it was read, set where it was made");
        SegmentName { base_offset: at.base_offset, first_index: at.first_index }
    }

    /// The row of the log when the record with this sequence number is replayed.
    pub(crate) fn row_at(&self, sequence: u64) -> GroupRow {
        GroupRow { journal_sequence: sequence + 1, ..self.row.clone() }
    }

    /// Where the producers as of P are until the files are put right.
    pub(crate) fn marker(&self, folder: &Path) -> PathBuf {
        folder.join(format!("{}.{PART}", self.active().file(SegmentFile::Snapshot)))
    }

    fn has(&self, name: SegmentName) -> bool {
        self.segments.iter().any(|segment| segment.name() == name)
    }

    /// Puts the files right, if that was not done. May be done again after a crash at any place.
    pub(crate) fn carry_out(&self, disk: &dyn Disk, folder: &Path) -> Result<(), StorageError> {
        let group = self.row.group;
        let error = |what| move |error| StorageError::io(what, folder, error);
        let marker = self.marker(folder);
        if !disk.exists(&marker).map_err(error("list"))? {
            for segment in &self.segments {
                let part = part_path(folder, segment, SegmentFile::Log);
                let own = folder.join(segment.name().file(SegmentFile::Log));
                if disk.exists(&part).map_err(error("list"))? && !disk.exists(&own).map_err(error("list"))? {
                    return Err(self.lost_marker(&marker));
                }
            }
            // The process may have ended before the last sync; the journal's record goes with the next checkpoint.
            let made = disk.exists(folder).map_err(error("list"))?;
            return if made { disk.sync_dir(folder).map_err(error("sync")) } else { Ok(()) };
        }
        for entry in disk.read_dir(folder).map_err(error("list"))?.iter().filter(|entry| !entry.is_dir) {
            let stays = match SegmentName::parse(&entry.name) {
                Some((name, SegmentFile::Log | SegmentFile::Index)) => self.has(name),
                Some((_, SegmentFile::Snapshot)) => false,
                None => true,
            };
            if !stays {
                let path = folder.join(&entry.name);
                disk.remove_file(&path).map_err(|error| StorageError::io("remove", &path, error))?;
            }
        }
        for segment in &self.segments {
            for kind in [SegmentFile::Log, SegmentFile::Index] {
                let (part, path) = (part_path(folder, segment, kind), folder.join(segment.name().file(kind)));
                if disk.exists(&part).map_err(error("list"))? {
                    disk.rename(&part, &path).map_err(|error| StorageError::io("rename", &part, error))?;
                }
            }
            if let Some(what) = differs(disk, folder, segment)? {
                return Err(StorageError::Corrupt { group, what });
            }
        }
        remove_parts(disk, folder, |path| path == marker)?;
        disk.sync_dir(folder).map_err(error("sync"))?;
        let snapshot = folder.join(self.active().file(SegmentFile::Snapshot));
        disk.rename(&marker, &snapshot).map_err(error("rename"))?;
        disk.sync_dir(folder).map_err(error("sync"))
    }

    /// As [`Installed::carry_out`], where it is known that it was not done to its end.
    fn finish(&self, disk: &dyn Disk, folder: &Path) -> Result<(), StorageError> {
        let error = |what| move |error| StorageError::io(what, folder, error);
        let marker = self.marker(folder);
        if disk.exists(&marker).map_err(error("list"))? {
            return self.carry_out(disk, folder);
        }
        // An earlier try may have come as far as the last sync.
        if !disk.exists(&folder.join(self.active().file(SegmentFile::Snapshot))).map_err(error("list"))? {
            return Err(self.lost_marker(&marker));
        }
        disk.sync_dir(folder).map_err(error("sync"))
    }

    fn lost_marker(&self, marker: &Path) -> StorageError {
        let what = format!(
            "{} is missing, without which the switch to the segments received of another broker cannot be finished",
            marker.display()
        );
        StorageError::Corrupt { group: self.row.group, what }
    }
}

impl Log {
    /// Switches the log over if the record of that is durable and it was not done. Gives the appends of the old log
    /// that waited for the writer. The caller holds the mutex of the files. Blocks.
    ///
    /// # Errors
    ///
    /// [`StorageError::TruncationPending`] while the record is not durable; what passes ([`StorageError::is_passing`]);
    /// [`StorageError::SetAside`] for anything else.
    pub(super) fn finish_switch(&self, files: &mut FileState) -> Result<Vec<Done>, StorageError> {
        let group = self.identity.group;
        let switching = {
            let state = self.state();
            if state.set_aside {
                return Err(StorageError::SetAside(group));
            }
            let Some(switching) = state.installing.clone() else { return Ok(Vec::new()) };
            if self.retired.load(Ordering::Acquire) {
                return Err(StorageError::LogClosed(group));
            }
            if !switching.durable.load(Ordering::Acquire) {
                return Err(StorageError::TruncationPending(group));
            }
            for segment in &state.segments {
                segment.release();
            }
            switching
        };
        let installed = &switching.installed;
        let switched = read_snapshot(&switching.producers)
            .map_err(|_| self.corrupt("the producers of a manifest cannot be read twice"))
            .and_then(|snapshot| {
                installed.finish(&*self.context.disk, &self.folder)?;
                Ok(snapshot.producers)
            });
        let producers = switched.map_err(|error| if error.is_passing() { error } else { self.sync_failed(error) })?;
        files.become_of(installed.segments.iter().map(ManifestSegment::name), installed.active());
        self.recent().clear();
        let waiting = self.state().install(installed, producers, &self.context.cache);
        self.leftover.store(0, Ordering::Release);
        Ok(waiting)
    }
}

/// Where a segment's file is until it is whole and the log is switched over. The hash tells it from a segment of the
/// same name and another content.
pub(crate) fn part_path(folder: &Path, segment: &ManifestSegment, kind: SegmentFile) -> PathBuf {
    let file = segment.name().file(kind);
    let (name, extension) = file.rsplit_once('.').expect("a segment's file has an extension");
    folder.join(format!("{name}.{:016x}.{extension}.{PART}", segment.hash))
}

/// Whether a file waits for a switch.
pub(crate) fn is_part(name: &OsStr) -> bool {
    Path::new(name).extension() == Some(OsStr::new(PART))
}

/// Removes the files that wait for a switch, but for some.
pub(super) fn remove_parts(disk: &dyn Disk, folder: &Path, stays: impl Fn(&Path) -> bool) -> Result<(), StorageError> {
    let entries = disk.read_dir(folder).map_err(|error| StorageError::io("list", folder, error))?;
    for entry in entries.iter().filter(|entry| !entry.is_dir && is_part(&entry.name)) {
        let path = folder.join(&entry.name);
        if !stays(&path) {
            disk.remove_file(&path).map_err(|error| StorageError::io("remove", &path, error))?;
        }
    }
    Ok(())
}

/// The first entry of the segment that a received file is of.
pub(super) fn first_index_of_part(name: &OsStr) -> Option<RaftIndex> {
    // As `part_path` makes it: offset, index, hash.
    name.to_str()?.split('.').nth(1)?.parse().ok().map(RaftIndex)
}

/// What of a segment's files in `folder` is not as it should be, as far as their ends tell.
///
/// # Errors
///
/// I/O, but for a file that is missing or too short.
fn differs(disk: &dyn Disk, folder: &Path, segment: &ManifestSegment) -> Result<Option<String>, StorageError> {
    let name = segment.name();
    let damaged = |error: &std::io::Error| {
        matches!(error.kind(), ErrorKind::NotFound | ErrorKind::UnexpectedEof | ErrorKind::InvalidData)
    };
    let (log, index) = (folder.join(name.file(SegmentFile::Log)), folder.join(name.file(SegmentFile::Index)));
    let length = match disk.open(&log, OpenMode::Read).and_then(|file| file.len()) {
        Ok(length) => length,
        Err(error) if damaged(&error) => {
            return Ok(Some(format!("the received segment {name} cannot be read: {error}")));
        }
        Err(error) => return Err(StorageError::io("read", &log, error)),
    };
    let trailer = match disk.map(&index) {
        Ok(map) => {
            let checked = check_closed(map.bytes(), name.base_offset, name.first_index);
            checked.map(|(_, trailer)| trailer).map_err(|error| error.to_string())
        }
        Err(error) if damaged(&error) => Err(error.to_string()),
        Err(error) => return Err(StorageError::io("read", &index, error)),
    };
    Ok(match trailer {
        Err(why) => Some(format!("the index of the received segment {name} is damaged: {why}")),
        Ok(trailer) => {
            let found = (length, trailer.log_bytes, trailer.next_index, trailer.hash);
            let expected = (segment.log_bytes.into(), segment.log_bytes, segment.next_index, segment.hash);
            (found != expected).then(|| format!("the received segment {name} is not the one that was proven"))
        }
    })
}

impl LogState {
    /// Becomes the log as of P. Gives the appends of the old one that were waiting for the writer.
    pub(super) fn install(&mut self, installed: &Installed, producers: Producers, cache: &TailCache) -> Vec<Done> {
        let row = &installed.row;
        let next = row.last.map_or(RaftIndex(0), |last| RaftIndex(last.index.0 + 1));
        let cost = self.tail.drain(..).map(|cached| cached.cost).sum();
        cache.removed(cost, std::mem::take(&mut self.dirty_bytes));
        for segment in &self.segments {
            segment.mark_removed();
            segment.release();
        }
        self.segments = installed.segments.iter().map(|segment| made(self, segment)).collect();
        let active = self.maker.make(installed.active());
        self.segments.push(active.clone());
        self.unwritten =
            VecDeque::from([SegmentWork { segment: active, entries: VecDeque::new(), entries_written: 0, end: None }]);
        self.cursor = SegmentCursor::START;
        self.active_since = Timestamp::NONE;
        self.purged = row.purged;
        self.membership_at_p = row.membership_at_p.clone();
        self.membership = (row.last, row.membership.clone());
        self.memberships = row.last.map(|at| (at.index, row.membership.clone())).into_iter().collect();
        (self.log_start, self.high_watermark, self.log_end) = (row.log_start, row.log_end, row.log_end);
        (self.committed, self.last) = (row.committed, row.last);
        self.epochs = row.epochs.clone();
        self.pending.clear();
        self.pending_first = next;
        self.producers = producers;
        self.next_unwritten = next;
        self.cut = None;
        self.truncations += 1;
        self.unjournaled = None;
        self.barrier = false;
        self.journaled_checkpoints = 0;
        self.synced = row.durable;
        self.next_unsynced = next;
        self.bytes_since_snapshot = 0;
        self.snapshot_due = false;
        self.installing = None;
        self.frontiers().assert_ordered();
        self.relaxed_acks.drain(..).map(|ack| ack.done).collect()
    }
}

fn made(state: &LogState, segment: &ManifestSegment) -> Arc<Segment> {
    let made = state.maker.make(segment.name());
    made.know(segment.log_bytes.into(), None);
    made
}

/// What retention must know of a log that was just installed.
pub(super) fn retained(segments: &[ManifestSegment], row: &GroupRow) -> Retained {
    let next = |at: usize| segments.get(at + 1).map_or(row.log_end, |next| next.base_offset);
    let below = (0..segments.len()).take_while(|at| next(*at) <= row.log_start).count();
    let kept = &segments[below..];
    Retained {
        bytes: kept.iter().map(|segment| u64::from(segment.log_bytes)).sum(),
        oldest_bytes: kept.first().map_or(0, |segment| segment.log_bytes.into()),
        freeable: below > 0,
        ..Retained::NOTHING
    }
}
