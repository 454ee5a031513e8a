//! Where partitions end, and how old the first record is that a group has not read: what only their leaders know.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use millpond_record::{BrokerId, GroupId, Offset, PartitionIndex, TopicId};
use millpond_storage::Log;

use crate::broker::Shared;
use crate::cluster::messages::{self, EDGES, EdgeAnswer, EdgesAnswer, EdgesWanted, WantedEdge};

/// Partitions of one question to another broker.
pub(crate) const MAX_ASKED: usize = 4_000;
/// How long a leader is waited for; what it does not say by then is not known.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long batches are looked into for one question. What takes longer is found for a later one.
const LOOK_TIME: Duration = Duration::from_millis(700);
/// Batches that are looked into at a time. What is found is remembered, and the next question goes on elsewhere.
const MAX_LOOKS: usize = 128;
/// Times that are remembered, twice at most.
const REMEMBERED: usize = 10_000;

/// A partition, and the offset from which on a group has not read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Wanted {
    pub(crate) topic: TopicId,
    pub(crate) partition: PartitionIndex,
    /// `None`: only where the partition begins and ends is asked for.
    pub(crate) from: Option<Offset>,
}

/// A partition as its leader knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Edge {
    pub(crate) log_start: Offset,
    /// The high watermark.
    pub(crate) end: Offset,
    /// The timestamp of the first record that was not read; `None` when there is none, or it is not known.
    pub(crate) first_unread_ms: Option<i64>,
}

/// The times of first committed records by partition and offset; `None` for a record without one. They stay what they
/// are, unless a relaxed topic has lost its end in a power cut. The oldest half is forgotten when there are many.
#[derive(Debug, Default)]
pub(crate) struct Times {
    state: Mutex<Remembered>,
    /// Held while batches are looked into.
    looking: Arc<tokio::sync::Mutex<()>>,
    /// Where the next look begins among what is not remembered.
    turn: AtomicUsize,
}

type ByOffset = BTreeMap<(GroupId, Offset), Option<i64>>;

#[derive(Debug, Default)]
struct Remembered {
    recent: ByOffset,
    older: ByOffset,
}

impl Times {
    fn lock(&self) -> MutexGuard<'_, Remembered> {
        // Nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, at: (GroupId, Offset)) -> Option<Option<i64>> {
        let mut state = self.lock();
        if let Some(time) = state.recent.get(&at) {
            return Some(*time);
        }
        let time = state.older.remove(&at)?;
        state.put(at, time);
        Some(time)
    }

    fn put(&self, at: (GroupId, Offset), time: Option<i64>) {
        self.lock().put(at, time);
    }

    /// Those whose turn it is. What is found is asked for no more, and what cannot be found keeps nobody waiting.
    fn take_turn<T>(&self, mut all: Vec<T>) -> Vec<T> {
        let turn = self.turn.fetch_add(MAX_LOOKS, Ordering::Relaxed);
        if all.len() > MAX_LOOKS {
            let begin = turn % all.len();
            all.rotate_left(begin);
            all.truncate(MAX_LOOKS);
        }
        all
    }
}

impl Remembered {
    fn put(&mut self, at: (GroupId, Offset), time: Option<i64>) {
        if self.recent.len() >= REMEMBERED {
            self.older = std::mem::take(&mut self.recent);
        }
        self.recent.insert(at, time);
    }
}

/// A record whose time is not remembered.
struct Look {
    at: usize,
    log: Arc<Log>,
    key: (GroupId, Offset),
    end: Offset,
}

