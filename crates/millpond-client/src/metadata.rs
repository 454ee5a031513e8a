//! What is known of topics: their ids, and who leads their partitions.
//!
//! A [`Topics`] is a value: it is told what brokers answered and how requests failed, and says what must be asked for
//! again. Knowledge only goes forward: an answer from a broker that is behind does not bring an older leader back.

use std::collections::BTreeMap;
use std::time::Duration;

use millpond_record::TopicId;
use millpond_wire::metadata::{MetadataResponse, MetadataResponsePartition};
use millpond_wire::{ErrorCode, Str};
use tokio::time::Instant;

use crate::error::Error;

/// The most topics that one request asks for; the others follow with the next.
const TOPICS_PER_REQUEST: usize = 500;

/// The longest name of a topic.
const MOST_NAME_BYTES: usize = 249;

/// Who leads a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Leadership {
    /// `None` while nobody does, or while it is not known.
    pub(crate) leader: Option<i32>,
    /// The newest epoch that was heard of; `None` from brokers that do not say.
    pub(crate) epoch: Option<i32>,
}

/// A topic that somebody wants to know of.
#[derive(Debug)]
pub(crate) struct Topic {
    pub(crate) name: Str,
    /// `None` until it is known, and from brokers before Kafka 2.8.
    pub(crate) id: Option<TopicId>,
    /// By number; empty until the first answer.
    pub(crate) partitions: Vec<Leadership>,
    /// Why the last answer had no partitions.
    pub(crate) error: Option<Error>,
    /// Must be asked for.
    stale: bool,
    /// A broker that leads a part of it has hung up since it was last told of.
    hung_up: bool,
    /// Somebody has wanted to know of it since it was last asked for because of its age.
    used: bool,
    asked_at: Option<Instant>,
}

impl Topic {
    fn new(name: &str) -> Topic {
        Topic {
            name: name.into(),
            id: None,
            partitions: Vec::new(),
            error: None,
            stale: true,
            hung_up: false,
            used: true,
            asked_at: None,
        }
    }

    /// Whether it is another topic than before.
    fn learn(&mut self, id: Option<TopicId>, told: &[MetadataResponsePartition]) -> bool {
        let replaced = self.id.is_some() && id.is_some() && id != self.id;
        if self.id.is_some() && id != self.id {
            // Deleted and made again: its epochs begin anew.
            self.partitions.clear();
        }
        self.id = id;
        self.error = None;
        let count = told.iter().filter_map(|partition| usize::try_from(partition.partition_index).ok()).max();
        // A number beyond the count of those told would be a gap, which no topic has.
        let count = count.map_or(0, |last| last.saturating_add(1)).min(told.len());
        self.partitions.resize(count.max(self.partitions.len()), Leadership::default());
        for partition in told {
            let index = usize::try_from(partition.partition_index).ok();
            let Some(known) = index.and_then(|index| self.partitions.get_mut(index)) else { continue };
            let told = Leadership {
                leader: Some(partition.leader_id).filter(|leader| *leader >= 0),
                epoch: Some(partition.leader_epoch).filter(|epoch| *epoch >= 0),
            };
            if told.epoch.is_none() || told.epoch >= known.epoch {
                *known = told;
            }
        }
        replaced
    }
}

/// Whether Kafka allows it as the name of a topic: 1 to 249 ASCII letters, digits, `.`, `_` and `-`, but not `.` or
/// `..`.
pub(crate) fn check_name(name: &str) -> Result<(), Error> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let problem = match name {
        "" => "a topic's name is not empty",
        "." | ".." => "neither '.' nor '..' is the name of a topic",
        long if long.len() > MOST_NAME_BYTES => "a topic's name has at most 249 letters",
        other if !other.bytes().all(allowed) => "a topic's name has only ASCII letters, digits, '.', '_' and '-'",
        _ => return Ok(()),
    };
    Err(Error::Refused {
        what: "looking for the topic".to_owned(),
        code: ErrorCode::INVALID_TOPIC_EXCEPTION,
        message: Some(problem.to_owned()),
    })
}

