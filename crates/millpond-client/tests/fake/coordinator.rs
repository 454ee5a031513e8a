//! A coordinator of groups that refuses, moves, calls for rebalances, and tells what was asked of it, by both
//! protocols.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use millpond_client::{Cluster, Consumer, ConsumerConfig, ErrorCode, OffsetReset, TopicPartition};
use millpond_record::{BatchBuilder, Timestamp};
use millpond_wire::consumer_group_heartbeat::{
    Assignment, ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, TopicPartitions,
};
use millpond_wire::consumer_protocol_assignment::{ConsumerProtocolAssignment, TopicPartition as Assigned};
use millpond_wire::consumer_protocol_subscription::ConsumerProtocolSubscription;
use millpond_wire::fetch::{FetchRequest, FetchResponse, FetchableTopicResponse, PartitionData};
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
use millpond_wire::offset_fetch::{
    OffsetFetchRequest, OffsetFetchRequestTopics, OffsetFetchResponse, OffsetFetchResponseGroup,
    OffsetFetchResponsePartitions, OffsetFetchResponseTopics,
};
use millpond_wire::sync_group::{SyncGroupRequest, SyncGroupResponse};
use millpond_wire::{ApiKey, Data, Message, Records};

use super::fake::{self, Asked, METADATA, Network, Peer, metadata, versions};

pub fn of(partition: i32) -> TopicPartition {
    TopicPartition::new("logs", partition)
}

