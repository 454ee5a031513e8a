use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn name(name: &str) -> TopicKey {
    TopicKey::Name(Str::from(name))
}

fn at(offset: i64) -> Asked {
    Asked { offset: Offset(offset), max_bytes: 1, leader_epoch: LeaderEpoch(-1) }
}

const QUIET: Found =
    Found { high_watermark: Offset(7), log_start: Offset(0), records: false, more: false, failed: false };

/// A kept session of partitions 0, 1 … of one topic.
fn session(partitions: i32) -> Session<i32> {
    let mut session = Session::new();
    for partition in 0..partitions {
        session.push(name("logs"), partition, at(0), partition);
    }
    assert!(session.keep());
    session
}

/// One answer, in which all partitions find the same but for some; the partitions that it names.
fn answer(session: &mut Session<i32>, others: &[(i32, Found)]) -> Vec<i32> {
    let find = |partition| others.iter().find(|(other, _)| *other == partition).map_or(QUIET, |(_, found)| *found);
    let answer = session.answer(|followed| find(followed.partition));
    answer.named.iter().map(|place| session.get_mut(*place).expect("it is followed").partition).collect()
}

fn all<A>(session: &Session<A>) -> impl Iterator<Item = &Followed<A>> {
    session.followed.iter().flatten()
}

fn due(session: &mut Session<i32>) -> Vec<i32> {
    session.due().into_iter().map(|place| session.get_mut(place).expect("it is followed").partition).collect()
}

#[test]
fn a_look_decides_whether_the_answer_names_a_partition_and_whether_it_stays_due() {
    let records = Found { records: true, ..QUIET };
    let failed = Found { failed: true, high_watermark: Offset(-1), ..QUIET };
    // What the look after the first one finds, what it names, and what is due then.
    for (what, found, named, stays) in [
        ("nothing new", QUIET, false, false),
        ("records", records, true, true),
        ("an error", failed, true, true),
        ("another high watermark", Found { high_watermark: Offset(8), ..QUIET }, true, false),
        ("another log start", Found { log_start: Offset(3), ..QUIET }, true, false),
        ("records beyond the limits", Found { more: true, ..QUIET }, false, true),
    ] {
        let mut session = session(1);
        assert_eq!(answer(&mut session, &[]), [0], "everything is new at first");
        assert!(due(&mut session).is_empty());
        session.wake_all();
        assert_eq!(answer(&mut session, &[(0, found)]).len(), usize::from(named), "{what}");
        assert_eq!(due(&mut session).len(), usize::from(stays), "{what}");
    }
}

#[test]
fn after_an_error_the_partition_is_told_again_though_nothing_moved() {
    let mut session = session(1);
    answer(&mut session, &[]);
    session.wake_all();
    answer(&mut session, &[(0, Found { failed: true, ..QUIET })]);
    assert_eq!(answer(&mut session, &[]), [0]);
    session.wake_all();
    assert_eq!(answer(&mut session, &[]), [0; 0]);
}

#[test]
fn partitions_with_records_go_behind_those_that_got_none() {
    let (records, more) = (Found { records: true, ..QUIET }, Found { more: true, ..QUIET });
    let mut session = session(4);
    answer(&mut session, &[(0, records), (1, records), (2, more), (3, more)]);
    assert_eq!(due(&mut session), [2, 3, 0, 1]);
    answer(&mut session, &[(2, records), (3, more), (0, more), (1, more)]);
    assert_eq!(due(&mut session), [3, 0, 1, 2]);
}

#[test]
fn what_a_request_changes_is_due_and_what_it_forgets_is_gone() {
    let mut session = session(3);
    answer(&mut session, &[]);
    session.update(&name("logs"), 1, at(5), || unreachable!("it is followed"));
    session.update(&name("more"), 0, at(0), || 9);
    assert_eq!(session.forget(&name("logs"), 2), Some(2));
    assert_eq!(session.forget(&name("logs"), 2), None);
    assert_eq!(session.forget(&name("other"), 0), None);
    assert_eq!(due(&mut session), [1, 0]);
    assert_eq!(session.len(), 3);
    let asked: Vec<_> = all(&session).map(|followed| (followed.attached, followed.asked.offset.0)).collect();
    assert_eq!(asked, [(0, 0), (1, 5), (9, 0)]);
    // The place of what was forgotten is taken again; news of the old one mean nothing to the new one.
    answer(&mut session, &[]);
    let old = session.push(name("gone"), 0, at(0), 0);
    let mut session = self::session(1);
    session.update(&name("gone"), 0, at(0), || 1);
    answer(&mut session, &[]);
    session.forget(&name("gone"), 0);
    session.update(&name("back"), 0, at(0), || 2);
    answer(&mut session, &[]);
    session.wake(old);
    assert!(due(&mut session).is_empty());
}

