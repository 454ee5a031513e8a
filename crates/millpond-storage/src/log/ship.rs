//! Sending side of catching up: a log as of P, its files held until they are shipped.
//!
//! Segments up to P never change, so all that shipping needs is that they stay. A segment that retention lets go while
//! it is held is no longer part of the log; its files go with the first checkpoint after the last holder is gone, or
//! when the log is opened again, because its row knows that it is gone.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use millpond_record::{Offset, RaftIndex};
use millpond_runtime::{File, OpenMode};

use super::Log;
use crate::StorageError;
use crate::index;
use crate::manifest::{Manifest, ManifestSegment, SegmentPart};
use crate::segment::{Segment, SegmentError, SegmentFile, SegmentName};
use crate::types::EpochStart;

/// Segments whose files must stay.
#[derive(Default)]
pub(super) struct Pins {
    held: BTreeMap<SegmentName, u32>,
    /// They are no longer part of the log.
    released: Vec<Arc<Segment>>,
}

impl Pins {
    /// Of segments that leave the log, and of those that left it before: the ones whose files may go.
    pub(super) fn removable(&mut self, doomed: Vec<Arc<Segment>>) -> Vec<Arc<Segment>> {
        let all = std::mem::take(&mut self.released).into_iter().chain(doomed);
        let (held, free): (Vec<_>, Vec<_>) = all.partition(|segment| self.held.contains_key(&segment.name));
        self.released = held;
        free
    }
}

/// The files of a [`Manifest`], which stay until it is dropped.
pub struct Shipment {
    log: Arc<Log>,
    segments: Vec<(ManifestSegment, Arc<Segment>)>,
    /// The file that was read last.
    open: Mutex<Option<OpenPart>>,
}

/// A file that is open for reading.
struct OpenPart {
    segment: usize,
    part: SegmentPart,
    file: Arc<dyn File>,
}

impl std::fmt::Debug for Shipment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shipment").field("log", &self.log).field("segments", &self.segments.len()).finish()
    }
}

impl Drop for Shipment {
    fn drop(&mut self) {
        let mut pins = self.log.pins();
        for (_, segment) in &self.segments {
            if let Some(count) = pins.held.get_mut(&segment.name) {
                *count -= 1;
                if *count == 0 {
                    pins.held.remove(&segment.name);
                }
            }
        }
    }
}

impl Log {
    pub(super) fn pins(&self) -> std::sync::MutexGuard<'_, Pins> {
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What another replica must have to follow this log behind P, and the files of it; `None` while there is no P.
    /// Blocks: it writes what is not in the segments yet and reads the ends of their indexes.
    ///
    /// # Errors
    ///
    /// [`StorageError::Corrupt`] if a segment cannot be proven to its end; what reads and writes say.
    pub fn manifest(&self) -> Result<Option<(Manifest, Shipment)>, StorageError> {
        self.write_all_behind()?;
        let log = self.arc()?;
        let (mut manifest, shipment) = {
            let state = self.state();
            self.check_open(&state)?;
            let Some(position) = state.purged else { return Ok(None) };
            let below = state.segments_below(state.log_start.min(position.offset));
            let up_to = state.segments.partition_point(|segment| segment.name.first_index <= position.index);
            if state.unwritten.front().is_some_and(|work| work.segment.name.first_index <= position.index) {
                return Err(self.corrupt("a segment below P is not written, although all were"));
            }
            let segments: Vec<Arc<Segment>> = state.segments[below.min(up_to)..up_to].to_vec();
            let mut epochs = state.epochs.clone();
            epochs.retain(|epoch| epoch.index <= position.index);
            if epochs.is_empty() {
                // Where P's term began went with the entries.
                epochs.push(EpochStart { term: position.term, index: position.index, offset: position.offset });
            }
            let manifest = Manifest {
                // The entry that moved it further may lie behind P, and does it again.
                log_start: state.log_start.min(position.offset),
                position,
                membership: state.membership_at_p.clone(),
                epochs,
                producers: state.producers.snapshot(position.log_id(), position.offset),
                segments: Vec::new(),
            };
            let mut pins = self.pins();
            for segment in &segments {
                *pins.held.entry(segment.name).or_default() += 1;
            }
            drop(pins);
            let none = |segment: Arc<Segment>| {
                let SegmentName { base_offset, first_index } = segment.name;
                let next_index = first_index;
                let nothing =
                    ManifestSegment { base_offset, first_index, next_index, log_bytes: 0, index_bytes: 0, hash: 0 };
                (nothing, segment)
            };
            let segments = segments.into_iter().map(none).collect();
            (manifest, Shipment { log, segments, open: Mutex::new(None) })
        };
        let mut shipment = shipment;
        let ends = shipment.segments.iter().skip(1).map(|(_, segment)| segment.name.base_offset);
        let ends: Vec<Offset> = ends.chain([manifest.position.offset]).collect();
        for ((facts, segment), end) in shipment.segments.iter_mut().zip(ends) {
            let closed = self.with_index(segment, || {
                let closed = segment.closed()?;
                segment.check_readable_to(end)?;
                segment.release();
                Ok(closed)
            });
            let closed = closed.map_err(|error| self.segment_error(error))?;
            facts.next_index = closed.trailer.next_index;
            facts.log_bytes = closed.trailer.log_bytes;
            facts.index_bytes = index::entry_position(closed.index.len() + 1);
            facts.hash = closed.trailer.hash;
        }
        manifest.segments = shipment.segments.iter().map(|(facts, _)| *facts).collect();
        manifest.check().map_err(|what| self.corrupt(format!("as of P: {what}")))?;
        Ok(Some((manifest, shipment)))
    }

