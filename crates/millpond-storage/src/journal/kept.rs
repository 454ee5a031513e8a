//! What the journal has of a group whose log was set aside (version 1). Little-endian.
//!
//! ```text
//!  0        8        12       16                24                32       36
//! +--------+--------+--------+-----------------+-----------------+--------+---------------------
//! | magic  | version| zero   | group           | records         | crc    | salt 4, record ...
//! +--------+--------+--------+-----------------+-----------------+--------+---------------------
//! ```
//!
//! `<partition folder>/journal.<first sequence>.kept`. Recovery, or the checkpoint that finds the log set aside, writes
//! it before anything may recycle the journal's files: a verdict that was wrong, or damage that another program can
//! mend, then has cost nothing. `crc` is CRC-32 over the 32 bytes before it. Each record is, byte for byte, what the
//! journal held, behind the salt of the file that held it, so that it can be proven as it was there (see
//! [`super::record`]).
//!
//! The file is written under another name and renamed when it is synced: where the name is, the file is whole.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use millpond_record::GroupId;
use millpond_runtime::{Disk, File, OpenMode};

use super::record::{self, RECORD_HEADER_BYTES, RecordHeader};
use super::scan::{self, FoundRecord, ReplayFrom};
use crate::OpenError;

const MAGIC: &[u8; 8] = b"MILLPKEP";
const VERSION: u32 = 1;
const VERSION_AT: usize = 8;
const GROUP_AT: usize = 16;
const RECORDS_AT: usize = 24;
const CRC_AT: usize = 32;
/// Bytes before the first record.
const HEADER_BYTES: usize = 36;
const _: () = assert!(VERSION_AT == MAGIC.len() && GROUP_AT == VERSION_AT + 8 && RECORDS_AT == GROUP_AT + 8);
const _: () = assert!(CRC_AT == RECORDS_AT + 8 && HEADER_BYTES == CRC_AT + 4);

/// Bytes in front of a record.
const SALT_BYTES: usize = 4;

/// Records are gathered until there are so many bytes.
const BUFFER_BYTES: usize = 256 << 10;

/// Groups whose files are open at the same time; the journal is read once for so many.
const GROUPS_AT_ONCE: usize = 32;

/// What became of each group's file.
pub(crate) type Kept = BTreeMap<GroupId, Result<String, OpenError>>;

/// Saves what the journal has of some groups, each into its folder. Gives the names of the files, or why one could not
/// be written and synced; a group of which the journal has nothing gets none. `numbers` are the files that hold
/// records, and those from record `below` on are passed over: they may be written at this moment.
///
/// # Errors
///
/// When the journal cannot be read up to there.
pub(crate) fn keep(
    disk: &dyn Disk,
    journal: &Path,
    numbers: &[u64],
    from: ReplayFrom,
    below: u64,
    folders: &BTreeMap<GroupId, PathBuf>,
) -> Result<Kept, OpenError> {
    let mut kept = Kept::new();
    let groups: Vec<_> = folders.iter().collect();
    for some in groups.chunks(GROUPS_AT_ONCE) {
        let mut open: BTreeMap<GroupId, Result<KeptFile, OpenError>> = BTreeMap::new();
        let mut next = from.sequence;
        let scanned = scan::scan(disk, journal, numbers, from, &mut |record: FoundRecord<'_>| {
            let group = record.header.group;
            next = record.header.sequence + 1;
            if record.header.sequence >= below {
                return Err(OpenError::Options("the rest is of no interest".to_owned()));
            }
            let Some((_, folder)) = some.iter().find(|(wanted, _)| **wanted == group) else { return Ok(()) };
            // What one folder does not take is no reason not to keep the others'.
            let file = open.entry(group).or_insert_with(|| {
                let file = KeptFile::create(disk, folder, group, record.header.sequence);
                file.map_err(|error| OpenError::io("save the journal's records in", folder, error))
            });
            if let Ok(taking) = file
                && let Err(error) = taking.push(&record)
            {
                *file = Err(taking.error(error));
            }
            Ok(())
        });
        // What lies behind the last record of interest may be half written.
        if next < below {
            scanned?;
        }
        for (group, file) in open {
            let name = file.and_then(|mut file| file.finish(disk).map_err(|error| file.error(error)));
            kept.insert(group, name);
        }
    }
    Ok(kept)
}

/// One file on its way.
struct KeptFile {
    group: GroupId,
    folder: PathBuf,
    name: String,
    file: Arc<dyn File>,
    position: u64,
    buffer: Vec<u8>,
    records: u64,
}

impl KeptFile {
    fn create(disk: &dyn Disk, folder: &Path, group: GroupId, sequence: u64) -> io::Result<KeptFile> {
        // That it is missing may be the damage.
        disk.create_dir_all(folder)?;
        let name = format!("journal.{sequence:020}.kept");
        let file = disk.open(&folder.join(unfinished(&name)), OpenMode::Create)?;
        file.set_len(0)?;
        let (folder, position) = (folder.to_path_buf(), HEADER_BYTES as u64);
        Ok(KeptFile { group, folder, name, file, position, buffer: Vec::new(), records: 0 })
    }

