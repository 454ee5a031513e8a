//! The data directory as a whole: opening, its groups, closing.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use millpond_record::GroupId;
use millpond_runtime::{Disk, DiskLock, DiskSpace, Runtime};

use crate::checkpoint::Checkpointer;
use crate::journal::scan::{self, ReplayFrom};
use crate::journal::{JournalEntry, JournalHandle, JournalStart};
use crate::log::{Log, LogContext, is_too_many_files};
use crate::meta::{META_FILE, MetaProperties};
use crate::options::StorageOptions;
use crate::partition_folder::{self, PartitionMetadata};
use crate::registry::{Registry, Slot};
use crate::replay::{self, RecoveryReport};
use crate::stats::StorageStats;
use crate::sweep::Sweeper;
use crate::table::{TABLE_FILE, Table};
use crate::types::{Done, GroupRow, GroupSpec, Hold, PartitionSize, Retained, Taint};
use crate::types::{folder_name, is_topic_name};
use crate::writer::WriteTroubles;
use crate::{OpenError, StorageError};

/// Locked while the directory is open.
pub(crate) const LOCK_FILE: &str = "millpond.lock";

/// An open data directory. Clones name the same one.
///
/// All methods that say so block on the disk: call them inside `Runtime::blocking`.
#[derive(Clone)]
pub struct DataDir(Arc<Inner>);

struct Inner {
    runtime: Runtime,
    root: PathBuf,
    meta: MetaProperties,
    journal: JournalHandle,
    context: Arc<LogContext>,
    registry: Arc<Registry>,
    checkpointer: Arc<Checkpointer>,
    sweeper: Arc<Sweeper>,
    /// Held while partition folders are made or renamed: work on the disk, for which the registry is not locked.
    making: Mutex<()>,
    /// A folder was renamed since the data directory's entries were last synced.
    renamed: AtomicBool,
    deleted: Mutex<Deleted>,
    closed: AtomicBool,
    lock: Mutex<Option<Box<dyn DiskLock>>>,
}

/// Groups that were deleted while the journal goes back to.
struct Deleted {
    /// By group the number of a journal record behind its deletion.
    behind: BTreeMap<GroupId, u64>,
    /// How many there were when they were last looked through.
    looked_at: usize,
}

/// Deleted groups that are remembered without looking through them.
const MANY_DELETED: usize = 1024;

