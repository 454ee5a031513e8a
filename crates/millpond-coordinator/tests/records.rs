//! The records byte for byte: what Kafka 4.2.1 writes is what we write, and what any Kafka wrote is read.

mod support;

use bytes::Bytes;
use millpond_coordinator::{
    CommitOffsets, Committer, GroupSettings, OffsetToCommit, OffsetToDelete, Record, RecordError, Replayed, Shard,
};
use millpond_record::{Offset, PartitionIndex, Timestamp, TopicId};
use millpond_wire::Str;
use proptest::prelude::*;
use support::{Consumer, World, leave};

const FIXTURE: &str = include_str!("fixtures/kafka-4.2.1-records.txt");
const WALL: i64 = 1_700_000_001_000;

fn from_hex(text: &str) -> Bytes {
    let digits = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).expect("the fixture is hex");
    (0..text.len()).step_by(2).map(digits).collect()
}

fn kafkas(name: &str) -> Record {
    let line = FIXTURE.lines().find(|line| line.split(' ').next() == Some(name)).expect("it is in the fixture");
    let [_, key, value] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("three words: {line}") };
    Record { key: from_hex(key), value: (value != "null").then(|| from_hex(value)) }
}

fn replayed(records: &[Record]) -> Shard {
    let mut shard = Shard::new(GroupSettings::default());
    for record in records {
        assert_eq!(shard.replay(record), Ok(Replayed::Applied));
    }
    shard
}

fn commit(metadata: &str, leader_epoch: i32, topic_id: TopicId, retention_ms: Option<i64>) -> CommitOffsets {
    let one = OffsetToCommit {
        topic: Str::from_static("topic"),
        topic_id,
        partition: PartitionIndex(7),
        offset: Offset(42),
        leader_epoch,
        metadata: Str::from(metadata),
    };
    let (group_id, committer) = (Str::from_static("group"), Committer::outsider());
    CommitOffsets { group_id, committer, version: 9, retention_ms, offsets: vec![one] }
}

#[test]
fn a_commit_is_written_as_kafka_writes_it() {
    let id = TopicId([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]);
    let cases = [
        ("offset", commit("héllo", 3, TopicId::ZERO, None)),
        ("offset_id", commit("", -1, id, None)),
        ("offset_expire", commit("m", -1, TopicId::ZERO, Some(1_000))),
    ];
    for (name, request) in cases {
        let mut world = World::new();
        let ticket = world.ticket();
        let effects = world.shard.commit_offsets(ticket, world.now(), &request);
        assert_eq!(effects.records, [kafkas(name)], "{name}");

        let shard = replayed(&[kafkas(name)]);
        let read = shard.committed_offset("group", "topic", TopicId::ZERO, PartitionIndex(7)).expect("committed");
        let (wanted, expires_at) = (&request.offsets[0], request.retention_ms.map(|kept| Timestamp(WALL + kept)));
        assert_eq!((read.offset, &read.metadata), (wanted.offset, &wanted.metadata), "{name}");
        assert_eq!((read.committed_at, read.expires_at), (Timestamp(WALL), expires_at), "{name}");
        assert_eq!((read.leader_epoch, read.topic_id), (wanted.leader_epoch, wanted.topic_id), "{name}");
    }
}

#[test]
fn tombstones_are_written_as_kafka_writes_them() {
    let mut world = World::new();
    let request = commit("", -1, TopicId::ZERO, None);
    let ticket = world.ticket();
    world.shard.commit_offsets(ticket, world.now(), &request);
    let ticket = world.ticket();
    let group = Str::from_static("group");
    let effects = world.shard.delete_groups(ticket, std::slice::from_ref(&group));
    assert_eq!(effects.records, [kafkas("offset_tombstone"), kafkas("group_tombstone")]);

    let ticket = world.ticket();
    world.shard.commit_offsets(ticket, world.now(), &request);
    let one = OffsetToDelete { topic: Str::from_static("topic"), partition: PartitionIndex(7) };
    let ticket = world.ticket();
    let effects = world.shard.delete_offsets(ticket, &group, &[one]);
    assert_eq!(effects.records, [kafkas("offset_tombstone")]);

    assert_eq!(replayed(&[kafkas("offset"), kafkas("offset_tombstone")]).committed_offsets("group").count(), 0);
    let shard = replayed(&[kafkas("group_v3"), kafkas("offset"), kafkas("group_tombstone")]);
    assert_eq!(shard.describe_group("group").expect("it has an offset").members, []);
    assert_eq!(shard.committed_offsets("group").count(), 1, "offsets have tombstones of their own");
}

