//! What the groups of a broker share.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use bytes::Bytes;
use millpond_record::{BrokerId, GroupId, RaftIndex, ReplicaId, Term};
use millpond_runtime::Runtime;
use millpond_storage::DataDir;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::catch_up::{Receiver, Shipments};
use crate::failover::{Failover, GRACE};
use crate::gossip::{self, Told};
use crate::leaders::{Leaders, News, Standing};
use crate::peers::{Candidate, Peers};
use crate::replica::{Replica, Role, Uncertain};

/// How often everybody is told everything again.
const REPEAT: Duration = Duration::from_secs(5);
/// How soon leaders are asked again how far they are committed, while replicas here do not know. Each time takes twice
/// as long as the one before, up to [`REPEAT`]: one that is no member any more is never told.
const ASK_AGAIN: Duration = Duration::from_millis(50);
/// How long votes for the replica that leadership is handed to are granted although the old leader lives.
const TRANSFER_TIME: Duration = Duration::from_secs(1);

pub(crate) struct Shared {
    pub(crate) runtime: Runtime,
    pub(crate) data_dir: DataDir,
    pub(crate) broker: BrokerId,
    pub(crate) peers: Peers,
    pub(crate) leaders: Leaders,
    pub(crate) failover: Failover,
    pub(crate) receiver: Receiver,
    pub(crate) shipments: Shipments,
    pub(crate) stopped: CancellationToken,
    /// Nobody here is a candidate before.
    pub(crate) elections_from: Instant,
    /// How far the cluster's metadata is known here, and how far what it asks for is done.
    known: AtomicU64,
    metadata: AtomicU64,
    running: RwLock<BTreeMap<GroupId, Replica>>,
    transfers: Mutex<BTreeMap<GroupId, (ReplicaId, Instant)>>,
    /// Held while something is learnt and told.
    saying: Mutex<()>,
    /// Replicas were started: they may have something to ask.
    opened: Notify,
}

impl Shared {
    pub(crate) fn new(runtime: Runtime, data_dir: DataDir, peers: Peers) -> Shared {
        let broker = data_dir.meta().node_id;
        Shared {
            elections_from: runtime.now() + GRACE,
            receiver: Receiver::new(runtime.clone()),
            shipments: Shipments::new(runtime.clone(), data_dir.clone()),
            runtime,
            data_dir,
            broker,
            peers,
            leaders: Leaders::default(),
            failover: Failover::default(),
            stopped: CancellationToken::new(),
            known: AtomicU64::new(0),
            metadata: AtomicU64::new(0),
            running: RwLock::default(),
            transfers: Mutex::default(),
            saying: Mutex::default(),
            opened: Notify::new(),
        }
    }

    /// The replicas that have a Raft object.
    pub(crate) fn running(&self) -> RwLockReadGuard<'_, BTreeMap<GroupId, Replica>> {
        self.running.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn replica(&self, group: GroupId) -> Option<Replica> {
        self.running().get(&group).cloned()
    }

    pub(crate) fn add(&self, replica: &Replica) {
        self.running.write().unwrap_or_else(PoisonError::into_inner).insert(replica.group(), replica.clone());
        self.failover.look_at([replica.group()]);
        self.opened.notify_one();
    }

    pub(crate) fn remove(&self, group: GroupId) -> Option<Replica> {
        self.running.write().unwrap_or_else(PoisonError::into_inner).remove(&group)
    }

    /// Lets go of all replicas, which refer to this.
    pub(crate) fn remove_all(&self) -> Vec<Replica> {
        let all = std::mem::take(&mut *self.running.write().unwrap_or_else(PoisonError::into_inner));
        all.into_values().collect()
    }

    pub(crate) fn learn_metadata(&self, index: RaftIndex) {
        self.known.fetch_max(index.0, Ordering::AcqRel);
    }

    pub(crate) fn metadata_known(&self) -> RaftIndex {
        RaftIndex(self.known.load(Ordering::Acquire))
    }

    pub(crate) fn metadata_applied(&self, index: RaftIndex) {
        self.learn_metadata(index);
        self.metadata.fetch_max(index.0, Ordering::AcqRel);
    }

    pub(crate) fn metadata_version(&self) -> RaftIndex {
        RaftIndex(self.metadata.load(Ordering::Acquire))
    }

