//! Fetch sessions (KIP-227) against a whole broker.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::support::{Client, PATIENCE, Served, batch, produce_request, values};
use millpond_wire::ErrorCode;
use millpond_wire::delete_records::{DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsTopic};
use millpond_wire::delete_topics::DeleteTopicsRequest;
use millpond_wire::fetch::{FetchPartition, FetchRequest, FetchResponse, FetchTopic, ForgottenTopic, PartitionData};
use millpond_wire::metadata::{MetadataRequest, MetadataRequestTopic};

/// A session as its client knows it.
struct Session {
    id: i32,
    epoch: i32,
}

/// What a fetch asks of one topic: partitions and offsets.
type Asks<'a> = &'a [(i32, i64)];

fn request(session: &Session, asks: Asks<'_>) -> FetchRequest {
    let partition = |&(partition, fetch_offset): &(i32, i64)| FetchPartition {
        partition,
        fetch_offset,
        current_leader_epoch: -1,
        partition_max_bytes: 1 << 20,
        ..Default::default()
    };
    let topic =
        FetchTopic { topic: "logs".into(), partitions: asks.iter().map(partition).collect(), ..Default::default() };
    FetchRequest {
        session_id: session.id,
        session_epoch: session.epoch,
        min_bytes: 1,
        max_bytes: 1 << 20,
        topics: if asks.is_empty() { Vec::new() } else { vec![topic] },
        ..Default::default()
    }
}

impl Session {
    /// A full fetch that begins a session.
    fn begin(client: &mut Client, asks: Asks<'_>) -> (Session, FetchResponse) {
        let answer = client.call(12, &request(&Session { id: 0, epoch: 0 }, asks));
        assert_eq!(ErrorCode(answer.error_code), ErrorCode::NONE);
        (Session { id: answer.session_id, epoch: 1 }, answer)
    }

    fn call(&mut self, client: &mut Client, request: &FetchRequest) -> FetchResponse {
        let answer = client.call(12, request);
        if answer.error_code == 0 {
            assert_eq!(answer.session_id, self.id);
            self.epoch += 1;
        }
        answer
    }

    /// An incremental fetch that does not wait: what the answer names.
    fn fetch(&mut self, client: &mut Client, asks: Asks<'_>) -> Vec<PartitionData> {
        let request = request(self, asks);
        named(self.call(client, &request))
    }

    fn fails(&self, client: &mut Client, version: i16) -> ErrorCode {
        let answer = client.call(version, &request(self, &[]));
        assert!(answer.session_id == 0 && answer.responses.is_empty());
        ErrorCode(answer.error_code)
    }
}

fn named(answer: FetchResponse) -> Vec<PartitionData> {
    assert_eq!(ErrorCode(answer.error_code), ErrorCode::NONE);
    answer.responses.into_iter().flat_map(|topic| topic.partitions).collect()
}

fn indexes(partitions: &[PartitionData]) -> Vec<i32> {
    partitions.iter().map(|partition| partition.partition_index).collect()
}

fn produce(client: &mut Client, partition: i32, values: &[&str]) {
    let answer = client.call(9, &produce_request("logs", -1, vec![(partition, batch(values))]));
    assert_eq!(answer.responses[0].partition_responses[0].error_code, 0);
}

fn delete_records(client: &mut Client, partition: i32, offset: i64) {
    let partitions = vec![DeleteRecordsPartition { partition_index: partition, offset }];
    let topics = vec![DeleteRecordsTopic { name: "logs".into(), partitions }];
    let answer = client.call(2, &DeleteRecordsRequest { topics, timeout_ms: 10_000 });
    assert_eq!(answer.topics[0].partitions[0].error_code, 0);
}

fn started(partitions: i32) -> (Served, Client) {
    let served = Served::start();
    let mut client = served.client();
    client.create("logs", partitions, &[]);
    (served, client)
}

