//! The machines that the brokers run on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use millpond_broker::{Broker, BrokerConfig};
use millpond_runtime::Runtime;
use millpond_runtime::sim::{Crash, NodeId, World};
use tokio::sync::{Notify, watch};

use super::claims::Cluster;
use super::scenario::{BROKERS, ClusterScenario};

/// Every broker's data directory.
pub const DATA_DIR: &str = "/data";

/// The brokers' ports.
const KAFKA_PORT: u16 = 9092;
const PEER_PORT: u16 = 9093;
const HTTP_PORT: u16 = 9094;
/// How long a clean stop may take.
const STOP_TIME: Duration = Duration::from_secs(60);

/// A broker's node.
pub fn node(broker: i32) -> NodeId {
    NodeId(u16::try_from(broker).expect("brokers have small ids"))
}

/// Where clients reach a broker.
pub fn kafka_address(world: &World, broker: i32) -> SocketAddr {
    world.address(node(broker), KAFKA_PORT)
}

/// How far a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Starting,
    Running,
    /// It has ended by itself or was stopped.
    Ended,
}

/// The present life of a broker.
struct Life {
    state: watch::Receiver<State>,
    stop: Arc<Notify>,
}

/// All machines, each with its broker or off.
pub struct Machines {
    cluster: Cluster,
    scenario: ClusterScenario,
    lives: std::sync::Mutex<BTreeMap<i32, Life>>,
    may_end: Arc<std::sync::Mutex<BTreeSet<i32>>>,
}

impl Machines {
    /// Machines that are off.
    pub fn new(cluster: &Cluster, scenario: &ClusterScenario) -> Machines {
        Machines {
            cluster: cluster.clone(),
            scenario: scenario.clone(),
            lives: std::sync::Mutex::default(),
            may_end: Arc::default(),
        }
    }

    /// The world.
    pub fn world(&self) -> &World {
        &self.cluster.shared.world
    }

    /// A runtime that does not die with any broker.
    pub fn runtime(&self) -> Runtime {
        self.world().runtime_for(NodeId(0))
    }

    /// Whether a broker may end by itself, because its disk fails.
    pub fn may_end(&self, broker: i32, may: bool) {
        let mut all = self.may_end.lock().unwrap_or_else(PoisonError::into_inner);
        if may {
            all.insert(broker);
        } else {
            all.remove(&broker);
        }
    }

    fn config(&self, broker: i32) -> BrokerConfig {
        let world = self.world();
        let peers = (1..=BROKERS).map(|id| format!("{id}@{}", world.address(node(id), PEER_PORT)));
        let peers = peers.collect::<Vec<_>>().join(",");
        let id = broker.to_string();
        let settings = [("log.dir", DATA_DIR), ("node.id", id.as_str()), ("millpond.peers", peers.as_str())];
        let mut config = BrokerConfig::resolve(settings).expect("the settings are good");
        config.kafka = kafka_address(world, broker);
        config.http = world.address(node(broker), HTTP_PORT);
        config.auto_create_topics = false;
        config.journal_file_bytes = self.scenario.journal_file_bytes;
        config.tail_cache_bytes = self.scenario.tail_cache_bytes;
        config
    }

    fn lives(&self) -> std::sync::MutexGuard<'_, BTreeMap<i32, Life>> {
        self.lives.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a broker on its machine, which is off or dead.
    pub fn start(&self, broker: i32) {
        let world = self.world();
        let runtime = world.restart(node(broker));
        world.set_disk_faults(node(broker), self.scenario.faults);
        let (sender, state) = watch::channel(State::Starting);
        let stop = Arc::new(Notify::new());
        let (config, cluster, stopping) = (self.config(broker), self.cluster.clone(), Arc::clone(&stop));
        let may_end = Arc::clone(&self.may_end);
        let ends = move |why: String| {
            let world = &cluster.shared.world;
            if may_end.lock().unwrap_or_else(PoisonError::into_inner).contains(&broker) {
                world.note(node(broker), &why);
                // Whoever runs it sees its process end.
                world.crash(node(broker), Crash::Kill);
            } else {
                cluster.shared.history().fail(why);
            }
        };
        runtime.clone().spawn(async move {
            let running = match Broker::start(runtime, config).await {
                Ok(running) => running,
                Err(error) => {
                    ends(format!("broker {broker} does not start: {error}"));
                    let _ = sender.send(State::Ended);
                    return;
                }
            };
            let _ = sender.send(State::Running);
            tokio::select! {
                biased;
                why = running.fatal() => {
                    ends(format!("broker {broker} ends: {why}"));
                }
                () = stopping.notified() => {}
            }
            if let Err(error) = running.shutdown().await {
                ends(format!("broker {broker}: a stop is not clean: {error}"));
            }
            let _ = sender.send(State::Ended);
        });
        self.lives().insert(broker, Life { state, stop });
    }

    /// Ends a broker's life.
    pub fn crash(&self, broker: i32, kind: Crash) {
        if self.world().is_alive(node(broker)) {
            self.may_lose_power(broker, kind);
            self.world().crash(node(broker), kind);
            // The others may lead on in their epochs: this is not the end of the one broker's life.
            self.cluster.shared.history().stopped();
        }
        self.lives().remove(&broker);
    }

    /// A broker's machine is about to die like this.
    pub fn may_lose_power(&self, broker: i32, kind: Crash) {
        if kind == Crash::PowerCut {
            self.cluster.loses_power(broker);
        }
    }

    /// Whether a broker's process is there.
    pub fn is_alive(&self, broker: i32) -> bool {
        self.world().is_alive(node(broker)) && self.lives().contains_key(&broker)
    }

    /// Stops a broker as SIGTERM does, and switches its machine off. One that is not up yet is killed instead.
    pub async fn stop(&self, broker: i32) {
        let Some((mut state, stop)) = self.lives().get(&broker).map(|life| (life.state.clone(), life.stop.clone()))
        else {
            return;
        };
        if *state.borrow() != State::Running {
            self.crash(broker, Crash::Kill);
            return;
        }
        stop.notify_one();
        let ended = async {
            tokio::select! {
                biased;
                () = self.world().wait_until_dead(node(broker)) => {}
                _ = state.wait_for(|state| *state == State::Ended) => {}
            }
        };
        if self.runtime().timeout(STOP_TIME, ended).await.is_err() {
            let text = format!("broker {broker}: a clean stop takes more than {} s", STOP_TIME.as_secs());
            self.cluster.shared.history().fail(text);
        }
        self.world().note(node(broker), "stopped");
        self.crash(broker, Crash::PowerCut);
    }

    /// Waits until a broker has started, at most for `limit`. False when it has not.
    pub async fn started(&self, broker: i32, limit: Duration) -> bool {
        let Some(mut state) = self.lives().get(&broker).map(|life| life.state.clone()) else { return false };
        let started =
            async { state.wait_for(|state| *state != State::Starting).await.is_ok_and(|s| *s == State::Running) };
        self.runtime().timeout(limit, started).await.unwrap_or(false)
    }
}
