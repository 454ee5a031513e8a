//! The state of one log in memory: what its mutex guards. Nothing here does I/O.

use std::collections::{BTreeSet, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use millpond_record::{
    BatchHeader, GroupId, HEADER_BYTES, LogId, Offset, ProducerId, RaftIndex, RaftOnlyKind, StampedBatch, Term,
    Timestamp, parse_raft_only,
};
use millpond_runtime::Disk;

use super::stall::Stall;
use super::switch::Switching;
use crate::cache::CachedBatch;
use crate::index::{IndexEntry, SegmentCursor, Trailer, running_hash};
use crate::producer::Producers;
use crate::segment::{Segment, SegmentName};
use crate::types::{Done, EpochStart, FlushMode, LogOptions, LogPosition, SegmentPosition, Vote};
use crate::{Frontiers, StorageError};

/// After a truncation the batches of a relaxed log go through the journal, too, until this many checkpoints have begun.
/// A Truncate record cuts what the segments hold when it is replayed, so what is appended behind it must be in the
/// journal for as long as the record may be replayed: until a table is on disk whose rows were captured after it. The
/// third checkpoint after the truncation starts when the second one's table is written, and the second one began after
/// it.
pub(crate) const JOURNALED_CHECKPOINTS: u8 = 3;

/// Makes the segments of one log.
pub(crate) struct SegmentMaker {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) folder: Arc<Path>,
    pub(crate) retired: Arc<AtomicBool>,
}

impl SegmentMaker {
    pub(crate) fn make(&self, name: SegmentName) -> Arc<Segment> {
        Arc::new(Segment::new(self.disk.clone(), self.folder.clone(), self.retired.clone(), name))
    }
}

/// What is not written yet of one segment, besides batches: those are in the tail.
pub(crate) struct SegmentWork {
    pub(crate) segment: Arc<Segment>,
    /// Index entries to be written, behind those that are.
    pub(crate) entries: VecDeque<IndexEntry>,
    pub(crate) entries_written: u32,
    /// Set when the segment is closed.
    pub(crate) end: Option<Trailer>,
}

/// Where the files must be cut before anything more is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    pub(crate) segment: SegmentName,
    pub(crate) position: u32,
    pub(crate) entries: u32,
    /// Whether the journal's record of it is durable. Before that the files stay as they are: a start would take them
    /// for what `groups.table` says of them.
    pub(crate) durable: bool,
}

/// An entry that is not committed.
#[derive(Clone, Debug)]
pub(crate) struct Pending {
    pub(crate) next_offset: Offset,
    /// Whose overlay has a batch for it.
    pub(crate) producer: Option<ProducerId>,
    pub(crate) effect: Option<Box<Effect>>,
}

/// What committing a Raft-only entry does to the log.
#[derive(Clone, Debug)]
pub(crate) enum Effect {
    Membership(Bytes),
    LogStart(Offset),
}

/// What a recovery must remember until its end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recovery {
    /// Why the files are not what the row says: a truncation cut them after the row was captured. Its record comes in
    /// the replay, or the files are damaged.
    pub(crate) diverged: Option<String>,
    /// Entries were kept that no row and perhaps no journal has.
    pub(crate) kept: bool,
    /// The first index behind the entries that the segments held.
    pub(crate) found_end: RaftIndex,
    /// The first index behind those that the row or the journal has.
    pub(crate) journaled_end: RaftIndex,
    /// Where the log was truncated. A crashed recovery or the last run may have cut the files there, unsynced.
    pub(crate) cuts: BTreeSet<RaftIndex>,
    /// Batches may be missing that no journal has: the log is or was relaxed.
    pub(crate) tolerates_gaps: bool,
    /// The last entry that the journal says is in the segments and that is not there: a truncation explains it, whose
    /// record comes in the replay, or it is lost.
    pub(crate) missing: Option<RaftIndex>,
}

impl Recovery {
    /// Whether the journal has every entry that the segments held beyond the row, or proves that it was synced there:
    /// then a start need not sync them, and the next one finds the journal as it is. Not after a truncation, when the
    /// files and the journal may tell of different entries for a while.
    pub(crate) fn is_journaled(&self) -> bool {
        !self.tolerates_gaps && self.cuts.is_empty() && self.journaled_end >= self.found_end
    }
}

