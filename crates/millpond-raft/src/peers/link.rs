//! The connection that this broker has dialled to another: beats, requests and their answers.
//!
//! There is one for each broker whose address is known, kept up by one task. It sends a beat every 100 ms; anything
//! that arrives is a sign of life, as is a write that goes on while a beat waits behind it. After 500 ms without any
//! the peer counts as dead: the connection is closed, those who wait for an answer learn that there will be none, and
//! the peer is dialled again with growing, jittered pauses.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use millpond_record::{BrokerId, GroupId};
use millpond_runtime::{HostPort, JoinHandle, ReadHalf, Runtime, WriteHalf};
use tokio::sync::{Semaphore, broadcast, mpsc, oneshot, watch};
use tracing::{debug, info, warn};

use super::Inner;
use super::append_stream::WINDOW;
use super::beats::{Beats, DEAD_AFTER, Due};
use super::budget::Budget;
use super::bulk;
use super::figures::Counters;
use super::frame::{Frame, FrameError, FrameReader, Kind, Outgoing};
use super::handshake::{self, HandshakeError, Standing, same_cluster};
use super::outbox::{Outbox, Urgency};
use super::raft_messages::Append;

/// Groups that are named while who waits for a connection has not looked.
const IMPATIENT_GROUPS: usize = 64;

/// For connecting and the handshake together.
pub(super) const DIAL_LIMIT: Duration = Duration::from_secs(2);

/// The pause before a peer is dialled again doubles from the one to the other; up to a half is left out by chance.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Calls that wait for one peer's answer at most, of each kind (see `PeerServices::takes_long`); more wait to be sent.
const MAX_CALLS: usize = 256;

/// The bytes of those calls.
const MAX_BYTES_CALLED: usize = 64 << 20;

/// The bytes of Raft messages that one peer has not answered, over all groups: 64 MiB.
const MAX_BYTES_IN_FLIGHT: usize = 64 << 20;

/// Another broker, as long as this one runs.
pub(super) struct Peer {
    pub(super) broker: BrokerId,
    /// Where it listens; `None` while it is not of the cluster.
    pub(super) address: watch::Sender<Option<HostPort>>,
    /// The connection to it, while there is one and it answers.
    pub(super) link: watch::Sender<Option<Arc<Link>>>,
    /// The one for segments.
    pub(super) bulk: bulk::Slot,
    calls: Semaphore,
    call_bytes: Semaphore,
    /// The same for calls that may take long.
    long_calls: Semaphore,
    long_call_bytes: Semaphore,
    pub(super) budget: Budget,
    pub(super) counters: Counters,
    /// How many connections it has made to this broker.
    pub(super) accepted: Arc<AtomicU64>,
    dialled: AtomicBool,
    /// Groups whose streams are not to wait for a connection.
    pub(super) impatient: broadcast::Sender<GroupId>,
}

impl Peer {
    pub(super) fn new(broker: BrokerId) -> Peer {
        Peer {
            broker,
            address: watch::Sender::new(None),
            link: watch::Sender::new(None),
            bulk: bulk::Slot::default(),
            calls: Semaphore::new(MAX_CALLS),
            call_bytes: Semaphore::new(MAX_BYTES_CALLED),
            long_calls: Semaphore::new(MAX_CALLS),
            long_call_bytes: Semaphore::new(MAX_BYTES_CALLED),
            budget: Budget::new(MAX_BYTES_IN_FLIGHT),
            counters: Counters::default(),
            accepted: Arc::default(),
            dialled: AtomicBool::new(false),
            impatient: broadcast::Sender::new(IMPATIENT_GROUPS),
        }
    }

    /// What a call needs of before it is sent: a place, and room for its bytes.
    pub(super) fn places(&self, takes_long: bool) -> (&Semaphore, &Semaphore) {
        if takes_long { (&self.long_calls, &self.long_call_bytes) } else { (&self.calls, &self.call_bytes) }
    }

    /// Resolves when the leader of a group wants its streams not to wait for a connection any longer. It hears of all
    /// that is said once this has returned.
    pub(super) fn impatient(&self, group: GroupId) -> impl Future<Output = ()> + use<> {
        let mut impatient = self.impatient.subscribe();
        async move {
            loop {
                match impatient.recv().await {
                    // Who missed some may have missed its own.
                    Ok(named) if named != group => {}
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => return,
                    Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
                }
            }
        }
    }

    /// Whether the task that dials the peer is to be started now, which is once.
    pub(super) fn begin(&self) -> bool {
        !self.dialled.swap(true, Ordering::Relaxed)
    }

