//! Proving ahead: while a reader that catches up is sent one stretch of a file, the next is read and proven.
//!
//! Without it the socket would be idle while the disk and the checksums work, and the other way round. Only where the
//! proven batches are is kept, not the batches: they are in the page cache.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use millpond_record::{GroupId, Offset};
use millpond_runtime::File;

use super::Log;
use super::file_run::{FRESH, FileRun, PlacedRun};
use super::read::{ColdRead, Piece, Read};

/// Stretches that are kept, over all logs.
const KEPT: usize = 256;
/// A reader that takes more at a time gains little, and each stretch that is being proven takes its memory.
const LONGEST_BYTES: usize = 2 << 20;
/// Stretches that wait to be proven or are being proven, over all logs: what readers ask for has the disk first.
const AT_ONCE: usize = 16;

/// Proven stretches that no reader has asked for yet, oldest first.
#[derive(Default)]
pub(super) struct ProvenAhead {
    stretches: Mutex<VecDeque<Stretch>>,
    under_way: AtomicUsize,
    used: AtomicU64,
}

/// Where a reader is expected next, and what was proven there.
struct Stretch {
    place: Place,
    /// Not held open: its segment may be removed meanwhile.
    file: Weak<dyn File>,
    runs: Vec<PlacedRun>,
    proven_at: Instant,
}

/// Where a reader stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) group: GroupId,
    pub(super) from: Offset,
    /// Truncations of the log so far: what was proven before one may be gone.
    pub(super) truncations: u64,
}

impl ProvenAhead {
    fn stretches(&self) -> std::sync::MutexGuard<'_, VecDeque<Stretch>> {
        self.stretches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was proven for a reader that stands there and takes `max_bytes` up to `to` (exclusive).
    pub(super) fn take(&self, place: Place, to: Offset, max_bytes: usize, now: Instant) -> Option<Vec<Piece>> {
        let found = {
            let mut stretches = self.stretches();
            let at = stretches.iter().position(|stretch| stretch.place == place)?;
            stretches.remove(at)?
        };
        let bytes: usize = found.runs.iter().map(|run| run.length).sum();
        let last = found.runs.last()?;
        let fits = bytes <= max_bytes && last.next_offset <= to;
        let fresh = now.saturating_duration_since(found.proven_at) <= FRESH;
        let file = found.file.upgrade().filter(|_| fits && fresh)?;
        self.used.fetch_add(1, Ordering::Relaxed);
        let (group, proven_at) = (place.group, found.proven_at);
        let piece = |run| Piece::File(FileRun { group, file: Arc::clone(&file), run, proven_at, sent: 0 });
        Some(found.runs.into_iter().map(piece).collect())
    }

    /// How often a reader found its stretch proven.
    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    fn keep(&self, stretch: Stretch) {
        let mut stretches = self.stretches();
        stretches.retain(|kept| {
            kept.place != stretch.place && stretch.proven_at.saturating_duration_since(kept.proven_at) <= FRESH
        });
        if stretches.len() >= KEPT {
            stretches.pop_front();
        }
        stretches.push_back(stretch);
    }
}

/// The stretch that a reader will probably ask for next.
pub struct ReadAhead {
    log: Arc<Log>,
    from: Offset,
    to: Offset,
    max_bytes: usize,
}

impl Drop for ReadAhead {
    fn drop(&mut self) {
        self.log.context.ahead.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

impl std::fmt::Debug for ReadAhead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReadAhead").field("log", &self.log).field("from", &self.from).finish_non_exhaustive()
    }
}

impl ReadAhead {
    /// `None` when enough of this is going on.
    pub(super) fn of(log: Arc<Log>, from: Offset, to: Offset, max_bytes: usize) -> Option<ReadAhead> {
        let under_way = &log.context.ahead.under_way;
        let one_more = |count| (count < AT_ONCE && max_bytes <= LONGEST_BYTES).then_some(count + 1);
        under_way.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        Some(ReadAhead { log, from, to, max_bytes })
    }

