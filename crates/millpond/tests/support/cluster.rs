//! Three `millpond` processes that are one cluster, and what a test does to them.
//!
//! A cluster may be started behind proxies: each broker is known to the others by the address of its proxy, which
//! lets the bytes of each of them through or holds them up.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use millpond_wire::create_topics::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig, CreateTopicsRequest,
};
use millpond_wire::describe_quorum::{DescribeQuorumRequest, RequestPartitionData, RequestTopicData};
use millpond_wire::metadata::{MetadataRequest, MetadataRequestTopic};

use super::{Broker, Client, Folder, PATIENCE, Starting, batch, command};

/// The brokers of a cluster, by their ids.
pub const IDS: [i32; 3] = [1, 2, 3];

/// How long one request may take before another broker is asked.
const ASK: Duration = Duration::from_secs(2);

/// Below the ports that a system gives out by itself, so that nobody has one while a broker is down.
static NEXT_PORT: AtomicU16 = AtomicU16::new(0);
const FIRST_PORT: u16 = 18_600;
const PORTS: u16 = 300;

fn port() -> u16 {
    let first = std::process::id() as u16 % PORTS;
    loop {
        let port = FIRST_PORT + first.wrapping_add(NEXT_PORT.fetch_add(1, Ordering::Relaxed)) % PORTS;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Looks until something is so.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "{what}: not in {PATIENCE:?}");
        pause();
    }
}

/// Looks for a while whether something stays so.
pub fn throughout(time: Duration, mut check: impl FnMut()) {
    let start = Instant::now();
    while start.elapsed() < time {
        check();
        pause();
    }
}

fn pause() {
    std::thread::park_timeout(Duration::from_millis(5));
}

type Addresses = Arc<Mutex<BTreeMap<i32, SocketAddr>>>;

/// Three brokers, or as many of them as are up; killed when dropped.
pub struct Cluster {
    folder: Folder,
    /// `ID@HOST:PORT` of each, as the others know it.
    peers: String,
    /// Where each listens for the others.
    listeners: BTreeMap<i32, String>,
    more: Vec<String>,
    pub up: BTreeMap<i32, Broker>,
    addresses: Addresses,
    pub network: Option<Arc<Network>>,
}

impl Cluster {
    /// Founds a cluster of three. `more`: arguments of each broker.
    pub fn start(name: &str, more: &[&str]) -> Cluster {
        let ports = IDS.map(|id| (id, port()));
        let mut cluster = Cluster::planned(name, &ports, &ports, None);
        cluster.more = more.iter().map(|&one| one.to_owned()).collect();
        cluster.found();
        cluster
    }

    /// As [`Cluster::start`], but the brokers reach each other through proxies.
    pub fn behind_proxies(name: &str) -> Cluster {
        let (listeners, proxies) = (IDS.map(|id| (id, port())), IDS.map(|id| (id, port())));
        let network: Arc<Network> = Arc::default();
        for ((id, listener), (_, proxy)) in listeners.into_iter().zip(proxies) {
            network.serve(id, proxy, listener);
        }
        let mut cluster = Cluster::planned(name, &listeners, &proxies, Some(network));
        cluster.found();
        cluster
    }

    /// Starts all, and waits until none of them is needed for the metadata: first, only the founder votes.
    fn found(&mut self) {
        self.restart(&IDS);
        until("all vote on the metadata", || {
            IDS.into_iter().any(|id| self.metadata_voters(id) == Some(IDS.len())).then_some(())
        });
    }

    /// How many vote on the metadata; `None` from a broker that is not the controller.
    fn metadata_voters(&self, id: i32) -> Option<usize> {
        let partitions = vec![RequestPartitionData { partition_index: 0 }];
        let topic = RequestTopicData { topic_name: "__cluster_metadata".into(), partitions };
        let answer = self.client(id).call(2, &DescribeQuorumRequest { topics: vec![topic] });
        let partition = &answer.topics.first()?.partitions[0];
        (partition.error_code == 0).then_some(partition.current_voters.len())
    }

    fn planned(name: &str, listeners: &[(i32, u16)], known: &[(i32, u16)], network: Option<Arc<Network>>) -> Cluster {
        let peers: Vec<String> = known.iter().map(|(id, port)| format!("{id}@127.0.0.1:{port}")).collect();
        Cluster {
            folder: Folder::new(name),
            peers: peers.join(","),
            listeners: listeners.iter().map(|(id, port)| (*id, format!("127.0.0.1:{port}"))).collect(),
            more: Vec::new(),
            up: BTreeMap::new(),
            addresses: Addresses::default(),
            network,
        }
    }

