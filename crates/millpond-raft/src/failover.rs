//! Elects leaders where none is alive.
//!
//! One task per broker. A group is *orphaned* when no leader of its newest term is known, has not given up, and is on a
//! live broker. Candidates take turns: the live voters in the order of their replica ids (the order of preference when
//! the group was made), each for [`TURN`] or longer where many groups are without leader, or somebody was a candidate
//! before. The first begins at once, so a failover takes one round of votes; a candidate whose log is too short loses,
//! and who refuses it for that (see [`Failover::challenge`]) begins at once itself. Nobody begins an election without a
//! majority of voters alive: it would win nothing and cost a term. For the same reason a candidate first asks the
//! others whether they would vote for it (section 9.6 of the Raft dissertation): a broker that alone has lost its
//! connection to the leader deposes nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use millpond_record::{BrokerId, GroupId, ReplicaId, Term};
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

use crate::metadata::GroupMember;
use crate::replica::{Replica, Role};
use crate::shared::Shared;

/// How long a candidate has before it is the next one's turn, at least.
const TURN: Duration = Duration::from_millis(150);
/// How much longer it has for each other group that is without leader: their elections share disks and cores.
const TURN_PER_ORPHAN: Duration = Duration::from_millis(1);
/// Candidates that need no more time than the first: a voter may not have missed the leader yet.
const QUICK_CONTESTS: u32 = 2;
/// Later ones have twice the time of the one before, so many times.
const MOST_DOUBLINGS: u32 = 4;
/// How long after a start nobody is a candidate: the others first say what they lead.
pub(crate) const GRACE: Duration = Duration::from_millis(300);
/// How long a candidate that too few would vote for waits before it asks again, at first: the others may not have
/// missed the leader yet. Later twice and four times as long.
const ASK_AGAIN: Duration = Duration::from_millis(25);
const DOUBLINGS: u32 = 2;
/// How often it asks: until any other has missed a leader that has only gone silent.
const ASKS: u32 = 8;
/// Candidates that ask, or begin an election, at a time.
const AT_ONCE: usize = 256;

/// Groups whose replicas here have changed their role, and those that are challenged.
#[derive(Default)]
pub(crate) struct Failover {
    asked: Mutex<Asked>,
    notify: Notify,
}

#[derive(Default)]
struct Asked {
    look: BTreeSet<GroupId>,
    challenge: BTreeSet<GroupId>,
}

/// A group without live leader.
#[derive(Clone, Copy)]
struct Orphan {
    /// The term of its replica here when that was looked at: another means that somebody was a candidate.
    term: Term,
    since: Instant,
    /// How many candidates there were.
    contests: u32,
    /// When this broker's replica is a candidate next; never, while it cannot win.
    turn: Option<Instant>,
}

