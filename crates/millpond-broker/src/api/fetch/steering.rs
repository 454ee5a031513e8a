//! Who answers a reader: the leader, or a follower in the reader's rack (KIP-392); and what a leader must know before
//! it says that an offset is beyond the end.

use millpond_raft::{GroupMember, Leader, Partition};
use millpond_record::{BrokerId, LogId, PartitionIndex, RaftIndex};
use millpond_wire::{ErrorCode, Str};

use crate::dispatch::Call;
use crate::errors::Fault;
use crate::fetch_session::TopicKey;
use crate::leadership::Doubt;
use crate::metadata::ServedTopic;

/// A follower that misses more entries than this is nobody sent to: it would keep its readers waiting.
const MOST_ENTRIES_BEHIND: u64 = 1000;

/// What a request says of its reader, and what was found out for it.
pub(super) struct Steering {
    /// Where the reader stands; `None` if it does not say.
    rack: Option<Str>,
    doubt: Doubt,
}

impl Steering {
    pub(super) fn new(rack: &str) -> Steering {
        Steering { rack: (!rack.is_empty()).then(|| Str::from(rack)), doubt: Doubt::default() }
    }

    /// Whether a follower may answer: only to readers that can be sent to one.
    pub(super) fn may_follow(&self) -> bool {
        self.rack.is_some()
    }

    /// The follower that the reader should ask instead of this leader, if there is one in its rack and the leader is
    /// not.
    pub(super) fn nearer(&self, call: &Call, partition: &Partition, committed: Option<LogId>) -> Option<BrokerId> {
        let rack = self.rack.as_deref().filter(|_| partition.is_replicated())?;
        let (image, look) = (&call.snapshot.image, call.shared.leadership.now());
        let stands_in = |broker| image.broker(broker).and_then(|broker| broker.rack.as_deref()) == Some(rack);
        if stands_in(call.shared.node) {
            return None;
        }
        let near = |member: &GroupMember| stands_in(member.broker) && look.is_alive(member.broker);
        choose(partition.progress().into_iter().filter(near), committed.map(|committed| committed.index))
    }

    /// Whether this broker leads the partition beyond doubt. Otherwise another may lead, and have what is not here.
    pub(super) async fn surely_leads(&mut self, call: &Call, partition: &Partition) -> bool {
        self.doubt.surely_leads(&call.shared.runtime, partition).await
    }
}

/// Of followers that all suit a reader the one that has most; none that lags far behind what is committed.
fn choose(followers: impl Iterator<Item = GroupMember>, committed: Option<RaftIndex>) -> Option<BrokerId> {
    let enough = committed.map_or(0, |committed| committed.0.saturating_sub(MOST_ENTRIES_BEHIND));
    let having = followers.filter_map(|follower| Some((follower.matched?, follower)));
    let fit = having.filter(|(matched, follower)| follower.voter && matched.0 >= enough);
    // Of equals the one with the lowest id, so that its readers share what it has in memory.
    let best = fit.max_by_key(|(matched, follower)| (*matched, std::cmp::Reverse(follower.broker)));
    best.map(|(_, follower)| follower.broker)
}

/// The topic that a fetch names.
pub(super) fn find<'a>(call: &'a Call, topic: &TopicKey) -> Option<&'a ServedTopic> {
    let served = match topic {
        TopicKey::Id(id) => call.snapshot.topic_by_id(*id),
        TopicKey::Name(name) => call.snapshot.topic(name),
    };
    served.map(|served| &**served)
}

/// The leader that a refused reader is to ask instead (KIP-951).
pub(super) fn leader_instead(call: &Call, topic: &TopicKey, index: i32, fault: &Fault) -> Option<Leader> {
    let wrong_broker = matches!(fault.code, ErrorCode::NOT_LEADER_OR_FOLLOWER | ErrorCode::FENCED_LEADER_EPOCH);
    if !wrong_broker || call.version < super::FIRST_WITH_LEADERS {
        return None;
    }
    let leader = call.shared.leadership.now().leader(find(call, topic)?, PartitionIndex(index))?;
    // One that cannot be found is no help.
    call.snapshot.image.broker(leader.broker).map(|_| leader)
}

#[cfg(test)]
mod tests {
    use millpond_record::ReplicaId;

    use super::*;

    #[test]
    fn readers_are_sent_to_the_follower_that_has_most_and_to_none_that_lags() {
        let follower = |broker: i32, matched: Option<u64>| GroupMember {
            replica: ReplicaId(u64::from(broker.unsigned_abs())),
            broker: BrokerId(broker),
            voter: true,
            matched: matched.map(RaftIndex),
        };
        let of = |followers: &[GroupMember], committed| choose(followers.iter().copied(), Some(RaftIndex(committed)));
        assert_eq!(of(&[], 5), None);
        assert_eq!(of(&[follower(2, None)], 5), None, "nothing is known of it");
        assert_eq!(of(&[follower(2, Some(3)), follower(3, Some(5))], 5), Some(BrokerId(3)));
        assert_eq!(of(&[follower(3, Some(5)), follower(2, Some(5))], 5), Some(BrokerId(2)));
        assert_eq!(of(&[follower(2, Some(4000))], 5000), Some(BrokerId(2)));
        assert_eq!(of(&[follower(2, Some(3999))], 5000), None);
        let learner = GroupMember { voter: false, ..follower(2, Some(5)) };
        assert_eq!(of(&[learner], 5), None, "it may be on its way in, or out");
    }
}
