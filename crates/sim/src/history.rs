//! What the clients were promised and what they saw, and whether the two agree.
//!
//! The history knows nothing of brokers: clients tell it what they send, what is acknowledged and what they read, and
//! it finds contradictions (the numbers are those of the design's list of invariants):
//!
//! - (1) a record acknowledged with acks=all, and one that any consumer has read, is at its offset with its bytes for
//!   ever; with acks=1 until the broker crashes;
//! - (1) a record of an idempotent session is in the log at most once, and the session's records are in their order;
//! - (2) one record per partition and offset for all readers, no gaps, nothing that nobody sent;
//! - (4) high watermarks and leader epochs never go back, no epoch has records of two lives of the broker, and a read
//!   that begins after an acks=all acknowledgement sees the record below its high watermark;
//! - (10) a log start moves only up, and only over what somebody asked to delete or what the topic's retention lets
//!   go; what is below it is never given out again;
//! - (8) a committed offset stays, see [`crate::commits`];
//! - topics that were acknowledged as created stay, those acknowledged as deleted stay away.

use std::collections::{BTreeMap, BTreeSet};

use crate::commits::Commits;
use crate::losses::Losses;
use crate::payload::RecordId;

/// A partition of one topic; a topic that was deleted and made again is another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Partition {
    /// The topic's id.
    pub topic: [u8; 16],
    /// The partition's index.
    pub index: i32,
}

impl std::fmt::Display for Partition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, ..] = self.topic;
        write!(f, "{a:02x}{b:02x}{c:02x}{d:02x}-{}", self.index)
    }
}

/// How a record is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Each time that it is sent it may get into the log once.
    Plain,
    /// At most once, after all with a lower number of the same session.
    Idempotent {
        /// The producer id's session.
        session: u64,
        /// The record's place in the session and partition.
        number: u64,
    },
}

/// What an acknowledgement promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// acks=all.
    Durable,
    /// acks=1, given by the broker's life of this number.
    UntilCrash(u64),
    /// acks=all of a relaxed topic, asked for when the partition might have had so many losses.
    UntilPowerCut(u64),
}

/// A record as a consumer read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its name.
    pub id: RecordId,
    /// The leader epoch in its batch.
    pub epoch: i32,
    /// Its timestamp.
    pub timestamp: i64,
}

#[derive(Debug)]
struct Attempt {
    delivery: Delivery,
    sends: usize,
    offsets: Vec<i64>,
    /// The broker's life in which it was first sent.
    first_sent: u64,
    /// The life that has acknowledged it first.
    acknowledged: Option<u64>,
}

#[derive(Debug, Default)]
struct Log {
    attempts: BTreeMap<RecordId, Attempt>,
    durable: BTreeMap<i64, RecordId>,
    until_crash: BTreeMap<i64, RecordId>,
    seen: BTreeMap<i64, Seen>,
    high_watermark: i64,
    /// The highest log start that an answer named.
    log_start: i64,
    /// The highest offset that somebody asked to delete up to.
    asked_start: i64,
    leader_epoch: i32,
    /// The life of the broker that wrote in each leader epoch.
    writers: BTreeMap<i32, u64>,
    deleted: bool,
}

/// Whether a topic name exists, as far as its one administrator knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TopicState {
    /// Never made, or acknowledged as deleted.
    #[default]
    Absent,
    /// Something was asked for and not answered yet.
    Changing,
    /// Acknowledged as created.
    Present {
        /// Its id.
        id: [u8; 16],
        /// Its number of partitions.
        partitions: i32,
    },
}

/// Counts for the summary, which also show that a run did something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Records acknowledged with acks=all.
    pub durable: u64,
    /// Records acknowledged with acks=1.
    pub until_crash: u64,
    /// Records read, again and again included.
    pub reads: u64,
    /// Log starts that moved.
    pub log_starts: u64,
    /// Offsets acknowledged as committed.
    pub commits: u64,
    /// Crashes and clean stops of the broker.
    pub restarts: u64,
}

