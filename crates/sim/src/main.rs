//! The command line of the simulator.

use std::ops::Range;
use std::process::ExitCode;

use clap::Parser;
use millpond_runtime::PlantedFault;
use sim::{Options, Outcome, run, run_cluster};

/// Runs a broker, or three, and their clients in simulated time, with crashes. The same seed gives the same run.
#[derive(Debug, Parser)]
struct Arguments {
    /// Run this seed.
    #[arg(long, conflicts_with = "seeds", required_unless_present = "seeds")]
    seed: Option<u64>,
    /// Run all seeds from A to B (B is not included).
    #[arg(long, value_name = "A..B", value_parser = parse_range)]
    seeds: Option<Range<u64>>,
    /// Run three brokers that are one cluster.
    #[arg(long)]
    cluster: bool,
    /// Print every event to standard error.
    #[arg(long)]
    trace: bool,
    /// Turn a planted fault on, which some seed should find.
    #[arg(long, value_name = "NAME", value_parser = parse_fault)]
    plant: Option<PlantedFault>,
    /// Stop at the first seed that fails.
    #[arg(long)]
    stop: bool,
}

fn parse_range(text: &str) -> Result<Range<u64>, String> {
    let (first, last) = text.split_once("..").ok_or("write it as A..B")?;
    let number = |text: &str| text.parse::<u64>().map_err(|error| format!("'{text}': {error}"));
    Ok(number(first)?..number(last)?)
}

fn parse_fault(text: &str) -> Result<PlantedFault, String> {
    let named = PlantedFault::ALL.into_iter().find(|fault| fault.name() == text);
    named.ok_or_else(|| format!("one of {}", PlantedFault::ALL.map(PlantedFault::name).join(", ")))
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let seeds = arguments.seeds.clone().or(arguments.seed.map(|seed| seed..seed + 1)).unwrap_or(0..0);
    let (mut passed, mut failed) = (0u64, 0u64);
    for seed in seeds {
        let options = Options { seed, plant: arguments.plant, trace: arguments.trace };
        let play = if arguments.cluster { run_cluster } else { run };
        let outcome = play(&options);
        // Twice, because a run that cannot be replayed is worth little.
        let again = play(&Options { trace: false, ..options });
        let failures = failures(&outcome, &again);
        report(seed, &outcome, &failures);
        if failures.is_empty() {
            passed += 1;
        } else {
            failed += 1;
            if arguments.stop {
                break;
            }
        }
    }
    println!("{passed} passed, {failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn failures(outcome: &Outcome, again: &Outcome) -> Vec<String> {
    let mut failures = outcome.failures.clone();
    if outcome != again {
        let (first, second) = (outcome.trace_hash, again.trace_hash);
        failures.push(format!("two runs differ: trace {first:016x} and {second:016x}"));
    }
    failures
}

fn report(seed: u64, outcome: &Outcome, failures: &[String]) {
    let counts = outcome.counts;
    println!(
        "seed {seed}: {} trace {:016x}, {} s, {} restarts, {} acks=all, {} acks=1, {} reads, {} log starts, {} commits",
        if failures.is_empty() { "passed" } else { "FAILED" },
        outcome.trace_hash,
        outcome.simulated_ms / 1000,
        counts.restarts,
        counts.durable,
        counts.until_crash,
        counts.reads,
        counts.log_starts,
        counts.commits,
    );
    for failure in failures.iter().take(10) {
        println!("  {failure}");
    }
}
