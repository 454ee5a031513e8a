//! The connections that other brokers have dialled to this one: their beats, messages and calls.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use millpond_runtime::Stream;
use tokio::sync::Semaphore;
use tracing::{debug, warn};

use super::frame::{Frame, FrameError, FrameReader, Kind, Outgoing};
use super::handshake::{self, HandshakeError, Standing, same_cluster};
use super::link::{DIAL_LIMIT, Owned};
use super::messages::{CallAnswerHead, CallHead};
use super::outbox::{Outbox, Urgency};
use super::{Inner, MAX_CALL_BYTES};

/// Connections that are served at a time. A cluster has a few for each broker; more are closed at once.
const MAX_INCOMING: usize = 1024;

/// A connection on which nothing arrives for this long, and for which nothing is done, is closed. Beats arrive.
const IDLE_LIMIT: Duration = Duration::from_secs(10);

/// Calls that are carried out at a time for one connection, and those that wait besides.
const MAX_RUNNING_CALLS: usize = 64;
const MAX_WAITING_CALLS: usize = 1024;

/// Bytes of answers that wait to be written; a peer that reads none of them is closed.
const MAX_UNREAD_BYTES: usize = 256 << 20;

/// Bytes of calls that are not answered yet.
const MAX_CALLED_BYTES: usize = 256 << 20;

/// One accepted connection.
pub(super) struct Incoming {
    inner: Arc<Inner>,
    other: Standing,
    outbox: Arc<Outbox>,
    running: Arc<Semaphore>,
    calls: Arc<AtomicUsize>,
    called_bytes: Arc<AtomicUsize>,
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
            | End::Idle => debug!(%from, "the connection of a broker has ended: {end}"),
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
    let other = greeted.await.map_err(|_| End::Silent)??;
    let outbox = Arc::new(Outbox::default());
    let writing = Arc::clone(&outbox);
    let _writer = Owned(runtime.spawn(async move {
        if let Err(error) = writing.run(writer).await {
            debug!(%error, "writing to a broker failed");
            writing.close();
        }
    }));
    let incoming = Incoming {
        inner: Arc::clone(inner),
        other,
        outbox,
        running: Arc::new(Semaphore::new(MAX_RUNNING_CALLS)),
        calls: Arc::default(),
        called_bytes: Arc::default(),
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
                if incoming.calls.load(Ordering::Relaxed) == 0 && read == std::mem::replace(&mut before, read) {
                    return Err(End::Idle);
                }
                heard = runtime.now();
            }
            frame = reader.next() => {
                let Some(frame) = frame? else { return Ok(()) };
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
    fn received(&self, frame: Frame) -> Result<(), End> {
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
            _ => return Err(frame.malformed("no place here").into()),
        }
        Ok(())
    }

    /// Has the call carried out in a task of its own, when its turn comes.
    fn call(&self, frame: Frame) -> Result<(), End> {
        let CallHead { service } = frame.head()?;
        let service = u16::try_from(service).map_err(|_| frame.malformed("a service above 65535"))?;
        let bytes = frame.size_bytes();
        let held = Held::new(&self.calls, &self.called_bytes, bytes);
        if held.calls >= MAX_RUNNING_CALLS + MAX_WAITING_CALLS || held.bytes > MAX_CALLED_BYTES {
            return Err(End::Greedy);
        }
        let (from, id, body) = (self.other.broker, frame.id, frame.body);
        let (inner, outbox, running) = (Arc::clone(&self.inner), Arc::clone(&self.outbox), Arc::clone(&self.running));
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

/// What one call counts for, as long as it is there.
struct Held {
    count: Arc<AtomicUsize>,
    total: Arc<AtomicUsize>,
    own: usize,
    calls: usize,
    bytes: usize,
}

impl Held {
    fn new(count: &Arc<AtomicUsize>, total: &Arc<AtomicUsize>, own: usize) -> Held {
        let calls = count.fetch_add(1, Ordering::Relaxed);
        let bytes = total.fetch_add(own, Ordering::Relaxed) + own;
        Held { count: Arc::clone(count), total: Arc::clone(total), own, calls, bytes }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
        self.total.fetch_sub(self.own, Ordering::Relaxed);
    }
}
