//! The first half of a broker's start: its data directory, its place in a cluster, and the cluster's metadata.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use millpond_cluster::{
    DirectoryId, FIRST_METADATA_REPLICA, METADATA_GROUP, MetadataRecord, Registration, TopicDefaults, TopicLimits,
    decode_batch, register_broker,
};
use millpond_raft::{Groups, MetadataGroup, MetadataStart, Peers, Standing};
use millpond_record::{BrokerId, RaftIndex};
use millpond_runtime::{HostPort, Listener, Runtime};
use millpond_storage::{DataDir, Entries, MetaProperties};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::joining::{Entry, Way};
use super::services::Services;
use super::{place, places};
use crate::accept::{Room, accept};
use crate::broker::{FatalError, StartError, listen, open_data_dir};
use crate::config::{BrokerConfig, PeerConfig};
use crate::controller::{self, Controller, TopicRules};
use crate::disk_space::{DiskWatch, Thresholds};
use crate::errors::ControllerError;
use crate::reconcile::Applied;

/// Connections of other brokers at once; each has two or three.
const MAX_PEER_CONNECTIONS: usize = 512;
/// What is read of the log of the metadata at once.
const LOG_PAGE_BYTES: usize = 1 << 20;

/// A broker that knows its cluster, and is registered.
pub(crate) struct Member {
    pub(crate) data_dir: DataDir,
    pub(crate) groups: Groups,
    pub(crate) group: MetadataGroup,
    pub(crate) applied: Arc<Applied>,
    pub(crate) controller: Controller,
    pub(crate) disk: Arc<DiskWatch>,
    pub(crate) network: Network,
}

/// The connections to other brokers; they end with it.
pub(crate) struct Network {
    pub(crate) peers: Peers,
    /// `None` for a broker without others.
    pub(crate) services: Option<Services>,
    /// Who takes care of the connections that others open.
    door: Arc<Mutex<Option<Peers>>>,
}

impl Network {
    fn new(peers: Peers, services: Option<Services>) -> Network {
        if let Some(services) = &services {
            services.offered_on(peers.clone());
        }
        Network { peers, services, door: Arc::default() }
    }

    /// Takes care of what others open from now on.
    fn open_door(&self) {
        *self.door.lock().unwrap_or_else(PoisonError::into_inner) = Some(self.peers.clone());
    }

    /// Ends all connections, and begins anew. Others tell a broker that comes what they lead; one that was connected
    /// before it had groups would have missed it.
    fn renew(&mut self, peers: Peers) {
        *self.door.lock().unwrap_or_else(PoisonError::into_inner) = None;
        std::mem::replace(&mut self.peers, peers.clone()).close();
        if let Some(services) = &self.services {
            services.offered_on(peers);
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if let Some(services) = &self.services {
            services.end();
        }
        self.peers.close();
    }
}

/// What a start needs from outside.
pub(crate) struct Outset<'a> {
    pub(crate) runtime: &'a Runtime,
    pub(crate) config: &'a BrokerConfig,
    /// Where Kafka clients are served.
    pub(crate) kafka: SocketAddr,
    pub(crate) defaults: &'a TopicDefaults,
    pub(crate) stopping: &'a CancellationToken,
    pub(crate) fatal: Arc<watch::Sender<Option<FatalError>>>,
}

