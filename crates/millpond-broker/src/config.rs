//! The validated configuration of one broker: raw names and values in, a typed [`BrokerConfig`] out.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use millpond_coordinator::GroupSettings;
use millpond_record::BrokerId;
use millpond_runtime::HostPort;

use crate::settings::{self, Kind, SETTINGS, Setting};

/// Why a configuration was refused. Each text is one sentence that names the setting and what it may be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// No such setting.
    #[error("there is no setting '{name}'; {}", .nearest.map_or_else(
        || "`millpond config explain` names them all".to_owned(),
        |nearest| format!("did you mean '{nearest}'?"),
    ))]
    Unknown {
        /// The name that was given.
        name: String,
        /// The name that it may be a slip for.
        nearest: Option<&'static str>,
    },
    /// The value does not fit the setting.
    #[error("'{value}' is no value for {name}, which is {kind}")]
    BadValue {
        /// The setting.
        name: &'static str,
        /// The value that was given.
        value: String,
        /// What it may be.
        kind: Kind,
    },
    /// Clients cannot connect to an address that stands for all of a host's.
    #[error("listeners is {listener}, which clients cannot connect to: set advertised.listeners (--advertise)")]
    NothingToAdvertise {
        /// The address listened on.
        listener: SocketAddr,
    },
    /// Other brokers cannot connect to an address that stands for all of a host's.
    #[error(
        "millpond.peer.listener (--peer) is {listener}, which other brokers cannot connect to: name this host in \
         millpond.peers (--peers), or another address"
    )]
    NothingForPeers {
        /// The address listened on.
        listener: HostPort,
    },
    /// The list of founders leaves this broker out.
    #[error("millpond.peers (--peers) does not name this broker, {node}: add {node}@HOST:PORT, on each broker")]
    NotAmongPeers {
        /// This broker.
        node: BrokerId,
    },
    /// One port cannot be known to others before it is taken.
    #[error("broker {0} in millpond.peers (--peers) has port 0: give it one that does not change")]
    PeerPortZero(BrokerId),
    /// Two brokers cannot listen on one address.
    #[error("millpond.peers (--peers) gives brokers {first} and {second} the same address, {address}")]
    SamePeerAddress {
        /// A broker.
        first: BrokerId,
        /// Another one.
        second: BrokerId,
        /// The address of both.
        address: HostPort,
    },
    /// A broker founds a cluster or joins one.
    #[error("millpond.peers (--peers) founds a cluster, millpond.join (--join) joins one: give one of them")]
    FoundAndJoin,
    /// Who joins a cluster must be reached by it.
    #[error("millpond.join (--join) needs millpond.peer.listener (--peer), where the others reach this broker")]
    JoinWithoutPeer,
    /// Nobody can join itself.
    #[error(
        "millpond.join (--join) names only {own}, which is this broker itself: name brokers of the cluster, or leave \
         it out to found one"
    )]
    JoinsItself {
        /// Where other brokers reach this one.
        own: HostPort,
    },
    /// The process may not open enough files.
    #[error("only {limit} files may be open at once (ulimit -n), at least {MIN_OPEN_FILES} are needed")]
    TooFewFiles {
        /// What the system allows.
        limit: u64,
    },
}

/// The fewest open files that a broker can work with: journal, a few logs, a few clients.
const MIN_OPEN_FILES: u64 = 256;

/// Logs that a start after a crash has open at the same time: where it is not known how many files there may be, and at
/// most.
const LEAST_OPEN_LOGS: usize = 32;
const MOST_OPEN_LOGS: usize = 4096;

/// Requests of one connection that may wait for their answer; reading stops until one is answered.
const MAX_PENDING: usize = 256;

/// Journal files kept and reused.
const JOURNAL_FILES: u32 = 8;

/// Topics with `millpond.flush=relaxed` are synced in the background whenever they have written this much.
const RELAXED_SYNC_BYTES: u64 = 64 << 20;

/// Where a sync covers this much of one partition, its segment is synced and the journal spared a second copy.
const SEGMENT_SYNC_BYTES: u64 = 512 << 10;

/// The longest name of a rack.
const MAX_TEXT_BYTES: usize = 255;

/// What the groups of one partition of `__consumer_offsets` may take in memory.
const MAX_GROUP_STATE_BYTES: usize = 64 << 20;

const MINUTE_MS: i64 = 60_000;

