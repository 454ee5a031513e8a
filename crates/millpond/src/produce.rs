//! `millpond produce`: sends lines or files as records.

mod arguments;
mod input;
mod tally;

use std::io::{IsTerminal, Write, stderr};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use millpond_client::{Admin, Delivery, NewRecord, Producer, ProducerConfig};
use millpond_runtime::{RealDisk, Runtime};
use tokio::sync::mpsc;
use tokio::time::Instant;

pub(crate) use arguments::{AcksArgument, Compression, ProduceArguments, seconds};
use input::{Cutter, Input};
use tally::{Live, Summary, Tally};

use crate::cluster::{connect, counted, hint};
use crate::output::{Output, quiet};
use crate::terminal::{ClearLine, INTERRUPTED, Interrupts, PROGRESS, interrupted};
use crate::topic::{check_partition, count_partitions};

/// The longest record. Topics have a limit of their own, `max.message.bytes`, which is 1 MiB if nobody changes it.
const MOST_RECORD_BYTES: usize = 16 << 20;
/// What a record takes besides its value, its key and its headers.
const SPARE_BYTES: usize = 64 << 10;
/// Records that are read and not yet acknowledged may take so much.
const MEMORY_BYTES: usize = 64 << 20;
/// How late a timer may be.
const TIMER_SLACK: Duration = Duration::from_millis(10);

/// Sends everything, and waits for every record.
pub(crate) fn run(arguments: &ProduceArguments) -> Result<ExitCode> {
    let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let threads = threads.context("cannot start")?;
    let result = threads.block_on(produce(arguments));
    // A thread may still wait for standard input.
    threads.shutdown_background();
    result
}

async fn produce(arguments: &ProduceArguments) -> Result<ExitCode> {
    let runtime = Runtime::real(RealDisk::shared());
    let interrupts = Interrupts::count(&runtime)?;
    let begin = async {
        let admin = connect(&arguments.reach).await?;
        look_for_topic(&admin, arguments).await?;
        anyhow::Ok(admin)
    };
    let admin = tokio::select! {
        biased;
        () = interrupts.reached(1) => return Ok(interrupted("nothing was read")),
        admin = begin => admin?,
    };
    let config = ProducerConfig::default()
        .acks(arguments.acks.into())
        .codec(arguments.compression.into())
        .max_request_bytes(MOST_RECORD_BYTES + SPARE_BYTES)
        .buffer_memory(MEMORY_BYTES)
        .delivery_timeout(arguments.timeout())
        .max_block(arguments.timeout());
    let producer = Producer::new(admin.cluster().clone(), config);
    let live = Arc::new(Live::default());
    let (deliveries, received) = mpsc::unbounded_channel();
    let counting = {
        let live = Arc::clone(&live);
        runtime.spawn(async move { Tally::count(received, &live).await })
    };
    let started = runtime.now();
    let sending = Sending { runtime: &runtime, arguments, producer: &producer, live: &live, deliveries };
    let work = async {
        let ended = sending.all(&interrupts).await;
        // Its deliveries end here, so that the count comes to an end.
        drop(sending);
        let mut counting = counting;
        let counted = tokio::select! {
            biased;
            () = producer.clone().close() => counting.await,
            // What became of each record is known. A request whose records' time is up may still be on its way.
            counted = &mut counting, if arguments.acks != AcksArgument::None => counted,
        };
        anyhow::Ok((ended, counted.context("the records were not counted")?))
    };
    let (ended, told) = tokio::select! {
        biased;
        done = work => done?,
        () = interrupts.reached(2) => return Ok(interrupted(&in_doubt(&live))),
        () = progress(&runtime, &live, started) => unreachable!("progress is told for ever"),
    };
    let failure = match (&told.first_error, &ended) {
        (Some(error), _) => Some(error.to_string()),
        (None, Err(error)) => Some(format!("{error:#}")),
        (None, Ok(Ended::Interrupted)) => Some("interrupted".to_owned()),
        (None, Ok(Ended::AllRead)) => None,
    };
    let asked = arguments.acks != AcksArgument::None;
    let took = runtime.now().duration_since(started);
    let summary = Summary::new(&arguments.topic, asked, &live, &told, failure, took);
    let mut out = Output::stdout();
    let line = if arguments.reach.json { serde_json::to_string(&summary)? } else { summary.sentence() };
    quiet(out.line(&line).and_then(|()| out.flush()))?;
    if let Some(error) = told.first_error {
        let failed = usize::try_from(told.failed).unwrap_or(usize::MAX);
        bail!("{} not acknowledged: {}", was(failed), hint(error));
    }
    Ok(match ended? {
        Ended::AllRead => ExitCode::SUCCESS,
        Ended::Interrupted => ExitCode::from(INTERRUPTED),
    })
}

