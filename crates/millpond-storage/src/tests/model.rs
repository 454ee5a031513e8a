//! Random histories of a data directory against a model that is a list per group.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millpond_record::{GroupId, RaftIndex};
use millpond_runtime::Runtime;
use millpond_runtime::sim::{Crash, World, block_on};
use proptest::prelude::*;

use super::{NODE, Told, append, assert_undamaged, entries, open, spec, vote};
use crate::{DataDir, Log};

#[derive(Clone, Debug)]
enum Step {
    Create(u8),
    Delete(u8),
    Append {
        which: u8,
        count: u8,
        bytes: u16,
    },
    /// A new term cuts the last entries off and appends one of its own.
    Overwrite {
        which: u8,
        cut: u8,
    },
    Checkpoint,
    Wait(u8),
    /// The node dies at a disk operation some way ahead, or now.
    CrashLater {
        operations: u8,
        power: bool,
    },
    CrashNow {
        power: bool,
    },
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0..6_u8).prop_map(Step::Create),
        1 => (0..6_u8).prop_map(Step::Delete),
        8 => (0..6_u8, 1..20_u8, 0..6000_u16).prop_map(|(which, count, bytes)| Step::Append { which, count, bytes }),
        2 => (0..6_u8, 1..10_u8).prop_map(|(which, cut)| Step::Overwrite { which, cut }),
        1 => Just(Step::Checkpoint),
        2 => (1..50_u8).prop_map(Step::Wait),
        2 => (0..60_u8, any::<bool>()).prop_map(|(operations, power)| Step::CrashLater { operations, power }),
        1 => any::<bool>().prop_map(|power| Step::CrashNow { power }),
        1 => Just(Step::Restart),
    ]
}

type Content = Vec<(u64, u64, Bytes)>;

/// What may be found of a group after a crash: its content after some change, not before the last that was reported.
#[derive(Default)]
struct Group {
    created: Told,
    deleted: Option<Told>,
    /// Terms voted in, and whether that was reported.
    votes: Vec<(u64, Told)>,
    /// What the last start found.
    found: Content,
    /// The contents after each change since, and whether the change was reported.
    history: Vec<(Content, Told)>,
}

impl Group {
    fn content(&self) -> &Content {
        self.history.last().map_or(&self.found, |(content, _)| content)
    }

    fn term(&self) -> u64 {
        self.votes.last().map_or(0, |(term, _)| *term)
    }

    /// Holds what a start found against what it may find, and goes on from there.
    fn check(&mut self, content: Content, term: u64, context: &str) {
        let reported = self.history.iter().rposition(|(_, told)| told.is_durable());
        let mut allowed = match reported {
            Some(last) => &self.history[last..],
            None => &self.history[..],
        }
        .iter();
        let fits = (reported.is_none() && self.found == content) || allowed.any(|(allowed, _)| *allowed == content);
        assert!(fits, "{context}: found {} entries, expected {}", content.len(), self.content().len());
        let voted = self.votes.iter().rfind(|(_, told)| told.is_durable()).map_or(0, |(term, _)| *term);
        assert!(term >= voted, "{context}: the vote of term {voted} is forgotten for {term}");
        // A vote that was not reported may be gone; nothing was appended in its term.
        self.votes = vec![(term, Told::durable())];
        self.created = Told::durable();
        self.deleted = None;
        self.found = content;
        self.history.clear();
    }
}

struct Test {
    world: World,
    runtime: Runtime,
    data_dir: Option<DataDir>,
    groups: BTreeMap<u64, Group>,
    next_group: u64,
    payloads: u64,
}

impl Test {
    /// The group that has one of the six folders now.
    fn group_in(&self, folder: u8) -> Option<u64> {
        let living = |(number, group): (&u64, &Group)| {
            (number % 6 == u64::from(folder) && group.deleted.is_none()).then_some(*number)
        };
        self.groups.iter().rev().find_map(living)
    }

    fn log(&self, folder: u8) -> Option<(u64, Arc<Log>)> {
        let number = self.group_in(folder)?;
        // An error is the crash of the node.
        let log = self.data_dir.as_ref()?.log(GroupId(number)).ok()?;
        Some((number, log.expect("the model has the group")))
    }

    async fn step(&mut self, step: &Step) {
        let Some(data_dir) = self.data_dir.clone() else { return };
        match *step {
            Step::Create(folder) => {
                if self.group_in(folder).is_some() {
                    return;
                }
                while self.next_group % 6 != u64::from(folder) {
                    self.next_group += 1;
                }
                let (number, group) = (self.next_group, Group::default());
                let made = data_dir.create_group(spec(number, &format!("topic{folder}")), group.created.done());
                self.next_group += 1;
                if let Ok(log) = made {
                    self.groups.insert(number, group);
                    self.new_term(number, &log).await;
                }
            }
            Step::Delete(folder) => {
                let Some(number) = self.group_in(folder) else { return };
                let told = Told::default();
                let _ = data_dir.delete_group(GroupId(number), told.done());
                self.groups.get_mut(&number).expect("it is there").deleted = Some(told);
            }
            Step::Append { which, count, bytes } => {
                let Some((number, log)) = self.log(which) else { return };
                for _ in 0..count {
                    self.append(number, &log, usize::from(bytes));
                }
            }
            Step::Overwrite { which, cut } => {
                let Some((number, log)) = self.log(which) else { return };
                if !self.new_term(number, &log).await {
                    return;
                }
                let group = self.groups.get_mut(&number).expect("it is there");
                let mut content = group.content().clone();
                content.truncate(content.len().saturating_sub(usize::from(cut)));
                if log.truncate_after(content.last().map(|entry| RaftIndex(entry.0))).is_ok() {
                    // A truncation reports nothing by itself.
                    group.history.push((content, Told::default()));
                    self.append(number, &log, 100);
                }
            }
            Step::Checkpoint => drop(data_dir.checkpoint()),
            Step::Wait(milliseconds) => self.runtime.sleep(Duration::from_millis(milliseconds.into())).await,
            Step::CrashLater { operations, power } => {
                let at = self.world.disk_op_count(NODE) + 1 + u64::from(operations);
                self.world.crash_at_disk_op(NODE, at, if power { Crash::PowerCut } else { Crash::Kill });
            }
            Step::CrashNow { power } => self.world.crash(NODE, if power { Crash::PowerCut } else { Crash::Kill }),
            Step::Restart => {
                if data_dir.close().is_ok() {
                    self.data_dir = None;
                    self.start();
                }
            }
        }
    }

