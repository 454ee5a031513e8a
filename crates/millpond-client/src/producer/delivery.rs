//! What becomes of a record: one slot for a batch, and a future for each of its records.

use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::time::Instant;

use crate::clock;
use crate::error::{Error, Result};

/// A record that a broker has taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    /// The partition that it went to.
    pub partition: i32,
    /// Where it is; `None` if the broker did not say: with [`Acks::None`](crate::Acks::None), or when it found a batch
    /// that was sent again among those that it has and no longer knew where.
    pub offset: Option<i64>,
    /// Its time in milliseconds since 1970 UTC: its own, or that of the append if the topic wants that.
    pub timestamp: i64,
}

/// What became of a batch.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    Written {
        base_offset: Option<i64>,
        append_time: Option<i64>,
    },
    Failed {
        error: Error,
        /// What a broker said of single records, by their number in the batch (KIP-467).
        records: BTreeMap<i32, String>,
    },
}

impl Outcome {
    pub(crate) fn failed(error: Error) -> Outcome {
        Outcome::Failed { error, records: BTreeMap::new() }
    }
}

#[derive(Debug)]
enum State {
    Open(Vec<Waker>),
    /// Since when.
    Done(Outcome, Instant),
}

/// Where the outcome of a batch will be.
#[derive(Debug)]
pub(crate) struct Slot {
    partition: i32,
    state: Mutex<State>,
}

impl Slot {
    pub(crate) fn new(partition: i32) -> Arc<Slot> {
        Arc::new(Slot { partition, state: Mutex::new(State::Open(Vec::new())) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The state is whole after every change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the outcome; gives those who wait, to be woken. Only the first outcome counts: a batch that was given up
    /// may be answered later.
    #[must_use = "whoever waits must be woken"]
    pub(crate) fn finish(&self, outcome: Outcome) -> Vec<Waker> {
        let mut state = self.state();
        if matches!(*state, State::Done(..)) {
            return Vec::new();
        }
        match std::mem::replace(&mut *state, State::Done(outcome, clock::now())) {
            State::Open(wakers) => wakers,
            State::Done(..) => Vec::new(),
        }
    }

    #[cfg(test)]
    pub(crate) fn tell(&self, outcome: Outcome) {
        self.finish(outcome).into_iter().for_each(Waker::wake);
    }

    /// Waits for the outcome, whatever it is.
    pub(crate) async fn finished(self: Arc<Slot>) {
        let _ = self.delivery(0, 0).await;
    }

    /// The delivery of record `number` of the batch.
    pub(crate) fn delivery(self: &Arc<Slot>, number: i32, timestamp: i64) -> Delivery {
        Delivery { slot: Arc::clone(self), number, timestamp, place: None }
    }
}

/// What becomes of one record: a future that is ready when a broker has taken it, or when that has failed for good. It
/// may be dropped; the record is sent all the same.
#[must_use = "a record may fail; who does not want to know drops this"]
pub struct Delivery {
    slot: Arc<Slot>,
    number: i32,
    timestamp: i64,
    /// Where its waker is in the slot's list.
    place: Option<usize>,
}

impl Delivery {
    /// The partition that the record goes to.
    pub fn partition(&self) -> i32 {
        self.slot.partition
    }

    /// The outcome, if there is one by now.
    pub fn now(&self) -> Option<Result<Acknowledged>> {
        match &*self.slot.state() {
            State::Open(_) => None,
            State::Done(outcome, _) => Some(self.read(outcome)),
        }
    }

    /// When its outcome came, if there is one: who waits for many in their order may come to one late.
    pub fn done_at(&self) -> Option<Instant> {
        match &*self.slot.state() {
            State::Open(_) => None,
            State::Done(_, at) => Some(*at),
        }
    }

    fn read(&self, outcome: &Outcome) -> Result<Acknowledged> {
        match outcome {
            Outcome::Written { base_offset, append_time } => Ok(Acknowledged {
                partition: self.slot.partition,
                offset: base_offset.map(|base| base.saturating_add(i64::from(self.number))),
                timestamp: append_time.unwrap_or(self.timestamp),
            }),
            Outcome::Failed { error, records } => Err(match (error, records.get(&self.number)) {
                (Error::Refused { what, code, .. }, Some(said)) => {
                    Error::Refused { what: what.clone(), code: *code, message: Some(said.clone()) }
                }
                _ => error.clone(),
            }),
        }
    }
}

impl Future for Delivery {
    type Output = Result<Acknowledged>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let slot = Arc::clone(&self.slot);
        let mut state = slot.state();
        let wakers = match &mut *state {
            State::Done(outcome, _) => return Poll::Ready(self.read(outcome)),
            State::Open(wakers) => wakers,
        };
        match self.place.and_then(|place| wakers.get_mut(place)) {
            Some(known) => known.clone_from(context.waker()),
            None => {
                self.place = Some(wakers.len());
                wakers.push(context.waker().clone());
            }
        }
        Poll::Pending
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Delivery { number, timestamp, .. } = self;
        let partition = self.slot.partition;
        write!(f, "Delivery {{ partition: {partition}, number: {number}, timestamp: {timestamp} }}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millpond_wire::ErrorCode;

    #[tokio::test]
    async fn every_record_of_a_batch_hears_of_its_own_place() {
        let slot = Slot::new(3);
        let deliveries: Vec<Delivery> = (0..3).map(|number| slot.delivery(number, 100)).collect();
        assert!(deliveries[0].now().is_none());
        let all = futures::future::join_all(deliveries);
        let (all, ()) = tokio::join!(all, async {
            slot.tell(Outcome::Written { base_offset: Some(40), append_time: None });
            slot.tell(Outcome::failed(Error::Closed));
        });
        let offsets: Vec<_> = all.into_iter().map(|result| result.expect("written").offset).collect();
        assert_eq!(offsets, [Some(40), Some(41), Some(42)], "the first outcome counts");
        let late = slot.delivery(9, 100).await.expect("written");
        assert_eq!(late, Acknowledged { partition: 3, offset: Some(49), timestamp: 100 });
    }

    #[tokio::test(start_paused = true)]
    async fn a_delivery_that_is_looked_at_late_knows_when_its_outcome_came() {
        let (slow, fast) = (Slot::new(0), Slot::new(1));
        let (mut first, second) = (slow.delivery(0, 0), fast.delivery(0, 0));
        let begun = clock::now();
        let written = || Outcome::Written { base_offset: None, append_time: None };
        let pause = std::time::Duration::from_millis(100);
        clock::sleep(pause).await;
        fast.tell(written());
        assert_eq!((first.done_at(), second.done_at()), (None, Some(begun + pause)));
        clock::sleep(pause).await;
        slow.tell(written());
        (&mut first).await.expect("written");
        assert_eq!((first.done_at(), second.done_at()), (Some(begun + 2 * pause), Some(begun + pause)));
    }

    #[tokio::test]
    async fn the_record_that_is_to_blame_hears_what_the_broker_said_of_it() {
        let slot = Slot::new(0);
        let error = Error::Refused { what: "producing".into(), code: ErrorCode::INVALID_RECORD, message: None };
        slot.tell(Outcome::Failed { error, records: BTreeMap::from([(1, "no key".to_owned())]) });
        let said = |error: Result<Acknowledged>| error.expect_err("refused").to_string();
        assert_eq!(said(slot.delivery(0, 0).await), "producing: INVALID_RECORD");
        assert_eq!(said(slot.delivery(1, 0).await), "producing: no key (INVALID_RECORD)");
    }
}
