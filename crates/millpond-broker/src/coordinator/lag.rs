//! How far the groups that this broker coordinates are behind: in records, and in how old the first unread record is.
//!
//! Groups come from the shards here, ends and ages from the partitions' leaders (`edges.rs`). For `/metrics` all groups
//! are looked at every few seconds while somebody scrapes; one group, or the list, is looked at when it is asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use millpond_coordinator::{MemberSummary, PartitionSummary, Shard};
use millpond_record::{Offset, PartitionIndex, TopicId};
use millpond_wire::Str;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::edges::{Edge, Wanted, edges};
use super::{Answer, Unavailable};
use crate::broker::Shared;
use crate::metadata::Snapshot;

/// Between two looks at all groups.
const INTERVAL: Duration = Duration::from_secs(5);
/// Without a scrape for this long all groups are looked at no longer.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(150);
/// A look at all groups that takes longer is given up.
const PATIENCE: Duration = Duration::from_secs(4);
/// Figures that are older are none.
const STALE_AFTER: Duration = Duration::from_secs(30);
/// Groups that are looked at for figures of all, and their partitions.
const MAX_GROUPS: usize = 2_000;
const MAX_PARTITIONS: usize = 10_000;
/// Members of one group that are named.
const MAX_MEMBERS: usize = 1_000;

/// A member of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) member_id: Str,
    pub(crate) instance_id: Option<Str>,
    pub(crate) client_id: Str,
    pub(crate) client_host: Str,
}

impl Member {
    fn of(summary: &MemberSummary<'_>) -> Member {
        Member {
            member_id: summary.member_id.clone(),
            instance_id: summary.instance_id.cloned(),
            client_id: summary.client_id.clone(),
            client_host: summary.client_host.clone(),
        }
    }
}

/// A commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Committed {
    pub(crate) offset: Offset,
    pub(crate) at_ms: i64,
    topic_id: TopicId,
}

/// A partition that a group reads or has read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PartitionLag {
    pub(crate) topic: Str,
    pub(crate) partition: PartitionIndex,
    pub(crate) committed: Option<Committed>,
    pub(crate) owner: Option<Member>,
    /// `None`: not known, because its leader did not answer, or there is none.
    pub(crate) edge: Option<Edge>,
}

impl PartitionLag {
    /// Records between the committed offset, or where the log begins if that is behind it, and the end.
    pub(crate) fn records(&self) -> Option<i64> {
        let (committed, edge) = (self.committed.as_ref()?, self.edge?);
        Some(edge.end.0.saturating_sub(committed.offset.max(edge.log_start).0).max(0))
    }

    /// Whether there is nothing that could be read. Where a group without a committed offset begins is its consumers'
    /// choice, but of nothing there is no choice.
    fn is_empty(&self) -> bool {
        self.edge.is_some_and(|edge| edge.log_start >= edge.end)
    }

    /// How old the first unread record is, in seconds; 0 when there is none.
    pub(crate) fn seconds(&self, now_ms: i64) -> Option<f64> {
        let unread = match (self.committed.as_ref(), self.edge?) {
            (Some(committed), edge) => committed.offset.max(edge.log_start) < edge.end,
            (None, _) => return None,
        };
        if !unread {
            return Some(0.0);
        }
        let since = self.edge?.first_unread_ms?;
        Some(now_ms.saturating_sub(since).max(0) as f64 / 1e3)
    }
}

/// A group with all that tells whether it gets on.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct GroupLag {
    pub(crate) group_id: Str,
    pub(crate) group_type: &'static str,
    pub(crate) state: &'static str,
    /// When the state began, as far as that is known.
    pub(crate) since_ms: Option<i64>,
    pub(crate) protocol: Option<Str>,
    pub(crate) generation: i32,
    pub(crate) members: usize,
    pub(crate) pending_members: usize,
    pub(crate) awaited_members: usize,
    pub(crate) rebalances: u64,
    /// Since when rebalances are counted: the coordinator came to this broker then.
    pub(crate) counted_since_ms: Option<i64>,
    /// When the last rebalance began, and why.
    pub(crate) last_rebalance: Option<(i64, String)>,
    pub(crate) last_commit_ms: Option<i64>,
    pub(crate) partitions: Vec<PartitionLag>,
    /// Partitions beyond those.
    pub(crate) left_out: usize,
}

