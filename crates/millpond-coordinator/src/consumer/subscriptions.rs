//! Which topics the members read, and what each member is to have of them.

use std::collections::{BTreeMap, BTreeSet};

use millpond_record::TopicId;
use millpond_wire::Str;
use millpond_wire::consumer_group_metadata_value::ConsumerGroupMetadataValue;
use millpond_wire::consumer_group_regular_expression_value::ConsumerGroupRegularExpressionValue;
use millpond_wire::consumer_group_target_assignment_metadata_value::ConsumerGroupTargetAssignmentMetadataValue;
use regex::{Regex, RegexBuilder};

use super::assignors::Reader;
use super::{Assignor, ConsumerChange, ConsumerGroup, ConsumerMember};
use crate::error::GroupError;
use crate::shard::Turn;
use crate::topics::Topics;

/// A regular expression may take this much when it is compiled. Matching takes time linear in the name.
const MAX_REGEX_BYTES: usize = 1 << 20;

/// What a text takes in memory besides its bytes, about.
const TEXT_BYTES: usize = 64;

/// Compiles a regular expression that must match a whole name, in the syntax of RE2 as far as both have it.
pub(super) fn whole_name(pattern: &str) -> Result<Regex, GroupError> {
    let compile = |pattern: &str| {
        let mut builder = RegexBuilder::new(pattern);
        builder.size_limit(MAX_REGEX_BYTES).dfa_size_limit(MAX_REGEX_BYTES).build()
    };
    // By itself first: brackets of ours must not make a whole of what is none.
    compile(pattern).map_err(|_| GroupError::InvalidRegex)?;
    compile(&format!("^(?:{pattern})$")).map_err(|_| GroupError::InvalidRegex)
}

