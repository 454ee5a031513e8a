//! What waits to be written to a connection, and the task that writes it.
//!
//! Two queues: what is urgent (beats, votes, entries of the metadata, answers of Raft) is written before anything else
//! that waits, so that bulk data delays it by no more than what is being written. Each queue keeps its order.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::ready;

use bytes::{Buf, Bytes};
use millpond_runtime::WriteHalf;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, OwnedSemaphorePermit};

use super::frame::Outgoing;

/// Chunks that are handed to the system at a time, and the bytes from which on no further frame joins them.
const WRITE_CHUNKS: usize = 64;
const WRITE_BYTES: usize = 256 << 10;

/// When a frame is written, compared with others that wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Urgency {
    First,
    InTurn,
}

/// The frames of one connection that wait to be written.
#[derive(Default)]
pub(super) struct Outbox {
    waiting: Mutex<Waiting>,
    changed: Notify,
    /// The bytes written so far.
    written: AtomicU64,
}

#[derive(Default)]
struct Waiting {
    first: VecDeque<Queued>,
    in_turn: VecDeque<Queued>,
    bytes: usize,
    /// Urgent frames that are being written.
    writing_first: usize,
    closed: bool,
}

struct Queued {
    frame: Outgoing,
    /// Given back when the frame is written.
    _hold: Option<OwnedSemaphorePermit>,
}

impl Outbox {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a frame. False when the connection is gone, and the frame with it.
    pub(super) fn send(&self, urgency: Urgency, frame: Outgoing) -> bool {
        self.send_holding(urgency, frame, None)
    }

    /// Queues a frame and gives `hold` back when it is written.
    pub(super) fn send_holding(&self, urgency: Urgency, frame: Outgoing, hold: Option<OwnedSemaphorePermit>) -> bool {
        {
            let mut waiting = self.waiting();
            if waiting.closed {
                return false;
            }
            waiting.bytes += frame.len();
            let queued = Queued { frame, _hold: hold };
            match urgency {
                Urgency::First => waiting.first.push_back(queued),
                Urgency::InTurn => waiting.in_turn.push_back(queued),
            }
        }
        self.changed.notify_one();
        true
    }

    /// The bytes that wait.
    pub(super) fn bytes(&self) -> usize {
        self.waiting().bytes
    }

    /// The bytes written so far, while something urgent waits behind them.
    pub(super) fn progress(&self) -> Option<u64> {
        let waiting = self.waiting();
        let urgent = waiting.writing_first > 0 || !waiting.first.is_empty();
        urgent.then(|| self.written.load(Ordering::Relaxed))
    }

    /// Forgets what waits, takes nothing more, and ends the writer.
    pub(super) fn close(&self) {
        let dropped = {
            let mut waiting = self.waiting();
            waiting.closed = true;
            waiting.bytes = 0;
            (std::mem::take(&mut waiting.first), std::mem::take(&mut waiting.in_turn))
        };
        drop(dropped);
        self.changed.notify_one();
    }

    /// The lengths of the frames that are written next.
    #[cfg(test)]
    pub(super) fn taken(&self) -> Vec<usize> {
        let mut frames = Vec::new();
        self.take(&mut frames).expect("it is open");
        frames.iter().map(|queued| queued.frame.len()).collect()
    }

    /// Takes what is written next; `None` when closed.
    fn take(&self, frames: &mut Vec<Queued>) -> Option<()> {
        let mut waiting = self.waiting();
        if waiting.closed {
            return None;
        }
        let (mut chunks, mut bytes) = (0, 0);
        waiting.writing_first = 0;
        while chunks < WRITE_CHUNKS && bytes < WRITE_BYTES {
            let next = match waiting.first.pop_front() {
                Some(first) => {
                    waiting.writing_first += 1;
                    first
                }
                None => match waiting.in_turn.pop_front() {
                    Some(next) => next,
                    None => break,
                },
            };
            chunks += next.frame.chunks();
            bytes += next.frame.len();
            frames.push(next);
        }
        waiting.bytes -= bytes;
        Some(())
    }

    /// Writes what is queued until the outbox is closed or the connection breaks.
    pub(super) async fn run(&self, mut stream: WriteHalf) -> io::Result<()> {
        let (mut frames, mut chunks) = (Vec::new(), VecDeque::new());
        loop {
            if self.take(&mut frames).is_none() {
                return stream.shutdown().await;
            }
            if frames.is_empty() {
                self.changed.notified().await;
                continue;
            }
            chunks.extend(frames.iter_mut().flat_map(|queued| queued.frame.take_chunks()));
            write_all(&mut stream, &mut chunks, &self.written).await?;
            frames.clear();
        }
    }
}

/// Writes all chunks, as many at a time as the system takes, and counts the bytes.
pub(super) async fn write_all(
    stream: &mut WriteHalf,
    chunks: &mut VecDeque<Bytes>,
    count: &AtomicU64,
) -> io::Result<()> {
    while !chunks.is_empty() {
        let mut written = poll_fn(|context| {
            let mut slices = [IoSlice::new(&[]); WRITE_CHUNKS];
            let count = chunks.len().min(WRITE_CHUNKS);
            for (slice, chunk) in slices.iter_mut().zip(chunks.iter()) {
                *slice = IoSlice::new(chunk);
            }
            let written = ready!(Pin::new(&mut *stream).poll_write_vectored(context, &slices[..count]))?;
            std::task::Poll::Ready(io::Result::Ok(written))
        })
        .await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        count.fetch_add(written as u64, Ordering::Relaxed);
        while let Some(front) = chunks.front_mut() {
            if written < front.len() {
                front.advance(written);
                break;
            }
            written -= front.len();
            chunks.pop_front();
        }
    }
    Ok(())
}