    fn error(&self, error: io::Error) -> OpenError {
        OpenError::io("save the journal's records in", &self.folder.join(&self.name), error)
    }

    fn push(&mut self, record: &FoundRecord<'_>) -> io::Result<()> {
        self.buffer.extend_from_slice(&record.salt.to_le_bytes());
        self.buffer.extend_from_slice(record.bytes);
        self.records += 1;
        if self.buffer.len() >= BUFFER_BYTES { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> io::Result<()> {
        self.file.write_all_at(&[IoSlice::new(&self.buffer)], self.position)?;
        self.position += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn finish(&mut self, disk: &dyn Disk) -> io::Result<String> {
        self.write()?;
        let mut header = [0; HEADER_BYTES];
        header[..VERSION_AT].copy_from_slice(MAGIC);
        header[VERSION_AT..VERSION_AT + 4].copy_from_slice(&VERSION.to_le_bytes());
        header[GROUP_AT..RECORDS_AT].copy_from_slice(&self.group.0.to_le_bytes());
        header[RECORDS_AT..CRC_AT].copy_from_slice(&self.records.to_le_bytes());
        let crc = crc32fast::hash(&header[..CRC_AT]);
        header[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        self.file.write_all_at(&[IoSlice::new(&header)], 0)?;
        self.file.sync_all()?;
        disk.rename(&self.folder.join(unfinished(&self.name)), &self.folder.join(&self.name))?;
        disk.sync_dir(&self.folder)?;
        if let Some(root) = self.folder.parent() {
            disk.sync_dir(root)?;
        }
        Ok(self.name.clone())
    }
}

fn unfinished(name: &str) -> String {
    format!("{name}.tmp")
}

/// The sequence number in the name of a kept file, if it is one's.
pub(crate) fn sequence_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("journal.")?.strip_suffix(".kept")?;
    let is_number = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| is_number)
}

/// What is wrong with a kept file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeptError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it has format version {0}; use a newer millpond")]
    Newer(u32),
    #[error("{what}")]
    Damaged { position: u64, what: &'static str },
}

/// A record of a kept file, proven.
pub(crate) struct KeptRecord {
    pub(crate) header: RecordHeader,
    /// The record as the journal had it.
    pub(crate) bytes: Vec<u8>,
    pub(crate) salt: u32,
    /// Where it begins in the kept file.
    pub(crate) position: u64,
}

/// Reads a kept file, one record after the other.
pub(crate) struct KeptReader {
    file: Arc<dyn File>,
    length: u64,
    position: u64,
    /// The group that all its records are of.
    pub(crate) group: GroupId,
    /// How many records it has.
    pub(crate) records: u64,
    found: u64,
    next_sequence: u64,
}

impl KeptReader {
    pub(crate) fn open(file: Arc<dyn File>) -> Result<KeptReader, KeptError> {
        let length = file.len()?;
        let mut header = [0; HEADER_BYTES];
        if length < HEADER_BYTES as u64 {
            return Err(KeptError::Damaged { position: length, what: "it ends within its header" });
        }
        file.read_exact_at(&mut header, 0)?;
        let u32_at = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
        let u64_at = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"));
        if !header.starts_with(MAGIC) || u32_at(CRC_AT) != crc32fast::hash(&header[..CRC_AT]) {
            return Err(KeptError::Damaged { position: 0, what: "its header is damaged" });
        }
        if u32_at(VERSION_AT) != VERSION {
            return Err(KeptError::Newer(u32_at(VERSION_AT)));
        }
        let (group, records) = (GroupId(u64_at(GROUP_AT)), u64_at(RECORDS_AT));
        Ok(KeptReader { file, length, position: HEADER_BYTES as u64, group, records, found: 0, next_sequence: 0 })
    }

    /// The next record; `None` behind the last. Takes no more memory than the record, and that no more than the file.
    pub(crate) fn next(&mut self) -> Result<Option<KeptRecord>, KeptError> {
        let begin = self.position;
        let damaged = |what| KeptError::Damaged { position: begin, what };
        if self.found == self.records {
            return if begin == self.length { Ok(None) } else { Err(damaged("there is more than its header says")) };
        }
        let mut head = [0; SALT_BYTES + RECORD_HEADER_BYTES];
        if self.length - begin < head.len() as u64 {
            return Err(damaged("records are missing"));
        }
        self.file.read_exact_at(&mut head, begin)?;
        let (salt, head) = head.split_first_chunk::<SALT_BYTES>().expect("it has both");
        let salt = u32::from_le_bytes(*salt);
        let header = RecordHeader::read(head.first_chunk().expect("it has both"));
        let position = begin + SALT_BYTES as u64;
        if !header.fits(self.length - position) {
            return Err(damaged("a record is damaged"));
        }
        let bytes = self.file.read_vec_at(header.length as usize, position)?;
        let whole = record::prove_head(&header, &bytes, salt) && record::prove_rest(&header, &bytes, salt);
        if !whole || header.group != self.group || header.sequence < self.next_sequence {
            return Err(damaged("a record is damaged"));
        }
        self.position = position + u64::from(header.length);
        self.next_sequence = header.sequence + 1;
        self.found += 1;
        Ok(Some(KeptRecord { header, bytes, salt, position: begin }))
    }
}