impl GroupLag {
    /// The partitions that something was committed for.
    pub(crate) fn committed(&self) -> impl Iterator<Item = &PartitionLag> {
        self.partitions.iter().filter(|partition| partition.committed.is_some())
    }

    /// Records that the group is behind in all; `None` where a part of it is not known.
    pub(crate) fn records(&self) -> Option<i64> {
        let known = self.counted()?;
        known.map(PartitionLag::records).try_fold(0_i64, |sum, lag| Some(sum.saturating_add(lag?)))
    }

    /// The age of the oldest first unread record; `None` where a part of it is not known.
    pub(crate) fn seconds(&self, now_ms: i64) -> Option<f64> {
        let known = self.counted()?;
        known.map(|partition| partition.seconds(now_ms)).try_fold(0.0, |most, age| Some(f64::max(most, age?)))
    }

    /// The partitions that make the total; `None` if there is none, or more is to be read than these tell: where
    /// nothing was committed, or a partition was left out.
    fn counted(&self) -> Option<impl Iterator<Item = &PartitionLag>> {
        let all_known =
            self.left_out == 0 && self.partitions.iter().all(|one| one.committed.is_some() || one.is_empty());
        (all_known && self.committed().next().is_some()).then(|| self.committed())
    }
}

/// One group with its members and what it went through.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct GroupDetail {
    pub(crate) lag: GroupLag,
    pub(crate) named_members: Vec<Member>,
    /// When its last rebalances began, and why; the oldest first.
    pub(crate) recent_rebalances: Vec<(i64, String)>,
}

/// The groups of this broker.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct AllLags {
    pub(crate) groups: Vec<GroupLag>,
    /// Groups beyond those.
    pub(crate) left_out: usize,
    /// Partitions of `__consumer_offsets` whose groups are not known yet: they are being read.
    pub(crate) loading: usize,
}

fn partition(summary: PartitionSummary<'_>) -> PartitionLag {
    // A negative offset is none: a client has said that it has read nothing.
    let committed = summary.committed.filter(|committed| committed.offset >= Offset(0)).map(|committed| Committed {
        offset: committed.offset,
        at_ms: committed.committed_at.0,
        topic_id: committed.topic_id,
    });
    let owner = summary.owner.as_ref().map(Member::of);
    PartitionLag { topic: summary.topic, partition: summary.partition, committed, owner, edge: None }
}

/// A group of a shard with `room` of its partitions at most.
fn group_of(shard: &Shard, group_id: &str, room: usize) -> Option<GroupLag> {
    let summary = shard.summary(group_id)?;
    let partitions = shard.partitions(group_id);
    let last_commit_ms = partitions.iter().filter_map(|one| Some(one.committed?.committed_at.0)).max();
    let left_out = partitions.len().saturating_sub(room);
    Some(GroupLag {
        group_id: summary.group_id.clone(),
        group_type: summary.group_type.name(),
        state: summary.state.name(),
        since_ms: summary.since.map(|since| since.0),
        protocol: summary.protocol.cloned(),
        generation: summary.generation,
        members: summary.members,
        pending_members: summary.pending_members,
        awaited_members: summary.awaited_members,
        rebalances: summary.rebalances,
        counted_since_ms: shard.loaded_at().map(|at| at.0),
        last_rebalance: summary.last_rebalance.map(|(at, why)| (at.0, why.to_owned())),
        last_commit_ms,
        partitions: partitions.into_iter().take(room).map(partition).collect(),
        left_out,
    })
}

