//! Which broker gets which replica of a new topic.
//!
//! Partition p starts at broker (start + p) in the order of ids and takes the following brokers for its other
//! replicas, so that leaders and replicas are spread evenly and neighbouring topics start at different brokers.

use millpond_record::BrokerId;

/// The brokers of every partition's replicas, the preferred leader first.
///
/// `brokers` is in order of ids; `replicas` is between 1 and its length.
pub(crate) fn spread(brokers: &[BrokerId], start: u64, partitions: u32, replicas: usize) -> Vec<Vec<BrokerId>> {
    debug_assert!((1..=brokers.len()).contains(&replicas), "the caller checks the replication factor");
    let start = (start % brokers.len() as u64) as usize;
    let partition = |first: usize| brokers.iter().cycle().skip(first).take(replicas).copied().collect();
    (0..partitions as usize).map(|index| partition((start + index) % brokers.len())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaders_and_replicas_are_spread_evenly_over_the_brokers() {
        let brokers = [1, 2, 3, 4].map(BrokerId);
        let placed = spread(&brokers, 6, 8, 3);
        for broker in brokers {
            assert_eq!(placed.iter().filter(|replicas| replicas[0] == broker).count(), 2);
            assert_eq!(placed.iter().filter(|replicas| replicas.contains(&broker)).count(), 6);
        }
        assert_eq!(placed[0], [3, 4, 1].map(BrokerId));
    }
}
