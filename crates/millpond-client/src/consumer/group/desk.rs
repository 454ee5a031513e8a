//! What a consumer and its group's task share: what is read, who says so, and what is to be committed.
//!
//! The partitions that are read have two masters. While the consumer is subscribed the task sets them, else the caller
//! does; which of the two it is changes under the lock of the mail, and whoever changes the partitions holds it. The
//! lock of the positions is taken within it, never the other way round.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures::task::AtomicWaker;
use millpond_wire::ErrorCode;
use tokio::sync::{Notify, oneshot, watch};
use tracing::info;

use super::super::driver::Shared;
use super::super::positions::Offset;
use super::pattern::Pattern;
use super::presence::Calls;
use super::rebalances::Ledger;
use crate::admin::TopicPartition;
use crate::error::{Error, Result};

/// Which topics a member wants to read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Subscription {
    /// These, at least one.
    Topics(BTreeSet<String>),
    /// Those that match.
    Pattern(Pattern),
}

/// What the caller asks of the group's task.
#[derive(Debug, Default)]
pub(super) struct Mail {
    /// `None` while nothing is subscribed to.
    subscription: Option<Subscription>,
    /// Of the subscription, since the task has looked.
    changed: bool,
    /// It was unsubscribed since the task has looked, even if it is subscribed again by now.
    left: bool,
    /// The first one may be on its way; it stays here until its outcome is known.
    commits: VecDeque<CommitRequest>,
    /// What the caller was given, behind the last record of each partition: it was lost uncommitted, and the caller
    /// has not heard of that.
    lost: BTreeMap<TopicPartition, i64>,
    /// What the caller hears of rebalances, if it wants to.
    pub(super) ledger: Option<Ledger>,
}

impl Mail {
    /// Whether what is read is the task's to say, of the subscription that it knows.
    pub(super) fn is_with_the_task(&self) -> bool {
        self.subscription.is_some() && !self.left
    }

    /// The caller was given this, and it is not its own any more. A commit of it that succeeds nevertheless, or whose
    /// failure the caller hears, takes that back.
    pub(super) fn lose(&mut self, given: Vec<Offset>) {
        self.lost.extend(given.into_iter().map(|one| (one.partition, one.offset)));
    }

    /// The membership in which the caller was given this ends. Of what it waits to see committed the outcome tells.
    fn lose_with_the_membership(&mut self, mut given: Vec<Offset>) {
        let heard = self.commits.iter().filter(|request| !request.done.is_closed());
        let waiting = heard.flat_map(|request| &request.due.offsets);
        given.retain(|one| !waiting.clone().any(|of| of.is_as_far_as(&one.partition, one.offset)));
        self.lose(given);
    }

    /// The caller has heard that it has lost these.
    pub(super) fn told_lost(&mut self, partitions: &[TopicPartition]) {
        self.lost.retain(|partition, _| !partitions.contains(partition));
    }

    /// All but these have gone: no offset of the others may be committed later, when the member has them again and has
    /// perhaps committed more.
    fn strip(&mut self, kept: &BTreeSet<TopicPartition>) {
        for CommitRequest { due, .. } in self.commits.iter_mut().filter(|request| request.due.whose == Whose::Members) {
            let stays = |offset: &Offset| kept.contains(&offset.partition);
            match due.extent {
                _ if due.offsets.iter().all(stays) => {}
                Extent::Kept if due.offsets.iter().any(stays) => due.offsets.retain(stays),
                // With nothing left of it, or less than was named, it is not made.
                Extent::Kept | Extent::Named => due.whose = Whose::Lost,
            }
        }
    }

    /// The membership of which the waiting commits are is over.
    fn expire(&mut self) {
        for request in self.commits.iter_mut().filter(|request| request.due.whose == Whose::Members) {
            request.due.whose = Whose::Lost;
        }
    }

    fn put(&mut self, offsets: Vec<Offset>, extent: Extent, again: bool) -> oneshot::Receiver<Result<()>> {
        let (done, outcome) = oneshot::channel();
        let whose = if self.is_with_the_task() { Whose::Members } else { Whose::Callers };
        self.commits.push_back(CommitRequest { due: Due { offsets, extent, whose, again }, done });
        outcome
    }
}

