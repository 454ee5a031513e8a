//! What a replica must have before it can follow a log behind P: a manifest names it and holds no records.
//!
//! ```text
//!  0        4        8        12               20       28       36       44
//! +--------+--------+--------+-----------------+--------+--------+--------+----------------------
//! | magic  | version| crc    | log start       | P: term| index  | offset | membership (4 + n) ...
//! +--------+--------+--------+-----------------+--------+--------+--------+----------------------
//!
//! then: epochs 4, each: term 8, index 8, offset 8;  producers (4 + n), a snapshot file that covers P;
//!       segments 4, each: base offset 8, first index 8, next index 8, log bytes 4, index bytes 8, hash 8
//! ```
//!
//! All numbers are little-endian; `crc` is CRC-32 over all that follows it. A segment is named by the running hash of
//! its trailer, which names its whole content. It comes from another broker, so [`Manifest::decode`] believes nothing:
//! what it gives fits together.

use bytes::{BufMut, Bytes, BytesMut};
use millpond_record::{HEADER_BYTES, LogId, Offset, RaftIndex, Term};

use crate::fields::{FieldError, FieldReader, put_bytes};
use crate::index::entry_position;
use crate::producer::read_snapshot;
use crate::segment::SegmentName;
use crate::types::{EpochStart, LogPosition};

const MAGIC: &[u8; 4] = b"MPmf";
const VERSION: u32 = 1;
const CRC_AT: usize = 8;
const COVERED_FROM: usize = 12;
const _: () = assert!(CRC_AT == MAGIC.len() + 4 && COVERED_FROM == CRC_AT + 4);

/// The longest manifest in bytes: a million segments.
pub const MAX_MANIFEST_BYTES: u64 = 64 << 20;

const EPOCH_BYTES: usize = 24;
/// Beyond what any log comes to, and far from where numbers end.
const LAST_INDEX: RaftIndex = RaftIndex(1 << 62);
const LAST_OFFSET: Offset = Offset(1 << 62);
/// Bytes of a [`ManifestSegment`] on disk and on the wire.
pub(crate) const SEGMENT_BYTES: usize = 8 + 8 + 8 + 4 + 8 + 8;

/// A closed segment of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ManifestSegment {
    /// The offset of its first data batch, or of the next one behind it.
    pub base_offset: Offset,
    /// The Raft index of its first entry.
    pub first_index: RaftIndex,
    /// The Raft index behind its last entry.
    pub next_index: RaftIndex,
    /// Bytes of its log file.
    pub log_bytes: u32,
    /// Bytes of its index file.
    pub index_bytes: u64,
    /// The running hash over all its batches.
    pub hash: u64,
}

impl ManifestSegment {
    pub(crate) fn name(&self) -> SegmentName {
        SegmentName { base_offset: self.base_offset, first_index: self.first_index }
    }

    pub(crate) fn put(&self, out: &mut BytesMut) {
        out.put_i64_le(self.base_offset.0);
        out.put_u64_le(self.first_index.0);
        out.put_u64_le(self.next_index.0);
        out.put_u32_le(self.log_bytes);
        out.put_u64_le(self.index_bytes);
        out.put_u64_le(self.hash);
    }

    pub(crate) fn read(fields: &mut FieldReader<'_>) -> Result<ManifestSegment, FieldError> {
        Ok(ManifestSegment {
            base_offset: Offset(fields.i64()?),
            first_index: RaftIndex(fields.u64()?),
            next_index: RaftIndex(fields.u64()?),
            log_bytes: fields.u32()?,
            index_bytes: fields.u64()?,
            hash: fields.u64()?,
        })
    }
}

/// The longest index that a segment can have: an entry for each batch, and its trailer.
fn most_index_bytes(log_bytes: u32) -> u64 {
    let batches = log_bytes / HEADER_BYTES as u32;
    entry_position(batches.saturating_add(1))
}

/// Reads a count and as many segments.
pub(crate) fn read_segments(fields: &mut FieldReader<'_>) -> Result<Vec<ManifestSegment>, FieldError> {
    let count = fields.u32()? as usize;
    if count > fields.remaining() / SEGMENT_BYTES {
        return Err(FieldError::Short);
    }
    (0..count).map(|_| ManifestSegment::read(fields)).collect()
}

/// One of the two files of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SegmentPart {
    /// The batches.
    Log,
    /// The index.
    Index,
}

/// A log as of P, without its records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The first offset that may be read; not behind P.
    pub log_start: Offset,
    /// P.
    pub position: LogPosition,
    /// The membership as of P, in the Raft layer's encoding.
    pub membership: Bytes,
    /// Where each term up to P begins, oldest first.
    pub epochs: Vec<EpochStart>,
    /// What the committed batches up to P made of each idempotent producer, as a snapshot file.
    pub producers: Bytes,
    /// The segments that hold what lies between the log start and P, oldest first.
    pub segments: Vec<ManifestSegment>,
}

/// Why bytes are not a manifest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// They are something else, or not whole.
    #[error("it is not a whole manifest")]
    Damaged,
    /// A newer version wrote it.
    #[error("it has format version {0}, but this version reads {VERSION}: use a newer millpond")]
    Newer(u32),
    /// What it says does not fit together.
    #[error("{0}")]
    Misfit(&'static str),
}

impl From<FieldError> for ManifestError {
    fn from(_: FieldError) -> ManifestError {
        ManifestError::Damaged
    }
}

