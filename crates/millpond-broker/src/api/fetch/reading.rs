//! Reading for a fetch: what is there now of each partition, and waiting for more.
//!
//! Partitions are read as their [`Session`] has them due. A session that is kept keeps what it found of a partition
//! (its log, its watch) from one request to the next, and its watches go on while no request is there: a request costs
//! what has changed, not what is followed.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, FuturesUnordered};
use futures::{FutureExt, StreamExt};
use millpond_raft::{Leader, Partition, PartitionState};
use millpond_record::{BrokerId, Offset, PartitionIndex};
use millpond_storage::{Frontiers, Log, Piece, Read, ReadAhead};
use millpond_wire::fetch::{FetchRequest, LeaderIdAndEpoch, PartitionData};
use millpond_wire::{Chunk, Elsewhere, ErrorCode, Records};
use tokio::sync::watch;

use super::check_leader_epoch;
use super::steering::{self, Steering};
use crate::dispatch::Call;
use crate::errors::{self, Fault};
use crate::extent::next_offset;
use crate::fetch_session::{Answer, Asked, Followed, Found, Place, Session, TopicKey};
use crate::memory::{AnswerShare, held_bytes};
use crate::session_cache::Size;

/// Logs of one request that are opened at once.
const OPEN_AT_ONCE: usize = 64;
/// A fetch that holds more than this does not wait on while memory for answers is short: what one client waits for may
/// not keep others from being answered.
const LIGHT_BYTES: usize = 64 << 10;
/// Watches of partitions that are followed no longer are thrown away when there are as many beyond those in use.
const MAX_LOOSE_WATCHES: usize = 64;

/// A watch that has seen something: whose it is, and its number.
type Seen = (Place, u64);

/// The partitions of one fetch, or of a session.
pub(crate) struct Following {
    session: Session<Reading>,
    watches: FuturesUnordered<BoxFuture<'static, Seen>>,
    next_watch: u64,
    read_committed: bool,
    /// Counts requests, to tell what was read for an earlier one.
    request: u64,
}

/// What is known of one partition.
#[derive(Default)]
pub(crate) struct Reading {
    source: Option<Source>,
    /// The number of its watch.
    watch: Option<u64>,
    /// The request that the following is of.
    request: u64,
    fault: Option<Fault>,
    /// Who leads it, where it was asked of the wrong broker.
    leader: Option<Leader>,
    /// The follower that the reader should ask from now on.
    nearer: Option<BrokerId>,
    /// What is read next.
    offset: Offset,
    chunks: Vec<Chunk>,
    bytes: usize,
    /// There is more than the limits let through.
    more: bool,
}

struct Source {
    partition: Partition,
    log: Arc<Log>,
    state: watch::Receiver<PartitionState>,
    frontiers: Frontiers,
}

impl Following {
    pub(super) fn new() -> Following {
        Following {
            session: Session::new(),
            watches: FuturesUnordered::new(),
            next_watch: 0,
            read_committed: false,
            request: 0,
        }
    }

    /// Follows a partition, twice if it is asked to.
    pub(super) fn follow(&mut self, topic: TopicKey, partition: i32, asked: Asked) {
        self.session.push(topic, partition, asked, Reading::default());
    }

    /// Follows a partition as it is asked for now; once [`Following::keep`] was called.
    pub(super) fn update(&mut self, topic: &TopicKey, partition: i32, asked: Asked) {
        self.session.update(topic, partition, asked, Reading::default);
    }

    pub(super) fn forget(&mut self, topic: &TopicKey, partition: i32) {
        drop(self.session.forget(topic, partition));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.session.len() == 0
    }

    /// See [`Session::keep`].
    pub(super) fn keep(&mut self) -> bool {
        self.session.keep()
    }

    /// What it takes.
    pub(super) fn size(&self) -> Size {
        Size { partitions: self.session.len(), bytes: self.session.memory_bytes() }
    }

    /// Begins a request.
    fn begin(&mut self, read_committed: bool) {
        self.request += 1;
        if self.read_committed != read_committed {
            self.read_committed = read_committed;
            self.session.wake_all();
        }
        // Whatever was seen since the last request. Not held back by tokio's budget: an answer names all that is new.
        while let Some(Some(seen)) = tokio::task::coop::unconstrained(self.watches.next()).now_or_never() {
            self.see(seen);
        }
        if self.watches.len() > 2 * self.session.len() + MAX_LOOSE_WATCHES {
            self.watch_anew();
        }
    }

