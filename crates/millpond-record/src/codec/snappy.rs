//! Snappy in the two framings that clients send.
//!
//! Raw: one Snappy block. Framed, as snappy-java's `SnappyOutputStream` writes it:
//!
//! ```text
//!  at  bytes
//!   0    8   magic: 0x82 "SNAPPY" 0x00
//!   8    4   version, 1
//!  12    4   least version that reads it, 1
//!  16        blocks: length (4), then a raw Snappy block of that length
//! ```
//!
//! A framed stream may be followed by another, with its own header.

use super::{Codec, CodecError};

const FRAME_MAGIC: [u8; 8] = *b"\x82SNAPPY\0";
const FRAME_HEADER_BYTES: usize = 16;
const BLOCK_BYTES: usize = 32 << 10;
/// A Snappy copy of 3 bytes yields at most 64, so no valid block yields more than this per byte.
const MAX_RATIO: usize = 22;

const _: () = assert!(FRAME_HEADER_BYTES == FRAME_MAGIC.len() + 8);

pub(super) fn compress_framed(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(FRAME_HEADER_BYTES + bytes.len() / 2);
    out.extend_from_slice(&FRAME_MAGIC);
    out.extend_from_slice(&1i32.to_be_bytes());
    out.extend_from_slice(&1i32.to_be_bytes());
    let mut encoder = snap::raw::Encoder::new();
    for block in bytes.chunks(BLOCK_BYTES) {
        let compressed = encoder.compress_vec(block).expect("a block of 32 KiB is within Snappy's limit");
        out.extend_from_slice(&(compressed.len() as i32).to_be_bytes());
        out.extend_from_slice(&compressed);
    }
    out
}

/// The blocks of a compressed payload, one after the other, whichever the framing.
pub(super) struct Blocks<'a> {
    rest: &'a [u8],
    framed: bool,
}

impl<'a> Blocks<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Blocks<'a> {
        Blocks { rest: bytes, framed: bytes.starts_with(&FRAME_MAGIC) }
    }

    /// Decompresses the next block into `out`, in place of what was there; false at the end. A block that would yield
    /// more than `max_bytes` is an error of `too_large`, and nothing is allocated for it.
    pub(super) fn next_into(
        &mut self,
        out: &mut Vec<u8>,
        max_bytes: usize,
        too_large: impl Fn() -> CodecError,
    ) -> Result<bool, CodecError> {
        let Some(block) = self.next_block()? else { return Ok(false) };
        let corrupt = |error| CodecError::corrupt(Codec::Snappy, error);
        let size = snap::raw::decompress_len(block).map_err(corrupt)?;
        if size > max_bytes {
            return Err(too_large());
        }
        if size > block.len().saturating_mul(MAX_RATIO) {
            return Err(CodecError::corrupt(
                Codec::Snappy,
                format_args!("a block of {} bytes claims to hold {size}", block.len()),
            ));
        }
        out.resize(size, 0);
        snap::raw::Decoder::new().decompress(block, out).map_err(corrupt)?;
        Ok(true)
    }

    fn next_block(&mut self) -> Result<Option<&'a [u8]>, CodecError> {
        if !self.framed {
            // Even nothing at all is a block: one byte says so. No bytes are not.
            let whole = std::mem::take(&mut self.rest);
            self.framed = true;
            return Ok(Some(whole));
        }
        let cut_short = || CodecError::corrupt(Codec::Snappy, "a frame is cut short");
        while self.rest.starts_with(&FRAME_MAGIC) {
            self.rest = self.rest.get(FRAME_HEADER_BYTES..).ok_or_else(cut_short)?;
        }
        if self.rest.is_empty() {
            return Ok(None);
        }
        let (length, rest) = self.rest.split_first_chunk().ok_or_else(cut_short)?;
        let (block, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize).ok_or_else(cut_short)?;
        self.rest = rest;
        Ok(Some(block))
    }
}
