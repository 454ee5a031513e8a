//! ListGroups (KIP-518, KIP-848): the groups that this broker coordinates, by state and type.

use millpond_coordinator::{GroupFilter, ListedGroup as Listed};
use millpond_wire::list_groups::{ListGroupsRequest, ListGroupsResponse, ListedGroup};
use millpond_wire::{ApiKey, Str};

use crate::dispatch::{Api, Call, Step};
use crate::errors;

pub(crate) const API: Api =
    Api { key: ApiKey::LIST_GROUPS, advertised: (0, 5), served_from: 0, handle, pipelined: false };

fn handle(mut call: Call) -> Step {
    let request: ListGroupsRequest = match call.decode() {
        Ok(request) => request,
        Err(reason) => return Step::Close(reason),
    };
    Step::Stage(Box::pin(async move {
        let filter = GroupFilter { states: request.states_filter, types: request.types_filter };
        let list = move |shard: &millpond_coordinator::Shard| shard.list_groups(&filter);
        let response = match call.shared.coordinators.look_everywhere(&call.snapshot, list).await {
            Ok(shards) => {
                ListGroupsResponse { groups: shards.into_iter().flatten().map(listed).collect(), ..Default::default() }
            }
            Err(unavailable) => {
                ListGroupsResponse { error_code: errors::coordinator(unavailable).0, ..Default::default() }
            }
        };
        Step::Reply(call.answer(&response))
    }))
}

fn listed(group: Listed) -> ListedGroup {
    ListedGroup {
        group_id: group.group_id,
        protocol_type: group.protocol_type,
        group_state: Str::from_static(group.state.name()),
        group_type: Str::from_static(group.group_type.name()),
    }
}
