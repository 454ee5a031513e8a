//! Committed offsets: who may commit, what is kept, what goes.

mod support;

use millpond_coordinator::{
    CommitOffsets, Committer, GroupError, GroupSettings, OffsetToCommit, OffsetToDelete, Reply,
};
use millpond_record::{Offset, PartitionIndex, Timestamp, TopicId};
use millpond_wire::Str;
use support::{WALL_START, World, committed, leave, settings, subscription};

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

fn to_commit(topic: &str, partition: i32, offset: i64) -> OffsetToCommit {
    OffsetToCommit {
        topic: Str::from(topic),
        topic_id: TopicId::ZERO,
        partition: PartitionIndex(partition),
        offset: Offset(offset),
        leader_epoch: -1,
        metadata: Str::EMPTY,
    }
}

fn delete_offsets(
    world: &mut World,
    group: &str,
    partitions: &[(&str, i32)],
) -> Result<Vec<Result<(), GroupError>>, GroupError> {
    let one = |&(topic, partition): &(&str, i32)| OffsetToDelete {
        topic: Str::from(topic),
        partition: PartitionIndex(partition),
    };
    let partitions: Vec<OffsetToDelete> = partitions.iter().map(one).collect();
    let ticket = world.ticket();
    let effects = world.shard.delete_offsets(ticket, &Str::from(group), &partitions);
    world.take(effects);
    match world.replies.remove(&ticket) {
        Some(Reply::DeleteOffsets(results)) => results,
        other => panic!("answered by {other:?}"),
    }
}

fn delete_groups(world: &mut World, groups: &[&str]) -> Vec<Result<(), GroupError>> {
    let groups: Vec<Str> = groups.iter().map(|&group| Str::from(group)).collect();
    let ticket = world.ticket();
    let effects = world.shard.delete_groups(ticket, &groups);
    world.take(effects);
    match world.replies.remove(&ticket) {
        Some(Reply::DeleteGroups(results)) => results,
        other => panic!("answered by {other:?}"),
    }
}

#[test]
fn a_commit_replaces_the_one_before_also_backwards_and_survives_a_replay() {
    let mut world = World::new();
    let first = OffsetToCommit { leader_epoch: 3, metadata: Str::from("héllo"), ..to_commit("t", 1, 42) };
    let results = world.commit_all("g", Committer::outsider(), vec![first.clone(), to_commit("u", 0, 9)]);
    assert_eq!(results, Ok(vec![Ok(()), Ok(())]));
    for shard in [&world.shard, &world.replayed()] {
        let kept = shard.committed_offset("g", "t", TopicId::ZERO, PartitionIndex(1)).expect("committed");
        assert_eq!((kept.offset, kept.leader_epoch, &*kept.metadata), (Offset(42), 3, "héllo"));
        assert_eq!((kept.committed_at, kept.expires_at), (Timestamp(WALL_START + 1_000), None));
        assert_eq!(shard.committed_offsets("g").count(), 2);
        assert_eq!(shard.committed_offset("g", "t", TopicId::ZERO, PartitionIndex(0)), None);
        assert_eq!(shard.committed_offset("other", "t", TopicId::ZERO, PartitionIndex(1)), None);
    }
    assert_eq!(world.commit("g", "u", 7, Committer::outsider()), Ok(()));
    assert_eq!((world.committed("g", "u"), committed(&world.replayed(), "g", "u")), (Some(7), Some(7)));
}

#[test]
fn metadata_beyond_the_limit_refuses_its_offset_only() {
    let mut world = World::with(GroupSettings { max_offset_metadata: 4, ..settings() });
    let with =
        |partition, metadata: &str| OffsetToCommit { metadata: Str::from(metadata), ..to_commit("t", partition, 1) };
    let offsets =
        vec![with(0, "abcd"), with(1, "abcde"), with(2, "éééé"), with(3, "ééééé"), with(4, "𝄞𝄞"), with(5, "𝄞𝄞𝄞")];
    let results = world.commit_all("g", Committer::outsider(), offsets).expect("the group takes commits");
    let too_large = Err(GroupError::MetadataTooLarge { max: 4 });
    assert_eq!(results, [Ok(()), too_large, Ok(()), too_large, Ok(()), too_large]);
    assert_eq!((world.log.len(), world.shard.committed_offsets("g").count()), (3, 3));
}

