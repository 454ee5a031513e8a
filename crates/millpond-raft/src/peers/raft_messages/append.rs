//! The entries that a leader sends: heads first, then the entries back to back.
//!
//! The batches of a sent message are those of the log, not copies; the batches of a received one are slices of its
//! frame.

use bytes::{Bytes, BytesMut};
use millpond_record::{Offset, RaftOnlyKind, StampedBatch, Term, Timestamp, parse_raft_only};
use millpond_storage::Stored;
use openraft::EntryPayload;
use openraft::entry::RaftEntry;
use openraft::raft::AppendEntriesRequest;

use super::{LogIdHead, Route, VoteHead, read_log_id, read_vote, term};
use crate::membership;
use crate::peers::frame::{Frame, FrameError};
use crate::types::{Entry, Member, Payload, RaftLogId, TypeConfig};

/// Batches with fewer bytes behind the header are copied between the headers, which costs less than a chunk each.
const COPIED_BYTES: usize = 512;

#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::peers) struct AppendHead {
    #[prost(message, optional, tag = "1")]
    pub(super) route: Option<Route>,
    #[prost(message, optional, tag = "2")]
    pub(super) vote: Option<VoteHead>,
    /// The entry before the first.
    #[prost(message, optional, tag = "3")]
    pub(super) previous: Option<LogIdHead>,
    #[prost(message, optional, tag = "4")]
    pub(super) commit: Option<LogIdHead>,
    #[prost(message, repeated, tag = "5")]
    pub(super) entries: Vec<EntryHead>,
}

/// An entry; its index is that of the one before and one more.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(super) struct EntryHead {
    #[prost(uint64, tag = "1")]
    pub(super) term: u64,
    /// [`BATCH`], [`BLANK`] or [`MEMBERSHIP`].
    #[prost(uint32, tag = "2")]
    pub(super) kind: u32,
    /// Its length in the body.
    #[prost(uint32, tag = "3")]
    pub(super) bytes: u32,
    /// The leader's time of the append, of a batch.
    #[prost(int64, tag = "4")]
    pub(super) append_time: i64,
}

pub(super) const BATCH: u32 = 0;
pub(super) const BLANK: u32 = 1;
pub(super) const MEMBERSHIP: u32 = 2;

/// An append as it is sent, and sent again.
#[derive(Clone, Debug)]
pub(in crate::peers) struct Append {
    pub(in crate::peers) head: AppendHead,
    pub(in crate::peers) body: Vec<Bytes>,
    pub(in crate::peers) bytes: usize,
}

impl Append {
    pub(in crate::peers) fn new(route: Route, request: &AppendEntriesRequest<TypeConfig>) -> Result<Append, String> {
        let mut entries = Vec::with_capacity(request.entries.len());
        let (mut body, mut copied) = (Vec::new(), BytesMut::new());
        for entry in &request.entries {
            let term = entry.log_id().committed_leader_id().term;
            let head = match &entry.payload {
                EntryPayload::Blank => EntryHead { term, kind: BLANK, bytes: 0, append_time: 0 },
                EntryPayload::Membership(members) => {
                    let bytes = membership::encode(members);
                    copied.extend_from_slice(&bytes);
                    EntryHead { term, kind: MEMBERSHIP, bytes: length(bytes.len())?, append_time: 0 }
                }
                EntryPayload::Normal(Payload::Stored(Stored { batch, append_time, .. })) => {
                    copied.extend_from_slice(batch.head());
                    if batch.tail().len() < COPIED_BYTES {
                        copied.extend_from_slice(batch.tail());
                    } else {
                        body.extend([copied.split().freeze(), batch.tail().clone()]);
                    }
                    EntryHead { term, kind: BATCH, bytes: length(batch.size_bytes())?, append_time: append_time.0 }
                }
                EntryPayload::Normal(other) => {
                    return Err(format!("{other} cannot be replicated: it was not read from the log"));
                }
            };
            entries.push(head);
        }
        if !copied.is_empty() {
            body.push(copied.freeze());
        }
        let head = AppendHead {
            route: Some(route),
            vote: Some(VoteHead::of(&request.vote)),
            previous: request.prev_log_id.as_ref().map(LogIdHead::of),
            commit: request.leader_commit.as_ref().map(LogIdHead::of),
            entries,
        };
        let bytes = body.iter().map(Bytes::len).sum::<usize>() + prost::Message::encoded_len(&head);
        Ok(Append { head, body, bytes })
    }

