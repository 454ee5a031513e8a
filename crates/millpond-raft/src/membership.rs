//! The membership of a group as the payload of a Raft-only entry and in `groups.table`.
//!
//! ```text
//! Body   { 1: version u32, 2: repeated Config, 3: repeated Node }        (protobuf)
//! Config { 1: repeated voter u64 }       one; two while a joint change is on its way
//! Node   { 1: replica u64, 2: broker i32, 3: assignment version u64 }    voters and learners
//! ```
//!
//! Nothing (zero bytes) is the membership of a log that has none yet.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use millpond_record::{BrokerId, ReplicaId};
use prost::Message;

use crate::types::{Member, Membership};

const VERSION: u32 = 1;

#[derive(Clone, PartialEq, prost::Message)]
struct Body {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(message, repeated, tag = "2")]
    configs: Vec<Config>,
    #[prost(message, repeated, tag = "3")]
    nodes: Vec<Node>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Config {
    #[prost(uint64, repeated, tag = "1")]
    voters: Vec<u64>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct Node {
    #[prost(uint64, tag = "1")]
    replica: u64,
    #[prost(int32, tag = "2")]
    broker: i32,
    #[prost(uint64, tag = "3")]
    assignment_version: u64,
}

/// The membership of a group all of whose members vote.
pub(crate) fn voters(members: impl Iterator<Item = (ReplicaId, Member)>) -> Bytes {
    let members: BTreeMap<u64, Member> = members.map(|(replica, member)| (replica.0, member)).collect();
    body(vec![Config { voters: members.keys().copied().collect() }], members.iter())
}

pub(crate) fn encode(membership: &Membership) -> Bytes {
    let configs = membership.get_joint_config().iter();
    let configs = configs.map(|voters| Config { voters: voters.iter().copied().collect() }).collect();
    body(configs, membership.nodes())
}

fn body<'a>(configs: Vec<Config>, nodes: impl Iterator<Item = (&'a u64, &'a Member)>) -> Bytes {
    let nodes = nodes.map(|(replica, member)| Node {
        replica: *replica,
        broker: member.broker.0,
        assignment_version: member.assignment_version,
    });
    Body { version: VERSION, configs, nodes: nodes.collect() }.encode_to_vec().into()
}

/// Reads a membership; says in words why it cannot.
pub(crate) fn decode(bytes: Bytes) -> Result<Membership, String> {
    if bytes.is_empty() {
        return Ok(Membership::default());
    }
    let body = Body::decode(bytes).map_err(|error| error.to_string())?;
    if body.version != VERSION {
        return Err(format!("its version is {}, this millpond reads version {VERSION}", body.version));
    }
    let configs: Vec<BTreeSet<u64>> =
        body.configs.into_iter().map(|config| config.voters.into_iter().collect()).collect();
    let nodes: BTreeMap<u64, Member> = body
        .nodes
        .into_iter()
        .map(|node| {
            (node.replica, Member { broker: BrokerId(node.broker), assignment_version: node.assignment_version })
        })
        .collect();
    Membership::new(configs, nodes).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_membership_reads_back_as_it_was_written() {
        let member = |broker| Member { broker: BrokerId(broker), assignment_version: 3 };
        let nodes = BTreeMap::from([(1, member(10)), (2, member(20)), (3, member(30)), (9, member(90))]);
        let joint = vec![BTreeSet::from([1, 2, 3]), BTreeSet::from([2, 3])];
        let membership = Membership::new(joint, nodes).expect("every voter is a node");
        assert_eq!(decode(encode(&membership)), Ok(membership));
        assert_eq!(decode(Bytes::new()), Ok(Membership::default()));
    }

    #[test]
    fn the_founding_membership_is_one_voter() {
        let member = Member { broker: BrokerId(7), assignment_version: 1 };
        let membership = decode(voters([(ReplicaId(5), member)].into_iter())).expect("readable");
        assert_eq!(membership.voter_ids().collect::<Vec<_>>(), [5]);
        assert_eq!(membership.get_node(&5), Some(&member));
        assert_eq!(encode(&membership), voters([(ReplicaId(5), member)].into_iter()));
    }

    #[test]
    fn a_membership_that_cannot_be_read_is_an_error() {
        assert!(decode(Bytes::from_static(b"\xff\xff")).is_err());
        let newer = Body { version: VERSION + 1, configs: vec![], nodes: vec![] }.encode_to_vec();
        assert!(decode(newer.into()).is_err());
        let stranger =
            Body { version: VERSION, configs: vec![Config { voters: vec![4] }], nodes: vec![] }.encode_to_vec();
        assert!(decode(stranger.into()).is_err(), "a voter that is not a node");
    }
}
