//! Nodes, their crashes, and the record of the run.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex};

use tokio::time::Instant;

use super::disk::{Crash, DiskFaults, NodeDisk};
use super::locked;
use super::net::{Network, NetworkDelays};
use super::node::{Incarnation, SimRuntime};
use super::rng::{Rng, mix_bytes};
use super::trace::Trace;
use crate::runtime::{Inner, Runtime};

/// The wall clock at the beginning of every run: 2025-01-01 00:00 UTC, in milliseconds since 1970.
const EPOCH_MS: i64 = 1_735_689_600_000;

/// Names a simulated machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u16);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.0)
    }
}

/// A simulated world. Clones name the same one.
#[derive(Clone)]
pub struct World(pub(super) Arc<Shared>);

pub(super) struct Shared {
    pub(super) rng: Rng,
    started: Instant,
    pub(super) network: Mutex<Network>,
    nodes: Mutex<BTreeMap<NodeId, Node>>,
    trace: Mutex<Trace>,
    failures: Mutex<Vec<String>>,
    #[cfg(feature = "planted-faults")]
    planted: Mutex<Option<crate::PlantedFault>>,
}

struct Node {
    incarnation: Arc<Incarnation>,
    disk: Arc<NodeDisk>,
    /// How often the disk was replaced.
    disks: u64,
    /// How often its machine lost power.
    power_cuts: u64,
    clock_skew_ms: i64,
}

impl World {
    /// A world without nodes. Must be called inside [`super::block_on`].
    pub fn new(seed: u64) -> World {
        let rng = Rng::new(seed);
        World(Arc::new(Shared {
            network: Mutex::new(Network::new(&rng)),
            rng,
            started: Instant::now(),
            nodes: Mutex::default(),
            trace: Mutex::default(),
            failures: Mutex::default(),
            #[cfg(feature = "planted-faults")]
            planted: Mutex::default(),
        }))
    }

    /// The node whose program calls this, and the milliseconds since its world began. `None` outside of a node's tasks.
    pub fn here() -> Option<(NodeId, u64)> {
        match Runtime::current()?.0 {
            Inner::Simulated(node) => Some((node.node(), node.world.elapsed_ms())),
            Inner::Real(..) => None,
        }
    }

    /// The runtime of a node's present incarnation; a node that is new gets an empty disk.
    pub fn runtime_for(&self, node: NodeId) -> Runtime {
        self.runtime(self.incarnation_of(node))
    }

    /// Begins a node's next incarnation, on the disk that the last one left. A living one is killed before
    /// ([`Crash::Kill`]).
    pub fn restart(&self, node: NodeId) -> Runtime {
        self.crash(node, Crash::Kill);
        let incarnation = self.with_node(node, |slot| {
            let number = slot.incarnation.number + 1;
            slot.incarnation = Arc::new(Incarnation::new(node, number, &slot.disk, &self.0.rng));
            Arc::clone(&slot.incarnation)
        });
        self.0.record(node, "restart", &[incarnation.number], format_args!("incarnation {}", incarnation.number));
        self.runtime(incarnation)
    }

    fn runtime(&self, incarnation: Arc<Incarnation>) -> Runtime {
        Runtime(Inner::Simulated(SimRuntime::new(self.clone(), incarnation)))
    }

    /// Ends a node's incarnation at once: its tasks and drivers run no further, a round between run and complete is
    /// never completed, its sockets are reset, its disk keeps what `kind` says. Does nothing to a dead node.
    pub fn crash(&self, node: NodeId, kind: Crash) {
        let (incarnation, disk) = self.with_node(node, |slot| (Arc::clone(&slot.incarnation), Arc::clone(&slot.disk)));
        if !incarnation.kill() {
            return;
        }
        self.0.record(node, "crash", &[kind as u64], format_args!("{kind:?}"));
        let listeners = locked(&self.0.network).reset_node(node, kind);
        // Dropped only now, because connections that nobody accepted lock the network when they end.
        drop(listeners);
        disk.crash(kind);
        if kind == Crash::PowerCut {
            self.with_node(node, |slot| slot.power_cuts += 1);
        }
        let image = disk.fingerprint();
        self.0.record(node, "left", &[image], format_args!("disk {image:016x}"));
        incarnation.announce_death();
    }

