//! The brokers of a cluster: who they are, which one is the controller, and calls that are tried again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use millpond_wire::find_coordinator::FindCoordinatorRequest;
use millpond_wire::metadata::{MetadataRequest, MetadataRequestTopic, MetadataResponse};
use millpond_wire::{ErrorCode, Request, Str};
use tokio::time::Instant;
use tracing::debug;

use crate::address::Address;
use crate::clock;
use crate::config::ClientConfig;
use crate::connection::Connection;
use crate::error::{Error, Result};
use crate::slot::Slot;
use crate::transport::{Tcp, Transport};

/// The first version in which a client can say that asking must not create a topic.
const METADATA_CREATES_NOTHING: i16 = 4;

/// From here on FindCoordinator asks for several groups.
const COORDINATORS_OF_MANY: i16 = 4;

/// Which broker a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Any one will do.
    Any,
    /// The controller; brokers forward to it too, but not all of those before Kafka 2.8.
    Controller,
    /// The one with this id.
    Broker(i32),
}

/// Whom a call is for.
#[derive(Clone, Copy)]
enum Whom<'a> {
    Target(Target),
    /// The coordinator of the group of this name.
    Coordinator(&'a str),
}

/// A broker as the cluster tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerAddress {
    /// Its id.
    pub id: i32,
    /// Where clients reach it.
    pub address: Address,
    /// Its rack, if it has one.
    pub rack: Option<String>,
}

/// A cluster. Clones share its connections.
#[derive(Clone)]
pub struct Cluster(Arc<Inner>);

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Cluster").field(&self.0.config.bootstrap).finish()
    }
}

struct Inner {
    config: ClientConfig,
    transport: Arc<dyn Transport>,
    known: Mutex<Known>,
    slots: Mutex<BTreeMap<Address, Arc<Slot>>>,
    /// Where the next search for any broker begins, so that not all go to the first.
    turn: AtomicUsize,
}

#[derive(Default)]
struct Known {
    brokers: BTreeMap<i32, BrokerAddress>,
    controller: Option<i32>,
}

impl Cluster {
    /// Connects over TCP: tries each bootstrap address once, and asks the first broker that answers for the others.
    ///
    /// # Errors
    /// [`Error::NoBroker`] when none answers; what the metadata request fails with.
    pub async fn connect(config: ClientConfig) -> Result<Cluster> {
        Cluster::connect_with(config, Arc::new(Tcp)).await
    }

    /// Connects over this transport, as [`connect`](Cluster::connect).
    ///
    /// # Errors
    /// As [`connect`](Cluster::connect).
    pub async fn connect_with(config: ClientConfig, transport: Arc<dyn Transport>) -> Result<Cluster> {
        let inner =
            Inner { config, transport, known: Mutex::default(), slots: Mutex::default(), turn: AtomicUsize::new(0) };
        let cluster = Cluster(Arc::new(inner));
        cluster.reach_any().await?;
        cluster.refresh(clock::now() + cluster.0.config.deadline).await?;
        Ok(cluster)
    }

    /// What it was told.
    pub fn config(&self) -> &ClientConfig {
        &self.0.config
    }

    /// The brokers as the last answer named them, by id.
    pub fn brokers(&self) -> Vec<BrokerAddress> {
        self.known().brokers.values().cloned().collect()
    }

    /// The controller as the last answer named it. On a KRaft cluster of Kafka it is any broker, which passes on what
    /// is meant for the controller.
    pub fn controller(&self) -> Option<i32> {
        self.known().controller
    }

    /// Asks for topics: these, or all. Never creates one. What is learned of the brokers is kept.
    ///
    /// # Errors
    /// Those of [`call`](Cluster::call); errors of single topics are in the answer.
    pub async fn metadata(&self, topics: Option<&[&str]>) -> Result<MetadataResponse> {
        self.metadata_of(Target::Any, topics).await
    }

    /// As [`metadata`](Cluster::metadata), of a certain broker: others may be behind the controller.
    ///
    /// # Errors
    /// As of [`metadata`](Cluster::metadata).
    pub async fn metadata_of(&self, target: Target, topics: Option<&[&str]>) -> Result<MetadataResponse> {
        let names = topics.map(<[&str]>::to_vec);
        let build = move |_| metadata_request(names.as_deref());
        let response = self.call(target, METADATA_CREATES_NOTHING, build, judge_metadata).await?;
        self.learn(&response);
        Ok(response)
    }

