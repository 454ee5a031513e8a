//! A producer that writes at a steady pace until it is told to end (SIGTERM), and prints a line of JSON for each record
//! when it knows what became of it: `{"value":"1:7","partition":3,"offset":5}`, with an offset of `null` if the broker
//! did not say, or `{"value":"1:8","error":"…"}`.
//!
//! `acknowledged BOOTSTRAP TOPIC PARTITIONS RATE NUMBER` sends `NUMBER:0`, `NUMBER:1` … to the partitions in turn, RATE
//! a second. The durability check `tests/interop/kill9.py` has brokers killed meanwhile, and looks for every record.
#![expect(clippy::disallowed_methods, reason = "a program that paces itself by the clock")]

use std::error::Error;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use millpond_client::{ClientConfig, Delivery, NewRecord, Producer, ProducerConfig};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::MissedTickBehavior;

/// How often records are sent.
const TICK: Duration = Duration::from_millis(10);
const TICKS_PER_SECOND: u64 = 100;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [bootstrap, topic, partitions, rate, number] = &arguments[..] else {
        return Err("usage: acknowledged BOOTSTRAP TOPIC PARTITIONS RATE NUMBER".into());
    };
    let (partitions, rate): (u32, u64) = (partitions.parse()?, rate.parse()?);
    let mut end = signal(SignalKind::terminate())?;
    let config = ProducerConfig::default().linger(Duration::from_millis(2)).delivery_timeout(Duration::from_secs(120));
    let producer = Producer::connect(ClientConfig::new(bootstrap)?, config).await?;
    let mut ticks = tokio::time::interval(TICK);
    // What a broker that was away has held up is not made up for.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut outcomes = FuturesUnordered::new();
    let mut next = 0_u64;
    loop {
        tokio::select! {
            biased;
            _ = end.recv() => break,
            Some(line) = outcomes.next() => println!("{line}"),
            _ = ticks.tick() => {
                for _ in 0..(rate / TICKS_PER_SECOND).max(1) {
                    let value = format!("{number}:{next}");
                    let partition = i32::try_from(next % u64::from(partitions))?;
                    let record = NewRecord::to(topic).partition(partition).value(value.as_bytes());
                    let delivery = producer.send(record).await?;
                    outcomes.push(outcome(value, delivery));
                    next += 1;
                }
            }
        }
    }
    producer.flush().await;
    while let Some(line) = outcomes.next().await {
        println!("{line}");
    }
    producer.close().await;
    Ok(())
}

/// The line about a record, when it is known what to say.
async fn outcome(value: String, delivery: Delivery) -> serde_json::Value {
    match delivery.await {
        Ok(written) => json!({ "value": value, "partition": written.partition, "offset": written.offset }),
        Err(error) => json!({ "value": value, "error": error.to_string() }),
    }
}
