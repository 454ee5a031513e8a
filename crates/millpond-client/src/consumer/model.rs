//! The positions against a cluster that keeps to the protocol and fails in every way that it may: whatever happens,
//! each record comes once and in order, from where the reader last sought to.
#![expect(clippy::disallowed_methods, reason = "only takes a point in time to count from")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use millpond_record::{BatchBuilder, Timestamp, rewrite_crc};
use millpond_wire::ErrorCode;
use millpond_wire::metadata::{MetadataResponse, MetadataResponsePartition, MetadataResponseTopic};
use proptest::prelude::*;
use tokio::time::Instant;

use super::config::{ConsumerConfig, OffsetReset};
use super::partition::{Errors, Fetch};
use super::positions::{Answer, Check, Committed, EpochEnd, LookUp, Place, Positions, Wanted};
use super::record::ConsumerRecord;
use crate::admin::{OffsetAt, TopicPartition};
use crate::config::ClientConfig;
use crate::error::Error;

const PARTITIONS: usize = 3;
const BROKERS: i32 = 3;

/// What happens next.
#[derive(Clone, Debug)]
enum Step {
    /// A batch of so many records for a partition, behind a hole of so many offsets.
    Append(usize, u8, u8),
    /// The driver looks and fetches.
    Look,
    /// The answer to what a broker was asked.
    Answer(i32, Trouble),
    /// The answer to the oldest look-up, and to the oldest check of a new leader.
    Find(Trouble),
    /// A partition gets another leader.
    Move(usize, i32),
    /// A partition gets a leader that lacks so many of its last batches.
    Cut(usize, u8),
    /// The first records of a partition are deleted.
    Trim(usize, u8),
    Seek(usize, u8),
    Pause(usize, bool),
    /// The caller takes so many records.
    Read(u8),
    /// As many at once, at most.
    ReadMany(u8),
    Wait(u16),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    No,
    /// Refused, and it will pass.
    Passing,
    /// There is no answer.
    Lost,
}

fn step() -> impl Strategy<Value = Step> {
    let trouble = || prop_oneof![8 => Just(Trouble::No), 1 => Just(Trouble::Passing), 1 => Just(Trouble::Lost)];
    prop_oneof![
        6 => (0..PARTITIONS, 1..5_u8, prop_oneof![3 => Just(0_u8), 1 => 1..4_u8])
            .prop_map(|(partition, count, hole)| Step::Append(partition, count, hole)),
        8 => Just(Step::Look),
        8 => (0..BROKERS, trouble()).prop_map(|(broker, trouble)| Step::Answer(broker, trouble)),
        3 => trouble().prop_map(Step::Find),
        1 => (0..PARTITIONS, 0..BROKERS).prop_map(|(partition, broker)| Step::Move(partition, broker)),
        1 => (0..PARTITIONS, 1..6_u8).prop_map(|(partition, count)| Step::Trim(partition, count)),
        1 => (0..PARTITIONS, any::<u8>()).prop_map(|(partition, to)| Step::Seek(partition, to)),
        1 => (0..PARTITIONS, any::<bool>()).prop_map(|(partition, paused)| Step::Pause(partition, paused)),
        3 => (1..9_u8).prop_map(Step::Read),
        3 => (1..30_u8).prop_map(Step::ReadMany),
        3 => (1..300_u16).prop_map(Step::Wait),
    ]
}

/// A partition as its leader has it.
#[derive(Default)]
struct Log {
    leader: i32,
    epoch: i32,
    start: i64,
    end: i64,
    /// Offsets of the records, and what they were written with, batch by batch.
    batches: Vec<(Vec<i64>, Bytes)>,
}

impl Log {
    fn append(&mut self, count: u8, hole: u8) {
        let base = self.end + i64::from(hole);
        let mut builder = BatchBuilder::new();
        for number in 0..i64::from(count) {
            builder = builder.record(Timestamp(0), None, Some(&(base + number).to_be_bytes()));
        }
        let mut batch = builder.build().to_vec();
        batch[..8].copy_from_slice(&base.to_be_bytes());
        batch[12..16].copy_from_slice(&self.epoch.to_be_bytes());
        rewrite_crc(&mut batch);
        self.end = base + i64::from(count);
        self.batches.push(((base..self.end).collect(), Bytes::from(batch)));
    }

