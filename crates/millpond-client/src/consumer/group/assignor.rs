//! Who of a classic group gets which partitions, as its leader decides: the assignors that Kafka's consumers have under
//! the same names, so that a group may be of both.

use std::collections::{BTreeMap, BTreeSet};

use crate::admin::TopicPartition;

/// How the leader of a classic group shares partitions out. Kafka's `partition.assignment.strategy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Assignor {
    /// Of each topic, members get partitions that follow each other. At each rebalance all members give up what they
    /// have and get it anew. Kafka's `RangeAssignor`.
    Range,
    /// As even as it can be, and everybody keeps what can be kept; members read on while others come and go (KIP-429).
    /// Kafka's `CooperativeStickyAssignor`.
    CooperativeSticky,
}

impl Assignor {
    /// The name by which members agree on it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Assignor::Range => "range",
            Assignor::CooperativeSticky => "cooperative-sticky",
        }
    }

    /// The assignor of this name.
    pub(crate) fn named(name: &str) -> Option<Assignor> {
        [Assignor::Range, Assignor::CooperativeSticky].into_iter().find(|assignor| assignor.name() == name)
    }

    /// Shares out. `partitions` is how many each topic has; one that is missing there has none.
    pub(crate) fn assign(
        self,
        members: &BTreeMap<String, Member>,
        partitions: &BTreeMap<String, i32>,
    ) -> BTreeMap<String, BTreeSet<TopicPartition>> {
        match self {
            Assignor::Range => range(members, partitions),
            Assignor::CooperativeSticky => cooperative_sticky(members, partitions),
        }
    }
}

/// A member as it tells of itself when it joins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Member {
    /// Orders static members the same whatever ids they are given.
    pub(crate) instance_id: Option<String>,
    pub(crate) topics: BTreeSet<String>,
    pub(crate) owned: BTreeSet<TopicPartition>,
    /// In which it got what it owns; -1 if it does not say.
    pub(crate) generation: i32,
}

type Shares = BTreeMap<String, BTreeSet<TopicPartition>>;

fn range(members: &BTreeMap<String, Member>, partitions: &BTreeMap<String, i32>) -> Shares {
    let mut shares: Shares = members.keys().map(|id| (id.clone(), BTreeSet::new())).collect();
    for (topic, count) in partitions {
        let mut readers: Vec<(&String, &Member)> =
            members.iter().filter(|(_, member)| member.topics.contains(topic)).collect();
        // Static members first, by their own names.
        readers.sort_by_key(|(id, member)| (member.instance_id.is_none(), member.instance_id.clone(), (*id).clone()));
        let total = usize::try_from(*count).unwrap_or(0);
        let mut next = 0;
        for (at, (id, _)) in readers.iter().enumerate() {
            // The first ones take what is left over.
            let take = total / readers.len() + usize::from(at < total % readers.len());
            let taken = (next..next + take).filter_map(|partition| i32::try_from(partition).ok());
            if let Some(share) = shares.get_mut(*id) {
                share.extend(taken.map(|partition| TopicPartition::new(topic.as_str(), partition)));
            }
            next += take;
        }
    }
    shares
}

fn cooperative_sticky(members: &BTreeMap<String, Member>, partitions: &BTreeMap<String, i32>) -> Shares {
    let owners = owners(members, partitions);
    let mut shares: Shares = members.keys().map(|id| (id.clone(), BTreeSet::new())).collect();
    for (partition, owner) in &owners {
        if let Some(share) = shares.get_mut(*owner) {
            share.insert(partition.clone());
        }
    }
    let all = partitions
        .iter()
        .flat_map(|(topic, count)| (0..*count).map(move |partition| TopicPartition::new(topic.as_str(), partition)));
    for partition in all.filter(|partition| !owners.contains_key(partition)) {
        if let Some(least) = reader_with_least(members, &shares, &partition) {
            shares.entry(least).or_default().insert(partition);
        }
    }
    balance(members, &mut shares);
    // What goes from one to another is given to nobody until its owner has let go of it: that begins the next
    // rebalance, which gives it.
    for (partition, owner) in &owners {
        for (_, share) in shares.iter_mut().filter(|(id, _)| id != owner) {
            share.remove(partition);
        }
    }
    shares
}