/// What a topic's retention lets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Retention {
    /// Records older than this, in milliseconds.
    pub retention_ms: Option<i64>,
    /// Old records in general: how many is not checked here.
    pub by_size: bool,
}

/// All promises and observations of a run.
#[derive(Debug, Default)]
pub struct History {
    /// Topics whose records do not stay for ever.
    retention: BTreeMap<[u8; 16], Retention>,
    logs: BTreeMap<Partition, Log>,
    topics: BTreeMap<String, (u64, TopicState)>,
    life: u64,
    next_id: u64,
    producer_ids: BTreeSet<i64>,
    counts: Counts,
    failures: Vec<String>,
    pub(crate) losses: Losses,
    pub(crate) commits: Commits,
}

/// What was known when a request was sent; the answer must not fall behind it.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    high_watermark: i64,
    log_start: i64,
    leader_epoch: i32,
    losses: u64,
}

impl Known {
    /// Whether the offset was below the high watermark.
    pub fn has(&self, offset: i64) -> bool {
        offset < self.high_watermark
    }

    /// How often something may have been lost by then.
    pub(crate) fn losses(&self) -> u64 {
        self.losses
    }

    /// The high watermark.
    pub fn high_watermark(&self) -> i64 {
        self.high_watermark
    }

    /// Whether the offset was below the log start.
    pub fn lacks(&self, offset: i64) -> bool {
        offset < self.log_start
    }
}

impl History {
    /// What contradicts what, so far.
    pub fn failures(&self) -> &[String] {
        &self.failures
    }

    /// What was done.
    pub fn counts(&self) -> Counts {
        Counts { commits: self.commit_count(), ..self.counts }
    }

    /// Records a contradiction.
    pub fn fail(&mut self, what: String) {
        self.failures.push(what);
    }

    /// A name for a new record.
    pub fn new_record(&mut self) -> RecordId {
        self.next_id += 1;
        RecordId(self.next_id)
    }

    /// A producer id was given out; false when it had been before.
    pub fn new_producer_id(&mut self, id: i64) -> bool {
        self.producer_ids.insert(id)
    }

    /// The broker's present life, for [`Promise::UntilCrash`].
    pub fn life(&self) -> u64 {
        self.life
    }

    /// The broker crashed: what was only acknowledged with acks=1 may be gone.
    pub fn crashed(&mut self) {
        self.life += 1;
        self.counts.restarts += 1;
        for log in self.logs.values_mut() {
            log.until_crash.clear();
        }
    }

    /// The broker was stopped cleanly, which loses nothing.
    pub fn stopped(&mut self) {
        self.counts.restarts += 1;
    }

    /// A record is about to be sent (again).
    pub fn sending(&mut self, partition: Partition, id: RecordId, delivery: Delivery) {
        let first_sent = self.life;
        let attempt = Attempt { delivery, sends: 0, offsets: Vec::new(), first_sent, acknowledged: None };
        let attempts = &mut self.logs.entry(partition).or_default().attempts;
        attempts.entry(id).or_insert(attempt).sends += 1;
    }

