//! The producer: collects records into batches and sends them to the leaders of their partitions.
//!
//! | file | story |
//! | --- | --- |
//! | `queue` | the batches of one partition as a pure state machine: sequences, tries, series |
//! | `accumulator` | all queues, who is sent what, which partition a record goes to; pure, too |
//! | `driver` | the task that does what the accumulator plans |
//! | `exchange` | requests and answers as the protocol has them |
//! | `batch`, `delivery`, `record`, `config` | the values |

mod accumulator;
mod batch;
mod config;
mod delivery;
mod driver;
mod exchange;
#[cfg(test)]
mod model;
mod queue;
mod record;

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

pub use config::{Acks, ProducerConfig};
pub use delivery::{Acknowledged, Delivery};
pub use record::NewRecord;

use accumulator::NotAppended;
use driver::{Shared, drive};
use tokio::sync::TryAcquireError;
use tokio::time::Instant;

use crate::clock;
use crate::cluster::Cluster;
use crate::config::ClientConfig;
use crate::error::{Error, Result};

/// Why [`Producer::try_send`] did not take a record.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TrySendError {
    /// As many bytes wait for their outcome as may.
    #[error("the producer's memory is full")]
    Full,
    /// The partitions of the topic are not known yet; they have been asked for.
    #[error("the topic is not known yet")]
    NotKnown,
    /// It will not be taken later either.
    #[error(transparent)]
    Failed(#[from] Error),
}

/// Sends records. Clones share everything. What they hold is sent when the last one is dropped, too, but only
/// [`close`](Producer::close) and [`flush`](Producer::flush) wait for it.
///
/// With idempotence, which is the default, each acknowledged record is in its partition once, and the records of a
/// partition are in the order in which they were sent, whatever connections and brokers do meanwhile. Without it
/// ([`ProducerConfig::idempotent`], [`ProducerConfig::acks`]) a record may be there twice, and with [`Acks::None`] it
/// may be lost. A record whose delivery fails may be there or not.
///
/// ```no_run
/// use millpond_client::{ClientConfig, NewRecord, Producer, ProducerConfig};
///
/// # async fn run() -> Result<(), millpond_client::Error> {
/// let producer = Producer::connect(ClientConfig::new("127.0.0.1:9092")?, ProducerConfig::default()).await?;
/// let delivery = producer.send(NewRecord::to("logs").key(b"host-1").value(b"up")).await?;
/// for number in 0..1000 {
///     // Who does not wait for a delivery need not keep it.
///     let _ = producer.send(NewRecord::to("logs").value(format!("line {number}").as_bytes())).await?;
/// }
/// producer.flush().await;
/// assert!(delivery.await?.offset.is_some());
/// producer.close().await;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Producer {
    handle: Arc<Handle>,
}

/// Ends the driver with the last clone.
struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::Release);
        self.shared.wake.notify_one();
    }
}

impl Producer {
    /// Connects over TCP.
    ///
    /// # Errors
    /// Those of [`Cluster::connect`].
    pub async fn connect(client: ClientConfig, config: ProducerConfig) -> Result<Producer> {
        Ok(Producer::new(Cluster::connect(client).await?, config))
    }

    /// A producer for this cluster, whose connections it shares. To be called in a tokio runtime.
    pub fn new(cluster: Cluster, config: ProducerConfig) -> Producer {
        let shared = Arc::new(Shared::new(cluster, config));
        shared.cluster.transport().spawn(Box::pin(drive(Arc::clone(&shared))));
        Producer { handle: Arc::new(Handle { shared }) }
    }

    /// The cluster that it sends to.
    pub fn cluster(&self) -> &Cluster {
        &self.handle.shared.cluster
    }

    /// Takes a record in. It waits while the topic is not known, and then while the memory is full, at most for
    /// [`max_block`](ProducerConfig::max_block) in all. When it returns, the record is queued behind those that were
    /// sent before; the delivery tells what becomes of it. Dropped before, it has taken nothing in.
    ///
    /// # Errors
    /// [`Error::TooLarge`]; [`Error::Closed`]; [`Error::Refused`] when the topic has no such partition, when its name
    /// cannot be one, and when it must not be looked at; [`Error::GaveUp`] after `max_block`, also for a topic that is
    /// missing: it may be made meanwhile.
    pub async fn send(&self, record: NewRecord<'_>) -> Result<Delivery> {
        let shared = &*self.handle.shared;
        match self.try_send(record) {
            Ok(delivery) => return Ok(delivery),
            Err(TrySendError::Failed(error)) => return Err(error),
            Err(TrySendError::Full | TrySendError::NotKnown) => {}
        }
        let deadline = clock::now() + shared.config.max_block;
        let most_bytes = record.most_bytes();
        loop {
            // First, so that nobody who waits for a topic keeps memory from others.
            self.known(record.topic, deadline).await?;
            let memory = self.memory(most_bytes, deadline).await?;
            match self.append(&record, most_bytes) {
                Ok(delivery) => {
                    memory.forget();
                    return Ok(delivery);
                }
                Err(NotAppended::Refused(error)) => return Err(error),
                Err(NotAppended::NotKnown(_)) => {}
            }
        }
    }

