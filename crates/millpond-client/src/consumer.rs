//! The consumer: fetches records ahead and hands them out one by one.
//!
//! | file | story |
//! | --- | --- |
//! | `partition` | one partition as a pure state machine: position, what is fetched ahead, errors in their place |
//! | `positions` | all partitions, who leads them, what is fetched from whom, what is gone of it; pure, too |
//! | `record` | batches become records: holes, control batches, aborted transactions |
//! | `driver` | the task that does what the positions plan |
//! | `group` | the task that is a member of a consumer group and commits |
//! | `exchange`, `session` | fetches and answers as the protocol has them; fetch sessions |
//! | `config` | the settings |

mod config;
mod driver;
mod exchange;
mod group;
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

pub use config::{ConsumerConfig, GroupProtocol, Isolation, OffsetReset};
pub use group::{Assignor, Commit, Rebalance, RebalanceKind, Rebalances};
pub use record::ConsumerRecord;

use driver::{Shared, drive};
use group::{Desk, Pattern, Subscription, take_part};
use partition::{Errors, Fetch};

use crate::admin::{Admin, OffsetAt, Outcomes, TopicPartition, look_up};
use crate::cluster::Cluster;
use crate::config::ClientConfig;
use crate::error::{Error, Result};
use crate::metadata::check_name;

