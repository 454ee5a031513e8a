//! ElectLeaders (KIP-460): hands partitions to the brokers that are preferred for them. A leader always needs a
//! majority of the replicas, so that it has all that was acknowledged; an unclean election lets replicas count for it
//! that lost power with a relaxed log (`cluster/unclean.rs`).

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use millpond_cluster::{Image, Partition};
use millpond_record::{BrokerId, PartitionIndex};
use millpond_wire::elect_leaders::{ElectLeadersRequest, ElectLeadersResponse, PartitionResult, ReplicaElectionResult};
use millpond_wire::{ApiKey, ErrorCode, Str};

use crate::broker::Shared;
use crate::cluster::messages::{TRANSFER, Transfer, write};
use crate::cluster::unclean;
use crate::dispatch::{Api, Call, Step, by, patience};
use crate::errors::{self, Fault};

pub(crate) const API: Api =
    Api { key: ApiKey::ELECT_LEADERS, advertised: (0, 2), served_from: 0, handle, pipelined: false };

const PREFERRED: i8 = 0;
const UNCLEAN: i8 = 1;
/// How long one partition may take.
const TRANSFER_TIME: Duration = Duration::from_secs(10);
/// Partitions that are handed over at once.
const AT_ONCE: usize = 16;

fn handle(mut call: Call) -> Step {
    let request: ElectLeadersRequest = match call.decode() {
        Ok(request) => request,
        Err(reason) => return Step::Close(reason),
    };
    if ![PREFERRED, UNCLEAN].contains(&request.election_type) {
        let response = ElectLeadersResponse { error_code: ErrorCode::INVALID_REQUEST.0, ..Default::default() };
        return Step::Reply(call.answer(&response));
    }
    Step::Stage(Box::pin(async move {
        let shared = &call.shared;
        let deadline = shared.runtime.now() + patience(request.timeout_ms);
        let controller = call.controller();
        let image = match request.election_type {
            // Nobody else decides meanwhile, and what replicas there are is known to the last change.
            UNCLEAN => controller.confirm().await.map(|_| controller.image()),
            _ => controller.surely(Image::clone).await,
        };
        let image = match image {
            Ok(image) => image,
            Err(error) => {
                let error_code = errors::controller(&error).code.0;
                return Step::Reply(call.answer(&ElectLeadersResponse { error_code, ..Default::default() }));
            }
        };
        let wanted = wanted(&image, &request);
        let elections = wanted.into_iter().map(|(topic, index)| {
            let partition = image.topic(&topic).and_then(|found| found.partition(index)).cloned();
            async move {
                let elected = match &partition {
                    None => Err(Fault::from(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)),
                    Some(partition) => {
                        let election = async {
                            match request.election_type {
                                UNCLEAN => unclean::elect(shared, &topic, partition).await,
                                _ => elect(shared, partition).await,
                            }
                        };
                        by(&shared.runtime, deadline, election).await.unwrap_or_else(|| Err(errors::not_in_time()))
                    }
                };
                (topic, index, elected)
            }
        });
        let elected: Vec<_> = stream::iter(elections).buffered(AT_ONCE).collect().await;
        let mut topics: BTreeMap<Str, Vec<PartitionResult>> = BTreeMap::new();
        for (topic, index, elected) in elected {
            let fault = elected.err().unwrap_or(Fault { code: ErrorCode::NONE, message: None });
            // Of all partitions those are told that something was done about.
            if request.topic_partitions.is_none() && fault.code == ErrorCode::ELECTION_NOT_NEEDED {
                continue;
            }
            let result =
                PartitionResult { partition_id: index.0, error_code: fault.code.0, error_message: fault.message };
            topics.entry(topic).or_default().push(result);
        }
        let results =
            topics.into_iter().map(|(topic, partition_result)| ReplicaElectionResult { topic, partition_result });
        let response = ElectLeadersResponse { replica_election_results: results.collect(), ..Default::default() };
        Step::Reply(call.answer(&response))
    }))
}

/// The partitions that the request names; all of them if it names none.
fn wanted(image: &Image, request: &ElectLeadersRequest) -> Vec<(Str, PartitionIndex)> {
    match &request.topic_partitions {
        Some(topics) => {
            let named = topics
                .iter()
                .flat_map(|topic| topic.partitions.iter().map(|index| (topic.topic.clone(), PartitionIndex(*index))));
            named.collect()
        }
        None => {
            let all = image
                .topics()
                .flat_map(|topic| topic.partitions.iter().map(|partition| (Str::from(&*topic.name), partition.index)));
            all.collect()
        }
    }
}

async fn elect(shared: &Shared, partition: &Partition) -> Result<(), Fault> {
    let here = shared.groups.partition(partition.group).is_some_and(|replica| replica.leads());
    let leader = match shared.groups.leaders().of(partition.group) {
        _ if here => Some(shared.node),
        known => known.map(|leader| leader.broker).filter(|leader| shared.peers.is_alive(*leader)),
    };
    let preferred: Option<BrokerId> = partition.replicas.first().map(|replica| replica.broker);
    match (leader, preferred) {
        (Some(leader), Some(preferred)) if leader == preferred => Err(errors::election_not_needed()),
        (Some(leader), Some(preferred)) if shared.peers.is_alive(preferred) => {
            let body = write(&Transfer { group: partition.group.0, to: preferred.0 });
            let handed = shared.peers.call(leader, TRANSFER, body, TRANSFER_TIME).await;
            handed.map(drop).map_err(|error| errors::preferred_not_available(error.to_string()))
        }
        (Some(_), _) => Err(errors::preferred_not_available("the preferred broker is not alive")),
        (None, _) => Err(errors::preferred_not_available("the partition has no leader that could hand it over")),
    }
}
