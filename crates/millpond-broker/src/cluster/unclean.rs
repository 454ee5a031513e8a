//! What remains of partitions whose relaxed replicas lost power, and whom an operator has trusted (KIP-460, election
//! type UNCLEAN).
//!
//! A relaxed replica whose machine was started again without a clean stop may miss what it acknowledged. While a
//! majority of the voters misses nothing, it is replaced like a damaged one (`mending.rs`), and nothing is lost: every
//! acknowledged entry is in that majority. Of a pair the one that misses nothing is enough: nothing was acknowledged
//! without it. Otherwise nobody can tell what is lost, and an operator decides whether to wait for brokers that are
//! away or to go on with what remains. Then as few tainted replicas as make a majority are trusted, those with the
//! longest logs. As all of that majority must vote, none of its members, a whole one with a longer log above all, can
//! be outvoted.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::join_all;
use millpond_cluster::{Partition, lost_replicas};
use millpond_raft::{CallError, Remains, decides_for};
use millpond_record::{BrokerId, GroupId, LogId, RaftIndex, ReplicaId, Term};
use tracing::warn;

use super::messages::{Electorate, Entry, REMAINS, RemainsAnswer, RemainsWanted, TRUST, Trust, read, write};
use crate::broker::Shared;
use crate::errors::{self, Fault};

/// How long a broker may take to say what it has of a partition, or to trust it.
const ANSWER_TIME: Duration = Duration::from_secs(2);
/// Between two looks at whether a partition is led.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// The most sets of voters that a log can have, and voters in each that are read.
const MAX_ELECTORATES: usize = 2;
const MAX_VOTERS: usize = 64;

/// What live brokers have of a partition.
#[derive(Default)]
pub(crate) struct Found {
    copies: BTreeMap<ReplicaId, (BrokerId, Remains)>,
    /// Brokers that are alive and gave no answer: what they have is not known.
    silent: BTreeSet<BrokerId>,
    /// Replicas that take part in nothing any more.
    lost: BTreeSet<ReplicaId>,
}

impl Found {
    /// The first of the brokers that have a tainted copy.
    pub(crate) fn first_tainted(&self) -> Option<BrokerId> {
        self.copies.values().filter(|(_, remains)| remains.tainted).map(|(broker, _)| *broker).min()
    }

    /// Whether nothing is missed once this replica takes part in nothing any more.
    pub(crate) fn is_whole_without(&self, replica: ReplicaId) -> bool {
        let others = self.copies.iter().filter(|(id, _)| **id != replica);
        let lost = self.lost.iter().copied().chain([replica]).collect();
        judge(&others.map(|(id, (_, remains))| (*id, remains)).collect(), &lost) == Verdict::Whole
    }
}

/// What can be done about a partition.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// A majority misses nothing: it needs nobody's word.
    Whole,
    /// With these, which may miss something, there is a majority.
    Trust(Vec<ReplicaId>),
    /// There is none with all that remains.
    NotEnough,
}

/// Decides who would have to be trusted for a majority of voters to take part. One of a pair counts for two where the
/// other one is `lost`.
pub(crate) fn judge(found: &BTreeMap<ReplicaId, &Remains>, lost: &BTreeSet<ReplicaId>) -> Verdict {
    let mut tainted: Vec<(&ReplicaId, &&Remains)> = found.iter().filter(|(_, remains)| remains.tainted).collect();
    // The longest log first; of equal ones the lower id, so that whoever asks gets one answer.
    tainted.sort_by_key(|(id, remains)| (std::cmp::Reverse(remains.last), **id));
    let whole = found.iter().filter(|(_, remains)| !remains.tainted);
    let mut taking_part: BTreeMap<ReplicaId, &Remains> = whole.map(|(id, remains)| (*id, *remains)).collect();
    let mut trusted = Vec::new();
    let mut next = tainted.into_iter();
    loop {
        // Who votes the longest log says: only it can lead.
        let longest = taking_part.values().max_by_key(|remains| remains.last);
        let electorates = longest.map(|remains| &remains.electorates[..]).unwrap_or_default();
        if are_majority(electorates, &taking_part, lost) {
            trusted.retain(|id| electorates.iter().any(|voters| voters.contains(id)));
            return if trusted.is_empty() { Verdict::Whole } else { Verdict::Trust(trusted) };
        }
        let Some((id, remains)) = next.next() else { return Verdict::NotEnough };
        taking_part.insert(*id, remains);
        trusted.push(*id);
    }
}

