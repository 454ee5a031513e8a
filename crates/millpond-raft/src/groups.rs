//! All groups of one broker.

use crate::catch_up::Filling;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};

use bytes::Bytes;
use futures::future::BoxFuture;

use futures::StreamExt;
use millpond_record::{
    BrokerId, GroupId, LogId, PartitionIndex, RaftIndex, RaftOnlyKind, ReplicaId, Term, Timestamp, TopicId,
};
use millpond_runtime::Runtime;
use millpond_storage::{AppendEntry, Body, DataDir, GroupSpec, Log, LogOptions, StorageError};
use tokio::sync::oneshot;

use crate::error::RaftError;
use crate::failover;
use crate::leaders::Leaders;
use crate::metadata::{MetadataGroup, MetadataStart};
use crate::partition::{Partition, founding_membership};
use crate::peers::{Candidate, GroupRaft, Missing, Peers, RaftServices};
use crate::replica::Replica;
use crate::shared::Shared;
use crate::state_machine::Applier;

/// The group of the cluster's metadata.
pub(crate) const METADATA: GroupId = GroupId(0);

/// The replica of the metadata group that founds it.
const FOUNDER: ReplicaId = ReplicaId(1);

/// The folder of the metadata group's log is `__cluster_metadata-0`, and its topic id is the one that Kafka reserves.
const METADATA_TOPIC: &str = "__cluster_metadata";
const METADATA_TOPIC_ID: TopicId = TopicId([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);

/// Partitions that are opened at once at a start.
const OPENED_AT_ONCE: usize = 64;

/// Opens partitions that others may want to elect, or to send to.
async fn open_all(partitions: Vec<Partition>) {
    let opened = partitions.into_iter().map(|partition| async move {
        // One that cannot be opened says so, and tries again when it is asked for.
        drop(partition.replica().await);
    });
    futures::stream::iter(opened).buffer_unordered(OPENED_AT_ONCE).collect::<()>().await;
}

/// All groups of one broker. A clone is the same.
#[derive(Clone)]
pub struct Groups(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    partitions: RwLock<BTreeMap<GroupId, Partition>>,
    metadata: Mutex<Option<MetadataGroup>>,
}

impl std::fmt::Debug for Groups {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Groups({} partitions)", self.len())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Replicas refer to what they share, which lists them.
        drop(self.shared.remove_all());
    }
}

impl RaftServices for Inner {
    fn told(&self, from: BrokerId, message: Bytes) {
        self.shared.told(from, message);
    }

    fn replica(&self, group: GroupId, replica: ReplicaId) -> BoxFuture<'static, Result<GroupRaft, Missing>> {
        if let Some(running) = self.shared.replica(group) {
            let raft = if running.id() == replica { Ok(running.raft.clone()) } else { Err(Missing::Unknown) };
            return Box::pin(std::future::ready(raft));
        }
        if group == METADATA {
            // It is opened or joined first of all.
            return Box::pin(std::future::ready(Err(Missing::NotYet)));
        }
        let partition = self.partitions.read().unwrap_or_else(PoisonError::into_inner).get(&group).cloned();
        Box::pin(async move {
            let partition = partition.filter(|partition| partition.id() == replica).ok_or(Missing::Unknown)?;
            match partition.replica().await {
                Ok(Some(running)) => Ok(running.raft.clone()),
                Ok(None) => Err(Missing::Failed("it has no other replicas".to_owned())),
                Err(error) => Err(Missing::Failed(error.to_string())),
            }
        })
    }

    fn takes(&self, group: GroupId, bytes: u64) -> Result<(), String> {
        let Some(replica) = self.shared.replica(group) else { return Ok(()) };
        let limit = replica.state.log.max_batch_bytes();
        if bytes > limit {
            return Err(format!("a batch of {bytes} bytes fits into no journal file there, {limit} do"));
        }
        match replica.state.log.check_takes_batches() {
            Err(error @ StorageError::Stalled { .. }) => Err(error.to_string()),
            // What is final the engine finds out by itself.
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn metadata_version(&self) -> RaftIndex {
        self.shared.metadata_version()
    }

    fn metadata_known(&self) -> RaftIndex {
        self.shared.metadata_known()
    }

    fn may_vote(&self, candidate: &Candidate) -> bool {
        self.shared.may_vote(candidate)
    }

    fn stands_in(&self, group: GroupId, replica: ReplicaId, lost: ReplicaId) -> bool {
        let running = self.shared.replica(group).filter(|running| running.id() == replica);
        running.is_some_and(|running| running.stands_in_for(lost))
    }

    fn transferring(&self, group: GroupId, to: ReplicaId) {
        self.shared.expect_transfer(group, to);
    }

    fn gather(
        &self,
        group: GroupId,
        replica: ReplicaId,
        from: BrokerId,
        p: LogId,
    ) -> BoxFuture<'static, Result<Filling, String>> {
        let running = self.shared.replica(group).filter(|running| running.id() == replica);
        Box::pin(async move {
            let running = running.ok_or_else(|| format!("replica {replica} of group {group} is not running"))?;
            running.gather_snapshot(from, p).await.map_err(|error| {
                tracing::warn!(group = group.0, %p, %error, "the replica could not be filled; it is tried again");
                error.to_string()
            })
        })
    }

    fn piece(&self, from: BrokerId, body: Bytes) -> BoxFuture<'static, Result<Bytes, String>> {
        let shipments = self.shared.shipments.clone();
        Box::pin(async move { shipments.answer(from, body).await })
    }
}

