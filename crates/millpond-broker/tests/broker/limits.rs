//! Limits on connections, over loopback.

use std::time::{Duration, Instant};

use crate::support::{Client, PATIENCE, Served};
use millpond_wire::metadata::MetadataRequest;

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
            assert_eq!(client.produce("logs", 1, crate::support::batch(&["x"])).error_code, 0);
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
fn a_fetch_that_holds_the_memory_for_answers_ends_when_others_need_it() {
    let served = Served::with(&[("millpond.answer.memory.bytes", "1048576")]);
    let mut client = served.client();
    client.create("logs", 1, &[]);
    let mut many = crate::support::fetch_request("logs", 0);
    many.topics[0].partitions = vec![many.topics[0].partitions[0].clone(); 5_000];
    let waiting = millpond_wire::fetch::FetchRequest { max_wait_ms: 50_000, ..many };
    let start = Instant::now();
    let asked = client.send(12, &waiting);
    for _ in 0..50 {
        assert!(is_served(&mut served.client()));
    }
    assert!(start.elapsed() < Duration::from_secs(30), "others waited {:?}", start.elapsed());
    assert_eq!(client.receive::<millpond_wire::fetch::FetchRequest>(12, asked).responses[0].partitions.len(), 5_000);
}

#[test]
fn no_fetch_waits_longer_than_a_connection_may_be_idle() {
    let served = Served::with(&[("connections.max.idle.ms", "1000")]);
    let mut client = served.client();
    client.create("logs", 1, &[]);
    assert_eq!(client.fetch("logs", 0, i32::MAX).error_code, 0);
}

#[test]
fn a_large_request_behind_a_fetch_that_waits_takes_no_memory_from_others() {
    let served = Served::with(&[("queued.max.request.bytes", "1048576")]);
    let mut greedy = served.client();
    greedy.create("logs", 2, &[]);
    let waiting =
        millpond_wire::fetch::FetchRequest { max_wait_ms: 50_000, ..crate::support::fetch_request("logs", 0) };
    greedy.send(12, &waiting);
    let large = "x".repeat(1 << 20);
    greedy.send(9, &crate::support::produce_request("logs", 1, vec![(0, crate::support::batch(&[&large]))]));
    let mut other = served.client();
    let start = Instant::now();
    for _ in 0..100 {
        let request = crate::support::produce_request("logs", 1, vec![(1, crate::support::batch(&["x"]))]);
        assert_eq!(other.call(9, &request).responses[0].partition_responses[0].error_code, 0);
    }
    assert!(start.elapsed() < Duration::from_secs(30), "others waited {:?}", start.elapsed());
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
            client.send(9, &crate::support::produce_request(&topic, -1, vec![(0, crate::support::batch(&["x"; 50]))]));
        }
    }
    let waiting =
        millpond_wire::fetch::FetchRequest { max_wait_ms: 60_000, ..crate::support::fetch_request("topic-0", 99) };
    admin.send(12, &waiting);
    let took = served.stop();
    assert!(took < Duration::from_secs(2), "{took:?}");
}
