//! Removes, in the background, the folders of groups that are deleted for good, or sets them aside.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use millpond_record::GroupId;
use millpond_runtime::{Disk, Driver, Round, Rounds, Runtime};

use crate::partition_folder::{self, FolderName};
use crate::registry::Registry;

/// The queue of folders to remove.
pub(crate) struct Sweeper {
    disk: Arc<dyn Disk>,
    root: PathBuf,
    registry: Arc<Registry>,
    queue: Mutex<VecDeque<Task>>,
    driver: OnceLock<Driver>,
}

enum Task {
    /// Look for folders whose removal an earlier run did not finish.
    Leftovers,
    Remove(GroupId, PathBuf),
    /// Rename the folder of a damaged copy.
    PutAside(GroupId, String),
}

impl Sweeper {
    /// Starts with a look for what an earlier run left.
    pub(crate) fn start(runtime: &Runtime, root: PathBuf, registry: Arc<Registry>) -> Arc<Sweeper> {
        let queue = Mutex::new(VecDeque::from([Task::Leftovers]));
        let sweeper = Arc::new(Sweeper { disk: runtime.disk(), root, registry, queue, driver: OnceLock::new() });
        let rounds = Arc::new(SweepRounds(sweeper.clone()));
        sweeper.driver.get_or_init(|| runtime.drive("sweeper", rounds)).wake();
        sweeper
    }

    /// Removes a group and its folder. What a crash leaves of it is removed after the next start.
    pub(crate) fn remove(&self, group: GroupId, folder: PathBuf) {
        self.add(Task::Remove(group, folder));
    }

    /// Removes a group; its folder stays under another name. One copy of each partition is enough: where there is an
    /// older one the folder is removed.
    pub(crate) fn put_aside(&self, group: GroupId, name: String) {
        self.add(Task::PutAside(group, name));
    }

    fn add(&self, task: Task) {
        self.queue.lock().expect("nothing panics while it holds the queue").push_back(task);
        if let Some(driver) = self.driver.get() {
            driver.wake();
        }
    }

    pub(crate) fn stop(&self) {
        if let Some(driver) = self.driver.get() {
            driver.stop();
        }
    }

    fn leftovers(&self) -> Vec<PathBuf> {
        // A folder that cannot be listed or removed stays; nothing but disk space depends on it.
        let entries = self.disk.read_dir(&self.root).unwrap_or_default();
        let deleted = entries.iter().filter(|entry| entry.is_dir).filter_map(|entry| entry.name.to_str());
        deleted.filter(|name| self.is_leftover(name)).map(|name| self.root.join(name)).collect()
    }

    fn is_leftover(&self, name: &str) -> bool {
        match FolderName::parse(name) {
            // A group that is still known is one whose deletion is not durable yet.
            FolderName::Deleted { group } => self.registry.slot(group).is_none(),
            _ => false,
        }
    }

    fn remove_now(&self, folder: &Path) {
        let _ = self.disk.remove_dir_all(folder);
    }
}

struct SweepRounds(Arc<Sweeper>);

impl Rounds for SweepRounds {
    fn take(&self) -> Option<Box<dyn Round>> {
        let task = self.0.queue.lock().expect("nothing panics while it holds the queue").pop_front()?;
        Some(Box::new(SweepRound { sweeper: self.0.clone(), task }))
    }
}

struct SweepRound {
    sweeper: Arc<Sweeper>,
    task: Task,
}

impl Round for SweepRound {
    fn run(&mut self) {
        match &self.task {
            Task::Leftovers => self.sweeper.leftovers().iter().for_each(|folder| self.sweeper.remove_now(folder)),
            Task::Remove(group, folder) => {
                self.sweeper.remove_now(folder);
                self.sweeper.registry.lock().remove(*group);
            }
            Task::PutAside(group, name) => {
                let Sweeper { disk, root, registry, .. } = &*self.sweeper;
                let has_one = disk.exists(&root.join(partition_folder::stray_name(name, 1))).unwrap_or(true);
                if has_one || partition_folder::set_aside(&**disk, root, name).is_err() {
                    self.sweeper.remove_now(&root.join(name));
                }
                registry.lock().remove(*group);
            }
        }
    }

    fn complete(self: Box<Self>) {}
}