    /// Two batches at most from an offset on, as a leader gives them.
    fn read(&self, offset: i64) -> Result<Bytes, ErrorCode> {
        if offset < self.start || offset > self.end {
            return Err(ErrorCode::OFFSET_OUT_OF_RANGE);
        }
        let batches = self.batches.iter().filter(|(offsets, _)| offsets.last().is_some_and(|last| *last >= offset));
        Ok(Bytes::from(batches.take(2).flat_map(|(_, batch)| batch.to_vec()).collect::<Vec<u8>>()))
    }

    fn cut(&mut self, batches: u8) {
        self.epoch += 1;
        for _ in 0..batches {
            if let Some((offsets, _)) = self.batches.pop() {
                self.end = offsets[0];
            }
        }
    }

    /// Each record's offset and epoch.
    fn records(&self) -> impl Iterator<Item = (i64, i32)> {
        let epoch = |batch: &Bytes| i32::from_be_bytes(*batch[12..].first_chunk().expect("a header"));
        self.batches.iter().flat_map(move |(offsets, batch)| offsets.iter().map(move |one| (*one, epoch(batch))))
    }

    /// As a leader answers OffsetForLeaderEpoch.
    fn epoch_end(&self, asked: i32) -> Option<EpochEnd> {
        let newest = self.records().map(|(_, epoch)| epoch).filter(|epoch| *epoch <= asked).max()?;
        let behind = self.records().find(|(_, epoch)| *epoch > newest);
        Some(EpochEnd { epoch: newest, offset: behind.map_or(self.end, |(offset, _)| offset) })
    }

    /// The offset of the first record from here on that was not deleted.
    fn first_from(&self, offset: i64) -> Option<i64> {
        let offsets = self.batches.iter().flat_map(|(offsets, _)| offsets.iter().copied());
        offsets.into_iter().find(|found| *found >= offset)
    }
}

struct World {
    consumer: Positions,
    now: Instant,
    logs: Vec<Log>,
    asked: BTreeMap<i32, Vec<Wanted>>,
    look_ups: Vec<LookUp>,
    checks: Vec<Check>,
    /// What the caller expects next: from this offset on.
    expected: Vec<i64>,
    given: usize,
    /// What the caller has of each partition: offsets, and the epochs of their records. What comes again replaces what
    /// came from there on.
    has: Vec<BTreeMap<i64, i32>>,
}

fn name(partition: usize) -> TopicPartition {
    TopicPartition::new("logs", i32::try_from(partition).expect("few"))
}

/// Why a leader does not answer a question; without trouble because it is none any more.
fn failure(trouble: Trouble, moved: ErrorCode) -> Error {
    let code = match trouble {
        Trouble::No => moved,
        Trouble::Passing => ErrorCode::BROKER_NOT_AVAILABLE,
        // Of somebody else, which has cost all who waited on the link their answers.
        Trouble::Lost => {
            let broker = "a:1".parse().expect("an address");
            return Error::Protocol { broker, reason: "a length of -1".to_owned() };
        }
    };
    Error::check(code.0, None, String::new).expect_err("an error code")
}

fn of(place: Place) -> usize {
    usize::try_from(place.1).expect("from 0 on")
}

impl World {
    fn new(max_partition_bytes: usize, buffer_memory: usize) -> World {
        let config = ConsumerConfig::default()
            .offset_reset(OffsetReset::Earliest)
            .max_partition_fetch_bytes(max_partition_bytes)
            .buffer_memory(buffer_memory);
        let mut consumer = Positions::new(&config, ClientConfig::new("a:1").expect("an address"), 7);
        consumer.assign(&(0..PARTITIONS).map(name).collect::<BTreeSet<_>>()).expect("good names");
        World {
            consumer,
            now: Instant::now(),
            logs: (0..PARTITIONS).map(|_| Log::default()).collect(),
            asked: BTreeMap::new(),
            look_ups: Vec::new(),
            checks: Vec::new(),
            has: vec![BTreeMap::new(); PARTITIONS],
            expected: vec![0; PARTITIONS],
            given: 0,
        }
    }

