//! The controller: decides on changes of the cluster's metadata, one after the other, and writes them to group 0.
//!
//! A decision is a pure function of `millpond-cluster` on the image that holds everything written so far. That is why
//! one task makes them all: it owns the order, and the next decision sees the last one applied.
//!
//! Every broker has the task; only on the broker that leads group 0 it decides, the others say that they are not it.
//! What a broker needs for itself ([`Controller::create_topics`], producer ids) is asked of the controller wherever
//! that is; what clients ask for goes there as it came ([`crate::cluster::forward`]).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use millpond_cluster::{
    AlterClientQuotas, AlterConfigs, ConfigAlteration, ConfigResource, CreatePartitions, CreateTopics, CreatedTopic,
    DeletedTopic, Image, MetadataRecord, MorePartitions, NewTopic, QuotaAlteration, Topic, TopicDefaults, TopicError,
    TopicLimits, TopicReference, alter_client_quotas, alter_configs, create_partitions, create_topics, delete_topics,
    encode_batch,
};
use millpond_raft::{CallError, MetadataGroup, MetadataLeadership, Peers};
use millpond_record::{BrokerId, RaftIndex, Term, Timestamp};
use millpond_runtime::Runtime;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::cluster::messages::{self, Answered, Confirmed, Topics, WantedTopic};
use crate::disk_space::DiskWatch;
use crate::dispatch::by;
use crate::errors::{self, ControllerError, Fault};
use crate::leadership::TOLD_OF;
use crate::memory::AnswerShare;
use crate::reconcile::Applied;

/// What a new partition takes on disk: its folder, its first files and its rows in the table.
const PARTITION_BYTES: usize = 16 << 10;

/// Commands that wait in the controller's mailbox. All others wait as requests of their connections: the memory that
/// they take is counted there, and they go with a client that leaves.
const MAILBOX: usize = 1;

/// Commands that wait for their place in the mailbox although nobody may wait for their answer any more.
const HANDED_IN: usize = 64;

/// The topics that were deleted, or why not.
pub(crate) struct TopicsDeleted {
    pub(crate) results: Vec<Result<DeletedTopic, TopicError>>,
    /// `None` when nothing was written.
    pub(crate) index: Option<RaftIndex>,
}

/// What was decided, and the index of group 0 at which it holds.
pub(crate) struct Decided<D> {
    pub(crate) decision: D,
    /// `None` when nothing was written.
    pub(crate) index: Option<RaftIndex>,
}

/// How the settings of some resources are to change.
pub(crate) type ConfigChanges = Vec<(ConfigResource, ConfigAlteration)>;

/// Records by the image that holds everything written so far.
type Decide = Box<dyn FnOnce(&Image) -> Vec<MetadataRecord> + Send>;

type ReplyTo<D> = oneshot::Sender<Result<Decided<D>, ControllerError>>;

enum Command {
    CreatePartitions { topics: Vec<MorePartitions>, reply: ReplyTo<CreatePartitions> },
    AlterConfigs { changes: ConfigChanges, reply: ReplyTo<AlterConfigs> },
    AlterClientQuotas { changes: Vec<QuotaAlteration>, reply: ReplyTo<AlterClientQuotas> },
    CreateTopics { topics: Vec<NewTopic>, reply: oneshot::Sender<Result<Decided<CreateTopics>, ControllerError>> },
    DeleteTopics { topics: Vec<TopicReference>, reply: oneshot::Sender<Result<TopicsDeleted, ControllerError>> },
    Change { decide: Decide, reply: oneshot::Sender<Result<Option<RaftIndex>, ControllerError>> },
}

