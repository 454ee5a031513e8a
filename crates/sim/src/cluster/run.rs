//! One run of one seed with a cluster: chaos, calm, the reckoning, and once more after everybody lost power.

use std::collections::BTreeSet;
use std::time::Duration;

use millpond_runtime::JoinHandle;
use millpond_runtime::sim::{Crash, NodeId, World, block_on};

use super::admin::create_topics;
use super::claims::Cluster;
use super::consumer::consume;
use super::machines::{Machines, kafka_address};
use super::nemesis::{CLIENTS, heal, torment};
use super::operator::operate;
use super::producer::Producer;
use super::reckoning::{comes_to_rest, makes_progress, reckon};
use super::router::Router;
use super::scenario::{BROKERS, ClusterScenario};
use crate::client::Shared;
use crate::run::{Options, Outcome};

/// How long the founding of a cluster may take while nothing goes wrong, in simulated time.
const FOUNDING_TIME: Duration = Duration::from_secs(30);
/// How long clients may take to finish once nothing goes wrong any more.
const CALM_TIME: Duration = Duration::from_secs(60);

/// Runs a seed with three brokers.
pub fn run_cluster(options: &Options) -> Outcome {
    block_on(options.seed, async {
        let world = World::new(options.seed);
        if options.trace {
            world.trace_to(|line| eprintln!("{line}"));
        }
        if let Some(fault) = options.plant {
            world.plant(fault);
        }
        let scenario = ClusterScenario::draw(&mut world.rng("cluster scenario"));
        world.note(NodeId(0), &format!("{scenario:?}"));
        world.set_network_delays(scenario.delays);
        let cluster = Cluster::new(Shared::new(world.clone(), kafka_address(&world, 1)));
        play(&cluster, &scenario).await;
        let mut failures = world.failures();
        let history = cluster.shared.history();
        failures.extend_from_slice(history.failures());
        Outcome { trace_hash: world.trace_hash(), failures, counts: history.counts(), simulated_ms: world.elapsed_ms() }
    })
}

async fn play(cluster: &Cluster, scenario: &ClusterScenario) {
    let machines = Machines::new(cluster, scenario);
    (1..=BROKERS).for_each(|broker| machines.start(broker));
    for broker in 1..=BROKERS {
        if !scenario.early && !machines.started(broker, FOUNDING_TIME).await {
            cluster.shared.history().fail(format!("broker {broker} has not founded or joined in {FOUNDING_TIME:?}"));
            return;
        }
    }
    let clients = start_clients(cluster, scenario);
    torment(&machines, scenario).await;

    machines.world().note(NodeId(0), "calm");
    heal(&machines);
    cluster.shared.calm_down();
    let mut progress = BTreeSet::new();
    if has_failed(cluster) || !makes_progress(&machines, scenario, cluster, &mut progress, "first").await {
        return;
    }
    cluster.shared.wind_down();
    let finished = machines.runtime().timeout(CALM_TIME, async {
        for client in clients {
            // A panic in it is among the world's failures.
            let _ = client.await;
        }
    });
    if finished.await.is_err() {
        let seconds = CALM_TIME.as_secs();
        cluster.shared.history().fail(format!("clients do not finish within {seconds} s of calm"));
        return;
    }
    // A topic that was made just before the last blow may have been heard of only now.
    if !makes_progress(&machines, scenario, cluster, &mut progress, "late").await {
        return;
    }
    if !comes_to_rest(&machines, cluster, "first").await {
        return;
    }
    reckon(&machines, cluster, "reader-1").await;
    if has_failed(cluster) {
        return;
    }
    machines.world().note(NodeId(0), "all lose power");
    (1..=BROKERS).for_each(|broker| machines.crash(broker, Crash::PowerCut));
    heal(&machines);
    if makes_progress(&machines, scenario, cluster, &mut BTreeSet::new(), "second").await {
        reckon(&machines, cluster, "reader-2").await;
    }
}

fn has_failed(cluster: &Cluster) -> bool {
    !cluster.shared.history().failures().is_empty() || !cluster.shared.world.failures().is_empty()
}

fn start_clients(cluster: &Cluster, scenario: &ClusterScenario) -> Vec<JoinHandle<()>> {
    let mut nodes = CLIENTS.map(NodeId);
    let mut router = |name: String| Router::new(cluster, nodes.next().expect("there are nodes enough"), name);
    let mut handles = Vec::new();
    let admin = router("admin".to_owned());
    handles.push(admin.runtime.clone().spawn(create_topics(admin, scenario.topics.clone())));
    let operator = router("operator".to_owned());
    handles.push(operator.runtime.clone().spawn(operate(operator, scenario.chores)));
    for (number, (kind, volume)) in scenario.producers.iter().enumerate() {
        let router = router(format!("producer-{number}"));
        handles.push(router.runtime.clone().spawn(Producer::new(router, *kind, *volume).run()));
    }
    for number in 0..scenario.consumers {
        let router = router(format!("consumer-{number}"));
        handles.push(router.runtime.clone().spawn(consume(router)));
    }
    handles
}