impl Manifest {
    /// Bytes of all the files that it names.
    pub fn bytes(&self) -> u64 {
        let bytes = |segment: &ManifestSegment| u64::from(segment.log_bytes).saturating_add(segment.index_bytes);
        self.segments.iter().map(bytes).fold(0, u64::saturating_add)
    }

    /// The bytes that [`Manifest::decode`] reads.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_slice(MAGIC);
        out.put_u32_le(VERSION);
        out.put_u32_le(0);
        out.put_i64_le(self.log_start.0);
        out.put_u64_le(self.position.term.0);
        out.put_u64_le(self.position.index.0);
        out.put_i64_le(self.position.offset.0);
        put_bytes(&mut out, &self.membership);
        out.put_u32_le(u32::try_from(self.epochs.len()).expect("a log has fewer than 2^32 terms"));
        for epoch in &self.epochs {
            out.put_u64_le(epoch.term.0);
            out.put_u64_le(epoch.index.0);
            out.put_i64_le(epoch.offset.0);
        }
        put_bytes(&mut out, &self.producers);
        out.put_u32_le(u32::try_from(self.segments.len()).expect("a log has fewer than 2^32 segments"));
        for segment in &self.segments {
            segment.put(&mut out);
        }
        let crc = crc32fast::hash(&out[COVERED_FROM..]);
        out[CRC_AT..COVERED_FROM].copy_from_slice(&crc.to_le_bytes());
        out.freeze()
    }

    /// Reads a manifest. Allocates no more than a few times the length of `bytes`.
    ///
    /// # Errors
    ///
    /// [`ManifestError`].
    pub fn decode(bytes: &[u8]) -> Result<Manifest, ManifestError> {
        let rest = bytes.strip_prefix(MAGIC).ok_or(ManifestError::Damaged)?;
        let mut fields = FieldReader::new(rest);
        let (version, crc) = (fields.u32()?, fields.u32()?);
        if crc32fast::hash(&bytes[COVERED_FROM..]) != crc {
            return Err(ManifestError::Damaged);
        }
        if version != VERSION {
            return Err(ManifestError::Newer(version));
        }
        let log_start = Offset(fields.i64()?);
        let (term, index) = (Term(fields.u64()?), RaftIndex(fields.u64()?));
        let position = LogPosition { term, index, offset: Offset(fields.i64()?) };
        let membership = fields.bytes()?;
        let count = fields.u32()? as usize;
        if count > fields.remaining() / EPOCH_BYTES {
            return Err(ManifestError::Damaged);
        }
        let mut epochs = Vec::with_capacity(count);
        for _ in 0..count {
            let (term, index) = (Term(fields.u64()?), RaftIndex(fields.u64()?));
            epochs.push(EpochStart { term, index, offset: Offset(fields.i64()?) });
        }
        let producers = fields.bytes()?;
        let segments = read_segments(&mut fields)?;
        fields.end()?;
        let manifest = Manifest { log_start, position, membership, epochs, producers, segments };
        manifest.check().map_err(ManifestError::Misfit)?;
        Ok(manifest)
    }

    /// Whether all of it fits together.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        let LogPosition { term, index, offset } = self.position;
        if term > Term::MAX || index > LAST_INDEX || offset > LAST_OFFSET {
            return Err("P is beyond what a log can have");
        }
        if self.log_start < Offset(0) || self.log_start > offset {
            return Err("the log start is not between 0 and P");
        }
        let rises = self.epochs.windows(2).all(|pair| {
            pair[0].term < pair[1].term && pair[0].index < pair[1].index && pair[0].offset <= pair[1].offset
        });
        let last = self.epochs.last().is_some_and(|last| {
            last.term == term && last.index <= index && last.offset <= offset && last.offset >= Offset(0)
        });
        if !rises || !last {
            return Err("its terms do not rise up to P");
        }
        let covered = read_snapshot(&self.producers)
            .is_ok_and(|snapshot| snapshot.covers == LogId { term, index } && snapshot.next_offset == offset);
        if !covered {
            return Err("its producers are not those as of P");
        }
        let Some(first) = self.segments.first() else {
            return if self.log_start == offset { Ok(()) } else { Err("there are records but no segments") };
        };
        if first.base_offset > self.log_start || first.base_offset < Offset(0) {
            return Err("its segments begin behind the log start");
        }
        if self.epochs.first().is_none_or(|epoch| epoch.index > first.first_index) {
            return Err("its terms begin behind its segments");
        }
        let next = |at: usize| match self.segments.get(at + 1) {
            Some(next) => (next.first_index, next.base_offset),
            None => (RaftIndex(index.0 + 1), offset),
        };
        let continues = self.segments.iter().enumerate().all(|(at, segment)| {
            let (next_index, next_offset) = next(at);
            segment.first_index < segment.next_index
                && segment.next_index == next_index
                && segment.base_offset <= next_offset
                && segment.log_bytes > 0
                && (1..=most_index_bytes(segment.log_bytes)).contains(&segment.index_bytes)
        });
        if continues { Ok(()) } else { Err("its segments do not lead up to P one after the other") }
    }

    /// The term of an entry up to P.
    pub(crate) fn term_at(&self, index: RaftIndex) -> Option<Term> {
        let after = self.epochs.partition_point(|epoch| epoch.index <= index);
        after.checked_sub(1).map(|at| self.epochs[at].term)
    }

    /// The offset behind the last data batch of its `at`th segment.
    pub(crate) fn end_offset(&self, at: usize) -> Offset {
        self.segments.get(at + 1).map_or(self.position.offset, |next| next.base_offset)
    }
}
