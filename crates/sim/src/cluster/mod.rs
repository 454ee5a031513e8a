//! Three whole brokers and their clients in one thread of simulated time, while processes, machines, disks and the
//! network between them fail.
//!
//! As with one broker a seed decides all (`scenario`), and a run is chaos, then calm, then a reckoning (`run`). The
//! brokers found one cluster (`machines`); a `nemesis` kills, pauses, starves and separates them; clients follow the
//! leaders as Kafka's do (`router`, `producer`, `consumer`), an `operator` moves leaders and replicas, and all tell the
//! same history as the clients of one broker what they were promised and what they saw. `claims` holds what nobody may
//! contradict: that an epoch has one leader, and that a high watermark never goes back.

mod admin;
mod claims;
mod consumer;
mod machines;
mod nemesis;
mod operator;
mod producer;
mod reckoning;
mod router;
mod run;
mod scenario;

pub use run::run_cluster;