/// Topics by number and by name. A number, once given, stays.
#[derive(Debug)]
pub(crate) struct Topics {
    topics: Vec<Topic>,
    numbers: BTreeMap<String, usize>,
    max_age: Duration,
    /// An answer is on its way.
    asking: bool,
    /// When the next question may be asked.
    not_before: Option<Instant>,
    /// Questions in a row that told of nothing new to go on with.
    failures: u32,
}

impl Topics {
    /// Knows nothing yet; what it learns is asked for again when it is older than `max_age`.
    pub(crate) fn new(max_age: Duration) -> Topics {
        Topics { topics: Vec::new(), numbers: BTreeMap::new(), max_age, asking: false, not_before: None, failures: 0 }
    }

    /// The number of a topic, which from now on is asked for, until nobody has used it for a while. An error for what
    /// cannot be the name of one: it might spoil the question for all others.
    pub(crate) fn number(&mut self, name: &str) -> Result<usize, Error> {
        if let Some(number) = self.numbers.get(name) {
            let topic = &mut self.topics[*number];
            topic.used = true;
            // What was not asked for any more is so again.
            topic.stale |= topic.asked_at.is_none();
            return Ok(*number);
        }
        check_name(name)?;
        self.topics.push(Topic::new(name));
        self.numbers.insert(name.to_owned(), self.topics.len() - 1);
        Ok(self.topics.len() - 1)
    }

    /// The topic with this number.
    pub(crate) fn get(&self, number: usize) -> &Topic {
        &self.topics[number]
    }

    /// Says that somebody still wants to know of it.
    pub(crate) fn used(&mut self, number: usize) {
        self.topics[number].used = true;
    }

    /// Who leads a partition, as far as is known.
    pub(crate) fn leadership(&self, number: usize, partition: usize) -> Leadership {
        self.topics[number].partitions.get(partition).copied().unwrap_or_default()
    }

    /// Has a topic asked for again.
    pub(crate) fn doubt(&mut self, number: usize) {
        self.topics[number].stale = true;
    }

    /// Whether a broker that leads a partition of it has hung up since it was last told of.
    pub(crate) fn was_hung_up_on(&self, number: usize) -> bool {
        self.topics[number].hung_up
    }

    /// Has all topics asked for again of which this broker leads a partition.
    pub(crate) fn doubt_led_by(&mut self, broker: i32) {
        for topic in &mut self.topics {
            let led = topic.partitions.iter().any(|known| known.leader == Some(broker));
            topic.stale |= led;
            topic.hung_up |= led;
        }
    }

    /// The topics to ask for now, and when there will be some if there are none. With topics the question counts as
    /// asked: [`learn`](Topics::learn) or [`not_told`](Topics::not_told) must follow.
    pub(crate) fn ask(&mut self, now: Instant) -> (Vec<Str>, Option<Instant>) {
        if self.asking {
            return (Vec::new(), None);
        }
        let mut next = None;
        for topic in &mut self.topics {
            let mut old_at = topic.asked_at.map(|at| at + self.max_age);
            if old_at.is_some_and(|at| at <= now) {
                // What nobody has used since then is not asked for until somebody does.
                topic.stale |= std::mem::take(&mut topic.used);
                (topic.asked_at, old_at) = (None, None);
            }
            let due = if topic.stale { Some(now) } else { old_at };
            next = [next, due].into_iter().flatten().min();
        }
        let at = next.map(|at| self.not_before.map_or(at, |not_before| at.max(not_before)));
        if at.is_none_or(|at| at > now) {
            return (Vec::new(), at);
        }
        let stale = self.topics.iter().filter(|topic| topic.stale).take(TOPICS_PER_REQUEST);
        let names: Vec<Str> = stale.map(|topic| topic.name.clone()).collect();
        self.asking = !names.is_empty();
        (names, None)
    }

