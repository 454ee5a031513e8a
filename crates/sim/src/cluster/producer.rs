//! Writes records to whoever leads, and tells the history what is sent and what is acknowledged.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use millpond_record::{BatchBuilder, ProducerEpoch, ProducerId, Timestamp};
use millpond_wire::init_producer_id::InitProducerIdRequest;
use millpond_wire::produce::{PartitionProduceData, ProduceRequest, ProduceResponse, TopicProduceData};
use millpond_wire::{ErrorCode, Records, Str};

use super::router::Router;
use crate::consumer::{Target, targets};
use crate::history::{Delivery, Partition, Promise};
use crate::payload::{self, RecordId};
use crate::producer::{Kind, Volume};

/// Produce versions that are used: by name to 12, by topic id from 13; the new leader is named from 10 on.
const VERSIONS: [i16; 5] = [7, 9, 10, 12, 13];
/// Requests in flight at most: Kafka remembers the last five batches of a producer.
const MAX_IN_FLIGHT: u64 = 5;

#[derive(Clone, Debug)]
struct Batch {
    ids: Vec<RecordId>,
    delivery: Vec<Delivery>,
    bytes: Bytes,
}

/// An idempotent session: a producer id and, per partition, the next sequence number.
struct Session {
    number: u64,
    producer: (ProducerId, ProducerEpoch),
    next: BTreeMap<Partition, u64>,
}

/// What becomes of a batch.
enum Fate {
    Done,
    Again,
    /// Nothing that follows in this session can be written.
    SessionOver,
}

/// One producer.
pub struct Producer {
    router: Router,
    kind: Kind,
    volume: Volume,
    session: Option<Session>,
}

impl Producer {
    /// A producer of its kind.
    pub fn new(router: Router, kind: Kind, volume: Volume) -> Producer {
        Producer { router, kind, volume, session: None }
    }

    /// Produces until the run winds down.
    pub async fn run(mut self) {
        while !self.router.cluster.shared.is_winding_down() {
            self.router.pause(0, self.volume.pause_ms).await;
            let all = targets(&self.router.cluster.shared.history());
            // Nothing slows down who does not wait for all replicas: one behind a slow link would never have it all.
            let waits = matches!(self.kind, Kind::All | Kind::Idempotent);
            if all.is_empty() || !waits && self.router.cluster.shared.is_calm() {
                self.router.pause(10, 100).await;
                continue;
            }
            let target = all[self.router.rng.index(all.len())].clone();
            let count = self.router.rng.between(1, MAX_IN_FLIGHT);
            self.write(&target, count).await;
            if self.router.rng.chance(0.02) {
                self.session = None;
            }
        }
    }

    /// Writes so many batches to a partition, and comes back when each has an outcome.
    pub async fn write(&mut self, target: &Target, count: u64) {
        while self.kind == Kind::Idempotent && self.session.is_none() {
            self.begin_session().await;
        }
        let mut waiting: VecDeque<Batch> = (0..count).map(|_| self.new_batch(target)).collect();
        let mut at_once = waiting.len();
        while !waiting.is_empty() {
            let Some(place) = self.router.place(target.partition) else {
                self.router.pause(0, 50).await;
                self.router.refresh().await;
                continue;
            };
            let sent = self.send(target, place.leader, waiting.iter().take(at_once)).await;
            let mut left = VecDeque::new();
            let mut answered = true;
            for (number, batch) in std::mem::take(&mut waiting).into_iter().enumerate() {
                let answer = match sent.get(number) {
                    Some(version) if answered => self.router.receive::<ProduceRequest>(place.leader, *version).await,
                    _ => None,
                };
                let Some(answer) = answer else {
                    // Nobody knows what became of it, if it was sent.
                    answered = answered && number >= sent.len();
                    left.push_back(batch);
                    continue;
                };
                match self.settle(target, place.leader, &batch, &answer, sent[number], left.is_empty()) {
                    Fate::Done => {}
                    Fate::Again => left.push_back(batch),
                    Fate::SessionOver => {
                        self.session = None;
                        self.router.disconnect(place.leader);
                        return;
                    }
                }
            }
            waiting = left;
            // What is sent again goes one at a time, so that order is kept.
            at_once = 1;
            if !waiting.is_empty() {
                if !answered {
                    self.router.disconnect(place.leader);
                }
                self.router.pause(5, 60).await;
                self.router.refresh().await;
            }
        }
    }

    async fn begin_session(&mut self) {
        let (broker, version) = (self.router.any(), self.router.rng.pick(&[2, 4, 5]));
        let request = InitProducerIdRequest {
            transactional_id: None,
            transaction_timeout_ms: 60_000,
            producer_id: -1,
            producer_epoch: -1,
            ..InitProducerIdRequest::default()
        };
        let response = self.router.call(broker, version, &request).await;
        match response.as_ref().map(|response| ErrorCode(response.error_code)) {
            Some(ErrorCode::NONE) => {}
            Some(code) if !code.is_retriable() => {
                self.router.fail(format!("no producer id from broker {broker}: {code}"));
                return self.router.pause(100, 1_000).await;
            }
            _ => return self.router.pause(10, 200).await,
        }
        let Some(response) = response else { return };
        let mut history = self.router.cluster.shared.history();
        if !history.new_producer_id(response.producer_id) {
            history.fail(format!("the producer id {} is given out twice", response.producer_id));
        }
        let number = history.new_record().0;
        let producer = (ProducerId(response.producer_id), ProducerEpoch(response.producer_epoch));
        self.session = Some(Session { number, producer, next: BTreeMap::new() });
    }

