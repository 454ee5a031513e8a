//! The sparse index of a segment, `….idx`: where in the log a Raft index, an offset or a time is, and the running hash
//! that protects what no CRC of a batch covers.
//!
//! ```text
//! header, 32 bytes                             entry, 48 bytes
//!   0  4  magic "MPix"                           0  8  base offset of the batch
//!   4  4  version, 1                             8  8  Raft index of the batch
//!   8  8  base offset of the segment            16  4  position of the batch in the log file
//!  16  8  first Raft index of the segment       20  4  length of the batch if it is Raft-only, else 0
//!  24  4  interval in bytes                     24  8  max timestamp of all batches before it in the segment, or -1
//!  28  4  CRC-32 of the 28 bytes before         32  8  the leader's append time of the batch
//!                                               40  8  running hash over all batches before it in the segment
//! trailer of a closed segment, 48 bytes
//!   0  8  -1                                    24  8  max timestamp of all batches, or -1
//!   8  8  the Raft index after the last         32  8  append time of the last batch, or -1
//!  16  4  length of the log file                40  8  running hash over all batches
//!  20  4  CRC-32 of the file without this field
//! ```
//!
//! All numbers are little-endian. An entry is made for the first batch of the segment, for every Raft-only batch (so
//! that a fetch can cut its range), and for a batch that begins at least one interval behind the last entry. The rule
//! looks at nothing but the batches, so that an index that is rebuilt is the index that was lost, append times aside: a
//! rebuilt entry has the batch's max timestamp there unless the journal told the time.
//!
//! The running hash of a batch is xxh3 (64 bit) over its Raft index (8 bytes, little-endian) and its stamped header,
//! with the hash before it as the seed; the first batch has seed 0. The header holds the batch's CRC, so the hash names
//! the whole content.

use std::io;
use std::sync::Arc;

use millpond_record::{BatchHeader, HEADER_BYTES, Offset, RaftIndex, Timestamp};
use millpond_runtime::{File, Map};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::types::Newest;

/// Bytes of the file's header.
pub(crate) const INDEX_HEADER_BYTES: usize = 32;
/// Bytes of an entry, and of the trailer.
pub(crate) const INDEX_ENTRY_BYTES: usize = 48;

const MAGIC: [u8; 4] = *b"MPix";
const VERSION: u32 = 1;
const TRAILER_MARK: i64 = -1;
pub(crate) const TRAILER_CRC_AT: usize = 20;

const _: () = {
    assert!(INDEX_HEADER_BYTES == 4 + 4 + 8 + 8 + 4 + 4);
    assert!(INDEX_ENTRY_BYTES == 8 + 8 + 4 + 4 + 8 + 8 + 8);
};

/// Where in the index file an entry is.
pub(crate) fn entry_position(entry: u32) -> u64 {
    (INDEX_HEADER_BYTES + entry as usize * INDEX_ENTRY_BYTES) as u64
}

/// The running hash after a batch.
pub(crate) fn running_hash(before: u64, index: RaftIndex, head: &[u8; HEADER_BYTES]) -> u64 {
    let mut input = [0; 8 + HEADER_BYTES];
    input[..8].copy_from_slice(&index.0.to_le_bytes());
    input[8..].copy_from_slice(head);
    xxh3_64_with_seed(&input, before)
}

/// What is wrong with an index.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum IndexError {
    #[error("its header is damaged")]
    Header,
    #[error("it has format version {0}, but this version reads {VERSION}: use a newer millpond")]
    Version(u32),
    #[error("it belongs to the segment {0}.{1}")]
    OtherSegment(Offset, RaftIndex),
    #[error("it has {0} bytes, which is not a header, entries and a trailer")]
    Length(u64),
    #[error("its checksum does not match")]
    Crc,
    #[error("it does not lead into the log")]
    Order,
    #[error("{0}")]
    Io(Arc<io::Error>),
}

impl From<io::Error> for IndexError {
    fn from(error: io::Error) -> IndexError {
        IndexError::Io(Arc::new(error))
    }
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn le64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// The header of an index file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IndexHeader {
    pub(crate) base_offset: Offset,
    pub(crate) first_index: RaftIndex,
    pub(crate) interval_bytes: u32,
}