impl Groups {
    /// Knows every partition of the data directory; opens none.
    pub fn start(runtime: Runtime, data_dir: DataDir, peers: Peers) -> Groups {
        let rows = data_dir.groups();
        let shared = Arc::new(Shared::new(runtime, data_dir, peers));
        let partitions: BTreeMap<GroupId, Partition> = rows
            .iter()
            // One without any entry is still to be created, unless it cannot be any more.
            .filter(|row| row.group != METADATA && (row.last.is_some() || row.purged.is_some() || row.set_aside))
            .map(|row| (row.group, Partition::asleep(Arc::clone(&shared), row)))
            .collect();
        let replicated: Vec<Partition> =
            partitions.values().filter(|partition| partition.is_replicated()).cloned().collect();
        shared.runtime.spawn(open_all(replicated));
        shared.runtime.spawn(failover::run(Arc::clone(&shared)));
        shared.runtime.spawn(Arc::clone(&shared).greet());
        let inner = Arc::new(Inner { shared, partitions: RwLock::new(partitions), metadata: Mutex::new(None) });
        let services: Weak<Inner> = Arc::downgrade(&inner);
        inner.shared.peers.serve_raft(services);
        Groups(inner)
    }

    /// How many bytes per second the replicas of this broker are filled with at most when they are far behind, all
    /// together; 0 is no limit.
    pub fn set_catch_up_limit(&self, bytes_per_second: u64) {
        self.0.shared.receiver.set_limit(bytes_per_second);
    }

    /// Who leads which group, here and elsewhere.
    pub fn leaders(&self) -> &Leaders {
        &self.0.shared.leaders
    }

    /// The metadata of the cluster is known up to here, and groups are about to be made of it.
    pub fn metadata_known(&self, index: RaftIndex) {
        self.0.shared.learn_metadata(index);
    }

    /// What the metadata asks for is done up to here: a group that a peer names, who knows no more, and that is not
    /// here is gone.
    pub fn metadata_applied(&self, index: RaftIndex) {
        self.0.shared.metadata_applied(index);
    }

    /// Founds the metadata group, joins it, or reopens it under the replica id that it has. One that is founded, or
    /// whose only voter this is, leads when this returns, and the applier has every committed batch.
    pub async fn metadata(&self, start: MetadataStart, applier: Arc<dyn Applier>) -> Result<MetadataGroup, RaftError> {
        let shared = &self.0.shared;
        let (MetadataStart::Found(replica) | MetadataStart::Join(replica)) = start;
        let data_dir = shared.data_dir.clone();
        let opened = shared.runtime.blocking(move || {
            let replica = data_dir.groups().into_iter().find(|row| row.group == METADATA).map(|row| row.replica);
            data_dir.log(METADATA).map(|log| log.zip(replica))
        });
        let (log, replica) = match opened.await? {
            Some(existing) => existing,
            None => {
                let spec = GroupSpec {
                    group: METADATA,
                    topic: METADATA_TOPIC.to_owned(),
                    partition: PartitionIndex(0),
                    topic_id: METADATA_TOPIC_ID,
                    replica,
                    options: LogOptions::default(),
                };
                (self.create_group(spec).await?, replica)
            }
        };
        // The founder's id is nobody else's: a start before this one may have ended between making the group and
        // writing its first entry.
        let founds = matches!(start, MetadataStart::Found(_)) || replica == FOUNDER;
        if log.frontiers().last.is_none() && log.purged().is_none() && founds {
            self.append_founding_membership(METADATA, &[(replica, shared.broker)], &log).await?;
        }
        let metadata = MetadataGroup::start(shared, replica, log, applier).await?;
        *self.0.metadata.lock().unwrap_or_else(PoisonError::into_inner) = Some(metadata.clone());
        Ok(metadata)
    }

