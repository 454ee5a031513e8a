//! Raft groups on the storage layer: the only crate that names openraft.
//!
//! A [`Partition`] with one replica has no Raft object; one with several, and the metadata group ([`MetadataGroup`]),
//! are openraft groups on the same log. [`Groups`] has them all. This crate knows nothing of Kafka's APIs.
//!
//! | file | story |
//! | --- | --- |
//! | `groups.rs` | all groups of a broker: create, find, delete |
//! | `shared.rs` | what all groups share |
//! | `partition.rs`, `receipt.rs` | one replica: the gate, waking, acknowledging from the flush |
//! | `partition/replicated.rs`, `flights.rs` | several replicas: the gate before Raft, answers at the commit |
//! | `replica.rs` | an openraft object, what it is in its group, changes of members and leadership |
//! | `failover.rs`, `gossip.rs` | electing where no leader is alive; telling other brokers who leads |
//! | `metadata.rs` | group 0: found, join or reopen; propose, serve only after the own blank is applied |
//! | `log_store.rs`, `state_machine.rs`, `snapshot.rs` | openraft's storage on [`millpond_storage::Log`] |
//! | `catch_up/` | filling a replica by segments: P, sending, receiving |
//! | `membership.rs` | the bytes of a membership |
//! | `leaders.rs`, `peers/` | who leads which group; the other brokers |
//! | `types.rs`, `runtime.rs` | openraft's types and runtime |

mod catch_up;
mod error;
mod failover;
mod flights;
mod gossip;
mod groups;
mod leaders;
mod log_store;
mod membership;
mod metadata;
mod partition;
mod peers;
mod receipt;
mod replica;
mod runtime;
mod shared;
mod snapshot;
mod state_machine;
#[cfg(test)]
mod tests;
mod types;

pub use error::{ProposeError, RaftError};
pub use groups::Groups;
pub use leaders::{Leader, Leaders};
pub use metadata::{GroupMember, MetadataGroup, MetadataLeadership, MetadataStart};
pub use millpond_storage::Proposal;
pub use partition::{Acks, Partition, PartitionState, Remains, Retention};
pub use peers::{CallError, PeerFigures, PeerServices, Peers, Standing};
pub use receipt::{Receipt, Written};
pub use replica::decides_for;
pub use state_machine::{Applier, ApplyError};
