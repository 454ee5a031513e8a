//! Does what the positions plan: connects, fetches, asks, waits.
//!
//! One task owns the connections over which records are fetched. They are its own: a fetch waits at the broker until
//! there is something, and everything behind it on its connection waits with it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::task::AtomicWaker;
use millpond_wire::fetch::FetchResponse;
use millpond_wire::metadata::MetadataResponse;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tracing::debug;

use super::config::ConsumerConfig;
use super::exchange;
use super::positions::{Answer, Check, EpochEnd, LONGEST_NAP, LookUp, Plan, Positions, Wanted};
use super::session::Session;
use crate::admin::{OffsetAt, TopicPartition, ask_leaders};
use crate::clock;
use crate::cluster::Cluster;
use crate::connection::Connection;
use crate::error::{Error, Result};

/// What a consumer and its driver share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) cluster: Cluster,
    pub(crate) config: ConsumerConfig,
    state: Mutex<Positions>,
    /// Something is to be done.
    pub(crate) wake: Notify,
    /// Who waits for a record.
    pub(crate) reader: AtomicWaker,
    pub(crate) closing: AtomicBool,
    /// The driver has ended.
    pub(crate) ended: watch::Sender<bool>,
}

impl Shared {
    pub(crate) fn new(cluster: Cluster, config: ConsumerConfig) -> Shared {
        let chance = cluster.transport().random_u64();
        let state = Positions::new(&config, cluster.config().clone(), chance);
        Shared {
            cluster,
            config,
            state: Mutex::new(state),
            wake: Notify::new(),
            reader: AtomicWaker::new(),
            closing: AtomicBool::new(false),
            ended: watch::Sender::new(false),
        }
    }

    /// The name of its group; empty without one.
    pub(crate) fn group(&self) -> &str {
        self.config.group_id.as_deref().unwrap_or_default()
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, Positions> {
        // The state is whole after every change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Something that was waited for.
enum Event {
    Answered { broker: i32, wanted: Vec<Wanted>, response: Result<FetchResponse> },
    Connected { broker: i32, connection: Result<Connection> },
    Learned(Result<MetadataResponse>),
    LookedUp(Vec<(LookUp, Result<Option<i64>>)>),
    Checked(Vec<(Check, Result<Option<EpochEnd>>)>),
}

/// How a broker is reached.
#[derive(Default)]
struct Route {
    connection: Option<Connection>,
    session: Session,
    connecting: bool,
    /// Attempts to connect that failed, in a row.
    failures: u32,
    /// When the next one may be made.
    not_before: Option<Instant>,
}

struct Driver {
    shared: Arc<Shared>,
    routes: BTreeMap<i32, Route>,
    events: FuturesUnordered<BoxFuture<'static, Event>>,
}

/// Leaves nobody waiting for a driver that is gone, however it has ended: also when its runtime is shut down.
struct Ending(Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.closing.store(true, Ordering::Release);
        self.0.ended.send_replace(true);
        self.0.reader.wake();
    }
}

/// The driver's task: until the consumer is closed.
pub(crate) fn drive(shared: Arc<Shared>) -> impl Future<Output = ()> + Send + 'static {
    // It is there even if the task never runs.
    let ending = Ending(Arc::clone(&shared));
    async move {
        let _ending = ending;
        let mut driver =
            Driver { shared: Arc::clone(&shared), routes: BTreeMap::new(), events: FuturesUnordered::new() };
        while !shared.closing.load(Ordering::Acquire) {
            let wake_at = driver.look();
            tokio::select! {
                biased;
                Some(event) = driver.events.next() => driver.take(event),
                () = shared.wake.notified() => {}
                () = clock::until(wake_at) => {}
            }
        }
    }
}

impl Driver {
    /// Does what is to be done now; says when to look again.
    fn look(&mut self) -> Option<Instant> {
        let now = clock::now();
        let Plan { brokers, topics, look_ups, checks, wake_at } = self.shared.state().plan(now);
        if !topics.is_empty() {
            let cluster = self.shared.cluster.clone();
            self.events.push(Box::pin(async move { Event::Learned(cluster.topics_once(&topics, false).await) }));
        }
        let mut by_leader: BTreeMap<i32, Vec<LookUp>> = BTreeMap::new();
        for look_up in look_ups {
            by_leader.entry(look_up.leader).or_default().push(look_up);
        }
        // One that does not answer holds up none of the others.
        for asked in by_leader.into_values() {
            let shared = Arc::clone(&self.shared);
            self.events.push(Box::pin(async move { Event::LookedUp(look_up(&shared, asked).await) }));
        }
        let mut by_leader: BTreeMap<i32, Vec<Check>> = BTreeMap::new();
        for check in checks {
            by_leader.entry(check.leader).or_default().push(check);
        }
        for (leader, asked) in by_leader {
            let cluster = self.shared.cluster.clone();
            let ends = async move { exchange::epoch_ends(&cluster, leader, asked).await };
            self.events.push(Box::pin(async move { Event::Checked(ends.await) }));
        }
        let mut wake_at = wake_at.unwrap_or(now + LONGEST_NAP);
        for broker in brokers {
            let route = self.routes.entry(broker).or_default();
            if route.connection.take_if(|connection| connection.is_closed()).is_some() {
                route.session.lost();
                self.shared.state().disconnected(broker);
                // Who leads is asked for with the next look, and it may be another one now.
                wake_at = now;
                continue;
            }
            match route.not_before.filter(|at| *at > now) {
                Some(not_before) => wake_at = wake_at.min(not_before),
                None => self.fetch(broker, now),
            }
        }
        if self.shared.state().has_news() {
            // An error that the plan has found.
            self.shared.reader.wake();
        }
        Some(wake_at)
    }