/// What this broker knows of partitions that it leads; `None` for all others. No log is opened for that: where one is
/// asleep, the data directory knows where it ends.
pub(crate) async fn edges_here(shared: &Arc<Shared>, wanted: &[Wanted]) -> Vec<Option<Edge>> {
    let snapshot = shared.metadata.snapshot();
    let led = |wanted: &Wanted| snapshot.topic_by_id(wanted.topic)?.led(wanted.partition).ok().cloned();
    let led: Vec<_> = wanted.iter().map(led).collect();
    let asleep = led.iter().flatten().any(|partition| partition.is_asleep());
    let rows = if asleep { rows(shared).await } else { BTreeMap::new() };
    let mut edges = Vec::with_capacity(wanted.len());
    let mut looks = Vec::new();
    for (wanted, partition) in wanted.iter().zip(led) {
        let log = partition.as_ref().and_then(|partition| partition.opened_log());
        let ends = match (&partition, &log) {
            (_, Some(log)) => Some(log.frontiers()).map(|frontiers| (frontiers.log_start, frontiers.high_watermark)),
            (Some(partition), None) if partition.is_asleep() => rows.get(&partition.group()).copied(),
            _ => None,
        };
        let (Some(partition), Some((log_start, end))) = (partition, ends) else {
            edges.push(None);
            continue;
        };
        let mut edge = Edge { log_start, end, first_unread_ms: None };
        if let Some(from) = wanted.from.map(|from| from.max(log_start)).filter(|from| *from < end) {
            let key = (partition.group(), from);
            match (shared.times.get(key), log) {
                (Some(time), _) => edge.first_unread_ms = time,
                (None, Some(log)) => looks.push(Look { at: edges.len(), log, key, end }),
                (None, None) => {}
            }
        }
        edges.push(Some(edge));
    }
    for (at, time) in look(shared, looks).await {
        if let Some(edge) = edges.get_mut(at).and_then(Option::as_mut) {
            edge.first_unread_ms = time;
        }
    }
    edges
}

/// Where the logs of the data directory begin and end. All that one with a single replica holds is committed, and
/// others are not led while they are asleep.
async fn rows(shared: &Arc<Shared>) -> BTreeMap<GroupId, (Offset, Offset)> {
    let here = Arc::clone(shared);
    let rows = move || here.rows().into_iter().map(|row| (row.group, (row.log_start, row.log_end))).collect();
    shared.runtime.blocking(rows).await
}

/// Looks for times in batches, one question after the other: while another looks, or if it takes long, none is told.
async fn look(shared: &Shared, looks: Vec<Look>) -> Vec<(usize, Option<i64>)> {
    if looks.is_empty() {
        return Vec::new();
    }
    let Ok(alone) = Arc::clone(&shared.times.looking).try_lock_owned() else { return Vec::new() };
    let (times, looks) = (Arc::clone(&shared.times), shared.times.take_turn(looks));
    let found = shared.runtime.blocking(move || {
        let look = |look: Look| {
            let found = look.log.first_from(look.key.1, look.end).ok()??;
            // Records may be without a time: their age is not known.
            let time = Some(found.timestamp.0).filter(|time| *time >= 0);
            times.put(look.key, time);
            Some((look.at, time))
        };
        let found = looks.into_iter().filter_map(look).collect::<Vec<_>>();
        // Held to the end, also if nobody waits any more.
        drop(alone);
        found
    });
    shared.runtime.timeout(LOOK_TIME, found).await.unwrap_or_default()
}

/// Answers another broker.
pub(crate) async fn answer(shared: &Arc<Shared>, body: Bytes) -> Result<Bytes, String> {
    let EdgesWanted { wanted } = messages::read(body)?;
    if wanted.len() > MAX_ASKED {
        return Err(format!("it asked for {} partitions, more than {MAX_ASKED} at once", wanted.len()));
    }
    let read = |wanted: &WantedEdge| {
        let topic = TopicId(wanted.topic.as_ref().try_into().map_err(|_| "a topic id has 16 bytes".to_owned())?);
        Ok(Wanted { topic, partition: PartitionIndex(wanted.partition), from: wanted.from.map(Offset) })
    };
    let wanted = wanted.iter().map(read).collect::<Result<Vec<_>, String>>()?;
    let edges = edges_here(shared, &wanted).await;
    let edges = edges.iter().map(|edge| match edge {
        Some(edge) => EdgeAnswer {
            known: true,
            log_start: edge.log_start.0,
            end: edge.end.0,
            first_unread_ms: edge.first_unread_ms,
        },
        None => EdgeAnswer::default(),
    });
    Ok(messages::write(&EdgesAnswer { edges: edges.collect() }))
}

