//! The log against a vector: whatever is appended, truncated, committed, written, evicted, checkpointed, closed or lost
//! in a crash, it reads as the vector does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use millpond_record::{LogId, Offset, RaftIndex, StampedBatch, Term};
use millpond_runtime::sim::Crash;
use proptest::prelude::*;

use super::*;

/// The reference: all entries as they should be read.
#[derive(Default)]
struct Model {
    entries: Vec<StoredEntry>,
    committed: usize,
    /// Everything that was ever appended, by index and term.
    history: BTreeMap<LogId, Bytes>,
    /// How many entries were reported flushed.
    flushed: Arc<AtomicU64>,
    /// How many entries each append's report may vouch for: a truncation lowers it.
    vouched: Vec<Arc<AtomicU64>>,
    /// Where entries ask for the log start to be, by their place.
    asked: BTreeMap<usize, i64>,
    /// The log start that a committed entry asked for; a crash may take the commit back, and never what it freed.
    log_start: i64,
}

impl Model {
    fn log_end(&self) -> i64 {
        self.entries.last().map_or(0, |(_, batch)| batch.header().next_offset().0)
    }

    fn high_watermark(&self) -> i64 {
        self.entries[..self.committed].last().map_or(0, |(_, batch)| batch.header().next_offset().0)
    }

    /// What the committed entries ask the log start to be.
    fn committed_start(&self) -> i64 {
        self.asked.range(..self.committed).map(|(_, offset)| *offset).max().unwrap_or(0)
    }

    fn read(&self, from: i64, to: i64, max_bytes: usize, whole_first: bool) -> Vec<u8> {
        let mut out: Vec<u8> = Vec::new();
        for (_, batch) in &self.entries {
            let header = batch.header();
            if header.attributes.is_raft_only() || header.next_offset().0 <= from {
                continue;
            }
            let fits = out.len() + batch.size_bytes() <= max_bytes || (out.is_empty() && whole_first);
            if header.next_offset().0 > to || !fits {
                break;
            }
            out.extend_from_slice(&batch.to_bytes());
        }
        out
    }
}

#[derive(Clone, Debug)]
enum Step {
    Append { new_term: bool, bodies: Vec<(u8, u16)> },
    Truncate(u8),
    Commit(u8),
    SyncJournal(u8),
    Write,
    Evict,
    Checkpoint,
    AdvanceP,
    LogStart { part: u8, rolls: bool },
    Free,
    Reopen,
    Crash { cut: bool, more: u8 },
}

fn step() -> impl Strategy<Value = Step> {
    let bodies = prop::collection::vec((0..5u8, 1..900u16), 1..5);
    prop_oneof![
        10 => (prop::bool::weighted(0.15), bodies).prop_map(|(new_term, bodies)| Step::Append { new_term, bodies }),
        1 => (1..6u8).prop_map(Step::Truncate),
        3 => any::<u8>().prop_map(Step::Commit),
        3 => any::<u8>().prop_map(Step::SyncJournal),
        2 => Just(Step::Write),
        1 => Just(Step::Evict),
        1 => Just(Step::Checkpoint),
        1 => Just(Step::AdvanceP),
        2 => (any::<u8>(), any::<bool>()).prop_map(|(part, rolls)| Step::LogStart { part, rolls }),
        2 => Just(Step::Free),
        1 => Just(Step::Reopen),
        1 => (any::<bool>(), 0..6u8).prop_map(|(cut, more)| Step::Crash { cut, more }),
    ]
}

struct Run {
    bench: Bench,
    model: Model,
    term: u64,
    relaxed: bool,
}

impl Run {
    fn take(&mut self, step: Step) {
        match step {
            Step::Append { new_term, bodies } => self.append(new_term, &bodies),
            Step::Truncate(back) => {
                let keep = self.model.entries.len().saturating_sub(back.into()).max(self.model.committed);
                if keep < self.model.entries.len() {
                    self.model.entries.truncate(keep);
                    self.model.asked.retain(|at, _| *at < keep);
                    let after = keep.checked_sub(1).map(|last| RaftIndex(last as u64));
                    self.bench.log.truncate_after(after).unwrap();
                    for entries in self.model.vouched.iter().chain([&self.model.flushed]) {
                        entries.fetch_min(keep as u64, Ordering::Relaxed);
                    }
                    // The next leader has a higher term; its entries may have any that is not below what stays.
                    self.term += 1;
                }
            }
            Step::Commit(part) => {
                let flushed = self.model.flushed.load(Ordering::Relaxed) as usize;
                let target = flushed * (usize::from(part) + 1) / 256;
                if target > self.model.committed {
                    self.model.committed = target;
                    self.bench.log.commit(RaftIndex(target as u64 - 1));
                }
            }
            Step::SyncJournal(part) => self.bench.journal.sync_to(self.bench.journal.len() * usize::from(part) / 255),
            Step::Write => self.write(),
            Step::Evict => {
                self.write();
                self.bench.log.evict(RaftIndex(u64::MAX));
            }
            Step::Checkpoint => self.bench.checkpoint(),
            Step::AdvanceP => self.advance_p(),
            Step::LogStart { part, rolls } => self.log_start(part, rolls),
            Step::Free => drop(self.bench.log.free_below_log_start().unwrap()),
            Step::Reopen => {
                self.bench.reopen();
                self.check();
                self.model.flushed.store(self.model.entries.len() as u64, Ordering::Relaxed);
            }
            Step::Crash { cut, more } => self.crash(cut, more),
        }
    }