#[test]
fn in_a_live_group_a_commit_needs_a_member_of_its_generation() {
    let mut world = World::new();
    let member = world.alone("g");
    let base = member.committer();
    let current = base.generation;
    let illegal = |given| Err(GroupError::IllegalGeneration { given, current });
    let cases = [
        ("the member", base.clone(), Ok(())),
        ("an old generation", Committer { generation: 0, ..base.clone() }, illegal(0)),
        ("a generation to come", Committer { generation: 9, ..base.clone() }, illegal(9)),
        ("no generation", Committer { generation: -1, ..base.clone() }, illegal(-1)),
        ("a stranger", Committer { member_id: "ghost".into(), ..base.clone() }, Err(GroupError::UnknownMember)),
        ("an unknown instance", Committer { instance_id: Some("i".into()), ..base }, Err(GroupError::UnknownMember)),
        ("an outsider", Committer::outsider(), Err(GroupError::UnknownMember)),
    ];
    for (what, committer, expected) in cases {
        assert_eq!(world.commit("g", "t", 5, committer), expected, "{what}");
    }
    assert_eq!(world.committed("g", "t"), Some(5));
}

#[test]
fn a_generation_without_a_group_or_without_members_is_refused() {
    let mut world = World::new();
    let ghost = Committer { member_id: "ghost".into(), instance_id: None, generation: 5 };
    assert_eq!(world.commit("g", "t", 1, ghost.clone()), Err(GroupError::UnknownGroup));
    assert_eq!(world.state("g"), "Dead", "a refused commit makes no group");
    let member = world.alone("g");
    assert_eq!(member.leave(&mut world), Ok(()));
    assert_eq!(member.commit(&mut world, "t", 1), Err(GroupError::UnknownMember));
    assert_eq!(world.commit("g", "t", 2, Committer::outsider()), Ok(()));
    assert_eq!(world.committed("g", "t"), Some(2));
}

#[test]
fn while_members_join_the_old_generation_commits_and_between_join_and_sync_nobody() {
    let mut world = World::new();
    let mut first = world.alone("g");
    let mut second = world.member("g");
    second.obtain_id(&mut world);
    let joining = second.start_join(&mut world);
    assert_eq!(first.commit(&mut world, "t", 5), Ok(()));
    first.join(&mut world).outcome.expect("joined");
    second.finish_join(&mut world, joining).outcome.expect("joined");
    for member in [&first, &second] {
        assert_eq!(member.commit(&mut world, "t", 6), Err(GroupError::RebalanceInProgress));
    }
    assert_eq!(world.committed("g", "t"), Some(5));
}

#[test]
fn a_member_that_commits_is_alive() {
    let mut world = World::new();
    let member = world.alone("g");
    for offset in 0..5 {
        world.pass(9_000);
        assert_eq!(member.commit(&mut world, "t", offset), Ok(()), "after {} s", offset * 9);
    }
    world.pass(10_000);
    assert_eq!(member.commit(&mut world, "t", 9), Err(GroupError::UnknownMember));
}

#[test]
fn offsets_are_deleted_unless_members_read_the_topic() {
    let mut world = World::new();
    assert_eq!(delete_offsets(&mut world, "g", &[("t", 0)]), Err(GroupError::UnknownGroup));
    assert_eq!(delete_offsets(&mut world, "", &[("t", 0)]), Err(GroupError::InvalidGroupId));
    for topic in ["topic", "other"] {
        world.commit("g", topic, 5, Committer::outsider()).expect("committed");
    }
    let member = world.alone("g");
    let refused = Err(GroupError::SubscribedToTopic);
    assert_eq!(
        delete_offsets(&mut world, "g", &[("topic", 0), ("other", 0), ("other", 7)]),
        Ok(vec![refused, Ok(()), Ok(())])
    );
    assert_eq!((world.committed("g", "topic"), world.committed("g", "other")), (Some(5), None));
    assert_eq!(committed(&world.replayed(), "g", "other"), None);
    member.leave(&mut world).expect("left");
    for _ in 0..2 {
        assert_eq!(delete_offsets(&mut world, "g", &[("topic", 0)]), Ok(vec![Ok(())]), "deleting again is no error");
    }
    assert_eq!(world.committed("g", "topic"), None);
}

#[test]
fn a_live_group_that_is_not_of_consumers_keeps_all_its_offsets() {
    let mut world = World::new();
    let mut worker = world.member("connect");
    worker.protocol_type = "connect".into();
    worker.protocols = vec![("sessioned".into(), "\u{1}any bytes".into())];
    worker.join_alone(&mut world);
    worker.commit(&mut world, "t", 5).expect("committed");
    assert_eq!(delete_offsets(&mut world, "connect", &[("t", 0)]), Err(GroupError::NonEmptyGroup));
    // Consumers whose subscription nobody can read may read any topic.
    let mut odd = world.member("odd").protocols(&[("range", "changed".into())]);
    odd.join_alone(&mut world);
    odd.commit(&mut world, "t", 5).expect("committed");
    let refused = vec![Err(GroupError::SubscribedToTopic)];
    assert_eq!(delete_offsets(&mut world, "odd", &[("t", 0)]), Ok(refused.clone()));
    world.fail_over();
    assert_eq!(delete_offsets(&mut world, "odd", &[("t", 0)]), Ok(refused), "also after a failover");
}

