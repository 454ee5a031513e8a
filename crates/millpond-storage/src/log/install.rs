//! Receiving side of catching up: the closed segments of another replica are gathered beside the log's own, proven, and
//! the log is switched over to them (see [`switch`](super::switch)).

use std::collections::BTreeSet;
use std::io::IoSlice;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};

use millpond_record::RaftIndex;
use millpond_runtime::{File, OpenMode, write_atomically};

use super::Log;
use super::open::write_again;
use super::stall::is_passing;
use super::switch::{Installed, Switching, part_path, remove_parts, retained};
use crate::StorageError;
use crate::index::IndexSource;
use crate::index::{INDEX_HEADER_BYTES, IndexHeader, SegmentCursor, Trailer, check_closed};
use crate::journal::JournalEntry;
use crate::manifest::{Manifest, ManifestSegment, SegmentPart};
use crate::segment::{Expected, Segment, SegmentError, SegmentFile, scan};
use crate::types::{Done, GroupRow, SegmentPosition};

/// A stretch of a file that is still to be received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Which of the manifest's segments.
    pub segment: usize,
    /// Which of its files.
    pub part: SegmentPart,
    /// The first byte.
    pub from: u64,
    /// Behind the last byte.
    pub to: u64,
}

/// A log that is being filled from another replica. Dropped, it leaves what it has received beside the log, where the
/// next one finds it.
pub struct Installation {
    log: Arc<Log>,
    manifest: Manifest,
    segments: Vec<Receiving>,
    switching: Option<Arc<Switching>>,
}

impl std::fmt::Debug for Installation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Installation").field("log", &self.log).field("p", &self.manifest.position).finish()
    }
}

/// One segment on its way.
#[derive(Default)]
struct Receiving {
    /// The log has it already.
    kept: bool,
    /// Received whole, proven and synced.
    proven: bool,
    log: Option<Incoming>,
    index: Option<Incoming>,
}

/// One file on its way; what it has is without a gap.
struct Incoming {
    path: PathBuf,
    file: Arc<dyn File>,
    bytes: u64,
}

impl Log {
    /// Begins to fill the log with what a manifest names. What it has already, or received before, is not wanted again.
    /// The log may be used as before until [`Installation::submit`].
    ///
    /// Blocks: it reads what was received before.
    ///
    /// # Errors
    ///
    /// [`StorageError::NotInstallable`] if the log is not behind the manifest's P; I/O.
    pub fn begin_install(&self, manifest: Manifest) -> Result<Installation, StorageError> {
        self.may_install(&manifest)?;
        // What the log has of it must be in files.
        self.write_all_behind()?;
        let mut installation = Installation {
            log: self.arc()?,
            segments: manifest.segments.iter().map(|_| Receiving::default()).collect(),
            manifest,
            switching: None,
        };
        self.filling.fetch_add(1, Ordering::AcqRel);
        installation.find_own()?;
        {
            let _receiving = self.receives()?;
            let parts = installation.parts();
            remove_parts(&*self.context.disk, &self.folder, |path| parts.contains(path))?;
        }
        for at in 0..installation.segments.len() {
            let _receiving = self.receives()?;
            installation.resume(at)?;
        }
        Ok(installation)
    }

    /// Whether the log is being filled from another replica: while an [`Installation`] of it lives.
    pub fn is_filling(&self) -> bool {
        self.filling.load(Ordering::Acquire) > 0
    }

    fn may_install(&self, manifest: &Manifest) -> Result<(), StorageError> {
        let refused = |what: String| Err(StorageError::NotInstallable { group: self.identity.group, what });
        if let Err(what) = manifest.check() {
            return refused(what.to_owned());
        }
        let state = self.state();
        self.check_open(&state)?;
        if state.installing.is_some() {
            return refused("another installation is being finished".to_owned());
        }
        let p = manifest.position;
        let behind = state.committed.max(state.purged.map(|purged| purged.log_id()));
        if behind.is_some_and(|has| has.index >= p.index) {
            return refused(format!("the log has committed entries up to {behind:?}, and P is {}", p.log_id()));
        }
        Ok(())
    }