    pub(in crate::peers) fn read(frame: &Frame) -> Result<(Route, AppendEntriesRequest<TypeConfig>), FrameError> {
        let head: AppendHead = frame.head()?;
        read_append(head, frame.body.clone(), frame.size_bytes()).map_err(|what| frame.malformed(what))
    }
}

fn length(bytes: usize) -> Result<u32, String> {
    u32::try_from(bytes).map_err(|_| format!("an entry of {bytes} bytes cannot be replicated"))
}

pub(super) fn read_append(
    head: AppendHead,
    mut body: Bytes,
    frame_bytes: usize,
) -> Result<(Route, AppendEntriesRequest<TypeConfig>), String> {
    let prev_log_id = read_log_id(head.previous)?;
    let (mut last_term, mut next) =
        prev_log_id.as_ref().map_or((0, 0), |id| (id.committed_leader_id().term, id.index().saturating_add(1)));
    let mut entries = Vec::with_capacity(head.entries.len());
    for entry in head.entries {
        let term = term(entry.term)?;
        if term < last_term {
            return Err(format!("an entry of term {term} behind one of term {last_term}"));
        }
        let bytes = entry.bytes as usize;
        if bytes > body.len() {
            return Err("an entry that is longer than the frame".to_owned());
        }
        let payload = read_payload(entry, body.split_to(bytes), frame_bytes)?;
        entries.push(Entry::new(RaftLogId::new_term_index(term, next), payload));
        last_term = term;
        next = next.checked_add(1).ok_or("an index beyond all")?;
    }
    if !body.is_empty() {
        return Err(format!("{} bytes that belong to no entry", body.len()));
    }
    let route = head.route.ok_or("no route")?;
    let request = AppendEntriesRequest {
        vote: read_vote(head.vote)?,
        prev_log_id,
        entries,
        leader_commit: read_log_id(head.commit)?,
    };
    Ok((route, request))
}

type RaftPayload = EntryPayload<Payload, u64, Member>;

fn read_payload(entry: EntryHead, bytes: Bytes, frame_bytes: usize) -> Result<RaftPayload, String> {
    match entry.kind {
        BLANK if bytes.is_empty() => Ok(EntryPayload::Blank),
        MEMBERSHIP if !bytes.is_empty() => Ok(EntryPayload::Membership(membership::decode(bytes)?)),
        BATCH => {
            let batch = StampedBatch::from_bytes(bytes).map_err(|error| error.to_string())?;
            check_batch(&batch, Term(entry.term))?;
            let append_time = Timestamp(entry.append_time);
            Ok(EntryPayload::Normal(Payload::Stored(Stored { batch, append_time, frame_bytes })))
        }
        kind => Err(format!("an entry of the unknown kind {kind}")),
    }
}

/// What the log would set the replica aside for, and what can be said of a batch alone.
fn check_batch(batch: &StampedBatch, term: Term) -> Result<(), String> {
    let header = batch.header();
    if header.leader_epoch != term.leader_epoch() {
        return Err(format!("a batch of epoch {} in an entry of term {term}", header.leader_epoch));
    }
    if header.attributes.is_raft_only() {
        if header.last_offset_delta != -1 {
            return Err("a batch of the broker's own that takes offsets".to_owned());
        }
        let (kind, _) = parse_raft_only(batch).map_err(|error| error.to_string())?;
        return match kind {
            RaftOnlyKind::Blank | RaftOnlyKind::Membership => Err("a batch that is no data".to_owned()),
            RaftOnlyKind::LogStart | RaftOnlyKind::CompactionStep | RaftOnlyKind::Void => Ok(()),
        };
    }
    let last = header.base_offset.0.checked_add(i64::from(header.last_offset_delta));
    if header.base_offset < Offset(0) || header.last_offset_delta < 0 || last.is_none_or(|last| last == i64::MAX) {
        return Err(format!("a batch that takes no offset from {} on", header.base_offset));
    }
    Ok(())
}
