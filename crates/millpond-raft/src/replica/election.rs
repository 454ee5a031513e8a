//! How a replica comes to lead, and gives leadership to another one.

use std::future::Future;
use std::sync::PoisonError;
use std::time::Duration;

use millpond_record::ReplicaId;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{Fatal, RaftError as OpenraftError};
use openraft::impls::leader_id_std::LeaderId;
use openraft::raft::VoteRequest;
use openraft::{RaftMetrics, ServerState};

use super::{MillRaft, Replica};
use crate::error::RaftError;
use crate::types::{RaftVote, TypeConfig};

/// How long a leader waits for the replica that it hands over to: to have all of the log, and to lead.
const HAND_OVER: Duration = Duration::from_millis(1000);
const TAKE_OVER: Duration = Duration::from_millis(300);

/// How long a candidate has to come to its next term before it is asked again.
const STANDS: Duration = Duration::from_secs(5);

/// Has an engine that leads lead no more: after a transfer that failed it takes no writes, and no election either. It
/// is asked for a vote in the next term, as by a candidate that nobody hears of again.
async fn resign(raft: &MillRaft) -> Result<(), Fatal<TypeConfig>> {
    let (vote, other) = {
        let metrics = raft.server_metrics();
        let now = metrics.borrow_watched();
        if now.state != ServerState::Leader {
            return Ok(());
        }
        let other = now.membership_config.membership().voter_ids().find(|id| *id != now.id);
        (now.vote, other)
    };
    let (term, Some(other)) = (vote.leader_id.term + 1, other) else { return Ok(()) };
    let vote = RaftVote { leader_id: LeaderId { term, voted_for: other }, committed: false };
    let mut request = VoteRequest::new(vote, raft.data_metrics().borrow_watched().last_log);
    request.leadership_transfer = true;
    match raft.vote(request).await {
        Ok(_) => Ok(()),
        Err(OpenraftError::Fatal(error)) => Err(error),
        Err(OpenraftError::APIError(never)) => match never {},
    }
}

impl Replica {
    /// Begins an election in which this replica is the candidate, if it votes: it is for the caller to know that there
    /// is no live leader. Leases never run out here; the votes that it asks for are flagged not to mind them.
    ///
    /// Nothing while it has not come to the election that it was asked for before: an engine whose vote waits for a
    /// disk would hold one after the other then.
    pub(crate) async fn elect(&self) -> Result<(), RaftError> {
        {
            let (term, now) = (self.role().term, self.shared.runtime.now());
            let mut stood = self.state.stood.lock().unwrap_or_else(PoisonError::into_inner);
            if stood.is_some_and(|(before, at)| before == term && now < at + STANDS) {
                return Ok(());
            }
            *stood = Some((term, now));
        }
        let raft = self.raft.clone();
        let elected = self.shared.runtime.spawn(async move {
            resign(&raft).await?;
            raft.trigger().elect(false).await
        });
        self.done(elected.await)
    }

    fn done(
        &self,
        result: Result<Result<(), Fatal<TypeConfig>>, millpond_runtime::JoinError>,
    ) -> Result<(), RaftError> {
        match result {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(self.fatal(&error)),
            Err(error) => Err(RaftError::Fatal { group: self.group(), why: error.to_string().into() }),
        }
    }

    /// Hands leadership to another replica, which has all of the log by then. The caller holds back proposals: one
    /// whose broker dies meanwhile is not waited for any longer.
    pub(crate) async fn transfer(&self, to: ReplicaId) -> Result<(), RaftError> {
        let began = self.role();
        if !began.serves {
            return Err(RaftError::NotLeader(self.group()));
        }
        let has_all = |metrics: &RaftMetrics<TypeConfig>| {
            let matched = metrics.replication.as_ref().and_then(|all| all.get(&to.0)?.as_ref().map(|id| id.index()));
            metrics.replication.is_none() || matched == metrics.last_log_index
        };
        let caught_up = self.unless_dead(to, HAND_OVER, self.until(has_all));
        caught_up.await.ok_or(RaftError::Behind { group: self.group(), by: to })??;
        if self.role() != began {
            // It has lost the lead meanwhile, and may have another one, which nobody asked to hand over.
            return Err(RaftError::NotLeader(self.group()));
        }
        let (raft, runtime) = (self.raft.clone(), &self.shared.runtime);
        let handed = runtime.spawn(async move { raft.trigger().transfer_leader(to.0).await });
        self.done(handed.await)?;
        let mut roles = self.roles();
        let taken = roles.wait_for(|role| role.term > began.term && role.leader.is_some_and(|(id, _)| id != self.id()));
        match self.unless_dead(to, TAKE_OVER, taken).await {
            Some(_) => Ok(()),
            // openraft never takes a failed transfer back: somebody else must be elected.
            None => {
                let term = self.step_back();
                self.shared.gave_up(self.group(), term);
                Err(RaftError::NotTaken { group: self.group(), by: to })
            }
        }
    }

    /// What comes of something that another replica does, unless that takes too long or its broker dies.
    async fn unless_dead<T>(
        &self,
        replica: ReplicaId,
        limit: Duration,
        done: impl Future<Output = T> + Send,
    ) -> Option<T> {
        let broker = self.members().into_iter().find(|member| member.replica == replica).map(|member| member.broker);
        let mut alive = self.shared.peers.alive();
        let done = self.shared.runtime.timeout(limit, done);
        tokio::select! {
            biased;
            done = done => done.ok(),
            _ = alive.wait_for(|alive| broker.is_none_or(|broker| !alive.contains(&broker))) => None,
        }
    }
}