#[test]
fn an_answer_names_only_what_is_new_since_the_last() {
    let (_served, mut client) = started(3);
    produce(&mut client, 1, &["a"]);
    let (mut session, answer) = Session::begin(&mut client, &[(0, 0), (1, 0), (2, 0)]);
    assert!(session.id > 0);
    assert_eq!(indexes(&named(answer)), [0, 1, 2], "a full fetch is answered in full");
    assert_eq!(indexes(&session.fetch(&mut client, &[])), [1], "who does not move on gets the same again");
    assert_eq!(indexes(&session.fetch(&mut client, &[(1, 1)])), [0; 0]);
    produce(&mut client, 2, &["b", "c"]);
    let news = session.fetch(&mut client, &[]);
    assert_eq!((indexes(&news), values(&news[0]), news[0].high_watermark), (vec![2], vec!["b".into(), "c".into()], 2));
    assert_eq!(indexes(&session.fetch(&mut client, &[(2, 2)])), [0; 0]);
    delete_records(&mut client, 2, 1);
    let news = session.fetch(&mut client, &[]);
    assert_eq!((indexes(&news), news[0].log_start_offset), (vec![2], 1), "the log start moved");
    let news = session.fetch(&mut client, &[(0, 9)]);
    assert_eq!((indexes(&news), ErrorCode(news[0].error_code)), (vec![0], ErrorCode::OFFSET_OUT_OF_RANGE));
    assert_eq!(indexes(&session.fetch(&mut client, &[])), [0], "an error is told until it is over");
    assert_eq!(indexes(&session.fetch(&mut client, &[(0, 0)])), [0], "and so is its end");
    assert_eq!(indexes(&session.fetch(&mut client, &[])), [0; 0]);
}

#[test]
fn a_request_that_is_not_the_next_of_its_session_is_refused_as_kafka_refuses_it() {
    let (served, mut client) = started(1);
    let unknown = Session { id: 12345, epoch: 1 };
    assert_eq!(unknown.fails(&mut client, 12), ErrorCode::FETCH_SESSION_ID_NOT_FOUND);
    let (mut session, _) = Session::begin(&mut client, &[(0, 0)]);
    let early = Session { epoch: 2, ..session };
    assert_eq!(early.fails(&mut client, 12), ErrorCode::INVALID_FETCH_SESSION_EPOCH);
    assert_eq!(session.fails(&mut client, 13), ErrorCode::FETCH_SESSION_TOPIC_ID_ERROR);
    // What was refused has changed nothing; another connection may go on.
    let mut other = served.client();
    assert_eq!(session.fetch(&mut other, &[]).len(), 0);
    let late = Session { epoch: 1, ..session };
    assert_eq!(late.fails(&mut client, 12), ErrorCode::INVALID_FETCH_SESSION_EPOCH);
    // A full fetch ends the session that it names.
    let close = FetchRequest { session_epoch: -1, ..request(&session, &[(0, 0)]) };
    let answer = client.call(12, &close);
    assert_eq!((answer.session_id, answer.responses.len()), (0, 1));
    assert_eq!(session.fails(&mut client, 12), ErrorCode::FETCH_SESSION_ID_NOT_FOUND);
    let (first, _) = Session::begin(&mut client, &[(0, 0)]);
    let again = FetchRequest { session_epoch: 0, ..request(&first, &[(0, 0)]) };
    let answer = client.call(12, &again);
    assert!(answer.session_id > 0 && answer.session_id != first.id);
    assert_eq!(first.fails(&mut client, 12), ErrorCode::FETCH_SESSION_ID_NOT_FOUND);
}