    /// Makes a call, and makes it again after a pause while its failure is one that passes, until the deadline.
    ///
    /// `build` makes the request for the version that is spoken with the broker, which is `least` or newer. `judge`
    /// gives the error that an answer as a whole stands for; errors of its parts are the caller's.
    ///
    /// # Errors
    /// [`Error::GaveUp`] at the deadline; at once what is not worth another try, above all [`Error::Unsupported`],
    /// [`Error::Protocol`], and an [`Error::Refused`] that is not retriable.
    pub async fn call<R, B, J>(&self, target: Target, least: i16, build: B, judge: J) -> Result<R::Response>
    where
        R: Request,
        B: Fn(i16) -> R + Send + Sync,
        J: Fn(&R::Response) -> Result<()> + Send + Sync,
    {
        self.call_whom(Whom::Target(target), least, build, judge).await
    }

    /// As [`call`](Cluster::call), of the coordinator of a group, which is looked for on each try.
    ///
    /// # Errors
    /// As of [`call`](Cluster::call).
    pub(crate) async fn call_coordinator<R, B, J>(
        &self,
        group: &str,
        least: i16,
        build: B,
        judge: J,
    ) -> Result<R::Response>
    where
        R: Request,
        B: Fn(i16) -> R + Send + Sync,
        J: Fn(&R::Response) -> Result<()> + Send + Sync,
    {
        self.call_whom(Whom::Coordinator(group), least, build, judge).await
    }

    /// A call that is made once, of a broker; another may be the right one by the next try.
    ///
    /// # Errors
    /// As of [`call`](Cluster::call), but for [`Error::GaveUp`].
    pub(crate) async fn call_once<R: Request>(
        &self,
        target: Target,
        least: i16,
        build: impl Fn(i16) -> R + Sync,
    ) -> Result<R::Response> {
        let deadline = clock::now() + self.0.config.deadline;
        self.once(Whom::Target(target), least, &build, &|_| Ok(()), deadline).await
    }

