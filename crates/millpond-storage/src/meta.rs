//! `meta.properties`: whose data directory this is, in lines of `key=value`.
//!
//! ```text
//! # Millpond wrote this file. Do not edit it.
//! millpond.format=1
//! cluster.id=MkU3OEVBNTcwNTJENDM2Qg
//! node.id=1
//! directory.id=Hdyy9uUuRgqqH6sjY3ldRw
//! boot.id=pWcyrl6MTHKp_6vY1VqKEQ
//! machine.boot.id=0b5c9a4e-5c0e-4f5a-9f0e-6a2c6a6f2f11
//! clean.stop=false
//! checksum=5f2a90c1
//! ```
//!
//! The keys that Kafka's file of this name has are called as there. Ids are 16 random bytes in base64url. `boot.id` is
//! new at each start; `machine.boot.id` is that of the machine ([`Runtime::machine_boot_id`]), left out where it is not
//! known, and by earlier versions; `clean.stop` is true from a clean stop to the next start. `checksum` is the CRC-32
//! of all lines before it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use millpond_record::{BrokerId, TopicId};
use millpond_runtime::{Disk, Runtime, write_atomically};

use crate::OpenError;

/// The version of a data directory's formats as a whole that this program writes, and the newest that it reads.
pub(crate) const FORMAT_VERSION: u32 = 1;

/// The file's name in the data directory.
pub(crate) const META_FILE: &str = "meta.properties";

/// The file has a few hundred bytes; a longer one is not ours.
const MAX_META_BYTES: u64 = 64 << 10;

/// 16 random bytes that name a data directory, a run of a broker or a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DirectoryId(pub [u8; 16]);

impl fmt::Display for DirectoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        TopicId(self.0).fmt(f)
    }
}

impl DirectoryId {
    /// A new one.
    pub fn random(runtime: &Runtime) -> DirectoryId {
        loop {
            let mut bytes = [0; 16];
            runtime.fill_random(&mut bytes);
            let id = DirectoryId(bytes);
            // As Kafka does: an id that begins with a dash looks like an option on a command line.
            if !id.to_string().starts_with('-') {
                return id;
            }
        }
    }

    fn parse(text: &str) -> Option<DirectoryId> {
        text.parse::<TopicId>().ok().map(|id| DirectoryId(id.0))
    }
}

/// Whose data directory this is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetaProperties {
    /// The cluster it belongs to.
    pub cluster_id: String,
    /// The node it belongs to.
    pub node_id: BrokerId,
    /// Made with the directory; never changes.
    pub directory_id: DirectoryId,
    /// New at each start.
    pub boot_id: DirectoryId,
    /// Of the machine at the last start; `None` where that is not known. Another one says that what was not synced may
    /// be lost.
    pub machine_boot_id: Option<String>,
    /// Whether the directory was closed cleanly and not opened since. False while it is open.
    pub clean_stop: bool,
}

/// Why text is not a `meta.properties`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MetaError {
    #[error("it is not UTF-8")]
    NotText,
    #[error("its checksum is missing or does not match")]
    Checksum,
    #[error("it has format version {0}")]
    Newer(u32),
    #[error("{0} is missing or has a value that cannot be")]
    Field(&'static str),
}

impl MetaProperties {
    /// Those of a new directory.
    pub(crate) fn new(runtime: &Runtime, cluster_id: Option<&str>, node_id: BrokerId) -> MetaProperties {
        MetaProperties {
            cluster_id: cluster_id.map_or_else(|| DirectoryId::random(runtime).to_string(), str::to_owned),
            node_id,
            directory_id: DirectoryId::random(runtime),
            boot_id: DirectoryId::random(runtime),
            machine_boot_id: runtime.machine_boot_id(),
            clean_stop: false,
        }
    }

    /// The same directory in its next run.
    pub(crate) fn next_boot(&self, runtime: &Runtime) -> MetaProperties {
        let (boot_id, machine_boot_id) = (DirectoryId::random(runtime), runtime.machine_boot_id());
        MetaProperties { boot_id, machine_boot_id, clean_stop: false, ..self.clone() }
    }

    /// Whether the machine is known not to have been started again since the last start.
    pub(crate) fn is_of_this_boot(&self, runtime: &Runtime) -> bool {
        self.machine_boot_id.is_some() && self.machine_boot_id == runtime.machine_boot_id()
    }

    pub(crate) fn encode(&self) -> String {
        let MetaProperties { cluster_id, node_id, directory_id, boot_id, machine_boot_id, clean_stop } = self;
        let machine = machine_boot_id.as_ref().map(|id| format!("machine.boot.id={id}\n")).unwrap_or_default();
        let lines = format!(
            "# Millpond wrote this file. Do not edit it.\nmillpond.format={FORMAT_VERSION}\ncluster.id={cluster_id}\n\
             node.id={node_id}\ndirectory.id={directory_id}\nboot.id={boot_id}\n{machine}clean.stop={clean_stop}\n"
        );
        let checksum = crc32fast::hash(lines.as_bytes());
        format!("{lines}checksum={checksum:08x}\n")
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<MetaProperties, MetaError> {
        let text = std::str::from_utf8(bytes).map_err(|_| MetaError::NotText)?;
        let at = text.rfind("checksum=").ok_or(MetaError::Checksum)?;
        let (lines, checksum) = text.split_at(at);
        if checksum.trim_end() != format!("checksum={:08x}", crc32fast::hash(lines.as_bytes())) {
            return Err(MetaError::Checksum);
        }
        let value = |key: &'static str| {
            let found = lines.lines().filter_map(|line| line.split_once('=')).find(|(name, _)| *name == key);
            found.map(|(_, value)| value).ok_or(MetaError::Field(key))
        };
        let version = value("millpond.format")?.parse().map_err(|_| MetaError::Field("millpond.format"))?;
        if version > FORMAT_VERSION {
            return Err(MetaError::Newer(version));
        }
        let id = |key| DirectoryId::parse(value(key)?).ok_or(MetaError::Field(key));
        Ok(MetaProperties {
            cluster_id: value("cluster.id")?.to_owned(),
            node_id: BrokerId(value("node.id")?.parse().map_err(|_| MetaError::Field("node.id"))?),
            directory_id: id("directory.id")?,
            boot_id: id("boot.id")?,
            machine_boot_id: value("machine.boot.id").ok().map(str::to_owned),
            clean_stop: value("clean.stop")?.parse().map_err(|_| MetaError::Field("clean.stop"))?,
        })
    }

    /// Reads the file of a data directory; `None` when there is none: the directory is new. Blocking.
    ///
    /// # Errors
    /// When it cannot be read, or is damaged.
    pub fn read(disk: &dyn Disk, root: &Path) -> Result<Option<MetaProperties>, OpenError> {
        let path = root.join(META_FILE);
        let bytes = match disk.read(&path, MAX_META_BYTES) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                let why = "it, or a part of its path, is a file";
                return Err(OpenError::NotADataDirectory { path: root.to_path_buf(), why });
            }
            Err(error) => return Err(OpenError::io("read", &path, error)),
        };
        MetaProperties::decode(&bytes).map(Some).map_err(|error| refuse(path, &error))
    }

    pub(crate) fn write(&self, disk: &dyn Disk, root: &Path) -> io::Result<()> {
        write_atomically(disk, &root.join(META_FILE), self.encode().as_bytes())
    }
}

fn refuse(path: PathBuf, error: &MetaError) -> OpenError {
    match error {
        MetaError::Newer(found) => OpenError::NewerFormat { path, found: *found, supported: FORMAT_VERSION },
        error => OpenError::Damaged { path, what: error.to_string() },
    }
}
