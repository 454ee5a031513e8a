//! Blocking work that is many times the same, such as syncing many files: a disk takes many syncs at once as well as
//! one.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::runtime::{Inner, Runtime};

impl Runtime {
    /// Calls `work` for every number below `count` and returns when all calls have. Blocks. Really: on up to `width`
    /// threads, in any order; simulated: one after the other. A panic in a call goes on here.
    pub fn parallel(&self, width: usize, count: usize, work: &(dyn Fn(usize) + Sync)) {
        let threads = match &self.0 {
            Inner::Real(_) => width.min(count),
            #[cfg(feature = "sim")]
            Inner::Simulated(_) => 1,
        };
        if threads <= 1 {
            return (0..count).for_each(work);
        }
        let next = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    self.enter(|| {
                        loop {
                            let number = next.fetch_add(1, Ordering::Relaxed);
                            if number >= count {
                                break;
                            }
                            work(number);
                        }
                    });
                });
            }
        });
    }
}
