//! The broker that the client's suite runs against: one that runs already, or one of our own.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use millpond_client::ClientConfig;

use super::{Broker, Client, Folder, PATIENCE};

/// The environment variable that names a broker to test against, `HOST:PORT`: Millpond or Apache Kafka, alone in its
/// cluster. It is left with the topics and groups that the tests have made.
const BOOTSTRAP: &str = "MILLPOND_TEST_BOOTSTRAP";

/// A broker that tests share with others: they neither kill it nor choose its settings, and each makes topics and
/// groups with [names of its own](unique).
pub struct AnyBroker {
    pub kafka: SocketAddr,
    /// Killed before its folder goes.
    _own: Option<(Broker, Folder)>,
}

impl AnyBroker {
    /// The one that the environment names, else one that is started with its data in a folder of this name.
    pub fn start(name: &str) -> AnyBroker {
        if let Ok(told) = std::env::var(BOOTSTRAP) {
            let address = told.to_socket_addrs().ok().and_then(|mut addresses| addresses.next());
            let kafka = address.unwrap_or_else(|| panic!("{BOOTSTRAP} is '{told}'; it must be HOST:PORT"));
            return AnyBroker { kafka, _own: None };
        }
        let folder = Folder::new(name);
        // As a Kafka that is tested against should have it.
        let broker = Broker::start(folder.path(), &["--set", "group.initial.rebalance.delay.ms=0"]);
        AnyBroker { kafka: broker.kafka, _own: Some((broker, folder)) }
    }

    /// A connection for what the client under test should not be asked about itself.
    pub fn client(&self) -> Client {
        Client::connect(self.kafka, PATIENCE).expect("it accepts")
    }

    /// How the client under test finds it.
    pub fn config(&self) -> ClientConfig {
        ClientConfig::new(&self.kafka.to_string()).expect("its address")
    }
}

/// A name for a topic or a group that nobody else has, also not an earlier run on the same broker.
pub fn unique(name: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock that is set");
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{name}-{:x}-{}-{count}", since.as_nanos(), std::process::id())
}
