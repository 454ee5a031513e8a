//! The write-behind driver: it brings the tails of logs into their segment files, in large writes, without a sync.
//!
//! A log comes at once when an append waits for it (relaxed logs) or when it has gathered enough for a large write.
//! Others stay in memory, which the journal allows, until the unwritten part of the tail cache gets large; then those
//! that have waited longest are written. What is left a checkpoint writes.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use millpond_record::GroupId;
use millpond_runtime::{Driver, Round, Rounds, Runtime};

use crate::log::{LogContext, Written};
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
    /// Stalled logs: each waits for its turn to be tried again.
    stalled: Vec<Weak<Log>>,
    /// Why the last of them stalled.
    why_stalled: Option<Arc<StorageError>>,
    /// What set logs aside, and has not been told yet.
    set_aside: Vec<(GroupId, StorageError)>,
    /// What was found damaged, and has not been told yet.
    damaged: Vec<(GroupId, String)>,
}

/// What the writer could not do, as [`DataDir::retry_writes`](crate::DataDir::retry_writes) tells it.
#[derive(Clone, Debug, Default)]
pub struct WriteTroubles {
    /// Why logs are stalled, or checkpoints held back: one reason, though there may be several.
    pub stalled: Option<StorageError>,
    /// Logs that are stalled.
    pub stalled_logs: usize,
    /// Groups that were set aside since the last call, and what a write or sync of their segments said.
    pub set_aside: Vec<(GroupId, StorageError)>,
    /// Groups of which files were found damaged since the last call, and what was done about it.
    pub damaged: Vec<(GroupId, String)>,
}

/// The driver's queues.
pub(crate) struct Writer {
    queues: Mutex<Queues>,
    context: OnceLock<Weak<LogContext>>,
    driver: OnceLock<Driver>,
}

impl Writer {
    pub(crate) fn start(runtime: &Runtime) -> Arc<Writer> {
        let writer = Arc::new(Writer { queues: Mutex::default(), context: OnceLock::new(), driver: OnceLock::new() });
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

    /// A log could not be written or synced: it waits for another try, or is set aside because of `error`, if that is
    /// news.
    pub(crate) fn failed(&self, log: &Arc<Log>, told: &StorageError, error: Option<&StorageError>) {
        let mut queues = self.queues();
        match (told, error) {
            (StorageError::Stalled { why, .. }, _) => {
                queues.why_stalled = Some(why.clone());
                if !queues.stalled.iter().any(|other| std::ptr::eq(other.as_ptr(), Arc::as_ptr(log))) {
                    queues.stalled.push(Arc::downgrade(log));
                }
            }
            (_, Some(error)) if !matches!(error, StorageError::SetAside(_)) => {
                queues.set_aside.push((log.group(), error.clone()));
            }
            _ => {}
        }
    }

    /// Files of a group are damaged, and something was done about it.
    pub(crate) fn damaged(&self, group: GroupId, found: String) {
        self.queues().damaged.push((group, found));
    }

    /// Why the log that stalled last did, if one is stalled.
    pub(crate) fn why_stalled(&self) -> Option<Arc<StorageError>> {
        let queues = self.queues();
        queues.why_stalled.clone().filter(|_| !queues.stalled.is_empty())
    }

    /// What set a group aside, if that has not been told yet.
    pub(crate) fn why_set_aside(&self, group: GroupId) -> Option<StorageError> {
        let queues = self.queues();
        queues.set_aside.iter().find(|(found, _)| *found == group).map(|(_, error)| error.clone())
    }

    /// Tries stalled logs again whose turn it is, and tells what has gone wrong. A full disk is no reason to spin, so
    /// that this is left to a caller with a clock; a log that fails again waits for more calls.
    pub(crate) fn retry(&self) -> WriteTroubles {
        let (waiting, set_aside, damaged) = {
            let Queues { stalled, set_aside, damaged, .. } = &mut *self.queues();
            (std::mem::take(stalled), std::mem::take(set_aside), std::mem::take(damaged))
        };
        let (mut stalled, mut stalled_logs) = (None, 0);
        for weak in waiting {
            let Some(log) = weak.upgrade() else { continue };
            let Some(why) = log.stalled_itself() else { continue };
            stalled_logs += 1;
            stalled.get_or_insert(why);
            // Listed before it is queued: should it fail at once, it is not listed twice.
            self.queues().stalled.push(weak);
            if log.is_due() {
                self.dirty(&log, true);
            }
        }
        WriteTroubles { stalled, stalled_logs, set_aside, damaged }
    }

    /// Logs that are stalled.
    pub(crate) fn stalled_count(&self) -> usize {
        self.queues().stalled.len()
    }

    fn take(&self) -> Vec<Arc<Log>> {
        let mut logs: Vec<Arc<Log>> = self.queues().urgent.drain(..).collect();
        for log in &logs {
            log.queued.store(false, Ordering::Release);
        }
        logs.retain(|log| !log.is_waiting());
        let Some(context) = self.context.get().and_then(Weak::upgrade) else { return logs };
        let (dirty, budget) = (context.cache.dirty_bytes(), context.cache.budget_bytes());
        let mut excess = if dirty > budget / 2 { dirty - budget / 4 } else { 0 };
        while excess > 0 {
            let Some(log) = self.queues().dirty.pop_front() else { break };
            let Some(log) = log.upgrade() else { continue };
            log.listed.store(false, Ordering::Release);
            if log.is_waiting() {
                continue;
            }
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
    results: Vec<Result<Written, StorageError>>,
}

impl Round for WriterRound {
    fn run(&mut self) {
        // A failure has been told to those who wait for it.
        self.results.extend(self.logs.iter().map(|log| log.write_turn(TURN_BYTES)));
    }

    fn complete(self: Box<Self>) {
        for (log, result) in self.logs.iter().zip(self.results) {
            let Ok(written) = result else { continue };
            for done in written.acks {
                done(Ok(()));
            }
            if written.more {
                self.writer.dirty(log, true);
            }
        }
        if let Some(context) = self.writer.context.get().and_then(Weak::upgrade) {
            context.cache.make_room();
        }
    }
}
