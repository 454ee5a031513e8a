//! Dynamic members of classic groups: join, sync, heartbeat, leave, and what each is refused.

mod support;

use bytes::Bytes;
use millpond_coordinator::{GroupError, GroupFilter, GroupSettings, PartitionSummary, Reply};
use millpond_record::Timestamp;
use millpond_wire::Str;
use support::{Member, World, leave, settings, subscription};

#[test]
fn a_single_member_leads_generation_1_sees_itself_and_gets_what_it_assigned() {
    let mut world = World::new();
    let mut member = world.member("g");
    let joined = member.join(&mut world).outcome.expect("joined");
    assert_eq!((joined.generation, &joined.leader, joined.skip_assignment), (1, &member.id, false));
    assert_eq!((joined.protocol.as_deref(), joined.protocol_type.as_deref()), (Some("range"), Some("consumer")));
    assert_eq!(joined.members.len(), 1);
    assert_eq!((&joined.members[0].member_id, &joined.members[0].metadata), (&member.id, &subscription(&["topic"])));
    let id = member.id.clone();
    for _ in 0..2 {
        let synced = member.sync(&mut world, &[(&id, b"mine")]).expect("synced");
        assert_eq!(&synced.assignment[..], b"mine");
        assert_eq!((synced.protocol.as_deref(), synced.protocol_type.as_deref()), (Some("range"), Some("consumer")));
    }
    assert_eq!(member.heartbeat(&mut world), Ok(()));
}

#[test]
fn from_version_4_on_a_member_is_told_its_id_before_it_joins() {
    let mut world = World::new();
    for version in 0..=9 {
        let member = Member { version, ..world.member(&format!("g{version}")) };
        let ticket = member.start_join(&mut world);
        let Some(Reply::Join(reply)) = world.replies.remove(&ticket) else { panic!("v{version} is not answered") };
        let required = reply.outcome == Err(GroupError::MemberIdRequired);
        assert_eq!(required, version >= 4, "v{version}");
        assert!(reply.member_id.starts_with("app-"), "v{version}: {}", reply.member_id);
        assert_eq!(required, world.state(&member.group) == "Empty", "v{version}");
    }
}

#[test]
fn a_join_that_cannot_be_is_refused_and_leaves_no_group_behind() {
    let mut world = World::new();
    let base = || World::new().member("g");
    let timeout = |given_ms| GroupError::InvalidSessionTimeout { given_ms, min_ms: 6_000, max_ms: 1_800_000 };
    let long = "x".repeat(4097);
    let cases = [
        (Member { group: "".into(), ..base() }, GroupError::InvalidGroupId),
        (Member { session_ms: -1, ..base() }, timeout(-1)),
        (Member { session_ms: 5_999, ..base() }, timeout(5_999)),
        (Member { session_ms: 1_800_001, ..base() }, timeout(1_800_001)),
        (Member { id: "ghost".into(), ..base() }, GroupError::UnknownMember),
        (Member { protocols: Vec::new(), ..base() }, GroupError::InconsistentProtocol),
        (Member { protocol_type: "".into(), ..base() }, GroupError::InconsistentProtocol),
        (Member { group: long.as_str().into(), ..base() }, GroupError::NamesTooLong),
        (base().instance(&long), GroupError::NamesTooLong),
        (base().protocols(&[(&long, Bytes::new())]), GroupError::NamesTooLong),
    ];
    for (mut member, error) in cases {
        assert_eq!(member.join_error(&mut world), Some(error), "{member:?}");
    }
    assert_eq!((world.shard.summaries().count(), world.shard.state_bytes()), (0, 0));
    assert_eq!(world.log, []);
}

