//! What other brokers' replicas ask of the replicas here.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt;
use millpond_record::{BrokerId, GroupId, LogId, ReplicaId, Term};
use openraft::alias::SnapshotOf;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::Fatal;
use openraft::raft::{
    AppendEntriesRequest, TransferLeaderError, TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{EntryPayload, Raft};
use tokio::sync::mpsc;

use super::Inner;
use super::frame::{Kind, Outgoing};
use super::incoming::Held;
use super::outbox::{Outbox, Urgency};
use super::raft_messages::{AnswerHead, NoReplica, RaftRequest, Route};
use crate::state_machine::StateMachine;
use crate::types::{Payload, TypeConfig, from_raft};

/// The engine of one replica.
pub(crate) type GroupRaft = Raft<TypeConfig, StateMachine>;

/// Why this broker has no engine for a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// It has no such group, or another replica of it.
    Unknown,
    /// Its groups are not known yet.
    NotYet,
    /// The replica cannot run: a sentence.
    Failed(String),
}

/// Who asks for a vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) group: GroupId,
    pub(crate) replica: ReplicaId,
    /// The broker that it is on.
    pub(crate) broker: BrokerId,
    /// The term that it is in.
    pub(crate) term: Term,
    /// The last entry of its log.
    pub(crate) last: Option<LogId>,
    /// The leader of the term before has asked it to lead.
    pub(crate) by_leader: bool,
}

/// A message of a stream, and what it counts for until it is answered.
pub(super) type Message = (AppendEntriesRequest<TypeConfig>, Held);

/// Feeds the messages of one stream to the replica and sends its answers, until either ends.
pub(super) async fn run_stream(
    inner: Arc<Inner>,
    outbox: Arc<Outbox>,
    id: u64,
    route: Route,
    messages: mpsc::Receiver<Message>,
) {
    let answer = |head: &AnswerHead| {
        outbox.send(Urgency::First, Outgoing::new(Kind::AppendAnswer, id, head, &[]));
    };
    let raft = match inner.replica(&route).await {
        Ok(raft) => raft,
        Err(why) => return answer(&AnswerHead::no_replica(why)),
    };
    let unanswered: Arc<Mutex<VecDeque<Held>>> = Arc::default();
    let refused: Arc<Mutex<Option<String>>> = Arc::default();
    let state = (messages, Arc::clone(&unanswered), Arc::clone(&refused), inner);
    let requests = futures::stream::unfold(state, move |(mut messages, unanswered, refused, inner)| async move {
        let (request, held) = messages.recv().await?;
        if let Err(why) = inner.takes(route.group(), &request) {
            *refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
            return None;
        }
        unanswered.lock().unwrap_or_else(PoisonError::into_inner).push_back(held);
        Some((request, (messages, unanswered, refused, inner)))
    });
    let mut answers = pin!(raft.stream_append(requests));
    while let Some(result) = answers.next().await {
        drop(unanswered.lock().unwrap_or_else(PoisonError::into_inner).pop_front());
        match result {
            Ok(result) => answer(&AnswerHead::appended(&result)),
            Err(fatal) => answer(&AnswerHead::no_replica(NoReplica::Failed(fatal.to_string()))),
        }
    }
    if let Some(why) = refused.lock().unwrap_or_else(PoisonError::into_inner).take() {
        answer(&AnswerHead::no_replica(NoReplica::Failed(why)));
    }
}

/// Becomes a candidate if leadership is handed to this replica and it has all of the leader's log. openraft's own way
/// waits for a write of this life under the leader's vote, which a replica that was restarted has not made. What it has
/// may be on its way to the disk; its vote is saved behind that.
async fn take_over(
    raft: &GroupRaft,
    request: &TransferLeaderRequest<TypeConfig>,
    here: ReplicaId,
) -> Result<TransferLeaderResponse<TypeConfig>, Fatal<TypeConfig>> {
    if *request.to_node_id() != here.0 {
        return Ok(Ok(()));
    }
    let vote = raft.server_metrics().borrow_watched().vote;
    let last = raft.data_metrics().borrow_watched().last_log;
    if vote != *request.from_leader() {
        return Ok(Err(TransferLeaderError::VoteChanged { expected: *request.from_leader(), actual: vote }));
    }
    if last.as_ref() < request.last_log_id() {
        return Ok(Err(TransferLeaderError::LogNotFlushed { expected: request.last_log_id().copied(), actual: last }));
    }
    raft.trigger().elect(false).await?;
    Ok(Ok(()))
}

