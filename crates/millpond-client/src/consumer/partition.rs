//! One partition as a consumer has it: what the caller gets next, what is fetched next, and what is between the two.
//!
//! - The position is behind the last record that the caller was given, and nothing else moves it but a seek.
//! - What is fetched ahead lies in order, without gaps: an answer that does not go on where the last one ended is of a
//!   question from before a seek, and is dropped (`generation`).
//! - An error comes to the caller behind everything that was fetched before it, once. Then nothing is fetched until a
//!   seek.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::positions::{Check, Place};
use super::record::{Chunk, ConsumerRecord, OpenRules, Source};
use crate::admin::{OffsetAt, TopicPartition};
use crate::error::Error;

/// What is fetched next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fetch {
    /// From this offset on.
    From(i64),
    /// From an offset that must be looked up.
    LookUp(OffsetAt),
    /// From what the group has committed.
    Committed,
    /// Nothing, until a seek.
    Stopped,
}

/// What to do with an error whose turn has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Errors {
    Give,
    /// For the next time.
    Leave,
}

#[derive(Debug)]
pub(crate) struct Partition {
    pub(crate) name: TopicPartition,
    source: Source,
    /// The offset that the caller gets next, if it is known.
    pub(crate) position: Option<i64>,
    /// Of the last record before the position, as far as is known: one that was given, here or to the group.
    pub(crate) leader_epoch: Option<i32>,
    /// A record was given since the last seek.
    pub(crate) given: bool,
    /// The position when the caller last came for more, and the epoch there: what it is done with.
    pub(crate) settled: Option<(i64, Option<i32>)>,
    /// What the group was last told.
    pub(crate) committed: Option<i64>,
    pub(crate) paused: bool,
    /// The caller has not heard yet that it has it, or is to part with it.
    pub(crate) withheld: bool,
    pub(crate) fetch: Fetch,
    /// Of a seek: what was asked before is of no use.
    pub(crate) generation: u64,
    /// Of the last record that was fetched, here or by who has committed the position; `None` until there is one, since
    /// the last seek.
    fetched_epoch: Option<i32>,
    /// Of the newest leader that is known to have all that was fetched.
    confirmed_by: Option<i32>,
    /// Something was asked for this generation.
    pub(crate) asking: bool,
    /// A pause after failures.
    not_before: Option<Instant>,
    failures: u32,
    /// It waits for a leader.
    leaderless: bool,
    chunks: VecDeque<Chunk>,
    /// Compressed bytes in the chunks.
    pub(crate) buffered: usize,
    opened: VecDeque<ConsumerRecord>,
    /// Behind the batch that is opened, and its epoch.
    opened_next: i64,
    failure: Option<Error>,
    /// The replica that the leader sends to, and until when (KIP-392).
    pub(crate) replica: Option<(i32, Instant)>,
    /// The end as the last answer told it: of what may be read.
    pub(crate) end: Option<i64>,
    /// It stands in the list of those that may have something for the caller.
    pub(crate) listed: bool,
}

impl Partition {
    pub(crate) fn new(name: TopicPartition, generation: u64) -> Partition {
        let source = Source { topic: name.topic.as_str().into(), partition: name.partition };
        Partition {
            name,
            source,
            position: None,
            leader_epoch: None,
            given: false,
            settled: None,
            committed: None,
            paused: false,
            withheld: false,
            fetch: Fetch::Stopped,
            generation,
            fetched_epoch: None,
            confirmed_by: None,
            asking: false,
            not_before: None,
            failures: 0,
            leaderless: false,
            chunks: VecDeque::new(),
            buffered: 0,
            opened: VecDeque::new(),
            opened_next: 0,
            failure: None,
            replica: None,
            end: None,
            listed: false,
        }
    }

