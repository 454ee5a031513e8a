//! The answer to a proposal, now or later.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use millpond_record::{Offset, RaftIndex, Timestamp};
use millpond_storage::StorageError;

use crate::error::ProposeError;

/// Where a proposed batch is in its partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// The offset of its first record. For a duplicate: of the original's first record.
    pub base_offset: Offset,
    /// The leader's time of the append; [`Timestamp::NONE`] for a duplicate.
    pub append_time: Timestamp,
    /// The first offset that may be read.
    pub log_start: Offset,
    /// The producer sent this batch before: nothing was appended.
    pub duplicate: bool,
}

/// Resolves when the batch has what its `acks` ask for. Costs no allocation when that is so at once.
#[derive(Debug)]
pub struct Receipt(State);

#[derive(Debug)]
enum State {
    Ready(Option<Result<Written, ProposeError>>),
    Waiting(Arc<Flight>),
}

impl Receipt {
    pub(crate) fn ready(result: Result<Written, ProposeError>) -> Receipt {
        Receipt(State::Ready(Some(result)))
    }

    pub(crate) fn waiting(flight: Arc<Flight>) -> Receipt {
        Receipt(State::Waiting(flight))
    }
}

impl Future for Receipt {
    type Output = Result<Written, ProposeError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            State::Ready(result) => Poll::Ready(result.take().expect("a receipt is awaited once")),
            State::Waiting(flight) => flight.poll(context),
        }
    }
}

/// A batch between its proposal and its answer, shared by the receipt, the gate's queue and the flush.
///
/// The flush may complete on another thread before the append has returned the batch's place; the second settles it.
#[derive(Debug, Default)]
pub(crate) struct Flight(Mutex<FlightState>);

#[derive(Debug, Default)]
struct FlightState {
    placed: Option<(RaftIndex, Written)>,
    flushed: Option<Result<(), StorageError>>,
    /// It is in the log of a replicated group, and is answered when it is committed or leadership is lost.
    waits: bool,
    result: Option<Result<Written, ProposeError>>,
    waker: Option<Waker>,
}

impl Flight {
    /// The append has returned: the batch's place, if its flush is not complete; else how the flush went.
    pub(crate) fn placed(&self, index: RaftIndex, written: Written) -> Option<Result<(), StorageError>> {
        let mut state = self.lock();
        state.placed = Some((index, written));
        state.flushed.take()
    }

    /// The flush is complete: the batch's place, if the append has returned it.
    pub(crate) fn flushed(&self, result: &Result<(), StorageError>) -> Option<(RaftIndex, Written)> {
        let mut state = self.lock();
        if state.placed.is_none() {
            state.flushed = Some(result.clone());
        }
        state.placed
    }

    /// The batch is in the log of a replicated group and waits for its commit there.
    pub(crate) fn place(&self) {
        self.lock().waits = true;
    }

    /// As [`Flight::complete`], for a batch that is not in the log.
    pub(crate) fn complete_unless_placed(&self, result: Result<Written, ProposeError>) {
        if !self.lock().waits {
            self.complete(result);
        }
    }

    /// Resolves the receipt. Later calls change nothing.
    pub(crate) fn complete(&self, result: Result<Written, ProposeError>) {
        let waker = {
            let mut state = self.lock();
            if state.result.is_some() {
                return;
            }
            state.result = Some(result);
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn poll(&self, context: &mut Context<'_>) -> Poll<Result<Written, ProposeError>> {
        let mut state = self.lock();
        if let Some(result) = &state.result {
            return Poll::Ready(result.clone());
        }
        match &mut state.waker {
            Some(waker) => waker.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
        Poll::Pending
    }

    fn lock(&self) -> MutexGuard<'_, FlightState> {
        // Nothing panics while it is held, and a half-made change is not possible.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