    /// Whose partition must be looked at, if it is followed still.
    fn see(&mut self, (place, number): Seen) -> Option<Place> {
        let reading = &mut self.session.get_mut(place)?.attached;
        if reading.watch != Some(number) {
            return None;
        }
        reading.watch = None;
        self.session.wake(place);
        Some(place)
    }

    /// Watches a partition for what changes after the last look.
    fn watch(&mut self, place: Place) {
        let Some(followed) = self.session.get_mut(place) else { return };
        let (None, Some(source)) = (followed.attached.watch, &followed.attached.source) else { return };
        let (number, mut state) = (self.next_watch, source.state.clone());
        self.next_watch += 1;
        followed.attached.watch = Some(number);
        self.watches.push(Box::pin(async move {
            // An error says that nobody will change it any more; its last value tells why.
            let _ = state.changed().await;
            (place, number)
        }));
    }

    /// Throws the watches away that nobody needs.
    fn watch_anew(&mut self) {
        self.watches = FuturesUnordered::new();
        for place in self.session.places() {
            if let Some(followed) = self.session.get_mut(place)
                && followed.attached.watch.take().is_some()
            {
                self.watch(place);
            }
        }
    }

    /// Ends a request.
    pub(super) fn answer(&mut self) -> Answer {
        self.session.answer(|followed| followed.attached.found())
    }

    /// Watches partitions until the next request.
    pub(super) fn rest(&mut self, resting: Vec<Place>) {
        for place in resting {
            self.watch(place);
        }
    }

    /// What the answer says of a partition that it names.
    pub(super) fn take(&mut self, place: Place) -> Option<(&TopicKey, PartitionData)> {
        let read_committed = self.read_committed;
        let Followed { topic, partition, attached, .. } = self.session.get_mut(place)?;
        Some((topic, attached.take(*partition, read_committed)))
    }
}

impl Reading {
    fn found(&self) -> Found {
        let frontiers = self.source.as_ref().map(|source| &source.frontiers);
        Found {
            high_watermark: frontiers.map_or(Offset(-1), |frontiers| frontiers.high_watermark),
            log_start: frontiers.map_or(Offset(-1), |frontiers| frontiers.log_start),
            records: self.bytes > 0,
            more: self.more,
            failed: self.fault.is_some() || self.nearer.is_some(),
        }
    }

    fn take(&mut self, index: i32, read_committed: bool) -> PartitionData {
        // An empty list says that nothing is aborted, null that it was not asked.
        let aborted_transactions = read_committed.then(Vec::new);
        let chunks = std::mem::take(&mut self.chunks);
        let (leader, nearer) = (self.leader.take(), self.nearer.take());
        self.bytes = 0;
        match (self.fault.take(), &self.source) {
            (None, Some(Source { frontiers, .. })) => PartitionData {
                partition_index: index,
                high_watermark: frontiers.high_watermark.0,
                last_stable_offset: frontiers.last_stable.0,
                log_start_offset: frontiers.log_start.0,
                aborted_transactions,
                preferred_read_replica: nearer.map_or(-1, |broker| broker.0),
                records: Some(Records::from_iter(chunks)),
                ..PartitionData::default()
            },
            (fault, _) => PartitionData {
                partition_index: index,
                error_code: fault.map_or(ErrorCode::UNKNOWN_SERVER_ERROR, |fault| fault.code).0,
                high_watermark: -1,
                current_leader: leader.map_or_else(LeaderIdAndEpoch::default, |leader| LeaderIdAndEpoch {
                    leader_id: leader.broker.0,
                    leader_epoch: leader.epoch.0,
                }),
                aborted_transactions,
                records: Some(Records::default()),
                ..PartitionData::default()
            },
        }
    }

    /// The partition is not served (any more): it is looked for again by the next request.
    fn lose(&mut self) {
        self.source = None;
        self.watch = None;
    }
}

