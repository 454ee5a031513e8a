//! Reading the journal back: from the file that `groups.table` names to the first record that was not written whole.
//!
//! A file whose header does not carry the number of its name was not written to under that name and is passed over. A
//! file's records are read as long as lengths, file number, sequence and checksums fit. That a scan may end anywhere
//! within the last write, and nowhere else, is checked: when the rest of the file or a later file proves that what does
//! not fit was once synced, the journal is damaged, and the start is refused instead of losing what was acknowledged.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::path::{Path, PathBuf};

use millpond_record::{BatchView, RaftIndex, RaftOnlyKind, parse_raft_only};
use millpond_runtime::{Disk, File, OpenMode, PlantedFault, planted};

use super::file::{FILE_HEADER_BYTES, FileHeader, HeaderFound, JOURNAL_VERSION, number_of, path_of};
use super::record::{self, JournalEntry, RECORD_HEAD_BYTES, RECORD_HEADER_BYTES, RecordHeader};
use crate::OpenError;

/// Files are read in pieces of this size, or of a record's size if that is larger.
const WINDOW_BYTES: usize = 1 << 20;

/// From where a journal is replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReplayFrom {
    /// The first file that may hold records that are needed.
    pub(crate) file_number: u64,
    /// The first record that is needed; earlier ones in that file are read over.
    pub(crate) sequence: u64,
}

/// A record that was proven by its checksums.
pub(crate) struct FoundRecord<'a> {
    pub(crate) header: RecordHeader,
    /// The record as it is in its file.
    pub(crate) bytes: &'a [u8],
    /// What that file's header begins its checksums with.
    pub(crate) salt: u32,
    /// Where it begins in its file.
    pub(crate) position: u64,
    pub(crate) path: &'a Path,
}

impl FoundRecord<'_> {
    /// Whether it appends an entry that changes the members of its group. The first entry of all founds it.
    pub(crate) fn changes_members(&self) -> bool {
        let batch = self.bytes.get(RECORD_HEADER_BYTES..).and_then(|bytes| BatchView::parse(bytes).ok());
        // Most are data, and are not copied for this.
        if !batch.is_some_and(|batch| batch.header().attributes.is_raft_only()) {
            return false;
        }
        match self.entry() {
            Ok(JournalEntry::Append { index, batch, .. }) if index > RaftIndex(0) => {
                parse_raft_only(&batch).is_ok_and(|(kind, _)| kind == RaftOnlyKind::Membership)
            }
            _ => false,
        }
    }

    /// What it says.
    pub(crate) fn entry(&self) -> Result<JournalEntry, OpenError> {
        record::decode(&self.header, self.bytes).map_err(|record::Unreadable| OpenError::Damaged {
            path: self.path.to_path_buf(),
            what: format!("record {} cannot be read by this version; use a newer millpond", self.header.sequence),
        })
    }
}

/// What a scan found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scanned {
    /// The sequence number after the last record that counts.
    pub(crate) next_sequence: u64,
    /// Files that hold records since `ReplayFrom`, oldest first.
    pub(crate) files: Vec<u64>,
    /// Records from `ReplayFrom` on.
    pub(crate) records: u64,
    /// Bytes of those records.
    pub(crate) bytes: u64,
    /// Where the last write lies, in the last of the files; empty if that file has no records.
    pub(crate) last_write: Range<u64>,
}

/// The numbers of the journal's files, in order.
pub(crate) fn list(disk: &dyn Disk, folder: &Path) -> Result<Vec<u64>, OpenError> {
    let entries = disk.read_dir(folder).map_err(|error| OpenError::io("list", folder, error))?;
    Ok(entries.iter().filter_map(|entry| number_of(entry.name.to_str()?)).collect())
}

