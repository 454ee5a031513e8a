//! A member of a consumer group: joins, hears of rebalances, commits, leaves.
//!
//! | file | story |
//! | --- | --- |
//! | `joining` | the classic protocol: joining, leading, heartbeats |
//! | `classic` | the same as values: generations, what errors mean, the bytes that members exchange |
//! | `assignor` | who gets which partitions, as the leader of a classic group decides |
//! | `heartbeat` | the consumer protocol (KIP-848) |
//! | `pattern` | topics by a regular expression |
//! | `commits` | how far the group has come |
//! | `presence` | whether the caller still comes for records |
//! | `rebalances` | what the caller hears of partitions that come and go |
//! | `desk` | what the caller asks of the task, and which of the two says what is read |
//!
//! One task does one thing after the other, over a connection of its own: joining waits at the coordinator until all
//! members have come. The order keeps what was given to the caller from being lost or given to two:
//!
//! 1. A partition that goes is taken from the caller first, which may have a last word; then what it was given is
//!    committed; then the member joins again, which is what tells the coordinator that another may have it.
//! 2. A partition that comes is read when its committed offset is known, and not before.
//! 3. What is committed by itself is what the caller is done with: a record that it was given last, and has not yet
//!    asked for another, is not.

mod assignor;
mod classic;
mod commits;
mod desk;
mod heartbeat;
mod joining;
mod pattern;
mod presence;
mod rebalances;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use millpond_wire::leave_group::{LeaveGroupRequest, MemberIdentity};
use millpond_wire::{EncodeError, ErrorCode, Request};
use tokio::time::Instant;
use tracing::{debug, info};

pub use assignor::Assignor;
use classic::{Consequence, Membership, consequence};
use commits::Retry;
pub use desk::Commit;
pub(crate) use desk::{Desk, Subscription};
use heartbeat::{Kind, Told};
pub(crate) use pattern::Pattern;
use presence::Presence;
pub use rebalances::{Rebalance, RebalanceKind, Rebalances};

use super::driver::Shared;
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
/// How much of that the commits at the end may take, so that there is time to say that it goes.
const LAST_COMMITS_LIMIT: Duration = Duration::from_secs(4);
/// How much longer than the members have the coordinator may take to answer a join.
const JOIN_SPARE: Duration = Duration::from_secs(5);

struct Member {
    shared: Arc<Shared>,
    desk: Arc<Desk>,
    group: String,
    connection: Option<Connection>,
    kind: Kind,
    membership: Membership,
    /// Of the consumer protocol.
    told: Told,
    /// What it names to the group: what is subscribed to, or what matches the pattern.
    topics: BTreeSet<String>,
    /// What is subscribed to instead of topics.
    pattern: Option<Pattern>,
    /// When the pattern is matched here again; `None` if the coordinator does it, or nobody has yet.
    match_at: Option<Instant>,
    assigned: BTreeSet<TopicPartition>,
    /// It must join, for the first time or again.
    rejoin: bool,
    next_beat: Instant,
    /// How long after the last one that is.
    beats_every: Duration,
    next_commit: Option<Instant>,
    /// Of the first of the commits that wait.
    retry: Option<Retry>,
    /// What the leader assigned by, and when it looks whether it is still so.
    watched: Option<(BTreeMap<String, i32>, Instant)>,
    presence: Presence,
    failures: u32,
    not_before: Option<Instant>,
    /// The caller was told that the coordinator is not trusted, and no other was reached since.
    distrusts: bool,
}

