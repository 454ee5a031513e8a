//! Prints any file of a data directory for a person: what it holds, in order, up to its end or to what is damaged.
//!
//! A file is known by its name, or, when it was renamed or copied elsewhere, by what it begins with. Nothing else of
//! the directory is looked at, so a file may be dumped while a broker runs.

mod files;
mod journal;
mod segment;
#[cfg(test)]
mod tests;

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::path::Path;

use millpond_record::Offset;
use millpond_runtime::{Disk, OpenMode};

use crate::OpenError;
use crate::journal::file::number_of;
use crate::journal::kept;
use crate::meta::META_FILE;
use crate::partition_folder::METADATA_FILE;
use crate::segment::{SegmentFile, SegmentName};
use crate::table::TABLE_FILE;

/// A value of a [`DumpItem`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DumpValue {
    /// A number.
    Number(i128),
    /// True or false.
    Flag(bool),
    /// Anything else.
    Text(String),
}

impl fmt::Display for DumpValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DumpValue::Number(number) => number.fmt(f),
            DumpValue::Flag(flag) => flag.fmt(f),
            DumpValue::Text(text) => text.fmt(f),
        }
    }
}

macro_rules! number {
    ($($kind:ty),*) => {
        $(impl From<$kind> for DumpValue {
            fn from(number: $kind) -> DumpValue {
                DumpValue::Number(number.into())
            }
        })*
    };
}
number!(i16, u16, i32, u32, i64, u64);

impl From<bool> for DumpValue {
    fn from(flag: bool) -> DumpValue {
        DumpValue::Flag(flag)
    }
}

impl From<String> for DumpValue {
    fn from(text: String) -> DumpValue {
        DumpValue::Text(text)
    }
}

impl From<&str> for DumpValue {
    fn from(text: &str) -> DumpValue {
        DumpValue::Text(text.to_owned())
    }
}

/// One thing in a file: a header, a batch, an entry, a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DumpItem {
    /// The byte at which it begins, where that says something.
    pub position: Option<u64>,
    /// What it is, in a word or two.
    pub what: &'static str,
    /// The offset after the last that it speaks of, if it speaks of one: those below a wanted offset are passed over.
    pub until: Option<Offset>,
    /// Its fields, in order.
    pub fields: Vec<(&'static str, DumpValue)>,
}

impl DumpItem {
    fn new(what: &'static str) -> DumpItem {
        DumpItem { position: None, what, until: None, fields: Vec::new() }
    }

    fn at(mut self, position: u64) -> DumpItem {
        self.position = Some(position);
        self
    }

    fn until(mut self, offset: Offset) -> DumpItem {
        self.until = Some(offset);
        self
    }

    fn with(mut self, name: &'static str, value: impl Into<DumpValue>) -> DumpItem {
        self.fields.push((name, value.into()));
        self
    }

    /// A field that is left out when there is nothing to say.
    fn with_some(self, name: &'static str, value: Option<impl Into<DumpValue>>) -> DumpItem {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }
}

/// What a file turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DumpKind {
    /// Record batches: `….log`.
    Segment,
    /// A segment's index: `….idx`.
    Index,
    /// The state of idempotent producers: `….snap`.
    Snapshot,
    /// A journal file: `….wal`.
    Journal,
    /// What the journal had of a partition that was set aside: `journal.….kept`.
    Kept,
    /// `groups.table`.
    Table,
    /// `meta.properties`.
    Meta,
    /// `partition.metadata`.
    PartitionMetadata,
}

/// Why a dump did not come to the end of its file.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// Nothing of ours.
    #[error("it is none of a data directory's files, neither by its name nor by what it begins with")]
    Unknown,
    /// What was handed out is right; from here on the file is not.
    #[error("it is damaged{}: {what}", .position.map(|at| format!(" at byte {at}")).unwrap_or_default())]
    Damaged {
        /// Where, if that can be said.
        position: Option<u64>,
        /// What does not fit.
        what: String,
    },
    /// It could not be read.
    #[error("it cannot be read: {0}")]
    Read(io::Error),
    /// The taker of the items gave up.
    #[error("{0}")]
    Sink(io::Error),
}

