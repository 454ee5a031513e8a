//! The same over TCP.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use millpond_record::BrokerId;
use millpond_runtime::{HostPort, RealDisk, Runtime};

use super::network::{sees, standing, start_on};
use crate::peers::MAX_CALL_BYTES;

#[test]
fn brokers_find_each_other_by_name_and_call_each_other() {
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("tokio");
    tokio.block_on(async {
        let runtime = Runtime::real(RealDisk::shared());
        let anywhere = "127.0.0.1:0".parse().expect("an address");
        let (first, first_at) = start_on(runtime.clone(), anywhere, standing(1, Some("cluster"))).await;
        let (second, second_at) = start_on(runtime.clone(), anywhere, standing(2, Some("cluster"))).await;
        let named = |port| HostPort { host: "localhost".to_owned(), port };
        let brokers = BTreeMap::from([(BrokerId(1), named(first_at.port())), (BrokerId(2), named(second_at.port()))]);
        first.peers.set_brokers(brokers.clone());
        second.peers.set_brokers(brokers);
        let work = async {
            sees(&first, &[1, 2]).await;
            sees(&second, &[1, 2]).await;
            let body = Bytes::from((0..MAX_CALL_BYTES).map(|at| at as u8).collect::<Vec<u8>>());
            let limit = Duration::from_secs(60);
            let answer = first.peers.call(BrokerId(2), 5, body.clone(), limit).await.expect("answered");
            assert!(answer == body);
            let (other, answer) =
                second.peers.call_address(&named(first_at.port()), 1, "by name".into(), limit).await.expect("answered");
            assert_eq!((other, &answer[..]), (BrokerId(1), &b"2 asked by name"[..]));
            second.peers.close();
            sees(&first, &[1]).await;
        };
        runtime.timeout(Duration::from_secs(60), work).await.expect("in time");
        first.peers.close();
    });
}
