//! A shard with its log and a clock, and clients that ask it.

// Each test takes what it needs of this.
#![allow(dead_code)]

use std::collections::BTreeMap;

use bytes::Bytes;
use millpond_coordinator::{
    CommitOffsets, Committer, ConsumerHeartbeat, Effects, GroupError, GroupSettings, JoinContext, JoinReply, Now,
    OffsetToCommit, Record, Reply, Shard, Synced, Ticket, Topics,
};
use millpond_record::{Offset, PartitionIndex, Timestamp, TopicId};
use millpond_wire::consumer_group_heartbeat::{ConsumerGroupHeartbeatRequest, TopicPartitions};
use millpond_wire::consumer_protocol_subscription::ConsumerProtocolSubscription;
use millpond_wire::heartbeat::HeartbeatRequest;
use millpond_wire::join_group::{JoinGroupRequest, JoinGroupRequestProtocol};
use millpond_wire::leave_group::MemberIdentity;
use millpond_wire::sync_group::{SyncGroupRequest, SyncGroupRequestAssignment};
use millpond_wire::{Data, Str};

pub const WALL_START: i64 = 1_700_000_000_000;

/// Kafka's defaults, but an empty group waits for nobody.
pub fn settings() -> GroupSettings {
    GroupSettings { initial_rebalance_delay_ms: 0, ..GroupSettings::default() }
}

/// What a consumer says about itself.
pub fn subscription(topics: &[&str]) -> Bytes {
    let topics = topics.iter().map(|&topic| Str::from(topic)).collect();
    ConsumerProtocolSubscription { topics, ..Default::default() }.to_bytes(0).expect("short")
}

/// Topics by name, each with the id that its number gives.
#[derive(Default)]
pub struct TestTopics {
    version: u64,
    topics: BTreeMap<Str, (TopicId, i32)>,
}

impl TestTopics {
    /// Makes the topic, or gives it more partitions.
    pub fn set(&mut self, name: &str, partitions: i32) {
        self.version += 1;
        let id = self.topics.get(name).map_or(TopicId([self.version as u8; 16]), |(id, _)| *id);
        self.topics.insert(Str::from(name), (id, partitions));
    }

    pub fn delete(&mut self, name: &str) {
        self.version += 1;
        self.topics.remove(name);
    }

    pub fn id(&self, name: &str) -> TopicId {
        self.topics[name].0
    }
}

impl Topics for TestTopics {
    fn version(&self) -> u64 {
        self.version
    }
    fn topic(&self, name: &str) -> Option<(TopicId, i32)> {
        self.topics.get(name).copied()
    }
    fn name(&self, id: TopicId) -> Option<Str> {
        self.topics.iter().find(|(_, (known, _))| *known == id).map(|(name, _)| name.clone())
    }
    fn for_each_name(&self, see: &mut dyn FnMut(&str)) {
        self.topics.keys().for_each(|name| see(name));
    }
}

/// A shard as a broker drives it.
pub struct World {
    pub topics: TestTopics,
    pub shard: Shard,
    pub settings: GroupSettings,
    pub now_ms: u64,
    /// All records in the order in which they came.
    pub log: Vec<Record>,
    /// Answers that nobody has taken.
    pub replies: BTreeMap<Ticket, Reply>,
    next_ticket: u64,
    random: u128,
}

impl World {
    pub fn new() -> World {
        World::with(settings())
    }

    pub fn with(settings: GroupSettings) -> World {
        let mut world = World {
            topics: TestTopics::default(),
            shard: Shard::new(settings.clone()),
            settings,
            now_ms: 1_000,
            log: Vec::new(),
            replies: BTreeMap::new(),
            next_ticket: 0,
            random: 0,
        };
        let effects = world.shard.loaded(world.now());
        world.take(effects);
        world
    }

    pub fn now(&self) -> Now {
        Now { wall: Timestamp(WALL_START + self.now_ms as i64), monotonic_ms: self.now_ms }
    }