impl Failover {
    fn lock(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something is new about the leader of these groups.
    pub(crate) fn look_at(&self, groups: impl IntoIterator<Item = GroupId>) {
        self.lock().look.extend(groups);
        self.notify.notify_one();
    }

    /// A candidate was refused because the log here is longer: here is who can win.
    pub(crate) fn challenge(&self, group: GroupId) {
        self.lock().challenge.insert(group);
        self.notify.notify_one();
    }

    fn take(&self) -> Asked {
        std::mem::take(&mut *self.lock())
    }
}

/// Runs until the groups stop.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut alive = shared.peers.alive();
    let mut orphans: BTreeMap<GroupId, Orphan> = BTreeMap::new();
    let mut brokers = Arc::clone(&alive.borrow_and_update());
    loop {
        let next = orphans.values().filter_map(|orphan| orphan.turn).min();
        let turn = async {
            match next {
                Some(next) => shared.runtime.sleep_until(next).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = shared.stopped.cancelled() => return,
            changed = alive.changed() => if changed.is_err() { return },
            () = shared.failover.notify.notified() => {}
            () = turn => {}
        }
        // Whatever woke this: a broker that died meanwhile must not be missed.
        let now_alive = Arc::clone(&alive.borrow_and_update());
        let all = now_alive != brokers;
        brokers = now_alive;
        let asked = shared.failover.take();
        let mut look = asked.look;
        look.extend(&asked.challenge);
        if all {
            look.extend(shared.running().keys());
        }
        let looked_at: Vec<(GroupId, Option<Replica>)> = look
            .into_iter()
            .map(|group| (group, shared.replica(group).filter(|replica| is_orphan(&shared, replica, &brokers))))
            .collect();
        let many = looked_at.iter().filter(|(_, orphan)| orphan.is_some()).count().max(orphans.len());
        for (group, orphan) in looked_at {
            match orphan {
                Some(replica) => {
                    let now = shared.runtime.now();
                    let Role { term, vote, leader, .. } = replica.role();
                    // Somebody may be elected right now: this replica itself, if leadership is handed to it.
                    let own = vote == replica.id() && now <= shared.elections_from;
                    let asked = leader.is_none() && !own && term > Term(0);
                    let orphan = match orphans.get(&group) {
                        // Nothing that its turn depends on has changed.
                        Some(known) if known.term == term && !all && known.turn.is_some() => *known,
                        known => {
                            let since = known.filter(|known| known.term == term).map_or(now, |known| known.since);
                            let contested = asked || known.is_some_and(|known| known.term != term);
                            // Each term is one: that brokers come and go meanwhile makes it no more.
                            let contests = match known {
                                Some(known) => known.contests + u32::from(known.term != term),
                                None => u32::from(asked),
                            };
                            let span = span(many, contests);
                            let turn = if contested {
                                next_turn(&replica, &brokers, since, span)
                            } else {
                                first_turn(&replica, &brokers, since.max(shared.elections_from), now, span)
                            };
                            Orphan { term, since, contests, turn }
                        }
                    };
                    orphans.insert(group, orphan);
                }
                None => drop(orphans.remove(&group)),
            }
        }
        for group in asked.challenge {
            if let Some(orphan) = orphans.get_mut(&group)
                && orphan.turn.is_some()
            {
                orphan.turn = Some(shared.runtime.now().max(shared.elections_from));
            }
        }
        take_turns(&shared, &mut orphans, &brokers);
    }
}

/// Begins the elections that are due.
fn take_turns(shared: &Arc<Shared>, orphans: &mut BTreeMap<GroupId, Orphan>, brokers: &BTreeSet<BrokerId>) {
    let (now, many) = (shared.runtime.now(), orphans.len());
    let due = |orphan: &Orphan| orphan.turn.is_some_and(|turn| turn <= now);
    let due: Vec<GroupId> = orphans.iter().filter(|(_, orphan)| due(orphan)).map(|(group, _)| *group).collect();
    let mut candidates = Vec::with_capacity(due.len());
    for group in due {
        let replica = shared.replica(group).filter(|replica| is_orphan(shared, replica, brokers));
        let live = replica.as_ref().and_then(|replica| live_voters(replica, brokers));
        let (Some(orphan), Some(replica), Some(live)) = (orphans.get_mut(&group), replica, live) else {
            orphans.remove(&group);
            continue;
        };
        orphan.turn = Some(now + span(many, orphan.contests) * u32::try_from(live.len()).unwrap_or(u32::MAX));
        candidates.push(replica);
    }
    if candidates.is_empty() {
        return;
    }
    // Answers are waited for elsewhere: here it is noticed who else dies.
    let electing = Arc::clone(shared);
    shared.runtime.spawn(async move {
        let turns = Semaphore::new(AT_ONCE);
        let elections: FuturesUnordered<_> =
            candidates.into_iter().map(|replica| stand(&electing, replica, &turns)).collect();
        elections.collect::<()>().await;
    });
}

/// Begins an election if a majority would vote for this replica. A place among `turns` is held while something is done,
/// not between two questions: one that cannot win must not keep others from theirs.
async fn stand(shared: &Shared, replica: Replica, turns: &Semaphore) {
    let term = replica.role().term;
    for asked in 0..ASKS {
        if asked > 0 {
            shared.runtime.sleep(ASK_AGAIN * (1 << (asked - 1).min(DOUBLINGS))).await;
        }
        let Ok(_turn) = turns.acquire().await else { return };
        // Whoever was dead when the turn began may be back, and lead.
        let brokers = Arc::clone(&shared.peers.alive().borrow());
        // Who was asked was asked for the next term. Where somebody else is a candidate in that by now, or was elected,
        // a later one would only depose him.
        let stands =
            || replica.role().term == term && is_orphan(shared, &replica, &brokers) && !shared.stopped.is_cancelled();
        if !stands() {
            return;
        }
        if would_win(shared, &replica, &brokers).await {
            if stands()
                && let Err(error) = replica.elect().await
            {
                tracing::debug!(group = replica.group().0, %error, "no election");
            }
            return;
        }
        tracing::debug!(group = replica.group().0, replica = replica.id().0, "no candidate: too few would vote for it");
    }
}

/// Asks the other voters on live brokers.
async fn would_win(shared: &Shared, replica: &Replica, brokers: &BTreeSet<BrokerId>) -> bool {
    let (voters, electorates) = (voters(replica), replica.electorates());
    let (term, last) = (replica.role().term, replica.last());
    let network = shared.peers.network(replica.group(), replica.id());
    let others = voters.iter().filter(|one| {
        one.replica != replica.id() && brokers.contains(&one.broker) && !replica.stands_in_for(one.replica)
    });
    let mut answers: FuturesUnordered<_> = others
        .map(async |other| (other.replica, network.would_vote(other.replica, other.broker, term, last).await))
        .collect();
    let mut votes: BTreeSet<ReplicaId> = with_stood_in_for(replica, &voters).collect();
    while !are_majority(&electorates, &votes) {
        match answers.next().await {
            Some((voter, true)) => drop(votes.insert(voter)),
            Some((_, false)) => {}
            None => return false,
        }
    }
    true
}

/// The replica here, and those that it decides for.
fn with_stood_in_for(replica: &Replica, voters: &[GroupMember]) -> impl Iterator<Item = ReplicaId> {
    let others = voters.iter().map(|voter| voter.replica).filter(|other| replica.stands_in_for(*other));
    others.chain([replica.id()])
}

fn voters(replica: &Replica) -> Vec<GroupMember> {
    replica.members().into_iter().filter(|member| member.voter).collect()
}

/// Whether these are a majority of each configuration.
fn are_majority(electorates: &[BTreeSet<ReplicaId>], voters: &BTreeSet<ReplicaId>) -> bool {
    electorates.iter().all(|electorate| electorate.intersection(voters).count() * 2 > electorate.len())
}

/// How long a candidate has when so many groups are without leader, and so many were candidates before.
fn span(orphans: usize, contests: u32) -> Duration {
    let turn = TURN + TURN_PER_ORPHAN * u32::try_from(orphans).unwrap_or(u32::MAX).min(1000);
    turn * (1 << contests.saturating_sub(QUICK_CONTESTS).min(MOST_DOUBLINGS))
}

/// Whether no live leader of the group is known.
fn is_orphan(shared: &Shared, replica: &Replica, brokers: &BTreeSet<BrokerId>) -> bool {
    let Role { term, leader, .. } = replica.role();
    if leader.is_some_and(|(leader, _)| replica.stands_in_for(leader)) {
        return true;
    }
    let said = shared.leaders.last(replica.group());
    let leads = match (leader, said) {
        (None, Some(said)) if said.term == term => said.leads(),
        // What is said of this broker its own replica knows better.
        (_, Some(said)) if said.term > term && said.broker != shared.broker => said.leads(),
        (Some((_, broker)), Some(said)) if said.term == term && said.broker == broker => said.leads(),
        (Some((_, broker)), _) => Some(broker),
        (None, _) => None,
    };
    leads.is_none_or(|broker| !brokers.contains(&broker))
}

/// The voters on live brokers, in the order in which they are candidates; `None` if they are no majority, or this
/// replica does not vote.
fn live_voters(replica: &Replica, brokers: &BTreeSet<BrokerId>) -> Option<Vec<ReplicaId>> {
    let voters = voters(replica);
    let is_live = |member: &&GroupMember| brokers.contains(&member.broker) && !replica.stands_in_for(member.replica);
    let live: Vec<ReplicaId> = voters.iter().filter(is_live).map(|member| member.replica).collect();
    let would_vote = live.iter().copied().chain(with_stood_in_for(replica, &voters)).collect();
    (are_majority(&replica.electorates(), &would_vote) && live.contains(&replica.id())).then_some(live)
}

/// When this replica is a candidate after another one was, or after it was one itself.
fn next_turn(replica: &Replica, brokers: &BTreeSet<BrokerId>, now: Instant, span: Duration) -> Option<Instant> {
    let live = live_voters(replica, brokers)?;
    let place = |id: ReplicaId| live.iter().position(|live| *live == id);
    let (own, last) = (place(replica.id())?, place(replica.role().vote).unwrap_or(0));
    Some(now + wait_after(last, own, live.len(), span))
}

/// How long the candidate at place `own` of so many waits after the one at place `last`. Those that were candidates at
/// the same moment, each with its own vote, are not so again.
fn wait_after(last: usize, own: usize, live: usize, span: Duration) -> Duration {
    let [last, own, live] = [last, own, live].map(|number| u32::try_from(number).unwrap_or(u32::MAX));
    match (own + live - last) % live {
        0 => span * live + span * own / live,
        behind => span * behind,
    }
}

fn first_turn(
    replica: &Replica,
    brokers: &BTreeSet<BrokerId>,
    begin: Instant,
    now: Instant,
    span: Duration,
) -> Option<Instant> {
    let live = live_voters(replica, brokers)?;
    let rank = live.iter().position(|id| *id == replica.id())?;
    let turn = begin + span * u32::try_from(rank).unwrap_or(u32::MAX);
    // One that has passed comes round again when all others had theirs.
    let round = span * u32::try_from(live.len()).unwrap_or(u32::MAX);
    if turn >= now || now.saturating_duration_since(turn) < span {
        return Some(turn);
    }
    let rounds = now.saturating_duration_since(turn).as_millis() / round.as_millis().max(1) + 1;
    Some(turn + round * u32::try_from(rounds).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_take_turns_and_two_at_the_same_moment_are_not_so_again() {
        let wait = |last, own, live| wait_after(last, own, live, TURN).as_millis();
        assert_eq!([wait(0, 1, 3), wait(0, 2, 3), wait(2, 0, 3), wait(2, 1, 3)], [150, 300, 150, 300]);
        assert_eq!([wait(0, 0, 3), wait(1, 1, 3), wait(2, 2, 3)], [450, 500, 550]);
        assert_eq!([wait(0, 0, 2), wait(1, 1, 2), wait(0, 0, 1)], [300, 375, 150]);
    }

    #[test]
    fn while_a_membership_changes_a_majority_is_one_of_both_configurations() {
        let of = |ids: &[u64]| -> BTreeSet<ReplicaId> { ids.iter().copied().map(ReplicaId).collect() };
        let replaced = [of(&[1, 2, 3]), of(&[1, 2, 4])];
        assert!(are_majority(&replaced, &of(&[1, 2])), "two of four, and two of three in both");
        assert!(!are_majority(&replaced, &of(&[1, 3])) && !are_majority(&replaced, &of(&[3, 4])));
        assert!(are_majority(&replaced, &of(&[2, 3, 4])));
        let one = [of(&[1, 2, 3, 4])];
        assert!(!are_majority(&one, &of(&[1, 2])) && are_majority(&one, &of(&[1, 2, 4])));
    }
}
