//! The journal's record format (version 1). All numbers are little-endian.
//!
//! ```text
//!  0        4        8                 16                24
//! +--------+--------+-----------------+-----------------+-----------------+
//! | length | crc    | file number     | sequence        | group           |
//! +--------+--------+--------+--------+--+--+----+------+-----------------+
//! 32                40                48                56 57 58   60     64
//! | index           | term            | append time     |k |f |zero| back |  payload ...
//! +-----------------+-----------------+-----------------+--+--+----+------+
//! ```
//!
//! - `length`: of the whole record, 64 and up.
//! - `crc`: CRC-32, begun with the file's salt, over the header without this field and the payload's first 21 bytes
//!   (or all, if it has fewer). They hold a checksum of the rest: a batch's own CRC-32C is its bytes 17 to 20; the
//!   payload of a rare kind begins with the CRC-32, begun with the salt, of what follows. So a record can be proven to
//!   be one of this file before its length is believed.
//! - `file number`, `sequence`: which journal file the record was written to, and its place in the journal. What a
//!   recycled file still holds behind the tail is a valid *old* record, an old vote included; these two tell it apart.
//! - `k`ind and its payload, `f`lags: see [`Kind`].
//! - `back`: how many records of the same write lie before this one. All records older than those were synced before
//!   this one was written, so finding this record proves that they once were on disk: it tells a damaged journal
//!   (refused) from one that ends in an unfinished write (cut).
//!
//! Behind its checksum the payload of a rare kind has a version byte, then fields for [`crate::fields::FieldReader`].
//! They are few and small, so a schema compiler would cost more than it gives.

use bytes::{BufMut, Bytes, BytesMut};
use millpond_record::{
    GroupId, HEADER_BYTES, Offset, PartitionIndex, RaftIndex, ReplicaId, StampedBatch, Term, Timestamp,
};

use crate::fields::{FieldError, FieldReader, put_bytes, put_string};
use crate::log::switch::Installed;
use crate::types::{FlushMode, GroupSpec, LogOptions, LogPosition, Vote, is_topic_name};

const LENGTH: usize = 0;
const CRC: usize = 4;
const FILE_NUMBER: usize = 8;
const SEQUENCE: usize = 16;
const GROUP: usize = 24;
const INDEX: usize = 32;
const TERM: usize = 40;
const APPEND_TIME: usize = 48;
const KIND: usize = 56;
const FLAGS: usize = 57;
const ZERO: usize = 58;
const BACK: usize = 60;
/// Bytes of a record's header.
pub(crate) const RECORD_HEADER_BYTES: usize = 64;
const _: () =
    assert!(CRC == LENGTH + 4 && FILE_NUMBER == CRC + 4 && SEQUENCE == FILE_NUMBER + 8 && GROUP == SEQUENCE + 8);
const _: () = assert!(INDEX == GROUP + 8 && TERM == INDEX + 8 && APPEND_TIME == TERM + 8 && KIND == APPEND_TIME + 8);
const _: () = assert!(FLAGS == KIND + 1 && ZERO == FLAGS + 1 && BACK == ZERO + 2 && RECORD_HEADER_BYTES == BACK + 4);

/// The bytes of a batch that its own CRC-32C does not protect, and that CRC: base offset, length, leader epoch, magic,
/// CRC.
const UNPROTECTED_BATCH_BYTES: usize = 21;
const _: () = assert!(UNPROTECTED_BATCH_BYTES < HEADER_BYTES);
/// As many bytes of a record prove that it is one.
pub(crate) const RECORD_HEAD_BYTES: usize = RECORD_HEADER_BYTES + UNPROTECTED_BATCH_BYTES;
/// The checksum at the front of a rare kind's payload.
const PAYLOAD_CRC_BYTES: usize = 4;

/// Flag of a truncation: there is an index (without it the whole log goes).
const FLAG_INDEX: u8 = 1;
/// Flag of a vote: it is committed.
const FLAG_COMMITTED: u8 = 2;
/// Flag of an append: the entry begins a segment. Replay closes segments where they were closed before.
const FLAG_SEGMENT: u8 = 4;

