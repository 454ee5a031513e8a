//! The table of broker settings: name, kind with unit and range, default, and what it does.
//!
//! Where Kafka has the setting it keeps Kafka's name and unit; what is ours begins with `millpond.`. The sample
//! `config/millpond.toml` is tested to hold exactly these names and defaults.

use std::fmt;

/// What a value may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`.
    Switch,
    /// A whole number between the limits, both included.
    Whole {
        /// Lowest value allowed.
        min: i64,
        /// Highest value allowed.
        max: i64,
        /// What is counted, e.g. `bytes`; empty for a bare number.
        unit: &'static str,
    },
    /// One of these words.
    Word(&'static [&'static str]),
    /// `HOST:PORT`, the host an IP address or `localhost`; port 0 takes a free one.
    Listener,
    /// `HOST:PORT` with any host name, or empty.
    Address,
    /// A folder.
    Folder,
    /// Any text on one line, at most 255 bytes.
    Text,
    /// `HOST:PORT,HOST:PORT,…`, or empty.
    Addresses,
    /// `ID@HOST:PORT,ID@HOST:PORT,…`, or empty.
    Peers,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Switch => write!(f, "true or false"),
            Kind::Whole { min, max, unit: "" } => write!(f, "a whole number from {min} to {max}"),
            Kind::Whole { min, max: i64::MAX, unit } => write!(f, "a whole number of {unit}, at least {min}"),
            Kind::Whole { min, max, unit } => write!(f, "a whole number of {unit} from {min} to {max}"),
            Kind::Word(words) => write!(f, "one of {}", words.join(", ")),
            Kind::Listener => write!(f, "HOST:PORT with an IP address or localhost as host"),
            Kind::Address => write!(f, "HOST:PORT"),
            Kind::Folder => write!(f, "a folder"),
            Kind::Text => write!(f, "a text of at most 255 bytes"),
            Kind::Addresses => write!(f, "HOST:PORT, several with commas between them"),
            Kind::Peers => write!(f, "ID@HOST:PORT, several with commas between them, each ID once"),
        }
    }
}

/// One setting.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// The name, as in `--set NAME=VALUE` and in the file.
    pub name: &'static str,
    /// The value when nothing is said.
    pub default: &'static str,
    /// What a value may be.
    pub kind: Kind,
    /// What it does, in a sentence or two.
    pub about: &'static str,
    /// The topic setting whose default this is, if it is one.
    pub topic: Option<&'static str>,
}

const fn setting(name: &'static str, default: &'static str, kind: Kind, about: &'static str) -> Setting {
    Setting { name, default, kind, about, topic: None }
}

const fn topic_default(
    name: &'static str,
    topic: &'static str,
    default: &'static str,
    kind: Kind,
    about: &'static str,
) -> Setting {
    Setting { name, default, kind, about, topic: Some(topic) }
}

const fn whole(min: i64, max: i64, unit: &'static str) -> Kind {
    Kind::Whole { min, max, unit }
}

const MIB: i64 = 1 << 20;
const GIB: i64 = 1 << 30;
/// Kafka's largest frame and batch sizes are 32-bit.
const INT_MAX: i64 = i32::MAX as i64;

