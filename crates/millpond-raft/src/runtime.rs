//! The runtime that openraft runs on: [`millpond_runtime`], real or simulated.
//!
//! openraft names its runtime as a type and calls it without a value, so every call asks for the runtime of the task
//! that is being polled. Groups are started in such a task, and what they spawn inherits it.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use millpond_runtime::{RealDisk, Runtime};
use openraft::{AsyncRuntime, OptionalSend};
use openraft_rt_tokio::{TokioInstant, TokioMpsc, TokioMutex, TokioOneshot, TokioRuntime, TokioWatch};

/// The one runtime type of openraft, for real and for simulated brokers.
pub struct MillRuntime {
    tokio: tokio::runtime::Runtime,
    runtime: Runtime,
}

impl std::fmt::Debug for MillRuntime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("MillRuntime").field(&self.runtime).finish()
    }
}

fn current() -> Runtime {
    Runtime::current().expect("openraft runs only in tasks that a millpond Runtime has spawned")
}

/// Random numbers of the current runtime: in the simulator from the node's seed.
#[derive(Clone, Debug)]
pub struct MillRng(Runtime);

impl rand::TryRng for MillRng {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(self.0.random_u64() as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.0.random_u64())
    }

    fn try_fill_bytes(&mut self, destination: &mut [u8]) -> Result<(), Infallible> {
        self.0.fill_random(destination);
        Ok(())
    }
}

impl AsyncRuntime for MillRuntime {
    type JoinError = millpond_runtime::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = millpond_runtime::JoinHandle<T>;
    type Sleep = tokio::time::Sleep;
    type Instant = TokioInstant;
    type TimeoutError = tokio::time::error::Elapsed;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = tokio::time::Timeout<T>;
    type ThreadLocalRng = MillRng;
    type Mpsc = TokioMpsc;
    type Watch = TokioWatch;
    type Oneshot = TokioOneshot;
    type Mutex<T: OptionalSend + 'static> = TokioMutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        current().spawn(future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        TokioRuntime::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        TokioRuntime::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(duration: Duration, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(deadline: Self::Instant, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout_at(deadline, future)
    }

    fn is_panic(error: &Self::JoinError) -> bool {
        matches!(error, millpond_runtime::JoinError::Panicked)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        MillRng(current())
    }

    fn spawn_blocking<F, T>(f: F) -> impl Future<Output = Result<T, io::Error>> + Send
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let blocking = current().blocking(f);
        async move { Ok(blocking.await) }
    }

    /// A real runtime of its own, as openraft's tests want it. A broker makes its runtime itself.
    fn new(threads: usize) -> Self {
        let tokio = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .enable_all()
            .build()
            .expect("the system has threads to run tests on");
        let runtime = {
            let _entered = tokio.enter();
            Runtime::real(Arc::new(RealDisk))
        };
        MillRuntime { tokio, runtime }
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        let MillRuntime { tokio, runtime } = self;
        tokio.block_on(async move {
            let mut future = pin!(future);
            // Entered at each poll, as a task of this runtime would be.
            std::future::poll_fn(|context| -> Poll<T> { runtime.enter(|| future.as_mut().poll(context)) }).await
        })
    }
}