    /// Goes on elsewhere: nothing that is here or on its way is given.
    pub(crate) fn seek(&mut self, fetch: Fetch, generation: u64) {
        self.forget();
        self.generation = generation;
        self.asking = false;
        self.fetch = fetch;
        (self.leader_epoch, self.fetched_epoch, self.confirmed_by) = (None, None, None);
        self.given = false;
        self.position = match fetch {
            Fetch::From(offset) => Some(offset),
            Fetch::LookUp(_) | Fetch::Committed | Fetch::Stopped => None,
        };
        self.settle();
    }

    /// Drops what was fetched ahead, and fetches again from here on. The position stays.
    pub(crate) fn fetch_anew(&mut self, offset: i64, generation: u64) {
        self.forget();
        self.generation = generation;
        self.asking = false;
        self.fetch = Fetch::From(offset);
        self.fetched_epoch = self.leader_epoch;
    }

    /// What is before the position was written in this epoch, as the leader of that one says.
    pub(crate) fn stands_behind(&mut self, epoch: i32, leader_epoch: i32) {
        (self.leader_epoch, self.fetched_epoch) = (Some(epoch), Some(epoch));
        self.confirm(leader_epoch);
        self.settle();
    }

    /// Whether a leader of this epoch may lack what was fetched: it is newer than any that is known to have it.
    pub(crate) fn doubts(&self, leader_epoch: Option<i32>) -> bool {
        self.fetched_epoch.is_some() && leader_epoch > self.confirmed_by
    }

    /// What to ask that leader. It counts as asked.
    pub(crate) fn check(&mut self, place: Place, leader: i32, epoch: Option<i32>, offset: i64) -> Option<Check> {
        let (leader_epoch, epoch) = (epoch?, self.fetched_epoch?);
        self.asking = true;
        let (generation, name) = (self.generation, self.name.clone());
        Some(Check { place, leader, leader_epoch, generation, name, offset, epoch })
    }

    /// The leader of this epoch has all that was fetched.
    pub(crate) fn confirm(&mut self, leader_epoch: i32) {
        self.confirmed_by = self.confirmed_by.max(Some(leader_epoch));
        self.go_on();
    }

    fn forget(&mut self) {
        self.chunks.clear();
        self.opened.clear();
        self.buffered = 0;
        self.failure = None;
        self.go_on();
    }

    fn go_on(&mut self) {
        (self.not_before, self.failures, self.leaderless) = (None, 0, false);
    }

    /// The caller is done with what it was given.
    pub(crate) fn settle(&mut self) {
        self.settled = self.position.map(|position| (position, self.leader_epoch));
    }

    /// Says to the caller, behind what is here, why nothing more comes.
    pub(crate) fn fail(&mut self, error: Error) {
        self.failure.get_or_insert(error);
        self.fetch = Fetch::Stopped;
    }

    /// Whether nothing of it is given or fetched for now.
    pub(crate) fn is_quiet(&self) -> bool {
        self.paused || self.withheld
    }

    /// Whether there may be something for the caller.
    pub(crate) fn has_news(&self) -> bool {
        !self.opened.is_empty() || !self.chunks.is_empty() || self.failure.is_some()
    }

    /// When it may be asked for something again; `None` is at once.
    pub(crate) fn due_at(&self, now: Instant) -> Option<Instant> {
        self.not_before.filter(|at| *at > now)
    }

    /// What was asked did not come; `pause` says how long to wait after so many failures.
    pub(crate) fn failed(&mut self, now: Instant, at_once: bool, pause: impl FnOnce(u32) -> Duration) {
        self.asking = false;
        self.failures = self.failures.saturating_add(1);
        // Who has just been told of the leader need not wait.
        self.not_before = (!at_once || self.failures > 1).then(|| now + pause(self.failures));
    }

    /// Nobody leads it, as far as is known.
    pub(crate) fn waits_for_leader(&mut self, now: Instant, pause: impl FnOnce(u32) -> Duration) {
        self.failed(now, false, pause);
        self.leaderless = true;
    }