impl IndexHeader {
    pub(crate) fn encode(&self) -> [u8; INDEX_HEADER_BYTES] {
        let mut bytes = [0; INDEX_HEADER_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..8].copy_from_slice(&VERSION.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.base_offset.0.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.first_index.0.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.interval_bytes.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..28]);
        bytes[28..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<IndexHeader, IndexError> {
        let bytes = bytes.first_chunk::<INDEX_HEADER_BYTES>().ok_or(IndexError::Header)?;
        if bytes[..4] != MAGIC || le32(bytes, 28) != crc32fast::hash(&bytes[..28]) {
            return Err(IndexError::Header);
        }
        if le32(bytes, 4) != VERSION {
            return Err(IndexError::Version(le32(bytes, 4)));
        }
        Ok(IndexHeader {
            base_offset: Offset(le64(bytes, 8) as i64),
            first_index: RaftIndex(le64(bytes, 16)),
            interval_bytes: le32(bytes, 24),
        })
    }

    fn expect(self, base_offset: Offset, first_index: RaftIndex) -> Result<IndexHeader, IndexError> {
        if (self.base_offset, self.first_index) != (base_offset, first_index) {
            return Err(IndexError::OtherSegment(self.base_offset, self.first_index));
        }
        Ok(self)
    }
}

/// One entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IndexEntry {
    pub(crate) offset: Offset,
    pub(crate) index: RaftIndex,
    pub(crate) position: u32,
    /// The length of a Raft-only batch; 0 for data.
    pub(crate) raft_only_bytes: u32,
    pub(crate) max_timestamp_before: Timestamp,
    pub(crate) append_time: Timestamp,
    pub(crate) hash_before: u64,
}

impl IndexEntry {
    pub(crate) fn encode(&self) -> [u8; INDEX_ENTRY_BYTES] {
        let mut bytes = [0; INDEX_ENTRY_BYTES];
        bytes[..8].copy_from_slice(&self.offset.0.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.index.0.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.position.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.raft_only_bytes.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.max_timestamp_before.0.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.append_time.0.to_le_bytes());
        bytes[40..].copy_from_slice(&self.hash_before.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; INDEX_ENTRY_BYTES]) -> IndexEntry {
        IndexEntry {
            offset: Offset(le64(bytes, 0) as i64),
            index: RaftIndex(le64(bytes, 8)),
            position: le32(bytes, 16),
            raft_only_bytes: le32(bytes, 20),
            max_timestamp_before: Timestamp(le64(bytes, 24) as i64),
            append_time: Timestamp(le64(bytes, 32) as i64),
            hash_before: le64(bytes, 40),
        }
    }
}

/// The end of a closed segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trailer {
    pub(crate) next_index: RaftIndex,
    pub(crate) log_bytes: u32,
    pub(crate) max_timestamp: Timestamp,
    pub(crate) append_time: Timestamp,
    pub(crate) hash: u64,
}

impl Trailer {
    /// What retention goes by.
    pub(crate) fn newest(&self) -> Newest {
        Newest { record: self.max_timestamp, append: self.append_time }
    }

    /// The trailer's bytes with its CRC left out.
    fn encode_open(&self) -> [u8; INDEX_ENTRY_BYTES] {
        IndexEntry {
            offset: Offset(TRAILER_MARK),
            index: self.next_index,
            position: self.log_bytes,
            raft_only_bytes: 0,
            max_timestamp_before: self.max_timestamp,
            append_time: self.append_time,
            hash_before: self.hash,
        }
        .encode()
    }

