//! Blocking work as rounds: take a round, run it, complete it.
//!
//! A service that writes and syncs collects work in a queue of its own. Its driver takes all that has gathered as one
//! [`Round`], runs it (this is where it blocks), and completes it (this is where those who wait hear of it). In the
//! real world a thread does that; in the simulated one a task, with time passing between the three steps, so that the
//! window between "appended" and "flushed" exists there too.

use std::sync::Arc;

use crate::real::RealDriver;
#[cfg(feature = "sim")]
use crate::sim::SimDriver;

/// Where a driver gets its rounds from.
pub trait Rounds: Send + Sync + 'static {
    /// Takes everything that is ready as one round. `None` parks the driver until [`Driver::wake`].
    fn take(&self) -> Option<Box<dyn Round>>;
}

/// A piece of blocking work.
pub trait Round: Send {
    /// Does the work: writes, syncs. Keeps the outcome for [`Round::complete`]. Called once.
    fn run(&mut self);

    /// Tells those who wait. Must not block.
    fn complete(self: Box<Self>);
}

/// A handle to a driver that [`crate::Runtime::drive`] started. Clones name the same driver; when the last one is
/// dropped the driver ends after the round in hand.
#[derive(Clone)]
pub struct Driver(pub(crate) Inner);

#[derive(Clone)]
pub(crate) enum Inner {
    Real(Arc<RealDriver>),
    #[cfg(feature = "sim")]
    Simulated(Arc<SimDriver>),
}

impl Driver {
    /// Makes the driver look for a round. Cheap when it is awake already, and never lost: work that was queued before
    /// the call is seen by a [`Rounds::take`] after it.
    pub fn wake(&self) {
        match &self.0 {
            Inner::Real(driver) => driver.wake(),
            #[cfg(feature = "sim")]
            Inner::Simulated(driver) => driver.wake(),
        }
    }

    /// Ends the driver. When it returns, the round in hand (if any) is complete and no other will be taken; what is
    /// still queued is the caller's to take and run. Called from inside a round, it only forbids further rounds. May be
    /// called again.
    pub fn stop(&self) {
        match &self.0 {
            Inner::Real(driver) => driver.stop(),
            #[cfg(feature = "sim")]
            Inner::Simulated(driver) => driver.stop(),
        }
    }
}
