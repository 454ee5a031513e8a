//! Reads a frame: every length is held against the bytes left before anything is allocated for it.

use bytes::Bytes;
use thiserror::Error;

use crate::api::ApiKey;
use crate::codec::{Element, Records, Str};

/// Decoding a frame holds at most this many bytes per byte of the frame (and [`MAX_FIXED_BYTES`]) beyond the frame
/// itself.
///
/// Each element of an array is paid for with its fewest bytes on the wire. The dearest in a request is an empty compact
/// string, one byte there and 32 here; in a response, a listed group of ListGroups 3, 3 bytes and 128. All that counts
/// twice while a vector grows.
pub const MAX_BYTES_PER_FRAME_BYTE: usize = 88;

/// What decoding may hold whatever the frame's length: the first reservations of nested arrays, see
/// [`MAX_BYTES_PER_FRAME_BYTE`].
pub const MAX_FIXED_BYTES: usize = 64 << 10;

/// An array's elements are reserved up to this many bytes before the first is read; beyond, the vector grows as they
/// come.
const FIRST_RESERVATION_BYTES: usize = 8 << 10;

/// Why a frame is not a message.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DecodeError {
    #[error("{needed} bytes are missing at byte {at} of the frame")]
    Truncated { at: usize, needed: usize },
    #[error("the length {length} at byte {at} of the frame does not fit into what is left of it")]
    Length { at: usize, length: i64 },
    #[error("null at byte {at} of the frame, where the version does not allow it")]
    Null { at: usize },
    #[error("the text at byte {at} of the frame is not UTF-8")]
    NotUtf8 { at: usize },
    #[error("the variable-length number at byte {at} of the frame has more than 32 bits")]
    Varint { at: usize },
    #[error("the tagged field {tag} that ends at byte {at} of the frame is longer than its content")]
    TaggedField { at: usize, tag: u32 },
    #[error("at byte {at} of the frame its arrays would take more than {max_bytes} bytes of memory")]
    TooManyElements { at: usize, max_bytes: usize },
    #[error("{left} bytes are left behind the message")]
    TrailingBytes { left: usize },
    #[error("API key {} is unknown", .0.0)]
    UnknownApi(ApiKey),
    #[error("{api} has no version {version}")]
    UnsupportedVersion { api: ApiKey, version: i16 },
    #[error("{name} has no version {version}")]
    UnsupportedData { name: &'static str, version: i16 },
    #[error("kind {kind} of record is not that of {name}")]
    OtherRecord { name: &'static str, kind: i16 },
}

/// Reads values from a frame, front to back. Strings, bytes and records are slices of it.
#[derive(Debug, Clone)]
pub struct Decoder {
    frame: Bytes,
    at: usize,
    /// Where reading must stop: the end of the frame, or of the tagged field being read.
    end: usize,
    flexible: bool,
    /// What the arrays so far have been given.
    decoded_bytes: usize,
    max_decoded_bytes: usize,
}

impl Decoder {
    pub fn new(frame: Bytes) -> Decoder {
        let end = frame.len();
        Decoder { frame, at: 0, end, flexible: false, decoded_bytes: 0, max_decoded_bytes: usize::MAX }
    }

    /// Refuses a message whose arrays would take more than this many bytes, whatever its frame justifies.
    pub fn limit_decoded_bytes(&mut self, max: usize) {
        self.max_decoded_bytes = max;
    }

    /// Bytes that the arrays read so far take in memory: with the frame, that is what a decoded message holds.
    pub fn decoded_bytes(&self) -> usize {
        self.decoded_bytes
    }

    /// Counts room for more elements of an array before it is taken.
    fn count_elements<T>(&mut self, more: usize) -> Result<(), DecodeError> {
        self.decoded_bytes = self.decoded_bytes.saturating_add(more.saturating_mul(size_of::<T>()));
        if self.decoded_bytes > self.max_decoded_bytes {
            return Err(DecodeError::TooManyElements { at: self.at, max_bytes: self.max_decoded_bytes });
        }
        Ok(())
    }

    /// The bytes not yet read.
    pub fn remaining(&self) -> usize {
        self.end - self.at
    }

    /// The position of the next byte in the frame.
    pub fn position(&self) -> usize {
        self.at
    }

    /// Refuses bytes behind what was read.
    pub fn finish(self) -> Result<(), DecodeError> {
        match self.remaining() {
            0 => Ok(()),
            left => Err(DecodeError::TrailingBytes { left }),
        }
    }

    /// Goes back to where reading stood before.
    pub(crate) fn back_to(&mut self, position: usize) {
        debug_assert!(position <= self.at);
        self.at = position;
    }

    /// Switches between the encodings of flexible and older versions.
    pub(crate) fn set_flexible(&mut self, flexible: bool) {
        self.flexible = flexible;
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        match self.frame[self.at..self.end].first_chunk::<N>() {
            Some(bytes) => {
                self.at += N;
                Ok(*bytes)
            }
            None => Err(DecodeError::Truncated { at: self.at, needed: N - self.remaining() }),
        }
    }

    pub(crate) fn bool(&mut self) -> Result<bool, DecodeError> {
        Ok(self.take::<1>()? != [0])
    }

    pub(crate) fn int8(&mut self) -> Result<i8, DecodeError> {
        Ok(i8::from_be_bytes(self.take()?))
    }

    pub(crate) fn int16(&mut self) -> Result<i16, DecodeError> {
        Ok(i16::from_be_bytes(self.take()?))
    }

    pub(crate) fn uint16(&mut self) -> Result<u16, DecodeError> {
        Ok(u16::from_be_bytes(self.take()?))
    }

    pub(crate) fn int32(&mut self) -> Result<i32, DecodeError> {
        Ok(i32::from_be_bytes(self.take()?))
    }

    pub(crate) fn int64(&mut self) -> Result<i64, DecodeError> {
        Ok(i64::from_be_bytes(self.take()?))
    }

    pub(crate) fn float64(&mut self) -> Result<f64, DecodeError> {
        Ok(f64::from_be_bytes(self.take()?))
    }

    pub(crate) fn uuid(&mut self) -> Result<[u8; 16], DecodeError> {
        self.take()
    }

    /// At most five bytes and 32 bits. Padding within the five is taken, as Kafka does.
    fn unsigned_varint(&mut self) -> Result<u32, DecodeError> {
        let start = self.at;
        let mut value = 0u32;
        for shift in (0..35).step_by(7) {
            let [byte] = self.take::<1>()?;
            if shift == 28 && byte > 0x0f {
                break;
            }
            value |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DecodeError::Varint { at: start })
    }

    /// A length that is -1, or 0 in a flexible version, for null. The rest lies between 0 and the bytes left.
    fn length(
        &mut self,
        fixed: impl FnOnce(&mut Decoder) -> Result<i32, DecodeError>,
    ) -> Result<Option<usize>, DecodeError> {
        let at = self.at;
        let length = if self.flexible { i64::from(self.unsigned_varint()?) - 1 } else { i64::from(fixed(self)?) };
        if length == -1 {
            return Ok(None);
        }
        match usize::try_from(length) {
            Ok(length) if length <= self.remaining() => Ok(Some(length)),
            _ => Err(DecodeError::Length { at, length }),
        }
    }

    fn short_length(&mut self) -> Result<Option<usize>, DecodeError> {
        self.length(|decoder| decoder.int16().map(i32::from))
    }

    fn long_length(&mut self) -> Result<Option<usize>, DecodeError> {
        self.length(Decoder::int32)
    }

    /// The next bytes; the caller has held `length` against what is left.
    fn slice(&mut self, length: usize) -> Bytes {
        if length == 0 {
            return Bytes::new();
        }
        let bytes = self.frame.slice(self.at..self.at + length);
        self.at += length;
        bytes
    }

    fn text(&mut self, length: usize) -> Result<Str, DecodeError> {
        let at = self.at;
        Str::from_utf8(self.slice(length)).map_err(|_| DecodeError::NotUtf8 { at })
    }

    /// Runs `read` for a nullable value; null gives the error where it is not allowed.
    fn nullable<T>(
        &mut self,
        null_allowed: bool,
        read: impl FnOnce(&mut Decoder) -> Result<Option<T>, DecodeError>,
    ) -> Result<Option<T>, DecodeError> {
        let at = self.at;
        match read(self)? {
            None if !null_allowed => Err(DecodeError::Null { at }),
            value => Ok(value),
        }
    }

    fn present<T>(
        &mut self,
        read: impl FnOnce(&mut Decoder) -> Result<Option<T>, DecodeError>,
    ) -> Result<T, DecodeError> {
        let at = self.at;
        read(self)?.ok_or(DecodeError::Null { at })
    }

    fn any_string(&mut self) -> Result<Option<Str>, DecodeError> {
        self.short_length()?.map(|length| self.text(length)).transpose()
    }

    fn any_bytes(&mut self) -> Result<Option<Bytes>, DecodeError> {
        Ok(self.long_length()?.map(|length| self.slice(length)))
    }

    pub(crate) fn string(&mut self) -> Result<Str, DecodeError> {
        self.present(Decoder::any_string)
    }

    pub(crate) fn nullable_string(&mut self, null_allowed: bool) -> Result<Option<Str>, DecodeError> {
        self.nullable(null_allowed, Decoder::any_string)
    }

    /// A string with a two-byte length in every version.
    pub(crate) fn nullable_inflexible_string(&mut self, null_allowed: bool) -> Result<Option<Str>, DecodeError> {
        let flexible = std::mem::replace(&mut self.flexible, false);
        let text = self.nullable_string(null_allowed);
        self.flexible = flexible;
        text
    }

    pub(crate) fn bytes(&mut self) -> Result<Bytes, DecodeError> {
        self.present(Decoder::any_bytes)
    }

    pub(crate) fn nullable_bytes(&mut self, null_allowed: bool) -> Result<Option<Bytes>, DecodeError> {
        self.nullable(null_allowed, Decoder::any_bytes)
    }

    pub(crate) fn records(&mut self) -> Result<Records, DecodeError> {
        self.bytes().map(Records::from)
    }

    pub(crate) fn nullable_records(&mut self, null_allowed: bool) -> Result<Option<Records>, DecodeError> {
        Ok(self.nullable_bytes(null_allowed)?.map(Records::from))
    }

    pub(crate) fn structure<T: Element>(&mut self, version: i16) -> Result<T, DecodeError> {
        T::read(self, version)
    }

    /// One byte tells null (negative, as Kafka reads it) from present.
    pub(crate) fn nullable_structure<T: Element>(
        &mut self,
        version: i16,
        null_allowed: bool,
    ) -> Result<Option<T>, DecodeError> {
        self.nullable(null_allowed, |decoder| match decoder.int8()? {
            ..0 => Ok(None),
            _ => T::read(decoder, version).map(Some),
        })
    }

    fn any_array<T: Element>(&mut self, version: i16) -> Result<Option<Vec<T>>, DecodeError> {
        let at = self.at;
        let Some(count) = self.long_length()? else { return Ok(None) };
        if count.saturating_mul(T::min_bytes(version)) > self.remaining() {
            return Err(DecodeError::Length { at, length: count as i64 });
        }
        // The count is only a claim until the elements are read, and arrays nest: see MAX_BYTES_PER_FRAME_BYTE.
        let first = (FIRST_RESERVATION_BYTES / size_of::<T>()).max(1);
        self.count_elements::<T>(count.min(first))?;
        let mut elements = Vec::with_capacity(count.min(first));
        for _ in 0..count {
            if elements.len() == elements.capacity() {
                let more = elements.len().min(count - elements.len());
                self.count_elements::<T>(more)?;
                elements.reserve_exact(more);
            }
            elements.push(T::read(self, version)?);
        }
        Ok(Some(elements))
    }

    pub(crate) fn array<T: Element>(&mut self, version: i16) -> Result<Vec<T>, DecodeError> {
        self.present(|decoder| decoder.any_array(version))
    }

    pub(crate) fn nullable_array<T: Element>(
        &mut self,
        version: i16,
        null_allowed: bool,
    ) -> Result<Option<Vec<T>>, DecodeError> {
        self.nullable(null_allowed, |decoder| decoder.any_array(version))
    }

    /// Reads a struct's tagged fields. `read` takes the content of a tag that it knows, and must take all of it; what
    /// it answers `false` to is skipped.
    pub(crate) fn tags(
        &mut self,
        mut read: impl FnMut(&mut Decoder, u32) -> Result<bool, DecodeError>,
    ) -> Result<(), DecodeError> {
        if !self.flexible {
            return Ok(());
        }
        for _ in 0..self.unsigned_varint()? {
            let tag = self.unsigned_varint()?;
            let at = self.at;
            let length = self.unsigned_varint()? as usize;
            if length > self.remaining() {
                return Err(DecodeError::Length { at, length: length as i64 });
            }
            let outer = std::mem::replace(&mut self.end, self.at + length);
            if !read(self, tag)? {
                self.at = self.end;
            }
            if self.at != self.end {
                return Err(DecodeError::TaggedField { at: self.end, tag });
            }
            self.end = outer;
        }
        Ok(())
    }

    pub(crate) fn skip_tags(&mut self) -> Result<(), DecodeError> {
        self.tags(|_, _| Ok(false))
    }
}
