//! A partition whose segments cannot be written for now, and what holds on memory meanwhile.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use millpond_record::Offset;
use millpond_runtime::sim::DiskFaults;
use millpond_storage::Hold;

use super::world::{Machine, NODE, batches, open, proposal, relaxed, sequenced, spec, with_crashes};
use crate::{Acks, ProposeError};

#[test]
fn a_relaxed_partition_on_a_full_disk_refuses_batches_and_commits_what_it_had_when_there_is_room() {
    for seed in 0..5 {
        with_crashes(seed, |machine: Machine| async move {
            let world = machine.world.clone();
            machine
                .live(move |runtime| async move {
                    let data_dir = open(&runtime, Path::new("/data")).await;
                    let groups = super::world::start(&runtime, data_dir.clone());
                    let partition = super::world::create(&groups, relaxed(1)).await.expect("a new partition");
                    partition.propose(proposal("before"), Acks::All, None).await.expect("written");
                    world.set_disk_faults(NODE, DiskFaults { capacity_bytes: 0, ..DiskFaults::default() });
                    let hold: Hold = Arc::new(());
                    let caught = partition.propose(sequenced(0), Acks::All, Some(hold.clone()));
                    let caught = caught.await.expect_err("it cannot be written");
                    assert!(matches!(caught, ProposeError::Stalled(_)), "{caught}");
                    assert_eq!(Arc::strong_count(&hold), 1, "nothing pins the memory of a request that is answered");
                    for acks in [Acks::All, Acks::Leader] {
                        let refused = partition.propose(proposal("refused"), acks, None).await.expect_err("full");
                        assert!(matches!(refused, ProposeError::Stalled(_)), "{refused}");
                    }
                    assert!(partition.watch().borrow().serving, "it is read all the same");

                    world.set_disk_faults(NODE, DiskFaults::default());
                    let mut state = partition.watch();
                    let mut tries = 0;
                    while state.borrow_and_update().frontiers.high_watermark < Offset(2) {
                        let retrying = data_dir.clone();
                        runtime.blocking(move || retrying.retry_writes()).await;
                        runtime.sleep(Duration::from_secs(1)).await;
                        tries += 1;
                        assert!(tries < 30, "what was in the log is committed when it is written");
                    }
                    let again = partition.propose(sequenced(0), Acks::All, None).await.expect("it is there");
                    assert_eq!((again.base_offset, again.duplicate), (Offset(1), true));
                    let after = partition.propose(proposal("after"), Acks::All, None).await.expect("written");
                    assert_eq!(after.base_offset, Offset(2));
                    let log = partition.log().await.expect("open");
                    let values: Vec<String> = batches(&runtime, &log).await.into_iter().map(|(.., v)| v).collect();
                    assert_eq!(values, ["before", "once", "after"]);
                })
                .await;
        });
    }
}

#[test]
fn a_hold_is_kept_until_the_flush_whatever_the_acks() {
    with_crashes(1, |machine: Machine| async move {
        machine
            .live(|runtime| async move {
                let groups = super::world::start(&runtime, open(&runtime, Path::new("/data")).await);
                let partition = super::world::create(&groups, spec(1)).await.expect("a new partition");
                partition.propose(proposal("awake"), Acks::All, None).await.expect("written");
                for acks in [Acks::None, Acks::Leader, Acks::All] {
                    let hold: Hold = Arc::new(());
                    let receipt = partition.propose(proposal("held"), acks, Some(hold.clone()));
                    let mut receipt = std::pin::pin!(receipt);
                    assert_eq!((&mut receipt).now_or_never().is_some(), acks != Acks::All);
                    assert_eq!(Arc::strong_count(&hold), 2, "{acks:?}: the batch is not durable yet");
                    let mut state = partition.watch();
                    let last = partition.log().await.expect("open").frontiers().log_end;
                    let flushed = state.wait_for(|state| state.frontiers.high_watermark >= last);
                    flushed.await.expect("it is flushed");
                    runtime.sleep(Duration::from_millis(10)).await;
                    assert_eq!(Arc::strong_count(&hold), 1, "{acks:?}");
                }
            })
            .await;
    });
}
