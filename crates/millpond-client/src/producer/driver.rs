//! Does what the accumulator plans: connects, sends, asks, waits.
//!
//! One task owns the connections that batches are sent on. A request is put into its connection's queue at the moment
//! at which the accumulator gives its batches out, so that requests leave in that order.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use millpond_wire::ErrorCode;
use millpond_wire::init_producer_id::{InitProducerIdRequest, InitProducerIdResponse};
use millpond_wire::metadata::MetadataResponse;
use millpond_wire::produce::ProduceResponse;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;
use tracing::debug;

use super::accumulator::{Accumulator, LONGEST_NAP, PartAnswer};
use super::batch::{Done, Identity};
use super::config::ProducerConfig;
use super::exchange;
use super::queue::Verdict;
use crate::clock;
use crate::cluster::{Cluster, Target};
use crate::connection::Connection;
use crate::error::{Error, Result};

/// What a producer's handles and its driver share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) cluster: Cluster,
    pub(crate) config: ProducerConfig,
    state: Mutex<Accumulator>,
    /// Bytes that records may still take.
    pub(crate) memory: Semaphore,
    /// How many wait for memory.
    pub(crate) waiting: AtomicUsize,
    /// Something is to be done.
    pub(crate) wake: Notify,
    /// Something was learned of topics.
    pub(crate) learned: Notify,
    /// No more records are taken.
    pub(crate) closing: AtomicBool,
    /// The driver has ended.
    pub(crate) ended: watch::Sender<bool>,
}

impl Shared {
    pub(crate) fn new(cluster: Cluster, config: ProducerConfig) -> Shared {
        let chance = cluster.transport().random_u64();
        let state = Accumulator::new(&config, cluster.config().clone(), chance);
        Shared {
            memory: Semaphore::new(config.buffer_memory),
            cluster,
            config,
            state: Mutex::new(state),
            waiting: AtomicUsize::new(0),
            wake: Notify::new(),
            learned: Notify::new(),
            closing: AtomicBool::new(false),
            ended: watch::Sender::new(false),
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, Accumulator> {
        // The state is whole after every change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells outcomes. They are there when the lock is given back, so that whoever finds a batch gone finds its
    /// outcome; those who wait are woken without the lock.
    fn finish(&self, state: MutexGuard<'_, Accumulator>, done: Vec<Done>) {
        let mut freed = 0;
        let mut waiting = Vec::with_capacity(done.len());
        for Done { slot, outcome, freed: bytes } in done {
            waiting.push(slot.finish(outcome));
            freed += bytes;
        }
        drop(state);
        if freed > 0 {
            self.memory.add_permits(freed);
        }
        waiting.into_iter().flatten().for_each(Waker::wake);
    }
}

/// Something that was waited for.
enum Event {
    Answered { broker: i32, ticket: u64, parts: Vec<PartAnswer> },
    Connected { broker: i32, connection: Result<Connection> },
    Learned(Result<MetadataResponse>),
    Identified(Result<Identity>),
}

/// How a broker is reached.
#[derive(Default)]
struct Route {
    connection: Option<Connection>,
    /// Counts the connections of all brokers.
    number: u64,
    connecting: bool,
    /// Attempts to connect that failed, in a row.
    failures: u32,
    /// When the next one may be made.
    not_before: Option<Instant>,
}

struct Driver {
    shared: Arc<Shared>,
    routes: BTreeMap<i32, Route>,
    last_route: u64,
    events: FuturesUnordered<BoxFuture<'static, Event>>,
}

/// Leaves nobody waiting for a driver that is gone, however it has ended: also when its runtime is shut down.
struct Ending(Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        let shared = &self.0;
        let mut state = shared.state();
        // Under the lock: what is taken in before is failed here, and nothing is after.
        shared.closing.store(true, Ordering::Release);
        let done = state.abandon();
        shared.finish(state, done);
        shared.memory.close();
        shared.learned.notify_waiters();
        shared.ended.send_replace(true);
    }
}

/// The driver's task: until the producer is closed and nothing is left.
pub(crate) fn drive(shared: Arc<Shared>) -> impl Future<Output = ()> + Send + 'static {
    // It is there even if the task never runs.
    let ending = Ending(Arc::clone(&shared));
    async move {
        let _ending = ending;
        work(shared).await;
    }
}

async fn work(shared: Arc<Shared>) {
    let mut driver =
        Driver { shared: Arc::clone(&shared), routes: BTreeMap::new(), last_route: 0, events: FuturesUnordered::new() };
    loop {
        let wake_at = driver.look();
        if shared.closing.load(Ordering::Acquire) && shared.state().is_empty() {
            break;
        }
        tokio::select! {
            biased;
            Some(event) = driver.events.next() => driver.take(event),
            () = shared.wake.notified() => {}
            () = clock::until(wake_at) => {}
        }
    }
}

impl Driver {
    /// Does what is to be done now; says when to look again.
    fn look(&mut self) -> Option<Instant> {
        let now = clock::now();
        let mut state = self.shared.state();
        state.hurry(self.shared.waiting.load(Ordering::Relaxed) > 0);
        let mut plan = state.plan(now);
        self.shared.finish(state, std::mem::take(&mut plan.done));
        if !plan.topics.is_empty() {
            let (shared, names) = (Arc::clone(&self.shared), plan.topics);
            self.events.push(Box::pin(async move {
                Event::Learned(shared.cluster.topics_once(&names, shared.config.create_topics).await)
            }));
        }
        if plan.identity {
            let cluster = self.shared.cluster.clone();
            self.events.push(Box::pin(async move { Event::Identified(identify(&cluster).await) }));
        }
        let mut wake_at = plan.wake_at.unwrap_or(now + LONGEST_NAP);
        for broker in plan.brokers {
            if self.forget_lost_connection(broker) {
                self.shared.state().disconnected(broker);
                // Who leads is asked for with the next look, and it may be another one now.
                wake_at = now;
                continue;
            }
            match self.routes.get(&broker).and_then(|route| route.not_before).filter(|at| *at > now) {
                Some(not_before) => wake_at = wake_at.min(not_before),
                None => self.send(broker, now),
            }
        }
        Some(wake_at)
    }