impl DataDir {
    /// Opens a data directory, or makes one where there is none, and recovers what the last run left. Blocking.
    ///
    /// After a clean stop this reads `meta.properties` and `groups.table` and finds the journal empty. Otherwise it
    /// replays the journal into the logs that the journal names.
    ///
    /// `on_fatal` is called once, from a thread of the data directory, when nothing more can be written; it must not
    /// block.
    ///
    /// # Errors
    ///
    /// When the directory is in use, belongs to another node or cluster, was written by a newer version, is damaged, or
    /// cannot be read or written.
    pub fn open(
        runtime: &Runtime,
        path: &Path,
        options: StorageOptions,
        on_fatal: Arc<dyn Fn(&StorageError) + Send + Sync>,
    ) -> Result<(DataDir, RecoveryReport), OpenError> {
        options.check()?;
        let disk = runtime.disk();
        let root = path.to_path_buf();
        disk.create_dir_all(&root).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
                OpenError::NotADataDirectory { path: root.clone(), why: "it, or a part of its path, is a file" }
            }
            _ => OpenError::io("create", &root, error),
        })?;
        let lock = lock(&*disk, &root)?;
        let folder = scan::folder_of(&root);
        let found = found(runtime, &*disk, &root, &folder, &options)?;
        let mut table = Table::read(&*disk, &root)?;
        let from = table.replay_from;

        let numbers = scan::list(&*disk, &folder)?;
        let pass = replay::first_pass(&*disk, &folder, &numbers, from)?;
        if found.clean_stop && pass.scanned.records > 0 {
            let what = "it says that the last stop was clean, but the journal is not empty".into();
            return Err(OpenError::Damaged { path: root.join(META_FILE), what });
        }
        let mut tainted = table.rows.values().filter(|row| row.taint != Taint::None).count() as u64;
        if !found.clean_stop {
            sync_ancestors(&*disk, &root)?;
            // The last run may have ended with a failed sync of the table or its folder: then what was read here need
            // not be on the disk, and journal files must not be recycled on its word.
            for row in table.rows.values_mut() {
                // A row may count records that were submitted before it was captured and never written. Their numbers
                // are given out again: what gets them must not pass for covered.
                row.journal_sequence = row.journal_sequence.min(pass.scanned.next_sequence);
            }
            // Before the machine's boot id is replaced: a start that ends in between finds the old one, and marks
            // again.
            if !found.is_of_this_boot(runtime) {
                tainted = pass.taint(&mut table);
            }
            Table::write(&*disk, &root, from, table.rows.values())
                .map_err(|error| OpenError::io("write", &root.join(TABLE_FILE), error))?;
        }
        // From here on a crash is followed by a start that believes nothing but the table and the journal.
        let meta = found.next_boot(runtime);
        meta.write(&*disk, &root).map_err(|error| OpenError::io("write", &root.join(META_FILE), error))?;
        let highest = numbers.last().copied().unwrap_or(0).max(from.file_number - 1);
        let start = JournalStart {
            root: root.clone(),
            folder: folder.clone(),
            next_sequence: pass.scanned.next_sequence,
            next_number: highest + 1,
            free: numbers.iter().copied().filter(|number| !pass.scanned.files.contains(number)).collect(),
            written: pass.scanned.files.clone(),
        };
        let journal = JournalHandle::start(runtime, &options, start, on_fatal)?;
        let next_sequence = pass.scanned.next_sequence;
        let deleted = Deleted { behind: pass.deleted().map(|group| (group, next_sequence)).collect(), looked_at: 0 };
        let context = LogContext::new(runtime.clone(), root.clone(), options, Arc::new(journal.clone()));
        let recovery = replay::Recovery { runtime, disk: &*disk, root: &root, folder: &folder, from };
        let (logs, mut report) = recovery.run(&context, &mut table, pass, found.clean_stop).inspect_err(|_| {
            context.stop();
            journal.stop();
        })?;
        report.groups_tainted = tainted;
        let registry = Arc::new(Registry::default());
        for (group, row) in table.rows {
            let log = logs.get(&group).cloned();
            registry.lock().insert(row.folder(), Slot::new(row, log, found.clean_stop));
        }
        let checkpointer = {
            let (journal, writer) = (journal.clone(), context.writer.clone());
            Checkpointer::start(runtime, root.clone(), journal, writer, registry.clone(), from)
        };
        let request = Arc::downgrade(&checkpointer);
        journal.set_checkpoint(move || {
            if let Some(checkpointer) = request.upgrade() {
                checkpointer.request();
            }
        });
        let force = Arc::downgrade(&checkpointer);
        context.on_checkpoint_wanted(move || {
            if let Some(checkpointer) = force.upgrade() {
                checkpointer.force();
            }
        });
        if report.journal_records > 0 {
            // What was replayed need not be replayed again.
            checkpointer.force();
        }
        let sweeper = Sweeper::start(runtime, root.clone(), registry.clone());
        let inner = Inner {
            runtime: runtime.clone(),
            root,
            meta,
            journal,
            context,
            registry,
            checkpointer,
            sweeper,
            making: Mutex::new(()),
            renamed: AtomicBool::new(false),
            deleted: Mutex::new(deleted),
            closed: AtomicBool::new(false),
            lock: Mutex::new(Some(lock)),
        };
        Ok((DataDir(Arc::new(inner)), report))
    }

    /// Whose directory this is.
    pub fn meta(&self) -> &MetaProperties {
        &self.0.meta
    }

    /// Makes a group and its log. `done` is called when the group is durable; appends may follow before that. Blocking.
    ///
    /// # Errors
    ///
    /// [`StorageError::DeletedLately`] for a group that was deleted here, until the next checkpoint, which is asked
    /// for. When the group exists, the topic's name cannot name a folder, another group has the folder, or the
    /// directory is closed or failed. `done` is not called then.
    pub fn create_group(&self, spec: GroupSpec, done: Done) -> Result<Arc<Log>, StorageError> {
        let inner = &*self.0;
        inner.check_open()?;
        if !is_topic_name(&spec.topic) || spec.partition.0 < 0 {
            return Err(StorageError::BadTopicName(spec.topic));
        }
        let name = folder_name(&spec.topic, spec.partition);
        inner.check_returning(spec.group, &name)?;
        let _making = inner.making();
        {
            let groups = inner.registry.lock();
            if groups.contains(spec.group) {
                return Err(StorageError::GroupExists(spec.group));
            }
            if let Some(owner) = groups.owner_of(&name) {
                return Err(StorageError::FolderTaken { folder: name, owner });
            }
        }
        inner.make_folder(&name, &spec)?;
        let row = GroupRow::new(&spec, inner.journal.next_sequence());
        let log = Log::open(&inner.context, &row)?;
        // Under one lock: a checkpoint whose position is behind the record finds the group.
        let mut groups = inner.registry.lock();
        inner.journal.submit(JournalEntry::Create { spec }, Some(done)).inspect_err(|_| log.retire())?;
        let row = GroupRow { journal_sequence: inner.journal.next_sequence(), ..row };
        groups.insert(name, Slot::new(row, Some(log.clone()), true));
        Ok(log)
    }

    /// Deletes a group and its data for good. `done` is called when that is durable; the files go in the background
    /// afterwards. The group is unknown, and its log closed, when this returns. Blocking.
    ///
    /// # Errors
    ///
    /// When there is no such group, or the directory is closed or failed. `done` is not called then.
    pub fn delete_group(&self, group: GroupId, done: Done) -> Result<(), StorageError> {
        self.0.let_go(group, false, done)
    }

    /// As [`DataDir::delete_group`] for a copy that cannot be used any more, which others have, too: its folder is
    /// kept, as `<topic>-<partition>.1.stray`, unless there is one of that name. Blocking.
    ///
    /// # Errors
    ///
    /// As of [`DataDir::delete_group`].
    pub fn put_group_aside(&self, group: GroupId, done: Done) -> Result<(), StorageError> {
        self.0.let_go(group, true, done)
    }

    /// All groups, in the order of their ids; opens nothing.
    pub fn groups(&self) -> Vec<GroupRow> {
        self.0.registry.slots().iter().filter_map(|slot| slot.row()).collect()
    }

    /// What each group keeps, in the order of their ids; opens nothing. Without those that are set aside.
    pub fn sizes(&self) -> Vec<PartitionSize> {
        self.0.registry.slots().iter().filter_map(|slot| slot.size()).collect()
    }

    /// What retention must know of a group's log; opens nothing. `None` when there is no such group.
    pub fn retained(&self, group: GroupId) -> Option<Retained> {
        self.0.registry.slot(group)?.retained()
    }

    /// Asks for a checkpoint: it removes the segments below the log start that wait for one. Does not wait for it.
    pub fn want_checkpoint(&self) {
        self.0.checkpointer.force();
    }

    /// The log of a group, opened (and after a crash recovered) if it is not open; `None` when there is no such group.
    /// Blocking.
    ///
    /// # Errors
    ///
    /// When the log cannot be opened, is set aside, or the directory is closed.
    pub fn log(&self, group: GroupId) -> Result<Option<Arc<Log>>, StorageError> {
        let inner = &*self.0;
        inner.check_open()?;
        match inner.registry.slot(group) {
            Some(slot) => slot.log(&*inner.runtime.disk(), &inner.context, &inner.root),
            None => Ok(None),
        }
    }

    /// The copy of a group that may have lost what it acknowledged is taken for what it is from now on, by the word of
    /// an operator. Durable when this returns. Blocking.
    ///
    /// # Errors
    ///
    /// When there is no such group, or the mark cannot be removed from `groups.table`; it stays then.
    pub fn trust_group(&self, group: GroupId) -> Result<(), StorageError> {
        let inner = &*self.0;
        inner.check_open()?;
        let slot = inner.registry.slot(group).ok_or(StorageError::NoSuchGroup(group))?;
        let before = slot.set_taint(Taint::None).ok_or(StorageError::NoSuchGroup(group))?;
        let written = inner.checkpointer.run_now();
        if !matches!(written, Ok(true)) {
            slot.set_taint(before);
        }
        match written? {
            true => Ok(()),
            false => {
                let why = io::Error::from(io::ErrorKind::StorageFull);
                Err(StorageError::io("write", &inner.root.join(TABLE_FILE), why))
            }
        }
    }

    /// A group that is tainted [if it is shared](Taint::IfShared) is not: its log says that it has no other replica.
    /// Durable with a checkpoint that is on its way then: when it gets other replicas later, no start must hold against
    /// it what was before.
    pub fn not_shared(&self, group: GroupId) {
        let slot = self.0.registry.slot(group);
        if let Some(slot) = slot.filter(|slot| slot.taint() == Taint::IfShared) {
            slot.set_taint(Taint::None);
            self.0.checkpointer.force();
        }
    }

    /// What a group may have lost; opens nothing.
    pub fn taint(&self, group: GroupId) -> Taint {
        self.0.registry.slot(group).map_or(Taint::None, |slot| slot.taint())
    }

    /// The log of a group if it is open: never blocks.
    pub fn open_log(&self, group: GroupId) -> Option<Arc<Log>> {
        self.0.registry.slot(group).and_then(|slot| slot.open_log())
    }

    /// Writes a checkpoint now: all segments synced, a new `groups.table`, older journal files free. Blocking.
    ///
    /// # Errors
    ///
    /// When it cannot be written; that is final for the directory.
    pub fn checkpoint(&self) -> Result<(), StorageError> {
        self.0.check_open()?;
        self.0.checkpointer.run()
    }

    /// Writes what is pending, brings everything to where it belongs, and marks the directory as cleanly stopped.
    /// Later appends are refused. Blocking; may be called again.
    ///
    /// # Errors
    ///
    /// When something could not be written. The next start recovers then.
    pub fn close(&self) -> Result<(), StorageError> {
        let inner = &*self.0;
        if inner.closed.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        let result = inner.close();
        inner.lock.lock().expect("nothing panics while it holds the folder's lock").take();
        result
    }

    /// Gives back the memory share of a batch that is durable: at once, or, while the batches that are not written to
    /// their segments yet exceed the tail cache's budget, when the writer has caught up. So the journal cannot outrun
    /// the segments, whatever the `acks` of the producers.
    pub fn release(&self, hold: Hold) {
        self.0.context.cache.release(hold);
    }

    /// Tries again what could not be written to segments or brought to a checkpoint, and tells what is wrong. To be
    /// called about once a second: nothing else brings a log back that met a full disk, and one that fails again waits
    /// for more calls, up to eight.
    pub fn retry_writes(&self) -> WriteTroubles {
        let mut troubles = self.0.context.writer.retry();
        let blocked = self.0.journal.retry();
        let held_back = self.0.checkpointer.retry();
        troubles.stalled = troubles.stalled.or(held_back).or(blocked);
        troubles
    }

    /// The space of the file system that the directory is on. Blocking.
    ///
    /// # Errors
    ///
    /// What the system reports.
    pub fn space(&self) -> io::Result<DiskSpace> {
        self.0.runtime.disk().space(&self.0.root)
    }

    /// Bytes that will take disk space without anything being appended: what is not written to its segment yet, and the
    /// files that the journal has not made yet.
    pub fn unwritten_bytes(&self) -> u64 {
        self.0.context.cache.dirty_bytes() + self.0.journal.unmade_bytes()
    }

    /// Counters.
    pub fn stats(&self) -> StorageStats {
        let inner = &*self.0;
        let mut stats = StorageStats { checkpoints: inner.checkpointer.count(), ..StorageStats::default() };
        inner.journal.read_stats(&mut stats);
        stats.stalled_logs = inner.context.writer.stalled_count() as u64;
        stats.cache_bytes = inner.context.cache.used_bytes();
        stats.read_ahead_used = inner.context.read_ahead_used();
        stats.open_logs = inner.registry.slots().iter().filter(|slot| slot.open_log().is_some()).count() as u64;
        stats
    }
}

