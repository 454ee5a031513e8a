//! One broker of `millpond dev`: its process and its output.

use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use millpond_runtime::{JoinHandle, Runtime};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::BufReader;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::mpsc::UnboundedSender;

use super::arguments::DevArguments;
use super::lines::next_line;
use super::ports::Place;
use super::say;

/// How long the last lines of a process that has ended may take: something that it started may hold its output open.
const LAST_LINES: Duration = Duration::from_millis(500);

/// What a broker says when it accepts clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ready {
    pub(super) kafka: String,
    pub(super) http: String,
}

impl Ready {
    /// Reads a broker's ready line.
    fn read(line: &str) -> Option<Ready> {
        let words = line.strip_prefix("millpond ready ")?;
        let word = |name| words.split(' ').find_map(|word: &str| word.strip_prefix(name)).map(str::to_owned);
        Some(Ready { kafka: word("kafka=")?, http: word("http=")? })
    }
}

/// A broker's process. It is killed when this is dropped.
pub(super) struct Node {
    pub(super) id: u16,
    pub(super) ready: Option<Ready>,
    child: Child,
    output: Vec<JoinHandle<()>>,
}

impl Node {
    /// Starts a broker that knows of all `places`, and tells when it is ready.
    pub(super) fn start(
        runtime: &Runtime,
        arguments: &DevArguments,
        place: &Place,
        places: &[Place],
        told: UnboundedSender<(u16, Ready)>,
    ) -> Result<Node> {
        let id = place.id;
        let binary = std::env::current_exe().context("this program does not know where it is")?;
        let mut command = Command::new(binary);
        command.args(line(arguments, place, places)).arg("--data-dir").arg(arguments.dir.join(format!("node-{id}")));
        command.args(["--end-with", &std::process::id().to_string()]);
        // In a group of its own, so that a Ctrl-C at the terminal reaches it once, through this process.
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().with_context(|| format!("node {id} cannot be started"))?;
        let mut node = Node { id, ready: None, child, output: Vec::new() };
        let stdout = node.child.stdout.take().map(|pipe| reader(pipe.into())).transpose()?;
        let stderr = node.child.stderr.take().map(|pipe| reader(pipe.into())).transpose()?;
        let forward = |mut pipe: BufReader<Receiver>, told: Option<UnboundedSender<(u16, Ready)>>| {
            runtime.spawn(async move {
                while let Some(line) = next_line(&mut pipe).await {
                    match (&told, Ready::read(&line)) {
                        // The receiver may be gone, because everything stops.
                        (Some(told), Some(ready)) => drop(told.send((id, ready))),
                        _ => say(&format!("node {id} | {line}")),
                    }
                }
            })
        };
        node.output.extend(stdout.map(|pipe| forward(pipe, Some(told))));
        node.output.extend(stderr.map(|pipe| forward(pipe, None)));
        Ok(node)
    }

    /// How its process ended, if it has.
    pub(super) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("node {} cannot be waited for", self.id))
    }

    /// Sends a signal to its process. One that has just ended needs none.
    pub(super) fn send(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            let _ = kill_process(pid, signal);
        }
    }

    /// Waits until what the process wrote last has been printed.
    pub(super) async fn last_lines(mut self, runtime: &Runtime) {
        let output = std::mem::take(&mut self.output);
        let printed = async {
            for task in output {
                // A task that panicked has printed what it could.
                let _ = task.await;
            }
        };
        let _ = runtime.timeout(LAST_LINES, printed).await;
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Both fail for a process that has been waited for, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn reader(pipe: OwnedFd) -> Result<BufReader<Receiver>> {
    Ok(BufReader::new(Receiver::from_owned_fd(pipe).context("the output of a broker cannot be read")?))
}

/// The command line of a broker, but for its folder.
fn line(arguments: &DevArguments, place: &Place, places: &[Place]) -> Vec<String> {
    let mut line: Vec<String> = vec!["broker".into()];
    let mut option = |name: &str, value: String| line.extend([name.to_owned(), value]);
    option("--node-id", place.id.to_string());
    option("--kafka", place.kafka.to_string());
    option("--http", place.http.to_string());
    if places.len() > 1 {
        let peers: Vec<String> = places.iter().map(|place| format!("{}@{}", place.id, place.peer)).collect();
        option("--peer", place.peer.to_string());
        option("--peers", peers.join(","));
    }
    option("--log-level", arguments.log_level.clone());
    for (key, value) in &arguments.set {
        option("--set", format!("{key}={value}"));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ready_line_gives_its_addresses_and_no_other_line_does() {
        let ready = Ready::read("millpond ready node=2 kafka=127.0.0.1:9192 http=127.0.0.1:9194");
        assert_eq!(ready, Some(Ready { kafka: "127.0.0.1:9192".into(), http: "127.0.0.1:9194".into() }));
        assert_eq!(Ready::read("millpond ready node=2"), None);
        assert_eq!(Ready::read("2026-11-21 INFO ready kafka=x http=y"), None);
    }
}