    /// Takes an answer over; gives the numbers of the topics that are others than before. `pause` says how long to wait
    /// before the next question, after so many in a row that left something open.
    pub(crate) fn learn(
        &mut self,
        told: &MetadataResponse,
        now: Instant,
        pause: impl FnOnce(u32) -> Duration,
    ) -> Vec<usize> {
        self.asking = false;
        let mut replaced = Vec::new();
        let mut open = false;
        for answer in &told.topics {
            let number = answer.name.as_ref().and_then(|name| self.numbers.get(name.as_str()));
            let Some(number) = number.copied() else { continue };
            let topic = &mut self.topics[number];
            // Whoever still lacks something says so: a topic that nobody needs is not asked for without end.
            (topic.stale, topic.hung_up) = (false, false);
            topic.asked_at = Some(now);
            match Error::check(answer.error_code, None, || format!("looking for the topic {}", topic.name)) {
                Ok(()) => {
                    let id = Some(TopicId(answer.topic_id)).filter(|id| *id != TopicId::ZERO);
                    if topic.learn(id, &answer.partitions) {
                        replaced.push(number);
                    }
                    open |= topic.partitions.iter().any(|known| known.leader.is_none());
                }
                Err(error) => {
                    open = true;
                    if error.code() == Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION) {
                        // When it comes back it may be another one, with epochs of its own.
                        topic.partitions.iter_mut().for_each(|known| *known = Leadership::default());
                    }
                    topic.error = Some(error);
                }
            }
        }
        self.failures = if open { self.failures.saturating_add(1) } else { 0 };
        // Even an answer that closes everything is not asked for again at once.
        self.not_before = Some(now + pause(self.failures.max(1)));
        replaced
    }

    /// No answer came. `error` is what those hear who wait for a topic of which nothing is known.
    pub(crate) fn not_told(&mut self, error: &Error, now: Instant, pause: impl FnOnce(u32) -> Duration) {
        self.asking = false;
        self.failures = self.failures.saturating_add(1);
        self.not_before = Some(now + pause(self.failures));
        for topic in self.topics.iter_mut().filter(|topic| topic.stale && topic.partitions.is_empty()) {
            topic.error = Some(error.clone());
        }
    }

    /// A request for a partition that went to `asked` was refused with this code; `hint` is the leader and the epoch
    /// that the answer names (KIP-951). Whether the next try can be made at once.
    pub(crate) fn refused(
        &mut self,
        number: usize,
        partition: usize,
        asked: i32,
        code: ErrorCode,
        hint: Option<(i32, i32)>,
    ) -> bool {
        let topic = &mut self.topics[number];
        let Some(known) = topic.partitions.get_mut(partition) else { return false };
        let newer = hint.filter(|(leader, epoch)| *leader != asked && known.epoch.is_none_or(|known| *epoch >= known));
        if let Some((leader, epoch)) = newer {
            *known = Leadership { leader: Some(leader), epoch: Some(epoch) };
            return true;
        }
        if known.leader.is_some_and(|leader| leader != asked) {
            // Another answer has told of the new leader since.
            return true;
        }
        if code == ErrorCode::UNKNOWN_TOPIC_OR_PARTITION || code == ErrorCode::UNKNOWN_TOPIC_ID {
            known.epoch = None;
        }
        topic.stale = true;
        false
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "only takes a point in time to count from")]
mod tests {
    use super::*;
    use millpond_wire::metadata::MetadataResponseTopic;

    const PAUSE: Duration = Duration::from_millis(50);

    fn topics() -> (Topics, Instant) {
        (Topics::new(Duration::from_secs(300)), Instant::now())
    }

    /// An answer about `logs`: leader and epoch by partition.
    fn told(id: u8, partitions: &[(i32, i32)]) -> MetadataResponse {
        let partition = |(index, (leader_id, leader_epoch)): (i32, &(i32, i32))| MetadataResponsePartition {
            partition_index: index,
            leader_id: *leader_id,
            leader_epoch: *leader_epoch,
            ..Default::default()
        };
        let topic = MetadataResponseTopic {
            name: Some("logs".into()),
            topic_id: [id; 16],
            partitions: (0..).zip(partitions).map(partition).collect(),
            ..Default::default()
        };
        MetadataResponse { topics: vec![topic], ..Default::default() }
    }

    fn leader(topics: &Topics, partition: usize) -> (Option<i32>, Option<i32>) {
        let known = topics.leadership(0, partition);
        (known.leader, known.epoch)
    }