    fn metadata(&self) -> MetadataResponse {
        let partition = |(index, log): (i32, &Log)| MetadataResponsePartition {
            partition_index: index,
            leader_id: log.leader,
            leader_epoch: log.epoch,
            ..Default::default()
        };
        let topic = MetadataResponseTopic {
            name: Some("logs".into()),
            topic_id: [1; 16],
            partitions: (0..).zip(&self.logs).map(partition).collect(),
            ..Default::default()
        };
        MetadataResponse { topics: vec![topic], ..Default::default() }
    }

    fn look(&mut self) {
        let plan = self.consumer.plan(self.now);
        if !plan.topics.is_empty() {
            let told = self.metadata();
            self.consumer.learned(&told, self.now);
        }
        self.look_ups.extend(plan.look_ups);
        self.checks.extend(plan.checks);
        for broker in plan.brokers {
            if let Some(outbound) = self.consumer.take(broker, self.now) {
                assert!(outbound.max_bytes > 0 && !outbound.wanted.is_empty());
                assert!(self.asked.insert(broker, outbound.wanted).is_none(), "one fetch at a time");
            }
        }
    }

    fn answer(&mut self, broker: i32, trouble: Trouble) {
        let Some(wanted) = self.asked.remove(&broker) else { return };
        let mut answers = BTreeMap::new();
        for one in &wanted {
            let log = &self.logs[of(one.place)];
            let answer = match trouble {
                Trouble::Lost => Answer::Lost,
                Trouble::Passing => {
                    let codes = [ErrorCode::KAFKA_STORAGE_ERROR, ErrorCode::UNKNOWN_SERVER_ERROR];
                    Answer::Refused { code: codes[of(one.place) % 2], leader: None }
                }
                Trouble::No if log.leader != broker => Answer::Refused {
                    code: ErrorCode::NOT_LEADER_OR_FOLLOWER,
                    leader: (log.epoch % 2 == 0).then_some((log.leader, log.epoch)),
                },
                Trouble::No if one.leader_epoch != Some(log.epoch) => {
                    Answer::Refused { code: ErrorCode::FENCED_LEADER_EPOCH, leader: None }
                }
                Trouble::No => match log.read(one.offset) {
                    // What has nothing new is left out of a session's answer.
                    Ok(bytes) if bytes.is_empty() => continue,
                    Ok(bytes) => Answer::Read { bytes, aborted: Vec::new(), end: Some(log.end), replica: None },
                    Err(code) => Answer::Refused { code, leader: None },
                },
            };
            answers.insert(one.place, answer);
        }
        self.consumer.answered(broker, wanted, answers, self.now);
    }

    fn find(&mut self, trouble: Trouble) {
        if !self.checks.is_empty() {
            let asked = self.checks.remove(0);
            let log = &self.logs[of(asked.place)];
            let result = match trouble {
                Trouble::No if log.leader == asked.leader && log.epoch == asked.leader_epoch => {
                    Ok(log.epoch_end(asked.epoch))
                }
                trouble => Err(failure(trouble, ErrorCode::FENCED_LEADER_EPOCH)),
            };
            self.consumer.checked(&asked, result, self.now);
        }
        if self.look_ups.is_empty() {
            return;
        }
        let asked = self.look_ups.remove(0);
        let log = &self.logs[of(asked.place)];
        let result = match trouble {
            Trouble::No => Ok(Some(if asked.at == OffsetAt::Latest { log.end } else { log.start })),
            trouble => Err(failure(trouble, ErrorCode::NOT_LEADER_OR_FOLLOWER)),
        };
        self.consumer.found(&asked, result, self.now);
    }

    fn seek(&mut self, partition: usize, to: u8) {
        let log = &self.logs[partition];
        let at = match to % 4 {
            0 => Fetch::LookUp(OffsetAt::Earliest),
            1 => Fetch::From(log.end + 1_000_000),
            _ => Fetch::From(log.start + i64::from(to) % (log.end - log.start + 1)),
        };
        assert!(self.consumer.seek(&name(partition), at));
        // What is out of range, or to be looked up, begins with the first that is there.
        self.expected[partition] = match at {
            Fetch::From(offset) if offset <= log.end => offset,
            _ => log.start,
        };
    }

