//! What is to happen when, without a clock.

use std::collections::{BTreeMap, BTreeSet};

use millpond_wire::Str;

/// What a timer is for. Each exists once at most.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// The session of a member, or of a member id that was given out and not used yet.
    Member { group: Str, member: Str },
    /// The time that a member of a consumer group has to follow.
    Rebalance { group: Str, member: Str },
    /// The end of a rebalance, whoever has joined by then.
    Join { group: Str },
    /// The end of waiting for the SyncGroup of all members.
    Sync { group: Str },
    /// The search for offsets to expire.
    Expiry,
}

/// Timers by their deadline, in milliseconds of the caller's monotonic clock.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    deadlines: BTreeMap<Timer, u64>,
    queue: BTreeSet<(u64, Timer)>,
}

impl Timers {
    /// Sets the timer, wherever it stood before.
    pub(crate) fn set(&mut self, timer: Timer, deadline_ms: u64) {
        if let Some(before) = self.deadlines.insert(timer.clone(), deadline_ms) {
            if before == deadline_ms {
                return;
            }
            let entry = (before, timer);
            self.queue.remove(&entry);
            self.queue.insert((deadline_ms, entry.1));
        } else {
            self.queue.insert((deadline_ms, timer));
        }
    }

    /// Sets the timer unless it runs.
    pub(crate) fn set_if_absent(&mut self, timer: Timer, deadline_ms: u64) {
        if !self.deadlines.contains_key(&timer) {
            self.set(timer, deadline_ms);
        }
    }

    pub(crate) fn cancel(&mut self, timer: &Timer) {
        if let Some((timer, deadline)) = self.deadlines.remove_entry(timer) {
            self.queue.remove(&(deadline, timer));
        }
    }

    /// When the next timer is due.
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        self.queue.first().map(|(deadline, _)| *deadline)
    }

    /// Takes the timer that was due first, if one is due now.
    pub(crate) fn pop_due(&mut self, now_ms: u64) -> Option<Timer> {
        if self.next_deadline()? > now_ms {
            return None;
        }
        let (_, timer) = self.queue.pop_first()?;
        self.deadlines.remove(&timer);
        Some(timer)
    }

    pub(crate) fn clear(&mut self) {
        self.deadlines.clear();
        self.queue.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str) -> Timer {
        Timer::Member { group: Str::from("g"), member: Str::from(name) }
    }

    #[test]
    fn timers_fall_due_in_the_order_of_their_last_deadline() {
        let mut timers = Timers::default();
        timers.set(member("a"), 10);
        timers.set(member("b"), 20);
        timers.set(member("c"), 5);
        timers.set(member("a"), 30);
        timers.set(Timer::Expiry, 20);
        timers.cancel(&member("c"));
        timers.cancel(&member("never set"));
        assert_eq!(timers.next_deadline(), Some(20));
        assert_eq!(timers.pop_due(19), None);
        assert_eq!(timers.pop_due(20), Some(member("b")));
        assert_eq!(timers.pop_due(20), Some(Timer::Expiry));
        assert_eq!(timers.pop_due(29), None);
        assert_eq!(timers.pop_due(99), Some(member("a")));
        assert_eq!((timers.pop_due(99), timers.next_deadline()), (None, None));
    }
}
