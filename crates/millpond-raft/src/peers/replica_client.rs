//! openraft's network: what a replica sends to another one of its group.
//!
//! While there is no connection to the broker of the other replica everything waits for it, and nothing is tried in
//! between: a thousand groups with a dead member cost nothing. What is lost with a connection fails as a network error,
//! which the engine answers by sending again what was not acknowledged.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use millpond_record::{BrokerId, GroupId, LogId, ReplicaId, Term};
use openraft::OptionalSend;
use openraft::alias::{SnapshotOf, VoteOf};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::impls::leader_id_std::LeaderId;
use openraft::network::{Backoff, RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};

use super::Inner;
use super::append_stream::{AppendStream, SHORTEST_PAUSE};
use super::frame::Kind;
use super::link::Peer;
use super::outbox::Urgency;
use super::raft_messages::{AnswerHead, NoReplica, RaftRequest, Route};
use crate::log_store::FLUSH_PATIENCE;
use crate::snapshot::Manifest;
use crate::types::{Member, RaftVote, TypeConfig, to_raft};

/// How long a replica that is gone, or has failed, is not asked again.
const GONE_PAUSE: Duration = Duration::from_millis(500);

/// How long a vote or a transfer is worth waiting for; openraft's own limits, which never run out, are for leases.
const PATIENCE: Duration = Duration::from_secs(1);
// A voter may have to wait for what is before its vote, and the candidate is to hear of it.
const _: () = assert!(FLUSH_PATIENCE.as_millis() * 2 < PATIENCE.as_millis());

/// Makes the clients of one replica.
#[derive(Clone)]
pub(crate) struct GroupNetwork {
    inner: Arc<Inner>,
    group: GroupId,
    replica: ReplicaId,
}

impl GroupNetwork {
    pub(super) fn new(inner: Arc<Inner>, group: GroupId, replica: ReplicaId) -> GroupNetwork {
        GroupNetwork { inner, group, replica }
    }

    fn client(&self, target: ReplicaId, broker: BrokerId) -> ReplicaClient {
        ReplicaClient {
            inner: Arc::clone(&self.inner),
            peer: self.inner.peer(broker),
            group: self.group,
            replica: self.replica,
            target,
        }
    }

    /// Whether a replica elsewhere would vote for the one here, whose log ends with `last`, if that were a candidate in
    /// the term behind `term`. One that does not answer in time would not.
    pub(crate) async fn would_vote(
        &self,
        target: ReplicaId,
        broker: BrokerId,
        term: Term,
        last: Option<LogId>,
    ) -> bool {
        let client = self.client(target, broker);
        let next = (term.0 + 1).min(Term::MAX.0);
        let vote = RaftVote { leader_id: LeaderId { term: next, voted_for: self.replica.0 }, committed: false };
        let request = RaftRequest::PreVote(VoteRequest::new(vote, last.map(to_raft)));
        let asked = self.inner.runtime.timeout(PATIENCE, client.ask(&request, AnswerHead::read_voted));
        matches!(asked.await, Ok(Ok(answer)) if answer.vote_granted)
    }
}

impl RaftNetworkFactory<TypeConfig> for GroupNetwork {
    type Network = ReplicaClient;

    async fn new_client(&mut self, target: u64, member: &Member) -> ReplicaClient {
        self.client(ReplicaId(target), member.broker)
    }
}

/// A replica's way to one other.
#[derive(Clone)]
pub(crate) struct ReplicaClient {
    pub(super) inner: Arc<Inner>,
    pub(super) peer: Arc<Peer>,
    group: GroupId,
    replica: ReplicaId,
    target: ReplicaId,
}

impl ReplicaClient {
    pub(super) fn route(&self) -> Route {
        Route::new(self.group, self.target, self.replica, self.inner.metadata())
    }

    /// Whom it leads to, for messages.
    fn name(&self) -> String {
        let ReplicaClient { peer, group, target, .. } = self;
        format!("replica {target} of group {group} on broker {}", peer.broker)
    }

    pub(super) fn broken(&self, why: &str) -> RPCError<TypeConfig> {
        RPCError::Network(NetworkError::from_string(format!("{}: {why}", self.name())))
    }

    pub(super) fn no_replica(&self, why: &NoReplica) -> RPCError<TypeConfig> {
        let why = match why {
            NoReplica::Gone => "the broker does not have it any more",
            NoReplica::NotYet => return self.broken("the broker does not have it yet"),
            NoReplica::Failed(why) => why,
        };
        RPCError::Unreachable(Unreachable::from_string(format!("{}: {why}", self.name())))
    }

    /// Whether the replica here answers for the other one itself: of the two it is the only one, and has the word of
    /// both.
    pub(super) fn stands_in(&self) -> bool {
        self.is_lost() && self.inner.raft().is_some_and(|raft| raft.stands_in(self.group, self.replica, self.target))
    }

