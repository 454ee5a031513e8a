//! One client connection: frames in, requests dispatched, responses out in request order.
//!
//! The connection is one task without locks or channels. A request is handled as soon as its frame is complete; what it
//! waits for is either its *turn* (a produce that is being flushed: later requests are handled meanwhile, its response
//! keeps its place) or a *stage* (memory, a fetch that waits for data, a topic that is being created: later requests
//! wait too). Completion of the response whose turn it is wakes this very task, which writes it out: no other hop.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use millpond_runtime::Stream;
use millpond_storage::StorageError;
use tokio::io::AsyncWrite;
use tokio::time::{Instant, Sleep};
use tracing::{debug, info};

use crate::broker::Shared;
use crate::dispatch::{self, Call, CloseReason, Reply, Step};
use crate::frame::FrameReader;
use crate::memory::{AnswerShare, Share};
use crate::metadata::View;
use crate::outgoing::Outgoing;
use crate::patience::{Look, PACE_WINDOW, Patience};

/// Chunks in one vectored write; more than this the system refuses (IOV_MAX is 1024) or does not reward.
const WRITE_CHUNKS: usize = 512;
/// Handling stops while this many response bytes wait, be it for their turn or for a client that does not read.
const MAX_UNSENT_BYTES: usize = 4 << 20;

/// How long a large request may take to arrive.
const GATHER_TIME: Duration = Duration::from_secs(60);

pub(crate) struct Connection {
    shared: Arc<Shared>,
    stream: Stream,
    peer: SocketAddr,
    view: View,
    frames: FrameReader,
    /// Memory for a large request that is being read.
    gathering: Gathering,
    /// A request that waits until everything before it is answered.
    held: Option<(Timing, Call)>,
    /// The client is over its quota: nothing is handled until then.
    muted: Option<Pin<Box<Sleep>>>,
    stage: Option<(Timing, BoxFuture<'static, Step>)>,
    pending: VecDeque<Pending>,
    out: VecDeque<Outgoing>,
    /// What is first in `out` waited too long in its file, and is read into memory.
    recalling: Option<BoxFuture<'static, Result<(Bytes, AnswerShare), StorageError>>>,
    /// What responses in `out` hold of the memory for answers, and at which count of sent bytes they give it back.
    shares: VecDeque<(u64, AnswerShare)>,
    /// Bytes that were ever put into `out`, and taken out of it.
    queued_bytes: u64,
    sent_bytes: u64,
    /// Response bytes that are not sent: those in `out`, and those that wait for their turn.
    unsent_bytes: usize,
    /// Cleared when the broker stops: nothing more is read.
    reading: bool,
    /// The client is gone; what it sent before with acks=0 is still written.
    left: Option<CloseReason>,
    received_bytes: u64,
    patience: Patience,
    /// When the client is looked at again.
    look_at: Pin<Box<Sleep>>,
}

/// What a request is measured by when it is answered.
#[derive(Clone, Copy)]
struct Timing {
    api: usize,
    start: Instant,
}

/// A large request has its share of the memory before it is read, so that what waits in line is not in memory already.
enum Gathering {
    Idle,
    Waiting(BoxFuture<'static, Share>),
    Reading { share: Share, deadline: Pin<Box<Sleep>> },
}

struct Pending {
    timing: Timing,
    reply: Reply,
}

impl Connection {
    pub(crate) fn new(shared: Arc<Shared>, stream: Stream, peer: SocketAddr) -> Connection {
        let frames = FrameReader::new(shared.config.request_max_bytes as usize);
        let view = shared.metadata.view();
        let max_idle = shared.config.max_idle;
        let patience = Patience::new(shared.runtime.now(), max_idle);
        let look_at = Box::pin(shared.runtime.sleep(max_idle));
        Connection {
            shared,
            stream,
            peer,
            view,
            frames,
            gathering: Gathering::Idle,
            held: None,
            muted: None,
            stage: None,
            pending: VecDeque::new(),
            out: VecDeque::new(),
            recalling: None,
            shares: VecDeque::new(),
            queued_bytes: 0,
            sent_bytes: 0,
            unsent_bytes: 0,
            reading: true,
            left: None,
            received_bytes: 0,
            patience,
            look_at,
        }
    }

