//! Three Rust clients against a broker: rdkafka (librdkafka), rskafka and krafka (both pure Rust).
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::process::exit;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};

type Outcome = Result<(), Box<dyn std::error::Error + Send + Sync>>;
type Running = Pin<Box<dyn Future<Output = Outcome> + Send>>;

fn env(name: &str, otherwise: &str) -> String {
    std::env::var(name).ok().filter(|v| !v.is_empty()).unwrap_or_else(|| otherwise.to_string())
}

fn bootstrap() -> String {
    env("BOOTSTRAP", "127.0.0.1:9092")
}

fn unique(prefix: &str) -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map(|d| d.as_nanos()).unwrap_or_default();
    format!("{prefix}-{now:x}-{}", COUNTER.fetch_add(1, Ordering::Relaxed))
}

fn numbered(n: usize) -> Vec<String> {
    (0..n).map(|i| format!("v{i:05}")).collect()
}

fn equal<T: PartialEq + std::fmt::Debug>(what: &str, got: T, want: T) -> Outcome {
    if got == want {
        return Ok(());
    }
    let cut = |v: &T| format!("{v:?}").chars().take(120).collect::<String>();
    Err(format!("{what}: got {}, want {}", cut(&got), cut(&want)).into())
}

struct Cases(Vec<(u32, String, Running)>);

impl Cases {
    fn add(&mut self, tier: u32, name: impl Into<String>, run: impl Future<Output = Outcome> + Send + 'static) {
        self.0.push((tier, format!("[{tier}] {}", name.into()), Box::pin(run)));
    }
}

mod with_rdkafka {
    use super::*;
    use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
    use rdkafka::consumer::{BaseConsumer, Consumer, StreamConsumer};
    use rdkafka::message::Message;
    use rdkafka::producer::{FutureProducer, FutureRecord, Producer};
    use rdkafka::{ClientConfig, Offset, TopicPartitionList};

    fn config(pairs: &[(&str, &str)]) -> ClientConfig {
        let mut c = ClientConfig::new();
        c.set("bootstrap.servers", bootstrap());
        for (k, v) in pairs {
            c.set(*k, *v);
        }
        c
    }

    pub async fn topic(partitions: i32) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
        let name = unique("rs");
        let admin: AdminClient<_> = config(&[]).create()?;
        for result in admin
            .create_topics(&[NewTopic::new(&name, partitions, TopicReplication::Fixed(1))], &AdminOptions::new())
            .await?
        {
            result.map_err(|(t, e)| format!("{t}: {e}"))?;
        }
        let end = Instant::now() + Duration::from_secs(10);
        let probe: BaseConsumer = config(&[]).create()?;
        while Instant::now() < end {
            if (0..partitions).all(|p| probe.fetch_watermarks(&name, p, Duration::from_secs(2)).is_ok()) {
                return Ok(name);
            }
            sleep(Duration::from_millis(100)).await;
        }
        Err("the topic is not ready".into())
    }

    pub async fn fill(topic: &str, values: &[String], pairs: &[(&str, &str)]) -> Outcome {
        let producer: FutureProducer = config(pairs).create()?;
        let sends: Vec<_> = values
            .iter()
            .map(|v| {
                producer
                    .send_result(FutureRecord::to(topic).key("k").payload(v.as_str()).partition(0))
                    .map_err(|(e, _)| e)
            })
            .collect();
        for send in sends {
            send?.await?.map_err(|(e, _)| e)?;
        }
        Ok(())
    }

    pub async fn read(
        topic: &str,
        count: usize,
        limit: Duration,
        pairs: &[(&str, &str)],
    ) -> Result<Vec<String>, Box<dyn std::error::Error + Send + Sync>> {
        let mut all = vec![("group.id", "unused"), ("enable.auto.commit", "false")];
        all.extend_from_slice(pairs);
        let consumer: StreamConsumer = config(&all).create()?;
        let mut at = TopicPartitionList::new();
        at.add_partition_offset(topic, 0, Offset::Beginning)?;
        consumer.assign(&at)?;
        Ok(take(&consumer, count, limit).await?.into_iter().map(|(_, v)| v).collect())
    }

    async fn take(
        consumer: &StreamConsumer,
        count: usize,
        limit: Duration,
    ) -> Result<Vec<(i64, String)>, rdkafka::error::KafkaError> {
        let (mut got, end) = (Vec::new(), Instant::now() + limit);
        while got.len() < count {
            match tokio::time::timeout_at(end, consumer.recv()).await {
                Ok(m) => m.map(|m| {
                    got.push((m.offset(), String::from_utf8_lossy(m.payload().unwrap_or_default()).into_owned()))
                })?,
                Err(_) => break,
            }
        }
        Ok(got)
    }

    pub fn cases(cases: &mut Cases) {
        for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
            cases.add(
                1,
                format!("rdkafka: {codec} batches from an idempotent producer read back unchanged"),
                async move {
                    let t = topic(1).await?;
                    fill(
                        &t,
                        &numbered(1000),
                        &[("compression.type", codec), ("enable.idempotence", "true"), ("linger.ms", "5")],
                    )
                    .await?;
                    equal("values", read(&t, 1000, Duration::from_secs(20), &[]).await?, numbered(1000))
                },
            );
        }
        for protocol in ["classic", "consumer"] {
            cases.add(2, format!("rdkafka: a {protocol} group reads, commits and resumes"), async move {
                let (t, group) = (topic(1).await?, unique("g"));
                fill(&t, &numbered(10), &[]).await?;
                for want in [0..6_usize, 6..10] {
                    let c: StreamConsumer = config(&[
                        ("group.id", &group),
                        ("group.protocol", protocol),
                        ("auto.offset.reset", "earliest"),
                        ("enable.auto.commit", "false"),
                    ])
                    .create()?;
                    c.subscribe(&[&t])?;
                    let got = take(&c, want.len(), Duration::from_secs(30)).await?;
                    equal("values", got.iter().map(|(_, v)| v.clone()).collect(), numbered(10)[want.clone()].to_vec())?;
                    let mut at = TopicPartitionList::new();
                    at.add_partition_offset(&t, 0, Offset::Offset(want.end as i64))?;
                    c.commit(&at, rdkafka::consumer::CommitMode::Sync)?;
                }
                Ok(())
            });
        }
        cases.add(3, "rdkafka: aborted records stay invisible, committed ones are read", async move {
            let t = topic(1).await?;
            let producer: FutureProducer = config(&[("transactional.id", &unique("tx"))]).create()?;
            tokio::task::block_in_place(|| producer.init_transactions(Duration::from_secs(20)))?;
            for value in ["bad", "good"] {
                producer.begin_transaction()?;
                producer
                    .send(FutureRecord::<(), _>::to(&t).payload(value), Duration::from_secs(10))
                    .await
                    .map_err(|(e, _)| e)?;
                tokio::task::block_in_place(|| {
                    if value == "bad" {
                        producer.abort_transaction(Duration::from_secs(20))
                    } else {
                        producer.commit_transaction(Duration::from_secs(20))
                    }
                })?;
            }
            equal(
                "values",
                read(&t, 2, Duration::from_secs(4), &[("isolation.level", "read_committed")]).await?,
                vec!["good".to_string()],
            )
        });
    }
}

