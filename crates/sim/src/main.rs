//! The command line of the simulator.

use std::ops::Range;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use clap::Parser;
use millpond_runtime::PlantedFault;
use millpond_runtime::sim::World;
use sim::{Options, Outcome, run, run_cluster};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

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
    /// Print what the brokers log to standard error, filtered as by `RUST_LOG` (`debug`,
    /// `millpond_raft=trace` and so on). Each seed is run once then.
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// Turn a planted fault on, which some seed should find.
    #[arg(long, value_name = "NAME", value_parser = parse_fault)]
    plant: Option<PlantedFault>,
    /// Stop at the first seed that fails.
    #[arg(long)]
    stop: bool,
    /// Run so many seeds at a time, each on a thread of its own. Which come first in the output is left to chance.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    jobs: u16,
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
    if let Some(filter) = &arguments.log {
        let log = tracing_subscriber::fmt().with_timer(SimulatedTime).with_writer(std::io::stderr).with_ansi(false);
        log.with_env_filter(filter.as_str()).init();
    }
    let run = Run { seeds: Mutex::new(seeds), passed: AtomicU64::new(0), failed: AtomicU64::new(0) };
    let work = || while run.next(&arguments) {};
    #[expect(clippy::disallowed_methods, reason = "each thread has simulated worlds of its own, one after the other")]
    std::thread::scope(|scope| (0..arguments.jobs).for_each(|_| drop(scope.spawn(work))));
    let (passed, failed) = (run.passed.into_inner(), run.failed.into_inner());
    println!("{passed} passed, {failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Begins each line as the trace does: with the time and the node.
struct SimulatedTime;

impl FormatTime for SimulatedTime {
    fn format_time(&self, line: &mut Writer<'_>) -> std::fmt::Result {
        match World::here() {
            Some((node, ms)) => write!(line, "{:>6}.{:03} {node}", ms / 1000, ms % 1000),
            None => Ok(()),
        }
    }
}

/// What is left to do, and what was found.
struct Run {
    seeds: Mutex<Range<u64>>,
    passed: AtomicU64,
    failed: AtomicU64,
}

impl Run {
    /// Runs the next seed. False when there is none.
    fn next(&self, arguments: &Arguments) -> bool {
        if arguments.stop && self.failed.load(Ordering::Relaxed) > 0 {
            return false;
        }
        let Some(seed) = self.seeds.lock().unwrap_or_else(PoisonError::into_inner).next() else { return false };
        let options = Options { seed, plant: arguments.plant, trace: arguments.trace };
        let play = if arguments.cluster { run_cluster } else { run };
        let outcome = play(&options);
        // Twice, because a run that cannot be replayed is worth little.
        let again = if arguments.log.is_none() { play(&Options { trace: false, ..options }) } else { outcome.clone() };
        let failures = failures(&outcome, &again);
        report(seed, &outcome, &failures);
        if failures.is_empty() { &self.passed } else { &self.failed }.fetch_add(1, Ordering::Relaxed);
        true
    }
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
    let mut text = format!(
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
        text.push_str("\n  ");
        text.push_str(failure);
    }
    // In one piece, whoever else prints.
    println!("{text}");
}