/// Reads records. It ends when it is dropped.
///
/// The records of a partition come in order; partitions take turns. A record is given once, and only
/// [`recv`](Consumer::recv), [`recv_many`](Consumer::recv_many) and the [`Stream`] give it: a future of theirs that is
/// dropped has taken none away, and the [`position`](Consumer::position) is always behind the last record that was
/// given.
///
/// Lost connections, leaders that move and brokers that start again are not the caller's business: it only waits
/// longer. What must be decided is an error, given once, behind all records that came before: a partition that has no
/// offset to go on from ([`Error::NoOffset`], with [`OffsetReset::None`]), one that has lost records which were given
/// ([`Error::Truncated`], with [`OffsetReset::None`]; else it goes on where they end), one whose records cannot be read
/// ([`Error::Damaged`]), one that may not be read ([`Error::Refused`]), and one whose leader is not trusted
/// ([`Error::Untrusted`]). That partition stands still until [`seek`](Consumer::seek); the others go on. A topic that
/// was deleted and made again begins where the reset policy says.
///
/// Records that were given are lost in unclean elections only. What one has lost is found out by the leader epoch of
/// the last record (KIP-320), in a group also by the one that was committed. After two in a row a leader may have
/// replaced more than that shows, and its records before the place where it goes on are then not given, as by Kafka's
/// consumer.
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
///
/// As a member of a group, which shares the partitions of topics out among its members and keeps how far they have
/// come:
///
/// ```no_run
/// use millpond_client::{ClientConfig, Consumer, ConsumerConfig};
///
/// # async fn run() -> Result<(), millpond_client::Error> {
/// let config = ConsumerConfig::default().group("reports").auto_commit(None);
/// let mut consumer = Consumer::connect(ClientConfig::new("127.0.0.1:9092")?, config).await?;
/// consumer.subscribe(&["logs"])?;
/// loop {
///     let records = consumer.recv_many(100).await?;
///     assert!(!records.is_empty());
///     // When they are worked on:
///     consumer.commit().await?;
///     # break;
/// }
/// consumer.close().await;
/// # Ok(())
/// # }
/// ```
pub struct Consumer {
    shared: Arc<Shared>,
    /// Of the group's task, if there is a group.
    desk: Option<Arc<Desk>>,
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::Release);
        self.shared.wake.notify_one();
        if let Some(desk) = &self.desk {
            desk.close.notify_one();
            desk.listener.wake();
        }
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
        let transport = shared.cluster.transport();
        transport.spawn(Box::pin(drive(Arc::clone(&shared))));
        let desk = shared.config.group_id.clone().map(|group| {
            let desk = Arc::new(Desk::new(shared.config.auto_commit.is_some()));
            transport.spawn(Box::pin(take_part(Arc::clone(&shared), Arc::clone(&desk), group)));
            desk
        });
        Consumer { shared, desk }
    }

    /// The cluster that it reads from.
    pub fn cluster(&self) -> &Cluster {
        &self.shared.cluster
    }

    /// Reads these partitions and no others. Those that are read already go on where they are; a new one begins where
    /// the group has come to, if there is one, else where [`OffsetReset`] says, or where it is sought to before the
    /// next record is asked for. What was given of those that are read no more is committed, unless
    /// [`auto_commit`](ConsumerConfig::auto_commit) is off or there is no group.
    ///
    /// # Errors
    /// [`Error::Refused`] for what cannot be the name of a topic; nothing has changed then. A topic or a partition that
    /// does not exist is no error: it is waited for. [`Error::Request`] while it is subscribed to topics.
    pub fn assign(&self, partitions: impl IntoIterator<Item = TopicPartition>) -> Result<()> {
        let wanted: BTreeSet<TopicPartition> = partitions.into_iter().collect();
        match &self.desk {
            Some(desk) => desk.assign(&self.shared, &wanted)?,
            None => self.shared.state().assign(&wanted)?,
        }
        self.wake();
        Ok(())
    }

    /// Reads the partitions of these topics that its group gives it: it becomes a member of the group, by the protocol
    /// that [`group_protocol`](ConsumerConfig::group_protocol) says, and stays one until
    /// [`unsubscribe`](Consumer::unsubscribe) or the end. A partition begins where the group has come to, else
    /// where [`OffsetReset`] says. Topics that do not exist are waited for.
    ///
    /// When the group gives a partition to another member, no more records of it come; what was given before is
    /// committed first, unless [`auto_commit`](ConsumerConfig::auto_commit) is off;
    /// [`rebalances`](Consumer::rebalances) has the caller take part in that. A member that the coordinator has
    /// taken for dead loses all that it had and joins again. [`recv`](Consumer::recv) says when it cannot be a member.
    ///
    /// # Errors
    /// [`Error::Request`] without a [group](ConsumerConfig::group); [`Error::Refused`] for what cannot be the name of a
    /// topic.
    pub fn subscribe(&self, topics: &[&str]) -> Result<()> {
        let desk = self.desk()?;
        topics.iter().try_for_each(|topic| check_name(topic))?;
        let topics: BTreeSet<String> = topics.iter().map(|topic| (*topic).to_owned()).collect();
        match topics.is_empty() {
            true => desk.unsubscribe(&self.shared),
            false => desk.subscribe(&self.shared, Subscription::Topics(topics)),
        }
        Ok(())
    }

    /// As [`subscribe`](Consumer::subscribe), to all topics whose whole name matches a regular expression, also those
    /// that are made later. A coordinator that can do so matches it (KIP-848, Kafka 4.0), in RE2's syntax and only the
    /// topics that this client may see; else it is matched here, whenever what is known of topics is asked for again
    /// ([`metadata_max_age`](ConsumerConfig::metadata_max_age)), and internal topics do not count. The syntax here is
    /// that of the `regex` crate, which refuses what RE2 has and it has not.
    ///
    /// # Errors
    /// [`Error::Request`] without a [group](ConsumerConfig::group), for what is no regular expression, and for an empty
    /// one, which matches no topic.
    pub fn subscribe_pattern(&self, pattern: &str) -> Result<()> {
        self.desk()?.subscribe(&self.shared, Subscription::Pattern(Pattern::new(pattern)?));
        Ok(())
    }

    /// Tells of the partitions that the group gives to this consumer and takes from it, and waits for the caller's
    /// word: a partition is given up when the caller is done with it, so that what it was given can be finished and
    /// committed before another member reads on. It belongs into the same loop as [`recv`](Consumer::recv), looked at
    /// first; see [`RebalanceKind`] for what each kind asks of the caller.
    ///
    /// While it is there it must be asked: no record of a new partition comes before the caller has heard of it. A
    /// caller that does not let go of what was revoked is waited for almost as long as
    /// [`rebalance_timeout`](ConsumerConfig::rebalance_timeout); then it has lost that, and its next commit says so.
    /// Meanwhile the member stays in its group. What the group had given before is told as assigned. Of what the caller
    /// gives up itself, with [`unsubscribe`](Consumer::unsubscribe) or by closing, it is not told. Dropped, nobody is
    /// asked any more. The example `hand_over` is a program that does all of this.
    ///
    /// ```no_run
    /// use std::collections::BTreeMap;
    ///
    /// use millpond_client::{ClientConfig, Consumer, ConsumerConfig, RebalanceKind, TopicPartition};
    ///
    /// # async fn run() -> Result<(), millpond_client::Error> {
    /// let config = ConsumerConfig::default().group("totals").auto_commit(None);
    /// let mut consumer = Consumer::connect(ClientConfig::new("127.0.0.1:9092")?, config).await?;
    /// let mut rebalances = consumer.rebalances()?;
    /// consumer.subscribe(&["orders"])?;
    /// // How many came of each partition that are not stored yet.
    /// let mut totals: BTreeMap<TopicPartition, usize> = BTreeMap::new();
    /// loop {
    ///     tokio::select! { biased;
    ///         Some(rebalance) = rebalances.next() => match rebalance.kind() {
    ///             RebalanceKind::Assigned => {}
    ///             RebalanceKind::Revoked => {
    ///                 for partition in rebalance.partitions() {
    ///                     store(partition, totals.remove(partition)).await;
    ///                 }
    ///                 // And nothing of the others, whose totals are not stored yet.
    ///                 rebalance.commit().await?;
    ///             }
    ///             RebalanceKind::Lost => totals.retain(|partition, _| !rebalance.partitions().contains(partition)),
    ///         },
    ///         record = consumer.recv() => {
    ///             let record = record?;
    ///             *totals.entry(TopicPartition::new(&*record.topic, record.partition)).or_default() += 1;
    ///         }
    ///     }
    ///     # break;
    /// }
    /// # Ok(())
    /// # }
    /// # async fn store(_: &TopicPartition, _: Option<usize>) {}
    /// ```
    ///
    /// # Errors
    /// [`Error::Request`] without a [group](ConsumerConfig::group), and while there is another.
    pub fn rebalances(&self) -> Result<Rebalances> {
        let desk = self.desk.as_ref().ok_or_else(no_group)?;
        if !desk.listen(&self.shared) {
            return Err(Error::Request { reason: "the consumer's rebalances are told elsewhere already".to_owned() });
        }
        Ok(Rebalances::new(Arc::clone(&self.shared), Arc::clone(desk)))
    }

    /// Leaves the group, and reads nothing until the next [`subscribe`](Consumer::subscribe) or
    /// [`assign`](Consumer::assign); what was assigned by hand is given up, too. What was given before is committed,
    /// unless [`auto_commit`](ConsumerConfig::auto_commit) is off.
    pub fn unsubscribe(&self) {
        match &self.desk {
            Some(desk) => desk.unsubscribe(&self.shared),
            None => drop(self.shared.state().revoke(&BTreeSet::new())),
        }
    }

    /// Tells the group how far it has come: behind all records that were given. It is done whether or not the outcome
    /// is waited for, and commits are made in their order. Partitions that a rebalance has taken meanwhile are left
    /// out, as by Kafka's consumer: who reads them next is given again what was not committed; with none left it is
    /// `ILLEGAL_GENERATION`. When records were lost that were given and not committed, with the membership, because its
    /// session ran out or the caller did not come for too long, or by parting with them too late, nothing is committed
    /// and the caller is told, once: here, or before as [`RebalanceKind::Lost`].
    ///
    /// # Errors
    /// Of the outcome: [`Error::Refused`], above all `ILLEGAL_GENERATION`, `UNKNOWN_MEMBER_ID`, `STALE_MEMBER_EPOCH`
    /// and `REBALANCE_IN_PROGRESS`: then others may be given again what was not committed; [`Error::GaveUp`] for what
    /// passes and has not until the deadline; [`Error::Closed`] without a [group](ConsumerConfig::group).
    pub fn commit(&self) -> Commit {
        self.desk.as_ref().map_or_else(Commit::closed, |desk| desk.commit_given(&self.shared))
    }

    /// As [`commit`](Consumer::commit), of these offsets: of each partition the one of the record that is next. While
    /// it is subscribed they must be of partitions that the group has given it and has not taken before the commit is
    /// made, of which the caller has heard if it asks for [`rebalances`](Consumer::rebalances); others are refused with
    /// `ILLEGAL_GENERATION`.
    ///
    /// # Errors
    /// As of [`commit`](Consumer::commit).
    pub fn commit_offsets(&self, offsets: &BTreeMap<TopicPartition, i64>) -> Commit {
        self.desk.as_ref().map_or_else(Commit::closed, |desk| desk.commit(&self.shared, offsets))
    }

    /// How far the group has come, by partition: all that it has committed.
    ///
    /// # Errors
    /// [`Error::Request`] without a [group](ConsumerConfig::group); those of
    /// [`Admin::group_offsets`](crate::Admin::group_offsets).
    pub async fn committed(&self) -> Result<BTreeMap<TopicPartition, i64>> {
        self.desk()?;
        let group = self.shared.group();
        let offsets = Admin::from(self.shared.cluster.clone()).stable_group_offsets(group).await?;
        Ok(offsets.into_iter().map(|(partition, committed)| (partition, committed.offset)).collect())
    }

    fn desk(&self) -> Result<&Desk> {
        self.desk.as_deref().ok_or_else(no_group)
    }

    /// Has the tasks look at what has changed.
    fn wake(&self) {
        self.shared.wake.notify_one();
        if let Some(desk) = &self.desk {
            desk.wake.notify_one();
        }
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
        let wake = self.shared.state().next_many(most, &mut records);
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
        if let Some(desk) = &self.desk {
            desk.comes(item.is_none());
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

    /// Ends, and waits for it: what was given is committed, unless [`auto_commit`](ConsumerConfig::auto_commit) is off,
    /// and the group is left.
    pub async fn close(self) {
        self.shared.state().settle();
        self.leave().await;
    }

    /// As [`close`](Consumer::close), but what the last call gave counts as not done: it is not committed, and whoever
    /// reads the partition next is given it again. Dropping the consumer does the same, and does not wait for it.
    pub async fn leave(self) {
        let desk = self.desk.clone();
        let mut ended = vec![self.shared.ended.subscribe()];
        ended.extend(desk.iter().map(|desk| desk.ended.subscribe()));
        drop(self);
        for mut ended in ended {
            // An error only says that the task is gone, which is what is waited for.
            let _ = ended.wait_for(|ended| *ended).await;
        }
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

fn no_group() -> Error {
    Error::Request { reason: "the consumer has no group".to_owned() }
}

fn not_read(partition: &TopicPartition) -> Error {
    Error::Request { reason: format!("{partition} is not assigned to this consumer") }
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer").field("config", &self.shared.config).finish_non_exhaustive()
    }
}
