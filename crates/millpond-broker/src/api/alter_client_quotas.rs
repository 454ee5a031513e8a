//! AlterClientQuotas (KIP-546). What is changed counts when the answer comes.

use millpond_cluster::{QuotaAlteration, QuotaError, alter_client_quotas};
use millpond_wire::alter_client_quotas::{
    AlterClientQuotasRequest, AlterClientQuotasResponse, RequestEntryData, ResponseEntryData,
};
use millpond_wire::{ApiKey, Str};
use tracing::info;

use crate::dispatch::{Api, Call, Step};
use crate::errors::{self, Fault};

pub(crate) const API: Api =
    Api { key: ApiKey::ALTER_CLIENT_QUOTAS, advertised: (0, 1), served_from: 0, handle, pipelined: false };

fn handle(mut call: Call) -> Step {
    let request: AlterClientQuotasRequest = match call.decode() {
        Ok(request) => request,
        Err(reason) => return Step::Close(reason),
    };
    let wanted: Vec<QuotaAlteration> = request.entries.iter().map(alteration).collect();
    Step::Stage(Box::pin(async move {
        if request.validate_only {
            let decided = call.controller().surely(|image| alter_client_quotas(image, &wanted).results).await;
            let results = decided.map_err(|error| errors::controller(&error));
            return Step::Reply(call.answer(&respond(&request, results)));
        }
        let results = match call.controller().alter_client_quotas(wanted).await {
            Ok(decided) => {
                if let Some(index) = decided.index {
                    call.shared.metadata.settled(index).await;
                    info!("quotas of clients changed");
                }
                Ok(decided.decision.results)
            }
            Err(error) => Err(errors::controller(&error)),
        };
        Step::Reply(call.answer(&respond(&request, results)))
    }))
}

fn alteration(entry: &RequestEntryData) -> QuotaAlteration {
    let parts = entry.entity.iter();
    let changes = entry.ops.iter();
    QuotaAlteration {
        entity: parts
            .map(|part| (part.entity_type.to_string(), part.entity_name.as_ref().map(Str::to_string)))
            .collect(),
        changes: changes.map(|op| (op.key.to_string(), (!op.remove).then_some(op.value))).collect(),
    }
}

fn respond(
    request: &AlterClientQuotasRequest,
    results: Result<Vec<Result<(), QuotaError>>, Fault>,
) -> AlterClientQuotasResponse {
    let entries = request.entries.iter().enumerate().map(|(at, entry)| {
        let fault = match &results {
            Ok(results) => results.get(at).and_then(|result| result.as_ref().err()).map(errors::quota),
            Err(fault) => Some(fault.clone()),
        };
        ResponseEntryData {
            error_code: fault.as_ref().map_or(0, |fault| fault.code.0),
            error_message: fault.and_then(|fault| fault.message),
            entity: entry.entity.clone(),
        }
    });
    AlterClientQuotasResponse { entries: entries.collect(), ..Default::default() }
}