    /// Reads and proves it. Blocks, like [`ColdRead::run_for_sending`]. Whatever goes wrong is left to the reader.
    pub fn run(self, now: Instant) {
        let Ok(Read::Cold(cold)) = self.log.read(self.from, self.to, self.max_bytes, false) else { return };
        if let Some((file, runs)) = cold.left_in_file() {
            let (place, file) = (cold.place(), Arc::downgrade(&file));
            self.log.context.ahead.keep(Stretch { place, file, runs, proven_at: now });
        }
    }
}

impl ColdRead {
    fn left_in_file(&self) -> Option<(Arc<dyn File>, Vec<PlacedRun>)> {
        let found = self.read(super::read::SENT_BYTES).ok()?;
        let runs: Option<Vec<PlacedRun>> = found.parts.into_iter().map(|part| part.left()).collect();
        Some((found.file, runs.filter(|runs| !runs.is_empty())?))
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;
    use std::path::Path;
    use std::time::Duration;

    use millpond_record::RaftIndex;
    use millpond_runtime::OpenMode;
    use millpond_runtime::sim::{NodeId, World, block_on};

    use super::*;

    const MB: usize = 1 << 20;

    fn place(from: i64) -> Place {
        Place { group: GroupId(3), from: Offset(from), truncations: 1 }
    }

    fn stretch(from: i64, file: &Arc<dyn File>, proven_at: Instant) -> Stretch {
        let run = |number: i64| PlacedRun {
            position: from as u64 * 1000 + number as u64 * 100_000,
            length: 90_000,
            next_offset: Offset(from + (number + 1) * 5),
            first_index: RaftIndex(7),
            hashes: (0, 0),
        };
        Stretch { place: place(from), file: Arc::downgrade(file), runs: vec![run(0), run(1)], proven_at }
    }

    fn with_file(test: impl FnOnce(Arc<dyn File>)) {
        block_on(1, async {
            let disk = World::new(1).runtime_for(NodeId(1)).disk();
            let file = disk.open(Path::new("/file"), OpenMode::CreateNew).unwrap();
            file.write_all_at(&[IoSlice::new(b"x")], 0).unwrap();
            test(file);
        });
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn what_was_proven_is_given_once_to_who_asks_for_just_that_in_time() {
        with_file(|file| {
            let start = Instant::now();
            let ask = |ahead: &ProvenAhead, place, to, max_bytes, now| {
                let pieces: Option<Vec<Piece>> = ahead.take(place, Offset(to), max_bytes, now);
                pieces.map(|pieces| pieces.iter().map(Piece::len).sum::<usize>())
            };
            let kept = || {
                let ahead = ProvenAhead::default();
                ahead.keep(stretch(40, &file, start));
                ahead
            };
            let late = start + FRESH + Duration::from_millis(1);
            let truncated = Place { truncations: 2, ..place(40) };
            for (what, place, to, max_bytes, now, expected) in [
                ("just that", place(40), 50, MB, start + FRESH, Some(180_000)),
                ("another offset", place(41), 50, MB, start, None),
                ("after a truncation", truncated, 50, MB, start, None),
                ("less than there is", place(40), 49, MB, start, None),
                ("fewer bytes", place(40), 50, 179_999, start, None),
                ("too late", place(40), 50, MB, late, None),
            ] {
                assert_eq!(ask(&kept(), place, to, max_bytes, now), expected, "{what}");
            }
            let ahead = kept();
            assert!(ask(&ahead, place(40), 50, MB, start).is_some());
            assert_eq!(ask(&ahead, place(40), 50, MB, start), None, "a second time");
        });
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn what_is_kept_is_bounded_and_holds_no_file_open() {
        with_file(|file| {
            let (ahead, start) = (ProvenAhead::default(), Instant::now());
            for from in 0..3 * KEPT as i64 {
                ahead.keep(stretch(from, &file, start));
            }
            assert_eq!(ahead.stretches().len(), KEPT);
            assert_eq!(Arc::strong_count(&file), 1);
            ahead.keep(stretch(0, &file, start + FRESH + Duration::from_millis(1)));
            assert_eq!(ahead.stretches().len(), 1, "the old ones are of no use");
            drop(file);
            let now = start + FRESH;
            assert!(ahead.take(place(0), Offset(1000), MB, now).is_none(), "its segment is gone");
        });
    }
}
