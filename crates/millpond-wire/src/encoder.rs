//! Writes a frame as a list of chunks.

use bytes::{Bytes, BytesMut};
use thiserror::Error;

use crate::api::ApiKey;
use crate::chunks::{Chunk, Chunks};
use crate::codec::{Element, Records, Str};

/// Byte strings of this length or more are put into the frame as they are; shorter ones are copied, which costs less
/// than one more piece in a vectored write.
pub const SPLICE_BYTES: usize = 512;

/// Why a value cannot be written in a version. Fields are named as in Kafka's specifications: `Struct.Field`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EncodeError {
    #[error("{field} holds a value, and version {version} has no place for it")]
    NoSuchField { field: &'static str, version: i16 },
    #[error("{field} is null, which the version does not allow")]
    Null { field: &'static str },
    #[error("{field} has the length {length}, more than the protocol can say")]
    TooLong { field: &'static str, length: usize },
    #[error("{api} has no version {version}")]
    UnsupportedVersion { api: ApiKey, version: i16 },
    #[error("{name} has no version {version}")]
    UnsupportedData { name: &'static str, version: i16 },
}

/// Collects a frame: small values in one buffer, long byte strings beside it.
#[derive(Debug, Default)]
pub struct Encoder {
    buffer: BytesMut,
    /// What stands in the frame where the buffer has this length; positions never fall.
    splices: Vec<(usize, Chunk)>,
    spliced_bytes: usize,
    flexible: bool,
}

impl Encoder {
    pub fn new() -> Encoder {
        Encoder::default()
    }

    /// An encoder with room for this many bytes besides those that are spliced in.
    pub fn with_capacity(bytes: usize) -> Encoder {
        Encoder { buffer: BytesMut::with_capacity(bytes), ..Encoder::default() }
    }

    /// The bytes written so far.
    pub fn len(&self) -> usize {
        self.buffer.len() + self.spliced_bytes
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What was written.
    pub fn finish(self) -> Chunks {
        let length = self.len();
        let buffer = self.buffer.freeze();
        let mut chunks = Vec::with_capacity(2 * self.splices.len() + 1);
        let mut from = 0;
        for (at, chunk) in self.splices {
            if at > from {
                chunks.push(Chunk::Here(buffer.slice(from..at)));
            }
            from = at;
            chunks.push(chunk);
        }
        if buffer.len() > from {
            chunks.push(Chunk::Here(buffer.slice(from..)));
        }
        Chunks::new(chunks, length)
    }

    /// What was written behind the first four bytes, with its length put there.
    pub(crate) fn finish_frame(mut self) -> Result<Chunks, EncodeError> {
        let length = self.len() - 4;
        let prefix = i32::try_from(length).map_err(|_| EncodeError::TooLong { field: "the frame", length })?;
        self.buffer[..4].copy_from_slice(&prefix.to_be_bytes());
        Ok(self.finish())
    }

    /// Switches between the encodings of flexible and older versions.
    pub(crate) fn set_flexible(&mut self, flexible: bool) {
        self.flexible = flexible;
    }

    fn put(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    fn splice(&mut self, bytes: &Bytes) {
        if bytes.len() < SPLICE_BYTES {
            self.put(bytes);
        } else {
            self.splice_chunk(Chunk::Here(bytes.clone()));
        }
    }

    fn splice_chunk(&mut self, chunk: Chunk) {
        self.spliced_bytes += chunk.len();
        self.splices.push((self.buffer.len(), chunk));
    }

    pub(crate) fn bool(&mut self, value: bool) {
        self.put(&[u8::from(value)]);
    }

    pub(crate) fn int8(&mut self, value: i8) {
        self.put(&value.to_be_bytes());
    }

    pub(crate) fn int16(&mut self, value: i16) {
        self.put(&value.to_be_bytes());
    }

    pub(crate) fn uint16(&mut self, value: u16) {
        self.put(&value.to_be_bytes());
    }

    pub(crate) fn int32(&mut self, value: i32) {
        self.put(&value.to_be_bytes());
    }

    pub(crate) fn int64(&mut self, value: i64) {
        self.put(&value.to_be_bytes());
    }

    pub(crate) fn float64(&mut self, value: f64) {
        self.put(&value.to_be_bytes());
    }

    pub(crate) fn uuid(&mut self, value: &[u8; 16]) {
        self.put(value);
    }

    fn unsigned_varint(&mut self, value: u32) {
        let (bytes, length) = varint(value);
        self.put(&bytes[..length]);
    }

    /// A length, or null: two bytes or four in an older version, as the flag says.
    fn length(&mut self, length: Option<usize>, short: bool, field: &'static str) -> Result<(), EncodeError> {
        let most = if short && !self.flexible { i16::MAX as usize } else { i32::MAX as usize };
        let length = match length {
            Some(length) if length > most => return Err(EncodeError::TooLong { field, length }),
            Some(length) => length as i32,
            None => -1,
        };
        match (self.flexible, short) {
            (true, _) => self.unsigned_varint((length as u32).wrapping_add(1)),
            (false, true) => self.int16(length as i16),
            (false, false) => self.int32(length),
        }
        Ok(())
    }

    pub(crate) fn string(&mut self, text: &Str, field: &'static str) -> Result<(), EncodeError> {
        self.length(Some(text.len()), true, field)?;
        self.splice(text.as_bytes());
        Ok(())
    }

    pub(crate) fn nullable_string(
        &mut self,
        text: &Option<Str>,
        null_allowed: bool,
        field: &'static str,
    ) -> Result<(), EncodeError> {
        match text {
            Some(text) => self.string(text, field),
            None if null_allowed => self.length(None, true, field),
            None => Err(EncodeError::Null { field }),
        }
    }

    /// A string with a two-byte length in every version.
    pub(crate) fn nullable_inflexible_string(
        &mut self,
        text: &Option<Str>,
        null_allowed: bool,
        field: &'static str,
    ) -> Result<(), EncodeError> {
        let flexible = std::mem::replace(&mut self.flexible, false);
        let result = self.nullable_string(text, null_allowed, field);
        self.flexible = flexible;
        result
    }

    pub(crate) fn bytes(&mut self, bytes: &Bytes, field: &'static str) -> Result<(), EncodeError> {
        self.length(Some(bytes.len()), false, field)?;
        self.splice(bytes);
        Ok(())
    }

    pub(crate) fn nullable_bytes(
        &mut self,
        bytes: &Option<Bytes>,
        null_allowed: bool,
        field: &'static str,
    ) -> Result<(), EncodeError> {
        match bytes {
            Some(bytes) => self.bytes(bytes, field),
            None if null_allowed => self.length(None, false, field),
            None => Err(EncodeError::Null { field }),
        }
    }

    pub(crate) fn records(&mut self, records: &Records, field: &'static str) -> Result<(), EncodeError> {
        self.length(Some(records.len()), false, field)?;
        for chunk in records.chunks() {
            match chunk {
                Chunk::Here(bytes) => self.splice(bytes),
                elsewhere @ Chunk::Elsewhere(_) => self.splice_chunk(elsewhere.clone()),
            }
        }
        Ok(())
    }

    pub(crate) fn nullable_records(
        &mut self,
        records: &Option<Records>,
        null_allowed: bool,
        field: &'static str,
    ) -> Result<(), EncodeError> {
        match records {
            Some(records) => self.records(records, field),
            None if null_allowed => self.length(None, false, field),
            None => Err(EncodeError::Null { field }),
        }
    }

    pub(crate) fn structure<T: Element>(
        &mut self,
        value: &T,
        version: i16,
        _field: &'static str,
    ) -> Result<(), EncodeError> {
        value.write(self, version)
    }

    pub(crate) fn nullable_structure<T: Element>(
        &mut self,
        value: &Option<T>,
        version: i16,
        null_allowed: bool,
        field: &'static str,
    ) -> Result<(), EncodeError> {
        match value {
            Some(value) => {
                self.int8(1);
                value.write(self, version)
            }
            None if null_allowed => {
                self.int8(-1);
                Ok(())
            }
            None => Err(EncodeError::Null { field }),
        }
    }

    pub(crate) fn array<T: Element>(
        &mut self,
        elements: &[T],
        version: i16,
        field: &'static str,
    ) -> Result<(), EncodeError> {
        self.length(Some(elements.len()), false, field)?;
        elements.iter().try_for_each(|element| element.write(self, version))
    }

    pub(crate) fn nullable_array<T: Element>(
        &mut self,
        elements: &Option<Vec<T>>,
        version: i16,
        null_allowed: bool,
        field: &'static str,
    ) -> Result<(), EncodeError> {
        match elements {
            Some(elements) => self.array(elements, version, field),
            None if null_allowed => self.length(None, false, field),
            None => Err(EncodeError::Null { field }),
        }
    }

    /// Starts a struct's tagged fields: how many follow. Nothing where the version has none.
    pub(crate) fn tag_count(&mut self, count: u32) {
        if self.flexible {
            self.unsigned_varint(count);
        }
    }

    pub(crate) fn no_tags(&mut self) {
        self.tag_count(0);
    }

    /// Writes one tagged field. Its length stands in front of it and is known only behind it, so the content moves by
    /// the few bytes that the length takes.
    pub(crate) fn tagged(
        &mut self,
        tag: u32,
        write: impl FnOnce(&mut Encoder) -> Result<(), EncodeError>,
    ) -> Result<(), EncodeError> {
        self.unsigned_varint(tag);
        let (start, length_before, splices_before) = (self.buffer.len(), self.len(), self.splices.len());
        write(self)?;
        let length = self.len() - length_before;
        let length = u32::try_from(length).map_err(|_| EncodeError::TooLong { field: "a tagged field", length })?;
        let (prefix, width) = varint(length);
        let end = self.buffer.len();
        self.put(&prefix[..width]);
        self.buffer.copy_within(start..end, start + width);
        self.buffer[start..start + width].copy_from_slice(&prefix[..width]);
        self.splices[splices_before..].iter_mut().for_each(|(at, _)| *at += width);
        Ok(())
    }
}

/// The value in groups of seven bits, lowest first, and how many bytes that takes.
fn varint(mut value: u32) -> ([u8; 5], usize) {
    let mut bytes = [0; 5];
    let mut length = 0;
    loop {
        bytes[length] = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            return (bytes, length + 1);
        }
        bytes[length] |= 0x80;
        length += 1;
    }
}
