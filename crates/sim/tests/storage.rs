//! The storage layer alone: random work on a data directory, with a crash at any disk operation of any life.
//!
//! Whatever is found after a crash must be what was confirmed as durable plus some of what was asked for later, in
//! order: nothing else, nothing twice, nothing from an earlier life.

#[path = "storage/model.rs"]
mod model;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use millpond_record::{
    BatchBuilder, BatchHeader, Codec, GroupId, Offset, PartitionIndex, ProducerEpoch, ProducerId, RaftIndex,
    RaftOnlyKind, ReplicaId, StampedBatch, Term, Timestamp, TopicId, raft_only_batch,
};
use millpond_runtime::Runtime;
use millpond_runtime::sim::{Crash, DiskFaults, NodeId, Rng, World, block_on};
use millpond_storage::{
    DataDir, Done, Entries, GroupSpec, Log, LogOptions, OpenError, Outcome, Proposal, Read, ReadError, StorageError,
    StorageOptions, Vote, log_start_payload,
};
use model::{Confirmed, Entry, Group, Step};

const NODE: NodeId = NodeId(1);
const LIVES: u32 = 6;

/// The groups as the test knows them; it outlives the node.
type Groups = Arc<Mutex<BTreeMap<GroupId, Group>>>;

struct Settings {
    options: StorageOptions,
    segment_bytes: u32,
    filler_bytes: u64,
    /// How probable a failing sync of a journal file is.
    sync_error: f64,
}

impl Settings {
    fn draw(rng: &mut Rng) -> Settings {
        let options = StorageOptions {
            journal_file_bytes: 64 << 10,
            journal_files: rng.between(3, 5) as u32,
            tail_cache_bytes: rng.pick(&[4 << 10, 32 << 10, 1 << 20]),
            index_interval_bytes: 128 << rng.below(6),
            segment_sync_bytes: rng.pick(&[1, 1 << 10, 8 << 10, u64::MAX]),
            ..StorageOptions::default()
        };
        let segment_bytes = (2 << 10) << rng.below(6);
        Settings {
            options,
            segment_bytes,
            filler_bytes: rng.pick(&[50, 500, 4_000]),
            sync_error: rng.pick(&[0.0, 0.0, 0.01, 0.1]),
        }
    }
}

/// Confirms up to a number of steps or votes when it is called.
fn confirm(confirmed: &Arc<Mutex<Confirmed>>, f: impl FnOnce(&mut Confirmed) + Send + 'static) -> Done {
    let confirmed = Arc::clone(confirmed);
    Box::new(move |result| {
        let mut confirmed = confirmed.lock().unwrap();
        match result {
            Ok(()) => f(&mut confirmed),
            Err(_) => confirmed.errors += 1,
        }
    })
}

/// One life of the process: opens the directory, checks it, works on it.
struct Life {
    runtime: Runtime,
    settings: Arc<Settings>,
    groups: Groups,
    rng: Rng,
    directory: DataDir,
}

/// Why a life does not go on.
enum Trouble {
    /// Something is there that must not be, or is missing.
    Violation(String),
    /// The storage layer says that it cannot. Right after a failed sync, wrong otherwise.
    Refused(StorageError),
}

impl From<String> for Trouble {
    fn from(what: String) -> Trouble {
        Trouble::Violation(what)
    }
}

impl From<StorageError> for Trouble {
    fn from(error: StorageError) -> Trouble {
        Trouble::Refused(error)
    }
}

impl From<ReadError> for Trouble {
    fn from(error: ReadError) -> Trouble {
        match error {
            ReadError::Storage(error) => Trouble::Refused(error),
            other => Trouble::Violation(other.to_string()),
        }
    }
}

type Checked<T> = Result<T, Trouble>;

macro_rules! violation {
    ($($text:tt)*) => { Trouble::Violation(format!($($text)*)) };
}

