//! One fetch session (KIP-227; Kafka's `FetchSession`): the partitions that a client follows, what it asks of each, and
//! what it was told. Pure: what is attached to a partition, and how news of it come, is the caller's.
//!
//! A partition is *due* when it may have news: a look at it decides. All others rest, and an answer costs nothing for
//! them. So whatever may change what a look finds must make the partition due:
//!
//! | what happens | due |
//! | --- | --- |
//! | it is added, or asked for otherwise (offset, limit, epoch) | yes |
//! | the log moves | yes, by [`Session::wake`] |
//! | the look found records | still: the client may ask for them again |
//! | the look found an error, or more than the limits let through | still |
//! | the look found nothing else | no |
//!
//! An answer names a partition that has records, an error, or another high watermark or log start than the client was
//! told last; those with records go behind all others, so that none is left out for ever where an answer cannot take
//! all.

use std::collections::{BTreeMap, VecDeque};

use millpond_record::{LeaderEpoch, Offset, TopicId};
use millpond_wire::Str;

/// How a session names a topic: by its id from version 13 of Fetch on (KIP-516).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum TopicKey {
    Name(Str),
    Id(TopicId),
}

impl TopicKey {
    fn name_bytes(&self) -> usize {
        match self {
            TopicKey::Name(name) => name.len(),
            TopicKey::Id(_) => 0,
        }
    }
}

/// What a client asks of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) offset: Offset,
    /// Negative where the client sent nonsense.
    pub(crate) max_bytes: i32,
    pub(crate) leader_epoch: LeaderEpoch,
}

/// What the last look at a partition found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) high_watermark: Offset,
    pub(crate) log_start: Offset,
    pub(crate) records: bool,
    /// There are records that the limits did not let through.
    pub(crate) more: bool,
    pub(crate) failed: bool,
}

/// A partition's place in its session, for as long as the client follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    at: usize,
    serial: u64,
}

/// One partition of a session.
pub(crate) struct Followed<A> {
    pub(crate) topic: TopicKey,
    pub(crate) partition: i32,
    pub(crate) asked: Asked,
    /// The high watermark and log start that the client knows.
    told: Option<(Offset, Offset)>,
    due: bool,
    serial: u64,
    pub(crate) attached: A,
}

pub(crate) struct Session<A> {
    followed: Vec<Option<Followed<A>>>,
    free: Vec<usize>,
    /// Where each partition is, once [`Session::keep`] was asked for; one answer alone does not need it.
    places: BTreeMap<TopicKey, BTreeMap<i32, usize>>,
    /// May name places that are left, or were taken again.
    due: VecDeque<Place>,
    next_serial: u64,
    name_bytes: usize,
}

impl<A> Session<A> {
    /// What a partition takes beside its own value: its place in the maps and queues, and what watches it.
    const PLACE_BYTES: usize = 256;

    pub(crate) fn new() -> Session<A> {
        Session {
            followed: Vec::new(),
            free: Vec::new(),
            places: BTreeMap::new(),
            due: VecDeque::new(),
            next_serial: 0,
            name_bytes: 0,
        }
    }

    /// Partitions that are followed.
    pub(crate) fn len(&self) -> usize {
        self.followed.len() - self.free.len()
    }

