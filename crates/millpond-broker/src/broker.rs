//! A broker from start to stop: data directory, groups, metadata, listeners.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use millpond_cluster::{BrokerError, METADATA_GROUP, TopicDefaults};
use millpond_raft::{Groups, MetadataGroup, Peers, RaftError};
use millpond_record::{BrokerId, Timestamp};
use millpond_runtime::{DiskSpace, Listener, Runtime};
use millpond_storage::{DataDir, DirectoryId, GroupRow, OpenError, PartitionSize, StorageError, StorageOptions};
use millpond_wire::Str;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::accept::{NoRoom, Room, accept};
use crate::api::fetch::kept::FetchSessions;
use crate::cluster::joining::NotAMember;
use crate::cluster::producer_ids::ProducerIds;
use crate::cluster::start::{Member, Network, Outset};
use crate::cluster::{handover, keeper, mending, mover};
use crate::config::BrokerConfig;
use crate::connection::Connection;
use crate::controller::Controller;
use crate::coordinator::{Coordinators, LagFigures, Times, keep_lags};
use crate::disk_space::{DiskWatch, journal_file_bytes};
use crate::http;
use crate::leadership::Leadership;
use crate::memory::{AnswerMemory, ProduceMemory};
use crate::metadata::Metadata;
use crate::metrics::Metrics;
use crate::reconcile::{OnDisk, Reconciler};
use crate::retention;
use crate::throttle::Throttle;

/// How long requests in flight may take to be answered once the broker stops.
const DRAIN_TIME: Duration = Duration::from_millis(700);
/// Between two looks at the free space.
const DISK_INTERVAL: Duration = Duration::from_secs(1);
/// How often storage tries again what it could not write; it does so less often by itself.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// Every so many of these the figures are kept up, and what has not gone away is told again.
const UPKEEP_ROUND: u64 = 5;
/// Batches that are decompressed at once.
const OPENING_AT_ONCE: usize = 4;