fn are_majority(
    electorates: &[BTreeSet<ReplicaId>],
    taking_part: &BTreeMap<ReplicaId, &Remains>,
    lost: &BTreeSet<ReplicaId>,
) -> bool {
    let here: BTreeSet<ReplicaId> = taking_part.keys().copied().filter(|id| !lost.contains(id)).collect();
    let is_stood_for = |other: &&ReplicaId| here.iter().any(|one| decides_for(electorates, *one, **other));
    let votes: BTreeSet<ReplicaId> = here.iter().chain(lost.iter().filter(is_stood_for)).copied().collect();
    let majority = |voters: &BTreeSet<ReplicaId>| voters.intersection(&votes).count() * 2 > voters.len();
    !electorates.is_empty() && electorates.iter().all(majority)
}

/// What the verdict on these is.
pub(crate) fn verdict(found: &Found) -> Verdict {
    judge(&found.copies.iter().map(|(id, (_, remains))| (*id, remains)).collect(), &found.lost)
}

/// Asks the live brokers that have a replica of a partition. Others are not waited for; one that does not know the
/// question, or cannot use its copy, has nothing.
pub(crate) async fn ask(shared: &Shared, partition: &Partition) -> Found {
    let brokers: BTreeSet<BrokerId> = partition.all_replicas().map(|replica| replica.broker).collect();
    let live = brokers.into_iter().filter(|broker| *broker == shared.node || shared.peers.is_alive(*broker));
    let answers = live.map(async |broker| {
        let body = write(&RemainsWanted { group: partition.group.0 });
        let asked = async {
            match broker == shared.node {
                // One without others has no services.
                true => Ok(write(&answer(shared, partition.group).await)),
                false => shared.peers.call(broker, REMAINS, body, ANSWER_TIME).await,
            }
        };
        (broker, asked.await)
    });
    let lost = lost_replicas(&shared.controller.image(), partition).into_keys().collect();
    let mut found = Found { lost, ..Found::default() };
    for (broker, answer) in join_all(answers).await {
        match answer {
            Ok(answer) => {
                let copy = read(answer).ok().and_then(remains);
                // One that was replaced meanwhile is no part of the group.
                let copy = copy.filter(|(replica, _)| partition.all_replicas().any(|known| known.id == *replica));
                found.copies.extend(copy.map(|(replica, remains)| (replica, (broker, remains))));
            }
            Err(CallError::Refused(_)) => {}
            Err(_) => drop(found.silent.insert(broker)),
        }
    }
    found
}

/// The answer to [`ask`] of this broker.
pub(crate) async fn answer(shared: &Shared, group: GroupId) -> RemainsAnswer {
    let Some(partition) = shared.groups.partition(group) else { return RemainsAnswer::default() };
    let Some(remains) = partition.remains().await else { return RemainsAnswer::default() };
    let voters = |voters: &BTreeSet<ReplicaId>| Electorate { voters: voters.iter().map(|id| id.0).collect() };
    RemainsAnswer {
        replica: Some(partition.id().0),
        tainted: remains.tainted,
        last: remains.last.map(|last| Entry { term: last.term.0, index: last.index.0 }),
        electorates: remains.electorates.iter().map(voters).collect(),
    }
}

/// What an answer says; `None` for nothing, and for what cannot be.
fn remains(answer: RemainsAnswer) -> Option<(ReplicaId, Remains)> {
    let RemainsAnswer { replica, tainted, last, electorates } = answer;
    if electorates.len() > MAX_ELECTORATES || electorates.iter().any(|voters| voters.voters.len() > MAX_VOTERS) {
        return None;
    }
    let last = last.map(|last| LogId { term: Term(last.term), index: RaftIndex(last.index) });
    let electorates = electorates.into_iter().map(|known| known.voters.into_iter().map(ReplicaId).collect());
    Some((ReplicaId(replica?), Remains { tainted, last, electorates: electorates.collect() }))
}

