//! Compares the data directories of a cluster's stopped brokers: every replica of a partition must hold the same
//! entries, byte for byte, as far as each one knows that they are committed.
//!
//! What is compared of an entry is its stamped header, which has the CRC over the rest; the CRC is proven on the way.
//! All replicas of a partition are read side by side, each once, [`CHUNK`] entries at a time. Segments may end in other
//! places on each replica, and entries that one has let go (retention) are not asked of the others.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use millpond_record::{BrokerId, GroupId, Offset, PartitionIndex, RaftIndex, Term};
use millpond_runtime::{Disk, DiskLock, OpenMode};

use super::segment::{WalkedBatch, walk};
use super::{Verifier, VerifySummary};
use crate::OpenError;
use crate::index::running_hash;
use crate::meta::{META_FILE, MetaProperties};
use crate::segment::{Expected, SegmentFile, SegmentName};
use crate::table::Table;
use crate::types::GroupRow;

/// Entries of each replica that are held in memory at a time, 32 bytes each.
const CHUNK: usize = 1 << 16;

/// The first entry of a partition that two replicas do not have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: PartitionIndex,
    /// The Raft index of the entry.
    pub index: RaftIndex,
    /// The offset of its batch, or of the next one, on the first of the two brokers.
    pub offset: Option<Offset>,
    /// The brokers that have the two replicas.
    pub brokers: (BrokerId, BrokerId),
    /// What differs, as the rest of a sentence that begins with the place.
    pub what: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)?;
        if let Some(offset) = self.offset {
            write!(f, ", offset {offset}")?;
        }
        let (one, other) = self.brokers;
        write!(f, ", entry {}, brokers {one} and {other}: {}", self.index, self.what)
    }
}

/// What was compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompareSummary {
    /// Groups of which more than one of the directories has a replica: partitions, and the cluster's metadata.
    pub groups: u64,
    /// Their replicas.
    pub replicas: u64,
    /// Groups that one directory alone has.
    pub alone: u64,
    /// Replicas that were left out: they are set aside, or a start has still to put their files right.
    pub left_out: u64,
    /// Entries that were found equal, those of each replica but the first counted.
    pub entries: u64,
    /// Bytes of those entries.
    pub bytes: u64,
    /// Entries that a replica does not know to be committed, or does not have yet, and another does.
    pub not_compared: u64,
    /// Replicas that differ.
    pub differences: u64,
}

/// One broker's directory.
struct Directory {
    root: PathBuf,
    broker: BrokerId,
    cluster: String,
    rows: Vec<GroupRow>,
    left_out: BTreeSet<GroupId>,
    _lock: Option<Box<dyn DiskLock>>,
}

/// Compares the replicas of each group in the data directories `roots` of stopped brokers of one cluster; tells the
/// first difference of each two to `found`. Blocking; writes nothing.
///
/// # Errors
///
/// [`OpenError::Options`] if the directories are not of different brokers of one cluster; when one is in use, is no
/// data directory, or its own files cannot be read.
pub fn compare(
    disk: &dyn Disk,
    roots: &[PathBuf],
    found: &mut dyn FnMut(&Difference),
) -> Result<CompareSummary, OpenError> {
    let mut directories: Vec<Directory> = Vec::new();
    for root in roots {
        let directory = Directory::open(disk, root)?;
        if let Some(first) = directories.first().filter(|first| first.cluster != directory.cluster) {
            let (one, other) = (first.root.display(), root.display());
            return Err(OpenError::Options(format!(
                "{one} belongs to cluster {}, {other} to cluster {}: compare directories of one cluster",
                first.cluster, directory.cluster
            )));
        }
        if let Some(same) = directories.iter().find(|known| known.broker == directory.broker) {
            let (one, other) = (same.root.display(), root.display());
            let broker = directory.broker;
            return Err(OpenError::Options(format!("{one} and {other} both belong to broker {broker}")));
        }
        directories.push(directory);
    }
    let mut groups: BTreeMap<GroupId, Vec<(usize, &GroupRow)>> = BTreeMap::new();
    let mut summary = CompareSummary::default();
    for (at, directory) in directories.iter().enumerate() {
        summary.left_out += directory.left_out.len() as u64;
        for row in &directory.rows {
            groups.entry(row.group).or_default().push((at, row));
        }
    }
    for replicas in groups.values() {
        if replicas.len() < 2 {
            summary.alone += 1;
            continue;
        }
        summary.groups += 1;
        summary.replicas += replicas.len() as u64;
        let replica = |&(at, row): &(usize, &GroupRow)| Replica::new(disk, &directories[at], row);
        let replicas = replicas.iter().map(replica).collect::<Result<Vec<_>, _>>()?;
        compare_group(disk, replicas, &mut summary, found)?;
    }
    Ok(summary)
}

