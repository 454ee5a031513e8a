//! Truncation, the purged position, settings: what changes a log other than by appending.

use bytes::Bytes;
use millpond_record::RaftIndex;

use super::Log;
use super::cold::ColdPlan;
use super::state::{LogState, Place};
use crate::StorageError;
use crate::journal::JournalEntry;
use crate::segment::SegmentError;
use crate::types::{Done, FlushMode, LogOptions, LogPosition};

impl Log {
    /// Drops every entry behind `after`; with `None` all of them. Memory falls back at once, the journal has it before
    /// the next append, the files follow.
    ///
    /// Blocks for the read of one block if the entries have left the tail cache.
    ///
    /// # Errors
    ///
    /// [`StorageError::TruncatesCommitted`] below the committed entry or P; what a read of a segment or the journal
    /// say.
    pub fn truncate_after(&self, after: Option<RaftIndex>) -> Result<(), StorageError> {
        let mut state = self.state();
        self.check_open(&state)?;
        self.check_not_installing(&state)?;
        let kept = after.map_or(RaftIndex(0), |after| RaftIndex(after.0 + 1));
        if state.last.is_none_or(|last| last.index < kept) {
            return Ok(());
        }
        let floor = state.committed.map(|committed| committed.index).max(state.purged.map(|purged| purged.index));
        if floor.is_some_and(|floor| kept <= floor) {
            let group = self.identity.group;
            return Err(StorageError::TruncatesCommitted { group, after, committed: floor });
        }
        let place = if after.is_some() { self.locate(&state, kept)? } else { Place::START };
        let number = state.truncations + 1;
        let log = self.me.clone();
        let durable: Done = Box::new(move |result| {
            if let (Ok(()), Some(log)) = (result, log.upgrade()) {
                log.truncation_durable(number);
            }
        });
        let record = JournalEntry::Truncate { group: self.identity.group, after };
        self.context.journal.submit(vec![record], Some(durable))?;
        let (cost, dirty) = state.truncate(after, place, false);
        drop(state);
        self.context.cache.removed(cost, dirty);
        Ok(())
    }

    /// The journal has the log's `number`th truncation: the files may be cut.
    fn truncation_durable(&self, number: u64) {
        let wants_checkpoint = {
            let mut state = self.state();
            if state.truncations != number {
                return;
            }
            if let Some(cut) = &mut state.cut {
                cut.durable = true;
            }
            state.awaits_checkpoint()
        };
        if let Some(log) = self.me.upgrade() {
            self.context.writer.dirty(&log, true);
        }
        if wants_checkpoint {
            // One that came meanwhile has left this log out.
            self.context.want_checkpoint();
        }
    }

    /// Where entry `index` starts, or where it would: at most one behind the log's end.
    pub(super) fn locate(&self, state: &LogState, index: RaftIndex) -> Result<Place, StorageError> {
        let segment = state.segments.partition_point(|segment| segment.name.first_index <= index).saturating_sub(1);
        let name = state.segments.get(segment).map(|segment| segment.name);
        let Some(name) = name else { return Err(self.corrupt("there is no segment to truncate")) };
        if index < name.first_index {
            return Err(self.corrupt(format!("the segment with entry {index} is missing")));
        }
        if index == name.first_index {
            let offset = name.base_offset;
            return Ok(Place { segment, cursor: crate::index::SegmentCursor::START, offset });
        }
        if index == state.next_index() {
            return Ok(Place { segment, cursor: state.cursor, offset: state.log_end });
        }
        if let Some(cached) = state.cached(index) {
            return Ok(Place { segment, cursor: cached.before, offset: cached.base_offset });
        }
        let plan = ColdPlan::of(state, segment).ok_or_else(|| self.corrupt("a batch is in no segment"))?;
        let mut place = self.locate_cold(&plan, segment, index).map_err(|error| self.segment_error(error))?;
        // No append before it was later than the last one.
        place.cursor.append_time = place.cursor.append_time.max(state.cursor.append_time);
        Ok(place)
    }

