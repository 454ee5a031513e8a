//! What a rebalance does to the caller's partitions, as it is told of it, in the terms of Kafka's
//! `ConsumerRebalanceListener`: assigned, revoked (still its own, until it says that it is done with them) and lost
//! (not its own any more, KIP-429).
//!
//! Nothing is queued: the [`Ledger`] compares what the caller has heard with what the task has, so that it holds each
//! partition a few times at most, however long nobody asks. No record of a partition is given before the caller was
//! told that it has it, and none after it must part with it; so a partition that comes and goes while nobody asks need
//! not be told of.

use std::collections::BTreeSet;
use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use tracing::{debug, info};

use super::heartbeat::Kind;
use super::{Commit, Desk, LEAVE_LIMIT, Member};
use crate::admin::TopicPartition;
use crate::clock;
use crate::consumer::driver::Shared;
use crate::error::{Error, Result};

/// How much of the rebalance timeout is left to tell the coordinator that partitions have gone: to connect anew, if it
/// does not answer, and to ask once.
const PARTED_SPARE: Duration = Duration::from_secs(2);

/// What has become of partitions in a rebalance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RebalanceKind {
    /// The group has given them to this consumer. No record of them comes before the [`Rebalance`] is dropped, so that
    /// they can be [sought](crate::Consumer::seek), for example to an offset that is kept elsewhere. Kafka's
    /// `onPartitionsAssigned`.
    Assigned,
    /// They are to go to another member. They are still this consumer's, and no more records of them come: what was
    /// given can be finished and [committed](Rebalance::commit). They go when the [`Rebalance`] is dropped, which also
    /// says that what was given of them is done with. Kafka's `onPartitionsRevoked`.
    Revoked,
    /// They are not this consumer's any more, and others may have read on: because the coordinator took it for dead, it
    /// did not ask for records for too long ([`max_poll_interval`](crate::ConsumerConfig::max_poll_interval)), it
    /// was not ready in time to part with them, or it cannot be a member any more. Nothing of them can be committed.
    /// Kafka's `onPartitionsLost`.
    Lost,
}

/// The rebalances of a consumer's group, as far as they change what it has. See
/// [`Consumer::rebalances`](crate::Consumer::rebalances).
pub struct Rebalances {
    shared: Arc<Shared>,
    desk: Arc<Desk>,
}

/// Partitions that come or go. Dropping it says that the caller is done with it.
pub struct Rebalance<'a> {
    kind: RebalanceKind,
    partitions: Vec<TopicPartition>,
    of: &'a Rebalances,
}

impl Rebalances {
    /// Of a consumer whose desk has been told that somebody listens.
    pub(crate) fn new(shared: Arc<Shared>, desk: Arc<Desk>) -> Rebalances {
        Rebalances { shared, desk }
    }

    /// The next change, which is waited for; `None` when the consumer is closed. A future that is dropped has taken
    /// none away.
    pub async fn next(&mut self) -> Option<Rebalance<'_>> {
        let (kind, partitions) = poll_fn(|cx| self.poll_change(cx)).await?;
        Some(Rebalance { kind, partitions: partitions.into_iter().collect(), of: self })
    }

    fn poll_change(&self, cx: &mut Context<'_>) -> Poll<Option<(RebalanceKind, BTreeSet<TopicPartition>)>> {
        // Before it is looked, so that no news is missed.
        self.desk.listener.register(cx.waker());
        if self.shared.closing.load(Ordering::Acquire) || *self.desk.ended.borrow() {
            return Poll::Ready(None);
        }
        let change = self.desk.next_change();
        self.desk.comes(change.is_none());
        change.map_or(Poll::Pending, |change| Poll::Ready(Some(change)))
    }
}

impl Drop for Rebalances {
    fn drop(&mut self) {
        self.desk.stop_listening(&self.shared);
    }
}

impl Rebalance<'_> {
    /// Whether they come or go.
    pub fn kind(&self) -> RebalanceKind {
        self.kind
    }

    /// The partitions, at least one, in order: no others have changed.
    pub fn partitions(&self) -> &[TopicPartition] {
        &self.partitions
    }

    /// Of what is revoked, tells the group how far it has come: behind all records that were given of these partitions.
    /// Of the others nothing is committed, which [`Consumer::commit`](crate::Consumer::commit) does; what else is said
    /// there holds here, too.
    ///
    /// # Errors
    /// Of the outcome: [`Error::Request`] of another kind than [`Revoked`](RebalanceKind::Revoked);
    /// [`Error::Refused`] with `ILLEGAL_GENERATION` when they were lost meanwhile, or it has taken too long; those of
    /// [`Consumer::commit`](crate::Consumer::commit).
    pub fn commit(&self) -> Commit {
        match self.kind {
            RebalanceKind::Revoked => self.of.desk.commit_revoked(&self.of.shared, &self.partitions),
            RebalanceKind::Assigned | RebalanceKind::Lost => {
                let reason = "a rebalance commits only what it revokes".to_owned();
                Commit::known(Err(Error::Request { reason }))
            }
        }
    }
}