    /// The data directory of a broker.
    pub fn path(&self, id: i32) -> PathBuf {
        self.folder.path().join(format!("broker-{id}"))
    }

    /// Starts a broker, and waits for nothing.
    pub fn begin(&self, id: i32) -> Starting {
        Starting::begin(self.command(id))
    }

    /// Starts a broker that is expected not to start: its exit and its output.
    pub fn refused(&self, id: i32) -> Output {
        super::refused(self.command(id))
    }

    /// A broker that is to join the cluster.
    pub fn joining(&self, id: i32) -> Command {
        let path = self.path(id);
        std::fs::create_dir_all(&path).expect("a folder for the broker");
        let (node, peer) = (id.to_string(), format!("127.0.0.1:{}", port()));
        command(&path, &["--node-id", &node, "--peer", &peer, "--join", &self.listeners[&1]])
    }

    fn command(&self, id: i32) -> Command {
        let path = self.path(id);
        std::fs::create_dir_all(&path).expect("a folder for the broker");
        let node = id.to_string();
        let mut words = vec!["--node-id", &node, "--peer", &self.listeners[&id], "--peers", &self.peers];
        words.extend(self.more.iter().map(String::as_str));
        command(&path, &words)
    }

    /// Starts brokers at the same time, and waits until all are ready.
    pub fn restart(&mut self, ids: &[i32]) {
        let starting: Vec<_> = ids.iter().map(|id| (*id, self.begin(*id))).collect();
        for (id, starting) in starting {
            self.joined(id, starting.ready(PATIENCE).unwrap_or_else(|_| panic!("broker {id} is not ready")));
        }
    }

    /// A broker that was begun is ready.
    pub fn joined(&mut self, id: i32, broker: Broker) {
        self.addresses.lock().expect("no panic under it").insert(id, broker.kafka);
        self.up.insert(id, broker);
    }

    /// kill -9.
    pub fn kill(&mut self, id: i32) {
        self.addresses.lock().expect("no panic under it").remove(&id);
        self.up.remove(&id).expect("it is up").kill();
    }

    /// Removes the data directory of a broker that is down.
    pub fn wipe(&self, id: i32) {
        assert!(!self.up.contains_key(&id));
        std::fs::remove_dir_all(self.path(id)).expect("it can be removed");
    }

    /// A connection to a broker.
    pub fn client(&self, id: i32) -> Client {
        self.up[&id].client()
    }

    /// Makes it look as if the machine of a broker that is down had been started again. What was not synced is there
    /// still, which the broker cannot know.
    pub fn reboot(&self, id: i32) {
        assert!(!self.up.contains_key(&id));
        let path = self.path(id).join("meta.properties");
        let text = std::fs::read_to_string(&path).expect("a data directory");
        let line = |line: &str| match line.starts_with("machine.boot.id=") {
            true => "machine.boot.id=another\n".to_owned(),
            false => format!("{line}\n"),
        };
        let lines: String = text.lines().filter(|line| !line.starts_with("checksum=")).map(line).collect();
        let checksum = crc32fast::hash(lines.as_bytes());
        std::fs::write(&path, format!("{lines}checksum={checksum:08x}\n")).expect("it can be written");
    }

    /// Creates a topic whose partitions have replicas on these brokers, the preferred one first.
    pub fn create_topic(&self, name: &str, partitions: i32, brokers: &[i32]) {
        self.create_topic_with(name, partitions, brokers, &[]);
    }

    /// As [`Cluster::create_topic`], with settings.
    pub fn create_topic_with(&self, name: &str, partitions: i32, brokers: &[i32], configs: &[(&str, &str)]) {
        let assignments = (0..partitions)
            .map(|partition_index| CreatableReplicaAssignment { partition_index, broker_ids: brokers.to_vec() });
        let topic = CreatableTopic {
            name: name.to_owned().into(),
            num_partitions: -1,
            replication_factor: -1,
            assignments: assignments.collect(),
            // The tests' records are of another year.
            configs: [("retention.ms", "-1")]
                .iter()
                .chain(configs)
                .map(|&(name, value)| CreatableTopicConfig { name: name.into(), value: Some(value.into()) })
                .collect(),
        };
        let request = CreateTopicsRequest { topics: vec![topic], ..Default::default() };
        let any = *self.up.keys().next().expect("one is up");
        until("the topic is created", || {
            let code = self.client(any).call(7, &request).topics[0].error_code;
            // What comes while the controller changes is asked for again.
            matches!(code, 0 | 36).then_some(())
        });
    }

