//! Calls and messages.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use millpond_record::BrokerId;
use millpond_runtime::sim::Crash;

use super::network::{address, addresses, cluster, node, sees, simulated, start};
use crate::peers::{CallError, MAX_CALL_BYTES};

const LIMIT: Duration = Duration::from_secs(5);

#[test]
fn a_call_is_answered_refused_or_out_of_time() {
    simulated(1, |world| async move {
        let nodes = cluster(&world, &[1, 2]).await;
        let peers = &nodes[0].peers;
        let answer = peers.call(BrokerId(2), 1, "something".into(), LIMIT).await.expect("answered");
        assert_eq!(answer, "1 asked something");
        let own = peers.call(BrokerId(1), 1, "itself".into(), LIMIT).await.expect("answered");
        assert_eq!(own, "1 asked itself");
        let refused = peers.call(BrokerId(2), 2, Bytes::new(), LIMIT).await.expect_err("refused");
        assert_eq!(refused.to_string(), "this broker does not feel like it");
        let before = nodes[0].runtime.now();
        let late = peers.call(BrokerId(2), 3, Bytes::new(), Duration::from_millis(700)).await;
        assert!(matches!(late, Err(CallError::NoAnswer(BrokerId(2)))), "{late:?}");
        assert_eq!((nodes[0].runtime.now() - before).as_millis(), 700);
        let nobody = peers.call(BrokerId(9), 1, Bytes::new(), LIMIT).await;
        assert!(matches!(nobody, Err(CallError::NoLink(BrokerId(9)))), "{nobody:?}");
    });
}

#[test]
fn a_call_that_the_peer_does_not_survive_has_no_answer() {
    simulated(2, |world| async move {
        let nodes = cluster(&world, &[1, 2]).await;
        let peers = nodes[0].peers.clone();
        let call = nodes[0].runtime.spawn(async move { peers.call(BrokerId(2), 3, "x".into(), LIMIT).await });
        nodes[0].runtime.sleep(Duration::from_millis(300)).await;
        world.crash(node(2), Crash::Kill);
        let before = nodes[0].runtime.now();
        let called = call.await.expect("the task");
        assert!(matches!(called, Err(CallError::NoAnswer(BrokerId(2)))), "{called:?}");
        assert!(nodes[0].runtime.now() - before < Duration::from_millis(100), "known at once");
        sees(&nodes[0], &[1]).await;
        let called = nodes[0].peers.call(BrokerId(2), 1, "x".into(), LIMIT).await;
        assert!(matches!(called, Err(CallError::NoLink(BrokerId(2)))), "{called:?}");
    });
}

#[test]
fn calls_and_answers_have_up_to_sixteen_mebibytes() {
    simulated(3, |world| async move {
        let nodes = cluster(&world, &[1, 2]).await;
        let peers = &nodes[0].peers;
        let limit = Duration::from_secs(1_000);
        let body = Bytes::from(vec![7; MAX_CALL_BYTES]);
        let answer = peers.call(BrokerId(2), 5, body.clone(), limit).await.expect("answered");
        assert!(answer == body);
        let longer = Bytes::from(vec![7; MAX_CALL_BYTES + 1]);
        let refused = peers.call(BrokerId(2), 5, longer, limit).await.expect_err("too long").to_string();
        assert_eq!(refused, "the call has 16777217 bytes, 16777216 can be sent");
        let asked = (MAX_CALL_BYTES + 1).to_string();
        let refused = peers.call(BrokerId(2), 4, asked.into(), limit).await.expect_err("too long").to_string();
        assert_eq!(refused, "the answer has 16777217 bytes, 16777216 can be sent");
        sees(&nodes[0], &[1, 2]).await;
        assert_eq!(nodes[0].peers.figures()[0].connects, 1, "bulk data costs no beat");
    });
}

#[test]
fn a_thousand_calls_at_once_are_all_answered_some_at_a_time() {
    simulated(4, |world| async move {
        let nodes = cluster(&world, &[1, 2]).await;
        let peers = &nodes[0].peers;
        let calls = (0..1000).map(|number: u32| async move {
            let body = Bytes::from(number.to_string());
            peers.call(BrokerId(2), 5, body.clone(), LIMIT).await.expect("answered") == body
        });
        assert!(join_all(calls).await.into_iter().all(|own_answer| own_answer));
        let most = nodes[1].ears.running.lock().expect("unpoisoned").1;
        assert!((32..=64).contains(&most), "{most} calls were carried out at a time");
    });
}

