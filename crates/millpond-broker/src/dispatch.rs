//! From a frame to the handler of its API: the table of APIs, the request header, and what a handler may answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use millpond_cluster::{QuotaScope, quota_for};
use millpond_coordinator::{Effects, Now, Reply as GroupReply, Shard, Ticket};
use millpond_record::{BrokerId, PartitionIndex, RaftIndex, TopicId};
use millpond_runtime::Runtime;
use millpond_wire::{ApiKey, Chunk, Decoder, Message, Request, RequestHeader, Str, encode_response};
use tokio::time::Instant;

use crate::api;
use crate::broker::Shared;
use crate::cluster::forward::{Passed, forward};
use crate::cluster::messages::{Confirmed, KNOWN, write};
use crate::controller::{Controller, Patience};
use crate::coordinator::Unavailable;
use crate::frame::Frame;
use crate::memory::{AnswerShare, Share, held_bytes};
use crate::metadata::{Snapshot, View};
use crate::throttle::{self, Traffic};

/// How long the other brokers are waited for until they know of a change, too.
const KNOWN_ELSEWHERE: Duration = Duration::from_millis(500);

/// The user that a client without authentication is.
const ANONYMOUS: &str = "ANONYMOUS";

/// One API: its versions beside its handler.
pub(crate) struct Api {
    pub(crate) key: ApiKey,
    /// What ApiVersions says.
    pub(crate) advertised: (i16, i16),
    /// The lowest version that is answered; below it the connection closes (Produce 0 to 2).
    pub(crate) served_from: i16,
    pub(crate) handle: fn(Call) -> Step,
    /// Handled while earlier requests of its connection are still unanswered. All others wait for these, as in Kafka: a
    /// fetch sees what the same connection produced before.
    pub(crate) pipelined: bool,
}

/// Every API that works, by key. Nothing else is advertised, and nothing else is answered.
pub(crate) const APIS: &[Api] = &[
    api::produce::API,
    api::fetch::API,
    api::list_offsets::API,
    api::metadata::API,
    api::offset_commit::API,
    api::offset_fetch::API,
    api::find_coordinator::API,
    api::join_group::API,
    api::heartbeat::API,
    api::leave_group::API,
    api::sync_group::API,
    api::describe_groups::API,
    api::list_groups::API,
    api::api_versions::API,
    api::create_topics::API,
    api::delete_topics::API,
    api::delete_records::API,
    api::init_producer_id::API,
    api::offset_for_leader_epoch::API,
    api::describe_configs::API,
    api::alter_configs::API,
    api::describe_log_dirs::API,
    api::create_partitions::API,
    api::delete_groups::API,
    api::elect_leaders::API,
    api::incremental_alter_configs::API,
    api::alter_partition_reassignments::API,
    api::list_partition_reassignments::API,
    api::offset_delete::API,
    api::describe_client_quotas::API,
    api::alter_client_quotas::API,
    api::describe_quorum::API,
    api::update_features::API,
    api::describe_cluster::API,
    api::describe_producers::API,
    api::unregister_broker::API,
    api::consumer_group_heartbeat::API,
    api::consumer_group_describe::API,
    api::list_config_resources::API,
    api::describe_topic_partitions::API,
];

/// What only the controller answers: on every other broker it is passed on to it.
const FOR_CONTROLLER: &[ApiKey] = &[
    ApiKey::CREATE_TOPICS,
    ApiKey::DELETE_TOPICS,
    ApiKey::ALTER_CONFIGS,
    ApiKey::CREATE_PARTITIONS,
    ApiKey::INCREMENTAL_ALTER_CONFIGS,
    ApiKey::ALTER_CLIENT_QUOTAS,
    ApiKey::ALTER_PARTITION_REASSIGNMENTS,
    ApiKey::DESCRIBE_QUORUM,
    ApiKey::UPDATE_FEATURES,
    ApiKey::UNREGISTER_BROKER,
    ApiKey::ELECT_LEADERS,
];

/// How long a request with this `timeout_ms` is worked on before it is answered.
pub(crate) fn patience(timeout_ms: i32) -> Duration {
    Duration::from_millis(u64::try_from(timeout_ms).unwrap_or(0))
}

/// What comes of a future by `deadline`; one that has passed leaves it no time to wait for anything.
pub(crate) async fn by<F: Future>(runtime: &Runtime, deadline: Instant, future: F) -> Option<F::Output> {
    // A timer would round up, and let be done what was given no time.
    if deadline <= runtime.now() { future.now_or_never() } else { runtime.timeout_at(deadline, future).await.ok() }
}

