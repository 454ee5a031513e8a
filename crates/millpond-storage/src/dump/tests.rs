//! What a dump prints, of whole files and of damaged ones.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};

use millpond_runtime::sim::{Crash, World, block_on};
use millpond_runtime::{Disk, OpenMode};

use super::{DumpError, DumpItem, DumpKind, dump};
use crate::tests::{NODE, root};
use crate::verify::tests::{files, filled};

fn dumped(disk: &dyn Disk, path: &Path) -> (Vec<DumpItem>, Result<DumpKind, DumpError>) {
    let mut items = Vec::new();
    let end = dump(disk, path, &mut |item| {
        items.push(item);
        Ok(())
    });
    (items, end)
}

fn with_files(seed: u64, kill: bool, test: impl FnOnce(&dyn Disk)) {
    block_on(seed, async {
        let world = World::new(seed);
        let data_dir = filled(&world).await;
        if kill {
            world.crash(NODE, Crash::Kill);
        } else {
            data_dir.close().unwrap();
        }
        drop(data_dir);
        test(&*world.restart(NODE).disk());
    });
}

#[test]
fn every_file_of_a_data_directory_is_known_by_name_and_by_content() {
    with_files(21, true, |disk| {
        let mut kinds = Vec::new();
        for (path, bytes) in files(disk).iter().filter(|(path, _)| !path.ends_with("millpond.lock")) {
            let (items, end) = dumped(disk, path);
            let kind = end.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            assert!(!items.is_empty(), "{}", path.display());
            kinds.push(kind);
            // A journal file that was made ahead, or an empty segment, says nothing by itself.
            if bytes.is_empty() || bytes.starts_with(&[0; 8]) && kind == DumpKind::Journal {
                continue;
            }
            let copy = Path::new("/srv/copy");
            disk.open(copy, OpenMode::Create).unwrap().set_len(0).unwrap();
            disk.open(copy, OpenMode::Write).unwrap().write_all_at(&[IoSlice::new(bytes)], 0).unwrap();
            let (again, end) = dumped(disk, copy);
            assert_eq!((end.unwrap(), again.len()), (kind, items.len()), "{}", path.display());
        }
        for kind in [
            DumpKind::Segment,
            DumpKind::Index,
            DumpKind::Snapshot,
            DumpKind::Journal,
            DumpKind::Table,
            DumpKind::Meta,
            DumpKind::PartitionMetadata,
        ] {
            assert!(kinds.contains(&kind), "{kind:?}");
        }
    });
}

fn field(item: &DumpItem, name: &str) -> String {
    let found = item.fields.iter().find(|(found, _)| *found == name);
    found.unwrap_or_else(|| panic!("{name} in {item:?}")).1.to_string()
}

#[test]
fn the_items_say_what_is_in_the_files() {
    with_files(22, true, |disk| {
        let folder = root().join("events-0");
        let (items, _) = dumped(disk, &folder.join("00000000000000000000.0000000000.log"));
        assert_eq!((items[0].what, field(&items[0], "first_index")), ("segment", "0".into()));
        assert_eq!((items[1].what, items[1].position), ("batch", Some(0)));
        assert_eq!((field(&items[1], "offset"), field(&items[1], "producer_id")), ("0".into(), "0".into()));
        assert_eq!(field(&items[2], "codec"), "gzip");
        assert_eq!((items[5].what, field(&items[5], "kind")), ("raft-only", "blank".into()));
        let (items, _) = dumped(disk, &root().join("groups.table"));
        assert_eq!((items[1].what, field(&items[1], "topic")), ("group", "events".into()));
        let wal = files(disk).into_keys().rfind(|path| dumped(disk, path).0.iter().any(|item| item.what == "append"));
        let (items, _) = dumped(disk, &wal.unwrap());
        let append = items.iter().rfind(|item| item.what == "append").unwrap();
        assert_eq!((field(append, "group"), field(append, "index")), ("1".into(), "25".into()));
        assert!(files(disk).keys().any(|path| dumped(disk, path).0.iter().any(|item| item.what == "vote")));
    });
}

#[test]
fn a_damaged_file_is_printed_up_to_the_damage() {
    with_files(23, false, |disk| {
        let path = root().join("events-0/00000000000000000000.0000000000.log");
        let (whole, _) = dumped(disk, &path);
        let third = whole[3].position.unwrap();
        disk.open(&path, OpenMode::Write).unwrap().write_all_at(&[IoSlice::new(&[0xff])], third + 80).unwrap();
        let (items, end) = dumped(disk, &path);
        assert_eq!(items[..], whole[..3]);
        let error = end.unwrap_err().to_string();
        assert!(error.contains(&format!("byte {third}")) && error.contains("CRC-32C"), "{error}");
        let table = root().join("groups.table");
        let (whole, _) = dumped(disk, &table);
        disk.open(&table, OpenMode::Write).unwrap().write_all_at(&[IoSlice::new(&[0xff])], 40).unwrap();
        let (items, end) = dumped(disk, &table);
        assert_eq!(items.len(), whole.len(), "rows are shown although the checksum does not match");
        assert!(end.unwrap_err().to_string().contains("checksum"));
    });
}

#[test]
fn a_file_that_is_not_ours_and_a_taker_that_gives_up_end_the_dump() {
    with_files(24, false, |disk| {
        let other = PathBuf::from("/srv/other");
        disk.open(&other, OpenMode::Create).unwrap().write_all_at(&[IoSlice::new(b"hello")], 0).unwrap();
        assert!(matches!(dumped(disk, &other).1, Err(DumpError::Unknown)));
        assert!(matches!(dumped(disk, Path::new("/srv/missing")).1, Err(DumpError::Read(_))));
        for path in files(disk).keys().filter(|path| !path.ends_with("millpond.lock")) {
            let gives_up = dump(disk, path, &mut |_| Err(io::ErrorKind::BrokenPipe.into()));
            assert!(matches!(gives_up, Err(DumpError::Sink(_))), "{}", path.display());
        }
    });
}