#[test]
fn sync_and_heartbeat_are_held_to_member_generation_and_protocol() {
    let mut world = World::new();
    let mut member = world.member("g");
    member.join(&mut world);
    let request = member.sync_request(&[]);
    let illegal = |given| GroupError::IllegalGeneration { given, current: 1 };
    let mut cases = Vec::new();
    for (generation, error) in [(7, illegal(7)), (0, illegal(0)), (-1, illegal(-1))] {
        cases.push((
            millpond_wire::sync_group::SyncGroupRequest { generation_id: generation, ..request.clone() },
            error,
        ));
    }
    let mut other = request.clone();
    other.member_id = "ghost".into();
    cases.push((other, GroupError::UnknownMember));
    let mut other = request.clone();
    other.protocol_type = Some("connect".into());
    cases.push((other, GroupError::InconsistentProtocol));
    let mut other = request.clone();
    other.protocol_name = Some("other".into());
    cases.push((other, GroupError::InconsistentProtocol));
    let mut other = request.clone();
    other.group_id = "no-group".into();
    cases.push((other, GroupError::UnknownMember));
    let mut other = request;
    other.group_id = "".into();
    cases.push((other, GroupError::InvalidGroupId));
    for (request, error) in cases {
        let ticket = member.send_sync(&mut world, &request);
        assert_eq!(member.finish_sync(&mut world, ticket), Err(error), "{request:?}");
    }
    let id = member.id.clone();
    member.sync(&mut world, &[(&id, b"x")]).expect("synced");
    for generation in [0, 2, -1] {
        let zombie = Member { generation, ..member.clone() };
        assert_eq!(zombie.heartbeat(&mut world), Err(illegal(generation)));
    }
    for (group, id, error) in [
        ("g", "ghost", GroupError::UnknownMember),
        ("g", "", GroupError::UnknownMember),
        ("no-group", "ghost", GroupError::UnknownMember),
        ("", "ghost", GroupError::InvalidGroupId),
    ] {
        let stranger = Member { group: group.into(), id: id.into(), ..member.clone() };
        assert_eq!(stranger.heartbeat(&mut world), Err(error), "{group:?} {id:?}");
    }
}

#[test]
fn a_second_member_starts_a_rebalance_and_only_the_leader_sees_the_members() {
    let mut world = World::new();
    let mut first = world.alone("g");
    let mut second = world.member("g");
    second.obtain_id(&mut world);
    let joining = second.start_join(&mut world);
    assert!(world.waits(joining));
    assert_eq!(first.heartbeat(&mut world), Err(GroupError::RebalanceInProgress));
    assert_eq!(first.sync(&mut world, &[]), Err(GroupError::RebalanceInProgress));
    let of_first = first.join(&mut world).outcome.expect("joined");
    let of_second = second.finish_join(&mut world, joining).outcome.expect("joined");
    assert_eq!((of_first.generation, of_second.generation), (2, 2));
    assert_eq!(of_first.leader, of_second.leader);
    let (leaders, followers) = if first.leads { (of_first, of_second) } else { (of_second, of_first) };
    let mut seen: Vec<&Str> = leaders.members.iter().map(|member| &member.member_id).collect();
    seen.sort();
    let mut ids = [&first.id, &second.id];
    ids.sort();
    assert_eq!(seen, ids);
    assert_eq!(followers.members, []);
    for member in [&first, &second] {
        assert_eq!(member.heartbeat(&mut world), Ok(()), "between join and sync");
    }
    let (mut leader, follower) = if first.leads { (first, second) } else { (second, first) };
    let waiting = follower.start_sync(&mut world, &[]);
    assert!(world.waits(waiting), "the follower waits for the leader");
    let leader_id = leader.id.clone();
    leader.sync(&mut world, &[(&leader_id, b"L")]).expect("synced");
    let synced = follower.finish_sync(&mut world, waiting).expect("synced");
    assert_eq!(synced.assignment, Bytes::new(), "whom the leader does not name has nothing");
    let zombie = Member { generation: 1, ..follower };
    let illegal = GroupError::IllegalGeneration { given: 1, current: 2 };
    assert_eq!(zombie.heartbeat(&mut world), Err(illegal));
}

