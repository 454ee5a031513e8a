//! Random members of consumer groups, of both protocols, with lost answers, pauses, changes of topics and failovers;
//! what a group promises must hold at every step.
//!
//! The promises: what members have been told to own has one owner each; a member that is alive keeps its place over a
//! failover; once the noise stops, every partition that someone reads has an owner, all members are in one epoch, and
//! nothing moves any more; and a shard that has replayed the records is the one that wrote them.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use millpond_coordinator::{GroupError, Reply, Shard, Topics};
use millpond_record::TopicId;
use millpond_wire::Data;
use millpond_wire::Str;
use millpond_wire::consumer_protocol_assignment::ConsumerProtocolAssignment;
use millpond_wire::consumer_protocol_subscription::{ConsumerProtocolSubscription, TopicPartition};
use proptest::prelude::*;
use support::{Consumer, Member, World, settings};

const CONSUMERS: usize = 4;
const CLASSICS: usize = 2;
const TOPICS: [&str; 3] = ["t1", "t2", "u3"];

#[derive(Clone, Debug)]
enum Step {
    /// A heartbeat with what it owns, or a join.
    Beat(usize),
    /// The same, but the answer is lost.
    Lost(usize),
    Quiet(usize),
    Leave(usize),
    /// A static member goes for a while, another one for good without a word.
    Away(usize),
    Subscribe(usize, Vec<usize>),
    Classic(usize),
    ClassicLeave(usize),
    Topic(usize, i32),
    Pass(u64),
    FailOver,
}

fn step() -> impl Strategy<Value = Step> {
    let consumer = 0..CONSUMERS;
    prop_oneof![
        12 => consumer.clone().prop_map(Step::Beat),
        2 => consumer.clone().prop_map(Step::Lost),
        2 => consumer.clone().prop_map(Step::Quiet),
        1 => consumer.clone().prop_map(Step::Leave),
        1 => consumer.clone().prop_map(Step::Away),
        1 => (consumer, prop::collection::vec(0..TOPICS.len(), 0..3))
            .prop_map(|(at, topics)| Step::Subscribe(at, topics)),
        4 => (0..CLASSICS).prop_map(Step::Classic),
        1 => (0..CLASSICS).prop_map(Step::ClassicLeave),
        1 => (0..TOPICS.len(), 1..6i32).prop_map(|(topic, size)| Step::Topic(topic, size)),
        3 => prop_oneof![0..50u64, 500..4_000u64, 10_000..50_000u64].prop_map(Step::Pass),
        1 => Just(Step::FailOver),
    ]
}

/// A classic consumer that follows cooperatively: it says what it owns when it joins.
struct Classic {
    member: Member,
    owned: BTreeMap<Str, Vec<i32>>,
    joined: bool,
}

struct Run {
    world: World,
    consumers: Vec<Consumer>,
    classics: Vec<Classic>,
    next_id: u32,
}

fn owned_keys(owned: &BTreeMap<TopicId, Vec<i32>>) -> Vec<(TopicId, i32)> {
    owned.iter().flat_map(|(topic, partitions)| partitions.iter().map(move |&one| (*topic, one))).collect()
}