impl Command {
    /// This broker is not the controller.
    fn refuse(self) {
        match self {
            Command::CreatePartitions { reply, .. } => drop(reply.send(Err(ControllerError::Elsewhere))),
            Command::AlterConfigs { reply, .. } => drop(reply.send(Err(ControllerError::Elsewhere))),
            Command::AlterClientQuotas { reply, .. } => drop(reply.send(Err(ControllerError::Elsewhere))),
            Command::CreateTopics { reply, .. } => drop(reply.send(Err(ControllerError::Elsewhere))),
            Command::DeleteTopics { reply, .. } => drop(reply.send(Err(ControllerError::Elsewhere))),
            Command::Change { reply, .. } => drop(reply.send(Err(ControllerError::Elsewhere))),
        }
    }
}

/// Until when an answer is waited for.
pub(crate) struct Patience {
    pub(crate) deadline: Instant,
    /// What the command takes while it waits, also when its request has been answered.
    pub(crate) memory: AnswerShare,
}

/// A handle to the controller's task.
#[derive(Clone)]
pub(crate) struct Controller {
    runtime: Runtime,
    commands: mpsc::Sender<Command>,
    handed_in: Arc<Semaphore>,
    rules: Arc<TopicRules>,
    group: MetadataGroup,
    leadership: watch::Receiver<MetadataLeadership>,
    applied: Arc<Applied>,
    /// See [`Controller::without_answer`].
    gave_no_answer: bool,
    /// See [`Controller::noting`].
    was_elsewhere: Option<Arc<AtomicBool>>,
}

/// How long the controller is looked for before a request is answered that there is none.
const LOOK_FOR_CONTROLLER: Duration = Duration::from_secs(5);
/// How long the controller may work on what it is asked; clients give such requests up to a minute.
const CONTROLLER_TIME: Duration = Duration::from_secs(90);
/// What a controller may take to find out whether it still is the controller, when it has nothing to write. A heartbeat
/// takes no longer.
const SURE_WITHIN: Duration = Duration::from_secs(1);
/// Between two looks for the controller, when nothing is heard of another.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// What the broker's configuration says about new topics.
pub(crate) struct TopicRules {
    pub(crate) limits: TopicLimits,
    /// By the configuration alone.
    pub(crate) defaults: TopicDefaults,
    /// Whose settings, set at run time, topics inherit.
    pub(crate) broker: BrokerId,
    /// Who is alive, and may get replicas.
    pub(crate) peers: Peers,
}

impl Controller {
    pub(crate) fn start(
        runtime: &Runtime,
        rules: TopicRules,
        group: MetadataGroup,
        applied: Arc<Applied>,
        disk: Arc<DiskWatch>,
    ) -> Controller {
        let (commands, mailbox) = mpsc::channel(MAILBOX);
        let (rules, leadership) = (Arc::new(rules), group.leadership());
        let task = Task {
            runtime: runtime.clone(),
            rules: Arc::clone(&rules),
            leadership: leadership.clone(),
            group: group.clone(),
            applied: Arc::clone(&applied),
            disk,
        };
        runtime.spawn(task.run(mailbox));
        let handed_in = Arc::new(Semaphore::new(HANDED_IN));
        let runtime = runtime.clone();
        Controller {
            runtime,
            commands,
            handed_in,
            rules,
            group,
            leadership,
            applied,
            gave_no_answer: false,
            was_elsewhere: None,
        }
    }

    /// One that refuses everything, for a request that the controller on another broker was given and may have carried
    /// out: this broker must not do it once more, even if it has become the controller since.
    pub(crate) fn without_answer(&self) -> Controller {
        Controller { gave_no_answer: true, ..self.clone() }
    }

    /// One that notes in `was_elsewhere` when it did nothing because this broker is not the controller.
    pub(crate) fn noting(&self, was_elsewhere: Arc<AtomicBool>) -> Controller {
        Controller { was_elsewhere: Some(was_elsewhere), ..self.clone() }
    }

    /// Whether this broker is the controller.
    pub(crate) fn is_here(&self) -> bool {
        self.leadership.borrow().here
    }

    /// The broker that is the controller, as far as this one knows.
    pub(crate) fn broker(&self) -> Option<BrokerId> {
        self.leadership.borrow().leader
    }

