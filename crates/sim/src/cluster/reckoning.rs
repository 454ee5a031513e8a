//! What must be so when everything is well again: all brokers run, every partition takes a write, every promise holds,
//! and all replicas have the same.

use std::collections::BTreeSet;
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
use crate::history::Partition;
use crate::producer::{Kind, Volume};

/// How long it may take after healing until everything goes on (invariant 13), in simulated time.
pub const PROGRESS: Duration = Duration::from_secs(30);

/// For how long a relaxed partition may be without a leader before an operator goes on with what is left of it.
const DECIDES_AFTER: Duration = Duration::from_secs(8);

/// All brokers run, and every partition but those that `did` takes a write, a relaxed one as soon as an operator has
/// decided about it where that is needed. False when not.
pub async fn makes_progress(
    machines: &Machines,
    scenario: &ClusterScenario,
    cluster: &Cluster,
    did: &mut BTreeSet<Partition>,
    name: &str,
) -> bool {
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
        if !did.insert(target.partition) {
            continue;
        }
        let deciding = async {
            if !cluster.shared.history().is_relaxed(target.partition) {
                return std::future::pending().await;
            }
            let mut has_none = false;
            loop {
                machines.runtime().sleep(DECIDES_AFTER).await;
                has_none = decide(&mut operator, &target, scenario.least_power_cuts(), has_none).await;
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
        // Some connections are so slow that all of it takes longer than one step may.
        let mut read = (0, i64::MAX);
        while read.0 < read.1 {
            let reading = read_leader(&mut router, &target, read.0);
            let Ok(further) = machines.runtime().timeout(PROGRESS, reading).await else { break };
            read = further;
        }
        let (position, end) = read;
        if position < end {
            cluster.shared.history().fail(format!("{partition}: its leader cannot be read in calm"));
            // What was asked last was not waited for.
            (1..=BROKERS).for_each(|broker| router.disconnect(broker));
            continue;
        }
        cluster.shared.history().read_whole(partition, 0, end);
        cluster.compare_acknowledged(partition);
        for broker in router.replicas(partition) {
            let mut position = 0;
            while position < end {
                let reading = read_replica(&mut router, &target, broker, position);
                match machines.runtime().timeout(PROGRESS, reading).await {
                    Ok(Some(next)) => position = next,
                    Ok(None) => break,
                    Err(_) => {
                        let text = format!("{partition}: broker {broker} has not all up to {end} in calm");
                        cluster.shared.history().fail(text);
                        // What was asked last was not waited for.
                        router.disconnect(broker);
                        break;
                    }
                }
            }
        }
    }
}

/// Reads on in a partition; gives the offset behind what was read and the high watermark, when either the first is
/// further or they are the same.
async fn read_leader(router: &mut Router, target: &Target, position: i64) -> (i64, i64) {
    loop {
        let Some(place) = router.place(target.partition) else {
            router.pause(0, 50).await;
            router.refresh().await;
            continue;
        };
        let wanted = [(target.clone(), position)];
        let found = fetch(router, place.leader, Asks::TheLeader, &wanted, 0).await;
        match found.and_then(|mut found| found.pop()) {
            Some((_, Ok(read))) if read.next >= read.high_watermark => {
                return (read.high_watermark, read.high_watermark);
            }
            Some((_, Ok(read))) if read.next > position => return (read.next, read.high_watermark),
            _ => {
                router.pause(10, 100).await;
                router.refresh().await;
            }
        }
    }
}

/// Reads on in a replica; gives the offset behind what was read, `None` for a broker that has none any more. What it
/// has must be what everybody else has read there.
async fn read_replica(router: &mut Router, target: &Target, broker: i32, position: i64) -> Option<i64> {
    loop {
        let wanted = [(target.clone(), position)];
        let found = fetch(router, broker, Asks::AReplica, &wanted, 100).await;
        match found.and_then(|mut found| found.pop()) {
            Some((_, Ok(read))) if read.next > position => return Some(read.next),
            _ => {
                router.pause(10, 100).await;
                router.refresh().await;
                // The metadata that it was found in may have been old.
                if !router.replicas(target.partition).contains(&broker) {
                    return None;
                }
            }
        }
    }
}
