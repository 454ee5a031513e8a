//! What recovery would make of a log, as numbers: the entry it ends with, and by which terms it got there.

use millpond_record::{LogId, Offset, RaftIndex, Term};

use super::{At, Verifier};
use crate::journal::JournalEntry;
use crate::log::{Action, Where, decide};
use crate::types::{FlushMode, GroupRow, Vote};

/// A log on its way through recovery.
pub(super) struct Course {
    /// Records below it are in the row.
    pub(super) journal_sequence: u64,
    /// From this index on the segments may differ from the row, because the journal replaces what the row counts.
    pub(super) cut: Option<RaftIndex>,
    pub(super) last: Option<LogId>,
    /// The next offset; not known behind a cut.
    pub(super) log_end: Option<Offset>,
    /// Where each term begins.
    pub(super) terms: Vec<(Term, RaftIndex)>,
    /// The segments are not what the row says from here on, and a record must explain it.
    pub(super) diverged_at: Option<RaftIndex>,
    /// The segments lack an entry up to here that was synced in them.
    missing: Option<RaftIndex>,
    /// Something was found already: what follows from it is not told again.
    pub(super) over: bool,
    purged: Option<RaftIndex>,
    vote: Vote,
    tolerates_gaps: bool,
}

impl Course {
    pub(super) fn new(row: &GroupRow, cut: Option<RaftIndex>) -> Course {
        Course {
            journal_sequence: row.journal_sequence,
            cut,
            last: row.last,
            log_end: Some(row.log_end),
            terms: row.epochs.iter().map(|epoch| (epoch.term, epoch.index)).collect(),
            diverged_at: None,
            missing: None,
            over: row.set_aside,
            purged: row.purged.map(|purged| purged.index),
            vote: row.vote,
            tolerates_gaps: row.options.flush == FlushMode::Relaxed,
        }
    }

    /// Whether what happens to it is still of interest.
    pub(super) fn is_open(&self) -> bool {
        !self.over
    }

    /// Whether the journal may have replaced the entry at `index` since the row was written.
    pub(super) fn may_differ(&self, index: RaftIndex) -> bool {
        self.cut.is_some_and(|cut| index >= cut)
    }

    /// An entry that was found in a segment, beyond the row's end.
    pub(super) fn found(&mut self, id: LogId, next_offset: Offset) {
        if self.terms.last().is_none_or(|last| last.0 < id.term) {
            self.terms.push((id.term, id.index));
        }
        (self.last, self.log_end) = (Some(id), Some(next_offset));
    }

    fn term_at(&self, index: RaftIndex) -> Option<Term> {
        let at = self.terms.partition_point(|(_, first)| *first <= index).checked_sub(1)?;
        Some(self.terms[at].0)
    }

    /// Ends the log in front of `index`.
    fn cut_at(&mut self, index: RaftIndex) {
        self.terms.retain(|(_, first)| *first < index);
        let before = index.0.checked_sub(1).map(RaftIndex);
        self.last = before.and_then(|before| Some(LogId { term: self.term_at(before)?, index: before }));
        // Without an entry left it begins at offset 0 again, unless older ones were deleted.
        self.log_end = (self.last.is_none() && self.purged.is_none()).then_some(Offset(0));
    }

    fn place(&self, index: RaftIndex, continues: bool) -> (Where, Term) {
        let Some(last) = self.last else {
            return (if continues { Where::Next } else { Where::Beyond }, Term(0));
        };
        if self.purged.is_some_and(|purged| index <= purged) {
            (Where::Purged, last.term)
        } else if index > last.index {
            (if index.0 == last.index.0 + 1 { Where::Next } else { Where::Beyond }, last.term)
        } else {
            self.term_at(index).map_or((Where::Purged, last.term), |term| (Where::Within, term))
        }
    }

