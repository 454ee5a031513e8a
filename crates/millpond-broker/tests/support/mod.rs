//! A broker in this process, on free ports and in a folder of its own, and a client made of the wire crate.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use millpond_broker::{Broker, BrokerConfig};
use millpond_record::{BatchBuilder, BatchView, DecompressLimit, Timestamp, records};
use millpond_runtime::{RealDisk, Runtime};
use millpond_wire::create_topics::{CreatableTopic, CreatableTopicConfig, CreateTopicsRequest};
use millpond_wire::fetch::{FetchPartition, FetchRequest, FetchTopic, PartitionData};
use millpond_wire::produce::{PartitionProduceData, PartitionProduceResponse, ProduceRequest, TopicProduceData};
use millpond_wire::{Decoder, ErrorCode, Message, Records, Request, ResponseHeader, Str, encode_request};

/// How long anything here may take before the test fails.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `holds`, with a bound.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < PATIENCE, "{what}");
        std::thread::yield_now();
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

fn threads() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("threads")
}

/// A running broker; stopped when dropped.
pub struct Served {
    tokio: tokio::runtime::Runtime,
    broker: Option<Broker>,
    folder: PathBuf,
    config: BrokerConfig,
}

impl Served {
    pub fn start() -> Served {
        Served::with(&[])
    }

