//! Groups: list, describe, delete, and the offsets that they have committed.
//!
//! What is about one group goes to its coordinator, which is looked for on each try.

use std::collections::BTreeMap;

use bytes::Bytes;
use millpond_record::TopicId;
use millpond_wire::consumer_group_describe::{ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse};
use millpond_wire::consumer_protocol_assignment::ConsumerProtocolAssignment;
use millpond_wire::delete_groups::{DeleteGroupsRequest, DeleteGroupsResponse};
use millpond_wire::describe_groups::{DescribeGroupsRequest, DescribeGroupsResponse};
use millpond_wire::list_groups::{ListGroupsRequest, ListGroupsResponse};
use millpond_wire::offset_commit::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic, OffsetCommitResponse,
};
use millpond_wire::offset_delete::{
    OffsetDeleteRequest, OffsetDeleteRequestPartition, OffsetDeleteRequestTopic, OffsetDeleteResponse,
};
use millpond_wire::offset_fetch::{OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchResponse};
use millpond_wire::{Data, ErrorCode, Str};

use super::{Admin, Outcomes, TopicPartition, by_topic};
use crate::cluster::Target;
use crate::error::{Error, Result};

/// The first version of OffsetFetch that can ask for all partitions.
const FETCH_OF_ALL: i16 = 2;
/// From here on OffsetFetch can wait for what transactions are about to commit.
pub(crate) const FETCH_OF_STABLE: i16 = 7;
/// From here on OffsetFetch names several groups.
pub(crate) const FETCH_OF_MANY: i16 = 8;
/// The protocol type of consumers.
const CONSUMER: &str = "consumer";
/// Longer assignments of a member are not read.
const MAX_ASSIGNMENT_BYTES: usize = 1 << 20;

/// A group in the list of all.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GroupListing {
    /// Its name.
    pub group: String,
    /// `consumer` for consumers; empty for a group that only commits offsets.
    pub protocol_type: String,
    /// As `Stable` or `Empty`; `None` from brokers before Kafka 2.6.
    pub state: Option<String>,
    /// `classic` or `consumer`; `None` from brokers before Kafka 3.8.
    pub kind: Option<String>,
}

/// A group and its members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupDescription {
    /// Its name.
    pub group: String,
    /// Whether its members speak the consumer protocol of KIP-848.
    pub is_kip848: bool,
    /// As `Stable` or `Empty`.
    pub state: String,
    /// `consumer` for consumers; empty for a group that only commits offsets.
    pub protocol_type: String,
    /// The assignor, as far as the group has agreed on one.
    pub protocol: String,
    /// The epoch of a group of KIP-848. Of classic groups the protocol does not tell the generation.
    pub epoch: Option<i32>,
    /// By member id.
    pub members: Vec<GroupMember>,
}

/// A member of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMember {
    /// Given by the coordinator, or by the member itself.
    pub member_id: String,
    /// Of a static member.
    pub instance_id: Option<String>,
    /// As the client calls itself.
    pub client_id: String,
    /// The address that it connects from.
    pub host: String,
    /// What it has, as far as it is a consumer.
    pub assignment: Vec<TopicPartition>,
}

/// How far a group has read a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupOffset {
    /// Of the next record to read.
    pub offset: i64,
    /// What the client has put down with it.
    pub metadata: String,
}