impl Run {
    fn new() -> Run {
        let mut world = World::with(settings());
        world.topics.set("t1", 3);
        world.topics.set("t2", 2);
        let consumer = |at: usize| {
            let mut consumer = Consumer::new("g", &format!("c{at}"), &["t1", "t2"]);
            match at {
                0 => consumer.instance = Some("i0".into()),
                1 => (consumer.names, consumer.regex) = (None, Some("t.*".into())),
                2 => consumer.assignor = Some("range".into()),
                _ => {}
            }
            consumer
        };
        let classic = |at: usize| {
            let mut member = world.member("g");
            if at == 0 {
                member = member.instance("k0");
            }
            Classic { member, owned: BTreeMap::new(), joined: false }
        };
        let (consumers, classics) = ((0..CONSUMERS).map(consumer).collect(), (0..CLASSICS).map(classic).collect());
        Run { world, consumers, classics, next_id: 0 }
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Beat(at) => self.beat(*at),
            Step::Lost(at) => {
                let mut copy = self.consumers[*at].clone();
                let sent = if copy.epoch == 0 { copy.join(&mut self.world) } else { copy.beat(&mut self.world) };
                // It keeps what it had, and will ask again.
                if sent.is_err() {
                    self.give_up(*at);
                }
            }
            Step::Quiet(at) => {
                let consumer = &mut self.consumers[*at];
                if consumer.epoch > 0 {
                    let quiet = consumer.quiet();
                    if consumer.send(&mut self.world, &quiet).is_err() {
                        self.give_up(*at);
                    }
                }
            }
            Step::Leave(at) => {
                if self.consumers[*at].epoch > 0 {
                    let _ = self.consumers[*at].leave(&mut self.world, -1);
                    self.give_up(*at);
                }
            }
            Step::Away(at) => {
                let consumer = &mut self.consumers[*at];
                if consumer.epoch > 0 && consumer.instance.is_some() {
                    let _ = consumer.leave(&mut self.world, -2);
                }
                self.give_up(*at);
            }
            Step::Subscribe(at, topics) => {
                let consumer = &mut self.consumers[*at];
                if consumer.regex.is_none() {
                    consumer.names = Some(topics.iter().map(|&topic| TOPICS[topic].into()).collect());
                    if consumer.epoch > 0 {
                        let mut request = consumer.quiet();
                        request.subscribed_topic_names = consumer.names.clone();
                        if consumer.send(&mut self.world, &request).is_err() {
                            self.give_up(*at);
                        }
                    }
                }
            }
            Step::Classic(at) => self.classic(*at),
            Step::ClassicLeave(at) => {
                let classic = &mut self.classics[*at];
                let _ = classic.member.leave(&mut self.world);
                self.classics[*at].forget();
            }
            Step::Topic(topic, size) => {
                let name = TOPICS[*topic];
                let before = self.world.topics.topic(name).map_or(0, |(_, size)| size);
                self.world.topics.set(name, before.max(*size));
            }
            Step::Pass(ms) => self.world.pass(*ms),
            Step::FailOver => self.world.fail_over(),
        }
        self.check();
    }

    /// The member is gone: it owns nothing, and comes back as another one.
    fn give_up(&mut self, at: usize) {
        self.next_id += 1;
        let consumer = &mut self.consumers[at];
        consumer.owned.clear();
        consumer.epoch = 0;
        consumer.id = Str::from(format!("c{at}-{}", self.next_id));
    }

    fn beat(&mut self, at: usize) {
        let consumer = &mut self.consumers[at];
        let joins = consumer.epoch == 0;
        let sent = if joins { consumer.join(&mut self.world) } else { consumer.beat(&mut self.world) };
        match sent {
            Ok(answer) => assert!(answer.member_epoch > 0),
            // Its former self has to time out, or to leave, first; and so has a group that is being made anew.
            Err(GroupError::UnreleasedInstance | GroupError::UnknownGroup) if joins => {}
            Err(
                GroupError::UnknownMember
                | GroupError::UnknownGroup
                | GroupError::FencedMemberEpoch { .. }
                | GroupError::FencedInstance,
            ) => self.give_up(at),
            Err(error) => panic!("an ordinary consumer is not refused with {error}"),
        }
    }

    fn classic(&mut self, at: usize) {
        let Run { world, classics, .. } = self;
        classics[at].go_on(world);
    }

    /// What must hold at every step.
    fn check(&mut self) {
        // Members own what they were told last; one that the group has given up on may think so for a while, and learns
        // it with its next heartbeat. Two members that the group knows never own the same.
        let known = self.known();
        let mut seen = BTreeMap::new();
        for consumer in self.consumers.iter().filter(|consumer| known.contains(&consumer.id)) {
            for key in owned_keys(&consumer.owned) {
                let before = seen.insert(key, consumer.id.clone());
                assert_eq!(before, None, "{key:?} has two owners, one is {}", consumer.id);
            }
        }
        for classic in self.classics.iter().filter(|classic| known.contains(&classic.member.id)) {
            for (topic, partitions) in &classic.owned {
                let (topic, _) = self.world.topics.topic(topic).expect("topics stay");
                for &partition in partitions {
                    let before = seen.insert((topic, partition), classic.member.id.clone());
                    assert_eq!(before, None, "two owners, one is {}", classic.member.id);
                }
            }
        }
        let replayed = self.world.replayed();
        assert_eq!(recorded(&replayed, &self.world), recorded(&self.world.shard, &self.world));
    }

    /// The members of the group, if it is a consumer group.
    fn known(&self) -> BTreeSet<Str> {
        let group = self.world.shard.describe_consumer_group("g", &self.world.topics);
        group.into_iter().flat_map(|group| group.members).map(|member| member.member_id).collect()
    }

    /// The noise stops.
    fn settle(&mut self) {
        for _ in 0..80 {
            for at in 0..CONSUMERS {
                self.beat(at);
            }
            for at in 0..CLASSICS {
                self.classic(at);
            }
            self.world.pass(1_000);
            self.check();
        }
        let group = self.world.shard.describe_consumer_group("g", &self.world.topics).expect("consumers are in it");
        assert_eq!((group.state.name(), group.members.len()), ("Stable", CONSUMERS + CLASSICS), "{group:?}");
        assert!(
            group.members.iter().all(|member| member.member_epoch == group.epoch && member.assignment == member.target)
        );
        let mut owned: Vec<(TopicId, i32)> = self.consumers.iter().flat_map(|one| owned_keys(&one.owned)).collect();
        for classic in &self.classics {
            for (topic, partitions) in &classic.owned {
                let (topic, _) = self.world.topics.topic(topic).expect("topics stay");
                owned.extend(partitions.iter().map(|&partition| (topic, partition)));
            }
        }
        owned.sort();
        let mut expected = Vec::new();
        for name in TOPICS {
            let read = |member: &millpond_coordinator::ConsumerMemberDescription| {
                let by_regex = member.subscribed_regex.is_some() && name.starts_with('t');
                by_regex || member.subscribed_topics.iter().any(|topic| **topic == *name)
            };
            if let Some((topic, size)) = self.world.topics.topic(name).filter(|_| group.members.iter().any(read)) {
                expected.extend((0..size).map(|partition| (topic, partition)));
            }
        }
        expected.sort();
        assert_eq!(owned, expected, "each partition that is read has one owner");
    }
}

