//! A partition's folder against its row of the table.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use millpond_record::{LogId, RaftIndex, Term};
use millpond_runtime::{File, OpenMode};

use super::course::Course;
use super::segment::{IndexCheck, IndexFile, Misfit, Walked, WalkedBatch, walk};
use super::{At, Severity, Verifier};
use crate::OpenError;
use crate::index::{SegmentCursor, Trailer};
use crate::journal::kept::sequence_of;
use crate::log::may_be_first;
use crate::log::switch::{Installed, is_part, part_path};
use crate::partition_folder::{METADATA_FILE, PartitionMetadata, deleted_name};
use crate::producer::{MAX_SNAPSHOT_BYTES, read_snapshot};
use crate::segment::{Expected, SegmentFile, SegmentName};
use crate::types::GroupRow;

/// What a folder holds.
#[derive(Default)]
struct Listing {
    logs: BTreeSet<SegmentName>,
    indexes: BTreeSet<SegmentName>,
    snapshots: BTreeSet<SegmentName>,
    /// Files with records of the journal, by name.
    kept: BTreeSet<String>,
}

/// How a segment is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// All of it is synced, and its index is closed.
    Closed,
    /// The same, but the journal replaces its end: a crash may have come in the middle of cutting it.
    Reworked,
    /// The active one: synced up to this byte.
    Active(u64),
    /// Newer than the row: whatever is valid counts.
    Newer,
}

/// The log as far as it was walked.
struct Walk<'a> {
    row: Option<&'a GroupRow>,
    expected: Option<Expected>,
    /// Where terms begin, as the batches have them.
    terms: Vec<(Term, RaftIndex)>,
    last: Option<LogId>,
    first_index: Option<RaftIndex>,
    /// A part of it could not be walked.
    broken: bool,
}

