//! What all simulated clients share: a connection that is made again when it is lost, the history, the end of the run.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use millpond_runtime::Runtime;
use millpond_runtime::sim::{NodeId, Rng, World};
use millpond_wire::Request;

use crate::connection::{Connection, ConnectionError};
use crate::history::History;

/// How long a client waits for an answer; a slow sync and a restart take less.
pub const ANSWER_TIME: Duration = Duration::from_secs(30);

/// What a run's clients and its director share.
#[derive(Clone)]
pub struct Shared {
    /// The world.
    pub world: World,
    /// Where the broker listens.
    pub address: SocketAddr,
    history: Arc<Mutex<History>>,
    calm: Arc<AtomicBool>,
    winding_down: Arc<AtomicBool>,
}

impl Shared {
    /// For a broker that listens at `address`.
    pub fn new(world: World, address: SocketAddr) -> Shared {
        Shared { world, address, history: Arc::default(), calm: Arc::default(), winding_down: Arc::default() }
    }

    /// The history.
    pub fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on nothing more is to go wrong.
    pub fn calm_down(&self) {
        self.calm.store(true, Ordering::Relaxed);
    }

    /// Whether nothing more goes wrong.
    pub fn is_calm(&self) -> bool {
        self.calm.load(Ordering::Relaxed)
    }

    /// Tells the clients to finish what they have begun and to begin nothing new.
    pub fn wind_down(&self) {
        self.winding_down.store(true, Ordering::Relaxed);
    }

    /// Whether clients should finish.
    pub fn is_winding_down(&self) -> bool {
        self.winding_down.load(Ordering::Relaxed)
    }
}

/// One simulated client, on a node of its own.
pub struct Client {
    /// The run.
    pub shared: Shared,
    /// Its node.
    pub node: NodeId,
    /// Its runtime.
    pub runtime: Runtime,
    /// Its choices.
    pub rng: Rng,
    name: String,
    connection: Option<Connection>,
}

impl Client {
    /// A client with a name for the trace and for the broker.
    pub fn new(shared: &Shared, node: NodeId, name: String) -> Client {
        let runtime = shared.world.runtime_for(node);
        let rng = shared.world.rng(&name);
        Client { shared: shared.clone(), node, runtime, rng, name, connection: None }
    }

    /// Notes something in the trace.
    pub fn note(&self, text: &str) {
        self.shared.world.note(self.node, text);
    }

    /// Waits for a random time of `low..=high` milliseconds.
    pub async fn pause(&mut self, low: u64, high: u64) {
        let milliseconds = self.rng.between(low, high);
        self.runtime.sleep(Duration::from_millis(milliseconds)).await;
    }

    /// The connection, made when there is none; after a failure it waits a little and gives `None`.
    pub async fn connection(&mut self) -> Option<&mut Connection> {
        if self.connection.is_none() {
            let opened = Connection::open(&self.runtime, self.shared.address, &self.name);
            match self.runtime.timeout(ANSWER_TIME, opened).await {
                Ok(Ok(connection)) => self.connection = Some(connection),
                Ok(Err(error)) => self.lost(&error),
                Err(_) => self.lost(&ConnectionError::TimedOut),
            }
        }
        if self.connection.is_none() {
            self.pause(10, 300).await;
        }
        self.connection.as_mut()
    }

    /// Gives the connection up. An answer that breaks the protocol fails the run.
    pub fn lost(&mut self, error: &ConnectionError) {
        self.note(&format!("{}: {error}", self.name));
        if let ConnectionError::Protocol(_) = error {
            self.shared.history().fail(format!("{}: {error}", self.name));
        }
        self.connection = None;
    }

    /// Closes the connection.
    pub fn disconnect(&mut self) {
        self.connection = None;
    }

    /// Sends a request; false when the connection is lost (and the request may have arrived).
    pub async fn send<R: Request>(&mut self, version: i16, request: &R, answered: bool) -> bool {
        let runtime = self.runtime.clone();
        let Some(connection) = self.connection().await else { return false };
        let sent = async {
            if answered {
                connection.send(version, request).await
            } else {
                connection.send_unanswered(version, request).await
            }
        };
        match runtime.timeout(ANSWER_TIME, sent).await {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => self.lost(&error),
            Err(_) => self.lost(&ConnectionError::TimedOut),
        }
        false
    }

    /// Receives the oldest answer; `None` when the connection is lost.
    pub async fn receive<R: Request>(&mut self, version: i16) -> Option<R::Response> {
        let connection = self.connection.as_mut()?;
        match self.runtime.timeout(ANSWER_TIME, connection.receive::<R>(version)).await {
            Ok(Ok(response)) => return Some(response),
            Ok(Err(error)) => self.lost(&error),
            Err(_) => self.lost(&ConnectionError::TimedOut),
        }
        None
    }

    /// Sends a request and receives its answer; `None` when the connection is lost.
    pub async fn call<R: Request>(&mut self, version: i16, request: &R) -> Option<R::Response> {
        if self.send(version, request, true).await { self.receive::<R>(version).await } else { None }
    }

    /// Picks one of the listed versions.
    pub fn version(&mut self, versions: &[i16]) -> i16 {
        self.rng.pick(versions)
    }
}
