//! A closed segment whose index is damaged.
//!
//! Nothing but the index is lost: what it says can be read from the batches. But the index is also what vouches for
//! what no CRC of a batch covers, so it is made anew only if the segment itself is proven.
//!
//! | found | done |
//! | --- | --- |
//! | every batch is whole, they lead to the next segment, and a running hash of the damaged index agrees | made anew |
//! | anything else | the file stays; what lies before the first batch that does not fit is read by an index in memory |
//!
//! Every batch is whole: its CRC, offset and Raft index follow the one before, its term is the one that the log's row
//! knows for the index. Either way it is told once, see [`WriteTroubles`](crate::WriteTroubles).

use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use millpond_record::{RaftIndex, Term};
use millpond_runtime::OpenMode;

use super::Log;
use super::cold::ColdPlan;
use super::persist::FileState;
use crate::index::{IndexEntry, IndexHeader, SegmentCursor, Trailer, vouches_for};
use crate::segment::{Expected, ProvenPart, Segment, SegmentError, SegmentFile, SegmentName, SegmentView, scan};
use crate::types::EpochStart;

/// An index in memory has an entry for so many bytes of its segment at most: 1 MiB of entries for 1.3 GiB.
const MEMORY_INTERVAL_BYTES: u32 = 64 << 10;

/// What the batches of a segment say.
struct Proven {
    entries: Vec<IndexEntry>,
    end: Trailer,
    /// They lead to the next segment.
    whole: bool,
}

/// Where a term must be, and where the next segment begins.
struct Surroundings {
    epochs: Vec<EpochStart>,
    next: SegmentName,
}

impl Surroundings {
    fn has(&self, index: RaftIndex, term: Term) -> bool {
        let after = self.epochs.partition_point(|epoch| epoch.index <= index);
        after.checked_sub(1).is_some_and(|at| self.epochs[at].term == term)
    }
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
            Err(error) if error.is_of_index() && self.mend_index(&mut self.files(), segment)? => read(),
            result => result,
        }
    }

    /// Opens what a plan names, as [`Log::with_index`] reads it, with the file mutex held.
    pub(super) fn open_plan(&self, files: &mut FileState, plan: &ColdPlan) -> Result<SegmentView, SegmentError> {
        match plan.open() {
            Err(error) if error.is_of_index() && self.mend_index(files, &plan.segment)? => plan.open(),
            result => result,
        }
    }

    /// Makes a closed segment readable whose index is damaged. False if it is not that.
    fn mend_index(&self, files: &mut FileState, segment: &Arc<Segment>) -> Result<bool, SegmentError> {
        if self.retired.load(Ordering::Acquire) {
            return Err(SegmentError::Closed);
        }
        // With the file mutex held the files of a segment that is closed and written do not change.
        let surroundings = {
            let state = self.state();
            let at = state.segments.iter().position(|other| Arc::ptr_eq(other, segment));
            let next = at.and_then(|at| state.segments.get(at + 1)).map(|next| next.name);
            let unwritten = state.unwritten.iter().any(|work| work.segment.name == segment.name);
            match next.filter(|_| !unwritten && state.cut.is_none() && !state.set_aside) {
                Some(next) => Surroundings { epochs: state.epochs.clone(), next },
                None => return Ok(false),
            }
        };
        let damage = match segment.closed() {
            Ok(_) => return Ok(true),
            Err(error) if error.is_of_index() => error,
            Err(error) => return Err(error),
        };
        let path = segment.path(SegmentFile::Index);
        let old = self.context.disk.map(&path).map_err(|error| segment.io("map", SegmentFile::Index, error))?;
        let interval_bytes = IndexHeader::decode(old.bytes()).map(|header| header.interval_bytes);
        let interval_bytes = interval_bytes.unwrap_or(self.context.options.index_interval_bytes);
        let proven = self.prove_batches(segment, &surroundings, interval_bytes)?;
        let why_not = match (proven.whole, vouches_for(old.bytes(), &proven.entries, &proven.end)) {
            (true, true) => match self.write_index(files, segment, interval_bytes, &proven) {
                Ok(()) => None,
                Err(error) => Some(format!("it cannot be written: {error}")),
            },
            (true, false) => Some("its running hashes are not those of the batches".to_owned()),
            (false, _) => Some(format!("the batches are damaged behind byte {}, too", proven.end.log_bytes)),
        };
        let told = match why_not {
            None => format!("{damage}; it was made anew from the segment, which is whole"),
            Some(why) => {
                segment.read_by(proven.into_part(damage.clone()));
                format!("{damage}; it is not made anew: {why}. What lies before that can be read")
            }
        };
        self.tell(told);
        Ok(true)
    }

    /// Walks the batches of a closed segment up to the first that does not fit.
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
        scan(segment, &*log, 0, length.min(u32::MAX.into()), start, |found, head, batch| {
            let header = batch.header();
            let term = Term(header.leader_epoch.0 as u64);
            if found == index && found < next.first_index && surroundings.has(found, term) {
                entries.extend(cursor.push(found, head, header, self.context.append_time_of(header), interval_bytes));
                (index, reached) = (RaftIndex(found.0 + 1), header.next_offset());
            }
        })?;
        let whole = (reached, index, u64::from(cursor.position)) == (next.base_offset, next.first_index, length);
        Ok(Proven { entries, end: cursor.trailer(index), whole })
    }

    fn write_index(
        &self,
        files: &mut FileState,
        segment: &Segment,
        interval_bytes: u32,
        proven: &Proven,
    ) -> std::io::Result<()> {
        let SegmentName { base_offset, first_index } = segment.name;
        let mut bytes = IndexHeader { base_offset, first_index, interval_bytes }.encode().to_vec();
        bytes.extend(proven.entries.iter().flat_map(IndexEntry::encode));
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
        ProvenPart { entries: entries.into(), end: self.end, damage: (!self.whole).then_some(damage) }
    }
}
