//! What the journal says, replayed over what the table and the segments say.
//!
//! Replay is idempotent: a record that is in the log already changes nothing. What becomes of an entry is a table,
//! [`DECISIONS`], whose rows are tried in order; the log is what recovery found and what was replayed before.

use millpond_record::{RaftIndex, Term};

use super::Log;
use super::state::{JOURNALED_CHECKPOINTS, LogState, Place};
use crate::StorageError;
use crate::cache::own_cost;
use crate::index::SegmentCursor;
use crate::journal::JournalEntry;
use crate::types::FlushMode;

/// A recovery writes what it replayed into the segments when it has gathered this much of a log.
const REPLAYED_BYTES: u64 = 4 << 20;

/// What a replayed record did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Replayed {
    /// It changed the log.
    Applied,
    /// The log had it already, or something newer.
    Skipped,
    /// What came before it is lost, as a relaxed log allows.
    Lost,
}

/// Where a replayed entry would be in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Where {
    /// At or below P.
    Purged,
    /// Where the log has an entry.
    Within,
    /// Right behind the last entry.
    Next,
    /// Further behind.
    Beyond,
}

/// The entry's term, compared with that of the entry in its place, or of the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TermIs {
    Any,
    Lower,
    Same,
    NotLower,
    Higher,
}

/// Whether the log may miss batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gaps {
    Any,
    Tolerated,
    Impossible,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    SkipSame,
    Skip,
    CutAndAppend,
    Append,
    SkipAsLost,
    Refuse,
}

/// What becomes of a replayed entry. The first row that fits decides.
const DECISIONS: [(Where, TermIs, Gaps, Action); 9] = [
    // Raft never looks below P.
    (Where::Purged, TermIs::Any, Gaps::Any, Action::Skip),
    // The same index and term is the same entry (Raft's log matching).
    (Where::Within, TermIs::Same, Gaps::Any, Action::SkipSame),
    // A later leader overwrote what a segment still has.
    (Where::Within, TermIs::Higher, Gaps::Any, Action::CutAndAppend),
    // The segment is ahead of this record: the one that put the newer entry there follows.
    (Where::Within, TermIs::Lower, Gaps::Any, Action::Skip),
    (Where::Next, TermIs::NotLower, Gaps::Any, Action::Append),
    // A record from before the entry that is last now, which replaced it.
    (Where::Next, TermIs::Lower, Gaps::Any, Action::Skip),
    (Where::Beyond, TermIs::Lower, Gaps::Any, Action::Skip),
    // The batches before it were only in the page cache. What is appended now has a higher term.
    (Where::Beyond, TermIs::NotLower, Gaps::Tolerated, Action::SkipAsLost),
    // The journal misses something that it had acknowledged.
    (Where::Beyond, TermIs::NotLower, Gaps::Impossible, Action::Refuse),
];

impl TermIs {
    fn fits(self, term: Term, other: Term) -> bool {
        match self {
            TermIs::Any => true,
            TermIs::Lower => term < other,
            TermIs::Same => term == other,
            TermIs::NotLower => term >= other,
            TermIs::Higher => term > other,
        }
    }
}

/// What becomes of an entry.
pub(crate) fn decide(place: Where, term: Term, other: Term, tolerated: bool) -> Action {
    let gaps = if tolerated { Gaps::Tolerated } else { Gaps::Impossible };
    let row =
        DECISIONS.iter().find(|row| row.0 == place && row.1.fits(term, other) && (row.2 == Gaps::Any || row.2 == gaps));
    row.expect("the table has a row for every case").3
}

fn is_diverged(state: &LogState) -> bool {
    state.recovery.as_ref().is_some_and(|recovery| recovery.diverged.is_some())
}

/// When the cut is at a segment's beginning: the segment before it, if that does not end there as a closed segment. A
/// crash may have come in the middle of cutting it.
fn broken_before(state: &LogState, at: usize, index: RaftIndex) -> Option<usize> {
    let begins = state.segments.get(at).is_some_and(|segment| segment.name.first_index == index);
    let before = at.checked_sub(1).filter(|_| begins)?;
    let segment = &state.segments[before];
    if state.unwritten.iter().any(|work| work.segment.name == segment.name) {
        return None;
    }
    if is_diverged(state) {
        // A later recovery, or the last run, may have cut further down and filled both with a later leader's entries.
        return Some(before);
    }
    let whole = segment.closed().is_ok_and(|closed| closed.trailer.next_index == index);
    (!whole).then_some(before)
}