    /// Held by who touches the files of received segments.
    pub(super) fn receiving(&self) -> MutexGuard<'_, ()> {
        self.receiving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same, for as long as the folder is this log's.
    fn receives(&self) -> Result<MutexGuard<'_, ()>, StorageError> {
        let receiving = self.receiving();
        if self.retired.load(Ordering::Acquire) {
            return Err(StorageError::LogClosed(self.identity.group));
        }
        Ok(receiving)
    }

    /// Removes received segments that nobody will take up: the log has come by itself to where they lead.
    pub(super) fn remove_leftover(&self) {
        let until = self.leftover.load(Ordering::Acquire);
        let is_of_use = || {
            let state = self.state();
            let behind = state.committed.map_or(0, |committed| committed.index.0 + 1) < until;
            behind || state.installing.is_some() || self.is_filling()
        };
        if until == 0 || is_of_use() {
            return;
        }
        let Ok(_receiving) = self.receives() else { return };
        // Files that cannot be removed now are tried again with the next checkpoint.
        if !is_of_use() && remove_parts(&*self.context.disk, &self.folder, |_| false).is_ok() {
            // Whoever begins to fill the log now has received nothing yet.
            self.leftover.store(0, Ordering::Release);
        }
    }

    fn log_error(&self, path: &std::path::Path, what: &'static str) -> impl FnOnce(std::io::Error) -> StorageError {
        let path = path.to_path_buf();
        move |error| StorageError::io(what, &path, error)
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        if self.switching.is_none() {
            self.log.leftover.store(self.manifest.position.index.0 + 1, Ordering::Release);
        }
        self.log.filling.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Installation {
    /// Whose log it is.
    pub fn group(&self) -> millpond_record::GroupId {
        self.log.identity.group
    }

    /// What is being installed.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// What is still to be received, in the order in which it is best sent.
    pub fn wanted(&self) -> Vec<Wanted> {
        let mut wanted = Vec::new();
        for (at, (facts, receiving)) in self.manifest.segments.iter().zip(&self.segments).enumerate() {
            if receiving.kept || receiving.proven {
                continue;
            }
            for part in [SegmentPart::Log, SegmentPart::Index] {
                let (from, to) = (receiving.has(part), total(facts, part));
                if from < to {
                    wanted.push(Wanted { segment: at, part, from, to });
                }
            }
        }
        wanted
    }

    /// Takes a piece: it must continue what its file has. When the last one of a segment is there the segment is proven
    /// and synced. Blocks.
    ///
    /// # Errors
    ///
    /// [`StorageError::NoSuchPiece`] if it is not the next one. [`StorageError::NotInstallable`] if the segment turns
    /// out not to be what the manifest names: what was received of it is dropped and wanted again. I/O.
    pub fn write(
        &mut self,
        segment: usize,
        part: SegmentPart,
        position: u64,
        bytes: &[u8],
    ) -> Result<(), StorageError> {
        let group = self.log.identity.group;
        let no_such = StorageError::NoSuchPiece { group };
        let facts = *self.manifest.segments.get(segment).ok_or(no_such.clone())?;
        let receiving = &mut self.segments[segment];
        if receiving.kept || receiving.proven || position != receiving.has(part) {
            return Err(no_such);
        }
        if position.checked_add(bytes.len() as u64).is_none_or(|end| end > total(&facts, part)) {
            return Err(no_such);
        }
        let log = Arc::clone(&self.log);
        let _receiving = log.receives()?;
        let path = part_path(&self.log.folder, &facts, kind_of(part));
        let incoming = match receiving.incoming(part) {
            Some(incoming) => incoming,
            empty => {
                // A longer one of an earlier time is cut: what it had was not taken up.
                let file = self.log.context.disk.open(&path, OpenMode::Create);
                let file = file.map_err(self.log.log_error(&path, "open"))?;
                file.set_len(0).map_err(self.log.log_error(&path, "cut"))?;
                empty.insert(Incoming { path: path.clone(), file, bytes: 0 })
            }
        };
        let written = incoming.file.write_all_at(&[IoSlice::new(bytes)], position);
        written.map_err(self.log.log_error(&path, "write"))?;
        incoming.bytes += bytes.len() as u64;
        if part == SegmentPart::Log {
            // The sync at the end finds little to do. Without it nothing is lost.
            let _ = incoming.file.start_writeback(position, bytes.len() as u64);
        }
        if self.segments[segment].is_whole(&facts) {
            return self.finish_segment(segment);
        }
        Ok(())
    }

    /// Whether nothing is wanted any more.
    pub fn is_complete(&self) -> bool {
        self.segments.iter().all(|receiving| receiving.kept || receiving.proven)
    }

    /// Hands the journal the record that switches the log over; `done` is called when it is durable. From here on the
    /// log takes no entry until [`Installation::switch`] is through. Blocks.
    ///
    /// # Errors
    ///
    /// [`StorageError::NotInstallable`] if something is wanted still or the log has gone on meanwhile, and
    /// [`StorageError::TruncationPending`]: nothing was done, and it may be tried again. I/O, the journal's.
    pub fn submit(&mut self, done: Done) -> Result<(), StorageError> {
        let (log, disk) = (self.log.clone(), self.log.context.disk.clone());
        let group = log.identity.group;
        if !self.is_complete() || self.switching.is_some() {
            let what = "it is not complete, or was submitted before".to_owned();
            return Err(StorageError::NotInstallable { group, what });
        }
        log.may_install(&self.manifest)?;
        // Segments that the log keeps must be on the disk, and so must the folder that holds everything.
        log.sync_segments()?;
        let _receiving = log.receives()?;
        let parts = self.parts();
        remove_parts(&*disk, &log.folder, |path| parts.contains(path))?;
        let files = log.files();
        let mut installed = {
            let state = log.state();
            Installed { row: self.row(&log.capture(&state)), segments: self.manifest.segments.clone() }
        };
        let size = installed.size_bytes() as u64;
        let limit = log.context.journal.max_batch_bytes();
        if size > limit {
            return Err(StorageError::BatchTooLarge { bytes: size, limit });
        }
        // By itself, before the marker: if it fails, the names of received files may be lost though they can be seen,
        // and that is final.
        log.sync_dir(&log.folder)?;
        let marker = installed.marker(&log.folder);
        write_atomically(&*disk, &marker, &self.manifest.producers).map_err(|error| {
            // What failed may be a sync.
            let operation = if is_passing(&error) { "write" } else { "sync" };
            StorageError::io(operation, &marker, error)
        })?;
        log.sync_dir(&log.context.root)?;
        log.may_install(&self.manifest)?;
        let mut state = log.state();
        let changed = self.kept_names().any(|name| {
            !files.present.contains(&name) || files.is_unsynced(name) || {
                let closed = state.segments.iter().rev().skip(1).any(|segment| segment.name == name);
                !closed || state.unwritten.iter().any(|work| work.segment.name == name)
            }
        });
        if changed {
            let what = "a segment that the log has already is not whole on the disk".to_owned();
            return Err(StorageError::NotInstallable { group, what });
        }
        if self.manifest.position.term > state.vote.term {
            let (term, vote) = (self.manifest.position.term, state.vote.term);
            let what = format!("P is of term {term}, and this replica has not voted beyond term {vote}");
            return Err(StorageError::NotInstallable { group, what });
        }
        installed.row.vote = state.vote;
        installed.row.options = state.options;
        let record = JournalEntry::Install { installed: Box::new(installed.clone()) };
        let switching = Switching::new(installed, self.manifest.producers.clone());
        let pending = Arc::clone(&switching);
        let done: Done = Box::new(move |result| {
            if result.is_ok() {
                pending.became_durable();
            }
            done(result);
        });
        log.context.journal.submit(vec![record], Some(done))?;
        state.installing = Some(Arc::clone(&switching));
        drop(state);
        self.switching = Some(switching);
        Ok(())
    }

    /// Switches the log over, when what [`Installation::submit`] handed in is durable: afterwards it ends with the
    /// manifest's P, and appends go on behind it. Blocks.
    ///
    /// # Errors
    ///
    /// What a rename or sync says. If it may do better later ([`StorageError::is_passing`]) it may be called again, and
    /// until then the log takes nothing; each checkpoint tries it, too. Otherwise the copy is set aside. Either way the
    /// next start finishes it.
    pub fn switch(&mut self) -> Result<(), StorageError> {
        let log = self.log.clone();
        if self.switching.is_none() {
            let what = "it was not submitted".to_owned();
            return Err(StorageError::NotInstallable { group: log.identity.group, what });
        }
        let waiting = log.finish_switch(&mut log.files())?;
        log.write_succeeded();
        for done in waiting {
            // What they wait for is part of the log that was installed, or no longer part of any.
            done(Ok(()));
        }
        log.context.want_checkpoint();
        Ok(())
    }

    /// The log as of P.
    fn row(&self, now: &GroupRow) -> GroupRow {
        let Manifest { log_start, position, membership, epochs, segments, .. } = &self.manifest;
        let next = RaftIndex(position.index.0 + 1);
        let durable = SegmentPosition {
            base_offset: position.offset,
            first_index: next,
            position: millpond_record::FilePosition(0),
        };
        let mut row = GroupRow {
            purged: Some(*position),
            membership_at_p: membership.clone(),
            membership: membership.clone(),
            log_start: *log_start,
            log_end: position.offset,
            committed: Some(position.log_id()),
            last: Some(position.log_id()),
            durable: Some(durable),
            epochs: epochs.clone(),
            journal_sequence: 0,
            set_aside: false,
            ..now.clone()
        };
        row.retained = retained(segments, &row);
        row
    }

    fn kept_names(&self) -> impl Iterator<Item = crate::segment::SegmentName> + '_ {
        let kept = self.manifest.segments.iter().zip(&self.segments).filter(|(_, receiving)| receiving.kept);
        kept.map(|(facts, _)| facts.name())
    }

    /// Finds the segments that the log has already, and that nobody truncates: before the switch Raft drops all that is
    /// not committed if the log has another entry where P is.
    fn find_own(&mut self) -> Result<(), StorageError> {
        let log = self.log.clone();
        let (own, lasting): (Vec<Arc<Segment>>, RaftIndex) = {
            let state = log.state();
            let lasting = state.committed.map_or(RaftIndex(0), |committed| RaftIndex(committed.index.0 + 1));
            let closed = state.segments.split_last().map_or(&[][..], |(_, closed)| closed);
            let own = closed
                .iter()
                .filter(|own| !state.unwritten.iter().any(|work| work.segment.name == own.name))
                .cloned()
                .collect();
            (own, lasting)
        };
        let manifest = self.manifest.segments.iter().zip(&mut self.segments);
        for (facts, receiving) in manifest.filter(|(facts, _)| facts.next_index <= lasting) {
            let Some(own) = own.iter().find(|own| own.name == facts.name()) else { continue };
            // One that is damaged is received like one that is not there.
            let closed = log.with_index(own, || own.closed());
            own.release();
            receiving.kept = closed.is_ok_and(|closed| {
                let found = (closed.trailer.next_index, closed.trailer.log_bytes, closed.trailer.hash);
                found == (facts.next_index, facts.log_bytes, facts.hash) && matches!(closed.index, IndexSource::Map(..))
            });
        }
        Ok(())
    }

    /// The files of all segments that are to be received.
    fn parts(&self) -> BTreeSet<PathBuf> {
        let wanted = self.manifest.segments.iter().zip(&self.segments).filter(|(_, receiving)| !receiving.kept);
        let both = |facts: &ManifestSegment| {
            [SegmentFile::Log, SegmentFile::Index].map(|kind| part_path(&self.log.folder, facts, kind))
        };
        wanted.flat_map(|(facts, _)| both(facts)).collect()
    }

    /// Takes up what was received of a segment before: all of it if it can be proven, else its batches up to the first
    /// that is not whole. It is written again: an earlier sync of it may have failed, and then a second one says that
    /// all is well without having written anything.
    fn resume(&mut self, at: usize) -> Result<(), StorageError> {
        let (log, facts) = (self.log.clone(), self.manifest.segments[at]);
        if self.segments[at].kept {
            return Ok(());
        }
        let disk = &log.context.disk;
        for part in [SegmentPart::Log, SegmentPart::Index] {
            let path = part_path(&log.folder, &facts, kind_of(part));
            if !disk.exists(&path).map_err(log.log_error(&path, "read"))? {
                continue;
            }
            let file = disk.open(&path, OpenMode::Write).map_err(log.log_error(&path, "open"))?;
            let bytes = file.len().map_err(log.log_error(&path, "read"))?;
            *self.segments[at].incoming(part) = Some(Incoming { path, file, bytes });
        }
        if self.segments[at].is_whole(&facts) {
            for part in [SegmentPart::Log, SegmentPart::Index] {
                if let Some(Incoming { path, file, bytes }) = self.segments[at].incoming(part) {
                    write_again(&**file, 0, *bytes).map_err(log.log_error(path, "write"))?;
                }
            }
            return match self.finish_segment(at) {
                Err(StorageError::NotInstallable { .. }) | Ok(()) => Ok(()),
                Err(error) => Err(error),
            };
        }
        self.segments[at].index = None;
        if let Some(incoming) = &mut self.segments[at].log {
            let end = scan_log(&log, &self.manifest, at, &*incoming.file, incoming.bytes, &mut |_, _, _| {})?;
            incoming.file.set_len(end).map_err(log.log_error(&incoming.path, "cut"))?;
            write_again(&*incoming.file, 0, end).map_err(log.log_error(&incoming.path, "write"))?;
            incoming.bytes = end;
        }
        Ok(())
    }

    /// A segment is whole: proves and syncs it, or drops it.
    fn finish_segment(&mut self, at: usize) -> Result<(), StorageError> {
        let facts = self.manifest.segments[at];
        let Some(wrong) = self.prove(at)? else {
            if let Err(error) = self.sync_received(at) {
                // What that sync lost no later one writes. Files that cannot be removed are written again by the next
                // installation.
                let _ = self.drop_received(at);
                return Err(error);
            }
            self.segments[at].proven = true;
            return Ok(());
        };
        self.drop_received(at)?;
        let what = format!("the segment {} that was received is not the one of the manifest: {wrong}", facts.name());
        Err(StorageError::NotInstallable { group: self.log.identity.group, what })
    }

    fn sync_received(&mut self, at: usize) -> Result<(), StorageError> {
        let received = &mut self.segments[at];
        for part in [SegmentPart::Log, SegmentPart::Index] {
            if let Some(Incoming { path, file, .. }) = received.incoming(part) {
                file.sync_data().map_err(self.log.log_error(path, "sync"))?;
            }
        }
        (received.log, received.index) = (None, None);
        Ok(())
    }

    /// Removes both files of a segment: it is wanted again.
    fn drop_received(&mut self, at: usize) -> Result<(), StorageError> {
        let (log, received) = (&self.log, &mut self.segments[at]);
        let files = [received.log.take(), received.index.take()].into_iter().flatten();
        let removed = files
            .map(|Incoming { path, .. }| log.context.disk.remove_file(&path).map_err(log.log_error(&path, "remove")));
        removed.fold(Ok(()), Result::and)
    }

    /// What is wrong with a received segment: every batch by its CRC, each one's place and term by the one before and
    /// the manifest, the running hash over all, and the index by the batches and its own checksum.
    fn prove(&self, at: usize) -> Result<Option<String>, StorageError> {
        let (log, facts) = (&self.log, self.manifest.segments[at]);
        let name = facts.name();
        let (Some(batches), Some(index)) = (&self.segments[at].log, &self.segments[at].index) else {
            return Ok(Some("a part of it is missing".to_owned()));
        };
        let map = log.context.disk.map(&index.path).map_err(log.log_error(&index.path, "map"))?;
        let (count, trailer) = match check_closed(map.bytes(), name.base_offset, name.first_index) {
            Ok(checked) => checked,
            Err(error) => return Ok(Some(format!("its index: {error}"))),
        };
        let interval = match map.bytes().get(..INDEX_HEADER_BYTES).map(IndexHeader::decode) {
            Some(Ok(header)) => header.interval_bytes,
            _ => return Ok(Some("its index has no header".to_owned())),
        };
        let source = IndexSource::Map(map, count);
        let (mut cursor, mut number, mut same) = (SegmentCursor::START, 0, true);
        let end =
            scan_log(log, &self.manifest, at, &*batches.file, facts.log_bytes.into(), &mut |index, head, header| {
                let time = millpond_record::Timestamp::NONE;
                if let Some(made) = cursor.push(index, head, header, time, interval) {
                    let found = if number < count { source.entry(number).ok() } else { None };
                    number += 1;
                    let found = found.map(|found| crate::index::IndexEntry { append_time: time, ..found });
                    same &= found == Some(made);
                }
            })?;
        let made = Trailer { append_time: trailer.append_time, ..cursor.trailer(facts.next_index) };
        let wrong = if end != u64::from(facts.log_bytes) {
            Some(format!("its batches end at byte {end}"))
        } else if made.hash != facts.hash {
            Some("its running hash differs".to_owned())
        } else if !same || number != count || made != trailer {
            Some("its index does not lead into its batches".to_owned())
        } else {
            None
        };
        Ok(wrong)
    }
}

