//! Batches that were proven and left in their file, on their way to a socket.
//!
//! They are sent out of the page cache, where the proof has just brought them, without passing through this process.
//! That holds for a short time: later the system may have dropped the pages, so that sending would wait for the disk
//! and send what nobody has looked at. Then what is left is read into memory and proven again.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use millpond_record::{BatchView, GroupId, HEADER_BYTES, Offset, RaftIndex};
use millpond_runtime::{File, FileRange};

use crate::StorageError;
use crate::index::running_hash;

/// A proof that is older says little about what the system gives now.
pub(super) const FRESH: Duration = Duration::from_secs(2);

/// Where proven batches are, and what proves them.
#[derive(Clone, Copy, Debug)]
pub(super) struct PlacedRun {
    pub(super) position: u64,
    pub(super) length: usize,
    /// The offset behind the last batch.
    pub(super) next_offset: Offset,
    pub(super) first_index: RaftIndex,
    /// The running hash in front of the first batch, and behind the last.
    pub(super) hashes: (u64, u64),
}

/// A run of whole data batches in a segment's file.
#[derive(Clone)]
pub struct FileRun {
    pub(super) group: GroupId,
    pub(super) file: Arc<dyn File>,
    pub(super) run: PlacedRun,
    pub(super) proven_at: Instant,
    /// Bytes that were sent.
    pub(super) sent: usize,
}

impl FileRun {
    /// Bytes that are left of it.
    pub fn len(&self) -> usize {
        self.run.length - self.sent
    }

    /// Whether nothing is left of it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The offset behind the last batch.
    pub fn next_offset(&self) -> Offset {
        self.run.next_offset
    }

    /// Takes bytes that were sent off its front, at most all.
    pub fn advance(&mut self, bytes: usize) {
        self.sent += bytes.min(self.len());
    }

    /// What is left of it, to be sent from the file at once; `None` when the proof is too old for that. `now` is the
    /// time on the monotonic clock.
    pub fn range(&self, now: Instant) -> Option<FileRange> {
        let fresh = now.saturating_duration_since(self.proven_at) <= FRESH;
        let position = self.run.position + self.sent as u64;
        fresh.then(|| FileRange::new(Arc::clone(&self.file), position, self.len()))
    }

    /// The memory that [`FileRun::recall`] takes.
    pub fn recall_bytes(&self) -> usize {
        self.run.length
    }

    /// Reads what is left of it into memory and proves it anew. Blocks, and takes the memory of the whole run.
    ///
    /// # Errors
    ///
    /// [`StorageError::Corrupt`] when the disk gives something else than before; what it says when it cannot be read.
    pub fn recall(&self) -> Result<Bytes, StorageError> {
        let corrupt = |what: String| StorageError::Corrupt { group: self.group, what };
        let read = self.file.read_vec_at(self.run.length, self.run.position);
        let bytes = read.map_err(|error| corrupt(format!("what was to be sent cannot be read again: {error}")))?;
        let (mut at, mut index, (mut hash, hash_behind)) = (0, self.run.first_index, self.run.hashes);
        while at < bytes.len() {
            let view = BatchView::first_of(&bytes[at..]).ok().filter(BatchView::verify_crc);
            let Some(view) = view else { return Err(corrupt("a batch changed on disk while it was sent".to_owned())) };
            let head = view.bytes().first_chunk::<HEADER_BYTES>().expect("a parsed batch has a whole header");
            hash = running_hash(hash, index, head);
            at += view.size_bytes();
            index = RaftIndex(index.0.wrapping_add(1));
        }
        if hash != hash_behind {
            return Err(corrupt("headers of batches changed on disk while they were sent".to_owned()));
        }
        Ok(Bytes::from(bytes).slice(self.sent..))
    }
}

impl fmt::Debug for FileRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileRun({} bytes at {} of group {})", self.run.length, self.run.position, self.group)
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;
    use std::path::Path;

    use millpond_record::{LeaderEpoch, RaftOnlyKind, Timestamp, raft_only_batch};
    use millpond_runtime::OpenMode;
    use millpond_runtime::sim::{NodeId, World, block_on};

    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn what_waits_too_long_is_read_again_and_proven_again() {
        block_on(1, async {
            let disk = World::new(1).runtime_for(NodeId(1)).disk();
            let file = disk.open(Path::new("/file"), OpenMode::CreateNew).unwrap();
            let (mut bytes, mut hash) = (Vec::new(), 77);
            for index in 5..9 {
                let kind = RaftOnlyKind::Blank;
                let batch = raft_only_batch(kind, &[index; 300], Offset(4), LeaderEpoch(2), Timestamp(9)).to_bytes();
                hash = running_hash(hash, RaftIndex(u64::from(index)), batch.first_chunk().unwrap());
                bytes.extend_from_slice(&batch);
            }
            file.write_all_at(&[IoSlice::new(&[1; 100]), IoSlice::new(&bytes)], 0).unwrap();
            let (hashes, proven_at) = ((77, hash), Instant::now());
            let placed = PlacedRun {
                position: 100,
                length: bytes.len(),
                next_offset: Offset(4),
                first_index: RaftIndex(5),
                hashes,
            };
            let mut run = FileRun { group: GroupId(3), file: file.clone(), run: placed, proven_at, sent: 0 };
            for sent in [0, 1, 500] {
                run.advance(sent);
                let range = run.range(proven_at + FRESH).expect("fresh");
                assert_eq!(range.len(), run.len());
                assert_eq!(run.recall().unwrap(), bytes[bytes.len() - run.len()..]);
            }
            assert!(run.range(proven_at + FRESH + Duration::from_millis(1)).is_none());
            // The CRC covers the body; only the running hash the base offset and the leader epoch.
            for (what, at) in
                [("a body", 100 + 70), ("a base offset", 100 + 7), ("an epoch", 100 + bytes.len() / 2 + 15)]
            {
                let mut byte = [0];
                file.read_exact_at(&mut byte, at as u64).unwrap();
                file.write_all_at(&[IoSlice::new(&[byte[0] ^ 1])], at as u64).unwrap();
                assert!(matches!(run.recall(), Err(StorageError::Corrupt { .. })), "{what}");
                file.write_all_at(&[IoSlice::new(&byte)], at as u64).unwrap();
            }
            assert!(run.recall().is_ok());
        });
    }
}
