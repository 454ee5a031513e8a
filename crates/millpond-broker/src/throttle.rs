//! How fast clients produce and fetch, against their quotas (KIP-13, KIP-55, KIP-219).
//!
//! As Kafka does with `quota.window.num` 11 and `quota.window.size.seconds` 1: what counts is the rate over the last
//! ten to eleven seconds. A request that takes it above the quota is served, its answer says for how long the client
//! should wait, and the connection is not read from for that long. That time brings the average back to the quota.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use millpond_cluster::QuotaScope;
use tokio::time::Instant;

/// Seconds that are counted one by one, the current one included.
const SLOTS: usize = 11;
const SLOT_MS: u64 = 1000;
/// The time that the rate is over, beside the begun second.
const WHOLE_SLOTS_MS: u64 = (SLOTS as u64 - 1) * SLOT_MS;
/// The longest time that a client is told to wait.
const MAX_DELAY_MS: u64 = 3_600_000;
/// Rates that are kept at most. Beyond it the one that was unused for longest is forgotten: with a default quota, any
/// client makes up as many ids as it likes.
const MAX_RATES: usize = 10_000;
/// Bytes of a name by which rates are told apart, so that long names take no memory.
const MAX_NAME_BYTES: usize = 256;

/// What a quota is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Traffic {
    Produce,
    Fetch,
}

/// The bytes that a client may fetch in one answer: what its quota gives in the time that the rate is over.
pub(crate) fn fetch_limit(quota: u64) -> usize {
    usize::try_from(quota.saturating_mul(WHOLE_SLOTS_MS / SLOT_MS)).unwrap_or(usize::MAX)
}

/// A wait as answers tell it.
pub(crate) fn throttle_time_ms(wait: Duration) -> i32 {
    i32::try_from(wait.as_millis()).unwrap_or(i32::MAX)
}

/// Bytes by second, for the last seconds. Times are milliseconds since any moment, and never go back by much.
#[derive(Clone, Debug)]
struct Rate {
    slots: [u64; SLOTS],
    /// The second of the newest slot.
    newest: u64,
}

impl Rate {
    fn new(now_ms: u64) -> Rate {
        Rate { slots: [0; SLOTS], newest: now_ms / SLOT_MS }
    }

    fn record(&mut self, bytes: u64, now_ms: u64) {
        let second = (now_ms / SLOT_MS).max(self.newest);
        for passed in (self.newest + 1..=second).take(SLOTS) {
            self.slots[passed as usize % SLOTS] = 0;
        }
        self.newest = second;
        let slot = &mut self.slots[second as usize % SLOTS];
        *slot = slot.saturating_add(bytes);
    }

    /// How long nothing may come until the average is down to the quota, in bytes per second.
    fn delay_ms(&self, quota: u64, now_ms: u64) -> u64 {
        let total: u128 = self.slots.iter().map(|bytes| u128::from(*bytes)).sum();
        let over_ms = WHOLE_SLOTS_MS + now_ms.saturating_sub(self.newest * SLOT_MS).min(SLOT_MS);
        let earned_ms = total * u128::from(SLOT_MS) / u128::from(quota.max(1));
        u64::try_from(earned_ms.saturating_sub(u128::from(over_ms))).unwrap_or(u64::MAX).min(MAX_DELAY_MS)
    }
}

type Key = (Traffic, QuotaScope);

/// All rates that are in use, in bounded number.
#[derive(Default)]
struct Rates {
    rates: BTreeMap<Arc<Key>, (Rate, u64)>,
    /// When each was last used.
    by_use: BTreeSet<(u64, Arc<Key>)>,
}

impl Rates {
    fn record(&mut self, key: Key, quota: u64, bytes: u64, now_ms: u64) -> u64 {
        let key = Arc::new(key);
        let mut rate = match self.rates.remove_entry(&key) {
            Some((known, (rate, used_ms))) => {
                self.by_use.remove(&(used_ms, known));
                rate
            }
            None => Rate::new(now_ms),
        };
        rate.record(bytes, now_ms);
        let delay = rate.delay_ms(quota, now_ms);
        self.forget_unused(now_ms);
        self.by_use.insert((now_ms, Arc::clone(&key)));
        self.rates.insert(key, (rate, now_ms));
        delay
    }

    /// Makes room: what was unused for so long that it counts for nothing, and what is too much.
    fn forget_unused(&mut self, now_ms: u64) {
        while let Some((used_ms, _)) = self.by_use.first() {
            let counts = used_ms + SLOTS as u64 * SLOT_MS > now_ms;
            if counts && self.rates.len() < MAX_RATES {
                return;
            }
            if let Some((_, key)) = self.by_use.pop_first() {
                self.rates.remove(&key);
            }
        }
    }
}

