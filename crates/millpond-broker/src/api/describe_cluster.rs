//! DescribeCluster (KIP-700, KIP-919): cluster id, controller, brokers.

use millpond_wire::describe_cluster::{DescribeClusterBroker, DescribeClusterRequest, DescribeClusterResponse};
use millpond_wire::{ApiKey, ErrorCode, Str};

use super::metadata::{CLUSTER_OPERATIONS, NOT_ASKED};
use crate::dispatch::{Api, Call, Step};

pub(crate) const API: Api =
    Api { key: ApiKey::DESCRIBE_CLUSTER, advertised: (0, 2), served_from: 0, handle, pipelined: false };

/// Whom the client wants to talk to: brokers, or the listener of controllers, which a broker is not.
const BROKERS: i8 = 1;
const CONTROLLERS: i8 = 2;

fn handle(mut call: Call) -> Step {
    let request: DescribeClusterRequest = match call.decode() {
        Ok(request) => request,
        Err(reason) => return Step::Close(reason),
    };
    let response = match request.endpoint_type {
        BROKERS => describe(&call, &request),
        CONTROLLERS => {
            refused(ErrorCode::MISMATCHED_ENDPOINT_TYPE, "this is a broker, not the endpoint of a controller")
        }
        _ => refused(ErrorCode::UNSUPPORTED_ENDPOINT_TYPE, "an endpoint is 1 (brokers) or 2 (controllers)"),
    };
    Step::Reply(call.answer(&response))
}

fn refused(code: ErrorCode, why: &'static str) -> DescribeClusterResponse {
    DescribeClusterResponse {
        error_code: code.0,
        error_message: Some(Str::from_static(why)),
        ..DescribeClusterResponse::default()
    }
}

fn describe(call: &Call, request: &DescribeClusterRequest) -> DescribeClusterResponse {
    // Fenced, as Kafka says, is a broker that does not answer now.
    let look = call.shared.leadership.now();
    let registered = call.snapshot.image.brokers();
    let shown = registered.filter(|broker| request.include_fenced_brokers || look.is_alive(broker.id));
    let brokers = shown.map(|broker| DescribeClusterBroker {
        broker_id: broker.id.0,
        host: broker.host.as_str().into(),
        port: i32::from(broker.port),
        rack: broker.rack.as_deref().map(Str::from),
        is_fenced: !look.is_alive(broker.id),
    });
    DescribeClusterResponse {
        endpoint_type: BROKERS,
        cluster_id: call.shared.cluster_id.clone(),
        controller_id: call.shared.controller.broker().map_or(-1, |broker| broker.0),
        brokers: brokers.collect(),
        cluster_authorized_operations: match request.include_cluster_authorized_operations {
            true => CLUSTER_OPERATIONS,
            false => NOT_ASKED,
        },
        ..DescribeClusterResponse::default()
    }
}
