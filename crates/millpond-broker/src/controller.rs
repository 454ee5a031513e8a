//! The controller: decides on changes of the cluster's metadata, one after the other, and writes them to group 0.
//!
//! A decision is a pure function of `millpond-cluster` on the image that holds everything written so far. That is why
//! one task makes them all: it owns the order, and the next decision sees the last one applied.

use std::collections::BTreeMap;
use std::sync::Arc;

use millpond_cluster::{
    CreateTopics, DeletedTopic, Image, MetadataRecord, NewTopic, ProducerIdBlock, TopicDefaults, TopicError,
    TopicLimits, TopicReference, allocate_producer_ids, create_topics, delete_topics, encode_batch,
};
use millpond_raft::MetadataGroup;
use millpond_record::{ProducerId, RaftIndex, Timestamp};
use millpond_runtime::Runtime;
use tokio::sync::{mpsc, oneshot};

use crate::errors::ControllerError;
use crate::reconcile::Applied;

/// Commands that may wait for the controller; senders beyond it wait.
const MAILBOX: usize = 1024;

/// The topics that were created, or why not, and the index of group 0 at which they are.
pub(crate) struct TopicsCreated {
    pub(crate) decision: CreateTopics,
    /// `None` when nothing was written.
    pub(crate) index: Option<RaftIndex>,
}

/// The topics that were deleted, or why not.
pub(crate) struct TopicsDeleted {
    pub(crate) results: Vec<Result<DeletedTopic, TopicError>>,
    /// `None` when nothing was written.
    pub(crate) index: Option<RaftIndex>,
}

enum Command {
    CreateTopics { topics: Vec<NewTopic>, reply: oneshot::Sender<Result<TopicsCreated, ControllerError>> },
    DeleteTopics { topics: Vec<TopicReference>, reply: oneshot::Sender<Result<TopicsDeleted, ControllerError>> },
    ProducerId { reply: oneshot::Sender<Result<ProducerId, ControllerError>> },
}

/// A handle to the controller's task.
#[derive(Clone)]
pub(crate) struct Controller {
    commands: mpsc::Sender<Command>,
    rules: Arc<TopicRules>,
}

/// What the broker's configuration says about new topics.
pub(crate) struct TopicRules {
    pub(crate) limits: TopicLimits,
    pub(crate) defaults: TopicDefaults,
    /// Settings that are written into each new topic, so that a later change of the default leaves it alone.
    pub(crate) written: BTreeMap<&'static str, String>,
}

impl Controller {
    pub(crate) fn start(
        runtime: &Runtime,
        rules: TopicRules,
        group: MetadataGroup,
        applied: Arc<Applied>,
    ) -> Controller {
        let (commands, mailbox) = mpsc::channel(MAILBOX);
        let rules = Arc::new(rules);
        let task = Task {
            runtime: runtime.clone(),
            rules: Arc::clone(&rules),
            group,
            applied,
            producer_ids: ProducerIdBlock { first: ProducerId(0), count: 0 },
        };
        runtime.spawn(task.run(mailbox));
        Controller { commands, rules }
    }

    /// Creates topics; they exist when this returns, and are served once the metadata is settled at the index.
    pub(crate) async fn create_topics(&self, topics: Vec<NewTopic>) -> Result<TopicsCreated, ControllerError> {
        self.ask(|reply| Command::CreateTopics { topics, reply }).await
    }

    /// What [`Controller::create_topics`] would answer now.
    pub(crate) fn validate_topics(&self, runtime: &Runtime, image: &Image, topics: &[NewTopic]) -> CreateTopics {
        self.rules.decide(runtime, image, topics)
    }

    pub(crate) async fn delete_topics(&self, topics: Vec<TopicReference>) -> Result<TopicsDeleted, ControllerError> {
        self.ask(|reply| Command::DeleteTopics { topics, reply }).await
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
}

impl TopicRules {
    fn decide(&self, runtime: &Runtime, image: &Image, topics: &[NewTopic]) -> CreateTopics {
        let mut random = || {
            let mut bytes = [0; 16];
            runtime.fill_random(&mut bytes);
            bytes
        };
        create_topics(image, topics, &self.limits, &self.defaults, &mut random)
    }
}

struct Task {
    runtime: Runtime,
    rules: Arc<TopicRules>,
    group: MetadataGroup,
    applied: Arc<Applied>,
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
                Command::ProducerId { reply } => drop(reply.send(self.producer_id().await)),
            }
        }
    }

    async fn create_topics(&self, mut topics: Vec<NewTopic>) -> Result<TopicsCreated, ControllerError> {
        for topic in &mut topics {
            for (name, value) in &self.rules.written {
                if !topic.configs.iter().any(|(given, _)| given == name) {
                    topic.configs.push(((*name).to_owned(), Some(value.clone())));
                }
            }
        }
        let decision = self.rules.decide(&self.runtime, &self.applied.image(), &topics);
        let index = self.write(&decision.records).await?;
        Ok(TopicsCreated { decision, index })
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