    fn new_batch(&mut self, target: &Target) -> Batch {
        let count = self.router.rng.between(1, self.volume.batch_records);
        let mut builder = BatchBuilder::new();
        let mut next = 0;
        if let Some(Session { producer: (id, epoch), next: numbers, .. }) = &self.session {
            next = numbers.get(&target.partition).copied().unwrap_or_default();
            let sequence = i32::try_from(next).expect("a run does not send two thousand million records");
            builder = builder.producer(*id, *epoch, sequence);
        }
        let (mut ids, mut delivery) = (Vec::new(), Vec::new());
        for number in next..next + count {
            let id = self.router.cluster.shared.history().new_record();
            let filler = self.router.rng.below(self.volume.record_bytes + 1) as usize;
            builder.append(Timestamp(self.router.runtime.wall_clock()), None, Some(&payload::value(id, filler)));
            ids.push(id);
            delivery.push(match &self.session {
                Some(session) => Delivery::Idempotent { session: session.number, number },
                None => Delivery::Plain,
            });
        }
        if let Some(session) = &mut self.session {
            session.next.insert(target.partition, next + count);
        }
        Batch { ids, delivery, bytes: builder.build() }
    }

    /// Sends batches to a broker, each in a request of its own. Gives the versions of the requests that were sent.
    async fn send(&mut self, target: &Target, leader: i32, batches: impl Iterator<Item = &Batch>) -> Vec<i16> {
        let mut sent = Vec::new();
        for batch in batches {
            let version = self.router.rng.pick(&VERSIONS);
            let records = Some(Records::from(batch.bytes.clone()));
            let data = PartitionProduceData { index: target.partition.index, records };
            let mut topic = TopicProduceData { partition_data: vec![data], ..TopicProduceData::default() };
            if version >= 13 {
                topic.topic_id = target.partition.topic;
            } else {
                topic.name = Str::from(target.topic.as_str());
            }
            let acks = if self.kind == Kind::Leader { 1 } else { -1 };
            let request = ProduceRequest { acks, timeout_ms: 3_000, topic_data: vec![topic], ..Default::default() };
            // Before it is sent, because nobody knows from then on whether it arrives.
            for (&id, &delivery) in batch.ids.iter().zip(&batch.delivery) {
                self.router.cluster.shared.history().sending(target.partition, id, delivery);
            }
            if !self.router.send(leader, version, &request).await {
                break;
            }
            sent.push(version);
        }
        sent
    }

    fn settle(
        &mut self,
        target: &Target,
        broker: i32,
        batch: &Batch,
        answer: &ProduceResponse,
        version: i16,
        is_first: bool,
    ) -> Fate {
        let partition = target.partition;
        let found = answer.responses.iter().find(|topic| {
            if version >= 13 { topic.topic_id == partition.topic } else { topic.name.as_str() == target.topic }
        });
        let found = found.and_then(|topic| topic.partition_responses.iter().find(|p| p.index == partition.index));
        let Some(found) = found else {
            self.router.fail(format!("{partition}: a produce does not answer for it"));
            return Fate::Done;
        };
        self.router.heard(partition, found.current_leader.leader_id, found.current_leader.leader_epoch);
        let begins_session = matches!(batch.delivery.first(), Some(Delivery::Idempotent { number: 0, .. }));
        match ErrorCode(found.error_code) {
            ErrorCode::NONE => {
                if self.kind == Kind::All {
                    // Each sending of it is a batch of its own, and this is the one that was acknowledged.
                    self.router.cluster.acknowledged(partition, found.base_offset, broker);
                }
                let mut history = self.router.cluster.shared.history();
                match self.kind {
                    // It may be gone with its leader.
                    Kind::Leader => history.acknowledged_by_leader(batch.ids.len()),
                    _ => history.acknowledged(partition, found.base_offset, &batch.ids, Promise::Durable),
                }
                Fate::Done
            }
            // It is in the log; where, the broker does not remember.
            ErrorCode::DUPLICATE_SEQUENCE_NUMBER if self.kind == Kind::Idempotent => Fate::Done,
            // What is before it is to be sent again, and then it is.
            ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER if !is_first => Fate::Again,
            // What follows the session's first batch was taken while that was refused (and maybe its answer lost):
            // whatever a broker sees first of a session is its beginning, as for Kafka.
            ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER if begins_session => Fate::SessionOver,
            code if code.is_retriable() || code == ErrorCode::UNKNOWN_TOPIC_ID => Fate::Again,
            // What it followed in its session may be lost.
            _ if self.router.cluster.shared.history().is_given_up(partition) => Fate::SessionOver,
            code => {
                let text = format!("{partition}: a batch of {:?} is refused: {code}", self.kind);
                self.router.note(&format!("{text}: {:?}", batch.delivery));
                self.router.fail(text);
                Fate::SessionOver
            }
        }
    }
}
