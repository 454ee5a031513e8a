//! Filling a log from another replica: what is shipped, what is refused, and a crash at every disk operation.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use millpond_record::{GroupId, Offset, RaftIndex, Term};
use millpond_runtime::sim::{Crash, NodeId, World, block_on};
use proptest::prelude::*;

use super::*;
use crate::log::switch::PART;
use crate::log::tests::{idempotent, proposal};
use crate::{Installation, Manifest, SegmentPart, Shipment};

/// Where the log is that others are filled from.
pub(super) const SOURCE: NodeId = NodeId(2);
pub(super) const PIECE_BYTES: usize = 1_500;

/// The entry that every replica has at an index, if no other leader put another one there.
pub(super) fn body(index: u64) -> Body {
    if index % 4 == 3 {
        return Body::Proposed(proposal(idempotent(9, 0, (index / 4 * 2) as i32, 2)));
    }
    let payload = Bytes::from(vec![index as u8; 3_000]);
    Body::RaftOnly { kind: RaftOnlyKind::Blank, payload, time: Timestamp(1_000) }
}

pub(super) fn put(log: &Log, term: u64, body: Body, done: Done) -> Result<(), StorageError> {
    log.append(vec![AppendEntry { index: log.next_index(), term: Term(term), body }], done).map(drop)
}

/// The terms of the source's entries.
fn term_of(index: u64) -> u64 {
    if index < 20 { 1 } else { 3 }
}

/// A log with `count` entries, all committed, and P at the end of the last closed segment.
pub(super) fn source(world: &World, count: u64) -> (DataDir, Arc<Log>) {
    let (data_dir, _) = open(&world.runtime_for(SOURCE)).unwrap();
    let log = data_dir.create_group(spec(1, "events"), Box::new(|_| {})).unwrap();
    vote(&log, 3, Box::new(|_| {}));
    for index in 0..count {
        put(&log, term_of(index), body(index), Box::new(|_| {})).unwrap();
    }
    log.commit(RaftIndex(u64::MAX));
    let boundary = log.boundary_at_or_below(RaftIndex(u64::MAX)).unwrap();
    log.advance_p(boundary, Bytes::from_static(b"three of us"), Box::new(|_| {})).unwrap();
    (data_dir, log)
}

pub(super) fn begin(log: &Log, manifest: &Manifest) -> Result<Installation, StorageError> {
    log.begin_install(Manifest::decode(&manifest.encode()).unwrap())
}

/// Ships what is wanted, up to so many pieces.
pub(super) fn ship(
    shipment: &Shipment,
    installation: &mut Installation,
    mut pieces: usize,
) -> Result<(), StorageError> {
    while let Some(wanted) = installation.wanted().first().copied()
        && pieces > 0
    {
        let length = ((wanted.to - wanted.from) as usize).min(PIECE_BYTES);
        let piece = shipment.read(wanted.segment, wanted.part, wanted.from, length)?;
        installation.write(wanted.segment, wanted.part, wanted.from, &piece)?;
        pieces -= 1;
    }
    Ok(())
}

async fn install(world: &World, shipment: &Shipment, mut installation: Installation) -> Result<(), StorageError> {
    ship(shipment, &mut installation, usize::MAX)?;
    let told = Told::default();
    installation.submit(told.done())?;
    if !told.wait(world).await {
        return Err(StorageError::LogClosed(GroupId(1)));
    }
    installation.switch()
}

/// Every entry that a log has: index, term, bytes.
pub(super) fn all(log: &Log) -> Vec<(u64, u64, Bytes)> {
    let found = crate::log::tests::entries_from(log, log.first_index());
    found.into_iter().map(|(id, batch)| (id.index.0, id.term.0, batch.to_bytes())).collect()
}

fn up_to(entries: Vec<(u64, u64, Bytes)>, from: u64, last: u64) -> Vec<(u64, u64, Bytes)> {
    entries.into_iter().filter(|(index, _, _)| (from..=last).contains(index)).collect()
}

pub(super) fn parts(world: &World) -> Vec<PathBuf> {
    let entries = world.runtime_for(NODE).disk().read_dir(&root().join("events-0")).unwrap_or_default();
    let names = entries.into_iter().map(|entry| PathBuf::from(entry.name));
    names.filter(|name| name.extension().is_some_and(|found| found == PART)).collect()
}

