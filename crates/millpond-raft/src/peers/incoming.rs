//! The connections that other brokers have dialled to this one: their beats, messages and calls.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use millpond_record::BrokerId;
use millpond_runtime::Stream;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{self, error::TrySendError};
use tracing::{debug, warn};

use super::append_stream::WINDOW;
use super::frame::{Frame, FrameError, FrameReader, Kind, Outgoing};
use super::handshake::{self, HandshakeError, Standing, same_cluster};
use super::link::{DIAL_LIMIT, Owned};
use super::messages::{CallAnswerHead, CallHead};
use super::outbox::{Outbox, Urgency};
use super::raft_incoming::{Message, run_stream};
use super::raft_messages::{Append, RaftRequest};
use super::{Inner, MAX_CALL_BYTES};

/// Connections that are served at a time. A cluster has a few for each broker; more are closed at once.
const MAX_INCOMING: usize = 1024;

/// Brokers that are remembered at most, so that nobody who counts up ids takes memory without end.
const MAX_KNOWN: usize = 10_000;

/// A connection on which nothing arrives for this long, and for which nothing is done, is closed. Beats arrive.
const IDLE_LIMIT: Duration = Duration::from_secs(10);

/// Calls that are carried out at a time for one connection, of each kind (see `PeerServices::takes_long`), and those
/// that wait besides.
const MAX_RUNNING_CALLS: usize = 64;
const MAX_WAITING_CALLS: usize = 1024;

/// Bytes of answers that wait to be written; a peer that reads none of them is closed.
const MAX_UNREAD_BYTES: usize = 256 << 20;

/// Bytes of calls, and of entries, that are not answered yet. Honest peers keep to a quarter.
const MAX_UNANSWERED_BYTES: usize = 256 << 20;

/// Raft requests, and streams of entries, that are not ended at a time: a few for each group.
const MAX_RAFT_REQUESTS: usize = 100_000;

/// One accepted connection.
pub(super) struct Incoming {
    inner: Arc<Inner>,
    other: Standing,
    outbox: Arc<Outbox>,
    running: Arc<Semaphore>,
    running_long: Arc<Semaphore>,
    calls: Arc<Load>,
    appends: Arc<Load>,
    requests: Arc<Load>,
    streams: BTreeMap<u64, mpsc::Sender<Message>>,
}

/// Why an accepted connection has ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    #[error("it did not say who it is within {} s", DIAL_LIMIT.as_secs())]
    Silent,
    #[error("the connection failed: {0}")]
    Frame(#[from] FrameError),
    #[error("{0}")]
    OtherCluster(String),
    #[error("nothing was heard for {} s", IDLE_LIMIT.as_secs())]
    Idle,
    #[error("it has made a new connection")]
    Replaced,
    #[error("it does not read its answers")]
    Unread,
    #[error("it asks for more than it may at a time")]
    Greedy,
}

/// Takes care of a connection until it ends.
pub(super) async fn serve(inner: Arc<Inner>, stream: Stream) {
    let from = stream.peer_addr().map_or_else(|_| "somebody".to_owned(), |address| address.to_string());
    let served = inner.incoming.fetch_add(1, Ordering::Relaxed);
    if served >= MAX_INCOMING {
        warn!(%from, "{served} brokers are connected: another one is refused");
    } else if let Err(end) = serve_one(&inner, stream).await {
        match end {
            End::Handshake(HandshakeError::Ended | HandshakeError::Frame(FrameError::Io(_)))
            | End::Frame(FrameError::Io(_) | FrameError::Cut)
            | End::Idle
            | End::Replaced => debug!(%from, "the connection of a broker has ended: {end}"),
            end => warn!(%from, "the connection of a broker was closed: {end}"),
        }
    }
    inner.incoming.fetch_sub(1, Ordering::Relaxed);
}

