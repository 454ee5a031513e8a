//! What goes wrong with the broker's disk besides crashes and failed journal syncs: it is full for a while, the process
//! may open no more files, one partition's files fail, a bit flips. Drawn apart from the scenario, so that a seed
//! without troubles plays as it would if there were none.
//!
//! What may follow is in [`crate::losses`]: a partition whose files failed may be offline for good, a relaxed one may
//! lose its end in a power cut; nobody may ever read something wrong, and the broker goes on.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use millpond_runtime::sim::{DiskFaults, Rng, World};
use millpond_runtime::{Disk, Runtime};

use crate::broker_host::BROKER;
use crate::client::Shared;
use crate::scenario::Scenario;

/// The folders of the partitions that stay, as parts of paths.
const FOLDERS: [&str; 9] = [
    "/topic-0-0/",
    "/topic-0-1/",
    "/topic-0-2/",
    "/topic-1-0/",
    "/topic-1-1/",
    "/topic-1-2/",
    "/topic-2-0/",
    "/topic-2-1/",
    "/topic-2-2/",
];

/// What troubles a run has.
#[derive(Clone, Debug, Default)]
pub struct Troubles {
    /// The chance of a life to have one.
    affliction: f64,
    /// The chance that a bit has flipped when a life begins.
    flip: f64,
}

/// What is wrong with the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// No file can grow.
    Full,
    /// No file can be opened.
    TooManyFiles,
    /// Writes to the files of a partition fail.
    Writes(&'static str),
    /// Their syncs fail.
    Syncs(&'static str),
}

/// A trouble and when it is there, in milliseconds since the life began.
#[derive(Clone, Copy, Debug)]
pub struct Affliction {
    trouble: Trouble,
    from_ms: u64,
    to_ms: u64,
}

impl Troubles {
    /// Draws a run's troubles, and which of its topics are relaxed. Half of the runs have none.
    pub fn draw(rng: &mut Rng, scenario: &mut Scenario) -> Troubles {
        if rng.chance(0.5) {
            return Troubles::default();
        }
        // The first one stays durable: idempotent producers need one.
        for topic in scenario.topics.iter_mut().skip(1) {
            if rng.chance(0.5) {
                topic.configs.push(("millpond.flush", "relaxed".to_owned()));
            }
        }
        Troubles { affliction: rng.pick(&[0.0, 0.5, 0.9]), flip: rng.pick(&[0.0, 0.0, 0.3]) }
    }

    /// Draws a life's trouble.
    pub fn affliction(&self, rng: &mut Rng) -> Option<Affliction> {
        if !rng.chance(self.affliction) {
            return None;
        }
        let folder = rng.pick(&FOLDERS);
        let trouble = match rng.below(8) {
            0..4 => Trouble::Full,
            4..6 => Trouble::TooManyFiles,
            6 => Trouble::Writes(folder),
            _ => Trouble::Syncs(folder),
        };
        // Many lives are short.
        let latest_ms = rng.pick(&[1, 50, 400, 2_000]);
        let from_ms = rng.between(0, latest_ms);
        Some(Affliction { trouble, from_ms, to_ms: from_ms + rng.between(50, 8_000) })
    }

    /// Flips a bit of a partition's file, sometimes.
    pub fn flip(&self, rng: &mut Rng, shared: &Shared, root: &Path) {
        if !rng.chance(self.flip) {
            return;
        }
        let disk = shared.world.runtime_for(BROKER).disk();
        let files = partition_files(&*disk, root);
        if files.is_empty() {
            return;
        }
        let path = &files[rng.index(files.len())];
        if shared.world.flip_bit(BROKER, path) {
            let folder = FOLDERS.iter().find(|folder| path.to_string_lossy().contains(*folder));
            shared.history().hurt(folder.expect("the file is in one of them"), true);
        }
    }
}

/// Segments, indexes and snapshots of the partitions that stay.
fn partition_files(disk: &dyn Disk, root: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for folder in FOLDERS {
        let folder = root.join(folder.trim_matches('/'));
        // A partition that is not there yet has no files.
        let entries = disk.read_dir(&folder).unwrap_or_default();
        let named = entries.iter().filter(|entry| !entry.is_dir && entry.len > 0);
        files.extend(named.map(|entry| folder.join(&entry.name)));
    }
    files
}

impl Trouble {
    fn over(self, usual: DiskFaults) -> DiskFaults {
        match self {
            Trouble::Full => DiskFaults { capacity_bytes: 0, ..usual },
            Trouble::TooManyFiles => DiskFaults { open_files: 0, ..usual },
            Trouble::Writes(folder) => DiskFaults { write_error: 1.0, write_error_in: folder, ..usual },
            Trouble::Syncs(folder) => DiskFaults { sync_error: 1.0, sync_error_in: folder, ..usual },
        }
    }
}

/// A life's trouble on its way. It ends when this is dropped, and the disk has its usual faults again.
pub struct Afflicting {
    world: World,
    usual: DiskFaults,
    over: Arc<AtomicBool>,
}

impl Afflicting {
    /// Lets the trouble come and go.
    pub fn begin(runtime: &Runtime, shared: &Shared, affliction: Affliction, usual: DiskFaults) -> Afflicting {
        let (world, over) = (shared.world.clone(), Arc::new(AtomicBool::new(false)));
        let afflicting = Afflicting { world: world.clone(), usual, over: Arc::clone(&over) };
        let (runtime, shared) = (runtime.clone(), shared.clone());
        runtime.clone().spawn(async move {
            let Affliction { trouble, from_ms, to_ms } = affliction;
            runtime.sleep(Duration::from_millis(from_ms)).await;
            if over.load(Ordering::Relaxed) {
                return;
            }
            world.note(BROKER, &format!("{trouble:?}"));
            if let Trouble::Writes(folder) | Trouble::Syncs(folder) = trouble {
                shared.history().hurt(folder, false);
            }
            world.set_disk_faults(BROKER, trouble.over(usual));
            runtime.sleep(Duration::from_millis(to_ms - from_ms)).await;
            if !over.load(Ordering::Relaxed) {
                world.note(BROKER, "the trouble is over");
                world.set_disk_faults(BROKER, usual);
            }
        });
        afflicting
    }
}

impl Drop for Afflicting {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        self.world.set_disk_faults(BROKER, self.usual);
    }
}
