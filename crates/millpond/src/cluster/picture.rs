//! A cluster at one moment, put together from what its brokers answer.

use std::collections::{BTreeMap, BTreeSet};

use millpond_client::{
    ClusterDescription, Error, Outcomes, QuorumDescription, QuorumReplica, Reassignment, TopicDescription,
    TopicPartition,
};
use serde::Serialize;

/// What `millpond cluster status --json` prints. Fields are added, never renamed.
#[derive(Debug, Serialize, PartialEq, Eq)]
pub(super) struct Picture {
    pub(super) cluster_id: Option<String>,
    /// The leader of the metadata quorum where that is known, else whom the brokers name.
    pub(super) controller: Option<i32>,
    pub(super) brokers: Vec<Broker>,
    pub(super) quorum: Option<Quorum>,
    pub(super) topics: usize,
    pub(super) partitions: usize,
    pub(super) without_leader: Vec<Partition>,
    pub(super) under_replicated: Vec<Partition>,
    /// `None` when the cluster does not tell.
    pub(super) moving: Option<Vec<Move>>,
}

#[derive(Debug, Serialize, PartialEq, Eq)]
pub(super) struct Broker {
    pub(super) id: i32,
    /// `HOST:PORT`; `None` for one that is only known by its replicas or its vote.
    pub(super) address: Option<String>,
    pub(super) rack: Option<String>,
    pub(super) alive: bool,
    pub(super) leaders: usize,
    pub(super) replicas: usize,
    /// `leader`, `voter` or `observer`; `None` for one that does not keep the metadata.
    pub(super) metadata: Option<&'static str>,
    /// In entries of the metadata log; `None` when it is not known.
    pub(super) metadata_lag: Option<i64>,
}

#[derive(Debug, Serialize, PartialEq, Eq)]
pub(super) struct Quorum {
    pub(super) leader: Option<i32>,
    pub(super) epoch: i32,
    pub(super) high_watermark: i64,
    pub(super) voters: Vec<i32>,
    pub(super) observers: Vec<i32>,
}

#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub(super) struct Partition {
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) leader: Option<i32>,
    pub(super) replicas: Vec<i32>,
    pub(super) in_sync: Vec<i32>,
}

#[derive(Debug, Serialize, PartialEq, Eq)]
pub(super) struct Move {
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) replicas: Vec<i32>,
    pub(super) adding: Vec<i32>,
    pub(super) removing: Vec<i32>,
}

impl Picture {
    /// Puts the answers together. A topic that went away between the questions is left out.
    pub(super) fn new(
        cluster: &ClusterDescription,
        quorum: Option<&QuorumDescription>,
        topics: Outcomes<String, TopicDescription>,
        moves: Option<BTreeMap<TopicPartition, Reassignment>>,
    ) -> Result<Picture, Error> {
        let mut partitions = Vec::new();
        let mut found = 0;
        for topic in topics.into_values() {
            let topic = match topic {
                Ok(topic) => topic,
                Err(error) if error.code() == Some(millpond_client::ErrorCode::UNKNOWN_TOPIC_OR_PARTITION) => continue,
                Err(error) => return Err(error),
            };
            found += 1;
            partitions.extend(topic.partitions.iter().map(|partition| Partition {
                topic: topic.name.clone(),
                partition: partition.partition,
                leader: partition.leader,
                replicas: partition.replicas.clone(),
                in_sync: partition.in_sync.clone(),
            }));
        }
        let is_short = |of: &&Partition| of.replicas.iter().any(|replica| !of.in_sync.contains(replica));
        Ok(Picture {
            cluster_id: cluster.id.clone(),
            controller: quorum.and_then(|quorum| quorum.leader).or(cluster.controller),
            brokers: brokers(cluster, quorum, &partitions),
            quorum: quorum.map(Quorum::new),
            topics: found,
            without_leader: partitions.iter().filter(|partition| partition.leader.is_none()).cloned().collect(),
            under_replicated: partitions.iter().filter(is_short).cloned().collect(),
            partitions: partitions.len(),
            moving: moves.map(|moves| moves.into_iter().map(Move::new).collect()),
        })
    }
}

impl Quorum {
    fn new(quorum: &QuorumDescription) -> Quorum {
        let ids = |replicas: &[QuorumReplica]| replicas.iter().map(|replica| replica.id).collect();
        Quorum {
            leader: quorum.leader,
            epoch: quorum.leader_epoch,
            high_watermark: quorum.high_watermark,
            voters: ids(&quorum.voters),
            observers: ids(&quorum.observers),
        }
    }
}

impl Move {
    fn new((of, moving): (TopicPartition, Reassignment)) -> Move {
        Move {
            topic: of.topic,
            partition: of.partition,
            replicas: moving.replicas,
            adding: moving.adding,
            removing: moving.removing,
        }
    }
}

