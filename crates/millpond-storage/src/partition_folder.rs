//! A partition's folder in the data directory: its names, and the file that says whose it is.
//!
//! | name | meaning |
//! | --- | --- |
//! | `<topic>-<partition>` | the folder of a group |
//! | `<topic>-<partition>.<group>.deleted` | the group is being deleted; the folder is removed when that is durable |
//! | `<topic>-<partition>.<number>.stray` | no group is known that has it; set aside, and left to the operator |
//!
//! A topic's name may contain dots, but a partition folder ends in a dash and digits, so the three cannot be mixed up.
//! Where the longer names do not fit a file system's 255 bytes, the topic is cut short in them: the group says whose
//! the folder is.
//!
//! `partition.metadata`, written once and never synced by itself (the journal and `groups.table` know the same):
//!
//! ```text
//! version: 1
//! group: 7
//! topic_id: Hdyy9uUuRgqqH6sjY3ldRw
//! ```

use std::io::{self, IoSlice};
use std::path::Path;

use millpond_record::{GroupId, TopicId};
use millpond_runtime::{Disk, OpenMode};

/// Says whose folder it is.
pub(crate) const METADATA_FILE: &str = "partition.metadata";
const MAX_METADATA_BYTES: u64 = 4 << 10;

/// What the name of a folder in the data directory means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FolderName {
    /// `<topic>-<partition>`.
    Partition,
    /// The folder of a group that is being deleted.
    Deleted { group: GroupId },
    /// Set aside.
    Stray,
    /// Not ours.
    Other,
}

impl FolderName {
    pub(crate) fn parse(name: &str) -> FolderName {
        let suffixed = |suffix: &str| {
            let (name, number) = name.strip_suffix(suffix)?.rsplit_once('.')?;
            is_partition(name).then_some(())?;
            number.parse().ok()
        };
        if let Some(group) = suffixed(".deleted") {
            return FolderName::Deleted { group: GroupId(group) };
        }
        if suffixed(".stray").is_some() {
            return FolderName::Stray;
        }
        if is_partition(name) { FolderName::Partition } else { FolderName::Other }
    }
}

fn is_partition(name: &str) -> bool {
    name.rsplit_once('-').is_some_and(|(topic, index)| !topic.is_empty() && index.parse::<u32>().is_ok())
}

/// The name that a group's folder has while the group is being deleted.
pub(crate) fn deleted_name(name: &str, group: GroupId) -> String {
    with_suffix(name, &format!(".{group}.deleted"))
}

/// The name under which a folder is set aside for the `number`th time.
pub(crate) fn stray_name(name: &str, number: u64) -> String {
    with_suffix(name, &format!(".{number}.stray"))
}

/// The longest name of a file or folder, in bytes.
const MAX_NAME_BYTES: usize = 255;

fn with_suffix(name: &str, suffix: &str) -> String {
    let room = MAX_NAME_BYTES - suffix.len();
    match name.rsplit_once('-') {
        Some((topic, partition)) if name.len() > room => {
            let topic = &topic[..topic.floor_char_boundary(room.saturating_sub(partition.len() + 1))];
            format!("{topic}-{partition}{suffix}")
        }
        _ => format!("{name}{suffix}"),
    }
}

/// Sets a folder aside under the first free name and gives that name.
pub(crate) fn set_aside(disk: &dyn Disk, root: &Path, name: &str) -> io::Result<String> {
    let mut number = 1;
    while disk.exists(&root.join(stray_name(name, number)))? {
        number += 1;
    }
    let stray = stray_name(name, number);
    disk.rename(&root.join(name), &root.join(&stray))?;
    Ok(stray)
}

/// Whose folder it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PartitionMetadata {
    pub(crate) group: GroupId,
    pub(crate) topic_id: TopicId,
}

impl PartitionMetadata {
    pub(crate) fn encode(&self) -> String {
        format!("version: 1\ngroup: {}\ntopic_id: {}\n", self.group, self.topic_id)
    }

    /// `None` for anything that was not written whole.
    pub(crate) fn decode(bytes: &[u8]) -> Option<PartitionMetadata> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut lines = text.strip_suffix('\n')?.lines();
        let mut value = |key: &str| lines.next()?.strip_prefix(key)?.strip_prefix(": ");
        if value("version")? != "1" {
            return None;
        }
        Some(PartitionMetadata {
            group: GroupId(value("group")?.parse().ok()?),
            topic_id: value("topic_id")?.parse().ok()?,
        })
    }

    /// Reads the file of a folder; `None` when there is none that was written whole.
    pub(crate) fn read(disk: &dyn Disk, folder: &Path) -> io::Result<Option<PartitionMetadata>> {
        match disk.read(&folder.join(METADATA_FILE), MAX_METADATA_BYTES) {
            Ok(bytes) => Ok(PartitionMetadata::decode(&bytes)),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes the file. A power cut may take it back; it is written again when the folder is opened.
    pub(crate) fn write(&self, disk: &dyn Disk, folder: &Path) -> io::Result<()> {
        let file = disk.open(&folder.join(METADATA_FILE), OpenMode::Create)?;
        let text = self.encode();
        file.set_len(0)?;
        file.write_all_at(&[IoSlice::new(text.as_bytes())], 0)
    }
}

/// Whether a folder holds no data: only empty files, and `partition.metadata`.
pub(crate) fn is_empty(disk: &dyn Disk, folder: &Path) -> io::Result<bool> {
    let entries = disk.read_dir(folder)?;
    Ok(entries.iter().all(|entry| !entry.is_dir && (entry.len == 0 || entry.name.to_str() == Some(METADATA_FILE))))
}