/// Version byte of the payloads of the rare kinds.
const PAYLOAD_VERSION: u8 = 1;

/// What a record says. Numbers are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// index, term, append time, [`FLAG_SEGMENT`]; payload: the batch.
    Append = 1,
    /// index (with [`FLAG_INDEX`]): the last entry that stays.
    Truncate = 2,
    /// term, index = replica, [`FLAG_COMMITTED`].
    Vote = 3,
    /// index, term; payload: offset, membership.
    Purge = 4,
    /// payload: offset.
    LogStart = 5,
    /// payload: topic id, replica, partition, options, topic.
    Create = 6,
    /// nothing but the group.
    Delete = 7,
    /// payload: options.
    Options = 8,
    /// payload: the group's row and the segments that the log was switched over to.
    Install = 9,
    /// index, term, append time, as an [`Kind::Append`] without its batch: that is in the segment, synced.
    Placed = 10,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Kind> {
        Some(match byte {
            1 => Kind::Append,
            2 => Kind::Truncate,
            3 => Kind::Vote,
            4 => Kind::Purge,
            5 => Kind::LogStart,
            6 => Kind::Create,
            7 => Kind::Delete,
            8 => Kind::Options,
            9 => Kind::Install,
            10 => Kind::Placed,
            _ => return None,
        })
    }
}

/// One change of a group, as it goes into the journal and comes out of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum JournalEntry {
    /// An entry of the group's log.
    Append {
        group: GroupId,
        index: RaftIndex,
        term: Term,
        append_time: Timestamp,
        begins_segment: bool,
        batch: StampedBatch,
    },
    /// An entry of the group's log that was synced in its segment, with all before it, ahead of this record.
    Placed { group: GroupId, index: RaftIndex, term: Term, append_time: Timestamp },
    /// Entries after this one go; all of them with `None`.
    Truncate { group: GroupId, after: Option<RaftIndex> },
    /// The replica voted.
    Vote { group: GroupId, vote: Vote },
    /// P moved.
    Purge { group: GroupId, position: LogPosition, membership: Bytes },
    /// The first readable offset moved.
    LogStart { group: GroupId, offset: Offset },
    /// The group came into being.
    Create { spec: GroupSpec },
    /// The group is gone for good.
    Delete { group: GroupId },
    /// The log's settings changed.
    Options { group: GroupId, options: LogOptions },
    /// The log is what was received of another replica's: whatever came before it counts no more.
    Install { installed: Box<Installed> },
}

impl JournalEntry {
    /// The group that changes.
    pub(crate) fn group(&self) -> GroupId {
        match self {
            JournalEntry::Append { group, .. }
            | JournalEntry::Placed { group, .. }
            | JournalEntry::Truncate { group, .. }
            | JournalEntry::Vote { group, .. }
            | JournalEntry::Purge { group, .. }
            | JournalEntry::LogStart { group, .. }
            | JournalEntry::Delete { group }
            | JournalEntry::Options { group, .. } => *group,
            JournalEntry::Create { spec } => spec.group,
            JournalEntry::Install { installed } => installed.row.group,
        }
    }

    fn kind(&self) -> Kind {
        match self {
            JournalEntry::Append { .. } => Kind::Append,
            JournalEntry::Placed { .. } => Kind::Placed,
            JournalEntry::Truncate { .. } => Kind::Truncate,
            JournalEntry::Vote { .. } => Kind::Vote,
            JournalEntry::Purge { .. } => Kind::Purge,
            JournalEntry::LogStart { .. } => Kind::LogStart,
            JournalEntry::Create { .. } => Kind::Create,
            JournalEntry::Delete { .. } => Kind::Delete,
            JournalEntry::Options { .. } => Kind::Options,
            JournalEntry::Install { .. } => Kind::Install,
        }
    }