    async fn new_term(&mut self, number: u64, log: &Log) -> bool {
        let group = self.groups.get_mut(&number).expect("it is there");
        let (term, told) = (group.term() + 1, Told::default());
        group.votes.push((term, told.clone()));
        vote(log, term, told.done());
        told.wait(&self.world).await
    }

    fn append(&mut self, number: u64, log: &Log, bytes: usize) {
        self.payloads += 1;
        let mut payload = self.payloads.to_le_bytes().to_vec();
        payload.resize(8 + bytes, number as u8);
        let group = self.groups.get_mut(&number).expect("it is there");
        let (index, told) = (log.next_index().0, Told::default());
        if append(log, group.term(), &payload, told.done()).is_ok() {
            let mut content = group.content().clone();
            content.push((index, group.term(), payload.into()));
            group.history.push((content, told));
        }
    }

    /// Opens the directory, again if it dies meanwhile, and holds what is found against the model.
    fn start(&mut self) {
        let (data_dir, report) = loop {
            assert_undamaged(&self.runtime, "after a crash or a stop");
            match open(&self.runtime) {
                Ok(opened) => break opened,
                Err(error) => assert!(!self.world.is_alive(NODE), "the start is refused: {error}"),
            }
            self.revive();
        };
        assert!(report.strays.is_empty(), "a crash leaves folders without data or of known groups: {report:?}");
        let found: Vec<u64> = data_dir.groups().iter().map(|row| row.group.0).collect();
        self.groups.retain(|number, group| {
            if found.contains(number) {
                let deleted = group.deleted.as_ref().is_some_and(Told::is_durable);
                assert!(!deleted, "group {number} came back");
                return true;
            }
            assert!(!group.created.is_durable() || group.deleted.is_some(), "group {number} is lost");
            false
        });
        for number in found {
            let opened = data_dir.log(GroupId(number)).and_then(|log| {
                let log = log.expect("it was just listed");
                Ok((entries(&log)?, log.vote().term.0))
            });
            match opened {
                Ok((content, term)) => {
                    let group = self.groups.entry(number).or_default();
                    group.check(content, term, &format!("group {number}"));
                }
                Err(error) => assert!(!self.world.is_alive(NODE), "group {number}: {error}"),
            }
        }
        self.data_dir = Some(data_dir);
    }

    /// The next life of the node, in which nothing is ordered to fail.
    fn revive(&mut self) {
        self.data_dir = None;
        self.world.cancel_disk_crash(NODE);
        self.runtime = self.world.restart(NODE);
    }
}

fn run(seed: u64, steps: &[Step]) {
    block_on(seed, async {
        let world = World::new(seed);
        let runtime = world.runtime_for(NODE);
        let (groups, data_dir) = (BTreeMap::new(), None);
        let mut test = Test { world, runtime, data_dir, groups, next_group: 1, payloads: 0 };
        test.start();
        for step in steps {
            test.step(step).await;
            while !test.world.is_alive(NODE) {
                test.revive();
                test.start();
            }
        }
        // A clean stop keeps everything, reported or not.
        test.world.cancel_disk_crash(NODE);
        test.data_dir.take().expect("the node lives").close().expect("the disk works");
        let expected: BTreeMap<u64, Content> = test
            .groups
            .iter()
            .filter(|(_, group)| group.deleted.is_none())
            .map(|(number, group)| (*number, group.content().clone()))
            .collect();
        test.start();
        let found: BTreeMap<u64, Content> =
            test.groups.iter().map(|(number, group)| (*number, group.found.clone())).collect();
        assert_eq!(found, expected);
    });
}

/// The last segment that stays is opened again by the cut, and closed again by what follows.
#[test]
fn crashes_while_the_end_is_cut_between_two_segments_leave_nothing_that_looks_damaged() {
    use Step::{Append, Checkpoint, CrashLater, CrashNow, Create, Overwrite, Restart, Wait};
    let which = 5;
    let appended = Append { which, count: 14, bytes: 3264 };
    for operations in 15..27 {
        for seed in 0..16 {
            let cut = [Overwrite { which, cut: 9 }, CrashLater { operations, power: false }];
            let steps = [&[Create(which), appended.clone(), Restart, Checkpoint][..], &cut, &[Checkpoint, Wait(8)]];
            run(seed, &[steps.concat(), vec![Checkpoint, CrashNow { power: true }]].concat());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_data_directory_keeps_what_it_reported_through_any_history(
        seed in 0..u64::from(u32::MAX),
        steps in proptest::collection::vec(step(), 1..40),
    ) {
        run(seed, &steps);
    }
}