/// The groups of a shard, as many as fit.
fn groups_of(shard: &Shard) -> AllLags {
    let ids: Vec<Str> = shard.summaries().map(|summary| summary.group_id.clone()).take(MAX_GROUPS).collect();
    let mut all = AllLags { groups: Vec::new(), left_out: shard.summaries().count() - ids.len(), loading: 0 };
    let mut room = MAX_PARTITIONS;
    for id in &ids {
        if let Some(group) = group_of(shard, id, room) {
            room -= group.partitions.len();
            all.groups.push(group);
        }
    }
    all
}

/// What the leaders know of the partitions of these groups.
async fn fill<'a>(shared: &Arc<Shared>, snapshot: &Snapshot, groups: impl Iterator<Item = &'a mut GroupLag>) {
    let mut groups: Vec<&mut GroupLag> = groups.collect();
    // What was committed for a topic that is gone is no offset of the one that has its name now.
    let wanted_of = |partition: &PartitionLag| {
        let topic = snapshot.image.topic(&partition.topic)?.id;
        let committed = partition.committed.as_ref();
        let is_of = committed.is_none_or(|committed| [topic, TopicId::ZERO].contains(&committed.topic_id));
        let from = committed.map(|committed| committed.offset);
        is_of.then_some(Wanted { topic, partition: partition.partition, from })
    };
    let wanted: BTreeSet<Wanted> = groups.iter().flat_map(|group| &group.partitions).filter_map(wanted_of).collect();
    let wanted: Vec<Wanted> = wanted.into_iter().collect();
    let edges: BTreeMap<Wanted, Edge> = edges(shared, &wanted).await;
    for partition in groups.iter_mut().flat_map(|group| &mut group.partitions) {
        partition.edge = wanted_of(partition).and_then(|wanted| edges.get(&wanted).copied());
    }
}

/// One group; `None` when there is none of the name.
pub(crate) async fn of_group(shared: &Arc<Shared>, group_id: &str) -> Answer<Option<GroupDetail>> {
    let snapshot = shared.metadata.snapshot();
    let id = group_id.to_owned();
    let look = move |shard: &Shard| {
        let lag = group_of(shard, &id, MAX_PARTITIONS)?;
        let members = shard.members(&id);
        Some(GroupDetail {
            lag,
            named_members: members.iter().take(MAX_MEMBERS).map(Member::of).collect(),
            recent_rebalances: shard.recent_rebalances(&id).iter().map(|(at, why)| (at.0, (*why).to_owned())).collect(),
        })
    };
    let Some(mut detail) = shared.coordinators.look(&snapshot, group_id, look).await? else { return Ok(None) };
    fill(shared, &snapshot, std::iter::once(&mut detail.lag)).await;
    Ok(Some(detail))
}

/// All groups that this broker coordinates, as many as fit.
pub(crate) async fn of_all(shared: &Arc<Shared>) -> Answer<AllLags> {
    let snapshot = shared.metadata.snapshot();
    let gather = async {
        // Whoever asks, and however often: one after the other.
        let _alone = shared.lag_figures.gathering.lock().await;
        let seen = shared.coordinators.look_at_each(&snapshot, groups_of).await;
        let loading = seen.iter().filter(|seen| matches!(seen, Err(Unavailable::Loading))).count();
        let mut all = AllLags { loading, ..join(seen.into_iter().flatten().collect()) };
        fill(shared, &snapshot, all.groups.iter_mut()).await;
        Ok(all)
    };
    // A coordinator that says nothing for so long waits for its log.
    shared.runtime.timeout(PATIENCE, gather).await.unwrap_or(Err(Unavailable::Loading))
}