async fn serve_one(inner: &Arc<Inner>, stream: Stream) -> Result<(), End> {
    let runtime = &inner.runtime;
    let (mut closing, mut cluster) = (inner.closing(), inner.cluster());
    let (read, mut writer) = stream.into_split();
    let mut reader = FrameReader::new(read);
    let mine = inner.standing();
    let greeted = runtime.timeout(DIAL_LIMIT, handshake::accept(&mut reader, &mut writer, &mine));
    let (other, stays) = greeted.await.map_err(|_| End::Silent)??;
    if inner.peers().len() >= MAX_KNOWN {
        return Err(End::Greedy);
    }
    let newest = stays.then(|| Newest::new(inner, other.broker));
    let outbox = Arc::new(Outbox::default());
    let writing = Arc::clone(&outbox);
    let _writer = Owned(runtime.spawn(async move {
        if let Err(error) = writing.run(writer).await {
            debug!(%error, "writing to a broker failed");
            writing.close();
        }
    }));
    let mut incoming = Incoming {
        inner: Arc::clone(inner),
        other,
        outbox,
        running: Arc::new(Semaphore::new(MAX_RUNNING_CALLS)),
        running_long: Arc::new(Semaphore::new(MAX_RUNNING_CALLS)),
        calls: Arc::default(),
        appends: Arc::default(),
        requests: Arc::default(),
        streams: BTreeMap::new(),
    };
    let (read, mut before) = (reader.progress(), 0);
    let mut heard = runtime.now();
    loop {
        tokio::select! {
            biased;
            () = closing.closed() => return Ok(()),
            Ok(()) = cluster.changed() => {
                same_cluster(&inner.standing(), &incoming.other).map_err(End::OtherCluster)?;
            }
            () = runtime.sleep_until(heard + IDLE_LIMIT) => {
                let read = read.load(Ordering::Relaxed);
                if incoming.calls.count() == 0 && read == std::mem::replace(&mut before, read) {
                    return Err(End::Idle);
                }
                heard = runtime.now();
            }
            frame = reader.next() => {
                let Some(frame) = frame? else { return Ok(()) };
                if newest.as_ref().is_some_and(|newest| !newest.is_newest()) {
                    return Err(End::Replaced);
                }
                heard = runtime.now();
                incoming.received(frame)?;
                if incoming.outbox.bytes() > MAX_UNREAD_BYTES {
                    return Err(End::Unread);
                }
            }
        }
    }
}

impl Incoming {
    fn received(&mut self, frame: Frame) -> Result<(), End> {
        match frame.kind {
            Kind::Beat => {
                self.outbox.send(Urgency::First, Outgoing::bare(Kind::BeatAnswer, frame.id));
            }
            Kind::Tell => {
                if let Some(raft) = self.inner.raft() {
                    raft.told(self.other.broker, frame.body);
                }
            }
            Kind::Call => self.call(frame)?,
            Kind::Append => self.append(&frame)?,
            Kind::StreamEnd => drop(self.streams.remove(&frame.id)),
            Kind::RaftRequest => self.raft_request(&frame)?,
            _ => return Err(frame.malformed("no place here").into()),
        }
        Ok(())
    }

