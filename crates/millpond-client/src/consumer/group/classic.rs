//! A member of a classic group, as values: what its generation is, what a broker's error means for it, and what members
//! put into the opaque bytes of joining and of assignments. The group's task asks and waits.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use millpond_wire::consumer_protocol_assignment::{self, ConsumerProtocolAssignment};
use millpond_wire::consumer_protocol_subscription::{self, ConsumerProtocolSubscription};
use millpond_wire::join_group::{JoinGroupRequestProtocol, JoinGroupResponseMember};
use millpond_wire::sync_group::SyncGroupRequestAssignment;
use millpond_wire::{Data, EncodeError, ErrorCode, Str};

use super::assignor::{Assignor, Member};
use crate::admin::TopicPartition;

/// The newest form of what consumers tell of themselves.
const SUBSCRIPTION_VERSION: i16 = 3;
/// All versions of an assignment have the same fields, and the first is read by everybody.
const ASSIGNMENT_VERSION: i16 = 0;

/// Who it is in the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Membership {
    /// Empty until the coordinator has given one.
    pub(crate) member_id: String,
    /// -1 while it is in none.
    pub(crate) generation: i32,
    /// The assignor that the members agreed on.
    pub(crate) protocol: String,
}

impl Default for Membership {
    fn default() -> Membership {
        Membership { member_id: String::new(), generation: -1, protocol: String::new() }
    }
}

/// What an error of the coordinator means for a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Consequence {
    /// Another broker coordinates the group, or this one soon will: it is looked for and asked again.
    LookAgain,
    /// The members come together anew; until then it keeps what it has.
    Rejoin,
    /// What it had is others' by now.
    Lost {
        /// It is still known by its id.
        keep_id: bool,
    },
    /// It cannot be a member.
    Fatal,
}

/// As Kafka's `AbstractCoordinator` has it.
pub(crate) fn consequence(code: ErrorCode) -> Consequence {
    match code {
        ErrorCode::REBALANCE_IN_PROGRESS => Consequence::Rejoin,
        // Its last heartbeat has come, but not the answer: the next one tells the epoch that it is in.
        ErrorCode::STALE_MEMBER_EPOCH => Consequence::Rejoin,
        ErrorCode::ILLEGAL_GENERATION | ErrorCode::FENCED_MEMBER_EPOCH => Consequence::Lost { keep_id: true },
        ErrorCode::UNKNOWN_MEMBER_ID => Consequence::Lost { keep_id: false },
        code if code.is_retriable() => Consequence::LookAgain,
        _ => Consequence::Fatal,
    }
}

/// The protocols that a member offers, the preferred one first, with what it tells of itself.
///
/// # Errors
/// When a name is too long to be said.
pub(crate) fn protocols(
    assignors: &[Assignor],
    topics: &BTreeSet<String>,
    owned: &BTreeSet<TopicPartition>,
    generation: i32,
    rack: &str,
) -> Result<Vec<JoinGroupRequestProtocol>, EncodeError> {
    let mut by_topic: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    for partition in owned {
        by_topic.entry(&partition.topic).or_default().push(partition.partition);
    }
    let owned = by_topic
        .into_iter()
        .map(|(topic, partitions)| consumer_protocol_subscription::TopicPartition { topic: topic.into(), partitions });
    let mut subscription = ConsumerProtocolSubscription {
        topics: topics.iter().map(|topic| topic.as_str().into()).collect(),
        user_data: None,
        owned_partitions: owned.collect(),
        generation_id: generation,
        rack_id: Some(rack).filter(|rack| !rack.is_empty()).map(Into::into),
    };
    let protocol = |assignor: &Assignor| {
        // Where Kafka before 3.2 looks for the generation.
        let generation = Bytes::copy_from_slice(&generation.to_be_bytes());
        subscription.user_data = (*assignor == Assignor::CooperativeSticky).then_some(generation);
        let metadata = subscription.to_bytes(SUBSCRIPTION_VERSION)?;
        Ok(JoinGroupRequestProtocol { name: assignor.name().into(), metadata })
    };
    assignors.iter().map(protocol).collect()
}

/// The members as they tell of themselves. Who cannot be understood reads nothing.
pub(crate) fn members(told: &[JoinGroupResponseMember]) -> BTreeMap<String, Member> {
    let member = |told: &JoinGroupResponseMember| {
        let mut member = Member {
            instance_id: told.group_instance_id.as_ref().map(ToString::to_string),
            generation: -1,
            ..Member::default()
        };
        if let Ok(subscription) = ConsumerProtocolSubscription::from_bytes_or_newer(told.metadata.clone()) {
            let user_data = subscription.user_data.as_deref().and_then(|bytes| bytes.first_chunk::<4>());
            let user_data = user_data.map(|bytes| i32::from_be_bytes(*bytes));
            member.topics = subscription.topics.iter().map(ToString::to_string).collect();
            member.generation = match subscription.generation_id {
                -1 => user_data.unwrap_or(-1),
                generation => generation,
            };
            member.owned = partitions(subscription.owned_partitions.into_iter().map(|of| (of.topic, of.partitions)));
        }
        (told.member_id.to_string(), member)
    };
    told.iter().map(member).collect()
}

