//! What consumers put into the opaque bytes of a classic group. Other protocol types put what they like.

use std::collections::BTreeSet;

use bytes::Bytes;
use millpond_record::PartitionIndex;
use millpond_wire::consumer_protocol_assignment::{ConsumerProtocolAssignment, TopicPartition};
use millpond_wire::consumer_protocol_subscription::ConsumerProtocolSubscription;
use millpond_wire::{Data, Str};

/// The protocol type of consumers; others have groups too, Kafka Connect for one.
pub(crate) const CONSUMER: &str = "consumer";

/// Longer bytes are not looked into: decoding takes many times their memory.
const MAX_PARSED_BYTES: usize = 1 << 20;

/// What a member's metadata says; none when it is no consumer's subscription.
pub(crate) fn subscription(metadata: &Bytes) -> Option<ConsumerProtocolSubscription> {
    if metadata.len() > MAX_PARSED_BYTES {
        return None;
    }
    ConsumerProtocolSubscription::from_bytes_or_newer(metadata.clone()).ok()
}

/// The topics that a member's metadata names; none when it is no consumer's subscription.
pub(crate) fn subscribed_topics(metadata: &Bytes) -> Option<BTreeSet<Str>> {
    Some(subscription(metadata)?.topics.iter().map(Str::detached).collect())
}

/// An assignment as consumers read it, in the version in which this metadata was written.
pub(crate) fn assignment_bytes(partitions: &[(Str, Vec<i32>)], metadata: &Bytes) -> Bytes {
    let version = metadata.first_chunk().map_or(0, |bytes| i16::from_be_bytes(*bytes));
    let version = version.clamp(ConsumerProtocolAssignment::MIN, ConsumerProtocolAssignment::MAX);
    let topics = partitions
        .iter()
        .map(|(topic, partitions)| TopicPartition { topic: topic.clone(), partitions: partitions.clone() });
    let assignment = ConsumerProtocolAssignment { assigned_partitions: topics.collect(), user_data: None };
    assignment.to_bytes(version).expect("names of topics are short")
}

/// The partitions that an assignment names; none when it is no consumer's assignment. A consumer's empty assignment may
/// also be no bytes at all.
pub(crate) fn assigned_partitions(assignment: &Bytes) -> Option<Vec<(Str, PartitionIndex)>> {
    if assignment.is_empty() {
        return Some(Vec::new());
    }
    if assignment.len() > MAX_PARSED_BYTES {
        return None;
    }
    let assignment = ConsumerProtocolAssignment::from_bytes_or_newer(assignment.clone()).ok()?;
    let topics = assignment.assigned_partitions.into_iter();
    let partitions = topics.flat_map(|one| {
        let topic = one.topic.detached();
        one.partitions.into_iter().map(move |partition| (topic.clone(), PartitionIndex(partition)))
    });
    Some(partitions.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subscription_is_read_whatever_follows_and_garbage_is_none() {
        let of = |bytes: &'static [u8]| subscribed_topics(&Bytes::from_static(bytes));
        let topics = |names: &[&str]| Some(names.iter().map(|&name| Str::from(name)).collect::<BTreeSet<_>>());
        assert_eq!(of(b"\0\0\0\0\0\x02\0\x01b\0\x01a\xff\xff\xff\xff"), topics(&["a", "b"]));
        assert_eq!(of(b"\0\0\0\0\0\0\xff\xff\xff\xffand more"), topics(&[]));
        assert_eq!(of(b""), None);
        assert_eq!(of(b"changed"), None);
        assert_eq!(of(b"\xff\xff\0\0\0\0"), None);
        assert_eq!(of(b"\0\0\x7f\xff\xff\xff"), None, "a count that the bytes do not bear out");
    }

    #[test]
    fn an_assignment_names_its_partitions() {
        let of = |bytes: &'static [u8]| assigned_partitions(&Bytes::from_static(bytes));
        let bytes = b"\0\0\0\0\0\x01\0\x01t\0\0\0\x02\0\0\0\x01\0\0\0\x03\xff\xff\xff\xff";
        let t = Str::from("t");
        assert_eq!(of(bytes), Some(vec![(t.clone(), PartitionIndex(1)), (t, PartitionIndex(3))]));
        assert_eq!(of(b""), Some(Vec::new()));
        assert_eq!(of(b"all"), None);
    }
}
