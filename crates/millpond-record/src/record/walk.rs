//! Reading records field by field, from a slice or from a stream that decompresses as it goes.

use super::{Record, RecordHeader};
use crate::codec::{CodecError, Decompressor};
use crate::varint::{self, MAX_VARINT_BYTES, MAX_VARLONG_BYTES};

/// Why a record does not parse, for people. Small, because every byte that is read may return it: what went wrong with
/// decompression is kept by the input.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct MalformedRecord(pub(crate) &'static str);

const CUT_SHORT: MalformedRecord = MalformedRecord("the bytes end within it");

/// Bytes read from front to back.
pub(crate) trait RecordInput {
    fn byte(&mut self) -> Result<u8, MalformedRecord>;
    fn skip(&mut self, count: usize) -> Result<(), MalformedRecord>;
    /// How many bytes were read or skipped.
    fn position(&self) -> usize;
    fn at_end(&mut self) -> Result<bool, MalformedRecord>;
    /// Why decompression failed, if it was that which made a record malformed.
    fn take_failure(&mut self) -> Option<CodecError>;
}

/// What the validator needs of a record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RecordShape {
    pub(crate) timestamp_delta: i64,
    pub(crate) offset_delta: i32,
    pub(crate) has_key: bool,
}

/// Reads one record without keeping its contents.
#[inline]
pub(crate) fn walk_record<I: RecordInput>(input: &mut I) -> Result<RecordShape, MalformedRecord> {
    let end = begin(input)?;
    let timestamp_delta = varlong(input)?;
    let offset_delta = varint(input)?;
    let has_key = skip_nullable(input)?;
    skip_nullable(input)?;
    for _ in 0..header_count(input)? {
        let name = varint(input)?;
        input.skip(usize::try_from(name).map_err(|_| NAMELESS)?)?;
        skip_nullable(input)?;
    }
    finish(input, end)?;
    Ok(RecordShape { timestamp_delta, offset_delta, has_key })
}

/// Reads one record with its contents.
pub(super) fn read_record<'a>(input: &mut SliceInput<'a>) -> Result<Record<'a>, MalformedRecord> {
    let end = begin(input)?;
    let timestamp_delta = varlong(input)?;
    let offset_delta = varint(input)?;
    let key = take_nullable(input)?;
    let value = take_nullable(input)?;
    let count = header_count(input)?;
    // A count is believed as far as records have headers; more of them show themselves as they are read.
    let mut headers = Vec::with_capacity((count as usize).min(USUAL_HEADERS));
    for _ in 0..count {
        let name = take_nullable(input)?.ok_or(NAMELESS)?;
        headers.push(RecordHeader { name, value: take_nullable(input)? });
    }
    finish(input, end)?;
    Ok(Record { offset_delta, timestamp_delta, key, value, headers })
}

/// More headers than most records have. In memory each takes many times the two bytes that it may take here.
const USUAL_HEADERS: usize = 16;

const NAMELESS: MalformedRecord = MalformedRecord("a header has no name");

/// Reads length and attributes; returns where the record ends.
#[inline]
fn begin<I: RecordInput>(input: &mut I) -> Result<usize, MalformedRecord> {
    let length = usize::try_from(varint(input)?).map_err(|_| MalformedRecord("its length is negative"))?;
    let end = input.position() + length;
    input.byte()?;
    Ok(end)
}

#[inline]
fn finish<I: RecordInput>(input: &I, end: usize) -> Result<(), MalformedRecord> {
    if input.position() == end { Ok(()) } else { Err(MalformedRecord("its length is not that of its fields")) }
}

#[inline]
fn header_count<I: RecordInput>(input: &mut I) -> Result<i32, MalformedRecord> {
    let count = varint(input)?;
    if count < 0 { Err(MalformedRecord("its count of headers is negative")) } else { Ok(count) }
}

/// The length of bytes that may be null.
#[inline]
fn nullable_length<I: RecordInput>(input: &mut I) -> Result<Option<usize>, MalformedRecord> {
    match varint(input)? {
        -1 => Ok(None),
        length => usize::try_from(length).map(Some).map_err(|_| MalformedRecord("the length of a field is below -1")),
    }
}

#[inline]
fn skip_nullable<I: RecordInput>(input: &mut I) -> Result<bool, MalformedRecord> {
    let length = nullable_length(input)?;
    if let Some(length) = length {
        input.skip(length)?;
    }
    Ok(length.is_some())
}

fn take_nullable<'a>(input: &mut SliceInput<'a>) -> Result<Option<&'a [u8]>, MalformedRecord> {
    nullable_length(input)?.map(|length| input.take(length)).transpose()
}

#[inline]
fn varint<I: RecordInput>(input: &mut I) -> Result<i32, MalformedRecord> {
    let raw = u32::try_from(number(input, MAX_VARINT_BYTES)?).map_err(|_| OVERLONG)?;
    Ok(varint::unzigzag(raw.into()) as i32)
}

