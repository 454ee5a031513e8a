//! The other brokers of the cluster: who is there, who is alive, and how to talk to them.
//!
//! Each broker dials each other one. Requests go over the dialled connection and answers come back on it, so a pair of
//! brokers has two connections, and each side knows by its own beats whether the other lives. While replicas are filled
//! there is another one for the segments.
//!
//! | file | story |
//! | --- | --- |
//! | `frame.rs`, `messages.rs` | the bytes: frames, checked before they are looked at; their heads |
//! | `handshake.rs` | who is there, and who is refused |
//! | `link.rs`, `beats.rs` | the dialled side: requests and answers, reconnecting; who is alive |
//! | `bulk.rs` | the connection for segments |
//! | `incoming.rs` | the accepted side: what is done for others |
//! | `raft_messages.rs` | Raft's messages as bytes |
//! | `replica_client.rs`, `append_stream.rs` | openraft's network: what replicas here send |
//! | `raft_incoming.rs` | what other replicas ask of those here |
//! | `outbox.rs`, `budget.rs` | what waits to be written; how many bytes may be on their way |
//! | `figures.rs` | counters |

mod append_stream;
mod beats;
mod budget;
mod bulk;
mod figures;
mod frame;
mod handshake;
mod incoming;
mod link;
mod messages;
mod outbox;
mod raft_incoming;
mod raft_messages;
mod replica_client;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use millpond_record::{BrokerId, GroupId, LogId, RaftIndex, ReplicaId};
use millpond_runtime::{HostPort, Runtime, Stream};
use millpond_storage::DirectoryId;
use tokio::sync::watch;
use tokio::time::Instant;

pub use figures::PeerFigures;
use frame::{Frame, Kind, MAX_CALL_BYTES, Outgoing};
use handshake::HandshakeError;
pub use handshake::Standing;
use link::{Dialled, Link, LinkEnd, Peer, dial, keep_linked};
use messages::{CallAnswerHead, CallHead};
use outbox::Urgency;
pub(crate) use raft_incoming::{Candidate, GroupRaft, Missing};
pub(crate) use replica_client::GroupNetwork;

use crate::catch_up::{CATCH_UP_SERVICE, Filling};

/// Messages to a peer that wait to be written; beyond it they are dropped.
const MAX_TOLD_BYTES: usize = 16 << 20;

/// Why a call to another broker has no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CallError {
    /// There is no connection to the broker. Nothing was sent.
    #[error("broker {0} cannot be reached")]
    NoLink(BrokerId),
    /// Nobody could be talked to at the address. Nothing was sent.
    #[error("{address} cannot be reached: {why}")]
    NoPeer {
        /// The address.
        address: HostPort,
        /// Why not.
        why: String,
    },
    /// The connection broke, or the time was up, after the call was sent: it may have been carried out.
    #[error("broker {0} did not answer in time")]
    NoAnswer(BrokerId),
    /// The other broker says why it did not do it.
    #[error("{0}")]
    Refused(String),
}

/// What this broker does for others.
pub trait PeerServices: Send + Sync + 'static {
    /// Carries out a call. The error is a sentence for the caller.
    fn call(&self, from: BrokerId, service: u16, body: Bytes) -> BoxFuture<'static, Result<Bytes, String>>;

    /// Whether calls of a service may wait for something for long. They have places of their own, so that all others
    /// find some. It must be the same on each broker.
    fn takes_long(&self, _service: u16) -> bool {
        false
    }
}