    /// Whether the connection to a broker is gone; says so once.
    fn forget_lost_connection(&mut self, broker: i32) -> bool {
        let known = self.routes.get_mut(&broker).map(|route| &mut route.connection);
        known.and_then(|known| known.take_if(|connection| connection.is_closed())).is_some()
    }

    fn send(&mut self, broker: i32, now: Instant) {
        let route = self.routes.entry(broker).or_default();
        if route.connecting {
            return;
        }
        let Some(connection) = route.connection.clone() else {
            route.connecting = true;
            let cluster = self.shared.cluster.clone();
            self.events.push(Box::pin(async move {
                Event::Connected { broker, connection: cluster.connection_to(Target::Broker(broker)).await }
            }));
            return;
        };
        let number = route.number;
        loop {
            let Some(outbound) = self.shared.state().take(broker, number, now) else { break };
            let limit = self.shared.cluster.config().request_limit;
            // Half of it for the broker, so that its answer still arrives.
            let (request, on_the_way) = exchange::build(outbound, self.shared.config.acks.code(), limit / 2);
            let ticket = on_the_way.ticket;
            let posted = exchange::version(&connection, &request).and_then(|version| {
                let address = connection.broker().clone();
                if request.acks == 0 {
                    let written = connection.post_unanswered(version, &request, limit)?;
                    return Ok(Ok((written, address)));
                }
                Ok(Err((connection.post(version, &request, limit)?, address)))
            });
            let event: BoxFuture<'static, Event> = match posted {
                Err(error) => {
                    let verdict = Verdict::Refused { error, records: Vec::new() };
                    Box::pin(async move { Event::Answered { broker, ticket, parts: on_the_way.all(&verdict) } })
                }
                Ok(Ok((written, _))) => Box::pin(async move {
                    let verdict = match written.await {
                        Ok(()) => Verdict::Written { base_offset: None, append_time: None },
                        Err(error) => Verdict::Lost(error),
                    };
                    Event::Answered { broker, ticket, parts: on_the_way.all(&verdict) }
                }),
                Ok(Err((answer, address))) => {
                    let cluster = self.shared.cluster.clone();
                    Box::pin(async move {
                        let parts = match answer.await {
                            Ok(response) => {
                                learn_brokers(&cluster, &response);
                                on_the_way.judged(&address, &response)
                            }
                            Err(error) => on_the_way.all(&Verdict::Lost(error)),
                        };
                        Event::Answered { broker, ticket, parts }
                    })
                }
            };
            self.events.push(event);
        }
    }

    fn take(&mut self, event: Event) {
        let now = clock::now();
        let mut state = self.shared.state();
        let mut learned = false;
        let done = match event {
            Event::Answered { broker, ticket, parts } => state.answered(broker, ticket, parts, now),
            Event::Connected { broker, connection } => {
                let route = self.routes.entry(broker).or_default();
                route.connecting = false;
                match connection {
                    Ok(connection) => {
                        self.last_route += 1;
                        *route = Route { connection: Some(connection), number: self.last_route, ..Route::default() };
                        Vec::new()
                    }
                    Err(error) => {
                        debug!("broker {broker} is not reached: {error}");
                        let cluster = &self.shared.cluster;
                        route.failures = route.failures.saturating_add(1);
                        let pause = cluster.config().pause_after(route.failures, cluster.transport().random_u64());
                        route.not_before = Some(now + pause);
                        state.unreachable(broker, &error)
                    }
                }
            }
            Event::Learned(told) => {
                learned = true;
                match &told {
                    Ok(told) => state.learned(told, now),
                    Err(error) => {
                        debug!("the topics are not known: {error}");
                        state.not_learned(error, now);
                        Vec::new()
                    }
                }
            }
            Event::Identified(result) => {
                if let Err(error) = &result {
                    debug!("there is no producer id: {error}");
                }
                state.identified(result, now)
            }
        };
        self.shared.finish(state, done);
        if learned {
            self.shared.learned.notify_waiters();
        }
    }
}

/// Asks for a producer id.
async fn identify(cluster: &Cluster) -> Result<Identity> {
    let build =
        |_| InitProducerIdRequest { transactional_id: None, transaction_timeout_ms: i32::MAX, ..Default::default() };
    let judge = |response: &InitProducerIdResponse| {
        Error::check(response.error_code, None, || "asking for a producer id".to_owned())
    };
    let response = cluster.call(Target::Any, 0, build, judge).await?;
    if response.producer_id < 0 || response.producer_epoch < 0 {
        return Err(Error::Refused {
            what: "asking for a producer id".to_owned(),
            code: ErrorCode::UNKNOWN_SERVER_ERROR,
            message: Some("the answer has none".to_owned()),
        });
    }
    Ok(Identity { id: response.producer_id, epoch: response.producer_epoch })
}

/// Takes over where the leaders are that an answer names.
fn learn_brokers(cluster: &Cluster, response: &ProduceResponse) {
    for broker in &response.node_endpoints {
        cluster.learn_broker(broker.node_id, &broker.host, broker.port, broker.rack.as_deref());
    }
}
