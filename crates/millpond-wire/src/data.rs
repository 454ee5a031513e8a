//! Structures that stand behind their version instead of in a request: records of coordinators, consumers' own bytes.

use bytes::Bytes;

use crate::codec::Element;
use crate::decoder::{DecodeError, Decoder};
use crate::encoder::{EncodeError, Encoder};

/// A structure with a version of its own in front: two bytes, then the fields.
pub trait Data: Element {
    /// Kafka's name, as `OffsetCommitValue`.
    const NAME: &'static str;
    /// The versions that Kafka's specification has.
    const MIN: i16;
    const MAX: i16;
    /// The first version with compact lengths and tagged fields; `i16::MAX` when there is none.
    const FIRST_FLEXIBLE: i16;

    /// Reads the fields of a version; what follows them stays in the decoder.
    ///
    /// # Errors
    /// [`DecodeError::UnsupportedData`] for a version outside [`MIN`](Data::MIN) to [`MAX`](Data::MAX); otherwise what
    /// is wrong with the bytes.
    fn decode_fields(decoder: &mut Decoder, version: i16) -> Result<Self, DecodeError> {
        if !(Self::MIN..=Self::MAX).contains(&version) {
            return Err(DecodeError::UnsupportedData { name: Self::NAME, version });
        }
        decoder.set_flexible(version >= Self::FIRST_FLEXIBLE);
        Self::read(decoder, version)
    }

    /// Reads the version and the fields, and refuses bytes behind them.
    ///
    /// # Errors
    /// As [`decode_fields`](Data::decode_fields).
    fn from_bytes(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut decoder = Decoder::new(bytes);
        let version = decoder.int16()?;
        let value = Self::decode_fields(&mut decoder, version)?;
        decoder.finish()?;
        Ok(value)
    }

    /// Reads bytes in which a later version may stand that only adds fields at the end, as consumers do it with their
    /// own: a newer version is read as [`MAX`](Data::MAX), and what follows is left alone.
    ///
    /// # Errors
    /// As [`decode_fields`](Data::decode_fields).
    fn from_bytes_or_newer(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut decoder = Decoder::new(bytes);
        let version = decoder.int16()?;
        Self::decode_fields(&mut decoder, version.min(Self::MAX))
    }

    /// The version and the fields.
    ///
    /// # Errors
    /// [`EncodeError::UnsupportedData`] for a version that there is not; otherwise as for messages.
    fn to_bytes(&self, version: i16) -> Result<Bytes, EncodeError> {
        if !(Self::MIN..=Self::MAX).contains(&version) {
            return Err(EncodeError::UnsupportedData { name: Self::NAME, version });
        }
        behind(version, self, version, version >= Self::FIRST_FLEXIBLE)
    }
}

/// The key of a record. In front stands the kind of record, not a version; the fields are always those of version 0.
pub trait RecordKey: Data {
    /// Which kind of record this is a key of.
    const KIND: i16;

    /// The kind and the fields.
    ///
    /// # Errors
    /// [`EncodeError::TooLong`] for a string of 32 KiB or more.
    fn to_key_bytes(&self) -> Result<Bytes, EncodeError> {
        behind(Self::KIND, self, 0, Self::FIRST_FLEXIBLE <= 0)
    }

    /// Reads the kind and the fields, and refuses bytes behind them.
    ///
    /// # Errors
    /// [`DecodeError::OtherRecord`] for another kind; otherwise what is wrong with the bytes.
    fn from_key_bytes(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut decoder = Decoder::new(bytes);
        let kind = decoder.int16()?;
        if kind != Self::KIND {
            return Err(DecodeError::OtherRecord { name: Self::NAME, kind });
        }
        let key = Self::decode_fields(&mut decoder, 0)?;
        decoder.finish()?;
        Ok(key)
    }
}

fn behind<T: Element>(prefix: i16, value: &T, version: i16, flexible: bool) -> Result<Bytes, EncodeError> {
    let mut encoder = Encoder::with_capacity(128);
    encoder.int16(prefix);
    encoder.set_flexible(flexible);
    value.write(&mut encoder, version)?;
    Ok(encoder.finish().to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consumer_protocol_subscription::ConsumerProtocolSubscription;
    use crate::offset_commit_key::OffsetCommitKey;
    use crate::offset_commit_value::OffsetCommitValue;
    use crate::text::Str;

    #[test]
    fn a_key_starts_with_its_kind_and_a_value_with_its_version() {
        let key = OffsetCommitKey { group: Str::from("g"), topic: Str::from("t"), partition: 3 };
        let bytes = key.to_key_bytes().expect("short");
        assert_eq!(bytes, Bytes::from_static(b"\0\x01\0\x01g\0\x01t\0\0\0\x03"));
        assert_eq!(OffsetCommitKey::from_key_bytes(bytes.clone()), Ok(key));
        let other = crate::group_metadata_key::GroupMetadataKey::from_key_bytes(bytes);
        assert_eq!(other, Err(DecodeError::OtherRecord { name: "GroupMetadataKey", kind: 1 }));

        let value = OffsetCommitValue { offset: 5, leader_epoch: 2, commit_timestamp: 7, ..Default::default() };
        for version in 0..=4 {
            let bytes = value.to_bytes(version).expect("it may drop the leader epoch");
            assert_eq!(bytes[..2], version.to_be_bytes());
            let read = OffsetCommitValue::from_bytes(bytes.clone()).expect("just written");
            assert_eq!((read.offset, read.commit_timestamp), (5, 7), "version {version}");
            assert_eq!(read.leader_epoch, if version >= 3 { 2 } else { -1 }, "version {version}");
            let cut = OffsetCommitValue::from_bytes(bytes.slice(..bytes.len() - 1));
            assert!(cut.is_err(), "version {version}");
        }
    }

    #[test]
    fn a_version_that_there_is_not_is_refused_and_so_are_bytes_behind_a_value() {
        let name = "OffsetCommitValue";
        let value = OffsetCommitValue::default();
        assert_eq!(value.to_bytes(5), Err(EncodeError::UnsupportedData { name, version: 5 }));
        let refused = |bytes: &'static [u8]| OffsetCommitValue::from_bytes(Bytes::from_static(bytes));
        assert_eq!(refused(b"\0\x05"), Err(DecodeError::UnsupportedData { name, version: 5 }));
        assert_eq!(refused(b"\xff\xff"), Err(DecodeError::UnsupportedData { name, version: -1 }));
        let mut bytes = value.to_bytes(3).expect("short").to_vec();
        bytes.push(0);
        assert_eq!(OffsetCommitValue::from_bytes(bytes.into()), Err(DecodeError::TrailingBytes { left: 1 }));
    }

    #[test]
    fn what_a_newer_consumer_wrote_is_read_as_far_as_it_is_known() {
        let subscription = ConsumerProtocolSubscription { topics: vec![Str::from("t")], ..Default::default() };
        let mut bytes = subscription.to_bytes(3).expect("short").to_vec();
        bytes[1] = 9;
        bytes.extend_from_slice(b"a field to come");
        assert!(ConsumerProtocolSubscription::from_bytes(bytes.clone().into()).is_err());
        assert_eq!(ConsumerProtocolSubscription::from_bytes_or_newer(bytes.into()), Ok(subscription));
    }
}
