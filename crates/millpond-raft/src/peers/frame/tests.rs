use std::pin::Pin;
use std::task::{Context, Poll};

use futures::FutureExt;
use proptest::prelude::*;
use tokio::io::ReadBuf;

use super::*;
use crate::peers::messages::CallHead;

/// A connection that gives its bytes in pieces of at most `piece`.
struct Pieces<'a> {
    bytes: &'a [u8],
    piece: usize,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let count = self.piece.min(self.bytes.len()).min(buffer.remaining());
        let (now, later) = self.bytes.split_at(count);
        buffer.put_slice(now);
        self.bytes = later;
        Poll::Ready(Ok(()))
    }
}

fn bytes_of(frames: Vec<Outgoing>) -> Vec<u8> {
    frames.into_iter().flat_map(|mut frame| frame.take_chunks()).flatten().collect()
}

fn reader(bytes: &[u8], piece: usize) -> FrameReader<Pieces<'_>> {
    let mut reader = FrameReader::new(Pieces { bytes, piece });
    reader.trust();
    reader
}

fn next<R: AsyncRead + Unpin>(reader: &mut FrameReader<R>) -> Result<Option<Frame>, FrameError> {
    reader.next().now_or_never().expect("these bytes are there at once")
}

fn call(id: u64, body: &[Bytes]) -> Outgoing {
    Outgoing::new(Kind::Call, id, &CallHead { service: 7 }, body)
}

#[test]
fn a_frame_has_the_bytes_that_the_diagram_shows() {
    let bytes = bytes_of(vec![call(258, &[Bytes::from_static(b"abc"), Bytes::from_static(b"de")])]);
    let head = [8, 7];
    assert_eq!(bytes[..4], [0, 0, 0, 24]);
    assert_eq!(bytes[4..8], crc32fast::hash(&bytes[8..]).to_be_bytes());
    assert_eq!(bytes[8..21], [7, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 2]);
    assert_eq!(bytes[21..23], head);
    assert_eq!(&bytes[23..], b"abcde");
}

#[test]
fn frames_of_all_sizes_are_read_whatever_pieces_they_come_in() {
    let sizes = [0, 1, 100, READ_BYTES - 40, READ_BYTES, READ_BYTES + 1, TRUSTED_BYTES + 5, 3 * TRUSTED_BYTES];
    let body = |size: usize| Bytes::from((0..size).map(|at| (at * 7 + size) as u8).collect::<Vec<u8>>());
    let frames = sizes.iter().enumerate().map(|(id, size)| call(id as u64, &[body(*size)])).collect();
    let bytes = bytes_of(frames);
    for piece in [3_000, 65_536, usize::MAX] {
        let mut reader = reader(&bytes, piece);
        for (id, size) in sizes.iter().enumerate() {
            let frame = next(&mut reader).expect("whole").expect("another");
            assert_eq!((frame.kind, frame.id), (Kind::Call, id as u64));
            assert_eq!(frame.head::<CallHead>().expect("its head").service, 7);
            assert!(frame.body == body(*size), "the body of {size} bytes in pieces of {piece}");
        }
        assert!(next(&mut reader).expect("a clean end").is_none());
    }
}

#[test]
fn a_length_beyond_the_limit_is_refused_before_anything_is_read_or_allocated() {
    let table = [
        (MAX_HANDSHAKE_BYTES + 1, false, true),
        (MAX_HANDSHAKE_BYTES, false, false),
        (MAX_FRAME_BYTES + 1, true, true),
        (u32::MAX as usize, true, true),
        (MAX_FRAME_BYTES, true, false),
    ];
    for (length, trusted, refused) in table {
        let bytes = (length as u32).to_be_bytes();
        let mut reader = FrameReader::new(&bytes[..]);
        if trusted {
            reader.trust();
        }
        let read = next(&mut reader);
        match refused {
            true => assert!(matches!(read, Err(FrameError::TooLong { .. })), "{length}: {read:?}"),
            false => assert!(matches!(read, Err(FrameError::Cut)), "{length}: {read:?}"),
        }
        assert!(reader.long.is_none_or(|(_, frame)| frame.capacity() <= 2 * TRUSTED_BYTES));
    }
}

#[test]
fn what_is_too_short_cut_or_of_an_unknown_kind_is_refused() {
    let whole = bytes_of(vec![call(1, &[Bytes::from_static(b"body")])]);
    for cut in 1..whole.len() {
        assert!(matches!(next(&mut reader(&whole[..cut], usize::MAX)), Err(FrameError::Cut)), "{cut}");
    }
    assert!(matches!(next(&mut reader(&[0, 0, 0, 16], 9)), Err(FrameError::TooShort(16))));
    for kind in [0, 200] {
        let mut strange = whole.clone();
        strange[8] = kind;
        let crc = crc32fast::hash(&strange[8..]);
        strange[4..8].copy_from_slice(&crc.to_be_bytes());
        let read = next(&mut reader(&strange, usize::MAX));
        assert!(matches!(read, Err(FrameError::UnknownKind(found)) if found == kind), "{read:?}");
    }
    let mut strange = whole.clone();
    strange[17..21].copy_from_slice(&1000u32.to_be_bytes());
    let crc = crc32fast::hash(&strange[8..]);
    strange[4..8].copy_from_slice(&crc.to_be_bytes());
    assert!(matches!(next(&mut reader(&strange, usize::MAX)), Err(FrameError::Malformed { .. })));
}

#[test]
fn a_connection_that_does_not_begin_with_the_magic_is_none_of_ours() {
    for (bytes, ours) in [(&b"MILLPEER"[..], true), (b"MILLPEAR", false), (b"GET / HTTP/1.1\r\n", false), (b"X", false)]
    {
        let mut reader = FrameReader::new(Pieces { bytes, piece: 3 });
        assert_eq!(reader.magic().now_or_never().expect("at once").expect("readable"), ours);
    }
    let mut short = FrameReader::new(&b"MILL"[..]);
    assert!(matches!(short.magic().now_or_never().expect("at once"), Err(FrameError::Cut)));
}

proptest! {
    #[test]
    fn a_frame_with_any_bit_flipped_is_refused(body: Vec<u8>, id: u64, at: prop::sample::Index, bit in 0..8u32) {
        let mut bytes = bytes_of(vec![call(id, &[Bytes::from(body)])]);
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(next(&mut reader(&bytes, usize::MAX)).is_err());
    }

    #[test]
    fn bytes_that_are_no_frames_end_in_an_error_and_never_in_a_panic(bytes: Vec<u8>, piece in 1..40usize) {
        let mut reader = reader(&bytes, piece);
        loop {
            match next(&mut reader) {
                Ok(Some(_)) => {}
                Ok(None) => break prop_assert!(bytes.is_empty()),
                Err(_) => break,
            }
        }
    }
}

#[test]
fn a_head_that_would_take_much_more_memory_than_its_bytes_is_not_decoded() {
    #[derive(Clone, PartialEq, prost::Message)]
    struct Many {
        #[prost(message, repeated, tag = "1")]
        empty: Vec<CallHead>,
    }
    for (heads, whole) in [(300, true), (MAX_HEAD_BYTES, false)] {
        let head = Many { empty: vec![CallHead::default(); heads] };
        let bytes = bytes_of(vec![Outgoing::new(Kind::Append, 1, &head, &[])]);
        let frame = next(&mut reader(&bytes, usize::MAX)).expect("whole").expect("a frame");
        assert_eq!(frame.head::<Many>().is_ok(), whole, "{heads}");
    }
}
