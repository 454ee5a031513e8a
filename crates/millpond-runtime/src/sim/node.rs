//! A node's process: the tasks of one incarnation, and the runtime that they are given.

use std::any::Any;
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::disk::{NodeDisk, SimDisk};
use super::driver::SimDriver;
use super::locked;
use super::net::{self, SimListener, SimStream};
use super::rng::Rng;
use super::world::{NodeId, World};
use crate::disk::Disk;
use crate::rounds::Rounds;
use crate::runtime::Runtime;
use crate::task::Scoped;

/// One life of a node's process.
pub(super) struct Incarnation {
    pub(super) node: NodeId,
    pub(super) number: u64,
    pub(super) disk: Arc<NodeDisk>,
    alive: AtomicBool,
    death: Notify,
    /// Who waits for the end of a pause; `None` while there is none.
    paused: Mutex<Option<Vec<Waker>>>,
    tasks: Mutex<Tasks>,
    /// What the program draws.
    random: Mutex<Rng>,
    /// How long things take.
    delays: Mutex<Rng>,
}

#[derive(Default)]
struct Tasks {
    next: u64,
    running: BTreeMap<u64, AbortHandle>,
}

impl Incarnation {
    pub(super) fn new(node: NodeId, number: u64, disk: &Arc<NodeDisk>, rng: &Rng) -> Incarnation {
        let rng = rng.fork("node", u64::from(node.0));
        Incarnation {
            node,
            number,
            disk: Arc::clone(disk),
            alive: AtomicBool::new(true),
            death: Notify::new(),
            paused: Mutex::default(),
            tasks: Mutex::default(),
            random: Mutex::new(rng.fork("program", number)),
            delays: Mutex::new(rng.fork("delays", number)),
        }
    }

    pub(super) fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Relaxed)
    }

    /// Ends all tasks. False when the incarnation was dead already.
    pub(super) fn kill(&self) -> bool {
        if !self.alive.swap(false, Ordering::Relaxed) {
            return false;
        }
        // An aborted task is never polled again; its value is dropped when tokio comes to it, which may take the lock.
        let running = std::mem::take(&mut locked(&self.tasks).running);
        for task in running.into_values() {
            task.abort();
        }
        true
    }

    /// From now on no task of it runs, until [`Incarnation::resume`].
    pub(super) fn pause(&self) {
        locked(&self.paused).get_or_insert_default();
    }

    /// Lets the tasks run again that had something to do meanwhile.
    pub(super) fn resume(&self) {
        let waiting = locked(&self.paused).take();
        waiting.into_iter().flatten().for_each(Waker::wake);
    }

    /// Whether a task must not run now; it is woken at the end of the pause.
    fn holds(&self, context: &Context<'_>) -> bool {
        let mut paused = locked(&self.paused);
        if let Some(waiting) = paused.as_mut() {
            waiting.push(context.waker().clone());
        }
        paused.is_some()
    }

    pub(super) fn announce_death(&self) {
        self.death.notify_waiters();
    }

    pub(super) async fn wait_until_dead(&self) {
        let death = self.death.notified();
        if self.is_alive() {
            death.await;
        }
    }
}

/// What a simulated [`Runtime`] holds.
#[derive(Clone)]
pub(crate) struct SimRuntime {
    pub(super) world: World,
    pub(super) incarnation: Arc<Incarnation>,
}

impl SimRuntime {
    pub(super) fn new(world: World, incarnation: Arc<Incarnation>) -> SimRuntime {
        SimRuntime { world, incarnation }
    }

    pub(crate) fn node(&self) -> NodeId {
        self.incarnation.node
    }

    pub(crate) fn machine_boot_id(&self) -> String {
        self.world.machine_boot_id(self.node())
    }

    pub(super) fn is_alive(&self) -> bool {
        self.incarnation.is_alive()
    }

