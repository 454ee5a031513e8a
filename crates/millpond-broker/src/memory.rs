//! The byte budgets of requests and answers.
//!
//! [`ProduceMemory`] (`queued.max.request.bytes`) is for requests that arrive: produce requests until their batches are
//! durable, even where `acks` let them be answered before, and any large request until it is whole. A large one takes
//! its share before it is read from the connection, a small produce before it is handled. Who gets none waits in line,
//! and its connection is not read meanwhile: TCP slows the client down, nobody gets an error.
//!
//! [`AnswerMemory`] (`millpond.answer.memory.bytes`) is for what the broker makes of requests: their decoded form, what
//! handling them takes, and answers on their way to clients, records above all. It is counted as it is used. While it
//! is used up no other request than produce is begun, and clients that read slowly are closed
//! ([`crate::patience`]), so it comes back.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use millpond_wire::Chunk;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

pub(crate) struct ProduceMemory {
    permits: Arc<Semaphore>,
    /// Requests that wait in line.
    waiting: AtomicUsize,
    budget: u32,
    unit: u64,
}

/// A share of the budget; dropping it gives it back.
pub(crate) struct Share {
    _permit: Option<OwnedSemaphorePermit>,
}

impl ProduceMemory {
    /// `bytes`: the whole budget.
    pub(crate) fn new(bytes: u64) -> ProduceMemory {
        // Permits are counted in 32 bits; a budget beyond 4 GiB is counted in larger units.
        let unit = bytes.div_ceil(u64::from(u32::MAX)).max(1);
        let budget = u32::try_from(bytes / unit).expect("the unit is chosen so that it fits");
        ProduceMemory { permits: Arc::new(Semaphore::new(budget as usize)), waiting: AtomicUsize::new(0), budget, unit }
    }

    /// A request larger than the whole budget passes when it is alone.
    fn permits_for(&self, bytes: usize) -> u32 {
        let units = (bytes as u64).div_ceil(self.unit);
        u32::try_from(units).unwrap_or(u32::MAX).min(self.budget)
    }

    /// A share at once, if it is there and nobody waits in front.
    pub(crate) fn try_take(&self, bytes: usize) -> Option<Share> {
        let permit = Arc::clone(&self.permits).try_acquire_many_owned(self.permits_for(bytes)).ok()?;
        Some(Share { _permit: Some(permit) })
    }

    /// A share, when it is there.
    pub(crate) async fn take(&self, bytes: usize) -> Share {
        let _waiting = Waiting::count(&self.waiting);
        // The semaphore is never closed; if it were, a request would rather pass than be lost.
        Share { _permit: Arc::clone(&self.permits).acquire_many_owned(self.permits_for(bytes)).await.ok() }
    }