/// Batches as the log gave them.
struct Batches {
    chunks: Vec<Chunk>,
    /// The offset behind the last batch that is not in memory.
    behind_file: Option<Offset>,
}

impl Batches {
    /// The offset behind the last of them; `None` without any.
    fn next_offset(&self) -> Option<Offset> {
        // What is left in a file ends with a whole batch, so that the next chunk begins with one.
        let from = self.chunks.iter().rposition(|chunk| chunk.here().is_none()).map_or(0, |last| last + 1);
        next_offset(self.chunks[from..].iter().filter_map(Chunk::here)).or(self.behind_file)
    }
}

impl From<Vec<Bytes>> for Batches {
    fn from(chunks: Vec<Bytes>) -> Batches {
        Batches { chunks: chunks.into_iter().map(Chunk::Here).collect(), behind_file: None }
    }
}

impl From<Vec<Piece>> for Batches {
    fn from(pieces: Vec<Piece>) -> Batches {
        let mut batches = Batches { chunks: Vec::with_capacity(pieces.len()), behind_file: None };
        for piece in pieces {
            batches.chunks.push(match piece {
                Piece::Memory(bytes) => Chunk::Here(bytes),
                Piece::File(run) => {
                    batches.behind_file = Some(run.next_offset());
                    Chunk::Elsewhere(Elsewhere::new(run.len(), run))
                }
            });
        }
        batches
    }
}

/// One request's limits, and how far they are used.
pub(super) struct Fetch {
    /// The limit of the whole request is not negative. Kafka answers UNKNOWN_SERVER_ERROR to such limits.
    good_limit: bool,
    /// Bytes wanted before the answer.
    min_bytes: usize,
    /// Bytes that may still be read.
    budget: usize,
    /// Bytes that were read.
    pub(super) bytes: usize,
    max_wait: Duration,
    steering: Steering,
    share: AnswerShare,
    /// What is read while the answer is sent.
    ahead: Vec<ReadAhead>,
    /// The answer is not waited for any more: an error is to be told at once, a limit is reached, or the memory for
    /// answers was used up before everything was read.
    ends: bool,
}

