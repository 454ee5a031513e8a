//! What a consumer's caller hears of rebalances at a fake coordinator, and what waits for its word; by both protocols,
//! and by the classic one also where all is given up before each rebalance.

#![expect(clippy::disallowed_methods, reason = "waits on the clock that the test has paused")]

#[path = "fake/coordinator.rs"]
mod coordinator;
mod fake;

use std::collections::BTreeMap;
use std::time::Duration;

use coordinator::{APIS, Fake, MAX_POLL_INTERVAL, NEWER, has, of, until};
use millpond_client::{
    Assignor, Consumer, ConsumerConfig, Error, ErrorCode, RebalanceKind, Rebalances, TopicPartition,
};
use millpond_wire::ApiKey;

/// How a group works.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Cooperative,
    Eager,
    Consumer,
}

const WAYS: [Way; 3] = [Way::Cooperative, Way::Eager, Way::Consumer];

impl Way {
    fn beat(self) -> ApiKey {
        if self == Way::Consumer { ApiKey::CONSUMER_GROUP_HEARTBEAT } else { ApiKey::HEARTBEAT }
    }
}

/// A member that is to get partitions 0, of which there is a record, and 1.
async fn start(way: Way) -> (Fake, Consumer, Rebalances) {
    start_with(way, |config| config.auto_commit(None).max_poll_interval(MAX_POLL_INTERVAL)).await
}

async fn start_with(
    way: Way,
    configure: impl FnOnce(ConsumerConfig) -> ConsumerConfig,
) -> (Fake, Consumer, Rebalances) {
    let fake = Fake::serving(if way == Way::Consumer { NEWER } else { APIS });
    (fake.state().given, fake.state().has_record) = (Some(vec![0, 1]), true);
    let assignor = if way == Way::Eager { Assignor::Range } else { Assignor::CooperativeSticky };
    let consumer = fake.consumer_with(|config| configure(config.assignors(&[assignor]))).await;
    let rebalances = consumer.rebalances().expect("it has a group");
    consumer.subscribe(&["logs"]).expect("a good name");
    (fake, consumer, rebalances)
}

/// The same, that has got them and the record.
async fn started(way: Way) -> (Fake, Consumer, Rebalances) {
    let (fake, mut consumer, mut rebalances) = start(way).await;
    hears(&mut rebalances, RebalanceKind::Assigned, &[0, 1]).await;
    consumer.recv().await.expect("a record");
    (fake, consumer, rebalances)
}

/// Hears of this next, and is done with it at once.
async fn hears(rebalances: &mut Rebalances, kind: RebalanceKind, partitions: &[i32]) {
    let told = tokio::time::timeout(Duration::from_secs(120), rebalances.next()).await.expect("in time");
    let told = told.expect("it is not closed");
    let expected: Vec<TopicPartition> = partitions.iter().copied().map(of).collect();
    assert_eq!((told.kind(), told.partitions()), (kind, &expected[..]));
}

async fn hears_nothing(rebalances: &mut Rebalances) {
    let told = tokio::time::timeout(Duration::from_secs(20), rebalances.next()).await;
    assert!(told.is_err(), "{told:?}");
}

async fn gets_nothing(consumer: &mut Consumer) {
    let come = tokio::time::timeout(Duration::from_secs(20), consumer.recv()).await;
    assert!(come.is_err(), "{come:?}");
}

