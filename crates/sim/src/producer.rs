//! Writes records, and tells the history what it sends and what is acknowledged.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use millpond_record::{BatchBuilder, Codec, ProducerEpoch, ProducerId, Timestamp};
use millpond_wire::init_producer_id::InitProducerIdRequest;
use millpond_wire::produce::{PartitionProduceData, ProduceRequest, ProduceResponse, TopicProduceData};
use millpond_wire::{ErrorCode, Records, Str};

use crate::admin::is_passing;
use crate::client::Client;
use crate::consumer::{Target, targets};
use crate::history::{Delivery, Partition, Promise};
use crate::payload::{self, RecordId};

/// Produce versions that are used: by name to 12, by topic id from 13.
const VERSIONS: [i16; 6] = [3, 7, 8, 9, 12, 13];
const BY_ID: [i16; 1] = [13];
/// Requests that an idempotent producer has in flight at most: Kafka remembers the last five batches of a producer.
const MAX_IN_FLIGHT: usize = 5;

/// What a producer asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// acks=all with a producer id and sequence numbers.
    Idempotent,
    /// acks=all without.
    All,
    /// acks=1.
    Leader,
    /// acks=0.
    None,
}

impl Kind {
    fn acks(self) -> i16 {
        match self {
            Kind::Idempotent | Kind::All => -1,
            Kind::Leader => 1,
            Kind::None => 0,
        }
    }
}

/// How much a producer writes.
#[derive(Clone, Copy, Debug)]
pub struct Volume {
    /// Records of a batch at most.
    pub batch_records: u64,
    /// Filler bytes of a record at most.
    pub record_bytes: u64,
    /// Every batch is as large as it may be, and so all are of one size.
    pub uniform: bool,
    /// The longest pause between two requests, in milliseconds.
    pub pause_ms: u64,
}

#[derive(Clone, Debug)]
struct Batch {
    target: Target,
    /// What acks=all promises, as of when it was sent last.
    promise: Promise,
    ids: Vec<RecordId>,
    delivery: Vec<Delivery>,
    bytes: Bytes,
    /// It was refused, and is sent again.
    refused: bool,
}

impl Batch {
    /// Whether it is the first of its session in its partition.
    fn begins_session(&self) -> bool {
        matches!(self.delivery.first(), Some(Delivery::Idempotent { number: 0, .. }))
    }
}

struct InFlight {
    version: i16,
    life: u64,
    batches: Vec<Batch>,
}

/// An idempotent session: a producer id and, per partition, the next sequence number.
#[derive(Default)]
struct Session {
    number: u64,
    producer: Option<(ProducerId, ProducerEpoch)>,
    next: BTreeMap<Partition, u64>,
    /// Partitions where a batch was given up for good: the broker takes nothing that follows the gap, so the session
    /// is over there, and soon as a whole.
    over: BTreeSet<Partition>,
}

/// One producer.
pub struct Producer {
    client: Client,
    kind: Kind,
    volume: Volume,
    session: Session,
    in_flight: VecDeque<InFlight>,
    /// Batches without an outcome that are to be sent again, oldest first.
    again: VecDeque<Batch>,
}

impl Producer {
    /// A producer of its kind.
    pub fn new(client: Client, kind: Kind, volume: Volume) -> Producer {
        Producer {
            client,
            kind,
            volume,
            session: Session::default(),
            in_flight: VecDeque::new(),
            again: VecDeque::new(),
        }
    }

    /// Produces until the run winds down and every batch that will be sent again has an outcome.
    pub async fn run(mut self) {
        loop {
            if self.client.shared.is_winding_down() && self.in_flight.is_empty() && self.again.is_empty() {
                return;
            }
            if self.kind == Kind::Idempotent && self.session.producer.is_none() && !self.begin_session().await {
                continue;
            }
            self.client.pause(0, self.volume.pause_ms).await;
            if !self.send_more().await {
                self.lose_in_flight();
                continue;
            }
            // With something to be sent again, order is kept by having one request in flight at a time.
            let most = if self.again.is_empty() { self.client.rng.index(MAX_IN_FLIGHT) } else { 0 };
            let most = if self.client.shared.is_winding_down() { 0 } else { most };
            while self.in_flight.len() > most {
                if !self.receive().await {
                    self.lose_in_flight();
                }
            }
            if self.kind == Kind::Idempotent && (self.client.rng.chance(0.01) || !self.session.over.is_empty()) {
                self.end_session();
            }
        }
    }

