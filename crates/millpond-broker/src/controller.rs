//! The controller: decides on changes of the cluster's metadata, one after the other, and writes them to group 0.
//!
//! A decision is a pure function of `millpond-cluster` on the image that holds everything written so far. That is why
//! one task makes them all: it owns the order, and the next decision sees the last one applied.

use std::sync::Arc;

use futures::FutureExt;
use millpond_cluster::{
    AlterClientQuotas, AlterConfigs, ConfigAlteration, ConfigResource, CreatePartitions, CreateTopics, DeletedTopic,
    Image, MetadataRecord, MorePartitions, NewTopic, ProducerIdBlock, QuotaAlteration, TopicDefaults, TopicError,
    TopicLimits, TopicReference, allocate_producer_ids, alter_client_quotas, alter_configs, create_partitions,
    create_topics, delete_topics, encode_batch,
};
use millpond_raft::MetadataGroup;
use millpond_record::{BrokerId, ProducerId, RaftIndex, Timestamp};
use millpond_runtime::Runtime;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use crate::disk_space::DiskWatch;
use crate::dispatch::by;
use crate::errors::ControllerError;
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

type ReplyTo<D> = oneshot::Sender<Result<Decided<D>, ControllerError>>;

enum Command {
    CreatePartitions { topics: Vec<MorePartitions>, reply: ReplyTo<CreatePartitions> },
    AlterConfigs { changes: ConfigChanges, reply: ReplyTo<AlterConfigs> },
    AlterClientQuotas { changes: Vec<QuotaAlteration>, reply: ReplyTo<AlterClientQuotas> },
    CreateTopics { topics: Vec<NewTopic>, reply: oneshot::Sender<Result<Decided<CreateTopics>, ControllerError>> },
    DeleteTopics { topics: Vec<TopicReference>, reply: oneshot::Sender<Result<TopicsDeleted, ControllerError>> },
    ProducerId { reply: oneshot::Sender<Result<ProducerId, ControllerError>> },
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
}

/// What the broker's configuration says about new topics.
pub(crate) struct TopicRules {
    pub(crate) limits: TopicLimits,
    /// By the configuration alone.
    pub(crate) defaults: TopicDefaults,
    /// Whose settings, set at run time, topics inherit.
    pub(crate) broker: BrokerId,
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
        let rules = Arc::new(rules);
        let task = Task {
            runtime: runtime.clone(),
            rules: Arc::clone(&rules),
            group,
            applied,
            disk,
            producer_ids: ProducerIdBlock { first: ProducerId(0), count: 0 },
        };
        runtime.spawn(task.run(mailbox));
        Controller { runtime: runtime.clone(), commands, handed_in: Arc::new(Semaphore::new(HANDED_IN)), rules }
    }

    /// Creates topics; they exist when this returns, and are served once the metadata is settled at the index.
    pub(crate) async fn create_topics(&self, topics: Vec<NewTopic>) -> Result<Decided<CreateTopics>, ControllerError> {
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

    /// What [`Controller::create_topics`] would answer now.
    pub(crate) fn validate_topics(&self, runtime: &Runtime, image: &Image, topics: &[NewTopic]) -> CreateTopics {
        self.rules.decide(runtime, image, topics)
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
        create_partitions(image, topics, &self.rules.limits)
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

    /// A producer id that nobody had before, on any broker, whatever crashed.
    pub(crate) async fn producer_id(&self) -> Result<ProducerId, ControllerError> {
        self.ask(|reply| Command::ProducerId { reply }).await
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, ControllerError>>) -> Command,
    ) -> Result<T, ControllerError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| ControllerError::Stopped)?;
        answer.await.map_err(|_| ControllerError::Stopped)?
    }

    /// As [`Controller::ask`], but the answer is waited for only so long; what was asked for is done in any case. While
    /// [`HANDED_IN`] commands wait already it takes longer than it should, because `None` is a promise.
    async fn ask_by<T>(
        &self,
        patience: Patience,
        command: impl FnOnce(oneshot::Sender<Result<T, ControllerError>>) -> Command,
    ) -> Option<Result<T, ControllerError>> {
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
        Some(answer.unwrap_or(Err(ControllerError::Stopped)))
    }
}

