//! Time, as the client reads it and waits for it: tokio's clock, which a simulation pauses.

#![expect(clippy::disallowed_methods, reason = "the client stands beside the broker's runtime and has its own seam")]

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

/// The monotonic clock.
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Completes after `pause`.
pub(crate) async fn sleep(pause: Duration) {
    tokio::time::sleep(pause).await;
}

/// What comes of `future` by `deadline`; `None` when it is later.
pub(crate) async fn by<F: Future>(deadline: Instant, future: F) -> Option<F::Output> {
    tokio::time::timeout_at(deadline, future).await.ok()
}

/// Completes at `time`; never without one.
pub(crate) async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
