//! Which votes are on disk when the engine goes on, and which need not be.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use millpond_record::{GroupId, LogId, RaftIndex, Term};
use millpond_runtime::Runtime;
use millpond_runtime::sim::{DiskFaults, World};
use millpond_storage::{DataDir, GroupSpec};
use openraft::RaftLogReader;
use openraft::entry::RaftEntry;
use openraft::impls::leader_id_std::LeaderId;
use openraft::storage::{IOFlushed, RaftLogStorage};

use super::world::{BROKER, Machine, NODE, open, proposal, relaxed, spec, stores, with_crashes};
use crate::log_store::{FLUSH_PATIENCE, LogStore};
use crate::types::{Entry, Member, Membership, Payload, RaftLogId, RaftVote, to_raft};

/// What a sync of the test's disk takes at most.
const SYNC: Duration = Duration::from_secs(1);
const OTHER: u64 = 9;

/// The replica's own id.
fn here() -> u64 {
    spec(1).replica.0
}

fn vote(term: u64, voted_for: u64, committed: bool) -> RaftVote {
    RaftVote { leader_id: LeaderId { term, voted_for }, committed }
}

fn slow(longest: Duration) -> DiskFaults {
    DiskFaults { slow_sync: 1.0, slow_sync_ms: longest.as_millis() as u64, ..DiskFaults::default() }
}

async fn store(runtime: &Runtime) -> (DataDir, LogStore) {
    store_of(runtime, spec(1)).await
}

async fn store_of(runtime: &Runtime, spec: GroupSpec) -> (DataDir, LogStore) {
    let data_dir = open(runtime, Path::new("/data")).await;
    let log = match data_dir.log(GroupId(1)).expect("readable") {
        Some(log) => log,
        None => {
            let creating = data_dir.clone();
            let created = runtime.blocking(move || creating.create_group(spec, Box::new(|_| {}))).await;
            created.expect("a new group")
        }
    };
    let (store, _) = stores(runtime, &data_dir, &log);
    (data_dir, store)
}

/// What the engine has the store do.
#[derive(Clone)]
enum Step {
    Vote(RaftVote),
    /// Appends the log's first entry, and waits for nothing.
    Append,
}

/// Saves votes one after the other on a slow disk, then cuts the power. Gives of each whether it was waited for, and
/// the term that is known afterwards.
fn saved(votes: &[RaftVote]) -> (Vec<bool>, u64) {
    done(votes.iter().map(|vote| Step::Vote(*vote)).collect())
}

fn done(steps: Vec<Step>) -> (Vec<bool>, u64) {
    let (waited, term) = (Arc::new(std::sync::Mutex::new(Vec::new())), Arc::new(std::sync::Mutex::new(0)));
    let (seen, read) = (Arc::clone(&waited), Arc::clone(&term));
    with_crashes(1, |machine: Machine| async move {
        machine
            .live(|runtime| async move {
                let (data_dir, mut store) = store(&runtime).await;
                store.save_vote(&vote(1, OTHER, false)).await.expect("saved");
                super::world::close(&runtime, data_dir).await;
            })
            .await;
        let world = machine.world.clone();
        machine
            .live(move |runtime| async move {
                let (_data_dir, mut store) = store(&runtime).await;
                world.set_disk_faults(NODE, slow(SYNC));
                for step in steps {
                    let before = runtime.now();
                    match step {
                        Step::Vote(vote) => {
                            store.save_vote(&vote).await.expect("saved");
                            seen.lock().expect("unpoisoned").push(runtime.now() > before);
                            assert_eq!(store.read_vote().await.expect("read"), Some(vote), "what it goes on with");
                        }
                        Step::Append => {
                            let first = LogId { term: Term(1), index: RaftIndex(0) };
                            let entry = Entry::new_blank(to_raft(first));
                            store.append([entry], IOFlushed::noop()).await.expect("appended");
                        }
                    }
                }
            })
            .await;
        machine.world.set_disk_faults(NODE, DiskFaults::default());
        machine.cut_power();
        let known = machine.live(|runtime| async move { store(&runtime).await.1.read_vote().await.expect("read") });
        *read.lock().expect("unpoisoned") = known.await.expect("there was one").leader_id.term;
    });
    let waited = waited.lock().expect("unpoisoned").clone();
    (waited, *term.lock().expect("unpoisoned"))
}

#[test]
fn a_vote_for_another_is_durable_at_once_and_so_is_a_term_that_another_has_won_without_it() {
    assert_eq!(saved(&[vote(2, OTHER, false)]), (vec![true], 2));
    assert_eq!(saved(&[vote(2, OTHER, true)]), (vec![true], 2));
    let another_won = [vote(2, here(), false), vote(2, OTHER, true)];
    assert_eq!(saved(&another_won), (vec![false, true], 2));
}

