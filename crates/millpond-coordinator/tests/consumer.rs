//! Consumer groups (KIP-848): joining, following, leaving, and what each is refused.

mod support;

use std::collections::BTreeSet;

use millpond_coordinator::{GroupError, GroupSettings};
use millpond_record::TopicId;
use millpond_wire::Str;
use millpond_wire::consumer_group_heartbeat::{ConsumerGroupHeartbeatRequest, TopicPartitions};
use support::{Consumer, World, leave, settings};

fn with_topic(partitions: i32) -> World {
    let mut world = World::new();
    world.topics.set("t", partitions);
    world
}

fn join(world: &mut World, id: &str) -> Consumer {
    let mut member = Consumer::new("g", id, &["t"]);
    member.join(world).expect("joined");
    member
}

/// Heartbeats until nothing changes; no partition has two owners meanwhile.
fn settle(world: &mut World, members: &mut [&mut Consumer]) {
    for _ in 0..10 {
        for at in 0..members.len() {
            members[at].beat(world).expect("alive");
            let mut seen = BTreeSet::new();
            for member in members.iter() {
                for (topic, partitions) in &member.owned {
                    assert!(partitions.iter().all(|&one| seen.insert((*topic, one))), "two owners");
                }
            }
        }
    }
    assert_eq!(world.state("g"), "Stable");
}

#[test]
fn a_single_member_is_given_all_partitions_and_an_unchanged_heartbeat_gets_no_assignment() {
    let mut world = with_topic(4);
    let mut member = Consumer::new("g", "a", &["t"]);
    let answer = member.join(&mut world).expect("joined");
    assert_eq!((answer.member_epoch, answer.interval_ms), (1, 5_000));
    assert_eq!(member.of(&world, "t"), [0, 1, 2, 3]);
    let quiet = member.quiet();
    for _ in 0..3 {
        let answer = member.send(&mut world, &quiet).expect("alive");
        assert_eq!((answer.assignment, answer.member_epoch), (None, 1));
    }
    // Whoever tells all there is is told all: it may have lost an answer.
    let mut full = member.joining();
    full.member_epoch = 1;
    full.topic_partitions = Some(member.reported());
    assert!(member.send(&mut world, &full).expect("alive").assignment.is_some());
}

#[test]
fn in_version_0_the_broker_makes_the_member_id() {
    let mut world = with_topic(1);
    let mut old = Consumer { version: 0, ..Consumer::new("g", "", &["t"]) };
    old.join(&mut world).expect("joined");
    assert!(old.id.starts_with("app-"));
    let mut new = Consumer::new("g", "", &["t"]);
    assert!(matches!(new.join(&mut world), Err(GroupError::InvalidRequest(_))));
}

#[test]
fn a_join_that_lacks_what_it_needs_is_refused_and_leaves_no_group_behind() {
    let mut world = with_topic(1);
    let base = || Consumer::new("g", "a", &["t"]).joining();
    let owned = vec![TopicPartitions { topic_id: [1; 16], partitions: vec![0] }];
    let cases = [
        ConsumerGroupHeartbeatRequest { group_id: "".into(), ..base() },
        ConsumerGroupHeartbeatRequest { rebalance_timeout_ms: -1, ..base() },
        ConsumerGroupHeartbeatRequest { subscribed_topic_names: None, ..base() },
        ConsumerGroupHeartbeatRequest { topic_partitions: Some(owned), ..base() },
        ConsumerGroupHeartbeatRequest { topic_partitions: None, ..base() },
        ConsumerGroupHeartbeatRequest { instance_id: Some("".into()), ..base() },
        ConsumerGroupHeartbeatRequest { rack_id: Some("".into()), ..base() },
        ConsumerGroupHeartbeatRequest { member_epoch: -3, ..base() },
        ConsumerGroupHeartbeatRequest { member_epoch: -2, ..base() },
    ];
    let mut member = Consumer::new("g", "a", &["t"]);
    for request in cases {
        let refused = member.send(&mut world, &request);
        assert!(matches!(refused, Err(GroupError::InvalidRequest(_))), "{request:?}: {refused:?}");
    }
    let others = [
        (
            ConsumerGroupHeartbeatRequest { server_assignor: Some("mine".into()), ..base() },
            GroupError::UnsupportedAssignor,
        ),
        (
            ConsumerGroupHeartbeatRequest { subscribed_topic_regex: Some("(".into()), ..base() },
            GroupError::InvalidRegex,
        ),
        (ConsumerGroupHeartbeatRequest { rack_id: Some("x".repeat(4097).into()), ..base() }, GroupError::NamesTooLong),
        (ConsumerGroupHeartbeatRequest { member_epoch: 1, ..base() }, GroupError::UnknownGroup),
        (ConsumerGroupHeartbeatRequest { member_epoch: -1, ..base() }, GroupError::UnknownGroup),
    ];
    for (request, error) in others {
        assert_eq!(member.send(&mut world, &request), Err(error), "{request:?}");
    }
    assert_eq!((world.shard.summaries().count(), world.log.len(), world.shard.state_bytes()), (0, 0, 0));
}

