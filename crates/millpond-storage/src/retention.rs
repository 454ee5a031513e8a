//! What may go: the decision of retention, as a function of what a log keeps, the time and the topic's limits (Kafka's
//! `UnifiedLog.deleteOldSegments`).
//!
//! | rule | the oldest segments go as long as |
//! | --- | --- |
//! | time | the newest record of the segment is older than `retention.ms` |
//! | size | what is left without the segment is still at least `retention.bytes` |
//!
//! A segment goes whole or not at all, the active one too, and only what is below the high watermark. A timestamp of
//! the future keeps nothing for ever: see [`Newest`].

use millpond_record::{Offset, Timestamp};

use crate::types::{Newest, Retained};

/// The limits of one topic (`retention.ms`, `retention.bytes`); `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// How long a record stays, in milliseconds.
    pub retention_ms: Option<u64>,
    /// How much of a partition stays, in bytes.
    pub retention_bytes: Option<u64>,
}

impl Limits {
    /// Whether anything ever goes.
    pub fn is_limited(&self) -> bool {
        self.retention_ms.is_some() || self.retention_bytes.is_some()
    }

    fn is_expired(&self, newest: Newest, now: Timestamp) -> bool {
        let age = u64::try_from(now.0.saturating_sub(newest.time(now).0)).unwrap_or(0);
        self.retention_ms.is_some_and(|limit| age > limit)
    }

    /// By how many bytes a log is too large.
    fn excess(&self, bytes: u64) -> Option<u64> {
        bytes.checked_sub(self.retention_bytes?)
    }
}

/// One segment, as far as retention must know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentFacts {
    /// The offset in its name.
    pub base_offset: Offset,
    /// The offset behind its last record.
    pub end_offset: Offset,
    /// Bytes of its log.
    pub bytes: u64,
}

/// The new log start, if it moves. `segments` are those that are not wholly below the log start, oldest first and the
/// active one last; `newest` tells the times of a segment, and is asked for as few of them as possible.
///
/// # Errors
///
/// Those of `newest`.
pub fn new_log_start<E>(
    segments: &[SegmentFacts],
    high_watermark: Offset,
    now: Timestamp,
    limits: Limits,
    mut newest: impl FnMut(usize) -> Result<Newest, E>,
) -> Result<Option<Offset>, E> {
    let mut excess = limits.excess(segments.iter().map(|segment| segment.bytes).sum());
    let mut start = None;
    for (at, segment) in segments.iter().enumerate() {
        if segment.end_offset > high_watermark {
            break;
        }
        excess = excess.and_then(|excess| excess.checked_sub(segment.bytes));
        // A segment without records (a new leader's blank) has nothing to keep and nothing that tells its age.
        let has_records = segment.base_offset < segment.end_offset;
        if has_records && excess.is_none() {
            let expired = limits.retention_ms.is_some() && limits.is_expired(newest(at)?, now);
            if !expired {
                break;
            }
        }
        if has_records {
            start = Some(segment.end_offset);
        }
    }
    Ok(start)
}