pub async fn until(condition: impl Fn() -> bool) {
    let found = tokio::time::timeout(Duration::from_secs(30), async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(found.await.is_ok(), "it does not come to that");
}

pub async fn has(consumer: &Consumer, count: usize) {
    until(|| consumer.assignment().len() == count).await;
}

pub const APIS: &[(ApiKey, i16, i16)] = &[
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
/// Of a coordinator that also serves the first version of the consumer protocol, and matches no expressions.
pub const NEW: &[(ApiKey, i16, i16)] = &[
    METADATA,
    (ApiKey::FETCH, 4, 17),
    (ApiKey::LIST_OFFSETS, 1, 10),
    (ApiKey::FIND_COORDINATOR, 0, 6),
    (ApiKey::OFFSET_FETCH, 1, 9),
    (ApiKey::OFFSET_COMMIT, 2, 9),
    (ApiKey::CONSUMER_GROUP_HEARTBEAT, 0, 0),
];
/// Of a coordinator that also serves the consumer protocol.
pub const NEWER: &[(ApiKey, i16, i16)] = &[
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
/// Longer than any test waits that is about something else.
pub const MAX_POLL_INTERVAL: Duration = Duration::from_secs(3600);
const BROKERS: &[(i32, &str, i32)] = &[(1, "a", 1), (2, "b", 1)];

#[derive(Default)]
pub struct State {
    /// 1 or 2.
    pub coordinator: i32,
    pub generation: i32,
    /// What the coordinator says next: by API, the error code. The last one first.
    pub errors: Vec<(ApiKey, ErrorCode)>,
    /// Partitions that the member gets, if it is not the leader.
    pub given: Option<Vec<i32>>,
    /// Members are to be told anew what they get.
    pub retarget: bool,
    /// How often the topic was made again.
    pub remade: u8,
    /// Topics that there are beside `logs`.
    pub others: Vec<&'static str>,
    /// The assignor that the members agree on next is one that there is not.
    pub strange_assignor: bool,
    /// Partitions whose committed offsets are not told, and why not.
    pub withheld: BTreeMap<i32, ErrorCode>,
    /// Whose committed offsets were asked for.
    pub offsets_asked: Vec<Vec<i32>>,
    /// Answers to this API are held back.
    pub held: Option<ApiKey>,
    /// What all commits are refused with.
    pub refuses_commits: Option<ErrorCode>,
    /// How long a commit takes.
    pub commit_takes: Duration,
    /// The next request to this API is never answered.
    pub swallow: Option<ApiKey>,
    /// The first partition of `logs` has one.
    pub has_record: bool,
    /// What was asked of the coordinator: the API and what tells.
    pub seen: Vec<String>,
}

impl State {
    fn there_are(&self) -> Vec<MetadataResponseTopic> {
        let others = self.others.iter().map(|name| topic(name, name.as_bytes()[0]));
        let internal = MetadataResponseTopic { is_internal: true, ..topic("__logs", 1) };
        [topic("logs", 7 + self.remade), internal].into_iter().chain(others).collect()
    }
}

#[derive(Clone)]
pub struct Fake {
    pub network: Arc<Network>,
    state: Arc<Mutex<State>>,
}

impl Fake {
    pub fn start() -> Fake {
        Fake::serving(APIS)
    }

    pub fn serving(apis: &'static [(ApiKey, i16, i16)]) -> Fake {
        let state = Arc::new(Mutex::new(State { coordinator: 1, ..State::default() }));
        let fake = Fake { network: Network::new(), state };
        for (id, host, _) in BROKERS.iter().copied() {
            let here = fake.clone();
            fake.network.broker(&format!("{host}:1"), move |peer| here.clone().serve(peer, apis, id));
        }
        fake
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
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
                    let names = asked.body::<MetadataRequest>().topics;
                    let mut told = metadata(1, BROKERS);
                    let topics = self.state().there_are();
                    let named = |name: &str| {
                        names.as_ref().is_none_or(|names| names.iter().any(|one| one.name.as_deref() == Some(name)))
                    };
                    told.topics =
                        topics.into_iter().filter(|topic| named(topic.name.as_deref().unwrap_or_default())).collect();
                    self.tell(&mut peer, &asked, &told).await;
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
                    let told = self.committed(&asked.body());
                    peer.answer(&asked, &told).await;
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
                    let takes = self.state().commit_takes;
                    tokio::time::sleep(takes).await;
                    self.tell(&mut peer, &asked, &told).await;
                }
                ApiKey::FETCH if self.state().has_record => {
                    let request: FetchRequest = asked.body();
                    let topic = &request.topics[0];
                    let first = topic.partitions.iter().find(|one| one.partition == 0 && one.fetch_offset == 0);
                    if first.is_some() {
                        let batch = BatchBuilder::new().record(Timestamp(0), None, None).build();
                        let partition = PartitionData { records: Some(Records::from(batch)), ..Default::default() };
                        let topic = FetchableTopicResponse {
                            topic: topic.topic.clone(),
                            topic_id: topic.topic_id,
                            partitions: vec![partition],
                        };
                        peer.answer(&asked, &FetchResponse { responses: vec![topic], ..Default::default() }).await;
                    }
                }
                // A fetch waits, here for ever.
                _ => {}
            }
        }
    }

    fn committed(&self, request: &OffsetFetchRequest) -> OffsetFetchResponse {
        assert!(request.require_stable);
        let mut state = self.state();
        let topics = request.groups[0].topics.clone().unwrap_or_default();
        let asked = topics[0].partition_indexes.clone();
        let told = |partition: &i32| OffsetFetchResponsePartitions {
            partition_index: *partition,
            committed_offset: -1,
            error_code: state.withheld.get(partition).map_or(0, |code| code.0),
            ..Default::default()
        };
        let of = |topic: &OffsetFetchRequestTopics| OffsetFetchResponseTopics {
            name: topic.name.clone(),
            partitions: topic.partition_indexes.iter().map(told).collect(),
            ..Default::default()
        };
        let topics = topics.iter().map(of).collect();
        state.offsets_asked.push(asked);
        let group = OffsetFetchResponseGroup { group_id: "g".into(), topics, ..Default::default() };
        OffsetFetchResponse { groups: vec![group], ..Default::default() }
    }

    fn commit(&self, request: &OffsetCommitRequest, broker: i32) -> OffsetCommitResponse {
        let partitions = &request.topics[0].partitions;
        let offsets: Vec<String> =
            partitions.iter().map(|one| format!("{}@{}", one.partition_index, one.committed_offset)).collect();
        let seen = format!("commit {} {}", request.generation_id_or_member_epoch, offsets.join(" "));
        let error_code = self.error(broker, ApiKey::OFFSET_COMMIT, seen);
        let error_code = self.state().refuses_commits.map_or(error_code, |code| code.0);
        let of = |partition_index| OffsetCommitResponsePartition { partition_index, error_code };
        let partitions = partitions.iter().map(|one| of(one.partition_index)).collect();
        let topics = vec![OffsetCommitResponseTopic { name: "logs".into(), partitions, ..Default::default() }];
        OffsetCommitResponse { topics, ..Default::default() }
    }

    fn joined(&self, request: &JoinGroupRequest, broker: i32) -> JoinGroupResponse {
        let metadata = request.protocols[0].metadata.clone();
        let told = ConsumerProtocolSubscription::from_bytes(metadata.clone()).expect("good");
        let owned: usize = told.owned_partitions.iter().map(|of| of.partitions.len()).sum();
        let topics: Vec<&str> = told.topics.iter().map(|topic| topic.as_str()).collect();
        let of = if topics == ["logs"] { String::new() } else { format!(" of {}", topics.join(" and ")) };
        let seen = format!("join '{}' with {owned}{of}", request.member_id);
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
        let matching = request.subscribed_topic_regex.as_ref();
        let matching = matching.map(|pattern| format!(" and what matches '{pattern}'")).unwrap_or_default();
        let of_remade = |topic: &TopicPartitions| topic.topic_id != [7; 16];
        let remade = request.topic_partitions.as_ref().is_some_and(|topics| topics.iter().any(of_remade));
        let seen = match owned {
            Some(owned) if remade => format!("tell {} {owned:?} of the new topic", request.member_epoch),
            Some(owned) => format!("tell {} {owned:?}, {topics} topics{matching}", request.member_epoch),
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

    pub async fn consumer(&self, auto_commit: Option<Duration>) -> Consumer {
        self.consumer_within(MAX_POLL_INTERVAL, auto_commit).await
    }

    /// One whose caller has to come so often.
    pub async fn consumer_within(&self, interval: Duration, auto_commit: Option<Duration>) -> Consumer {
        self.consumer_with(|config| config.max_poll_interval(interval).auto_commit(auto_commit)).await
    }

    pub async fn consumer_with(&self, configure: impl FnOnce(ConsumerConfig) -> ConsumerConfig) -> Consumer {
        let cluster = Cluster::connect_with(fake::config(), self.network.clone()).await.expect("a broker answers");
        Consumer::new(cluster, configure(ConsumerConfig::default().group("g").offset_reset(OffsetReset::Earliest)))
    }

    pub async fn member(&self) -> Consumer {
        let consumer = self.consumer(None).await;
        consumer.subscribe(&["logs"]).expect("a good name");
        consumer
    }

    /// One that commits by itself when partitions go and at the end, and begins its four at 0.
    pub async fn committing_member(&self) -> Consumer {
        let consumer = self.consumer(Some(Duration::from_secs(3600))).await;
        consumer.subscribe(&["logs"]).expect("a good name");
        has(&consumer, 4).await;
        until(|| (0..4).all(|partition| consumer.position(&of(partition)) == Some(0))).await;
        consumer
    }

    /// Waits until this is the last that was seen but heartbeats.
    pub async fn sees(&self, what: &str) {
        until(|| self.story().last().is_some_and(|seen| seen == what)).await;
    }

    /// The member gets these from now on, by whichever protocol.
    pub fn gives(&self, partitions: &[i32]) {
        {
            let mut state = self.state();
            (state.given, state.retarget) = (Some(partitions.to_vec()), true);
        }
        self.calls_for_a_rebalance();
    }

    pub fn calls_for_a_rebalance(&self) {
        self.state().errors.push((ApiKey::HEARTBEAT, ErrorCode::REBALANCE_IN_PROGRESS));
    }

    /// What was seen but heartbeats that went well.
    pub fn story(&self) -> Vec<String> {
        self.state().seen.iter().filter(|seen| !seen.starts_with("beat")).cloned().collect()
    }
}

fn topic(name: &str, id: u8) -> MetadataResponseTopic {
    let partition = |partition_index| MetadataResponsePartition { partition_index, leader_id: 1, ..Default::default() };
    MetadataResponseTopic {
        name: Some(name.into()),
        topic_id: [id; 16],
        partitions: (0..4).map(partition).collect(),
        ..Default::default()
    }
}
