//! Everything that a producer holds, as a pure state machine: topics, the queues of their partitions, and how much is
//! on the way to each broker. Time and chance are arguments; the driver does what a [`Plan`] says.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use millpond_record::{TopicId, partition_for_key};
use millpond_wire::metadata::MetadataResponse;
use millpond_wire::{ErrorCode, Str};
use tokio::time::Instant;

use super::batch::{Done, Identity, Payload, Stamp};
use super::config::{Acks, ProducerConfig};
use super::delivery::{Delivery, Slot};
use super::queue::{Queue, Rules, Verdict};
use super::record::NewRecord;
use crate::config::ClientConfig;
use crate::error::Error;
use crate::metadata::Topics;
use crate::transport::mix;

/// A partition by the numbers of its topic and its own.
pub(crate) type Place = (usize, usize);

/// A record that was taken in.
#[derive(Debug)]
pub(crate) struct Appended {
    pub(crate) delivery: Delivery,
    /// The driver must look.
    pub(crate) wake: bool,
}

/// Why a record is not taken in.
#[derive(Debug)]
pub(crate) enum NotAppended {
    /// The topic is not known yet and is asked for; what the last answer said, if there was one.
    NotKnown(Option<Error>),
    Refused(Error),
}

/// What is to be done now.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Brokers for which something is due.
    pub(crate) brokers: BTreeSet<i32>,
    /// Topics to ask for.
    pub(crate) topics: Vec<Str>,
    /// A producer id is to be asked for.
    pub(crate) identity: bool,
    /// When to look again if nothing happens.
    pub(crate) wake_at: Option<Instant>,
    pub(crate) done: Vec<Done>,
}

/// A batch of a request.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) place: Place,
    pub(crate) topic: Str,
    pub(crate) topic_id: Option<TopicId>,
    pub(crate) payload: Payload,
    pub(crate) stamp: Option<Stamp>,
}

/// A request to one broker: at most one batch of each partition.
#[derive(Debug)]
pub(crate) struct Outbound {
    pub(crate) ticket: u64,
    pub(crate) parts: Vec<Part>,
}

/// What came of a batch of a request.
#[derive(Debug)]
pub(crate) struct PartAnswer {
    pub(crate) place: Place,
    pub(crate) payload: Payload,
    pub(crate) verdict: Verdict,
    /// The leader and its epoch, when the answer names them.
    pub(crate) leader: Option<(i32, i32)>,
}

/// Which partition records without a key go to: one at a time, until it has had a batch (KIP-794).
#[derive(Debug, Default)]
struct Sticky {
    partition: Option<usize>,
    bytes: usize,
}

#[derive(Debug, Default)]
struct TopicQueues {
    queues: Vec<Queue>,
    sticky: Sticky,
}

#[derive(Debug, Default)]
struct Broker {
    in_flight: usize,
    /// Where the last request's search ended; the next begins behind it, so that none is passed over for ever.
    cursor: Place,
}

/// The producer's state.
#[derive(Debug)]
pub(crate) struct Accumulator {
    rules: Rules,
    pauses: ClientConfig,
    max_request_bytes: usize,
    topics: Topics,
    /// By the numbers of `topics`.
    queues: Vec<TopicQueues>,
    /// The queues that are not empty.
    active: BTreeSet<Place>,
    brokers: BTreeMap<i32, Broker>,
    identity: Option<Identity>,
    asking_identity: bool,
    identity_not_before: Option<Instant>,
    identity_failures: u32,
    /// Whether somebody waits for memory, so that no batch should wait for more records.
    hurry: bool,
    last_ticket: u64,
    chance: u64,
}

impl Accumulator {
    /// Holds nothing. `chance` seeds what is random.
    pub(crate) fn new(config: &ProducerConfig, pauses: ClientConfig, chance: u64) -> Accumulator {
        let rules = Rules {
            idempotent: config.idempotent,
            unanswered: config.acks == Acks::None,
            codec: config.codec,
            // Less what a timer is late: else it would be the least that a batch waits, and not about what it waits.
            linger: config.linger - TIMER_LATE.min(config.linger / 2),
            batch_bytes: config.most_batch_bytes(),
            buffer_memory: config.buffer_memory,
            max_in_flight: config.max_in_flight,
            delivery_timeout: config.delivery_timeout,
        };
        Accumulator {
            rules,
            pauses,
            max_request_bytes: config.max_request_bytes,
            topics: Topics::new(config.metadata_max_age),
            queues: Vec::new(),
            active: BTreeSet::new(),
            brokers: BTreeMap::new(),
            identity: None,
            asking_identity: false,
            identity_not_before: None,
            identity_failures: 0,
            hurry: false,
            last_ticket: 0,
            chance,
        }
    }

