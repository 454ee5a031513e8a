//! Who is connected, who lives, who is refused.

use std::time::Duration;

use millpond_record::BrokerId;
use millpond_runtime::sim::Crash;
use millpond_storage::DirectoryId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::network::{Node, address, addresses, cluster, node, sees, simulated, standing, start, start_as};
use crate::peers::{CallError, Standing};

fn figures(node: &Node) -> crate::PeerFigures {
    node.peers.figures().remove(0)
}

#[test]
fn brokers_find_each_other_alive_and_measure_their_beats() {
    simulated(1, |world| async move {
        let nodes = cluster(&world, &[1, 2, 3]).await;
        nodes[0].runtime.sleep(Duration::from_secs(5)).await;
        for node in &nodes {
            let figures = node.peers.figures();
            assert_eq!(figures.len(), 2);
            for peer in figures {
                assert!(peer.alive && peer.connects == 1 && peer.bytes_in_flight == 0, "{peer:?}");
                assert!((40..=60).contains(&peer.frames_sent), "a beat every 100 ms: {peer:?}");
                assert!(peer.beat_us <= 200_000, "{peer:?}");
            }
        }
    });
}

#[test]
fn a_peer_that_says_nothing_is_dead_after_half_a_second_and_alive_when_it_talks_again() {
    simulated(2, |world| async move {
        let nodes = cluster(&world, &[1, 2, 3]).await;
        for (from, to) in [(2, 1), (1, 2)] {
            // One direction is enough: no beat is answered.
            world.block(node(from), node(to));
            let before = nodes[0].runtime.now();
            sees(&nodes[0], &[1, 3]).await;
            let took = nodes[0].runtime.now() - before;
            assert!((400..=650).contains(&took.as_millis()), "{took:?}");
            assert!(nodes[0].peers.is_alive(BrokerId(3)), "the others are not touched");
            world.unblock(node(from), node(to));
            sees(&nodes[0], &[1, 2, 3]).await;
            sees(&nodes[1], &[1, 2, 3]).await;
        }
    });
}

#[test]
fn a_killed_peer_is_dead_at_once_and_is_connected_to_when_it_is_back() {
    simulated(3, |world| async move {
        let nodes = cluster(&world, &[1, 2]).await;
        for round in 1..=3 {
            let before = nodes[0].runtime.now();
            world.crash(node(2), Crash::Kill);
            sees(&nodes[0], &[1]).await;
            let took = nodes[0].runtime.now() - before;
            assert!(took < Duration::from_millis(100), "a reset is seen at once: {took:?}");
            world.restart(node(2));
            let back = start(&world, 2, Some("cluster")).await;
            back.peers.set_brokers(addresses(&world, &[1, 2]));
            sees(&nodes[0], &[1, 2]).await;
            sees(&back, &[1, 2]).await;
            assert_eq!(figures(&nodes[0]).connects, round + 1);
        }
    });
}

#[test]
fn a_peer_is_known_by_the_data_directory_that_it_came_with_last_and_remembered_for_a_while() {
    simulated(5, |world| async move {
        let nodes = cluster(&world, &[1, 2]).await;
        let (peers, two) = (&nodes[0].peers, BrokerId(2));
        let of = |number: u8| DirectoryId([number; 16]);
        let lately = || peers.alive_within(Duration::from_secs(9));
        let remembered = || lately().contains(&two);
        assert!(peers.runs_on(two, of(2)) && !peers.runs_on(two, of(3)) && remembered());
        assert!(peers.runs_on(BrokerId(1), of(1)) && lately().len() == 2);

        world.crash(node(2), Crash::Kill);
        sees(&nodes[0], &[1]).await;
        assert!(!peers.runs_on(two, of(2)) && remembered());
        nodes[0].runtime.sleep(Duration::from_secs(9)).await;
        assert!(!remembered());

        world.restart(node(2));
        let back = start_as(&world, 2, Standing { directory_id: of(9), ..standing(2, Some("cluster")) }).await;
        back.peers.set_brokers(addresses(&world, &[1, 2]));
        sees(&nodes[0], &[1, 2]).await;
        assert!(peers.runs_on(two, of(9)) && !peers.runs_on(two, of(2)) && remembered());
    });
}

