//! As fast as records are taken, or evenly paced.

use std::error::Error;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rdkafka::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use serde_json::Value;

use crate::payload::Payload;
use crate::report::{cpu_time, figures, latencies};
use crate::{DEADLINE, Load, Reach};

#[derive(clap::Args)]
pub struct Arguments {
    topic: String,
    #[arg(long)]
    records: Option<u64>,
    #[arg(long)]
    seconds: Option<u64>,
    #[arg(long)]
    rate: Option<u64>,
    #[command(flatten)]
    load: Load,
    #[command(flatten)]
    reach: Reach,
}

/// Counts deliveries. Only the polling thread takes the lock while records are sent.
pub struct Counting {
    started: Instant,
    latencies: Mutex<Histogram<u64>>,
    pub acknowledged: AtomicU64,
    pub failed: AtomicU64,
}

impl ClientContext for Counting {}

impl ProducerContext for Counting {
    /// When the record was due, in microseconds since the start, plus one: an opaque pointer must not be null.
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, due: usize) {
        match result {
            Ok(_) => {
                let micros = self.started.elapsed().as_micros() as u64;
                let mut latencies = self.latencies.lock().expect("no panic");
                latencies.saturating_record(micros.saturating_sub(due as u64 - 1));
                self.acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            Err(_) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

pub type Sender = ThreadedProducer<Counting>;

/// A producer that has its metadata.
pub fn producer(reach: &Reach, load: &Load, topic: &str, started: Instant) -> Result<Sender, Box<dyn Error>> {
    let counting = Counting {
        started,
        latencies: Mutex::new(latencies()),
        acknowledged: AtomicU64::new(0),
        failed: AtomicU64::new(0),
    };
    let producer: Sender = reach.producer(load).create_with_context(counting)?;
    producer.client().fetch_metadata(Some(topic), DEADLINE)?;
    Ok(producer)
}

/// Sends a record; waits while the producer's memory is full.
pub fn send(producer: &Sender, topic: &str, value: &[u8], due: Duration) -> Result<(), KafkaError> {
    let mut record = BaseRecord::<(), [u8], usize>::with_opaque_to(topic, due.as_micros() as usize + 1).payload(value);
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), again)) => {
                record = again;
                std::thread::sleep(Duration::from_millis(1));
            }
            Err((error, _)) => return Err(error),
        }
    }
}

/// When record `number` is due.
pub fn due(number: u64, rate: u64) -> Duration {
    Duration::from_secs(number / rate) + Duration::from_nanos(number % rate * 1_000_000_000 / rate)
}

pub fn run(arguments: &Arguments) -> Result<Value, Box<dyn Error>> {
    let load = &arguments.load;
    let mut payload = Payload::new(load.size);
    let (cpu, started) = (cpu_time(), Instant::now());
    let producer = producer(&arguments.reach, load, &arguments.topic, started)?;
    let most = arguments.records.unwrap_or(u64::MAX);
    let end = arguments.seconds.or(arguments.records.is_none().then_some(10)).map(Duration::from_secs);
    for number in 0..most {
        let now = started.elapsed();
        let due = arguments.rate.map_or(now, |rate| due(number, rate));
        if end.is_some_and(|end| due >= end) {
            break;
        }
        if due > now {
            std::thread::sleep(due - now);
        }
        send(&producer, &arguments.topic, payload.next(), due)?;
    }
    producer.flush(Duration::from_secs(120))?;
    let (took, cpu) = (started.elapsed(), cpu_time() - cpu);
    let context = producer.context();
    let records = context.acknowledged.load(Ordering::Relaxed);
    let failed = context.failed.load(Ordering::Relaxed);
    let latencies = context.latencies.lock().expect("no panic");
    Ok(figures(records, records * load.size as u64, failed, took, cpu, Some(&latencies)))
}
