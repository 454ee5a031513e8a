//! One way to write a small file: whole, or not at all.

use std::ffi::OsString;
use std::io;
use std::io::IoSlice;
use std::path::{Path, PathBuf};

use crate::disk::{Disk, OpenMode};

/// Replaces the file at `path` by `bytes`: after a crash it holds the old content or the new one, and the new one once
/// this has returned `Ok`. Writes beside it (`<name>.tmp`), syncs, renames, syncs the folder.
///
/// # Errors
/// What the disk reports. After an error either content may be there, and a sync that failed is final (see [`Disk`]).
pub fn write_atomically(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = temporary_path(path)?;
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let file = disk.open(&temporary, OpenMode::Create)?;
    file.set_len(0)?;
    file.write_all_at(&[IoSlice::new(bytes)], 0)?;
    file.sync_all()?;
    disk.rename(&temporary, path)?;
    disk.sync_dir(folder)
}

fn temporary_path(path: &Path) -> io::Result<PathBuf> {
    let mut name = OsString::from(path.file_name().ok_or(io::ErrorKind::InvalidInput)?);
    name.push(".tmp");
    Ok(path.with_file_name(name))
}