#[test]
fn an_own_vote_is_durable_when_it_has_won_and_not_before() {
    assert_eq!(saved(&[vote(2, here(), false)]), (vec![false], 1), "nobody has used it");
    assert_eq!(saved(&[vote(2, here(), false), vote(2, here(), true)]), (vec![false, true], 2));
    let stood_twice = [vote(2, here(), false), vote(3, here(), false), vote(3, here(), true)];
    assert_eq!(saved(&stood_twice), (vec![false, true, false], 3), "of two nobody but others might know one");
}

#[test]
fn that_a_vote_has_won_is_not_waited_for() {
    assert_eq!(saved(&[vote(2, OTHER, false), vote(2, OTHER, true)]), (vec![true, false], 2));
}

#[test]
fn an_own_vote_waits_for_the_entries_before_it() {
    // In the engine what is flushed is one mark, and a vote is above the entries of earlier terms: without this wait
    // their leader would be told that they are there.
    let steps = vec![Step::Append, Step::Vote(vote(2, here(), false)), Step::Vote(vote(2, here(), true))];
    assert_eq!(done(steps), (vec![true, false], 2));
}

fn id(index: u64) -> RaftLogId {
    to_raft(LogId { term: Term(1), index: RaftIndex(index) })
}

async fn append_data(store: &mut LogStore, index: u64) {
    let data = Entry::new_normal(id(index), Payload::Proposed(proposal("not in the journal"), None));
    store.append([data], IOFlushed::noop()).await.expect("appended");
}

async fn append_members(store: &mut LogStore, index: u64) {
    let nodes = BTreeMap::from([(here(), Member { broker: BROKER, assignment_version: 1 })]);
    let members = Membership::new(vec![[here()].into()], nodes).expect("every voter is a node");
    store.append([Entry::new_membership(id(index), members)], IOFlushed::noop()).await.expect("appended");
}

/// Appends to a relaxed log on a slow disk what is not flushed for a while: a membership counts when the data before it
/// is synced, the second one with the next checkpoint.
async fn append_unflushed(world: &World, runtime: &Runtime, store: &mut LogStore, first: u64) {
    world.set_disk_faults(NODE, slow(FLUSH_PATIENCE / 5));
    for index in [first, first + 2] {
        append_data(store, index).await;
        append_members(store, index + 1).await;
        runtime.sleep(Duration::from_millis(1)).await;
    }
    assert!(!store.has_told_all());
}

#[test]
fn a_vote_waits_for_entries_of_a_relaxed_log_which_are_not_in_the_journal() {
    for (seed, voted_for) in (0..20).flat_map(|seed| [(seed, OTHER), (seed, here())]) {
        with_crashes(seed, |machine: Machine| async move {
            let world = machine.world.clone();
            let life = machine.live(move |runtime| async move {
                let (_data_dir, mut store) = store_of(&runtime, relaxed(1)).await;
                append_unflushed(&world, &runtime, &mut store, 0).await;
                store.save_vote(&vote(2, voted_for, false)).await.expect("saved");
                assert!(store.has_told_all(), "the vote's mark is one for all that is below it");
            });
            life.await;
        });
    }
}

#[test]
fn a_vote_on_a_full_disk_goes_on_after_a_while() {
    with_crashes(1, |machine: Machine| async move {
        let world = machine.world.clone();
        let life = machine.live(move |runtime| async move {
            let (data_dir, mut store) = store_of(&runtime, relaxed(1)).await;
            let full = DiskFaults { capacity_bytes: 0, full_in: "topic", ..DiskFaults::default() };
            world.set_disk_faults(NODE, full);
            append_data(&mut store, 0).await;
            let before = runtime.now();
            store.save_vote(&vote(2, OTHER, false)).await.expect("saved");
            assert!(runtime.now() - before >= FLUSH_PATIENCE && !store.has_told_all());
            let before = runtime.now();
            store.save_vote(&vote(3, OTHER, false)).await.expect("saved");
            assert!(runtime.now() - before < FLUSH_PATIENCE / 3, "it has run out of patience once");
            world.set_disk_faults(NODE, DiskFaults::default());
            data_dir.retry_writes();
            while !store.has_told_all() {
                runtime.sleep(Duration::from_millis(10)).await;
            }
            append_unflushed(&world, &runtime, &mut store, 1).await;
            store.save_vote(&vote(4, OTHER, false)).await.expect("saved");
            assert!(store.has_told_all(), "and it waits again");
        });
        life.await;
    });
}