#[test]
fn five_members_end_up_in_one_generation_with_one_leader_who_sees_all() {
    let mut world = World::new();
    let mut first = world.alone("g");
    let mut others: Vec<Member> = (0..4).map(|_| world.member("g")).collect();
    others.iter_mut().for_each(|member| member.obtain_id(&mut world));
    let waiting: Vec<_> = others.iter().map(|member| member.start_join(&mut world)).collect();
    assert_eq!(world.shard.describe_group("g").expect("there").members.len(), 5);
    let summary = world.shard.summary("g").expect("there");
    assert_eq!((summary.members, summary.awaited_members, summary.pending_members), (5, 1, 0));
    let mut joined = vec![first.join(&mut world).outcome.expect("joined")];
    for (member, ticket) in others.iter_mut().zip(waiting) {
        joined.push(member.finish_join(&mut world, ticket).outcome.expect("joined"));
    }
    assert!(joined.iter().all(|one| one.generation == 2 && one.leader == joined[0].leader));
    let mut seen: Vec<usize> = joined.iter().map(|one| one.members.len()).collect();
    seen.sort();
    assert_eq!(seen, [0, 0, 0, 0, 5]);
}

#[test]
fn a_follower_that_joins_again_unchanged_is_answered_at_once_and_a_leader_starts_a_rebalance() {
    let mut world = World::new();
    let (mut leader, mut follower) = world.pair("g");
    let joined = follower.join(&mut world).outcome.expect("joined");
    assert_eq!((joined.generation, joined.members.len()), (2, 0));
    assert_eq!(follower.sync(&mut world, &[]).expect("synced").assignment, &b"F"[..]);
    assert_eq!(leader.heartbeat(&mut world), Ok(()));
    let joining = leader.start_join(&mut world);
    assert_eq!(follower.heartbeat(&mut world), Err(GroupError::RebalanceInProgress));
    assert_eq!(follower.join(&mut world).outcome.expect("joined").generation, 3);
    assert_eq!(leader.finish_join(&mut world, joining).outcome.expect("joined").generation, 3);
    // The answer was lost: between join and sync the same generation is given again, to the leader with its members.
    let joined = leader.join(&mut world).outcome.expect("joined");
    assert_eq!((joined.generation, joined.members.len()), (3, 2));
}

#[test]
fn a_member_that_changes_its_subscription_starts_a_rebalance_also_between_join_and_sync() {
    let mut world = World::new();
    let (mut leader, follower) = world.pair("g");
    let mut follower = follower.protocols(&[("range", subscription(&["topic", "other"]))]);
    let joining = follower.start_join(&mut world);
    assert_eq!(leader.heartbeat(&mut world), Err(GroupError::RebalanceInProgress));
    let joined = leader.join(&mut world).outcome.expect("joined");
    assert_eq!(follower.finish_join(&mut world, joining).outcome.expect("joined").generation, 3);
    let of_follower = joined.members.iter().find(|one| one.member_id == follower.id).expect("a member");
    assert_eq!(of_follower.metadata, subscription(&["topic", "other"]));

    // The follower waits in its sync; the leader changes its mind instead of assigning.
    let waiting = follower.start_sync(&mut world, &[]);
    let mut leader = leader.protocols(&[("range", subscription(&["third"]))]);
    let joining = leader.start_join(&mut world);
    assert_eq!(follower.finish_sync(&mut world, waiting), Err(GroupError::RebalanceInProgress));
    assert_eq!(follower.join(&mut world).outcome.expect("joined").generation, 4);
    assert_eq!(leader.finish_join(&mut world, joining).outcome.expect("joined").generation, 4);
}

