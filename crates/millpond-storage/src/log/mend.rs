//! A closed segment whose index is damaged.
//!
//! Nothing but the index is lost: what it says can be read from the batches. But the index is also what vouches for
//! what no CRC of a batch covers, so it is made anew only if the segment itself is proven.
//!
//! | found | done |
//! | --- | --- |
//! | every batch is whole, they lead to the next segment, and a hash in the damaged index agrees | made anew |
//! | anything else | the file stays; what lies before the first batch that does not fit is read by an index in memory |
//!
//! Every batch is whole: its CRC, offset and Raft index follow the one before, its term is the one that the log's row
//! knows for the index. Either way it is told once, see [`WriteTroubles`](crate::WriteTroubles).
//!
//! When a batch was appended only the index knew. Its times are taken over if its checksum proves them; else the
//! segment counts as appended to as late as it can have been. A read that fails ends what is proven, unless it may do
//! better later.

use std::io::IoSlice;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use millpond_record::{Offset, RaftIndex, Term, Timestamp};
use millpond_runtime::OpenMode;

use super::Log;
use super::cold::ColdPlan;
use super::file_state::FileState;
use crate::index::{IndexEntry, IndexHeader, SegmentCursor, Trailer, encode_entries, take_append_times, vouches_for};
use crate::segment::{Expected, ProvenPart, Segment, SegmentError, SegmentFile, SegmentName, SegmentView, scan};
use crate::types::EpochStart;

/// An index in memory has an entry for so many bytes of its segment at most: 1 MiB of entries for 1.3 GiB.
const MEMORY_INTERVAL_BYTES: u32 = 64 << 10;

/// What the batches of a segment say.
struct Proven {
    entries: Vec<IndexEntry>,
    end: Trailer,
    end_offset: Offset,
    /// They lead to the next segment.
    whole: bool,
    /// Why the disk does not give what follows.
    unread: Option<SegmentError>,
}

/// Where a term must be, and where the next segment begins; and what tells whether that still holds.
struct Surroundings {
    epochs: Vec<EpochStart>,
    next: SegmentName,
    truncations: u64,
    /// No batch of a closed segment was appended later.
    last_append: Timestamp,
}

impl Surroundings {
    fn has(&self, index: RaftIndex, term: Term) -> bool {
        let after = self.epochs.partition_point(|epoch| epoch.index <= index);
        after.checked_sub(1).is_some_and(|at| self.epochs[at].term == term)
    }
}

/// What is wrong with a segment's index, and what is right with the segment.
pub(super) struct Diagnosis {
    surroundings: Surroundings,
    damage: SegmentError,
    header: IndexHeader,
    proven: Proven,
    /// The damaged index has something that proves the rest.
    vouched: bool,
}

/// What a look at a segment finds.
pub(super) enum Found {
    /// Nothing is wrong with its index, or no more.
    Sound,
    /// It is not closed and written, or gone.
    OutOfReach,
    Damaged(Box<Diagnosis>),
}

impl Log {
    /// Reads from a segment, once more if its index was damaged and could be mended. Blocks; none of the log's mutexes
    /// may be held.
    pub(super) fn with_index<T>(
        &self,
        segment: &Arc<Segment>,
        mut read: impl FnMut() -> Result<T, SegmentError>,
    ) -> Result<T, SegmentError> {
        match read() {
            Err(error) if error.is_of_index() && self.mend_index(segment)? => read(),
            result => result,
        }
    }

    /// Opens what a plan names, as [`Log::with_index`] reads it, while the log is opened: nobody else knows it, and the
    /// file mutex is held.
    pub(super) fn open_plan(&self, files: &mut FileState, plan: &ColdPlan) -> Result<SegmentView, SegmentError> {
        match plan.open() {
            Err(error) if error.is_of_index() => {
                let is_mended = match self.diagnose(&plan.segment)? {
                    Found::Sound => true,
                    Found::OutOfReach => false,
                    Found::Damaged(diagnosis) => self.mend(files, &plan.segment, *diagnosis)?,
                };
                if is_mended { plan.open() } else { Err(error) }
            }
            result => result,
        }
    }

