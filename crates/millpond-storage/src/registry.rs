//! The groups of a data directory: each one's row, and its log once it is open.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use millpond_record::GroupId;
use millpond_runtime::Disk;

use crate::StorageError;
use crate::log::{Log, LogContext};
use crate::partition_folder::PartitionMetadata;
use crate::types::{GroupRow, PartitionSize, Retained, Taint};

/// All groups. A group whose deletion is not durable yet is among them.
#[derive(Default)]
pub(crate) struct Registry {
    groups: Mutex<Groups>,
}

#[derive(Default)]
pub(crate) struct Groups {
    slots: BTreeMap<GroupId, Arc<Slot>>,
    /// Who has a folder; without the groups that are being deleted, whose folders have other names.
    folders: BTreeMap<String, GroupId>,
}

impl Groups {
    pub(crate) fn insert(&mut self, folder: String, slot: Arc<Slot>) {
        self.folders.insert(folder, slot.group);
        self.slots.insert(slot.group, slot);
    }

    pub(crate) fn contains(&self, group: GroupId) -> bool {
        self.slots.contains_key(&group)
    }

    pub(crate) fn owner_of(&self, folder: &str) -> Option<GroupId> {
        self.folders.get(folder).copied()
    }

    /// The group's folder has another name now.
    pub(crate) fn release_folder(&mut self, folder: &str) {
        self.folders.remove(folder);
    }

    pub(crate) fn remove(&mut self, group: GroupId) {
        let Some(slot) = self.slots.remove(&group) else { return };
        // If its folder could not be renamed, the name is free only now.
        let folder = slot.checkpointed().folder();
        if self.folders.get(&folder) == Some(&group) {
            self.folders.remove(&folder);
        }
    }
}

/// One group.
pub(crate) struct Slot {
    pub(crate) group: GroupId,
    /// Held while the log is being opened: one opener at a time.
    opening: Mutex<()>,
    state: Mutex<SlotState>,
}

struct SlotState {
    /// As of the last checkpoint; the log knows better once it is open.
    row: GroupRow,
    log: Option<Arc<Log>>,
    /// Whether the row may be believed without looking at the segments' tail: not after a start without a clean stop.
    trusted: bool,
    deleted: bool,
    /// The deletion is durable: the group is no more.
    gone: bool,
}

impl Registry {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Groups> {
        self.groups.lock().expect("nothing panics while it holds the registry's lock")
    }

    pub(crate) fn slot(&self, group: GroupId) -> Option<Arc<Slot>> {
        self.lock().slots.get(&group).cloned()
    }

    pub(crate) fn slots(&self) -> Vec<Arc<Slot>> {
        self.lock().slots.values().cloned().collect()
    }
}

impl Slot {
    pub(crate) fn new(row: GroupRow, log: Option<Arc<Log>>, trusted: bool) -> Arc<Slot> {
        let group = row.group;
        let state = Mutex::new(SlotState { row, log, trusted, deleted: false, gone: false });
        Arc::new(Slot { group, opening: Mutex::new(()), state })
    }

