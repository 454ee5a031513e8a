//! `groups.table`: what is known of every group without opening its folder (version 1 or 2). Little-endian.
//!
//! ```text
//!  0        8        12       16                24                32       36
//! +--------+--------+--------+-----------------+-----------------+--------+---------
//! | magic  | version| crc    | replay file     | replay sequence | rows   | row ...
//! +--------+--------+--------+-----------------+-----------------+--------+---------
//!
//! row:  group 8, replica 8, topic id 16, partition 4, topic (2 + n),
//!       vote: term 8, replica 8, committed 1,
//!       P: present 1 [term 8, index 8, offset 8], membership at P (4 + n), membership (4 + n),
//!       log start 8, log end 8,
//!       committed: present 1 [term 8, index 8], last: present 1 [term 8, index 8],
//!       durable: present 1 [base offset 8, first index 8, position 8],
//!       epochs 4, each: term 8, index 8, offset 8,
//!       journal sequence 8, marks 1, options: flush 1, segment bytes 4, segment ms 8, segment jitter ms 8,
//!       retained: bytes 8, oldest segment's bytes 8, its newest record: present 1 [timestamp 8, append 8],
//!       first append 8 and last append 8 of the active segment, freeable 1
//! ```
//!
//! `marks`: 1 the copy is set aside; 2 it is tainted if it is shared, 4 it is tainted (see [`Taint`]). Version 2 is
//! written where a row is tainted, so that no earlier version opens such a replica; else 1 is.
//!
//! `crc` is CRC-32 over all that follows it, in version 2 over the version and that. The file is written whole and
//! swapped in by a rename; a start reads the journal from (replay file, replay sequence) on.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use bytes::{BufMut, Bytes, BytesMut};
use millpond_record::{
    FilePosition, GroupId, LogId, Offset, PartitionIndex, RaftIndex, ReplicaId, Term, Timestamp, TopicId,
};
use millpond_runtime::{Disk, write_atomically};

use crate::OpenError;
use crate::fields::{FieldError, FieldReader, put_bytes, put_string};
use crate::journal::record::{OPTIONS_BYTES, put_options, read_options};
use crate::journal::scan::ReplayFrom;
use crate::types::{EpochStart, GroupRow, LogPosition, Newest, Retained, SegmentPosition, Taint, Vote, is_topic_name};

/// The file's name in the data directory.
pub(crate) const TABLE_FILE: &str = "groups.table";

const MAGIC: &[u8; 8] = b"MILLPTBL";
/// The newest version that is read.
const VERSION: u32 = 2;
/// The version of a table without tainted rows.
const UNTAINTED_VERSION: u32 = 1;
const SET_ASIDE: u8 = 1;
const TAINTED_IF_SHARED: u8 = 2;
const TAINTED: u8 = 4;
const VERSION_AT: usize = 8;
const CRC_AT: usize = 12;
const COVERED_FROM: usize = 16;
const _: () = assert!(VERSION_AT == MAGIC.len() && CRC_AT == VERSION_AT + 4 && COVERED_FROM == CRC_AT + 4);

/// A file that is longer is not one of ours: 16 million groups.
pub(crate) const MAX_TABLE_BYTES: u64 = 4 << 30;

/// The fewest bytes that a row can have.
const MIN_ROW_BYTES: usize = 8 + 8 + 16 + 4 + 2 + 17 + 1 + 4 + 4 + 16 + 1 + 1 + 1 + 4 + 8 + 1 + OPTIONS_BYTES + 34;
const EPOCH_BYTES: usize = 24;

/// The table in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) replay_from: ReplayFrom,
    pub(crate) rows: BTreeMap<GroupId, GroupRow>,
}

/// Why bytes are not a table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TableError {
    #[error("it is not a table of groups")]
    NotATable,
    #[error("it has format version {0}")]
    Newer(u32),
    #[error("its checksum does not match")]
    Checksum,
    #[error("{0}")]
    Field(#[from] FieldError),
}