    #[test]
    fn a_topic_is_asked_for_once_and_again_when_it_is_old_or_in_doubt() {
        let (mut topics, now) = topics();
        assert_eq!(topics.ask(now), (vec![], None));
        let logs = topics.number("logs").expect("a name");
        assert_eq!(topics.number("logs").expect("a name"), logs);
        assert_eq!(topics.ask(now), (vec!["logs".into()], None));
        assert_eq!(topics.ask(now), (vec![], None), "an answer is on its way");
        topics.learn(&told(1, &[(1, 5), (2, 7)]), now, |_| PAUSE);
        assert_eq!((leader(&topics, 0), leader(&topics, 1)), ((Some(1), Some(5)), (Some(2), Some(7))));
        assert_eq!(topics.get(logs).id, Some(TopicId([1; 16])));
        assert_eq!(topics.ask(now), (vec![], Some(now + Duration::from_secs(300))));
        topics.doubt(logs);
        assert_eq!(topics.ask(now), (vec![], Some(now + PAUSE)), "not at once");
        assert_eq!(topics.ask(now + PAUSE).0, ["logs"]);
        topics.learn(&told(1, &[(1, 5), (2, 7)]), now + PAUSE, |_| PAUSE);
        assert_eq!(topics.ask(now + Duration::from_secs(301)).0, ["logs"]);
    }

    #[test]
    fn a_partition_without_a_leader_is_asked_for_with_growing_pauses() {
        let (mut topics, now) = topics();
        topics.number("logs").expect("a name");
        for failures in 1..4 {
            assert_eq!(topics.ask(now).0, ["logs"]);
            topics.learn(&told(1, &[(-1, 5)]), now, |row| {
                assert_eq!(row, failures);
                Duration::ZERO
            });
            assert_eq!(leader(&topics, 0), (None, Some(5)));
            assert!(topics.ask(now).0.is_empty(), "nobody needs it");
            topics.doubt(0);
        }
    }

    #[test]
    fn an_answer_that_is_behind_does_not_bring_an_old_leader_back() {
        let (mut topics, now) = topics();
        topics.number("logs").expect("a name");
        topics.learn(&told(1, &[(2, 7)]), now, |_| PAUSE);
        topics.learn(&told(1, &[(1, 6)]), now, |_| PAUSE);
        assert_eq!(leader(&topics, 0), (Some(2), Some(7)));
        topics.learn(&told(2, &[(1, 0)]), now, |_| PAUSE);
        assert_eq!(leader(&topics, 0), (Some(1), Some(0)), "another topic of the same name");
    }

    #[test]
    fn a_refusal_steers_to_the_leader_that_it_names_or_has_the_topic_asked_for() {
        let moved = ErrorCode::NOT_LEADER_OR_FOLLOWER;
        for (hint, at_once, after) in [
            (Some((2, 8)), true, (Some(2), Some(8))),
            (Some((2, 6)), false, (Some(1), Some(7))),
            (Some((1, 8)), false, (Some(1), Some(7))),
            (None, false, (Some(1), Some(7))),
        ] {
            let (mut topics, now) = topics();
            let logs = topics.number("logs").expect("a name");
            topics.learn(&told(1, &[(1, 7)]), now, |_| Duration::ZERO);
            assert_eq!(topics.refused(logs, 0, 1, moved, hint), at_once, "{hint:?}");
            assert_eq!(leader(&topics, 0), after, "{hint:?}");
            assert_eq!(topics.ask(now).0.is_empty(), at_once, "{hint:?}");
            assert!(!topics.refused(logs, 9, 1, moved, Some((2, 9))), "there is no such partition");
        }
    }

    #[test]
    fn a_topic_that_is_gone_may_come_back_with_lower_epochs() {
        let (mut topics, now) = topics();
        let logs = topics.number("logs").expect("a name");
        topics.learn(&told(0, &[(1, 7)]), now, |_| PAUSE);
        topics.refused(logs, 0, 1, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, None);
        topics.learn(&told(0, &[(1, 0)]), now, |_| PAUSE);
        assert_eq!(leader(&topics, 0), (Some(1), Some(0)));
    }

