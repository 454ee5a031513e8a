//! The batches of one partition, as a pure state machine: which may be sent, and what an answer means.
//!
//! A batch is open while records are added to it, ready when it is full or must go, and sent from its first attempt to
//! its outcome. With idempotence a sent batch has a sequence. What keeps every record once and in order:
//!
//! - From the first batch without outcome to the last that was sent there are at most five: so many a broker recognizes
//!   when they come again. Those between that have been written count, too.
//! - All that is on the way at one time is on one route, that is one connection, which keeps its order.
//! - As soon as one sent batch waits for another try, only the first one of all is sent, and alone.
//! - The first batch of a series (an identity, from sequence 0 on) goes alone: a broker that does not know a producer
//!   takes any sequence, and would take the second batch when it has just refused the first.
//! - A gap in the sequences (a batch refused for good, or given up) ends the series. When all batches in front of the
//!   gap have their outcome, and nothing is on the way any more, a new one begins with the next epoch (KIP-360).
//!   Batches that the broker has refused as out of order are sent again in it. It also shuts out what may still come of
//!   attempts on lost connections. If the fate of the batch that was given up is not known, then those behind it of
//!   which it is not known either are given up with it: they may be in the log, or come to be. The same holds for a
//!   batch that the broker refuses as out of order after an attempt whose fate is not known: it may have it, and have
//!   forgotten that.
//!
//! Epochs count for each partition by itself, as brokers check them.

use std::collections::VecDeque;
use std::time::Duration;

use millpond_record::{Codec, HEADER_BYTES};
use millpond_wire::ErrorCode;
use tokio::time::Instant;

use super::batch::{Batch, Done, Identity, Payload, Stamp};
use super::delivery::{Delivery, Outcome};
use super::record::NewRecord;
use crate::error::Error;

/// What the queues of a producer have in common.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    pub(crate) idempotent: bool,
    /// Nobody answers, so nothing is sent again.
    pub(crate) unanswered: bool,
    pub(crate) codec: Codec,
    pub(crate) linger: Duration,
    pub(crate) batch_bytes: usize,
    pub(crate) buffer_memory: usize,
    pub(crate) max_in_flight: usize,
    pub(crate) delivery_timeout: Duration,
}

/// What came of an attempt.
#[derive(Clone, Debug)]
pub(crate) enum Verdict {
    /// It is in the log.
    Written { base_offset: Option<i64>, append_time: Option<i64> },
    /// A broker, or this side, said no.
    Refused { error: Error, records: Vec<(i32, String)> },
    /// It may be in the log, or come to be.
    Lost(Error),
}

/// A batch that may be sent now.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) payload: Payload,
    pub(crate) stamp: Option<Stamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    OnTheWay { ticket: u64, route: u64 },
    Waiting { not_before: Instant },
}

#[derive(Debug)]
struct Sent {
    batch: Batch,
    sequence: i32,
    /// Counts the batches of the queue.
    number: u64,
    state: State,
    /// An attempt of which nobody knows what became of it.
    lost: bool,
    /// Its outcome was told; only its place in the series still counts.
    given_up: bool,
}

impl Sent {
    fn is_on_the_way(&self) -> bool {
        matches!(self.state, State::OnTheWay { .. })
    }
}

/// How a series ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Restart {
    NextEpoch,
    FreshId,
}

/// The queue of a partition.
#[derive(Debug)]
pub(crate) struct Queue {
    partition: i32,
    open: Option<Batch>,
    ready: VecDeque<Batch>,
    sent: VecDeque<Sent>,
    /// `None` without idempotence, and until there is one.
    identity: Option<Identity>,
    /// An id that is of no use any more.
    spent_id: Option<i64>,
    next_sequence: i32,
    next_number: u64,
    /// The broker has taken a batch of this series.
    proven: bool,
    /// How the series ends, and how many sent batches are in front of the gap: these belong to it to their end.
    restart: Option<(Restart, usize)>,
    /// The fate of a batch that was given up is not known.
    lost_gap: bool,
    /// The size of the last batch, which the next one is given room for.
    usual_bytes: usize,
    /// Why nothing is sent, for those whose time is up.
    pub(crate) reason: Option<Error>,
}