impl Drop for Rebalance<'_> {
    fn drop(&mut self) {
        self.of.desk.heard(&self.of.shared, self.kind, &self.partitions);
    }
}

impl fmt::Debug for Rebalances {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rebalances").finish_non_exhaustive()
    }
}

impl fmt::Debug for Rebalance<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Rebalance { kind, partitions, of: _ } = self;
        f.debug_struct("Rebalance").field("kind", kind).field("partitions", partitions).finish()
    }
}

/// What the caller was told of its partitions, and what it is to be told. No partition is both new and known; one that
/// was lost may have come again.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// The caller is not told before of what was lost, so that it hears of things in their order.
    lost: BTreeSet<TopicPartition>,
    /// Given by the group, and the caller was not told. No records of them are given.
    new: BTreeSet<TopicPartition>,
    /// The caller knows that it has them.
    known: BTreeSet<TopicPartition>,
    /// Of those that the caller knew of: the task waits until it has parted with them.
    going: BTreeSet<TopicPartition>,
}

impl Ledger {
    /// The group has given these, and no others are left.
    pub(super) fn assign(&mut self, assigned: &BTreeSet<TopicPartition>) {
        self.keep(assigned);
        self.new.extend(assigned.difference(&self.known).cloned());
    }

    /// All but these have gone.
    pub(super) fn keep(&mut self, kept: &BTreeSet<TopicPartition>) {
        self.going.clear();
        self.new.retain(|partition| kept.contains(partition));
        // Who was asked knows of them no more. Who has come to know them since was not: it hears that they have gone.
        self.lost.extend(self.known.extract_if(.., |partition| !kept.contains(partition)));
    }

    /// All but these are to go; whether the caller has to part with any of them. What it has not heard of it need not.
    pub(super) fn part_with_all_but(&mut self, kept: &BTreeSet<TopicPartition>) -> bool {
        self.new.retain(|partition| kept.contains(partition));
        self.going.extend(self.known.difference(kept).cloned());
        self.is_parting()
    }

    /// Whether the caller is to be told that it has lost this one, or that it has it.
    pub(super) fn is_news(&self, partition: &TopicPartition) -> bool {
        self.lost.contains(partition) || self.new.contains(partition)
    }

    /// What the caller is to be told that it has.
    pub(super) fn unheard(&self) -> impl Iterator<Item = &TopicPartition> {
        self.new.iter()
    }

    /// The caller has not parted with what is to go.
    pub(super) fn is_parting(&self) -> bool {
        !self.going.is_empty()
    }

    /// Whether the task waits until the caller has parted with all of these.
    pub(super) fn has_to_part_with(&self, partitions: &[TopicPartition]) -> bool {
        partitions.iter().all(|partition| self.going.contains(partition))
    }

    /// All is others' by now. Who is parting with a partition at the moment was told that it goes.
    pub(super) fn lose_all(&mut self) {
        self.lost.append(&mut self.known);
        self.new.clear();
        self.going.clear();
    }

    /// What is to go is waited for no longer. Who has not asked meanwhile hears that it has gone.
    pub(super) fn overdue(&mut self) {
        for partition in std::mem::take(&mut self.going) {
            if self.known.remove(&partition) {
                self.lost.insert(partition);
            }
        }
    }

    /// What the caller hears next.
    fn next(&mut self) -> Option<(RebalanceKind, BTreeSet<TopicPartition>)> {
        let unheard: BTreeSet<TopicPartition> = self.going.intersection(&self.known).cloned().collect();
        if !self.lost.is_empty() {
            return Some((RebalanceKind::Lost, std::mem::take(&mut self.lost)));
        }
        if !unheard.is_empty() {
            self.known.retain(|partition| !unheard.contains(partition));
            return Some((RebalanceKind::Revoked, unheard));
        }
        let new = std::mem::take(&mut self.new);
        self.known.extend(new.iter().cloned());
        (!new.is_empty()).then_some((RebalanceKind::Assigned, new))
    }

    /// The caller has parted with these.
    fn parted(&mut self, partitions: &[TopicPartition]) {
        for partition in partitions {
            self.going.remove(partition);
        }
    }
}

impl Desk {
    /// Somebody wants to hear of rebalances from now on; whether there was nobody yet. What the task has is told as
    /// new.
    pub(crate) fn listen(&self, shared: &Shared) -> bool {
        let mut mail = self.mail();
        if mail.ledger.is_some() {
            return false;
        }
        let mut ledger = Ledger::default();
        if mail.is_with_the_task() {
            let mut state = shared.state();
            let assigned: BTreeSet<TopicPartition> = state.assigned().map(|one| one.name.clone()).collect();
            assigned.iter().for_each(|partition| state.withhold(partition, true));
            ledger.assign(&assigned);
        }
        mail.ledger = Some(ledger);
        true
    }

