//! Records sent as fast as they are taken or evenly paced, and what became of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, anyhow};
use millpond_client::{Delivery, Error, NewRecord, Producer, TrySendError};
use millpond_runtime::Runtime;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::payload::Contents;
use super::report::Latencies;
use crate::cluster::hint;
use crate::terminal::Interrupts;

/// Deliveries that are handed to who counts them together.
const TOGETHER: usize = 256;
/// How late a timer of the runtime may be: it counts in milliseconds, and so does what it waits with.
const TIMER_LATE: Duration = Duration::from_millis(2);

/// A record that was taken in.
pub(super) struct Pending {
    delivery: Delivery,
    due: Instant,
    /// Of its key and value.
    bytes: usize,
}

/// What was acknowledged, or has left if nobody was asked to, and what was not.
#[derive(Debug, Default)]
pub(super) struct Counts {
    records: AtomicU64,
    bytes: AtomicU64,
    failed: AtomicU64,
}

impl Counts {
    /// Records and bytes.
    pub(super) fn done(&self) -> (u64, u64) {
        (self.records.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }

    pub(super) fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }
}

/// What became of all.
pub(super) struct Outcome {
    pub(super) latencies: Latencies,
    first_error: Option<Error>,
}

impl Outcome {
    /// What to say when so many failed.
    pub(super) fn refusal(&self, failed: u64) -> Option<anyhow::Error> {
        let first = self.first_error.clone().map(hint)?;
        Some(anyhow!("records that failed: {failed}; the first one: {first}"))
    }
}

/// Waits for all deliveries that come, in their order; the latency of each ends when its own outcome has come.
pub(super) async fn count(mut deliveries: mpsc::UnboundedReceiver<Vec<Pending>>, counts: Arc<Counts>) -> Outcome {
    let mut outcome = Outcome { latencies: Latencies::new(), first_error: None };
    while let Some(together) = deliveries.recv().await {
        for Pending { mut delivery, due, bytes } in together {
            let result = (&mut delivery).await;
            match result {
                Ok(_) => {
                    if let Some(done_at) = delivery.done_at() {
                        outcome.latencies.record(done_at.saturating_duration_since(due));
                    }
                    counts.records.fetch_add(1, Ordering::Relaxed);
                    counts.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
                }
                Err(error) => {
                    counts.failed.fetch_add(1, Ordering::Relaxed);
                    outcome.first_error.get_or_insert(error);
                }
            }
        }
    }
    outcome
}

/// Sends records, and hands their deliveries on.
pub(super) struct Sending<'a> {
    pub(super) runtime: &'a Runtime,
    pub(super) interrupts: &'a Interrupts,
    pub(super) producer: &'a Producer,
    pub(super) topic: &'a str,
    pub(super) started: Instant,
    pub(super) deliveries: mpsc::UnboundedSender<Vec<Pending>>,
}

impl Sending<'_> {
    /// Sends all that is due; false when it was interrupted.
    pub(super) async fn all(self, mut schedule: Schedule, mut contents: Contents) -> Result<bool> {
        let mut together = Vec::with_capacity(TOGETHER);
        let ended = loop {
            let now = self.runtime.now();
            let Some(due) = schedule.next(now) else { break Ok(true) };
            if self.interrupts.any() {
                break Ok(false);
            }
            if due > now {
                self.hand_on(&mut together);
                if !wait(self.runtime, self.interrupts, due).await {
                    break Ok(false);
                }
            }
            let (key, value) = contents.next(due.saturating_duration_since(self.started));
            let bytes = key.map_or(0, <[u8]>::len) + value.len();
            let record = NewRecord::to(self.topic).value(value);
            let record = key.map_or(record, |key| record.key(key));
            match self.record(record, &mut together).await {
                Ok(Some(delivery)) => together.push(Pending { delivery, due, bytes }),
                Ok(None) => break Ok(false),
                Err(error) => break Err(hint(error)),
            }
            if together.len() == TOGETHER {
                self.hand_on(&mut together);
                // Whoever tells of the progress has its turn.
                tokio::task::yield_now().await;
            }
        };
        self.hand_on(&mut together);
        ended
    }

    /// `None` when it was interrupted before the record was taken in.
    async fn record(&self, record: NewRecord<'_>, together: &mut Vec<Pending>) -> Result<Option<Delivery>, Error> {
        match self.producer.try_send(record) {
            Ok(delivery) => Ok(Some(delivery)),
            Err(TrySendError::Failed(error)) => Err(error),
            Err(TrySendError::Full | TrySendError::NotKnown) => {
                self.hand_on(together);
                tokio::select! {
                    biased;
                    () = self.interrupts.reached(1) => Ok(None),
                    sent = self.producer.send(record) => sent.map(Some),
                }
            }
        }
    }

    /// Hands on what was sent: outcomes are seen from then on.
    fn hand_on(&self, together: &mut Vec<Pending>) {
        if !together.is_empty() {
            // Who counts them is there until this is dropped.
            let _ = self.deliveries.send(std::mem::replace(together, Vec::with_capacity(TOGETHER)));
        }
    }
}

