//! `millpond dev`: brokers in child processes, their signals, and their end with the parent's.

#![expect(clippy::disallowed_methods, reason = "drives real processes")]

mod support;

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use millpond_client::{Admin, ClientConfig, NewTopic};
use support::{Folder, PATIENCE};

/// A running `millpond dev`, killed when dropped.
struct Dev {
    child: Child,
    kafka: Vec<SocketAddr>,
    logs: BufReader<ChildStderr>,
}

fn command(folder: &Folder, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millpond"));
    command.args(["dev", "--kafka-port", "0", "--dir", &folder.file("dev")]).args(more);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

impl Dev {
    fn start(folder: &Folder, more: &[&str]) -> Dev {
        let mut child = command(folder, more).spawn().expect("the binary runs");
        let stdout = child.stdout.take().expect("it is piped");
        let logs = BufReader::new(child.stderr.take().expect("it is piped"));
        let mut dev = Dev { child, kafka: Vec::new(), logs };
        let mut ready = String::new();
        BufReader::new(stdout).read_line(&mut ready).expect("a line or the end");
        let addresses = ready.strip_prefix("millpond dev ready kafka=").and_then(|rest| rest.split(' ').next());
        let addresses = addresses.unwrap_or_else(|| panic!("{ready:?}"));
        dev.kafka = addresses.split(',').map(|address| address.parse().expect("an address")).collect();
        dev
    }

    fn send(&self, signal: &str) {
        send(self.child.id(), signal);
    }

    fn wait(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("it can be waited for") {
                return status;
            }
            assert!(start.elapsed() < PATIENCE, "it does not end");
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    /// The processes that it started.
    fn children(&self) -> Vec<u32> {
        let id = self.child.id();
        let found = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).expect("it runs");
        found.split_whitespace().map(|id| id.parse().expect("a process id")).collect()
    }

    fn log_line(&mut self, what: &str) -> String {
        let mut line = String::new();
        while self.logs.read_line(&mut line).expect("logs") > 0 {
            if line.contains(what) {
                return line;
            }
            line.clear();
        }
        panic!("the logs end without {what:?}");
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn send(id: u32, signal: &str) {
    let sent = Command::new("kill").args(["-s", signal, &id.to_string()]).status();
    assert!(sent.expect("kill runs").success());
}

/// Waits until a process has ended; who should take note of that is not its concern.
fn until_gone(id: u32) {
    let start = Instant::now();
    let runs = || {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
    };
    while runs() {
        assert!(start.elapsed() < PATIENCE, "process {id} goes on");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

#[test]
fn one_node_runs_logs_with_its_name_and_stops_with_either_signal() {
    let folder = Folder::new("dev-one");
    for signal in ["TERM", "INT"] {
        let mut dev = Dev::start(&folder, &["--nodes", "1"]);
        assert_eq!((dev.kafka.len(), dev.children().len()), (1, 1));
        TcpStream::connect(dev.kafka[0]).expect("it accepts");
        dev.send(signal);
        assert!(dev.wait().success(), "SIG{signal}");
        let mut logs = String::new();
        dev.logs.read_to_string(&mut logs).expect("text");
        assert!(logs.lines().all(|line| line.starts_with("node 1 | ")), "{logs}");
        assert!(logs.contains("stopping"), "{logs}");
        assert!(folder.path().join("dev/node-1/meta.properties").is_file());
    }
}

#[test]
fn a_broker_ends_with_its_parent_also_when_that_is_killed() {
    let folder = Folder::new("dev-killed");
    let mut dev = Dev::start(&folder, &["--nodes", "1"]);
    let children = dev.children();
    assert_eq!(children.len(), 1);
    dev.send("KILL");
    assert!(!dev.wait().success());
    until_gone(children[0]);
    assert!(TcpStream::connect(dev.kafka[0]).is_err());
}

#[test]
fn a_broker_that_dies_is_told_of_and_without_any_left_it_ends() {
    let folder = Folder::new("dev-dies");
    let mut dev = Dev::start(&folder, &["--nodes", "1"]);
    let node = dev.children();
    send(node[0], "KILL");
    assert!(!dev.wait().success());
    let told = dev.log_line("node 1 ended");
    assert!(told.contains("signal: 9") && told.contains("it was the last"), "{told}");
    assert!(dev.log_line("no broker is left").starts_with("millpond: "));
}

#[test]
fn a_broker_that_does_not_start_says_why() {
    let folder = Folder::new("dev-refused");
    let output = command(&folder, &["--nodes", "1", "--set", "num.partitions=none"]).output().expect("it runs");
    let logs = String::from_utf8(output.stderr).expect("text");
    assert!(!output.status.success() && output.stdout.is_empty(), "{logs}");
    assert!(logs.contains("node 1 | millpond: ") && logs.contains("num.partitions"), "{logs}");
}

#[test]
fn a_folder_of_more_nodes_is_not_started_with_fewer() {
    let folder = Folder::new("dev-fewer");
    std::fs::create_dir_all(folder.path().join("dev/node-3")).expect("a folder");
    let output = command(&folder, &["--nodes", "1"]).output().expect("it runs");
    let said = String::from_utf8(output.stderr).expect("text");
    assert!(!output.status.success() && said.contains("start it with --nodes 3"), "{said}");
    let output = command(&folder, &["--nodes", "0"]).output().expect("it runs");
    let said = String::from_utf8(output.stderr).expect("text");
    assert!(said.contains("it must be a number from 1 to 9"), "{said}");
}

#[tokio::test]
async fn three_nodes_form_one_cluster_and_go_on_when_one_is_killed() {
    let folder = Folder::new("dev-three");
    let mut dev = Dev::start(&folder, &["--nodes", "3"]);
    let addresses: Vec<String> = dev.kafka.iter().map(ToString::to_string).collect();
    assert_eq!(addresses.len(), 3);
    let config = ClientConfig::new(&addresses.join(",")).expect("addresses").deadline(PATIENCE);
    let admin = Admin::connect(config).await.expect("a broker answers");
    let created = admin.create_topics(&[NewTopic::new("logs").partitions(3).replication_factor(3)]).await;
    created.expect("an answer")["logs"].as_ref().expect("created");
    let cluster = admin.describe_cluster().await.expect("an answer");
    let ids: Vec<i32> = cluster.brokers.iter().filter(|broker| !broker.is_fenced).map(|broker| broker.id).collect();
    assert_eq!(ids, [1, 2, 3]);

    let children = dev.children();
    assert_eq!(children.len(), 3);
    send(children[2], "KILL");
    let told = dev.log_line(" ended with ");
    assert!(told.contains("go on"), "{told}");
    let led_by = async || {
        let topics = admin.describe_topics(&["logs"]).await.expect("an answer");
        let logs = topics["logs"].as_ref().expect("it is there");
        logs.partitions.iter().map(|partition| partition.leader).collect::<Vec<_>>()
    };
    let start = Instant::now();
    // Who was killed is told by its number in the line.
    let dead: i32 = told.split(' ').nth(3).and_then(|id| id.parse().ok()).expect("millpond dev: node N ended");
    loop {
        let leaders = led_by().await;
        if leaders.iter().all(|leader| leader.is_some_and(|id| id != dead)) {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "{leaders:?} with {dead} dead");
    }
    dev.send("TERM");
    assert!(dev.wait().success());
}