/// Why a broker does not start. Each text is one sentence.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address} ({setting}): {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The setting that names it.
        setting: &'static str,
        /// What the system says.
        source: std::io::Error,
    },
    /// The data directory cannot be opened.
    #[error(transparent)]
    DataDir(#[from] OpenError),
    /// The directory has partitions, but the metadata that says whose they are is gone.
    #[error(
        "{0} has partitions but not the cluster's metadata (group 0): starting would delete them. Bring the whole \
         folder back from where it was copied, or start on an empty one"
    )]
    MetadataLost(PathBuf),
    /// The directory is of another time: the cluster has replaced what was in it.
    #[error(
        "{0} is not what the cluster has of this broker any more: the broker was unregistered, or came back with \
         another directory meanwhile, and its replicas were replaced. Start on an empty one; the other brokers fill it"
    )]
    Replaced(PathBuf),
    /// The metadata group does not start.
    #[error("the cluster's metadata cannot be read: {0}")]
    Metadata(#[from] RaftError),
    /// The broker may not register.
    #[error(transparent)]
    Register(#[from] BrokerError),
    /// The broker's registration cannot be written.
    #[error("the broker cannot be registered: {0}")]
    NotRegistered(String),
    /// A default for topics does not suit topics.
    #[error(transparent)]
    NotAMember(#[from] NotAMember),
    /// A broker of several is started as if it were the only one.
    #[error(
        "the data directory is that of one broker of {brokers}: say where the others reach it (--peer HOST:PORT) and \
         where they are (--peers, or --join)"
    )]
    PeersMissing {
        /// How many brokers the cluster has.
        brokers: usize,
    },
    /// A default for topics does not suit topics.
    #[error("{0}")]
    TopicDefault(#[from] millpond_cluster::ConfigError),
}

/// Why a running broker can no longer go on.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct FatalError(String);

/// Why a stop was not clean. What was acknowledged is safe all the same; the next start recovers.
#[derive(Debug, thiserror::Error)]
#[error("the data directory was not closed cleanly: {0}")]
pub struct ShutdownError(#[from] StorageError);

/// What all connections share.
pub(crate) struct Shared {
    pub(crate) runtime: Runtime,
    pub(crate) config: BrokerConfig,
    pub(crate) node: BrokerId,
    pub(crate) cluster_id: Str,
    /// The data directory's absolute path.
    pub(crate) log_dir: Str,
    pub(crate) metadata: Arc<Metadata>,
    pub(crate) leadership: Leadership,
    pub(crate) controller: Controller,
    pub(crate) producer_ids: ProducerIds,
    pub(crate) groups: Groups,
    pub(crate) metadata_group: MetadataGroup,
    pub(crate) peers: Peers,
    pub(crate) coordinators: Arc<Coordinators>,
    pub(crate) lag_figures: LagFigures,
    /// Times of records that groups have not read.
    pub(crate) times: Arc<Times>,
    pub(crate) produce_memory: ProduceMemory,
    pub(crate) answer_memory: AnswerMemory,
    pub(crate) fetch_sessions: FetchSessions,
    /// Turns to decompress batches.
    pub(crate) opening: Semaphore,
    /// One turn for unclean elections.
    pub(crate) unclean: Semaphore,
    pub(crate) throttle: Throttle,
    pub(crate) metrics: Metrics,
    pub(crate) disk: Arc<DiskWatch>,
    pub(crate) stopping: CancellationToken,
    /// A stop has begun; what this broker leads is handed over while it still takes requests.
    leaving: AtomicBool,
    /// Segments wait for a checkpoint that lets them go.
    freeing: AtomicBool,
    data_dir: DataDir,
    fatal: watch::Receiver<Option<FatalError>>,
}

impl Shared {
    /// Whether clients are to be sent here.
    pub(crate) fn is_ready(&self) -> bool {
        !self.leaving.load(Ordering::Relaxed) && !self.has_failed()
    }

    /// Whether something ended that the broker cannot go on without; it is about to be shut down.
    pub(crate) fn has_failed(&self) -> bool {
        self.fatal.borrow().is_some()
    }

    /// What each partition on this broker keeps.
    pub(crate) fn partition_sizes(&self) -> impl Iterator<Item = PartitionSize> {
        self.data_dir.sizes().into_iter().filter(|size| size.group != METADATA_GROUP)
    }

    /// What the data directory knows of each log, without opening it. Blocking.
    pub(crate) fn rows(&self) -> Vec<GroupRow> {
        self.data_dir.groups()
    }

    /// The space of the file system that the data directory is on. Blocking.
    pub(crate) fn space(&self) -> io::Result<DiskSpace> {
        self.data_dir.space()
    }

    /// Lets the data directory free what waits for a checkpoint.
    pub(crate) fn want_checkpoint(&self) {
        self.data_dir.want_checkpoint();
    }

    /// As [`Shared::want_checkpoint`], within a second or two: who deletes records as often as he likes must not make
    /// others wait for checkpoints.
    pub(crate) fn free_soon(&self) {
        self.freeing.store(true, Ordering::Relaxed);
    }

    pub(crate) fn render_metrics(&self) -> String {
        let snapshot = self.metadata.snapshot();
        let (stats, groups) = (self.data_dir.stats(), self.data_dir.groups());
        let memory = (self.produce_memory.in_flight_bytes(), self.answer_memory.in_use_bytes() as u64);
        let kept = (self.fetch_sessions.figures(), self.coordinators.figures());
        let leadership = self.leadership.now().figures(&snapshot);
        let lags = self.lag_figures.scraped(self.runtime.now());
        let rows = (&*groups, lags.as_deref(), self.runtime.wall_clock());
        let cluster = (&*snapshot, &leadership, &*self.peers.figures());
        self.metrics.render(&stats, memory, kept, &self.disk, cluster, rows)
    }
}

/// A running broker.
pub struct Broker {
    shared: Arc<Shared>,
    groups: Groups,
    kafka: SocketAddr,
    http: SocketAddr,
    /// The places of the Kafka connections.
    room: Arc<Room>,
    fatal: watch::Receiver<Option<FatalError>>,
    /// The connections to other brokers, which end with it.
    network: Network,
}

impl Broker {
    /// Starts a broker; it accepts clients when this returns.
    ///
    /// # Errors
    /// [`StartError`], one sentence each: an address in use, a data directory in use or of another node, damage that
    /// recovery cannot repair.
    pub async fn start(runtime: Runtime, config: BrokerConfig) -> Result<Broker, StartError> {
        let kafka_listener = listen(&runtime, config.kafka, "listeners").await?;
        let http_listener = listen(&runtime, config.http, "millpond.http.listener").await?;
        let address = |listener: &Listener, configured| listener.local_addr().unwrap_or(configured);
        let kafka = address(&kafka_listener, config.kafka);
        let http = address(&http_listener, config.http);

        let mut defaults = TopicDefaults::default();
        for (name, value) in &config.topic_defaults {
            defaults.set(name, value)?;
        }
        defaults.fix("index.interval.bytes", &config.index_interval_bytes.to_string())?;
        let stopping = CancellationToken::new();
        // Ends what was spawned when the start fails or is given up.
        let unless_started = stopping.clone().drop_guard();
        let serving = http::Serving::start(&runtime, http_listener, stopping.clone());

        let (fatal_sender, fatal) = watch::channel(None);
        let fatal_sender = Arc::new(fatal_sender);
        let outset = Outset {
            runtime: &runtime,
            config: &config,
            kafka,
            defaults: &defaults,
            stopping: &stopping,
            fatal: Arc::clone(&fatal_sender),
        };
        let Member { data_dir, groups, group, applied, controller, disk, network } = outset.enter().await?;
        look_at_disk(&runtime, &data_dir, &disk).await;
        let metadata = Arc::new(Metadata::new());
        let node = config.node_id;
        let coordinators = Arc::new(Coordinators::new(
            &runtime,
            Arc::clone(&metadata),
            controller.clone(),
            stopping.clone(),
            config.groups.clone(),
        ));
        let mut reconciler = Reconciler::new(
            applied.clone(),
            Arc::clone(&metadata),
            groups.clone(),
            node,
            defaults.clone(),
            Arc::clone(&coordinators),
        );
        let rows = data_dir.groups().into_iter().filter(|row| row.group != METADATA_GROUP);
        let on_disk = rows.map(|row| OnDisk {
            topic: row.topic_id,
            name: row.topic,
            partition: row.partition,
            group: row.group,
            replica: row.replica,
            options: row.options,
        });
        reconciler.start(on_disk).await;
        runtime.spawn(reconciler.run(runtime.clone()));
        runtime.spawn(watch_metadata_group(group.clone(), stopping.clone(), fatal_sender));

        let shared = Arc::new(Shared {
            producer_ids: ProducerIds::start(&runtime, controller.clone()),
            controller,
            groups: groups.clone(),
            metadata_group: group.clone(),
            peers: network.peers.clone(),
            node,
            coordinators,
            lag_figures: LagFigures::default(),
            times: Arc::default(),
            cluster_id: data_dir.meta().cluster_id.as_str().into(),
            log_dir: absolute(&config.data_dir).display().to_string().into(),
            metadata,
            leadership: Leadership::new(node, groups.clone(), &network.peers),
            produce_memory: ProduceMemory::new(config.produce_memory_bytes),
            answer_memory: AnswerMemory::new(config.answer_memory_bytes),
            fetch_sessions: FetchSessions::new(runtime.now(), config.fetch_session_slots, config.answer_memory_bytes),
            opening: Semaphore::new(OPENING_AT_ONCE),
            unclean: Semaphore::new(1),
            throttle: Throttle::new(runtime.now()),
            metrics: Metrics::new(),
            disk,
            stopping,
            leaving: AtomicBool::new(false),
            freeing: AtomicBool::new(false),
            data_dir,
            fatal: fatal.clone(),
            runtime: runtime.clone(),
            config,
        });
        let room = Room::new(shared.config.max_connections, shared.config.max_connections_per_ip);
        serve_kafka(&shared, kafka_listener, Arc::clone(&room));
        runtime.spawn(upkeep(Arc::clone(&shared)));
        runtime.spawn(retention::run(Arc::clone(&shared)));
        runtime.spawn(watch_disk(Arc::clone(&shared)));
        runtime.spawn(keep_lags(Arc::clone(&shared)));
        if let Some(services) = &network.services {
            services.done_by(&shared);
            runtime.spawn(keeper::run(Arc::downgrade(&shared), group));
            runtime.spawn(mover::run(Arc::downgrade(&shared)));
            runtime.spawn(mending::run(Arc::downgrade(&shared)));
        }
        serving.ready(&shared);
        unless_started.disarm();
        Ok(Broker { shared, groups, kafka, http, room, fatal, network })
    }

    /// This broker's id.
    pub fn node_id(&self) -> BrokerId {
        self.shared.node
    }

    /// The address that Kafka clients are served on, with the port that was taken for port 0.
    pub fn kafka_addr(&self) -> SocketAddr {
        self.kafka
    }

    /// The address of the HTTP port.
    pub fn http_addr(&self) -> SocketAddr {
        self.http
    }

    /// Completes when the broker can no longer go on; it should then be shut down.
    pub async fn fatal(&self) -> FatalError {
        let mut fatal = self.fatal.clone();
        let found = fatal.wait_for(Option::is_some).await.ok().and_then(|found| found.clone());
        match found {
            Some(found) => found,
            // Nobody is left who could report: the broker was shut down.
            None => std::future::pending().await,
        }
    }

    /// Stops accepting, answers what is in flight for up to 0.7 seconds, and closes the data directory.
    ///
    /// # Errors
    /// [`ShutdownError`] when the last writes failed; what was acknowledged is safe, and the next start recovers.
    pub async fn shutdown(self) -> Result<(), ShutdownError> {
        let Broker { shared, groups, room, network, .. } = self;
        shared.leaving.store(true, Ordering::Relaxed);
        handover::hand_over(&shared).await;
        shared.stopping.cancel();
        if shared.runtime.timeout(DRAIN_TIME, room.emptied()).await.is_err() {
            warn!("some requests were not answered before the stop");
        }
        groups.shutdown().await;
        drop(network);
        let data_dir = shared.data_dir.clone();
        Ok(shared.runtime.blocking(move || data_dir.close()).await?)
    }
}

/// The path from the root on; as it is given where the working directory is gone.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

pub(crate) async fn listen(
    runtime: &Runtime,
    address: SocketAddr,
    setting: &'static str,
) -> Result<Listener, StartError> {
    runtime.listen(address).await.map_err(|source| StartError::Listen { address, setting, source })
}

pub(crate) async fn open_data_dir(
    runtime: &Runtime,
    config: &BrokerConfig,
    fatal: Arc<watch::Sender<Option<FatalError>>>,
    (cluster_id, directory_id): (Option<String>, Option<DirectoryId>),
) -> Result<DataDir, StartError> {
    let total = total_bytes(runtime, &config.data_dir).await;
    let journal_file_bytes = journal_file_bytes(config.journal_file_bytes, config.journal_files, total);
    if journal_file_bytes < config.journal_file_bytes {
        info!(journal_file_bytes, "the file system is small, and so are the journal's files");
    }
    let options = StorageOptions {
        node_id: config.node_id,
        cluster_id,
        directory_id,
        journal_file_bytes,
        journal_files: config.journal_files,
        tail_cache_bytes: config.tail_cache_bytes,
        index_interval_bytes: config.index_interval_bytes,
        relaxed_sync_bytes: config.relaxed_sync_bytes,
        segment_sync_bytes: config.segment_sync_bytes,
        open_logs: config.open_logs,
        opened_at: Timestamp(runtime.wall_clock()),
    };
    let on_fatal = move |error: &StorageError| report(&fatal, error.to_string());
    let (here, path) = (runtime.clone(), config.data_dir.clone());
    let opened = runtime.blocking(move || DataDir::open(&here, &path, options, Arc::new(on_fatal))).await;
    let (data_dir, recovery) = opened?;
    info!(
        path = %config.data_dir.display(),
        clean = recovery.clean,
        groups = recovery.groups,
        journal_records = recovery.journal_records,
        journal_bytes = recovery.journal_bytes,
        "data directory open"
    );
    for damaged in &recovery.damaged {
        let kept = match &damaged.kept {
            Some(file) => format!("What the journal had of it was saved there as {file}"),
            None => "The journal had nothing of it".to_owned(),
        };
        error!(
            group = damaged.group.0,
            "the partition in {} is damaged and set aside, nothing of it is served: {}. {kept}. If it has other \
             replicas they make up for it; if not, copy the folder if its records are wanted: deleting the topic \
             removes it",
            damaged.folder,
            damaged.what
        );
    }
    if recovery.groups_tainted > 0 {
        info!(
            partitions = recovery.groups_tainted,
            "partitions of relaxed topics may lack here what they acknowledged, because the machine was started again \
             without a clean stop before; those with other replicas take no part until they are replaced or trusted"
        );
    }
    for stray in &recovery.strays {
        error!("a folder that belongs to no known partition was set aside as {stray}: look into it, then remove it");
    }
    Ok(data_dir)
}

/// The size of the file system that the data directory is on, or will be.
async fn total_bytes(runtime: &Runtime, path: &Path) -> u64 {
    let (disk, path) = (runtime.disk(), path.to_owned());
    let looking = runtime.blocking(move || {
        let existing = path.ancestors().find(|path| disk.exists(path).unwrap_or(false));
        disk.space(existing.unwrap_or(Path::new("."))).map(|space| space.total_bytes)
    });
    // Opening the directory says what is wrong with it.
    looking.await.unwrap_or(u64::MAX)
}

/// Keeps the first fatal error.
fn report(fatal: &watch::Sender<Option<FatalError>>, what: String) {
    error!("{what}");
    fatal.send_if_modified(|found| {
        let first = found.is_none();
        found.get_or_insert(FatalError(what));
        first
    });
}

/// A broker whose metadata group has stopped can decide nothing and learn nothing any more.
async fn watch_metadata_group(
    group: MetadataGroup,
    stopping: CancellationToken,
    fatal: Arc<watch::Sender<Option<FatalError>>>,
) {
    let error = group.failed().await;
    if !stopping.is_cancelled() {
        report(&fatal, format!("the cluster's metadata can no longer be written: {error}"));
    }
}

/// Accepts Kafka clients until the broker stops.
fn serve_kafka(shared: &Arc<Shared>, listener: Listener, room: Arc<Room>) {
    let (refusing, serving) = (Arc::clone(shared), Arc::clone(shared));
    let refused = move |why, peer: SocketAddr| {
        refusing.metrics.connections_refused.increment(1);
        let limit = match why {
            NoRoom::InAll => "max.connections",
            NoRoom::FromAddress => "max.connections.per.ip",
        };
        debug!(%peer, "connection closed on arrival: {limit} are open");
    };
    let serve = move |stream, peer| Connection::new(Arc::clone(&serving), stream, peer).serve();
    let (runtime, stopping) = (shared.runtime.clone(), shared.stopping.clone());
    shared.runtime.spawn(accept(runtime, stopping, listener, room, refused, serve));
}

/// Looks at the free space for as long as the broker runs.
async fn watch_disk(shared: Arc<Shared>) {
    loop {
        tokio::select! {
            biased;
            () = shared.stopping.cancelled() => return,
            () = shared.runtime.sleep(DISK_INTERVAL) => {}
        }
        look_at_disk(&shared.runtime, &shared.data_dir, &shared.disk).await;
    }
}

async fn look_at_disk(runtime: &Runtime, data_dir: &DataDir, disk: &Arc<DiskWatch>) {
    let (data_dir, disk) = (data_dir.clone(), Arc::clone(disk));
    let looking = runtime.blocking(move || {
        // In this order: what is written between the two counts twice rather than not at all.
        let promised = data_dir.unwritten_bytes();
        data_dir.space().map(|space| disk.looked(space, promised))
    });
    if let Err(error) = looking.await {
        warn!("the disk's free space is not known: {error}");
    }
}

async fn upkeep(shared: Arc<Shared>) {
    let mut stalled = false;
    for seconds in 1_u64.. {
        tokio::select! {
            biased;
            () = shared.stopping.cancelled() => return,
            () = shared.runtime.sleep(RETRY_INTERVAL) => {}
        }
        let is_round = seconds.is_multiple_of(UPKEEP_ROUND);
        if is_round {
            shared.metrics.upkeep();
            shared.fetch_sessions.expire(shared.runtime.now(), shared.config.max_idle);
        }
        if shared.freeing.swap(false, Ordering::Relaxed) {
            shared.want_checkpoint();
        }
        let troubles = shared.data_dir.retry_writes();
        for (group, error) in &troubles.set_aside {
            error!(group = group.0, "a partition is set aside, because its segments cannot be written: {error}");
        }
        for (group, damage) in &troubles.damaged {
            warn!(group = group.0, "{damage}");
        }
        match &troubles.stalled {
            Some(error) if is_round || !stalled => {
                let logs = troubles.stalled_logs;
                warn!(
                    logs,
                    "segments cannot be written for now, and producers of their partitions are refused: {error}"
                );
            }
            None if stalled => info!("segments can be written again"),
            _ => {}
        }
        stalled = troubles.stalled.is_some();
    }
}