/// Why nothing more is read.
enum Ended {
    AllRead,
    Interrupted,
}

fn was(count: usize) -> String {
    format!("{} {}", counted(count, "record"), if count == 1 { "was" } else { "were" })
}

/// What is not known when nobody waits for it.
fn in_doubt(live: &Live) -> String {
    let open = live.sent.load(Ordering::Relaxed).saturating_sub(live.acknowledged.load(Ordering::Relaxed));
    format!("{} not acknowledged yet", was(usize::try_from(open).unwrap_or(usize::MAX)))
}

/// Fails when there is no such topic or partition.
async fn look_for_topic(admin: &Admin, arguments: &ProduceArguments) -> Result<()> {
    let partitions = count_partitions(admin, &arguments.topic).await?;
    arguments.partition.map_or(Ok(()), |wanted| check_partition(&arguments.topic, partitions, wanted))
}

/// What sending needs.
struct Sending<'a> {
    runtime: &'a Runtime,
    arguments: &'a ProduceArguments,
    producer: &'a Producer,
    live: &'a Live,
    deliveries: mpsc::UnboundedSender<(Delivery, usize)>,
}

impl Sending<'_> {
    /// Reads and sends until nothing is left, or until an interrupt: then everything that was read whole is sent.
    async fn all(&self, interrupts: &Interrupts) -> Result<Ended> {
        let mut pace = self.arguments.rate.map(Pace::new);
        let mut input = Input::new(self.runtime, &self.arguments.files);
        let mut cutter = Cutter::new(self.arguments.whole_files, MOST_RECORD_BYTES);
        let headers = self.arguments.headers.iter();
        let headers: Vec<(&str, Option<&[u8]>)> =
            headers.map(|(name, value)| (name.as_str(), Some(value.as_bytes()))).collect();
        loop {
            cutter.compact();
            if interrupts.any() {
                return Ok(Ended::Interrupted);
            }
            let read = tokio::select! {
                biased;
                read = input.read(&mut cutter.buffer) => read?,
                () = interrupts.reached(1) => return Ok(Ended::Interrupted),
            };
            let Some(ended) = read else { return Ok(Ended::AllRead) };
            loop {
                let bytes = match cutter.next(ended) {
                    Ok(Some(bytes)) => bytes,
                    Ok(None) => break,
                    Err(error) => bail!("{} {error}", input.place(cutter.count + 1, cutter.whole)),
                };
                let Some((key, value)) = self.key_and_value(bytes) else {
                    let separator = self.arguments.key_separator.as_deref().unwrap_or_default();
                    let place = input.place(cutter.count, cutter.whole);
                    bail!("{place} has no '{separator}' between key and value");
                };
                self.record(key, value, &headers, pace.as_mut()).await?;
                if ended {
                    // At its end a source has one record at most: the last line without a line end, or the file.
                    break;
                }
            }
            if ended {
                cutter.count = 0;
            }
        }
    }

    /// The key, if records have one, and the value; `None` where they are not parted.
    fn key_and_value<'a>(&self, bytes: &'a [u8]) -> Option<(Option<&'a [u8]>, &'a [u8])> {
        match &self.arguments.key_separator {
            None => Some((None, bytes)),
            Some(separator) => cut(bytes, separator.as_bytes()).map(|(key, value)| (Some(key), value)),
        }
    }

    async fn record(
        &self,
        key: Option<&[u8]>,
        value: &[u8],
        headers: &[(&str, Option<&[u8]>)],
        pace: Option<&mut Pace>,
    ) -> Result<()> {
        if let Some(pace) = pace {
            let now = self.runtime.now();
            let due = pace.due(now);
            if due > now {
                self.runtime.sleep_until(due).await;
            }
        }
        let mut record = NewRecord::to(&self.arguments.topic).value(value).headers(headers);
        record = key.map_or(record, |key| record.key(key));
        record = self.arguments.partition.map_or(record, |partition| record.partition(partition));
        let delivery = self.producer.send(record).await.map_err(hint)?;
        self.live.sent.fetch_add(1, Ordering::Relaxed);
        // Who counts them is there until this is dropped.
        let _ = self.deliveries.send((delivery, key.map_or(0, <[u8]>::len) + value.len()));
        Ok(())
    }
}