    /// Follows who the controller is.
    pub(crate) fn leadership(&self) -> watch::Receiver<MetadataLeadership> {
        self.leadership.clone()
    }

    /// The metadata as this broker has applied it.
    pub(crate) fn image(&self) -> Image {
        self.applied.image()
    }

    /// How far it has.
    pub(crate) fn applied_index(&self) -> Option<RaftIndex> {
        self.applied.index()
    }

    /// Follows how far it has.
    pub(crate) fn follow(&self) -> watch::Receiver<Option<RaftIndex>> {
        self.applied.follow()
    }

    /// The brokers that are alive.
    pub(crate) fn alive(&self) -> Arc<BTreeSet<BrokerId>> {
        self.rules.alive()
    }

    /// Has the controller do something, wherever it is; this broker knows of the change when this returns.
    ///
    /// # Errors
    /// [`ControllerError::Elsewhere`] when none was found in time, [`ControllerError::NoAnswer`] when one was asked and
    /// may have done it, and what the controller says.
    pub(crate) async fn ask_controller(&self, service: u16, body: Bytes) -> Result<Bytes, ControllerError> {
        let (runtime, peers) = (&self.runtime, &self.rules.peers);
        let deadline = runtime.now() + LOOK_FOR_CONTROLLER;
        let mut leadership = self.leadership.clone();
        loop {
            let leader = leadership.borrow_and_update().leader;
            if let Some(leader) = leader {
                match peers.call(leader, service, body.clone(), CONTROLLER_TIME).await {
                    Ok(answer) => {
                        let answer: Answered = messages::read(answer).map_err(ControllerError::Said)?;
                        if answer.unknown {
                            return Err(ControllerError::NoAnswer);
                        }
                        if !answer.not_here {
                            let index = answer.index.map(RaftIndex);
                            // What is not known here by then is learnt later.
                            let _ = runtime.timeout(LOOK_FOR_CONTROLLER, self.applied.reached(index)).await;
                            return Ok(answer.body);
                        }
                    }
                    Err(CallError::Refused(why)) => return Err(ControllerError::Said(why)),
                    // Asked again it might do it twice.
                    Err(CallError::NoAnswer(_)) => return Err(ControllerError::NoAnswer),
                    Err(CallError::NoLink(_) | CallError::NoPeer { .. }) => {}
                }
            }
            if runtime.now() >= deadline {
                return Err(ControllerError::Elsewhere);
            }
            tokio::select! {
                biased;
                changed = leadership.changed() => if changed.is_err() { return Err(ControllerError::Stopped) },
                () = runtime.sleep(LOOK_AGAIN) => {}
            }
        }
    }

    /// The metadata as of a moment after this was called, however far behind this broker was: the controller writes
    /// something that changes nothing, and this broker has applied it.
    ///
    /// # Errors
    /// As of [`Controller::ask_controller`].
    pub(crate) async fn latest_image(&self) -> Result<Image, ControllerError> {
        let index = if self.is_here() {
            self.confirm().await?
        } else {
            let body = self.ask_controller(messages::CONFIRM, Bytes::new()).await?;
            let Confirmed { index } = messages::read(body).map_err(ControllerError::Said)?;
            Some(RaftIndex(index))
        };
        if index.is_none() || self.applied.index() < index {
            return Err(ControllerError::NoAnswer);
        }
        Ok(self.applied.image())
    }

    /// Writes something that changes nothing, on the controller: no other broker is the controller until then. Gives
    /// the index of it.
    pub(crate) async fn confirm(&self) -> Result<Option<RaftIndex>, ControllerError> {
        let same = |image: &Image| image.feature_level().map(MetadataRecord::FeatureLevel).into_iter().collect();
        Ok(self.change(move |image| ((), same(image))).await?.index)
    }

