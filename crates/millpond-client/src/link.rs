//! One connection as frames: requests go out in the order of their calls, answers come back in the same order.
//!
//! A task owns the stream. What it is handed is bounded by the requests in flight, what it reads by the longest answer.
//! A caller that goes away costs nothing but the reading of its answer. Whatever breaks the order of answers (a wrong
//! correlation id, a length that cannot be, silence) ends the link for all who wait, because nothing behind it can be
//! told apart any more.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use millpond_wire::Chunks;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

use crate::address::Address;
use crate::clock;
use crate::config::bounded;
use crate::error::{Error, Result};
use crate::transport::{Duplex, Transport};

/// The room that an answer is given before its bytes have come; it grows as they do.
const FIRST_READ_BYTES: usize = 8 << 10;
/// How many times the bytes that have come an answer is given room for: the more, the less is copied as it grows.
const READ_GROWTH: usize = 8;
/// Frames up to this length are joined into one write.
const JOINED_BYTES: usize = 16 << 10;

/// How a link ended.
#[derive(Clone, Debug)]
enum Ending {
    Lost(String),
    /// TLS has ended it.
    Untrusted(String),
    Broken(String),
}

impl From<io::Error> for Ending {
    fn from(error: io::Error) -> Ending {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Ending::Lost("the broker closed it".to_owned()),
            io::ErrorKind::InvalidData => Ending::Untrusted(error.to_string()),
            _ => Ending::Lost(error.to_string()),
        }
    }
}

/// A request on its way out.
struct Outgoing {
    correlation: i32,
    frame: Chunks,
    told: Told,
    /// `None` when the caller itself bounds what it sends.
    room: Option<OwnedSemaphorePermit>,
}

/// What a caller waits for.
enum Told {
    /// The answer.
    Answer(oneshot::Sender<Bytes>),
    /// That the frame was written: nothing will answer it.
    Written(oneshot::Sender<()>),
}

impl Told {
    fn is_closed(&self) -> bool {
        match self {
            Told::Answer(answer) => answer.is_closed(),
            Told::Written(written) => written.is_closed(),
        }
    }
}

/// A request that has left and is not answered.
struct Waiting {
    correlation: i32,
    /// The caller may be gone; its answer is read all the same.
    answer: oneshot::Sender<Bytes>,
    /// Held until the answer is here, so that callers who give up cannot pile requests up.
    _room: Option<OwnedSemaphorePermit>,
}

/// A connection that carries frames. It closes when the last clone is dropped.
#[derive(Clone)]
pub(crate) struct Link {
    broker: Address,
    next: Arc<AtomicI32>,
    requests: mpsc::UnboundedSender<Outgoing>,
    room: Arc<Semaphore>,
    ending: Arc<watch::Sender<Option<Ending>>>,
}

impl Link {
    /// Takes over a stream. `max_response_bytes` bounds an answer, `max_in_flight` the requests without one.
    pub(crate) fn start(
        transport: &dyn Transport,
        broker: Address,
        stream: Box<dyn Duplex>,
        max_response_bytes: usize,
        max_in_flight: usize,
    ) -> Link {
        let (requests, queue) = mpsc::unbounded_channel();
        let ending = Arc::new(watch::Sender::new(None));
        transport.spawn(Box::pin(carry(stream, queue, Arc::clone(&ending), max_response_bytes)));
        let room = Arc::new(Semaphore::new(max_in_flight));
        Link { broker, next: Arc::default(), requests, room, ending }
    }

    /// Whether it has ended.
    pub(crate) fn is_closed(&self) -> bool {
        self.ending.borrow().is_some()
    }

    /// Why TLS has ended it, if that is what has.
    pub(crate) fn mistrust(&self) -> Option<String> {
        match &*self.ending.borrow() {
            Some(Ending::Untrusted(reason)) => Some(reason.clone()),
            _ => None,
        }
    }

    /// The broker at the other end.
    pub(crate) fn broker(&self) -> &Address {
        &self.broker
    }

    /// The correlation id of the next request.
    pub(crate) fn correlation(&self) -> i32 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Sends a frame that was encoded with this correlation id, and gives the answer without its length, header first.
    /// Without an answer within `limit` the link ends, as everything behind the answer waits for it.
    ///
    /// # Errors
    /// [`Error::TimedOut`], [`Error::Disconnected`], [`Error::Protocol`].
    pub(crate) async fn exchange(&self, correlation: i32, frame: Chunks, what: &str, limit: Duration) -> Result<Bytes> {
        self.within(limit, what, self.answer(correlation, frame)).await
    }

