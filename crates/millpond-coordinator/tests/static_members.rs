//! Static members (KIP-345, KIP-814): they come back under a new id and find their place.

mod support;

use millpond_coordinator::GroupError;
use millpond_wire::Str;
use support::{Member, World, leave, subscription};

fn alone(world: &mut World, version: i16) -> Member {
    let mut member = Member { version, ..world.member("g").instance("i1") };
    member.join(world).outcome.expect("a static member needs no id to join");
    let id = member.id.clone();
    member.sync(world, &[(&id, b"all")]).expect("synced");
    member
}

#[test]
fn a_static_member_that_restarts_keeps_its_assignment_without_a_rebalance() {
    let mut world = World::new();
    let old = alone(&mut world, 7);
    let mut new = Member { version: 7, ..world.member("g").instance("i1") };
    let joined = new.join(&mut world).outcome.expect("joined");
    assert_ne!(new.id, old.id);
    assert!(new.id.starts_with("i1-"), "{}", new.id);
    assert_eq!(joined.generation, old.generation);
    assert_eq!(new.sync(&mut world, &[]).expect("synced").assignment, &b"all"[..]);
    assert_eq!(world.shard.summary("g").expect("there").rebalances, 1);
    // The new id is recorded: it is known after a failover, and the old one is fenced.
    world.fail_over();
    assert_eq!(new.heartbeat(&mut world), Ok(()));
    assert_eq!(old.heartbeat(&mut world), Err(GroupError::FencedInstance));
    assert_eq!(new.sync(&mut world, &[]).expect("synced").assignment, &b"all"[..]);
}

#[test]
fn the_one_that_was_replaced_is_fenced_in_every_request() {
    let mut world = World::new();
    let mut old = alone(&mut world, 9);
    let mut new = world.member("g").instance("i1");
    new.join(&mut world).outcome.expect("joined");
    new.sync(&mut world, &[]).expect("synced");
    let fenced = GroupError::FencedInstance;
    assert_eq!(old.heartbeat(&mut world), Err(fenced));
    assert_eq!(old.commit(&mut world, "t", 1), Err(fenced));
    assert_eq!(old.sync(&mut world, &[]), Err(fenced));
    assert_eq!(old.join_error(&mut world), Some(fenced));
    assert_eq!(old.leave(&mut world), Err(fenced));
    assert_eq!(new.heartbeat(&mut world), Ok(()));
    let stranger = Member { instance: Some("never seen".into()), ..new.clone() };
    assert_eq!(stranger.heartbeat(&mut world), Err(GroupError::UnknownMember));
    assert_eq!(leave(&mut world, "g", &[("", Some("never seen"))]), Ok(vec![Err(GroupError::UnknownMember)]));
    assert_eq!(leave(&mut world, "g", &[("", None)]), Ok(vec![Err(GroupError::UnknownMember)]));
}

#[test]
fn a_static_member_is_removed_by_its_instance_id_alone() {
    let mut world = World::new();
    let member = alone(&mut world, 9);
    assert_eq!(leave(&mut world, "g", &[("", Some("i1"))]), Ok(vec![Ok(())]));
    assert_eq!(member.heartbeat(&mut world), Err(GroupError::UnknownMember));
    assert_eq!(world.state("g"), "Empty");
}

#[test]
fn a_restarted_leader_is_told_its_old_id_before_version_9_and_to_skip_the_assignment_from_then_on() {
    for version in [8, 9] {
        let mut world = World::new();
        let old = alone(&mut world, version);
        let mut new = Member { version, ..world.member("g").instance("i1") };
        let joined = new.join(&mut world).outcome.expect("joined");
        if version == 8 {
            assert_eq!((&joined.leader, joined.skip_assignment, joined.members.len()), (&old.id, false, 0));
        } else {
            assert_eq!((&joined.leader, joined.skip_assignment, joined.members.len()), (&new.id, true, 1));
        }
        assert_eq!(joined.generation, 1);
    }
}

#[test]
fn a_static_member_that_comes_back_with_another_subscription_starts_a_rebalance() {
    let mut world = World::new();
    let old = alone(&mut world, 9);
    let mut new = world.member("g").instance("i1").protocols(&[("range", subscription(&["another"]))]);
    let joined = new.join(&mut world).outcome.expect("joined");
    assert_eq!((joined.generation, joined.skip_assignment), (old.generation + 1, false));
    // What it owned and in which generation is also in those bytes, and differs with every restart.
    let other_bytes = |generation_id| {
        let topics = vec![Str::from("another")];
        let subscription = millpond_wire::consumer_protocol_subscription::ConsumerProtocolSubscription {
            topics,
            generation_id,
            ..Default::default()
        };
        millpond_wire::Data::to_bytes(&subscription, 3).expect("short")
    };
    let id = new.id.clone();
    new.sync(&mut world, &[(&id, b"all")]).expect("synced");
    let mut again = world.member("g").instance("i1").protocols(&[("range", other_bytes(7))]);
    assert_eq!(again.join(&mut world).outcome.expect("joined").generation, joined.generation);
}

