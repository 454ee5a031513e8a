//! The types that openraft is told to use, and their counterparts below.

use std::fmt;
use std::io;
use std::sync::Arc;

use millpond_record::{BrokerId, LogId, Offset, RaftIndex, ReplicaId, Term};
use millpond_storage::{Proposal, Stored, Vote};
use openraft::alias::{EntryOf, LogIdOf, SnapshotMetaOf, StoredMembershipOf, VoteOf};
use openraft::impls::leader_id_std;

use crate::flights::Carrier;
use crate::runtime::MillRuntime;

openraft::declare_raft_types!(
    /// A Raft node is a replica, a term is a leader epoch, an entry is one record batch.
    pub TypeConfig:
        D = Payload,
        R = Applied,
        NodeId = u64,
        Node = Member,
        Term = u64,
        LeaderId = leader_id_std::LeaderId<u64, u64>,
        AsyncRuntime = MillRuntime,
);

pub(crate) type Entry = EntryOf<TypeConfig>;
pub(crate) type RaftLogId = LogIdOf<TypeConfig>;
pub(crate) type RaftVote = VoteOf<TypeConfig>;
pub(crate) type Membership = openraft::Membership<u64, Member>;
pub(crate) type StoredMembership = StoredMembershipOf<TypeConfig>;
pub(crate) type SnapshotMeta = SnapshotMetaOf<TypeConfig>;

/// The payload of a data entry.
#[derive(Clone)]
pub enum Payload {
    /// A batch on the leader that proposes it: stamped, and its sequence checked, inside the append.
    Proposed(Proposal, Option<Arc<Carrier>>),
    /// The log start is to move, on the leader that proposes it: becomes an entry inside the append.
    LogStart(Offset, Option<Arc<Carrier>>),
    /// A batch as its leader stored it, read back or received from the leader. It is stored as it is.
    Stored(Stored),
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Proposed(proposal, _) => write!(f, "proposed batch of {} bytes", proposal.batch.len()),
            Self::LogStart(offset, _) => write!(f, "proposed log start {offset}"),
            Self::Stored(stored) => write!(f, "stored batch of {} bytes", stored.batch.size_bytes()),
        }
    }
}

/// What the proposer of an entry learns when the entry is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The entry.
    pub index: RaftIndex,
    /// The sequence check refused the batch: the entry is void.
    pub void: bool,
}

/// What a group knows of one of its replicas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// The broker that has the replica.
    pub broker: BrokerId,
    /// The version of the partition's assignment that put it there; a controller with an older one is refused.
    pub assignment_version: u64,
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "broker {} (assignment {})", self.broker, self.assignment_version)
    }
}

pub(crate) fn to_raft(id: LogId) -> RaftLogId {
    RaftLogId::new_term_index(id.term.0, id.index.0)
}

pub(crate) fn from_raft(id: &RaftLogId) -> LogId {
    LogId { term: Term(id.committed_leader_id().term), index: RaftIndex(id.index()) }
}

/// A vote to store. Terms end where leader epochs end.
pub(crate) fn vote_to_store(vote: &RaftVote) -> Result<Vote, io::Error> {
    let term = Term(vote.leader_id.term);
    if term > Term::MAX {
        return Err(io::Error::other(format!("term {term} has no leader epoch: they end at {}", Term::MAX)));
    }
    Ok(Vote { term, replica: ReplicaId(vote.leader_id.voted_for), committed: vote.committed })
}

/// A stored vote; `None` if none was ever saved.
pub(crate) fn vote_from_store(vote: Vote) -> Option<RaftVote> {
    if vote == Vote::default() {
        return None;
    }
    let leader_id = leader_id_std::LeaderId { term: vote.term.0, voted_for: vote.replica.0 };
    Some(RaftVote { leader_id, committed: vote.committed })
}
