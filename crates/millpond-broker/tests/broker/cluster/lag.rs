//! How far a group is behind, as its coordinator tells it over HTTP: with what the leaders of the partitions know.

use super::groups::{commit_of, coordinator};
use super::{Cluster, create, others};
use crate::support::until;
use millpond_wire::ErrorCode;
use serde_json::{Value, json};

const TOPICS: [&str; 4] = ["t", "u", "v", "w"];
const ALL: [i32; 3] = [1, 2, 3];

fn page(cluster: &Cluster, node: i32, path: &str) -> (u16, Value) {
    let (status, body) = cluster.node(node).page(path);
    (status, serde_json::from_str(&body).unwrap_or(Value::Null))
}

#[test]
fn the_lag_of_a_group_is_told_by_its_coordinator_whoever_leads_the_partitions() {
    let cluster = Cluster::start();
    let mut leaders = Vec::new();
    for topic in TOPICS {
        create(&mut cluster.client(1), topic, &[]);
        for value in ["a", "b", "c"] {
            cluster.write(topic, &ALL, value);
        }
        leaders.push(cluster.leader(topic, &ALL));
    }
    assert_eq!(page(&cluster, 1, "/groups/g").0, 404, "no group was ever looked for");
    let here = coordinator(&mut cluster.client(1), &ALL);
    assert!(leaders.iter().any(|leader| *leader != here), "some are led elsewhere");
    let mut client = cluster.client(here);
    for (topic, offset) in TOPICS.iter().zip([0, 1, 3, 9]) {
        until("the commit is taken", || commit_of(&mut client, topic, offset) == ErrorCode::NONE);
    }

    let mut group = Value::Null;
    until("all leaders have answered", || {
        group = page(&cluster, here, "/groups/g").1;
        group["lag_records"].is_u64()
    });
    assert_eq!((&group["state"], &group["members"], &group["lag_records"]), (&json!("Empty"), &json!(0), &json!(5)));
    for (at, (lag, unread)) in [(3, true), (2, true), (0, false), (0, false)].into_iter().enumerate() {
        let one = &group["lags"][at];
        assert_eq!((&one["topic"], &one["end"], &one["lag_records"]), (&json!(TOPICS[at]), &json!(3), &json!(lag)));
        // The records say that they are of 2023.
        let seconds = one["lag_seconds"].as_f64().expect("known");
        assert_eq!(seconds > 1e6, unread, "{one}");
        assert_eq!((seconds == 0.0, &one["owner"]), (!unread, &Value::Null), "{one}");
    }
    let listed = page(&cluster, here, "/groups").1;
    assert_eq!((&listed["groups"][0]["group"], &listed["groups"][0]["lag_records"]), (&json!("g"), &json!(5)));

    for node in others(here) {
        let (status, pointer) = page(&cluster, node, "/groups/g");
        assert_eq!((status, &pointer["coordinator"]["id"]), (421, &json!(here)), "{pointer}");
        assert_eq!(page(&cluster, node, "/groups").1["groups"], json!([]));
        assert!(!cluster.node(node).page("/metrics").1.contains("group=\"g\""));
    }
    until("another group is not found here", || page(&cluster, here, "/groups/g%20g").0 / 100 == 4);
    let line = "millpond_group_lag_records{group=\"g\",topic=\"t\",partition=\"0\"} 3";
    until("the lag is scraped", || cluster.node(here).page("/metrics").1.contains(line));
}
