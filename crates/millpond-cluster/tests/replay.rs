//! Applying records is deterministic: whole, batch by batch, from bytes or compacted, the image is the same.

use std::collections::{BTreeMap, BTreeSet};

use millpond_cluster::{
    DirectoryId, Image, MetadataRecord, NewTopic, Partition, Reassignment, Registration, TopicDefaults, TopicLimits,
    TopicReference, allocate_producer_ids, create_topics, decode_batch, decommission, delete_topics, drain,
    encode_batch, reassign_partitions, rebalance, register_broker, settle_partition,
};
use millpond_record::{BrokerId, PartitionIndex, ReplicaId, Timestamp, TopicId};
use proptest::prelude::*;

/// What a client or a broker may ask for.
#[derive(Clone, Debug)]
enum Request {
    Register { id: i32, port: u16, directory: u8 },
    Reassign { name: u8, target: Option<Vec<i32>> },
    Settle { name: u8 },
    Decommission { id: i32 },
    Drain,
    Rebalance,
    Create { names: Vec<u8>, partitions: i32, replication_factor: i16, retention_ms: Option<i64> },
    Delete { names: Vec<u8> },
    ProducerIds,
}

fn request() -> impl Strategy<Value = Request> {
    let names = prop::collection::vec(0u8..6, 1..4);
    prop_oneof![
        (1..5i32, 9000..9003u16, 0..2u8)
            .prop_map(|(id, port, directory)| { Request::Register { id, port, directory } }),
        (0u8..6, prop::option::of(prop::collection::vec(1..5i32, 1..4)))
            .prop_map(|(name, target)| Request::Reassign { name, target }),
        (0u8..6).prop_map(|name| Request::Settle { name }),
        (1..5i32).prop_map(|id| Request::Decommission { id }),
        Just(Request::Drain),
        Just(Request::Rebalance),
        (names.clone(), -1..5i32, -1..4i16, prop::option::of(-1..100i64)).prop_map(
            |(names, partitions, replication_factor, retention_ms)| {
                Request::Create { names, partitions, replication_factor, retention_ms }
            }
        ),
        names.prop_map(|names| Request::Delete { names }),
        Just(Request::ProducerIds),
    ]
}

/// Names of which some collide: t0, t.0, t_0, ...
fn name(number: u8) -> String {
    format!("t{}{}", ["", ".", "_"][usize::from(number % 3)], number / 3)
}

fn alive(image: &Image) -> BTreeSet<BrokerId> {
    image.brokers().map(|broker| broker.id).collect()
}

fn decide(image: &Image, request: &Request, ids: &mut u128) -> Vec<MetadataRecord> {
    match request {
        Request::Register { id, port, directory } => {
            let directory = DirectoryId([*id as u8 + 10 * directory; 16]);
            let (host, peer) = ("mill".to_owned(), format!("mill:{id}"));
            let broker = Registration {
                id: BrokerId(*id),
                host,
                port: *port,
                peer,
                directory,
                rack: None,
                metadata_replica: None,
            };
            register_broker(image, &broker, false).expect("a good registration").records
        }
        Request::Reassign { name: number, target } => {
            let target = target.as_ref().map(|brokers| brokers.iter().copied().map(BrokerId).collect());
            let wanted = Reassignment { topic: name(*number), partition: PartitionIndex(0), target };
            reassign_partitions(image, &[wanted], true).records
        }
        Request::Settle { name: number } => match image.topic(&name(*number)) {
            Some(topic) => {
                let Partition { index, group, assignment_version, .. } = topic.partitions[0];
                settle_partition(image, topic.id, index, group, assignment_version)
            }
            None => Vec::new(),
        },
        Request::Decommission { id } => decommission(image, BrokerId(*id), &alive(image)).unwrap_or_default(),
        Request::Drain => drain(image, &alive(image), &BTreeSet::new(), 3),
        Request::Rebalance => rebalance(image, &alive(image), 100),
        Request::Create { names, partitions, replication_factor, retention_ms } => {
            let configs = retention_ms.map(|ms| ("retention.ms".to_owned(), Some(ms.to_string())));
            let wanted: Vec<NewTopic> = names
                .iter()
                .map(|number| NewTopic {
                    name: name(*number),
                    partitions: *partitions,
                    replication_factor: *replication_factor,
                    assignments: Vec::new(),
                    configs: configs.clone().into_iter().collect(),
                })
                .collect();
            let mut random = || {
                *ids += 1;
                ids.to_be_bytes()
            };
            create_topics(
                image,
                &wanted,
                &alive(image),
                &TopicLimits::default(),
                &TopicDefaults::default(),
                &mut random,
            )
            .records
        }
        Request::Delete { names } => {
            let reference = |number: &u8| TopicReference { name: Some(name(*number)), id: TopicId::ZERO };
            delete_topics(image, &names.iter().map(reference).collect::<Vec<_>>()).records
        }
        Request::ProducerIds => allocate_producer_ids(image).expect("there are many").1,
    }
}