    pub fn take(&mut self, effects: Effects) {
        self.log.extend(effects.records);
        for (ticket, reply) in effects.replies {
            assert!(self.replies.insert(ticket, reply).is_none(), "{ticket:?} was answered twice");
        }
    }

    pub fn ticket(&mut self) -> Ticket {
        self.next_ticket += 1;
        Ticket(self.next_ticket)
    }

    pub fn random(&mut self) -> u128 {
        self.random += 1;
        self.random << 80 | self.random
    }

    /// Lets the time pass, timer by timer.
    pub fn pass(&mut self, ms: u64) {
        let end = self.now_ms + ms;
        while let Some(deadline) = self.shard.next_deadline().filter(|&deadline| deadline <= end) {
            self.now_ms = self.now_ms.max(deadline);
            let effects = self.shard.tick(self.now());
            self.take(effects);
        }
        self.now_ms = end;
    }

    /// A shard that has replayed the log.
    pub fn replayed(&self) -> Shard {
        let mut shard = Shard::new(self.settings.clone());
        for record in &self.log {
            shard.replay(record).expect("a record of our own");
        }
        shard
    }

    /// The broker fails, and another one loads the log: whoever waited gets no answer.
    pub fn fail_over(&mut self) {
        self.shard = self.replayed();
        let effects = self.shard.loaded(self.now());
        self.take(effects);
    }

    pub fn member(&self, group: &str) -> Member {
        Member {
            group: Str::from(group),
            id: Str::EMPTY,
            instance: None,
            generation: -1,
            session_ms: 10_000,
            rebalance_ms: 5_000,
            protocol_type: Str::from_static("consumer"),
            protocols: vec![("range".to_string(), subscription(&["topic"]))],
            version: 9,
            leads: false,
        }
    }

    /// A member that is alone in its group and has the assignment `all`.
    pub fn alone(&mut self, group: &str) -> Member {
        let mut member = self.member(group);
        member.join_alone(self);
        member
    }

    /// Leader and follower of a stable group, with the assignments `L` and `F`.
    pub fn pair(&mut self, group: &str) -> (Member, Member) {
        let mut first = self.alone(group);
        let mut second = self.member(group);
        second.obtain_id(self);
        let joining = second.start_join(self);
        assert_eq!(first.heartbeat(self), Err(GroupError::RebalanceInProgress));
        first.join(self).outcome.expect("the first joins again");
        second.finish_join(self, joining).outcome.expect("the second joins");
        let (mut leader, follower) = if first.leads { (first, second) } else { (second, first) };
        let waiting = follower.start_sync(self, &[]);
        let (leader_id, follower_id) = (leader.id.clone(), follower.id.clone());
        leader.sync(self, &[(&leader_id, b"L"), (&follower_id, b"F")]).expect("the leader syncs");
        assert_eq!(follower.finish_sync(self, waiting).expect("the follower syncs").assignment, &b"F"[..]);
        (leader, follower)
    }

    /// Commits one offset of partition 0.
    pub fn commit(&mut self, group: &str, topic: &str, offset: i64, committer: Committer) -> Result<(), GroupError> {
        let one = OffsetToCommit {
            topic: Str::from(topic),
            topic_id: TopicId::ZERO,
            partition: PartitionIndex(0),
            offset: Offset(offset),
            leader_epoch: -1,
            metadata: Str::EMPTY,
        };
        self.commit_all(group, committer, vec![one])?.remove(0)
    }

    pub fn commit_all(
        &mut self,
        group: &str,
        committer: Committer,
        offsets: Vec<OffsetToCommit>,
    ) -> Result<Vec<Result<(), GroupError>>, GroupError> {
        let ticket = self.ticket();
        let request = CommitOffsets { group_id: Str::from(group), committer, version: 9, retention_ms: None, offsets };
        let effects = self.shard.commit_offsets(ticket, self.now(), &request);
        self.take(effects);
        match self.replies.remove(&ticket) {
            Some(Reply::CommitOffsets(results)) => results,
            other => panic!("a commit is answered at once, not by {other:?}"),
        }
    }