    /// The trailer's bytes behind `before`, the whole file up to it.
    pub(crate) fn encode(&self, before: &[u8]) -> [u8; INDEX_ENTRY_BYTES] {
        let mut bytes = self.encode_open();
        let crc = file_crc(before, &bytes);
        bytes[TRAILER_CRC_AT..TRAILER_CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The trailer that an entry's place holds, if it is one; its CRC is not looked at.
    pub(crate) fn decode(bytes: &[u8; INDEX_ENTRY_BYTES]) -> Option<Trailer> {
        let entry = IndexEntry::decode(bytes);
        (entry.offset == Offset(TRAILER_MARK)).then_some(Trailer {
            next_index: entry.index,
            log_bytes: entry.position,
            max_timestamp: entry.max_timestamp_before,
            append_time: entry.append_time,
            hash: entry.hash_before,
        })
    }
}

fn file_crc(before: &[u8], trailer: &[u8; INDEX_ENTRY_BYTES]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(before);
    crc.update(&trailer[..TRAILER_CRC_AT]);
    crc.update(&trailer[TRAILER_CRC_AT + 4..]);
    crc.finalize()
}

/// The end of the batches that were seen of a segment: all that is needed to index the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentCursor {
    /// Bytes of log so far.
    pub(crate) position: u32,
    pub(crate) hash: u64,
    pub(crate) max_timestamp: Timestamp,
    /// The latest append time of a batch.
    pub(crate) append_time: Timestamp,
    /// Position of the last index entry.
    pub(crate) last_entry: Option<u32>,
    /// Index entries so far.
    pub(crate) entries: u32,
}

impl SegmentCursor {
    pub(crate) const START: SegmentCursor = SegmentCursor {
        position: 0,
        hash: 0,
        max_timestamp: Timestamp::NONE,
        append_time: Timestamp::NONE,
        last_entry: None,
        entries: 0,
    };

    /// The cursor as it was before the batch of an index entry; `previous` is the entry before it.
    pub(crate) fn before(entry: &IndexEntry, number: u32, previous: Option<&IndexEntry>) -> SegmentCursor {
        SegmentCursor {
            position: entry.position,
            hash: entry.hash_before,
            max_timestamp: entry.max_timestamp_before,
            append_time: previous.map_or(Timestamp::NONE, |entry| entry.append_time),
            last_entry: previous.map(|entry| entry.position),
            entries: number,
        }
    }

    /// Moves over a batch and gives its index entry, if it gets one. The caller keeps the segment below 4 GiB.
    pub(crate) fn push(
        &mut self,
        index: RaftIndex,
        head: &[u8; HEADER_BYTES],
        header: &BatchHeader,
        append_time: Timestamp,
        interval_bytes: u32,
    ) -> Option<IndexEntry> {
        let raft_only = header.attributes.is_raft_only();
        let due = self.last_entry.is_none_or(|last| self.position.wrapping_sub(last) >= interval_bytes);
        let entry = (due || raft_only).then_some(IndexEntry {
            offset: header.base_offset,
            index,
            position: self.position,
            raft_only_bytes: if raft_only { header.size_bytes } else { 0 },
            max_timestamp_before: self.max_timestamp,
            append_time,
            hash_before: self.hash,
        });
        if entry.is_some() {
            self.last_entry = Some(self.position);
            self.entries += 1;
        }
        self.append_time = self.append_time.max(append_time);
        self.hash = running_hash(self.hash, index, head);
        // The time of a Raft-only batch is the broker's own: a look-up by time is after records.
        if !raft_only {
            self.max_timestamp = self.max_timestamp.max(header.max_timestamp);
        }
        self.position = self.position.wrapping_add(header.size_bytes);
        entry
    }