/// Keeps the last record of each key where it stands, as compaction does.
fn compact(records: &[MetadataRecord]) -> Vec<MetadataRecord> {
    let mut last: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
    for (at, record) in records.iter().enumerate() {
        last.insert(record.encode().0, at);
    }
    let mut kept: Vec<usize> = last.into_values().collect();
    kept.sort_unstable();
    kept.into_iter().map(|at| records[at].clone()).collect()
}

fn replay(records: &[MetadataRecord]) -> Image {
    Image::default().apply(records).expect("what was decided applies")
}

proptest! {
    #[test]
    fn the_same_records_give_the_same_image_however_they_come(requests in prop::collection::vec(request(), 1..40)) {
        let mut image = Image::default();
        let mut ids = 0;
        let mut log = Vec::new();
        let mut from_bytes = Image::default();
        for request in &requests {
            let records = decide(&image, request, &mut ids);
            if records.is_empty() {
                continue;
            }
            let batch = encode_batch(&records, Timestamp(1)).expect("small");
            let decoded = decode_batch(&batch).expect("readable");
            prop_assert_eq!(&decoded, &records);
            image = image.apply(&records).expect("what was decided applies");
            from_bytes = from_bytes.apply(&decoded).expect("what was decided applies");
            log.extend(records);
        }
        prop_assert_eq!(&replay(&log), &image, "all at once");
        prop_assert_eq!(&replay(&log), &replay(&log), "twice");
        prop_assert_eq!(&from_bytes, &image, "from bytes");
        let one_by_one = log.iter().fold(Image::default(), |image, record| {
            image.apply(std::slice::from_ref(record)).expect("what was decided applies")
        });
        prop_assert_eq!(&one_by_one, &image, "one by one");
        let partitions: usize = image.topics().map(|topic| topic.partitions.len()).sum();
        prop_assert_eq!(image.partition_count(), partitions as u64);

        let mut ids: BTreeMap<ReplicaId, BrokerId> = BTreeMap::new();
        for replica in image.topics().flat_map(|topic| &topic.partitions).flat_map(Partition::all_replicas) {
            prop_assert!(ids.insert(replica.id, replica.broker).is_none(), "{} is used twice", replica.id);
            prop_assert!(replica.id < image.next_replica());
        }

        // Compaction may move the feature level behind other records, but never away.
        let mut compacted = compact(&log);
        if let Some(first) = log.first() {
            compacted.retain(|record| record != first);
            compacted.insert(0, first.clone());
            prop_assert_eq!(&replay(&compacted), &image, "compacted");
        }
    }

    #[test]
    fn arbitrary_bytes_are_an_error_and_never_a_panic(key: Vec<u8>, value: Option<Vec<u8>>) {
        let _ = MetadataRecord::decode(&key, value.as_deref());
        let _ = decode_batch(&key);
    }
}
