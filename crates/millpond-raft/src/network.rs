//! Peers. A group of one voter has none; the transport between brokers comes with replication.
//!
//! openraft wants a network all the same. With one voter it never makes a client; should a membership ever name a
//! second replica, every message to it fails as unreachable and says why.

use std::future::Future;

use openraft::alias::{SnapshotOf, VoteOf};
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};

use crate::snapshot::Manifest;
use crate::types::{Member, TypeConfig};

/// Makes clients that reach nobody.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NoPeers;

/// A client that reaches nobody.
#[derive(Debug)]
pub(crate) struct NoPeer {
    replica: u64,
    member: Member,
}

impl NoPeer {
    fn unreachable(&self) -> Unreachable<TypeConfig> {
        let Self { replica, member } = self;
        Unreachable::from_string(format!(
            "replica {replica} on {member}: this version of millpond has no transport between brokers"
        ))
    }
}

impl RaftNetworkFactory<TypeConfig> for NoPeers {
    type Network = NoPeer;

    async fn new_client(&mut self, target: u64, node: &Member) -> NoPeer {
        NoPeer { replica: target, member: *node }
    }
}

impl RaftNetworkV2<TypeConfig> for NoPeer {
    type SnapshotData = Manifest;

    async fn append_entries(
        &mut self,
        _request: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        Err(RPCError::Unreachable(self.unreachable()))
    }

    async fn vote(
        &mut self,
        _request: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        Err(RPCError::Unreachable(self.unreachable()))
    }

    async fn pre_vote(
        &mut self,
        _request: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        // openraft's default grants: a peer that cannot be asked has granted nothing.
        Err(RPCError::Unreachable(self.unreachable()))
    }

    async fn full_snapshot(
        &mut self,
        _vote: VoteOf<TypeConfig>,
        _snapshot: SnapshotOf<TypeConfig, Manifest>,
        _cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        Err(StreamingError::Unreachable(self.unreachable()))
    }

    async fn transfer_leader(
        &mut self,
        _request: TransferLeaderRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        Err(RPCError::Unreachable(self.unreachable()))
    }
}
