//! From settings to a running broker, and from a signal to its end.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use millpond_broker::{Broker, BrokerConfig};
use millpond_runtime::{RealDisk, Runtime};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use crate::arguments::BrokerArguments;
use crate::{config_file, logging};

/// What a stop, with handing over what the broker leads, may take before the process ends all the same: what was
/// acknowledged is durable without a clean stop.
const STOP_LIMIT: Duration = Duration::from_millis(7000);

/// Runs a broker until a signal or a fatal error.
pub(crate) fn broker(arguments: &BrokerArguments) -> Result<()> {
    if let Some(parent) = arguments.end_with {
        end_with(parent)?;
    }
    logging::start(arguments.log_format, &arguments.log_level)?;
    let of_file = arguments.config.as_deref().map(config_file::read).transpose()?.unwrap_or_default();
    let mut config = match BrokerConfig::resolve(of_file.iter().cloned().chain(arguments.settings())) {
        Ok(config) => config,
        // What is wrong in both is told of the file, which is looked at first.
        Err(error) => match arguments.config.as_deref().filter(|_| error.is_of(&of_file)) {
            Some(path) => return Err(error).with_context(|| format!("in {}", path.display())),
            None => return Err(error.into()),
        },
    };
    config.fit_open_files(raise_open_files())?;
    let threads = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("millpond")
        .build()
        .context("cannot start threads")?;
    let result = threads.block_on(serve(config));
    // Cold reads that are still under way are not waited for.
    threads.shutdown_background();
    result
}

/// Has this process told to stop when its parent ends, however that ends: nothing else would end a broker whose
/// `millpond dev` was killed. Call it on the main thread, before there are others.
#[cfg(target_os = "linux")]
fn end_with(parent: i32) -> Result<()> {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};
    set_parent_process_death_signal(Some(Signal::TERM)).context("cannot watch the parent process")?;
    // It may have ended before, and then no signal comes.
    if getppid().is_none_or(|now| now.as_raw_nonzero().get() != parent) {
        bail!("the process {parent} that started this broker has ended, or is not its parent");
    }
    Ok(())
}

/// Other systems have no such signal: who kills `millpond dev` there ends the brokers by hand.
#[cfg(not(target_os = "linux"))]
fn end_with(_parent: i32) -> Result<()> {
    Ok(())
}

/// Lets the process open as many files as it may, and says how many that is. The soft limit is mostly 1024 for the sake
/// of programs that use `select`, which this one does not.
fn raise_open_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let allowed = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(error) => {
            warn!("the limit of open files stays as it is: {error}");
            limit.current
        }
    };
    allowed.unwrap_or(u64::MAX)
}

async fn serve(config: BrokerConfig) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot watch for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot watch for SIGINT")?;
    let runtime = Runtime::real(RealDisk::shared());
    let starting = Broker::start(runtime.clone(), config);
    let broker = tokio::select! {
        biased;
        started = starting => started?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    let ready =
        format!("millpond ready node={} kafka={} http={}\n", broker.node_id(), broker.kafka_addr(), broker.http_addr());
    let mut out = std::io::stdout().lock();
    // Who started the broker may have closed its output; that is no reason to stop.
    if out.write_all(ready.as_bytes()).and_then(|()| out.flush()).is_err() {
        info!("standard output is closed: {}", ready.trim_end());
    }
    drop(out);
    let fatal = tokio::select! {
        biased;
        fatal = broker.fatal() => Some(fatal),
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
    };
    info!("stopping");
    let stopped = runtime.timeout(STOP_LIMIT, broker.shutdown()).await;
    if let Some(fatal) = fatal {
        bail!("{fatal}");
    }
    match stopped {
        Ok(stopped) => stopped.context("the broker did not stop cleanly"),
        Err(_) => {
            // Leaving by returning would wait for the very writes that take too long.
            eprintln!("millpond: the broker did not stop cleanly within seven seconds; the next start recovers");
            std::process::exit(1);
        }
    }
}
