//! `millpond bench produce`: how fast records are taken, and how soon they are acknowledged.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use millpond_client::Producer;
use millpond_runtime::Runtime;
use tokio::sync::mpsc;

use super::arguments::BenchProduceArguments;
use super::payload::Contents;
use super::report::{Measured, cpu_time};
use super::sending::{Counts, Schedule, Sending, count};
use super::{Ended, begin, nothing_measured, progress};
use crate::terminal::{Interrupts, interrupted};

pub(super) async fn run(
    runtime: &Runtime,
    interrupts: &Interrupts,
    arguments: &BenchProduceArguments,
) -> Result<ExitCode> {
    let Some((admin, _)) = begin(interrupts, &arguments.reach, &arguments.topic).await? else {
        return Ok(nothing_measured());
    };
    let load = &arguments.load;
    let contents = Contents::new(runtime, load, None);
    let producer = Producer::new(admin.cluster().clone(), load.producer());
    let counts = Arc::new(Counts::default());
    let (deliveries, received) = mpsc::unbounded_channel();
    let (cpu, started) = (cpu_time(), runtime.now());
    let counting = runtime.spawn(count(received, Arc::clone(&counts)));
    let schedule = Schedule::new(started, arguments.rate, arguments.records, arguments.limit());
    let topic = &arguments.topic;
    let sending = Sending { runtime, interrupts, producer: &producer, topic, started, deliveries };
    let work = async {
        let ended = sending.all(schedule, contents).await;
        producer.clone().close().await;
        anyhow::Ok((ended, counting.await.context("the records were not counted")?))
    };
    let (ended, outcome) = tokio::select! {
        biased;
        done = work => done?,
        () = interrupts.reached(2) => return Ok(interrupted("records that were not acknowledged yet are in doubt")),
        () = progress(runtime, "acknowledged", || counts.done()) => unreachable!("progress is told for ever"),
    };
    let (took, cpu) = (runtime.now().duration_since(started), cpu_time().saturating_sub(cpu));
    let failed = counts.failed();
    let ended = Ended::new(ended).or_failed(outcome.refusal(failed));
    let (records, bytes) = counts.done();
    let latency = outcome.latencies.quantiles();
    Measured { topic, records, bytes, failed, took, cpu, latency, error: ended.reason() }.print(&arguments.reach)?;
    ended.status()
}
