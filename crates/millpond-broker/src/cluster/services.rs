//! What this broker does for others when they ask ([`PeerServices`]).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use millpond_cluster::{
    DirectoryId, FIRST_METADATA_REPLICA, Image, Registration, allocate_producer_ids, register_broker, replace_replica,
    settle_partition,
};
use millpond_raft::{PeerServices, Peers};
use millpond_record::{BrokerId, GroupId, PartitionIndex, RaftIndex, ReplicaId, TopicId};
use millpond_runtime::HostPort;
use tracing::{info, warn};

use super::admin::{Said, carry_out};
use super::messages::{
    self, ADMIN, Accepted, Admin, AdminAnswer, Answered, Block, CONFIRM, Confirmed, EDGES, Forwarded, HELLO, Hello,
    JOIN, Join, JoinAnswer, KAFKA, KNOWN, LOST, Lost, PRODUCER_IDS, Place, REMAINS, RemainsWanted, SETTLED, Settled,
    TOPICS, TRANSFER, TRUST, Topics, Transfer, Trust, read, write,
};
use super::unclean::{self, Verdict};
use crate::broker::Shared;
use crate::controller::Controller;
use crate::errors::ControllerError;

/// How long a broker is asked which data directory it runs on.
const LOOK_TIME: Duration = Duration::from_secs(2);

/// How long the controller may take to register a broker whose JOIN is passed on to it.
const PASS_ON_TIME: Duration = Duration::from_secs(5);

/// How long what another broker has settled is waited for.
const KNOWN_TIME: Duration = Duration::from_secs(1);

/// Brokers that are remembered because they said that they are of this cluster; no cluster has as many.
const MAX_KNOWN: usize = 1000;

/// A handle to what this broker is and does for others. A clone is the same.
#[derive(Clone)]
pub(crate) struct Services(Arc<Inner>);

struct Inner {
    broker: BrokerId,
    directory: DirectoryId,
    address: HostPort,
    founders: BTreeMap<BrokerId, HostPort>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    cluster_id: Option<String>,
    holds_metadata: bool,
    /// Where the configuration says that brokers of the cluster are.
    founders: BTreeMap<BrokerId, HostPort>,
    /// What the metadata says, as far as it is known here.
    registered: BTreeMap<BrokerId, HostPort>,
    /// What its log says behind that, which is not known to be committed.
    logged: BTreeMap<BrokerId, HostPort>,
    /// Where they say that they are.
    heard: BTreeMap<BrokerId, HostPort>,
    /// The metadata is known here up to when this broker was let in. Before that it may lack whoever came after what
    /// was last known to be committed: after a power loss a broker that dialled nobody else would neither hear of the
    /// rest nor tell the others that it leads nothing any more.
    let_in: bool,
    /// This broker has founded the cluster, or just joined it: some that are configured may still be on their way.
    is_new: bool,
    peers: Option<Peers>,
    controller: Option<Controller>,
    broker: Option<Weak<Shared>>,
}

impl State {
    /// The brokers of the cluster, as far as they are known.
    fn known(&self) -> BTreeMap<BrokerId, HostPort> {
        if self.let_in {
            return self.registered.clone();
        }
        let mut all = self.founders.clone();
        all.extend(self.passed_on());
        all
    }

    /// Without those that are only configured, which may have moved since.
    fn passed_on(&self) -> BTreeMap<BrokerId, HostPort> {
        let mut all = self.registered.clone();
        if !self.let_in {
            all.extend(self.logged.clone());
            all.extend(self.heard.clone());
        }
        all
    }

    /// A new broker has what the metadata says when all that are configured have come.
    fn look_for_founders(&mut self) {
        let has_come = |founder| self.registered.contains_key(founder);
        self.let_in |= self.is_new && !self.registered.is_empty() && self.founders.keys().all(has_come);
    }

    /// Has them dialled, once this broker belongs to the cluster.
    fn dial(&self) {
        if let (Some(peers), Some(_), true) = (&self.peers, &self.cluster_id, self.holds_metadata) {
            peers.set_brokers(self.known());
        }
    }
}

