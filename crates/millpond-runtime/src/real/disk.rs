//! The operating system's files.

use std::fs;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::FlockOperation;

use crate::disk::{DirEntry, Disk, DiskLock, DiskSpace, File, Map, OpenMode};

/// Slices that one `pwritev` takes at most (`IOV_MAX` on Linux).
const MAX_SLICES: usize = 1024;

/// The operating system's disk.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl RealDisk {
    /// The disk as [`crate::Runtime::real`] takes it.
    pub fn shared() -> Arc<dyn Disk> {
        Arc::new(RealDisk)
    }
}

impl Disk for RealDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(mode != OpenMode::Read);
        match mode {
            OpenMode::Read | OpenMode::Write => {}
            OpenMode::Create => {
                options.create(true).truncate(false);
            }
            OpenMode::CreateNew => {
                options.create_new(true);
            }
        }
        Ok(Arc::new(RealFile(options.open(path)?)))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn hard_link(&self, existing: &Path, new: &Path) -> io::Result<()> {
        fs::hard_link(existing, new)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        open_for_reading(path)?.sync_all()
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            // An entry that was removed since is none.
            let metadata = match fs::metadata(entry.path()) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                metadata => metadata?,
            };
            let is_dir = metadata.is_dir();
            entries.push(DirEntry { name: entry.file_name(), is_dir, len: if is_dir { 0 } else { metadata.len() } });
        }
        entries.sort();
        Ok(entries)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        fs::exists(path)
    }

    fn lock_exclusive(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        let file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Box::new(RealLock { _file: file }))
    }

    fn space(&self, path: &Path) -> io::Result<DiskSpace> {
        let file_system = rustix::fs::statvfs(path)?;
        let bytes = |blocks: u64| blocks.saturating_mul(file_system.f_frsize);
        Ok(DiskSpace { available_bytes: bytes(file_system.f_bavail), total_bytes: bytes(file_system.f_blocks) })
    }

    fn map(&self, path: &Path) -> io::Result<Arc<dyn Map>> {
        let file = open_for_reading(path)?;
        if file.metadata()?.len() == 0 {
            // The system maps no empty files.
            return Ok(Arc::new(RealMap(None)));
        }
        // SAFETY: the files that are mapped are ours, under the data folder's exclusive lock, and by the contract of
        // `Disk::map` none is cut while its map lives, so that no read faults. What they hold is checked where it is
        // used.
        let map = unsafe { memmap2::Mmap::map(&file)? };
        map.advise(memmap2::Advice::Random)?;
        Ok(Arc::new(RealMap(Some(map))))
    }
}

fn open_for_reading(path: &Path) -> io::Result<fs::File> {
    fs::File::open(path)
}

struct RealFile(fs::File);

impl File for RealFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.0.read_at(buffer, position)
    }

    fn replace_at(&self, bytes: &mut Vec<u8>, length: usize, position: u64) -> io::Result<()> {
        bytes.clear();
        bytes.reserve_exact(length);
        while bytes.len() < length {
            let at = position + bytes.len() as u64;
            // No more than is wanted, though the vector may have more room.
            let wanted = length - bytes.len();
            let read = match rustix::io::pread(&self.0, &mut bytes.spare_capacity_mut()[..wanted], at) {
                Ok((read, _)) => read.len(),
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let filled = bytes.len() + read;
            // SAFETY: the call filled so many bytes behind the vector's end, within its capacity.
            unsafe { bytes.set_len(filled) };
        }
        Ok(())
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.as_fd())
    }

    fn write_all_at(&self, slices: &[IoSlice<'_>], position: u64) -> io::Result<()> {
        write_all(slices, position, |slices, position| Ok(rustix::io::pwritev(&self.0, slices, position)?))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.0.sync_all()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn start_writeback(&self, position: u64, len: u64) -> io::Result<()> {
        let offset = i64::try_from(position).map_err(|_| io::ErrorKind::InvalidInput)?;
        let bytes = i64::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: the call takes no pointers, and the descriptor is open as long as `self` is.
        let result = unsafe { libc::sync_file_range(self.0.as_raw_fd(), offset, bytes, libc::SYNC_FILE_RANGE_WRITE) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

/// Writes all slices with `write`, which may write a part and takes at most [`MAX_SLICES`].
fn write_all(
    slices: &[IoSlice<'_>],
    mut position: u64,
    mut write: impl FnMut(&[IoSlice<'_>], u64) -> io::Result<usize>,
) -> io::Result<()> {
    let mut remaining: Vec<IoSlice<'_>>;
    let mut left: &mut [IoSlice<'_>] = {
        remaining = slices.iter().filter(|slice| !slice.is_empty()).copied().collect();
        &mut remaining
    };
    while !left.is_empty() {
        match write(&left[..left.len().min(MAX_SLICES)], position) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                position += written as u64;
                IoSlice::advance_slices(&mut left, written);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

struct RealMap(Option<memmap2::Mmap>);

impl Map for RealMap {
    fn bytes(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}

/// The lock belongs to the open file and ends with it.
struct RealLock {
    _file: fs::File,
}

impl DiskLock for RealLock {}