/// The rates of this broker's clients.
pub(crate) struct Throttle {
    start: Instant,
    rates: Mutex<Rates>,
}

impl Throttle {
    pub(crate) fn new(now: Instant) -> Throttle {
        Throttle { start: now, rates: Mutex::new(Rates::default()) }
    }

    /// Counts bytes that those in `scope` produced or fetched; how long they must wait.
    pub(crate) fn record(
        &self,
        traffic: Traffic,
        scope: QuotaScope,
        quota: u64,
        bytes: usize,
        now: Instant,
    ) -> Duration {
        let now_ms = u64::try_from((now - self.start).as_millis()).unwrap_or(u64::MAX);
        let key = (traffic, QuotaScope { user: scope.user.map(cut), client_id: scope.client_id.map(cut) });
        // Nothing that can panic runs under the lock.
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        Duration::from_millis(rates.record(key, quota, bytes as u64, now_ms))
    }
}

fn cut(mut name: String) -> String {
    name.truncate(name.floor_char_boundary(MAX_NAME_BYTES));
    name.shrink_to_fit();
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(name: &str) -> Key {
        (Traffic::Produce, QuotaScope { user: None, client_id: Some(name.to_owned()) })
    }

    #[test]
    fn a_client_waits_until_its_average_is_down_to_the_quota() {
        // Quota 1,000 bytes per second; (time in ms, bytes) one after the other, and the delay after the last one.
        type Row = (&'static str, &'static [(u64, u64)], u64);
        let rows: &[Row] = &[
            ("a burst of ten seconds' worth is free", &[(0, 10_000)], 0),
            ("a byte more costs its millisecond", &[(0, 10_001)], 1),
            ("twenty seconds' worth at once cost the other ten", &[(0, 20_000)], 10_000),
            ("the begun second counts", &[(500, 20_000)], 9_500),
            ("what came in the last seconds counts together", &[(0, 6_000), (9_999, 6_000)], 1_001),
            ("what came more than eleven seconds ago does not", &[(0, 1_000_000), (11_000, 10_000)], 0),
            ("at the quota for long it never waits", &[(0, 1000), (1000, 1000), (2000, 1000), (3000, 1000)], 0),
            ("a long pause forgets all", &[(0, u64::MAX), (1 << 40, 1)], 0),
            ("no wait is longer than an hour", &[(0, u64::MAX), (1, u64::MAX)], MAX_DELAY_MS),
        ];
        for (what, events, expected) in rows {
            let mut rate = Rate::new(0);
            let mut delay = 0;
            for (at, bytes) in *events {
                rate.record(*bytes, *at);
                delay = rate.delay_ms(1000, *at);
            }
            assert_eq!(delay, *expected, "{what}");
        }
    }

    #[test]
    fn a_client_that_waits_as_told_is_held_to_its_quota() {
        let (quota, batch) = (50_000, 300_000);
        let mut rate = Rate::new(0);
        let (mut now_ms, mut sent) = (0, 0);
        while now_ms < 600_000 {
            rate.record(batch, now_ms);
            sent += batch;
            now_ms += rate.delay_ms(quota, now_ms) + 1;
        }
        let average = sent * 1000 / now_ms;
        assert!((quota * 9 / 10..=quota * 11 / 10).contains(&average), "{average} bytes per second");
    }

    #[test]
    fn each_client_and_each_kind_of_traffic_has_a_rate_of_its_own() {
        let mut rates = Rates::default();
        assert_eq!(rates.record(client("a"), 1000, 20_000, 0), 10_000);
        assert_eq!(rates.record(client("b"), 1000, 1, 0), 0);
        assert_eq!(rates.record((Traffic::Fetch, client("a").1), 1000, 1, 0), 0);
        assert_eq!(rates.record(client("a"), 1000, 0, 0), 10_000, "it is remembered");
    }

    #[test]
    fn made_up_client_ids_take_no_memory_without_bound() {
        let mut rates = Rates::default();
        rates.record(client("steady"), 1000, 20_000, 0);
        for number in 0..2 * MAX_RATES as u64 {
            rates.record(client(&number.to_string()), 1000, 1, number / 100);
            rates.record(client("steady"), 1000, 0, number / 100);
        }
        assert_eq!((rates.rates.len(), rates.by_use.len()), (MAX_RATES, MAX_RATES));
        assert!(rates.record(client("steady"), 1000, 0, 200) > 0, "who is there all the time is not forgotten");
        rates.record(client("late"), 1000, 1, 60_000);
        assert_eq!((rates.rates.len(), rates.by_use.len()), (1, 1), "what is over is forgotten");
        assert_eq!(cut("ä".repeat(1000)).len(), MAX_NAME_BYTES);
    }
}
