//! Which broker gets which replica: spread over racks first, then where there is least.
//!
//! The preferred leader of a partition goes to the broker that is to lead fewest. Each further replica goes to a rack
//! that has fewest of this partition's, and there to the broker with fewest replicas. Among equals the brokers after
//! the leader come first, each time another one, so that the partitions of a broker that dies are not all led by one
//! other broker next. A broker without a rack is a rack of its own. Replicas of new partitions go to brokers that do
//! not answer where the others are too few, as Kafka's do, but only so many that a majority can lead without them.

use std::collections::{BTreeMap, BTreeSet};

use millpond_record::BrokerId;

use crate::image::Image;
use crate::record::Partition;

/// What a broker has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) replicas: u64,
    /// Partitions whose preferred leader it is.
    pub(crate) leaders: u64,
}

/// Brokers that may get replicas, with what they have.
#[derive(Clone, Debug)]
pub(crate) struct Placement {
    brokers: BTreeMap<BrokerId, Spot>,
    /// The racks of all registered brokers, also of those that get nothing.
    racks: BTreeMap<BrokerId, Rack>,
}

#[derive(Clone, Debug)]
struct Spot {
    load: Load,
    /// The place among the brokers, in the order of ids.
    position: usize,
    is_absent: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rack {
    Named(String),
    /// Of a broker that names none.
    Own(BrokerId),
}

impl Placement {
    /// Of the brokers of `usable` those that are registered and not being decommissioned, with their load.
    pub(crate) fn new(image: &Image, usable: &BTreeSet<BrokerId>) -> Placement {
        let mut placement = Placement::of_new_partitions(image, usable);
        placement.brokers.retain(|_, spot| !spot.is_absent);
        for (position, spot) in placement.brokers.values_mut().enumerate() {
            spot.position = position;
        }
        placement
    }

    /// The same, and behind them those that do not answer (are not in `usable`).
    pub(crate) fn of_new_partitions(image: &Image, usable: &BTreeSet<BrokerId>) -> Placement {
        let racks = image.brokers().map(|broker| match &broker.rack {
            Some(rack) => (broker.id, Rack::Named(rack.clone())),
            None => (broker.id, Rack::Own(broker.id)),
        });
        let eligible = image.brokers().filter(|broker| !broker.draining);
        let brokers = eligible.enumerate().map(|(position, broker)| {
            let spot = Spot { load: Load::default(), position, is_absent: !usable.contains(&broker.id) };
            (broker.id, spot)
        });
        let mut placement = Placement { brokers: brokers.collect(), racks: racks.collect() };
        for partition in image.topics().flat_map(|topic| &topic.partitions) {
            placement.count(partition);
        }
        placement
    }

    fn count(&mut self, partition: &Partition) {
        for (at, replica) in partition.replicas.iter().enumerate() {
            self.add(replica.broker, at == 0);
        }
    }

    /// The most replicas that a partition may get: as many as there are brokers, and those that do not answer must be
    /// a minority.
    pub(crate) fn most_replicas(&self) -> usize {
        let present = self.brokers.values().filter(|spot| !spot.is_absent).count();
        self.len().min((2 * present).saturating_sub(1))
    }

    /// How many brokers may get replicas.
    fn len(&self) -> usize {
        self.brokers.len()
    }

    /// What each broker has that may get replicas, in the order of ids.
    pub(crate) fn loads(&self) -> impl Iterator<Item = (BrokerId, Load)> {
        self.brokers.iter().map(|(id, spot)| (*id, spot.load))
    }

    fn add(&mut self, broker: BrokerId, leads: bool) {
        if let Some(Spot { load, .. }) = self.brokers.get_mut(&broker) {
            load.replicas += 1;
            load.leaders += u64::from(leads);
        }
    }

    /// A replica goes elsewhere.
    pub(crate) fn move_replica(&mut self, from: BrokerId, to: BrokerId, leads: bool) {
        if let Some(Spot { load, .. }) = self.brokers.get_mut(&from) {
            load.replicas -= 1;
            load.leaders -= u64::from(leads);
        }
        self.add(to, leads);
    }

    /// Another of a partition's replicas is to lead.
    pub(crate) fn move_leader(&mut self, from: BrokerId, to: BrokerId) {
        if let Some(spot) = self.brokers.get_mut(&from) {
            spot.load.leaders -= 1;
        }
        if let Some(spot) = self.brokers.get_mut(&to) {
            spot.load.leaders += 1;
        }
    }

    /// The brokers of a new partition's replicas, the preferred leader first. `replicas` is from 1 to
    /// [`Placement::most_replicas`].
    pub(crate) fn place(&mut self, replicas: usize) -> Vec<BrokerId> {
        debug_assert!((1..=self.most_replicas()).contains(&replicas), "the caller checks the replication factor");
        let least = self
            .brokers
            .iter()
            .min_by_key(|(_, Spot { load, position, is_absent })| (*is_absent, load.leaders, load.replicas, *position));
        let Some((&leader, spot)) = least else { return Vec::new() };
        // With each partition that it leads another broker comes next.
        let turn = usize::try_from(spot.load.leaders % self.len() as u64).unwrap_or(0);
        let from = spot.position + 1 + turn;
        self.add(leader, true);
        let mut placed = vec![leader];
        while placed.len() < replicas {
            let Some(next) = self.next(&placed, from) else { break };
            self.add(next, false);
            placed.push(next);
        }
        placed
    }

    /// The broker that is to have one more replica of a partition that has some on `taken`; `None` when each has one.
    /// It is not counted yet.
    pub(crate) fn next(&self, taken: &[BrokerId], from: usize) -> Option<BrokerId> {
        let count = self.len();
        let free = self.brokers.iter().filter(|(id, _)| !taken.contains(id));
        let best = free.min_by_key(|(id, Spot { load, position, is_absent })| {
            let turn = (position + count - from % count) % count;
            (*is_absent, self.crowd(**id, taken), load.replicas, load.leaders, turn)
        });
        best.map(|(id, _)| *id)
    }

    /// How many of `taken` stand in the rack of a broker.
    pub(crate) fn crowd(&self, broker: BrokerId, taken: &[BrokerId]) -> usize {
        let rack = self.racks.get(&broker);
        taken.iter().filter(|other| rack.is_some() && self.racks.get(other) == rack).count()
    }
}
