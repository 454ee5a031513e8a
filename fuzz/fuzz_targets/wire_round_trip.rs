//! What decodes can be encoded in the same version, and is the same from there on.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use millpond_wire::{API_TABLE, Decoder, Encoder, Message, Request, RequestVisitor, visit_request};

struct RoundTrip {
    version: i16,
    body: Bytes,
}

impl RequestVisitor for RoundTrip {
    type Output = ();
    fn visit<R: Request>(self) {
        round_trip::<R>(self.version, self.body.clone());
        round_trip::<R::Response>(self.version, self.body);
    }
}

fn round_trip<M: Message>(version: i16, body: Bytes) {
    // Bytes may follow the message: the fuzzer need not find its end.
    let Ok(message) = M::decode(&mut Decoder::new(body), version) else { return };
    let bytes = encode(&message, version);
    let mut decoder = Decoder::new(bytes.clone());
    let again = M::decode(&mut decoder, version).expect("what was encoded decodes");
    decoder.finish().expect("what was encoded decodes whole");
    assert_eq!(encode(&again, version), bytes);
}

fn encode<M: Message>(message: &M, version: i16) -> Bytes {
    let mut encoder = Encoder::new();
    message.encode(&mut encoder, version).expect("what was decoded in a version can be encoded in it");
    let chunks = encoder.finish();
    assert_eq!(chunks.len(), chunks.as_slice().iter().map(Bytes::len).sum::<usize>());
    chunks.to_bytes()
}

fuzz_target!(|data: &[u8]| {
    let [api, version, body @ ..] = data else { return };
    let spec = &API_TABLE[usize::from(*api) % API_TABLE.len()];
    let version = spec.min + i16::from(*version) % (spec.max - spec.min + 1);
    visit_request(spec.key, RoundTrip { version, body: Bytes::copy_from_slice(body) });
});