/// What comes next for a request.
pub(crate) enum Step {
    /// It has its answer, or a place in the order of answers.
    Reply(Reply),
    /// It has its answer, and the client its quota used up: the connection is not read from for this long (KIP-219).
    Throttled(Reply, Duration),
    /// It waits, and so do the requests behind it on its connection.
    Stage(BoxFuture<'static, Step>),
    /// The connection ends without an answer.
    Close(CloseReason),
}

impl Step {
    /// The answer, after which the client must wait.
    pub(crate) fn reply(reply: Reply, wait: Duration) -> Step {
        if wait.is_zero() { Step::Reply(reply) } else { Step::Throttled(reply, wait) }
    }
}

/// The answer to a request, or the promise of one.
pub(crate) enum Reply {
    /// The response with its length and header, and what it holds of the memory for answers.
    Ready(Vec<Chunk>, Option<AnswerShare>),
    /// A request without response (acks=0).
    Nothing,
    /// A request without response that failed: closing is the only way to tell the client.
    Close(String),
    /// Completes by itself; the requests behind it are handled meanwhile.
    Later(BoxFuture<'static, Reply>),
}

impl Reply {
    /// Bytes of a response that is ready.
    pub(crate) fn ready_bytes(&self) -> usize {
        match self {
            Reply::Ready(chunks, _) => chunks.iter().map(Chunk::len).sum(),
            Reply::Nothing | Reply::Close(_) | Reply::Later(_) => 0,
        }
    }
}

/// Why a connection ended.
#[derive(Debug)]
pub(crate) enum CloseReason {
    /// The client closed it.
    Left,
    /// The broker stops, and all that was in flight is answered.
    Stopping,
    /// The connection failed.
    Io(std::io::Error),
    /// The client sent what is not answered.
    Refused(String),
}

/// One request on its way to its handler.
pub(crate) struct Call {
    pub(crate) shared: Arc<Shared>,
    /// The metadata as of the request's arrival.
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) version: i16,
    /// Bytes of the request's frame.
    pub(crate) frame_bytes: usize,
    /// Size of the allocation that a slice of the body keeps alive.
    pub(crate) pinned_bytes: usize,
    /// The share of the memory for produce that it took while it arrived.
    pub(crate) share: Option<Share>,
    /// Whose quota counts, and who joins a group; `None` where neither is asked.
    client_id: Option<Str>,
    /// Where the client is.
    pub(crate) peer: SocketAddr,
    /// What the decoded request, and the handling of it, hold of the memory for answers.
    work: AnswerShare,
    correlation_id: i32,
    api: usize,
    /// Stands behind the header.
    body: Decoder,
    /// The controller was given the request, and has not answered.
    unanswered: bool,
    /// Set when nothing was done because this broker is not the controller, where another one passed the request on.
    was_elsewhere: Option<Arc<AtomicBool>>,
    /// The whole request, if it goes to the controller and that is elsewhere.
    forwarded: Option<Bytes>,
}

/// What a decoded request may take in memory beside its text and records. A hundred thousand partitions fit; no client
/// names as many at once.
const MAX_DECODED_BYTES: usize = 8 << 20;
/// What handling a request takes for each byte of its decoded form, that form included: state for each partition, and
/// the answer before it is encoded. As `tests/hostile_requests.rs` measures it: 20 where Metadata is to create each of
/// very many topics, 12 for partitions of Fetch, less for others.
const WORK_PER_DECODED_BYTE: usize = 20;
/// The same of Produce, for which 5 is measured.
const PRODUCE_WORK_PER_DECODED_BYTE: usize = 8;

/// API key, version, correlation id: where every request header begins.
const FIXED_HEADER_BYTES: usize = 8;

impl Call {
    /// Reads the request header and looks up the API.
    pub(crate) fn read(
        shared: &Arc<Shared>,
        view: &View,
        peer: SocketAddr,
        frame: Frame,
        share: Option<Share>,
    ) -> Result<Call, CloseReason> {
        let refused = |what: String| Err(CloseReason::Refused(what));
        let Some(fixed) = frame.payload.first_chunk::<FIXED_HEADER_BYTES>() else {
            return refused("it sent a request without a header".into());
        };
        let [k0, k1, v0, v1, correlation @ ..] = *fixed;
        let (key, version) = (ApiKey(i16::from_be_bytes([k0, k1])), i16::from_be_bytes([v0, v1]));
        let Some(api) = APIS.iter().position(|api| api.key == key) else {
            return refused(format!("it asked for API key {}, which is not served", key.0));
        };
        let call = Call {
            shared: Arc::clone(shared),
            snapshot: view.snapshot(),
            version,
            frame_bytes: frame.payload.len(),
            pinned_bytes: frame.pinned_bytes,
            share,
            client_id: None,
            peer,
            work: shared.answer_memory.share(),
            correlation_id: i32::from_be_bytes(correlation),
            api,
            body: Decoder::new(Bytes::new()),
            unanswered: false,
            was_elsewhere: None,
            forwarded: None,
        };
        if !(APIS[api].served_from..=APIS[api].advertised.1).contains(&version) {
            // What follows the fixed part cannot be read; a newer ApiVersions is answered all the same.
            return match key {
                ApiKey::API_VERSIONS if version > 0 => Ok(call),
                _ => refused(format!("it asked for {key} {version}, which is not served")),
            };
        }
        let forwarded = FOR_CONTROLLER.contains(&key) && !shared.controller.is_here();
        let forwarded = forwarded.then(|| frame.payload.clone());
        let mut decoder = Decoder::new(frame.payload);
        match RequestHeader::decode(&mut decoder) {
            Ok(header) => {
                // It outlives the frame.
                let joins = key == ApiKey::JOIN_GROUP || key == ApiKey::CONSUMER_GROUP_HEARTBEAT;
                let wanted = joins || call.snapshot.image.client_quota_count() > 0;
                let client_id = header.client_id.filter(|_| wanted);
                Ok(Call { body: decoder, client_id: client_id.as_ref().map(Str::detached), forwarded, ..call })
            }
            Err(error) => refused(format!("the header of its {key} {version} request is bad: {error}")),
        }
    }

