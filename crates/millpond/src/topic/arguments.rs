//! The command line of `millpond topic`.

use clap::{Args, Subcommand};

use crate::arguments::key_value;
use crate::cluster::Reach;
use crate::command_line::number;

#[derive(Debug, Subcommand)]
pub(crate) enum TopicCommand {
    /// Make topics.
    Create(CreateArguments),
    /// Name all topics.
    List(ListArguments),
    /// Tell of topics: their partitions, who leads them, and the settings that they have of their own.
    Describe(DescribeArguments),
    /// Give a topic more partitions or other settings.
    Alter(AlterArguments),
    /// Delete topics and all that is in them.
    Delete(DeleteArguments),
}

pub(crate) const TOPIC_EXAMPLES: &str = "\
Examples:
  millpond topic create logs --partitions 6 --replication-factor 3
  millpond topic list
  millpond topic describe logs
  millpond topic alter logs --set retention.ms=86400000
  millpond topic delete logs

They work on Kafka's clusters, too.";

const CREATE_EXAMPLES: &str = "\
Examples:
  millpond topic create logs
  millpond topic create logs metrics --partitions 6 --replication-factor 3
  millpond topic create logs --set retention.ms=86400000 --set cleanup.policy=delete

What is not said is the cluster's default. `millpond config explain` tells of the settings.";

const LIST_EXAMPLES: &str = "\
Examples:
  millpond topic list
  millpond topic list --internal --json";

const DESCRIBE_EXAMPLES: &str = "\
Examples:
  millpond topic describe
  millpond topic describe logs metrics
  millpond topic describe logs --json";

const ALTER_EXAMPLES: &str = "\
Examples:
  millpond topic alter logs --partitions 12
  millpond topic alter logs --set retention.ms=86400000 --reset segment.bytes

Partitions can only become more, and the keys of a topic that has more go to others than before. A setting that is reset
is what the cluster's topics inherit.";

const DELETE_EXAMPLES: &str = "\
Examples:
  millpond topic delete logs
  millpond topic delete logs metrics

It asks nothing: what is deleted is gone.";

#[derive(Args, Debug)]
#[command(after_help = CREATE_EXAMPLES)]
pub(crate) struct CreateArguments {
    /// The names
    #[arg(value_name = "TOPIC", required = true)]
    pub(crate) topics: Vec<String>,
    /// How many partitions each has
    #[arg(long, value_name = "N", value_parser = number(1..=i32::MAX))]
    pub(crate) partitions: Option<i32>,
    /// How many replicas each partition has
    #[arg(long, value_name = "N", value_parser = number(1..=i16::MAX))]
    pub(crate) replication_factor: Option<i16>,
    /// A setting; may be given many times
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value("retention.ms=86400000"))]
    pub(crate) set: Vec<(String, String)>,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

#[derive(Args, Debug)]
#[command(after_help = LIST_EXAMPLES)]
pub(crate) struct ListArguments {
    /// The cluster's own topics, too
    #[arg(long)]
    pub(crate) internal: bool,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

#[derive(Args, Debug)]
#[command(after_help = DESCRIBE_EXAMPLES)]
pub(crate) struct DescribeArguments {
    /// The names; without one, all but the cluster's own
    #[arg(value_name = "TOPIC")]
    pub(crate) topics: Vec<String>,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

#[derive(Args, Debug)]
#[command(after_help = ALTER_EXAMPLES)]
pub(crate) struct AlterArguments {
    /// The name
    pub(crate) topic: String,
    /// How many partitions it has from now on
    #[arg(long, value_name = "N", value_parser = number(1..=i32::MAX))]
    pub(crate) partitions: Option<i32>,
    /// A setting; may be given many times
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value("retention.ms=86400000"))]
    pub(crate) set: Vec<(String, String)>,
    /// A setting to be inherited again; may be given many times
    #[arg(long, value_name = "KEY")]
    pub(crate) reset: Vec<String>,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

#[derive(Args, Debug)]
#[command(after_help = DELETE_EXAMPLES)]
pub(crate) struct DeleteArguments {
    /// The names
    #[arg(value_name = "TOPIC", required = true)]
    pub(crate) topics: Vec<String>,
    #[command(flatten)]
    pub(crate) reach: Reach,
}
