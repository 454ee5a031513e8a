//! DescribeConfigs (KIP-133, KIP-226, KIP-569): settings of topics and of this broker, with their sources.

use std::collections::BTreeSet;

use millpond_cluster::{ConfigResource, TOPIC_CONFIGS, check_topic_name, topic_synonyms};
use millpond_wire::describe_configs::{
    DescribeConfigsRequest, DescribeConfigsResource, DescribeConfigsResourceResult, DescribeConfigsResponse,
    DescribeConfigsResult, DescribeConfigsSynonym,
};
use millpond_wire::{ApiKey, ErrorCode, Str};

use crate::config_resources::{self, Described};
use crate::dispatch::{Api, Call, Step};
use crate::errors::{self, Fault};

pub(crate) const API: Api =
    Api { key: ApiKey::DESCRIBE_CONFIGS, advertised: (1, 4), served_from: 1, handle, pipelined: false };

fn handle(mut call: Call) -> Step {
    let request: DescribeConfigsRequest = match call.decode() {
        Ok(request) => request,
        Err(reason) => return Step::Close(reason),
    };
    let mut seen = BTreeSet::new();
    let results = request.resources.iter().map(|asked| {
        // A short request must not make a long answer.
        let described = match seen.insert((asked.resource_type, asked.resource_name.as_str())) {
            true => describe(&call, asked),
            false => Err(errors::invalid_request("the resource is named more than once in the request")),
        };
        respond(&request, asked, described)
    });
    let results = results.collect();
    Step::Reply(call.answer(&DescribeConfigsResponse { results, ..Default::default() }))
}

fn describe(call: &Call, asked: &DescribeConfigsResource) -> Result<Vec<Described>, Fault> {
    match config_resources::resource(asked.resource_type, &asked.resource_name)? {
        ConfigResource::Topic(name) => {
            let Some(topic) = call.snapshot.image.topic(&name) else {
                check_topic_name(&name).map_err(|error| errors::topic_name(&error))?;
                return Err(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION.into());
            };
            let defaults = call.shared.controller.topic_defaults(&call.snapshot.image);
            let described = TOPIC_CONFIGS.iter().map(|config| Described {
                name: config.name,
                values: topic_synonyms(config, &topic.configs, &defaults),
                read_only: false,
                kind: config.kind,
                documentation: config.documentation,
            });
            Ok(described.collect())
        }
        ConfigResource::Broker(None) => Ok(config_resources::cluster_settings(call)),
        ConfigResource::Broker(Some(id)) if id == call.shared.node => Ok(config_resources::broker_settings(call)),
        ConfigResource::Broker(Some(id)) => {
            let here = call.shared.node;
            Err(errors::invalid_request(format!("this is broker {here}: the settings of broker {id} are asked of it")))
        }
    }
}

fn respond(
    request: &DescribeConfigsRequest,
    asked: &DescribeConfigsResource,
    described: Result<Vec<Described>, Fault>,
) -> DescribeConfigsResult {
    let answer = DescribeConfigsResult {
        resource_type: asked.resource_type,
        resource_name: asked.resource_name.clone(),
        ..Default::default()
    };
    let settings = match described {
        Ok(settings) => settings,
        Err(fault) => {
            return DescribeConfigsResult { error_code: fault.code.0, error_message: fault.message, ..answer };
        }
    };
    // No keys, or an empty list of them, asks for all.
    let keys: Option<BTreeSet<&str>> = match asked.configuration_keys.as_deref() {
        None | Some([]) => None,
        Some(keys) => Some(keys.iter().map(Str::as_str).collect()),
    };
    let wanted = settings.iter().filter(|setting| keys.as_ref().is_none_or(|keys| keys.contains(setting.name)));
    let configs = wanted.map(|setting| result(request, setting)).collect();
    DescribeConfigsResult { configs, ..answer }
}

fn result(request: &DescribeConfigsRequest, setting: &Described) -> DescribeConfigsResourceResult {
    let in_force = setting.values.first();
    let synonyms = setting.values.iter().filter(|_| request.include_synonyms).map(|synonym| DescribeConfigsSynonym {
        name: Str::from_static(synonym.name),
        value: Some(synonym.value.as_str().into()),
        source: synonym.source.code(),
    });
    DescribeConfigsResourceResult {
        name: Str::from_static(setting.name),
        value: in_force.map(|synonym| synonym.value.as_str().into()),
        read_only: setting.read_only,
        config_source: in_force.map_or(0, |synonym| synonym.source.code()),
        is_sensitive: false,
        synonyms: synonyms.collect(),
        config_type: setting.kind.code(),
        documentation: request.include_documentation.then(|| Str::from_static(setting.documentation)),
    }
}