    fn write(&self) {
        let written = self.bench.log.write_behind(u64::MAX).unwrap();
        written.acks.into_iter().for_each(|done| done(Ok(())));
    }

    fn append(&mut self, new_term: bool, bodies: &[(u8, u16)]) {
        self.term += u64::from(new_term);
        let first = self.bench.log.next_index().0;
        let mut end = self.model.log_end();
        let mut entries = Vec::new();
        for (at, (kind, size)) in bodies.iter().enumerate() {
            let (index, size) = (RaftIndex(first + at as u64), usize::from(*size));
            let batch = plain(1 + size % 3, size, 1000 + index.0 as i64);
            let epoch = Term(self.term).leader_epoch();
            let body = match kind {
                0 => blank(b"blank"),
                1 => Body::Stored(StampedBatch::new(batch, Offset(end), epoch).unwrap().into()),
                _ => Body::Proposed(proposal(batch)),
            };
            end += if *kind == 0 { 0 } else { 1 + size as i64 % 3 };
            entries.push(AppendEntry { index, term: Term(self.term), body });
        }
        let (flushed, next) = (self.model.flushed.clone(), first + bodies.len() as u64);
        let vouched = Arc::new(AtomicU64::new(next));
        self.model.vouched.push(vouched.clone());
        let done: Done = Box::new(move |result| {
            result.unwrap();
            flushed.fetch_max(vouched.load(Ordering::Relaxed), Ordering::Relaxed);
        });
        self.bench.log.append(entries, done).unwrap();
        let appended = entries_from(&self.bench.log, RaftIndex(first));
        assert_eq!(appended.len(), bodies.len(), "appended entries are readable when append returns");
        assert_eq!(self.bench.log.frontiers().log_end, Offset(end));
        self.model.history.extend(appended.iter().map(|(id, batch)| (*id, batch.to_bytes())));
        self.model.entries.extend(appended);
    }

    /// Asks for a log start somewhere up to the high watermark.
    fn log_start(&mut self, part: u8, rolls: bool) {
        let offset = self.model.high_watermark() * i64::from(part) / 255;
        let (log, term) = (&self.bench.log, Term(self.term));
        let next = self.model.entries.len();
        let (flushed, vouched) = (self.model.flushed.clone(), Arc::new(AtomicU64::new(next as u64 + 1)));
        self.model.vouched.push(vouched.clone());
        let done: Done = Box::new(move |result| {
            result.unwrap();
            flushed.fetch_max(vouched.load(Ordering::Relaxed), Ordering::Relaxed);
        });
        if rolls && log.frontiers().last.is_some() {
            log.append_log_start(term, Offset(offset), Timestamp(1), done).unwrap();
        } else {
            let payload = super::super::log_start_payload(Offset(offset));
            let body = Body::RaftOnly { kind: RaftOnlyKind::LogStart, payload, time: Timestamp(1) };
            log.append(vec![AppendEntry { index: RaftIndex(next as u64), term, body }], done).unwrap();
        }
        let appended = entries_from(log, RaftIndex(next as u64));
        self.model.history.extend(appended.iter().map(|(id, batch)| (*id, batch.to_bytes())));
        self.model.entries.extend(appended);
        self.model.asked.insert(next, offset);
    }

    /// The first entry that the log still has: all before it must be below P and hold nothing above the log start.
    fn first(&self) -> usize {
        let first = self.bench.log.first_index().0 as usize;
        let purged = self.bench.log.purged().map_or(0, |purged| purged.index.0 as usize + 1);
        assert!(first <= purged, "entry {first} is the first, P is in front of {purged}");
        let gone = self.model.entries[..first].last().map_or(0, |(_, batch)| batch.header().next_offset().0);
        let start = self.bench.log.frontiers().log_start.0;
        assert!(gone <= start, "records up to {gone} are gone, the log starts at {start}");
        first
    }