    /// Puts a frame into the queue at once, behind those that are in it; the future waits for its answer as
    /// [`exchange`](Link::exchange) does. How many are on the way is the caller's care.
    pub(crate) fn post(
        &self,
        correlation: i32,
        frame: Chunks,
        what: &'static str,
        limit: Duration,
    ) -> Result<impl Future<Output = Result<Bytes>> + Send + use<>> {
        let (answer, answered) = oneshot::channel();
        self.queue(Outgoing { correlation, frame, told: Told::Answer(answer), room: None })?;
        let link = self.clone();
        let answered =
            async move { link.within(limit, what, async { answered.await.map_err(|_| link.error()) }).await };
        Ok(answered)
    }

    /// As [`post`](Link::post), for a frame that the broker does not answer: the future waits until it is written.
    pub(crate) fn post_unanswered(
        &self,
        frame: Chunks,
        what: &'static str,
        limit: Duration,
    ) -> Result<impl Future<Output = Result<()>> + Send + use<>> {
        let (written, was_written) = oneshot::channel();
        self.queue(Outgoing { correlation: 0, frame, told: Told::Written(written), room: None })?;
        let link = self.clone();
        Ok(async move { link.within(limit, what, async { was_written.await.map_err(|_| link.error()) }).await })
    }

    /// Ends the link when what is waited for does not come in time.
    async fn within<T>(&self, limit: Duration, what: &str, awaited: impl Future<Output = Result<T>>) -> Result<T> {
        match clock::by(clock::now() + bounded(limit), awaited).await {
            Some(result) => result,
            None => {
                self.end(Ending::Lost(format!("a request ({what}) was not answered within {} ms", limit.as_millis())));
                Err(Error::TimedOut { broker: self.broker.clone(), what: what.to_owned(), after: limit })
            }
        }
    }

    fn queue(&self, outgoing: Outgoing) -> Result<()> {
        self.requests.send(outgoing).map_err(|_| self.error())
    }

    async fn answer(&self, correlation: i32, frame: Chunks) -> Result<Bytes> {
        let room = Arc::clone(&self.room).acquire_owned().await.map_err(|_| self.error())?;
        let (answer, answered) = oneshot::channel();
        self.queue(Outgoing { correlation, frame, told: Told::Answer(answer), room: Some(room) })?;
        answered.await.map_err(|_| self.error())
    }

    /// Ends the link because what came back makes no sense.
    pub(crate) fn broken(&self, reason: impl Into<String>) -> Error {
        let ending = Ending::Broken(reason.into());
        self.end(ending.clone());
        self.say(ending)
    }

    fn end(&self, ending: Ending) {
        end(&self.ending, ending);
    }

    /// Why it ended.
    fn error(&self) -> Error {
        let ending = self.ending.borrow().clone();
        self.say(ending.unwrap_or_else(|| Ending::Lost("it was closed".to_owned())))
    }

    fn say(&self, ending: Ending) -> Error {
        let broker = self.broker.clone();
        match ending {
            // Between two that have talked before, it is damage on the way.
            Ending::Lost(reason) | Ending::Untrusted(reason) => Error::Disconnected { broker, reason },
            Ending::Broken(reason) => Error::Protocol { broker, reason },
        }
    }
}

/// The first reason counts; what follows is its consequence.
fn end(ended: &watch::Sender<Option<Ending>>, ending: Ending) {
    ended.send_if_modified(|now| {
        let first = now.is_none();
        if first {
            *now = Some(ending);
        }
        first
    });
}

type Queue = Mutex<VecDeque<Waiting>>;

