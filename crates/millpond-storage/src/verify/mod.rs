//! Verifies a stopped broker's data directory: reads everything, believes nothing, changes nothing.
//!
//! 1. `meta.properties` and `groups.table`, each by its checksum;
//! 2. the journal from the place that the table names ([`journal`]);
//! 3. every partition's folder, batch by batch, against its row of the table ([`partition`], [`segment`]);
//! 4. what a start would replay, played through without writing anything ([`course`]).
//!
//! What a start after a crash mends by itself (a torn last write, segments that are ahead of the table) *needs
//! recovery* and is no damage. Memory: the table, one window of a file, and per group with news in the
//! journal a few numbers.

mod compare;
#[cfg(test)]
mod compare_tests;
mod course;
mod journal;
mod partition;
mod segment;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use millpond_record::{GroupId, Offset};
use millpond_runtime::{Disk, DiskLock};

use crate::OpenError;
use crate::data_dir::{LOCK_FILE, lock};
use crate::journal::scan::{folder_of, list};
use crate::meta::{META_FILE, MetaProperties};
use crate::partition_folder::FolderName;
use crate::table::{TABLE_FILE, Table};
use crate::types::GroupRow;

pub use compare::{CompareSummary, Difference, compare};
pub(crate) use segment::{IndexFile, WalkedBatch, walk};

use course::Course;
use journal::Outline;

/// What a finding means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Something is not as it was written.
    Damage,
    /// A start after a crash mends it, and loses nothing that was acknowledged.
    NeedsRecovery,
    /// Worth knowing, and right as it is.
    Note,
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it means.
    pub severity: Severity,
    /// The file or folder.
    pub path: PathBuf,
    /// The byte in the file, where one can be named.
    pub position: Option<u64>,
    /// The offset of the record batch, where one can be named.
    pub offset: Option<Offset>,
    /// What was found, as the rest of a sentence that begins with the place.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if let Some(position) = self.position {
            write!(f, ", byte {position}")?;
        }
        if let Some(offset) = self.offset {
            write!(f, ", offset {offset}")?;
        }
        write!(f, ": {}", self.what)
    }
}

/// What was read and how it ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerifySummary {
    /// Whether the last stop was clean.
    pub clean_stop: bool,
    /// Groups (partition logs) of the table and the journal.
    pub groups: u64,
    /// Segments that were read.
    pub segments: u64,
    /// Batches in them, Raft-only entries included.
    pub batches: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes of those segments.
    pub segment_bytes: u64,
    /// Journal files that a start reads.
    pub journal_files: u64,
    /// Journal records that a start replays.
    pub journal_records: u64,
    /// Producer snapshots that were read.
    pub snapshots: u64,
    /// Findings of [`Severity::Damage`].
    pub damages: u64,
    /// Findings of [`Severity::NeedsRecovery`].
    pub recoveries: u64,
    /// Findings of [`Severity::Note`].
    pub notes: u64,
}

/// Verifies the data directory `root` of a stopped broker and tells each finding to `found`. Blocking; writes nothing.
///
/// # Errors
///
/// When there is nothing to verify: the directory is missing, is no data directory, is in use, or cannot be listed.
/// Damage is not an error but a finding.
pub fn verify(disk: &dyn Disk, root: &Path, found: &mut dyn FnMut(&Finding)) -> Result<VerifySummary, OpenError> {
    let _lock = open_stopped(disk, root)?;
    let mut verifier = Verifier { disk, root, found, summary: VerifySummary::default() };
    verifier.run();
    Ok(verifier.summary)
}

/// Sees to it that a data directory is there and nobody uses it while the lock is held.
fn open_stopped(disk: &dyn Disk, root: &Path) -> Result<Option<Box<dyn DiskLock>>, OpenError> {
    let list_error = |error: io::Error| match error.kind() {
        io::ErrorKind::NotADirectory => not_a_data_dir(root, "it is not a folder"),
        io::ErrorKind::NotFound => not_a_data_dir(root, "there is no such folder"),
        _ => OpenError::io("list", root, error),
    };
    let entries = disk.read_dir(root).map_err(list_error)?;
    let has = |name: &str| entries.iter().any(|entry| entry.name.to_str() == Some(name));
    if !has(META_FILE) && !has(TABLE_FILE) {
        return Err(not_a_data_dir(root, "it has neither meta.properties nor groups.table"));
    }
    // Every opener makes this file before anything else; to make it here would be a change.
    if has(LOCK_FILE) { lock(disk, root).map(Some) } else { Ok(None) }
}

