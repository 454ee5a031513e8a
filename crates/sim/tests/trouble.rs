//! Clients and disks that make trouble, in simulated time: limits that take minutes to show take none here.

use std::time::Duration;

use bytes::Bytes;
use millpond_broker::{Broker, BrokerConfig};
use millpond_record::{BatchBuilder, Timestamp};
use millpond_runtime::sim::{Crash, DiskFaults, NodeId, World, block_on};
use millpond_runtime::{Runtime, Stream};
use millpond_wire::create_topics::{CreatableTopic, CreateTopicsRequest};
use millpond_wire::delete_topics::DeleteTopicsRequest;
use millpond_wire::describe_log_dirs::DescribeLogDirsRequest;
use millpond_wire::describe_topic_partitions::{DescribeTopicPartitionsRequest, TopicRequest};
use millpond_wire::fetch::{FetchPartition, FetchRequest, FetchTopic};
use millpond_wire::metadata::{MetadataRequest, MetadataRequestTopic};
use millpond_wire::produce::{PartitionProduceData, PartitionProduceResponse, ProduceRequest, TopicProduceData};
use millpond_wire::{ErrorCode, Records, Str, encode_request};
use sim::Connection;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const BROKER: NodeId = NodeId(1);
const CLIENTS: NodeId = NodeId(2);
const PORT: u16 = 9092;

/// A broker on a simulated machine, and a runtime for clients on another.
struct Scene {
    world: World,
    clients: Runtime,
    broker: Broker,
}

impl Scene {
    async fn start(settings: &[(&str, &str)]) -> Scene {
        Scene::on_disk_of(1 << 30, settings).await
    }

    async fn on_disk_of(capacity_bytes: u64, settings: &[(&str, &str)]) -> Scene {
        let world = World::new(7);
        world.set_disk_faults(BROKER, DiskFaults { capacity_bytes, ..DiskFaults::default() });
        Scene::in_world(world, settings).await
    }

    async fn in_world(world: World, settings: &[(&str, &str)]) -> Scene {
        // The batches are older than a week.
        let given = [("log.dir", "/data"), ("millpond.journal.file.bytes", "1048576"), ("log.retention.ms", "-1")];
        let mut config = BrokerConfig::resolve(given.iter().chain(settings).copied()).expect("good settings");
        config.journal_files = 3;
        config.kafka = world.address(BROKER, PORT);
        config.http = world.address(BROKER, PORT + 1);
        let runtime = world.runtime_for(BROKER);
        let in_task = runtime.clone();
        let broker = runtime.spawn(async move { Broker::start(in_task, config).await }).await.expect("it runs");
        Scene { clients: world.runtime_for(CLIENTS), broker: broker.expect("it starts"), world }
    }

    async fn stream(&self) -> Stream {
        self.clients.connect(self.world.address(BROKER, PORT)).await.expect("it accepts")
    }

    async fn client(&self) -> Connection {
        Connection::open(&self.clients, self.world.address(BROKER, PORT), "test").await.expect("it accepts")
    }

    /// How many milliseconds of simulated time something takes.
    async fn time<T>(&self, what: impl Future<Output = T>) -> (T, u64) {
        let before = self.world.elapsed_ms();
        let result = what.await;
        (result, self.world.elapsed_ms() - before)
    }

    /// Whether the broker answers a new client.
    async fn answers(&self) {
        let mut client = self.client().await;
        let request = MetadataRequest { topics: Some(Vec::new()), ..Default::default() };
        client.send(9, &request).await.expect("sent");
        assert_eq!(client.receive::<MetadataRequest>(9).await.expect("an answer").brokers.len(), 1);
    }
}

async fn create(client: &mut Connection, topic: &str) {
    assert_eq!(try_create(client, topic).await, 0);
}

async fn try_create(client: &mut Connection, topic: &str) -> i16 {
    let topic = CreatableTopic {
        name: Str::from(topic),
        num_partitions: 1,
        replication_factor: 1,
        ..CreatableTopic::default()
    };
    let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: 10_000, ..Default::default() };
    client.send(7, &request).await.expect("sent");
    let answer = client.receive::<CreateTopicsRequest>(7).await.expect("an answer");
    answer.topics[0].error_code
}

fn batch(bytes: usize) -> Bytes {
    BatchBuilder::new().record(Timestamp(1_700_000_000_000), None, Some(&vec![b'x'; bytes])).build()
}

