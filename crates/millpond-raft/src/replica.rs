//! One replica of a group that has, or may have, others: its openraft object and what its owner hears of it.
//!
//! openraft's own timers are off (see [`raft_config`]): it neither ticks nor sends heartbeats, and its lease never runs
//! out. Who is alive is known between brokers (`peers/`), and `failover.rs` elects where a leader is missing.

mod election;
mod members;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use millpond_record::{BrokerId, GroupId, LogId, RaftIndex, ReplicaId, Term};
use millpond_runtime::{PlantedFault, planted};
use millpond_storage::{FlushMode, Frontiers, Hold, Log, Proposal, StorageError};
use openraft::async_runtime::WatchReceiver;
use openraft::errors::Fatal;
use openraft::{Config, LinearizerOption, Raft, RaftMetrics, ReadPolicy, ServerState, SnapshotPolicy};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::catch_up::{self, CatchUpError, Filling, Gathered};
use crate::error::{ProposeError, RaftError};
use crate::flights::{Carrier, Flights};
use crate::log_store::LogStore;
use crate::metadata::GroupMember;
use crate::partition::Acks;
use crate::receipt::{Flight, Receipt};
use crate::shared::Shared;
use crate::state_machine::{Applier, StateMachine};
use crate::types::{Payload, TypeConfig};

/// The openraft object of a replica.
pub(crate) type MillRaft = Raft<TypeConfig, StateMachine>;

/// Ten years: what never runs out.
const NEVER_MS: u64 = 10 * 365 * 24 * 60 * 60 * 1000;
/// How openraft is configured for every group.
pub(crate) fn raft_config(group: GroupId, flush: FlushMode) -> Config {
    Config {
        cluster_name: format!("group {group}"),
        // The time limit of what goes to a peer.
        heartbeat_interval: 1000,
        election_timeout_min: NEVER_MS,
        election_timeout_max: NEVER_MS + 1,
        enable_tick: false,
        enable_heartbeat: false,
        enable_elect: false,
        enable_pre_vote: Some(false),
        // By default a restarted leader resumes its term although entries that its followers committed may never have
        // been flushed by it, and overwrites them.
        enable_leader_restore: Some(false),
        // A relaxed follower that an operator has trusted after a power cut may lack what it has reported to a leader
        // that still leads: it gets that again. All others that lost something are replaced.
        allow_log_reversion: Some(flush == FlushMode::Relaxed),
        // The owner drives P; a snapshot is a manifest.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        // Proposals are bounded by the memory for produce, not by their number.
        api_channel_size: Some(1 << 20),
        ..Config::default()
    }
}

/// What a replica is in its group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Role {
    /// The term that it is in.
    pub(crate) term: Term,
    /// Whom it has voted for in that term.
    pub(crate) vote: ReplicaId,
    /// Who leads that term, as far as it knows.
    pub(crate) leader: Option<(ReplicaId, BrokerId)>,
    /// It leads, and all that was committed before is applied.
    pub(crate) serves: bool,
}

/// Hears of a replica's commits and of its role. Called from openraft's tasks: it must be short.
pub(crate) trait Owner: Send + Sync {
    fn committed(&self, frontiers: &Frontiers);
    fn role_changed(&self, role: Role);
    /// The replica has stopped for good.
    fn ended(&self, why: &str);
}

/// The last entry of a replica, and the last one that it knows to be committed.
pub(crate) type Uncertain = (Option<LogId>, Option<LogId>);

/// The voters of a group, in numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Voters {
    pub(crate) all: usize,
    /// Those that another one does not [stand in for](Replica::stands_in_for).
    pub(crate) deciding: usize,
    /// Those of them that are on live brokers.
    pub(crate) live: usize,
}

impl Voters {
    pub(crate) fn majority(self) -> usize {
        self.deciding / 2 + 1
    }
}

