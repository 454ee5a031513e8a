//! What this broker serves: the cluster's metadata image together with the partitions that take requests here.
//!
//! A [`Snapshot`] never changes; a new one replaces it whenever a batch of metadata records has been applied *and* the
//! replicas that it places on this broker are made. Who leads a partition is not in it: that changes without the
//! metadata ([`crate::leadership`]). Each connection keeps a [`View`]: as long as nothing changed, looking at it costs
//! one atomic load.

use std::collections::BTreeSet;
use std::sync::Arc;

use millpond_cluster::{Image, Topic, TopicSettings};
use millpond_raft::Partition;
use millpond_record::{PartitionIndex, RaftIndex, TopicId};
use millpond_runtime::Runtime;
use millpond_wire::ErrorCode;
use rpds::RedBlackTreeMapSync;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::dispatch::by;

/// A topic whose replicas on this broker, if it has any, are ready.
pub(crate) struct ServedTopic {
    pub(crate) topic: Arc<Topic>,
    /// The topic's settings in force.
    pub(crate) settings: TopicSettings,
    /// By partition index: the replica on this broker, if it has one.
    pub(crate) replicas: Vec<Option<Partition>>,
}

impl ServedTopic {
    /// How many partitions the topic has, here or elsewhere.
    pub(crate) fn partition_count(&self) -> usize {
        self.replicas.len()
    }

    /// What the metadata says of a partition.
    pub(crate) fn described(&self, index: PartitionIndex) -> Option<&millpond_cluster::Partition> {
        self.topic.partition(index)
    }

    /// This broker's replica of a partition.
    pub(crate) fn replica(&self, index: PartitionIndex) -> Option<&Partition> {
        self.replicas.get(usize::try_from(index.0).ok()?)?.as_ref()
    }

    /// A partition that this broker leads. One that has stopped here is given, too: it says itself why it does nothing.
    ///
    /// # Errors
    /// UNKNOWN_TOPIC_OR_PARTITION, or NOT_LEADER_OR_FOLLOWER where it is led elsewhere or by nobody.
    pub(crate) fn led(&self, index: PartitionIndex) -> Result<&Partition, ErrorCode> {
        let at = usize::try_from(index.0).map_err(|_| ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
        match self.replicas.get(at).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)? {
            Some(replica) if replica.leads() || replica.has_failed() => Ok(replica),
            _ => Err(ErrorCode::NOT_LEADER_OR_FOLLOWER),
        }
    }
}

/// The metadata at one moment.
#[derive(Clone)]
pub(crate) struct Snapshot {
    /// What group 0 says; topics in it that are not served are about to be.
    pub(crate) image: Image,
    /// Every batch of group 0 up to this index is applied, and what it asks for is done here.
    pub(crate) settled: Option<RaftIndex>,
    /// Topics that are deleted, and whose data could not be deleted yet.
    pub(crate) undeleted: Arc<BTreeSet<TopicId>>,
    by_name: RedBlackTreeMapSync<Arc<str>, Arc<ServedTopic>>,
    by_id: RedBlackTreeMapSync<TopicId, Arc<ServedTopic>>,
}

impl Snapshot {
    pub(crate) fn empty() -> Snapshot {
        Snapshot {
            image: Image::default(),
            settled: None,
            undeleted: Arc::default(),
            by_name: RedBlackTreeMapSync::new_sync(),
            by_id: RedBlackTreeMapSync::new_sync(),
        }
    }

    pub(crate) fn topic(&self, name: &str) -> Option<&Arc<ServedTopic>> {
        self.by_name.get(name)
    }

    pub(crate) fn topic_by_id(&self, id: TopicId) -> Option<&Arc<ServedTopic>> {
        self.by_id.get(&id)
    }

    /// All served topics in order of their names.
    pub(crate) fn topics(&self) -> impl Iterator<Item = &Arc<ServedTopic>> {
        self.by_name.values()
    }

    pub(crate) fn serve(&mut self, topic: ServedTopic) {
        let topic = Arc::new(topic);
        self.by_name.insert_mut(Arc::clone(&topic.topic.name), Arc::clone(&topic));
        self.by_id.insert_mut(topic.topic.id, topic);
    }

    pub(crate) fn withdraw(&mut self, id: TopicId) {
        if let Some(topic) = self.by_id.get(&id).cloned() {
            self.by_id.remove_mut(&id);
            // The name may already belong to a topic that was created again.
            if self.by_name.get(&topic.topic.name).is_some_and(|named| named.topic.id == id) {
                self.by_name.remove_mut(&topic.topic.name);
            }
        }
    }
}

/// Publishes snapshots.
pub(crate) struct Metadata {
    sender: watch::Sender<Arc<Snapshot>>,
}

impl Metadata {
    pub(crate) fn new() -> Metadata {
        Metadata { sender: watch::Sender::new(Arc::new(Snapshot::empty())) }
    }

    pub(crate) fn publish(&self, snapshot: Snapshot) {
        self.sender.send_replace(Arc::new(snapshot));
    }

    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.sender.borrow())
    }

    pub(crate) fn view(&self) -> View {
        let mut receiver = self.sender.subscribe();
        let snapshot = Arc::clone(&receiver.borrow_and_update());
        View { receiver, snapshot }
    }

    /// The first snapshot that serves a topic.
    pub(crate) async fn serving(&self, topic: &str) -> Arc<Snapshot> {
        let mut receiver = self.sender.subscribe();
        let found = receiver.wait_for(|snapshot| snapshot.topic(topic).is_some()).await;
        Arc::clone(&found.expect("the sender is in self"))
    }

    /// The first snapshot in which everything up to `index` is done.
    pub(crate) async fn settled(&self, index: RaftIndex) -> Arc<Snapshot> {
        let mut receiver = self.sender.subscribe();
        let found = receiver.wait_for(|snapshot| snapshot.settled.is_some_and(|settled| settled >= index)).await;
        Arc::clone(&found.expect("the sender is in self"))
    }

    /// The snapshot that is settled at `index`, if it is by `deadline`. What is not settled by then goes on.
    pub(crate) async fn settled_by(
        &self,
        runtime: &Runtime,
        deadline: Instant,
        index: RaftIndex,
    ) -> Option<Arc<Snapshot>> {
        by(runtime, deadline, self.settled(index)).await
    }
}

/// How far a change of the metadata is on this broker.
#[derive(Clone, Copy)]
pub(crate) enum Progress<'a> {
    /// Nothing is written: nothing was to be, or it is only asked what would be.
    NotWritten,
    /// It is not done in time, written or not.
    Late,
    /// It is done, as far as this snapshot says.
    Done(&'a Snapshot),
}

/// One connection's view of the metadata.
pub(crate) struct View {
    receiver: watch::Receiver<Arc<Snapshot>>,
    snapshot: Arc<Snapshot>,
}

impl View {
    /// Takes up the newest snapshot.
    pub(crate) fn refresh(&mut self) {
        if self.receiver.has_changed().unwrap_or(false) {
            self.snapshot = Arc::clone(&self.receiver.borrow_and_update());
        }
    }

    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot)
    }
}
