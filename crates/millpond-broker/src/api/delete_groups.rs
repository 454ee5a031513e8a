//! DeleteGroups (KIP-229): forgets groups without members, with their offsets.

use futures::StreamExt;
use futures::stream;
use millpond_coordinator::Reply;
use millpond_wire::delete_groups::{DeletableGroupResult, DeleteGroupsRequest, DeleteGroupsResponse};
use millpond_wire::{ApiKey, ErrorCode, Str};

use crate::coordinator::GROUPS_AT_ONCE;
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
        let asker = &call;
        let deleted = request.groups_names.into_iter().map(|group_id| async move {
            let error_code = delete(asker, &group_id).await.0;
            DeletableGroupResult { group_id, error_code }
        });
        let results = stream::iter(deleted).buffered(GROUPS_AT_ONCE).collect().await;
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
