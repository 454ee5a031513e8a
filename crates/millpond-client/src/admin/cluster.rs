//! The cluster itself: its brokers, its controller, the quorum that keeps its metadata.

use millpond_wire::describe_cluster::{DescribeClusterRequest, DescribeClusterResponse};
use millpond_wire::describe_quorum::{
    DescribeQuorumRequest, DescribeQuorumResponse, ReplicaState, RequestPartitionData, RequestTopicData,
};
use millpond_wire::metadata::MetadataResponse;
use millpond_wire::unregister_broker::{UnregisterBrokerRequest, UnregisterBrokerResponse};

use super::Admin;
use crate::address::Address;
use crate::cluster::Target;
use crate::error::{Error, Result};

/// The topic that DescribeQuorum is asked for.
const METADATA_TOPIC: &str = "__cluster_metadata";
/// The first version that can tell of brokers that are registered and not there (KIP-1073).
const WITH_FENCED: i16 = 2;

/// A broker of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerDescription {
    /// Its id.
    pub id: i32,
    /// Where clients reach it; `None` if what the cluster says is no address.
    pub address: Option<Address>,
    /// Its rack, if it has one.
    pub rack: Option<String>,
    /// Registered, and not there: stopped, dead, or not ready yet. Always false from brokers that do not say it.
    pub is_fenced: bool,
}

/// The cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterDescription {
    /// Its id; `None` if the broker does not say.
    pub id: Option<String>,
    /// The controller, if there is one. A KRaft cluster of Kafka names any of its brokers.
    pub controller: Option<i32>,
    /// Its brokers, by id.
    pub brokers: Vec<BrokerDescription>,
}

/// The quorum that keeps the cluster's metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuorumDescription {
    /// Who leads it: the real controller; `None` while nobody does.
    pub leader: Option<i32>,
    /// Counts its leaders.
    pub leader_epoch: i32,
    /// The first offset that is not known to be at a majority.
    pub high_watermark: i64,
    /// Who votes, by id.
    pub voters: Vec<QuorumReplica>,
    /// Who follows without a vote, by id.
    pub observers: Vec<QuorumReplica>,
}

/// One that keeps the metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuorumReplica {
    /// The broker's id.
    pub id: i32,
    /// The end of its log; `None` when the leader does not know it.
    pub log_end: Option<i64>,
    /// When it had all that the leader had, in milliseconds since 1970; `None` when the leader does not know it.
    pub caught_up_ms: Option<i64>,
}

impl QuorumDescription {
    /// How many entries a replica is behind the leader; `None` when that is not known.
    pub fn lag(&self, replica: &QuorumReplica) -> Option<i64> {
        let all = || self.voters.iter().chain(&self.observers);
        let leader = all().find(|other| Some(other.id) == self.leader)?;
        Some(leader.log_end?.saturating_sub(replica.log_end?).max(0))
    }
}

impl QuorumReplica {
    fn all(states: &[ReplicaState]) -> Vec<QuorumReplica> {
        let known = |number: i64| Some(number).filter(|number| *number >= 0);
        let replica = |state: &ReplicaState| QuorumReplica {
            id: state.replica_id,
            log_end: known(state.log_end_offset),
            caught_up_ms: known(state.last_caught_up_timestamp),
        };
        let mut replicas: Vec<QuorumReplica> = states.iter().map(replica).collect();
        replicas.sort_by_key(|replica| replica.id);
        replicas
    }
}

impl ClusterDescription {
    fn from_cluster(response: &DescribeClusterResponse) -> ClusterDescription {
        let brokers = response.brokers.iter().map(|broker| BrokerDescription {
            id: broker.broker_id,
            address: Address::told(&broker.host, broker.port),
            rack: broker.rack.as_ref().map(|rack| rack.as_str().to_owned()),
            is_fenced: broker.is_fenced,
        });
        ClusterDescription::new(Some(response.cluster_id.as_str()), response.controller_id, brokers.collect())
    }

    fn from_metadata(response: &MetadataResponse) -> ClusterDescription {
        let brokers = response.brokers.iter().map(|broker| BrokerDescription {
            id: broker.node_id,
            address: Address::told(&broker.host, broker.port),
            rack: broker.rack.as_ref().map(|rack| rack.as_str().to_owned()),
            is_fenced: false,
        });
        ClusterDescription::new(response.cluster_id.as_deref(), response.controller_id, brokers.collect())
    }

