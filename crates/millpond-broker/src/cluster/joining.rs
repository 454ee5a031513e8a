//! The start of a broker among others: it looks for its cluster, founds it or joins it, and is registered.
//!
//! A broker that holds a replica of the metadata never founds: it only says where it is now. All it waits for is told
//! in the log every few seconds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use millpond_cluster::Registration;
use millpond_raft::{CallError, MetadataGroup, Peers};
use millpond_record::{BrokerId, RaftIndex, ReplicaId};
use millpond_runtime::{HostPort, Runtime};
use tokio::time::Instant;
use tracing::info;

use super::founding::{Asking, Course, Heard, course};
use super::messages::{self, Accepted, HELLO, Hello, JOIN, Join, JoinAnswer, read_places};
use super::services::Services;
use crate::config::PeerConfig;
use crate::reconcile::Applied;

/// How long one broker is waited for.
const HELLO_TIME: Duration = Duration::from_secs(2);
const JOIN_TIME: Duration = Duration::from_secs(8);
/// How long a controller that is known may be out of reach before others are asked.
const UNREACHED: Duration = Duration::from_secs(1);
/// Between two rounds of asking.
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// How often it is told what is waited for, if it is the same.
const TELL_AGAIN: Duration = Duration::from_secs(5);

/// Why a broker does not become part of a cluster: a sentence for its operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotAMember(String);

/// A broker on its way into its cluster.
pub(crate) struct Entry {
    runtime: Runtime,
    peers: Peers,
    services: Services,
    broker: BrokerId,
    /// Where others may be found, this broker left out.
    addresses: Vec<HostPort>,
    founders: BTreeMap<BrokerId, HostPort>,
    /// It was told to join a cluster.
    joins: bool,
    told: Option<(String, Instant)>,
}

/// Whether a cluster is founded or joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// With this cluster id, if one is known already.
    Found(Option<String>),
    Join(String),
}

/// What became of a JOIN.
enum Joined {
    Accepted(Accepted),
    /// The end of the sentence that says what is waited for.
    NotNow(String),
    /// Somebody at an address that is configured does not talk to this broker.
    Stranger(NotAMember),
}

impl Entry {
    pub(crate) fn new(runtime: &Runtime, peers: Peers, services: Services, config: &PeerConfig) -> Entry {
        let broker = peers.broker();
        let others = config.founders.iter().filter(|(id, _)| **id != broker).map(|(_, address)| address);
        let addresses = others.chain(&config.join).filter(|address| **address != config.advertised).cloned().collect();
        let founders = config.founders.clone();
        let joins = !config.join.is_empty();
        Entry { runtime: runtime.clone(), peers, services, broker, addresses, founders, joins, told: None }
    }

    /// Looks for a cluster until one is found, or may be founded. `cluster_id`: what an earlier start wrote down.
    ///
    /// # Errors
    /// A sentence that says why this broker and those that it asked do not belong together.
    pub(crate) async fn look(&mut self, cluster_id: Option<&str>) -> Result<Way, NotAMember> {
        loop {
            let heard = self.ask_all().await?;
            let asking = Asking { broker: self.broker, cluster_id, founders: &self.founders, joins: self.joins };
            match course(asking, &heard) {
                Course::Found(id) => return Ok(Way::Found(id)),
                Course::Join(id) => return Ok(Way::Join(id)),
                Course::Refuse(why) => return Err(NotAMember(why)),
                Course::Wait(what) => self.tell(&what),
            }
            self.runtime.sleep(ASK_AGAIN).await;
        }
    }

    /// Registers with the controller; the metadata of the cluster holds it at the index of the answer.
    ///
    /// # Errors
    /// Why this broker must not join.
    pub(crate) async fn join(
        &mut self,
        registration: &Registration,
        cluster_id: &str,
        group: Option<&MetadataGroup>,
    ) -> Result<Accepted, NotAMember> {
        let body = messages::write(&Join::new(registration, cluster_id));
        let mut unreached = None;
        loop {
            let leader = group.and_then(|group| group.leadership().borrow().leader);
            let mut waits_for = "the cluster's controller".to_owned();
            let began = self.runtime.now();
            let asks_others = match leader {
                Some(leader) => match self.peers.call(leader, JOIN, body.clone(), JOIN_TIME).await {
                    Ok(answer) => match judge(answer)? {
                        Ok(accepted) => return Ok(accepted),
                        Err(why) => {
                            waits_for = format!("{waits_for}: {why}");
                            false
                        }
                    },
                    Err(error) => {
                        waits_for = format!("{waits_for}: {error}");
                        // It may be gone, or where this broker does not know, or where this broker was before.
                        self.runtime.now() >= *unreached.get_or_insert(began) + UNREACHED
                    }
                },
                None => true,
            };
            if asks_others {
                match self.join_by_others(cluster_id, &body).await? {
                    Joined::Accepted(accepted) => return Ok(accepted),
                    Joined::NotNow(why) => waits_for = format!("{waits_for}{why}"),
                    // What is at an address that is configured may have nothing to do with a cluster that is known.
                    Joined::Stranger(why) if leader.is_some() => waits_for = format!("{waits_for}; {why}"),
                    Joined::Stranger(why) => return Err(why),
                }
            }
            self.tell(&waits_for);
            self.runtime.sleep(ASK_AGAIN).await;
        }
    }