/// The log is the source's up to P, and goes on behind it.
pub(super) fn assert_installed(log: &Log, source: &Log, manifest: &Manifest, context: &str) {
    let p = manifest.position;
    assert_eq!(log.purged(), Some(p), "{context}");
    assert_eq!(log.membership_at_p(), manifest.membership, "{context}");
    let first = manifest.segments.first().map_or(p.index.0 + 1, |first| first.first_index.0);
    let (own, theirs) = (up_to(all(log), first, p.index.0), up_to(all(source), first, p.index.0));
    assert_eq!(own.len() as u64, p.index.0 + 1 - first, "{context}");
    assert!(own == theirs, "{context}: the entries differ");
    assert!(log.frontiers().log_start >= manifest.log_start, "{context}");
}

#[test]
fn an_empty_log_is_filled_and_goes_on_behind_p_also_after_a_restart() {
    block_on(1, async {
        let world = World::new(1);
        let (_source_dir, theirs) = source(&world, 60);
        let (manifest, shipment) = theirs.manifest().unwrap().unwrap();
        assert!(manifest.segments.len() > 3 && manifest.bytes() > 40_000);
        let (data_dir, _) = open(&world.runtime_for(NODE)).unwrap();
        let log = data_dir.create_group(spec(1, "events"), Box::new(|_| {})).unwrap();
        let early = install(&world, &shipment, begin(&log, &manifest).unwrap()).await;
        assert!(early.is_err(), "a vote of the term of P comes first");
        assert!(all(&log).is_empty());
        vote(&log, 3, Box::new(|_| {}));
        install(&world, &shipment, begin(&log, &manifest).unwrap()).await.unwrap();
        assert_installed(&log, &theirs, &manifest, "installed");
        let frontiers = log.frontiers();
        assert_eq!((frontiers.high_watermark, frontiers.log_end), (manifest.position.offset, manifest.position.offset));
        assert!(parts(&world).is_empty());
        assert!(begin(&log, &manifest).is_err(), "it has all that already");

        // What comes behind P comes from the leader's log, as it is.
        let next = manifest.position.index.0 + 1;
        for (id, batch) in crate::log::tests::entries_from(&theirs, RaftIndex(next)) {
            let body = Body::Stored(batch.into());
            log.append(vec![AppendEntry { index: id.index, term: id.term, body }], Box::new(|_| {})).unwrap();
        }
        assert!(all(&log) == all(&theirs));
        log.commit(RaftIndex(u64::MAX));
        assert_eq!(log.producers(), theirs.producers());
        assert_eq!(log.row().epochs, theirs.row().epochs);
        data_dir.close().unwrap();
        drop((log, data_dir));
        let runtime = world.restart(NODE);
        assert_undamaged(&runtime, "after a clean stop");
        let (data_dir, _) = open(&runtime).unwrap();
        let log = data_dir.log(GroupId(1)).unwrap().unwrap();
        log.commit(RaftIndex(u64::MAX));
        assert!(all(&log) == all(&theirs));
        assert_eq!(log.producers(), theirs.producers());
    });
}

#[test]
fn segments_that_a_log_has_already_are_not_shipped_and_what_conflicts_goes() {
    block_on(2, async {
        let world = World::new(2);
        let (_source_dir, theirs) = source(&world, 60);
        let (manifest, shipment) = theirs.manifest().unwrap().unwrap();
        let (data_dir, _) = open(&world.runtime_for(NODE)).unwrap();
        let log = data_dir.create_group(spec(1, "events"), Box::new(|_| {})).unwrap();
        vote(&log, 3, Box::new(|_| {}));
        for index in 0..30 {
            // A leader of term 2 was never heard of by the others.
            let (term, body) = if index < 18 { (1, body(index)) } else { (2, body(index + 4)) };
            put(&log, term, body, Box::new(|_| {})).unwrap();
        }
        log.commit(RaftIndex(17));
        let installation = begin(&log, &manifest).unwrap();
        let wanted: Vec<usize> = installation.wanted().iter().map(|wanted| wanted.segment).collect();
        let whole = manifest.segments.iter().filter(|segment| segment.next_index.0 <= 18).count();
        assert!(whole > 1 && wanted.iter().all(|segment| *segment >= whole), "{wanted:?}");
        assert_eq!(wanted.first(), Some(&whole));
        install(&world, &shipment, installation).await.unwrap();
        assert_installed(&log, &theirs, &manifest, "installed");
        assert_eq!(log.next_index().0, manifest.position.index.0 + 1);
        world.crash(NODE, Crash::PowerCut);
        let runtime = world.restart(NODE);
        assert_undamaged(&runtime, "after a power cut");
        let (data_dir, report) = open(&runtime).unwrap();
        assert!(report.damaged.is_empty());
        let log = data_dir.log(GroupId(1)).unwrap().unwrap();
        assert_installed(&log, &theirs, &manifest, "after a power cut");
    });
}

