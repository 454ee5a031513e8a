//! The records of a coordinator's turn as batches for its log.

use bytes::Bytes;
use millpond_coordinator::Record;
use millpond_raft::Proposal;
use millpond_record::{BatchBuilder, BatchHeader, HEADER_BYTES, Timestamp};

/// A batch is closed before it grows beyond this, Kafka's default for a topic.
const MAX_BATCH_BYTES: usize = 1 << 20;
/// What a record takes beside its key and its value, at most.
const RECORD_OVERHEAD_BYTES: usize = 32;

/// Gathers records. Those of one decision stay in one batch, so that a crash leaves all of them or none, unless they
/// are more than the log takes at once.
pub(super) struct Batches {
    now: Timestamp,
    /// The longest batch that the log takes.
    limit: usize,
    open: BatchBuilder,
    closed: Vec<Bytes>,
}

impl Batches {
    /// `limit`: the longest batch that the log takes, in bytes.
    pub(super) fn new(now: Timestamp, limit: u64) -> Batches {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Batches { now, limit, open: BatchBuilder::new(), closed: Vec::new() }
    }

    /// Adds the records of one decision.
    pub(super) fn add(&mut self, records: &[Record]) {
        let size: usize = records.iter().map(size_bytes).sum();
        let wanted = self.open.uncompressed_bytes() + size;
        if wanted > MAX_BATCH_BYTES.min(self.limit) {
            self.close();
        }
        for record in records {
            if self.open.uncompressed_bytes() + size_bytes(record) > self.limit {
                self.close();
            }
            self.open.append(self.now, Some(&record.key), record.value.as_deref());
        }
    }

    fn close(&mut self) {
        if !self.open.is_empty() {
            self.closed.push(std::mem::take(&mut self.open).build());
        }
    }

    /// The batches, in the order of their records; empty if there are none.
    pub(super) fn finish(mut self) -> impl Iterator<Item = Proposal> {
        self.close();
        let append_time = self.now;
        self.closed.into_iter().map(move |batch| Proposal {
            header: BatchHeader::read(&batch).expect("the builder makes whole batches"),
            frame_bytes: batch.len(),
            append_time,
            batch,
        })
    }
}

fn size_bytes(record: &Record) -> usize {
    RECORD_OVERHEAD_BYTES + record.key.len() + record.value.as_ref().map_or(0, Bytes::len)
}

const _: () = assert!(MAX_BATCH_BYTES > HEADER_BYTES + RECORD_OVERHEAD_BYTES);

#[cfg(test)]
mod tests {
    use super::*;
    use millpond_record::{DecompressLimit, records};

    fn record(key: &'static str, value_bytes: usize) -> Record {
        Record { key: Bytes::from_static(key.as_bytes()), value: Some(vec![7; value_bytes].into()) }
    }

    /// The keys of each batch.
    fn keys(batches: Batches) -> Vec<Vec<String>> {
        let of_batch = |proposal: Proposal| {
            let found = records(&proposal.batch, DecompressLimit(1 << 30)).expect("records");
            let key = |key: &[u8]| String::from_utf8(key.to_vec()).expect("text");
            found.iter().map(|record| key(record.expect("a record").key.expect("a key"))).collect()
        };
        batches.finish().map(of_batch).collect()
    }

    #[test]
    fn what_fits_goes_into_one_batch_and_nothing_makes_none() {
        assert!(keys(Batches::new(Timestamp(5), 1 << 26)).is_empty());
        let mut batches = Batches::new(Timestamp(5), 1 << 26);
        batches.add(&[record("a", 10), Record { key: "b".into(), value: None }]);
        batches.add(&[]);
        batches.add(&[record("c", 10)]);
        assert_eq!(keys(batches), [["a", "b", "c"]]);
    }

    #[test]
    fn a_decision_is_not_divided_while_the_log_takes_it_whole() {
        let mut batches = Batches::new(Timestamp(5), 1 << 26);
        batches.add(&[record("a", 600_000)]);
        batches.add(&[record("b", 300_000), record("c", 300_000)]);
        batches.add(&[record("d", 600_000), record("e", 600_000), record("f", 600_000)]);
        batches.add(&[record("g", 1)]);
        assert_eq!(keys(batches), [vec!["a"], vec!["b", "c"], vec!["d", "e", "f"], vec!["g"]]);
    }

    #[test]
    fn what_the_log_does_not_take_at_once_is_divided() {
        let mut batches = Batches::new(Timestamp(5), 100_000);
        batches.add(&[record("a", 60_000), record("b", 30_000), record("c", 60_000)]);
        batches.add(&[record("d", 10)]);
        assert_eq!(keys(batches), [vec!["a", "b"], vec!["c", "d"]]);
    }
}
