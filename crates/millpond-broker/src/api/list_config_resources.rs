//! ListConfigResources (KIP-1142): which resources have settings.

use millpond_wire::list_config_resources::{ConfigResource, ListConfigResourcesRequest, ListConfigResourcesResponse};
use millpond_wire::{ApiKey, ErrorCode, Str};

use crate::config_resources::{BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP, TOPIC};
use crate::dispatch::{Api, Call, Step};

pub(crate) const API: Api =
    Api { key: ApiKey::LIST_CONFIG_RESOURCES, advertised: (0, 1), served_from: 0, handle, pipelined: false };

/// Before this version only subscriptions to metrics of clients are listed, of which there are none.
const FIRST_WITH_TYPES: i16 = 1;
const KNOWN: [i8; 5] = [TOPIC, BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP];

fn handle(mut call: Call) -> Step {
    let request: ListConfigResourcesRequest = match call.decode() {
        Ok(request) => request,
        Err(reason) => return Step::Close(reason),
    };
    if call.version < FIRST_WITH_TYPES {
        return Step::Reply(call.answer(&ListConfigResourcesResponse::default()));
    }
    if request.resource_types.iter().any(|kind| !KNOWN.contains(kind)) {
        let error_code = ErrorCode::UNSUPPORTED_VERSION.0;
        return Step::Reply(call.answer(&ListConfigResourcesResponse { error_code, ..Default::default() }));
    }
    let image = &call.snapshot.image;
    let wanted = |kind| request.resource_types.is_empty() || request.resource_types.contains(&kind);
    let topics = image.topics().filter(|_| wanted(TOPIC)).map(|topic| (TOPIC, Str::from(&*topic.name)));
    let brokers = image.brokers().filter(|_| wanted(BROKER));
    let brokers = brokers.map(|broker| (BROKER, Str::from(broker.id.to_string())));
    let resources = topics.chain(brokers);
    let config_resources =
        resources.map(|(resource_type, resource_name)| ConfigResource { resource_name, resource_type }).collect();
    Step::Reply(call.answer(&ListConfigResourcesResponse { config_resources, ..Default::default() }))
}
