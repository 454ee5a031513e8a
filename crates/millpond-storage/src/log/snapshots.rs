//! Producer snapshots: what a start need not read again.

use millpond_record::RaftIndex;
use millpond_runtime::write_atomically;

use super::Log;
use super::file_state::FileState;
use super::state::LogState;
use crate::segment::{SegmentFile, SegmentName};

/// A checkpoint leaves a producer snapshot after this many bytes of log: a start reads the headers behind it.
const SNAPSHOT_BYTES: u64 = 16 << 20;
/// So does a clean stop after these.
const CLOSING_SNAPSHOT_BYTES: u64 = 256 << 10;
/// Producer snapshots that are kept: the newest may turn out to be damaged.
const KEPT_SNAPSHOTS: usize = 2;
impl Log {
    /// A snapshot of the producers at the committed entry, if one should be written.
    pub(super) fn snapshot_due(&self, state: &LogState) -> Option<(SegmentName, bytes::Bytes)> {
        let covers = state.committed?;
        let enough = if self.context.closing() { CLOSING_SNAPSHOT_BYTES } else { SNAPSHOT_BYTES };
        if !state.snapshot_due && state.bytes_since_snapshot < enough {
            return None;
        }
        let first_index = RaftIndex(covers.index.0 + 1);
        let name = SegmentName { base_offset: state.high_watermark, first_index };
        Some((name, state.producers.snapshot(covers, state.high_watermark)))
    }

    /// Writes a snapshot. Without it a start reads more, so that its failure is nobody's concern: it stays due.
    pub(super) fn write_snapshot(&self, files: &mut FileState, name: SegmentName, bytes: &[u8]) {
        let path = self.folder.join(name.file(SegmentFile::Snapshot));
        if files.snapshots.last() != Some(&name) {
            if write_atomically(self.context.disk.as_ref(), &path, bytes).is_err() {
                return;
            }
            files.snapshots.push(name);
        }
        while files.snapshots.len() > KEPT_SNAPSHOTS {
            let path = self.folder.join(files.snapshots[0].file(SegmentFile::Snapshot));
            if self.context.disk.remove_file(&path).is_err() {
                return;
            }
            files.snapshots.remove(0);
        }
        let mut state = self.state();
        state.bytes_since_snapshot = 0;
        state.snapshot_due = false;
    }
}