/// Whether one replica may decide for another one, too, that takes part in nothing any more: wherever that votes there
/// are just these two. Nothing was ever committed without the one there, nor can be: it has all, and a leader without
/// its vote cannot be elected.
pub fn decides_for(electorates: &[BTreeSet<ReplicaId>], one: ReplicaId, lost: ReplicaId) -> bool {
    let mut with_it = electorates.iter().filter(|voters| voters.contains(&lost)).peekable();
    let are_a_pair = |voters: &BTreeSet<ReplicaId>| voters.len() == 2 && voters.contains(&one);
    one != lost && with_it.peek().is_some() && with_it.all(are_a_pair)
}

/// What the parts of a replica share.
pub(crate) struct ReplicaState {
    pub(crate) group: GroupId,
    pub(crate) id: ReplicaId,
    pub(crate) log: Arc<Log>,
    pub(crate) flights: Flights,
    /// Segments that were gathered for the next snapshot.
    pub(crate) gathered: Arc<Gathered>,
    /// The replica is about to stop, or has.
    pub(crate) ending: CancellationToken,
    /// The last term whose first entry is applied.
    blank: watch::Sender<Term>,
    /// The term in which it serves; 0 when it does not.
    serves: AtomicU64,
    role: watch::Sender<Role>,
    /// The copy of the log cannot be used any more.
    damaged: AtomicBool,
    /// When and in which term it was a candidate last.
    stood: Mutex<Option<(Term, Instant)>>,
    /// Held from the look at the engine's figures until the role is what they say.
    looking: Mutex<()>,
    /// The last term in which it leads without serving any more.
    given_up: AtomicU64,
    /// How many replicas must have a batch before it is acknowledged, if that is more than a majority.
    min_insync: Arc<AtomicU16>,
    /// Up to where so many replicas have the log; kept once a batch has asked for more than a majority.
    insync: AtomicU64,
    follows_insync: AtomicBool,
    owner: Weak<dyn Owner>,
}

impl ReplicaState {
    pub(crate) fn new(
        group: GroupId,
        id: ReplicaId,
        log: Arc<Log>,
        min_insync: Arc<AtomicU16>,
        owner: Weak<impl Owner + 'static>,
    ) -> Arc<ReplicaState> {
        Arc::new(ReplicaState {
            group,
            id,
            log,
            flights: Flights::default(),
            gathered: Arc::default(),
            ending: CancellationToken::new(),
            blank: watch::Sender::new(Term(0)),
            serves: AtomicU64::new(0),
            role: watch::Sender::default(),
            damaged: AtomicBool::new(false),
            stood: Mutex::new(None),
            looking: Mutex::new(()),
            given_up: AtomicU64::new(0),
            min_insync,
            insync: AtomicU64::new(0),
            follows_insync: AtomicBool::new(false),
            owner,
        })
    }

    /// The copy of the log turned out not to be usable any more.
    pub(crate) fn spoil(&self) {
        self.damaged.store(true, Ordering::Release);
    }

    /// Whether the copy of the log cannot be used any more.
    pub(crate) fn is_damaged(&self) -> bool {
        self.damaged.load(Ordering::Acquire) || self.log.row().set_aside
    }

    /// The entries up to `index` are committed.
    pub(crate) fn committed(&self, index: RaftIndex, frontiers: &Frontiers) {
        // The high watermark moves before the producer hears of it, so that it reads what it wrote.
        if let Some(owner) = self.owner.upgrade() {
            owner.committed(frontiers);
        }
        self.answer(index);
    }

    /// Answers what waits up to `index`, as far as enough replicas have it.
    pub(crate) fn answer(&self, index: RaftIndex) {
        self.flights.committed(index, RaftIndex(self.insync.load(Ordering::Acquire)));
    }

    /// How many of these voters must have a batch.
    pub(crate) fn needed(&self, voters: Voters) -> usize {
        voters.majority().max(usize::from(self.min_insync.load(Ordering::Relaxed))).min(voters.all)
    }

    pub(crate) fn blank_applied(&self, term: Term) {
        self.blank.send_if_modified(|known| std::mem::replace(known, (*known).max(term)) < term);
    }

