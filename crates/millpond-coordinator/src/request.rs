//! Requests, where the messages of the wire are not what a shard needs.

use millpond_record::{Offset, PartitionIndex, TopicId};
use millpond_wire::Str;

/// Who sent a JoinGroup, and what else it takes to answer it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinContext {
    /// The version of JoinGroup: from 4 a member must know its id before it joins (KIP-394), from 9 it can be told to
    /// skip the assignment (KIP-814).
    pub version: i16,
    pub client_id: Str,
    /// The client's address as Kafka shows it: `/127.0.0.1`.
    pub client_host: Str,
    /// For the id of a member that has none; 0 for one that has.
    pub random: u128,
}

/// Who commits: the membership that an OffsetCommit claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committer {
    /// Empty: none.
    pub member_id: Str,
    pub instance_id: Option<Str>,
    /// Below 0: not a member.
    pub generation: i32,
}

impl Committer {
    /// Whoever uses a group for nothing but its offsets.
    pub fn outsider() -> Committer {
        Committer { member_id: Str::EMPTY, instance_id: None, generation: -1 }
    }
}

/// Offsets to commit, after topics and partitions have been found to exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitOffsets {
    pub group_id: Str,
    pub committer: Committer,
    /// The version of OffsetCommit: before 9 a member of a consumer group cannot be told that it is behind.
    pub version: i16,
    /// How long the offsets are to be kept, in milliseconds; `None`: by the broker's retention. (OffsetCommit 2 to 4.)
    pub retention_ms: Option<i64>,
    pub offsets: Vec<OffsetToCommit>,
}

/// One offset of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetToCommit {
    pub topic: Str,
    /// [`TopicId::ZERO`] when the client named the topic only.
    pub topic_id: TopicId,
    pub partition: PartitionIndex,
    pub offset: Offset,
    /// -1: unknown.
    pub leader_epoch: i32,
    pub metadata: Str,
}

/// A partition of which the offset is to be deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetToDelete {
    pub topic: Str,
    pub partition: PartitionIndex,
}