/// Gives a partition a leader by the word of an operator, on the controller; returns when it has one.
///
/// # Errors
/// Not needed; not possible with the brokers that live, and which ones are missing; not done.
pub(crate) async fn elect(shared: &Shared, topic: &str, partition: &Partition) -> Result<(), Fault> {
    bring_together(shared, topic, partition).await?;
    while !is_led(shared, partition.group) {
        shared.runtime.sleep(LOOK_AGAIN).await;
    }
    Ok(())
}

/// Has as many replicas take part as make a majority.
async fn bring_together(shared: &Shared, topic: &str, partition: &Partition) -> Result<(), Fault> {
    // One at a time: two of them might trust more than either of them has to.
    let _turn = shared.unclean.acquire().await;
    let found = ask(shared, partition).await;
    match verdict(&found) {
        Verdict::Whole if is_led(shared, partition.group) => return Err(errors::election_not_needed()),
        Verdict::Whole => {}
        // It may have the longest log of all.
        Verdict::Trust(_) | Verdict::NotEnough if !found.silent.is_empty() => {
            return Err(errors::too_little_remains(silent(topic, partition, &found)));
        }
        Verdict::NotEnough if found.first_tainted().is_some() => {
            return Err(errors::too_little_remains(too_little(shared, topic, partition, &found)));
        }
        Verdict::NotEnough => return Err(errors::no_unclean_election()),
        Verdict::Trust(replicas) => {
            for replica in replicas {
                let Some((broker, remains)) = found.copies.get(&replica) else { continue };
                warn!(
                    topic,
                    partition = partition.index.0,
                    broker = broker.0,
                    last = remains.last.map(|last| last.to_string()),
                    "the replica takes part again although it may miss what it acknowledged, because an operator asked \
                     for an unclean election"
                );
                let body = write(&Trust { group: partition.group.0, replica: replica.0 });
                let trusted = shared.peers.call(*broker, TRUST, body, ANSWER_TIME).await;
                trusted.map_err(|error| {
                    errors::too_little_remains(format!("the replica on broker {broker} is not trusted yet: {error}"))
                })?;
            }
        }
    }
    Ok(())
}

/// Whether a live broker is known to lead it.
pub(crate) fn is_led(shared: &Shared, group: GroupId) -> bool {
    let here = shared.groups.partition(group).is_some_and(|replica| replica.leads());
    let leader = shared.groups.leaders().of(group).map(|leader| leader.broker);
    here || leader.is_some_and(|leader| leader != shared.node && shared.peers.is_alive(leader))
}

/// Which brokers are there and have not answered.
fn silent(topic: &str, partition: &Partition, found: &Found) -> String {
    let brokers: Vec<String> = found.silent.iter().map(|broker| format!("broker {broker}")).collect();
    format!(
        "what {} has of {topic}-{} is not known yet, though it is alive: ask again",
        brokers.join(" and "),
        partition.index.0
    )
}

/// Which brokers would have to come back.
fn too_little(shared: &Shared, topic: &str, partition: &Partition, found: &Found) -> String {
    let has = |broker: BrokerId| found.copies.values().any(|(other, _)| *other == broker);
    let missing: BTreeSet<BrokerId> =
        partition.all_replicas().map(|replica| replica.broker).filter(|broker| !has(*broker)).collect();
    let why = |broker: &BrokerId| match *broker == shared.node || shared.peers.is_alive(*broker) {
        true => format!("broker {broker}, whose copy cannot be used"),
        false => format!("broker {broker}, which is not alive"),
    };
    let missing: Vec<String> = missing.iter().map(why).collect();
    format!(
        "no majority of the replicas of {topic}-{} is there, whomever one trusts; it lacks {}: start a broker that is \
         not alive, and ask again",
        partition.index.0,
        missing.join(" and ")
    )
}

