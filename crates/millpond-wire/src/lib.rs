//! Kafka frames and API messages as values, each with its version range.
//!
//! Every message is described once, in the notation of `messages/*.msg`; the build script turns that into one module
//! per API (`produce::ProduceRequest`, `produce::ProduceResponse`, …) of plain structs that hold the fields of all
//! versions. A frame is decoded from [`Bytes`](bytes::Bytes) without copying strings or records, and encoded to a list
//! of chunks in which record bytes keep their place in memory.
//!
//! Records of coordinators and the consumers' own bytes inside of groups are described in the same notation: see
//! [`Data`].
//!
//! This crate does no I/O and keeps no state. It does not judge what a message means, and decides nothing about which
//! versions a broker advertises.
//!
//! Memory: decoding a frame of `n` bytes holds at most [`MAX_BYTES_PER_FRAME_BYTE`] × `n` + [`MAX_FIXED_BYTES`] bytes
//! beyond the frame itself, whatever the frame says.

mod api;
mod chunks;
mod codec;
mod data;
mod decoder;
mod encoder;
mod error_code;
mod frame;
mod message;
mod records;
mod text;

pub use api::{ApiKey, ApiSpec, RequestVisitor};
pub use chunks::{Chunk, Chunks, Elsewhere};
pub use data::{Data, RecordKey};
pub use decoder::{DecodeError, Decoder, MAX_BYTES_PER_FRAME_BYTE, MAX_FIXED_BYTES};
pub use encoder::{EncodeError, Encoder, SPLICE_BYTES};
pub use error_code::{ERROR_TABLE, ErrorCode, ErrorSpec};
pub use frame::{
    RequestHeader, ResponseHeader, decode_request_by_key, decode_response_by_key, encode_request, encode_response,
    request_header_version, response_header_version,
};
pub use message::{Message, Request};
pub use records::Records;
pub use text::Str;

include!(concat!(env!("OUT_DIR"), "/messages.rs"));
