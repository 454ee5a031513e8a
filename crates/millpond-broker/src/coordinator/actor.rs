//! One coordinator: the task that owns the shard of one partition of `__consumer_offsets`.
//!
//! ```text
//!          a request          loaded             an append failed
//! Resting ──────────▶ Loading ───────▶ Serving ──────────────────▶ Paused ──▶ Resting
//!                        └── cannot be read ─────────────────────────▲
//! ```
//!
//! It ends after a pause, too, when the partition itself has failed: that one answers nothing any more.
//!
//! It ends, wherever it is, when the partition is led here no longer or in another epoch: another coordinator may have
//! written meanwhile, and only the log knows what.
//!
//! It works in turns: takes all that waits in its mailbox, hands it to the shard, which answers from what it knows and
//! says what to write, and proposes the records of the whole turn as one batch. It goes on with the next turn while
//! that is written. An answer leaves when everything that was written before it was made is committed: a client never
//! learns what a crash could undo. If a batch cannot be written, the shard knows more than the log: it is dropped, who
//! waits is told to look for the coordinator again, and the next request loads it from the log.
//!
//! Dropping the sender of an answer is how a request is told that the coordinator is not here.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::BoxFuture;
use millpond_cluster::Image;
use millpond_coordinator::{Effects, Now, Reply, Shard, Ticket};
use millpond_raft::{Acks, Partition, ProposeError, Receipt};
use millpond_record::{LeaderEpoch, PartitionIndex, TopicId};
use millpond_storage::Hold;
use millpond_wire::Str;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Sleep;
use tracing::{debug, info, warn};

use super::batches::Batches;
use super::loading::{LoadError, Loaded, load};
use super::{Context, Unavailable};
use crate::leadership::Doubt;
use crate::memory::AnswerShare;

/// Requests that wait this long for a shard to be loaded are told so; most loads are done sooner, and nobody has to ask
/// twice.
const LOAD_PATIENCE: Duration = Duration::from_millis(500);
/// After a failure nothing is tried for this long.
const PAUSE: Duration = Duration::from_secs(1);
/// After a failure to learn which topics there are nothing is tried for this long.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// Requests of one turn.
const TURN: usize = 512;

/// What a request does with the shard.
type Work = Box<dyn FnOnce(&mut Shard, Ticket, Now) -> Effects + Send>;
/// Looks at the shard, if there is one, and gives what tells who asked.
type Look = Box<dyn FnOnce(Result<&Shard, Unavailable>) -> Tell + Send>;
pub(super) type Tell = Box<dyn FnOnce() + Send>;

pub(super) enum Message {
    Ask {
        ticket: Ticket,
        work: Work,
        /// What the request holds of the memory for answers; it is parked without.
        share: AnswerShare,
        reply: oneshot::Sender<Result<Reply, Unavailable>>,
    },
    /// Changes nothing.
    Look(Look),
    /// Whoever asked is gone.
    Abandon(Ticket),
    /// A topic is deleted.
    TopicDeleted(Arc<str>, TopicId),
}

pub(super) struct Actor {
    pub(super) context: Arc<Context>,
    pub(super) index: PartitionIndex,
    pub(super) partition: Partition,
    pub(super) mailbox: mpsc::UnboundedReceiver<Message>,
}

/// Why a shard is served no longer.
enum Ended {
    Stopping,
    /// The partition is led here no longer, or in another epoch.
    Lost,
    Failed,
}

/// Completes when this broker leads the partition in that epoch no longer.
async fn lost(partition: Partition, epoch: LeaderEpoch) {
    let mut state = partition.watch();
    // An error says that nobody will lead it any more.
    let _ = state.wait_for(|_| !leads_in(&partition, epoch)).await;
}

fn leads_in(partition: &Partition, epoch: LeaderEpoch) -> bool {
    partition.leads() && partition.leader_epoch() == epoch
}