#[test]
fn a_second_member_gets_partitions_only_when_the_first_has_given_them_up() {
    let mut world = with_topic(4);
    let mut first = join(&mut world, "a");
    let mut second = join(&mut world, "b");
    assert_eq!(world.state("g"), "Reconciling");
    for _ in 0..3 {
        let answer = second.beat(&mut world).expect("alive");
        assert_eq!((second.of(&world, "t").len(), answer.interval_ms), (0, 500));
    }
    let quiet = first.quiet();
    first.send(&mut world, &quiet).expect("alive");
    assert_eq!((first.of(&world, "t").len(), first.epoch), (2, 1), "it is told what it may keep");
    second.beat(&mut world).expect("alive");
    assert_eq!(second.of(&world, "t").len(), 0, "the first has not said that it gave them up");
    let quiet = first.quiet();
    first.send(&mut world, &quiet).expect("alive");
    assert_eq!(first.epoch, 1, "a heartbeat that does not report is no report");
    settle(&mut world, &mut [&mut first, &mut second]);
    assert_eq!((first.of(&world, "t").len(), second.of(&world, "t").len()), (2, 2));
    assert_eq!((first.epoch, second.epoch), (2, 2));
}

#[test]
fn a_member_that_leaves_gives_its_partitions_to_the_others() {
    let mut world = with_topic(4);
    let (mut first, mut second) = (join(&mut world, "a"), join(&mut world, "b"));
    settle(&mut world, &mut [&mut first, &mut second]);
    assert_eq!(second.leave(&mut world, -1).expect("left").member_epoch, -1);
    assert_eq!(second.leave(&mut world, -1), Err(GroupError::UnknownMember));
    settle(&mut world, &mut [&mut first]);
    assert_eq!(first.of(&world, "t"), [0, 1, 2, 3]);
    first.leave(&mut world, -1).expect("left");
    assert_eq!(world.state("g"), "Empty");
}

#[test]
fn epochs_fence_those_that_are_ahead_or_behind_but_an_answer_may_be_lost() {
    let mut world = with_topic(2);
    let mut first = join(&mut world, "a");
    let ahead = ConsumerGroupHeartbeatRequest { member_epoch: 8, ..first.quiet() };
    let current = first.epoch;
    assert_eq!(first.send(&mut world, &ahead), Err(GroupError::FencedMemberEpoch { given: 8, current }));
    let mut stranger = Consumer { epoch: 1, ..Consumer::new("g", "x", &["t"]) };
    assert_eq!(stranger.beat(&mut world).err(), Some(GroupError::UnknownMember));
    let mut second = join(&mut world, "b");
    settle(&mut world, &mut [&mut first, &mut second]);
    let lost = ConsumerGroupHeartbeatRequest {
        member_epoch: current,
        topic_partitions: Some(first.reported()),
        ..first.quiet()
    };
    first.clone().send(&mut world, &lost).expect("the epoch before, with what is assigned");
    let mut more = lost.clone();
    more.topic_partitions = Some(vec![TopicPartitions { topic_id: world.topics.id("t").0, partitions: vec![0, 1] }]);
    let fenced = GroupError::FencedMemberEpoch { given: current, current: first.epoch };
    assert_eq!(first.clone().send(&mut world, &more), Err(fenced), "with what another one has");
    more.topic_partitions = None;
    assert_eq!(first.clone().send(&mut world, &more), Err(fenced), "without a word on what it has");
    first.beat(&mut world).expect("the member itself goes on");
}

