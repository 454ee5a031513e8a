//! Reading Kafka frames from a connection: a 4-byte length, then that many bytes.
//!
//! Small frames are slices of one buffer that is used again as soon as nobody holds a slice of it. A large frame is
//! read straight into a buffer of its own, so that the batches in it can be kept in the tail cache without a copy.
//! Memory follows the bytes that really came: the shared buffer grows with what a client sends at once, and of what a
//! length only announces at most [`EAGER_BYTES`] are reserved.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use millpond_wire::ApiKey;
use tokio::io::AsyncRead;
use tokio_util::io::poll_read_buf;

/// Size of the buffer that small frames share, at first: idle connections are many.
const SHARED_BYTES_MIN: usize = 4 << 10;
/// Its size where a client fills it.
const SHARED_BYTES_MAX: usize = 64 << 10;
/// Frames of this size and above get a buffer of their own.
const OWN_BUFFER_FROM: usize = SHARED_BYTES_MAX / 2;
/// The most that is reserved for a frame of which nothing has come yet.
const EAGER_BYTES: usize = 1 << 20;
/// How much is read after a large frame, when probably another one follows: enough for its length and little more, so
/// that little is copied into the buffer of its own.
const PEEK_BYTES: usize = 4 << 10;
/// Less room than this is not worth a read.
const ROOM_BYTES: usize = 1 << 10;
const LENGTH_BYTES: usize = 4;
/// API key, version and correlation id: no request is shorter.
const MIN_FRAME_BYTES: usize = 8;

/// The largest request other than Produce. Its small elements take many times their bytes when they are decoded, and no
/// client needs as much: a hundred thousand partitions fit.
const MAX_OTHER_BYTES: usize = 4 << 20;

/// A length that no request can have.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("it announced a request of {length} bytes; allowed are {MIN_FRAME_BYTES} to {max}")]
pub(crate) struct BadLength {
    length: i32,
    max: usize,
}

/// A complete frame, without its length.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) payload: Bytes,
    /// Size of the allocation that a slice of the payload keeps alive.
    pub(crate) pinned_bytes: usize,
    /// It had a buffer of its own, for which [`FrameReader::large_frame`] was asked.
    pub(crate) is_large: bool,
}

pub(crate) struct FrameReader {
    shared: BytesMut,
    /// Size of the next shared buffer.
    shared_bytes: usize,
    /// The large frame that is being read; its length prefix is stripped.
    own: Option<OwnBuffer>,
    last_was_large: bool,
    max: usize,
}

struct OwnBuffer {
    buffer: BytesMut,
    /// Bytes that the whole frame has.
    total: usize,
}

impl FrameReader {
    /// `max`: the largest Produce, in bytes.
    pub(crate) fn new(max: usize) -> FrameReader {
        FrameReader { shared: BytesMut::new(), shared_bytes: SHARED_BYTES_MIN, own: None, last_was_large: false, max }
    }

    /// Takes the next complete frame out of what has been read.
    pub(crate) fn next_frame(&mut self) -> Result<Option<Frame>, BadLength> {
        if let Some(own) = &mut self.own {
            if own.buffer.len() < own.total {
                return Ok(None);
            }
            let payload = std::mem::take(&mut own.buffer).freeze();
            let pinned_bytes = own.total;
            self.own = None;
            self.last_was_large = true;
            return Ok(Some(Frame { payload, pinned_bytes, is_large: true }));
        }
        let Some(total) = self.announced()? else { return Ok(None) };
        if self.shared.len() >= LENGTH_BYTES + total {
            self.shared.advance(LENGTH_BYTES);
            self.last_was_large = false;
            let payload = self.shared.split_to(total).freeze();
            return Ok(Some(Frame { payload, pinned_bytes: self.shared_bytes.max(total), is_large: false }));
        }
        Ok(None)
    }

    /// Whether the next frame is not there yet: reading makes sense. False also before a length that will be refused.
    pub(crate) fn wants_bytes(&self) -> bool {
        match &self.own {
            Some(own) => own.buffer.len() < own.total,
            None => match self.announced() {
                Ok(Some(total)) => self.shared.len() < LENGTH_BYTES + total,
                Ok(None) => true,
                Err(_) => false,
            },
        }
    }

    /// Moves the beginning of a large frame to a buffer of its own. The frame is not complete, so all that is in the
    /// shared buffer belongs to it.
    fn begin_large_frame(&mut self) {
        let Ok(Some(total)) = self.announced() else { return };
        if self.own.is_none() && total >= OWN_BUFFER_FROM {
            self.shared.advance(LENGTH_BYTES);
            let mut buffer = BytesMut::with_capacity(total.min(EAGER_BYTES));
            buffer.extend_from_slice(&self.shared);
            self.shared.clear();
            self.own = Some(OwnBuffer { buffer, total });
        }
    }