    async fn begin_session(&mut self) -> bool {
        let version = self.client.version(&[0, 2, 3, 4, 5]);
        let request = InitProducerIdRequest {
            transactional_id: None,
            transaction_timeout_ms: 60_000,
            producer_id: -1,
            producer_epoch: -1,
            ..InitProducerIdRequest::default()
        };
        let Some(response) = self.client.call(version, &request).await else { return false };
        let code = ErrorCode(response.error_code);
        if code != ErrorCode::NONE {
            if !code.is_retriable() {
                self.client.shared.history().fail(format!("no producer id: {code}"));
            }
            self.client.pause(10, 200).await;
            return false;
        }
        let id = ProducerId(response.producer_id);
        if !self.client.shared.history().new_producer_id(id.0) {
            self.client.shared.history().fail(format!("the producer id {id} is given out twice"));
        }
        let number = self.client.shared.history().new_record().0;
        self.session =
            Session { number, producer: Some((id, ProducerEpoch(response.producer_epoch))), ..Session::default() };
        true
    }

    /// Begins a new session, when nothing of the present one waits for its outcome.
    fn end_session(&mut self) {
        if self.in_flight.is_empty() && self.again.is_empty() {
            self.session = Session::default();
        }
    }

    /// Sends a request: what is to be sent again first, otherwise new batches. False when the connection is lost.
    async fn send_more(&mut self) -> bool {
        let mut batches = if self.again.is_empty() {
            if self.client.shared.is_winding_down() || self.in_flight.len() >= MAX_IN_FLIGHT {
                return true;
            }
            self.new_batches()
        } else if self.in_flight.is_empty() {
            self.again.pop_front().into_iter().collect()
        } else {
            return true;
        };
        if batches.is_empty() {
            return true;
        }
        // By name, a batch may get into a later topic of the same name.
        let by_id = batches.iter().any(|batch| is_passing(&batch.target.topic));
        let version = self.client.version(if by_id { &BY_ID } else { &VERSIONS });
        let request = self.request(version, &batches);
        // Before it is sent, because nobody knows from then on whether it arrives.
        let life = {
            let mut history = self.client.shared.history();
            for batch in &mut batches {
                if history.is_relaxed(batch.target.partition) {
                    batch.promise = Promise::UntilPowerCut(history.losses(batch.target.partition));
                }
                for (&id, &delivery) in batch.ids.iter().zip(&batch.delivery) {
                    history.sending(batch.target.partition, id, delivery);
                }
            }
            history.life()
        };
        let answered = self.kind != Kind::None;
        if answered {
            self.in_flight.push_back(InFlight { version, life, batches });
        }
        self.client.send(version, &request, answered).await
    }

    fn request(&self, version: i16, batches: &[Batch]) -> ProduceRequest {
        let mut request = ProduceRequest { acks: self.kind.acks(), timeout_ms: 20_000, ..ProduceRequest::default() };
        for batch in batches {
            let data = PartitionProduceData {
                index: batch.target.partition.index,
                records: Some(Records::from(batch.bytes.clone())),
            };
            let mut topic = TopicProduceData { partition_data: vec![data], ..TopicProduceData::default() };
            if version >= 13 {
                topic.topic_id = batch.target.partition.topic;
            } else {
                topic.name = Str::from(batch.target.topic.as_str());
            }
            request.topic_data.push(topic);
        }
        request
    }

    /// One to three new batches for different partitions.
    fn new_batches(&mut self) -> Vec<Batch> {
        let mut all = targets(&self.client.shared.history());
        if self.kind == Kind::Idempotent {
            // A session cannot go on where its own end is lost.
            all.retain(|target| !self.client.shared.history().is_relaxed(target.partition));
            all.retain(|target| !self.session.over.contains(&target.partition));
        }
        let mut batches = Vec::new();
        let count = self.client.rng.between(1, 3);
        while batches.len() < count as usize && !all.is_empty() {
            let target = all.swap_remove(self.client.rng.index(all.len()));
            // A topic may stand once in a request.
            all.retain(|other| other.topic != target.topic);
            batches.push(self.new_batch(target));
        }
        batches
    }