#[test]
fn partitions_are_added_and_forgotten_and_a_session_without_any_ends() {
    let (_served, mut client) = started(3);
    let forget = |partitions: &[i32]| {
        vec![ForgottenTopic { topic: "logs".into(), partitions: partitions.to_vec(), ..Default::default() }]
    };
    let (mut session, _) = Session::begin(&mut client, &[(0, 0)]);
    assert_eq!(indexes(&session.fetch(&mut client, &[(2, 0), (7, 0)])), [2, 7], "both are new to the session");
    let without = FetchRequest { forgotten_topics_data: forget(&[7, 0, 1]), ..request(&session, &[]) };
    assert_eq!(indexes(&named(session.call(&mut client, &without))), [0; 0]);
    for partition in 0..3 {
        produce(&mut client, partition, &["x"]);
    }
    assert_eq!(indexes(&session.fetch(&mut client, &[])), [2]);
    let without = FetchRequest { forgotten_topics_data: forget(&[2]), ..request(&session, &[]) };
    let answer = client.call(12, &without);
    assert_eq!((answer.error_code, answer.session_id, answer.responses.len()), (0, 0, 0));
    session.epoch += 1;
    assert_eq!(session.fails(&mut client, 12), ErrorCode::FETCH_SESSION_ID_NOT_FOUND);
}

#[test]
fn a_topic_that_goes_and_comes_again_is_noticed_by_name_and_not_by_id() {
    let (_served, mut client) = started(1);
    let ask = MetadataRequestTopic { name: Some("logs".into()), ..Default::default() };
    let answer = client.call(12, &MetadataRequest { topics: Some(vec![ask]), ..Default::default() });
    let topic_id = answer.topics[0].topic_id;
    let (mut by_name, _) = Session::begin(&mut client, &[(0, 0)]);
    let by_id = |session: &Session, asks: Asks<'_>| {
        let mut request = request(session, asks);
        request.topics.iter_mut().for_each(|topic| topic.topic_id = topic_id);
        request
    };
    let id = client.call(16, &by_id(&Session { id: 0, epoch: 0 }, &[(0, 0)])).session_id;
    assert_eq!(by_name.fetch(&mut client, &[]).len(), 0);
    client.call(5, &DeleteTopicsRequest { topic_names: vec!["logs".into()], timeout_ms: 10_000, ..Default::default() });
    let news = by_name.fetch(&mut client, &[]);
    assert_eq!(ErrorCode(news[0].error_code), ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    let news = named(client.call(16, &by_id(&Session { id, epoch: 1 }, &[])));
    assert_eq!(ErrorCode(news[0].error_code), ErrorCode::UNKNOWN_TOPIC_ID);
    client.create("logs", 1, &[]);
    produce(&mut client, 0, &["new"]);
    assert_eq!(values(&by_name.fetch(&mut client, &[])[0]), ["new"]);
    let news = named(client.call(16, &by_id(&Session { id, epoch: 2 }, &[])));
    assert_eq!(ErrorCode(news[0].error_code), ErrorCode::UNKNOWN_TOPIC_ID);
}

#[test]
fn where_an_answer_cannot_take_all_each_partition_has_its_turn() {
    let (_served, mut client) = started(4);
    for partition in 0..4 {
        produce(&mut client, partition, &["0123456789"]);
    }
    let one_batch = |session: &Session, asks: Asks<'_>| FetchRequest { max_bytes: 1, ..request(session, asks) };
    let answer = client.call(12, &one_batch(&Session { id: 0, epoch: 0 }, &[(0, 0), (1, 0), (2, 0), (3, 0)]));
    let mut session = Session { id: answer.session_id, epoch: 1 };
    let mut turns = vec![0];
    for _ in 0..7 {
        let request = one_batch(&session, &[]);
        turns.extend(indexes(&named(session.call(&mut client, &request))));
    }
    assert_eq!(turns, [0, 1, 2, 3, 0, 1, 2, 3]);
}

#[test]
fn a_fetch_that_waits_hears_of_any_partition_though_the_request_names_none() {
    let (served, mut client) = started(300);
    let all: Vec<(i32, i64)> = (0..300).map(|partition| (partition, 0)).collect();
    let (mut session, _) = Session::begin(&mut client, &all);
    let mut producer = served.client();
    for partition in [299, 0, 150, 150] {
        let waiting = FetchRequest { max_wait_ms: 50_000, ..request(&session, &[]) };
        let start = Instant::now();
        let asked = client.send(12, &waiting);
        produce(&mut producer, partition, &["x"]);
        let answer = client.receive::<FetchRequest>(12, asked);
        session.epoch += 1;
        let news = named(answer);
        assert!(indexes(&news) == [partition] && start.elapsed() < Duration::from_secs(40), "{:?}", start.elapsed());
        assert!(session.fetch(&mut client, &[(partition, news[0].high_watermark)]).is_empty());
    }
}

