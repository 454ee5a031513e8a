//! Recovery of a data directory: `groups.table`, then the journal over it.
//!
//! The journal is read twice. The first pass proves it, finds its end, and learns which groups it creates and deletes:
//! a deleted group's folder may be gone, so its records must not be replayed. Then the folders are put right, and the
//! second pass hands every record that a group's row does not cover to the group's log, which decides by its own table
//! (see
//! `log`) what to do with it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use millpond_record::GroupId;
use millpond_runtime::{Disk, Runtime};

use crate::journal::record::Kind;
use crate::journal::scan::{self, FoundRecord, ReplayFrom, Scanned};
use crate::journal::{JournalEntry, kept};
use crate::log::switch::Installed;
use crate::log::{Log, LogContext, Replayed};
use crate::partition_folder::{self, FolderName, PartitionMetadata};
use crate::registry::check_owner;
use crate::table::Table;
use crate::types::{FlushMode, GroupRow, GroupSpec, Taint, folder_name};
use crate::{OpenError, StorageError};

/// Without it a broker cannot run.
const METADATA_GROUP: GroupId = GroupId(0);

/// Logs that are synced at the same time.
const SYNCS_AT_ONCE: usize = 32;

/// What a start found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Whether the last run ended with a clean stop (a new directory counts as that): nothing had to be replayed.
    pub clean: bool,
    /// Groups in the directory.
    pub groups: u64,
    /// Journal files that were read.
    pub journal_files: u64,
    /// Journal records since the last checkpoint.
    pub journal_records: u64,
    /// Bytes of those records.
    pub journal_bytes: u64,
    /// Records that `groups.table` or the segments had already, or that belong to groups deleted since.
    pub records_covered: u64,
    /// Records that changed a log.
    pub records_applied: u64,
    /// Groups that are marked as tainted: their relaxed logs may miss what they acknowledged, because the machine was
    /// started again without a clean stop before. Those of them that have one replica only are counted, too.
    pub groups_tainted: u64,
    /// Records whose predecessors a relaxed log lost, as it may.
    pub records_lost: u64,
    /// Groups that had something to replay; only their folders were opened.
    pub groups_replayed: u64,
    /// Groups that the journal created.
    pub groups_created: u64,
    /// Groups that the journal deleted.
    pub groups_deleted: u64,
    /// Groups whose log contradicts the table or the journal, or could not be written. Their copies are set aside:
    /// nothing of them is deleted, and nothing is served. (A damaged metadata group, 0, refuses the start.)
    pub damaged: Vec<DamagedGroup>,
    /// Folders of no known group: they were set aside under these names and hold what they held.
    pub strays: Vec<String>,
    /// Folders of no known group that held no data and were removed.
    pub empty_folders_removed: u64,
}

/// A group that recovery set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedGroup {
    /// The group.
    pub group: GroupId,
    /// Its folder, below the data directory.
    pub folder: String,
    /// What contradicts what.
    pub what: String,
    /// The file in that folder that keeps what the journal had of the group, which the journal itself soon has no more;
    /// `None` if it had nothing.
    pub kept: Option<String>,
}

/// What the first pass over the journal found.
pub(crate) struct FirstPass {
    pub(crate) scanned: Scanned,
    /// With the number of the record that does it.
    created: BTreeMap<GroupId, (u64, GroupSpec)>,
    deleted: BTreeSet<GroupId>,
    /// What logs were switched over to, with the last record of each that does it.
    installed: BTreeMap<GroupId, (u64, Installed)>,
    /// Groups whose logs were relaxed at some time since the last checkpoint.
    relaxed: BTreeSet<GroupId>,
    /// Groups whose members have changed since then.
    regrouped: BTreeSet<GroupId>,
}

