//! A member of a consumer group: joins, hears of rebalances, commits, leaves.
//!
//! | file | story |
//! | --- | --- |
//! | `joining` | the classic protocol: joining, leading, heartbeats |
//! | `classic` | the same as values: generations, what errors mean, the bytes that members exchange |
//! | `assignor` | who gets which partitions, as the leader of a classic group decides |
//! | `heartbeat` | the consumer protocol (KIP-848) |
//! | `commits` | how far the group has come |
//!
//! One task does one thing after the other, over a connection of its own: joining waits at the coordinator until all
//! members have come. The order keeps what was given to the caller from being lost or given to two:
//!
//! 1. A partition that goes is taken from the caller first; then what it was given is committed; then the member joins
//!    again, which is what tells the coordinator that another may have it.
//! 2. A partition that comes is read when its committed offset is known, and not before.
//! 3. What is committed by itself is what the caller is done with: a record that it was given last, and has not yet
//!    asked for another, is not.

mod assignor;
mod classic;
mod commits;
mod heartbeat;
mod joining;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use millpond_wire::leave_group::{LeaveGroupRequest, MemberIdentity};
use millpond_wire::{EncodeError, ErrorCode, Request};
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::Instant;
use tracing::{debug, info};

pub use assignor::Assignor;
use classic::{Consequence, Membership, consequence};
use heartbeat::{Kind, Told};

use super::driver::Shared;
use super::positions::Offset;
use crate::admin::TopicPartition;
use crate::clock;
use crate::connection::Connection;
use crate::error::{Error, Result};

/// What consumers call themselves in a classic group.
const PROTOCOL_TYPE: &str = "consumer";
/// The last version of OffsetCommit that names topics.
const COMMIT_BY_NAME: i16 = 9;
/// How soon the leader looks again for a subscribed topic that is missing.
const MISSING_TOPIC_PAUSE: Duration = Duration::from_secs(5);
/// How long the last commit before a partition goes, and leaving, may take: others wait for it, and the coordinator
/// notices by itself when the session ends.
const LEAVE_LIMIT: Duration = Duration::from_secs(5);
/// How much longer than the members have the coordinator may take to answer a join.
const JOIN_SPARE: Duration = Duration::from_secs(5);

/// What the caller asks of the group's task.
#[derive(Debug, Default)]
struct Mail {
    /// `None` while nothing was subscribed to.
    subscription: Option<BTreeSet<String>>,
    /// Of the subscription.
    changed: bool,
    /// The first one may be on its way; it stays here until its outcome is known.
    commits: VecDeque<CommitRequest>,
}

#[derive(Debug)]
struct CommitRequest {
    offsets: Vec<Offset>,
    done: oneshot::Sender<Result<()>>,
}

/// What a consumer and its group's task share.
#[derive(Debug)]
pub(crate) struct Desk {
    mail: Mutex<Mail>,
    /// Something is to be done.
    pub(crate) wake: Notify,
    /// It is to end.
    pub(crate) close: Notify,
    /// It has ended.
    pub(crate) ended: watch::Sender<bool>,
}

impl Desk {
    pub(crate) fn new() -> Desk {
        Desk { mail: Mutex::default(), wake: Notify::new(), close: Notify::new(), ended: watch::Sender::new(false) }
    }

    fn mail(&self) -> MutexGuard<'_, Mail> {
        // The mail is whole after every change.
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the task join the group for these topics; leave it, for none.
    pub(crate) fn subscribe(&self, topics: Option<BTreeSet<String>>) {
        let mut mail = self.mail();
        mail.changed |= mail.subscription != topics;
        mail.subscription = topics;
        drop(mail);
        self.wake.notify_one();
    }

    /// Whether the group says what is read.
    pub(crate) fn is_subscribed(&self) -> bool {
        self.mail().subscription.is_some()
    }

    /// Has the task commit these offsets.
    pub(crate) fn commit(&self, offsets: Vec<Offset>) -> Commit {
        let (done, outcome) = oneshot::channel();
        if offsets.is_empty() {
            // The receiver is there.
            let _ = done.send(Ok(()));
        } else {
            let mut mail = self.mail();
            // Behind the end nobody answers.
            if !*self.ended.borrow() {
                mail.commits.push_back(CommitRequest { offsets, done });
            }
            drop(mail);
            self.wake.notify_one();
        }
        Commit(outcome)
    }

