//! A snapshot of a log is a lazy manifest: it names what a replica must have, it holds no data.
//!
//! The state machine of a group is its log, so a snapshot as of P is {log start, P, membership as of P} and the closed
//! segments up to P. Shipping segments comes with replication; until then a manifest can be installed only where
//! there is nothing to ship, which is a log that holds no record up to P.

use millpond_record::Offset;

/// What a replica must have before it can follow a log behind P.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The first offset that may be read.
    pub log_start: Offset,
    /// The offset after the last record up to P. With none to ship it is the log start.
    pub end: Offset,
}

impl Manifest {
    /// Whether there are records that would have to be shipped.
    pub(crate) fn has_records(&self) -> bool {
        self.log_start < self.end
    }
}