#[test]
fn the_protocol_is_what_most_members_like_best_among_what_all_know() {
    let s = || subscription(&["topic"]);
    let mut world = World::new();
    let first = world.member("g").protocols(&[("range", s()), ("roundrobin", s())]);
    let mut first = first;
    first.join_alone(&mut world);
    let mut sticky = world.member("g").protocols(&[("sticky", s())]);
    assert_eq!(sticky.join_error(&mut world), Some(GroupError::InconsistentProtocol));
    let mut connect = Member { protocol_type: "connect".into(), ..world.member("g") };
    assert_eq!(connect.join_error(&mut world), Some(GroupError::InconsistentProtocol));
    let mut second = world.member("g").protocols(&[("sticky", s()), ("roundrobin", s())]);
    second.obtain_id(&mut world);
    let joining = second.start_join(&mut world);
    assert_eq!(first.join(&mut world).outcome.expect("joined").protocol.as_deref(), Some("roundrobin"));
    assert_eq!(
        second.finish_join(&mut world, joining).outcome.expect("joined").protocol.as_deref(),
        Some("roundrobin")
    );

    // One likes a, two like b; all know both. A name that is offered twice counts once.
    let mut world = World::with(GroupSettings { initial_rebalance_delay_ms: 3_000, ..settings() });
    let mut members = [["a", "b"], ["b", "a"], ["b", "a"]].map(|names| {
        let offers = [(names[0], s()), (names[1], s()), (names[0], Bytes::from_static(b"again"))];
        world.member("h").protocols(&offers)
    });
    members.iter_mut().for_each(|member| member.obtain_id(&mut world));
    let waiting: Vec<_> = members.iter().map(|member| member.start_join(&mut world)).collect();
    world.pass(5_000);
    for (member, ticket) in members.iter_mut().zip(waiting) {
        let joined = member.finish_join(&mut world, ticket).outcome.expect("joined");
        assert_eq!((joined.generation, joined.protocol.as_deref()), (1, Some("b")));
        assert!(joined.members.iter().all(|one| one.metadata == s()));
    }
}

#[test]
fn leaving_starts_a_rebalance_and_whoever_left_is_unknown() {
    let mut world = World::new();
    let (mut leader, follower) = world.pair("g");
    let ghost = Member { id: "ghost".into(), ..follower.clone() };
    assert_eq!(ghost.leave(&mut world), Err(GroupError::UnknownMember));
    assert_eq!(world.state("g"), "Stable", "a refused leave changes nothing");
    assert_eq!(follower.leave(&mut world), Ok(()));
    assert_eq!(follower.leave(&mut world), Err(GroupError::UnknownMember));
    assert_eq!(follower.heartbeat(&mut world), Err(GroupError::UnknownMember));
    assert_eq!(leader.heartbeat(&mut world), Err(GroupError::RebalanceInProgress));
    assert_eq!(leader.join(&mut world).outcome.expect("joined").members.len(), 1);
    assert_eq!(leave(&mut world, "no-group", &[("a", None), ("b", None)]), Ok(vec![Err(GroupError::UnknownMember); 2]));
    assert_eq!(leave(&mut world, "", &[("a", None)]), Err(GroupError::InvalidGroupId));
}

#[test]
fn many_leave_at_once_each_with_its_own_answer_and_the_generation_goes_on() {
    let mut world = World::new();
    let (leader, follower) = world.pair("g");
    let results = leave(&mut world, "g", &[(&leader.id, None), ("ghost", None), (&follower.id, None)]);
    assert_eq!(results, Ok(vec![Ok(()), Err(GroupError::UnknownMember), Ok(())]));
    assert_eq!(world.state("g"), "Empty");
    let next = world.alone("g");
    assert_eq!(next.generation, 4, "two, and one that was empty");
}

#[test]
fn an_id_that_was_given_out_can_be_given_back() {
    let mut world = World::new();
    let mut first = world.alone("g");
    let mut second = world.member("g");
    second.obtain_id(&mut world);
    let joining = first.start_join(&mut world);
    assert!(world.waits(joining), "the rebalance waits for the id that was given out");
    assert_eq!(second.leave(&mut world), Ok(()));
    assert_eq!(first.finish_join(&mut world, joining).outcome.expect("joined").generation, 2);
    assert_eq!(second.join_error(&mut world), Some(GroupError::UnknownMember));
}