impl Inner {
    fn check_open(&self) -> Result<(), StorageError> {
        if self.closed.load(Ordering::SeqCst) { Err(StorageError::Closed(self.root.clone())) } else { Ok(()) }
    }

    /// Deletes a group; its folder is removed, or kept under another name.
    fn let_go(&self, group: GroupId, keep: bool, done: Done) -> Result<(), StorageError> {
        self.check_open()?;
        let slot = self.registry.slot(group).ok_or(StorageError::NoSuchGroup(group))?;
        let name = slot.folder().filter(|_| slot.retire()).ok_or(StorageError::NoSuchGroup(group))?;
        let mut folder = self.root.join(&name);
        if !keep {
            // Not while a folder is made. The next group of this name finds it free.
            let _making = self.making();
            let deleted = self.root.join(partition_folder::deleted_name(&name, group));
            // What counts is the journal's record. A folder that cannot be renamed keeps its name until it is removed.
            if self.runtime.disk().rename(&folder, &deleted).is_ok() {
                self.renamed.store(true, Ordering::SeqCst);
                self.registry.lock().release_folder(&name);
                folder = deleted;
            }
        }
        let sweeper = self.sweeper.clone();
        let durable: Done = Box::new(move |result| {
            if result.is_ok() {
                slot.deletion_is_durable();
                // Not before: the journal may still have something to keep in the folder.
                if keep { sweeper.put_aside(group, name) } else { sweeper.remove(group, folder) }
            }
            done(result);
        });
        self.journal.submit(JournalEntry::Delete { group }, Some(durable))?;
        self.deleted_now(group);
        Ok(())
    }

