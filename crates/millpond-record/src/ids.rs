//! Positions, ids and epochs. Each is a number with a name, so that one cannot be taken for another.

use std::fmt;
use std::str::FromStr;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

number! {
    /// The position of a record in its partition, as clients know it. Zero or above.
    Offset(i64)
}
number! {
    /// The position of an entry in the Raft log of its group. Every batch is one entry.
    RaftIndex(u64)
}
number! {
    /// A Raft term. At most one leader is elected in each.
    Term(u64)
}
number! {
    /// What Kafka calls the leader epoch of a partition: the Raft term, see [`Term::leader_epoch`].
    LeaderEpoch(i32)
}
number! {
    /// A Raft group: one partition, or the metadata (group 0). Never reused.
    GroupId(u64)
}
number! {
    /// A member of a Raft group. Allocated by the metadata group, never reused.
    ReplicaId(u64)
}
number! {
    /// A broker, by Kafka's `node.id`.
    BrokerId(i32)
}
number! {
    /// The number of a partition within its topic, from 0.
    PartitionIndex(i32)
}
number! {
    /// The id of an idempotent or transactional producer; -1 for a producer without one.
    ProducerId(i64)
}
number! {
    /// The epoch of a producer id; -1 for a producer without one.
    ProducerEpoch(i16)
}
number! {
    /// Milliseconds since 1970 UTC; -1 where a record carries no time.
    Timestamp(i64)
}
number! {
    /// A byte position in a file.
    FilePosition(u64)
}

impl ProducerId {
    /// The producer has no id: neither idempotent nor transactional.
    pub const NONE: ProducerId = ProducerId(-1);

    /// Whether there is a producer id, so that sequences are checked.
    pub fn is_some(self) -> bool {
        self.0 >= 0
    }
}

impl ProducerEpoch {
    /// The epoch beside [`ProducerId::NONE`].
    pub const NONE: ProducerEpoch = ProducerEpoch(-1);
}

impl Timestamp {
    /// No time.
    pub const NONE: Timestamp = Timestamp(-1);
}

impl LeaderEpoch {
    /// What a producer writes where the broker will stamp the epoch.
    pub const NONE: LeaderEpoch = LeaderEpoch(-1);
}

impl Term {
    /// The largest term that has a leader epoch.
    pub const MAX: Term = Term(i32::MAX as u64);

    /// The leader epoch of this term.
    ///
    /// # Panics
    ///
    /// Beyond [`Term::MAX`] (2³¹ − 1): a term counts elections and cannot get there, and an epoch that wraps would make
    /// clients go back in time. Terms read from disk or from a peer are held to the limit where they are read.
    pub fn leader_epoch(self) -> LeaderEpoch {
        LeaderEpoch(i32::try_from(self.0).expect("a term counts elections and stays below 2^31"))
    }
}

/// The identity of an entry in a Raft log: two logs that share it are equal up to it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct LogId {
    /// The term of the leader that proposed the entry. Compared first: a later term is a longer log.
    pub term: Term,
    /// The position of the entry.
    pub index: RaftIndex,
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.term, self.index)
    }
}

/// A topic's id: 16 random bytes, given when the topic is created (KIP-516). Shown as Kafka shows it, in base64url.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TopicId(pub [u8; 16]);

impl TopicId {
    /// No topic id.
    pub const ZERO: TopicId = TopicId([0; 16]);
}

/// A text that is not a topic id: not 22 characters of base64url for 16 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a topic id is 16 bytes in base64url: 22 characters of A-Z, a-z, 0-9, '-', '_'")]
pub struct InvalidTopicId;

const BASE64URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const TOPIC_ID_CHARS: usize = 22;

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // 128 bits in 22 digits of 6: the last four bits are padding.
        let bits = u128::from_be_bytes(self.0);
        for digit in 0..TOPIC_ID_CHARS {
            let shift = 122 - 6 * digit as i32;
            let value = if shift >= 0 { bits >> shift } else { bits << -shift } & 63;
            write!(f, "{}", char::from(BASE64URL[value as usize]))?;
        }
        Ok(())
    }
}

impl fmt::Debug for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TopicId({self})")
    }
}

impl FromStr for TopicId {
    type Err = InvalidTopicId;

    fn from_str(text: &str) -> Result<TopicId, InvalidTopicId> {
        if text.len() != TOPIC_ID_CHARS {
            return Err(InvalidTopicId);
        }
        let mut bits = 0u128;
        for (at, byte) in text.bytes().enumerate() {
            let value = BASE64URL.iter().position(|&c| c == byte).ok_or(InvalidTopicId)? as u128;
            if at < TOPIC_ID_CHARS - 1 {
                bits = bits << 6 | value;
            } else if value & 15 == 0 {
                bits = bits << 2 | value >> 4;
            } else {
                return Err(InvalidTopicId);
            }
        }
        Ok(TopicId(bits.to_be_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_topic_id_reads_as_kafka_prints_it() {
        // The reserved ids of Kafka's Uuid class: the metadata topic is 0…01.
        let metadata = TopicId(1u128.to_be_bytes());
        assert_eq!(metadata.to_string(), "AAAAAAAAAAAAAAAAAAAAAQ");
        assert_eq!(TopicId::ZERO.to_string(), "AAAAAAAAAAAAAAAAAAAAAA");
        assert_eq!(TopicId([0xff; 16]).to_string(), "_____________________w");
        let counting = TopicId([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
        assert_eq!(counting.to_string(), "AAECAwQFBgcICQoLDA0ODw");
    }

    #[test]
    fn a_text_that_is_no_topic_id_is_refused() {
        for text in
            ["", "AAAAAAAAAAAAAAAAAAAAA", "AAAAAAAAAAAAAAAAAAAAAAA", "AAAAAAAAAAAAAAAAAAAAA+", "AAAAAAAAAAAAAAAAAAAAAB"]
        {
            assert_eq!(text.parse::<TopicId>(), Err(InvalidTopicId), "{text:?}");
        }
    }

    #[test]
    fn a_later_term_is_a_greater_log_id_whatever_the_index() {
        let earlier = LogId { term: Term(3), index: RaftIndex(900) };
        let later = LogId { term: Term(4), index: RaftIndex(7) };
        assert!(earlier < later);
        assert_eq!(later.to_string(), "4/7");
    }

    #[test]
    fn the_leader_epoch_is_the_term() {
        assert_eq!(Term(7).leader_epoch(), LeaderEpoch(7));
        assert_eq!(Term::MAX.leader_epoch(), LeaderEpoch(i32::MAX));
    }

    proptest! {
        #[test]
        fn a_topic_id_survives_its_text(bytes: [u8; 16]) {
            prop_assert_eq!(TopicId(bytes).to_string().parse(), Ok(TopicId(bytes)));
        }
    }
}