impl Actor {
    /// Runs until the broker stops, or leads the partition no longer.
    pub(super) async fn run(mut self) {
        loop {
            let context = Arc::clone(&self.context);
            let first = tokio::select! {
                biased;
                () = context.stopping.cancelled() => return,
                first = self.mailbox.recv() => first,
            };
            let mut held = match first {
                Some(first @ (Message::Ask { .. } | Message::Look(_))) => VecDeque::from([first]),
                // A shard that is not loaded has nothing of it; the load looks at which topics there are.
                Some(Message::Abandon(_) | Message::TopicDeleted(..)) => continue,
                None => return,
            };
            let epoch = self.partition.leader_epoch();
            let ended = match self.load(&mut held, epoch).await {
                Ok(Ok(loaded)) => Serving::new(&mut self, loaded, epoch).run(held).await,
                Ok(Err(error)) => {
                    warn!(partition = self.index.0, "the groups of a partition cannot be loaded: {error}");
                    Ended::Failed
                }
                Err(ended) => ended,
            };
            match ended {
                Ended::Stopping => return,
                Ended::Lost => {
                    info!(partition = self.index.0, "the groups of a partition are coordinated here no longer");
                    return;
                }
                Ended::Failed => {
                    self.pause().await;
                    // It stays so; the replica may have been replaced, and the next request finds the one that is there
                    // then.
                    if self.partition.has_failed() {
                        info!(partition = self.index.0, "the coordinator of a partition that has failed ends");
                        return;
                    }
                }
            }
        }
    }

    /// Loads the shard, and holds what comes meanwhile. An error when nobody waits for it any more.
    async fn load(
        &mut self,
        held: &mut VecDeque<Message>,
        epoch: LeaderEpoch,
    ) -> Result<Result<Loaded, LoadError>, Ended> {
        let context = Arc::clone(&self.context);
        let start = context.runtime.now();
        let mut lost = pin!(lost(self.partition.clone(), epoch));
        let mut loading = pin!(load(&context.runtime, &self.partition, context.settings.clone()));
        let mut patience = pin!(context.runtime.sleep(LOAD_PATIENCE));
        let mut patient = true;
        let loaded = loop {
            tokio::select! {
                biased;
                () = context.stopping.cancelled() => return Err(Ended::Stopping),
                () = &mut lost, if !self.partition.has_failed() => return Err(Ended::Lost),
                loaded = &mut loading => break loaded,
                () = &mut patience, if patient => {
                    patient = false;
                    for message in std::mem::take(held) {
                        held.extend(told_to_wait(message));
                    }
                }
                Some(message) = self.mailbox.recv() => {
                    held.extend(if patient { Some(message) } else { told_to_wait(message) });
                }
            }
        };
        if !patient {
            let seconds = (context.runtime.now() - start).as_secs_f64();
            info!(partition = self.index.0, seconds, "the groups of a partition are loaded");
        }
        Ok(loaded)
    }

    /// Refuses what comes for a while.
    async fn pause(&mut self) {
        let context = Arc::clone(&self.context);
        let mut over = pin!(context.runtime.sleep(PAUSE));
        loop {
            tokio::select! {
                biased;
                () = context.stopping.cancelled() => return,
                () = &mut over => return,
                message = self.mailbox.recv() => if message.is_none() { return },
            }
        }
    }
}

/// Tells a request that the shard is being loaded; gives back what is no request.
fn told_to_wait(message: Message) -> Option<Message> {
    match message {
        Message::Ask { reply, .. } => {
            // Gone if the client left.
            let _ = reply.send(Err(Unavailable::Loading));
            None
        }
        Message::Look(look) => {
            look(Err(Unavailable::Loading))();
            None
        }
        Message::Abandon(_) => None,
        Message::TopicDeleted(..) => Some(message),
    }
}

/// A batch on its way to the disk, and the answers that leave when it is there.
struct Flight {
    receipt: Receipt,
    answers: Answers,
    /// See [`Turn::refusals`].
    refusals: Answers,
}

/// Refusals, when it is known whether this coordinator may tell them.
type Doubted = BoxFuture<'static, (bool, Answers)>;

/// Answers that belong to one moment of the shard.
#[derive(Default)]
struct Answers {
    replies: Vec<(Ticket, Reply)>,
    told: Vec<Tell>,
    /// What the requests that are answered hold of the memory for answers: until then, whether their clients wait or
    /// not.
    shares: Vec<AnswerShare>,
}

impl Answers {
    fn append(&mut self, others: &mut Answers) {
        self.replies.append(&mut others.replies);
        self.told.append(&mut others.told);
        self.shares.append(&mut others.shares);
    }
}

/// A loaded shard's part of the figures.
struct Size {
    context: Arc<Context>,
    bytes: u64,
}

