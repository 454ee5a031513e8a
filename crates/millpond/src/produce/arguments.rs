//! The command line of `millpond produce`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use millpond_client::{Acks, Codec};

use crate::cluster::Reach;
use crate::command_line::number;

const EXAMPLES: &str = "\
Examples:
  millpond produce logs < lines.txt
  millpond produce logs monday.txt tuesday.txt --compression zstd
  printf 'host-1:up\\nhost-2:down\\n' | millpond produce logs --key-separator :
  millpond produce pictures a.png b.png --whole-files --header kind=png
  tail -F app.log | millpond produce logs --rate 1000 --json

Each line is the value of a record, without its line end; an empty line is an empty value. Records go where their key
says, as with Kafka's clients; without a key, to one partition until 256 KiB have gone there, then to one that is chosen
at random, also as with Kafka's (batch.size, KIP-794). The command ends with 0 when every record was acknowledged (with
--acks 0: when all have left). Ctrl-C or SIGTERM stops reading, sends and waits for what was read, and ends with 130; a
second one does not wait. A batch that is longer, compressed, than the topic's max.message.bytes is refused with all its
records.
It works on Kafka's clusters, too.";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ProduceArguments {
    /// The topic
    pub(crate) topic: String,
    /// Files to read instead of standard input, one after the other
    pub(crate) files: Vec<PathBuf>,
    /// Make each file one record, not each line; none may be longer than 16 MiB
    #[arg(long, requires = "files", conflicts_with = "key_separator")]
    pub(crate) whole_files: bool,
    /// What stands between key and value, where it comes first in a line; every line must have it
    #[arg(long, value_name = "TEXT", value_parser = separator)]
    pub(crate) key_separator: Option<String>,
    /// A header for every record; may be given many times
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = header)]
    pub(crate) headers: Vec<(String, String)>,
    /// How batches are compressed
    #[arg(long, value_name = "CODEC", default_value = "none")]
    pub(crate) compression: Compression,
    /// Who must have a record before it counts: all replicas that are in sync, the leader (1), or nobody (0)
    #[arg(long, value_name = "ACKS", default_value = "all")]
    pub(crate) acks: AcksArgument,
    /// Send everything to this partition
    #[arg(long, value_name = "N", value_parser = number(0..=i32::MAX))]
    pub(crate) partition: Option<i32>,
    /// Send no more than so many records a second, also after a pause
    #[arg(long, value_name = "N", value_parser = number(1..=u32::MAX))]
    pub(crate) rate: Option<u32>,
    /// How long a record may take, from being read to being acknowledged
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds())]
    pub(crate) timeout: u32,
    #[command(flatten)]
    pub(crate) reach: Reach,
}

impl ProduceArguments {
    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout.into())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Compression {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

impl From<Compression> for Codec {
    fn from(compression: Compression) -> Codec {
        match compression {
            Compression::None => Codec::None,
            Compression::Gzip => Codec::Gzip,
            Compression::Snappy => Codec::Snappy,
            Compression::Lz4 => Codec::Lz4,
            Compression::Zstd => Codec::Zstd,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum AcksArgument {
    // Kafka's own word for it.
    #[value(alias = "-1")]
    All,
    #[value(name = "1")]
    Leader,
    #[value(name = "0")]
    None,
}

impl From<AcksArgument> for Acks {
    fn from(acks: AcksArgument) -> Acks {
        match acks {
            AcksArgument::All => Acks::All,
            AcksArgument::Leader => Acks::Leader,
            AcksArgument::None => Acks::None,
        }
    }
}

/// A day at most.
pub(crate) fn seconds() -> impl Fn(&str) -> Result<u32, String> + Clone + Send + Sync + 'static {
    number(1..=86_400)
}

fn separator(text: &str) -> Result<String, String> {
    match text.is_empty() {
        true => Err("it must be at least one letter".to_owned()),
        false => Ok(text.to_owned()),
    }
}

/// A header on the command line; the value is taken as it is.
fn header(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("it must have the form NAME=VALUE, for example source=web".to_owned()),
    }
}
