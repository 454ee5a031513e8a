//! Reading the fields of our own small formats (little-endian) without trusting a length.

use bytes::{BufMut, Bytes, BytesMut};
use millpond_record::TopicId;

/// The bytes end before the field does, or a value cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FieldError {
    #[error("it ends within a field")]
    Short,
    #[error("a field has a value that cannot be")]
    Value,
}

/// Takes fields off the front of a slice.
pub(crate) struct FieldReader<'a> {
    rest: &'a [u8],
}

impl<'a> FieldReader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> FieldReader<'a> {
        FieldReader { rest: bytes }
    }

    pub(crate) fn remaining(&self) -> usize {
        self.rest.len()
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], FieldError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(FieldError::Short)?;
        self.rest = rest;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, FieldError> {
        Ok(self.take::<1>()?[0])
    }

    pub(crate) fn u16(&mut self) -> Result<u16, FieldError> {
        Ok(u16::from_le_bytes(self.take()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, FieldError> {
        Ok(u32::from_le_bytes(self.take()?))
    }

    pub(crate) fn i32(&mut self) -> Result<i32, FieldError> {
        Ok(i32::from_le_bytes(self.take()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, FieldError> {
        Ok(u64::from_le_bytes(self.take()?))
    }

    pub(crate) fn i64(&mut self) -> Result<i64, FieldError> {
        Ok(i64::from_le_bytes(self.take()?))
    }

    pub(crate) fn topic_id(&mut self) -> Result<TopicId, FieldError> {
        Ok(TopicId(self.take()?))
    }

    /// A byte that is 0 or 1.
    pub(crate) fn flag(&mut self) -> Result<bool, FieldError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(FieldError::Value),
        }
    }

    /// A u32 length and that many bytes, which are copied once the length is known to fit.
    pub(crate) fn bytes(&mut self) -> Result<Bytes, FieldError> {
        let length = self.u32()? as usize;
        let (head, rest) = self.rest.split_at_checked(length).ok_or(FieldError::Short)?;
        self.rest = rest;
        Ok(Bytes::copy_from_slice(head))
    }

    /// A u16 length and that many bytes of UTF-8.
    pub(crate) fn string(&mut self) -> Result<String, FieldError> {
        let length = usize::from(self.u16()?);
        let (head, rest) = self.rest.split_at_checked(length).ok_or(FieldError::Short)?;
        self.rest = rest;
        std::str::from_utf8(head).map(str::to_owned).map_err(|_| FieldError::Value)
    }

    /// Nothing may be left.
    pub(crate) fn end(self) -> Result<(), FieldError> {
        if self.rest.is_empty() { Ok(()) } else { Err(FieldError::Value) }
    }
}

/// The counterpart of [`FieldReader::bytes`].
pub(crate) fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).expect("a field of our own files is shorter than 4 GiB");
    out.put_u32_le(length);
    out.put_slice(bytes);
}

/// The counterpart of [`FieldReader::string`].
pub(crate) fn put_string(out: &mut BytesMut, text: &str) {
    let length = u16::try_from(text.len()).expect("names are checked to be shorter than 64 KiB where they enter");
    out.put_u16_le(length);
    out.put_slice(text.as_bytes());
}
