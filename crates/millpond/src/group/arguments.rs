//! The command line of `millpond group`.

use anyhow::{Result, bail};
use clap::{Args, Subcommand};

use crate::cluster::Reach;

#[derive(Debug, Subcommand)]
pub(crate) enum GroupCommand {
    /// List the groups.
    List(ListArguments),
    /// Say who is in a group, what each member has, and how far it is behind.
    Describe(DescribeArguments),
    /// Have a group without members go on from elsewhere.
    ResetOffsets(ResetArguments),
    /// Delete a group without members, with its offsets.
    Delete(DeleteArguments),
    /// Say in sentences why a group does not get on.
    Explain(ExplainArguments),
}

pub(crate) const GROUP_EXAMPLES: &str = "\
Examples:
  millpond group list
  millpond group describe orders
  millpond group explain orders --http broker-1.example:9094
  millpond group reset-offsets orders --to earliest --dry-run";

const LIST_EXAMPLES: &str = "\
Examples:
  millpond group list
  millpond group list --bootstrap broker-1.example:9092 --json

It works on Kafka's clusters, too.";

const DESCRIBE_EXAMPLES: &str = "\
Examples:
  millpond group describe orders
  millpond group describe orders --http broker-1.example:9094
  millpond group describe orders --json

Of each partition: the committed offset, the end, how many records lie between them, and who has it. It works on Kafka's
clusters, too. With --http, the HTTP port of the Millpond broker that coordinates the group, it also tells how old the
first unread record is, when the group committed last, and how often and why it rebalanced.";

const RESET_USAGE: &str = "millpond group reset-offsets NAME --to WHERE [OPTIONS]";

const RESET_EXAMPLES: &str = "\
Examples:
  millpond group reset-offsets orders --to earliest
  millpond group reset-offsets orders --to latest --topic logs --topic events:3
  millpond group reset-offsets orders --to offset 1200 --topic logs:0
  millpond group reset-offsets orders --to timestamp 1700000000000 --dry-run
  millpond group reset-offsets orders --to -100

A timestamp is in milliseconds since 1970; the group goes on with the first record that is not older. --to -N goes on N
records before the end. What lies before the first record or behind the last is brought to these. Without --topic, what
the group has committed is reset. With --topic, a group that does not exist is made: mind its name. The group must have
no members. It works on Kafka's clusters, too.";

const DELETE_EXAMPLES: &str = "\
Example:
  millpond group delete orders

The group must have no members. It works on Kafka's clusters, too.";

const EXPLAIN_EXAMPLES: &str = "\
Examples:
  millpond group explain orders
  millpond group explain orders --http broker-1.example:9094

With --http, the HTTP port of the Millpond broker that coordinates the group, it also knows of rebalances, commits and
the age of records. It works on Kafka's clusters, too.";

#[derive(Args, Debug)]
#[command(after_help = LIST_EXAMPLES)]
pub(crate) struct ListArguments {
    #[command(flatten)]
    pub(crate) reach: Reach,
}

/// A group, and how it is looked at.
#[derive(Args, Debug)]
pub(crate) struct Looked {
    /// The group's name
    #[arg(value_name = "NAME")]
    pub(crate) group: String,
    /// The HTTP port of the Millpond broker that coordinates the group
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) http: Option<String>,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

#[derive(Args, Debug)]
#[command(after_help = DESCRIBE_EXAMPLES)]
pub(crate) struct DescribeArguments {
    #[command(flatten)]
    pub(crate) looked: Looked,
}

#[derive(Args, Debug)]
#[command(after_help = EXPLAIN_EXAMPLES)]
pub(crate) struct ExplainArguments {
    #[command(flatten)]
    pub(crate) looked: Looked,
}

