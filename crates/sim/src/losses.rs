//! What a broker may lose, and what it may refuse.
//!
//! - A power cut may take the end of a relaxed partition, acknowledged and read or not: what is left is a beginning of
//!   what was there, and what is written then has a later epoch. A killed broker loses nothing of it.
//! - A partition whose files failed or have a flipped bit may be offline for good. As long as it answers, it keeps
//!   every promise: a relaxed one that a bit flipped in may have lost its end, as in a power cut.
//! - In a cluster a relaxed partition loses nothing either, until an operator decides to go on with what is left of it:
//!   from then on nothing that was promised about it counts, unless he is told that it was not needed.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::{History, Known, Partition, Seen};

/// What the history knows of losses.
#[derive(Debug, Default)]
pub(crate) struct Losses {
    relaxed_topics: BTreeSet<String>,
    relaxed: BTreeMap<Partition, Former>,
    /// How often an operator has asked to go on with what is left of a partition.
    given_up: BTreeMap<Partition, u32>,
    /// Parts of paths.
    hurt: BTreeSet<&'static str>,
}

/// That an operator has asked to go on with what is left of a partition.
#[derive(Clone, Copy, Debug)]
pub struct GivenUp {
    partition: Partition,
    /// Nobody had before.
    is_first: bool,
}

/// What a relaxed partition has held, of which some may be lost.
#[derive(Debug, Default)]
struct Former {
    /// How often it may have lost something.
    losses: u64,
    /// By epoch and offset: of those there is one record for ever, lost or not.
    seen: BTreeMap<(i32, i64), Seen>,
}

impl History {
    /// The topic of this name is relaxed.
    pub fn is_to_be_relaxed(&mut self, topic: &str) {
        self.losses.relaxed_topics.insert(topic.to_owned());
    }

    /// A topic was created.
    pub(crate) fn created(&mut self, name: &str, id: [u8; 16], partitions: i32) {
        if self.losses.relaxed_topics.contains(name) {
            for index in 0..partitions {
                self.losses.relaxed.entry(Partition { topic: id, index }).or_default();
            }
        }
    }

    /// Whether the partition's topic is relaxed.
    pub fn is_relaxed(&self, partition: Partition) -> bool {
        self.losses.relaxed.contains_key(&partition)
    }

    /// The broker's machine lost its power: relaxed partitions may have lost their ends.
    pub fn lost_power(&mut self) {
        let relaxed: Vec<Partition> = self.losses.relaxed.keys().copied().collect();
        relaxed.into_iter().for_each(|partition| self.may_lose_its_end(partition));
    }

    fn may_lose_its_end(&mut self, partition: Partition) {
        let Some(former) = self.losses.relaxed.get_mut(&partition) else { return };
        former.losses += 1;
        for (offset, seen) in self.forget(partition) {
            let former = self.losses.relaxed.entry(partition).or_default();
            former.seen.insert((seen.epoch, offset), seen);
        }
    }

    /// An operator is about to go on with what is left of a partition. Gives what [`keep`](History::keep) asks for.
    pub fn give_up(&mut self, partition: Partition) -> GivenUp {
        let asked = self.losses.given_up.entry(partition).or_default();
        *asked += 1;
        GivenUp { partition, is_first: *asked == 1 }
    }

    /// The operator was told that nothing was given up. If nobody else has asked, what was promised before counts
    /// again; what was not looked at meanwhile does not.
    pub fn keep(&mut self, given_up: GivenUp) {
        let GivenUp { partition, is_first } = given_up;
        if is_first && self.losses.given_up.get(&partition) == Some(&1) {
            self.losses.given_up.remove(&partition);
        }
    }

    /// Whether nothing counts any more that was promised about a partition.
    pub fn is_given_up(&self, partition: Partition) -> bool {
        self.losses.given_up.contains_key(&partition)
    }

    /// How often the partition may have lost something: what was known before does not bind what is answered later.
    pub fn losses(&self, partition: Partition) -> u64 {
        self.losses.relaxed.get(&partition).map_or(0, |former| former.losses)
    }

    /// Whether something may have been lost since this was known.
    pub fn is_void(&self, partition: Partition, known: Known) -> bool {
        known.losses() != self.losses(partition) || self.is_given_up(partition)
    }

    /// A record is read: what it contradicts of what was read before a loss.
    pub(crate) fn contradicts_former(&self, partition: Partition, offset: i64, seen: Seen) -> Option<String> {
        let before = self.losses.relaxed.get(&partition)?.seen.get(&(seen.epoch, offset))?;
        (*before != seen).then(|| format!("{seen:?} is read where {before:?} of the same epoch was before a loss"))
    }

    /// Something is wrong with the files of the partition in this folder (a part of a path), and if a bit was flipped
    /// in them, that is as good as lost.
    pub fn hurt(&mut self, folder: &'static str, flipped: bool) {
        self.losses.hurt.insert(folder);
        let partitions: Vec<Partition> = self
            .present_topics()
            .into_iter()
            .flat_map(|(name, topic, count)| (0..count).map(move |index| (name.clone(), Partition { topic, index })))
            .filter(|(name, partition)| folder == format!("/{name}-{}/", partition.index))
            .map(|(_, partition)| partition)
            .collect();
        if flipped {
            partitions.into_iter().for_each(|partition| self.may_lose_its_end(partition));
        }
    }

    /// Whether the partition may refuse everything.
    pub fn may_be_offline(&self, topic: &str, index: i32) -> bool {
        self.losses.hurt.contains(format!("/{topic}-{index}/").as_str())
    }
}
