//! Makes this broker's replicas what the metadata says: creates what is missing, deletes what is gone.
//!
//! A broker has a replica of a partition when the partition's record names it under its replica id, among those that
//! the partition is to have or those on their way out. A folder under another replica id or of another topic is not
//! that replica, whatever it is called: it goes before the new one is made.
//!
//! Group 0 applies batches to [`Applied`]; the reconciler follows it, one pass at a time. A pass first stops serving
//! what was deleted, then deletes and creates groups, and only then publishes the snapshot that names the new ones.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use millpond_cluster::{
    FlushSetting, Image, MetadataRecord, Topic, TopicDefaults, TopicSettings, decode_batch, lost_replicas,
};
use millpond_raft::{Applier, ApplyError, Groups, Partition, RaftError};
use millpond_record::{BrokerId, GroupId, PartitionIndex, RaftIndex, ReplicaId, StampedBatch, TopicId};
use millpond_runtime::Runtime;
use millpond_storage::{FlushMode, GroupSpec, LogOptions, StorageError};
use tokio::sync::{Notify, watch};
use tracing::{error, info, warn};

use crate::coordinator::Coordinators;
use crate::metadata::{Metadata, ServedTopic, Snapshot};

/// Groups that are created or deleted at once; their journal records share rounds. Each takes a blocking thread, of
/// which the runtime has 512: cold reads must find some whatever topics are made.
const AT_ONCE: usize = 128;
/// Between two attempts at what could not be made, changed or deleted.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// The image as group 0 has applied it, and what the reconciler has not looked at yet.
#[derive(Default)]
pub(crate) struct Applied {
    state: Mutex<AppliedState>,
    changed: Notify,
    index: watch::Sender<Option<RaftIndex>>,
}

#[derive(Default)]
struct AppliedState {
    image: Image,
    index: Option<RaftIndex>,
    touched: Touched,
}

/// The topics that changes concern.
#[derive(Default)]
struct Touched {
    topics: BTreeSet<TopicId>,
    /// What topics inherit has changed: it may concern each of them.
    all: bool,
}

/// What happened since the last look.
struct Change {
    image: Image,
    index: Option<RaftIndex>,
    touched: BTreeSet<TopicId>,
}

impl Applied {
    pub(crate) fn image(&self) -> Image {
        self.lock().image.clone()
    }

    /// How far the log of group 0 is applied.
    pub(crate) fn index(&self) -> Option<RaftIndex> {
        *self.index.borrow()
    }

    /// Follows how far it is.
    pub(crate) fn follow(&self) -> watch::Receiver<Option<RaftIndex>> {
        self.index.subscribe()
    }

    /// Waits until it is applied up to an index.
    pub(crate) async fn reached(&self, index: Option<RaftIndex>) {
        let mut follow = self.index.subscribe();
        // The sender is in self.
        let _ = follow.wait_for(|applied| *applied >= index).await;
    }

