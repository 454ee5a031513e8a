//! A snapshot of a log as openraft hands it around: it names P, and holds no data.
//!
//! The state machine of a group is its log, so a snapshot as of P is {log start, P, membership as of P} and the closed
//! segments up to P. Those the follower asks for itself, by P, before openraft hears of the snapshot: see `catch_up/`.

use millpond_record::Offset;

/// What goes with a snapshot besides P and the membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The first offset that may be read.
    pub log_start: Offset,
    /// The offset after the last record up to P. With none to ship it is the log start.
    pub end: Offset,
}