    /// Whether somebody waits, or soon will.
    pub(crate) fn is_short(&self) -> bool {
        self.permits.available_permits() == 0 || self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Bytes in use, to the unit.
    pub(crate) fn in_flight_bytes(&self) -> u64 {
        (u64::from(self.budget) - self.permits.available_permits() as u64) * self.unit
    }
}

/// One more who waits, until it is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl Waiting<'_> {
    fn count(waiting: &AtomicUsize) -> Waiting<'_> {
        waiting.fetch_add(1, Ordering::Relaxed);
        Waiting(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

pub(crate) struct AnswerMemory(Arc<Account>);

struct Account {
    used: AtomicUsize,
    budget: usize,
    freed: Notify,
    used_up: Notify,
}

impl Account {
    fn took(&self, before: usize, bytes: usize) {
        if before < self.budget && before + bytes >= self.budget {
            self.used_up.notify_waiters();
        }
    }
}

/// What one request or answer holds; dropping it gives it back.
pub(crate) struct AnswerShare {
    account: Arc<Account>,
    bytes: usize,
}

impl AnswerMemory {
    /// `bytes`: the whole budget.
    pub(crate) fn new(bytes: u64) -> AnswerMemory {
        let budget = usize::try_from(bytes).unwrap_or(usize::MAX);
        AnswerMemory(Arc::new(Account {
            used: AtomicUsize::new(0),
            budget,
            freed: Notify::new(),
            used_up: Notify::new(),
        }))
    }

    pub(crate) fn in_use_bytes(&self) -> usize {
        self.0.used.load(Ordering::SeqCst)
    }

    /// Whether the budget is used up: nothing new should be begun.
    pub(crate) fn is_short(&self) -> bool {
        self.in_use_bytes() >= self.0.budget
    }

    /// Waits until there is room again.
    pub(crate) async fn room(&self) {
        loop {
            let mut freed = pin!(self.0.freed.notified());
            freed.as_mut().enable();
            if !self.is_short() {
                return;
            }
            freed.await;
        }
    }

    /// Waits until the budget is used up.
    pub(crate) async fn used_up(&self) {
        let mut used_up = pin!(self.0.used_up.notified());
        used_up.as_mut().enable();
        if !self.is_short() {
            used_up.await;
        }
    }

    /// An empty share.
    pub(crate) fn share(&self) -> AnswerShare {
        AnswerShare { account: Arc::clone(&self.0), bytes: 0 }
    }
}

/// What a part of an answer that is left in its file counts for: its descriptor is as scarce as memory.
const OPEN_FILE_BYTES: usize = 64 << 10;

/// What a part of an answer takes of the memory for answers while it waits to be sent.
pub(crate) fn held_bytes(chunk: &Chunk) -> usize {
    match chunk {
        Chunk::Here(bytes) => bytes.len(),
        Chunk::Elsewhere(_) => chunk.len().min(OPEN_FILE_BYTES),
    }
}

impl AnswerShare {
    /// Counts bytes that are in memory already, whether the budget has them or not.
    pub(crate) fn grow(&mut self, bytes: usize) {
        self.bytes += bytes;
        let before = self.account.used.fetch_add(bytes, Ordering::SeqCst);
        self.account.took(before, bytes);
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes as much of `wanted` as there is. `None` when the budget is used up.
    pub(crate) fn reserve(&mut self, wanted: usize) -> Option<usize> {
        let budget = self.account.budget;
        let more = |used: usize| (used < budget).then(|| used + wanted.min(budget - used));
        let before = self.account.used.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).ok()?;
        let granted = wanted.min(budget - before);
        self.bytes += granted;
        self.account.took(before, granted);
        Some(granted)
    }

    /// Gives a part back.
    pub(crate) fn shrink(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        let before = self.account.used.fetch_sub(bytes, Ordering::SeqCst);
        if before >= self.account.budget && before - bytes < self.account.budget {
            self.account.freed.notify_waiters();
        }
    }
}

impl Drop for AnswerShare {
    fn drop(&mut self) {
        self.shrink(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn shares_add_up_to_the_budget_and_come_back_when_dropped() {
        let memory = ProduceMemory::new(1000);
        let first = memory.try_take(600).expect("600 of 1000");
        assert!(memory.try_take(500).is_none());
        assert_eq!(memory.in_flight_bytes(), 600);
        drop(first);
        assert!(memory.try_take(1000).is_some());
        assert_eq!(memory.in_flight_bytes(), 0);
    }

    #[test]
    fn what_answers_hold_comes_back_when_they_are_gone() {
        let memory = AnswerMemory::new(1000);
        let mut share = memory.share();
        share.grow(300);
        assert!(!memory.is_short());
        share.grow(900);
        assert_eq!((memory.in_use_bytes(), memory.is_short()), (1200, true));
        share.shrink(1100);
        assert_eq!(memory.in_use_bytes(), 100);
        drop(share);
        assert_eq!(memory.in_use_bytes(), 0);
    }

    #[test]
    fn a_reservation_gets_what_is_there_and_nothing_of_a_budget_that_is_used_up() {
        let memory = AnswerMemory::new(1000);
        let (mut first, mut second) = (memory.share(), memory.share());
        assert_eq!(first.reserve(600), Some(600));
        assert_eq!(second.reserve(600), Some(400));
        assert_eq!(first.reserve(1), None);
        second.shrink(100);
        assert_eq!(first.reserve(0), Some(0));
        assert_eq!(first.reserve(600), Some(100));
    }

    #[test]
    fn who_waits_for_room_is_woken_when_there_is_some() {
        let memory = AnswerMemory::new(1000);
        let mut share = memory.share();
        share.grow(1500);
        let mut room = Box::pin(memory.room());
        assert_eq!(room.as_mut().now_or_never(), None);
        share.shrink(500);
        assert_eq!(room.as_mut().now_or_never(), None, "exactly used up");
        share.shrink(1);
        assert_eq!(room.as_mut().now_or_never(), Some(()));
    }

    #[test]
    fn who_holds_much_hears_when_the_budget_is_used_up() {
        let memory = AnswerMemory::new(1000);
        let (mut first, mut second) = (memory.share(), memory.share());
        first.grow(900);
        let mut used_up = Box::pin(memory.used_up());
        assert_eq!(used_up.as_mut().now_or_never(), None);
        second.grow(99);
        assert_eq!(used_up.as_mut().now_or_never(), None);
        assert_eq!(second.reserve(5), Some(1));
        assert_eq!(used_up.as_mut().now_or_never(), Some(()));
        assert_eq!(memory.used_up().now_or_never(), Some(()), "it is used up still");
    }

    #[test]
    fn a_request_larger_than_the_budget_passes_alone() {
        let memory = ProduceMemory::new(1000);
        let small = memory.try_take(1).expect("room");
        assert!(memory.take(5000).now_or_never().is_none());
        drop(small);
        let huge = memory.take(5000).now_or_never().expect("it is alone");
        assert!(memory.try_take(1).is_none());
        drop(huge);
        assert!(memory.try_take(1).is_some());
    }

    #[test]
    fn a_budget_beyond_32_bits_is_counted_in_larger_units() {
        let memory = ProduceMemory::new(1 << 40);
        let share = memory.try_take(1 << 30).expect("room");
        assert!(memory.in_flight_bytes().abs_diff(1 << 30) < 1024);
        drop(share);
    }
}