/// Parses `HOST:PORT`; an IPv6 address is written in brackets. Kafka's prefix `PLAINTEXT://` is accepted.
fn host_port(text: &str) -> Option<HostPort> {
    text.strip_prefix("PLAINTEXT://").unwrap_or(text).parse().ok()
}

/// The socket address, when the host is an IP address or `localhost`.
fn socket_addr(HostPort { host, port }: &HostPort) -> Option<SocketAddr> {
    let ip = if host == "localhost" { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { host.parse().ok()? };
    Some(SocketAddr::new(ip, *port))
}

/// Where this broker is among others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// Where it listens for them.
    pub listen: SocketAddr,
    /// Where they reach it.
    pub advertised: HostPort,
    /// Who founds a cluster together, this broker included: `millpond.peers`. Empty for one that joins, or that founds
    /// alone.
    pub founders: BTreeMap<BrokerId, HostPort>,
    /// Where a cluster may be found to join: `millpond.join`.
    pub join: Vec<HostPort>,
}

/// What a broker runs with. [`BrokerConfig::resolve`] is the only way to make one from settings; the defaults are
/// those of the [`SETTINGS`] table.
#[derive(Clone, Debug)]
pub struct BrokerConfig {
    /// `node.id`.
    pub node_id: BrokerId,
    /// `log.dir`.
    pub data_dir: PathBuf,
    /// `listeners`.
    pub kafka: SocketAddr,
    /// `advertised.listeners`.
    pub advertised: Option<HostPort>,
    /// `millpond.http.listener`.
    pub http: SocketAddr,
    /// `auto.create.topics.enable`.
    pub auto_create_topics: bool,
    /// `num.partitions`.
    pub num_partitions: i32,
    /// `default.replication.factor`; `None` leaves it to the number of brokers.
    pub default_replication_factor: Option<u16>,
    /// `millpond.peer.listener`, `millpond.peers`, `millpond.join`; `None` for a broker without others.
    pub peer: Option<PeerConfig>,
    /// `broker.rack`.
    pub rack: Option<String>,
    /// Values that differ from the default of their setting, by its name.
    pub given: BTreeMap<&'static str, String>,
    /// Topic settings whose default differs from the built-in one, by the topic's name for them.
    pub topic_defaults: BTreeMap<&'static str, String>,
    /// `socket.request.max.bytes`.
    pub request_max_bytes: u32,
    /// `queued.max.request.bytes`.
    pub produce_memory_bytes: u64,
    /// `millpond.answer.memory.bytes`.
    pub answer_memory_bytes: u64,
    /// `max.connections`.
    pub max_connections: usize,
    /// `max.connections.per.ip`.
    pub max_connections_per_ip: usize,
    /// `connections.max.idle.ms`.
    pub max_idle: Duration,
    /// `max.incremental.fetch.session.cache.slots`.
    pub fetch_session_slots: usize,
    /// `fetch.max.bytes`.
    pub fetch_max_bytes: u32,
    /// Requests of one connection that may wait for their answer. Not a setting.
    pub max_pending: usize,
    /// `millpond.tail.cache.bytes`.
    pub tail_cache_bytes: u64,
    /// `millpond.disk.warn.free.bytes`.
    pub disk_warn_free_bytes: u64,
    /// `millpond.disk.min.free.bytes`.
    pub disk_min_free_bytes: u64,
    /// `log.index.interval.bytes`.
    pub index_interval_bytes: u32,
    /// `millpond.journal.file.bytes`.
    pub journal_file_bytes: u64,
    /// Journal files kept and reused. Not a setting.
    pub journal_files: u32,
    /// `log.retention.check.interval.ms`.
    pub retention_check_interval_ms: u64,
    /// Limits of groups: `offsets.retention.minutes`, `group.initial.rebalance.delay.ms`.
    pub groups: GroupSettings,
    /// How much of relaxed topics is written between two syncs of them. Not a setting.
    pub relaxed_sync_bytes: u64,
    /// From how much of one partition on a sync spares the journal its copy. Not a setting.
    pub segment_sync_bytes: u64,
    /// `millpond.catch.up.bytes.per.second`.
    pub catch_up_bytes_per_second: u64,
    /// Logs that a start after a crash has open at the same time. Not a setting: [`BrokerConfig::fit_open_files`].
    pub open_logs: usize,
}

