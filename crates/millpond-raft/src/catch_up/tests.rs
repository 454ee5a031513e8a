//! One log filled from another's pieces, with an `ask` that the test can break.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use millpond_record::{BrokerId, LogId, RaftIndex, ReplicaId, Term};
use millpond_runtime::Runtime;
use millpond_runtime::sim::{self, DiskFaults, NodeId, World};
use millpond_storage::{AppendEntry, Body, DataDir, Log, LogOptions, StorageError, Vote};

use tokio_util::sync::CancellationToken;

use super::messages::{Done, Request, Wish};
use super::{CatchUpError, PIECE_BYTES, Receiver, Shipments, install};
use crate::membership;
use crate::peers::CallError;
use crate::tests::world::{open, proposal, spec};
use crate::types::Member;

const FOLLOWER: BrokerId = BrokerId(2);

struct Side {
    runtime: Runtime,
    data_dir: DataDir,
    log: Arc<Log>,
}

async fn side(world: &World, node: u16) -> Side {
    let runtime = world.runtime_for(NodeId(node));
    let data_dir = open(&runtime, Path::new("/data")).await;
    let mut spec = spec(1);
    spec.options = LogOptions { segment_bytes: 4 << 20, ..LogOptions::default() };
    let log = data_dir.create_group(spec, Box::new(|_| {})).expect("a group");
    log.save_vote(Vote { term: Term(1), replica: ReplicaId(1), committed: true }, Box::new(|_| {}));
    Side { runtime, data_dir, log }
}

fn entry(log: &Log, number: u8) -> AppendEntry {
    let value = String::from_utf8(vec![b'a' + number % 26; 700_000]).expect("letters");
    AppendEntry { index: log.next_index(), term: Term(1), body: Body::Proposed(proposal(&value)) }
}

fn members() -> Bytes {
    membership::voters([(ReplicaId(1), Member::default()), (ReplicaId(2), Member::default())].into_iter())
}

/// A log of about 20 MB with P behind most of it.
async fn leader(world: &World) -> (Side, LogId) {
    leader_with(world, members()).await
}

async fn leader_with(world: &World, members: Bytes) -> (Side, LogId) {
    let side = side(world, 1).await;
    for number in 0..30 {
        side.log.append(vec![entry(&side.log, number)], Box::new(|_| {})).expect("appended");
    }
    side.log.commit(RaftIndex(u64::MAX));
    let boundary = side.log.boundary_at_or_below(RaftIndex(u64::MAX)).expect("a closed segment");
    let p = side.log.advance_p(boundary, members, Box::new(|_| {})).expect("P");
    (side, p.log_id())
}

/// Answers as the other broker would; fails from the `fails_at`th call on.
fn asking(
    shipments: &Shipments,
    calls: &Arc<AtomicU64>,
    fails_at: u64,
) -> impl Fn(Bytes) -> futures::future::BoxFuture<'static, Result<Bytes, CallError>> + use<> {
    let (shipments, calls) = (shipments.clone(), Arc::clone(calls));
    move |body| {
        let (shipments, number) = (shipments.clone(), calls.fetch_add(1, Ordering::Relaxed));
        Box::pin(async move {
            if number >= fails_at {
                return Err(CallError::NoAnswer(BrokerId(1)));
            }
            shipments.answer(FOLLOWER, body).await.map_err(CallError::Refused)
        })
    }
}

fn run<F: Future<Output = ()> + Send + 'static>(seed: u64, test: impl FnOnce(World) -> F) {
    sim::block_on(seed, async {
        let world = World::new(seed);
        let test = test(world.clone());
        test.await;
    });
}