    pub fn committed(&self, group: &str, topic: &str) -> Option<i64> {
        committed(&self.shard, group, topic)
    }

    /// Whether a request is still waiting.
    pub fn waits(&self, ticket: Ticket) -> bool {
        !self.replies.contains_key(&ticket)
    }

    pub fn state(&self, group: &str) -> &'static str {
        self.shard.summary(group).map_or("Dead", |group| group.state.name())
    }
}

pub fn committed(shard: &Shard, group: &str, topic: &str) -> Option<i64> {
    shard.committed_offset(group, topic, TopicId::ZERO, PartitionIndex(0)).map(|committed| committed.offset.0)
}

/// A client in a classic group, as it sees itself.
#[derive(Clone, Debug)]
pub struct Member {
    pub group: Str,
    pub id: Str,
    pub instance: Option<Str>,
    pub generation: i32,
    pub session_ms: i32,
    pub rebalance_ms: i32,
    pub protocol_type: Str,
    pub protocols: Vec<(String, Bytes)>,
    pub version: i16,
    pub leads: bool,
}

impl Member {
    pub fn instance(mut self, instance: &str) -> Member {
        self.instance = Some(Str::from(instance));
        self
    }

    pub fn protocols(mut self, protocols: &[(&str, Bytes)]) -> Member {
        self.protocols = protocols.iter().map(|(name, metadata)| (name.to_string(), metadata.clone())).collect();
        self
    }

    pub fn committer(&self) -> Committer {
        Committer { member_id: self.id.clone(), instance_id: self.instance.clone(), generation: self.generation }
    }

    pub fn join_request(&self) -> JoinGroupRequest {
        let protocols = self.protocols.iter().map(|(name, metadata)| JoinGroupRequestProtocol {
            name: Str::from(name.as_str()),
            metadata: metadata.clone(),
        });
        JoinGroupRequest {
            group_id: self.group.clone(),
            session_timeout_ms: self.session_ms,
            rebalance_timeout_ms: self.rebalance_ms,
            member_id: self.id.clone(),
            group_instance_id: self.instance.clone(),
            protocol_type: self.protocol_type.clone(),
            protocols: protocols.collect(),
            reason: None,
        }
    }

    pub fn start_join(&self, world: &mut World) -> Ticket {
        let (ticket, random) = (world.ticket(), world.random());
        let (client_id, client_host) = (Str::from_static("app"), Str::from_static("/127.0.0.1"));
        let context = JoinContext { version: self.version, client_id, client_host, random };
        let effects = world.shard.join(ticket, world.now(), &self.join_request(), &context, &world.topics);
        world.take(effects);
        ticket
    }

    /// The answer, which must be there; one that asks to come back with an id is followed.
    pub fn finish_join(&mut self, world: &mut World, ticket: Ticket) -> JoinReply {
        let reply = match world.replies.remove(&ticket) {
            Some(Reply::Join(reply)) => reply,
            other => panic!("the join is not answered: {other:?}"),
        };
        if reply.outcome == Err(GroupError::MemberIdRequired) && self.id.is_empty() {
            self.id = reply.member_id;
            let ticket = self.start_join(world);
            return self.finish_join(world, ticket);
        }
        if let Ok(joined) = &reply.outcome {
            self.id = reply.member_id.clone();
            self.generation = joined.generation;
            self.leads = joined.leader == self.id;
        }
        reply
    }

    pub fn join(&mut self, world: &mut World) -> JoinReply {
        let ticket = self.start_join(world);
        self.finish_join(world, ticket)
    }

    pub fn join_error(&mut self, world: &mut World) -> Option<GroupError> {
        self.join(world).outcome.err()
    }

