//! Before a broker stops it hands what it leads to brokers that go on: clients need not wait until it is missed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use millpond_raft::{GroupMember, Partition};
use millpond_record::BrokerId;
use tracing::{debug, info};

use crate::broker::Shared;

/// What all of it may take. What is left then is missed when the broker is gone.
const HAND_OVER_TIME: Duration = Duration::from_secs(5);
/// How much longer a broker answers that handed something over. Its clients hear where to go, ask for metadata, and
/// connect there. One that loses the connection first waits for its reconnect back-off, tens of milliseconds to
/// seconds, before it can even ask where the leader is now.
const FAREWELL: Duration = Duration::from_millis(300);
/// Partitions that are handed over at once, at least: each takes no writes meanwhile, and they share disks and cores.
/// Where those are busy more make the pause of each longer and all of it no shorter, measured with 1,000 partitions on
/// two cores.
const AT_ONCE: usize = 4;
/// Where disks or the network are slow the time is spent waiting, and so many partitions need another place to be done
/// within [`HAND_OVER_TIME`], at 40 ms each.
const PARTITIONS_PER_PLACE: usize = 100;

/// Hands over the partitions that this broker leads, and the office of the controller, as far as others can take them,
/// and stays until clients have heard of it.
pub(crate) async fn hand_over(shared: &Arc<Shared>) {
    let others: BTreeSet<BrokerId> = {
        let alive = shared.controller.alive();
        alive.iter().copied().filter(|broker| *broker != shared.node).collect()
    };
    if others.is_empty() || shared.has_failed() {
        return;
    }
    let handed = shared.runtime.timeout(HAND_OVER_TIME, async {
        let handed = hand_over_partitions(shared, &others).await;
        if shared.controller.is_here()
            && let Some(to) = successor(&shared.metadata_group.members(), &others)
            && let Err(error) = shared.metadata_group.transfer(to).await
        {
            debug!("the controller's office is not handed over: {error}");
        }
        handed
    });
    match handed.await {
        Ok(0) => return,
        Ok(partitions) => info!(partitions, "handed over to other brokers"),
        Err(_) => info!("not everything was handed over in time"),
    }
    shared.runtime.sleep(FAREWELL).await;
    // The controller, which does not know that this broker stops, may have given preferred leaderships back to it.
    let again = hand_over_partitions(shared, &others);
    let _ = shared.runtime.timeout(FAREWELL, again).await;
}

/// Hands over the partitions that are led here, and says how many that were.
async fn hand_over_partitions(shared: &Shared, others: &BTreeSet<BrokerId>) -> usize {
    let led = shared.groups.partitions().into_iter().filter_map(|group| shared.groups.partition(group));
    let led: Vec<Partition> = led.filter(|partition| partition.is_replicated() && partition.leads()).collect();
    let at_once = at_once(led.len());
    let handed = stream::iter(led).map(|partition| hand_over_partition(partition, others));
    handed.buffer_unordered(at_once).filter(|done| std::future::ready(*done)).count().await
}

/// How many of so many partitions are handed over at once.
fn at_once(led: usize) -> usize {
    led.div_ceil(PARTITIONS_PER_PLACE).max(AT_ONCE)
}

async fn hand_over_partition(partition: Partition, others: &BTreeSet<BrokerId>) -> bool {
    let Some(to) = successor(&partition.progress(), others) else { return false };
    match partition.transfer(to).await {
        Ok(()) => true,
        Err(error) => {
            debug!("a partition is not handed over: {error}");
            false
        }
    }
}

/// Of the voters on these brokers the one whose log goes furthest.
fn successor(members: &[GroupMember], brokers: &BTreeSet<BrokerId>) -> Option<BrokerId> {
    let candidates = members.iter().filter(|member| member.voter && brokers.contains(&member.broker));
    // Of equals the one that is named first, which is preferred.
    candidates.rev().max_by_key(|member| member.matched).map(|member| member.broker)
}

#[cfg(test)]
mod tests {
    use millpond_record::{RaftIndex, ReplicaId};

    use super::*;

    #[test]
    fn places_to_hand_over_grow_with_what_is_led() {
        let expected = [(0, 4), (1, 4), (400, 4), (401, 5), (10_000, 100)];
        for (led, places) in expected {
            assert_eq!(at_once(led), places, "{led} led");
            assert!(led as u32 * Duration::from_millis(40) <= HAND_OVER_TIME * places as u32);
        }
    }

    #[test]
    fn the_successor_votes_is_alive_and_has_most_of_the_log() {
        let member = |broker, voter, matched: Option<u64>| GroupMember {
            replica: ReplicaId(broker as u64),
            broker: BrokerId(broker),
            voter,
            matched: matched.map(RaftIndex),
        };
        let members =
            [member(1, true, Some(9)), member(2, true, Some(7)), member(3, true, Some(8)), member(4, false, Some(9))];
        let of = |brokers: &[i32]| successor(&members, &brokers.iter().copied().map(BrokerId).collect());
        assert_eq!(of(&[2, 3, 4]), Some(BrokerId(3)));
        assert_eq!(of(&[2, 4]), Some(BrokerId(2)));
        assert_eq!(of(&[4]), None);
        let equal = [member(2, true, Some(7)), member(3, true, Some(7))];
        assert_eq!(successor(&equal, &[2, 3].map(BrokerId).into()), Some(BrokerId(2)));
    }
}
