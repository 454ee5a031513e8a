//! The one handle through which everything above reaches the world.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, Sleep, Timeout};

use crate::disk::Disk;
use crate::host_port::HostPort;
use crate::net::{Listener, Stream};
use crate::real::RealRuntime;
use crate::rounds::{Driver, Rounds};
#[cfg(feature = "sim")]
use crate::sim::SimRuntime;
use crate::task::{self, JoinHandle, Scope, Scoped};

/// Clock, randomness, tasks, rounds, sockets and files of one broker (or of one simulated node). Cheap to clone.
#[derive(Clone)]
pub struct Runtime(pub(crate) Inner);

#[derive(Clone)]
pub(crate) enum Inner {
    Real(Arc<RealRuntime>),
    #[cfg(feature = "sim")]
    Simulated(SimRuntime),
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Inner::Real(_) => f.write_str("Runtime::Real"),
            #[cfg(feature = "sim")]
            Inner::Simulated(node) => write!(f, "Runtime::Simulated({})", node.node()),
        }
    }
}

impl Runtime {
    /// The real world, with `disk` (usually a [`crate::RealDisk`]). Made inside a tokio runtime it spawns its tasks
    /// there; made elsewhere it offers files, rounds, clock and randomness only, and [`Runtime::spawn`] and
    /// [`Runtime::blocking`] panic.
    pub fn real(disk: Arc<dyn Disk>) -> Runtime {
        Runtime(Inner::Real(Arc::new(RealRuntime::new(disk))))
    }

    /// The runtime that the running task, round or blocking call was started through; `None` outside of any.
    pub fn current() -> Option<Runtime> {
        task::current()
    }

    /// Runs `f` with this runtime as the current one, as if a task of this runtime called it.
    pub fn enter<T>(&self, f: impl FnOnce() -> T) -> T {
        let _scope = Scope::enter(self);
        f()
    }

