//! The real side: files, drivers, sockets.

#![allow(clippy::disallowed_methods, reason = "these tests touch the real world")]

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use millpond_runtime::{Disk, FileRange, OpenMode, RealDisk, Round, Rounds, Runtime, write_atomically};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};

fn names(disk: &dyn Disk, folder: &Path) -> Vec<String> {
    disk.read_dir(folder).unwrap().into_iter().map(|entry| entry.name.into_string().unwrap()).collect()
}

#[test]
fn more_slices_than_the_system_takes_at_once_are_all_written_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    let file = RealDisk.open(&path, OpenMode::CreateNew).unwrap();
    let pieces: Vec<Vec<u8>> = (0..5_000u32).map(|i| vec![i as u8; (i % 7) as usize]).collect();
    let slices: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
    file.write_all_at(&slices, 3).unwrap();
    file.sync_data().unwrap();
    file.start_writeback(0, 100).unwrap();
    let mut expected = vec![0; 3];
    expected.extend(pieces.concat());
    assert_eq!(RealDisk.read(&path, 1 << 20).unwrap(), expected);
    assert_eq!(file.len().unwrap(), expected.len() as u64);
    assert_eq!(RealDisk.map(&path).unwrap().bytes(), expected);
}

#[test]
fn a_read_into_new_memory_gives_exactly_what_was_asked_for_or_says_that_the_file_ends() {
    let folder = tempfile::tempdir().unwrap();
    let file = RealDisk.open(&folder.path().join("file"), OpenMode::CreateNew).unwrap();
    let bytes: Vec<u8> = (0..100_000u32).map(|i| (i % 251) as u8).collect();
    file.write_all_at(&[IoSlice::new(&bytes)], 0).unwrap();
    for (length, position) in [(0, 0), (1, 0), (4_097, 10), (100_000, 0), (1, 99_999), (0, 100_000)] {
        assert_eq!(file.read_vec_at(length, position as u64).unwrap(), bytes[position..position + length]);
    }
    let error = file.read_vec_at(2, 99_999).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn a_map_of_an_empty_file_is_empty() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    RealDisk.open(&path, OpenMode::CreateNew).unwrap();
    assert!(RealDisk.map(&path).unwrap().bytes().is_empty());
}

#[test]
fn open_modes_keep_their_word() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    let kind = |mode| RealDisk.open(&path, mode).map(|_| ()).map_err(|error| error.kind());
    assert_eq!(kind(OpenMode::Read), Err(io::ErrorKind::NotFound));
    assert_eq!(kind(OpenMode::Write), Err(io::ErrorKind::NotFound));
    assert_eq!(kind(OpenMode::Create), Ok(()));
    RealDisk.open(&path, OpenMode::Create).unwrap().write_all_at(&[IoSlice::new(b"kept")], 0).unwrap();
    assert_eq!(kind(OpenMode::Create), Ok(()));
    assert_eq!(kind(OpenMode::CreateNew), Err(io::ErrorKind::AlreadyExists));
    assert_eq!(RealDisk.read(&path, 4).unwrap(), b"kept");
    assert_eq!(RealDisk.read(&path, 3).unwrap_err().kind(), io::ErrorKind::InvalidData);
    assert!(RealDisk.open(&path, OpenMode::Read).unwrap().write_all_at(&[IoSlice::new(b"x")], 0).is_err());
}

#[test]
fn a_second_lock_on_a_file_is_refused_until_the_first_is_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lock");
    let first = RealDisk.lock_exclusive(&path).unwrap();
    assert_eq!(RealDisk.lock_exclusive(&path).err().map(|error| error.kind()), Some(io::ErrorKind::WouldBlock));
    drop(first);
    RealDisk.lock_exclusive(&path).unwrap();
}

#[test]
fn a_file_is_replaced_whole_and_leaves_nothing_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("table");
    write_atomically(&RealDisk, &path, b"a long first content").unwrap();
    write_atomically(&RealDisk, &path, b"second").unwrap();
    assert_eq!(RealDisk.read(&path, 100).unwrap(), b"second");
    assert_eq!(names(&RealDisk, folder.path()), ["table"]);
}