mod with_rskafka {
    use super::*;
    use rskafka::client::ClientBuilder;
    use rskafka::client::partition::{Compression, OffsetAt, UnknownTopicHandling};
    use rskafka::record::Record;

    pub fn cases(cases: &mut Cases) {
        for (name, compression) in [
            ("none", Compression::NoCompression),
            ("gzip", Compression::Gzip),
            ("snappy", Compression::Snappy),
            ("lz4", Compression::Lz4),
            ("zstd", Compression::Zstd),
        ] {
            cases.add(1, format!("rskafka: {name} batches read back unchanged"), async move {
                let client = ClientBuilder::new(vec![bootstrap()]).build().await?;
                let t = unique("rs");
                client.controller_client()?.create_topic(&t, 1, 1, 5000).await?;
                let partition = client.partition_client(&t, 0, UnknownTopicHandling::Retry).await?;
                let records = numbered(200).into_iter().map(|v| Record {
                    key: Some(b"k".to_vec()),
                    value: Some(v.into_bytes()),
                    headers: BTreeMap::new(),
                    timestamp: chrono::DateTime::<chrono::Utc>::from(SystemTime::now()),
                });
                equal("offsets", partition.produce(records.collect(), compression).await?, (0..200).collect())?;
                let (mut got, mut next) = (Vec::new(), 0);
                while got.len() < 200 {
                    let (records, high) = partition.fetch_records(next, 1..1_000_000, 1000).await?;
                    equal("high watermark", high, 200)?;
                    for r in records {
                        next = r.offset + 1;
                        got.push(String::from_utf8(r.record.value.unwrap_or_default())?);
                    }
                }
                equal("values", got, numbered(200))?;
                equal(
                    "ends",
                    (partition.get_offset(OffsetAt::Earliest).await?, partition.get_offset(OffsetAt::Latest).await?),
                    (0, 200),
                )
            });
        }
        cases.add(4, "rskafka: delete records moves the beginning", async move {
            let t = with_rdkafka::topic(1).await?;
            with_rdkafka::fill(&t, &numbered(10), &[]).await?;
            let client = ClientBuilder::new(vec![bootstrap()]).build().await?;
            let partition = client.partition_client(&t, 0, UnknownTopicHandling::Retry).await?;
            partition.delete_records(4, 5000).await?;
            equal("earliest", partition.get_offset(OffsetAt::Earliest).await?, 4)
        });
    }
}