    fn locate_cold(&self, plan: &ColdPlan, segment: usize, index: RaftIndex) -> Result<Place, SegmentError> {
        let view = plan.open()?;
        let number = view.floor(|entry| entry.index < index)?.unwrap_or(0);
        let mut cursor = view.cursor_at(number)?;
        let block = view.load(number, 0)?;
        for batch in &block.batches {
            if batch.index == index {
                return Ok(Place { segment, cursor, offset: batch.header.base_offset });
            }
            let bytes = block.batch(batch);
            let head = bytes.first_chunk().expect("a block holds whole batches");
            // The append time of an entry is on disk; the cursor only needs to know that there is one.
            cursor.push(
                batch.index,
                head,
                &batch.header,
                cursor.append_time,
                self.context.options.index_interval_bytes,
            );
        }
        let offset = block.batches.last().map(|batch| batch.header.next_offset());
        let next = block.batches.last().map(|batch| RaftIndex(batch.index.0 + 1));
        match (next == Some(index), offset) {
            (true, Some(offset)) => Ok(Place { segment, cursor, offset }),
            _ => Err(view.segment.damaged(u64::from(cursor.position), "an entry is missing")),
        }
    }

    /// Moves P to `index`, which must be committed, the end of a segment, and not below P; the log's last entry is one:
    /// its segment is closed. In a relaxed log it must have been synced by a checkpoint, too. Entries up to P stay
    /// readable until something deletes them.
    ///
    /// Blocks for the read of one block at most.
    ///
    /// # Errors
    ///
    /// [`StorageError::NotABoundary`] if a segment does not end there or it is not committed; the journal's.
    pub fn advance_p(&self, index: RaftIndex, membership: Bytes, done: Done) -> Result<LogPosition, StorageError> {
        let mut state = self.state();
        self.check_open(&state)?;
        self.check_not_installing(&state)?;
        let not_a_boundary = StorageError::NotABoundary { group: self.identity.group, index };
        let committed = state.committed.is_some_and(|committed| index <= committed.index);
        let forward = state.purged.is_none_or(|purged| purged.index <= index);
        // P must not outlive what it covers.
        let lasting = state.unjournaled.is_none() || index < state.next_unsynced;
        if !committed || !forward || !lasting {
            return Err(not_a_boundary);
        }
        let next = RaftIndex(index.0 + 1);
        let at_end = next == state.next_index();
        let boundary = state.segments.iter().find(|segment| segment.name.first_index == next);
        let offset = match boundary {
            Some(segment) => segment.name.base_offset,
            None if at_end => state.log_end,
            None => return Err(not_a_boundary),
        };
        let term = state.term_at(index).ok_or(not_a_boundary)?;
        let position = LogPosition { term, index, offset };
        let record = JournalEntry::Purge { group: self.identity.group, position, membership: membership.clone() };
        self.context.journal.submit(vec![record], Some(done))?;
        if at_end && state.cursor.position > 0 {
            state.roll();
        }
        state.purged = Some(position);
        state.membership_at_p = membership;
        state.forget_memberships_before(index);
        Ok(position)
    }

    /// Changes the settings. A log that becomes durable reports appends by the journal once its segments are synced;
    /// until then they wait for both, in order.
    ///
    /// # Errors
    ///
    /// The journal's.
    pub fn set_options(&self, options: LogOptions) -> Result<(), StorageError> {
        let mut state = self.state();
        self.check_open(&state)?;
        if options == state.options {
            return Ok(());
        }
        let record = JournalEntry::Options { group: self.identity.group, options };
        self.context.journal.submit(vec![record], None)?;
        state.barrier |= state.options.flush == FlushMode::Durable && options.flush == FlushMode::Relaxed;
        // Until the table says that it is durable a power cut taints it.
        let waits = state.options.flush == FlushMode::Relaxed && options.flush == FlushMode::Durable;
        state.options = options;
        drop(state);
        if waits {
            self.context.want_checkpoint();
        }
        Ok(())
    }
}
