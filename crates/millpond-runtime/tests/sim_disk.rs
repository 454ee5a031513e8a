//! The simulated disk keeps its fault model: everything that may happen does for some seed, and nothing else.

use std::collections::BTreeSet;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

use millpond_runtime::sim::{Crash, DiskFaults, NodeId, World, block_on};
use millpond_runtime::{Disk, File, OpenMode, write_atomically};

const NODE: NodeId = NodeId(1);
const SEEDS: u64 = 200;

fn write(file: &dyn File, bytes: &[u8], position: u64) {
    file.write_all_at(&[IoSlice::new(bytes)], position).unwrap();
}

/// Runs `before` on a fresh disk, crashes, and gives what `after` finds, for many seeds.
fn outcomes<T: Ord>(kind: Crash, before: impl Fn(&World, &dyn Disk), after: impl Fn(&dyn Disk) -> T) -> BTreeSet<T> {
    (0..SEEDS)
        .map(|seed| {
            block_on(seed, async {
                let world = World::new(seed);
                before(&world, &*world.runtime_for(NODE).disk());
                world.crash(NODE, kind);
                after(&*world.restart(NODE).disk())
            })
        })
        .collect()
}

fn path(name: &str) -> &Path {
    Path::new(name)
}

/// A file with durable name and content.
fn durable(disk: &dyn Disk, name: &str, bytes: &[u8]) -> Arc<dyn File> {
    let file = disk.open(path(name), OpenMode::Create).unwrap();
    write(&*file, bytes, 0);
    file.sync_data().unwrap();
    disk.sync_dir(path("/")).unwrap();
    file
}

fn content(disk: &dyn Disk, name: &str) -> Option<Vec<u8>> {
    disk.read(path(name), 1 << 30).ok()
}

#[test]
fn what_was_synced_is_never_lost() {
    let bytes: Vec<u8> = (0..20_000u32).map(|i| i as u8).collect();
    let expected = bytes.clone();
    let found = outcomes(
        Crash::PowerCut,
        move |_, disk| {
            durable(disk, "/a", &bytes);
        },
        |disk| content(disk, "/a"),
    );
    assert_eq!(found, BTreeSet::from([Some(expected)]));
}

#[test]
fn what_was_not_synced_is_kept_lost_or_torn_at_sectors_by_a_power_cut() {
    let found = outcomes(
        Crash::PowerCut,
        |_, disk| write(&*durable(disk, "/a", &[0; 8192]), &[1; 8192], 0),
        |disk| content(disk, "/a").unwrap(),
    );
    assert!(found.contains(&vec![0; 8192]), "lost");
    assert!(found.contains(&vec![1; 8192]), "kept");
    assert!(found.iter().any(|bytes| bytes[0] != bytes[8191]), "one page of two");
    assert!(found.iter().any(|bytes| bytes[..4096].contains(&0) && bytes[..4096].contains(&1)), "torn");
    for bytes in found {
        assert_eq!(bytes.len(), 8192);
        assert!(bytes.chunks(512).all(|sector| sector.iter().all(|byte| *byte == sector[0])), "sectors are atomic");
    }
}

#[test]
fn a_kill_loses_nothing_of_the_page_cache() {
    let found = outcomes(
        Crash::Kill,
        |_, disk| write(&*disk.open(path("/a"), OpenMode::Create).unwrap(), b"hello", 0),
        |disk| content(disk, "/a"),
    );
    assert_eq!(found, BTreeSet::from([Some(b"hello".to_vec())]));
}

#[test]
fn an_unsynced_length_is_old_new_or_between_and_its_holes_are_zeros() {
    let found = outcomes(
        Crash::PowerCut,
        |_, disk| write(&*durable(disk, "/a", &[7; 100]), &[8; 10_000], 100),
        |disk| content(disk, "/a").unwrap(),
    );
    let lengths: BTreeSet<usize> = found.iter().map(Vec::len).collect();
    assert!(lengths.contains(&100) && lengths.contains(&10_100) && lengths.len() > 2);
    assert!(found.iter().any(|bytes| bytes.len() == 10_100 && bytes.contains(&0)), "a length without its pages");
    for bytes in found {
        assert!(bytes[..100].iter().all(|byte| *byte == 7), "what was durable stays");
        assert!(bytes[100..].iter().all(|byte| [0, 8].contains(byte)));
    }
}

#[test]
fn a_cut_that_was_not_synced_may_be_undone() {
    let found = outcomes(
        Crash::PowerCut,
        |_, disk| {
            let file = durable(disk, "/a", &[7; 10_000]);
            file.set_len(10).unwrap();
            file.set_len(20).unwrap();
        },
        |disk| content(disk, "/a").unwrap(),
    );
    assert!(found.contains(&vec![7; 10_000]));
    assert!(found.contains(&[vec![7; 10], vec![0; 10]].concat()));
}