    /// The connection, as soon as there is one. Safe to cancel.
    pub(super) async fn up(&self) -> Arc<Link> {
        let mut link = self.link.subscribe();
        loop {
            if let Some(link) = link.borrow_and_update().clone() {
                return link;
            }
            if link.changed().await.is_err() {
                std::future::pending().await
            }
        }
    }

    /// A new stream of a group's entries, as soon as there is a connection.
    pub(super) async fn up_for_appends(&self, urgency: Urgency) -> AppendLink {
        let mut link = self.link.subscribe();
        loop {
            let opened = link.borrow_and_update().as_ref().and_then(|link| link.append(urgency));
            if let Some(opened) = opened {
                return opened;
            }
            if link.changed().await.is_err() {
                std::future::pending().await
            }
        }
    }

    /// The connection, if there is one.
    pub(super) fn link(&self) -> Option<Arc<Link>> {
        self.link.borrow().clone()
    }
}

/// One connection to a peer: what is sent, and who waits for which answer.
pub(super) struct Link {
    outbox: Outbox,
    next_id: AtomicU64,
    /// `None` when the connection is gone.
    waiting: Mutex<Option<Waiting>>,
}

/// Who waits for answers, by their ids.
#[derive(Default)]
struct Waiting {
    requests: BTreeMap<u64, oneshot::Sender<Frame>>,
    streams: BTreeMap<u64, mpsc::Sender<Frame>>,
}

impl Link {
    pub(super) fn new() -> Link {
        Link { outbox: Outbox::default(), next_id: AtomicU64::new(1), waiting: Mutex::new(Some(Waiting::default())) }
    }

    fn waiting(&self) -> MutexGuard<'_, Option<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    pub(super) fn new_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Sends a request; `None` when the connection is gone.
    pub(super) fn request(
        self: &Arc<Self>,
        urgency: Urgency,
        kind: Kind,
        head: &impl prost::Message,
        body: &[Bytes],
    ) -> Option<Pending> {
        let id = self.new_id();
        let (sender, answer) = oneshot::channel();
        self.waiting().as_mut()?.requests.insert(id, sender);
        let pending = Pending { link: Arc::clone(self), id, answer };
        self.outbox.send(urgency, Outgoing::new(kind, id, head, body)).then_some(pending)
    }

    /// Begins a stream of a group's entries; `None` when the connection is gone.
    fn append(self: &Arc<Self>, urgency: Urgency) -> Option<AppendLink> {
        let id = self.new_id();
        let (sender, answers) = mpsc::channel(2 * WINDOW);
        self.waiting().as_mut()?.streams.insert(id, sender);
        Some(AppendLink { link: Arc::clone(self), id, urgency, answers })
    }

    /// Hands an answer to who waits for it; nobody does when its time was up.
    fn answered(&self, frame: Frame) {
        let waiting = self.waiting().as_mut().and_then(|waiting| waiting.requests.remove(&frame.id));
        if let Some(waiting) = waiting {
            // Nobody listens any more when the time was up just now.
            let _ = waiting.send(frame);
        }
    }

    /// Whether the connection is there still.
    pub(super) fn is_open(&self) -> bool {
        self.waiting().is_some()
    }

    /// How many requests there were.
    pub(super) fn asked(&self) -> u64 {
        self.next_id.load(Ordering::Relaxed)
    }

    /// Ends the connection unless somebody waits for an answer.
    pub(super) fn close_if_idle(&self) -> bool {
        {
            let mut waiting = self.waiting();
            if waiting.as_ref().is_some_and(|waiting| !waiting.requests.is_empty() || !waiting.streams.is_empty()) {
                return false;
            }
            *waiting = None;
        }
        self.outbox.close();
        true
    }

    /// Ends all that waits for an answer.
    pub(super) fn close(&self) {
        let waiting = self.waiting().take();
        drop(waiting);
        self.outbox.close();
    }

    /// Takes what the other side has sent. Beats are the caller's.
    pub(super) fn received(&self, frame: Frame) -> Result<(), FrameError> {
        match frame.kind {
            Kind::CallAnswer | Kind::RaftAnswer => self.answered(frame),
            Kind::AppendAnswer => {
                let stream = self.waiting().as_ref().and_then(|waiting| waiting.streams.get(&frame.id).cloned());
                // A stream that has ended here needs no answers any more.
                if let Some(Err(mpsc::error::TrySendError::Full(frame))) = stream.map(|to| to.try_send(frame)) {
                    return Err(frame.malformed("more answers than messages"));
                }
            }
            _ => return Err(frame.malformed("no answer to anything")),
        }
        Ok(())
    }
}