    /// Asks for a member id only, where one is needed before joining.
    pub fn obtain_id(&mut self, world: &mut World) {
        let ticket = self.start_join(world);
        match world.replies.remove(&ticket) {
            Some(Reply::Join(reply)) => {
                assert_eq!(reply.outcome, Err(GroupError::MemberIdRequired));
                self.id = reply.member_id;
            }
            other => panic!("a member id is given at once: {other:?}"),
        }
    }

    pub fn join_alone(&mut self, world: &mut World) {
        self.join(world).outcome.expect("it joins");
        let id = self.id.clone();
        self.sync(world, &[(&id, b"all")]).expect("it syncs");
    }

    pub fn sync_request(&self, assignments: &[(&str, &[u8])]) -> SyncGroupRequest {
        let assignments = assignments.iter().map(|(id, assignment)| SyncGroupRequestAssignment {
            member_id: Str::from(*id),
            assignment: Bytes::copy_from_slice(assignment),
        });
        SyncGroupRequest {
            group_id: self.group.clone(),
            generation_id: self.generation,
            member_id: self.id.clone(),
            group_instance_id: self.instance.clone(),
            protocol_type: Some(self.protocol_type.clone()),
            protocol_name: None,
            assignments: assignments.collect(),
        }
    }

    pub fn send_sync(&self, world: &mut World, request: &SyncGroupRequest) -> Ticket {
        let ticket = world.ticket();
        let effects = world.shard.sync(ticket, world.now(), request, &world.topics);
        world.take(effects);
        ticket
    }

    pub fn start_sync(&self, world: &mut World, assignments: &[(&str, &[u8])]) -> Ticket {
        self.send_sync(world, &self.sync_request(assignments))
    }

    pub fn finish_sync(&self, world: &mut World, ticket: Ticket) -> Result<Synced, GroupError> {
        match world.replies.remove(&ticket) {
            Some(Reply::Sync(result)) => result,
            other => panic!("the sync is not answered: {other:?}"),
        }
    }

    pub fn sync(&mut self, world: &mut World, assignments: &[(&str, &[u8])]) -> Result<Synced, GroupError> {
        let ticket = self.start_sync(world, assignments);
        self.finish_sync(world, ticket)
    }

    pub fn heartbeat(&self, world: &mut World) -> Result<(), GroupError> {
        let ticket = world.ticket();
        let request = HeartbeatRequest {
            group_id: self.group.clone(),
            generation_id: self.generation,
            member_id: self.id.clone(),
            group_instance_id: self.instance.clone(),
        };
        let effects = world.shard.heartbeat(ticket, world.now(), &request);
        world.take(effects);
        match world.replies.remove(&ticket) {
            Some(Reply::Heartbeat(result)) => result,
            other => panic!("a heartbeat is answered at once, not by {other:?}"),
        }
    }

    pub fn leave(&self, world: &mut World) -> Result<(), GroupError> {
        leave(world, &self.group, &[(&self.id, self.instance.as_deref())])?.remove(0)
    }

    pub fn commit(&self, world: &mut World, topic: &str, offset: i64) -> Result<(), GroupError> {
        world.commit(&self.group, topic, offset, self.committer())
    }
}

pub fn leave(
    world: &mut World,
    group: &str,
    members: &[(&str, Option<&str>)],
) -> Result<Vec<Result<(), GroupError>>, GroupError> {
    let ticket = world.ticket();
    let identity = |&(id, instance): &(&str, Option<&str>)| MemberIdentity {
        member_id: Str::from(id),
        group_instance_id: instance.map(Str::from),
        reason: None,
    };
    let members: Vec<MemberIdentity> = members.iter().map(identity).collect();
    let effects = world.shard.leave(ticket, world.now(), group, &members);
    world.take(effects);
    match world.replies.remove(&ticket) {
        Some(Reply::Leave(results)) => results,
        other => panic!("a leave is answered at once, not by {other:?}"),
    }
}

