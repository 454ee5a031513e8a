//! The log start and what lies below it: from the decision to the removal of files.
//!
//! | step | made durable by |
//! | --- | --- |
//! | a Raft-only entry moves the log start when it is committed | the journal; the row |
//! | P moves to the last segment boundary at or below the log start | the journal; the row |
//! | a checkpoint writes a row that says both | `groups.table` |
//! | segments that this row has wholly below both are removed | – |
//!
//! So whatever a crash leaves, what a start finds missing its row knows to be gone, and what it finds although the row
//! knows it to be gone it removes.

use std::sync::Arc;

use millpond_record::{Offset, RaftIndex, RaftOnlyKind, Term, Timestamp};

use super::Log;
use super::append::Appending;
use super::file_state::FileState;
use super::open::Folder;
use super::state::{LogState, SegmentMaker};
use super::types::Outcome;
use super::void::log_start_payload;
use crate::StorageError;
use crate::retention::{Limits, SegmentFacts, new_log_start};
use crate::segment::{Segment, SegmentFile, SegmentName};
use crate::types::{Done, EpochStart, GroupRow, Retained};

/// Whether P could move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freeing {
    /// Nothing is wholly below the log start but what is below P.
    Nothing,
    /// P has moved, or is where it should be, and segments below it wait for a checkpoint that lets them go.
    AwaitsCheckpoint,
}

impl LogState {
    /// How many segments lie wholly below an offset.
    pub(super) fn segments_below(&self, offset: Offset) -> usize {
        let next = self.segments.get(1..).unwrap_or_default();
        next.partition_point(|segment| segment.name.base_offset <= offset)
    }

    fn segment_bytes(&self, at: usize) -> u64 {
        if at + 1 == self.segments.len() { self.cursor.position.into() } else { self.segments[at].log_bytes() }
    }

    /// What retention must know of the log.
    pub(crate) fn retained(&self) -> Retained {
        let below = self.segments_below(self.log_start);
        let (Some(oldest), false) = (self.segments.get(below), self.last.is_none() || self.set_aside) else {
            return Retained::NOTHING;
        };
        let active = below + 1 == self.segments.len();
        let own = self.cursor.trailer(self.next_index()).newest();
        Retained {
            bytes: (below..self.segments.len()).map(|at| self.segment_bytes(at)).sum(),
            oldest_bytes: self.segment_bytes(below),
            oldest_newest: if active { Some(own) } else { oldest.known_newest() },
            active_since: self.active_since,
            last_append: self.cursor.append_time,
            freeable: below > 0,
        }
    }

    fn facts(&self, below: usize) -> Vec<SegmentFacts> {
        let end_of = |at: usize| self.segments.get(at + 1).map_or(self.log_end, |next| next.name.base_offset);
        let facts = |at: usize| SegmentFacts {
            base_offset: self.segments[at].name.base_offset,
            end_offset: end_of(at),
            bytes: self.segment_bytes(at),
        };
        (below..self.segments.len()).map(facts).collect()
    }

    /// Forgets where terms began whose entries are all gone: `first` and `offset` are those of the first entry that is
    /// left.
    fn prune_epochs(&mut self, first: RaftIndex, offset: Offset) {
        let after = self.epochs.partition_point(|epoch| epoch.index <= first);
        let Some(at) = after.checked_sub(1) else { return };
        self.epochs.drain(..at);
        if let Some(EpochStart { index, offset: start, .. }) = self.epochs.first_mut() {
            (*index, *start) = (first, offset);
        }
    }
}

impl Log {
    /// What retention must know of the log, as its row keeps it.
    pub fn retained(&self) -> Retained {
        self.state().retained()
    }

