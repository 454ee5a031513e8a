//! The runtime of the group coordinators: one task for each partition of `__consumer_offsets` that is in use.
//!
//! What a group is and does is decided in `millpond-coordinator`, which knows neither tasks nor logs. Here is what
//! drives it: `placement.rs` says which partition keeps a group, `actor.rs` owns the shard of one partition,
//! `loading.rs` brings it back from the log, `batches.rs` makes batches of its records. `lag.rs` says how far groups
//! are behind, with what the partitions' leaders know (`edges.rs`).
//!
//! A partition's task begins with the first request for it, if this broker leads the partition, and ends when it does
//! no longer; whatever waits is told to look for the coordinator again. Without a task nothing of a partition's groups
//! is in memory. What waits in its mailbox is bounded by what bounds requests: the memory of each is counted as that of
//! an answer in the making until it is answered and what it wrote is on disk, or until it is parked, of which a
//! connection has one at a time. What groups and offsets themselves may take is bounded by the shard
//! ([`GroupSettings::max_state_bytes`]).

mod actor;
mod batches;
mod edges;
mod lag;
mod loading;
mod placement;
mod topics;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use millpond_cluster::OFFSETS_TOPIC_NAME;
use millpond_coordinator::{Effects, GroupSettings, Now, Reply, Shard, Ticket};
use millpond_record::{PartitionIndex, Timestamp, TopicId};
use millpond_runtime::Runtime;
use millpond_wire::Str;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::controller::Controller;
use crate::leadership::Doubt;
use crate::memory::AnswerShare;
use crate::metadata::{Metadata, Snapshot};
use actor::{Actor, Message};

pub(crate) use edges::{Times, answer as answer_edges};
#[cfg(test)]
pub(crate) use lag::tests as lag_tests;
pub(crate) use lag::{
    AllLags, GroupDetail, GroupLag, LagFigures, Member, PartitionLag, of_all as lags, of_group as lag_of,
    run as keep_lags,
};
pub(crate) use placement::{as_offsets_topic, offsets_topic, partition_of};
pub(crate) use topics::KnownTopics;

/// Why a coordinator does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unavailable {
    /// It reads its partition.
    Loading,
    /// It is not on this broker, or not now.
    NotHere,
}

type Answer<T> = Result<T, Unavailable>;

/// The partitions of groups that this broker led when it was asked.
#[derive(Default)]
pub(crate) struct LedForSure(BTreeSet<PartitionIndex>);

/// Groups of one request that are asked at once: each takes memory until it is answered.
pub(crate) const GROUPS_AT_ONCE: usize = 64;

/// What all coordinators of a broker share.
struct Context {
    runtime: Runtime,
    metadata: Arc<Metadata>,
    controller: Controller,
    stopping: CancellationToken,
    settings: GroupSettings,
    /// What the shards' monotonic time counts from.
    start: Instant,
    /// Shards that are loaded.
    loaded: AtomicU64,
    /// What all of them take in memory.
    state_bytes: AtomicU64,
}

/// How much the coordinators have in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CoordinatorFigures {
    /// Shards that are loaded.
    pub(crate) loaded: u64,
    /// What all of them take, about.
    pub(crate) state_bytes: u64,
}

impl Context {
    fn now(&self) -> Now {
        let since = self.runtime.now().saturating_duration_since(self.start);
        let monotonic_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        Now { wall: Timestamp(self.runtime.wall_clock()), monotonic_ms }
    }

    /// When the shards' time is that.
    fn instant(&self, monotonic_ms: u64) -> Instant {
        self.start + Duration::from_millis(monotonic_ms.min(MAX_TIMER_MS))
    }
}

/// A timer is set a thousand years ahead at most; clocks end there.
const MAX_TIMER_MS: u64 = 1000 * 365 * 24 * 60 * 60 * 1000;

/// The group coordinators of a broker.
pub(crate) struct Coordinators {
    context: Arc<Context>,
    mailboxes: Mutex<BTreeMap<PartitionIndex, mpsc::UnboundedSender<Message>>>,
    next_ticket: AtomicU64,
}

