//! What goes wrong with a cluster, and how it is put right.

use std::path::Path;
use std::time::Duration;

use millpond_runtime::sim::{Crash, DiskFaults, NodeId, Rng};

use super::machines::{DATA_DIR, Machines, node};
use super::scenario::{BROKERS, Blow, ClusterScenario, Trouble};

/// The nodes that clients may be on.
pub const CLIENTS: std::ops::Range<u16> = 10..30;

/// How long all brokers are waited for before one loses its disk, and how long it takes until all vote on the metadata.
const STARTED: Duration = Duration::from_secs(30);
const SETTLED: Duration = Duration::from_secs(5);

/// How long a broker of a rolling restart is waited for.
const ROLLED: Duration = Duration::from_secs(20);

/// Within how many milliseconds each side hears of a broken connection.
const BREAK_MS: u64 = 200;

/// Times that a way is closed and opened while it flaps.
const FLAPS: u64 = 6;

/// Lets all troubles of a run happen. Not everything is whole afterwards: see [`heal`].
pub async fn torment(machines: &Machines, scenario: &ClusterScenario) {
    let mut rng = machines.world().rng("nemesis");
    // Not in the first round: by then the cluster may have one copy of its metadata.
    let loss = scenario.loses_disk.then(|| rng.between(1, u64::from(scenario.rounds) - 1));
    for round in 0..u64::from(scenario.rounds) {
        let calm = rng.between(0, 2_500);
        machines.runtime().sleep(Duration::from_millis(calm)).await;
        let blows = Blow::draw(&mut rng);
        machines.world().note(NodeId(0), &format!("{blows:?}"));
        match blows[..] {
            [first, second] => {
                tokio::join!(strike(machines, scenario, first), strike(machines, scenario, second));
            }
            _ => strike(machines, scenario, blows[0]).await,
        }
        if loss == Some(round) {
            lose_disk(machines, scenario, &mut rng).await;
        }
    }
}

/// One broker loses its disk, or a partition's copy on it, while the others have every record.
async fn lose_disk(machines: &Machines, scenario: &ClusterScenario, rng: &mut Rng) {
    let deadline = machines.runtime().now() + STARTED;
    for broker in 1..=BROKERS {
        let left = deadline.saturating_duration_since(machines.runtime().now());
        if !machines.started(broker, left).await {
            return;
        }
    }
    machines.runtime().sleep(SETTLED).await;
    let broker = rng.between(1, BROKERS as u64) as i32;
    let trouble = if rng.chance(0.5) { Trouble::LosesDisk } else { Trouble::DamagesCopy(rng.draw()) };
    let blow = Blow { trouble, broker, hold_ms: rng.pick(&[1_000, 4_000]) };
    machines.world().note(NodeId(0), &format!("{blow:?}"));
    strike(machines, scenario, blow).await;
}

/// Puts everything right: every way open, every disk well, every broker started.
pub fn heal(machines: &Machines) {
    let world = machines.world();
    for broker in 1..=BROKERS {
        world.cancel_disk_crash(node(broker));
        world.set_disk_faults(node(broker), DiskFaults::default());
        world.set_clock_skew(node(broker), 0);
        world.resume(node(broker));
        for other in (1..=BROKERS).filter(|other| *other != broker) {
            world.unblock(node(broker), node(other));
        }
        for client in CLIENTS {
            way(machines, node(broker), NodeId(client), false);
        }
        if !machines.is_alive(broker) {
            machines.start(broker);
            world.set_disk_faults(node(broker), DiskFaults::default());
        }
    }
}

