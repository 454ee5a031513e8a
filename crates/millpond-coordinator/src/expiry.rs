//! Which offsets expire, and the end of groups that have nothing left.

use std::ops::Bound;

use millpond_record::{PartitionIndex, Timestamp};
use millpond_wire::Str;

use crate::exchange::{Effects, Now};
use crate::offsets::CommittedOffset;
use crate::shard::{Group, Shard};
use crate::timers::Timer;

/// A search hands out about this many tombstones at a time.
const TOMBSTONES_AT_ONCE: usize = 1_000;
/// A search looks at about this many offsets at a time.
const OFFSETS_AT_ONCE: usize = 100_000;

/// Since when an offset is not needed, as far as anyone knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retention {
    /// It is in use.
    InUse,
    /// From its own commit on.
    SinceCommit,
    /// Since the group has no members any more.
    Since(Timestamp),
}

impl Shard {
    /// Looks through the next groups for offsets that have expired, and deletes groups that are empty then. The search
    /// is over when all groups have been looked at; the next one comes after `offsets_retention_check_ms`.
    pub(crate) fn expire(&mut self, now: Now, effects: &mut Effects) {
        let first_record = effects.records.len();
        let mut seen = 0;
        let mut at = self.expiry_from.take();
        loop {
            let range = (at.as_deref().map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
            let Some((id, group)) = self.groups.range::<str, _>(range).next() else { break };
            let id = id.clone();
            let expired = self.expired_offsets(group, now.wall);
            seen += 1 + group.offsets.iter().count();
            for (topic, partition) in expired {
                self.delete_offset(&id, &topic, partition, effects);
            }
            self.delete_if_unused(&id, effects);
            at = Some(id);
            if seen >= OFFSETS_AT_ONCE || effects.records.len() - first_record >= TOMBSTONES_AT_ONCE {
                self.expiry_from = at;
                self.timers.set(Timer::Expiry, now.monotonic_ms);
                return;
            }
        }
        self.timers.set(Timer::Expiry, now.monotonic_ms.saturating_add(self.settings.offsets_retention_check_ms));
    }

    fn expired_offsets(&self, group: &Group, wall: Timestamp) -> Vec<(Str, PartitionIndex)> {
        let expired = |(topic, partition, committed): (&Str, PartitionIndex, &CommittedOffset)| {
            let since = match group.membership.retention_of(topic) {
                Retention::InUse => return None,
                Retention::SinceCommit => committed.committed_at,
                Retention::Since(since) => since,
            };
            let gone = match committed.expires_at {
                Some(at) => wall >= at,
                None => wall.0.saturating_sub(since.0) >= self.settings.offsets_retention_ms,
            };
            gone.then(|| (topic.clone(), partition))
        };
        group.offsets.iter().filter_map(expired).collect()
    }

    fn delete_if_unused(&mut self, id: &Str, effects: &mut Effects) {
        let unused = |group: &Group| group.offsets.is_empty() && group.membership.is_unused();
        if self.groups.get(&**id).is_some_and(unused) {
            self.delete_group(id, effects);
        }
    }
}
