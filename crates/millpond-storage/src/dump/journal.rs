//! A journal file's header and records, and records that were kept of it.

use std::path::Path;

use millpond_runtime::{Disk, OpenMode};

use super::{DumpError, DumpItem, Sink};
use crate::OpenError;
use crate::journal::JournalEntry;
use crate::journal::file::{FILE_HEADER_BYTES, FileHeader, HeaderFound, number_of};
use crate::journal::kept::{KeptError, KeptReader, KeptRecord};
use crate::journal::scan::{FoundRecord, scan_one};
use crate::types::{FlushMode, LogOptions};

pub(super) fn journal(disk: &dyn Disk, path: &Path, sink: &mut Sink<'_>) -> Result<(), DumpError> {
    let file = disk.open(path, OpenMode::Read).map_err(DumpError::Read)?;
    let length = file.len().map_err(DumpError::Read)?;
    let mut head = vec![0; FILE_HEADER_BYTES.min(usize::try_from(length).unwrap_or(FILE_HEADER_BYTES))];
    file.read_exact_at(&mut head, 0).map_err(DumpError::Read)?;
    let named = path.file_name().and_then(|name| name.to_str()).and_then(number_of);
    let header = match FileHeader::find(&head, named.unwrap_or(0)) {
        HeaderFound::Header(header) => header,
        HeaderFound::Newer(version) => {
            return Err(DumpError::damaged(Some(0), format!("it has format version {version}; use a newer millpond")));
        }
        HeaderFound::None if head.iter().all(|byte| *byte == 0) => {
            return sink(DumpItem::new("empty journal file").with("bytes", length));
        }
        HeaderFound::None => return Err(DumpError::damaged(Some(0), "neither copy of its header is whole")),
    };
    sink(
        DumpItem::new("journal file")
            .at(0)
            .with("number", header.number)
            .with("first_sequence", header.first_sequence)
            .with("salt", format!("{:08x}", header.salt))
            .with("bytes", length),
    )?;
    if let Some(named) = named.filter(|named| *named != header.number) {
        sink(DumpItem::new("unused").with("number", named).with("records_of", header.number))?;
    }
    let mut ended = None;
    let scanned = scan_one(&*file, header.number, path, &mut |found| {
        if ended.is_some() {
            return Err(OpenError::Options(String::new()));
        }
        let item = record(&found)?;
        ended = sink(item).err();
        Ok(())
    });
    match ended {
        Some(ended) => Err(ended),
        None => scanned.map(drop).map_err(DumpError::from),
    }
}

/// What the journal had of a partition that was set aside.
pub(super) fn kept(disk: &dyn Disk, path: &Path, sink: &mut Sink<'_>) -> Result<(), DumpError> {
    let wrong = |error| match error {
        KeptError::Io(error) => DumpError::Read(error),
        KeptError::Damaged { position, what } => DumpError::damaged(Some(position), what),
        newer @ KeptError::Newer(_) => DumpError::damaged(Some(0), newer.to_string()),
    };
    let file = disk.open(path, OpenMode::Read).map_err(DumpError::Read)?;
    let mut reader = KeptReader::open(file).map_err(wrong)?;
    sink(DumpItem::new("kept records").at(0).with("group", reader.group.0).with("records", reader.records))?;
    while let Some(KeptRecord { header, bytes, salt, position }) = reader.next().map_err(wrong)? {
        sink(record(&FoundRecord { header, bytes: &bytes, salt, position, path })?)?;
    }
    Ok(())
}

fn record(found: &FoundRecord<'_>) -> Result<DumpItem, OpenError> {
    let entry = found.entry()?;
    let begin = |what| {
        let item = DumpItem::new(what).at(found.position).with("sequence", found.header.sequence);
        item.with("group", found.header.group.0).with_some("back", Some(found.header.back).filter(|back| *back > 0))
    };
    let options = |item: DumpItem, options: &LogOptions| {
        let flush = if options.flush == FlushMode::Relaxed { "relaxed" } else { "durable" };
        let item = item.with("flush", flush).with("segment_bytes", options.segment_bytes);
        item.with("segment_ms", options.segment_ms).with("segment_jitter_ms", options.segment_jitter_ms)
    };
    Ok(match &entry {
        JournalEntry::Append { index, term, append_time, begins_segment, batch, .. } => {
            let header = batch.header();
            begin("append")
                .until(header.next_offset())
                .with("index", index.0)
                .with("term", term.0)
                .with("offset", header.base_offset.0)
                .with("last_offset", header.last_offset().0)
                .with("records", header.record_count)
                .with("batch_bytes", header.size_bytes)
                .with_some("raft_only", header.attributes.is_raft_only().then_some(true))
                .with_some("begins_segment", begins_segment.then_some(true))
                .with("append_time", append_time.0)
        }
        JournalEntry::Placed { index, term, append_time, .. } => {
            begin("placed").with("index", index.0).with("term", term.0).with("append_time", append_time.0)
        }
        JournalEntry::Truncate { after, .. } => begin("truncate").with_some("after", after.map(|after| after.0)),
        JournalEntry::Vote { vote, .. } => {
            begin("vote").with("term", vote.term.0).with("replica", vote.replica.0).with("committed", vote.committed)
        }
        JournalEntry::Purge { position, membership, .. } => begin("purge")
            .with("term", position.term.0)
            .with("index", position.index.0)
            .with("offset", position.offset.0)
            .with("membership_bytes", membership.len() as u64),
        JournalEntry::LogStart { offset, .. } => begin("log start").with("offset", offset.0),
        JournalEntry::Create { spec } => {
            let item = begin("create group").with("topic", spec.topic.clone()).with("partition", spec.partition.0);
            let item = item.with("topic_id", spec.topic_id.to_string()).with("replica", spec.replica.0);
            options(item, &spec.options)
        }
        JournalEntry::Delete { .. } => begin("delete group"),
        JournalEntry::Options { options: changed, .. } => options(begin("options"), changed),
        JournalEntry::Install { installed } => {
            let row = &installed.row;
            begin("snapshot install")
                .with_some("term", row.purged.map(|p| p.term.0))
                .with_some("index", row.purged.map(|p| p.index.0))
                .with_some("offset", row.purged.map(|p| p.offset.0))
                .with("log_start", row.log_start.0)
                .with("segments", installed.segments.len() as u64)
                .with("segment_bytes", installed.segments.iter().map(|part| u64::from(part.log_bytes)).sum::<u64>())
                .with("membership_bytes", row.membership.len() as u64)
        }
    })
}
