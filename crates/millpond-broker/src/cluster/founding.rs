//! Whether a broker with an empty data directory founds a cluster, joins one, or waits: a pure decision.
//!
//! Two of three brokers that lost their disks must never found a second cluster beside what the third one holds. So a
//! cluster is founded only when all brokers of the list answer that they hold nothing, with the same list.

use std::collections::BTreeMap;

use millpond_record::BrokerId;
use millpond_runtime::HostPort;

/// What another broker of the list answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Heard {
    pub(crate) broker: BrokerId,
    /// The cluster that its data directory belongs to.
    pub(crate) cluster_id: Option<String>,
    pub(crate) holds_metadata: bool,
    pub(crate) founders: BTreeMap<BrokerId, HostPort>,
}

/// What this broker is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asking<'a> {
    pub(crate) broker: BrokerId,
    /// The cluster that its data directory belongs to, although it holds nothing of it yet: an earlier start came so
    /// far.
    pub(crate) cluster_id: Option<&'a str>,
    /// Who founds the cluster, this broker included. Empty for one that joins.
    pub(crate) founders: &'a BTreeMap<BrokerId, HostPort>,
    /// It was told to join a cluster (`millpond.join`), and never founds one, whoever it may ask.
    pub(crate) joins: bool,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Course {
    /// Found a cluster, with this id if one is known.
    Found(Option<String>),
    /// Join the cluster with this id.
    Join(String),
    /// Ask again; the sentence says what is waited for.
    Wait(String),
    /// Never: a sentence for the operator.
    Refuse(String),
}

