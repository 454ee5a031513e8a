//! The accumulator against a cluster that keeps to the protocol and fails in every way that it may: whatever happens,
//! each acknowledged record is in its partition once, and in order.
#![expect(clippy::disallowed_methods, reason = "only takes a point in time to count from")]

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use millpond_record::{BatchView, DecompressLimit, records};
use millpond_wire::ErrorCode;
use millpond_wire::metadata::{MetadataResponse, MetadataResponsePartition, MetadataResponseTopic};
use proptest::prelude::*;
use tokio::time::Instant;

use super::accumulator::{Accumulator, PartAnswer, Place};
use super::batch::{Done, Identity, Payload};
use super::config::ProducerConfig;
use super::delivery::Delivery;
use super::queue::Verdict;
use super::record::NewRecord;
use crate::config::ClientConfig;
use crate::error::Error;

const PARTITIONS: usize = 2;
const BROKERS: i32 = 3;
/// Batches that a broker recognizes when they come again.
const REMEMBERED: usize = 5;

/// What happens next.
#[derive(Clone, Debug)]
enum Step {
    /// So many records for a partition.
    Append(usize, u8),
    /// The driver looks and sends.
    Look,
    /// A broker works on the next request.
    Work(i32, Trouble),
    /// The next answer of a broker arrives.
    Answer(i32),
    /// A broker's connection is lost, with what is in it. The broker may still find the requests that it was sent.
    Break(i32),
    /// A broker works on a request that came over a lost connection.
    Ghost,
    /// A partition gets another leader.
    Move(usize, i32),
    /// A partition's leader starts again, and knows no more than the last batch of each producer.
    Restart(usize),
    Wait(u16),
}

/// What goes wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    No,
    /// Refused, and it will pass.
    Passing,
    /// Written, but the broker says that it may not be.
    InDoubt,
    /// Refused for good.
    Forever,
}

fn step() -> impl Strategy<Value = Step> {
    let broker = 0..BROKERS;
    let trouble = prop_oneof![
        12 => Just(Trouble::No),
        2 => Just(Trouble::Passing),
        2 => Just(Trouble::InDoubt),
        1 => Just(Trouble::Forever),
    ];
    prop_oneof![
        6 => (0..PARTITIONS, 1..4_u8).prop_map(|(partition, count)| Step::Append(partition, count)),
        8 => Just(Step::Look),
        8 => (broker.clone(), trouble).prop_map(|(broker, trouble)| Step::Work(broker, trouble)),
        8 => broker.clone().prop_map(Step::Answer),
        2 => broker.clone().prop_map(Step::Break),
        2 => Just(Step::Ghost),
        1 => (0..PARTITIONS, broker).prop_map(|(partition, broker)| Step::Move(partition, broker)),
        1 => (0..PARTITIONS).prop_map(Step::Restart),
        3 => (1..200_u16).prop_map(Step::Wait),
        1 => (1000..30_000_u16).prop_map(Step::Wait),
    ]
}

/// A partition as all replicas have it.
#[derive(Default)]
struct Log {
    leader: i32,
    epoch: i32,
    records: Vec<u32>,
    /// By producer id: its epoch, and its last batches.
    producers: BTreeMap<i64, (i16, VecDeque<Known>)>,
}

/// A batch by its first and last sequence, and its base offset.
type Known = (i32, i32, i64);

impl Log {
    fn restart(&mut self) {
        for (_, batches) in self.producers.values_mut() {
            batches.drain(..batches.len().saturating_sub(1));
        }
    }

