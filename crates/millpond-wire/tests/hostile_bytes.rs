//! Bytes from a hostile or broken peer: no decoder panics, none takes more memory than the frame justifies.

mod samples;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use bytes::Bytes;
use millpond_wire::{
    API_TABLE, ApiKey, Decoder, Encoder, MAX_BYTES_PER_FRAME_BYTE, MAX_FIXED_BYTES, Message, RequestHeader,
    decode_request_by_key, decode_response_by_key,
};
use proptest::prelude::*;
use samples::{Arbitrary, Random, for_each_message, struct_costs};

/// Counts what the current thread holds. A reallocation counts as if the old and the new memory were both held for a
/// moment.
struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    HELD.with(|held| {
        held.set(held.get() + bytes);
        PEAK.with(|peak| peak.set(peak.get().max(held.get())));
    });
}

// SAFETY: everything is handed on to the system's allocator; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What `run` held at most beyond what was held before it.
fn peak_of<T>(run: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.with(Cell::get);
    PEAK.with(|peak| peak.set(before));
    let result = run();
    (result, (PEAK.with(Cell::get) - before) as usize)
}

/// Decodes both ways of the API and checks what that took. Tells whether one of them is a message.
fn decode_within_bounds(key: ApiKey, version: i16, frame: &Bytes) -> bool {
    let limit = frame.len() * MAX_BYTES_PER_FRAME_BYTE + MAX_FIXED_BYTES;
    let (request, held) = peak_of(|| decode_request_by_key(key, version, frame.clone()));
    assert!(held <= limit, "{key} request {version}: {held} bytes for a frame of {}", frame.len());
    let (response, held) = peak_of(|| decode_response_by_key(key, version, frame.clone()));
    assert!(held <= limit, "{key} response {version}: {held} bytes for a frame of {}", frame.len());
    request.is_ok() || response.is_ok()
}

fn every_version(mut run: impl FnMut(ApiKey, i16)) {
    for spec in &API_TABLE {
        (spec.min..=spec.max).for_each(|version| run(spec.key, version));
    }
}

#[test]
fn an_element_of_an_array_costs_at_most_half_the_stated_bound() {
    let half = MAX_BYTES_PER_FRAME_BYTE / 2;
    assert!(size_of::<millpond_wire::Str>() <= half, "an empty compact string takes one byte of the frame");
    for (name, version, in_memory, on_the_wire, is_message) in struct_costs() {
        let fits = is_message || in_memory <= on_the_wire * half;
        assert!(fits, "{name} {version}: {in_memory} bytes in memory for {on_the_wire} on the wire");
    }
}

#[test]
fn frames_of_one_byte_repeated_stay_within_the_bound() {
    for fill in [0x00, 0x01, 0x02, 0x03, 0x05, 0x7f, 0x80, 0xff] {
        let frame = Bytes::from(vec![fill; 8 << 10]);
        every_version(|key, version| {
            decode_within_bounds(key, version, &frame);
        });
    }
}

/// The dearest frames there are: a long array of the emptiest elements, one more than the vector has room for at first.
#[test]
fn a_frame_full_of_empty_elements_stays_within_the_bound() {
    let count = (1 << 20) + 1;
    let length = [0x82, 0x80, 0x40]; // the compact length of that many elements

    let mut frame = length.to_vec();
    frame.resize(length.len() + count, 1);
    frame.extend([0, 0]);
    let frame = Bytes::from(frame);
    let (result, held) = peak_of(|| decode_request_by_key(ApiKey::CONSUMER_GROUP_DESCRIBE, 0, frame.clone()));
    assert_eq!(result, Ok(()));
    assert!(held > frame.len() * 60 && held < frame.len() * 64 + MAX_FIXED_BYTES, "group ids: {held}");

    let mut frame = vec![0; 6];
    frame.extend(length);
    (0..count).for_each(|_| frame.extend([1, 1, 0]));
    frame.push(0);
    let frame = Bytes::from(frame);
    let (result, held) = peak_of(|| decode_response_by_key(ApiKey::LIST_GROUPS, 3, frame.clone()));
    assert_eq!(result, Ok(()));
    assert!(held > frame.len() * 80 && held < frame.len() * MAX_BYTES_PER_FRAME_BYTE, "listed groups: {held}");
}