#[test]
fn whoever_waits_is_answered_when_it_leaves() {
    let mut world = World::new();
    let _first = world.alone("g");
    let mut second = world.member("g");
    second.obtain_id(&mut world);
    let joining = second.start_join(&mut world);
    assert_eq!(second.leave(&mut world), Ok(()));
    let reply = second.finish_join(&mut world, joining);
    assert_eq!((reply.outcome, reply.member_id), (Err(GroupError::UnknownMember), Str::EMPTY));

    let (leader, follower) = world.pair("h");
    let joining = leader.start_join(&mut world);
    let mut follower = follower;
    follower.join(&mut world);
    let mut leader = leader;
    leader.finish_join(&mut world, joining);
    let waiting = follower.start_sync(&mut world, &[]);
    assert_eq!(follower.leave(&mut world), Ok(()));
    assert_eq!(follower.finish_sync(&mut world, waiting), Err(GroupError::UnknownMember));
}

#[test]
fn a_request_that_is_sent_twice_leaves_no_ticket_behind() {
    let mut world = World::new();
    let (mut leader, mut follower) = world.pair("g");
    let (first, second) = (leader.start_join(&mut world), leader.start_join(&mut world));
    assert_eq!(leader.finish_join(&mut world, first).outcome, Err(GroupError::RebalanceInProgress));
    follower.join(&mut world);
    leader.finish_join(&mut world, second).outcome.expect("joined");
    let (first, second) = (follower.start_sync(&mut world, &[]), follower.start_sync(&mut world, &[]));
    assert_eq!(follower.finish_sync(&mut world, first), Err(GroupError::RebalanceInProgress));
    let id = follower.id.clone();
    leader.sync(&mut world, &[(&id, b"again")]).expect("synced");
    assert_eq!(follower.finish_sync(&mut world, second).expect("synced").assignment, &b"again"[..]);
    assert_eq!(world.shard.parked().count(), 0);
}

#[test]
fn a_full_group_takes_no_more_members() {
    let mut world = World::with(GroupSettings { max_group_size: 2, ..settings() });
    let (mut leader, mut follower) = world.pair("g");
    let full = Some(GroupError::GroupFull { max: 2 });
    assert_eq!(world.member("g").join_error(&mut world), full);
    assert_eq!(world.member("g").instance("i").join_error(&mut world), full);
    assert_eq!((leader.heartbeat(&mut world), follower.heartbeat(&mut world)), (Ok(()), Ok(())));
    // Ids that are given out and never used are bounded too.
    let empty: Vec<_> = (0..3).map(|_| world.member("h")).collect();
    let refused = empty.into_iter().filter_map(|member| {
        let ticket = member.start_join(&mut world);
        match world.replies.remove(&ticket) {
            Some(Reply::Join(reply)) => reply.outcome.err(),
            other => panic!("{other:?}"),
        }
    });
    let id_required = GroupError::MemberIdRequired;
    assert_eq!(refused.collect::<Vec<_>>(), [id_required, id_required, GroupError::GroupFull { max: 2 }]);
    // After a failover under a lower limit only as many come back as are allowed.
    world.settings.max_group_size = 1;
    world.fail_over();
    assert_eq!(leader.heartbeat(&mut world), Err(GroupError::RebalanceInProgress));
    let joining = leader.start_join(&mut world);
    let reply = follower.join(&mut world);
    assert_eq!((reply.outcome, reply.member_id), (Err(GroupError::GroupFull { max: 1 }), Str::EMPTY));
    assert_eq!(leader.finish_join(&mut world, joining).outcome.expect("joined").members.len(), 1);
}