impl Queue {
    pub(crate) fn new(partition: i32) -> Queue {
        Queue {
            partition,
            open: None,
            ready: VecDeque::new(),
            sent: VecDeque::new(),
            identity: None,
            spent_id: None,
            next_sequence: 0,
            next_number: 0,
            proven: false,
            restart: None,
            lost_gap: false,
            usual_bytes: 0,
            reason: None,
        }
    }

    /// Whether it has no batch at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.open.is_none() && self.ready.is_empty() && self.sent.is_empty()
    }

    /// Whether a record of `most_bytes` would begin a new batch.
    pub(crate) fn begins(&self, most_bytes: usize, rules: &Rules) -> bool {
        self.open.as_ref().is_none_or(|open| open.bytes + most_bytes > rules.batch_bytes)
    }

    /// Adds a record. Also tells whether the driver must look: a batch was begun, or is full. `active` is how many
    /// queues are not empty.
    pub(crate) fn append(
        &mut self,
        record: &NewRecord<'_>,
        timestamp: i64,
        most_bytes: usize,
        active: usize,
        now: impl FnOnce() -> Instant,
        rules: &Rules,
    ) -> (Delivery, bool) {
        let begins = self.begins(most_bytes, rules);
        if begins {
            self.close();
        }
        let (partition, usual) = (self.partition, self.usual_bytes);
        let open = self.open.get_or_insert_with(|| {
            // No more than its share, so that many batches with a few records do not take more than all the memory.
            let most = rules.batch_bytes.min(rules.buffer_memory / (active + 1));
            let room = (usual + usual / 8).min(most).max(HEADER_BYTES + most_bytes);
            Batch::new(partition, rules.codec, room, now())
        });
        let delivery = open.append(record, timestamp, most_bytes);
        let full = open.bytes >= rules.batch_bytes;
        if full {
            self.close();
        }
        (delivery, begins || full)
    }

    /// Adds no more to the open batch.
    pub(crate) fn close(&mut self) {
        if let Some(open) = self.open.take() {
            self.usual_bytes = open.bytes;
            self.ready.push_back(open);
        }
    }

    /// All batches without an outcome.
    pub(crate) fn unfinished(&self) -> impl Iterator<Item = &Batch> {
        let sent = self.sent.iter().filter(|sent| !sent.given_up).map(|sent| &sent.batch);
        sent.chain(&self.ready).chain(&self.open)
    }

    /// Whether it must be given an identity before anything is sent, and an id that must not be the one of that.
    pub(crate) fn wants_identity(&self, rules: &Rules) -> Option<Option<i64>> {
        (rules.idempotent && self.identity.is_none()).then_some(self.spent_id)
    }

    /// Takes an identity, for a series from sequence 0 on.
    pub(crate) fn identify(&mut self, identity: Identity) {
        if self.identity.is_none() && self.spent_id != Some(identity.id) {
            self.identity = Some(identity);
        }
    }

    /// When something could be sent; `None` while answers are to be waited for, or nothing is there. `hurry` sends what
    /// would wait for more records.
    pub(crate) fn due(&self, now: Instant, hurry: bool, rules: &Rules) -> Option<Instant> {
        if matches!(self.restart, Some((_, 0))) {
            return None;
        }
        if self.restart.is_some() || self.sent.iter().any(|sent| !sent.is_on_the_way()) {
            return match self.sent.front()?.state {
                State::Waiting { not_before } if !self.is_on_the_way() => Some(not_before),
                _ => None,
            };
        }
        let oldest = self.sent.front().map_or(self.next_number, |sent| sent.number);
        if self.next_number - oldest >= self.most_sent(rules) {
            return None;
        }
        match (&self.open, self.ready.is_empty()) {
            (_, false) => Some(now),
            (Some(_), true) if hurry => Some(now),
            (Some(open), true) => Some(open.created + rules.linger),
            (None, true) => None,
        }
    }

    fn is_on_the_way(&self) -> bool {
        self.sent.iter().any(Sent::is_on_the_way)
    }

    fn most_sent(&self, rules: &Rules) -> u64 {
        let most = u64::try_from(rules.max_in_flight).unwrap_or(u64::MAX);
        match (rules.idempotent, rules.unanswered) {
            (true, _) if self.proven => most,
            (false, true) => most,
            // Without sequences order is only kept by one at a time.
            (true, _) | (false, false) => 1,
        }
    }

    /// The bytes that [`take`](Queue::take) would give, not compressed.
    pub(crate) fn next_bytes(&self) -> usize {
        let waiting = self.sent.front().filter(|sent| !sent.is_on_the_way()).map(|sent| &sent.batch);
        waiting.or(self.ready.front()).or(self.open.as_ref()).map_or(0, |batch| batch.bytes)
    }

    /// Takes a batch that is due to be sent on this route with this ticket. `None` while another route is in use.
    pub(crate) fn take(&mut self, ticket: u64, route: u64, now: Instant, hurry: bool, rules: &Rules) -> Option<Taken> {
        if self.due(now, hurry, rules).is_none_or(|due| due > now) || self.wants_identity(rules).is_some() {
            return None;
        }
        let state = State::OnTheWay { ticket, route };
        if self.sent.front().is_some_and(|sent| !sent.is_on_the_way()) {
            let front = self.sent.front_mut().expect("it was looked at");
            front.state = state;
            front.batch.attempts = front.batch.attempts.saturating_add(1);
            let payload = front.batch.payload.take().expect("a batch that waits has its payload");
            let sequence = front.sequence;
            return Some(Taken { payload, stamp: self.identity.map(|identity| Stamp { identity, sequence }) });
        }
        let elsewhere = |sent: &Sent| !matches!(sent.state, State::OnTheWay { route: used, .. } if used == route);
        if self.sent.iter().any(elsewhere) {
            return None;
        }
        if self.ready.is_empty() {
            self.close();
        }
        let mut batch = self.ready.pop_front()?;
        batch.attempts = 1;
        let payload = batch.payload.take().expect("a batch that was not sent has its payload");
        let sequence = self.next_sequence;
        self.next_sequence = after(sequence, batch.records);
        let number = self.next_number;
        self.next_number += 1;
        self.sent.push_back(Sent { batch, sequence, number, state, lost: false, given_up: false });
        Some(Taken { payload, stamp: self.identity.map(|identity| Stamp { identity, sequence }) })
    }

    /// Takes what came of the attempt with this ticket. `retry_at` says when to try again after so many attempts.
    pub(crate) fn answer(
        &mut self,
        ticket: u64,
        payload: Payload,
        verdict: Verdict,
        rules: &Rules,
        retry_at: impl FnOnce(u32) -> Instant,
        done: &mut Vec<Done>,
    ) {
        let mine = |sent: &Sent| matches!(sent.state, State::OnTheWay { ticket: used, .. } if used == ticket);
        let Some(place) = self.sent.iter().position(mine) else { return };
        let sent = &mut self.sent[place];
        sent.batch.payload = Some(payload);
        match judge(verdict, rules) {
            Judged::Written { base_offset, append_time } => {
                self.proven = true;
                self.reason = None;
                let sent = self.sent.remove(place).expect("it was found");
                if let Some((_, in_front)) = &mut self.restart {
                    *in_front -= usize::from(place < *in_front);
                }
                done.push(sent.batch.done(Outcome::Written { base_offset, append_time }));
            }
            Judged::Again { error, lost, restart } => {
                sent.lost |= lost;
                sent.batch.last_error = Some(error);
                sent.state = State::Waiting { not_before: retry_at(sent.batch.attempts) };
                // Behind others it is out of order because of them.
                if place == 0 && restart.is_some() {
                    // What is lost may be in the log: the broker only does not know it any more. After a restart it
                    // may know no more than the last batch of a producer.
                    self.lost_gap |= sent.lost;
                    restart.into_iter().for_each(|restart| self.end_series(restart, 0));
                }
                if self.sent[place].given_up {
                    self.drop_sent(place, None, rules, done);
                }
            }
            Judged::Failed { error, lost, records } => {
                sent.lost |= lost;
                let records = records.into_iter().collect();
                self.drop_sent(place, Some(Outcome::Failed { error, records }), rules, done);
            }
        }
        self.settle(done);
    }

    /// Takes a sent batch out that was not written as far as is known: a gap.
    fn drop_sent(&mut self, place: usize, outcome: Option<Outcome>, rules: &Rules, done: &mut Vec<Done>) {
        let Some(sent) = self.sent.remove(place) else { return };
        if rules.idempotent {
            self.end_series(Restart::NextEpoch, place);
            self.lost_gap |= sent.lost;
        }
        // What was told before is not told again: the first outcome counts.
        let outcome = outcome.unwrap_or_else(|| Outcome::failed(Error::Closed));
        done.push(sent.batch.done(outcome));
    }

    /// The series ends: there is a gap behind `in_front` sent batches.
    fn end_series(&mut self, restart: Restart, in_front: usize) {
        let (known, known_in_front) = self.restart.unwrap_or((restart, in_front));
        self.restart = Some((known.max(restart), known_in_front.min(in_front)));
    }

    /// Begins a new series when one has ended and nothing of it is on the way.
    fn settle(&mut self, done: &mut Vec<Done>) {
        let Some((restart, in_front)) = self.restart else { return };
        if in_front > 0 || self.is_on_the_way() {
            return;
        }
        if std::mem::take(&mut self.lost_gap) {
            let (lost, rest): (VecDeque<Sent>, VecDeque<Sent>) =
                std::mem::take(&mut self.sent).into_iter().partition(|sent| sent.lost);
            self.sent = rest;
            for Sent { batch, .. } in lost {
                let error = batch.last_error.clone().unwrap_or(Error::Closed);
                done.push(batch.done(Outcome::failed(error)));
            }
        }
        self.restart = None;
        self.identity = match (restart, self.identity) {
            (Restart::NextEpoch, Some(Identity { id, epoch })) if epoch < i16::MAX => {
                Some(Identity { id, epoch: epoch + 1 })
            }
            (_, spent) => {
                self.spent_id = spent.map(|identity| identity.id).or(self.spent_id);
                None
            }
        };
        self.proven = false;
        self.next_sequence = 0;
        for sent in &mut self.sent {
            sent.sequence = self.next_sequence;
            sent.number = self.next_number;
            self.next_number += 1;
            sent.lost = false;
            self.next_sequence = after(self.next_sequence, sent.batch.records);
        }
    }

    /// Gives up what is past its time.
    pub(crate) fn expire(&mut self, now: Instant, rules: &Rules, done: &mut Vec<Done>) {
        let limit = rules.delivery_timeout;
        let late = |batch: &Batch| batch.created + limit <= now;
        let reason = self.reason.clone();
        let outcome = |batch: &Batch| {
            let last = batch.last_error.clone().or_else(|| reason.clone());
            let last = last.unwrap_or_else(|| Error::Refused {
                what: "sending a batch".to_owned(),
                code: ErrorCode::REQUEST_TIMED_OUT,
                message: Some("its turn did not come in time".to_owned()),
            });
            Outcome::failed(Error::GaveUp { after: limit, last: Box::new(last) })
        };
        let mut place = 0;
        while let Some(sent) = self.sent.get_mut(place).filter(|sent| late(&sent.batch)) {
            let told = outcome(&sent.batch);
            if !sent.is_on_the_way() {
                self.drop_sent(place, Some(told), rules, done);
                continue;
            }
            if !sent.given_up {
                sent.given_up = true;
                done.push(sent.batch.told(told));
            }
            place += 1;
        }
        while let Some(batch) = self.ready.pop_front_if(|batch| late(batch)) {
            let told = outcome(&batch);
            done.push(batch.done(told));
        }
        if let Some(batch) = self.open.take_if(|batch| late(batch)) {
            let told = outcome(&batch);
            done.push(batch.done(told));
        }
        self.settle(done);
    }

    /// When the next batch is past its time.
    pub(crate) fn expires_at(&self, rules: &Rules) -> Option<Instant> {
        self.unfinished().next().map(|batch| batch.created + rules.delivery_timeout)
    }

    /// What it wrote to is gone, and another log in its place: nobody there knows of the series. What may have reached
    /// either is given up.
    pub(crate) fn begin_anew(&mut self, done: &mut Vec<Done>) {
        if self.identity.is_some() {
            self.lost_gap = true;
            self.end_series(Restart::NextEpoch, 0);
            self.settle(done);
        }
    }

    /// Fails everything.
    pub(crate) fn abandon(&mut self, done: &mut Vec<Done>) {
        self.close();
        let sent = self.sent.drain(..).map(|sent| sent.batch);
        done.extend(sent.chain(self.ready.drain(..)).map(|batch| batch.done(Outcome::failed(Error::Closed))));
    }

    /// Fails what has not been sent and cannot be.
    pub(crate) fn fail_unsent(&mut self, error: &Error, done: &mut Vec<Done>) {
        self.close();
        done.extend(self.ready.drain(..).map(|batch| batch.done(Outcome::failed(error.clone()))));
    }
}

