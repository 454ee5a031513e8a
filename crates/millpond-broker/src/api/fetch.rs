//! Fetch: committed batches out, now or as soon as there are enough of them.
//!
//! A fetch enters no actor: it looks at each partition's frontiers, reads what is there from the tail cache (the very
//! bytes that were produced) or from the file, and if that is less than `min_bytes` waits on the partitions' watches
//! and the deadline. What was read is kept while it waits; only what is new is read then ([`reading`]). Who may be
//! asked for what is [`steering`]'s.
//!
//! A client that follows many partitions has a session (KIP-227), and names in each request only what it changes; the
//! answer names only what is new ([`crate::fetch_session`]).

pub(crate) mod kept;
pub(crate) mod reading;
mod steering;

use std::collections::BTreeSet;
use std::time::Duration;

use millpond_cluster::Image;
use millpond_record::{BrokerId, LeaderEpoch, Offset, PartitionIndex, TopicId};
use millpond_wire::fetch::{
    FetchPartition, FetchRequest, FetchResponse, FetchTopic, FetchableTopicResponse, NodeEndpoint,
};
use millpond_wire::{ApiKey, ErrorCode, Str};

use crate::dispatch::{Api, Call, Reply, Step};
use crate::fetch_session::{Asked, Place, TopicKey};
use crate::metadata::ServedTopic;
use crate::session_cache::{FINAL_EPOCH, INITIAL_EPOCH, Unusable};
use crate::throttle::{Traffic, throttle_time_ms};
use kept::Lent;
use reading::{Fetch, Following};

pub(crate) const API: Api = Api { key: ApiKey::FETCH, advertised: (4, 18), served_from: 4, handle, pipelined: false };

/// From here on topics are named by id (KIP-516).
const FIRST_BY_ID: i16 = 13;
/// From here on an answer says who leads what is not led here (KIP-951), and where that broker is.
const FIRST_WITH_LEADERS: i16 = 12;
const FIRST_WITH_ENDPOINTS: i16 = 16;
const READ_COMMITTED: i8 = 1;
/// The id of no session.
const NO_SESSION: i32 = 0;

fn handle(mut call: Call) -> Step {
    let request: FetchRequest = match call.decode() {
        Ok(request) => request,
        Err(reason) => return Step::Close(reason),
    };
    if matches!(request.session_epoch, INITIAL_EPOCH | FINAL_EPOCH) {
        // Whatever session the request names is over.
        if request.session_id != NO_SESSION {
            call.shared.fetch_sessions.close(request.session_id);
        }
        return Step::Stage(Box::pin(full(call, request)));
    }
    let by_id = call.version >= FIRST_BY_ID;
    match Lent::of(&call.shared, request.session_id, request.session_epoch, by_id) {
        Ok((following, lent)) => Step::Stage(Box::pin(incremental(call, request, following, lent))),
        Err(why) => {
            let code = match why {
                Unusable::NotFound => ErrorCode::FETCH_SESSION_ID_NOT_FOUND,
                Unusable::Epoch => ErrorCode::INVALID_FETCH_SESSION_EPOCH,
                Unusable::TopicIds => ErrorCode::FETCH_SESSION_TOPIC_ID_ERROR,
            };
            Step::Reply(call.answer(&FetchResponse { error_code: code.0, ..FetchResponse::default() }))
        }
    }
}

/// A request that names all partitions; it may begin a session.
async fn full(call: Call, request: FetchRequest) -> Step {
    let mut following = Box::new(Following::new());
    let begins = request.session_epoch == INITIAL_EPOCH;
    for topic in &request.topics {
        let key = key(&call, &topic.topic, topic.topic_id, begins);
        for partition in &topic.partitions {
            following.follow(key.clone(), partition.partition, asked(partition));
        }
    }
    let mut fetch = Fetch::new(&call, &request);
    fetch.run(&call, &mut following, request.isolation_level == READ_COMMITTED).await;
    let throttle = call.count_traffic(Traffic::Fetch, fetch.bytes);
    let answer = following.answer();
    let responses = all_named(&mut following, &answer.named, request.topics);
    let session_id = match begins {
        true => call.shared.fetch_sessions.keep(&call.shared, following, answer.resting, call.version >= FIRST_BY_ID),
        false => NO_SESSION,
    };
    Step::reply(respond(&call, session_id, responses, throttle), throttle)
}

/// A request that names what it changes of its session.
async fn incremental(call: Call, request: FetchRequest, mut following: Box<Following>, lent: Lent) -> Step {
    for topic in &request.topics {
        let key = key(&call, &topic.topic, topic.topic_id, true);
        for partition in &topic.partitions {
            following.update(&key, partition.partition, asked(partition));
        }
    }
    for topic in &request.forgotten_topics_data {
        let key = key(&call, &topic.topic, topic.topic_id, false);
        for partition in &topic.partitions {
            following.forget(&key, *partition);
        }
    }
    if following.is_empty() {
        // Dropping what was lent ends the session, as Kafka does.
        return Step::Reply(respond(&call, NO_SESSION, Vec::new(), Duration::ZERO));
    }
    let mut fetch = Fetch::new(&call, &request);
    fetch.run(&call, &mut following, request.isolation_level == READ_COMMITTED).await;
    let throttle = call.count_traffic(Traffic::Fetch, fetch.bytes);
    let answer = following.answer();
    let responses = news(&mut following, &answer.named);
    following.rest(answer.resting);
    let session_id = lent.give_back(following);
    Step::reply(respond(&call, session_id, responses, throttle), throttle)
}

