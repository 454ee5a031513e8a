//! The look-up of the highest timestamp: what it finds, and what it reads.

use proptest::prelude::*;

use super::*;

fn batch(times: &[i64]) -> Body {
    let mut builder = BatchBuilder::new();
    for time in times {
        builder.append(Timestamp(*time), None, Some(&[b'v'; 60]));
    }
    Body::Proposed(proposal(builder.build()))
}

fn move_log_start(bench: &Bench, offset: i64) {
    bench.log.append_log_start(Term(1), Offset(offset), Timestamp(0), Box::new(|_| {})).unwrap();
    bench.commit_all();
}

fn found(bench: &Bench, to: i64) -> Option<(i64, i64)> {
    bench.log.max_timestamp(Offset(to)).unwrap().map(|found| (found.offset.0, found.timestamp.0))
}

/// The same by looking at every record. `batches` are the times of each batch's records.
fn by_hand(batches: &[Vec<i64>], log_start: i64, to: i64) -> Option<(i64, i64)> {
    let (mut best, mut offset): (Option<(i64, i64)>, i64) = (None, 0);
    for times in batches {
        let end = offset + times.len() as i64;
        for time in times.iter().copied() {
            if offset >= log_start && end <= to && best.is_none_or(|(_, highest)| time > highest) {
                best = Some((offset, time));
            }
            offset += 1;
        }
    }
    best
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn the_first_of_the_newest_records_is_found_wherever_the_log_starts_and_whatever_is_written(
        steps in prop::collection::vec(
            (prop::collection::vec(0..40_i64, 1..4), 0..12_u8, any::<prop::sample::Index>()),
            1..60,
        ),
        segment_bytes in prop::sample::select(vec![700, 3_000, 1 << 20]),
    ) {
        with_log(1, small_options(), durable(segment_bytes), |mut bench| async move {
            let mut batches: Vec<Vec<i64>> = Vec::new();
            for (times, action, choice) in steps {
                bench.append(1, batch(&times));
                bench.commit_all();
                batches.push(times);
                let end = bench.log.frontiers().log_end.0;
                match action {
                    0 => move_log_start(&bench, choice.index(end as usize + 1) as i64),
                    1 => bench.checkpoint(),
                    2..=5 => drop(bench.log.write_behind(u64::MAX).unwrap()),
                    _ => {}
                }
                if action == 3 {
                    bench.log.evict(RaftIndex(u64::MAX));
                }
                let log_start = bench.log.frontiers().log_start.0;
                for to in [end, choice.index(end as usize + 1) as i64] {
                    assert_eq!(found(&bench, to), by_hand(&batches, log_start, to), "{log_start} to {to}");
                }
            }
        });
    }
}

/// What one look-up reads.
fn bytes_read(bench: &Bench) -> u64 {
    let before = bench.world.bytes_read(NODE);
    found(bench, i64::MAX).unwrap();
    bench.world.bytes_read(NODE) - before
}

/// Of a stretch between two index entries, and of an entry in the index of a segment that is written to.
const STRETCH: u64 = 256 + 140;
const ENTRIES: u64 = 40 * 48;

#[test]
fn one_stretch_between_two_index_entries_is_read_and_no_more() {
    for (segment_bytes, limit) in [(1 << 20, STRETCH + ENTRIES), (20_000, STRETCH)] {
        with_log(1, small_options(), durable(segment_bytes), |mut bench| async move {
            for at in 0..400_i64 {
                bench.append(1, batch(&[if at == 100 { 5_000 } else { at }]));
            }
            bench.commit_all();
            bench.checkpoint();
            bench.log.evict(RaftIndex(u64::MAX));
            assert_eq!(found(&bench, i64::MAX), Some((100, 5_000)));
            let read = bytes_read(&bench);
            assert!(read <= limit, "{read} bytes of {}", 400 * 130);
        });
    }
}

#[test]
fn what_lies_behind_a_log_start_within_a_segment_is_looked_through_once() {
    with_log(1, small_options(), durable(1 << 20), |mut bench| async move {
        let put = |bench: &mut Bench, times: std::ops::Range<i64>| {
            for time in times.rev() {
                bench.append(1, batch(&[time]));
            }
            bench.commit_all();
            bench.checkpoint();
            bench.log.evict(RaftIndex(u64::MAX));
        };
        // The newest come first: no entry of the index tells how new what is left is.
        put(&mut bench, 1_000..1_400);
        move_log_start(&bench, 50);
        bench.checkpoint();
        bench.log.evict(RaftIndex(u64::MAX));
        assert!(bytes_read(&bench) > 30_000);
        let again = bytes_read(&bench);
        assert!(again <= 2 * STRETCH + 2 * ENTRIES, "{again}");
        put(&mut bench, 600..1_000);
        let grown = bytes_read(&bench);
        assert!((400 * 100..400 * 160).contains(&grown), "what has come since: {grown}");
        assert!(bytes_read(&bench) <= 2 * STRETCH + 2 * ENTRIES);
        assert_eq!(found(&bench, i64::MAX), Some((50, 1_349)));
    });
}