#[test]
fn a_generation_is_recorded_as_kafka_records_it_and_so_is_that_nobody_is_left() {
    let mut world = World::new();
    let member = world.alone("group");
    assert_eq!(world.log, [kafkas("group_v3")]);
    leave(&mut world, "group", &[(&member.id, None)]).expect("left");
    assert_eq!(world.log[1..], [kafkas("group_empty")]);
}

#[test]
fn every_version_of_a_group_is_read() {
    for (name, rebalance_ms) in [("group_v0", 10_000), ("group_v1", 5_000), ("group_v3", 5_000), ("group_v4", 5_000)] {
        let shard = replayed(&[kafkas(name)]);
        let group = shard.describe_group("group").expect("read");
        assert_eq!((group.state.name(), &*group.protocol_type, &*group.protocol), ("Stable", "consumer", "range"));
        let [member] = &group.members[..] else { panic!("{name}: one member") };
        assert_eq!(member.member_id, "app-00000000-0001-4000-8000-000000000001");
        assert_eq!((&*member.client_id, &*member.client_host), ("app", "/127.0.0.1"));
        assert_eq!((&member.metadata, &member.assignment[..]), (&support::subscription(&["topic"]), &b"all"[..]));
        // Version 0 has one timeout for both.
        let mut world = World::new();
        world.log = vec![kafkas(name)];
        world.fail_over();
        // The first random id is taken: by the member in the record.
        world.random();
        let mut other = support::Member { rebalance_ms: 1, ..world.member("group") };
        other.obtain_id(&mut world);
        let joining = other.start_join(&mut world);
        world.pass(rebalance_ms - 1);
        assert!(world.waits(joining), "{name}: the member may take its time");
        world.pass(1);
        assert!(!world.waits(joining), "{name}: it has had its time");
    }
    let member = &replayed(&[kafkas("group_static")]).describe_group("group").expect("read").members[0];
    assert_eq!(member.instance_id.as_deref(), Some("i1"));
    let shard = replayed(&[kafkas("group_v3"), kafkas("group_empty")]);
    let group = shard.describe_group("group").expect("read");
    assert_eq!((group.state.name(), &*group.protocol_type, group.members.len()), ("Empty", "consumer", 0));
}

#[test]
fn every_version_of_an_offset_is_read() {
    for name in ["offset_v0", "offset_v1", "offset_v2", "offset_v3", "offset_v4", "legacy"] {
        let shard = replayed(&[kafkas(name)]);
        let read = shard.committed_offset("group", "topic", TopicId::ZERO, PartitionIndex(7)).expect(name);
        assert_eq!((read.offset, &*read.metadata, read.committed_at), (Offset(42), "m", Timestamp(WALL)), "{name}");
        assert_eq!((read.expires_at, read.leader_epoch), (None, -1), "{name}");
    }
}

#[test]
fn an_unknown_kind_is_skipped_and_a_broken_record_is_refused_and_changes_nothing() {
    let mut shard = replayed(&[kafkas("offset"), kafkas("group_v3")]);
    let before = format!("{shard:?}");
    assert_eq!(shard.replay(&kafkas("unknown_kind")), Ok(Replayed::Skipped));
    let good = kafkas("offset");
    let refused = [
        Record { key: Bytes::new(), value: None },
        Record { key: Bytes::from_static(b"\x01"), value: None },
        Record { key: good.key.slice(..6), ..good.clone() },
        Record { key: [&good.key[..], b"x"].concat().into(), ..good.clone() },
        Record { value: Some(Bytes::new()), ..good.clone() },
        Record { value: Some(Bytes::from_static(b"\x00\x05")), ..good.clone() },
        Record { value: Some(from_hex("ffff")), ..good },
        Record { value: kafkas("offset").value, ..kafkas("group_v3") },
    ];
    for record in refused {
        assert!(shard.replay(&record).is_err(), "{record:?}");
    }
    assert_eq!(shard.replay(&Record { key: Bytes::new(), value: None }), Err(RecordError::NoKind));
    assert_eq!(format!("{shard:?}"), before);
}

