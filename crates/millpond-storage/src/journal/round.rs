//! One round of group commit: what is pending, laid out over the files there are, written and synced.

use std::io::IoSlice;
use std::ops::Range;
use std::sync::{Arc, Weak};

use bytes::{BufMut, Bytes, BytesMut};
use millpond_runtime::{File, PlantedFault, Round, planted};

use super::file::{FILE_HEADER_BYTES, FileHeader};
use super::group_commit::{Journal, ReadyFile, State};
use super::placing::Segments;
use super::record::{JournalEntry, Place, encode};
use crate::StorageError;
use crate::log::is_passing;
use crate::types::Done;

/// A round takes at most this many bytes, so that its latency and the memory it pins are bounded.
pub(super) const MAX_ROUND_BYTES: u64 = 64 << 20;

/// A batch's tail up to this length is copied behind its header: one more slice for the kernel costs more.
const COPY_TAIL_BYTES: usize = 1024;

/// A larger buffer than this is not kept for the next round.
const KEPT_SCRATCH_BYTES: usize = 4 << 20;

/// The file that is written to.
pub(super) struct CurrentFile {
    pub(super) number: u64,
    salt: u32,
    file: Arc<dyn File>,
    /// 0 until the header is written with the first records.
    pub(super) position: u64,
    /// From here on the journal switches as soon as there is a file to switch to.
    pub(super) soft_limit: u64,
    hard_limit: u64,
}

/// An entry that waits for its round.
pub(super) struct Pending {
    pub(super) entry: JournalEntry,
    pub(super) sequence: u64,
    pub(super) bytes: u64,
    pub(super) done: Option<Done>,
    /// Where a batch may be synced instead.
    pub(super) segments: Option<Weak<dyn Segments>>,
    /// What `done` is told although the record is durable.
    pub(super) refused: Option<StorageError>,
}

/// What a round writes into one file.
struct Part {
    number: u64,
    salt: u32,
    file: Arc<dyn File>,
    header: Option<FileHeader>,
    position: u64,
    entries: Range<usize>,
}

/// A round as it is laid out.
#[derive(Default)]
pub(super) struct Plan {
    parts: Vec<Part>,
    entries: Vec<Pending>,
    bytes: u64,
    pub(super) switched: bool,
    /// The next entry fits into no file that there is.
    pub(super) starved: bool,
}

impl State {
    /// Lays the pending entries out over the current file and, if there is one, the next.
    pub(super) fn plan(&mut self) -> Plan {
        let mut plan = Plan::default();
        while let Some(next) = self.pending.front_mut() {
            if let Some(placement) = &self.placement {
                if !placement.ends_before(next.sequence) {
                    let before = next.bytes;
                    placement.settle(next);
                    self.pending_bytes -= before - next.bytes;
                } else if placement.is_worth_it() && !plan.entries.is_empty() {
                    break;
                } else {
                    self.placement = None;
                }
            }
            if !plan.entries.is_empty() && plan.bytes + next.bytes > MAX_ROUND_BYTES {
                break;
            }
            let (sequence, end) = (next.sequence, self.current.end_with(next.bytes));
            if end > self.current.hard_limit || (end > self.current.soft_limit && !self.ready.is_empty()) {
                let Some(ready) = self.ready.pop_front() else {
                    plan.starved = true;
                    break;
                };
                if self.current.position == 0 {
                    // A file that was passed over gets its header all the same.
                    self.current.begin_part(&mut plan, sequence);
                }
                self.written.push_back(self.current.number);
                let limit = self.current.hard_limit;
                self.current = CurrentFile::new(ready, limit, limit);
                plan.switched = true;
                continue;
            }
            self.current.begin_part(&mut plan, sequence);
            let next = self.pending.pop_front().expect("it was just looked at");
            self.current.position = end;
            self.pending_bytes -= next.bytes;
            plan.bytes += next.bytes;
            plan.entries.push(next);
            plan.parts.last_mut().expect("the part was just begun").entries.end = plan.entries.len();
        }
        self.placement = self.placement.take().filter(|placement| match self.pending.front() {
            Some(next) => !placement.ends_before(next.sequence),
            None => false,
        });
        plan
    }
}

impl CurrentFile {
    pub(super) fn new(ready: ReadyFile, soft_limit: u64, hard_limit: u64) -> CurrentFile {
        let ReadyFile { number, salt, file } = ready;
        CurrentFile { number, salt, file, position: 0, soft_limit, hard_limit }
    }

    fn end_with(&self, bytes: u64) -> u64 {
        self.position.max(FILE_HEADER_BYTES as u64) + bytes
    }

    /// Makes the plan's last part one of this file.
    fn begin_part(&mut self, plan: &mut Plan, sequence: u64) {
        if plan.parts.last().is_some_and(|part| part.number == self.number) {
            return;
        }
        let header = FileHeader { number: self.number, first_sequence: sequence, salt: self.salt };
        let header = (self.position == 0).then_some(header);
        let at = plan.entries.len();
        plan.parts.push(Part {
            number: self.number,
            salt: self.salt,
            file: self.file.clone(),
            header,
            position: self.position,
            entries: at..at,
        });
        self.position = self.end_with(0);
    }
}