/// Spreads records over time.
struct Pace {
    each: Duration,
    next: Option<Instant>,
}

impl Pace {
    fn new(rate: u32) -> Pace {
        Pace { each: Duration::from_secs(1) / rate.max(1), next: None }
    }

    /// When the next record may be sent. Time in which there was none is not made up for, but for what a timer is late.
    fn due(&mut self, now: Instant) -> Instant {
        let earliest = now.checked_sub(TIMER_SLACK).unwrap_or(now);
        let due = self.next.map_or(now, |next| next.max(earliest));
        self.next = Some(due + self.each);
        due
    }
}

/// What stands in front of and behind the first `separator`.
fn cut<'a>(bytes: &'a [u8], separator: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = bytes.windows(separator.len()).position(|window| window == separator)?;
    Some((&bytes[..at], &bytes[at + separator.len()..]))
}

/// Tells a terminal how far it is, for ever.
async fn progress(runtime: &Runtime, live: &Live, started: Instant) {
    if !stderr().is_terminal() {
        return std::future::pending().await;
    }
    let _clear = ClearLine;
    loop {
        runtime.sleep(PROGRESS).await;
        let (sent, acknowledged) = (live.sent.load(Ordering::Relaxed), live.acknowledged.load(Ordering::Relaxed));
        let rate = acknowledged as f64 / runtime.now().duration_since(started).as_secs_f64();
        eprint!("\r\x1b[K{sent} sent, {acknowledged} acknowledged, {rate:.0} a second");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "only takes a point in time to count from")]
    fn a_rate_is_kept_by_late_timers_and_not_exceeded_after_a_pause() {
        let start = Instant::now();
        for (rate, pause) in [(10, Duration::ZERO), (10_000, Duration::from_millis(1)), (7, Duration::from_millis(1))] {
            let mut pace = Pace::new(rate);
            let mut now = start;
            for _ in 0..rate {
                let due = pace.due(now);
                // Whoever waits is woken late.
                now = if due > now { due + pause } else { now };
            }
            let took = (now - start).as_secs_f64();
            assert!((0.8..1.01).contains(&took), "{rate} records in {took} s");
            // Nothing is there to be sent for an hour.
            now += Duration::from_secs(3600);
            let first = pace.due(now);
            let mut last = first;
            for _ in 0..rate {
                last = pace.due(now.max(last));
            }
            assert!(last - now >= Duration::from_millis(980), "{rate} records in {:?}", last - now);
        }
    }

    #[test]
    fn the_first_separator_parts_key_and_value() {
        assert_eq!(cut(b"a:b:c", b":"), Some((&b"a"[..], &b"b:c"[..])));
        assert_eq!(cut(b"a--b", b"--"), Some((&b"a"[..], &b"b"[..])));
        assert_eq!(cut(b":", b":"), Some((&b""[..], &b""[..])));
        assert_eq!(cut(b"a", b"--"), None);
    }
}