fn produce_request(topic: &str, batch: Bytes) -> ProduceRequest {
    let data = PartitionProduceData { index: 0, records: Some(Records::from(batch)) };
    let topic = TopicProduceData { name: Str::from(topic), partition_data: vec![data], ..Default::default() };
    ProduceRequest { transactional_id: None, acks: -1, timeout_ms: 10_000, topic_data: vec![topic] }
}

async fn produce(client: &mut Connection, topic: &str, bytes: usize) -> PartitionProduceResponse {
    client.send(9, &produce_request(topic, batch(bytes))).await.expect("sent");
    let mut answer = client.receive::<ProduceRequest>(9).await.expect("an answer");
    answer.responses.remove(0).partition_responses.remove(0)
}

fn fetch_request(topic: &str, max_wait_ms: i32) -> FetchRequest {
    let partition = FetchPartition { partition_max_bytes: 1 << 20, ..Default::default() };
    let topic = FetchTopic { topic: Str::from(topic), partitions: vec![partition], ..Default::default() };
    FetchRequest { max_wait_ms, min_bytes: 1, max_bytes: 1 << 20, topics: vec![topic], ..Default::default() }
}

/// Waits until the broker closes the stream, for at most an hour.
async fn closed(scene: &Scene, stream: &mut Stream) {
    let mut rest = Vec::new();
    let closing = scene.clients.timeout(Duration::from_secs(3600), stream.read_to_end(&mut rest));
    // A reset is an end too.
    let _ = closing.await.expect("it is closed");
}

#[test]
fn an_idle_client_is_closed_after_its_time_and_one_that_waits_for_an_answer_is_not() {
    block_on(1, async {
        let scene = Scene::start(&[("connections.max.idle.ms", "60000")]).await;
        let mut waiting = scene.client().await;
        create(&mut waiting, "logs").await;
        let mut idle = scene.stream().await;
        let mut half = scene.stream().await;
        half.write_all(&[0, 0, 0, 99, 0, 3]).await.expect("sent");
        waiting.send(12, &fetch_request("logs", 300_000)).await.expect("sent");
        let ((), took) = scene.time(closed(&scene, &mut idle)).await;
        assert!((55_000..75_000).contains(&took), "{took} ms");
        let ((), took) = scene.time(closed(&scene, &mut half)).await;
        assert!(took < 15_000, "{took} ms more");
        // No fetch waits for longer than a client may be idle.
        for _ in 0..2 {
            assert_eq!(waiting.receive::<FetchRequest>(12).await.expect("an answer").error_code, 0);
            waiting.send(12, &fetch_request("logs", 300_000)).await.expect("sent");
        }
        let (answer, took) = scene.time(waiting.receive::<FetchRequest>(12)).await;
        assert_eq!(answer.expect("an answer").error_code, 0);
        assert!((55_000..75_000).contains(&took), "{took} ms");
    });
}

#[test]
fn a_client_that_reads_no_answers_is_closed_when_others_need_the_memory_and_they_go_on() {
    block_on(2, async {
        let scene = Scene::start(&[("millpond.answer.memory.bytes", "1048576")]).await;
        let mut client = scene.client().await;
        create(&mut client, "logs").await;
        assert_eq!(produce(&mut client, "logs", 900_000).await.error_code, 0);
        let mut lazy = Vec::new();
        for _ in 0..5 {
            let mut stream = scene.stream().await;
            for id in 0..3 {
                let frame = encode_request(id, None, 12, &fetch_request("logs", 0)).expect("it encodes");
                stream.write_all(&frame.to_bytes()).await.expect("sent");
            }
            lazy.push(stream);
        }
        scene.clients.sleep(Duration::from_secs(2)).await;
        let (answer, took) = scene
            .time(async {
                client.send(12, &fetch_request("logs", 0)).await.expect("sent");
                client.receive::<FetchRequest>(12).await
            })
            .await;
        let found = answer.expect("an answer").responses[0].partitions[0].records.as_ref().map_or(0, Records::len);
        assert!(found > 900_000, "{found} bytes");
        // There is room for one answer, and each of the five may have its turn before, of two windows at most.
        assert!(took < 100_000, "{took} ms");
        for mut stream in lazy {
            closed(&scene, &mut stream).await;
        }
        scene.answers().await;
    });
}