impl Outset<'_> {
    /// Founds a cluster, joins one, or comes back to its own.
    pub(crate) async fn enter(&self) -> Result<Member, StartError> {
        let (runtime, config) = (self.runtime, self.config);
        let listener = match &config.peer {
            Some(peer) => Some(listen(runtime, peer.listen, "millpond.peer.listener").await?),
            None => None,
        };
        let (disk, path) = (runtime.disk(), config.data_dir.clone());
        let before = runtime.blocking(move || MetaProperties::read(&*disk, &path)).await?;
        let directory = match &before {
            Some(before) => before.directory_id,
            None => millpond_storage::DirectoryId::random(runtime),
        };
        let opened = match &before {
            Some(_) => Some(self.open(None, directory).await?),
            None => None,
        };
        let holds = opened.as_ref().is_some_and(|opened| opened.groups().iter().any(|row| row.group == METADATA_GROUP));
        let cluster_id = before.map(|before| before.cluster_id);
        let (mut network, entry) = self.connect(listener, directory, (cluster_id.clone(), holds));

        let Some(mut entry) = entry else {
            let data_dir = match opened {
                Some(opened) => opened,
                None => self.open(None, directory).await?,
            };
            let founded = self.begin(data_dir, network, MetadataStart::Found(FIRST_METADATA_REPLICA)).await?;
            let brokers = founded.group.members().len();
            if brokers > 1 {
                return Err(StartError::PeersMissing { brokers });
            }
            self.register(&founded).await?;
            return Ok(founded);
        };
        let services = network.services.clone().expect("who enters a cluster offers services");
        if let Some(data_dir) = opened.clone().filter(|_| holds) {
            let id = data_dir.meta().cluster_id.clone();
            let row = data_dir.groups().into_iter().find(|row| row.group == METADATA_GROUP);
            let member = self.begin(data_dir, network, MetadataStart::Join(FIRST_METADATA_REPLICA)).await?;
            services.controlled_by(member.controller.clone());
            services.logged(places_in_log(runtime, &member).await);
            services.belongs_to(&id, true);
            if member.group.members().len() <= 1 {
                // It leads its cluster, and would not ask anybody.
                entry.compare().await?;
            }
            let accepted = entry.join(&self.registration(&member.data_dir), &id, Some(&member.group)).await?;
            if row.is_none_or(|row| row.replica != accepted.replica()) {
                // Nobody sends the replica here anything any more. The controller refuses such a directory by itself.
                return Err(StartError::Replaced(self.config.data_dir.clone()));
            }
            entry.follow(&member.applied, accepted.registered_at()).await;
            services.let_in(|| places(&member.applied.image()));
            return Ok(member);
        }
        network.open_door();
        let way = entry.look(cluster_id.as_deref()).await?;
        let id = match &way {
            Way::Found(id) => id.clone(),
            Way::Join(id) => Some(id.clone()),
        };
        let data_dir = match opened {
            Some(opened) => opened,
            None => self.open(id, directory).await?,
        };
        let id = data_dir.meta().cluster_id.clone();
        match way {
            Way::Found(_) => {
                network.renew(self.peers(&services, directory, Some(id.clone())));
                let founder = self.begin(data_dir, network, MetadataStart::Found(FIRST_METADATA_REPLICA)).await?;
                self.register(&founder).await?;
                services.controlled_by(founder.controller.clone());
                services.belongs_to(&id, true);
                services.is_new();
                info!(cluster = id, "a cluster is founded");
                Ok(founder)
            }
            Way::Join(_) => {
                services.belongs_to(&id, false);
                let accepted = entry.join(&self.registration(&data_dir), &id, None).await?;
                services.heard_of(accepted.brokers());
                network.renew(self.peers(&services, directory, Some(id.clone())));
                let member = self.begin(data_dir, network, MetadataStart::Join(accepted.replica())).await?;
                services.controlled_by(member.controller.clone());
                services.belongs_to(&id, true);
                info!(cluster = id, "this broker has joined the cluster");
                entry.follow(&member.applied, accepted.registered_at()).await;
                services.is_new();
                Ok(member)
            }
        }
    }

    async fn open(
        &self,
        cluster_id: Option<String>,
        directory: millpond_storage::DirectoryId,
    ) -> Result<DataDir, StartError> {
        let path = self.config.data_dir.clone();
        let fatal = Arc::clone(&self.fatal);
        let data_dir = open_data_dir(self.runtime, self.config, fatal, (cluster_id, Some(directory))).await?;
        let rows = data_dir.groups();
        if !rows.is_empty() && !rows.iter().any(|row| row.group == METADATA_GROUP) {
            return Err(StartError::MetadataLost(path));
        }
        Ok(data_dir)
    }

    /// Opens the connections to others, if there are to be any.
    fn connect(
        &self,
        listener: Option<Listener>,
        directory: millpond_storage::DirectoryId,
        cluster: (Option<String>, bool),
    ) -> (Network, Option<Entry>) {
        let (runtime, broker) = (self.runtime, self.config.node_id);
        let (Some(config), Some(listener)) = (&self.config.peer, listener) else {
            return (Network::new(Peers::alone(runtime, broker), None), None);
        };
        let PeerConfig { advertised, founders, .. } = config;
        let own = DirectoryId(directory.0);
        let known = cluster.0.clone().filter(|_| cluster.1);
        let services = Services::new(broker, own, advertised.clone(), founders.clone(), cluster);
        let peers = self.peers(&services, directory, known);
        let network = Network::new(peers.clone(), Some(services.clone()));
        let room = Room::new(MAX_PEER_CONNECTIONS, MAX_PEER_CONNECTIONS);
        let refused = |_, peer| debug!(%peer, "a broker's connection was closed on arrival: too many are open");
        let door = Arc::clone(&network.door);
        let serve = move |stream, _| {
            // While it is shut the others try again.
            if let Some(peers) = &*door.lock().unwrap_or_else(PoisonError::into_inner) {
                peers.serve(stream);
            }
            std::future::ready(())
        };
        runtime.spawn(accept(runtime.clone(), self.stopping.clone(), listener, room, refused, serve));
        let entry = Entry::new(runtime, peers, services, config);
        (network, Some(entry))
    }

    fn peers(
        &self,
        services: &Services,
        directory: millpond_storage::DirectoryId,
        cluster_id: Option<String>,
    ) -> Peers {
        let standing = Standing {
            broker: self.config.node_id,
            cluster_id,
            directory_id: directory,
            boot_id: millpond_storage::DirectoryId::random(self.runtime),
        };
        Peers::start(self.runtime.clone(), standing, Arc::new(services.clone()))
    }

    /// Opens the metadata, and what decides on it where this broker is the controller.
    async fn begin(&self, data_dir: DataDir, network: Network, start: MetadataStart) -> Result<Member, StartError> {
        let (runtime, config) = (self.runtime, self.config);
        let groups = Groups::start(runtime.clone(), data_dir.clone(), network.peers.clone());
        groups.set_catch_up_limit(config.catch_up_bytes_per_second);
        network.open_door();
        let applied = Arc::new(Applied::default());
        let group = groups.metadata(start, applied.clone()).await?;
        let disk = Arc::new(DiskWatch::new(Thresholds {
            warn_free_bytes: config.disk_warn_free_bytes,
            min_free_bytes: config.disk_min_free_bytes,
        }));
        let rules = TopicRules {
            limits: TopicLimits {
                default_partitions: u32::try_from(config.num_partitions).unwrap_or(1),
                default_replication_factor: config.default_replication_factor,
                ..TopicLimits::default()
            },
            broker: config.node_id,
            peers: network.peers.clone(),
            defaults: self.defaults.clone(),
        };
        let controller = Controller::start(runtime, rules, group.clone(), Arc::clone(&applied), Arc::clone(&disk));
        if let Some(services) = &network.services {
            runtime.spawn(follow_places(Arc::clone(&applied), services.clone(), self.stopping.clone()));
        }
        Ok(Member { data_dir, groups, group, applied, controller, disk, network })
    }

    /// Where this broker is, and who.
    fn registration(&self, data_dir: &DataDir) -> Registration {
        let config = self.config;
        let address = match &config.advertised {
            Some(address) => address.clone(),
            None => HostPort { host: self.kafka.ip().to_string(), port: self.kafka.port() },
        };
        Registration {
            id: config.node_id,
            host: address.host,
            port: address.port,
            peer: config.peer.as_ref().map_or_else(String::new, |peer| peer.advertised.to_string()),
            directory: DirectoryId(data_dir.meta().directory_id.0),
            rack: config.rack.clone(),
            metadata_replica: data_dir.groups().iter().find(|row| row.group == METADATA_GROUP).map(|row| row.replica),
        }
    }

    /// Writes who this broker is and where it is reached into the metadata that it alone leads, unless it is there
    /// already. On a new cluster this is the first batch, which begins with the feature level.
    async fn register(&self, member: &Member) -> Result<(), StartError> {
        let term = member.group.leadership().borrow().term;
        // It runs: whoever comes with another data directory is not this one.
        let registered = register_broker(&member.applied.image(), &self.registration(&member.data_dir), true)?;
        let written = controller::write(self.runtime, &member.group, &registered.records, term).await;
        written.map(drop).map_err(|error| match error {
            ControllerError::Group(error) => StartError::Metadata(error),
            error => StartError::NotRegistered(error.to_string()),
        })
    }
}