mod with_krafka {
    use super::*;
    use krafka::consumer::{AutoOffsetReset, GroupProtocol, IsolationLevel};
    use krafka::{Kafka, Record};

    async fn read(
        topic: &str,
        group: &str,
        protocol: GroupProtocol,
        count: usize,
        limit: Duration,
    ) -> Result<Vec<String>, Box<dyn std::error::Error + Send + Sync>> {
        let kafka = Kafka::builder(bootstrap()).connect().await?;
        let consumer = kafka
            .consumer(group)
            .group_protocol(protocol)
            .auto_offset_reset(AutoOffsetReset::Earliest)
            .isolation_level(IsolationLevel::ReadCommitted)
            .build()
            .await?;
        consumer.subscribe([topic]).await?;
        let (mut got, end) = (Vec::new(), Instant::now() + limit);
        while got.len() < count {
            match tokio::time::timeout_at(end, consumer.recv()).await {
                Ok(record) => got.extend(record?.and_then(|r| r.value_str().map(str::to_string))),
                Err(_) => break,
            }
        }
        consumer.commit().await?;
        consumer.close().await?;
        Ok(got)
    }

    pub fn cases(cases: &mut Cases) {
        for (name, classic) in [("classic", true), ("consumer", false)] {
            cases.add(2, format!("krafka: a {name} group reads, commits and resumes"), async move {
                let protocol = || if classic { GroupProtocol::Classic } else { GroupProtocol::Consumer };
                let (t, group) = (with_rdkafka::topic(1).await?, unique("g"));
                with_rdkafka::fill(&t, &numbered(10), &[]).await?;
                equal("values", read(&t, &group, protocol(), 10, Duration::from_secs(30)).await?, numbered(10))?;
                with_rdkafka::fill(&t, &["late".to_string()], &[]).await?;
                equal(
                    "after the commit",
                    read(&t, &group, protocol(), 1, Duration::from_secs(30)).await?,
                    vec!["late".to_string()],
                )
            });
        }
        cases.add(1, "krafka: the idempotent producer keeps its order", async move {
            let t = with_rdkafka::topic(1).await?;
            let kafka = Kafka::builder(bootstrap()).connect().await?;
            let producer = kafka.producer().build().await?;
            let mut acks = Vec::new();
            for v in numbered(500) {
                acks.push(producer.enqueue(Record::new(&t, v).key("k")).await?);
            }
            for ack in acks {
                let _ = ack.await?;
            }
            producer.close().await?;
            equal("values", with_rdkafka::read(&t, 500, Duration::from_secs(20), &[]).await?, numbered(500))
        });
        cases.add(3, "krafka: aborted records stay invisible, committed ones are read", async move {
            let t = with_rdkafka::topic(1).await?;
            let kafka = Kafka::builder(bootstrap()).connect().await?;
            let producer = kafka.producer().build_transactional(unique("tx")).await?;
            for value in ["bad", "good"] {
                producer.begin()?;
                let _ = producer.send(Record::new(&t, value)).await?;
                if value == "bad" {
                    producer.abort().await?
                } else {
                    producer.commit().await?
                };
            }
            producer.close().await?;
            equal(
                "values",
                read(&t, &unique("g"), GroupProtocol::Classic, 2, Duration::from_secs(6)).await?,
                vec!["good".to_string()],
            )
        });
    }
}

#[tokio::main]
async fn main() {
    let (tier, only) = (env("TIER", "4"), env("ONLY", ""));
    let level: u32 = tier.trim_start_matches('=').parse().unwrap_or(4);
    let mut cases = Cases(Vec::new());
    with_rdkafka::cases(&mut cases);
    with_rskafka::cases(&mut cases);
    with_krafka::cases(&mut cases);
    cases.0.sort_by_key(|c| c.0);
    let slots = Arc::new(Semaphore::new(env("JOBS", "4").parse().unwrap_or(4)));
    let mut tasks = Vec::new();
    for (t, name, run) in cases.0 {
        let wanted = if tier.starts_with('=') { t == level } else { t <= level };
        if !wanted || !(only.is_empty() || only == "." || name.contains(&only)) {
            continue;
        }
        let slots = slots.clone();
        tasks.push(tokio::spawn(async move {
            let _slot = slots.acquire().await;
            let outcome =
                timeout(Duration::from_secs(60), run).await.unwrap_or_else(|_| Err("not finished within 60 s".into()));
            match &outcome {
                Ok(()) => println!("PASS {name}"),
                Err(e) => println!("FAIL {name}: {}", e.to_string().replace('\n', " ")),
            }
            outcome.is_ok()
        }));
    }
    let mut good = true;
    for task in tasks {
        good &= task.await.unwrap_or(false);
    }
    exit(if good { 0 } else { 1 });
}
