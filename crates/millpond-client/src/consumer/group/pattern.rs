//! Topics by a regular expression: matched by the coordinator where it can (KIP-848, from version 1 of the heartbeat
//! on), else here, against all topics of the cluster, again and again.

use std::collections::BTreeSet;

use millpond_wire::consumer_group_heartbeat::ConsumerGroupHeartbeatRequest;
use regex::{Regex, RegexBuilder};
use tokio::time::Instant;
use tracing::debug;

use super::heartbeat::Kind;
use super::{MISSING_TOPIC_PAUSE, Member};
use crate::clock;
use crate::error::{Error, Result};

/// The first version of the heartbeat that takes an expression.
const HEARTBEAT_MATCHES: i16 = 1;
/// The most memory that a compiled expression may take.
const MOST_BYTES: usize = 1 << 20;

/// An expression that the whole name of a topic must match.
#[derive(Clone, Debug)]
pub(crate) struct Pattern {
    text: String,
    whole: Regex,
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Pattern) -> bool {
        self.text == other.text
    }
}

impl Pattern {
    /// # Errors
    /// [`Error::Request`] for what is no regular expression, and for an empty one: no topic matches it, and to a
    /// coordinator it says that there is none any more (KIP-848).
    pub(crate) fn new(text: &str) -> Result<Pattern> {
        if text.is_empty() {
            return Err(Error::Request { reason: "an empty pattern matches no topic; '.*' matches all".to_owned() });
        }
        let compile = |text: &str| {
            let built = RegexBuilder::new(text).size_limit(MOST_BYTES).dfa_size_limit(MOST_BYTES).build();
            built.map_err(|error| Error::Request {
                reason: format!("it is no regular expression: {}", one_line(&error)),
            })
        };
        // By itself first: brackets of ours must not make a whole of what is none.
        compile(text)?;
        Ok(Pattern { text: text.to_owned(), whole: compile(&format!("^(?:{text})$"))? })
    }

    /// As the caller has written it.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    fn matches(&self, topic: &str) -> bool {
        self.whole.is_match(topic)
    }
}

/// What is wrong, without a drawing of where.
fn one_line(error: &regex::Error) -> String {
    let text = error.to_string();
    let last = text.lines().last().unwrap_or_default();
    last.strip_prefix("error: ").unwrap_or(last).to_owned()
}

impl Member {
    /// Before the group is told what is subscribed to: sees to it that there are topics to name, if that is a pattern
    /// and the coordinator does not match it.
    pub(super) async fn match_topics(&mut self) -> Result<()> {
        if self.pattern.is_none() && !self.told.matches {
            return Ok(());
        }
        if self.kind != Kind::Consumer || !self.coordinator_matches().await? {
            // Whoever takes no pattern has none of ours.
            self.told.matches = false;
            if self.pattern.is_some() && self.match_at.is_none() {
                self.match_by(clock::now() + self.beats_every).await?;
            }
        } else if self.pattern.is_some() && self.match_at.take().is_some() {
            self.topics.clear();
            self.say_all_again();
        }
        Ok(())
    }

    /// The pattern was matched here, and there is no topic to name.
    pub(super) fn matches_nothing(&self) -> bool {
        self.match_at.is_some() && self.topics.is_empty()
    }

    async fn coordinator_matches(&mut self) -> Result<bool> {
        let connection = self.coordinator().await?;
        Ok(connection.versions().newest::<ConsumerGroupHeartbeatRequest>(HEARTBEAT_MATCHES, i16::MAX).is_some())
    }

    /// When that is next. Nobody looks for a caller that does not come.
    pub(super) fn match_at(&self) -> Option<Instant> {
        self.match_at.filter(|_| !self.is_missed())
    }

    /// Has the group told when other topics match than before, as often as what is known of topics is asked for again.
    pub(super) async fn watch_pattern(&mut self, now: Instant) -> Result<()> {
        if self.match_at().is_some_and(|at| at <= now) { self.match_by(self.next_beat).await } else { Ok(()) }
    }

    /// Matches. A member that hears of no topics by `until` tries it later: its heartbeat must not wait for that.
    async fn match_by(&mut self, until: Instant) -> Result<()> {
        if !self.is_member() {
            return self.match_again().await;
        }
        let matched = clock::by(until, self.match_again()).await;
        matched.unwrap_or_else(|| {
            debug!("it is not known in time which topics match");
            self.match_at = Some(clock::now() + MISSING_TOPIC_PAUSE);
            Ok(())
        })
    }

    async fn match_again(&mut self) -> Result<()> {
        let Some(pattern) = self.pattern.clone() else { return Ok(()) };
        let told = self.shared.cluster.metadata(None).await?;
        let names = told.topics.iter().filter(|topic| topic.error_code == 0 && !topic.is_internal);
        let names = names.filter_map(|topic| topic.name.as_deref()).filter(|name| pattern.matches(name));
        let topics: BTreeSet<String> = names.map(str::to_owned).collect();
        let age = self.shared.config.metadata_max_age;
        self.match_at = Some(clock::now() + if topics.is_empty() { age.min(MISSING_TOPIC_PAUSE) } else { age });
        if topics != self.topics {
            debug!("{} topics match '{}'", topics.len(), pattern.text());
            self.topics = topics;
            self.rejoin = true;
            self.say_all_again();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_must_match_as_a_whole() {
        let pattern = Pattern::new("logs|a.").expect("good");
        for (name, expected) in [("logs", true), ("ab", true), ("logs-2", false), ("my-logs", false), ("a", false)] {
            assert_eq!(pattern.matches(name), expected, "{name}");
        }
    }

    #[test]
    fn what_is_no_expression_is_refused_with_its_reason() {
        for text in ["(", "a)(b", "[", r"a{1000}{1000}{1000}"] {
            let error = Pattern::new(text).expect_err(text).to_string();
            assert!(error.starts_with("the request cannot be sent: it is no regular expression: "), "{error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }
}
