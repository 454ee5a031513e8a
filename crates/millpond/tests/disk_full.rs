//! A real broker on a real file system of 64 MB, which fills up. Needs Linux and the right to mount in a namespace of
//! one's own; where that is not given, the test says so and ends.

#![cfg(target_os = "linux")]
#![expect(clippy::disallowed_methods, reason = "drives a real process over real sockets")]

mod support;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use millpond_wire::ErrorCode;
use millpond_wire::delete_topics::DeleteTopicsRequest;
use support::{Broker, Folder, PATIENCE, batch, command};

const MOUNT_AND_RUN: &str = "mount -t tmpfs -o size=64m tmpfs \"$0\" && exec \"$@\"";

/// The broker's command on a file system of its own, mounted over the folder.
fn on_a_small_disk(folder: &Folder, more: &[&str]) -> Command {
    let broker = command(folder.path(), more);
    let mut wrapped = Command::new("unshare");
    wrapped.args(["--map-root-user", "--mount", "sh", "-c", MOUNT_AND_RUN]).arg(folder.path());
    wrapped.arg(broker.get_program()).args(broker.get_args());
    wrapped.stdin(Stdio::null()).stdout(Stdio::piped());
    wrapped
}

fn may_mount(folder: &Folder) -> bool {
    let mut probe = Command::new("unshare");
    probe.args(["--map-root-user", "--mount", "sh", "-c", MOUNT_AND_RUN]).arg(folder.path()).arg("true");
    probe.stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

#[test]
fn a_full_disk_refuses_produce_in_time_loses_nothing_and_recovers_without_a_restart() {
    let folder = Folder::new("small-disk");
    if !may_mount(&folder) {
        eprintln!("not run: this system lets nobody mount a file system of his own");
        return;
    }
    // The records are dated 2023, which is long ago for a retention look.
    let keep = ["--set", "log.retention.ms=-1"];
    let broker = Broker::run(on_a_small_disk(&folder, &keep));
    let mut client = broker.client();
    client.create_topic("kept", 1);
    client.create_topic("dropped", 1);
    let (large, small) = ("d".repeat(900_000), "k".repeat(50_000));
    let mut written = 0;
    while client.produce("dropped", 0, -1, batch(&[&large])).0 == 0 {
        let (code, offset) = client.produce("kept", 0, -1, batch(&[&small]));
        match code {
            0 => assert_eq!(offset, written),
            _ => break,
        }
        written += 1;
        assert!(written < 100, "64 MB are full");
    }
    assert!(written > 20, "{written} pairs were taken");
    // A large batch is refused where a small one may still fit.
    loop {
        match client.produce("kept", 0, -1, batch(&[&small])) {
            (0, offset) => assert_eq!(offset, written),
            (code, _) => break assert_eq!(ErrorCode(code), ErrorCode::POLICY_VIOLATION),
        }
        written += 1;
        assert!(written < 1_300, "64 MB are full");
    }
    let (_, page) = broker.metrics_when("millpond_disk_level 2");
    assert!(page.contains("millpond_disk_total_bytes 67108864"), "{page}");
    assert_eq!(broker.get("/ready").0, "HTTP/1.1 200 OK", "it serves readers");
    let read = client.read_all("kept", 0);
    assert_eq!(read.len() as i64, written);
    assert!(read.iter().zip(0_i64..).all(|((offset, value), at)| *offset == at && value.len() == small.len()));

    let names = vec!["dropped".into()];
    let request = DeleteTopicsRequest { topic_names: names, timeout_ms: 10_000, ..Default::default() };
    assert_eq!(client.call(5, &request).responses[0].error_code, 0);
    let start = Instant::now();
    while client.produce("kept", 0, -1, batch(&["after"])).0 != 0 {
        assert!(start.elapsed() < PATIENCE, "it does not recover");
        std::thread::park_timeout(Duration::from_millis(20));
    }
    assert_eq!(client.read_all("kept", 0).len() as i64, written + 1);
    broker.kill();
}
