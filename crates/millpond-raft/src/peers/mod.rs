//! The other brokers of the cluster: who is there, who is alive, and how to talk to them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use millpond_record::BrokerId;
use millpond_runtime::Runtime;
use tokio::sync::watch;

/// Why a call to another broker has no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CallError {
    /// There is no connection to the broker. Nothing was sent.
    #[error("broker {0} cannot be reached")]
    NoLink(BrokerId),
    /// The connection broke, or the time was up, after the call was sent: it may have been carried out.
    #[error("broker {0} did not answer in time")]
    NoAnswer(BrokerId),
    /// The other broker says why it did not do it.
    #[error("{0}")]
    Refused(String),
}

/// What this broker does for others.
pub trait PeerServices: Send + Sync + 'static {
    /// Carries out a call. The error is a sentence for the caller.
    fn call(&self, from: BrokerId, service: u16, body: Bytes) -> BoxFuture<'static, Result<Bytes, String>>;
}

/// The other brokers. A clone is the same.
#[derive(Clone)]
pub struct Peers(Arc<Inner>);

struct Inner {
    broker: BrokerId,
    alive: watch::Sender<Arc<BTreeSet<BrokerId>>>,
}

impl std::fmt::Debug for Peers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Peers(broker {})", self.0.broker)
    }
}

impl Peers {
    /// A broker without others.
    pub fn alone(_runtime: &Runtime, broker: BrokerId) -> Peers {
        let alive = watch::Sender::new(Arc::new(BTreeSet::from([broker])));
        Peers(Arc::new(Inner { broker, alive }))
    }

    /// This broker.
    pub fn broker(&self) -> BrokerId {
        self.0.broker
    }

    /// The brokers that answer, this one among them.
    pub fn alive(&self) -> watch::Receiver<Arc<BTreeSet<BrokerId>>> {
        self.0.alive.subscribe()
    }

    /// Whether a broker answers. This one does.
    pub fn is_alive(&self, broker: BrokerId) -> bool {
        self.0.alive.borrow().contains(&broker)
    }

    /// Sends a message that has no answer. It is dropped when there is no connection; those that arrive do so in order.
    pub fn tell(&self, _to: BrokerId, _message: Bytes) {}

    /// Has another broker do something, and gives its answer.
    ///
    /// # Errors
    /// [`CallError`]; only after [`CallError::NoLink`] is it known that nothing was done.
    pub async fn call(&self, to: BrokerId, service: u16, body: Bytes, limit: Duration) -> Result<Bytes, CallError> {
        let _ = (service, body, limit);
        Err(CallError::NoLink(to))
    }
}
