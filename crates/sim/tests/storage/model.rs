//! What a group may look like after a crash, as data.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use millpond_record::{BatchHeader, Offset, RaftIndex, RaftOnlyKind, StampedBatch, Term, parse_raft_only};
use millpond_storage::{GroupSpec, Vote};

/// An entry of a log: its term and the stamped bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub term: Term,
    pub bytes: Bytes,
}

impl Entry {
    pub fn of(term: Term, batch: &StampedBatch) -> Entry {
        Entry { term, bytes: batch.to_bytes() }
    }

    pub fn header(&self) -> BatchHeader {
        BatchHeader::read(&self.bytes).expect("the model holds whole batches")
    }

    /// Where the entry asks the log start to be.
    pub fn log_start(&self) -> Option<Offset> {
        let batch = StampedBatch::from_bytes(self.bytes.clone()).expect("the model holds whole batches");
        match parse_raft_only(&batch) {
            Ok((RaftOnlyKind::LogStart, payload)) => {
                Some(Offset(i64::from_le_bytes(*payload.first_chunk().expect("eight bytes"))))
            }
            _ => None,
        }
    }

    pub fn is_data(&self) -> bool {
        !self.header().attributes.is_raft_only()
    }
}

/// One thing that was done to a log.
#[derive(Clone, Debug)]
pub enum Step {
    Append(Entry),
    TruncateAfter(Option<RaftIndex>),
}

/// What the storage layer has confirmed of a group; shared with its callbacks.
#[derive(Debug, Default)]
pub struct Confirmed {
    pub created: bool,
    pub deleted: bool,
    /// Steps that are durable: a prefix of them.
    pub steps: usize,
    /// Votes that are durable: a prefix of them.
    pub votes: usize,
    /// How many confirmations came as errors.
    pub errors: usize,
}

/// A group: what is surely there, and what was done since.
#[derive(Clone)]
pub struct Group {
    pub spec: GroupSpec,
    base: Vec<Entry>,
    steps: Vec<Step>,
    /// The votes that were saved, the first one surely.
    pub votes: Vec<Vote>,
    pub delete_asked: bool,
    pub committed: Option<RaftIndex>,
    pub confirmed: Arc<Mutex<Confirmed>>,
}

fn apply(log: &mut Vec<Entry>, step: &Step) {
    match step {
        Step::Append(entry) => log.push(entry.clone()),
        Step::TruncateAfter(after) => log.truncate(after.map_or(0, |index| index.0 as usize + 1)),
    }
}

impl Group {
    pub fn new(spec: GroupSpec) -> Group {
        Group {
            spec,
            base: Vec::new(),
            steps: Vec::new(),
            votes: vec![Vote::default()],
            delete_asked: false,
            committed: None,
            confirmed: Arc::default(),
        }
    }

    /// The log as memory has it.
    pub fn log(&self) -> Vec<Entry> {
        self.after(self.steps.len())
    }

    /// Entries that are durable and still in the log.
    pub fn durable_len(&self, steps: usize) -> u64 {
        let durable = self.after(steps);
        let log = self.log();
        durable.iter().zip(&log).take_while(|(one, other)| one == other).count() as u64
    }

    fn after(&self, steps: usize) -> Vec<Entry> {
        let mut log = self.base.clone();
        self.steps[..steps].iter().for_each(|step| apply(&mut log, step));
        log
    }

    /// Records a step; its number is what a confirmation counts to.
    pub fn push(&mut self, step: Step) -> usize {
        self.steps.push(step);
        self.steps.len()
    }

    /// What a recovered log may hold: the state after the confirmed steps, or after any further ones.
    ///
    /// # Errors
    /// Says what was found instead.
    pub fn recovered(&mut self, found: Vec<Entry>, vote: Vote, clean: bool) -> Result<(), String> {
        let confirmed = std::mem::take(&mut *self.confirmed.lock().unwrap());
        let least = if clean { self.steps.len() } else { confirmed.steps };
        let fits = (least..=self.steps.len()).any(|steps| self.after(steps) == found);
        if !fits {
            return Err(format!(
                "the log of group {} holds {} entries {:?}; {} of {} steps are durable, with {} entries {:?}",
                self.spec.group,
                found.len(),
                terms(&found),
                least,
                self.steps.len(),
                self.after(least).len(),
                terms(&self.after(least)),
            ));
        }
        let least = if clean { self.votes.len() - 1 } else { confirmed.votes };
        if !self.votes[least..].contains(&vote) {
            return Err(format!("group {} votes {vote:?}, but {:?} are saved", self.spec.group, &self.votes[least..]));
        }
        // What recovery keeps it has synced: from here on it must stay.
        self.base = found;
        self.steps.clear();
        self.votes = vec![vote];
        self.confirmed.lock().unwrap().created = true;
        Ok(())
    }

    /// Whether a log may start at `found` when everything up to `committed` is committed: nowhere below what was asked
    /// for there, and nowhere above what was ever asked for.
    pub fn check_log_start(log: &[Entry], committed: Option<RaftIndex>, found: Offset) -> Result<(), String> {
        let committed = committed.map_or(0, |index| index.0 as usize + 1);
        let highest = |entries: &[Entry]| entries.iter().filter_map(Entry::log_start).max().unwrap_or(Offset(0));
        let (least, most) = (highest(&log[..committed.min(log.len())]), highest(log));
        if (least..=most).contains(&found) {
            return Ok(());
        }
        Err(format!("it starts at {found}, asked for was {least}, or up to {most} by what is not committed"))
    }

    pub fn next_offset(log: &[Entry]) -> Offset {
        log.last().map_or(Offset(0), |entry| entry.header().next_offset())
    }
}

/// The terms of a log in short, each with its last index.
fn terms(log: &[Entry]) -> Vec<(u64, usize)> {
    let mut terms: Vec<(u64, usize)> = Vec::new();
    for (index, entry) in log.iter().enumerate() {
        match terms.last_mut() {
            Some((term, last)) if *term == entry.term.0 => *last = index,
            _ => terms.push((entry.term.0, index)),
        }
    }
    terms
}