#[derive(Debug)]
struct CommitRequest {
    due: Due,
    done: oneshot::Sender<Result<()>>,
}

/// A commit that is to be made.
#[derive(Clone, Debug)]
pub(super) struct Due {
    pub(super) offsets: Vec<Offset>,
    pub(super) extent: Extent,
    pub(super) whose: Whose,
    /// It is tried again for what passes.
    pub(super) again: bool,
}

/// Which of the offsets of a commit it is about, if partitions go before it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// All of them: the caller has named them.
    Named,
    /// Those of partitions that are kept, as Kafka's consumer has it: it is of all that was given.
    Kept,
}

/// Of what partitions the offsets of a commit are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    /// The group had given them to the member.
    Members,
    /// The same, to a member that has lost its membership or given them up since: others may have read on.
    Lost,
    /// The caller had assigned them by hand.
    Callers,
}

/// A subscription that has changed.
#[derive(Debug)]
pub(super) struct Change {
    /// The group is to be left first.
    pub(super) left: bool,
    pub(super) subscription: Option<Subscription>,
}

/// What a consumer and its group's task share.
#[derive(Debug)]
pub(crate) struct Desk {
    mail: Mutex<Mail>,
    /// What the caller is done with is committed by itself.
    commits_itself: bool,
    /// Of the caller for records.
    pub(super) calls: Calls,
    /// Who waits for a rebalance.
    pub(crate) listener: AtomicWaker,
    /// Something is to be done.
    pub(crate) wake: Notify,
    /// It is to end.
    pub(crate) close: Notify,
    /// It has ended.
    pub(crate) ended: watch::Sender<bool>,
}

impl Desk {
    pub(crate) fn new(commits_itself: bool) -> Desk {
        let (wake, close) = (Notify::new(), Notify::new());
        Desk {
            mail: Mutex::default(),
            commits_itself,
            calls: Calls::default(),
            listener: AtomicWaker::new(),
            wake,
            close,
            ended: watch::Sender::new(false),
        }
    }

    pub(super) fn mail(&self) -> MutexGuard<'_, Mail> {
        // The mail is whole after every change.
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The caller has come; it waits if there was nothing for it.
    pub(crate) fn comes(&self, waits: bool) {
        if self.calls.came(waits) {
            self.wake.notify_one();
        }
    }

    /// Has what goes committed, if that is done by itself.
    fn hand_in(&self, mail: &mut Mail, gone: Vec<Offset>) {
        if self.commits_itself && !gone.is_empty() && !*self.ended.borrow() {
            // Nobody waits for it; a failure is logged.
            drop(mail.put(gone, Extent::Kept, true));
        }
    }

    /// Reads these partitions, as the caller says.
    ///
    /// # Errors
    /// While it is subscribed, and for what cannot be the name of a topic; nothing has changed then.
    pub(crate) fn assign(&self, shared: &Shared, wanted: &BTreeSet<TopicPartition>) -> Result<()> {
        let mut mail = self.mail();
        if mail.subscription.is_some() {
            return Err(Error::Request {
                reason: "what is read is the group's to say; unsubscribe ends that".to_owned(),
            });
        }
        let gone = {
            let mut state = shared.state();
            let gone = state.settled_but(wanted);
            state.assign(wanted)?;
            gone
        };
        self.hand_in(&mut mail, gone);
        Ok(())
    }

    /// Has the task join the group for these topics. What was assigned by hand is read no more.
    pub(crate) fn subscribe(&self, shared: &Shared, subscription: Subscription) {
        let mut mail = self.mail();
        if mail.subscription.is_none() {
            let gone = shared.state().revoke(&BTreeSet::new());
            self.hand_in(&mut mail, gone);
        }
        mail.changed |= mail.subscription.as_ref() != Some(&subscription);
        mail.subscription = Some(subscription);
        drop(mail);
        // Who subscribes is there.
        self.calls.came(false);
        self.wake.notify_one();
    }