impl Verifier<'_> {
    /// Reads a group's folder; `course` learns what it holds beyond the row.
    pub(super) fn partition(&mut self, row: &GroupRow, course: &mut Course) {
        let folder = self.folder_of(row);
        let synced = row.durable.is_some_and(|durable| durable.position.0 > 0);
        match self.disk.exists(&folder) {
            Ok(true) => {}
            Ok(false) if synced => {
                course.over = true;
                return self.damage(&folder, At::FILE, "it is missing, but the table says that it holds data");
            }
            Ok(false) => {
                self.tell(Severity::NeedsRecovery, &folder, At::FILE, "it is missing, and empty: a start makes it");
                return;
            }
            Err(error) => return self.unreadable(&OpenError::io("list", &folder, error)),
        }
        self.metadata(&folder, Some(row));
        let Some(mut listing) = self.listing(&folder) else { return };
        self.leftovers(&folder, row, &mut listing);
        let damages = self.summary.damages;
        self.first_segment(&folder, row, &listing, course);
        let active = row
            .durable
            .map(|at| (SegmentName { base_offset: at.base_offset, first_index: at.first_index }, at.position.0));
        let mut walked =
            Walk { row: Some(row), expected: None, terms: Vec::new(), last: None, first_index: None, broken: false };
        for name in &listing.logs {
            let part = match active {
                Some((active, _)) if *name < active => {
                    let next = listing.logs.range(*name..).nth(1).copied().unwrap_or(active);
                    // A cut right behind a segment opens it again, too: it is the last one then.
                    if course.cut.is_some_and(|cut| cut <= next.first_index) { Part::Reworked } else { Part::Closed }
                }
                Some((active, position)) if *name == active => Part::Active(position),
                _ => Part::Newer,
            };
            if !self.segment(&folder, *name, part, &listing, &mut walked, course) {
                break;
            }
        }
        if let Some((name, position)) = active
            && position > 0
            && !listing.logs.contains(&name)
        {
            let path = folder.join(name.file(SegmentFile::Log));
            self.differs(course, name.first_index, &path, At::FILE, "it is missing, but the table says it has data");
        }
        for name in listing.indexes.difference(&listing.logs) {
            let path = folder.join(name.file(SegmentFile::Index));
            self.tell(Severity::NeedsRecovery, &path, At::FILE, "it has no segment: a start removes it");
        }
        for name in &listing.snapshots {
            self.snapshot(&folder, *name, course);
        }
        for name in &listing.kept {
            self.kept(&folder.join(name), Some(row.group));
        }
        course.over |= self.summary.damages > damages;
    }

    /// Whether the journal has switched a log over whose files do not say so yet.
    pub(super) fn is_unfinished(&self, installed: &Installed) -> bool {
        let folder = self.root.join(installed.row.folder());
        self.disk.exists(&installed.marker(&folder)).unwrap_or(false)
    }

    /// A switch that a crash interrupted: every segment must be there, under its own name or the one it was received
    /// by. What else the folder holds goes.
    pub(super) fn unfinished_switch(&mut self, installed: &Installed, course: &mut Course) {
        let folder = self.root.join(installed.row.folder());
        let what = "a switch to segments received of another broker was interrupted: a start finishes it";
        self.tell(Severity::NeedsRecovery, &folder, At::FILE, what);
        for segment in &installed.segments {
            for (kind, bytes) in
                [(SegmentFile::Log, u64::from(segment.log_bytes)), (SegmentFile::Index, segment.index_bytes)]
            {
                let part = part_path(&folder, segment, kind);
                let own = folder.join(segment.name().file(kind));
                let path = if self.disk.exists(&part).unwrap_or(false) { part } else { own };
                match self.disk.open(&path, OpenMode::Read).and_then(|file| file.len()) {
                    Ok(length) if length == bytes => {}
                    Ok(length) => {
                        let what = format!("it has {length} bytes, but the journal says {bytes}");
                        self.damage(&path, At::byte(length.min(bytes)), what);
                    }
                    Err(error) => self.unreadable(&OpenError::io("read", &path, error)),
                }
            }
        }
        // What comes behind P is in the journal alone: there is nothing to hold to it.
        course.over = true;
    }

    /// A folder that nothing is known of but what it holds.
    pub(super) fn folder_alone(&mut self, folder: &Path) {
        self.metadata(folder, None);
        let Some(listing) = self.listing(folder) else { return };
        let mut walked =
            Walk { row: None, expected: None, terms: Vec::new(), last: None, first_index: None, broken: false };
        let newest = listing.logs.last().copied();
        let mut course = None;
        for name in &listing.logs {
            let part = if Some(*name) == newest { Part::Newer } else { Part::Closed };
            self.segment_of(folder, *name, part, &listing, &mut walked, &mut course);
        }
        for name in &listing.snapshots {
            self.snapshot_alone(folder, *name);
        }
        for name in &listing.kept {
            self.kept(&folder.join(name), None);
        }
    }

    /// The folder of a group: under its name, or under the one that it got for a deletion that did not become durable.
    fn folder_of(&mut self, row: &GroupRow) -> PathBuf {
        let renamed = self.root.join(deleted_name(&row.folder(), row.group));
        if self.summary.clean_stop || !self.disk.exists(&renamed).unwrap_or(false) {
            return self.root.join(row.folder());
        }
        let what = "its deletion did not become durable: a start gives it back its name";
        self.tell(Severity::NeedsRecovery, &renamed, At::FILE, what);
        renamed
    }

    fn metadata(&mut self, folder: &Path, row: Option<&GroupRow>) {
        let path = folder.join(METADATA_FILE);
        let bytes = match self.disk.read(&path, 4 << 10) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return self.tell(Severity::NeedsRecovery, &path, At::FILE, "it is missing: a start writes it");
            }
            Err(error) => return self.unreadable(&OpenError::io("read", &path, error)),
        };
        let Some(row) = row else {
            let found = PartitionMetadata::decode(&bytes).filter(|found| found.encode().as_bytes() == bytes);
            if found.is_none() {
                self.damage(&path, At::FILE, "it is not spelled as a broker writes it");
            }
            return;
        };
        let own = PartitionMetadata { group: row.group, topic_id: row.topic_id }.encode();
        let written = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        if bytes == own.as_bytes() {
            return;
        }
        if own.as_bytes().starts_with(&bytes[..written]) {
            // It is not synced by itself, so a power cut may take a part of it.
            self.tell(Severity::NeedsRecovery, &path, At::FILE, "it is not whole: a start writes it");
        } else {
            let what = format!("it does not name group {} and topic id {}, as the table does", row.group, row.topic_id);
            self.damage(&path, At::FILE, what);
        }
    }

    fn listing(&mut self, folder: &Path) -> Option<Listing> {
        let entries = match self.disk.read_dir(folder) {
            Ok(entries) => entries,
            Err(error) => {
                self.unreadable(&OpenError::io("list", folder, error));
                return None;
            }
        };
        let mut listing = Listing::default();
        for entry in entries {
            match SegmentName::parse(&entry.name) {
                Some((name, SegmentFile::Log)) => drop(listing.logs.insert(name)),
                Some((name, SegmentFile::Index)) => drop(listing.indexes.insert(name)),
                Some((name, SegmentFile::Snapshot)) => drop(listing.snapshots.insert(name)),
                None if entry.name.to_str() == Some(METADATA_FILE) => {}
                None if is_part(&entry.name) => {
                    let what = "a segment that is, or was, on its way from another broker";
                    self.tell(Severity::Note, &folder.join(&entry.name), At::FILE, what);
                }
                None if entry.name.to_str().and_then(sequence_of).is_some() => {
                    listing.kept.insert(entry.name.to_string_lossy().into_owned());
                }
                None => {
                    let path = folder.join(&entry.name);
                    self.tell(Severity::Note, &path, At::FILE, "not a file of the broker's, or one it did not finish");
                }
            }
        }
        Some(listing)
    }

    /// Everything behind P must be in a segment.
    fn first_segment(&mut self, folder: &Path, row: &GroupRow, listing: &Listing, course: &mut Course) {
        let lowest = row.purged.map(|purged| RaftIndex(purged.index.0 + 1));
        let lowest = lowest.or(row.epochs.first().map(|epoch| epoch.index));
        let first = listing.logs.first().map(|name| name.first_index);
        if let (Some(lowest), Some(last)) = (lowest, row.last)
            && lowest <= last.index
            && first.is_none_or(|first| first > lowest)
        {
            self.differs(course, lowest, folder, At::FILE, &format!("the segment with entry {lowest} is missing"));
        }
    }

    /// Segments that the row has wholly below P and the log start: a run that removed them was interrupted.
    fn leftovers(&mut self, folder: &Path, row: &GroupRow, listing: &mut Listing) {
        let stays = |name: &&SegmentName| may_be_first(**name, row);
        let Some(first) = listing.logs.iter().take_while(stays).last().copied() else { return };
        let kept = listing.logs.split_off(&first);
        for name in std::mem::replace(&mut listing.logs, kept) {
            listing.indexes.remove(&name);
            let path = folder.join(name.file(SegmentFile::Log));
            let what = "it is below the log start and was being removed: its first use removes it";
            self.tell(Severity::NeedsRecovery, &path, At::FILE, what);
        }
    }

    /// Something in the segments is not what the table says; where the journal may have replaced it that is no damage.
    fn differs(&mut self, course: &mut Course, index: RaftIndex, path: &Path, at: At, what: &str) {
        if course.may_differ(index) {
            course.diverged_at = Some(course.diverged_at.map_or(index, |before| before.min(index)));
            self.tell(Severity::NeedsRecovery, path, at, format!("{what}; the journal replaces it"));
        } else {
            self.damage(path, at, what);
        }
    }

    fn segment(
        &mut self,
        folder: &Path,
        name: SegmentName,
        part: Part,
        listing: &Listing,
        walked: &mut Walk<'_>,
        course: &mut Course,
    ) -> bool {
        self.segment_of(folder, name, part, listing, walked, &mut Some(course))
    }

    /// Reads one segment; false when what follows cannot be judged any more.
    fn segment_of(
        &mut self,
        folder: &Path,
        name: SegmentName,
        part: Part,
        listing: &Listing,
        walked: &mut Walk<'_>,
        course: &mut Option<&mut Course>,
    ) -> bool {
        let path = folder.join(name.file(SegmentFile::Log));
        let start = Expected { offset: name.base_offset, index: name.first_index, term: Term(0) };
        let mut expected = match walked.expected {
            Some(expected) if (expected.offset, expected.index) == (name.base_offset, name.first_index) => expected,
            Some(expected) => {
                let what = format!("it does not continue the one before, which ends before offset {}", expected.offset);
                match (part, &mut *course) {
                    (Part::Newer, _) => {
                        self.tell(Severity::NeedsRecovery, &path, At::FILE, format!("{what}: a start removes it"));
                        return false;
                    }
                    (_, Some(course)) => self.differs(course, name.first_index, &path, At::FILE, &what),
                    (_, None) => self.damage(&path, At::FILE, what),
                }
                start
            }
            None => start,
        };
        walked.first_index.get_or_insert(name.first_index);
        let opened = self.disk.open(&path, OpenMode::Read).and_then(|file| Ok((file.len()?, file)));
        let (length, file) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                self.unreadable(&OpenError::io("read", &path, error));
                return false;
            }
        };
        self.summary.segments += 1;
        let replaced = course.as_ref().is_some_and(|course| course.cut.is_some());
        // An index that is made anew by a start, or with one, may be missing or unfinished.
        let behind = matches!(part, Part::Newer | Part::Active(0) | Part::Reworked) || replaced;
        let listed = listing.indexes.contains(&name);
        let index = self.index(folder, name, part, listed, length, behind && walked.row.is_some());
        let trailer = index.as_ref().and_then(|(_, trailer)| *trailer);
        let mut check = match index {
            Some((index, trailer)) => {
                let limit = index.entries - u32::from(trailer.is_some());
                IndexCheck::new(Some(index), limit)
            }
            None => IndexCheck::new(None, 0),
        };
        let synced = match part {
            Part::Closed | Part::Reworked => length,
            Part::Active(position) => position,
            Part::Newer => 0,
        };
        let mut segment = OneSegment { path: &path, file: &*file, name, proven: trailer.is_some(), replaced };
        let end = synced.min(length);
        if !self.synced_part(&mut segment, end, &mut expected, &mut check, walked, course) {
            (walked.expected, walked.broken) = (None, true);
            return matches!(part, Part::Closed | Part::Reworked);
        }
        if length < synced {
            let what = format!("it has {length} bytes, but the table says that {synced} are synced");
            match course {
                Some(course) => self.differs(course, expected.index, &path, At::byte(length), &what),
                None => self.damage(&path, At::byte(length), what),
            }
        }
        if let Some(trailer) = trailer {
            self.end_of_closed(&segment, &check, &expected, &trailer, part);
        }
        if matches!(part, Part::Active(_)) && length >= synced {
            self.end_of_active(&segment, end, &expected, walked, course);
        }
        if matches!(part, Part::Active(_) | Part::Newer) && length > end {
            self.beyond(&segment, (end, length), &mut expected, &mut check, walked, course);
        }
        walked.expected = Some(expected);
        true
    }

    /// Opens the index of a segment, with the trailer if it is closed.
    fn index(
        &mut self,
        folder: &Path,
        name: SegmentName,
        part: Part,
        listed: bool,
        length: u64,
        unsure: bool,
    ) -> Option<(IndexFile, Option<Trailer>)> {
        let path = folder.join(name.file(SegmentFile::Index));
        let severity = if unsure { Severity::NeedsRecovery } else { Severity::Damage };
        if !listed {
            if length > 0 {
                self.tell(severity, &path, At::FILE, "it is missing");
            }
            return None;
        }
        let index = match IndexFile::open(self.disk, folder, name) {
            Ok(index) => index,
            Err(what) => {
                let remade = if part == Part::Closed { "" } else { ": a start makes it anew from the segment" };
                self.tell(severity, &path, At::FILE, format!("{what}{remade}"));
                return None;
            }
        };
        if part != Part::Closed {
            return Some((index, None));
        }
        match index.trailer() {
            Ok(trailer) if u64::from(trailer.log_bytes) == length => Some((index, Some(trailer))),
            Ok(trailer) => {
                let log = folder.join(name.file(SegmentFile::Log));
                let what = format!("it has {length} bytes, but its index says {}", trailer.log_bytes);
                self.damage(&log, At::byte(length.min(trailer.log_bytes.into())), what);
                Some((index, Some(trailer)))
            }
            Err(what) => {
                self.damage(&path, At::FILE, what);
                None
            }
        }
    }

    /// Reads what is synced of a segment. Behind a damage it goes on at the next entry of a proven index; false when it
    /// did not come to the end.
    fn synced_part(
        &mut self,
        segment: &mut OneSegment<'_>,
        end: u64,
        expected: &mut Expected,
        check: &mut IndexCheck,
        walked: &mut Walk<'_>,
        course: &mut Option<&mut Course>,
    ) -> bool {
        let (mut position, mut whole) = (0, true);
        loop {
            let stopped = self.walk_segment(segment, position, end, expected, check, walked);
            let Some(Walked { position: at, wrong: Some(wrong) }) = stopped else { return whole && stopped.is_some() };
            whole = false;
            let place = At::batch(at, expected.offset);
            match course {
                Some(course) => self.differs(course, expected.index, segment.path, place, &wrong),
                None => self.damage(segment.path, place, wrong),
            }
            let next = if segment.proven { resume(check, at) } else { None };
            let Some((entry_at, resumed)) = next else {
                if end - at > 0 {
                    let what = format!("the {} bytes from here to the end were not looked at", end - at);
                    self.tell(Severity::Note, segment.path, At::byte(at), what);
                }
                return false;
            };
            *expected = Expected { term: expected.term, ..resumed };
            position = entry_at;
        }
    }

    /// Walks batches and holds the index to them; `None` when the file could not be read.
    fn walk_segment(
        &mut self,
        segment: &OneSegment<'_>,
        from: u64,
        end: u64,
        expected: &mut Expected,
        check: &mut IndexCheck,
        walked: &mut Walk<'_>,
    ) -> Option<Walked> {
        let mut misfits: Vec<Misfit> = Vec::new();
        let summary = &mut self.summary;
        let result = walk(segment.file, from, end, expected, &mut |batch: &WalkedBatch<'_>| {
            summary.batches += 1;
            summary.records += u64::from(batch.header.record_count.unsigned_abs());
            summary.segment_bytes += u64::from(batch.header.size_bytes);
            if walked.terms.last().is_none_or(|last| last.0 < batch.id.term) {
                walked.terms.push((batch.id.term, batch.id.index));
            }
            walked.last = Some(batch.id);
            misfits.extend(check.batch(batch)?);
            Ok(())
        });
        for misfit in misfits {
            if let Some(index) = &check.index {
                let path = index.path.clone();
                let severity = if segment.replaced { Severity::NeedsRecovery } else { Severity::Damage };
                self.tell(severity, &path, At::batch(misfit.position, misfit.offset), misfit.what);
            }
        }
        result.map_err(|error| self.unreadable(&OpenError::io("read", segment.path, error))).ok()
    }

    /// The end of a closed segment: its batches must be what the trailer says.
    fn end_of_closed(
        &mut self,
        segment: &OneSegment<'_>,
        check: &IndexCheck,
        expected: &Expected,
        trailer: &Trailer,
        part: Part,
    ) {
        let SegmentCursor { position, hash, max_timestamp, append_time, .. } = check.cursor;
        let is = (position, hash, max_timestamp, expected.index);
        if part == Part::Closed && is != (trailer.log_bytes, trailer.hash, trailer.max_timestamp, trailer.next_index) {
            let what = "the running hash, length or times of its batches differ from the trailer of its index";
            self.damage(segment.path, At::byte(position.into()), what);
        } else if check.next < check.limit {
            let what = format!("{} entries of its index lead nowhere", check.limit - check.next);
            self.damage(segment.path, At::FILE, what);
        } else if check.limit > 0 && append_time > trailer.append_time {
            self.damage(segment.path, At::FILE, "the trailer of its index has an earlier append time than an entry");
        }
    }

    /// The end of the synced part of the active segment: the log must be where the row says.
    fn end_of_active(
        &mut self,
        segment: &OneSegment<'_>,
        end: u64,
        expected: &Expected,
        walked: &Walk<'_>,
        course: &mut Option<&mut Course>,
    ) {
        let (Some(row), Some(course)) = (walked.row, course) else { return };
        let last_index = expected.index.0.checked_sub(1).map(RaftIndex);
        let last = walked.last.or(row.last.filter(|last| Some(last.index) == last_index));
        let ends = (last, expected.offset);
        if ends != (row.last, row.log_end) {
            let what = format!(
                "its synced batches end before offset {}, in another place than the table says ({})",
                expected.offset, row.log_end
            );
            self.differs(course, expected.index, segment.path, At::byte(end), &what);
            return;
        }
        let first = walked.first_index.unwrap_or(segment.name.first_index);
        let known: Vec<_> = row.epochs.iter().map(|epoch| (epoch.term, epoch.index)).collect();
        let begun = known.partition_point(|(_, index)| *index <= first);
        let same = walked.terms.get(1..).unwrap_or_default() == &known[begun.min(known.len())..]
            && walked.terms.first().map(|first| first.0) == begun.checked_sub(1).map(|at| known[at].0);
        if !walked.broken && !walked.terms.is_empty() && !same {
            let what = "the leader epochs of its batches change at other places than the table says";
            self.differs(course, first, segment.path, At::byte(end), what);
        }
    }

    /// What the segments hold beyond the table: a start takes what is valid and cuts the rest.
    fn beyond(
        &mut self,
        segment: &OneSegment<'_>,
        (from, length): (u64, u64),
        expected: &mut Expected,
        check: &mut IndexCheck,
        walked: &mut Walk<'_>,
        course: &mut Option<&mut Course>,
    ) {
        // Its index is made again from the batches.
        check.limit = 0;
        let begin = expected.offset;
        let batches = self.summary.batches;
        let Some(stopped) = self.walk_segment(segment, from, length, expected, check, walked) else { return };
        if let (Some(course), Some(last)) = (course, walked.last)
            && self.summary.batches > batches
        {
            for (term, index) in &walked.terms {
                if course.terms.last().is_none_or(|last| last.0 < *term && last.1 < *index) {
                    course.terms.push((*term, *index));
                }
            }
            course.found(last, expected.offset);
        }
        if walked.row.is_none() {
            if let Some(wrong) = stopped.wrong {
                self.damage(segment.path, At::batch(stopped.position, expected.offset), wrong);
            }
            return;
        }
        if self.summary.batches > batches {
            let what = format!(
                "{} batches, offsets {begin} to {}, are not in the table yet: a start takes them up",
                self.summary.batches - batches,
                expected.offset.0 - 1
            );
            self.tell(Severity::NeedsRecovery, segment.path, At::byte(from), what);
        }
        if let Some(wrong) = stopped.wrong {
            let what = format!("{wrong}: a start cuts the {} bytes from here on", length - stopped.position);
            self.tell(Severity::NeedsRecovery, segment.path, At::batch(stopped.position, expected.offset), what);
        }
    }

    fn snapshot(&mut self, folder: &Path, name: SegmentName, course: &Course) {
        let Some(covers) = self.snapshot_alone(folder, name) else { return };
        let last = course.last.map(|last| last.index);
        if Some(covers.index) > last && course.cut.is_none() {
            let what = format!("it covers entry {covers}, which the segments do not hold");
            self.tell(Severity::NeedsRecovery, &folder.join(name.file(SegmentFile::Snapshot)), At::FILE, what);
        }
    }

    /// Proves a producer snapshot by itself and gives what it covers.
    fn snapshot_alone(&mut self, folder: &Path, name: SegmentName) -> Option<LogId> {
        let path = folder.join(name.file(SegmentFile::Snapshot));
        self.summary.snapshots += 1;
        let remade = "a start removes it and reads the batches instead";
        let what = match self.disk.read(&path, MAX_SNAPSHOT_BYTES) {
            Err(error) => format!("it cannot be read ({error}): {remade}"),
            Ok(bytes) => match read_snapshot(&bytes) {
                Err(_) => format!("its checksum or a field does not match: {remade}"),
                Ok(found)
                    if found.next_offset != name.base_offset || found.covers.index.0 + 1 != name.first_index.0 =>
                {
                    format!("it covers entry {}, not what its name says: {remade}", found.covers)
                }
                Ok(found) => return Some(found.covers),
            },
        };
        self.damage(&path, At::FILE, what);
        None
    }
}

/// One segment that is being read.
struct OneSegment<'a> {
    path: &'a Path,
    file: &'a dyn File,
    name: SegmentName,
    /// Its index is closed and proven.
    proven: bool,
    /// The journal cuts the log somewhere: its index may be ahead of it or behind.
    replaced: bool,
}

/// The first entry behind a damaged place, and what its batch must be.
fn resume(check: &mut IndexCheck, damaged: u64) -> Option<(u64, Expected)> {
    let mut previous = None;
    loop {
        let entry = check.peek().ok()??;
        if u64::from(entry.position) > damaged {
            check.cursor = SegmentCursor::before(&entry, check.next, previous.as_ref());
            let expected = Expected { offset: entry.offset, index: entry.index, term: Term(0) };
            return Some((entry.position.into(), expected));
        }
        check.next += 1;
        previous = Some(entry);
    }
}