impl Directory {
    fn open(disk: &dyn Disk, root: &Path) -> Result<Directory, OpenError> {
        let lock = super::open_stopped(disk, root)?;
        let path = root.join(META_FILE);
        let meta = MetaProperties::read(disk, root)?;
        let meta = meta.ok_or(OpenError::Damaged { path, what: "it is missing".to_owned() })?;
        let table = Table::read(disk, root)?;
        let mut untold = |_: &super::Finding| {};
        let mut verifier = Verifier { disk, root, found: &mut untold, summary: VerifySummary::default() };
        let outline = verifier.outline(&table, meta.clean_stop);
        let mut rows = Verifier::rows(&table, &outline);
        let unfinished = |row: &GroupRow| {
            let installed = outline.installed.get(&row.group);
            installed.is_some_and(|(_, installed)| verifier.is_unfinished(installed))
        };
        let left_out = rows.iter().filter(|row| row.set_aside || unfinished(row)).map(|row| row.group).collect();
        rows.retain(|row| !row.set_aside && !unfinished(row));
        let (broker, cluster) = (meta.node_id, meta.cluster_id);
        Ok(Directory { root: root.to_path_buf(), broker, cluster, rows, left_out, _lock: lock })
    }
}

/// What is compared of an entry.
#[derive(Clone, Copy)]
struct Entry {
    term: Term,
    offset: Offset,
    /// Over its index and its stamped header.
    hash: u64,
    bytes: u32,
}

/// One replica that is being read.
struct Replica {
    broker: BrokerId,
    topic: String,
    partition: PartitionIndex,
    folder: PathBuf,
    /// Its segments, oldest first, from the one that is being read on.
    segments: Vec<SegmentName>,
    position: u64,
    expected: Option<Expected>,
    /// The first entry that it has.
    first: RaftIndex,
    /// Behind the last entry that it knows to be committed.
    end: RaftIndex,
    /// It differs, or cannot be read on.
    given_up: bool,
}

impl Replica {
    fn new(disk: &dyn Disk, directory: &Directory, row: &GroupRow) -> Result<Replica, OpenError> {
        let folder = directory.root.join(row.folder());
        let entries = match disk.read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(OpenError::io("list", &folder, error)),
        };
        let segments: BTreeSet<SegmentName> = entries
            .iter()
            .filter_map(|entry| SegmentName::parse(&entry.name))
            .filter(|(_, kind)| *kind == SegmentFile::Log)
            .map(|(name, _)| name)
            .collect();
        let segments: Vec<SegmentName> = segments.into_iter().collect();
        let end = RaftIndex(row.committed.map_or(0, |committed| committed.index.0 + 1));
        Ok(Replica {
            broker: directory.broker,
            topic: row.topic.clone(),
            partition: row.partition,
            folder,
            first: segments.first().map_or(end, |first| first.first_index),
            segments,
            position: 0,
            expected: None,
            end,
            given_up: false,
        })
    }

    /// Reads the entries `from..to`, which it should have, `CHUNK` of them at most; says why there are fewer.
    fn read(&mut self, disk: &dyn Disk, from: RaftIndex, to: RaftIndex) -> io::Result<(Vec<Entry>, Option<String>)> {
        let (mut entries, mut full) = (Vec::new(), from >= to);
        let skipped = self.segments.partition_point(|name| name.first_index <= from).saturating_sub(1);
        if skipped > 0 {
            self.segments.drain(..skipped);
            (self.position, self.expected) = (0, None);
        }
        while !full {
            let Some(name) = self.segments.first().copied() else {
                return Ok((entries, Some("its segments end before it".to_owned())));
            };
            let path = self.folder.join(name.file(SegmentFile::Log));
            let file = disk.open(&path, OpenMode::Read)?;
            let begin = Expected { offset: name.base_offset, index: name.first_index, term: Term(0) };
            let mut expected = self.expected.unwrap_or(begin);
            let (mut position, mut next) = (self.position, expected);
            let walked = walk(&*file, position, file.len()?, &mut expected, &mut |batch: &WalkedBatch<'_>| {
                let header = &batch.header;
                position = batch.position + u64::from(header.size_bytes);
                next = Expected {
                    offset: header.next_offset(),
                    index: RaftIndex(batch.id.index.0 + 1),
                    term: batch.id.term,
                };
                if batch.id.index >= from {
                    let hash = running_hash(0, batch.id.index, batch.head);
                    let (term, offset, bytes) = (batch.id.term, header.base_offset, header.size_bytes);
                    entries.push(Entry { term, offset, hash, bytes });
                }
                full = entries.len() >= CHUNK || next.index >= to;
                if full { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) }
            });
            (self.position, self.expected) = (position, Some(next));
            match walked {
                Err(_) if full => {}
                Err(error) => return Err(error),
                Ok(walked) => {
                    if let Some(wrong) = walked.wrong {
                        return Ok((entries, Some(format!("{}, byte {position}: {wrong}", path.display()))));
                    }
                    // The next segment begins where this one ends.
                    let follows = SegmentName { base_offset: next.offset, first_index: next.index };
                    if self.segments.get(1).is_some_and(|name| *name != follows) {
                        return Ok((entries, Some(format!("no segment follows {}", path.display()))));
                    }
                    self.segments.remove(0);
                    (self.position, self.expected) = (0, None);
                }
            }
        }
        Ok((entries, None))
    }
}