fn lock(queue: &Queue) -> MutexGuard<'_, VecDeque<Waiting>> {
    // The queue is whole after every operation on it.
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The task of a link: until the stream, a caller or the last handle ends it.
async fn carry(
    stream: Box<dyn Duplex>,
    mut queue: mpsc::UnboundedReceiver<Outgoing>,
    ended: Arc<watch::Sender<Option<Ending>>>,
    max_response_bytes: usize,
) {
    let (read, write) = tokio::io::split(stream);
    let waiting = Queue::default();
    let mut told = ended.subscribe();
    let ending = tokio::select! {
        biased;
        // An error only says that the link is gone from memory, which cannot be while this task holds a clone.
        _ = told.wait_for(Option::is_some) => None,
        ending = read_answers(read, &waiting, max_response_bytes) => Some(ending),
        ending = write_requests(write, &mut queue, &waiting) => Some(ending),
    };
    if let Some(ending) = ending {
        end(&ended, ending);
    }
    // Now that the reason is known, those who wait may see that nobody answers them: `queue` and `waiting` are dropped.
}

async fn write_requests(
    mut write: impl AsyncWrite + Unpin,
    queue: &mut mpsc::UnboundedReceiver<Outgoing>,
    waiting: &Queue,
) -> Ending {
    while let Some(Outgoing { correlation, frame, told, room }) = queue.recv().await {
        if told.is_closed() {
            // Nobody waits for it any more, and not a byte of it has left.
            continue;
        }
        let written = match told {
            Told::Answer(answer) => {
                lock(waiting).push_back(Waiting { correlation, answer, _room: room });
                None
            }
            Told::Written(written) => Some(written),
        };
        if let Err(error) = write_frame(&mut write, &frame).await {
            return error.into();
        }
        if let Some(written) = written {
            // Whoever sent it may be gone.
            let _ = written.send(());
        }
    }
    Ending::Lost("it was closed".to_owned())
}

async fn write_frame(write: &mut (impl AsyncWrite + Unpin), frame: &Chunks) -> io::Result<()> {
    if frame.len() <= JOINED_BYTES {
        write.write_all(&frame.to_bytes()).await?;
    } else {
        write_pieces(write, frame).await?;
    }
    write.flush().await
}

/// Writes the pieces of a frame without joining them, as many with one call as the stream takes.
async fn write_pieces(write: &mut (impl AsyncWrite + Unpin), frame: &Chunks) -> io::Result<()> {
    let pieces = frame.as_slice().iter().filter_map(|chunk| chunk.here());
    let mut slices: Vec<IoSlice<'_>> = pieces.map(|piece| IoSlice::new(piece)).collect();
    let mut rest = &mut slices[..];
    // Pieces without bytes do not count as unwritten.
    IoSlice::advance_slices(&mut rest, 0);
    while !rest.is_empty() {
        let written = write.write_vectored(rest).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        IoSlice::advance_slices(&mut rest, written);
    }
    Ok(())
}

async fn read_answers(mut read: impl AsyncRead + Unpin, waiting: &Queue, max_bytes: usize) -> Ending {
    loop {
        let frame = match read_frame(&mut read, max_bytes).await {
            Ok(frame) => frame,
            Err(ending) => return ending,
        };
        let Some((correlation, _)) = frame.split_first_chunk::<4>() else {
            return Ending::Broken(format!("an answer of {} bytes, too short for its header", frame.len()));
        };
        let correlation = i32::from_be_bytes(*correlation);
        let Some(first) = lock(waiting).pop_front() else {
            return Ending::Broken(format!("an answer with correlation id {correlation} that nobody asked for"));
        };
        if first.correlation != correlation {
            let expected = first.correlation;
            return Ending::Broken(format!("an answer with correlation id {correlation} instead of {expected}"));
        }
        // Whoever asked may be gone.
        let _ = first.answer.send(frame);
    }
}

/// Reads the next frame without its length. Memory grows with the bytes that have come, not with those that are
/// promised.
async fn read_frame(read: &mut (impl AsyncRead + Unpin), max_bytes: usize) -> Result<Bytes, Ending> {
    let length = read.read_i32().await?;
    let Some(length) = usize::try_from(length).ok().filter(|length| *length <= max_bytes) else {
        return Err(Ending::Broken(format!("an answer of {length} bytes, where {max_bytes} are allowed")));
    };
    let mut frame = BytesMut::with_capacity(length.min(FIRST_READ_BYTES));
    let mut rest = read.take(length as u64);
    while frame.len() < length {
        if frame.len() == frame.capacity() {
            frame.reserve((length - frame.len()).min(frame.len() * (READ_GROWTH - 1)));
        }
        if rest.read_buf(&mut frame).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
    }
    Ok(frame.freeze())
}