    /// The log start that these limits ask for at `now`; `None` if it stays. Blocks: the index of an old segment may
    /// have to be read for its time, once.
    ///
    /// # Errors
    ///
    /// What a read of an index says.
    pub fn retention(&self, limits: Limits, now: Timestamp) -> Result<Option<Offset>, StorageError> {
        let (facts, segments, own, high_watermark) = {
            let state = self.state();
            self.check_readable(&state)?;
            let below = state.segments_below(state.log_start);
            let own = state.cursor.trailer(state.next_index()).newest();
            (state.facts(below), state.segments[below.min(state.segments.len())..].to_vec(), own, state.high_watermark)
        };
        let active = segments.len().saturating_sub(1);
        let of = |at: usize| match segments.get(at).filter(|_| at < active) {
            Some(segment) => self.with_index(segment, || segment.newest()),
            None => Ok(own),
        };
        // A damaged segment whose time nobody can tell goes with the one behind it: never early, and not never.
        let known = |at: &usize| *at == active || !of(*at).is_err_and(|error| error.is_damage());
        let time = |at: usize| of((at..active).find(known).unwrap_or(active));
        let start = new_log_start(&facts, high_watermark, now, limits, time);
        let start = start.map_err(|error| self.segment_error(error))?;
        Ok(start.filter(|start| *start > self.state().log_start))
    }

    /// Appends the entry that moves the log start to `offset` when it is committed, in a group with one replica. If
    /// that is the log's end, the active segment is closed first, so that it can be removed.
    ///
    /// # Errors
    ///
    /// As for [`Log::append`].
    pub fn append_log_start(
        &self,
        term: Term,
        offset: Offset,
        time: Timestamp,
        done: Done,
    ) -> Result<Outcome, StorageError> {
        self.appending(1, done, |state, appending: &mut Appending<'_>| {
            appending.check_term(state, term)?;
            let begin = state.segments.last().map(|active| active.name.base_offset);
            if offset == state.log_end && begin.is_some_and(|begin| begin < offset) {
                state.roll();
            }
            appending.raft_only(state, term, RaftOnlyKind::LogStart, &log_start_payload(offset), time)
        })
    }

    /// Moves P to the last segment boundary at or below the log start, so that the next checkpoint lets what lies below
    /// go. To be called where the log's only replica is; the membership at P is the one in force.
    ///
    /// # Errors
    ///
    /// The journal's.
    pub fn free_below_log_start(&self) -> Result<Freeing, StorageError> {
        let (index, membership) = {
            let state = self.state();
            self.check_open(&state)?;
            let below = state.segments_below(state.log_start);
            let committed = |at: usize| {
                let first = state.segments[at].name.first_index;
                state.committed.is_some_and(|committed| first.0 <= committed.index.0 + 1)
            };
            let Some(boundary) = (1..=below).rev().find(|at| committed(*at)) else { return Ok(Freeing::Nothing) };
            let index = RaftIndex(state.segments[boundary].name.first_index.0 - 1);
            if state.purged.is_some_and(|purged| purged.index >= index) {
                return Ok(Freeing::AwaitsCheckpoint);
            }
            (index, state.membership_as_of(index))
        };
        match self.advance_p(index, membership, Box::new(|_| {})) {
            // A relaxed log must be synced up to there first: by the checkpoint that is awaited. Or P moved meanwhile.
            Ok(_) | Err(StorageError::NotABoundary { .. }) => {}
            Err(error) => return Err(error),
        }
        // Producers that are known only from what goes must be known from a snapshot.
        self.state().snapshot_due = true;
        Ok(Freeing::AwaitsCheckpoint)
    }

    /// Keeps the segments with entries from `index` on although P and the log start have passed them: whoever
    /// replicates the log may read them still. Without a call nothing is kept for that.
    pub fn keep_entries_from(&self, index: RaftIndex) {
        self.state().still_read = Some(index);
    }

    /// Removes the segments that a row, which is durable, has wholly below P and the log start. Blocks.
    ///
    /// A file that cannot be removed now is removed when the log is opened again.
    pub(crate) fn remove_below(&self, row: &GroupRow) {
        let (doomed, snapshots) = {
            let mut files = self.files();
            let mut state = self.state();
            if self.check_readable(&state).is_err() || state.installing.is_some() {
                return;
            }
            let Some((first, name)) = first_kept(&state.segments, row, state.still_read) else {
                let free = self.pins().removable(Vec::new());
                drop(state);
                return self.remove_oldest_first(free);
            };
            let known = files.snapshots.last().is_some_and(|newest| newest.first_index >= name.first_index);
            if !known && state.producers.len() > 0 {
                state.snapshot_due = true;
                return;
            }
            let doomed: Vec<Arc<Segment>> = state.segments.drain(..first).collect();
            state.prune_epochs(name.first_index, name.base_offset);
            for segment in &doomed {
                segment.mark_removed();
            }
            (self.pins().removable(doomed), forget(&mut files, name))
        };
        self.remove_oldest_first(doomed);
        for name in snapshots {
            let _ = self.context.disk.remove_file(&self.folder.join(name.file(SegmentFile::Snapshot)));
        }
    }

    /// Removes segments that are no longer part of the log.
    fn remove_oldest_first(&self, doomed: Vec<Arc<Segment>>) {
        self.recent().retain(|segment| !segment.is_removed());
        // The oldest first, so that what a crash leaves has no gap. Nothing is synced: the row knows they are gone.
        for segment in doomed {
            let _ = segment.remove();
        }
    }

    /// Removes what an earlier run left of segments that the row has wholly below P and the log start, and leaves them
    /// out of `names`. Gives how many of the others are wholly below the log start.
    pub(super) fn remove_leftovers(
        maker: &SegmentMaker,
        found: &mut Folder,
        names: &mut Vec<SegmentName>,
        row: &GroupRow,
    ) -> usize {
        let segments: Vec<Arc<Segment>> = names.iter().map(|name| maker.make(*name)).collect();
        let gone = first_kept(&segments, row, None).map_or(0, |(first, _)| first);
        for segment in &segments[..gone] {
            found.logs.remove(&segment.name);
            // What cannot be removed is found again by the next start.
            let _ = segment.remove();
        }
        names.drain(..gone);
        if let Some(first) = names.first() {
            let orphans = found.indexes.iter().filter(|name| *name < first && !found.logs.contains_key(name));
            for name in orphans {
                let _ = maker.make(*name).remove();
            }
        }
        let next = names.get(1..).unwrap_or_default();
        next.partition_point(|name| name.base_offset <= row.log_start)
    }
}