/// The sequence that follows so many records: from 2³¹ − 1 on to 0.
fn after(sequence: i32, records: i32) -> i32 {
    ((sequence as u32).wrapping_add(records as u32) & i32::MAX as u32) as i32
}

/// What a verdict means for its batch.
enum Judged {
    Written { base_offset: Option<i64>, append_time: Option<i64> },
    Again { error: Error, lost: bool, restart: Option<Restart> },
    Failed { error: Error, lost: bool, records: Vec<(i32, String)> },
}

fn judge(verdict: Verdict, rules: &Rules) -> Judged {
    let (error, records) = match verdict {
        Verdict::Written { base_offset, append_time } => return Judged::Written { base_offset, append_time },
        Verdict::Lost(error) if error.is_retriable() && !rules.unanswered => {
            return Judged::Again { error, lost: true, restart: None };
        }
        Verdict::Lost(error) => return Judged::Failed { error, lost: true, records: Vec::new() },
        Verdict::Refused { error, records } => (error, records),
    };
    match error.code() {
        Some(ErrorCode::DUPLICATE_SEQUENCE_NUMBER) if rules.idempotent => {
            Judged::Written { base_offset: None, append_time: None }
        }
        Some(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER | ErrorCode::UNKNOWN_PRODUCER_ID) if rules.idempotent => {
            Judged::Again { error, lost: false, restart: Some(Restart::NextEpoch) }
        }
        Some(ErrorCode::INVALID_PRODUCER_EPOCH | ErrorCode::INVALID_PRODUCER_ID_MAPPING) if rules.idempotent => {
            Judged::Again { error, lost: false, restart: Some(Restart::FreshId) }
        }
        // With these the leader has appended it, and does not know of the others.
        Some(ErrorCode::REQUEST_TIMED_OUT | ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND) => {
            Judged::Again { error, lost: true, restart: None }
        }
        _ if error.is_retriable() => Judged::Again { error, lost: false, restart: None },
        _ => Judged::Failed { error, lost: false, records },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_go_on_from_the_greatest_to_zero() {
        assert_eq!(after(0, 3), 3);
        assert_eq!(after(i32::MAX, 1), 0);
        assert_eq!(after(i32::MAX - 1, 2), 0);
        assert_eq!(after(i32::MAX - 1, 5), 3);
    }
}
