//! AlterConfigs (KIP-133): replaces all settings of a resource. Clients use IncrementalAlterConfigs where they can.

use millpond_cluster::{ConfigAlteration, ConfigResource};
use millpond_wire::ApiKey;
use millpond_wire::alter_configs::{
    AlterConfigsRequest, AlterConfigsResource, AlterConfigsResourceResponse, AlterConfigsResponse,
};

use crate::config_resources::{alter, resource};
use crate::dispatch::{Api, Call, Step};
use crate::errors::{self, Fault};

pub(crate) const API: Api =
    Api { key: ApiKey::ALTER_CONFIGS, advertised: (0, 2), served_from: 0, handle, pipelined: false };

fn handle(mut call: Call) -> Step {
    let request: AlterConfigsRequest = match call.decode() {
        Ok(request) => request,
        Err(reason) => return Step::Close(reason),
    };
    Step::Stage(Box::pin(async move {
        let wanted = request.resources.iter().map(alteration).collect();
        let results = alter(&call, wanted, request.validate_only).await;
        let responses = request.resources.iter().zip(results).map(|(asked, result)| {
            let fault = result.err();
            AlterConfigsResourceResponse {
                error_code: fault.as_ref().map_or(0, |fault| fault.code.0),
                error_message: fault.and_then(|fault| fault.message),
                resource_type: asked.resource_type,
                resource_name: asked.resource_name.clone(),
            }
        });
        let responses = responses.collect();
        Step::Reply(call.answer(&AlterConfigsResponse { responses, ..Default::default() }))
    }))
}

fn alteration(asked: &AlterConfigsResource) -> Result<(ConfigResource, ConfigAlteration), Fault> {
    let resource = resource(asked.resource_type, &asked.resource_name)?;
    let settings = asked.configs.iter().map(|config| match &config.value {
        Some(value) => Ok((config.name.to_string(), value.to_string())),
        None => Err(errors::invalid_request(format!("setting {} is given no value", config.name))),
    });
    Ok((resource, ConfigAlteration::Replace(settings.collect::<Result<_, Fault>>()?)))
}