    /// The trailer of a segment that ends here.
    pub(crate) fn trailer(&self, next_index: RaftIndex) -> Trailer {
        Trailer {
            next_index,
            log_bytes: self.position,
            max_timestamp: self.max_timestamp,
            append_time: self.append_time,
            hash: self.hash,
        }
    }
}

/// Whether a damaged index still has a running hash that proves the segment which these entries and this end were made
/// from: its own end or its last entry. Damage that is small enough to leave one of them is small enough to name it so.
pub(crate) fn vouches_for(damaged: &[u8], entries: &[IndexEntry], end: &Trailer) -> bool {
    let trailer = place(damaged, entries.len()).and_then(Trailer::decode);
    // Nothing precedes the first entry: its hash and position are 0 in every index, and in a file of zeros.
    let last = entries.len().checked_sub(1).filter(|last| *last > 0);
    let last = last.and_then(|last| Some((IndexEntry::decode(place(damaged, last)?), entries[last])));
    trailer.is_some_and(|trailer| (trailer.hash, trailer.log_bytes) == (end.hash, end.log_bytes))
        || last.is_some_and(|(found, made)| (found.hash_before, found.position) == (made.hash_before, made.position))
}

/// Takes the append times, which no batch has, over from a damaged index into the header, entries and end that were
/// made anew, if its checksum proves that these then are what it was. False, and nothing taken, if it does not.
pub(crate) fn take_append_times(
    damaged: &[u8],
    header: &IndexHeader,
    entries: &mut Vec<IndexEntry>,
    end: &mut Trailer,
) -> bool {
    let append_time = |number: usize| Some(IndexEntry::decode(place(damaged, number)?).append_time);
    let taken = entries.iter().enumerate();
    let taken = taken.map(|(number, made)| Some(IndexEntry { append_time: append_time(number)?, ..*made }));
    let (Some(taken), Some(last)) = (taken.collect::<Option<Vec<_>>>(), append_time(entries.len())) else {
        return false;
    };
    let taken_end = Trailer { append_time: last, ..*end };
    let bytes = taken_end.encode(&encode_entries(header, &taken));
    let crc = |trailer: &[u8; INDEX_ENTRY_BYTES]| le32(trailer, TRAILER_CRC_AT);
    let is_proven = place(damaged, entries.len()).is_some_and(|found| crc(found) == crc(&bytes));
    if is_proven {
        (*entries, *end) = (taken, taken_end);
    }
    is_proven
}

/// What is in an index file where entry `number` should be.
fn place(bytes: &[u8], number: usize) -> Option<&[u8; INDEX_ENTRY_BYTES]> {
    bytes.get(entry_position(u32::try_from(number).ok()?) as usize..)?.first_chunk()
}

/// An index file up to its trailer.
pub(crate) fn encode_entries(header: &IndexHeader, entries: &[IndexEntry]) -> Vec<u8> {
    let mut bytes = header.encode().to_vec();
    bytes.extend(entries.iter().flat_map(IndexEntry::encode));
    bytes
}

/// Entries that can be searched: a closed index in a map, the written part of an active one, or what stands in for a
/// damaged one.
#[derive(Clone)]
pub(crate) enum IndexSource {
    Map(Arc<dyn Map>, u32),
    File(Arc<dyn File>, u32),
    Memory(Arc<[IndexEntry]>),
}

impl IndexSource {
    /// How many entries there are.
    pub(crate) fn len(&self) -> u32 {
        match self {
            IndexSource::Map(_, entries) | IndexSource::File(_, entries) => *entries,
            IndexSource::Memory(entries) => entries.len() as u32,
        }
    }

    /// Entry `number`, below [`IndexSource::len`].
    pub(crate) fn entry(&self, number: u32) -> Result<IndexEntry, IndexError> {
        let position = entry_position(number);
        match self {
            IndexSource::Map(map, _) => map
                .bytes()
                .get(position as usize..)
                .and_then(|bytes| bytes.first_chunk())
                .map(IndexEntry::decode)
                .ok_or(IndexError::Length(map.bytes().len() as u64)),
            IndexSource::File(file, _) => {
                let mut bytes = [0; INDEX_ENTRY_BYTES];
                file.read_exact_at(&mut bytes, position)?;
                Ok(IndexEntry::decode(&bytes))
            }
            IndexSource::Memory(entries) => entries.get(number as usize).copied().ok_or(IndexError::Order),
        }
    }

