//! What a log remembers of its idempotent producers, and the file that keeps it: `….snap`.
//!
//! The state has two layers. Below is what committed batches made of each producer: its epoch and its last five batches
//! (Kafka's `ProducerStateEntry`). Above are the batches that are appended and not committed, in order. A new batch is
//! checked against both; a commit moves the oldest batch from above to below; a truncation drops the newest ones. So
//! nothing is ever computed anew from the log while it is in use.
//!
//! ```text
//! snapshot file                                producer, 24 bytes, then its batches
//!   0  4  magic "MPsn"                           0  8  producer id
//!   4  4  version, 1                             8  2  producer epoch
//!   8  8  covers: Raft index                    10  2  number of batches, 1 to 5
//!  16  8  covers: term                          12  4  0
//!  24  8  next data offset after it             16  8  the leader's append time of its last batch
//!  32  4  number of producers                  batch, 32 bytes, oldest first
//!  36  …  producers, by producer id              0  4  first sequence
//!   …  4  CRC-32 of all before                   4  4  last sequence
//!                                                8  8  base offset
//!                                               16  8  last offset
//!                                               24  8  Raft index
//! ```
//!
//! All numbers are little-endian. The file is named like a segment, `<next offset>.<next Raft index>.snap`, by the
//! position up to which the state is that of committed batches. Opening a log reads the newest one that it can prove
//! and then the batch headers behind it.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use bytes::{BufMut, Bytes, BytesMut};
use millpond_record::{BatchHeader, LogId, Offset, ProducerEpoch, ProducerId, RaftIndex, Term, Timestamp};

use crate::SequenceError;
use crate::fields::{FieldError, FieldReader};

/// How many of a producer's last batches are known again when they are sent again. Kafka's clients have at most five in
/// flight (`max.in.flight.requests.per.connection`).
const REMEMBERED_BATCHES: usize = 5;

/// How many producers a log remembers; beyond it the one that was silent for longest is forgotten.
pub(crate) const MAX_PRODUCERS: usize = 32_768;

const MAGIC: u32 = u32::from_le_bytes(*b"MPsn");
const VERSION: u32 = 1;
const SNAPSHOT_HEADER_BYTES: usize = 36;
const PRODUCER_BYTES: usize = 24;
const BATCH_BYTES: usize = 32;

/// The longest snapshot.
pub(crate) const MAX_SNAPSHOT_BYTES: u64 =
    (SNAPSHOT_HEADER_BYTES + MAX_PRODUCERS * (PRODUCER_BYTES + REMEMBERED_BATCHES * BATCH_BYTES) + 4) as u64;

/// Hashes producer ids the same way in every run.
type FixedHasher = std::hash::BuildHasherDefault<IdHasher>;

/// Spreads an id over 64 bits (the finalizer of splitmix64); ids are given out one after the other.
#[derive(Clone, Copy, Default)]
pub(crate) struct IdHasher(u64);

impl std::hash::Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_i64(&mut self, value: i64) {
        self.write_u64(value as u64);
    }

    fn write_u64(&mut self, value: u64) {
        let mut mixed = (self.0 ^ value).wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        self.0 = mixed ^ (mixed >> 31);
    }
}

/// One batch of a producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ProducerBatch {
    epoch: ProducerEpoch,
    first_sequence: i32,
    last_sequence: i32,
    base_offset: Offset,
    last_offset: Offset,
    index: RaftIndex,
    append_time: Timestamp,
}

/// One producer: what is committed of it, and behind that what is not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Producer {
    /// At most [`REMEMBERED_BATCHES`], all of one epoch, oldest first.
    committed: VecDeque<ProducerBatch>,
    overlay: VecDeque<ProducerBatch>,
}

/// An idempotent producer that a log remembers, by its newest batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActiveProducer {
    /// The producer.
    pub id: ProducerId,
    /// Its epoch.
    pub epoch: ProducerEpoch,
    /// The sequence of its last record.
    pub last_sequence: i32,
    /// The leader's time of the append of its last batch.
    pub last_append: Timestamp,
}

