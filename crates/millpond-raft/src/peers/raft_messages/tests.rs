use futures::FutureExt;
use millpond_record::{BatchBuilder, LeaderEpoch, RaftOnlyKind, StampedBatch, Timestamp, raft_only_batch};
use millpond_storage::Stored;
use openraft::EntryPayload;
use openraft::entry::RaftEntry;
use openraft::raft::{AppendEntriesRequest, SnapshotResponse};
use proptest::prelude::*;

use super::append::{AppendHead, BLANK, EntryHead, read_append};
use super::*;
use crate::peers::frame::{FrameReader, Kind, Outgoing};
use crate::types::{Entry, Member, Membership, Payload};

fn log_id(term: u64, index: u64) -> RaftLogId {
    RaftLogId::new_term_index(term, index)
}

fn vote(term: u64, replica: u64, committed: bool) -> RaftVote {
    RaftVote { leader_id: LeaderId { term, voted_for: replica }, committed }
}

fn route() -> Route {
    Route::new(GroupId(3), ReplicaId(11), ReplicaId(12), RaftIndex(99))
}

fn batch(value: &[u8], offset: i64, term: u64) -> StampedBatch {
    let batch = BatchBuilder::new().record(Timestamp(5), None, Some(value)).build();
    StampedBatch::new(batch, Offset(offset), Term(term).leader_epoch()).expect("a batch")
}

fn data(batch: StampedBatch) -> EntryPayload<Payload, u64, Member> {
    let frame_bytes = batch.size_bytes();
    EntryPayload::Normal(Payload::Stored(Stored { batch, append_time: Timestamp(77), frame_bytes }))
}

fn membership() -> Membership {
    let member = Member { broker: millpond_record::BrokerId(7), assignment_version: 4 };
    Membership::new(vec![[11].into()], std::collections::BTreeMap::from([(11, member), (12, member)])).expect("whole")
}

fn request(entries: Vec<Entry>) -> AppendEntriesRequest<TypeConfig> {
    AppendEntriesRequest {
        vote: vote(5, 12, true),
        prev_log_id: Some(log_id(4, 9)),
        entries,
        leader_commit: Some(log_id(4, 8)),
    }
}

fn received(mut frame: Outgoing) -> Frame {
    let bytes: Vec<u8> = frame.take_chunks().into_iter().flatten().collect();
    let mut reader = FrameReader::new(&bytes[..]);
    reader.trust();
    reader.next().now_or_never().expect("at once").expect("whole").expect("a frame")
}

fn sent(append: &Append) -> Frame {
    received(Outgoing::new(Kind::Append, 1, &append.head, &append.body))
}

fn all_kinds() -> Vec<Entry> {
    let payloads = [
        EntryPayload::Blank,
        EntryPayload::Membership(membership()),
        data(batch(b"small", 0, 5)),
        data(batch(&[7; 5000], 1, 5)),
        data(raft_only_batch(RaftOnlyKind::LogStart, b"payload", Offset(2), LeaderEpoch(5), Timestamp(3))),
    ];
    payloads.into_iter().zip(10..).map(|(payload, index)| Entry::new(log_id(5, index), payload)).collect()
}

#[test]
fn entries_of_all_kinds_arrive_as_they_were_sent_and_share_their_frame() {
    let original = request(all_kinds());
    let append = Append::new(route(), &original).expect("can be sent");
    assert_eq!(append.body.len(), 3, "headers and small batches together, a large batch as it is");
    let frame = sent(&append);
    let (to, read) = Append::read(&frame).expect("readable");
    assert_eq!(to, route());
    assert_eq!(
        (read.vote, read.prev_log_id, read.leader_commit),
        (original.vote, original.prev_log_id, original.leader_commit)
    );
    assert_eq!(read.entries.len(), original.entries.len());
    for (read, original) in read.entries.iter().zip(&original.entries) {
        assert_eq!(read.log_id, original.log_id);
        match (&read.payload, &original.payload) {
            (EntryPayload::Normal(Payload::Stored(read)), EntryPayload::Normal(Payload::Stored(original))) => {
                assert_eq!((&read.batch, read.append_time), (&original.batch, original.append_time));
                assert_eq!(read.frame_bytes, frame.size_bytes());
                let (tail, body) = (read.batch.tail().as_ptr_range(), frame.body.as_ptr_range());
                assert!(body.start <= tail.start && tail.end <= body.end, "a slice of the frame");
            }
            (EntryPayload::Blank, EntryPayload::Blank) => {}
            (EntryPayload::Membership(read), EntryPayload::Membership(original)) => assert_eq!(read, original),
            (read, original) => panic!("{read:?} for {original:?}"),
        }
    }
    let heartbeat = AppendEntriesRequest { prev_log_id: None, leader_commit: None, ..request(Vec::new()) };
    let (_, read) = Append::read(&sent(&Append::new(route(), &heartbeat).expect("can be sent"))).expect("readable");
    assert_eq!((read.prev_log_id, read.entries.len(), read.leader_commit), (None, 0, None));
}