fn not_a_data_dir(root: &Path, why: &'static str) -> OpenError {
    OpenError::NotADataDirectory { path: root.to_path_buf(), why }
}

/// Where in a file something was found.
#[derive(Clone, Copy, Debug, Default)]
struct At {
    position: Option<u64>,
    offset: Option<Offset>,
}

impl At {
    const FILE: At = At { position: None, offset: None };

    fn byte(position: u64) -> At {
        At { position: Some(position), offset: None }
    }

    fn batch(position: u64, offset: Offset) -> At {
        At { position: Some(position), offset: Some(offset) }
    }
}

struct Verifier<'a> {
    disk: &'a dyn Disk,
    root: &'a Path,
    found: &'a mut dyn FnMut(&Finding),
    summary: VerifySummary,
}

impl Verifier<'_> {
    fn tell(&mut self, severity: Severity, path: &Path, at: At, what: impl Into<String>) {
        *match severity {
            Severity::Damage => &mut self.summary.damages,
            Severity::NeedsRecovery => &mut self.summary.recoveries,
            Severity::Note => &mut self.summary.notes,
        } += 1;
        let (position, offset) = (at.position, at.offset);
        (self.found)(&Finding { severity, path: path.to_path_buf(), position, offset, what: what.into() });
    }

    fn damage(&mut self, path: &Path, at: At, what: impl Into<String>) {
        self.tell(Severity::Damage, path, at, what);
    }

    /// Tells an error of opening or reading as damage.
    fn unreadable(&mut self, error: &OpenError) {
        let (path, what) = match error {
            OpenError::Damaged { path, what } => (path.clone(), what.clone()),
            OpenError::Io { operation, path, source } => (path.clone(), format!("cannot {operation} it: {source}")),
            other => (self.root.to_path_buf(), other.to_string()),
        };
        self.damage(&path, At::FILE, what);
    }

    fn run(&mut self) {
        self.summary.clean_stop = self.meta();
        let clean = self.summary.clean_stop;
        let table = Table::read(self.disk, self.root).map_err(|error| self.unreadable(&error)).ok();
        let Some(table) = table else {
            // Without it nobody knows where the journal begins or which folders there should be.
            self.folders_alone();
            return;
        };
        let outline = self.outline(&table, clean);
        let rows = Self::rows(&table, &outline);
        let mut folders = BTreeSet::new();
        let mut courses = BTreeMap::new();
        for row in &rows {
            self.summary.groups += 1;
            self.row(row);
            if !folders.insert(row.folder()) {
                let what = format!("group {} has the folder {}, which another group has, too", row.group, row.folder());
                self.damage(&self.root.join(TABLE_FILE), At::FILE, what);
                continue;
            }
            let mut course = Course::new(row, outline.cuts.get(&row.group).copied());
            let unfinished = outline.installed.get(&row.group).filter(|(_, installed)| self.is_unfinished(installed));
            match unfinished {
                Some((_, installed)) => self.unfinished_switch(installed, &mut course),
                None => self.partition(row, &mut course),
            }
            courses.insert(row.group, course);
        }
        if outline.whole {
            self.replay(&table, &outline, &mut courses);
        }
        for row in &rows {
            if let Some(course) = courses.get(&row.group) {
                self.end_of_course(row, course);
            }
        }
        let groups = rows.iter().map(|row| row.group).collect();
        self.other_folders(&folders, &groups);
    }

    /// The groups as the table and the journal have them.
    fn rows(table: &Table, outline: &Outline) -> Vec<GroupRow> {
        let mut rows: Vec<GroupRow> =
            table.rows.values().filter(|row| !outline.deleted.contains(&row.group)).cloned().collect();
        let unknown = |group: &GroupId| !table.rows.contains_key(group) && !outline.deleted.contains(group);
        let created = outline.created.iter().filter(|(group, _)| unknown(group));
        rows.extend(created.map(|(_, (sequence, spec))| GroupRow::new(spec, sequence + 1)));
        rows.retain(|row| !outline.installed.contains_key(&row.group) || row.set_aside);
        let in_force = |group: &GroupId| {
            !outline.deleted.contains(group) && !table.rows.get(group).is_some_and(|row| row.set_aside)
        };
        let installed = outline.installed.iter().filter(|(group, _)| in_force(group));
        rows.extend(installed.map(|(_, (sequence, installed))| installed.row_at(*sequence)));
        rows.sort_by_key(|row| row.group);
        rows
    }

    /// Checks `meta.properties` and tells whether the last stop was clean.
    fn meta(&mut self) -> bool {
        let path = self.root.join(META_FILE);
        let meta = match MetaProperties::read(self.disk, self.root) {
            Ok(Some(meta)) => meta,
            // It is written last.
            Ok(None) if self.is_unused() => {
                let what = "it is missing, and there is no data: the first start was not finished";
                self.tell(Severity::NeedsRecovery, &path, At::FILE, what);
                return false;
            }
            Ok(None) => {
                self.damage(&path, At::FILE, "it is missing, but there is data");
                return false;
            }
            Err(error) => {
                self.unreadable(&error);
                return false;
            }
        };
        let spelled = self.disk.read(&path, 1 << 16).is_ok_and(|bytes| bytes == meta.encode().as_bytes());
        if !spelled {
            self.damage(&path, At::FILE, "it is not spelled as a broker writes it");
        }
        meta.clean_stop
    }

    /// Whether the directory is as a first start leaves it that did not come to its end.
    fn is_unused(&self) -> bool {
        let empty = Table::read(self.disk, self.root).is_ok_and(|table| table.rows.is_empty());
        empty && list(self.disk, &folder_of(self.root)).is_ok_and(|numbers| numbers.is_empty())
    }

    /// What a row of the table says about itself.
    fn row(&mut self, row: &GroupRow) {
        let (group, path) = (row.group, self.root.join(TABLE_FILE));
        let mut wrong = |what: String| self.damage(&path, At::FILE, format!("the row of group {group}: {what}"));
        if row.log_start > row.log_end {
            wrong(format!("the log starts at {} and ends at {}", row.log_start, row.log_end));
        }
        if row.committed > row.last {
            wrong("what is committed is behind the last entry".into());
        }
        if row.last.is_some_and(|last| last.term > row.vote.term) {
            wrong("the last entry's term is above the vote's".into());
        }
        if row.purged.is_some_and(|purged| Some(purged.index) > row.last.map(|last| last.index)) {
            wrong("P is behind the last entry".into());
        }
        let rises = row.epochs.windows(2).all(|pair| {
            pair[0].term < pair[1].term && pair[0].index < pair[1].index && pair[0].offset <= pair[1].offset
        });
        if !rises {
            wrong("its terms do not rise with index and offset".into());
        }
        if row.set_aside {
            let what = format!("group {group} ({}) is set aside: its copy is not opened any more", row.folder());
            self.tell(Severity::Note, &path, At::FILE, what);
        }
    }

    /// The folders of the directory that no group has.
    fn other_folders(&mut self, known: &BTreeSet<String>, groups: &BTreeSet<GroupId>) {
        let Ok(entries) = self.disk.read_dir(self.root) else { return };
        for entry in entries.iter().filter(|entry| entry.is_dir) {
            let Some(name) = entry.name.to_str() else { continue };
            let path = self.root.join(name);
            let clean = self.summary.clean_stop;
            match FolderName::parse(name) {
                FolderName::Partition if known.contains(name) => {}
                FolderName::Partition if !clean => {
                    let what = "no group has this folder: a start removes it, or sets it aside if it holds data";
                    self.tell(Severity::NeedsRecovery, &path, At::FILE, what);
                }
                FolderName::Partition => self.tell(Severity::Note, &path, At::FILE, "no group has this folder"),
                FolderName::Deleted { group, .. } if groups.contains(&group) => {}
                FolderName::Deleted { .. } => {
                    self.tell(
                        Severity::Note,
                        &path,
                        At::FILE,
                        "what is left of a deleted partition, removed by a start",
                    );
                }
                FolderName::Stray => {
                    self.tell(Severity::Note, &path, At::FILE, "set aside by a start, because no group has it");
                }
                FolderName::Other if path == folder_of(self.root) => {}
                FolderName::Other => self.tell(Severity::Note, &path, At::FILE, "not a folder of the broker's"),
            }
        }
    }

    /// All partition folders, when there is no table to hold them to.
    fn folders_alone(&mut self) {
        let entries = match self.disk.read_dir(self.root) {
            Ok(entries) => entries,
            Err(error) => return self.unreadable(&OpenError::io("list", self.root, error)),
        };
        for entry in entries.iter().filter(|entry| entry.is_dir) {
            if let Some(name) = entry.name.to_str().filter(|name| FolderName::parse(name) == FolderName::Partition) {
                self.summary.groups += 1;
                self.folder_alone(&self.root.join(name));
            }
        }
    }
}