/// Decides by what was heard; `heard` has the answer of each address that was asked, if it gave one.
pub(crate) fn course(asking: Asking<'_>, heard: &[(HostPort, Option<Heard>)]) -> Course {
    let Asking { broker, cluster_id, founders, joins } = asking;
    let answers = || heard.iter().filter_map(|(_, heard)| heard.as_ref());
    let mut clusters = answers().filter(|other| other.holds_metadata).filter_map(|other| other.cluster_id.clone());
    if let Some(found) = clusters.next() {
        if let Some(other) = clusters.find(|other| *other != found) {
            return Course::Refuse(format!(
                "the brokers that were asked belong to two clusters, {found} and {other}: name brokers of one of them"
            ));
        }
        return match cluster_id {
            Some(mine) if mine != found => Course::Refuse(format!(
                "the data directory belongs to cluster {mine}, the brokers that were asked to {found}: start with an \
                 empty data directory, or among the brokers of {mine}"
            )),
            _ => Course::Join(found),
        };
    }
    if joins || (founders.is_empty() && !heard.is_empty()) {
        let addresses: Vec<String> = heard.iter().map(|(address, _)| address.to_string()).collect();
        return Course::Wait(match addresses.is_empty() {
            false => format!("a broker of a cluster to join at {}", addresses.join(", ")),
            true => "a broker of a cluster to join, but millpond.join (--join) names this one only".to_owned(),
        });
    }
    for (address, other) in heard {
        let Some(other) = other else { continue };
        let listed = founders.iter().find(|(_, listed)| *listed == address).map(|(id, _)| *id);
        if listed.is_some_and(|listed| listed != other.broker) {
            let id = other.broker;
            return Course::Refuse(format!(
                "at {address} is broker {id}, which millpond.peers (--peers) places elsewhere"
            ));
        }
        if other.founders != *founders {
            return Course::Refuse(format!(
                "broker {} at {address} is to found a cluster with other brokers than this one: give the same \
                 millpond.peers (--peers) to each",
                other.broker
            ));
        }
    }
    let missing = heard.iter().filter(|(_, other)| other.is_none()).map(|(address, _)| {
        match founders.iter().find(|(_, listed)| *listed == address) {
            Some((id, _)) => format!("broker {id} at {address}"),
            None => address.to_string(),
        }
    });
    let missing: Vec<String> = missing.collect();
    if !missing.is_empty() {
        return Course::Wait(missing.join(", "));
    }
    match founders.keys().next() {
        Some(first) if *first != broker => Course::Wait(format!("broker {first} to found the cluster")),
        // Who began to join before the founder was lost has written the id down.
        _ => Course::Found(cluster_id.map(str::to_owned).or_else(|| answers().find_map(|o| o.cluster_id.clone()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(id: i32) -> HostPort {
        format!("mill-{id}:9093").parse().expect("an address")
    }

    fn list(ids: &[i32]) -> BTreeMap<BrokerId, HostPort> {
        ids.iter().map(|id| (BrokerId(*id), address(*id))).collect()
    }

    fn empty(id: i32) -> (HostPort, Option<Heard>) {
        let heard = Heard { broker: BrokerId(id), cluster_id: None, holds_metadata: false, founders: list(&[1, 2, 3]) };
        (address(id), Some(heard))
    }

    fn member(id: i32, cluster: &str) -> (HostPort, Option<Heard>) {
        let (address, heard) = empty(id);
        let heard = heard.map(|heard| Heard { cluster_id: Some(cluster.into()), holds_metadata: true, ..heard });
        (address, heard)
    }

    fn silent(id: i32) -> (HostPort, Option<Heard>) {
        (address(id), None)
    }

    fn decide(broker: i32, mine: Option<&str>, heard: &[(HostPort, Option<Heard>)]) -> Course {
        let founders = list(&[1, 2, 3]);
        course(Asking { broker: BrokerId(broker), cluster_id: mine, founders: &founders, joins: false }, heard)
    }

    #[test]
    fn the_first_of_the_list_founds_when_all_are_empty_and_nobody_else_does() {
        assert_eq!(decide(1, None, &[empty(2), empty(3)]), Course::Found(None));
        for (broker, others) in [(2, [empty(1), empty(3)]), (3, [empty(1), empty(2)])] {
            assert_eq!(decide(broker, None, &others), Course::Wait("broker 1 to found the cluster".into()));
        }
        let alone = list(&[1]);
        assert_eq!(
            course(Asking { broker: BrokerId(1), cluster_id: None, founders: &alone, joins: false }, &[]),
            Course::Found(None)
        );
    }

    #[test]
    fn one_that_is_silent_is_waited_for_by_name() {
        let wait = decide(1, None, &[empty(2), silent(3)]);
        assert_eq!(wait, Course::Wait("broker 3 at mill-3:9093".into()));
    }

    #[test]
    fn any_broker_that_holds_metadata_means_join_whoever_else_is_empty_or_silent() {
        assert_eq!(decide(1, None, &[empty(2), member(3, "X")]), Course::Join("X".into()));
        assert_eq!(decide(1, None, &[silent(2), member(3, "X")]), Course::Join("X".into()));
        assert_eq!(decide(2, Some("X"), &[member(1, "X"), silent(3)]), Course::Join("X".into()));
        assert!(matches!(decide(2, Some("Y"), &[member(1, "X"), silent(3)]), Course::Refuse(_)));
        assert!(matches!(decide(2, None, &[member(1, "X"), member(3, "Y")]), Course::Refuse(_)));
    }

    #[test]
    fn founding_goes_on_where_it_was_interrupted() {
        // The founder fell over after it had written the cluster's id, and before its metadata.
        assert_eq!(decide(1, Some("X"), &[empty(2), empty(3)]), Course::Found(Some("X".into())));
        // It founded, was joined, and lost its disk before anybody had a replica of the metadata.
        let (at, heard) = empty(2);
        let began = (at, heard.map(|heard| Heard { cluster_id: Some("X".into()), ..heard }));
        assert_eq!(decide(1, None, &[began, empty(3)]), Course::Found(Some("X".into())));
    }

    #[test]
    fn lists_must_be_the_same_and_ids_where_the_list_says() {
        let (at, heard) = empty(2);
        let other_list = (at.clone(), heard.clone().map(|heard| Heard { founders: list(&[1, 2]), ..heard }));
        assert!(matches!(decide(1, None, &[other_list, empty(3)]), Course::Refuse(_)));
        let other_id = (at, heard.map(|heard| Heard { broker: BrokerId(7), ..heard }));
        assert!(matches!(decide(1, None, &[other_id, empty(3)]), Course::Refuse(_)));
    }

    #[test]
    fn who_is_to_join_never_founds() {
        let none = BTreeMap::new();
        let asking = Asking { broker: BrokerId(4), cluster_id: None, founders: &none, joins: true };
        assert!(matches!(course(asking, &[empty(1)]), Course::Wait(_)));
        assert!(matches!(course(asking, &[silent(1)]), Course::Wait(_)));
        assert_eq!(course(asking, &[member(1, "X")]), Course::Join("X".into()));
        // The only address that it was given is its own.
        assert!(matches!(course(asking, &[]), Course::Wait(_)));
        // Not told to join anybody, it is the first broker of a cluster of its own.
        assert_eq!(course(Asking { joins: false, ..asking }, &[]), Course::Found(None));
    }
}
