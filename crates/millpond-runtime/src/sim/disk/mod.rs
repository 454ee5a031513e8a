//! A node's simulated disk: counts what is done to it, lets it fail, and ends the node where it is told to.

mod image;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::locked;
use super::node::SimRuntime;
use super::rng::{Rng, mix_bytes};
use crate::disk::{DirEntry, Disk, DiskLock, DiskSpace, File, Map, OpenMode};
use image::{FileId, Image};

/// How a node ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// The process is killed; the operating system lives on and loses nothing.
    Kill,
    /// The machine loses power: what was not synced may be gone, torn or reordered.
    PowerCut,
}

/// What goes wrong on a disk. Probabilities are per operation, `0.0..=1.0`.
#[derive(Clone, Copy, Debug)]
pub struct DiskFaults {
    /// A read fails (EIO).
    pub read_error: f64,
    /// Only reads of paths that contain this fail; empty for all.
    pub read_error_in: &'static str,
    /// A write fails (EIO) after a part of it.
    pub write_error: f64,
    /// Only writes to paths that contain this fail; empty for all.
    pub write_error_in: &'static str,
    /// A sync of a file or folder fails (EIO); a file's loses some of what it covered.
    pub sync_error: f64,
    /// Only syncs of paths that contain this fail; empty for all.
    pub sync_error_in: &'static str,
    /// A sync takes long.
    pub slow_sync: f64,
    /// How long a slow sync takes at most, in milliseconds.
    pub slow_sync_ms: u64,
    /// What all files together may hold, in bytes; beyond it writes fail (ENOSPC) after a part.
    pub capacity_bytes: u64,
    /// Only paths that contain this find the disk full; empty for all.
    pub full_in: &'static str,
    /// Files that may be open at the same time; beyond it opening fails (EMFILE).
    pub open_files: u64,
}

impl DiskFaults {
    fn read_error_at(&self, path: &Path) -> f64 {
        if path.to_string_lossy().contains(self.read_error_in) { self.read_error } else { 0.0 }
    }

    fn sync_error_at(&self, path: &Path) -> f64 {
        if path.to_string_lossy().contains(self.sync_error_in) { self.sync_error } else { 0.0 }
    }

    fn write_error_at(&self, path: &Path) -> f64 {
        if path.to_string_lossy().contains(self.write_error_in) { self.write_error } else { 0.0 }
    }
}

impl Default for DiskFaults {
    /// A disk on which nothing fails, of 1 GiB.
    fn default() -> DiskFaults {
        DiskFaults {
            read_error: 0.0,
            read_error_in: "",
            write_error: 0.0,
            write_error_in: "",
            sync_error: 0.0,
            sync_error_in: "",
            slow_sync: 0.0,
            slow_sync_ms: 2_000,
            capacity_bytes: 1 << 30,
            full_in: "",
            open_files: u64::MAX,
        }
    }
}

/// A node's disk, which outlives its incarnations.
pub(super) struct NodeDisk(Mutex<State>);

struct State {
    image: Image,
    /// Paths that are locked; all locks end with the incarnation.
    locks: BTreeMap<PathBuf, u64>,
    faults: DiskFaults,
    rng: Rng,
    operations: u64,
    /// Bytes that reads of files gave.
    bytes_read: Cell<u64>,
    crash_at: Option<(u64, Crash)>,
    /// Time that operations took and nobody has waited for yet.
    time_ms: u64,
    /// Files that each incarnation has open.
    open_files: BTreeMap<u64, u64>,
}

impl NodeDisk {
    pub(super) fn new(rng: Rng) -> NodeDisk {
        NodeDisk(Mutex::new(State {
            image: Image::new(),
            locks: BTreeMap::new(),
            faults: DiskFaults::default(),
            rng,
            operations: 0,
            bytes_read: Cell::new(0),
            crash_at: None,
            time_ms: 0,
            open_files: BTreeMap::new(),
        }))
    }

    pub(super) fn operations(&self) -> u64 {
        locked(&self.0).operations
    }

    pub(super) fn bytes_read(&self) -> u64 {
        locked(&self.0).bytes_read.get()
    }

    pub(super) fn crash_at(&self, at: Option<(u64, Crash)>) {
        locked(&self.0).crash_at = at;
    }

