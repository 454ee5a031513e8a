//! `millpond consume`: prints the records of a topic.

mod arguments;
mod format;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind, IsTerminal, Write, stderr, stdout};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use millpond_client::{
    Admin, Consumer, ConsumerConfig, ConsumerRecord, Isolation, OffsetAt, OffsetReset, TopicPartition,
};
use millpond_runtime::{RealDisk, Runtime};
use tokio::time::Instant;

pub(crate) use arguments::ConsumeArguments;
use arguments::{IsolationArgument, Topics};
use format::Format;

use crate::cluster::{connect, counted, hint};
use crate::group::{Goal, targets};
use crate::terminal::{ClearLine, INTERRUPTED, Interrupts, PROGRESS, interrupted};
use crate::topic::{check_partition, count_partitions};

/// Records that are printed together.
const TOGETHER: usize = 1000;

/// Prints until it is told to end.
pub(crate) fn run(arguments: &ConsumeArguments) -> Result<ExitCode> {
    let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let threads = threads.context("cannot start")?;
    let result = threads.block_on(consume(arguments));
    // A thread may still wait for a reader of standard output.
    threads.shutdown_background();
    result
}

async fn consume(arguments: &ConsumeArguments) -> Result<ExitCode> {
    let goal = arguments.goal()?;
    let runtime = Runtime::real(RealDisk::shared());
    let interrupts = Interrupts::count(&runtime)?;
    let (mut consumer, ends) = tokio::select! {
        biased;
        () = interrupts.reached(1) => return Ok(interrupted("nothing was read")),
        begun = begin(arguments, goal) => begun?,
    };
    let mut reading = Reading { arguments, ends, tally: Tally::default(), started: runtime.now() };
    let ended = tokio::select! {
        biased;
        () = interrupts.reached(1) => Ok(Ended::Interrupted),
        ended = reading.all(&runtime, &mut consumer) => ended,
    };
    let leaving = async {
        match ended {
            Ok(Ended::Done) => consumer.close().await,
            // What was read last may not have been printed.
            _ => consumer.leave().await,
        }
    };
    tokio::select! {
        biased;
        () = interrupts.reached(2) => {}
        () = leaving => {}
    }
    if matches!(ended, Ok(Ended::NobodyReads)) {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("millpond: {}", reading.tally.sentence(arguments.topics(), runtime.now() - reading.started));
    Ok(match ended? {
        Ended::Interrupted => ExitCode::from(INTERRUPTED),
        Ended::Done | Ended::NobodyReads => ExitCode::SUCCESS,
    })
}

/// A consumer that stands where it is to begin, and, if it is to end there, where its partitions end.
async fn begin(arguments: &ConsumeArguments, goal: Goal) -> Result<(Consumer, Option<BTreeMap<TopicPartition, i64>>)> {
    let admin = connect(&arguments.reach).await?;
    let count = match arguments.topics() {
        Topics::Named(name) => count_partitions(&admin, name).await?,
        Topics::Matching(_) => 0,
    };
    let isolation = match arguments.isolation {
        IsolationArgument::ReadUncommitted => Isolation::ReadUncommitted,
        IsolationArgument::ReadCommitted => Isolation::ReadCommitted,
    };
    let config = ConsumerConfig::default().isolation(isolation);
    let name = match (&arguments.group, arguments.topics()) {
        (Some(group), topics) => return Ok((member(&admin, config, goal, group, topics)?, None)),
        (None, Topics::Named(name)) => name,
        (None, Topics::Matching(_)) => bail!("--pattern needs --group; without one a topic must be named"),
    };
    arguments.partition.iter().try_for_each(|wanted| check_partition(name, count, *wanted))?;
    let chosen: BTreeSet<i32> = match arguments.partition.is_empty() {
        true => (0..i32::try_from(count).unwrap_or(i32::MAX)).collect(),
        false => arguments.partition.iter().copied().collect(),
    };
    let partitions: Vec<TopicPartition> =
        chosen.into_iter().map(|partition| TopicPartition::new(name, partition)).collect();
    // What retention takes away meanwhile is passed over.
    let config = config.offset_reset(OffsetReset::Earliest);
    let consumer = Consumer::new(admin.cluster().clone(), config);
    consumer.assign(partitions.iter().cloned()).map_err(hint)?;
    for (partition, offset) in targets(&admin, goal, &partitions).await? {
        consumer.seek(&partition, offset).map_err(hint)?;
    }
    let ends = match arguments.until_end {
        true => Some(ends(&consumer, &partitions).await?),
        false => None,
    };
    Ok((consumer, ends))
}

/// A consumer that is in a group.
fn member(admin: &Admin, config: ConsumerConfig, goal: Goal, group: &str, topics: Topics<'_>) -> Result<Consumer> {
    let reset = match goal {
        Goal::Earliest => OffsetReset::Earliest,
        Goal::Latest => OffsetReset::Latest,
        _ => bail!("--from can be earliest or latest with --group; `millpond group reset-offsets` sets others"),
    };
    let consumer = Consumer::new(admin.cluster().clone(), config.group(group).offset_reset(reset));
    match topics {
        Topics::Named(name) => consumer.subscribe(&[name]).map_err(hint)?,
        Topics::Matching(pattern) => {
            consumer.subscribe_pattern(pattern).map_err(|error| anyhow!("--pattern '{pattern}': {error}"))?;
        }
    }
    Ok(consumer)
}

/// Where the partitions end at the moment.
pub(crate) async fn ends(consumer: &Consumer, partitions: &[TopicPartition]) -> Result<BTreeMap<TopicPartition, i64>> {
    let wanted = partitions.iter().map(|partition| (partition.clone(), OffsetAt::Latest)).collect();
    let mut ends = BTreeMap::new();
    for (partition, outcome) in consumer.offsets(&wanted).await.map_err(hint)? {
        if let Some(end) = outcome.map_err(hint)? {
            ends.insert(partition, end);
        }
    }
    Ok(ends)
}

/// Why nothing more is printed.
enum Ended {
    Done,
    Interrupted,
    NobodyReads,
}

/// What was printed.
#[derive(Default)]
struct Tally {
    records: u64,
    bytes: u64,
    partitions: BTreeSet<(Arc<str>, i32)>,
}

impl Tally {
    fn count(&mut self, record: &ConsumerRecord) {
        let length = |bytes: Option<&[u8]>| bytes.map_or(0, <[u8]>::len) as u64;
        self.records += 1;
        self.bytes += length(record.key.as_deref()) + length(record.value.as_deref());
        self.partitions.insert((Arc::clone(&record.topic), record.partition));
    }

    fn sentence(&self, topics: Topics<'_>, took: Duration) -> String {
        let count = |count: u64, thing: &str| counted(usize::try_from(count).unwrap_or(usize::MAX), thing);
        format!(
            "{} ({}) read from {} of {topics} in {:.2} s",
            count(self.records, "record"),
            count(self.bytes, "byte"),
            counted(self.partitions.len(), "partition"),
            took.as_secs_f64()
        )
    }
}

/// Writes to standard output, whose reader may be slow: an interrupt is not to wait for it.
async fn write(runtime: &Runtime, text: Vec<u8>) -> io::Result<()> {
    if text.is_empty() {
        return Ok(());
    }
    let written = runtime.blocking(move || {
        let mut out = stdout().lock();
        out.write_all(&text).and_then(|()| out.flush())
    });
    written.await
}

/// What reading needs.
struct Reading<'a> {
    arguments: &'a ConsumeArguments,
    /// Where to end, if that was asked for.
    ends: Option<BTreeMap<TopicPartition, i64>>,
    tally: Tally,
    started: Instant,
}