#[test]
fn a_group_whose_record_would_be_too_large_is_told_so() {
    let mut world = World::with(GroupSettings { max_record_bytes: 2_000, ..settings() });
    let mut member = world.alone("g");
    let joining = member.start_join(&mut world);
    member.finish_join(&mut world, joining).outcome.expect("joined");
    let id = member.id.clone();
    let error = member.sync(&mut world, &[(&id, &[7; 2_000])]).expect_err("too large");
    assert!(matches!(error, GroupError::RecordTooLarge { max: 2_000, .. }), "{error}");
    assert_eq!((world.log.len(), world.state("g")), (1, "PreparingRebalance"));
    member.join(&mut world).outcome.expect("it can join again");
    member.sync(&mut world, &[(&id, b"small")]).expect("it fits");
}

#[test]
fn groups_are_described_and_listed_in_every_state() {
    let mut world = World::new();
    let mut member = world.member("live").instance("i9");
    member.join(&mut world);
    let described = world.shard.describe_group("live").expect("there");
    assert_eq!(
        (described.state.name(), &*described.protocol_type, &*described.protocol),
        ("CompletingRebalance", "consumer", "")
    );
    assert_eq!((described.members[0].metadata.len(), described.members[0].assignment.len()), (0, 0));
    let id = member.id.clone();
    member.sync(&mut world, &[(&id, b"assignment")]).expect("synced");
    let described = world.shard.describe_group("live").expect("there");
    assert_eq!((described.state.name(), &*described.protocol), ("Stable", "range"));
    let one = &described.members[0];
    assert_eq!((&one.member_id, one.instance_id.as_deref()), (&member.id, Some("i9")));
    assert_eq!((&*one.client_id, &*one.client_host), ("app", "/127.0.0.1"));
    assert_eq!((&one.metadata, &one.assignment[..]), (&subscription(&["topic"]), &b"assignment"[..]));
    assert_eq!(world.shard.describe_group("none"), Err(GroupError::UnknownGroup));

    world.commit("simple", "t", 1, millpond_coordinator::Committer::outsider()).expect("committed");
    let listed = |world: &World, states: &[&str], types: &[&str]| {
        let names = |names: &[&str]| names.iter().map(|&name| Str::from(name)).collect();
        let filter = GroupFilter { states: names(states), types: names(types) };
        let listed = world.shard.list_groups(&filter);
        listed
            .iter()
            .map(|one| format!("{} {:?} {}", one.group_id, &*one.protocol_type, one.state.name()))
            .collect::<Vec<_>>()
    };
    let (live, simple) = ("live \"consumer\" Stable".to_string(), "simple \"\" Empty".to_string());
    let both = vec![live.clone(), simple.clone()];
    assert_eq!(listed(&world, &[], &[]), both);
    assert_eq!(listed(&world, &["sTable"], &["Classic"]), [live]);
    assert_eq!(listed(&world, &["Empty"], &[]), [simple]);
    assert_eq!(listed(&world, &["Stable", "Empty"], &["classic", "bogus"]), both);
    for (states, types) in [(&["Dead"][..], &[][..]), (&["Bogus"], &[]), (&[], &["consumer"])] {
        assert_eq!(listed(&world, states, types), Vec::<String>::new(), "{states:?} {types:?}");
    }
    leave(&mut world, "live", &[("", Some("i9"))]).expect("left");
    let described = world.shard.describe_group("live").expect("there");
    assert_eq!((described.state.name(), described.members.len(), &*described.protocol_type), ("Empty", 0, "consumer"));
}

