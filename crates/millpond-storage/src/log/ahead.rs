//! Proving ahead: while a reader that catches up is sent one stretch of a file, the next is read and proven.
//!
//! Without it the socket would be idle while the disk and the checksums work, and the other way round. Only where the
//! proven batches are is kept, not the batches: they are in the page cache.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use millpond_record::{GroupId, Offset};
use millpond_runtime::{File, FileRange};

use super::Log;
use super::read::{ColdRead, Piece, Read};

/// Stretches that are kept, over all logs.
const KEPT: usize = 256;
/// A proof that is older says little about what the disk gives now.
const FRESH: Duration = Duration::from_secs(2);

/// Proven stretches that no reader has asked for yet, oldest first.
#[derive(Default)]
pub(super) struct ProvenAhead(Mutex<VecDeque<Stretch>>);

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

/// A run of whole data batches in a file.
#[derive(Clone, Copy)]
pub(super) struct PlacedRun {
    pub(super) position: u64,
    pub(super) length: usize,
    /// The offset behind the last batch.
    pub(super) next_offset: Offset,
}

impl PlacedRun {
    pub(super) fn piece(&self, file: &Arc<dyn File>) -> Piece {
        let range = FileRange::new(Arc::clone(file), self.position, self.length);
        Piece::File { range, next_offset: self.next_offset }
    }
}

impl ProvenAhead {
    fn stretches(&self) -> std::sync::MutexGuard<'_, VecDeque<Stretch>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
        Some(found.runs.iter().map(|run| run.piece(&file)).collect())
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
    pub(super) log: Arc<Log>,
    pub(super) from: Offset,
    pub(super) to: Offset,
    pub(super) max_bytes: usize,
}

impl std::fmt::Debug for ReadAhead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReadAhead").field("log", &self.log).field("from", &self.from).finish_non_exhaustive()
    }
}

impl ReadAhead {
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