/// An append to a relaxed log that is not reported flushed.
pub(crate) struct RelaxedAck {
    /// Reported when everything below this index is written.
    pub(crate) until: RaftIndex,
    /// The number by which the journal's answer finds it; `None` when the journal need not answer.
    pub(crate) journal: Option<u64>,
    /// The last batch before it that no journal holds, if that must be synced first: it holds a membership, and behind
    /// batches that a power cut takes a start would not find it, so that the log would name voters which are gone.
    pub(crate) synced: Option<RaftIndex>,
    pub(crate) done: Done,
}

/// A place between two entries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// Which of the log's segments.
    pub(crate) segment: usize,
    pub(crate) cursor: SegmentCursor,
    /// The offset of the next data batch.
    pub(crate) offset: Offset,
}

impl Place {
    /// In front of everything.
    pub(crate) const START: Place = Place { segment: 0, cursor: SegmentCursor::START, offset: Offset(0) };
}

pub(crate) struct LogState {
    pub(crate) group: GroupId,
    pub(crate) maker: SegmentMaker,
    pub(crate) interval_bytes: u32,
    pub(crate) options: LogOptions,
    pub(crate) vote: Vote,
    pub(crate) purged: Option<LogPosition>,
    pub(crate) membership_at_p: Bytes,
    /// The membership in force at `committed`, and the entry it came from if that is known.
    pub(crate) membership: (Option<LogId>, Bytes),
    /// The memberships that are known to be in force at an entry and behind it, oldest first.
    pub(crate) memberships: VecDeque<(RaftIndex, Bytes)>,
    pub(crate) log_start: Offset,
    pub(crate) high_watermark: Offset,
    pub(crate) log_end: Offset,
    pub(crate) committed: Option<LogId>,
    pub(crate) last: Option<LogId>,
    /// The index of the first entry while the log is empty.
    pub(crate) first_index: RaftIndex,
    pub(crate) epochs: Vec<EpochStart>,
    /// The entries behind `committed`, in order.
    pub(crate) pending: VecDeque<Pending>,
    /// The index of the first of them, or of the next entry.
    pub(crate) pending_first: RaftIndex,
    pub(crate) producers: Producers,
    /// Set while the log is recovered: `pending` and `producers` are made at the end of it.
    pub(crate) recovery: Option<Recovery>,

    /// All segments, oldest first; the last one is active.
    pub(crate) segments: Vec<Arc<Segment>>,
    /// The end of the active segment.
    pub(crate) cursor: SegmentCursor,
    /// When the active segment's first batch was appended; [`Timestamp::NONE`] while it has none, or if that was
    /// forgotten in a truncation.
    pub(crate) active_since: Timestamp,
    /// The newest batches, up to the log's end without a gap.
    pub(crate) tail: VecDeque<CachedBatch>,
    /// The first index that is not in the segment files.
    pub(crate) next_unwritten: RaftIndex,
    /// The cost of the batches from there on.
    pub(crate) dirty_bytes: u64,
    /// Segments with something to be written, oldest first; the active one is always the last.
    pub(crate) unwritten: VecDeque<SegmentWork>,
    pub(crate) cut: Option<Cut>,
    /// How often the log was truncated: tells a write under way that what it wrote is void.
    pub(crate) truncations: u64,

    pub(crate) relaxed_acks: VecDeque<RelaxedAck>,
    pub(crate) next_ack: u64,
    /// The last batch that is not in the journal, while it is not known to be synced in its segment.
    pub(crate) unjournaled: Option<RaftIndex>,
    /// The next append is journaled and waits for it, so that no relaxed append is reported before a durable one.
    pub(crate) barrier: bool,
    /// See [`JOURNALED_CHECKPOINTS`].
    pub(crate) journaled_checkpoints: u8,

    /// How far the files are synced.
    pub(crate) synced: Option<SegmentPosition>,
    /// The first index that a sync of the files has not covered.
    pub(crate) next_unsynced: RaftIndex,
    /// Log bytes appended since the last producer snapshot.
    pub(crate) bytes_since_snapshot: u64,
    /// A segment was started since then.
    pub(crate) snapshot_due: bool,
    /// A sync or write of the segments failed: final.
    pub(crate) set_aside: bool,
    /// The segments cannot be written for now.
    pub(crate) stall: Option<Stall>,
    /// Why nothing is appended any more.
    pub(crate) failed: Option<StorageError>,
    /// Segments with entries from this one on stay although they are below P and the log start.
    pub(crate) still_read: Option<RaftIndex>,
    /// The journal was handed what the log is switched over to; until it is, nothing is appended and no file touched.
    pub(crate) installing: Option<Arc<Switching>>,
}