    /// Reads nothing from now on, and has the task leave the group.
    pub(crate) fn unsubscribe(&self, shared: &Shared) {
        let mut mail = self.mail();
        let gone = shared.state().revoke(&BTreeSet::new());
        self.hand_in(&mut mail, gone);
        if mail.subscription.take().is_some() {
            (mail.changed, mail.left) = (true, true);
        }
        // Who does it need not be told.
        mail.ledger.iter_mut().for_each(|ledger| *ledger = Ledger::default());
        drop(mail);
        self.wake.notify_one();
    }

    /// What has changed of the subscription since the last time.
    pub(super) fn changed(&self) -> Option<Change> {
        let mut mail = self.mail();
        let left = std::mem::take(&mut mail.left);
        std::mem::take(&mut mail.changed).then(|| Change { left, subscription: mail.subscription.clone() })
    }

    /// The task reads these from now on, unless that is not its to say any more.
    ///
    /// # Errors
    /// For what cannot be the name of a topic; nothing has changed then.
    pub(super) fn take_over(&self, shared: &Shared, assigned: &BTreeSet<TopicPartition>) -> Result<()> {
        let mut mail = self.mail();
        if !mail.is_with_the_task() {
            return Ok(());
        }
        let mut state = shared.state();
        state.assign(assigned)?;
        if let Some(ledger) = &mut mail.ledger {
            ledger.assign(assigned);
            // Before the caller has heard of them.
            ledger.unheard().for_each(|partition| state.withhold(partition, true));
            self.listener.wake();
        }
        Ok(())
    }

    /// The task takes all but `kept` from the caller.
    pub(super) fn take_back(&self, shared: &Shared, kept: &BTreeSet<TopicPartition>) {
        let mut mail = self.mail();
        if mail.is_with_the_task() {
            let gone = shared.state().revoke(kept);
            self.hand_in(&mut mail, gone);
            mail.ledger.iter_mut().for_each(|ledger| ledger.keep(kept));
            self.listener.wake();
        }
    }

    /// The member has all but `kept` no more, and what waits is not to be committed for them.
    pub(super) fn strip(&self, kept: &BTreeSet<TopicPartition>) {
        self.mail().strip(kept);
    }

    /// The task leaves for a caller that does not come, which is to hear of what it has not committed.
    pub(super) fn give_up(&self, shared: &Shared) {
        let mut mail = self.mail();
        if mail.is_with_the_task() && !self.commits_itself {
            mail.lose_with_the_membership(shared.state().given_but(&BTreeSet::new()));
        }
        self.tell_lost(&mut mail);
    }

    fn tell_lost(&self, mail: &mut Mail) {
        mail.ledger.iter_mut().for_each(Ledger::lose_all);
        self.listener.wake();
    }

    /// The membership is over, and what the task has is others' by now.
    pub(super) fn lose_all(&self, shared: &Shared) {
        let mut mail = self.mail();
        if mail.is_with_the_task() {
            let mut state = shared.state();
            mail.lose_with_the_membership(state.given_but(&BTreeSet::new()));
            state.revoke(&BTreeSet::new());
            drop(state);
            self.tell_lost(&mut mail);
        }
        mail.expire();
    }

    /// The membership is over.
    pub(super) fn expire(&self) {
        self.mail().expire();
    }

    /// The task cannot be a member: nothing is subscribed to any more, unless the caller has just said what.
    pub(super) fn shut_out(&self, shared: &Shared, error: Error) {
        let mut mail = self.mail();
        if mail.is_with_the_task() {
            let mut state = shared.state();
            state.tell(error);
            state.revoke(&BTreeSet::new());
            drop(state);
            self.tell_lost(&mut mail);
        }
        mail.expire();
        if !mail.changed {
            mail.subscription = None;
        }
    }

    /// Has the task commit these offsets, unless one is of a partition of which the caller has not heard yet that it
    /// came (again): it is of a time when that was another's.
    pub(crate) fn commit(&self, shared: &Shared, offsets: &BTreeMap<TopicPartition, i64>) -> Commit {
        let mut mail = self.mail();
        let with_the_task = mail.is_with_the_task();
        let ledger = mail.ledger.as_ref().filter(|_| with_the_task);
        if ledger.is_some_and(|ledger| offsets.keys().any(|partition| ledger.is_news(partition))) {
            return Commit::known(Err(of_others(shared.group())));
        }
        let of = |(partition, offset): (&TopicPartition, &i64)| Offset {
            partition: partition.clone(),
            offset: *offset,
            leader_epoch: None,
        };
        self.commit_by_hand(&mut mail, offsets.iter().map(of).collect(), Extent::Named)
    }

