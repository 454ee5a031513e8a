//! DeleteGroups (KIP-229): forgets groups without members, with their offsets.

use futures::future::join_all;
use millpond_coordinator::Reply;
use millpond_wire::delete_groups::{DeletableGroupResult, DeleteGroupsRequest, DeleteGroupsResponse};
use millpond_wire::{ApiKey, ErrorCode, Str};

use crate::dispatch::{Api, Call, Step};
use crate::errors;

pub(crate) const API: Api =
    Api { key: ApiKey::DELETE_GROUPS, advertised: (0, 2), served_from: 0, handle, pipelined: false };

fn handle(mut call: Call) -> Step {
    let request: DeleteGroupsRequest = match call.decode() {
        Ok(request) => request,
        Err(reason) => return Step::Close(reason),
    };
    Step::Stage(Box::pin(async move {
        let results = join_all(request.groups_names.iter().map(|group| async {
            let error_code = delete(&call, group).await.0;
            DeletableGroupResult { group_id: group.clone(), error_code }
        }));
        let results = results.await;
        Step::Reply(call.answer(&DeleteGroupsResponse { results, ..Default::default() }))
    }))
}

async fn delete(call: &Call, group: &Str) -> ErrorCode {
    if group.is_empty() {
        return ErrorCode::INVALID_GROUP_ID;
    }
    let (shared, groups) = (&call.shared, [group.detached()]);
    // The request is one; what it holds of the memory stays with it.
    let share = shared.answer_memory.share();
    let delete = shared
        .coordinators
        .ask(&call.snapshot, group, share, move |shard, ticket, _| shard.delete_groups(ticket, &groups));
    match delete.await {
        Ok(Reply::DeleteGroups(results)) => match results.first() {
            Some(Err(error)) => errors::group(error).code,
            Some(Ok(())) | None => ErrorCode::NONE,
        },
        Ok(_) => unreachable!("a deletion of groups is answered as one"),
        Err(unavailable) => errors::coordinator(unavailable),
    }
}
