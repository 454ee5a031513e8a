//! `millpond bench latency`: how soon a record that was sent is with who reads it.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use millpond_client::{Consumer, ConsumerConfig, OffsetReset, Producer, TopicPartition};
use millpond_runtime::Runtime;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::arguments::BenchLatencyArguments;
use super::payload::{Contents, Run, STAMP_BYTES, stamped};
use super::report::{Latencies, Measured, cpu_time};
use super::sending::{Counts, Schedule, Sending, count};
use super::{Ended, begin, nothing_measured, progress};
use crate::cluster::hint;
use crate::consume::ends;
use crate::terminal::{Interrupts, interrupted};

/// How long records that were acknowledged are waited for.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) async fn run(
    runtime: &Runtime,
    interrupts: &Interrupts,
    arguments: &BenchLatencyArguments,
) -> Result<ExitCode> {
    let load = &arguments.load;
    if load.size() < STAMP_BYTES {
        bail!("--size {} is too short: a record tells when it was due in {STAMP_BYTES} bytes", load.size());
    }
    let Some((admin, partitions)) = begin(interrupts, &arguments.reach, &arguments.topic).await? else {
        return Ok(nothing_measured());
    };
    let config = ConsumerConfig::default().offset_reset(OffsetReset::Earliest);
    let consumer = Consumer::new(admin.cluster().clone(), config);
    let begun = tokio::select! {
        biased;
        () = interrupts.reached(1) => return Ok(nothing_measured()),
        ends = ends(&consumer, &partitions) => ends?,
    };
    start(&consumer, &begun)?;
    let run = runtime.random_u64().to_le_bytes();
    let contents = Contents::new(runtime, load, Some(run));
    let producer = Producer::new(admin.cluster().clone(), load.producer());
    let counts = Arc::new(Counts::default());
    let (deliveries, received) = mpsc::unbounded_channel();
    let (cpu, started) = (cpu_time(), runtime.now());
    let counting = runtime.spawn(count(received, Arc::clone(&counts)));
    let (read, bytes) = (AtomicU64::new(0), AtomicU64::new(0));
    let reader = Arc::new(Reader { run, started, warm: arguments.warmup(), read, bytes });
    let (told, heard) = mpsc::unbounded_channel();
    let mut reading = runtime.spawn(Arc::clone(&reader).read(runtime.clone(), consumer, heard));
    let limit = Duration::from_secs(arguments.seconds.into()) + arguments.warmup();
    let schedule = Schedule::new(started, Some(arguments.rate), None, Some(limit));
    let topic = &arguments.topic;
    let sending = Sending { runtime, interrupts, producer: &producer, topic, started, deliveries };
    let work = async {
        let (ended, read) = unless_broken(sending.all(schedule, contents), &mut reading).await;
        producer.clone().close().await;
        let outcome = counting.await.context("the records were not counted")?;
        let read = match read {
            Some(read) => read,
            None => {
                // Nobody is there to hear it if reading has failed, which is told below.
                let _ = told.send(counts.done().0);
                reading.await
            }
        };
        anyhow::Ok((ended, outcome, read.context("the records were not read")?))
    };
    let so_far = || (reader.read.load(Ordering::Relaxed), reader.bytes.load(Ordering::Relaxed));
    let (ended, outcome, latencies) = tokio::select! {
        biased;
        done = work => done?,
        () = interrupts.reached(2) => return Ok(interrupted("records that were not read back yet are in doubt")),
        () = progress(runtime, "read back", so_far) => unreachable!("progress is told for ever"),
    };
    let (took, cpu) = (runtime.now().duration_since(started), cpu_time().saturating_sub(cpu));
    let (records, bytes) = so_far();
    let (latencies, broken) = latencies;
    let missing = counts.done().0.saturating_sub(records);
    let lost = || anyhow!("{missing} acknowledged records were not read back within {} s", PATIENCE.as_secs());
    let failed = counts.failed();
    let ended = Ended::new(ended).or_failed(outcome.refusal(failed)).or_failed(broken);
    let ended = ended.or_failed((missing > 0).then(lost));
    let (failed, latency) = (failed + missing, latencies.quantiles());
    Measured { topic, records, bytes, failed, took, cpu, latency, error: ended.reason() }.print(&arguments.reach)?;
    ended.status()
}

/// Sends, unless the reader ends: before it was told how many records there are it has failed, and what would be sent
/// from then on is of no use.
async fn unless_broken<R>(
    sending: impl Future<Output = Result<bool>>,
    reading: impl Future<Output = R>,
) -> (Result<bool>, Option<R>) {
    tokio::select! {
        biased;
        read = reading => (Ok(true), Some(read)),
        ended = sending => (ended, None),
    }
}

/// Has a consumer begin where partitions end.
fn start(consumer: &Consumer, ends: &BTreeMap<TopicPartition, i64>) -> Result<()> {
    consumer.assign(ends.keys().cloned()).map_err(hint)?;
    ends.iter().try_for_each(|(partition, end)| consumer.seek(partition, *end).map_err(hint))
}

/// Reads what was sent.
struct Reader {
    run: Run,
    started: Instant,
    /// What was due before is not counted.
    warm: Duration,
    /// Records of this run.
    read: AtomicU64,
    /// Of their keys and values.
    bytes: AtomicU64,
}

impl Reader {
    /// Reads until it has as many records as it hears that there are, or has waited for long; also gives why it ended
    /// early.
    async fn read(
        self: Arc<Reader>,
        runtime: Runtime,
        mut consumer: Consumer,
        mut heard: mpsc::UnboundedReceiver<u64>,
    ) -> (Latencies, Option<anyhow::Error>) {
        let mut latencies = Latencies::new();
        let mut end: Option<(u64, Instant)> = None;
        loop {
            let read = self.read.load(Ordering::Relaxed);
            if end.is_some_and(|(all, limit)| read >= all || runtime.now() >= limit) {
                return (latencies, None);
            }
            let limit = end.map(|(_, limit)| limit);
            tokio::select! {
                biased;
                all = heard.recv(), if end.is_none() => match all {
                    Some(all) => end = Some((all, runtime.now() + PATIENCE)),
                    None => return (latencies, None),
                },
                records = consumer.recv_many(TOGETHER) => {
                    let records = match records {
                        Ok(records) => records,
                        Err(error) => return (latencies, Some(hint(error))),
                    };
                    let now = runtime.now();
                    for record in records {
                        let (key, value) = (record.key.unwrap_or_default(), record.value.unwrap_or_default());
                        let Some(due) = stamped(&value, self.run) else { continue };
                        self.read.fetch_add(1, Ordering::Relaxed);
                        self.bytes.fetch_add((key.len() + value.len()) as u64, Ordering::Relaxed);
                        if due >= self.warm {
                            latencies.record(now.saturating_duration_since(self.started + due));
                        }
                    }
                }
                () = until(&runtime, limit) => {}
            }
        }
    }
}

/// Records that are taken together: few, so that the clock is read for few.
const TOGETHER: usize = 100;

async fn until(runtime: &Runtime, limit: Option<Instant>) {
    match limit {
        Some(limit) => runtime.sleep_until(limit).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[tokio::test]
    async fn nothing_more_is_sent_when_the_reader_has_failed() {
        let (ended, read) = unless_broken(pending(), ready("it is broken")).await;
        assert!(ended.expect("nothing else") && read == Some("it is broken"));
        let (ended, read) = unless_broken(ready(Ok(false)), pending::<&str>()).await;
        assert!(!ended.expect("interrupted") && read.is_none());
    }
}