impl Inner {
    /// The engine of a replica here, or what the sender is told.
    async fn replica(&self, route: &Route) -> Result<GroupRaft, NoReplica> {
        let raft = self.raft().ok_or(NoReplica::NotYet)?;
        match raft.replica(route.group(), route.target()).await {
            Ok(raft) => Ok(raft),
            Err(Missing::NotYet) => Err(NoReplica::NotYet),
            Err(Missing::Unknown) if route.metadata() > raft.metadata_version() => Err(NoReplica::NotYet),
            Err(Missing::Unknown) => Err(NoReplica::Gone),
            Err(Missing::Failed(why)) => Err(NoReplica::Failed(why)),
        }
    }

    /// Whether a replica here can take the entries now: in the engine an error of the log would end the group.
    fn takes(&self, group: GroupId, request: &AppendEntriesRequest<TypeConfig>) -> Result<(), String> {
        let batches = request.entries.iter().filter_map(|entry| match &entry.payload {
            EntryPayload::Normal(Payload::Stored(stored)) => Some(stored.batch.size_bytes() as u64),
            _ => None,
        });
        match (batches.max(), self.raft()) {
            (Some(largest), Some(raft)) => raft.takes(group, largest),
            _ => Ok(()),
        }
    }

    /// Answers any request but an append.
    pub(super) async fn answer(&self, from: BrokerId, route: Route, request: RaftRequest) -> AnswerHead {
        match self.try_answer(from, route, request).await {
            Ok(answer) => answer,
            Err(why) => AnswerHead::no_replica(why),
        }
    }

    async fn try_answer(&self, from: BrokerId, route: Route, request: RaftRequest) -> Result<AnswerHead, NoReplica> {
        let failed = |why: String| NoReplica::Failed(why);
        let raft = self.replica(&route).await?;
        let candidate = |request: &VoteRequest<TypeConfig>, term: u64, by_leader| Candidate {
            group: route.group(),
            replica: route.sender(),
            broker: from,
            term: Term(term),
            last: request.last_log_id.as_ref().map(from_raft),
            by_leader,
        };
        let may_vote = |candidate| self.raft().is_some_and(|raft| raft.may_vote(&candidate));
        match request {
            RaftRequest::Vote(request, by_leader) => {
                if !may_vote(candidate(&request, request.vote.leader_id.term, by_leader)) {
                    return Ok(voted(&raft, false));
                }
                let answer = raft.vote(request).await.map_err(|error| failed(error.to_string()))?;
                Ok(AnswerHead::voted(&answer))
            }
            RaftRequest::PreVote(request) => {
                // The engine would refuse by its lease, which never runs out. Terms do not matter: the candidate takes
                // one that is high enough when it hears of this replica's.
                let before = request.vote.leader_id.term.saturating_sub(1);
                let last = raft.data_metrics().borrow_watched().last_log;
                let would = may_vote(candidate(&request, before, false)) && request.last_log_id >= last;
                Ok(voted(&raft, would))
            }
            RaftRequest::Transfer(request) => {
                let (to, term) = (ReplicaId(*request.to_node_id()), request.from_leader().leader_id.term);
                if let Some(services) = self.raft() {
                    services.transferring(route.group(), to);
                }
                if to == route.target() {
                    self.called_by_leader(route.group(), to, term);
                }
                let answer = take_over(&raft, &request, route.target()).await;
                Ok(AnswerHead::transferred(&answer.map_err(|error| failed(error.to_string()))?))
            }
            RaftRequest::Snapshot(vote, meta, snapshot) => {
                // From openraft's call on the replica counts as having all that the snapshot has.
                let filling = match (meta.last_log_id.as_ref().map(from_raft), self.raft()) {
                    (Some(p), Some(services)) => {
                        Some(services.gather(route.group(), route.target(), from, p).await.map_err(failed)?)
                    }
                    _ => None,
                };
                let snapshot = SnapshotOf::<TypeConfig, _> { meta, snapshot };
                let installed = raft.install_full_snapshot(vote, snapshot).await;
                drop(filling);
                Ok(AnswerHead::installed(&installed.map_err(|error| failed(error.to_string()))?))
            }
        }
    }
}

/// An answer that changes nothing: here, or at the candidate, whose vote is not lower than the one that it answers.
fn voted(raft: &GroupRaft, granted: bool) -> AnswerHead {
    let vote = raft.metrics().borrow_watched().vote;
    AnswerHead::voted(&VoteResponse::new(vote, None, granted))
}