impl Life {
    /// Opens and checks. `Err` with a violation; `Ok(None)` when the node died meanwhile.
    async fn begin(
        world: &World,
        runtime: Runtime,
        settings: Arc<Settings>,
        groups: Groups,
        number: u64,
        clean: bool,
    ) -> Checked<Option<Life>> {
        let (in_blocking, options) = (runtime.clone(), settings.options.clone());
        let opened = runtime.blocking(move || {
            let on_fatal: Arc<dyn Fn(&StorageError) + Send + Sync> = Arc::new(|_| {});
            DataDir::open(&in_blocking, Path::new("/data"), options, on_fatal)
        });
        let directory = match opened.await {
            Ok((directory, report)) => match report.damaged.into_iter().next() {
                Some(damaged) => {
                    let (group, what) = (damaged.group, damaged.what);
                    return Err(Trouble::Refused(StorageError::Corrupt { group, what }));
                }
                None => directory,
            },
            Err(_) if !world.is_alive(NODE) => return Ok(None),
            Err(OpenError::Recovery(error)) => return Err(Trouble::Refused(error)),
            Err(error) if settings.sync_error > 0.0 && matches!(error, OpenError::Io { .. }) => return Ok(None),
            Err(error) => return Err(Trouble::Violation(format!("cannot be opened: {error}"))),
        };
        let rng = world.rng("work").fork("life", number);
        let life = Life { runtime, settings, groups, rng, directory };
        let checked = life.check_all(clean).await;
        if !world.is_alive(NODE) {
            return Ok(None);
        }
        checked.map(|()| Some(life))
    }

    /// Compares every group with the model.
    async fn check_all(&self, clean: bool) -> Checked<()> {
        let rows = self.directory.groups();
        let known: Vec<GroupId> = self.groups.lock().unwrap().keys().copied().collect();
        for row in &rows {
            if !known.contains(&row.group) {
                return Err(violation!("group {} was never made, or deleted for good", row.group));
            }
        }
        for id in known {
            let Some(mut group) = self.groups.lock().unwrap().get(&id).cloned() else { continue };
            let (created, deleted) = {
                let confirmed = group.confirmed.lock().unwrap();
                (confirmed.created, confirmed.deleted)
            };
            let row = rows.iter().find(|row| row.group == id);
            match row {
                None if created && !group.delete_asked => return Err(violation!("group {id} is gone")),
                None => {
                    self.groups.lock().unwrap().remove(&id);
                }
                Some(_) if deleted => return Err(violation!("group {id} was deleted and is there")),
                Some(row) => {
                    if (&row.topic, row.topic_id, row.replica)
                        != (&group.spec.topic, group.spec.topic_id, group.spec.replica)
                    {
                        return Err(violation!("group {id} has the row {row:?}"));
                    }
                    let log = self.log(id).await?;
                    let found = self.found(&log, &group).await?;
                    group.delete_asked = false;
                    group.recovered(found, log.vote(), clean)?;
                    group.committed = log.frontiers().committed.map(|id| id.index);
                    self.groups.lock().unwrap().insert(id, group.clone());
                    self.check_reads(&log, &group).await?;
                }
            }
        }
        Ok(())
    }

    async fn log(&self, id: GroupId) -> Checked<Arc<Log>> {
        let directory = self.directory.clone();
        match self.runtime.blocking(move || directory.log(id)).await {
            Ok(Some(log)) => Ok(log),
            Ok(None) => Err(violation!("group {id} has a row and no log")),
            Err(error) => Err(error.into()),
        }
    }

    /// What the log holds; in place of what was removed, which must be below P and the log start, what was there.
    async fn found(&self, log: &Arc<Log>, group: &Group) -> Checked<Vec<Entry>> {
        let (purged, frontiers) = (log.purged(), log.frontiers());
        let most = purged.map_or(0, |purged| purged.index.0 + 1);
        let mut first = 0;
        while first < most && log.log_id_at(RaftIndex(first)).is_none() {
            first += 1;
        }
        // P itself is known when it is gone.
        if first + 1 == most && !self.has_entry(log, RaftIndex(first)).await? {
            first = most;
        }
        let model = group.log();
        let Some(removed) = model.get(..first as usize) else {
            return Err(violation!("group {} has lost what was never in it: {first} entries", log.group()));
        };
        if Group::next_offset(removed) > frontiers.log_start {
            return Err(violation!("group {} has lost records from {}", log.group(), frontiers.log_start));
        }
        let mut found = removed.to_vec();
        found.extend(self.entries(log, RaftIndex(first)).await?);
        Group::check_log_start(&found, frontiers.committed.map(|id| id.index), frontiers.log_start)?;
        Ok(found)
    }