    pub(super) fn set_faults(&self, faults: DiskFaults) {
        locked(&self.0).faults = faults;
    }

    pub(super) fn take_time_ms(&self) -> u64 {
        std::mem::take(&mut locked(&self.0).time_ms)
    }

    pub(super) fn crash(&self, kind: Crash) {
        let mut state = locked(&self.0);
        let State { image, locks, rng, crash_at, time_ms, .. } = &mut *state;
        locks.clear();
        *crash_at = None;
        *time_ms = 0;
        if kind == Crash::PowerCut {
            image.power_cut(rng);
        }
    }

    pub(super) fn fingerprint(&self) -> u64 {
        locked(&self.0).image.fingerprint()
    }

    pub(super) fn flip_bit(&self, path: &Path) -> bool {
        let mut state = locked(&self.0);
        let State { image, rng, .. } = &mut *state;
        image.file(path).is_ok_and(|file| image.flip_bit(file, rng))
    }

    pub(super) fn peek(&self, path: &Path) -> Option<Vec<u8>> {
        let state = locked(&self.0);
        let file = state.image.file(path).ok()?;
        Some(state.image.bytes(file).to_vec())
    }
}

/// How one operation ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Succeeds,
    Fails,
    /// The node dies in the middle of it.
    Dies,
}

/// The disk as one incarnation has it.
pub(super) struct SimDisk {
    node: SimRuntime,
}

fn input_output_error() -> io::Error {
    io::Error::from_raw_os_error(libc::EIO)
}

impl SimDisk {
    pub(super) fn new(node: SimRuntime) -> SimDisk {
        SimDisk { node }
    }

    fn alive(&self) -> io::Result<()> {
        if self.node.is_alive() { Ok(()) } else { Err(io::Error::other("the simulated node is dead")) }
    }

    /// An operation that changes nothing and is not counted.
    fn look<T>(&self, f: impl FnOnce(&State) -> io::Result<T>) -> io::Result<T> {
        self.alive()?;
        f(&locked(&self.node.incarnation.disk.0))
    }

    fn may_open(&self) -> io::Result<()> {
        self.look(|state| {
            let open = state.open_files.get(&self.node.incarnation.number).copied().unwrap_or(0);
            if open < state.faults.open_files { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EMFILE)) }
        })
    }

    fn count_open(&self, change: impl FnOnce(u64) -> u64) {
        let mut state = locked(&self.node.incarnation.disk.0);
        let open = state.open_files.entry(self.node.incarnation.number).or_default();
        *open = change(*open);
    }

    /// An operation that reads file content.
    fn read<T>(&self, path: &Path, f: impl FnOnce(&State) -> io::Result<T>) -> io::Result<T> {
        self.alive()?;
        let mut state = locked(&self.node.incarnation.disk.0);
        let probability = state.faults.read_error_at(path);
        if state.rng.chance(probability) {
            drop(state);
            self.node.world.0.record(self.node.node(), "disk", &[], format_args!("a read fails"));
            return Err(input_output_error());
        }
        f(&state)
    }

    /// An operation that changes or syncs something: it is counted, it can fail with `error_chance`, and the node can
    /// die in it. `f` is told its fate and does to the image what is done before it ends so.
    fn change<T>(
        &self,
        what: &str,
        path: &Path,
        values: [u64; 3],
        error_chance: impl FnOnce(&DiskFaults) -> f64,
        f: impl FnOnce(&mut State, Fate) -> io::Result<T>,
    ) -> io::Result<T> {
        self.alive()?;
        let mut state = locked(&self.node.incarnation.disk.0);
        state.operations += 1;
        let number = state.operations;
        let crash = state.crash_at.filter(|(at, _)| *at == number);
        let probability = error_chance(&state.faults);
        let fate = match crash {
            Some(_) => Fate::Dies,
            None if state.rng.chance(probability) => Fate::Fails,
            None => Fate::Succeeds,
        };
        let result = f(&mut state, fate);
        let result = if fate == Fate::Fails { Err(input_output_error()) } else { result };
        drop(state);

        let node = self.node.node();
        let outcome = match &result {
            _ if fate == Fate::Dies => "dies".to_owned(),
            Ok(_) => String::new(),
            Err(error) => format!("fails: {error}"),
        };
        let [first, second, hash] = values;
        let values = [first, second, hash, number, u64::from(result.is_ok())];
        let text = format_args!("{number} {what} {} {first} {second} {outcome}", path.display());
        self.node.world.0.record(node, "disk", &values, text);
        if let Some((_, kind)) = crash {
            self.node.world.crash(node, kind);
            self.alive()?;
        }
        result
    }

    /// A change of folders: it takes effect or not when the node dies in it.
    fn change_folders<T>(&self, what: &str, path: &Path, f: impl FnOnce(&mut Image) -> io::Result<T>) -> io::Result<T> {
        self.change(
            what,
            path,
            [0; 3],
            |faults| faults.write_error_at(path),
            |state, fate| match fate {
                Fate::Succeeds => f(&mut state.image),
                Fate::Fails => Err(input_output_error()),
                Fate::Dies if state.rng.chance(0.5) => f(&mut state.image),
                Fate::Dies => Err(input_output_error()),
            },
        )
    }
}

