//! ApiVersions (KIP-35, KIP-511): what this broker serves, and its feature levels.

use millpond_cluster::{FEATURE_LEVEL, FEATURE_NAME};
use millpond_wire::api_versions::{
    ApiVersion, ApiVersionsRequest, ApiVersionsResponse, FinalizedFeatureKey, SupportedFeatureKey,
};
use millpond_wire::{ApiKey, ErrorCode, Str};

use crate::dispatch::{APIS, Api, Call, Reply, Step};

pub(crate) const API: Api =
    Api { key: ApiKey::API_VERSIONS, advertised: (0, 4), served_from: 0, handle, pipelined: false };

/// From here on the client names its software.
const FIRST_WITH_SOFTWARE: i16 = 3;
/// From here on features with minimum 0 may be listed: older Java clients refuse them (KIP-1022).
const FIRST_WITH_MINIMUM_ZERO: i16 = 4;

/// The levels that are served, by name. Transactions are not: clients speak the protocol of KIP-890 where they read 2.
/// Groups of the consumer protocol are.
pub(super) const FEATURES: [(&str, i16); 2] = [("group.version", 1), ("transaction.version", 0)];

fn handle(mut call: Call) -> Step {
    let request: ApiVersionsRequest = match call.decode() {
        Ok(request) => request,
        Err(reason) => return Step::Close(reason),
    };
    let software = [&request.client_software_name, &request.client_software_version];
    if call.version >= FIRST_WITH_SOFTWARE && !software.iter().all(|text| is_software_name(text)) {
        let response = ApiVersionsResponse { error_code: ErrorCode::INVALID_REQUEST.0, ..Default::default() };
        return Step::Reply(call.answer(&response));
    }
    let own = call.snapshot.image.feature_level().unwrap_or(FEATURE_LEVEL);
    let own = (FEATURE_NAME, i16::try_from(own).unwrap_or(i16::MAX));
    let levels: Vec<(&'static str, i16)> = FEATURES.iter().copied().chain([own]).collect();
    let mut supported_features = Vec::new();
    if call.version >= FIRST_WITH_MINIMUM_ZERO {
        let supported = |&(name, level): &(&'static str, i16)| SupportedFeatureKey {
            name: Str::from_static(name),
            min_version: 0,
            max_version: level,
        };
        supported_features.extend(levels.iter().map(supported));
    }
    let response = ApiVersionsResponse {
        api_keys: APIS.iter().map(row).collect(),
        supported_features,
        // Grows with every change of the metadata, as the levels are part of it.
        finalized_features_epoch: call.snapshot.settled.map_or(0, |index| i64::try_from(index.0).unwrap_or(i64::MAX)),
        finalized_features: levels.iter().map(finalized).collect(),
        ..Default::default()
    };
    Step::Reply(call.answer(&response))
}

fn finalized(&(name, level): &(&'static str, i16)) -> FinalizedFeatureKey {
    FinalizedFeatureKey { name: Str::from_static(name), min_version_level: level, max_version_level: level }
}

/// The answer to a version that is too new: in version 0, naming the range of ApiVersions alone (KIP-511).
pub(crate) fn too_new(call: &Call) -> Reply {
    let response = ApiVersionsResponse {
        error_code: ErrorCode::UNSUPPORTED_VERSION.0,
        api_keys: vec![row(&API)],
        ..Default::default()
    };
    call.answer_in(0, &response)
}

fn row(api: &Api) -> ApiVersion {
    let (min_version, max_version) = api.advertised;
    ApiVersion { api_key: api.key.0, min_version, max_version }
}

/// Letters, digits, '-' and '.', not at the ends.
fn is_software_name(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    let outer = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.chars().all(inner) && outer(text.chars().next()) && outer(text.chars().next_back())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn software_names_are_letters_digits_dots_and_dashes_with_neither_at_the_ends() {
        for good in ["kwire", "apache-kafka-java", "4.2.1", "x"] {
            assert!(is_software_name(good), "{good}");
        }
        for bad in ["", "two words", "-dash", "1-", ".", "ä"] {
            assert!(!is_software_name(bad), "{bad}");
        }
    }
}
