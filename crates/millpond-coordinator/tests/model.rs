//! Random members, requests, pauses, broken connections and failovers; what a group promises must hold at every step.
//!
//! The promises: one owner per partition and generation; a committed offset changes only by a commit that was accepted;
//! every request is answered once, or its connection or coordinator is gone; once the noise stops, every group settles
//! with all members in one generation and every partition assigned; and what a shard knows by its records is what
//! another one knows that has replayed them.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use millpond_coordinator::{Committer, GroupError, GroupSettings, Joined, Reply, Shard, Ticket};
use millpond_record::PartitionIndex;
use proptest::prelude::*;
use support::{Member, World, committed, settings};

const GROUPS: [&str; 2] = ["g", "h"];
const CLIENTS: usize = 6;
const PARTITIONS: u8 = 5;

/// What a client does next.
#[derive(Clone, Debug)]
enum Step {
    /// Joins, syncs or sends a heartbeat: whatever it has to do now.
    GoOn(usize),
    /// Sends a heartbeat, whatever it has to do.
    Heartbeat(usize),
    Commit(usize, i64),
    /// Commits under the generation before.
    LateCommit(usize, i64),
    Leave(usize),
    /// Its process ends without a word; a static member comes back as itself, another one as a new one.
    Restart(usize),
    /// Its connection breaks; it will ask again.
    Disconnect(usize),
    /// It wants another assignment.
    Rejoin(usize),
    Pass(u64),
    FailOver,
}

fn step() -> impl Strategy<Value = Step> {
    let client = 0..CLIENTS;
    prop_oneof![
        12 => client.clone().prop_map(Step::GoOn),
        2 => client.clone().prop_map(Step::Heartbeat),
        3 => (client.clone(), 0..100i64).prop_map(|(client, offset)| Step::Commit(client, offset)),
        1 => (client.clone(), 0..100i64).prop_map(|(client, offset)| Step::LateCommit(client, offset)),
        1 => client.clone().prop_map(Step::Leave),
        1 => client.clone().prop_map(Step::Restart),
        1 => client.clone().prop_map(Step::Disconnect),
        1 => client.prop_map(Step::Rejoin),
        4 => prop_oneof![0..50u64, 500..4_000u64, 5_000..12_000u64].prop_map(Step::Pass),
        1 => Just(Step::FailOver),
    ]
}

/// What a client waits for.
#[derive(Clone, Debug, PartialEq)]
enum Doing {
    /// It has to join.
    Out,
    Joining(Ticket),
    /// It has to sync; the leader with what it decided.
    Joined(Option<Vec<(String, Vec<u8>)>>),
    Syncing(Ticket),
    In(Vec<u8>),
}

struct Client {
    member: Member,
    doing: Doing,
}

struct Run {
    world: World,
    clients: Vec<Client>,
    /// Who was told to own a partition in a generation of a group.
    owners: BTreeMap<(String, i32, u8), String>,
    /// The last generation of each group in which someone was told its partitions.
    synced: BTreeMap<&'static str, i32>,
    /// What each group's partition must have as its committed offset.
    offsets: BTreeMap<&'static str, i64>,
}

fn group_of(client: usize) -> &'static str {
    GROUPS[usize::from(client >= CLIENTS - 2)]
}

/// Deals the partitions out to the members in turn, as a consumer that leads does.
fn assign(joined: &Joined) -> Vec<(String, Vec<u8>)> {
    let ids: Vec<String> = joined.members.iter().map(|member| member.member_id.to_string()).collect();
    let mut dealt: Vec<(String, Vec<u8>)> = ids.iter().map(|id| (id.clone(), Vec::new())).collect();
    for partition in 0..PARTITIONS {
        let at = usize::from(partition) % dealt.len();
        dealt[at].1.push(partition);
    }
    dealt
}

