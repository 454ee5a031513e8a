//! A segment: batches back to back in `<base offset>.<first Raft index>.log`, and its index beside it.
//!
//! ```text
//! 00000000000000000000.0000000000.log      20 digits: the data offset at which the segment starts
//! 00000000000000000000.0000000000.idx      10 digits or more: the Raft index of its first batch
//! ```
//!
//! A log file holds nothing but batches of magic 2, byte for byte as they are served. There is no header: the name says
//! where the segment starts, every batch is one Raft entry, and the index vouches for what no CRC covers.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use millpond_record::{BatchHeader, BatchView, HEADER_BYTES, Offset, RaftIndex, Term, verify_crc};
use millpond_runtime::{Disk, File, OpenMode};

use crate::index::{self, IndexEntry, IndexError, IndexSource, SegmentCursor, Trailer, running_hash};
use crate::log::{LookedThrough, is_passing};
use crate::types::Newest;

/// What a segment's files are named by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SegmentName {
    pub(crate) base_offset: Offset,
    pub(crate) first_index: RaftIndex,
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:020}.{:010}", self.base_offset.0, self.first_index.0)
    }
}

/// The files that share a segment's naming.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SegmentFile {
    Log,
    Index,
    Snapshot,
}

impl SegmentFile {
    fn extension(self) -> &'static str {
        match self {
            SegmentFile::Log => "log",
            SegmentFile::Index => "idx",
            SegmentFile::Snapshot => "snap",
        }
    }
}

impl SegmentName {
    /// The file's name.
    pub(crate) fn file(&self, kind: SegmentFile) -> String {
        format!("{self}.{}", kind.extension())
    }

    /// The name and kind of a file, if it is one of a segment's and spelled as [`SegmentName::file`] spells it.
    pub(crate) fn parse(file: &OsStr) -> Option<(SegmentName, SegmentFile)> {
        let file = file.to_str()?;
        let mut parts = file.split('.');
        let (base, first, extension) = (parts.next()?, parts.next()?, parts.next()?);
        let name = SegmentName { base_offset: Offset(base.parse().ok()?), first_index: RaftIndex(first.parse().ok()?) };
        let kind = [SegmentFile::Log, SegmentFile::Index, SegmentFile::Snapshot]
            .into_iter()
            .find(|kind| kind.extension() == extension)?;
        (name.base_offset.0 >= 0 && name.file(kind) == file).then_some((name, kind))
    }
}

/// The open files of a segment.
#[derive(Clone)]
pub(crate) struct SegmentFiles {
    pub(crate) log: Arc<dyn File>,
    pub(crate) index: Arc<dyn File>,
}

/// A closed segment, proven by its index and ready to be read.
#[derive(Clone)]
pub(crate) struct ClosedSegment {
    pub(crate) log: Arc<dyn File>,
    pub(crate) index: IndexSource,
    pub(crate) trailer: Trailer,
}

/// What stands in for the damaged index of a closed segment.
pub(crate) struct ProvenPart {
    pub(crate) entries: Arc<[IndexEntry]>,
    /// Where what was proven ends.
    pub(crate) end: Trailer,
    /// The offset behind it.
    pub(crate) end_offset: Offset,
    /// Why the segment is not proven to its end; `None` if it is.
    pub(crate) damage: Option<SegmentError>,
}

