//! From when a record was due to when a consumer in the same process has it.

use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rdkafka::consumer::BaseConsumer;
use rdkafka::message::Message;
use rdkafka::producer::Producer;
use serde_json::Value;

use crate::payload::Payload;
use crate::produce::{due, producer, send};
use crate::report::{cpu_time, figures, latencies};
use crate::{Load, Reach, assign, bounds};

/// How long records that were acknowledged are waited for.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(clap::Args)]
pub struct Arguments {
    topic: String,
    #[arg(long, default_value_t = 1000)]
    rate: u64,
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    #[arg(long, default_value_t = 1)]
    warmup: u64,
    #[command(flatten)]
    load: Load,
    #[command(flatten)]
    reach: Reach,
}

pub fn run(arguments: &Arguments) -> Result<Value, Box<dyn Error>> {
    let load = &arguments.load;
    let consumer = arguments.reach.consumer()?;
    let bounds = bounds(&consumer, &arguments.topic)?;
    assign(&consumer, &arguments.topic, bounds.iter().map(|(partition, _, end)| (*partition, *end)))?;
    let mut payload = Payload::new(load.size);
    let (cpu, started) = (cpu_time(), Instant::now());
    let producer = producer(&arguments.reach, load, &arguments.topic, started)?;
    let run = u64::from(std::process::id()).to_le_bytes();
    let all = AtomicU64::new(u64::MAX);
    let warm = Duration::from_secs(arguments.warmup);
    let (read, latencies) = std::thread::scope(|scope| {
        let reader = scope.spawn(|| read(&consumer, run, started, warm, &all));
        let sent = (|| {
            let end = Duration::from_secs(arguments.seconds) + warm;
            let mut value = Vec::with_capacity(load.size);
            for number in 0.. {
                let due = due(number, arguments.rate);
                if due >= end {
                    break;
                }
                let now = started.elapsed();
                if due > now {
                    std::thread::sleep(due - now);
                }
                value.clear();
                value.extend_from_slice(payload.next());
                value[..8].copy_from_slice(&run);
                value[8..16].copy_from_slice(&(due.as_nanos() as u64).to_le_bytes());
                send(&producer, &arguments.topic, &value, due)?;
            }
            producer.flush(Duration::from_secs(120))
        })();
        all.store(producer.context().acknowledged.load(Ordering::Relaxed), Ordering::Relaxed);
        let read = reader.join().expect("the reader does not panic");
        sent.map(|()| read)
    })?;
    let (took, cpu) = (started.elapsed(), cpu_time() - cpu);
    let context = producer.context();
    let failed = context.failed.load(Ordering::Relaxed) + context.acknowledged.load(Ordering::Relaxed) - read;
    Ok(figures(read, read * load.size as u64, failed, took, cpu, Some(&latencies)))
}

fn read(
    consumer: &BaseConsumer,
    run: [u8; 8],
    started: Instant,
    warm: Duration,
    all: &AtomicU64,
) -> (u64, hdrhistogram::Histogram<u64>) {
    let (mut read, mut latencies, mut last) = (0, latencies(), Instant::now());
    while read < all.load(Ordering::Relaxed) && (all.load(Ordering::Relaxed) == u64::MAX || last.elapsed() < PATIENCE) {
        let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) else { continue };
        let value = message.payload().unwrap_or_default();
        let (Some(of), Some(nanos)) = (value.first_chunk::<8>(), value.get(8..).and_then(|rest| rest.first_chunk()))
        else {
            continue;
        };
        if *of != run {
            continue;
        }
        last = Instant::now();
        read += 1;
        let due = Duration::from_nanos(u64::from_le_bytes(*nanos));
        if due >= warm {
            latencies.saturating_record(last.saturating_duration_since(started + due).as_micros() as u64);
        }
    }
    (read, latencies)
}