#[derive(Args, Debug)]
#[command(after_help = DELETE_EXAMPLES)]
pub(crate) struct DeleteArguments {
    /// The group's name
    #[arg(value_name = "NAME")]
    pub(crate) group: String,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

#[derive(Args, Debug)]
#[command(after_help = RESET_EXAMPLES, override_usage = RESET_USAGE)]
pub(crate) struct ResetArguments {
    /// The group's name
    #[arg(value_name = "NAME")]
    pub(crate) group: String,
    /// Where it goes on: earliest, latest, offset N, timestamp T, or -N
    #[arg(long, value_name = "WHERE", num_args = 1..=2, required = true, allow_negative_numbers = true)]
    to: Vec<String>,
    /// Only this topic, or this partition of it; may be given many times
    #[arg(long, value_name = "TOPIC[:PARTITION]")]
    pub(crate) topic: Vec<String>,
    /// Say what would be done, and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

/// Where a group is to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goal {
    Earliest,
    Latest,
    Offset(i64),
    /// Milliseconds since 1970.
    Timestamp(i64),
    /// So many records before the end.
    BeforeEnd(i64),
}

impl ResetArguments {
    pub(crate) fn goal(&self) -> Result<Goal> {
        Goal::parse(&self.to, "--to", "millpond group reset-offsets --help")
    }
}

impl Goal {
    /// The place that these words name, the values of `option`; `help` says more of it.
    pub(crate) fn parse(words: &[String], option: &str, help: &str) -> Result<Goal> {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let number = |text: &str| text.parse::<i64>().ok().filter(|number| *number >= 0);
        let goal = match words[..] {
            ["earliest"] => Some(Goal::Earliest),
            ["latest"] => Some(Goal::Latest),
            ["offset", offset] => number(offset).map(Goal::Offset),
            ["timestamp", time] => number(time).map(Goal::Timestamp),
            [back] => back.strip_prefix('-').and_then(number).map(Goal::BeforeEnd),
            _ => None,
        };
        match goal {
            Some(goal) => Ok(goal),
            None => bail!(
                "'{}' is no value of {option}, which is earliest, latest, offset N, timestamp T or -N (see {help})",
                words.join(" ")
            ),
        }
    }
}

/// A topic, or one partition of it. Names of topics have no colon.
pub(crate) fn topic_of(text: &str) -> Result<(String, Option<i32>)> {
    match text.split_once(':') {
        None => Ok((text.to_owned(), None)),
        Some((topic, partition)) => match partition.parse().ok().filter(|partition| *partition >= 0) {
            Some(partition) => Ok((topic.to_owned(), Some(partition))),
            None => bail!("'{text}' is no value of --topic, which is TOPIC or TOPIC:PARTITION"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arguments::{Arguments, Command};
    use clap::Parser;

    fn goal(words: &[&str]) -> Result<Goal, String> {
        let line = [&["millpond", "group", "reset-offsets", "g", "--to"], words, &["--dry-run"]].concat();
        let Command::Group(GroupCommand::ResetOffsets(arguments)) =
            Arguments::try_parse_from(&line).map_err(|error| error.to_string())?.command
        else {
            panic!("another command");
        };
        assert!(arguments.dry_run && arguments.group == "g");
        arguments.goal().map_err(|error| error.to_string())
    }

    #[test]
    fn a_group_can_go_on_from_five_kinds_of_places() {
        for (words, expected) in [
            (&["earliest"][..], Goal::Earliest),
            (&["latest"], Goal::Latest),
            (&["offset", "7"], Goal::Offset(7)),
            (&["timestamp", "1700000000000"], Goal::Timestamp(1_700_000_000_000)),
            (&["-100"], Goal::BeforeEnd(100)),
        ] {
            assert_eq!(goal(words), Ok(expected), "{words:?}");
        }
        for bad in [&["begin"][..], &["offset"], &["offset", "x"], &["offset", "-1"], &["earliest", "7"], &["7"]] {
            let error = goal(bad).expect_err("no place");
            assert!(error.contains("no value of --to, which is earliest"), "{bad:?}: {error}");
        }
    }

    #[test]
    fn a_name_behind_the_place_is_told_where_it_belongs() {
        let line = ["millpond", "group", "reset-offsets", "--to", "begin", "orders"];
        let error = Arguments::try_parse_from(line).expect_err("the name is taken for a part of the place");
        let said = crate::mistakes::sentence(&error, &line.map(str::to_owned));
        let expected = "NAME is missing; put NAME before --to (see millpond group reset-offsets --help)";
        assert_eq!(said.as_deref(), Some(expected));
    }

    #[test]
    fn a_topic_may_name_one_of_its_partitions() {
        assert_eq!(topic_of("logs").ok(), Some(("logs".to_owned(), None)));
        assert_eq!(topic_of("logs:3").ok(), Some(("logs".to_owned(), Some(3))));
        for bad in ["logs:", "logs:x", "logs:-1", "logs:1:2"] {
            assert!(topic_of(bad).is_err(), "{bad}");
        }
    }
}