    pub(super) fn is_lost(&self) -> bool {
        self.inner.is_lost(self.group, self.target)
    }

    /// Waits until it does.
    async fn until_stands_in(&self) {
        let mut lost = self.inner.lost.subscribe();
        while !self.stands_in() {
            let again = async {
                match self.is_lost() {
                    // The members of the group may become such that it does.
                    true => self.inner.runtime.sleep(GONE_PAUSE).await,
                    false => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                changed = lost.changed() => if changed.is_err() { return std::future::pending().await },
                () = again => {}
            }
        }
    }

    /// Sends a request, again while the answer is "not yet" or the connection breaks, until it is answered.
    async fn ask<T>(
        &self,
        request: &RaftRequest,
        read: impl Fn(&AnswerHead) -> Result<T, NoReplica>,
    ) -> Result<T, RPCError<TypeConfig>> {
        loop {
            let link = self.peer.up().await;
            let head = request.head(self.route());
            let Some(mut pending) = link.request(Urgency::First, Kind::RaftRequest, &head, &[]) else { continue };
            let Some(answer) = pending.answer().await else { continue };
            let answer = answer.head().map_err(|error| self.broken(&error.to_string()))?;
            match read(&answer) {
                Ok(answer) => return Ok(answer),
                Err(NoReplica::NotYet) => self.inner.runtime.sleep(SHORTEST_PAUSE).await,
                Err(why) => return Err(self.no_replica(&why)),
            }
        }
    }

    async fn ask_in_time<T>(
        &self,
        request: RaftRequest,
        option: RPCOption,
        read: impl Fn(&AnswerHead) -> Result<T, NoReplica>,
    ) -> Result<T, RPCError<TypeConfig>> {
        let asked = self.inner.runtime.timeout(option.hard_ttl().min(PATIENCE), self.ask(&request, read));
        asked.await.unwrap_or_else(|_| Err(self.broken("no answer in time")))
    }
}

impl RaftNetworkV2<TypeConfig> for ReplicaClient {
    type SnapshotData = Manifest;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let mut stream = AppendStream::new(self.clone(), futures::stream::iter([request]), &option);
        let answered = self.inner.runtime.timeout(option.hard_ttl().min(PATIENCE), stream.next());
        match answered.await {
            Ok(Some(Ok(result))) => Ok(result.into()),
            Ok(Some(Err(error))) => Err(error),
            Ok(None) => Err(self.broken("no answer")),
            Err(_) => Err(self.broken("no answer in time")),
        }
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>>, RPCError<TypeConfig>>,
    >
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        // The engine cancels a stream whose answers it waits for, not one that it waits for: so the connection is
        // waited for in the stream.
        let stream = AppendStream::new(self.clone(), input, &option);
        let answers = futures::stream::unfold(stream, |mut stream| async {
            let answer = stream.next().await?;
            Some((answer, stream))
        });
        Box::pin(async move { Ok(Box::pin(answers) as BoxStream<'s, _>) })
    }

    async fn vote(
        &mut self,
        mut request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        if self.stands_in() {
            return Ok(VoteResponse::new(request.vote, None, true));
        }
        // Leases never run out here: whether there is a live leader is what the other broker asks itself first.
        request.leadership_transfer = true;
        let by_leader = self.inner.is_called_by_leader(self.group, self.replica, request.vote.leader_id.term);
        self.ask_in_time(RaftRequest::Vote(request, by_leader), option, AnswerHead::read_voted).await
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<TypeConfig>,
        snapshot: SnapshotOf<TypeConfig, Manifest>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        if self.stands_in() {
            return Ok(SnapshotResponse::new(vote));
        }
        let request = RaftRequest::Snapshot(vote, snapshot.meta, snapshot.snapshot);
        tokio::select! {
            biased;
            closed = cancel => Err(StreamingError::Closed(closed)),
            () = self.until_stands_in() => {
                let why = format!("{}: it is lost, and is not waited for", self.name());
                Err(StreamingError::Network(NetworkError::from_string(why)))
            }
            installed = self.ask(&request, AnswerHead::read_installed) => installed.map_err(|error| match error {
                RPCError::Unreachable(error) => StreamingError::Unreachable(error),
                RPCError::Network(error) => StreamingError::Network(error),
                error => StreamingError::Network(NetworkError::from_string(error)),
            }),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        let sent = RaftRequest::Transfer(request.clone());
        self.ask_in_time(sent, option, |answer| answer.read_transferred(&request)).await
    }

    fn backoff(&self) -> Option<Backoff> {
        Some(Backoff::new(std::iter::repeat(GONE_PAUSE)))
    }
}
