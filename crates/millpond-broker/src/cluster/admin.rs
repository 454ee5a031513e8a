//! What an operator asks of a cluster that the Kafka protocol has no words for: over HTTP, of any broker.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use millpond_cluster::{
    BrokerError, Image, MetadataRecord, Partition, Replica, cancel_decommission, decommission, left_to_move,
    lost_replicas, moving, rebalance, replicas_on,
};
use millpond_record::BrokerId;
use serde_json::{Value, json};
use tracing::info;

use super::messages::{self, ADMIN, Admin, AdminAnswer};
use crate::broker::Shared;
use crate::controller::Controller;
use crate::errors::ControllerError;

/// Partitions that one rebalance changes at most.
const REBALANCED_AT_ONCE: usize = 1000;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// Move everything off a broker, and give it nothing new.
    Decommission(BrokerId),
    /// Take that back.
    CancelDecommission(BrokerId),
    /// Say how many replicas are still to move off a broker.
    LeftToMove(BrokerId),
    /// Even out replicas and preferred leaders over the brokers.
    Rebalance,
}

/// What became of it: a sentence, and whether it is a refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) refused: bool,
    pub(crate) sentence: String,
    /// Replicas or partitions that begin to move; what is left, where that is asked for.
    pub(crate) moves: u64,
}

/// Has the controller do it, wherever that is.
pub(crate) async fn ask(shared: &Shared, wish: Wish) -> Result<Said, ControllerError> {
    if shared.controller.is_here() {
        return carry_out(&shared.controller, wish).await;
    }
    let answer = shared.controller.ask_controller(ADMIN, messages::write(&Admin::new(wish))).await?;
    let AdminAnswer { refused, sentence, moves } = messages::read(answer).map_err(ControllerError::Said)?;
    Ok(Said { refused, sentence, moves })
}

/// Does it, on the controller.
pub(crate) async fn carry_out(controller: &Controller, wish: Wish) -> Result<Said, ControllerError> {
    let alive = controller.alive();
    match wish {
        Wish::Decommission(broker) => {
            let decided = controller.change(move |image| match decommission(image, broker, &alive) {
                Ok(records) => (Ok(replicas_on(image, broker)), records),
                Err(error) => (Err(error), Vec::new()),
            });
            let replicas: Result<usize, BrokerError> = decided.await?.decision;
            Ok(match replicas {
                Ok(replicas) => {
                    info!(broker = broker.0, replicas, "the broker is being decommissioned");
                    let sentence =
                        format!("broker {broker} is being decommissioned: {replicas} replicas move elsewhere");
                    Said { refused: false, sentence, moves: replicas as u64 }
                }
                Err(error) => Said { refused: true, sentence: error.to_string(), moves: 0 },
            })
        }
        Wish::CancelDecommission(broker) => {
            let decided = controller.change(move |image| match cancel_decommission(image, broker) {
                Ok(records) => (Ok(replicas_on(image, broker)), records),
                Err(error) => (Err(error), Vec::new()),
            });
            Ok(match decided.await?.decision {
                Ok(replicas) => {
                    info!(broker = broker.0, replicas, "the broker is being decommissioned no longer");
                    let sentence = format!("broker {broker} stays, with what has not moved elsewhere");
                    Said { refused: false, sentence, moves: 0 }
                }
                Err(error) => Said { refused: true, sentence: error.to_string(), moves: 0 },
            })
        }
        Wish::LeftToMove(broker) => {
            let decided = controller.change(move |image| (left_to_move(image, broker), Vec::new()));
            Ok(match decided.await?.decision {
                Ok(left) => {
                    let sentence = format!("{left} replicas are to move off broker {broker}");
                    Said { refused: false, sentence, moves: left as u64 }
                }
                Err(error) => Said { refused: true, sentence: error.to_string(), moves: 0 },
            })
        }
        Wish::Rebalance => {
            let decided = controller.change(move |image| {
                let records = rebalance(image, &alive, REBALANCED_AT_ONCE);
                let moves = records.iter().filter(|record| matches!(record, MetadataRecord::Partition(_))).count();
                (moves, records)
            });
            let moves = decided.await?.decision;
            let sentence = match moves {
                0 => "replicas and leaders are as even as they can be".to_owned(),
                moves => format!("{moves} partitions get other replicas or another preferred leader"),
            };
            Ok(Said { refused: false, sentence, moves: moves as u64 })
        }
    }
}

/// Whether most of the replicas that a partition has, and of those that it is to have, are on live brokers, and on the
/// disks that they had there. One of a pair is enough where the other one is lost.
fn has_majority(image: &Image, partition: &Partition, alive: &BTreeSet<BrokerId>) -> bool {
    let is_there = |replica: &&Replica| {
        let disk = image.broker(replica.broker).map(|broker| broker.directory);
        alive.contains(&replica.broker) && disk == Some(replica.directory)
    };
    let lost = lost_replicas(image, partition);
    let most = |replicas: Vec<&Replica>| {
        let goes_alone = replicas.len() == 2 && replicas.iter().any(|replica| lost.contains_key(&replica.id));
        let needed = if goes_alone { 1 } else { replicas.len() / 2 + 1 };
        replicas.iter().copied().filter(is_there).filter(|one| !lost.contains_key(&one.id)).count() >= needed
    };
    let adding = |replica: &&Replica| partition.adding.contains(&replica.id);
    let before = partition.replicas.iter().filter(|replica| !adding(replica)).chain(&partition.removing);
    most(partition.replicas.iter().collect()) && most(before.collect())
}

/// The cluster as this broker sees it.
pub(crate) fn status(shared: &Arc<Shared>) -> Value {
    let image = shared.controller.image();
    let alive = shared.controller.alive();
    let members = shared.metadata_group.members();
    let mut led: BTreeMap<BrokerId, u64> = BTreeMap::new();
    let (mut leaderless, mut without_majority) = (Vec::new(), Vec::new());
    for topic in image.topics() {
        for partition in &topic.partitions {
            let here = shared.groups.partition(partition.group).is_some_and(|replica| replica.leads());
            let leader = match shared.groups.leaders().of(partition.group) {
                _ if here => Some(shared.node),
                known => known.map(|leader| leader.broker).filter(|leader| alive.contains(leader)),
            };
            let name = || json!({ "topic": &*topic.name, "partition": partition.index.0 });
            match leader {
                Some(leader) => *led.entry(leader).or_default() += 1,
                None => leaderless.push(name()),
            }
            if !has_majority(&image, partition, &alive) {
                without_majority.push(name());
            }
        }
    }
    let brokers = image.brokers().map(|broker| {
        let member = members.iter().find(|member| member.replica == broker.metadata_replica);
        json!({
            "id": broker.id.0,
            "kafka": format!("{}:{}", broker.host, broker.port),
            "peer": broker.peer,
            "rack": broker.rack,
            "alive": alive.contains(&broker.id),
            "decommissioning": broker.draining,
            "metadata_voter": member.is_some_and(|member| member.voter),
            "replicas": replicas_on(&image, broker.id),
            "leads": led.get(&broker.id).copied().unwrap_or(0),
        })
    });
    json!({
        "cluster_id": &*shared.cluster_id,
        "asked": shared.node.0,
        "controller": shared.controller.broker().map(|broker| broker.0),
        "brokers": brokers.collect::<Vec<_>>(),
        "partitions": image.partition_count(),
        "moving": moving(&image).count(),
        "leaderless": leaderless,
        "without_majority": without_majority,
    })
}