impl Admin {
    /// All groups of the cluster, by name: each broker is asked for those that it coordinates.
    ///
    /// # Errors
    /// Those of [`Cluster::call`](crate::Cluster::call), of any broker.
    pub async fn list_groups(&self) -> Result<Vec<GroupListing>> {
        self.cluster.metadata(Some(&[])).await?;
        let text = |text: &Str| Some(text.as_str().to_owned()).filter(|text| !text.is_empty());
        let mut groups = Vec::new();
        for broker in self.cluster.brokers() {
            let judge = |response: &ListGroupsResponse| {
                Error::check(response.error_code, None, || format!("listing the groups of broker {}", broker.id))
            };
            let build = |_| ListGroupsRequest::default();
            let response = self.cluster.call(Target::Broker(broker.id), 0, build, judge).await?;
            groups.extend(response.groups.iter().map(|group| GroupListing {
                group: group.group_id.as_str().to_owned(),
                protocol_type: group.protocol_type.as_str().to_owned(),
                state: text(&group.group_state),
                kind: text(&group.group_type),
            }));
        }
        groups.sort();
        // A group whose coordinator moves while the brokers are asked is named by two.
        groups.dedup_by(|a, b| a.group == b.group);
        Ok(groups)
    }

    /// A group with its members, classic or of KIP-848; `None` when there is none of the name.
    ///
    /// # Errors
    /// Those of [`Cluster::call`](crate::Cluster::call); `GROUP_AUTHORIZATION_FAILED`.
    pub async fn describe_group(&self, group: &str) -> Result<Option<GroupDescription>> {
        match self.describe_kip848(group).await {
            Ok(found) => return Ok(Some(found)),
            // It may be a classic one, or the broker may know no others.
            Err(Error::Unsupported { .. }) => {}
            Err(error)
                if error.code().is_some_and(|code| {
                    [ErrorCode::GROUP_ID_NOT_FOUND, ErrorCode::UNSUPPORTED_VERSION].contains(&code)
                }) => {}
            Err(error) => return Err(error),
        }
        match self.describe_classic(group).await {
            Ok(found) => Ok(Some(found).filter(|found| found.state != "Dead")),
            Err(error) if error.code() == Some(ErrorCode::GROUP_ID_NOT_FOUND) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn describe_kip848(&self, group: &str) -> Result<GroupDescription> {
        let build = |_| ConsumerGroupDescribeRequest { group_ids: vec![group.into()], ..Default::default() };
        let judge = |response: &ConsumerGroupDescribeResponse| match response.groups.first() {
            Some(found) => Error::check(found.error_code, found.error_message.as_deref(), || describing(group)),
            None => Err(nothing(describing(group))),
        };
        let mut response = self.cluster.call_coordinator(group, 0, build, judge).await?;
        // Judged: there is one.
        let found = response.groups.swap_remove(0);
        let member = |member: millpond_wire::consumer_group_describe::Member| {
            let topics = member.assignment.topic_partitions.into_iter();
            let assignment = topics.flat_map(|one| {
                let topic = one.topic_name.as_str().to_owned();
                one.partitions.into_iter().map(move |partition| TopicPartition::new(topic.as_str(), partition))
            });
            GroupMember {
                member_id: member.member_id.as_str().to_owned(),
                instance_id: member.instance_id.map(|id| id.as_str().to_owned()),
                client_id: member.client_id.as_str().to_owned(),
                host: member.client_host.as_str().to_owned(),
                assignment: assignment.collect(),
            }
        };
        Ok(GroupDescription {
            group: group.to_owned(),
            is_kip848: true,
            state: found.group_state.as_str().to_owned(),
            protocol_type: CONSUMER.to_owned(),
            protocol: found.assignor_name.as_str().to_owned(),
            epoch: Some(found.group_epoch),
            members: found.members.into_iter().map(member).collect(),
        })
    }

    async fn describe_classic(&self, group: &str) -> Result<GroupDescription> {
        let build = |_| DescribeGroupsRequest { groups: vec![group.into()], ..Default::default() };
        let judge = |response: &DescribeGroupsResponse| match response.groups.first() {
            Some(found) => Error::check(found.error_code, found.error_message.as_deref(), || describing(group)),
            None => Err(nothing(describing(group))),
        };
        let mut response = self.cluster.call_coordinator(group, 0, build, judge).await?;
        // Judged: there is one.
        let found = response.groups.swap_remove(0);
        let consumers = &*found.protocol_type == CONSUMER;
        let member = |member: millpond_wire::describe_groups::DescribedGroupMember| GroupMember {
            member_id: member.member_id.as_str().to_owned(),
            instance_id: member.group_instance_id.map(|id| id.as_str().to_owned()),
            client_id: member.client_id.as_str().to_owned(),
            host: member.client_host.as_str().to_owned(),
            assignment: if consumers { assigned(&member.member_assignment) } else { Vec::new() },
        };
        Ok(GroupDescription {
            group: group.to_owned(),
            is_kip848: false,
            state: found.group_state.as_str().to_owned(),
            protocol_type: found.protocol_type.as_str().to_owned(),
            protocol: found.protocol_data.as_str().to_owned(),
            epoch: None,
            members: found.members.into_iter().map(member).collect(),
        })
    }

    /// All offsets that a group has committed; none for a group that there is not.
    ///
    /// # Errors
    /// Those of [`Cluster::call`](crate::Cluster::call); `GROUP_AUTHORIZATION_FAILED`; the error of the first partition
    /// that has one.
    pub async fn group_offsets(&self, group: &str) -> Result<BTreeMap<TopicPartition, GroupOffset>> {
        self.offsets_of_group(group, false).await
    }

    /// As [`group_offsets`](Admin::group_offsets); an offset that a transaction is about to commit is waited for, where
    /// the coordinator can say that (KIP-447).
    ///
    /// # Errors
    /// As of [`group_offsets`](Admin::group_offsets).
    pub(crate) async fn stable_group_offsets(&self, group: &str) -> Result<BTreeMap<TopicPartition, GroupOffset>> {
        self.offsets_of_group(group, true).await
    }

    async fn offsets_of_group(&self, group: &str, stable: bool) -> Result<BTreeMap<TopicPartition, GroupOffset>> {
        let build = |version| match version {
            FETCH_OF_MANY.. => OffsetFetchRequest {
                groups: vec![OffsetFetchRequestGroup { group_id: group.into(), topics: None, ..Default::default() }],
                require_stable: stable,
                ..Default::default()
            },
            version => OffsetFetchRequest {
                group_id: group.into(),
                topics: None,
                require_stable: stable && version >= FETCH_OF_STABLE,
                ..Default::default()
            },
        };
        let judge = |response: &OffsetFetchResponse| {
            let codes = response.groups.iter().map(|group| group.error_code);
            let code = codes.chain([response.error_code]).find(|code| *code != 0).unwrap_or(0);
            Error::check(code, None, || format!("the offsets of the group {group}"))?;
            // An offset that is not told is not one that there is not.
            let of_groups = response.groups.iter().flat_map(|group| &group.topics);
            let of_groups =
                of_groups.flat_map(|topic| &topic.partitions).map(|one| (one.partition_index, one.error_code));
            let of_one = response.topics.iter().flat_map(|topic| &topic.partitions);
            let mut all = of_groups.chain(of_one.map(|one| (one.partition_index, one.error_code)));
            match all.find(|(_, code)| *code != 0) {
                Some((partition, code)) => Error::check(code, None, || {
                    format!("the offset of the group {group} for a topic's partition {partition}")
                }),
                None => Ok(()),
            }
        };
        let response = self.cluster.call_coordinator(group, FETCH_OF_ALL, build, judge).await?;
        let mut offsets = BTreeMap::new();
        let mut put = |topic: &str, partition: i32, offset: i64, metadata: Option<&str>| {
            if offset >= 0 {
                let metadata = metadata.unwrap_or_default().to_owned();
                offsets.insert(TopicPartition::new(topic, partition), GroupOffset { offset, metadata });
            }
        };
        for topic in &response.topics {
            for one in &topic.partitions {
                put(&topic.name, one.partition_index, one.committed_offset, one.metadata.as_deref());
            }
        }
        let topics = || response.groups.iter().flat_map(|group| &group.topics);
        // Since version 10 topics are named by their ids.
        let names = match topics().any(|topic| topic.name.is_empty()) {
            true => self.names_by_id().await?,
            false => BTreeMap::new(),
        };
        for topic in topics() {
            let name = match topic.name.as_str() {
                "" => names.get(&TopicId(topic.topic_id)).map_or("", String::as_str),
                name => name,
            };
            // One that was deleted meanwhile has no name.
            for one in topic.partitions.iter().filter(|_| !name.is_empty()) {
                put(name, one.partition_index, one.committed_offset, one.metadata.as_deref());
            }
        }
        Ok(offsets)
    }

    async fn names_by_id(&self) -> Result<BTreeMap<TopicId, String>> {
        let listed = self.list_topics().await?;
        Ok(listed.into_iter().filter_map(|topic| Some((topic.id?, topic.name))).collect())
    }

    /// Commits offsets for a group without members, which begins to exist if need be.
    ///
    /// # Errors
    /// For a partition: `UNKNOWN_MEMBER_ID` (the group has members), `UNKNOWN_TOPIC_OR_PARTITION`,
    /// `OFFSET_METADATA_TOO_LARGE`. For the call: those of [`Cluster::call`](crate::Cluster::call).
    pub async fn alter_group_offsets(
        &self,
        group: &str,
        offsets: &BTreeMap<TopicPartition, i64>,
    ) -> Result<Outcomes<TopicPartition, ()>> {
        let topics = by_topic(offsets.keys());
        let names: Vec<&str> = topics.keys().copied().collect();
        // Since version 10 topics are named by their ids.
        let known = self.cluster.metadata(Some(&names)).await?;
        let ids: BTreeMap<&str, [u8; 16]> =
            known.topics.iter().filter_map(|topic| Some((topic.name.as_deref()?, topic.topic_id))).collect();
        let build = |_| {
            let topic = |(name, partitions): (&&str, &Vec<i32>)| OffsetCommitRequestTopic {
                name: (*name).into(),
                topic_id: ids.get(name).copied().unwrap_or_default(),
                partitions: partitions
                    .iter()
                    .map(|&partition| OffsetCommitRequestPartition {
                        partition_index: partition,
                        committed_offset: offsets[&TopicPartition::new(*name, partition)],
                        committed_metadata: Some(Str::EMPTY),
                        ..Default::default()
                    })
                    .collect(),
            };
            OffsetCommitRequest {
                group_id: group.into(),
                generation_id_or_member_epoch: -1,
                topics: topics.iter().map(topic).collect(),
                ..Default::default()
            }
        };
        let judge = |response: &OffsetCommitResponse| {
            let partitions = response.topics.iter().flat_map(|topic| &topic.partitions);
            judge_coordinator(group, partitions.map(|partition| partition.error_code))
        };
        let response = self.cluster.call_coordinator(group, 2, build, judge).await?;
        let mut outcomes = Outcomes::new();
        for topic in &response.topics {
            let name = match topic.name.as_str() {
                "" => ids.iter().find(|(_, id)| **id == topic.topic_id).map_or("", |(name, _)| *name),
                name => name,
            };
            for one in &topic.partitions {
                let of = TopicPartition::new(name, one.partition_index);
                let done = Error::check(one.error_code, None, || format!("the offset of {of} for the group {group}"));
                outcomes.insert(of, done);
            }
        }
        Ok(outcomes)
    }

    /// Deletes offsets that a group has committed. To delete what is not there is no error.
    ///
    /// # Errors
    /// For a partition: `GROUP_SUBSCRIBED_TO_TOPIC`, `UNKNOWN_TOPIC_OR_PARTITION`. For the call: those of
    /// [`Cluster::call`](crate::Cluster::call); `GROUP_ID_NOT_FOUND`, `NON_EMPTY_GROUP`.
    pub async fn delete_group_offsets(
        &self,
        group: &str,
        partitions: &[TopicPartition],
    ) -> Result<Outcomes<TopicPartition, ()>> {
        let topics = by_topic(partitions);
        let build = |_| {
            let topic = |(name, partitions): (&&str, &Vec<i32>)| OffsetDeleteRequestTopic {
                name: (*name).into(),
                partitions: partitions
                    .iter()
                    .map(|&partition_index| OffsetDeleteRequestPartition { partition_index })
                    .collect(),
            };
            OffsetDeleteRequest { group_id: group.into(), topics: topics.iter().map(topic).collect() }
        };
        let judge = |response: &OffsetDeleteResponse| {
            Error::check(response.error_code, None, || format!("deleting offsets of the group {group}"))
        };
        let response = self.cluster.call_coordinator(group, 0, build, judge).await?;
        let outcomes = response.topics.iter().flat_map(|topic| {
            topic.partitions.iter().map(move |one| {
                let of = TopicPartition::new(topic.name.as_str(), one.partition_index);
                let done = Error::check(one.error_code, None, || format!("the offset of {of} for the group {group}"));
                (of, done)
            })
        });
        Ok(outcomes.collect())
    }

    /// Deletes a group without members, with its offsets.
    ///
    /// # Errors
    /// `GROUP_ID_NOT_FOUND`, `NON_EMPTY_GROUP`; those of [`Cluster::call`](crate::Cluster::call).
    pub async fn delete_group(&self, group: &str) -> Result<()> {
        let build = |_| DeleteGroupsRequest { groups_names: vec![group.into()] };
        let judge = |response: &DeleteGroupsResponse| match response.results.first() {
            Some(result) => Error::check(result.error_code, None, || format!("deleting the group {group}")),
            None => Err(nothing(format!("deleting the group {group}"))),
        };
        self.cluster.call_coordinator(group, 0, build, judge).await.map(drop)
    }
}

fn describing(group: &str) -> String {
    format!("describing the group {group}")
}

/// The answer says nothing of what was asked for.
fn nothing(what: String) -> Error {
    Error::Refused {
        what,
        code: ErrorCode::UNKNOWN_SERVER_ERROR,
        message: Some("the broker's answer does not name the group".to_owned()),
    }
}

/// The first of these error codes that says that the request came to the wrong broker, or too early.
fn judge_coordinator(group: &str, mut codes: impl Iterator<Item = i16>) -> Result<()> {
    let misdirected =
        [ErrorCode::NOT_COORDINATOR, ErrorCode::COORDINATOR_NOT_AVAILABLE, ErrorCode::COORDINATOR_LOAD_IN_PROGRESS];
    match codes.find(|code| misdirected.iter().any(|known| known.0 == *code)) {
        Some(code) => Error::check(code, None, || format!("committing for the group {group}")),
        None => Ok(()),
    }
}

/// The partitions that an assignment of a consumer names; none where it cannot be read.
fn assigned(assignment: &Bytes) -> Vec<TopicPartition> {
    if assignment.is_empty() || assignment.len() > MAX_ASSIGNMENT_BYTES {
        return Vec::new();
    }
    let Ok(assignment) = ConsumerProtocolAssignment::from_bytes_or_newer(assignment.clone()) else { return Vec::new() };
    let topics = assignment.assigned_partitions.into_iter();
    let partitions = topics.flat_map(|one| {
        let topic = one.topic.as_str().to_owned();
        one.partitions.into_iter().map(move |partition| TopicPartition::new(topic.as_str(), partition))
    });
    partitions.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assignment_is_read_and_what_cannot_be_read_is_none() {
        let bytes = Bytes::from_static(b"\0\0\0\0\0\x01\0\x05topic\0\0\0\x02\0\0\0\0\0\0\0\x07\xff\xff\xff\xff");
        assert_eq!(assigned(&bytes), [TopicPartition::new("topic", 0), TopicPartition::new("topic", 7)]);
        for bad in [&b""[..], b"all", b"\0\0\x7f\xff\xff\xff"] {
            assert_eq!(assigned(&Bytes::copy_from_slice(bad)), []);
        }
    }
}
