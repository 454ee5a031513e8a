//! What must be so when everything is well again: all brokers run, every partition takes a write, every promise holds,
//! and all replicas have the same.

use std::time::Duration;

use millpond_runtime::sim::NodeId;

use super::claims::Cluster;
use super::consumer::{Asks, fetch};
use super::machines::Machines;
use super::operator::{decide, settled};
use super::producer::Producer;
use super::router::Router;
use super::scenario::{BROKERS, ClusterScenario};
use crate::consumer::{Target, targets};
use crate::producer::{Kind, Volume};

/// How long it may take after healing until everything goes on (invariant 13), in simulated time.
pub const PROGRESS: Duration = Duration::from_secs(30);

/// For how long a relaxed partition may be without a leader before an operator goes on with what is left of it.
const DECIDES_AFTER: Duration = Duration::from_secs(8);

/// All brokers run, and every partition takes a write, a relaxed one as soon as an operator has decided about it where
/// that is needed. False when not.
pub async fn makes_progress(machines: &Machines, scenario: &ClusterScenario, cluster: &Cluster, name: &str) -> bool {
    for broker in 1..=BROKERS {
        if !machines.started(broker, PROGRESS).await {
            cluster.shared.history().fail(format!("broker {broker} has not started after {} s", PROGRESS.as_secs()));
            return false;
        }
    }
    let volume = Volume { batch_records: 1, record_bytes: 20, uniform: false, pause_ms: 0 };
    let mut writer =
        Producer::new(Router::new(cluster, NodeId(30), format!("{name}-writer")), Kind::Idempotent, volume);
    let mut operator = Router::new(cluster, NodeId(33), format!("{name}-decider"));
    // Not in the loop's head, where the history would stay locked.
    let all = targets(&cluster.shared.history());
    for target in all {
        let deciding = async {
            if !cluster.shared.history().is_relaxed(target.partition) {
                return std::future::pending().await;
            }
            loop {
                machines.runtime().sleep(DECIDES_AFTER).await;
                decide(&mut operator, &target, scenario.least_power_cuts(&target.topic)).await;
            }
        };
        let written = async {
            tokio::select! {
                biased;
                () = writer.write(&target, 1) => {}
                () = deciding => {}
            }
        };
        if machines.runtime().timeout(PROGRESS, written).await.is_err() {
            let seconds = PROGRESS.as_secs();
            let text = format!("{} takes no write within {seconds} s of calm", target.partition);
            cluster.shared.history().fail(text);
            return false;
        }
    }
    true
}

/// Every replica is where the metadata says that it should be. False when not.
pub async fn comes_to_rest(machines: &Machines, cluster: &Cluster, name: &str) -> bool {
    let mut router = Router::new(cluster, NodeId(32), format!("{name}-operator"));
    if machines.runtime().timeout(PROGRESS, settled(&mut router)).await.is_err() {
        let seconds = PROGRESS.as_secs();
        cluster.shared.history().fail(format!("replicas are on the move after {seconds} s of calm"));
        return false;
    }
    true
}

/// Compares all that there is with all that was promised, on every replica.
pub async fn reckon(machines: &Machines, cluster: &Cluster, name: &str) {
    let mut router = Router::new(cluster, NodeId(31), name.to_owned());
    // Not in the loop's head, where the history would stay locked.
    let all = targets(&cluster.shared.history());
    for target in all {
        let Target { partition, .. } = target;
        let reading = read_leader(&mut router, &target);
        let Ok(end) = machines.runtime().timeout(PROGRESS, reading).await else {
            cluster.shared.history().fail(format!("{partition}: its leader cannot be read in calm"));
            continue;
        };
        cluster.shared.history().read_whole(partition, 0, end);
        cluster.compare_acknowledged(partition);
        for broker in router.replicas(partition) {
            let reading = read_replica(&mut router, &target, broker, end);
            if machines.runtime().timeout(PROGRESS, reading).await.is_err() {
                let text = format!("{partition}: broker {broker} has not all up to {end} in calm");
                cluster.shared.history().fail(text);
            }
        }
    }
}

/// Reads a partition from its start to its high watermark, which it gives.
async fn read_leader(router: &mut Router, target: &Target) -> i64 {
    let mut position = 0;
    loop {
        let Some(place) = router.place(target.partition) else {
            router.pause(0, 50).await;
            router.refresh().await;
            continue;
        };
        let wanted = [(target.clone(), position)];
        let found = fetch(router, place.leader, Asks::TheLeader, &wanted, 0).await;
        match found.and_then(|mut found| found.pop()) {
            Some((_, Ok(read))) if read.next >= read.high_watermark => return read.high_watermark,
            Some((_, Ok(read))) => position = read.next,
            _ => {
                router.pause(10, 100).await;
                router.refresh().await;
            }
        }
    }
}

/// Reads a replica from its start to `end`. What it has must be what everybody else has read there.
async fn read_replica(router: &mut Router, target: &Target, broker: i32, end: i64) {
    let mut position = 0;
    while position < end {
        let wanted = [(target.clone(), position)];
        let found = fetch(router, broker, Asks::AReplica, &wanted, 100).await;
        match found.and_then(|mut found| found.pop()) {
            Some((_, Ok(read))) if read.next > position => position = read.next,
            _ => {
                router.pause(10, 100).await;
                router.refresh().await;
                // The metadata that it was found in may have been old.
                if !router.replicas(target.partition).contains(&broker) {
                    return;
                }
            }
        }
    }
}