#[test]
fn a_deleted_group_is_gone_with_its_offsets_and_only_an_empty_one_is_deleted() {
    let mut world = World::new();
    let member = world.alone("live");
    member.commit(&mut world, "t", 5).expect("committed");
    world.commit("simple", "t", 6, Committer::outsider()).expect("committed");
    let results = delete_groups(&mut world, &["live", "unknown", "simple", "simple"]);
    let unknown = Err(GroupError::UnknownGroup);
    assert_eq!(results, [Err(GroupError::NonEmptyGroup), unknown, Ok(()), unknown]);
    assert_eq!((world.committed("simple", "t"), world.committed("live", "t")), (None, Some(5)));
    member.leave(&mut world).expect("left");
    assert_eq!(delete_groups(&mut world, &["live", "live"]), [Ok(()), unknown]);
    for shard in [&world.shard, &world.replayed()] {
        assert_eq!(shard.summaries().count(), 0);
        assert_eq!(shard.state_bytes(), 0, "what was counted is given back");
    }
}

#[test]
fn a_deleted_topic_takes_its_offsets_along_but_not_those_of_its_namesake() {
    let mut world = World::new();
    let (old, new) = (TopicId([1; 16]), TopicId([2; 16]));
    let of = |group: &str, topic_id, world: &mut World| {
        let one = OffsetToCommit { topic_id, ..to_commit("t", 0, 5) };
        world.commit_all(group, Committer::outsider(), vec![one, to_commit("u", 0, 6)]).expect("committed");
    };
    of("by-old-id", old, &mut world);
    of("by-name", TopicId::ZERO, &mut world);
    of("by-new-id", new, &mut world);
    let effects = world.shard.on_topic_deleted("t", old);
    world.take(effects);
    for shard in [&world.shard, &world.replayed()] {
        let left = ["by-old-id", "by-name", "by-new-id"].map(|group| committed(shard, group, "t"));
        assert_eq!(left, [None, None, Some(5)]);
        assert_eq!(shard.committed_offset("by-new-id", "t", old, PartitionIndex(0)), None, "another topic's");
        assert!(shard.committed_offset("by-new-id", "t", new, PartitionIndex(0)).is_some());
        assert_eq!(committed(shard, "by-name", "u"), Some(6));
    }
}

#[test]
fn offsets_of_outsiders_expire_by_their_own_age_and_the_group_after_them() {
    let mut world = World::new();
    world.commit("g", "old", 1, Committer::outsider()).expect("committed");
    world.pass(4 * DAY_MS);
    world.commit("g", "young", 2, Committer::outsider()).expect("committed");
    world.pass(3 * DAY_MS + 700_000);
    assert_eq!((world.committed("g", "old"), world.committed("g", "young")), (None, Some(2)));
    world.pass(4 * DAY_MS);
    for shard in [&world.shard, &world.replayed()] {
        assert_eq!(shard.summaries().count(), 0);
    }
}

#[test]
fn offsets_of_members_expire_when_the_group_has_been_empty_for_as_long() {
    let mut world = World::new();
    let member = world.alone("g");
    member.commit(&mut world, "topic", 1).expect("committed");
    member.commit(&mut world, "not-subscribed", 2).expect("committed");
    for _ in 0..(8 * DAY_MS / 9_000) {
        world.pass(9_000);
        member.heartbeat(&mut world).expect("alive");
    }
    assert_eq!(world.committed("g", "topic"), Some(1), "in use");
    assert_eq!(world.committed("g", "not-subscribed"), None, "nobody reads it");
    world.fail_over();
    member.heartbeat(&mut world).expect("alive");
    member.leave(&mut world).expect("left");
    world.pass(6 * DAY_MS);
    assert_eq!(world.committed("g", "topic"), Some(1), "the group is empty for six days");
    world.fail_over();
    world.pass(DAY_MS + 700_000);
    assert_eq!(world.committed("g", "topic"), None);
    assert_eq!(world.state("g"), "Dead");
}

