//! Everything that a consumer holds, as a pure state machine: its partitions, who leads them, and how much is on the
//! way from each broker. Time and chance are arguments; the driver does what a [`Plan`] says.

mod commits;
mod truncation;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use millpond_record::TopicId;
use millpond_wire::metadata::MetadataResponse;
use millpond_wire::{ErrorCode, Str};
use tokio::time::Instant;

pub(crate) use commits::{Committed, Offset};
pub(crate) use truncation::{Check, EpochEnd};

use super::config::{ConsumerConfig, Isolation, OffsetReset};
use super::partition::{Errors, Fetch, Partition};
use super::record::{Chunk, ConsumerRecord, OpenRules};
use crate::admin::{OffsetAt, TopicPartition};
use crate::config::ClientConfig;
use crate::error::Error;
use crate::metadata::Topics;
use crate::transport::mix;

/// A partition by the numbers of its topic and its own.
pub(crate) type Place = (usize, i32);

/// How long a broker waits for more while a partition that it leads is left out because enough of it is here: soon it
/// may be wanted again.
const SHORT_WAIT: Duration = Duration::from_millis(100);

/// How long nothing is worth waking up for.
pub(crate) const LONGEST_NAP: Duration = Duration::from_secs(3600);

/// What is to be done now.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Brokers from which something is to be fetched; the one whose turn it is comes first.
    pub(crate) brokers: Vec<i32>,
    /// Topics to ask for.
    pub(crate) topics: Vec<Str>,
    /// Offsets to look up.
    pub(crate) look_ups: Vec<LookUp>,
    /// What is to be asked of leaders that are new.
    pub(crate) checks: Vec<Check>,
    /// When to look again if nothing happens.
    pub(crate) wake_at: Option<Instant>,
}

/// An offset to be looked up.
#[derive(Clone, Debug)]
pub(crate) struct LookUp {
    pub(crate) place: Place,
    /// As far as is known.
    pub(crate) leader: i32,
    pub(crate) generation: u64,
    pub(crate) name: TopicPartition,
    pub(crate) at: OffsetAt,
}

/// A partition of a fetch.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) place: Place,
    pub(crate) generation: u64,
    pub(crate) topic: Str,
    pub(crate) topic_id: Option<TopicId>,
    pub(crate) offset: i64,
    /// Of the leader, as far as is known.
    pub(crate) leader_epoch: Option<i32>,
}

/// A fetch from one broker.
#[derive(Debug)]
pub(crate) struct Outbound {
    pub(crate) wanted: Vec<Wanted>,
    pub(crate) max_bytes: usize,
    pub(crate) max_wait: Duration,
}

/// What came of a partition of a fetch.
#[derive(Debug)]
pub(crate) enum Answer {
    Read {
        bytes: Bytes,
        aborted: Vec<(i64, i64)>,
        /// The end of what may be read; `None` if the answer does not say.
        end: Option<i64>,
        /// The replica to go to instead.
        replica: Option<i32>,
    },
    Refused {
        code: ErrorCode,
        /// The leader and its epoch, when the answer names them.
        leader: Option<(i32, i32)>,
    },
    /// There is no answer.
    Lost,
}

#[derive(Clone, Copy, Debug)]
struct Rules {
    open: OpenRules,
    reset: OffsetReset,
    /// A new partition begins where the group has come to.
    grouped: bool,
    max_wait: Duration,
    max_bytes: usize,
    max_partition_bytes: usize,
    buffer_memory: usize,
    replica_for: Duration,
}