#[test]
fn produce_does_not_wait_for_the_memory_that_slow_readers_hold() {
    block_on(3, async {
        let scene = Scene::start(&[("millpond.answer.memory.bytes", "1048576")]).await;
        let mut client = scene.client().await;
        create(&mut client, "logs").await;
        assert_eq!(produce(&mut client, "logs", 1_000_000).await.error_code, 0);
        let mut lazy = Vec::new();
        for _ in 0..3 {
            let mut stream = scene.stream().await;
            let frame = encode_request(1, None, 12, &fetch_request("logs", 0)).expect("it encodes");
            stream.write_all(&frame.to_bytes()).await.expect("sent");
            lazy.push(stream);
        }
        scene.clients.sleep(Duration::from_secs(1)).await;
        let (answer, took) = scene.time(produce(&mut client, "logs", 1000)).await;
        assert_eq!(answer.error_code, 0);
        assert!(took < 3_000, "{took} ms");
    });
}

#[test]
fn a_client_that_announces_much_and_sends_little_is_closed_when_others_wait_for_memory() {
    block_on(4, async {
        let scene = Scene::start(&[("queued.max.request.bytes", "1048576")]).await;
        let mut client = scene.client().await;
        create(&mut client, "logs").await;
        let mut slow = scene.stream().await;
        // A Produce of 50 MB, of which the first bytes come.
        slow.write_all(&[&50_000_000_i32.to_be_bytes()[..], &[0; 100]].concat()).await.expect("sent");
        scene.clients.sleep(Duration::from_secs(1)).await;
        let (answer, took) = scene.time(produce(&mut client, "logs", 1000)).await;
        assert_eq!(answer.error_code, 0);
        assert!((1_000..30_000).contains(&took), "{took} ms");
        closed(&scene, &mut slow).await;
        drop(scene.broker);
    });
}

async fn delete(client: &mut Connection, topic: &str) {
    let request = DeleteTopicsRequest { topic_names: vec![Str::from(topic)], timeout_ms: 10_000, ..Default::default() };
    client.send(5, &request).await.expect("sent");
    let answer = client.receive::<DeleteTopicsRequest>(5).await.expect("an answer");
    assert_eq!(answer.responses[0].error_code, 0, "{answer:?}");
}

#[test]
fn a_full_disk_refuses_produce_in_time_loses_nothing_and_recovers_when_a_topic_is_deleted() {
    for seed in 0..5 {
        block_on(seed, async {
            let scene = Scene::on_disk_of(64 << 20, &[("millpond.disk.min.free.bytes", "4194304")]).await;
            let mut client = scene.client().await;
            create(&mut client, "kept").await;
            create(&mut client, "dropped").await;
            let mut kept = 0;
            // As fast as it goes: most of the disk between two looks at it.
            let refusal = loop {
                let answer = produce(&mut client, "dropped", 900_000).await;
                if answer.error_code != 0 {
                    break answer;
                }
                assert_eq!(produce(&mut client, "kept", 100_000).await.error_code, 0);
                kept += 1;
                assert!(kept < 100, "64 MB are full");
            };
            assert_eq!(ErrorCode(refusal.error_code), ErrorCode::POLICY_VIOLATION);
            let message = refusal.error_message.expect("a sentence");
            assert!(message.contains("the broker's disk is full"), "{message}");
            assert!(kept > 20, "{kept} were taken");
            // Group 0 and the reader go on.
            let answer = try_create(&mut client, "another").await;
            assert_eq!(ErrorCode(answer), ErrorCode::POLICY_VIOLATION);
            assert_eq!(auto_create(&mut client, "on-demand").await, ErrorCode::POLICY_VIOLATION);
            assert_eq!(end_of(&mut client, "kept").await, kept);

            delete(&mut client, "dropped").await;
            let ((), took) = scene
                .time(async {
                    while produce(&mut client, "kept", 100_000).await.error_code != 0 {
                        scene.clients.sleep(Duration::from_millis(100)).await;
                    }
                })
                .await;
            assert!(took < 10_000, "{took} ms");
            assert_eq!(end_of(&mut client, "kept").await, kept + 1);
            create(&mut client, "another").await;
        });
    }
}

#[test]
fn a_broker_on_a_full_disk_starts_and_serves_what_it_has() {
    block_on(9, async {
        let scene = Scene::on_disk_of(64 << 20, &[]).await;
        let mut client = scene.client().await;
        create(&mut client, "logs").await;
        let mut written = 0;
        while produce(&mut client, "logs", 900_000).await.error_code == 0 {
            written += 1;
        }
        scene.world.crash(BROKER, Crash::Kill);
        scene.world.restart(BROKER);
        let scene = Scene::in_world(scene.world.clone(), &[]).await;
        let mut client = scene.client().await;
        assert_eq!(end_of(&mut client, "logs").await, written);
        let refused = produce(&mut client, "logs", 900_000).await;
        assert_eq!(ErrorCode(refused.error_code), ErrorCode::POLICY_VIOLATION);
    });
}

