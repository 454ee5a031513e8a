//! The consumer: fetches records ahead and hands them out one by one.
//!
//! | file | story |
//! | --- | --- |
//! | `partition` | one partition as a pure state machine: position, what is fetched ahead, errors in their place |
//! | `positions` | all partitions, who leads them, what is fetched from whom; pure, too |
//! | `record` | batches become records: holes, control batches, aborted transactions |
//! | `driver` | the task that does what the positions plan |
//! | `exchange`, `session` | fetches and answers as the protocol has them; fetch sessions |
//! | `config` | the settings |

mod config;
mod driver;
mod exchange;
#[cfg(test)]
mod model;
mod partition;
mod positions;
mod record;
mod session;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use futures::Stream;

pub use config::{ConsumerConfig, Isolation, OffsetReset};
pub use record::ConsumerRecord;

use driver::{Shared, drive};
use partition::{Errors, Fetch};

use crate::admin::{OffsetAt, Outcomes, TopicPartition, look_up};
use crate::cluster::Cluster;
use crate::config::ClientConfig;
use crate::error::{Error, Result};

/// Reads records. It ends when it is dropped.
///
/// The records of a partition come in order; partitions take turns. A record is given once, and only
/// [`recv`](Consumer::recv), [`recv_many`](Consumer::recv_many) and the [`Stream`] give it: a future of theirs that is
/// dropped has taken none away, and the [`position`](Consumer::position) is always behind the last record that was
/// given.
///
/// Lost connections, leaders that move and brokers that start again are not the caller's business: it only waits
/// longer. What must be decided is an error, given once, behind all records that came before: a partition that has no
/// offset to go on from ([`Error::NoOffset`], with [`OffsetReset::None`]), one whose records cannot be read
/// ([`Error::Damaged`]), and one that may not be read ([`Error::Refused`]). That partition stands still until
/// [`seek`](Consumer::seek); the others go on. A topic that was deleted and made again begins where the reset policy
/// says.
///
/// ```no_run
/// use millpond_client::{ClientConfig, Consumer, ConsumerConfig, OffsetReset, TopicPartition};
///
/// # async fn run() -> Result<(), millpond_client::Error> {
/// let config = ConsumerConfig::default().offset_reset(OffsetReset::Earliest);
/// let mut consumer = Consumer::connect(ClientConfig::new("127.0.0.1:9092")?, config).await?;
/// let partition = TopicPartition::new("logs", 0);
/// consumer.assign([partition.clone()])?;
/// consumer.seek(&partition, 100)?;
/// loop {
///     let record = consumer.recv().await?;
///     assert_eq!(consumer.position(&partition), Some(record.offset + 1));
///     # break;
/// }
/// # Ok(())
/// # }
/// ```
///
/// As a stream:
///
/// ```no_run
/// use futures::TryStreamExt;
/// # async fn run(mut consumer: millpond_client::Consumer) -> Result<(), millpond_client::Error> {
/// while let Some(record) = consumer.try_next().await? {
///     assert!(record.offset >= 0);
/// }
/// # Ok(())
/// # }
/// ```
pub struct Consumer {
    shared: Arc<Shared>,
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::Release);
        self.shared.wake.notify_one();
    }
}

impl Consumer {
    /// Connects over TCP.
    ///
    /// # Errors
    /// Those of [`Cluster::connect`].
    pub async fn connect(client: ClientConfig, config: ConsumerConfig) -> Result<Consumer> {
        Ok(Consumer::new(Cluster::connect(client).await?, config))
    }

    /// A consumer of this cluster. What it fetches comes over connections of its own; everything else goes over those
    /// of the cluster. To be called in a tokio runtime.
    pub fn new(cluster: Cluster, config: ConsumerConfig) -> Consumer {
        let shared = Arc::new(Shared::new(cluster, config));
        shared.cluster.transport().spawn(Box::pin(drive(Arc::clone(&shared))));
        Consumer { shared }
    }

    /// The cluster that it reads from.
    pub fn cluster(&self) -> &Cluster {
        &self.shared.cluster
    }

    /// Reads these partitions and no others. Those that are read already go on where they are; a new one begins where
    /// [`OffsetReset`] says, or where it is sought to before the next record is asked for.
    ///
    /// # Errors
    /// [`Error::Refused`] for what cannot be the name of a topic; nothing has changed then. A topic or a partition that
    /// does not exist is no error: it is waited for.
    pub fn assign(&self, partitions: impl IntoIterator<Item = TopicPartition>) -> Result<()> {
        let wanted: BTreeSet<TopicPartition> = partitions.into_iter().collect();
        self.shared.state().assign(&wanted)?;
        self.shared.wake.notify_one();
        Ok(())
    }

    /// The partitions that are read.
    pub fn assignment(&self) -> Vec<TopicPartition> {
        self.shared.state().assigned().map(|partition| partition.name.clone()).collect()
    }

    /// Goes on with this offset; what is here of the partition, and an error that it stood still with, are forgotten.
    ///
    /// # Errors
    /// [`Error::Request`] for a partition that is not read, and for a negative offset.
    pub fn seek(&self, partition: &TopicPartition, offset: i64) -> Result<()> {
        if offset < 0 {
            return Err(Error::Request { reason: format!("offset {offset} is below 0") });
        }
        self.go_to(partition, Fetch::From(offset))
    }