impl Fetch {
    pub(super) fn new(call: &Call, request: &FetchRequest) -> Fetch {
        let max_bytes = usize::try_from(request.max_bytes);
        let limit = max_bytes.unwrap_or(0).min(call.shared.config.fetch_max_bytes as usize).min(call.fetch_limit());
        let max_wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0));
        Fetch {
            good_limit: max_bytes.is_ok(),
            // More than may be read is never waited for.
            min_bytes: usize::try_from(request.min_bytes).unwrap_or(0).min(limit),
            budget: limit,
            bytes: 0,
            // A client that is gone is seen when its answer is written.
            max_wait: max_wait.min(call.shared.config.max_idle),
            steering: Steering::new(&request.rack_id),
            share: call.shared.answer_memory.share(),
            ahead: Vec::new(),
            ends: false,
        }
    }

    /// Reads until there is enough, or the time is over; then begins to read what a client that catches up asks next.
    pub(super) async fn run(&mut self, call: &Call, following: &mut Following, read_committed: bool) {
        self.gather(call, following, read_committed).await;
        let ahead = std::mem::take(&mut self.ahead);
        if !ahead.is_empty() {
            let now = call.shared.runtime.now().into_std();
            // It goes on by itself.
            drop(call.shared.runtime.blocking(move || ahead.into_iter().for_each(|ahead| ahead.run(now))));
        }
    }

    async fn gather(&mut self, call: &Call, following: &mut Following, read_committed: bool) {
        following.begin(read_committed);
        let due = following.session.due();
        self.find_sources(call, following, &due).await;
        for place in &due {
            self.look(call, following, *place).await;
        }
        if self.is_done() || self.max_wait.is_zero() || following.is_empty() {
            return;
        }
        for place in due {
            following.watch(place);
        }
        let deadline = call.shared.runtime.sleep(self.max_wait);
        tokio::pin!(deadline);
        let stopping = call.shared.stopping.cancelled();
        tokio::pin!(stopping);
        let memory_used_up = call.shared.answer_memory.used_up();
        tokio::pin!(memory_used_up);
        loop {
            // What it reads while it waits counts, too.
            let holds_much = call.work_bytes() + self.share.bytes() > LIGHT_BYTES;
            let first = tokio::select! {
                biased;
                () = &mut deadline => return,
                () = &mut stopping => return,
                () = &mut memory_used_up, if holds_much => return,
                first = following.watches.next(), if !following.watches.is_empty() => first,
            };
            // Whatever else changed meanwhile is read in the same go.
            let mut next = first;
            while let Some(seen) = next {
                if let Some(place) = following.see(seen) {
                    self.look(call, following, place).await;
                    if self.is_done() || deadline.is_elapsed() {
                        // Where it stands is not kept any more: another read would give the same batches again.
                        return;
                    }
                    following.watch(place);
                }
                next = following.watches.next().now_or_never().flatten();
            }
        }
    }

    /// Enough was read, or nothing more may be waited for.
    fn is_done(&self) -> bool {
        self.ends || self.bytes >= self.min_bytes
    }

    fn check_limits(&self, asked: &Asked) -> Result<usize, Fault> {
        let max_bytes = usize::try_from(asked.max_bytes).ok().filter(|_| self.good_limit);
        max_bytes.ok_or_else(|| ErrorCode::INVALID_REQUEST.into())
    }

    /// Finds the partitions that were not found yet. Logs that are not open are opened side by side.
    async fn find_sources(&mut self, call: &Call, following: &mut Following, due: &[Place]) {
        let mut wanted = Vec::new();
        for place in due {
            let Some(followed) = following.session.get_mut(*place) else { continue };
            if followed.attached.source.is_some() {
                continue;
            }
            match self.check_limits(&followed.asked) {
                Ok(_) => wanted.push((*place, followed.topic.clone(), followed.partition)),
                Err(fault) => self.fail(call, followed, following.request, fault),
            }
        }
        let finding = wanted.into_iter().map(|(place, topic, partition)| async move {
            (place, find_source(call, &topic, PartitionIndex(partition)).await)
        });
        let mut found = stream::iter(finding).buffered(OPEN_AT_ONCE);
        while let Some((place, found)) = found.next().await {
            let Some(followed) = following.session.get_mut(place) else { continue };
            match found {
                Ok(source) => followed.attached.source = Some(source),
                Err(fault) => self.fail(call, followed, following.request, fault),
            }
        }
    }

    /// An error is told at once.
    fn fail(&mut self, call: &Call, followed: &mut Followed<Reading>, request: u64, fault: Fault) {
        let leader = steering::leader_instead(call, &followed.topic, followed.partition, &fault);
        let reading = &mut followed.attached;
        *reading = Reading {
            source: reading.source.take(),
            watch: reading.watch,
            request,
            fault: Some(fault),
            leader,
            ..Reading::default()
        };
        self.ends = true;
    }

    /// Reads what is there now of one partition, within the limits.
    async fn look(&mut self, call: &Call, following: &mut Following, place: Place) {
        let (request, read_committed) = (following.request, following.read_committed);
        let Some(followed) = following.session.get_mut(place) else { return };
        let (asked, reading) = (followed.asked, &mut followed.attached);
        if reading.request != request {
            (reading.request, reading.offset, reading.more) = (request, asked.offset, false);
        }
        if reading.fault.is_some() {
            return;
        }
        if let Err(fault) = self.read(call, &asked, reading, read_committed).await {
            self.fail(call, followed, request, fault);
        }
    }

    /// The first batch of a response comes whole.
    async fn read(
        &mut self,
        call: &Call,
        asked: &Asked,
        reading: &mut Reading,
        read_committed: bool,
    ) -> Result<(), Fault> {
        let limit = self.check_limits(asked)?;
        let Some(source) = &mut reading.source else { return Ok(()) };
        check_leader_epoch(asked.leader_epoch, source.partition.leader_epoch())?;
        let state = *source.state.borrow_and_update();
        if !state.serving {
            let code = match () {
                () if source.partition.has_failed() => ErrorCode::KAFKA_STORAGE_ERROR,
                () if source.partition.is_replicated() => ErrorCode::NOT_LEADER_OR_FOLLOWER,
                () => absent(call.version),
            };
            reading.lose();
            return Err(code.into());
        }
        let leads = source.partition.leads();
        if !(leads || self.steering.may_follow()) {
            return Err(ErrorCode::NOT_LEADER_OR_FOLLOWER.into());
        }
        source.frontiers = state.frontiers;
        let beyond = reading.offset > source.frontiers.log_end;
        if beyond || reading.offset < source.frontiers.log_start {
            // What is watched changes with the commit; a producer with acks=1 knows of the log's end before that, and a
            // consumer told OFFSET_OUT_OF_RANGE there would reset its position. So it would for what a follower, or
            // a leader that was deposed and has not heard of it, does not have.
            let live = source.log.frontiers();
            if leads && reading.offset > live.log_end && !self.steering.surely_leads(call, &source.partition).await {
                return Err(ErrorCode::NOT_LEADER_OR_FOLLOWER.into());
            }
            let live = source.log.frontiers();
            if reading.offset < live.log_start || (leads && reading.offset > live.log_end) {
                return Err(errors::out_of_range(reading.offset, &live));
            }
        }
        if leads && let Some(nearer) = self.steering.nearer(call, &source.partition, source.frontiers.committed) {
            reading.nearer = Some(nearer);
            self.ends = true;
            return Ok(());
        }
        let frontiers = &source.frontiers;
        let end = if read_committed { frontiers.last_stable } else { frontiers.high_watermark };
        if reading.offset >= end {
            reading.more = false;
            return Ok(());
        }
        reading.more = true;
        let whole_first = self.bytes == 0;
        let wanted = self.budget.min(limit.saturating_sub(reading.bytes));
        if wanted == 0 && !whole_first {
            self.ends = true;
            return Ok(());
        }
        // Taken before it is read. Without any the answer goes out as it is, and the next request waits for memory.
        let Some(max_bytes) = self.share.reserve(wanted) else {
            self.ends = true;
            return Ok(());
        };
        let read = match source.log.read(reading.offset, end, max_bytes, whole_first) {
            Ok(Read::Ready(chunks)) => Ok(Batches::from(chunks)),
            Ok(Read::Cold(cold)) => {
                let now = call.shared.runtime.now().into_std();
                let read = call.shared.runtime.blocking(move || cold.run_for_sending(now)).await;
                read.map(|(pieces, ahead)| {
                    self.ahead.extend(ahead);
                    Batches::from(pieces)
                })
            }
            Err(error) => Err(error),
        };
        let batches = read.map_err(|error| {
            self.share.shrink(max_bytes);
            errors::read(&error)
        })?;
        let bytes = batches.chunks.iter().map(Chunk::len).sum();
        let held: usize = batches.chunks.iter().map(held_bytes).sum();
        call.shared.metrics.fetched_bytes.increment(bytes as u64);
        self.budget = self.budget.saturating_sub(bytes);
        self.bytes += bytes;
        // The first batch comes whole, however little there was.
        self.share.grow(held.saturating_sub(max_bytes));
        self.share.shrink(max_bytes.saturating_sub(held));
        reading.bytes += bytes;
        if self.bytes < self.min_bytes {
            // Only a fetch that goes on to wait needs to know where it stands.
            reading.offset = batches.next_offset().unwrap_or(reading.offset);
            self.ends |= reading.offset < end;
        }
        reading.chunks.extend(batches.chunks);
        Ok(())
    }
}

/// What a topic that is not there is answered.
fn absent(version: i16) -> ErrorCode {
    if version >= super::FIRST_BY_ID { ErrorCode::UNKNOWN_TOPIC_ID } else { ErrorCode::UNKNOWN_TOPIC_OR_PARTITION }
}

async fn find_source(call: &Call, topic: &TopicKey, index: PartitionIndex) -> Result<Source, Fault> {
    let served = steering::find(call, topic).ok_or(absent(call.version))?;
    let elsewhere = match served.described(index) {
        Some(_) => ErrorCode::NOT_LEADER_OR_FOLLOWER,
        None => ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
    };
    let partition = served.replica(index).ok_or(elsewhere)?;
    let log = partition.log().await.map_err(|error| errors::raft(&error))?;
    let state = partition.watch();
    let frontiers = state.borrow().frontiers;
    Ok(Source { partition: partition.clone(), log, state, frontiers })
}