    fn set_role(&self, role: Role) {
        let before = *self.role.borrow();
        if before == role {
            return;
        }
        self.serves.store(if role.serves { role.term.0 } else { 0 }, Ordering::Release);
        let led = |role: &Role| role.leader.is_some_and(|(replica, _)| replica == self.id).then_some(role.term);
        if led(&before).is_some() && led(&before) != led(&role) {
            self.flights.fail(&ProposeError::NotLeader);
        }
        self.role.send_replace(role);
        if let Some(owner) = self.owner.upgrade() {
            owner.role_changed(role);
        }
    }
}

/// One replica. A clone is the same one.
#[derive(Clone)]
pub(crate) struct Replica {
    pub(crate) shared: Arc<Shared>,
    pub(crate) state: Arc<ReplicaState>,
    pub(crate) raft: MillRaft,
}

impl Replica {
    /// Starts the replica on its log. It is a follower, or a learner, until somebody elects it.
    pub(crate) async fn start(
        shared: &Arc<Shared>,
        state: Arc<ReplicaState>,
        applier: Option<Arc<dyn Applier>>,
    ) -> Result<Replica, RaftError> {
        let group = state.group;
        if state.log.vote().term >= Term::MAX {
            return Err(RaftError::TermsUsedUp { group, term: Term::MAX });
        }
        // openraft asks for the runtime of the task that it is called from.
        let starting = Self::start_in_task(Arc::clone(shared), state, applier);
        let started = shared.runtime.spawn(starting).await;
        started.unwrap_or_else(|error| Err(RaftError::Fatal { group, why: error.to_string().into() }))
    }

    async fn start_in_task(
        shared: Arc<Shared>,
        state: Arc<ReplicaState>,
        applier: Option<Arc<dyn Applier>>,
    ) -> Result<Replica, RaftError> {
        let group = state.group;
        let fatal = |why: String| RaftError::Fatal { group, why: why.into() };
        if applier.is_none() && planted(PlantedFault::DropsTail) {
            let (log, after) =
                (Arc::clone(&state.log), state.log.frontiers().committed.map_or(RaftIndex(0), |c| c.index));
            let dropped = shared.runtime.blocking(move || log.truncate_after(Some(after))).await;
            dropped.map_err(|error| fatal(error.to_string()))?;
        }
        let config =
            raft_config(group, state.log.options().flush).validate().map_err(|error| fatal(error.to_string()))?;
        let state_machine = StateMachine::new(shared.runtime.clone(), Arc::clone(&state), applier)
            .map_err(|what| RaftError::BadMembership { group, what })?;
        let log_store = LogStore::new(shared.runtime.clone(), shared.data_dir.clone(), Arc::clone(&state));
        let network = shared.peers.network(group, state.id);
        let raft = Raft::new(state.id.0, Arc::new(config), network, log_store, state_machine).await;
        let raft = raft.map_err(|error| fatal(error.to_string()))?;
        // Its figures are there when it answers for the first time.
        raft.with_raft_state(|_| ()).await.map_err(|error| fatal(error.to_string()))?;
        let replica = Replica { shared, state, raft };
        replica.update_role(|role| role);
        let followed = replica.clone();
        replica.shared.runtime.spawn(async move { followed.follow_role().await });
        Ok(replica)
    }

    pub(crate) fn group(&self) -> GroupId {
        self.state.group
    }

    pub(crate) fn id(&self) -> ReplicaId {
        self.state.id
    }

    pub(crate) fn role(&self) -> Role {
        *self.state.role.borrow()
    }

    pub(crate) fn roles(&self) -> watch::Receiver<Role> {
        self.state.role.subscribe()
    }

    /// Whether it leads and serves.
    pub(crate) fn serves(&self) -> bool {
        self.state.serves.load(Ordering::Acquire) != 0
    }

