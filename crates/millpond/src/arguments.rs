//! The command line, and how it becomes settings: defaults, then the file, then `--set`, then the short options.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::bench::{BENCH_EXAMPLES, BenchCommand};
use crate::cluster::{CLUSTER_EXAMPLES, ClusterCommand};
use crate::command_line::number;
use crate::consume::ConsumeArguments;
use crate::dev::DevArguments;
use crate::group::{GROUP_EXAMPLES, GroupCommand};
use crate::produce::ProduceArguments;
use crate::topic::{TOPIC_EXAMPLES, TopicCommand};

/// A partitioned, replicated log that speaks the Kafka protocol.
#[derive(Debug, Parser)]
#[command(name = "millpond", version, arg_required_else_help = true, after_help = OVERVIEW)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a broker until SIGTERM or SIGINT.
    Broker(Box<BrokerArguments>),
    /// Run a cluster of brokers on this machine, for trying things out.
    Dev(DevArguments),
    /// Look after a running cluster.
    #[command(subcommand, disable_help_subcommand = true, after_help = CLUSTER_EXAMPLES)]
    Cluster(ClusterCommand),
    /// Make topics, tell of them, change and delete them.
    #[command(subcommand, disable_help_subcommand = true, after_help = TOPIC_EXAMPLES)]
    Topic(TopicCommand),
    /// Send lines or files to a topic.
    Produce(Box<ProduceArguments>),
    /// Print the records of a topic, as they come.
    Consume(Box<ConsumeArguments>),
    /// Measure how fast a cluster takes and gives records, and how soon.
    #[command(subcommand, disable_help_subcommand = true, after_help = BENCH_EXAMPLES)]
    Bench(BenchCommand),
    /// Look at groups and how far they have read.
    #[command(subcommand, disable_help_subcommand = true, after_help = GROUP_EXAMPLES)]
    Group(GroupCommand),
    /// Read everything in a stopped broker's data directory, change nothing, and say what is damaged.
    Verify(VerifyArguments),
    /// Print a file of a data directory: segment, index, snapshot, journal, groups.table, …
    Dump(DumpArguments),
    /// Explain the settings.
    #[command(subcommand, disable_help_subcommand = true, after_help = CONFIG_EXAMPLES)]
    Config(ConfigCommand),
    /// Print a script with which a shell completes commands and options.
    Completions(CompletionsArguments),
}

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  source <(millpond completions bash)
  millpond completions zsh > \"${fpath[1]}/_millpond\"
  millpond completions fish > ~/.config/fish/completions/millpond.fish";

#[derive(Args, Debug)]
#[command(after_help = COMPLETIONS_EXAMPLES)]
pub(crate) struct CompletionsArguments {
    /// The shell
    pub(crate) shell: Shell,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Say what a setting means, its unit, default and range; without a name, of all.
    Explain(ExplainArguments),
}

const OVERVIEW: &str = "\
Examples:
  millpond broker --data-dir /var/lib/millpond
  millpond dev
  millpond cluster status
  millpond topic create logs --partitions 6
  millpond produce logs < lines.txt
  millpond consume logs --from earliest
  millpond group describe orders
  millpond bench produce logs
  millpond verify --data-dir /var/lib/millpond
  millpond dump /var/lib/millpond/groups.table
  millpond config explain num.partitions";

const CONFIG_EXAMPLES: &str = "\
Example:
  millpond config explain num.partitions";

#[derive(Args, Debug)]
#[command(after_help = CONFIG_EXAMPLES)]
pub(crate) struct ExplainArguments {
    /// The name of a broker's or a topic's setting
    pub(crate) name: Option<String>,
}

const DUMP_EXAMPLES: &str = "\
Examples:
  millpond dump /var/lib/millpond/groups.table
  millpond dump /var/lib/millpond/logs-0/00000000000000000000.0000000000.log --offset 1000 --limit 20
  millpond dump /var/lib/millpond/journal/0000000000000001.wal --json

A file is known by its name, or by what it begins with. Each line is one thing in it: a batch, an entry, a record, a
row. A damaged file is printed up to the damage, which is then named; the exit status is 1.";