/// One write and one sync (one of each per file).
pub(super) struct CommitRound {
    journal: Arc<Journal>,
    parts: Vec<Part>,
    entries: Vec<Pending>,
    bytes: u64,
    scratch: BytesMut,
    micros: u64,
    /// Parts that are on the disk.
    written: usize,
    /// Why the next one could not be written, though nothing of it was synced and it may be tried again.
    blocked: Option<std::io::Error>,
    result: Result<(), StorageError>,
}

/// Why a part is not on the disk.
enum PartError {
    /// It could not be written.
    Write(std::io::Error),
    /// Its sync failed, which is final.
    Sync(std::io::Error),
}

impl CommitRound {
    /// The round of a plan, if it writes anything.
    pub(super) fn of(journal: &Arc<Journal>, plan: Plan, scratch: &mut BytesMut) -> Option<Box<dyn Round>> {
        if plan.parts.is_empty() {
            return None;
        }
        Some(Box::new(CommitRound {
            journal: journal.clone(),
            parts: plan.parts,
            entries: plan.entries,
            bytes: plan.bytes,
            scratch: std::mem::take(scratch),
            micros: 0,
            written: 0,
            blocked: None,
            result: Ok(()),
        }))
    }

    /// Entries that came too late: the journal failed.
    pub(super) fn refused(journal: Arc<Journal>, entries: Vec<Pending>, error: StorageError) -> CommitRound {
        CommitRound {
            journal,
            parts: Vec::new(),
            entries,
            bytes: 0,
            scratch: BytesMut::new(),
            micros: 0,
            written: 0,
            blocked: None,
            result: Err(error),
        }
    }

    /// The entries of a round that is given up.
    pub(super) fn into_entries(self) -> Vec<Pending> {
        self.entries
    }
}

impl Round for CommitRound {
    fn run(&mut self) {
        if self.result.is_err() {
            return;
        }
        let begin = self.journal.runtime.now();
        for part in &self.parts[self.written..] {
            let entries = &self.entries[part.entries.clone()];
            match write_part(part, entries, &mut self.scratch) {
                Ok(()) => self.written += 1,
                Err(PartError::Write(error)) if is_passing(&error) => {
                    self.blocked = Some(error);
                    break;
                }
                Err(PartError::Write(error) | PartError::Sync(error)) => {
                    self.result = Err(self.journal.failure(error));
                    break;
                }
            }
        }
        let micros = (self.journal.runtime.now() - begin).as_micros();
        self.micros = u64::try_from(micros).unwrap_or(u64::MAX);
    }

    fn complete(mut self: Box<Self>) {
        if let Some(error) = self.blocked.take() {
            let journal = self.journal.clone();
            journal.park(*self, error);
            return;
        }
        let CommitRound { journal, entries, bytes, scratch, micros, result, .. } = *self;
        match &result {
            Ok(()) => {
                journal.counters.round(entries.len() as u64, bytes, micros);
                journal.round_is_written(
                    entries.last().map(|last| last.sequence + 1),
                    bytes,
                    micros,
                    Some(scratch).filter(|scratch| scratch.capacity() <= KEPT_SCRATCH_BYTES),
                );
            }
            // Before anyone hears of it, so that nobody can submit more after having heard.
            Err(error) => journal.fail(error.clone()),
        }
        for pending in entries {
            if let Some(done) = pending.done {
                done(pending.refused.map_or(result.clone(), Err));
            }
        }
    }
}

/// Writes one part with one call and syncs its file.
fn write_part(part: &Part, entries: &[Pending], scratch: &mut BytesMut) -> Result<(), PartError> {
    scratch.clear();
    if let Some(header) = &part.header {
        scratch.put_slice(&header.encode());
    }
    // Where in `scratch` a batch's tail, which is not copied, belongs.
    let mut tails: Vec<(usize, &Bytes)> = Vec::new();
    for (back, pending) in entries.iter().enumerate() {
        let back = u32::try_from(back).expect("a round has fewer than 2^32 records of at least 64 bytes");
        let place = Place { file_number: part.number, salt: part.salt, sequence: pending.sequence, back };
        match encode(&pending.entry, place, scratch) {
            Some(tail) if tail.len() <= COPY_TAIL_BYTES => scratch.put_slice(tail),
            Some(tail) => tails.push((scratch.len(), tail)),
            None => {}
        }
    }
    let mut slices = Vec::with_capacity(2 * tails.len() + 1);
    let mut from = 0;
    for (at, tail) in tails {
        slices.push(IoSlice::new(&scratch[from..at]));
        slices.push(IoSlice::new(tail));
        from = at;
    }
    slices.push(IoSlice::new(&scratch[from..]));
    if planted(PlantedFault::AcknowledgeBeforeSync) {
        part.file.sync_data().map_err(PartError::Sync)?;
        return part.file.write_all_at(&slices, part.position).map_err(PartError::Write);
    }
    part.file.write_all_at(&slices, part.position).map_err(PartError::Write)?;
    part.file.sync_data().map_err(PartError::Sync)
}