    /// The last end of a closed segment at or below `index`: where P could be moved to. `None` if P is there already,
    /// or there is none. `index` is what every live voter has.
    pub fn boundary_at_or_below(&self, index: RaftIndex) -> Option<RaftIndex> {
        let state = self.state();
        let committed = state.committed?.index;
        let lasting = if state.unjournaled.is_some() { state.next_unsynced } else { state.next_index() };
        let limit = index.min(committed).0.min(lasting.0.checked_sub(1)?);
        let after = state.segments.partition_point(|segment| segment.name.first_index.0 <= limit.saturating_add(1));
        let first = state.segments[after.checked_sub(1)?].name.first_index;
        let boundary = RaftIndex(first.0.checked_sub(1)?);
        let ahead = state.purged.is_none_or(|purged| purged.index < boundary);
        (ahead && state.term_at(boundary).is_some()).then_some(boundary)
    }
}

impl Shipment {
    /// The running hash of the manifest's `segment`th segment, which names its content.
    pub fn hash_of(&self, segment: usize) -> Option<u64> {
        self.segments.get(segment).map(|(facts, _)| facts.hash)
    }

    /// Reads a piece of a file: exactly `length` bytes from `position` on of a part of the manifest's `segment`th
    /// segment. Blocks.
    ///
    /// # Errors
    ///
    /// [`StorageError::NoSuchPiece`] if the manifest has no such bytes; what the read says; [`StorageError::LogClosed`]
    /// when the log was deleted.
    pub fn read(&self, segment: usize, part: SegmentPart, position: u64, length: usize) -> Result<Bytes, StorageError> {
        let group = self.log.group();
        let (facts, held) = self.segments.get(segment).ok_or(StorageError::NoSuchPiece { group })?;
        let (kind, total) = match part {
            SegmentPart::Log => (SegmentFile::Log, u64::from(facts.log_bytes)),
            SegmentPart::Index => (SegmentFile::Index, facts.index_bytes),
        };
        if position.checked_add(length as u64).is_none_or(|end| end > total) {
            return Err(StorageError::NoSuchPiece { group });
        }
        if self.log.retired.load(std::sync::atomic::Ordering::Acquire) {
            return Err(StorageError::LogClosed(group));
        }
        let known = {
            let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            open.as_ref().filter(|open| (open.segment, open.part) == (segment, part)).map(|open| open.file.clone())
        };
        let path = held.path(kind);
        let file = match known {
            Some(file) => file,
            None => {
                let disk = &self.log.context.disk;
                let file = disk.open(&path, OpenMode::Read).map_err(|error| StorageError::io("open", &path, error))?;
                let opened = OpenPart { segment, part, file: file.clone() };
                *self.open.lock().unwrap_or_else(PoisonError::into_inner) = Some(opened);
                file
            }
        };
        let bytes =
            file.read_vec_at(length, position).map_err(|error| self.failed(held, held.io("read", kind, error)))?;
        Ok(bytes.into())
    }

    /// Looks through the manifest's `segment`th segment, which another replica could not prove although it received it
    /// anew: proves it as a read does, and has the operator told, once, of what is wrong with it. Blocks; reads all of
    /// it.
    ///
    /// # Errors
    ///
    /// What is wrong with the segment, [`StorageError::NoSuchPiece`], [`StorageError::LogClosed`].
    pub fn look_through(&self, segment: usize) -> Result<(), StorageError> {
        let (_, held) = self.segments.get(segment).ok_or(StorageError::NoSuchPiece { group: self.log.group() })?;
        // The index is to be proven anew, too.
        held.release();
        let proven = self.log.with_index(held, || held.closed_view()?.prove_all());
        held.release();
        proven.map_err(|error| self.failed(held, error))
    }

    /// A segment cannot be shipped: has the operator told if that will not pass.
    fn failed(&self, held: &Segment, error: SegmentError) -> StorageError {
        if error.is_damage() && held.is_news() {
            self.log.tell(format!("{error}; replicas that need this segment cannot be filled from here"));
        }
        self.log.segment_error(error)
    }
}
