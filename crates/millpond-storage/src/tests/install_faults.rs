//! Filling a log where something is in the way: a full disk, too many open files, a deletion, what was left over.

use millpond_record::{GroupId, RaftIndex, Term};
use millpond_runtime::OpenMode;
use millpond_runtime::sim::{Crash, DiskFaults, World, block_on};

use super::installs::{PIECE_BYTES, SOURCE, all, assert_installed, begin, body, parts, put, ship, source};
use super::*;
use crate::journal::Segments;
use crate::segment::SegmentFile;
use crate::{Installation, Manifest, SegmentPart, Shipment};

/// What a log is filled from, and the log.
struct Filled {
    _source_dir: DataDir,
    theirs: Arc<Log>,
    manifest: Manifest,
    shipment: Shipment,
    data_dir: DataDir,
    log: Arc<Log>,
}

async fn filled(world: &World) -> Filled {
    let (source_dir, theirs) = source(world, 60);
    let (manifest, shipment) = theirs.manifest().unwrap().unwrap();
    let (data_dir, _) = open(&world.runtime_for(NODE)).unwrap();
    let log = data_dir.create_group(spec(1, "events"), Box::new(|_| {})).unwrap();
    let voted = Told::default();
    vote(&log, 3, voted.done());
    assert!(voted.wait(world).await);
    Filled { _source_dir: source_dir, theirs, manifest, shipment, data_dir, log }
}

impl Filled {
    /// All of it received, and the record of the switch durable.
    async fn submitted(&self, world: &World) -> Installation {
        self.submit(world, begin(&self.log, &self.manifest).unwrap()).await
    }

    async fn submit(&self, world: &World, mut installation: Installation) -> Installation {
        ship(&self.shipment, &mut installation, usize::MAX).unwrap();
        let told = Told::default();
        installation.submit(told.done()).unwrap();
        assert!(told.wait(world).await);
        installation
    }

    /// The process is killed, or the machine loses power, and the broker starts again.
    fn restarted(self, world: &World, crash: Crash) -> Filled {
        world.crash(NODE, crash);
        let (data_dir, report) = open(&world.restart(NODE)).unwrap();
        assert_eq!(report.damaged, []);
        let log = data_dir.log(GroupId(1)).unwrap().unwrap();
        Filled { data_dir, log, ..self }
    }
}

fn too_many_files() -> DiskFaults {
    DiskFaults { open_files: 0, ..DiskFaults::default() }
}

#[test]
fn a_switch_that_meets_too_many_open_files_is_tried_again() {
    block_on(1, async {
        let world = World::new(1);
        let filled = filled(&world).await;
        let mut installation = filled.submitted(&world).await;
        world.set_disk_faults(NODE, too_many_files());
        let error = installation.switch().unwrap_err();
        assert!(error.is_passing(), "{error}");
        assert!(put(&filled.log, 3, body(0), Box::new(|_| {})).is_err(), "nothing is appended meanwhile");
        world.set_disk_faults(NODE, DiskFaults::default());
        installation.switch().unwrap();
        assert_installed(&filled.log, &filled.theirs, &filled.manifest, "switched");
        installation.switch().expect("what is done need not be done again");
    });
}

#[test]
fn a_switch_that_nobody_goes_on_with_is_finished_by_a_checkpoint_which_frees_the_journal() {
    block_on(2, async {
        let world = World::new(2);
        let filled = filled(&world).await;
        let mut installation = filled.submitted(&world).await;
        world.set_disk_faults(NODE, too_many_files());
        installation.switch().unwrap_err();
        drop(installation);
        world.set_disk_faults(NODE, DiskFaults::default());
        filled.data_dir.checkpoint().unwrap();
        assert_installed(&filled.log, &filled.theirs, &filled.manifest, "by the checkpoint");
        assert!(parts(&world).is_empty());
        let p = filled.manifest.position.index.0;
        put(&filled.log, 3, body(p + 1), Box::new(|_| {})).expect("appends go on");
        // The journal is not held back: a start replays nothing of before the next checkpoint.
        filled.data_dir.checkpoint().unwrap();
        world.crash(NODE, Crash::PowerCut);
        let (data_dir, report) = open(&world.restart(NODE)).unwrap();
        assert_eq!(report.journal_records, 0, "{report:?}");
        let log = data_dir.log(GroupId(1)).unwrap().unwrap();
        assert_installed(&log, &filled.theirs, &filled.manifest, "after a power cut");
        assert_eq!(log.next_index().0, p + 2);
    });
}