    /// Writes what `decide` says; it is applied when this returns.
    pub(crate) async fn change<T: Send + 'static>(
        &self,
        decide: impl FnOnce(&Image) -> (T, Vec<MetadataRecord>) + Send + 'static,
    ) -> Result<Decided<T>, ControllerError> {
        let (decided, decision) = oneshot::channel();
        let decide: Decide = Box::new(move |image| {
            let (decision, records) = decide(image);
            drop(decided.send(decision));
            records
        });
        let index = self.ask(|reply| Command::Change { decide, reply }).await?;
        Ok(Decided { decision: decision.await.map_err(|_| ControllerError::Stopped)?, index })
    }

    /// Creates topics that a broker needs, without assignments, wherever the controller is; they exist when this
    /// returns, and are served once the metadata is settled at the index.
    pub(crate) async fn create_topics(&self, topics: Vec<NewTopic>) -> Result<Decided<CreateTopics>, ControllerError> {
        if self.is_here() {
            return self.create_topics_here(topics).await;
        }
        let wanted = topics.iter().map(WantedTopic::new).collect();
        self.ask_controller(messages::TOPICS, messages::write(&Topics { topics: wanted })).await?;
        let image = self.applied.image();
        // What is not there was refused, for a reason that is found here, too.
        let refused = self.validate_topics(&image, &topics).results;
        let results = topics.iter().zip(refused).map(|(topic, refused)| match (image.topic(&topic.name), refused) {
            (Some(topic), _) => Ok(Ok(made(topic))),
            (None, Err(error)) => Ok(Err(error)),
            (None, Ok(_)) => {
                Err(ControllerError::Said(format!("the controller did not create topic {:?}", topic.name)))
            }
        });
        let results = results.collect::<Result<Vec<_>, _>>()?;
        Ok(Decided { decision: CreateTopics { results, records: Vec::new() }, index: self.applied.index() })
    }

    /// Creates topics; only on the controller.
    pub(crate) async fn create_topics_here(
        &self,
        topics: Vec<NewTopic>,
    ) -> Result<Decided<CreateTopics>, ControllerError> {
        self.ask(|reply| Command::CreateTopics { topics, reply }).await
    }

    /// As [`Controller::create_topics`]; `None` when the answer comes too late. Then they are created all the same.
    pub(crate) async fn create_topics_by(
        &self,
        patience: Patience,
        topics: Vec<NewTopic>,
    ) -> Option<Result<Decided<CreateTopics>, ControllerError>> {
        self.ask_by(patience, |reply| Command::CreateTopics { topics, reply }).await
    }

    /// What the metadata says, where it is certain that nobody else is the controller. Unlike [`Controller::change`]
    /// it does not wait for what is being written.
    ///
    /// # Errors
    /// [`ControllerError::Elsewhere`] where this broker is not the controller, or no majority says so in time.
    pub(crate) async fn surely<T>(&self, look: impl FnOnce(&Image) -> T) -> Result<T, ControllerError> {
        if self.gave_no_answer {
            return Err(ControllerError::NoAnswer);
        }
        self.noted(self.look_surely(look).await)
    }

    async fn look_surely<T>(&self, look: impl FnOnce(&Image) -> T) -> Result<T, ControllerError> {
        let MetadataLeadership { term, here, .. } = *self.leadership.borrow();
        let seen = look(&self.applied.image());
        let is_sure = here && self.group.surely_led(term, SURE_WITHIN).await;
        if is_sure { Ok(seen) } else { Err(ControllerError::Elsewhere) }
    }

    /// What is told of a decision that does not come in time: refusals, where they are certain. What is not refused is
    /// handed in, and is done unless what was asked for earlier stands against it. `before`: the metadata as it was
    /// ([`Controller::image`]) when the decision was asked for; it may have been made since, and would be refused a
    /// second time.
    pub(crate) async fn known<T>(
        &self,
        before: &Image,
        decide: impl Fn(&Image) -> Vec<Result<T, TopicError>>,
    ) -> Vec<Result<T, Fault>> {
        let results = decide(before);
        if results.iter().all(Result::is_ok) {
            return errors::topics(results);
        }
        match self.look_surely(decide).await {
            Ok(now) => results.into_iter().zip(errors::topics(now)).map(|(result, now)| result.or(now)).collect(),
            Err(error) => {
                // Some clients send all of it again for one that is refused because of the controller, and would be
                // told of what is done meanwhile that it cannot be done.
                let all_refused = results.iter().all(Result::is_err);
                let fault = if all_refused { errors::controller(&error) } else { errors::not_in_time() };
                results.into_iter().map(|result| result.map_err(|_| fault.clone())).collect()
            }
        }
    }

    /// Keeps in mind that nothing was done because this broker is not the controller.
    fn noted<T>(&self, result: Result<T, ControllerError>) -> Result<T, ControllerError> {
        if let (Err(ControllerError::Elsewhere), Some(was_elsewhere)) = (&result, &self.was_elsewhere) {
            was_elsewhere.store(true, Ordering::Relaxed);
        }
        result
    }

    /// What [`Controller::create_topics`] would answer now.
    pub(crate) fn validate_topics(&self, image: &Image, topics: &[NewTopic]) -> CreateTopics {
        self.rules.decide(&self.runtime, image, topics)
    }

    /// Deletes topics; `None` when the answer comes too late. Then they are deleted all the same.
    pub(crate) async fn delete_topics_by(
        &self,
        patience: Patience,
        topics: Vec<TopicReference>,
    ) -> Option<Result<TopicsDeleted, ControllerError>> {
        self.ask_by(patience, |reply| Command::DeleteTopics { topics, reply }).await
    }

    /// Adds partitions; they exist when this returns, and are served once the metadata is settled at the index. `None`
    /// when the answer comes too late. Then they are added all the same.
    pub(crate) async fn create_partitions_by(
        &self,
        patience: Patience,
        topics: Vec<MorePartitions>,
    ) -> Option<Result<Decided<CreatePartitions>, ControllerError>> {
        self.ask_by(patience, |reply| Command::CreatePartitions { topics, reply }).await
    }

    /// What [`Controller::create_partitions_by`] would answer now.
    pub(crate) fn validate_partitions(&self, image: &Image, topics: &[MorePartitions]) -> CreatePartitions {
        self.rules.decide_partitions(image, topics)
    }

    /// Changes settings; they are in force once the metadata is settled at the index.
    pub(crate) async fn alter_configs(&self, changes: ConfigChanges) -> Result<Decided<AlterConfigs>, ControllerError> {
        self.ask(|reply| Command::AlterConfigs { changes, reply }).await
    }

    /// What [`Controller::alter_configs`] would answer now.
    pub(crate) fn validate_configs(&self, image: &Image, changes: &ConfigChanges) -> AlterConfigs {
        alter_configs(image, &self.rules.defaults(image), changes)
    }

    pub(crate) async fn alter_client_quotas(
        &self,
        changes: Vec<QuotaAlteration>,
    ) -> Result<Decided<AlterClientQuotas>, ControllerError> {
        self.ask(|reply| Command::AlterClientQuotas { changes, reply }).await
    }

    /// What topics inherit on this broker.
    pub(crate) fn topic_defaults(&self, image: &Image) -> TopicDefaults {
        self.rules.defaults(image)
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, ControllerError>>) -> Command,
    ) -> Result<T, ControllerError> {
        if self.gave_no_answer {
            return Err(ControllerError::NoAnswer);
        }
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| ControllerError::Stopped)?;
        self.noted(answer.await.map_err(|_| ControllerError::Stopped)?)
    }

    /// As [`Controller::ask`], but the answer is waited for only so long; what was asked for is done in any case. While
    /// [`HANDED_IN`] commands wait already it takes longer than it should, because `None` is a promise.
    async fn ask_by<T>(
        &self,
        patience: Patience,
        command: impl FnOnce(oneshot::Sender<Result<T, ControllerError>>) -> Command,
    ) -> Option<Result<T, ControllerError>> {
        if self.gave_no_answer {
            return Some(Err(ControllerError::NoAnswer));
        }
        if !self.is_here() {
            return Some(self.noted(Err(ControllerError::Elsewhere)));
        }
        let (reply, answer) = oneshot::channel();
        let (command, commands) = (command(reply), self.commands.clone());
        let place = Arc::clone(&self.handed_in).acquire_owned().await.expect("nobody closes it");
        let memory = patience.memory;
        let mut handing_in = Box::pin(async move {
            // Who waits hears that the controller has stopped, because the command is dropped.
            drop(commands.send(command).await);
            drop((place, memory));
        });
        // The first look takes its place in the queue, so that nothing that is asked for later comes first.
        if handing_in.as_mut().now_or_never().is_none() {
            self.runtime.spawn(handing_in);
        }
        let answer = by(&self.runtime, patience.deadline, answer).await?;
        Some(self.noted(answer.unwrap_or(Err(ControllerError::Stopped))))
    }
}

