//! Reading from followers (KIP-392).

use super::{Cluster, create, others};
use crate::support::{Client, assert_code, fetch_request, until, values};
use millpond_wire::ErrorCode;
use millpond_wire::fetch::{FetchRequest, PartitionData};

fn fetch(client: &mut Client, rack: &str, offset: i64, max_wait_ms: i32) -> PartitionData {
    let request = FetchRequest { max_wait_ms, rack_id: rack.into(), ..fetch_request("t", offset) };
    client.call(12, &request).responses.remove(0).partitions.remove(0)
}

#[test]
fn a_reader_is_sent_to_the_follower_in_its_rack_and_reads_there() {
    let cluster = Cluster::start();
    create(&mut cluster.client(1), "t", &[]);
    cluster.write("t", &[1, 2, 3], "a");
    let leader = cluster.write("t", &[1, 2, 3], "b");
    let follower = others(leader)[0];
    let mut at_leader = cluster.client(leader);
    let own = fetch(&mut at_leader, &format!("r{leader}"), 0, 100);
    assert_eq!((own.preferred_read_replica, values(&own)), (-1, vec!["a".to_owned(), "b".to_owned()]));
    let unknown = fetch(&mut at_leader, "far away", 0, 100);
    assert_eq!((unknown.preferred_read_replica, values(&unknown).len()), (-1, 2));

    let rack = format!("r{follower}");
    let mut sent = None;
    until("the follower is known to have what is there", || {
        sent = Some(fetch(&mut at_leader, &rack, 0, 100)).filter(|data| data.preferred_read_replica == follower);
        sent.is_some()
    });
    assert!(values(&sent.expect("it was waited for")).is_empty(), "it is to read there");

    let mut at_follower = cluster.client(follower);
    let mut read = Vec::new();
    until("the follower knows what is committed", || {
        let data = fetch(&mut at_follower, &rack, 0, 1000);
        assert_code(data.error_code, ErrorCode::NONE);
        read = values(&data);
        read.len() == 2
    });
    assert_eq!(read, ["a", "b"]);
    // What is not there (yet) is waited for, and no reason to begin anew.
    let beyond = fetch(&mut at_follower, &rack, 50, 100);
    assert_eq!((beyond.error_code, values(&beyond).len()), (0, 0));
    let below = fetch(&mut at_follower, "", 0, 100);
    assert_code(below.error_code, ErrorCode::NOT_LEADER_OR_FOLLOWER);

    let request = FetchRequest { max_wait_ms: 30_000, rack_id: rack.as_str().into(), ..fetch_request("t", 2) };
    let waiting = at_follower.send(12, &request);
    cluster.write("t", &[1, 2, 3], "c");
    let data = at_follower.receive::<FetchRequest>(12, waiting).responses.remove(0).partitions.remove(0);
    assert_eq!(values(&data), ["c"]);
}