    /// Entries `from` up to `to`, in one read.
    pub(crate) fn range(&self, from: u32, to: u32) -> Result<Vec<IndexEntry>, IndexError> {
        let (start, end) = (entry_position(from) as usize, entry_position(to) as usize);
        let decode = |bytes: &[u8]| bytes.as_chunks().0.iter().map(IndexEntry::decode).collect();
        match self {
            IndexSource::Map(map, _) => {
                map.bytes().get(start..end).map(decode).ok_or(IndexError::Length(map.bytes().len() as u64))
            }
            IndexSource::File(file, _) => {
                let mut bytes = vec![0; end.checked_sub(start).ok_or(IndexError::Order)?];
                file.read_exact_at(&mut bytes, start as u64)?;
                Ok(decode(&bytes))
            }
            IndexSource::Memory(entries) => {
                entries.get(from as usize..to as usize).map(<[_]>::to_vec).ok_or(IndexError::Order)
            }
        }
    }

    /// How many entries at the front satisfy `holds`, which holds for all up to some entry and for none behind it.
    pub(crate) fn partition_point(&self, holds: impl Fn(&IndexEntry) -> bool) -> Result<u32, IndexError> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if holds(&self.entry(middle)?) { low = middle + 1 } else { high = middle }
        }
        Ok(low)
    }
}

/// Opens the index of a closed segment and proves it by its CRC.
pub(crate) fn open_closed(
    map: Arc<dyn Map>,
    base_offset: Offset,
    first_index: RaftIndex,
) -> Result<(IndexSource, Trailer), IndexError> {
    let (entries, trailer) = check_closed(map.bytes(), base_offset, first_index)?;
    Ok((IndexSource::Map(map, entries), trailer))
}

/// Proves the bytes of a closed index and tells its number of entries and its trailer.
pub(crate) fn check_closed(
    bytes: &[u8],
    base_offset: Offset,
    first_index: RaftIndex,
) -> Result<(u32, Trailer), IndexError> {
    let length = IndexError::Length(bytes.len() as u64);
    let body = bytes.len().checked_sub(INDEX_HEADER_BYTES + INDEX_ENTRY_BYTES).ok_or(length.clone())?;
    if body % INDEX_ENTRY_BYTES != 0 {
        return Err(length);
    }
    IndexHeader::decode(bytes)?.expect(base_offset, first_index)?;
    let (before, trailer_bytes) = bytes.split_last_chunk::<INDEX_ENTRY_BYTES>().ok_or(length.clone())?;
    let trailer = Trailer::decode(trailer_bytes).ok_or(IndexError::Crc)?;
    if file_crc(before, trailer_bytes) != le32(trailer_bytes, TRAILER_CRC_AT) {
        return Err(IndexError::Crc);
    }
    Ok((u32::try_from(body / INDEX_ENTRY_BYTES).map_err(|_| length)?, trailer))
}

/// Opens an index that may have no trailer yet, for the entries of batches below `log_bytes`.
pub(crate) fn open_active(
    file: Arc<dyn File>,
    base_offset: Offset,
    first_index: RaftIndex,
    log_bytes: u32,
) -> Result<IndexSource, IndexError> {
    let length = file.len()?;
    let mut header = [0; INDEX_HEADER_BYTES];
    if length < INDEX_HEADER_BYTES as u64 {
        return Err(IndexError::Length(length));
    }
    file.read_exact_at(&mut header, 0)?;
    IndexHeader::decode(&header)?.expect(base_offset, first_index)?;
    let entries = (length - INDEX_HEADER_BYTES as u64) / INDEX_ENTRY_BYTES as u64;
    let all = IndexSource::File(file.clone(), u32::try_from(entries).map_err(|_| IndexError::Length(length))?);
    // What lies behind the entries in question (a trailer, later entries, what a power cut left) leads beyond the log
    // or breaks the order; the caller proves the last entry by the log and every other one is proven when a read
    // crosses it.
    let (mut known, mut high) = (0, all.len());
    while known < high {
        let middle = known + (high - known) / 2;
        let entry = all.entry(middle)?;
        let before = middle.checked_sub(1).map(|before| all.entry(before)).transpose()?;
        let follows = before.is_none_or(|before| entry.position > before.position && entry.index > before.index);
        let leads = entry.offset >= base_offset && entry.index >= first_index && entry.position < log_bytes;
        if follows && leads { known = middle + 1 } else { high = middle }
    }
    Ok(IndexSource::File(file, known))
}