/// Asks the leaders. What is not there is not known: nobody leads it, or its leader did not answer within a second.
pub(crate) async fn edges(shared: &Arc<Shared>, wanted: &[Wanted]) -> BTreeMap<Wanted, Edge> {
    let snapshot = shared.metadata.snapshot();
    let mut by_leader: BTreeMap<BrokerId, Vec<Wanted>> = BTreeMap::new();
    {
        let look = shared.leadership.now();
        for one in wanted {
            let leader = snapshot.topic_by_id(one.topic).and_then(|served| look.leader(served, one.partition));
            if let Some(leader) = leader {
                by_leader.entry(leader.broker).or_default().push(*one);
            }
        }
    }
    let asked = by_leader.iter().flat_map(|(broker, wanted)| wanted.chunks(MAX_ASKED).map(|some| (*broker, some)));
    let answers = join_all(asked.map(|(broker, some)| async move {
        let edges = match broker == shared.node {
            true => shared.runtime.timeout(PATIENCE, edges_here(shared, some)).await.unwrap_or_default(),
            false => edges_of(shared, broker, some).await,
        };
        // A broker that answers for less or more than it was asked is not believed.
        let edges = if edges.len() == some.len() { edges } else { Vec::new() };
        some.iter().copied().zip(edges).filter_map(|(wanted, edge)| Some((wanted, edge?))).collect::<Vec<_>>()
    }));
    answers.await.into_iter().flatten().collect()
}

async fn edges_of(shared: &Shared, broker: BrokerId, wanted: &[Wanted]) -> Vec<Option<Edge>> {
    let wanted = wanted.iter().map(|one| WantedEdge {
        topic: Bytes::copy_from_slice(&one.topic.0),
        partition: one.partition.0,
        from: one.from.map(|from| from.0),
    });
    let body = messages::write(&EdgesWanted { wanted: wanted.collect() });
    let Ok(answer) = shared.peers.call(broker, EDGES, body, PATIENCE).await else { return Vec::new() };
    let Ok(EdgesAnswer { edges }) = messages::read(answer) else { return Vec::new() };
    let edge = |edge: EdgeAnswer| {
        edge.known.then_some(Edge {
            log_start: Offset(edge.log_start),
            end: Offset(edge.end),
            first_unread_ms: edge.first_unread_ms,
        })
    };
    edges.into_iter().map(edge).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_is_used_is_remembered_and_memory_is_bounded() {
        let times = Times::default();
        let key = |offset| (GroupId(1), Offset(offset));
        times.put(key(-1), Some(7));
        for offset in 0..3 * REMEMBERED as i64 {
            times.put(key(offset), (offset % 2 == 0).then_some(offset));
            assert_eq!(times.get(key(-1)), Some(Some(7)), "used all the time");
            let expected = (offset % 2 == 0).then_some(offset);
            assert_eq!(times.get(key(offset)), Some(expected), "that there is none is remembered, too");
        }
        assert_eq!(times.get(key(0)), None, "forgotten");
        let state = times.lock();
        assert!(state.recent.len() + state.older.len() <= 2 * REMEMBERED);
    }

    #[test]
    fn what_cannot_be_found_keeps_nothing_else_waiting() {
        let times = Times::default();
        let all: Vec<usize> = (0..MAX_LOOKS * 3 + 5).collect();
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..4 {
            let some = times.take_turn(all.clone());
            assert_eq!(some.len(), MAX_LOOKS);
            seen.extend(some);
        }
        assert_eq!(seen.len(), all.len(), "each had its turn");
        assert_eq!(times.take_turn(vec![1, 2]), [1, 2]);
    }
}