    fn fetch(&mut self, broker: i32, now: Instant) {
        let route = self.routes.entry(broker).or_default();
        if route.connecting {
            return;
        }
        let Some(connection) = route.connection.clone() else {
            route.connecting = true;
            let cluster = self.shared.cluster.clone();
            self.events.push(Box::pin(async move {
                Event::Connected { broker, connection: cluster.own_connection_to(broker).await }
            }));
            return;
        };
        let Some(outbound) = self.shared.state().take(broker, now) else { return };
        let limit = self.shared.cluster.config().request_limit + outbound.max_wait;
        let posted = exchange::version(&connection, &outbound.wanted).and_then(|version| {
            let request = exchange::build(&outbound, &mut route.session, version, &self.shared.config);
            connection.post(version, &request, limit)
        });
        let wanted = outbound.wanted;
        self.events.push(Box::pin(async move {
            let response = match posted {
                Ok(answer) => answer.await,
                Err(error) => Err(error),
            };
            Event::Answered { broker, wanted, response }
        }));
    }

    fn take(&mut self, event: Event) {
        let now = clock::now();
        let shared = Arc::clone(&self.shared);
        let mut state = shared.state();
        match event {
            Event::Answered { broker, wanted, response } => {
                let session = &mut self.routes.entry(broker).or_default().session;
                let answers = match response {
                    Ok(response) => {
                        learn_brokers(&shared.cluster, &response);
                        exchange::read(&wanted, session, response, shared.config.isolation)
                    }
                    Err(error) => {
                        debug!("broker {broker} gives no records: {error}");
                        session.lost();
                        if matches!(error, Error::Unsupported { .. } | Error::Request { .. }) {
                            state.unreachable(broker, &error);
                        }
                        None
                    }
                };
                let lost = || wanted.iter().map(|wanted| (wanted.place, Answer::Lost)).collect();
                let answers = answers.unwrap_or_else(lost);
                state.answered(broker, wanted, answers, now);
            }
            Event::Connected { broker, connection } => {
                let route = self.routes.entry(broker).or_default();
                route.connecting = false;
                match connection {
                    Ok(connection) => *route = Route { connection: Some(connection), ..Route::default() },
                    Err(error) => {
                        debug!("broker {broker} is not reached: {error}");
                        route.failures = route.failures.saturating_add(1);
                        let chance = shared.cluster.transport().random_u64();
                        route.not_before = Some(now + shared.cluster.config().pause_after(route.failures, chance));
                        state.unreachable(broker, &error);
                    }
                }
            }
            Event::Learned(Ok(told)) => state.learned(&told, now),
            Event::Learned(Err(error)) => {
                debug!("the topics are not known: {error}");
                state.not_learned(&error, now);
            }
            Event::LookedUp(found) => {
                for (asked, result) in found {
                    state.found(&asked, result, now);
                }
            }
            Event::Checked(told) => {
                for (asked, result) in told {
                    state.checked(&asked, result, now);
                }
            }
        }
        let news = state.has_news();
        drop(state);
        if news {
            shared.reader.wake();
        }
    }
}

/// Asks the leaders for offsets, once.
async fn look_up(shared: &Shared, asked: Vec<LookUp>) -> Vec<(LookUp, Result<Option<i64>>)> {
    let wanted: BTreeMap<&TopicPartition, OffsetAt> = asked.iter().map(|asked| (&asked.name, asked.at)).collect();
    let outcomes = ask_leaders(&shared.cluster, &wanted, shared.config.isolation.level()).await;
    let of = |asked: &LookUp| match &outcomes {
        Ok(outcomes) => outcomes.get(&asked.name).cloned().unwrap_or_else(|| Err(left_out(&asked.name))),
        Err(error) => Err(error.clone()),
    };
    let results: Vec<_> = asked.iter().map(of).collect();
    asked.into_iter().zip(results).collect()
}

/// An answer without the partition that was asked for.
fn left_out(partition: &TopicPartition) -> Error {
    Error::Refused {
        what: format!("the offsets of {partition}"),
        code: millpond_wire::ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
        message: Some("the answer leaves it out".to_owned()),
    }
}

/// Takes over where the leaders are that an answer names.
fn learn_brokers(cluster: &Cluster, response: &FetchResponse) {
    for broker in &response.node_endpoints {
        cluster.learn_broker(broker.node_id, &broker.host, broker.port, broker.rack.as_deref());
    }
}
