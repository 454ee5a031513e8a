//! Fetches of what has left memory: long runs of batches go from their file to the socket.

use std::fs;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use crate::support::{Client, PATIENCE, Served, assert_code, fetch_request, produce_request};
use bytes::Bytes;
use millpond_record::{BatchBuilder, BatchView, Timestamp};
use millpond_wire::fetch::{FetchPartition, FetchRequest, PartitionData};
use millpond_wire::{ErrorCode, Records};

/// Sizes of batches: some are sent from the file alone, some together, some are copied.
const SIZES: [usize; 12] = [100, 90_000, 70_000, 200, 300, 400_000, 5_000, 65_536, 64_000, 1_000_000, 10, 130_000];

/// A broker that keeps no more than a megabyte in memory.
fn served() -> Served {
    Served::with(&[("millpond.tail.cache.bytes", "1048576"), ("message.max.bytes", "2000000")])
}

fn filled_batch(size: usize, seed: usize) -> Bytes {
    let value: Vec<u8> = (0..size).map(|at| (at * 7 + seed) as u8).collect();
    BatchBuilder::new().record(Timestamp(1_700_000_000_000), None, Some(&value)).build()
}

/// Produces them all `rounds` times; what each is from its partition leader epoch on.
fn fill(client: &mut Client, partition: i32, rounds: usize) -> Vec<Bytes> {
    let mut sent = Vec::new();
    for (seed, size) in (0..rounds).flat_map(|_| SIZES).enumerate() {
        let batch = filled_batch(size, seed);
        let answer = client.call(9, &produce_request("logs", -1, vec![(partition, batch.clone())]));
        assert_code(answer.responses[0].partition_responses[0].error_code, ErrorCode::NONE);
        sent.push(batch.slice(16..));
    }
    sent
}

fn fetch(client: &mut Client, version: i16, partitions: &[(i32, i64)], max_bytes: i32) -> Vec<PartitionData> {
    let partitions = partitions.iter().map(|(partition, fetch_offset)| FetchPartition {
        partition: *partition,
        fetch_offset: *fetch_offset,
        partition_max_bytes: max_bytes,
        ..Default::default()
    });
    let mut request = FetchRequest { max_bytes: 50 << 20, ..fetch_request("logs", 0) };
    request.topics[0].partitions = partitions.collect();
    client.call(version, &request).responses.remove(0).partitions
}

/// The batches of an answer, from their partition leader epoch on, and the offset behind them.
fn batches(records: Option<Records>) -> (Vec<Bytes>, i64) {
    let bytes = records.expect("never null").to_bytes();
    let (mut at, mut found, mut next) = (0, Vec::new(), 0);
    while at < bytes.len() {
        let view = BatchView::first_of(&bytes[at..]).expect("whole batches");
        assert!(view.verify_crc());
        found.push(bytes.slice(at + 16..at + view.size_bytes()));
        next = view.header().next_offset().0;
        at += view.size_bytes();
    }
    (found, next)
}

/// Reads partitions from their start to their end.
fn read_all(client: &mut Client, version: i16, partitions: usize, end: i64, max_bytes: i32) -> Vec<Vec<Bytes>> {
    let mut found = vec![Vec::new(); partitions];
    let mut next = vec![0; partitions];
    while next.iter().any(|offset| *offset < end) {
        let asked: Vec<(i32, i64)> = (0..).zip(next.iter().copied()).collect();
        for data in fetch(client, version, &asked, max_bytes) {
            assert_code(data.error_code, ErrorCode::NONE);
            let (read, behind) = batches(data.records);
            let partition = data.partition_index as usize;
            if !read.is_empty() {
                next[partition] = behind;
            }
            found[partition].extend(read);
        }
    }
    found
}

#[test]
fn what_has_left_memory_is_read_as_it_was_written() {
    let served = served();
    let mut client = served.client();
    client.create("logs", 2, &[("segment.bytes", "3000000")]);
    let sent = [fill(&mut client, 0, 4), fill(&mut client, 1, 4)];
    let end = sent[0].len() as i64;
    for version in [4, 12] {
        for max_bytes in [1, 70_000, 1 << 20, 8 << 20] {
            let found = read_all(&mut client, version, 2, end, max_bytes);
            assert!(found == sent, "version {version}, {max_bytes} bytes a fetch");
        }
    }
}