    /// Somebody leads it.
    pub(crate) fn has_leader(&mut self) {
        if self.leaderless {
            self.go_on();
        }
    }

    /// Takes over what was fetched from where the fetch stands, from a leader of this epoch.
    pub(crate) fn arrived(&mut self, chunk: Chunk, leader_epoch: Option<i32>) {
        self.asking = false;
        self.go_on();
        self.confirmed_by = self.confirmed_by.max(leader_epoch);
        self.fetched_epoch = chunk.leader_epoch.or(self.fetched_epoch);
        if chunk.is_empty() {
            return;
        }
        // Behind damage nothing is asked for: the answer would be the same until the caller has heard of it.
        self.fetch = if chunk.ends_in_damage() { Fetch::Stopped } else { Fetch::From(chunk.next) };
        self.buffered += chunk.bytes;
        self.chunks.push_back(chunk);
    }

    /// Takes over the offset that was looked up. What was fetched before it says nothing of the log there.
    pub(crate) fn found(&mut self, offset: i64) {
        self.asking = false;
        self.go_on();
        self.fetch = Fetch::From(offset);
        (self.fetched_epoch, self.confirmed_by) = (None, None);
        if !self.has_news() {
            (self.position, self.leader_epoch) = (Some(offset), None);
            self.settle();
        }
    }

    /// Takes over what the group has committed, and the epoch of the record before it: who leads now may lack that one.
    pub(crate) fn found_committed(&mut self, offset: i64, leader_epoch: Option<i32>) {
        self.committed = Some(offset);
        self.found(offset);
        (self.leader_epoch, self.fetched_epoch) = (leader_epoch, leader_epoch);
        self.settle();
    }

    /// The caller was given what was opened up to this record.
    fn gave(&mut self, offset: i64, leader_epoch: Option<i32>) {
        (self.leader_epoch, self.given) = (leader_epoch, true);
        // Behind the last record of a batch go on behind the batch: what compaction took from its end is past.
        let next = offset.saturating_add(1);
        self.position = Some(if self.opened.is_empty() { self.opened_next.max(next) } else { next });
    }

    /// Gives the records that are opened, `most` at most, as [`next`](Partition::next) would one by one.
    pub(crate) fn give_opened(&mut self, most: usize, records: &mut Vec<ConsumerRecord>) {
        let count = self.opened.len().min(most);
        if count > 0 {
            records.extend(self.opened.drain(..count));
            let last = records.last().map(|record| (record.offset, record.leader_epoch));
            last.into_iter().for_each(|(offset, epoch)| self.gave(offset, epoch));
        }
    }

    /// What the caller gets next, and whether a chunk has come to its end; `None` when nothing is left.
    pub(crate) fn next(&mut self, rules: OpenRules, errors: Errors) -> (Option<Result<ConsumerRecord, Error>>, bool) {
        let mut ended = false;
        loop {
            if let Some(record) = self.opened.pop_front() {
                self.gave(record.offset, record.leader_epoch);
                return (Some(Ok(record)), ended);
            }
            let Some(chunk) = self.chunks.front_mut() else {
                let failure = self.failure.take_if(|_| errors == Errors::Give);
                return (failure.map(Err), ended);
            };
            match chunk.open_next(&self.source, rules) {
                Some(Ok(opened)) => {
                    if opened.records.is_empty() {
                        self.position = Some(opened.next);
                        self.leader_epoch = opened.leader_epoch.or(self.leader_epoch);
                    }
                    (self.opened, self.opened_next) = (opened.records, opened.next);
                }
                Some(Err(reason)) => {
                    let offset = self.position.unwrap_or_default();
                    let error = Error::Damaged { partition: self.name.clone(), offset, reason };
                    self.forget();
                    self.fail(error);
                    ended = true;
                }
                None => {
                    self.buffered = self.buffered.saturating_sub(chunk.bytes);
                    self.chunks.pop_front();
                    ended = true;
                }
            }
        }
    }
}