impl LogState {
    /// The index of the next entry.
    pub(crate) fn next_index(&self) -> RaftIndex {
        self.last.map_or(self.first_index, |last| RaftIndex(last.index.0 + 1))
    }

    /// The index of the first batch in the tail.
    pub(crate) fn tail_first(&self) -> RaftIndex {
        RaftIndex(self.next_index().0 - self.tail.len() as u64)
    }

    /// The cached batch of an index.
    pub(crate) fn cached(&self, index: RaftIndex) -> Option<&CachedBatch> {
        let at = index.0.checked_sub(self.tail_first().0)?;
        self.tail.get(usize::try_from(at).ok()?)
    }

    /// The term of an entry that the log has, or that is P.
    pub(crate) fn term_at(&self, index: RaftIndex) -> Option<Term> {
        let last = self.last.filter(|last| index <= last.index)?;
        if index == last.index {
            return Some(last.term);
        }
        if let Some(purged) = self.purged.filter(|purged| purged.index == index) {
            return Some(purged.term);
        }
        if self.segments.first().is_none_or(|segment| index < segment.name.first_index) {
            return None;
        }
        let after = self.epochs.partition_point(|epoch| epoch.index <= index);
        after.checked_sub(1).map(|at| self.epochs[at].term)
    }

    /// The index of the log's first entry, P left out of account; `None` while it is empty.
    pub(crate) fn lowest(&self) -> Option<RaftIndex> {
        self.epochs.first().map(|epoch| epoch.index)
    }

    pub(crate) fn log_id_at(&self, index: RaftIndex) -> Option<LogId> {
        self.term_at(index).map(|term| LogId { term, index })
    }

    pub(crate) fn frontiers(&self) -> Frontiers {
        Frontiers {
            log_start: self.log_start,
            high_watermark: self.high_watermark,
            last_stable: self.high_watermark,
            log_end: self.log_end,
            committed: self.committed,
            last: self.last,
        }
    }

    /// Whether a segment starts with this entry.
    pub(crate) fn begins_segment(&self, index: RaftIndex) -> bool {
        self.segments.binary_search_by_key(&index, |segment| segment.name.first_index).is_ok()
    }

    /// Whether a batch of data is written to the journal, too.
    pub(crate) fn journals_data(&self) -> bool {
        self.options.flush == FlushMode::Durable || self.journaled_checkpoints > 0 || self.barrier
    }

    /// Whether an append is reported when its segment write is done, in order, rather than by the journal alone.
    pub(crate) fn acks_by_write(&self) -> bool {
        self.options.flush == FlushMode::Relaxed || self.unjournaled.is_some() || !self.relaxed_acks.is_empty()
    }

    /// Whether entry `last` may be made durable by a sync of the segments and a short record in the journal. Not where
    /// a start might not find it by its row, and not while it may be replayed that the log was truncated: what comes
    /// after a truncation must be in the journal then, as for [`JOURNALED_CHECKPOINTS`].
    pub(crate) fn may_place(&self, last: LogId) -> bool {
        let found =
            self.synced.is_some() || self.segments.first().is_some_and(|first| first.name.first_index == RaftIndex(0));
        found
            && self.options.flush == FlushMode::Durable
            && !self.acks_by_write()
            && self.journaled_checkpoints == 0
            && self.cut.is_none()
            && self.recovery.is_none()
            && self.failed.is_none()
            && self.installing.is_none()
            && !self.set_aside
            && self.log_id_at(last.index) == Some(last)
    }

    /// Starts a segment behind the log's end if the next batch needs one. A replayed batch needs one where it had one
    /// when it was appended, which is the caller's to know, and not because of its age.
    fn roll_for(&mut self, size_bytes: u32, append_time: Timestamp) {
        let full = u64::from(self.cursor.position) + u64::from(size_bytes) > u64::from(self.options.segment_bytes);
        let old = self.recovery.is_none() && self.is_old(append_time);
        if self.segments.is_empty() || ((full || old) && self.cursor.position > 0) {
            self.roll();
        }
    }