#[tokio::test(start_paused = true)]
async fn no_record_comes_before_the_caller_has_heard_that_it_has_the_partition() {
    for way in WAYS {
        let (fake, mut consumer, mut rebalances) = start(way).await;
        has(&consumer, 2).await;
        gets_nothing(&mut consumer).await;
        let told = rebalances.next().await.expect("it is not closed");
        assert_eq!((told.kind(), told.partitions()), (RebalanceKind::Assigned, &[of(0), of(1)][..]));
        gets_nothing(&mut consumer).await;
        consumer.seek(&of(1), 7).expect("assigned");
        drop(told);
        assert_eq!(consumer.recv().await.expect("a record").offset, 0);
        assert_eq!(consumer.position(&of(1)), Some(7));
        // What comes later is told by itself.
        fake.gives(&[0, 1, 2]);
        if way == Way::Eager {
            hears(&mut rebalances, RebalanceKind::Revoked, &[0, 1]).await;
            hears(&mut rebalances, RebalanceKind::Assigned, &[0, 1, 2]).await;
        } else {
            hears(&mut rebalances, RebalanceKind::Assigned, &[2]).await;
        }
        hears_nothing(&mut rebalances).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_revoked_is_committed_before_it_goes_and_the_member_stays_meanwhile() {
    for way in WAYS {
        let (fake, mut consumer, mut rebalances) = started(way).await;
        fake.gives(&[1]);
        let told = rebalances.next().await.expect("it is not closed");
        let going = if way == Way::Eager { vec![of(0), of(1)] } else { vec![of(0)] };
        assert_eq!((told.kind(), told.partitions()), (RebalanceKind::Revoked, &going[..]));
        let beats = || fake.state().seen.iter().filter(|seen| seen.starts_with("beat")).count();
        let before = beats();
        gets_nothing(&mut consumer).await;
        assert!(beats() - before >= 3, "{} heartbeats in 20 s", beats() - before);
        assert_eq!(consumer.assignment(), [of(0), of(1)], "they are its own still");
        consumer.commit().await.expect("they are its own still");
        assert!(fake.story().last().is_some_and(|seen| seen.starts_with("commit") && seen.contains(" 0@1")));
        let story = fake.story().len();
        drop(told);
        if way == Way::Eager {
            hears(&mut rebalances, RebalanceKind::Assigned, &[1]).await;
        }
        until(|| consumer.assignment() == [of(1)]).await;
        hears_nothing(&mut rebalances).await;
        assert!(!fake.story()[story..].iter().any(|seen| seen.starts_with("commit")), "it is committed once");
        consumer.commit().await.expect("there is nothing to commit");
        consumer.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn no_record_comes_of_what_is_revoked() {
    for way in WAYS {
        let (fake, mut consumer, mut rebalances) = started(way).await;
        consumer.seek(&of(0), 0).expect("assigned");
        consumer.recv().await.expect("the record again");
        fake.gives(&[1]);
        let told = rebalances.next().await.expect("it is not closed");
        consumer.seek(&of(0), 0).expect("it is its own still");
        gets_nothing(&mut consumer).await;
        drop(told);
        gets_nothing(&mut consumer).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_nobody_waits_for_is_made_before_its_partition_goes() {
    for way in WAYS {
        let (fake, consumer, mut rebalances) = started(way).await;
        fake.gives(&[1]);
        let told = rebalances.next().await.expect("it is not closed");
        let commit = consumer.commit();
        drop(told);
        commit.await.expect("it is in time");
        until(|| fake.story().iter().any(|seen| seen.starts_with("commit") && seen.contains(" 0@1"))).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_lost_with_the_membership_is_told_as_lost_and_cannot_be_committed() {
    for way in WAYS {
        let (fake, mut consumer, mut rebalances) = started(way).await;
        fake.state().errors.push((way.beat(), ErrorCode::UNKNOWN_MEMBER_ID));
        let told = rebalances.next().await.expect("it is not closed");
        assert_eq!((told.kind(), told.partitions()), (RebalanceKind::Lost, &[of(0), of(1)][..]));
        let error = consumer.commit().await.expect_err("others may have read on");
        assert_eq!(error.code(), Some(ErrorCode::ILLEGAL_GENERATION));
        drop(told);
        hears(&mut rebalances, RebalanceKind::Assigned, &[0, 1]).await;
        consumer.recv().await.expect("the record again");
        fake.state().errors.push((way.beat(), ErrorCode::UNKNOWN_MEMBER_ID));
        hears(&mut rebalances, RebalanceKind::Lost, &[0, 1]).await;
        consumer.commit().await.expect("the caller has heard what was lost, and there is nothing else");
        hears(&mut rebalances, RebalanceKind::Assigned, &[0, 1]).await;
        fake.state().errors.push((way.beat(), ErrorCode::FENCED_INSTANCE_ID));
        hears(&mut rebalances, RebalanceKind::Lost, &[0, 1]).await;
        hears_nothing(&mut rebalances).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_lost_while_the_caller_parts_with_it_cannot_be_committed_and_is_not_told_again() {
    for way in WAYS {
        let (fake, consumer, mut rebalances) = started(way).await;
        fake.gives(&[1]);
        let told = rebalances.next().await.expect("it is not closed");
        fake.state().errors.push((way.beat(), ErrorCode::UNKNOWN_MEMBER_ID));
        until(|| consumer.assignment() == [of(1)]).await;
        let error = consumer.commit().await.expect_err("others may have read on");
        assert_eq!(error.code(), Some(ErrorCode::ILLEGAL_GENERATION));
        drop(told);
        if way != Way::Eager {
            hears(&mut rebalances, RebalanceKind::Lost, &[1]).await;
        }
        hears(&mut rebalances, RebalanceKind::Assigned, &[1]).await;
        hears_nothing(&mut rebalances).await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_does_not_part_in_time_loses_what_it_has_not_committed() {
    for way in WAYS {
        for hears_of_it in [false, true] {
            let (fake, consumer, mut rebalances) = started(way).await;
            fake.gives(&[1]);
            let told = if hears_of_it { rebalances.next().await } else { None };
            // The rebalance timeout is 60 s.
            tokio::time::sleep(Duration::from_secs(45)).await;
            assert_eq!(consumer.assignment(), [of(0), of(1)], "{way:?}");
            tokio::time::sleep(Duration::from_secs(15)).await;
            assert_eq!(consumer.assignment(), [of(1)], "{way:?}");
            let error = consumer.commit().await.expect_err("others may have read on");
            assert_eq!(error.code(), Some(ErrorCode::ILLEGAL_GENERATION));
            drop(told);
            if !hears_of_it {
                let lost: &[i32] = if way == Way::Eager { &[0, 1] } else { &[0] };
                hears(&mut rebalances, RebalanceKind::Lost, lost).await;
            }
            if way == Way::Eager {
                hears(&mut rebalances, RebalanceKind::Assigned, &[1]).await;
            }
            hears_nothing(&mut rebalances).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_does_not_come_has_lost_all_when_it_does() {
    let fake = Fake::start();
    (fake.state().given, fake.state().has_record) = (Some(vec![0, 1]), true);
    let mut consumer = fake.consumer_within(Duration::from_secs(30), None).await;
    let mut rebalances = consumer.rebalances().expect("it has a group");
    consumer.subscribe(&["logs"]).expect("a good name");
    hears(&mut rebalances, RebalanceKind::Assigned, &[0, 1]).await;
    consumer.recv().await.expect("a record");
    has(&consumer, 2).await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    has(&consumer, 0).await;
    assert!(consumer.commit().await.is_err());
    hears(&mut rebalances, RebalanceKind::Lost, &[0, 1]).await;
    consumer.commit().await.expect("it was told before");
    gets_nothing(&mut consumer).await;
    hears(&mut rebalances, RebalanceKind::Assigned, &[0, 1]).await;
}

#[tokio::test(start_paused = true)]
async fn who_listens_later_hears_of_all_it_has_and_who_stops_is_waited_for_no_longer() {
    for way in WAYS {
        let (fake, mut consumer, rebalances) = start(way).await;
        has(&consumer, 2).await;
        assert!(consumer.rebalances().is_err(), "there is one");
        drop(rebalances);
        consumer.recv().await.expect("a record, as nobody is to be told first");
        let mut rebalances = consumer.rebalances().expect("there is none any more");
        hears(&mut rebalances, RebalanceKind::Assigned, &[0, 1]).await;
        fake.gives(&[1]);
        let told = rebalances.next().await.expect("it is not closed");
        assert_eq!(told.kind(), RebalanceKind::Revoked);
        drop(told);
        if way == Way::Eager {
            hears(&mut rebalances, RebalanceKind::Assigned, &[1]).await;
        }
        has(&consumer, 1).await;
        fake.gives(&[2]);
        tokio::time::sleep(Duration::from_secs(10)).await;
        drop(rebalances);
        until(|| consumer.assignment() == [of(2)]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_leaves_or_closes_while_it_parts_waits_for_nothing() {
    for way in WAYS {
        for closes in [false, true] {
            let (fake, consumer, mut rebalances) = started(way).await;
            fake.gives(&[1]);
            let told = rebalances.next().await.expect("it is not closed");
            let left = |seen: &String| *seen == "leave m" || *seen == "beat -1";
            if closes {
                consumer.close().await;
                assert!(fake.state().seen.last().is_some_and(left));
                drop(told);
                assert!(rebalances.next().await.is_none());
            } else {
                consumer.unsubscribe();
                until(|| fake.state().seen.last().is_some_and(left)).await;
                drop(told);
                hears_nothing(&mut rebalances).await;
                consumer.subscribe(&["logs"]).expect("a good name");
                hears(&mut rebalances, RebalanceKind::Assigned, &[1]).await;
            }
        }
    }
}

/// Waits until the partition that it gives up is not the consumer's any more.
async fn is_taken(consumer: &Consumer, partition: i32) {
    let taken = async {
        while consumer.assignment().contains(&of(partition)) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(90), taken).await.expect("it is waited for no longer");
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_is_not_made_when_its_partition_is_taken_is_told_once() {
    for way in WAYS {
        for made_in_time in [true, false] {
            let (fake, consumer, mut rebalances) = started(way).await;
            fake.gives(&[1]);
            let told = rebalances.next().await.expect("it is not closed");
            tokio::time::sleep(Duration::from_secs(40)).await;
            fake.state().refuses_commits = Some(ErrorCode::COORDINATOR_LOAD_IN_PROGRESS);
            let commit = consumer.commit();
            is_taken(&consumer, 0).await;
            if !made_in_time {
                // The last commits may take 5 s, and what is kept of this one is made behind them.
                tokio::time::sleep(Duration::from_secs(6)).await;
            }
            fake.state().refuses_commits = None;
            let codes = [commit.await, consumer.commit().await].map(|outcome| outcome.err().and_then(|one| one.code()));
            let expected = match (made_in_time, way) {
                (true, _) => [None; 2],
                // Nothing of it is kept.
                (false, Way::Eager) => [Some(ErrorCode::ILLEGAL_GENERATION), None],
                (false, _) => [None, Some(ErrorCode::ILLEGAL_GENERATION)],
            };
            assert_eq!(codes, expected, "{way:?}, made in time: {made_in_time}");
            consumer.commit().await.expect("it is told once");
            drop(told);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_offset_that_waits_while_its_partition_goes_and_comes_back_is_not_committed() {
    for way in WAYS {
        let (fake, consumer, rebalances) = started(way).await;
        // Nobody is asked.
        drop(rebalances);
        consumer.seek(&of(1), 7).expect("assigned");
        fake.state().refuses_commits = Some(ErrorCode::COORDINATOR_LOAD_IN_PROGRESS);
        let all = consumer.commit();
        let named = consumer.commit_offsets(&BTreeMap::from([(of(0), 1)]));
        let of_kept = consumer.commit_offsets(&BTreeMap::from([(of(1), 8)]));
        for given in [&[1][..], &[0, 1]] {
            let before = fake.story().len();
            fake.gives(given);
            until(|| fake.story()[before..].iter().any(|seen| seen.starts_with("sync") || seen.starts_with("tell")))
                .await;
            until(|| consumer.assignment().len() == given.len()).await;
        }
        let story = fake.story().len();
        fake.state().refuses_commits = None;
        let outcomes = [all.await, named.await, of_kept.await].map(|outcome| outcome.err().and_then(|one| one.code()));
        let gone = Some(ErrorCode::ILLEGAL_GENERATION);
        assert_eq!(outcomes, if way == Way::Eager { [gone; 3] } else { [None, gone, None] }, "{way:?}");
        let story = &fake.story()[story..];
        assert!(!story.iter().any(|seen| seen.starts_with("commit") && seen.contains(" 0@")), "{way:?}: {story:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_offset_of_a_partition_is_refused_until_the_caller_has_heard_that_it_came_back() {
    for way in WAYS {
        let (fake, consumer, mut rebalances) = started(way).await;
        let offsets = BTreeMap::from([(of(0), 1)]);
        consumer.commit_offsets(&offsets).await.expect("it is its own");
        fake.state().errors.push((way.beat(), ErrorCode::UNKNOWN_MEMBER_ID));
        has(&consumer, 0).await;
        has(&consumer, 2).await;
        let error = consumer.commit_offsets(&offsets).await.expect_err("it is of the membership before");
        assert_eq!(error.code(), Some(ErrorCode::ILLEGAL_GENERATION));
        hears(&mut rebalances, RebalanceKind::Lost, &[0, 1]).await;
        consumer.commit_offsets(&offsets).await.expect_err("the caller does not know yet");
        hears(&mut rebalances, RebalanceKind::Assigned, &[0, 1]).await;
        consumer.commit_offsets(&offsets).await.expect("it is its own again");
    }
}

#[tokio::test(start_paused = true)]
async fn a_rebalance_commits_what_it_revokes_and_nothing_else() {
    for way in WAYS {
        let (fake, mut consumer, mut rebalances) = start(way).await;
        let told = rebalances.next().await.expect("it is not closed");
        let error = told.commit().await.expect_err("there is nothing to commit of what comes");
        assert!(matches!(error, Error::Request { .. }), "{error}");
        drop(told);
        consumer.recv().await.expect("a record");
        consumer.seek(&of(1), 7).expect("assigned");
        fake.gives(&[1]);
        let told = rebalances.next().await.expect("it is not closed");
        told.commit().await.expect("they are its own still");
        let last = fake.story().last().cloned().unwrap_or_default();
        let expected = if way == Way::Eager { " 0@1 1@7" } else { " 0@1" };
        assert!(last.starts_with("commit") && last.ends_with(expected), "{way:?}: {last}");
        // Until it has taken too long.
        is_taken(&consumer, 0).await;
        let error = told.commit().await.expect_err("others may have read on");
        assert_eq!(error.code(), Some(ErrorCode::ILLEGAL_GENERATION));
        consumer.commit().await.expect("nothing is lost");
    }
}

#[tokio::test(start_paused = true)]
async fn who_commits_what_is_lost_while_the_caller_parts_with_it_is_told_once() {
    for way in WAYS {
        let (fake, consumer, mut rebalances) = started(way).await;
        fake.gives(&[1]);
        let told = rebalances.next().await.expect("it is not closed");
        fake.state().errors.push((way.beat(), ErrorCode::UNKNOWN_MEMBER_ID));
        until(|| consumer.assignment() == [of(1)]).await;
        let error = told.commit().await.expect_err("others may have read on");
        assert_eq!(error.code(), Some(ErrorCode::ILLEGAL_GENERATION));
        consumer.commit().await.expect("it was told");
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_caller_has_finished_of_what_is_revoked_is_committed_by_itself() {
    for way in WAYS {
        let config = |config: ConsumerConfig| config.auto_commit(Some(MAX_POLL_INTERVAL));
        let (fake, mut consumer, mut rebalances) = start_with(way, config).await;
        hears(&mut rebalances, RebalanceKind::Assigned, &[0, 1]).await;
        consumer.recv().await.expect("a record");
        fake.gives(&[1]);
        let told = rebalances.next().await.expect("it is not closed");
        assert_eq!(told.kind(), RebalanceKind::Revoked);
        drop(told);
        until(|| fake.story().iter().any(|seen| seen.starts_with("commit") && seen.contains(" 0@1"))).await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_asks_for_rebalances_or_takes_part_in_one_is_there() {
    let config = |config: ConsumerConfig| config.auto_commit(None).max_poll_interval(Duration::from_secs(30));
    let (_fake, consumer, mut rebalances) = start_with(Way::Cooperative, config).await;
    let told = rebalances.next().await.expect("it is not closed");
    tokio::time::sleep(Duration::from_secs(25)).await;
    drop(told);
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(consumer.assignment().len(), 2, "it was there 20 s ago");
    // There is a record that nobody takes.
    for _ in 0..4 {
        hears_nothing(&mut rebalances).await;
        assert_eq!(consumer.assignment().len(), 2);
    }
    tokio::time::sleep(Duration::from_secs(40)).await;
    assert_eq!(consumer.assignment(), [], "nobody has come");
}

#[tokio::test(start_paused = true)]
async fn records_come_again_when_nobody_listens_any_more_also_of_what_was_never_done_with() {
    let (_fake, mut consumer, mut rebalances) = start(Way::Cooperative).await;
    std::mem::forget(rebalances.next().await.expect("it is not closed"));
    gets_nothing(&mut consumer).await;
    drop(rebalances);
    let come = tokio::time::timeout(Duration::from_secs(20), consumer.recv()).await;
    assert_eq!(come.expect("in time").expect("a record").offset, 0);
}

#[tokio::test(start_paused = true)]
async fn a_coordinator_that_does_not_answer_gives_the_caller_no_more_time() {
    for way in WAYS {
        for api in [way.beat(), ApiKey::OFFSET_COMMIT] {
            let (fake, consumer, mut rebalances) = started(way).await;
            fake.gives(&[1]);
            let told = rebalances.next().await.expect("it is not closed");
            // It has 60 s, some of which are for what comes behind. A request waits for 5 s.
            tokio::time::sleep(Duration::from_secs(46)).await;
            fake.state().held = Some(api);
            let _commit = consumer.commit();
            tokio::time::sleep(Duration::from_millis(4200)).await;
            assert!(!consumer.assignment().contains(&of(0)), "{way:?}, {api:?}");
            drop(told);
        }
    }
}