    /// Records were acknowledged at consecutive offsets.
    pub fn acknowledged(&mut self, partition: Partition, base_offset: i64, ids: &[RecordId], promise: Promise) {
        let life = self.life;
        if let Promise::UntilPowerCut(losses) = promise
            && losses != self.losses(partition)
        {
            return;
        }
        if self.is_given_up(partition) {
            return;
        }
        let log = self.logs.entry(partition).or_default();
        for (offset, &id) in (base_offset..).zip(ids) {
            let other = match (log.durable.get(&offset), log.seen.get(&offset)) {
                (Some(&other), _) if other != id => Some((other, "acknowledged")),
                (_, Some(other)) if other.id != id => Some((other.id, "read")),
                _ => None,
            };
            if let Some((other, how)) = other {
                let text = format!("{partition}@{offset}: {id:?} is acknowledged where {other:?} was {how} before");
                self.failures.push(text);
                continue;
            }
            if let Some(attempt) = log.attempts.get_mut(&id) {
                attempt.acknowledged.get_or_insert(life);
            }
            match promise {
                Promise::Durable | Promise::UntilPowerCut(_) => {
                    self.counts.durable += 1;
                    log.durable.insert(offset, id);
                    log.high_watermark = log.high_watermark.max(offset + 1);
                }
                Promise::UntilCrash(given) => {
                    self.counts.until_crash += 1;
                    if given == life {
                        log.until_crash.insert(offset, id);
                    }
                }
            }
        }
    }

    /// Records were acknowledged by a leader that others may follow, which promises nothing.
    pub fn acknowledged_by_leader(&mut self, records: usize) {
        self.counts.until_crash += records as u64;
    }

    /// What a request about a partition must not fall behind.
    pub fn known(&self, partition: Partition) -> Known {
        let losses = self.losses(partition);
        self.logs.get(&partition).map_or(Known { high_watermark: 0, log_start: 0, leader_epoch: 0, losses }, |log| {
            Known {
                high_watermark: log.high_watermark,
                log_start: log.log_start,
                leader_epoch: log.leader_epoch,
                losses,
            }
        })
    }

    /// An answer named a high watermark (also the latest offset), to a request sent when `known` was known.
    pub fn high_watermark(&mut self, partition: Partition, known: Known, offset: i64) {
        if self.is_void(partition, known) {
            return;
        }
        let log = self.logs.entry(partition).or_default();
        if offset < known.high_watermark && !log.deleted {
            let text = format!("{partition}: the high watermark went back from {} to {offset}", known.high_watermark);
            self.failures.push(text);
        }
        log.high_watermark = log.high_watermark.max(offset);
    }

    /// A topic was made whose records do not stay for ever.
    pub fn set_retention(&mut self, topic: [u8; 16], retention: Retention) {
        self.retention.insert(topic, retention);
    }

    /// How long the records of a topic stay, if that is limited.
    pub fn retention(&self, topic: [u8; 16]) -> Retention {
        self.retention.get(&topic).copied().unwrap_or_default()
    }

    /// Somebody is about to ask for the deletion of all below an offset.
    pub fn asking_to_delete(&mut self, partition: Partition, offset: i64) {
        let log = self.logs.entry(partition).or_default();
        log.asked_start = log.asked_start.max(offset);
    }

    /// Whether the record at an offset may be gone at `now`.
    pub fn may_be_gone(&self, partition: Partition, offset: i64, now: i64) -> bool {
        let Retention { retention_ms, by_size } = self.retention(partition.topic);
        let Some(log) = self.logs.get(&partition) else { return true };
        let old = |ms: i64| log.seen.get(&offset).is_none_or(|seen| seen.timestamp + ms < now);
        by_size || log.deleted || offset < log.asked_start || retention_ms.is_some_and(old)
    }

    /// An answer named a log start at `now`, to a request sent when `known` was known.
    pub fn log_start(&mut self, partition: Partition, known: Known, offset: i64, now: i64) {
        if self.is_given_up(partition) {
            return;
        }
        let from = self.logs.get(&partition).map_or(0, |log| log.log_start);
        if offset < known.log_start && !self.logs.get(&partition).is_some_and(|log| log.deleted) {
            let text = format!("{partition}: the log start went back from {} to {offset}", known.log_start);
            self.failures.push(text);
        }
        if let Some(early) = (from..offset).find(|gone| !self.may_be_gone(partition, *gone, now)) {
            self.failures.push(format!("{partition}: the log starts at {offset}, but {early} was to stay"));
        }
        let log = self.logs.entry(partition).or_default();
        log.log_start = log.log_start.max(offset);
        if from < offset {
            self.counts.log_starts += 1;
        }
    }