impl ConfigError {
    /// Whether it is about one of these names and values, rather than about how settings fit together.
    pub fn is_of(&self, given: &[(String, String)]) -> bool {
        match self {
            ConfigError::Unknown { name, .. } => given.iter().any(|(known, _)| known == name),
            ConfigError::BadValue { name, value, .. } => given.iter().any(|(known, bad)| known == name && bad == value),
            _ => false,
        }
    }
}

impl BrokerConfig {
    /// Resolves names and values; a later one overrides an earlier one of the same name.
    ///
    /// # Errors
    /// The first unknown name, the first value that does not fit its setting, or settings that do not fit together.
    pub fn resolve<N: AsRef<str>, V: Into<String>>(
        given: impl IntoIterator<Item = (N, V)>,
    ) -> Result<BrokerConfig, ConfigError> {
        let mut values: BTreeMap<&'static str, String> = BTreeMap::new();
        for (name, value) in given {
            let name = name.as_ref();
            let Some(setting) = settings::find(name) else {
                return Err(ConfigError::Unknown { name: name.to_owned(), nearest: settings::nearest(name) });
            };
            let value = value.into();
            check(setting, &value)?;
            values.insert(setting.name, value);
        }
        let values = Values(values);
        let peer = values.peer()?;
        let config = BrokerConfig { peer, ..values.config() };
        if config.kafka.ip().is_unspecified() && config.advertised.is_none() {
            return Err(ConfigError::NothingToAdvertise { listener: config.kafka });
        }
        Ok(config)
    }
}

impl BrokerConfig {
    /// Holds the connections to half of the files that the process may have open: the rest is for logs and the journal,
    /// which must not fail because of clients. A start after a crash may take three eighths for logs.
    ///
    /// # Errors
    /// [`ConfigError::TooFewFiles`] below 256.
    pub fn fit_open_files(&mut self, limit: u64) -> Result<(), ConfigError> {
        if limit < MIN_OPEN_FILES {
            return Err(ConfigError::TooFewFiles { limit });
        }
        self.max_connections = self.max_connections.min(usize::try_from(limit / 2).unwrap_or(usize::MAX));
        self.open_logs = usize::try_from(limit / 8).map_or(MOST_OPEN_LOGS, |logs| logs.min(MOST_OPEN_LOGS));
        Ok(())
    }
}

/// Checks one value against its setting.
fn check(setting: &'static Setting, value: &str) -> Result<(), ConfigError> {
    let fits = match setting.kind {
        Kind::Switch => matches!(value, "true" | "false"),
        Kind::Whole { min, max, .. } => value.parse::<i64>().is_ok_and(|number| (min..=max).contains(&number)),
        Kind::Word(words) => words.contains(&value),
        Kind::Listener => host_port(value).is_some_and(|address| socket_addr(&address).is_some()),
        Kind::Address => value.is_empty() || host_port(value).is_some_and(|address| address.port != 0),
        Kind::Folder => !value.is_empty(),
        Kind::Text => value.len() <= MAX_TEXT_BYTES && !value.chars().any(char::is_control),
        Kind::Addresses => addresses(value).is_some(),
        Kind::Peers => peers(value).is_some(),
    };
    if fits {
        Ok(())
    } else {
        Err(ConfigError::BadValue { name: setting.name, value: value.to_owned(), kind: setting.kind })
    }
}

/// What stands between commas; nothing in an empty text.
fn items(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(move |_| !list.trim().is_empty())
}

/// `HOST:PORT,HOST:PORT,…`.
fn addresses(list: &str) -> Option<Vec<HostPort>> {
    items(list).map(|item| host_port(item).filter(|address| address.port != 0)).collect()
}

/// `ID@HOST:PORT,…`, each id once.
fn peers(list: &str) -> Option<BTreeMap<BrokerId, HostPort>> {
    let mut peers = BTreeMap::new();
    for item in items(list) {
        let (id, address) = item.split_once('@')?;
        let id = id.parse().ok().filter(|id| *id >= 0).map(BrokerId)?;
        if peers.insert(id, host_port(address)?).is_some() {
            return None;
        }
    }
    Some(peers)
}