/// The first segment that stays, and its place, if the row lets one before it go. What lies from `still_read` on stays.
fn first_kept(
    segments: &[Arc<Segment>],
    row: &GroupRow,
    still_read: Option<RaftIndex>,
) -> Option<(usize, SegmentName)> {
    let unread = |name: SegmentName| still_read.is_none_or(|from| name.first_index <= from);
    let stays = |segment: &&Arc<Segment>| may_be_first(segment.name, row) && unread(segment.name);
    // Everything in front of the last one that could be first.
    let first = segments.iter().take_while(stays).count().checked_sub(1).filter(|first| *first > 0)?;
    Some((first, segments[first].name))
}

/// Whether a row lets everything in front of a segment go.
pub(crate) fn may_be_first(name: SegmentName, row: &GroupRow) -> bool {
    let (Some(purged), Some(active)) = (row.purged, row.durable) else { return false };
    name.first_index.0 <= purged.index.0 + 1
        && name.base_offset <= row.log_start
        && (name.base_offset, name.first_index) <= (active.base_offset, active.first_index)
}

/// Forgets the files of what is below a segment; gives the snapshots to be removed.
fn forget(files: &mut FileState, first: SegmentName) -> Vec<SegmentName> {
    files.forget_segments_below(first);
    let stays = files.snapshots.partition_point(|name| name.first_index < first.first_index);
    files.snapshots.drain(..stays).collect()
}
