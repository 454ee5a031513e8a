//! Requests made of very many tiny elements: what they take of the broker's memory is bounded, whatever they ask for.

#![expect(clippy::disallowed_methods, reason = "drives a real broker over real sockets")]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use millpond_wire::create_topics::{CreatableTopic, CreateTopicsRequest};
use millpond_wire::delete_groups::DeleteGroupsRequest;
use millpond_wire::delete_topics::DeleteTopicsRequest;
use millpond_wire::describe_groups::DescribeGroupsRequest;
use millpond_wire::fetch::{FetchPartition, FetchRequest, FetchTopic};
use millpond_wire::find_coordinator::FindCoordinatorRequest;
use millpond_wire::join_group::{JoinGroupRequest, JoinGroupRequestProtocol};
use millpond_wire::leave_group::{LeaveGroupRequest, MemberIdentity};
use millpond_wire::list_offsets::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic};
use millpond_wire::metadata::{MetadataRequest, MetadataRequestTopic};
use millpond_wire::offset_commit::{OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use millpond_wire::offset_fetch::{OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopic};
use millpond_wire::produce::{PartitionProduceData, ProduceRequest, TopicProduceData};
use millpond_wire::{Request, Str};
use support::{Client, Served};

/// Counts what is allocated at once, by this test's client too.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system allocator unchanged; the counters do not touch the memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(live, Ordering::Relaxed);
        // SAFETY: the caller's promise is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the memory is from `alloc` with this layout.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const MIB: usize = 1 << 20;
/// What any of them may take, on both sides of the connection.
const BOUND: usize = 128 * MIB;

/// Sends a frame and waits for its answer, or for the end of the connection; what was allocated at most meanwhile.
fn peak_of(served: &Served, frame: &[u8]) -> (usize, bool) {
    let mut client = served.client();
    let before = LIVE.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    client.send_bytes(frame);
    let answered = client.receive_frame().is_some();
    (PEAK.load(Ordering::Relaxed) - before, answered)
}

fn frame<R: Request>(version: i16, request: &R) -> Vec<u8> {
    millpond_wire::encode_request(1, None, version, request).expect("it encodes").to_bytes().to_vec()
}

fn names(count: usize) -> impl Iterator<Item = Str> {
    (0..count).map(|number| Str::from(format!("{number:x}").as_str()))
}

fn metadata(count: usize) -> Vec<u8> {
    let topics = names(count).map(|name| MetadataRequestTopic { name: Some(name), ..Default::default() });
    frame(9, &MetadataRequest { topics: Some(topics.collect()), ..Default::default() })
}

fn fetch(count: i32) -> Vec<u8> {
    let partitions = (0..count).map(|partition| FetchPartition { partition, ..Default::default() });
    let topic = FetchTopic { topic: "logs".into(), partitions: partitions.collect(), ..Default::default() };
    frame(12, &FetchRequest { max_wait_ms: 100, min_bytes: 1, topics: vec![topic], ..Default::default() })
}

/// As `fetch`, for a session that is kept.
fn session(count: i32) -> Vec<u8> {
    let partitions = (0..count).map(|partition| FetchPartition { partition, ..Default::default() });
    let topic = FetchTopic { topic: "logs".into(), partitions: partitions.collect(), ..Default::default() };
    frame(12, &FetchRequest { session_epoch: 0, min_bytes: 1, topics: vec![topic], ..Default::default() })
}

fn fetch_topics(count: usize) -> Vec<u8> {
    let partitions = vec![FetchPartition::default()];
    let topics = names(count).map(|topic| FetchTopic { topic, partitions: partitions.clone(), ..Default::default() });
    frame(12, &FetchRequest { topics: topics.collect(), ..Default::default() })
}

fn produce(count: i32, acks: i16) -> Vec<u8> {
    let data = (0..count).map(|index| PartitionProduceData { index, records: None });
    let topic = TopicProduceData { name: "logs".into(), partition_data: data.collect(), ..Default::default() };
    let request = ProduceRequest { acks, timeout_ms: 1000, topic_data: vec![topic], ..Default::default() };
    frame(9, &request)
}

fn list_offsets(count: i32) -> Vec<u8> {
    let partitions = (0..count).map(|partition_index| ListOffsetsPartition { partition_index, ..Default::default() });
    let topic = ListOffsetsTopic { name: "logs".into(), partitions: partitions.collect() };
    frame(7, &ListOffsetsRequest { topics: vec![topic], ..Default::default() })
}

fn create_topics(count: usize) -> Vec<u8> {
    // Refused one by one: there are not as many brokers.
    let topic = |name| CreatableTopic { name, num_partitions: 1, replication_factor: 9, ..Default::default() };
    frame(7, &CreateTopicsRequest { topics: names(count).map(topic).collect(), ..Default::default() })
}

fn delete_topics(count: usize) -> Vec<u8> {
    frame(5, &DeleteTopicsRequest { topic_names: names(count).collect(), ..Default::default() })
}

fn offset_commit(count: usize) -> Vec<u8> {
    // All of one partition: each is committed.
    let partition = OffsetCommitRequestPartition { committed_metadata: Some("x".into()), ..Default::default() };
    let topic =
        OffsetCommitRequestTopic { name: "logs".into(), partitions: vec![partition; count], ..Default::default() };
    let request = OffsetCommitRequest {
        group_id: "g".into(),
        generation_id_or_member_epoch: -1,
        topics: vec![topic],
        ..Default::default()
    };
    frame(8, &request)
}

fn offset_fetch(count: usize) -> Vec<u8> {
    let topic = OffsetFetchRequestTopic { name: "logs".into(), partition_indexes: vec![0; count] };
    frame(7, &OffsetFetchRequest { group_id: "g".into(), topics: Some(vec![topic]), ..Default::default() })
}

fn offset_fetch_groups(count: usize) -> Vec<u8> {
    let group = |group_id| OffsetFetchRequestGroup { group_id, topics: None, ..Default::default() };
    frame(9, &OffsetFetchRequest { groups: names(count).map(group).collect(), ..Default::default() })
}

fn find_coordinators(count: usize) -> Vec<u8> {
    frame(4, &FindCoordinatorRequest { coordinator_keys: names(count).collect(), ..Default::default() })
}

fn describe_groups(count: usize) -> Vec<u8> {
    frame(5, &DescribeGroupsRequest { groups: names(count).collect(), ..Default::default() })
}

fn delete_groups(count: usize) -> Vec<u8> {
    frame(2, &DeleteGroupsRequest { groups_names: names(count).collect() })
}

fn join_group(count: usize) -> Vec<u8> {
    let protocol = |name| JoinGroupRequestProtocol { name, ..Default::default() };
    let request = JoinGroupRequest {
        group_id: "joined".into(),
        session_timeout_ms: 30_000,
        protocol_type: "consumer".into(),
        protocols: names(count).map(protocol).collect(),
        ..Default::default()
    };
    frame(3, &request)
}

fn leave_group(count: usize) -> Vec<u8> {
    let member = |member_id| MemberIdentity { member_id, ..Default::default() };
    let members = names(count).map(member).collect();
    frame(5, &LeaveGroupRequest { group_id: "g".into(), members, ..Default::default() })
}

// One test: the counters are the process's, and tests run side by side.
#[test]
fn a_request_of_very_many_elements_takes_a_bounded_memory_and_the_broker_goes_on() {
    let served = Served::start();
    served.client().create("logs", 1, &[]);
    let mut seen = Vec::new();
    for (what, frame) in [
        ("topics of Metadata", metadata(80_000)),
        ("partitions of Fetch", fetch(80_000)),
        ("partitions of a session", session(80_000)),
        ("partitions of another session", session(40_000)),
        ("topics of Fetch", fetch_topics(30_000)),
        ("partitions of Produce", produce(80_000, -1)),
        ("partitions of Produce without answer", produce(80_000, 0)),
        ("partitions of ListOffsets", list_offsets(80_000)),
        ("topics of CreateTopics", create_topics(20_000)),
        ("topics of DeleteTopics", delete_topics(100_000)),
        ("groups of FindCoordinator", find_coordinators(100_000)),
        ("partitions of OffsetCommit", offset_commit(80_000)),
        ("partitions of OffsetFetch", offset_fetch(200_000)),
        ("groups of OffsetFetch", offset_fetch_groups(50_000)),
        ("groups of DescribeGroups", describe_groups(100_000)),
        ("groups of DeleteGroups", delete_groups(100_000)),
        ("protocols of JoinGroup", join_group(80_000)),
        ("members of LeaveGroup", leave_group(60_000)),
        ("too many partitions of OffsetFetch", offset_fetch(300_000)),
        ("too many topics of Metadata", metadata(500_000)),
        ("too many partitions of Produce", produce(2_000_000, -1)),
        ("too many topics of DeleteTopics", delete_topics(600_000)),
    ] {
        let (peak, answered) = peak_of(&served, &frame);
        assert_eq!(answered, !what.starts_with("too many") && !what.ends_with("without answer"), "{what}");
        assert!(peak <= BOUND, "{what}: {} bytes made {peak}", frame.len());
        seen.push(format!("{what}: frame {} KiB, peak {} KiB", frame.len() >> 10, peak >> 10));
    }
    eprintln!("{}", seen.join("\n"));
    let mut client: Client = served.client();
    assert_eq!(client.produce("logs", -1, support::batch(&["x"])).error_code, 0);
}