#[test]
fn an_older_version_of_a_page_can_be_what_survives() {
    let found = outcomes(
        Crash::PowerCut,
        |_, disk| {
            let file = durable(disk, "/a", &[0]);
            for version in 1..20 {
                write(&*file, &[version], 0);
            }
        },
        |disk| content(disk, "/a").unwrap()[0],
    );
    assert!(found.contains(&0) && found.contains(&19) && found.len() > 5, "{found:?}");
}

#[test]
fn entries_survive_in_any_subset_until_their_folder_is_synced() {
    let present = |disk: &dyn Disk| ["/a", "/b", "/c"].map(|name| disk.exists(path(name)).unwrap());
    let make = |disk: &dyn Disk| {
        for name in ["/a", "/b", "/c"] {
            disk.open(path(name), OpenMode::CreateNew).unwrap().sync_all().unwrap();
        }
    };
    let unsynced = outcomes(Crash::PowerCut, |_, disk| make(disk), present);
    assert_eq!(unsynced.len(), 8, "{unsynced:?}");
    let synced = outcomes(
        Crash::PowerCut,
        |_, disk| {
            make(disk);
            disk.sync_dir(path("/")).unwrap();
        },
        present,
    );
    assert_eq!(synced, BTreeSet::from([[true; 3]]));
}

#[test]
fn renames_without_a_folder_sync_vanish_or_survive_each_by_itself() {
    let found = outcomes(
        Crash::PowerCut,
        |_, disk| {
            durable(disk, "/a", b"a");
            durable(disk, "/b", b"b");
            disk.rename(path("/a"), path("/a2")).unwrap();
            disk.rename(path("/b"), path("/b2")).unwrap();
        },
        |disk| ["/a", "/a2", "/b", "/b2"].map(|name| disk.exists(path(name)).unwrap()),
    );
    let expected = BTreeSet::from([
        [true, false, true, false],
        [false, true, true, false],
        [true, false, false, true],
        [false, true, false, true],
    ]);
    assert_eq!(found, expected, "atomic each, in any order");
}

#[test]
fn a_new_folder_under_an_old_name_does_not_show_what_the_old_one_held() {
    let found = outcomes(
        Crash::PowerCut,
        |_, disk| {
            disk.create_dir_all(path("/t")).unwrap();
            disk.open(path("/t/old"), OpenMode::CreateNew).unwrap();
            disk.sync_dir(path("/t")).unwrap();
            disk.sync_dir(path("/")).unwrap();
            disk.remove_dir_all(path("/t")).unwrap();
            disk.create_dir_all(path("/t")).unwrap();
            disk.open(path("/t/new"), OpenMode::CreateNew).unwrap();
        },
        |disk| ["/t/old", "/t/new"].map(|name| disk.exists(path(name)).unwrap()),
    );
    assert_eq!(found, BTreeSet::from([[false, false], [true, false], [false, true]]));
}

#[test]
fn after_a_failed_sync_a_later_one_succeeds_without_having_written_what_the_first_lost() {
    let found = outcomes(
        Crash::PowerCut,
        |world, disk| {
            let file = durable(disk, "/a", &[0; 4096]);
            write(&*file, &[1; 4096], 0);
            world.set_disk_faults(NODE, DiskFaults { sync_error: 1.0, ..DiskFaults::default() });
            assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(5));
            world.set_disk_faults(NODE, DiskFaults::default());
            file.sync_data().unwrap();
        },
        |disk| content(disk, "/a").unwrap()[0],
    );
    assert_eq!(found, BTreeSet::from([0, 1]));
}

#[test]
fn what_a_failed_sync_of_a_folder_left_pending_is_durable_after_the_next_one() {
    let found = |syncs_again: bool| {
        outcomes(
            Crash::PowerCut,
            move |world, disk| {
                durable(disk, "/a", b"a");
                disk.rename(path("/a"), path("/b")).unwrap();
                disk.rename(path("/b"), path("/c")).unwrap();
                world.set_disk_faults(NODE, DiskFaults { sync_error: 1.0, ..DiskFaults::default() });
                assert_eq!(disk.sync_dir(path("/")).unwrap_err().raw_os_error(), Some(5));
                world.set_disk_faults(NODE, DiskFaults::default());
                if syncs_again {
                    disk.sync_dir(path("/")).unwrap();
                }
            },
            |disk| ["/a", "/b", "/c"].map(|name| content(disk, name).is_some()),
        )
    };
    assert_eq!(found(true), BTreeSet::from([[false, false, true]]));
    let before = found(false);
    assert!(before.contains(&[true, false, false]) && before.contains(&[false, false, true]), "{before:?}");
}

#[test]
fn a_replaced_file_is_old_or_new_at_every_crash_and_new_once_it_was_reported() {
    let mut seen = BTreeSet::new();
    for seed in 0..SEEDS {
        block_on(seed, async {
            let world = World::new(seed);
            let disk = world.runtime_for(NODE).disk();
            write_atomically(&*disk, path("/table"), b"old").unwrap();
            let done = world.disk_op_count(NODE);
            // The first replacement took this many operations, and so does the second, which is crashed at each.
            let number = done + 1 + seed % done;
            world.crash_at_disk_op(NODE, number, if seed % 3 == 0 { Crash::Kill } else { Crash::PowerCut });
            let result = write_atomically(&*disk, path("/table"), b"new");
            assert!(result.is_err() && !world.is_alive(NODE));
            assert!(disk.exists(path("/table")).is_err(), "a dead incarnation reaches nothing");
            let found = content(&*world.restart(NODE).disk(), "/table").unwrap();
            assert!(found == b"old" || found == b"new", "{found:?}");
            seen.insert(found);
        });
    }
    assert_eq!(seen.len(), 2);
}

