//! Groups at fake brokers: what is about a group goes to its coordinator, wherever that is.

mod fake;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use fake::{Asked, METADATA, Network, Reply, config, metadata, reply, serve};
use millpond_client::{Admin, ErrorCode, TopicPartition};
use millpond_wire::ApiKey;
use millpond_wire::delete_groups::{DeletableGroupResult, DeleteGroupsResponse};
use millpond_wire::describe_groups::{DescribeGroupsResponse, DescribedGroup};
use millpond_wire::find_coordinator::{Coordinator, FindCoordinatorResponse};
use millpond_wire::offset_fetch::{OffsetFetchResponse, OffsetFetchResponsePartition, OffsetFetchResponseTopic};

const TWO: &[(i32, &str, i32)] = &[(1, "a", 1), (2, "b", 1)];
const DELETE: (ApiKey, i16, i16) = (ApiKey::DELETE_GROUPS, 0, 2);

/// Names a coordinator in the answer's form for the version that was asked in.
fn coordinator(asked: &Asked, host: &str) -> Reply {
    let (host, port) = (host.into(), 1);
    let response = if asked.header.api_version >= 4 {
        let coordinators = vec![Coordinator { key: "g".into(), host, port, ..Default::default() }];
        FindCoordinatorResponse { coordinators, ..Default::default() }
    } else {
        FindCoordinatorResponse { host, port, ..Default::default() }
    };
    reply(asked, &response)
}

fn deleted(asked: &Asked, code: ErrorCode) -> Reply {
    let result = DeletableGroupResult { group_id: "g".into(), error_code: code.0 };
    reply(asked, &DeleteGroupsResponse { results: vec![result], ..Default::default() })
}

#[tokio::test(start_paused = true)]
async fn a_coordinator_that_has_moved_or_died_is_looked_for_again() {
    for (versions, first_dies) in [((0, 6), false), ((0, 2), false), ((0, 6), true)] {
        let (network, asked_first) = (Network::new(), Arc::new(AtomicUsize::new(0)));
        for (id, address) in [(1, "a:1"), (2, "b:1")] {
            let asked_first = Arc::clone(&asked_first);
            network.broker(address, move |peer| {
                let asked_first = Arc::clone(&asked_first);
                async move {
                    let find = (ApiKey::FIND_COORDINATOR, versions.0, versions.1);
                    serve(peer, &[METADATA, find, DELETE], |asked| match () {
                        () if asked.is(ApiKey::METADATA) => reply(asked, &metadata(1, TWO)),
                        () if asked.is(ApiKey::FIND_COORDINATOR) => {
                            // Who has been refused once is told of the other one.
                            coordinator(asked, if asked_first.load(Ordering::Relaxed) == 0 { "a" } else { "b" })
                        }
                        () if id == 2 => deleted(asked, ErrorCode::NONE),
                        () => {
                            asked_first.fetch_add(1, Ordering::Relaxed);
                            if first_dies { Reply::Close } else { deleted(asked, ErrorCode::NOT_COORDINATOR) }
                        }
                    })
                    .await;
                }
            });
        }
        let admin = Admin::connect_with(config(), network.clone()).await.expect("a broker answers");
        admin.delete_group("g").await.expect("the second deletes it");
        assert_eq!(asked_first.load(Ordering::Relaxed), 1, "{versions:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_does_not_pass_is_told_at_once() {
    let network = Network::new().broker("a:1", |peer| async move {
        serve(peer, &[METADATA, (ApiKey::FIND_COORDINATOR, 0, 6), DELETE], |asked| match () {
            () if asked.is(ApiKey::METADATA) => reply(asked, &metadata(1, &TWO[..1])),
            () if asked.is(ApiKey::FIND_COORDINATOR) => coordinator(asked, "a"),
            () => deleted(asked, ErrorCode::NON_EMPTY_GROUP),
        })
        .await;
    });
    let admin = Admin::connect_with(config(), network).await.expect("it answers");
    let error = admin.delete_group("g").await.expect_err("it has members");
    assert_eq!((error.code(), error.is_retriable()), (Some(ErrorCode::NON_EMPTY_GROUP), false));
}

#[tokio::test(start_paused = true)]
async fn an_old_broker_tells_of_groups_in_its_own_versions() {
    static ASKED_BEFORE: AtomicBool = AtomicBool::new(false);
    let apis =
        [METADATA, (ApiKey::FIND_COORDINATOR, 0, 2), (ApiKey::DESCRIBE_GROUPS, 0, 4), (ApiKey::OFFSET_FETCH, 0, 5)];
    let network = Network::new().broker("a:1", move |peer| async move {
        serve(peer, &apis, |asked| match () {
            () if asked.is(ApiKey::METADATA) => reply(asked, &metadata(1, &TWO[..1])),
            () if asked.is(ApiKey::FIND_COORDINATOR) => coordinator(asked, "a"),
            () if asked.is(ApiKey::DESCRIBE_GROUPS) => {
                let group = DescribedGroup { group_id: "g".into(), group_state: "Empty".into(), ..Default::default() };
                reply(asked, &DescribeGroupsResponse { groups: vec![group], ..Default::default() })
            }
            () => {
                let partition = |partition_index, committed_offset| OffsetFetchResponsePartition {
                    partition_index,
                    committed_offset,
                    metadata: Some("m".into()),
                    ..Default::default()
                };
                let mut partitions = vec![partition(0, 7), partition(1, -1)];
                partitions[1].error_code = if ASKED_BEFORE.swap(true, Ordering::Relaxed) { 29 } else { 0 };
                let topic = OffsetFetchResponseTopic { name: "t".into(), partitions };
                reply(asked, &OffsetFetchResponse { topics: vec![topic], ..Default::default() })
            }
        })
        .await;
    });
    let admin = Admin::connect_with(config(), network).await.expect("it answers");
    let described = admin.describe_group("g").await.expect("an answer").expect("it is there");
    assert_eq!((described.state.as_str(), described.is_kip848, described.members), ("Empty", false, Vec::new()));
    let offsets = admin.group_offsets("g").await.expect("an answer");
    let offsets: BTreeMap<_, _> = offsets.into_iter().map(|(of, found)| (of, found.offset)).collect();
    assert_eq!(offsets, BTreeMap::from([(TopicPartition::new("t", 0), 7)]), "-1 is no offset");
    let error = admin.group_offsets("g").await.expect_err("one is not told");
    assert_eq!(error.code(), Some(ErrorCode::TOPIC_AUTHORIZATION_FAILED));
}
