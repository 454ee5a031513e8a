//! The write-behind driver: it brings the tails of logs into their segment files, in large writes, without a sync.
//!
//! A log comes at once when an append waits for it (relaxed logs) or when it has gathered enough for a large write.
//! Others stay in memory, which the journal allows, until the unwritten part of the tail cache gets large; then those
//! that have waited longest are written. What is left a checkpoint writes.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use millpond_runtime::{Driver, Round, Rounds, Runtime};

use crate::log::LogContext;
use crate::types::Done;
use crate::{Log, StorageError};

/// A log with this many unwritten bytes is written.
pub(crate) const WRITE_BEHIND_BYTES: u64 = 1 << 20;
/// The most that is written of one log before the others of a round have their turn.
const TURN_BYTES: u64 = 8 << 20;

#[derive(Default)]
struct Queues {
    /// To be written now.
    urgent: VecDeque<Arc<Log>>,
    /// Logs that have something unwritten, those that have waited longest first.
    dirty: VecDeque<Weak<Log>>,
}

/// The driver's queues.
pub(crate) struct Writer {
    queues: Mutex<Queues>,
    context: OnceLock<Weak<LogContext>>,
    driver: OnceLock<Driver>,
    /// Why the last write failed. While it is set nothing is written: see [`Writer::retry`].
    stalled: Mutex<Option<StorageError>>,
}

impl Writer {
    pub(crate) fn start(runtime: &Runtime) -> Arc<Writer> {
        let writer = Arc::new(Writer {
            queues: Mutex::default(),
            context: OnceLock::new(),
            driver: OnceLock::new(),
            stalled: Mutex::default(),
        });
        let rounds = Arc::new(WriterRounds(Arc::downgrade(&writer)));
        writer.driver.get_or_init(|| runtime.drive("segments", rounds));
        writer
    }

    /// Tells the writer whose logs it writes.
    pub(crate) fn attach(&self, context: &Arc<LogContext>) {
        self.context.get_or_init(|| Arc::downgrade(context));
    }

    fn queues(&self) -> std::sync::MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A log has something to write.
    pub(crate) fn dirty(&self, log: &Arc<Log>, urgent: bool) {
        if urgent && !log.queued.swap(true, Ordering::AcqRel) {
            self.queues().urgent.push_back(log.clone());
            self.wake();
        } else if !log.listed.swap(true, Ordering::AcqRel) {
            self.queues().dirty.push_back(Arc::downgrade(log));
        }
        if self.crowded() {
            self.wake();
        }
    }

    /// Whether the unwritten part of the tail cache is large: half of the budget.
    fn crowded(&self) -> bool {
        let context = self.context.get().and_then(Weak::upgrade);
        context.is_some_and(|context| context.cache.dirty_bytes() > context.cache.budget_bytes() / 2)
    }

    fn wake(&self) {
        if let Some(driver) = self.driver.get() {
            driver.wake();
        }
    }

    /// Ends the driver after the round in hand.
    pub(crate) fn stop(&self) {
        if let Some(driver) = self.driver.get() {
            driver.stop();
        }
    }

    /// Lets the writer go on after a failed write, and gives why it failed. A full disk is no reason to spin, so that
    /// this is left to a caller with a clock.
    pub(crate) fn retry(&self) -> Option<StorageError> {
        let error = self.stalled().take()?;
        self.wake();
        Some(error)
    }

    fn stalled(&self) -> std::sync::MutexGuard<'_, Option<StorageError>> {
        self.stalled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Vec<Arc<Log>> {
        if self.stalled().is_some() {
            return Vec::new();
        }
        let mut logs: Vec<Arc<Log>> = self.queues().urgent.drain(..).collect();
        for log in &logs {
            log.queued.store(false, Ordering::Release);
        }
        let Some(context) = self.context.get().and_then(Weak::upgrade) else { return logs };
        let (dirty, budget) = (context.cache.dirty_bytes(), context.cache.budget_bytes());
        let mut excess = if dirty > budget / 2 { dirty - budget / 4 } else { 0 };
        while excess > 0 {
            let Some(log) = self.queues().dirty.pop_front() else { break };
            let Some(log) = log.upgrade() else { continue };
            log.listed.store(false, Ordering::Release);
            excess = excess.saturating_sub(log.dirty_bytes());
            if !logs.iter().any(|taken| Arc::ptr_eq(taken, &log)) {
                logs.push(log);
            }
        }
        logs
    }
}

struct WriterRounds(Weak<Writer>);

impl Rounds for WriterRounds {
    fn take(&self) -> Option<Box<dyn Round>> {
        let writer = self.0.upgrade()?;
        let logs = writer.take();
        (!logs.is_empty()).then(|| Box::new(WriterRound { writer, logs, results: Vec::new() }) as Box<dyn Round>)
    }
}

/// One turn of each log that was taken.
struct WriterRound {
    writer: Arc<Writer>,
    logs: Vec<Arc<Log>>,
    results: Vec<(Vec<Done>, Result<bool, StorageError>)>,
}

impl Round for WriterRound {
    fn run(&mut self) {
        for log in &self.logs {
            self.results.push(match log.write_behind(TURN_BYTES) {
                Ok(written) => (written.acks, Ok(written.more)),
                Err(error) => (log.write_failed(&error), Err(error)),
            });
        }
    }

    fn complete(self: Box<Self>) {
        for (log, (acks, result)) in self.logs.iter().zip(self.results) {
            for done in acks {
                done(result.clone().map(|_| ()));
            }
            match result {
                Ok(true) => self.writer.dirty(log, true),
                Ok(false) | Err(StorageError::LogClosed(_) | StorageError::SetAside(_)) => {}
                Err(error) => {
                    self.writer.stalled().get_or_insert(error);
                    self.writer.dirty(log, true);
                }
            }
        }
        if let Some(context) = self.writer.context.get().and_then(Weak::upgrade) {
            context.cache.make_room();
        }
    }
}
