//! Raft messages as the heads and bodies of frames.
//!
//! | frame | head | body |
//! | --- | --- | --- |
//! | Append | `append.rs`: route, vote, commit, and of each entry its term, kind, length | the entries, back to back |
//! | RaftRequest | [`RequestHead`]: route and one of the requests | |
//! | AppendAnswer, RaftAnswer | [`AnswerHead`]: the engine's answer, or why there is none | |
//!
//! What is read here is held to what the engine takes for granted, because it would end the group.

mod append;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use millpond_record::{GroupId, Offset, RaftIndex, ReplicaId, Term};
use openraft::impls::leader_id_std::LeaderId;
use openraft::raft::{
    SnapshotResponse, StreamAppendError, StreamAppendResult, TransferLeaderError, TransferLeaderRequest, VoteRequest,
    VoteResponse,
};

pub(super) use self::append::Append;
use super::frame::{Frame, FrameError};
use crate::membership;
use crate::snapshot::Manifest;
use crate::types::{RaftLogId, RaftVote, SnapshotMeta, StoredMembership, TypeConfig};

/// From which replica to which one.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(super) struct Route {
    #[prost(uint64, tag = "1")]
    group: u64,
    #[prost(uint64, tag = "2")]
    target: u64,
    #[prost(uint64, tag = "3")]
    sender: u64,
    /// Up to where the sender has applied the cluster's metadata.
    #[prost(uint64, tag = "4")]
    metadata: u64,
}

impl Route {
    pub(super) fn new(group: GroupId, target: ReplicaId, sender: ReplicaId, metadata: RaftIndex) -> Route {
        Route { group: group.0, target: target.0, sender: sender.0, metadata: metadata.0 }
    }

    pub(super) fn group(&self) -> GroupId {
        GroupId(self.group)
    }

    pub(super) fn target(&self) -> ReplicaId {
        ReplicaId(self.target)
    }

    pub(super) fn sender(&self) -> ReplicaId {
        ReplicaId(self.sender)
    }

