//! What a leader sends to a replica that is lost, and for which it decides.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use millpond_record::{BrokerId, GroupId, LogId, RaftIndex, ReplicaId, Term};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::AppendEntriesRequest;

use super::network::{Node, simulated, start};
use crate::types::{Member, RaftVote, TypeConfig, to_raft};

const GROUP: GroupId = GroupId(1);
const LOST: ReplicaId = ReplicaId(2);

/// The first answer to a message without entries behind one of term 3, or the error; `None` if there is neither soon.
async fn answered(node: &Node, wait: Duration) -> Option<Result<u64, String>> {
    let mut network = node.peers.network(GROUP, ReplicaId(1));
    let mut client = network.new_client(LOST.0, &Member { broker: BrokerId(2), assignment_version: 1 }).await;
    let before = to_raft(LogId { term: Term(3), index: RaftIndex(7) });
    let vote = RaftVote::new_committed(3, 1);
    let request: AppendEntriesRequest<TypeConfig> =
        AppendEntriesRequest { vote, prev_log_id: Some(before), entries: Vec::new(), leader_commit: None };
    let messages = Box::pin(stream::iter([request]).chain(stream::pending()));
    let runtime = node.runtime.clone();
    let waiting = async move {
        let mut answers = client.stream_append(messages, RPCOption::new(Duration::from_secs(1))).await.expect("begun");
        let answer = answers.next().await.expect("it does not end");
        answer.map_err(|error| error.to_string()).map(|answer| answer.expect("taken").expect("an entry").index)
    };
    runtime.timeout(wait, waiting).await.ok()
}

#[test]
fn a_stream_that_waits_for_a_connection_ends_when_its_replica_is_decided_for_however_that_came() {
    simulated(1, |world| async move {
        let node = start(&world, 1, Some("mill")).await;
        let soon = Duration::from_secs(5);
        assert_eq!(answered(&node, soon).await, None, "it waits for the connection");
        let lost = BTreeMap::from([(LOST, BrokerId(2))]);
        // Its group has other members yet.
        assert!(node.peers.set_lost(GROUP, lost.clone()) && !node.peers.set_lost(GROUP, lost));
        assert_eq!(answered(&node, soon).await, None, "it is lost, and nobody decides for it");
        let (runtime, ears) = (node.runtime.clone(), node.ears.clone());
        node.runtime.spawn(async move {
            runtime.sleep(Duration::from_secs(2)).await;
            ears.stands_in.store(true, Ordering::Relaxed);
        });
        let ended = answered(&node, soon).await.expect("it ends").expect_err("what waited is begun anew");
        assert!(ended.contains("not waited for"), "{ended}");
        assert_eq!(answered(&node, soon).await, Some(Ok(7)), "it has what the leader has");
        node.ears.stands_in.store(false, Ordering::Relaxed);
        assert_eq!(answered(&node, soon).await, None, "it is waited for again");
    });
}
