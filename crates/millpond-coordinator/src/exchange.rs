//! What goes into a shard and what comes out: time, tickets, records, replies.

use bytes::Bytes;
use millpond_record::{Timestamp, TopicId};
use millpond_wire::Str;

use crate::error::GroupError;

/// The time of a call. Both clocks come from the caller; the monotonic one never goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// For commit times and the expiry of offsets.
    pub wall: Timestamp,
    /// Milliseconds of any clock that does not jump, for session and rebalance timers.
    pub monotonic_ms: u64,
}

/// The caller's name for a request that is not answered yet. Never used twice in the life of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// A record of `__consumer_offsets`, in Kafka's format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub key: Bytes,
    /// `None` is a tombstone: what the key names is gone.
    pub value: Option<Bytes>,
}

/// What a call to a shard led to.
///
/// The records are applied to the shard already. They must be appended in the order of the calls; a reply may leave
/// when all records that were handed out up to its effects, these included, are committed. When an append fails, the
/// shard must be dropped and loaded anew.
#[derive(Debug, Default)]
pub struct Effects {
    pub records: Vec<Record>,
    /// Also those of earlier requests that had to wait. Each ticket is answered once.
    pub replies: Vec<(Ticket, Reply)>,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Join(JoinReply),
    Sync(Result<Synced, GroupError>),
    Heartbeat(Result<(), GroupError>),
    /// One for each member of the request, in its order; or none at all.
    Leave(Result<Vec<Result<(), GroupError>>, GroupError>),
    /// One for each offset of the request, in its order; or none at all.
    CommitOffsets(Result<Vec<Result<(), GroupError>>, GroupError>),
    /// One for each partition of the request, in its order; or none at all.
    DeleteOffsets(Result<Vec<Result<(), GroupError>>, GroupError>),
    ConsumerHeartbeat(Result<ConsumerHeartbeat, GroupError>),
    /// One for each group of the request, in its order.
    DeleteGroups(Vec<Result<(), GroupError>>),
}

impl Reply {
    /// Whether it refuses something for what the group is ([`GroupError::is_of_the_group`]).
    pub fn refuses_for_the_group(&self) -> bool {
        let refuses = GroupError::is_of_the_group;
        let any =
            |results: &[Result<(), GroupError>]| results.iter().flat_map(|result| result.as_ref().err()).any(refuses);
        match self {
            Reply::Join(JoinReply { outcome, .. }) => outcome.as_ref().is_err_and(refuses),
            Reply::Sync(outcome) => outcome.as_ref().is_err_and(refuses),
            Reply::Heartbeat(outcome) => outcome.as_ref().is_err_and(refuses),
            Reply::ConsumerHeartbeat(outcome) => outcome.as_ref().is_err_and(refuses),
            Reply::Leave(outcome) | Reply::CommitOffsets(outcome) | Reply::DeleteOffsets(outcome) => match outcome {
                Ok(results) => any(results),
                Err(error) => refuses(error),
            },
            Reply::DeleteGroups(results) => any(results),
        }
    }
}

/// The answer to JoinGroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinReply {
    /// The member's id; also beside [`GroupError::MemberIdRequired`], and empty where the client must ask for a new
    /// one.
    pub member_id: Str,
    pub outcome: Result<Joined, GroupError>,
}

/// A generation, as a member of it sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    pub generation: i32,
    pub protocol_type: Option<Str>,
    pub protocol: Option<Str>,
    /// The member id of the leader; empty when there is none.
    pub leader: Str,
    /// KIP-814: the leader need not compute an assignment.
    pub skip_assignment: bool,
    /// All members, for the leader; empty for the others.
    pub members: Vec<JoinedMember>,
}

/// A member as the leader is told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinedMember {
    pub member_id: Str,
    pub instance_id: Option<Str>,
    /// What the member said about the chosen protocol: a consumer's subscription.
    pub metadata: Bytes,
}

/// The answer to ConsumerGroupHeartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerHeartbeat {
    pub member_id: Str,
    /// -1 or -2 for a member that has left.
    pub member_epoch: i32,
    /// When the next heartbeat is due, in milliseconds.
    pub interval_ms: i32,
    /// All that the member may own now; `None` when that has not changed.
    pub assignment: Option<Vec<(TopicId, Vec<i32>)>>,
}

/// The answer to SyncGroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Synced {
    pub protocol_type: Option<Str>,
    pub protocol: Option<Str>,
    /// What the leader assigned to the member; empty when it assigned nothing.
    pub assignment: Bytes,
}
