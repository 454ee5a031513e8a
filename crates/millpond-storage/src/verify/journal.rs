//! The journal, read as a start reads it, and what is in it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use millpond_record::{GroupId, RaftIndex};
use millpond_runtime::OpenMode;

use super::course::Course;
use super::{At, Severity, Verifier};
use crate::OpenError;
use crate::journal::JournalEntry;
use crate::journal::file::{path_of, whole_copies};
use crate::journal::kept::{KeptError, KeptReader};
use crate::journal::record::Kind;
use crate::journal::scan::{self, Scanned};
use crate::log::switch::Installed;
use crate::meta::META_FILE;
use crate::table::Table;
use crate::types::{GroupRow, GroupSpec};

/// What the journal says in the large.
#[derive(Default)]
pub(super) struct Outline {
    /// Groups that it creates, with the record that does it.
    pub(super) created: BTreeMap<GroupId, (u64, GroupSpec)>,
    /// Groups that it deletes.
    pub(super) deleted: BTreeSet<GroupId>,
    /// What logs were switched over to, with the last record of each that does it.
    pub(super) installed: BTreeMap<GroupId, (u64, Installed)>,
    /// The lowest index from which on it replaces entries that a row counts: from there on segments may differ from it.
    pub(super) cuts: BTreeMap<GroupId, RaftIndex>,
    /// It could be read from end to end.
    pub(super) whole: bool,
    files: Vec<u64>,
}

impl Outline {
    fn take(&mut self, rows: &BTreeMap<GroupId, GroupRow>, sequence: u64, entry: JournalEntry) {
        let group = entry.group();
        let covered = rows.get(&group).is_some_and(|row| sequence < row.journal_sequence);
        let cut = match entry {
            JournalEntry::Create { spec } => {
                self.created.insert(group, (sequence, spec));
                None
            }
            JournalEntry::Delete { .. } => {
                self.deleted.insert(group);
                None
            }
            JournalEntry::Install { installed } => {
                // Whatever came before it counts no more.
                if !covered {
                    self.cuts.remove(&group);
                    self.installed.insert(group, (sequence, *installed));
                }
                None
            }
            JournalEntry::Truncate { after, .. } => Some(after.map_or(RaftIndex(0), |after| RaftIndex(after.0 + 1))),
            JournalEntry::Append { index, term, .. } | JournalEntry::Placed { index, term, .. } => {
                let row = self.installed.get(&group).map(|(_, installed)| &installed.row);
                row.or_else(|| rows.get(&group)).and_then(|row| {
                    let at = row.epochs.partition_point(|epoch| epoch.index <= index).checked_sub(1)?;
                    (row.last.is_some_and(|last| index <= last.index) && row.epochs[at].term < term).then_some(index)
                })
            }
            _ => None,
        };
        if let Some(cut) = cut.filter(|_| !covered) {
            let lowest = self.cuts.entry(group).or_insert(cut);
            *lowest = cut.min(*lowest);
        }
    }
}

