//! Catching up by snapshot: a replica that lacks what its leader's log no longer has, or has nothing at all, is given
//! the closed segments up to P as files. The tail comes by Raft.
//!
//! | step | who | file |
//! | --- | --- | --- |
//! | P moves to the end of a closed segment; openraft purges up to there | leader | `advance.rs` |
//! | openraft finds that a follower is behind that and offers a snapshot, which names P | leader | |
//! | it asks for the manifest, and for the pieces of the segments that it lacks | follower | `receiving.rs` |
//! | the files stay for as long as they are asked for | leader | `sending.rs` |
//! | the log is switched over to them, and openraft with it | follower | `receiving.rs`, `state_machine.rs` |
//!
//! Pieces have at most 1 MiB, a few of them are asked for ahead, and a few replicas are filled at a time, so that what
//! is on its way is bounded and Raft's own messages, which go before, wait for one piece at most.

mod advance;
mod messages;
mod receiving;
mod sending;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use millpond_record::LogId;
use millpond_runtime::Runtime;
use millpond_storage::{Installation, StorageError};
use tokio::time::Instant;

pub(crate) use advance::{AdvanceError, advance, tell};
pub(crate) use receiving::{Receiver, install};
pub(crate) use sending::Shipments;

/// The service under which brokers ask each other for pieces; see [`Peers::call`](crate::Peers::call).
pub(crate) const CATCH_UP_SERVICE: u16 = 0xfe01;

/// The longest piece in bytes.
pub(crate) const PIECE_BYTES: usize = 1 << 20;

/// How long another broker may take for one piece.
pub(crate) const ANSWER_TIME: Duration = Duration::from_secs(20);

/// What was gathered of a snapshot that openraft is about to install.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    installation: Mutex<Option<Installation>>,
    /// Held from the first look to the end of the installation: a leader that hears nothing offers its snapshot again,
    /// and what is being put in place must not be begun anew.
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Gathered {
    pub(crate) fn put(&self, installation: Installation) {
        *self.installation.lock().unwrap_or_else(PoisonError::into_inner) = Some(installation);
    }

    /// The log as of P. Whatever else was gathered is of no use any more.
    pub(crate) fn take(&self, p: LogId) -> Option<Installation> {
        let gathered = self.installation.lock().unwrap_or_else(PoisonError::into_inner).take();
        gathered.filter(|gathered| gathered.manifest().position.log_id() == p)
    }
}

/// Held by who fills a replica until that is done. What was gathered and is not installed by then is let go: its files
/// stay, and are found again.
pub(crate) struct Filling {
    gathered: Arc<Gathered>,
    _turn: tokio::sync::OwnedMutexGuard<()>,
}

impl Filling {
    /// Resolves when nobody else fills the replica.
    pub(crate) async fn begin(gathered: Arc<Gathered>) -> Filling {
        let turn = Arc::clone(&gathered.turn).lock_owned().await;
        Filling { gathered, _turn: turn }
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        let left = self.gathered.installation.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(left);
    }
}

/// Why a replica was not filled. It is tried again; what was received is found again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CatchUpError {
    /// The other broker did not answer, or refused.
    #[error(transparent)]
    Call(#[from] crate::CallError),
    /// It answered with something else.
    #[error("the other broker's answer cannot be read: {0}")]
    Answer(String),
    /// The log cannot be filled, or its disk does not take it.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// A limit in bytes per second that all replicas of a broker share which are filled.
#[derive(Debug)]
pub(crate) struct Throttle {
    bytes_per_second: AtomicU64,
    /// When what was let through so far would be through at the limit.
    free_at: Mutex<Option<Instant>>,
}

impl Throttle {
    /// No limit.
    pub(crate) fn none() -> Throttle {
        Throttle { bytes_per_second: AtomicU64::new(0), free_at: Mutex::new(None) }
    }

    /// Changes the limit; 0 is none.
    pub(crate) fn set(&self, bytes_per_second: u64) {
        self.bytes_per_second.store(bytes_per_second, Ordering::Relaxed);
    }

    /// Resolves when so many bytes more may be asked for.
    async fn pass(&self, runtime: &Runtime, bytes: u64) {
        let limit = self.bytes_per_second.load(Ordering::Relaxed);
        if limit == 0 {
            return;
        }
        let now = runtime.now();
        let begin = {
            let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
            let begin = free_at.map_or(now, |free_at| free_at.max(now));
            let takes = Duration::from_micros((u128::from(bytes) * 1_000_000 / u128::from(limit)) as u64);
            *free_at = Some(begin + takes);
            begin
        };
        runtime.sleep_until(begin).await;
    }
}
