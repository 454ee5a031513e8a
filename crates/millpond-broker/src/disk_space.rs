//! How full the data directory's file system is, and what that lets the broker take.
//!
//! Below the first threshold it warns. Below the second, the reserve, nothing more is taken in: produce and new topics
//! are refused, while everything else goes on, deletions above all, for which the reserve is kept. Free space is looked
//! at every second; between two looks what is taken in is counted against what the last one found, so that no burst can
//! reach into the reserve, however fast it is.
//!
//! Refused means POLICY_VIOLATION with a sentence. Kafka's clients do not retry it and hand the sentence to the
//! application. KAFKA_STORAGE_ERROR they take for the loss of a disk of this broker: they ask for another leader and
//! retry until the delivery timeout, which hides the reason and adds load.

use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU64, Ordering};

use millpond_runtime::DiskSpace;
use tracing::{error, info, warn};

/// A small file system's thresholds are at most these parts of it.
const RESERVE_SHARE: u64 = 10;
const WARNING_SHARE: u64 = 5;
/// The journal takes at most this part of a small file system.
const JOURNAL_SHARE: u64 = 4;
/// A smaller journal file could not hold a batch of Kafka's default size.
const MIN_JOURNAL_FILE_BYTES: u64 = 2 << 20;
/// Full ends only when this part of the reserve is free beside it, or it would come and go with every request.
const RECOVERED_SHARE: u64 = 16;

/// How things are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Level {
    Ample,
    /// Below the first threshold.
    Low,
    /// Nothing more is taken in.
    Full,
}

/// The file system has no room for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the broker's disk is full: {free} bytes are free, and {reserve} are kept in reserve \
     (millpond.disk.min.free.bytes); delete topics or records, or add space"
)]
pub(crate) struct DiskFull {
    free: u64,
    reserve: u64,
}

/// The two settings, as they are meant for a large file system. 0 turns one off.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Thresholds {
    pub(crate) warn_free_bytes: u64,
    pub(crate) min_free_bytes: u64,
}

impl Thresholds {
    fn warning(self, total: u64) -> u64 {
        self.warn_free_bytes.min(total / WARNING_SHARE).max(self.reserve(total))
    }

    fn reserve(self, total: u64) -> u64 {
        self.min_free_bytes.min(total / RESERVE_SHARE)
    }
}

/// The journal file size for a file system, so that the journal leaves room for what it is for.
pub(crate) fn journal_file_bytes(configured: u64, files: u32, total: u64) -> u64 {
    let fitting = total / JOURNAL_SHARE / u64::from(files.max(1));
    configured.min(fitting.max(MIN_JOURNAL_FILE_BYTES))
}

/// What is known of the free space.
pub(crate) struct DiskWatch {
    thresholds: Thresholds,
    free: AtomicU64,
    total: AtomicU64,
    level: AtomicU8,
    /// What may still be taken in before the next look.
    room: AtomicI64,
    refused: AtomicU64,
}

impl DiskWatch {
    /// Nothing is known yet, and everything may be taken in.
    pub(crate) fn new(thresholds: Thresholds) -> DiskWatch {
        DiskWatch {
            thresholds,
            free: AtomicU64::new(u64::MAX),
            total: AtomicU64::new(u64::MAX),
            level: AtomicU8::new(Level::Ample as u8),
            room: AtomicI64::new(i64::MAX),
            refused: AtomicU64::new(0),
        }
    }

    /// Takes up what a look has found. `promised`: bytes that were taken in and are not in their files yet.
    pub(crate) fn looked(&self, space: DiskSpace, promised: u64) {
        let DiskSpace { available_bytes: free, total_bytes: total } = space;
        let reserve = self.thresholds.reserve(total);
        let room = free.saturating_sub(promised).saturating_sub(reserve);
        let enough = if self.level() == Level::Full { reserve / RECOVERED_SHARE } else { 0 };
        let level = match free {
            _ if reserve > 0 && room <= enough => Level::Full,
            free if free < self.thresholds.warning(total) => Level::Low,
            _ => Level::Ample,
        };
        self.free.store(free, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
        let room = match level {
            Level::Full => 0,
            _ if reserve == 0 => i64::MAX,
            _ => i64::try_from(room).unwrap_or(i64::MAX),
        };
        self.room.store(room, Ordering::Relaxed);
        let before = self.level.swap(level as u8, Ordering::Relaxed);
        if before != level as u8 {
            tell(level, free, reserve);
        }
    }

    /// Takes room for bytes that will be written.
    pub(crate) fn take(&self, bytes: usize) -> Result<(), DiskFull> {
        if self.room.load(Ordering::Relaxed) == i64::MAX {
            return Ok(());
        }
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        // Refused bytes are not given back before the next look: a small request would pass where a large one did not,
        // and producers would see their batches refused here and there.
        if self.room.fetch_sub(bytes, Ordering::Relaxed) >= bytes.max(1) {
            return Ok(());
        }
        self.room.store(0, Ordering::Relaxed);
        self.refused.fetch_add(1, Ordering::Relaxed);
        let (free, total) = (self.free.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed));
        Err(DiskFull { free, reserve: self.thresholds.reserve(total) })
    }

