//! What became of the records: counted, and told in the end.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use millpond_client::{Acknowledged, Delivery, Error};
use serde::Serialize;
use tokio::sync::mpsc;

use crate::cluster::counted;

/// Deliveries that are looked at together.
const TOGETHER: usize = 1024;

/// Counts that change while records are sent.
#[derive(Debug, Default)]
pub(super) struct Live {
    pub(super) sent: AtomicU64,
    pub(super) acknowledged: AtomicU64,
}

/// What a partition got.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Written {
    partition: i32,
    records: u64,
    first_offset: Option<i64>,
    last_offset: Option<i64>,
}

/// What became of all.
#[derive(Debug, Default)]
pub(super) struct Tally {
    partitions: BTreeMap<i32, Written>,
    /// Of the keys and values of the records that were acknowledged.
    bytes: u64,
    pub(super) failed: u64,
    pub(super) first_error: Option<Error>,
}

impl Tally {
    /// Waits for all deliveries that come, each with the bytes of its record.
    pub(super) async fn count(mut deliveries: mpsc::UnboundedReceiver<(Delivery, usize)>, live: &Live) -> Tally {
        let mut tally = Tally::default();
        let mut some = Vec::with_capacity(TOGETHER);
        while deliveries.recv_many(&mut some, TOGETHER).await > 0 {
            for (delivery, bytes) in some.drain(..) {
                match delivery.await {
                    Ok(written) => {
                        live.acknowledged.fetch_add(1, Ordering::Relaxed);
                        tally.written(&written, bytes);
                    }
                    Err(error) => {
                        tally.failed += 1;
                        tally.first_error.get_or_insert(error);
                    }
                }
            }
        }
        tally
    }

    fn written(&mut self, record: &Acknowledged, bytes: usize) {
        self.bytes += bytes as u64;
        let partition = record.partition;
        let none = || Written { partition, records: 0, first_offset: None, last_offset: None };
        let written = self.partitions.entry(partition).or_insert_with(none);
        written.records += 1;
        written.first_offset = written.first_offset.into_iter().chain(record.offset).min();
        written.last_offset = written.last_offset.into_iter().chain(record.offset).max();
    }
}

/// The end of the story, for people and for scripts.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    pub(super) topic: String,
    /// That were taken in.
    pub(super) records: u64,
    /// Of the keys and values of those that were acknowledged, or have left if nobody was asked to.
    pub(super) bytes: u64,
    /// `None` if nobody was asked to.
    pub(super) acknowledged: Option<u64>,
    pub(super) failed: u64,
    pub(super) seconds: f64,
    pub(super) partitions: Vec<Written>,
    pub(super) error: Option<String>,
}

impl Summary {
    /// `asked`: for acknowledgements. `error` is why not everything was sent and acknowledged.
    pub(super) fn new(
        topic: &str,
        asked: bool,
        live: &Live,
        tally: &Tally,
        error: Option<String>,
        took: Duration,
    ) -> Summary {
        Summary {
            topic: topic.to_owned(),
            records: live.sent.load(Ordering::Relaxed),
            bytes: tally.bytes,
            acknowledged: asked.then(|| live.acknowledged.load(Ordering::Relaxed)),
            failed: tally.failed,
            seconds: (took.as_secs_f64() * 1000.0).round() / 1000.0,
            partitions: tally.partitions.values().cloned().collect(),
            error,
        }
    }

    pub(super) fn sentence(&self) -> String {
        let count = |count: u64, thing: &str| counted(usize::try_from(count).unwrap_or(usize::MAX), thing);
        let partitions = counted(self.partitions.len(), "partition");
        let (records, done) = match self.acknowledged {
            Some(acknowledged) => (acknowledged, "acknowledged in"),
            None => (self.records.saturating_sub(self.failed), "sent to"),
        };
        format!(
            "{} ({}) {done} {partitions} of {} in {:.2} s",
            count(records, "record"),
            count(self.bytes, "byte"),
            self.topic,
            self.seconds
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_tells_of_each_partition() {
        let live = Live::default();
        let mut tally = Tally::default();
        for (partition, offset) in [(1, Some(7)), (0, None), (1, Some(5))] {
            live.sent.fetch_add(1, Ordering::Relaxed);
            live.acknowledged.fetch_add(1, Ordering::Relaxed);
            tally.written(&Acknowledged { partition, offset, timestamp: 0 }, 10);
        }
        // One that was not acknowledged.
        live.sent.fetch_add(1, Ordering::Relaxed);
        tally.failed = 1;
        let took = Duration::from_millis(1234);
        let summary = Summary::new("logs", true, &live, &tally, Some("no".to_owned()), took);
        assert_eq!(summary.sentence(), "3 records (30 bytes) acknowledged in 2 partitions of logs in 1.23 s");
        let json = serde_json::to_value(&summary).expect("JSON");
        assert_eq!((&json["records"], &json["bytes"], &json["error"]), (&4.into(), &30.into(), &"no".into()));
        let summary = Summary::new("logs", false, &live, &tally, None, took);
        assert_eq!(summary.sentence(), "3 records (30 bytes) sent to 2 partitions of logs in 1.23 s");
        assert_eq!(serde_json::to_value(&summary).expect("JSON")["acknowledged"], serde_json::Value::Null);
        assert_eq!(json["partitions"][1]["first_offset"], 5);
        assert_eq!(json["partitions"][1]["last_offset"], 7);
        assert_eq!(json["partitions"][0]["first_offset"], serde_json::Value::Null);
    }
}