impl FirstPass {
    /// The groups that the journal deletes.
    pub(crate) fn deleted(&self) -> impl Iterator<Item = GroupId> + '_ {
        self.deleted.iter().copied()
    }

    /// The folders that the groups had which the journal deletes.
    fn deleted_folders(&self, table: &Table) -> BTreeMap<GroupId, String> {
        let folder = |group: &GroupId| match table.rows.get(group) {
            Some(row) => Some(row.folder()),
            None => self.created.get(group).map(|(_, spec)| folder_name(&spec.topic, spec.partition)),
        };
        self.deleted.iter().filter_map(|group| Some((*group, folder(group)?))).collect()
    }

    /// Marks the groups that may have lost in a power cut what they had acknowledged: those whose logs were relaxed at
    /// any time since their last sync, which is as of the table. One that only the journal knows is given its row, so
    /// that the mark outlives another crash before the first checkpoint. Gives how many are marked.
    pub(crate) fn taint(&self, table: &mut Table) -> u64 {
        for (sequence, spec) in self.created.values() {
            let is_relaxed = spec.options.flush == FlushMode::Relaxed || self.relaxed.contains(&spec.group);
            if is_relaxed && !self.deleted.contains(&spec.group) {
                table.rows.entry(spec.group).or_insert_with(|| GroupRow::new(spec, sequence + 1));
            }
        }
        let mut marked = 0;
        for row in table.rows.values_mut().filter(|row| row.group != METADATA_GROUP) {
            let is_relaxed = row.options.flush == FlushMode::Relaxed || self.relaxed.contains(&row.group);
            if is_relaxed && !row.set_aside {
                let shared = self.regrouped.contains(&row.group);
                row.taint = row.taint.max(if shared { Taint::Shared } else { Taint::IfShared });
            }
            marked += u64::from(row.taint != Taint::None);
        }
        marked
    }
}

/// Reads the journal and syncs the files it was found in: what is replayed from them may be reported.
pub(crate) fn first_pass(
    disk: &dyn Disk,
    folder: &Path,
    numbers: &[u64],
    from: ReplayFrom,
) -> Result<FirstPass, OpenError> {
    let (mut created, mut deleted, mut installed) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
    let (mut relaxed, mut regrouped) = (BTreeSet::new(), BTreeSet::new());
    let scanned = scan::scan(disk, folder, numbers, from, &mut |record: FoundRecord<'_>| {
        if record.header.is(Kind::Append) {
            if record.changes_members() {
                regrouped.insert(record.header.group);
            }
            return Ok(());
        }
        match record.entry()? {
            JournalEntry::Create { spec } => drop(created.insert(spec.group, (record.header.sequence, spec))),
            JournalEntry::Delete { group } => drop(deleted.insert(group)),
            JournalEntry::Install { installed: found } => {
                if found.row.options.flush == FlushMode::Relaxed {
                    relaxed.insert(found.row.group);
                }
                installed.insert(found.row.group, (record.header.sequence, *found));
            }
            JournalEntry::Options { group, options } if options.flush == FlushMode::Relaxed => {
                relaxed.insert(group);
            }
            _ => {}
        }
        Ok(())
    })?;
    if !scanned.files.is_empty() {
        scan::make_durable(disk, folder, &scanned)?;
    }
    Ok(FirstPass { scanned, created, deleted, installed, relaxed, regrouped })
}

/// A log that is damaged, or that cannot be written any more, ends its group and no other.
fn set_aside(
    error: OpenError,
    context: &LogContext,
    table: &mut Table,
    logs: &mut Logs,
    report: &mut RecoveryReport,
) -> Result<(), OpenError> {
    let (group, what) = match error {
        OpenError::Recovery(StorageError::Corrupt { group, what }) => (group, what),
        OpenError::Recovery(StorageError::SetAside(group)) => {
            let why = context.writer.why_set_aside(group);
            (group, why.unwrap_or(StorageError::SetAside(group)).to_string())
        }
        error => return Err(error),
    };
    let row = table.rows.get_mut(&group).filter(|row| row.group != METADATA_GROUP);
    let Some(row) = row else { return Err(StorageError::Corrupt { group, what }.into()) };
    row.set_aside = true;
    if let Some(log) = logs.all.remove(&group) {
        log.retire();
    }
    report.damaged.push(DamagedGroup { group, folder: row.folder(), what, kept: None });
    Ok(())
}

/// The second half of recovery.
pub(crate) struct Recovery<'a> {
    pub(crate) runtime: &'a Runtime,
    pub(crate) disk: &'a dyn Disk,
    pub(crate) root: &'a Path,
    pub(crate) folder: &'a Path,
    pub(crate) from: ReplayFrom,
}

/// The logs that are recovered.
#[derive(Default)]
struct Logs {
    all: BTreeMap<GroupId, Arc<Log>>,
    /// Those of them that may have files open.
    open: BTreeMap<GroupId, Arc<Log>>,
}

impl Logs {
    /// The log has files open; if `most` have, all of them are synced and let go of theirs. What was written need not
    /// be synced before the start is over, because the journal has it, too: a sync per log is what makes it slow.
    fn opened(&mut self, runtime: &Runtime, most: usize, log: &Arc<Log>) {
        self.open.insert(log.group(), log.clone());
        if self.open.len() >= most {
            let open: Vec<Arc<Log>> = std::mem::take(&mut self.open).into_values().collect();
            // A log whose sync failed is set aside and says so when its recovery ends.
            runtime.parallel(SYNCS_AT_ONCE, open.len(), &|at| drop(open[at].rest()));
        }
    }
}

