//! Counters of a data directory, read at any time and without a lock on the hot path.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Upper bounds of the buckets of [`StorageStats::journal_sync_micros`], in microseconds; one more bucket is above
/// them.
pub const SYNC_MICROS_BOUNDS: [u64; 14] =
    [50, 100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 51_200, 102_400, 409_600, 1_638_400];

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
    /// Sum of those times, in microseconds.
    pub journal_sync_micros_sum: u64,
    /// Bytes of batches that were synced in their segments and not written to the journal.
    pub journal_placed_bytes: u64,
    /// Times that a journal file was switched.
    pub journal_switches: u64,
    /// Times that the flush found no free file and waited for a checkpoint.
    pub journal_waits: u64,
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
    switches: AtomicU64,
    waits: AtomicU64,
}

impl JournalCounters {
    pub(crate) fn round(&self, records: u64, bytes: u64, micros: u64) {
        self.rounds.fetch_add(1, Relaxed);
        self.records.fetch_add(records, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
        let bucket = SYNC_MICROS_BOUNDS.partition_point(|bound| *bound < micros);
        self.micros[bucket].fetch_add(1, Relaxed);
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
        for (count, counter) in stats.journal_sync_micros.iter_mut().zip(&self.micros) {
            *count = counter.load(Relaxed);
        }
        stats.journal_sync_micros_sum = self.micros_sum.load(Relaxed);
        stats.journal_placed_bytes = self.placed_bytes.load(Relaxed);
        stats.journal_switches = self.switches.load(Relaxed);
        stats.journal_waits = self.waits.load(Relaxed);
    }
}
