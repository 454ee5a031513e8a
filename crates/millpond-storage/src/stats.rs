//! Counters of a data directory, read at any time and without a lock on the hot path.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Upper bounds of the buckets of [`StorageStats::journal_sync_micros`], in microseconds; one more bucket is above
/// them.
pub const SYNC_MICROS_BOUNDS: [u64; 14] =
    [50, 100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 51_200, 102_400, 409_600, 1_638_400];

/// Upper bounds of the buckets of [`StorageStats::journal_round_records`]; one more bucket is above them.
pub const ROUND_RECORDS_BOUNDS: [u64; 10] = [1, 2, 4, 8, 16, 32, 64, 128, 512, 2_048];

/// Upper bounds of the buckets of [`StorageStats::journal_round_bytes`], in bytes; one more bucket is above them.
pub const ROUND_BYTES_BOUNDS: [u64; 9] =
    [1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20];

/// What a data directory has done since it was opened, and what it holds in memory now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StorageStats {
    /// Journal rounds: writes that were followed by one sync.
    pub journal_rounds: u64,
    /// Records in those rounds.
    pub journal_records: u64,
    /// Bytes of those records.
    pub journal_bytes: u64,
    /// Rounds by the time of their write and sync: counts per bucket of [`SYNC_MICROS_BOUNDS`], then those above.
    pub journal_sync_micros: [u64; SYNC_MICROS_BOUNDS.len() + 1],
    /// Rounds by their records: counts per bucket of [`ROUND_RECORDS_BOUNDS`], then those above.
    pub journal_round_records: [u64; ROUND_RECORDS_BOUNDS.len() + 1],
    /// Rounds by their bytes: counts per bucket of [`ROUND_BYTES_BOUNDS`], then those above.
    pub journal_round_bytes: [u64; ROUND_BYTES_BOUNDS.len() + 1],
    /// Sum of those times, in microseconds.
    pub journal_sync_micros_sum: u64,
    /// Bytes of batches that were synced in their segments and not written to the journal.
    pub journal_placed_bytes: u64,
    /// Times that a journal file was switched.
    pub journal_switches: u64,
    /// Times that the flush found no free file and waited for a checkpoint.
    pub journal_waits: u64,
    /// Cold reads that found what they asked for read and proven.
    pub read_ahead_used: u64,
    /// Bytes that wait for the next round. Producers should be held back while this is large.
    pub journal_pending_bytes: u64,
    /// Checkpoints written.
    pub checkpoints: u64,
    /// Bytes of batches that the tail cache holds, frames they pin included.
    pub cache_bytes: u64,
    /// Logs that are open.
    pub open_logs: u64,
    /// Logs whose segments cannot be written for now: their producers are refused.
    pub stalled_logs: u64,
}

/// The journal's counters.
#[derive(Debug, Default)]
pub(crate) struct JournalCounters {
    rounds: AtomicU64,
    records: AtomicU64,
    bytes: AtomicU64,
    micros: [AtomicU64; SYNC_MICROS_BOUNDS.len() + 1],
    micros_sum: AtomicU64,
    placed_bytes: AtomicU64,
    round_records: [AtomicU64; ROUND_RECORDS_BOUNDS.len() + 1],
    round_bytes: [AtomicU64; ROUND_BYTES_BOUNDS.len() + 1],
    switches: AtomicU64,
    waits: AtomicU64,
}

impl JournalCounters {
    pub(crate) fn round(&self, records: u64, bytes: u64, micros: u64) {
        self.rounds.fetch_add(1, Relaxed);
        self.records.fetch_add(records, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
        count(&self.micros, &SYNC_MICROS_BOUNDS, micros);
        count(&self.round_records, &ROUND_RECORDS_BOUNDS, records);
        count(&self.round_bytes, &ROUND_BYTES_BOUNDS, bytes);
        self.micros_sum.fetch_add(micros, Relaxed);
    }

    pub(crate) fn placed(&self, bytes: u64) {
        self.placed_bytes.fetch_add(bytes, Relaxed);
    }

    pub(crate) fn switched(&self) {
        self.switches.fetch_add(1, Relaxed);
    }

    pub(crate) fn waited(&self) {
        self.waits.fetch_add(1, Relaxed);
    }

    pub(crate) fn read(&self, stats: &mut StorageStats) {
        stats.journal_rounds = self.rounds.load(Relaxed);
        stats.journal_records = self.records.load(Relaxed);
        stats.journal_bytes = self.bytes.load(Relaxed);
        read_buckets(&self.micros, &mut stats.journal_sync_micros);
        read_buckets(&self.round_records, &mut stats.journal_round_records);
        read_buckets(&self.round_bytes, &mut stats.journal_round_bytes);
        stats.journal_sync_micros_sum = self.micros_sum.load(Relaxed);
        stats.journal_placed_bytes = self.placed_bytes.load(Relaxed);
        stats.journal_switches = self.switches.load(Relaxed);
        stats.journal_waits = self.waits.load(Relaxed);
    }
}

/// Counts a value in the first bucket whose bound it does not exceed.
fn count(buckets: &[AtomicU64], bounds: &[u64], value: u64) {
    buckets[bounds.partition_point(|bound| *bound < value)].fetch_add(1, Relaxed);
}

fn read_buckets(buckets: &[AtomicU64], counts: &mut [u64]) {
    for (count, bucket) in counts.iter_mut().zip(buckets) {
        *count = bucket.load(Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_is_counted_once_in_each_histogram() {
        let counters = JournalCounters::default();
        counters.round(1, 1024, 50);
        counters.round(3, 1 << 40, 51);
        let mut stats = StorageStats::default();
        counters.read(&mut stats);
        assert_eq!((stats.journal_rounds, stats.journal_records), (2, 4));
        assert_eq!((stats.journal_sync_micros[0], stats.journal_sync_micros[1]), (1, 1));
        assert_eq!((stats.journal_round_records[0], stats.journal_round_records[2]), (1, 1));
        assert_eq!((stats.journal_round_bytes[0], stats.journal_round_bytes.last()), (1, Some(&1)));
    }
}
