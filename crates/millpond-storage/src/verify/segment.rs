//! A segment's two files, read from end to end: every batch by itself, and the index by what the batches are.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use millpond_record::{BatchHeader, Crc32c, HEADER_BYTES, LeaderEpoch, LogId, Offset, RaftIndex, RaftOnlyKind, Term};
use millpond_runtime::{Disk, File, OpenMode};

use crate::index::{
    INDEX_ENTRY_BYTES, INDEX_HEADER_BYTES, IndexEntry, IndexHeader, SegmentCursor, TRAILER_CRC_AT, Trailer,
    entry_position,
};
use crate::segment::{Expected, SegmentFile, SegmentName};

/// Files are read in pieces of this size.
const WINDOW_BYTES: u64 = 1 << 20;
/// Entries of an index that are in memory at once.
const ENTRIES_AT_ONCE: u32 = 1024;

/// A window that moves forward over a file.
struct Window<'a> {
    file: &'a dyn File,
    end: u64,
    at: u64,
    bytes: Vec<u8>,
}

impl<'a> Window<'a> {
    fn new(file: &'a dyn File, end: u64) -> Window<'a> {
        Window { file, end, at: 0, bytes: Vec::new() }
    }

    /// As many of the next `most` bytes as are at hand: none only at the end of the file.
    fn some(&mut self, position: u64, most: u64) -> io::Result<&[u8]> {
        if position < self.at || position >= self.at + self.bytes.len() as u64 {
            self.bytes.resize(WINDOW_BYTES.min(self.end.saturating_sub(position)) as usize, 0);
            self.at = position;
            if let Err(error) = self.file.read_exact_at(&mut self.bytes, position) {
                self.bytes.clear();
                return Err(error);
            }
        }
        let start = (position - self.at) as usize;
        let rest = &self.bytes[start.min(self.bytes.len())..];
        Ok(&rest[..rest.len().min(most as usize)])
    }

    /// Exactly `N` bytes, or `None` at the end of the file.
    fn exactly<const N: usize>(&mut self, position: u64) -> io::Result<Option<[u8; N]>> {
        let mut found = [0; N];
        let mut filled = 0;
        while filled < N {
            let some = self.some(position + filled as u64, (N - filled) as u64)?;
            if some.is_empty() {
                return Ok(None);
            }
            found[filled..filled + some.len()].copy_from_slice(some);
            filled += some.len();
        }
        Ok(Some(found))
    }
}

/// A batch that was proven by itself.
pub(crate) struct WalkedBatch<'a> {
    pub(crate) position: u64,
    pub(crate) id: LogId,
    pub(crate) head: &'a [u8; HEADER_BYTES],
    pub(crate) header: BatchHeader,
    /// The first byte behind the header: of a Raft-only entry its kind.
    pub(crate) first_byte: Option<u8>,
}

/// Where a walk ended, and why if that is not where it should.
pub(crate) struct Walked {
    pub(crate) position: u64,
    pub(crate) wrong: Option<String>,
}