impl Size {
    fn new(context: &Arc<Context>) -> Size {
        context.loaded.fetch_add(1, Ordering::Relaxed);
        Size { context: Arc::clone(context), bytes: 0 }
    }

    fn set(&mut self, bytes: usize) {
        let bytes = bytes as u64;
        // Added before it is taken off: the sum is never below 0.
        self.context.state_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.context.state_bytes.fetch_sub(std::mem::replace(&mut self.bytes, bytes), Ordering::Relaxed);
    }
}

impl Drop for Size {
    fn drop(&mut self) {
        self.set(0);
        self.context.loaded.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What one turn writes and answers.
struct Turn {
    batches: Batches,
    answers: Answers,
    /// Answers that refuse something for what the group is. A coordinator that was deposed while it was cut off or
    /// stood still does not have what its successor wrote, and a client does not come back from some of them: they
    /// leave when a majority says that there is no successor, or has taken what the turn wrote.
    refusals: Answers,
}

impl Turn {
    fn new(now: Now, max_batch_bytes: u64) -> Turn {
        let batches = Batches::new(now.wall, max_batch_bytes);
        Turn { batches, answers: Answers::default(), refusals: Answers::default() }
    }

    fn add(&mut self, effects: Effects) {
        self.batches.add(&effects.records);
        for (ticket, reply) in effects.replies {
            self.answers_like(&reply).replies.push((ticket, reply));
        }
    }

    /// With which answers this one leaves.
    fn answers_like(&mut self, reply: &Reply) -> &mut Answers {
        if reply.refuses_for_the_group() { &mut self.refusals } else { &mut self.answers }
    }
}

struct Serving<'a> {
    actor: &'a mut Actor,
    shard: Shard,
    /// The epoch that the shard was loaded in.
    epoch: LeaderEpoch,
    size: Size,
    /// The longest batch that the log takes.
    max_batch_bytes: u64,
    /// Requests without answer: parked in the shard, or with an answer that is in a flight.
    waiting: BTreeMap<Ticket, oneshot::Sender<Result<Reply, Unavailable>>>,
    /// In the order of the log.
    flights: VecDeque<Flight>,
    /// Those that a majority is being asked about.
    doubted: Option<Doubted>,
    /// Those that came since: a majority that was asked before them says nothing of them.
    doubted_next: Answers,
    timer: Pin<Box<Sleep>>,
    /// When the timer runs out; it may be earlier than the shard needs.
    armed_ms: Option<u64>,
}

impl<'a> Serving<'a> {
    fn new(actor: &'a mut Actor, Loaded { shard, max_batch_bytes }: Loaded, epoch: LeaderEpoch) -> Serving<'a> {
        let timer = Box::pin(actor.context.runtime.sleep(Duration::ZERO));
        let size = Size::new(&actor.context);
        Serving {
            actor,
            shard,
            epoch,
            size,
            max_batch_bytes,
            waiting: BTreeMap::new(),
            flights: VecDeque::new(),
            doubted: None,
            doubted_next: Answers::default(),
            timer,
            armed_ms: None,
        }
    }

    async fn run(mut self, held: VecDeque<Message>) -> Ended {
        let context = Arc::clone(&self.actor.context);
        let mut lost = pin!(lost(self.actor.partition.clone(), self.epoch));
        let now = context.now();
        let mut turn = Turn::new(now, self.max_batch_bytes);
        turn.add(self.shard.loaded(now));
        self.end(turn);
        let mut latest = self.look_for_deleted();
        let mut inbox: Vec<Message> = held.into();
        loop {
            if !inbox.is_empty() {
                self.turn(&mut inbox);
            }
            self.arm();
            let Serving { actor, flights, doubted, timer, armed_ms, .. } = &mut self;
            let (looked, is_sure) = (if_any(&mut latest), if_any(doubted));
            tokio::select! {
                biased;
                () = context.stopping.cancelled() => return self.stop().await,
                // Before anything is told that it is written: whatever is in flight may be overwritten.
                () = &mut lost => return Ended::Lost,
                written = front(flights), if !flights.is_empty() => if let Err(error) = written {
                    return self.fail(&error).await;
                } else {
                    self.land();
                },
                (leads, refusals) = is_sure => self.tell(leads, refusals),
                image = looked => {
                    latest = None;
                    self.forget_missing_topics(&image);
                }
                // Before the mailbox, in which there may always be something. What is there already has its turn first:
                // after a standstill of the process the heartbeats that wait are older than the deadlines.
                () = timer, if armed_ms.is_some() => {
                    inbox.extend(std::iter::from_fn(|| self.actor.mailbox.try_recv().ok()).take(TURN));
                    if !inbox.is_empty() {
                        self.turn(&mut inbox);
                    }
                    self.tick();
                }
                count = actor.mailbox.recv_many(&mut inbox, TURN) => if count == 0 {
                    return self.stop().await;
                },
            }
        }
    }

    /// Topics that offsets were committed of, and that the metadata does not have.
    fn missing_topics(&self, image: &Image) -> BTreeSet<(Str, TopicId)> {
        let exists = |topic: &str, id| image.topic(topic).is_some_and(|found| id == TopicId::ZERO || found.id == id);
        let groups = self.shard.summaries().map(|group| group.group_id);
        let committed = groups.flat_map(|group| self.shard.committed_offsets(group));
        let topics = committed.map(|(topic, _, committed)| (topic, committed.topic_id));
        topics.filter(|(topic, id)| !exists(topic, *id)).map(|(topic, id)| (topic.clone(), id)).collect()
    }

    /// Forgets offsets of topics that were deleted while the shard was not loaded. `image`: the metadata as of a time
    /// when it was, so that a topic that is not there was deleted, and is not one that this broker has not heard of.
    fn forget_missing_topics(&mut self, image: &Image) {
        let mut turn = Turn::new(self.actor.context.now(), self.max_batch_bytes);
        for (topic, id) in self.missing_topics(image) {
            turn.add(self.shard.on_topic_deleted(&topic, id));
        }
        self.end(turn);
    }

    /// The metadata as of a time after now, if some of it is of use.
    fn look_for_deleted(&self) -> Option<BoxFuture<'static, Image>> {
        let context = Arc::clone(&self.actor.context);
        if self.missing_topics(&context.metadata.snapshot().image).is_empty() {
            return None;
        }
        Some(Box::pin(async move {
            loop {
                match context.controller.latest_image().await {
                    Ok(image) => return image,
                    Err(error) => debug!("it is not known yet which topics were deleted: {error}"),
                }
                context.runtime.sleep(LOOK_AGAIN).await;
            }
        }))
    }

