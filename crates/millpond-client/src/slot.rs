//! The one connection to an address: made when it is needed, and again, not too soon, when it is lost.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::connection::Connection;

/// The place of a connection.
#[derive(Default)]
pub(crate) struct Slot {
    state: Mutex<State>,
    /// Held while a connection is being made: whoever comes meanwhile waits, and takes what was made.
    pub(crate) turn: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    connection: Option<Connection>,
    /// In a row.
    failures: u32,
    not_before: Option<Instant>,
}

impl Slot {
    fn state(&self) -> MutexGuard<'_, State> {
        // The state is whole after every change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection, if it is there and was not lost.
    pub(crate) fn live(&self) -> Option<Connection> {
        let mut state = self.state();
        if state.connection.as_ref().is_some_and(Connection::is_closed) {
            state.connection = None;
        }
        state.connection.clone()
    }

    /// When the next attempt may be made; `None` is at once.
    pub(crate) fn not_before(&self) -> Option<Instant> {
        self.state().not_before
    }

    /// Keeps a new connection.
    pub(crate) fn connected(&self, connection: Connection) {
        *self.state() = State { connection: Some(connection), ..State::default() };
    }

    /// Counts a failed attempt. `pause` says how long to wait after so many.
    pub(crate) fn failed(&self, now: Instant, pause: impl FnOnce(u32) -> Duration) {
        let mut state = self.state();
        state.failures = state.failures.saturating_add(1);
        state.not_before = Some(now + pause(state.failures));
    }
}