#[test]
fn folders_are_listed_in_the_order_of_their_names() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["c", "a", "d", "b"] {
        RealDisk.open(&folder.path().join(name), OpenMode::CreateNew).unwrap();
    }
    RealDisk.rename(&folder.path().join("d"), &folder.path().join("e")).unwrap();
    RealDisk.hard_link(&folder.path().join("a"), &folder.path().join("f")).unwrap();
    RealDisk.remove_file(&folder.path().join("a")).unwrap();
    RealDisk.create_dir_all(&folder.path().join("g/h")).unwrap();
    RealDisk.sync_dir(folder.path()).unwrap();
    assert_eq!(names(&RealDisk, folder.path()), ["b", "c", "e", "f", "g"]);
    RealDisk.remove_dir_all(&folder.path().join("g")).unwrap();
    assert!(!RealDisk.exists(&folder.path().join("g")).unwrap());
    let space = RealDisk.space(folder.path()).unwrap();
    assert!((1..=space.total_bytes).contains(&space.available_bytes), "{space:?}");
}

/// Counts what was queued and what was completed; each item must come out exactly once.
#[derive(Default)]
struct Counter {
    queued: AtomicUsize,
    completed: Arc<AtomicUsize>,
    seen: Arc<Mutex<Option<mpsc::Sender<usize>>>>,
}

struct Count {
    items: usize,
    completed: Arc<AtomicUsize>,
    seen: Arc<Mutex<Option<mpsc::Sender<usize>>>>,
}

impl Rounds for Counter {
    fn take(&self) -> Option<Box<dyn Round>> {
        match self.queued.swap(0, Ordering::Relaxed) {
            0 => None,
            items => {
                Some(Box::new(Count { items, completed: Arc::clone(&self.completed), seen: Arc::clone(&self.seen) }))
            }
        }
    }
}

impl Round for Count {
    fn run(&mut self) {}

    fn complete(self: Box<Self>) {
        let total = self.completed.fetch_add(self.items, Ordering::SeqCst) + self.items;
        if let Some(seen) = &*self.seen.lock().unwrap() {
            let _ = seen.send(total);
        }
    }
}

#[test]
fn no_wake_is_lost_between_many_threads_and_a_driver_that_parks_all_the_time() {
    let counter = Arc::new(Counter::default());
    let (sender, seen) = mpsc::channel();
    *counter.seen.lock().unwrap() = Some(sender);
    let driver = Runtime::real(RealDisk::shared()).drive("test-driver", counter.clone());
    // One item at a time: each waits for the driver, which has parked by then or is about to.
    for expected in 1..=20_000 {
        counter.queued.fetch_add(1, Ordering::Relaxed);
        driver.wake();
        assert_eq!(seen.recv_timeout(Duration::from_secs(10)), Ok(expected), "the wake was lost");
    }
    // And from several threads at once.
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..20_000 {
                    counter.queued.fetch_add(1, Ordering::Relaxed);
                    driver.wake();
                }
            });
        }
    });
    while seen.recv_timeout(Duration::from_secs(10)).expect("a wake was lost") < 100_000 {}
    driver.stop();
    driver.stop();
}

#[test]
fn after_stop_nothing_is_taken_any_more() {
    let counter = Arc::new(Counter::default());
    let driver = Runtime::real(RealDisk::shared()).drive("test-driver", counter.clone());
    driver.stop();
    counter.queued.store(5, Ordering::SeqCst);
    driver.wake();
    assert_eq!(counter.completed.load(Ordering::SeqCst), 0);
    assert!(counter.take().is_some(), "what is queued is the caller's");
}

/// Stops its own driver from inside a round.
struct StopsItself {
    driver: Mutex<Option<millpond_runtime::Driver>>,
    done: mpsc::Sender<()>,
}

struct StopRound(millpond_runtime::Driver, mpsc::Sender<()>);

impl Rounds for StopsItself {
    fn take(&self) -> Option<Box<dyn Round>> {
        let driver = self.driver.lock().unwrap().take()?;
        Some(Box::new(StopRound(driver, self.done.clone())))
    }
}

impl Round for StopRound {
    fn run(&mut self) {
        self.0.stop();
    }