    /// Serves the connection to its end.
    pub(crate) async fn serve(mut self) {
        let shared = Arc::clone(&self.shared);
        let _open = shared.metrics.connection_opened();
        let mut stopped = pin!(shared.stopping.cancelled());
        let mut stop_seen = false;
        let reason = poll_fn(|context| {
            if !stop_seen && stopped.as_mut().poll(context).is_ready() {
                stop_seen = true;
                self.reading = false;
            }
            self.poll(context)
        })
        .await;
        match reason {
            CloseReason::Left => debug!(peer = %self.peer, "connection closed by the client"),
            CloseReason::Stopping => debug!(peer = %self.peer, "connection closed: the broker stops"),
            CloseReason::Io(error) => debug!(peer = %self.peer, "connection lost: {error}"),
            CloseReason::Refused(why) => info!(peer = %self.peer, "connection closed: {why}"),
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<CloseReason> {
        if self.left.is_none() {
            match self.advance_present(context) {
                Err(reason @ (CloseReason::Left | CloseReason::Io(_))) => self.left = Some(reason),
                Err(reason) => return Poll::Ready(reason),
                Ok(()) => return Poll::Pending,
            }
        }
        self.finish(context)
    }

    /// Whether the client waits for the broker: for an answer, for memory, for the end of a throttle.
    fn is_waited_for(&self) -> bool {
        self.stage.is_some()
            || self.held.is_some()
            || !self.pending.is_empty()
            || self.muted.is_some()
            || self.recalling.is_some()
            || matches!(self.gathering, Gathering::Waiting(_))
    }

    /// Hands over what a client sent before it left: every batch that arrived whole is written, as in Kafka. Nobody
    /// waits for an answer any more.
    fn finish(&mut self, context: &mut Context<'_>) -> Poll<CloseReason> {
        self.gathering = Gathering::Idle;
        self.out.clear();
        self.recalling = None;
        self.shares.clear();
        loop {
            self.muted = None;
            self.pending.clear();
            self.unsent_bytes = 0;
            self.held.take_if(|(_, call)| !call.is_pipelined());
            self.stage.take_if(|(timing, _)| !dispatch::APIS[timing.api].pipelined);
            if let Err(reason) = self.run_stage(context).and_then(|()| self.handle_frames(context)) {
                return Poll::Ready(reason);
            }
            if self.stage.is_some() && self.reading {
                return Poll::Pending;
            }
            if !self.reading || (self.held.is_none() && self.frames.wants_bytes()) {
                return Poll::Ready(self.left.take().unwrap_or(CloseReason::Left));
            }
        }
    }

    fn advance_present(&mut self, context: &mut Context<'_>) -> Result<(), CloseReason> {
        self.advance(context).and_then(|()| self.look_at_client(context))
    }

    /// Closes the connection of a client that was waited for long enough.
    fn look_at_client(&mut self, context: &mut Context<'_>) -> Result<(), CloseReason> {
        let owes = self.frames.is_gathering() || !self.out.is_empty();
        if owes {
            // An idle client's next look may be far.
            let soon = self.shared.runtime.now() + PACE_WINDOW;
            if self.look_at.deadline() > soon {
                self.look_at.as_mut().reset(soon);
            }
        }
        while self.look_at.as_mut().poll(context).is_ready() {
            let look = Look {
                moved: self.received_bytes + self.sent_bytes,
                owes,
                working: self.is_waited_for(),
                memory_short: self.shared.produce_memory.is_short() || self.shared.answer_memory.is_short(),
            };
            match self.patience.look(self.shared.runtime.now(), look) {
                Ok(next) => self.look_at.as_mut().reset(next),
                Err(why) => {
                    self.shared.metrics.connections_timed_out.increment(1);
                    return Err(CloseReason::Refused(why.to_string()));
                }
            }
        }
        Ok(())
    }

    /// Does all that can be done without waiting. On return each thing that is waited for has the waker.
    fn advance(&mut self, context: &mut Context<'_>) -> Result<(), CloseReason> {
        loop {
            self.run_stage(context)?;
            self.handle_frames(context)?;
            self.collect_replies(context)?;
            self.write(context)?;
            if !self.reading {
                return self.drained();
            }
            let unmuted = self.muted.as_mut().is_some_and(|until| until.as_mut().poll(context).is_ready());
            if unmuted {
                self.muted = None;
            }
            if self.may_handle() && (self.held.is_some() || !self.frames.wants_bytes()) {
                continue; // An answer made room for the next request.
            }
            // While nothing may be handled this only fills the buffer up to the next whole frame, and sees the end.
            // No memory is taken for a request behind one that may wait for long, or of a client that is muted.
            let must_wait = self.muted.is_some() || self.stage.is_some() || self.held.is_some();
            let gathers = must_wait && self.frames.large_frame().is_some();
            if !self.frames.wants_bytes() || gathers || self.gather(context)?.is_pending() {
                return Ok(());
            }
            match self.frames.poll_read(Pin::new(&mut self.stream), context) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Err(error)) => return Err(CloseReason::Io(error)),
                Poll::Ready(Ok(0)) => return Err(CloseReason::Left),
                Poll::Ready(Ok(read)) => {
                    self.shared.metrics.bytes_in.increment(read as u64);
                    self.received_bytes += read as u64;
                    self.patience.moved(self.shared.runtime.now());
                }
            }
        }
    }