    /// Whether this replica leads, as it believes.
    pub(crate) fn leads(&self) -> bool {
        self.role().leader.is_some_and(|(leader, _)| leader == self.id())
    }

    /// The term in which it leads beyond doubt: a majority has taken a heartbeat that was sent after this was asked
    /// (ReadIndex, section 6.4 of Ongaro's thesis). `None` where none does so within `limit`.
    pub(crate) async fn surely_leads(&self, limit: Duration) -> Option<Term> {
        let confirmed = LinearizerOption::from(ReadPolicy::ReadIndex).with_wait_timeout(limit);
        let asked = self.shared.runtime.timeout(limit, self.raft.get_read_linearizer(confirmed)).await;
        let term = Term(asked.ok()?.ok()?.read_log_id().committed_leader_id().term);
        // Who reads now goes by the role, which may be of an earlier term still.
        let role = self.role();
        (role.serves && role.term == term).then_some(term)
    }

    /// The last entry and the last one that is known to be committed, if they differ.
    pub(crate) fn uncertain(&self) -> Option<Uncertain> {
        let Frontiers { last, committed, .. } = self.state.log.frontiers();
        (last.map(|last| last.index) > committed.map(|committed| committed.index)).then_some((last, committed))
    }

    /// Tells the other replicas how far the group is committed. For the leader.
    pub(crate) async fn tell_committed(&self) {
        if let Err(error) = self.raft.trigger().heartbeat().await {
            tracing::debug!(group = self.group().0, %error, "nobody is told what is committed");
        }
    }

    /// The role by openraft's figures of this moment.
    fn look(&self) -> Role {
        let metrics = self.raft.server_metrics();
        let now = metrics.borrow_watched();
        let term = Term(now.vote.leader_id.term);
        let leader = now.current_leader.and_then(|leader| {
            let member = now.membership_config.membership().get_node(&leader)?;
            Some((ReplicaId(leader), member.broker))
        });
        let given_up = self.state.given_up.load(Ordering::Acquire);
        let leads = now.state == ServerState::Leader && leader.is_some_and(|(leader, _)| leader == self.state.id);
        Role {
            term,
            vote: ReplicaId(now.vote.leader_id.voted_for),
            leader,
            serves: leads && *self.state.blank.borrow() >= term && given_up < term.0,
        }
    }

    /// Takes the role from openraft's figures of this moment. Two tasks do so, and what one saw before the other must
    /// not be what stays.
    fn update_role(&self, become_of: impl FnOnce(Role) -> Role) {
        let _looking = self.state.looking.lock().unwrap_or_else(PoisonError::into_inner);
        self.state.set_role(become_of(self.look()));
    }

    async fn follow_role(self) {
        let (mut metrics, mut blank) = (self.raft.server_metrics(), self.state.blank.subscribe());
        loop {
            tokio::select! {
                biased;
                changed = metrics.changed() => if changed.is_err() { break },
                changed = blank.changed() => if changed.is_err() { break },
            }
            drop((metrics.borrow_and_update(), blank.borrow_and_update()));
            self.update_role(|role| role);
        }
        self.state.ending.cancel();
        let why = match self.ended() {
            RaftError::Closed(_) => return self.state.flights.fail(&ProposeError::Closed),
            error => error.to_string(),
        };
        self.update_role(|role| Role { leader: None, serves: false, ..role });
        self.state.flights.fail(&ProposeError::Fatal(why.as_str().into()));
        if let Some(owner) = self.state.owner.upgrade() {
            owner.ended(&why);
        }
    }