#[test]
fn calls_that_take_long_leave_the_others_their_places() {
    simulated(7, |world| async move {
        let nodes = cluster(&world, &[1, 2]).await;
        for _ in 0..1000 {
            let peers = nodes[0].peers.clone();
            nodes[0].runtime.spawn(async move { drop(peers.call(BrokerId(2), 6, Bytes::new(), LIMIT).await) });
        }
        // They are all on their way when this is.
        nodes[0].runtime.sleep(Duration::from_millis(100)).await;
        let before = nodes[0].runtime.now();
        nodes[0].peers.call(BrokerId(2), 1, "what".into(), LIMIT).await.expect("answered");
        assert!(nodes[0].runtime.now() - before < Duration::from_millis(500));
    });
}

#[test]
fn segments_have_a_connection_of_their_own_which_ends_when_nobody_uses_it() {
    simulated(8, |world| async move {
        let nodes = cluster(&world, &[1, 2]).await;
        let ask = async |body: &'static str| nodes[0].peers.ask_for_piece(BrokerId(2), body.into(), LIMIT).await;
        let incoming = || nodes[1].peers.0.incoming.load(Ordering::Relaxed);
        assert_eq!(incoming(), 1, "the one that beats");
        for body in ["first", "second"] {
            let refused = ask(body).await.expect_err("nothing is shipped in these tests").to_string();
            assert_eq!(refused, "nothing is shipped");
            assert_eq!(incoming(), 2);
        }
        nodes[0].runtime.sleep(Duration::from_secs(11)).await;
        assert_eq!(incoming(), 1, "it is closed");
        assert!(matches!(ask("again").await, Err(CallError::Refused(_))), "it is dialled again");
        assert_eq!((incoming(), nodes[0].peers.figures()[0].connects), (2, 1), "the other one stands all the time");
        world.crash(node(2), Crash::Kill);
        sees(&nodes[0], &[1]).await;
        assert!(matches!(ask("nobody").await, Err(CallError::NoLink(BrokerId(2)))));
        world.restart(node(2));
        let restarted = start(&world, 2, Some("cluster")).await;
        restarted.peers.set_brokers(addresses(&world, &[1, 2]));
        sees(&nodes[0], &[1, 2]).await;
        assert!(matches!(ask("somebody").await, Err(CallError::Refused(_))), "not over the one that has ended");
    });
}

#[test]
fn messages_arrive_in_order_and_are_dropped_without_a_connection() {
    simulated(5, |world| async move {
        let nodes = cluster(&world, &[1, 2]).await;
        let message = |number: u32| Bytes::from(number.to_string());
        for number in 0..500 {
            nodes[0].peers.tell(BrokerId(2), message(number));
        }
        nodes[0].peers.tell(BrokerId(9), "nobody".into());
        nodes[0].peers.tell(BrokerId(1), "itself".into());
        nodes[0].peers.call(BrokerId(2), 1, Bytes::new(), LIMIT).await.expect("answered after the messages");
        let wanted: Vec<_> = (0..500).map(|number| (BrokerId(1), message(number))).collect();
        assert_eq!(*nodes[1].ears.told.lock().expect("unpoisoned"), wanted);
        assert_eq!(*nodes[0].ears.told.lock().expect("unpoisoned"), [(BrokerId(1), "itself".into())]);
    });
}

#[test]
fn brokers_without_a_cluster_call_each_other_by_address() {
    simulated(6, |world| async move {
        let first = start(&world, 1, None).await;
        let _second = start(&world, 2, None).await;
        let _founded = start(&world, 3, Some("cluster")).await;
        for other in [2, 3] {
            let called = first.peers.call_address(&address(&world, other), 1, "to join".into(), LIMIT).await;
            let (broker, answer) = called.expect("answered");
            assert_eq!((broker, &answer[..]), (BrokerId(other), &b"1 asked to join"[..]));
        }
        let refused = first.peers.call_address(&address(&world, 2), 2, Bytes::new(), LIMIT).await;
        assert!(matches!(&refused, Err(CallError::Refused(why)) if why.contains("feel like it")), "{refused:?}");
        let late = first.peers.call_address(&address(&world, 2), 3, Bytes::new(), LIMIT).await;
        assert!(matches!(late, Err(CallError::NoAnswer(BrokerId(2)))), "{late:?}");
        let nobody = first.peers.call_address(&address(&world, 8), 1, Bytes::new(), LIMIT).await;
        assert!(matches!(nobody, Err(CallError::NoPeer { .. })), "{nobody:?}");
        let named = "no-such-host:9090".parse().expect("an address");
        let nobody = first.peers.call_address(&named, 1, Bytes::new(), LIMIT).await;
        assert!(matches!(&nobody, Err(CallError::NoPeer { why, .. }) if why.contains("no-such-host")), "{nobody:?}");
    });
}