#[test]
fn a_partition_that_is_named_twice_makes_no_session() {
    let mut session = Session::new();
    session.push(name("logs"), 1, at(0), ());
    session.push(name("logs"), 1, at(3), ());
    assert!(!session.keep());
}

#[test]
fn the_memory_of_long_names_counts_and_is_given_back() {
    let mut session = session(1);
    let before = session.memory_bytes();
    for partition in 0..2 {
        session.update(&name(&"x".repeat(10_000)), partition, at(0), || 0);
    }
    // One allocation for both.
    let names: Vec<_> = session.followed.iter().flatten().map(|followed| &followed.topic).collect();
    let [.., TopicKey::Name(one), TopicKey::Name(other)] = names[..] else { panic!("{}", names.len()) };
    assert_eq!(one.as_ptr(), other.as_ptr());
    let with = session.memory_bytes();
    assert!((before + 10_000..before + 20_000).contains(&with), "{before}, {with}");
    for partition in 0..2 {
        session.forget(&name(&"x".repeat(10_000)), partition);
    }
    assert!(session.memory_bytes() <= with - 10_000);
}

/// What happens between a client and the broker's partitions.
#[derive(Clone, Debug)]
enum Event {
    Produce(i32, i64),
    DeleteRecords(i32),
    Fail(i32, bool),
    /// A fetch in which so many partitions may have records, after which the client goes on behind those of which the
    /// number says so, and asks again for the others.
    Fetch {
        limit: usize,
        consumed: u8,
    },
    Follow(i32, i64),
    Forget(i32),
}

const PARTITIONS: i32 = 5;

fn event() -> impl Strategy<Value = Event> {
    let partition = 0..PARTITIONS;
    prop_oneof![
        3 => (partition.clone(), 1..3_i64).prop_map(|(partition, records)| Event::Produce(partition, records)),
        1 => partition.clone().prop_map(Event::DeleteRecords),
        1 => (partition.clone(), any::<bool>()).prop_map(|(partition, failed)| Event::Fail(partition, failed)),
        5 => (0..4_usize, any::<u8>()).prop_map(|(limit, consumed)| Event::Fetch { limit, consumed }),
        1 => (partition.clone(), 0..6_i64).prop_map(|(partition, offset)| Event::Follow(partition, offset)),
        1 => partition.prop_map(Event::Forget),
    ]
}

/// A partition as the broker has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Log {
    start: i64,
    end: i64,
    failed: bool,
}

/// What an answer says of a partition, or what the client believes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum View {
    Failed,
    Is { start: i64, end: i64 },
}

impl Log {
    fn view(&self, offset: i64) -> View {
        let out_of_range = offset < self.start || offset > self.end;
        if self.failed || out_of_range { View::Failed } else { View::Is { start: self.start, end: self.end } }
    }

    fn has_records(&self, offset: i64) -> bool {
        self.view(offset) != View::Failed && offset < self.end
    }
}

/// The broker with one session, and the client with its own view of what it follows.
#[derive(Default)]
struct World {
    logs: BTreeMap<i32, Log>,
    /// The offset that the client asks for next, and what it knows.
    client: BTreeMap<i32, (i64, Option<View>)>,
    /// Since when a partition with records has got none, in fetches that gave records to others.
    passed_over: BTreeMap<i32, usize>,
}

impl World {
    fn log(&mut self, partition: i32) -> &mut Log {
        self.logs.entry(partition).or_default()
    }

    fn is_followed(&self, partition: i32) -> bool {
        self.client.contains_key(&partition)
    }

