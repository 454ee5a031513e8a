//! A request frame: header and body decode, or are refused.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use millpond_wire::{API_TABLE, Decoder, RequestHeader, decode_request_by_key};

fuzz_target!(|data: &[u8]| {
    let [api, version, rest @ ..] = data else { return };
    let spec = &API_TABLE[usize::from(*api) % API_TABLE.len()];
    // One version too many on either side, too.
    let version = spec.min - 1 + i16::from(*version) % (spec.max - spec.min + 3);
    let frame = Bytes::from([&spec.key.0.to_be_bytes(), &version.to_be_bytes(), rest].concat());
    let mut decoder = Decoder::new(frame.clone());
    if let Ok(header) = RequestHeader::decode(&mut decoder) {
        assert_eq!((header.api_key, header.api_version), (spec.key, version));
        let _ = decode_request_by_key(spec.key, version, frame.slice(decoder.position()..));
    }
    // The key as the bytes say it.
    let _ = RequestHeader::decode(&mut Decoder::new(Bytes::copy_from_slice(data)));
});