/// A batch that passed the sequence check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Checked {
    /// It may be appended.
    Next,
    /// It is in the log already.
    Duplicate {
        base_offset: Offset,
        last_offset: Offset,
        /// Its Raft index while it is not committed.
        uncommitted: Option<RaftIndex>,
    },
}

/// All producers of a log.
#[derive(Clone, Debug)]
pub(crate) struct Producers {
    producers: HashMap<ProducerId, Producer, FixedHasher>,
    /// Producers with committed batches, by the index of the last one.
    by_last_index: BTreeMap<RaftIndex, ProducerId>,
    limit: usize,
}

impl Default for Producers {
    fn default() -> Producers {
        Producers::with_limit(MAX_PRODUCERS)
    }
}

fn next_sequence(last: i32) -> i32 {
    if last == i32::MAX { 0 } else { last + 1 }
}

impl Producers {
    pub(crate) fn with_limit(limit: usize) -> Producers {
        Producers { producers: HashMap::default(), by_last_index: BTreeMap::new(), limit }
    }

    /// Whether a batch is its producer's next one (Kafka's `ProducerAppendInfo` and `ProducerStateEntry`).
    ///
    /// A producer that is not known may start anywhere: it may have been forgotten.
    pub(crate) fn check(&self, header: &BatchHeader) -> Result<Checked, SequenceError> {
        let Some(producer) = self.producers.get(&header.producer_id) else { return Ok(Checked::Next) };
        let overlay = producer.overlay.iter().rev().map(|batch| (batch, Some(batch.index)));
        let committed = producer.committed.iter().rev().map(|batch| (batch, None));
        let mut newest_first = overlay.chain(committed).peekable();
        let Some((newest, _)) = newest_first.peek().copied() else { return Ok(Checked::Next) };
        let (epoch, found) = (header.producer_epoch, header.base_sequence);
        if epoch < newest.epoch {
            return Err(SequenceError::OldEpoch { found: epoch.0, current: newest.epoch.0 });
        }
        if epoch > newest.epoch {
            return if found == 0 { Ok(Checked::Next) } else { Err(SequenceError::OutOfOrder { found, expected: 0 }) };
        }
        let expected = next_sequence(newest.last_sequence);
        let sequences = (found, header.last_sequence());
        let original = newest_first
            .take(REMEMBERED_BATCHES)
            .take_while(|(batch, _)| batch.epoch == epoch)
            .find(|(batch, _)| (batch.first_sequence, batch.last_sequence) == sequences);
        match original {
            Some((batch, uncommitted)) => {
                Ok(Checked::Duplicate { base_offset: batch.base_offset, last_offset: batch.last_offset, uncommitted })
            }
            None if found == expected => Ok(Checked::Next),
            None => Err(SequenceError::OutOfOrder { found, expected }),
        }
    }

    /// Whether the batch belongs to a producer that is remembered.
    pub(crate) fn concerns(header: &BatchHeader) -> bool {
        header.producer_id.is_some() && !header.attributes.is_control()
    }

    /// A batch was appended; `header` is the stamped one.
    pub(crate) fn appended(&mut self, header: &BatchHeader, index: RaftIndex, append_time: Timestamp) {
        let batch = ProducerBatch {
            epoch: header.producer_epoch,
            first_sequence: header.base_sequence,
            last_sequence: header.last_sequence(),
            base_offset: header.base_offset,
            last_offset: header.last_offset(),
            index,
            append_time,
        };
        self.producers.entry(header.producer_id).or_default().overlay.push_back(batch);
    }