    fn new_batch(&mut self, target: Target) -> Batch {
        let Volume { batch_records, record_bytes, uniform, .. } = self.volume;
        let rng = &mut self.client.rng;
        let count = if uniform { batch_records } else { rng.between(1, batch_records) };
        let codec = rng.pick(&[Codec::None, Codec::None, Codec::Lz4, Codec::Snappy]);
        let mut builder = BatchBuilder::new().codec(if uniform { Codec::None } else { codec });
        let next = self.session.next.entry(target.partition).or_default();
        if let Some((id, epoch)) = self.session.producer {
            let sequence = i32::try_from(*next).expect("a run does not send two thousand million records");
            builder = builder.producer(id, epoch, sequence);
        }
        let (mut ids, mut delivery) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let id = self.client.shared.history().new_record();
            let filler = if uniform { record_bytes } else { rng.below(record_bytes + 1) } as usize;
            builder.append(Timestamp(self.client.runtime.wall_clock()), None, Some(&payload::value(id, filler)));
            ids.push(id);
            delivery.push(match self.session.producer {
                Some(_) => Delivery::Idempotent { session: self.session.number, number: *next },
                None => Delivery::Plain,
            });
            *next += 1;
        }
        Batch { target, promise: Promise::Durable, ids, delivery, bytes: builder.build(), refused: false }
    }

    /// Receives one answer. False when the connection is lost.
    async fn receive(&mut self) -> bool {
        let Some(version) = self.in_flight.front().map(|request| request.version) else { return true };
        let Some(response) = self.client.receive::<ProduceRequest>(version).await else { return false };
        let Some(InFlight { version, life, batches }) = self.in_flight.pop_front() else { return true };
        for batch in batches {
            let answer = answer_for(&response, version, &batch.target);
            let Some((code, base_offset)) = answer else {
                let text = format!("{}: a produce does not answer for it", batch.target.partition);
                self.client.shared.history().fail(text);
                continue;
            };
            self.settle(batch, life, code, base_offset);
        }
        true
    }

    fn settle(&mut self, batch: Batch, life: u64, code: ErrorCode, base_offset: i64) {
        let partition = batch.target.partition;
        match code {
            ErrorCode::NONE => {
                let promise = match self.kind {
                    Kind::Leader => Promise::UntilCrash(life),
                    _ => batch.promise,
                };
                self.client.shared.history().acknowledged(partition, base_offset, &batch.ids, promise);
            }
            // It is in the log; where, the broker does not remember.
            ErrorCode::DUPLICATE_SEQUENCE_NUMBER if self.kind == Kind::Idempotent => {}
            ErrorCode::UNKNOWN_TOPIC_OR_PARTITION | ErrorCode::UNKNOWN_TOPIC_ID if !self.exists(&batch.target) => {
                self.again.retain(|other| other.target.partition != partition);
            }
            _ if self.session.over.contains(&partition) => {}
            // What follows the session's first batch was taken while that was refused: as for Kafka, whatever a broker
            // sees first of a session is its beginning. Kafka's clients go on in another epoch.
            ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER if batch.refused && batch.begins_session() => {
                self.again.retain(|other| other.target.partition != partition);
                self.session.over.insert(partition);
            }
            ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER if self.again.iter().any(|b| b.target.partition == partition) => {
                self.put_back(batch);
            }
            // A partition whose files failed: nothing will become of what is to be sent again either.
            _ if self.client.shared.history().may_be_offline(&batch.target.topic, partition.index) => {
                self.again.retain(|other| other.target.partition != partition);
                if self.kind == Kind::Idempotent {
                    self.session.over.insert(partition);
                }
            }
            code if code.is_retriable() || code == ErrorCode::UNKNOWN_TOPIC_ID => {
                self.put_back(Batch { refused: true, ..batch });
            }
            code => {
                let text = format!("{partition}: a batch of {:?} is refused: {code}", self.kind);
                let again: Vec<_> = self.again.iter().map(|batch| &batch.delivery).collect();
                self.client.note(&format!("{text}: {:?}, to be sent again: {:?}", batch.delivery, again));
                self.client.shared.history().fail(text);
            }
        }
    }

    /// A batch is to be sent again, before all that follow it in its partition: a broker that knows nothing of the
    /// session takes whatever comes first for its beginning.
    fn put_back(&mut self, batch: Batch) {
        if self.session.over.contains(&batch.target.partition) {
            return;
        }
        let follows = |other: &Batch| {
            let is_later = other.ids.first() > batch.ids.first();
            is_later && other.target.partition == batch.target.partition
        };
        let at = self.again.iter().position(follows).unwrap_or(self.again.len());
        self.again.insert(at, batch);
    }

    fn exists(&self, target: &Target) -> bool {
        targets(&self.client.shared.history()).iter().any(|other| other.partition == target.partition)
    }

    /// The connection is gone: nobody knows what became of what was in flight. Idempotent batches are sent again,
    /// others now and then, too.
    fn lose_in_flight(&mut self) {
        self.client.disconnect();
        for request in std::mem::take(&mut self.in_flight) {
            for batch in request.batches {
                if self.kind == Kind::Idempotent || self.client.rng.chance(0.5) {
                    self.put_back(batch);
                }
            }
        }
    }
}

fn answer_for(response: &ProduceResponse, version: i16, target: &Target) -> Option<(ErrorCode, i64)> {
    let topic = response.responses.iter().find(|answer| {
        if version >= 13 { answer.topic_id == target.partition.topic } else { answer.name.as_str() == target.topic }
    })?;
    let answer = topic.partition_responses.iter().find(|answer| answer.index == target.partition.index)?;
    Some((ErrorCode(answer.error_code), answer.base_offset))
}