#[test]
fn a_log_is_filled_by_pieces_also_when_the_way_breaks_in_between() {
    run(1, |world| async move {
        let (leader, p) = leader(&world).await;
        let follower = side(&world, 2).await;
        let shipments = Shipments::new(leader.runtime.clone(), leader.data_dir.clone());
        let receiver = Receiver::new(follower.runtime.clone());
        let calls = Arc::new(AtomicU64::new(0));
        let broken = receiver.gather(follower.log.clone(), p, asking(&shipments, &calls, 11)).await;
        assert!(matches!(broken, Err(CatchUpError::Call(CallError::NoAnswer(_)))), "{broken:?}");
        assert!(follower.log.frontiers().last.is_none() && !follower.log.is_filling());

        let calls = Arc::new(AtomicU64::new(0));
        let gathered = receiver.gather(follower.log.clone(), p, asking(&shipments, &calls, u64::MAX)).await;
        let gathered = gathered.expect("gathered");
        let whole = |bytes: u64| bytes.div_ceil(PIECE_BYTES as u64);
        let segments = gathered.manifest().segments.iter();
        let all: u64 = segments.map(|segment| whole(segment.log_bytes.into()) + whole(segment.index_bytes)).sum();
        // Two for the manifest, and one at the end.
        let asked = calls.load(Ordering::Relaxed) - 3;
        assert!(asked + 4 < all, "what had come was asked for again: {asked} of {all} pieces");
        assert!(follower.log.is_filling());
        install(&follower.runtime, gathered, &CancellationToken::new()).await.expect("installed");
        assert!(!follower.log.is_filling());
        assert_eq!(follower.log.frontiers().last, Some(p));
        assert_eq!(follower.log.membership_at_p(), members());
        follower.log.append(vec![entry(&follower.log, 7)], Box::new(|_| {})).expect("it goes on behind P");
        assert_eq!(shipments.len(), 0, "the leader was told that it is done");
    });
}

#[test]
fn what_is_filled_keeps_to_the_limit() {
    run(2, |world| async move {
        let (leader, p) = leader(&world).await;
        let follower = side(&world, 2).await;
        let shipments = Shipments::new(leader.runtime.clone(), leader.data_dir.clone());
        let receiver = Receiver::new(follower.runtime.clone());
        receiver.set_limit(1 << 20);
        let (begin, calls) = (follower.runtime.now(), Arc::new(AtomicU64::new(0)));
        let gathered = receiver.gather(follower.log.clone(), p, asking(&shipments, &calls, u64::MAX)).await;
        let bytes = gathered.expect("gathered").manifest().bytes();
        let took = follower.runtime.now() - begin;
        // The last piece is let through when those before it are.
        let least = Duration::from_millis(((bytes - PIECE_BYTES as u64) * 1000) >> 20);
        assert!(took >= least && took < least * 3 / 2, "{bytes} bytes in {took:?}");
    });
}

#[test]
fn a_manifest_that_nobody_asks_for_is_let_go_and_another_p_is_refused() {
    run(3, |world| async move {
        let (leader, p) = leader(&world).await;
        let follower = side(&world, 2).await;
        let shipments = Shipments::new(leader.runtime.clone(), leader.data_dir.clone());
        let receiver = Receiver::new(follower.runtime.clone());
        let other = LogId { index: RaftIndex(p.index.0 - 1), ..p };
        let calls = Arc::new(AtomicU64::new(0));
        let refused = receiver.gather(follower.log.clone(), other, asking(&shipments, &calls, u64::MAX)).await;
        assert!(matches!(refused, Err(CatchUpError::Call(CallError::Refused(_)))), "{refused:?}");
        let broken = receiver.gather(follower.log.clone(), p, asking(&shipments, &calls, 5)).await;
        assert!(broken.is_err());
        assert_eq!(shipments.len(), 1);
        leader.runtime.sleep(Duration::from_secs(120)).await;
        assert_eq!(shipments.len(), 0);
        assert!(shipments.answer(FOLLOWER, Bytes::from_static(b"?")).await.is_err());
    });
}

