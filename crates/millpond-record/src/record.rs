//! The records of a batch, decoded (`DefaultRecord`).
//!
//! ```text
//! length           varint   of what follows
//! attributes       1 byte   undefined so far
//! timestamp delta  varlong  to the batch's base timestamp
//! offset delta     varint   to the batch's base offset
//! key              varint length, -1 for null, and bytes
//! value            likewise
//! headers          varint count; each: name (varint length and bytes), value (like the record's)
//! ```

mod walk;

use std::borrow::Cow;

use bytes::Bytes;

use crate::batch::{BatchError, BatchHeader, BatchView, TimestampType};
use crate::codec::{Codec, CodecError, DecompressLimit, decompress};
use crate::ids::{Offset, Timestamp};
use crate::varint;

pub(crate) use walk::{MalformedRecord, RecordInput, RecordShape, SliceInput, StreamInput, walk_record};

/// A header of a record: a name and a value, which may be null. Names may repeat.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordHeader<'a> {
    /// The name; UTF-8 by Kafka's specification, not checked here.
    pub name: &'a [u8],
    /// The value, or null.
    pub value: Option<&'a [u8]>,
}

/// A record of a batch.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Record<'a> {
    /// The record's offset less the batch's base offset.
    pub offset_delta: i32,
    /// The record's time less the batch's base timestamp, in milliseconds.
    pub timestamp_delta: i64,
    /// The key, or null.
    pub key: Option<&'a [u8]>,
    /// The value, or null: a tombstone on a compacted topic.
    pub value: Option<&'a [u8]>,
    /// The headers, in order.
    pub headers: Vec<RecordHeader<'a>>,
}

impl Record<'_> {
    /// The record's offset in its partition.
    pub fn offset(&self, batch: &BatchHeader) -> Offset {
        Offset(batch.base_offset.0.wrapping_add(i64::from(self.offset_delta)))
    }

    /// The record's time: its own, or the time of the append with LogAppendTime.
    pub fn timestamp(&self, batch: &BatchHeader) -> Timestamp {
        match batch.attributes.timestamp_type() {
            TimestampType::CreateTime => Timestamp(batch.base_timestamp.0.wrapping_add(self.timestamp_delta)),
            TimestampType::LogAppendTime => batch.max_timestamp,
        }
    }

    /// Appends the record as a batch holds it.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let deltas = (self.timestamp_delta, self.offset_delta);
        encode(out, deltas, self.key, self.value, self.headers.iter().copied());
    }
}

/// Appends a record as a batch holds it, without any memory but that of `out`. `deltas` are of time and offset.
pub(crate) fn encode<'a>(
    out: &mut Vec<u8>,
    (timestamp_delta, offset_delta): (i64, i32),
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    headers: impl ExactSizeIterator<Item = RecordHeader<'a>> + Clone,
) {
    let header_bytes = |header: RecordHeader<'_>| nullable_size(Some(header.name)) + nullable_size(header.value);
    let size = 1 // attributes
        + varint::size(timestamp_delta)
        + varint::size(offset_delta.into())
        + nullable_size(key)
        + nullable_size(value)
        + varint::size(headers.len() as i64)
        + headers.clone().map(header_bytes).sum::<usize>();
    varint::put(out, size as i64);
    out.push(0);
    varint::put(out, timestamp_delta);
    varint::put(out, offset_delta.into());
    put_nullable(out, key);
    put_nullable(out, value);
    varint::put(out, headers.len() as i64);
    for header in headers {
        put_nullable(out, Some(header.name));
        put_nullable(out, header.value);
    }
}

fn nullable_size(bytes: Option<&[u8]>) -> usize {
    bytes.map_or(1, |bytes| varint::size(bytes.len() as i64) + bytes.len())
}

fn put_nullable(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    varint::put(out, bytes.map_or(-1, |bytes| bytes.len() as i64));
    out.extend_from_slice(bytes.unwrap_or_default());
}

/// Why the records of a batch could not be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RecordsError {
    /// The bytes are no batch.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The attributes name a codec that does not exist.
    #[error("the batch names codec {0}, which does not exist")]
    UnknownCodec(u8),
    /// The records do not decompress, or to more than the limit.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// A record does not parse.
    #[error("record {index} of the batch is malformed: {reason}")]
    Malformed {
        /// Which record, from 0.
        index: i32,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// There are fewer records than the header counts.
    #[error("the batch holds {found} records, its header counts {declared}")]
    TooFew {
        /// The header's count.
        declared: i32,
        /// How many there are.
        found: i32,
    },
    /// Bytes follow the last record.
    #[error("{bytes} bytes follow the last record of the batch")]
    TrailingBytes {
        /// How many.
        bytes: usize,
    },
}