/// What this broker's groups do for others.
pub(crate) trait RaftServices: Send + Sync + 'static {
    /// Takes a message that another broker has told ([`Peers::tell`]). Called in the order of the messages of one
    /// connection, between two of its frames: it must be short.
    fn told(&self, from: BrokerId, message: Bytes);

    /// The engine of a replica here, which is started if it is not running.
    fn replica(&self, group: GroupId, replica: ReplicaId) -> BoxFuture<'static, Result<GroupRaft, Missing>>;

    /// Whether the replica here of the group, if it runs, can take batches now, the largest of `bytes`. If not, a
    /// sentence for the leader, which tries again after a pause.
    fn takes(&self, group: GroupId, bytes: u64) -> Result<(), String>;

    /// Up to where this broker has done what the cluster's metadata asks for: a group that it does not have then is
    /// gone.
    fn metadata_version(&self) -> RaftIndex;

    /// Up to where the cluster's metadata is known here, which made the groups that send.
    fn metadata_known(&self) -> RaftIndex;

    /// Whether a replica here may vote for the candidate. If not, the vote is refused and nothing changes.
    fn may_vote(&self, candidate: &Candidate) -> bool;

    /// Whether the replica here decides for another one, too, whose disk is lost.
    fn stands_in(&self, group: GroupId, replica: ReplicaId, lost: ReplicaId) -> bool;

    /// The leader of the group hands its leadership to this replica, here or elsewhere.
    fn transferring(&self, group: GroupId, to: ReplicaId);

    /// Gathers what a replica here lacks of a snapshot as of P that broker `from` has. May take long. What it gives is
    /// held until the snapshot is installed.
    fn gather(
        &self,
        group: GroupId,
        replica: ReplicaId,
        from: BrokerId,
        p: LogId,
    ) -> BoxFuture<'static, Result<Filling, String>>;

    /// Answers what another broker asks for while it gathers a snapshot.
    fn piece(&self, from: BrokerId, body: Bytes) -> BoxFuture<'static, Result<Bytes, String>>;
}

/// The other brokers. A clone is the same.
#[derive(Clone)]
pub struct Peers(Arc<Inner>);

struct Inner {
    runtime: Runtime,
    /// Without the cluster id, which may come later.
    standing: Standing,
    cluster: watch::Sender<Option<String>>,
    services: Option<Arc<dyn PeerServices>>,
    raft: Mutex<Option<Weak<dyn RaftServices>>>,
    /// The terms whose leaders have asked replicas here to become leader.
    called: Mutex<BTreeMap<(GroupId, ReplicaId), u64>>,
    peers: Mutex<BTreeMap<BrokerId, Arc<Peer>>>,
    alive: watch::Sender<Arc<BTreeSet<BrokerId>>>,
    /// Whoever has answered since this broker started.
    presences: Mutex<BTreeMap<BrokerId, Presence>>,
    /// The replicas whose disks are lost, of groups that have one here.
    lost: watch::Sender<BTreeMap<GroupId, BTreeMap<ReplicaId, BrokerId>>>,
    closing: watch::Sender<bool>,
    incoming: AtomicUsize,
}

/// When another broker was last there.
struct Presence {
    /// The data directory that it said it runs on.
    directory: DirectoryId,
    /// `None` while it answers.
    gone: Option<Instant>,
}

impl std::fmt::Debug for Peers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Peers(broker {})", self.0.standing.broker)
    }
}

impl Peers {
    /// A broker without others.
    pub fn alone(runtime: &Runtime, broker: BrokerId) -> Peers {
        let nobody = DirectoryId([0; 16]);
        let standing = Standing { broker, cluster_id: None, directory_id: nobody, boot_id: nobody };
        Peers::new(runtime.clone(), standing, None)
    }

    /// A broker that is ready to talk to others: nobody is dialled before [`Peers::set_brokers`] names them.
    /// [`Peers::close`] ends what it has started.
    pub fn start(runtime: Runtime, standing: Standing, services: Arc<dyn PeerServices>) -> Peers {
        Peers::new(runtime, standing, Some(services))
    }