/// Who owns what at the moment. Where two say so, the one of the later generation does; of two of the same, neither.
fn owners<'a>(
    members: &'a BTreeMap<String, Member>,
    partitions: &BTreeMap<String, i32>,
) -> BTreeMap<TopicPartition, &'a String> {
    let mut claims: BTreeMap<&TopicPartition, (i32, Option<&String>)> = BTreeMap::new();
    for (id, member) in members {
        for partition in &member.owned {
            let exists =
                partitions.get(&partition.topic).is_some_and(|count| (0..*count).contains(&partition.partition));
            if !exists || !member.topics.contains(&partition.topic) {
                continue;
            }
            let claim = claims.entry(partition).or_insert((member.generation, Some(id)));
            if claim.1 != Some(id) && member.generation >= claim.0 {
                let alone = member.generation > claim.0;
                *claim = (member.generation, alone.then_some(id));
            }
        }
    }
    claims.into_iter().filter_map(|(partition, (_, owner))| Some((partition.clone(), owner?))).collect()
}

fn reader_with_least(
    members: &BTreeMap<String, Member>,
    shares: &Shares,
    partition: &TopicPartition,
) -> Option<String> {
    let readers = members.iter().filter(|(_, member)| member.topics.contains(&partition.topic));
    let least = readers.min_by_key(|(id, _)| shares.get(*id).map_or(0, BTreeSet::len));
    least.map(|(id, _)| id.clone())
}

