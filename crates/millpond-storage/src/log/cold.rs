//! What to read of a segment's file, decided under the log's mutex and read without it.

use std::sync::Arc;

use millpond_record::{RaftIndex, Timestamp};

use super::state::LogState;
use crate::index::{self, IndexSource};
use crate::segment::{Segment, SegmentError, SegmentFile, SegmentView};

/// A segment and how much of it is in its files.
#[derive(Clone)]
pub(crate) struct ColdPlan {
    pub(crate) segment: Arc<Segment>,
    /// `None` for a closed segment that is written whole.
    open: Option<WrittenPart>,
}

/// The part of a segment that left the tail cache, or was never in it.
#[derive(Clone, Copy)]
struct WrittenPart {
    entries: u32,
    end: u32,
    end_hash: u64,
    max_timestamp: Timestamp,
}

impl ColdPlan {
    /// What can be read of the log's `at`th segment; `None` if all of it is in the tail cache.
    pub(crate) fn of(state: &LogState, at: usize) -> Option<ColdPlan> {
        let segment = state.segments.get(at)?.clone();
        let Some(work) = state.unwritten.iter().find(|work| work.segment.name == segment.name) else {
            return Some(ColdPlan { segment, open: None });
        };
        let first = segment.name.first_index;
        let next = state.segments.get(at + 1).map_or(state.next_index(), |next| next.name.first_index);
        let tail_first = state.tail_first();
        let part = if tail_first < next {
            let before = state.cached(tail_first.max(first))?.before;
            WrittenPart {
                entries: before.entries,
                end: before.position,
                end_hash: before.hash,
                max_timestamp: before.max_timestamp,
            }
        } else {
            let trailer = work.end.unwrap_or_else(|| state.cursor.trailer(next));
            WrittenPart {
                entries: work.entries_written,
                end: trailer.log_bytes,
                end_hash: trailer.hash,
                max_timestamp: trailer.max_timestamp,
            }
        };
        (part.end > 0).then_some(ColdPlan { segment, open: Some(part) })
    }

    /// Opens the files.
    pub(crate) fn open(&self) -> Result<SegmentView, SegmentError> {
        let segment = self.segment.clone();
        match self.open {
            None => segment.closed_view(),
            Some(part) => {
                let files = segment.existing_files()?;
                let length = files.index.len().map_err(|error| segment.io("read", SegmentFile::Index, error))?;
                if length < index::entry_position(part.entries) {
                    return Err(segment.index_error(index::IndexError::Length(length)));
                }
                Ok(SegmentView {
                    segment,
                    log: files.log,
                    index: IndexSource::File(files.index, part.entries),
                    end: part.end,
                    end_hash: part.end_hash,
                })
            }
        }
    }

    /// Whether it is a closed segment, written whole.
    pub(crate) fn is_closed(&self) -> bool {
        self.open.is_none()
    }

    /// The first Raft index of the segment.
    pub(crate) fn first_index(&self) -> RaftIndex {
        self.segment.name.first_index
    }

    /// The max timestamp of what can be read; opens a closed segment whose end is not known yet.
    pub(crate) fn max_timestamp(&self) -> Result<Timestamp, SegmentError> {
        match &self.open {
            Some(part) => Ok(part.max_timestamp),
            None => Ok(self.segment.trailer()?.max_timestamp),
        }
    }
}