    pub(crate) fn level(&self) -> Level {
        match self.level.load(Ordering::Relaxed) {
            0 => Level::Ample,
            1 => Level::Low,
            _ => Level::Full,
        }
    }

    /// Free bytes, all bytes, and requests refused; `None` before the first look.
    pub(crate) fn figures(&self) -> Option<(u64, u64, u64)> {
        let (free, total) = (self.free.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed));
        (total != u64::MAX).then(|| (free, total, self.refused.load(Ordering::Relaxed)))
    }
}

fn tell(level: Level, free: u64, reserve: u64) {
    match level {
        Level::Ample => info!(free, "the disk has enough free space again"),
        Level::Low => warn!(free, reserve, "the disk is nearly full: below the reserve produce will be refused"),
        Level::Full => error!(free, reserve, "the disk is full: produce and new topics are refused"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGE: u64 = 1 << 40;

    fn watch() -> DiskWatch {
        DiskWatch::new(Thresholds { warn_free_bytes: 4000, min_free_bytes: 1600 })
    }

    fn space(free: u64, total: u64) -> DiskSpace {
        DiskSpace { available_bytes: free, total_bytes: total }
    }

    #[test]
    fn the_level_follows_the_free_space_and_full_ends_with_some_to_spare() {
        let watch = watch();
        for (free, promised, level) in [
            (9000, 0, Level::Ample),
            (4000, 0, Level::Ample),
            (3999, 0, Level::Low),
            (1601, 0, Level::Low),
            (1600, 0, Level::Full),
            (1700, 0, Level::Full),
            (1701, 0, Level::Low),
            (3000, 1400, Level::Full),
            (9000, 0, Level::Ample),
        ] {
            watch.looked(space(free, LARGE), promised);
            assert_eq!(watch.level(), level, "{free} free, {promised} promised");
        }
    }

    #[test]
    fn between_two_looks_no_more_is_taken_than_the_last_one_found_beside_the_reserve() {
        let watch = watch();
        watch.looked(space(2600, LARGE), 400);
        assert_eq!(watch.take(500), Ok(()));
        assert_eq!(watch.take(101), Err(DiskFull { free: 2600, reserve: 1600 }));
        assert_eq!(watch.take(1), Err(DiskFull { free: 2600, reserve: 1600 }), "nobody slips through");
        watch.looked(space(2000, LARGE), 0);
        assert_eq!(watch.take(400), Ok(()));
        assert_eq!(watch.figures(), Some((2000, LARGE, 2)));
    }

    #[test]
    fn a_small_file_system_keeps_a_tenth_and_has_a_small_journal() {
        let watch = watch();
        watch.looked(space(1001, 10_000), 0);
        assert_eq!((watch.level(), watch.take(1)), (Level::Low, Ok(())));
        watch.looked(space(1000, 10_000), 0);
        assert_eq!(watch.take(1), Err(DiskFull { free: 1000, reserve: 1000 }));
        assert_eq!(journal_file_bytes(64 << 20, 8, LARGE), 64 << 20);
        assert_eq!(journal_file_bytes(64 << 20, 8, 1 << 30), 32 << 20);
        assert_eq!(journal_file_bytes(64 << 20, 8, 64 << 20), 2 << 20);
        assert_eq!(journal_file_bytes(1 << 20, 8, 64 << 20), 1 << 20);
    }

    #[test]
    fn without_a_reserve_nothing_is_ever_refused() {
        let watch = DiskWatch::new(Thresholds { warn_free_bytes: 0, min_free_bytes: 0 });
        assert_eq!(watch.figures(), None);
        watch.looked(space(0, LARGE), 0);
        assert_eq!((watch.level(), watch.take(usize::MAX)), (Level::Ample, Ok(())));
    }
}