#[test]
fn the_records_of_a_consumer_group_are_those_of_kafka() {
    let mut world = World::new();
    world.topics.set("t", 2);
    let mut member = Consumer::new("g", "a", &["t"]);
    member.join(&mut world).expect("joined");
    let kinds: Vec<u8> = world.log.iter().map(|record| record.key[1]).collect();
    assert_eq!(kinds, [5, 3, 7, 6, 8]);
    for (at, name) in
        [(0, "consumer_member"), (2, "consumer_target"), (3, "consumer_target_epoch"), (4, "consumer_current")]
    {
        assert_eq!(world.log[at], kafkas(name), "{name}");
    }
    // The hash of the topics is each broker's own; but for it, the record is the same.
    let (ours, kafkas_epoch) = (&world.log[1], kafkas("consumer_epoch"));
    assert_eq!(ours.key, kafkas_epoch.key);
    let (ours, theirs) = (ours.value.as_ref().expect("a value"), kafkas_epoch.value.expect("a value"));
    assert_eq!((ours.len(), &ours[..ours.len() - 8]), (theirs.len(), &theirs[..theirs.len() - 8]));

    let before = world.log.len();
    member.leave(&mut world, -1).expect("left");
    let ticket = world.ticket();
    let effects = world.shard.delete_groups(ticket, &[Str::from_static("g")]);
    world.take(effects);
    let tombstones: Vec<&Record> = world.log[before..].iter().filter(|record| record.value.is_none()).collect();
    let expected = ["current", "target", "member", "target_epoch", "epoch"];
    let expected = expected.map(|name| kafkas(&format!("consumer_{name}_tombstone")));
    assert_eq!(tombstones, expected.iter().collect::<Vec<_>>());
}

#[test]
fn a_consumer_group_of_kafkas_is_read_in_any_order_of_its_records() {
    let names = ["member", "epoch", "target", "target_epoch", "revoking", "regex"];
    let mut records: Vec<Record> = names.iter().map(|name| kafkas(&format!("consumer_{name}"))).collect();
    let mut world = World::new();
    world.topics.set("t", 2);
    let mut seen = Vec::new();
    for _ in 0..records.len() {
        records.rotate_left(1);
        let group = replayed(&records).describe_consumer_group("g", &world.topics).expect("read");
        let member = &group.members[0];
        assert_eq!((group.epoch, group.assignment_epoch, group.state.name()), (1, 1, "Reconciling"));
        assert_eq!((&*member.member_id, member.member_epoch, &*member.client_id), ("a", 1, "app"));
        assert_eq!((&member.assignment[0].partitions[..], &member.target[0].partitions[..]), (&[0][..], &[0, 1][..]));
        seen.push(group);
    }
    assert!(seen.iter().all(|group| *group == seen[0]));
    let group = replayed(&[kafkas("consumer_classic_member"), kafkas("consumer_epoch_no_topics")]);
    let group = group.describe_consumer_group("g", &world.topics).expect("read");
    let member = &group.members[0];
    assert!(member.speaks_classic);
    assert_eq!((member.instance_id.as_deref(), member.rack_id.as_deref()), (Some("i1"), Some("r1")));
    assert_eq!((member.subscribed_regex.as_deref(), group.assignor), (Some("t.*"), "range"));
    let tombstones = ["member", "target", "current", "regex", "target_epoch", "epoch"];
    records.extend(tombstones.map(|name| kafkas(&format!("consumer_{name}_tombstone"))));
    assert_eq!(replayed(&records).summaries().count(), 0);
}

proptest! {
    #[test]
    fn no_bytes_make_a_replay_panic(
        kind in 0i16..18,
        key in prop::collection::vec(any::<u8>(), 0..40),
        value in prop::option::of(prop::collection::vec(any::<u8>(), 0..80)),
        flips in prop::collection::vec((any::<usize>(), any::<u8>()), 0..4),
        name in prop::sample::select(vec![
            "group_v0", "group_v3", "group_v4", "offset", "offset_id", "legacy", "consumer_member", "consumer_epoch",
            "consumer_target", "consumer_current", "consumer_revoking", "consumer_regex", "consumer_classic_member",
        ]),
    ) {
        let mut shard = Shard::new(GroupSettings::default());
        let key = [&kind.to_be_bytes()[..], &key].concat();
        let _ = shard.replay(&Record { key: key.into(), value: value.map(Bytes::from) });
        let mut record = kafkas(name);
        let mut value = record.value.take().expect("no tombstone").to_vec();
        for (at, byte) in flips {
            let at = at % value.len();
            value[at] = byte;
        }
        record.value = Some(value.into());
        let _ = shard.replay(&record);
        // Whatever was taken for a group can be loaded and works.
        let mut world = World::new();
        world.shard = shard;
        let effects = world.shard.loaded(world.now());
        world.take(effects);
        world.pass(1_000_000);
    }
}