    /// Whether the active segment is so old that it is closed by an append at `now`.
    fn is_old(&self, now: Timestamp) -> bool {
        let Some(active) = self.segments.last().filter(|_| self.active_since >= Timestamp(0)) else { return false };
        let LogOptions { segment_ms, segment_jitter_ms, .. } = self.options;
        // Any number that differs from segment to segment, and not from start to start.
        let draw = running_hash(self.group.0, active.name.first_index, &[0; HEADER_BYTES]);
        let jitter = segment_jitter_ms.min(segment_ms).checked_add(1).map_or(draw, |values| draw % values);
        let age = now.0.saturating_sub(self.active_since.0);
        u64::try_from(age).is_ok_and(|age| age > segment_ms - jitter.min(segment_ms))
    }

    /// Closes the active segment and starts the next one at the log's end.
    pub(crate) fn roll(&mut self) {
        let (base_offset, first_index) = (self.log_end, self.next_index());
        self.close_active(first_index);
        self.start_segment(SegmentName { base_offset, first_index }, SegmentCursor::START);
    }

    /// Closes the active segment, if there is one, in front of this entry.
    pub(crate) fn close_active(&mut self, next_index: RaftIndex) {
        if let Some(work) = self.unwritten.back_mut() {
            let trailer = self.cursor.trailer(next_index);
            work.segment.close(&trailer);
            work.end = Some(trailer);
            self.snapshot_due = true;
        }
    }

    /// Makes a segment the active one.
    pub(crate) fn start_segment(&mut self, name: SegmentName, cursor: SegmentCursor) {
        let segment = self.maker.make(name);
        self.active_since = Timestamp::NONE;
        self.segments.push(segment.clone());
        self.cursor = cursor;
        self.unwritten.push_back(SegmentWork {
            segment,
            entries: VecDeque::new(),
            entries_written: cursor.entries,
            end: None,
        });
    }

    /// Appends a stamped batch: its index is the next one and its base offset the log's end. `cost` is what it costs in
    /// the tail cache.
    pub(crate) fn push(&mut self, batch: &StampedBatch, term: Term, append_time: Timestamp, cost: u64) {
        let header = batch.header();
        let index = self.next_index();
        self.roll_for(header.size_bytes, append_time);
        let before = self.cursor;
        self.advance(batch.head(), &header, term, append_time);
        self.dirty_bytes += cost;
        self.tail.push_back(CachedBatch {
            base_offset: header.base_offset,
            next_offset: header.next_offset(),
            max_timestamp: header.max_timestamp,
            raft_only: header.attributes.is_raft_only(),
            append_time,
            before,
            cost,
            batch: batch.clone(),
        });
        if self.recovery.is_none() {
            self.track(batch, &header, index, append_time, true);
        }
    }

    /// Takes up a batch that is at the end of the active segment's file already.
    pub(crate) fn found(&mut self, head: &[u8; HEADER_BYTES], header: &BatchHeader, append_time: Timestamp) {
        self.advance(head, header, Term(header.leader_epoch.0 as u64), append_time);
        self.next_unwritten = self.next_index();
    }

    fn advance(&mut self, head: &[u8; HEADER_BYTES], header: &BatchHeader, term: Term, append_time: Timestamp) {
        let index = self.next_index();
        if let Some(entry) = self.cursor.push(index, head, header, append_time, self.interval_bytes) {
            let work = self.unwritten.back_mut().expect("the active segment is always among the unwritten ones");
            work.entries.push_back(entry);
        }
        // The entry that founds a group was written at no time of a clock: it is the same on all replicas.
        if self.active_since < Timestamp(0) && append_time > Timestamp(0) {
            self.active_since = append_time;
        }
        if self.epochs.last().is_none_or(|epoch| epoch.term < term) {
            self.epochs.push(EpochStart { term, index, offset: header.base_offset });
        }
        self.last = Some(LogId { term, index });
        self.log_end = header.next_offset();
        self.bytes_since_snapshot += u64::from(header.size_bytes);
    }

    /// Keeps what committing or truncating the entry will need; `remember` tells whether the producers are to know of
    /// it.
    pub(crate) fn track(
        &mut self,
        batch: &StampedBatch,
        header: &BatchHeader,
        index: RaftIndex,
        append_time: Timestamp,
        remember: bool,
    ) {
        let producer = (remember && Producers::concerns(header)).then_some(header.producer_id);
        if producer.is_some() {
            self.producers.appended(header, index, append_time);
        }
        let effect = if header.attributes.is_raft_only() { effect_of(batch) } else { None };
        if let (Some(Effect::Membership(founding)), RaftIndex(0)) = (&effect, index) {
            // Every replica has the same one from the first: it needs no majority.
            self.membership = (Some(LogId { term: Term(0), index }), founding.clone());
            self.memberships = VecDeque::from([(index, founding.clone())]);
        }
        self.pending.push_back(Pending { next_offset: header.next_offset(), producer, effect: effect.map(Box::new) });
    }