/// Leaves nobody waiting, however the task has ended.
struct Ending(Arc<Desk>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// The group's task: until the consumer is closed.
pub(crate) fn take_part(shared: Arc<Shared>, desk: Arc<Desk>, group: String) -> impl Future<Output = ()> + Send {
    let ending = Ending(Arc::clone(&desk));
    async move {
        let _ending = ending;
        let now = clock::now();
        let next_commit = shared.config.auto_commit.map(|every| now + every);
        let beats_every = shared.config.heartbeat_interval;
        let mut member = Member {
            shared: Arc::clone(&shared),
            desk: Arc::clone(&desk),
            group,
            connection: None,
            kind: Kind::Undecided,
            membership: Membership::default(),
            told: Told::default(),
            topics: BTreeSet::new(),
            pattern: None,
            match_at: None,
            assigned: BTreeSet::new(),
            rejoin: false,
            next_beat: now,
            beats_every,
            next_commit,
            retry: None,
            watched: None,
            presence: Presence::new(now),
            failures: 0,
            not_before: None,
            distrusts: false,
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
                        self.heed_failure(error);
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

    /// Does what is to be done; says when to look again. The heartbeat comes first, and nothing but a rebalance takes
    /// longer than a request: what passes is tried again by a later step.
    async fn step(&mut self, now: Instant) -> Result<Option<Instant>> {
        if self.is_member() && self.next_beat <= now {
            match self.kind {
                Kind::Consumer => self.tell().await?,
                Kind::Classic | Kind::Undecided => self.beat().await?,
            }
        }
        let beat_at = Some(self.next_beat).filter(|_| self.is_member());
        let mut commit_at = self.commit_waiting(beat_at).await;
        self.heed_subscription().await;
        self.heed_presence().await;
        if self.is_to_join() {
            self.take_part().await?;
        }
        let looked_up = self.look_up().await;
        if self.next_commit.is_some_and(|at| at <= now) {
            self.next_commit = self.shared.config.auto_commit.map(|every| now + every);
            // What waits is older, and goes first.
            if self.desk.next_commit().is_none() {
                self.desk.commit_settled(&self.shared, false);
                commit_at = self.commit_waiting(beat_at).await;
            }
        }
        if self.is_member() {
            self.watch_topics(now).await?;
        }
        self.watch_pattern(now).await?;
        looked_up?;
        if self.is_to_join() {
            return Ok(Some(now));
        }
        let of_member = [Some(self.next_beat), self.watched.as_ref().map(|(_, at)| *at)];
        let of_member = of_member.into_iter().filter(|_| self.is_member());
        Ok(of_member.chain([self.match_at(), self.next_commit, commit_at]).flatten().min())
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

    fn is_to_join(&self) -> bool {
        self.rejoin && self.is_subscribed() && !self.is_missed()
    }

    fn is_subscribed(&self) -> bool {
        !self.topics.is_empty() || self.pattern.is_some()
    }

    fn is_member(&self) -> bool {
        self.membership.generation >= 0
    }

    async fn heed_subscription(&mut self) {
        let Some(change) = self.desk.changed() else { return };
        if change.left || change.subscription.is_none() {
            self.topics.clear();
            self.let_go(&BTreeSet::new()).await;
            self.leave().await;
        }
        self.match_at = None;
        (self.topics, self.pattern) = match change.subscription {
            Some(Subscription::Topics(topics)) => (topics, None),
            Some(Subscription::Pattern(pattern)) => (BTreeSet::new(), Some(pattern)),
            None => (BTreeSet::new(), None),
        };
        self.rejoin = self.is_subscribed();
        self.say_all_again();
    }

    /// Reads nothing but `kept` from now on, and makes all commits that wait: what the caller was given of the others
    /// comes behind what it has committed itself. A member they are still, until that is done.
    async fn let_go(&mut self, kept: &BTreeSet<TopicPartition>) {
        if self.assigned.is_subset(kept) {
            return;
        }
        self.part(kept).await;
        if self.assigned.is_subset(kept) {
            // They were lost meanwhile.
            return;
        }
        self.desk.take_back(&self.shared, kept);
        // Whoever reads them next is given again what was not committed.
        if clock::by(clock::now() + LEAVE_LIMIT, self.commit_all()).await.is_none() {
            info!("what was read is not committed in time before its partitions go");
        }
        self.desk.strip(kept);
        self.assigned.retain(|partition| kept.contains(partition));
    }

    /// Reads these from now on; [`let_go`](Member::let_go) has seen to the others.
    fn take_over(&mut self, assigned: BTreeSet<TopicPartition>) -> Result<()> {
        self.desk.take_over(&self.shared, &assigned)?;
        self.shared.wake.notify_one();
        self.assigned = assigned;
        Ok(())
    }

    async fn leave(&mut self) {
        let member_id = self.membership.member_id.clone();
        // Who has not heard yet that it is a member may be one.
        let left = match self.kind {
            _ if member_id.is_empty() => Ok(()),
            Kind::Consumer => self.say_goodbye(&member_id).await,
            Kind::Classic | Kind::Undecided => self.leave_classic(&member_id).await,
        };
        if let Err(error) = left {
            debug!("the group {} is not left: {error}", self.group);
        }
        // Not before: what ends the task meanwhile has it leave again.
        self.membership = Membership::default();
        self.desk.expire();
    }

    async fn leave_classic(&mut self, member_id: &str) -> Result<()> {
        // A static member comes back as who it was; the coordinator keeps its place until its session ends (KIP-345).
        if self.shared.config.group_instance_id.is_some() {
            return Ok(());
        }
        let request = LeaveGroupRequest {
            group_id: self.group.as_str().into(),
            member_id: member_id.into(),
            members: vec![MemberIdentity { member_id: member_id.into(), ..Default::default() }],
        };
        // Up to version 2 it is said in one field, later in the other, and each is left out of the others' versions.
        let build = |version| match version {
            3.. => LeaveGroupRequest { member_id: Default::default(), ..request.clone() },
            _ => LeaveGroupRequest { members: Vec::new(), ..request.clone() },
        };
        self.call_as(0, i16::MAX, build, LEAVE_LIMIT).await.map(drop)
    }

    /// Commits what is left, and leaves.
    async fn close(&mut self) {
        if self.shared.config.auto_commit.is_some() {
            self.desk.commit_settled(&self.shared, true);
        }
        self.retry = None;
        if clock::by(clock::now() + LAST_COMMITS_LIMIT, self.commit_all()).await.is_none() {
            info!("what was read is not committed in time before the end");
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
            _ if !self.is_subscribed() && !self.is_member() => {}
            Consequence::Rejoin => self.rejoin = true,
            Consequence::Lost { keep_id } => {
                self.membership.generation = -1;
                if !keep_id {
                    self.membership.member_id.clear();
                }
                // Others may have read on: what was given here and not committed is theirs to read again.
                self.desk.lose_all(&self.shared);
                self.assigned.clear();
                self.rejoin = self.is_subscribed();
            }
            Consequence::Fatal => self.shut_out(error.clone()),
        }
        checked
    }

    /// A step has failed: the caller hears of what does not pass by itself. A broker that is not trusted keeps nobody
    /// out of the group for good: another may coordinate it next, or this one get another certificate.
    fn heed_failure(&mut self, error: Error) {
        match error {
            Error::Unsupported { .. } | Error::Request { .. } => self.shut_out(error),
            error if error.is_of_trust() && !std::mem::replace(&mut self.distrusts, true) => {
                self.shared.state().tell(error);
                self.shared.reader.wake();
            }
            _ => {}
        }
    }

    /// It cannot be a member: the caller hears why, and nothing more is tried until it subscribes again.
    fn shut_out(&mut self, error: Error) {
        self.membership = Membership::default();
        self.desk.shut_out(&self.shared, error);
        self.shared.reader.wake();
        self.assigned.clear();
        self.topics.clear();
        (self.pattern, self.match_at) = (None, None);
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
                self.distrusts = false;
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
