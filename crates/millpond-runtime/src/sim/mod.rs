//! The simulated world: many nodes on one thread, one seed, one clock that moves only when everybody waits.
//!
//! A [`World`] holds nodes. A node is what a machine is: a clock, a disk, addresses, and the process that runs on it
//! (its *incarnation*). [`World::runtime_for`] gives the [`crate::Runtime`] of a node's present incarnation;
//! [`World::crash`] ends it in an instant, with all its tasks, drivers and sockets, and leaves of its disk what the
//! chosen [`Crash`] leaves; [`World::restart`] begins the next one on that disk. Code of a dead incarnation that still
//! runs to its next await can reach nothing: every disk and network operation fails.
//!
//! Everything that happens on a disk or on the network, and every note of the test itself, is folded in order into the
//! [`World::trace_hash`]. The same program with the same seed gives the same hash; if it does not, something in the
//! program took its time, its order or its randomness from outside of its runtime.
//!
//! The disk's fault model stands on top of `disk/image.rs`; the network's on top of `net.rs`.

mod disk;
mod driver;
mod net;
mod node;
mod rng;
mod trace;
mod world;

use std::future::Future;

use tokio::runtime::{Builder, RngSeed};

pub use disk::{Crash, DiskFaults};
pub(crate) use driver::SimDriver;
pub use net::NetworkDelays;
pub(crate) use net::{SimListener, SimReadHalf, SimStream, SimWriteHalf};
pub(crate) use node::SimRuntime;
pub use rng::Rng;
pub use world::{NodeId, World};

/// Runs a future to its end on a fresh one-threaded tokio runtime whose clock is paused and whose own choices follow
/// `seed`. A [`World`] must be made and used inside.
///
/// The future must keep a deadline of its own (a timer): when nobody has one and nothing can run, it would wait for
/// ever.
pub fn block_on<F: Future>(seed: u64, future: F) -> F::Output {
    Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .rng_seed(RngSeed::from_bytes(&seed.to_le_bytes()))
        .build()
        .expect("a runtime without an I/O driver asks nothing of the system")
        .block_on(future)
}

/// Locks a mutex of the simulated world. A panic while one was held has failed the run already; what it protects is
/// whole.
fn locked<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
