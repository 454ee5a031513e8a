//! How far batches reach that lie in chunks as the log hands them out.

use bytes::Bytes;
use millpond_record::{BatchHeader, HEADER_BYTES, Offset};

/// The offset after the last batch; `None` without a whole header. Batches lie back to back, cut anywhere.
pub(crate) fn next_offset<'a>(chunks: impl IntoIterator<Item = &'a Bytes>) -> Option<Offset> {
    let mut next = None;
    // Bytes of the current batch that are still to be passed over.
    let mut skip = 0;
    let mut head = [0; HEADER_BYTES];
    let mut have = 0;
    for chunk in chunks {
        let mut rest: &[u8] = chunk;
        while !rest.is_empty() {
            let passed = rest.len().min(skip);
            (skip, rest) = (skip - passed, &rest[passed..]);
            let taken = rest.len().min(HEADER_BYTES - have);
            head[have..have + taken].copy_from_slice(&rest[..taken]);
            (have, rest) = (have + taken, &rest[taken..]);
            if have == HEADER_BYTES {
                let header = BatchHeader::read(&head).ok()?;
                next = Some(header.next_offset());
                skip = (header.size_bytes as usize).saturating_sub(HEADER_BYTES);
                have = 0;
            }
        }
    }
    next
}

#[cfg(test)]
mod tests {
    use super::*;
    use millpond_record::{LeaderEpoch, RaftOnlyKind, StampedBatch, Timestamp, raft_only_batch};

    /// Batches that take no offset, at these offsets: the next offset is that of the last.
    fn batches(offsets: &[i64]) -> Vec<StampedBatch> {
        let batch = |offset: &i64| {
            raft_only_batch(RaftOnlyKind::Blank, &[7; 100], Offset(*offset), LeaderEpoch(1), Timestamp(0))
        };
        offsets.iter().map(batch).collect()
    }

    #[test]
    fn the_last_batch_counts_however_the_bytes_are_cut() {
        let whole: Vec<u8> = batches(&[3, 8, 21]).iter().flat_map(|batch| batch.to_bytes().to_vec()).collect();
        for piece in [1, 7, 60, 61, 62, 161, whole.len()] {
            let chunks: Vec<Bytes> = whole.chunks(piece).map(Bytes::copy_from_slice).collect();
            assert_eq!(next_offset(&chunks), Some(Offset(21)), "pieces of {piece}");
        }
    }

    #[test]
    fn nothing_has_no_next_offset() {
        assert_eq!(next_offset(&[]), None);
        assert_eq!(next_offset(&[Bytes::new(), Bytes::from_static(b"short")]), None);
    }
}