    /// Gives a node a new disk, which is empty. One that lives is killed before.
    pub fn replace_disk(&self, node: NodeId) {
        self.crash(node, Crash::Kill);
        let number = self.with_node(node, |slot| {
            slot.disks += 1;
            let rng = self.0.rng.fork("disk", u64::from(node.0)).fork("new", slot.disks);
            slot.disk = Arc::new(NodeDisk::new(rng));
            slot.disks
        });
        self.0.record(node, "new disk", &[number], format_args!("{number}"));
    }

    /// Whether a node's present incarnation lives.
    pub fn is_alive(&self, node: NodeId) -> bool {
        self.with_node(node, |slot| slot.incarnation.is_alive())
    }

    /// Waits until a node's present incarnation is dead.
    pub async fn wait_until_dead(&self, node: NodeId) {
        let incarnation = self.incarnation_of(node);
        incarnation.wait_until_dead().await;
    }

    /// Stops a node's process where it is, as SIGSTOP does: its tasks run no further until [`World::resume`], its
    /// sockets stay open, and what arrives waits. A crash ends the pause with the process.
    pub fn pause(&self, node: NodeId) {
        self.0.record(node, "pause", &[], format_args!(""));
        self.incarnation_of(node).pause();
    }

    /// Ends [`World::pause`]; the clocks have gone on meanwhile.
    pub fn resume(&self, node: NodeId) {
        self.0.record(node, "resume", &[], format_args!(""));
        self.incarnation_of(node).resume();
    }

    /// How many operations that change or sync something a node's disk has seen, over all incarnations.
    pub fn disk_op_count(&self, node: NodeId) -> u64 {
        self.with_node(node, |slot| slot.disk.operations())
    }

    /// Crashes the node at its disk operation `number` (counted as [`World::disk_op_count`], the first is 1), which
    /// takes effect in part or not at all. A number that has passed never comes. Replaces an earlier order.
    pub fn crash_at_disk_op(&self, node: NodeId, number: u64, kind: Crash) {
        self.with_node(node, |slot| slot.disk.crash_at(Some((number, kind))));
    }

    /// Takes back [`World::crash_at_disk_op`].
    pub fn cancel_disk_crash(&self, node: NodeId) {
        self.with_node(node, |slot| slot.disk.crash_at(None));
    }

    /// Sets what goes wrong on a node's disk from now on.
    pub fn set_disk_faults(&self, node: NodeId, faults: DiskFaults) {
        self.with_node(node, |slot| slot.disk.set_faults(faults));
    }

    /// How many bytes the node has read from its files so far, mapped ones left out.
    pub fn bytes_read(&self, node: NodeId) -> u64 {
        self.with_node(node, |slot| slot.disk.bytes_read())
    }

    /// Flips one random bit of a file as it is stored, cached or not. False when there is no such file or it is empty.
    pub fn flip_bit(&self, node: NodeId, path: &Path) -> bool {
        let flipped = self.with_node(node, |slot| slot.disk.flip_bit(path));
        self.0.record(node, "flip", &[u64::from(flipped)], format_args!("{}", path.display()));
        flipped
    }

    /// A path's present bytes on a node's disk, dead or alive, without the node's knowledge. `None` when there is none.
    pub fn peek(&self, node: NodeId, path: &Path) -> Option<Vec<u8>> {
        self.with_node(node, |slot| slot.disk.peek(path))
    }

    /// Moves a node's wall clock against the others', by a positive or negative number of milliseconds from its true
    /// time.
    pub fn set_clock_skew(&self, node: NodeId, skew_ms: i64) {
        self.with_node(node, |slot| slot.clock_skew_ms = skew_ms);
    }

    /// The address that a node should listen on: a simulated host has one, and any port is free.
    pub fn address(&self, node: NodeId, port: u16) -> SocketAddr {
        SocketAddr::new(node_address(node), port)
    }

    /// Holds back everything that `from` sends to `to`, until [`World::unblock`]. Nothing is lost: TCP sends it again.
    pub fn block(&self, from: NodeId, to: NodeId) {
        self.0.record(from, "block", &[u64::from(to.0)], format_args!("to {to}"));
        locked(&self.0.network).block(from, to);
    }

    /// Ends [`World::block`] for this direction.
    pub fn unblock(&self, from: NodeId, to: NodeId) {
        self.0.record(from, "unblock", &[u64::from(to.0)], format_args!("to {to}"));
        locked(&self.0.network).unblock(from, to);
    }

