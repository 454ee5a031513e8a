//! What brokers tell each other of leaders.
//!
//! ```text
//! Message { 1: all bool, 2: repeated Said, 3: repeated asks u64 }          (protobuf)
//! Said    { 1: group u64, 2: term u64, 3: standing u32: 1 leads, 2 serves, 3 gave up }
//! ```
//!
//! A message is about groups that its sender leads, or has led. With `all` it names every group that it leads: it goes
//! to a broker that has just come, and what is not in it the sender leads no more. In `asks` are groups whose leader
//! the receiver has: replicas of the sender do not know how far what they have is committed.

use std::collections::BTreeSet;

use bytes::Bytes;
use millpond_record::{BrokerId, GroupId, Term};
use prost::Message as _;

use crate::leaders::{News, Standing};

/// The longest message, with half a million groups. Decoded it takes a multiple of its bytes.
const MAX_BYTES: usize = 8 << 20;

#[derive(Clone, PartialEq, prost::Message)]
struct Message {
    #[prost(bool, tag = "1")]
    all: bool,
    #[prost(message, repeated, tag = "2")]
    said: Vec<Said>,
    #[prost(uint64, repeated, tag = "3")]
    asks: Vec<u64>,
}

/// What one broker tells another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    /// The news is all that it leads.
    pub(crate) all: bool,
    pub(crate) news: Vec<News>,
    /// The leaders of these groups are to say how far they are committed.
    pub(crate) asks: BTreeSet<GroupId>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct Said {
    #[prost(uint64, tag = "1")]
    group: u64,
    #[prost(uint64, tag = "2")]
    term: u64,
    #[prost(uint32, tag = "3")]
    standing: u32,
}

pub(crate) fn encode(told: &Told) -> Bytes {
    let said = told.news.iter().map(|news| Said {
        group: news.group.0,
        term: news.term.0,
        standing: match news.standing {
            Standing::Leads => 1,
            Standing::Serves => 2,
            // The latter is what nobody says of himself.
            Standing::GaveUp | Standing::Unnamed => 3,
        },
    });
    let asks = told.asks.iter().map(|group| group.0);
    Message { all: told.all, said: said.collect(), asks: asks.collect() }.encode_to_vec().into()
}

/// What a broker says; `None` for what is not such a message.
pub(crate) fn decode(from: BrokerId, message: Bytes) -> Option<Told> {
    if message.len() > MAX_BYTES {
        return None;
    }
    let message = Message::decode(message).ok()?;
    let news = message.said.into_iter().map(|said| {
        let standing = match said.standing {
            1 => Standing::Leads,
            2 => Standing::Serves,
            3 => Standing::GaveUp,
            _ => return None,
        };
        Some(News { group: GroupId(said.group), term: Term(said.term), broker: from, standing })
    });
    let asks = message.asks.into_iter().map(GroupId).collect();
    Some(Told { all: message.all, news: news.collect::<Option<_>>()?, asks })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_heard() {
        let broker = BrokerId(3);
        let news = |group, standing| News { group: GroupId(group), term: Term(group + 1), broker, standing };
        let said = [news(1, Standing::Leads), news(2, Standing::Serves), news(3, Standing::GaveUp)];
        for told in [
            Told { all: true, news: said.to_vec(), asks: BTreeSet::new() },
            Told { all: false, news: Vec::new(), asks: BTreeSet::from([GroupId(0), GroupId(7)]) },
            Told::default(),
        ] {
            assert_eq!(decode(broker, encode(&told)), Some(told));
        }
        assert_eq!(decode(broker, Bytes::from_static(b"\xff\xff\xff")), None);
        let long = Message { asks: vec![u64::MAX; MAX_BYTES / 8], ..Message::default() };
        assert_eq!(decode(broker, long.encode_to_vec().into()), None);
        let unknown = Message { said: vec![Said { group: 1, term: 1, standing: 9 }], ..Message::default() };
        assert_eq!(decode(broker, unknown.encode_to_vec().into()), None);
    }
}
