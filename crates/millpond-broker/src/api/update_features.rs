//! UpdateFeatures (KIP-584, KIP-1022): the levels that formats and protocols are at.

use millpond_cluster::{FeatureUpdate, update_features};
use millpond_wire::ApiKey;
use millpond_wire::update_features::{UpdatableFeatureResult, UpdateFeaturesRequest, UpdateFeaturesResponse};

use super::api_versions::FEATURES;
use crate::dispatch::{Api, Call, Step};
use crate::errors;

pub(crate) const API: Api =
    Api { key: ApiKey::UPDATE_FEATURES, advertised: (0, 2), served_from: 0, handle, pipelined: false };

/// Before this version a request only says whether a level may be lowered.
const FIRST_WITH_UPGRADE_TYPE: i16 = 1;
/// From here on all updates succeed or none does, and one error tells.
const FIRST_WITHOUT_RESULTS: i16 = 2;
const UPGRADE: i8 = 1;
const UPGRADE_TYPES: [i8; 3] = [UPGRADE, 2, 3];

fn handle(mut call: Call) -> Step {
    let request: UpdateFeaturesRequest = match call.decode() {
        Ok(request) => request,
        Err(reason) => return Step::Close(reason),
    };
    let has_type = call.version >= FIRST_WITH_UPGRADE_TYPE;
    if has_type && request.feature_updates.iter().any(|update| !UPGRADE_TYPES.contains(&update.upgrade_type)) {
        let fault = errors::invalid_request("an upgrade type is 1 (upgrade), 2 (safe downgrade) or 3 (downgrade)");
        let response =
            UpdateFeaturesResponse { error_code: fault.code.0, error_message: fault.message, ..Default::default() };
        return Step::Reply(call.answer(&response));
    }
    let updates = request.feature_updates.iter().map(|update| FeatureUpdate {
        feature: update.feature.to_string(),
        level: update.max_version_level,
        downgrade: if has_type { update.upgrade_type != UPGRADE } else { update.allow_downgrade },
    });
    let updates: Vec<FeatureUpdate> = updates.collect();
    Step::Stage(Box::pin(async move {
        let validate_only = request.validate_only;
        let controller = call.controller();
        let decided = controller.change(move |image| {
            let decision = update_features(image, &FEATURES, &updates);
            (decision.results, if validate_only { Vec::new() } else { decision.records })
        });
        let mut response = UpdateFeaturesResponse { error_message: None, ..Default::default() };
        match decided.await {
            Ok(decided) => {
                let faults: Vec<_> =
                    decided.decision.into_iter().map(|result| result.err().map(|e| errors::feature(&e))).collect();
                if call.version >= FIRST_WITHOUT_RESULTS
                    && let Some(fault) = faults.iter().flatten().next()
                {
                    (response.error_code, response.error_message) = (fault.code.0, fault.message.clone());
                }
                let results =
                    request.feature_updates.iter().zip(faults).map(|(update, fault)| UpdatableFeatureResult {
                        feature: update.feature.clone(),
                        error_code: fault.as_ref().map_or(0, |fault| fault.code.0),
                        error_message: fault.and_then(|fault| fault.message),
                    });
                response.results = results.collect();
            }
            Err(error) => {
                let fault = errors::controller(&error);
                (response.error_code, response.error_message) = (fault.code.0, fault.message);
            }
        }
        Step::Reply(call.answer(&response))
    }))
}
