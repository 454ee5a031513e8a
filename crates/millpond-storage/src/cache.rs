//! The tail cache: the most recent batches of all logs of a data directory, under one byte budget.
//!
//! Each log holds its own cached batches, in order, as part of its state; here is only the count of what they cost, and
//! the order in which they leave: first written, first gone, over all logs. A batch enters when it is appended, may
//! leave once its segment write is done, and is never looked for: a ticket names the log and how far it may let go.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, Weak};

use bytes::Bytes;
use millpond_record::{Offset, RaftIndex, StampedBatch, Timestamp};

use crate::Log;
use crate::index::SegmentCursor;
use crate::types::Hold;

/// A batch in the tail of a log.
#[derive(Clone, Debug)]
pub(crate) struct CachedBatch {
    pub(crate) batch: StampedBatch,
    pub(crate) base_offset: Offset,
    /// The offset of the next data batch.
    pub(crate) next_offset: Offset,
    pub(crate) max_timestamp: Timestamp,
    pub(crate) raft_only: bool,
    pub(crate) append_time: Timestamp,
    /// The end of its segment before it.
    pub(crate) before: SegmentCursor,
    /// What it counts in the budget.
    pub(crate) cost: u64,
}

/// What a cached batch costs besides its bytes.
const OVERHEAD_BYTES: u64 = size_of::<CachedBatch>() as u64;

/// Bytes that a batch counts in the budget, and the batch cut loose from its frame if it would pin more than four times
/// its size.
pub(crate) fn unpinned(batch: Bytes, frame_bytes: usize) -> (Bytes, u64) {
    if batch.len() < frame_bytes / 4 {
        let cost = batch.len() as u64 + OVERHEAD_BYTES;
        return (Bytes::copy_from_slice(&batch), cost);
    }
    let cost = batch.len().max(frame_bytes) as u64 + OVERHEAD_BYTES;
    (batch, cost)
}

/// Bytes that a batch with an allocation of its own counts in the budget.
pub(crate) fn own_cost(batch: &StampedBatch) -> u64 {
    batch.size_bytes() as u64 + OVERHEAD_BYTES
}

/// Leave to let go: the log's batches up to and including this index are written.
struct Ticket {
    log: Weak<Log>,
    written: RaftIndex,
}

/// The budget, and who lets go next.
pub(crate) struct TailCache {
    budget_bytes: u64,
    used_bytes: AtomicU64,
    /// The part of it that is not written yet.
    dirty_bytes: AtomicU64,
    /// The part of that which was there when its log stalled: nobody can write it for now.
    stalled_bytes: AtomicU64,
    tickets: Mutex<VecDeque<Ticket>>,
    /// Shares of durable batches that wait for the writer.
    held: Mutex<Vec<Hold>>,
}

impl TailCache {
    pub(crate) fn new(budget_bytes: u64) -> TailCache {
        TailCache {
            budget_bytes,
            used_bytes: AtomicU64::new(0),
            dirty_bytes: AtomicU64::new(0),
            stalled_bytes: AtomicU64::new(0),
            tickets: Mutex::default(),
            held: Mutex::default(),
        }
    }

    /// Bytes that the cached batches pin.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of cached batches that are not written to their segments yet, but could be.
    pub(crate) fn dirty_bytes(&self) -> u64 {
        let stalled = self.stalled_bytes.load(Ordering::SeqCst);
        self.dirty_bytes.load(Ordering::SeqCst).saturating_sub(stalled)
    }

    /// A log with so many unwritten bytes stalls. It takes no more of them, and those that write must not wait for it.
    pub(crate) fn stalled(&self, dirty_bytes: u64) {
        self.stalled_bytes.fetch_add(dirty_bytes, Ordering::SeqCst);
        self.let_go();
    }

    /// It can be written again.
    pub(crate) fn resumed(&self, dirty_bytes: u64) {
        self.stalled_bytes.fetch_sub(dirty_bytes, Ordering::SeqCst);
    }

    /// Whether what nobody can write has used up the budget: then no log may take more.
    pub(crate) fn is_stalled(&self) -> bool {
        self.stalled_bytes.load(Ordering::SeqCst) > self.budget_bytes
    }

    pub(crate) fn budget_bytes(&self) -> u64 {
        self.budget_bytes
    }

    pub(crate) fn appended(&self, cost: u64) {
        self.used_bytes.fetch_add(cost, Ordering::Relaxed);
        self.dirty_bytes.fetch_add(cost, Ordering::Relaxed);
    }

    /// Batches were written: the log may let go up to `written` when room is needed.
    pub(crate) fn written(&self, cost: u64, log: Weak<Log>, written: RaftIndex) {
        self.dirty_bytes.fetch_sub(cost, Ordering::SeqCst);
        self.tickets().push_back(Ticket { log, written });
        self.let_go();
    }

    /// See [`DataDir::release`](crate::DataDir::release).
    pub(crate) fn release(&self, hold: Hold) {
        if self.is_behind() {
            self.held().push(hold);
            // The writer may have caught up before the share was listed.
            self.let_go();
        }
    }

    /// Whether what is not written yet, but could be, exceeds the budget.
    fn is_behind(&self) -> bool {
        self.dirty_bytes() > self.budget_bytes
    }

    fn let_go(&self) {
        if !self.is_behind() {
            let held = std::mem::take(&mut *self.held());
            drop(held);
        }
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Vec<Hold>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Batches left; `dirty_cost` of their cost was not written (they were truncated, or the log is gone).
    pub(crate) fn removed(&self, cost: u64, dirty_cost: u64) {
        self.used_bytes.fetch_sub(cost, Ordering::Relaxed);
        self.dirty_bytes.fetch_sub(dirty_cost, Ordering::SeqCst);
        if dirty_cost > 0 {
            self.let_go();
        }
    }

    fn tickets(&self) -> std::sync::MutexGuard<'_, VecDeque<Ticket>> {
        self.tickets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the oldest written batches go until the budget holds or nothing more may go. Call it with no log's mutex
    /// held.
    pub(crate) fn make_room(&self) {
        while self.used_bytes() > self.budget_bytes {
            let Some(ticket) = self.tickets().pop_front() else { return };
            if let Some(log) = ticket.log.upgrade() {
                let freed = log.evict(ticket.written);
                self.removed(freed, 0);
            }
        }
    }
}