    async fn has_entry(&self, log: &Arc<Log>, index: RaftIndex) -> Checked<bool> {
        Ok(match log.entries(index, RaftIndex(index.0 + 1), 1)? {
            Entries::Ready(entries) => !entries.is_empty(),
            Entries::Cold(cold) => {
                let found = self.runtime.blocking(move || cold.run()).await?;
                found.first().is_some_and(|(id, _)| id.index == index)
            }
        })
    }

    /// All entries from an index on.
    async fn entries(&self, log: &Arc<Log>, from: RaftIndex) -> Checked<Vec<Entry>> {
        let mut found: Vec<Entry> = Vec::new();
        let end = log.frontiers().last.map_or(0, |last| last.index.0 + 1);
        while from.0 + (found.len() as u64) < end {
            let next = RaftIndex(from.0 + found.len() as u64);
            let entries = match log.entries(next, RaftIndex(end), 5_000)? {
                Entries::Ready(entries) => entries,
                Entries::Cold(cold) => self.runtime.blocking(move || cold.run()).await?,
            };
            if entries.is_empty() {
                return Err(violation!("group {} gives no entry {next}, its end is {end}", log.group()));
            }
            for (id, batch) in entries {
                if id.index.0 != from.0 + found.len() as u64 {
                    return Err(violation!("entry {} where {} follows", id.index, from.0 + found.len() as u64));
                }
                if !millpond_record::verify_crc(&batch.to_bytes()) {
                    return Err(violation!("entry {} is damaged", id.index));
                }
                found.push(Entry::of(id.term, &batch));
            }
        }
        Ok(found)
    }

    /// Reads data by offset, from the start and from somewhere, and looks a time up.
    async fn check_reads(&self, log: &Arc<Log>, group: &Group) -> Checked<()> {
        let model = group.log();
        let end = Group::next_offset(&model);
        let frontiers = log.frontiers();
        if frontiers.log_end != end {
            return Err(violation!("group {} ends at {}, not at {end}", group.spec.group, frontiers.log_end));
        }
        let mut rng = self.rng.fork("reads", group.spec.group.0);
        let start = frontiers.log_start;
        if start > Offset(0) && log.read(Offset(start.0 - 1), end, 1, true).is_ok() {
            return Err(violation!("group {} is read below its log start {start}", group.spec.group));
        }
        for from in [start.0 as u64, rng.between(start.0 as u64, end.0 as u64)] {
            let from = Offset(from as i64);
            let first = model.iter().filter(|entry| entry.is_data()).position(|e| e.header().next_offset() > from);
            let data: Vec<&Entry> = model.iter().filter(|entry| entry.is_data()).collect();
            let expected: Vec<u8> =
                first.map_or(Vec::new(), |at| data[at..].iter().flat_map(|e| e.bytes.to_vec()).collect());
            let mut found: Vec<u8> = Vec::new();
            let mut next = from;
            while next < end {
                let max_bytes = rng.between(1, 10_000) as usize;
                let chunks = match log.read(next, end, max_bytes, true)? {
                    Read::Ready(chunks) => chunks,
                    Read::Cold(cold) => self.runtime.blocking(move || cold.run()).await?,
                };
                let bytes = chunks.concat();
                if bytes.is_empty() {
                    return Err(violation!("group {} gives nothing at {next}, its end is {end}", group.spec.group));
                }
                let mut rest = &bytes[..];
                while !rest.is_empty() {
                    let header = BatchHeader::read(rest).map_err(|error| error.to_string())?;
                    next = header.next_offset();
                    rest = &rest[header.size_bytes as usize..];
                }
                found.extend_from_slice(&bytes);
            }
            if found != expected {
                return Err(violation!("group {} reads wrong bytes from {from}", group.spec.group));
            }
        }
        self.check_time(log, &model, &mut rng).await
    }