/// What is wrong with a segment.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum SegmentError {
    /// A file operation failed.
    #[error("{operation} {path}: {source}")]
    Io { operation: &'static str, path: PathBuf, source: Arc<io::Error> },
    /// The index does not hold what it should.
    #[error("the index {path} is damaged: {source}")]
    Index { path: PathBuf, source: IndexError },
    /// The log does not hold what it should.
    #[error("the segment {path} is damaged at position {position}: {what}")]
    Log { path: PathBuf, position: u64, what: &'static str },
    /// The log was closed.
    #[error("the log is closed")]
    Closed,
}

impl SegmentError {
    /// Whether the files do not hold what they should, or the disk no longer gives it. What may do better without
    /// anybody touching the files, such as too many open ones, is no damage.
    pub(crate) fn is_damage(&self) -> bool {
        match self {
            SegmentError::Closed => false,
            SegmentError::Index { source: IndexError::Io(source), .. } | SegmentError::Io { source, .. } => {
                !is_passing(source)
            }
            SegmentError::Index { .. } | SegmentError::Log { .. } => true,
        }
    }

    /// Whether an index does not hold what it should. One of a newer version does.
    pub(crate) fn is_of_index(&self) -> bool {
        let SegmentError::Index { source, .. } = self else { return false };
        !matches!(source, IndexError::Io(_) | IndexError::Version(_))
    }
}

#[derive(Default)]
struct Opened {
    files: Option<SegmentFiles>,
    closed: Option<ClosedSegment>,
}

/// One segment of a log. Its files are opened when they are first used.
pub(crate) struct Segment {
    pub(crate) name: SegmentName,
    disk: Arc<dyn Disk>,
    folder: Arc<Path>,
    /// Set when the log is retired; no file is opened any more.
    retired: Arc<AtomicBool>,
    opened: Mutex<Opened>,
    /// Kept when the files are let go.
    trailer: OnceLock<Trailer>,
    /// Of a closed segment: bytes of its log, and what retention goes by.
    log_bytes: OnceLock<u64>,
    newest: OnceLock<Newest>,
    /// Set when its index was found to be damaged and could not be made anew.
    part: OnceLock<ProvenPart>,
    /// See [`LookedThrough`].
    looked_through: Mutex<Option<LookedThrough>>,
    /// Set before its files are removed because all of it is below the log start.
    removed: AtomicBool,
    /// The operator was told that it is damaged.
    told: AtomicBool,
}

impl Segment {
    pub(crate) fn new(disk: Arc<dyn Disk>, folder: Arc<Path>, retired: Arc<AtomicBool>, name: SegmentName) -> Segment {
        Segment {
            name,
            disk,
            folder,
            retired,
            opened: Mutex::default(),
            trailer: OnceLock::new(),
            log_bytes: OnceLock::new(),
            newest: OnceLock::new(),
            part: OnceLock::new(),
            looked_through: Mutex::default(),
            removed: AtomicBool::new(false),
            told: AtomicBool::new(false),
        }
    }

    /// The segment was closed with this end.
    pub(crate) fn close(&self, trailer: &Trailer) {
        // A segment is closed once; one that is cut again is another value.
        let _ = self.log_bytes.set(trailer.log_bytes.into());
        let _ = self.newest.set(trailer.newest());
    }

    /// What is known of a closed segment that was not opened yet.
    pub(crate) fn know(&self, log_bytes: u64, newest: Option<Newest>) {
        let _ = self.log_bytes.set(log_bytes);
        if let Some(newest) = newest {
            let _ = self.newest.set(newest);
        }
    }

    /// Bytes of its log once it is closed.
    pub(crate) fn log_bytes(&self) -> u64 {
        self.log_bytes.get().copied().unwrap_or(0)
    }

    /// What retention goes by; `None` while its index was not read.
    pub(crate) fn known_newest(&self) -> Option<Newest> {
        self.newest.get().copied()
    }

    /// What retention goes by; reads the index of a closed segment if need be.
    pub(crate) fn newest(&self) -> Result<Newest, SegmentError> {
        match self.newest.get() {
            Some(newest) => Ok(*newest),
            None => {
                let trailer = self.trailer()?;
                if let Some(damage) = self.part.get().and_then(|part| part.damage.as_ref()) {
                    return Err(damage.clone());
                }
                let newest = trailer.newest();
                Ok(*self.newest.get_or_init(|| newest))
            }
        }
    }

    /// Its files are about to be removed.
    pub(crate) fn mark_removed(&self) {
        self.removed.store(true, Ordering::Release);
    }

    pub(crate) fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Acquire)
    }

    /// Whether nobody was told yet that it is damaged; from now on somebody was.
    pub(crate) fn is_news(&self) -> bool {
        !self.told.swap(true, Ordering::AcqRel)
    }

    /// The path of one of its files.
    pub(crate) fn path(&self, kind: SegmentFile) -> PathBuf {
        self.folder.join(self.name.file(kind))
    }

    /// An I/O error on one of its files.
    pub(crate) fn io(&self, operation: &'static str, kind: SegmentFile, source: io::Error) -> SegmentError {
        SegmentError::Io { operation, path: self.path(kind), source: Arc::new(source) }
    }

    pub(crate) fn index_error(&self, source: IndexError) -> SegmentError {
        SegmentError::Index { path: self.path(SegmentFile::Index), source }
    }

    pub(crate) fn damaged(&self, position: u64, what: &'static str) -> SegmentError {
        SegmentError::Log { path: self.path(SegmentFile::Log), position, what }
    }

    fn opened(&self) -> std::sync::MutexGuard<'_, Opened> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_open(&self) -> Result<(), SegmentError> {
        if self.retired.load(Ordering::Acquire) { Err(SegmentError::Closed) } else { Ok(()) }
    }

    /// Its two files for reading and writing, made if they are not there.
    pub(crate) fn files(&self) -> Result<SegmentFiles, SegmentError> {
        self.open_files(OpenMode::Create)
    }

    /// Its two files, which must be there.
    pub(crate) fn existing_files(&self) -> Result<SegmentFiles, SegmentError> {
        self.open_files(OpenMode::Write)
    }

    fn open_files(&self, mode: OpenMode) -> Result<SegmentFiles, SegmentError> {
        let mut opened = self.opened();
        if let Some(files) = &opened.files {
            return Ok(files.clone());
        }
        self.check_open()?;
        let open = |kind, mode| self.disk.open(&self.path(kind), mode).map_err(|error| self.io("open", kind, error));
        let files =
            SegmentFiles { log: open(SegmentFile::Log, mode)?, index: open(SegmentFile::Index, OpenMode::Create)? };
        Ok(opened.files.insert(files).clone())
    }

    /// Opens it as a closed segment: the index must be whole, and the log as long as the index says.
    pub(crate) fn closed(&self) -> Result<ClosedSegment, SegmentError> {
        let mut opened = self.opened();
        if let Some(closed) = &opened.closed {
            return Ok(closed.clone());
        }
        self.check_open()?;
        let log = self
            .disk
            .open(&self.path(SegmentFile::Log), OpenMode::Read)
            .map_err(|error| self.io("open", SegmentFile::Log, error))?;
        if let Some(part) = self.part.get() {
            let index = IndexSource::Memory(part.entries.clone());
            return Ok(opened.closed.insert(ClosedSegment { log, index, trailer: part.end }).clone());
        }
        let map =
            self.disk.map(&self.path(SegmentFile::Index)).map_err(|error| self.io("map", SegmentFile::Index, error))?;
        let (index, trailer) = index::open_closed(map, self.name.base_offset, self.name.first_index)
            .map_err(|error| self.index_error(error))?;
        let length = log.len().map_err(|error| self.io("read", SegmentFile::Log, error))?;
        if length != u64::from(trailer.log_bytes) {
            return Err(self.damaged(length.min(u64::from(trailer.log_bytes)), "it is not as long as its index says"));
        }
        Ok(opened.closed.insert(ClosedSegment { log, index, trailer }).clone())
    }

    /// All of a closed segment.
    pub(crate) fn closed_view(self: &Arc<Segment>) -> Result<SegmentView, SegmentError> {
        let ClosedSegment { log, index, trailer } = self.closed()?;
        Ok(SegmentView { segment: self.clone(), log, index, end: trailer.log_bytes, end_hash: trailer.hash })
    }

    /// What the look-up of the highest timestamp remembers of it; held while it is looked through.
    pub(crate) fn looked_through(&self) -> std::sync::MutexGuard<'_, Option<LookedThrough>> {
        self.looked_through.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on it is read by this index.
    pub(crate) fn read_by(&self, part: ProvenPart) {
        // Whoever came first found the same.
        let _ = self.part.set(part);
    }

    /// Refuses to speak for the records below an offset if some of them lie behind what can be read.
    pub(crate) fn check_readable_to(&self, offset: Offset) -> Result<(), SegmentError> {
        let part = self.part.get().filter(|part| part.end_offset < offset);
        part.and_then(|part| part.damage.clone()).map_or(Ok(()), Err)
    }

    /// The end of a closed segment, proven once.
    pub(crate) fn trailer(&self) -> Result<Trailer, SegmentError> {
        if let Some(trailer) = self.trailer.get() {
            return Ok(*trailer);
        }
        let was_open = self.opened().closed.is_some();
        let trailer = self.closed()?.trailer;
        if !was_open {
            // A look-up asks every segment of a log: their files are not kept open for it.
            self.opened().closed = None;
        }
        Ok(*self.trailer.get_or_init(|| trailer))
    }

    /// Lets go of its files; reads under way keep theirs.
    pub(crate) fn release(&self) {
        *self.opened() = Opened::default();
    }

    /// Removes its files.
    pub(crate) fn remove(&self) -> Result<(), SegmentError> {
        self.release();
        for kind in [SegmentFile::Log, SegmentFile::Index] {
            match self.disk.remove_file(&self.path(kind)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(self.io("remove", kind, error)),
                _ => {}
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Segment").field(&self.name).finish()
    }
}

/// What may be read of a segment: its indexed batches up to a proven end.
#[derive(Clone)]
pub(crate) struct SegmentView {
    pub(crate) segment: Arc<Segment>,
    pub(crate) log: Arc<dyn File>,
    pub(crate) index: IndexSource,
    /// Where the readable part ends.
    pub(crate) end: u32,
    /// The running hash there.
    pub(crate) end_hash: u64,
}

/// A batch in a [`Block`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockBatch {
    pub(crate) index: RaftIndex,
    /// Where it starts in the block's bytes.
    pub(crate) at: u32,
    pub(crate) header: BatchHeader,
    /// The running hash in front of it, and behind it.
    pub(crate) hashes: (u64, u64),
}

