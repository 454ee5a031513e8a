//! A member of a classic group.

use bytes::Bytes;
use millpond_wire::Str;
use millpond_wire::join_group::JoinGroupRequest;

use crate::exchange::Ticket;
use crate::request::JoinContext;

/// What a member takes in memory besides texts and bytes, about.
const FIXED_BYTES: usize = 1024;

/// A way of assigning that a member offers, with what it says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Protocol {
    pub(super) name: Str,
    pub(super) metadata: Bytes,
}

/// Whether a request of the member waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    No,
    For(Ticket),
    /// It waits as before, but nobody will read the answer.
    Abandoned,
}

impl Wait {
    pub(super) fn ticket(self) -> Option<Ticket> {
        match self {
            Wait::For(ticket) => Some(ticket),
            Wait::No | Wait::Abandoned => None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) instance_id: Option<Str>,
    pub(super) client_id: Str,
    pub(super) client_host: Str,
    /// As the records have them; a negative one counts as zero.
    pub(super) rebalance_timeout: i32,
    pub(super) session_timeout: i32,
    /// What it can do, as it likes best first; each name once.
    pub(super) protocols: Vec<Protocol>,
    pub(super) assignment: Bytes,
    /// It has not been part of a generation.
    pub(super) is_new: bool,
    /// The client has been told the member id.
    pub(super) knows_id: bool,
    pub(super) joining: Wait,
    pub(super) syncing: Wait,
    /// It has joined the generation and did not sync yet.
    pub(super) owes_sync: bool,
}

fn milliseconds(timeout: i32) -> u64 {
    u64::try_from(timeout).unwrap_or(0)
}

impl Member {
    /// The member that a JoinGroup describes.
    pub(super) fn joining(request: &JoinGroupRequest, context: &JoinContext) -> Member {
        let mut member = Member {
            instance_id: request.group_instance_id.as_ref().map(Str::detached),
            client_id: context.client_id.detached(),
            client_host: context.client_host.detached(),
            rebalance_timeout: 0,
            session_timeout: 0,
            protocols: Vec::new(),
            assignment: Bytes::new(),
            is_new: true,
            knows_id: !request.member_id.is_empty(),
            joining: Wait::No,
            syncing: Wait::No,
            owes_sync: false,
        };
        member.take_from(request);
        member
    }

    /// Takes what another JoinGroup says.
    pub(super) fn take_from(&mut self, request: &JoinGroupRequest) {
        self.session_timeout = request.session_timeout_ms;
        // Version 0 knows one timeout only.
        let rebalance = request.rebalance_timeout_ms;
        self.rebalance_timeout = if rebalance < 0 { request.session_timeout_ms } else { rebalance };
        self.protocols.clear();
        for offered in &request.protocols {
            if self.metadata_of(&offered.name).is_none() {
                let metadata = Bytes::copy_from_slice(&offered.metadata);
                self.protocols.push(Protocol { name: offered.name.detached(), metadata });
            }
        }
    }

    pub(super) fn rebalance_timeout_ms(&self) -> u64 {
        milliseconds(self.rebalance_timeout)
    }

    pub(super) fn session_timeout_ms(&self) -> u64 {
        milliseconds(self.session_timeout)
    }

    /// What it says about itself for this protocol; none when it does not know it.
    pub(super) fn metadata_of(&self, protocol: &str) -> Option<&Bytes> {
        self.protocols.iter().find(|known| known.name == *protocol).map(|known| &known.metadata)
    }

    /// Whether the request offers what the member offered before, in the same order.
    pub(super) fn offers_the_same(&self, request: &JoinGroupRequest) -> bool {
        let offered = request.protocols.iter().map(|offered| (&*offered.name, &offered.metadata));
        self.protocols.iter().map(|known| (&*known.name, &known.metadata)).eq(offered)
    }

    /// What it takes in memory of what it offers, about, as a request is counted.
    pub(super) fn bytes_offered(&self) -> usize {
        self.protocols.iter().map(|protocol| 128 + protocol.name.len() + protocol.metadata.len()).sum()
    }

    /// What it takes in memory, about. Its id is kept in several places.
    pub(super) fn bytes(&self, member_id: &str) -> usize {
        let protocols = self.protocols.iter().map(|protocol| protocol.name.len() + protocol.metadata.len());
        let instance_id = self.instance_id.as_ref().map_or(0, |id| id.len());
        let texts = 2 * member_id.len() + 2 * instance_id + self.client_id.len() + self.client_host.len();
        FIXED_BYTES + texts + protocols.sum::<usize>() + self.assignment.len()
    }
}