    /// Starts a task; `None` when the incarnation is dead or the whole run is ending.
    pub(crate) fn spawn<F>(&self, future: Scoped<F>) -> Option<tokio::task::JoinHandle<F::Output>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let tokio = tokio::runtime::Handle::try_current().ok()?;
        if !self.is_alive() {
            return None;
        }
        let mut tasks = locked(&self.incarnation.tasks);
        let number = tasks.next;
        tasks.next += 1;
        let handle = tokio.spawn(Task { runtime: self.clone(), number, future });
        tasks.running.insert(number, handle.abort_handle());
        Some(handle)
    }

    /// Runs `f` as a task of its own, after a moment; its disk operations take their time before the result is out.
    pub(crate) fn blocking<T: Send + 'static>(
        &self,
        f: impl FnOnce() -> T + Send + 'static,
    ) -> Option<tokio::task::JoinHandle<T>> {
        let this = self.clone();
        let runtime = Runtime(crate::runtime::Inner::Simulated(self.clone()));
        self.spawn(Scoped::new(runtime, async move {
            this.pause().await;
            let result = f();
            this.disk_time().await;
            result
        }))
    }

    pub(crate) fn start_driver(
        &self,
        runtime: &Runtime,
        name: &'static str,
        rounds: Arc<dyn Rounds>,
    ) -> Arc<SimDriver> {
        SimDriver::start(self, runtime, name, rounds)
    }

    /// What any step between two others may take: mostly no time at all, sometimes a few milliseconds.
    pub(super) async fn pause(&self) {
        let draw = locked(&self.incarnation.delays).below(16);
        match draw {
            0..8 => {}
            8..13 => tokio::task::yield_now().await,
            13..15 => tokio::time::sleep(Duration::from_millis(1)).await,
            _ => {
                let milliseconds = locked(&self.incarnation.delays).between(1, 20);
                tokio::time::sleep(Duration::from_millis(milliseconds)).await;
            }
        }
    }

    /// Lets the time pass that the disk operations since the last call took.
    pub(super) async fn disk_time(&self) {
        let milliseconds = self.incarnation.disk.take_time_ms();
        if milliseconds > 0 {
            tokio::time::sleep(Duration::from_millis(milliseconds)).await;
        }
    }

    #[cfg(feature = "planted-faults")]
    pub(crate) fn planted(&self, fault: crate::PlantedFault) -> bool {
        self.world.planted(fault)
    }

    pub(crate) fn disk(&self) -> Arc<dyn Disk> {
        Arc::new(SimDisk::new(self.clone()))
    }

    pub(crate) fn wall_clock(&self) -> i64 {
        self.world.wall_clock(self.node())
    }

    pub(crate) fn fill_random(&self, buffer: &mut [u8]) {
        locked(&self.incarnation.random).fill(buffer);
    }

    pub(crate) fn listen(&self, address: SocketAddr) -> io::Result<SimListener> {
        net::listen(self, address)
    }

    pub(crate) async fn connect(&self, address: SocketAddr) -> io::Result<SimStream> {
        net::connect(self, address).await
    }
}

/// A task of a node: it does not outlive its incarnation, and a panic in it fails the run.
struct Task<F> {
    runtime: SimRuntime,
    number: u64,
    future: Scoped<F>,
}

impl<F: Future> Future for Task<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        if !this.runtime.is_alive() || this.runtime.incarnation.holds(context) {
            return Poll::Pending;
        }
        match catch_unwind(AssertUnwindSafe(|| Pin::new(&mut this.future).poll(context))) {
            Ok(poll) => poll,
            Err(panic) => {
                if this.runtime.is_alive() {
                    let node = this.runtime.node();
                    this.runtime.world.fail(format!("{node}: a task panicked: {}", panic_text(&*panic)));
                }
                resume_unwind(panic)
            }
        }
    }
}

impl<F> Drop for Task<F> {
    fn drop(&mut self) {
        locked(&self.runtime.incarnation.tasks).running.remove(&self.number);
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&'static str>().copied())
        .unwrap_or("(no message)")
}
