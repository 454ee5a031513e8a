//! A partition with one replica: what is flushed is committed.

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};

use bytes::Bytes;
use millpond_record::{Offset, RaftIndex, RaftOnlyKind, Term, Timestamp};
use millpond_runtime::{PlantedFault, planted};
use millpond_storage::{Frontiers, Hold, Outcome, Proposal, StorageError, Vote};
use tokio::sync::oneshot;

use super::{Acks, Inner, Work, founding_membership};
use crate::error::{ProposeError, RaftError};
use crate::receipt::{Flight, Receipt, Written};

impl Inner {
    pub(super) async fn begin_term(self: &Arc<Self>) -> Result<(), RaftError> {
        let (group, term) = (self.group, self.term);
        if term > Term::MAX {
            return Err(RaftError::TermsUsedUp { group, term: Term::MAX });
        }
        let log = self.open_log();
        let now = Timestamp(self.shared.runtime.wall_clock());
        if log.frontiers().last.is_none() {
            // A crash came between the group's creation and its first entry.
            let membership = founding_membership(&[(self.replica, self.shared.broker)]);
            self.append_raft_only(Term(0), RaftOnlyKind::Membership, membership, now)?;
        }
        let (done, durable) = oneshot::channel();
        let vote = Vote { term, replica: self.replica, committed: true };
        if !planted(PlantedFault::ForgottenVote) {
            // The receiver is gone only when the runtime is.
            log.save_vote(vote, Box::new(move |result| drop(done.send(result))));
            durable.await.map_err(|_| RaftError::Closed(group))??;
        }
        self.append_raft_only(term, RaftOnlyKind::Blank, Bytes::new(), now)
    }

    fn append_raft_only(
        self: &Arc<Self>,
        term: Term,
        kind: RaftOnlyKind,
        payload: Bytes,
        now: Timestamp,
    ) -> Result<(), RaftError> {
        let flight = Arc::new(Flight::default());
        let outcome = self.open_log().append_raft_only(term, kind, payload, now, self.on_flush(&flight, None))?;
        if let Outcome::RaftOnly { index } = outcome {
            let nothing = Written {
                base_offset: Offset(-1),
                append_time: now,
                log_start: Offset(self.log_start.load(Ordering::Relaxed)),
                duplicate: false,
            };
            if let Some(result) = flight.placed(index, nothing) {
                self.settle(index, nothing, &flight, result);
            }
        }
        Ok(())
    }

    /// Appends what was proposed. The caller holds the gate.
    pub(super) fn do_work(self: &Arc<Self>, work: Work, flight: Option<Arc<Flight>>) -> Receipt {
        match work {
            Work::Batch { proposal, acks, hold } => self.append(proposal, acks, hold, flight),
            Work::LogStart(offset) => self.append_log_start(offset, flight.unwrap_or_default()),
        }
    }

    /// Appends a batch. The caller holds the gate.
    fn append(
        self: &Arc<Self>,
        proposal: Proposal,
        acks: Acks,
        hold: Option<Hold>,
        flight: Option<Arc<Flight>>,
    ) -> Receipt {
        let queued = flight.is_some();
        let flight = flight.unwrap_or_default();
        let append_time = proposal.append_time;
        let outcome = self.open_log().append_solo(self.term, proposal, self.on_flush(&flight, hold));
        let log_start = Offset(self.log_start.load(Ordering::Relaxed));
        let result = match outcome {
            Ok(Outcome::Appended { index, base_offset, .. }) => {
                let written = Written { base_offset, append_time, log_start, duplicate: false };
                if let Some(result) = flight.placed(index, written) {
                    self.settle(index, written, &flight, result);
                }
                if acks == Acks::All {
                    return Receipt::waiting(flight);
                }
                Ok(written)
            }
            Ok(Outcome::Duplicate { base_offset, index, .. }) => {
                let append_time = Timestamp::NONE;
                let written = Written { base_offset, append_time, log_start, duplicate: true };
                if let (Acks::All, Some(index)) = (acks, index) {
                    self.wait_for_original(index, written, Arc::clone(&flight));
                    return Receipt::waiting(flight);
                }
                Ok(written)
            }
            Ok(Outcome::Refused(refusal)) => Err(ProposeError::Sequence(refusal)),
            Ok(Outcome::RaftOnly { .. }) => {
                Err(ProposeError::Fatal(self.fail("the log took a record batch for a Raft-only entry")))
            }
            Err(StorageError::BatchTooLarge { bytes, limit }) => Err(ProposeError::TooLarge { bytes, limit }),
            Err(error @ StorageError::Stalled { .. }) => Err(ProposeError::Stalled(error.to_string().into())),
            Err(error) => Err(ProposeError::Fatal(self.fail(&error.to_string()))),
        };
        if queued {
            flight.complete(result.clone());
        }
        Receipt::ready(result)
    }