impl Coordinators {
    pub(crate) fn new(
        runtime: &Runtime,
        metadata: Arc<Metadata>,
        controller: Controller,
        stopping: CancellationToken,
        settings: GroupSettings,
    ) -> Coordinators {
        let (runtime, start) = (runtime.clone(), runtime.now());
        let (loaded, state_bytes) = (AtomicU64::new(0), AtomicU64::new(0));
        Coordinators {
            context: Arc::new(Context {
                runtime,
                metadata,
                controller,
                stopping,
                settings,
                start,
                loaded,
                state_bytes,
            }),
            mailboxes: Mutex::default(),
            next_ticket: AtomicU64::new(0),
        }
    }

    /// Has a group's coordinator do something, and gives its answer: at once, when what was written is on disk, or when
    /// the group is ready for it. By the time this returns the request has its place in the coordinator's order; what
    /// it returns, dropped before the answer, abandons it.
    ///
    /// `share`: what the request holds of the memory for answers.
    pub(crate) fn ask<W>(
        &self,
        snapshot: &Snapshot,
        group: &str,
        share: AnswerShare,
        work: W,
    ) -> impl Future<Output = Answer<Reply>> + Send + use<W>
    where
        W: FnOnce(&mut Shard, Ticket, Now) -> Effects + Send + 'static,
    {
        let asked = self.mailbox_of(snapshot, group).and_then(|mailbox| {
            let ticket = Ticket(self.next_ticket.fetch_add(1, Ordering::Relaxed));
            let (reply, answer) = oneshot::channel();
            let message = Message::Ask { ticket, work: Box::new(work), share, reply };
            mailbox.send(message).map_err(|_| Unavailable::NotHere)?;
            Ok((Asked { mailbox: Some(mailbox), ticket }, answer))
        });
        async move {
            let (mut asked, answer) = asked?;
            let answer = answer.await.unwrap_or(Err(Unavailable::NotHere));
            asked.mailbox = None;
            answer
        }
    }

    /// Looks at the groups of a group's partition. The answer comes when what was seen is on disk.
    pub(crate) async fn look<T, L>(&self, snapshot: &Snapshot, group: &str, look: L) -> Answer<T>
    where
        T: Send + 'static,
        L: FnOnce(&Shard) -> T + Send + 'static,
    {
        look_in(&self.mailbox_of(snapshot, group)?, look).await
    }