/// When records are due, and when there are no more.
pub(super) struct Schedule {
    start: Instant,
    /// A second; `None` is as fast as they are taken.
    rate: Option<u32>,
    end: Option<Instant>,
    most: u64,
    number: u64,
}

impl Schedule {
    /// Ends after so many records and after so long, whichever comes first.
    pub(super) fn new(start: Instant, rate: Option<u32>, most: Option<u64>, limit: Option<Duration>) -> Schedule {
        let end = limit.map(|limit| start + limit);
        Schedule { start, rate, end, most: most.unwrap_or(u64::MAX), number: 0 }
    }

    /// When the next record is due; `None` behind the last. With a rate that does not depend on `now`: a sender that
    /// was held up is behind, and sends what it has missed at once.
    pub(super) fn next(&mut self, now: Instant) -> Option<Instant> {
        if self.number == self.most {
            return None;
        }
        let due = match self.rate {
            None => now,
            Some(rate) => {
                let (rate, number) = (u64::from(rate), self.number);
                let nanos = number % rate * 1_000_000_000 / rate;
                self.start + Duration::from_secs(number / rate) + Duration::from_nanos(nanos)
            }
        };
        // Not by the clock: what was due and is late counts, or the end would hide that it is.
        if self.end.is_some_and(|end| due >= end) {
            return None;
        }
        self.number += 1;
        Some(due)
    }
}

/// Waits until it is `due`; false when it was interrupted.
///
/// Not with a timer of the runtime alone: those are up to [`TIMER_LATE`] late, which would count as latency. The rest
/// is slept in the thread that sends, in which nothing else runs but what is told of the progress.
async fn wait(runtime: &Runtime, interrupts: &Interrupts, due: Instant) -> bool {
    tokio::select! {
        biased;
        () = interrupts.reached(1) => return false,
        () = until_shortly_before(runtime, due) => {}
    }
    sleep_exactly(due.saturating_duration_since(runtime.now()));
    true
}

async fn until_shortly_before(runtime: &Runtime, due: Instant) {
    match due.checked_sub(TIMER_LATE).filter(|early| *early > runtime.now()) {
        Some(early) => runtime.sleep_until(early).await,
        // Whoever tells of the progress has its turn.
        None => tokio::task::yield_now().await,
    }
}

#[expect(clippy::disallowed_methods, reason = "nothing is waited for but the time that is measured from")]
fn sleep_exactly(rest: Duration) {
    std::thread::sleep(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "only takes a point in time to count from")]
    fn records_are_due_evenly_whatever_holds_the_sender_up() {
        let start = Instant::now();
        for rate in [1, 3, 1000, 30_000] {
            let mut schedule = Schedule::new(start, Some(rate), None, Some(Duration::from_secs(3)));
            let late = start + Duration::from_secs(60);
            let due: Vec<Instant> = std::iter::from_fn(|| schedule.next(late)).collect();
            assert_eq!(due.len(), 3 * rate as usize);
            assert_eq!(due[0], start);
            let steps = due.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64() * f64::from(rate));
            assert!(steps.into_iter().all(|step| (0.999..1.001).contains(&step)), "{rate}");
            assert_eq!(due[rate as usize] - start, Duration::from_secs(1), "no step is lost to rounding");
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "only takes a point in time to count from")]
    fn it_ends_after_so_many_records_or_so_long() {
        let start = Instant::now();
        let later = |ms| start + Duration::from_millis(ms);
        let mut schedule = Schedule::new(start, None, Some(2), Some(Duration::from_secs(1)));
        assert_eq!(schedule.next(later(10)), Some(later(10)));
        assert_eq!(schedule.next(later(20)), Some(later(20)));
        assert_eq!(schedule.next(later(30)), None);
        let mut schedule = Schedule::new(start, Some(2), None, Some(Duration::from_secs(1)));
        assert_eq!(schedule.next(later(0)), Some(start));
        assert_eq!(schedule.next(later(9000)), Some(later(500)), "what was due before the end is sent, however late");
        assert_eq!(schedule.next(later(9000)), None);
    }
}
