//! A member of a group at a fake coordinator, which refuses, moves, and calls for rebalances; by both protocols.

#![expect(clippy::disallowed_methods, reason = "waits on the clock that the test has paused")]

#[path = "fake/coordinator.rs"]
mod coordinator;
mod fake;

use std::collections::BTreeMap;
use std::time::Duration;

use coordinator::{APIS, Fake, MAX_POLL_INTERVAL, NEW, NEWER, has, of, until};
use millpond_client::{Consumer, Error, ErrorCode, TopicPartition};
use millpond_wire::ApiKey;

#[tokio::test(start_paused = true)]
async fn a_leader_shares_out_beats_and_leaves() {
    let fake = Fake::start();
    let consumer = fake.member().await;
    has(&consumer, 4).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let beats = fake.state().seen.iter().filter(|seen| *seen == "beat 1").count();
    assert!((3..=4).contains(&beats), "{beats} in 10 s");
    consumer.close().await;
    assert_eq!(fake.story(), ["join '' with 0", "join 'm' with 0", "sync 1 with 1", "leave m"]);
}

#[tokio::test(start_paused = true)]
async fn a_rebalance_is_joined_with_what_is_owned_and_what_goes_is_let_go_before_it_is_joined_again() {
    let fake = Fake::start();
    let consumer = fake.member().await;
    has(&consumer, 4).await;
    fake.state().given = Some(vec![1, 2]);
    fake.state().errors.push((ApiKey::HEARTBEAT, ErrorCode::REBALANCE_IN_PROGRESS));
    has(&consumer, 2).await;
    assert_eq!(consumer.assignment(), [TopicPartition::new("logs", 1), TopicPartition::new("logs", 2)]);
    tokio::time::sleep(Duration::from_secs(10)).await;
    let story = fake.story();
    assert_eq!(story[3..], ["join 'm' with 4", "sync 2 with 0", "join 'm' with 2", "sync 3 with 0"]);
}

