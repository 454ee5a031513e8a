//! `millpond cluster status`: who is there, who leads, and what is wrong.

use std::fmt::Display;
use std::io::{self, Write};

use anyhow::Result;
use millpond_client::{Admin, Error};

use super::arguments::StatusArguments;
use super::picture::{Broker, Move, Partition, Picture};
use super::{connect, hint};
use crate::output::{Output, quiet};
use crate::table::Table;

/// The partitions of one kind that are named; the rest is counted.
const MAX_NAMED: usize = 20;

pub(super) async fn run(arguments: &StatusArguments) -> Result<()> {
    let admin = connect(&arguments.reach).await?;
    let picture = look(&admin).await.map_err(hint)?;
    let mut out = Output::stdout();
    let printed = if arguments.reach.json {
        out.line(&serde_json::to_string_pretty(&picture)?)
    } else {
        print(&picture, &mut out)
    };
    quiet(printed.and_then(|()| out.flush()))?;
    Ok(())
}

/// Asks for everything. Of the quorum and of moves a cluster may not tell (Kafka before 3.3 and 2.4).
async fn look(admin: &Admin) -> Result<Picture, Error> {
    let cluster = admin.describe_cluster().await?;
    let quorum = told(admin.describe_quorum().await)?;
    let topics = admin.describe_all_topics().await?;
    let moves = told(admin.list_reassignments(None).await)?;
    Picture::new(&cluster, quorum.as_ref(), topics, moves)
}

fn told<T>(answer: Result<T, Error>) -> Result<Option<T>, Error> {
    match answer {
        Ok(told) => Ok(Some(told)),
        Err(Error::Unsupported { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn print(picture: &Picture, out: &mut Output) -> io::Result<()> {
    headlines(picture).iter().try_for_each(|line| out.line(line))?;
    out.line("")?;
    let mut table =
        Table::new(&["BROKER", "ADDRESS", "RACK", "ALIVE", "LEADERS", "REPLICAS", "METADATA", "METADATA LAG"]);
    picture.brokers.iter().for_each(|broker| table.row(broker_row(broker)));
    table.print(out)?;
    print_partitions(&picture.without_leader, "without a leader", out)?;
    if !picture.without_leader.is_empty() {
        out.line("start the brokers that are not alive; after a power cut and relaxed: millpond cluster trust --help")?;
    }
    print_partitions(&picture.under_replicated, "under-replicated", out)?;
    print_moves(picture.moving.as_deref().unwrap_or_default(), out)
}

fn headlines(picture: &Picture) -> [String; 2] {
    let cluster = picture.cluster_id.as_deref().unwrap_or("without an id");
    let controller = match picture.controller {
        Some(id) => format!("broker {id} is the controller"),
        None => "NO CONTROLLER".to_owned(),
    };
    let alive = picture.brokers.iter().filter(|broker| broker.alive).count();
    [
        format!("cluster {cluster}, {controller}"),
        format!(
            "{alive} of {} alive; {} in {}, {} without a leader, {} under-replicated",
            counted(picture.brokers.len(), "broker"),
            counted(picture.partitions, "partition"),
            counted(picture.topics, "topic"),
            picture.without_leader.len(),
            picture.under_replicated.len(),
        ),
    ]
}

/// So many of a thing, in words.
pub(crate) fn counted<N: PartialEq + From<u8> + Display>(count: N, thing: &str) -> String {
    let many = |stem: &str, end: &str| format!("{count} {stem}{end}");
    match (thing.strip_suffix('y'), thing.ends_with("ch")) {
        _ if count == N::from(1) => format!("1 {thing}"),
        (Some(stem), _) => many(stem, "ies"),
        (None, true) => many(thing, "es"),
        (None, false) => many(thing, "s"),
    }
}

fn broker_row(broker: &Broker) -> [String; 8] {
    [
        broker.id.to_string(),
        broker.address.clone().unwrap_or_default(),
        broker.rack.clone().unwrap_or_default(),
        if broker.alive { "yes" } else { "NO" }.to_owned(),
        broker.leaders.to_string(),
        broker.replicas.to_string(),
        broker.metadata.unwrap_or_default().to_owned(),
        broker.metadata_lag.map(|lag| lag.to_string()).unwrap_or_default(),
    ]
}

fn ids(brokers: &[i32]) -> String {
    brokers.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

fn print_partitions(partitions: &[Partition], what: &str, out: &mut Output) -> io::Result<()> {
    if partitions.is_empty() {
        return Ok(());
    }
    out.line(&format!("\n{} {what}:", counted(partitions.len(), "partition")))?;
    let mut table = Table::new(&["TOPIC", "PARTITION", "LEADER", "REPLICAS", "IN SYNC"]);
    for of in partitions.iter().take(MAX_NAMED) {
        let leader = of.leader.map(|leader| leader.to_string()).unwrap_or_default();
        table.row([of.topic.clone(), of.partition.to_string(), leader, ids(&of.replicas), ids(&of.in_sync)]);
    }
    table.print(out)?;
    print_rest(partitions.len(), out)
}

fn print_moves(moves: &[Move], out: &mut Output) -> io::Result<()> {
    if moves.is_empty() {
        return Ok(());
    }
    out.line(&format!("\n{} on the move:", counted(moves.len(), "partition")))?;
    let mut table = Table::new(&["TOPIC", "PARTITION", "REPLICAS", "ADDING", "REMOVING"]);
    for of in moves.iter().take(MAX_NAMED) {
        let lists = [&of.replicas, &of.adding, &of.removing].map(|brokers| ids(brokers));
        table.row([of.topic.clone(), of.partition.to_string()].into_iter().chain(lists));
    }
    table.print(out)?;
    print_rest(moves.len(), out)
}

fn print_rest(all: usize, out: &mut Output) -> io::Result<()> {
    match all.checked_sub(MAX_NAMED).filter(|rest| *rest > 0) {
        Some(rest) => out.line(&format!("and {rest} more, which --json lists")),
        None => Ok(()),
    }
}
