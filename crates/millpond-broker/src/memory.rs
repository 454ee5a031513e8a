//! The byte budgets of requests and responses.
//!
//! [`ProduceMemory`] (`queued.max.request.bytes`) is for produce requests. A large one takes its share before it is
//! read from the connection, a small one before it is handled; it is given back when the batches are durable, even
//! where `acks` let them be answered before. Who gets none waits in line, and its connection is not read meanwhile: TCP
//! slows the client down, nobody gets an error.
//!
//! [`FetchMemory`] (`millpond.fetch.memory.bytes`) is for record bytes on their way to clients. Nobody waits for it:
//! when it is used up, by clients that read slowly, a fetch is answered with its first batch alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub(crate) struct ProduceMemory {
    permits: Arc<Semaphore>,
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
        ProduceMemory { permits: Arc::new(Semaphore::new(budget as usize)), budget, unit }
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
        // The semaphore is never closed; if it were, a request would rather pass than be lost.
        Share { _permit: Arc::clone(&self.permits).acquire_many_owned(self.permits_for(bytes)).await.ok() }
    }

    /// Bytes in use, to the unit.
    pub(crate) fn in_flight_bytes(&self) -> u64 {
        (u64::from(self.budget) - self.permits.available_permits() as u64) * self.unit
    }
}

pub(crate) struct FetchMemory {
    used: Arc<AtomicUsize>,
    budget: usize,
}

/// Record bytes of one response; dropping it gives them back.
pub(crate) struct FetchShare {
    used: Arc<AtomicUsize>,
    bytes: usize,
}

impl FetchMemory {
    /// `bytes`: the whole budget.
    pub(crate) fn new(bytes: u64) -> FetchMemory {
        FetchMemory { used: Arc::default(), budget: usize::try_from(bytes).unwrap_or(usize::MAX) }
    }

    /// What a response may take now beside its first batch.
    pub(crate) fn available_bytes(&self) -> usize {
        self.budget.saturating_sub(self.in_use_bytes())
    }

    pub(crate) fn in_use_bytes(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// A share that grows with what is read.
    pub(crate) fn share(&self) -> FetchShare {
        FetchShare { used: Arc::clone(&self.used), bytes: 0 }
    }
}

impl FetchShare {
    /// Counts bytes that were read.
    pub(crate) fn grow(&mut self, bytes: usize) {
        self.bytes += bytes;
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Drop for FetchShare {
    fn drop(&mut self) {
        self.used.fetch_sub(self.bytes, Ordering::Relaxed);
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
    fn what_responses_hold_comes_back_when_they_are_gone() {
        let memory = FetchMemory::new(1000);
        let mut share = memory.share();
        share.grow(300);
        share.grow(900);
        assert_eq!((memory.in_use_bytes(), memory.available_bytes()), (1200, 0));
        drop(share);
        assert_eq!(memory.available_bytes(), 1000);
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