#[test]
fn an_operator_sees_owners_rebalances_and_reasons() {
    let mut world = World::new();
    let mut member = world.alone("g");
    member.join(&mut world);
    let id = member.id.clone();
    let assignment = b"\0\0\0\0\0\x01\0\x05topic\0\0\0\x02\0\0\0\0\0\0\0\x01\xff\xff\xff\xff";
    member.sync(&mut world, &[(&id, assignment)]).expect("synced");
    member.commit(&mut world, "topic", 5).expect("committed");
    member.commit(&mut world, "other", 6).expect("committed");
    let partitions = world.shard.partitions("g");
    let offset = |one: &PartitionSummary<'_>| one.committed.map(|committed| committed.offset.0);
    let owner = |one: &PartitionSummary<'_>| one.owner.map(|owner| owner.member_id.clone());
    let seen: Vec<_> = partitions.iter().map(|one| (&*one.topic, one.partition.0, offset(one), owner(one))).collect();
    let here = Some(member.id.clone());
    let expected = [("other", 0, Some(6), None), ("topic", 0, Some(5), here.clone()), ("topic", 1, None, here.clone())];
    assert_eq!(seen, expected, "what is committed and what is owned");
    let members: Vec<_> = world.shard.members("g").into_iter().map(|member| member.member_id.clone()).collect();
    assert_eq!(members, [member.id.clone()]);
    let summary = world.shard.summary("g").expect("there");
    let (at, why) = summary.last_rebalance.expect("there was one");
    assert_eq!((summary.rebalances, summary.generation, at), (2, 2, world.now().wall));
    assert!(why.contains("asks for a new assignment"), "{why}");
    let recent = world.shard.recent_rebalances("g");
    assert_eq!((recent.len(), recent.last()), (2, summary.last_rebalance.as_ref()));
    assert!(recent[0].1.contains(&format!("member {id} is new")), "{recent:?}");
    assert_eq!(world.shard.loaded_at(), Some(Timestamp(support::WALL_START + 1_000)));
    assert_eq!(world.shard.partitions("none"), []);
}

#[test]
fn the_reason_of_a_rebalance_names_who_left() {
    let mut world = World::new();
    let (first, _second) = world.pair("g");
    leave(&mut world, "g", &[(&first.id, None)]).expect("left");
    let (_, why) = world.shard.summary("g").expect("there").last_rebalance.expect("there was one");
    assert_eq!(why, format!("member {} left", first.id));
}

#[test]
fn subscriptions_that_cannot_be_read_do_no_harm() {
    let mut world = World::new();
    let mut first = world.member("g").protocols(&[("range", Bytes::from_static(b"changed"))]);
    first.join_alone(&mut world);
    let mut second = world.member("g");
    second.obtain_id(&mut world);
    let joining = second.start_join(&mut world);
    first.join(&mut world).outcome.expect("joined");
    second.finish_join(&mut world, joining).outcome.expect("joined");
}

#[test]
fn members_that_are_there_can_go_on_when_the_memory_is_used_up() {
    let mut world = World::new();
    let (mut leader, mut follower) = world.pair("g");
    let mut fixed = world.member("fixed").instance("i");
    fixed.join_alone(&mut world);
    let max_state_bytes = world.shard.state_bytes();
    world.shard.set_settings(GroupSettings { max_state_bytes, ..settings() });
    assert_eq!(world.member("g").join_error(&mut world), Some(GroupError::NoMemory));
    let joining = leader.start_join(&mut world);
    follower.join(&mut world).outcome.expect("it takes no more than before");
    assert_eq!(leader.finish_join(&mut world, joining).outcome.expect("as the follower").members.len(), 2);
    let mut restarted = world.member("fixed").instance("i");
    restarted.join(&mut world).outcome.expect("it takes its former self's place");
    let more = follower.protocols(&[("range", vec![7; 10_000].into())]).join_error(&mut world);
    assert_eq!(more, Some(GroupError::NoMemory));
}

#[test]
fn an_assignment_that_the_memory_does_not_hold_is_refused() {
    let mut world = World::new();
    let mut member = world.member("g");
    member.join(&mut world).outcome.expect("joined");
    let max_state_bytes = world.shard.state_bytes() + 2_000;
    world.shard.set_settings(GroupSettings { max_state_bytes, ..settings() });
    let id = member.id.clone();
    assert_eq!(member.sync(&mut world, &[(&id, &[7; 2_001])]), Err(GroupError::NoMemory));
    // Why it rebalances is remembered, which takes some memory, too.
    member.join(&mut world).outcome.expect("the group goes on");
    assert_eq!(member.sync(&mut world, &[(&id, &[7; 1_000])]).expect("it fits").assignment.len(), 1_000);
}