    /// The bytes of the whole record.
    pub(crate) fn record_bytes(&self) -> u64 {
        let payload = match self {
            JournalEntry::Append { batch, .. } => batch.size_bytes(),
            JournalEntry::Placed { .. }
            | JournalEntry::Truncate { .. }
            | JournalEntry::Vote { .. }
            | JournalEntry::Delete { .. } => 0,
            JournalEntry::Purge { membership, .. } => PAYLOAD_CRC_BYTES + 1 + 8 + 4 + membership.len(),
            JournalEntry::LogStart { .. } => PAYLOAD_CRC_BYTES + 1 + 8,
            JournalEntry::Create { spec } => PAYLOAD_CRC_BYTES + 1 + 16 + 8 + 4 + OPTIONS_BYTES + 2 + spec.topic.len(),
            JournalEntry::Options { .. } => PAYLOAD_CRC_BYTES + 1 + OPTIONS_BYTES,
            JournalEntry::Install { installed } => PAYLOAD_CRC_BYTES + 1 + installed.size_bytes(),
        };
        (RECORD_HEADER_BYTES + payload) as u64
    }
}

/// Where a record is written: what is not known before its round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) file_number: u64,
    pub(crate) salt: u32,
    pub(crate) sequence: u64,
    /// Records of the same write before this one.
    pub(crate) back: u32,
}

/// Appends the record to `out`, all but the shared tail of a batch, which is returned to be written behind it.
pub(crate) fn encode<'a>(entry: &'a JournalEntry, place: Place, out: &mut BytesMut) -> Option<&'a Bytes> {
    let start = out.len();
    out.put_bytes(0, RECORD_HEADER_BYTES);
    let (mut index, mut term, mut append_time, mut flags, mut tail) = (0, 0, 0, 0, None);
    match entry {
        JournalEntry::Append { index: i, term: t, append_time: time, begins_segment, batch, .. } => {
            (index, term, append_time) = (i.0, t.0, time.0);
            flags = if *begins_segment { FLAG_SEGMENT } else { 0 };
            out.put_slice(batch.head());
            tail = Some(batch.tail());
        }
        JournalEntry::Placed { index: i, term: t, append_time: time, .. } => {
            (index, term, append_time) = (i.0, t.0, time.0);
        }
        JournalEntry::Truncate { after, .. } => {
            if let Some(after) = after {
                (index, flags) = (after.0, FLAG_INDEX);
            }
        }
        JournalEntry::Vote { vote, .. } => {
            (index, term) = (vote.replica.0, vote.term.0);
            flags = if vote.committed { FLAG_COMMITTED } else { 0 };
        }
        JournalEntry::Purge { position, membership, .. } => {
            (index, term) = (position.index.0, position.term.0);
            begin_payload(out);
            out.put_i64_le(position.offset.0);
            put_bytes(out, membership);
        }
        JournalEntry::LogStart { offset, .. } => {
            begin_payload(out);
            out.put_i64_le(offset.0);
        }
        JournalEntry::Create { spec } => {
            begin_payload(out);
            out.put_slice(&spec.topic_id.0);
            out.put_u64_le(spec.replica.0);
            out.put_i32_le(spec.partition.0);
            put_options(out, &spec.options);
            put_string(out, &spec.topic);
        }
        JournalEntry::Delete { .. } => {}
        JournalEntry::Options { options, .. } => {
            begin_payload(out);
            put_options(out, options);
        }
        JournalEntry::Install { installed } => {
            begin_payload(out);
            installed.put(out);
        }
    }
    let length = out.len() - start + tail.map_or(0, Bytes::len);
    let record = &mut out[start..];
    if entry.kind() != Kind::Append && record.len() > RECORD_HEADER_BYTES {
        let (crc, payload) = record[RECORD_HEADER_BYTES..].split_at_mut(PAYLOAD_CRC_BYTES);
        crc.copy_from_slice(&checksum(&[payload], place.salt).to_le_bytes());
    }
    let length = u32::try_from(length).expect("a record fits into a journal file, checked at submit");
    record[LENGTH..CRC].copy_from_slice(&length.to_le_bytes());
    record[FILE_NUMBER..SEQUENCE].copy_from_slice(&place.file_number.to_le_bytes());
    record[SEQUENCE..GROUP].copy_from_slice(&place.sequence.to_le_bytes());
    record[GROUP..INDEX].copy_from_slice(&entry.group().0.to_le_bytes());
    record[INDEX..TERM].copy_from_slice(&index.to_le_bytes());
    record[TERM..APPEND_TIME].copy_from_slice(&term.to_le_bytes());
    record[APPEND_TIME..KIND].copy_from_slice(&append_time.to_le_bytes());
    record[KIND] = entry.kind() as u8;
    record[FLAGS] = flags;
    record[BACK..RECORD_HEADER_BYTES].copy_from_slice(&place.back.to_le_bytes());
    let crc = head_checksum(record, place.salt);
    record[CRC..FILE_NUMBER].copy_from_slice(&crc.to_le_bytes());
    tail
}