/// The segments lack an entry that was synced there.
fn missing(state: &mut LogState, index: RaftIndex) {
    if let Some(recovery) = &mut state.recovery {
        recovery.missing = recovery.missing.max(Some(index));
    }
}

/// The journal has the entry that the log has.
fn journaled(state: &mut LogState, index: RaftIndex) {
    if let Some(recovery) = &mut state.recovery {
        recovery.journaled_end = recovery.journaled_end.max(RaftIndex(index.0 + 1));
    }
}

impl LogState {
    /// Where an entry belongs, and the term to compare its own with.
    fn place(&self, index: RaftIndex, continues: bool) -> (Where, Term) {
        let purged = self.purged.is_some_and(|purged| index <= purged.index);
        let Some(last) = self.last else {
            // The first entry of a log may have any index; that it takes the first offset tells that none is missing.
            return (if continues { Where::Next } else { Where::Beyond }, Term(0));
        };
        if purged {
            (Where::Purged, last.term)
        } else if index > last.index {
            (if index == self.next_index() { Where::Next } else { Where::Beyond }, last.term)
        } else {
            match self.term_at(index) {
                Some(term) => (Where::Within, term),
                // Below the first entry: deleted with its segment.
                None => (Where::Purged, last.term),
            }
        }
    }
}

impl Log {
    /// Replays one record of this group that its row does not have yet. Blocks, without waiting for any driver.
    ///
    /// # Errors
    ///
    /// [`StorageError::Corrupt`] where record and log contradict each other; what reads and writes of the segments say.
    pub(crate) fn replay(&self, entry: JournalEntry) -> Result<Replayed, StorageError> {
        let mut state = self.state();
        let (done, write) = self.replay_into(&mut state, entry)?;
        drop(state);
        if write {
            self.write_behind(u64::MAX)?;
            self.context.cache.make_room();
        }
        Ok(done)
    }