    fn take_change(&self) -> Change {
        let mut state = self.lock();
        let Touched { mut topics, all } = std::mem::take(&mut state.touched);
        if all {
            topics.extend(state.image.topics().map(|topic| topic.id));
        }
        Change { image: state.image.clone(), index: state.index, touched: topics }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, AppliedState> {
        // Nothing that can panic runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Applier for Applied {
    fn apply(&self, index: RaftIndex, batch: &StampedBatch) -> Result<(), ApplyError> {
        let records = decode_batch(&batch.to_bytes()).map_err(|error| ApplyError(error.to_string()))?;
        let before = self.lock().image.clone();
        let image = before.apply(&records).map_err(|error| ApplyError(error.to_string()))?;
        let mut state = self.lock();
        state.touched.topics.extend(records.iter().filter_map(touched_topic));
        state.touched.all |= records.iter().any(|record| matches!(record, MetadataRecord::BrokerSettings(..)));
        state.image = image;
        state.index = Some(index);
        drop(state);
        self.changed.notify_one();
        self.index.send_replace(Some(index));
        Ok(())
    }
}

fn touched_topic(record: &MetadataRecord) -> Option<TopicId> {
    match record {
        MetadataRecord::Topic(topic) => Some(topic.id),
        MetadataRecord::TopicRemoved(id) | MetadataRecord::PartitionRemoved(id, _) => Some(*id),
        MetadataRecord::Partition(partition) => Some(partition.topic),
        MetadataRecord::FeatureLevel(_)
        | MetadataRecord::Broker(_)
        | MetadataRecord::BrokerRemoved(_)
        | MetadataRecord::NextGroup(_)
        | MetadataRecord::NextReplica(_)
        | MetadataRecord::NextProducerId(_)
        | MetadataRecord::BrokerSettings(..)
        | MetadataRecord::ClientQuota(..) => None,
    }
}

/// A group that this broker hosts.
struct Hosted {
    topic: TopicId,
    group: GroupId,
    replica: ReplicaId,
    name: Arc<str>,
    partition: PartitionIndex,
    /// The log's settings.
    options: LogOptions,
}

/// A partition's group that the data directory holds.
pub(crate) struct OnDisk {
    pub(crate) topic: TopicId,
    pub(crate) name: String,
    pub(crate) partition: PartitionIndex,
    pub(crate) group: GroupId,
    pub(crate) replica: ReplicaId,
    pub(crate) options: LogOptions,
}

pub(crate) struct Reconciler {
    applied: Arc<Applied>,
    metadata: Arc<Metadata>,
    groups: Groups,
    broker: BrokerId,
    defaults: TopicDefaults,
    /// Hear of deleted topics.
    coordinators: Arc<Coordinators>,
    snapshot: Snapshot,
    /// The groups on disk, by topic: what must go when the topic does.
    hosted: BTreeMap<TopicId, Vec<Hosted>>,
    /// Groups whose deletion failed, to be tried again.
    undeleted: Vec<Hosted>,
    /// Topics of which a partition could not be made, or its log's settings not be changed, to be tried again.
    unfinished: BTreeSet<TopicId>,
}

impl Reconciler {
    pub(crate) fn new(
        applied: Arc<Applied>,
        metadata: Arc<Metadata>,
        groups: Groups,
        broker: BrokerId,
        defaults: TopicDefaults,
        coordinators: Arc<Coordinators>,
    ) -> Reconciler {
        Reconciler {
            applied,
            metadata,
            groups,
            broker,
            defaults,
            coordinators,
            snapshot: Snapshot::empty(),
            hosted: BTreeMap::new(),
            undeleted: Vec::new(),
            unfinished: BTreeSet::new(),
        }
    }

    /// The first pass, over everything: `on_disk` are the groups that the data directory holds, group 0 aside.
    pub(crate) async fn start(&mut self, on_disk: impl Iterator<Item = OnDisk>) {
        for OnDisk { topic, name, partition, group, replica, options } in on_disk {
            let host = Hosted { topic, group, replica, name: name.into(), partition, options };
            self.hosted.entry(topic).or_default().push(host);
        }
        let mut change = self.applied.take_change();
        change.touched = change.image.topics().map(|topic| topic.id).chain(self.hosted.keys().copied()).collect();
        self.settle(change).await;
    }

    /// Follows group 0 for as long as the broker runs.
    pub(crate) async fn run(mut self, runtime: Runtime) {
        loop {
            tokio::select! {
                biased;
                () = self.applied.changed.notified() => {}
                () = runtime.sleep(RETRY_INTERVAL), if !(self.undeleted.is_empty() && self.unfinished.is_empty()) => {}
            }
            let change = self.applied.take_change();
            self.settle(change).await;
        }
    }

    async fn settle(&mut self, mut change: Change) {
        let again = std::mem::take(&mut self.unfinished);
        change.touched.extend(&again);
        if let Some(index) = change.index {
            self.groups.metadata_known(index);
        }
        self.snapshot.image = change.image;
        let image = self.snapshot.image.clone();
        let mut strays = std::mem::take(&mut self.undeleted);
        let mut deleted = Vec::new();
        for id in &change.touched {
            let wanted = image.topic_by_id(*id);
            let keep: BTreeSet<(GroupId, ReplicaId)> =
                wanted.iter().flat_map(|topic| self.replicas_here(topic)).collect();
            if wanted.is_none() {
                deleted.extend(self.snapshot.topic_by_id(*id).map(|served| (Arc::clone(&served.topic.name), *id)));
                self.snapshot.withdraw(*id);
            }
            if let Some(hosted) = self.hosted.remove(id) {
                let (kept, gone): (Vec<_>, Vec<_>) =
                    hosted.into_iter().partition(|host| keep.contains(&(host.group, host.replica)));
                strays.extend(gone);
                if !kept.is_empty() {
                    self.hosted.insert(*id, kept);
                }
            }
        }
        if !strays.is_empty() {
            self.metadata.publish(self.snapshot.clone());
            self.undeleted = self.delete(strays).await;
            self.snapshot.undeleted = Arc::new(self.undeleted.iter().map(|host| host.topic).collect());
        }
        let wanted: Vec<_> = change.touched.iter().filter_map(|id| image.topic_by_id(*id)).cloned().collect();
        for topic in wanted {
            let (id, name, again) = (topic.id, Arc::clone(&topic.name), again.contains(&topic.id));
            match self.serve(topic).await {
                Ok(()) if again => info!(topic = %name, "what could not be done to the topic's partitions is done"),
                Ok(()) => {}
                Err(what) => {
                    // Told once; a topic has up to ten thousand partitions.
                    if !again {
                        error!(topic = %name, "{what}; it is tried again");
                    }
                    self.unfinished.insert(id);
                }
            }
        }
        self.snapshot.settled = change.index;
        if let Some(index) = change.index {
            self.groups.metadata_applied(index);
        }
        self.metadata.publish(self.snapshot.clone());
        self.coordinators.topics_deleted(&deleted);
    }

    /// The replicas of a topic that this broker is to have.
    fn replicas_here<'a>(&'a self, topic: &'a Topic) -> impl Iterator<Item = (GroupId, ReplicaId)> + 'a {
        topic.partitions.iter().filter_map(|partition| Some((partition.group, self.replica_here(partition)?)))
    }

    fn replica_here(&self, partition: &millpond_cluster::Partition) -> Option<ReplicaId> {
        // What was in another data directory is lost, and is not made up for by an empty log under its id.
        let mine = self.snapshot.image.broker(self.broker).map(|broker| broker.directory);
        let here = |replica: &&millpond_cluster::Replica| {
            replica.broker == self.broker && mine.is_none_or(|mine| mine == replica.directory)
        };
        partition.all_replicas().find(here).map(|replica| replica.id)
    }

    /// Deletes groups, and gives those that are still there. Of a partition that has another replica here the files of
    /// a damaged one are kept.
    async fn delete(&self, strays: Vec<Hosted>) -> Vec<Hosted> {
        let groups = &self.groups;
        let deleted = strays.into_iter().map(|stray| async move {
            let damaged = groups.partition(stray.group).is_some_and(|partition| partition.is_damaged());
            let aside = damaged && self.is_replaced(&stray);
            let gone = if aside { groups.put_aside(stray.group).await } else { groups.delete(stray.group).await };
            match gone {
                Ok(()) if aside => {
                    warn!(
                        topic = %stray.name,
                        partition = stray.partition.0,
                        "the damaged copy makes room for a new one, which other brokers fill; its files are kept in \
                         {}-{}.1.stray, unless there were some before: remove them when nobody wants them",
                        stray.name,
                        stray.partition.0
                    );
                    None
                }
                // It is unknown where an earlier attempt got further than it could tell.
                Ok(()) | Err(RaftError::NoSuchGroup(_) | RaftError::Storage(StorageError::NoSuchGroup(_))) => {
                    info!(topic = %stray.name, partition = stray.partition.0, "partition deleted");
                    None
                }
                Err(error) => {
                    error!(topic = %stray.name, partition = stray.partition.0, "not deleted: {error}");
                    Some(stray)
                }
            }
        });
        let left: Vec<_> = stream::iter(deleted).buffer_unordered(AT_ONCE).collect().await;
        left.into_iter().flatten().collect()
    }

    /// Whether this broker is to have another replica of the partition.
    fn is_replaced(&self, old: &Hosted) -> bool {
        let topic = self.snapshot.image.topic_by_id(old.topic);
        let partition = topic.and_then(|topic| topic.partition(old.partition)).filter(|one| one.group == old.group);
        partition.and_then(|partition| self.replica_here(partition)).is_some_and(|replica| replica != old.replica)
    }

    /// Creates what is missing of a topic, changes the settings of its logs, and serves it when all of it is there.
    ///
    /// # Errors
    /// The first thing that could not be done and that another attempt may do.
    async fn serve(&mut self, topic: Arc<Topic>) -> Result<(), String> {
        let defaults = self.defaults.with_runtime(&self.snapshot.image, self.broker);
        let settings = match TopicSettings::resolve(&topic.configs, &defaults) {
            Ok(settings) => settings,
            Err(error) => {
                error!(topic = %topic.name, "not served: {error}");
                return Ok(());
            }
        };
        let hosted = self.hosted.remove(&topic.id).unwrap_or_default();
        let existing: BTreeMap<GroupId, LogOptions> = hosted.iter().map(|host| (host.group, host.options)).collect();
        let places: Vec<Option<ReplicaPlace>> = topic
            .partitions
            .iter()
            .map(|partition| {
                let known = existing.get(&partition.group).copied();
                Some(ReplicaPlace { known, ..self.place(&topic, partition, &settings)? })
            })
            .collect();
        let groups = &self.groups;
        let made = places.into_iter().map(|place| async move { Some(open(groups, place?).await) });
        let made: Vec<_> = stream::iter(made).buffered(AT_ONCE).collect().await;
        let mut replicas = Vec::with_capacity(made.len());
        let mut failed = Ok(());
        // What could not be made is listed, too: how far it got is unknown, and it must go when the topic does.
        let mut hosted = Vec::new();
        let mut complete = true;
        for opened in made {
            let Some(Opened { host, handle, unchanged }) = opened else {
                replicas.push(None);
                continue;
            };
            let what = match (&handle, unchanged) {
                (Err(error), _) => Some(format!("not served, because partition {} failed: {error}", host.partition)),
                (Ok(_), Some(error)) => {
                    Some(format!("new settings are not in force, because partition {} failed: {error}", host.partition))
                }
                (Ok(_), None) => None,
            };
            failed = failed.and(what.map_or(Ok(()), Err));
            complete &= handle.is_ok();
            replicas.push(handle.ok());
            hosted.push(host);
        }
        if !hosted.is_empty() {
            self.hosted.insert(topic.id, hosted);
        }
        if complete {
            self.snapshot.serve(ServedTopic { topic, settings, replicas });
        }
        failed
    }

    /// The replica of a partition that is to be on this broker, if there is to be one.
    fn place(
        &self,
        topic: &Topic,
        partition: &millpond_cluster::Partition,
        settings: &TopicSettings,
    ) -> Option<ReplicaPlace> {
        let replica = self.replica_here(partition)?;
        // One that the group may still be to be founded with was perhaps never made, whatever was decided since.
        let founders = partition.founders();
        let founds = founders.iter().any(|founder| founder.id == replica);
        let (members, assignment_version) =
            if founds { (founders, 1) } else { (&partition.replicas[..], partition.assignment_version) };
        let spec = GroupSpec {
            group: partition.group,
            topic: topic.name.to_string(),
            partition: partition.index,
            topic_id: topic.id,
            replica,
            options: log_options(settings),
        };
        Some(ReplicaPlace {
            name: Arc::clone(&topic.name),
            spec,
            members: members.iter().map(|member| (member.id, member.broker)).collect(),
            assignment_version,
            min_insync: settings.min_insync_replicas,
            lost: lost_replicas(&self.snapshot.image, partition),
            known: None,
            in_the_way: self.undeleted.iter().any(|old| old.group == partition.group),
        })
    }
}

/// A replica that was to be there, with the settings of its topic.
struct Opened {
    host: Hosted,
    handle: Result<Partition, NotMade>,
    /// Why its log has other settings.
    unchanged: Option<RaftError>,
}

/// Why a replica is not there.
#[derive(Debug, thiserror::Error)]
enum NotMade {
    #[error(transparent)]
    Raft(#[from] RaftError),
    #[error("an older replica of it on this broker could not be deleted yet")]
    InTheWay,
}

/// A replica that is to be on this broker.
struct ReplicaPlace {
    /// The topic's.
    name: Arc<str>,
    spec: GroupSpec,
    /// The replicas that the partition is founded with, in order of preference; those that it is to have for one that
    /// is filled by others.
    members: Vec<(ReplicaId, BrokerId)>,
    assignment_version: u64,
    /// How many replicas must have a batch that is acknowledged by all.
    min_insync: u32,
    /// Replicas of the partition that take part in nothing any more.
    lost: BTreeMap<ReplicaId, BrokerId>,
    /// The settings that its log has, as far as it is there.
    known: Option<LogOptions>,
    /// An older replica of the partition is there.
    in_the_way: bool,
}

/// The replica, made if it is not there.
async fn open(groups: &Groups, place: ReplicaPlace) -> Opened {
    let ReplicaPlace { name, spec, members, assignment_version, min_insync, lost, known, in_the_way } = place;
    let mut options = spec.options;
    let mut host = Hosted {
        topic: spec.topic_id,
        group: spec.group,
        replica: spec.replica,
        name,
        partition: spec.partition,
        options,
    };
    let handle = match groups.partition(spec.group) {
        _ if in_the_way => Err(NotMade::InTheWay),
        Some(handle) => Ok(handle),
        None => groups.create(spec, &members, assignment_version).await.map_err(NotMade::Raft),
    };
    if let Ok(handle) = &handle {
        handle.set_min_insync(u16::try_from(min_insync).unwrap_or(u16::MAX));
        groups.set_lost(host.group, lost);
    }
    let mut unchanged = None;
    if let (Some(known), Ok(handle)) = (known, &handle)
        && known != options
        && let Err(error) = set_options(handle, options).await
    {
        options = known;
        // One that has failed has no use for settings before the next start, which sets them.
        unchanged = Some(error).filter(|_| !handle.has_failed());
    }
    if let (Err(_), Some(known)) = (&handle, known) {
        // The group may be there, with what it was made with.
        options = known;
    }
    host.options = options;
    Opened { host, handle, unchanged }
}

/// Changes the settings of a partition's log, which is opened for it.
async fn set_options(partition: &Partition, options: LogOptions) -> Result<(), RaftError> {
    Ok(partition.log().await?.set_options(options)?)
}

/// What a topic's settings ask of its logs.
pub(crate) fn log_options(settings: &TopicSettings) -> LogOptions {
    LogOptions {
        flush: match settings.flush {
            FlushSetting::Durable => FlushMode::Durable,
            FlushSetting::Relaxed => FlushMode::Relaxed,
        },
        segment_bytes: settings.segment_bytes,
        segment_ms: settings.segment_ms,
        segment_jitter_ms: settings.segment_jitter_ms,
    }
}