    /// Whether there was something.
    fn read(&mut self) -> bool {
        let Some(item) = self.consumer.next(Errors::Give).0 else { return false };
        self.took(&item.expect("nothing here is an error"), true);
        true
    }

    /// As `read`, up to so many together.
    fn read_many(&mut self, most: usize) {
        let Some(item) = self.consumer.next(Errors::Give).0 else { return };
        let mut records = vec![item.expect("nothing here is an error")];
        self.consumer.next_many(most, &mut records);
        assert!(records.len() <= most);
        let last: BTreeMap<i32, i64> = records.iter().map(|record| (record.partition, record.offset)).collect();
        for record in &records {
            self.took(record, last[&record.partition] == record.offset);
        }
    }

    /// Checks a record that was given; `last` if the position is behind it.
    fn took(&mut self, record: &ConsumerRecord, last: bool) {
        let partition = usize::try_from(record.partition).expect("from 0 on");
        let log = &self.logs[partition];
        assert_eq!(record.value.as_deref(), Some(&record.offset.to_be_bytes()[..]), "the record of this offset");
        let expected = self.expected[partition];
        assert!(record.offset >= expected, "{} comes after {expected} was reached", record.offset);
        let missed = log.first_from(expected.max(log.start)).filter(|first| *first < record.offset);
        assert!(missed.is_none(), "{missed:?} is passed over for {}", record.offset);
        let place = self.consumer.partition(&name(partition)).expect("assigned");
        assert!(!place.paused, "a paused partition gives nothing");
        assert!(place.position.is_some_and(|position| position > record.offset));
        // Behind the last one only what is no record is passed over.
        let passed = log.first_from(record.offset + 1).filter(|next| last && place.position > Some(*next));
        assert!(passed.is_none(), "{passed:?} is passed over behind {}", record.offset);
        self.expected[partition] = record.offset + 1;
        self.given += 1;
    }

    /// Whether there was something, whatever it is.
    fn take(&mut self) -> bool {
        self.take_many(1) > 0
    }

    /// As `take`, up to so many together; how many there were.
    fn take_many(&mut self, most: usize) -> usize {
        let Some(item) = self.consumer.next(Errors::Give).0 else { return 0 };
        let mut records = vec![item.expect("nothing here is an error")];
        self.consumer.next_many(most, &mut records);
        for record in &records {
            let has = &mut self.has[usize::try_from(record.partition).expect("from 0 on")];
            drop(has.split_off(&record.offset));
            has.insert(record.offset, record.leader_epoch.expect("it is said"));
        }
        records.len()
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Append(partition, count, hole) => self.logs[partition].append(count, hole),
            Step::Look => self.look(),
            Step::Answer(broker, trouble) => self.answer(broker, trouble),
            Step::Find(trouble) => self.find(trouble),
            Step::Move(partition, leader) => {
                let log = &mut self.logs[partition];
                (log.leader, log.epoch) = (leader, log.epoch + 1);
            }
            Step::Cut(partition, batches) => self.logs[partition].cut(batches),
            Step::Trim(partition, count) => {
                let log = &mut self.logs[partition];
                log.start = (log.start + i64::from(count)).min(log.end);
            }
            Step::Seek(partition, to) => self.seek(partition, to),
            Step::Pause(partition, paused) => assert!(self.consumer.pause(&name(partition), paused)),
            Step::ReadMany(most) => self.read_many(most.into()),
            Step::Read(count) => {
                for _ in 0..count {
                    self.read();
                }
            }
            Step::Wait(ms) => self.now += Duration::from_millis(ms.into()),
        }
    }

    /// When nothing goes wrong any more, everything comes.
    fn calm(&mut self) {
        for partition in 0..PARTITIONS {
            assert!(self.consumer.pause(&name(partition), false));
            // The last one tells when all have come.
            self.logs[partition].append(1, 0);
        }
        for _ in 0..2000 {
            self.look();
            (0..BROKERS).for_each(|broker| self.answer(broker, Trouble::No));
            self.find(Trouble::No);
            while self.read() {}
            self.now += Duration::from_millis(500);
            if (0..PARTITIONS).all(|partition| self.expected[partition] == self.logs[partition].end) {
                return;
            }
        }
        panic!("not all records come: {:?}", self.expected);
    }
}