    /// What a leader does with a batch: the base offset, or the error code.
    fn produce(&mut self, bytes: &Bytes) -> Result<i64, ErrorCode> {
        let batch = BatchView::parse(bytes).expect("a whole batch");
        assert!(batch.verify_crc());
        let header = batch.header();
        let sequences = (header.base_sequence, header.last_sequence());
        if let Some((epoch, batches)) = self.producers.get(&header.producer_id.0) {
            if header.producer_epoch.0 < *epoch {
                return Err(ErrorCode::INVALID_PRODUCER_EPOCH);
            }
            let known = batches.iter().find(|(first, last, _)| (*first, *last) == sequences);
            if let (Some((_, _, base)), true) = (known, header.producer_epoch.0 == *epoch) {
                return Ok(*base);
            }
            let expected = match header.producer_epoch.0 == *epoch {
                true => batches.back().map_or(0, |(_, last, _)| if *last == i32::MAX { 0 } else { last + 1 }),
                false => 0,
            };
            if header.base_sequence != expected {
                return Err(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER);
            }
        }
        let base = i64::try_from(self.records.len()).expect("a short log");
        let (epoch, batches) = self.producers.entry(header.producer_id.0).or_default();
        if *epoch != header.producer_epoch.0 {
            batches.clear();
        }
        *epoch = header.producer_epoch.0;
        batches.push_back((sequences.0, sequences.1, base));
        if batches.len() > REMEMBERED {
            batches.pop_front();
        }
        for record in &records(bytes, DecompressLimit(1 << 20)).expect("records") {
            let value = record.expect("a record").value.expect("a value");
            self.records.push(u32::from_be_bytes(value.try_into().expect("four bytes")));
        }
        Ok(base)
    }
}

struct Asked {
    ticket: u64,
    parts: Vec<(Place, Payload, Bytes)>,
}

#[derive(Default)]
struct Broker {
    route: u64,
    asked: VecDeque<Asked>,
    answered: VecDeque<(u64, Vec<PartAnswer>)>,
}

struct World {
    producer: Accumulator,
    now: Instant,
    logs: Vec<Log>,
    brokers: BTreeMap<i32, Broker>,
    routes: u64,
    /// What came over lost connections, by broker.
    ghosts: VecDeque<(i32, Vec<(Place, Bytes)>)>,
    ids: i64,
    first_epoch: i16,
    topic_id: [u8; 16],
    sent: Vec<(usize, u32, Delivery)>,
}

impl World {
    fn new(first_epoch: i16, linger: u64, batch_bytes: usize) -> World {
        let config = ProducerConfig::default()
            .linger(Duration::from_millis(linger))
            .batch_bytes(batch_bytes)
            .delivery_timeout(Duration::from_secs(20));
        let pauses = ClientConfig::new("a:1").expect("an address");
        let brokers = (0..BROKERS).map(|id| (id, Broker { route: id as u64, ..Broker::default() })).collect();
        let mut world = World {
            producer: Accumulator::new(&config, pauses, 7),
            now: Instant::now(),
            logs: (0..PARTITIONS).map(|_| Log::default()).collect(),
            brokers,
            routes: 100,
            ghosts: VecDeque::new(),
            ids: 0,
            first_epoch,
            topic_id: [1; 16],
            sent: Vec::new(),
        };
        let number = NewRecord::to("logs").value(b"not known yet");
        world.producer.append(&number, 0, 50, || world.now).expect_err("the topic is asked for first");
        world.look();
        world
    }

    fn append(&mut self, partition: usize) {
        let number = u32::try_from(self.sent.len()).expect("few");
        let value = number.to_be_bytes();
        let record = NewRecord::to("logs").partition(i32::try_from(partition).expect("few")).value(&value);
        let now = self.now;
        let appended = self.producer.append(&record, 1000, record.most_bytes(), || now).expect("the topic is known");
        self.sent.push((partition, number, appended.delivery));
    }