#[test]
fn a_switch_whose_marker_is_missing_sets_the_copy_aside_and_says_why() {
    block_on(3, async {
        let world = World::new(3);
        let filled = filled(&world).await;
        let mut installation = filled.submitted(&world).await;
        let marker = parts(&world).into_iter().find(|name| name.to_string_lossy().ends_with(".snap.part"));
        let marker = root().join("events-0").join(marker.expect("the marker of the switch"));
        world.runtime_for(NODE).disk().remove_file(&marker).unwrap();
        assert!(matches!(installation.switch(), Err(StorageError::SetAside(_))));
        let troubles = filled.data_dir.retry_writes();
        let told = format!("{troubles:?}");
        assert!(told.contains(".snap.part is missing"), "{told}");
        drop((installation, filled.log));
        // A start that finds it so says the same.
        world.crash(NODE, Crash::Kill);
        let (_data_dir, report) = open(&world.restart(NODE)).unwrap();
        assert!(report.damaged.iter().any(|damaged| damaged.what.contains(".snap.part is missing")), "{report:?}");
    });
}

#[test]
fn received_segments_stay_while_they_are_of_use_and_go_when_the_log_has_come_by_itself() {
    for restarted in [false, true] {
        block_on(4, async {
            let world = World::new(4);
            let Filled { _source_dir, theirs, manifest, shipment, data_dir, log } = filled(&world).await;
            let mut installation = begin(&log, &manifest).unwrap();
            ship(&shipment, &mut installation, 20).unwrap();
            drop(installation);
            data_dir.checkpoint().unwrap();
            let left = parts(&world).len();
            assert!(left > 1, "it goes on where it was");
            let (data_dir, log) = if restarted {
                data_dir.close().unwrap();
                drop((log, data_dir));
                let (data_dir, _) = open(&world.restart(NODE)).unwrap();
                let log = data_dir.log(GroupId(1)).unwrap().unwrap();
                (data_dir, log)
            } else {
                (data_dir, log)
            };
            for (id, batch) in crate::log::tests::entries_from(&theirs, RaftIndex(0)) {
                let body = Body::Stored(batch.into());
                log.append(vec![AppendEntry { index: id.index, term: id.term, body }], Box::new(|_| {})).unwrap();
            }
            data_dir.checkpoint().unwrap();
            assert_eq!(parts(&world).len(), left, "it is not committed yet");
            log.commit(RaftIndex(u64::MAX));
            data_dir.checkpoint().unwrap();
            assert!(parts(&world).is_empty(), "{:?}", parts(&world));
            assert!(all(&log) == all(&theirs));
        });
    }
}

#[test]
fn a_log_that_was_deleted_is_not_filled_any_more_and_the_next_of_its_name_is_left_alone() {
    block_on(5, async {
        let world = World::new(5);
        let filled = filled(&world).await;
        let mut installation = begin(&filled.log, &filled.manifest).unwrap();
        ship(&filled.shipment, &mut installation, 3).unwrap();
        filled.data_dir.delete_group(GroupId(1), Box::new(|_| {})).unwrap();
        filled.data_dir.create_group(spec(2, "events"), Box::new(|_| {})).unwrap();
        let theirs = root().join("events-0").join("00000000000000000000.0000000000.0000000000000001.log.part");
        world.runtime_for(NODE).disk().open(&theirs, OpenMode::Create).unwrap();
        let refused = ship(&filled.shipment, &mut installation, 1).unwrap_err();
        assert!(matches!(refused, StorageError::LogClosed(_)), "{refused}");
        assert!(installation.submit(Box::new(|_| {})).is_err());
        assert!(begin(&filled.log, &filled.manifest).is_err());
        assert_eq!(parts(&world).len(), 1, "what the next log receives");
    });
}

#[test]
fn a_manifest_with_numbers_beyond_what_a_log_has_is_refused_before_anything_is_made_of_it() {
    block_on(6, async {
        let world = World::new(6);
        let filled = filled(&world).await;
        let changes: [fn(&mut Manifest); 5] = [
            |manifest| manifest.segments[0].index_bytes = u64::MAX,
            |manifest| manifest.segments[0].index_bytes = 1 << 40,
            |manifest| manifest.position.index = RaftIndex(u64::MAX - 1),
            |manifest| manifest.position.offset.0 = i64::MAX,
            |manifest| manifest.position.term = Term(1 << 40),
        ];
        for (number, change) in changes.into_iter().enumerate() {
            let mut changed = filled.manifest.clone();
            change(&mut changed);
            assert!(Manifest::decode(&changed.encode()).is_err(), "change {number}");
            assert!(filled.log.begin_install(changed).is_err(), "change {number}");
        }
        let mut most = filled.manifest.clone();
        most.segments.iter_mut().for_each(|segment| segment.index_bytes = u64::MAX);
        assert_eq!(most.bytes(), u64::MAX, "no sum runs over");
    });
}