#[inline]
fn varlong<I: RecordInput>(input: &mut I) -> Result<i64, MalformedRecord> {
    Ok(varint::unzigzag(number(input, MAX_VARLONG_BYTES)?))
}

const OVERLONG: MalformedRecord = MalformedRecord("a number in it is too long");

/// Most numbers of most records take one byte or two.
#[inline]
fn number<I: RecordInput>(input: &mut I, max_bytes: usize) -> Result<u64, MalformedRecord> {
    let first = input.byte()?;
    if first < 0x80 {
        return Ok(first.into());
    }
    let second = input.byte()?;
    let raw = u64::from(first & 0x7f) | u64::from(second & 0x7f) << 7;
    if second < 0x80 { Ok(raw) } else { long_number(input, raw, max_bytes) }
}

/// The rest of a number of which two bytes are read.
fn long_number<I: RecordInput>(input: &mut I, mut raw: u64, max_bytes: usize) -> Result<u64, MalformedRecord> {
    for at in 2..max_bytes {
        let byte = input.byte()?;
        let bits = u64::from(byte & 0x7f);
        let shifted = bits << (7 * at);
        if shifted >> (7 * at) != bits {
            return Err(OVERLONG);
        }
        raw |= shifted;
        if byte < 0x80 {
            return Ok(raw);
        }
    }
    Err(OVERLONG)
}

/// Records that lie in memory.
#[derive(Clone, Debug)]
pub(crate) struct SliceInput<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> SliceInput<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> SliceInput<'a> {
        SliceInput { bytes, at: 0 }
    }

    /// From this byte on; behind the end there is nothing.
    pub(super) fn starting(bytes: &'a [u8], at: usize) -> SliceInput<'a> {
        SliceInput { bytes, at: at.min(bytes.len()) }
    }

    pub(super) fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], MalformedRecord> {
        let from = self.at;
        self.skip(count)?;
        Ok(&self.bytes[from..self.at])
    }
}

impl RecordInput for SliceInput<'_> {
    #[inline]
    fn byte(&mut self) -> Result<u8, MalformedRecord> {
        let byte = *self.bytes.get(self.at).ok_or(CUT_SHORT)?;
        self.at += 1;
        Ok(byte)
    }

    #[inline]
    fn skip(&mut self, count: usize) -> Result<(), MalformedRecord> {
        if count > self.left() {
            return Err(CUT_SHORT);
        }
        self.at += count;
        Ok(())
    }

    #[inline]
    fn position(&self) -> usize {
        self.at
    }

    #[inline]
    fn at_end(&mut self) -> Result<bool, MalformedRecord> {
        Ok(self.left() == 0)
    }

    fn take_failure(&mut self) -> Option<CodecError> {
        None
    }
}

/// Records that are decompressed while they are read: no more of them is in memory than one buffer.
pub(crate) struct StreamInput<'a> {
    source: Decompressor<'a>,
    buffer: Box<[u8]>,
    /// What of the buffer is yet to be read.
    at: usize,
    filled: usize,
    /// How many bytes went through the buffer before what is in it.
    before: usize,
    failure: Option<CodecError>,
}

const STREAM_BUFFER_BYTES: usize = 32 << 10;

impl<'a> StreamInput<'a> {
    pub(crate) fn new(source: Decompressor<'a>) -> StreamInput<'a> {
        StreamInput { source, buffer: vec![0; STREAM_BUFFER_BYTES].into(), at: 0, filled: 0, before: 0, failure: None }
    }

    /// Makes sure that a byte can be read; false at the end.
    fn fill(&mut self) -> Result<bool, MalformedRecord> {
        if self.at == self.filled {
            self.before += self.filled;
            self.at = 0;
            self.filled = 0;
            self.filled = self.source.read(&mut self.buffer).map_err(|error| {
                self.failure = Some(error);
                MalformedRecord("it does not decompress")
            })?;
        }
        Ok(self.at < self.filled)
    }
}

impl RecordInput for StreamInput<'_> {
    #[inline]
    fn byte(&mut self) -> Result<u8, MalformedRecord> {
        if !self.fill()? {
            return Err(CUT_SHORT);
        }
        let byte = self.buffer[self.at];
        self.at += 1;
        Ok(byte)
    }

    fn skip(&mut self, mut count: usize) -> Result<(), MalformedRecord> {
        while count > 0 {
            if !self.fill()? {
                return Err(CUT_SHORT);
            }
            let now = count.min(self.filled - self.at);
            self.at += now;
            count -= now;
        }
        Ok(())
    }

    fn position(&self) -> usize {
        self.before + self.at
    }

    fn at_end(&mut self) -> Result<bool, MalformedRecord> {
        Ok(!self.fill()?)
    }

    fn take_failure(&mut self) -> Option<CodecError> {
        self.failure.take()
    }
}
