//! Appending: stamping, the sequence check, the journal.

use bytes::Bytes;
use millpond_record::{RaftIndex, RaftOnlyKind, StampedBatch, Term, Timestamp, parse_raft_only, raft_only_batch};

use super::Log;
use super::state::{LogState, RelaxedAck};
use super::types::{AppendEntry, Body, Outcome, Proposal, Stored};
use super::void::VoidReason;
use crate::StorageError;
use crate::cache::{own_cost, unpinned};
use crate::journal::JournalEntry;
use crate::producer::{Checked, Producers};
use crate::types::{Done, FlushMode};
use crate::writer::WRITE_BEHIND_BYTES;

/// A relaxed append is written where it is made while the log has no more unwritten bytes than this: the system takes
/// them in microseconds, and the way over the writer's thread and back takes longer.
const AT_ONCE_BYTES: u64 = 64 << 10;

/// The entries of one call on their way into the log.
pub(super) struct Appending<'a> {
    log: &'a Log,
    records: Vec<JournalEntry>,
    cost: u64,
    /// Whether an entry needs the journal whatever the flush mode.
    needs_journal: bool,
    /// What an entry needs on the disk before it counts: see [`RelaxedAck::synced`].
    synced: Option<RaftIndex>,
}

/// What becomes of a proposal.
enum Verdict {
    Append(StampedBatch, Outcome),
    Void(VoidReason, Outcome),
}

impl Log {
    /// Appends the entries of a Raft log: readable on return, flushed when `done` is called. A proposal that the
    /// sequence check refuses becomes a void entry. One outcome per entry.
    ///
    /// # Errors
    ///
    /// [`StorageError::NotNext`] and [`StorageError::OffsetMismatch`] if an entry does not continue the log,
    /// [`StorageError::BatchTooLarge`], and when the journal or this log failed. All are final for the Raft object:
    /// entries before the refused one may be in the log. `done` is dropped.
    pub fn append(&self, entries: Vec<AppendEntry>, done: Done) -> Result<Vec<Outcome>, StorageError> {
        let entries: Vec<(AppendEntry, u64)> = entries.into_iter().map(unpin).collect();
        let mut outcomes = Vec::with_capacity(entries.len());
        self.appending(entries.len(), done, |state, appending| {
            for (entry, cost) in entries {
                appending.check_next(state, &entry)?;
                let AppendEntry { term, body, .. } = entry;
                outcomes.push(match body {
                    Body::Proposed(proposal) => appending.propose(state, term, proposal, cost)?,
                    Body::Stored(stored) => appending.store(state, term, stored, cost)?,
                    Body::RaftOnly { kind, payload, time } => appending.raft_only(state, term, kind, &payload, time)?,
                });
            }
            Ok(())
        })?;
        Ok(outcomes)
    }

    /// Appends a proposal to the log of a group with one replica, as the next entry. A duplicate or a refused batch
    /// appends nothing, and `done` is called at once.
    ///
    /// # Errors
    ///
    /// As for [`Log::append`]; [`StorageError::Stalled`], which is not final: nothing was appended, and `done` is
    /// dropped.
    pub fn append_solo(&self, term: Term, proposal: Proposal, done: Done) -> Result<Outcome, StorageError> {
        let append_time = proposal.append_time;
        let (proposal, cost) = unpin_proposal(proposal);
        self.appending(1, done, |state, appending| {
            self.check_stalled(state)?;
            appending.check_term(state, term)?;
            match appending.judge(state, term, proposal)? {
                Verdict::Void(_, outcome) => Ok(outcome),
                Verdict::Append(batch, outcome) => {
                    appending.push(state, term, batch, append_time, cost)?;
                    Ok(outcome)
                }
            }
        })
    }

    /// Appends an entry of the broker itself as the next one, in a group with one replica.
    ///
    /// # Errors
    ///
    /// As for [`Log::append`].
    pub fn append_raft_only(
        &self,
        term: Term,
        kind: RaftOnlyKind,
        payload: Bytes,
        time: Timestamp,
        done: Done,
    ) -> Result<Outcome, StorageError> {
        self.appending(1, done, |state, appending| {
            appending.check_term(state, term)?;
            appending.raft_only(state, term, kind, &payload, time)
        })
    }