impl Classic {
    fn forget(&mut self) {
        self.member.id = Str::EMPTY;
        self.member.generation = -1;
        self.owned.clear();
        self.joined = false;
    }

    /// Sends a heartbeat, and joins and syncs when that is due.
    fn go_on(&mut self, world: &mut World) {
        if self.joined {
            match self.member.heartbeat(world) {
                Ok(()) => return,
                Err(GroupError::RebalanceInProgress | GroupError::IllegalGeneration { .. }) => self.joined = false,
                Err(_) => self.forget(),
            }
        }
        let owned = self
            .owned
            .iter()
            .map(|(topic, partitions)| TopicPartition { topic: topic.clone(), partitions: partitions.clone() });
        let subscription = ConsumerProtocolSubscription {
            topics: vec![Str::from("t1"), Str::from("t2")],
            owned_partitions: owned.collect(),
            generation_id: self.member.generation,
            ..Default::default()
        };
        self.member.protocols = vec![("cooperative-sticky".into(), subscription.to_bytes(3).expect("short"))];
        let mut ticket = self.member.start_join(world);
        if let Some(Reply::Join(reply)) = world.replies.get(&ticket)
            && reply.outcome == Err(GroupError::MemberIdRequired)
        {
            self.member.id = reply.member_id.clone();
            world.replies.remove(&ticket);
            ticket = self.member.start_join(world);
        }
        if world.waits(ticket) {
            // The group is a classic one for now: it is left again, so that nobody waits.
            let effects = world.shard.abandon(ticket, world.now());
            world.take(effects);
            let _ = self.member.leave(world);
            return self.forget();
        }
        let outcome = self.member.finish_join(world, ticket).outcome;
        let Ok(joined) = outcome else { return self.forget() };
        let waiting = self.member.start_sync(world, &[]);
        if world.waits(waiting) {
            let effects = world.shard.abandon(waiting, world.now());
            world.take(effects);
            let _ = self.member.leave(world);
            return self.forget();
        }
        match self.member.finish_sync(world, waiting) {
            Ok(synced) if !joined.members.is_empty() || synced.assignment.is_empty() => {
                // It leads a classic group, and assigns nothing.
                self.owned.clear();
                self.joined = true;
            }
            Ok(synced) => {
                let assignment = ConsumerProtocolAssignment::from_bytes(synced.assignment).expect("an assignment");
                let topics = assignment.assigned_partitions.into_iter();
                self.owned = topics.map(|one| (one.topic, one.partitions)).collect();
                self.joined = true;
            }
            Err(_) => self.joined = false,
        }
    }
}

/// What the records of the group say.
fn recorded(shard: &Shard, world: &World) -> String {
    let group = shard.describe_consumer_group("g", &world.topics);
    match group {
        Ok(group) => format!("{group:?}"),
        Err(_) => "not a consumer group".into(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 50, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_members_do_a_consumer_group_keeps_its_promises_and_settles(
        steps in prop::collection::vec(step(), 0..120),
    ) {
        let mut run = Run::new();
        for step in &steps {
            run.take(step);
        }
        run.settle();
    }
}