/// The consumer's state.
#[derive(Debug)]
pub(crate) struct Positions {
    rules: Rules,
    pauses: ClientConfig,
    topics: Topics,
    partitions: BTreeMap<Place, Partition>,
    places: BTreeMap<TopicPartition, Place>,
    /// Those that may have something for the caller, the next one first.
    listed: VecDeque<Place>,
    /// Those that the last call of the caller has looked into.
    touched: Vec<Place>,
    /// What the caller must hear of and is of no partition.
    errors: VecDeque<Error>,
    /// What a fetch on its way from a broker may bring, in bytes.
    on_the_way: BTreeMap<i32, usize>,
    /// Of all partitions.
    buffered: usize,
    last_generation: u64,
    /// From whom was fetched last: when there is little room, the others have their turn.
    last_broker: i32,
    /// Where the next fetch begins, so that no partition is always behind another.
    turn: usize,
    chance: u64,
}

impl Positions {
    /// Reads nothing. `chance` seeds what is random.
    pub(crate) fn new(config: &ConsumerConfig, pauses: ClientConfig, chance: u64) -> Positions {
        let rules = Rules {
            open: OpenRules { check_crcs: config.check_crcs, committed: config.isolation == Isolation::ReadCommitted },
            reset: config.offset_reset,
            grouped: config.group_id.is_some(),
            max_wait: config.fetch_max_wait,
            max_bytes: config.fetch_max_bytes,
            max_partition_bytes: config.max_partition_fetch_bytes,
            buffer_memory: config.buffer_memory,
            replica_for: config.metadata_max_age,
        };
        Positions {
            rules,
            pauses,
            topics: Topics::new(config.metadata_max_age),
            partitions: BTreeMap::new(),
            places: BTreeMap::new(),
            listed: VecDeque::new(),
            touched: Vec::new(),
            errors: VecDeque::new(),
            on_the_way: BTreeMap::new(),
            buffered: 0,
            last_generation: 0,
            last_broker: 0,
            turn: 0,
            chance,
        }
    }