#[test]
fn answers_from_files_come_whole_and_in_order_to_a_client_that_sends_many_requests_and_reads_late() {
    let served = served();
    let mut client = served.client();
    client.create("logs", 1, &[]);
    let sent = fill(&mut client, 0, 3);
    let mut request = FetchRequest { max_bytes: 50 << 20, ..fetch_request("logs", 0) };
    request.topics[0].partitions[0].partition_max_bytes = 2 << 20;
    let ids: Vec<i32> = (0..12).map(|_| client.send(12, &request)).collect();
    for id in ids {
        let answer = client.receive::<FetchRequest>(12, id).responses.remove(0).partitions.remove(0);
        let (found, _) = batches(answer.records);
        assert!(found.len() > 5 && found[..] == sent[..found.len()]);
    }
}

#[test]
fn what_a_reader_asks_for_next_is_proven_while_it_is_sent_the_last_answer() {
    let served = served();
    let mut client = served.client();
    client.create("logs", 1, &[]);
    let sent = fill(&mut client, 0, 6);
    let start = Instant::now();
    // A stretch may be asked for before it is proven.
    while served.metric("millpond_read_ahead_used_total") == 0.0 {
        assert!(start.elapsed() < PATIENCE, "none was ever used");
        assert!(read_all(&mut client, 12, 1, sent.len() as i64, 500_000) == [sent.clone()]);
    }
}

#[test]
fn an_answer_that_waits_long_for_its_client_is_sent_as_it_was_written_and_keeps_nobody_waiting() {
    let served = served();
    let mut client = served.client();
    client.create("logs", 1, &[]);
    let sent = fill(&mut client, 0, 14);
    // More than the sockets take.
    let mut request = FetchRequest { max_bytes: 50 << 20, ..fetch_request("logs", 0) };
    request.topics[0].partitions[0].partition_max_bytes = 50 << 20;
    let id = client.send(12, &request);
    let (mut other, start) = (served.client(), Instant::now());
    while start.elapsed() < Duration::from_millis(2_500) {
        let answer = fetch(&mut other, 12, &[(0, 5)], 100_000).remove(0);
        assert_eq!(batches(answer.records).0[0], sent[5]);
    }
    let answer = client.receive::<FetchRequest>(12, id).responses.remove(0).partitions.remove(0);
    let (found, _) = batches(answer.records);
    assert!(found.len() > sent.len() / 2 && found[..] == sent[..found.len()]);
    assert!(served.metric("millpond_answers_recalled_total") > 0.0);
}

#[test]
fn a_bit_that_flipped_in_a_file_is_found_before_it_is_sent() {
    let served = served();
    let mut client = served.client();
    client.create("logs", 1, &[]);
    let sent = fill(&mut client, 0, 3);
    let segment = fs::read_dir(served.folder().join("logs-0"))
        .expect("the partition's folder")
        .map(|entry| entry.expect("an entry").path())
        .find(|path| path.extension().is_some_and(|extension| extension == "log"))
        .expect("a segment");
    let file = fs::OpenOptions::new().read(true).write(true).open(segment).expect("the segment");
    // In the middle of the second batch.
    let mut byte = [0];
    file.read_exact_at(&mut byte, 40_000).expect("it is that long");
    file.write_all_at(&[byte[0] ^ 4], 40_000).expect("written");
    let answer = fetch(&mut client, 12, &[(0, 1)], 1 << 20).remove(0);
    assert_code(answer.error_code, ErrorCode::KAFKA_STORAGE_ERROR);
    assert!(answer.records.is_none_or(|records| records.is_empty()));
    file.write_all_at(&byte, 40_000).expect("written");
    let answer = fetch(&mut client, 12, &[(0, 1)], 1 << 20).remove(0);
    let (found, _) = batches(answer.records);
    assert_eq!(found[0], sent[1], "nothing else was wrong with it");
}
