//! `/groups` and `/groups/NAME`: the groups that this broker coordinates, as JSON.

use std::sync::Arc;

use hyper::StatusCode;
use millpond_cluster::OFFSETS_TOPIC_NAME;
use serde_json::{Value, json};

use crate::broker::Shared;
use crate::coordinator::{
    AllLags, GroupDetail, GroupLag, Member, PartitionLag, Unavailable, lag_of, lags, partition_of,
};

/// The longest name of a group that is looked for, in bytes.
const MAX_NAME: usize = 4_096;

/// Letters of a client id that are shown.
const MAX_CLIENT_ID: usize = 256;

/// The group that a path is about; `None` for another path, an empty name, or one that is not percent-encoded UTF-8.
pub(super) fn named(path: &str) -> Option<String> {
    let name = path.strip_prefix("/groups/").filter(|name| !name.is_empty() && name.len() <= 3 * MAX_NAME)?;
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = match (first, tail) {
            (b'%', [high, low, tail @ ..]) => {
                let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
                bytes.push(digit(*high)? << 4 | digit(*low)?);
                tail
            }
            (b'%', _) => return None,
            (byte, tail) => {
                bytes.push(*byte);
                tail
            }
        };
    }
    String::from_utf8(bytes).ok().filter(|name| name.len() <= MAX_NAME)
}

/// All groups, with state and total lag.
pub(super) async fn list(shared: &Arc<Shared>) -> (StatusCode, Value) {
    match lags(shared).await {
        Ok(AllLags { groups, left_out, loading }) => {
            let (now_ms, broker) = (shared.runtime.wall_clock(), shared.node.0);
            let page = move || {
                let listed: Vec<Value> = groups.iter().map(|group| headline(group, now_ms)).collect();
                json!({ "broker": broker, "groups": listed, "left_out": left_out, "loading": loading })
            };
            (StatusCode::OK, shared.runtime.blocking(page).await)
        }
        Err(unavailable) => refused(unavailable),
    }
}

/// One group, with all that is known of it; or who coordinates it.
pub(super) async fn one(shared: &Arc<Shared>, name: &str) -> (StatusCode, Value) {
    match lag_of(shared, name).await {
        Ok(Some(detail)) => {
            let now_ms = shared.runtime.wall_clock();
            (StatusCode::OK, shared.runtime.blocking(move || whole(&detail, now_ms)).await)
        }
        Ok(None) => (StatusCode::NOT_FOUND, json!({ "error": format!("there is no group '{name}'") })),
        Err(Unavailable::NotHere) => elsewhere(shared, name).await,
        Err(unavailable) => refused(unavailable),
    }
}

fn refused(unavailable: Unavailable) -> (StatusCode, Value) {
    let why = match unavailable {
        Unavailable::Loading => "the coordinator is reading its groups; ask again",
        Unavailable::NotHere => "the group has no coordinator now; ask again",
    };
    (StatusCode::SERVICE_UNAVAILABLE, json!({ "error": why }))
}

/// The group is not coordinated here: says where it is.
async fn elsewhere(shared: &Arc<Shared>, name: &str) -> (StatusCode, Value) {
    let snapshot = shared.metadata.snapshot();
    let Some(topic) = snapshot.topic(OFFSETS_TOPIC_NAME) else {
        // Nobody has looked for a coordinator yet: there is no group at all.
        return (StatusCode::NOT_FOUND, json!({ "error": format!("there is no group '{name}'") }));
    };
    let leader = shared.leadership.now().leader(topic, partition_of(name, topic.partition_count()));
    let leader = leader.filter(|leader| leader.broker != shared.node);
    match leader.and_then(|leader| snapshot.image.broker(leader.broker)) {
        Some(broker) => {
            let kafka = format!("{}:{}", broker.host, broker.port);
            let error = format!("the group '{name}' is coordinated by broker {}", broker.id);
            let coordinator = json!({ "id": broker.id.0, "kafka": kafka });
            (StatusCode::MISDIRECTED_REQUEST, json!({ "error": error, "coordinator": coordinator }))
        }
        None => refused(Unavailable::NotHere),
    }
}