    /// Keeps up to where enough replicas have the log, for as long as this replica runs: a look at each change of
    /// openraft's figures, for the sake of batches that a majority is not enough for.
    async fn follow_insync(self) {
        let mut metrics = self.raft.metrics();
        loop {
            let stood_for = self.stood_for();
            let insync = {
                let now = metrics.borrow_and_update();
                let membership = now.membership_config.membership();
                // Here, too, what counts is on disk.
                let flushed = self.raft.watch_log_progress().get().and_then(|flushed| flushed.last_log_id);
                let (own, last) = (now.id, flushed.map_or(0, |id| id.index()));
                let matched = |id: u64| match &now.replication {
                    Some(_) if id == own => last,
                    Some(replication) => replication.get(&id).and_then(|id| id.as_ref()).map_or(0, |id| id.index()),
                    None => 0,
                };
                let deciding = membership.voter_ids().filter(|id| !stood_for.contains(&ReplicaId(*id)));
                let mut all: Vec<u64> = deciding.map(matched).collect();
                all.sort_unstable_by(|a, b| b.cmp(a));
                let voters = Voters { all: membership.voter_ids().count(), deciding: all.len(), live: 0 };
                let needed = self.state.needed(voters);
                needed.checked_sub(1).and_then(|at| all.get(at)).copied().unwrap_or(0)
            };
            self.state.insync.store(insync, Ordering::Release);
            if let Some(committed) = self.state.log.frontiers().committed {
                self.state.answer(committed.index);
            }
            if metrics.changed().await.is_err() {
                return;
            }
        }
    }

    /// Another replica is known to lead a later term, or this one is to take no more proposals. Gives the term in which
    /// it takes none.
    pub(crate) fn step_back(&self) -> Term {
        let term = self.role().term;
        self.state.given_up.fetch_max(term.0, Ordering::AcqRel);
        self.update_role(|role| role);
        self.state.flights.fail(&ProposeError::NotLeader);
        term
    }

    /// Puts a batch on its way into the log. By the time this returns its place in the order is fixed, if this replica
    /// leads; if it does not the receipt says so.
    pub(crate) fn propose(&self, proposal: Proposal, acks: Acks, hold: Option<Hold>, flight: Arc<Flight>) -> Receipt {
        let strict = acks == Acks::All && usize::from(self.state.min_insync.load(Ordering::Relaxed)) > 1 && {
            let voters = self.voters();
            // One of a pair may come to be its majority while the batch is on its way.
            let least = if voters.all == 2 { 1 } else { voters.majority() };
            self.state.needed(voters) > least
        };
        if strict && !self.state.follows_insync.swap(true, Ordering::AcqRel) {
            let followed = self.clone();
            self.shared.runtime.spawn(async move { followed.follow_insync().await });
        }
        let carrier = Carrier::new(Arc::clone(&flight), acks, hold, strict);
        self.submit(Payload::Proposed(proposal, Some(carrier)));
        Receipt::waiting(flight)
    }

    /// Moves the log start with an entry of the log.
    pub(crate) fn propose_log_start(&self, offset: millpond_record::Offset, flight: Arc<Flight>) -> Receipt {
        let carrier = Carrier::new(Arc::clone(&flight), Acks::All, None, false);
        self.submit(Payload::LogStart(offset, Some(carrier)));
        Receipt::waiting(flight)
    }

    /// The channel takes it at once, or it is refused: nothing here may wait, or the order would be lost.
    fn submit(&self, payload: Payload) {
        use futures::FutureExt;
        let sending = tokio::task::unconstrained(self.raft.client_write_ff(payload, None));
        // A payload that is not taken is dropped, and its carrier answers.
        drop(sending.now_or_never());
    }

    /// The members by the latest membership that this replica knows, with what the leader knows of their logs.
    pub(crate) fn members(&self) -> Vec<GroupMember> {
        let stood_for = self.stood_for();
        let metrics = self.raft.metrics();
        let now = metrics.borrow_watched();
        let membership = now.membership_config.membership();
        let voters: BTreeSet<u64> = membership.voter_ids().collect();
        let matched = |id: &u64| match &now.replication {
            _ if *id == now.id => now.last_log_index.map(RaftIndex),
            _ if stood_for.contains(&ReplicaId(*id)) => None,
            Some(replication) => replication.get(id)?.as_ref().map(|id| RaftIndex(id.index())),
            None => None,
        };
        let leads = now.replication.is_some();
        membership
            .nodes()
            .map(|(id, member)| GroupMember {
                replica: ReplicaId(*id),
                broker: member.broker,
                voter: voters.contains(id),
                matched: if leads { matched(id) } else { None },
            })
            .collect()
    }