    fn new(runtime: Runtime, standing: Standing, services: Option<Arc<dyn PeerServices>>) -> Peers {
        Peers(Arc::new(Inner {
            runtime,
            cluster: watch::Sender::new(standing.cluster_id.clone()),
            services,
            raft: Mutex::new(None),
            called: Mutex::default(),
            peers: Mutex::default(),
            alive: watch::Sender::new(Arc::new(BTreeSet::from([standing.broker]))),
            presences: Mutex::default(),
            lost: watch::Sender::default(),
            closing: watch::Sender::new(false),
            incoming: AtomicUsize::new(0),
            standing,
        }))
    }

    /// Whether it never talks to others.
    pub(crate) fn is_alone(&self) -> bool {
        self.0.services.is_none()
    }

    /// This broker.
    pub fn broker(&self) -> BrokerId {
        self.0.standing.broker
    }

    /// Takes care of a connection that another broker has opened, in a task of its own.
    pub fn serve(&self, stream: Stream) {
        let inner = Arc::clone(&self.0);
        self.0.runtime.spawn(async move { incoming::serve(inner, stream).await });
    }

    /// Has messages and Raft requests of others handed to `raft`, as long as that lives.
    pub(crate) fn serve_raft(&self, raft: Weak<dyn RaftServices>) {
        *self.0.raft.lock().unwrap_or_else(PoisonError::into_inner) = Some(raft);
    }

    /// The way of a replica here to the others of its group.
    pub(crate) fn network(&self, group: GroupId, replica: ReplicaId) -> GroupNetwork {
        GroupNetwork::new(Arc::clone(&self.0), group, replica)
    }

    /// This broker belongs to a cluster now. Connections to brokers of another one end.
    pub fn set_cluster(&self, cluster_id: &str) {
        self.0.cluster.send_if_modified(|known| {
            let new = known.as_deref() != Some(cluster_id);
            *known = Some(cluster_id.to_owned());
            new
        });
    }

    /// Where the brokers of the cluster listen. All others, this one left out, are dialled from now on and for good;
    /// the connections to those that are not named any more end.
    pub fn set_brokers(&self, brokers: BTreeMap<BrokerId, HostPort>) {
        let mut started = Vec::new();
        {
            let mut peers = self.0.peers();
            for broker in brokers.keys().filter(|broker| **broker != self.broker()) {
                peers.entry(*broker).or_insert_with(|| Arc::new(Peer::new(*broker)));
            }
            for (broker, peer) in peers.iter() {
                let address = brokers.get(broker);
                peer.address.send_if_modified(|known| {
                    let new = known.as_ref() != address;
                    *known = address.cloned();
                    new
                });
                if address.is_some() && peer.begin() {
                    started.push(Arc::clone(peer));
                }
            }
        }
        for peer in started {
            let inner = Arc::clone(&self.0);
            self.0.runtime.spawn(async move { keep_linked(inner, peer).await });
        }
    }

    /// The streams of a group's leader that wait for a connection fail, once: openraft purges no entry that one of them
    /// may still send, and a broker that is away for long would keep it from purging for as long.
    pub(crate) fn wait_no_longer(&self, group: GroupId) {
        for peer in self.0.peers().values() {
            // Err: nothing waits there.
            let _ = peer.impatient.send(group);
        }
    }

    /// The brokers that answer, this one among them.
    pub fn alive(&self) -> watch::Receiver<Arc<BTreeSet<BrokerId>>> {
        self.0.alive.subscribe()
    }

    /// Whether a broker answers. This one does.
    pub fn is_alive(&self, broker: BrokerId) -> bool {
        self.0.alive.borrow().contains(&broker)
    }

    /// The brokers that answer, or did so within this time, this one among them.
    pub fn alive_within(&self, time: Duration) -> BTreeSet<BrokerId> {
        let now = self.0.runtime.now();
        let presences = self.0.presences();
        let lately = presences.iter().filter(|(_, presence)| presence.gone.is_none_or(|gone| now < gone + time));
        lately.map(|(broker, _)| *broker).chain([self.broker()]).collect()
    }

