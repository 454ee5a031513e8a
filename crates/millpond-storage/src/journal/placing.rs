//! Rounds that sync segments instead of writing batches twice.
//!
//! A batch is written once to the journal and once to its segment. Where a round holds many bytes of one log, syncing
//! that log's segment is cheaper than the second write: the round before the commit *places* the log's batches (writes
//! what is unwritten to the segment files and syncs those), and the commit then writes a [`Placed`] record of 64 bytes
//! for each. The promise is the same: when `done` is called, the entry and all before it are on the disk, and the
//! journal names the entry, so that a start opens the log and finds it. A log that cannot place its batches now (it is
//! relaxed, was truncated lately, cannot be written) has them journaled as ever.
//!
//! [`Placed`]: super::JournalEntry::Placed

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use millpond_record::{GroupId, LogId};
use millpond_runtime::Round;

use super::JournalEntry;
use super::group_commit::{Journal, State};
use super::round::{MAX_ROUND_BYTES, Pending};
use crate::StorageError;

/// Rounds that write no more than this tell how long a sync takes.
const SMALL_ROUND_BYTES: u64 = 64 << 10;
/// `segment_sync_bytes` is meant for disks whose sync takes up to this; on slower ones it takes more bytes to pay.
const QUICK_SYNC_MICROS: u64 = 500;

/// How long this disk takes for a small write and a sync: a moving average.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SyncCost {
    micros: u64,
}

impl SyncCost {
    /// Counts a round of the journal.
    pub(super) fn count(&mut self, bytes: u64, micros: u64) {
        if bytes <= SMALL_ROUND_BYTES {
            self.micros = (self.micros.saturating_mul(7).saturating_add(micros)) / 8;
        } else {
            // It took no longer than writing more did: where no small round follows, a stall is forgotten all the same.
            self.micros = self.micros.min(micros);
        }
    }

    /// Bytes of one log in a round from which a second sync costs less than a second write of them.
    fn worth_a_sync(self, configured: u64) -> u64 {
        let factor = (self.micros / QUICK_SYNC_MICROS).max(1);
        configured.saturating_mul(factor)
    }
}

/// The segments of one log, as the journal uses them.
pub(crate) trait Segments: Send + Sync {
    /// Writes the log up to entry `last` to its segment files, without a sync. False if that cannot be now, or if it
    /// would not prove what the journal needs: then the journal takes the batches.
    fn place(&self, last: LogId) -> bool;

    /// Syncs what [`Segments::place`] wrote, so that `bytes` of batches need not be in the journal. False if that could
    /// not be tried.
    ///
    /// # Errors
    ///
    /// [`StorageError::SetAside`]: the sync failed, and the log takes nothing any more.
    fn sync_placed(&self, bytes: u64) -> Result<bool, StorageError>;
}

/// What the next commit need not write in full.
pub(super) struct Placement {
    /// The commit ends with this sequence number: what was submitted later may be placed by the next round.
    until: u64,
    /// The last entry of each log that is in its segments.
    placed: BTreeMap<GroupId, LogId>,
    /// Logs that were set aside: their batches are journaled, as evidence, but not acknowledged.
    failed: BTreeMap<GroupId, StorageError>,
}

impl Placement {
    /// Whether the record with this sequence number was submitted after the placing began.
    pub(super) fn ends_before(&self, sequence: u64) -> bool {
        sequence > self.until
    }

    /// Whether a record that came later should wait for a round of its own, which may place it.
    pub(super) fn is_worth_it(&self) -> bool {
        !self.placed.is_empty()
    }

    /// Makes a pending record what the placing came to.
    pub(super) fn settle(&self, pending: &mut Pending) {
        let JournalEntry::Append { group, index, term, append_time, .. } = pending.entry else { return };
        if let Some(error) = self.failed.get(&group) {
            pending.refused = Some(error.clone());
        }
        // In a log that places its batches no index is pending twice: see [`Segments::place`].
        if self.placed.get(&group).is_some_and(|last| index <= last.index) {
            pending.entry = JournalEntry::Placed { group, index, term, append_time };
            pending.bytes = pending.entry.record_bytes();
        }
    }
}