impl Table {
    /// Encodes rows, which come in the order of their groups.
    pub(crate) fn encode<'a>(replay_from: ReplayFrom, rows: impl ExactSizeIterator<Item = &'a GroupRow>) -> Bytes {
        let mut out = BytesMut::with_capacity(COVERED_FROM + 20 + rows.len() * 2 * MIN_ROW_BYTES);
        out.put_slice(MAGIC);
        out.put_u32_le(UNTAINTED_VERSION);
        out.put_u32_le(0);
        out.put_u64_le(replay_from.file_number);
        out.put_u64_le(replay_from.sequence);
        out.put_u32_le(u32::try_from(rows.len()).expect("a broker has fewer than 2^32 groups"));
        let mut version = UNTAINTED_VERSION;
        for row in rows {
            put_row(&mut out, row);
            if row.taint != Taint::None {
                version = VERSION;
            }
        }
        out[VERSION_AT..CRC_AT].copy_from_slice(&version.to_le_bytes());
        let crc = checksum(version, &out[COVERED_FROM..]);
        out[CRC_AT..COVERED_FROM].copy_from_slice(&crc.to_le_bytes());
        out.freeze()
    }

    /// Decodes a file. Allocates no more than a few times its length.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Table, TableError> {
        let Some(rest) = bytes.strip_prefix(MAGIC) else { return Err(TableError::NotATable) };
        let mut fields = FieldReader::new(rest);
        let (version, crc) = (fields.u32()?, fields.u32()?);
        if !(UNTAINTED_VERSION..=VERSION).contains(&version) {
            return Err(TableError::Newer(version));
        }
        if checksum(version, &bytes[COVERED_FROM..]) != crc {
            return Err(TableError::Checksum);
        }
        let replay_from = ReplayFrom { file_number: fields.u64()?, sequence: fields.u64()? };
        let mut rows = BTreeMap::new();
        for _ in 0..fields.u32()? {
            let row = read_row(&mut fields)?;
            if rows.insert(row.group, row).is_some() {
                return Err(FieldError::Value.into());
            }
        }
        fields.end()?;
        Ok(Table { replay_from, rows })
    }

    /// Reads the table of a data directory.
    pub(crate) fn read(disk: &dyn Disk, root: &Path) -> Result<Table, OpenError> {
        let path = root.join(TABLE_FILE);
        let bytes = disk.read(&path, MAX_TABLE_BYTES).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => OpenError::Damaged { path: path.clone(), what: "it is missing".into() },
            _ => OpenError::io("read", &path, error),
        })?;
        Table::decode(&bytes).map_err(|error| match error {
            TableError::Newer(found) => OpenError::NewerFormat { path: path.clone(), found, supported: VERSION },
            error => OpenError::Damaged { path: path.clone(), what: error.to_string() },
        })
    }

    /// Writes a table, whole or not at all.
    pub(crate) fn write<'a>(
        disk: &dyn Disk,
        root: &Path,
        replay_from: ReplayFrom,
        rows: impl ExactSizeIterator<Item = &'a GroupRow>,
    ) -> io::Result<()> {
        write_atomically(disk, &root.join(TABLE_FILE), &Table::encode(replay_from, rows))
    }
}

/// Of version 2 it covers the version, too: a table must not pass for one of the other version.
fn checksum(version: u32, covered: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    if version > UNTAINTED_VERSION {
        hasher.update(&version.to_le_bytes());
    }
    hasher.update(covered);
    hasher.finalize()
}

/// What of a table can be read, and what is wrong with it: for a person who has to judge a damaged one.
pub(crate) fn read_as_far_as_possible(bytes: &[u8]) -> (Option<ReplayFrom>, Vec<GroupRow>, Option<TableError>) {
    let wrong = Table::decode(bytes).err();
    let mut rows = Vec::new();
    let Some(covered) = bytes.get(COVERED_FROM..).filter(|_| bytes.starts_with(MAGIC)) else {
        return (None, rows, wrong);
    };
    if matches!(wrong, Some(TableError::Newer(_))) {
        return (None, rows, wrong);
    }
    let mut fields = FieldReader::new(covered);
    let (Ok(file_number), Ok(sequence), Ok(count)) = (fields.u64(), fields.u64(), fields.u32()) else {
        return (None, rows, wrong);
    };
    rows.extend((0..count).map_while(|_| read_row(&mut fields).ok()));
    (Some(ReplayFrom { file_number, sequence }), rows, wrong)
}