    fn complete(self: Box<Self>) {
        self.1.send(()).unwrap();
    }
}

#[test]
fn a_round_may_stop_its_own_driver_and_is_completed_nevertheless() {
    let (done, seen) = mpsc::channel();
    let rounds = Arc::new(StopsItself { driver: Mutex::default(), done });
    let driver = Runtime::real(RealDisk::shared()).drive("test-driver", rounds.clone());
    *rounds.driver.lock().unwrap() = Some(driver.clone());
    driver.wake();
    seen.recv_timeout(Duration::from_secs(10)).unwrap();
    driver.stop();
}

#[tokio::test]
async fn bytes_go_both_ways_over_tcp_whole_and_split() {
    let runtime = Runtime::real(RealDisk::shared());
    let listener = runtime.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = runtime.spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut bytes = [0; 5];
        stream.read_exact(&mut bytes).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
    });
    let stream = runtime.connect(address).await.unwrap();
    assert_eq!(stream.peer_addr().unwrap(), address);
    let (mut read, mut write) = stream.into_split();
    assert!(write.is_write_vectored());
    assert_eq!(write.write_vectored(&[IoSlice::new(b"he"), IoSlice::new(b"llo")]).await.unwrap(), 5);
    let mut answer = Vec::new();
    read.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"hello");
    server.await.unwrap();
}

/// Sends what is given, as a connection of the broker does, and what is left of a file; gives what arrives.
async fn sent_over_tcp(before: &[&[u8]], range: Option<FileRange>) -> (Vec<u8>, io::Result<()>) {
    let runtime = Runtime::real(RealDisk::shared());
    let listener = runtime.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let reader = runtime.spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut found = Vec::new();
        stream.read_to_end(&mut found).await.unwrap();
        found
    });
    let mut stream = runtime.connect(address).await.unwrap();
    for bytes in before {
        let slices = [IoSlice::new(bytes)];
        let sent = poll_fn(|context| Pin::new(&mut stream).poll_write_more(context, &slices)).await.unwrap();
        assert_eq!(sent, bytes.len());
    }
    let mut result = Ok(());
    let mut range = range;
    while let Some(left) = range.as_mut().filter(|left| !left.is_empty()) {
        match poll_fn(|context| Pin::new(&mut stream).poll_send_file(context, left)).await {
            Ok(sent) => left.advance(sent),
            Err(error) => {
                result = Err(error);
                break;
            }
        }
    }
    drop(stream);
    (reader.await.unwrap(), result)
}

#[tokio::test]
async fn a_range_of_a_file_goes_to_a_socket_behind_what_was_held_back_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = RealDisk.open(&folder.path().join("file"), OpenMode::CreateNew).unwrap();
    let bytes: Vec<u8> = (0..9_000_000u32).map(|i| (i % 251) as u8).collect();
    file.write_all_at(&[IoSlice::new(&bytes)], 0).unwrap();
    for (position, length) in [(0, 9_000_000), (1, 8_999_999), (4_095, 100_000), (8_999_999, 1)] {
        let range = FileRange::new(file.clone(), position as u64, length);
        let (found, result) = sent_over_tcp(&[b"head", b"er"], Some(range)).await;
        result.unwrap();
        assert_eq!(found[..6], *b"header");
        assert!(found[6..] == bytes[position..position + length], "{length} bytes from {position}");
    }
    let range = FileRange::new(file, 8_999_000, 2_000);
    let (found, result) = sent_over_tcp(&[], Some(range)).await;
    assert_eq!(result.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    assert!(found == bytes[8_999_000..], "what there was");
}

#[tokio::test]
async fn tasks_rounds_and_blocking_calls_know_their_runtime() {
    let runtime = Runtime::real(RealDisk::shared());
    assert!(Runtime::current().is_none());
    assert!(runtime.spawn(async { Runtime::current().is_some() }).await.unwrap());
    assert!(runtime.blocking(|| Runtime::current().is_some()).await);
    assert!(runtime.wall_clock() > 1_700_000_000_000);
    assert_ne!(runtime.random_u64(), runtime.random_u64());
}
