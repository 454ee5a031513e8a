//! Time: sessions, rebalances, the first members of a group, connections that break, coordinators that fail.

mod support;

use millpond_coordinator::{GroupError, GroupSettings};
use support::{Member, World, settings};

#[test]
fn a_member_that_is_not_heard_of_for_its_session_is_removed_and_the_others_rebalance() {
    let mut world = World::new();
    let (leader, follower) = world.pair("g");
    let quiet = Member { session_ms: 10_000, ..follower };
    let mut lively = leader;
    for _ in 0..3 {
        world.pass(3_000);
        assert_eq!(lively.heartbeat(&mut world), Ok(()));
    }
    world.pass(999);
    assert_eq!(lively.heartbeat(&mut world), Ok(()), "just before");
    world.pass(1);
    assert_eq!(lively.heartbeat(&mut world), Err(GroupError::RebalanceInProgress));
    assert_eq!(lively.join(&mut world).outcome.expect("joined").members.len(), 1);
    assert_eq!(quiet.heartbeat(&mut world), Err(GroupError::UnknownMember));
    world.pass(10_000);
    assert_eq!(world.state("g"), "Empty", "nobody is left");
}

#[test]
fn a_member_that_does_not_join_within_the_rebalance_timeout_is_dropped() {
    let mut world = World::new();
    let mut laggard = world.member("g");
    laggard.session_ms = 30_000;
    laggard.join_alone(&mut world);
    let mut other = world.member("g");
    other.session_ms = 30_000;
    other.obtain_id(&mut world);
    let joining = other.start_join(&mut world);
    world.pass(4_999);
    assert!(world.waits(joining));
    world.pass(1);
    assert_eq!(other.finish_join(&mut world, joining).outcome.expect("joined").members.len(), 1);
    assert_eq!(laggard.heartbeat(&mut world), Err(GroupError::UnknownMember));
}

#[test]
fn a_leader_that_does_not_sync_in_time_does_not_hold_the_group_for_ever() {
    let mut world = World::new();
    let (mut leader, mut follower) = world.pair("g");
    (leader.session_ms, follower.session_ms) = (60_000, 60_000);
    let joining = leader.start_join(&mut world);
    follower.join(&mut world);
    leader.finish_join(&mut world, joining).outcome.expect("joined");
    let waiting = follower.start_sync(&mut world, &[]);
    world.pass(4_999);
    assert!(world.waits(waiting));
    world.pass(1);
    assert_eq!(follower.finish_sync(&mut world, waiting), Err(GroupError::RebalanceInProgress));
    assert_eq!(leader.heartbeat(&mut world), Err(GroupError::UnknownMember));
    assert_eq!(follower.join(&mut world).outcome.expect("joined").members.len(), 1);
}

#[test]
fn a_follower_that_never_syncs_is_removed_also_when_the_group_is_stable() {
    let mut world = World::new();
    let (mut leader, mut follower) = world.pair("g");
    (leader.session_ms, follower.session_ms) = (60_000, 60_000);
    let joining = leader.start_join(&mut world);
    follower.join(&mut world);
    leader.finish_join(&mut world, joining).outcome.expect("joined");
    leader.sync(&mut world, &[]).expect("synced");
    assert_eq!(world.state("g"), "Stable");
    world.pass(3_000);
    assert_eq!(follower.heartbeat(&mut world), Ok(()));
    world.pass(2_000);
    assert_eq!(follower.heartbeat(&mut world), Err(GroupError::UnknownMember));
    assert_eq!(leader.heartbeat(&mut world), Err(GroupError::RebalanceInProgress));
}

#[test]
fn the_first_members_of_a_group_wait_for_more_as_long_as_more_come() {
    let mut world = World::with(GroupSettings { initial_rebalance_delay_ms: 3_000, ..settings() });
    let mut members: Vec<Member> = (0..4).map(|_| Member { rebalance_ms: 8_000, ..world.member("g") }).collect();
    members.iter_mut().for_each(|member| member.obtain_id(&mut world));
    // At 0, 2, 4 and 6 s: each time someone came, another delay of at most 3 s, 8 s in all.
    let mut waiting = Vec::new();
    for (member, pause_ms) in members.iter().zip([2_000, 2_000, 2_000, 1_999]) {
        waiting.push(member.start_join(&mut world));
        world.pass(pause_ms);
    }
    assert!(waiting.iter().all(|&ticket| world.waits(ticket)), "8 s are not over");
    world.pass(1);
    for (member, ticket) in members.iter_mut().zip(waiting) {
        assert_eq!(member.finish_join(&mut world, ticket).outcome.expect("joined").generation, 1);
    }
    // Nobody else comes: one delay.
    let mut alone = world.member("h");
    alone.obtain_id(&mut world);
    let joining = alone.start_join(&mut world);
    world.pass(2_999);
    assert!(world.waits(joining));
    world.pass(1);
    alone.finish_join(&mut world, joining).outcome.expect("joined");
}

