//! The command line of `millpond consume`.

use std::fmt;

use anyhow::Result;
use clap::{Args, ValueEnum};

use super::format::Template;
use crate::cluster::Reach;
use crate::command_line::number;
use crate::group::Goal;

const EXAMPLES: &str = "\
Examples:
  millpond consume logs
  millpond consume logs --from earliest --until-end > lines.txt
  millpond consume logs --from -100 --count 100
  millpond consume logs --from timestamp 1700000000000 --json
  millpond consume logs --partition 3 --from offset 5000 --count 1
  millpond consume logs --group readers --from earliest
  millpond consume --pattern 'logs-.*' --group readers --format '{topic}: {value}\\n'
  millpond consume logs --format '{partition}:{offset} {key} = {value}\\n'

Each value is one line of standard output; on a terminal, what is an order to it is shown as its number. With --json
each record is an object on a line of its own; bytes that are no UTF-8 are {\"base64\": \"...\"}. A --format has
{topic}, {partition}, {offset}, {timestamp}, {key}, {value} and {headers}, and \\n, \\t, \\r, \\0, \\\\, {{ and }};
values are written as they are, and no line end is added. Records of a partition come in order; partitions take turns.
--from says where: earliest, latest (which it is without), offset N, timestamp T in milliseconds since 1970, or -N for
the last N of each partition; what a partition does not have is taken to the nearest that it has. It goes on until
Ctrl-C or SIGTERM, and then ends with 130, unless --count or --until-end ends it; a summary goes to standard error.
With --group it goes on where the group has come to, and --from (earliest or latest) is for what the group has not read;
what was printed is committed every 5 s and at the end, and records may come again after a kill. With --pattern it reads
all topics whose whole name matches the regular expression, also those that are made later.
It works on Kafka's clusters, too.";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ConsumeArguments {
    /// The topic
    #[arg(required_unless_present = "pattern")]
    topic: Option<String>,
    /// All topics whose whole name matches this regular expression instead of one; needs --group
    #[arg(long, value_name = "REGEX", requires = "group", conflicts_with_all = ["topic", "partition", "until_end"])]
    pattern: Option<String>,
    /// Only this partition; may be given many times
    #[arg(long, value_name = "N", value_parser = number(0..=i32::MAX))]
    pub(crate) partition: Vec<i32>,
    /// Read as a member of this group, which shares the topic out and keeps how far it has come; goes neither with
    /// --partition nor with --until-end
    #[arg(long, value_name = "NAME", conflicts_with_all = ["partition", "until_end"])]
    pub(crate) group: Option<String>,
    /// Where to begin: earliest, latest, offset N, timestamp T, or -N
    #[arg(long, value_name = "WHERE", num_args = 1..=2, allow_negative_numbers = true, default_value = "latest")]
    from: Vec<String>,
    /// End after so many records
    #[arg(long, value_name = "N", value_parser = number(1..=u64::MAX))]
    pub(crate) count: Option<u64>,
    /// End where the partitions end when the command begins
    #[arg(long)]
    pub(crate) until_end: bool,
    /// The template by which each record is printed
    #[arg(long, value_name = "TEXT", conflicts_with = "json", value_parser = Template::parse)]
    pub(crate) format: Option<Template>,
    /// Which records of transactions are printed
    #[arg(long, value_name = "LEVEL", default_value = "read-uncommitted")]
    pub(crate) isolation: IsolationArgument,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum IsolationArgument {
    ReadUncommitted,
    ReadCommitted,
}

/// What is read.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Topics<'a> {
    Named(&'a str),
    Matching(&'a str),
}

impl fmt::Display for Topics<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Topics::Named(name) => f.write_str(name),
            Topics::Matching(pattern) => write!(f, "what matches '{pattern}'"),
        }
    }
}

impl ConsumeArguments {
    /// One of the two is there, and not both.
    pub(crate) fn topics(&self) -> Topics<'_> {
        match &self.pattern {
            Some(pattern) => Topics::Matching(pattern),
            None => Topics::Named(self.topic.as_deref().unwrap_or_default()),
        }
    }

    pub(crate) fn goal(&self) -> Result<Goal> {
        Goal::parse(&self.from, "--from", "millpond consume --help")
    }
}
