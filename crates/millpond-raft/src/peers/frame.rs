//! The bytes between two brokers: frames, each with its length and its checksum.
//!
//! ```text
//!  0  length       u32   of all that follows this field
//!  4  CRC-32       u32   of all that follows this field
//!  8  kind         u8
//!  9  id           u64   a beat's number, or the id of what is asked and answered
//! 17  head length  u32
//! 21  head               protobuf, as the kind says
//!     body               raw bytes up to the end: a message, or record batches back to back
//! ```
//!
//! Numbers are big endian. A connection begins with [`MAGIC`] and a handshake (`handshake.rs`); nothing of a frame is
//! looked at before its length is known to be sane and its checksum to match.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// What each side sends first.
pub(super) const MAGIC: [u8; 8] = *b"MILLPEER";

const LENGTH_BYTES: usize = 4;
const CRC_BYTES: usize = 4;
const CRC_COVERS_FROM: usize = LENGTH_BYTES + CRC_BYTES;
/// From the kind to the head.
const FIXED_BYTES: usize = 1 + 8 + 4;
const LEAST_LENGTH: usize = CRC_BYTES + FIXED_BYTES;

/// The most bytes of a body that a caller may send, and of an answer: 16 MiB.
pub(super) const MAX_CALL_BYTES: usize = 16 << 20;

/// The longest frame that is read. The largest batch that a journal takes by default has 64 MiB; the rest of a message
/// is what a read of the log adds to it.
pub(super) const MAX_FRAME_BYTES: usize = 66 << 20;

/// The longest frame of a handshake, where it is not yet known who talks.
pub(super) const MAX_HANDSHAKE_BYTES: usize = 4 << 10;

/// The longest head. The longest of honest ones, with the heads of 300 entries (`max_payload_entries` of openraft), has
/// 11 KiB; decoded, one of small messages takes a multiple of its bytes.
const MAX_HEAD_BYTES: usize = 128 << 10;

/// Bytes that are read at a time. A longer frame has an allocation of its own, in which it is read.
const READ_BYTES: usize = 64 << 10;

/// How much memory a frame's length alone can ask for; the rest as its bytes arrive.
const TRUSTED_BYTES: usize = 1 << 20;

const _: () = assert!(MAX_CALL_BYTES + FIXED_BYTES + MAX_HANDSHAKE_BYTES < MAX_FRAME_BYTES);
const _: () = assert!(CRC_COVERS_FROM + FIXED_BYTES == 21);

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        /// What a frame is.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Kind {
            $($(#[$doc])* $name = $number,)*
        }

        impl Kind {
            fn from_byte(byte: u8) -> Option<Kind> {
                match byte {
                    $($number => Some(Kind::$name),)*
                    _ => None,
                }
            }
        }
    };
}

kinds! {
    /// The dialling side says who it is.
    Hello = 1,
    /// The other side says who it is.
    Welcome = 2,
    /// Either side will not talk to the other, and says why.
    Refusal = 3,
    /// The dialling side lives. Answered at once with the same id.
    Beat = 4,
    BeatAnswer = 5,
    /// A message without an answer.
    Tell = 6,
    /// Something to do for the other side, and what came of it.
    Call = 7,
    CallAnswer = 8,
    /// A message of a stream of entries to one replica, and its answer; the id is the stream's.
    Append = 9,
    AppendAnswer = 10,
    /// Nothing more comes on a stream.
    StreamEnd = 11,
    /// Anything else that one replica asks of another.
    RaftRequest = 12,
    RaftAnswer = 13,
}