impl Receiving {
    fn incoming(&mut self, part: SegmentPart) -> &mut Option<Incoming> {
        match part {
            SegmentPart::Log => &mut self.log,
            SegmentPart::Index => &mut self.index,
        }
    }

    /// How much there is of a file.
    fn has(&self, part: SegmentPart) -> u64 {
        let incoming = match part {
            SegmentPart::Log => &self.log,
            SegmentPart::Index => &self.index,
        };
        incoming.as_ref().map_or(0, |incoming| incoming.bytes)
    }

    fn is_whole(&self, facts: &ManifestSegment) -> bool {
        [SegmentPart::Log, SegmentPart::Index].into_iter().all(|part| self.has(part) == total(facts, part))
    }
}

fn total(facts: &ManifestSegment, part: SegmentPart) -> u64 {
    match part {
        SegmentPart::Log => facts.log_bytes.into(),
        SegmentPart::Index => facts.index_bytes,
    }
}

fn kind_of(part: SegmentPart) -> SegmentFile {
    match part {
        SegmentPart::Log => SegmentFile::Log,
        SegmentPart::Index => SegmentFile::Index,
    }
}

/// Walks the batches of a received log file; gives where they end that are what the manifest says.
fn scan_log(
    log: &Log,
    manifest: &Manifest,
    at: usize,
    file: &dyn File,
    length: u64,
    found: &mut dyn FnMut(RaftIndex, &[u8; millpond_record::HEADER_BYTES], &millpond_record::BatchHeader),
) -> Result<u64, StorageError> {
    let facts = &manifest.segments[at];
    let (name, end_offset) = (facts.name(), manifest.end_offset(at));
    let segment = log.state().maker.make(name);
    let start = Expected { offset: name.base_offset, index: name.first_index, term: millpond_record::Term(0) };
    let mut position = 0;
    let mut fits = true;
    let scanned = scan(&segment, file, 0, length, start, |index, head, batch| {
        let header = batch.header();
        let term = millpond_record::Term(header.leader_epoch.0 as u64);
        fits &= manifest.term_at(index) == Some(term)
            && index < facts.next_index
            && header.next_offset() <= end_offset
            && (index.0 + 1 < facts.next_index.0 || header.next_offset() == end_offset);
        if fits {
            position += u64::from(header.size_bytes);
            found(index, head, header);
        }
    });
    match scanned {
        Ok(_) => Ok(position),
        Err(error @ (SegmentError::Log { .. } | SegmentError::Index { .. })) => {
            Err(StorageError::NotInstallable { group: log.identity.group, what: error.to_string() })
        }
        Err(error) => Err(log.segment_error(error)),
    }
}
