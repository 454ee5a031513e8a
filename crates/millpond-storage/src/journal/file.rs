//! A journal file: its name, its header, and how it is made and recycled.
//!
//! ```text
//!  0        8        12       16                24                32      36          4096
//! +--------+--------+--------+-----------------+-----------------+-------+----------+----------------
//! | magic  | version| salt   | file number     | first sequence  | crc   | zero ... | records ...
//! +--------+--------+--------+-----------------+-----------------+-------+----------+----------------
//! ```
//!
//! `salt` is random and begins the checksum of every record of the file, so that no client can send bytes that look
//! like a record.
//!
//! The header fills the first 4096 bytes and is there twice, at 0 and at 2048, because nothing else says that the file
//! has records. It is written together with the first of them, so a header that does not carry the number in the file's
//! name belongs to the file's former life: the file is empty.

use std::io;
use std::path::{Path, PathBuf};

use millpond_runtime::{Disk, OpenMode};

/// Bytes before the first record.
pub(crate) const FILE_HEADER_BYTES: usize = 4096;

const MAGIC: &[u8; 8] = b"MILLPWAL";
const VERSION: usize = 8;
const SALT: usize = 12;
const NUMBER: usize = 16;
const FIRST_SEQUENCE: usize = 24;
const CRC: usize = 32;
const FIELDS_END: usize = 36;
const _: () =
    assert!(VERSION == MAGIC.len() && SALT == VERSION + 4 && NUMBER == SALT + 4 && FIRST_SEQUENCE == NUMBER + 8);
const _: () = assert!(CRC == FIRST_SEQUENCE + 8 && FIELDS_END == CRC + 4 && FIELDS_END <= FILE_HEADER_BYTES);

/// Where the header's second copy begins.
const SECOND_COPY: usize = FILE_HEADER_BYTES / 2;
const _: () = assert!(FIELDS_END <= SECOND_COPY);

/// The version of the journal's format that is written, and the newest that is read.
pub(crate) const JOURNAL_VERSION: u32 = 1;

/// What a file's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileHeader {
    pub(crate) number: u64,
    pub(crate) first_sequence: u64,
    pub(crate) salt: u32,
}

/// What the first bytes of a file are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderFound {
    /// A header of this format.
    Header(FileHeader),
    /// A whole header of a version that is newer than this program.
    Newer(u32),
    /// Nothing that was written completely.
    None,
}

impl FileHeader {
    /// The header as the first bytes of a file.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; FILE_HEADER_BYTES];
        bytes[..VERSION].copy_from_slice(MAGIC);
        bytes[VERSION..VERSION + 4].copy_from_slice(&JOURNAL_VERSION.to_le_bytes());
        bytes[SALT..NUMBER].copy_from_slice(&self.salt.to_le_bytes());
        bytes[NUMBER..FIRST_SEQUENCE].copy_from_slice(&self.number.to_le_bytes());
        bytes[FIRST_SEQUENCE..CRC].copy_from_slice(&self.first_sequence.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..CRC]);
        bytes[CRC..FIELDS_END].copy_from_slice(&crc.to_le_bytes());
        bytes.copy_within(..FIELDS_END, SECOND_COPY);
        bytes
    }

    /// Reads a file's first bytes: its header under this number, from either copy, or what else is there.
    pub(crate) fn find(bytes: &[u8], number: u64) -> HeaderFound {
        let first = FileHeader::parse(bytes);
        match first {
            HeaderFound::Header(header) if header.number == number => first,
            HeaderFound::Newer(_) => first,
            _ => match FileHeader::parse(bytes.get(SECOND_COPY..).unwrap_or_default()) {
                HeaderFound::None => first,
                second => second,
            },
        }
    }

    fn parse(bytes: &[u8]) -> HeaderFound {
        let Some(fields) = bytes.get(..FIELDS_END) else { return HeaderFound::None };
        let u32_at = |at: usize| u32::from_le_bytes(fields[at..at + 4].try_into().expect("four bytes"));
        let u64_at = |at: usize| u64::from_le_bytes(fields[at..at + 8].try_into().expect("eight bytes"));
        if !fields.starts_with(MAGIC) || u32_at(CRC) != crc32fast::hash(&fields[..CRC]) {
            return HeaderFound::None;
        }
        match u32_at(VERSION) {
            JOURNAL_VERSION => HeaderFound::Header(FileHeader {
                number: u64_at(NUMBER),
                first_sequence: u64_at(FIRST_SEQUENCE),
                salt: u32_at(SALT),
            }),
            newer => HeaderFound::Newer(newer),
        }
    }
}

/// Whether both copies of a file's header are whole and say the same. A start needs only one of them.
pub(crate) fn whole_copies(disk: &dyn Disk, path: &Path, number: u64) -> io::Result<bool> {
    let mut bytes = vec![0; FILE_HEADER_BYTES];
    disk.open(path, OpenMode::Read)?.read_exact_at(&mut bytes, 0)?;
    let first = FileHeader::parse(&bytes);
    let own = matches!(first, HeaderFound::Header(header) if header.number == number);
    Ok(own && first == FileHeader::parse(&bytes[SECOND_COPY..]))
}

/// The path of a journal file.
pub(crate) fn path_of(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:016}.wal"))
}

/// The number in a journal file's name; `None` for any other name.
pub(crate) fn number_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".wal")?;
    let number = digits.parse().ok().filter(|number| *number > 0)?;
    (format!("{number:016}") == digits).then_some(number)
}