    /// Asks a majority which of the partitions of these groups are led here: a coordinator that was deposed while it
    /// was cut off, or stood still, does not have what its successor wrote.
    pub(crate) async fn led_for_sure<'a>(
        &self,
        snapshot: &Snapshot,
        groups: impl Iterator<Item = &'a Str>,
    ) -> LedForSure {
        let Some(topic) = snapshot.topic(OFFSETS_TOPIC_NAME) else { return LedForSure::default() };
        let indexes: BTreeSet<PartitionIndex> =
            groups.map(|group| partition_of(group, topic.partition_count())).collect();
        let asked = indexes.into_iter().map(|index| async move {
            let partition = topic.led(index).ok()?;
            Doubt::default().surely_leads(&self.context.runtime, partition).await.then_some(index)
        });
        LedForSure(join_all(asked).await.into_iter().flatten().collect())
    }

    /// As [`Coordinators::look`], of groups whose partitions were found to be led here: what is seen is not older than
    /// that.
    pub(crate) async fn look_led<T, L>(&self, led: &LedForSure, snapshot: &Snapshot, group: &str, look: L) -> Answer<T>
    where
        T: Send + 'static,
        L: FnOnce(&Shard) -> T + Send + 'static,
    {
        let topic = snapshot.topic(OFFSETS_TOPIC_NAME).ok_or(Unavailable::NotHere)?;
        if !led.0.contains(&partition_of(group, topic.partition_count())) {
            return Err(Unavailable::NotHere);
        }
        self.look(snapshot, group, look).await
    }

    /// As [`Coordinators::look`], at every partition that may have a group. What cannot be looked at is left out, as in
    /// Kafka, unless it is only being loaded.
    pub(crate) async fn look_everywhere<T, L>(&self, snapshot: &Snapshot, look: L) -> Answer<Vec<T>>
    where
        T: Send + 'static,
        L: Fn(&Shard) -> T + Clone + Send + 'static,
    {
        let seen = self.look_at_each(snapshot, look).await;
        seen.into_iter().filter(|seen| !matches!(seen, Err(Unavailable::NotHere))).collect()
    }

    /// As [`Coordinators::look_everywhere`], with what each partition says.
    pub(crate) async fn look_at_each<T, L>(&self, snapshot: &Snapshot, look: L) -> Vec<Answer<T>>
    where
        T: Send + 'static,
        L: Fn(&Shard) -> T + Clone + Send + 'static,
    {
        let Some(topic) = snapshot.topic(OFFSETS_TOPIC_NAME) else { return Vec::new() };
        let mut mailboxes = Vec::new();
        for index in (0..topic.partition_count()).filter_map(|at| i32::try_from(at).ok()).map(PartitionIndex) {
            // Groups that are kept elsewhere are listed there.
            let Ok(partition) = topic.led(index) else { continue };
            // One that is not in use and keeps nothing is not loaded for this.
            let is_empty = partition.retained().is_some_and(|retained| retained.bytes == 0);
            if !is_empty || self.lock().contains_key(&index) {
                mailboxes.extend(self.mailbox(snapshot, index));
            }
        }
        join_all(mailboxes.iter().map(|mailbox| look_in(mailbox, look.clone()))).await
    }

    /// Topics are gone, and so are the offsets that groups committed of them.
    pub(crate) fn topics_deleted(&self, topics: &[(Arc<str>, TopicId)]) {
        if topics.is_empty() {
            return;
        }
        for mailbox in self.lock().values() {
            for (topic, id) in topics {
                // Gone when the broker stops; who loads it next looks at which topics there are.
                let _ = mailbox.send(Message::TopicDeleted(Arc::clone(topic), *id));
            }
        }
    }

    pub(crate) fn figures(&self) -> CoordinatorFigures {
        let Context { loaded, state_bytes, .. } = &*self.context;
        CoordinatorFigures { loaded: loaded.load(Ordering::Relaxed), state_bytes: state_bytes.load(Ordering::Relaxed) }
    }

    fn mailbox_of(&self, snapshot: &Snapshot, group: &str) -> Answer<mpsc::UnboundedSender<Message>> {
        let topic = snapshot.topic(OFFSETS_TOPIC_NAME).ok_or(Unavailable::NotHere)?;
        self.mailbox(snapshot, partition_of(group, topic.partition_count()))
    }

    /// The mailbox of a partition's task, which is started if it is not there.
    fn mailbox(&self, snapshot: &Snapshot, index: PartitionIndex) -> Answer<mpsc::UnboundedSender<Message>> {
        let topic = snapshot.topic(OFFSETS_TOPIC_NAME).ok_or(Unavailable::NotHere)?;
        let partition = topic.led(index).map_err(|_| Unavailable::NotHere)?.clone();
        let mut mailboxes = self.lock();
        // A closed one is that of a task that has panicked, that lost its partition, or of a broker that stops.
        if let Some(mailbox) = mailboxes.get(&index).filter(|mailbox| !mailbox.is_closed()) {
            return Ok(mailbox.clone());
        }
        let (sender, mailbox) = mpsc::unbounded_channel();
        let context = Arc::clone(&self.context);
        self.context.runtime.spawn(Actor { context, index, partition, mailbox }.run());
        mailboxes.insert(index, sender.clone());
        Ok(sender)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PartitionIndex, mpsc::UnboundedSender<Message>>> {
        // Nothing panics while it is held.
        self.mailboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn look_in<T, L>(mailbox: &mpsc::UnboundedSender<Message>, look: L) -> Answer<T>
where
    T: Send + 'static,
    L: FnOnce(&Shard) -> T + Send + 'static,
{
    let (reply, answer) = oneshot::channel();
    let look = move |shard: Answer<&Shard>| {
        let seen = shard.map(look);
        // Gone if the client left.
        let tell: actor::Tell = Box::new(move || drop(reply.send(seen)));
        tell
    };
    mailbox.send(Message::Look(Box::new(look))).map_err(|_| Unavailable::NotHere)?;
    answer.await.unwrap_or(Err(Unavailable::NotHere))
}

/// A request without answer; tells the coordinator when nobody waits for it any more.
struct Asked {
    /// `None` once it is answered.
    mailbox: Option<mpsc::UnboundedSender<Message>>,
    ticket: Ticket,
}

impl Drop for Asked {
    fn drop(&mut self) {
        if let Some(mailbox) = &self.mailbox {
            // Gone when the broker stops.
            let _ = mailbox.send(Message::Abandon(self.ticket));
        }
    }
}