#[test]
fn segments_that_raft_may_truncate_before_the_switch_are_not_counted_as_there() {
    for committed in [None, Some(8), Some(17)] {
        block_on(10, async {
            let world = World::new(10);
            let (_source_dir, theirs) = source(&world, 60);
            let (manifest, shipment) = theirs.manifest().unwrap().unwrap();
            let (data_dir, _) = open(&world.runtime_for(NODE)).unwrap();
            let log = data_dir.create_group(spec(1, "events"), Box::new(|_| {})).unwrap();
            vote(&log, 3, Box::new(|_| {}));
            // A former leader, whose tail is longer than P.
            for index in 0..80 {
                let (term, body) = if index < 18 { (1, body(index)) } else { (2, body(index + 4)) };
                put(&log, term, body, Box::new(|_| {})).unwrap();
            }
            if let Some(index) = committed {
                log.commit(RaftIndex(index));
            }
            let mut installation = begin(&log, &manifest).unwrap();
            let there = manifest.segments.len() - installation.wanted().iter().filter(|w| w.from == 0).count() / 2;
            let sure = committed.map_or(0, |index| index + 1);
            assert_eq!(there, manifest.segments.iter().filter(|segment| segment.next_index.0 <= sure).count());
            ship(&shipment, &mut installation, usize::MAX).unwrap();
            // What openraft does when the log has another entry where P is.
            log.truncate_after(committed.map(RaftIndex)).unwrap();
            let told = Told::default();
            let submitted = loop {
                match installation.submit(told.done()) {
                    Err(StorageError::TruncationPending(_)) => {
                        world.runtime_for(NODE).sleep(Duration::from_millis(1)).await;
                    }
                    submitted => break submitted,
                }
            };
            submitted.unwrap();
            assert!(told.wait(&world).await);
            installation.switch().unwrap();
            assert_installed(&log, &theirs, &manifest, &format!("committed {committed:?}"));
        });
    }
}

#[test]
fn a_manifest_without_segments_moves_a_log_to_p_whatever_it_held() {
    for own in [0, 9, 30] {
        block_on(own, async {
            let world = World::new(own);
            let (source_dir, theirs) = source(&world, 60);
            let p = theirs.purged().unwrap();
            theirs.append_log_start(Term(3), p.offset, Timestamp(9), Box::new(|_| {})).unwrap();
            theirs.commit(RaftIndex(u64::MAX));
            if own > 0 {
                // What is known of the terms goes with the files.
                (0..3).for_each(|_| source_dir.checkpoint().unwrap());
                assert!(theirs.first_index().0 > p.index.0);
            }
            let (manifest, shipment) = theirs.manifest().unwrap().unwrap();
            assert!(manifest.segments.is_empty() && manifest.log_start == p.offset);
            let (data_dir, _) = open(&world.runtime_for(NODE)).unwrap();
            let log = data_dir.create_group(spec(1, "events"), Box::new(|_| {})).unwrap();
            vote(&log, 3, Box::new(|_| {}));
            for index in 0..own {
                put(&log, 2, body(index), Box::new(|_| {})).unwrap();
            }
            install(&world, &shipment, begin(&log, &manifest).unwrap()).await.unwrap();
            assert!(all(&log).is_empty());
            assert_eq!(log.frontiers().log_start, p.offset);
            put(&log, 3, body(p.index.0 + 1), Box::new(|_| {})).unwrap();
            assert_eq!(all(&log).len(), 1);
            data_dir.checkpoint().unwrap();
            world.crash(NODE, Crash::PowerCut);
            let (data_dir, _) = open(&world.restart(NODE)).unwrap();
            let log = data_dir.log(GroupId(1)).unwrap().unwrap();
            assert_eq!(all(&log).len(), 1);
            assert_eq!((log.purged(), log.frontiers().log_start), (Some(p), p.offset));
        });
    }
}