    /// Takes memory for a large request before it is read, and sees that it arrives in time.
    fn gather(&mut self, context: &mut Context<'_>) -> Result<Poll<()>, CloseReason> {
        loop {
            match &mut self.gathering {
                Gathering::Idle => {
                    let Some(bytes) = self.frames.large_frame() else { return Ok(Poll::Ready(())) };
                    match self.shared.produce_memory.try_take(bytes) {
                        Some(share) => self.begin_gathering(share),
                        None => {
                            let shared = Arc::clone(&self.shared);
                            let waiting = async move { shared.produce_memory.take(bytes).await };
                            self.gathering = Gathering::Waiting(Box::pin(waiting));
                        }
                    }
                }
                Gathering::Waiting(waiting) => match waiting.as_mut().poll(context) {
                    Poll::Ready(share) => self.begin_gathering(share),
                    Poll::Pending => return Ok(Poll::Pending),
                },
                Gathering::Reading { deadline, .. } => {
                    if deadline.as_mut().poll(context).is_ready() {
                        let limit = GATHER_TIME.as_secs();
                        return Err(CloseReason::Refused(format!("a request did not arrive within {limit} seconds")));
                    }
                    return Ok(Poll::Ready(()));
                }
            }
        }
    }

    fn begin_gathering(&mut self, share: Share) {
        let deadline = Box::pin(self.shared.runtime.sleep(GATHER_TIME));
        self.gathering = Gathering::Reading { share, deadline };
    }

    /// Whether another request may be handled now.
    fn may_handle(&self) -> bool {
        self.muted.is_none()
            && self.stage.is_none()
            && (self.held.is_none() || self.pending.is_empty())
            && self.pending.len() < self.shared.config.max_pending
            && self.unsent_bytes < MAX_UNSENT_BYTES
    }

    /// After the last read: closes when everything is answered.
    fn drained(&self) -> Result<(), CloseReason> {
        if self.stage.is_none() && self.pending.is_empty() && self.out.is_empty() {
            Err(CloseReason::Stopping)
        } else {
            Ok(())
        }
    }

    fn run_stage(&mut self, context: &mut Context<'_>) -> Result<(), CloseReason> {
        while let Some((timing, stage)) = &mut self.stage {
            let Poll::Ready(step) = stage.as_mut().poll(context) else { break };
            let timing = *timing;
            self.stage = None;
            self.take_step(timing, step)?;
        }
        Ok(())
    }

    fn take_step(&mut self, timing: Timing, step: Step) -> Result<(), CloseReason> {
        match step {
            Step::Stage(stage) => self.stage = Some((timing, stage)),
            Step::Reply(reply) => self.take_reply(timing, reply),
            Step::Throttled(reply, wait) => {
                self.take_reply(timing, reply);
                self.muted = Some(Box::pin(self.shared.runtime.sleep(wait)));
            }
            Step::Close(reason) => return Err(reason),
        }
        Ok(())
    }

    fn take_reply(&mut self, timing: Timing, reply: Reply) {
        self.unsent_bytes += reply.ready_bytes();
        self.pending.push_back(Pending { timing, reply });
    }

    fn handle_frames(&mut self, context: &mut Context<'_>) -> Result<(), CloseReason> {
        while self.reading && self.may_handle() {
            let (timing, mut call) = match self.held.take() {
                Some(held) => held,
                None => match self.next_call()? {
                    Some(next) => next,
                    None => return Ok(()),
                },
            };
            if self.left.is_some() && !call.is_pipelined() {
                continue;
            }
            if !call.is_pipelined() && !self.pending.is_empty() {
                self.held = Some((timing, call));
                return Ok(());
            }
            self.view.refresh();
            call.snapshot = self.view.snapshot();
            let step = dispatch::begin(call);
            self.take_step(timing, step)?;
            self.run_stage(context)?;
        }
        Ok(())
    }

    fn next_call(&mut self) -> Result<Option<(Timing, Call)>, CloseReason> {
        let frame = match self.frames.next_frame() {
            Ok(Some(frame)) => frame,
            Ok(None) => return Ok(None),
            Err(error) => return Err(CloseReason::Refused(error.to_string())),
        };
        let share = match frame.is_large {
            true => match std::mem::replace(&mut self.gathering, Gathering::Idle) {
                Gathering::Reading { share, .. } => Some(share),
                Gathering::Idle | Gathering::Waiting(_) => None,
            },
            false => None,
        };
        let start = self.shared.runtime.now();
        let call = Call::read(&self.shared, &self.view, self.peer, frame, share)?;
        Ok(Some((Timing { api: call.api_index(), start }, call)))
    }