/// A consumer with ten records of epoch 0 fetched, some of them given, and a leader that has fewer.
fn cut_at_a_new_leader(reset: OffsetReset, given: usize, left: usize) -> World {
    let mut world = World::new(1 << 20, 64 << 20);
    let config = ConsumerConfig::default().offset_reset(reset);
    world.consumer = Positions::new(&config, ClientConfig::new("a:1").expect("an address"), 7);
    world.consumer.assign(&[name(0)].into()).expect("a good name");
    (0..10).for_each(|_| world.logs[0].append(1, 0));
    assert!(world.consumer.seek(&name(0), Fetch::From(0)));
    for _ in 0..8 {
        world.look();
        world.answer(0, Trouble::No);
    }
    (0..given).for_each(|_| assert!(world.take()));
    world.logs[0].cut(10 - u8::try_from(left).expect("few"));
    (0..4).for_each(|_| world.logs[0].append(1, 0));
    for _ in 0..20 {
        world.look();
        world.answer(0, Trouble::No);
        world.find(Trouble::No);
        world.now += Duration::from_secs(1);
    }
    world
}

#[test]
fn what_was_fetched_ahead_of_a_log_that_was_cut_off_is_fetched_anew() {
    let mut world = cut_at_a_new_leader(OffsetReset::None, 5, 7);
    while world.take() {}
    assert!(world.has[0].iter().map(|(offset, epoch)| (*offset, *epoch)).eq(world.logs[0].records()));
    assert_eq!(world.consumer.partition(&name(0)).and_then(|one| one.position), Some(11));
}

#[test]
fn who_was_given_nothing_has_lost_nothing() {
    let mut world = cut_at_a_new_leader(OffsetReset::None, 0, 0);
    while world.take() {}
    assert!(world.has[0].iter().map(|(offset, epoch)| (*offset, *epoch)).eq(world.logs[0].records()));
}

#[test]
fn who_was_given_what_is_gone_goes_back_by_the_policy_or_is_told() {
    let mut world = cut_at_a_new_leader(OffsetReset::Latest, 5, 3);
    while world.take() {}
    assert!(world.has[0].iter().map(|(offset, epoch)| (*offset, *epoch)).eq(world.logs[0].records()));

    let mut world = cut_at_a_new_leader(OffsetReset::None, 5, 3);
    let told = world.consumer.next(Errors::Give).0.expect("something").expect_err("not a record that is gone");
    assert!(matches!(&told, Error::Truncated { offset: 5, end: Some(3), .. }), "{told}");
    assert_eq!(
        told.to_string(),
        "partition 0 of logs has lost records that were read, up to offset 5; its log has what was read up to offset \
         3; seek says where to go on"
    );
    assert!(world.consumer.seek(&name(0), Fetch::From(3)));
    fetch(&mut world, 4);
    while world.take() {}
    assert!(world.has[0].iter().map(|(offset, epoch)| (*offset, *epoch)).eq(world.logs[0].records()));
}

#[test]
fn where_the_policy_has_led_a_new_leader_is_not_asked_about_what_was_read_elsewhere() {
    let mut world = World::new(1 << 20, 64 << 20);
    (0..5).for_each(|_| world.logs[0].append(1, 0));
    fetch(&mut world, 4);
    while world.take() {}
    // Retention has taken all of that and more.
    let log = &mut world.logs[0];
    (log.start, log.end) = (20, 20);
    log.batches.clear();
    fetch(&mut world, 2);
    world.now += Duration::from_secs(1);
    fetch(&mut world, 2);
    let of = |world: &World| world.consumer.partition(&name(0)).map(|one| (one.position, one.settled));
    assert_eq!(of(&world), Some((Some(20), Some((20, None)))), "no epoch is known of what is before it");
    world.logs[0].epoch = 1;
    for _ in 0..4 {
        world.look();
        assert!(world.checks.is_empty(), "nothing was fetched here that it could lack");
        world.answer(0, Trouble::No);
        world.now += Duration::from_secs(1);
    }
    world.logs[0].append(1, 0);
    fetch(&mut world, 3);
    assert!(world.take());
    assert_eq!(of(&world).and_then(|(position, _)| position), Some(21));
}

