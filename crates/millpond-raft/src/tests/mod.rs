//! What the crate promises, on the real disk and on the simulated one.

mod cluster;
mod metadata;
mod restore;
mod retention;
mod solo;
mod stalls;
mod storage_suite;
mod votes;
pub(crate) mod world;
