//! What a simulated disk holds, and what a crash leaves of it.
//!
//! # Fault model
//!
//! Files. Each has the bytes that programs see (the page cache) and the bytes that are durable. A write changes the
//! page cache and makes the 4 KiB pages that it touches dirty. Only a sync that returns `Ok` makes them durable;
//! before, the system may write any dirty page at any time (also an older version of it, when it was written to again).
//! At a power cut each dirty page is, by itself, kept, lost, or torn: some of its 512-byte sectors new, the others old.
//! Sectors are atomic. A length that was changed and not synced is the old one, the new one, or, growing, anything
//! between; what the length covers and no page was kept for reads as zeros.
//!
//! A sync that fails has written some of the dirty pages; *all of them count as clean afterwards*, so that a later sync
//! succeeds without having written the others (as Linux does). What programs see of the others is the new content or,
//! if the system dropped it from the cache, the old.
//!
//! Folders. Entries that were made, renamed or removed are durable after a sync of their folder that returned `Ok`. At
//! a power cut any subset of the others survives, applied in order: so renames may be seen reordered, a file may lose
//! its name, and a removed one come back. A rename is atomic. A file's own sync does not make its entry durable.
//!
//! A sync of a folder that fails has made some of its changes durable; *the others stay pending*, for the next sync or
//! the power cut. They are not lost behind a later sync that returns `Ok`, as pages of a file are: a file system whose
//! journal cannot be written (ext4's, XFS's) takes no writes before it is mounted again, and then shows what it has.
//! (Here it takes writes: a program that wrongly tries a folder's sync again is not found.)
//!
//! A kill leaves the page cache alone: nothing is lost by it, and what was not synced can be lost by a later power cut.
//!
//! On request: reads, writes and syncs fail, the disk is full, stored bits flip (see `DiskFaults` and `World`).

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Component, Path};

use super::super::rng::{Rng, mix, mix_bytes};

/// The longest name of a file or folder, as on the usual file systems.
const MAX_NAME_BYTES: usize = 255;

/// What the page cache and the disk exchange.
pub(super) const PAGE_BYTES: usize = 4096;
/// What the disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FileId(u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct FolderId(u64);

const ROOT: FolderId = FolderId(0);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    File(FileId),
    Folder(FolderId),
}

#[derive(Default)]
struct Content {
    /// What programs see.
    cached: Vec<u8>,
    /// What is on the disk; may go beyond the durable length, where pages were written before the length was.
    stored: Vec<u8>,
    stored_len: usize,
    dirty: BTreeSet<usize>,
    /// Clean pages may differ from the disk, because a sync failed.
    sync_failed: bool,
}

#[derive(Default)]
struct Folder {
    cached: BTreeMap<OsString, Entry>,
    stored: BTreeMap<OsString, Entry>,
}

/// One folder operation that is not durable: all its effects, or none.
struct Change(Vec<Effect>);

struct Effect {
    folder: FolderId,
    name: OsString,
    entry: Option<Entry>,
}

pub(super) struct Image {
    files: BTreeMap<FileId, Content>,
    folders: BTreeMap<FolderId, Folder>,
    changes: Vec<Change>,
    next_id: u64,
}

impl Image {
    pub(super) fn new() -> Image {
        Image {
            files: BTreeMap::new(),
            folders: BTreeMap::from([(ROOT, Folder::default())]),
            changes: Vec::new(),
            next_id: 1,
        }
    }

    fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id - 1
    }

    // Paths.

    fn folder(&self, path: &Path) -> io::Result<FolderId> {
        let mut at = ROOT;
        for component in path.components() {
            if let Component::Normal(name) = component {
                at = match self.folders[&at].cached.get(name) {
                    Some(Entry::Folder(id)) => *id,
                    Some(Entry::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
                    None => return Err(io::ErrorKind::NotFound.into()),
                };
            }
        }
        Ok(at)
    }

    /// The folder that holds the path's last component, and that component.
    fn place<'p>(&self, path: &'p Path) -> io::Result<(FolderId, &'p OsStr)> {
        if path.file_name().is_some_and(|name| name.len() > MAX_NAME_BYTES) {
            return Err(io::ErrorKind::InvalidFilename.into());
        }
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        Ok((self.folder(path.parent().unwrap_or(Path::new("")))?, name))
    }

    fn entry(&self, path: &Path) -> io::Result<Entry> {
        let (folder, name) = self.place(path)?;
        self.folders[&folder].cached.get(name).copied().ok_or(io::ErrorKind::NotFound.into())
    }

    pub(super) fn file(&self, path: &Path) -> io::Result<FileId> {
        match self.entry(path)? {
            Entry::File(id) => Ok(id),
            Entry::Folder(_) => Err(io::ErrorKind::IsADirectory.into()),
        }
    }

    pub(super) fn exists(&self, path: &Path) -> bool {
        self.folder(path).is_ok() || self.entry(path).is_ok()
    }

    /// Names, whether each is a folder, and lengths.
    pub(super) fn list(&self, path: &Path) -> io::Result<Vec<(OsString, bool, u64)>> {
        let folder = &self.folders[&self.folder(path)?];
        let entries = folder.cached.iter().map(|(name, entry)| match entry {
            Entry::File(id) => (name.clone(), false, self.files[id].cached.len() as u64),
            Entry::Folder(_) => (name.clone(), true, 0),
        });
        Ok(entries.collect())
    }

    // Folders.

    fn change(&mut self, effects: Vec<Effect>) {
        for Effect { folder, name, entry } in &effects {
            let folder = self.folders.get_mut(folder).expect("effects name existing folders");
            match entry {
                Some(entry) => folder.cached.insert(name.clone(), *entry),
                None => folder.cached.remove(name),
            };
        }
        self.changes.push(Change(effects));
    }

    fn set(&mut self, (folder, name): (FolderId, &OsStr), entry: Option<Entry>) {
        self.change(vec![Effect { folder, name: name.to_owned(), entry }]);
    }

    pub(super) fn create_file(&mut self, path: &Path) -> io::Result<FileId> {
        let (folder, name) = self.place(path)?;
        let id = FileId(self.new_id());
        self.files.insert(id, Content::default());
        self.set((folder, name), Some(Entry::File(id)));
        Ok(id)
    }

    pub(super) fn create_folder(&mut self, path: &Path) -> io::Result<()> {
        let place = self.place(path)?;
        let id = FolderId(self.new_id());
        self.folders.insert(id, Folder::default());
        self.set(place, Some(Entry::Folder(id)));
        Ok(())
    }

    pub(super) fn remove_file(&mut self, path: &Path) -> io::Result<()> {
        self.file(path)?;
        let place = self.place(path)?;
        self.set(place, None);
        Ok(())
    }

    /// Removes a folder and what it holds; with `limit`, only that many entries, deepest first.
    pub(super) fn remove_folder(&mut self, path: &Path, limit: &mut u64) -> io::Result<()> {
        self.folder(path)?;
        for (name, is_folder, _) in self.list(path)? {
            if *limit == 0 {
                return Ok(());
            }
            let child = path.join(name);
            if is_folder {
                self.remove_folder(&child, limit)?;
            } else {
                self.remove_file(&child)?;
                *limit -= 1;
            }
        }
        if *limit > 0 {
            *limit -= 1;
            let place = self.place(path)?;
            self.set(place, None);
        }
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let entry = self.entry(from)?;
        let (old, new) = (self.place(from)?, self.place(to)?);
        match (entry, self.entry(to)) {
            (_, Err(_)) | (Entry::File(_), Ok(Entry::File(_))) => {}
            (Entry::File(_), Ok(Entry::Folder(_))) => return Err(io::ErrorKind::IsADirectory.into()),
            (Entry::Folder(_), Ok(_)) => return Err(io::ErrorKind::AlreadyExists.into()),
        }
        self.change(vec![
            Effect { folder: old.0, name: old.1.to_owned(), entry: None },
            Effect { folder: new.0, name: new.1.to_owned(), entry: Some(entry) },
        ]);
        Ok(())
    }

    pub(super) fn hard_link(&mut self, existing: &Path, new: &Path) -> io::Result<()> {
        let file = self.file(existing)?;
        if self.exists(new) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let place = self.place(new)?;
        self.set(place, Some(Entry::File(file)));
        Ok(())
    }

    pub(super) fn sync_folder(&mut self, path: &Path) -> io::Result<()> {
        self.store_changes_of(path, || true)
    }

    /// A sync of a folder that failed: some changes are durable, the others still pending.
    pub(super) fn sync_folder_fails(&mut self, path: &Path, rng: &mut Rng) -> io::Result<()> {
        self.store_changes_of(path, || rng.chance(0.5))
    }

    /// Makes those changes of a folder durable that are `chosen`, and those that they build upon.
    fn store_changes_of(&mut self, path: &Path, mut chosen: impl FnMut() -> bool) -> io::Result<()> {
        let synced = self.folder(path)?;
        // From the newest to the oldest: with a change go all earlier ones of the same names, which it builds upon.
        let mut names: BTreeSet<(FolderId, OsString)> = BTreeSet::new();
        let mut durable: Vec<bool> = Vec::new();
        for Change(effects) in self.changes.iter().rev() {
            let is_older = effects.iter().any(|effect| names.contains(&(effect.folder, effect.name.clone())));
            let goes = is_older || (effects.iter().any(|effect| effect.folder == synced) && chosen());
            if goes {
                names.extend(effects.iter().map(|effect| (effect.folder, effect.name.clone())));
            }
            durable.push(goes);
        }
        let mut durable = durable.into_iter().rev();
        let changes = std::mem::take(&mut self.changes);
        for change in changes {
            if durable.next() == Some(true) { self.store(change) } else { self.changes.push(change) }
        }
        Ok(())
    }

    fn store(&mut self, Change(effects): Change) {
        for Effect { folder, name, entry } in effects {
            let Some(folder) = self.folders.get_mut(&folder) else { continue };
            match entry {
                Some(entry) => folder.stored.insert(name, entry),
                None => folder.stored.remove(&name),
            };
        }
    }

    // Files.

    fn content(&self, id: FileId) -> &Content {
        &self.files[&id]
    }

    fn content_mut(&mut self, id: FileId) -> &mut Content {
        self.files.get_mut(&id).expect("a file stays while its incarnation has it open")
    }

    pub(super) fn bytes(&self, id: FileId) -> &[u8] {
        &self.content(id).cached
    }

    pub(super) fn write(&mut self, id: FileId, bytes: &[u8], position: usize, rng: &mut Rng) {
        if bytes.is_empty() {
            return;
        }
        let content = self.content_mut(id);
        // The system may write any dirty page by itself: so an older version of a page can be what survives.
        if !content.dirty.is_empty() && rng.chance(0.05) {
            let page =
                *content.dirty.iter().nth(rng.index(content.dirty.len())).expect("the index is below the length");
            content.store_page(page);
        }
        let end = position + bytes.len();
        let old_len = content.cached.len();
        if end > old_len {
            content.cached.resize(end, 0);
            if position > old_len {
                content.mark(old_len, position);
            }
        }
        content.cached[position..end].copy_from_slice(bytes);
        content.mark(position, end);
    }

    pub(super) fn set_len(&mut self, id: FileId, len: usize) {
        let content = self.content_mut(id);
        let longest = content.cached.len().max(content.stored.len()).max(len);
        let from = content.cached.len().min(len);
        content.cached.resize(len, 0);
        content.mark(from, longest);
    }

    pub(super) fn start_writeback(&mut self, id: FileId, from: usize, to: usize, rng: &mut Rng) {
        let content = self.content_mut(id);
        let pages: Vec<usize> = content.dirty.range(from / PAGE_BYTES..to.div_ceil(PAGE_BYTES)).copied().collect();
        for page in pages {
            if rng.chance(0.5) {
                content.store_page(page);
                content.dirty.remove(&page);
            }
        }
    }

    pub(super) fn sync(&mut self, id: FileId) {
        let content = self.content_mut(id);
        for page in std::mem::take(&mut content.dirty) {
            content.store_page(page);
        }
        content.stored_len = content.cached.len();
        content.stored.resize(content.stored_len, 0);
        // This is the promise that everything above rests on.
        debug_assert!(content.sync_failed || content.stored == content.cached);
    }

    /// See the fault model.
    pub(super) fn sync_fails(&mut self, id: FileId, rng: &mut Rng) {
        let content = self.content_mut(id);
        let dropped_from_cache = rng.chance(0.3);
        for page in std::mem::take(&mut content.dirty) {
            if rng.chance(0.5) {
                content.store_page(page);
            } else if dropped_from_cache {
                content.load_page(page);
            }
        }
        content.sync_failed = true;
        if rng.chance(0.5) {
            content.stored_len = content.cached.len();
        }
    }

    pub(super) fn used_bytes(&self) -> u64 {
        self.files.values().map(|content| content.cached.len() as u64).sum()
    }

    pub(super) fn flip_bit(&mut self, id: FileId, rng: &mut Rng) -> bool {
        let content = self.content_mut(id);
        if content.cached.is_empty() {
            return false;
        }
        let (byte, bit) = (rng.index(content.cached.len()), rng.below(8));
        content.cached[byte] ^= 1 << bit;
        if let Some(stored) = content.stored.get_mut(byte) {
            *stored ^= 1 << bit;
        }
        true
    }

    // Crashes.

    pub(super) fn power_cut(&mut self, rng: &mut Rng) {
        // Cuts differ: in some nearly everything had been written, in others nearly nothing.
        let kept = [0.0, 0.2, 0.5, 0.8, 1.0][rng.index(5)];
        let torn = [0.0, 0.1, 0.5][rng.index(3)];
        for change in std::mem::take(&mut self.changes) {
            if rng.chance(kept) {
                self.store(change);
            }
        }
        for content in self.files.values_mut() {
            content.power_cut(kept, torn, rng);
        }
        for folder in self.folders.values_mut() {
            folder.cached.clone_from(&folder.stored);
        }
        self.forget_unreachable();
    }

    /// After a crash nothing is open: what has no name is gone.
    fn forget_unreachable(&mut self) {
        let (mut folders, mut files) = (BTreeSet::new(), BTreeSet::new());
        let mut left = vec![ROOT];
        while let Some(id) = left.pop() {
            if !folders.insert(id) {
                continue;
            }
            for entry in self.folders[&id].cached.values() {
                match entry {
                    Entry::File(file) => {
                        files.insert(*file);
                    }
                    Entry::Folder(folder) => left.push(*folder),
                }
            }
        }
        self.folders.retain(|id, _| folders.contains(id));
        self.files.retain(|id, _| files.contains(id));
    }

    /// Everything that programs see, as one number.
    pub(super) fn fingerprint(&self) -> u64 {
        let mut hash = 0;
        for (id, folder) in &self.folders {
            hash = mix(hash ^ id.0);
            for (name, entry) in &folder.cached {
                hash = mix_bytes(hash, name.as_encoded_bytes());
                if let Entry::File(file) = entry {
                    hash = mix_bytes(hash, &self.files[file].cached);
                }
            }
        }
        hash
    }
}