#[tokio::test(start_paused = true)]
async fn who_is_not_known_any_more_loses_everything_and_joins_anew() {
    for (code, rejoins) in [
        (ErrorCode::UNKNOWN_MEMBER_ID, &["join '' with 0", "join 'm' with 0", "sync 2 with 1"][..]),
        (ErrorCode::ILLEGAL_GENERATION, &["join 'm' with 0", "sync 2 with 1"]),
    ] {
        let fake = Fake::start();
        let consumer = fake.member().await;
        has(&consumer, 4).await;
        fake.state().errors.push((ApiKey::HEARTBEAT, code));
        has(&consumer, 0).await;
        has(&consumer, 4).await;
        assert_eq!(fake.story()[3..], *rejoins, "{code}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_coordinator_that_moves_is_followed_and_nothing_is_lost() {
    let fake = Fake::start();
    let consumer = fake.member().await;
    has(&consumer, 4).await;
    fake.state().coordinator = 2;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(consumer.assignment().len(), 4);
    assert_eq!(fake.story().len(), 3, "it need not join again");
    assert_eq!(fake.network.connects("b:1"), 1);
    // A rebalance that is called for in the middle of another, and a coordinator that is still loading.
    fake.state().errors = vec![
        (ApiKey::JOIN_GROUP, ErrorCode::COORDINATOR_LOAD_IN_PROGRESS),
        (ApiKey::SYNC_GROUP, ErrorCode::REBALANCE_IN_PROGRESS),
        (ApiKey::HEARTBEAT, ErrorCode::REBALANCE_IN_PROGRESS),
    ];
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(consumer.assignment().len(), 4);
    let join = "join 'm' with 4";
    assert_eq!(fake.story()[3..], [join, "sync 2 with 1", join, join, "sync 3 with 1"]);
}

#[tokio::test(start_paused = true)]
async fn who_is_fenced_is_told_and_stays_out_until_it_subscribes_again() {
    let fake = Fake::start();
    let mut consumer = fake.member().await;
    has(&consumer, 4).await;
    fake.state().errors.push((ApiKey::HEARTBEAT, ErrorCode::FENCED_INSTANCE_ID));
    let error = consumer.recv().await.expect_err("it is told");
    assert_eq!((error.code(), error.is_retriable()), (Some(ErrorCode::FENCED_INSTANCE_ID), false));
    has(&consumer, 0).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(fake.story().len(), 3);
    consumer.subscribe(&["logs"]).expect("a good name");
    has(&consumer, 4).await;
}

#[tokio::test(start_paused = true)]
async fn by_the_consumer_protocol_changes_are_told_at_once_and_nothing_else_is_said() {
    let fake = Fake::serving(NEWER);
    fake.state().given = Some(vec![0, 1, 2]);
    let consumer = fake.member().await;
    has(&consumer, 3).await;
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(fake.story(), ["tell 0 [], 1 topics", "tell 1 [0, 1, 2], 0 topics"]);
    {
        let mut state = fake.state();
        (state.given, state.retarget) = (Some(vec![2, 3]), true);
    }
    has(&consumer, 2).await;
    assert_eq!(consumer.assignment(), [TopicPartition::new("logs", 2), TopicPartition::new("logs", 3)]);
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(fake.story()[2..], ["tell 2 [2, 3], 0 topics"]);
    let beats = fake.state().seen.iter().filter(|seen| seen.starts_with("beat")).count();
    assert!((3..=5).contains(&beats), "{beats} in 22 s");
    consumer.close().await;
    assert_eq!(fake.state().seen.last().map(String::as_str), Some("beat -1"), "it says that it goes");
}

#[tokio::test(start_paused = true)]
async fn by_the_consumer_protocol_who_is_fenced_joins_anew_with_nothing() {
    for code in [ErrorCode::FENCED_MEMBER_EPOCH, ErrorCode::UNKNOWN_MEMBER_ID] {
        let fake = Fake::serving(NEWER);
        fake.state().given = Some(vec![0, 1]);
        let consumer = fake.member().await;
        has(&consumer, 2).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        fake.state().errors.push((ApiKey::CONSUMER_GROUP_HEARTBEAT, code));
        has(&consumer, 0).await;
        has(&consumer, 2).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(fake.story()[2..], ["tell 0 [], 1 topics", "tell 2 [0, 1], 0 topics"], "{code}");
    }
}

#[tokio::test(start_paused = true)]
async fn by_the_consumer_protocol_all_is_said_again_to_a_coordinator_that_has_moved() {
    let fake = Fake::serving(NEWER);
    fake.state().given = Some(vec![0, 1]);
    let consumer = fake.member().await;
    has(&consumer, 2).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    fake.state().coordinator = 2;
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(fake.story()[2..], ["tell 1 [0, 1], 1 topics"]);
    assert_eq!(consumer.assignment().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_group_that_stays_classic_is_joined_by_the_classic_protocol() {
    for code in [ErrorCode::GROUP_ID_NOT_FOUND, ErrorCode::UNSUPPORTED_VERSION] {
        let fake = Fake::serving(NEWER);
        fake.state().errors.push((ApiKey::CONSUMER_GROUP_HEARTBEAT, code));
        let consumer = fake.member().await;
        has(&consumer, 4).await;
        let story = fake.story();
        assert_eq!(story, ["tell 0 [], 1 topics", "join '' with 0", "join 'm' with 0", "sync 1 with 1"], "{code}");
        tokio::time::sleep(Duration::from_secs(10)).await;
        consumer.close().await;
        assert_eq!(fake.state().seen.last().map(String::as_str), Some("leave m"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_cannot_share_out_joins_again() {
    let fake = Fake::start();
    fake.state().strange_assignor = true;
    let consumer = fake.member().await;
    has(&consumer, 4).await;
    assert_eq!(fake.story()[1..], ["join 'm' with 0", "join 'm' with 0", "sync 2 with 1"]);
}

#[tokio::test(start_paused = true)]
async fn who_is_told_to_join_with_an_id_that_it_has_is_not_to_be_a_member() {
    let fake = Fake::start();
    fake.state().errors = vec![(ApiKey::JOIN_GROUP, ErrorCode::MEMBER_ID_REQUIRED); 1000];
    let mut consumer = fake.member().await;
    let error = consumer.recv().await.expect_err("it is told");
    assert_eq!(error.code(), Some(ErrorCode::MEMBER_ID_REQUIRED));
    assert_eq!(fake.story(), ["join '' with 0", "join 'm' with 0"]);
}

#[tokio::test(start_paused = true)]
async fn by_the_consumer_protocol_a_topic_that_was_made_again_is_reported_anew() {
    let fake = Fake::serving(NEWER);
    fake.state().given = Some(vec![0, 1]);
    let consumer = fake.member().await;
    has(&consumer, 2).await;
    fake.sees("tell 1 [0, 1], 0 topics").await;
    {
        let mut state = fake.state();
        (state.remade, state.retarget) = (1, true);
    }
    fake.sees("tell 2 [0, 1] of the new topic").await;
    assert_eq!(consumer.assignment(), [of(0), of(1)]);
}

#[tokio::test(start_paused = true)]
async fn what_is_assigned_by_hand_stays_when_the_group_is_left_before() {
    let fake = Fake::start();
    let consumer = fake.committing_member().await;
    consumer.seek(&of(0), 7).expect("assigned");
    consumer.unsubscribe();
    assert_eq!(consumer.assignment(), []);
    consumer.assign([of(1)]).expect("it is not subscribed");
    fake.sees("leave m").await;
    assert_eq!(fake.story()[3..], ["commit 1 0@7 1@0 2@0 3@0", "leave m"]);
    assert_eq!(consumer.assignment(), [of(1)]);
    // Also in the middle of a join.
    fake.state().held = Some(ApiKey::JOIN_GROUP);
    consumer.subscribe(&["logs"]).expect("a good name");
    fake.sees("join '' with 0").await;
    consumer.unsubscribe();
    consumer.assign([of(1)]).expect("it is not subscribed");
    fake.state().held = None;
    fake.sees("leave m").await;
    assert_eq!(consumer.assignment(), [of(1)]);
    // And one that is left and joined again at once is left in between.
    consumer.subscribe(&["logs"]).expect("a good name");
    has(&consumer, 4).await;
    consumer.unsubscribe();
    consumer.subscribe(&["logs"]).expect("a good name");
    has(&consumer, 4).await;
    let story = fake.story();
    let left = story.iter().rposition(|seen| seen == "leave m").expect("it is left");
    assert_eq!(story[left + 1..], ["join '' with 0", "join 'm' with 0", "sync 4 with 1"]);
}

#[tokio::test(start_paused = true)]
async fn what_was_read_by_hand_is_committed_when_it_goes() {
    let fake = Fake::start();
    let consumer = fake.consumer(Some(Duration::from_secs(3600))).await;
    consumer.assign([of(0), of(1)]).expect("good names");
    consumer.seek(&of(0), 5).expect("assigned");
    consumer.seek(&of(1), 6).expect("assigned");
    consumer.assign([of(1)]).expect("good names");
    consumer.subscribe(&["logs"]).expect("a good name");
    has(&consumer, 4).await;
    assert_eq!(fake.story()[..3], ["commit -1 0@5", "commit -1 1@6", "join '' with 0"]);
}

#[tokio::test(start_paused = true)]
async fn commits_are_made_in_their_order_and_none_of_a_partition_that_has_gone() {
    let fake = Fake::start();
    let consumer = fake.committing_member().await;
    {
        let mut state = fake.state();
        (state.given, state.held) = (Some(vec![1, 2]), Some(ApiKey::JOIN_GROUP));
    }
    fake.calls_for_a_rebalance();
    fake.sees("join 'm' with 4").await;
    let early = consumer.commit_offsets(&BTreeMap::from([(of(0), 10)]));
    consumer.seek(&of(0), 20).expect("assigned");
    fake.state().held = None;
    early.await.expect("it is still this member's");
    fake.sees("sync 3 with 0").await;
    let rejoined = ["join 'm' with 2", "sync 3 with 0"];
    let expected =
        [&["join 'm' with 4", "sync 2 with 0", "commit 2 0@10", "commit 2 0@20 3@0"][..], &rejoined].concat();
    assert_eq!(fake.story()[3..], expected);
    let late = consumer.commit_offsets(&BTreeMap::from([(of(0), 10)])).await.expect_err("another reads it");
    assert_eq!(late.code(), Some(ErrorCode::ILLEGAL_GENERATION));
    consumer.commit_offsets(&BTreeMap::from([(of(1), 3)])).await.expect("that one is kept");
    assert_eq!(fake.story()[9..], ["commit 3 1@3"]);
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_has_to_wait_holds_up_no_heartbeat() {
    let fake = Fake::start();
    let consumer = fake.member().await;
    has(&consumer, 4).await;
    fake.state().errors = vec![(ApiKey::OFFSET_COMMIT, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION); 1000];
    let before = fake.state().seen.iter().filter(|seen| *seen == "beat 1").count();
    let error = consumer.commit_offsets(&BTreeMap::from([(of(0), 10)])).await.expect_err("it is not taken");
    assert!(matches!(error, Error::GaveUp { .. }), "{error}");
    let beats = fake.state().seen.iter().filter(|seen| *seen == "beat 1").count() - before;
    assert!((5..=7).contains(&beats), "{beats} in 20 s");
    assert!(fake.story().len() > 10, "it is tried again");
    fake.state().errors.clear();
    consumer.commit_offsets(&BTreeMap::from([(of(0), 11)])).await.expect("it is taken");
}

#[tokio::test(start_paused = true)]
async fn many_commits_hold_up_no_heartbeat() {
    let fake = Fake::start();
    let consumer = fake.member().await;
    has(&consumer, 4).await;
    fake.state().commit_takes = Duration::from_millis(100);
    let commits: Vec<_> = (0..300).map(|at| consumer.commit_offsets(&BTreeMap::from([(of(0), at)]))).collect();
    for commit in commits {
        commit.await.expect("it is taken");
    }
    let beats = fake.state().seen.iter().filter(|seen| *seen == "beat 1").count();
    assert!((9..=10).contains(&beats), "{beats} in 30 s");
    assert!(fake.story()[3..].iter().eq((0..300).map(|at| format!("commit 1 0@{at}")).collect::<Vec<_>>().iter()));
}

#[tokio::test(start_paused = true)]
async fn who_is_closed_in_the_middle_commits_what_it_owes_and_leaves() {
    let fake = Fake::start();
    let consumer = fake.committing_member().await;
    {
        let mut state = fake.state();
        (state.given, state.swallow) = (Some(vec![1, 2]), Some(ApiKey::OFFSET_COMMIT));
    }
    fake.calls_for_a_rebalance();
    let gone = "commit 2 0@0 3@0";
    fake.sees(gone).await;
    consumer.close().await;
    assert_eq!(fake.story()[5..], [gone, gone, "commit 2 1@0 2@0", "leave m"]);

    let fake = Fake::start();
    let consumer = fake.member().await;
    has(&consumer, 4).await;
    fake.state().swallow = Some(ApiKey::LEAVE_GROUP);
    consumer.unsubscribe();
    fake.sees("leave m").await;
    consumer.close().await;
    assert_eq!(fake.story()[3..], ["leave m", "leave m"]);

    let fake = Fake::serving(NEWER);
    fake.state().swallow = Some(ApiKey::CONSUMER_GROUP_HEARTBEAT);
    let consumer = fake.member().await;
    fake.sees("tell 0 [], 1 topics").await;
    consumer.close().await;
    assert_eq!(fake.state().seen.last().map(String::as_str), Some("beat -1"), "it may be a member");
}

#[tokio::test(start_paused = true)]
async fn the_last_commit_waits_for_a_rebalance_to_end_and_leaves_time_to_leave() {
    let fake = Fake::start();
    let consumer = fake.committing_member().await;
    fake.state().errors = vec![(ApiKey::OFFSET_COMMIT, ErrorCode::REBALANCE_IN_PROGRESS); 2];
    consumer.close().await;
    let last = "commit 1 0@0 1@0 2@0 3@0";
    assert_eq!(fake.story()[3..], [last, last, last, "leave m"]);

    let fake = Fake::start();
    let consumer = fake.committing_member().await;
    fake.state().errors = vec![(ApiKey::OFFSET_COMMIT, ErrorCode::COORDINATOR_LOAD_IN_PROGRESS); 1000];
    consumer.close().await;
    assert_eq!(fake.story().last().map(String::as_str), Some("leave m"));
}

#[tokio::test(start_paused = true)]
async fn an_offset_that_a_transaction_is_about_to_commit_holds_up_nothing_else() {
    let fake = Fake::start();
    fake.state().withheld = BTreeMap::from([(0, ErrorCode::UNSTABLE_OFFSET_COMMIT)]);
    let consumer = fake.member().await;
    has(&consumer, 4).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!([0, 1, 2, 3].map(|partition| consumer.position(&of(partition))), [None, Some(0), Some(0), Some(0)]);
    assert_eq!(fake.state().offsets_asked[..2], [vec![0, 1, 2, 3], vec![0]], "only those that wait are asked for");
    let beats = fake.state().seen.iter().filter(|seen| *seen == "beat 1").count();
    assert!((9..=10).contains(&beats), "{beats} in 30 s");
    fake.state().withheld.clear();
    until(|| consumer.position(&of(0)) == Some(0)).await;
}

#[tokio::test(start_paused = true)]
async fn only_what_stays_so_keeps_a_partition_from_its_committed_offset() {
    let fake = Fake::start();
    let codes = [ErrorCode::UNKNOWN_SERVER_ERROR, ErrorCode::TOPIC_AUTHORIZATION_FAILED];
    fake.state().withheld = (0..).zip(codes).collect();
    let mut consumer = fake.member().await;
    let error = consumer.recv().await.expect_err("it is told of the second");
    assert_eq!(error.code(), Some(codes[1]));
    fake.state().withheld.clear();
    until(|| consumer.position(&of(0)) == Some(0)).await;
    assert_eq!(consumer.position(&of(1)), None);
    consumer.seek(&of(1), 5).expect("assigned");
    assert_eq!(consumer.position(&of(1)), Some(5));
}

#[tokio::test(start_paused = true)]
async fn a_coordinator_that_matches_expressions_is_given_one_and_it_is_taken_back() {
    let fake = Fake::serving(NEWER);
    fake.state().given = Some(vec![0, 1]);
    let consumer = fake.consumer(None).await;
    consumer.subscribe_pattern("lo.*").expect("good");
    has(&consumer, 2).await;
    fake.sees("tell 1 [0, 1], 0 topics").await;
    consumer.subscribe(&["logs"]).expect("a good name");
    fake.sees("tell 1 [0, 1], 1 topics and what matches ''").await;
    consumer.subscribe(&["logs", "more"]).expect("good names");
    fake.sees("tell 1 [0, 1], 2 topics").await;
    consumer.close().await;
    assert_eq!(fake.story()[0], "tell 0 [], 0 topics and what matches 'lo.*'");
}

#[tokio::test(start_paused = true)]
async fn an_expression_is_taken_back_again_when_that_may_have_been_lost() {
    let fake = Fake::serving(NEWER);
    fake.state().given = Some(vec![0, 1]);
    let consumer = fake.consumer(None).await;
    consumer.subscribe_pattern("lo.*").expect("good");
    has(&consumer, 2).await;
    fake.sees("tell 1 [0, 1], 0 topics").await;
    fake.state().swallow = Some(ApiKey::CONSUMER_GROUP_HEARTBEAT);
    consumer.subscribe(&["logs"]).expect("a good name");
    tokio::time::sleep(Duration::from_secs(20)).await;
    let taken_back = "tell 1 [0, 1], 1 topics and what matches ''";
    assert_eq!(fake.story()[2..], [taken_back, taken_back]);
}

#[tokio::test(start_paused = true)]
async fn where_the_coordinator_matches_no_expressions_topics_are_matched_here_again_and_again() {
    for (apis, first, second) in [
        (NEW, "tell 0 [], 1 topics", "tell 1 [0, 1], 2 topics"),
        (APIS, "join '' with 0", "join 'm' with 2 of logs and logs-2"),
    ] {
        let fake = Fake::serving(apis);
        fake.state().given = Some(vec![0, 1]);
        fake.state().others = vec!["other", "my-logs"];
        let consumer = fake.consumer(None).await;
        consumer.subscribe_pattern("_*logs(-.)?").expect("good");
        has(&consumer, 2).await;
        assert_eq!(fake.story()[0], first);
        fake.state().others.push("logs-2");
        tokio::time::sleep(Duration::from_secs(299)).await;
        assert!(!fake.story().iter().any(|seen| seen == second), "it is not asked for all the time");
        until(|| fake.story().iter().any(|seen| seen == second)).await;
        consumer.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_topic_that_matches_later_is_read_soon_if_none_has_matched_before() {
    let fake = Fake::start();
    let consumer = fake.consumer(None).await;
    consumer.subscribe_pattern("more.*").expect("good");
    fake.sees("sync 1 with 1").await;
    assert_eq!(consumer.assignment(), []);
    fake.state().others.push("more-1");
    has(&consumer, 4).await;
    assert!(consumer.assignment().iter().all(|partition| partition.topic == "more-1"));
    consumer.unsubscribe();
    has(&consumer, 0).await;
    fake.sees("leave m").await;
}

#[tokio::test(start_paused = true)]
async fn matching_expressions_here_holds_up_no_heartbeat() {
    for (apis, expected) in [(NEW, "tell 1 [0, 1], 2 topics"), (APIS, "join 'm' with 2 of logs and logs-2")] {
        let fake = Fake::serving(apis);
        fake.state().given = Some(vec![0, 1]);
        let consumer = fake.consumer(None).await;
        consumer.subscribe_pattern("logs.*").expect("good");
        has(&consumer, 2).await;
        tokio::time::sleep(Duration::from_secs(290)).await;
        fake.state().held = Some(ApiKey::METADATA);
        let beats = || fake.state().seen.iter().filter(|seen| seen.starts_with("beat")).count();
        let before = beats();
        tokio::time::sleep(Duration::from_secs(60)).await;
        let beats = beats() - before;
        assert!(beats >= 11, "{beats} in 60 s, where there is one every 3 or 5 s");
        fake.state().others.push("logs-2");
        fake.state().held = None;
        until(|| fake.story().iter().any(|seen| seen == expected)).await;
        consumer.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn by_the_consumer_protocol_nobody_joins_before_a_topic_matches() {
    let fake = Fake::serving(NEW);
    fake.state().given = Some(vec![0, 1]);
    let consumer = fake.consumer(None).await;
    consumer.subscribe_pattern("more.*").expect("good");
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(fake.state().seen.is_empty(), "{:?}", fake.story());
    fake.state().others.push("more-1");
    fake.sees("tell 1 [0, 1], 0 topics").await;
    assert_eq!(fake.story()[0], "tell 0 [], 1 topics");
    consumer.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_coordinator_that_refuses_an_expression_has_the_caller_told() {
    let fake = Fake::serving(NEWER);
    fake.state().errors.push((ApiKey::CONSUMER_GROUP_HEARTBEAT, ErrorCode::INVALID_REGULAR_EXPRESSION));
    let mut consumer = fake.consumer(None).await;
    consumer.subscribe_pattern("a+").expect("good here");
    let error = consumer.recv().await.expect_err("it is told");
    assert_eq!(error.code(), Some(ErrorCode::INVALID_REGULAR_EXPRESSION));
    for bad in ["(", ""] {
        assert!(matches!(consumer.subscribe_pattern(bad), Err(Error::Request { .. })), "'{bad}'");
    }
}

#[tokio::test(start_paused = true)]
async fn the_group_is_left_for_a_caller_that_does_not_come_and_joined_again_when_it_does() {
    for apis in [APIS, NEWER] {
        let fake = Fake::serving(apis);
        fake.state().given = Some(vec![0, 1, 2, 3]);
        let mut consumer = fake.member().await;
        has(&consumer, 4).await;
        let before = fake.state().seen.len();
        tokio::time::sleep(MAX_POLL_INTERVAL - Duration::from_secs(20)).await;
        assert_eq!(consumer.assignment().len(), 4);
        has(&consumer, 0).await;
        let leaves = |seen: &String| *seen == "leave m" || *seen == "beat -1";
        until(|| fake.state().seen.last().is_some_and(leaves)).await;
        let seen = fake.state().seen.len();
        assert!(seen > before + 100, "it has told that it lives until then");
        tokio::time::sleep(MAX_POLL_INTERVAL).await;
        assert_eq!(fake.state().seen.len(), seen, "it stays out");
        let come = tokio::time::timeout(Duration::from_secs(10), consumer.recv()).await;
        assert!(come.is_err(), "there are no records: {come:?}");
        has(&consumer, 4).await;
        consumer.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_waits_or_comes_now_and_then_stays_a_member() {
    let fake = Fake::start();
    let mut consumer = fake.member().await;
    for pause in [3 * MAX_POLL_INTERVAL, Duration::from_secs(1), MAX_POLL_INTERVAL - Duration::from_secs(20)] {
        // The last ones are dropped at once and come back later.
        assert!(tokio::time::timeout(pause, consumer.recv()).await.is_err(), "there are no records");
        tokio::time::sleep(MAX_POLL_INTERVAL - Duration::from_secs(20)).await;
        assert_eq!(consumer.assignment().len(), 4);
    }
    assert_eq!(fake.story(), ["join '' with 0", "join 'm' with 0", "sync 1 with 1"]);
}

#[tokio::test(start_paused = true)]
async fn who_loses_what_it_has_not_committed_hears_of_it_with_its_next_commit() {
    for (commits_in_time, expected) in [(false, Some(ErrorCode::ILLEGAL_GENERATION)), (true, None)] {
        let fake = Fake::start();
        (fake.state().given, fake.state().has_record) = (Some(vec![0, 1]), true);
        let mut consumer = fake.member().await;
        consumer.recv().await.expect("a record");
        if commits_in_time {
            consumer.commit().await.expect("it is a member");
        }
        tokio::time::sleep(MAX_POLL_INTERVAL - Duration::from_secs(20)).await;
        has(&consumer, 0).await;
        let told = consumer.commit().await.err().and_then(|error| error.code());
        assert_eq!(told, expected);
        consumer.commit().await.expect("there is nothing left to commit");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_rebalance_has_taken_is_left_out_of_a_commit_of_all_that_was_given() {
    for apis in [APIS, NEWER] {
        let fake = Fake::serving(apis);
        (fake.state().given, fake.state().has_record) = (Some(vec![0, 1]), true);
        let mut consumer = fake.member().await;
        consumer.recv().await.expect("a record");
        consumer.seek(&of(1), 7).expect("assigned");
        fake.gives(&[1]);
        has(&consumer, 1).await;
        consumer.commit().await.expect("the other one is kept");
        until(|| fake.story().iter().any(|seen| seen.starts_with("commit") && seen.ends_with(" 1@7"))).await;
        let error = consumer.commit_offsets(&BTreeMap::from([(of(0), 1)])).await.expect_err("another reads it");
        assert_eq!(error.code(), Some(ErrorCode::ILLEGAL_GENERATION));
        consumer.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_goes_while_a_commit_of_all_that_was_given_is_tried_again_is_left_out_of_it() {
    let fake = Fake::start();
    (fake.state().given, fake.state().has_record) = (Some(vec![0, 1]), true);
    let mut consumer = fake.member().await;
    consumer.recv().await.expect("a record");
    consumer.seek(&of(1), 7).expect("assigned");
    fake.state().refuses_commits = Some(ErrorCode::COORDINATOR_LOAD_IN_PROGRESS);
    let all = consumer.commit();
    until(|| fake.story().iter().any(|seen| seen == "commit 1 0@1 1@7")).await;
    fake.gives(&[1]);
    has(&consumer, 1).await;
    until(|| fake.story().iter().any(|seen| seen == "commit 2 0@1 1@7")).await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    fake.state().refuses_commits = None;
    all.await.expect("what is kept is committed");
    assert_eq!(fake.story().last().map(String::as_str), Some("commit 3 1@7"));
}

#[tokio::test(start_paused = true)]
async fn who_lost_its_membership_hears_of_it_with_every_commit_from_before() {
    for (apis, api) in [(APIS, ApiKey::HEARTBEAT), (NEWER, ApiKey::CONSUMER_GROUP_HEARTBEAT)] {
        let fake = Fake::serving(apis);
        (fake.state().given, fake.state().has_record) = (Some(vec![0, 1]), true);
        let mut consumer = fake.member().await;
        consumer.recv().await.expect("a record");
        // It waits for another try while the member loses all and gets the same again.
        fake.state().refuses_commits = Some(ErrorCode::COORDINATOR_LOAD_IN_PROGRESS);
        let waiting = consumer.commit();
        until(|| fake.story().iter().any(|seen| seen.starts_with("commit"))).await;
        fake.state().errors.push((api, ErrorCode::UNKNOWN_MEMBER_ID));
        let error = waiting.await.expect_err("others may have read on");
        assert_eq!(error.code(), Some(ErrorCode::ILLEGAL_GENERATION));
        fake.state().refuses_commits = None;
        has(&consumer, 2).await;
        consumer.recv().await.expect("the record is given again");
        consumer.commit().await.expect("of this membership");
        consumer.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_does_not_trust_the_coordinator_or_a_leader_is_told() {
    async fn is_told(consumer: &mut Consumer) {
        let told = tokio::time::timeout(Duration::from_secs(60), consumer.recv()).await.expect("in time");
        assert!(matches!(told, Err(Error::Untrusted { .. })), "{told:?}");
    }
    // One that joins, one that is a member already, and one that only asks for offsets: each goes on by itself.
    for joined in [false, true] {
        let fake = Fake::start();
        let mut consumer = fake.consumer(None).await;
        if joined {
            consumer.subscribe(&["logs"]).expect("a good name");
            has(&consumer, 4).await;
        }
        fake.network.distrust("b:1");
        fake.state().coordinator = 2;
        consumer.subscribe(&["logs"]).expect("a good name");
        is_told(&mut consumer).await;
        let again = tokio::time::timeout(Duration::from_secs(60), consumer.recv()).await;
        assert!(again.is_err(), "it is told once: {again:?}");
        assert!(fake.network.connects("b:1") > 10, "it is asked again");
        fake.network.trust("b:1");
        has(&consumer, 4).await;
    }
    let fake = Fake::start();
    fake.network.distrust("b:1");
    fake.state().coordinator = 2;
    let mut consumer = fake.consumer(None).await;
    consumer.assign([of(0)]).expect("a good name");
    is_told(&mut consumer).await;
    fake.network.trust("b:1");
    until(|| consumer.position(&of(0)) == Some(0)).await;

    let fake = Fake::start();
    let mut consumer = fake.consumer(None).await;
    fake.network.distrust("a:1");
    consumer.assign([of(0)]).expect("a good name");
    consumer.seek(&of(0), 0).expect("assigned");
    is_told(&mut consumer).await;
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_there_however_short_the_interval_is() {
    let fake = Fake::start();
    let mut consumer = fake.consumer_within(Duration::ZERO, None).await;
    consumer.subscribe(&["logs"]).expect("a good name");
    let come = tokio::time::timeout(Duration::from_secs(60), consumer.recv()).await;
    assert!(come.is_err(), "there are no records: {come:?}");
    assert_eq!(fake.story(), ["join '' with 0", "join 'm' with 0", "sync 1 with 1"]);

    let fake = Fake::start();
    let consumer = fake.consumer_within(Duration::ZERO, None).await;
    consumer.subscribe(&["logs"]).expect("a good name");
    has(&consumer, 4).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(consumer.assignment().len(), 4, "it has until the second heartbeat");
    has(&consumer, 0).await;
}