/// Moves partitions from who has most to who has two less or fewer and may read them, until there is no such pair. Each
/// move makes the shares more even, so it ends.
fn balance(members: &BTreeMap<String, Member>, shares: &mut Shares) {
    loop {
        let mut by_size: Vec<(usize, String)> = shares.iter().map(|(id, share)| (share.len(), id.clone())).collect();
        by_size.sort();
        let mut moved = false;
        'search: for (most, from) in by_size.iter().rev() {
            for (least, to) in &by_size {
                if least + 1 >= *most {
                    break;
                }
                let Some(reader) = members.get(to) else { continue };
                let found =
                    shares[from].iter().rev().find(|partition| reader.topics.contains(&partition.topic)).cloned();
                let Some(partition) = found else { continue };
                shares.entry(from.clone()).or_default().remove(&partition);
                shares.entry(to.clone()).or_default().insert(partition);
                moved = true;
                break 'search;
            }
        }
        if !moved {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn member(topics: &[&str], owned: &[(&str, i32)], generation: i32) -> Member {
        Member {
            instance_id: None,
            topics: topics.iter().map(|topic| (*topic).to_owned()).collect(),
            owned: owned.iter().map(|(topic, partition)| TopicPartition::new(*topic, *partition)).collect(),
            generation,
        }
    }

    fn shares(
        assignor: Assignor,
        members: &[(&str, Member)],
        partitions: &[(&str, i32)],
    ) -> BTreeMap<String, Vec<String>> {
        let members = members.iter().map(|(id, member)| ((*id).to_owned(), member.clone())).collect();
        let partitions = partitions.iter().map(|(topic, count)| ((*topic).to_owned(), *count)).collect();
        let named = |share: BTreeSet<TopicPartition>| {
            share.into_iter().map(|one| format!("{}{}", one.topic, one.partition)).collect()
        };
        assignor.assign(&members, &partitions).into_iter().map(|(id, share)| (id, named(share))).collect()
    }

    #[test]
    fn range_gives_what_follows_each_other_and_the_first_take_what_is_left_over() {
        let members = [("b", member(&["t", "u"], &[], -1)), ("a", member(&["t"], &[], -1))];
        let found = shares(Assignor::Range, &members, &[("t", 3), ("u", 2), ("v", 9)]);
        assert_eq!(
            (&found["a"][..], &found["b"][..]),
            (&["t0".into(), "t1".into()][..], &["t2".into(), "u0".into(), "u1".into()][..])
        );
    }

    #[test]
    fn a_partition_that_moves_is_given_when_its_owner_has_let_go_of_it() {
        let owned = [("t", 0), ("t", 1), ("t", 2), ("t", 3)];
        let first = [("a", member(&["t"], &owned, 1)), ("b", member(&["t"], &[], -1))];
        let found = shares(Assignor::CooperativeSticky, &first, &[("t", 4)]);
        assert_eq!((found["a"].len(), found["b"].len()), (2, 0));
        let second = [("a", member(&["t"], &owned[..2], 2)), ("b", member(&["t"], &[], 2))];
        let found = shares(Assignor::CooperativeSticky, &second, &[("t", 4)]);
        assert_eq!((found["a"].join(" "), found["b"].join(" ")), ("t0 t1".to_owned(), "t2 t3".to_owned()));
    }

    #[test]
    fn of_two_who_claim_a_partition_the_later_generation_has_it() {
        let members = [("a", member(&["t"], &[("t", 0)], 3)), ("b", member(&["t"], &[("t", 0)], 4))];
        assert_eq!(shares(Assignor::CooperativeSticky, &members, &[("t", 1)])["b"], ["t0"]);
        let members = [("a", member(&["t"], &[("t", 0)], 4)), ("b", member(&["t"], &[("t", 0)], 4))];
        let found = shares(Assignor::CooperativeSticky, &members, &[("t", 1)]);
        assert_eq!(found["a"].len() + found["b"].len(), 1, "it is given anew");
    }

    const TOPICS: [&str; 3] = ["t", "u", "v"];

    fn any_member() -> impl Strategy<Value = Member> {
        let topics = prop::collection::btree_set(prop::sample::select(&TOPICS[..]).prop_map(str::to_owned), 0..4);
        let owned = prop::collection::btree_set((prop::sample::select(&TOPICS[..]), 0..7_i32), 0..6);
        (topics, owned, 0..3_i32).prop_map(|(topics, owned, generation)| {
            let owned = owned.into_iter().map(|(topic, partition)| TopicPartition::new(topic, partition));
            Member { instance_id: None, topics, owned: owned.collect(), generation }
        })
    }

    proptest! {
        #[test]
        fn everything_is_given_once_and_in_a_few_rounds_evenly(
            members in prop::collection::vec(any_member(), 1..6),
            counts in prop::collection::vec(0..7_i32, 3),
        ) {
            let mut members: BTreeMap<String, Member> =
                members.into_iter().enumerate().map(|(at, member)| (at.to_string(), member)).collect();
            let counts: BTreeMap<String, i32> = TOPICS.iter().map(|topic| (*topic).to_owned()).zip(counts).collect();
            let given = |shares: &Shares| -> usize { shares.values().map(BTreeSet::len).sum() };
            let read = |topic: &String| members.values().any(|member| member.topics.contains(topic));
            let total: i32 = counts.iter().filter(|(topic, _)| read(topic)).map(|(_, count)| *count).sum();
            let total = usize::try_from(total).expect("few");
            for assignor in [Assignor::Range, Assignor::CooperativeSticky] {
                let mut shares = assignor.assign(&members, &counts);
                // Members do as they are told, until nothing changes any more.
                for generation in 3..6 {
                    let all: BTreeSet<&TopicPartition> = shares.values().flatten().collect();
                    prop_assert_eq!(all.len(), given(&shares), "none is given twice");
                    for (id, share) in &shares {
                        let topics = &members[id].topics;
                        prop_assert!(share.iter().all(|partition| topics.contains(&partition.topic)));
                    }
                    for (id, share) in shares {
                        let member = members.get_mut(&id).expect("a member");
                        (member.owned, member.generation) = (share, generation);
                    }
                    shares = assignor.assign(&members, &counts);
                }
                prop_assert_eq!(given(&shares), total);
                if assignor == Assignor::CooperativeSticky {
                    for (id, share) in &shares {
                        prop_assert_eq!(share, &members[id].owned, "everybody keeps what can be kept");
                    }
                    let sizes: Vec<usize> = shares.values().map(BTreeSet::len).collect();
                    let (most, least) = (sizes.iter().max().copied(), sizes.iter().min().copied());
                    let all_alike = members.values().all(|member| member.topics == members["0"].topics);
                    prop_assert!(!all_alike || most.unwrap_or(0) <= least.unwrap_or(0) + 1);
                }
            }
        }
    }
}