#[test]
fn a_change_of_subscription_or_topics_changes_the_assignment() {
    let mut world = World::new();
    let mut member = Consumer::new("g", "a", &["later"]);
    member.join(&mut world).expect("joined");
    assert_eq!(member.owned.len(), 0, "a topic that does not exist");
    world.topics.set("first", 2);
    world.topics.set("second", 3);
    for (topics, expected) in [(&["first"][..], 2), (&["first", "second"], 5), (&[], 0), (&["second"], 3)] {
        let names = topics.iter().map(|&topic| Str::from(topic)).collect();
        let request = ConsumerGroupHeartbeatRequest { subscribed_topic_names: Some(names), ..member.quiet() };
        member.send(&mut world, &request).expect("alive");
        for _ in 0..3 {
            member.beat(&mut world).expect("alive");
        }
        assert_eq!(member.owned.values().map(Vec::len).sum::<usize>(), expected, "{topics:?}");
    }
    world.topics.set("second", 5);
    settle(&mut world, &mut [&mut member]);
    assert_eq!(member.of(&world, "second"), [0, 1, 2, 3, 4], "partitions are added");
    world.topics.delete("second");
    settle(&mut world, &mut [&mut member]);
    assert_eq!(member.owned.values().map(Vec::len).sum::<usize>(), 0, "the topic is deleted");
}

#[test]
fn a_regular_expression_follows_the_topics_that_it_matches() {
    let mut world = World::new();
    world.topics.set("rx.orders", 2);
    world.topics.set("x-rx.orders", 1);
    let mut member = Consumer { names: None, regex: Some(r"rx\..*".into()), ..Consumer::new("g", "a", &[]) };
    member.join(&mut world).expect("joined");
    assert_eq!(member.of(&world, "rx.orders").len(), 2);
    world.topics.set("rx.payments", 3);
    settle(&mut world, &mut [&mut member]);
    assert_eq!((member.of(&world, "rx.payments").len(), member.of(&world, "x-rx.orders").len()), (3, 0));
    world.fail_over();
    let request = ConsumerGroupHeartbeatRequest { subscribed_topic_regex: Some(r"rx\.pay.*".into()), ..member.quiet() };
    member.send(&mut world, &request).expect("alive");
    settle(&mut world, &mut [&mut member]);
    assert_eq!((member.of(&world, "rx.payments").len(), member.of(&world, "rx.orders").len()), (3, 0));
}

#[test]
fn a_static_member_that_leaves_for_a_while_finds_its_partitions_again() {
    let mut world = with_topic(4);
    let mut old = Consumer { instance: Some("i1".into()), ..Consumer::new("g", "a", &["t"]) };
    old.join(&mut world).expect("joined");
    let mut new = Consumer { id: "b".into(), ..old.clone() };
    assert_eq!(new.join(&mut world).err(), Some(GroupError::UnreleasedInstance));
    let epoch = old.epoch;
    assert_eq!(old.leave(&mut world, -2).expect("left").member_epoch, -2);
    let rebalances = world.shard.summary("g").expect("there").rebalances;
    new.join(&mut world).expect("joined");
    assert_eq!((new.of(&world, "t"), new.epoch), (vec![0, 1, 2, 3], epoch));
    assert_eq!(world.shard.summary("g").expect("there").rebalances, rebalances, "no rebalance");
    old.epoch = epoch;
    assert_eq!(old.beat(&mut world).err(), Some(GroupError::FencedInstance));
    assert_eq!(old.leave(&mut world, -1).err(), Some(GroupError::FencedInstance));
    new.instance = Some("another".into());
    assert_eq!(new.beat(&mut world).err(), Some(GroupError::UnknownMember));
    // Whoever does not come back within the session is gone.
    new.instance = Some("i1".into());
    new.leave(&mut world, -2).expect("left");
    world.pass(45_000);
    assert_eq!(world.state("g"), "Empty");
}

#[test]
fn commits_and_fetches_carry_the_member_epoch() {
    let mut world = with_topic(1);
    let member = join(&mut world, "a");
    let committer = member.committer();
    let current = member.epoch;
    assert_eq!(world.commit("g", "t", 5, committer.clone()), Ok(()));
    for given in [current - 1, current + 5] {
        let stale = millpond_coordinator::Committer { generation: given, ..committer.clone() };
        assert_eq!(world.commit("g", "t", 6, stale), Err(GroupError::StaleMemberEpoch { given, current }));
    }
    let ghost = millpond_coordinator::Committer { member_id: "ghost".into(), ..committer };
    assert_eq!(world.commit("g", "t", 6, ghost), Err(GroupError::UnknownMember));
    let outsider = millpond_coordinator::Committer::outsider();
    assert_eq!(world.commit("g", "t", 6, outsider), Err(GroupError::UnknownMember));
    assert_eq!(world.committed("g", "t"), Some(5));
    let (id, ghost) = (Some(&member.id), Some(&Str::from_static("ghost")));
    assert_eq!(world.shard.may_fetch("g", id, current), Ok(()));
    assert_eq!(world.shard.may_fetch("g", None, -1), Ok(()));
    let stale = GroupError::StaleMemberEpoch { given: current - 1, current };
    assert_eq!(world.shard.may_fetch("g", id, current - 1), Err(stale));
    assert_eq!(world.shard.may_fetch("g", ghost, 1), Err(GroupError::UnknownMember));
}