    /// What is to be committed next.
    fn next_commit(&self) -> Option<Vec<Offset>> {
        self.mail().commits.front().map(|request| request.offsets.clone())
    }

    /// Tells the outcome of that.
    fn committed(&self, outcome: Result<()>) {
        if let Some(request) = self.mail().commits.pop_front() {
            // Nobody need wait for it.
            let _ = request.done.send(outcome);
        }
    }
}

/// The outcome of a commit. It is made whether or not somebody waits for it.
#[derive(Debug)]
pub struct Commit(oneshot::Receiver<Result<()>>);

impl Commit {
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

struct Member {
    shared: Arc<Shared>,
    desk: Arc<Desk>,
    group: String,
    connection: Option<Connection>,
    kind: Kind,
    membership: Membership,
    /// Of the consumer protocol.
    told: Told,
    topics: BTreeSet<String>,
    assigned: BTreeSet<TopicPartition>,
    /// It must join, for the first time or again.
    rejoin: bool,
    next_beat: Instant,
    next_commit: Option<Instant>,
    /// What the leader assigned by, and when it looks whether it is still so.
    watched: Option<(BTreeMap<String, i32>, Instant)>,
    failures: u32,
    not_before: Option<Instant>,
}

/// Leaves nobody waiting, however the task has ended.
struct Ending(Arc<Desk>);

impl Drop for Ending {
    fn drop(&mut self) {
        // Who waits for a commit hears that it is closed, and so does who comes later.
        let mut mail = self.0.mail();
        self.0.ended.send_replace(true);
        mail.commits.clear();
    }
}

/// The group's task: until the consumer is closed.
pub(crate) fn take_part(shared: Arc<Shared>, desk: Arc<Desk>, group: String) -> impl Future<Output = ()> + Send {
    let ending = Ending(Arc::clone(&desk));
    async move {
        let _ending = ending;
        let now = clock::now();
        let next_commit = shared.config.auto_commit.map(|every| now + every);
        let mut member = Member {
            shared: Arc::clone(&shared),
            desk: Arc::clone(&desk),
            group,
            connection: None,
            kind: Kind::Undecided,
            membership: Membership::default(),
            told: Told::default(),
            topics: BTreeSet::new(),
            assigned: BTreeSet::new(),
            rejoin: false,
            next_beat: now,
            next_commit,
            watched: None,
            failures: 0,
            not_before: None,
        };
        tokio::select! {
            biased;
            () = desk.close.notified() => {}
            () = member.work() => {}
        }
        // What was under way on it may be in front of what follows.
        member.connection = None;
        let deadline = clock::now() + LEAVE_LIMIT;
        if clock::by(deadline, member.close()).await.is_none() {
            debug!("the group {} was not left in time", member.group);
        }
    }
}

impl Member {
    async fn work(&mut self) {
        while !self.shared.closing.load(Ordering::Acquire) {
            let now = clock::now();
            let paused = self.not_before.filter(|at| *at > now);
            let wake_at = match paused {
                Some(at) => Some(at),
                None => match self.step(now).await {
                    Ok(wake_at) => {
                        (self.failures, self.not_before) = (0, None);
                        wake_at
                    }
                    Err(error) => {
                        debug!("the group {}: {error}", self.group);
                        if matches!(error, Error::Unsupported { .. } | Error::Request { .. }) {
                            self.shut_out(error);
                        }
                        self.failures = self.failures.saturating_add(1);
                        let cluster = &self.shared.cluster;
                        let pause = cluster.config().pause_after(self.failures, cluster.transport().random_u64());
                        self.not_before = Some(clock::now() + pause);
                        continue;
                    }
                },
            };
            tokio::select! {
                biased;
                () = self.desk.wake.notified() => {}
                () = clock::until(wake_at) => {}
            }
        }
    }