    pub(super) fn metadata(&self) -> RaftIndex {
        RaftIndex(self.metadata)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(super) struct LogIdHead {
    #[prost(uint64, tag = "1")]
    term: u64,
    #[prost(uint64, tag = "2")]
    index: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(super) struct VoteHead {
    #[prost(uint64, tag = "1")]
    term: u64,
    #[prost(uint64, tag = "2")]
    replica: u64,
    #[prost(bool, tag = "3")]
    committed: bool,
}

impl LogIdHead {
    fn of(id: &RaftLogId) -> LogIdHead {
        LogIdHead { term: id.committed_leader_id().term, index: id.index() }
    }

    fn read(self) -> Result<RaftLogId, String> {
        Ok(RaftLogId::new_term_index(term(self.term)?, self.index))
    }
}

fn read_log_id(id: Option<LogIdHead>) -> Result<Option<RaftLogId>, String> {
    id.map(LogIdHead::read).transpose()
}

impl VoteHead {
    fn of(vote: &RaftVote) -> VoteHead {
        VoteHead { term: vote.leader_id.term, replica: vote.leader_id.voted_for, committed: vote.committed }
    }
}

fn read_vote(vote: Option<VoteHead>) -> Result<RaftVote, String> {
    let VoteHead { term: of, replica, committed } = vote.ok_or("no vote")?;
    Ok(RaftVote { leader_id: LeaderId { term: term(of)?, voted_for: replica }, committed })
}

fn term(term: u64) -> Result<u64, String> {
    if term > Term::MAX.0 {
        return Err(format!("term {term}, which has no leader epoch"));
    }
    Ok(term)
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub(super) enum Outcome {
    /// An answer of the engine.
    Done = 0,
    /// The broker does not have this replica, and knows all that the sender knows.
    Gone = 1,
    /// The broker does not have this replica yet.
    NotYet = 2,
    /// The replica cannot answer.
    Failed = 3,
    /// An append that does not follow the log.
    Conflict = 4,
    /// The replica has seen a higher vote.
    HigherVote = 5,
    /// A transfer: the vote has changed.
    VoteChanged = 6,
    /// A transfer: the log is not flushed up to the last entry.
    LogNotFlushed = 7,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct AnswerHead {
    #[prost(enumeration = "Outcome", tag = "1")]
    outcome: i32,
    #[prost(message, optional, tag = "2")]
    vote: Option<VoteHead>,
    #[prost(message, optional, tag = "3")]
    log_id: Option<LogIdHead>,
    #[prost(bool, tag = "4")]
    granted: bool,
    #[prost(string, tag = "5")]
    why: String,
}

/// Why there is no answer of the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NoReplica {
    Gone,
    NotYet,
    Failed(String),
}

impl AnswerHead {
    fn done(outcome: Outcome) -> AnswerHead {
        AnswerHead { outcome: outcome as i32, ..AnswerHead::default() }
    }

    pub(super) fn no_replica(why: NoReplica) -> AnswerHead {
        match why {
            NoReplica::Gone => AnswerHead::done(Outcome::Gone),
            NoReplica::NotYet => AnswerHead::done(Outcome::NotYet),
            NoReplica::Failed(why) => AnswerHead { why, ..AnswerHead::done(Outcome::Failed) },
        }
    }

    /// The outcome, if it is one of the engine's.
    fn of_engine(&self) -> Result<Outcome, NoReplica> {
        match Outcome::try_from(self.outcome) {
            Ok(Outcome::Gone) => Err(NoReplica::Gone),
            Ok(Outcome::NotYet) => Err(NoReplica::NotYet),
            Ok(Outcome::Failed) => Err(NoReplica::Failed(super::handshake::sentence(&self.why))),
            Ok(outcome) => Ok(outcome),
            Err(_) => Err(strange()),
        }
    }

    pub(super) fn appended(result: &StreamAppendResult<TypeConfig>) -> AnswerHead {
        match result {
            Ok(matched) => {
                AnswerHead { log_id: matched.as_ref().map(LogIdHead::of), ..AnswerHead::done(Outcome::Done) }
            }
            Err(StreamAppendError::Conflict(id)) => {
                AnswerHead { log_id: Some(LogIdHead::of(id)), ..AnswerHead::done(Outcome::Conflict) }
            }
            Err(StreamAppendError::HigherVote(vote)) => {
                AnswerHead { vote: Some(VoteHead::of(vote)), ..AnswerHead::done(Outcome::HigherVote) }
            }
        }
    }

    pub(super) fn read_appended(&self) -> Result<StreamAppendResult<TypeConfig>, NoReplica> {
        let read = match self.of_engine()? {
            Outcome::Done => read_log_id(self.log_id).map(Ok),
            Outcome::Conflict => match read_log_id(self.log_id) {
                Ok(Some(id)) => Ok(Err(StreamAppendError::Conflict(id))),
                _ => return Err(strange()),
            },
            Outcome::HigherVote => read_vote(self.vote).map(|vote| Err(StreamAppendError::HigherVote(vote))),
            _ => return Err(strange()),
        };
        read.map_err(NoReplica::Failed)
    }

    pub(super) fn voted(answer: &VoteResponse<TypeConfig>) -> AnswerHead {
        AnswerHead {
            vote: Some(VoteHead::of(&answer.vote)),
            log_id: answer.last_log_id.as_ref().map(LogIdHead::of),
            granted: answer.vote_granted,
            ..AnswerHead::done(Outcome::Done)
        }
    }

    pub(super) fn read_voted(&self) -> Result<VoteResponse<TypeConfig>, NoReplica> {
        self.of_engine()?;
        let vote = read_vote(self.vote).map_err(NoReplica::Failed)?;
        let last = read_log_id(self.log_id).map_err(NoReplica::Failed)?;
        Ok(VoteResponse::new(vote, last, self.granted))
    }

    pub(super) fn installed(answer: &SnapshotResponse<TypeConfig>) -> AnswerHead {
        AnswerHead { vote: Some(VoteHead::of(&answer.vote)), ..AnswerHead::done(Outcome::Done) }
    }

    pub(super) fn read_installed(&self) -> Result<SnapshotResponse<TypeConfig>, NoReplica> {
        self.of_engine()?;
        read_vote(self.vote).map(SnapshotResponse::new).map_err(NoReplica::Failed)
    }

    pub(super) fn transferred(answer: &Result<(), TransferLeaderError<TypeConfig>>) -> AnswerHead {
        match answer {
            Ok(()) => AnswerHead::done(Outcome::Done),
            Err(TransferLeaderError::VoteChanged { actual, .. }) => {
                AnswerHead { vote: Some(VoteHead::of(actual)), ..AnswerHead::done(Outcome::VoteChanged) }
            }
            Err(TransferLeaderError::LogNotFlushed { actual, .. }) => {
                AnswerHead { log_id: actual.as_ref().map(LogIdHead::of), ..AnswerHead::done(Outcome::LogNotFlushed) }
            }
        }
    }

    pub(super) fn read_transferred(
        &self,
        request: &TransferLeaderRequest<TypeConfig>,
    ) -> Result<Result<(), TransferLeaderError<TypeConfig>>, NoReplica> {
        match self.of_engine()? {
            Outcome::Done => Ok(Ok(())),
            Outcome::VoteChanged => {
                let actual = read_vote(self.vote).map_err(NoReplica::Failed)?;
                Ok(Err(TransferLeaderError::VoteChanged { expected: *request.from_leader(), actual }))
            }
            Outcome::LogNotFlushed => {
                let actual = read_log_id(self.log_id).map_err(NoReplica::Failed)?;
                Ok(Err(TransferLeaderError::LogNotFlushed { expected: request.last_log_id().copied(), actual }))
            }
            _ => Err(strange()),
        }
    }
}

fn strange() -> NoReplica {
    NoReplica::Failed("it answers what this broker does not understand".to_owned())
}

/// Any request but an append.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct RequestHead {
    #[prost(message, optional, tag = "1")]
    route: Option<Route>,
    #[prost(oneof = "RequestBody", tags = "2, 3, 4, 5")]
    body: Option<RequestBody>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum RequestBody {
    #[prost(message, tag = "2")]
    Vote(VoteRequestHead),
    #[prost(message, tag = "3")]
    PreVote(VoteRequestHead),
    #[prost(message, tag = "4")]
    Transfer(TransferHead),
    #[prost(message, tag = "5")]
    Snapshot(SnapshotHead),
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct VoteRequestHead {
    #[prost(message, optional, tag = "1")]
    vote: Option<VoteHead>,
    #[prost(message, optional, tag = "2")]
    last: Option<LogIdHead>,
    #[prost(bool, tag = "3")]
    leadership_transfer: bool,
    /// The leader has asked the candidate to become leader.
    #[prost(bool, tag = "4")]
    by_leader: bool,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct TransferHead {
    #[prost(message, optional, tag = "1")]
    from: Option<VoteHead>,
    #[prost(uint64, tag = "2")]
    to: u64,
    #[prost(message, optional, tag = "3")]
    last: Option<LogIdHead>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SnapshotHead {
    #[prost(message, optional, tag = "1")]
    vote: Option<VoteHead>,
    #[prost(message, optional, tag = "2")]
    last: Option<LogIdHead>,
    #[prost(message, optional, tag = "3")]
    membership_id: Option<LogIdHead>,
    #[prost(bytes = "bytes", tag = "4")]
    membership: Bytes,
    #[prost(int64, tag = "5")]
    log_start: i64,
    #[prost(int64, tag = "6")]
    end: i64,
}

/// Any request but an append, as the engine takes it.
#[derive(Clone, Debug)]
pub(super) enum RaftRequest {
    /// With whether the leader has asked the candidate to become leader.
    Vote(VoteRequest<TypeConfig>, bool),
    PreVote(VoteRequest<TypeConfig>),
    Transfer(TransferLeaderRequest<TypeConfig>),
    Snapshot(RaftVote, SnapshotMeta, Manifest),
}

impl RaftRequest {
    pub(super) fn head(&self, route: Route) -> RequestHead {
        let vote_request = |request: &VoteRequest<TypeConfig>, by_leader| VoteRequestHead {
            vote: Some(VoteHead::of(&request.vote)),
            last: request.last_log_id.as_ref().map(LogIdHead::of),
            leadership_transfer: request.leadership_transfer,
            by_leader,
        };
        let body = match self {
            RaftRequest::Vote(request, by_leader) => RequestBody::Vote(vote_request(request, *by_leader)),
            RaftRequest::PreVote(request) => RequestBody::PreVote(vote_request(request, false)),
            RaftRequest::Transfer(request) => RequestBody::Transfer(TransferHead {
                from: Some(VoteHead::of(request.from_leader())),
                to: *request.to_node_id(),
                last: request.last_log_id().map(LogIdHead::of),
            }),
            RaftRequest::Snapshot(vote, meta, manifest) => RequestBody::Snapshot(SnapshotHead {
                vote: Some(VoteHead::of(vote)),
                last: meta.last_log_id.as_ref().map(LogIdHead::of),
                membership_id: meta.last_membership.log_id().as_ref().map(LogIdHead::of),
                membership: membership::encode(meta.last_membership.membership()),
                log_start: manifest.log_start.0,
                end: manifest.end.0,
            }),
        };
        RequestHead { route: Some(route), body: Some(body) }
    }

    pub(super) fn read(frame: &Frame) -> Result<(Route, RaftRequest), FrameError> {
        let RequestHead { route, body } = frame.head()?;
        let read = || {
            let request = match body.ok_or("no request")? {
                RequestBody::Vote(head) => RaftRequest::Vote(read_vote_request(head)?, head.by_leader),
                RequestBody::PreVote(head) => RaftRequest::PreVote(read_vote_request(head)?),
                RequestBody::Transfer(TransferHead { from, to, last }) => {
                    RaftRequest::Transfer(TransferLeaderRequest::new(read_vote(from)?, to, read_log_id(last)?))
                }
                RequestBody::Snapshot(head) => read_snapshot(head)?,
            };
            Ok::<_, String>((route.ok_or("no route")?, request))
        };
        read().map_err(|what| frame.malformed(what))
    }
}

fn read_vote_request(head: VoteRequestHead) -> Result<VoteRequest<TypeConfig>, String> {
    let mut request = VoteRequest::new(read_vote(head.vote)?, read_log_id(head.last)?);
    request.leadership_transfer = head.leadership_transfer;
    Ok(request)
}

fn read_snapshot(head: SnapshotHead) -> Result<RaftRequest, String> {
    let members = membership::decode(head.membership)?;
    let last_membership = StoredMembership::new(read_log_id(head.membership_id)?, members);
    let meta = SnapshotMeta { last_log_id: read_log_id(head.last)?, last_membership };
    let (log_start, end) = (Offset(head.log_start), Offset(head.end));
    if log_start < Offset(0) || end < log_start {
        return Err(format!("a snapshot from offset {log_start} to {end}"));
    }
    Ok(RaftRequest::Snapshot(read_vote(head.vote)?, meta, Manifest { log_start, end }))
}
