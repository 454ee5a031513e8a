//! Every message in every version against the crate `kafka-protocol`: the same bytes, read alike.

mod samples;

use std::fmt::Debug;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages as theirs;
use kafka_protocol::protocol::{Decodable, Encodable, Message as TheirMessage};
use millpond_wire::{Decoder, Encoder, Message};
use samples::{Arbitrary, Random, for_each_message};

const VALUES_PER_VERSION: u64 = 40;

/// The versions that `kafka-protocol` 0.18 does not know yet. `by_specification.rs` reads these, like all others, by
/// Kafka's own specifications.
const NOT_COVERED: &[(&str, i16)] = &[
    ("DescribeShareGroupOffsetsRequest", 1),
    ("DescribeShareGroupOffsetsResponse", 1),
    ("InitProducerIdRequest", 6),
    ("ListOffsetsRequest", 11),
    ("ListOffsetsResponse", 11),
    ("OffsetCommitRequest", 10),
    ("OffsetFetchRequest", 10),
    ("ShareAcknowledgeRequest", 2),
    ("ShareAcknowledgeResponse", 2),
    ("ShareFetchRequest", 2),
    ("ShareFetchResponse", 2),
    ("WriteTxnMarkersRequest", 2),
    ("WriteTxnMarkersResponse", 2),
];

fn encode<M: Message>(value: &M, version: i16) -> Bytes {
    let mut encoder = Encoder::new();
    value.encode(&mut encoder, version).expect("a value made for this version");
    encoder.finish().to_bytes()
}

fn decode<M: Message>(bytes: Bytes, version: i16) -> M {
    let mut decoder = Decoder::new(bytes);
    let value = M::decode(&mut decoder, version).unwrap_or_else(|error| panic!("{} {version}: {error}", M::NAME));
    decoder.finish().unwrap_or_else(|error| panic!("{} {version}: {error}", M::NAME));
    value
}

/// Compares all versions of one message, and returns those that the other crate does not have.
fn compare<Ours, Theirs>() -> Vec<(&'static str, i16)>
where
    Ours: Message + Arbitrary + PartialEq + Debug,
    Theirs: TheirMessage + Encodable + Decodable + PartialEq + Debug,
{
    let mut missing = Vec::new();
    for version in Ours::MIN..=Ours::MAX {
        if !(Theirs::VERSIONS.min..=Theirs::VERSIONS.max).contains(&version) {
            missing.push((Ours::NAME, version));
            continue;
        }
        for seed in 0..VALUES_PER_VERSION {
            let value = Ours::arbitrary(&mut Random(seed << 16 | version as u64), version);
            let bytes = encode(&value, version);
            let mut rest = bytes.clone();
            let context = || format!("{} {version}, seed {seed}: {value:?}", Ours::NAME);
            let read = Theirs::decode(&mut rest, version).unwrap_or_else(|error| panic!("{error}: {}", context()));
            assert!(rest.is_empty(), "{} bytes are left: {}", rest.len(), context());
            let mut again = BytesMut::new();
            read.encode(&mut again, version).unwrap_or_else(|error| panic!("{error}: {}", context()));
            assert_eq!(again.freeze(), bytes, "{}", context());
            assert_eq!(decode::<Ours>(bytes, version), value, "{}", context());
        }
    }
    missing
}

#[test]
fn every_message_in_every_version_has_the_bytes_that_kafka_protocol_writes() {
    let mut missing = Vec::new();
    macro_rules! visit {
        ($module:ident, $message:ident) => {
            missing.extend(compare::<millpond_wire::$module::$message, theirs::$message>());
        };
    }
    for_each_message!(visit);
    missing.sort();
    assert_eq!(missing, NOT_COVERED, "what the other crate cannot check must be listed");
}
