//! A Millpond broker: Kafka connections, one handler file per API, the metadata image and the HTTP port.
//!
//! This crate never touches a file, a clock or a thread but through `millpond-runtime`, never names openraft, and
//! keeps no global: many brokers may live in one process, which is how the simulator runs them.
//!
//! The produce path, in the order of the files: `frame`, `connection`, `dispatch`, `api/produce`, the partition's gate
//! (`millpond-raft`), and back through the receipt to `connection`. The fetch path: `api/fetch`, the log's tail cache.

mod accept;
mod api;
mod broker;
mod cluster;
mod config;
mod config_resources;
mod connection;
mod controller;
mod coordinator;
mod disk_space;
mod dispatch;
mod errors;
mod extent;
mod fetch_session;
mod frame;
mod http;
mod leadership;
mod memory;
mod metadata;
mod metrics;
mod near;
mod outgoing;
mod patience;
mod reconcile;
mod retention;
mod session_cache;
mod settings;
mod throttle;

pub use broker::{Broker, FatalError, ShutdownError, StartError};
pub use cluster::joining::NotAMember;
pub use config::{BrokerConfig, ConfigError, PeerConfig};
pub use millpond_runtime::HostPort;
pub use near::nearest;
pub use settings::{Kind, SETTINGS, Setting, find};
