//! The log start of a partition: moved through the gate, by request or by what retention asks for.

use std::sync::Arc;

use millpond_record::{Offset, Timestamp};
use millpond_storage::{Freeing, Limits, Outcome, Retained, StorageError};

use super::{Inner, Partition, Work};
use crate::error::{ProposeError, RaftError};
use crate::receipt::{Flight, Receipt, Written};

/// What retention did to a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Where the log start is now, if it moved.
    pub moved: Option<Offset>,
    /// Segments wait for a checkpoint that lets them go.
    pub awaits_checkpoint: bool,
}

impl Partition {
    /// Moves the log start to `offset` with an entry of the log; resolves when that is durable and committed. An offset
    /// above the high watermark moves it there only, one below the log start changes nothing.
    pub fn move_log_start(&self, offset: Offset) -> Receipt {
        self.submit(Work::LogStart(offset))
    }

    /// What retention must know of the log; opens nothing. `None` for a partition that is gone or has stopped.
    pub fn retained(&self) -> Option<Retained> {
        let inner = &self.0;
        match inner.log.get() {
            Some(log) => inner.check_alive().ok().map(|()| log.retained()),
            None => inner.shared.data_dir.retained(inner.group),
        }
    }

    /// Deletes what the limits let go: the log start moves, if this replica leads, and what lies wholly below it waits
    /// for the next checkpoint. Opens the log; begins a term only if the log start moves.
    ///
    /// `limits` tells those of this moment. It is asked again when the decision is made, because that may take long.
    pub async fn retain(&self, limits: impl Fn() -> Limits) -> Result<Retention, ProposeError> {
        let log = self.log().await.map_err(|error| self.0.propose_error(&error))?;
        let runtime = &self.0.shared.runtime;
        // On a replica that does not lead the log start moves with its leader's, and what is below goes all the same.
        let decides = !self.is_replicated() || self.leads();
        let moved = loop {
            if !decides {
                break None;
            }
            let (asked, now, looked) = (limits(), Timestamp(runtime.wall_clock()), Arc::clone(&log));
            let decided = runtime.blocking(move || looked.retention(asked, now)).await;
            if limits() == asked {
                break decided.map_err(|error| self.0.propose_error(&error.into()))?;
            }
        };
        if let Some(offset) = moved {
            self.move_log_start(offset).await?;
        }
        let freeing = runtime.blocking(move || log.free_below_log_start()).await;
        let freeing = freeing.map_err(|error| self.0.propose_error(&error.into()))?;
        if freeing == Freeing::AwaitsCheckpoint
            && let Some(replica) = self.replica().await.map_err(|error| self.0.propose_error(&error))?
        {
            // What P has passed stays until openraft has purged it.
            replica.p_has_moved().await.map_err(|error| self.0.propose_error(&error))?;
        }
        Ok(Retention { moved, awaits_checkpoint: freeing == Freeing::AwaitsCheckpoint })
    }
}

impl Inner {
    pub(super) fn append_log_start(self: &Arc<Self>, offset: Offset, flight: Arc<Flight>) -> Receipt {
        let append_time = Timestamp(self.shared.runtime.wall_clock());
        let done = self.on_flush(&flight, None);
        let appended = self.open_log().append_log_start(self.term, offset, append_time, done);
        match appended {
            Ok(Outcome::RaftOnly { index }) => {
                let written = Written { base_offset: offset, append_time, log_start: offset, duplicate: false };
                if let Some(result) = flight.placed(index, written) {
                    self.settle(index, written, &flight, result);
                }
            }
            Ok(_) => {
                let why = self.fail("the log took a Raft-only entry for a record batch");
                flight.complete(Err(ProposeError::Fatal(why)));
            }
            Err(error @ StorageError::Stalled { .. }) => {
                flight.complete(Err(ProposeError::Stalled(error.to_string().into())));
            }
            Err(error) => flight.complete(Err(ProposeError::Fatal(self.fail(&error.to_string())))),
        }
        Receipt::waiting(flight)
    }

    fn propose_error(&self, error: &RaftError) -> ProposeError {
        match error {
            RaftError::NoSuchGroup(_) | RaftError::Closed(_) => ProposeError::Closed,
            RaftError::Storage(StorageError::LogClosed(_) | StorageError::Closed(_)) => ProposeError::Closed,
            error => ProposeError::Fatal(error.to_string().into()),
        }
    }
}