/// A run of whole batches, from one index entry to another, each of them proven; their bytes are in the buffer that
/// they were proven in, and in the segment's log.
#[derive(Debug)]
pub(crate) struct ProvenRun {
    /// Where it starts in the log.
    pub(crate) position: u32,
    pub(crate) batches: Vec<BlockBatch>,
    /// The index entry that it ends at, or the number of entries.
    pub(crate) next_entry: u32,
}

/// A run of whole batches, from one index entry to another, each of them proven.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) bytes: Bytes,
    pub(crate) batches: Vec<BlockBatch>,
    /// The index entry that it ends at, or the number of entries.
    pub(crate) next_entry: u32,
}

impl Block {
    /// The bytes of one of its batches.
    pub(crate) fn batch(&self, batch: &BlockBatch) -> Bytes {
        let at = batch.at as usize;
        self.bytes.slice(at..at + batch.header.size_bytes as usize)
    }
}

impl SegmentView {
    /// The number of the last entry for which `holds`, which holds for all up to some entry: where to start looking.
    pub(crate) fn floor(&self, holds: impl Fn(&IndexEntry) -> bool) -> Result<Option<u32>, SegmentError> {
        let point = self.index.partition_point(holds).map_err(|error| self.segment.index_error(error))?;
        Ok(point.checked_sub(1))
    }