async fn strike(machines: &Machines, scenario: &ClusterScenario, blow: Blow) {
    let Blow { trouble, broker, hold_ms } = blow;
    let (world, runtime) = (machines.world(), machines.runtime());
    let hold = || runtime.sleep(Duration::from_millis(hold_ms));
    let others = (1..=BROKERS).filter(|other| *other != broker);
    match trouble {
        Trouble::Dies(kind) => {
            machines.crash(broker, kind);
            hold().await;
            machines.start(broker);
        }
        Trouble::DiesAtOperation(number, kind) => {
            machines.may_lose_power(broker, kind);
            world.crash_at_disk_op(node(broker), world.disk_op_count(node(broker)) + number, kind);
            hold().await;
            world.cancel_disk_crash(node(broker));
            if !world.is_alive(node(broker)) {
                machines.start(broker);
            }
        }
        Trouble::AllDie(kind) => {
            (1..=BROKERS).for_each(|broker| machines.crash(broker, kind));
            hold().await;
            (1..=BROKERS).for_each(|broker| machines.start(broker));
        }
        Trouble::Stops => {
            machines.stop(broker).await;
            hold().await;
            machines.start(broker);
        }
        Trouble::Pauses => {
            world.pause(node(broker));
            hold().await;
            world.resume(node(broker));
        }
        Trouble::SyncsSlowly(slow_sync_ms) => {
            let faults = DiskFaults { slow_sync: 0.7, slow_sync_ms, ..scenario.faults };
            world.set_disk_faults(node(broker), faults);
            hold().await;
            world.set_disk_faults(node(broker), scenario.faults);
        }
        Trouble::Isolated => {
            separate(machines, broker, true);
            hold().await;
            separate(machines, broker, false);
        }
        Trouble::CutOff => {
            separate(machines, broker, true);
            cut_clients(machines, broker, true);
            hold().await;
            separate(machines, broker, false);
            cut_clients(machines, broker, false);
        }
        Trouble::Mute => {
            others.clone().for_each(|other| world.block(node(broker), node(other)));
            hold().await;
            others.for_each(|other| world.unblock(node(broker), node(other)));
        }
        Trouble::Deaf => {
            others.clone().for_each(|other| world.block(node(other), node(broker)));
            hold().await;
            others.for_each(|other| world.unblock(node(other), node(broker)));
        }
        Trouble::Flaps => {
            for _ in 0..FLAPS {
                separate(machines, broker, true);
                runtime.sleep(Duration::from_millis(hold_ms / FLAPS)).await;
                separate(machines, broker, false);
                runtime.sleep(Duration::from_millis(hold_ms / FLAPS)).await;
            }
        }
        Trouble::Estranged => {
            let other = 1 + broker % BROKERS;
            world.block(node(broker), node(other));
            world.block(node(other), node(broker));
            hold().await;
            world.unblock(node(broker), node(other));
            world.unblock(node(other), node(broker));
        }
        Trouble::Breaks => {
            for _ in 0..FLAPS {
                others.clone().for_each(|other| world.break_connections(node(broker), node(other), BREAK_MS));
                CLIENTS.for_each(|client| world.break_connections(node(broker), NodeId(client), BREAK_MS));
                runtime.sleep(Duration::from_millis(hold_ms / FLAPS)).await;
            }
        }
        Trouble::ClockJumps(skew_ms) => {
            world.set_clock_skew(node(broker), skew_ms);
            hold().await;
            world.set_clock_skew(node(broker), 0);
        }
        Trouble::SyncsFail => {
            machines.may_end(broker, true);
            world.set_disk_faults(node(broker), DiskFaults { sync_error: 1.0, ..scenario.faults });
            hold().await;
            world.set_disk_faults(node(broker), scenario.faults);
            // It may have ended, or be about to. What was written and not synced is in nobody's memory afterwards.
            machines.crash(broker, Crash::PowerCut);
            machines.may_end(broker, false);
            machines.start(broker);
        }
        Trouble::LosesDisk => {
            machines.crash(broker, Crash::PowerCut);
            world.replace_disk(node(broker));
            hold().await;
            machines.start(broker);
        }
        Trouble::DamagesCopy(which) => {
            machines.crash(broker, Crash::Kill);
            damage_copy(machines, broker, which);
            hold().await;
            machines.start(broker);
        }
        Trouble::RollingRestart => {
            for broker in 1..=BROKERS {
                machines.stop(broker).await;
                machines.start(broker);
                machines.started(broker, ROLLED).await;
            }
        }
    }
}

/// Flips a bit of what says whose the folder of a partition is. Where that is another's then, the broker sets its copy
/// aside.
fn damage_copy(machines: &Machines, broker: i32, which: u64) {
    let world = machines.world();
    let entries = world.runtime_for(node(broker)).disk().read_dir(Path::new(DATA_DIR)).unwrap_or_default();
    let names = entries.iter().filter(|entry| entry.is_dir).filter_map(|entry| entry.name.to_str());
    let folders: Vec<&str> = names.filter(|name| name.starts_with("topic-")).collect();
    if let Some(folder) = (which as usize).checked_rem(folders.len()).map(|at| folders[at]) {
        world.flip_bit(node(broker), &Path::new(DATA_DIR).join(folder).join("partition.metadata"));
    }
}

/// Closes or opens the ways between a broker and all others.
fn separate(machines: &Machines, broker: i32, apart: bool) {
    for other in (1..=BROKERS).filter(|other| *other != broker) {
        way(machines, node(broker), node(other), apart);
    }
}

fn cut_clients(machines: &Machines, broker: i32, apart: bool) {
    for client in CLIENTS {
        way(machines, node(broker), NodeId(client), apart);
    }
}

fn way(machines: &Machines, one: NodeId, other: NodeId, closed: bool) {
    let world = machines.world();
    if closed {
        world.block(one, other);
        world.block(other, one);
    } else {
        world.unblock(one, other);
        world.unblock(other, one);
    }
}
