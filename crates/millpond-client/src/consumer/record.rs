//! A record as it is handed to who reads, and how batches become records.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use millpond_record::{
    BatchError, BatchHeader, BatchView, DecompressLimit, Records, RecordsCursor, RecordsError, shared_payload,
};

/// The most bytes that one batch may decompress to.
const MOST_BATCH_BYTES: DecompressLimit = DecompressLimit(256 << 20);
/// The type of a control record that ends a transaction without its records (KIP-98); 1 commits it.
const ABORT: i16 = 0;

/// A record that was read. Key, value and headers are slices of the batch that it came in, whose bytes stay in memory
/// as long as one of them: whoever keeps few records for long copies them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerRecord {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The number of its partition.
    pub partition: i32,
    /// Its place in the partition.
    pub offset: i64,
    /// Its time in milliseconds since 1970 UTC: its own, or that of the append if the topic wants that.
    pub timestamp: i64,
    /// The epoch of the leader that took it; `None` from brokers that do not say.
    pub leader_epoch: Option<i32>,
    /// Its key.
    pub key: Option<Bytes>,
    /// Its value; on a compacted topic a record without one deletes its key.
    pub value: Option<Bytes>,
    /// Its headers in order; names may repeat.
    pub headers: Vec<(Bytes, Option<Bytes>)>,
}

/// Where records come from.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) topic: Arc<str>,
    pub(crate) partition: i32,
}

/// How batches are opened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenRules {
    pub(crate) check_crcs: bool,
    /// Only records of transactions that were committed.
    pub(crate) committed: bool,
}

/// Records and headers of a batch that are read together. A batch may hold far more, and a record takes some 200 bytes
/// beside its own.
const TOGETHER: usize = 500;
/// The most headers of a record: one may be two bytes of a batch, and takes 64 bytes of memory.
const MOST_HEADERS: usize = 1 << 16;

/// A batch of which some records are read.
#[derive(Debug)]
struct Begun {
    header: BatchHeader,
    payload: Bytes,
    cursor: RecordsCursor,
}

/// Batches of one partition that came in one answer.
#[derive(Debug)]
pub(crate) struct Chunk {
    /// The offset that was asked for: what the first batch has before it was given before.
    from: i64,
    /// The offset behind the last batch.
    pub(crate) next: i64,
    /// Of the last batch; `None` if there is none, or it does not say.
    pub(crate) leader_epoch: Option<i32>,
    batches: VecDeque<Bytes>,
    begun: Option<Begun>,
    pub(crate) bytes: usize,
    /// First offset and producer of the transactions in it that were aborted, the last one first.
    aborted: Vec<(i64, i64)>,
    /// Producers within a transaction that was aborted.
    aborting: BTreeSet<i64>,
    /// Why it ends where it does, if that is not where the answer ended.
    damage: Option<String>,
}

/// What a batch, or the next part of one, holds for the reader.
#[derive(Debug, Default)]
pub(crate) struct Opened {
    pub(crate) records: VecDeque<ConsumerRecord>,
    /// The offset behind it, also if it has no records to be given.
    pub(crate) next: i64,
    pub(crate) leader_epoch: Option<i32>,
}