/// A member of a consumer group (KIP-848), as it sees itself.
#[derive(Clone, Debug)]
pub struct Consumer {
    pub group: Str,
    pub id: Str,
    pub instance: Option<Str>,
    pub epoch: i32,
    pub names: Option<Vec<Str>>,
    pub regex: Option<Str>,
    pub assignor: Option<Str>,
    pub rebalance_ms: i32,
    pub version: i16,
    pub owned: BTreeMap<TopicId, Vec<i32>>,
}

impl Consumer {
    pub fn new(group: &str, id: &str, topics: &[&str]) -> Consumer {
        Consumer {
            group: Str::from(group),
            id: Str::from(id),
            instance: None,
            epoch: 0,
            names: Some(topics.iter().map(|&topic| Str::from(topic)).collect()),
            regex: None,
            assignor: None,
            rebalance_ms: 5_000,
            version: 1,
            owned: BTreeMap::new(),
        }
    }

    /// A heartbeat that says nothing but that the member is alive.
    pub fn quiet(&self) -> ConsumerGroupHeartbeatRequest {
        ConsumerGroupHeartbeatRequest {
            group_id: self.group.clone(),
            member_id: self.id.clone(),
            member_epoch: self.epoch,
            instance_id: self.instance.clone(),
            ..Default::default()
        }
    }

    pub fn joining(&self) -> ConsumerGroupHeartbeatRequest {
        ConsumerGroupHeartbeatRequest {
            member_epoch: 0,
            rebalance_timeout_ms: self.rebalance_ms,
            subscribed_topic_names: self.names.clone(),
            subscribed_topic_regex: self.regex.clone(),
            server_assignor: self.assignor.clone(),
            topic_partitions: Some(Vec::new()),
            ..self.quiet()
        }
    }

    pub fn reported(&self) -> Vec<TopicPartitions> {
        let one = |(id, partitions): (&TopicId, &Vec<i32>)| TopicPartitions {
            topic_id: id.0,
            partitions: partitions.clone(),
        };
        self.owned.iter().map(one).collect()
    }

    pub fn send(
        &mut self,
        world: &mut World,
        request: &ConsumerGroupHeartbeatRequest,
    ) -> Result<ConsumerHeartbeat, GroupError> {
        let (ticket, random) = (world.ticket(), world.random());
        let (client_id, client_host) = (Str::from_static("app"), Str::from_static("/127.0.0.1"));
        let context = JoinContext { version: self.version, client_id, client_host, random };
        let effects = world.shard.consumer_heartbeat(ticket, world.now(), request, &context, &world.topics);
        world.take(effects);
        let Some(Reply::ConsumerHeartbeat(result)) = world.replies.remove(&ticket) else {
            panic!("a heartbeat is answered at once")
        };
        if let Ok(answer) = &result {
            self.id = answer.member_id.clone();
            self.epoch = answer.member_epoch;
            if let Some(assignment) = &answer.assignment {
                self.owned = assignment.iter().cloned().collect();
            }
        }
        result
    }

    pub fn join(&mut self, world: &mut World) -> Result<ConsumerHeartbeat, GroupError> {
        let request = self.joining();
        self.send(world, &request)
    }

    /// A heartbeat that reports what the member owns.
    pub fn beat(&mut self, world: &mut World) -> Result<ConsumerHeartbeat, GroupError> {
        let request = ConsumerGroupHeartbeatRequest { topic_partitions: Some(self.reported()), ..self.quiet() };
        self.send(world, &request)
    }

    pub fn leave(&mut self, world: &mut World, epoch: i32) -> Result<ConsumerHeartbeat, GroupError> {
        let request = ConsumerGroupHeartbeatRequest { member_epoch: epoch, ..self.quiet() };
        self.send(world, &request)
    }

    /// The partitions that it owns of a topic.
    pub fn of(&self, world: &World, topic: &str) -> Vec<i32> {
        self.owned.get(&world.topics.id(topic)).cloned().unwrap_or_default()
    }

    pub fn committer(&self) -> Committer {
        Committer { member_id: self.id.clone(), instance_id: None, generation: self.epoch }
    }
}
