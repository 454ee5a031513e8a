//! What a log knows of its files: which there are, and what of them must still be synced.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::segment::{Segment, SegmentFiles, SegmentName};

/// What is known of the files.
#[derive(Default)]
pub(crate) struct FileState {
    /// Segments that have files.
    pub(crate) present: BTreeSet<SegmentName>,
    /// Segments written since the last sync, by the very handles that wrote: a handle opened later need not hear of an
    /// error between.
    pub(super) unsynced: BTreeMap<SegmentName, Unsynced>,
    /// A file was made or removed since the folder was last synced.
    pub(crate) folder_changed: bool,
    /// The folder itself was synced into the data directory.
    pub(super) entered: bool,
    /// Producer snapshots, oldest first.
    pub(crate) snapshots: Vec<SegmentName>,
    /// Bytes written since the system was asked to begin writing out: segment, from, to.
    pub(super) write_back: Option<(SegmentName, u64, u64)>,
}

impl FileState {
    pub(crate) fn new(present: BTreeSet<SegmentName>, snapshots: Vec<SegmentName>) -> FileState {
        FileState { present, snapshots, ..FileState::default() }
    }

    /// The segments below this one are gone.
    pub(crate) fn forget_segments_below(&mut self, first: SegmentName) {
        self.present = self.present.split_off(&first);
        self.unsynced = self.unsynced.split_off(&first);
    }

    /// Whether a segment was written since it was synced.
    pub(super) fn is_unsynced(&self, name: SegmentName) -> bool {
        self.unsynced.contains_key(&name)
    }

    /// Nothing that was written need be synced any more.
    fn forget_all(&mut self) {
        self.unsynced.clear();
        self.write_back = None;
    }

    /// The folder holds these segments and one producer snapshot, and is synced.
    pub(super) fn become_of(&mut self, segments: impl Iterator<Item = SegmentName>, snapshot: SegmentName) {
        self.forget_all();
        self.present = segments.collect();
        self.snapshots = vec![snapshot];
        (self.folder_changed, self.entered) = (false, true);
    }

    /// The segment must be synced.
    pub(crate) fn written(&mut self, segment: &Arc<Segment>, files: SegmentFiles) {
        let unsynced = self.unsynced.entry(segment.name);
        unsynced.or_insert_with(|| Unsynced { segment: segment.clone(), files, log_synced: false }).log_synced = false;
    }
}

/// A segment that must be synced.
pub(super) struct Unsynced {
    pub(super) segment: Arc<Segment>,
    pub(super) files: SegmentFiles,
    /// Its log file was synced since it was last written; its index was not.
    pub(super) log_synced: bool,
}
