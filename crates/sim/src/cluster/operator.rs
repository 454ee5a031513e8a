//! Moves leaders and replicas about while everything else goes wrong.

use millpond_wire::alter_partition_reassignments::{
    AlterPartitionReassignmentsRequest, ReassignablePartition, ReassignableTopic,
};
use millpond_wire::elect_leaders::{ElectLeadersRequest, TopicPartitions};
use millpond_wire::list_partition_reassignments::ListPartitionReassignmentsRequest;
use millpond_wire::{ErrorCode, Str};

use super::router::Router;
use super::scenario::{BROKERS, Chores};
use crate::consumer::{Target, targets};

/// `kafka-leader-election --election-type preferred`, and `unclean`.
const PREFERRED: i8 = 0;
const UNCLEAN: i8 = 1;

/// Does chores until the run winds down.
pub async fn operate(mut router: Router, chores: Chores) {
    while chores != Chores::None && !router.cluster.shared.is_winding_down() {
        router.pause(100, 3_000).await;
        let all = targets(&router.cluster.shared.history());
        if all.is_empty() {
            continue;
        }
        let target = all[router.rng.index(all.len())].clone();
        if router.rng.chance(0.5) {
            let unclean = router.rng.chance(0.05);
            elect(&mut router, &target, if unclean { UNCLEAN } else { PREFERRED }).await;
        } else {
            reassign(&mut router, &target, chores).await;
        }
    }
}

/// Goes on with what is left of a relaxed partition, all of whose brokers run, if enough of them lost power. Where they
/// did not it is to have a leader, and may be slow: its disk may still be at what it took in before calm. Gives whether
/// it has none; twice in a row is a failure.
pub async fn decide(router: &mut Router, target: &Target, least_power_cuts: usize, had_none: bool) -> bool {
    // What was asked last may not have been waited for.
    (1..=BROKERS).for_each(|broker| router.disconnect(broker));
    let cuts = router.cluster.power_cuts();
    if cuts >= least_power_cuts {
        elect(router, target, UNCLEAN).await;
        return false;
    }
    let has_none = is_leaderless(router, target).await;
    if has_none && had_none {
        let text = format!("{}: has no leader, though only {cuts} machines lost power", target.partition);
        router.fail(text);
    }
    has_none
}

/// Whether the cluster says that nobody leads a partition.
async fn is_leaderless(router: &mut Router, target: &Target) -> bool {
    let Some(response) = router.refresh().await else { return false };
    let topic = response.topics.iter().find(|topic| topic.topic_id == target.partition.topic);
    let found = topic.and_then(|t| t.partitions.iter().find(|p| p.partition_index == target.partition.index));
    found.is_some_and(|found| found.leader_id < 0)
}

/// What has a leader by an unclean election of a relaxed partition may lack what was promised; of a durable one it
/// lacks nothing.
async fn elect(router: &mut Router, target: &Target, election_type: i8) {
    let risks = election_type == UNCLEAN && router.cluster.shared.history().is_relaxed(target.partition);
    let given_up = risks.then(|| router.cluster.shared.history().give_up(target.partition));
    if risks {
        router.note(&format!("{}: is given up", target.partition));
    }
    let topic = TopicPartitions { topic: Str::from(target.topic.as_str()), partitions: vec![target.partition.index] };
    let request = ElectLeadersRequest { election_type, topic_partitions: Some(vec![topic]), timeout_ms: 3_000 };
    let (broker, version) = (router.any(), router.rng.pick(&[1, 2]));
    let Some(response) = router.call(broker, version, &request).await else { return };
    let code = ErrorCode(response.error_code);
    judge(router, "an election", target, code);
    // Both are answered before anybody is trusted: there was no controller, or the partition is led and whole.
    let mut was_needless = code == ErrorCode::NOT_CONTROLLER;
    for result in response.replica_election_results.iter().flat_map(|topic| &topic.partition_result) {
        let code = ErrorCode(result.error_code);
        judge(router, "an election", target, code);
        was_needless |= code == ErrorCode::ELECTION_NOT_NEEDED;
    }
    if let Some(given_up) = given_up.filter(|_| was_needless) {
        router.note(&format!("{}: nothing is given up", target.partition));
        router.cluster.shared.history().keep(given_up);
    }
}

/// Gives a partition other replicas, or the same in another order; now and then takes the last such wish back.
async fn reassign(router: &mut Router, target: &Target, chores: Chores) {
    let replicas = (!router.rng.chance(0.15)).then(|| {
        let mut all: Vec<i32> = (1..=BROKERS).collect();
        let first = router.rng.index(all.len());
        all.rotate_left(first);
        if router.rng.chance(0.5) {
            all[1..].reverse();
        }
        // What only one machine has may be lost with its page cache.
        let least = if router.cluster.shared.history().is_relaxed(target.partition) { 2 } else { 1 };
        if chores == Chores::Moves {
            all.truncate(router.rng.between(least, BROKERS as u64) as usize);
        }
        all
    });
    router.note(&format!("{}: replicas {replicas:?} are asked for", target.partition));
    let partition = ReassignablePartition { partition_index: target.partition.index, replicas };
    let topic = ReassignableTopic { name: Str::from(target.topic.as_str()), partitions: vec![partition] };
    let request = AlterPartitionReassignmentsRequest { timeout_ms: 3_000, topics: vec![topic], ..Default::default() };
    let (broker, version) = (router.any(), router.rng.pick(&[0, 1]));
    let Some(response) = router.call(broker, version, &request).await else { return };
    judge(router, "a reassignment", target, ErrorCode(response.error_code));
    for result in response.responses.iter().flat_map(|topic| &topic.partitions) {
        judge(router, "a reassignment", target, ErrorCode(result.error_code));
    }
}

/// What may be answered while brokers come and go.
fn judge(router: &Router, what: &str, target: &Target, code: ErrorCode) {
    let expected = [
        ErrorCode::NONE,
        ErrorCode::ELECTION_NOT_NEEDED,
        ErrorCode::PREFERRED_LEADER_NOT_AVAILABLE,
        ErrorCode::ELIGIBLE_LEADERS_NOT_AVAILABLE,
        ErrorCode::NO_REASSIGNMENT_IN_PROGRESS,
        // Not all brokers are registered yet.
        ErrorCode::INVALID_REPLICA_ASSIGNMENT,
    ];
    if !expected.contains(&code) && !code.is_retriable() {
        router.fail(format!("{}: {what} is answered with {code}", target.partition));
    } else if code != ErrorCode::NONE {
        router.note(&format!("{}: {what} is answered with {code}", target.partition));
    }
}

/// Waits until no replica is on the move.
pub async fn settled(router: &mut Router) {
    loop {
        let request = ListPartitionReassignmentsRequest { timeout_ms: 3_000, topics: None };
        let broker = router.any();
        if let Some(response) = router.call(broker, 0, &request).await
            && ErrorCode(response.error_code) == ErrorCode::NONE
            && response.topics.is_empty()
        {
            return;
        }
        router.pause(50, 200).await;
    }
}
