//! What a start marks after the machine was started again: copies that may miss what they acknowledged.

use millpond_record::{GroupId, RaftOnlyKind, Term, Timestamp};
use millpond_runtime::sim::{Crash, World, block_on};

use super::{NODE, Told, append, open, root, spec};
use crate::log::{AppendEntry, Body, Log};
use crate::meta::MetaProperties;
use crate::types::{FlushMode, GroupSpec, LogOptions, Taint};
use crate::{DataDir, RecoveryReport};

const RELAXED: u64 = 1;
const DURABLE: u64 = 2;

fn options(flush: FlushMode) -> LogOptions {
    LogOptions { flush, ..spec(1, "any").options }
}

fn spec_of(group: u64, flush: FlushMode) -> GroupSpec {
    GroupSpec { options: options(flush), ..spec(group, &format!("topic-{group}")) }
}

async fn create(world: &World, data_dir: &DataDir, group: u64, flush: FlushMode) -> std::sync::Arc<Log> {
    let told = Told::default();
    let log = data_dir.create_group(spec_of(group, flush), told.done()).unwrap();
    assert!(told.wait(world).await);
    put_membership(world, &log).await;
    log
}

/// The bytes are the Raft layer's, which this layer does not read.
async fn put_membership(world: &World, log: &Log) {
    let body = Body::RaftOnly { kind: RaftOnlyKind::Membership, payload: b"who".as_slice().into(), time: Timestamp(1) };
    let told = Told::default();
    log.append(vec![AppendEntry { index: log.next_index(), term: Term(0), body }], told.done()).unwrap();
    assert!(told.wait(world).await);
}

/// Both kinds of groups, brought to a checkpoint or known to the journal only.
async fn fill(world: &World, data_dir: &DataDir, checkpoint: bool) {
    create(world, data_dir, RELAXED, FlushMode::Relaxed).await;
    create(world, data_dir, DURABLE, FlushMode::Durable).await;
    if checkpoint {
        data_dir.checkpoint().unwrap();
    }
}

fn again(world: &World, kind: Crash) -> (DataDir, RecoveryReport) {
    world.crash(NODE, kind);
    open(&world.restart(NODE)).unwrap()
}

fn taints(data_dir: &DataDir) -> [Taint; 2] {
    [RELAXED, DURABLE].map(|group| {
        let row = data_dir.groups().into_iter().find(|row| row.group == GroupId(group)).unwrap();
        assert_eq!(row.taint, data_dir.taint(row.group), "the row says it, too");
        row.taint
    })
}

#[test]
fn a_power_cut_taints_relaxed_groups_and_nothing_else_does() {
    for (number, checkpoint) in [(1, false), (2, true)] {
        block_on(number, async {
            let world = World::new(number);
            let (data_dir, _) = open(&world.runtime_for(NODE)).unwrap();
            fill(&world, &data_dir, checkpoint).await;
            let (data_dir, report) = again(&world, Crash::Kill);
            assert_eq!((taints(&data_dir), report.groups_tainted), ([Taint::None; 2], 0), "the page cache is there");
            data_dir.close().unwrap();
            let (data_dir, _) = again(&world, Crash::PowerCut);
            assert_eq!(taints(&data_dir), [Taint::None; 2], "a clean stop has synced all");
            let (data_dir, report) = again(&world, Crash::PowerCut);
            assert_eq!((taints(&data_dir), report.groups_tainted), ([Taint::IfShared, Taint::None], 1));
            data_dir.close().unwrap();
            let (data_dir, report) = again(&world, Crash::Kill);
            assert!(report.clean && report.groups_tainted == 1);
            assert_eq!(taints(&data_dir), [Taint::IfShared, Taint::None], "a clean stop takes no mark away");
        });
    }
}

#[test]
fn a_mark_outlives_a_crash_at_any_operation_of_the_start_that_makes_it() {
    for checkpoint in [false, true] {
        for kind in [Crash::Kill, Crash::PowerCut] {
            let mut operation = 1;
            while crash_in_marking_start(operation, kind, checkpoint) {
                operation += 1;
            }
            assert!(operation > 5, "the start does something");
        }
    }
}

/// False when the start was through before the operation.
fn crash_in_marking_start(operation: u64, kind: Crash, checkpoint: bool) -> bool {
    block_on(operation, async {
        let world = World::new(operation);
        let (data_dir, _) = open(&world.runtime_for(NODE)).unwrap();
        fill(&world, &data_dir, checkpoint).await;
        world.crash(NODE, Crash::PowerCut);
        drop(data_dir);
        let runtime = world.restart(NODE);
        world.crash_at_disk_op(NODE, world.disk_op_count(NODE) + operation, kind);
        let started = open(&runtime);
        let died = !world.is_alive(NODE);
        drop(started);
        world.cancel_disk_crash(NODE);
        let (data_dir, _) = again(&world, Crash::Kill);
        assert_eq!(taints(&data_dir), [Taint::IfShared, Taint::None], "operation {operation}, {kind:?}, {checkpoint}");
        died
    })
}