/// Reads all records from `from` on, in order. `numbers` is what [`list`] gave.
pub(crate) fn scan(
    disk: &dyn Disk,
    folder: &Path,
    numbers: &[u64],
    from: ReplayFrom,
    visit: &mut dyn FnMut(FoundRecord<'_>) -> Result<(), OpenError>,
) -> Result<Scanned, OpenError> {
    let mut scanned =
        Scanned { next_sequence: from.sequence, files: Vec::new(), records: 0, bytes: 0, last_write: 0..0 };
    // Where the records read so far end; differs from `next_sequence` while they are ones that are not needed.
    let mut end = None;
    for number in numbers.iter().copied().filter(|number| *number >= from.file_number) {
        let path = path_of(folder, number);
        let file = disk.open(&path, OpenMode::Read).map_err(|error| OpenError::io("open", &path, error))?;
        let mut reader = FileReader::open(&*file).map_err(|error| OpenError::io("read", &path, error))?;
        let Some(header) = reader.header(number, &path)? else { continue };
        let first = header.first_sequence;
        // The first file may begin before the records that are needed. A later one begins where the former ends, or, if
        // a start in between found records missing that nobody needs, where the needed ones begin.
        let continues = match end {
            None => first <= from.sequence,
            Some(end) => first == end || (end < from.sequence && first == from.sequence),
        };
        if !continues {
            let missing = end.unwrap_or(from.sequence).max(from.sequence);
            return Err(damaged(&path, format!("it begins with record {first}, but record {missing} is missing")));
        }
        scanned.files.push(number);
        let (after, last_write) = scan_file(&mut reader, header, &path, &mut |record| {
            if record.header.sequence >= from.sequence {
                scanned.records += 1;
                scanned.bytes += u64::from(record.header.length);
                visit(record)?;
            }
            Ok(())
        })?;
        end = Some(after);
        scanned.next_sequence = after.max(from.sequence);
        scanned.last_write = last_write;
    }
    Ok(scanned)
}

/// Reads one file as [`scan`] does; the sequence number after its last record, or `None` if it has no header.
pub(crate) fn scan_one(
    file: &dyn File,
    number: u64,
    path: &Path,
    visit: &mut dyn FnMut(FoundRecord<'_>) -> Result<(), OpenError>,
) -> Result<Option<u64>, OpenError> {
    let mut reader = FileReader::open(file).map_err(|error| OpenError::io("read", path, error))?;
    let Some(header) = reader.header(number, path)? else { return Ok(None) };
    scan_file(&mut reader, header, path, visit).map(|(end, _)| Some(end))
}

fn damaged(path: &Path, what: String) -> OpenError {
    OpenError::Damaged { path: path.to_path_buf(), what }
}

/// Reads one file's records; gives the sequence number after the last, and where the last write lies.
fn scan_file(
    reader: &mut FileReader<'_>,
    file: FileHeader,
    path: &Path,
    visit: &mut dyn FnMut(FoundRecord<'_>) -> Result<(), OpenError>,
) -> Result<(u64, Range<u64>), OpenError> {
    let read_error = |error| OpenError::io("read", path, error);
    let (mut sequence, mut position) = (file.first_sequence, FILE_HEADER_BYTES as u64);
    // The header belongs to the first write.
    let mut last_write = 0;
    while let Some((header, bytes)) = reader.record_at(position, &file).map_err(read_error)? {
        if header.sequence != sequence && !planted(PlantedFault::StaleJournalRecord) {
            break;
        }
        if header.back == 0 && sequence > file.first_sequence {
            last_write = position;
        }
        let begins = position;
        position += u64::from(header.length);
        sequence += 1;
        visit(FoundRecord { header, position: begins, bytes, salt: file.salt, path })?;
    }
    // Everything before the write that a later record belongs to was synced before that write began.
    if let Some(proof) = reader.find_later_write(position, &file, sequence).map_err(read_error)? {
        let what = format!("record {sequence} at byte {position} is damaged, but record {proof} behind it is whole");
        return Err(damaged(path, what));
    }
    Ok((sequence, last_write..position))
}

/// A file and a window of it in memory.
struct FileReader<'a> {
    file: &'a dyn File,
    length: u64,
    window: Vec<u8>,
    window_at: u64,
}

impl<'a> FileReader<'a> {
    fn open(file: &'a dyn File) -> io::Result<FileReader<'a>> {
        Ok(FileReader { file, length: file.len()?, window: Vec::new(), window_at: 0 })
    }

    /// The bytes at a position; `None` when the file ends before. Allocates no more than the file has.
    fn get(&mut self, position: u64, bytes: usize) -> io::Result<Option<&[u8]>> {
        let end = position.checked_add(bytes as u64).filter(|end| *end <= self.length);
        let Some(end) = end else { return Ok(None) };
        if position < self.window_at || end > self.window_at + self.window.len() as u64 {
            let left = usize::try_from(self.length - position).unwrap_or(usize::MAX);
            self.window.resize(bytes.max(WINDOW_BYTES).min(left), 0);
            self.window_at = position;
            if let Err(error) = self.file.read_exact_at(&mut self.window, position) {
                self.window.clear();
                return Err(error);
            }
        }
        let start = (position - self.window_at) as usize;
        Ok(Some(&self.window[start..start + bytes]))
    }

    /// The file's header, if it was written under this number.
    fn header(&mut self, number: u64, path: &Path) -> Result<Option<FileHeader>, OpenError> {
        let found = match self.get(0, FILE_HEADER_BYTES).map_err(|error| OpenError::io("read", path, error))? {
            Some(bytes) => FileHeader::find(bytes, number),
            None => HeaderFound::None,
        };
        match found {
            HeaderFound::Header(header) if header.number == number => Ok(Some(header)),
            HeaderFound::Header(header) if planted(PlantedFault::StaleJournalRecord) => Ok(Some(header)),
            HeaderFound::Header(_) | HeaderFound::None => Ok(None),
            HeaderFound::Newer(found) => {
                Err(OpenError::NewerFormat { path: path.to_path_buf(), found, supported: JOURNAL_VERSION })
            }
        }
    }

    /// The record of this file that lies at a position, proven by its checksums.
    fn record_at(&mut self, position: u64, file: &FileHeader) -> io::Result<Option<(RecordHeader, &[u8])>> {
        let left = self.length.saturating_sub(position);
        let Some(bytes) = self.get(position, RECORD_HEADER_BYTES)? else { return Ok(None) };
        let header = RecordHeader::read(bytes.first_chunk().expect("as many bytes as were asked for"));
        let is_of_this_file = header.file_number == file.number || planted(PlantedFault::StaleJournalRecord);
        if !is_of_this_file || !header.fits(left) {
            return Ok(None);
        }
        // Before the length is believed: what lies behind the records is old, and some of it a client chose.
        let head = self.get(position, RECORD_HEAD_BYTES.min(header.length as usize))?.expect("it fits into the file");
        if !record::prove_head(&header, head, file.salt) {
            return Ok(None);
        }
        let bytes = self.get(position, header.length as usize)?.expect("it fits into the file");
        Ok(record::prove_rest(&header, bytes, file.salt).then_some((header, bytes)))
    }

    /// Looks behind a place where the records end for one of a write that began after record `sequence` was synced.
    /// Records may begin at any byte; they are found by the file's number and proven by their checksums.
    fn find_later_write(&mut self, end: u64, file: &FileHeader, sequence: u64) -> io::Result<Option<u64>> {
        let mut at = end + 1;
        while let Some(bytes) = {
            let left = usize::try_from(self.length.saturating_sub(at)).unwrap_or(usize::MAX);
            self.get(at, left.min(WINDOW_BYTES / 2))?.filter(|bytes| bytes.len() >= RECORD_HEADER_BYTES)
        } {
            let numbers = &bytes[8..];
            let is_number =
                |window: &[u8]| window.first_chunk().map(|bytes| u64::from_le_bytes(*bytes)) == Some(file.number);
            let Some(found) = numbers.windows(size_of::<u64>()).position(is_number) else {
                at += (bytes.len() - RECORD_HEADER_BYTES + 1) as u64;
                continue;
            };
            let position = at + found as u64;
            if let Some((header, _)) = self.record_at(position, file)?
                && header.sequence.checked_sub(u64::from(header.back)).is_some_and(|began| began > sequence)
            {
                return Ok(Some(header.sequence));
            }
            at = position + 1;
        }
        Ok(None)
    }
}

/// Makes what a scan found durable, before anything that is replayed from it is reported.
///
/// A sync may have failed before the last process ended. The system then believes the pages of that write to be clean,
/// and a new sync would succeed without writing them; so the last write is written again, byte for byte.
pub(crate) fn make_durable(disk: &dyn Disk, folder: &Path, scanned: &Scanned) -> Result<(), OpenError> {
    for number in &scanned.files {
        let path = path_of(folder, *number);
        let write_error = |error| OpenError::io("sync", &path, error);
        let file = disk.open(&path, OpenMode::Write).map_err(write_error)?;
        if scanned.files.last() == Some(number) {
            write_again(&*file, scanned.last_write.clone()).map_err(write_error)?;
            if scanned.last_write.start == 0 {
                write_header_again(&*file, *number).map_err(write_error)?;
            }
        }
        file.sync_data().map_err(write_error)?;
    }
    Ok(())
}

fn write_again(file: &dyn File, range: Range<u64>) -> io::Result<()> {
    let mut buffer = vec![0; WINDOW_BYTES];
    let mut position = range.start;
    while position < range.end {
        let bytes = buffer.len().min((range.end - position) as usize);
        file.read_exact_at(&mut buffer[..bytes], position)?;
        file.write_all_at(&[IoSlice::new(&buffer[..bytes])], position)?;
        position += bytes as u64;
    }
    Ok(())
}

/// A crash within a file's first write may have left one of the two copies of its header.
fn write_header_again(file: &dyn File, number: u64) -> io::Result<()> {
    let mut bytes = vec![0; FILE_HEADER_BYTES];
    file.read_exact_at(&mut bytes, 0)?;
    match FileHeader::find(&bytes, number) {
        HeaderFound::Header(header) => file.write_all_at(&[IoSlice::new(&header.encode())], 0),
        HeaderFound::Newer(_) | HeaderFound::None => Ok(()),
    }
}

/// Whether a record of the journal begins behind the last whole one: the last write did not reach the disk in full, or
/// was damaged there. `number` is the last file of the scan.
pub(crate) fn unfinished_record(
    disk: &dyn Disk,
    path: &Path,
    number: u64,
    scanned: &Scanned,
) -> Result<bool, OpenError> {
    let read_error = |error| OpenError::io("read", path, error);
    let file = disk.open(path, OpenMode::Read).map_err(read_error)?;
    let mut reader = FileReader::open(&*file).map_err(read_error)?;
    let at = scanned.last_write.end.max(FILE_HEADER_BYTES as u64);
    let bytes = reader.get(at, RECORD_HEADER_BYTES).map_err(read_error)?;
    let header = bytes.and_then(|bytes| bytes.first_chunk()).map(RecordHeader::read);
    Ok(header.is_some_and(|header| header.file_number == number && header.sequence == scanned.next_sequence))
}

/// The journal's folder in a data directory.
pub(crate) fn folder_of(root: &Path) -> PathBuf {
    root.join("journal")
}
