//! What a broker counts of each peer.

use std::sync::atomic::{AtomicU64, Ordering};

use millpond_record::BrokerId;

/// What is known of one peer at a moment. Counts are since the start of the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerFigures {
    /// The peer.
    pub broker: BrokerId,
    /// Whether it answers.
    pub alive: bool,
    /// Bytes of Raft messages that it has not answered.
    pub bytes_in_flight: u64,
    /// Frames sent to it over the connection that was dialled from here.
    pub frames_sent: u64,
    /// Frames received over that connection.
    pub frames_received: u64,
    /// How often it was connected to.
    pub connects: u64,
    /// How long its last answer to a beat took, in microseconds; 0 before the first.
    pub beat_us: u64,
}

/// The counters behind [`PeerFigures`].
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) sent: AtomicU64,
    pub(super) received: AtomicU64,
    pub(super) connects: AtomicU64,
    pub(super) beat_us: AtomicU64,
}

impl Counters {
    pub(super) fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