    /// Does what is to be done; says when to look again.
    async fn step(&mut self, now: Instant) -> Result<Option<Instant>> {
        while let Some(offsets) = self.desk.next_commit() {
            let outcome = self.commit_until_deadline(&offsets).await;
            self.desk.committed(outcome);
        }
        self.heed_subscription().await?;
        if self.rejoin && !self.topics.is_empty() {
            self.take_part().await?;
        }
        self.look_up().await?;
        if self.next_commit.is_some_and(|at| at <= now) {
            self.next_commit = self.shared.config.auto_commit.map(|every| now + every);
            let offsets = self.shared.state().settled();
            self.commit(&offsets).await?;
        }
        if self.is_member() {
            if self.next_beat <= now {
                match self.kind {
                    Kind::Consumer => self.tell().await?,
                    Kind::Classic | Kind::Undecided => self.beat().await?,
                }
            }
            self.watch_topics(now).await?;
        }
        if self.rejoin && !self.topics.is_empty() {
            return Ok(Some(now));
        }
        if !self.is_member() {
            return Ok(self.next_commit);
        }
        let watch_at = self.watched.as_ref().map(|(_, at)| *at);
        Ok([Some(self.next_beat), self.next_commit, watch_at].into_iter().flatten().min())
    }

    /// Becomes a member, or does what a rebalance asks of one.
    async fn take_part(&mut self) -> Result<()> {
        if self.kind == Kind::Undecided {
            self.decide().await?;
        }
        match self.kind {
            Kind::Consumer => self.tell().await,
            Kind::Classic | Kind::Undecided => self.join().await,
        }
    }

    fn is_member(&self) -> bool {
        self.membership.generation >= 0
    }

    async fn heed_subscription(&mut self) -> Result<()> {
        let topics = {
            let mut mail = self.desk.mail();
            if !std::mem::take(&mut mail.changed) {
                return Ok(());
            }
            mail.subscription.clone()
        };
        self.topics = topics.unwrap_or_default();
        self.rejoin = !self.topics.is_empty();
        self.say_all_again();
        if self.topics.is_empty() {
            self.let_go(&BTreeSet::new()).await;
            self.leave().await;
        }
        Ok(())
    }

    /// Reads nothing but `kept` from now on, and commits what the caller was given of the others.
    async fn let_go(&mut self, kept: &BTreeSet<TopicPartition>) {
        let kept: BTreeSet<TopicPartition> = self.assigned.intersection(kept).cloned().collect();
        if kept.len() == self.assigned.len() {
            return;
        }
        let offsets = self.shared.state().revoke(&kept);
        self.assigned = kept;
        if self.shared.config.auto_commit.is_none() {
            return;
        }
        // Whoever reads them next is given again what was not committed.
        match clock::by(clock::now() + LEAVE_LIMIT, self.commit_until_deadline(&offsets)).await {
            Some(Ok(())) => {}
            Some(Err(error)) => info!("what was read is not committed before its partitions go: {error}"),
            None => info!("what was read is not committed in time before its partitions go"),
        }
    }

    /// Reads these from now on; [`let_go`](Member::let_go) has seen to the others.
    fn take_over(&mut self, assigned: BTreeSet<TopicPartition>) -> Result<()> {
        self.shared.state().assign(&assigned)?;
        self.shared.wake.notify_one();
        self.assigned = assigned;
        Ok(())
    }

    async fn leave(&mut self) {
        let was_member = self.is_member();
        let member_id = std::mem::take(&mut self.membership).member_id;
        if self.kind == Kind::Consumer {
            if was_member && let Err(error) = self.say_goodbye(&member_id).await {
                debug!("the group {} is not left: {error}", self.group);
            }
            return;
        }
        // A static member comes back as who it was; the coordinator keeps its place until its session ends (KIP-345).
        if member_id.is_empty() || self.shared.config.group_instance_id.is_some() {
            return;
        }
        let request = LeaveGroupRequest {
            group_id: self.group.as_str().into(),
            member_id: member_id.as_str().into(),
            members: vec![MemberIdentity { member_id: member_id.as_str().into(), ..Default::default() }],
        };
        // Up to version 2 it is said in one field, later in the other, and each is left out of the others' versions.
        let build = |version| match version {
            3.. => LeaveGroupRequest { member_id: Default::default(), ..request.clone() },
            _ => LeaveGroupRequest { members: Vec::new(), ..request.clone() },
        };
        if let Err(error) = self.call_as(0, i16::MAX, build, LEAVE_LIMIT).await {
            debug!("the group {} is not left: {error}", self.group);
        }
    }