    /// Does what is due.
    fn tick(&mut self) {
        self.armed_ms = None;
        let now = self.actor.context.now();
        let mut turn = Turn::new(now, self.max_batch_bytes);
        turn.add(self.shard.tick(now));
        self.end(turn);
    }

    /// Handles what has gathered.
    fn turn(&mut self, inbox: &mut Vec<Message>) {
        let now = self.actor.context.now();
        let mut turn = Turn::new(now, self.max_batch_bytes);
        for message in inbox.drain(..) {
            match message {
                Message::Ask { ticket, work, share, reply } => {
                    let effects = work(&mut self.shard, ticket, now);
                    if let Some((_, reply)) = effects.replies.iter().find(|(answered, _)| *answered == ticket) {
                        turn.answers_like(reply).shares.push(share);
                    }
                    self.waiting.insert(ticket, reply);
                    turn.add(effects);
                }
                Message::Look(look) => turn.answers.told.push(look(Ok(&self.shard))),
                Message::Abandon(ticket) => {
                    self.waiting.remove(&ticket);
                    turn.add(self.shard.abandon(ticket, now));
                }
                Message::TopicDeleted(topic, id) => turn.add(self.shard.on_topic_deleted(&topic, id)),
            }
        }
        self.end(turn);
    }

    /// Proposes what the turn wrote, and lets its answers go when that is on disk.
    fn end(&mut self, turn: Turn) {
        self.size.set(self.shard.state_bytes());
        if !leads_in(&self.actor.partition, self.epoch) {
            // Others may have written what the shard does not know: it neither writes nor answers any more.
            self.waiting.clear();
            return;
        }
        let Turn { batches, mut answers, mut refusals } = turn;
        let mut proposals = batches.finish().peekable();
        if proposals.peek().is_some() {
            // That what was written after they were decided on is committed says that there was no successor.
            answers.append(&mut refusals);
        }
        // What is written outlives who asked for it, and this task: the batches hold the memory themselves.
        let hold: Option<Hold> = match proposals.peek().is_none() || answers.shares.is_empty() {
            true => None,
            false => Some(Arc::new(std::mem::take(&mut answers.shares))),
        };
        for proposal in proposals {
            let receipt = self.actor.partition.propose(proposal, Acks::All, hold.clone());
            self.flights.push_back(Flight { receipt, answers: Answers::default(), refusals: Answers::default() });
        }
        match self.flights.back_mut() {
            Some(last) => {
                last.answers.append(&mut answers);
                last.refusals.append(&mut refusals);
            }
            None => {
                self.release(answers);
                self.doubt(refusals);
            }
        }
    }

