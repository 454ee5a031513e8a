//! How far the group has come: asking the coordinator, and telling it.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use millpond_wire::offset_commit::{OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use millpond_wire::offset_fetch::{
    OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
    OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
};
use millpond_wire::{ErrorCode, Str};
use tokio::time::Instant;

use super::classic::{Consequence, consequence};
use super::desk::{Due, Whose, of_others};
use super::heartbeat::Kind;
use super::{COMMIT_BY_NAME, Member};
use crate::admin::{FETCH_OF_MANY, FETCH_OF_STABLE, TopicPartition};
use crate::clock;
use crate::consumer::positions::{Committed, Offset};
use crate::error::{Error, Result};

/// The first version of OffsetCommit in which a member of a group of the consumer protocol may commit.
const COMMIT_WITH_EPOCH: i16 = 9;
/// The last version of OffsetFetch that names topics.
const FETCH_BY_NAME: i16 = 9;

/// How often the first of the commits that wait was tried, and how it goes on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Retry {
    tries: u32,
    not_before: Instant,
    deadline: Instant,
}

/// What is committed for partitions: `None` without an offset, or why it is not told.
type Answers = BTreeMap<TopicPartition, Result<Option<Committed>>>;

impl Member {
    /// Looks up what is committed for partitions that wait for it, once.
    pub(super) async fn look_up(&mut self) -> Result<()> {
        let waiting = self.shared.state().waits_for_commits();
        if waiting.is_empty() {
            return Ok(());
        }
        let committed = match self.ask_for_offsets(&waiting).await {
            // Only what a partition could not be read for stays so: the coordinator may be another one next time.
            Err(error) if !error.is_definitive() || error.is_of_trust() => return Err(error),
            Err(error) => waiting.iter().map(|(partition, _)| (partition.clone(), Err(error.clone()))).collect(),
            Ok(committed) => committed,
        };
        let mut later = Ok(());
        {
            let mut state = self.shared.state();
            for (partition, generation) in &waiting {
                match committed.get(partition).cloned().unwrap_or(Ok(None)) {
                    Ok(found) => state.found_committed(partition, *generation, found),
                    Err(error) if !error.is_definitive() => later = Err(error),
                    Err(error) => state.uncommitted(&[(partition.clone(), *generation)], &error),
                }
            }
        }
        self.shared.wake.notify_one();
        self.shared.reader.wake();
        later
    }

    async fn ask_for_offsets(&mut self, waiting: &[(TopicPartition, u64)]) -> Result<Answers> {
        let mut wanted: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
        for (partition, _) in waiting {
            wanted.entry(&partition.topic).or_default().push(partition.partition);
        }
        let group = self.group.clone();
        // What a transaction is about to commit is waited for (KIP-447).
        let build = |version| match version {
            FETCH_OF_MANY.. => {
                let of = |(name, partitions): (&&str, &Vec<i32>)| OffsetFetchRequestTopics {
                    name: (*name).into(),
                    partition_indexes: partitions.clone(),
                    ..Default::default()
                };
                let topics = Some(wanted.iter().map(of).collect());
                let group = OffsetFetchRequestGroup { group_id: group.as_str().into(), topics, ..Default::default() };
                OffsetFetchRequest { groups: vec![group], require_stable: true, ..Default::default() }
            }
            version => {
                let of = |(name, partitions): (&&str, &Vec<i32>)| OffsetFetchRequestTopic {
                    name: (*name).into(),
                    partition_indexes: partitions.clone(),
                };
                OffsetFetchRequest {
                    group_id: group.as_str().into(),
                    topics: Some(wanted.iter().map(of).collect()),
                    require_stable: version >= FETCH_OF_STABLE,
                    ..Default::default()
                }
            }
        };
        let limit = self.shared.cluster.config().request_limit;
        let answer = self.call_as(0, FETCH_BY_NAME, build, limit).await?;
        let codes = answer.groups.iter().map(|group| group.error_code).chain([answer.error_code]);
        let code = codes.into_iter().find(|code| *code != 0).unwrap_or(0);
        if ErrorCode(code).is_retriable() {
            // Another broker coordinates the group, or this one soon will.
            self.connection = None;
        }
        Error::check(code, None, || self.what("asking for the offsets of"))?;
        let committed =
            |offset, epoch| Committed { offset, leader_epoch: Some(epoch).filter(|epoch: &i32| *epoch >= 0) };
        let of_groups = answer.groups.iter().flat_map(|group| &group.topics).flat_map(|topic| {
            let of = |one: &OffsetFetchResponsePartitions| {
                let found = committed(one.committed_offset, one.committed_leader_epoch);
                (&topic.name, one.partition_index, found, one.error_code)
            };
            topic.partitions.iter().map(of)
        });
        let of_one = answer.topics.iter().flat_map(|topic| {
            let of = |one: &OffsetFetchResponsePartition| {
                let found = committed(one.committed_offset, one.committed_leader_epoch);
                (&topic.name, one.partition_index, found, one.error_code)
            };
            topic.partitions.iter().map(of)
        });
        let told = |(topic, partition, found, code): (&Str, i32, Committed, i16)| {
            let partition = TopicPartition::new(topic.as_str(), partition);
            let found = Error::check(code, None, || format!("the offset of {partition} in the group {}", self.group))
                .map(|()| Some(found).filter(|found| found.offset >= 0));
            (partition, found)
        };
        Ok(of_groups.chain(of_one).map(told).collect())
    }