fn begin_payload(out: &mut BytesMut) {
    out.put_bytes(0, PAYLOAD_CRC_BYTES);
    out.put_u8(PAYLOAD_VERSION);
}

fn checksum(parts: &[&[u8]], salt: u32) -> u32 {
    let mut crc = crc32fast::Hasher::new_with_initial(salt);
    parts.iter().for_each(|part| crc.update(part));
    crc.finalize()
}

/// What a record's `crc` must be; `record` holds at least its first [`RECORD_HEAD_BYTES`] bytes, or all.
fn head_checksum(record: &[u8], salt: u32) -> u32 {
    checksum(&[&record[LENGTH..CRC], &record[FILE_NUMBER..record.len().min(RECORD_HEAD_BYTES)]], salt)
}

/// A record's header, read but not yet proven.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RecordHeader {
    pub(crate) length: u32,
    pub(crate) file_number: u64,
    pub(crate) sequence: u64,
    pub(crate) group: GroupId,
    pub(crate) back: u32,
    crc: u32,
    index: u64,
    term: u64,
    append_time: i64,
    kind: u8,
    flags: u8,
}

/// A proven record whose kind or payload this version cannot read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unreadable;

fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn le64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

impl RecordHeader {
    /// Reads the header's fields.
    pub(crate) fn read(bytes: &[u8; RECORD_HEADER_BYTES]) -> RecordHeader {
        RecordHeader {
            length: le32(bytes, LENGTH),
            crc: le32(bytes, CRC),
            file_number: le64(bytes, FILE_NUMBER),
            sequence: le64(bytes, SEQUENCE),
            group: GroupId(le64(bytes, GROUP)),
            index: le64(bytes, INDEX),
            term: le64(bytes, TERM),
            append_time: le64(bytes, APPEND_TIME) as i64,
            kind: bytes[KIND],
            flags: bytes[FLAGS],
            back: le32(bytes, BACK),
        }
    }

    /// Whether it is a record of this kind.
    pub(crate) fn is(&self, kind: Kind) -> bool {
        self.kind == kind as u8
    }

    /// True when a record of this length can lie in `available` bytes.
    pub(crate) fn fits(&self, available: u64) -> bool {
        self.length as usize >= RECORD_HEADER_BYTES && u64::from(self.length) <= available
    }
}

/// Proves a record's header, its length included. `head` is the record's first [`RECORD_HEAD_BYTES`] bytes, or all of
/// it.
pub(crate) fn prove_head(header: &RecordHeader, head: &[u8], salt: u32) -> bool {
    head_checksum(head, salt) == header.crc
}

/// Proves the rest of a record whose head is proven. `record` is exactly as long as its header says.
pub(crate) fn prove_rest(header: &RecordHeader, record: &[u8], salt: u32) -> bool {
    debug_assert_eq!(header.length as usize, record.len(), "the caller cuts the record by its header");
    let payload = &record[RECORD_HEADER_BYTES..];
    if header.is(Kind::Append) {
        return millpond_record::BatchView::parse(payload).is_ok() && millpond_record::verify_crc(payload);
    }
    match payload.split_first_chunk::<PAYLOAD_CRC_BYTES>() {
        Some((crc, rest)) => checksum(&[rest], salt) == u32::from_le_bytes(*crc),
        None => payload.is_empty(),
    }
}