    fn chance(&mut self) -> u64 {
        self.chance = self.chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.chance)
    }

    fn generation(&mut self) -> u64 {
        self.last_generation += 1;
        self.last_generation
    }

    /// Reads these partitions and no others. Those that are read already go on where they are; a new one begins where
    /// the reset policy says.
    ///
    /// # Errors
    /// For what cannot be the name of a topic; nothing has changed then.
    pub(crate) fn assign(&mut self, wanted: &BTreeSet<TopicPartition>) -> Result<(), Error> {
        let mut numbers = BTreeMap::new();
        for name in wanted {
            numbers.insert(name, (self.topics.number(&name.topic)?, name.partition));
        }
        let gone: Vec<TopicPartition> = self.places.keys().filter(|name| !wanted.contains(name)).cloned().collect();
        for place in gone.iter().filter_map(|name| self.places.remove(name)) {
            if let Some(partition) = self.partitions.remove(&place) {
                self.buffered -= partition.buffered;
            }
        }
        for (name, place) in numbers {
            if self.places.insert(name.clone(), place).is_none() {
                let generation = self.generation();
                let mut partition = Partition::new(name.clone(), generation);
                partition.fetch = if self.rules.grouped { Fetch::Committed } else { Fetch::Stopped };
                self.partitions.insert(place, partition);
                if !self.rules.grouped {
                    self.reset(place, None);
                }
            }
        }
        Ok(())
    }

    /// The partitions that are read.
    pub(crate) fn assigned(&self) -> impl Iterator<Item = &Partition> {
        self.places.values().filter_map(|place| self.partitions.get(place))
    }

    /// One of them.
    pub(crate) fn partition(&self, name: &TopicPartition) -> Option<&Partition> {
        self.partitions.get(self.places.get(name)?)
    }

    /// Goes on elsewhere. Whether the partition is read.
    pub(crate) fn seek(&mut self, name: &TopicPartition, to: Fetch) -> bool {
        let Some(place) = self.places.get(name).copied() else { return false };
        self.seek_place(place, to);
        true
    }

    fn seek_place(&mut self, place: Place, to: Fetch) {
        let generation = self.generation();
        let Some(partition) = self.partitions.get_mut(&place) else { return };
        self.buffered -= partition.buffered;
        partition.seek(to, generation);
    }

    /// Goes where the reset policy says; `offset` is what the log does not have.
    fn reset(&mut self, place: Place, offset: Option<i64>) {
        let Some(partition) = self.partitions.get_mut(&place) else { return };
        match self.rules.reset.offset() {
            Some(at) => partition.fetch = Fetch::LookUp(at),
            None => {
                let error = Error::NoOffset { partition: partition.name.clone(), offset };
                self.fail(place, error);
            }
        }
    }

    fn fail(&mut self, place: Place, error: Error) {
        if let Some(partition) = self.partitions.get_mut(&place) {
            partition.asking = false;
            partition.fail(error);
            self.list(place);
        }
    }

    /// Pauses a partition, or has it go on. Whether it is read.
    pub(crate) fn pause(&mut self, name: &TopicPartition, paused: bool) -> bool {
        let Some(place) = self.places.get(name).copied() else { return false };
        let Some(partition) = self.partitions.get_mut(&place) else { return false };
        partition.paused = paused;
        self.list(place);
        true
    }

    /// Gives no records of a partition before the caller has heard that it has it, or while it parts with it.
    pub(crate) fn withhold(&mut self, name: &TopicPartition, withheld: bool) {
        let Some(place) = self.places.get(name).copied() else { return };
        let Some(partition) = self.partitions.get_mut(&place) else { return };
        partition.withheld = withheld;
        self.list(place);
    }

    fn list(&mut self, place: Place) {
        let Some(partition) = self.partitions.get_mut(&place) else { return };
        if !partition.listed && !partition.is_quiet() && partition.has_news() {
            partition.listed = true;
            self.listed.push_back(place);
        }
    }

    /// The next record for the caller, or an error that it must hear of, and whether the driver must look.
    pub(crate) fn next(&mut self, errors: Errors) -> (Option<Result<ConsumerRecord, Error>>, bool) {
        let mut wake = false;
        if errors == Errors::Give {
            self.settle();
            if let Some(error) = self.errors.pop_front() {
                return (Some(Err(error)), false);
            }
        }
        while let Some(place) = self.listed.front().copied() {
            let Some(partition) = self.partitions.get_mut(&place) else {
                self.listed.pop_front();
                continue;
            };
            if partition.is_quiet() {
                partition.listed = false;
                self.listed.pop_front();
                continue;
            }
            if self.touched.last() != Some(&place) {
                self.touched.push(place);
            }
            let before = partition.buffered;
            let (item, ended) = partition.next(self.rules.open, errors);
            self.buffered -= before - partition.buffered;
            wake |= ended;
            if item.is_none() && partition.has_news() {
                // An error that is left.
                break;
            }
            if item.is_none() {
                partition.listed = false;
                self.listed.pop_front();
                continue;
            }
            if ended {
                // The others have their turn.
                self.listed.rotate_left(1);
            }
            return (item, wake);
        }
        if errors == Errors::Give {
            // Whoever asks for more and gets none is done with what gave nothing, too: markers of transactions.
            self.settle();
        }
        (None, wake)
    }

    /// Adds the records that are here up to `most` in all, in the order in which [`next`](Positions::next) gives them;
    /// says whether the driver must look. An error is left for the next time.
    pub(crate) fn next_many(&mut self, most: usize, records: &mut Vec<ConsumerRecord>) -> bool {
        let mut wake = false;
        while records.len() < most {
            let (item, ended) = self.next(Errors::Leave);
            wake |= ended;
            let Some(Ok(record)) = item else { break };
            records.push(record);
            // Those that are opened already go without a look at each, unless it is the turn of others.
            let front = self.listed.front().filter(|_| !ended);
            if let Some(partition) = front.and_then(|place| self.partitions.get_mut(place)) {
                partition.give_opened(most - records.len(), records);
            }
        }
        wake
    }

    /// Whether there may be something for the caller.
    pub(crate) fn has_news(&self) -> bool {
        !self.listed.is_empty() || !self.errors.is_empty()
    }

    /// Has the caller hear of something that is of no partition.
    pub(crate) fn tell(&mut self, error: Error) {
        self.errors.push_back(error);
    }

    /// The caller is done with all that it was given.
    pub(crate) fn settle(&mut self) {
        for place in self.touched.drain(..) {
            if let Some(partition) = self.partitions.get_mut(&place) {
                partition.settle();
            }
        }
    }

    /// What is to be done now.
    pub(crate) fn plan(&mut self, now: Instant) -> Plan {
        let mut plan = Plan::default();
        let room = self.room() > 0;
        let chance = self.chance();
        let mut failed = Vec::new();
        let mut brokers = BTreeSet::new();
        for (place, partition) in &mut self.partitions {
            self.topics.used(place.0);
            if partition.asking || matches!(partition.fetch, Fetch::Stopped | Fetch::Committed) {
                continue;
            }
            if let Some(at) = partition.due_at(now) {
                plan.wake_at = earlier(plan.wake_at, Some(at));
                continue;
            }
            let known = self.topics.leadership(place.0, index(place.1));
            let Some(leader) = known.leader else {
                self.topics.doubt(place.0);
                let error = self.topics.get(place.0).error.as_ref();
                match error.filter(|error| !error.is_retriable()) {
                    Some(error) => failed.push((*place, error.clone())),
                    None => {
                        partition.waits_for_leader(now, |failures| self.pauses.pause_after(failures, chance));
                        plan.wake_at = earlier(plan.wake_at, partition.due_at(now));
                    }
                }
                continue;
            };
            match partition.fetch {
                Fetch::LookUp(at) => {
                    partition.asking = true;
                    let (place, generation, name) = (*place, partition.generation, partition.name.clone());
                    plan.look_ups.push(LookUp { place, leader, generation, name, at });
                }
                Fetch::From(offset) if partition.doubts(known.epoch) => {
                    plan.checks.extend(partition.check(*place, leader, known.epoch, offset));
                }
                Fetch::From(_)
                    if room && !partition.is_quiet() && partition.buffered < self.rules.max_partition_bytes =>
                {
                    let broker = partition.replica.filter(|(_, until)| *until > now).map_or(leader, |(id, _)| id);
                    if !self.on_the_way.contains_key(&broker) {
                        brokers.insert(broker);
                    }
                }
                Fetch::From(_) | Fetch::Committed | Fetch::Stopped => {}
            }
        }
        let (before, behind): (Vec<i32>, Vec<i32>) = brokers.into_iter().partition(|id| *id <= self.last_broker);
        plan.brokers = behind.into_iter().chain(before).collect();
        for (place, error) in failed {
            self.fail(place, error);
        }
        let (topics, ask_at) = self.topics.ask(now);
        plan.topics = topics;
        plan.wake_at = earlier(plan.wake_at, ask_at);
        plan
    }

    /// How much more may be fetched. What is here of quiet partitions does not count, or it would keep the others from
    /// being read until somebody resumes it; it is bounded by one answer more than each partition may hold.
    fn room(&self) -> usize {
        let on_the_way: usize = self.on_the_way.values().sum();
        let quiet: usize = self.assigned().filter(|partition| partition.is_quiet()).map(|one| one.buffered).sum();
        let held = self.buffered.saturating_sub(quiet).saturating_add(on_the_way);
        self.rules.buffer_memory.saturating_sub(held)
    }

    /// What is to be fetched from a broker now; `None` if nothing is, or a fetch is on its way. It counts as asked:
    /// [`answered`](Positions::answered) must follow.
    pub(crate) fn take(&mut self, broker: i32, now: Instant) -> Option<Outbound> {
        let room = self.room();
        if room == 0 || self.on_the_way.contains_key(&broker) {
            return None;
        }
        let mut wanted = Vec::new();
        let mut full = false;
        for (place, partition) in &mut self.partitions {
            let Fetch::From(offset) = partition.fetch else { continue };
            let known = self.topics.leadership(place.0, index(place.1));
            let Some(leader) = known.leader else { continue };
            let target = partition.replica.filter(|(_, until)| *until > now).map_or(leader, |(id, _)| id);
            let held = partition.asking || partition.is_quiet() || partition.doubts(known.epoch);
            if target != broker || held || partition.due_at(now).is_some() {
                continue;
            }
            if partition.buffered >= self.rules.max_partition_bytes {
                full = true;
                continue;
            }
            partition.asking = true;
            let topic = self.topics.get(place.0);
            wanted.push(Wanted {
                place: *place,
                generation: partition.generation,
                topic: topic.name.clone(),
                topic_id: topic.id,
                offset,
                leader_epoch: known.epoch,
            });
        }
        if wanted.is_empty() {
            return None;
        }
        self.turn = self.turn.wrapping_add(1);
        let first = self.turn % wanted.len();
        wanted.rotate_left(first);
        let most = self.rules.max_partition_bytes.saturating_mul(wanted.len());
        // No more than its share, so that a broker that has nothing new does not hold up the others.
        let leaders = self.partitions.keys().map(|place| self.topics.leadership(place.0, index(place.1)).leader);
        let leaders: BTreeSet<Option<i32>> = leaders.collect();
        let share = (self.rules.buffer_memory / leaders.len().max(1)).max(1);
        let max_bytes = self.rules.max_bytes.min(most).min(share).min(room);
        self.on_the_way.insert(broker, max_bytes);
        self.last_broker = broker;
        let max_wait = if full { self.rules.max_wait.min(SHORT_WAIT) } else { self.rules.max_wait };
        Some(Outbound { wanted, max_bytes, max_wait })
    }

    /// Takes what came of a fetch from a broker: an answer for each partition of it that it says something of.
    pub(crate) fn answered(
        &mut self,
        broker: i32,
        asked: Vec<Wanted>,
        mut answers: BTreeMap<Place, Answer>,
        now: Instant,
    ) {
        self.on_the_way.remove(&broker);
        for Wanted { place, generation, offset, leader_epoch, .. } in asked {
            let answer = answers.remove(&place);
            let Some(partition) = self.partitions.get_mut(&place) else { continue };
            if partition.generation != generation {
                continue;
            }
            if partition.fetch != Fetch::From(offset) {
                // It has come to stand still since it was asked for: what lies behind damage is not to be given.
                partition.asking = false;
                continue;
            }
            match answer {
                // In a session what has nothing new is left out.
                None => partition.arrived(Chunk::cut(offset, Bytes::new(), Vec::new()), leader_epoch),
                Some(Answer::Read { replica: Some(replica), end, .. }) if replica != broker => {
                    partition.end = end.or(partition.end);
                    partition.replica = Some((replica, now + self.rules.replica_for));
                    partition.asking = false;
                }
                Some(Answer::Read { bytes, aborted, end, .. }) => {
                    let chunk = Chunk::cut(offset, bytes, aborted);
                    partition.end = end.or(partition.end);
                    self.buffered += chunk.bytes;
                    partition.arrived(chunk, leader_epoch);
                    self.list(place);
                }
                Some(Answer::Refused { code, leader }) => self.refused(broker, place, offset, code, leader, now),
                Some(Answer::Lost) => self.lost(broker, place, now),
            }
        }
    }

    fn refused(
        &mut self,
        broker: i32,
        place: Place,
        offset: i64,
        code: ErrorCode,
        leader: Option<(i32, i32)>,
        now: Instant,
    ) {
        let chance = self.chance();
        let Some(partition) = self.partitions.get_mut(&place) else { return };
        let from_replica = partition.replica.take().is_some_and(|(replica, _)| replica == broker);
        let pause = |failures| self.pauses.pause_after(failures, chance);
        if from_replica {
            // The leader says what is so.
            return partition.failed(now, true, pause);
        }
        if code == ErrorCode::OFFSET_OUT_OF_RANGE {
            partition.asking = false;
            return self.reset(place, Some(offset));
        }
        // A broker that does not know what went wrong may know better next time, as Kafka's `FetchCollector` has it.
        if !code.is_retriable() && code != ErrorCode::UNKNOWN_SERVER_ERROR {
            let error = Error::Refused { what: format!("reading {}", partition.name), code, message: None };
            return self.fail(place, error);
        }
        let at_once = code.refreshes_metadata() && self.topics.refused(place.0, index(place.1), broker, code, leader);
        partition.failed(now, at_once, pause);
    }

    fn lost(&mut self, broker: i32, place: Place, now: Instant) {
        let chance = self.chance();
        self.topics.doubt_led_by(broker);
        let Some(partition) = self.partitions.get_mut(&place) else { return };
        partition.replica = None;
        partition.failed(now, false, |failures| self.pauses.pause_after(failures, chance));
    }

    /// Takes what was looked up: an offset, `None` for a time behind the last record's, or why not.
    pub(crate) fn found(&mut self, asked: &LookUp, result: Result<Option<i64>, Error>, now: Instant) {
        let chance = self.chance();
        let Some(partition) = self.partitions.get_mut(&asked.place) else { return };
        if partition.generation != asked.generation || !matches!(partition.fetch, Fetch::LookUp(_)) {
            return;
        }
        match result {
            Ok(Some(offset)) => partition.found(offset),
            Ok(None) => {
                // A time that is still to come: its first record will be the next one.
                partition.asking = false;
                partition.fetch = Fetch::LookUp(OffsetAt::Latest);
            }
            Err(error) if error.is_definitive() => self.fail(asked.place, error),
            // A topic may be missing because it is about to be made, as Kafka's clients have it.
            Err(_) => {
                self.topics.doubt(asked.place.0);
                partition.failed(now, false, |failures| self.pauses.pause_after(failures, chance));
            }
        }
    }

    /// Takes an answer about topics over. What was deleted and made again has other records: it is read from where the
    /// reset policy says.
    pub(crate) fn learned(&mut self, told: &MetadataResponse, now: Instant) {
        let chance = self.chance();
        let replaced = self.topics.learn(told, now, |row| self.pauses.pause_after(row, chance));
        let places: Vec<Place> = self.partitions.keys().filter(|place| replaced.contains(&place.0)).copied().collect();
        for place in places {
            let position = self.partitions[&place].position;
            self.seek_place(place, Fetch::Stopped);
            self.reset(place, position);
        }
        for (place, partition) in &mut self.partitions {
            if self.topics.leadership(place.0, index(place.1)).leader.is_some() {
                partition.has_leader();
            }
        }
    }

    /// No answer about topics came.
    pub(crate) fn not_learned(&mut self, error: &Error, now: Instant) {
        let chance = self.chance();
        self.topics.not_told(error, now, |row| self.pauses.pause_after(row, chance));
    }

    /// A broker could not be connected to, is not trusted, or has no version in common.
    pub(crate) fn unreachable(&mut self, broker: i32, error: &Error) {
        let mut led = Vec::new();
        for (place, partition) in &mut self.partitions {
            partition.replica.take_if(|(replica, _)| *replica == broker);
            if self.topics.leadership(place.0, index(place.1)).leader == Some(broker) {
                self.topics.doubt(place.0);
                led.push(*place);
            }
        }
        if matches!(error, Error::Unsupported { .. } | Error::Untrusted { .. }) {
            led.into_iter().for_each(|place| self.fail(place, error.clone()));
        }
    }

    /// The connection to a broker was lost: it may lead its partitions no more.
    pub(crate) fn disconnected(&mut self, broker: i32) {
        self.topics.doubt_led_by(broker);
    }
}

/// The place of a partition among those that are known; a negative number has none.
fn index(partition: i32) -> usize {
    usize::try_from(partition).unwrap_or(usize::MAX)
}

fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    [a, b].into_iter().flatten().min()
}