/// Where brokers may be by all that the log of the metadata holds: after a power loss little of it is known to be
/// committed before somebody is found who says so.
async fn places_in_log(runtime: &Runtime, member: &Member) -> BTreeMap<BrokerId, HostPort> {
    let mut brokers = BTreeMap::new();
    let mut next = member.applied.index().map_or(RaftIndex(0), |applied| RaftIndex(applied.0 + 1));
    loop {
        let page = match member.group.log().entries(next, RaftIndex(u64::MAX), LOG_PAGE_BYTES) {
            Ok(Entries::Ready(entries)) => Ok(entries),
            Ok(Entries::Cold(cold)) => runtime.blocking(move || cold.run()).await,
            Err(error) => Err(error),
        };
        // Whoever cannot read its log hears of that elsewhere.
        let page = page.unwrap_or_default();
        let Some((last, _)) = page.last() else { return brokers };
        next = RaftIndex(last.index.0 + 1);
        let batches = page.iter().filter(|(_, batch)| !batch.header().attributes.is_raft_only());
        for record in batches.filter_map(|(_, batch)| decode_batch(&batch.to_bytes()).ok()).flatten() {
            match record {
                MetadataRecord::Broker(broker) => brokers.extend(place(&broker)),
                MetadataRecord::BrokerRemoved(broker) => drop(brokers.remove(&broker)),
                _ => {}
            }
        }
    }
}

/// Keeps up where the brokers of the cluster are.
async fn follow_places(applied: Arc<Applied>, services: Services, stopping: CancellationToken) {
    let mut follow = applied.follow();
    loop {
        services.registered(places(&applied.image()));
        tokio::select! {
            biased;
            () = stopping.cancelled() => return,
            changed = follow.changed() => if changed.is_err() { return },
        }
    }
}