    /// Nobody is asked any more: what waits for the caller goes on.
    fn stop_listening(&self, shared: &Shared) {
        let mut mail = self.mail();
        let Some(ledger) = mail.ledger.take() else { return };
        let mut state = shared.state();
        // Not only what the caller has not heard of: it may never have been done with what it has heard.
        let assigned: Vec<TopicPartition> = state.assigned().map(|one| one.name.clone()).collect();
        let stay = assigned.iter().filter(|partition| !ledger.going.contains(*partition));
        stay.for_each(|partition| state.withhold(partition, false));
        drop((state, mail));
        self.has_heard(shared);
    }

    fn next_change(&self) -> Option<(RebalanceKind, BTreeSet<TopicPartition>)> {
        self.mail().ledger.as_mut()?.next()
    }

    /// The caller is done with what it was told.
    fn heard(&self, shared: &Shared, kind: RebalanceKind, partitions: &[TopicPartition]) {
        // Before the task goes on.
        self.comes(false);
        let mut mail = self.mail();
        let Some(ledger) = &mut mail.ledger else { return };
        match kind {
            RebalanceKind::Assigned => {
                let mut state = shared.state();
                let stay = |partition: &&TopicPartition| {
                    ledger.known.contains(*partition) && !ledger.going.contains(*partition)
                };
                partitions.iter().filter(stay).for_each(|partition| state.withhold(partition, false));
            }
            RebalanceKind::Revoked => {
                if ledger.has_to_part_with(partitions) {
                    // Who commits by itself commits that now.
                    shared.state().settle_all_of(partitions);
                }
                ledger.parted(partitions);
            }
            RebalanceKind::Lost => mail.told_lost(partitions),
        }
        drop(mail);
        self.has_heard(shared);
    }

    fn has_heard(&self, shared: &Shared) {
        self.wake.notify_one();
        shared.wake.notify_one();
        shared.reader.wake();
    }

    /// The task is to give up all but `kept`: no more records of the others are given. Whether the caller has to part
    /// with some of them.
    fn ask_to_part(&self, shared: &Shared, kept: &BTreeSet<TopicPartition>) -> bool {
        let mut mail = self.mail();
        let with_the_task = mail.is_with_the_task();
        let Some(ledger) = mail.ledger.as_mut().filter(|_| with_the_task) else { return false };
        let parts = ledger.part_with_all_but(kept);
        if parts {
            let mut state = shared.state();
            ledger.going.iter().for_each(|partition| state.withhold(partition, true));
            self.listener.wake();
        }
        parts
    }

    fn is_parting(&self) -> bool {
        self.mail().ledger.as_ref().is_some_and(Ledger::is_parting)
    }

    /// The caller has not parted in time with all but `kept`: what it has not committed of them is lost to it.
    fn part_anyway(&self, shared: &Shared, kept: &BTreeSet<TopicPartition>) {
        let mut mail = self.mail();
        if mail.is_with_the_task() {
            // Also what waits to be committed: it may be in time still, and may not.
            mail.lose(shared.state().given_but(kept));
        }
        mail.ledger.iter_mut().for_each(Ledger::overdue);
        self.listener.wake();
    }
}

impl Member {
    /// Has the caller part with all but `kept`, if it wants to hear of that, and waits for it: meanwhile it commits
    /// what the caller hands in, and says that it lives. The group must hear within the rebalance timeout that they
    /// have gone.
    pub(super) async fn part(&mut self, kept: &BTreeSet<TopicPartition>) {
        if !self.desk.ask_to_part(&self.shared, kept) {
            return;
        }
        let deadline = clock::now() + self.parting_limit();
        while self.is_member() && self.desk.is_parting() {
            let now = clock::now();
            if now >= deadline {
                info!("the group {} takes partitions that the caller has not parted with in time", self.group);
                self.desk.part_anyway(&self.shared, kept);
                break;
            }
            if self.next_beat <= now {
                match clock::by(deadline, self.stay()).await {
                    Some(Ok(())) => {}
                    Some(Err(error)) => {
                        debug!("the group {}: {error}", self.group);
                        self.heed_failure(error);
                        let pause = self.shared.cluster.config().pause_after(1, 0);
                        self.next_beat = self.next_beat.max(clock::now() + pause);
                    }
                    // What is under way on it would be in front of what follows.
                    None => self.connection = None,
                }
                continue;
            }
            let until = self.next_beat.min(deadline);
            let Some(commit_at) = clock::by(deadline, self.commit_waiting(Some(until))).await else {
                self.connection = None;
                continue;
            };
            let wake_at = [Some(self.next_beat), Some(deadline), commit_at].into_iter().flatten().min();
            tokio::select! {
                biased;
                () = self.desk.wake.notified() => {}
                () = clock::until(wake_at) => {}
            }
        }
        // What it was woken for may be the next step's.
        self.desk.wake.notify_one();
    }