/// Every setting, in the order of `config/millpond.toml`.
pub const SETTINGS: &[Setting] = &[
    setting("node.id", "1", whole(0, INT_MAX, ""), "This broker's id, unique in the cluster and kept for good."),
    setting("log.dir", "./millpond-data", Kind::Folder, "The data directory. One broker at a time may use it."),
    setting("listeners", "127.0.0.1:9092", Kind::Listener, "Where Kafka clients connect. Port 0 takes a free one."),
    setting(
        "advertised.listeners",
        "",
        Kind::Address,
        "The address that clients are told to connect to; empty means the one listened on.",
    ),
    setting(
        "millpond.http.listener",
        "127.0.0.1:9094",
        Kind::Listener,
        "Where /live, /ready, /metrics, /groups and /admin are served, to anybody: /admin changes the cluster. Port 0 \
         takes a free one.",
    ),
    setting(
        "millpond.peer.listener",
        "",
        Kind::Address,
        "Where other brokers of the cluster connect, and, where millpond.peers does not name this one, what they are \
         told; empty for its entry there, or for a broker without others. With a host name it is listened on all \
         addresses of this machine.",
    ),
    setting(
        "millpond.peers",
        "",
        Kind::Peers,
        "The brokers that found a cluster together, this one among them; the same list on each. Once the cluster is \
         there it says where to look for it.",
    ),
    setting("millpond.join", "", Kind::Addresses, "Peer addresses of brokers of a cluster that is there, to join it."),
    setting(
        "broker.rack",
        "",
        Kind::Text,
        "Where this broker stands; the replicas of a partition are spread over racks.",
    ),
    setting(
        "auto.create.topics.enable",
        "true",
        Kind::Switch,
        "Whether a topic is created when a client that allows it asks for it.",
    ),
    setting("num.partitions", "1", whole(1, 10_000, "partitions"), "Partitions of a topic that names no number."),
    setting(
        "default.replication.factor",
        "0",
        whole(0, 5, "replicas"),
        "Replicas of a topic that names no number; 0 is 3 where three or more brokers are registered, else 1.",
    ),
    topic_default(
        "millpond.flush",
        "millpond.flush",
        "durable",
        Kind::Word(&["durable", "relaxed"]),
        "For new topics: 'durable' acknowledges a write when it is synced to disk, 'relaxed' when the operating system \
         has it (a power loss may then lose what was acknowledged).",
    ),
    topic_default(
        "millpond.validation",
        "millpond.validation",
        "header",
        Kind::Word(&["header", "deep"]),
        "How much of a compressed batch produce looks at: 'deep' decompresses every batch and checks each record.",
    ),
    topic_default(
        "message.max.bytes",
        "max.message.bytes",
        "1048588",
        whole(0, INT_MAX, "bytes"),
        "The largest record batch that is accepted, compressed, with its header.",
    ),
    topic_default(
        "compression.type",
        "compression.type",
        "producer",
        Kind::Word(&["producer", "uncompressed", "gzip", "snappy", "lz4", "zstd"]),
        "The codec that batches are stored in; 'producer' stores them as they came.",
    ),
    topic_default(
        "log.message.timestamp.type",
        "message.timestamp.type",
        "CreateTime",
        Kind::Word(&["CreateTime", "LogAppendTime"]),
        "Whether records carry the producer's time or the time of append.",
    ),
    topic_default(
        "log.message.timestamp.before.max.ms",
        "message.timestamp.before.max.ms",
        "9223372036854775807",
        whole(0, i64::MAX, "milliseconds"),
        "How far before the broker's clock a record's timestamp may lie.",
    ),
    topic_default(
        "log.message.timestamp.after.max.ms",
        "message.timestamp.after.max.ms",
        "3600000",
        whole(0, i64::MAX, "milliseconds"),
        "How far after the broker's clock a record's timestamp may lie.",
    ),
    topic_default(
        "log.segment.bytes",
        "segment.bytes",
        "1073741824",
        whole(MIB, INT_MAX, "bytes"),
        "A log file is closed and a new one begun when it would grow beyond this.",
    ),
    topic_default(
        "log.retention.ms",
        "retention.ms",
        "604800000",
        whole(-1, i64::MAX, "milliseconds"),
        "How long records are kept; -1 keeps them for ever.",
    ),
    topic_default(
        "log.retention.bytes",
        "retention.bytes",
        "-1",
        whole(-1, i64::MAX, "bytes"),
        "How much of a partition is kept, in whole segments; -1 is no limit.",
    ),
    setting(
        "log.retention.check.interval.ms",
        "300000",
        whole(1, 1 << 40, "milliseconds"),
        "How often the broker looks for records to delete; the first time at most 30 seconds after the start.",
    ),
    setting(
        "offsets.retention.minutes",
        "10080",
        whole(1, INT_MAX, "minutes"),
        "How long the offsets of a group are kept after its last member has left; of a topic that a group with members \
         does not read any more, and of consumers that belong to no group, after the last commit.",
    ),
    setting(
        "group.initial.rebalance.delay.ms",
        "10",
        whole(0, INT_MAX, "milliseconds"),
        "How long the first members of an empty group wait for more; each that comes has them wait as long again, up \
         to the rebalance timeout. It spares a rebalance where members start together; where they start one after the \
         other, more seconds of it spare more.",
    ),
    topic_default(
        "min.insync.replicas",
        "min.insync.replicas",
        "1",
        whole(1, 5, "replicas"),
        "How many replicas must have flushed a write with acks=all, beside the majority that always must; never more \
         than the partition has.",
    ),
    setting(
        "socket.request.max.bytes",
        "104857600",
        whole(1024, INT_MAX, "bytes"),
        "The largest produce request; others may have 4 MiB. A connection that announces more is closed.",
    ),
    setting(
        "queued.max.request.bytes",
        "268435456",
        whole(MIB, 1 << 40, "bytes"),
        "Memory for produce requests, from their arrival until their data is written. Clients beyond it simply wait.",
    ),
    setting(
        "millpond.answer.memory.bytes",
        "268435456",
        whole(MIB, 1 << 40, "bytes"),
        "Memory for requests that are handled and for answers, records above all, on their way to clients. While slow \
         readers have used it up, other requests than produce wait, and the slow readers are closed.",
    ),
    setting(
        "max.connections",
        "10000",
        whole(1, 1_000_000, "connections"),
        "Client connections at once, at most half of the files that the process may have open; further ones are closed \
         on arrival.",
    ),
    setting(
        "max.connections.per.ip",
        "2147483647",
        whole(1, INT_MAX, "connections"),
        "Client connections at once from one address; further ones are closed on arrival.",
    ),
    setting(
        "connections.max.idle.ms",
        "600000",
        whole(1000, INT_MAX, "milliseconds"),
        "A connection on which nothing came and nothing was read for this long is closed.",
    ),
    setting(
        "fetch.max.bytes",
        "57671680",
        whole(1024, INT_MAX, "bytes"),
        "The most record bytes in one fetch response, whatever the client asks for; the first batch comes whole.",
    ),
    setting(
        "max.incremental.fetch.session.cache.slots",
        "1000",
        whole(0, INT_MAX, "sessions"),
        "Fetch sessions at once, in a quarter of millpond.answer.memory.bytes beside it; other clients name all their \
         partitions in every fetch.",
    ),
    setting(
        "millpond.tail.cache.bytes",
        "67108864",
        whole(MIB, 1 << 40, "bytes"),
        "Memory for the most recent batches of all partitions together.",
    ),
    setting(
        "millpond.disk.warn.free.bytes",
        "4294967296",
        whole(0, 1 << 50, "bytes"),
        "Below this much free space the broker warns; at most a fifth of the file system. 0 turns it off.",
    ),
    setting(
        "millpond.disk.min.free.bytes",
        "1073741824",
        whole(0, 1 << 50, "bytes"),
        "Below this much free space produce and new topics are refused, until there is more; at most a tenth of the \
         file system. 0 turns it off.",
    ),
    setting(
        "log.index.interval.bytes",
        "4096",
        whole(1, INT_MAX, "bytes"),
        "Log bytes between two entries of a segment's index.",
    ),
    setting(
        "millpond.journal.file.bytes",
        "67108864",
        whole(MIB, GIB, "bytes"),
        "Size of one journal file. All journal files together bound the time to recover after a kill.",
    ),
    setting(
        "millpond.catch.up.bytes.per.second",
        "0",
        whole(0, 100 * GIB, "bytes"),
        "How fast the replicas of this broker that are far behind, or new, are filled with segments of others, all \
         together; 0 is no limit.",
    ),
];

/// The row of a setting.
pub fn find(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.name == name)
}

/// The name that `name` may be a slip for.
pub(crate) fn nearest(name: &str) -> Option<&'static str> {
    crate::near::nearest(name, SETTINGS.iter().map(|setting| setting.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_listed_once_and_there_are_at_most_forty() {
        let mut names: Vec<_> = SETTINGS.iter().map(|setting| setting.name).collect();
        assert!(names.len() <= 40, "{} settings", names.len());
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), SETTINGS.len());
    }

    #[test]
    fn a_misspelled_name_is_answered_with_the_nearest_one() {
        assert_eq!(nearest("num.partition"), Some("num.partitions"));
        assert_eq!(nearest("max.message.bytes"), Some("message.max.bytes"));
        assert_eq!(nearest("millpond.flsh"), Some("millpond.flush"));
        assert_eq!(nearest("foo"), None);
    }
}
