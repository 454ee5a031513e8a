//! A topic from its beginning to its end.

use std::collections::BTreeMap;
use std::error::Error;
use std::time::{Duration, Instant};

use rdkafka::message::Message;
use serde_json::Value;

use crate::report::{cpu_time, figures};
use crate::{Reach, assign, bounds};

#[derive(clap::Args)]
pub struct Arguments {
    topic: String,
    #[arg(long)]
    records: Option<u64>,
    #[command(flatten)]
    reach: Reach,
}

pub fn run(arguments: &Arguments) -> Result<Value, Box<dyn Error>> {
    let cpu = cpu_time();
    let consumer = arguments.reach.consumer()?;
    let bounds = bounds(&consumer, &arguments.topic)?;
    let started = Instant::now();
    assign(&consumer, &arguments.topic, bounds.iter().map(|(partition, begin, _)| (*partition, *begin)))?;
    let open = bounds.iter().filter(|(_, begin, end)| begin < end);
    let mut ends: BTreeMap<i32, i64> = open.map(|(partition, _, end)| (*partition, *end)).collect();
    let most = arguments.records.unwrap_or(u64::MAX);
    let (mut records, mut bytes) = (0, 0);
    while records < most && !ends.is_empty() {
        let Some(message) = consumer.poll(Duration::from_secs(1)) else { continue };
        let message = message?;
        records += 1;
        bytes += (message.payload_len() + message.key_len()) as u64;
        if ends.get(&message.partition()).is_some_and(|end| message.offset() + 1 >= *end) {
            ends.remove(&message.partition());
        }
    }
    Ok(figures(records, bytes, 0, started.elapsed(), cpu_time() - cpu, None))
}
