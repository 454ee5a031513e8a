//! Record bytes as a list of chunks.

use std::fmt;

use bytes::Bytes;

use crate::chunks::{Chunk, join};

/// The bytes of a `records` field: one chunk when decoded (a slice of the frame), any number when encoded.
///
/// Their content is not looked at here: `millpond-record` knows batches.
#[derive(Clone, Default)]
pub struct Records {
    chunks: List,
}

/// One chunk, the case of every decoded frame, needs no list.
#[derive(Clone)]
enum List {
    One(Chunk),
    Many(Vec<Chunk>),
}

impl Default for List {
    fn default() -> List {
        List::One(Chunk::Here(Bytes::new()))
    }
}

impl Records {
    /// The chunks in order; some may be empty.
    pub fn chunks(&self) -> &[Chunk] {
        match &self.chunks {
            List::One(chunk) => std::slice::from_ref(chunk),
            List::Many(chunks) => chunks,
        }
    }

    /// The total length in bytes.
    pub fn len(&self) -> usize {
        self.chunks().iter().map(Chunk::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.chunks().iter().all(Chunk::is_empty)
    }

    /// All bytes that are in memory, as those of decoded records are, in one piece: without a copy when they are one
    /// chunk.
    pub fn to_bytes(&self) -> Bytes {
        join(self.chunks())
    }
}

impl From<Bytes> for Records {
    fn from(chunk: Bytes) -> Records {
        Records { chunks: List::One(Chunk::Here(chunk)) }
    }
}

impl From<Vec<Bytes>> for Records {
    fn from(chunks: Vec<Bytes>) -> Records {
        Records::from_iter(chunks.into_iter().map(Chunk::Here))
    }
}

impl FromIterator<Chunk> for Records {
    fn from_iter<I: IntoIterator<Item = Chunk>>(chunks: I) -> Records {
        Records { chunks: List::Many(chunks.into_iter().collect()) }
    }
}

/// Equal when the bytes are, however they are cut; what is elsewhere, when it is in the same chunks.
impl PartialEq for Records {
    fn eq(&self, other: &Records) -> bool {
        let all_here = |records: &Records| records.chunks().iter().all(|chunk| chunk.here().is_some());
        match all_here(self) && all_here(other) {
            true => self.len() == other.len() && self.to_bytes() == other.to_bytes(),
            false => self.chunks() == other.chunks(),
        }
    }
}

impl Eq for Records {}

impl fmt::Debug for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Records({} bytes in {} chunks)", self.len(), self.chunks().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_equal_however_they_are_cut() {
        let whole = Records::from(Bytes::from_static(b"abcdef"));
        let cut = vec![Bytes::from_static(b"ab"), Bytes::new(), Bytes::from_static(b"cdef")];
        assert_eq!(whole, Records::from(cut.clone()));
        assert_eq!(Records::from(cut).len(), 6);
        assert_ne!(whole, Records::from(Bytes::from_static(b"abcdeg")));
    }

    #[test]
    fn one_chunk_is_not_copied() {
        let chunk = Bytes::from(vec![7; 1000]);
        assert_eq!(Records::from(chunk.clone()).to_bytes().as_ptr(), chunk.as_ptr());
    }
}