async fn end_of(client: &mut Connection, topic: &str) -> i64 {
    let request = FetchRequest { min_bytes: 0, ..fetch_request(topic, 0) };
    client.send(12, &request).await.expect("sent");
    let answer = client.receive::<FetchRequest>(12).await.expect("an answer");
    answer.responses[0].partitions[0].high_watermark
}

/// What a topic that is created on demand is answered first.
async fn auto_create(client: &mut Connection, topic: &str) -> ErrorCode {
    let topic = MetadataRequestTopic { name: Some(Str::from(topic)), ..Default::default() };
    let request = MetadataRequest { topics: Some(vec![topic]), allow_auto_topic_creation: true, ..Default::default() };
    client.send(9, &request).await.expect("sent");
    ErrorCode(client.receive::<MetadataRequest>(9).await.expect("an answer").topics[0].error_code)
}

#[test]
fn what_a_client_sent_with_acks_0_before_it_left_is_written_however_long_it_waits_for_memory() {
    block_on(5, async {
        let scene = Scene::start(&[("queued.max.request.bytes", "1048576")]).await;
        let mut client = scene.client().await;
        create(&mut client, "logs").await;
        let mut slow = scene.stream().await;
        slow.write_all(&[&50_000_000_i32.to_be_bytes()[..], &[0; 100]].concat()).await.expect("sent");
        scene.clients.sleep(Duration::from_secs(1)).await;
        for _ in 0..20 {
            let mut leaving = scene.client().await;
            let request = ProduceRequest { acks: 0, ..produce_request("logs", batch(1000)) };
            leaving.send_unanswered(9, &request).await.expect("sent");
        }
        closed(&scene, &mut slow).await;
        let limit = scene.world.elapsed_ms() + 30_000;
        while end_of(&mut client, "logs").await < 20 {
            assert!(scene.world.elapsed_ms() < limit, "they were dropped");
            scene.clients.sleep(Duration::from_millis(100)).await;
        }
    });
}