/// Walks the batches of a log file from `position` to the first that is not right, or to `end`. Takes one window of
/// memory, however long a batch says it is.
pub(crate) fn walk(
    file: &dyn File,
    mut position: u64,
    end: u64,
    expected: &mut Expected,
    found: &mut dyn FnMut(&WalkedBatch<'_>) -> io::Result<()>,
) -> io::Result<Walked> {
    let mut window = Window::new(file, end);
    while position < end {
        let Some(head) = window.exactly::<HEADER_BYTES>(position)? else {
            let left = end - position;
            return Ok(Walked { position, wrong: Some(format!("{left} bytes are too few for a batch")) });
        };
        let header = match BatchHeader::read(&head) {
            Ok(header) => header,
            Err(error) => return Ok(Walked { position, wrong: Some(error.to_string()) }),
        };
        if let Some(wrong) = wrong_header(&header, expected, end - position) {
            return Ok(Walked { position, wrong: Some(wrong) });
        }
        let first_byte = match content(&mut window, position, &head, &header)? {
            Ok(first_byte) => first_byte,
            Err(wrong) => return Ok(Walked { position, wrong: Some(wrong) }),
        };
        let id = LogId { term: Term(header.leader_epoch.0 as u64), index: expected.index };
        found(&WalkedBatch { position, id, head: &head, header, first_byte })?;
        *expected = Expected {
            offset: header.next_offset(),
            index: RaftIndex(expected.index.0.wrapping_add(1)),
            term: id.term,
        };
        position += u64::from(header.size_bytes);
    }
    Ok(Walked { position, wrong: None })
}

/// Why a header cannot follow in a log.
fn wrong_header(header: &BatchHeader, expected: &Expected, left: u64) -> Option<String> {
    let (found, wanted) = (header.base_offset, expected.offset);
    if found != wanted {
        return Some(format!("the batch has base offset {found}, but {wanted} is the next"));
    }
    let LeaderEpoch(epoch) = header.leader_epoch;
    if !u64::try_from(epoch).is_ok_and(|epoch| epoch >= expected.term.0) {
        return Some(format!("the batch has leader epoch {epoch}, but the one before has {}", expected.term));
    }
    if u64::from(header.size_bytes) > left {
        return Some(format!("the batch has {} bytes, but only {left} are left", header.size_bytes));
    }
    let (delta, count) = (header.last_offset_delta, header.record_count);
    let fits = if header.attributes.is_raft_only() {
        delta == -1 && count == 0
    } else {
        // Compaction may leave fewer records than offsets.
        delta >= 0 && count >= 0 && i64::from(count) <= i64::from(delta) + 1
    };
    if !fits {
        return Some(format!("the batch has last offset delta {delta} and {count} records, which cannot be"));
    }
    if found.0.checked_add(i64::from(delta) + 1).is_none() {
        return Some("the batch's offsets end beyond all offsets".into());
    }
    header.attributes.compression().err().map(|codec| format!("the batch names codec {codec}, which does not exist"))
}

/// The first byte behind a header, or why the bytes of the batch are not what the header says.
fn content(
    window: &mut Window<'_>,
    position: u64,
    head: &[u8; HEADER_BYTES],
    header: &BatchHeader,
) -> io::Result<Result<Option<u8>, String>> {
    let mut crc = Crc32c::new();
    crc.update(&head[CRC_COVERS_FROM..]);
    let end = position + u64::from(header.size_bytes);
    let mut at = position + HEADER_BYTES as u64;
    let mut first = None;
    while at < end {
        let some = window.some(at, end - at)?;
        let Some(byte) = some.first() else { return Err(io::ErrorKind::UnexpectedEof.into()) };
        first.get_or_insert(*byte);
        crc.update(some);
        at += some.len() as u64;
    }
    if crc.finish() != header.crc {
        return Ok(Err("the CRC-32C of the batch does not match its bytes".into()));
    }
    let known = |byte: u8| RaftOnlyKind::ALL.iter().any(|kind| *kind as u8 == byte);
    if header.attributes.is_raft_only() && !first.is_some_and(known) {
        return Ok(Err("the Raft-only entry is of a kind that this version does not know".into()));
    }
    Ok(Ok(first))
}

/// Where the CRC of a batch begins to count (see `millpond_record::batch`).
const CRC_COVERS_FROM: usize = 21;

/// The index of a segment, read forward.
pub(crate) struct IndexFile {
    pub(crate) path: PathBuf,
    file: Arc<dyn File>,
    /// The entries it has room for, a trailer among them.
    pub(crate) entries: u32,
    /// Bytes behind the last whole entry.
    pub(crate) rest: u64,
    first_loaded: u32,
    loaded: Vec<IndexEntry>,
}

impl IndexFile {
    /// Opens it and proves its header.
    pub(super) fn open(disk: &dyn Disk, folder: &std::path::Path, name: SegmentName) -> Result<IndexFile, String> {
        let path = folder.join(name.file(SegmentFile::Index));
        let file = disk.open(&path, OpenMode::Read).map_err(|error| format!("it cannot be read: {error}"))?;
        IndexFile::of(path, file, name)
    }

    /// Proves the header of an open file.
    pub(crate) fn of(path: PathBuf, file: Arc<dyn File>, name: SegmentName) -> Result<IndexFile, String> {
        let read = |error: io::Error| format!("it cannot be read: {error}");
        let length = file.len().map_err(read)?;
        let mut header = [0; INDEX_HEADER_BYTES];
        let Some(body) = length.checked_sub(INDEX_HEADER_BYTES as u64) else {
            return Err(format!("its {length} bytes are too few for a header"));
        };
        file.read_exact_at(&mut header, 0).map_err(read)?;
        let header = IndexHeader::decode(&header).map_err(|error| error.to_string())?;
        if (header.base_offset, header.first_index) != (name.base_offset, name.first_index) {
            return Err(format!("it belongs to the segment {}.{}", header.base_offset, header.first_index));
        }
        let entries = u32::try_from(body / INDEX_ENTRY_BYTES as u64).map_err(|_| "it is too long".to_owned())?;
        let rest = body % INDEX_ENTRY_BYTES as u64;
        Ok(IndexFile { path, file, entries, rest, first_loaded: 0, loaded: Vec::new() })
    }

    /// Entry `number`, which is below [`IndexFile::entries`].
    pub(crate) fn entry(&mut self, number: u32) -> io::Result<IndexEntry> {
        let at = number.wrapping_sub(self.first_loaded) as usize;
        if let Some(entry) = self.loaded.get(at).filter(|_| number >= self.first_loaded) {
            return Ok(*entry);
        }
        let count = ENTRIES_AT_ONCE.min(self.entries.saturating_sub(number)) as usize;
        let mut bytes = vec![0; count * INDEX_ENTRY_BYTES];
        self.file.read_exact_at(&mut bytes, entry_position(number))?;
        self.first_loaded = number;
        self.loaded = bytes.as_chunks().0.iter().map(IndexEntry::decode).collect();
        self.loaded.first().copied().ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// Its trailer, proven by the checksum of the file.
    pub(crate) fn trailer(&self) -> Result<Trailer, String> {
        let read = |error: io::Error| format!("it cannot be read: {error}");
        let Some(number) = self.entries.checked_sub(1).filter(|_| self.rest == 0) else {
            return Err("its length is not that of a header, entries and a trailer".into());
        };
        let end = entry_position(number);
        let mut bytes = [0; INDEX_ENTRY_BYTES];
        self.file.read_exact_at(&mut bytes, end).map_err(read)?;
        let trailer = Trailer::decode(&bytes).ok_or("it has no trailer, although the segment is closed")?;
        let mut crc = crc32fast::Hasher::new();
        let mut window = Window::new(&*self.file, end);
        let mut at = 0;
        while at < end {
            let some = window.some(at, end - at).map_err(read)?;
            crc.update(some);
            at += some.len() as u64;
        }
        let (before, after) = bytes.split_at(TRAILER_CRC_AT);
        let (found, after) = after.split_first_chunk().expect("the checksum lies within the trailer");
        crc.update(before);
        crc.update(after);
        if crc.finalize() != u32::from_le_bytes(*found) {
            return Err("its checksum does not match".into());
        }
        Ok(trailer)
    }
}

/// Something about an index that does not fit the log.
pub(super) struct Misfit {
    /// Byte in the index file.
    pub(super) position: u64,
    pub(super) offset: Offset,
    pub(super) what: String,
}

/// Holds the entries of an index to the batches as they are walked.
pub(super) struct IndexCheck {
    /// `None` when there is nothing to hold them to.
    pub(super) index: Option<IndexFile>,
    /// Entries that are looked at; a closed index has a trailer behind them.
    pub(super) limit: u32,
    pub(super) next: u32,
    pub(super) cursor: SegmentCursor,
}

impl IndexCheck {
    pub(super) fn new(index: Option<IndexFile>, limit: u32) -> IndexCheck {
        IndexCheck { index, limit, next: 0, cursor: SegmentCursor::START }
    }

    /// The next entry, if the index is still of interest.
    pub(super) fn peek(&mut self) -> io::Result<Option<IndexEntry>> {
        match &mut self.index {
            Some(index) if self.next < self.limit => index.entry(self.next).map(Some),
            _ => Ok(None),
        }
    }

    /// Moves over a batch; tells what does not fit. A misfit ends the comparison.
    pub(super) fn batch(&mut self, batch: &WalkedBatch<'_>) -> io::Result<Option<Misfit>> {
        let number = self.next;
        // A power cut may leave room behind the last entry of the active segment that was never filled.
        let next = self.peek()?.filter(|entry| number == 0 || (entry.position, entry.hash_before) != (0, 0));
        // With the widest interval an entry is made only where there must be one.
        let made = self.cursor;
        let must =
            self.cursor.push(batch.id.index, batch.head, &batch.header, millpond_record::Timestamp::NONE, u32::MAX);
        if self.index.is_none() || self.next >= self.limit {
            return Ok(None);
        }
        let position = batch.position as u32;
        let what = match next {
            Some(entry) if entry.position == position => {
                self.next += 1;
                self.cursor.append_time = self.cursor.append_time.max(entry.append_time);
                let raft_only = batch.header.attributes.is_raft_only();
                let bytes = if raft_only { batch.header.size_bytes } else { 0 };
                let same = (entry.offset, entry.index, entry.raft_only_bytes, entry.max_timestamp_before)
                    == (batch.header.base_offset, batch.id.index, bytes, made.max_timestamp);
                match (same, entry.hash_before == made.hash) {
                    (true, true) => return Ok(None),
                    (true, false) => "the running hash of the batches before it differs from the one in the index",
                    (false, _) => "the index entry is not that of the batch that it leads to",
                }
            }
            Some(entry) if entry.position < position => "the index entry leads into the middle of a batch",
            _ if must.is_some() => "the index has no entry for a batch that must have one",
            _ => return Ok(None),
        };
        self.limit = 0;
        let misfit = Misfit { position: entry_position(number), offset: batch.header.base_offset, what: what.into() };
        Ok(Some(misfit))
    }
}
