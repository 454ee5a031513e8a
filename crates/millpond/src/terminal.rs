//! What commands share that run for a while and are ended by hand: interrupts, and progress on a terminal.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use millpond_runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// What a command ends with that was interrupted, as shells have it.
pub(crate) const INTERRUPTED: u8 = 130;
/// How often a terminal is told how far it is.
pub(crate) const PROGRESS: Duration = Duration::from_millis(500);

/// Says that it ends because of an interrupt, and how.
pub(crate) fn interrupted(how: &str) -> ExitCode {
    eprintln!("millpond: interrupted; {how}");
    ExitCode::from(INTERRUPTED)
}

/// How often the command was asked to end, by a terminal (SIGINT) or by whoever watches over it (SIGTERM).
pub(crate) struct Interrupts(watch::Receiver<u32>);

impl Interrupts {
    pub(crate) fn count(runtime: &Runtime) -> Result<Interrupts> {
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot watch for SIGINT")?;
        let mut terminate = signal(SignalKind::terminate()).context("cannot watch for SIGTERM")?;
        let (count, counted) = watch::channel(0);
        drop(runtime.spawn(async move {
            loop {
                let asked = tokio::select! {
                    biased;
                    asked = interrupt.recv() => asked,
                    asked = terminate.recv() => asked,
                };
                if asked.is_none() {
                    return;
                }
                count.send_modify(|count| *count += 1);
            }
        }));
        Ok(Interrupts(counted))
    }

    /// Completes when it was so often.
    pub(crate) async fn reached(&self, count: u32) {
        if self.0.clone().wait_for(|counted| *counted >= count).await.is_err() {
            // Nobody counts any more.
            std::future::pending().await
        }
    }

    pub(crate) fn any(&self) -> bool {
        *self.0.borrow() > 0
    }
}

/// Takes the progress away when it is of no more use.
pub(crate) struct ClearLine;

impl Drop for ClearLine {
    fn drop(&mut self) {
        eprint!("\r\x1b[K");
    }
}
