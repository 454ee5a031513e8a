//! Whether the caller still comes for records (Kafka's `max.poll.interval.ms`): one that does not, for too long, keeps
//! its partitions from being read, so the group is left for it, and joined again when it comes. Who asks for
//! rebalances, or is done with one, has come, too.
//!
//! No clock is read where records are handed out. The caller counts its calls, and the task, which looks with every
//! heartbeat, sees how long the count has stood still. A caller that waits is there as long as there is nothing for it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::time::Instant;
use tracing::info;

use super::Member;
use crate::clock;

/// What the caller leaves behind.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    count: AtomicU64,
    /// The last one found nothing and waits, unless it was dropped.
    waits: AtomicBool,
    /// The group was left because none came.
    missed: AtomicBool,
}

impl Calls {
    /// The caller has come; whether the group's task is to hear of it at once.
    pub(crate) fn came(&self, waits: bool) -> bool {
        self.waits.store(waits, Ordering::Relaxed);
        // In this order here and in the other one there: one of the two sees the other.
        self.count.fetch_add(1, Ordering::SeqCst);
        self.missed.load(Ordering::SeqCst)
    }
}

/// What the task has seen of that.
#[derive(Debug)]
pub(super) struct Presence {
    count: u64,
    /// Since when the count is what it is, and there was something to come for.
    since: Instant,
}

impl Presence {
    pub(super) fn new(now: Instant) -> Presence {
        Presence { count: 0, since: now }
    }
}

impl Member {
    /// Leaves the group for a caller that has not come for too long, and joins it again for one that has.
    pub(super) async fn heed_presence(&mut self) {
        // What the step has done before may have taken long.
        let now = clock::now();
        let calls = &self.desk.calls;
        let count = calls.count.load(Ordering::SeqCst);
        let has_come = count != self.presence.count;
        let waits = calls.waits.load(Ordering::Relaxed) && !self.shared.state().has_news();
        if has_come || waits || !self.is_member() {
            self.presence = Presence { count, since: now };
        }
        if has_come && calls.missed.swap(false, Ordering::SeqCst) {
            self.rejoin = self.is_subscribed();
            self.say_all_again();
        }
        // Looked at with each heartbeat, it sees that nobody comes when a whole one has passed without.
        let limit = self.shared.config.max_poll_interval.max(2 * self.beats_every);
        if has_come || waits || !self.is_member() || now.saturating_duration_since(self.presence.since) < limit {
            return;
        }
        self.desk.calls.missed.store(true, Ordering::SeqCst);
        if self.desk.calls.count.load(Ordering::SeqCst) != count {
            // It comes at this moment. The next look sees it.
            self.desk.wake.notify_one();
            return;
        }
        info!("the group {} is left: nobody has asked for records for {} s", self.group, limit.as_secs());
        self.desk.give_up(&self.shared);
        self.let_go(&BTreeSet::new()).await;
        self.leave().await;
        (self.rejoin, self.watched) = (false, None);
    }

    /// Whether the group was left because the caller does not come.
    pub(super) fn is_missed(&self) -> bool {
        self.desk.calls.missed.load(Ordering::SeqCst)
    }
}