    /// What the journal's thread does when an append is durable: commit, publish, answer. It takes no gate.
    pub(super) fn on_flush(self: &Arc<Self>, flight: &Arc<Flight>, hold: Option<Hold>) -> millpond_storage::Done {
        let flush = Flush(Some((Arc::clone(self), Arc::clone(flight))));
        let data_dir = hold.as_ref().map(|_| self.shared.data_dir.clone());
        Box::new(move |result| {
            flush.complete(result);
            if let (Some(data_dir), Some(hold)) = (data_dir, hold) {
                data_dir.release(hold);
            }
        })
    }

    /// An append has its place and its flush is complete, in whichever order the two came.
    pub(super) fn settle(
        self: &Arc<Self>,
        index: RaftIndex,
        written: Written,
        flight: &Flight,
        result: Result<(), StorageError>,
    ) {
        match result {
            Ok(()) => {
                // The high watermark moves before the producer hears of it, so that it reads what it wrote.
                self.commit(index);
                flight.complete(Ok(written));
            }
            Err(_) if self.stopped.load(Ordering::Acquire) => flight.complete(Err(self.stopped_error())),
            Err(error @ StorageError::Stalled { .. }) => {
                flight.complete(Err(ProposeError::Stalled(error.to_string().into())));
                if !self.stalled.swap(true, Ordering::AcqRel) {
                    self.commit_when_written();
                }
            }
            Err(error) => flight.complete(Err(ProposeError::Fatal(self.fail(&error.to_string())))),
        }
    }

    /// Batches are in the log that cannot be written now, and whose producers were told so: they are committed when
    /// they are written, which their producers' duplicates wait for.
    fn commit_when_written(self: &Arc<Self>) {
        let Some(last) = self.open_log().frontiers().last else { return };
        let inner = Arc::clone(self);
        self.open_log().notify_flushed(Box::new(move |result| match result {
            Ok(()) => {
                inner.stalled.store(false, Ordering::Release);
                inner.commit(last.index);
            }
            Err(StorageError::Stalled { .. }) => inner.commit_when_written(),
            Err(StorageError::LogClosed(_) | StorageError::Closed(_)) => {}
            Err(error) => drop(inner.fail(&error.to_string())),
        }));
    }

    pub(super) fn stopped_error(&self) -> ProposeError {
        self.failure.get().map_or(ProposeError::Closed, |why| ProposeError::Fatal(Arc::clone(why)))
    }

    /// One replica: flushed is committed. Flushes complete in the log's order, but an append may learn of its own after
    /// that of a later one; the log never moves its commit back.
    pub(super) fn commit(&self, index: RaftIndex) {
        let log = self.open_log();
        let mut frontiers = log.commit(index);
        if planted(PlantedFault::UnclampedApplied) {
            frontiers = log.commit(RaftIndex(u64::MAX));
        }
        self.log_start.store(frontiers.log_start.0, Ordering::Relaxed);
        self.publish(frontiers);
        self.answer_duplicates(&frontiers);
    }

    fn wait_for_original(&self, index: RaftIndex, written: Written, flight: Arc<Flight>) {
        self.lock_duplicates().push((index, written, flight));
        // The original may have been committed just before the duplicate was listed.
        self.answer_duplicates(&self.open_log().frontiers());
        if let Some(why) = self.failure.get() {
            self.fail_duplicates(why);
        }
    }

    fn answer_duplicates(&self, frontiers: &Frontiers) {
        let Some(committed) = frontiers.committed else { return };
        let answered: Vec<_> = {
            let mut duplicates = self.lock_duplicates();
            if duplicates.is_empty() {
                return;
            }
            duplicates.extract_if(.., |(index, ..)| *index <= committed.index).collect()
        };
        for (_, written, flight) in answered {
            flight.complete(Ok(written));
        }
    }

    pub(super) fn fail_duplicates(&self, why: &Arc<str>) {
        for (_, _, flight) in std::mem::take(&mut *self.lock_duplicates()) {
            flight.complete(Err(ProposeError::Fatal(Arc::clone(why))));
        }
    }

    fn lock_duplicates(&self) -> MutexGuard<'_, Vec<(RaftIndex, Written, Arc<Flight>)>> {
        self.duplicates.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A flush that is under way. One that is dropped was given up by a data directory that closed.
struct Flush(Option<(Arc<Inner>, Arc<Flight>)>);

impl Flush {
    fn complete(mut self, result: Result<(), StorageError>) {
        if let Some((inner, flight)) = self.0.take() {
            Self::settle(&inner, &flight, result);
        }
    }

    fn settle(inner: &Arc<Inner>, flight: &Flight, result: Result<(), StorageError>) {
        if let Some((index, written)) = flight.flushed(&result) {
            inner.settle(index, written, flight, result);
        }
    }
}

impl Drop for Flush {
    fn drop(&mut self) {
        if let Some((inner, flight)) = self.0.take() {
            Self::settle(&inner, &flight, Err(StorageError::LogClosed(inner.group)));
        }
    }
}