    /// Says that it lives.
    async fn stay(&mut self) -> Result<()> {
        match self.kind {
            Kind::Consumer => self.say().await.map(drop),
            Kind::Classic | Kind::Undecided => self.beat().await,
        }
    }

    /// How long the caller may take: the coordinator began to wait up to a heartbeat earlier, and the last commits and
    /// the request that says that they have gone come behind it.
    fn parting_limit(&self) -> Duration {
        let all = self.shared.config.rebalance_timeout;
        all.saturating_sub(self.beats_every + LEAVE_LIMIT + PARTED_SPARE).max(all / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::RebalanceKind::{Assigned, Lost, Revoked};
    use super::*;

    fn set(partitions: impl IntoIterator<Item = i32>) -> BTreeSet<TopicPartition> {
        partitions.into_iter().map(|partition| TopicPartition::new("logs", partition)).collect()
    }

    fn list(partitions: impl IntoIterator<Item = i32>) -> Vec<TopicPartition> {
        set(partitions).into_iter().collect()
    }

    #[test]
    fn what_comes_is_told_and_what_goes_is_waited_for() {
        let mut ledger = Ledger::default();
        ledger.assign(&set([0, 1, 2]));
        assert_eq!(ledger.next(), Some((Assigned, set([0, 1, 2]))));
        assert_eq!(ledger.next(), None);
        assert!(ledger.part_with_all_but(&set([2, 3])));
        assert_eq!(ledger.next(), Some((Revoked, set([0, 1]))));
        assert!(ledger.is_parting(), "told, but not done with");
        assert_eq!(ledger.next(), None);
        ledger.parted(&list([0, 1]));
        assert!(!ledger.is_parting());
        ledger.assign(&set([2, 3]));
        assert_eq!(ledger.next(), Some((Assigned, set([3]))));
        assert!(!ledger.part_with_all_but(&set([2, 3, 4])), "nothing goes");
    }

    #[test]
    fn who_was_not_told_of_a_partition_need_not_part_with_it() {
        let mut ledger = Ledger::default();
        ledger.assign(&set([0, 1]));
        assert!(!ledger.part_with_all_but(&set([1])));
        ledger.assign(&set([1, 2]));
        assert_eq!(ledger.next(), Some((Assigned, set([1, 2]))));
    }

    #[test]
    fn who_comes_to_know_of_a_partition_when_others_were_asked_hears_that_it_has_gone() {
        let mut ledger = Ledger::default();
        ledger.assign(&set([0, 1, 2]));
        ledger.next();
        ledger.keep(&set([1]));
        ledger.assign(&set([1, 2]));
        assert_eq!(ledger.next(), Some((Lost, set([0, 2]))));
        assert_eq!(ledger.next(), Some((Assigned, set([2]))));
    }

    #[test]
    fn what_is_lost_is_told_before_it_comes_again() {
        let mut ledger = Ledger::default();
        ledger.assign(&set([0, 1]));
        ledger.next();
        ledger.lose_all();
        ledger.assign(&set([1, 2]));
        assert_eq!(ledger.next(), Some((Lost, set([0, 1]))));
        assert_eq!(ledger.next(), Some((Assigned, set([1, 2]))));
        assert_eq!(ledger.next(), None);
    }

    #[test]
    fn what_is_overdue_is_lost_if_nobody_has_heard_that_it_goes() {
        for heard in [false, true] {
            let mut ledger = Ledger::default();
            ledger.assign(&set([0, 1]));
            ledger.next();
            ledger.part_with_all_but(&set([1]));
            if heard {
                assert_eq!(ledger.next(), Some((Revoked, set([0]))));
            }
            ledger.overdue();
            assert!(!ledger.is_parting());
            ledger.assign(&set([0, 1]));
            let expected = if heard { (Assigned, set([0])) } else { (Lost, set([0])) };
            assert_eq!(ledger.next(), Some(expected));
            // The end of the first parting says nothing of another.
            ledger.part_with_all_but(&set([]));
            ledger.parted(&list([0]));
            assert!(ledger.is_parting());
        }
    }

    #[test]
    fn who_parts_with_a_partition_at_the_moment_is_not_told_that_it_is_lost() {
        let mut ledger = Ledger::default();
        ledger.assign(&set([0, 1]));
        ledger.next();
        ledger.part_with_all_but(&set([1]));
        ledger.next();
        ledger.lose_all();
        assert!(!ledger.is_parting());
        assert_eq!(ledger.next(), Some((Lost, set([1]))));
    }
}