#[test]
fn what_was_received_is_found_again_and_what_was_damaged_on_the_way_is_wanted_again() {
    block_on(4, async {
        let world = World::new(4);
        let (_source_dir, theirs) = source(&world, 60);
        let (manifest, shipment) = theirs.manifest().unwrap().unwrap();
        let (data_dir, _) = open(&world.runtime_for(NODE)).unwrap();
        let log = data_dir.create_group(spec(1, "events"), Box::new(|_| {})).unwrap();
        let voted = Told::default();
        vote(&log, 3, voted.done());
        assert!(voted.wait(&world).await);
        let mut installation = begin(&log, &manifest).unwrap();
        let bytes = |installation: &Installation| -> u64 {
            installation.wanted().iter().map(|wanted| wanted.to - wanted.from).sum()
        };
        let total = bytes(&installation);
        assert_eq!(total, manifest.bytes());
        ship(&shipment, &mut installation, 20).unwrap();
        let left = bytes(&installation);
        // A piece that is not the next one is refused, and so is one beyond the end.
        let wanted = installation.wanted()[0];
        assert!(installation.write(wanted.segment, wanted.part, wanted.from + 1, b"x").is_err());
        assert!(installation.write(wanted.segment, wanted.part, wanted.from, &vec![0; 1 << 20]).is_err());
        assert!(installation.write(99, SegmentPart::Log, 0, b"x").is_err());
        drop(installation);
        drop((log, data_dir));

        // The process ends; all but the last batch that was not whole is there.
        world.crash(NODE, Crash::Kill);
        let (data_dir, _) = open(&world.restart(NODE)).unwrap();
        let log = data_dir.log(GroupId(1)).unwrap().unwrap();
        let mut installation = begin(&log, &manifest).unwrap();
        let found = bytes(&installation);
        assert!(found >= left && found < left + 8_000 && found < total, "{found} of {total} wanted, {left} before");

        // One flipped bit in a piece: the segment is refused when it is whole, and comes again.
        let wanted = installation.wanted()[0];
        let mut refused = false;
        while !refused {
            let next = installation.wanted()[0];
            assert_eq!(next.segment, wanted.segment, "the damaged segment was taken");
            let length = ((next.to - next.from) as usize).min(PIECE_BYTES);
            let mut piece = shipment.read(next.segment, next.part, next.from, length).unwrap().to_vec();
            if next == wanted {
                piece[20] ^= 4;
            }
            refused = installation.write(next.segment, next.part, next.from, &piece).is_err();
        }
        assert_eq!(installation.wanted()[0].from, 0);
        assert!(installation.submit(Box::new(|_| {})).is_err(), "not while something is wanted");
        install(&world, &shipment, installation).await.unwrap();
        assert_installed(&log, &theirs, &manifest, "installed");
    });
}

#[test]
fn files_that_are_being_shipped_outlast_their_retention_and_go_when_nobody_holds_them() {
    block_on(5, async {
        let world = World::new(5);
        let (data_dir, theirs) = source(&world, 60);
        let (manifest, shipment) = theirs.manifest().unwrap().unwrap();
        let p = theirs.purged().unwrap();
        theirs.append_log_start(Term(3), p.offset, Timestamp(9), Box::new(|_| {})).unwrap();
        theirs.commit(RaftIndex(u64::MAX));
        let files = || {
            let entries = world.runtime_for(SOURCE).disk().read_dir(&root().join("events-0")).unwrap();
            entries.iter().filter(|entry| entry.name.to_string_lossy().ends_with(".log")).count()
        };
        let before = files();
        for _ in 0..3 {
            data_dir.checkpoint().unwrap();
        }
        assert!(theirs.first_index().0 > p.index.0, "they are no longer part of the log");
        assert_eq!(files(), before);
        let segment = manifest.segments[0];
        assert!(shipment.read(0, SegmentPart::Log, 0, segment.log_bytes as usize).is_ok());
        assert!(shipment.read(0, SegmentPart::Log, 1, segment.log_bytes as usize).is_err());
        drop(shipment);
        data_dir.checkpoint().unwrap();
        assert!(files() < before);
    });
}

