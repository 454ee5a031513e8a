//! IncrementalAlterConfigs (KIP-339): changes settings one by one.

use millpond_cluster::{ConfigAlteration, ConfigResource};
use millpond_wire::ApiKey;
use millpond_wire::incremental_alter_configs::{
    AlterConfigsResource, AlterConfigsResourceResponse, IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse,
};

use crate::config_resources::{alter, operation, resource};
use crate::dispatch::{Api, Call, Step};
use crate::errors::Fault;

pub(crate) const API: Api =
    Api { key: ApiKey::INCREMENTAL_ALTER_CONFIGS, advertised: (0, 1), served_from: 0, handle, pipelined: false };

fn handle(mut call: Call) -> Step {
    let request: IncrementalAlterConfigsRequest = match call.decode() {
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
        Step::Reply(call.answer(&IncrementalAlterConfigsResponse { responses, ..Default::default() }))
    }))
}

fn alteration(asked: &AlterConfigsResource) -> Result<(ConfigResource, ConfigAlteration), Fault> {
    let resource = resource(asked.resource_type, &asked.resource_name)?;
    let changes = asked.configs.iter().map(|config| {
        Ok((config.name.to_string(), operation(config.config_operation, &config.name, config.value.as_ref())?))
    });
    Ok((resource, ConfigAlteration::Each(changes.collect::<Result<_, Fault>>()?)))
}