    /// The voters of each configuration: of two while the membership changes, and a majority of both decides.
    pub(crate) fn electorates(&self) -> Vec<BTreeSet<ReplicaId>> {
        let metrics = self.raft.server_metrics();
        let now = metrics.borrow_watched();
        let configs = now.membership_config.membership().get_joint_config();
        configs.iter().map(|voters| voters.iter().map(|id| ReplicaId(*id)).collect()).collect()
    }

    /// Whether this replica decides for another one, too, whose disk is lost ([`decides_for`]). Two never stand in for
    /// each other: of two lost disks one is known to be lost first, and whoever knows that of itself does nothing.
    pub(crate) fn stands_in_for(&self, other: ReplicaId) -> bool {
        let is_lost = |replica| self.shared.peers.is_lost(self.group(), replica);
        // The figures may be of a moment ago. A configuration that has come since is one that this replica was needed
        // for: the one before is a part of it until then.
        is_lost(other) && !is_lost(self.id()) && decides_for(&self.electorates(), self.id(), other)
    }

    /// Those that it decides for.
    pub(crate) fn stood_for(&self) -> BTreeSet<ReplicaId> {
        let lost = self.shared.peers.lost(self.group());
        lost.into_iter().filter(|other| self.stands_in_for(*other)).collect()
    }

    /// The voters by the latest membership that this replica knows.
    pub(crate) fn voters(&self) -> Voters {
        let stood_for = self.stood_for();
        let metrics = self.raft.server_metrics();
        let now = metrics.borrow_watched();
        let membership = now.membership_config.membership();
        let alive = self.shared.peers.alive();
        let alive = alive.borrow();
        let mut counted = Voters { all: 0, deciding: 0, live: 0 };
        for (id, member) in membership.voter_ids().filter_map(|id| Some((id, membership.get_node(&id)?))) {
            let decides = !stood_for.contains(&ReplicaId(id));
            counted.all += 1;
            counted.deciding += usize::from(decides);
            counted.live += usize::from(decides && alive.contains(&member.broker));
        }
        counted
    }

    /// The version of the assignment that the membership is at, and whether the change to it is complete.
    pub(crate) fn members_version(&self) -> (u64, bool) {
        let metrics = self.raft.server_metrics();
        let now = metrics.borrow_watched();
        let membership = now.membership_config.membership();
        let version = membership.nodes().map(|(_, member)| member.assignment_version).max().unwrap_or(0);
        let learners = membership.learner_ids().next().is_some();
        let committed = now.membership_config.log_id() == now.committed_membership_config.log_id();
        (version, committed && !learners && membership.get_joint_config().len() == 1)
    }

    /// Gathers the segments that this replica lacks of a snapshot which the leader on broker `from` offers. To be
    /// called before [`Raft::install_full_snapshot`] with the snapshot that names P. May take long; it may be called
    /// again after a break, and goes on where it was. What it gives is to be held until the snapshot is installed.
    pub(crate) async fn gather_snapshot(&self, from: BrokerId, p: LogId) -> Result<Filling, CatchUpError> {
        let log = &self.state.log;
        let filling = Filling::begin(Arc::clone(&self.state.gathered)).await;
        if log.frontiers().committed.is_some_and(|committed| committed.index >= p.index) {
            return Ok(filling);
        }
        let peers = &self.shared.peers;
        let ask = |body| peers.ask_for_piece(from, body, catch_up::ANSWER_TIME);
        let gathered = tokio::select! {
            biased;
            () = self.state.ending.cancelled() => return Err(StorageError::LogClosed(self.group()).into()),
            gathered = self.shared.receiver.gather(Arc::clone(log), p, ask) => gathered?,
        };
        self.state.gathered.put(gathered);
        Ok(filling)
    }