/// What was reported when the node died.
#[derive(Default)]
struct Reported {
    created: Told,
    own: Vec<Told>,
    submitted: bool,
    durable: Told,
    switched: bool,
    behind: Vec<Told>,
    closed: bool,
}

/// What the log holds before it is filled.
#[derive(Clone, Copy, Debug)]
enum Held {
    Nothing,
    /// Segments that are kept, and behind them what conflicts.
    Conflicts,
}

fn own_entry(index: u64) -> (u64, Body) {
    if index < 18 { (1, body(index)) } else { (2, body(index + 4)) }
}

async fn story(
    world: &World,
    data_dir: &DataDir,
    held: Held,
    source: (&Manifest, &Shipment),
    reported: &mut Reported,
) -> Result<(), StorageError> {
    let log = data_dir.create_group(spec(1, "events"), reported.created.done())?;
    let voted = Told::default();
    vote(&log, 3, voted.done());
    if !voted.wait(world).await {
        return Err(StorageError::LogClosed(log.group()));
    }
    if matches!(held, Held::Conflicts) {
        for index in 0..24 {
            let (term, body) = own_entry(index);
            reported.own.push(Told::default());
            put(&log, term, body, reported.own[index as usize].done())?;
            if index == 15 {
                log.commit(RaftIndex(15));
                data_dir.checkpoint()?;
            }
        }
    }
    let (manifest, shipment) = source;
    let mut installation = begin(&log, manifest)?;
    ship(shipment, &mut installation, usize::MAX)?;
    reported.submitted = true;
    installation.submit(reported.durable.done())?;
    if !reported.durable.wait(world).await {
        return Err(StorageError::LogClosed(log.group()));
    }
    installation.switch()?;
    reported.switched = true;
    for round in 0..2 {
        for _ in 0..7 {
            let told = Told::default();
            reported.behind.push(told.clone());
            put(&log, 3, body(log.next_index().0), told.done())?;
        }
        if !reported.behind[round * 7 + 6].wait(world).await {
            return Err(StorageError::LogClosed(log.group()));
        }
        data_dir.checkpoint()?;
    }
    data_dir.close()?;
    reported.closed = true;
    Ok(())
}

/// The log is what it was before, or what it was filled with; tells which.
fn check(log: &Log, theirs: &Log, manifest: &Manifest, reported: &Reported, context: &str) -> bool {
    let found = all(log);
    let p = manifest.position.index.0;
    if log.purged().is_none() {
        assert!(!reported.durable.is_durable(), "{context}: the installation is lost");
        let acknowledged = reported.own.iter().rposition(Told::is_durable).map_or(0, |last| last + 1);
        assert!(found.len() >= acknowledged && found.len() <= reported.own.len(), "{context}: {}", found.len());
        for (index, term, _) in &found {
            assert_eq!(*term, own_entry(*index).0, "{context}: entry {index}");
        }
        return false;
    }
    assert!(reported.submitted, "{context}");
    assert_installed(log, theirs, manifest, context);
    let behind = found.iter().filter(|(index, _, _)| *index > p).count();
    let acknowledged = reported.behind.iter().rposition(Told::is_durable).map_or(0, |last| last + 1);
    assert!(behind >= acknowledged && behind <= reported.behind.len(), "{context}: {behind} behind P");
    assert_eq!(log.vote().term, Term(3), "{context}");
    true
}

