//! Receiving side: asks for the manifest and for what the log lacks of it, and switches the log over.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures::StreamExt;
use millpond_record::{GroupId, LogId};
use millpond_runtime::Runtime;
use millpond_storage::{Installation, Log, MAX_MANIFEST_BYTES, Manifest, SegmentPart, StorageError, Wanted};
use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::CancellationToken;

use super::messages::{Done, Piece, Request, Stretch, Unproven, Wish};
use super::sending::IDLE;
use super::{CatchUpError, PIECE_BYTES, Throttle};
use crate::membership;
use crate::peers::CallError;

/// Pieces of one replica that are asked for ahead.
const AHEAD: usize = 8;
/// Replicas of a broker that are filled at a time.
const AT_ONCE: usize = 4;
/// How often a segment may turn out not to be what the manifest says before the filling is given up.
const MOST_DAMAGED: u32 = 3;
/// How often a switch is tried that failed in a way that need not pass.
const TRIES: u32 = 8;
/// The first pause before what failed is tried again, each longer than the one before, and the longest.
const PAUSE: Duration = Duration::from_millis(25);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How often the other broker is told that its files are in use still: proving what is here, or the limit, may take
/// long.
const KEPT_EVERY: Duration = Duration::from_secs(IDLE.as_secs() / 4);

/// Fills replicas of this broker.
pub(crate) struct Receiver {
    runtime: Runtime,
    throttle: Throttle,
    turns: Semaphore,
}

impl Receiver {
    pub(crate) fn new(runtime: Runtime) -> Receiver {
        Receiver { runtime, throttle: Throttle::none(), turns: Semaphore::new(AT_ONCE) }
    }

    /// How many bytes per second all replicas together are filled with at most; 0 is no limit.
    pub(crate) fn set_limit(&self, bytes_per_second: u64) {
        self.throttle.set(bytes_per_second);
    }

    /// Gathers what a log must have to follow behind P. `ask` hands a request to a broker whose log has this P. What
    /// was gathered is beside the log, also when this fails or is dropped.
    pub(crate) async fn gather<F>(
        &self,
        log: Arc<Log>,
        p: LogId,
        ask: impl Fn(Bytes) -> F,
    ) -> Result<Installation, CatchUpError>
    where
        F: Future<Output = Result<Bytes, CallError>>,
    {
        let closed = |_| StorageError::LogClosed(log.group());
        let _turn = self.turns.acquire().await.map_err(closed)?;
        let group = log.group();
        let manifest = self.manifest(group, p, &ask).await?;
        if manifest.position.log_id() != p {
            return Err(CatchUpError::Answer(format!("its manifest is as of {}", manifest.position.log_id())));
        }
        tokio::select! {
            biased;
            gathered = self.fill(log, manifest, &ask) => gathered,
            never = self.keep(group, p, &ask) => match never {},
        }
    }

    /// Has the other broker keep its files.
    async fn keep<F>(&self, group: GroupId, p: LogId, ask: &impl Fn(Bytes) -> F) -> Infallible
    where
        F: Future<Output = Result<Bytes, CallError>>,
    {
        loop {
            self.runtime.sleep(KEPT_EVERY).await;
            let wish = Wish::Manifest(Stretch { position: 0, length: 0 });
            // If it cannot, asking for pieces fails, too.
            let _ = ask(Request { group, p, wish }.encode()).await;
        }
    }

