//! Faults that the simulator plants to show that it would find them.
//!
//! The crates above ask [`planted`] at the place of each fault. Without the feature `planted-faults`, which only the
//! simulator's build has, the answer is a constant `false` and nothing of the fault is compiled in.

/// A bug that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlantedFault {
    /// A journal round is acknowledged before it is synced.
    AcknowledgeBeforeSync,
    /// Recovery takes what a recycled journal file still holds behind its records for records.
    StaleJournalRecord,
    /// The high watermark goes up to what is appended, not to what is durable.
    UnclampedApplied,
    /// A term is led without its vote being saved.
    ForgottenVote,
    /// The leader of a replicated partition answers acks=all when it has the batch itself.
    AcknowledgeAlone,
    /// A replica tells its leader that it has flushed what it has only appended.
    ReportsUnflushed,
    /// A replica comes back without the last entries of its log.
    DropsTail,
    /// A relaxed replica whose machine lost power takes part as if it had lost nothing.
    IgnoresTaint,
}

impl PlantedFault {
    /// All of them.
    pub const ALL: [PlantedFault; 8] = [
        PlantedFault::AcknowledgeBeforeSync,
        PlantedFault::StaleJournalRecord,
        PlantedFault::UnclampedApplied,
        PlantedFault::ForgottenVote,
        PlantedFault::AcknowledgeAlone,
        PlantedFault::ReportsUnflushed,
        PlantedFault::DropsTail,
        PlantedFault::IgnoresTaint,
    ];

    /// The name on the simulator's command line.
    pub fn name(self) -> &'static str {
        match self {
            PlantedFault::AcknowledgeBeforeSync => "acknowledge-before-sync",
            PlantedFault::StaleJournalRecord => "stale-journal-record",
            PlantedFault::UnclampedApplied => "unclamped-applied",
            PlantedFault::ForgottenVote => "forgotten-vote",
            PlantedFault::AcknowledgeAlone => "acknowledge-alone",
            PlantedFault::ReportsUnflushed => "reports-unflushed",
            PlantedFault::DropsTail => "drops-tail",
            PlantedFault::IgnoresTaint => "ignores-taint",
        }
    }
}

/// Whether this fault is planted in the simulated world that the caller runs in.
#[cfg(feature = "planted-faults")]
pub fn planted(fault: PlantedFault) -> bool {
    crate::Runtime::current().is_some_and(|runtime| runtime.planted(fault))
}

/// Whether this fault is planted: never, in this build.
#[cfg(not(feature = "planted-faults"))]
#[inline(always)]
pub const fn planted(_fault: PlantedFault) -> bool {
    false
}