    /// Metadata named a leader epoch, in answer to a request sent when `known` was known.
    pub fn leader_epoch(&mut self, partition: Partition, known: Known, epoch: i32) {
        let log = self.logs.entry(partition).or_default();
        if epoch < known.leader_epoch && !log.deleted {
            let text = format!("{partition}: the leader epoch went back from {} to {epoch}", known.leader_epoch);
            self.failures.push(text);
        }
        log.leader_epoch = log.leader_epoch.max(epoch);
    }

    /// A consumer read a record below the high watermark.
    pub fn read(&mut self, partition: Partition, offset: i64, seen: Seen) {
        self.counts.reads += 1;
        if self.is_given_up(partition) {
            return;
        }
        let failure = self.check_read(partition, offset, seen);
        self.failures.extend(failure.map(|text| format!("{partition}@{offset}: {text}")));
    }

    fn check_read(&mut self, partition: Partition, offset: i64, seen: Seen) -> Option<String> {
        let id = seen.id;
        if let Some(text) = self.contradicts_former(partition, offset, seen) {
            return Some(text);
        }
        let log = self.logs.entry(partition).or_default();
        if let Some(before) = log.seen.get(&offset) {
            return (*before != seen).then(|| format!("{seen:?} is read where {before:?} was read before"));
        }
        for promised in [log.durable.get(&offset), log.until_crash.get(&offset)].into_iter().flatten() {
            if *promised != id {
                return Some(format!("{id:?} is read where {promised:?} was acknowledged"));
            }
        }
        let Some(attempt) = log.attempts.get_mut(&id) else {
            return Some(format!("{id:?} is read, which nobody sent to this partition"));
        };
        attempt.offsets.push(offset);
        let most = if attempt.delivery == Delivery::Plain { attempt.sends } else { 1 };
        if attempt.offsets.len() > most {
            return Some(format!("{id:?} is in the log at {:?}, but may be {most} times", attempt.offsets));
        }
        // What was first sent and acknowledged in one life was written in that life.
        if attempt.acknowledged == Some(attempt.first_sent) {
            let writer = *log.writers.entry(seen.epoch).or_insert(attempt.first_sent);
            if writer != attempt.first_sent {
                let (epoch, life) = (seen.epoch, attempt.first_sent);
                return Some(format!("leader epoch {epoch} has records of the broker's lives {writer} and {life}"));
            }
        }
        let (below, above) = (log.seen.range(..offset).next_back(), log.seen.range(offset..).next());
        let (below, above) = (below_epoch(below), above_epoch(above));
        log.seen.insert(offset, seen);
        if below > seen.epoch || above < seen.epoch {
            return Some(format!("leader epoch {} between {below} and {above}", seen.epoch));
        }
        None
    }

    /// Forgets what is in a partition, all of which may be gone. Gives what was read of it.
    pub(crate) fn forget(&mut self, partition: Partition) -> BTreeMap<i64, Seen> {
        let Some(log) = self.logs.get_mut(&partition) else { return BTreeMap::new() };
        log.durable.clear();
        log.until_crash.clear();
        (log.high_watermark, log.log_start) = (0, 0);
        log.attempts.values_mut().for_each(|attempt| attempt.offsets.clear());
        std::mem::take(&mut log.seen)
    }

