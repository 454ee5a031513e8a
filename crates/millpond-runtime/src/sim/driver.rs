//! A driver of rounds as a task, with simulated time between its steps.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use super::locked;
use super::node::SimRuntime;
use crate::rounds::{Round, Rounds};
use crate::runtime::Runtime;

/// The handle's side; dropped with the last [`crate::Driver`].
pub(crate) struct SimDriver {
    shared: Arc<Shared>,
}

struct Shared {
    node: SimRuntime,
    name: &'static str,
    wake: Notify,
    stopped: AtomicBool,
    in_hand: Mutex<Option<InHand>>,
}

/// A round that waits for its next step.
struct InHand {
    round: Box<dyn Round>,
    has_run: bool,
}

impl SimDriver {
    pub(super) fn start(
        node: &SimRuntime,
        runtime: &Runtime,
        name: &'static str,
        rounds: Arc<dyn Rounds>,
    ) -> Arc<SimDriver> {
        let shared = Arc::new(Shared {
            node: node.clone(),
            name,
            wake: Notify::new(),
            stopped: AtomicBool::new(false),
            in_hand: Mutex::default(),
        });
        let in_task = Arc::clone(&shared);
        runtime.spawn(async move { in_task.run(&*rounds).await });
        Arc::new(SimDriver { shared })
    }

    pub(crate) fn wake(&self) {
        self.shared.wake.notify_one();
    }

    pub(crate) fn stop(&self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        // The round that the task has in hand is finished here, on the caller's time. None is there when this is called
        // from inside a round: then the task goes on with it.
        self.shared.run_in_hand();
        self.shared.complete_in_hand();
        self.wake();
    }
}

impl Drop for SimDriver {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        self.wake();
    }
}

impl Shared {
    async fn run(&self, rounds: &dyn Rounds) {
        loop {
            self.node.pause().await;
            while !self.stopped.load(Ordering::Relaxed) {
                let Some(round) = rounds.take() else { break };
                self.record("take");
                *locked(&self.in_hand) = Some(InHand { round, has_run: false });
                self.node.pause().await;
                self.run_in_hand();
                self.node.disk_time().await;
                self.node.pause().await;
                self.complete_in_hand();
                self.node.pause().await;
            }
            if self.stopped.load(Ordering::Relaxed) {
                return;
            }
            self.wake.notified().await;
        }
    }

    fn run_in_hand(&self) {
        let taken = locked(&self.in_hand).take_if(|in_hand| !in_hand.has_run);
        if let Some(mut in_hand) = taken
            && self.node.is_alive()
        {
            self.record("run");
            in_hand.round.run();
            in_hand.has_run = true;
            *locked(&self.in_hand) = Some(in_hand);
        }
    }

    fn complete_in_hand(&self) {
        let taken = locked(&self.in_hand).take();
        // A crash inside `run` leaves nobody to tell.
        if let Some(in_hand) = taken
            && self.node.is_alive()
        {
            self.record("complete");
            in_hand.round.complete();
        }
    }

    fn record(&self, step: &str) {
        let Shared { node, name, .. } = self;
        node.world.0.record(node.node(), step, &[], format_args!("{name}"));
    }
}