    /// The bytes of the large frame that is about to be gathered: memory for it should be there before it is read.
    pub(crate) fn large_frame(&self) -> Option<usize> {
        match self.announced() {
            Ok(Some(total)) if self.own.is_none() && total >= OWN_BUFFER_FROM => {
                Some(total).filter(|total| self.shared.len() < LENGTH_BYTES + total)
            }
            _ => None,
        }
    }

    /// Whether a large frame has begun to arrive, for which memory was taken.
    pub(crate) fn is_gathering(&self) -> bool {
        self.own.is_some() && self.wants_bytes()
    }

    /// The length at the front of the shared buffer, once it and what it is the length of are there.
    fn announced(&self) -> Result<Option<usize>, BadLength> {
        let Some(bytes) = self.shared.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let length = i32::from_be_bytes(*bytes);
        let within = |max| match usize::try_from(length) {
            Ok(total) if (MIN_FRAME_BYTES..=max).contains(&total) => Ok(total),
            _ => Err(BadLength { length, max }),
        };
        within(self.max)?;
        let Some(key) = self.shared.get(LENGTH_BYTES..LENGTH_BYTES + 2) else { return Ok(None) };
        let is_produce = key == ApiKey::PRODUCE.0.to_be_bytes();
        within(if is_produce { self.max } else { self.max.min(MAX_OTHER_BYTES) }).map(Some)
    }

    /// Reads once; `Ok(0)` is the end of the stream. Only called while [`FrameReader::wants_bytes`].
    pub(crate) fn poll_read<R: AsyncRead>(
        &mut self,
        stream: Pin<&mut R>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        self.begin_large_frame();
        if let Some(own) = &mut self.own {
            let missing = own.total - own.buffer.len();
            if own.buffer.len() == own.buffer.capacity() {
                own.buffer.reserve(missing.min(own.buffer.len().max(EAGER_BYTES)));
            }
            return poll_read_buf(stream, context, &mut (&mut own.buffer).limit(missing));
        }
        self.make_room();
        let room = self.shared.capacity() - self.shared.len();
        let limit = if self.last_was_large && self.shared.is_empty() { PEEK_BYTES } else { room };
        let read = ready!(poll_read_buf(stream, context, &mut (&mut self.shared).limit(limit)))?;
        if read == room {
            self.shared_bytes = (self.shared_bytes * 4).min(SHARED_BYTES_MAX);
        }
        Poll::Ready(Ok(read))
    }

