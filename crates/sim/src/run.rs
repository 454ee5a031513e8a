//! One run of one seed: chaos, calm, and the reckoning.

use std::time::Duration;

use millpond_runtime::sim::{NodeId, World, block_on};
use millpond_runtime::{JoinHandle, PlantedFault};

use crate::admin::{administrate, check_metadata, create_topic};
use crate::broker_host::{BROKER, BrokerHost, KAFKA_PORT};
use crate::client::{Client, Shared};
use crate::committer::{commit_offsets, group, look};
use crate::consumer::{Target, consume, read_whole, records_left, targets};
use crate::deleter::delete_records;
use crate::history::Counts;
use crate::producer::Producer;
use crate::scenario::Scenario;
use crate::trouble::Troubles;

/// How long clients may take to finish once nothing goes wrong any more, in simulated time.
const CALM_TIME: Duration = Duration::from_secs(300);

/// How long an append may take to become durable on a disk that behaves, in simulated time.
const FLUSH_TIME: Duration = Duration::from_secs(2);

/// The longest that a topic of a scenario keeps its records, and what settling takes.
const MOST_RETENTION: Duration = Duration::from_secs(10);

/// What to run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Decides everything.
    pub seed: u64,
    /// A fault to plant.
    pub plant: Option<PlantedFault>,
    /// Print every event to standard error.
    pub trace: bool,
}

/// What a run has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// All that happened, as one number.
    pub trace_hash: u64,
    /// What was wrong; empty when nothing was.
    pub failures: Vec<String>,
    /// What was done.
    pub counts: Counts,
    /// How long it took, in simulated milliseconds.
    pub simulated_ms: u64,
}

/// Runs a seed.
pub fn run(options: &Options) -> Outcome {
    block_on(options.seed, async {
        let world = World::new(options.seed);
        if options.trace {
            world.trace_to(|line| eprintln!("{line}"));
        }
        if let Some(fault) = options.plant {
            world.plant(fault);
        }
        let mut scenario = Scenario::draw(&mut world.rng("scenario"));
        // Drawn apart, so that a seed plays without them as it would if there were none.
        scenario.committers = world.rng("committers").pick(&[0, 0, 1, 2, 4]);
        scenario.troubles = Troubles::draw(&mut world.rng("troubles"), &mut scenario);
        world.note(BROKER, &format!("{scenario:?}"));
        let shared = Shared::new(world.clone(), world.address(BROKER, KAFKA_PORT));
        for topic in scenario.topics.iter().filter(|topic| topic.is_relaxed()) {
            shared.history().is_to_be_relaxed(&topic.name);
        }
        play(&shared, &scenario).await;
        let mut failures = world.failures();
        let history = shared.history();
        failures.extend_from_slice(history.failures());
        Outcome { trace_hash: world.trace_hash(), failures, counts: history.counts(), simulated_ms: world.elapsed_ms() }
    })
}

async fn play(shared: &Shared, scenario: &Scenario) {
    let world = &shared.world;
    world.set_network_delays(scenario.delays);
    let mut host = BrokerHost::new(shared, scenario);
    let clients = start_clients(shared, scenario);

    host.suffer().await;
    world.note(BROKER, "calm");
    shared.wind_down();
    let Some(broker) = host.settle().await else { return };
    let runtime = world.runtime_for(NodeId(0));
    let finished = runtime.timeout(CALM_TIME, async {
        for client in clients {
            // A panic in it is among the world's failures.
            let _ = client.await;
        }
    });
    if finished.await.is_err() {
        shared.history().fail(format!("clients do not finish within {} s of calm", CALM_TIME.as_secs()));
        return;
    }
    // What was acknowledged with acks=1 gets its time to become durable, and with that visible.
    runtime.sleep(FLUSH_TIME).await;
    reckon(shared, "reader-1").await;
    host.end(broker).await;
    if host.settle().await.is_some() {
        reckon(shared, "reader-2").await;
        // Nothing was written for longer than any topic keeps it, and the broker has looked since.
        runtime.sleep(MOST_RETENTION + 2 * Duration::from_millis(scenario.retention_check_interval_ms)).await;
        expired(shared).await;
    }
}

fn start_clients(shared: &Shared, scenario: &Scenario) -> Vec<JoinHandle<()>> {
    let mut nodes = (10..).map(NodeId);
    let mut client = |name: String| Client::new(shared, nodes.next().expect("there are nodes enough"), name);
    let mut handles = Vec::new();

    let mut admin = client("admin".to_owned());
    let topics = scenario.topics.clone();
    handles.push(admin.runtime.clone().spawn(async move {
        for topic in &topics {
            create_topic(&mut admin, topic).await;
        }
        administrate(admin).await;
    }));
    for (number, (kind, volume)) in scenario.producers.iter().enumerate() {
        let client = client(format!("producer-{number}"));
        handles.push(client.runtime.clone().spawn(Producer::new(client, *kind, *volume).run()));
    }
    for number in 0..scenario.deleters {
        let client = client(format!("deleter-{number}"));
        handles.push(client.runtime.clone().spawn(delete_records(client)));
    }
    for number in 0..scenario.committers {
        let client = client(format!("committer-{number}"));
        handles.push(client.runtime.clone().spawn(commit_offsets(client, group(number))));
    }
    for number in 0..scenario.consumers {
        let client = client(format!("consumer-{number}"));
        handles.push(client.runtime.clone().spawn(consume(client)));
    }
    handles
}

/// Nothing may be left that a topic's retention lets go.
async fn expired(shared: &Shared) {
    let mut client = Client::new(shared, NodeId(9), "reader-3".to_owned());
    let all = targets(&shared.history());
    let limited = |topic| shared.history().retention(topic).retention_ms.is_some();
    // How old the records of a segment are is not known where its files were damaged: retention leaves them alone.
    let whole = |target: &&Target| !shared.history().may_be_offline(&target.topic, target.partition.index);
    for target in all.iter().filter(|target| limited(target.partition.topic)).filter(whole) {
        let mut left = None;
        for _ in 0..20 {
            left = left.or(records_left(&mut client, target).await);
        }
        // Whether a partition must answer at all is the reckoning's concern: its copy may be set aside.
        if let Some(left) = left.filter(|left| *left > 0) {
            shared.history().fail(format!("{}: {left} records are left of what is too old", target.partition));
        }
    }
}

/// Compares all that there is with all that was promised.
async fn reckon(shared: &Shared, name: &str) {
    let mut client = Client::new(shared, NodeId(9), name.to_owned());
    let mut answered = false;
    for _ in 0..20 {
        answered = answered || check_metadata(&mut client).await;
    }
    if !answered {
        shared.history().fail("no metadata in calm".to_owned());
    }
    let groups = shared.history().committed_groups();
    for group in groups {
        let mut looked = false;
        for _ in 0..20 {
            looked = looked || look(&mut client, &group).await.is_some();
        }
        if !looked {
            shared.history().fail(format!("{group} cannot be asked for its offset in calm"));
        }
    }
    let all = targets(&shared.history());
    for target in &all {
        if !read_whole(&mut client, target).await {
            shared.history().fail(format!("{} of {} cannot be read", target.partition.index, target.topic));
        }
    }
}