/// Time that a sync takes.
fn sync_time_ms(state: &mut State) -> u64 {
    if state.rng.chance(state.faults.slow_sync) {
        state.rng.between(1, state.faults.slow_sync_ms.max(1))
    } else {
        state.rng.between(0, 3)
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        self.may_open()?;
        let found = self.look(|state| Ok(state.image.file(path)))?;
        let file = match (mode, found) {
            (OpenMode::CreateNew, Ok(_)) => return Err(io::ErrorKind::AlreadyExists.into()),
            (_, Ok(file)) => file,
            (OpenMode::Create | OpenMode::CreateNew, Err(error)) if error.kind() == io::ErrorKind::NotFound => {
                self.change_folders("create", path, |image| image.create_file(path))?
            }
            (_, Err(error)) => return Err(error),
        };
        let disk = SimDisk::new(self.node.clone());
        disk.count_open(|open| open + 1);
        Ok(Arc::new(SimFile { disk, path: path.to_owned(), file, writable: mode != OpenMode::Read }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut missing: Vec<&Path> = path.ancestors().collect();
        missing.reverse();
        for folder in missing {
            let exists = self.look(|state| match state.image.list(folder) {
                Ok(_) => Ok(true),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
                Err(error) => Err(error),
            })?;
            if !exists {
                self.change_folders("mkdir", folder, |image| image.create_folder(folder))?;
            }
        }
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.change_folders("remove", path, |image| image.remove_file(path))
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.change(
            "rmdir",
            path,
            [0; 3],
            |faults| faults.write_error_at(path),
            |state, fate| {
                let mut limit = if fate == Fate::Succeeds { u64::MAX } else { state.rng.below(8) };
                state.image.remove_folder(path, &mut limit)
            },
        )
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change_folders("rename", to, |image| image.rename(from, to))
    }

    fn hard_link(&self, existing: &Path, new: &Path) -> io::Result<()> {
        self.change_folders("link", new, |image| image.hard_link(existing, new))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.may_open()?;
        self.change(
            "syncdir",
            path,
            [0; 3],
            |faults| faults.sync_error_at(path),
            |state, fate| {
                let State { image, rng, .. } = &mut *state;
                match fate {
                    Fate::Dies if rng.chance(0.5) => {}
                    Fate::Succeeds | Fate::Dies => image.sync_folder(path)?,
                    Fate::Fails => image.sync_folder_fails(path, rng)?,
                }
                state.time_ms += sync_time_ms(state);
                Ok(())
            },
        )
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.look(|state| {
            let entries = state.image.list(path)?.into_iter();
            Ok(entries.map(|(name, is_dir, len)| DirEntry { name, is_dir, len }).collect())
        })
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.look(|state| Ok(state.image.exists(path)))
    }

    fn lock_exclusive(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        self.open(path, OpenMode::Create)?;
        let incarnation = self.node.incarnation.number;
        let mut state = locked(&self.node.incarnation.disk.0);
        if state.locks.contains_key(path) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        state.locks.insert(path.to_owned(), incarnation);
        Ok(Box::new(SimLock { node: self.node.clone(), path: path.to_owned() }))
    }

    fn space(&self, _path: &Path) -> io::Result<DiskSpace> {
        self.look(|state| {
            let total_bytes = state.faults.capacity_bytes;
            Ok(DiskSpace { available_bytes: total_bytes.saturating_sub(state.image.used_bytes()), total_bytes })
        })
    }

    fn map(&self, path: &Path) -> io::Result<Arc<dyn Map>> {
        self.read(path, |state| {
            let file = state.image.file(path)?;
            Ok(Arc::new(SimMap(state.image.bytes(file).to_vec())) as Arc<dyn Map>)
        })
    }
}

struct SimFile {
    disk: SimDisk,
    path: PathBuf,
    file: FileId,
    writable: bool,
}

impl SimFile {
    fn may_write(&self) -> io::Result<()> {
        if self.writable { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) }
    }

    fn sync(&self, what: &str) -> io::Result<()> {
        self.disk.change(
            what,
            &self.path,
            [0; 3],
            |faults| faults.sync_error_at(&self.path),
            |state, fate| {
                let State { image, rng, .. } = &mut *state;
                match fate {
                    Fate::Dies if rng.chance(0.5) => {}
                    Fate::Succeeds | Fate::Dies => image.sync(self.file),
                    Fate::Fails => image.sync_fails(self.file, rng),
                }
                state.time_ms += sync_time_ms(state);
                Ok(())
            },
        )
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        self.disk.count_open(|open| open.saturating_sub(1));
    }
}

/// A position or length as an index into memory.
fn in_memory(value: u64) -> io::Result<usize> {
    usize::try_from(value).map_err(|_| io::ErrorKind::InvalidInput.into())
}

impl File for SimFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.disk.read(&self.path, |state| {
            let bytes = state.image.bytes(self.file);
            let from = in_memory(position)?.min(bytes.len());
            let count = buffer.len().min(bytes.len() - from);
            buffer[..count].copy_from_slice(&bytes[from..from + count]);
            state.bytes_read.set(state.bytes_read.get() + count as u64);
            Ok(count)
        })
    }

    fn write_all_at(&self, slices: &[IoSlice<'_>], position: u64) -> io::Result<()> {
        self.may_write()?;
        let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        let start = in_memory(position)?;
        let values = [position, bytes.len() as u64, mix_bytes(0, &bytes)];
        self.disk.change(
            "write",
            &self.path,
            values,
            |faults| faults.write_error_at(&self.path),
            |state, fate| {
                let State { image, rng, faults, .. } = &mut *state;
                let growth = (start + bytes.len()).saturating_sub(image.bytes(self.file).len()) as u64;
                let here = self.path.to_string_lossy().contains(faults.full_in);
                let is_full = growth > 0 && here && image.used_bytes() + growth > faults.capacity_bytes;
                let count = if fate == Fate::Succeeds && !is_full { bytes.len() } else { rng.index(bytes.len() + 1) };
                image.write(self.file, &bytes[..count], start, rng);
                if is_full { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
            },
        )
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync("sync")
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync("sync")
    }

    fn len(&self) -> io::Result<u64> {
        self.disk.look(|state| Ok(state.image.bytes(self.file).len() as u64))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.may_write()?;
        let new_len = in_memory(len)?;
        self.disk.change(
            "setlen",
            &self.path,
            [len, 0, 0],
            |faults| faults.write_error_at(&self.path),
            |state, fate| {
                if fate == Fate::Succeeds || fate == Fate::Dies && state.rng.chance(0.5) {
                    state.image.set_len(self.file, new_len);
                }
                Ok(())
            },
        )
    }

    fn start_writeback(&self, position: u64, len: u64) -> io::Result<()> {
        let (from, to) = (in_memory(position)?, in_memory(position.saturating_add(len))?);
        self.disk.change(
            "flush",
            &self.path,
            [position, len, 0],
            |_| 0.0,
            |state, _| {
                let State { image, rng, .. } = &mut *state;
                image.start_writeback(self.file, from, to, rng);
                Ok(())
            },
        )
    }
}

struct SimMap(Vec<u8>);

impl Map for SimMap {
    fn bytes(&self) -> &[u8] {
        &self.0
    }
}

struct SimLock {
    node: SimRuntime,
    path: PathBuf,
}

impl DiskLock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = locked(&self.node.incarnation.disk.0);
        // A lock of a dead incarnation is gone already, and the path may be locked by the next.
        if state.locks.get(&self.path) == Some(&self.node.incarnation.number) {
            state.locks.remove(&self.path);
        }
    }
}
