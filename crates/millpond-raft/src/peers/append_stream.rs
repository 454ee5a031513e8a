//! The entries that a leader sends to one follower: many messages on their way at a time, answered in order.
//!
//! Messages are taken from the engine while the stream has room (messages and bytes) and so has the peer (bytes, over
//! all groups). What was sent is kept until it is answered, to be sent again when the other broker says that it will
//! have the replica in a moment; until it has answered once, one message is on its way. What was sent counts against
//! the peer's budget until it is answered or given up, so that a peer that does not answer costs no more than that. The
//! metadata counts, too, and does not wait for it: its own window bounds it, a small one while the budget is crowded. A
//! heartbeat, which is a stream of one message without entries, does not wait either: readers wait for its answer.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use millpond_record::GroupId;
use openraft::errors::RPCError;
use openraft::network::RPCOption;
use openraft::raft::{AppendEntriesRequest, StreamAppendResult};
use tokio::time::Instant;

use super::budget::Budget;
use super::frame::Frame;
use super::link::{AppendLink, Peer};
use super::outbox::Urgency;
use super::raft_messages::{AnswerHead, Append, NoReplica};
use super::replica_client::ReplicaClient;
use crate::groups::METADATA;
use crate::types::TypeConfig;

/// Messages of one stream that wait for an answer.
pub(super) const WINDOW: usize = 64;

/// Their bytes.
const WINDOW_BYTES: usize = 16 << 20;

/// Their bytes while half of the peer's budget is used: a few replicas that do not answer must leave room for others.
const CROWDED_BYTES: usize = 256 << 10;

/// How long a replica that another broker will have soon is not asked for again: from the one to the other.
pub(super) const SHORTEST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// How often it is looked whether a replica that is lost is decided for.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Why a stream ends that waits for a connection.
const AWAY: &str = "it is away, and is not waited for";

type Answer = Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>;

/// A stream of messages to one replica, and of their answers.
pub(super) struct AppendStream<S> {
    client: ReplicaClient,
    input: S,
    input_ended: bool,
    urgency: Urgency,
    sent: Sent,
    link: Option<AppendLink>,
    /// For how long "not yet" is waited out, and since when.
    patience: Duration,
    not_yet_since: Option<Instant>,
    pause: Duration,
    /// The replica has answered: it is there.
    is_there: bool,
    /// The other replica's disk is lost, and the one here decides for both.
    stands_in: bool,
    ended: bool,
}

/// What waits for an answer.
struct Sent {
    peer: Arc<Peer>,
    messages: VecDeque<Append>,
    bytes: usize,
}

impl Sent {
    fn push(&mut self, message: Append) {
        self.peer.budget.add(message.bytes);
        self.bytes += message.bytes;
        self.messages.push_back(message);
    }

    fn answered(&mut self) -> bool {
        let Some(message) = self.messages.pop_front() else { return false };
        self.bytes -= message.bytes;
        self.peer.budget.release(message.bytes);
        true
    }

    fn has_room(&self) -> bool {
        let bytes = if self.peer.budget.is_crowded() { CROWDED_BYTES } else { WINDOW_BYTES };
        self.messages.len() < WINDOW && self.bytes < bytes
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        self.peer.budget.release(self.bytes);
    }
}

/// What happens next to a stream.
enum Event {
    Room,
    Request(Option<AppendEntriesRequest<TypeConfig>>),
    Answer(Option<Frame>),
}

impl<S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Unpin> AppendStream<S> {
    pub(super) fn new(client: ReplicaClient, input: S, option: &RPCOption) -> AppendStream<S> {
        let sent = Sent { peer: Arc::clone(&client.peer), messages: VecDeque::new(), bytes: 0 };
        let stands_in = client.stands_in();
        AppendStream {
            urgency: urgency(client.route().group(), &input),
            client,
            input,
            input_ended: false,
            sent,
            link: None,
            patience: option.hard_ttl(),
            not_yet_since: None,
            pause: SHORTEST_PAUSE,
            is_there: false,
            stands_in,
            ended: false,
        }
    }

    /// The next answer; `None` after the last one, or after an error.
    pub(super) async fn next(&mut self) -> Option<Answer> {
        if self.ended {
            return None;
        }
        let answer = self.step().await;
        self.ended = !matches!(answer, Some(Ok(Ok(_))));
        answer
    }