    /// Memory, the attached values' own aside, in bytes.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.followed.capacity() * (size_of::<Followed<A>>() + Self::PLACE_BYTES) + self.name_bytes
    }

    /// Follows a partition, whether it does already or not; for a session that is not kept (yet).
    pub(crate) fn push(&mut self, topic: TopicKey, partition: i32, asked: Asked, attached: A) -> Place {
        let serial = self.next_serial;
        self.next_serial += 1;
        let followed = Some(Followed { topic, partition, asked, told: None, due: true, serial, attached });
        let at = match self.free.pop() {
            Some(at) => {
                self.followed[at] = followed;
                at
            }
            None => {
                self.followed.push(followed);
                self.followed.len() - 1
            }
        };
        let place = Place { at, serial };
        self.due.push_back(place);
        place
    }

    /// Makes the session one that later requests may change. False if a partition is in it twice.
    pub(crate) fn keep(&mut self) -> bool {
        for (at, followed) in self.followed.iter_mut().enumerate() {
            let Some(followed) = followed else { continue };
            match self.places.get_key_value(&followed.topic) {
                // One allocation of a name serves all its partitions, as it is counted.
                Some((known, _)) => followed.topic = known.clone(),
                None => {
                    self.name_bytes += followed.topic.name_bytes();
                    self.places.insert(followed.topic.clone(), BTreeMap::new());
                }
            }
            let of_topic = self.places.get_mut(&followed.topic).expect("it was put there above");
            if of_topic.insert(followed.partition, at).is_some() {
                return false;
            }
        }
        true
    }

    /// Takes up what a request says of a partition; it is followed from now on if it was not. Only for a session that
    /// is kept.
    pub(crate) fn update(&mut self, topic: &TopicKey, partition: i32, asked: Asked, attach: impl FnOnce() -> A) {
        let known = self.places.get(topic).and_then(|places| places.get(&partition)).copied();
        if let Some(at) = known {
            if let Some(followed) = &mut self.followed[at] {
                followed.asked = asked;
            }
            self.make_due(at);
            return;
        }
        let topic = match self.places.get_key_value(topic) {
            Some((known, _)) => known.clone(),
            None => {
                self.name_bytes += topic.name_bytes();
                self.places.insert(topic.clone(), BTreeMap::new());
                topic.clone()
            }
        };
        let place = self.push(topic.clone(), partition, asked, attach());
        self.places.get_mut(&topic).expect("it was put there above").insert(partition, place.at);
    }

    /// Follows a partition no longer.
    pub(crate) fn forget(&mut self, topic: &TopicKey, partition: i32) -> Option<A> {
        let places = self.places.get_mut(topic)?;
        let at = places.remove(&partition)?;
        if places.is_empty() {
            self.places.remove(topic);
            self.name_bytes -= topic.name_bytes();
        }
        self.free.push(at);
        self.followed[at].take().map(|followed| followed.attached)
    }

    pub(crate) fn get_mut(&mut self, place: Place) -> Option<&mut Followed<A>> {
        self.followed.get_mut(place.at)?.as_mut().filter(|followed| followed.serial == place.serial)
    }

    /// The places of all partitions.
    pub(crate) fn places(&self) -> Vec<Place> {
        let places = self.followed.iter().enumerate();
        places.filter_map(|(at, followed)| followed.as_ref().map(|found| Place { at, serial: found.serial })).collect()
    }

    /// Every partition must be looked at again.
    pub(crate) fn wake_all(&mut self) {
        for at in 0..self.followed.len() {
            self.make_due(at);
        }
    }

    /// There may be news of a partition.
    pub(crate) fn wake(&mut self, place: Place) {
        if self.get_mut(place).is_some() {
            self.make_due(place.at);
        }
    }

    fn make_due(&mut self, at: usize) {
        if let Some(followed) = self.followed[at].as_mut().filter(|followed| !followed.due) {
            followed.due = true;
            self.due.push_back(Place { at, serial: followed.serial });
        }
    }

    /// The partitions that must be looked at, in the order in which they may use up the limits of an answer.
    pub(crate) fn due(&mut self) -> Vec<Place> {
        let followed = &self.followed;
        let is_there = |place: &Place| followed[place.at].as_ref().is_some_and(|found| found.serial == place.serial);
        self.due.retain(is_there);
        self.due.iter().copied().collect()
    }

    /// Ends an answer: every partition that was due has been looked at, and `found` tells what was found. Gives those
    /// that the answer names, and those that rest from now on.
    pub(crate) fn answer(&mut self, mut found: impl FnMut(&mut Followed<A>) -> Found) -> Answer {
        let (mut answer, mut back) = (Answer { named: Vec::new(), resting: Vec::new() }, Vec::new());
        for place in std::mem::take(&mut self.due) {
            let Some(followed) = self.get_mut(place) else { continue };
            let found = found(followed);
            if followed.is_news(&found) {
                answer.named.push(place);
            }
            if found.records {
                back.push(place);
            } else if found.failed || found.more {
                self.due.push_back(place);
            } else {
                followed.due = false;
                answer.resting.push(place);
            }
        }
        self.due.extend(back);
        answer
    }
}

/// How an answer ends: see [`Session::answer`].
pub(crate) struct Answer {
    pub(crate) named: Vec<Place>,
    pub(crate) resting: Vec<Place>,
}

impl<A> Followed<A> {
    /// Whether the client must be told, which it then is. Once an error is over everything is news again.
    fn is_news(&mut self, found: &Found) -> bool {
        let now = (!found.failed).then_some((found.high_watermark, found.log_start));
        let news = found.records || found.failed || self.told != now;
        self.told = now;
        news
    }
}

#[cfg(test)]
mod tests;
