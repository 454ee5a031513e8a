//! What brokers ask each other for while a replica is filled.
//!
//! ```text
//! Request { 1: version, 2: group, 3: term and 4: index of P, one of: 5 manifest, 6 piece, 7 done }    (protobuf)
//! Stretch { 1: position u64, 2: length u32 }                                       of the manifest
//! Piece   { 1: segment u32, 2: index bool, 3: position u64, 4: length u32, 5: hash fixed64 }
//!                                                             of a segment's log, or its index; its hash names it
//! Done    { 1: damaged, none or { 1: segment u32, 2: hash fixed64 } }              one that could not be proven
//! ```
//!
//! The answer to a stretch is the length of the whole manifest (8 bytes, little-endian) and the bytes; to a piece the
//! bytes; to "done" nothing.

use bytes::Bytes;
use millpond_record::{GroupId, LogId, RaftIndex, Term};
use prost::Message;

const VERSION: u32 = 1;

#[derive(Clone, PartialEq, prost::Message)]
struct Body {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(uint64, tag = "2")]
    group: u64,
    #[prost(uint64, tag = "3")]
    term: u64,
    #[prost(uint64, tag = "4")]
    index: u64,
    #[prost(oneof = "Wish", tags = "5, 6, 7")]
    wish: Option<Wish>,
}

/// What is asked for.
#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum Wish {
    /// A stretch of the manifest.
    #[prost(message, tag = "5")]
    Manifest(Stretch),
    /// A piece of a segment.
    #[prost(message, tag = "6")]
    Piece(Piece),
    /// Nothing more.
    #[prost(message, tag = "7")]
    Done(Done),
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct Stretch {
    #[prost(uint64, tag = "1")]
    pub(super) position: u64,
    #[prost(uint32, tag = "2")]
    pub(super) length: u32,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct Piece {
    #[prost(uint32, tag = "1")]
    pub(super) segment: u32,
    #[prost(bool, tag = "2")]
    pub(super) index: bool,
    #[prost(uint64, tag = "3")]
    pub(super) position: u64,
    #[prost(uint32, tag = "4")]
    pub(super) length: u32,
    #[prost(fixed64, tag = "5")]
    pub(super) hash: u64,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct Done {
    #[prost(message, optional, tag = "1")]
    pub(super) damaged: Option<Unproven>,
}

/// A segment that came again and again as something else than the manifest says.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct Unproven {
    #[prost(uint32, tag = "1")]
    pub(super) segment: u32,
    #[prost(fixed64, tag = "2")]
    pub(super) hash: u64,
}

/// A wish concerning a group's log as of P.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Request {
    pub(super) group: GroupId,
    pub(super) p: LogId,
    pub(super) wish: Wish,
}

impl Request {
    pub(super) fn encode(&self) -> Bytes {
        let Request { group, p, wish } = self;
        let wish = Some(wish.clone());
        Body { version: VERSION, group: group.0, term: p.term.0, index: p.index.0, wish }.encode_to_vec().into()
    }

    /// Reads a request; says in words why it cannot.
    pub(super) fn decode(bytes: Bytes) -> Result<Request, String> {
        let body = Body::decode(bytes).map_err(|error| error.to_string())?;
        if body.version != VERSION {
            return Err(format!("its version is {}, this millpond reads version {VERSION}", body.version));
        }
        let wish = body.wish.ok_or("it asks for nothing")?;
        let p = LogId { term: Term(body.term), index: RaftIndex(body.index) };
        Ok(Request { group: GroupId(body.group), p, wish })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_reads_back_as_it_was_written_and_anything_else_is_an_error() {
        let p = LogId { term: Term(3), index: RaftIndex(70) };
        let wishes = [
            Wish::Manifest(Stretch { position: 5, length: 6 }),
            Wish::Piece(Piece { segment: 2, index: true, position: 1 << 33, length: 9, hash: 1 << 63 }),
            Wish::Done(Done { damaged: None }),
            Wish::Done(Done { damaged: Some(Unproven { segment: 0, hash: 1 << 63 }) }),
        ];
        for wish in wishes {
            let request = Request { group: GroupId(7), p, wish };
            assert_eq!(Request::decode(request.encode()), Ok(request));
        }
        assert!(Request::decode(Bytes::from_static(b"\xff\xff")).is_err());
        assert!(Request::decode(Bytes::new()).is_err());
        let nothing = Body { version: VERSION, group: 1, term: 1, index: 1, wish: None };
        assert!(Request::decode(nothing.encode_to_vec().into()).is_err());
    }
}
