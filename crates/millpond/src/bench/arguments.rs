//! The command line of `millpond bench`.

use std::time::Duration;

use clap::{Args, Subcommand};
use millpond_client::{Acks, ProducerConfig};

use crate::cluster::Reach;
use crate::command_line::number;
use crate::produce::{AcksArgument, Compression, seconds};

/// What a request takes beside a batch of the length that was asked for.
const SPARE_BYTES: usize = 64 << 10;
/// Records that are not acknowledged may take so much.
const MEMORY_BYTES: usize = 64 << 20;
/// How long a measurement takes that is given no end.
const SECONDS: u32 = 10;

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Send records, and say how fast they were taken and how soon acknowledged.
    Produce(Box<BenchProduceArguments>),
    /// Read a topic from its beginning, and say how fast that was.
    Consume(BenchConsumeArguments),
    /// Send records evenly and read them back, and say how soon they were there.
    Latency(Box<BenchLatencyArguments>),
}

pub(crate) const BENCH_EXAMPLES: &str = "\
Examples:
  millpond topic create bench --partitions 6
  millpond bench produce bench --records 5000000 --size 100
  millpond bench consume bench
  millpond bench latency bench --rate 5000 --seconds 30

Records are random bytes and text in turn, so that they compress to about a half. CPU time is that of this process. It
works on Kafka's clusters, too.";

const PRODUCE_EXAMPLES: &str = "\
Examples:
  millpond topic create bench --partitions 6
  millpond bench produce bench --records 5000000 --size 100
  millpond bench produce bench --rate 10000 --seconds 60 --linger 0
  millpond bench produce bench --batch 1000000 --compression zstd --json

The topic must exist. It ends after --records or --seconds, whichever comes first; without either, after 10 s. Without
--rate, records are sent as fast as the client takes them, and latency counts from then to the acknowledgement. With it
they are due at even steps, and latency counts from when a record was due, so that what waits behind a slow answer
counts with all its waiting. Ctrl-C ends it with the figures of what was done, and 130; a second one does not wait for
acknowledgements.";

const CONSUME_EXAMPLES: &str = "\
Examples:
  millpond bench consume bench
  millpond bench consume bench --records 1000000 --json

All partitions are read from their beginnings to where they end when the command begins, or until --records were read.
Time counts from the first fetch to the last record. Ctrl-C ends it with the figures of what was read, and 130.";

const LATENCY_EXAMPLES: &str = "\
Examples:
  millpond topic create bench --partitions 6
  millpond bench latency bench
  millpond bench latency bench --rate 5000 --seconds 30 --linger 0 --json

Records are due at even steps, and latency counts from when a record was due to when a consumer in the same process has
it, so that what waits behind a slow answer counts with all its waiting. The latency of what is due in the first second
(--warmup) is not counted; its records, bytes and time are. Ctrl-C ends it with the figures of what was done, and 130.";

/// What is sent, and how.
#[derive(Args, Debug)]
pub(crate) struct Load {
    /// Bytes of a record's value
    #[arg(
        long,
        value_name = "BYTES",
        default_value = "1024",
        value_parser = number::<u32>(0..=16 << 20)
    )]
    pub(crate) size: u32,
    /// How long a batch waits for more records
    #[arg(long, value_name = "MS", default_value = "5", value_parser = number::<u32>(0..=60_000))]
    pub(crate) linger: u32,
    /// The longest batch of more than one record, not compressed
    #[arg(
        long,
        value_name = "BYTES",
        default_value = "262144",
        value_parser = number::<u32>(1..=64 << 20)
    )]
    pub(crate) batch: u32,
    /// How batches are compressed
    #[arg(long, value_name = "CODEC", default_value = "none")]
    pub(crate) compression: Compression,
    /// Who must have a record before it counts: all replicas that are in sync, the leader (1), or nobody (0)
    #[arg(long, value_name = "ACKS", default_value = "all")]
    pub(crate) acks: AcksArgument,
    /// Give records keys, of so many in random order, which choose the partition
    #[arg(long, value_name = "N", value_parser = number(1..=u32::MAX))]
    pub(crate) keys: Option<u32>,
}

impl Load {
    pub(crate) fn size(&self) -> usize {
        self.size as usize
    }

    pub(crate) fn producer(&self) -> ProducerConfig {
        let longest = self.size().max(self.batch as usize) + SPARE_BYTES;
        ProducerConfig::default()
            .acks(Acks::from(self.acks))
            .codec(self.compression.into())
            .linger(Duration::from_millis(self.linger.into()))
            .batch_bytes(self.batch as usize)
            .max_request_bytes(longest)
            .buffer_memory(MEMORY_BYTES.max(longest))
    }
}

#[derive(Args, Debug)]
#[command(after_help = PRODUCE_EXAMPLES)]
pub(crate) struct BenchProduceArguments {
    /// The topic
    pub(crate) topic: String,
    /// End after so many records
    #[arg(long, value_name = "N", value_parser = number(1..=u64::MAX))]
    pub(crate) records: Option<u64>,
    /// End after so long
    #[arg(long, value_name = "S", value_parser = seconds())]
    seconds: Option<u32>,
    /// Send so many records a second, evenly
    #[arg(long, value_name = "N", value_parser = number(1..=u32::MAX))]
    pub(crate) rate: Option<u32>,
    #[command(flatten)]
    pub(crate) load: Load,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

impl BenchProduceArguments {
    pub(crate) fn limit(&self) -> Option<Duration> {
        let seconds = self.seconds.or(self.records.is_none().then_some(SECONDS));
        seconds.map(|seconds| Duration::from_secs(seconds.into()))
    }
}

#[derive(Args, Debug)]
#[command(after_help = CONSUME_EXAMPLES)]
pub(crate) struct BenchConsumeArguments {
    /// The topic
    pub(crate) topic: String,
    /// End after so many records
    #[arg(long, value_name = "N", value_parser = number(1..=u64::MAX))]
    pub(crate) records: Option<u64>,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

#[derive(Args, Debug)]
#[command(after_help = LATENCY_EXAMPLES)]
pub(crate) struct BenchLatencyArguments {
    /// The topic
    pub(crate) topic: String,
    /// Send so many records a second, evenly
    #[arg(long, value_name = "N", default_value = "1000", value_parser = number(1..=u32::MAX))]
    pub(crate) rate: u32,
    /// End so long after the warmup
    #[arg(long, value_name = "S", default_value_t = SECONDS, value_parser = seconds())]
    pub(crate) seconds: u32,
    /// The latency of what is due so long at the beginning is not counted
    #[arg(long, value_name = "S", default_value = "1", value_parser = number::<u32>(0..=3600))]
    pub(crate) warmup: u32,
    #[command(flatten)]
    pub(crate) load: Load,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

impl BenchLatencyArguments {
    pub(crate) fn warmup(&self) -> Duration {
        Duration::from_secs(self.warmup.into())
    }
}
