//! A segment's batches, and the entries of its index.

use std::io;
use std::path::Path;

use millpond_record::{BatchHeader, HEADER_BYTES, Offset, RaftIndex, RaftOnlyKind, Term, TimestampType};
use millpond_runtime::{Disk, OpenMode};

use super::{DumpError, DumpItem, Sink};
use crate::index::{INDEX_ENTRY_BYTES, INDEX_HEADER_BYTES, IndexHeader, entry_position};
use crate::segment::{Expected, SegmentName};
use crate::verify::{IndexFile, WalkedBatch, walk};

pub(super) fn segment(disk: &dyn Disk, path: &Path, sink: &mut Sink<'_>) -> Result<(), DumpError> {
    let file = disk.open(path, OpenMode::Read).map_err(DumpError::Read)?;
    let length = file.len().map_err(DumpError::Read)?;
    let mut head = [0; HEADER_BYTES];
    let named = SegmentName::parse(path.file_name().unwrap_or_default()).map(|(name, _)| name);
    let first = if length < HEADER_BYTES as u64 {
        None
    } else {
        file.read_exact_at(&mut head, 0).map_err(DumpError::Read)?;
        BatchHeader::read(&head).ok()
    };
    // Of a file under another name nothing but the offsets is known.
    let offset = named.map(|name| name.base_offset).or(first.map(|header| header.base_offset)).unwrap_or(Offset(0));
    let index = named.map_or(RaftIndex(0), |name| name.first_index);
    sink(
        DumpItem::new("segment")
            .with("base_offset", offset.0)
            .with_some("first_index", named.map(|name| name.first_index.0))
            .with("bytes", length),
    )?;
    let mut expected = Expected { offset, index, term: Term(0) };
    let mut ended = None;
    let walked = walk(&*file, 0, length, &mut expected, &mut |found| {
        sink(batch(found, named.is_some())).map_err(|error| {
            ended = Some(error);
            io::ErrorKind::Interrupted.into()
        })
    });
    if let Some(ended) = ended {
        return Err(ended);
    }
    let walked = walked.map_err(DumpError::Read)?;
    match walked.wrong {
        Some(wrong) => Err(DumpError::damaged(Some(walked.position), wrong)),
        None => Ok(()),
    }
}

fn batch(found: &WalkedBatch<'_>, index_is_known: bool) -> DumpItem {
    let header = &found.header;
    let item = |what| {
        let index = index_is_known.then_some(found.id.index.0);
        DumpItem::new(what).at(found.position).until(header.next_offset()).with_some("index", index)
    };
    if header.attributes.is_raft_only() {
        let kind = RaftOnlyKind::ALL.into_iter().find(|kind| Some(*kind as u8) == found.first_byte);
        return item("raft-only")
            .with("kind", kind.map_or("unknown".to_owned(), |kind| format!("{kind:?}").to_lowercase()))
            .with("next_offset", header.base_offset.0)
            .with("leader_epoch", header.leader_epoch.0)
            .with("bytes", header.size_bytes)
            .with("timestamp", header.max_timestamp.0);
    }
    let codec = header.attributes.compression().map_or("unknown".to_owned(), |codec| codec.to_string());
    let times = header.attributes.timestamp_type();
    let producer = header.producer_id.is_some();
    item("batch")
        .with("offset", header.base_offset.0)
        .with("last_offset", header.last_offset().0)
        .with("records", header.record_count)
        .with("leader_epoch", header.leader_epoch.0)
        .with("bytes", header.size_bytes)
        .with("codec", codec)
        .with("base_timestamp", header.base_timestamp.0)
        .with("max_timestamp", header.max_timestamp.0)
        .with_some("timestamp_type", (times == TimestampType::LogAppendTime).then_some("LogAppendTime"))
        .with_some("producer_id", producer.then_some(header.producer_id.0))
        .with_some("producer_epoch", producer.then_some(header.producer_epoch.0))
        .with_some("base_sequence", producer.then_some(header.base_sequence))
        .with_some("transactional", header.attributes.is_transactional().then_some(true))
        .with_some("control", header.attributes.is_control().then_some(true))
        .with("crc", format!("{:08x}", header.crc))
}

pub(super) fn index(disk: &dyn Disk, path: &Path, sink: &mut Sink<'_>) -> Result<(), DumpError> {
    let file = disk.open(path, OpenMode::Read).map_err(DumpError::Read)?;
    let mut head = [0; INDEX_HEADER_BYTES];
    file.read_exact_at(&mut head, 0).map_err(|_| DumpError::damaged(Some(0), "it is too short for a header"))?;
    let header = IndexHeader::decode(&head).map_err(|error| DumpError::damaged(Some(0), error.to_string()))?;
    sink(
        DumpItem::new("index")
            .at(0)
            .with("base_offset", header.base_offset.0)
            .with("first_index", header.first_index.0)
            .with("interval_bytes", header.interval_bytes),
    )?;
    let name = SegmentName { base_offset: header.base_offset, first_index: header.first_index };
    let mut index = IndexFile::of(path.to_path_buf(), file, name).map_err(|what| DumpError::damaged(None, what))?;
    for number in 0..index.entries {
        let entry = index.entry(number).map_err(DumpError::Read)?;
        let position = entry_position(number);
        if entry.offset.0 < 0 && number + 1 == index.entries {
            let trailer = index.trailer().map_err(|what| DumpError::damaged(Some(position), what))?;
            return sink(
                DumpItem::new("trailer")
                    .at(position)
                    .with("next_index", trailer.next_index.0)
                    .with("log_bytes", trailer.log_bytes)
                    .with("max_timestamp", trailer.max_timestamp.0)
                    .with("append_time", trailer.append_time.0)
                    .with("hash", format!("{:016x}", trailer.hash)),
            );
        }
        if entry.offset < header.base_offset || entry.index < header.first_index {
            return Err(DumpError::damaged(Some(position), "the entry lies before the segment"));
        }
        sink(
            DumpItem::new("entry")
                .at(position)
                .until(Offset(entry.offset.0.saturating_add(1)))
                .with("offset", entry.offset.0)
                .with("index", entry.index.0)
                .with("log_position", entry.position)
                .with_some("raft_only_bytes", (entry.raft_only_bytes > 0).then_some(entry.raft_only_bytes))
                .with("max_timestamp_before", entry.max_timestamp_before.0)
                .with("append_time", entry.append_time.0)
                .with("hash_before", format!("{:016x}", entry.hash_before)),
        )?;
    }
    match index.rest {
        0 => Ok(()),
        rest => {
            let what = format!("{rest} bytes are left, an entry has {INDEX_ENTRY_BYTES}");
            Err(DumpError::damaged(Some(entry_position(index.entries)), what))
        }
    }
}