impl TopicRules {
    fn decide(&self, runtime: &Runtime, image: &Image, topics: &[NewTopic]) -> CreateTopics {
        let mut random = || {
            let mut bytes = [0; 16];
            runtime.fill_random(&mut bytes);
            bytes
        };
        create_topics(image, topics, &self.limits, &self.defaults(image), &mut random)
    }

    fn defaults(&self, image: &Image) -> TopicDefaults {
        self.defaults.with_runtime(image, self.broker)
    }
}

struct Task {
    runtime: Runtime,
    rules: Arc<TopicRules>,
    group: MetadataGroup,
    applied: Arc<Applied>,
    disk: Arc<DiskWatch>,
    /// What is left of the block that this broker took.
    producer_ids: ProducerIdBlock,
}

impl Task {
    async fn run(mut self, mut mailbox: mpsc::Receiver<Command>) {
        // A reply that nobody waits for any more (the client left) is dropped.
        while let Some(command) = mailbox.recv().await {
            match command {
                Command::CreateTopics { topics, reply } => drop(reply.send(self.create_topics(topics).await)),
                Command::DeleteTopics { topics, reply } => drop(reply.send(self.delete_topics(&topics).await)),
                Command::CreatePartitions { topics, reply } => {
                    let decision = create_partitions(&self.applied.image(), &topics, &self.rules.limits);
                    let written = match self.take_room(&decision.records) {
                        Ok(()) => self.write(&decision.records).await,
                        Err(error) => Err(error),
                    };
                    drop(reply.send(written.map(|index| Decided { decision, index })));
                }
                Command::AlterConfigs { changes, reply } => {
                    let image = self.applied.image();
                    let decision = alter_configs(&image, &self.rules.defaults(&image), &changes);
                    let written = self.write(&decision.records).await;
                    drop(reply.send(written.map(|index| Decided { decision, index })));
                }
                Command::AlterClientQuotas { changes, reply } => {
                    let decision = alter_client_quotas(&self.applied.image(), &changes);
                    let written = self.write(&decision.records).await;
                    drop(reply.send(written.map(|index| Decided { decision, index })));
                }
                Command::ProducerId { reply } => drop(reply.send(self.producer_id().await)),
            }
        }
    }

    async fn create_topics(&self, topics: Vec<NewTopic>) -> Result<Decided<CreateTopics>, ControllerError> {
        let decision = self.rules.decide(&self.runtime, &self.applied.image(), &topics);
        self.take_room(&decision.records)?;
        let index = self.write(&decision.records).await?;
        Ok(Decided { decision, index })
    }

    async fn delete_topics(&self, topics: &[TopicReference]) -> Result<TopicsDeleted, ControllerError> {
        let decision = delete_topics(&self.applied.image(), topics);
        let index = self.write(&decision.records).await?;
        Ok(TopicsDeleted { results: decision.results, index })
    }

    async fn producer_id(&mut self) -> Result<ProducerId, ControllerError> {
        if self.producer_ids.count == 0 {
            let (block, records) = allocate_producer_ids(&self.applied.image())?;
            self.write(&records).await?;
            self.producer_ids = block;
        }
        let id = self.producer_ids.first;
        self.producer_ids.first = ProducerId(id.0 + 1);
        self.producer_ids.count -= 1;
        Ok(id)
    }

    /// Takes room on the disk for the partitions that these records make.
    fn take_room(&self, records: &[MetadataRecord]) -> Result<(), ControllerError> {
        let partitions = records.iter().filter(|record| matches!(record, MetadataRecord::Partition(_))).count();
        if partitions > 0 {
            self.disk.take(partitions * PARTITION_BYTES)?;
        }
        Ok(())
    }

    /// Writes records to group 0 as one batch; they are applied when this returns.
    async fn write(&self, records: &[MetadataRecord]) -> Result<Option<RaftIndex>, ControllerError> {
        write(&self.runtime, &self.group, records).await
    }
}

/// Writes records to group 0 as one batch; they are applied when this returns. `None` when there are none.
pub(crate) async fn write(
    runtime: &Runtime,
    group: &MetadataGroup,
    records: &[MetadataRecord],
) -> Result<Option<RaftIndex>, ControllerError> {
    if records.is_empty() {
        return Ok(None);
    }
    let batch = encode_batch(records, Timestamp(runtime.wall_clock()))?;
    Ok(Some(group.propose(batch).await?))
}
