//! A thread that takes, runs and completes rounds.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle, Thread};

use crate::rounds::Rounds;
use crate::runtime::Runtime;

/// Looking for rounds or running one.
const BUSY: u8 = 0;
/// As `BUSY`, and has to look again before it parks.
const WOKEN: u8 = 1;
/// Parked, or about to: whoever changes this state must unpark the thread.
const PARKED: u8 = 2;

/// The handle's side; dropped with the last [`crate::Driver`].
pub(crate) struct RealDriver {
    shared: Arc<Shared>,
    thread: Thread,
    join: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    state: AtomicU8,
    stopped: AtomicBool,
}

/// Starts the thread. It parks until it is woken.
pub(crate) fn start_driver(runtime: Runtime, name: &'static str, rounds: Arc<dyn Rounds>) -> Arc<RealDriver> {
    let shared = Arc::new(Shared { state: AtomicU8::new(WOKEN), stopped: AtomicBool::new(false) });
    let in_thread = Arc::clone(&shared);
    let join = thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || runtime.enter(|| in_thread.run(name, &*rounds)))
        .expect("a broker that cannot start a thread cannot run");
    Arc::new(RealDriver { shared, thread: join.thread().clone(), join: Mutex::new(Some(join)) })
}

impl Shared {
    fn run(&self, name: &str, rounds: &dyn Rounds) {
        loop {
            // A wake after this point makes the loop look again; one before it is answered by the takes below.
            self.state.swap(BUSY, Ordering::SeqCst);
            while !self.stopped.load(Ordering::SeqCst) {
                let round = catch_unwind(AssertUnwindSafe(|| {
                    let Some(mut round) = rounds.take() else { return false };
                    round.run();
                    round.complete();
                    true
                }));
                match round {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(_) => {
                        // The panic's own message is on standard error already.
                        eprintln!("millpond: the thread {name} panicked inside a round; the process ends");
                        std::process::abort();
                    }
                }
            }
            if self.stopped.load(Ordering::SeqCst) {
                return;
            }
            if self.state.compare_exchange(BUSY, PARKED, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                while self.state.load(Ordering::SeqCst) == PARKED {
                    thread::park();
                }
            }
        }
    }
}

impl RealDriver {
    pub(crate) fn wake(&self) {
        // The caller's queue write must be ordered before this look at the state, as the thread's change of the state
        // is before its look at the queue: one of the two sees the other. Without the fence both could miss.
        fence(Ordering::SeqCst);
        if self.shared.state.load(Ordering::SeqCst) == WOKEN {
            return;
        }
        if self.shared.state.swap(WOKEN, Ordering::SeqCst) == PARKED {
            self.thread.unpark();
        }
    }

    pub(crate) fn stop(&self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        self.wake();
        if thread::current().id() == self.thread.id() {
            return;
        }
        // The lock is held while joining, so that a second caller returns no earlier than the first.
        let mut join = self.join.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = join.take() {
            // A panic inside the thread has ended the process already.
            let _ = thread.join();
        }
    }
}

impl Drop for RealDriver {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        self.wake();
    }
}
