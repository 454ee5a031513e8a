//! The member's side of the consumer protocol (KIP-848): the coordinator shares out, and the heartbeat is all there is.
//! It says what has changed; the answer says what the member is to have. What it is to give up it gives up, commits and
//! reports; what is then free, others get with their next heartbeats.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use millpond_record::TopicId;
use millpond_wire::consumer_group_heartbeat::{
    ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, TopicPartitions,
};
use millpond_wire::{ApiKey, ErrorCode};
use tracing::debug;

use super::pattern::Pattern;
use super::{LEAVE_LIMIT, Member, ms};
use crate::admin::TopicPartition;
use crate::clock;
use crate::consumer::config::GroupProtocol;
use crate::error::Result;

/// The epoch with which a member joins.
const JOINS: i32 = 0;
/// The epoch with which it leaves.
const LEAVES: i32 = -1;
/// The epoch with which a static member leaves that will be back.
const LEAVES_FOR_A_WHILE: i32 = -2;

/// A coordinator that names no interval is not asked all the time.
const LEAST_INTERVAL: Duration = Duration::from_millis(10);

/// By which protocol the member takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The coordinator was not asked yet what it can do.
    Undecided,
    Classic,
    Consumer,
}

/// What the coordinator and the member know of each other.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// What the member has reported that it has; `None` if everything must be said again: at the begin, and when it is
    /// not known whether the last heartbeat has come.
    /// By the topics' ids: one that was made again under its name is another.
    reported: Option<BTreeSet<(TopicId, i32)>>,
    /// The coordinator matches a pattern for this member, or may: it has not confirmed that there is none any more.
    pub(super) matches: bool,
    /// What it is to have, until it has it.
    target: Option<Vec<(TopicId, i32)>>,
    names: BTreeMap<TopicId, String>,
    ids: BTreeMap<String, TopicId>,
}

impl Member {
    /// Finds out by which protocol to take part.
    pub(super) async fn decide(&mut self) -> Result<()> {
        let served = self.coordinator().await?.versions().of(ApiKey::CONSUMER_GROUP_HEARTBEAT).is_some();
        self.kind = match self.shared.config.group_protocol {
            GroupProtocol::Classic => Kind::Classic,
            GroupProtocol::Consumer => Kind::Consumer,
            GroupProtocol::Newest if served => Kind::Consumer,
            GroupProtocol::Newest => Kind::Classic,
        };
        Ok(())
    }

    /// Everything must be said again.
    pub(super) fn say_all_again(&mut self) {
        self.told.reported = None;
    }

    /// Says what has changed, and does as the answer says.
    pub(super) async fn tell(&mut self) -> Result<()> {
        if self.say().await? { self.reconcile().await } else { Ok(()) }
    }

    /// Says what has changed, and takes note of what the answer says; whether there is one.
    pub(super) async fn say(&mut self) -> Result<bool> {
        let joins = !self.is_member();
        self.match_topics().await?;
        if joins && self.matches_nothing() {
            // Kafka 3.7 to 3.9 refuse for good who joins without topics. It joins when there is one.
            self.rejoin = false;
            return Ok(false);
        }
        if self.membership.member_id.is_empty() {
            self.membership.member_id = self.new_id();
        }
        let limit = self.shared.cluster.config().request_limit;
        let request = self.heartbeat(joins);
        let pattern = request.subscribed_topic_regex.as_deref();
        let takes_back = pattern.is_some_and(str::is_empty);
        // It may come even if its answer does not, so that there is one to be taken back from here on.
        self.told.matches |= pattern.is_some() && !takes_back;
        let reports = self.owned();
        // Until the answer says that it has come.
        self.say_all_again();
        let answer = self.call(0, i16::MAX, &request, limit).await?;
        let code = ErrorCode(answer.error_code);
        let is_classic = matches!(code, ErrorCode::GROUP_ID_NOT_FOUND | ErrorCode::UNSUPPORTED_VERSION);
        if joins && is_classic && self.shared.config.group_protocol == GroupProtocol::Newest {
            debug!("the group {} is a classic one", self.group);
            (self.kind, self.rejoin) = (Kind::Classic, true);
            self.membership.member_id.clear();
            return Ok(false);
        }
        self.judge(answer.error_code, if joins { "joining" } else { "staying in" })?;
        self.told.matches &= !takes_back;
        self.told.reported = Some(reports);
        self.heed(answer);
        Ok(true)
    }