    async fn check_time(&self, log: &Arc<Log>, model: &[Entry], rng: &mut Rng) -> Checked<()> {
        let time = Timestamp(rng.below(1_100) as i64);
        let end = Group::next_offset(model);
        let start = log.frontiers().log_start;
        let data = model.iter().filter(|entry| entry.is_data() && entry.header().next_offset() > start);
        let expected = data.filter(|entry| entry.header().max_timestamp >= time);
        let expected = expected.map(|entry| entry.header().base_offset.max(start)).next();
        let in_blocking = Arc::clone(log);
        let found = self.runtime.blocking(move || in_blocking.offset_for_timestamp(time, end)).await;
        let found = found?.map(|found| found.offset);
        if found != expected {
            return Err(violation!("group {}: time {time} is at {found:?}, expected {expected:?}", log.group()));
        }
        Ok(())
    }

    /// Works until the node dies, an operation fails because of that, or all is done.
    async fn work(&mut self, operations: u64) -> Checked<()> {
        let mut logs: BTreeMap<GroupId, (Arc<Log>, Term)> = BTreeMap::new();
        for _ in 0..operations {
            if self.rng.chance(0.3) {
                let pause = Duration::from_millis(self.rng.below(12));
                self.runtime.sleep(pause).await;
            }
            let ids: Vec<GroupId> = {
                let groups = self.groups.lock().unwrap();
                groups.values().filter(|group| !group.delete_asked).map(|group| group.spec.group).collect()
            };
            if ids.is_empty() || (ids.len() < 4 && self.rng.chance(0.03)) {
                self.create().await?;
                continue;
            }
            let id = ids[self.rng.index(ids.len())];
            let is_open = logs.contains_key(&id);
            if !is_open {
                let log = self.log(id).await?;
                let term = self.vote(&log).await?;
                logs.insert(id, (log, term));
            }
            let (log, term) = logs[&id].clone();
            match self.rng.below(100) {
                0..80 => self.append(&log, term)?,
                80..84 => self.raft_only(&log, term)?,
                84..87 => {
                    // A log is cut because a leader of a higher term has other entries there.
                    let term = self.vote(&log).await?;
                    self.truncate(&log).await?;
                    self.raft_only(&log, term)?;
                    logs.insert(id, (log, term));
                }
                87..89 => {
                    let term = self.vote(&log).await?;
                    logs.insert(id, (log, term));
                }
                89..92 => {
                    let group = self.groups.lock().unwrap()[&id].clone();
                    self.check_reads(&log, &group).await?;
                }
                92..94 => self.commit(&log)?,
                94..97 => self.move_log_start(&log, term)?,
                97 => {
                    logs.remove(&id);
                    self.delete(id).await?;
                }
                _ => self.runtime.sleep(Duration::from_millis(50)).await,
            }
        }
        Ok(())
    }

