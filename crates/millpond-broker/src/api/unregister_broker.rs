//! UnregisterBroker (KIP-500): forgets a broker that has left. Unlike in Kafka it must have no replicas any more: they
//! are moved away by a decommission.

use millpond_cluster::unregister_broker;
use millpond_record::BrokerId;
use millpond_wire::ApiKey;
use millpond_wire::unregister_broker::{UnregisterBrokerRequest, UnregisterBrokerResponse};

use crate::dispatch::{Api, Call, Step};
use crate::errors;

pub(crate) const API: Api =
    Api { key: ApiKey::UNREGISTER_BROKER, advertised: (0, 0), served_from: 0, handle, pipelined: false };

fn handle(mut call: Call) -> Step {
    let request: UnregisterBrokerRequest = match call.decode() {
        Ok(request) => request,
        Err(reason) => return Step::Close(reason),
    };
    Step::Stage(Box::pin(async move {
        let id = BrokerId(request.broker_id);
        let running = call.shared.controller.alive().contains(&id);
        let controller = call.controller();
        let decided = controller.change(move |image| match unregister_broker(image, id, running) {
            Ok(records) => (Ok(()), records),
            Err(error) => (Err(error), Vec::new()),
        });
        let fault = match decided.await {
            Ok(decided) => decided.decision.err().map(|error| errors::broker(&error)),
            Err(error) => Some(errors::controller(&error)),
        };
        let mut response = UnregisterBrokerResponse { error_message: None, ..Default::default() };
        if let Some(fault) = fault {
            (response.error_code, response.error_message) = (fault.code.0, fault.message);
        }
        Step::Reply(call.answer(&response))
    }))
}