    /// Says what is new of groups led here, to this broker and to all others.
    pub(crate) fn say(&self, news: &[News]) {
        // What is said arrives in the order in which it was learnt: a list of all that is older would take it back.
        let _in_order = self.saying.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = self.leaders.learn(news.iter().copied());
        if changed.is_empty() {
            return;
        }
        self.failover.look_at(changed);
        let message = gossip::encode(&Told { news: news.to_vec(), ..Told::default() });
        for broker in self.others() {
            self.peers.tell(broker, message.clone());
        }
    }

    fn others(&self) -> Vec<BrokerId> {
        self.peers.alive().borrow().iter().copied().filter(|broker| *broker != self.broker).collect()
    }

    /// Another broker says something.
    pub(crate) fn told(&self, from: BrokerId, message: Bytes) {
        let Some(Told { all, news, asks }) = gossip::decode(from, message) else {
            tracing::warn!(broker = from.0, "a message of another broker cannot be read");
            return;
        };
        let named: BTreeSet<GroupId> = news.iter().map(|news| news.group).collect();
        let mut changed = self.leaders.learn(news.iter().copied());
        if all {
            changed.extend(self.leaders.leads_only(from, &named));
            // What replicas here believe of it counts as said, too.
            let believed: Vec<News> = {
                let running = self.running();
                let roles = running.values().map(|replica| (replica.group(), replica.role()));
                let of_it = roles.filter(|(group, role)| {
                    role.leader.is_some_and(|(_, broker)| broker == from) && !named.contains(group)
                });
                of_it
                    .map(|(group, role)| News { group, term: role.term, broker: from, standing: Standing::Unnamed })
                    .collect()
            };
            changed.extend(self.leaders.learn(believed));
        }
        self.tell_committed(&asks);
        for news in &news {
            self.depose(news);
        }
        self.failover.look_at(changed);
    }

    /// A leader of an earlier term here takes nothing more.
    fn depose(&self, news: &News) {
        if let Some(replica) = self.replica(news.group)
            && replica.serves()
            && replica.role().term < news.term
        {
            let term = replica.step_back();
            if term >= news.term {
                // It was elected again between the look and the step.
                self.gave_up(news.group, term);
            }
        }
    }

    /// The leaders here of these groups say how far they are committed, to all replicas.
    fn tell_committed(&self, groups: &BTreeSet<GroupId>) {
        let asked: Vec<Replica> = {
            let running = self.running();
            groups.iter().filter_map(|group| running.get(group)).filter(|replica| replica.leads()).cloned().collect()
        };
        if !asked.is_empty() {
            self.runtime.spawn(async move {
                for replica in asked {
                    replica.tell_committed().await;
                }
            });
        }
    }

    /// The groups with replicas here that have entries of which they do not know whether they are committed, by the
    /// broker of the leader, if that was so at the last look, too: under load there is always some entry on its way. A
    /// replica that was restarted knows of none: without heartbeats it is told with the next entry, which may never
    /// come.
    fn uncertain(&self, seen: &mut BTreeMap<GroupId, Uncertain>) -> BTreeMap<BrokerId, BTreeSet<GroupId>> {
        let running = self.running();
        let mut asks: BTreeMap<BrokerId, BTreeSet<GroupId>> = BTreeMap::new();
        let before = std::mem::take(seen);
        for (group, replica) in running.iter() {
            let Some(uncertain) = replica.uncertain() else { continue };
            let leader = replica.role().leader.map(|(_, broker)| broker);
            let leader = leader.or_else(|| self.leaders.last(*group).map(|said| said.broker));
            if let Some(leader) = leader.filter(|leader| *leader != self.broker) {
                seen.insert(*group, uncertain);
                if before.get(group) == Some(&uncertain) {
                    asks.entry(leader).or_default().insert(*group);
                }
            }
        }
        asks
    }

