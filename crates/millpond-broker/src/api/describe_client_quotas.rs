//! DescribeClientQuotas (KIP-546).

use millpond_cluster::{QuotaFilter, describe_client_quotas};
use millpond_wire::describe_client_quotas::{
    DescribeClientQuotasRequest, DescribeClientQuotasResponse, EntityData, EntryData, ValueData,
};
use millpond_wire::{ApiKey, Str};

use crate::dispatch::{Api, Call, Step};
use crate::errors;

pub(crate) const API: Api =
    Api { key: ApiKey::DESCRIBE_CLIENT_QUOTAS, advertised: (0, 1), served_from: 0, handle, pipelined: false };

fn handle(mut call: Call) -> Step {
    let request: DescribeClientQuotasRequest = match call.decode() {
        Ok(request) => request,
        Err(reason) => return Step::Close(reason),
    };
    let filters = request.components.iter().map(|component| QuotaFilter {
        entity_type: component.entity_type.to_string(),
        match_type: component.match_type,
        name: component.r#match.as_ref().map(Str::to_string),
    });
    let filters: Vec<QuotaFilter> = filters.collect();
    let response = match describe_client_quotas(&call.snapshot.image, &filters, request.strict) {
        Ok(found) => {
            let entries = found.into_iter().map(|(entity, quota)| EntryData {
                entity: entity
                    .parts()
                    .map(|(kind, name)| EntityData { entity_type: kind.into(), entity_name: name.map(Str::from) })
                    .collect(),
                values: quota.values().map(|(key, value)| ValueData { key: key.into(), value: value as f64 }).collect(),
            });
            DescribeClientQuotasResponse { entries: Some(entries.collect()), ..Default::default() }
        }
        Err(error) => {
            let fault = errors::quota_filter(&error);
            DescribeClientQuotasResponse {
                error_code: fault.code.0,
                error_message: fault.message,
                entries: None,
                ..Default::default()
            }
        }
    };
    Step::Reply(call.answer(&response))
}