#[test]
fn a_log_counts_as_relaxed_until_all_of_it_was_synced_since_it_was() {
    block_on(1, async {
        let world = World::new(1);
        let (data_dir, _) = open(&world.runtime_for(NODE)).unwrap();
        fill(&world, &data_dir, true).await;
        let log = |data_dir: &DataDir, group| data_dir.log(GroupId(group)).unwrap().unwrap();
        log(&data_dir, RELAXED).set_options(options(FlushMode::Durable)).unwrap();
        let (data_dir, _) = again(&world, Crash::PowerCut);
        assert_eq!(taints(&data_dir), [Taint::IfShared, Taint::None], "the table does not say yet that it is durable");
        data_dir.trust_group(GroupId(RELAXED)).unwrap();

        log(&data_dir, RELAXED).set_options(options(FlushMode::Durable)).unwrap();
        log(&data_dir, DURABLE).set_options(options(FlushMode::Relaxed)).unwrap();
        log(&data_dir, DURABLE).set_options(options(FlushMode::Durable)).unwrap();
        let told = Told::default();
        append(&log(&data_dir, DURABLE), 1, b"behind the settings", told.done()).unwrap();
        assert!(told.wait(&world).await);
        let (data_dir, _) = again(&world, Crash::PowerCut);
        assert_eq!(taints(&data_dir), [Taint::None; 2], "both have had their checkpoint since");
    });
}

#[test]
fn a_group_whose_members_changed_just_now_is_tainted_whatever_its_log_says_of_them() {
    block_on(1, async {
        let world = World::new(1);
        let (data_dir, _) = open(&world.runtime_for(NODE)).unwrap();
        let log = create(&world, &data_dir, RELAXED, FlushMode::Relaxed).await;
        put_membership(&world, &log).await;
        create(&world, &data_dir, DURABLE, FlushMode::Durable).await;
        let (data_dir, _) = again(&world, Crash::PowerCut);
        assert_eq!(taints(&data_dir), [Taint::Shared, Taint::None]);
        data_dir.not_shared(GroupId(RELAXED));
        assert_eq!(data_dir.taint(GroupId(RELAXED)), Taint::Shared);
    });
}

#[test]
fn trust_is_durable_when_it_is_given_and_that_a_group_is_alone_with_the_next_checkpoint() {
    block_on(1, async {
        let world = World::new(1);
        let (data_dir, _) = open(&world.runtime_for(NODE)).unwrap();
        fill(&world, &data_dir, false).await;
        let (data_dir, _) = again(&world, Crash::PowerCut);
        data_dir.not_shared(GroupId(RELAXED));
        assert_eq!(taints(&data_dir), [Taint::None; 2]);
        world.crash(NODE, Crash::Kill);
        let (data_dir, _) = again(&world, Crash::Kill);
        // Its checkpoint was on its way when the process died, or not.
        data_dir.trust_group(GroupId(RELAXED)).unwrap();
        let (data_dir, _) = again(&world, Crash::Kill);
        assert_eq!(taints(&data_dir), [Taint::None; 2]);
        assert!(data_dir.trust_group(GroupId(99)).is_err(), "there is no such group");
    });
}

#[test]
fn a_directory_of_a_version_that_did_not_know_the_machine_is_taken_for_one_of_another_boot() {
    for (clean, expected) in [(true, Taint::None), (false, Taint::IfShared)] {
        block_on(1, async {
            let world = World::new(1);
            let (data_dir, _) = open(&world.runtime_for(NODE)).unwrap();
            fill(&world, &data_dir, true).await;
            if clean {
                data_dir.close().unwrap();
            }
            world.crash(NODE, Crash::Kill);
            let runtime = world.restart(NODE);
            let meta = MetaProperties::read(&*runtime.disk(), root()).unwrap().unwrap();
            assert!(meta.machine_boot_id.is_some() && meta.clean_stop == clean);
            let before = MetaProperties { machine_boot_id: None, ..meta };
            assert!(!before.encode().contains("machine"));
            before.write(&*runtime.disk(), root()).unwrap();
            let (data_dir, _) = open(&runtime).unwrap();
            assert_eq!(taints(&data_dir), [expected, Taint::None]);
            assert!(data_dir.meta().machine_boot_id.is_some());
        });
    }
}