    fn chance(&mut self) -> u64 {
        self.chance = self.chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.chance)
    }

    /// Takes a record in, for which `most_bytes` of memory were set aside. The clock is only read for a new batch.
    pub(crate) fn append(
        &mut self,
        record: &NewRecord<'_>,
        timestamp: i64,
        most_bytes: usize,
        now: impl FnOnce() -> Instant,
    ) -> Result<Appended, NotAppended> {
        let (topic, count) = self.look_up(record.topic)?;
        let known = &mut self.queues[topic].queues;
        for partition in known.len()..count {
            known.push(Queue::new(i32::try_from(partition).unwrap_or(i32::MAX)));
        }
        let partition = self.choose(topic, count, record, most_bytes)?;
        let queue = &mut self.queues[topic].queues[partition];
        let (delivery, wake) = queue.append(record, timestamp, most_bytes, self.active.len(), now, &self.rules);
        if wake {
            self.active.insert((topic, partition));
        }
        Ok(Appended { delivery, wake })
    }

    /// The number of a topic and how many partitions it has; none yet is an error, and has it asked for.
    pub(crate) fn look_up(&mut self, name: &str) -> Result<(usize, usize), NotAppended> {
        let topic = self.topics.number(name).map_err(NotAppended::Refused)?;
        if topic >= self.queues.len() {
            self.queues.resize_with(topic + 1, TopicQueues::default);
        }
        let count = self.topics.get(topic).partitions.len();
        if count > 0 {
            return Ok((topic, count));
        }
        // Also after a refusal: when somebody tries again it may be allowed.
        self.topics.doubt(topic);
        Err(match self.topics.get(topic).error.clone() {
            Some(error) if !error.is_retriable() => NotAppended::Refused(error),
            error => NotAppended::NotKnown(error),
        })
    }

    fn choose(
        &mut self,
        topic: usize,
        count: usize,
        record: &NewRecord<'_>,
        most_bytes: usize,
    ) -> Result<usize, NotAppended> {
        if let Some(partition) = record.partition {
            let there = usize::try_from(partition).ok().filter(|partition| *partition < count);
            return there.ok_or_else(|| {
                // It may have been made since.
                self.topics.doubt(topic);
                NotAppended::Refused(Error::Refused {
                    what: format!("producing to partition {partition} of {}", record.topic),
                    code: ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
                    message: Some(format!("the topic has {count} partitions")),
                })
            });
        }
        if let Some(key) = record.key {
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            return Ok(partition_for_key(key, count) as usize);
        }
        let TopicQueues { queues, sticky } = &self.queues[topic];
        if let Some(partition) = sticky.partition.filter(|partition| *partition < count) {
            let begins = queues[partition].begins(most_bytes, &self.rules);
            if !begins || sticky.bytes + most_bytes <= self.rules.batch_bytes {
                self.queues[topic].sticky.bytes += most_bytes;
                return Ok(partition);
            }
        }
        let led = |partition: &usize| self.topics.leadership(topic, *partition).leader.is_some();
        let candidates = (0..count).filter(led).count();
        let chance = self.chance();
        let partition = match candidates {
            0 => chance as usize % count,
            some => {
                let led = |partition: &usize| self.topics.leadership(topic, *partition).leader.is_some();
                (0..count).filter(led).nth(chance as usize % some).unwrap_or_default()
            }
        };
        self.queues[topic].sticky = Sticky { partition: Some(partition), bytes: most_bytes };
        Ok(partition)
    }

    /// Says whether somebody waits for memory.
    pub(crate) fn hurry(&mut self, hurry: bool) {
        self.hurry = hurry;
    }

    /// Ends all open batches; gives the slots of all that have no outcome yet.
    pub(crate) fn flush(&mut self) -> Vec<Arc<Slot>> {
        let mut slots = Vec::new();
        for (topic, partition) in &self.active {
            let queue = &mut self.queues[*topic].queues[*partition];
            queue.close();
            slots.extend(queue.unfinished().map(|batch| Arc::clone(&batch.slot)));
        }
        slots
    }

    /// Fails everything: nobody is left to send it.
    pub(crate) fn abandon(&mut self) -> Vec<Done> {
        let mut done = Vec::new();
        for (topic, partition) in std::mem::take(&mut self.active) {
            self.queues[topic].queues[partition].abandon(&mut done);
        }
        done
    }

    /// Whether there is nothing without an outcome.
    pub(crate) fn is_empty(&self) -> bool {
        self.active.is_empty()
    }

    /// Looks at everything. What the plan names is expected to be done: topics and identity count as asked for.
    pub(crate) fn plan(&mut self, now: Instant) -> Plan {
        let mut plan = Plan::default();
        let mut wants_identity = false;
        let mut emptied = Vec::new();
        for place @ (topic, partition) in self.active.iter().copied() {
            let queue = &mut self.queues[topic].queues[partition];
            queue.expire(now, &self.rules, &mut plan.done);
            if queue.is_empty() {
                emptied.push(place);
                continue;
            }
            plan.wake_at = earlier(plan.wake_at, queue.expires_at(&self.rules));
            if let Some(spent) = queue.wants_identity(&self.rules) {
                match self.identity {
                    Some(identity) if Some(identity.id) != spent => queue.identify(identity),
                    _ => {
                        wants_identity = true;
                        continue;
                    }
                }
            }
            let Some(due) = queue.due(now, self.hurry, &self.rules) else { continue };
            if due > now {
                plan.wake_at = earlier(plan.wake_at, Some(due));
                continue;
            }
            if self.rules.unanswered && self.topics.was_hung_up_on(topic) {
                // Nobody would say that it went to the wrong broker.
                continue;
            }
            match self.topics.leadership(topic, partition).leader {
                None => {
                    self.topics.doubt(topic);
                    queue.reason.get_or_insert_with(|| leaderless(self.topics.get(topic).name.as_str(), partition));
                }
                Some(leader)
                    if self.brokers.get(&leader).is_none_or(|broker| broker.in_flight < self.rules.max_in_flight) =>
                {
                    plan.brokers.insert(leader);
                }
                Some(_) => {}
            }
        }
        for place in emptied {
            self.active.remove(&place);
        }
        if wants_identity && !self.asking_identity {
            let at = self.identity_not_before.filter(|at| *at > now);
            plan.identity = at.is_none();
            self.asking_identity = plan.identity;
            plan.wake_at = earlier(plan.wake_at, at);
        }
        let (topics, ask_at) = self.topics.ask(now);
        plan.topics = topics;
        plan.wake_at = earlier(plan.wake_at, ask_at);
        plan
    }

    /// Takes what is due for a broker, to be sent on this route: as much as one request holds. `None` if nothing is, or
    /// enough is on the way to it.
    pub(crate) fn take(&mut self, broker_id: i32, route: u64, now: Instant) -> Option<Outbound> {
        let broker = self.brokers.entry(broker_id).or_default();
        if broker.in_flight >= self.rules.max_in_flight {
            return None;
        }
        let ticket = self.last_ticket + 1;
        let behind = self.active.range((Bound::Excluded(broker.cursor), Bound::Unbounded));
        let before = self.active.range(..=broker.cursor);
        let mut parts = Vec::new();
        let mut bytes = 0_usize;
        for place @ (topic, partition) in behind.chain(before).copied() {
            if self.topics.leadership(topic, partition).leader != Some(broker_id) {
                continue;
            }
            let queue = &mut self.queues[topic].queues[partition];
            let next = queue.next_bytes();
            if !parts.is_empty() && bytes.saturating_add(next) > self.max_request_bytes {
                // It is the first of the next request.
                continue;
            }
            let Some(taken) = queue.take(ticket, route, now, self.hurry, &self.rules) else { continue };
            bytes = bytes.saturating_add(next);
            broker.cursor = place;
            let known = self.topics.get(topic);
            let (payload, stamp) = (taken.payload, taken.stamp);
            parts.push(Part { place, topic: known.name.clone(), topic_id: known.id, payload, stamp });
        }
        if parts.is_empty() {
            return None;
        }
        broker.in_flight += 1;
        self.last_ticket = ticket;
        Some(Outbound { ticket, parts })
    }

    /// Takes what came of a request.
    pub(crate) fn answered(&mut self, broker_id: i32, ticket: u64, parts: Vec<PartAnswer>, now: Instant) -> Vec<Done> {
        if let Some(broker) = self.brokers.get_mut(&broker_id) {
            broker.in_flight = broker.in_flight.saturating_sub(1);
        }
        let mut done = Vec::new();
        for PartAnswer { place: (topic, partition), payload, verdict, leader } in parts {
            let mut at_once = false;
            match &verdict {
                Verdict::Written { .. } => {}
                Verdict::Refused { error, .. } => {
                    if let Some(code) = error.code().filter(|code| code.refreshes_metadata()) {
                        at_once = self.topics.refused(topic, partition, broker_id, code, leader);
                    }
                }
                Verdict::Lost(_) => self.topics.doubt(topic),
            }
            let chance = self.chance();
            let pauses = &self.pauses;
            // Who has just been told of the leader need not wait.
            let retry_at = |attempts| match at_once && attempts == 1 {
                true => now,
                false => now + pauses.pause_after(attempts, chance),
            };
            let queue = &mut self.queues[topic].queues[partition];
            queue.answer(ticket, payload, verdict, &self.rules, retry_at, &mut done);
            if queue.is_empty() {
                self.active.remove(&(topic, partition));
            }
        }
        done
    }

    /// Takes an answer about topics over.
    pub(crate) fn learned(&mut self, told: &MetadataResponse, now: Instant) -> Vec<Done> {
        let chance = self.chance();
        let replaced = self.topics.learn(told, now, |row| self.pauses.pause_after(row, chance));
        let mut done = Vec::new();
        for topic in replaced {
            for (partition, queue) in self.queues[topic].queues.iter_mut().enumerate() {
                queue.begin_anew(&mut done);
                if queue.is_empty() {
                    self.active.remove(&(topic, partition));
                }
            }
        }
        done
    }

    /// Has every topic asked for again, as if it were long ago that they were.
    #[cfg(test)]
    pub(crate) fn topics_are_old(&mut self) {
        (0..self.queues.len()).for_each(|topic| self.topics.doubt(topic));
    }

    /// No answer about topics came.
    pub(crate) fn not_learned(&mut self, error: &Error, now: Instant) {
        let chance = self.chance();
        self.topics.not_told(error, now, |row| self.pauses.pause_after(row, chance));
    }

    /// Takes a producer id over, or that there is none. A failure that does not pass fails what waits for it.
    pub(crate) fn identified(&mut self, result: Result<Identity, Error>, now: Instant) -> Vec<Done> {
        self.asking_identity = false;
        let mut done = Vec::new();
        let spent = self.identity.map(|identity| identity.id);
        let again = |identity: &Identity| Some(identity.id) == spent;
        match result.and_then(|identity| if again(&identity) { Err(given_before()) } else { Ok(identity) }) {
            Ok(identity) => {
                self.identity = Some(identity);
                self.identity_failures = 0;
                self.identity_not_before = None;
            }
            Err(error) => {
                self.identity_failures = self.identity_failures.saturating_add(1);
                let chance = self.chance();
                self.identity_not_before = Some(now + self.pauses.pause_after(self.identity_failures, chance));
                for (topic, partition) in &self.active {
                    let queue = &mut self.queues[*topic].queues[*partition];
                    if queue.wants_identity(&self.rules).is_none() {
                        continue;
                    }
                    queue.reason = Some(error.clone());
                    if !error.is_retriable() {
                        queue.fail_unsent(&error, &mut done);
                    }
                }
            }
        }
        done
    }

    /// A connection to a broker was lost. It may have led its partitions no more: without acknowledgements that is the
    /// only way in which it says so.
    pub(crate) fn disconnected(&mut self, broker_id: i32) {
        self.topics.doubt_led_by(broker_id);
    }

    /// A broker could not be connected to, is not trusted, or has no version in common: who waits for it hears why, at
    /// once if that stays so, else when its time is up, and who leads its partitions is asked for.
    pub(crate) fn unreachable(&mut self, broker_id: i32, error: &Error) -> Vec<Done> {
        let mut done = Vec::new();
        for (topic, partition) in &self.active {
            if self.topics.leadership(*topic, *partition).leader == Some(broker_id) {
                self.topics.doubt(*topic);
                let queue = &mut self.queues[*topic].queues[*partition];
                queue.reason = Some(error.clone());
                if matches!(error, Error::Unsupported { .. } | Error::Untrusted { .. }) {
                    queue.fail_unsent(error, &mut done);
                }
            }
        }
        done
    }
}

fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    [a, b].into_iter().flatten().min()
}

/// What is asked for again was of no use, and would be of none again.
fn given_before() -> Error {
    Error::Refused {
        what: "asking for another producer id".to_owned(),
        code: ErrorCode::COORDINATOR_LOAD_IN_PROGRESS,
        message: Some("the broker gave the same one again".to_owned()),
    }
}

fn leaderless(topic: &str, partition: usize) -> Error {
    Error::Refused {
        what: format!("producing to partition {partition} of {topic}"),
        code: ErrorCode::LEADER_NOT_AVAILABLE,
        message: None,
    }
}

/// How late a timer is on average: it counts in milliseconds, and so does what it waits with.
const TIMER_LATE: Duration = Duration::from_millis(1);

/// How long nothing is worth waking up for.
pub(crate) const LONGEST_NAP: Duration = Duration::from_secs(3600);
