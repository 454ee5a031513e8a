//! The broker as its clients see it. One program for all of it: each test binary links the whole broker. Only what
//! measures its process is a program of its own (`tests/hostile_requests.rs`).

#![expect(clippy::disallowed_methods, reason = "drives a real broker over real sockets")]

#[path = "../support/mod.rs"]
mod support;

mod cluster;
mod cold_reads;
mod connections;
mod coordinators;
mod descriptions;
mod fetch_sessions;
mod groups;
mod limits;
mod partitions_and_settings;
mod produce_and_fetch;
mod quotas;
mod retention;
mod storage_limits;