#[test]
fn the_first_members_of_a_group_wait_for_one_that_was_given_an_id() {
    let mut world = World::with(GroupSettings { initial_rebalance_delay_ms: 10, ..settings() });
    let [mut first, mut second] = [world.member("g"), world.member("g")];
    first.obtain_id(&mut world);
    let joining = first.start_join(&mut world);
    world.pass(9);
    second.obtain_id(&mut world);
    world.pass(10);
    assert!(world.waits(joining), "the second one has its id, and comes at once");
    let second_joining = second.start_join(&mut world);
    world.pass(20);
    let generations = [(&mut first, joining), (&mut second, second_joining)]
        .map(|(member, ticket)| member.finish_join(&mut world, ticket).outcome.expect("joined").generation);
    assert_eq!(generations, [1, 1]);

    // One that does not come is not waited for any longer.
    let mut alone = world.member("h");
    alone.obtain_id(&mut world);
    let joining = alone.start_join(&mut world);
    world.member("h").obtain_id(&mut world);
    world.pass(19);
    assert!(world.waits(joining));
    world.pass(1);
    alone.finish_join(&mut world, joining).outcome.expect("joined");

    // A delay that is long enough without is not prolonged by ids.
    let mut world = World::with(GroupSettings { initial_rebalance_delay_ms: 3_000, ..settings() });
    let mut alone = world.member("g");
    alone.obtain_id(&mut world);
    let joining = alone.start_join(&mut world);
    world.pass(2_000);
    world.member("g").obtain_id(&mut world);
    world.pass(1_000);
    alone.finish_join(&mut world, joining).outcome.expect("joined");
}

#[test]
fn an_id_that_is_never_used_holds_up_a_rebalance_for_no_longer_than_its_session() {
    let mut world = World::new();
    let mut first = world.member("g");
    first.rebalance_ms = 60_000;
    first.join_alone(&mut world);
    let mut never = world.member("g");
    never.session_ms = 6_000;
    never.obtain_id(&mut world);
    let joining = first.start_join(&mut world);
    world.pass(5_999);
    assert!(world.waits(joining));
    world.pass(1);
    assert_eq!(first.finish_join(&mut world, joining).outcome.expect("joined").generation, 2);
    assert_eq!(never.join_error(&mut world), Some(GroupError::UnknownMember));
}

#[test]
fn whoever_waits_for_the_others_does_not_expire() {
    let mut world = World::new();
    let (mut leader, follower) = world.pair("g");
    let mut slow = Member { rebalance_ms: 60_000, session_ms: 60_000, ..follower };
    let joining = leader.start_join(&mut world);
    slow.join(&mut world).outcome.expect("joined");
    leader.finish_join(&mut world, joining).outcome.expect("joined");
    leader.sync(&mut world, &[]).expect("synced");
    slow.sync(&mut world, &[]).expect("synced");
    // The follower takes most of a minute to come back; the leader, with its session of 10 s, waits.
    let joining = leader.start_join(&mut world);
    world.pass(50_000);
    assert!(world.waits(joining));
    slow.join(&mut world).outcome.expect("joined");
    assert_eq!(leader.finish_join(&mut world, joining).outcome.expect("joined").members.len(), 2);
    world.pass(9_999);
    assert_eq!(leader.heartbeat(&mut world), Ok(()), "its session began when it was answered");
}

#[test]
fn a_new_member_that_waits_too_long_is_told_to_ask_again() {
    let mut world = World::new();
    let mut slow = world.member("g");
    (slow.rebalance_ms, slow.session_ms) = (1_000_000, 1_000_000);
    slow.join_alone(&mut world);
    let mut new = world.member("g");
    new.obtain_id(&mut world);
    let joining = new.start_join(&mut world);
    world.pass(299_999);
    assert!(world.waits(joining));
    world.pass(1);
    let reply = new.finish_join(&mut world, joining);
    assert_eq!((reply.outcome, reply.member_id.len()), (Err(GroupError::UnknownMember), 0));
}

#[test]
fn a_member_whose_connection_breaks_keeps_its_place_while_it_can_come_back() {
    let mut world = World::new();
    let (mut leader, mut follower) = world.pair("g");
    let lost = leader.start_join(&mut world);
    let effects = world.shard.abandon(lost, world.now());
    world.take(effects);
    follower.join(&mut world).outcome.expect("the leader counts as joined");
    assert!(world.waits(lost), "nobody is there to be answered");
    assert_eq!(world.shard.parked().count(), 0);
    assert_eq!(leader.join(&mut world).outcome.expect("joined").generation, 3, "it asks again");

    let lost = follower.start_sync(&mut world, &[]);
    let effects = world.shard.abandon(lost, world.now());
    world.take(effects);
    let id = follower.id.clone();
    leader.sync(&mut world, &[(&id, b"F")]).expect("synced");
    assert_eq!(follower.sync(&mut world, &[]).expect("synced").assignment, &b"F"[..], "it asks again");
}