    fn making(&self) -> MutexGuard<'_, ()> {
        self.making.lock().expect("nothing panics while it makes a folder")
    }

    fn close(&self) -> Result<(), StorageError> {
        self.sweeper.stop();
        self.checkpointer.stop();
        self.context.stop();
        self.journal.close(|| self.checkpointer.run())?;
        if self.checkpointer.run_last()? {
            let meta = MetaProperties { clean_stop: true, ..self.meta.clone() };
            let path = self.root.join(META_FILE);
            meta.write(&*self.runtime.disk(), &self.root).map_err(|error| StorageError::io("write", &path, error))?;
        }
        Ok(())
    }

    /// A group that was deleted here may come back (a replica that moved away and returns), but not while a start would
    /// still read of its deletion in the journal, and not beside the folder that it had.
    fn check_returning(&self, group: GroupId, name: &str) -> Result<(), StorageError> {
        let behind = self.deleted().behind.get(&group).copied();
        if behind.is_some_and(|behind| self.checkpointer.replayed_from() < behind) {
            self.checkpointer.force();
            return Err(StorageError::DeletedLately(group));
        }
        let disk = self.runtime.disk();
        let old = self.root.join(partition_folder::deleted_name(name, group));
        let failed = |error| StorageError::io("remove", &old, error);
        if disk.exists(&old).map_err(failed)? && !self.registry.lock().contains(group) {
            disk.remove_dir_all(&old).map_err(failed)?;
        }
        if behind.is_some() {
            // That the old folder is gone must be durable before the new one is there.
            self.renamed.store(true, Ordering::SeqCst);
        }
        Ok(())
    }

    /// The group's deletion is in the journal.
    fn deleted_now(&self, group: GroupId) {
        let mut deleted = self.deleted();
        deleted.behind.insert(group, self.journal.next_sequence());
        if deleted.behind.len() >= 2 * deleted.looked_at.max(MANY_DELETED) {
            // Those that the journal has behind it and that are swept come back like any other.
            let from = self.checkpointer.replayed_from();
            let groups = self.registry.lock();
            deleted.behind.retain(|group, behind| *behind > from || groups.contains(*group));
            deleted.looked_at = deleted.behind.len();
            self.renamed.store(true, Ordering::SeqCst);
        }
    }

    fn deleted(&self) -> MutexGuard<'_, Deleted> {
        self.deleted.lock().expect("nothing panics while it notes a deletion")
    }

    /// Makes a new group's folder. One that nobody is known to own is set aside, never reused.
    ///
    /// A folder that had the name before is durably renamed first: a power cut that kept the new entry and not the
    /// rename would lose the old folder, whose deletion may not be durable.
    fn make_folder(&self, name: &str, spec: &GroupSpec) -> Result<(), StorageError> {
        let disk = self.runtime.disk();
        let folder = self.root.join(name);
        let create_error = |error| StorageError::io("create", &folder, error);
        if disk.exists(&folder).map_err(create_error)? {
            partition_folder::set_aside(&*disk, &self.root, name).map_err(create_error)?;
            self.renamed.store(true, Ordering::SeqCst);
        }
        if self.renamed.load(Ordering::SeqCst) {
            let failed = |error| StorageError::io("sync", &self.root, error);
            match disk.sync_dir(&self.root) {
                Ok(()) => {}
                // The folder could not be opened, so that no sync has failed: the next one may do better.
                Err(error) if is_too_many_files(&error) => return Err(failed(error)),
                Err(error) => {
                    let error = failed(error);
                    self.journal.fail(error.clone());
                    return Err(error);
                }
            }
            self.renamed.store(false, Ordering::SeqCst);
        }
        let owner = PartitionMetadata { group: spec.group, topic_id: spec.topic_id };
        disk.create_dir_all(&folder).and_then(|()| owner.write(&*disk, &folder)).map_err(|error| {
            // The next try would set it aside. If it cannot be removed, it does.
            let _ = disk.remove_dir_all(&folder);
            create_error(error)
        })
    }
}

