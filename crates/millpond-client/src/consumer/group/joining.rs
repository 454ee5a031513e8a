//! The member's side of the classic protocol: joining, sharing out as the leader, heartbeats.

use std::collections::{BTreeMap, BTreeSet};

use millpond_wire::ErrorCode;
use millpond_wire::heartbeat::HeartbeatRequest;
use millpond_wire::join_group::{JoinGroupRequest, JoinGroupResponse};
use millpond_wire::sync_group::{SyncGroupRequest, SyncGroupRequestAssignment};
use tokio::time::Instant;
use tracing::debug;

use super::assignor::Assignor;
use super::classic::{self, Membership};
use super::{JOIN_SPARE, MISSING_TOPIC_PAUSE, Member, PROTOCOL_TYPE, ms, unsayable};
use crate::clock;
use crate::error::{Error, Result};

impl Member {
    /// Joins, with what it has, and takes over what it is to have.
    pub(super) async fn join(&mut self) -> Result<()> {
        let config = self.shared.config.clone();
        // With an assignor that knows nothing of owners, nobody may own anything while partitions are shared out.
        let eager = config.assignors.contains(&Assignor::Range);
        if eager {
            self.let_go(&BTreeSet::new()).await;
            if !self.is_subscribed() {
                // The coordinator has shut it out meanwhile.
                return Ok(());
            }
        }
        self.match_topics().await?;
        let mut joined = self.ask_to_join().await?;
        if ErrorCode(joined.error_code) == ErrorCode::MEMBER_ID_REQUIRED {
            // Kafka lets only those in who have been given an id first (KIP-394). Who has one is not told so again.
            self.membership.member_id = joined.member_id.to_string();
            joined = self.ask_to_join().await?;
        }
        self.judge(joined.error_code, "joining")?;
        self.membership = Membership {
            member_id: joined.member_id.to_string(),
            generation: joined.generation_id,
            protocol: joined.protocol_name.as_deref().unwrap_or_default().to_owned(),
        };
        // Until it knows what it has, it must ask again.
        self.rejoin = true;
        self.watched = None;
        let assignments = match joined.leader == joined.member_id {
            true => self.lead(&joined).await?,
            false => Vec::new(),
        };
        let request = SyncGroupRequest {
            group_id: self.group.as_str().into(),
            generation_id: self.membership.generation,
            member_id: self.membership.member_id.as_str().into(),
            group_instance_id: config.group_instance_id.as_deref().map(Into::into),
            protocol_type: Some(PROTOCOL_TYPE.into()),
            protocol_name: Some(self.membership.protocol.as_str().into()),
            assignments,
        };
        let least = if config.group_instance_id.is_some() { 3 } else { 0 };
        let synced = self.call(least, i16::MAX, &request, config.rebalance_timeout + JOIN_SPARE).await?;
        self.judge(synced.error_code, "waiting for an assignment")?;
        let assigned = classic::assigned(synced.assignment).map_err(|error| self.misunderstood(&error))?;
        // A rebalance that is called for from here on is another one.
        self.rejoin = self.assigned.difference(&assigned).next().is_some();
        self.let_go(&assigned).await;
        if !self.is_member() {
            return Ok(());
        }
        self.take_over(assigned)?;
        self.beats_every = config.heartbeat_interval;
        self.next_beat = clock::now() + self.beats_every;
        debug!("the group {} is in generation {}", self.group, self.membership.generation);
        Ok(())
    }

    async fn ask_to_join(&mut self) -> Result<JoinGroupResponse> {
        let config = &self.shared.config;
        let generation = self.membership.generation;
        let protocols =
            classic::protocols(&config.assignors, &self.topics, &self.assigned, generation, &config.client_rack);
        let request = JoinGroupRequest {
            group_id: self.group.as_str().into(),
            session_timeout_ms: ms(config.session_timeout),
            rebalance_timeout_ms: ms(config.rebalance_timeout),
            member_id: self.membership.member_id.as_str().into(),
            group_instance_id: config.group_instance_id.as_deref().map(Into::into),
            protocol_type: PROTOCOL_TYPE.into(),
            protocols: protocols.map_err(unsayable)?,
            reason: None,
        };
        // Static members need a version that knows them.
        let least = if config.group_instance_id.is_some() { 5 } else { 0 };
        let limit = config.rebalance_timeout + JOIN_SPARE;
        self.call(least, i16::MAX, &request, limit).await
    }