/// The smallest log: records of 600 bytes (more than a sector), each acknowledged after a sync.
fn append_until_dead(disk: &dyn Disk) -> u8 {
    let append = |file: &dyn File, number: u8| -> io::Result<()> {
        file.write_all_at(&[IoSlice::new(&[number; 600])], u64::from(number - 1) * 600)?;
        file.sync_data()
    };
    let open = || -> io::Result<Arc<dyn File>> {
        let file = disk.open(path("/log"), OpenMode::Create)?;
        disk.sync_dir(path("/"))?;
        Ok(file)
    };
    let Ok(file) = open() else { return 0 };
    for number in 1..=10 {
        if append(&*file, number).is_err() {
            return number - 1;
        }
    }
    10
}

#[test]
fn a_crash_at_every_operation_of_a_small_log_loses_nothing_that_was_acknowledged() {
    let mut torn = 0;
    for number in 1..=22 {
        for seed in 0..20 {
            block_on(seed, async {
                let world = World::new(seed);
                world.crash_at_disk_op(NODE, number, Crash::PowerCut);
                let acknowledged = append_until_dead(&*world.runtime_for(NODE).disk());
                assert!(!world.is_alive(NODE), "operation {number} came");
                let found = content(&*world.restart(NODE).disk(), "/log").unwrap_or_default();
                for record in 1..=acknowledged {
                    let range = usize::from(record - 1) * 600..usize::from(record) * 600;
                    assert!(found[range].iter().all(|byte| *byte == record), "record {record} of {acknowledged}");
                }
                let rest = &found[usize::from(acknowledged) * 600..];
                assert!(rest.len() <= 600 && rest.iter().all(|byte| [0, acknowledged + 1].contains(byte)));
                torn += usize::from(rest.contains(&0) && rest.contains(&(acknowledged + 1)));
            });
        }
    }
    assert!(torn > 0, "some record was torn");
}

#[test]
fn a_full_disk_refuses_growth_and_takes_overwrites() {
    block_on(1, async {
        let world = World::new(1);
        let disk = world.runtime_for(NODE).disk();
        world.set_disk_faults(NODE, DiskFaults { capacity_bytes: 1000, ..DiskFaults::default() });
        let file = disk.open(path("/a"), OpenMode::Create).unwrap();
        write(&*file, &[1; 900], 0);
        assert_eq!(disk.space(path("/")).unwrap().available_bytes, 100);
        let error = file.write_all_at(&[IoSlice::new(&[2; 200])], 900).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(file.len().unwrap() <= 1100);
        write(&*file, &[3; 900], 0);
    });
}

#[test]
fn reads_and_writes_fail_as_often_as_they_are_told_to() {
    block_on(1, async {
        let world = World::new(1);
        let disk = world.runtime_for(NODE).disk();
        let file = durable(&*disk, "/a", &[1; 100]);
        world.set_disk_faults(NODE, DiskFaults { read_error: 0.5, write_error: 0.5, ..DiskFaults::default() });
        let reads = (0..200).filter(|_| file.read_exact_at(&mut [0; 10], 0).is_err()).count();
        let writes = (0..200).filter(|_| file.write_all_at(&[IoSlice::new(&[1; 10])], 0).is_err()).count();
        assert!((60..140).contains(&reads) && (60..140).contains(&writes), "{reads} {writes}");
    });
}

#[test]
fn a_flipped_bit_is_stored() {
    block_on(1, async {
        let world = World::new(1);
        let disk = world.runtime_for(NODE).disk();
        durable(&*disk, "/a", &[0; 100]);
        assert!(world.flip_bit(NODE, path("/a")));
        assert!(!world.flip_bit(NODE, path("/b")));
        world.crash(NODE, Crash::PowerCut);
        let ones: u32 = world.peek(NODE, path("/a")).unwrap().iter().map(|byte| byte.count_ones()).sum();
        assert_eq!(ones, 1);
    });
}

#[test]
fn a_lock_ends_with_its_incarnation() {
    block_on(1, async {
        let world = World::new(1);
        let disk = world.runtime_for(NODE).disk();
        let old = disk.lock_exclusive(path("/lock")).unwrap();
        assert_eq!(disk.lock_exclusive(path("/lock")).err().map(|e| e.kind()), Some(io::ErrorKind::WouldBlock));
        let disk = world.restart(NODE).disk();
        let _new = disk.lock_exclusive(path("/lock")).unwrap();
        drop(old);
        assert!(disk.lock_exclusive(path("/lock")).is_err(), "the old lock does not free the new one");
    });
}