    /// Hands the JOIN to those of the cluster that answer, which pass it on to the controller. They also say where all
    /// are, and hear where this broker is.
    async fn join_by_others(&self, cluster_id: &str, body: &Bytes) -> Result<Joined, NotAMember> {
        let mut waits_for = String::new();
        for broker in self.services.others() {
            // At once an error for one that is not connected.
            if let Ok(answer) = self.peers.call(broker, JOIN, body.clone(), JOIN_TIME).await {
                match judge(answer)? {
                    Ok(accepted) => return Ok(Joined::Accepted(accepted)),
                    Err(why) => waits_for = format!(": {why}"),
                }
            }
        }
        let heard = match self.ask_all().await {
            Ok(heard) => heard,
            Err(why) => return Ok(Joined::Stranger(why)),
        };
        let of_it = |heard: &&Heard| heard.cluster_id.as_deref() == Some(cluster_id);
        for (address, _) in heard.iter().filter(|(_, heard)| heard.as_ref().filter(of_it).is_some()) {
            match self.peers.call_address(address, JOIN, body.clone(), JOIN_TIME).await {
                Ok((_, answer)) => match judge(answer)? {
                    Ok(accepted) => return Ok(Joined::Accepted(accepted)),
                    Err(why) => waits_for = format!(": {why}"),
                },
                Err(CallError::Refused(why)) => return Ok(Joined::Stranger(refused(address, &why))),
                Err(_) => {}
            }
        }
        let silent: Vec<String> =
            heard.iter().filter(|(_, heard)| heard.is_none()).map(|(at, _)| self.name(at)).collect();
        if !silent.is_empty() {
            waits_for = format!("{waits_for}; {} do not answer", silent.join(", "));
        }
        Ok(Joined::NotNow(waits_for))
    }

    /// Waits until the metadata is here up to an index.
    pub(crate) async fn follow(&mut self, applied: &Arc<Applied>, index: Option<RaftIndex>) {
        while self.runtime.timeout(TELL_AGAIN, applied.reached(index)).await.is_err() {
            info!("waiting for the cluster's metadata, which comes from the controller");
        }
    }

    /// Asks once whether those that answer are of this broker's cluster.
    ///
    /// # Errors
    /// A sentence that names the other cluster.
    pub(crate) async fn compare(&self) -> Result<(), NotAMember> {
        let own = self.services.hello().cluster_id;
        for (address, heard) in self.ask_all().await? {
            let other = heard.filter(|heard| heard.holds_metadata && heard.cluster_id != own);
            if let (Some(Heard { broker, cluster_id: Some(other), .. }), Some(own)) = (other, &own) {
                let why =
                    format!("broker {broker} belongs to cluster {other}, and this data directory to cluster {own}");
                return Err(refused(&address, &why));
            }
        }
        Ok(())
    }

    /// Asks every address who is there.
    async fn ask_all(&self) -> Result<Vec<(HostPort, Option<Heard>)>, NotAMember> {
        let hello = messages::write(&self.services.hello());
        let asked = self.addresses.iter().map(|address| async {
            let answer = self.peers.call_address(address, HELLO, hello.clone(), HELLO_TIME).await;
            match answer {
                Ok((broker, answer)) => Ok((address.clone(), self.heard(broker, answer))),
                Err(CallError::Refused(why)) => Err(refused(address, &why)),
                Err(_) => Ok((address.clone(), None)),
            }
        });
        join_all(asked).await.into_iter().collect()
    }

    /// What an answer says; `None` for one that cannot be read.
    fn heard(&self, broker: BrokerId, answer: Bytes) -> Option<Heard> {
        let hello: Hello = messages::read(answer).ok()?;
        let mut known = read_places(&hello.known);
        known.extend(read_places(hello.me.as_slice()));
        if hello.holds_metadata && hello.cluster_id.is_some() && hello.cluster_id == self.services.hello().cluster_id {
            self.services.heard_of(known);
        }
        Some(Heard {
            broker,
            cluster_id: hello.cluster_id,
            holds_metadata: hello.holds_metadata,
            founders: read_places(&hello.founders),
        })
    }

    fn name(&self, address: &HostPort) -> String {
        match self.founders.iter().find(|(_, listed)| *listed == address) {
            Some((id, _)) => format!("broker {id} at {address}"),
            None => address.to_string(),
        }
    }

    fn tell(&mut self, what: &str) {
        let now = self.runtime.now();
        let again = match &self.told {
            Some((told, at)) => told != what || now >= *at + TELL_AGAIN,
            None => true,
        };
        if again {
            info!("waiting for {what}");
            self.told = Some((what.to_owned(), now));
        }
    }
}

fn refused(address: &HostPort, why: &str) -> NotAMember {
    NotAMember(format!("the broker at {address} does not talk to this one: {why}"))
}

/// Accepted, or why not now.
fn judge(answer: Bytes) -> Result<Result<Accepted, String>, NotAMember> {
    let answer: JoinAnswer = messages::read(answer).map_err(NotAMember)?;
    match answer {
        JoinAnswer { refused: Some(why), .. } => Err(NotAMember(format!("the cluster refuses this broker: {why}"))),
        JoinAnswer { accepted: Some(accepted), .. } => Ok(Ok(accepted)),
        JoinAnswer { not_now, .. } => Ok(Err(not_now.unwrap_or_default())),
    }
}

impl Accepted {
    /// The index of group 0 at which the broker is registered.
    pub(crate) fn registered_at(&self) -> Option<RaftIndex> {
        self.index.map(RaftIndex)
    }

    /// Where all brokers of the cluster are.
    pub(crate) fn brokers(&self) -> BTreeMap<BrokerId, HostPort> {
        read_places(&self.brokers)
    }

    /// The Raft node id of the broker's replica of group 0.
    pub(crate) fn replica(&self) -> ReplicaId {
        ReplicaId(self.metadata_replica)
    }
}
