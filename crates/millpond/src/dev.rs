//! `millpond dev`: a cluster on one machine, each broker in a process of its own, for trying things out.
//!
//! The processes are children of this one: their logs come through it, it passes signals on and waits for them, and
//! they end when it does, however it ends.

mod arguments;
mod lines;
mod node;
mod ports;

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use millpond_runtime::{RealDisk, Runtime};
use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

pub(crate) use arguments::DevArguments;
use node::{Node, Ready};

/// How long the brokers may take to stop; a broker gives itself less.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// How often the brokers are looked at without being asked to.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Runs brokers until a signal, or until none is left.
pub(crate) fn run(arguments: &DevArguments) -> Result<ExitCode> {
    refuse_fewer(&arguments.dir, arguments.nodes)?;
    // One thread, and it stays until the end: the system counts a parent as dead when the thread that made a child is.
    let thread = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    let result = thread.block_on(serve(arguments));
    thread.shutdown_background();
    result.map(|()| ExitCode::SUCCESS)
}

/// A cluster of more brokers than are asked for would wait for a majority that never comes.
#[expect(clippy::disallowed_methods, reason = "looks for folders before there is a broker to open them")]
fn refuse_fewer(dir: &Path, nodes: u16) -> Result<()> {
    let more = (nodes + 1..=arguments::MAX_NODES).filter(|id| dir.join(format!("node-{id}")).is_dir()).max();
    match more {
        Some(more) => bail!(
            "{} holds the data of {more} nodes; start it with --nodes {more}, or choose another folder with --dir",
            dir.display()
        ),
        None => Ok(()),
    }
}

async fn serve(arguments: &DevArguments) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot watch for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot watch for SIGINT")?;
    let mut ended = signal(SignalKind::child()).context("cannot watch for processes that end")?;
    let runtime = Runtime::real(RealDisk::shared());
    let places = ports::places(&runtime, arguments).await?;
    let (told, mut readies) = mpsc::unbounded_channel();
    let mut nodes = Vec::new();
    for place in &places {
        nodes.push(Node::start(&runtime, arguments, place, &places, told.clone())?);
    }
    drop(told);
    let mut announced = false;
    let stop = loop {
        tokio::select! {
            biased;
            _ = terminate.recv() => break Signal::TERM,
            _ = interrupt.recv() => break Signal::INT,
            _ = ended.recv() => tell_of_the_dead(&runtime, &mut nodes).await?,
            // Whatever becomes of a signal, a dead broker does not go unnoticed.
            () = runtime.sleep(LOOK_AGAIN) => tell_of_the_dead(&runtime, &mut nodes).await?,
            Some((id, ready)) = readies.recv() => {
                if let Some(node) = nodes.iter_mut().find(|node| node.id == id) {
                    node.ready = Some(ready);
                }
            }
        }
        if nodes.is_empty() {
            bail!("no broker is left");
        }
        let readies: Option<Vec<&Ready>> = nodes.iter().map(|node| node.ready.as_ref()).collect();
        if let Some(readies) = readies.filter(|_| !announced) {
            announce(&readies);
            announced = true;
        }
    };
    nodes.iter().for_each(|node| node.send(stop));
    let stopping = async {
        let mut failed = Vec::new();
        while !nodes.is_empty() {
            for (id, status) in reap(&runtime, &mut nodes).await? {
                if !status.success() {
                    failed.push(format!("node {id} ended with {status}"));
                }
            }
            if !nodes.is_empty() {
                ended.recv().await;
            }
        }
        anyhow::Ok(failed)
    };
    let stopped = tokio::select! {
        biased;
        stopped = runtime.timeout(STOP_LIMIT, stopping) => stopped,
        // Who asks twice does not want to wait.
        _ = terminate.recv() => bail!("the brokers were killed before they had stopped; the next start recovers"),
        _ = interrupt.recv() => bail!("the brokers were killed before they had stopped; the next start recovers"),
    };
    // What is left of `nodes` is killed when it is dropped.
    let failed = stopped.map_err(|_| anyhow::anyhow!("the brokers did not stop within {STOP_LIMIT:?}"))??;
    if !failed.is_empty() {
        bail!("{}", failed.join("; "));
    }
    Ok(())
}

/// Takes out the nodes whose processes have ended, when their last lines have been printed.
async fn reap(runtime: &Runtime, nodes: &mut Vec<Node>) -> Result<Vec<(u16, std::process::ExitStatus)>> {
    let mut dead = Vec::new();
    let mut at = 0;
    while let Some(node) = nodes.get_mut(at) {
        match node.ended()? {
            Some(status) => {
                let id = node.id;
                let node = nodes.remove(at);
                node.last_lines(runtime).await;
                dead.push((id, status));
            }
            None => at += 1,
        }
    }
    Ok(dead)
}

async fn tell_of_the_dead(runtime: &Runtime, nodes: &mut Vec<Node>) -> Result<()> {
    for (id, status) in reap(runtime, nodes).await? {
        let left: Vec<String> = nodes.iter().map(|node| node.id.to_string()).collect();
        let others = match left.len() {
            0 => "it was the last".to_owned(),
            1 => format!("node {} goes on", left[0]),
            _ => format!("nodes {} go on", left.join(", ")),
        };
        say(&format!("millpond dev: node {id} ended with {status}; {others}"));
    }
    Ok(())
}

fn announce(readies: &[&Ready]) {
    let list = |address: fn(&Ready) -> &str| readies.iter().map(|ready| address(ready)).collect::<Vec<_>>().join(",");
    let line = format!("millpond dev ready kafka={} http={}\n", list(|ready| &ready.kafka), list(|ready| &ready.http));
    let mut out = io::stdout().lock();
    // Who started this may have closed its output; that is no reason to stop.
    let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
}

/// A line on standard error, which may be closed.
fn say(line: &str) {
    let mut err = io::stderr().lock();
    let _ = err.write_all(format!("{line}\n").as_bytes());
}
