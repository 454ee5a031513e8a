//! What the fuzz targets call: decoders of what is on disk, fed with bytes that carry right checksums.

use std::io::{self, IoSlice};
use std::path::Path;

use bytes::BytesMut;
use millpond_record::{GroupId, LeaderEpoch, Offset, RaftIndex, RaftOnlyKind, Term, Timestamp, raft_only_batch};
use millpond_runtime::File;

use crate::journal::JournalEntry;
use crate::journal::file::FileHeader;
use crate::journal::record::{Place, RECORD_HEADER_BYTES, RecordHeader, decode, encode};
use crate::journal::scan::scan_one;
use crate::meta::MetaProperties;
use crate::table::Table;

/// A file that is bytes in memory.
struct Memory(Vec<u8>);

impl File for Memory {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let rest = usize::try_from(position).ok().and_then(|position| self.0.get(position..)).unwrap_or_default();
        let read = rest.len().min(buffer.len());
        buffer[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }

    fn write_all_at(&self, _: &[IoSlice<'_>], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }

    fn start_writeback(&self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }
}

const SALT: u32 = 0x5a17;

/// The entries that the first bytes ask for, one each.
fn entries(kinds: &[u8]) -> Vec<JournalEntry> {
    let entry = |(index, kind): (usize, &u8)| {
        let group = GroupId(u64::from(kind / 8));
        match kind % 3 {
            0 => JournalEntry::Append {
                group,
                index: RaftIndex(index as u64),
                term: Term(1),
                append_time: Timestamp(1),
                begins_segment: false,
                batch: raft_only_batch(
                    RaftOnlyKind::Blank,
                    &vec![*kind; usize::from(*kind)],
                    Offset(index as i64),
                    LeaderEpoch(1),
                    Timestamp(1),
                ),
            },
            1 => JournalEntry::Truncate { group, after: (*kind > 100).then_some(RaftIndex(index as u64)) },
            _ => JournalEntry::Delete { group },
        }
    };
    kinds.iter().enumerate().map(entry).collect()
}

/// A journal file with some records, then changed in some places: what is read from it is what was written, or it is
/// refused. And the payloads of all kinds, as if their checksums had been right.
pub fn journal_scan(data: &[u8]) {
    let [count, edits, rest @ ..] = data else { return };
    let (kinds, rest) = rest.split_at(usize::from(count % 16).min(rest.len()));
    let (edits, tail) = rest.split_at((usize::from(edits % 8) * 3).min(rest.len()));
    let written = entries(kinds);
    let mut file = FileHeader { number: 3, first_sequence: 10, salt: SALT }.encode();
    for (sequence, entry) in (10..).zip(&written) {
        let mut out = BytesMut::new();
        let rest = encode(entry, Place { file_number: 3, salt: SALT, sequence, back: 0 }, &mut out).cloned();
        file.extend_from_slice(&out);
        file.extend_from_slice(&rest.unwrap_or_default());
    }
    file.extend_from_slice(tail);
    for edit in edits.chunks_exact(3) {
        let at = usize::from(u16::from_be_bytes([edit[0], edit[1]])) % file.len();
        file[at] = edit[2];
    }
    let mut read = Vec::new();
    let end = scan_one(&Memory(file), 3, Path::new("journal"), &mut |record| {
        read.push(record.entry()?);
        Ok(())
    });
    assert!(read.len() <= written.len() && read.iter().zip(&written).all(|(read, written)| read == written));
    if let Ok(Some(end)) = end {
        assert_eq!(end, 10 + read.len() as u64);
    }
    if let Some(bytes) = tail.first_chunk::<RECORD_HEADER_BYTES>() {
        // Only that it returns: the checksums are not looked at.
        let _ = decode(&RecordHeader::read(bytes), tail);
    }
}

/// `groups.table` and `meta.properties`, their checksums made right: what is accepted comes back the same.
pub fn groups_table(data: &[u8]) {
    let mut bytes = Table::encode(crate::journal::scan::ReplayFrom { file_number: 1, sequence: 1 }, [].iter()).to_vec();
    bytes.truncate(16);
    bytes.extend_from_slice(data);
    let crc = crc32fast::hash(&bytes[16..]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    if let Ok(table) = Table::decode(&bytes) {
        let rows: Vec<_> = table.rows.values().collect();
        let again = Table::encode(table.replay_from, rows.into_iter());
        assert_eq!(Table::decode(&again).as_ref(), Ok(&table));
    }
    if let Ok(text) = std::str::from_utf8(data) {
        let sealed = format!("{text}checksum={:08x}\n", crc32fast::hash(text.as_bytes()));
        if let Ok(meta) = MetaProperties::decode(sealed.as_bytes()) {
            assert_eq!(MetaProperties::decode(meta.encode().as_bytes()), Ok(meta));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_the_fuzz_targets_call_holds_for_a_few_inputs(data in proptest::collection::vec(any::<u8>(), 0..400)) {
            super::journal_scan(&data);
            super::groups_table(&data);
        }
    }
}