    /// Hands a message to its stream, which begins with its first message.
    fn append(&mut self, frame: &Frame) -> Result<(), End> {
        let (route, request) = Append::read(frame)?;
        let held = Held::new(&self.appends, frame.size_bytes());
        if held.exceeds(usize::MAX) || self.streams.len() >= MAX_RAFT_REQUESTS {
            return Err(End::Greedy);
        }
        let stream = match self.streams.entry(frame.id) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let (sender, messages) = mpsc::channel(2 * WINDOW);
                let (inner, outbox, id) = (Arc::clone(&self.inner), Arc::clone(&self.outbox), frame.id);
                self.inner.runtime.spawn(async move { run_stream(inner, outbox, id, route, messages).await });
                new.insert(sender)
            }
        };
        // One that has ended here was answered so, and what comes until the peer has heard of it is dropped.
        if let Err(TrySendError::Full(_)) = stream.try_send((request, held)) {
            return Err(End::Greedy);
        }
        Ok(())
    }

    fn raft_request(&self, frame: &Frame) -> Result<(), End> {
        let (route, request) = RaftRequest::read(frame)?;
        let held = Held::new(&self.requests, frame.size_bytes());
        if held.exceeds(MAX_RAFT_REQUESTS) {
            return Err(End::Greedy);
        }
        let (from, id) = (self.other.broker, frame.id);
        let (inner, outbox) = (Arc::clone(&self.inner), Arc::clone(&self.outbox));
        self.inner.runtime.spawn(async move {
            let _held = held;
            let answer = inner.answer(from, route, request).await;
            outbox.send(Urgency::First, Outgoing::new(Kind::RaftAnswer, id, &answer, &[]));
        });
        Ok(())
    }

    /// Has the call carried out in a task of its own, when its turn comes.
    fn call(&self, frame: Frame) -> Result<(), End> {
        let CallHead { service } = frame.head()?;
        let service = u16::try_from(service).map_err(|_| frame.malformed("a service above 65535"))?;
        let bytes = frame.size_bytes();
        let held = Held::new(&self.calls, bytes);
        if held.exceeds(MAX_RUNNING_CALLS + MAX_WAITING_CALLS) {
            return Err(End::Greedy);
        }
        let (from, id, body) = (self.other.broker, frame.id, frame.body);
        let running = if self.inner.takes_long(service) { &self.running_long } else { &self.running };
        let (inner, outbox, running) = (Arc::clone(&self.inner), Arc::clone(&self.outbox), Arc::clone(running));
        self.inner.runtime.spawn(async move {
            let _held = held;
            // The semaphore is never closed.
            let turn = running.acquire_owned().await.ok();
            let answer = match inner.carry_out(from, service, body).await {
                Ok(body) if body.len() > MAX_CALL_BYTES => {
                    let (bytes, most) = (body.len(), MAX_CALL_BYTES);
                    Err(format!("the answer has {bytes} bytes, {most} can be sent"))
                }
                answer => answer,
            };
            let (refused, body) = match answer {
                Ok(body) => (None, body),
                Err(why) => (Some(why), bytes::Bytes::new()),
            };
            let frame = Outgoing::new(Kind::CallAnswer, id, &CallAnswerHead { refused }, &[body]);
            // Its turn lasts until the answer is written: who does not read gets no more answers.
            outbox.send_holding(Urgency::InTurn, frame, turn);
        });
        Ok(())
    }
}

/// The number of a connection among those of its broker. What a broker says on a new one must not be overtaken by what
/// an old one still has.
struct Newest {
    last: Arc<AtomicU64>,
    own: u64,
}

impl Newest {
    fn new(inner: &Inner, broker: BrokerId) -> Newest {
        let last = Arc::clone(&inner.peer(broker).accepted);
        let own = last.fetch_add(1, Ordering::Relaxed) + 1;
        Newest { last, own }
    }

    fn is_newest(&self) -> bool {
        self.last.load(Ordering::Relaxed) == self.own
    }
}

/// What is being done for a peer.
#[derive(Debug, Default)]
pub(super) struct Load {
    count: AtomicUsize,
    bytes: AtomicUsize,
}

impl Load {
    fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}

/// What one request counts for, as long as it is not answered.
pub(super) struct Held {
    load: Arc<Load>,
    bytes: usize,
}

impl Held {
    fn new(load: &Arc<Load>, bytes: usize) -> Held {
        load.count.fetch_add(1, Ordering::Relaxed);
        load.bytes.fetch_add(bytes, Ordering::Relaxed);
        Held { load: Arc::clone(load), bytes }
    }

    /// Whether it was one too many.
    fn exceeds(&self, most: usize) -> bool {
        self.load.count() > most || self.load.bytes.load(Ordering::Relaxed) > MAX_UNANSWERED_BYTES
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.load.count.fetch_sub(1, Ordering::Relaxed);
        self.load.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
