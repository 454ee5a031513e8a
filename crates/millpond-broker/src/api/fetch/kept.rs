//! The fetch sessions that this broker keeps between requests.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::reading::Following;
use crate::broker::Shared;
use crate::fetch_session::Place;
use crate::session_cache::{CacheFigures, Loan, SessionCache, Unusable};

/// The part of the memory for answers that sessions may take beside it.
const MEMORY_SHARE: u64 = 4;

pub(crate) struct FetchSessions {
    start: Instant,
    cache: Mutex<SessionCache<Box<Following>>>,
}

impl FetchSessions {
    /// `answer_memory_bytes`: the memory for answers, by which that for sessions is measured.
    pub(crate) fn new(now: Instant, slots: usize, answer_memory_bytes: u64) -> FetchSessions {
        let max_bytes = usize::try_from(answer_memory_bytes / MEMORY_SHARE).unwrap_or(usize::MAX);
        FetchSessions { start: now, cache: Mutex::new(SessionCache::new(slots, max_bytes)) }
    }

    pub(crate) fn figures(&self) -> CacheFigures {
        self.lock().figures()
    }

    /// Ends the sessions that were unused for this long.
    pub(crate) fn expire(&self, now: Instant, unused: Duration) {
        let since = self.millis(now).saturating_sub(u64::try_from(unused.as_millis()).unwrap_or(u64::MAX));
        let gone = self.lock().expire(since);
        // Outside of the lock: a session may have very many watches.
        drop(gone);
    }

    /// Ends a session, if there is one with this id.
    pub(super) fn close(&self, id: i32) {
        let gone = self.lock().close(id);
        drop(gone);
    }

    /// Makes a session of what a full request followed; its id, or that of none.
    pub(super) fn keep(&self, shared: &Shared, mut following: Box<Following>, resting: Vec<Place>, by_id: bool) -> i32 {
        let (now, size) = (self.millis(shared.runtime.now()), following.size());
        if following.is_empty() || !self.lock().has_room(now, size) || !following.keep() {
            return super::NO_SESSION;
        }
        following.rest(resting);
        let size = following.size();
        let (id, gone) = self.lock().create(now, by_id, size, following, || shared.runtime.random_u64());
        drop(gone);
        id.unwrap_or(super::NO_SESSION)
    }

    fn millis(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.start).as_millis()).unwrap_or(u64::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, SessionCache<Box<Following>>> {
        // What panics under the lock is an invariant of the cache; a session that is lost begins anew.
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A session in the hands of a request. One that is dropped is over: its connection went, and with it what it read.
pub(super) struct Lent {
    shared: Arc<Shared>,
    loan: Option<Loan>,
}

impl Lent {
    /// Borrows a session for the request with this id and epoch.
    pub(super) fn of(
        shared: &Arc<Shared>,
        id: i32,
        epoch: i32,
        by_id: bool,
    ) -> Result<(Box<Following>, Lent), Unusable> {
        let (following, loan) = shared.fetch_sessions.lock().lend(id, epoch, by_id)?;
        Ok((following, Lent { shared: Arc::clone(shared), loan: Some(loan) }))
    }

    /// Gives it back; its id.
    pub(super) fn give_back(mut self, following: Box<Following>) -> i32 {
        let Some(loan) = self.loan.take() else { return super::NO_SESSION };
        let (id, sessions) = (loan.id(), &self.shared.fetch_sessions);
        let (now, size) = (sessions.millis(self.shared.runtime.now()), following.size());
        let gone = sessions.lock().give_back(loan, now, size, following);
        drop(gone);
        id
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(loan) = self.loan.take() {
            self.shared.fetch_sessions.lock().abandon(&loan);
        }
    }
}
