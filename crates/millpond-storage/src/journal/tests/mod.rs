mod commit;
mod crash;
mod reading;
mod records;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use millpond_record::{
    GroupId, LeaderEpoch, Offset, RaftIndex, RaftOnlyKind, StampedBatch, Term, Timestamp, raft_only_batch,
};
use millpond_runtime::{Disk, Runtime};

use super::scan::{self, ReplayFrom, Scanned};
use super::{JournalEntry, JournalHandle, JournalStart};
use crate::{OpenError, StorageError, StorageOptions};

/// A batch with a whole header and a right checksum, 62 bytes and up.
fn batch(payload: &[u8]) -> StampedBatch {
    raft_only_batch(RaftOnlyKind::Blank, payload, Offset(0), LeaderEpoch(1), Timestamp(5))
}

/// An append with a payload of its own.
fn append(group: u64, index: u64, payload_bytes: usize) -> JournalEntry {
    let payload = vec![(group * 31 + index) as u8; payload_bytes];
    JournalEntry::Append {
        group: GroupId(group),
        index: RaftIndex(index),
        term: Term(1),
        append_time: Timestamp(1000),
        begins_segment: false,
        batch: batch(&payload),
    }
}

fn options(journal_file_bytes: u64, journal_files: u32) -> StorageOptions {
    StorageOptions { journal_file_bytes, journal_files, ..StorageOptions::default() }
}

fn root() -> PathBuf {
    PathBuf::from("/data")
}

const BEGINNING: ReplayFrom = ReplayFrom { file_number: 1, sequence: 1 };

/// Reads the whole journal.
fn read(disk: &dyn Disk, from: ReplayFrom) -> Result<(Vec<(u64, JournalEntry)>, Scanned), OpenError> {
    let folder = scan::folder_of(&root());
    let numbers = scan::list(disk, &folder)?;
    let mut entries = Vec::new();
    let scanned = scan::scan(disk, &folder, &numbers, from, &mut |record| {
        entries.push((record.header.sequence, record.entry()?));
        Ok(())
    })?;
    Ok((entries, scanned))
}

/// A journal on what is there, as `DataDir::open` starts one. The fatal errors go into the list.
fn start(runtime: &Runtime, options: &StorageOptions, from: ReplayFrom) -> (JournalHandle, Fatal) {
    let disk = runtime.disk();
    let folder = scan::folder_of(&root());
    make_folder(&*disk, &folder);
    let numbers = scan::list(&*disk, &folder).expect("the folder is there");
    let (_, scanned) = read(&*disk, from).expect("the journal is whole");
    scan::make_durable(&*disk, &folder, &scanned).expect("the disk works");
    let start = JournalStart {
        root: root(),
        folder,
        next_sequence: scanned.next_sequence,
        next_number: numbers.last().copied().unwrap_or(0).max(from.file_number - 1) + 1,
        free: numbers.iter().copied().filter(|number| !scanned.files.contains(number)).collect(),
        written: scanned.files,
    };
    let fatal = Fatal::default();
    let list = fatal.clone();
    let on_fatal = move |error: &StorageError| list.0.lock().expect("no panic").push(error.to_string());
    (JournalHandle::start(runtime, options, start, Arc::new(on_fatal)).expect("the disk works"), fatal)
}

fn make_folder(disk: &dyn Disk, folder: &Path) {
    disk.create_dir_all(folder).expect("the disk works");
    disk.sync_dir(&root()).expect("the disk works");
    disk.sync_dir(Path::new("/")).expect("the disk works");
}

#[derive(Clone, Default)]
struct Fatal(Arc<Mutex<Vec<String>>>);

impl Fatal {
    fn count(&self) -> usize {
        self.0.lock().expect("no panic").len()
    }
}

/// Submits and waits until `done` was called.
async fn write(journal: &JournalHandle, entry: JournalEntry) -> Result<(), StorageError> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    journal.submit(entry, Some(Box::new(move |result| sender.send(result).expect("the receiver waits"))))?;
    receiver.await.expect("`done` is called")
}