/// The groups of all shards, as many as fit, by name.
fn join(shards: Vec<AllLags>) -> AllLags {
    let left_out = shards.iter().map(|shard| shard.left_out).sum::<usize>();
    let mut groups: Vec<GroupLag> = shards.into_iter().flat_map(|shard| shard.groups).collect();
    groups.sort_by(|a, b| a.group_id.cmp(&b.group_id));
    let beyond = groups.len().saturating_sub(MAX_GROUPS);
    groups.truncate(MAX_GROUPS);
    let mut room = MAX_PARTITIONS;
    for group in &mut groups {
        let cut = group.partitions.len().saturating_sub(room);
        group.partitions.truncate(room);
        group.left_out += cut;
        room -= group.partitions.len();
    }
    AllLags { groups, left_out: left_out + beyond, loading: 0 }
}

/// The figures of all groups, kept up while somebody scrapes them.
#[derive(Default)]
pub(crate) struct LagFigures {
    state: Mutex<Kept>,
    /// Held while all groups are looked at.
    gathering: tokio::sync::Mutex<()>,
    wanted: Notify,
}

#[derive(Default)]
struct Kept {
    /// What was gathered last, and when.
    latest: Option<(Arc<AllLags>, Instant)>,
    wanted_at: Option<Instant>,
}

impl LagFigures {
    /// What was gathered last, which is a few seconds old; `None` at first, and when it cannot be gathered for a while.
    /// Somebody scrapes: it is gathered again.
    pub(crate) fn scraped(&self, now: Instant) -> Option<Arc<AllLags>> {
        let mut kept = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.wanted_at.is_none() {
            self.wanted.notify_one();
        }
        kept.wanted_at = Some(now);
        let is_fresh = |at: &Instant| now.saturating_duration_since(*at) < STALE_AFTER;
        kept.latest.as_ref().filter(|(_, at)| is_fresh(at)).map(|(all, _)| Arc::clone(all))
    }

    /// Whether somebody has scraped of late. Otherwise all is forgotten.
    fn is_wanted(&self, now: Instant) -> bool {
        let mut kept = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = kept.wanted_at.is_some_and(|at| now.saturating_duration_since(at) < FORGOTTEN_AFTER);
        if !wanted {
            *kept = Kept::default();
        }
        wanted
    }

    fn put(&self, all: AllLags, now: Instant) {
        let mut kept = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        kept.latest = Some((Arc::new(all), now));
    }
}

