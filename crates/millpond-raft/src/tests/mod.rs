//! What the crate promises, on the real disk and on the simulated one.

mod metadata;
mod restore;
mod solo;
mod stalls;
mod storage_suite;
mod world;