    fn state(&self) -> MutexGuard<'_, SlotState> {
        self.state.lock().expect("nothing panics while it holds a group's lock")
    }

    /// The group's folder; `None` once it is being deleted.
    pub(crate) fn folder(&self) -> Option<String> {
        let state = self.state();
        (!state.deleted).then(|| state.row.folder())
    }

    /// What is known now; `None` once the group is being deleted.
    pub(crate) fn row(&self) -> Option<GroupRow> {
        let state = self.state();
        if state.deleted {
            return None;
        }
        let row = state.log.as_ref().map_or_else(|| state.row.clone(), |log| log.row());
        Some(GroupRow { taint: state.row.taint, ..row })
    }

    /// What retention must know of the log; `None` once the group is being deleted, or where the log is set aside.
    pub(crate) fn retained(&self) -> Option<Retained> {
        let state = self.state();
        let known = !state.deleted && !state.row.set_aside;
        known.then(|| state.log.as_ref().map_or(state.row.retained, |log| log.retained()))
    }

    /// What it keeps; `None` once the group is being deleted, or where the log is set aside.
    pub(crate) fn size(&self) -> Option<PartitionSize> {
        let state = self.state();
        if state.deleted || state.row.set_aside {
            return None;
        }
        let GroupRow { group, topic, partition, log_start, log_end, retained, .. } = &state.row;
        let (kept, retained) = match &state.log {
            Some(log) => {
                let frontiers = log.frontiers();
                (frontiers.log_start..frontiers.log_end, log.retained())
            }
            None => (*log_start..*log_end, *retained),
        };
        // Entries of Raft alone are nothing that anybody asked to keep.
        let bytes = if kept.is_empty() { 0 } else { retained.bytes };
        Some(PartitionSize { group: *group, topic: topic.clone(), partition: *partition, bytes })
    }

    pub(crate) fn open_log(&self) -> Option<Arc<Log>> {
        self.state().log.clone()
    }

    /// The row as of the last checkpoint.
    pub(crate) fn checkpointed(&self) -> GroupRow {
        self.state().row.clone()
    }

    /// A new row, as a checkpoint captured it of the log. Gives it as it is written.
    pub(crate) fn captured(&self, row: GroupRow) -> GroupRow {
        let mut state = self.state();
        state.row = GroupRow { taint: state.row.taint, ..row };
        state.row.clone()
    }

    /// What the copy may have lost.
    pub(crate) fn taint(&self) -> Taint {
        self.state().row.taint
    }

    /// Replaces the mark of what may be lost; gives the one before. `None` once the group is being deleted.
    pub(crate) fn set_taint(&self, taint: Taint) -> Option<Taint> {
        let mut state = self.state();
        (!state.deleted).then(|| std::mem::replace(&mut state.row.taint, taint))
    }

    /// A sync of the log's segments failed: nothing that was acknowledged may be believed to be there.
    pub(crate) fn set_aside(&self) -> GroupRow {
        let mut state = self.state();
        state.row.set_aside = true;
        state.row.clone()
    }

    /// The log, opened if it is not. Blocking.
    pub(crate) fn log(
        &self,
        disk: &dyn Disk,
        context: &Arc<LogContext>,
        root: &Path,
    ) -> Result<Option<Arc<Log>>, StorageError> {
        if let Some(answer) = self.known()? {
            return Ok(answer);
        }
        let _opening = self.opening.lock().expect("nothing panics while it opens a log");
        if let Some(answer) = self.known()? {
            return Ok(answer);
        }
        let (row, trusted) = {
            let state = self.state();
            (state.row.clone(), state.trusted)
        };
        let folder = root.join(row.folder());
        check_owner(disk, &folder, &row)?;
        let log = if trusted {
            Log::open(context, &row)?
        } else {
            let log = Log::recover(context, &row)?;
            log.finish_recovery()?;
            log
        };
        self.state().log = Some(log.clone());
        Ok(Some(log))
    }

    /// What can be said without opening the log.
    fn known(&self) -> Result<Option<Option<Arc<Log>>>, StorageError> {
        let state = self.state();
        if state.deleted {
            return Ok(Some(None));
        }
        if state.row.set_aside {
            return Err(StorageError::SetAside(self.group));
        }
        Ok(state.log.clone().map(Some))
    }

    /// Called on the journal's driver: the sweeper takes it out of the registry.
    pub(crate) fn deletion_is_durable(&self) {
        self.state().gone = true;
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.state().gone
    }

    /// Ends the log: when this returns, no file of the folder is touched any more. False if that was done before.
    pub(crate) fn retire(&self) -> bool {
        let _opening = self.opening.lock().expect("nothing panics while it opens a log");
        let log = {
            let mut state = self.state();
            if state.deleted {
                return false;
            }
            state.deleted = true;
            state.log.take()
        };
        if let Some(log) = log {
            log.retire();
        }
        true
    }
}

/// A folder that says it belongs to another group is not touched. One that does not say is given its file.
pub(crate) fn check_owner(disk: &dyn Disk, folder: &Path, row: &GroupRow) -> Result<(), StorageError> {
    let own = PartitionMetadata { group: row.group, topic_id: row.topic_id };
    let read_error = |error| StorageError::io("read", folder, error);
    match PartitionMetadata::read(disk, folder).map_err(read_error)? {
        Some(found) if found == own => Ok(()),
        Some(found) => {
            let what = format!(
                "its folder {} says that it belongs to group {} of topic id {}",
                folder.display(),
                found.group,
                found.topic_id
            );
            Err(StorageError::Corrupt { group: row.group, what })
        }
        None => disk
            .create_dir_all(folder)
            .and_then(|()| own.write(disk, folder))
            .map_err(|error| StorageError::io("write", folder, error)),
    }
}