pub(crate) fn put_row(out: &mut BytesMut, row: &GroupRow) {
    out.put_u64_le(row.group.0);
    out.put_u64_le(row.replica.0);
    out.put_slice(&row.topic_id.0);
    out.put_i32_le(row.partition.0);
    put_string(out, &row.topic);
    out.put_u64_le(row.vote.term.0);
    out.put_u64_le(row.vote.replica.0);
    out.put_u8(row.vote.committed.into());
    out.put_u8(row.purged.is_some().into());
    if let Some(purged) = &row.purged {
        put_log_id(out, purged.log_id());
        out.put_i64_le(purged.offset.0);
    }
    put_bytes(out, &row.membership_at_p);
    put_bytes(out, &row.membership);
    out.put_i64_le(row.log_start.0);
    out.put_i64_le(row.log_end.0);
    for log_id in [row.committed, row.last] {
        out.put_u8(log_id.is_some().into());
        if let Some(log_id) = log_id {
            put_log_id(out, log_id);
        }
    }
    out.put_u8(row.durable.is_some().into());
    if let Some(durable) = &row.durable {
        out.put_i64_le(durable.base_offset.0);
        out.put_u64_le(durable.first_index.0);
        out.put_u64_le(durable.position.0);
    }
    out.put_u32_le(u32::try_from(row.epochs.len()).expect("a log has fewer than 2^32 terms"));
    for epoch in &row.epochs {
        put_log_id(out, LogId { term: epoch.term, index: epoch.index });
        out.put_i64_le(epoch.offset.0);
    }
    out.put_u64_le(row.journal_sequence);
    let taint = match row.taint {
        Taint::None => 0,
        Taint::IfShared => TAINTED_IF_SHARED,
        Taint::Shared => TAINTED,
    };
    out.put_u8(taint | if row.set_aside { SET_ASIDE } else { 0 });
    put_options(out, &row.options);
    let Retained { bytes, oldest_bytes, oldest_newest, active_since, last_append, freeable } = row.retained;
    out.put_u64_le(bytes);
    out.put_u64_le(oldest_bytes);
    out.put_u8(oldest_newest.is_some().into());
    if let Some(newest) = oldest_newest {
        out.put_i64_le(newest.record.0);
        out.put_i64_le(newest.append.0);
    }
    out.put_i64_le(active_since.0);
    out.put_i64_le(last_append.0);
    out.put_u8(freeable.into());
}

fn put_log_id(out: &mut BytesMut, log_id: LogId) {
    out.put_u64_le(log_id.term.0);
    out.put_u64_le(log_id.index.0);
}

fn read_log_id(fields: &mut FieldReader<'_>) -> Result<LogId, FieldError> {
    Ok(LogId { term: Term(fields.u64()?), index: RaftIndex(fields.u64()?) })
}

/// A value behind a presence byte.
fn read_option<T>(
    fields: &mut FieldReader<'_>,
    read: impl FnOnce(&mut FieldReader<'_>) -> Result<T, FieldError>,
) -> Result<Option<T>, FieldError> {
    if fields.flag()? { read(fields).map(Some) } else { Ok(None) }
}

pub(crate) fn read_row(fields: &mut FieldReader<'_>) -> Result<GroupRow, FieldError> {
    let group = GroupId(fields.u64()?);
    let replica = ReplicaId(fields.u64()?);
    let topic_id: TopicId = fields.topic_id()?;
    let partition = PartitionIndex(fields.i32()?);
    let topic = fields.string()?;
    // It becomes a path.
    if !is_topic_name(&topic) {
        return Err(FieldError::Value);
    }
    let vote = Vote { term: Term(fields.u64()?), replica: ReplicaId(fields.u64()?), committed: fields.flag()? };
    let purged = read_option(fields, |fields| {
        let LogId { term, index } = read_log_id(fields)?;
        Ok(LogPosition { term, index, offset: Offset(fields.i64()?) })
    })?;
    let (membership_at_p, membership) = (fields.bytes()?, fields.bytes()?);
    let (log_start, log_end) = (Offset(fields.i64()?), Offset(fields.i64()?));
    let (committed, last) = (read_option(fields, read_log_id)?, read_option(fields, read_log_id)?);
    let durable = read_option(fields, |fields| {
        let (base_offset, first_index) = (Offset(fields.i64()?), RaftIndex(fields.u64()?));
        Ok(SegmentPosition { base_offset, first_index, position: FilePosition(fields.u64()?) })
    })?;
    let count = fields.u32()? as usize;
    if count > fields.remaining() / EPOCH_BYTES {
        return Err(FieldError::Short);
    }
    let mut epochs = Vec::with_capacity(count);
    for _ in 0..count {
        let LogId { term, index } = read_log_id(fields)?;
        epochs.push(EpochStart { term, index, offset: Offset(fields.i64()?) });
    }
    let (journal_sequence, marks) = (fields.u64()?, fields.u8()?);
    let taint = match marks & !SET_ASIDE {
        0 => Taint::None,
        TAINTED_IF_SHARED => Taint::IfShared,
        TAINTED => Taint::Shared,
        _ => return Err(FieldError::Value),
    };
    Ok(GroupRow {
        group,
        topic,
        partition,
        topic_id,
        replica,
        vote,
        purged,
        membership_at_p,
        membership,
        log_start,
        log_end,
        committed,
        last,
        durable,
        epochs,
        journal_sequence,
        set_aside: marks & SET_ASIDE != 0,
        taint,
        options: read_options(fields)?,
        retained: Retained {
            bytes: fields.u64()?,
            oldest_bytes: fields.u64()?,
            oldest_newest: read_option(fields, |fields| {
                Ok(Newest { record: Timestamp(fields.i64()?), append: Timestamp(fields.i64()?) })
            })?,
            active_since: Timestamp(fields.i64()?),
            last_append: Timestamp(fields.i64()?),
            freeable: fields.flag()?,
        },
    })
}
