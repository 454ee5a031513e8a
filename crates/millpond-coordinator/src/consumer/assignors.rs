//! The assignors of the broker: which member is to have which partition.

use std::collections::{BTreeMap, BTreeSet};

use millpond_record::TopicId;
use millpond_wire::Str;

/// Partitions by topic; no topic without partitions.
pub(crate) type Assignment = BTreeMap<TopicId, BTreeSet<i32>>;

/// Balancing ends by itself; this bounds it whatever happens.
const MAX_PASSES: usize = 1_000;

/// A way to deal partitions out. The names are Kafka's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Assignor {
    /// Everybody gets as many as the others, and keeps what it has where that is possible.
    Uniform,
    /// Everybody gets a range of each topic, so that members own the same partitions of topics of one size.
    Range,
}

impl Assignor {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Assignor::Uniform => "uniform",
            Assignor::Range => "range",
        }
    }

    pub(crate) fn by_name(name: &str) -> Option<Assignor> {
        [Assignor::Uniform, Assignor::Range].into_iter().find(|assignor| assignor.name() == name)
    }

    /// Deals out each partition of a topic that someone reads, to someone who reads it.
    pub(crate) fn assign(self, members: &BTreeMap<Str, Reader<'_>>, sizes: &BTreeMap<TopicId, i32>) -> Dealt {
        match self {
            Assignor::Uniform => uniform(members, sizes),
            Assignor::Range => range(members, sizes),
        }
    }
}

/// A member, as an assignor sees it.
#[derive(Clone, Debug)]
pub(crate) struct Reader<'a> {
    pub(crate) instance_id: Option<&'a Str>,
    /// The topics that it reads, as far as they exist.
    pub(crate) topics: BTreeSet<TopicId>,
    /// What it was to have before.
    pub(crate) before: Option<&'a Assignment>,
}

/// What each member is to have.
pub(crate) type Dealt = BTreeMap<Str, Assignment>;

fn uniform(members: &BTreeMap<Str, Reader<'_>>, sizes: &BTreeMap<TopicId, i32>) -> Dealt {
    let readers: Vec<&Reader<'_>> = members.values().collect();
    let mut readers_of: BTreeMap<TopicId, Vec<usize>> = BTreeMap::new();
    for (at, reader) in readers.iter().enumerate() {
        for topic in &reader.topics {
            readers_of.entry(*topic).or_default().push(at);
        }
    }
    let mut load = vec![0usize; readers.len()];
    let mut owners: BTreeMap<(TopicId, i32), usize> = BTreeMap::new();
    for (at, reader) in readers.iter().enumerate() {
        for (topic, partitions) in reader.before.into_iter().flatten() {
            let size = sizes.get(topic).copied().filter(|_| reader.topics.contains(topic)).unwrap_or(0);
            for &partition in partitions.range(..size) {
                if partition >= 0 && !owners.contains_key(&(*topic, partition)) {
                    owners.insert((*topic, partition), at);
                    load[at] += 1;
                }
            }
        }
    }
    let least = |load: &[usize], topic: &TopicId| readers_of[topic].iter().copied().min_by_key(|&at| load[at]);
    // What few can read first: they may have no choice.
    let mut topics: Vec<TopicId> = readers_of.keys().copied().filter(|topic| sizes.contains_key(topic)).collect();
    topics.sort_by_key(|topic| readers_of[topic].len());
    for topic in &topics {
        for partition in 0..sizes[topic] {
            if let std::collections::btree_map::Entry::Vacant(free) = owners.entry((*topic, partition))
                && let Some(at) = least(&load, topic)
            {
                free.insert(at);
                load[at] += 1;
            }
        }
    }
    for _ in 0..MAX_PASSES {
        let mut moved = false;
        for ((topic, _), owner) in &mut owners {
            if let Some(at) = least(&load, topic)
                && load[at] + 1 < load[*owner]
            {
                load[*owner] -= 1;
                load[at] += 1;
                *owner = at;
                moved = true;
            }
        }
        if !moved {
            break;
        }
    }
    let ids: Vec<&Str> = members.keys().collect();
    let mut dealt: Dealt = members.keys().map(|id| (id.clone(), Assignment::new())).collect();
    for ((topic, partition), owner) in owners {
        dealt.get_mut(&**ids[owner]).expect("every member is there").entry(topic).or_default().insert(partition);
    }
    dealt
}