impl Drop for Inner {
    /// Without [`DataDir::close`] the drivers end, and the next start recovers.
    fn drop(&mut self) {
        self.sweeper.stop();
        self.checkpointer.stop();
        self.context.stop();
        self.journal.stop();
        self.journal.give_up();
    }
}

/// Makes the way to the data directory durable. That its folders exist does not mean that they are: the run that made
/// them may have been killed before it synced them. Folders that may not be opened were not made by a broker.
fn sync_ancestors(disk: &dyn Disk, root: &Path) -> Result<(), OpenError> {
    for parent in root.ancestors().skip(1) {
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        match disk.sync_dir(parent) {
            Err(error) if error.kind() != io::ErrorKind::PermissionDenied => {
                return Err(OpenError::io("sync", parent, error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Takes the lock of a data directory.
pub(crate) fn lock(disk: &dyn Disk, root: &Path) -> Result<Box<dyn DiskLock>, OpenError> {
    let path = root.join(LOCK_FILE);
    disk.lock_exclusive(&path).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => OpenError::Locked(root.to_path_buf()),
        _ => OpenError::io("lock", &path, error),
    })
}

/// The directory's `meta.properties`; makes the directory if there is none. `meta.properties` comes last: where it is,
/// the rest is.
fn found(
    runtime: &Runtime,
    disk: &dyn Disk,
    root: &Path,
    folder: &Path,
    options: &StorageOptions,
) -> Result<MetaProperties, OpenError> {
    if let Some(meta) = MetaProperties::read(disk, root)? {
        if meta.node_id != options.node_id {
            let (found, expected) = (meta.node_id.0, options.node_id.0);
            return Err(OpenError::OtherNode { path: root.to_path_buf(), found, expected });
        }
        if let Some(expected) = options.cluster_id.clone().filter(|expected| *expected != meta.cluster_id) {
            return Err(OpenError::OtherCluster { path: root.to_path_buf(), found: meta.cluster_id, expected });
        }
        return Ok(meta);
    }
    sync_ancestors(disk, root)?;
    disk.create_dir_all(folder).map_err(|error| OpenError::io("create", folder, error))?;
    let path = root.join(TABLE_FILE);
    let has_table = disk.exists(&path).map_err(|error| OpenError::io("read", &path, error))?;
    if !scan::list(disk, folder)?.is_empty() || (has_table && !Table::read(disk, root)?.rows.is_empty()) {
        return Err(OpenError::Damaged { path: root.join(META_FILE), what: "it is missing, but there is data".into() });
    }
    let from = ReplayFrom { file_number: 1, sequence: 1 };
    Table::write(disk, root, from, [].iter()).map_err(|error| OpenError::io("write", &path, error))?;
    let new = MetaProperties::new(runtime, options.cluster_id.as_deref(), options.node_id);
    let directory_id = options.directory_id.unwrap_or(new.directory_id);
    Ok(MetaProperties { clean_stop: true, directory_id, ..new })
}
