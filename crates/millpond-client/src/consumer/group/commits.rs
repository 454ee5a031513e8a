//! How far the group has come: asking the coordinator, and telling it.

use std::collections::BTreeMap;

use millpond_wire::ErrorCode;
use millpond_wire::offset_commit::{OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic};

use super::classic::{Consequence, consequence};
use super::heartbeat::Kind;
use super::{COMMIT_BY_NAME, Member};
use crate::admin::Admin;
use crate::clock;
use crate::consumer::positions::Offset;
use crate::error::{Error, Result};

/// The first version of OffsetCommit in which a member of a group of the consumer protocol may commit.
const COMMIT_WITH_EPOCH: i16 = 9;

impl Member {
    /// Looks up what is committed for partitions that wait for it.
    pub(super) async fn look_up(&mut self) -> Result<()> {
        let waiting = self.shared.state().waits_for_commits();
        if waiting.is_empty() {
            return Ok(());
        }
        // What a transaction is about to commit is waited for (KIP-447).
        let committed = Admin::from(self.shared.cluster.clone()).stable_group_offsets(&self.group).await;
        let committed = match committed {
            Ok(committed) => committed,
            Err(error) if error.is_retriable() => return Err(error),
            Err(error) => {
                self.shared.state().uncommitted(&waiting, &error);
                self.shared.reader.wake();
                return Ok(());
            }
        };
        {
            let mut state = self.shared.state();
            for (partition, generation) in &waiting {
                let offset = committed.get(partition).map(|committed| committed.offset);
                state.found_committed(partition, *generation, offset);
            }
        }
        self.shared.wake.notify_one();
        self.shared.reader.wake();
        Ok(())
    }

    /// Commits, and again for what passes until the deadline.
    pub(super) async fn commit_until_deadline(&mut self, offsets: &[Offset]) -> Result<()> {
        let config = self.shared.cluster.config().clone();
        let deadline = clock::now() + config.deadline;
        for tries in 1_u32.. {
            let error = match self.commit(offsets).await {
                Err(error) if error.is_retriable() => error,
                outcome => return outcome,
            };
            let pause = config.pause_after(tries, self.shared.cluster.transport().random_u64());
            if clock::now() + pause >= deadline {
                return Err(Error::GaveUp { after: config.deadline, last: Box::new(error) });
            }
            clock::sleep(pause).await;
        }
        Ok(())
    }

    /// Commits, once.
    pub(super) async fn commit(&mut self, offsets: &[Offset]) -> Result<()> {
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