    /// Everything up to `index` is committed, or up to the log's end if that is before.
    pub(crate) fn commit(&mut self, index: RaftIndex) {
        self.apply(index);
        self.frontiers().assert_ordered();
    }

    /// Applies the pending entries up to `index`.
    pub(crate) fn apply(&mut self, index: RaftIndex) {
        while self.pending_first <= index {
            let Some(pending) = self.pending.pop_front() else { break };
            let at = self.log_id_at(self.pending_first);
            self.pending_first = RaftIndex(self.pending_first.0 + 1);
            self.committed = at;
            self.high_watermark = pending.next_offset;
            if let Some(id) = pending.producer {
                self.producers.committed(id);
            }
            match pending.effect.map(|effect| *effect) {
                Some(Effect::Membership(membership)) => {
                    self.memberships.extend(at.map(|at| (at.index, membership.clone())));
                    self.membership = (at, membership);
                }
                Some(Effect::LogStart(offset)) => {
                    self.log_start = self.log_start.max(offset.min(self.high_watermark));
                }
                None => {}
            }
        }
    }

    /// The membership in force at a committed entry. After a start it is known from the row's committed entry on; where
    /// it was changed between P and there, it is the one of there, which is committed, too.
    pub(crate) fn membership_as_of(&self, index: RaftIndex) -> Bytes {
        let known = self.memberships.iter().rev().find(|(from, _)| *from <= index);
        known
            .or(self.memberships.front())
            .map_or_else(|| self.membership.1.clone(), |(_, membership)| membership.clone())
    }

    /// P is at `index`: what was in force before need not be known any more.
    pub(crate) fn forget_memberships_before(&mut self, index: RaftIndex) {
        while self.memberships.get(1).is_some_and(|(from, _)| *from <= index) {
            self.memberships.pop_front();
        }
    }

    /// The latest membership, committed or not.
    pub(crate) fn latest_membership(&self) -> (Option<LogId>, Bytes) {
        let first = self.pending_first.0;
        let newest = self.pending.iter().enumerate().rev().find_map(|(at, pending)| match pending.effect.as_deref() {
            Some(Effect::Membership(membership)) => Some((RaftIndex(first + at as u64), membership.clone())),
            _ => None,
        });
        newest.map_or_else(|| self.membership.clone(), |(index, membership)| (self.log_id_at(index), membership))
    }

    /// Drops the entries behind `after`; the files are cut later. Returns the cost that left the cache and the part of
    /// it that was not written.
    pub(crate) fn truncate(&mut self, after: Option<RaftIndex>, place: Place, durable: bool) -> (u64, u64) {
        let keep_to = after.map_or(0, |after| after.0 + 1);
        let (mut cost, mut dirty) = (0, 0);
        for index in (keep_to..self.next_index().0).rev() {
            let Some(cached) = self.tail.pop_back() else { break };
            cost += cached.cost;
            if index >= self.next_unwritten.0 {
                dirty += cached.cost;
            }
        }
        self.last = after.and_then(|after| {
            let at = self.epochs.partition_point(|epoch| epoch.index <= after).checked_sub(1);
            let purged = self.purged.filter(|purged| purged.index == after).map(|purged| purged.term);
            purged.or(at.map(|at| self.epochs[at].term)).map(|term| LogId { term, index: after })
        });
        self.epochs.retain(|epoch| epoch.index.0 < keep_to);
        while self.pending_first.0 + self.pending.len() as u64 > keep_to {
            let Some(pending) = self.pending.pop_back() else { break };
            if let Some(id) = pending.producer {
                self.producers.truncated(id);
            }
        }
        self.dirty_bytes -= dirty;
        self.first_index = RaftIndex(0);
        self.pending_first = self.pending_first.min(RaftIndex(keep_to));
        self.next_unwritten = self.next_unwritten.min(self.next_index());
        self.next_unsynced = self.next_unsynced.min(self.next_index());
        let kept = |index: RaftIndex| keep_to.checked_sub(1).map(|last| index.min(RaftIndex(last)));
        for ack in &mut self.relaxed_acks {
            ack.until = ack.until.min(RaftIndex(keep_to));
            ack.synced = ack.synced.and_then(kept);
        }
        self.unjournaled = self.unjournaled.and_then(kept);
        if place.cursor.position == 0 || place.segment + 1 < self.segments.len() {
            self.active_since = Timestamp::NONE;
        }
        self.log_end = place.offset;
        let mut name = self.segments[place.segment].name;
        self.truncate_segments(place);
        if after.is_none() {
            // The next entry may have another index than the first one had: it gets a segment with that name.
            name = SegmentName { base_offset: Offset(0), first_index: RaftIndex(0) };
            self.log_end = Offset(0);
            self.segments.clear();
            self.unwritten.clear();
        }
        let cut = Cut { segment: name, position: place.cursor.position, entries: place.cursor.entries, durable };
        let lower = self.cut.filter(|earlier| (earlier.segment, earlier.position) <= (cut.segment, cut.position));
        self.cut = Some(lower.map_or(cut, |earlier| Cut { durable, ..earlier }));
        self.truncations += 1;
        self.journaled_checkpoints = JOURNALED_CHECKPOINTS;
        (cost, dirty)
    }