/// `outlives`: the key is kept longer than the request.
fn key(call: &Call, name: &Str, id: [u8; 16], outlives: bool) -> TopicKey {
    match (call.version >= FIRST_BY_ID, outlives) {
        (true, _) => TopicKey::Id(TopicId(id)),
        (false, true) => TopicKey::Name(name.detached()),
        (false, false) => TopicKey::Name(name.clone()),
    }
}

fn asked(partition: &FetchPartition) -> Asked {
    Asked {
        offset: Offset(partition.fetch_offset),
        max_bytes: partition.partition_max_bytes,
        leader_epoch: LeaderEpoch(partition.current_leader_epoch),
    }
}

/// Everything that the request named, in its order.
fn all_named(following: &mut Following, named: &[Place], topics: Vec<FetchTopic>) -> Vec<FetchableTopicResponse> {
    let mut named = named.iter();
    let mut next = || named.next().and_then(|place| following.take(*place)).map(|(_, data)| data);
    let responses = topics.into_iter().map(|topic| FetchableTopicResponse {
        topic: topic.topic,
        topic_id: topic.topic_id,
        partitions: topic.partitions.iter().map_while(|_| next()).collect(),
    });
    responses.collect()
}

/// What is new, in the order in which it was found.
fn news(following: &mut Following, named: &[Place]) -> Vec<FetchableTopicResponse> {
    let mut responses: Vec<(TopicKey, FetchableTopicResponse)> = Vec::new();
    for place in named {
        let Some((key, data)) = following.take(*place) else { continue };
        match responses.last_mut() {
            Some((last, response)) if last == key => response.partitions.push(data),
            _ => {
                let mut response = FetchableTopicResponse { partitions: vec![data], ..Default::default() };
                match key {
                    TopicKey::Name(name) => response.topic = name.clone(),
                    TopicKey::Id(id) => response.topic_id = id.0,
                }
                responses.push((key.clone(), response));
            }
        }
    }
    responses.into_iter().map(|(_, response)| response).collect()
}

fn respond(call: &Call, session_id: i32, responses: Vec<FetchableTopicResponse>, throttle: Duration) -> Reply {
    let throttle_time_ms = throttle_time_ms(throttle);
    let node_endpoints = match call.version >= FIRST_WITH_ENDPOINTS {
        true => endpoints(&call.snapshot.image, &responses),
        false => Vec::new(),
    };
    // The answer counts all of its bytes; what was read needs no share of its own any more.
    let answer = FetchResponse { session_id, responses, throttle_time_ms, node_endpoints, ..FetchResponse::default() };
    call.answer(&answer)
}

/// Where the leaders are that the answer names.
fn endpoints(image: &Image, responses: &[FetchableTopicResponse]) -> Vec<NodeEndpoint> {
    let partitions = responses.iter().flat_map(|topic| &topic.partitions);
    let named: BTreeSet<i32> =
        partitions.map(|partition| partition.current_leader.leader_id).filter(|leader| *leader >= 0).collect();
    let brokers = named.into_iter().filter_map(|broker| image.broker(BrokerId(broker)));
    let endpoints = brokers.map(|broker| NodeEndpoint {
        node_id: broker.id.0,
        host: broker.host.as_str().into(),
        port: i32::from(broker.port),
        rack: broker.rack.as_deref().map(Str::from),
    });
    endpoints.collect()
}

/// What a client believes of a partition's leader against what this broker's replica knows, if there is one; a broker
/// without says that it does not lead.
pub(super) fn check_known_epoch(
    served: &ServedTopic,
    index: PartitionIndex,
    believed: LeaderEpoch,
) -> Result<(), ErrorCode> {
    served.replica(index).map_or(Ok(()), |replica| check_leader_epoch(believed, replica.leader_epoch()))
}

/// What a client believes of the leader against what is so (KIP-320); -1 believes nothing.
fn check_leader_epoch(believed: LeaderEpoch, current: LeaderEpoch) -> Result<(), ErrorCode> {
    match believed {
        LeaderEpoch(..0) => Ok(()),
        believed if believed > current => Err(ErrorCode::UNKNOWN_LEADER_EPOCH),
        believed if believed < current => Err(ErrorCode::FENCED_LEADER_EPOCH),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_that_is_too_new_is_unknown_and_one_that_is_too_old_is_fenced() {
        let check = |believed, current| check_leader_epoch(LeaderEpoch(believed), LeaderEpoch(current));
        assert_eq!(check(-1, 5), Ok(()));
        assert_eq!(check(5, 5), Ok(()));
        assert_eq!(check(6, 5), Err(ErrorCode::UNKNOWN_LEADER_EPOCH));
        assert_eq!(check(4, 5), Err(ErrorCode::FENCED_LEADER_EPOCH));
    }
}