#[test]
fn what_the_group_has_committed_is_not_believed_before_the_leader_has_confirmed_it() {
    // The epoch that was committed, and whether the leader has all that was read then.
    for (leader_epoch, left, expected) in [(Some(0), 3, 3), (Some(0), 5, 5), (None, 3, 5)] {
        let mut world = World::new(1 << 20, 64 << 20);
        let config = ConsumerConfig::default().group("g").offset_reset(OffsetReset::Latest);
        world.consumer = Positions::new(&config, ClientConfig::new("a:1").expect("an address"), 7);
        world.consumer.assign(&[name(0)].into()).expect("a good name");
        (0..5).for_each(|_| world.logs[0].append(1, 0));
        world.logs[0].cut(5 - left);
        (0..4).for_each(|_| world.logs[0].append(1, 0));
        let (_, generation) = world.consumer.waits_for_commits().remove(0);
        world.consumer.found_committed(&name(0), generation, Some(Committed { offset: 5, leader_epoch }));
        assert!(world.consumer.settled().is_empty(), "the group knows");
        fetch(&mut world, 6);
        let first = world.consumer.next(Errors::Give).0.expect("something").expect("a record");
        assert_eq!((first.offset, first.leader_epoch), (expected, Some(1)), "{leader_epoch:?}");
    }
}

#[test]
fn who_may_not_ask_a_leader_is_told() {
    let mut world = World::new(1 << 20, 64 << 20);
    world.look();
    world.look();
    let asked = world.look_ups.remove(0);
    let refused = Error::check(ErrorCode::TOPIC_AUTHORIZATION_FAILED.0, None, String::new).map(|()| None);
    world.consumer.found(&asked, refused, world.now);
    let told = world.consumer.next(Errors::Give).0.expect("something").expect_err("no record");
    assert_eq!(told.code(), Some(ErrorCode::TOPIC_AUTHORIZATION_FAILED));
}

#[test]
fn a_replica_that_the_leader_names_is_read_from_until_it_lacks_what_is_asked_for() {
    let mut world = World::new(1 << 20, 64 << 20);
    world.look();
    world.look();
    (0..PARTITIONS).for_each(|_| world.find(Trouble::No));
    world.look();
    let answers = |wanted: &[Wanted], answer: fn() -> Answer| wanted.iter().map(|one| (one.place, answer())).collect();
    let named = || Answer::Read { bytes: Bytes::new(), aborted: Vec::new(), end: Some(0), replica: Some(2) };
    let wanted = world.asked.remove(&0).expect("the leader is asked");
    world.consumer.answered(0, wanted.clone(), answers(&wanted, named), world.now);
    world.look();
    let wanted = world.asked.remove(&2).expect("then the replica");
    assert_eq!(wanted.len(), PARTITIONS);
    let lacks = || Answer::Refused { code: ErrorCode::OFFSET_OUT_OF_RANGE, leader: None };
    world.consumer.answered(2, wanted.clone(), answers(&wanted, lacks), world.now);
    world.look();
    assert!(world.look_ups.is_empty(), "a replica that is behind resets nothing");
    assert!(world.asked.contains_key(&0), "the leader says what is so");
    // Not for ever: the leader may name another one later.
    let wanted = world.asked.remove(&0).expect("asked");
    world.consumer.answered(0, wanted.clone(), answers(&wanted, named), world.now);
    world.now += Duration::from_secs(301);
    world.look();
    world.look();
    assert!(world.asked.contains_key(&0), "after a while the leader is asked again");
}

/// A batch of one value from `offset` on, with these attributes.
fn batch(offset: i64, attributes: i16) -> Bytes {
    let mut batch =
        BatchBuilder::new().record(Timestamp(0), Some(&[0; 4]), Some(&offset.to_be_bytes())).build().to_vec();
    batch[..8].copy_from_slice(&offset.to_be_bytes());
    batch[21..23].copy_from_slice(&attributes.to_be_bytes());
    rewrite_crc(&mut batch);
    Bytes::from(batch)
}

/// Everything is looked up, and what there is of the first broker is fetched so many times.
fn fetch(world: &mut World, times: usize) {
    for _ in 0..times {
        world.look();
        (0..PARTITIONS).for_each(|_| world.find(Trouble::No));
        world.look();
        world.answer(0, Trouble::No);
    }
}