impl Chunk {
    /// Cuts an answer into batches. A batch that is cut short at the end is left out, as brokers may send one.
    pub(crate) fn cut(from: i64, mut bytes: Bytes, mut aborted: Vec<(i64, i64)>) -> Chunk {
        let mut batches = VecDeque::new();
        let (mut next, mut leader_epoch) = (from, None);
        let (mut damage, mut size) = (None, 0);
        let some = !bytes.is_empty();
        while !bytes.is_empty() {
            let header = match BatchView::first_of(&bytes) {
                Ok(batch) => *batch.header(),
                Err(BatchError::TooShort { .. } | BatchError::Size { .. }) if !batches.is_empty() => break,
                Err(BatchError::Magic { found: found @ (0 | 1) }) => {
                    damage = Some(format!("it has message format {found}, and formats before Kafka 0.11 are not read"));
                    break;
                }
                Err(error) => {
                    damage = Some(error.to_string());
                    break;
                }
            };
            let batch = bytes.split_to(header.size_bytes as usize);
            // One that ends before what was asked for has nothing to give. Offsets that go back have no end.
            let behind = header.next_offset().0;
            if behind > next {
                (next, leader_epoch) = (behind, epoch(&header));
                size += batch.len();
                batches.push_back(batch);
            }
        }
        if some && batches.is_empty() {
            // The same question would get the same answer, for ever.
            damage.get_or_insert_with(|| "the broker gives only what is before it".to_owned());
        }
        aborted.sort_unstable_by(|a, b| b.cmp(a));
        Chunk {
            from,
            next,
            leader_epoch,
            batches,
            begun: None,
            bytes: size,
            aborted,
            aborting: BTreeSet::new(),
            damage,
        }
    }

    /// Whether it says nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.batches.is_empty() && self.damage.is_none()
    }

    /// Whether it ends in what cannot be read: an error that is still to come.
    pub(crate) fn ends_in_damage(&self) -> bool {
        self.damage.is_some()
    }

    /// The next records; `None` behind the last. An error is final.
    pub(crate) fn open_next(&mut self, source: &Source, rules: OpenRules) -> Option<Result<Opened, String>> {
        if let Some(begun) = self.begun.take() {
            return Some(self.go_on(begun, source));
        }
        match self.batches.pop_front() {
            Some(batch) => Some(self.open(&batch, source, rules)),
            None => self.damage.take().map(Err),
        }
    }

    fn open(&mut self, batch: &Bytes, source: &Source, rules: OpenRules) -> Result<Opened, String> {
        let view = BatchView::parse(batch).map_err(|error| error.to_string())?;
        if rules.check_crcs && !view.verify_crc() {
            return Err(BatchError::Crc.to_string());
        }
        let header = *view.header();
        if rules.committed && self.is_aborted(&header, batch)? || header.attributes.is_control() {
            return Ok(Opened { records: VecDeque::new(), next: header.next_offset().0, leader_epoch: epoch(&header) });
        }
        let (header, payload) = shared_payload(batch, MOST_BATCH_BYTES).map_err(|error| error.to_string())?;
        self.go_on(Begun { header, payload, cursor: RecordsCursor::default() }, source)
    }

    /// Reads some more of a batch.
    fn go_on(&mut self, mut begun: Begun, source: &Source) -> Result<Opened, String> {
        let Begun { header, payload, cursor } = &mut begun;
        let behind = header.next_offset().0;
        // The count is what the broker says; no more room is made than for those that are read together.
        let room = usize::try_from(header.record_count).unwrap_or(0).min(TOGETHER);
        let mut opened =
            Opened { records: VecDeque::with_capacity(room), next: self.from, leader_epoch: epoch(header) };
        let shared = |bytes: &[u8]| payload.slice_ref(bytes);
        let of_payload = Records::of_payload(*header, payload);
        let mut records = of_payload.iter_from(*cursor);
        let mut together = 0;
        while together < TOGETHER {
            let Some(record) = records.next() else {
                opened.next = behind;
                return Ok(opened);
            };
            let record = record.map_err(|error| error.to_string())?;
            let offset = record.offset(header).0;
            if offset < self.from || offset >= behind {
                // Given before; one beyond the batch is none of it.
                continue;
            }
            if record.headers.len() > MOST_HEADERS {
                return Err(format!(
                    "the record at offset {offset} has {} headers, and at most {MOST_HEADERS} are read",
                    record.headers.len()
                ));
            }
            together += 1 + record.headers.len();
            opened.next = offset + 1;
            opened.records.push_back(ConsumerRecord {
                topic: Arc::clone(&source.topic),
                partition: source.partition,
                offset,
                timestamp: record.timestamp(header).0,
                leader_epoch: opened.leader_epoch,
                key: record.key.map(shared),
                value: record.value.map(shared),
                headers: record.headers.iter().map(|header| (shared(header.name), header.value.map(shared))).collect(),
            });
        }
        *cursor = records.cursor();
        self.begun = Some(begun);
        Ok(opened)
    }

    /// Whether a batch belongs to a transaction that was aborted (`CompletedFetch` does it so, too): its producer is
    /// within one from the first offset of it that the answer lists, up to the marker.
    fn is_aborted(&mut self, header: &BatchHeader, batch: &Bytes) -> Result<bool, String> {
        while let Some((_, producer)) = self.aborted.pop_if(|(first, _)| *first <= header.last_offset().0) {
            self.aborting.insert(producer);
        }
        if header.attributes.is_control() {
            if control_type(batch).map_err(|error| error.to_string())? == Some(ABORT) {
                self.aborting.remove(&header.producer_id.0);
            }
            return Ok(false);
        }
        Ok(header.attributes.is_transactional() && self.aborting.contains(&header.producer_id.0))
    }
}