/// A request without an answer yet. Dropping it forgets the request.
pub(super) struct Pending {
    link: Arc<Link>,
    id: u64,
    answer: oneshot::Receiver<Frame>,
}

impl Pending {
    /// The answer; `None` when the connection broke before.
    pub(super) async fn answer(&mut self) -> Option<Frame> {
        (&mut self.answer).await.ok()
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(waiting) = self.link.waiting().as_mut() {
            waiting.requests.remove(&self.id);
        }
    }
}

/// A stream of entries over one connection.
pub(super) struct AppendLink {
    link: Arc<Link>,
    id: u64,
    urgency: Urgency,
    answers: mpsc::Receiver<Frame>,
}

impl AppendLink {
    pub(super) fn send(&self, message: &Append) {
        let frame = Outgoing::new(Kind::Append, self.id, &message.head, &message.body);
        // On a connection that is gone the answers end, too, which is seen there.
        self.link.outbox.send(self.urgency, frame);
    }

    /// The next answer; `None` when the connection broke. Safe to cancel.
    pub(super) async fn answer(&mut self) -> Option<Frame> {
        self.answers.recv().await
    }
}

impl Drop for AppendLink {
    fn drop(&mut self) {
        if let Some(waiting) = self.link.waiting().as_mut() {
            waiting.streams.remove(&self.id);
        }
        self.link.outbox.send(self.urgency, Outgoing::bare(Kind::StreamEnd, self.id));
    }
}

