//! Limits on connections, over loopback.

#![expect(clippy::disallowed_methods, reason = "drives a real broker over real sockets")]

mod support;

use std::time::{Duration, Instant};

use millpond_wire::metadata::MetadataRequest;
use support::{Client, PATIENCE, Served};

fn metadata() -> MetadataRequest {
    MetadataRequest { topics: Some(Vec::new()), ..Default::default() }
}

/// Whether the broker serves this connection rather than closing it on arrival.
fn is_served(client: &mut Client) -> bool {
    client.send(9, &metadata());
    client.receive_frame().is_some()
}

#[test]
fn connections_beyond_the_limit_in_all_or_of_one_address_are_closed_and_a_closed_one_makes_room() {
    for limit in ["max.connections", "max.connections.per.ip"] {
        let served = Served::with(&[(limit, "3")]);
        let mut open: Vec<Client> = (0..3).map(|_| served.client()).collect();
        assert!(open.iter_mut().all(is_served), "{limit}");
        assert!(!is_served(&mut served.client()), "{limit}");
        open.pop();
        let deadline = Instant::now() + PATIENCE;
        while !is_served(&mut served.client()) {
            assert!(Instant::now() < deadline, "{limit}: the place is not free again");
        }
        assert!(open.iter_mut().all(is_served), "{limit}");
    }
}

#[test]
fn two_thousand_idle_connections_leave_the_others_as_fast_as_before() {
    let served = Served::start();
    let mut client = served.client();
    client.create("logs", 1, &[]);
    let round_trips = |client: &mut Client| {
        let start = Instant::now();
        for _ in 0..300 {
            assert_eq!(client.produce("logs", 1, support::batch(&["x"])).error_code, 0);
        }
        start.elapsed()
    };
    round_trips(&mut client);
    let before = round_trips(&mut client);
    // Every other one has sent the beginning of a request.
    let idle: Vec<Client> = (0..2000)
        .map(|number| {
            let mut idle = served.client();
            if number % 2 == 0 {
                idle.send_bytes(&[0, 0, 1, 0, 0]);
            }
            idle
        })
        .collect();
    assert!(is_served(&mut served.client()), "all of them are accepted");
    let after = round_trips(&mut client);
    // Machines are noisy; what this would show is work that grows with the connections.
    assert!(after < before * 5 + Duration::from_millis(200), "{before:?}, then {after:?}");
    drop(idle);
}

#[test]
fn a_stop_with_hundreds_of_partitions_and_busy_connections_takes_less_than_two_seconds() {
    let mut served = Served::with(&[("num.partitions", "1")]);
    let mut admin = served.client();
    for number in 0..300 {
        admin.create(&format!("topic-{number}"), 1, &[]);
    }
    let mut busy: Vec<Client> = (0..40).map(|_| served.client()).collect();
    for (number, client) in busy.iter_mut().enumerate() {
        for round in 0..15 {
            let topic = format!("topic-{}", (number * 15 + round) % 300);
            client.send(9, &support::produce_request(&topic, -1, vec![(0, support::batch(&["x"; 50]))]));
        }
    }
    let waiting = millpond_wire::fetch::FetchRequest { max_wait_ms: 60_000, ..support::fetch_request("topic-0", 99) };
    admin.send(12, &waiting);
    let took = served.stop();
    assert!(took < Duration::from_secs(2), "{took:?}");
}
