//! On which protocol the members of a group agree, and which topics its consumers read.

use std::collections::{BTreeMap, BTreeSet};

use millpond_wire::Str;
use millpond_wire::join_group::JoinGroupRequest;

use super::ClassicGroup;
use crate::consumer_protocol::{CONSUMER, subscribed_topics};

impl ClassicGroup {
    fn all_support(&self, protocol: &str) -> bool {
        self.members.values().all(|member| member.metadata_of(protocol).is_some())
    }

    /// Whether a member that asks like this can be one of the group.
    pub(super) fn supports(&self, request: &JoinGroupRequest) -> bool {
        if request.protocol_type.is_empty() || request.protocols.is_empty() {
            return false;
        }
        self.members.is_empty()
            || self.protocol_type.as_ref() == Some(&request.protocol_type)
                && request.protocols.iter().any(|offered| self.all_support(&offered.name))
    }

    /// The protocol that most members like best among those that all of them know. What the leader likes better decides
    /// between equals. None when they share none, which joining does not allow.
    pub(super) fn elected_protocol(&self) -> Option<Str> {
        let mut votes: BTreeMap<&Str, usize> = BTreeMap::new();
        let (_, any) = self.members.iter().next()?;
        let candidates: BTreeSet<&Str> =
            any.protocols.iter().map(|known| &known.name).filter(|name| self.all_support(name)).collect();
        for member in self.members.values() {
            if let Some(liked) = member.protocols.iter().find(|known| candidates.contains(&known.name)) {
                *votes.entry(&liked.name).or_default() += 1;
            }
        }
        let leader = self.leader.as_ref().and_then(|leader| self.members.get(&**leader)).unwrap_or(any);
        let rank = |name: &Str| leader.protocols.iter().position(|known| known.name == *name);
        let winner = votes.into_iter().max_by_key(|&(name, votes)| (votes, std::cmp::Reverse(rank(name))));
        winner.map(|(name, _)| name.clone())
    }

    pub(super) fn is_consumers(&self) -> bool {
        self.protocol_type.as_deref() == Some(CONSUMER)
    }

    /// The topics of all members under the group's protocol; none when one of them cannot be read.
    pub(super) fn topics_of_members(&self) -> Option<BTreeSet<Str>> {
        if self.members.is_empty() {
            return Some(BTreeSet::new());
        }
        let protocol = self.protocol.as_ref().filter(|_| self.is_consumers())?;
        let mut topics = BTreeSet::new();
        for member in self.members.values() {
            topics.extend(subscribed_topics(member.metadata_of(protocol)?)?);
        }
        Some(topics)
    }
}