    fn look(&mut self) -> Option<Instant> {
        let plan = self.producer.plan(self.now);
        finish(plan.done);
        let told = plan.identity || !plan.topics.is_empty();
        if !plan.topics.is_empty() {
            let partition = |(index, log): (i32, &Log)| MetadataResponsePartition {
                partition_index: index,
                leader_id: log.leader,
                leader_epoch: log.epoch,
                ..Default::default()
            };
            let topic = MetadataResponseTopic {
                name: Some("logs".into()),
                topic_id: self.topic_id,
                partitions: (0..).zip(&self.logs).map(partition).collect(),
                ..Default::default()
            };
            let told = MetadataResponse { topics: vec![topic], ..Default::default() };
            finish(self.producer.learned(&told, self.now));
        }
        if plan.identity {
            self.ids += 1;
            let identity = Identity { id: self.ids, epoch: self.first_epoch };
            finish(self.producer.identified(Ok(identity), self.now));
        }
        for id in plan.brokers {
            let broker = self.brokers.get_mut(&id).expect("a broker");
            while let Some(outbound) = self.producer.take(id, broker.route, self.now) {
                let made = |part: super::accumulator::Part| {
                    let (payload, bytes) = part.payload.made(part.stamp);
                    (part.place, payload, bytes)
                };
                let parts = outbound.parts.into_iter().map(made).collect();
                broker.asked.push_back(Asked { ticket: outbound.ticket, parts });
            }
        }
        // What was told may be of use at once.
        if told { self.look() } else { plan.wake_at }
    }

    fn work(&mut self, id: i32, trouble: Trouble) {
        let broker = self.brokers.get_mut(&id).expect("a broker");
        let Some(Asked { ticket, parts }) = broker.asked.pop_front() else { return };
        let mut answers = Vec::new();
        for (place, payload, bytes) in parts {
            let log = &mut self.logs[place.1];
            let (result, leader) = if log.leader != id {
                // Every second one also says who leads.
                let hint = (ticket % 2 == 0).then_some((log.leader, log.epoch));
                (Err(ErrorCode::NOT_LEADER_OR_FOLLOWER), hint)
            } else {
                let result = match trouble {
                    Trouble::No => log.produce(&bytes),
                    Trouble::Passing => Err(ErrorCode::NOT_ENOUGH_REPLICAS),
                    Trouble::InDoubt => log.produce(&bytes).and(Err(ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND)),
                    Trouble::Forever => Err(ErrorCode::MESSAGE_TOO_LARGE),
                };
                (result, None)
            };
            let verdict = match result {
                Ok(base) => Verdict::Written { base_offset: Some(base), append_time: None },
                Err(code) => {
                    let error = Error::Refused { what: String::new(), code, message: None };
                    Verdict::Refused { error, records: Vec::new() }
                }
            };
            answers.push(PartAnswer { place, payload, verdict, leader });
        }
        broker.answered.push_back((ticket, answers));
    }

    fn answer(&mut self, id: i32) {
        let broker = self.brokers.get_mut(&id).expect("a broker");
        let Some((ticket, answers)) = broker.answered.pop_front() else { return };
        finish(self.producer.answered(id, ticket, answers, self.now));
    }

    fn lose(&mut self, id: i32) {
        self.routes += 1;
        let broker = self.brokers.get_mut(&id).expect("a broker");
        let lost = std::mem::replace(broker, Broker { route: self.routes, ..Broker::default() });
        let error = Error::Disconnected { broker: "a:1".parse().expect("an address"), reason: String::new() };
        let verdict = Verdict::Lost(error);
        for (ticket, answers) in lost.answered {
            let answers = answers.into_iter().map(|answer| PartAnswer { verdict: verdict.clone(), ..answer });
            finish(self.producer.answered(id, ticket, answers.collect(), self.now));
        }
        for Asked { ticket, parts } in lost.asked {
            self.ghosts.push_back((id, parts.iter().map(|(place, _, bytes)| (*place, bytes.clone())).collect()));
            let answer = |(place, payload, _)| PartAnswer { place, payload, verdict: verdict.clone(), leader: None };
            let answers = parts.into_iter().map(answer).collect();
            finish(self.producer.answered(id, ticket, answers, self.now));
        }
    }