    fn heartbeat(&self, joins: bool) -> ConsumerGroupHeartbeatRequest {
        let config = &self.shared.config;
        let all = joins || self.told.reported.is_none();
        let pattern = self.pattern.as_ref().filter(|_| self.match_at.is_none()).map(Pattern::text);
        // One that is no more is taken back by an empty one.
        let pattern = pattern.or(Some("").filter(|_| self.told.matches));
        let owned = self.owned();
        let changed = self.told.reported.as_ref() != Some(&owned);
        let mut by_topic: BTreeMap<TopicId, Vec<i32>> = BTreeMap::new();
        for (id, partition) in owned {
            by_topic.entry(id).or_default().push(partition);
        }
        let owned = by_topic.into_iter().map(|(id, partitions)| TopicPartitions { topic_id: id.0, partitions });
        ConsumerGroupHeartbeatRequest {
            group_id: self.group.as_str().into(),
            member_id: self.membership.member_id.as_str().into(),
            member_epoch: if joins { JOINS } else { self.membership.generation },
            instance_id: config.group_instance_id.as_deref().map(Into::into),
            rack_id: Some(config.client_rack.as_str()).filter(|rack| all && !rack.is_empty()).map(Into::into),
            rebalance_timeout_ms: if all { ms(config.rebalance_timeout) } else { -1 },
            subscribed_topic_names: all.then(|| self.topics.iter().map(|topic| topic.as_str().into()).collect()),
            subscribed_topic_regex: pattern.filter(|_| all).map(Into::into),
            server_assignor: None,
            topic_partitions: (all || changed).then(|| owned.collect()),
        }
    }

    /// What it has, as the coordinator knows it.
    fn owned(&self) -> BTreeSet<(TopicId, i32)> {
        let of = |one: &TopicPartition| self.told.ids.get(&one.topic).map(|id| (*id, one.partition));
        self.assigned.iter().filter_map(of).collect()
    }

    fn heed(&mut self, answer: ConsumerGroupHeartbeatResponse) {
        self.rejoin = false;
        if let Some(id) = answer.member_id.filter(|id| !id.is_empty()) {
            self.membership.member_id = id.to_string();
        }
        self.membership.generation = answer.member_epoch;
        let interval = u64::try_from(answer.heartbeat_interval_ms).unwrap_or(0);
        self.beats_every = Duration::from_millis(interval).max(LEAST_INTERVAL);
        self.next_beat = clock::now() + self.beats_every;
        if let Some(assignment) = answer.assignment {
            let of = |told: TopicPartitions| {
                told.partitions.into_iter().map(move |partition| (TopicId(told.topic_id), partition))
            };
            self.told.target = Some(assignment.topic_partitions.into_iter().flat_map(of).collect());
        }
    }

    /// Brings what it has to what it is to have, and has that reported at once.
    async fn reconcile(&mut self) -> Result<()> {
        let Some(target) = self.told.target.take() else { return Ok(()) };
        if let Err(error) = self.learn_names(&target).await {
            self.told.target = Some(target);
            return Err(error);
        }
        let named = |(id, partition): &(TopicId, i32)| {
            self.told.names.get(id).map(|name| TopicPartition::new(name.as_str(), *partition))
        };
        let wanted: BTreeSet<TopicPartition> = target.iter().filter_map(named).collect();
        self.let_go(&wanted).await;
        if !self.is_member() {
            return Ok(());
        }
        // While the caller parted with something, the coordinator may have changed its mind. What it has given stays
        // this member's until that is reported.
        let changed = self.told.target.is_some();
        if !changed && wanted.len() < target.len() {
            // A topic that was made a moment ago may have no name here yet; the next heartbeat tries again.
            self.told.target = Some(target);
        }
        self.take_over(wanted)?;
        self.rejoin = changed || self.told.reported.as_ref() != Some(&self.owned());
        Ok(())
    }

    async fn learn_names(&mut self, target: &[(TopicId, i32)]) -> Result<()> {
        if target.iter().all(|(id, _)| self.told.names.contains_key(id)) {
            return Ok(());
        }
        let names: Vec<&str> = self.topics.iter().map(String::as_str).collect();
        // What the coordinator has matched may be any topic.
        let names = Some(&names[..]).filter(|_| self.pattern.is_none());
        let told = self.shared.cluster.metadata(names).await?;
        for topic in told.topics.iter().filter(|topic| topic.error_code == 0) {
            if let Some(name) = &topic.name {
                self.told.names.insert(TopicId(topic.topic_id), name.to_string());
                self.told.ids.insert(name.to_string(), TopicId(topic.topic_id));
            }
        }
        Ok(())
    }

    /// Says that it goes.
    pub(super) async fn say_goodbye(&mut self, member_id: &str) -> Result<()> {
        let instance_id = self.shared.config.group_instance_id.as_deref();
        let request = ConsumerGroupHeartbeatRequest {
            group_id: self.group.as_str().into(),
            member_id: member_id.into(),
            member_epoch: if instance_id.is_some() { LEAVES_FOR_A_WHILE } else { LEAVES },
            instance_id: instance_id.map(Into::into),
            ..Default::default()
        };
        self.call(0, i16::MAX, &request, LEAVE_LIMIT).await.map(drop)
    }

    /// Members make their own ids (KIP-1082): 128 bits that nobody else has.
    fn new_id(&self) -> String {
        let transport = self.shared.cluster.transport();
        format!("{:016x}{:016x}", transport.random_u64(), transport.random_u64())
    }
}