    fn replay_into(&self, state: &mut LogState, entry: JournalEntry) -> Result<(Replayed, bool), StorageError> {
        let recovery = state.recovery.as_ref().ok_or_else(|| self.corrupt("a record is replayed into a log in use"))?;
        let tolerates_gaps = recovery.tolerates_gaps;
        match entry {
            JournalEntry::Append { index, term, append_time, begins_segment, batch, .. } => {
                let (place, other) = state.place(index, batch.header().base_offset == state.log_end);
                match decide(place, term, other, tolerates_gaps) {
                    Action::SkipSame => {
                        journaled(state, index);
                        return Ok((Replayed::Skipped, false));
                    }
                    Action::Skip => return Ok((Replayed::Skipped, false)),
                    Action::SkipAsLost => return Ok((Replayed::Lost, false)),
                    Action::Refuse if recovery.missing.is_some() => {
                        // It goes with what it follows.
                        missing(state, index);
                        return Ok((Replayed::Skipped, false));
                    }
                    Action::Refuse => {
                        let last = state.last.map(|last| last.to_string()).unwrap_or_default();
                        return Err(self.corrupt(format!(
                            "the journal goes on with entry {term}/{index} but the log ends with {last}"
                        )));
                    }
                    Action::CutAndAppend => self.cut_replayed(state, index)?,
                    Action::Append => {}
                }
                if state.last.is_none() {
                    (state.first_index, state.next_unwritten, state.pending_first) = (index, index, index);
                }
                let header = batch.header();
                if is_diverged(state) {
                    // Where the log ends is not known; this entry goes again when its place is found.
                    state.log_end = header.base_offset;
                }
                if header.base_offset != state.log_end || header.leader_epoch.0 as u64 != term.0 || term > Term::MAX {
                    return Err(self.corrupt(format!("the journal's entry {term}/{index} does not continue the log")));
                }
                if begins_segment && state.cursor.position > 0 && !is_diverged(state) {
                    state.roll();
                }
                let cost = own_cost(&batch);
                state.push(&batch, term, append_time, cost);
                journaled(state, index);
                self.context.cache.appended(cost);
            }
            JournalEntry::Placed { index, term, .. } => {
                let (place, other) = state.place(index, false);
                match decide(place, term, other, tolerates_gaps) {
                    Action::SkipSame => journaled(state, index),
                    Action::Skip => {}
                    Action::SkipAsLost => return Ok((Replayed::Lost, false)),
                    // Its batch was in the segment, and is not.
                    Action::CutAndAppend | Action::Append | Action::Refuse => missing(state, index),
                }
                return Ok((Replayed::Skipped, false));
            }
            JournalEntry::Truncate { after, .. } => {
                let kept = after.map_or(RaftIndex(0), |after| RaftIndex(after.0 + 1));
                let next = state.next_index();
                if let Some(recovery) = &mut state.recovery {
                    // What lies behind the cut need not be there; what lies before it must be.
                    let before = kept.0.checked_sub(1).map(RaftIndex).filter(|_| kept > next);
                    recovery.missing = recovery.missing.and_then(|missing| Some(missing.min(before?)));
                }
                // It may be replayed once more, over what is appended now.
                state.journaled_checkpoints = JOURNALED_CHECKPOINTS;
                if let Some(recovery) = &mut state.recovery {
                    recovery.cuts.insert(kept);
                }
                if state.last.is_none_or(|last| last.index < kept) {
                    return Ok((Replayed::Skipped, false));
                }
                self.cut_replayed(state, kept)?;
            }
            JournalEntry::Vote { vote, .. } => {
                if !vote.supersedes(&state.vote) {
                    return Ok((Replayed::Skipped, false));
                }
                state.vote = vote;
            }
            JournalEntry::Purge { position, membership, .. } => {
                if state.purged.is_some_and(|purged| purged.index >= position.index) {
                    return Ok((Replayed::Skipped, false));
                }
                if state.last == Some(position.log_id()) && state.cursor.position > 0 {
                    state.roll();
                }
                state.purged = Some(position);
                state.membership_at_p = membership;
            }
            JournalEntry::LogStart { offset, .. } => state.log_start = state.log_start.max(offset),
            JournalEntry::Options { options, .. } => {
                state.options = options;
                if let Some(recovery) = &mut state.recovery {
                    recovery.tolerates_gaps |= options.flush == FlushMode::Relaxed;
                }
            }
            JournalEntry::Create { .. } | JournalEntry::Delete { .. } | JournalEntry::Install { .. } => {
                return Err(self.corrupt("its creation, installation or deletion is replayed into the log"));
            }
        }
        // After a cut the files follow at once: the next one may need the index of what is left.
        let write = !is_diverged(state) && (state.cut.is_some() || state.dirty_bytes > REPLAYED_BYTES);
        Ok((Replayed::Applied, write))
    }

    /// Drops what the log has from `index` on.
    ///
    /// An earlier recovery, before it crashed, may have cut the files here or further down and written other entries.
    /// Then the place cannot be found, or not what should lie before it, and the files are left alone until the record
    /// comes that cuts below all of that: up to the lowest cut they hold what they always held.
    fn cut_replayed(&self, state: &mut LogState, index: RaftIndex) -> Result<(), StorageError> {
        let whole = state.purged.is_none() && state.lowest().is_none_or(|lowest| index <= lowest);
        let after = index.0.checked_sub(1).map(RaftIndex).filter(|_| !whole);
        let diverged = is_diverged(state);
        let in_files = index < state.next_unwritten;
        let at = state.segments.partition_point(|segment| segment.name.first_index <= index).saturating_sub(1);
        let found = if whole {
            Ok(Place::START)
        } else if let Some(before) = broken_before(state, at, index) {
            self.locate_by_scan(state, before, index)
        } else if diverged && in_files {
            self.locate_by_scan(state, at, index)
        } else {
            self.locate(state, index).or_else(|_| self.locate_by_scan(state, at, index))
        };
        let why = found.as_ref().err().map(ToString::to_string);
        if diverged {
            // It was never done to the files.
            state.cut = None;
        }
        let nowhere = Place { segment: at, cursor: SegmentCursor::START, offset: state.log_end };
        let (cost, dirty) = state.truncate(after, found.unwrap_or(nowhere), true);
        self.context.cache.removed(cost, dirty);
        if why.is_some() || (diverged && !in_files) {
            state.cut = None;
        }
        if let Some(recovery) = &mut state.recovery {
            recovery.cuts.insert(index);
            recovery.found_end = recovery.found_end.min(index);
            recovery.journaled_end = recovery.journaled_end.min(index);
            match why {
                Some(why) => recovery.diverged = Some(why),
                None if in_files => recovery.diverged = None,
                None => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
