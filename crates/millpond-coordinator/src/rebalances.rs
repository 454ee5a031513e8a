//! When a group rebalanced, and why: for operators, in memory only. It begins anew with the coordinator.

use std::collections::VecDeque;

use millpond_record::Timestamp;

/// The longest reason that is kept, in characters.
const MAX_REASON: usize = 255;
/// How many rebalances are kept with their reasons: as many as show a storm.
const KEPT: usize = 10;
/// What one that is kept takes in memory besides its reason, about.
const FIXED_BYTES: usize = 64;

/// The rebalances of a group since its coordinator has loaded it.
#[derive(Debug, Default)]
pub(crate) struct Rebalances {
    count: u64,
    /// The last of them, the oldest first.
    recent: VecDeque<(Timestamp, String)>,
    bytes: usize,
}

impl Rebalances {
    /// Another one begins.
    pub(crate) fn begin(&mut self, at: Timestamp, why: &str) {
        self.count += 1;
        if self.recent.len() == KEPT
            && let Some((_, oldest)) = self.recent.pop_front()
        {
            self.bytes -= FIXED_BYTES + oldest.len();
        }
        let why: String = why.chars().take(MAX_REASON).collect();
        self.bytes += FIXED_BYTES + why.len();
        self.recent.push_back((at, why));
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    pub(crate) fn last(&self) -> Option<(Timestamp, &str)> {
        self.recent.back().map(|(at, why)| (*at, why.as_str()))
    }

    /// The last ones, the oldest first.
    pub(crate) fn recent(&self) -> impl Iterator<Item = (Timestamp, &str)> {
        self.recent.iter().map(|(at, why)| (*at, why.as_str()))
    }

    /// What they take in memory, about.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ones_are_kept_and_all_are_counted() {
        let mut rebalances = Rebalances::default();
        assert_eq!((rebalances.count(), rebalances.last(), rebalances.bytes()), (0, None, 0));
        let long = "x".repeat(10 * MAX_REASON);
        rebalances.begin(Timestamp(0), &long);
        assert_eq!(rebalances.last().map(|(_, why)| why.len()), Some(MAX_REASON));
        for at in 1..=25 {
            rebalances.begin(Timestamp(at), "why");
        }
        let recent: Vec<_> = rebalances.recent().collect();
        assert_eq!(
            (recent.len(), recent[0], rebalances.last()),
            (KEPT, (Timestamp(16), "why"), Some((Timestamp(25), "why")))
        );
        assert_eq!((rebalances.count(), rebalances.bytes()), (26, KEPT * (FIXED_BYTES + 3)));
    }
}
