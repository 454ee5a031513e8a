//! Which versions of which APIs a broker serves, and which one to speak (ApiVersions, KIP-35 and KIP-511).

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use millpond_wire::api_versions::{ApiVersionsRequest, ApiVersionsResponse};
use millpond_wire::{ApiKey, Decoder, ErrorCode, Message, Request, ResponseHeader, Str, encode_request};

use crate::error::{Error, Result};
use crate::link::Link;

/// What a broker told of its APIs when the connection was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Versions(BTreeMap<ApiKey, (i16, i16)>);

impl Versions {
    /// The lowest and the highest version of an API; `None` when the broker does not serve it.
    pub fn of(&self, api: ApiKey) -> Option<(i16, i16)> {
        self.0.get(&api).copied()
    }

    /// The newest version of `R` that both sides speak, within `least..=most`. A version that Kafka has not made final
    /// is never spoken.
    pub fn newest<R: Request>(&self, least: i16, most: i16) -> Option<i16> {
        let (first, last) = self.of(R::KEY)?;
        let unstable = R::KEY.spec().and_then(|spec| spec.unstable);
        let last = last.min(most).min(R::MAX).min(unstable.map_or(i16::MAX, |unstable| unstable - 1));
        (last >= first.max(least).max(R::MIN)).then_some(last)
    }
}

impl From<&ApiVersionsResponse> for Versions {
    fn from(response: &ApiVersionsResponse) -> Versions {
        let rows = response.api_keys.iter();
        Versions(rows.map(|row| (ApiKey(row.api_key), (row.min_version, row.max_version))).collect())
    }
}

/// Asks the broker for its versions, in the newest version of the question. One that does not know it answers error 35
/// in the form of version 0, mostly with the versions that it does know, and is asked again in one of these (KIP-511);
/// an older one names none, and is asked in version 0.
pub(crate) async fn negotiate(link: &Link, client_id: &Str, limit: Duration) -> Result<Versions> {
    let first = ask(link, client_id, ApiVersionsRequest::MAX, limit).await?;
    let response = if first.error_code == ErrorCode::UNSUPPORTED_VERSION.0 {
        let known = Versions::from(&first).newest::<ApiVersionsRequest>(0, ApiVersionsRequest::MAX - 1);
        ask(link, client_id, known.unwrap_or(0), limit).await?
    } else {
        first
    };
    Error::check(response.error_code, None, || format!("asking {} for its API versions", link.broker()))?;
    Ok(Versions::from(&response))
}

async fn ask(link: &Link, client_id: &Str, version: i16, limit: Duration) -> Result<ApiVersionsResponse> {
    let request = ApiVersionsRequest {
        client_software_name: Str::from_static("millpond-client"),
        client_software_version: Str::from_static(env!("CARGO_PKG_VERSION")),
    };
    let correlation = link.correlation();
    let frame = encode_request(correlation, Some(client_id.clone()), version, &request)
        .map_err(|error| Error::Request { reason: error.to_string() })?;
    let answer = link.exchange(correlation, frame, "ApiVersions", limit).await?;
    decode(answer, version).map_err(|error| link.broken(format!("its answer to ApiVersions: {error}")))
}

/// An answer of any version but error 35, whose body is always of version 0.
fn decode(answer: Bytes, version: i16) -> Result<ApiVersionsResponse, millpond_wire::DecodeError> {
    let mut decoder = Decoder::new(answer.clone());
    ResponseHeader::decode(&mut decoder, ApiKey::API_VERSIONS, version)?;
    let code = answer.get(decoder.position()..).and_then(|body| body.first_chunk::<2>()).copied();
    let unsupported = code.map(i16::from_be_bytes) == Some(ErrorCode::UNSUPPORTED_VERSION.0);
    let response = ApiVersionsResponse::decode(&mut decoder, if unsupported { 0 } else { version })?;
    decoder.finish()?;
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;
    use millpond_wire::init_producer_id::InitProducerIdRequest;
    use millpond_wire::metadata::MetadataRequest;

    fn served(rows: &[(ApiKey, i16, i16)]) -> Versions {
        Versions(rows.iter().map(|(api, first, last)| (*api, (*first, *last))).collect())
    }

    #[test]
    fn the_newest_version_that_both_speak_is_taken() {
        let newest = |first, last, least, most| {
            served(&[(ApiKey::METADATA, first, last)]).newest::<MetadataRequest>(least, most)
        };
        assert_eq!(newest(0, 9, 0, i16::MAX), Some(9), "an older broker");
        assert_eq!(newest(0, 99, 0, i16::MAX), Some(MetadataRequest::MAX), "a newer broker");
        assert_eq!(newest(0, 99, 0, 4), Some(4), "the caller knows no later one");
        assert_eq!(newest(20, 30, 0, i16::MAX), None, "a broker of the far future");
        assert_eq!(newest(0, 3, 4, i16::MAX), None, "a broker that is too old for what is asked");
        assert_eq!(newest(5, -1, 0, i16::MAX), None, "a range that makes no sense");
        assert_eq!(Versions::default().newest::<MetadataRequest>(0, i16::MAX), None);
    }

    #[test]
    fn a_version_that_is_not_final_is_not_spoken() {
        let versions = served(&[(ApiKey::INIT_PRODUCER_ID, 0, 6)]);
        assert_eq!(versions.newest::<InitProducerIdRequest>(0, i16::MAX), Some(5));
    }
}