/// What an operator is told of a partition that waits for a decision.
pub(crate) fn decision_wanted(topic: &str, partition: &Partition) -> String {
    let index = partition.index.0;
    format!(
        "{topic}-{index} has no majority of replicas that miss nothing: power was lost, and its topic is relaxed. \
         Start the brokers that are not alive; to go on with what remains, and lose what only others had, run: \
         millpond cluster trust {topic} {index}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What there is, in words and as it is found, and what is decided.
    type Row = (&'static str, Vec<(u64, Remains)>, Verdict);

    const WHOLE: bool = false;
    const TAINTED: bool = true;

    fn log(term: u64, index: u64) -> Option<LogId> {
        Some(LogId { term: Term(term), index: RaftIndex(index) })
    }

    fn of(tainted: bool, last: Option<LogId>, electorates: &[&[u64]]) -> Remains {
        let voters = |voters: &&[u64]| voters.iter().copied().map(ReplicaId).collect();
        Remains { tainted, last, electorates: electorates.iter().map(voters).collect() }
    }

    fn judged(found: &[(u64, Remains)]) -> Verdict {
        judged_without(found, &[])
    }

    fn judged_without(found: &[(u64, Remains)], lost: &[u64]) -> Verdict {
        let lost = lost.iter().copied().map(ReplicaId).collect();
        judge(&found.iter().map(|(id, remains)| (ReplicaId(*id), remains)).collect(), &lost)
    }

    fn trust(ids: &[u64]) -> Verdict {
        Verdict::Trust(ids.iter().copied().map(ReplicaId).collect())
    }

    #[test]
    fn as_few_tainted_replicas_are_trusted_as_make_a_majority_those_with_the_longest_logs() {
        const THREE: &[&[u64]] = &[&[1, 2, 3]];
        const FIVE: &[&[u64]] = &[&[1, 2, 3, 4, 5]];
        let three = |tainted, last| of(tainted, last, THREE);
        let five = |tainted, last| of(tainted, last, FIVE);
        let short = log(2, 9);
        let long = log(3, 4);
        let table: [Row; 13] = [
            ("nothing", vec![], Verdict::NotEnough),
            ("all whole", vec![(1, three(WHOLE, long)), (2, three(WHOLE, long))], Verdict::Whole),
            (
                "one tainted of three",
                vec![(1, three(WHOLE, short)), (2, three(WHOLE, short)), (3, three(TAINTED, long))],
                Verdict::Whole,
            ),
            ("one whole of three", vec![(1, three(WHOLE, long))], Verdict::NotEnough),
            (
                "one whole, two tainted: the longer",
                vec![(1, three(WHOLE, short)), (2, three(TAINTED, short)), (3, three(TAINTED, long))],
                trust(&[3]),
            ),
            (
                "all tainted: the two longest, by term first",
                vec![(1, three(TAINTED, log(3, 3))), (2, three(TAINTED, short)), (3, three(TAINTED, long))],
                trust(&[3, 1]),
            ),
            (
                "equal ones: the lower ids",
                vec![(1, three(TAINTED, long)), (2, three(TAINTED, long)), (3, three(TAINTED, long))],
                trust(&[1, 2]),
            ),
            (
                "an empty log is the shortest",
                vec![(1, three(TAINTED, None)), (2, three(TAINTED, short)), (3, three(TAINTED, short))],
                trust(&[2, 3]),
            ),
            ("one of two", vec![(1, of(WHOLE, long, &[&[1, 2]])), (2, of(TAINTED, short, &[&[1, 2]]))], trust(&[2])),
            ("the only one", vec![(1, of(TAINTED, short, &[&[1]]))], trust(&[1])),
            (
                "five, two whole",
                vec![
                    (1, five(WHOLE, short)),
                    (2, five(TAINTED, log(1, 1))),
                    (3, five(TAINTED, long)),
                    (4, five(WHOLE, short)),
                ],
                trust(&[3]),
            ),
            (
                "a replica that does not vote counts for nothing, and is not trusted",
                vec![(1, three(WHOLE, short)), (2, three(TAINTED, short)), (7, three(TAINTED, long))],
                trust(&[2]),
            ),
            (
                "a log that knows no voters",
                vec![(1, of(WHOLE, None, &[])), (2, of(TAINTED, None, &[]))],
                Verdict::NotEnough,
            ),
        ];
        for (what, found, expected) in table {
            assert_eq!(judged(&found), expected, "{what}");
        }
    }

    #[test]
    fn of_a_pair_one_is_enough_where_the_other_one_is_lost() {
        const PAIR: &[&[u64]] = &[&[1, 2]];
        let last = log(2, 9);
        assert_eq!(judged_without(&[(1, of(WHOLE, last, PAIR))], &[2]), Verdict::Whole);
        assert_eq!(judged_without(&[(1, of(TAINTED, last, PAIR))], &[2]), trust(&[1]));
        assert_eq!(judged_without(&[(1, of(WHOLE, last, PAIR))], &[]), Verdict::NotEnough, "it may come back");
        assert_eq!(judged_without(&[(1, of(WHOLE, last, PAIR))], &[1, 2]), Verdict::NotEnough, "both are lost");
        let moving = of(WHOLE, last, &[&[1, 2], &[1, 3]]);
        assert_eq!(judged_without(&[(1, moving.clone())], &[2]), Verdict::NotEnough, "the new one is to vote, too");
        let new = (3, of(WHOLE, None, &[]));
        assert_eq!(judged_without(&[(1, moving), new], &[2]), Verdict::Whole);
        // Whoever has come or is to come beside them does not make the one more than one.
        for changing in [&[&[1, 2][..], &[2, 3]], &[&[1, 2], &[1, 2, 3]], &[&[1, 3, 2], &[1, 2]]] {
            let found = [(1, of(WHOLE, last, changing)), (3, of(WHOLE, last, changing))];
            assert_eq!(judged_without(&found, &[2]), Verdict::NotEnough, "{changing:?}");
        }
        let three = of(WHOLE, last, &[&[1, 2, 3]]);
        assert_eq!(judged_without(&[(1, three)], &[2, 3]), Verdict::NotEnough, "the others may have had more");
        let found = |tainted| Found {
            copies: BTreeMap::from([
                (ReplicaId(1), (BrokerId(1), of(WHOLE, last, PAIR))),
                (ReplicaId(2), (BrokerId(2), of(tainted, last, PAIR))),
            ]),
            ..Found::default()
        };
        assert!(found(TAINTED).is_whole_without(ReplicaId(2)) && !found(TAINTED).is_whole_without(ReplicaId(1)));
        assert!(verdict(&found(TAINTED)) == trust(&[2]) && verdict(&found(WHOLE)) == Verdict::Whole);
    }

    #[test]
    fn while_the_members_change_a_majority_of_both_sets_is_needed_by_the_longest_log_that_takes_part() {
        const BOTH: &[&[u64]] = &[&[1, 2, 3], &[1, 2, 4]];
        const OLD: &[&[u64]] = &[&[1, 2, 3]];
        let (short, long) = (log(2, 9), log(3, 4));
        let found = |three| vec![(1, of(WHOLE, short, OLD)), (3, three), (4, of(TAINTED, short, BOTH))];
        assert_eq!(judged(&found(of(TAINTED, long, BOTH))), trust(&[3, 4]), "3 knows of 4");
        assert_eq!(judged(&found(of(TAINTED, long, OLD))), trust(&[3]), "nobody who takes part knows of 4");
    }

    #[test]
    fn an_answer_comes_as_it_was_sent_and_what_cannot_be_is_nothing() {
        let electorate = |voters: std::ops::Range<u64>| Electorate { voters: voters.collect() };
        let good = RemainsAnswer {
            replica: Some(4),
            tainted: true,
            last: Some(Entry { term: 3, index: 7 }),
            electorates: vec![electorate(1..4), electorate(2..5)],
        };
        let sent: RemainsAnswer = read(write(&good)).expect("readable");
        let expected = (ReplicaId(4), of(true, log(3, 7), &[&[1, 2, 3], &[2, 3, 4]]));
        assert_eq!(remains(sent), Some(expected));
        assert_eq!(remains(RemainsAnswer::default()), None);
        let many =
            RemainsAnswer { electorates: vec![electorate(0..1), electorate(0..1), electorate(0..1)], ..good.clone() };
        assert_eq!(remains(many), None);
        assert_eq!(remains(RemainsAnswer { electorates: vec![electorate(0..65)], ..good }), None);
    }
}