    /// Makes room for the rest of the frame, or, where its length is not known yet, for a read that is worth it.
    fn make_room(&mut self) {
        let wanted = match self.announced() {
            Ok(Some(total)) => LENGTH_BYTES + total,
            _ => self.shared.len() + ROOM_BYTES,
        };
        if self.shared.capacity() >= wanted {
            return;
        }
        let size = self.shared_bytes.max(wanted);
        // `try_reclaim` moves to the front of the allocation, if nobody else holds a part of it.
        if !self.shared.try_reclaim(size - self.shared.len()) {
            let mut fresh = BytesMut::with_capacity(size);
            fresh.extend_from_slice(&self.shared);
            self.shared = fresh;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    /// Feeds `bytes` in pieces of `piece` and returns the frames.
    fn frames(mut bytes: &[u8], piece: usize) -> Result<Vec<Frame>, BadLength> {
        let mut reader = FrameReader::new(8 << 20);
        let mut context = Context::from_waker(Waker::noop());
        let mut found = Vec::new();
        loop {
            while let Some(frame) = reader.next_frame()? {
                found.push(frame);
            }
            let (mut part, rest) = bytes.split_at(piece.min(bytes.len()));
            if part.is_empty() {
                return Ok(found);
            }
            let before = part.len();
            match reader.poll_read(Pin::new(&mut part), &mut context) {
                Poll::Ready(Ok(read)) => assert!(read > 0 && read == before - part.len()),
                other => panic!("{other:?}"),
            }
            bytes = if part.is_empty() { rest } else { &bytes[before - part.len()..] };
        }
    }

    fn framed(sizes: &[usize]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (i, size) in sizes.iter().enumerate() {
            bytes.put_i32(i32::try_from(*size).expect("small"));
            // Each is a Produce by its first two bytes.
            bytes.extend((0..*size).map(|n| if n < 2 { 0 } else { (n * 31 + i) as u8 }));
        }
        bytes
    }

    #[test]
    fn frames_of_all_sizes_come_whole_and_in_order_however_the_bytes_arrive() {
        let sizes = [8, 100, 31 << 10, 32 << 10, 33 << 10, 9, 2 << 20, 3 << 20, 64 << 10, 10, 40 << 10, 1 << 20, 12];
        let bytes = framed(&sizes);
        for piece in [1021, 64 << 10, usize::MAX] {
            let found = frames(&bytes, piece).expect("good lengths");
            assert_eq!(found.iter().map(|frame| frame.payload.len()).collect::<Vec<_>>(), sizes);
            for (i, frame) in found.iter().enumerate() {
                assert!(
                    frame.payload.iter().enumerate().skip(2).all(|(n, byte)| *byte == (n * 31 + i) as u8),
                    "frame {i}"
                );
            }
        }
    }

    #[test]
    fn one_byte_at_a_time_makes_the_same_frames() {
        let sizes = [8, 300, 9];
        let found = frames(&framed(&sizes), 1).expect("good lengths");
        assert_eq!(found.iter().map(|frame| frame.payload.len()).collect::<Vec<_>>(), sizes);
    }

    #[test]
    fn negative_tiny_and_huge_lengths_are_refused() {
        for length in [-5, 0, 7, i32::MAX, (8 << 20) + 1] {
            let error = frames(&length.to_be_bytes(), 4).expect_err("a bad length");
            assert_eq!(error, BadLength { length, max: 8 << 20 });
        }
    }

    #[test]
    fn a_request_that_is_no_produce_has_a_lower_limit() {
        let announce = |key: i16, length: i32| [&length.to_be_bytes()[..], &key.to_be_bytes()[..]].concat();
        let too_long = (MAX_OTHER_BYTES + 1) as i32;
        let error = frames(&announce(ApiKey::METADATA.0, too_long), 6).expect_err("a bad length");
        assert_eq!(error, BadLength { length: too_long, max: MAX_OTHER_BYTES });
        assert!(frames(&announce(ApiKey::PRODUCE.0, too_long), 6).expect("a good length").is_empty());
    }

    #[test]
    fn a_length_alone_reserves_at_most_a_mebibyte() {
        let mut reader = FrameReader::new(100 << 20);
        let mut context = Context::from_waker(Waker::noop());
        let mut input: &[u8] = &[&(90_i32 << 20).to_be_bytes()[..], &[0, 0]].concat();
        assert!(reader.poll_read(Pin::new(&mut input), &mut context).is_ready());
        assert_eq!(reader.large_frame(), Some(90 << 20));
        assert!(reader.next_frame().expect("a good length").is_none() && reader.wants_bytes());
        assert!(reader.poll_read(Pin::new(&mut &b"x"[..]), &mut context).is_ready());
        assert!(reader.own.as_ref().expect("a large frame").buffer.capacity() <= EAGER_BYTES + 64);
    }

    #[test]
    fn an_idle_connection_keeps_a_small_buffer_and_a_busy_one_a_large_one() {
        let mut context = Context::from_waker(Waker::noop());
        let mut buffer_after = |sizes: &[usize]| {
            let mut reader = FrameReader::new(1 << 20);
            let bytes = framed(sizes);
            let mut input = &bytes[..];
            while !input.is_empty() {
                assert!(reader.poll_read(Pin::new(&mut input), &mut context).is_ready());
                while reader.next_frame().expect("good lengths").is_some() {}
            }
            reader.shared_bytes
        };
        assert_eq!(buffer_after(&[100, 200, 300]), SHARED_BYTES_MIN);
        assert_eq!(buffer_after(&[1000; 200]), SHARED_BYTES_MAX);
    }

    #[test]
    fn the_shared_buffer_is_used_again_when_its_frames_are_gone() {
        let mut reader = FrameReader::new(1 << 20);
        let mut context = Context::from_waker(Waker::noop());
        let bytes = framed(&[1000]);
        let mut places = Vec::new();
        for _ in 0..1000 {
            let mut input = &bytes[..];
            assert!(reader.poll_read(Pin::new(&mut input), &mut context).is_ready());
            let frame = reader.next_frame().expect("a good length").expect("a whole frame");
            places.push(frame.payload.as_ptr() as usize);
        }
        let (low, high) = (places.iter().min().expect("some"), places.iter().max().expect("some"));
        assert!(high - low < SHARED_BYTES_MIN, "the frames lie in one buffer");
    }
}