    fn truncate_segments(&mut self, place: Place) {
        let segment = self.segments[place.segment].clone();
        self.segments.truncate(place.segment + 1);
        while self.unwritten.back().is_some_and(|work| work.segment.name > segment.name) {
            self.unwritten.pop_back();
        }
        // If it was closed, its trailer is void: a new value remembers nothing of it.
        segment.release();
        let segment = self.maker.make(segment.name);
        self.segments[place.segment] = segment.clone();
        if let Some(work) = self.unwritten.back_mut() {
            work.segment = segment.clone();
        }
        match self.unwritten.back_mut() {
            Some(work) => {
                work.end = None;
                work.entries.retain(|entry| entry.position < place.cursor.position);
                work.entries_written = work.entries_written.min(place.cursor.entries);
            }
            None => self.unwritten.push_back(SegmentWork {
                segment,
                entries: VecDeque::new(),
                entries_written: place.cursor.entries,
                end: None,
            }),
        }
        self.cursor = place.cursor;
    }

    /// Lets go of the batches that are written, up to `written`; returns their cost.
    pub(crate) fn evict(&mut self, written: RaftIndex) -> u64 {
        let mut cost = 0;
        let mut first = self.tail_first();
        while first <= written && first < self.next_unwritten {
            let Some(cached) = self.tail.pop_front() else { break };
            cost += cached.cost;
            first = RaftIndex(first.0 + 1);
        }
        cost
    }

    /// Whether an append waits, or any would, for a sync of the segments: a checkpoint has to be asked for, and again
    /// when one may have left the log out.
    pub(crate) fn awaits_checkpoint(&self) -> bool {
        let becomes_durable = self.options.flush == FlushMode::Durable && self.unjournaled.is_some();
        becomes_durable || self.relaxed_acks.iter().any(|ack| self.awaits_sync(ack))
    }

    fn awaits_sync(&self, ack: &RelaxedAck) -> bool {
        let becomes_durable = self.options.flush == FlushMode::Durable && self.unjournaled.is_some();
        let unsynced = |index| index >= self.next_unsynced;
        becomes_durable && ack.until > self.next_unsynced || ack.synced.is_some_and(unsynced)
    }

    /// The appends that may be reported now.
    pub(crate) fn take_acks(&mut self) -> Vec<Done> {
        let mut ready = Vec::new();
        while let Some(ack) = self.relaxed_acks.front() {
            if ack.journal.is_some() || ack.until > self.next_unwritten || self.awaits_sync(ack) {
                break;
            }
            ready.extend(self.relaxed_acks.pop_front().map(|ack| ack.done));
        }
        ready
    }
}

/// What an entry will do when it is committed.
fn effect_of(batch: &StampedBatch) -> Option<Effect> {
    match parse_raft_only(batch) {
        // Copied: it outlives the batch, which may be a slice of a large block.
        Ok((RaftOnlyKind::Membership, payload)) => Some(Effect::Membership(Bytes::copy_from_slice(&payload))),
        Ok((RaftOnlyKind::LogStart, payload)) => {
            payload.first_chunk().map(|bytes| Effect::LogStart(Offset(i64::from_le_bytes(*bytes))))
        }
        _ => None,
    }
}
