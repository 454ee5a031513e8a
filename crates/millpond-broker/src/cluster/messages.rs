//! What brokers of a cluster ask of each other, in protobuf.
//!
//! | service | request | answer |
//! | --- | --- | --- |
//! | 1 HELLO | [`Hello`]: who is asking, and what it knows | the other's [`Hello`] |
//! | 2 JOIN | [`Join`]: a broker that starts registers | [`JoinAnswer`] |
//! | 3 KAFKA | [`Forwarded`]: a client's request that the controller is to carry out | [`Answered`] |
//! | 4 TOPICS | [`Topics`]: topics that a broker needs | [`Answered`] |
//! | 5 PRODUCER_IDS | nothing | [`Answered`], with a [`Block`] |
//! | 6 SETTLED | [`Settled`]: a partition has the replicas that it should have | [`Answered`] |
//! | 7 TRANSFER | [`Transfer`]: hand the lead of a partition to another broker | nothing |
//! | 8 ADMIN | [`Admin`]: what an operator asks for over HTTP | [`Answered`], with an [`AdminAnswer`] |
//! | 9 CONFIRM | nothing | [`Answered`], with [`Confirmed`]: how far the metadata is, by what was just written |
//! | 10 LOST | [`Lost`]: the copy of a replica cannot be used any more | [`Answered`] |
//! | 11 KNOWN | [`Confirmed`]: the metadata is at least there | nothing, once it is so here |
//! | 12 REMAINS | [`RemainsWanted`]: what there is of a partition here | [`RemainsAnswer`] |
//! | 13 TRUST | [`Trust`]: a replica that may miss what it acknowledged takes part again | nothing |
//! | 20 EDGES | [`EdgesWanted`]: where partitions end, and how old what was not read is | [`EdgesAnswer`] |
//!
//! All but HELLO, TRANSFER, KNOWN, REMAINS, TRUST and EDGES are for the controller; a JOIN is passed on to it.

use std::collections::BTreeMap;

use bytes::Bytes;
use millpond_cluster::{DirectoryId, NewTopic, Registration};
use millpond_record::{BrokerId, ReplicaId};
use millpond_runtime::HostPort;
use prost::Message;

use super::admin::Wish;

pub(crate) const HELLO: u16 = 1;
pub(crate) const JOIN: u16 = 2;
pub(crate) const KAFKA: u16 = 3;
pub(crate) const TOPICS: u16 = 4;
pub(crate) const PRODUCER_IDS: u16 = 5;
pub(crate) const SETTLED: u16 = 6;
pub(crate) const TRANSFER: u16 = 7;
pub(crate) const ADMIN: u16 = 8;
pub(crate) const CONFIRM: u16 = 9;
pub(crate) const LOST: u16 = 10;
pub(crate) const KNOWN: u16 = 11;
pub(crate) const REMAINS: u16 = 12;
pub(crate) const TRUST: u16 = 13;
pub(crate) const EDGES: u16 = 20;