#[test]
fn a_fetch_that_waits_on_a_topic_hears_at_once_that_it_was_deleted() {
    block_on(6, async {
        let scene = Scene::start(&[]).await;
        let (mut admin, mut waiting) = (scene.client().await, scene.client().await);
        create(&mut admin, "logs").await;
        waiting.send(12, &fetch_request("logs", 300_000)).await.expect("sent");
        scene.clients.sleep(Duration::from_secs(5)).await;
        delete(&mut admin, "logs").await;
        let (answer, took) = scene.time(waiting.receive::<FetchRequest>(12)).await;
        let code = answer.expect("an answer").responses[0].partitions[0].error_code;
        assert_eq!(ErrorCode(code), ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
        assert!(took < 5_000, "{took} ms");
    });
}

/// The first line of the answer to a request on the HTTP port.
async fn http(world: &World, clients: &Runtime, path: &str) -> Option<String> {
    let mut stream = clients.connect(world.address(BROKER, PORT + 1)).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.ok()?;
    text.lines().next().map(str::to_owned)
}

#[test]
fn a_broker_that_is_still_recovering_says_that_it_lives_and_is_not_ready() {
    block_on(8, async {
        let world = World::new(8);
        world.set_disk_faults(BROKER, DiskFaults { slow_sync: 1.0, slow_sync_ms: 20_000, ..DiskFaults::default() });
        let clients = world.runtime_for(CLIENTS);
        let in_scene = world.clone();
        let starting = clients.spawn(async move { Scene::in_world(in_scene, &[]).await });
        while http(&world, &clients, "/live").await.is_none() {
            clients.sleep(Duration::from_millis(1)).await;
        }
        assert!(!starting.is_finished());
        for (path, expected) in [("/live", "200 OK"), ("/ready", "503 Service Unavailable")] {
            let line = http(&world, &clients, path).await.expect("an answer");
            assert_eq!(line, format!("HTTP/1.1 {expected}"), "{path}");
        }
        assert!(!starting.is_finished(), "all that was while it recovered");
        let scene = starting.await.expect("it starts");
        assert_eq!(http(&world, &clients, "/ready").await.as_deref(), Some("HTTP/1.1 200 OK"));
        drop(scene);
    });
}

/// Nothing can be written to the folder of the first partition of "logs".
fn logs_fail() -> DiskFaults {
    DiskFaults { write_error: 1.0, write_error_in: "/logs-0/", ..DiskFaults::default() }
}

#[test]
fn a_topic_whose_partition_cannot_be_made_is_served_as_soon_as_it_can() {
    block_on(10, async {
        let scene = Scene::start(&[]).await;
        let mut client = scene.client().await;
        scene.world.set_disk_faults(BROKER, logs_fail());
        assert_eq!(ErrorCode(try_create(&mut client, "logs").await), ErrorCode::KAFKA_STORAGE_ERROR);
        assert_eq!(ErrorCode(try_create(&mut client, "logs").await), ErrorCode::TOPIC_ALREADY_EXISTS);
        create(&mut client, "another").await;
        scene.clients.sleep(Duration::from_secs(60)).await;
        assert_eq!(auto_create(&mut client, "logs").await, ErrorCode::LEADER_NOT_AVAILABLE);
        scene.world.set_disk_faults(BROKER, DiskFaults::default());
        scene.clients.sleep(Duration::from_secs(10)).await;
        assert_eq!(produce(&mut client, "logs", 100).await.base_offset, 0);
        assert_eq!(produce(&mut client, "another", 100).await.base_offset, 0);
    });
}

#[test]
fn a_topic_whose_partition_could_not_be_made_leaves_nothing_behind_when_it_is_deleted() {
    block_on(11, async {
        let scene = Scene::start(&[]).await;
        let mut client = scene.client().await;
        scene.world.set_disk_faults(BROKER, logs_fail());
        assert_eq!(ErrorCode(try_create(&mut client, "logs").await), ErrorCode::KAFKA_STORAGE_ERROR);
        delete(&mut client, "logs").await;
        scene.world.set_disk_faults(BROKER, DiskFaults::default());
        create(&mut client, "logs").await;
        assert_eq!(produce(&mut client, "logs", 100).await.base_offset, 0);
    });
}

#[test]
fn a_partition_that_has_failed_has_no_leader_however_a_client_asks() {
    block_on(12, async {
        let scene = Scene::start(&[]).await;
        let mut client = scene.client().await;
        create(&mut client, "logs").await;
        scene.world.set_disk_faults(BROKER, logs_fail());
        while produce(&mut client, "logs", 100_000).await.error_code == 0 {
            scene.clients.sleep(Duration::from_secs(1)).await;
        }
        // A write that failed is tried again for a while.
        scene.clients.sleep(Duration::from_secs(120)).await;
        let code = produce(&mut client, "logs", 100).await.error_code;
        assert_eq!(ErrorCode(code), ErrorCode::KAFKA_STORAGE_ERROR);
        let topic = MetadataRequestTopic { name: Some(Str::from("logs")), ..Default::default() };
        client.send(9, &MetadataRequest { topics: Some(vec![topic]), ..Default::default() }).await.expect("sent");
        let found =
            client.receive::<MetadataRequest>(9).await.expect("an answer").topics.remove(0).partitions.remove(0);
        let topics = vec![TopicRequest { name: Str::from("logs") }];
        let request = DescribeTopicPartitionsRequest { topics, response_partition_limit: 9, cursor: None };
        client.send(0, &request).await.expect("sent");
        let answer = client.receive::<DescribeTopicPartitionsRequest>(0).await.expect("an answer");
        let described = &answer.topics[0].partitions[0];
        let expected = (ErrorCode::LEADER_NOT_AVAILABLE.0, -1, &vec![], &vec![1], &vec![1]);
        assert_eq!(
            (found.error_code, found.leader_id, &found.isr_nodes, &found.replica_nodes, &found.offline_replicas),
            expected
        );
        let replicas = (&described.isr_nodes, &described.replica_nodes, &described.offline_replicas);
        assert_eq!((described.error_code, described.leader_id, replicas.0, replicas.1, replicas.2), expected);
    });
}

#[test]
fn a_directory_that_has_failed_says_so_until_the_broker_ends() {
    block_on(13, async {
        let scene = Scene::start(&[]).await;
        let mut client = scene.client().await;
        create(&mut client, "logs").await;
        scene.world.set_disk_faults(
            BROKER,
            DiskFaults { sync_error: 1.0, sync_error_in: "/journal/", ..DiskFaults::default() },
        );
        assert_eq!(ErrorCode(produce(&mut client, "logs", 100).await.error_code), ErrorCode::KAFKA_STORAGE_ERROR);
        scene.broker.fatal().await;
        client.send(4, &DescribeLogDirsRequest { topics: None }).await.expect("sent");
        let answer = client.receive::<DescribeLogDirsRequest>(4).await.expect("an answer");
        let (dir, code) = (&answer.results[0], ErrorCode(answer.results[0].error_code));
        assert_eq!((dir.log_dir.as_str(), code, dir.topics.len()), ("/data", ErrorCode::KAFKA_STORAGE_ERROR, 0));
    });
}
