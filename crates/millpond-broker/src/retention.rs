//! Deletes old records: looks at every partition now and then, and moves the log start of those that keep more, or
//! longer, than their topic asks for.
//!
//! What a partition keeps is known without opening it, so that looking at one that rests costs next to nothing. One
//! that may have something to delete is opened and decides by itself ([`Partition::retain`]).

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use millpond_cluster::{TopicSettings, is_internal_topic};
use millpond_raft::Partition;
use millpond_record::{Timestamp, TopicId};
use millpond_storage::{Limits, may_move_log_start};
use tracing::{info, warn};

use crate::broker::Shared;
use crate::metadata::Snapshot;

/// The first look comes this long after the start at the latest, as in Kafka (`InitialTaskDelayMs`).
const FIRST_LOOK: Duration = Duration::from_secs(30);

/// Partitions that are worked on at once; their journal records share rounds.
const AT_ONCE: usize = 64;

/// Looks at the partitions for as long as the broker runs.
pub(crate) async fn run(shared: Arc<Shared>) {
    let interval = Duration::from_millis(shared.config.retention_check_interval_ms);
    let mut pause = interval.min(FIRST_LOOK);
    loop {
        tokio::select! {
            biased;
            () = shared.stopping.cancelled() => return,
            () = shared.runtime.sleep(pause) => {}
        }
        tokio::select! {
            biased;
            () = shared.stopping.cancelled() => return,
            () = look(&shared) => {}
        }
        pause = interval;
    }
}

/// What a topic's partitions may keep: everything, if they are not cleaned by deletion.
fn limits(settings: &TopicSettings) -> Limits {
    match settings.cleanup.delete {
        true => Limits { retention_ms: settings.retention_ms, retention_bytes: settings.retention_bytes },
        false => Limits::default(),
    }
}

/// A partition that may have something to delete or to free.
struct Due {
    topic: Arc<str>,
    id: TopicId,
    index: usize,
    partition: Partition,
}

impl Due {
    /// What it may keep now: a look takes its time, and settings may change meanwhile. Everything, if it is gone.
    fn limits(&self, shared: &Shared) -> Limits {
        let snapshot = shared.metadata.snapshot();
        snapshot.topic_by_id(self.id).map_or_else(Limits::default, |served| limits(&served.settings))
    }
}

/// The partitions that may have something to delete or to free.
fn due(snapshot: &Snapshot, now: Timestamp) -> Vec<Due> {
    let mut due = Vec::new();
    for served in snapshot.topics().filter(|served| !is_internal_topic(&served.topic.name)) {
        let limits = limits(&served.settings);
        for (index, partition) in served.replicas.iter().enumerate() {
            let Some(partition) = partition else { continue };
            // The leader moves the log start, for all replicas; what is below it each of them frees for itself.
            let wanted = partition.retained().is_some_and(|retained| {
                retained.freeable || (may_move_log_start(&retained, now, limits) && partition.leads())
            });
            if wanted {
                let (topic, id) = (Arc::clone(&served.topic.name), served.topic.id);
                due.push(Due { topic, id, index, partition: partition.clone() });
            }
        }
    }
    due
}

async fn look(shared: &Shared) {
    let now = Timestamp(shared.runtime.wall_clock());
    let due = due(&shared.metadata.snapshot(), now);
    let retained = due.into_iter().map(|due| async move {
        let retained = due.partition.retain(|| due.limits(shared)).await;
        let Due { topic, index, .. } = due;
        match retained {
            Ok(done) => {
                if let Some(log_start) = done.moved {
                    info!(%topic, partition = index, log_start = log_start.0, "old records deleted");
                }
                done.awaits_checkpoint
            }
            Err(error) => {
                warn!(%topic, partition = index, "old records are not deleted now: {error}");
                false
            }
        }
    });
    let awaited: Vec<bool> = stream::iter(retained).buffer_unordered(AT_ONCE).collect().await;
    if awaited.contains(&true) {
        // One for all of them: what lies below a log start leaves the disk with it.
        shared.want_checkpoint();
    }
}