#[test]
fn a_group_is_described_as_what_it_is_and_deleted_only_when_empty() {
    let mut world = with_topic(2);
    let mut member = Consumer::new("g", "a", &["t"]);
    let mut request = member.joining();
    request.rack_id = Some("r1".into());
    member.send(&mut world, &request).expect("joined");
    let group = world.shard.describe_consumer_group("g", &world.topics).expect("there");
    assert_eq!((group.state.name(), group.epoch, group.assignment_epoch, group.assignor), ("Stable", 1, 1, "uniform"));
    let one = &group.members[0];
    assert_eq!((&*one.member_id, one.member_epoch, one.rack_id.as_deref()), ("a", 1, Some("r1")));
    assert_eq!((&*one.client_id, &*one.client_host, one.speaks_classic), ("app", "/127.0.0.1", false));
    assert_eq!(one.subscribed_topics, [Str::from("t")]);
    assert_eq!((&*one.assignment[0].topic, &one.assignment[0].partitions[..]), ("t", &[0, 1][..]));
    assert_eq!(one.target, one.assignment);
    assert_eq!(world.shard.describe_group("g"), Err(GroupError::UnknownGroup));
    world.alone("classic");
    let classic = world.shard.describe_consumer_group("classic", &world.topics);
    assert_eq!(classic, Err(GroupError::UnknownGroup));
    world.commit("g", "t", 5, member.committer()).expect("committed");
    assert_eq!(world.shard.partitions("g")[0].owner.map(|owner| owner.member_id), Some(&member.id));
    let ticket = world.ticket();
    let delete = |world: &mut World, ticket| {
        let effects = world.shard.delete_groups(ticket, &[Str::from_static("g")]);
        world.take(effects);
        match world.replies.remove(&ticket) {
            Some(millpond_coordinator::Reply::DeleteGroups(results)) => results,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(delete(&mut world, ticket), [Err(GroupError::NonEmptyGroup)]);
    member.leave(&mut world, -1).expect("left");
    let ticket = world.ticket();
    assert_eq!(delete(&mut world, ticket), [Ok(())]);
    for shard in [&world.shard, &world.replayed()] {
        assert!(shard.summary("g").is_none() && shard.committed_offsets("g").count() == 0);
    }
}

#[test]
fn a_member_that_is_silent_or_does_not_follow_is_removed_and_the_others_get_its_partitions() {
    let mut world = with_topic(2);
    let mut stuck = join(&mut world, "a");
    let mut other = join(&mut world, "b");
    let quiet = stuck.quiet();
    stuck.send(&mut world, &quiet).expect("alive");
    world.pass(4_999);
    stuck.send(&mut world, &quiet).expect("it has its rebalance timeout");
    world.pass(1);
    assert_eq!(stuck.send(&mut world, &quiet).err(), Some(GroupError::UnknownMember));
    settle(&mut world, &mut [&mut other]);
    assert_eq!(other.of(&world, "t"), [0, 1]);
    let mut silent = join(&mut world, "c");
    settle(&mut world, &mut [&mut other, &mut silent]);
    for _ in 0..9 {
        world.pass(5_000);
        other.beat(&mut world).expect("alive");
    }
    settle(&mut world, &mut [&mut other]);
    assert_eq!(other.of(&world, "t"), [0, 1]);
}

#[test]
fn a_failover_loses_nobodys_place() {
    let mut world = with_topic(4);
    let (mut first, mut second) = (join(&mut world, "a"), join(&mut world, "b"));
    first.beat(&mut world).expect("alive");
    world.fail_over();
    settle(&mut world, &mut [&mut first, &mut second]);
    assert_eq!((first.of(&world, "t").len(), second.of(&world, "t").len()), (2, 2));
    world.fail_over();
    let answer = first.beat(&mut world).expect("alive");
    assert_eq!((answer.assignment, answer.member_epoch), (None, first.epoch));
    world.pass(45_000);
    assert_eq!(world.state("g"), "Empty", "sessions run on after a failover");
}

#[test]
fn a_full_group_and_a_full_shard_take_no_more_members() {
    let mut world = World::with(GroupSettings { max_group_size: 1, ..settings() });
    world.topics.set("t", 2);
    let mut first = join(&mut world, "a");
    let mut second = Consumer::new("g", "b", &["t"]);
    assert_eq!(second.join(&mut world).err(), Some(GroupError::GroupFull { max: 1 }));
    first.beat(&mut world).expect("alive");
    let mut world = World::with(GroupSettings { max_state_bytes: 20_000, ..settings() });
    world.topics.set("t", 2);
    let names: Vec<String> = (0..100).map(|number| format!("topic-{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut large = Consumer::new("g", "b", &names);
    assert_eq!(large.join(&mut world).err(), Some(GroupError::NoMemory));
    assert_eq!(world.shard.summaries().count(), 0);
}

#[test]
fn what_a_member_says_of_itself_later_is_held_to_the_limit_of_memory_too_and_members_go_on_at_it() {
    let mut world = with_topic(2);
    let mut member = join(&mut world, "a");
    for number in 0..200 {
        world.topics.set(&format!("matched-{number}"), 1);
    }
    let max_state_bytes = world.shard.state_bytes() + 5_000;
    world.shard.set_settings(GroupSettings { max_state_bytes, ..settings() });
    let names = (0..300).map(|number| Str::from(format!("topic-{number}"))).collect();
    let longer = ConsumerGroupHeartbeatRequest { subscribed_topic_names: Some(names), ..member.quiet() };
    let wider = ConsumerGroupHeartbeatRequest { subscribed_topic_regex: Some("matched-.*".into()), ..member.quiet() };
    for request in [longer, wider] {
        assert_eq!(member.send(&mut world, &request).err(), Some(GroupError::NoMemory));
        assert!(world.shard.state_bytes() <= max_state_bytes);
    }
    member.beat(&mut world).expect("alive");
    // It has lost its epoch, and is counted already.
    member.join(&mut world).expect("it is there");
    assert_eq!(Consumer::new("g", "b", &["t"]).join(&mut world).err(), Some(GroupError::NoMemory));
}

#[test]
fn an_empty_group_becomes_what_its_first_member_speaks() {
    let mut world = with_topic(2);
    world.topics.set("topic", 1);
    let mut consumer = join(&mut world, "a");
    world.commit("g", "t", 5, consumer.committer()).expect("committed");
    consumer.leave(&mut world, -1).expect("left");
    let classic = world.alone("g");
    assert_eq!(world.shard.summary("g").expect("there").group_type.name(), "classic");
    assert_eq!(world.replayed().summary("g").expect("there").group_type.name(), "classic");
    classic.leave(&mut world).expect("left");
    consumer.epoch = 0;
    consumer.join(&mut world).expect("joined");
    assert_eq!(consumer.of(&world, "t"), [0, 1]);
    for shard in [&world.shard, &world.replayed()] {
        assert_eq!(shard.summary("g").expect("there").group_type.name(), "consumer");
        assert_eq!(support::committed(shard, "g", "t"), Some(5), "offsets stay");
    }
}

#[test]
fn a_classic_member_takes_part_in_a_consumer_group() {
    let mut world = with_topic(4);
    let mut consumer = join(&mut world, "a");
    let mut classic = world.member("g").protocols(&[("range", support::subscription(&["t"]))]);
    let mut odd = world.member("g").protocols(&[("range", "changed".into())]);
    assert_eq!(odd.join_error(&mut world), Some(GroupError::InconsistentProtocol));
    let mut connect = world.member("g");
    connect.protocol_type = "connect".into();
    assert_eq!(connect.join_error(&mut world), Some(GroupError::InconsistentProtocol));
    classic.join(&mut world).outcome.expect("joined");
    classic.sync(&mut world, &[]).expect("synced");
    assert_eq!(classic.heartbeat(&mut world), Ok(()), "it waits for the other one to give partitions up");
    for _ in 0..3 {
        consumer.beat(&mut world).expect("alive");
    }
    assert_eq!(consumer.of(&world, "t").len(), 2);
    assert_eq!(classic.heartbeat(&mut world), Err(GroupError::RebalanceInProgress));
    classic.join(&mut world).outcome.expect("joined");
    let synced = classic.sync(&mut world, &[]).expect("synced");
    assert_eq!(assigned(&synced.assignment), 2);
    assert_eq!((classic.heartbeat(&mut world), world.state("g")), (Ok(()), "Stable"));
    assert_eq!(classic.commit(&mut world, "t", 7), Ok(()));
    let late = support::Member { generation: 1, ..classic.clone() };
    let illegal = GroupError::IllegalGeneration { given: 1, current: classic.generation };
    assert_eq!(late.commit(&mut world, "t", 8), Err(illegal));
    assert_eq!(late.heartbeat(&mut world), Err(illegal));
    // After a failover it goes on.
    world.fail_over();
    assert_eq!(classic.heartbeat(&mut world), Ok(()));
    assert_eq!(leave(&mut world, "g", &[(&consumer.id, None)]), Ok(vec![Err(GroupError::UnknownMember)]));
    classic.leave(&mut world).expect("left");
    settle(&mut world, &mut [&mut consumer]);
    assert_eq!(consumer.of(&world, "t").len(), 4);
}

fn assigned(assignment: &bytes::Bytes) -> usize {
    use millpond_wire::Data;
    use millpond_wire::consumer_protocol_assignment::ConsumerProtocolAssignment;
    let read = ConsumerProtocolAssignment::from_bytes(assignment.clone()).expect("an assignment");
    read.assigned_partitions.iter().map(|one| one.partitions.len()).sum()
}

#[test]
fn a_live_classic_group_becomes_a_consumer_group_and_back() {
    let mut world = with_topic(2);
    let offers = [("range", support::subscription(&["t"])), ("sticky", support::subscription(&["t"]))];
    let mut classic = world.member("g").protocols(&offers);
    classic.join(&mut world).outcome.expect("joined");
    let assignment = b"\0\0\0\0\0\x01\0\x01t\0\0\0\x02\0\0\0\0\0\0\0\x01\xff\xff\xff\xff";
    let id = classic.id.clone();
    classic.sync(&mut world, &[(&id, assignment)]).expect("synced");
    let waiting = classic.start_join(&mut world);
    let mut other = world.member("g").protocols(&offers);
    other.obtain_id(&mut world);
    classic.finish_join(&mut world, waiting).outcome.err();
    let waiting = classic.start_sync(&mut world, &[]);
    let _ = world.replies.remove(&waiting);

    let mut consumer = join(&mut world, "a");
    assert_eq!(world.shard.summary("g").expect("there").group_type.name(), "consumer");
    assert_eq!(world.shard.parked().count(), 0, "whoever waited was told to join again");
    let beat = classic.heartbeat(&mut world);
    assert!(matches!(beat, Err(GroupError::RebalanceInProgress | GroupError::IllegalGeneration { .. })), "{beat:?}");
    for _ in 0..3 {
        classic.join(&mut world).outcome.expect("joined");
        classic.sync(&mut world, &[]).expect("synced");
        consumer.beat(&mut world).expect("alive");
    }
    assert_eq!((consumer.of(&world, "t").len(), world.state("g")), (1, "Stable"));
    for shard in [&world.shard, &world.replayed()] {
        let group = shard.describe_consumer_group("g", &world.topics).expect("a consumer group");
        assert_eq!(group.members.iter().filter(|member| member.speaks_classic).count(), 1);
    }

    consumer.leave(&mut world, -1).expect("left");
    assert_eq!(world.shard.summary("g").expect("there").group_type.name(), "classic");
    assert_eq!(world.replayed().summary("g").expect("there").group_type.name(), "classic");
    let beat = classic.heartbeat(&mut world);
    assert!(matches!(beat, Err(GroupError::RebalanceInProgress | GroupError::IllegalGeneration { .. })), "{beat:?}");
    let joined = classic.join(&mut world).outcome.expect("joined");
    assert_eq!((joined.members.len(), joined.leader), (1, classic.id.clone()));
}

#[test]
fn a_classic_group_that_is_none_of_consumers_stays_one() {
    let mut world = with_topic(1);
    let mut worker = world.member("g");
    worker.protocol_type = "connect".into();
    worker.join_alone(&mut world);
    let mut consumer = Consumer::new("g", "a", &["t"]);
    assert_eq!(consumer.join(&mut world).err(), Some(GroupError::UnknownGroup));
    assert_eq!(worker.heartbeat(&mut world), Ok(()));
    let id: TopicId = world.topics.id("t");
    assert_ne!(id, TopicId::ZERO);
}