    fn advance_p(&mut self) {
        let Some(last) = self.model.committed.checked_sub(1) else { return };
        let membership = Bytes::from_static(b"members");
        match self.bench.log.advance_p(RaftIndex(last as u64), membership, Box::new(|_| {})) {
            Ok(position) => {
                let (id, batch) = &self.model.entries[last];
                assert_eq!((position.log_id(), position.offset), (*id, batch.header().next_offset()));
            }
            Err(StorageError::NotABoundary { .. }) => {
                assert!(self.relaxed || last + 1 < self.model.entries.len(), "the log's end is always a boundary");
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn crash(&mut self, cut: bool, more: u8) {
        let flushed = self.model.flushed.load(Ordering::Relaxed) as usize;
        self.bench.crash(if cut { Crash::PowerCut } else { Crash::Kill }, more.into());
        self.bench.recover().unwrap();
        let first = self.first();
        let mut found = self.model.entries[..first].to_vec();
        found.extend(entries_from(&self.bench.log, RaftIndex(first as u64)));
        for (at, (id, batch)) in found.iter().enumerate() {
            assert_eq!(id.index.0, at as u64);
            assert_eq!(self.model.history.get(id), Some(&batch.to_bytes()), "{id} is what was appended");
        }
        let promised = if self.relaxed && cut { 0 } else { flushed };
        assert!(found.len() >= promised, "{} entries are left of {promised} that were reported flushed", found.len());
        for (at, entry) in self.model.entries[..promised].iter().enumerate() {
            assert_eq!(found[at].0, entry.0, "a flushed entry is still there");
        }
        self.model
            .asked
            .retain(|at, _| found.get(*at).map(|entry| entry.0) == self.model.entries.get(*at).map(|e| e.0));
        self.model.entries = found;
        self.model.committed = self.model.committed.min(self.model.entries.len());
        let frontiers = self.bench.log.frontiers();
        let committed = frontiers.committed.map_or(0, |id| id.index.0 as usize + 1);
        assert!(committed <= self.model.committed, "nothing is committed that was not, or that is gone");
        self.model.committed = committed;
        self.model.flushed.store(self.model.entries.len() as u64, Ordering::Relaxed);
        self.term += 1;
    }

    fn check(&self) {
        let (log, model) = (&self.bench.log, &self.model);
        let frontiers = log.frontiers();
        assert_eq!(frontiers.log_end, Offset(model.log_end()));
        assert_eq!(frontiers.high_watermark, Offset(model.high_watermark()));
        assert_eq!(frontiers.last, model.entries.last().map(|(id, _)| *id));
        let first = self.first();
        assert_eq!(entries_from(log, RaftIndex(first as u64)), model.entries[first..]);
        let start = frontiers.log_start.0;
        assert!(start >= model.committed_start() && start >= model.log_start, "the log start never goes back");
        let asked = model.asked.values().copied().max().unwrap_or(0);
        assert!(start <= asked.max(model.log_start), "the log start moves only where it was asked to");
        if start > 0 {
            assert!(matches!(log.read(Offset(start - 1), Offset(1 << 40), 1, true), Err(ReadError::OutOfRange { .. })));
        }
        for (at, (id, _)) in model.entries.iter().enumerate() {
            if log.purged().is_none_or(|purged| purged.index <= id.index) {
                assert_eq!(log.log_id_at(RaftIndex(at as u64)), Some(*id));
            }
        }
        for from in start..=model.log_end() {
            for (to, max_bytes, whole_first) in [
                (model.high_watermark(), usize::MAX >> 1, true),
                (model.log_end(), 1, true),
                (model.log_end(), 700, false),
                (from + 5, 1500, true),
            ] {
                let found = read_prefix(log, from, to, max_bytes, whole_first);
                let expected = model.read(from, to, max_bytes, whole_first);
                assert!(expected.starts_with(&found), "from {from} to {to}, {max_bytes} bytes");
                assert_eq!(found.is_empty(), expected.is_empty(), "from {from} to {to}, {max_bytes} bytes");
            }
            let expected = model.entries.iter().find(|(_, batch)| batch.header().next_offset().0 > from);
            if let Some((id, _)) = expected {
                assert_eq!(log.leader_epoch_at(Offset(from)), Some(id.term.leader_epoch()), "epoch at {from}");
            }
        }
        assert!(matches!(
            log.read(Offset(model.log_end() + 1), Offset(1 << 40), 1, true),
            Err(ReadError::OutOfRange { .. })
        ));
    }
}

/// A read may end early where the cache or a segment begins, but between batches.
fn read_prefix(log: &Log, from: i64, to: i64, max_bytes: usize, whole_first: bool) -> Vec<u8> {
    let bytes = read(log, from, to, max_bytes, whole_first).unwrap();
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let batch = millpond_record::BatchView::first_of(rest).unwrap();
        assert!(!batch.header().attributes.is_raft_only(), "a Raft-only entry left the broker");
        rest = &rest[batch.size_bytes()..];
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn a_log_reads_like_a_vector_through_any_history(
        seed in any::<u64>(),
        relaxed_log in prop::bool::weighted(0.3),
        segment_bytes in prop_oneof![Just(600u32), Just(3000), Just(1 << 20)],
        cache in prop_oneof![Just(0u64), Just(2000), Just(1 << 20)],
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let options = StorageOptions { tail_cache_bytes: cache, ..small_options() };
        let log_options = if relaxed_log { relaxed(segment_bytes) } else { durable(segment_bytes) };
        with_log(seed, options, log_options, |bench| async move {
            let mut run = Run { bench, model: Model::default(), term: 1, relaxed: relaxed_log };
            for step in steps {
                run.take(step);
                let start = run.bench.log.frontiers().log_start.0;
                assert!(relaxed_log || start >= run.model.log_start || start >= run.model.committed_start());
                run.model.log_start = start;
            }
            run.check();
            run.take(Step::Evict);
            run.check();
        });
    }
}