#[test]
fn files_stay_in_use_while_what_is_filled_waits_longer_than_they_would_be_kept() {
    run(4, |world| async move {
        let (leader, p) = leader(&world).await;
        let follower = side(&world, 2).await;
        let shipments = Shipments::new(leader.runtime.clone(), leader.data_dir.clone());
        let receiver = Receiver::new(follower.runtime.clone());
        // A piece in 100 seconds.
        receiver.set_limit(PIECE_BYTES as u64 / 100);
        let calls = Arc::new(AtomicU64::new(0));
        let gathered = receiver.gather(follower.log.clone(), p, asking(&shipments, &calls, u64::MAX)).await;
        assert!(gathered.expect("gathered").is_complete());
    });
}

#[test]
fn the_end_of_one_shipment_does_not_end_the_next_one() {
    run(5, |world| async move {
        let (leader, p) = leader(&world).await;
        let follower = side(&world, 2).await;
        let shipments = Shipments::new(leader.runtime.clone(), leader.data_dir.clone());
        let receiver = Receiver::new(follower.runtime.clone());
        let calls = Arc::new(AtomicU64::new(0));
        let broken = receiver.gather(follower.log.clone(), p, asking(&shipments, &calls, 5)).await;
        assert!(broken.is_err() && shipments.len() == 1);
        let earlier = LogId { index: RaftIndex(p.index.0 - 1), ..p };
        for (p, left) in [(earlier, 1), (p, 0)] {
            let done = Request { group: follower.log.group(), p, wish: Wish::Done(Done { damaged: None }) };
            shipments.answer(FOLLOWER, done.encode()).await.expect("answered");
            assert_eq!(shipments.len(), left);
        }
        let broken = receiver.gather(follower.log.clone(), p, asking(&shipments, &calls, 0)).await;
        assert!(broken.is_err());
        shipments.forget(leader.log.group());
        assert_eq!(shipments.len(), 0);
    });
}

#[test]
fn a_manifest_whose_membership_cannot_be_read_or_has_no_voter_is_not_believed() {
    for members in [Bytes::from_static(b"members"), Bytes::new()] {
        run(6, |world| async move {
            let (leader, p) = leader_with(&world, members).await;
            let follower = side(&world, 2).await;
            let shipments = Shipments::new(leader.runtime.clone(), leader.data_dir.clone());
            let receiver = Receiver::new(follower.runtime.clone());
            let calls = Arc::new(AtomicU64::new(0));
            let refused = receiver.gather(follower.log.clone(), p, asking(&shipments, &calls, u64::MAX)).await;
            assert!(matches!(refused, Err(CatchUpError::Answer(_))), "{refused:?}");
        });
    }
}

#[test]
fn a_full_disk_makes_the_filling_and_the_switch_wait_and_ends_neither() {
    run(7, |world| async move {
        let (leader, p) = leader(&world).await;
        let follower = side(&world, 2).await;
        let shipments = Shipments::new(leader.runtime.clone(), leader.data_dir.clone());
        let receiver = Receiver::new(follower.runtime.clone());
        let full = DiskFaults { capacity_bytes: 0, full_in: ".part", ..DiskFaults::default() };
        let waits = async |ms: u64| {
            world.set_disk_faults(NodeId(2), full);
            follower.runtime.sleep(Duration::from_millis(ms)).await;
            world.set_disk_faults(NodeId(2), DiskFaults::default());
        };
        let calls = Arc::new(AtomicU64::new(0));
        let gathering = receiver.gather(follower.log.clone(), p, asking(&shipments, &calls, u64::MAX));
        let (gathered, ()) = futures::future::join(gathering, waits(30_000)).await;
        let asked = calls.load(Ordering::Relaxed);
        assert!(asked < 40, "nothing is asked for twice: {asked}");
        let (gathered, ending) = (gathered.expect("gathered"), CancellationToken::new());
        let begin = follower.runtime.now();
        let switching = install(&follower.runtime, gathered, &ending);
        let (switched, ()) = futures::future::join(switching, waits(30_000)).await;
        switched.expect("switched");
        assert!(follower.runtime.now() - begin >= Duration::from_secs(30));
        assert_eq!(follower.log.frontiers().last, Some(p));
    });
}

