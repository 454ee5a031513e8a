//! Moving P in a group with an openraft object: P durable, then openraft's snapshot and purge, and only then may files
//! go. (A file that is deleted before openraft has purged what it holds ends the leader's group.)

use std::sync::Arc;
use std::time::Duration;

use millpond_record::{LogId, RaftIndex};
use millpond_runtime::Runtime;
use millpond_storage::{Log, LogPosition, StorageError};
use openraft::Raft;
use openraft::async_runtime::WatchReceiver;
use tokio::sync::oneshot;

use crate::state_machine::StateMachine;
use crate::types::{RaftLogId, TypeConfig, to_raft};

/// How long openraft may take to hear that there is a snapshot. Without it nothing is purged, and it is tried again
/// with the next move of P.
const SNAPSHOT_TIME: Duration = Duration::from_secs(10);

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
    log: &Arc<Log>,
    raft: &Raft<TypeConfig, StateMachine>,
    up_to: RaftIndex,
) -> Result<Option<LogId>, AdvanceError> {
    let Some(boundary) = log.boundary_at_or_below(up_to) else { return Ok(None) };
    let (done, durable) = oneshot::channel();
    let moving = Arc::clone(log);
    let moved = runtime.blocking(move || {
        let membership = moving.row().membership;
        moving.advance_p(boundary, membership, Box::new(move |result| drop(done.send(result))))
    });
    let position = match moved.await {
        Ok(position) => position,
        // It moved meanwhile, by retention.
        Err(StorageError::NotABoundary { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    durable.await.map_err(|_| StorageError::LogClosed(log.group()))??;
    tell(runtime, raft, position).await?;
    Ok(Some(position.log_id()))
}

/// P is durable: openraft's snapshot is as of P, and it reads nothing below any more once it has purged that.
pub(crate) async fn tell(
    runtime: &Runtime,
    raft: &Raft<TypeConfig, StateMachine>,
    p: LogPosition,
) -> Result<(), AdvanceError> {
    let wanted: RaftLogId = to_raft(p.log_id());
    raft.trigger().snapshot().await.map_err(|_| AdvanceError::Stopped)?;
    let mut metrics = raft.metrics();
    let built = async {
        while metrics.borrow_watched().snapshot.as_ref() < Some(&wanted) {
            metrics.changed().await.map_err(|_| AdvanceError::Stopped)?;
        }
        Ok(())
    };
    match runtime.timeout(SNAPSHOT_TIME, built).await {
        Ok(built) => built?,
        Err(_) => return Ok(()),
    }
    raft.trigger().purge_log(p.index.0).await.map_err(|_| AdvanceError::Stopped)
}
