//! Batches of a replicated group between their proposal and their answer.
//!
//! A [`Carrier`] travels with the proposal into openraft and out of it into the log's append, which says where the
//! batch is. What openraft drops on the way, because this replica does not lead, was never written: the carrier answers
//! for it when it is dropped. Appended batches wait in [`Flights`] for their commit; when leadership is lost nobody
//! knows what becomes of them, and their producers, told so, ask the next leader.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use millpond_record::RaftIndex;
use millpond_runtime::{PlantedFault, planted};
use millpond_storage::{Hold, Outcome};

use crate::error::ProposeError;
use crate::partition::Acks;
use crate::receipt::{Flight, Written};

/// The proposer's side of a batch inside openraft.
pub struct Carrier {
    flight: Arc<Flight>,
    acks: Acks,
    /// Let go when the batch is durable here, or will never be.
    hold: Mutex<Option<Hold>>,
    /// More than a majority of the replicas must have it.
    strict: bool,
}

impl Carrier {
    pub(crate) fn new(flight: Arc<Flight>, acks: Acks, hold: Option<Hold>, strict: bool) -> Arc<Carrier> {
        Arc::new(Carrier { flight, acks, hold: Mutex::new(hold), strict })
    }

    /// The batch is on its way into the log: what it holds of a memory budget.
    pub(crate) fn take_hold(&self) -> Option<Hold> {
        self.hold.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        // Changes nothing if it was answered, and must not if it waits for its commit.
        self.flight.complete_unless_placed(Err(ProposeError::NotLeader));
    }
}

/// A batch in the log of the leader, or the void in its place, whose producer waits for its commit.
struct Waiting {
    index: RaftIndex,
    answer: Result<Written, ProposeError>,
    flight: Arc<Flight>,
    strict: bool,
}

/// The batches of one group that wait for their commit, in the order of the log.
#[derive(Default)]
pub(crate) struct Flights(Mutex<VecDeque<Waiting>>);

impl Flights {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Waiting>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A proposal is in the log as entry `index`, as a batch or as a void. That its sequence is refused waits for the
    /// void's commit, too: a deposed leader lacks what the next one has taken since, and a producer does not come back
    /// from that answer. (With acks=1 it hears what this replica alone knows.)
    pub(crate) fn appended(&self, carrier: &Carrier, index: RaftIndex, outcome: &Outcome, written: Written) {
        let answer = match *outcome {
            Outcome::Appended { base_offset, .. } => Ok(Written { base_offset, ..written }),
            Outcome::Duplicate { base_offset, index: original, .. } => {
                let written = Written { base_offset, duplicate: true, append_time: NO_TIME, ..written };
                if original.is_none() {
                    return carrier.flight.complete(Ok(written));
                }
                // The void behind the original is committed after it.
                Ok(written)
            }
            Outcome::Refused(refusal) => Err(ProposeError::Sequence(refusal)),
            Outcome::RaftOnly { .. } => Ok(written),
        };
        match carrier.acks {
            Acks::All if !planted(PlantedFault::AcknowledgeAlone) => {
                carrier.flight.place();
                let flight = Arc::clone(&carrier.flight);
                let strict = carrier.strict && answer.is_ok();
                self.lock().push_back(Waiting { index, answer, flight, strict });
            }
            Acks::All | Acks::Leader | Acks::None => carrier.flight.complete(answer),
        }
    }

    /// Everything up to `index` is committed, and as many replicas as strict batches ask for have it up to `insync`.
    pub(crate) fn committed(&self, index: RaftIndex, insync: RaftIndex) {
        loop {
            let answered: Vec<Waiting> = {
                let mut waiting = self.lock();
                let done = |waiting: &&Waiting| waiting.index <= index && (!waiting.strict || waiting.index <= insync);
                let count = waiting.iter().take(ANSWERED_AT_ONCE).take_while(done).count();
                waiting.drain(..count).collect()
            };
            if answered.is_empty() {
                return;
            }
            for Waiting { answer, flight, .. } in answered {
                flight.complete(answer);
            }
        }
    }

    /// Nobody knows what becomes of those that wait.
    pub(crate) fn fail(&self, error: &ProposeError) {
        for Waiting { flight, .. } in std::mem::take(&mut *self.lock()) {
            flight.complete(Err(error.clone()));
        }
    }
}

/// How many answers are given between two looks at the queue, whose lock the leader's append needs.
const ANSWERED_AT_ONCE: usize = 1024;

/// A duplicate has the append time of its original, which is not remembered.
const NO_TIME: millpond_record::Timestamp = millpond_record::Timestamp::NONE;