impl Services {
    /// `cluster_id`: of the data directory. It is of use to others if it holds the cluster's metadata.
    pub(crate) fn new(
        broker: BrokerId,
        directory: DirectoryId,
        address: HostPort,
        founders: BTreeMap<BrokerId, HostPort>,
        (cluster_id, holds_metadata): (Option<String>, bool),
    ) -> Services {
        let state = State { cluster_id, holds_metadata, founders: founders.clone(), ..State::default() };
        Services(Arc::new(Inner { broker, directory, address, founders, state: Mutex::new(state) }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic runs under the lock.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connections that these services are offered on.
    pub(crate) fn offered_on(&self, peers: Peers) {
        self.state().peers = Some(peers);
    }

    /// The data directory belongs to this cluster, and holds its metadata or does not yet.
    pub(crate) fn belongs_to(&self, cluster_id: &str, holds_metadata: bool) {
        let mut state = self.state();
        state.cluster_id = Some(cluster_id.to_owned());
        state.holds_metadata = holds_metadata;
        if let Some(peers) = &state.peers {
            peers.set_cluster(cluster_id);
        }
        state.dial();
    }

    /// The metadata's log says where brokers of the cluster are, behind what is known to be committed.
    pub(crate) fn logged(&self, brokers: BTreeMap<BrokerId, HostPort>) {
        self.state().logged = brokers;
    }

    /// Other brokers of the cluster were heard of.
    pub(crate) fn heard_of(&self, brokers: BTreeMap<BrokerId, HostPort>) {
        let mut state = self.state();
        for (broker, address) in brokers {
            if state.heard.len() < MAX_KNOWN || state.heard.contains_key(&broker) {
                state.heard.insert(broker, address);
            }
        }
        if !state.let_in {
            state.dial();
        }
    }

    /// What the metadata says of where brokers are.
    pub(crate) fn registered(&self, brokers: BTreeMap<BrokerId, HostPort>) {
        let mut state = self.state();
        if state.registered != brokers && brokers.contains_key(&self.0.broker) {
            let State { logged, heard, registered, is_new, .. } = &mut *state;
            let is_as_before = |broker: &BrokerId| brokers.get(broker) == registered.get(broker);
            logged.retain(|broker, _| is_as_before(broker));
            // Who has all of the metadata hears of nothing before it is there.
            heard.retain(|broker, _| !*is_new || is_as_before(broker));
            state.registered = brokers;
            state.look_for_founders();
            state.dial();
        }
    }

    /// The metadata is known here up to when this broker was let in: there are no other brokers than it says. It is
    /// looked at under the lock, after whatever [`Self::registered`] has told.
    pub(crate) fn let_in(&self, brokers: impl FnOnce() -> BTreeMap<BrokerId, HostPort>) {
        let mut state = self.state();
        let brokers = brokers();
        // It is not in it where it was unregistered just now.
        if brokers.contains_key(&self.0.broker) {
            (state.registered, state.let_in) = (brokers, true);
            state.dial();
        }
    }

    /// This broker has founded the cluster, or just joined it.
    pub(crate) fn is_new(&self) {
        let mut state = self.state();
        state.is_new = true;
        let State { heard, registered, .. } = &mut *state;
        heard.retain(|broker, _| !registered.contains_key(broker));
        state.look_for_founders();
        state.dial();
    }

    /// The other brokers of the cluster, as far as they are known.
    pub(crate) fn others(&self) -> Vec<BrokerId> {
        self.state().known().into_keys().filter(|broker| *broker != self.0.broker).collect()
    }

    /// Begins to do what needs the metadata.
    pub(crate) fn controlled_by(&self, controller: Controller) {
        self.state().controller = Some(controller);
    }

    /// Begins to do what needs a whole broker.
    pub(crate) fn done_by(&self, broker: &Arc<Shared>) {
        self.state().broker = Some(Arc::downgrade(broker));
    }

    /// Does nothing any more, and lets go of everything.
    pub(crate) fn end(&self) {
        let mut state = self.state();
        state.peers = None;
        state.controller = None;
        state.broker = None;
    }

    /// What this broker says of itself.
    pub(crate) fn hello(&self) -> Hello {
        let state = self.state();
        Hello {
            me: Some(Place { broker: self.0.broker.0, address: self.0.address.to_string() }),
            cluster_id: state.cluster_id.clone(),
            holds_metadata: state.holds_metadata,
            founders: messages::write_places(&self.0.founders),
            known: if state.holds_metadata { messages::write_places(&state.passed_on()) } else { Vec::new() },
            directory: Bytes::copy_from_slice(&self.0.directory.0),
        }
    }

    fn greeted(&self, from: BrokerId, hello: &Hello) -> Hello {
        let here = self.hello();
        let same = hello.cluster_id.is_some() && hello.cluster_id == here.cluster_id;
        let address = hello.me.as_ref().and_then(|me| me.address.parse().ok());
        if let (true, Some(address)) = (same && hello.holds_metadata, address) {
            self.heard_of(BTreeMap::from([(from, address)]));
        }
        here
    }

    fn controller(&self) -> Option<Controller> {
        self.state().controller.clone()
    }

    fn broker(&self) -> Result<Arc<Shared>, String> {
        let broker = self.state().broker.as_ref().and_then(Weak::upgrade);
        broker.ok_or_else(|| "the broker is starting or stopping".to_owned())
    }

    async fn join(self, from: BrokerId, body: Bytes) -> Result<Bytes, String> {
        let join: Join = read(body.clone())?;
        let not_now = |why: String| write(&JoinAnswer { not_now: Some(why), ..JoinAnswer::default() });
        let refused = |why: String| write(&JoinAnswer { refused: Some(why), ..JoinAnswer::default() });
        let Some(registration) = join.registration() else {
            return Ok(refused("its registration has a value that cannot be".to_owned()));
        };
        let (cluster_id, peers) = {
            let state = self.state();
            (state.cluster_id.clone(), state.peers.clone())
        };
        let (Some(controller), Some(peers), Some(cluster_id)) = (self.controller(), peers, cluster_id) else {
            return Ok(not_now(format!("broker {} is starting", self.0.broker)));
        };
        if cluster_id != join.cluster_id {
            return Ok(refused(format!(
                "its data directory belongs to cluster {}, this is cluster {cluster_id}: start it with an empty one",
                join.cluster_id
            )));
        }
        if controller.is_here() {
            return Ok(write(&register(&controller, &peers, &registration).await));
        }
        let leader = controller.broker().filter(|leader| *leader != self.0.broker);
        // Passed on once: whoever passes it on is not the broker that joins.
        match leader.filter(|_| from == registration.id) {
            Some(leader) => match peers.call(leader, JOIN, body, PASS_ON_TIME).await {
                Ok(answer) => Ok(answer),
                Err(error) => Ok(not_now(error.to_string())),
            },
            None => Ok(not_now("the cluster has no controller".to_owned())),
        }
    }

    /// Carries out a client's request that was sent to another broker.
    async fn kafka(self, body: Bytes) -> Result<Bytes, String> {
        let Forwarded { client, frame } = read(body)?;
        let shared = self.broker()?;
        if !shared.controller.is_here() {
            return Ok(write(&Answered { not_here: true, ..Answered::default() }));
        }
        let client = client.parse().map_err(|_| "the client's address cannot be read".to_owned())?;
        match crate::dispatch::carry_out(&shared, client, frame).await? {
            Some(body) => Ok(answered(&shared.controller, body)),
            None => Ok(write(&Answered { not_here: true, ..Answered::default() })),
        }
    }

    async fn topics(self, body: Bytes) -> Result<Bytes, String> {
        let Topics { topics } = read(body)?;
        let controller = self.controller().ok_or("the broker is starting or stopping")?;
        let topics = topics.into_iter().map(messages::WantedTopic::topic).collect();
        match controller.create_topics_here(topics).await {
            Ok(_) => Ok(answered(&controller, Bytes::new())),
            Err(error) => not_done(&error),
        }
    }

    async fn producer_ids(self) -> Result<Bytes, String> {
        let controller = self.controller().ok_or("the broker is starting or stopping")?;
        let decided = controller.change(|image| match allocate_producer_ids(image) {
            Ok((block, records)) => (Ok(block), records),
            Err(error) => (Err(error), Vec::new()),
        });
        match decided.await {
            Ok(decided) => {
                let block = decided.decision.map_err(|error| error.to_string())?;
                Ok(answered(&controller, write(&Block { first: block.first.0, count: block.count })))
            }
            Err(error) => not_done(&error),
        }
    }

    async fn confirm(self) -> Result<Bytes, String> {
        let controller = self.controller().ok_or("the broker is starting or stopping")?;
        match controller.confirm().await {
            Ok(Some(index)) => Ok(answered(&controller, write(&Confirmed { index: index.0 }))),
            Ok(None) => Err("the cluster has no metadata yet".to_owned()),
            Err(error) => not_done(&error),
        }
    }

    async fn settled(self, body: Bytes) -> Result<Bytes, String> {
        let Settled { topic, partition, group, assignment_version } = read(body)?;
        let controller = self.controller().ok_or("the broker is starting or stopping")?;
        let topic = TopicId(topic.as_ref().try_into().map_err(|_| "a topic id has 16 bytes".to_owned())?);
        let decided = controller.change(move |image| {
            let index = PartitionIndex(partition);
            ((), settle_partition(image, topic, index, GroupId(group), assignment_version))
        });
        match decided.await {
            Ok(_) => Ok(answered(&controller, Bytes::new())),
            Err(error) => not_done(&error),
        }
    }

    async fn known(self, body: Bytes) -> Result<Bytes, String> {
        let Confirmed { index } = read(body)?;
        let broker = self.broker()?;
        let settled = broker.runtime.timeout(KNOWN_TIME, broker.metadata.settled(RaftIndex(index)));
        settled.await.map(|_| Bytes::new()).map_err(|_| "it is not known here yet".to_owned())
    }

    async fn lost(self, body: Bytes) -> Result<Bytes, String> {
        let Lost { topic, partition, group, replica, tainted } = read(body)?;
        let controller = self.controller().ok_or("the broker is starting or stopping")?;
        let topic = TopicId(topic.as_ref().try_into().map_err(|_| "a topic id has 16 bytes".to_owned())?);
        let mut asked_of = None;
        if tainted && controller.is_here() {
            // What it has may be missed as soon as it is replaced. That somebody was heard to lead is no proof.
            let image = controller.image();
            let found = image.topic_by_id(topic).and_then(|topic| topic.partition(PartitionIndex(partition)));
            if let Some(partition) = found {
                asked_of = Some(partition.assignment_version);
                let found = unclean::ask(&*self.broker()?, partition).await;
                if unclean::verdict(&found) != Verdict::Whole && !found.is_whole_without(ReplicaId(replica)) {
                    return Err("no majority of the partition's replicas is known to miss nothing".to_owned());
                }
            }
        }
        let decided = controller.change(move |image| {
            let index = PartitionIndex(partition);
            let now = image.topic_by_id(topic).and_then(|topic| topic.partition(index));
            // What was found out may not be so of other replicas.
            match asked_of.is_some_and(|asked_of| now.is_none_or(|now| now.assignment_version != asked_of)) {
                true => ((), Vec::new()),
                false => ((), replace_replica(image, topic, index, GroupId(group), ReplicaId(replica))),
            }
        });
        match decided.await {
            Ok(_) => Ok(answered(&controller, Bytes::new())),
            Err(error) => not_done(&error),
        }
    }

    async fn admin(self, body: Bytes) -> Result<Bytes, String> {
        let wish = read::<Admin>(body)?.wish();
        let controller = self.controller().ok_or("the broker is starting or stopping")?;
        match carry_out(&controller, wish).await {
            Ok(Said { refused, sentence, moves }) => {
                Ok(answered(&controller, write(&AdminAnswer { refused, sentence, moves })))
            }
            Err(error) => not_done(&error),
        }
    }

    async fn edges(self, body: Bytes) -> Result<Bytes, String> {
        crate::coordinator::answer_edges(&self.broker()?, body).await
    }

    async fn remains(self, body: Bytes) -> Result<Bytes, String> {
        let RemainsWanted { group } = read(body)?;
        Ok(write(&unclean::answer(&*self.broker()?, GroupId(group)).await))
    }

    async fn trust(self, body: Bytes) -> Result<Bytes, String> {
        let Trust { group, replica } = read(body)?;
        let broker = self.broker()?;
        let trusted = broker.groups.trust(GroupId(group), ReplicaId(replica)).await;
        trusted.map(|()| Bytes::new()).map_err(|error| error.to_string())
    }

    async fn transfer(self, body: Bytes) -> Result<Bytes, String> {
        let Transfer { group, to } = read(body)?;
        let partition = self.broker()?.groups.partition(GroupId(group));
        let partition = partition.ok_or_else(|| format!("group {group} has no replica here"))?;
        partition.transfer(BrokerId(to)).await.map(|()| Bytes::new()).map_err(|error| error.to_string())
    }
}

fn answered(controller: &Controller, body: Bytes) -> Bytes {
    let index = controller.applied_index().map(|index: RaftIndex| index.0);
    write(&Answered { index, body, ..Answered::default() })
}

fn not_done(error: &ControllerError) -> Result<Bytes, String> {
    match error {
        error if error.is_elsewhere() => Ok(write(&Answered { not_here: true, ..Answered::default() })),
        // As a sentence it would be the controller's last word, which ends a producer.
        ControllerError::NoAnswer | ControllerError::Stopped => {
            Ok(write(&Answered { unknown: true, ..Answered::default() }))
        }
        error => Err(error.to_string()),
    }
}

/// Registers a broker, on the controller.
async fn register(controller: &Controller, peers: &Peers, registration: &Registration) -> JoinAnswer {
    let not_now = |why: String| JoinAnswer { not_now: Some(why), ..JoinAnswer::default() };
    let before = controller.image().broker(registration.id).map(|broker| broker.directory);
    let running = match before.filter(|before| *before != registration.directory) {
        Some(before) if peers.is_alive(registration.id) => match directory_of(peers, registration.id).await {
            Some(found) => found == before,
            None => return not_now(format!("it is not known yet whether broker {} runs", registration.id)),
        },
        _ => false,
    };
    let (id, wanted) = (registration.id, registration.clone());
    let decided = controller.change(move |image| {
        if image.broker_count() == 0 && wanted.metadata_replica != Some(FIRST_METADATA_REPLICA) {
            // The founder is registered first: whoever is gets the id of its replica of the metadata.
            return (None, Vec::new());
        }
        match register_broker(image, &wanted, running) {
            Ok(registered) => (Some(Ok(registered.metadata_replica)), registered.records),
            Err(error) => (Some(Err(error)), Vec::new()),
        }
    });
    match decided.await {
        Ok(decided) => match decided.decision {
            None => not_now("the cluster is being founded".to_owned()),
            Some(Ok(replica)) => {
                if decided.index.is_some() {
                    info!(broker = id.0, peer = registration.peer, "broker registered");
                    if before.is_some_and(|before| before != registration.directory) {
                        warn_of_lost(&controller.image(), id);
                    }
                }
                let brokers = super::places(&controller.image());
                let accepted = Accepted {
                    metadata_replica: replica.0,
                    index: controller.applied_index().map(|index| index.0),
                    brokers: messages::write_places(&brokers),
                };
                JoinAnswer { accepted: Some(accepted), ..JoinAnswer::default() }
            }
            Some(Err(error)) => JoinAnswer { refused: Some(error.to_string()), ..JoinAnswer::default() },
        },
        Err(error) => not_now(error.to_string()),
    }
}

/// Partitions that are named when their only replica was lost.
const NAMED: usize = 10;

/// Tells of partitions whose only replica was on the disk that a broker has lost. Nobody can fill the new one.
fn warn_of_lost(image: &Image, broker: BrokerId) {
    let partitions = image.topics().flat_map(|topic| topic.partitions.iter().map(move |one| (&topic.name, one)));
    let lost: Vec<String> = partitions
        .filter(|(_, partition)| matches!(&partition.replicas[..], [only] if only.broker == broker))
        .map(|(topic, partition)| format!("{topic}-{}", partition.index.0))
        .collect();
    if !lost.is_empty() {
        let (count, named) = (lost.len(), lost[..lost.len().min(NAMED)].join(", "));
        warn!(
            broker = broker.0,
            "the broker has lost the only replica of {count} partitions, {named}{}: they have no leader any more; \
             delete the topics, and create them again",
            if count > NAMED { ", …" } else { "" }
        );
    }
}

/// The data directory that the broker runs on which answers under this id. It may be the very one that registers:
/// at the address of the old one.
async fn directory_of(peers: &Peers, broker: BrokerId) -> Option<DirectoryId> {
    let answer = peers.call(broker, HELLO, write(&Hello::default()), LOOK_TIME).await.ok()?;
    let hello: Hello = read(answer).ok()?;
    Some(DirectoryId(hello.directory.as_ref().try_into().ok()?))
}

impl PeerServices for Services {
    /// Those that wait for what others ask for, or for other brokers. What keeps the cluster going does not wait behind
    /// them.
    fn takes_long(&self, service: u16) -> bool {
        matches!(service, KAFKA | TOPICS | TRANSFER | ADMIN | KNOWN | LOST | EDGES)
    }

    fn call(&self, from: BrokerId, service: u16, body: Bytes) -> BoxFuture<'static, Result<Bytes, String>> {
        let here = self.clone();
        match service {
            HELLO => async move { Ok(write(&here.greeted(from, &read(body)?))) }.boxed(),
            JOIN => here.join(from, body).boxed(),
            KAFKA => here.kafka(body).boxed(),
            TOPICS => here.topics(body).boxed(),
            PRODUCER_IDS => here.producer_ids().boxed(),
            SETTLED => here.settled(body).boxed(),
            TRANSFER => here.transfer(body).boxed(),
            ADMIN => here.admin(body).boxed(),
            CONFIRM => here.confirm().boxed(),
            LOST => here.lost(body).boxed(),
            KNOWN => here.known(body).boxed(),
            REMAINS => here.remains(body).boxed(),
            TRUST => here.trust(body).boxed(),
            EDGES => here.edges(body).boxed(),
            unknown => async move { Err(format!("service {unknown} is not known to this version")) }.boxed(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::messages::read_places;
    use super::*;

    fn at(places: &[(i32, u16)]) -> BTreeMap<BrokerId, HostPort> {
        let place = |&(broker, port): &(i32, u16)| (BrokerId(broker), HostPort { host: "h".to_owned(), port });
        places.iter().map(place).collect()
    }

    #[test]
    fn until_the_metadata_is_known_to_be_new_all_that_may_belong_to_the_cluster_are_dialled() {
        let own = HostPort { host: "h".to_owned(), port: 1 };
        let cluster = (Some("id".to_owned()), true);
        let services = Services::new(BrokerId(1), DirectoryId([1; 16]), own, at(&[(1, 1), (2, 2), (3, 3)]), cluster);
        let known = || services.state().known();
        services.logged(at(&[(2, 200), (4, 40)]));
        assert_eq!(known(), at(&[(1, 1), (2, 200), (3, 3), (4, 40)]), "nothing is known to be committed");
        services.registered(at(&[(1, 1)]));
        assert_eq!(
            known(),
            at(&[(1, 1), (2, 200), (3, 3), (4, 40)]),
            "what was committed last is from before they came"
        );
        services.registered(at(&[(1, 1), (2, 20)]));
        services.heard_of(at(&[(3, 30), (4, 4)]));
        assert_eq!(known(), at(&[(1, 1), (2, 20), (3, 30), (4, 4)]));
        assert_eq!(services.others(), [2, 3, 4].map(BrokerId));
        services.let_in(|| at(&[(2, 2)]));
        assert_eq!(known().len(), 4, "it was unregistered meanwhile");
        services.let_in(|| at(&[(1, 1), (2, 20)]));
        services.heard_of(at(&[(3, 30)]));
        assert_eq!(known(), at(&[(1, 1), (2, 20)]), "whoever is not registered is not dialled for ever");
    }

    #[test]
    fn a_new_broker_dials_the_others_until_they_have_come() {
        let own = HostPort { host: "h".to_owned(), port: 1 };
        let cluster = (Some("id".to_owned()), true);
        let services = Services::new(BrokerId(1), DirectoryId([1; 16]), own, at(&[(1, 1), (2, 2), (3, 3)]), cluster);
        let known = || services.state().known();
        services.is_new();
        services.heard_of(at(&[(2, 2)]));
        services.registered(at(&[(1, 1), (2, 20)]));
        assert_eq!(known(), at(&[(1, 1), (2, 20), (3, 3)]), "it was registered after it was heard of");
        assert_eq!(read_places(&services.hello().known), at(&[(1, 1), (2, 20)]), "where one is configured is no news");
        services.registered(at(&[(1, 1), (2, 20), (3, 3)]));
        services.registered(at(&[(1, 1), (2, 20)]));
        assert_eq!(known(), at(&[(1, 1), (2, 20)]), "the third was unregistered");
    }

    #[test]
    fn a_controller_that_does_not_know_what_it_did_says_so_and_no_sentence() {
        let said = |error| not_done(&error).map(|answer| read::<Answered>(answer).expect("readable"));
        let elsewhere = said(ControllerError::Elsewhere).expect("an answer");
        assert!(elsewhere.not_here && !elsewhere.unknown);
        for error in [ControllerError::NoAnswer, ControllerError::Stopped] {
            let answer = said(error).expect("an answer");
            assert!(answer.unknown && !answer.not_here);
        }
        assert_eq!(said(ControllerError::Said("no".to_owned())), Err("no".to_owned()));
    }
}
