//! Three brokers in the simulator: seeds pass, come out the same again, and find the faults that are planted.

use millpond_runtime::PlantedFault;
use sim::{Options, run_cluster};

/// The first of 100 seeds that fails with the fault planted, if any.
fn first_failure(fault: PlantedFault) -> Option<u64> {
    (0..100).find(|&seed| !run_cluster(&Options { seed, plant: Some(fault), trace: false }).failures.is_empty())
}

#[test]
fn a_leader_that_acknowledges_before_a_majority_has_it_is_found_within_100_seeds() {
    assert!(first_failure(PlantedFault::AcknowledgeAlone).is_some());
}

#[test]
fn a_replica_that_says_it_has_flushed_what_it_has_not_is_found_within_100_seeds() {
    assert!(first_failure(PlantedFault::ReportsUnflushed).is_some());
}

#[test]
fn a_cluster_passes_without_a_planted_fault_and_gives_the_same_trace_again() {
    for seed in [0, 1] {
        let options = Options { seed, ..Options::default() };
        let outcome = run_cluster(&options);
        assert!(outcome.failures.is_empty(), "seed {seed}: {:?}", outcome.failures);
        assert!(outcome.counts.durable > 0 && outcome.counts.reads > 0, "seed {seed} does something");
        assert_eq!(run_cluster(&options), outcome, "seed {seed} gives the same again");
    }
}
