//! `millpond bench`: how fast a cluster takes and gives records, and how soon, through this client.
//!
//! | file | story |
//! | --- | --- |
//! | `produce`, `consume`, `latency` | the three measurements |
//! | `sending` | records sent as fast as they are taken, or evenly paced, and what became of them |
//! | `payload` | what the records hold |
//! | `report` | the figures: latencies, CPU time, the summary as a table or as JSON |

mod arguments;
mod consume;
mod latency;
mod payload;
mod produce;
mod report;
mod sending;

use std::io::{IsTerminal, stderr};
use std::process::ExitCode;

use anyhow::{Context, Result};
use millpond_client::{Admin, TopicPartition};
use millpond_runtime::{RealDisk, Runtime};

pub(crate) use arguments::{BENCH_EXAMPLES, BenchCommand};

use crate::cluster::{Reach, connect};
use crate::terminal::{ClearLine, INTERRUPTED, Interrupts, PROGRESS, interrupted};
use crate::topic::count_partitions;

/// Runs a measurement.
pub(crate) fn run(command: &BenchCommand) -> Result<ExitCode> {
    let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let threads = threads.context("cannot start")?;
    let result = threads.block_on(async {
        let runtime = Runtime::real(RealDisk::shared());
        let interrupts = Interrupts::count(&runtime)?;
        match command {
            BenchCommand::Produce(arguments) => produce::run(&runtime, &interrupts, arguments).await,
            BenchCommand::Consume(arguments) => consume::run(&runtime, &interrupts, arguments).await,
            BenchCommand::Latency(arguments) => latency::run(&runtime, &interrupts, arguments).await,
        }
    });
    threads.shutdown_background();
    result
}

/// A client of the cluster and the partitions of a topic that exists; `None` when that was interrupted, which is said.
async fn begin(interrupts: &Interrupts, reach: &Reach, topic: &str) -> Result<Option<(Admin, Vec<TopicPartition>)>> {
    let begin = async {
        let admin = connect(reach).await?;
        let count = i32::try_from(count_partitions(&admin, topic).await?).unwrap_or(i32::MAX);
        anyhow::Ok((admin, (0..count).map(|partition| TopicPartition::new(topic, partition)).collect()))
    };
    tokio::select! {
        biased;
        () = interrupts.reached(1) => Ok(None),
        begun = begin => begun.map(Some),
    }
}

/// What a command ends with that was interrupted before anything was measured.
fn nothing_measured() -> ExitCode {
    interrupted("nothing was measured")
}

/// How a measurement ended, and what the command ends with.
enum Ended {
    AsPlanned,
    Interrupted,
    Failed(anyhow::Error),
}

impl Ended {
    /// Of work that says whether it came to its end.
    fn new(work: Result<bool>) -> Ended {
        match work {
            Ok(true) => Ended::AsPlanned,
            Ok(false) => Ended::Interrupted,
            Err(error) => Ended::Failed(error),
        }
    }

    /// The first failure counts, and more than an interrupt.
    fn or_failed(self, failure: Option<anyhow::Error>) -> Ended {
        match (self, failure) {
            (Ended::AsPlanned | Ended::Interrupted, Some(failure)) => Ended::Failed(failure),
            (ended, _) => ended,
        }
    }

    /// Why not as planned.
    fn reason(&self) -> Option<String> {
        match self {
            Ended::AsPlanned => None,
            Ended::Interrupted => Some("interrupted".to_owned()),
            Ended::Failed(error) => Some(format!("{error:#}")),
        }
    }

    fn status(self) -> Result<ExitCode> {
        match self {
            Ended::AsPlanned => Ok(ExitCode::SUCCESS),
            Ended::Interrupted => Ok(ExitCode::from(INTERRUPTED)),
            Ended::Failed(error) => Err(error),
        }
    }
}

/// Tells a terminal how many records there are and how many there were in the last moment, for ever.
async fn progress(runtime: &Runtime, done: &str, count: impl Fn() -> (u64, u64)) {
    if !stderr().is_terminal() {
        return std::future::pending().await;
    }
    let _clear = ClearLine;
    let (mut last, mut before) = (runtime.now(), count());
    loop {
        runtime.sleep(PROGRESS).await;
        let (now, counted) = (runtime.now(), count());
        let seconds = now.duration_since(last).as_secs_f64();
        let (records, bytes) = (counted.0 - before.0, counted.1 - before.1);
        let (rate, megabytes) = (records as f64 / seconds, bytes as f64 / 1e6 / seconds);
        eprint!("\r\x1b[K{} records {done}, {rate:.0} a second, {megabytes:.1} MB/s", counted.0);
        (last, before) = (now, counted);
    }
}