impl Content {
    fn mark(&mut self, from: usize, to: usize) {
        self.dirty.extend(from / PAGE_BYTES..to.div_ceil(PAGE_BYTES));
    }

    /// Copies a range from the page cache to the disk; what is beyond the end there is zeros.
    fn store_range(&mut self, from: usize, to: usize) {
        if self.stored.len() < to {
            self.stored.resize(to, 0);
        }
        let seen = to.min(self.cached.len()).max(from.min(self.cached.len()));
        let start = from.min(seen);
        self.stored[start..seen].copy_from_slice(&self.cached[start..seen]);
        self.stored[from.max(seen)..to].fill(0);
    }

    fn store_page(&mut self, page: usize) {
        self.store_range(page * PAGE_BYTES, (page + 1) * PAGE_BYTES);
    }

    /// The reverse of `store_page`: the system forgot what was written.
    fn load_page(&mut self, page: usize) {
        let end = ((page + 1) * PAGE_BYTES).min(self.cached.len());
        for position in page * PAGE_BYTES..end {
            self.cached[position] = self.stored.get(position).copied().unwrap_or(0);
        }
    }

    fn power_cut(&mut self, kept: f64, torn: f64, rng: &mut Rng) {
        for page in std::mem::take(&mut self.dirty) {
            if rng.chance(torn) {
                for sector in 0..PAGE_BYTES / SECTOR_BYTES {
                    if rng.chance(0.5) {
                        let from = page * PAGE_BYTES + sector * SECTOR_BYTES;
                        self.store_range(from, from + SECTOR_BYTES);
                    }
                }
            } else if rng.chance(kept) {
                self.store_page(page);
            }
        }
        let (old, new) = (self.stored_len, self.cached.len());
        let len = match rng.below(4) {
            0 => old,
            1 if old < new => rng.between(old as u64, new as u64) as usize,
            _ if rng.chance(kept) => new,
            _ => old,
        };
        self.stored.resize(len, 0);
        self.stored_len = len;
        self.cached.clone_from(&self.stored);
    }
}
