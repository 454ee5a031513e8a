//! How a log is switched over to what was received of another replica's: one journal record, then file names.
//!
//! | step | a crash behind it leaves |
//! | --- | --- |
//! | received segments (`….part`), proven and synced beside the log's own | the old log |
//! | the producers as of P: `….snap.part`, synced | the old log |
//! | the journal record, durable: from here on the log is the new one | a start carries out what follows |
//! | segments that are not of the new log are removed, received ones get their names; the folder is synced | the same |
//! | `….snap.part` gets its name; the folder is synced | the new log |
//! | appends go on behind P | the new log |
//!
//! So `….snap.part` tells a start whether the files are still to be put right. Where it is gone the row that the record
//! holds describes the files as a checkpoint's row would, and what lies behind P was appended afterwards.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use millpond_record::{RaftIndex, Timestamp};
use millpond_runtime::{Disk, OpenMode};

use super::state::{LogState, SegmentWork};
use crate::StorageError;
use crate::cache::TailCache;
use crate::fields::{FieldError, FieldReader};
use crate::index::{SegmentCursor, check_closed};
use crate::manifest::{ManifestSegment, read_segments};
use crate::producer::Producers;
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
    pub(super) fn active_name(&self) -> SegmentName {
        self.active()
    }

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
            return Ok(());
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
            if let Some(what) = differs(disk, folder, segment) {
                return Err(StorageError::Corrupt { group, what });
            }
        }
        remove_parts(disk, folder, |path| path == marker)?;
        disk.sync_dir(folder).map_err(error("sync"))?;
        let snapshot = folder.join(self.active().file(SegmentFile::Snapshot));
        disk.rename(&marker, &snapshot).map_err(error("rename"))?;
        disk.sync_dir(folder).map_err(error("sync"))
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

/// What of a segment's files in `folder` is not as it should be, as far as their ends tell.
pub(crate) fn differs(disk: &dyn Disk, folder: &Path, segment: &ManifestSegment) -> Option<String> {
    let name = segment.name();
    let length = disk.open(&folder.join(name.file(SegmentFile::Log)), OpenMode::Read).and_then(|file| file.len());
    let length = match length {
        Ok(length) => length,
        Err(error) => return Some(format!("the received segment {name} cannot be read: {error}")),
    };
    let trailer = disk.map(&folder.join(name.file(SegmentFile::Index))).map_err(|error| error.to_string());
    let trailer = trailer.and_then(|map| {
        let checked = check_closed(map.bytes(), name.base_offset, name.first_index);
        checked.map(|(_, trailer)| trailer).map_err(|error| error.to_string())
    });
    match trailer {
        Err(why) => Some(format!("the index of the received segment {name} is damaged: {why}")),
        Ok(trailer) => {
            let found = (length, trailer.log_bytes, trailer.next_index, trailer.hash);
            let expected = (segment.log_bytes.into(), segment.log_bytes, segment.next_index, segment.hash);
            (found != expected).then(|| format!("the received segment {name} is not the one that was proven"))
        }
    }
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
        self.installing = false;
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