    /// Who leads a partition, as one of the brokers says.
    pub fn leader_by(&self, id: i32, topic: &str, partition: i32) -> Option<i32> {
        leader(&mut self.client(id), topic, partition)
    }

    /// The broker that leads a partition, once it takes a write and all that are up name it.
    pub fn leader(&self, topic: &str, partition: i32) -> i32 {
        until("all know the same leader", || {
            let named: BTreeSet<Option<i32>> = self.up.keys().map(|id| self.leader_by(*id, topic, partition)).collect();
            match (named.len(), named.first()) {
                (1, Some(&Some(leader))) if self.up.contains_key(&leader) => Some(leader),
                _ => None,
            }
        })
    }

    /// Whether a broker takes a write to a partition that it leads.
    pub fn takes(&self, id: i32, topic: &str, partition: i32, value: &str) -> bool {
        self.client(id).produce(topic, partition, -1, batch(&[value])).0 == 0
    }

    /// Everything in a partition, as its leader has it.
    pub fn read(&self, topic: &str, partition: i32) -> BTreeMap<i64, String> {
        let read = until("the partition is read", || {
            let leader = self.leader(topic, partition);
            self.client(leader).try_read_all(topic, partition).ok()?.ok()
        });
        read.into_iter().map(|(offset, value)| (offset, String::from_utf8(value).expect("text"))).collect()
    }

    /// What was acknowledged is where the acknowledgement said.
    pub fn assert_kept(&self, topic: &str, partition: i32, acknowledged: &BTreeMap<i64, String>) {
        let read = self.read(topic, partition);
        let lost: Vec<_> = acknowledged.iter().filter(|(offset, value)| read.get(offset) != Some(value)).collect();
        assert!(lost.is_empty(), "{} of {} lost, first {:?}", lost.len(), acknowledged.len(), lost[0]);
    }

    /// Begins to write to a partition without a pause, wherever it is led.
    pub fn writer(&self, topic: &str, partition: i32) -> Writer {
        let (stop, addresses) = (Arc::new(AtomicBool::new(false)), Arc::clone(&self.addresses));
        let (stopped, topic) = (Arc::clone(&stop), topic.to_owned());
        let written: Arc<Mutex<Written>> = Arc::default();
        let shared = Arc::clone(&written);
        let thread = std::thread::spawn(move || write(&topic, partition, &addresses, &stopped, &shared));
        Writer { stop, written, thread }
    }
}

fn leader(client: &mut Client, topic: &str, partition: i32) -> Option<i32> {
    let wanted = MetadataRequestTopic { name: Some(topic.to_owned().into()), ..Default::default() };
    let request =
        MetadataRequest { topics: Some(vec![wanted]), allow_auto_topic_creation: false, ..Default::default() };
    let answer = client.try_call(12, &request).ok()?;
    let partitions = &answer.topics.first()?.partitions;
    let found = partitions.iter().find(|found| found.partition_index == partition)?;
    Some(found.leader_id).filter(|leader| *leader >= 0)
}

/// What was acknowledged so far.
#[derive(Clone, Debug, Default)]
pub struct Written {
    pub values: BTreeMap<i64, String>,
    last: Option<Instant>,
    /// The longest time between two acknowledgements since it was last looked at.
    pub longest: Duration,
}

/// A producer in a thread of its own, which sends one record after the other with acks=all.
pub struct Writer {
    stop: Arc<AtomicBool>,
    written: Arc<Mutex<Written>>,
    thread: JoinHandle<()>,
}

impl Writer {
    /// Waits until so many more records are acknowledged.
    pub fn more(&self, records: usize) {
        let before = self.written.lock().expect("no panic under it").values.len();
        until("more is acknowledged", || {
            (self.written.lock().expect("no panic under it").values.len() >= before + records).then_some(())
        });
    }

    /// The longest pause since this was asked for last.
    pub fn longest_pause(&self) -> Duration {
        std::mem::take(&mut self.written.lock().expect("no panic under it").longest)
    }

    /// Stops, and gives what was acknowledged.
    pub fn stop(self) -> BTreeMap<i64, String> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("it ends");
        self.written.lock().expect("no panic under it").values.clone()
    }
}

