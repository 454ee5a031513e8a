//! The command line of `millpond cluster`.

use clap::{Args, Subcommand};

use super::tls::TlsArguments;
use crate::command_line::number;

#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Say who is in the cluster, who leads what, and what is wrong.
    Status(StatusArguments),
    /// Move everything off a broker, so that it can be stopped for good.
    Decommission(DecommissionArguments),
    /// Move replicas and leaders so that all brokers hold about as much.
    Rebalance(RebalanceArguments),
    /// Make a broker the leader, and the preferred one, of a partition or of all that it holds.
    TransferLeader(TransferArguments),
    /// Go on with what a power cut left of a relaxed topic's partition.
    Trust(TrustArguments),
}

pub(crate) const CLUSTER_EXAMPLES: &str = "\
Examples:
  millpond cluster status
  millpond cluster status --bootstrap broker-1.example:9092 --json
  millpond cluster transfer-leader logs 0 2
  millpond cluster trust logs 0
  millpond cluster decommission 3 --http broker-1.example:9094";

const STATUS_EXAMPLES: &str = "\
Examples:
  millpond cluster status
  millpond cluster status --bootstrap broker-1.example:9092,broker-2.example:9092
  millpond cluster status --json

Of each broker: its address and rack, whether it is alive, how many partitions it leads and how many replicas it holds,
its part in the quorum that keeps the metadata (leader, voter, observer), and how many entries it is behind in that.
Then the partitions that lack a leader or have replicas that are not in sync. It works on Kafka's clusters, too.";

const DECOMMISSION_EXAMPLES: &str = "\
Examples:
  millpond cluster decommission 3
  millpond cluster decommission 3 --wait
  millpond cluster decommission 3 --http broker-1.example:9094
  millpond cluster decommission 3 --cancel

The broker gets no new replicas, and those that it has are moved to others, none of them missing at any moment. The
command returns when the cluster has begun; `millpond cluster status` shows how many are left. --cancel takes that back:
the broker keeps what has not begun to move, and gets replicas again. Kafka's protocol has no such request: it goes to
the HTTP port of any broker.";

const REBALANCE_EXAMPLES: &str = "\
Examples:
  millpond cluster rebalance
  millpond cluster rebalance --http broker-1.example:9094

The command returns when the cluster has begun; `millpond cluster status` shows what is still on the move. Kafka's
protocol has no such request: it goes to the HTTP port of any broker, and only --wait asks at --bootstrap.";

const TRANSFER_USAGE: &str = "millpond cluster transfer-leader [OPTIONS] [TOPIC PARTITION] BROKER";
const TRANSFER_EXAMPLES: &str = "\
Examples:
  millpond cluster transfer-leader logs 0 2      partition 0 of the topic logs to broker 2
  millpond cluster transfer-leader 2             every partition that broker 2 holds a replica of

The broker must hold a replica that is in sync. It becomes the first of the partition's replicas, which is what a
cluster goes back to after a failure. It works on Kafka's clusters, too.";

const TRUST_EXAMPLES: &str = "\
Examples:
  millpond cluster trust logs 0

A replica of a topic with millpond.flush=relaxed whose machine lost power may miss what it acknowledged, and takes no
part until a majority of whole ones replaces it. Where there is no such majority the partition waits: for brokers that
are not alive, which should be started first, or for this command. It lets as few such replicas as are needed take part
again, those with the longest logs; what only others had is lost. It does nothing where a majority misses nothing. The
same as kafka-leader-election.sh --election-type unclean.";

/// How the cluster is reached.
#[derive(Args, Debug)]
pub(crate) struct Reach {
    /// Brokers that the cluster is looked for at, separated by commas
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9092")]
    pub(crate) bootstrap: String,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) tls: TlsArguments,
}

/// How a broker is asked for what the Kafka protocol lacks.
#[derive(Args, Debug)]
pub(crate) struct Http {
    /// The HTTP port of any broker
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9094")]
    pub(crate) http: String,
}