impl Run {
    fn new() -> Run {
        let mut settings = GroupSettings { initial_rebalance_delay_ms: 500, ..settings() };
        settings.max_group_size = CLIENTS;
        let world = World::with(settings);
        let new = |client: usize| {
            let mut member = world.member(group_of(client));
            member.version = [9, 9, 3, 8, 9, 9][client];
            if client.is_multiple_of(3) {
                member = member.instance(&format!("i{client}"));
            }
            Client { member, doing: Doing::Out }
        };
        let clients = (0..CLIENTS).map(new).collect();
        Run { world, clients, owners: BTreeMap::new(), synced: BTreeMap::new(), offsets: BTreeMap::new() }
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::GoOn(client) => self.go_on(client),
            Step::Heartbeat(client) => self.heartbeat(client),
            Step::Commit(client, offset) => {
                let committer = self.clients[client].member.committer();
                self.commit(client, offset, committer);
            }
            Step::LateCommit(client, offset) => {
                let committer = self.clients[client].member.committer();
                let generation = committer.generation - 1;
                let late = Committer { generation, ..committer };
                let accepted = self.commit(client, offset, late);
                // After a failover the generation before may be the one that counts again.
                let current = self.world.shard.summary(group_of(client)).map(|group| group.generation);
                assert!(!accepted || generation < 0 || current == Some(generation), "a generation that is over");
            }
            Step::Leave(client) => {
                let member = self.clients[client].member.clone();
                let _ = member.leave(&mut self.world);
                self.collect();
                self.disconnect(client);
                self.forget_id(client);
            }
            Step::Restart(client) => {
                self.disconnect(client);
                self.forget_id(client);
            }
            Step::Disconnect(client) => self.disconnect(client),
            Step::Rejoin(client) => {
                if matches!(self.clients[client].doing, Doing::In(_)) {
                    self.clients[client].doing = Doing::Out;
                }
            }
            Step::Pass(ms) => {
                self.world.pass(ms);
                self.collect();
            }
            Step::FailOver => {
                self.world.fail_over();
                for client in &mut self.clients {
                    // The coordinator that failed answers what waited: join again.
                    if matches!(client.doing, Doing::Joining(_) | Doing::Syncing(_)) {
                        client.doing = Doing::Out;
                    }
                }
            }
        }
        self.check();
    }

    fn forget_id(&mut self, client: usize) {
        let client = &mut self.clients[client];
        client.member.id = millpond_wire::Str::EMPTY;
        client.member.generation = -1;
        client.doing = Doing::Out;
    }

    fn disconnect(&mut self, client: usize) {
        if let Doing::Joining(ticket) | Doing::Syncing(ticket) = self.clients[client].doing {
            let effects = self.world.shard.abandon(ticket, self.world.now());
            self.world.take(effects);
            self.clients[client].doing = Doing::Out;
            self.collect();
        }
    }

    fn go_on(&mut self, at: usize) {
        let client = &mut self.clients[at];
        match client.doing.clone() {
            Doing::Out => client.doing = Doing::Joining(client.member.start_join(&mut self.world)),
            Doing::Joined(assignment) => {
                let assignment = assignment.unwrap_or_default();
                let assignment: Vec<(&str, &[u8])> =
                    assignment.iter().map(|(id, partitions)| (id.as_str(), partitions.as_slice())).collect();
                client.doing = Doing::Syncing(client.member.start_sync(&mut self.world, &assignment));
            }
            Doing::Joining(_) | Doing::Syncing(_) => {}
            Doing::In(_) => return self.heartbeat(at),
        }
        self.collect();
    }

    fn heartbeat(&mut self, at: usize) {
        let member = self.clients[at].member.clone();
        let result = member.heartbeat(&mut self.world);
        self.collect();
        match result {
            Ok(()) => {}
            Err(GroupError::UnknownMember | GroupError::FencedInstance) => {
                self.disconnect(at);
                self.forget_id(at);
            }
            Err(GroupError::RebalanceInProgress | GroupError::IllegalGeneration { .. }) => {
                if !matches!(self.clients[at].doing, Doing::Joining(_) | Doing::Syncing(_)) {
                    self.clients[at].doing = Doing::Out;
                }
            }
            Err(error) => panic!("a heartbeat is not refused with {error}"),
        }
    }

    fn commit(&mut self, client: usize, offset: i64, committer: Committer) -> bool {
        let group = group_of(client);
        let accepted = self.world.commit(group, "t", offset, committer).is_ok();
        if accepted {
            self.offsets.insert(group, offset);
        }
        accepted
    }

    /// Hands the answers to those who wait for them.
    fn collect(&mut self) {
        // Whoever is answered may ask at once, as a member that is told its id does.
        while let Some((ticket, reply)) = self.world.replies.pop_first() {
            let waits =
                |client: &Client| client.doing == Doing::Joining(ticket) || client.doing == Doing::Syncing(ticket);
            let at = self.clients.iter().position(waits);
            let at = at.unwrap_or_else(|| panic!("{ticket:?} is answered with {reply:?}, and nobody waits"));
            self.answered(at, reply);
        }
    }

    fn answered(&mut self, at: usize, reply: Reply) {
        let client = &mut self.clients[at];
        let error = match reply {
            Reply::Join(reply) => match reply.outcome {
                Ok(joined) => {
                    // One that nobody has synced in is in no record, and may come again after a failover.
                    let synced = self.synced.get(group_of(at)).copied().unwrap_or(0);
                    assert!(joined.generation >= synced, "a generation that was handed out does not come back");
                    client.member.id = reply.member_id;
                    client.member.generation = joined.generation;
                    let leads = joined.leader == client.member.id;
                    client.doing = Doing::Joined((leads && !joined.skip_assignment).then(|| assign(&joined)));
                    return;
                }
                Err(GroupError::MemberIdRequired) => {
                    client.member.id = reply.member_id;
                    client.doing = Doing::Joining(client.member.start_join(&mut self.world));
                    return;
                }
                Err(error) => error,
            },
            Reply::Sync(Ok(synced)) => {
                let (group, generation) = (client.member.group.to_string(), client.member.generation);
                let last = self.synced.entry(group_of(at)).or_default();
                *last = generation.max(*last);
                // A static member goes on as itself under another id.
                let owner = client.member.instance.as_ref().unwrap_or(&client.member.id).to_string();
                for &partition in &synced.assignment {
                    let before = self.owners.insert((group.clone(), generation, partition), owner.clone());
                    assert!(before.is_none_or(|before| before == owner), "two owners of {partition} in {generation}");
                }
                client.doing = Doing::In(synced.assignment.to_vec());
                return;
            }
            Reply::Sync(Err(error)) => error,
            other => panic!("not an answer that waits: {other:?}"),
        };
        client.doing = Doing::Out;
        match error {
            GroupError::RebalanceInProgress | GroupError::IllegalGeneration { .. } => {}
            GroupError::UnknownMember | GroupError::FencedInstance | GroupError::GroupFull { .. } => self.forget_id(at),
            error => panic!("an ordinary client is not refused with {error}"),
        }
    }

    /// What must hold at every step.
    fn check(&self) {
        for group in GROUPS {
            assert_eq!(self.world.committed(group, "t"), self.offsets.get(group).copied(), "offset of {group}");
        }
        let waiting: BTreeSet<Ticket> = self
            .clients
            .iter()
            .filter_map(|client| match client.doing {
                Doing::Joining(ticket) | Doing::Syncing(ticket) => Some(ticket),
                _ => None,
            })
            .collect();
        assert_eq!(self.world.shard.parked().collect::<BTreeSet<_>>(), waiting, "whoever waits will be answered");
        let replayed = self.world.replayed();
        assert_eq!(recorded(&replayed, &self.world.shard), recorded(&self.world.shard, &replayed));
    }

    /// The noise stops: clients do what they have to do, and time passes.
    fn settle(&mut self) {
        for _ in 0..60 {
            for client in 0..CLIENTS {
                self.go_on(client);
            }
            self.world.pass(1_000);
            self.collect();
            self.check();
        }
        for group in GROUPS {
            let members: Vec<&Client> = self.clients.iter().filter(|client| &*client.member.group == group).collect();
            let summary = self.world.shard.summary(group).expect("it has members");
            assert_eq!((summary.state.name(), summary.members), ("Stable", members.len()), "{group}");
            let mut owned: Vec<u8> = Vec::new();
            for client in members {
                assert_eq!(client.member.generation, summary.generation, "{group}");
                let Doing::In(partitions) = &client.doing else { panic!("{:?} is not in", client.doing) };
                owned.extend(partitions);
            }
            owned.sort();
            assert_eq!(owned, (0..PARTITIONS).collect::<Vec<u8>>(), "{group}: each partition has one owner");
        }
    }
}

/// What the records of the groups say that stand still in both shards: a rebalance under way is in no record.
fn recorded(shard: &Shard, other: &Shard) -> Vec<String> {
    let stands_still = |id: &str, shard: &Shard| {
        shard.summary(id).is_none_or(|group| matches!(group.state.name(), "Stable" | "Empty"))
    };
    let mut found = Vec::new();
    for group in GROUPS {
        found.push(format!("{group}: {:?}", committed(shard, group, "t")));
        let offset = shard.committed_offset(group, "t", millpond_record::TopicId::ZERO, PartitionIndex(0));
        found.push(format!("{offset:?}"));
        if stands_still(group, shard) && stands_still(group, other) {
            // A group of which no record tells may be known to the shard that is live.
            let described = shard.describe_group(group).ok().filter(|group| !group.protocol_type.is_empty());
            let generation = shard.summary(group).map_or(0, |group| group.generation);
            found.push(format!("{described:?} in {generation}"));
        }
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_members_do_a_group_keeps_its_promises_and_settles(
        steps in prop::collection::vec(step(), 0..120),
    ) {
        let mut run = Run::new();
        for step in &steps {
            run.take(step);
        }
        run.settle();
    }
}
