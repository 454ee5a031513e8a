//! Headers, and whole frames.

use bytes::Bytes;

use crate::api::{ApiKey, RequestVisitor};
use crate::chunks::Chunks;
use crate::codec::Element;
use crate::decoder::{DecodeError, Decoder};
use crate::encoder::{EncodeError, Encoder};
use crate::message::{Message, Request};
use crate::text::Str;
use crate::{request_header, response_header, visit_request};

/// What stands in front of every request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHeader {
    pub api_key: ApiKey,
    pub api_version: i16,
    pub correlation_id: i32,
    pub client_id: Option<Str>,
}

impl RequestHeader {
    /// Reads a header in the version that its key and API version ask for. The API version may be one that this crate
    /// has no messages for: an ApiVersions request that is too new is answered too.
    ///
    /// # Errors
    /// [`DecodeError::UnknownApi`] when the key is not known, because then the header's own version is not.
    pub fn decode(decoder: &mut Decoder) -> Result<RequestHeader, DecodeError> {
        let start = decoder.position();
        let key = ApiKey(decoder.int16()?);
        let version = request_header_version(key, decoder.int16()?).ok_or(DecodeError::UnknownApi(key))?;
        decoder.back_to(start);
        decoder.set_flexible(version >= 2);
        let header = request_header::RequestHeader::read(decoder, version)?;
        Ok(RequestHeader {
            api_key: ApiKey(header.request_api_key),
            api_version: header.request_api_version,
            correlation_id: header.correlation_id,
            client_id: header.client_id,
        })
    }

    /// Writes a header in the version that its key and API version ask for.
    ///
    /// # Errors
    /// [`EncodeError::UnsupportedVersion`] when the key is not known; [`EncodeError::TooLong`] for the client id.
    pub fn encode(&self, encoder: &mut Encoder) -> Result<(), EncodeError> {
        let version = request_header_version(self.api_key, self.api_version)
            .ok_or(EncodeError::UnsupportedVersion { api: self.api_key, version: self.api_version })?;
        encoder.set_flexible(version >= 2);
        let header = request_header::RequestHeader {
            request_api_key: self.api_key.0,
            request_api_version: self.api_version,
            correlation_id: self.correlation_id,
            client_id: self.client_id.clone(),
        };
        header.write(encoder, version)
    }
}

/// What stands in front of every response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseHeader {
    pub correlation_id: i32,
}

impl ResponseHeader {
    /// Reads the header of a response to a request with this key and version.
    ///
    /// # Errors
    /// [`DecodeError::UnknownApi`] when the key is not known, because then the header's own version is not.
    pub fn decode(decoder: &mut Decoder, key: ApiKey, version: i16) -> Result<ResponseHeader, DecodeError> {
        let version = response_header_version(key, version).ok_or(DecodeError::UnknownApi(key))?;
        decoder.set_flexible(version >= 1);
        let header = response_header::ResponseHeader::read(decoder, version)?;
        Ok(ResponseHeader { correlation_id: header.correlation_id })
    }

    fn encode(self, encoder: &mut Encoder, key: ApiKey, version: i16) -> Result<(), EncodeError> {
        let version =
            response_header_version(key, version).ok_or(EncodeError::UnsupportedVersion { api: key, version })?;
        encoder.set_flexible(version >= 1);
        response_header::ResponseHeader { correlation_id: self.correlation_id }.write(encoder, version)
    }
}

fn is_flexible(key: ApiKey, version: i16) -> Option<bool> {
    Some(key.spec()?.first_flexible.is_some_and(|first| version >= first))
}

/// The version of the header in front of a request: 2 from the first flexible version on, else 1. None for an unknown
/// key.
pub fn request_header_version(key: ApiKey, version: i16) -> Option<i16> {
    Some(if is_flexible(key, version)? { 2 } else { 1 })
}

/// The version of the header in front of a response: 1 from the first flexible version on, else 0; always 0 for
/// ApiVersions, which a client must be able to read before it knows the broker (KIP-511). None for an unknown key.
pub fn response_header_version(key: ApiKey, version: i16) -> Option<i16> {
    Some(if is_flexible(key, version)? && key != ApiKey::API_VERSIONS { 1 } else { 0 })
}

/// A whole response frame: length, header, body.
///
/// # Errors
/// See [`Message::encode`]; [`EncodeError::TooLong`] for a frame of 2 GiB or more.
pub fn encode_response<M: Message>(correlation_id: i32, version: i16, response: &M) -> Result<Chunks, EncodeError> {
    let mut encoder = Encoder::with_capacity(256);
    encoder.int32(0);
    ResponseHeader { correlation_id }.encode(&mut encoder, M::KEY, version)?;
    response.encode(&mut encoder, version)?;
    encoder.finish_frame()
}

/// A whole request frame: length, header, body.
///
/// # Errors
/// See [`Message::encode`]; [`EncodeError::TooLong`] for a frame of 2 GiB or more.
pub fn encode_request<R: Request>(
    correlation_id: i32,
    client_id: Option<Str>,
    version: i16,
    request: &R,
) -> Result<Chunks, EncodeError> {
    let mut encoder = Encoder::with_capacity(256);
    encoder.int32(0);
    RequestHeader { api_key: R::KEY, api_version: version, correlation_id, client_id }.encode(&mut encoder)?;
    request.encode(&mut encoder, version)?;
    encoder.finish_frame()
}

/// Whether the bytes are the body of a request of this API and version, and nothing else.
pub fn decode_request_by_key(key: ApiKey, version: i16, body: Bytes) -> Result<(), DecodeError> {
    struct Check(i16, Bytes);
    impl RequestVisitor for Check {
        type Output = Result<(), DecodeError>;
        fn visit<R: Request>(self) -> Self::Output {
            check::<R>(self.0, self.1)
        }
    }
    visit_request(key, Check(version, body)).unwrap_or(Err(DecodeError::UnknownApi(key)))
}

/// Whether the bytes are the body of a response of this API and version, and nothing else.
pub fn decode_response_by_key(key: ApiKey, version: i16, body: Bytes) -> Result<(), DecodeError> {
    struct Check(i16, Bytes);
    impl RequestVisitor for Check {
        type Output = Result<(), DecodeError>;
        fn visit<R: Request>(self) -> Self::Output {
            check::<R::Response>(self.0, self.1)
        }
    }
    visit_request(key, Check(version, body)).unwrap_or(Err(DecodeError::UnknownApi(key)))
}

fn check<M: Message>(version: i16, body: Bytes) -> Result<(), DecodeError> {
    let mut decoder = Decoder::new(body);
    M::decode(&mut decoder, version)?;
    decoder.finish()
}