impl TopicRules {
    fn decide(&self, runtime: &Runtime, image: &Image, topics: &[NewTopic]) -> CreateTopics {
        let mut random = || {
            let mut bytes = [0; 16];
            runtime.fill_random(&mut bytes);
            bytes
        };
        let defaults = self.defaults(image);
        let mut decide = |usable: &_| create_topics(image, topics, usable, &self.limits, &defaults, &mut random);
        let decision = decide(&self.alive());
        if decision.results.iter().any(is_factor_refused) { decide(&self.lately_alive()) } else { decision }
    }

    fn decide_partitions(&self, image: &Image, topics: &[MorePartitions]) -> CreatePartitions {
        let decide = |usable: &_| create_partitions(image, topics, usable, &self.limits);
        let decision = decide(&self.alive());
        if decision.results.iter().any(is_factor_refused) { decide(&self.lately_alive()) } else { decision }
    }

    /// The brokers that are alive, and those that are just starting again, perhaps.
    fn lately_alive(&self) -> BTreeSet<BrokerId> {
        self.peers.alive_within(TOLD_OF)
    }

    fn alive(&self) -> Arc<BTreeSet<BrokerId>> {
        Arc::clone(&self.peers.alive().borrow())
    }

    fn defaults(&self, image: &Image) -> TopicDefaults {
        self.defaults.with_runtime(image, self.broker)
    }
}