    pub(crate) fn entry(&self, number: u32) -> Result<IndexEntry, SegmentError> {
        self.index.entry(number).map_err(|error| self.segment.index_error(error))
    }

    /// The cursor in front of entry `number`.
    pub(crate) fn cursor_at(&self, number: u32) -> Result<SegmentCursor, SegmentError> {
        let previous = if number == 0 { None } else { Some(self.entry(number - 1)?) };
        Ok(SegmentCursor::before(&self.entry(number)?, number, previous.as_ref()))
    }

    /// Reads the batches from entry `number` on: about `want_bytes`, at least those up to the next entry, so that the
    /// block is never larger than `want_bytes` or one interval and one batch. They are proven as by
    /// [`SegmentView::prove_into`].
    pub(crate) fn load(&self, number: u32, want_bytes: usize) -> Result<Block, SegmentError> {
        let mut bytes = Vec::new();
        let run = self.prove_into(&mut bytes, number, want_bytes)?;
        Ok(Block { bytes: Bytes::from(bytes), batches: run.batches, next_entry: run.next_entry })
    }

    /// Reads what [`SegmentView::load`] does into a buffer, in place of what it held.
    ///
    /// Every batch is proven by its CRC, and all headers by the running hash at each entry and at the end: base offset,
    /// epoch and length lie outside the CRC. So what the disk returns wrong is found here and never served.
    pub(crate) fn prove_into(
        &self,
        buffer: &mut Vec<u8>,
        number: u32,
        want_bytes: usize,
    ) -> Result<ProvenRun, SegmentError> {
        let limit = u64::from(self.entry(number)?.position) + want_bytes as u64;
        let within = |entry: &IndexEntry| u64::from(entry.position) <= limit;
        let mut next =
            self.index.partition_point(within).map_err(|error| self.segment.index_error(error))?.max(number + 1);
        // All that is left, if it is within the limit too; else up to the last entry that is.
        let everything = next == self.index.len() && u64::from(self.end) <= limit;
        if !everything && next > number + 1 {
            next -= 1;
        }
        let entries = self.index.range(number, next).map_err(|error| self.segment.index_error(error))?;
        let (end, end_hash) = if next == self.index.len() {
            (self.end, self.end_hash)
        } else {
            let entry = self.entry(next)?;
            (entry.position, entry.hash_before)
        };
        let start = entries.first().map(|entry| entry.position).filter(|start| *start < end && end <= self.end);
        let start = start.ok_or_else(|| self.segment.index_error(IndexError::Order))?;
        let read = self.log.replace_at(buffer, (end - start) as usize, u64::from(start));
        read.map_err(|error| self.segment.io("read", SegmentFile::Log, error))?;
        let batches = self.prove(buffer, &entries, end_hash)?;
        Ok(ProvenRun { position: start, batches, next_entry: next })
    }