    async fn call_whom<R, B, J>(&self, whom: Whom<'_>, least: i16, build: B, judge: J) -> Result<R::Response>
    where
        R: Request,
        B: Fn(i16) -> R + Send + Sync,
        J: Fn(&R::Response) -> Result<()> + Send + Sync,
    {
        let config = &self.0.config;
        let deadline = clock::now() + config.deadline;
        let mut tries = 0_u32;
        loop {
            let error = match self.once(whom, least, &build, &judge, deadline).await {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            if !error.is_retriable() {
                return Err(error);
            }
            tries = tries.saturating_add(1);
            let pause = config.pause_after(tries, self.0.transport.random_u64());
            if clock::now() + pause >= deadline {
                return Err(Error::GaveUp { after: config.deadline, last: Box::new(error) });
            }
            debug!("{} is tried again in {} ms: {error}", R::NAME, pause.as_millis());
            clock::sleep(pause).await;
        }
    }

    /// Makes a call, once. What a failure shows to be wrong is forgotten.
    async fn once<R: Request>(
        &self,
        whom: Whom<'_>,
        least: i16,
        build: &(impl Fn(i16) -> R + Sync),
        judge: &(impl Fn(&R::Response) -> Result<()> + Sync),
        deadline: Instant,
    ) -> Result<R::Response> {
        let connected = match whom {
            Whom::Target(target) => self.connection(target, deadline).await,
            Whom::Coordinator(group) => self.coordinator(group, deadline).await,
        };
        let answered = match connected {
            Ok(connection) => self.ask(&connection, least, build, deadline).await,
            Err(error) => Err(error),
        };
        let judged = answered.and_then(|response| judge(&response).map(|()| response));
        judged.inspect_err(|error| self.heed(error))
    }

    /// Asks any broker for topics, once. `create` lets a cluster that does so make those that are missing.
    pub(crate) async fn topics_once(&self, names: &[Str], create: bool) -> Result<MetadataResponse> {
        let build = |_| {
            let named = |name: &Str| MetadataRequestTopic { name: Some(name.clone()), ..Default::default() };
            let topics = Some(names.iter().map(named).collect());
            MetadataRequest { topics, allow_auto_topic_creation: create, ..Default::default() }
        };
        let deadline = clock::now() + self.0.config.deadline;
        let response =
            self.once(Whom::Target(Target::Any), METADATA_CREATES_NOTHING, &build, &judge_metadata, deadline).await?;
        self.learn(&response);
        Ok(response)
    }

    /// Takes over where a broker is, as an answer about something else told (KIP-951).
    pub(crate) fn learn_broker(&self, id: i32, host: &str, port: i32, rack: Option<&str>) {
        let Some(address) = Address::told(host, port) else { return };
        let rack = rack.map(str::to_owned);
        self.known().brokers.insert(id, BrokerAddress { id, address, rack });
    }

    /// What it reaches brokers with.
    pub(crate) fn transport(&self) -> &dyn Transport {
        &*self.0.transport
    }

    async fn ask<R: Request>(
        &self,
        connection: &Connection,
        least: i16,
        build: &(impl Fn(i16) -> R + Sync),
        deadline: Instant,
    ) -> Result<R::Response> {
        let version = connection.version::<R>(least)?;
        let limit = self.0.config.request_limit.min(deadline.saturating_duration_since(clock::now()));
        connection.call(version, &build(version), limit).await
    }

    /// A connection to the target, made if there is none.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::TimedOut`] and what else connecting fails with; [`Error::Refused`] when the
    /// cluster knows of no such broker, or of no controller.
    pub async fn connection_to(&self, target: Target) -> Result<Connection> {
        self.connection(target, clock::now() + self.0.config.deadline).await
    }

    /// A connection to a broker that nobody else uses: for requests that wait at the broker, behind which everything
    /// else on their connection would wait, too.
    ///
    /// # Errors
    /// As of [`connection_to`](Cluster::connection_to).
    pub(crate) async fn own_connection_to(&self, broker: i32) -> Result<Connection> {
        let address = self.looked_up(Target::Broker(broker), clock::now() + self.0.config.deadline).await?;
        Connection::open(&*self.0.transport, &address, &self.0.config).await
    }

    async fn connection(&self, target: Target, deadline: Instant) -> Result<Connection> {
        if target == Target::Any {
            return self.any(deadline).await;
        }
        let address = self.looked_up(target, deadline).await?;
        self.connected(&address, deadline).await
    }

    async fn looked_up(&self, target: Target, deadline: Instant) -> Result<Address> {
        match self.address_of(target) {
            Some(address) => Ok(address),
            None => {
                self.refresh(deadline).await?;
                self.address_of(target).ok_or_else(|| unknown(target))
            }
        }
    }

    /// As [`own_connection_to`](Cluster::own_connection_to), to the coordinator of a group.
    ///
    /// # Errors
    /// As of [`connection_to`](Cluster::connection_to), and what looking for the coordinator fails with.
    pub(crate) async fn own_connection_to_coordinator(&self, group: &str) -> Result<Connection> {
        let address = self.coordinator_address(group, clock::now() + self.0.config.deadline).await?;
        Connection::open(&*self.0.transport, &address, &self.0.config).await
    }

    /// A connection to the coordinator of a group.
    async fn coordinator(&self, group: &str, deadline: Instant) -> Result<Connection> {
        let address = self.coordinator_address(group, deadline).await?;
        self.connected(&address, deadline).await
    }

    /// The coordinator of a group, as any broker names it.
    async fn coordinator_address(&self, group: &str, deadline: Instant) -> Result<Address> {
        let asked = self.any(deadline).await?;
        let build = |version| match version {
            COORDINATORS_OF_MANY.. => {
                FindCoordinatorRequest { coordinator_keys: vec![group.into()], ..Default::default() }
            }
            _ => FindCoordinatorRequest { key: group.into(), ..Default::default() },
        };
        let response = self.ask(&asked, 0, &build, deadline).await?;
        let (code, message, host, port) = match response.coordinators.first() {
            Some(found) => (found.error_code, found.error_message.as_deref(), &found.host, found.port),
            None => (response.error_code, response.error_message.as_deref(), &response.host, response.port),
        };
        let what = || format!("looking for the coordinator of the group {group}");
        Error::check(code, message, what)?;
        let unavailable = || Error::Refused {
            what: what(),
            code: ErrorCode::COORDINATOR_NOT_AVAILABLE,
            message: Some("it has no address".to_owned()),
        };
        Address::told(host, port).ok_or_else(unavailable)
    }

    /// A connection to any broker that is trusted, each asked once.
    async fn any(&self, deadline: Instant) -> Result<Connection> {
        let mut untrusted = BTreeMap::new();
        while let Some(address) = self.nearest(&untrusted) {
            match self.connected(&address, deadline).await {
                Err(error @ Error::Untrusted { .. }) => drop(untrusted.insert(address, error)),
                connected => return connected,
            }
        }
        Err(untrusted.into_values().next().unwrap_or_else(|| Error::NoBroker(Vec::new())))
    }

    fn address_of(&self, target: Target) -> Option<Address> {
        let known = self.known();
        let id = match target {
            Target::Any => return None,
            Target::Controller => known.controller?,
            Target::Broker(id) => id,
        };
        known.brokers.get(&id).map(|broker| broker.address.clone())
    }

    /// The address to ask when any broker but these will do: one that is connected, else the one whose turn comes
    /// first.
    fn nearest(&self, but: &BTreeMap<Address, Error>) -> Option<Address> {
        let mut addresses: Vec<Address> = self.known().brokers.values().map(|broker| broker.address.clone()).collect();
        let told: BTreeSet<&Address> = addresses.iter().collect();
        let bootstrap: Vec<Address> =
            self.0.config.bootstrap.iter().filter(|address| !told.contains(address)).cloned().collect();
        let first = self.0.turn.fetch_add(1, Ordering::Relaxed) % addresses.len().max(1);
        addresses.rotate_left(first);
        addresses.extend(bootstrap);
        addresses.retain(|address| !but.contains_key(address));
        let slots: Vec<(Address, Arc<Slot>)> =
            addresses.into_iter().map(|address| (address.clone(), self.slot(&address))).collect();
        let live = slots.iter().find(|(_, slot)| slot.live().is_some());
        live.or_else(|| slots.iter().min_by_key(|(_, slot)| slot.not_before())).map(|(address, _)| address.clone())
    }

    fn slot(&self, address: &Address) -> Arc<Slot> {
        let mut slots = self.0.slots.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(slots.entry(address.clone()).or_default())
    }

    async fn connected(&self, address: &Address, deadline: Instant) -> Result<Connection> {
        let slot = self.slot(address);
        if let Some(connection) = slot.live() {
            return Ok(connection);
        }
        let opened = async {
            let _turn = slot.turn.lock().await;
            if let Some(connection) = slot.live() {
                return Ok(connection);
            }
            if let Some(not_before) = slot.not_before() {
                clock::sleep(not_before.saturating_duration_since(clock::now())).await;
            }
            let config = &self.0.config;
            let opened = Connection::open(&*self.0.transport, address, config).await;
            match &opened {
                Ok(connection) => slot.connected(connection.clone()),
                Err(_) => {
                    slot.failed(clock::now(), |row| config.pause_after(row, self.0.transport.random_u64()));
                }
            }
            opened
        };
        let started = clock::now();
        clock::by(deadline, opened).await.unwrap_or_else(|| {
            let after = deadline.saturating_duration_since(started);
            Err(Error::TimedOut { broker: address.clone(), what: "connecting".to_owned(), after })
        })
    }

    /// Connects to the first bootstrap address that takes it, each tried once.
    async fn reach_any(&self) -> Result<()> {
        let mut reasons = Vec::new();
        for address in &self.0.config.bootstrap {
            match self.connected(address, clock::now() + self.0.config.deadline).await {
                Ok(_) => return Ok(()),
                Err(error) => reasons.push(error),
            }
        }
        Err(Error::NoBroker(reasons))
    }

    /// Asks any broker, once, who there is.
    async fn refresh(&self, deadline: Instant) -> Result<()> {
        let connection = self.any(deadline).await?;
        let response =
            self.ask(&connection, METADATA_CREATES_NOTHING, &|_| metadata_request(Some(&[])), deadline).await?;
        judge_metadata(&response)?;
        self.learn(&response);
        Ok(())
    }

    /// Takes over what an answer tells of brokers. One without any (a broker that is starting) tells nothing.
    fn learn(&self, response: &MetadataResponse) {
        let mut brokers = BTreeMap::new();
        for broker in &response.brokers {
            if let Some(address) = Address::told(&broker.host, broker.port) {
                let rack = broker.rack.as_ref().map(|rack| rack.as_str().to_owned());
                brokers.insert(broker.node_id, BrokerAddress { id: broker.node_id, address, rack });
            }
        }
        if brokers.is_empty() {
            return;
        }
        let used: BTreeSet<Address> = brokers.values().map(|broker| broker.address.clone()).collect();
        let controller = Some(response.controller_id).filter(|id| brokers.contains_key(id));
        *self.known() = Known { brokers, controller };
        let mut slots = self.0.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.retain(|address, _| used.contains(address) || self.0.config.bootstrap.contains(address));
    }

    /// Forgets what a failure shows to be wrong, so that the next try looks it up.
    fn heed(&self, error: &Error) {
        let moved = error.code().is_some_and(|code| code == ErrorCode::NOT_CONTROLLER || code.refreshes_metadata());
        if moved || error.is_of_the_connection() {
            self.known().controller = None;
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn metadata_request(topics: Option<&[&str]>) -> MetadataRequest {
    let named = |name: &&str| MetadataRequestTopic { name: Some((*name).into()), ..Default::default() };
    let topics = topics.map(|names| names.iter().map(named).collect());
    MetadataRequest { topics, allow_auto_topic_creation: false, ..Default::default() }
}

fn judge_metadata(response: &MetadataResponse) -> Result<()> {
    Error::check(response.error_code, None, || "asking for the metadata".to_owned())
}

fn unknown(target: Target) -> Error {
    match target {
        Target::Broker(id) => Error::Refused {
            what: format!("connecting to broker {id}"),
            code: ErrorCode::BROKER_NOT_AVAILABLE,
            message: Some("the cluster does not name such a broker".to_owned()),
        },
        Target::Controller | Target::Any => Error::Refused {
            what: "looking for the controller".to_owned(),
            code: ErrorCode::NOT_CONTROLLER,
            message: Some("the cluster names no controller at the moment".to_owned()),
        },
    }
}
