//! A member of a group at a fake coordinator, which refuses, moves, and calls for rebalances; by both protocols.

#![expect(clippy::disallowed_methods, reason = "waits on the clock that the test has paused")]

mod fake;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use fake::{Asked, METADATA, Network, Peer, metadata, versions};
use millpond_client::{Cluster, Consumer, ConsumerConfig, Error, ErrorCode, OffsetReset, TopicPartition};
use millpond_wire::consumer_group_heartbeat::{
    Assignment, ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, TopicPartitions,
};
use millpond_wire::consumer_protocol_assignment::{ConsumerProtocolAssignment, TopicPartition as Assigned};
use millpond_wire::consumer_protocol_subscription::ConsumerProtocolSubscription;
use millpond_wire::find_coordinator::{Coordinator, FindCoordinatorResponse};
use millpond_wire::heartbeat::{HeartbeatRequest, HeartbeatResponse};
use millpond_wire::join_group::{JoinGroupRequest, JoinGroupResponse, JoinGroupResponseMember};
use millpond_wire::leave_group::{LeaveGroupRequest, LeaveGroupResponse};
use millpond_wire::list_offsets::{
    ListOffsetsPartitionResponse, ListOffsetsRequest, ListOffsetsResponse, ListOffsetsTopicResponse,
};
use millpond_wire::metadata::{MetadataRequest, MetadataResponsePartition, MetadataResponseTopic};
use millpond_wire::offset_commit::{
    OffsetCommitRequest, OffsetCommitResponse, OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use millpond_wire::offset_fetch::{OffsetFetchResponse, OffsetFetchResponseGroup};
use millpond_wire::sync_group::{SyncGroupRequest, SyncGroupResponse};
use millpond_wire::{ApiKey, Data, Message};

const APIS: &[(ApiKey, i16, i16)] = &[
    METADATA,
    (ApiKey::FETCH, 4, 17),
    (ApiKey::LIST_OFFSETS, 1, 10),
    (ApiKey::FIND_COORDINATOR, 0, 6),
    (ApiKey::JOIN_GROUP, 0, 9),
    (ApiKey::SYNC_GROUP, 0, 5),
    (ApiKey::HEARTBEAT, 0, 4),
    (ApiKey::LEAVE_GROUP, 0, 5),
    (ApiKey::OFFSET_FETCH, 1, 9),
    (ApiKey::OFFSET_COMMIT, 2, 9),
];
/// Of a coordinator that also serves the consumer protocol.
const NEWER: &[(ApiKey, i16, i16)] = &[
    METADATA,
    (ApiKey::FETCH, 4, 17),
    (ApiKey::LIST_OFFSETS, 1, 10),
    (ApiKey::FIND_COORDINATOR, 0, 6),
    (ApiKey::JOIN_GROUP, 0, 9),
    (ApiKey::SYNC_GROUP, 0, 5),
    (ApiKey::HEARTBEAT, 0, 4),
    (ApiKey::LEAVE_GROUP, 0, 5),
    (ApiKey::OFFSET_FETCH, 1, 9),
    (ApiKey::OFFSET_COMMIT, 2, 9),
    (ApiKey::CONSUMER_GROUP_HEARTBEAT, 0, 1),
];
const BROKERS: &[(i32, &str, i32)] = &[(1, "a", 1), (2, "b", 1)];

#[derive(Default)]
struct State {
    /// 1 or 2.
    coordinator: i32,
    generation: i32,
    /// What the coordinator says next: by API, the error code. The last one first.
    errors: Vec<(ApiKey, ErrorCode)>,
    /// Partitions that the member gets, if it is not the leader.
    given: Option<Vec<i32>>,
    /// Members are to be told anew what they get.
    retarget: bool,
    /// How often the topic was made again.
    remade: u8,
    /// The assignor that the members agree on next is one that there is not.
    strange_assignor: bool,
    /// Answers to this API are held back.
    held: Option<ApiKey>,
    /// The next request to this API is never answered.
    swallow: Option<ApiKey>,
    /// What was asked of the coordinator: the API and what tells.
    seen: Vec<String>,
}

#[derive(Clone)]
struct Fake {
    network: Arc<Network>,
    state: Arc<Mutex<State>>,
}

impl Fake {
    fn start() -> Fake {
        Fake::serving(APIS)
    }

    fn serving(apis: &'static [(ApiKey, i16, i16)]) -> Fake {
        let state = Arc::new(Mutex::new(State { coordinator: 1, ..State::default() }));
        let fake = Fake { network: Network::new(), state };
        for (id, host, _) in BROKERS.iter().copied() {
            let here = fake.clone();
            fake.network.broker(&format!("{host}:1"), move |peer| here.clone().serve(peer, apis, id));
        }
        fake
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics here")
    }

    /// The error for a request to the coordinator that came to this broker.
    fn error(&self, broker: i32, api: ApiKey, seen: String) -> i16 {
        let mut state = self.state();
        state.seen.push(seen);
        if state.coordinator != broker {
            return ErrorCode::NOT_COORDINATOR.0;
        }
        match state.errors.last() {
            Some((of, code)) if *of == api => {
                let code = code.0;
                state.errors.pop();
                code
            }
            _ => 0,
        }
    }

    /// What was told of a request is told, but for what is held back or never answered.
    async fn tell<M: Message>(&self, peer: &mut Peer, asked: &Asked, told: &M) {
        let api = Some(asked.header.api_key);
        if self.state().swallow.take_if(|swallow| Some(*swallow) == api).is_some() {
            return;
        }
        while self.state().held == api {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        peer.answer(asked, told).await;
    }

    async fn serve(self, mut peer: Peer, apis: &'static [(ApiKey, i16, i16)], broker: i32) {
        while let Some(asked) = peer.request().await {
            match asked.header.api_key {
                ApiKey::API_VERSIONS => peer.answer(&asked, &versions(apis)).await,
                ApiKey::METADATA => {
                    let names = asked.body::<MetadataRequest>().topics.unwrap_or_default();
                    let mut told = metadata(1, BROKERS);
                    let remade = self.state().remade;
                    told.topics = names.iter().map(|_| topic(remade)).collect();
                    peer.answer(&asked, &told).await;
                }
                ApiKey::FIND_COORDINATOR => {
                    let host = if self.state().coordinator == 1 { "a" } else { "b" };
                    let found = Coordinator { key: "g".into(), host: host.into(), port: 1, ..Default::default() };
                    let told = FindCoordinatorResponse { coordinators: vec![found], ..Default::default() };
                    peer.answer(&asked, &told).await;
                }
                ApiKey::LIST_OFFSETS => {
                    let request: ListOffsetsRequest = asked.body();
                    let of = |partition_index| ListOffsetsPartitionResponse {
                        partition_index,
                        offset: 0,
                        ..Default::default()
                    };
                    let partitions = request.topics[0].partitions.iter().map(|one| of(one.partition_index)).collect();
                    let topics = vec![ListOffsetsTopicResponse { name: "logs".into(), partitions }];
                    peer.answer(&asked, &ListOffsetsResponse { topics, ..Default::default() }).await;
                }
                ApiKey::OFFSET_FETCH => {
                    let group = OffsetFetchResponseGroup { group_id: "g".into(), ..Default::default() };
                    peer.answer(&asked, &OffsetFetchResponse { groups: vec![group], ..Default::default() }).await;
                }
                ApiKey::JOIN_GROUP => {
                    let told = self.joined(&asked.body(), broker);
                    self.tell(&mut peer, &asked, &told).await;
                }
                ApiKey::SYNC_GROUP => {
                    let told = self.synced(&asked.body(), broker);
                    self.tell(&mut peer, &asked, &told).await;
                }
                ApiKey::HEARTBEAT => {
                    let request: HeartbeatRequest = asked.body();
                    let error_code = self.error(broker, ApiKey::HEARTBEAT, format!("beat {}", request.generation_id));
                    self.tell(&mut peer, &asked, &HeartbeatResponse { error_code, ..Default::default() }).await;
                }
                ApiKey::CONSUMER_GROUP_HEARTBEAT => {
                    let told = self.told(&asked.body(), broker);
                    self.tell(&mut peer, &asked, &told).await;
                }
                ApiKey::LEAVE_GROUP => {
                    let request: LeaveGroupRequest = asked.body();
                    let member = request.members[0].member_id.to_string();
                    let error_code = self.error(broker, ApiKey::LEAVE_GROUP, format!("leave {member}"));
                    self.tell(&mut peer, &asked, &LeaveGroupResponse { error_code, ..Default::default() }).await;
                }
                ApiKey::OFFSET_COMMIT => {
                    let told = self.commit(&asked.body(), broker);
                    self.tell(&mut peer, &asked, &told).await;
                }
                // A fetch waits, here for ever.
                _ => {}
            }
        }
    }

    fn commit(&self, request: &OffsetCommitRequest, broker: i32) -> OffsetCommitResponse {
        let partitions = &request.topics[0].partitions;
        let offsets: Vec<String> =
            partitions.iter().map(|one| format!("{}@{}", one.partition_index, one.committed_offset)).collect();
        let seen = format!("commit {} {}", request.generation_id_or_member_epoch, offsets.join(" "));
        let error_code = self.error(broker, ApiKey::OFFSET_COMMIT, seen);
        let of = |partition_index| OffsetCommitResponsePartition { partition_index, error_code };
        let partitions = partitions.iter().map(|one| of(one.partition_index)).collect();
        let topics = vec![OffsetCommitResponseTopic { name: "logs".into(), partitions, ..Default::default() }];
        OffsetCommitResponse { topics, ..Default::default() }
    }

    fn joined(&self, request: &JoinGroupRequest, broker: i32) -> JoinGroupResponse {
        let metadata = request.protocols[0].metadata.clone();
        let told = ConsumerProtocolSubscription::from_bytes(metadata.clone()).expect("good");
        let owned: usize = told.owned_partitions.iter().map(|of| of.partitions.len()).sum();
        let seen = format!("join '{}' with {owned}", request.member_id);
        let error_code = self.error(broker, ApiKey::JOIN_GROUP, seen);
        if error_code != 0 || request.member_id.is_empty() {
            // As Kafka answers who has no id yet.
            let code = if error_code == 0 { ErrorCode::MEMBER_ID_REQUIRED.0 } else { error_code };
            return JoinGroupResponse { error_code: code, member_id: "m".into(), ..Default::default() };
        }
        let mut state = self.state();
        state.generation += 1;
        let leads = state.given.is_none();
        let strange = std::mem::take(&mut state.strange_assignor);
        let me = JoinGroupResponseMember { member_id: "m".into(), metadata, ..Default::default() };
        JoinGroupResponse {
            generation_id: state.generation,
            protocol_name: Some(if strange { "strange" } else { "cooperative-sticky" }.into()),
            leader: if leads { "m" } else { "other" }.into(),
            member_id: "m".into(),
            members: if leads { vec![me] } else { Vec::new() },
            ..Default::default()
        }
    }

    fn synced(&self, request: &SyncGroupRequest, broker: i32) -> SyncGroupResponse {
        let seen = format!("sync {} with {}", request.generation_id, request.assignments.len());
        let error_code = self.error(broker, ApiKey::SYNC_GROUP, seen);
        let assignment = match &self.state().given {
            Some(partitions) => {
                let assigned = Assigned { topic: "logs".into(), partitions: partitions.clone() };
                let assigned = ConsumerProtocolAssignment { assigned_partitions: vec![assigned], user_data: None };
                assigned.to_bytes(0).expect("short")
            }
            None => request.assignments.first().map_or_else(Bytes::new, |own| own.assignment.clone()),
        };
        SyncGroupResponse { error_code, assignment, ..Default::default() }
    }

    /// The consumer protocol: an assignment is told when it changes, and to who joins.
    fn told(&self, request: &ConsumerGroupHeartbeatRequest, broker: i32) -> ConsumerGroupHeartbeatResponse {
        let owned = request.topic_partitions.as_ref();
        let owned = owned.map(|owned| owned.iter().flat_map(|topic| topic.partitions.clone()).collect::<Vec<i32>>());
        let topics = request.subscribed_topic_names.as_ref().map_or(0, Vec::len);
        let of_remade = |topic: &TopicPartitions| topic.topic_id != [7; 16];
        let remade = request.topic_partitions.as_ref().is_some_and(|topics| topics.iter().any(of_remade));
        let seen = match owned {
            Some(owned) if remade => format!("tell {} {owned:?} of the new topic", request.member_epoch),
            Some(owned) => format!("tell {} {owned:?}, {topics} topics", request.member_epoch),
            None => format!("beat {}", request.member_epoch),
        };
        let error_code = self.error(broker, ApiKey::CONSUMER_GROUP_HEARTBEAT, seen);
        assert!(!request.member_id.is_empty());
        let mut state = self.state();
        if request.member_epoch == 0 {
            assert!(request.rebalance_timeout_ms > 0 && request.topic_partitions.as_ref().is_some_and(Vec::is_empty));
        }
        if error_code == 0 && (request.member_epoch == 0 || state.retarget) {
            state.generation += 1;
        }
        let tell = request.member_epoch == 0 || std::mem::take(&mut state.retarget);
        let partitions = state.given.clone().unwrap_or_default();
        let topic_id = [7 + state.remade; 16];
        let assignment = tell.then(|| Assignment { topic_partitions: vec![TopicPartitions { topic_id, partitions }] });
        ConsumerGroupHeartbeatResponse {
            error_code,
            member_id: Some(request.member_id.clone()),
            member_epoch: state.generation,
            heartbeat_interval_ms: 5000,
            assignment,
            ..Default::default()
        }
    }

    async fn consumer(&self, auto_commit: Option<Duration>) -> Consumer {
        let cluster = Cluster::connect_with(fake::config(), self.network.clone()).await.expect("a broker answers");
        let config = ConsumerConfig::default().group("g").offset_reset(OffsetReset::Earliest).auto_commit(auto_commit);
        Consumer::new(cluster, config)
    }

    async fn member(&self) -> Consumer {
        let consumer = self.consumer(None).await;
        consumer.subscribe(&["logs"]).expect("a good name");
        consumer
    }

    /// One that commits by itself when partitions go and at the end, and begins its four at 0.
    async fn committing_member(&self) -> Consumer {
        let consumer = self.consumer(Some(Duration::from_secs(3600))).await;
        consumer.subscribe(&["logs"]).expect("a good name");
        has(&consumer, 4).await;
        until(|| (0..4).all(|partition| consumer.position(&of(partition)) == Some(0))).await;
        consumer
    }

    /// Waits until this is the last that was seen but heartbeats.
    async fn sees(&self, what: &str) {
        until(|| self.story().last().is_some_and(|seen| seen == what)).await;
    }

    fn calls_for_a_rebalance(&self) {
        self.state().errors.push((ApiKey::HEARTBEAT, ErrorCode::REBALANCE_IN_PROGRESS));
    }

    /// What was seen but heartbeats that went well.
    fn story(&self) -> Vec<String> {
        self.state().seen.iter().filter(|seen| !seen.starts_with("beat")).cloned().collect()
    }
}

fn topic(remade: u8) -> MetadataResponseTopic {
    let partition = |partition_index| MetadataResponsePartition { partition_index, leader_id: 1, ..Default::default() };
    MetadataResponseTopic {
        name: Some("logs".into()),
        topic_id: [7 + remade; 16],
        partitions: (0..4).map(partition).collect(),
        ..Default::default()
    }
}

fn of(partition: i32) -> TopicPartition {
    TopicPartition::new("logs", partition)
}

async fn until(condition: impl Fn() -> bool) {
    let found = tokio::time::timeout(Duration::from_secs(30), async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(found.await.is_ok(), "it does not come to that");
}

async fn has(consumer: &Consumer, count: usize) {
    until(|| consumer.assignment().len() == count).await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_shares_out_beats_and_leaves() {
    let fake = Fake::start();
    let consumer = fake.member().await;
    has(&consumer, 4).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let beats = fake.state().seen.iter().filter(|seen| *seen == "beat 1").count();
    assert!((3..=4).contains(&beats), "{beats} in 10 s");
    consumer.close().await;
    assert_eq!(fake.story(), ["join '' with 0", "join 'm' with 0", "sync 1 with 1", "leave m"]);
}

#[tokio::test(start_paused = true)]
async fn a_rebalance_is_joined_with_what_is_owned_and_what_goes_is_let_go_before_it_is_joined_again() {
    let fake = Fake::start();
    let consumer = fake.member().await;
    has(&consumer, 4).await;
    fake.state().given = Some(vec![1, 2]);
    fake.state().errors.push((ApiKey::HEARTBEAT, ErrorCode::REBALANCE_IN_PROGRESS));
    has(&consumer, 2).await;
    assert_eq!(consumer.assignment(), [TopicPartition::new("logs", 1), TopicPartition::new("logs", 2)]);
    tokio::time::sleep(Duration::from_secs(10)).await;
    let story = fake.story();
    assert_eq!(story[3..], ["join 'm' with 4", "sync 2 with 0", "join 'm' with 2", "sync 3 with 0"]);
}

#[tokio::test(start_paused = true)]
async fn who_is_not_known_any_more_loses_everything_and_joins_anew() {
    for (code, rejoins) in [
        (ErrorCode::UNKNOWN_MEMBER_ID, &["join '' with 0", "join 'm' with 0", "sync 2 with 1"][..]),
        (ErrorCode::ILLEGAL_GENERATION, &["join 'm' with 0", "sync 2 with 1"]),
    ] {
        let fake = Fake::start();
        let consumer = fake.member().await;
        has(&consumer, 4).await;
        fake.state().errors.push((ApiKey::HEARTBEAT, code));
        has(&consumer, 0).await;
        has(&consumer, 4).await;
        assert_eq!(fake.story()[3..], *rejoins, "{code}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_coordinator_that_moves_is_followed_and_nothing_is_lost() {
    let fake = Fake::start();
    let consumer = fake.member().await;
    has(&consumer, 4).await;
    fake.state().coordinator = 2;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(consumer.assignment().len(), 4);
    assert_eq!(fake.story().len(), 3, "it need not join again");
    assert_eq!(fake.network.connects("b:1"), 1);
    // A rebalance that is called for in the middle of another, and a coordinator that is still loading.
    fake.state().errors = vec![
        (ApiKey::JOIN_GROUP, ErrorCode::COORDINATOR_LOAD_IN_PROGRESS),
        (ApiKey::SYNC_GROUP, ErrorCode::REBALANCE_IN_PROGRESS),
        (ApiKey::HEARTBEAT, ErrorCode::REBALANCE_IN_PROGRESS),
    ];
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(consumer.assignment().len(), 4);
    let join = "join 'm' with 4";
    assert_eq!(fake.story()[3..], [join, "sync 2 with 1", join, join, "sync 3 with 1"]);
}

#[tokio::test(start_paused = true)]
async fn who_is_fenced_is_told_and_stays_out_until_it_subscribes_again() {
    let fake = Fake::start();
    let mut consumer = fake.member().await;
    has(&consumer, 4).await;
    fake.state().errors.push((ApiKey::HEARTBEAT, ErrorCode::FENCED_INSTANCE_ID));
    let error = consumer.recv().await.expect_err("it is told");
    assert_eq!((error.code(), error.is_retriable()), (Some(ErrorCode::FENCED_INSTANCE_ID), false));
    has(&consumer, 0).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(fake.story().len(), 3);
    consumer.subscribe(&["logs"]).expect("a good name");
    has(&consumer, 4).await;
}

#[tokio::test(start_paused = true)]
async fn by_the_consumer_protocol_changes_are_told_at_once_and_nothing_else_is_said() {
    let fake = Fake::serving(NEWER);
    fake.state().given = Some(vec![0, 1, 2]);
    let consumer = fake.member().await;
    has(&consumer, 3).await;
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(fake.story(), ["tell 0 [], 1 topics", "tell 1 [0, 1, 2], 0 topics"]);
    {
        let mut state = fake.state();
        (state.given, state.retarget) = (Some(vec![2, 3]), true);
    }
    has(&consumer, 2).await;
    assert_eq!(consumer.assignment(), [TopicPartition::new("logs", 2), TopicPartition::new("logs", 3)]);
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(fake.story()[2..], ["tell 2 [2, 3], 0 topics"]);
    let beats = fake.state().seen.iter().filter(|seen| seen.starts_with("beat")).count();
    assert!((3..=5).contains(&beats), "{beats} in 22 s");
    consumer.close().await;
    assert_eq!(fake.state().seen.last().map(String::as_str), Some("beat -1"), "it says that it goes");
}

#[tokio::test(start_paused = true)]
async fn by_the_consumer_protocol_who_is_fenced_joins_anew_with_nothing() {
    for code in [ErrorCode::FENCED_MEMBER_EPOCH, ErrorCode::UNKNOWN_MEMBER_ID] {
        let fake = Fake::serving(NEWER);
        fake.state().given = Some(vec![0, 1]);
        let consumer = fake.member().await;
        has(&consumer, 2).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        fake.state().errors.push((ApiKey::CONSUMER_GROUP_HEARTBEAT, code));
        has(&consumer, 0).await;
        has(&consumer, 2).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(fake.story()[2..], ["tell 0 [], 1 topics", "tell 2 [0, 1], 0 topics"], "{code}");
    }
}

#[tokio::test(start_paused = true)]
async fn by_the_consumer_protocol_all_is_said_again_to_a_coordinator_that_has_moved() {
    let fake = Fake::serving(NEWER);
    fake.state().given = Some(vec![0, 1]);
    let consumer = fake.member().await;
    has(&consumer, 2).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    fake.state().coordinator = 2;
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(fake.story()[2..], ["tell 1 [0, 1], 1 topics"]);
    assert_eq!(consumer.assignment().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_group_that_stays_classic_is_joined_by_the_classic_protocol() {
    for code in [ErrorCode::GROUP_ID_NOT_FOUND, ErrorCode::UNSUPPORTED_VERSION] {
        let fake = Fake::serving(NEWER);
        fake.state().errors.push((ApiKey::CONSUMER_GROUP_HEARTBEAT, code));
        let consumer = fake.member().await;
        has(&consumer, 4).await;
        let story = fake.story();
        assert_eq!(story, ["tell 0 [], 1 topics", "join '' with 0", "join 'm' with 0", "sync 1 with 1"], "{code}");
        tokio::time::sleep(Duration::from_secs(10)).await;
        consumer.close().await;
        assert_eq!(fake.state().seen.last().map(String::as_str), Some("leave m"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_cannot_share_out_joins_again() {
    let fake = Fake::start();
    fake.state().strange_assignor = true;
    let consumer = fake.member().await;
    has(&consumer, 4).await;
    assert_eq!(fake.story()[1..], ["join 'm' with 0", "join 'm' with 0", "sync 2 with 1"]);
}

#[tokio::test(start_paused = true)]
async fn who_is_told_to_join_with_an_id_that_it_has_is_not_to_be_a_member() {
    let fake = Fake::start();
    fake.state().errors = vec![(ApiKey::JOIN_GROUP, ErrorCode::MEMBER_ID_REQUIRED); 1000];
    let mut consumer = fake.member().await;
    let error = consumer.recv().await.expect_err("it is told");
    assert_eq!(error.code(), Some(ErrorCode::MEMBER_ID_REQUIRED));
    assert_eq!(fake.story(), ["join '' with 0", "join 'm' with 0"]);
}

#[tokio::test(start_paused = true)]
async fn by_the_consumer_protocol_a_topic_that_was_made_again_is_reported_anew() {
    let fake = Fake::serving(NEWER);
    fake.state().given = Some(vec![0, 1]);
    let consumer = fake.member().await;
    has(&consumer, 2).await;
    fake.sees("tell 1 [0, 1], 0 topics").await;
    {
        let mut state = fake.state();
        (state.remade, state.retarget) = (1, true);
    }
    fake.sees("tell 2 [0, 1] of the new topic").await;
    assert_eq!(consumer.assignment(), [of(0), of(1)]);
}

#[tokio::test(start_paused = true)]
async fn what_is_assigned_by_hand_stays_when_the_group_is_left_before() {
    let fake = Fake::start();
    let consumer = fake.committing_member().await;
    consumer.seek(&of(0), 7).expect("assigned");
    consumer.unsubscribe();
    assert_eq!(consumer.assignment(), []);
    consumer.assign([of(1)]).expect("it is not subscribed");
    fake.sees("leave m").await;
    assert_eq!(fake.story()[3..], ["commit 1 0@7 1@0 2@0 3@0", "leave m"]);
    assert_eq!(consumer.assignment(), [of(1)]);
    // Also in the middle of a join.
    fake.state().held = Some(ApiKey::JOIN_GROUP);
    consumer.subscribe(&["logs"]).expect("a good name");
    fake.sees("join '' with 0").await;
    consumer.unsubscribe();
    consumer.assign([of(1)]).expect("it is not subscribed");
    fake.state().held = None;
    fake.sees("leave m").await;
    assert_eq!(consumer.assignment(), [of(1)]);
    // And one that is left and joined again at once is left in between.
    consumer.subscribe(&["logs"]).expect("a good name");
    has(&consumer, 4).await;
    consumer.unsubscribe();
    consumer.subscribe(&["logs"]).expect("a good name");
    has(&consumer, 4).await;
    let story = fake.story();
    let left = story.iter().rposition(|seen| seen == "leave m").expect("it is left");
    assert_eq!(story[left + 1..], ["join '' with 0", "join 'm' with 0", "sync 4 with 1"]);
}

#[tokio::test(start_paused = true)]
async fn what_was_read_by_hand_is_committed_when_it_goes() {
    let fake = Fake::start();
    let consumer = fake.consumer(Some(Duration::from_secs(3600))).await;
    consumer.assign([of(0), of(1)]).expect("good names");
    consumer.seek(&of(0), 5).expect("assigned");
    consumer.seek(&of(1), 6).expect("assigned");
    consumer.assign([of(1)]).expect("good names");
    consumer.subscribe(&["logs"]).expect("a good name");
    has(&consumer, 4).await;
    assert_eq!(fake.story()[..3], ["commit -1 0@5", "commit -1 1@6", "join '' with 0"]);
}

#[tokio::test(start_paused = true)]
async fn commits_are_made_in_their_order_and_none_of_a_partition_that_has_gone() {
    let fake = Fake::start();
    let consumer = fake.committing_member().await;
    {
        let mut state = fake.state();
        (state.given, state.held) = (Some(vec![1, 2]), Some(ApiKey::JOIN_GROUP));
    }
    fake.calls_for_a_rebalance();
    fake.sees("join 'm' with 4").await;
    let early = consumer.commit_offsets(&BTreeMap::from([(of(0), 10)]));
    consumer.seek(&of(0), 20).expect("assigned");
    fake.state().held = None;
    early.await.expect("it is still this member's");
    fake.sees("sync 3 with 0").await;
    let rejoined = ["join 'm' with 2", "sync 3 with 0"];
    let expected =
        [&["join 'm' with 4", "sync 2 with 0", "commit 2 0@10", "commit 2 0@20 3@0"][..], &rejoined].concat();
    assert_eq!(fake.story()[3..], expected);
    let late = consumer.commit_offsets(&BTreeMap::from([(of(0), 10)])).await.expect_err("another reads it");
    assert_eq!(late.code(), Some(ErrorCode::ILLEGAL_GENERATION));
    consumer.commit_offsets(&BTreeMap::from([(of(1), 3)])).await.expect("that one is kept");
    assert_eq!(fake.story()[9..], ["commit 3 1@3"]);
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_has_to_wait_holds_up_no_heartbeat() {
    let fake = Fake::start();
    let consumer = fake.member().await;
    has(&consumer, 4).await;
    fake.state().errors = vec![(ApiKey::OFFSET_COMMIT, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION); 1000];
    let before = fake.state().seen.iter().filter(|seen| *seen == "beat 1").count();
    let error = consumer.commit_offsets(&BTreeMap::from([(of(0), 10)])).await.expect_err("it is not taken");
    assert!(matches!(error, Error::GaveUp { .. }), "{error}");
    let beats = fake.state().seen.iter().filter(|seen| *seen == "beat 1").count() - before;
    assert!((5..=7).contains(&beats), "{beats} in 20 s");
    assert!(fake.story().len() > 10, "it is tried again");
    fake.state().errors.clear();
    consumer.commit_offsets(&BTreeMap::from([(of(0), 11)])).await.expect("it is taken");
}

#[tokio::test(start_paused = true)]
async fn who_is_closed_in_the_middle_commits_what_it_owes_and_leaves() {
    let fake = Fake::start();
    let consumer = fake.committing_member().await;
    {
        let mut state = fake.state();
        (state.given, state.swallow) = (Some(vec![1, 2]), Some(ApiKey::OFFSET_COMMIT));
    }
    fake.calls_for_a_rebalance();
    let gone = "commit 2 0@0 3@0";
    fake.sees(gone).await;
    consumer.close().await;
    assert_eq!(fake.story()[5..], [gone, gone, "commit 2 1@0 2@0", "leave m"]);

    let fake = Fake::start();
    let consumer = fake.member().await;
    has(&consumer, 4).await;
    fake.state().swallow = Some(ApiKey::LEAVE_GROUP);
    consumer.unsubscribe();
    fake.sees("leave m").await;
    consumer.close().await;
    assert_eq!(fake.story()[3..], ["leave m", "leave m"]);

    let fake = Fake::serving(NEWER);
    fake.state().swallow = Some(ApiKey::CONSUMER_GROUP_HEARTBEAT);
    let consumer = fake.member().await;
    fake.sees("tell 0 [], 1 topics").await;
    consumer.close().await;
    assert_eq!(fake.state().seen.last().map(String::as_str), Some("beat -1"), "it may be a member");
}

#[tokio::test(start_paused = true)]
async fn the_last_commit_waits_for_a_rebalance_to_end_and_leaves_time_to_leave() {
    let fake = Fake::start();
    let consumer = fake.committing_member().await;
    fake.state().errors = vec![(ApiKey::OFFSET_COMMIT, ErrorCode::REBALANCE_IN_PROGRESS); 2];
    consumer.close().await;
    let last = "commit 1 0@0 1@0 2@0 3@0";
    assert_eq!(fake.story()[3..], [last, last, last, "leave m"]);

    let fake = Fake::start();
    let consumer = fake.committing_member().await;
    fake.state().errors = vec![(ApiKey::OFFSET_COMMIT, ErrorCode::COORDINATOR_LOAD_IN_PROGRESS); 1000];
    consumer.close().await;
    assert_eq!(fake.story().last().map(String::as_str), Some("leave m"));
}