    /// Makes the commits that wait, in their order, up to the first that does not succeed for now; says when to try
    /// that one again. At `until` it leaves the rest for later: the caller may hand in more than it can make.
    pub(super) async fn commit_waiting(&mut self, until: Option<Instant>) -> Option<Instant> {
        while let Some(due) = self.desk.next_commit() {
            if until.is_some_and(|until| until <= clock::now()) {
                return until;
            }
            if let Some(retry) = self.retry.filter(|retry| retry.not_before > clock::now()) {
                return Some(retry.not_before);
            }
            let outcome = match self.may_commit(&due) {
                Ok(()) => self.commit(&due.offsets).await,
                Err(error) => Err(error),
            };
            let outcome = match outcome {
                Err(error) if due.again && self.passes(&error) => match self.next_try() {
                    Some(at) => return Some(at),
                    None => Err(Error::GaveUp { after: self.shared.cluster.config().deadline, last: Box::new(error) }),
                },
                outcome => outcome,
            };
            self.retry = None;
            self.desk.committed(outcome);
        }
        None
    }

    /// Makes all commits that wait, and waits for what passes.
    pub(super) async fn commit_all(&mut self) {
        while let Some(at) = self.commit_waiting(None).await {
            clock::until(Some(at)).await;
        }
    }

    /// Whether a commit that has failed is worth another try. At the end that is so in a rebalance, too: what is not
    /// committed by then never is.
    fn passes(&self, error: &Error) -> bool {
        let ends = self.shared.closing.load(Ordering::Acquire);
        error.is_retriable() || ends && error.code() == Some(ErrorCode::REBALANCE_IN_PROGRESS)
    }

    /// When the first of the commits that wait is tried again; `None` behind its deadline.
    fn next_try(&mut self) -> Option<Instant> {
        let config = self.shared.cluster.config();
        let now = clock::now();
        let (tries, deadline) =
            self.retry.map_or((1, now + config.deadline), |retry| (retry.tries.saturating_add(1), retry.deadline));
        let not_before = now + config.pause_after(tries, self.shared.cluster.transport().random_u64());
        if not_before >= deadline {
            return None;
        }
        self.retry = Some(Retry { tries, not_before, deadline });
        Some(not_before)
    }

    /// Whether these offsets are still this consumer's to commit. The coordinator cannot tell: it is told the
    /// generation of the sending, and others may have read on since the offsets were handed in.
    fn may_commit(&self, due: &Due) -> Result<()> {
        let is_ours = match due.whose {
            Whose::Members => {
                self.is_member() && due.offsets.iter().all(|offset| self.assigned.contains(&offset.partition))
            }
            Whose::Lost => false,
            Whose::Callers => !self.is_member(),
        };
        if is_ours {
            return Ok(());
        }
        Err(of_others(&self.group))
    }

    /// Commits, once.
    async fn commit(&mut self, offsets: &[Offset]) -> Result<()> {
        if offsets.is_empty() {
            return Ok(());
        }
        let mut topics: BTreeMap<&str, Vec<OffsetCommitRequestPartition>> = BTreeMap::new();
        for offset in offsets {
            topics.entry(&offset.partition.topic).or_default().push(OffsetCommitRequestPartition {
                partition_index: offset.partition.partition,
                committed_offset: offset.offset,
                committed_leader_epoch: offset.leader_epoch.unwrap_or(-1),
                committed_metadata: Some("".into()),
            });
        }
        let topic = |(name, partitions): (&str, _)| OffsetCommitRequestTopic {
            name: name.into(),
            partitions,
            ..Default::default()
        };
        let request = OffsetCommitRequest {
            group_id: self.group.as_str().into(),
            generation_id_or_member_epoch: self.membership.generation,
            member_id: match self.is_member() {
                true => self.membership.member_id.as_str().into(),
                false => Default::default(),
            },
            group_instance_id: self
                .shared
                .config
                .group_instance_id
                .as_deref()
                .filter(|_| self.is_member())
                .map(Into::into),
            topics: topics.into_iter().map(topic).collect(),
            ..Default::default()
        };
        let least = match (self.kind, &request.group_instance_id) {
            (Kind::Consumer, _) if self.is_member() => COMMIT_WITH_EPOCH,
            (_, Some(_)) => 7,
            (_, None) => 2,
        };
        let limit = self.shared.cluster.config().request_limit;
        let answer = self.call(least, COMMIT_BY_NAME, &request, limit).await?;
        let mut codes = answer.topics.iter().flat_map(|topic| &topic.partitions).map(|partition| partition.error_code);
        let code = codes.find(|code| *code != 0).unwrap_or(0);
        let of_membership = match consequence(ErrorCode(code)) {
            Consequence::Fatal => {
                matches!(ErrorCode(code), ErrorCode::FENCED_INSTANCE_ID | ErrorCode::GROUP_AUTHORIZATION_FAILED)
            }
            _ => true,
        };
        match of_membership {
            true => self.judge(code, "committing to")?,
            // It is about a partition.
            false => Error::check(code, None, || self.what("committing to"))?,
        }
        self.shared.state().committed(offsets);
        Ok(())
    }
}