    /// Plays a record that the row does not have; tells why a start would set the log aside, if it would.
    pub(super) fn replay(&mut self, entry: JournalEntry) -> Option<String> {
        match entry {
            JournalEntry::Append { index, term, batch, .. } => {
                let header = batch.header();
                let continues = self.log_end.is_none_or(|end| end == header.base_offset);
                let (place, other) = self.place(index, continues);
                match decide(place, term, other, self.tolerates_gaps) {
                    Action::Skip | Action::SkipSame | Action::SkipAsLost => return None,
                    // It goes with what it follows.
                    Action::Refuse if self.missing.is_some() => {
                        self.missing = self.missing.max(Some(index));
                        return None;
                    }
                    Action::Refuse => {
                        self.over = true;
                        let last = self.last.map_or("nothing".into(), |last| last.to_string());
                        return Some(format!("it goes on with entry {term}/{index}, but the log ends with {last}"));
                    }
                    Action::CutAndAppend => {
                        self.cut_at(index);
                        self.explain(index);
                    }
                    Action::Append => {}
                }
                let differs = self.log_end.is_some_and(|end| end != header.base_offset);
                if (differs && self.diverged_at.is_none()) || header.leader_epoch.0 as u64 != term.0 {
                    self.over = true;
                    return Some(format!("its entry {term}/{index} does not continue the log"));
                }
                self.found(LogId { term, index }, header.next_offset());
            }
            JournalEntry::Placed { index, term, .. } => {
                let (place, other) = self.place(index, false);
                match decide(place, term, other, self.tolerates_gaps) {
                    Action::Skip | Action::SkipSame | Action::SkipAsLost => {}
                    // Its batch was in the segment, and is not.
                    Action::CutAndAppend | Action::Append | Action::Refuse => {
                        self.missing = self.missing.max(Some(index));
                    }
                }
            }
            JournalEntry::Truncate { after, .. } => {
                let kept = after.map_or(RaftIndex(0), |after| RaftIndex(after.0 + 1));
                let next = self.last.map_or(RaftIndex(0), |last| RaftIndex(last.index.0 + 1));
                // What lies behind the cut need not be there; what lies before it must be.
                let before = kept.0.checked_sub(1).map(RaftIndex).filter(|_| kept > next);
                self.missing = self.missing.and_then(|missing| Some(missing.min(before?)));
                if self.last.is_some_and(|last| last.index >= kept) {
                    self.cut_at(kept);
                }
                self.explain(kept);
            }
            JournalEntry::Vote { vote, .. } => {
                if vote.supersedes(&self.vote) {
                    self.vote = vote;
                }
            }
            JournalEntry::Purge { position, .. } => self.purged = self.purged.max(Some(position.index)),
            JournalEntry::Options { options, .. } => self.tolerates_gaps |= options.flush == FlushMode::Relaxed,
            // An installation is in the row already.
            JournalEntry::LogStart { .. }
            | JournalEntry::Create { .. }
            | JournalEntry::Delete { .. }
            | JournalEntry::Install { .. } => {}
        }
        None
    }

    /// The journal ends the log in front of `index`: what the segments hold from there on does not matter.
    fn explain(&mut self, index: RaftIndex) {
        self.diverged_at = self.diverged_at.filter(|diverged| *diverged < index);
    }
}

impl Verifier<'_> {
    /// What a start checks of a log when everything is replayed.
    pub(super) fn end_of_course(&mut self, row: &GroupRow, course: &Course) {
        if !course.is_open() {
            return;
        }
        let path = self.root.join(row.folder());
        let ends = course.last.map_or("holds nothing".to_owned(), |last| format!("ends with entry {last}"));
        let last = course.last.map(|last| last.index);
        if let Some(index) = course.diverged_at {
            let what = format!("from entry {index} on its segments differ from the table, and no record explains it");
            self.damage(&path, At::FILE, what);
        } else if let Some(missing) = course.missing {
            self.damage(&path, At::FILE, format!("it {ends}, before entry {missing}, which was synced"));
        } else if course.purged > last {
            self.damage(&path, At::FILE, format!("after the replay it {ends}, before P"));
        } else if row.committed.map(|committed| committed.index) > last && !course.tolerates_gaps {
            self.damage(&path, At::FILE, format!("after the replay it {ends}, before what the table calls committed"));
        } else if course.last.is_some_and(|last| last.term > course.vote.term) {
            let vote = course.vote.term;
            self.damage(&path, At::FILE, format!("it {ends}, but its vote is of term {vote}: a vote was lost"));
        }
    }
}