#[test]
fn a_replica_that_ends_does_not_wait_for_a_switch_that_cannot_be_made() {
    run(8, |world| async move {
        let (leader, p) = leader(&world).await;
        let follower = side(&world, 2).await;
        let shipments = Shipments::new(leader.runtime.clone(), leader.data_dir.clone());
        let receiver = Receiver::new(follower.runtime.clone());
        let calls = Arc::new(AtomicU64::new(0));
        let gathered = receiver.gather(follower.log.clone(), p, asking(&shipments, &calls, u64::MAX)).await;
        let (gathered, ending) = (gathered.expect("gathered"), CancellationToken::new());
        world.set_disk_faults(NodeId(2), DiskFaults { open_files: 0, ..DiskFaults::default() });
        let ends = async {
            follower.runtime.sleep(Duration::from_secs(40)).await;
            ending.cancel();
        };
        let (switched, ()) = futures::future::join(install(&follower.runtime, gathered, &ending), ends).await;
        assert!(switched.is_err());
        assert!(!follower.log.is_filling(), "nothing of it is left");
    });
}

#[test]
fn damage_in_the_files_that_a_replica_is_filled_from_is_told_of_on_their_broker() {
    run(9, |world| async move {
        let (leader, p) = leader(&world).await;
        let follower = side(&world, 2).await;
        let (manifest, _) = leader.log.manifest().expect("readable").expect("P");
        let segment = manifest.segments[1];
        let file = format!("{:020}.{:010}.log", segment.base_offset.0, segment.first_index.0);
        let folders = leader.runtime.disk().read_dir(Path::new("/data")).expect("listed");
        let paths = folders.into_iter().map(|folder| Path::new("/data").join(folder.name).join(&file));
        let flipped = paths.filter(|path| world.flip_bit(NodeId(1), path)).count();
        assert_eq!(flipped, 1);
        let shipments = Shipments::new(leader.runtime.clone(), leader.data_dir.clone());
        let receiver = Receiver::new(follower.runtime.clone());
        for expected in [1, 0] {
            let calls = Arc::new(AtomicU64::new(0));
            let refused = receiver.gather(follower.log.clone(), p, asking(&shipments, &calls, u64::MAX)).await;
            let refused = refused.expect_err("it cannot be proven");
            assert!(matches!(refused, CatchUpError::Storage(StorageError::NotInstallable { .. })), "{refused}");
            assert_eq!(shipments.len(), 0);
            let told = leader.data_dir.retry_writes().damaged;
            assert_eq!(told.len(), expected, "{told:?}");
            assert!(told.iter().all(|(group, what)| *group == leader.log.group() && what.contains(&file)), "{told:?}");
        }
        assert!(follower.data_dir.retry_writes().damaged.is_empty());
    });
}

#[test]
fn a_segment_whose_sync_fails_ends_the_filling_and_is_received_anew_by_the_next() {
    run(10, |world| async move {
        let (leader, p) = leader(&world).await;
        let follower = side(&world, 2).await;
        let shipments = Shipments::new(leader.runtime.clone(), leader.data_dir.clone());
        let receiver = Receiver::new(follower.runtime.clone());
        let faults = DiskFaults { sync_error: 1.0, sync_error_in: ".part", ..DiskFaults::default() };
        world.set_disk_faults(NodeId(2), faults);
        let calls = Arc::new(AtomicU64::new(0));
        let failed = receiver.gather(follower.log.clone(), p, asking(&shipments, &calls, u64::MAX)).await;
        let failed = failed.expect_err("nothing is synced");
        assert!(matches!(failed, CatchUpError::Storage(StorageError::Io { operation: "sync", .. })), "{failed}");
        world.set_disk_faults(NodeId(2), DiskFaults::default());
        let gathered = receiver.gather(follower.log.clone(), p, asking(&shipments, &calls, u64::MAX)).await;
        let (gathered, ending) = (gathered.expect("gathered"), CancellationToken::new());
        install(&follower.runtime, gathered, &ending).await.expect("installed");
        assert_eq!(follower.log.frontiers().last, Some(p));
    });
}
