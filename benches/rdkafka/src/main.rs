//! What `millpond bench` does, through the crate rdkafka: the same options, the same records, the same figures as JSON.
//! `benches/client` runs the two in turn.

mod consume;
mod latency;
mod payload;
mod produce;
mod report;

use clap::{Args, Parser, Subcommand};
use rdkafka::TopicPartitionList;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaResult;
use std::time::Duration;

/// Records that are not acknowledged, and records that are fetched ahead, may take so much: as with `millpond bench`.
const MEMORY_KIB: u32 = 64 << 10;
/// How long the cluster may take to answer a question.
const DEADLINE: Duration = Duration::from_secs(15);

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Produce(produce::Arguments),
    Consume(consume::Arguments),
    Latency(latency::Arguments),
}

/// What is sent, and how.
#[derive(Args)]
struct Load {
    #[arg(long, default_value_t = 1024)]
    size: usize,
    /// Milliseconds
    #[arg(long, default_value_t = 5)]
    linger: u32,
    /// Bytes
    #[arg(long, default_value_t = 262_144)]
    batch: u32,
    #[arg(long, default_value = "none")]
    compression: String,
    #[arg(long, default_value = "all")]
    acks: String,
}

/// How the cluster is reached.
#[derive(Args)]
struct Reach {
    #[arg(long, default_value = "127.0.0.1:9092")]
    bootstrap: String,
    /// Ignored: the figures are always JSON.
    #[arg(long)]
    json: bool,
}

impl Reach {
    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.bootstrap);
        config
    }

    fn producer(&self, load: &Load) -> ClientConfig {
        let mut config = self.config();
        config
            .set("acks", &load.acks)
            .set("enable.idempotence", (load.acks == "all").to_string())
            .set("linger.ms", load.linger.to_string())
            .set("batch.size", load.batch.to_string())
            .set("compression.type", &load.compression)
            // The limits are the bytes, as with Millpond's client, and not numbers of records.
            .set("batch.num.messages", "1000000")
            .set("queue.buffering.max.messages", "10000000")
            .set("queue.buffering.max.kbytes", MEMORY_KIB.to_string())
            .set("message.max.bytes", (load.batch + (64 << 10)).to_string());
        config
    }

    /// A consumer of no partitions yet, with the defaults of Millpond's client.
    fn consumer(&self) -> KafkaResult<BaseConsumer> {
        let mut config = self.config();
        config
            .set("group.id", "bench")
            .set("enable.auto.commit", "false")
            .set("check.crcs", "true")
            .set("queued.max.messages.kbytes", MEMORY_KIB.to_string());
        config.create()
    }
}

/// Where the partitions of a topic begin and end: number, first offset, end.
fn bounds(consumer: &BaseConsumer, topic: &str) -> KafkaResult<Vec<(i32, i64, i64)>> {
    let metadata = consumer.fetch_metadata(Some(topic), DEADLINE)?;
    let partitions = metadata.topics().iter().flat_map(|topic| topic.partitions());
    let of = |partition: i32| {
        let (begin, end) = consumer.fetch_watermarks(topic, partition, DEADLINE)?;
        Ok((partition, begin, end))
    };
    partitions.map(|partition| of(partition.id())).collect()
}

/// Has a consumer read partitions from these offsets on.
fn assign(consumer: &BaseConsumer, topic: &str, from: impl Iterator<Item = (i32, i64)>) -> KafkaResult<()> {
    let mut list = TopicPartitionList::new();
    for (partition, offset) in from {
        list.add_partition_offset(topic, partition, rdkafka::Offset::Offset(offset))?;
    }
    consumer.assign(&list)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let figures = match Arguments::parse().command {
        Command::Produce(arguments) => produce::run(&arguments)?,
        Command::Consume(arguments) => consume::run(&arguments)?,
        Command::Latency(arguments) => latency::run(&arguments)?,
    };
    println!("{figures}");
    Ok(())
}
