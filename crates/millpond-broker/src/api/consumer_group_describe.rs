//! ConsumerGroupDescribe (KIP-848): the state and the members of consumer groups.

use std::sync::Arc;

use futures::{StreamExt, stream};
use millpond_coordinator::{ConsumerGroupDescription, ConsumerMemberDescription, GroupError, NamedPartitions, Shard};
use millpond_wire::consumer_group_describe::{
    Assignment, ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse, DescribedGroup, Member, TopicPartitions,
};
use millpond_wire::{ApiKey, Str};

use super::describe_groups::GROUP_OPERATIONS;
use super::metadata::NOT_ASKED;
use crate::coordinator::{GROUPS_AT_ONCE, KnownTopics, Unavailable};
use crate::dispatch::{Api, Call, Step};
use crate::errors::{self, Fault};

pub(crate) const API: Api =
    Api { key: ApiKey::CONSUMER_GROUP_DESCRIBE, advertised: (0, 1), served_from: 0, handle, pipelined: false };

/// Kafka's numbers for the protocol that a member speaks.
const SPEAKS_CLASSIC: i8 = 0;
const SPEAKS_CONSUMER: i8 = 1;

fn handle(mut call: Call) -> Step {
    let request: ConsumerGroupDescribeRequest = match call.decode() {
        Ok(request) => request,
        Err(reason) => return Step::Close(reason),
    };
    Step::Stage(Box::pin(async move {
        let operations = if request.include_authorized_operations { GROUP_OPERATIONS } else { NOT_ASKED };
        let asker = &call;
        let described = request.group_ids.into_iter().map(|group| async move {
            let (id, metadata) = (group.detached(), Arc::clone(&asker.shared.metadata));
            let look = move |shard: &Shard| shard.describe_consumer_group(&id, &KnownTopics::now(&metadata));
            let found = asker.shared.coordinators.look(&asker.snapshot, &group, look).await;
            DescribedGroup { authorized_operations: operations, ..describe(&group, found) }
        });
        let groups = stream::iter(described).buffered(GROUPS_AT_ONCE).collect().await;
        Step::Reply(call.answer(&ConsumerGroupDescribeResponse { groups, ..Default::default() }))
    }))
}

fn describe(group: &Str, found: Result<Result<ConsumerGroupDescription, GroupError>, Unavailable>) -> DescribedGroup {
    let fault: Fault = match found {
        Ok(Ok(description)) => return DescribedGroup { group_id: group.clone(), ..described(description) },
        Ok(Err(error)) => errors::group(&error),
        Err(unavailable) => errors::coordinator(unavailable).into(),
    };
    let (error_code, error_message) = (fault.code.0, fault.message);
    DescribedGroup { group_id: group.clone(), error_code, error_message, ..Default::default() }
}

fn described(group: ConsumerGroupDescription) -> DescribedGroup {
    DescribedGroup {
        group_state: Str::from_static(group.state.name()),
        group_epoch: group.epoch,
        assignment_epoch: group.assignment_epoch,
        assignor_name: Str::from_static(group.assignor),
        members: group.members.into_iter().map(member).collect(),
        ..Default::default()
    }
}

fn member(member: ConsumerMemberDescription) -> Member {
    Member {
        member_id: member.member_id,
        instance_id: member.instance_id,
        rack_id: member.rack_id,
        member_epoch: member.member_epoch,
        client_id: member.client_id,
        client_host: member.client_host,
        subscribed_topic_names: member.subscribed_topics,
        subscribed_topic_regex: member.subscribed_regex,
        assignment: assignment(member.assignment),
        target_assignment: assignment(member.target),
        member_type: if member.speaks_classic { SPEAKS_CLASSIC } else { SPEAKS_CONSUMER },
    }
}

fn assignment(partitions: Vec<NamedPartitions>) -> Assignment {
    let named = |one: NamedPartitions| TopicPartitions {
        topic_id: one.topic_id.0,
        topic_name: one.topic,
        partitions: one.partitions,
    };
    Assignment { topic_partitions: partitions.into_iter().map(named).collect() }
}