impl Verifier<'_> {
    /// Reads the journal from the place that the table names.
    pub(super) fn outline(&mut self, table: &Table, clean: bool) -> Outline {
        let folder = scan::folder_of(self.root);
        let mut outline = Outline::default();
        let scanned = scan::list(self.disk, &folder).and_then(|numbers| {
            scan::scan(self.disk, &folder, &numbers, table.replay_from, &mut |record| {
                outline.take(&table.rows, record.header.sequence, record.entry()?);
                Ok(())
            })
        });
        match scanned {
            Ok(scanned) => {
                outline.whole = true;
                outline.files.clone_from(&scanned.files);
                self.summary.journal_files = scanned.files.len() as u64;
                self.summary.journal_records = scanned.records;
                self.end_of_journal(&folder, &scanned, clean);
            }
            Err(error) => self.unreadable(&error),
        }
        outline
    }

    fn end_of_journal(&mut self, folder: &Path, scanned: &Scanned, clean: bool) {
        for number in &scanned.files {
            let path = path_of(folder, *number);
            if !whole_copies(self.disk, &path, *number).unwrap_or(false) {
                // The header goes with the file's first write, which may be the unfinished last one.
                let first_write = scanned.files.last() == Some(number) && scanned.last_write.start == 0;
                let severity = if first_write { Severity::NeedsRecovery } else { Severity::Damage };
                self.tell(severity, &path, At::byte(0), "one of the two copies of its header is damaged");
            }
        }
        let Some(last) = scanned.files.last() else { return };
        let path = path_of(folder, *last);
        let end = scanned.last_write.end;
        if clean && scanned.records > 0 {
            let what = format!("it says that the last stop was clean, but {} has records behind it", path.display());
            self.damage(&self.root.join(META_FILE), At::FILE, what);
        }
        match scan::unfinished_record(self.disk, &path, *last, scanned) {
            Ok(true) => {
                let what = format!(
                    "the last write is unfinished: record {} is not whole, and a start drops it with what follows",
                    scanned.next_sequence
                );
                self.tell(Severity::NeedsRecovery, &path, At::byte(end), what);
            }
            Ok(false) => {}
            Err(error) => self.unreadable(&error),
        }
        if scanned.records > 0 && !clean {
            let what = format!(
                "{} records ({} bytes) wait to be replayed; the last is record {}",
                scanned.records,
                scanned.bytes,
                scanned.next_sequence.saturating_sub(1)
            );
            self.tell(Severity::NeedsRecovery, &path, At::byte(end), what);
        }
    }

    /// Reads a file with records that were kept of a group which was set aside.
    pub(super) fn kept(&mut self, path: &Path, group: Option<GroupId>) {
        let file = match self.disk.open(path, OpenMode::Read) {
            Ok(file) => file,
            Err(error) => return self.unreadable(&OpenError::io("open", path, error)),
        };
        let read = || {
            let mut reader = KeptReader::open(file)?;
            while reader.next()?.is_some() {}
            Ok(reader)
        };
        match read() {
            Ok(reader) if group.is_some_and(|group| group != reader.group) => {
                self.damage(path, At::FILE, format!("its records are of group {}", reader.group));
            }
            Ok(reader) => {
                let what = format!(
                    "it keeps {} records that the journal had when the partition was set aside",
                    reader.records
                );
                self.tell(Severity::Note, path, At::FILE, what);
            }
            Err(KeptError::Io(error)) => self.unreadable(&OpenError::io("read", path, error)),
            Err(KeptError::Damaged { position, what }) => self.damage(path, At::byte(position), what),
            Err(newer @ KeptError::Newer(_)) => self.damage(path, At::FILE, newer.to_string()),
        }
    }

    /// Plays the records through, as a start does, without touching a file.
    pub(super) fn replay(&mut self, table: &Table, outline: &Outline, courses: &mut BTreeMap<GroupId, Course>) {
        if outline.files.is_empty() {
            return;
        }
        let folder = scan::folder_of(self.root);
        let from = table.replay_from;
        let mut findings = Vec::new();
        let scanned = scan::scan(self.disk, &folder, &outline.files, from, &mut |record| {
            let (group, sequence) = (record.header.group, record.header.sequence);
            if outline.deleted.contains(&group) {
                return Ok(());
            }
            let what = match courses.get_mut(&group) {
                Some(course) if course.is_open() && sequence >= course.journal_sequence => {
                    course.replay(record.entry()?)
                }
                Some(_) => None,
                None if record.header.is(Kind::Create) => None,
                None => Some(format!("it names group {group}, which was never created")),
            };
            findings.extend(what.map(|what| (record.path.to_path_buf(), format!("record {sequence}: {what}"))));
            // One finding for each group at most: a course ends with it.
            Ok(())
        });
        if let Err(error) = scanned {
            self.unreadable(&error);
        }
        for (path, what) in findings {
            self.damage(&path, At::FILE, what);
        }
    }
}
