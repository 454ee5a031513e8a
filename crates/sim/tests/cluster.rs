//! Three brokers in the simulator: seeds pass, come out the same again, and find the faults that are planted.

use millpond_runtime::PlantedFault;
use sim::{Options, run_cluster};

/// The first of 50 seeds that finds the planted fault: it fails with it, and passes without.
fn found(fault: PlantedFault) -> Option<u64> {
    let fails = |seed, plant| !run_cluster(&Options { seed, plant, trace: false }).failures.is_empty();
    (0..50).find(|&seed| fails(seed, Some(fault)) && !fails(seed, None))
}

#[test]
fn a_leader_that_acknowledges_before_a_majority_has_it_is_found_within_50_seeds() {
    assert!(found(PlantedFault::AcknowledgeAlone).is_some());
}

#[test]
fn a_replica_that_says_it_has_flushed_what_it_has_not_is_found_within_50_seeds() {
    assert!(found(PlantedFault::ReportsUnflushed).is_some());
}

#[test]
fn a_replica_that_comes_back_without_the_end_of_its_log_is_found_within_50_seeds() {
    assert!(found(PlantedFault::DropsTail).is_some());
}

#[test]
fn a_relaxed_replica_that_votes_after_a_power_cut_as_if_it_had_lost_nothing_is_found_within_50_seeds() {
    assert!(found(PlantedFault::IgnoresTaint).is_some());
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
