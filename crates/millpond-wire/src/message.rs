//! What every message can do.

use crate::api::ApiKey;
use crate::codec::Element;
use crate::decoder::{DecodeError, Decoder};
use crate::encoder::{EncodeError, Encoder};

/// A request or a response body.
pub trait Message: Element {
    /// Kafka's name, as `ProduceRequest`.
    const NAME: &'static str;
    const KEY: ApiKey;
    /// The versions that Kafka's specification has; what a broker advertises may differ.
    const MIN: i16;
    const MAX: i16;
    /// The first version with compact lengths and tagged fields; `i16::MAX` when there is none.
    const FIRST_FLEXIBLE: i16;

    /// Reads a message; what follows it stays in the decoder.
    fn decode(decoder: &mut Decoder, version: i16) -> Result<Self, DecodeError> {
        if !(Self::MIN..=Self::MAX).contains(&version) {
            return Err(DecodeError::UnsupportedVersion { api: Self::KEY, version });
        }
        decoder.set_flexible(version >= Self::FIRST_FLEXIBLE);
        Self::read(decoder, version)
    }

    /// Writes a message. A field that the version does not have must hold its default, unless Kafka's specification
    /// says that it may be dropped.
    fn encode(&self, encoder: &mut Encoder, version: i16) -> Result<(), EncodeError> {
        if !(Self::MIN..=Self::MAX).contains(&version) {
            return Err(EncodeError::UnsupportedVersion { api: Self::KEY, version });
        }
        encoder.set_flexible(version >= Self::FIRST_FLEXIBLE);
        self.write(encoder, version)
    }
}

/// A request, and what answers it.
pub trait Request: Message {
    type Response: Message;
}