    /// Tells brokers that have come all that is led here, and everybody now and then, for as long as the groups run: a
    /// message may have been lost with a connection that was there again before anybody looked. Asks leaders how far
    /// they are committed where replicas here do not know.
    pub(crate) async fn greet(self: Arc<Self>) {
        let mut alive = self.peers.alive();
        let mut known = BTreeSet::from([self.broker]);
        let (mut repeat, mut ask, mut pause) = (self.runtime.now() + REPEAT, self.runtime.now(), ASK_AGAIN);
        let mut seen = BTreeMap::new();
        loop {
            let brokers = Arc::clone(&alive.borrow_and_update());
            let now = self.runtime.now();
            if now >= repeat {
                (known, repeat) = (BTreeSet::from([self.broker]), now + REPEAT);
                let here: BTreeSet<GroupId> = self.running().keys().copied().collect();
                self.leaders.forget_ended(&here);
            }
            let come: Vec<BrokerId> = brokers.difference(&known).copied().collect();
            if !come.is_empty() {
                let _in_order = self.saying.lock().unwrap_or_else(PoisonError::into_inner);
                let led = Told { all: true, news: self.leaders.led_by(self.broker), asks: BTreeSet::new() };
                let message = gossip::encode(&led);
                for broker in come {
                    self.peers.tell(broker, message.clone());
                }
            }
            known.clone_from(&brokers);
            if known.len() > 1 && now >= ask {
                for (leader, asks) in self.uncertain(&mut seen) {
                    self.peers.tell(leader, gossip::encode(&Told { asks, ..Told::default() }));
                }
                ask = now + if seen.is_empty() { REPEAT } else { pause };
                pause = (pause * 2).min(REPEAT);
            }
            let next = repeat.min(ask);
            tokio::select! {
                biased;
                () = self.stopped.cancelled() => return,
                changed = alive.changed() => match changed {
                    Ok(()) => (ask, pause) = (now, ASK_AGAIN),
                    Err(_) => return,
                },
                () = self.opened.notified() => (ask, pause) = (ask.min(now + ASK_AGAIN), ASK_AGAIN),
                () = self.runtime.sleep_until(next), if known.len() > 1 => {}
            }
        }
    }

    /// A replica here has another role.
    pub(crate) fn role_changed(&self, group: GroupId, replica: ReplicaId, role: Role) {
        tracing::debug!(group = group.0, replica = replica.0, ?role, "another role");
        let here = |term, standing| News { group, term, broker: self.broker, standing };
        let leads = role.leader.is_some_and(|(leader, _)| leader == replica);
        match (leads, self.leaders.last(group)) {
            (true, _) => {
                let standing = if role.serves { Standing::Serves } else { Standing::Leads };
                self.say(&[here(role.term, standing)]);
            }
            (false, Some(last)) if last.broker == self.broker && last.term <= role.term => {
                self.say(&[here(last.term, Standing::GaveUp)]);
            }
            (false, _) => {}
        }
        self.failover.look_at([group]);
    }

    /// A leader here leads no more although nobody else does: somebody is to be elected.
    pub(crate) fn gave_up(&self, group: GroupId, term: Term) {
        self.say(&[News { group, term, broker: self.broker, standing: Standing::GaveUp }]);
    }

    /// Leadership of the group is about to go to `to`, by the will of its leader.
    pub(crate) fn expect_transfer(&self, group: GroupId, to: ReplicaId) {
        let until = self.runtime.now() + TRANSFER_TIME;
        self.transfers.lock().unwrap_or_else(PoisonError::into_inner).insert(group, (to, until));
    }

    fn is_transfer(&self, group: GroupId, candidate: ReplicaId) -> bool {
        let mut transfers = self.transfers.lock().unwrap_or_else(PoisonError::into_inner);
        match transfers.get(&group) {
            Some((_, until)) if *until < self.runtime.now() => {
                transfers.remove(&group);
                false
            }
            Some((to, _)) => *to == candidate,
            None => false,
        }
    }

    /// Whether a replica here may vote for a candidate: not while it knows a live leader, unless that one wants it.
    /// One that could not win because the log here is longer is challenged by the replica here.
    pub(crate) fn may_vote(&self, candidate: &Candidate) -> bool {
        let &Candidate { group, replica: from, broker, term, last, by_leader } = candidate;
        let Some(replica) = self.replica(group) else { return true };
        if by_leader || self.is_transfer(group, from) {
            return true;
        }
        let role = replica.role();
        let leads = match self.leaders.last(group) {
            Some(said) if said.term >= role.term => said.leads(),
            _ => role.leader.map(|(_, broker)| broker),
        };
        if leads.is_some_and(|leader| leader != broker && self.peers.is_alive(leader)) {
            if replica.leads() && role.term < term {
                // It cannot follow in an earlier term than its own. It says so when it hears from the leader, who then
                // is elected in a later one.
                self.tell_committed(&BTreeSet::from([group]));
            }
            tracing::debug!(group = group.0, candidate = from.0, term = term.0, "no vote: the leader is alive");
            return false;
        }
        if last < replica.last() {
            self.failover.challenge(group);
        }
        true
    }
}
