//! What can go wrong with a group, as far as a caller can tell it apart.

use std::sync::Arc;

use millpond_record::{BatchError, BrokerId, GroupId, ReplicaId, Term};
use millpond_storage::{SequenceError, StorageError};

/// Why an operation on a group failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RaftError {
    /// The group is not in this broker's data directory.
    #[error("group {0} is not on this broker")]
    NoSuchGroup(GroupId),
    /// The group was deleted, or the broker is shutting down.
    #[error("group {0} is closed")]
    Closed(GroupId),
    /// This replica does not lead the group.
    #[error("this broker does not lead group {0}")]
    NotLeader(GroupId),
    /// Leadership was not taken over by the replica that it was handed to; another one is elected.
    #[error("replica {by} did not take over the leadership of group {group} in time")]
    NotTaken {
        /// The group.
        group: GroupId,
        /// Who was to lead.
        by: ReplicaId,
    },
    /// The replica that is to lead has not all of the log yet: leadership stays where it is.
    #[error("replica {by} of group {group} is behind, and cannot lead yet")]
    Behind {
        /// The group.
        group: GroupId,
        /// Who was to lead.
        by: ReplicaId,
    },
    /// The group has no replica on that broker.
    #[error("group {group} has no replica on broker {broker}")]
    NoReplicaOn {
        /// The group.
        group: GroupId,
        /// The broker.
        broker: BrokerId,
    },
    /// The members of the group stay as they are.
    #[error("the members of group {group} are not changed: {why}")]
    MembersUnchanged {
        /// The group.
        group: GroupId,
        /// What openraft says.
        why: Arc<str>,
    },
    /// The members of the group are of a newer assignment.
    #[error("assignment {version} of group {group} is older than assignment {known}, which it has")]
    StaleAssignment {
        /// The group.
        group: GroupId,
        /// The version that was asked for.
        version: u64,
        /// The version that the group has.
        known: u64,
    },
    /// The group has stopped for good on this broker: it must be recovered by a restart or set aside.
    #[error("group {group} has stopped: {why}")]
    Fatal {
        /// The group.
        group: GroupId,
        /// What went wrong first.
        why: Arc<str>,
    },
    /// The machine lost power, and the replica here may miss what it acknowledged: it takes no part until it is
    /// replaced or an operator has it trusted.
    #[error(
        "the replica of group {0} here may miss what it acknowledged, because its topic is relaxed and the machine was \
         started again without a clean stop before"
    )]
    Tainted(GroupId),
    /// The bytes to propose are not one record batch.
    #[error("not a record batch: {0}")]
    BadBatch(#[from] BatchError),
    /// A change of the metadata is too long for a journal file. Nothing was written.
    #[error(
        "a change of the metadata of {bytes} bytes does not fit into a journal file, which takes {limit}: ask for less \
         at once, or raise millpond.journal.file.bytes"
    )]
    TooLarge {
        /// Bytes of the batch.
        bytes: u64,
        /// The most that is taken.
        limit: u64,
    },
    /// The storage layer refused.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A membership on disk cannot be read.
    #[error("the membership of group {group} cannot be read: {what}")]
    BadMembership {
        /// The group.
        group: GroupId,
        /// What is wrong with it.
        what: String,
    },
    /// The group has used all terms that have a leader epoch.
    #[error("group {group} cannot begin a term after {term}: leader epochs end there")]
    TermsUsedUp {
        /// The group.
        group: GroupId,
        /// The last term.
        term: Term,
    },
}

/// Why a proposed batch is not written, or not known to be.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ProposeError {
    /// This replica does not lead the partition (NOT_LEADER_OR_FOLLOWER).
    #[error("this broker does not lead the partition")]
    NotLeader,
    /// Fewer replicas are alive than must have the batch (NOT_ENOUGH_REPLICAS). Nothing was written.
    #[error("{alive} replicas of the partition are alive, {needed} must have a batch that is acknowledged by all")]
    NotEnoughReplicas {
        /// How many are alive.
        alive: usize,
        /// How many must be.
        needed: usize,
    },
    /// The partition was deleted, or the broker is shutting down. A batch that was in the log by then may stay there.
    #[error("the partition is closed")]
    Closed,
    /// The producer's sequence or epoch does not fit. Nothing was written.
    #[error(transparent)]
    Sequence(#[from] SequenceError),
    /// The batch does not fit into a journal file. Nothing was written.
    #[error("a batch of {bytes} bytes is too large: the journal takes up to {limit}")]
    TooLarge {
        /// Bytes of the batch.
        bytes: u64,
        /// The most that is taken.
        limit: u64,
    },
    /// The partition's segments cannot be written for now (a full disk), and it takes nothing until they can. A batch
    /// that was in the log by then stays there, and is written and readable later.
    #[error("{0}")]
    Stalled(Arc<str>),
    /// Storage failed: the partition has stopped for good on this broker. The batch may or may not be on disk.
    #[error("the partition has stopped: {0}")]
    Fatal(Arc<str>),
}
