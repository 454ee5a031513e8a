//! A `millpond` process and a minimal client for it, made of nothing but the wire and record crates.
#![allow(dead_code, reason = "each test file uses a part of it")]

pub mod any_broker;
pub mod cluster;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use millpond_record::{BatchBuilder, DecompressLimit, records};
use millpond_wire::create_topics::{CreatableTopic, CreateTopicsRequest};
use millpond_wire::fetch::{FetchPartition, FetchRequest, FetchTopic};
use millpond_wire::produce::{PartitionProduceData, ProduceRequest, TopicProduceData};
use millpond_wire::{Decoder, Message, Records, Request, ResponseHeader, encode_request};

/// How long anything here may take before the test fails.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// An empty folder that goes with its value.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("millpond-test-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("a folder for the test");
        Folder(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("a plain path").to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The command, with free ports and the folder as data directory.
pub fn command(folder: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millpond"));
    command.args(["broker", "--data-dir", folder.to_str().expect("a plain path")]);
    command.args(["--kafka", "127.0.0.1:0", "--http", "127.0.0.1:0"]).args(more);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs a broker that is expected not to start: its exit and its output.
pub fn refused(mut command: Command) -> Output {
    let mut child = command.spawn().expect("the binary runs");
    wait(&mut child);
    child.wait_with_output().expect("its output is read")
}

fn wait(child: &mut Child) -> ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("it can be waited for") {
            return status;
        }
        if start.elapsed() > PATIENCE {
            child.kill().expect("it can be killed");
            panic!("the process did not end");
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// Records by their offsets.
pub type ReadRecords = Vec<(i64, Vec<u8>)>;

/// A running broker, killed when dropped.
pub struct Broker {
    child: Child,
    pub ready: String,
    pub kafka: SocketAddr,
    pub http: SocketAddr,
}

impl Broker {
    pub fn start(folder: &Path, more: &[&str]) -> Broker {
        Broker::run(command(folder, more))
    }

    /// Starts a broker with a command that ends in one.
    pub fn run(command: Command) -> Broker {
        Starting::begin(command).ready(PATIENCE).unwrap_or_else(|_| panic!("the broker is not ready"))
    }

    /// kill -9.
    pub fn kill(mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it ends");
    }

    /// A signal by name, and how the process ended how long after it.
    pub fn signal(mut self, name: &str) -> (ExitStatus, Duration) {
        let start = Instant::now();
        let sent = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status();
        assert!(sent.expect("kill runs").success());
        (wait(&mut self.child), start.elapsed())
    }

    /// Sends a signal to a process that goes on.
    pub fn send(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status();
        assert!(sent.expect("kill runs").success());
    }

    pub fn client(&self) -> Client {
        Client::connect(self.kafka, PATIENCE).expect("it accepts")
    }

    /// What it has in memory and did not read from files, in KiB.
    pub fn own_memory_kib(&self) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).expect("the process runs");
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("Linux says it");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// The metrics, asked for until a line is there.
    pub fn metrics_when(&self, line: &str) -> (String, String) {
        let start = Instant::now();
        loop {
            let (status, page) = self.get("/metrics");
            if page.lines().any(|found| found == line) {
                return (status, page);
            }
            assert!(start.elapsed() < PATIENCE, "{line} in\n{page}");
        }
    }

    /// The answer to a GET: status line and body.
    pub fn get(&self, path: &str) -> (String, String) {
        let mut stream = TcpStream::connect(self.http).expect("it accepts");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time limit");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("text");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        (head.lines().next().unwrap_or_default().to_owned(), body.to_owned())
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A broker that may not be ready yet, killed when dropped.
pub struct Starting {
    /// Until it is ready.
    child: Option<Child>,
    ready: mpsc::Receiver<String>,
}

impl Starting {
    pub fn begin(mut command: Command) -> Starting {
        let mut child = command.stderr(Stdio::inherit()).spawn().expect("the binary runs");
        let stdout = child.stdout.take().expect("it is piped");
        let (tell, ready) = mpsc::channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            BufReader::new(stdout).read_line(&mut line).expect("a line or the end");
            drop(tell.send(line.trim_end().to_owned()));
        });
        Starting { child: Some(child), ready }
    }

    /// The broker, if it is ready within this time.
    pub fn ready(mut self, within: Duration) -> Result<Broker, Starting> {
        let Ok(ready) = self.ready.recv_timeout(within) else { return Err(self) };
        let address = |name: &str| -> SocketAddr {
            let word = ready.split(' ').find_map(|word| word.strip_prefix(name));
            word.unwrap_or_else(|| panic!("{name} in {ready:?}")).parse().expect("an address")
        };
        let (kafka, http) = (address("kafka="), address("http="));
        let child = self.child.take().expect("it is not ready twice");
        Ok(Broker { child, ready, kafka, http })
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A connection that sends one request at a time.
pub struct Client {
    stream: TcpStream,
    correlation: i32,
}

impl Client {
    /// Connects, and waits so long for each answer.
    pub fn connect(address: SocketAddr, patience: Duration) -> io::Result<Client> {
        let stream = TcpStream::connect_timeout(&address, patience)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_nodelay(true)?;
        Ok(Client { stream, correlation: 0 })
    }

    pub fn call<R: Request>(&mut self, version: i16, request: &R) -> R::Response {
        self.send(version, request);
        self.receive::<R>(version)
    }

    /// As [`Client::call`], where the broker may be gone.
    pub fn try_call<R: Request>(&mut self, version: i16, request: &R) -> io::Result<R::Response> {
        self.try_send(version, request)?;
        self.try_receive::<R>(version)
    }

    pub fn send<R: Request>(&mut self, version: i16, request: &R) {
        self.try_send(version, request).expect("the broker reads");
    }

    pub fn try_send<R: Request>(&mut self, version: i16, request: &R) -> io::Result<()> {
        self.correlation += 1;
        let frame = encode_request(self.correlation, Some("test".into()), version, request).expect("it encodes");
        self.stream.write_all(&frame.to_bytes())
    }

    pub fn receive<R: Request>(&mut self, version: i16) -> R::Response {
        self.try_receive::<R>(version).expect("an answer")
    }

    pub fn try_receive<R: Request>(&mut self, version: i16) -> io::Result<R::Response> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let mut frame = vec![0; u32::from_be_bytes(length) as usize];
        self.stream.read_exact(&mut frame)?;
        let mut decoder = Decoder::new(Bytes::from(frame));
        let header = ResponseHeader::decode(&mut decoder, R::KEY, version).expect("a header");
        assert_eq!(header.correlation_id, self.correlation);
        let response = R::Response::decode(&mut decoder, version).expect("a body");
        decoder.finish().expect("nothing behind it");
        Ok(response)
    }

    pub fn create_topic(&mut self, name: &str, partitions: i32) {
        let topic = CreatableTopic {
            name: name.to_owned().into(),
            num_partitions: partitions,
            replication_factor: 1,
            ..Default::default()
        };
        let response = self.call(7, &CreateTopicsRequest { topics: vec![topic], ..Default::default() });
        assert_eq!(response.topics[0].error_code, 0, "{:?}", response.topics[0]);
    }

    /// Produces one batch; the error code and its base offset.
    pub fn produce(&mut self, topic: &str, partition: i32, acks: i16, batch: Bytes) -> (i16, i64) {
        self.try_produce(topic, partition, acks, batch).expect("an answer")
    }

    pub fn try_produce(&mut self, topic: &str, partition: i32, acks: i16, batch: Bytes) -> io::Result<(i16, i64)> {
        let data = PartitionProduceData { index: partition, records: Some(Records::from(batch)) };
        let topic =
            TopicProduceData { name: topic.to_owned().into(), partition_data: vec![data], ..Default::default() };
        let request = ProduceRequest { acks, timeout_ms: 10_000, topic_data: vec![topic], ..Default::default() };
        let response = self.try_call(9, &request)?;
        let answer = &response.responses[0].partition_responses[0];
        Ok((answer.error_code, answer.base_offset))
    }

    /// Every record of a partition: offset and value.
    pub fn read_all(&mut self, topic: &str, partition: i32) -> ReadRecords {
        let read = self.try_read_all(topic, partition).expect("an answer");
        read.unwrap_or_else(|code| panic!("error code {code}"))
    }

    /// One fetch that waits for nothing: the error code, the high watermark, and batches.
    pub fn fetch(&mut self, topic: &str, partition: i32, offset: i64) -> io::Result<(i16, i64, Bytes)> {
        let wanted =
            FetchPartition { partition, fetch_offset: offset, partition_max_bytes: 1 << 20, ..Default::default() };
        let topic = FetchTopic { topic: topic.to_owned().into(), partitions: vec![wanted], ..Default::default() };
        let request = FetchRequest { max_bytes: 1 << 20, topics: vec![topic], ..Default::default() };
        let response = self.try_call(12, &request)?;
        let answer = &response.responses[0].partitions[0];
        let bytes = answer.records.as_ref().map_or_else(Bytes::new, |records| records.to_bytes());
        Ok((answer.error_code, answer.high_watermark, bytes))
    }

    /// As [`Client::read_all`], or the error code of an answer that has one.
    pub fn try_read_all(&mut self, topic: &str, partition: i32) -> io::Result<Result<ReadRecords, i16>> {
        let mut found = Vec::new();
        let mut offset = 0;
        loop {
            let (code, high_watermark, bytes) = self.fetch(topic, partition, offset)?;
            if code != 0 {
                return Ok(Err(code));
            }
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let batch = millpond_record::BatchView::first_of(rest).expect("a whole batch");
                assert!(batch.verify_crc());
                let base = batch.header().base_offset.0;
                for record in &records(batch.bytes(), DecompressLimit(1 << 20)).expect("records") {
                    let record = record.expect("a record");
                    found.push((base + i64::from(record.offset_delta), record.value.unwrap_or_default().to_vec()));
                }
                offset = batch.header().next_offset().0;
                rest = &rest[batch.size_bytes()..];
            }
            if offset >= high_watermark {
                return Ok(Ok(found));
            }
        }
    }
}

/// A batch of records with these values, not compressed.
pub fn batch(values: &[&str]) -> Bytes {
    producer_batch(-1, -1, -1, values)
}

/// A batch of an idempotent producer.
pub fn producer_batch(id: i64, epoch: i16, sequence: i32, values: &[&str]) -> Bytes {
    let mut builder = BatchBuilder::new();
    if id >= 0 {
        builder = builder.producer(millpond_record::ProducerId(id), millpond_record::ProducerEpoch(epoch), sequence);
    }
    for value in values {
        builder = builder.record(millpond_record::Timestamp(1_700_000_000_000), None, Some(value.as_bytes()));
    }
    builder.build()
}