    /// Has the task commit all that the caller was given and that is still its own, unless some of it was lost of which
    /// the caller has not heard: that is told first.
    pub(crate) fn commit_given(&self, shared: &Shared) -> Commit {
        let mut mail = self.mail();
        if !std::mem::take(&mut mail.lost).is_empty() {
            return Commit::known(Err(of_others(shared.group())));
        }
        let offsets = {
            let mut state = shared.state();
            state.settle();
            state.settled()
        };
        self.commit_by_hand(&mut mail, offsets, Extent::Kept)
    }

    /// Has the task commit all that the caller was given of these, which it is to part with; not when the member has
    /// them no more.
    pub(super) fn commit_revoked(&self, shared: &Shared, partitions: &[TopicPartition]) -> Commit {
        let mut mail = self.mail();
        if !mail.ledger.as_ref().is_some_and(|ledger| ledger.has_to_part_with(partitions)) {
            mail.told_lost(partitions);
            return Commit::known(Err(of_others(shared.group())));
        }
        let offsets = shared.state().settle_all_of(partitions);
        self.commit_by_hand(&mut mail, offsets, Extent::Kept)
    }

    fn commit_by_hand(&self, mail: &mut Mail, offsets: Vec<Offset>, extent: Extent) -> Commit {
        if offsets.is_empty() {
            return Commit::known(Ok(()));
        }
        if *self.ended.borrow() {
            // Behind the end nobody answers.
            return Commit::closed();
        }
        let outcome = mail.put(offsets, extent, true);
        self.wake.notify_one();
        Commit(outcome)
    }

    /// Puts what the caller is done with behind the other commits.
    pub(super) fn commit_settled(&self, shared: &Shared, again: bool) {
        let mut mail = self.mail();
        let offsets = shared.state().settled();
        if !offsets.is_empty() {
            drop(mail.put(offsets, Extent::Kept, again));
        }
    }

    /// What is to be committed next.
    pub(super) fn next_commit(&self) -> Option<Due> {
        self.mail().commits.front().map(|request| request.due.clone())
    }

    /// Tells the outcome of that.
    pub(super) fn committed(&self, outcome: Result<()>) {
        let mut mail = self.mail();
        let Some(CommitRequest { due, done }) = mail.commits.pop_front() else { return };
        let is_made = outcome.is_ok();
        let unheard = done.send(outcome).err();
        if is_made || unheard.is_none() {
            mail.lost.retain(|partition, at| !due.offsets.iter().any(|of| of.is_as_far_as(partition, *at)));
        }
        if let Some(Err(error)) = unheard {
            info!("what was read is not committed, and nobody waits for it: {error}");
        }
    }

    /// Who waits for a commit hears that it is closed, and so does who comes later.
    pub(super) fn end(&self) {
        let mut mail = self.mail();
        self.ended.send_replace(true);
        mail.commits.clear();
        self.listener.wake();
    }
}

/// What is to be committed is not all this member's any more.
pub(super) fn of_others(group: &str) -> Error {
    Error::Refused {
        what: format!("committing to the group {group}"),
        code: ErrorCode::ILLEGAL_GENERATION,
        message: Some("a partition of it is no longer this member's".to_owned()),
    }
}

/// The outcome of a commit. It is made whether or not somebody waits for it.
#[derive(Debug)]
pub struct Commit(oneshot::Receiver<Result<()>>);

impl Commit {
    /// One whose outcome is known already.
    pub(super) fn known(outcome: Result<()>) -> Commit {
        let (done, known) = oneshot::channel();
        // The receiver is there.
        let _ = done.send(outcome);
        Commit(known)
    }

    /// One of a consumer that has nobody to tell.
    pub(crate) fn closed() -> Commit {
        Commit(oneshot::channel().1)
    }
}

impl Future for Commit {
    type Output = Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.0).poll(cx).map(|outcome| outcome.unwrap_or(Err(Error::Closed)))
    }
}
