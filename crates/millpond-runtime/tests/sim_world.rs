//! Nodes, drivers and the network of the simulated world.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use millpond_runtime::sim::{Crash, NodeId, World, block_on};
use millpond_runtime::{Driver, Round, Rounds, Runtime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);

/// Sends `total` numbered bytes from B to A in pieces of random size and gives what A got.
async fn transfer(world: &World, total: usize) -> Vec<u8> {
    let (a, b) = (world.runtime_for(A), world.runtime_for(B));
    let listener = a.listen(world.address(A, 9092)).await.unwrap();
    let received = a.spawn(async move {
        let (mut stream, peer) = listener.accept().await.unwrap();
        assert_eq!(peer, stream.peer_addr().unwrap());
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.unwrap();
        bytes
    });
    let address = world.address(A, 9092);
    let in_task = b.clone();
    let sent = b.spawn(async move {
        let (_read, mut write) = in_task.connect(address).await.unwrap().into_split();
        let bytes: Vec<u8> = (0..total).map(|i| (i % 251) as u8).collect();
        let mut left = &bytes[..];
        while !left.is_empty() {
            let (now, later) = left.split_at(1 + in_task.random_u64() as usize % left.len().min(5000));
            write.write_all(now).await.unwrap();
            left = later;
        }
        bytes
    });
    let (sent, received) = (sent.await.unwrap(), received.await.unwrap());
    assert!(sent == received, "in order and complete");
    received
}