/// A number that changes with the topics, made as FNV-1a makes it.
fn hash_of(topics: &BTreeMap<Str, (TopicId, i32)>) -> i64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |bytes: &[u8]| {
        for &byte in bytes {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    for (name, (id, partitions)) in topics {
        add(name.as_bytes());
        add(&[0xff]);
        add(&id.0);
        add(&partitions.to_be_bytes());
    }
    // Zero is that of no topics.
    if topics.is_empty() { 0 } else { hash as i64 }
}

impl ConsumerGroup {
    /// Hands out the record and applies it.
    pub(super) fn emit(&mut self, turn: &mut Turn<'_>, change: ConsumerChange) -> Result<(), GroupError> {
        let record = change.encode(&self.id).map_err(|_| GroupError::NamesTooLong)?;
        let bytes = record.key.len() + record.value.as_ref().map_or(0, |value| value.len());
        let max = turn.settings.max_record_bytes;
        if bytes > max {
            return Err(GroupError::RecordTooLarge { bytes, max });
        }
        // What members say of themselves; what they are to have is bounded by the partitions that there are.
        let texts = match &change {
            ConsumerChange::Member(_, Some(value)) => value.subscribed_topic_names.len(),
            ConsumerChange::Regex(_, Some(value)) => value.topics.len(),
            _ => 0,
        };
        if texts > 0 && bytes + texts * TEXT_BYTES > turn.room {
            return Err(GroupError::NoMemory);
        }
        turn.effects.records.push(record);
        self.replay(change);
        Ok(())
    }

    /// The names of the topics that a member reads; they need not exist.
    pub(super) fn names_of<'a>(&'a self, member: &'a ConsumerMember) -> impl Iterator<Item = &'a Str> {
        let matched = member.regex.as_ref().and_then(|regex| self.regexes.get(&**regex));
        member.names.iter().chain(matched.into_iter().flatten())
    }

    /// The topics that anyone reads, as far as they exist.
    fn topics_read(&self, topics: &dyn Topics) -> BTreeMap<Str, (TopicId, i32)> {
        let names: BTreeSet<&Str> = self.members.values().flat_map(|member| self.names_of(member)).collect();
        names.into_iter().filter_map(|name| Some((name.clone(), topics.topic(name)?))).collect()
    }

    /// Finds out whether the topics that are read have changed, and the regular expressions' topics first. Gives the
    /// hash of the topics.
    pub(super) fn look_at_topics(&mut self, turn: &mut Turn<'_>, topics: &dyn Topics) -> Result<i64, GroupError> {
        let in_use: BTreeSet<Str> = self.members.values().filter_map(|member| member.regex.clone()).collect();
        let news = self.seen_topics != Some(topics.version());
        let unused: Vec<Str> = self.regexes.keys().filter(|regex| !in_use.contains(*regex)).cloned().collect();
        for regex in unused {
            self.emit(turn, ConsumerChange::Regex(regex, None))?;
        }
        for regex in in_use {
            if !news && self.regexes.contains_key(&regex) {
                continue;
            }
            // One that matches more than can be kept goes on with what it matched before: the other members are not to
            // fail with it. Who subscribes with one like that is refused.
            let _ = self.match_regex(turn, topics, regex);
        }
        self.seen_topics = Some(topics.version());
        let read = self.topics_read(topics);
        self.topic_names = read.iter().map(|(name, (id, _))| (*id, name.clone())).collect();
        Ok(hash_of(&read))
    }

    /// Finds the topics that a regular expression matches, and hands out the record if they are others than before.
    pub(super) fn match_regex(
        &mut self,
        turn: &mut Turn<'_>,
        topics: &dyn Topics,
        regex: Str,
    ) -> Result<(), GroupError> {
        // One that an earlier version took and this one does not matches nothing.
        let mut matched = BTreeSet::new();
        if let Ok(compiled) = whole_name(&regex) {
            topics.for_each_name(&mut |name| {
                if compiled.is_match(name) {
                    matched.insert(Str::from(name));
                }
            });
        }
        if self.regexes.get(&regex) == Some(&matched) {
            return Ok(());
        }
        let value = ConsumerGroupRegularExpressionValue {
            topics: matched.into_iter().collect(),
            version: topics.version() as i64,
            timestamp: turn.now.wall.0,
        };
        self.emit(turn, ConsumerChange::Regex(regex, Some(value)))
    }

    /// Whether nothing but a member's own report can have changed since the last look.
    pub(super) fn has_seen(&self, topics: &dyn Topics) -> bool {
        self.seen_topics == Some(topics.version())
    }

    /// Begins the next epoch.
    pub(super) fn raise_epoch(
        &mut self,
        turn: &mut Turn<'_>,
        metadata_hash: i64,
        why: String,
    ) -> Result<(), GroupError> {
        self.begin_rebalance(turn, &why);
        let epoch = self.epoch.checked_add(1).unwrap_or(1);
        self.emit(turn, ConsumerChange::Epoch(Some(ConsumerGroupMetadataValue { epoch, metadata_hash })))
    }

    /// The assignor that most members ask for; between equals the first by name is not chosen, but Kafka's default.
    pub(super) fn assignor(&self) -> Assignor {
        let mut votes: BTreeMap<Assignor, usize> = BTreeMap::new();
        let asked = self.members.values().filter_map(|member| Assignor::by_name(member.assignor.as_deref()?));
        for assignor in asked {
            *votes.entry(assignor).or_default() += 1;
        }
        let most = votes.into_iter().max_by_key(|&(assignor, votes)| (votes, std::cmp::Reverse(assignor)));
        most.map_or(Assignor::Uniform, |(assignor, _)| assignor)
    }

    /// Computes the target assignment of this epoch, if that was not done.
    pub(super) fn update_target(&mut self, turn: &mut Turn<'_>, topics: &dyn Topics) -> Result<(), GroupError> {
        if self.target_epoch == self.epoch {
            return Ok(());
        }
        let read = self.topics_read(topics);
        let sizes: BTreeMap<TopicId, i32> = read.values().copied().collect();
        let reader = |(id, member): (&Str, &ConsumerMember)| {
            let topics = self.names_of(member).filter_map(|name| read.get(name)).map(|(topic, _)| *topic).collect();
            // The iterator borrows the member's own instance id.
            (id.clone(), (member.instance_id.clone(), topics))
        };
        let read_by: BTreeMap<Str, (Option<Str>, BTreeSet<TopicId>)> = self.members.iter().map(reader).collect();
        let readers = read_by.iter().map(|(id, (instance_id, topics))| {
            let (instance_id, topics) = (instance_id.as_ref(), topics.clone());
            (id.clone(), Reader { instance_id, topics, before: self.targets.get(id) })
        });
        let dealt = self.assignor().assign(&readers.collect(), &sizes);
        for (id, target) in &dealt {
            if self.targets.get(&**id) != Some(target) {
                self.emit(turn, ConsumerChange::target(id, target))?;
            }
        }
        let value = ConsumerGroupTargetAssignmentMetadataValue { assignment_epoch: self.epoch };
        self.emit(turn, ConsumerChange::TargetEpoch(Some(value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_regular_expression_matches_whole_names_and_a_bad_one_is_refused() {
        let matches = |pattern: &str, name: &str| whole_name(pattern).expect("good").is_match(name);
        assert!(matches(r"a\..*", "a.orders") && !matches(r"a\..*", "xa.orders"));
        assert!(matches("a|b", "b") && !matches("a|b", "bc"));
        for bad in ["(", "a)(b", r"(?=look)", r"(a)\1", "((((a{99}){99}){99}){99}){99}"] {
            assert_eq!(whole_name(bad).err(), Some(GroupError::InvalidRegex), "{bad}");
        }
    }
}