#[test]
fn p_has_the_membership_that_was_in_force_there_and_not_a_later_one() {
    block_on(7, async {
        let world = World::new(7);
        let (data_dir, _) = open(&world.runtime_for(NODE)).unwrap();
        let log = data_dir.create_group(spec(1, "events"), Box::new(|_| {})).unwrap();
        vote(&log, 3, Box::new(|_| {}));
        let members = |name: &'static [u8]| Body::RaftOnly {
            kind: RaftOnlyKind::Membership,
            payload: Bytes::from_static(name),
            time: Timestamp(0),
        };
        let mut boundaries = Vec::new();
        for name in [b"first", b"later", b"third"] {
            put(&log, 3, members(name), Box::new(|_| {})).unwrap();
            for _ in 0..20 {
                put(&log, 3, body(0), Box::new(|_| {})).unwrap();
            }
            log.commit(RaftIndex(u64::MAX));
            boundaries.push(log.boundary_at_or_below(RaftIndex(u64::MAX)).unwrap());
        }
        assert_eq!(log.committed_membership(), Bytes::from_static(b"third"));
        for (boundary, name) in boundaries.into_iter().zip([b"first", b"later"]) {
            assert_eq!(log.membership_as_of(boundary), Bytes::from_static(name));
            log.advance_p(boundary, log.membership_as_of(boundary), Box::new(|_| {})).unwrap();
        }
        assert_eq!(log.membership_at_p(), Bytes::from_static(b"later"));
        assert_eq!(log.membership_as_of(log.next_index()), Bytes::from_static(b"third"));
    });
}

#[test]
fn a_segment_whose_sync_failed_is_received_anew_and_nothing_of_it_is_missing_after_a_power_cut() {
    for killed_at in [None, Some(1), Some(2), Some(3), Some(4), Some(5)] {
        for seed in 0..8 {
            block_on(seed, async {
                let world = World::new(seed);
                let mut filled = filled(&world).await;
                let mut installation = begin(&filled.log, &filled.manifest).unwrap();
                let first = filled.manifest.segments[0];
                let files = [u64::from(first.log_bytes), first.index_bytes];
                let pieces: usize = files.iter().map(|bytes| bytes.div_ceil(PIECE_BYTES as u64) as usize).sum();
                ship(&filled.shipment, &mut installation, pieces - 1).unwrap();
                let faults = DiskFaults { sync_error: 1.0, sync_error_in: ".part", ..DiskFaults::default() };
                world.set_disk_faults(NODE, faults);
                if let Some(operation) = killed_at {
                    world.crash_at_disk_op(NODE, world.disk_op_count(NODE) + operation, Crash::Kill);
                }
                ship(&filled.shipment, &mut installation, 1).unwrap_err();
                world.cancel_disk_crash(NODE);
                world.set_disk_faults(NODE, DiskFaults::default());
                if killed_at.is_some() {
                    drop(installation);
                    filled = filled.restarted(&world, Crash::Kill);
                    installation = begin(&filled.log, &filled.manifest).unwrap();
                } else {
                    assert_eq!(installation.wanted()[0].from, 0, "all of it is wanted again");
                    assert!(parts(&world).is_empty(), "{:?}", parts(&world));
                }
                let mut installation = filled.submit(&world, installation).await;
                installation.switch().unwrap();
                let context = format!("seed {seed}, killed at {killed_at:?}");
                let filled = filled.restarted(&world, Crash::PowerCut);
                assert_installed(&filled.log, &filled.theirs, &filled.manifest, &context);
            });
        }
    }
}

