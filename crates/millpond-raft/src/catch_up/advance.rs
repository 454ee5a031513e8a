//! Moving P in a group with an openraft object: P durable, then openraft's snapshot and purge, and only then may files
//! go. (A file that is deleted before openraft has purged what it holds ends the leader's group.)

use std::sync::Arc;
use std::time::Duration;

use millpond_record::{GroupId, LogId, RaftIndex};
use millpond_runtime::Runtime;
use millpond_storage::{Log, LogPosition, StorageError};
use openraft::async_runtime::WatchReceiver;
use openraft::{Raft, RaftMetrics};
use tokio::sync::oneshot;

use crate::peers::Peers;
use crate::state_machine::StateMachine;
use crate::types::{RaftLogId, TypeConfig, to_raft};

/// How long openraft may take to hear that there is a snapshot. Without it nothing is purged, and it is tried again
/// with the next move of P, or the next look for what can go.
const HEARS_IN: Duration = Duration::from_secs(10);
/// How long it may take to purge, and how often it is helped.
const PURGES_IN: Duration = Duration::from_millis(100);
const TRIES: u32 = 3;

/// Why P did not move, or openraft did not hear of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AdvanceError {
    /// The journal, or the log.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The group has stopped.
    #[error("the group has stopped")]
    Stopped,
}

/// Moves P to the last end of a closed segment at or below `up_to`, which every replica that is to go on by Raft must
/// have. Tells where P is then, if it moved. Any replica may do it; only committed entries are considered.
pub(crate) async fn advance(
    runtime: &Runtime,
    peers: &Peers,
    log: &Arc<Log>,
    raft: &Raft<TypeConfig, StateMachine>,
    up_to: RaftIndex,
) -> Result<Option<LogId>, AdvanceError> {
    let Some(boundary) = log.boundary_at_or_below(up_to) else { return Ok(None) };
    let (done, durable) = oneshot::channel();
    let moving = Arc::clone(log);
    let moved = runtime.blocking(move || {
        let membership = moving.membership_as_of(boundary);
        moving.advance_p(boundary, membership, Box::new(move |result| drop(done.send(result))))
    });
    let position = match moved.await {
        Ok(position) => position,
        // It moved meanwhile, by retention.
        Err(StorageError::NotABoundary { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    durable.await.map_err(|_| StorageError::LogClosed(log.group()))??;
    tell(runtime, peers, log.group(), raft, position).await?;
    Ok(Some(position.log_id()))
}

/// P is durable: openraft's snapshot is as of P, and it reads nothing below any more once it has purged that.
pub(crate) async fn tell(
    runtime: &Runtime,
    peers: &Peers,
    group: GroupId,
    raft: &Raft<TypeConfig, StateMachine>,
    p: LogPosition,
) -> Result<(), AdvanceError> {
    let wanted: RaftLogId = to_raft(p.log_id());
    raft.trigger().snapshot().await.map_err(|_| AdvanceError::Stopped)?;
    if !until(runtime, raft, HEARS_IN, |metrics| metrics.snapshot.as_ref() >= Some(&wanted)).await? {
        return Ok(());
    }
    raft.trigger().purge_log(p.index.0).await.map_err(|_| AdvanceError::Stopped)?;
    for _ in 0..TRIES {
        if until(runtime, raft, PURGES_IN, |metrics| metrics.purged.as_ref() >= Some(&wanted)).await? {
            break;
        }
        // Streams to brokers that are away hold it up.
        peers.wait_no_longer(group);
    }
    Ok(())
}

/// Whether openraft's figures say so in time.
async fn until(
    runtime: &Runtime,
    raft: &Raft<TypeConfig, StateMachine>,
    limit: Duration,
    condition: impl Fn(&RaftMetrics<TypeConfig>) -> bool,
) -> Result<bool, AdvanceError> {
    let mut metrics = raft.metrics();
    let holds = async {
        while !condition(&metrics.borrow_watched()) {
            metrics.changed().await.map_err(|_| AdvanceError::Stopped)?;
        }
        Ok::<(), AdvanceError>(())
    };
    match runtime.timeout(limit, holds).await {
        Ok(held) => held.map(|()| true),
        Err(_) => Ok(false),
    }
}
