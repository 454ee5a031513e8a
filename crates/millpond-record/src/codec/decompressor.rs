//! Decompression as a stream, bounded, for all codecs alike.

use std::io::{self, Read};

use flate2::bufread::MultiGzDecoder;
use lz4_flex::frame::FrameDecoder;

use super::snappy::Blocks;
use super::{Codec, CodecError, DecompressLimit};

/// Windows up to this size (RFC 8878 asks every decoder for them) are accepted whatever the limit.
const ZSTD_LEAST_WINDOW_LOG: u32 = 23;
const ZSTD_MOST_WINDOW_LOG: u32 = 27;
const LZ4_FRAME_MAGIC: [u8; 4] = 0x184d_2204u32.to_le_bytes();

/// Yields the decompressed bytes, and an error once there are more than the limit.
pub(crate) struct Decompressor<'a> {
    codec: Codec,
    source: Source<'a>,
    limit: DecompressLimit,
    left: usize,
}

enum Source<'a> {
    Stored(&'a [u8]),
    Gzip(Box<MultiGzDecoder<&'a [u8]>>),
    Snappy { blocks: Blocks<'a>, block: Vec<u8>, at: usize },
    Lz4 { frame: Box<FrameDecoder<Watched<'a>>>, finished: bool },
    Zstd(zstd::stream::read::Decoder<'static, &'a [u8]>),
}

/// Input that remembers whether more was asked for than there is: the LZ4 decoder takes a frame that was cut between
/// blocks for a whole one.
struct Watched<'a> {
    rest: &'a [u8],
    ran_dry: bool,
}

impl Read for Watched<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.rest.read(out)?;
        self.ran_dry |= count == 0 && !out.is_empty();
        Ok(count)
    }
}

impl<'a> Decompressor<'a> {
    pub(crate) fn new(codec: Codec, bytes: &'a [u8], limit: DecompressLimit) -> Result<Decompressor<'a>, CodecError> {
        let corrupt = |error| CodecError::corrupt(codec, error);
        let source = match codec {
            Codec::None => Source::Stored(bytes),
            Codec::Gzip => Source::Gzip(Box::new(MultiGzDecoder::new(bytes))),
            Codec::Snappy => Source::Snappy { blocks: Blocks::new(bytes), block: Vec::new(), at: 0 },
            Codec::Lz4 => {
                // The decoder would also read the legacy format, which no consumer does.
                if !bytes.starts_with(&LZ4_FRAME_MAGIC) {
                    return Err(CodecError::corrupt(codec, "no frame begins here"));
                }
                let watched = Watched { rest: bytes, ran_dry: false };
                Source::Lz4 { frame: Box::new(FrameDecoder::new(watched)), finished: false }
            }
            Codec::Zstd => {
                if bytes.is_empty() {
                    return Err(CodecError::corrupt(codec, "no frame begins here"));
                }
                let mut decoder = zstd::stream::read::Decoder::with_buffer(bytes).map_err(corrupt)?;
                let window_log = limit.0.max(1).ilog2() + 1;
                decoder
                    .window_log_max(window_log.clamp(ZSTD_LEAST_WINDOW_LOG, ZSTD_MOST_WINDOW_LOG))
                    .map_err(corrupt)?;
                Source::Zstd(decoder)
            }
        };
        Ok(Decompressor { codec, source, limit, left: limit.0 })
    }

    /// Fills `out` with the next bytes, in part or in whole; 0 at the end. `out` is not empty.
    pub(crate) fn read(&mut self, out: &mut [u8]) -> Result<usize, CodecError> {
        let (codec, limit_bytes) = (self.codec, self.limit.0);
        let too_large = || CodecError::TooLarge { codec, limit_bytes };
        let corrupt = |error| CodecError::corrupt(codec, error);
        // One byte beyond the limit is asked for, to tell the end from too much.
        let wanted = out.len().min(self.left.saturating_add(1));
        let out = &mut out[..wanted];
        let count = match &mut self.source {
            Source::Stored(rest) => {
                let (now, later) = rest.split_at(rest.len().min(wanted));
                out[..now.len()].copy_from_slice(now);
                *rest = later;
                now.len()
            }
            Source::Gzip(decoder) => decoder.read(out).map_err(corrupt)?,
            Source::Snappy { blocks, block, at } => {
                while *at == block.len() {
                    *at = 0;
                    if !blocks.next_into(block, self.left, too_large)? {
                        block.clear();
                        return Ok(0);
                    }
                }
                let now = (block.len() - *at).min(wanted);
                out[..now].copy_from_slice(&block[*at..*at + now]);
                *at += now;
                now
            }
            Source::Lz4 { finished: true, .. } => 0,
            Source::Lz4 { frame, finished } => {
                let count = frame.read(out).map_err(corrupt)?;
                if count == 0 {
                    *finished = true;
                    let Watched { rest, ran_dry } = frame.get_ref();
                    if *ran_dry {
                        return Err(CodecError::corrupt(codec, "the frame is cut short"));
                    } else if !rest.is_empty() {
                        return Err(CodecError::corrupt(codec, "bytes follow the frame"));
                    }
                }
                count
            }
            Source::Zstd(decoder) => decoder.read(out).map_err(corrupt)?,
        };
        self.left = self.left.checked_sub(count).ok_or_else(too_large)?;
        Ok(count)
    }
}
