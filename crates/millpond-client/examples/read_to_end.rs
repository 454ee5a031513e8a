//! A consumer that reads a topic from its begin to the end that it has now, and prints a line of JSON for each record,
//! `{"value":"1:7","partition":3,"offset":5}`, and one for each partition when its end is reached: `{"ended":3}`.
//!
//! `read_to_end BOOTSTRAP TOPIC PARTITIONS` is the other half of the durability check `tests/interop/kill9.py`.
#![expect(clippy::disallowed_methods, reason = "a program that waits by the clock")]

use std::collections::BTreeMap;
use std::error::Error;
use std::io::Write;
use std::time::Duration;

use millpond_client::{ClientConfig, Consumer, ConsumerConfig, OffsetAt, OffsetReset, TopicPartition};
use serde_json::json;

/// How long no record may come before it gives up.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [bootstrap, topic, partitions] = &arguments[..] else {
        return Err("usage: read_to_end BOOTSTRAP TOPIC PARTITIONS".into());
    };
    let partitions = (0..partitions.parse()?).map(|partition| TopicPartition::new(topic.as_str(), partition));
    let partitions: Vec<TopicPartition> = partitions.collect();
    let config = ConsumerConfig::default().offset_reset(OffsetReset::Earliest);
    let mut consumer = Consumer::connect(ClientConfig::new(bootstrap)?, config).await?;
    let wanted = partitions.iter().map(|partition| (partition.clone(), OffsetAt::Latest)).collect();
    let mut ends = BTreeMap::new();
    for (partition, end) in consumer.offsets(&wanted).await? {
        ends.insert(partition, end?.unwrap_or(0));
    }
    consumer.assign(partitions)?;
    let mut out = std::io::stdout().lock();
    loop {
        // Behind markers and what compaction took there is no record, but the position goes on.
        let reached = |partition: &TopicPartition, end: i64| consumer.position(partition).is_some_and(|at| at >= end);
        let ended: Vec<TopicPartition> = ends
            .iter()
            .filter(|(partition, end)| **end == 0 || reached(partition, **end))
            .map(|(p, _)| p.clone())
            .collect();
        for partition in ended {
            writeln!(out, "{}", json!({ "ended": partition.partition }))?;
            ends.remove(&partition);
        }
        if ends.is_empty() {
            break;
        }
        for record in tokio::time::timeout(PATIENCE, consumer.recv_many(1000)).await?? {
            let value = record.value.as_deref().map(String::from_utf8_lossy);
            let line = json!({ "value": value, "partition": record.partition, "offset": record.offset });
            writeln!(out, "{line}")?;
        }
    }
    consumer.close().await;
    Ok(())
}
