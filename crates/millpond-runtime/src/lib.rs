//! The seams to the world: clock, randomness, tasks, blocking rounds, sockets and files, each real and simulated.
//!
//! Every crate above gets at the world through a [`Runtime`] and nothing else, so that the simulator (module `sim`,
//! behind the feature of the same name) can run whole brokers on one thread, crash them at any point, and replay the
//! run from its seed. A [`Runtime`] is a concrete value, real or simulated inside: nothing above is generic over it.
//!
//! | seam | real | simulated |
//! | --- | --- | --- |
//! | [`Runtime::spawn`], timers | tokio | one tokio thread with a paused clock; tasks die with their node |
//! | [`Runtime::drive`] ([`Rounds`]) | a thread per driver | a task, with time between take, run and complete |
//! | [`Runtime::blocking`] | tokio's blocking pool | the same thread, after a delay |
//! | [`Disk`], [`File`], [`Map`] | the operating system | memory that forgets, tears and reorders what was not synced |
//! | [`Stream`], [`Listener`] | TCP | ordered pipes with delay, partitions and resets |
//! | [`Runtime::wall_clock`], [`Runtime::random_u64`] | the system's | a fixed epoch plus simulated time; one seed |
//! | [`Runtime::machine_boot_id`] | the kernel's | new after each power cut of the node |

#![allow(clippy::disallowed_methods, reason = "this crate is the seam that all others go through")]

mod disk;
mod host_port;
mod net;
mod parallel;
mod planted;
mod real;
mod replace_file;
mod rounds;
mod runtime;
#[cfg(feature = "sim")]
pub mod sim;
mod task;

pub use disk::{DirEntry, Disk, DiskLock, DiskSpace, File, FileRange, Map, OpenMode};
pub use host_port::{HostPort, InvalidHostPort};
pub use net::{Listener, ReadHalf, Stream, WriteHalf};
pub use planted::{PlantedFault, planted};
pub use real::RealDisk;
pub use replace_file::write_atomically;
pub use rounds::{Driver, Round, Rounds};
pub use runtime::Runtime;
pub use task::{JoinError, JoinHandle};
