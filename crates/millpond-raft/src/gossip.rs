//! What brokers tell each other of leaders.
//!
//! ```text
//! Message { 1: all bool, 2: repeated Said }          (protobuf)
//! Said    { 1: group u64, 2: term u64, 3: standing u32: 1 leads, 2 serves, 3 gave up }
//! ```
//!
//! A message is about groups that its sender leads, or has led. With `all` it names every group that it leads: it goes
//! to a broker that has just come, and what is not in it the sender leads no more.

use bytes::Bytes;
use millpond_record::{BrokerId, GroupId, Term};
use prost::Message as _;

use crate::leaders::{News, Standing};

#[derive(Clone, PartialEq, prost::Message)]
struct Message {
    #[prost(bool, tag = "1")]
    all: bool,
    #[prost(message, repeated, tag = "2")]
    said: Vec<Said>,
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

pub(crate) fn encode(all: bool, news: &[News]) -> Bytes {
    let said = news.iter().map(|news| Said {
        group: news.group.0,
        term: news.term.0,
        standing: match news.standing {
            Standing::Leads => 1,
            Standing::Serves => 2,
            Standing::GaveUp => 3,
        },
    });
    Message { all, said: said.collect() }.encode_to_vec().into()
}

/// What a broker says: whether it is all, and of which groups. `None` for what is not such a message.
pub(crate) fn decode(from: BrokerId, message: Bytes) -> Option<(bool, Vec<News>)> {
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
    Some((message.all, news.collect::<Option<_>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_heard() {
        let broker = BrokerId(3);
        let news = |group, standing| News { group: GroupId(group), term: Term(group + 1), broker, standing };
        let said = [news(1, Standing::Leads), news(2, Standing::Serves), news(3, Standing::GaveUp)];
        assert_eq!(decode(broker, encode(true, &said)), Some((true, said.to_vec())));
        assert_eq!(decode(broker, encode(false, &[])), Some((false, Vec::new())));
        assert_eq!(decode(broker, Bytes::from_static(b"\xff\xff\xff")), None);
        let unknown = Message { all: false, said: vec![Said { group: 1, term: 1, standing: 9 }] };
        assert_eq!(decode(broker, unknown.encode_to_vec().into()), None);
    }
}