#[derive(Args, Debug)]
#[command(after_help = DUMP_EXAMPLES)]
pub(crate) struct DumpArguments {
    /// The file
    pub(crate) file: PathBuf,
    /// Begin with what holds this offset
    #[arg(long, value_name = "OFFSET", value_parser = number(0..=i64::MAX))]
    pub(crate) offset: Option<i64>,
    /// Print at most so many things
    #[arg(long, value_name = "N", value_parser = number(0..=u64::MAX))]
    pub(crate) limit: Option<u64>,
    /// Print each thing as a JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

const VERIFY_EXAMPLES: &str = "\
Examples:
  millpond verify --data-dir /var/lib/millpond
  millpond verify --cluster --data-dir broker-1 --data-dir broker-2 --data-dir broker-3
      verifies each directory, then compares the replicas of each partition, entry by entry

Every file is read: meta.properties, groups.table, the journal, and of each partition its segments batch by batch, its
indexes and producer snapshots. Nothing is written. Each finding is one line with the file, the byte and the offset:
  damage           something is not as it was written; the exit status is 1
  needs recovery   a crash left it so, and the next start mends it without loss
  note             worth knowing, and right as it is
With --cluster the first difference of each two replicas is one line more, and makes the exit status 1, too.
A broker that is running has its directory locked, and is refused.";

#[derive(Args, Debug)]
#[command(after_help = VERIFY_EXAMPLES)]
pub(crate) struct VerifyArguments {
    /// The data directory of a stopped broker; with --cluster once for each broker
    #[arg(long, value_name = "DIR", required = true)]
    pub(crate) data_dir: Vec<PathBuf>,
    /// Compare the replicas in the directories of a cluster's brokers, too
    #[arg(long)]
    pub(crate) cluster: bool,
}

const EXAMPLES: &str = "\
Examples:
  millpond broker
      serves Kafka clients on 127.0.0.1:9092 and keeps its data in ./millpond-data
  millpond broker --data-dir /var/lib/millpond --kafka 0.0.0.0:9092 --advertise broker-1.example:9092
  millpond broker --kafka 127.0.0.1:0 --http 127.0.0.1:0
      takes free ports and prints them
  millpond broker --set num.partitions=6 --set millpond.flush=relaxed

When the broker accepts clients it prints one line to standard output:
  millpond ready node=1 kafka=127.0.0.1:9092 http=127.0.0.1:9094
Logs go to standard error. config/millpond.toml lists every setting with its default.";

#[derive(Args, Debug, Default)]
#[command(after_help = EXAMPLES)]
pub(crate) struct BrokerArguments {
    /// Configuration file (TOML); the command line overrides it
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Data directory [default: ./millpond-data]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<String>,
    /// This broker's id [default: 1]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub(crate) node_id: Option<String>,
    /// Address for Kafka clients [default: 127.0.0.1:9092]
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) kafka: Option<String>,
    /// Address for /live, /ready, /metrics, /groups and /admin [default: 127.0.0.1:9094]
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) http: Option<String>,
    /// Address that clients are told to connect to [default: the one of --kafka]
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) advertise: Option<String>,
    /// Address for the other brokers of the cluster [default: the one of this broker in --peers]
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) peer: Option<String>,
    /// The brokers that found a cluster together, this one among them; the same list on each
    #[arg(long, value_name = "ID@HOST:PORT,...")]
    pub(crate) peers: Option<String>,
    /// Peer address of a broker of the cluster to join; several with commas between them
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) join: Option<String>,
    /// Where this broker stands; the replicas of a partition are spread over racks
    #[arg(long, value_name = "NAME")]
    pub(crate) rack: Option<String>,
    /// Any setting, by its name in the configuration file; may be given many times
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value("num.partitions=6"))]
    pub(crate) set: Vec<(String, String)>,
    /// Form of the log lines on standard error
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub(crate) log_format: LogFormat,
    /// Least severe log lines shown: error, warn, info, debug or trace, also by module: info,millpond_raft=debug
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub(crate) log_level: String,
    /// Stop when the process with this id, which must be the parent, has ended
    #[arg(long, value_name = "PID", hide = true)]
    pub(crate) end_with: Option<i32>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    #[default]
    Text,
    Json,
}

/// Reads one setting on the command line, such as `example`.
pub(crate) fn key_value(
    example: &'static str,
) -> impl Fn(&str) -> Result<(String, String), String> + Clone + Send + Sync + 'static {
    move |text| match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.trim().to_owned())),
        _ => Err(format!("it must have the form KEY=VALUE, for example {example}")),
    }
}

impl BrokerArguments {
    /// What the command line says, as settings; later ones count.
    pub(crate) fn settings(&self) -> Vec<(String, String)> {
        let short = [
            ("log.dir", &self.data_dir),
            ("node.id", &self.node_id),
            ("listeners", &self.kafka),
            ("millpond.http.listener", &self.http),
            ("advertised.listeners", &self.advertise),
            ("millpond.peer.listener", &self.peer),
            ("millpond.peers", &self.peers),
            ("millpond.join", &self.join),
            ("broker.rack", &self.rack),
        ];
        let short = short.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value.clone()?)));
        self.set.iter().cloned().chain(short).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn short_options_override_set_and_keep_their_settings_names() {
        let line =
            ["millpond", "broker", "--kafka", "127.0.0.1:1", "--set", "listeners=127.0.0.1:2", "--set", "a = b=c"];
        let Command::Broker(arguments) = Arguments::try_parse_from(line).expect("a good command line").command else {
            panic!("another command");
        };
        let settings = arguments.settings();
        let settings: Vec<_> = settings.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(settings, [("listeners", "127.0.0.1:2"), ("a", "b=c"), ("listeners", "127.0.0.1:1")]);
    }
}