#[test]
fn the_same_seed_gives_the_same_trace_and_another_seed_another() {
    let run = |seed| {
        block_on(seed, async {
            let world = World::new(seed);
            transfer(&world, 300_000).await;
            world.note(B, "done");
            (world.trace_hash(), world.elapsed_ms())
        })
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn streams_keep_their_order_through_delay_small_buffers_and_short_reads() {
    for seed in 0..20 {
        block_on(seed, async { transfer(&World::new(seed), 100_000).await });
    }
}

#[test]
fn nobody_listening_means_connection_refused() {
    block_on(1, async {
        let world = World::new(1);
        let b = world.runtime_for(B);
        let refused = |result: std::io::Result<_>| result.err().map(|error| error.kind());
        let expected = Some(std::io::ErrorKind::ConnectionRefused);
        assert_eq!(refused(b.connect(world.address(A, 1)).await.map(|_| ())), expected);
        let listener = world.runtime_for(A).listen(world.address(A, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        b.connect(address).await.unwrap();
        drop(listener);
        assert_eq!(refused(b.connect(address).await.map(|_| ())), expected);
    });
}

#[test]
fn a_crash_resets_the_peers_and_frees_the_address() {
    for kind in [Crash::Kill, Crash::PowerCut] {
        block_on(1, async {
            let world = World::new(1);
            let listener = world.runtime_for(A).listen(world.address(A, 9092)).await.unwrap();
            let mut stream = world.runtime_for(B).connect(world.address(A, 9092)).await.unwrap();
            let (mut accepted, _) = listener.accept().await.unwrap();
            world.crash(A, kind);
            let error = stream.read_u8().await.unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
            assert!(accepted.write_all(b"x").await.is_err(), "the dead side sends nothing");
            world.restart(A).listen(world.address(A, 9092)).await.unwrap();
        });
    }
}

#[test]
fn broken_connections_are_reset_on_both_sides_and_others_go_on() {
    block_on(1, async {
        let (world, c) = (World::new(1), NodeId(3));
        let listener = world.runtime_for(A).listen(world.address(A, 9092)).await.unwrap();
        let mut broken = world.runtime_for(B).connect(world.address(A, 9092)).await.unwrap();
        let (mut accepted, _) = listener.accept().await.unwrap();
        let mut whole = world.runtime_for(c).connect(world.address(A, 9092)).await.unwrap();
        world.break_connections(A, B, 50);
        whole.write_all(b"x").await.unwrap();
        for side in [&mut broken, &mut accepted] {
            assert_eq!(side.read_u8().await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
        }
        assert_eq!(listener.accept().await.unwrap().0.read_u8().await.unwrap(), b'x');
        world.runtime_for(B).connect(world.address(A, 9092)).await.unwrap();
    });
}

#[test]
fn a_new_disk_is_empty_and_the_node_that_had_the_old_one_is_dead() {
    block_on(1, async {
        let (world, path) = (World::new(1), std::path::Path::new("/data"));
        let old = world.runtime_for(A).disk();
        old.create_dir_all(path).unwrap();
        assert!(old.exists(path).unwrap());
        world.replace_disk(A);
        assert!(old.exists(path).is_err());
        assert!(!world.restart(A).disk().exists(path).unwrap());
    });
}

#[test]
fn a_blocked_direction_holds_bytes_back_and_delivers_them_when_it_is_unblocked() {
    block_on(1, async {
        let world = World::new(1);
        let (a, b) = (world.runtime_for(A), world.runtime_for(B));
        let listener = a.listen(world.address(A, 9092)).await.unwrap();
        let mut stream = b.connect(world.address(A, 9092)).await.unwrap();
        let (mut accepted, _) = listener.accept().await.unwrap();
        world.block(B, A);
        stream.write_all(b"hello").await.unwrap();
        accepted.write_all(b"other way").await.unwrap();
        let mut bytes = [0; 9];
        stream.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"other way", "only one direction is blocked");
        let mut bytes = [0; 5];
        assert!(a.timeout(Duration::from_secs(60), accepted.read_exact(&mut bytes)).await.is_err());
        assert!(b.timeout(Duration::from_secs(60), b.connect(world.address(A, 9092))).await.is_err());
        world.unblock(B, A);
        accepted.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"hello");
        b.connect(world.address(A, 9092)).await.unwrap();
    });
}

#[test]
fn a_paused_node_runs_nothing_until_it_is_resumed_and_then_what_had_become_due() {
    block_on(1, async {
        let world = World::new(1);
        let (a, b) = (world.runtime_for(A), world.runtime_for(B));
        let ticks = Arc::new(AtomicU64::new(0));
        let (counting, ticking) = (Arc::clone(&ticks), a.clone());
        a.spawn(async move {
            loop {
                ticking.sleep(Duration::from_secs(1)).await;
                counting.fetch_add(1, Ordering::Relaxed);
            }
        });
        b.sleep(Duration::from_millis(2_500)).await;
        assert_eq!(ticks.load(Ordering::Relaxed), 2);
        world.pause(A);
        b.sleep(Duration::from_secs(60)).await;
        assert_eq!(ticks.load(Ordering::Relaxed), 2, "it stands still");
        world.resume(A);
        b.sleep(Duration::from_millis(500)).await;
        assert_eq!(ticks.load(Ordering::Relaxed), 3, "one sleep had ended meanwhile");
        world.pause(A);
        world.crash(A, Crash::Kill);
        let next = world.restart(A);
        let runs = next.spawn(async {});
        assert!(b.timeout(Duration::from_secs(1), runs).await.is_ok(), "the next process is not paused");
    });
}

#[test]
fn a_crash_ends_the_tasks_of_its_node_and_of_no_other() {
    block_on(1, async {
        let world = World::new(1);
        let (a, b) = (world.runtime_for(A), world.runtime_for(B));
        let ticks = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
        for (index, runtime) in [a.clone(), b.clone()].into_iter().enumerate() {
            let ticks = Arc::clone(&ticks);
            let nested = runtime.clone();
            runtime.spawn(async move {
                let this = Runtime::current().expect("tasks know their runtime");
                this.clone().spawn(async move {
                    loop {
                        nested.sleep(Duration::from_millis(10)).await;
                        ticks[index].fetch_add(1, Ordering::Relaxed);
                    }
                });
            });
        }
        b.sleep(Duration::from_secs(1)).await;
        world.crash(A, Crash::Kill);
        world.wait_until_dead(A).await;
        let at_crash = ticks[0].load(Ordering::Relaxed);
        b.sleep(Duration::from_secs(1)).await;
        assert!(at_crash > 50);
        assert_eq!(ticks[0].load(Ordering::Relaxed), at_crash);
        assert!(ticks[1].load(Ordering::Relaxed) > 150);
        assert!(a.spawn(async {}).await.is_err(), "a dead node starts nothing");
        assert!(world.restart(A).spawn(async {}).await.is_ok());
    });
}

#[test]
fn a_panic_in_a_task_fails_the_run() {
    block_on(1, async {
        let world = World::new(1);
        let joined = world.runtime_for(A).spawn(async { panic!("for the test") }).await;
        assert!(joined.is_err());
        assert_eq!(world.failures(), ["n1: a task panicked: for the test"]);
    });
}

#[test]
fn clocks_start_at_the_epoch_and_can_be_skewed() {
    block_on(1, async {
        let world = World::new(1);
        let a = world.runtime_for(A);
        let start = a.wall_clock();
        a.sleep(Duration::from_secs(5)).await;
        assert_eq!(a.wall_clock(), start + 5000);
        world.set_clock_skew(A, -7000);
        assert_eq!(a.wall_clock(), start - 2000);
        assert_eq!(world.runtime_for(B).wall_clock(), start + 5000);
    });
}

/// A queue of numbers; each step of a round is written down.
#[derive(Default)]
struct Steps {
    queue: Mutex<Vec<u64>>,
    log: Arc<Mutex<Vec<String>>>,
}

struct Step {
    items: Vec<u64>,
    log: Arc<Mutex<Vec<String>>>,
}

impl Rounds for Steps {
    fn take(&self) -> Option<Box<dyn Round>> {
        let items = std::mem::take(&mut *self.queue.lock().unwrap());
        (!items.is_empty()).then(|| Box::new(Step { items, log: Arc::clone(&self.log) }) as Box<dyn Round>)
    }
}

impl Round for Step {
    fn run(&mut self) {
        self.log.lock().unwrap().push(format!("run {:?}", self.items));
    }

    fn complete(self: Box<Self>) {
        self.log.lock().unwrap().push(format!("complete {:?}", self.items));
    }
}

fn driver_of(world: &World) -> (Arc<Steps>, Driver) {
    let steps = Arc::new(Steps::default());
    let driver = world.runtime_for(A).drive("steps", steps.clone());
    (steps, driver)
}

#[test]
fn every_queued_item_is_run_and_completed_once_and_time_passes_between() {
    let mut windows = 0;
    for seed in 0..50 {
        block_on(seed, async {
            let world = World::new(seed);
            let (steps, driver) = driver_of(&world);
            let b = world.runtime_for(B);
            for item in 0..20 {
                steps.queue.lock().unwrap().push(item);
                driver.wake();
                b.sleep(Duration::from_millis(b.random_u64() % 4)).await;
                windows += usize::from(steps.log.lock().unwrap().len() % 2 == 1);
            }
            b.sleep(Duration::from_secs(1)).await;
            let log = steps.log.lock().unwrap().clone();
            for pair in log.chunks(2) {
                assert_eq!(pair[0].replace("run", "complete"), pair[1]);
            }
            let all: String = log.iter().filter_map(|line| line.strip_prefix("run ")).collect();
            let items: Vec<u64> =
                all.split(['[', ',', ']', ' ']).filter(|item| !item.is_empty()).map(|n| n.parse().unwrap()).collect();
            assert_eq!(items, (0..20).collect::<Vec<u64>>());
        });
    }
    assert!(windows > 0, "something could be seen between run and complete");
}

#[test]
fn stop_finishes_the_round_in_hand_and_takes_no_other() {
    for seed in 0..50 {
        block_on(seed, async {
            let world = World::new(seed);
            let (steps, driver) = driver_of(&world);
            let b = world.runtime_for(B);
            steps.queue.lock().unwrap().push(1);
            driver.wake();
            b.sleep(Duration::from_millis(seed % 5)).await;
            driver.stop();
            let log = steps.log.lock().unwrap().clone();
            let queue = steps.queue.lock().unwrap().clone();
            match &log[..] {
                [] => assert_eq!(queue, [1], "not taken: still queued"),
                [run, complete] => assert_eq!([run.as_str(), complete], ["run [1]", "complete [1]"]),
                other => panic!("{other:?}"),
            }
            steps.queue.lock().unwrap().push(2);
            driver.wake();
            b.sleep(Duration::from_secs(1)).await;
            assert_eq!(*steps.log.lock().unwrap(), log);
        });
    }
}

#[test]
fn a_round_that_a_crash_caught_after_its_run_is_never_completed() {
    let mut caught = 0;
    for seed in 0..100 {
        block_on(seed, async {
            let world = World::new(seed);
            let (steps, driver) = driver_of(&world);
            steps.queue.lock().unwrap().push(1);
            driver.wake();
            let b = world.runtime_for(B);
            b.sleep(Duration::from_millis(1 + seed % 3)).await;
            world.crash(A, Crash::Kill);
            let log = steps.log.lock().unwrap().clone();
            b.sleep(Duration::from_secs(1)).await;
            driver.stop();
            assert_eq!(
                steps.log.lock().unwrap().iter().filter(|line| line.starts_with("complete")).count(),
                log.iter().filter(|line| line.starts_with("complete")).count()
            );
            caught += usize::from(log.len() == 1);
        });
    }
    assert!(caught > 0);
}

#[test]
fn blocking_work_runs_even_when_nobody_waits_for_it() {
    block_on(1, async {
        let world = World::new(1);
        let a = world.runtime_for(A);
        let ran = Arc::new(AtomicU64::new(0));
        let in_work = Arc::clone(&ran);
        drop(a.blocking(move || in_work.fetch_add(1, Ordering::Relaxed)));
        a.sleep(Duration::from_secs(1)).await;
        assert_eq!(ran.load(Ordering::Relaxed), 1);
        assert_eq!(a.blocking(|| 7).await, 7);
    });
}