    /// One incremental fetch: the answer is applied to the client's view, which must then be what a full fetch would
    /// say, but for partitions that the limit kept out.
    fn fetch(&mut self, session: &mut Session<Option<Place>>, limit: usize, consumed: u8) -> Result<(), TestCaseError> {
        let mut left = limit;
        let mut looked: BTreeMap<i32, (View, bool)> = BTreeMap::new();
        let logs = &self.logs;
        let answer = session.answer(|followed| {
            let log = logs.get(&followed.partition).copied().unwrap_or_default();
            let offset = followed.asked.offset.0;
            let view = log.view(offset);
            let wanted = log.has_records(offset);
            let records = wanted && left > 0;
            left -= usize::from(records);
            looked.insert(followed.partition, (view, records));
            let (start, end) = match view {
                View::Is { start, end } => (start, end),
                View::Failed => (-1, -1),
            };
            Found {
                high_watermark: Offset(end),
                log_start: Offset(start),
                records,
                more: wanted && !records,
                failed: view == View::Failed,
            }
        });
        let mut named = BTreeMap::new();
        for place in &answer.named {
            let partition = session.get_mut(*place).expect("it is followed").partition;
            prop_assert!(named.insert(partition, looked[&partition]).is_none(), "named twice");
        }
        for (partition, (view, records)) in &named {
            let Some((offset, known)) = self.client.get_mut(partition) else {
                return Err(TestCaseError::fail("an answer names a partition that the client does not follow"));
            };
            *known = Some(*view);
            let end = logs.get(partition).copied().unwrap_or_default().end;
            if *records && consumed & (1 << partition) != 0 {
                *offset = end;
                session.update(&name("logs"), *partition, at(end), || None);
            }
        }
        // The reference: what a full fetch says now.
        for (partition, (_, known)) in &self.client {
            let log = logs.get(partition).copied().unwrap_or_default();
            let before = named.get(partition).is_some_and(|(_, records)| *records);
            let asked = all(session).find(|followed| followed.partition == *partition).map(|found| found.asked);
            let offset = asked.expect("the session follows what the client follows").offset.0;
            prop_assert_eq!(*known, Some(log.view(offset)), "partition {}", partition);
            let waits = log.has_records(offset);
            prop_assert!(before || !waits || left == 0, "records of {} were kept back", partition);
            // Who has records gets them before anybody gets some twice more.
            let passed_over = self.passed_over.entry(*partition).or_default();
            *passed_over = if waits && !before { *passed_over + limit } else { 0 };
            prop_assert!(*passed_over <= PARTITIONS as usize + limit, "{} is left out for ever", partition);
        }
        Ok(())
    }
}

proptest! {
    #[test]
    fn a_client_that_follows_the_answers_sees_what_a_full_fetch_would_say(events in vec(event(), 1..80)) {
        let mut world = World::default();
        let mut session: Session<Option<Place>> = Session::new();
        prop_assert!(session.keep());
        let mut woken = Vec::new();
        for event in events {
            match event {
                Event::Produce(partition, records) => {
                    world.log(partition).end += records;
                    woken.push(partition);
                }
                Event::DeleteRecords(partition) => {
                    let log = world.log(partition);
                    log.start = log.end;
                    woken.push(partition);
                }
                Event::Fail(partition, failed) => {
                    world.log(partition).failed = failed;
                    woken.push(partition);
                }
                Event::Follow(partition, offset) => {
                    world.client.entry(partition).or_insert((offset, None)).0 = offset;
                    session.update(&name("logs"), partition, at(offset), || None);
                }
                Event::Forget(partition) => {
                    let followed = world.client.remove(&partition).is_some();
                    world.passed_over.remove(&partition);
                    prop_assert_eq!(session.forget(&name("logs"), partition).is_some(), followed);
                }
                Event::Fetch { limit, consumed } => {
                    // News come as the watches bring them: by the place that the partition had when it was first seen.
                    let followed: Vec<i32> = all(&session).map(|followed| followed.partition).collect();
                    prop_assert!(followed.iter().all(|partition| world.is_followed(*partition)));
                    for place in session.places() {
                        let partition = session.get_mut(place).expect("it is there").partition;
                        if woken.contains(&partition) {
                            session.wake(place);
                        }
                    }
                    woken.clear();
                    world.fetch(&mut session, limit, consumed)?;
                }
            }
            prop_assert_eq!(session.len(), world.client.len());
        }
    }
}