#[test]
fn without_a_free_slot_a_client_works_without_a_session() {
    let served = Served::with(&[("max.incremental.fetch.session.cache.slots", "1")]);
    let mut client = served.client();
    client.create("logs", 1, &[]);
    let (first, _) = Session::begin(&mut client, &[(0, 0)]);
    let (second, answer) = Session::begin(&mut client, &[(0, 0)]);
    assert!(first.id > 0 && second.id == 0 && named(answer).len() == 1);
    client.call(12, &FetchRequest { session_epoch: -1, ..request(&first, &[]) });
    assert!(Session::begin(&mut client, &[(0, 0)]).0.id > 0);
}

#[test]
fn a_session_whose_client_goes_while_it_waits_is_over() {
    let (served, mut client) = started(1);
    let (session, _) = Session::begin(&mut client, &[(0, 0)]);
    client.send(12, &FetchRequest { max_wait_ms: 50_000, ..request(&session, &[]) });
    drop(client);
    let mut other = served.client();
    let deadline = Instant::now() + PATIENCE;
    // Until its end is seen it is another request's turn, or this one's by a hair.
    while (Session { epoch: 2, ..session }).fails(&mut other, 12) != ErrorCode::FETCH_SESSION_ID_NOT_FOUND {
        assert!(Instant::now() < deadline);
    }
}

#[test]
fn what_a_client_knows_from_its_session_is_what_a_full_fetch_tells() {
    const PARTITIONS: i32 = 12;
    let (served, mut client) = started(PARTITIONS);
    let mut full = served.client();
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut draw = |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    // By partition: the offset that is asked for, and the high watermark and log start that are known.
    let mut known: BTreeMap<i32, (i64, i64, i64)> = BTreeMap::new();
    let mut ends = [0_i64; PARTITIONS as usize];
    let (mut session, _) = Session::begin(&mut client, &[(0, 0)]);
    known.insert(0, (0, 0, 0));
    let mut changes: Vec<(i32, i64)> = Vec::new();
    for _ in 0..400 {
        let partition = draw(PARTITIONS as u64) as i32;
        match draw(6) {
            0 | 1 => {
                produce(&mut client, partition, &["x"]);
                ends[partition as usize] += 1;
            }
            2 => delete_records(&mut client, partition, ends[partition as usize]),
            3 => {
                known.entry(partition).or_insert((0, -1, -1)).0 = ends[partition as usize];
                changes.push((partition, ends[partition as usize]));
            }
            _ => {
                for data in session.fetch(&mut client, &std::mem::take(&mut changes)) {
                    let view = known.get_mut(&data.partition_index).expect("the client follows it");
                    (view.1, view.2) = (data.high_watermark, data.log_start_offset);
                    let out_of_range = ErrorCode(data.error_code) == ErrorCode::OFFSET_OUT_OF_RANGE;
                    if out_of_range || !values(&data).is_empty() {
                        view.0 = ends[data.partition_index as usize];
                        changes.push((data.partition_index, view.0));
                    }
                }
                if !changes.is_empty() {
                    continue;
                }
                let asks: Vec<(i32, i64)> = known.iter().map(|(partition, view)| (*partition, view.0)).collect();
                let told = named(full.call(12, &request(&Session { id: 0, epoch: -1 }, &asks)));
                for (data, (partition, view)) in told.iter().zip(&known) {
                    assert_eq!((data.error_code, data.partition_index), (0, *partition));
                    assert_eq!((data.high_watermark, data.log_start_offset), (view.1, view.2), "partition {partition}");
                    assert!(values(data).is_empty(), "records of {partition} were kept back");
                }
            }
        }
    }
    assert!(known.len() > 8);
}
