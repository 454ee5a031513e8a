//! What the journal has of a group whose log was set aside as damaged (version 1). Little-endian.
//!
//! ```text
//!  0        8        12       16                24                32       36
//! +--------+--------+--------+-----------------+-----------------+--------+---------------------
//! | magic  | version| zero   | group           | records         | crc    | salt 4, record ...
//! +--------+--------+--------+-----------------+-----------------+--------+---------------------
//! ```
//!
//! `<partition folder>/journal.<first sequence>.kept`. Recovery writes it before anything may recycle the journal's
//! files: a verdict that was wrong, or damage that another program can mend, then has cost nothing. `crc` is CRC-32
//! over the 32 bytes before it. Each record is, byte for byte, what the journal held, behind the salt of the file that
//! held it, so that it can be proven as it was there (see [`super::record`]).
//!
//! The file is written under another name and renamed when it is synced: where the name is, the file is whole.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use millpond_record::GroupId;
use millpond_runtime::{Disk, File, OpenMode};

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

/// Records are gathered until there are so many bytes.
const BUFFER_BYTES: usize = 256 << 10;

/// Groups whose files are open at the same time; the journal is read once for so many.
const GROUPS_AT_ONCE: usize = 32;

/// Saves what the journal has of some groups, each into its folder. Gives the names of the files; a group of which the
/// journal has nothing gets none. `numbers` are the files that were found to hold records.
///
/// # Errors
///
/// When a file cannot be written and synced: the start is refused then, because the journal is all there is.
pub(crate) fn keep(
    disk: &dyn Disk,
    journal: &Path,
    numbers: &[u64],
    from: ReplayFrom,
    folders: &BTreeMap<GroupId, PathBuf>,
) -> Result<BTreeMap<GroupId, String>, OpenError> {
    let mut names = BTreeMap::new();
    let groups: Vec<_> = folders.iter().collect();
    for some in groups.chunks(GROUPS_AT_ONCE) {
        let mut open: BTreeMap<GroupId, KeptFile> = BTreeMap::new();
        scan::scan(disk, journal, numbers, from, &mut |record: FoundRecord<'_>| {
            let group = record.header.group;
            let Some((_, folder)) = some.iter().find(|(wanted, _)| **wanted == group) else { return Ok(()) };
            let file = match open.entry(group) {
                std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
                std::collections::btree_map::Entry::Vacant(entry) => {
                    let file = KeptFile::create(disk, folder, group, record.header.sequence);
                    entry.insert(file.map_err(|error| OpenError::io("save the journal's records in", folder, error))?)
                }
            };
            file.push(&record).map_err(|error| file.error(error))
        })?;
        for (group, mut file) in open {
            let name = file.finish(disk).map_err(|error| file.error(error))?;
            names.insert(group, name);
        }
    }
    Ok(names)
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

/// Whose records a kept file has, and each with its sequence number.
#[cfg(test)]
pub(crate) type Kept = (GroupId, Vec<(u64, super::JournalEntry)>);

/// A kept file's records, proven.
#[cfg(test)]
pub(crate) fn read(bytes: &[u8]) -> Result<Kept, &'static str> {
    use super::record::{self, RECORD_HEADER_BYTES, RecordHeader};

    let header = bytes.first_chunk::<HEADER_BYTES>().ok_or("it has no header")?;
    let u32_at = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
    let u64_at = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"));
    if !header.starts_with(MAGIC)
        || u32_at(VERSION_AT) != VERSION
        || u32_at(CRC_AT) != crc32fast::hash(&header[..CRC_AT])
    {
        return Err("its header is damaged");
    }
    let (group, mut found, mut rest) = (GroupId(u64_at(GROUP_AT)), Vec::new(), &bytes[HEADER_BYTES..]);
    while !rest.is_empty() {
        let (salt, record) = rest.split_first_chunk::<4>().ok_or("it ends within a salt")?;
        let salt = u32::from_le_bytes(*salt);
        let head = RecordHeader::read(record.first_chunk::<RECORD_HEADER_BYTES>().ok_or("it ends within a record")?);
        if !head.fits(record.len() as u64) {
            return Err("a record does not fit");
        }
        let (record, behind) = record.split_at(head.length as usize);
        if !record::prove_head(&head, record, salt) || !record::prove_rest(&head, record, salt) {
            return Err("a record is damaged");
        }
        found.push((head.sequence, record::decode(&head, record).map_err(|_| "a record cannot be read")?));
        rest = behind;
    }
    if found.len() as u64 != u64_at(RECORDS_AT) { Err("records are missing") } else { Ok((group, found)) }
}