/// A broker and where its peers reach it.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Place {
    #[prost(int32, tag = "1")]
    pub(crate) broker: i32,
    #[prost(string, tag = "2")]
    pub(crate) address: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Hello {
    #[prost(message, optional, tag = "1")]
    pub(crate) me: Option<Place>,
    /// The cluster that the data directory belongs to, if it does to any.
    #[prost(string, optional, tag = "2")]
    pub(crate) cluster_id: Option<String>,
    /// It has a replica of the cluster's metadata. One without holds nothing of any cluster.
    #[prost(bool, tag = "3")]
    pub(crate) holds_metadata: bool,
    /// `millpond.peers`.
    #[prost(message, repeated, tag = "4")]
    pub(crate) founders: Vec<Place>,
    /// The brokers of its cluster that it knows.
    #[prost(message, repeated, tag = "5")]
    pub(crate) known: Vec<Place>,
    /// The data directory's id.
    #[prost(bytes = "bytes", tag = "6")]
    pub(crate) directory: Bytes,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Join {
    #[prost(int32, tag = "1")]
    pub(crate) broker: i32,
    #[prost(string, tag = "2")]
    pub(crate) host: String,
    #[prost(uint32, tag = "3")]
    pub(crate) port: u32,
    #[prost(string, tag = "4")]
    pub(crate) peer: String,
    #[prost(bytes = "bytes", tag = "5")]
    pub(crate) directory: Bytes,
    #[prost(string, optional, tag = "6")]
    pub(crate) rack: Option<String>,
    #[prost(string, tag = "7")]
    pub(crate) cluster_id: String,
    /// The replica of group 0 that the data directory holds, if it holds one.
    #[prost(uint64, optional, tag = "8")]
    pub(crate) metadata_replica: Option<u64>,
}

impl Join {
    pub(crate) fn new(registration: &Registration, cluster_id: &str) -> Join {
        Join {
            broker: registration.id.0,
            host: registration.host.clone(),
            port: registration.port.into(),
            peer: registration.peer.clone(),
            directory: Bytes::copy_from_slice(&registration.directory.0),
            rack: registration.rack.clone(),
            cluster_id: cluster_id.to_owned(),
            metadata_replica: registration.metadata_replica.map(|replica| replica.0),
        }
    }

    /// `None` where a field is out of its range.
    pub(crate) fn registration(&self) -> Option<Registration> {
        Some(Registration {
            id: BrokerId(self.broker),
            host: self.host.clone(),
            port: self.port.try_into().ok()?,
            peer: self.peer.clone(),
            directory: DirectoryId(self.directory.as_ref().try_into().ok()?),
            rack: self.rack.clone(),
            metadata_replica: self.metadata_replica.map(ReplicaId),
        })
    }
}

/// One of the three.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct JoinAnswer {
    #[prost(message, optional, tag = "1")]
    pub(crate) accepted: Option<Accepted>,
    /// Why the broker must not join: a sentence for its operator.
    #[prost(string, optional, tag = "2")]
    pub(crate) refused: Option<String>,
    /// Why it cannot now.
    #[prost(string, optional, tag = "3")]
    pub(crate) not_now: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Accepted {
    #[prost(uint64, tag = "1")]
    pub(crate) metadata_replica: u64,
    /// The index of group 0 at which the broker is registered.
    #[prost(uint64, optional, tag = "2")]
    pub(crate) index: Option<u64>,
    /// All brokers of the cluster.
    #[prost(message, repeated, tag = "3")]
    pub(crate) brokers: Vec<Place>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Forwarded {
    /// Where the client is.
    #[prost(string, tag = "1")]
    pub(crate) client: String,
    /// The request without its length.
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) frame: Bytes,
}

/// What the controller did.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Answered {
    /// The broker that was asked is not the controller; nothing was done.
    #[prost(bool, tag = "1")]
    pub(crate) not_here: bool,
    /// The index of group 0 at which the answer holds.
    #[prost(uint64, optional, tag = "2")]
    pub(crate) index: Option<u64>,
    #[prost(bytes = "bytes", tag = "3")]
    pub(crate) body: Bytes,
    /// The controller lost its office meanwhile, or stops: it may have been done, and may not.
    #[prost(bool, tag = "4")]
    pub(crate) unknown: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Topics {
    #[prost(message, repeated, tag = "1")]
    pub(crate) topics: Vec<WantedTopic>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct WantedTopic {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(sint32, tag = "2")]
    pub(crate) partitions: i32,
    #[prost(sint32, tag = "3")]
    pub(crate) replication_factor: i32,
    #[prost(btree_map = "string, string", tag = "4")]
    pub(crate) configs: BTreeMap<String, String>,
}

impl WantedTopic {
    /// Of topics that brokers make for themselves: without assignments, and with a value for each setting.
    pub(crate) fn new(topic: &NewTopic) -> WantedTopic {
        let configs = topic.configs.iter().filter_map(|(name, value)| Some((name.clone(), value.clone()?)));
        WantedTopic {
            name: topic.name.clone(),
            partitions: topic.partitions,
            replication_factor: topic.replication_factor.into(),
            configs: configs.collect(),
        }
    }

    pub(crate) fn topic(self) -> NewTopic {
        NewTopic {
            name: self.name,
            partitions: self.partitions,
            replication_factor: i16::try_from(self.replication_factor).unwrap_or(0),
            assignments: Vec::new(),
            configs: self.configs.into_iter().map(|(name, value)| (name, Some(value))).collect(),
        }
    }
}

/// Producer ids that belong to the broker that asked.
#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct Block {
    #[prost(int64, tag = "1")]
    pub(crate) first: i64,
    #[prost(uint32, tag = "2")]
    pub(crate) count: u32,
}

