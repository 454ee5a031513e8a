//! DescribeGroups (KIP-345, KIP-1043): the state and the members of classic groups.

use futures::StreamExt;
use futures::stream;
use millpond_coordinator::{GroupDescription, GroupError, Shard};
use millpond_wire::describe_groups::{
    DescribeGroupsRequest, DescribeGroupsResponse, DescribedGroup, DescribedGroupMember,
};
use millpond_wire::{ApiKey, Str};

use super::metadata::{NOT_ASKED, operations};
use crate::coordinator::{GROUPS_AT_ONCE, Unavailable};
use crate::dispatch::{Api, Call, Step};
use crate::errors;

pub(crate) const API: Api =
    Api { key: ApiKey::DESCRIBE_GROUPS, advertised: (0, 6), served_from: 0, handle, pipelined: false };

/// From here on a group that is not there is an error, and not only dead.
const FIRST_WITH_NOT_FOUND: i16 = 6;
/// Read, delete, describe: all that a group knows. Nobody is refused.
pub(super) const GROUP_OPERATIONS: i32 = operations(&[3, 6, 8]);
/// The state of a group that is not there.
const DEAD: Str = Str::from_static("Dead");

fn handle(mut call: Call) -> Step {
    let request: DescribeGroupsRequest = match call.decode() {
        Ok(request) => request,
        Err(reason) => return Step::Close(reason),
    };
    Step::Stage(Box::pin(async move {
        let operations = if request.include_authorized_operations { GROUP_OPERATIONS } else { NOT_ASKED };
        let asker = &call;
        let described = request.groups.into_iter().map(|group| async move {
            let id = group.detached();
            let look = move |shard: &Shard| shard.describe_group(&id);
            let found = asker.shared.coordinators.look(&asker.snapshot, &group, look).await;
            DescribedGroup { authorized_operations: operations, ..describe(asker.version, group, found) }
        });
        let groups = stream::iter(described).buffered(GROUPS_AT_ONCE).collect().await;
        Step::Reply(call.answer(&DescribeGroupsResponse { groups, ..Default::default() }))
    }))
}

fn describe(
    version: i16,
    group_id: Str,
    found: Result<Result<GroupDescription, GroupError>, Unavailable>,
) -> DescribedGroup {
    match found {
        Ok(Ok(description)) => DescribedGroup { group_id, ..described(description) },
        Ok(Err(error)) if version >= FIRST_WITH_NOT_FOUND => {
            let fault = errors::group(&error);
            let (error_code, error_message) = (fault.code.0, fault.message);
            DescribedGroup { group_id, error_code, error_message, group_state: DEAD, ..Default::default() }
        }
        Ok(Err(_)) => DescribedGroup { group_id, group_state: DEAD, ..Default::default() },
        Err(unavailable) => {
            DescribedGroup { group_id, error_code: errors::coordinator(unavailable).0, ..Default::default() }
        }
    }
}

fn described(group: GroupDescription) -> DescribedGroup {
    let members = group.members.into_iter().map(|member| DescribedGroupMember {
        member_id: member.member_id,
        group_instance_id: member.instance_id,
        client_id: member.client_id,
        client_host: member.client_host,
        member_metadata: member.metadata,
        member_assignment: member.assignment,
    });
    DescribedGroup {
        group_state: Str::from_static(group.state.name()),
        protocol_type: group.protocol_type,
        protocol_data: group.protocol,
        members: members.collect(),
        ..Default::default()
    }
}