    fn new(id: Option<&str>, controller: i32, mut brokers: Vec<BrokerDescription>) -> ClusterDescription {
        brokers.sort_by_key(|broker| broker.id);
        let id = id.filter(|id| !id.is_empty()).map(str::to_owned);
        ClusterDescription { id, controller: Some(controller).filter(|id| *id >= 0), brokers }
    }
}

impl Admin {
    /// The brokers and the controller, with the brokers that are registered and not there where the cluster tells of
    /// them (Kafka 4, Millpond).
    ///
    /// # Errors
    /// Those of [`Cluster::call`](crate::Cluster::call).
    pub async fn describe_cluster(&self) -> Result<ClusterDescription> {
        let build =
            |version| DescribeClusterRequest { include_fenced_brokers: version >= WITH_FENCED, ..Default::default() };
        let judge = |response: &DescribeClusterResponse| {
            let what = || "describing the cluster".to_owned();
            Error::check(response.error_code, response.error_message.as_deref(), what)
        };
        match self.cluster.call(Target::Any, 0, build, judge).await {
            Ok(response) => Ok(ClusterDescription::from_cluster(&response)),
            // Kafka before 2.8.
            Err(Error::Unsupported { .. }) => {
                Ok(ClusterDescription::from_metadata(&self.cluster.metadata(Some(&[])).await?))
            }
            Err(error) => Err(error),
        }
    }

    /// The quorum that keeps the metadata, and how far each of its members is.
    ///
    /// # Errors
    /// [`Error::Unsupported`] from Kafka before 3.3; those of [`Cluster::call`](crate::Cluster::call).
    pub async fn describe_quorum(&self) -> Result<QuorumDescription> {
        let build = |_| {
            let topic = RequestTopicData {
                topic_name: METADATA_TOPIC.into(),
                partitions: vec![RequestPartitionData { partition_index: 0 }],
            };
            DescribeQuorumRequest { topics: vec![topic] }
        };
        let what = || "describing the metadata quorum".to_owned();
        let part = |response: &DescribeQuorumResponse| response.topics.first()?.partitions.first().cloned();
        let judge = |response: &DescribeQuorumResponse| {
            Error::check(response.error_code, response.error_message.as_deref(), what)?;
            let Some(part) = part(response) else { return Ok(()) };
            Error::check(part.error_code, part.error_message.as_deref(), what)
        };
        let response = self.cluster.call(Target::Any, 0, build, judge).await?;
        let Some(quorum) = part(&response) else {
            let message = Some("the answer does not hold what was asked for".to_owned());
            return Err(Error::Refused { what: what(), code: millpond_wire::ErrorCode::UNKNOWN_SERVER_ERROR, message });
        };
        Ok(QuorumDescription {
            leader: Some(quorum.leader_id).filter(|id| *id >= 0),
            leader_epoch: quorum.leader_epoch,
            high_watermark: quorum.high_watermark,
            voters: QuorumReplica::all(&quorum.current_voters),
            observers: QuorumReplica::all(&quorum.observers),
        })
    }

    /// Takes a broker that has been stopped for good out of the cluster's metadata.
    ///
    /// # Errors
    /// `BROKER_ID_NOT_REGISTERED`; those of [`Cluster::call`](crate::Cluster::call).
    pub async fn unregister_broker(&self, id: i32) -> Result<()> {
        let judge = |response: &UnregisterBrokerResponse| {
            let what = || format!("broker {id} is not unregistered");
            Error::check(response.error_code, response.error_message.as_deref(), what)
        };
        self.cluster.call(Target::Controller, 0, |_| UnregisterBrokerRequest { broker_id: id }, judge).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_is_counted_from_the_leader_and_unknown_without_one() {
        let replica = |id, log_end| QuorumReplica { id, log_end, caught_up_ms: None };
        let mut quorum = QuorumDescription {
            leader: Some(2),
            leader_epoch: 1,
            high_watermark: 90,
            voters: vec![replica(1, Some(95)), replica(2, Some(100)), replica(3, None)],
            observers: vec![replica(4, Some(101))],
        };
        let lags = |quorum: &QuorumDescription| -> Vec<Option<i64>> {
            quorum.voters.iter().chain(&quorum.observers).map(|replica| quorum.lag(replica)).collect()
        };
        assert_eq!(lags(&quorum), [Some(5), Some(0), None, Some(0)]);
        quorum.leader = None;
        assert_eq!(lags(&quorum), [None; 4]);
    }
}
