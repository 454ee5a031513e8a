//! Record bytes as a list of chunks.

use std::fmt;

use bytes::{Bytes, BytesMut};

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
    One(Bytes),
    Many(Vec<Bytes>),
}

impl Default for List {
    fn default() -> List {
        List::One(Bytes::new())
    }
}

impl Records {
    /// The chunks in order; some may be empty.
    pub fn chunks(&self) -> &[Bytes] {
        match &self.chunks {
            List::One(chunk) => std::slice::from_ref(chunk),
            List::Many(chunks) => chunks,
        }
    }

    /// The total length in bytes.
    pub fn len(&self) -> usize {
        self.chunks().iter().map(Bytes::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.chunks().iter().all(Bytes::is_empty)
    }

    /// All bytes in one piece: without a copy when they are one chunk.
    pub fn to_bytes(&self) -> Bytes {
        match self.chunks() {
            [one] => one.clone(),
            chunks => {
                let mut all = BytesMut::with_capacity(self.len());
                chunks.iter().for_each(|chunk| all.extend_from_slice(chunk));
                all.freeze()
            }
        }
    }
}

impl From<Bytes> for Records {
    fn from(chunk: Bytes) -> Records {
        Records { chunks: List::One(chunk) }
    }
}

impl From<Vec<Bytes>> for Records {
    fn from(chunks: Vec<Bytes>) -> Records {
        Records { chunks: List::Many(chunks) }
    }
}

/// Equal when the bytes are, however they are cut.
impl PartialEq for Records {
    fn eq(&self, other: &Records) -> bool {
        self.len() == other.len() && self.to_bytes() == other.to_bytes()
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