#[derive(Args, Debug)]
#[command(after_help = STATUS_EXAMPLES)]
pub(crate) struct StatusArguments {
    #[command(flatten)]
    pub(crate) reach: Reach,
}

#[derive(Args, Debug)]
#[command(after_help = DECOMMISSION_EXAMPLES)]
pub(crate) struct DecommissionArguments {
    /// The broker's id
    #[arg(value_name = "BROKER", value_parser = number(0..=i32::MAX), allow_negative_numbers = true)]
    pub(crate) broker: i32,
    /// Return when it is done, and say meanwhile how far it is
    #[arg(long)]
    pub(crate) wait: bool,
    /// Take back a decommission that was begun
    #[arg(long, conflicts_with = "wait")]
    pub(crate) cancel: bool,
    #[command(flatten)]
    pub(crate) http: Http,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
#[command(after_help = REBALANCE_EXAMPLES)]
pub(crate) struct RebalanceArguments {
    /// Return when it is done, and say meanwhile how far it is
    #[arg(long)]
    pub(crate) wait: bool,
    #[command(flatten)]
    pub(crate) http: Http,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

#[derive(Args, Debug)]
#[command(after_help = TRANSFER_EXAMPLES, override_usage = TRANSFER_USAGE)]
pub(crate) struct TransferArguments {
    /// A topic, a partition of it and a broker's id; or the broker's id alone
    #[arg(value_name = "BROKER", num_args = 1..=3, required = true, allow_negative_numbers = true)]
    words: Vec<String>,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

#[derive(Args, Debug)]
#[command(after_help = TRUST_EXAMPLES)]
pub(crate) struct TrustArguments {
    /// The topic
    #[arg(value_name = "TOPIC")]
    pub(crate) topic: String,
    /// The partition's number
    #[arg(value_name = "PARTITION", value_parser = number(0..=i32::MAX), allow_negative_numbers = true)]
    pub(crate) partition: i32,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

/// What is to be led by whom.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Transfer {
    /// `None`: every partition that the broker holds.
    pub(crate) partition: Option<(String, i32)>,
    pub(crate) broker: i32,
}

impl TransferArguments {
    pub(crate) fn transfer(&self) -> anyhow::Result<Transfer> {
        let number = |text: &String, what: &str| -> anyhow::Result<i32> {
            let number = text.parse().ok().filter(|number| *number >= 0);
            number.ok_or_else(|| anyhow::anyhow!("'{text}' is no {what}, which is a number from 0 on"))
        };
        let partition = match &self.words[..] {
            [_] => None,
            [topic, partition, _] => Some((topic.clone(), number(partition, "partition")?)),
            _ => anyhow::bail!(
                "a topic and a partition, or neither, stand before the broker \
                 (see millpond cluster transfer-leader --help)"
            ),
        };
        let broker = self.words.last().map(|word| number(word, "broker's id")).transpose()?;
        Ok(Transfer { partition, broker: broker.unwrap_or_default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(words: &[&str]) -> Result<Transfer, String> {
        let words = words.iter().map(|&word| word.to_owned()).collect();
        let reach = Reach { bootstrap: String::new(), json: false, tls: TlsArguments::default() };
        TransferArguments { words, reach }.transfer().map_err(|error| error.to_string())
    }

    #[test]
    fn a_transfer_names_a_partition_and_a_broker_or_a_broker_alone() {
        assert_eq!(said(&["2"]), Ok(Transfer { partition: None, broker: 2 }));
        assert_eq!(said(&["logs", "0", "2"]), Ok(Transfer { partition: Some(("logs".into(), 0)), broker: 2 }));
        assert_eq!(said(&["logs"]), Err("'logs' is no broker's id, which is a number from 0 on".into()));
        assert_eq!(said(&["logs", "-1", "2"]), Err("'-1' is no partition, which is a number from 0 on".into()));
        assert!(said(&["logs", "2"]).expect_err("two words").starts_with("a topic and a partition, or neither"));
    }
}