    /// The front batch is on disk.
    fn land(&mut self) {
        if let Some(flight) = self.flights.pop_front() {
            self.release(flight.answers);
            self.doubt(flight.refusals);
        }
    }

    /// Finds out whether refusals may be told. A majority is asked about all that came while it was asked before.
    fn doubt(&mut self, mut refusals: Answers) {
        self.doubted_next.append(&mut refusals);
        if self.doubted.is_some() || self.doubted_next.replies.is_empty() {
            return;
        }
        let refusals = std::mem::take(&mut self.doubted_next);
        let (runtime, partition) = (self.actor.context.runtime.clone(), self.actor.partition.clone());
        self.doubted = Some(Box::pin(async move {
            let leads = Doubt::default().surely_leads(&runtime, &partition).await;
            (leads, refusals)
        }));
    }

    /// Tells refusals; those who asked look for the coordinator again where this broker may not be it.
    fn tell(&mut self, leads: bool, refusals: Answers) {
        self.doubted = None;
        if leads && leads_in(&self.actor.partition, self.epoch) {
            self.release(refusals);
        } else {
            for (ticket, _) in refusals.replies {
                self.waiting.remove(&ticket);
            }
        }
        self.doubt(Answers::default());
    }

    fn release(&mut self, answers: Answers) {
        for (ticket, reply) in answers.replies {
            if let Some(waiting) = self.waiting.remove(&ticket) {
                // Gone if the client left just now.
                let _ = waiting.send(Ok(reply));
            }
        }
        answers.told.into_iter().for_each(|tell| tell());
    }

    /// Sets the timer to the shard's next deadline. One that is set earlier stays: heartbeats put deadlines off all the
    /// time.
    fn arm(&mut self) {
        let Some(next) = self.shard.next_deadline() else { return };
        if self.armed_ms.is_none_or(|armed| next < armed) {
            self.armed_ms = Some(next);
            self.timer.as_mut().reset(self.actor.context.instant(next));
        }
    }

    /// A batch was not written, or it is unknown whether it was: what the shard knows is no longer what the log holds.
    async fn fail(mut self, error: &ProposeError) -> Ended {
        if matches!(error, ProposeError::NotLeader) {
            return Ended::Lost;
        }
        warn!(partition = self.actor.index.0, "a coordinator's batch cannot be written, it begins anew: {error}");
        self.waiting.clear();
        self.flights.pop_front();
        // The next load must see what becomes of them.
        while !self.flights.is_empty() {
            let _ = front(&mut self.flights).await;
            self.flights.pop_front();
        }
        Ended::Failed
    }

    /// What is being written is answered, all else is refused.
    async fn stop(mut self) -> Ended {
        self.actor.mailbox.close();
        let answered: BTreeSet<Ticket> =
            self.flights.iter().flat_map(|f| &f.answers.replies).map(|(ticket, _)| *ticket).collect();
        self.waiting.retain(|ticket, _| answered.contains(ticket));
        while !self.flights.is_empty() {
            if front(&mut self.flights).await.is_err() {
                break;
            }
            self.land();
        }
        Ended::Stopping
    }
}

/// Waits for a future, if there is one.
async fn if_any<T>(future: &mut Option<BoxFuture<'static, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

/// Waits for the first batch on its way.
async fn front(flights: &mut VecDeque<Flight>) -> Result<(), ProposeError> {
    poll_fn(|context| match flights.front_mut() {
        Some(flight) => Pin::new(&mut flight.receipt).poll(context).map_ok(drop),
        None => std::task::Poll::Ready(Ok(())),
    })
    .await
}