/// A task that ends with its owner.
pub(super) struct Owned(pub(super) JoinHandle<()>);

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Why there is no connection (any more).
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkEnd {
    #[error("cannot connect: {0}")]
    Connect(std::io::Error),
    #[error("no answer within {} s", DIAL_LIMIT.as_secs())]
    DialLimit,
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    #[error("the connection failed: {0}")]
    Frame(#[from] FrameError),
    #[error("it closed the connection")]
    Closed,
    #[error("it did not answer for {} ms", DEAD_AFTER.as_millis())]
    Dead,
    #[error("{0}")]
    OtherCluster(String),
    #[error("its address is another one now")]
    Moved,
}

/// A connection that has been dialled and accepted.
pub(super) struct Dialled {
    pub(super) reader: FrameReader<ReadHalf>,
    pub(super) writer: WriteHalf,
    pub(super) other: Standing,
}

/// Connects and shakes hands, within [`DIAL_LIMIT`].
pub(super) async fn dial(
    runtime: &Runtime,
    mine: &Standing,
    address: &HostPort,
    wanted: Option<BrokerId>,
) -> Result<Dialled, LinkEnd> {
    let dialled = runtime.timeout(DIAL_LIMIT, async {
        let (read, mut writer) = runtime.connect_to(address).await.map_err(LinkEnd::Connect)?.into_split();
        let mut reader = FrameReader::new(read);
        let other = handshake::dial(&mut reader, &mut writer, mine, wanted).await?;
        Ok(Dialled { reader, writer, other })
    });
    dialled.await.unwrap_or(Err(LinkEnd::DialLimit))
}

/// Keeps a connection to the peer, whenever its address is known.
pub(super) async fn keep_linked(inner: Arc<Inner>, peer: Arc<Peer>) {
    let mut address = peer.address.subscribe();
    let mut closing = inner.closing();
    let mut pause = SHORTEST_PAUSE;
    let mut said = String::new();
    loop {
        let target = tokio::select! {
            biased;
            () = closing.closed() => return,
            target = known(&mut address) => target,
        };
        let begun = inner.runtime.now();
        let end = tokio::select! {
            biased;
            () = closing.closed() => return,
            () = moved(&mut address, &target) => LinkEnd::Moved,
            Err(end) = link_once(&inner, &peer, &target) => end,
        };
        let why = end.to_string();
        if why == said {
            debug!(broker = %peer.broker, address = %target, "no connection to the broker: {why}");
        } else {
            warn!(broker = %peer.broker, address = %target, "no connection to the broker: {why}");
            said = why;
        }
        // A connection that stood for a while says that the peer is not refusing or crashing.
        pause = if inner.runtime.now() - begun > DIAL_LIMIT { SHORTEST_PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
        let jitter = inner.runtime.random_u64() % (pause.as_micros() as u64 / 2).max(1);
        tokio::select! {
            biased;
            () = closing.closed() => return,
            () = inner.runtime.sleep(pause - Duration::from_micros(jitter)) => {}
        }
    }
}

async fn known(address: &mut watch::Receiver<Option<HostPort>>) -> HostPort {
    loop {
        if let Some(address) = address.borrow_and_update().clone() {
            return address;
        }
        if address.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

async fn moved(address: &mut watch::Receiver<Option<HostPort>>, from: &HostPort) {
    if address.wait_for(|now| now.as_ref() != Some(from)).await.is_err() {
        std::future::pending().await
    }
}

/// Tells everybody of a connection, and of its end when it is dropped.
struct Up<'a> {
    inner: &'a Inner,
    peer: &'a Peer,
    link: Arc<Link>,
}

impl<'a> Up<'a> {
    fn new(inner: &'a Inner, peer: &'a Peer, link: &Arc<Link>, other: &Standing) -> Up<'a> {
        peer.link.send_replace(Some(Arc::clone(link)));
        inner.has_come(peer.broker, other.directory_id);
        Up { inner, peer, link: Arc::clone(link) }
    }
}

impl Drop for Up<'_> {
    fn drop(&mut self) {
        self.inner.is_gone(self.peer.broker);
        self.peer.link.send_replace(None);
        self.link.close();
    }
}

/// One connection, from dialling to its end.
async fn link_once(inner: &Inner, peer: &Peer, address: &HostPort) -> Result<(), LinkEnd> {
    let mut cluster = inner.cluster();
    let mine = inner.standing();
    let Dialled { mut reader, writer, other } = dial(&inner.runtime, &mine, address, Some(peer.broker)).await?;
    let link = Arc::new(Link::new());
    let writing = Arc::clone(&link);
    let _writer = Owned(inner.runtime.spawn(async move {
        if let Err(error) = writing.outbox.run(writer).await {
            debug!(%error, "writing to a broker failed");
        }
        // The reader finds out why.
    }));
    Counters::count(&peer.counters.connects);
    info!(broker = %peer.broker, %address, "connected to the broker");
    let _up = Up::new(inner, peer, &link, &other);

    let mut beats = Beats::new(inner.runtime.now());
    let (read, mut progress) = (reader.progress(), (0, None));
    loop {
        tokio::select! {
            biased;
            Ok(()) = cluster.changed() => {
                same_cluster(&inner.standing(), &other).map_err(LinkEnd::OtherCluster)?;
            }
            () = inner.runtime.sleep_until(beats.next()) => {
                let now = inner.runtime.now();
                let before = std::mem::replace(&mut progress, (read.load(Ordering::Relaxed), link.outbox.progress()));
                let writes = progress.1.is_some() && progress.1 != before.1;
                if progress.0 != before.0 || writes {
                    beats.heard(now);
                }
                match beats.due(now) {
                    // The one before is not even written.
                    Due::Send(_) if progress.1.is_some() => {}
                    Due::Send(number) => {
                        Counters::count(&peer.counters.sent);
                        link.outbox.send(Urgency::First, Outgoing::bare(Kind::Beat, number));
                    }
                    Due::Wait => {}
                    Due::Dead => return Err(LinkEnd::Dead),
                }
            }
            frame = reader.next() => {
                let frame = frame?.ok_or(LinkEnd::Closed)?;
                Counters::count(&peer.counters.received);
                let now = inner.runtime.now();
                beats.heard(now);
                if frame.kind == Kind::BeatAnswer {
                    if let Some(took) = beats.answered(frame.id, now) {
                        peer.counters.beat_us.store(took.as_micros() as u64, Ordering::Relaxed);
                    }
                } else {
                    link.received(frame)?;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use millpond_record::{RaftIndex, ReplicaId};
    use openraft::raft::AppendEntriesRequest;

    use super::*;
    use crate::peers::raft_messages::Route;

    #[test]
    fn urgent_appends_go_before_data_that_waits() {
        let link = Arc::new(Link::new());
        let [data, urgent] = [Urgency::InTurn, Urgency::First].map(|kind| link.append(kind).expect("it is open"));
        let message = |bytes: usize| {
            let route = Route::new(GroupId(1), ReplicaId(1), ReplicaId(2), RaftIndex(0));
            let vote = openraft::Vote::new_committed(1, 2);
            let request = AppendEntriesRequest { vote, prev_log_id: None, entries: Vec::new(), leader_commit: None };
            let empty = Append::new(route, &request).expect("can be sent");
            Append { body: vec![Bytes::from(vec![0; bytes])], bytes, ..empty }
        };
        let waits = || link.outbox.taken().iter().map(|bytes| bytes / 1_000).collect::<Vec<_>>();
        data.send(&message(10_000));
        data.send(&message(20_000));
        urgent.send(&message(1_000));
        urgent.send(&message(2_000));
        drop((data, urgent));
        assert_eq!(waits(), [1, 2, 0, 10, 20, 0], "the ends of the streams behind what they have sent");
    }
}
