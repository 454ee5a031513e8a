//! Consumer groups and committed offsets as a pure state machine: decide and replay.
//!
//! A [`Shard`] is all groups of one partition of `__consumer_offsets`. A request is decided on its state; what must
//! outlive the shard comes out as records in Kafka's own formats, and is applied to the shard through the same code
//! that [`Shard::replay`] runs when the partition is loaded. Members that wait, timers and rebalances under way are in
//! no record: after a failover members join again. Nothing here reads a clock, draws a random number or does I/O.
//!
//! | file | story |
//! | --- | --- |
//! | `exchange.rs`, `request.rs`, `error.rs`, `settings.rs` | what goes in and comes out |
//! | `shard.rs` | the shard: loading, applying records, timers |
//! | `records.rs` | the records, and their bytes as key and value |
//! | `classic.rs`, `classic/` | classic groups: join, sync, leave, rebalances, what is recorded |
//! | `consumer.rs`, `consumer/` | consumer groups (KIP-848): heartbeat, assignors, how members follow |
//! | `membership.rs` | what a group is, and how one kind becomes the other |
//! | `topics.rs` | what consumer groups must know of topics |
//! | `timers.rs` | sessions and rebalances, without a clock |
//! | `offsets.rs`, `commit.rs`, `expiry.rs` | committed offsets: commit, fetch, delete, expire |
//! | `describe.rs`, `rebalances.rs` | describing and listing groups, and why they rebalanced |
//! | `consumer_protocol.rs` | what consumers put into the opaque bytes of their groups |

mod classic;
mod commit;
mod consumer;
mod consumer_protocol;
mod describe;
mod error;
mod exchange;
mod expiry;
mod member_id;
mod membership;
mod offsets;
mod rebalances;
mod records;
mod request;
mod settings;
mod shard;
mod timers;
mod topics;

pub use describe::{
    ConsumerGroupDescription, ConsumerMemberDescription, GroupDescription, GroupFilter, GroupState, GroupSummary,
    GroupType, ListedGroup, MemberDescription, MemberSummary, NamedPartitions, PartitionSummary,
};
pub use error::GroupError;
pub use exchange::{ConsumerHeartbeat, Effects, JoinReply, Joined, JoinedMember, Now, Record, Reply, Synced, Ticket};
pub use offsets::CommittedOffset;
pub use records::RecordError;
pub use request::{CommitOffsets, Committer, JoinContext, OffsetToCommit, OffsetToDelete};
pub use settings::GroupSettings;
pub use shard::{Replayed, Shard};
pub use topics::Topics;