    /// The producer's oldest uncommitted batch was committed.
    pub(crate) fn committed(&mut self, id: ProducerId) {
        let Some(producer) = self.producers.get_mut(&id) else { return };
        let Some(batch) = producer.overlay.pop_front() else { return };
        if let Some(last) = producer.committed.back().copied() {
            self.by_last_index.remove(&last.index);
            if last.epoch != batch.epoch {
                producer.committed.clear();
            }
        }
        if producer.committed.len() == REMEMBERED_BATCHES {
            producer.committed.pop_front();
        }
        producer.committed.push_back(batch);
        self.by_last_index.insert(batch.index, id);
        if self.by_last_index.len() > self.limit
            && let Some((_, silent)) = self.by_last_index.pop_first()
        {
            self.forget(silent);
        }
    }

    /// The producer's newest uncommitted batch was truncated.
    pub(crate) fn truncated(&mut self, id: ProducerId) {
        let Some(producer) = self.producers.get_mut(&id) else { return };
        producer.overlay.pop_back();
        if producer.overlay.is_empty() && producer.committed.is_empty() {
            self.producers.remove(&id);
        }
    }

    /// Forgets the producers whose last committed batch is older than `before` and that have nothing uncommitted; tells
    /// how many. Replicas must agree on it, so it is the leader's decision, never a timer of this log.
    pub(crate) fn expire(&mut self, before: Timestamp) -> usize {
        let silent: Vec<(RaftIndex, ProducerId)> = self
            .by_last_index
            .iter()
            .filter(|(_, id)| {
                let producer = self.producers.get(id);
                producer.is_some_and(|producer| {
                    producer.overlay.is_empty()
                        && producer.committed.back().is_some_and(|last| last.append_time < before)
                })
            })
            .map(|(index, id)| (*index, *id))
            .collect();
        for (index, id) in &silent {
            self.by_last_index.remove(index);
            self.forget(*id);
        }
        silent.len()
    }

    fn forget(&mut self, id: ProducerId) {
        let Some(producer) = self.producers.get_mut(&id) else { return };
        producer.committed.clear();
        if producer.overlay.is_empty() {
            self.producers.remove(&id);
        }
    }

    /// The producers that have a batch, committed or not, in order of their ids.
    pub(crate) fn list(&self) -> Vec<ActiveProducer> {
        let newest = |producer: &Producer| producer.overlay.back().or(producer.committed.back()).copied();
        let described = self.producers.iter().filter_map(|(id, producer)| {
            let last = newest(producer)?;
            Some(ActiveProducer {
                id: *id,
                epoch: last.epoch,
                last_sequence: last.last_sequence,
                last_append: last.append_time,
            })
        });
        let mut all: Vec<_> = described.collect();
        all.sort_unstable_by_key(|producer| producer.id);
        all
    }

    /// How many producers are remembered by committed batches.
    pub(crate) fn len(&self) -> usize {
        self.by_last_index.len()
    }

    /// The committed layer as a snapshot file that covers the log up to `covers`. What was committed behind that is
    /// left out, and with it what it made this forget: who reads the file and then those batches knows the same.
    pub(crate) fn snapshot(&self, covers: LogId, next_offset: Offset) -> Bytes {
        let covered = |id: &ProducerId| -> Vec<ProducerBatch> {
            let batches = self.producers[id].committed.iter();
            batches.copied().filter(|batch| batch.index <= covers.index).collect()
        };
        let mut ids: Vec<ProducerId> = self.by_last_index.values().copied().collect();
        ids.retain(|id| self.producers[id].committed.front().is_some_and(|first| first.index <= covers.index));
        ids.sort_unstable();
        let mut out = BytesMut::with_capacity(SNAPSHOT_HEADER_BYTES + ids.len() * (PRODUCER_BYTES + BATCH_BYTES) + 4);
        out.put_u32_le(MAGIC);
        out.put_u32_le(VERSION);
        out.put_u64_le(covers.index.0);
        out.put_u64_le(covers.term.0);
        out.put_i64_le(next_offset.0);
        out.put_u32_le(ids.len() as u32);
        for id in ids {
            let batches = covered(&id);
            let last = batches.last().expect("its first batch is covered");
            out.put_i64_le(id.0);
            out.put_i16_le(last.epoch.0);
            out.put_u16_le(batches.len() as u16);
            out.put_u32_le(0);
            out.put_i64_le(last.append_time.0);
            for batch in batches {
                out.put_i32_le(batch.first_sequence);
                out.put_i32_le(batch.last_sequence);
                out.put_i64_le(batch.base_offset.0);
                out.put_i64_le(batch.last_offset.0);
                out.put_u64_le(batch.index.0);
            }
        }
        let crc = crc32fast::hash(&out);
        out.put_u32_le(crc);
        out.freeze()
    }
}