/// The epoch of the leader that took a batch, if the broker says it.
fn epoch(header: &BatchHeader) -> Option<i32> {
    Some(header.leader_epoch.0).filter(|epoch| *epoch >= 0)
}

/// The type of the first control record: two bytes of version, two of type.
fn control_type(batch: &Bytes) -> Result<Option<i16>, RecordsError> {
    let (header, payload) = shared_payload(batch, MOST_BATCH_BYTES)?;
    let records = Records::of_payload(header, &payload);
    let Some(first) = records.iter().next().transpose()? else { return Ok(None) };
    let kind = first.key.and_then(|key| key.get(2..4)).and_then(|kind| kind.first_chunk::<2>());
    Ok(kind.map(|kind| i16::from_be_bytes(*kind)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use millpond_record::{BatchBuilder, Codec, ProducerEpoch, ProducerId, Timestamp, rewrite_crc};

    const BASE_OFFSET: std::ops::Range<usize> = 0..8;
    const ATTRIBUTES: std::ops::Range<usize> = 21..23;
    const LAST_OFFSET_DELTA: std::ops::Range<usize> = 23..27;
    const TRANSACTIONAL: i16 = 0x10;
    const CONTROL: i16 = 0x20;

    fn changed(batch: Bytes, change: impl FnOnce(&mut [u8])) -> Bytes {
        let mut batch = batch.to_vec();
        change(&mut batch);
        rewrite_crc(&mut batch);
        Bytes::from(batch)
    }

    /// Records with these values from `offset` on, of a producer.
    fn of(producer: i64, offset: i64, attributes: i16, values: &[&[u8]]) -> Bytes {
        let mut builder = BatchBuilder::new();
        if producer >= 0 {
            builder = builder.producer(ProducerId(producer), ProducerEpoch(0), 0);
        }
        for value in values {
            builder = builder.record(Timestamp(5), Some(value), Some(value));
        }
        changed(builder.build(), |batch| {
            batch[BASE_OFFSET].copy_from_slice(&offset.to_be_bytes());
            batch[ATTRIBUTES].copy_from_slice(&attributes.to_be_bytes());
        })
    }

    fn plain(offset: i64, values: &[&str]) -> Bytes {
        let values: Vec<&[u8]> = values.iter().map(|value| value.as_bytes()).collect();
        of(-1, offset, 0, &values)
    }

    fn marker(producer: i64, offset: i64, kind: u8) -> Bytes {
        of(producer, offset, TRANSACTIONAL | CONTROL, &[&[0, 0, 0, kind]])
    }

    fn joined(batches: &[Bytes]) -> Bytes {
        Bytes::from(batches.concat())
    }

    /// Everything that a chunk gives: offsets and values, the offset behind it, and how it ends.
    fn read(mut chunk: Chunk, committed: bool) -> (Vec<(i64, String)>, i64, Option<String>) {
        let source = Source { topic: "logs".into(), partition: 0 };
        let (mut found, mut next) = (Vec::new(), chunk.from);
        while let Some(opened) = chunk.open_next(&source, OpenRules { check_crcs: true, committed }) {
            match opened {
                Ok(opened) => {
                    next = opened.next;
                    found.extend(opened.records.into_iter().map(|record| {
                        let value = record.value.unwrap_or_default();
                        (record.offset, String::from_utf8_lossy(&value).into_owned())
                    }));
                }
                Err(reason) => return (found, next, Some(reason)),
            }
        }
        (found, next, None)
    }

    fn offsets(read: &(Vec<(i64, String)>, i64, Option<String>)) -> Vec<i64> {
        read.0.iter().map(|(offset, _)| *offset).collect()
    }

    #[test]
    fn what_was_given_before_and_what_is_cut_short_at_the_end_are_left_out() {
        let bytes = joined(&[plain(10, &["a", "b", "c"]), plain(13, &["d"]), plain(14, &["e"])]);
        let chunk = Chunk::cut(11, bytes.slice(..bytes.len() - 1), Vec::new());
        assert_eq!(chunk.next, 14);
        let expected = vec![(11, "b".to_owned()), (12, "c".to_owned()), (13, "d".to_owned())];
        assert_eq!(read(chunk, false), (expected, 14, None));
    }

    #[test]
    fn records_of_every_codec_have_keys_values_headers_and_times() {
        for codec in Codec::ALL {
            let mut builder = BatchBuilder::new().codec(codec);
            for number in 0..50_i64 {
                let header = millpond_record::RecordHeader { name: b"n", value: (number % 2 == 0).then_some(b"v") };
                let value = number.to_string().repeat(20);
                let value = (number % 3 > 0).then_some(value.as_bytes());
                builder.append_with_headers(Timestamp(100 + number), Some(b"key"), value, [header].into_iter());
            }
            let mut chunk = Chunk::cut(0, builder.into_batch(), Vec::new());
            let source = Source { topic: "logs".into(), partition: 3 };
            let rules = OpenRules { check_crcs: true, committed: true };
            let opened = chunk.open_next(&source, rules).expect("a batch").expect("good");
            assert_eq!((opened.records.len(), opened.next), (50, 50), "{codec}");
            let record = &opened.records[4];
            assert_eq!((&*record.topic, record.partition, record.offset, record.timestamp), ("logs", 3, 4, 104));
            assert_eq!(
                (record.key.as_deref(), record.value.as_deref()),
                (Some(&b"key"[..]), Some("4".repeat(20).as_bytes()))
            );
            assert_eq!(record.headers, [(Bytes::from("n"), Some(Bytes::from("v")))]);
            assert_eq!((opened.records[3].value.as_ref(), opened.records[3].headers[0].1.as_ref()), (None, None));
        }
    }

    #[test]
    fn a_batch_of_many_records_is_read_in_parts() {
        for codec in Codec::ALL {
            let mut builder = BatchBuilder::new().codec(codec);
            for number in 0..1234_u32 {
                builder.append(Timestamp(0), None, Some(number.to_string().as_bytes()));
            }
            let batch = builder.into_batch();
            for from in [0, 1, 499, 500, 501, 1000, 1233] {
                let found = read(Chunk::cut(from, batch.clone(), Vec::new()), false);
                assert!(offsets(&found).into_iter().eq(from..1234), "from {from}, {codec}");
                assert!(found.0.iter().all(|(offset, value)| offset.to_string() == *value));
                assert_eq!((found.1, &found.2), (1234, &None));
            }
            let mut chunk = Chunk::cut(0, batch, Vec::new());
            let source = Source { topic: "logs".into(), partition: 0 };
            let rules = OpenRules { check_crcs: true, committed: false };
            let first = chunk.open_next(&source, rules).expect("records").expect("good");
            assert_eq!((first.records.len(), first.next), (TOGETHER, 500));
        }
    }

    #[test]
    fn headers_count_in_what_is_read_together_and_a_record_of_too_many_is_damage() {
        let headers = |count: usize| {
            let none = millpond_record::RecordHeader { name: b"", value: None };
            std::iter::repeat_n(none, count)
        };
        let mut builder = BatchBuilder::new();
        for count in [TOGETHER, 0, MOST_HEADERS, MOST_HEADERS + 1] {
            builder.append_with_headers(Timestamp(0), None, None, headers(count));
        }
        let mut chunk = Chunk::cut(0, builder.into_batch(), Vec::new());
        let source = Source { topic: "logs".into(), partition: 0 };
        let rules = OpenRules { check_crcs: true, committed: false };
        let mut next = || chunk.open_next(&source, rules).expect("more").map(|opened| opened.records.len());
        assert_eq!((next(), next()), (Ok(1), Ok(2)));
        assert!(next().expect_err("damage").contains("65537 headers"));
    }

    #[test]
    fn holes_are_gone_over() {
        let shorter = |batch: Bytes, delta: i32| {
            changed(batch, |batch| batch[LAST_OFFSET_DELTA].copy_from_slice(&delta.to_be_bytes()))
        };
        // Compaction has taken records from the end of the first batch, and all of the second.
        let bytes = joined(&[shorter(plain(5, &["a"]), 9), shorter(of(-1, 20, 0, &[]), 4), plain(30, &["b"])]);
        let found = read(Chunk::cut(5, bytes, Vec::new()), false);
        assert_eq!((offsets(&found), found.1, &found.2), (vec![5, 30], 31, &None));
    }

    #[test]
    fn only_committed_transactions_are_given_if_that_is_asked() {
        let batches = [
            of(1, 0, TRANSACTIONAL, &[b"aborted"]),
            of(2, 1, TRANSACTIONAL, &[b"committed"]),
            plain(2, &["plain"]),
            of(1, 3, TRANSACTIONAL, &[b"aborted"]),
            marker(1, 4, 0),
            of(1, 5, TRANSACTIONAL, &[b"committed"]),
            marker(2, 6, 1),
            marker(1, 7, 1),
            of(2, 8, TRANSACTIONAL, &[b"aborted"]),
            marker(2, 9, 0),
        ];
        let bytes = joined(&batches);
        let aborted = vec![(8, 2), (0, 1)];
        let found = read(Chunk::cut(0, bytes.clone(), aborted.clone()), true);
        assert_eq!((offsets(&found), found.1, &found.2), (vec![1, 2, 5], 10, &None));
        let found = read(Chunk::cut(0, bytes, aborted.clone()), false);
        assert_eq!((offsets(&found), found.1), (vec![0, 1, 2, 3, 5, 8], 10), "markers are never given");
        let found = read(Chunk::cut(3, joined(&batches[3..]), aborted), true);
        assert_eq!((offsets(&found), found.1), (vec![5], 10), "one that began before it is aborted, too");
    }

    #[test]
    fn damage_is_told_where_it_is() {
        let mut flipped = joined(&[plain(0, &["a"]), plain(1, &["b"])]).to_vec();
        let last = flipped.len() - 1;
        flipped[last] ^= 1;
        let found = read(Chunk::cut(0, Bytes::from(flipped), Vec::new()), false);
        assert_eq!((offsets(&found), found.1), (vec![0], 1));
        assert!(found.2.expect("damage").contains("CRC"));
        let mut old = plain(0, &["a"]).to_vec();
        old[16] = 1;
        let found = read(Chunk::cut(0, Bytes::from(old), Vec::new()), false);
        assert!(found.2.expect("damage").contains("message format 1"));
        let found = read(Chunk::cut(7, plain(0, &["a"]), Vec::new()), false);
        assert!(found.2.expect("no progress").contains("before it"));
        let found = read(Chunk::cut(0, plain(0, &["a"]).slice(..69), Vec::new()), false);
        assert!(found.2.is_some(), "not even the first is whole");
        assert!(Chunk::cut(0, Bytes::new(), Vec::new()).is_empty());
    }
}