    /// Proves all of it, a part at a time.
    pub(crate) fn prove_all(&self) -> Result<(), SegmentError> {
        let (mut buffer, mut number) = (Vec::new(), 0);
        while number < self.index.len() {
            number = self.prove_into(&mut buffer, number, SCAN_BYTES)?.next_entry;
        }
        Ok(())
    }

    /// Proves the batches of a block that starts at the first of `entries` and holds all of them.
    fn prove(&self, bytes: &[u8], entries: &[IndexEntry], end_hash: u64) -> Result<Vec<BlockBatch>, SegmentError> {
        let mut batches = Vec::new();
        let mut ahead = entries.iter().peekable();
        let first = entries.first().ok_or_else(|| self.segment.index_error(IndexError::Order))?;
        let (mut at, mut index, mut hash) = (0, first.index, first.hash_before);
        while at < bytes.len() {
            let position = u64::from(first.position) + at as u64;
            let crossed = ahead.next_if(|entry| u64::from(entry.position) == position);
            if crossed.is_some_and(|entry| (entry.index, entry.hash_before) != (index, hash)) {
                return Err(self.segment.damaged(position, "its running hash differs from the index"));
            }
            let view = BatchView::first_of(&bytes[at..])
                .map_err(|_| self.segment.damaged(position, "there is no whole batch where one should be"))?;
            if !view.verify_crc() {
                return Err(self.segment.damaged(position, "the CRC of the batch does not match"));
            }
            if crossed.is_some_and(|entry| entry.offset != view.header().base_offset) {
                return Err(self.segment.index_error(IndexError::Order));
            }
            let head = view.bytes().first_chunk::<HEADER_BYTES>().expect("a parsed batch has a whole header");
            let before = hash;
            hash = running_hash(before, index, head);
            batches.push(BlockBatch { index, at: at as u32, header: *view.header(), hashes: (before, hash) });
            at += view.size_bytes();
            index = RaftIndex(index.0.wrapping_add(1));
        }
        // An entry that was not met lies inside a batch.
        if hash != end_hash || ahead.next().is_some() {
            let position = u64::from(first.position);
            return Err(self.segment.damaged(position, "its running hash differs from the index behind this position"));
        }
        Ok(batches)
    }
}

