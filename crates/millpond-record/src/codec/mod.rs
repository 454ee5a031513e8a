//! The codecs of a batch's records (`CompressionType`), with a bound on what comes out.

mod decompressor;
mod snappy;

use std::fmt;
use std::io::Write;

pub(crate) use decompressor::Decompressor;
use flate2::Compression;
use flate2::write::GzEncoder;
use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};

/// How the records of a batch are compressed. The numbers are those of the attribute bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(u8)]
pub enum Codec {
    /// Not at all.
    #[default]
    None = 0,
    /// RFC 1952, one or more members.
    Gzip = 1,
    /// A raw Snappy block, or the framing of snappy-java ("xerial") that Java's client writes.
    Snappy = 2,
    /// The LZ4 frame format.
    Lz4 = 3,
    /// Zstandard frames (KIP-110).
    Zstd = 4,
}

impl Codec {
    /// Every codec, in the order of their numbers.
    pub const ALL: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

    /// The codec of a number from the attribute bits.
    ///
    /// # Errors
    ///
    /// The number, if no codec has it.
    pub fn from_id(id: u8) -> Result<Codec, u8> {
        Codec::ALL.into_iter().find(|codec| *codec as u8 == id).ok_or(id)
    }

    /// The name in Kafka's `compression.type`, save that Kafka's setting says `uncompressed` for `none`.
    pub fn name(self) -> &'static str {
        match self {
            Codec::None => "none",
            Codec::Gzip => "gzip",
            Codec::Snappy => "snappy",
            Codec::Lz4 => "lz4",
            Codec::Zstd => "zstd",
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The most bytes that decompression may yield. Beside them a decoder keeps a working memory, bounded whatever the
/// input says: for Snappy one block, within the limit; for LZ4 up to 13 MiB; for Zstandard a window of 8 MiB, or of the
/// limit if that is more, 128 MiB at most.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct DecompressLimit(pub usize);

/// Why bytes could not be decompressed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CodecError {
    /// There is more than the limit allows.
    #[error("{codec} data decompresses to more than the limit of {limit_bytes} bytes")]
    TooLarge {
        /// The codec.
        codec: Codec,
        /// The limit.
        limit_bytes: usize,
    },
    /// The bytes are not what the codec writes.
    #[error("{codec} data is corrupt: {detail}")]
    Corrupt {
        /// The codec.
        codec: Codec,
        /// What the decoder found, for people.
        detail: Box<str>,
    },
}

impl CodecError {
    fn corrupt(codec: Codec, detail: impl fmt::Display) -> CodecError {
        CodecError::Corrupt { codec, detail: detail.to_string().into() }
    }
}

/// Compresses at the codec's default level: gzip 6, zstd 3, as Kafka does. Snappy is written in snappy-java's framing.
pub fn compress(codec: Codec, bytes: &[u8]) -> Vec<u8> {
    let in_memory = "a write to memory does not fail";
    match codec {
        Codec::None => bytes.to_vec(),
        Codec::Gzip => {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(bytes).expect(in_memory);
            encoder.finish().expect(in_memory)
        }
        Codec::Snappy => snappy::compress_framed(bytes),
        Codec::Lz4 => {
            // Java's client reads independent blocks only.
            let info = FrameInfo::new().block_mode(BlockMode::Independent).block_size(BlockSize::Max64KB);
            let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
            encoder.write_all(bytes).expect(in_memory);
            encoder.finish().expect(in_memory)
        }
        Codec::Zstd => zstd::bulk::compress(bytes, zstd::DEFAULT_COMPRESSION_LEVEL).expect(in_memory),
    }
}

/// Decompresses the whole input. What is allocated grows with what comes out, up to the limit.
///
/// # Errors
///
/// [`CodecError`].
pub fn decompress(codec: Codec, bytes: &[u8], limit: DecompressLimit) -> Result<Vec<u8>, CodecError> {
    const LEAST_ROOM_BYTES: usize = 4 << 10;
    let mut decompressor = Decompressor::new(codec, bytes, limit)?;
    let (mut out, mut filled) = (Vec::new(), 0);
    loop {
        if filled == limit.0 {
            // At the limit a read tells the end from too much; there is nothing to keep of it.
            decompressor.read(&mut [0])?;
            break;
        }
        if filled == out.len() {
            // Doubling copies each byte a constant number of times.
            let room = filled.max(LEAST_ROOM_BYTES).min(limit.0 - filled);
            out.reserve_exact(room);
            out.resize(filled + room, 0);
        }
        match decompressor.read(&mut out[filled..])? {
            0 => break,
            count => filled += count,
        }
    }
    out.truncate(filled);
    Ok(out)
}

#[cfg(test)]
mod tests;
