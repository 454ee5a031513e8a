//! The settings of a data directory.

use millpond_record::{BrokerId, Timestamp};

use crate::OpenError;
use crate::journal::file::FILE_HEADER_BYTES;
use crate::journal::record::RECORD_HEADER_BYTES;
use crate::meta::DirectoryId;

/// The settings of a data directory.
#[derive(Clone, Debug)]
pub struct StorageOptions {
    /// The node that the directory belongs to. A directory of another node is refused.
    pub node_id: BrokerId,
    /// The cluster that a new directory belongs to; `None` makes up an id. A directory of another cluster is refused.
    pub cluster_id: Option<String>,
    /// The identity that a new directory gets; `None` makes one up.
    pub directory_id: Option<DirectoryId>,
    /// Bytes of one journal file. At least [`StorageOptions::MIN_JOURNAL_FILE_BYTES`]; a batch must fit into one file
    /// (see [`StorageOptions::max_batch_bytes`]).
    pub journal_file_bytes: u64,
    /// How many journal files there may be, at least 3. Their total bounds the time of a start after a crash.
    pub journal_files: u32,
    /// Bytes of recent batches that are kept in memory, over all logs.
    pub tail_cache_bytes: u64,
    /// Bytes of a segment between two entries of its index.
    pub index_interval_bytes: u32,
    /// A checkpoint begins after this many bytes that are in segments and not in the journal: those of relaxed logs,
    /// and those that were synced in their segments.
    pub relaxed_sync_bytes: u64,
    /// Where a journal round has this many bytes of one log, the log's segment is synced instead of writing them twice.
    /// On a disk whose sync takes more than half a millisecond it is more, in proportion.
    pub segment_sync_bytes: u64,
    /// Logs that a start after a crash has open at the same time, at least 1; each has two or three files open.
    pub open_logs: usize,
    /// The time at which the directory is opened. A batch that is found without the time of its append was appended
    /// before that, whatever its records say; so a timestamp of the future cannot keep it for ever.
    pub opened_at: Timestamp,
}

impl StorageOptions {
    /// The smallest journal file.
    pub const MIN_JOURNAL_FILE_BYTES: u64 = 64 << 10;

    /// The largest journal file.
    pub const MAX_JOURNAL_FILE_BYTES: u64 = 4 << 30;

    /// The fewest journal files: one is written to, one is full, one is ready.
    pub const MIN_JOURNAL_FILES: u32 = 3;

    /// Refuses settings that are out of range.
    pub(crate) fn check(&self) -> Result<(), OpenError> {
        let (least, most) = (StorageOptions::MIN_JOURNAL_FILE_BYTES, StorageOptions::MAX_JOURNAL_FILE_BYTES);
        if !(least..=most).contains(&self.journal_file_bytes) {
            let found = self.journal_file_bytes;
            return Err(OpenError::Options(format!("a journal file has {least} to {most} bytes, not {found}")));
        }
        if self.journal_files < StorageOptions::MIN_JOURNAL_FILES {
            let (least, found) = (StorageOptions::MIN_JOURNAL_FILES, self.journal_files);
            return Err(OpenError::Options(format!("a journal has at least {least} files, not {found}")));
        }
        Ok(())
    }

    /// The longest batch that fits into a journal file, in bytes.
    pub fn max_batch_bytes(&self) -> u64 {
        self.journal_file_bytes.saturating_sub((FILE_HEADER_BYTES + RECORD_HEADER_BYTES) as u64).min(i32::MAX as u64)
    }
}

impl Default for StorageOptions {
    fn default() -> StorageOptions {
        StorageOptions {
            node_id: BrokerId(1),
            cluster_id: None,
            directory_id: None,
            journal_file_bytes: 64 << 20,
            journal_files: 8,
            tail_cache_bytes: 128 << 20,
            index_interval_bytes: 4096,
            relaxed_sync_bytes: 64 << 20,
            segment_sync_bytes: 512 << 10,
            open_logs: 256,
            opened_at: Timestamp(i64::MAX),
        }
    }
}
