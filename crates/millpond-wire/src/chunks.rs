//! An encoded frame.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

/// A piece of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chunk {
    /// Bytes in memory.
    Here(Bytes),
    /// Bytes that whoever writes the frame brings from somewhere else.
    Elsewhere(Elsewhere),
}

impl Chunk {
    /// The length in bytes.
    pub fn len(&self) -> usize {
        match self {
            Chunk::Here(bytes) => bytes.len(),
            Chunk::Elsewhere(elsewhere) => elsewhere.length,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes, if they are in memory.
    pub fn here(&self) -> Option<&Bytes> {
        match self {
            Chunk::Here(bytes) => Some(bytes),
            Chunk::Elsewhere(_) => None,
        }
    }
}

/// Bytes of a frame that are not in memory, a range of a file for example. This crate only leaves room for them: what
/// `place` is, only those know who made it and who write the frame.
#[derive(Clone)]
pub struct Elsewhere {
    length: usize,
    place: Arc<dyn Any + Send + Sync>,
}

impl Elsewhere {
    /// `length` bytes that are at `place`.
    pub fn new(length: usize, place: impl Any + Send + Sync) -> Elsewhere {
        Elsewhere { length, place: Arc::new(place) }
    }

    /// Where they are; `None` if the place is of another kind.
    pub fn place<T: Any>(&self) -> Option<&T> {
        self.place.downcast_ref()
    }
}

impl fmt::Debug for Elsewhere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Elsewhere({} bytes)", self.length)
    }
}

/// Equal when they are one and the same.
impl PartialEq for Elsewhere {
    fn eq(&self, other: &Elsewhere) -> bool {
        self.length == other.length && Arc::ptr_eq(&self.place, &other.place)
    }
}

impl Eq for Elsewhere {}

/// The bytes of a frame as a list of pieces, for a vectored write.
#[derive(Clone, Debug, Default)]
pub struct Chunks {
    chunks: Vec<Chunk>,
    length: usize,
}

impl Chunks {
    pub(crate) fn new(chunks: Vec<Chunk>, length: usize) -> Chunks {
        Chunks { chunks, length }
    }

    /// The total length in bytes.
    pub fn len(&self) -> usize {
        self.length
    }

    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    pub fn as_slice(&self) -> &[Chunk] {
        &self.chunks
    }

    pub fn into_vec(self) -> Vec<Chunk> {
        self.chunks
    }

    /// All bytes that are in memory, in one piece; a copy unless there is one chunk only.
    pub fn to_bytes(&self) -> Bytes {
        join(&self.chunks)
    }
}

/// All bytes that are in memory, in one piece: without a copy when they are one chunk.
pub(crate) fn join(chunks: &[Chunk]) -> Bytes {
    if let [Chunk::Here(one)] = chunks {
        return one.clone();
    }
    let here = || chunks.iter().filter_map(Chunk::here);
    let mut all = BytesMut::with_capacity(here().map(Bytes::len).sum());
    here().for_each(|chunk| all.extend_from_slice(chunk));
    all.freeze()
}

impl IntoIterator for Chunks {
    type Item = Chunk;
    type IntoIter = std::vec::IntoIter<Chunk>;
    fn into_iter(self) -> Self::IntoIter {
        self.chunks.into_iter()
    }
}