#[test]
fn what_is_here_of_a_paused_partition_does_not_keep_the_others_from_being_read() {
    let mut world = World::new(1 << 20, 500);
    (0..20).for_each(|_| world.logs[0].append(9, 0));
    fetch(&mut world, 5);
    assert!(world.consumer.pause(&name(0), true));
    world.logs[1].append(1, 0);
    fetch(&mut world, 2);
    assert!(world.read() && !world.read(), "the one of the other partition");
    assert!(world.consumer.pause(&name(0), false));
    assert!(world.read(), "what was here is kept");
}

#[test]
fn what_cannot_be_cut_into_batches_is_asked_for_once() {
    let mut world = World::new(1 << 20, 64 << 20);
    let mut bytes = batch(0, 0).to_vec();
    bytes[16] = 1;
    world.logs[0].batches.push((vec![0], Bytes::from(bytes)));
    world.logs[0].end = 1;
    fetch(&mut world, 2);
    world.look();
    let asked = world.asked.remove(&0).expect("the others are asked for");
    assert!(asked.iter().all(|one| of(one.place) != 0));
    let told = world.consumer.next(Errors::Give).0;
    assert!(matches!(told, Some(Err(Error::Damaged { offset: 0, .. }))), "{told:?}");
}

#[test]
fn who_has_read_all_is_done_with_the_marker_at_the_end() {
    const CONTROL: i16 = 0x30;
    let mut world = World::new(1 << 20, 64 << 20);
    world.logs[0].batches = vec![(vec![0], batch(0, 0)), (vec![1], batch(1, CONTROL))];
    world.logs[0].end = 2;
    fetch(&mut world, 2);
    assert!(world.read());
    let at = |world: &World| world.consumer.partition(&name(0)).and_then(|one| one.settled).map(|(offset, _)| offset);
    assert_eq!(at(&world), Some(0), "it may still be at work on the record");
    assert!(!world.read());
    assert_eq!(at(&world), Some(2));
}

/// Steps of a cluster whose elections lose what was acknowledged.
fn unclean_step() -> impl Strategy<Value = Step> {
    let others = step().prop_map(|step| match step {
        Step::Seek(..) | Step::Trim(..) | Step::Read(_) | Step::ReadMany(_) => Step::Look,
        Step::Append(partition, count, _) => Step::Append(partition, count, 0),
        other => other,
    });
    let cut = (0..PARTITIONS, 0..4_u8).prop_map(|(partition, batches)| Step::Cut(partition, batches));
    prop_oneof![6 => others, 1 => cut]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn each_record_comes_once_and_in_order(
        steps in prop::collection::vec(step(), 1..250),
        max_partition_bytes in prop_oneof![Just(1_usize), Just(200), Just(1 << 20)],
        buffer_memory in prop_oneof![Just(1_usize), Just(500), Just(64 << 20)],
    ) {
        let mut world = World::new(max_partition_bytes, buffer_memory);
        steps.iter().for_each(|step| world.step(step));
        world.calm();
    }

    /// In the end the caller has exactly what is there, whatever it was given meanwhile.
    #[test]
    fn what_elections_have_lost_is_replaced_by_what_is_there(
        steps in prop::collection::vec((unclean_step(), 0..5_u8, 1..9_usize), 1..250),
        max_partition_bytes in prop_oneof![Just(1_usize), Just(200), Just(1 << 20)],
    ) {
        let mut world = World::new(max_partition_bytes, 64 << 20);
        for (step, takes, together) in &steps {
            world.step(step);
            for _ in 0..*takes {
                world.take_many(*together);
            }
        }
        for partition in 0..PARTITIONS {
            assert!(world.consumer.pause(&name(partition), false));
            world.logs[partition].append(1, 0);
        }
        for _ in 0..500 {
            world.look();
            (0..BROKERS).for_each(|broker| world.answer(broker, Trouble::No));
            world.find(Trouble::No);
            while world.take() {}
            world.now += Duration::from_millis(500);
        }
        for (has, log) in world.has.iter().zip(&world.logs) {
            prop_assert!(has.iter().map(|(offset, epoch)| (*offset, *epoch)).eq(log.records()), "{has:?}");
        }
    }
}