fn range(members: &BTreeMap<Str, Reader<'_>>, sizes: &BTreeMap<TopicId, i32>) -> Dealt {
    let mut dealt: Dealt = members.keys().map(|id| (id.clone(), Assignment::new())).collect();
    // A static member keeps its range when it comes back under another id.
    let mut order: Vec<(&Str, &Reader<'_>)> = members.iter().collect();
    order.sort_by_key(|&(id, reader)| (reader.instance_id.unwrap_or(id), id));
    for (topic, &size) in sizes {
        let readers: Vec<&Str> =
            order.iter().filter(|(_, reader)| reader.topics.contains(topic)).map(|(id, _)| *id).collect();
        let Ok(count) = i32::try_from(readers.len()) else { continue };
        let mut from = 0;
        for (at, id) in (0..).zip(readers) {
            let share = size / count + i32::from(at < size % count);
            if share > 0 {
                let own = dealt.get_mut(&**id).expect("every member is there");
                own.insert(*topic, (from..from + share).collect());
            }
            from += share;
        }
    }
    dealt
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn topic(number: u8) -> TopicId {
        TopicId([number; 16])
    }

    fn readers<'a>(topics: &[&[u8]], before: &'a Dealt) -> BTreeMap<Str, Reader<'a>> {
        let reader = |(at, topics): (usize, &&[u8])| {
            let id = Str::from(format!("m{at}"));
            let topics = topics.iter().map(|&number| topic(number)).collect();
            let reader = Reader { instance_id: None, topics, before: before.get(&*id) };
            (id, reader)
        };
        topics.iter().enumerate().map(reader).collect()
    }

    fn loads(dealt: &Dealt) -> Vec<usize> {
        dealt.values().map(|own| own.values().map(BTreeSet::len).sum()).collect()
    }

    #[test]
    fn ranges_are_dealt_by_topic_in_the_order_of_instance_ids_then_ids() {
        let before = Dealt::new();
        let mut members = readers(&[&[1, 2], &[1, 2], &[2]], &before);
        let sizes = BTreeMap::from([(topic(1), 5), (topic(2), 2), (topic(3), 9)]);
        let dealt = Assignor::Range.assign(&members, &sizes);
        let own = |id: &str, number| dealt[id].get(&topic(number)).map(|own| own.iter().copied().collect::<Vec<_>>());
        assert_eq!((own("m0", 1), own("m1", 1), own("m2", 1)), (Some(vec![0, 1, 2]), Some(vec![3, 4]), None));
        assert_eq!((own("m0", 2), own("m1", 2), own("m2", 2)), (Some(vec![0]), Some(vec![1]), None));
        let first = Str::from("a");
        members.get_mut("m2").expect("there").instance_id = Some(&first);
        let dealt = Assignor::Range.assign(&members, &sizes);
        assert_eq!(dealt["m2"][&topic(2)], BTreeSet::from([0]));
    }

    #[test]
    fn uniform_keeps_what_it_can_when_a_member_comes_or_goes() {
        let sizes = BTreeMap::from([(topic(1), 7)]);
        let none = Dealt::new();
        let two = Assignor::Uniform.assign(&readers(&[&[1], &[1]], &none), &sizes);
        assert_eq!(loads(&two), [4, 3]);
        let three = Assignor::Uniform.assign(&readers(&[&[1], &[1], &[1]], &two), &sizes);
        assert_eq!(loads(&three), [3, 2, 2]);
        for id in ["m0", "m1"] {
            assert!(three[id][&topic(1)].is_subset(&two[id][&topic(1)]), "{id} gets nothing new");
        }
        let again = Assignor::Uniform.assign(&readers(&[&[1], &[1]], &three), &sizes);
        for id in ["m0", "m1"] {
            assert!(three[id][&topic(1)].is_subset(&again[id][&topic(1)]), "{id} loses nothing");
        }
    }

    proptest! {
        #[test]
        fn every_partition_that_can_be_read_has_one_owner_and_uniform_is_balanced(
            topics in prop::collection::vec(prop::collection::btree_set(0u8..4, 0..4), 1..6),
            sizes in prop::collection::btree_map((0u8..4).prop_map(topic), 1..9i32, 0..4),
            range in any::<bool>(),
        ) {
            let topics: Vec<Vec<u8>> = topics.into_iter().map(|set| set.into_iter().collect()).collect();
            let topics: Vec<&[u8]> = topics.iter().map(Vec::as_slice).collect();
            let none = Dealt::new();
            let assignor = if range { Assignor::Range } else { Assignor::Uniform };
            let members = readers(&topics, &none);
            let dealt = assignor.assign(&members, &sizes);
            let mut seen = BTreeSet::new();
            for (id, own) in &dealt {
                for (topic, partitions) in own {
                    prop_assert!(members[id].topics.contains(topic) && !partitions.is_empty());
                    for &partition in partitions {
                        prop_assert!(partition < sizes[topic] && seen.insert((*topic, partition)));
                    }
                }
            }
            let read = |topic: &TopicId| members.values().any(|reader| reader.topics.contains(topic));
            let expected: i32 = sizes.iter().filter(|(topic, _)| read(topic)).map(|(_, size)| size).sum();
            prop_assert_eq!(seen.len(), usize::try_from(expected).expect("small"));
            if !range {
                // Nobody has two more than another one who could read one of them.
                for (id, own) in &dealt {
                    let load: usize = own.values().map(BTreeSet::len).sum();
                    for (other, reader) in members.iter().filter(|(other, _)| *other != id) {
                        let theirs: usize = dealt[other].values().map(BTreeSet::len).sum();
                        prop_assert!(load <= theirs + 1 || own.keys().all(|topic| !reader.topics.contains(topic)));
                    }
                }
                // Nothing has changed, so nothing moves.
                let again = assignor.assign(&readers(&topics, &dealt), &sizes);
                prop_assert_eq!(again, dealt);
            }
        }
    }
}