    /// Makes a closed segment readable whose index is damaged. False if it is not that.
    fn mend_index(&self, segment: &Arc<Segment>) -> Result<bool, SegmentError> {
        let _alone = self.mending.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let diagnosis = match self.diagnose(segment)? {
                Found::Sound => return Ok(true),
                Found::OutOfReach => return Ok(false),
                Found::Damaged(diagnosis) => diagnosis,
            };
            // The journal's rounds, for which all logs wait, do not wait for a sync of the new index.
            self.syncing.fetch_add(1, Ordering::SeqCst);
            let mended = self.mend(&mut self.files(), segment, *diagnosis);
            self.syncing.fetch_sub(1, Ordering::SeqCst);
            self.files_are_free();
            if mended? {
                return Ok(true);
            }
        }
    }

    /// What is around a segment that is closed and written; `None` if it is not that.
    fn surroundings(&self, segment: &Arc<Segment>) -> Result<Option<Surroundings>, SegmentError> {
        if self.retired.load(Ordering::Acquire) {
            return Err(SegmentError::Closed);
        }
        let state = self.state();
        let at = state.segments.iter().position(|other| Arc::ptr_eq(other, segment));
        let next = at.and_then(|at| state.segments.get(at + 1)).map(|next| next.name);
        let unwritten = state.unwritten.iter().any(|work| work.segment.name == segment.name);
        let next = next.filter(|_| !unwritten && state.cut.is_none() && !state.set_aside);
        Ok(next.map(|next| Surroundings {
            epochs: state.epochs.clone(),
            next,
            truncations: state.truncations,
            last_append: self.context.options.opened_at.max(state.cursor.append_time),
        }))
    }

    /// Reads a segment whose index is damaged, all of it: without the file mutex, which the journal and the writer
    /// need.
    pub(super) fn diagnose(&self, segment: &Arc<Segment>) -> Result<Found, SegmentError> {
        let Some(surroundings) = self.surroundings(segment)? else { return Ok(Found::OutOfReach) };
        let damage = match segment.closed() {
            Ok(_) => return Ok(Found::Sound),
            Err(error) if error.is_of_index() => error,
            Err(error) => return Err(error),
        };
        let path = segment.path(SegmentFile::Index);
        let old = self.context.disk.map(&path).map_err(|error| segment.io("map", SegmentFile::Index, error))?;
        let interval_bytes = IndexHeader::decode(old.bytes()).map(|header| header.interval_bytes);
        let interval_bytes = interval_bytes.unwrap_or(self.context.options.index_interval_bytes);
        let SegmentName { base_offset, first_index } = segment.name;
        let header = IndexHeader { base_offset, first_index, interval_bytes };
        let mut proven = self.prove_batches(segment, &surroundings, interval_bytes)?;
        let told = proven.whole && take_append_times(old.bytes(), &header, &mut proven.entries, &mut proven.end);
        if !told {
            // Nobody knows when the last batch was appended, and nothing may go too early.
            proven.end.append_time = surroundings.last_append;
        }
        let vouched = told || vouches_for(old.bytes(), &proven.entries, &proven.end);
        Ok(Found::Damaged(Box::new(Diagnosis { surroundings, damage, header, proven, vouched })))
    }

    /// Makes the index anew, or has the segment read by one in memory. False if the log was truncated, or the segment
    /// removed, since the diagnosis was made.
    pub(super) fn mend(
        &self,
        files: &mut FileState,
        segment: &Arc<Segment>,
        diagnosis: Diagnosis,
    ) -> Result<bool, SegmentError> {
        let Diagnosis { surroundings, damage, header, mut proven, vouched } = diagnosis;
        // With the file mutex held the files of a segment that is closed and written do not change.
        let now = self.surroundings(segment)?;
        if now.is_none_or(|now| (now.truncations, now.next) != (surroundings.truncations, surroundings.next)) {
            return Ok(false);
        }
        let why_not = match (proven.whole, vouched, proven.unread.take()) {
            (true, true, _) => match self.write_index(files, segment, &header, &proven) {
                Ok(()) => None,
                Err(error) => Some((damage.clone(), format!("it cannot be written: {error}"))),
            },
            (true, false, _) => Some((damage.clone(), "its running hashes are not those of the batches".to_owned())),
            (false, _, None) => {
                Some((damage.clone(), format!("the batches are damaged behind byte {}, too", proven.end.log_bytes)))
            }
            (false, _, Some(error)) => {
                let why = format!("the batches cannot be read behind byte {}: {error}", proven.end.log_bytes);
                Some((error, why))
            }
        };
        let told = match why_not {
            None => format!("{damage}; it was made anew from the segment, which is whole"),
            Some((lost_by, why)) => {
                segment.read_by(proven.into_part(lost_by));
                format!("{damage}; it is not made anew: {why}. What lies before that can be read")
            }
        };
        self.tell(told);
        Ok(true)
    }

    /// Walks the batches of a closed segment up to the first that does not fit or that the disk does not give.
    fn prove_batches(
        &self,
        segment: &Arc<Segment>,
        surroundings: &Surroundings,
        interval_bytes: u32,
    ) -> Result<Proven, SegmentError> {
        let (name, next) = (segment.name, surroundings.next);
        let read_error = |error| segment.io("read", SegmentFile::Log, error);
        let log = self.context.disk.open(&segment.path(SegmentFile::Log), OpenMode::Read).map_err(read_error)?;
        let length = log.len().map_err(read_error)?;
        let (mut cursor, mut entries, mut index) = (SegmentCursor::START, Vec::new(), name.first_index);
        let mut reached = name.base_offset;
        let start = Expected { offset: name.base_offset, index, term: Term(0) };
        let scanned = scan(segment, &*log, 0, length.min(u32::MAX.into()), start, |found, head, batch| {
            let header = batch.header();
            let term = Term(header.leader_epoch.0 as u64);
            if found == index && found < next.first_index && surroundings.has(found, term) {
                entries.extend(cursor.push(found, head, header, self.context.append_time_of(header), interval_bytes));
                (index, reached) = (RaftIndex(found.0 + 1), header.next_offset());
            }
        });
        let unread = match scanned {
            Ok(_) => None,
            Err(error) if error.is_damage() => Some(error),
            Err(passing) => return Err(passing),
        };
        let whole = (reached, index, u64::from(cursor.position)) == (next.base_offset, next.first_index, length);
        Ok(Proven {
            entries,
            end: cursor.trailer(index),
            end_offset: reached,
            whole: whole && unread.is_none(),
            unread,
        })
    }

    fn write_index(
        &self,
        files: &mut FileState,
        segment: &Segment,
        header: &IndexHeader,
        proven: &Proven,
    ) -> std::io::Result<()> {
        let mut bytes = encode_entries(header, &proven.entries);
        let trailer = proven.end.encode(&bytes);
        bytes.extend_from_slice(&trailer);
        let (disk, path) = (&self.context.disk, segment.path(SegmentFile::Index));
        // The next opening of the log removes what a crash leaves under this name.
        let beside = path.with_extension("idx.tmp");
        let file = disk.open(&beside, OpenMode::Create)?;
        file.set_len(0)?;
        file.write_all_at(&[IoSlice::new(&bytes)], 0)?;
        file.sync_all()?;
        disk.rename(&beside, &path)?;
        // Synced by the next checkpoint, which hears of an error. Until then either file may be there.
        files.folder_changed = true;
        segment.release();
        Ok(())
    }
}

impl Proven {
    /// As an index in memory.
    fn into_part(self, damage: SegmentError) -> ProvenPart {
        let mut last = None;
        let mut entries = self.entries;
        entries.retain(|entry| {
            let due = last.is_none_or(|last| entry.position - last >= MEMORY_INTERVAL_BYTES);
            if due {
                last = Some(entry.position);
            }
            due
        });
        let damage = (!self.whole).then_some(damage);
        ProvenPart { entries: entries.into(), end: self.end, end_offset: self.end_offset, damage }
    }
}