    fn ghost(&mut self) {
        let Some((id, parts)) = self.ghosts.pop_front() else { return };
        for (place, bytes) in parts {
            let log = &mut self.logs[place.1];
            if log.leader == id {
                // Nobody hears of the result.
                let _ = log.produce(&bytes);
            }
        }
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Append(partition, count) => (0..count).for_each(|_| self.append(partition)),
            Step::Look => drop(self.look()),
            Step::Work(broker, trouble) => self.work(broker, trouble),
            Step::Answer(broker) => self.answer(broker),
            Step::Break(broker) => self.lose(broker),
            Step::Ghost => self.ghost(),
            Step::Move(partition, leader) => {
                let log = &mut self.logs[partition];
                log.epoch += 1;
                log.leader = leader;
            }
            Step::Restart(partition) => self.logs[partition].restart(),
            Step::Wait(ms) => self.now += Duration::from_millis(ms.into()),
        }
    }

    /// All is well from now on, until nothing is left.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            let wake_at = self.look();
            if self.producer.is_empty() {
                return;
            }
            let idle = |broker: &Broker| broker.asked.is_empty() && broker.answered.is_empty();
            if self.brokers.values().all(idle) {
                self.now = wake_at.map_or(self.now, |at| at.max(self.now)) + Duration::from_millis(1);
            }
            (0..BROKERS).for_each(|broker| self.work(broker, Trouble::No));
            (0..BROKERS).for_each(|broker| self.answer(broker));
        }
        panic!("it does not come to an end: {:?}", self.producer);
    }

    fn reckon(mut self) {
        self.settle();
        while !self.ghosts.is_empty() {
            self.ghost();
        }
        for (partition, log) in self.logs.iter().enumerate() {
            let mut seen = log.records.clone();
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen.len(), log.records.len(), "partition {partition} has a record twice: {:?}", log.records);
            if self.ids == 1 {
                // With a second id, a batch that was given up may come late.
                assert!(log.records.is_sorted(), "partition {partition} is out of order: {:?}", log.records);
            }
        }
        let mut last = [-1; PARTITIONS];
        for (partition, number, delivery) in &self.sent {
            match delivery.now().expect("an outcome for each record") {
                Ok(written) => {
                    let offset = written.offset.expect("the brokers say where");
                    assert_eq!(self.logs[*partition].records[offset as usize], *number);
                    assert!(offset > last[*partition], "record {number} is out of order");
                    last[*partition] = offset;
                }
                Err(error) => {
                    let refused = error.code() == Some(ErrorCode::MESSAGE_TOO_LARGE);
                    let forgotten = error.code() == Some(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER);
                    let expected = refused || forgotten || error.is_retriable();
                    assert!(expected || matches!(error, Error::GaveUp { .. }), "{error}");
                }
            }
        }
    }
}