    /// Goes on with the first record, with the next one that is written, or with the first that is not older than a
    /// time; after the last record's time that is the next one that is written. The offset is looked up before the next
    /// record is given.
    ///
    /// # Errors
    /// [`Error::Request`] for a partition that is not read.
    pub fn seek_to(&self, partition: &TopicPartition, at: OffsetAt) -> Result<()> {
        self.go_to(partition, Fetch::LookUp(at))
    }

    fn go_to(&self, partition: &TopicPartition, to: Fetch) -> Result<()> {
        if !self.shared.state().seek(partition, to) {
            return Err(not_read(partition));
        }
        self.shared.wake.notify_one();
        Ok(())
    }

    /// Gives no more records of a partition until it is [resumed](Consumer::resume). What is here of it is kept.
    ///
    /// # Errors
    /// [`Error::Request`] for a partition that is not read.
    pub fn pause(&self, partition: &TopicPartition) -> Result<()> {
        self.set_paused(partition, true)
    }

    /// Goes on with a partition that was paused, where it was.
    ///
    /// # Errors
    /// [`Error::Request`] for a partition that is not read.
    pub fn resume(&self, partition: &TopicPartition) -> Result<()> {
        self.set_paused(partition, false)
    }

    fn set_paused(&self, partition: &TopicPartition, paused: bool) -> Result<()> {
        if !self.shared.state().pause(partition, paused) {
            return Err(not_read(partition));
        }
        self.shared.wake.notify_one();
        self.shared.reader.wake();
        Ok(())
    }

    /// Whether a partition is paused.
    pub fn is_paused(&self, partition: &TopicPartition) -> bool {
        self.shared.state().partition(partition).is_some_and(|partition| partition.paused)
    }

    /// The offset that a partition goes on with: behind the last record that was given. `None` for a partition that is
    /// not read, and while it must be looked up.
    pub fn position(&self, partition: &TopicPartition) -> Option<i64> {
        self.shared.state().partition(partition)?.position
    }

    /// How many offsets lie between the position of a partition and its end, as the last answer of a broker told it;
    /// `None` while one of the two is not known. With [`Isolation::ReadCommitted`] the end is that of what may be read.
    pub fn lag(&self, partition: &TopicPartition) -> Option<i64> {
        let state = self.shared.state();
        let partition = state.partition(partition)?;
        Some(partition.end?.saturating_sub(partition.position?).max(0))
    }

    /// The next record. It waits until there is one. Dropped, it has taken none away.
    ///
    /// # Errors
    /// What must be decided, see [`Consumer`]; [`Error::Closed`] when its runtime is being shut down.
    pub async fn recv(&mut self) -> Result<ConsumerRecord> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// The records that are here, `most` at most: at least one, which is waited for. Dropped, it has taken none away.
    ///
    /// # Errors
    /// As of [`recv`](Consumer::recv); an error comes after the records before it were given.
    pub async fn recv_many(&mut self, most: usize) -> Result<Vec<ConsumerRecord>> {
        let mut records = vec![self.recv().await?];
        let mut wake = false;
        {
            let mut state = self.shared.state();
            while records.len() < most {
                let (record, ended) = state.next(Errors::Leave);
                wake |= ended;
                let Some(Ok(record)) = record else { break };
                records.push(record);
            }
        }
        if wake {
            self.shared.wake.notify_one();
        }
        Ok(records)
    }

    /// As [`recv`](Consumer::recv), for who implements a future.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<ConsumerRecord>> {
        // Before it is looked, so that no news is missed.
        self.shared.reader.register(cx.waker());
        let (item, wake) = self.shared.state().next(Errors::Give);
        if wake {
            self.shared.wake.notify_one();
        }
        match item {
            Some(item) => Poll::Ready(item),
            None if self.shared.closing.load(Ordering::Acquire) => Poll::Ready(Err(Error::Closed)),
            None => Poll::Pending,
        }
    }

    /// Looks up offsets, each at its partition's leader; `None` for a time after that of every record. With
    /// [`Isolation::ReadCommitted`] the latest is the end of what may be read. The partitions need not be read.
    ///
    /// # Errors
    /// For a partition: [`Error::Refused`], for example `UNKNOWN_TOPIC_OR_PARTITION`; what passes is tried again until
    /// the deadline. For the call: those of [`Cluster::metadata`].
    pub async fn offsets(
        &self,
        wanted: &BTreeMap<TopicPartition, OffsetAt>,
    ) -> Result<Outcomes<TopicPartition, Option<i64>>> {
        look_up(&self.shared.cluster, wanted, self.shared.config.isolation.level()).await
    }

    /// Ends, and waits until its connections are given back. Dropping it ends it, too.
    pub async fn close(self) {
        let mut ended = self.shared.ended.subscribe();
        drop(self);
        // An error only says that the driver is gone, which is what is waited for.
        let _ = ended.wait_for(|ended| *ended).await;
    }
}

impl Stream for Consumer {
    type Item = Result<ConsumerRecord>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<ConsumerRecord>>> {
        self.get_mut().poll_recv(cx).map(|item| match item {
            Err(Error::Closed) => None,
            item => Some(item),
        })
    }
}

fn not_read(partition: &TopicPartition) -> Error {
    Error::Request { reason: format!("{partition} is not assigned to this consumer") }
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer").field("config", &self.shared.config).finish_non_exhaustive()
    }
}