#[test]
fn a_new_member_whose_connection_breaks_does_not_hold_up_the_others() {
    let mut world = World::new();
    let mut first = world.alone("g");
    // This one was never told its id, so nobody can come back with it.
    let unknown = Member { version: 3, ..world.member("g") };
    let lost = unknown.start_join(&mut world);
    let effects = world.shard.abandon(lost, world.now());
    world.take(effects);
    assert_eq!(first.join(&mut world).outcome.expect("joined").members.len(), 1);
    // This one knows its id: it has its session to come back.
    let mut knows = world.member("g");
    knows.obtain_id(&mut world);
    let lost = knows.start_join(&mut world);
    let effects = world.shard.abandon(lost, world.now());
    world.take(effects);
    assert_eq!(world.shard.summary("g").expect("there").members, 2);
    let joining = first.start_join(&mut world);
    assert_eq!(first.finish_join(&mut world, joining).outcome.expect("joined").members.len(), 2);
    world.pass(10_000);
    assert_eq!(knows.heartbeat(&mut world), Err(GroupError::UnknownMember));
    let effects = world.shard.abandon(lost, world.now());
    assert_eq!((effects.records.len(), effects.replies.len()), (0, 0), "a ticket that is not known is nothing");
}

#[test]
fn after_a_failover_a_stable_group_goes_on_and_sessions_start_anew() {
    let mut world = World::new();
    let (mut leader, mut follower) = world.pair("g");
    world.pass(9_000);
    world.fail_over();
    world.pass(9_999);
    assert_eq!((leader.heartbeat(&mut world), follower.heartbeat(&mut world)), (Ok(()), Ok(())));
    assert_eq!(leader.sync(&mut world, &[]).expect("synced").assignment, &b"L"[..]);
    assert_eq!(follower.join(&mut world).outcome.expect("joined").generation, 2, "unchanged: no rebalance");
    assert_eq!(leader.commit(&mut world, "t", 5), Ok(()));
    world.pass(10_000);
    assert_eq!(leader.heartbeat(&mut world), Err(GroupError::UnknownMember));
}

#[test]
fn a_rebalance_that_a_failover_cuts_short_is_begun_again_by_the_members() {
    let mut world = World::new();
    let (mut leader, mut follower) = world.pair("g");
    let mut third = world.member("g");
    third.obtain_id(&mut world);
    let lost = third.start_join(&mut world);
    leader.start_join(&mut world);
    follower.start_join(&mut world);
    world.fail_over();
    let summary = world.shard.summary("g").expect("there");
    assert_eq!((summary.state.name(), summary.generation, summary.members), ("Stable", 2, 2));
    assert!(!world.shard.parked().any(|ticket| ticket == lost), "the caller answers what waited");
    assert_eq!(third.join_error(&mut world), Some(GroupError::UnknownMember));
    // A generation that was not recorded is not known: whoever has it must join again.
    let ahead = Member { generation: 3, ..follower.clone() };
    let illegal = GroupError::IllegalGeneration { given: 3, current: 2 };
    assert_eq!(ahead.heartbeat(&mut world), Err(illegal));
    let joining = leader.start_join(&mut world);
    follower.join(&mut world).outcome.expect("joined");
    assert_eq!(leader.finish_join(&mut world, joining).outcome.expect("joined").generation, 3);
}

#[test]
fn a_new_member_that_comes_back_after_its_connection_broke_waits_as_long_as_any_other() {
    let mut world = World::new();
    let mut slow = world.member("g");
    (slow.rebalance_ms, slow.session_ms) = (1_000_000, 1_000_000);
    slow.join_alone(&mut world);
    let mut new = world.member("g");
    new.obtain_id(&mut world);
    let lost = new.start_join(&mut world);
    let effects = world.shard.abandon(lost, world.now());
    world.take(effects);
    let joining = new.start_join(&mut world);
    world.pass(299_999);
    assert!(world.waits(joining), "beyond its session of 10 s");
    world.pass(1);
    assert_eq!(new.finish_join(&mut world, joining).outcome, Err(GroupError::UnknownMember));
}

#[test]
fn a_group_of_which_there_was_only_an_id_that_was_never_used_is_forgotten_with_it() {
    let mut world = World::new();
    let before = world.shard.state_bytes();
    for _ in 0..2 {
        world.member("g").obtain_id(&mut world);
    }
    world.pass(9_999);
    assert!(world.shard.summary("g").is_some() && world.shard.state_bytes() > before);
    world.pass(1);
    assert!(world.shard.summary("g").is_none());
    assert_eq!((world.shard.state_bytes(), world.log.len()), (before, 0));
}