/// Whether a log may have something to delete, by what is known without opening it. False means that it has not.
pub fn may_move_log_start(retained: &Retained, now: Timestamp, limits: Limits) -> bool {
    if retained.bytes == 0 {
        return false;
    }
    let old =
        limits.retention_ms.is_some() && retained.oldest_newest.is_none_or(|newest| limits.is_expired(newest, now));
    old || limits.excess(retained.bytes).is_some_and(|excess| excess >= retained.oldest_bytes)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    const DAY: i64 = 86_400_000;

    /// A record that was appended at its own time.
    fn at_once(time: i64) -> Newest {
        Newest { record: Timestamp(time), append: Timestamp(time) }
    }

    /// Segments of 10 offsets and 100 bytes each, and the time of each.
    fn decide(newest: &[i64], high_watermark: i64, limits: Limits) -> Option<i64> {
        let facts: Vec<SegmentFacts> = (0..newest.len() as i64)
            .map(|at| SegmentFacts { base_offset: Offset(at * 10), end_offset: Offset(at * 10 + 10), bytes: 100 })
            .collect();
        let time = |at: usize| Ok::<_, Infallible>(at_once(newest[at]));
        let Ok(start) = new_log_start(&facts, Offset(high_watermark), Timestamp(10 * DAY), limits, time);
        start.map(|offset| offset.0)
    }

    fn limits(days: i64, bytes: i64) -> Limits {
        let limit = |value: i64| u64::try_from(value).ok();
        Limits { retention_ms: limit(days).map(|days| days * DAY as u64), retention_bytes: limit(bytes) }
    }

    #[test]
    fn the_oldest_segments_go_by_age_and_by_size_and_never_what_is_not_committed() {
        // times of the segments (days), high watermark, (retention in days, in bytes): new log start
        type Row = (&'static [i64], i64, (i64, i64), Option<i64>);
        let table: &[Row] = &[
            // Nothing is limited.
            (&[0, 0, 0], 30, (-1, -1), None),
            // Exactly as old as the limit is not older than it.
            (&[3, 4], 20, (7, -1), None),
            (&[2, 4], 20, (7, -1), Some(10)),
            (&[2, 2], 20, (7, -1), Some(20)),
            // A young segment keeps the old ones behind it.
            (&[9, 0, 0], 30, (7, -1), None),
            (&[0, 9, 0], 30, (7, -1), Some(10)),
            // What is not committed stays, whatever its age.
            (&[0, 0, 0], 29, (7, -1), Some(20)),
            (&[0, 0, 0], 9, (7, -1), None),
            // 300 bytes are there; what is left must be at least the limit.
            (&[9, 9, 9], 30, (-1, 300), None),
            (&[9, 9, 9], 30, (-1, 201), None),
            (&[9, 9, 9], 30, (-1, 200), Some(10)),
            (&[9, 9, 9], 30, (-1, 101), Some(10)),
            (&[9, 9, 9], 30, (-1, 0), Some(30)),
            (&[9, 9, 9], 15, (-1, 0), Some(10)),
            // A limit that is larger than the log.
            (&[9, 9, 9], 30, (-1, i64::MAX), None),
            // Either rule is enough.
            (&[0, 9, 9], 30, (7, 300), Some(10)),
            (&[0, 9, 9], 30, (7, 100), Some(20)),
            (&[9, 9, 0], 30, (7, 100), Some(30)),
            // Nothing is there.
            (&[], 0, (0, 0), None),
        ];
        for (number, (days, high_watermark, (ms, bytes), expected)) in table.iter().enumerate() {
            let newest: Vec<i64> = days.iter().map(|day| day * DAY).collect();
            assert_eq!(decide(&newest, *high_watermark, limits(*ms, *bytes)), *expected, "row {number}");
        }
    }

    #[test]
    fn a_record_counts_by_its_timestamp_unless_that_is_still_to_come() {
        // (timestamp, append time), now: the time that counts
        for ((record, append), now, expected) in [
            ((500, 500), 1_000, 500),
            // The clock of the broker was far behind when it appended, or the producer's was a little ahead.
            ((500, 3), 1_000, 500),
            ((500, 3), 500, 500),
            ((500, 3), 499, 3),
            ((i64::MAX, 600), 1_000, 600),
            // The clock of the broker was far ahead when it appended.
            ((500, i64::MAX), 1_000, 500),
            ((2_000, i64::MAX), 1_000, 2_000),
            // Only one of the two is known.
            ((-1, 600), 1_000, 600),
            ((2_000, -1), 1_000, 2_000),
            ((-1, -1), 1_000, -1),
        ] {
            let newest = Newest { record: Timestamp(record), append: Timestamp(append) };
            assert_eq!(newest.time(Timestamp(now)), Timestamp(expected), "{newest:?} at {now}");
        }
    }

    #[test]
    fn a_segment_without_records_goes_with_its_neighbours_and_moves_nothing_by_itself() {
        let fact =
            |base: i64, end: i64| SegmentFacts { base_offset: Offset(base), end_offset: Offset(end), bytes: 100 };
        let asked = |segments: &[SegmentFacts]| {
            let newest = |at: usize| if at == 1 { Err("asked for the blank one") } else { Ok(at_once(0)) };
            new_log_start(segments, Offset(20), Timestamp(10 * DAY), limits(7, -1), newest)
        };
        assert_eq!(asked(&[fact(0, 10), fact(10, 10), fact(10, 20)]), Ok(Some(Offset(20))));
        assert_eq!(asked(&[fact(10, 10)]), Ok(None));
    }

    #[test]
    fn only_as_many_segments_are_asked_for_their_time_as_the_answer_needs() {
        let facts: Vec<SegmentFacts> =
            (0..5).map(|at| SegmentFacts { base_offset: Offset(at), end_offset: Offset(at + 1), bytes: 1 }).collect();
        let mut asked = Vec::new();
        let start = new_log_start(&facts, Offset(5), Timestamp(10 * DAY), limits(7, -1), |at| {
            asked.push(at);
            Ok::<_, Infallible>(at_once(at as i64 * 2 * DAY))
        });
        assert_eq!((start, asked), (Ok(Some(Offset(2))), vec![0, 1, 2]));
    }

    #[test]
    fn what_is_known_of_a_closed_log_never_denies_what_its_segments_would_say() {
        let retained = Retained { bytes: 300, oldest_bytes: 100, oldest_newest: Some(at_once(0)), ..Retained::NOTHING };
        let now = Timestamp(10 * DAY);
        for (retained, limits, expected) in [
            (retained, limits(7, -1), true),
            (retained, limits(10, -1), false),
            (retained, limits(-1, 200), true),
            (retained, limits(-1, 201), false),
            (retained, limits(-1, -1), false),
            // Only the segment knows: it must be looked at.
            (Retained { oldest_newest: None, ..retained }, limits(10, -1), true),
            (Retained { oldest_newest: None, ..retained }, limits(-1, 201), false),
            (Retained::NOTHING, limits(0, 0), false),
        ] {
            assert_eq!(may_move_log_start(&retained, now, limits), expected, "{retained:?} {limits:?}");
        }
    }
}
