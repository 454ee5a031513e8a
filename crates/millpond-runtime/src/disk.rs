//! Files and folders as the layers above see them.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::io::IoSlice;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;

/// How [`Disk::open`] opens a file. Every mode but `Read` allows reading and writing; none truncates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// Read an existing file.
    Read,
    /// Read and write an existing file.
    Write,
    /// Read and write; an empty file is made when there is none.
    Create,
    /// Read and write a new file; `AlreadyExists` when there is one.
    CreateNew,
}

/// The space of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskSpace {
    /// Bytes that this process may still write.
    pub available_bytes: u64,
    /// Bytes in all, used ones included.
    pub total_bytes: u64,
}

/// One entry of a folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirEntry {
    /// The entry's name inside its folder.
    pub name: OsString,
    /// Whether it is a folder.
    pub is_dir: bool,
    /// The file's length in bytes; 0 for a folder.
    pub len: u64,
}

/// A disk. All calls block, so they belong into a [`crate::Round`] or into [`crate::Runtime::blocking`].
///
/// What survives a power cut is only this: bytes of a file that [`File::sync_data`] or [`File::sync_all`] returned `Ok`
/// for after they were written, and entries of a folder that [`Disk::sync_dir`] returned `Ok` for after they were made,
/// renamed or removed. Everything else may survive in part and in any order. A failed sync is final: what it covered
/// may be lost although a later sync succeeds.
pub trait Disk: Send + Sync + 'static {
    /// Opens a file.
    ///
    /// # Errors
    /// `NotFound`, `AlreadyExists` as the mode says, and whatever the system reports.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>>;

    /// Makes a folder and its missing parents. Not durable before each parent is synced.
    ///
    /// # Errors
    /// What the system reports.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;

    /// Removes a file's entry.
    ///
    /// # Errors
    /// `NotFound`, and what the system reports.
    fn remove_file(&self, path: &Path) -> io::Result<()>;

    /// Removes a folder and all that it holds.
    ///
    /// # Errors
    /// `NotFound`, and what the system reports; a part may be gone.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;

    /// Renames a file or folder; an existing file at `to` is replaced atomically.
    ///
    /// # Errors
    /// `NotFound`, and what the system reports.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Makes a second entry for a file.
    ///
    /// # Errors
    /// `NotFound`, `AlreadyExists`, and what the system reports.
    fn hard_link(&self, existing: &Path, new: &Path) -> io::Result<()>;

    /// Makes the entries of a folder durable.
    ///
    /// # Errors
    /// What the system reports; final, as for files.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// Lists a folder, sorted by name.
    ///
    /// # Errors
    /// `NotFound`, and what the system reports.
    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>>;

    /// Whether there is a file or folder.
    ///
    /// # Errors
    /// What the system reports.
    fn exists(&self, path: &Path) -> io::Result<bool>;

    /// Reads a whole file.
    ///
    /// # Errors
    /// `NotFound`; `InvalidData` when the file is longer than `max_bytes`; what the system reports.
    fn read(&self, path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
        let file = self.open(path, OpenMode::Read)?;
        let len = file.len()?;
        if len > max_bytes {
            let text = format!("{} has {len} bytes, more than the {max_bytes} that it may have", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        let mut bytes = vec![0; usize::try_from(len).map_err(|_| io::ErrorKind::InvalidData)?];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    /// Takes an exclusive lock on a file, which is made when there is none. It is released when the value is dropped or
    /// the process ends, however it ends.
    ///
    /// # Errors
    /// `WouldBlock` when another holder has it; what the system reports.
    fn lock_exclusive(&self, path: &Path) -> io::Result<Box<dyn DiskLock>>;

    /// The space of the file system of `path`.
    ///
    /// # Errors
    /// What the system reports.
    fn space(&self, path: &Path) -> io::Result<DiskSpace>;

    /// Maps a file for random reads. The file must not become shorter while the map lives; whether the map shows later
    /// writes is not defined (the real one does, the simulated one does not).
    ///
    /// # Errors
    /// `NotFound`, and what the system reports.
    fn map(&self, path: &Path) -> io::Result<Arc<dyn Map>>;
}

/// An open file, used by position. All methods may be called from several threads.
#[allow(clippy::len_without_is_empty)] // `len` asks the system; an emptiness check would be one more way to ask.
pub trait File: Send + Sync + 'static {
    /// Reads at a position; fewer bytes than asked only at the end of the file, or as the system likes.
    ///
    /// # Errors
    /// What the system reports.
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize>;

    /// Fills the buffer from a position.
    ///
    /// # Errors
    /// `UnexpectedEof` when the file ends before; what the system reports.
    fn read_exact_at(&self, buffer: &mut [u8], position: u64) -> io::Result<()> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read_at(&mut buffer[filled..], position + filled as u64) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads exactly so many bytes from a position into memory of its own.
    ///
    /// # Errors
    /// As for [`File::read_exact_at`].
    fn read_vec_at(&self, length: usize, position: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.replace_at(&mut bytes, length, position)?;
        Ok(bytes)
    }

    /// Reads exactly so many bytes from a position in place of what the vector held, whose memory is used again and
    /// need not be filled with zeros first.
    ///
    /// # Errors
    /// As for [`File::read_exact_at`]; the vector's content is then undefined.
    fn replace_at(&self, bytes: &mut Vec<u8>, length: usize, position: u64) -> io::Result<()> {
        bytes.clear();
        bytes.resize(length, 0);
        self.read_exact_at(bytes, position)
    }

    /// What the system knows the file by, if it is the system's: its bytes can then go to a socket without passing
    /// through this process.
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Writes all slices one behind the other from a position on.
    ///
    /// # Errors
    /// What the system reports (`StorageFull` for a full disk); a part may have been written.
    fn write_all_at(&self, slices: &[IoSlice<'_>], position: u64) -> io::Result<()>;

    /// Makes the file's bytes and its length durable (`fdatasync`).
    ///
    /// # Errors
    /// What the system reports. Final: never try again, see [`Disk`].
    fn sync_data(&self) -> io::Result<()>;

    /// Makes the file's bytes and all its metadata durable (`fsync`).
    ///
    /// # Errors
    /// As for [`File::sync_data`].
    fn sync_all(&self) -> io::Result<()>;

    /// The file's length in bytes.
    ///
    /// # Errors
    /// What the system reports.
    fn len(&self) -> io::Result<u64>;

    /// Cuts the file, or extends it with zeros.
    ///
    /// # Errors
    /// What the system reports.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Asks the system to begin writing a range out, without waiting for it and without making anything durable.
    ///
    /// # Errors
    /// What the system reports.
    fn start_writeback(&self, position: u64, len: u64) -> io::Result<()>;
}

/// A part of an open file, on its way to a socket ([`Stream::poll_send_file`](crate::Stream::poll_send_file)).
#[derive(Clone)]
pub struct FileRange {
    file: Arc<dyn File>,
    position: u64,
    length: usize,
}

impl FileRange {
    /// `length` bytes from `position` on.
    pub fn new(file: Arc<dyn File>, position: u64, length: usize) -> FileRange {
        FileRange { file, position, length }
    }

    /// Bytes that are left of it.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether nothing is left of it.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Takes bytes that were sent off its front, at most all.
    pub fn advance(&mut self, bytes: usize) {
        let bytes = bytes.min(self.length);
        self.position += bytes as u64;
        self.length -= bytes;
    }

    pub(crate) fn file(&self) -> &dyn File {
        &*self.file
    }

    pub(crate) fn position(&self) -> u64 {
        self.position
    }
}

impl fmt::Debug for FileRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileRange({} bytes at {})", self.length, self.position)
    }
}

/// A file mapped into memory by [`Disk::map`].
pub trait Map: Send + Sync + 'static {
    /// The file's bytes at the time of mapping.
    fn bytes(&self) -> &[u8];
}

/// An exclusive lock that ends when it is dropped.
pub trait DiskLock: Send + Sync + 'static {}