    #[test]
    fn an_answer_of_no_sense_makes_no_partitions() {
        let (mut topics, now) = topics();
        let logs = topics.number("logs").expect("a name");
        let mut wrong = told(1, &[(1, 7)]);
        wrong.topics[0].partitions[0].partition_index = i32::MAX;
        topics.learn(&wrong, now, |_| PAUSE);
        assert!(topics.get(logs).partitions.len() <= 1);
        wrong.topics[0].partitions[0].partition_index = -1;
        topics.learn(&wrong, now, |_| PAUSE);
        assert!(topics.get(logs).partitions.len() <= 1);
    }

    #[test]
    fn who_waits_for_a_topic_hears_why_there_is_none() {
        let (mut topics, now) = topics();
        let logs = topics.number("logs").expect("a name");
        topics.not_told(&Error::Closed, now, |_| PAUSE);
        assert!(matches!(topics.get(logs).error, Some(Error::Closed)));
        let mut unknown = told(0, &[]);
        unknown.topics[0].error_code = ErrorCode::TOPIC_AUTHORIZATION_FAILED.0;
        topics.learn(&unknown, now, |_| Duration::ZERO);
        let error = topics.get(logs).error.clone().expect("a refusal");
        assert_eq!(error.code(), Some(ErrorCode::TOPIC_AUTHORIZATION_FAILED));
        assert!(topics.ask(now).0.is_empty(), "it would be refused again");
    }

    #[test]
    fn what_cannot_be_the_name_of_a_topic_is_refused_before_anybody_is_asked() {
        let (mut topics, now) = topics();
        let long = "x".repeat(250);
        for name in ["", ".", "..", "a b", "caf\u{e9}", "a/b", &long] {
            let error = topics.number(name).expect_err("no name");
            assert_eq!(error.code(), Some(ErrorCode::INVALID_TOPIC_EXCEPTION), "{name}");
        }
        assert_eq!(topics.ask(now), (vec![], None));
        for name in ["...", "a.B_c-9", &long[1..]] {
            topics.number(name).expect("a name");
        }
        assert_eq!(topics.ask(now).0.len(), 3);
    }

    #[test]
    fn a_topic_that_nobody_uses_is_not_asked_for_until_somebody_does() {
        let (mut topics, now) = topics();
        let logs = topics.number("logs").expect("a name");
        let age = Duration::from_secs(300);
        for age in [0, 1].map(|ages| age * ages) {
            assert_eq!(topics.ask(now + age).0, ["logs"], "it was used before");
            topics.learn(&told(1, &[(1, 5)]), now + age, |_| PAUSE);
        }
        assert_eq!(topics.ask(now + 2 * age), (vec![], None));
        assert_eq!(topics.number("logs").expect("a name"), logs);
        assert_eq!(topics.ask(now + 2 * age).0, ["logs"]);
    }

    #[test]
    fn a_topic_that_was_made_again_is_told_of_once() {
        let (mut topics, now) = topics();
        let logs = topics.number("logs").expect("a name");
        assert!(topics.learn(&told(1, &[(1, 5)]), now, |_| PAUSE).is_empty());
        assert_eq!(topics.learn(&told(2, &[(1, 0)]), now, |_| PAUSE), [logs]);
        assert!(topics.learn(&told(2, &[(1, 0)]), now, |_| PAUSE).is_empty());
    }

    #[test]
    fn a_leader_that_hangs_up_is_asked_after_and_counts_until_the_next_answer() {
        let (mut topics, now) = topics();
        let logs = topics.number("logs").expect("a name");
        topics.learn(&told(1, &[(1, 5), (-1, 5)]), now, |_| Duration::ZERO);
        topics.doubt(logs);
        assert!(!topics.was_hung_up_on(logs), "a partition without a leader does not hold up the others");
        topics.learn(&told(1, &[(1, 5)]), now, |_| Duration::ZERO);
        topics.doubt_led_by(2);
        assert!(!topics.was_hung_up_on(logs) && topics.ask(now).0.is_empty(), "it leads nothing");
        topics.doubt_led_by(1);
        assert!(topics.was_hung_up_on(logs));
        assert_eq!(topics.ask(now).0, ["logs"]);
        topics.learn(&told(1, &[(2, 6)]), now, |_| Duration::ZERO);
        assert!(!topics.was_hung_up_on(logs));
    }
}