/// One remembered batch of a producer, for who prints it.
pub(crate) struct RememberedBatch {
    pub(crate) epoch: ProducerEpoch,
    pub(crate) first_sequence: i32,
    pub(crate) last_sequence: i32,
    pub(crate) base_offset: Offset,
    pub(crate) next_offset: Offset,
    pub(crate) index: RaftIndex,
}

impl Producers {
    /// Tells the committed batches of every producer, by producer id, with the append time of each producer's last one.
    pub(crate) fn each_committed<E>(
        &self,
        found: &mut dyn FnMut(ProducerId, RememberedBatch, Timestamp) -> Result<(), E>,
    ) -> Result<(), E> {
        let ids: BTreeSet<ProducerId> = self.by_last_index.values().copied().collect();
        for (id, batch) in ids.iter().flat_map(|id| self.producers[id].committed.iter().map(move |batch| (*id, batch)))
        {
            let remembered = RememberedBatch {
                epoch: batch.epoch,
                first_sequence: batch.first_sequence,
                last_sequence: batch.last_sequence,
                base_offset: batch.base_offset,
                next_offset: Offset(batch.last_offset.0.saturating_add(1)),
                index: batch.index,
            };
            found(id, remembered, batch.append_time)?;
        }
        Ok(())
    }
}

/// A snapshot that was read back.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) covers: LogId,
    pub(crate) next_offset: Offset,
    pub(crate) producers: Producers,
}

/// Reads a snapshot file.
pub(crate) fn read_snapshot(bytes: &[u8]) -> Result<Snapshot, FieldError> {
    let (body, crc) = bytes.split_last_chunk::<4>().ok_or(FieldError::Short)?;
    if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
        return Err(FieldError::Value);
    }
    let mut fields = FieldReader::new(body);
    if fields.u32()? != MAGIC || fields.u32()? != VERSION {
        return Err(FieldError::Value);
    }
    let (index, term) = (RaftIndex(fields.u64()?), Term(fields.u64()?));
    let next_offset = Offset(fields.i64()?);
    let count = fields.u32()? as usize;
    if count > MAX_PRODUCERS || count * (PRODUCER_BYTES + BATCH_BYTES) > fields.remaining() {
        return Err(FieldError::Value);
    }
    let mut producers = Producers::default();
    for _ in 0..count {
        let id = ProducerId(fields.i64()?);
        let (epoch, batches) = (fields.u16()? as i16, fields.u16()? as usize);
        if fields.u32()? != 0 || !(1..=REMEMBERED_BATCHES).contains(&batches) {
            return Err(FieldError::Value);
        }
        let append_time = Timestamp(fields.i64()?);
        let mut producer = Producer::default();
        for _ in 0..batches {
            producer.committed.push_back(ProducerBatch {
                epoch: ProducerEpoch(epoch),
                first_sequence: fields.i32()?,
                last_sequence: fields.i32()?,
                base_offset: Offset(fields.i64()?),
                last_offset: Offset(fields.i64()?),
                index: RaftIndex(fields.u64()?),
                append_time,
            });
        }
        let last = producer.committed.back().map(|batch| batch.index).ok_or(FieldError::Value)?;
        let twice = producers.by_last_index.insert(last, id).is_some();
        if twice || last > index || producers.producers.insert(id, producer).is_some() {
            return Err(FieldError::Value);
        }
    }
    fields.end()?;
    Ok(Snapshot { covers: LogId { term, index }, next_offset, producers })
}

#[cfg(test)]
mod tests;