/// A topic that the controller has created for this broker.
fn made(topic: &Topic) -> CreatedTopic {
    let replicas = topic.partitions.first().map_or(0, |partition| partition.replicas.len());
    CreatedTopic {
        name: topic.name.to_string(),
        id: topic.id,
        partitions: topic.partitions.clone(),
        replication_factor: u16::try_from(replicas).unwrap_or(u16::MAX),
        configs: Vec::new(),
        notices: Vec::new(),
    }
}

struct Task {
    runtime: Runtime,
    rules: Arc<TopicRules>,
    group: MetadataGroup,
    applied: Arc<Applied>,
    disk: Arc<DiskWatch>,
    leadership: watch::Receiver<MetadataLeadership>,
}

impl Task {
    async fn run(self, mut mailbox: mpsc::Receiver<Command>) {
        // A reply that nobody waits for any more (the client left) is dropped.
        while let Some(command) = mailbox.recv().await {
            // What is decided on the image of one term is not written in another.
            let MetadataLeadership { term, here, .. } = *self.leadership.borrow();
            if !here {
                command.refuse();
                continue;
            }
            let image = self.applied.image();
            match command {
                Command::CreateTopics { topics, reply } => {
                    let mut decision = self.rules.decide(&self.runtime, &image, &topics);
                    let records = std::mem::take(&mut decision.records);
                    let answer = |index| Decided { decision, index };
                    match self.take_room(&records) {
                        Ok(()) => self.carry_out(term, records, reply, answer).await,
                        Err(error) => self.answer_surely(term, reply, Err(error)),
                    }
                }
                Command::DeleteTopics { topics, reply } => {
                    let decision = delete_topics(&image, &topics);
                    let answer = |index| TopicsDeleted { results: decision.results, index };
                    self.carry_out(term, decision.records, reply, answer).await;
                }
                Command::CreatePartitions { topics, reply } => {
                    let mut decision = self.rules.decide_partitions(&image, &topics);
                    let records = std::mem::take(&mut decision.records);
                    let answer = |index| Decided { decision, index };
                    match self.take_room(&records) {
                        Ok(()) => self.carry_out(term, records, reply, answer).await,
                        Err(error) => self.answer_surely(term, reply, Err(error)),
                    }
                }
                Command::AlterConfigs { changes, reply } => {
                    let mut decision = alter_configs(&image, &self.rules.defaults(&image), &changes);
                    let records = std::mem::take(&mut decision.records);
                    self.carry_out(term, records, reply, |index| Decided { decision, index }).await;
                }
                Command::AlterClientQuotas { changes, reply } => {
                    let mut decision = alter_client_quotas(&image, &changes);
                    let records = std::mem::take(&mut decision.records);
                    self.carry_out(term, records, reply, |index| Decided { decision, index }).await;
                }
                Command::Change { decide, reply } => {
                    self.carry_out(term, decide(&image), reply, |index| index).await;
                }
            }
        }
    }

