//! Runs a whole broker and its clients in one thread of simulated time, breaks everything, and checks every promise.
//!
//! A seed decides all: settings, load, what fails and when (`scenario`). A run is chaos, then calm, then a reckoning
//! (`run`): clients that speak the real protocol over the simulated network (`client`, `producer`, `consumer`,
//! `deleter`, `committer`, `admin`) tell a `history` what they were promised and what they saw; the broker's machine
//! (`broker_host`) dies at any disk operation. A seed that fails once fails every time: `cargo run -p sim -- --seed N
//! --trace` shows what happened.

mod admin;
mod broker_host;
mod client;
mod cluster;
mod commits;
mod committer;
mod connection;
mod consumer;
mod deleter;
mod history;
mod losses;
mod payload;
mod producer;
mod run;
mod scenario;
mod trouble;

pub use cluster::run_cluster;
pub use connection::{Connection, ConnectionError};
pub use history::{Counts, Delivery, History, Known, Partition, Promise, Retention, Seen, TopicState};
pub use payload::RecordId;
pub use run::{Options, Outcome, run};
