//! Where a group is kept: which partition of `__consumer_offsets` has it, and how that topic comes to be.

use std::sync::Arc;
use std::time::Duration;

use millpond_cluster::{NewTopic, OFFSETS_TOPIC_NAME, TopicError};
use millpond_record::PartitionIndex;
use tracing::{info, warn};

use crate::broker::Shared;
use crate::metadata::Snapshot;

/// Partitions of `__consumer_offsets`, as Kafka has by default (`offsets.topic.num.partitions`).
const PARTITIONS: i32 = 50;
/// How long a client waits for the topic; it then asks again.
const PATIENCE: Duration = Duration::from_secs(10);

/// The partition that keeps a group, as in Kafka (`GroupCoordinatorService.partitionFor`): Java's `String.hashCode` of
/// its id, without its sign, modulo the partitions. The sign of the lowest number cannot be taken off: it counts as 0.
pub(crate) fn partition_of(group: &str, partitions: usize) -> PartitionIndex {
    let hash = group.encode_utf16().fold(0_i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)));
    let positive = hash.checked_abs().unwrap_or(0);
    PartitionIndex(positive % i32::try_from(partitions).unwrap_or(i32::MAX).max(1))
}

/// A snapshot that serves `__consumer_offsets`, which is made if it is not there; then its partitions have leaders,
/// too, if they get them in time. `None` if it cannot be made now; the broker's log says why.
pub(crate) async fn offsets_topic(shared: &Shared, snapshot: &Arc<Snapshot>) -> Option<Arc<Snapshot>> {
    let deadline = shared.runtime.now() + PATIENCE;
    if snapshot.topic(OFFSETS_TOPIC_NAME).is_some() {
        return Some(Arc::clone(snapshot));
    }
    if snapshot.image.topic(OFFSETS_TOPIC_NAME).is_none() {
        match shared.controller.create_topics(vec![new_topic()]).await {
            Ok(created) => match created.decision.results.first() {
                Some(Ok(topic)) => info!(topic = topic.name, partitions = topic.partitions.len(), "topic created"),
                // Somebody else was first.
                Some(Err(TopicError::Exists(_))) | None => {}
                Some(Err(error)) => {
                    warn!(topic = OFFSETS_TOPIC_NAME, "not created: {error}");
                    return None;
                }
            },
            Err(error) => {
                warn!(topic = OFFSETS_TOPIC_NAME, "not created: {error}");
                return None;
            }
        }
    }
    let made = shared.runtime.timeout_at(deadline, shared.metadata.serving(OFFSETS_TOPIC_NAME)).await.ok()?;
    if let Some(served) = made.topic(OFFSETS_TOPIC_NAME) {
        let topics = [(served.topic.id, PartitionIndex(0))];
        // A group whose partition has no leader by then is told so.
        let _ = shared.runtime.timeout_at(deadline, shared.leadership.led(&made, &topics)).await;
    }
    Some(made)
}

/// As Kafka makes it. What was committed must survive a power loss, whatever the default for topics is.
const CONFIGS: [(&str, &str); 4] = [
    ("cleanup.policy", "compact"),
    ("compression.type", "producer"),
    ("millpond.flush", "durable"),
    ("segment.bytes", "104857600"),
];

fn new_topic() -> NewTopic {
    as_offsets_topic(NewTopic {
        name: OFFSETS_TOPIC_NAME.to_owned(),
        partitions: -1,
        replication_factor: -1,
        assignments: Vec::new(),
        configs: Vec::new(),
    })
}

/// What is left open of a topic that is to be `__consumer_offsets`: the number of its partitions never changes, and
/// what it keeps must not go with the retention that topics have by default.
pub(crate) fn as_offsets_topic(mut wanted: NewTopic) -> NewTopic {
    if wanted.partitions == -1 && wanted.assignments.is_empty() {
        wanted.partitions = PARTITIONS;
    }
    for (name, value) in CONFIGS {
        if !wanted.configs.iter().any(|(given, _)| given == name) {
            wanted.configs.push((name.to_owned(), Some(value.to_owned())));
        }
    }
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_makes_the_offsets_topic_leaves_nothing_to_the_defaults_of_topics() {
        let asked = |partitions, configs: &[(&str, &str)]| NewTopic {
            name: OFFSETS_TOPIC_NAME.to_owned(),
            partitions,
            replication_factor: -1,
            configs: configs.iter().map(|&(name, value)| (name.to_owned(), Some(value.to_owned()))).collect(),
            ..NewTopic::default()
        };
        let made = as_offsets_topic(asked(-1, &[]));
        assert_eq!((made.partitions, made.configs.len()), (50, 4));
        let made = as_offsets_topic(asked(7, &[("segment.bytes", "1000000")]));
        assert_eq!(made.partitions, 7);
        assert_eq!(made.configs[0], ("segment.bytes".to_owned(), Some("1000000".to_owned())));
        assert!(made.configs.len() == 4 && made.configs[1].0 == "cleanup.policy");
        let spread = NewTopic { assignments: vec![(PartitionIndex(0), Vec::new())], ..asked(-1, &[]) };
        assert_eq!(as_offsets_topic(spread).partitions, -1, "the assignments say how many");
    }

    #[test]
    fn groups_are_where_kafka_has_them() {
        // The hash codes are Java's.
        for (group, hash, of_50, of_7) in [
            ("", 0, 0, 0),
            ("a", 97, 47, 6),
            ("hello", 99_162_322, 22, 0),
            ("test-consumer-group", -1_793_216_381, 31, 5),
            ("console-consumer-12345", 158_455_506, 6, 6),
            ("polygenelubricants", i32::MIN, 0, 0),
            ("ümlaut", -1_271_410_363, 13, 6),
            ("😀 group", -1_570_619_006, 6, 5),
            ("connect-cluster", 1_440_343_063, 13, 5),
        ] {
            assert_eq!(partition_of(group, 50), PartitionIndex(of_50), "{group:?}, whose hash code is {hash}");
            assert_eq!(partition_of(group, 7), PartitionIndex(of_7), "{group:?}, whose hash code is {hash}");
            assert_eq!(partition_of(group, 1), PartitionIndex(0));
        }
    }
}
