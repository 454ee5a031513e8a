//! DescribeProducers (KIP-664): the idempotent producers that partitions remember.

use std::collections::BTreeSet;

use millpond_record::PartitionIndex;
use millpond_wire::describe_producers::{
    DescribeProducersRequest, DescribeProducersResponse, PartitionResponse, ProducerState, TopicResponse,
};
use millpond_wire::{ApiKey, ErrorCode};

use crate::dispatch::{Api, Call, Step};
use crate::errors::{self, Fault};

pub(crate) const API: Api =
    Api { key: ApiKey::DESCRIBE_PRODUCERS, advertised: (0, 0), served_from: 0, handle, pipelined: false };

/// What Kafka says where no transaction is open and no coordinator has written.
const NONE: i32 = -1;

fn handle(mut call: Call) -> Step {
    let request: DescribeProducersRequest = match call.decode() {
        Ok(request) => request,
        Err(reason) => return Step::Close(reason),
    };
    Step::Stage(Box::pin(async move {
        let mut seen = BTreeSet::new();
        let mut topics = Vec::with_capacity(request.topics.len());
        for topic in &request.topics {
            let mut partitions = Vec::with_capacity(topic.partition_indexes.len());
            for &index in &topic.partition_indexes {
                // A short request must not make a long answer.
                let described = match seen.insert((topic.name.as_str(), index)) {
                    true => describe(&call, &topic.name, index).await,
                    false => Err(errors::invalid_request("the partition is named more than once in the request")),
                };
                partitions.push(respond(index, described));
            }
            topics.push(TopicResponse { name: topic.name.clone(), partitions });
        }
        Step::Reply(call.answer(&DescribeProducersResponse { topics, ..Default::default() }))
    }))
}

async fn describe(call: &Call, topic: &str, index: i32) -> Result<Vec<ProducerState>, Fault> {
    let served = call.snapshot.topic(topic).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
    let partition = served.led(PartitionIndex(index))?;
    let log = partition.log().await.map_err(|error| errors::raft(&error))?;
    let producers = log.producers().into_iter().map(|producer| ProducerState {
        producer_id: producer.id.0,
        producer_epoch: i32::from(producer.epoch.0),
        last_sequence: producer.last_sequence,
        last_timestamp: producer.last_append.0,
        coordinator_epoch: NONE,
        current_txn_start_offset: i64::from(NONE),
    });
    Ok(producers.collect())
}

fn respond(index: i32, described: Result<Vec<ProducerState>, Fault>) -> PartitionResponse {
    match described {
        Ok(active_producers) => {
            PartitionResponse { partition_index: index, active_producers, ..PartitionResponse::default() }
        }
        Err(fault) => PartitionResponse {
            partition_index: index,
            error_code: fault.code.0,
            error_message: fault.message,
            ..PartitionResponse::default()
        },
    }
}