    /// Commits what is left, and leaves.
    async fn close(&mut self) {
        while let Some(offsets) = self.desk.next_commit() {
            let outcome = self.commit(&offsets).await;
            self.desk.committed(outcome);
        }
        if self.shared.config.auto_commit.is_some() {
            let offsets = self.shared.state().settled();
            if let Err(error) = self.commit(&offsets).await {
                info!("what was read is not committed before the end: {error}");
            }
        }
        self.leave().await;
    }

    /// Draws the consequence of an error code.
    fn judge(&mut self, code: i16, what: &str) -> Result<()> {
        let checked = Error::check(code, None, || self.what(what));
        let Err(error) = &checked else { return checked };
        match consequence(ErrorCode(code)) {
            Consequence::LookAgain => self.connection = None,
            // Who only keeps its offsets there has nothing to lose.
            _ if self.topics.is_empty() && !self.is_member() => {}
            Consequence::Rejoin => self.rejoin = true,
            Consequence::Lost { keep_id } => {
                self.membership.generation = -1;
                if !keep_id {
                    self.membership.member_id.clear();
                }
                // Others may have read on: what was given here and not committed is theirs to read again.
                self.shared.state().revoke(&BTreeSet::new());
                self.assigned.clear();
                self.rejoin = !self.topics.is_empty();
            }
            Consequence::Fatal => self.shut_out(error.clone()),
        }
        checked
    }

    /// It cannot be a member: the caller hears why, and nothing more is tried until it subscribes again.
    fn shut_out(&mut self, error: Error) {
        self.membership = Membership::default();
        {
            let mut state = self.shared.state();
            state.tell(error);
            state.revoke(&BTreeSet::new());
        }
        self.shared.reader.wake();
        self.assigned.clear();
        self.topics.clear();
        self.rejoin = false;
    }

    fn what(&self, what: &str) -> String {
        format!("{what} the group {}", self.group)
    }

    fn misunderstood(&mut self, error: &millpond_wire::DecodeError) -> Error {
        Error::Refused {
            what: self.what("understanding the assignment of"),
            code: ErrorCode::INCONSISTENT_GROUP_PROTOCOL,
            message: Some(error.to_string()),
        }
    }

    async fn call<R: Request + Clone>(
        &mut self,
        least: i16,
        most: i16,
        request: &R,
        limit: Duration,
    ) -> Result<R::Response> {
        self.call_as(least, most, |_| request.clone(), limit).await
    }

    /// A request to the coordinator. A failure has the coordinator looked for again.
    async fn call_as<R: Request>(
        &mut self,
        least: i16,
        most: i16,
        build: impl Fn(i16) -> R,
        limit: Duration,
    ) -> Result<R::Response> {
        let connection = self.coordinator().await?;
        let version = match connection.versions().newest::<R>(least, most) {
            Some(version) => version,
            None => connection.version::<R>(least)?,
        };
        let answer = connection.call(version, &build(version), limit).await;
        if answer.is_err() {
            self.connection = None;
        }
        answer
    }

    /// The connection to the coordinator, made if there is none.
    async fn coordinator(&mut self) -> Result<Connection> {
        match self.connection.as_ref().filter(|connection| !connection.is_closed()) {
            Some(connection) => Ok(connection.clone()),
            None => {
                let made = self.shared.cluster.own_connection_to_coordinator(&self.group).await?;
                self.connection = Some(made.clone());
                Ok(made)
            }
        }
    }
}

fn ms(time: Duration) -> i32 {
    i32::try_from(time.as_millis()).unwrap_or(i32::MAX)
}

fn unsayable(error: EncodeError) -> Error {
    Error::Request { reason: error.to_string() }
}