#[test]
fn a_retention_that_the_commit_names_counts_instead_of_the_brokers() {
    let mut world = World::new();
    for (group, retention_ms) in [("short", 1_000), ("long", 30 * DAY_MS as i64)] {
        let ticket = world.ticket();
        let request = CommitOffsets {
            group_id: Str::from(group),
            committer: Committer::outsider(),
            version: 4,
            retention_ms: Some(retention_ms),
            offsets: vec![to_commit("t", 0, 1)],
        };
        let effects = world.shard.commit_offsets(ticket, world.now(), &request);
        world.take(effects);
    }
    world.pass(700_000);
    assert_eq!((world.committed("short", "t"), world.committed("long", "t")), (None, Some(1)));
    world.fail_over();
    world.pass(20 * DAY_MS);
    assert_eq!(world.committed("long", "t"), Some(1));
    world.pass(11 * DAY_MS);
    assert_eq!(world.committed("long", "t"), None);
}

#[test]
fn a_long_search_for_expired_offsets_pauses_and_goes_on() {
    let mut world = World::new();
    for group in 0..50 {
        let offsets = (0..100).map(|partition| to_commit("t", partition, 1)).collect();
        world.commit_all(&format!("g{group:02}"), Committer::outsider(), offsets).expect("committed");
    }
    let before = world.log.len();
    world.now_ms += 8 * DAY_MS;
    let effects = world.shard.tick(world.now());
    assert!((1_000..1_200).contains(&effects.records.len()), "{} at once", effects.records.len());
    assert_eq!(world.shard.next_deadline(), Some(world.now_ms), "there is more to do");
    world.take(effects);
    world.pass(1);
    assert_eq!(world.shard.summaries().count(), 0);
    assert_eq!(world.log.len() - before, 50 * 101, "a tombstone for each offset and each group");
    assert_eq!(world.replayed().summaries().count(), 0);
}

#[test]
fn what_would_take_more_memory_than_is_allowed_is_refused_and_replacing_is_not() {
    let mut world = World::with(GroupSettings { max_state_bytes: 20_000, ..settings() });
    let mut refused = 0;
    for group in 0..100 {
        match world.commit(&format!("g{group}"), "t", 1, Committer::outsider()) {
            Ok(()) => assert_eq!(refused, 0, "what is refused stays refused"),
            Err(error) => {
                assert_eq!(error, GroupError::NoMemory);
                refused += 1;
            }
        }
    }
    assert!((50..100).contains(&refused), "{refused} refused");
    assert!(world.shard.state_bytes() <= 20_000);
    assert_eq!(world.commit("g0", "t", 2, Committer::outsider()), Ok(()));
    let mut member = world.member("new");
    assert_eq!(member.join_error(&mut world), Some(GroupError::NoMemory));
    assert_eq!(delete_groups(&mut world, &["g0", "g1", "g2", "g3", "g4", "g5", "g6", "g7"]), [Ok(()); 8]);
    assert_eq!(world.commit("g99", "t", 1, Committer::outsider()), Ok(()));
}

#[test]
fn offsets_outlive_the_members_and_a_failover() {
    let mut world = World::new();
    let first = world.alone("g").clone();
    first.commit(&mut world, "t", 5).expect("committed");
    assert_eq!(leave(&mut world, "g", &[(&first.id, None)]), Ok(vec![Ok(())]));
    world.fail_over();
    let second = world.alone("g");
    assert!(second.generation > first.generation, "the generation goes on");
    assert_eq!(world.committed("g", "t"), Some(5));
    let other = world.member("g").protocols(&[("range", subscription(&["t"]))]);
    assert_eq!(other.commit(&mut world, "t", 6), Err(GroupError::UnknownMember));
}

#[test]
fn longer_metadata_of_an_offset_that_is_there_is_held_to_the_memory_too() {
    let mut world = World::new();
    let with_metadata = |world: &mut World, bytes: usize| {
        let one = OffsetToCommit {
            topic: Str::from("t"),
            topic_id: TopicId::ZERO,
            partition: PartitionIndex(0),
            offset: Offset(1),
            leader_epoch: -1,
            metadata: Str::from("x".repeat(bytes)),
        };
        world.commit_all("g", Committer::outsider(), vec![one]).expect("allowed").remove(0)
    };
    assert_eq!(with_metadata(&mut world, 100), Ok(()));
    let max_state_bytes = world.shard.state_bytes() + 50;
    world.shard.set_settings(GroupSettings { max_state_bytes, ..settings() });
    assert_eq!(with_metadata(&mut world, 151), Err(GroupError::NoMemory));
    assert_eq!(with_metadata(&mut world, 150), Ok(()));
    assert_eq!(world.shard.state_bytes(), max_state_bytes);
}
