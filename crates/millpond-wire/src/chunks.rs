//! An encoded frame.

use bytes::{Bytes, BytesMut};

/// The bytes of a frame as a list of pieces, for a vectored write.
#[derive(Clone, Debug, Default)]
pub struct Chunks {
    chunks: Vec<Bytes>,
    length: usize,
}

impl Chunks {
    pub(crate) fn new(chunks: Vec<Bytes>, length: usize) -> Chunks {
        Chunks { chunks, length }
    }

    /// The total length in bytes.
    pub fn len(&self) -> usize {
        self.length
    }

    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    pub fn as_slice(&self) -> &[Bytes] {
        &self.chunks
    }

    pub fn into_vec(self) -> Vec<Bytes> {
        self.chunks
    }

    /// All bytes in one piece; a copy unless there is one chunk only.
    pub fn to_bytes(&self) -> Bytes {
        if let [one] = self.chunks.as_slice() {
            return one.clone();
        }
        let mut all = BytesMut::with_capacity(self.length);
        self.chunks.iter().for_each(|chunk| all.extend_from_slice(chunk));
        all.freeze()
    }
}

impl IntoIterator for Chunks {
    type Item = Bytes;
    type IntoIter = std::vec::IntoIter<Bytes>;
    fn into_iter(self) -> Self::IntoIter {
        self.chunks.into_iter()
    }
}