fn partitions(told: impl IntoIterator<Item = (Str, Vec<i32>)>) -> BTreeSet<TopicPartition> {
    let of = |(topic, partitions): (Str, Vec<i32>)| {
        partitions.into_iter().map(move |partition| TopicPartition::new(topic.as_str(), partition))
    };
    told.into_iter().flat_map(of).collect()
}

/// What the leader sends to the coordinator for the members.
///
/// # Errors
/// When a name is too long to be said.
pub(crate) fn assignments(
    shares: BTreeMap<String, BTreeSet<TopicPartition>>,
) -> Result<Vec<SyncGroupRequestAssignment>, EncodeError> {
    let share = |(member_id, share): (String, BTreeSet<TopicPartition>)| {
        let mut by_topic: BTreeMap<String, Vec<i32>> = BTreeMap::new();
        for partition in share {
            by_topic.entry(partition.topic).or_default().push(partition.partition);
        }
        let assigned = by_topic.into_iter().map(|(topic, partitions)| consumer_protocol_assignment::TopicPartition {
            topic: topic.into(),
            partitions,
        });
        let assignment = ConsumerProtocolAssignment { assigned_partitions: assigned.collect(), user_data: None };
        let assignment = assignment.to_bytes(ASSIGNMENT_VERSION)?;
        Ok(SyncGroupRequestAssignment { member_id: member_id.into(), assignment })
    };
    shares.into_iter().map(share).collect()
}

/// What a member is assigned. No bytes at all are nothing.
///
/// # Errors
/// What is wrong with the bytes.
pub(crate) fn assigned(bytes: Bytes) -> Result<BTreeSet<TopicPartition>, millpond_wire::DecodeError> {
    if bytes.is_empty() {
        return Ok(BTreeSet::new());
    }
    let assigned = ConsumerProtocolAssignment::from_bytes_or_newer(bytes)?.assigned_partitions;
    Ok(partitions(assigned.into_iter().map(|of| (of.topic, of.partitions))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_has_its_consequence() {
        for (code, expected) in [
            (ErrorCode::COORDINATOR_NOT_AVAILABLE, Consequence::LookAgain),
            (ErrorCode::NOT_COORDINATOR, Consequence::LookAgain),
            (ErrorCode::COORDINATOR_LOAD_IN_PROGRESS, Consequence::LookAgain),
            (ErrorCode::REBALANCE_IN_PROGRESS, Consequence::Rejoin),
            (ErrorCode::ILLEGAL_GENERATION, Consequence::Lost { keep_id: true }),
            (ErrorCode::FENCED_MEMBER_EPOCH, Consequence::Lost { keep_id: true }),
            (ErrorCode::STALE_MEMBER_EPOCH, Consequence::Rejoin),
            (ErrorCode::UNKNOWN_MEMBER_ID, Consequence::Lost { keep_id: false }),
            (ErrorCode::FENCED_INSTANCE_ID, Consequence::Fatal),
            (ErrorCode::GROUP_AUTHORIZATION_FAILED, Consequence::Fatal),
            (ErrorCode::INCONSISTENT_GROUP_PROTOCOL, Consequence::Fatal),
            (ErrorCode::GROUP_MAX_SIZE_REACHED, Consequence::Fatal),
        ] {
            assert_eq!(consequence(code), expected, "{code}");
        }
    }

    #[test]
    fn what_a_member_tells_is_understood_by_the_leader_and_the_other_way_round() {
        let owned: BTreeSet<TopicPartition> = [TopicPartition::new("t", 0), TopicPartition::new("t", 2)].into();
        let topics: BTreeSet<String> = ["t".to_owned(), "u".to_owned()].into();
        let both = [Assignor::CooperativeSticky, Assignor::Range];
        let told = protocols(&both, &topics, &owned, 7, "r").expect("short names");
        assert_eq!((&*told[0].name, &*told[1].name), ("cooperative-sticky", "range"));
        for protocol in told {
            let member = JoinGroupResponseMember {
                member_id: "m".into(),
                group_instance_id: Some("i".into()),
                metadata: protocol.metadata,
            };
            let expected = Member {
                instance_id: Some("i".to_owned()),
                topics: topics.clone(),
                owned: owned.clone(),
                generation: 7,
            };
            assert_eq!(members(&[member]), BTreeMap::from([("m".to_owned(), expected)]));
        }
        let sent = assignments(BTreeMap::from([("m".to_owned(), owned.clone())])).expect("short names");
        assert_eq!(assigned(sent[0].assignment.clone()).expect("good"), owned);
        assert_eq!(assigned(Bytes::new()).expect("good"), BTreeSet::new());
        assert!(assigned(Bytes::from_static(b"\0\0\x7f\xff\xff\xff")).is_err(), "a count that cannot be");
    }
}