/// Keeps the figures of all groups up until the broker stops.
pub(crate) async fn run(shared: Arc<Shared>) {
    loop {
        let figures = &shared.lag_figures;
        tokio::select! {
            biased;
            () = shared.stopping.cancelled() => return,
            () = figures.wanted.notified() => {}
        }
        while figures.is_wanted(shared.runtime.now()) {
            let gathered = tokio::select! {
                biased;
                () = shared.stopping.cancelled() => return,
                gathered = of_all(&shared) => gathered,
            };
            match gathered {
                Ok(all) => figures.put(all, shared.runtime.now()),
                // The next round finds what is being loaded.
                Err(Unavailable::Loading | Unavailable::NotHere) => {}
            }
            tokio::select! {
                biased;
                () = shared.stopping.cancelled() => return,
                () = shared.runtime.sleep(INTERVAL) => {}
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn lag(committed: Option<i64>, edge: Option<(i64, i64, Option<i64>)>) -> PartitionLag {
        let of = |offset| Committed { offset: Offset(offset), at_ms: 500, topic_id: TopicId::ZERO };
        PartitionLag {
            topic: Str::from("t"),
            partition: PartitionIndex(0),
            committed: committed.map(of),
            owner: None,
            edge: edge.map(|(start, end, first_unread_ms)| Edge {
                log_start: Offset(start),
                end: Offset(end),
                first_unread_ms,
            }),
        }
    }

    pub(crate) fn group(id: &str, partitions: Vec<PartitionLag>) -> GroupLag {
        GroupLag {
            group_id: Str::from(id),
            group_type: "classic",
            state: "Stable",
            since_ms: None,
            protocol: None,
            generation: 1,
            members: 1,
            pending_members: 0,
            awaited_members: 0,
            rebalances: 3,
            counted_since_ms: None,
            last_rebalance: None,
            last_commit_ms: partitions.iter().filter_map(|one| Some(one.committed.as_ref()?.at_ms)).max(),
            partitions,
            left_out: 0,
        }
    }

    #[test]
    fn lag_is_told_where_it_is_known_and_never_guessed() {
        for (committed, edge, records, seconds) in [
            (Some(4), Some((0, 10, Some(7_000))), Some(6), Some(3.0)),
            (Some(10), Some((0, 10, None)), Some(0), Some(0.0)),
            // Beyond the end: nothing is unread.
            (Some(12), Some((0, 10, None)), Some(0), Some(0.0)),
            // Below the log start: the first record there is is the first unread one.
            (Some(4), Some((8, 10, Some(9_000))), Some(2), Some(1.0)),
            (Some(4), Some((10, 10, None)), Some(0), Some(0.0)),
            // A record from the future.
            (Some(4), Some((0, 10, Some(11_000))), Some(6), Some(0.0)),
            (Some(4), Some((0, 10, None)), Some(6), None),
            (Some(4), None, None, None),
            (None, Some((0, 10, None)), None, None),
        ] {
            let lag = lag(committed, edge);
            assert_eq!((lag.records(), lag.seconds(10_000)), (records, seconds), "{committed:?} {edge:?}");
        }
    }

    #[test]
    fn a_group_whose_lag_is_known_in_part_has_no_total() {
        let known = || lag(Some(4), Some((0, 10, Some(7_000))));
        let empty = || lag(None, Some((10, 10, None)));
        let whole = group("g", vec![known(), known(), empty()]);
        assert_eq!((whole.records(), whole.seconds(10_000)), (Some(12), Some(3.0)));
        for unknown in [lag(Some(4), None), lag(None, Some((0, 10, None))), lag(None, None)] {
            let partly = group("g", vec![known(), unknown]);
            assert_eq!((partly.records(), partly.seconds(10_000)), (None, None), "{partly:?}");
        }
        for uncommitted in [group("g", vec![empty()]), group("g", Vec::new())] {
            assert_eq!((uncommitted.records(), uncommitted.seconds(10_000)), (None, None), "{uncommitted:?}");
        }
        let cut = GroupLag { left_out: 1, ..group("g", vec![known()]) };
        assert_eq!((cut.records(), cut.seconds(10_000)), (None, None));
    }

    #[expect(clippy::disallowed_methods, reason = "any moment will do to count from")]
    fn moment() -> Instant {
        Instant::now()
    }

    #[test]
    fn figures_that_could_not_be_gathered_for_a_while_are_told_no_longer() {
        let (figures, now) = (LagFigures::default(), moment());
        assert_eq!(figures.scraped(now), None);
        figures.put(AllLags::default(), now);
        assert!(figures.scraped(now + STALE_AFTER / 2).is_some());
        assert_eq!(figures.scraped(now + STALE_AFTER), None);
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        let many = |id: &str| group(id, vec![lag(Some(1), None); 6_000]);
        let shards = vec![
            AllLags { groups: vec![many("c"), many("a")], left_out: 2, loading: 0 },
            AllLags { groups: vec![many("b")], left_out: 0, loading: 0 },
        ];
        let all = join(shards);
        let seen: Vec<_> = all.groups.iter().map(|one| (&*one.group_id, one.partitions.len(), one.left_out)).collect();
        assert_eq!(seen, [("a", 6_000, 0), ("b", 4_000, 2_000), ("c", 0, 6_000)]);
        assert_eq!(all.left_out, 2);
        let few = (0..MAX_GROUPS + 5).map(|at| group(&format!("{at:05}"), Vec::new())).collect();
        let all = join(vec![AllLags { groups: few, left_out: 1, loading: 0 }]);
        assert_eq!((all.groups.len(), all.left_out), (MAX_GROUPS, 6));
    }
}
