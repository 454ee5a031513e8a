//! Buffers that are used again: memory that was just used is in the processor's cache, and the system has given it.

use std::sync::{Mutex, PoisonError};

/// Buffers that are kept.
const KEPT: usize = 4;
/// A buffer larger than this is not kept.
const KEPT_BYTES: usize = 2 << 20;

/// Buffers for short use, the last used first.
#[derive(Default)]
pub(super) struct BufferPool(Mutex<Vec<Vec<u8>>>);

impl BufferPool {
    /// Lends a buffer, whose content means nothing.
    pub(super) fn with<T>(&self, work: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        let lent = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut buffer = lent.unwrap_or_default();
        let result = work(&mut buffer);
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT && buffer.capacity() <= KEPT_BYTES {
            kept.push(buffer);
        }
        result
    }
}
