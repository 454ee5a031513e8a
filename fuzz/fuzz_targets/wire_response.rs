//! A response frame: header and body decode, or are refused.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use millpond_wire::{API_TABLE, Decoder, ResponseHeader, decode_response_by_key};

fuzz_target!(|data: &[u8]| {
    let [api, version, rest @ ..] = data else { return };
    let spec = &API_TABLE[usize::from(*api) % API_TABLE.len()];
    let version = spec.min - 1 + i16::from(*version) % (spec.max - spec.min + 3);
    let frame = Bytes::copy_from_slice(rest);
    let mut decoder = Decoder::new(frame.clone());
    if ResponseHeader::decode(&mut decoder, spec.key, version).is_ok() {
        let _ = decode_response_by_key(spec.key, version, frame.slice(decoder.position()..));
    }
});
