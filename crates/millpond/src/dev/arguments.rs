//! The command line of `millpond dev`.

use std::path::PathBuf;

use clap::Args;

use crate::arguments::key_value;
use crate::command_line::number;

/// More than anybody tries out on one machine.
pub(crate) const MAX_NODES: u16 = 9;

const EXAMPLES: &str = "\
Examples:
  millpond dev
      three brokers that form a cluster: clients on 127.0.0.1:9092, 9192 and 9292, data in ./millpond-dev/node-1 to 3
  millpond dev --nodes 1 --dir scratch --kafka-port 19092
  millpond dev --set num.partitions=6 --log-level warn

Each broker is a process of its own and takes three ports in a row: for clients, for the other brokers, for HTTP. Their
logs go to standard error, with the node in front. When all accept clients one line goes to standard output:
  millpond dev ready kafka=127.0.0.1:9092,127.0.0.1:9192,127.0.0.1:9292 http=127.0.0.1:9094,…
A broker that ends (kill one to see what happens) is told of, and the others go on. SIGINT and SIGTERM stop them all;
the same command goes on with what is in the folder.";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct DevArguments {
    /// How many brokers, 1 to 9
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = number(1..=MAX_NODES))]
    pub(crate) nodes: u16,
    /// Folder of their data directories: node-1, node-2, …
    #[arg(long, value_name = "FOLDER", default_value = "./millpond-dev")]
    pub(crate) dir: PathBuf,
    /// Port of the first broker for Kafka clients; each further one is 100 higher. 0 takes free ports
    #[arg(long, value_name = "PORT", default_value_t = 9092, value_parser = number(0..=u16::MAX))]
    pub(crate) kafka_port: u16,
    /// Any setting, for all of them; may be given many times
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value("num.partitions=6"))]
    pub(crate) set: Vec<(String, String)>,
    /// Least severe log lines shown, as of `millpond broker`
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub(crate) log_level: String,
}