    /// Lets `append` put entries into the log, hands them to the journal, and sees to the rest when the mutex is free.
    pub(super) fn appending<T>(
        &self,
        entries: usize,
        done: Done,
        append: impl FnOnce(&mut LogState, &mut Appending<'_>) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        let mut appending = Appending::new(self, entries);
        let (result, urgent, at_once, wants_checkpoint, done) = {
            let mut state = self.state();
            self.check_open(&state)?;
            self.check_not_installing(&state)?;
            let result = append(&mut state, &mut appending);
            self.context.cache.appended(appending.cost);
            if let Err(error) = &result
                && appending.cost > 0
            {
                // Entries are in the log that the journal never gets.
                state.failed = Some(error.clone());
            }
            let needs_sync = appending.synced.is_some();
            let (urgent, done) = if result.is_ok() { appending.finish(&mut state, done)? } else { (false, None) };
            let relaxed = state.options.flush == FlushMode::Relaxed;
            (result, urgent, relaxed && state.dirty_bytes <= AT_ONCE_BYTES, needs_sync, done)
        };
        if wants_checkpoint {
            self.context.want_checkpoint();
        }
        self.context.cache.make_room();
        if !(at_once && self.write_at_once())
            && let Some(log) = self.me.upgrade()
        {
            self.context.writer.dirty(&log, urgent);
        }
        if let Some(done) = done {
            done(Ok(()));
        }
        result
    }

    /// The index that the next entry gets.
    pub fn next_index(&self) -> RaftIndex {
        self.state().next_index()
    }

    /// The journal answered for an append of a relaxed log.
    fn journal_answered(&self, ack: u64, result: Result<(), StorageError>) {
        let (ready, failed) = {
            let mut state = self.state();
            match result {
                Ok(()) => {
                    if let Some(waiting) = state.relaxed_acks.iter_mut().find(|waiting| waiting.journal == Some(ack)) {
                        waiting.journal = None;
                    }
                    (state.take_acks(), None)
                }
                Err(error) => (state.relaxed_acks.drain(..).map(|ack| ack.done).collect(), Some(error)),
            }
        };
        for done in ready {
            done(failed.clone().map_or(Ok(()), Err));
        }
    }
}

fn unpin(mut entry: AppendEntry) -> (AppendEntry, u64) {
    let cost = match entry.body {
        Body::Proposed(proposal) => {
            let (proposal, cost) = unpin_proposal(proposal);
            entry.body = Body::Proposed(proposal);
            cost
        }
        Body::Stored(Stored { batch, append_time, frame_bytes }) => {
            let small = batch.size_bytes() < frame_bytes / 4;
            let batch = if small { detached(&batch) } else { batch };
            let cost = own_cost(&batch).max(if small { 0 } else { frame_bytes as u64 });
            entry.body = Body::Stored(Stored { batch, append_time, frame_bytes });
            cost
        }
        raft_only @ Body::RaftOnly { .. } => {
            entry.body = raft_only;
            0
        }
    };
    (entry, cost)
}

/// The batch in an allocation of its own.
fn detached(batch: &StampedBatch) -> StampedBatch {
    StampedBatch::from_bytes(batch.to_bytes()).expect("the bytes of a stamped batch are a batch")
}

fn unpin_proposal(proposal: Proposal) -> (Proposal, u64) {
    let (batch, cost) = unpinned(proposal.batch, proposal.frame_bytes);
    (Proposal { batch, ..proposal }, cost)
}

impl<'a> Appending<'a> {
    fn new(log: &'a Log, entries: usize) -> Appending<'a> {
        Appending { log, records: Vec::with_capacity(entries), cost: 0, needs_journal: false, synced: None }
    }

    fn check_next(&self, state: &mut LogState, entry: &AppendEntry) -> Result<(), StorageError> {
        // The first entry of an empty log may have any index: a snapshot may come before it.
        if state.last.is_none() {
            state.first_index = entry.index;
            state.next_unwritten = entry.index;
            state.pending_first = entry.index;
        }
        if entry.index != state.next_index() {
            return Err(StorageError::NotNext {
                group: self.log.identity.group,
                index: entry.index,
                last: state.last.map(|last| last.index),
            });
        }
        self.check_term(state, entry.term)
    }

    pub(super) fn check_term(&self, state: &LogState, term: Term) -> Result<(), StorageError> {
        let last = state.last.map_or(Term(0), |last| last.term);
        if term < last || term > Term::MAX {
            return Err(self.log.corrupt(format!("an entry of term {term} cannot follow one of term {last}")));
        }
        Ok(())
    }

    /// Stamps a proposal with the log's end and checks its sequence against what is in the log.
    fn judge(&self, state: &LogState, term: Term, proposal: Proposal) -> Result<Verdict, StorageError> {
        let header = proposal.header;
        if Producers::concerns(&header) {
            match state.producers.check(&header) {
                Ok(Checked::Next) => {}
                Ok(Checked::Duplicate { base_offset, last_offset, uncommitted: index }) => {
                    let reason = VoidReason::Duplicate { base_offset, last_offset };
                    return Ok(Verdict::Void(reason, Outcome::Duplicate { base_offset, last_offset, index }));
                }
                Err(error) => return Ok(Verdict::Void(VoidReason::Refused(error), Outcome::Refused(error))),
            }
        }
        let batch = StampedBatch::new(proposal.batch, state.log_end, term.leader_epoch())
            .map_err(|error| self.log.corrupt(format!("a proposal is not a batch: {error}")))?;
        let (index, stamped) = (state.next_index(), batch.header());
        let (base_offset, last_offset) = (stamped.base_offset, stamped.last_offset());
        if stamped.attributes.is_raft_only() || stamped.last_offset_delta < 0 || last_offset < base_offset {
            return Err(self.log.corrupt("a proposal takes no offset; the validator refuses such batches"));
        }
        Ok(Verdict::Append(batch, Outcome::Appended { index, base_offset, last_offset }))
    }

    fn propose(
        &mut self,
        state: &mut LogState,
        term: Term,
        proposal: Proposal,
        cost: u64,
    ) -> Result<Outcome, StorageError> {
        let time = proposal.append_time;
        match self.judge(state, term, proposal)? {
            Verdict::Append(batch, outcome) => {
                self.push(state, term, batch, time, cost)?;
                Ok(outcome)
            }
            Verdict::Void(reason, outcome) => {
                self.raft_only(state, term, RaftOnlyKind::Void, &reason.payload(), time)?;
                Ok(outcome)
            }
        }
    }

    fn store(&mut self, state: &mut LogState, term: Term, stored: Stored, cost: u64) -> Result<Outcome, StorageError> {
        let Stored { batch, append_time, .. } = stored;
        let (index, header) = (state.next_index(), batch.header());
        if header.base_offset != state.log_end {
            return Err(StorageError::OffsetMismatch {
                group: self.log.identity.group,
                expected: state.log_end,
                found: header.base_offset,
            });
        }
        let raft_only = header.attributes.is_raft_only();
        let takes = if raft_only { header.last_offset_delta == -1 } else { header.last_offset_delta >= 0 };
        if header.leader_epoch != term.leader_epoch() || !takes || header.next_offset() < header.base_offset {
            return Err(self.log.corrupt(format!("the batch of entry {index} is not one of term {term}")));
        }
        self.needs_journal |= raft_only;
        self.push(state, term, batch, append_time, cost)?;
        Ok(if raft_only {
            Outcome::RaftOnly { index }
        } else {
            Outcome::Appended { index, base_offset: header.base_offset, last_offset: header.last_offset() }
        })
    }

    pub(super) fn raft_only(
        &mut self,
        state: &mut LogState,
        term: Term,
        kind: RaftOnlyKind,
        payload: &[u8],
        time: Timestamp,
    ) -> Result<Outcome, StorageError> {
        let index = state.next_index();
        let batch = raft_only_batch(kind, payload, state.log_end, term.leader_epoch(), time);
        let cost = own_cost(&batch);
        self.needs_journal = true;
        self.push(state, term, batch, time, cost)?;
        Ok(Outcome::RaftOnly { index })
    }

    fn push(
        &mut self,
        state: &mut LogState,
        term: Term,
        batch: StampedBatch,
        append_time: Timestamp,
        cost: u64,
    ) -> Result<(), StorageError> {
        let (bytes, limit) = (batch.size_bytes() as u64, self.log.context.journal.max_batch_bytes());
        if bytes > limit {
            return Err(StorageError::BatchTooLarge { bytes, limit });
        }
        let index = state.next_index();
        state.push(&batch, term, append_time, cost);
        self.cost += cost;
        if matches!(parse_raft_only(&batch), Ok((RaftOnlyKind::Membership, _))) {
            self.synced = self.synced.max(state.unjournaled);
        }
        if batch.header().attributes.is_raft_only() || state.journals_data() {
            let group = self.log.identity.group;
            let begins_segment = state.begins_segment(index);
            self.records.push(JournalEntry::Append { group, index, term, append_time, begins_segment, batch });
        } else {
            state.unjournaled = Some(index);
        }
        Ok(())
    }

    /// Hands the entries to the journal. Gives whether the writer should come at once, and `done` if nothing is to be
    /// waited for.
    fn finish(self, state: &mut LogState, done: Done) -> Result<(bool, Option<Done>), StorageError> {
        let urgent = state.dirty_bytes >= WRITE_BEHIND_BYTES;
        if self.cost == 0 {
            return Ok((urgent, Some(done)));
        }
        let (journaled, synced) = (!self.records.is_empty(), self.synced);
        if !state.acks_by_write() {
            return self.submit(state, Some(done)).map(|()| (urgent, None));
        }
        // What is in the journal only because it must be, is reported when it is there.
        let wait = journaled && (self.needs_journal || state.journals_data());
        let ack = wait.then_some(state.next_ack);
        state.next_ack += 1;
        state.barrier = false;
        let answer = ack.map(|ack| {
            let log = self.log.me.clone();
            Box::new(move |result| {
                if let Some(log) = log.upgrade() {
                    log.journal_answered(ack, result);
                }
            }) as Done
        });
        if journaled {
            self.submit(state, answer)?;
        }
        state.relaxed_acks.push_back(RelaxedAck { until: state.next_index(), journal: ack, synced, done });
        Ok((true, None))
    }

    fn submit(self, state: &mut LogState, done: Option<Done>) -> Result<(), StorageError> {
        let segments = self.log.me.clone();
        let submitted = self.log.context.journal.submit_from(self.records, segments, done);
        if let Err(error) = &submitted {
            // What is in the log already may not be served as appended: the journal's failure is final.
            state.failed = Some(error.clone());
        }
        submitted
    }
}