    async fn step(&mut self) -> Option<Answer> {
        if self.stands_in {
            let AppendEntriesRequest { prev_log_id, entries, .. } = self.input.next().await?;
            return Some(match self.client.stands_in() {
                true => Ok(Ok(entries.last().map(|entry| entry.log_id).or(prev_log_id))),
                false => Err(self.client.broken("it is waited for again")),
            });
        }
        loop {
            if self.input_ended && self.sent.messages.is_empty() {
                return None;
            }
            let event = match &mut self.link {
                Some(link) => {
                    // One message finds out whether the replica is there: it may have to be sent again and again.
                    let has_room = if self.is_there { self.sent.has_room() } else { self.sent.messages.is_empty() };
                    let budget = (self.urgency == Urgency::InTurn).then_some(&self.sent.peer.budget);
                    event(link, budget, &mut self.input, has_room && !self.input_ended).await
                }
                None => {
                    // It listens before it looks: what is said between the two is heard.
                    let impatient = self.client.peer.impatient(self.client.route().group());
                    if self.client.stands_in() {
                        return Some(Err(self.client.broken(AWAY)));
                    }
                    let link = tokio::select! {
                        biased;
                        link = self.client.peer.up_for_appends(self.urgency) => link,
                        () = impatient => return Some(Err(self.client.broken(AWAY))),
                        // The members of the group may become such that it is decided for.
                        () = self.client.inner.runtime.sleep(LOOK_AGAIN), if self.client.is_lost() => continue,
                    };
                    // After "not yet" the message that asked is sent again.
                    self.sent.messages.iter().for_each(|message| link.send(message));
                    self.link = Some(link);
                    continue;
                }
            };
            match event {
                Event::Room => {}
                Event::Request(None) => self.input_ended = true,
                Event::Request(Some(request)) => match Append::new(self.client.route(), &request) {
                    Ok(message) => {
                        self.link.iter().for_each(|link| link.send(&message));
                        self.sent.push(message);
                    }
                    Err(why) => return Some(Err(self.client.no_replica(&NoReplica::Failed(why)))),
                },
                // Nothing is lost with the connection: the next one will do.
                Event::Answer(None) if self.sent.messages.is_empty() => self.link = None,
                Event::Answer(None) => return Some(Err(self.client.broken("the connection broke"))),
                Event::Answer(Some(frame)) => {
                    if let Some(answer) = self.answered(&frame).await {
                        return Some(answer);
                    }
                }
            }
        }
    }

    async fn answered(&mut self, frame: &Frame) -> Option<Answer> {
        let read = match frame.head::<AnswerHead>() {
            Ok(head) => head.read_appended(),
            Err(error) => Err(NoReplica::Failed(error.to_string())),
        };
        let runtime = &self.client.inner.runtime;
        match read {
            Ok(result) => {
                (self.is_there, self.not_yet_since) = (true, None);
                if !self.sent.answered() {
                    return Some(Err(self.client.broken("it answers what it was not asked")));
                }
                Some(Ok(result))
            }
            Err(NoReplica::NotYet) => {
                let now = runtime.now();
                if now - *self.not_yet_since.get_or_insert(now) > self.patience {
                    return Some(Err(self.client.no_replica(&NoReplica::NotYet)));
                }
                self.link = None;
                runtime.sleep(self.pause).await;
                self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                None
            }
            Err(why) => Some(Err(self.client.no_replica(&why))),
        }
    }
}

/// What goes before all that waits for the peer, without regard to its budget.
fn urgency<S: Stream>(group: GroupId, input: &S) -> Urgency {
    // The engine sends a heartbeat as a stream that cannot have more than that.
    let is_heartbeat = input.size_hint().1.is_some_and(|most| most <= 1);
    // The metadata is little. Were it behind the data of all partitions, a peer that is slow at taking that in would
    // hold up every change in the cluster.
    if is_heartbeat || group == METADATA { Urgency::First } else { Urgency::InTurn }
}

/// Waits for what happens next. `budget`: of the peer, if it is to have room. Safe to cancel.
async fn event<S>(link: &mut AppendLink, budget: Option<&Budget>, input: &mut S, takes: bool) -> Event
where
    S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Unpin,
{
    let has_room = budget.is_none_or(Budget::has_room);
    let room = async {
        match budget {
            Some(budget) => budget.room().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        answer = link.answer() => Event::Answer(answer),
        () = room, if takes && !has_room => Event::Room,
        request = input.next(), if takes && has_room => Event::Request(request),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures::stream;
    use millpond_record::{BrokerId, RaftIndex, ReplicaId};

    use super::*;
    use crate::peers::raft_messages::Route;

    fn message(bytes: usize) -> Append {
        let route = Route::new(GroupId(1), ReplicaId(1), ReplicaId(2), RaftIndex(0));
        let vote = openraft::Vote::new_committed(1, 2);
        let request = AppendEntriesRequest { vote, prev_log_id: None, entries: Vec::new(), leader_commit: None };
        let empty = Append::new(route, &request).expect("can be sent");
        Append { body: vec![Bytes::from(vec![0; bytes])], bytes, ..empty }
    }

    #[test]
    fn heartbeats_and_the_metadata_go_first_and_entries_of_partitions_in_turn() {
        let entries = || stream::unfold((), |()| async { Some(((), ())) });
        assert_eq!(urgency(GroupId(1), &Box::pin(stream::once(async {}))), Urgency::First);
        assert_eq!(urgency(GroupId(1), &Box::pin(entries())), Urgency::InTurn);
        assert_eq!(urgency(METADATA, &Box::pin(entries())), Urgency::First);
    }

    #[test]
    fn replicas_that_do_not_answer_leave_room_for_others_of_their_broker() {
        let peer = Arc::new(Peer::new(BrokerId(1)));
        let stream = || Sent { peer: Arc::clone(&peer), messages: VecDeque::new(), bytes: 0 };
        let mut stuck: Vec<Sent> = (0..100).map(|_| stream()).collect();
        for sent in &mut stuck {
            while sent.has_room() && peer.budget.has_room() {
                sent.push(message(CROWDED_BYTES));
            }
        }
        let full = stuck.iter().filter(|sent| sent.bytes >= WINDOW_BYTES).count();
        let with_some = stuck.iter().filter(|sent| sent.bytes > 0).count();
        assert_eq!((full, with_some), (2, 100), "two have all that they may, and yet all have something");
        assert!(peer.budget.has_room());
        assert!(stuck[99].answered() && stuck[99].has_room());
        drop(stuck);
        assert_eq!(peer.budget.used(), 0);
    }
}