fn compare_group(
    disk: &dyn Disk,
    mut replicas: Vec<Replica>,
    summary: &mut CompareSummary,
    found: &mut dyn FnMut(&Difference),
) -> Result<(), OpenError> {
    // The one that knows most, and of those with the lowest id, is what the others are held to.
    replicas.sort_by_key(|replica| (std::cmp::Reverse(replica.end), replica.broker));
    let mut replicas = replicas.into_iter();
    let Some(mut first) = replicas.next() else { return Ok(()) };
    let mut others: Vec<Replica> = replicas.collect();
    for other in &others {
        let from = first.first.max(other.first).min(first.end);
        summary.not_compared += first.end.0 - from.max(other.end).0;
    }
    let unread = |replica: &Replica, error| OpenError::io("read", &replica.folder, error);
    let mut tell = |one: &Replica, other: &mut Replica, at: (RaftIndex, Option<Offset>), what: String| {
        other.given_up = true;
        summary.differences += 1;
        let brokers = (one.broker, other.broker);
        let (topic, partition) = (one.topic.clone(), one.partition);
        found(&Difference { topic, partition, index: at.0, offset: at.1, brokers, what });
    };
    let mut next = others.iter().map(|other| other.first).min().unwrap_or(first.end).max(first.first);
    loop {
        let end = others.iter().filter(|other| !other.given_up).map(|other| other.end).max();
        let Some(end) = end.filter(|end| next < *end) else { return Ok(()) };
        let (entries, short) = first.read(disk, next, end).map_err(|error| unread(&first, error))?;
        let to = RaftIndex(next.0 + entries.len() as u64);
        for other in &mut others {
            let (from, until) = (next.max(other.first), to.min(other.end));
            if other.given_up || from >= until {
                continue;
            }
            let (own, own_short) = other.read(disk, from, until).map_err(|error| unread(other, error))?;
            for (at, ours) in (from.0..until.0).enumerate() {
                let one = &entries[(ours - next.0) as usize];
                let place = (RaftIndex(ours), Some(one.offset));
                let Some(same) = own.get(at) else {
                    let why = own_short.as_deref().unwrap_or("it ends before it");
                    let what = format!("broker {} does not have it: {why}", other.broker);
                    tell(&first, other, place, what);
                    break;
                };
                if let Some(what) = differs(one, same) {
                    tell(&first, other, place, what);
                    break;
                }
                summary.entries += 1;
                summary.bytes += u64::from(one.bytes);
            }
        }
        if let Some(why) = short {
            for other in others.iter_mut().filter(|other| !other.given_up && other.end > to) {
                let what = format!("broker {} does not have it: {why}", first.broker);
                tell(&first, other, (to, None), what);
            }
            return Ok(());
        }
        next = to;
    }
}

fn differs(one: &Entry, other: &Entry) -> Option<String> {
    if one.term != other.term {
        return Some(format!("it is of term {} on one and of term {} on the other", one.term, other.term));
    }
    if one.offset != other.offset {
        return Some(format!("it begins at offset {} on one and {} on the other", one.offset, other.offset));
    }
    if one.bytes != other.bytes {
        return Some(format!("it has {} bytes on one and {} on the other", one.bytes, other.bytes));
    }
    (one.hash != other.hash).then(|| "its bytes differ".to_owned())
}