    /// Waits until the partitions of a topic are known.
    async fn known(&self, topic: &str, deadline: Instant) -> Result<()> {
        let shared = &*self.handle.shared;
        loop {
            // Before the topic is looked at, so that no news is missed.
            let mut learned = pin!(shared.learned.notified());
            learned.as_mut().enable();
            let looked_up = {
                let mut state = shared.state();
                // Under the lock, so that the driver does not end without a word after this.
                if shared.closing.load(Ordering::Acquire) {
                    return Err(Error::Closed);
                }
                state.look_up(topic)
            };
            let why = match looked_up {
                Ok(_) => return Ok(()),
                Err(NotAppended::Refused(error)) => return Err(error),
                Err(NotAppended::NotKnown(why)) => why,
            };
            shared.wake.notify_one();
            if clock::by(deadline, learned).await.is_none() {
                return Err(self.gave_up(why, &format!("looking for the topic {topic}")));
            }
        }
    }

    /// As [`send`](Producer::send), without waiting.
    ///
    /// # Errors
    /// [`TrySendError`].
    pub fn try_send(&self, record: NewRecord<'_>) -> Result<Delivery, TrySendError> {
        let shared = &*self.handle.shared;
        if shared.closing.load(Ordering::Relaxed) {
            return Err(Error::Closed.into());
        }
        let most_bytes = record.most_bytes();
        let limit = shared.config.most_record_bytes();
        let permits = u32::try_from(most_bytes).ok().filter(|_| most_bytes <= limit);
        let Some(permits) = permits else {
            return Err(Error::TooLarge { bytes: most_bytes, limit }.into());
        };
        let memory = shared.memory.try_acquire_many(permits).map_err(|why| match why {
            TryAcquireError::NoPermits => TrySendError::Full,
            TryAcquireError::Closed => Error::Closed.into(),
        })?;
        match self.append(&record, most_bytes) {
            Ok(delivery) => {
                memory.forget();
                Ok(delivery)
            }
            Err(why) => {
                // The topic has come into doubt.
                shared.wake.notify_one();
                Err(match why {
                    NotAppended::Refused(error) => error.into(),
                    NotAppended::NotKnown(_) => TrySendError::NotKnown,
                })
            }
        }
    }

    /// Appends under the lock; on success the memory is the batch's.
    fn append(&self, record: &NewRecord<'_>, most_bytes: usize) -> Result<Delivery, NotAppended> {
        let shared = &*self.handle.shared;
        let timestamp = record.timestamp.unwrap_or_else(|| shared.cluster.transport().wall_clock_ms());
        let appended = {
            let mut state = shared.state();
            // Under the lock, so that the driver does not end with a record that comes now.
            if shared.closing.load(Ordering::Acquire) {
                return Err(NotAppended::Refused(Error::Closed));
            }
            state.append(record, timestamp, most_bytes, clock::now)?
        };
        if appended.wake {
            shared.wake.notify_one();
        }
        Ok(appended.delivery)
    }

    /// Waits for memory; whoever waits makes the driver send what waits for more records.
    async fn memory(&self, bytes: usize, deadline: Instant) -> Result<tokio::sync::SemaphorePermit<'_>> {
        let shared = &*self.handle.shared;
        let permits = u32::try_from(bytes).unwrap_or(u32::MAX);
        if let Ok(memory) = shared.memory.try_acquire_many(permits) {
            return Ok(memory);
        }
        let waiting = Waiting::new(shared);
        shared.wake.notify_one();
        let acquired = clock::by(deadline, shared.memory.acquire_many(permits)).await;
        drop(waiting);
        match acquired {
            Some(Ok(memory)) => Ok(memory),
            Some(Err(_)) => Err(Error::Closed),
            None => Err(self.gave_up(None, "waiting for the producer's memory")),
        }
    }

    fn gave_up(&self, why: Option<Error>, what: &str) -> Error {
        let late = || Error::Refused {
            what: what.to_owned(),
            code: millpond_wire::ErrorCode::REQUEST_TIMED_OUT,
            message: None,
        };
        let after = self.handle.shared.config.max_block;
        Error::GaveUp { after, last: Box::new(why.unwrap_or_else(late)) }
    }

    /// Sends what waits for more records, and waits until everything that was taken in before has its outcome, good or
    /// bad: the deliveries tell which.
    pub async fn flush(&self) {
        let shared = &*self.handle.shared;
        let slots = shared.state().flush();
        shared.wake.notify_one();
        for slot in slots {
            slot.finished().await;
        }
    }

    /// Takes no more records, waits until all have their outcome, and ends. Other clones take none from now on either.
    pub async fn close(self) {
        let shared = Arc::clone(&self.handle.shared);
        {
            let _state = shared.state();
            shared.closing.store(true, Ordering::Release);
        }
        self.flush().await;
        shared.wake.notify_one();
        let mut ended = shared.ended.subscribe();
        // An error only says that the driver is gone, which is what is waited for.
        let _ = ended.wait_for(|ended| *ended).await;
    }
}

/// Counts who waits for memory while it is there.
struct Waiting<'a>(&'a Shared);

impl<'a> Waiting<'a> {
    fn new(shared: &'a Shared) -> Waiting<'a> {
        shared.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting(shared)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer").field("config", &self.handle.shared.config).finish_non_exhaustive()
    }
}
