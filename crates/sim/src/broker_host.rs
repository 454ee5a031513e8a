//! The machine that the broker runs on: starts it, ends its lives, starts it again.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use millpond_broker::{Broker, BrokerConfig};
use millpond_runtime::Runtime;
use millpond_runtime::sim::{Crash, DiskFaults, NodeId, Rng};
use tokio::sync::Notify;

use crate::client::Shared;
use crate::scenario::{End, Scenario};
use crate::trouble::{Afflicting, Affliction};

/// The broker's node.
pub const BROKER: NodeId = NodeId(1);
/// The broker's ports.
pub const KAFKA_PORT: u16 = 9092;
const HTTP_PORT: u16 = 9094;
/// The broker's data directory.
const DATA: &str = "/data";

/// How long a start may take without disk faults, in simulated time.
const START_TIME: Duration = Duration::from_secs(120);
/// How long a clean stop may take.
const STOP_TIME: Duration = Duration::from_secs(60);

/// The broker's machine.
pub struct BrokerHost {
    shared: Shared,
    scenario: Scenario,
    rng: Rng,
    troubles_rng: Rng,
    /// The trouble of this life, if it has one.
    affliction: Option<Affliction>,
}

/// What a life has become.
enum Life {
    Running(Broker),
    /// It ended by itself: it did not start, or reported a fatal error.
    Ended(String),
    /// The node died.
    Dead,
}

impl BrokerHost {
    /// A machine that is off.
    pub fn new(shared: &Shared, scenario: &Scenario) -> BrokerHost {
        let (rng, troubles_rng) = (shared.world.rng("broker host"), shared.world.rng("broker host's troubles"));
        BrokerHost { shared: shared.clone(), scenario: scenario.clone(), rng, troubles_rng, affliction: None }
    }

    fn config(&self) -> BrokerConfig {
        let world = &self.shared.world;
        let address = |port| -> SocketAddr { world.address(BROKER, port) };
        let mut config = BrokerConfig::resolve([("log.dir", DATA)]).expect("the name is a setting's");
        config.kafka = address(KAFKA_PORT);
        config.http = address(HTTP_PORT);
        config.auto_create_topics = false;
        config.retention_check_interval_ms = self.scenario.retention_check_interval_ms;
        config.journal_file_bytes = self.scenario.journal_file_bytes;
        config.journal_files = self.scenario.journal_files;
        config.tail_cache_bytes = self.scenario.tail_cache_bytes;
        config.segment_sync_bytes = self.scenario.segment_sync_bytes;
        config.index_interval_bytes = self.scenario.index_interval_bytes;
        config
    }

    /// Lives through all crashes of the scenario; the broker is off at the end.
    pub async fn suffer(&mut self) {
        for _ in 0..self.scenario.crashes {
            let end = Scenario::draw_end(&mut self.rng);
            self.shared.world.note(BROKER, &format!("this life: {end:?}"));
            self.shared.world.set_disk_faults(BROKER, self.scenario.faults);
            self.live(end).await;
            self.rest().await;
            if !self.shared.history().failures().is_empty() || !self.shared.world.failures().is_empty() {
                return;
            }
        }
    }

    /// A while without a broker.
    async fn rest(&mut self) {
        let milliseconds = self.rng.between(0, 1_000);
        self.client_runtime().sleep(Duration::from_millis(milliseconds)).await;
    }

    /// A runtime that does not die with the broker.
    fn client_runtime(&self) -> Runtime {
        self.shared.world.runtime_for(NodeId(0))
    }

    async fn live(&mut self, end: End) {
        let world = self.shared.world.clone();
        // A crash that is ordered for an operation does not outlive the life that it is ordered in.
        world.restart(BROKER);
        self.scenario.troubles.flip(&mut self.troubles_rng, &self.shared, Path::new(DATA));
        self.affliction = self.scenario.troubles.affliction(&mut self.troubles_rng);
        let usual = self.scenario.faults;
        let begin = |affliction| Afflicting::begin(&self.client_runtime(), &self.shared, affliction, usual);
        let afflicting = self.affliction.map(begin);
        if let End::AtOperation(number, kind) = end {
            world.crash_at_disk_op(BROKER, world.disk_op_count(BROKER) + number, kind);
        }
        let limit = match end {
            // Enough for any number of operations; a broker without load does few.
            End::AtOperation(..) => 20_000,
            End::AtTime(milliseconds, _) | End::Stop(milliseconds) => milliseconds,
        };
        let runtime = self.client_runtime();
        let deadline = runtime.now() + Duration::from_millis(limit);
        let started = match runtime.timeout_at(deadline, self.start()).await {
            Ok(life) => life,
            Err(_) => Life::Ended("a start that takes long".to_owned()),
        };
        // It ends before it is dropped: a process that dies drops nothing.
        match (started, end) {
            (Life::Running(broker), _) => match (runtime.timeout_at(deadline, self.watch(&broker)).await, end) {
                (Ok(why), _) => self.ended(why),
                (Err(_), End::Stop(_)) => self.stop(broker).await,
                (Err(_), End::AtTime(_, kind) | End::AtOperation(_, kind)) => world.crash(BROKER, kind),
            },
            (Life::Ended(why), _) => self.ended(Some(why)),
            (Life::Dead, _) => {}
        }
        world.cancel_disk_crash(BROKER);
        drop(afflicting);
        if !world.is_alive(BROKER) {
            self.shared.history().crashed();
            // A stop loses nothing, but for one that could not write.
            let power = match end {
                End::AtOperation(_, kind) | End::AtTime(_, kind) => kind == Crash::PowerCut,
                End::Stop(_) => self.affliction.is_some() || self.scenario.faults.slow_sync > 0.0,
            };
            if power {
                self.shared.history().lost_power();
            }
        }
        self.affliction = None;
    }