    /// What decides on the cluster's metadata for this request.
    pub(crate) fn controller(&self) -> Controller {
        let controller = &self.shared.controller;
        match &self.was_elsewhere {
            _ if self.unanswered => controller.without_answer(),
            Some(was_elsewhere) => controller.noting(Arc::clone(was_elsewhere)),
            None => controller.clone(),
        }
    }

    /// The client's id; empty if it has none.
    pub(crate) fn client_id(&self) -> Str {
        self.client_id.clone().unwrap_or_default()
    }

    /// Has the coordinator of a group do something (see [`Coordinators::ask`](crate::coordinator::Coordinators::ask)).
    /// A request that waits for other members holds no memory for answers.
    pub(crate) fn ask_group<W>(
        &mut self,
        group: &str,
        work: W,
    ) -> impl Future<Output = Result<GroupReply, Unavailable>> + Send + use<W>
    where
        W: FnOnce(&mut Shard, Ticket, Now) -> Effects + Send + 'static,
    {
        let share = std::mem::replace(&mut self.work, self.shared.answer_memory.share());
        self.shared.coordinators.ask(&self.snapshot, group, share, work)
    }

    /// Until when the controller's answer is waited for. What it is asked may outlive the request, so its memory is
    /// counted by itself.
    pub(crate) fn patience(&self, deadline: Instant) -> Patience {
        let mut memory = self.shared.answer_memory.share();
        memory.grow(self.work.bytes());
        Patience { deadline, memory }
    }

    /// The quota of the client, and who shares it.
    fn quota(&self, traffic: Traffic) -> Option<(QuotaScope, u64)> {
        let image = &self.snapshot.image;
        if image.client_quota_count() == 0 {
            return None;
        }
        let client_id = self.client_id.as_deref().unwrap_or("");
        quota_for(image, ANONYMOUS, client_id, |quota| match traffic {
            Traffic::Produce => quota.produce,
            Traffic::Fetch => quota.fetch,
        })
    }

    /// The most bytes that the client's quota lets one answer to a fetch have.
    pub(crate) fn fetch_limit(&self) -> usize {
        self.quota(Traffic::Fetch).map_or(usize::MAX, |(_, quota)| throttle::fetch_limit(quota))
    }

    /// Counts what the client produced or fetched; how long it must wait to keep its quota.
    pub(crate) fn count_traffic(&self, traffic: Traffic, bytes: usize) -> Duration {
        let Some((scope, quota)) = self.quota(traffic) else { return Duration::ZERO };
        self.shared.throttle.record(traffic, scope, quota, bytes, self.shared.runtime.now())
    }