#[test]
fn entries_that_would_end_the_group_are_refused_where_they_are_read() {
    let entry = |term, payload| vec![Entry::new(log_id(term, 10), payload)];
    let negative = {
        let mut bytes = batch(b"x", 0, 5).to_bytes().to_vec();
        bytes[..8].copy_from_slice(&(-3i64).to_be_bytes());
        StampedBatch::from_bytes(bytes.into()).expect("a batch")
    };
    let blank = raft_only_batch(RaftOnlyKind::Blank, b"", Offset(0), LeaderEpoch(5), Timestamp(3));
    let table = [
        ("a term without an epoch", entry(Term::MAX.0 + 1, EntryPayload::Blank)),
        ("a term that goes back", entry(3, EntryPayload::Blank)),
        ("a batch of another term", entry(6, data(batch(b"x", 0, 5)))),
        ("a negative offset", entry(5, data(negative))),
        ("offsets beyond all", entry(5, data(batch(b"x", i64::MAX, 5)))),
        ("a blank as data", entry(5, data(blank))),
    ];
    for (what, entries) in table {
        let frame = sent(&Append::new(route(), &request(entries)).expect("can be sent"));
        assert!(matches!(Append::read(&frame), Err(FrameError::Malformed { .. })), "{what}");
    }
    let good = Append::new(route(), &request(all_kinds())).expect("can be sent");
    let spoil = |spoil: fn(&mut Append)| {
        let mut bad = good.clone();
        spoil(&mut bad);
        Append::read(&sent(&bad))
    };
    type Spoiled = (&'static str, fn(&mut Append));
    let table: [Spoiled; 7] = [
        ("no route", |append| append.head.route = None),
        ("no vote", |append| append.head.vote = None),
        ("a body that is too short", |append| drop(append.body.pop())),
        ("a body that is too long", |append| append.body.push(Bytes::from_static(b"x"))),
        ("an entry that is no batch", |append| append.head.entries[2].bytes -= 1),
        ("a blank with content", |append| append.head.entries[2].kind = BLANK),
        ("an unknown kind", |append| append.head.entries[2].kind = 9),
    ];
    for (what, change) in table {
        assert!(matches!(spoil(change), Err(FrameError::Malformed { .. })), "{what}");
    }
    assert!(spoil(|_| {}).is_ok());
}

#[test]
fn requests_arrive_as_they_were_sent() {
    let mut asked = VoteRequest::new(vote(6, 12, false), Some(log_id(5, 40)));
    asked.leadership_transfer = true;
    let meta = SnapshotMeta {
        last_log_id: Some(log_id(5, 40)),
        last_membership: StoredMembership::new(Some(log_id(1, 2)), membership()),
    };
    let manifest = Manifest { log_start: Offset(4), end: Offset(9) };
    let requests = [
        RaftRequest::Vote(asked.clone(), true),
        RaftRequest::Vote(VoteRequest::new(vote(1, 1, false), None), false),
        RaftRequest::PreVote(asked),
        RaftRequest::Transfer(TransferLeaderRequest::new(vote(5, 11, true), 12, Some(log_id(5, 40)))),
        RaftRequest::Snapshot(vote(5, 11, true), meta, manifest),
    ];
    for request in requests {
        let frame = received(Outgoing::new(Kind::RaftRequest, 1, &request.head(route()), &[]));
        let (to, read) = RaftRequest::read(&frame).expect("readable");
        assert_eq!(to, route());
        assert_eq!(format!("{read:?}"), format!("{request:?}"));
    }
    for head in [RequestHead::default(), RequestHead { route: Some(route()), body: None }] {
        let frame = received(Outgoing::new(Kind::RaftRequest, 1, &head, &[]));
        assert!(RaftRequest::read(&frame).is_err());
    }
    let backwards = RaftRequest::Snapshot(
        vote(5, 11, true),
        SnapshotMeta::default(),
        Manifest { log_start: Offset(4), end: Offset(3) },
    );
    let frame = received(Outgoing::new(Kind::RaftRequest, 1, &backwards.head(route()), &[]));
    assert!(RaftRequest::read(&frame).is_err());
}

fn answered(head: &AnswerHead) -> AnswerHead {
    received(Outgoing::new(Kind::RaftAnswer, 1, head, &[])).head().expect("readable")
}

#[test]
fn answers_arrive_as_they_were_given() {
    let appended: [StreamAppendResult<TypeConfig>; 4] = [
        Ok(None),
        Ok(Some(log_id(5, 40))),
        Err(StreamAppendError::Conflict(log_id(4, 3))),
        Err(StreamAppendError::HigherVote(vote(9, 13, true))),
    ];
    for result in appended {
        assert_eq!(answered(&AnswerHead::appended(&result)).read_appended(), Ok(result));
    }
    for granted in [true, false] {
        let voted = VoteResponse::new(vote(6, 12, false), Some(log_id(5, 40)), granted);
        assert_eq!(answered(&AnswerHead::voted(&voted)).read_voted(), Ok(voted));
    }
    let installed = SnapshotResponse::new(vote(6, 12, true));
    assert_eq!(answered(&AnswerHead::installed(&installed)).read_installed(), Ok(installed));
    let request = TransferLeaderRequest::new(vote(5, 11, true), 12, Some(log_id(5, 40)));
    let expected = (vote(5, 11, true), Some(log_id(5, 40)));
    let transferred = [
        Ok(()),
        Err(TransferLeaderError::VoteChanged { expected: expected.0, actual: vote(7, 13, false) }),
        Err(TransferLeaderError::LogNotFlushed { expected: expected.1, actual: None }),
    ];
    for result in transferred {
        assert_eq!(answered(&AnswerHead::transferred(&result)).read_transferred(&request), Ok(result));
    }
    for why in [NoReplica::Gone, NoReplica::NotYet, NoReplica::Failed("it is full".to_owned())] {
        let head = answered(&AnswerHead::no_replica(why.clone()));
        assert_eq!(head.read_voted(), Err(why.clone()));
        assert_eq!(head.read_appended(), Err(why.clone()));
        assert_eq!(head.read_installed(), Err(why.clone()));
        assert_eq!(head.read_transferred(&request), Err(why));
    }
    let strange = AnswerHead { outcome: 99, ..AnswerHead::default() };
    assert!(matches!(strange.read_appended(), Err(NoReplica::Failed(_))));
}

proptest! {
    #[test]
    fn heads_of_random_bytes_are_errors_and_never_a_panic(
        entries in prop::collection::vec((0..9u64, 0..4u32, 0..300u32), 0..5),
        body: Vec<u8>,
        previous in prop::option::of((0..u64::MAX, 0..u64::MAX)),
    ) {
        let head = AppendHead {
            route: Some(route()),
            vote: Some(VoteHead { term: 5, replica: 1, committed: true }),
            previous: previous.map(|(term, index)| LogIdHead { term, index }),
            commit: None,
            entries: entries
                .iter()
                .map(|&(term, kind, bytes)| EntryHead { term, kind, bytes, append_time: 0 })
                .collect(),
        };
        let bytes: u32 = entries.iter().map(|entry| entry.2).sum();
        let frame_bytes = body.len();
        if read_append(head, Bytes::from(body), frame_bytes).is_ok() {
            prop_assert_eq!(bytes as usize, frame_bytes);
        }
    }
}