    /// Whether a broker answers from this data directory. One that came back with another has nothing of what it had,
    /// whatever is written of it. This broker always does.
    pub fn runs_on(&self, broker: BrokerId, directory: DirectoryId) -> bool {
        let presences = self.0.presences();
        let here = presences.get(&broker).filter(|presence| presence.gone.is_none());
        here.map_or(broker == self.broker(), |presence| presence.directory == directory)
    }

    /// These replicas of a group take part in nothing any more; what waits to be sent to them is begun anew. Whether
    /// that is new.
    pub(crate) fn set_lost(&self, group: GroupId, replicas: BTreeMap<ReplicaId, BrokerId>) -> bool {
        let brokers: BTreeSet<BrokerId> = replicas.values().copied().collect();
        let is_new = self.0.lost.send_if_modified(|lost| {
            let before = if replicas.is_empty() { lost.remove(&group) } else { lost.insert(group, replicas.clone()) };
            before.unwrap_or_default() != replicas
        });
        if is_new {
            for peer in self.0.peers().values().filter(|peer| brokers.contains(&peer.broker)) {
                // Err: nothing waits there.
                let _ = peer.impatient.send(group);
            }
        }
        is_new
    }

    /// The replicas of a group whose disks are lost.
    pub(crate) fn lost(&self, group: GroupId) -> BTreeSet<ReplicaId> {
        self.0.lost.borrow().get(&group).map(|lost| lost.keys().copied().collect()).unwrap_or_default()
    }

    /// Whether the disk of a replica is lost.
    pub(crate) fn is_lost(&self, group: GroupId, replica: ReplicaId) -> bool {
        self.0.is_lost(group, replica)
    }

    /// Sends a message that has no answer. It is dropped when there is no connection, or when 16 MiB wait to be sent
    /// already; those that arrive do so in order.
    pub fn tell(&self, to: BrokerId, message: Bytes) {
        if to == self.broker() {
            if let Some(raft) = self.0.raft() {
                raft.told(to, message);
            }
            return;
        }
        let Some((peer, link)) = self.0.linked(to) else { return };
        if message.len() <= MAX_CALL_BYTES && link.outbox().bytes() < MAX_TOLD_BYTES + peer.budget.used() {
            link.outbox().send(Urgency::InTurn, Outgoing::new(Kind::Tell, 0, &(), &[message]));
        }
    }

    /// Has another broker do something, and gives its answer. This broker may call itself. A call and its answer have
    /// up to 16 MiB each.
    ///
    /// # Errors
    /// [`CallError`]; only after [`CallError::NoLink`] is it known that nothing was done.
    pub async fn call(&self, to: BrokerId, service: u16, body: Bytes, limit: Duration) -> Result<Bytes, CallError> {
        let inner = &self.0;
        let deadline = inner.runtime.now() + limit;
        if to == self.broker() {
            let done = inner.runtime.timeout_at(deadline, inner.carry_out(to, service, body));
            return done.await.map_err(|_| CallError::NoAnswer(to))?.map_err(CallError::Refused);
        }
        check_size(&body)?;
        let (peer, link) = inner.linked(to).ok_or(CallError::NoLink(to))?;
        let bytes = body.len() as u32;
        let (calls, call_bytes) = peer.places(inner.takes_long(service));
        let turn = async { (calls.acquire().await, call_bytes.acquire_many(bytes).await) };
        let _turn = inner.runtime.timeout_at(deadline, turn).await.map_err(|_| CallError::NoLink(to))?;
        let answered = inner.runtime.timeout_at(deadline, call_over(&link, to, service, body));
        answered.await.unwrap_or(Err(CallError::NoAnswer(to)))
    }