impl From<OpenError> for DumpError {
    fn from(error: OpenError) -> DumpError {
        match error {
            OpenError::Damaged { what, .. } => DumpError::damaged(None, what),
            other => DumpError::damaged(None, other.to_string()),
        }
    }
}

impl DumpError {
    fn damaged(position: Option<u64>, what: impl Into<String>) -> DumpError {
        DumpError::Damaged { position, what: what.into() }
    }
}

/// Takes the items; an error ends the dump.
type Sink<'a> = dyn FnMut(DumpItem) -> Result<(), DumpError> + 'a;

/// What a file is: by its name, else by what it begins with.
fn kind_of(disk: &dyn Disk, path: &Path) -> Result<DumpKind, DumpError> {
    let name = path.file_name().unwrap_or_default();
    if let Some(kind) = by_name(name) {
        return Ok(kind);
    }
    let file = disk.open(path, OpenMode::Read).map_err(DumpError::Read)?;
    let mut begin = [0; 64];
    let mut read = 0;
    while read < begin.len() {
        match file.read_at(&mut begin[read..], read as u64).map_err(DumpError::Read)? {
            0 => break,
            more => read += more,
        }
    }
    by_content(&begin[..read]).ok_or(DumpError::Unknown)
}

fn by_name(name: &OsStr) -> Option<DumpKind> {
    if let Some((_, kind)) = SegmentName::parse(name) {
        return Some(match kind {
            SegmentFile::Log => DumpKind::Segment,
            SegmentFile::Index => DumpKind::Index,
            SegmentFile::Snapshot => DumpKind::Snapshot,
        });
    }
    match name.to_str()? {
        TABLE_FILE => Some(DumpKind::Table),
        META_FILE => Some(DumpKind::Meta),
        METADATA_FILE => Some(DumpKind::PartitionMetadata),
        name if kept::sequence_of(name).is_some() => Some(DumpKind::Kept),
        name => number_of(name).map(|_| DumpKind::Journal),
    }
}

fn by_content(begin: &[u8]) -> Option<DumpKind> {
    const MAGICS: [(&[u8], DumpKind); 7] = [
        (b"MILLPTBL", DumpKind::Table),
        (b"MILLPWAL", DumpKind::Journal),
        (b"MILLPKEP", DumpKind::Kept),
        (b"MPix", DumpKind::Index),
        (b"MPsn", DumpKind::Snapshot),
        (b"# Millpond wrote this file", DumpKind::Meta),
        (b"version: 1\ngroup: ", DumpKind::PartitionMetadata),
    ];
    let known = MAGICS.iter().find(|(magic, _)| begin.starts_with(magic)).map(|(_, kind)| *kind);
    known.or_else(|| millpond_record::BatchHeader::read(begin).ok().map(|_| DumpKind::Segment))
}

/// Hands everything in a file to `found`, in order. Blocking; memory does not grow with a segment, index or journal.
///
/// # Errors
///
/// [`DumpError`]: what was handed out before is right. An error of `found` ends the dump and comes back as
/// [`DumpError::Sink`].
pub fn dump(
    disk: &dyn Disk,
    path: &Path,
    found: &mut dyn FnMut(DumpItem) -> io::Result<()>,
) -> Result<DumpKind, DumpError> {
    let kind = kind_of(disk, path)?;
    let sink: &mut Sink<'_> = &mut |item| found(item).map_err(DumpError::Sink);
    match kind {
        DumpKind::Segment => segment::segment(disk, path, sink)?,
        DumpKind::Index => segment::index(disk, path, sink)?,
        DumpKind::Snapshot => files::snapshot(disk, path, sink)?,
        DumpKind::Journal => journal::journal(disk, path, sink)?,
        DumpKind::Kept => journal::kept(disk, path, sink)?,
        DumpKind::Table => files::table(disk, path, sink)?,
        DumpKind::Meta => files::meta(disk, path, sink)?,
        DumpKind::PartitionMetadata => files::partition_metadata(disk, path, sink)?,
    }
    Ok(kind)
}
