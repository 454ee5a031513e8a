use super::*;
use proptest::prelude::*;

const LIMIT: DecompressLimit = DecompressLimit(1 << 20);

fn text(bytes: usize) -> Vec<u8> {
    b"a mill pond is where logs float, in order, until the mill takes them; "
        .iter()
        .copied()
        .cycle()
        .take(bytes)
        .collect()
}

fn is_too_large(result: Result<Vec<u8>, CodecError>) -> bool {
    matches!(result, Err(CodecError::TooLarge { .. }))
}

#[test]
fn every_codec_gives_back_what_it_took() {
    for codec in Codec::ALL {
        for size in [0, 1, 100, 32 << 10, (32 << 10) + 1, 300_000] {
            let original = text(size);
            assert_eq!(
                decompress(codec, &compress(codec, &original), LIMIT).unwrap(),
                original,
                "{codec}, {size} bytes"
            );
        }
    }
}

#[test]
fn the_limit_holds_to_the_byte() {
    for codec in Codec::ALL {
        for size in [1, 1000, 65_536, 200_000] {
            let compressed = compress(codec, &text(size));
            assert_eq!(decompress(codec, &compressed, DecompressLimit(size)).unwrap().len(), size, "{codec}, {size}");
            assert!(
                is_too_large(decompress(codec, &compressed, DecompressLimit(size - 1))),
                "{codec}, {size} less one"
            );
            assert!(is_too_large(decompress(codec, &compressed, DecompressLimit(0))), "{codec}, {size}, limit 0");
        }
    }
}

#[test]
fn raw_snappy_is_read_like_framed_snappy() {
    let original = text(100_000);
    let raw = snap::raw::Encoder::new().compress_vec(&original).unwrap();
    assert_eq!(decompress(Codec::Snappy, &raw, LIMIT).unwrap(), original);
}

#[test]
fn snappy_streams_one_after_the_other_are_read_as_one() {
    let twice = [compress(Codec::Snappy, b"first "), compress(Codec::Snappy, b"second")].concat();
    assert_eq!(decompress(Codec::Snappy, &twice, LIMIT).unwrap(), b"first second");
}

#[test]
fn gzip_members_one_after_the_other_are_read_as_one() {
    let twice = [compress(Codec::Gzip, b"first "), compress(Codec::Gzip, b"second")].concat();
    assert_eq!(decompress(Codec::Gzip, &twice, LIMIT).unwrap(), b"first second");
}

#[test]
fn a_snappy_block_that_claims_too_much_allocates_nothing() {
    // The length 2^28 as a varint, and hardly a byte to back it.
    let claim = [0x80, 0x80, 0x80, 0x80, 0x01, 0x00];
    let unlimited = DecompressLimit(usize::MAX >> 1);
    assert!(matches!(decompress(Codec::Snappy, &claim, unlimited), Err(CodecError::Corrupt { .. })));
    assert!(is_too_large(decompress(Codec::Snappy, &claim, LIMIT)));
}

#[test]
fn a_zstd_window_above_the_limit_is_refused() {
    // A frame header that asks for a window of 64 MiB (exponent 16), then an empty last block.
    let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 16 << 3, 0x01, 0x00, 0x00];
    assert!(matches!(decompress(Codec::Zstd, &frame, LIMIT), Err(CodecError::Corrupt { .. })));
    assert_eq!(decompress(Codec::Zstd, &frame, DecompressLimit(100 << 20)).unwrap(), b"");
}

#[test]
fn cut_or_lengthened_data_is_corrupt() {
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let compressed = compress(codec, &text(5000));
        let cut = &compressed[..compressed.len() - 1];
        assert!(matches!(decompress(codec, cut, LIMIT), Err(CodecError::Corrupt { .. })), "{codec} cut");
        let lengthened = [&compressed[..], b"\x01"].concat();
        assert!(matches!(decompress(codec, &lengthened, LIMIT), Err(CodecError::Corrupt { .. })), "{codec} lengthened");
        assert!(matches!(decompress(codec, b"", LIMIT), Err(CodecError::Corrupt { .. })), "{codec} empty");
    }
}

#[test]
fn an_lz4_frame_of_the_legacy_format_is_refused() {
    let legacy = [0x02, 0x21, 0x4c, 0x18, 0, 0, 0, 0];
    assert!(matches!(decompress(Codec::Lz4, &legacy, LIMIT), Err(CodecError::Corrupt { .. })));
}

#[test]
fn an_lz4_frame_with_linked_blocks_is_read() {
    let original = text(200_000);
    let info = FrameInfo::new().block_mode(BlockMode::Linked).block_size(BlockSize::Max64KB);
    let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
    encoder.write_all(&original).unwrap();
    assert_eq!(decompress(Codec::Lz4, &encoder.finish().unwrap(), LIMIT).unwrap(), original);
}

#[test]
fn numbers_without_a_codec_are_told() {
    for codec in Codec::ALL {
        assert_eq!(Codec::from_id(codec as u8), Ok(codec));
    }
    for id in 5..8 {
        assert_eq!(Codec::from_id(id), Err(id));
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic_and_stay_within_the_limit(bytes: Vec<u8>, id in 0u8..5, limit in 0usize..2000) {
        let codec = Codec::from_id(id).unwrap();
        if let Ok(out) = decompress(codec, &bytes, DecompressLimit(limit)) {
            prop_assert!(out.len() <= limit);
        }
    }

    #[test]
    fn a_damaged_payload_never_panics_and_stays_within_the_limit(
        bytes in prop::collection::vec(any::<u8>(), 0..3000),
        id in 1u8..5,
        at: prop::sample::Index,
        flip in 1u8..,
    ) {
        let codec = Codec::from_id(id).unwrap();
        let mut compressed = compress(codec, &bytes);
        let at = at.index(compressed.len());
        compressed[at] ^= flip;
        if let Ok(out) = decompress(codec, &compressed, DecompressLimit(bytes.len() + 10)) {
            prop_assert!(out.len() <= bytes.len() + 10);
        }
    }

    #[test]
    fn arbitrary_bytes_come_back_through_every_codec(bytes: Vec<u8>, id in 0u8..5) {
        let codec = Codec::from_id(id).unwrap();
        prop_assert_eq!(decompress(codec, &compress(codec, &bytes), LIMIT).unwrap(), bytes);
    }
}