    /// Writes records to group 0 as one batch, and answers when they are applied; the next command sees them.
    async fn carry_out<T: Send + 'static>(
        &self,
        term: Term,
        records: Vec<MetadataRecord>,
        reply: oneshot::Sender<Result<T, ControllerError>>,
        answer: impl FnOnce(Option<RaftIndex>) -> T,
    ) {
        match write(&self.runtime, &self.group, &records, term).await {
            Ok(None) => self.answer_surely(term, reply, Ok(answer(None))),
            Err(error) if error.is_of_the_metadata() => self.answer_surely(term, reply, Err(error)),
            written => drop(reply.send(written.map(answer))),
        }
    }

    /// Answers without having written anything, as soon as a majority says that nobody else has been the controller
    /// until now: a refusal, or that nothing is to be done, may be the opinion of one that was deposed while it was
    /// cut off or stood still. The next command does not wait for that.
    fn answer_surely<T: Send + 'static>(
        &self,
        term: Term,
        reply: oneshot::Sender<Result<T, ControllerError>>,
        answer: Result<T, ControllerError>,
    ) {
        // Nobody waits for it any more. Those that do are clients and brokers, each with a few requests at a time.
        if reply.is_closed() {
            return;
        }
        let group = self.group.clone();
        self.runtime.spawn(async move {
            let is_sure = group.surely_led(term, SURE_WITHIN).await;
            drop(reply.send(if is_sure { answer } else { Err(ControllerError::Elsewhere) }));
        });
    }

    /// Takes room on the disk for the partitions that these records make.
    fn take_room(&self, records: &[MetadataRecord]) -> Result<(), ControllerError> {
        let partitions = records.iter().filter(|record| matches!(record, MetadataRecord::Partition(_))).count();
        if partitions > 0 {
            self.disk.take(partitions * PARTITION_BYTES)?;
        }
        Ok(())
    }
}

/// Whether a majority of so many replicas would be on brokers that do not answer.
fn is_factor_refused<T>(result: &Result<T, TopicError>) -> bool {
    matches!(result, Err(TopicError::InvalidReplicationFactor { .. }))
}

/// Writes records to group 0 as one batch, if this broker still leads it in the term in which they were decided on;
/// they are applied when this returns. `None` when there are none.
pub(crate) async fn write(
    runtime: &Runtime,
    group: &MetadataGroup,
    records: &[MetadataRecord],
    decided_in: Term,
) -> Result<Option<RaftIndex>, ControllerError> {
    if records.is_empty() {
        return Ok(None);
    }
    let batch = encode_batch(records, Timestamp(runtime.wall_clock()))?;
    Ok(Some(group.propose(batch, decided_in).await?))
}