#[test]
fn a_broker_that_leaves_the_list_is_forgotten_and_one_that_moves_is_followed() {
    simulated(4, |world| async move {
        let nodes = cluster(&world, &[1, 2, 3]).await;
        nodes[0].peers.set_brokers(addresses(&world, &[1, 3]));
        sees(&nodes[0], &[1, 3]).await;
        // Broker 2 now runs where nobody did.
        world.crash(node(2), Crash::Kill);
        let _moved = start_as(&world, 4, standing(2, Some("cluster"))).await;
        let mut brokers = addresses(&world, &[1, 3]);
        brokers.insert(BrokerId(2), address(&world, 4));
        nodes[0].peers.set_brokers(brokers);
        sees(&nodes[0], &[1, 2, 3]).await;
    });
}

#[test]
fn brokers_of_other_clusters_wrong_ids_and_the_broker_itself_are_refused_with_a_sentence() {
    simulated(5, |world| async move {
        let mine = start(&world, 1, Some("mine")).await;
        let _foreign = start(&world, 2, Some("foreign")).await;
        let _twin = start_as(&world, 3, crate::Standing { broker: BrokerId(1), ..standing(3, None) }).await;
        let table = [
            (2, "broker 2 belongs to cluster foreign, broker 1 to cluster mine"),
            (3, "there are two brokers with the id 1"),
            (1, "broker 1 was connected to itself"),
        ];
        for (at, why) in table {
            let called = mine.peers.call_address(&address(&world, at), 1, "x".into(), Duration::from_secs(5)).await;
            assert!(matches!(&called, Err(CallError::Refused(said)) if said == why), "{at}: {called:?}");
        }
        // Broker 5 is looked for where broker 2 is.
        let mut brokers = addresses(&world, &[1, 2]);
        brokers.insert(BrokerId(5), address(&world, 2));
        mine.peers.set_brokers(brokers);
        mine.runtime.sleep(Duration::from_secs(10)).await;
        sees(&mine, &[1]).await;
    });
}

#[test]
fn a_connection_to_another_cluster_ends_when_its_broker_joins_one() {
    simulated(6, |world| async move {
        let new = start(&world, 1, None).await;
        let _other = start(&world, 2, Some("theirs")).await;
        new.peers.set_brokers(addresses(&world, &[1, 2]));
        sees(&new, &[1, 2]).await;
        new.peers.set_cluster("theirs");
        new.runtime.sleep(Duration::from_secs(2)).await;
        sees(&new, &[1, 2]).await;
        assert_eq!(figures(&new).connects, 1, "the right cluster changes nothing");
        new.peers.set_cluster("ours");
        sees(&new, &[1]).await;
        new.runtime.sleep(Duration::from_secs(5)).await;
        sees(&new, &[1]).await;
    });
}

#[test]
fn bytes_that_are_no_frames_close_their_connection_and_cost_the_others_nothing() {
    simulated(7, |world| async move {
        let nodes = cluster(&world, &[1, 2]).await;
        let stranger = world.runtime_for(node(7));
        let mut random = world.rng("bytes");
        for round in 0..60 {
            let at = world.address(node(1), 9_090);
            let mut stream = stranger.connect(at).await.expect("it listens");
            let length = random.index(3_000);
            let mut bytes: Vec<u8> = (0..length).map(|_| random.index(256) as u8).collect();
            if round % 3 > 0 {
                bytes.splice(..0, *b"MILLPEER");
            }
            if round % 3 == 2 {
                // A length that is allowed, and a frame that never ends.
                bytes.splice(8..8, [0, 0, 15, 0]);
            }
            // It may be closed before all is written.
            let _ = stream.write_all(&bytes).await;
            let mut answer = Vec::new();
            let ended = stranger.timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await;
            ended.expect("the broker ends the connection").ok();
            assert!(answer.is_empty(), "{answer:?}");
        }
        assert_eq!(figures(&nodes[1]).connects, 1);
        sees(&nodes[1], &[1, 2]).await;
        assert_eq!(nodes[0].peers.0.incoming.load(std::sync::atomic::Ordering::Relaxed), 1);
    });
}

#[test]
fn a_closed_broker_has_no_connections_and_makes_none() {
    simulated(8, |world| async move {
        let nodes = cluster(&world, &[1, 2]).await;
        nodes[0].peers.close();
        sees(&nodes[0], &[1]).await;
        sees(&nodes[1], &[2]).await;
        nodes[1].runtime.sleep(Duration::from_secs(5)).await;
        sees(&nodes[0], &[1]).await;
        sees(&nodes[1], &[2]).await;
    });
}