/// Why a connection cannot be read on.
#[derive(Debug, thiserror::Error)]
pub(super) enum FrameError {
    #[error("a frame of {bytes} bytes, {limit} are allowed")]
    TooLong { bytes: usize, limit: usize },
    #[error("a frame of {0} bytes, too short for any")]
    TooShort(usize),
    #[error("a frame whose checksum does not match")]
    Checksum,
    #[error("a frame of the unknown kind {0}")]
    UnknownKind(u8),
    #[error("a {kind:?} frame with {what}")]
    Malformed { kind: Kind, what: String },
    #[error("the connection ended inside a frame")]
    Cut,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A frame to send: a first chunk with the fixed fields and the head, then the body's chunks, which are shared.
#[derive(Clone, Debug)]
pub(super) struct Outgoing {
    chunks: Vec<Bytes>,
    bytes: usize,
}

impl Outgoing {
    /// A frame whose body is `body`, one chunk after the other.
    pub(super) fn new(kind: Kind, id: u64, head: &impl prost::Message, body: &[Bytes]) -> Outgoing {
        let head_bytes = head.encoded_len();
        let mut first = BytesMut::with_capacity(CRC_COVERS_FROM + FIXED_BYTES + head_bytes);
        // Length and checksum: known at the end.
        first.put_u64(0);
        first.put_u8(kind as u8);
        first.put_u64(id);
        first.put_u32(u32::try_from(head_bytes).expect("a head has a few hundred bytes"));
        head.encode(&mut first).expect("the buffer grows");
        let bytes = first.len() + body.iter().map(Bytes::len).sum::<usize>();
        let mut crc = crc32fast::Hasher::new();
        crc.update(&first[CRC_COVERS_FROM..]);
        body.iter().for_each(|chunk| crc.update(chunk));
        let length = u32::try_from(bytes - LENGTH_BYTES).expect("bodies are held to limits far below 4 GiB");
        first[..LENGTH_BYTES].copy_from_slice(&length.to_be_bytes());
        first[LENGTH_BYTES..CRC_COVERS_FROM].copy_from_slice(&crc.finalize().to_be_bytes());
        let mut chunks = Vec::with_capacity(1 + body.len());
        chunks.push(first.freeze());
        chunks.extend(body.iter().filter(|chunk| !chunk.is_empty()).cloned());
        Outgoing { chunks, bytes }
    }

    /// A frame without head and body.
    pub(super) fn bare(kind: Kind, id: u64) -> Outgoing {
        Outgoing::new(kind, id, &(), &[])
    }

    /// The whole frame's length.
    pub(super) fn len(&self) -> usize {
        self.bytes
    }

    /// How many chunks it has.
    pub(super) fn chunks(&self) -> usize {
        self.chunks.len()
    }

    pub(super) fn take_chunks(&mut self) -> Vec<Bytes> {
        std::mem::take(&mut self.chunks)
    }
}

/// A frame as it was received. Head and body are slices of one allocation.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub(super) kind: Kind,
    pub(super) id: u64,
    head: Bytes,
    pub(super) body: Bytes,
}

impl Frame {
    /// Reads what follows the length field.
    fn parse(frame: Bytes) -> Result<Frame, FrameError> {
        if frame.len() < LEAST_LENGTH {
            return Err(FrameError::TooShort(frame.len()));
        }
        let (crc, covered) = frame.split_at(CRC_BYTES);
        if crc != crc32fast::hash(covered).to_be_bytes() {
            return Err(FrameError::Checksum);
        }
        let kind = Kind::from_byte(covered[0]).ok_or(FrameError::UnknownKind(covered[0]))?;
        let id = u64::from_be_bytes(*covered[1..].first_chunk().expect("the least length was checked"));
        let head_bytes = u32::from_be_bytes(*covered[9..].first_chunk().expect("the least length was checked"));
        let mut head = frame.slice(LEAST_LENGTH..);
        let head_bytes = head_bytes as usize;
        if head_bytes > head.len() {
            return Err(FrameError::Malformed { kind, what: "a head that is longer than itself".to_owned() });
        }
        let body = head.split_off(head_bytes);
        Ok(Frame { kind, id, head, body })
    }

    /// The head, as a message of the kind.
    pub(super) fn head<M: prost::Message + Default>(&self) -> Result<M, FrameError> {
        if self.head.len() > MAX_HEAD_BYTES {
            return Err(self.malformed(format_args!("a head of {} bytes", self.head.len())));
        }
        M::decode(self.head.clone()).map_err(|error| self.malformed(error))
    }

    pub(super) fn malformed(&self, what: impl std::fmt::Display) -> FrameError {
        FrameError::Malformed { kind: self.kind, what: what.to_string() }
    }

    /// The bytes that the frame keeps in memory.
    pub(super) fn size_bytes(&self) -> usize {
        LEAST_LENGTH + self.head.len() + self.body.len()
    }
}