#[test]
fn a_failed_sync_of_the_folder_is_not_tried_again_and_sets_the_copy_aside() {
    block_on(8, async {
        let world = World::new(8);
        let filled = filled(&world).await;
        let mut installation = begin(&filled.log, &filled.manifest).unwrap();
        ship(&filled.shipment, &mut installation, usize::MAX).unwrap();
        filled.log.sync_segments().unwrap();
        let faults = DiskFaults { sync_error: 1.0, sync_error_in: "events-0", ..DiskFaults::default() };
        world.set_disk_faults(NODE, faults);
        let error = installation.submit(Box::new(|_| {})).unwrap_err();
        assert!(matches!(error, StorageError::SetAside(_)), "{error}");
        world.set_disk_faults(NODE, DiskFaults::default());
        assert!(matches!(installation.submit(Box::new(|_| {})), Err(StorageError::SetAside(_))));
    });
}

#[test]
fn while_a_switch_is_on_its_way_the_journal_takes_the_batches_that_were_placed_before_it() {
    block_on(9, async {
        let world = World::new(9);
        let filled = filled(&world).await;
        put(&filled.log, 3, body(0), Box::new(|_| {})).unwrap();
        assert!(filled.log.place(filled.log.row().last.unwrap()));
        let mut installation = filled.submitted(&world).await;
        assert!(!filled.log.sync_placed(3_000).unwrap());
        installation.switch().unwrap();
        assert_installed(&filled.log, &filled.theirs, &filled.manifest, "switched");
    });
}

#[test]
fn a_switch_that_a_kill_ends_anywhere_is_whole_after_a_later_power_cut() {
    for seed in 0..6 {
        let mut operation = 1;
        while !killed_in_a_switch(seed, operation) {
            operation += 1;
        }
        assert!(operation > 5, "{operation}");
    }
}

/// Whether the switch was through before the operation came.
fn killed_in_a_switch(seed: u64, operation: u64) -> bool {
    block_on(seed, async {
        let world = World::new(seed);
        let filled = filled(&world).await;
        let mut installation = filled.submitted(&world).await;
        world.crash_at_disk_op(NODE, world.disk_op_count(NODE) + operation, Crash::Kill);
        let through = installation.switch().is_ok();
        world.cancel_disk_crash(NODE);
        drop(installation);
        world.crash(NODE, Crash::Kill);
        let (data_dir, _) = open(&world.restart(NODE)).unwrap();
        // The journal's record of the switch goes with these. Nobody uses the log.
        (0..3).for_each(|_| data_dir.checkpoint().unwrap());
        drop(data_dir);
        let filled = filled.restarted(&world, Crash::PowerCut);
        let context = format!("seed {seed}, operation {operation}");
        assert_installed(&filled.log, &filled.theirs, &filled.manifest, &context);
        let (again, _) = filled.log.manifest().unwrap().unwrap();
        assert!(again == filled.manifest, "{context}: the producers, or other things, are not those of P");
        through
    })
}

#[test]
fn a_segment_that_is_damaged_where_it_is_shipped_from_is_told_of_there_and_once() {
    for damage in 0..20 {
        block_on(damage, async {
            let world = World::new(damage);
            let (source_dir, theirs) = source(&world, 60);
            let (manifest, shipment) = theirs.manifest().unwrap().unwrap();
            for segment in 0..manifest.segments.len() {
                shipment.look_through(segment).unwrap();
            }
            assert!(matches!(shipment.look_through(99), Err(StorageError::NoSuchPiece { .. })));
            let name = manifest.segments[1].name().file(SegmentFile::Log);
            assert!(world.flip_bit(SOURCE, &root().join("events-0").join(&name)));
            shipment.look_through(0).unwrap();
            assert!(source_dir.retry_writes().damaged.is_empty());
            let error = shipment.look_through(1).unwrap_err();
            assert!(matches!(error, StorageError::Corrupt { .. }), "{error}");
            let told = source_dir.retry_writes().damaged;
            assert!(told.len() == 1 && told[0].1.contains(&name), "{told:?}");
            shipment.look_through(1).unwrap_err();
            assert!(source_dir.retry_writes().damaged.is_empty());
        });
    }
}

#[test]
fn a_segment_that_the_disk_does_not_give_any_more_is_told_of_where_it_is_shipped_from() {
    block_on(10, async {
        let world = World::new(10);
        let (source_dir, theirs) = source(&world, 60);
        let (_, shipment) = theirs.manifest().unwrap().unwrap();
        world.set_disk_faults(SOURCE, DiskFaults { read_error: 1.0, ..DiskFaults::default() });
        for _ in 0..3 {
            shipment.read(0, SegmentPart::Log, 0, 100).unwrap_err();
        }
        assert_eq!(source_dir.retry_writes().damaged.len(), 1);
    });
}