fn headline(group: &GroupLag, now_ms: i64) -> Value {
    json!({
        "group": &*group.group_id,
        "type": group.group_type,
        "state": group.state,
        "members": group.members,
        "rebalances": group.rebalances,
        "partitions": group.partitions.len() + group.left_out,
        "lag_records": group.records(),
        "lag_seconds": group.seconds(now_ms),
    })
}

fn whole(detail: &GroupDetail, now_ms: i64) -> Value {
    let group = &detail.lag;
    let rebalance = |(at, why): &(i64, String)| json!({ "at_ms": at, "reason": why });
    let mut page = headline(group, now_ms);
    let more = json!({
        "now_ms": now_ms,
        "protocol": group.protocol.as_deref(),
        "generation": group.generation,
        "state_since_ms": group.since_ms,
        "pending_members": group.pending_members,
        "awaited_members": group.awaited_members,
        "counted_since_ms": group.counted_since_ms,
        "last_commit_ms": group.last_commit_ms,
        "last_rebalance": group.last_rebalance.as_ref().map(rebalance),
        "recent_rebalances": detail.recent_rebalances.iter().map(rebalance).collect::<Vec<_>>(),
        "named_members": detail.named_members.iter().map(member).collect::<Vec<_>>(),
        "lags": group.partitions.iter().map(|one| partition(one, now_ms)).collect::<Vec<_>>(),
        "left_out": group.left_out,
    });
    if let (Value::Object(page), Value::Object(more)) = (&mut page, more) {
        page.extend(more);
    }
    page
}

fn member(member: &Member) -> Value {
    json!({
        "member_id": &*member.member_id,
        "instance_id": member.instance_id.as_deref(),
        "client_id": member.client_id.chars().take(MAX_CLIENT_ID).collect::<String>(),
        "host": &*member.client_host,
    })
}

fn partition(lag: &PartitionLag, now_ms: i64) -> Value {
    json!({
        "topic": &*lag.topic,
        "partition": lag.partition.0,
        "committed": lag.committed.as_ref().map(|committed| committed.offset.0),
        "committed_at_ms": lag.committed.as_ref().map(|committed| committed.at_ms),
        "log_start": lag.edge.map(|edge| edge.log_start.0),
        "end": lag.edge.map(|edge| edge.end.0),
        "lag_records": lag.records(),
        "lag_seconds": lag.seconds(now_ms),
        "owner": lag.owner.as_ref().map(|owner| &*owner.member_id),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coordinator::lag_tests::{group, lag};

    #[test]
    fn a_path_names_a_group_whatever_its_letters_are() {
        for (path, expected) in [
            ("/groups/orders", Some("orders")),
            ("/groups/a%2Fb%20c%25", Some("a/b c%")),
            ("/groups/a/b", Some("a/b")),
            ("/groups/%C3%BC", Some("ü")),
            ("/groups/%c3", None),
            ("/groups/%", None),
            ("/groups/%2", None),
            ("/groups/%zz", None),
            ("/groups/%+1", None),
            ("/groups/", None),
            ("/groups", None),
            ("/group/x", None),
        ] {
            assert_eq!(named(path).as_deref(), expected, "{path}");
        }
        assert_eq!(named(&format!("/groups/{}", "x".repeat(MAX_NAME + 1))), None);
        assert_eq!(named(&format!("/groups/{}", "%41".repeat(MAX_NAME))).map(|name| name.len()), Some(MAX_NAME));
    }

    #[test]
    fn a_page_has_null_for_what_is_not_known() {
        let partitions = vec![lag(Some(4), Some((0, 10, Some(7_000)))), lag(Some(5), None)];
        let detail = GroupDetail {
            lag: group("g", partitions),
            named_members: Vec::new(),
            recent_rebalances: vec![(1, "member a left".to_owned())],
        };
        let page = whole(&detail, 10_000);
        assert_eq!(
            (&page["group"], &page["lag_records"], &page["state"]),
            (&json!("g"), &Value::Null, &json!("Stable"))
        );
        assert_eq!(page["recent_rebalances"], json!([{ "at_ms": 1, "reason": "member a left" }]));
        let lags = &page["lags"];
        assert_eq!((&lags[0]["lag_records"], &lags[0]["lag_seconds"]), (&json!(6), &json!(3.0)));
        assert_eq!(
            (&lags[1]["committed"], &lags[1]["lag_records"], &lags[1]["end"]),
            (&json!(5), &Value::Null, &Value::Null)
        );
    }
}