    /// Shares the partitions out among the members, unless what they have stands: a static leader that has come back is
    /// told so (KIP-814), and only watches the topics.
    async fn lead(&mut self, joined: &JoinGroupResponse) -> Result<Vec<SyncGroupRequestAssignment>> {
        let members = classic::members(&joined.members);
        let topics: BTreeSet<&str> =
            members.values().flat_map(|member| member.topics.iter().map(String::as_str)).collect();
        let counts = self.counts(&topics).await?;
        let missing = topics.iter().any(|topic| !counts.contains_key(*topic));
        let age = self.shared.config.metadata_max_age;
        let look_at = clock::now() + if missing { age.min(MISSING_TOPIC_PAUSE) } else { age };
        let of = |topic: &&str| ((*topic).to_owned(), counts.get(*topic).copied().unwrap_or(0));
        self.watched = Some((topics.iter().map(of).collect(), look_at));
        if joined.skip_assignment {
            return Ok(Vec::new());
        }
        let assignor = Assignor::named(&self.membership.protocol).ok_or_else(|| Error::Refused {
            what: format!("sharing out the partitions of the group {}", self.group),
            code: ErrorCode::INCONSISTENT_GROUP_PROTOCOL,
            message: Some(format!("there is no assignor '{}' here", self.membership.protocol)),
        })?;
        classic::assignments(assignor.assign(&members, &counts)).map_err(unsayable)
    }

    /// How many partitions topics have; those that are missing are left out.
    async fn counts(&self, topics: &BTreeSet<&str>) -> Result<BTreeMap<String, i32>> {
        let names: Vec<&str> = topics.iter().copied().collect();
        let told = self.shared.cluster.metadata(Some(&names)).await?;
        let mut counts = BTreeMap::new();
        for topic in told.topics.iter().filter(|topic| topic.error_code == 0) {
            let count = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
            counts.extend(topic.name.as_ref().map(|name| (name.to_string(), count)));
        }
        Ok(counts)
    }

    /// The leader has the members come together when there are more partitions, or a topic that was missing.
    pub(super) async fn watch_topics(&mut self, now: Instant) -> Result<()> {
        let Some((known, at)) = &self.watched else { return Ok(()) };
        if *at > now {
            return Ok(());
        }
        let counts = self.counts(&known.keys().map(String::as_str).collect()).await?;
        let changed = known.iter().any(|(topic, count)| counts.get(topic).copied().unwrap_or(0) != *count);
        let missing = known.values().any(|count| *count == 0);
        let age = self.shared.config.metadata_max_age;
        if let Some((_, at)) = &mut self.watched {
            *at = now + if missing { age.min(MISSING_TOPIC_PAUSE) } else { age };
        }
        self.rejoin |= changed;
        Ok(())
    }

    /// Says that it lives.
    pub(super) async fn beat(&mut self) -> Result<()> {
        let config = &self.shared.config;
        let request = HeartbeatRequest {
            group_id: self.group.as_str().into(),
            generation_id: self.membership.generation,
            member_id: self.membership.member_id.as_str().into(),
            group_instance_id: config.group_instance_id.as_deref().map(Into::into),
        };
        let least = if config.group_instance_id.is_some() { 3 } else { 0 };
        let limit = config.session_timeout.min(self.shared.cluster.config().request_limit);
        let answer = self.call(least, i16::MAX, &request, limit).await?;
        self.next_beat = clock::now() + self.beats_every;
        if ErrorCode(answer.error_code) == ErrorCode::REBALANCE_IN_PROGRESS {
            self.rejoin = true;
            return Ok(());
        }
        self.judge(answer.error_code, "staying in")
    }
}