/// Checked values by name; what is missing has its default.
struct Values(BTreeMap<&'static str, String>);

const CHECKED: &str = "values are checked when they are taken, and the defaults of the table by a test";

impl Values {
    fn text(&self, name: &str) -> &str {
        match self.0.get(name) {
            Some(value) => value,
            None => settings::find(name).expect("the names below are in the table").default,
        }
    }

    fn number<T: TryFrom<i64>>(&self, name: &str) -> T {
        let number: i64 = self.text(name).parse().expect(CHECKED);
        T::try_from(number).ok().expect("the range in the table fits the type")
    }

    fn listener(&self, name: &str) -> SocketAddr {
        host_port(self.text(name)).as_ref().and_then(socket_addr).expect(CHECKED)
    }

    /// Where the broker is among others, if it is to have any.
    fn peer(&self) -> Result<Option<PeerConfig>, ConfigError> {
        let node = BrokerId(self.number("node.id"));
        let founders = peers(self.text("millpond.peers")).expect(CHECKED);
        let join = addresses(self.text("millpond.join")).expect(CHECKED);
        let listener = host_port(self.text("millpond.peer.listener"));
        if !founders.is_empty() && !join.is_empty() {
            return Err(ConfigError::FoundAndJoin);
        }
        if let Some((id, _)) = founders.iter().find(|(_, address)| address.port == 0) {
            return Err(ConfigError::PeerPortZero(*id));
        }
        let mut seen: BTreeMap<(&str, u16), BrokerId> = BTreeMap::new();
        for (&second, address) in &founders {
            if let Some(first) = seen.insert((&address.host, address.port), second) {
                return Err(ConfigError::SamePeerAddress { first, second, address: address.clone() });
            }
        }
        let own = founders.get(&node);
        if own.is_none() && !founders.is_empty() {
            return Err(ConfigError::NotAmongPeers { node });
        }
        let Some(listener) = listener.as_ref().or(own) else {
            return if join.is_empty() { Ok(None) } else { Err(ConfigError::JoinWithoutPeer) };
        };
        // A name is what others know; which of its addresses is this machine's need not be known here.
        let everywhere = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), listener.port);
        let listen = socket_addr(listener).unwrap_or(everywhere);
        let advertised = own.unwrap_or(listener).clone();
        if socket_addr(&advertised).is_some_and(|address| address.ip().is_unspecified()) {
            return Err(ConfigError::NothingForPeers { listener: advertised });
        }
        if !join.is_empty() && join.iter().all(|address| *address == advertised) {
            return Err(ConfigError::JoinsItself { own: advertised });
        }
        Ok(Some(PeerConfig { listen, advertised, founders, join }))
    }

    fn config(&self) -> BrokerConfig {
        let given = SETTINGS.iter().filter_map(|setting| {
            let value = self.0.get(setting.name)?;
            (value != setting.default).then(|| (setting.name, value.clone()))
        });
        let given: BTreeMap<_, _> = given.collect();
        let defaults = SETTINGS.iter().filter_map(|setting| Some((setting.topic?, given.get(setting.name)?.clone())));
        let topic_defaults = defaults.collect();
        BrokerConfig {
            given,
            node_id: BrokerId(self.number("node.id")),
            data_dir: PathBuf::from(self.text("log.dir")),
            kafka: self.listener("listeners"),
            advertised: host_port(self.text("advertised.listeners")),
            http: self.listener("millpond.http.listener"),
            auto_create_topics: self.text("auto.create.topics.enable") == "true",
            num_partitions: self.number("num.partitions"),
            default_replication_factor: Some(self.number("default.replication.factor")).filter(|factor| *factor > 0),
            peer: None,
            rack: Some(self.text("broker.rack").to_owned()).filter(|rack| !rack.is_empty()),
            topic_defaults,
            request_max_bytes: self.number("socket.request.max.bytes"),
            produce_memory_bytes: self.number("queued.max.request.bytes"),
            answer_memory_bytes: self.number("millpond.answer.memory.bytes"),
            max_connections: self.number("max.connections"),
            max_connections_per_ip: self.number("max.connections.per.ip"),
            max_idle: Duration::from_millis(self.number("connections.max.idle.ms")),
            fetch_session_slots: self.number("max.incremental.fetch.session.cache.slots"),
            fetch_max_bytes: self.number("fetch.max.bytes"),
            max_pending: MAX_PENDING,
            tail_cache_bytes: self.number("millpond.tail.cache.bytes"),
            disk_warn_free_bytes: self.number("millpond.disk.warn.free.bytes"),
            disk_min_free_bytes: self.number("millpond.disk.min.free.bytes"),
            index_interval_bytes: self.number("log.index.interval.bytes"),
            journal_file_bytes: self.number("millpond.journal.file.bytes"),
            journal_files: JOURNAL_FILES,
            retention_check_interval_ms: self.number("log.retention.check.interval.ms"),
            groups: GroupSettings {
                offsets_retention_ms: self.number::<i64>("offsets.retention.minutes") * MINUTE_MS,
                initial_rebalance_delay_ms: self.number("group.initial.rebalance.delay.ms"),
                max_state_bytes: MAX_GROUP_STATE_BYTES,
                ..GroupSettings::default()
            },
            relaxed_sync_bytes: RELAXED_SYNC_BYTES,
            segment_sync_bytes: SEGMENT_SYNC_BYTES,
            catch_up_bytes_per_second: self.number("millpond.catch.up.bytes.per.second"),
            open_logs: LEAST_OPEN_LOGS,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(given: &[(&str, &str)]) -> Result<BrokerConfig, ConfigError> {
        BrokerConfig::resolve(given.iter().copied())
    }

    #[test]
    fn every_default_of_the_table_fits_its_own_setting() {
        for setting in SETTINGS {
            check(setting, setting.default).unwrap_or_else(|error| panic!("{error}"));
        }
        let config = resolve(&[]).expect("the defaults resolve");
        assert_eq!(config.kafka.to_string(), "127.0.0.1:9092");
        assert!(config.topic_defaults.is_empty());
    }

    #[test]
    fn every_setting_given_as_its_default_changes_nothing() {
        let given: Vec<_> = SETTINGS.iter().map(|setting| (setting.name, setting.default)).collect();
        let (config, plain) = (resolve(&given).expect("it resolves"), resolve(&[]).expect("it resolves"));
        assert_eq!(format!("{config:?}"), format!("{plain:?}"));
    }

    #[test]
    fn a_value_is_refused_with_a_sentence_that_says_what_it_may_be() {
        for (name, value, sentence) in [
            (
                "num.partitions",
                "0",
                "'0' is no value for num.partitions, which is a whole number of partitions from 1 to 10000",
            ),
            (
                "auto.create.topics.enable",
                "yes",
                "'yes' is no value for auto.create.topics.enable, which is true or false",
            ),
            ("millpond.flush", "never", "'never' is no value for millpond.flush, which is one of durable, relaxed"),
            (
                "listeners",
                "somewhere",
                "'somewhere' is no value for listeners, which is HOST:PORT with an IP address or localhost as host",
            ),
            (
                "log.message.timestamp.after.max.ms",
                "-2",
                "'-2' is no value for log.message.timestamp.after.max.ms, which is a whole number of milliseconds, \
                 at least 0",
            ),
        ] {
            let error = resolve(&[(name, value)]).expect_err(name);
            assert_eq!(error.to_string(), sentence);
        }
    }

    const THREE: &str = "1@mill-1:9093, 2@mill-2:9093,3@[::1]:9093";

    #[test]
    fn a_broker_among_others_listens_where_the_list_says_unless_told_otherwise() {
        let alone = resolve(&[]).expect("it resolves");
        assert_eq!(alone.peer, None);
        let founder = resolve(&[("node.id", "3"), ("millpond.peers", THREE)]).expect("it resolves").peer;
        let founder = founder.expect("it has peers");
        assert_eq!(
            (founder.listen.to_string(), founder.advertised.to_string()),
            ("[::1]:9093".into(), "[::1]:9093".into())
        );
        assert_eq!(founder.founders.keys().map(|id| id.0).collect::<Vec<_>>(), [1, 2, 3]);
        let named = resolve(&[("millpond.peers", THREE)]).expect("it resolves").peer.expect("it has peers");
        assert_eq!(
            (named.listen.to_string(), named.advertised.to_string()),
            ("0.0.0.0:9093".into(), "mill-1:9093".into())
        );
        let everywhere = [("millpond.peers", THREE), ("millpond.peer.listener", "0.0.0.0:1")];
        let everywhere = resolve(&everywhere).expect("it resolves").peer.expect("it has peers");
        assert_eq!(
            (everywhere.listen.to_string(), everywhere.advertised.to_string()),
            ("0.0.0.0:1".into(), "mill-1:9093".into())
        );
        let joins = [("millpond.peer.listener", "127.0.0.1:5"), ("millpond.join", "a:1, b:2"), ("broker.rack", "r 1")];
        let joins = resolve(&joins).expect("it resolves");
        assert_eq!(joins.rack.as_deref(), Some("r 1"));
        assert_eq!(joins.peer.expect("it has peers").join.len(), 2);
    }

    #[test]
    fn a_bad_list_of_brokers_is_refused_with_a_sentence() {
        for (given, sentence) in [
            (
                vec![("node.id", "4"), ("millpond.peers", THREE)],
                "millpond.peers (--peers) does not name this broker, 4: add 4@HOST:PORT, on each broker",
            ),
            (
                vec![("millpond.peers", "1@a:1,1@b:1")],
                "'1@a:1,1@b:1' is no value for millpond.peers, which is ID@HOST:PORT, several with commas between \
                 them, each ID once",
            ),
            (
                vec![("millpond.peers", "1@a:1,2@a:1")],
                "millpond.peers (--peers) gives brokers 1 and 2 the same address, a:1",
            ),
            (
                vec![("millpond.peers", "1@a:0")],
                "broker 1 in millpond.peers (--peers) has port 0: give it one that does not change",
            ),
            (
                vec![("millpond.peers", THREE), ("millpond.join", "a:1")],
                "millpond.peers (--peers) founds a cluster, millpond.join (--join) joins one: give one of them",
            ),
            (
                vec![("millpond.join", "a:1")],
                "millpond.join (--join) needs millpond.peer.listener (--peer), where the others reach this broker",
            ),
            (
                vec![("millpond.peer.listener", "a:1"), ("millpond.join", "a:1, a:1")],
                "millpond.join (--join) names only a:1, which is this broker itself: name brokers of the cluster, or \
                 leave it out to found one",
            ),
            (
                vec![("millpond.peer.listener", "0.0.0.0:9093"), ("millpond.join", "a:1")],
                "millpond.peer.listener (--peer) is 0.0.0.0:9093, which other brokers cannot connect to: name this \
                 host in millpond.peers (--peers), or another address",
            ),
        ] {
            assert_eq!(resolve(&given).expect_err(sentence).to_string(), sentence);
        }
        for bad in ["1", "@a:1", "1@a", "x@a:1", "-1@a:1", "1@a:1,,2@b:1", "1@a:1,"] {
            assert!(resolve(&[("millpond.peers", bad)]).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_address_that_stands_for_all_needs_another_one_to_tell_clients() {
        let error = resolve(&[("listeners", "0.0.0.0:9092")]).expect_err("nothing to advertise");
        assert_eq!(error, ConfigError::NothingToAdvertise { listener: "0.0.0.0:9092".parse().expect("an address") });
        resolve(&[("listeners", "[::]:9092"), ("advertised.listeners", "broker-1:9092")]).expect("it resolves");
    }

    #[test]
    fn connections_leave_half_of_the_open_files_to_logs_and_these_some_to_the_journal() {
        let mut config = resolve(&[]).expect("it resolves");
        config.fit_open_files(1 << 20).expect("enough");
        assert_eq!((config.max_connections, config.open_logs), (10_000, 4096));
        config.fit_open_files(1024).expect("enough");
        assert_eq!((config.max_connections, config.open_logs), (512, 128));
        assert_eq!(config.fit_open_files(128), Err(ConfigError::TooFewFiles { limit: 128 }));
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_nearest_one() {
        let error = resolve(&[("num.partition", "3")]).expect_err("no such name");
        assert_eq!(error.to_string(), "there is no setting 'num.partition'; did you mean 'num.partitions'?");
        let error = resolve(&[("foo", "1")]).expect_err("no such name");
        assert_eq!(error.to_string(), "there is no setting 'foo'; `millpond config explain` names them all");
    }

    #[test]
    fn the_later_of_two_values_counts_and_topic_defaults_are_kept_by_the_topics_name() {
        let given = [("message.max.bytes", "1000"), ("message.max.bytes", "2000"), ("millpond.flush", "relaxed")];
        let config = resolve(&given).expect("it resolves");
        let defaults: Vec<_> = config.topic_defaults.iter().map(|(name, value)| (*name, value.as_str())).collect();
        assert_eq!(defaults, [("max.message.bytes", "2000"), ("millpond.flush", "relaxed")]);
    }

    #[test]
    fn addresses_are_parsed_with_names_ports_and_brackets() {
        let parsed = |text: &str| host_port(text).map(|address| address.to_string());
        assert_eq!(parsed("PLAINTEXT://broker-1.example:9092").as_deref(), Some("broker-1.example:9092"));
        assert_eq!(parsed("[::1]:0").as_deref(), Some("[::1]:0"));
        for bad in ["::1:9092", "host", "host:", ":1", "host:70000", "two words:1"] {
            assert_eq!(parsed(bad), None, "{bad}");
        }
    }
}