    /// Asks another broker for what replicas here are filled with, over a connection for that alone.
    ///
    /// # Errors
    /// As [`Peers::call`].
    pub(crate) async fn ask_for_piece(&self, of: BrokerId, body: Bytes, limit: Duration) -> Result<Bytes, CallError> {
        check_size(&body)?;
        let inner = &self.0;
        // Who does not answer on the other connection is dead, as far as is known here.
        let (peer, _) = inner.linked(of).ok_or(CallError::NoLink(of))?;
        let answered = inner.runtime.timeout(limit, bulk::call(inner, &peer, CATCH_UP_SERVICE, &body)).await;
        answered.unwrap_or_else(|_| {
            bulk::give_up(&peer);
            Err(CallError::NoAnswer(of))
        })
    }

    /// As [`Peers::call`], over a connection of its own to a broker whose id need not be known. Gives the broker that
    /// has answered, too. This broker may belong to no cluster yet.
    ///
    /// # Errors
    /// [`CallError::NoPeer`] when nobody could be talked to there, [`CallError::Refused`] also when the broker there
    /// does not talk to this one; otherwise as [`Peers::call`].
    pub async fn call_address(
        &self,
        address: &HostPort,
        service: u16,
        body: Bytes,
        limit: Duration,
    ) -> Result<(BrokerId, Bytes), CallError> {
        check_size(&body)?;
        let inner = &self.0;
        let deadline = inner.runtime.now() + limit;
        let no_peer = |why: String| CallError::NoPeer { address: address.clone(), why };
        let dialled = inner.runtime.timeout_at(deadline, dial(&inner.runtime, &inner.standing(), address, None)).await;
        let Dialled { reader, writer, other } = match dialled.unwrap_or(Err(LinkEnd::DialLimit)) {
            Ok(dialled) => dialled,
            Err(LinkEnd::Handshake(HandshakeError::Refused(why) | HandshakeError::Refusing(why))) => {
                return Err(CallError::Refused(why));
            }
            Err(end) => return Err(no_peer(end.to_string())),
        };
        let link = Arc::new(Link::new());
        let answered = async {
            tokio::select! {
                biased;
                answer = call_over(&link, other.broker, service, body) => answer,
                () = bulk::carry(&link, reader, writer) => Err(CallError::NoAnswer(other.broker)),
            }
        };
        let answer = inner.runtime.timeout_at(deadline, answered).await;
        Ok((other.broker, answer.unwrap_or(Err(CallError::NoAnswer(other.broker)))?))
    }

    /// What is counted of each peer, in the order of their ids.
    pub fn figures(&self) -> Vec<PeerFigures> {
        let peers = self.0.peers();
        let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let figures = peers.values().map(|peer| PeerFigures {
            broker: peer.broker,
            alive: self.is_alive(peer.broker),
            bytes_in_flight: peer.budget.used() as u64,
            frames_sent: count(&peer.counters.sent),
            frames_received: count(&peer.counters.received),
            connects: count(&peer.counters.connects),
            beat_us: count(&peer.counters.beat_us),
        });
        figures.collect()
    }

    /// Ends every connection. Nobody is dialled or served any more.
    pub fn close(&self) {
        self.0.closing.send_replace(true);
    }
}

fn check_size(body: &Bytes) -> Result<(), CallError> {
    if body.len() <= MAX_CALL_BYTES {
        return Ok(());
    }
    Err(CallError::Refused(format!("the call has {} bytes, {MAX_CALL_BYTES} can be sent", body.len())))
}

async fn call_over(link: &Arc<Link>, to: BrokerId, service: u16, body: Bytes) -> Result<Bytes, CallError> {
    let head = CallHead { service: u32::from(service) };
    let pending = link.request(Urgency::InTurn, Kind::Call, &head, &[body]);
    let frame: Option<Frame> = pending.ok_or(CallError::NoLink(to))?.answer().await;
    let frame = frame.ok_or(CallError::NoAnswer(to))?;
    match frame.head() {
        Ok(CallAnswerHead { refused: None }) => Ok(frame.body),
        Ok(CallAnswerHead { refused: Some(why) }) => Err(CallError::Refused(why)),
        Err(_) => Err(CallError::NoAnswer(to)),
    }
}

