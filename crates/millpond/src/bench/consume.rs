//! `millpond bench consume`: how fast a topic is read.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use millpond_client::{Consumer, ConsumerConfig, OffsetReset, TopicPartition};
use millpond_runtime::Runtime;

use super::arguments::BenchConsumeArguments;
use super::report::{Measured, cpu_time};
use super::{Ended, begin, nothing_measured, progress};
use crate::cluster::hint;
use crate::consume::ends;
use crate::terminal::Interrupts;

/// Records that are taken together.
const TOGETHER: usize = 1000;
/// How often it is looked whether the ends are reached when no records come.
const LOOK: Duration = Duration::from_millis(100);

pub(super) async fn run(
    runtime: &Runtime,
    interrupts: &Interrupts,
    arguments: &BenchConsumeArguments,
) -> Result<ExitCode> {
    let Some((admin, partitions)) = begin(interrupts, &arguments.reach, &arguments.topic).await? else {
        return Ok(nothing_measured());
    };
    let cpu = cpu_time();
    let config = ConsumerConfig::default().offset_reset(OffsetReset::Earliest);
    let mut consumer = Consumer::new(admin.cluster().clone(), config);
    let ends = tokio::select! {
        biased;
        () = interrupts.reached(1) => return Ok(nothing_measured()),
        ends = ends(&consumer, &partitions) => ends?,
    };
    consumer.assign(partitions.iter().cloned()).map_err(hint)?;
    let started = runtime.now();
    let mut last = started;
    let (records, bytes) = (AtomicU64::new(0), AtomicU64::new(0));
    let most = arguments.records.unwrap_or(u64::MAX);
    let reading = async {
        loop {
            let left = most - records.load(Ordering::Relaxed);
            let at_end = |(partition, end): (&TopicPartition, &i64)| {
                consumer.position(partition).is_some_and(|position| position >= *end)
            };
            if left == 0 || ends.iter().all(at_end) {
                return anyhow::Ok(true);
            }
            if interrupts.any() {
                return Ok(false);
            }
            let together = usize::try_from(left).unwrap_or(usize::MAX).min(TOGETHER);
            let taken = tokio::select! {
                biased;
                taken = consumer.recv_many(together) => taken.map_err(hint)?,
                // An end may be reached without a record: nothing is left before it, or a marker of a transaction.
                () = runtime.sleep(LOOK) => continue,
            };
            last = runtime.now();
            let length = |bytes: Option<&[u8]>| bytes.map_or(0, <[u8]>::len) as u64;
            let size = taken.iter().map(|record| length(record.key.as_deref()) + length(record.value.as_deref()));
            records.fetch_add(taken.len() as u64, Ordering::Relaxed);
            bytes.fetch_add(size.sum(), Ordering::Relaxed);
            // Whoever tells of the progress has its turn.
            tokio::task::yield_now().await;
        }
    };
    let read = || (records.load(Ordering::Relaxed), bytes.load(Ordering::Relaxed));
    let ended = tokio::select! {
        biased;
        () = interrupts.reached(1) => Ok(false),
        ended = reading => ended,
        () = progress(runtime, "read", read) => unreachable!("progress is told for ever"),
    };
    let (took, cpu) = (last.duration_since(started), cpu_time().saturating_sub(cpu));
    let ended = Ended::new(ended);
    let (records, bytes) = read();
    let (topic, error) = (arguments.topic.as_str(), ended.reason());
    Measured { topic, records, bytes, failed: 0, took, cpu, latency: None, error }.print(&arguments.reach)?;
    ended.status()
}