/// What a scan expects of the next batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected {
    pub(crate) offset: Offset,
    pub(crate) index: RaftIndex,
    /// The term of the batch before; the next one is not lower.
    pub(crate) term: Term,
}

/// How much a scan reads at once.
const SCAN_BYTES: usize = 1 << 20;

/// Walks the batches of a log file from `position` to the first that is not whole and valid, or to `end`: magic and
/// length, contiguous offsets, terms that do not fall, the CRC. Tells each to `found`; returns the position behind the
/// last one.
///
/// The memory it takes is bounded by the longest batch, and that by the file.
pub(crate) fn scan(
    segment: &Segment,
    log: &dyn File,
    position: u64,
    end: u64,
    mut expected: Expected,
    mut found: impl FnMut(RaftIndex, &[u8; HEADER_BYTES], &BatchView<'_>),
) -> Result<u64, SegmentError> {
    let mut buffer: Vec<u8> = Vec::new();
    let mut start = position;
    let mut at = 0;
    loop {
        let needed = match BatchHeader::read(&buffer[at..]) {
            Ok(header) => header.size_bytes as usize,
            Err(_) if buffer.len() - at < HEADER_BYTES => HEADER_BYTES,
            Err(_) => return Ok(start + at as u64),
        };
        if buffer.len() - at < needed {
            let behind = start + buffer.len() as u64;
            if needed as u64 > end.saturating_sub(start + at as u64) {
                return Ok(start + at as u64);
            }
            buffer.drain(..at);
            start += at as u64;
            at = 0;
            let more = (SCAN_BYTES.max(needed - buffer.len()) as u64).min(end - behind) as usize;
            let kept = buffer.len();
            buffer.resize(kept + more, 0);
            log.read_exact_at(&mut buffer[kept..], behind)
                .map_err(|error| segment.io("read", SegmentFile::Log, error))?;
            continue;
        }
        let bytes = &buffer[at..at + needed];
        let Some(view) = BatchView::parse(bytes).ok().filter(|view| plausible(view.header(), &expected)) else {
            return Ok(start + at as u64);
        };
        if !verify_crc(bytes) {
            return Ok(start + at as u64);
        }
        let head = bytes.first_chunk().expect("a parsed batch has a whole header");
        found(expected.index, head, &view);
        expected = Expected {
            offset: view.header().next_offset(),
            index: RaftIndex(expected.index.0.wrapping_add(1)),
            term: Term(view.header().leader_epoch.0 as u64),
        };
        at += needed;
    }
}

/// Whether a header can follow in a log.
fn plausible(header: &BatchHeader, expected: &Expected) -> bool {
    let raft_only = header.attributes.is_raft_only();
    let takes = if raft_only { header.last_offset_delta == -1 } else { header.last_offset_delta >= 0 };
    takes
        && header.base_offset == expected.offset
        && header.base_offset.0.checked_add(i64::from(header.last_offset_delta) + 1).is_some()
        && u64::try_from(header.leader_epoch.0).is_ok_and(|epoch| epoch >= expected.term.0)
}