    /// The snapshot that is settled at `index`, when these partitions (of each topic from an index on) have leaders and
    /// the other brokers know of them, too; `None` if that is not so here by `deadline`. It may be later.
    pub(crate) async fn led_by(
        &self,
        deadline: Instant,
        index: RaftIndex,
        topics: &[(TopicId, PartitionIndex)],
    ) -> Option<Arc<Snapshot>> {
        let Shared { runtime, metadata, leadership, .. } = &*self.shared;
        let snapshot = metadata.settled_by(runtime, deadline, index).await?;
        by(runtime, deadline, leadership.led(&snapshot, topics)).await?;
        self.known_elsewhere(index).await;
        Some(snapshot)
    }

    /// Waits until the metadata of all brokers that are alive is at `index`, for a moment at most: a client asks any of
    /// them next, and expects to see what it was told is done.
    pub(crate) async fn known_elsewhere(&self, index: RaftIndex) {
        let Shared { peers, node, .. } = &*self.shared;
        let others: Vec<BrokerId> = peers.alive().borrow().iter().copied().filter(|broker| broker != node).collect();
        let body = write(&Confirmed { index: index.0 });
        let asked = others.into_iter().map(|broker| peers.call(broker, KNOWN, body.clone(), KNOWN_ELSEWHERE));
        // Who does not answer hears of it later, as every broker that comes.
        drop(futures::future::join_all(asked).await);
    }

    /// The place of the API in [`APIS`].
    pub(crate) fn api_index(&self) -> usize {
        self.api
    }

    /// Counts what handling the request takes beyond what its decoded form says.
    pub(crate) fn count_work(&mut self, bytes: usize) {
        self.work.grow(bytes);
    }

    /// What the request holds of the memory for answers.
    pub(crate) fn work_bytes(&self) -> usize {
        self.work.bytes()
    }

    /// See [`Api::pipelined`].
    pub(crate) fn is_pipelined(&self) -> bool {
        APIS[self.api].pipelined
    }

    fn is_too_new(&self) -> bool {
        self.version > APIS[self.api].advertised.1
    }

    /// The request's body, counted in the memory for answers for as long as the call lives. Bytes behind its end are
    /// ignored, as Kafka does.
    pub(crate) fn decode<R: Request>(&mut self) -> Result<R, CloseReason> {
        let mut decoder = std::mem::replace(&mut self.body, Decoder::new(Bytes::new()));
        let request = self.decode_from(&mut decoder)?;
        // From here on its bytes are counted with what was made of them, not with what is arriving.
        self.share = None;
        self.work.grow(self.frame_bytes + decoder.decoded_bytes() * WORK_PER_DECODED_BYTE);
        Ok(request)
    }

    /// As [`Call::decode`], for a produce that has memory already: gives also what handling it may take beyond the
    /// bytes of its frame, and leaves the body to be read again.
    pub(crate) fn decode_uncounted<R: Request>(&self) -> Result<(R, usize), CloseReason> {
        let mut decoder = self.body.clone();
        let request = self.decode_from(&mut decoder)?;
        Ok((request, decoder.decoded_bytes() * PRODUCE_WORK_PER_DECODED_BYTE))
    }

    fn decode_from<R: Request>(&self, decoder: &mut Decoder) -> Result<R, CloseReason> {
        decoder.limit_decoded_bytes(MAX_DECODED_BYTES);
        R::decode(decoder, self.version)
            .map_err(|error| CloseReason::Refused(format!("its {} {} request is bad: {error}", R::KEY, self.version)))
    }

    /// The response, ready to be sent.
    pub(crate) fn answer<M: Message>(&self, response: &M) -> Reply {
        self.answer_in(self.version, response)
    }