/// Every broker that anything speaks of: also one that is gone and still holds replicas or a vote.
fn brokers(cluster: &ClusterDescription, quorum: Option<&QuorumDescription>, partitions: &[Partition]) -> Vec<Broker> {
    let members = || quorum.into_iter().flat_map(|quorum| quorum.voters.iter().chain(&quorum.observers));
    let mut ids: BTreeSet<i32> = cluster.brokers.iter().map(|broker| broker.id).collect();
    ids.extend(members().map(|member| member.id));
    let (mut leaders, mut replicas) = (BTreeMap::<i32, usize>::new(), BTreeMap::<i32, usize>::new());
    for partition in partitions {
        if let Some(leader) = partition.leader {
            *leaders.entry(leader).or_default() += 1;
        }
        for replica in &partition.replicas {
            *replicas.entry(*replica).or_default() += 1;
        }
    }
    ids.extend(replicas.keys());
    let broker = |id: i32| {
        let known = cluster.brokers.iter().find(|broker| broker.id == id);
        let votes = |quorum: &QuorumDescription| quorum.voters.iter().any(|voter| voter.id == id);
        let member = members().find(|member| member.id == id);
        Broker {
            id,
            address: known.and_then(|broker| Some(broker.address.as_ref()?.to_string())),
            rack: known.and_then(|broker| broker.rack.clone()),
            alive: known.is_some_and(|broker| !broker.is_fenced),
            leaders: leaders.get(&id).copied().unwrap_or(0),
            replicas: replicas.get(&id).copied().unwrap_or(0),
            metadata: member.and(quorum).map(|quorum| match quorum.leader == Some(id) {
                true => "leader",
                false if votes(quorum) => "voter",
                false => "observer",
            }),
            metadata_lag: quorum.zip(member).and_then(|(quorum, member)| quorum.lag(member)),
        }
    };
    ids.into_iter().map(broker).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use millpond_client::{BrokerDescription, PartitionDescription};

    fn cluster() -> ClusterDescription {
        let broker = |id, is_fenced| BrokerDescription {
            id,
            address: Some(format!("127.0.0.1:{}", 9000 + id).parse().expect("an address")),
            rack: None,
            is_fenced,
        };
        let brokers = vec![broker(1, false), broker(2, true)];
        ClusterDescription { id: Some("c".into()), controller: Some(2), brokers }
    }

    fn topics() -> Outcomes<String, TopicDescription> {
        let partition = |partition, leader, replicas: &[i32], in_sync: &[i32]| PartitionDescription {
            partition,
            leader,
            leader_epoch: None,
            replicas: replicas.to_vec(),
            in_sync: in_sync.to_vec(),
            offline: Vec::new(),
        };
        let partitions = vec![
            partition(0, Some(1), &[1, 2], &[1, 2]),
            partition(1, Some(1), &[2, 1], &[1]),
            partition(2, None, &[7], &[]),
        ];
        let topic = TopicDescription { name: "logs".into(), id: None, is_internal: false, partitions };
        let gone = Error::Refused {
            what: String::new(),
            code: millpond_client::ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
            message: None,
        };
        Outcomes::from([("logs".to_owned(), Ok(topic)), ("gone".to_owned(), Err(gone))])
    }

    #[test]
    fn a_picture_counts_leaders_and_replicas_and_finds_what_is_wrong() {
        let replica = |id, log_end| QuorumReplica { id, log_end: Some(log_end), caught_up_ms: None };
        let quorum = QuorumDescription {
            leader: Some(1),
            leader_epoch: 4,
            high_watermark: 10,
            voters: vec![replica(1, 12), replica(2, 9)],
            observers: vec![replica(5, 12)],
        };
        let picture = Picture::new(&cluster(), Some(&quorum), topics(), None).expect("a topic that went away is none");
        assert_eq!((picture.controller, picture.topics, picture.partitions), (Some(1), 1, 3));
        let brokers: Vec<_> = picture
            .brokers
            .iter()
            .map(|broker| {
                (broker.id, broker.alive, broker.leaders, broker.replicas, broker.metadata, broker.metadata_lag)
            })
            .collect();
        assert_eq!(
            brokers,
            [
                (1, true, 2, 2, Some("leader"), Some(0)),
                (2, false, 0, 2, Some("voter"), Some(3)),
                (5, false, 0, 0, Some("observer"), Some(0)),
                (7, false, 0, 1, None, None),
            ]
        );
        let numbers = |partitions: &[Partition]| partitions.iter().map(|of| of.partition).collect::<Vec<_>>();
        assert_eq!(numbers(&picture.without_leader), [2]);
        assert_eq!(numbers(&picture.under_replicated), [1, 2]);
    }

    #[test]
    fn a_cluster_that_does_not_tell_of_its_quorum_has_the_controller_that_its_brokers_name() {
        let picture = Picture::new(&cluster(), None, Outcomes::new(), None).expect("nothing is wrong");
        assert_eq!((picture.controller, picture.quorum.is_none()), (Some(2), true));
        assert!(picture.brokers.iter().all(|broker| broker.metadata.is_none()));
    }
}