/// The batches of one log in the coming round.
struct Target {
    segments: Weak<dyn Segments>,
    last: LogId,
    bytes: u64,
    /// Whether they are in their segments.
    placed: Result<bool, StorageError>,
}

/// Places the batches of the logs that have many bytes in the coming commit.
pub(super) struct PlaceRound {
    journal: Arc<Journal>,
    until: u64,
    targets: BTreeMap<GroupId, Target>,
}

impl PlaceRound {
    /// The round that comes before the next commit, if one pays. `segment_sync_bytes`: of one log, to be worth a sync
    /// on a quick disk.
    pub(super) fn of(journal: &Arc<Journal>, state: &State, segment_sync_bytes: u64) -> Option<Box<dyn Round>> {
        let min_bytes = state.sync_cost.worth_a_sync(segment_sync_bytes);
        if state.pending_bytes < min_bytes {
            return None;
        }
        let (mut targets, mut until, mut total) = (BTreeMap::<GroupId, Target>::new(), 0, 0);
        for pending in &state.pending {
            total += pending.bytes;
            if total > MAX_ROUND_BYTES && until > 0 {
                break;
            }
            until = pending.sequence;
            let (JournalEntry::Append { group, index, term, .. }, Some(segments)) = (&pending.entry, &pending.segments)
            else {
                continue;
            };
            let last = LogId { term: *term, index: *index };
            let target = targets.entry(*group).or_insert_with(|| Target {
                segments: Weak::clone(segments),
                last,
                bytes: 0,
                placed: Ok(false),
            });
            (target.last, target.bytes) = (last, target.bytes + pending.bytes);
        }
        targets.retain(|_, target| target.bytes >= min_bytes);
        (!targets.is_empty())
            .then(|| Box::new(PlaceRound { journal: journal.clone(), until, targets }) as Box<dyn Round>)
    }
}

impl Round for PlaceRound {
    fn run(&mut self) {
        // All are written before the first is synced: the disk works on them side by side.
        let mut written = Vec::with_capacity(self.targets.len());
        for target in self.targets.values_mut() {
            if let Some(segments) = target.segments.upgrade()
                && segments.place(target.last)
            {
                written.push((target, segments));
            }
        }
        for (target, segments) in written {
            target.placed = segments.sync_placed(target.bytes);
        }
    }

    fn complete(self: Box<Self>) {
        let PlaceRound { journal, until, targets } = *self;
        let mut placement = Placement { until, placed: BTreeMap::new(), failed: BTreeMap::new() };
        for (group, target) in targets {
            match target.placed {
                Ok(true) => {
                    journal.counters.placed(target.bytes);
                    placement.placed.insert(group, target.last);
                }
                Ok(false) => {}
                Err(error) => drop(placement.failed.insert(group, error)),
            }
        }
        journal.lock().placement = Some(placement);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slower_a_sync_the_more_bytes_it_must_spare() {
        let after = |micros: u64| {
            let mut cost = SyncCost::default();
            for _ in 0..100 {
                cost.count(4096, micros);
                cost.count(8 << 20, 40_000);
            }
            cost.worth_a_sync(512 << 10)
        };
        assert_eq!(SyncCost::default().worth_a_sync(100), 100);
        assert_eq!(after(150), 512 << 10);
        assert_eq!(after(900), 512 << 10);
        let hard_disk = after(10_000);
        assert!((9 << 20..=10 << 20).contains(&hard_disk), "{hard_disk}");
        assert_eq!(after(u64::MAX), 80 * (512 << 10), "as long as a large round at most");
        assert_eq!(SyncCost { micros: 5000 }.worth_a_sync(u64::MAX), u64::MAX);
    }
}