/// Decodes a record that was proven.
pub(crate) fn decode(header: &RecordHeader, record: &[u8]) -> Result<JournalEntry, Unreadable> {
    let kind = Kind::from_byte(header.kind).ok_or(Unreadable)?;
    let payload = record.get(RECORD_HEADER_BYTES..).ok_or(Unreadable)?;
    decode_kind(kind, header, payload).map_err(|_| Unreadable)
}

fn decode_kind(kind: Kind, header: &RecordHeader, payload: &[u8]) -> Result<JournalEntry, FieldError> {
    let group = header.group;
    let mut fields = FieldReader::new(payload);
    let versioned = matches!(kind, Kind::Purge | Kind::LogStart | Kind::Create | Kind::Options | Kind::Install);
    if versioned && (fields.u32().is_err() || fields.u8()? != PAYLOAD_VERSION) {
        return Err(FieldError::Value);
    }
    let entry = match kind {
        Kind::Append => {
            let batch = StampedBatch::from_slice(payload).map_err(|_| FieldError::Value)?;
            let (index, term) = (RaftIndex(header.index), Term(header.term));
            let (append_time, begins_segment) = (Timestamp(header.append_time), header.flags & FLAG_SEGMENT != 0);
            return Ok(JournalEntry::Append { group, index, term, append_time, begins_segment, batch });
        }
        Kind::Placed => {
            let (index, term) = (RaftIndex(header.index), Term(header.term));
            JournalEntry::Placed { group, index, term, append_time: Timestamp(header.append_time) }
        }
        Kind::Truncate => {
            let after = (header.flags & FLAG_INDEX != 0).then_some(RaftIndex(header.index));
            JournalEntry::Truncate { group, after }
        }
        Kind::Vote => {
            let committed = header.flags & FLAG_COMMITTED != 0;
            let vote = Vote { term: Term(header.term), replica: ReplicaId(header.index), committed };
            JournalEntry::Vote { group, vote }
        }
        Kind::Purge => {
            let offset = Offset(fields.i64()?);
            let position = LogPosition { term: Term(header.term), index: RaftIndex(header.index), offset };
            JournalEntry::Purge { group, position, membership: fields.bytes()? }
        }
        Kind::LogStart => JournalEntry::LogStart { group, offset: Offset(fields.i64()?) },
        Kind::Create => {
            let (topic_id, replica) = (fields.topic_id()?, ReplicaId(fields.u64()?));
            let partition = PartitionIndex(fields.i32()?);
            let options = read_options(&mut fields)?;
            let topic = fields.string()?;
            // It becomes a path.
            if !is_topic_name(&topic) {
                return Err(FieldError::Value);
            }
            JournalEntry::Create { spec: GroupSpec { group, topic, partition, topic_id, replica, options } }
        }
        Kind::Delete => JournalEntry::Delete { group },
        Kind::Options => JournalEntry::Options { group, options: read_options(&mut fields)? },
        Kind::Install => {
            let installed = Installed::read(&mut fields)?;
            if installed.row.group != group {
                return Err(FieldError::Value);
            }
            JournalEntry::Install { installed: Box::new(installed) }
        }
    };
    fields.end()?;
    Ok(entry)
}

/// Bytes of [`LogOptions`] on disk: flush mode, segment bytes, segment ms, its jitter.
pub(crate) const OPTIONS_BYTES: usize = 1 + 4 + 8 + 8;

pub(crate) fn put_options(out: &mut BytesMut, options: &LogOptions) {
    out.put_u8(match options.flush {
        FlushMode::Durable => 0,
        FlushMode::Relaxed => 1,
    });
    out.put_u32_le(options.segment_bytes);
    out.put_u64_le(options.segment_ms);
    out.put_u64_le(options.segment_jitter_ms);
}

pub(crate) fn read_options(fields: &mut FieldReader<'_>) -> Result<LogOptions, FieldError> {
    let flush = if fields.flag()? { FlushMode::Relaxed } else { FlushMode::Durable };
    let segment_bytes = fields.u32()?;
    Ok(LogOptions { flush, segment_bytes, segment_ms: fields.u64()?, segment_jitter_ms: fields.u64()? })
}
