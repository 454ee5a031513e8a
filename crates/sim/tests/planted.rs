//! The simulator finds what it is there to find.

use millpond_runtime::PlantedFault;
use sim::{Options, run};

/// The first of 200 seeds that fails with the fault planted, if any.
fn first_failure(fault: PlantedFault) -> Option<u64> {
    (0..200).find(|&seed| !run(&Options { seed, plant: Some(fault), trace: false }).failures.is_empty())
}

#[test]
fn an_acknowledgement_before_the_sync_is_found_within_200_seeds() {
    assert!(first_failure(PlantedFault::AcknowledgeBeforeSync).is_some());
}

#[test]
fn a_stale_record_of_a_recycled_journal_file_is_found_within_200_seeds() {
    assert!(first_failure(PlantedFault::StaleJournalRecord).is_some());
}

#[test]
fn a_high_watermark_beyond_what_is_durable_is_found_within_200_seeds() {
    assert!(first_failure(PlantedFault::UnclampedApplied).is_some());
}

#[test]
fn a_forgotten_vote_is_found_within_200_seeds() {
    assert!(first_failure(PlantedFault::ForgottenVote).is_some());
}

#[test]
fn a_seed_passes_without_a_planted_fault_and_gives_the_same_trace_again() {
    for seed in [0, 1, 3, 4] {
        let options = Options { seed, ..Options::default() };
        let outcome = run(&options);
        assert!(outcome.failures.is_empty(), "seed {seed}: {:?}", outcome.failures);
        assert!(outcome.counts.durable > 0 && outcome.counts.restarts > 0, "seed {seed} does something");
        assert_eq!(run(&options), outcome, "seed {seed} gives the same again");
    }
}