    /// Gathers what a manifest names.
    async fn fill<F>(
        &self,
        log: Arc<Log>,
        manifest: Manifest,
        ask: &impl Fn(Bytes) -> F,
    ) -> Result<Installation, CatchUpError>
    where
        F: Future<Output = Result<Bytes, CallError>>,
    {
        let (group, p) = (log.group(), manifest.position.log_id());
        let (bytes, segments) = (manifest.bytes(), manifest.segments.len());
        let beginning = Arc::clone(&log);
        let mut installation = self.runtime.blocking(move || beginning.begin_install(manifest)).await?;
        let missing: u64 = installation.wanted().iter().map(|wanted| wanted.to - wanted.from).sum();
        tracing::info!(group = group.0, p = %p, segments, bytes, missing, "the replica is being filled by segments");
        let mut damaged = 0;
        while !installation.is_complete() {
            let pieces = pieces(&installation);
            let (returned, failed) = self.receive(group, p, installation, pieces, ask).await?;
            installation = returned;
            if let Some((unproven, why)) = failed {
                damaged += 1;
                tracing::warn!(group = group.0, %why, damaged, "a segment is received again");
                if damaged >= MOST_DAMAGED {
                    // The damage may be there, where nobody else would notice.
                    let done = Done { damaged: Some(unproven) };
                    let _ = ask(Request { group, p, wish: Wish::Done(done) }.encode()).await;
                    return Err(why.into());
                }
            }
        }
        // It lets go of its files by itself if it does not hear of it.
        let _ = ask(Request { group, p, wish: Wish::Done(Done { damaged: None }) }.encode()).await;
        Ok(installation)
    }

    /// Asks for the manifest, stretch by stretch.
    async fn manifest<F>(&self, group: GroupId, p: LogId, ask: &impl Fn(Bytes) -> F) -> Result<Manifest, CatchUpError>
    where
        F: Future<Output = Result<Bytes, CallError>>,
    {
        let mut bytes: Vec<u8> = Vec::new();
        let mut total = 0;
        loop {
            let length = (total - bytes.len() as u64).min(PIECE_BYTES as u64) as u32;
            let wish = Wish::Manifest(Stretch { position: bytes.len() as u64, length });
            let mut answer = ask(Request { group, p, wish }.encode()).await?;
            if answer.len() != 8 + length as usize {
                return Err(CatchUpError::Answer(format!("{} bytes of a manifest", answer.len())));
            }
            let whole = answer.get_u64_le();
            if whole > MAX_MANIFEST_BYTES || whole == 0 || (total != 0 && whole != total) {
                return Err(CatchUpError::Answer(format!("a manifest of {whole} bytes")));
            }
            total = whole;
            bytes.extend_from_slice(&answer);
            if bytes.len() as u64 == total {
                let manifest = Manifest::decode(&bytes).map_err(|error| CatchUpError::Answer(error.to_string()))?;
                let members = membership::decode(manifest.membership.clone()).map_err(CatchUpError::Answer)?;
                if members.voter_ids().next().is_none() {
                    return Err(CatchUpError::Answer("nobody votes in the group as of its manifest".to_owned()));
                }
                return Ok(manifest);
            }
        }
    }

