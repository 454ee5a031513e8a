//! What was read may be gone: a leader was elected that did not have it (KIP-320). When the epoch of a partition's
//! leader has grown since something was fetched, the leader is asked up to where it has what was written in the epoch
//! of the last record that was fetched, and nothing is fetched before it has answered. So it is asked about the epoch
//! that was committed with an offset, before anything is fetched from there:
//!
//! | the leader's log | what the caller was given | what is done |
//! | --- | --- | --- |
//! | has all that was fetched | is there | it goes on |
//! | has less | is there | what was fetched ahead is dropped, and fetched anew from the position |
//! | has less | is not there | by the reset policy it goes on where the leader's log ends that epoch, else an error |
//!
//! Only the epoch of the last record is known here, as in Kafka's consumer. After two unclean elections the epoch that
//! the leader names may be one that was never read: it goes on behind that one, and what the leader has before, in the
//! place of what was read, is passed over.

use tokio::time::Instant;

use super::{Place, Positions};
use crate::admin::TopicPartition;
use crate::consumer::partition::Fetch;
use crate::error::Error;

/// A question for a leader.
#[derive(Clone, Debug)]
pub(crate) struct Check {
    pub(crate) place: Place,
    pub(crate) leader: i32,
    pub(crate) leader_epoch: i32,
    pub(crate) generation: u64,
    pub(crate) name: TopicPartition,
    /// What is fetched next.
    pub(crate) offset: i64,
    /// Of the last record that was fetched.
    pub(crate) epoch: i32,
}

/// The leader's answer: the newest epoch up to the one in question that it has records of, and the offset behind the
/// last of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EpochEnd {
    pub(crate) epoch: i32,
    pub(crate) offset: i64,
}

impl Positions {
    /// Takes what a leader said, `None` if it has nothing of the epoch or before it, or why it did not.
    pub(crate) fn checked(&mut self, asked: &Check, result: Result<Option<EpochEnd>, Error>, now: Instant) {
        let chance = self.chance();
        let Some(partition) = self.partitions.get_mut(&asked.place) else { return };
        if partition.generation != asked.generation || partition.fetch != Fetch::From(asked.offset) {
            return;
        }
        partition.asking = false;
        match result {
            Ok(Some(end)) if end.epoch >= asked.epoch && end.offset >= asked.offset => {
                partition.confirm(asked.leader_epoch);
            }
            Ok(end) => self.truncated(asked, end),
            // Who cannot be asked cannot be doubted.
            Err(Error::Unsupported { .. }) => partition.confirm(asked.leader_epoch),
            Err(error) if error.is_definitive() => self.fail(asked.place, error),
            Err(_) => {
                self.topics.doubt(asked.place.0);
                partition.failed(now, false, |failures| self.pauses.pause_after(failures, chance));
            }
        }
    }

    fn truncated(&mut self, asked: &Check, end: Option<EpochEnd>) {
        let generation = self.generation();
        let Some(partition) = self.partitions.get_mut(&asked.place) else { return };
        let given = partition.position.unwrap_or(asked.offset);
        let is_there =
            |end: EpochEnd| given <= end.offset && partition.leader_epoch.is_none_or(|epoch| epoch <= end.epoch);
        // Who was given nothing since it was sought has lost nothing.
        let all_given_is_there = end.map_or(partition.leader_epoch.is_none(), is_there);
        // What was fetched ahead is of a log that is no more.
        self.buffered -= partition.buffered;
        partition.fetch_anew(given, generation);
        if all_given_is_there {
            return partition.confirm(asked.leader_epoch);
        }
        match (self.rules.reset.offset(), end) {
            (Some(_), Some(end)) => {
                self.seek_place(asked.place, Fetch::From(given.min(end.offset)));
                if let Some(partition) = self.partitions.get_mut(&asked.place) {
                    partition.stands_behind(end.epoch, asked.leader_epoch);
                }
            }
            (Some(at), None) => self.seek_place(asked.place, Fetch::LookUp(at)),
            (None, end) => {
                let end = end.map(|end| given.min(end.offset));
                let error = Error::Truncated { partition: asked.name.clone(), offset: given, end };
                self.fail(asked.place, error);
            }
        }
    }
}