    /// Creates this broker's replica of a partition. It is durable when this returns; may be called again when it
    /// fails. One whose copy is damaged, or could not be synced, is given as a partition that has failed.
    ///
    /// `members`: all replicas of the partition, in order of preference. With an `assignment_version` of 1 they found
    /// the group; with a later one this replica begins empty and is filled by the others.
    pub async fn create(
        &self,
        spec: GroupSpec,
        members: &[(ReplicaId, BrokerId)],
        assignment_version: u64,
    ) -> Result<Partition, RaftError> {
        let (group, replica) = (spec.group, spec.replica);
        let replicated = members.len() > 1 || assignment_version > 1;
        let founders = (assignment_version == 1).then_some(members);
        let shared = Arc::clone(&self.0.shared);
        let partition = match self.create_log(spec, founders).await {
            Ok(log) => Partition::open(shared, replica, group, log, replicated),
            Err(RaftError::Storage(error @ (StorageError::SetAside(_) | StorageError::Corrupt { .. }))) => {
                Partition::failed(shared, replica, group, replicated, &error)
            }
            Err(error) => return Err(error),
        };
        self.0.partitions.write().unwrap_or_else(PoisonError::into_inner).insert(group, partition.clone());
        Ok(partition)
    }

    /// The log of a partition's replica; with the membership of its founders, where they are given, as first entry.
    async fn create_log(
        &self,
        spec: GroupSpec,
        founders: Option<&[(ReplicaId, BrokerId)]>,
    ) -> Result<Arc<Log>, RaftError> {
        let group = spec.group;
        let log = match self.create_group(spec).await {
            // An earlier attempt came as far as that.
            Err(RaftError::Storage(StorageError::GroupExists(_))) => {
                let data_dir = self.0.shared.data_dir.clone();
                let log = self.0.shared.runtime.blocking(move || data_dir.log(group)).await?;
                let log = log.ok_or(RaftError::NoSuchGroup(group))?;
                if log.frontiers().last.is_none() && log.purged().is_none() {
                    // It has acknowledged nothing that a power cut could have taken.
                    self.0.shared.data_dir.not_shared(group);
                }
                log
            }
            created => created?,
        };
        if let Some(founders) = founders.filter(|_| log.frontiers().last.is_none()) {
            self.append_founding_membership(group, founders, &log).await?;
        }
        Ok(log)
    }

    /// Deletes a partition with its data. What is queued for it is refused. Durable when this returns; may be called
    /// again when it fails.
    pub async fn delete(&self, group: GroupId) -> Result<(), RaftError> {
        self.close(group).await;
        let data_dir = self.0.shared.data_dir.clone();
        self.durable(group, move |done| data_dir.delete_group(group, done)).await
    }

    /// These replicas of a partition here, on these brokers, are lost: they take part in nothing any more, and never
    /// come back under the same ids. Where the replica here is the other one of a pair it decides alone
    /// ([`decides_for`](crate::decides_for)).
    pub fn set_lost(&self, group: GroupId, replicas: BTreeMap<ReplicaId, BrokerId>) {
        let shared = &self.0.shared;
        if !shared.peers.set_lost(group, replicas) {
            return;
        }
        if let Some(replica) = shared.replica(group)
            && shared.peers.lost(group).into_iter().any(|lost| replica.stands_in_for(lost))
        {
            tracing::info!(group = group.0, "the other one of two replicas is lost: the one here goes on alone");
        }
        shared.failover.look_at([group]);
    }

    /// Has nothing of the group run any more.
    async fn close(&self, group: GroupId) {
        let removed = self.0.partitions.write().unwrap_or_else(PoisonError::into_inner).remove(&group);
        if let Some(partition) = removed {
            partition.close();
        }
        if let Some(replica) = self.0.shared.remove(group) {
            replica.shutdown().await;
        }
        self.0.shared.shipments.forget(group);
        self.0.shared.peers.set_lost(group, BTreeMap::new());
    }