fn finish(done: Vec<Done>) {
    for Done { slot, outcome, .. } in done {
        slot.tell(outcome);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn each_acknowledged_record_is_there_once_and_in_order_whatever_fails(
        steps in prop::collection::vec(step(), 1..250),
        linger in prop_oneof![Just(0), Just(5)],
        batch_bytes in prop_oneof![Just(1), Just(120), Just(10_000)],
        first_epoch in prop_oneof![9 => Just(0), 1 => Just(i16::MAX - 1)],
    ) {
        let mut world = World::new(first_epoch, linger, batch_bytes);
        steps.iter().for_each(|step| world.take(step));
        world.reckon();
    }
}

#[test]
fn a_batch_in_doubt_is_settled_before_a_gap_behind_it_ends_the_series() {
    let mut world = World::new(0, 0, 1);
    world.append(0);
    world.look();
    world.look();
    world.work(0, Trouble::No);
    world.answer(0);
    world.append(0);
    world.append(0);
    world.look();
    world.work(0, Trouble::InDoubt);
    world.work(0, Trouble::Forever);
    world.answer(0);
    world.answer(0);
    world.settle();
    let outcomes: Vec<bool> = world.sent.iter().map(|(_, _, delivery)| matches!(delivery.now(), Some(Ok(_)))).collect();
    assert_eq!(outcomes, [true, true, false]);
    assert_eq!(world.logs[0].records, [0, 1]);
    world.append(0);
    world.settle();
    assert_eq!(world.logs[0].records, [0, 1, 3], "the next series goes on");
    world.reckon();
}

#[test]
fn a_batch_in_doubt_is_not_followed_by_more_than_a_broker_remembers() {
    let mut world = World::new(0, 0, 1);
    world.append(0);
    world.settle();
    (0..3).for_each(|_| world.append(0));
    world.look();
    world.work(0, Trouble::InDoubt);
    world.work(0, Trouble::No);
    world.work(0, Trouble::No);
    (0..3).for_each(|_| world.answer(0));
    (0..8).for_each(|_| world.append(0));
    world.now += Duration::from_millis(100);
    world.look();
    assert_eq!(world.brokers[&0].asked.len(), 3, "the one in doubt, and two that make it five");
    world.lose(0);
    while !world.ghosts.is_empty() {
        world.ghost();
    }
    world.reckon();
}

#[test]
fn what_a_broker_may_have_and_has_forgotten_is_given_up_and_not_sent_twice() {
    let mut world = World::new(0, 0, 1);
    world.append(0);
    world.settle();
    (0..2).for_each(|_| world.append(0));
    world.look();
    (0..2).for_each(|_| world.work(0, Trouble::No));
    // Both answers are lost.
    world.lose(0);
    world.take(&Step::Restart(0));
    world.settle();
    assert_eq!(world.logs[0].records, [0, 1, 2]);
    let outcomes: Vec<bool> = world.sent.iter().map(|(_, _, delivery)| matches!(delivery.now(), Some(Ok(_)))).collect();
    assert_eq!(outcomes, [true, false, false], "nobody knows");
    world.append(0);
    world.settle();
    assert_eq!(world.logs[0].records, [0, 1, 2, 3], "the next series goes on");
    world.reckon();
}

#[test]
fn a_topic_that_is_made_again_begins_a_new_series_in_each_partition() {
    for lost in [false, true] {
        let mut world = World::new(0, 0, 1);
        world.append(0);
        world.settle();
        if lost {
            world.append(0);
            world.look();
            world.lose(0);
        }
        // Deleted and made again, which is found when the topic is asked for because of its age.
        world.logs[0] = Log::default();
        world.topic_id = [2; 16];
        world.ghosts.clear();
        let before = world.sent.len();
        (0..3).for_each(|_| world.append(0));
        world.producer.topics_are_old();
        world.now += Duration::from_millis(100);
        world.look();
        world.look();
        let outcome = |world: &World, number: usize| world.sent[number].2.now().map(|outcome| outcome.is_ok());
        if lost {
            assert_eq!(outcome(&world, 1), Some(false), "it may have been in either");
        }
        let asked = &world.brokers[&0].asked;
        assert_eq!(asked.len(), 1, "the first of a series goes alone");
        let header = *BatchView::parse(&asked[0].parts[0].2).expect("a whole batch").header();
        assert_eq!((header.producer_epoch.0, header.base_sequence), (1, 0));
        world.settle();
        let expected: Vec<u32> = (before..before + 3).map(|number| u32::try_from(number).expect("few")).collect();
        assert_eq!(world.logs[0].records, expected);
    }
}

#[test]
fn without_failures_nothing_fails_and_requests_overlap() {
    let mut world = World::new(0, 0, 1);
    let mut most = 0;
    for round in 0..200 {
        world.append(round % PARTITIONS);
        world.append(0);
        world.look();
        most = most.max(world.brokers[&0].asked.len());
        if round % 3 == 0 {
            while !world.brokers[&0].asked.is_empty() {
                world.work(0, Trouble::No);
                world.answer(0);
            }
        }
    }
    assert!((2..=5).contains(&most), "{most} requests on the way");
    world.settle();
    assert!(world.sent.iter().all(|(_, _, delivery)| matches!(delivery.now(), Some(Ok(_)))));
    world.reckon();
}
