//! The real world: tokio, threads, the operating system's disk and sockets.

mod disk;
mod driver;
mod net;

use std::future::Future;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use tokio::runtime::Handle;

use crate::disk::Disk;

pub use disk::RealDisk;
pub(crate) use driver::{RealDriver, start_driver};
pub(crate) use net::{connect, listen, look_up};

/// What a real [`crate::Runtime`] holds.
pub(crate) struct RealRuntime {
    handle: Option<Handle>,
    disk: Arc<dyn Disk>,
}

impl RealRuntime {
    pub(crate) fn new(disk: Arc<dyn Disk>) -> RealRuntime {
        RealRuntime { handle: Handle::try_current().ok(), disk }
    }

    fn handle(&self) -> &Handle {
        self.handle.as_ref().expect("tasks need a Runtime that was made inside a tokio runtime")
    }

    pub(crate) fn spawn<F>(&self, future: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.handle().spawn(future)
    }

    pub(crate) fn blocking<T: Send + 'static>(
        &self,
        f: impl FnOnce() -> T + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.handle().spawn_blocking(f)
    }

    pub(crate) fn disk(&self) -> Arc<dyn Disk> {
        Arc::clone(&self.disk)
    }
}

/// Linux makes a random id at each boot; a container has that of its host.
pub(crate) fn machine_boot_id() -> Option<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(text.trim_end().to_owned())
}

/// Milliseconds since 1970, 0 for a clock that stands before it.
pub(crate) fn wall_clock() -> i64 {
    let elapsed = std::time::SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX)
}

/// Fills the buffer from the system's generator.
pub(crate) fn fill_random(buffer: &mut [u8]) {
    let mut filled = 0;
    while filled < buffer.len() {
        match rustix::rand::getrandom(&mut buffer[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(bytes) => filled += bytes,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("the system gives no random numbers: {error}"),
        }
    }
}
