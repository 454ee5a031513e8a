//! A crash at every single disk operation of a short story, and a start after each.

use std::time::Duration;

use millpond_record::GroupId;
use millpond_runtime::sim::{Crash, World, block_on};

use super::{NODE, Told, append, assert_undamaged, entries, open, spec, vote};
use crate::{DataDir, StorageError};

/// What was reported when the node died.
#[derive(Default)]
struct Reported {
    created: Told,
    deleted: Told,
    deletion_asked: bool,
    created_again: Told,
    appended: Vec<Told>,
    appended_again: Vec<Told>,
    closed: bool,
}

/// Two logs, of which the first is deleted and made again under the same name; a checkpoint in between; a clean stop.
async fn story(world: &World, data_dir: &DataDir, reported: &mut Reported) -> Result<(), StorageError> {
    let log = data_dir.create_group(spec(1, "events"), reported.created.done())?;
    fill(world, &log, &mut reported.appended, 1).await?;
    data_dir.checkpoint()?;
    fill(world, &log, &mut reported.appended, 1).await?;
    reported.deletion_asked = true;
    data_dir.delete_group(GroupId(1), reported.deleted.done())?;
    let log = data_dir.create_group(spec(2, "events"), reported.created_again.done())?;
    fill(world, &log, &mut reported.appended_again, 1).await?;
    data_dir.checkpoint()?;
    fill(world, &log, &mut reported.appended_again, 1).await?;
    data_dir.close()?;
    reported.closed = true;
    Ok(())
}

async fn fill(world: &World, log: &crate::Log, reported: &mut Vec<Told>, term: u64) -> Result<(), StorageError> {
    let voted = Told::default();
    vote(log, term, voted.done());
    if !voted.wait(world).await {
        return Err(StorageError::LogClosed(log.group()));
    }
    for _ in 0..12 {
        let told = Told::default();
        let number = reported.len() as u8;
        reported.push(told.clone());
        append(log, term, &vec![number; 3000], told.done())?;
    }
    if !reported.last().expect("just appended").wait(world).await {
        return Err(StorageError::LogClosed(log.group()));
    }
    Ok(())
}

/// The entries of a group, if it is there, are the first of those that were appended, with all that were reported.
fn check(data_dir: &DataDir, group: u64, appended: &[Told], context: &str) -> bool {
    let Some(log) = data_dir.log(GroupId(group)).unwrap_or_else(|error| panic!("{context}: {error}")) else {
        return false;
    };
    let found = entries(&log).unwrap_or_else(|error| panic!("{context}: {error}"));
    let reported = appended.iter().rposition(Told::is_durable).map_or(0, |last| last + 1);
    assert!(found.len() >= reported, "{context}: group {group} has {} of {reported} entries", found.len());
    assert!(found.len() <= appended.len(), "{context}");
    for (number, (index, _, bytes)) in found.iter().enumerate() {
        assert_eq!((*index as usize, bytes), (number, &bytes::Bytes::from(vec![number as u8; 3000])), "{context}");
    }
    true
}

fn run(operation: u64, kind: Crash) -> bool {
    block_on(operation, async {
        let world = World::new(operation);
        let runtime = world.runtime_for(NODE);
        world.crash_at_disk_op(NODE, operation, kind);
        let mut reported = Reported::default();
        if let Ok((data_dir, _)) = open(&runtime) {
            // An error is the crash; what matters is what was reported before.
            let _ = story(&world, &data_dir, &mut reported).await;
        }
        let finished = world.is_alive(NODE);
        world.cancel_disk_crash(NODE);
        let mut deleted = reported.deleted.is_durable();
        // The second start has to bear what the first one did, whose crash comes early.
        for start in 0..3 {
            world.crash(NODE, Crash::PowerCut);
            let runtime = world.restart(NODE);
            if start == 1 {
                world.crash_at_disk_op(NODE, world.disk_op_count(NODE) + 1 + operation % 23, kind);
                if let Ok((data_dir, _)) = open(&runtime) {
                    runtime.sleep(Duration::from_millis(operation % 40)).await;
                    drop(data_dir);
                }
                world.cancel_disk_crash(NODE);
                continue;
            }
            let context = format!("crash {kind:?} at operation {operation}, start {start}");
            assert_undamaged(&runtime, &context);
            let (data_dir, report) = open(&runtime).unwrap_or_else(|error| panic!("{context}: {error}"));
            assert!(start > 0 || report.clean || !reported.closed || report.journal_records == 0, "{context}");
            let first = check(&data_dir, 1, &reported.appended, &context);
            let second = check(&data_dir, 2, &reported.appended_again, &context);
            assert!(!(deleted && first), "{context}: a deleted group came back");
            assert!(first || reported.deletion_asked || !reported.created.is_durable(), "{context}: group 1 is lost");
            assert!(second || !reported.created_again.is_durable(), "{context}: a created group is lost");
            assert!(!(first && second), "{context}: two groups have one folder");
            deleted |= reported.created.is_durable() && !first;
            runtime.sleep(Duration::from_secs(1)).await;
            if start == 2 {
                data_dir.close().unwrap_or_else(|error| panic!("{context}: {error}"));
            }
        }
        finished
    })
}

#[test]
fn a_crash_at_any_disk_operation_loses_nothing_that_was_reported() {
    for kind in [Crash::PowerCut, Crash::Kill] {
        let mut operation = 1;
        while !run(operation, kind) {
            operation += 1;
        }
        // The story is long enough to be worth it.
        assert!(operation > 100, "{operation}");
    }
}