    pub fn with(settings: &[(&str, &str)]) -> Served {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("millpond-broker-test-{}-{number}", std::process::id()));
        let given = [
            ("log.dir", folder.to_str().expect("a plain path")),
            ("listeners", "127.0.0.1:0"),
            ("millpond.http.listener", "127.0.0.1:0"),
            ("millpond.journal.file.bytes", "4194304"),
        ];
        let given = given.into_iter().chain(settings.iter().copied());
        let config = BrokerConfig::resolve(given).expect("good settings");
        let mut served = Served { tokio: threads(), broker: None, folder, config };
        served.launch();
        served
    }

    /// Starts the broker, which was stopped or never ran.
    pub fn launch(&mut self) {
        let config = self.config.clone();
        let broker = self.tokio.block_on(async { Broker::start(Runtime::real(RealDisk::shared()), config).await });
        self.broker = Some(broker.expect("it starts"));
    }

    /// Stops the broker and starts it again on the same folder. Clients must connect anew.
    pub fn restart(&mut self) {
        self.stop();
        self.launch();
    }

    pub fn client(&self) -> Client {
        let address = self.broker.as_ref().expect("it runs").kafka_addr();
        let stream = TcpStream::connect(address).expect("it accepts");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time limit");
        stream.set_nodelay(true).expect("no delay");
        Client { stream, correlation: 0, id: "test".into() }
    }

    /// A page of the HTTP port: its status and what it says.
    pub fn page(&self, path: &str) -> (u16, String) {
        let address = self.broker.as_ref().expect("it runs").http_addr();
        let mut stream = TcpStream::connect(address).expect("it accepts");
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).expect("sent");
        let mut page = String::new();
        stream.read_to_string(&mut page).expect("a page");
        let (head, body) = page.split_once("\r\n\r\n").expect("a head and a body");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        (status.expect("a status"), body.to_owned())
    }

    /// A figure of `/metrics`, without labels.
    pub fn metric(&self, name: &str) -> f64 {
        let (_, page) = self.page("/metrics");
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {page}")).parse().expect("a number")
    }

    /// Its data folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The base offsets in the names of the segments of a topic's first partition.
    pub fn segments(&self, topic: &str) -> Vec<String> {
        let files = std::fs::read_dir(self.folder.join(format!("{topic}-0"))).expect("a folder");
        let names = files.map(|file| file.expect("an entry").file_name().into_string().expect("a plain name"));
        let mut segments: Vec<String> =
            names.filter_map(|name| Some(name.strip_suffix(".log")?[..20].into())).collect();
        segments.sort_unstable();
        segments
    }

    /// Ends the broker as a crash of its process would: it answers nothing, hands nothing over, and closes nothing.
    pub fn kill(&mut self) {
        let tokio = std::mem::replace(&mut self.tokio, threads());
        tokio.shutdown_background();
        drop(self.broker.take());
    }

    /// Stops the broker; how long that took.
    pub fn stop(&mut self) -> Duration {
        let start = Instant::now();
        let broker = self.broker.take().expect("it runs");
        self.tokio.block_on(broker.shutdown()).expect("a clean stop");
        start.elapsed()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if self.broker.is_some() {
            self.stop();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

pub struct Client {
    stream: TcpStream,
    correlation: i32,
    id: Str,
}

impl Client {
    /// Sends another client id from now on.
    pub fn rename(&mut self, id: &str) {
        self.id = Str::from(id);
    }

    pub fn call<R: Request>(&mut self, version: i16, request: &R) -> R::Response {
        let id = self.send(version, request);
        self.receive::<R>(version, id)
    }

    /// Sends a request; its correlation id.
    pub fn send<R: Request>(&mut self, version: i16, request: &R) -> i32 {
        self.correlation += 1;
        let frame = encode_request(self.correlation, Some(self.id.clone()), version, request).expect("it encodes");
        self.send_bytes(&frame.to_bytes());
        self.correlation
    }

    pub fn send_bytes(&mut self, bytes: &[u8]) {
        // A broker that has closed the connection is seen when the answer is read.
        let _ = self.stream.write_all(bytes);
    }

    /// The next answer, which must belong to this request.
    pub fn receive<R: Request>(&mut self, version: i16, id: i32) -> R::Response {
        let mut decoder = Decoder::new(self.receive_frame().expect("an answer"));
        let header = ResponseHeader::decode(&mut decoder, R::KEY, version).expect("a header");
        assert_eq!(header.correlation_id, id, "answers come in the order of requests");
        let response = R::Response::decode(&mut decoder, version).expect("a body");
        decoder.finish().expect("nothing behind it");
        response
    }

    /// The next frame; `None` when the broker has closed the connection.
    pub fn receive_frame(&mut self) -> Option<Bytes> {
        let mut length = [0; 4];
        match self.stream.read_exact(&mut length) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("neither an answer nor the end"),
            Err(_) => return None,
        }
        let mut frame = vec![0; u32::from_be_bytes(length) as usize];
        self.stream.read_exact(&mut frame).expect("a whole frame");
        Some(frame.into())
    }

    pub fn create(&mut self, name: &str, partitions: i32, configs: &[(&str, &str)]) {
        let configs = configs
            .iter()
            .map(|(name, value)| CreatableTopicConfig { name: Str::from(*name), value: Some(Str::from(*value)) });
        let topic = CreatableTopic {
            name: Str::from(name),
            num_partitions: partitions,
            replication_factor: 1,
            configs: configs.collect(),
            ..Default::default()
        };
        let response = self.call(7, &CreateTopicsRequest { topics: vec![topic], ..Default::default() });
        assert_eq!(response.topics[0].error_code, 0, "{:?}", response.topics[0]);
    }

    /// Produces one batch to partition 0.
    pub fn produce(&mut self, topic: &str, acks: i16, batch: Bytes) -> PartitionProduceResponse {
        self.call(9, &produce_request(topic, acks, vec![(0, batch)])).responses.remove(0).partition_responses.remove(0)
    }

    /// One fetch of partition 0.
    pub fn fetch(&mut self, topic: &str, offset: i64, max_wait_ms: i32) -> PartitionData {
        let request = FetchRequest { max_wait_ms, ..fetch_request(topic, offset) };
        self.call(12, &request).responses.remove(0).partitions.remove(0)
    }
}

pub fn produce_request(topic: &str, acks: i16, batches: Vec<(i32, Bytes)>) -> ProduceRequest {
    let data = batches.into_iter();
    let data = data.map(|(index, batch)| PartitionProduceData { index, records: Some(Records::from(batch)) });
    let topic = TopicProduceData { name: Str::from(topic), partition_data: data.collect(), ..Default::default() };
    ProduceRequest { transactional_id: None, acks, timeout_ms: 10_000, topic_data: vec![topic] }
}

pub fn fetch_request(topic: &str, offset: i64) -> FetchRequest {
    let partition = FetchPartition { fetch_offset: offset, partition_max_bytes: 1 << 20, ..Default::default() };
    let topic = FetchTopic { topic: Str::from(topic), partitions: vec![partition], ..Default::default() };
    FetchRequest { min_bytes: 1, max_bytes: 1 << 20, topics: vec![topic], ..Default::default() }
}

/// A batch of records with these values, not compressed, of now.
pub fn batch(values: &[&str]) -> Bytes {
    let mut builder = BatchBuilder::new();
    for value in values {
        builder = builder.record(Timestamp(1_700_000_000_000), None, Some(value.as_bytes()));
    }
    builder.build()
}

/// The values of all records in a fetch answer.
pub fn values(data: &PartitionData) -> Vec<String> {
    let bytes = data.records.as_ref().expect("never null").to_bytes();
    let mut rest = &bytes[..];
    let mut found = Vec::new();
    while !rest.is_empty() {
        let batch = BatchView::first_of(rest).expect("a whole batch");
        assert!(batch.verify_crc());
        for record in &records(batch.bytes(), DecompressLimit(1 << 20)).expect("records") {
            let value = record.expect("a record").value.unwrap_or_default();
            found.push(String::from_utf8(value.to_vec()).expect("text"));
        }
        rest = &rest[batch.size_bytes()..];
    }
    found
}

pub fn assert_code(found: i16, expected: ErrorCode) {
    assert_eq!(ErrorCode(found), expected);
}