/// Reads frames from a connection.
pub(super) struct FrameReader<R> {
    stream: R,
    limit: usize,
    buffer: BytesMut,
    /// A long frame, without its length field, that is being read: how long it will be, and what is there of it.
    long: Option<(usize, BytesMut)>,
    /// The bytes read so far.
    read: Arc<AtomicU64>,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// A reader that takes the short frames of a handshake, until [`FrameReader::trust`].
    pub(super) fn new(stream: R) -> FrameReader<R> {
        FrameReader { stream, limit: MAX_HANDSHAKE_BYTES, buffer: BytesMut::new(), long: None, read: Arc::default() }
    }

    /// Counts the bytes that are read: something arrives although no frame is complete.
    pub(super) fn progress(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.read)
    }

    /// From now on frames of up to [`MAX_FRAME_BYTES`] are read.
    pub(super) fn trust(&mut self) {
        self.limit = MAX_FRAME_BYTES;
    }

    /// Reads the first bytes of a connection. False when they are others than [`MAGIC`].
    pub(super) async fn magic(&mut self) -> Result<bool, FrameError> {
        while self.buffer.len() < MAGIC.len() {
            if !MAGIC.starts_with(&self.buffer) {
                return Ok(false);
            }
            self.fill().await?;
        }
        Ok(self.buffer.split_to(MAGIC.len()) == MAGIC[..])
    }

    /// The next frame; `None` when the other side has ended the connection between two frames. Safe to cancel.
    pub(super) async fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        loop {
            if let Some((length, frame)) = &mut self.long {
                if frame.len() == *length {
                    let frame = std::mem::take(frame).freeze();
                    self.long = None;
                    return Frame::parse(frame).map(Some);
                }
                if frame.len() == frame.capacity() {
                    frame.reserve((*length - frame.len()).min(frame.len()));
                }
                let missing = *length - frame.len();
                let read = self.stream.read_buf(&mut frame.limit(missing)).await?;
                if read == 0 {
                    return Err(FrameError::Cut);
                }
                self.read.fetch_add(read as u64, Ordering::Relaxed);
                continue;
            }
            if let Some(frame) = self.short()? {
                return Frame::parse(frame).map(Some);
            }
            if self.long.is_none() && !self.fill_or_end().await? {
                return Ok(None);
            }
        }
    }

    /// The next frame, if the buffer has the whole of it. Begins a long one.
    fn short(&mut self) -> Result<Option<Bytes>, FrameError> {
        let Some(length) = self.buffer.first_chunk() else { return Ok(None) };
        let length = u32::from_be_bytes(*length) as usize;
        if length > self.limit {
            return Err(FrameError::TooLong { bytes: length, limit: self.limit });
        }
        if length < LEAST_LENGTH {
            return Err(FrameError::TooShort(length));
        }
        if self.buffer.len() >= LENGTH_BYTES + length {
            let frame = self.buffer.split_to(LENGTH_BYTES + length);
            // A copy, so that what is kept of a frame keeps no more than the frame.
            return Ok(Some(Bytes::copy_from_slice(&frame[LENGTH_BYTES..])));
        }
        if LENGTH_BYTES + length > READ_BYTES {
            let mut frame = BytesMut::with_capacity(length.min(TRUSTED_BYTES));
            frame.extend_from_slice(&self.buffer[LENGTH_BYTES..]);
            self.buffer.clear();
            self.long = Some((length, frame));
        }
        Ok(None)
    }

    async fn fill(&mut self) -> Result<(), FrameError> {
        if self.fill_or_end().await? { Ok(()) } else { Err(FrameError::Cut) }
    }

    /// Reads more; false at the end of the connection between two frames.
    async fn fill_or_end(&mut self) -> Result<bool, FrameError> {
        self.buffer.reserve(READ_BYTES);
        let read = self.stream.read_buf(&mut self.buffer).await?;
        self.read.fetch_add(read as u64, Ordering::Relaxed);
        if read > 0 {
            return Ok(true);
        }
        if self.buffer.is_empty() { Ok(false) } else { Err(FrameError::Cut) }
    }
}

#[cfg(test)]
#[path = "frame/tests.rs"]
mod tests;