fn run(operation: u64, kind: Crash, held: Held) -> bool {
    block_on(operation, async {
        let world = World::new(operation);
        let (_source_dir, theirs) = source(&world, 40);
        let (manifest, shipment) = theirs.manifest().unwrap().unwrap();
        let runtime = world.runtime_for(NODE);
        world.crash_at_disk_op(NODE, operation, kind);
        let mut reported = Reported::default();
        if let Ok((data_dir, _)) = open(&runtime) {
            // An error is the crash; what matters is what was reported before.
            let _ = story(&world, &data_dir, held, (&manifest, &shipment), &mut reported).await;
        }
        let finished = world.is_alive(NODE);
        assert!(!finished || reported.closed, "the story ends by itself");
        world.cancel_disk_crash(NODE);
        // The second start has to bear what the first one did, whose crash comes early.
        for start in 0..3 {
            world.crash(NODE, Crash::PowerCut);
            let runtime = world.restart(NODE);
            let context = format!("{held:?}, crash {kind:?} at operation {operation}, start {start}");
            if start == 0 {
                world.crash_at_disk_op(NODE, world.disk_op_count(NODE) + 1 + operation % 29, kind);
                if let Ok((data_dir, _)) = open(&runtime) {
                    runtime.sleep(Duration::from_millis(operation % 40)).await;
                    drop(data_dir);
                }
                world.cancel_disk_crash(NODE);
                continue;
            }
            assert_undamaged(&runtime, &context);
            let (data_dir, report) = open(&runtime).unwrap_or_else(|error| panic!("{context}: {error}"));
            assert!(report.damaged.is_empty(), "{context}: {:?}", report.damaged);
            let log = data_dir.log(GroupId(1)).unwrap_or_else(|error| panic!("{context}: {error}"));
            let Some(log) = log else {
                assert!(!reported.created.is_durable(), "{context}: the group is lost");
                return finished;
            };
            let is_new = check(&log, &theirs, &manifest, &reported, &context);
            if start == 2 && !is_new {
                // Whatever was left, it can be filled now.
                vote(&log, 3, Box::new(|_| {}));
                let installation = begin(&log, &manifest).unwrap_or_else(|error| panic!("{context}: {error}"));
                let done = install(&world, &shipment, installation).await;
                done.unwrap_or_else(|error| panic!("{context}: {error}"));
                assert_installed(&log, &theirs, &manifest, &context);
                assert!(parts(&world).is_empty(), "{context}");
            }
            runtime.sleep(Duration::from_secs(1)).await;
        }
        finished
    })
}

#[test]
fn a_crash_at_any_disk_operation_of_an_installation_leaves_the_old_log_or_the_new_one() {
    for held in [Held::Nothing, Held::Conflicts] {
        for kind in [Crash::PowerCut, Crash::Kill] {
            let mut operation = 1;
            while !run(operation, kind, held) {
                operation += 1;
            }
            // The story is long enough to be worth it.
            assert!(operation > 100, "{operation}");
        }
    }
}

fn some_manifest() -> Manifest {
    block_on(9, async {
        let world = World::new(9);
        let (_source_dir, theirs) = source(&world, 30);
        theirs.manifest().unwrap().unwrap().0
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_manifest_with_a_flipped_bit_or_a_lost_end_is_refused(at in any::<prop::sample::Index>(), bit in 0..8u8) {
        let bytes = some_manifest().encode();
        let mut flipped = bytes.to_vec();
        flipped[at.index(bytes.len())] ^= 1 << bit;
        prop_assert!(Manifest::decode(&flipped).is_err());
        prop_assert!(Manifest::decode(&bytes[..at.index(bytes.len())]).is_err());
    }
}

#[test]
fn a_manifest_whose_parts_do_not_fit_together_is_refused() {
    let manifest = some_manifest();
    assert_eq!(Manifest::decode(&manifest.encode()).as_ref(), Ok(&manifest));
    let changes: [fn(&mut Manifest); 8] = [
        |manifest| manifest.log_start = Offset(manifest.position.offset.0 + 1),
        |manifest| manifest.position.index = RaftIndex(manifest.position.index.0 + 1),
        |manifest| manifest.position.term = Term(9),
        |manifest| manifest.epochs.clear(),
        |manifest| manifest.epochs.reverse(),
        |manifest| manifest.segments = manifest.segments.split_off(1),
        |manifest| manifest.segments[0].next_index = RaftIndex(1),
        |manifest| manifest.producers = Bytes::new(),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let mut changed = manifest.clone();
        change(&mut changed);
        assert!(Manifest::decode(&changed.encode()).is_err(), "change {number}");
    }
}
