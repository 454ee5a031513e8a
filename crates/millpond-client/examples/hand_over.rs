//! A member of a group that counts records by partition and tells each count before the partition goes to another
//! member, so that all counts of all members add up to the topic, with no record counted twice.
//!
//! `hand_over BOOTSTRAP TOPIC GROUP SECONDS` ends when no record has come for so long; run two of them at a time.
#![expect(clippy::disallowed_methods, reason = "a program that waits by the clock")]

use std::collections::BTreeMap;
use std::error::Error;
use std::io::Write;
use std::time::Duration;

use millpond_client::{ClientConfig, Consumer, ConsumerConfig, OffsetReset, RebalanceKind, TopicPartition};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [bootstrap, topic, group, seconds] = &arguments[..] else {
        return Err("usage: hand_over BOOTSTRAP TOPIC GROUP SECONDS".into());
    };
    let silence = Duration::from_secs(seconds.parse()?);
    let config = ConsumerConfig::default().group(group).offset_reset(OffsetReset::Earliest).auto_commit(None);
    let mut consumer = Consumer::connect(ClientConfig::new(bootstrap)?, config).await?;
    let mut rebalances = consumer.rebalances()?;
    consumer.subscribe(&[topic])?;
    let mut counts: BTreeMap<TopicPartition, u64> = BTreeMap::new();
    let mut out = std::io::stdout().lock();
    loop {
        tokio::select! {
            biased;
            Some(rebalance) = rebalances.next() => match rebalance.kind() {
                RebalanceKind::Assigned => {}
                // Nobody reads on before this is done.
                RebalanceKind::Revoked => {
                    for partition in rebalance.partitions() {
                        writeln!(out, "{partition} {}", counts.remove(partition).unwrap_or(0))?;
                    }
                    // Of these alone: the others' counts are not told yet.
                    rebalance.commit().await?;
                }
                // Others count anew what was not committed.
                RebalanceKind::Lost => counts.retain(|partition, _| !rebalance.partitions().contains(partition)),
            },
            record = consumer.recv() => {
                let record = record?;
                *counts.entry(TopicPartition::new(&*record.topic, record.partition)).or_default() += 1;
            }
            () = tokio::time::sleep(silence) => break,
        }
    }
    for (partition, count) in counts {
        writeln!(out, "{partition} {count}")?;
    }
    consumer.commit().await?;
    consumer.close().await;
    Ok(())
}