/// Lengths that claim more than there is, at every place of a valid message.
#[test]
fn a_claimed_length_allocates_nothing_that_is_not_there() {
    fn check<M: Message + Arbitrary>() {
        for version in M::MIN..=M::MAX {
            let mut encoder = Encoder::new();
            M::arbitrary(&mut Random(7), version).encode(&mut encoder, version).expect("a value made for this version");
            let valid = encoder.finish().to_bytes();
            for at in 0..valid.len().min(200) {
                for claim in [[0x7f, 0xff, 0xff, 0xff], [0x00, 0x0f, 0xff, 0xff], [0xff, 0xff, 0xff, 0x0f], [0xff; 4]] {
                    let mut bytes = valid[..at].to_vec();
                    bytes.extend(claim);
                    bytes.extend(&valid[at..]);
                    let frame = Bytes::from(bytes);
                    let limit = frame.len() * MAX_BYTES_PER_FRAME_BYTE + MAX_FIXED_BYTES;
                    let (_, held) = peak_of(|| M::decode(&mut Decoder::new(frame.clone()), version).is_ok());
                    assert!(held <= limit, "{} {version}: {held} bytes for a frame of {}", M::NAME, frame.len());
                }
            }
        }
    }
    macro_rules! visit {
        ($module:ident, $message:ident) => {
            check::<millpond_wire::$module::$message>();
        };
    }
    for_each_message!(visit);
}

#[test]
fn mutated_messages_never_panic_and_stay_within_the_bound() {
    fn check<M: Message + Arbitrary>(refused: &mut usize) {
        for version in M::MIN..=M::MAX {
            for seed in 0..60 {
                let random = &mut Random(seed << 24 | (version as u64) << 8 | M::KEY.0 as u64);
                let mut encoder = Encoder::new();
                M::arbitrary(random, version).encode(&mut encoder, version).expect("a value made for this version");
                let mut bytes = encoder.finish().to_bytes().to_vec();
                for _ in 0..=random.below(3) {
                    let at = random.below(bytes.len() + 1);
                    match random.below(5) {
                        0 => bytes.truncate(at),
                        1 => bytes.insert(at, random.next() as u8),
                        2 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
                        3 if at < bytes.len() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][random.below(5)],
                        _ => bytes.extend((0..random.below(40)).map(|_| random.next() as u8)),
                    }
                }
                *refused += usize::from(!decode_within_bounds(M::KEY, version, &Bytes::from(bytes)));
            }
        }
    }
    let mut refused = 0;
    macro_rules! visit {
        ($module:ident, $message:ident) => {
            check::<millpond_wire::$module::$message>(&mut refused);
        };
    }
    for_each_message!(visit);
    assert!(refused > 1000, "the mutations must bite: {refused} refused");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_never_panic_and_stay_within_the_bound(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let frame = Bytes::from(bytes);
        every_version(|key, version| {
            decode_within_bounds(key, version, &frame);
        });
    }

    #[test]
    fn small_bytes_never_panic_and_stay_within_the_bound(bytes in prop::collection::vec(0u8..6, 0..600)) {
        let frame = Bytes::from(bytes);
        every_version(|key, version| {
            decode_within_bounds(key, version, &frame);
        });
    }

    #[test]
    fn a_request_header_of_arbitrary_bytes_never_panics(
        key in 0i16..95, version in 0i16..20, rest in any::<Vec<u8>>()
    ) {
        let mut frame = key.to_be_bytes().to_vec();
        frame.extend(version.to_be_bytes());
        frame.extend(rest);
        if let Ok(header) = RequestHeader::decode(&mut Decoder::new(Bytes::from(frame))) {
            prop_assert_eq!((header.api_key, header.api_version), (ApiKey(key), version));
        }
    }
}
