//! What the generated code needs in scope, and how each element of an array is read and written.

pub(crate) use crate::api::ApiKey;
pub(crate) use crate::data::{Data, RecordKey};
pub(crate) use crate::decoder::{DecodeError, Decoder};
pub(crate) use crate::encoder::{EncodeError, Encoder};
pub(crate) use crate::message::{Message, Request};
pub(crate) use crate::records::Records;
pub(crate) use crate::text::Str;
pub(crate) use bytes::Bytes;

/// What can stand in an array or be a field's struct. Sealed: implemented here and by the generated code.
#[doc(hidden)]
pub trait Element: Sized + Default {
    /// The fewest bytes that one takes in this version: it bounds an array's length by the bytes left.
    fn min_bytes(version: i16) -> usize;
    fn read(decoder: &mut Decoder, version: i16) -> Result<Self, DecodeError>;
    fn write(&self, encoder: &mut Encoder, version: i16) -> Result<(), EncodeError>;
}

/// The error for a value in a field that the version does not have.
#[cold]
pub(crate) fn no_place(field: &'static str, version: i16) -> EncodeError {
    EncodeError::NoSuchField { field, version }
}

macro_rules! integer_elements {
    ($($ty:ty, $bytes:literal, $method:ident;)*) => { $(
        impl Element for $ty {
            fn min_bytes(_: i16) -> usize {
                $bytes
            }
            fn read(decoder: &mut Decoder, _: i16) -> Result<Self, DecodeError> {
                decoder.$method()
            }
            fn write(&self, encoder: &mut Encoder, _: i16) -> Result<(), EncodeError> {
                encoder.$method(*self);
                Ok(())
            }
        }
    )* };
}

integer_elements! {
    i8, 1, int8;
    i32, 4, int32;
    i64, 8, int64;
}

impl Element for Str {
    fn min_bytes(_: i16) -> usize {
        1
    }
    fn read(decoder: &mut Decoder, _: i16) -> Result<Self, DecodeError> {
        decoder.string()
    }
    fn write(&self, encoder: &mut Encoder, _: i16) -> Result<(), EncodeError> {
        encoder.string(self, "an array of strings")
    }
}