/// Everything that was decided before the question is at or below this index of group 0.
#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct Confirmed {
    #[prost(uint64, tag = "1")]
    pub(crate) index: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Settled {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) topic: Bytes,
    #[prost(int32, tag = "2")]
    pub(crate) partition: i32,
    #[prost(uint64, tag = "3")]
    pub(crate) group: u64,
    #[prost(uint64, tag = "4")]
    pub(crate) assignment_version: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Lost {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) topic: Bytes,
    #[prost(int32, tag = "2")]
    pub(crate) partition: i32,
    #[prost(uint64, tag = "3")]
    pub(crate) group: u64,
    #[prost(uint64, tag = "4")]
    pub(crate) replica: u64,
    /// It is whole in itself, and may miss what it acknowledged: it is replaced where a majority misses nothing.
    #[prost(bool, tag = "5")]
    pub(crate) tainted: bool,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct RemainsWanted {
    #[prost(uint64, tag = "1")]
    pub(crate) group: u64,
}

/// What there is of a partition on a broker; without a replica nothing that can be used.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct RemainsAnswer {
    #[prost(uint64, optional, tag = "1")]
    pub(crate) replica: Option<u64>,
    #[prost(bool, tag = "2")]
    pub(crate) tainted: bool,
    /// The last entry of its log.
    #[prost(message, optional, tag = "3")]
    pub(crate) last: Option<Entry>,
    /// Who votes, as its log has it: one set, or two while it changes.
    #[prost(message, repeated, tag = "4")]
    pub(crate) electorates: Vec<Electorate>,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct Entry {
    #[prost(uint64, tag = "1")]
    pub(crate) term: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) index: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Electorate {
    #[prost(uint64, repeated, tag = "1")]
    pub(crate) voters: Vec<u64>,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct Trust {
    #[prost(uint64, tag = "1")]
    pub(crate) group: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) replica: u64,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct Transfer {
    #[prost(uint64, tag = "1")]
    pub(crate) group: u64,
    /// The broker that is to lead.
    #[prost(int32, tag = "2")]
    pub(crate) to: i32,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct Admin {
    /// The broker to decommission; without any broker the cluster is rebalanced.
    #[prost(int32, optional, tag = "1")]
    pub(crate) decommission: Option<i32>,
    /// The broker that is to be decommissioned no longer.
    #[prost(int32, optional, tag = "2")]
    pub(crate) cancel_decommission: Option<i32>,
    /// The broker whose replicas that are still to move are counted.
    #[prost(int32, optional, tag = "3")]
    pub(crate) left_to_move: Option<i32>,
}

impl Admin {
    pub(crate) fn new(wish: Wish) -> Admin {
        match wish {
            Wish::Decommission(broker) => Admin { decommission: Some(broker.0), ..Admin::default() },
            Wish::CancelDecommission(broker) => Admin { cancel_decommission: Some(broker.0), ..Admin::default() },
            Wish::LeftToMove(broker) => Admin { left_to_move: Some(broker.0), ..Admin::default() },
            Wish::Rebalance => Admin::default(),
        }
    }

    pub(crate) fn wish(self) -> Wish {
        match (self.decommission, self.cancel_decommission, self.left_to_move) {
            (Some(broker), _, _) => Wish::Decommission(BrokerId(broker)),
            (None, Some(broker), _) => Wish::CancelDecommission(BrokerId(broker)),
            (None, None, Some(broker)) => Wish::LeftToMove(BrokerId(broker)),
            (None, None, None) => Wish::Rebalance,
        }
    }
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct AdminAnswer {
    #[prost(bool, tag = "1")]
    pub(crate) refused: bool,
    #[prost(string, tag = "2")]
    pub(crate) sentence: String,
    #[prost(uint64, tag = "3")]
    pub(crate) moves: u64,
}

/// Partitions that the broker which is asked leads.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct EdgesWanted {
    #[prost(message, repeated, tag = "1")]
    pub(crate) wanted: Vec<WantedEdge>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct WantedEdge {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) topic: Bytes,
    #[prost(int32, tag = "2")]
    pub(crate) partition: i32,
    /// The offset from which on a group has not read.
    #[prost(int64, optional, tag = "3")]
    pub(crate) from: Option<i64>,
}

/// One answer for each partition, in the order in which they were asked for.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct EdgesAnswer {
    #[prost(message, repeated, tag = "1")]
    pub(crate) edges: Vec<EdgeAnswer>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct EdgeAnswer {
    /// The broker leads the partition.
    #[prost(bool, tag = "1")]
    pub(crate) known: bool,
    #[prost(int64, tag = "2")]
    pub(crate) log_start: i64,
    /// The high watermark.
    #[prost(int64, tag = "3")]
    pub(crate) end: i64,
    /// The timestamp of the first record that was not read, if there is one and it was found.
    #[prost(int64, optional, tag = "4")]
    pub(crate) first_unread_ms: Option<i64>,
}

/// Brokers with addresses that can be read.
pub(crate) fn read_places(places: &[Place]) -> BTreeMap<BrokerId, HostPort> {
    let read = places.iter().filter_map(|place| Some((BrokerId(place.broker), place.address.parse().ok()?)));
    read.collect()
}

pub(crate) fn write_places(places: &BTreeMap<BrokerId, HostPort>) -> Vec<Place> {
    places.iter().map(|(broker, address)| Place { broker: broker.0, address: address.to_string() }).collect()
}

/// A message of another broker.
///
/// # Errors
/// A sentence for it.
pub(crate) fn read<M: Message + Default>(body: Bytes) -> Result<M, String> {
    M::decode(body).map_err(|error| format!("the message cannot be read: {error}"))
}

pub(crate) fn write<M: Message>(message: &M) -> Bytes {
    message.encode_to_vec().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registration_and_a_topic_come_as_they_were_sent() {
        let registration = Registration {
            id: BrokerId(3),
            host: "mill".to_owned(),
            port: 9092,
            peer: "mill:9093".to_owned(),
            directory: DirectoryId([7; 16]),
            rack: Some("r".to_owned()),
            metadata_replica: Some(ReplicaId(4)),
        };
        let join: Join = read(write(&Join::new(&registration, "c"))).expect("readable");
        assert_eq!((join.registration(), join.cluster_id.as_str()), (Some(registration), "c"));
        let topic = NewTopic {
            name: "t".to_owned(),
            partitions: -1,
            replication_factor: -1,
            assignments: Vec::new(),
            configs: vec![("a".to_owned(), Some("b".to_owned()))],
        };
        let sent: WantedTopic = read(write(&WantedTopic::new(&topic))).expect("readable");
        assert_eq!(sent.topic(), topic);
    }

    #[test]
    fn what_an_operator_wishes_comes_as_it_was_sent() {
        let of = BrokerId;
        for wish in
            [Wish::Decommission(of(0)), Wish::CancelDecommission(of(3)), Wish::LeftToMove(of(2)), Wish::Rebalance]
        {
            assert_eq!(read::<Admin>(write(&Admin::new(wish))).expect("readable").wish(), wish);
        }
    }

    #[test]
    fn what_another_broker_may_send_is_refused_not_believed() {
        let short = Join { directory: Bytes::from_static(b"short"), ..Join::default() };
        assert_eq!(short.registration(), None);
        assert_eq!(Join { port: 70_000, directory: Bytes::from(vec![0; 16]), ..Join::default() }.registration(), None);
        assert!(read::<Hello>(Bytes::from_static(&[0xff; 9])).is_err());
        let places = [Place { broker: 1, address: "nowhere".into() }, Place { broker: 2, address: "a:1".into() }];
        assert_eq!(read_places(&places).into_keys().collect::<Vec<_>>(), [BrokerId(2)]);
    }
}