/// Resolves when the peers are closed.
struct Closing(watch::Receiver<bool>);

impl Closing {
    async fn closed(&mut self) {
        // The sender is gone only with everything.
        let _ = self.0.wait_for(|closing| *closing).await;
    }
}

impl Inner {
    fn peers(&self) -> MutexGuard<'_, BTreeMap<BrokerId, Arc<Peer>>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn raft(&self) -> Option<Arc<dyn RaftServices>> {
        self.raft.lock().unwrap_or_else(PoisonError::into_inner).as_ref()?.upgrade()
    }

    fn standing(&self) -> Standing {
        Standing { cluster_id: self.cluster.borrow().clone(), ..self.standing.clone() }
    }

    fn cluster(&self) -> watch::Receiver<Option<String>> {
        self.cluster.subscribe()
    }

    fn closing(&self) -> Closing {
        Closing(self.closing.subscribe())
    }

    /// The broker, known or not: its address may become known.
    fn peer(&self, broker: BrokerId) -> Arc<Peer> {
        Arc::clone(self.peers().entry(broker).or_insert_with(|| Arc::new(Peer::new(broker))))
    }

    fn metadata(&self) -> RaftIndex {
        self.raft().map_or(RaftIndex(0), |raft| raft.metadata_known())
    }

    fn called(&self) -> MutexGuard<'_, BTreeMap<(GroupId, ReplicaId), u64>> {
        self.called.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The leader of `term` has asked the replica here to become leader.
    fn called_by_leader(&self, group: GroupId, replica: ReplicaId, term: u64) {
        self.called().insert((group, replica), term);
    }

    /// Whether the replica here, when it asks for votes in `term`, was asked to by the leader before.
    fn is_called_by_leader(&self, group: GroupId, replica: ReplicaId, term: u64) -> bool {
        self.called().get(&(group, replica)).is_some_and(|led| led + 1 == term)
    }

    fn is_lost(&self, group: GroupId, replica: ReplicaId) -> bool {
        self.lost.borrow().get(&group).is_some_and(|lost| lost.contains_key(&replica))
    }

    fn linked(&self, to: BrokerId) -> Option<(Arc<Peer>, Arc<Link>)> {
        let peer = self.peers().get(&to).cloned()?;
        let link = peer.link()?;
        Some((peer, link))
    }

    fn presences(&self) -> MutexGuard<'_, BTreeMap<BrokerId, Presence>> {
        // Nothing that can panic runs under the lock.
        self.presences.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A broker answers, from this data directory.
    fn has_come(&self, broker: BrokerId, directory: DirectoryId) {
        self.presences().insert(broker, Presence { directory, gone: None });
        self.set_alive(broker, true);
    }

    /// A broker answers no more.
    fn is_gone(&self, broker: BrokerId) {
        if let Some(presence) = self.presences().get_mut(&broker) {
            presence.gone = Some(self.runtime.now());
        }
        self.set_alive(broker, false);
    }

    fn set_alive(&self, broker: BrokerId, alive: bool) {
        self.alive.send_if_modified(|brokers| {
            if brokers.contains(&broker) == alive {
                return false;
            }
            let mut changed = BTreeSet::clone(brokers);
            if alive {
                changed.insert(broker)
            } else {
                changed.remove(&broker)
            };
            *brokers = Arc::new(changed);
            true
        });
    }

    fn takes_long(&self, service: u16) -> bool {
        self.services.as_ref().is_some_and(|services| services.takes_long(service))
    }

    async fn carry_out(&self, from: BrokerId, service: u16, body: Bytes) -> Result<Bytes, String> {
        if service == CATCH_UP_SERVICE {
            let raft = self.raft().ok_or_else(|| "the groups are not running yet".to_owned())?;
            return raft.piece(from, body).await;
        }
        match &self.services {
            Some(services) => services.call(from, service, body).await,
            None => Err(format!("broker {} does nothing for others", self.standing.broker)),
        }
    }
}