    /// The broker ended by itself, if there is a reason; then its process does.
    fn ended(&self, why: Option<String>) {
        if let Some(why) = why {
            self.shared.world.note(BROKER, &format!("ended: {why}"));
            self.shared.world.crash(BROKER, Crash::Kill);
        }
    }

    /// Starts the broker on its node.
    async fn start(&self) -> Life {
        let world = &self.shared.world;
        let runtime = world.runtime_for(BROKER);
        let outcome: Arc<Mutex<Option<Result<Broker, String>>>> = Arc::default();
        let started = Arc::new(Notify::new());
        let (config, in_task, signal) = (self.config(), Arc::clone(&outcome), Arc::clone(&started));
        runtime.clone().spawn(async move {
            let result = Broker::start(runtime, config).await;
            let result = result.map_err(|error| error.to_string());
            *in_task.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
            signal.notify_one();
        });
        tokio::select! {
            biased;
            () = world.wait_until_dead(BROKER) => return Life::Dead,
            () = started.notified() => {}
        }
        let result = outcome.lock().unwrap_or_else(PoisonError::into_inner).take();
        match result {
            Some(Ok(broker)) => Life::Running(broker),
            Some(Err(why)) => {
                if self.is_quiet() && self.affliction.is_none() {
                    self.shared.history().fail(format!("the broker does not start: {why}"));
                }
                Life::Ended(why)
            }
            None => Life::Dead,
        }
    }

    /// Waits for the end of a life and gives the reason if the broker ended by itself.
    async fn watch(&self, broker: &Broker) -> Option<String> {
        tokio::select! {
            biased;
            () = self.shared.world.wait_until_dead(BROKER) => None,
            why = broker.fatal() => {
                if self.is_quiet() {
                    self.shared.history().fail(format!("the broker ends without a fault of its disk: {why}"));
                }
                Some(why.to_string())
            }
        }
    }

    fn is_quiet(&self) -> bool {
        self.scenario.faults.sync_error == 0.0
    }

    /// Stops the broker as SIGTERM does. A crash may come first.
    async fn stop(&self, broker: Broker) {
        let world = &self.shared.world;
        let done = Arc::new(Mutex::new(None));
        let (in_task, signal) = (Arc::clone(&done), Arc::new(Notify::new()));
        let stopped = Arc::clone(&signal);
        world.runtime_for(BROKER).spawn(async move {
            let result = broker.shutdown().await.map_err(|error| error.to_string());
            *in_task.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
            signal.notify_one();
        });
        let runtime = self.client_runtime();
        let waited = runtime.timeout(STOP_TIME, async {
            tokio::select! {
                biased;
                () = world.wait_until_dead(BROKER) => {}
                () = stopped.notified() => {}
            }
        });
        if waited.await.is_err() {
            self.shared.history().fail(format!("a clean stop takes more than {} s", STOP_TIME.as_secs()));
        }
        let result = done.lock().unwrap_or_else(PoisonError::into_inner).take();
        match result {
            Some(Ok(())) => {
                world.note(BROKER, "stopped");
                self.shared.history().stopped();
                // The machine is switched off after the stop: what it left undone is lost.
                world.crash(BROKER, Crash::PowerCut);
            }
            Some(Err(why)) => {
                if self.is_quiet() && self.affliction.is_none() {
                    self.shared.history().fail(format!("a stop is not clean: {why}"));
                }
                world.crash(BROKER, Crash::Kill);
                self.shared.history().crashed();
            }
            None => self.shared.history().crashed(),
        }
    }

    /// Starts the broker with a disk and a clock that behave, for good. `None` when that fails.
    pub async fn settle(&mut self) -> Option<Broker> {
        self.scenario.faults = DiskFaults::default();
        self.shared.world.set_disk_faults(BROKER, self.scenario.faults);
        self.shared.world.restart(BROKER);
        match self.client_runtime().timeout(START_TIME, self.start()).await {
            Ok(Life::Running(broker)) => Some(broker),
            Ok(_) => None,
            Err(_) => {
                self.shared.history().fail(format!("a start takes more than {} s", START_TIME.as_secs()));
                None
            }
        }
    }

    /// Ends the running broker in one of the three ways.
    pub async fn end(&mut self, broker: Broker) {
        match self.rng.below(3) {
            0 => self.stop(broker).await,
            1 => self.crash(Crash::Kill),
            _ => self.crash(Crash::PowerCut),
        }
    }

    fn crash(&self, kind: Crash) {
        self.shared.world.crash(BROKER, kind);
        self.shared.history().crashed();
        if kind == Crash::PowerCut {
            self.shared.history().lost_power();
        }
    }
}