fn write(topic: &str, partition: i32, addresses: &Addresses, stop: &AtomicBool, written: &Mutex<Written>) {
    let mut to = (IDS[0], None::<Client>);
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let value = format!("value {number}");
        let answer = to.1.as_mut().and_then(|client| client.try_produce(topic, partition, -1, batch(&[&value])).ok());
        let Some((0, offset)) = answer else {
            if answer.is_some() {
                pause();
            }
            to = next(topic, partition, addresses, to.0);
            continue;
        };
        number += 1;
        let mut written = written.lock().expect("no panic under it");
        let other = written.values.insert(offset, value);
        assert_eq!(other, None, "offset {offset} was acknowledged before");
        let now = Instant::now();
        if let Some(last) = written.last.replace(now) {
            written.longest = written.longest.max(now - last);
        }
    }
}

/// The leader that another broker than the one asked last names, or that broker.
fn next(topic: &str, partition: i32, addresses: &Addresses, last: i32) -> (i32, Option<Client>) {
    let known = addresses.lock().expect("no panic under it").clone();
    let Some((&other, &address)) = known.range(last + 1..).next().or_else(|| known.iter().next()) else {
        pause();
        return (last, None);
    };
    let Ok(mut client) = Client::connect(address, ASK) else { return (other, None) };
    match leader(&mut client, topic, partition) {
        Some(leader) if leader != other => {
            let address = known.get(&leader);
            (other, address.and_then(|address| Client::connect(*address, ASK).ok()))
        }
        _ => (other, Some(client)),
    }
}

/// The ways between brokers. What is sent on one that is cut waits there; connections stay open.
#[derive(Default)]
pub struct Network(Mutex<BTreeSet<(i32, i32)>>);

impl Network {
    /// Nothing goes from the one to the other any more.
    pub fn cut(&self, from: i32, to: i32) {
        self.0.lock().expect("no panic under it").insert((from, to));
    }

    /// Nothing goes from or to a broker any more.
    pub fn isolate(&self, id: i32) {
        for other in IDS.into_iter().filter(|other| *other != id) {
            self.cut(id, other);
            self.cut(other, id);
        }
    }

    pub fn heal(&self) {
        self.0.lock().expect("no panic under it").clear();
    }

    fn is_open(&self, from: i32, to: i32) -> bool {
        !self.0.lock().expect("no panic under it").contains(&(from, to))
    }

    /// Stands before a broker's listener, for as long as the test runs.
    fn serve(self: &Arc<Self>, to: i32, proxy: u16, listener: u16) {
        let door = TcpListener::bind(("127.0.0.1", proxy)).expect("nobody else has the port");
        let network = Arc::clone(self);
        std::thread::spawn(move || {
            for stream in door.incoming() {
                let (stream, network) = (stream.expect("a connection"), Arc::clone(&network));
                std::thread::spawn(move || drop(network.connect(stream, to, listener)));
            }
        });
    }

    /// Passes on what comes on one connection, once it is known whose it is.
    fn connect(self: Arc<Self>, mut client: TcpStream, to: i32, listener: u16) -> std::io::Result<()> {
        // Magic, the frame's 21 bytes before its head, and up to the dialling broker's id.
        let mut opening = [0; 8 + 21 + 8];
        client.read_exact(&mut opening)?;
        assert_eq!(opening[35], 8, "the id of the broker that dials is not where it was");
        let from = i32::from(opening[36]);
        let broker = TcpStream::connect(("127.0.0.1", listener))?;
        broker.set_nodelay(true)?;
        client.set_nodelay(true)?;
        let (there, back) = ((broker.try_clone()?, client.try_clone()?), (client.try_clone()?, broker));
        let other = Arc::clone(&self);
        std::thread::spawn(move || other.pump(back.1, back.0, (to, from), &[]));
        self.pump(there.1, there.0, (from, to), &opening);
        Ok(())
    }

    fn pump(&self, mut source: TcpStream, mut target: TcpStream, way: (i32, i32), first: &[u8]) {
        let mut bytes = vec![0; 64 << 10];
        bytes[..first.len()].copy_from_slice(first);
        let mut length = first.len();
        loop {
            while !self.is_open(way.0, way.1) {
                pause();
            }
            if target.write_all(&bytes[..length]).is_err() {
                break;
            }
            match source.read(&mut bytes) {
                Ok(0) | Err(_) => break,
                Ok(read) => length = read,
            }
        }
        let _ = source.shutdown(Shutdown::Both);
        let _ = target.shutdown(Shutdown::Both);
    }
}