    /// Moves P up to the last end of a closed segment that every live voter has, so that what a new replica gets by
    /// Raft is little; of the voters only those that stay. For the leader. Tells where P is then, if it moved.
    pub(crate) async fn advance_p(&self, stays: impl Fn(ReplicaId) -> bool) -> Result<Option<LogId>, RaftError> {
        let alive = self.shared.peers.alive();
        let alive = Arc::clone(&alive.borrow());
        let members = self.members();
        let asked = |member: &&GroupMember| member.voter && alive.contains(&member.broker) && stays(member.replica);
        let mut voters = members.iter().filter(asked);
        let least = voters.try_fold(RaftIndex(u64::MAX), |least, voter| Some(least.min(voter.matched?)));
        let Some(up_to) = least else { return Ok(None) };
        let Shared { runtime, .. } = &*self.shared;
        let (log, raft, running) = (Arc::clone(&self.state.log), self.raft.clone(), runtime.clone());
        let peers = self.shared.peers.clone();
        // openraft asks for the runtime of the task that it is called from.
        let moved = runtime.spawn(async move { catch_up::advance(&running, &peers, &log, &raft, up_to).await }).await;
        self.advanced(moved)
    }

    /// P was moved by retention: openraft hears of it, and the files go when it has purged them.
    pub(crate) async fn p_has_moved(&self) -> Result<(), RaftError> {
        let Some(p) = self.state.log.purged() else { return Ok(()) };
        let (raft, running, group) = (self.raft.clone(), self.shared.runtime.clone(), self.group());
        let peers = self.shared.peers.clone();
        let telling = async move { catch_up::tell(&running, &peers, group, &raft, p).await };
        let told = self.shared.runtime.spawn(telling).await;
        self.advanced(told)
    }

    fn advanced<T>(
        &self,
        result: Result<Result<T, catch_up::AdvanceError>, millpond_runtime::JoinError>,
    ) -> Result<T, RaftError> {
        match result {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(catch_up::AdvanceError::Storage(error))) => Err(error.into()),
            Ok(Err(catch_up::AdvanceError::Stopped)) => Err(self.ended()),
            Err(error) => Err(RaftError::Fatal { group: self.group(), why: error.to_string().into() }),
        }
    }

    /// Waits until openraft's figures say so.
    pub(crate) async fn until(&self, condition: impl Fn(&RaftMetrics<TypeConfig>) -> bool) -> Result<(), RaftError> {
        let mut metrics = self.raft.metrics();
        loop {
            {
                let now = metrics.borrow_watched();
                if let Err(error) = &now.running_state {
                    return Err(self.fatal(error));
                }
                if condition(&now) {
                    return Ok(());
                }
            }
            if metrics.changed().await.is_err() {
                return Err(self.ended());
            }
        }
    }

    /// The last entry of its log.
    pub(crate) fn last(&self) -> Option<LogId> {
        self.state.log.frontiers().last
    }

    /// Stops it. What was proposed before is durable or refused when this returns.
    pub(crate) async fn shutdown(&self) {
        // A switch that waits for a full disk would hold it up.
        self.state.ending.cancel();
        let raft = self.raft.clone();
        let stopped = self.shared.runtime.spawn(async move { raft.shutdown().await }).await;
        if let Ok(Err(error)) = stopped {
            tracing::warn!(group = self.group().0, %error, "a group did not stop cleanly");
        }
    }

    fn ended(&self) -> RaftError {
        let metrics = self.raft.metrics();
        let now = metrics.borrow_watched();
        match &now.running_state {
            Ok(()) => RaftError::Closed(self.group()),
            Err(error) => self.fatal(error),
        }
    }

    pub(crate) fn fatal(&self, error: &Fatal<TypeConfig>) -> RaftError {
        match error {
            Fatal::Stopped => RaftError::Closed(self.group()),
            error => RaftError::Fatal { group: self.group(), why: error.to_string().into() },
        }
    }
}