    /// The response in another version than the request's: the fallback of ApiVersions.
    pub(crate) fn answer_in<M: Message>(&self, version: i16, response: &M) -> Reply {
        match encode_response(self.correlation_id, version, response) {
            Ok(chunks) => {
                let chunks = chunks.into_vec();
                let mut share = self.shared.answer_memory.share();
                share.grow(chunks.iter().map(held_bytes).sum());
                Reply::Ready(chunks, Some(share))
            }
            // A response has only what we put there, so this is a bug; it must not take down more than the connection.
            Err(error) => Reply::Close(format!("the answer to {} {version} cannot be written: {error}", M::KEY)),
        }
    }
}

/// Has the controller carry a request out. If there is none this broker says so, and if it does not answer that it is
/// not known whether it was done.
async fn forward_to_controller(mut call: Call, frame: Bytes) -> Step {
    call.shared.answer_memory.room().await;
    match forward(&call.shared.controller, call.peer, frame).await {
        Passed::Answered(response) => {
            // It holds the request no longer.
            call.body = Decoder::new(Bytes::new());
            let chunk = Chunk::Here(response);
            let mut share = call.shared.answer_memory.share();
            share.grow(held_bytes(&chunk));
            Step::Reply(Reply::Ready(vec![chunk], Some(share)))
        }
        Passed::NotDone => handle(call),
        Passed::Unknown => {
            call.unanswered = true;
            handle(call)
        }
    }
}

/// Carries out a request that another broker passed on, on the controller, and gives the response with its length;
/// `None` where nothing was done because this broker is not the controller.
///
/// # Errors
/// A sentence for that broker.
pub(crate) async fn carry_out(shared: &Arc<Shared>, client: SocketAddr, frame: Bytes) -> Result<Option<Bytes>, String> {
    let pinned_bytes = frame.len();
    let frame = Frame { payload: frame, pinned_bytes, is_large: false };
    let said = |reason| match reason {
        CloseReason::Refused(why) => why,
        _ => "the request was given up".to_owned(),
    };
    let mut call = Call::read(shared, &shared.metadata.view(), client, frame, None).map_err(said)?;
    if !FOR_CONTROLLER.contains(&APIS[call.api].key) {
        return Err(format!("{} is not for the controller", APIS[call.api].key));
    }
    // It is not passed on again.
    call.forwarded = None;
    let was_elsewhere = Arc::new(AtomicBool::new(false));
    call.was_elsewhere = Some(Arc::clone(&was_elsewhere));
    let mut step = begin(call);
    let mut reply = loop {
        match step {
            Step::Stage(stage) => step = stage.await,
            Step::Reply(reply) | Step::Throttled(reply, _) => break reply,
            Step::Close(reason) => return Err(said(reason)),
        }
    };
    loop {
        match reply {
            Reply::Later(later) => reply = later.await,
            Reply::Close(why) => return Err(why),
            Reply::Nothing => return Err("the request has no answer".to_owned()),
            Reply::Ready(chunks, _share) => {
                if was_elsewhere.load(Ordering::Relaxed) {
                    return Ok(None);
                }
                return Ok(Some(chunks.iter().filter_map(Chunk::here).flatten().copied().collect()));
            }
        }
    }
}

/// Hands a request to its handler; all but produce, which has a budget of its own, wait while the memory for answers is
/// used up.
pub(crate) fn begin(mut call: Call) -> Step {
    if let Some(frame) = call.forwarded.take() {
        return Step::Stage(Box::pin(forward_to_controller(call, frame)));
    }
    if APIS[call.api].key == ApiKey::PRODUCE || !call.shared.answer_memory.is_short() {
        return handle(call);
    }
    Step::Stage(Box::pin(async move {
        call.shared.answer_memory.room().await;
        handle(call)
    }))
}

fn handle(call: Call) -> Step {
    if call.is_too_new() {
        return Step::Reply(api::api_versions::too_new(&call));
    }
    (APIS[call.api].handle)(call)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apis_are_listed_once_and_in_the_order_of_their_keys() {
        assert!(APIS.windows(2).all(|pair| pair[0].key.0 < pair[1].key.0));
    }

    #[test]
    fn versions_are_those_of_the_surface_table() {
        let surface = [
            (0, (0, 13)),
            (1, (4, 18)),
            (2, (1, 11)),
            (3, (0, 13)),
            (8, (2, 10)),
            (9, (1, 10)),
            (10, (0, 6)),
            (11, (0, 9)),
            (12, (0, 4)),
            (13, (0, 5)),
            (14, (0, 5)),
            (15, (0, 6)),
            (16, (0, 5)),
            (18, (0, 4)),
            (19, (2, 7)),
            (20, (1, 6)),
            (21, (0, 2)),
            (22, (0, 5)),
            (23, (2, 4)),
            (32, (1, 4)),
            (33, (0, 2)),
            (35, (1, 4)),
            (37, (0, 3)),
            (42, (0, 2)),
            (43, (0, 2)),
            (44, (0, 1)),
            (45, (0, 1)),
            (46, (0, 0)),
            (47, (0, 0)),
            (48, (0, 1)),
            (49, (0, 1)),
            (55, (0, 2)),
            (57, (0, 2)),
            (60, (0, 2)),
            (61, (0, 0)),
            (64, (0, 0)),
            (68, (0, 1)),
            (69, (0, 1)),
            (74, (0, 1)),
            (75, (0, 0)),
        ];
        let ours: Vec<_> = APIS.iter().map(|api| (api.key.0, api.advertised)).collect();
        assert_eq!(ours, surface);
        assert!(APIS.iter().all(|api| api.served_from == api.advertised.0 || api.key == ApiKey::PRODUCE));
    }
}