    /// Starts a task. It runs on when the handle is dropped.
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        match &self.0 {
            Inner::Real(real) => JoinHandle(Some(real.spawn(Scoped::new(self.clone(), future)))),
            #[cfg(feature = "sim")]
            Inner::Simulated(node) => JoinHandle(node.spawn(Scoped::new(self.clone(), future))),
        }
    }

    /// Runs blocking work (cold reads, opening a log) where it holds nobody up, and gives its result. It starts at
    /// once, also when the future is not polled, and is not cancelled when the future is dropped. A panic in `f` goes
    /// on in the awaiter.
    pub fn blocking<T, F>(&self, f: F) -> impl Future<Output = T> + Send + use<T, F>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let runtime = self.clone();
        let scoped = move || runtime.enter(f);
        let started = match &self.0 {
            Inner::Real(real) => Started::Thread(real.blocking(scoped)),
            #[cfg(feature = "sim")]
            Inner::Simulated(node) => Started::Task(node.blocking(scoped)),
        };
        async move {
            let result = match started {
                Started::Thread(handle) => handle.await,
                #[cfg(feature = "sim")]
                Started::Task(Some(handle)) => handle.await,
                #[cfg(feature = "sim")]
                Started::Task(None) => std::future::pending().await,
            };
            match result {
                Ok(value) => value,
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    // The runtime is shutting down (or the simulated node is dead): nobody needs the answer any more.
                    Err(_) => std::future::pending().await,
                },
            }
        }
    }

    /// Starts a driver for `rounds`: it parks at once and looks for a round when it is woken. `name` names the real
    /// thread.
    ///
    /// A panic inside a round ends the process (in the simulator: fails the run), because those who wait for the round
    /// would wait for ever and what it had in hand is neither written nor known to be lost.
    pub fn drive(&self, name: &'static str, rounds: Arc<dyn Rounds>) -> Driver {
        match &self.0 {
            Inner::Real(_) => Driver(crate::rounds::Inner::Real(crate::real::start_driver(self.clone(), name, rounds))),
            #[cfg(feature = "sim")]
            Inner::Simulated(node) => Driver(crate::rounds::Inner::Simulated(node.start_driver(self, name, rounds))),
        }
    }

    /// The disk.
    pub fn disk(&self) -> Arc<dyn Disk> {
        match &self.0 {
            Inner::Real(real) => real.disk(),
            #[cfg(feature = "sim")]
            Inner::Simulated(node) => node.disk(),
        }
    }

    /// Milliseconds since 1970 by this broker's clock. May jump, in both directions.
    pub fn wall_clock(&self) -> i64 {
        match &self.0 {
            Inner::Real(_) => crate::real::wall_clock(),
            #[cfg(feature = "sim")]
            Inner::Simulated(node) => node.wall_clock(),
        }
    }

    /// Names the time from one boot of the machine to the next: while it stays the same, what was written to files and
    /// not synced is still in the page cache, whatever became of the processes. Up to 64 characters of `A-Z a-z 0-9 -`;
    /// `None` where the system does not tell. Blocks.
    pub fn machine_boot_id(&self) -> Option<String> {
        let id = match &self.0 {
            Inner::Real(_) => crate::real::machine_boot_id(),
            #[cfg(feature = "sim")]
            Inner::Simulated(node) => Some(node.machine_boot_id()),
        };
        let legal = |id: &String| {
            (1..=64).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        id.filter(legal)
    }

    /// The monotonic clock. In the simulator it moves only when every task waits.
    pub fn now(&self) -> Instant {
        Instant::now()
    }

    /// Completes after `duration`, to the millisecond.
    pub fn sleep(&self, duration: Duration) -> Sleep {
        tokio::time::sleep(duration)
    }

    /// Completes at `deadline`.
    pub fn sleep_until(&self, deadline: Instant) -> Sleep {
        tokio::time::sleep_until(deadline)
    }

    /// Gives `future` until `duration` has passed.
    pub fn timeout<F: Future>(&self, duration: Duration, future: F) -> Timeout<F> {
        tokio::time::timeout(duration, future)
    }

    /// Gives `future` until `deadline`.
    pub fn timeout_at<F: Future>(&self, deadline: Instant, future: F) -> Timeout<F> {
        tokio::time::timeout_at(deadline, future)
    }

    #[cfg(feature = "planted-faults")]
    pub(crate) fn planted(&self, fault: crate::PlantedFault) -> bool {
        match &self.0 {
            Inner::Real(_) => false,
            Inner::Simulated(node) => node.planted(fault),
        }
    }

    /// A random number; unpredictable in the real world, from the node's seed in the simulator.
    pub fn random_u64(&self) -> u64 {
        let mut bytes = [0; 8];
        self.fill_random(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// Fills a buffer with random bytes, as [`Runtime::random_u64`].
    pub fn fill_random(&self, buffer: &mut [u8]) {
        match &self.0 {
            Inner::Real(_) => crate::real::fill_random(buffer),
            #[cfg(feature = "sim")]
            Inner::Simulated(node) => node.fill_random(buffer),
        }
    }

    /// Listens for TCP connections. Port 0 takes a free one.
    ///
    /// # Errors
    /// `AddrInUse`, and what the system reports.
    pub async fn listen(&self, address: SocketAddr) -> io::Result<Listener> {
        match &self.0 {
            Inner::Real(_) => crate::real::listen(address).map(Listener::from_tcp),
            #[cfg(feature = "sim")]
            Inner::Simulated(node) => node.listen(address).map(Listener::from_sim),
        }
    }

    /// Opens a TCP connection.
    ///
    /// # Errors
    /// `ConnectionRefused`, and what the system reports.
    pub async fn connect(&self, address: SocketAddr) -> io::Result<Stream> {
        match &self.0 {
            Inner::Real(_) => crate::real::connect(address).await.map(Stream::from_tcp),
            #[cfg(feature = "sim")]
            Inner::Simulated(node) => node.connect(address).await.map(Stream::from_sim),
        }
    }

    /// Opens a TCP connection to a host that may be named. Its addresses are asked for anew each time, and tried in
    /// order. In the simulator a host is an address.
    ///
    /// # Errors
    /// As [`Runtime::connect`], of the last address; `NotFound` for a name without any.
    pub async fn connect_to(&self, host_port: &HostPort) -> io::Result<Stream> {
        let HostPort { host, port } = host_port;
        let unknown = || io::Error::new(io::ErrorKind::NotFound, format!("nobody knows a host {host}"));
        match &self.0 {
            Inner::Real(_) => {
                let mut failed = unknown();
                for address in crate::real::look_up(host, *port).await? {
                    match self.connect(address).await {
                        Ok(stream) => return Ok(stream),
                        Err(error) => failed = error,
                    }
                }
                Err(failed)
            }
            #[cfg(feature = "sim")]
            Inner::Simulated(_) => {
                let address = host.parse().map_err(|_| unknown())?;
                self.connect(SocketAddr::new(address, *port)).await
            }
        }
    }
}

/// Blocking work that has been started.
enum Started<T> {
    Thread(tokio::task::JoinHandle<T>),
    #[cfg(feature = "sim")]
    Task(Option<tokio::task::JoinHandle<T>>),
}