impl Reading<'_> {
    async fn all(&mut self, runtime: &Runtime, consumer: &mut Consumer) -> Result<Ended> {
        let format = match &self.arguments.format {
            Some(template) => Format::Custom(template),
            None if self.arguments.reach.json => Format::Json,
            None => Format::Text { safe: stdout().is_terminal() },
        };
        let mut text = Vec::new();
        let live = stderr().is_terminal();
        let _clear = if live { Some(ClearLine) } else { None };
        let mut tick = runtime.now() + PROGRESS;
        let (mut before, mut rate) = (0, 0.0);
        loop {
            if self.is_done(consumer) {
                return Ok(Ended::Done);
            }
            let left = self.arguments.count.map_or(u64::MAX, |count| count - self.tally.records);
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(TOGETHER);
            let records = tokio::select! {
                biased;
                records = consumer.recv_many(most) => records.map_err(hint)?,
                () = runtime.sleep_until(tick) => Vec::new(),
            };
            for record in &records {
                if self.is_behind_its_end(record) {
                    continue;
                }
                format.print(record, &mut text);
                self.tally.count(record);
            }
            if live && !text.is_empty() {
                eprint!("\r\x1b[K");
            }
            match write(runtime, std::mem::take(&mut text)).await {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(Ended::NobodyReads),
                Err(error) => return Err(anyhow!("standard output cannot be written: {error}")),
            }
            let now = runtime.now();
            if now >= tick {
                rate = (self.tally.records - before) as f64 / (now - tick + PROGRESS).as_secs_f64();
                (before, tick) = (self.tally.records, now + PROGRESS);
            }
            if live {
                eprint!("\r\x1b[K{} read, {rate:.0} a second", self.tally.records);
            }
        }
    }

    /// Whether a record was written after the command had begun, and was not asked for.
    fn is_behind_its_end(&self, record: &ConsumerRecord) -> bool {
        let end = self.ends.as_ref().and_then(|ends| ends.get(&TopicPartition::new(&*record.topic, record.partition)));
        end.is_some_and(|end| record.offset >= *end)
    }

    fn is_done(&self, consumer: &Consumer) -> bool {
        let enough = self.arguments.count.is_some_and(|count| self.tally.records >= count);
        let at_end = self.ends.as_ref().is_some_and(|ends| {
            ends.iter().all(|(partition, end)| consumer.position(partition).is_some_and(|position| position >= *end))
        });
        enough || at_end
    }
}