    /// Has a [tainted](Partition::is_tainted) replica here take part again, by the word of an operator: what it misses
    /// is given up, unless a replica that has it takes part, too. Durable when this returns; does nothing to another
    /// one.
    ///
    /// # Errors
    /// [`RaftError::NoSuchGroup`] where the replica is not here; the storage layer's.
    pub async fn trust(&self, group: GroupId, replica: ReplicaId) -> Result<(), RaftError> {
        let partition = self.partition(group).filter(|partition| partition.id() == replica);
        let partition = partition.ok_or(RaftError::NoSuchGroup(group))?;
        if !partition.is_tainted() {
            return Ok(());
        }
        let (data_dir, runtime) = (self.0.shared.data_dir.clone(), self.0.shared.runtime.clone());
        // In a task of its own: a caller that gives up must not leave a replica out that is trusted on disk.
        let trusting = self.0.shared.runtime.spawn(async move {
            runtime.blocking(move || data_dir.trust_group(group)).await?;
            partition.trusted();
            Ok(())
        });
        trusting.await.map_err(|error| RaftError::Fatal { group, why: error.to_string().into() })?
    }

    /// The groups of the [tainted](Partition::is_tainted) replicas here, in order.
    pub fn tainted(&self) -> Vec<GroupId> {
        let partitions = self.0.partitions.read().unwrap_or_else(PoisonError::into_inner);
        partitions.iter().filter(|(_, partition)| partition.is_tainted()).map(|(group, _)| *group).collect()
    }

    /// As [`Groups::delete`] for a replica that [is damaged](Partition::is_damaged): its files are kept beside.
    pub async fn put_aside(&self, group: GroupId) -> Result<(), RaftError> {
        self.close(group).await;
        let data_dir = self.0.shared.data_dir.clone();
        self.durable(group, move |done| data_dir.put_group_aside(group, done)).await
    }

    /// The partition that the group holds; `None` for a group that this broker does not have, and for group 0.
    pub fn partition(&self, group: GroupId) -> Option<Partition> {
        self.0.partitions.read().unwrap_or_else(PoisonError::into_inner).get(&group).cloned()
    }

    /// The groups of all partitions, in order.
    pub fn partitions(&self) -> Vec<GroupId> {
        self.0.partitions.read().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    /// How many partitions there are.
    pub fn len(&self) -> usize {
        self.0.partitions.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether there is no partition.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Refuses everything from now on and stops the metadata group. The caller closes the data directory then, which
    /// completes what is still to be flushed.
    pub async fn shutdown(&self) {
        let partitions: Vec<Partition> = {
            let partitions = self.0.partitions.read().unwrap_or_else(PoisonError::into_inner);
            partitions.values().cloned().collect()
        };
        self.0.shared.stopped.cancel();
        for partition in partitions {
            partition.close();
        }
        let replicas = self.0.shared.remove_all();
        futures::future::join_all(replicas.iter().map(Replica::shutdown)).await;
        let metadata = self.0.metadata.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(metadata) = metadata {
            metadata.shutdown().await;
        }
    }

    /// The replica of a group that runs here.
    #[cfg(test)]
    pub(crate) fn running(&self, group: GroupId) -> Option<Replica> {
        self.0.shared.replica(group)
    }

    async fn create_group(&self, spec: GroupSpec) -> Result<Arc<Log>, RaftError> {
        let data_dir = self.0.shared.data_dir.clone();
        self.durable(spec.group, move |done| data_dir.create_group(spec, done)).await
    }

    async fn append_founding_membership(
        &self,
        group: GroupId,
        members: &[(ReplicaId, BrokerId)],
        log: &Arc<Log>,
    ) -> Result<(), RaftError> {
        // The same on every replica.
        let time = Timestamp(0);
        let payload = founding_membership(members);
        let body = Body::RaftOnly { kind: RaftOnlyKind::Membership, payload, time };
        let entry = AppendEntry { index: RaftIndex(0), term: Term(0), body };
        let log = Arc::clone(log);
        self.durable(group, move |done| log.append(vec![entry], done)).await?;
        Ok(())
    }

    /// Runs a storage operation where it may block and waits until it is durable.
    async fn durable<T: Send + 'static>(
        &self,
        group: GroupId,
        operation: impl FnOnce(millpond_storage::Done) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, RaftError> {
        let (done, durable) = oneshot::channel();
        // The receiver is gone only when the caller gave up.
        let done = Box::new(move |result: Result<(), StorageError>| drop(done.send(result)));
        let value = self.0.shared.runtime.blocking(move || operation(done)).await?;
        durable.await.map_err(|_| RaftError::Closed(group))??;
        Ok(value)
    }
}
