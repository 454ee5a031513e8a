//! How many bytes may be on their way to a peer, or be kept for one.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// A number of bytes that are in flight, and their limit.
///
/// Who adds bytes looks for room before, and may then go beyond the limit by what he has in hand: a message whose size
/// nobody knew before it was there is sent, and the next one waits.
#[derive(Debug)]
pub(super) struct Budget {
    limit: usize,
    used: AtomicUsize,
    freed: Notify,
}

impl Budget {
    pub(super) fn new(limit: usize) -> Budget {
        Budget { limit, used: AtomicUsize::new(0), freed: Notify::new() }
    }

    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    pub(super) fn has_room(&self) -> bool {
        self.used() < self.limit
    }

    /// Whether more than half is used.
    pub(super) fn is_crowded(&self) -> bool {
        self.used() > self.limit / 2
    }

    /// Waits until there is room. Safe to cancel.
    pub(super) async fn room(&self) {
        loop {
            // Asked for before the look, or a release between the two would go unnoticed.
            let freed = self.freed.notified();
            if self.has_room() {
                return;
            }
            freed.await;
        }
    }

    pub(super) fn add(&self, bytes: usize) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn release(&self, bytes: usize) {
        let before = self.used.fetch_sub(bytes, Ordering::Relaxed);
        debug_assert!(before >= bytes, "{bytes} bytes are given back and {before} were taken");
        // Those who wait are woken when a quarter is free, not for each few bytes.
        let enough = self.limit - self.limit / 4;
        if before >= enough && before - bytes < enough {
            self.freed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn who_finds_no_room_waits_until_a_quarter_is_free() {
        let budget = Budget::new(100);
        assert!(budget.room().now_or_never().is_some());
        budget.add(150);
        let mut waiting = Box::pin(budget.room());
        assert!(waiting.as_mut().now_or_never().is_none());
        budget.release(70);
        assert!(waiting.as_mut().now_or_never().is_none(), "80 of 100 are in flight");
        budget.release(20);
        assert!(waiting.as_mut().now_or_never().is_some());
        assert_eq!(budget.used(), 60);
    }
}