    async fn create(&mut self) -> Checked<()> {
        let group = GroupId(self.rng.draw() >> 1);
        let [low, high] = [group.0, self.rng.draw()].map(u64::to_be_bytes);
        let spec = GroupSpec {
            group,
            topic: format!("t{}", self.rng.below(3)),
            partition: PartitionIndex(self.rng.below(2) as i32),
            topic_id: TopicId([low, high].concat().try_into().expect("sixteen bytes")),
            replica: ReplicaId(self.rng.draw() >> 1),
            options: LogOptions { segment_bytes: self.settings.segment_bytes, ..LogOptions::default() },
        };
        let model = Group::new(spec.clone());
        let done = confirm(&model.confirmed, |confirmed| confirmed.created = true);
        self.groups.lock().unwrap().insert(group, model);
        let directory = self.directory.clone();
        match self.runtime.blocking(move || directory.create_group(spec, done)).await {
            Ok(_) => Ok(()),
            Err(StorageError::FolderTaken { .. }) => {
                self.groups.lock().unwrap().remove(&group);
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn delete(&mut self, id: GroupId) -> Checked<()> {
        let done = self.model(id, |group| {
            group.delete_asked = true;
            confirm(&group.confirmed, |confirmed| confirmed.deleted = true)
        });
        let directory = self.directory.clone();
        self.runtime.blocking(move || directory.delete_group(id, done)).await.map_err(Trouble::from)
    }

    fn model<T>(&self, id: GroupId, f: impl FnOnce(&mut Group) -> T) -> T {
        f(self.groups.lock().unwrap().get_mut(&id).expect("work is done on known groups"))
    }

    /// Takes the next term and waits until that is durable.
    async fn vote(&mut self, log: &Arc<Log>) -> Checked<Term> {
        let (term, confirmed, number) = self.model(log.group(), |group| {
            let term = Term(group.votes.last().map_or(0, |vote| vote.term.0) + 1);
            group.votes.push(Vote { term, replica: group.spec.replica, committed: true });
            (term, Arc::clone(&group.confirmed), group.votes.len() - 1)
        });
        let vote = self.model(log.group(), |group| group.votes[number]);
        log.save_vote(vote, confirm(&confirmed, move |confirmed| confirmed.votes = confirmed.votes.max(number)));
        for _ in 0..1_000 {
            if confirmed.lock().unwrap().votes >= number {
                return Ok(term);
            }
            if confirmed.lock().unwrap().errors > 0 {
                return Err(StorageError::Closed("/data".into()).into());
            }
            self.runtime.sleep(Duration::from_millis(10)).await;
        }
        Err(violation!("a vote of group {} is never durable", log.group()))
    }

    fn append(&mut self, log: &Arc<Log>, term: Term) -> Checked<()> {
        let model = self.model(log.group(), |group| group.log());
        let producer = ProducerId(self.rng.below(3) as i64);
        let sent: Vec<&Entry> = model.iter().filter(|e| e.is_data() && e.header().producer_id == producer).collect();
        // The last five batches of a producer are recognised.
        let again = (producer.0 > 0 && !sent.is_empty() && self.rng.chance(0.1))
            .then(|| sent[sent.len() - 1 - self.rng.index(sent.len().min(5))].clone());
        let batch = match &again {
            Some(entry) => unstamped(&entry.bytes),
            None => {
                let sequence = sent.last().map_or(0, |entry| entry.header().last_sequence() + 1);
                self.batch(producer, sequence)
            }
        };
        let header = BatchHeader::read(&batch).map_err(|error| error.to_string())?;
        let proposal = Proposal {
            frame_bytes: batch.len() * if self.rng.chance(0.5) { 1 } else { 8 },
            batch: batch.clone(),
            header,
            append_time: Timestamp(self.runtime.wall_clock()),
        };
        // The model must know of the step before it can be confirmed or survive.
        let stamped = StampedBatch::new(batch, Group::next_offset(&model), term.leader_epoch())
            .map_err(|error| error.to_string())?;
        let done = match &again {
            Some(_) => Box::new(|_| {}) as Done,
            None => self.model(log.group(), |group| {
                let number = group.push(Step::Append(Entry::of(term, &stamped)));
                confirm(&group.confirmed, move |confirmed| confirmed.steps = confirmed.steps.max(number))
            }),
        };
        let outcome = log.append_solo(term, proposal, done)?;
        let expected = again.map_or(Group::next_offset(&model), |entry| entry.header().base_offset);
        match outcome {
            Outcome::Appended { base_offset, index, .. }
                if base_offset == expected && index.0 == model.len() as u64 =>
            {
                Ok(())
            }
            Outcome::Duplicate { base_offset, .. } if base_offset == expected => Ok(()),
            other => Err(violation!("group {}: {other:?}, expected offset {expected}", log.group())),
        }
    }

    fn batch(&mut self, producer: ProducerId, sequence: i32) -> Bytes {
        let mut builder = BatchBuilder::new().codec(self.rng.pick(&[Codec::None, Codec::Lz4]));
        if producer.0 > 0 {
            builder = builder.producer(producer, ProducerEpoch(0), sequence);
        }
        let time = Timestamp(self.rng.below(1_000) as i64);
        for _ in 0..self.rng.between(1, 3) {
            let mut value = vec![0; self.rng.below(self.settings.filler_bytes) as usize];
            self.rng.fill(&mut value);
            builder.append(time, None, Some(&value));
        }
        builder.build()
    }

    fn raft_only(&mut self, log: &Arc<Log>, term: Term) -> Checked<()> {
        let payload = Bytes::from(self.rng.draw().to_be_bytes().to_vec());
        let time = Timestamp(self.runtime.wall_clock());
        let done = self.model(log.group(), |group| {
            let offset = Group::next_offset(&group.log());
            let batch = raft_only_batch(RaftOnlyKind::Blank, &payload, offset, term.leader_epoch(), time);
            let number = group.push(Step::Append(Entry::of(term, &batch)));
            confirm(&group.confirmed, move |confirmed| confirmed.steps = confirmed.steps.max(number))
        });
        let outcome = log.append_raft_only(term, RaftOnlyKind::Blank, payload, time, done);
        outcome.map(|_| ()).map_err(Trouble::from)
    }

    /// Moves the log start, or P to where it allows, or lets a checkpoint remove what lies below both.
    fn move_log_start(&mut self, log: &Arc<Log>, term: Term) -> Checked<()> {
        self.commit(log)?;
        let frontiers = log.frontiers();
        match self.rng.below(3) {
            0 => {
                let (start, end) = (frontiers.log_start.0 as u64, frontiers.high_watermark.0 as u64);
                let offset = Offset(if self.rng.chance(0.3) { end } else { self.rng.between(start, end) } as i64);
                let time = Timestamp(self.runtime.wall_clock());
                let done = self.model(log.group(), |group| {
                    let next = Group::next_offset(&group.log());
                    let payload = log_start_payload(offset);
                    let batch = raft_only_batch(RaftOnlyKind::LogStart, &payload, next, term.leader_epoch(), time);
                    let number = group.push(Step::Append(Entry::of(term, &batch)));
                    confirm(&group.confirmed, move |confirmed| confirmed.steps = confirmed.steps.max(number))
                });
                log.append_log_start(term, offset, time, done)?;
            }
            1 => drop(log.free_below_log_start()?),
            _ => self.directory.want_checkpoint(),
        }
        Ok(())
    }

    /// Cuts some uncommitted entries, as a follower does.
    async fn truncate(&mut self, log: &Arc<Log>) -> Checked<()> {
        let (len, committed) = self.model(log.group(), |group| (group.log().len() as u64, group.committed));
        let first = committed.map_or(0, |index| index.0 + 1);
        if first >= len {
            return Ok(());
        }
        let keep = self.rng.between(first, len - 1);
        let after = keep.checked_sub(1).map(RaftIndex);
        self.model(log.group(), |group| group.push(Step::TruncateAfter(after)));
        let log = Arc::clone(log);
        self.runtime.blocking(move || log.truncate_after(after)).await.map_err(Trouble::from)
    }

    /// Commits some of what is durable.
    fn commit(&mut self, log: &Arc<Log>) -> Checked<()> {
        let durable = self.model(log.group(), |group| {
            let steps = group.confirmed.lock().unwrap().steps;
            group.durable_len(steps)
        });
        let Some(last) = durable.checked_sub(1) else { return Ok(()) };
        let before = log.frontiers();
        let index = RaftIndex(self.rng.between(last.saturating_sub(3), last));
        let after = log.commit(index);
        if after.high_watermark < before.high_watermark || after.committed < before.committed {
            return Err(violation!("group {}: the high watermark went back", log.group()));
        }
        let index = after.committed.map(|id| id.index);
        if after.log_start < before.log_start {
            return Err(violation!("group {}: the log start went back", log.group()));
        }
        let model = self.model(log.group(), |group| {
            group.committed = index;
            group.log()
        });
        Ok(Group::check_log_start(&model, index, after.log_start)?)
    }
}

/// A batch as its producer sent it.
fn unstamped(stamped: &[u8]) -> Bytes {
    let mut batch = stamped.to_vec();
    batch[..8].fill(0);
    batch[12..16].copy_from_slice(&(-1i32).to_be_bytes());
    batch.into()
}

/// What a run has come to: the trace, and what was wrong.
fn run(seed: u64, trace: bool) -> (u64, Vec<String>) {
    block_on(seed, async {
        let world = World::new(seed);
        if trace {
            world.trace_to(|line| eprintln!("{line}"));
        }
        let mut rng = world.rng("director");
        let settings = Arc::new(Settings::draw(&mut rng));
        let groups: Groups = Arc::default();
        let mut clean = true;
        for number in 0..LIVES {
            let last = number == LIVES - 1;
            let kind = if rng.chance(0.6) { Crash::PowerCut } else { Crash::Kill };
            let runtime = world.restart(NODE);
            let sync_error = if last { 0.0 } else { settings.sync_error };
            let faults = DiskFaults { sync_error, sync_error_in: "/journal/", ..DiskFaults::default() };
            world.set_disk_faults(NODE, faults);
            let most = rng.pick(&[20, 300, 2_000]);
            let operations = rng.between(1, most);
            if !last && rng.chance(0.8) {
                let most = if rng.chance(0.4) { 40 } else { 400 };
                let at = world.disk_op_count(NODE) + rng.between(1, most);
                world.crash_at_disk_op(NODE, at, kind);
            }
            let close = rng.chance(0.3);
            let outcome: Arc<Mutex<Option<Checked<bool>>>> = Arc::default();
            let task = {
                let (world, settings) = (world.clone(), Arc::clone(&settings));
                let (groups, outcome) = (Arc::clone(&groups), Arc::clone(&outcome));
                runtime.clone().spawn(async move {
                    let result = live(&world, runtime, settings, groups, u64::from(number), clean, operations, close);
                    let result = result.await;
                    if world.is_alive(NODE) {
                        *outcome.lock().unwrap() = Some(result);
                    }
                })
            };
            let director = world.runtime_for(NodeId(0));
            if director.timeout(Duration::from_secs(600), task).await.is_err() {
                world.fail("a life takes more than 600 s".to_owned());
            }
            let result = outcome.lock().unwrap().take();
            clean = false;
            match result {
                Some(Ok(closed)) => {
                    clean = closed;
                    world.crash(NODE, kind);
                }
                Some(Err(Trouble::Refused(_))) if sync_error > 0.0 => world.crash(NODE, kind),
                Some(Err(Trouble::Refused(error))) => world.fail(format!("life {number}: {error}")),
                Some(Err(Trouble::Violation(what))) => world.fail(format!("life {number}: {what}")),
                None => {}
            }
            if !world.failures().is_empty() {
                break;
            }
        }
        (world.trace_hash(), world.failures())
    })
}

/// Opens, checks, works, and closes if `close`; tells whether it did.
#[allow(clippy::too_many_arguments)] // It is the task's environment.
async fn live(
    world: &World,
    runtime: Runtime,
    settings: Arc<Settings>,
    groups: Groups,
    number: u64,
    clean: bool,
    operations: u64,
    close: bool,
) -> Checked<bool> {
    let Some(mut life) = Life::begin(world, runtime.clone(), settings, groups, number, clean).await? else {
        return Ok(false);
    };
    life.work(operations).await?;
    if close {
        let directory = life.directory.clone();
        runtime.blocking(move || directory.close()).await?;
    }
    Ok(close)
}

/// 30 seeds, or those of `SEEDS=A..B`; one seed alone is traced on standard error.
#[test]
#[allow(clippy::disallowed_methods, reason = "a switch for the person at the keyboard")]
fn a_data_directory_keeps_what_it_confirmed_through_crashes_at_any_disk_operation() {
    let seeds = std::env::var("SEEDS").unwrap_or_else(|_| "0..30".into());
    let (first, last) = seeds.split_once("..").expect("SEEDS=A..B");
    let (first, last): (u64, u64) = (first.parse().unwrap(), last.parse().unwrap());
    let mut failed = 0;
    for seed in first..last {
        let (hash, failures) = run(seed, last == first + 1);
        let same = run(seed, false).0 == hash;
        if !failures.is_empty() || !same {
            failed += 1;
            eprintln!("seed {seed}: {failures:#?}{}", if same { "" } else { " and two traces" });
        }
    }
    assert_eq!(failed, 0, "{failed} of {} seeds failed", last - first);
}