    /// A whole partition was read, from `start` to `end`: nothing that was promised may be missing.
    pub fn read_whole(&mut self, partition: Partition, start: i64, end: i64) {
        let Some(log) = self.logs.get(&partition).filter(|_| !self.is_given_up(partition)) else { return };
        let mut missing = Vec::new();
        for (offset, id) in log.durable.range(start..).chain(log.until_crash.range(start..)) {
            if log.seen.get(offset).is_none_or(|seen| seen.id != *id) || *offset >= end {
                missing.push(format!("{partition}@{offset}: {id:?} was acknowledged and is not in the log"));
            }
        }
        for offset in start..end {
            if !log.seen.contains_key(&offset) {
                missing.push(format!("{partition}@{offset}: a gap"));
            }
        }
        for (offset, seen) in log.seen.range(end.max(start)..) {
            missing.push(format!("{partition}@{offset}: {:?} was read and is not in the log any more", seen.id));
        }
        let mut last: BTreeMap<u64, (u64, i64)> = BTreeMap::new();
        for (offset, seen) in log.seen.range(..end) {
            if let Some(Attempt { delivery: Delivery::Idempotent { session, number }, .. }) = log.attempts.get(&seen.id)
                && let Some((before, at)) = last.insert(*session, (*number, *offset))
                && before > *number
            {
                missing.push(format!(
                    "{partition}@{offset}: number {number} of session {session} is behind {before} at {at}"
                ));
            }
        }
        self.failures.extend(missing);
    }

    /// The first offset whose record, as far as anybody has read, has at least this timestamp.
    pub fn first_at(&self, partition: Partition, timestamp: i64) -> Option<i64> {
        let log = self.logs.get(&partition)?;
        log.seen.iter().find(|(_, seen)| seen.timestamp >= timestamp).map(|(offset, _)| *offset)
    }

    /// A record that somebody has read.
    pub fn seen(&self, partition: Partition, offset: i64) -> Option<Seen> {
        self.logs.get(&partition)?.seen.get(&offset).copied()
    }

    // Topics.

    /// A topic name's state, with a number that changes with it.
    pub fn topic(&self, name: &str) -> (u64, TopicState) {
        self.topics.get(name).copied().unwrap_or_default()
    }

    /// The administrator asks for a change, or has its answer.
    pub fn set_topic(&mut self, name: &str, state: TopicState) {
        let (version, old) = self.topic(name);
        if let (TopicState::Present { id, partitions }, TopicState::Changing) = (old, state) {
            // From here on it may vanish.
            for index in 0..partitions {
                self.logs.entry(Partition { topic: id, index }).or_default().deleted = true;
            }
        }
        if let TopicState::Present { id, partitions } = state {
            self.created(name, id, partitions);
        }
        self.topics.insert(name.to_owned(), (version + 1, state));
    }

    /// Metadata was asked for when `before` was a name's state, and answered with this id and number of partitions.
    pub fn metadata(&mut self, name: &str, before: (u64, TopicState), found: Option<([u8; 16], i32)>) {
        if self.topic(name) != before {
            return;
        }
        match (before.1, found) {
            (TopicState::Present { id, partitions }, Some(found)) if found != (id, partitions) => {
                self.failures.push(format!("{name}: was created as {:?}, is {found:?}", (id, partitions)));
            }
            (TopicState::Present { .. }, None) => self.failures.push(format!("{name}: was created and is not there")),
            (TopicState::Absent, Some(_)) => self.failures.push(format!("{name}: was deleted and is there")),
            _ => {}
        }
    }

    /// Every topic that must exist.
    pub fn present_topics(&self) -> Vec<(String, [u8; 16], i32)> {
        let present = self.topics.iter().filter_map(|(name, (_, state))| match state {
            TopicState::Present { id, partitions } => Some((name.clone(), *id, *partitions)),
            _ => None,
        });
        present.collect()
    }

    /// Every name that was ever used.
    pub fn topic_names(&self) -> Vec<String> {
        self.topics.keys().cloned().collect()
    }
}

fn below_epoch(neighbour: Option<(&i64, &Seen)>) -> i32 {
    neighbour.map_or(i32::MIN, |(_, seen)| seen.epoch)
}

fn above_epoch(neighbour: Option<(&i64, &Seen)>) -> i32 {
    neighbour.map_or(i32::MAX, |(_, seen)| seen.epoch)
}