impl Recovery<'_> {
    /// Brings the table's rows and the logs to where the journal says. Gives the logs that had to be opened for it.
    pub(crate) fn run(
        &self,
        context: &Arc<LogContext>,
        table: &mut Table,
        pass: FirstPass,
        clean: bool,
    ) -> Result<(BTreeMap<GroupId, Arc<Log>>, RecoveryReport), OpenError> {
        let mut report = RecoveryReport {
            clean,
            journal_files: pass.scanned.files.len() as u64,
            journal_records: pass.scanned.records,
            journal_bytes: pass.scanned.bytes,
            groups_deleted: pass.deleted.len() as u64,
            ..RecoveryReport::default()
        };
        let deleted = pass.deleted_folders(table);
        table.rows.retain(|group, _| !pass.deleted.contains(group));
        let mut logs = Logs::default();
        if !clean {
            let mut live: BTreeMap<String, GroupId> =
                table.rows.values().map(|row| (row.folder(), row.group)).collect();
            let created = pass.created.values().filter(|(_, spec)| !pass.deleted.contains(&spec.group));
            live.extend(created.map(|(_, spec)| (folder_name(&spec.topic, spec.partition), spec.group)));
            self.put_folders_right(&live, &deleted, &mut report)?;
        }
        for (group, (sequence, installed)) in &pass.installed {
            if !pass.deleted.contains(group) {
                self.install(table, *sequence, installed, &mut report)
                    .or_else(|error| set_aside(error, context, table, &mut logs, &mut report))?;
            }
        }
        if pass.scanned.records > 0 {
            // Only the files that were found then: the journal has begun to recycle the others.
            scan::scan(self.disk, self.folder, &pass.scanned.files, self.from, &mut |record| {
                if pass.deleted.contains(&record.header.group) {
                    report.records_covered += 1;
                    return Ok(());
                }
                let replayed = self.replay(context, table, &mut logs, &record, &mut report);
                replayed.or_else(|error| set_aside(error, context, table, &mut logs, &mut report))
            })?;
        }
        for log in logs.all.values().cloned().collect::<Vec<_>>() {
            logs.opened(self.runtime, context.options.open_logs, &log);
            log.finish_recovery().or_else(|error| set_aside(error.into(), context, table, &mut logs, &mut report))?;
        }
        self.keep_records(&pass.scanned, &mut report)?;
        report.groups = table.rows.len() as u64;
        report.groups_replayed = logs.all.len() as u64;
        Ok((logs.all, report))
    }

    /// A log was switched over to what was received of another replica: its row is the one that the record has, and its
    /// files are what the record says, whatever the table and earlier records say.
    fn install(
        &self,
        table: &mut Table,
        sequence: u64,
        installed: &Installed,
        report: &mut RecoveryReport,
    ) -> Result<(), OpenError> {
        let known = table.rows.get(&installed.row.group);
        if known.is_some_and(|row| row.set_aside || sequence < row.journal_sequence) {
            return Ok(());
        }
        report.groups_created += u64::from(known.is_none());
        report.records_applied += 1;
        let taint = known.map_or(Taint::None, |row| row.taint);
        let row = GroupRow { taint, ..installed.row_at(sequence) };
        let folder = self.root.join(row.folder());
        table.rows.insert(row.group, row.clone());
        check_owner(self.disk, &folder, &row)?;
        Ok(installed.carry_out(self.disk, &folder)?)
    }

    /// Saves what the journal has of the groups that were set aside: the next checkpoint does not wait for them, and
    /// its files are recycled then.
    fn keep_records(&self, scanned: &Scanned, report: &mut RecoveryReport) -> Result<(), OpenError> {
        let folders = report.damaged.iter().map(|damaged| (damaged.group, self.root.join(&damaged.folder))).collect();
        let mut names = kept::keep(self.disk, self.folder, &scanned.files, self.from, u64::MAX, &folders)?;
        for damaged in &mut report.damaged {
            damaged.kept = names.remove(&damaged.group).transpose()?;
        }
        Ok(())
    }

    fn replay(
        &self,
        context: &Arc<LogContext>,
        table: &mut Table,
        logs: &mut Logs,
        record: &FoundRecord<'_>,
        report: &mut RecoveryReport,
    ) -> Result<(), OpenError> {
        let (group, sequence) = (record.header.group, record.header.sequence);
        let Some(row) = table.rows.get(&group) else {
            let JournalEntry::Create { spec } = record.entry()? else {
                let what = format!("journal record {sequence} names it, but it was never created");
                return Err(StorageError::Corrupt { group, what }.into());
            };
            report.groups_created += 1;
            table.rows.insert(group, GroupRow::new(&spec, sequence + 1));
            return Ok(());
        };
        if sequence < row.journal_sequence || row.set_aside {
            report.records_covered += 1;
            return Ok(());
        }
        let log = match logs.all.get(&group) {
            Some(log) => log.clone(),
            None => {
                check_owner(self.disk, &self.root.join(row.folder()), row)?;
                let log = Log::recover(context, row)?;
                logs.all.insert(group, log.clone());
                logs.opened(self.runtime, context.options.open_logs, &log);
                log
            }
        };
        match log.replay(record.entry()?)? {
            Replayed::Applied => report.records_applied += 1,
            Replayed::Skipped => report.records_covered += 1,
            Replayed::Lost => report.records_lost += 1,
        }
        Ok(())
    }

    /// A crash may have undone renames and left folders of groups that never became durable.
    fn put_folders_right(
        &self,
        live: &BTreeMap<String, GroupId>,
        deleted: &BTreeMap<GroupId, String>,
        report: &mut RecoveryReport,
    ) -> Result<(), OpenError> {
        let list_error = |error| OpenError::io("list", self.root, error);
        let entries = self.disk.read_dir(self.root).map_err(list_error)?;
        let names = entries.iter().filter(|entry| entry.is_dir).filter_map(|entry| entry.name.to_str());
        let folder_of: BTreeMap<GroupId, &String> = live.iter().map(|(folder, group)| (*group, folder)).collect();
        let (mut returned, mut unknown) = (Vec::new(), Vec::new());
        for name in names {
            match FolderName::parse(name) {
                FolderName::Deleted { group } => {
                    returned.extend(folder_of.get(&group).map(|before| (name, (*before).clone())));
                }
                FolderName::Partition if !live.contains_key(name) => unknown.push(name),
                _ => {}
            }
        }
        if returned.is_empty() && unknown.is_empty() {
            return Ok(());
        }
        for name in unknown {
            self.put_unknown_aside(name, deleted, report).map_err(|error| self.rename_error(name, error))?;
        }
        // These were renamed for a deletion that did not become durable.
        for (name, before) in returned {
            let path = self.root.join(&before);
            let taken = self.disk.exists(&path).map_err(|error| self.rename_error(&before, error))?;
            if taken {
                self.put_unknown_aside(&before, deleted, report).map_err(|error| self.rename_error(&before, error))?;
            }
            // As for a new folder: the one that had the name goes durably first.
            self.sync_root()?;
            self.disk.rename(&self.root.join(name), &path).map_err(|error| self.rename_error(name, error))?;
        }
        self.sync_root()
    }

    fn sync_root(&self) -> Result<(), OpenError> {
        self.disk.sync_dir(self.root).map_err(|error| OpenError::io("sync", self.root, error))
    }

    fn rename_error(&self, name: &str, error: std::io::Error) -> OpenError {
        OpenError::io("set aside", &self.root.join(name), error)
    }

    /// A folder that no group has: removed if it holds no data or its group was deleted, else set aside.
    fn put_unknown_aside(
        &self,
        name: &str,
        deleted: &BTreeMap<GroupId, String>,
        report: &mut RecoveryReport,
    ) -> std::io::Result<()> {
        let path = self.root.join(name);
        let owner = PartitionMetadata::read(self.disk, &path)?.map(|found| found.group);
        // The power cut that took the rename may have taken what says whose it is; then it goes by its name.
        let gone = match owner {
            Some(owner) => deleted.contains_key(&owner).then_some(owner),
            None => deleted.iter().rev().find(|(_, folder)| *folder == name).map(|(group, _)| *group),
        };
        if let Some(group) = gone {
            // The sweeper removes it by this name.
            let gone = self.root.join(partition_folder::deleted_name(name, group));
            if !self.disk.exists(&gone)? {
                return self.disk.rename(&path, &gone);
            }
        }
        if partition_folder::is_empty(self.disk, &path)? {
            report.empty_folders_removed += 1;
            return self.disk.remove_dir_all(&path);
        }
        report.strays.push(partition_folder::set_aside(self.disk, self.root, name)?);
        Ok(())
    }
}