#[test]
fn a_static_member_that_comes_back_between_join_and_sync_starts_a_rebalance() {
    let mut world = World::new();
    let mut old = world.member("g").instance("i1");
    old.join(&mut world).outcome.expect("joined");
    let mut dynamic = world.member("g");
    dynamic.obtain_id(&mut world);
    let joining = dynamic.start_join(&mut world);
    old.join(&mut world).outcome.expect("joined");
    dynamic.finish_join(&mut world, joining).outcome.expect("joined");
    let waiting = dynamic.start_sync(&mut world, &[]);
    let mut new = world.member("g").instance("i1");
    let joining = new.start_join(&mut world);
    assert_eq!(dynamic.finish_sync(&mut world, waiting), Err(GroupError::RebalanceInProgress));
    dynamic.join(&mut world).outcome.expect("joined");
    new.finish_join(&mut world, joining).outcome.expect("joined");
    assert_eq!((dynamic.generation, new.generation), (3, 3));
    assert_eq!(old.heartbeat(&mut world), Err(GroupError::FencedInstance));
}

#[test]
fn the_former_self_is_answered_when_it_still_waits() {
    let mut world = World::new();
    let (leader, _follower) = world.pair("g");
    let mut old = world.member("g").instance("i1");
    let old_joining = old.start_join(&mut world);
    let mut new = world.member("g").instance("i1");
    let new_joining = new.start_join(&mut world);
    let reply = old.finish_join(&mut world, old_joining);
    assert_eq!(reply.outcome, Err(GroupError::FencedInstance));
    let mut leader = leader;
    let leader_joining = leader.start_join(&mut world);
    world.pass(5_000);
    assert_eq!(leader.finish_join(&mut world, leader_joining).outcome.expect("joined").generation, 3);
    new.finish_join(&mut world, new_joining).outcome.expect("joined");
    assert_eq!(world.shard.parked().count(), 0);
}

#[test]
fn a_static_member_that_is_away_keeps_its_place_in_a_rebalance_until_its_session_ends() {
    let mut world = World::new();
    let mut away = alone(&mut world, 9);
    away.session_ms = 30_000;
    away.join(&mut world).outcome.expect("joined");
    let id = away.id.clone();
    away.sync(&mut world, &[(&id, b"all")]).expect("synced");
    let mut other = world.member("g");
    other.obtain_id(&mut world);
    let joining = other.start_join(&mut world);
    world.pass(5_000);
    let joined = other.finish_join(&mut world, joining).outcome.expect("joined");
    assert!(other.leads, "whoever is there leads");
    assert_eq!(joined.members.len(), 2, "it is expected back");
    let (other_id, away_id) = (other.id.clone(), away.id.clone());
    other.sync(&mut world, &[(&other_id, b"1"), (&away_id, b"2")]).expect("synced");
    let mut back = Member { session_ms: 30_000, ..world.member("g").instance("i1") };
    assert_eq!(back.join(&mut world).outcome.expect("joined").generation, joined.generation);
    assert_eq!(back.sync(&mut world, &[]).expect("synced").assignment, &b"2"[..]);
    for _ in 0..4 {
        world.pass(7_000);
        assert_eq!(other.heartbeat(&mut world), Ok(()), "it waits for the session of 30 s");
    }
    world.pass(2_000);
    assert_eq!(other.heartbeat(&mut world), Err(GroupError::RebalanceInProgress));
    assert_eq!(other.join(&mut world).outcome.expect("joined").members.len(), 1);
}

#[test]
fn when_only_static_members_are_left_that_are_away_the_rebalance_waits_for_their_sessions() {
    let mut world = World::new();
    let mut first = world.member("g").instance("i1");
    first.rebalance_ms = 0;
    first.session_ms = 30_000;
    first.join(&mut world).outcome.expect("joined");
    let id = first.id.clone();
    first.sync(&mut world, &[(&id, b"all")]).expect("synced");
    let mut second = world.member("g");
    second.rebalance_ms = 0;
    second.obtain_id(&mut world);
    let joining = second.start_join(&mut world);
    second.leave(&mut world).expect("left");
    second.finish_join(&mut world, joining);
    world.pass(29_000);
    assert_eq!(world.state("g"), "PreparingRebalance");
    world.pass(1_000);
    assert_eq!(world.state("g"), "Empty");
    assert_eq!(world.replayed().describe_group("g").expect("there").members.len(), 0);
}

#[test]
fn an_id_that_was_given_to_a_dynamic_member_is_no_static_members() {
    let mut world = World::new();
    let mut member = world.member("g");
    member.obtain_id(&mut world);
    let mut member = member.instance("i1");
    assert_eq!(member.join_error(&mut world), Some(GroupError::UnknownMember));
}