    /// Receives pieces in order. Gives the installation back, with what is wrong when a segment turned out damaged.
    async fn receive<F>(
        &self,
        group: GroupId,
        p: LogId,
        mut installation: Installation,
        pieces: impl Iterator<Item = Piece>,
        ask: &impl Fn(Bytes) -> F,
    ) -> Result<(Installation, Option<(Unproven, StorageError)>), CatchUpError>
    where
        F: Future<Output = Result<Bytes, CallError>>,
    {
        let asked = futures::stream::iter(pieces).map(|piece| async move {
            self.throttle.pass(&self.runtime, piece.length.into()).await;
            let answer = ask(Request { group, p, wish: Wish::Piece(piece) }.encode()).await?;
            if answer.len() != piece.length as usize {
                return Err(CatchUpError::Answer(format!("a piece of {} bytes", answer.len())));
            }
            Ok((piece, answer))
        });
        let mut received = std::pin::pin!(asked.buffered(AHEAD));
        while let Some(answer) = received.next().await {
            let (piece, bytes) = answer?;
            let part = if piece.index { SegmentPart::Index } else { SegmentPart::Log };
            for attempt in 1.. {
                let bytes = bytes.clone();
                let taken = self.runtime.blocking(move || {
                    let taken = installation.write(piece.segment as usize, part, piece.position, &bytes);
                    (installation, taken)
                });
                let (returned, taken) = taken.await;
                installation = returned;
                match taken {
                    Ok(()) => break,
                    Err(why @ StorageError::NotInstallable { .. }) => {
                        let unproven = Unproven { segment: piece.segment, hash: piece.hash };
                        return Ok((installation, Some((unproven, why))));
                    }
                    // A full disk: to begin again would be to prove again all that is here.
                    Err(error) if error.is_passing() && !is_of_sync(&error) => {
                        pause(&self.runtime, group, &error, attempt).await
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok((installation, None))
    }
}

/// The pieces to ask for, in order.
fn pieces(installation: &Installation) -> impl Iterator<Item = Piece> + use<> {
    let with_hash = |wanted: Wanted| (wanted, installation.manifest().segments[wanted.segment].hash);
    let wanted: Vec<(Wanted, u64)> = installation.wanted().into_iter().map(with_hash).collect();
    wanted.into_iter().flat_map(|(Wanted { segment, part, from, to }, hash)| {
        (from..to).step_by(PIECE_BYTES).map(move |position| Piece {
            hash,
            segment: segment as u32,
            index: part == SegmentPart::Index,
            position,
            length: (to - position).min(PIECE_BYTES as u64) as u32,
        })
    })
}

/// Before what failed for the `attempt`th time is tried again.
async fn pause(runtime: &Runtime, group: GroupId, error: &StorageError, attempt: u32) {
    if attempt == TRIES {
        tracing::warn!(group = group.0, %error, "the replica waits to be filled");
    }
    runtime.sleep((PAUSE * (1 << attempt.min(10))).min(LONGEST_PAUSE)).await;
}

/// Whether a sync failed: then what was received of the segment is gone, and this piece of no use.
fn is_of_sync(error: &StorageError) -> bool {
    matches!(error, StorageError::Io { operation: "sync", .. })
}

/// Whether what failed is to be tried again, in a moment.
fn passes(error: &StorageError, attempt: u32) -> bool {
    match error {
        // A truncation is on its way to the disk; the segments that the log has cannot be written for now.
        StorageError::TruncationPending(_) | StorageError::Stalled { .. } => true,
        error if error.is_passing() => true,
        StorageError::Io { operation, .. } => *operation != "sync" && attempt < TRIES,
        _ => false,
    }
}

/// Switches a log over to what was gathered; it is durable when this returns. Ends with an error when the replica does.
pub(crate) async fn install(
    runtime: &Runtime,
    installation: Installation,
    ending: &CancellationToken,
) -> Result<(), StorageError> {
    let group = installation.group();
    tokio::select! {
        biased;
        () = ending.cancelled() => Err(StorageError::LogClosed(group)),
        switched = switch_over(runtime, installation) => switched,
    }
}

async fn switch_over(runtime: &Runtime, mut installation: Installation) -> Result<(), StorageError> {
    let group = installation.group();
    for attempt in 1.. {
        let (done, durable) = oneshot::channel();
        let submitted = runtime.blocking(move || {
            // The receiver is gone only when the replica is.
            let submitted = installation.submit(Box::new(move |result| drop(done.send(result))));
            (installation, submitted)
        });
        let (returned, submitted) = submitted.await;
        installation = returned;
        match submitted {
            Ok(()) => {
                durable.await.map_err(|_| StorageError::LogClosed(group))??;
                break;
            }
            Err(error) if passes(&error, attempt) => pause(runtime, group, &error, attempt).await,
            Err(error) => return Err(error),
        }
    }
    for attempt in 1.. {
        let switched = runtime.blocking(move || {
            let switched = installation.switch();
            (installation, switched)
        });
        let (returned, switched) = switched.await;
        installation = returned;
        match switched {
            Err(error) if error.is_passing() => pause(runtime, group, &error, attempt).await,
            switched => return switched,
        }
    }
    Ok(())
}