/// Reads the records of a batch, after decompressing them as a whole if they are compressed.
///
/// The batch's CRC is not checked here.
///
/// # Errors
///
/// [`RecordsError`] if the bytes are not exactly one batch, or its records do not decompress within the limit. A
/// Raft-only entry has no records; what follows its header is not looked at.
pub fn records(batch: &[u8], limit: DecompressLimit) -> Result<Records<'_>, RecordsError> {
    let view = BatchView::parse(batch)?;
    Ok(Records { header: *view.header(), bytes: payload(&view, limit)? })
}

/// Decompresses the records of a batch into bytes that can be shared, for who keeps parts of them; without a copy if
/// they are not compressed. [`Records::of_payload`] reads them.
///
/// # Errors
///
/// As of [`records`].
pub fn shared_payload(batch: &Bytes, limit: DecompressLimit) -> Result<(BatchHeader, Bytes), RecordsError> {
    let view = BatchView::parse(batch)?;
    let bytes = match payload(&view, limit)? {
        Cow::Borrowed(bytes) => batch.slice_ref(bytes),
        Cow::Owned(bytes) => Bytes::from(bytes),
    };
    Ok((*view.header(), bytes))
}

fn payload<'a>(view: &BatchView<'a>, limit: DecompressLimit) -> Result<Cow<'a, [u8]>, RecordsError> {
    let header = view.header();
    if header.attributes.is_raft_only() {
        return Ok(Cow::Borrowed(&[]));
    }
    Ok(match header.attributes.compression().map_err(RecordsError::UnknownCodec)? {
        Codec::None => Cow::Borrowed(view.payload()),
        // A batch that compaction emptied has no payload to decompress.
        _ if header.record_count == 0 && view.payload().is_empty() => Cow::Borrowed(&[]),
        codec => Cow::Owned(decompress(codec, view.payload(), limit)?),
    })
}

/// The records of one batch: `for record in &records { … }`.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    header: BatchHeader,
    bytes: Cow<'a, [u8]>,
}

impl<'a> Records<'a> {
    /// The records in a payload of [`shared_payload`], with the header that came with it.
    pub fn of_payload(header: BatchHeader, payload: &'a [u8]) -> Records<'a> {
        Records { header, bytes: Cow::Borrowed(payload) }
    }

    /// The batch's header.
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// Reads the records one by one. The first error ends the iteration.
    pub fn iter(&self) -> RecordsIter<'_> {
        self.iter_from(RecordsCursor::default())
    }

    /// Goes on reading where another iteration of the same records has come to.
    pub fn iter_from(&self, cursor: RecordsCursor) -> RecordsIter<'_> {
        let RecordsCursor { at, next, ended } = cursor;
        let input = SliceInput::starting(&self.bytes, at);
        RecordsIter { input, declared: self.header.record_count, next, ended }
    }
}

impl<'r> IntoIterator for &'r Records<'_> {
    type Item = Result<Record<'r>, RecordsError>;
    type IntoIter = RecordsIter<'r>;

    fn into_iter(self) -> RecordsIter<'r> {
        self.iter()
    }
}

/// Yields the records of a batch in order; an error if they are not as many as the header counts.
#[derive(Clone, Debug)]
pub struct RecordsIter<'r> {
    input: SliceInput<'r>,
    declared: i32,
    next: i32,
    ended: bool,
}

/// How far an iteration has come; the default is the begin.
#[derive(Clone, Copy, Debug, Default)]
pub struct RecordsCursor {
    at: usize,
    next: i32,
    ended: bool,
}

impl<'r> RecordsIter<'r> {
    /// How far it has come.
    pub fn cursor(&self) -> RecordsCursor {
        RecordsCursor { at: self.input.position(), next: self.next, ended: self.ended }
    }

    fn step(&mut self) -> Option<Result<Record<'r>, RecordsError>> {
        let left = self.input.left();
        if self.next >= self.declared {
            return (left > 0).then_some(Err(RecordsError::TrailingBytes { bytes: left }));
        }
        if left == 0 {
            return Some(Err(RecordsError::TooFew { declared: self.declared, found: self.next }));
        }
        let index = self.next;
        self.next += 1;
        let record = walk::read_record(&mut self.input);
        Some(record.map_err(|MalformedRecord(reason)| RecordsError::Malformed { index, reason }))
    }
}

impl<'r> Iterator for RecordsIter<'r> {
    type Item = Result<Record<'r>, RecordsError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let step = self.step();
        self.ended = !matches!(step, Some(Ok(_)));
        step
    }
}