    /// Moves the responses that are ready, from the front, to the bytes to write.
    fn collect_replies(&mut self, context: &mut Context<'_>) -> Result<(), CloseReason> {
        while let Some(front) = self.pending.front_mut() {
            if let Reply::Later(later) = &mut front.reply {
                let Poll::Ready(reply) = later.as_mut().poll(context) else { return Ok(()) };
                self.unsent_bytes += reply.ready_bytes();
                front.reply = reply;
                continue;
            }
            let Pending { timing, reply } = self.pending.pop_front().expect("there is a front");
            self.shared.metrics.answered(timing.api, self.shared.runtime.now() - timing.start);
            match reply {
                Reply::Ready(chunks, share) => {
                    self.queued_bytes += chunks.iter().map(|chunk| chunk.len() as u64).sum::<u64>();
                    for chunk in chunks.into_iter().filter(|chunk| !chunk.is_empty()) {
                        self.out.push_back(Outgoing::of(chunk)?);
                    }
                    self.shares.extend(share.map(|share| (self.queued_bytes, share)));
                }
                Reply::Nothing => {}
                Reply::Close(why) => return Err(CloseReason::Refused(why)),
                Reply::Later(_) => unreachable!("polled above until it is something else"),
            }
        }
        Ok(())
    }

    fn write(&mut self, context: &mut Context<'_>) -> Result<(), CloseReason> {
        while !self.out.is_empty() {
            let now = self.shared.runtime.now().into_std();
            if self.recall(context, now)?.is_pending() {
                break;
            }
            match self.poll_write(context, now) {
                Poll::Pending => break,
                Poll::Ready(Ok(0)) => return Err(CloseReason::Io(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(written)) => {
                    self.shared.metrics.bytes_out.increment(written as u64);
                    self.sent(written);
                }
                Poll::Ready(Err(error)) => return Err(CloseReason::Io(error)),
            }
        }
        Ok(())
    }

    /// Sees to it that what is first in `out` may be sent: brings it into memory if it waited too long in its file.
    fn recall(&mut self, context: &mut Context<'_>, now: std::time::Instant) -> Result<Poll<()>, CloseReason> {
        let Some(Outgoing::File(run)) = self.out.front() else { return Ok(Poll::Ready(())) };
        if self.recalling.is_none() {
            if run.range(now).is_some() {
                return Ok(Poll::Ready(()));
            }
            let (run, mut share) = (run.clone(), self.shared.answer_memory.share());
            if share.reserve(run.recall_bytes()) != Some(run.recall_bytes()) {
                let why = "it reads slowly, and there is no memory to keep its answer for longer";
                return Err(CloseReason::Refused(why.to_owned()));
            }
            self.shared.metrics.answers_recalled.increment(1);
            let reading = self.shared.runtime.blocking(move || run.recall());
            self.recalling = Some(Box::pin(async move { Ok((reading.await?, share)) }));
        }
        let Some(recalling) = &mut self.recalling else { return Ok(Poll::Ready(())) };
        let Poll::Ready(recalled) = recalling.as_mut().poll(context) else { return Ok(Poll::Pending) };
        self.recalling = None;
        let (bytes, share) = recalled.map_err(|error| {
            tracing::error!(peer = %self.peer, "an answer cannot be sent to its end: {error}");
            CloseReason::Refused(error.to_string())
        })?;
        // It ends before any answer that has a share of its own.
        self.shares.push_front((self.sent_bytes + bytes.len() as u64, share));
        self.out[0] = Outgoing::Bytes(bytes);
        Ok(Poll::Ready(()))
    }

    fn poll_write(&mut self, context: &mut Context<'_>, now: std::time::Instant) -> Poll<io::Result<usize>> {
        let stream = Pin::new(&mut self.stream);
        match self.out.front() {
            Some(Outgoing::File(run)) => {
                let Some(range) = run.range(now) else { return Poll::Pending };
                return stream.poll_send_file(context, &range);
            }
            Some(Outgoing::Bytes(bytes)) if self.out.len() == 1 => return stream.poll_write(context, bytes),
            _ => {}
        }
        let mut slices = [IoSlice::new(&[]); WRITE_CHUNKS];
        let mut count = 0;
        for (slice, next) in slices.iter_mut().zip(&self.out) {
            let Outgoing::Bytes(bytes) = next else {
                return stream.poll_write_more(context, &slices[..count]);
            };
            *slice = IoSlice::new(bytes);
            count += 1;
        }
        stream.poll_write_vectored(context, &slices[..count])
    }

    fn sent(&mut self, mut written: usize) {
        self.patience.moved(self.shared.runtime.now());
        self.unsent_bytes -= written;
        self.sent_bytes += written as u64;
        while self.shares.front().is_some_and(|(until, _)| *until <= self.sent_bytes) {
            self.shares.pop_front();
        }
        while let Some(front) = self.out.front_mut() {
            if written < front.len() {
                front.advance(written);
                return;
            }
            written -= front.len();
            self.out.pop_front();
        }
    }
}