    /// Breaks all connections between two nodes. Each side hears of it within so many milliseconds, in its own time:
    /// what one still sends meanwhile may be lost, and what was on its way too. New connections are as good as ever.
    pub fn break_connections(&self, one: NodeId, other: NodeId, within_ms: u64) {
        let broken = locked(&self.0.network).break_between(one, other, within_ms);
        self.0.record(one, "break", &[u64::from(other.0), broken], format_args!("{broken} to {other}"));
    }

    /// Sets the delays of all connections made from now on.
    pub fn set_network_delays(&self, delays: NetworkDelays) {
        locked(&self.0.network).set_delays(delays);
    }

    /// A generator for the test's own choices, which follows from the seed and `purpose` alone.
    pub fn rng(&self, purpose: &str) -> Rng {
        self.0.rng.fork(purpose, 0)
    }

    /// Milliseconds since the world began.
    pub fn elapsed_ms(&self) -> u64 {
        self.0.micros() / 1000
    }

    /// Folds something that a client of the simulated system saw into the trace.
    pub fn note(&self, node: NodeId, text: &str) {
        self.0.record(node, "note", &[mix_bytes(0, text.as_bytes())], format_args!("{text}"));
    }

    /// Records that the run has failed, and why.
    pub fn fail(&self, reason: String) {
        self.0.fail(reason);
    }

    /// Why the run has failed so far; empty when it has not.
    pub fn failures(&self) -> Vec<String> {
        locked(&self.0.failures).clone()
    }

    /// Everything so far as one number.
    pub fn trace_hash(&self) -> u64 {
        locked(&self.0.trace).hash()
    }

    /// Sends a line of text for each event to `sink`.
    pub fn trace_to(&self, sink: impl FnMut(&str) + Send + 'static) {
        locked(&self.0.trace).set_sink(Box::new(sink));
    }

    /// Turns a planted fault on, for all nodes: see [`crate::planted`].
    #[cfg(feature = "planted-faults")]
    pub fn plant(&self, fault: crate::PlantedFault) {
        *locked(&self.0.planted) = Some(fault);
    }

    #[cfg(feature = "planted-faults")]
    pub(super) fn planted(&self, fault: crate::PlantedFault) -> bool {
        *locked(&self.0.planted) == Some(fault)
    }

    /// What [`crate::Runtime::machine_boot_id`] is on a node: the same until its machine loses power.
    pub(super) fn machine_boot_id(&self, node: NodeId) -> String {
        let power_cuts = self.with_node(node, |slot| slot.power_cuts);
        format!("{node}-boot-{power_cuts}")
    }

    pub(super) fn incarnation_of(&self, node: NodeId) -> Arc<Incarnation> {
        self.with_node(node, |slot| Arc::clone(&slot.incarnation))
    }

    pub(super) fn wall_clock(&self, node: NodeId) -> i64 {
        let elapsed_ms = i64::try_from(self.elapsed_ms()).expect("a run does not last for 292 million years");
        EPOCH_MS + elapsed_ms + self.with_node(node, |slot| slot.clock_skew_ms)
    }

    fn with_node<T>(&self, node: NodeId, f: impl FnOnce(&mut Node) -> T) -> T {
        let mut nodes = locked(&self.0.nodes);
        f(nodes.entry(node).or_insert_with(|| {
            let disk = Arc::new(NodeDisk::new(self.0.rng.fork("disk", u64::from(node.0))));
            let incarnation = Arc::new(Incarnation::new(node, 0, &disk, &self.0.rng));
            Node { incarnation, disk, disks: 0, power_cuts: 0, clock_skew_ms: 0 }
        }))
    }
}

impl Shared {
    /// Simulated microseconds since the world began.
    pub(super) fn micros(&self) -> u64 {
        u64::try_from(Instant::now().duration_since(self.started).as_micros()).unwrap_or(u64::MAX)
    }

    pub(super) fn record(&self, node: NodeId, kind: &str, values: &[u64], text: fmt::Arguments<'_>) {
        locked(&self.trace).record(self.micros(), node, kind, values, text);
    }

    pub(super) fn fail(&self, reason: String) {
        locked(&self.failures).push(reason);
    }
}

/// 10.0.x.y: one host per node.
pub(super) fn node_address(node: NodeId) -> IpAddr {
    let [high, low] = node.0.to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(10, 0, high, low))
}
