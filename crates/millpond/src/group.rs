//! `millpond group`: looks at groups and their offsets, over the Kafka protocol and, for what that lacks, over HTTP.

mod arguments;
mod explain;
mod facts;
mod reset;

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use millpond_client::{Admin, ErrorCode};
use millpond_runtime::{RealDisk, Runtime};
use serde::Serialize;
use serde_json::json;

use crate::cluster::{connect, counted, hint};
use crate::mistakes::or_nearest;
use crate::output::{Output, printable, quiet};
use crate::table::Table;
use arguments::{DeleteArguments, DescribeArguments, ExplainArguments, ListArguments, Looked};
pub(crate) use arguments::{GROUP_EXAMPLES, Goal, GroupCommand};
use explain::{age, explain};
use facts::{Facts, look};
pub(crate) use reset::targets;

/// Runs a command on groups.
pub(crate) fn run(command: &GroupCommand) -> Result<ExitCode> {
    let thread = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    thread.block_on(async {
        let runtime = Runtime::real(RealDisk::shared());
        match command {
            GroupCommand::List(arguments) => list(arguments).await,
            GroupCommand::Describe(arguments) => describe(&runtime, arguments).await,
            GroupCommand::ResetOffsets(arguments) => reset::run(arguments).await,
            GroupCommand::Delete(arguments) => delete(arguments).await,
            GroupCommand::Explain(arguments) => explain_group(&runtime, arguments).await,
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Prints JSON or something for people.
fn print<T: Serialize>(json: bool, value: &T, text: impl FnOnce(&mut Output) -> io::Result<()>) -> Result<()> {
    let mut out = Output::stdout();
    let printed = if json { out.line(&serde_json::to_string_pretty(value)?) } else { text(&mut out) };
    quiet(printed.and_then(|()| out.flush()))?;
    Ok(())
}

/// A line of `--json`'s list.
#[derive(Debug, Serialize)]
struct Listed {
    group: String,
    kind: Option<String>,
    state: Option<String>,
    protocol_type: String,
}

async fn list(arguments: &ListArguments) -> Result<()> {
    let admin = connect(&arguments.reach).await?;
    let groups = admin.list_groups().await.map_err(hint)?;
    let groups: Vec<Listed> = groups
        .into_iter()
        .map(|group| Listed {
            group: group.group,
            kind: group.kind,
            state: group.state,
            protocol_type: group.protocol_type,
        })
        .collect();
    print(arguments.reach.json, &groups, |out| {
        let mut table = Table::new(&["GROUP", "TYPE", "STATE", "PROTOCOL"]);
        for group in &groups {
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            table.row([group.group.clone(), text(&group.kind), text(&group.state), group.protocol_type.clone()]);
        }
        table.print(out)
    })
}

/// That there is no group of the name, with the nearest that there is.
async fn no_such_group(admin: &Admin, group: &str) -> anyhow::Error {
    let names: Vec<String> = match admin.list_groups().await {
        Ok(groups) => groups.into_iter().map(|group| group.group).collect(),
        Err(error) => return hint(error),
    };
    if names.is_empty() {
        return anyhow!("there is no group '{group}', and no other");
    }
    let near = or_nearest(group, names.iter().map(String::as_str), "; `millpond group list` names them");
    anyhow!("there is no group '{group}'{near}")
}

async fn facts_of(runtime: &Runtime, looked: &Looked) -> Result<Facts> {
    let admin = connect(&looked.reach).await?;
    match look(runtime, &admin, &looked.group, looked.http.as_deref()).await? {
        Some(facts) => Ok(facts),
        None => Err(no_such_group(&admin, &looked.group).await),
    }
}

async fn describe(runtime: &Runtime, arguments: &DescribeArguments) -> Result<()> {
    let facts = facts_of(runtime, &arguments.looked).await?;
    print(arguments.looked.reach.json, &facts, |out| describe_to(&facts, out))
}

fn describe_to(facts: &Facts, out: &mut Output) -> io::Result<()> {
    out.line(&printable(&headline(facts)))?;
    if let Some(course) = &facts.course {
        out.line(&printable(&explain::rebalances(course)))?;
    }
    if !facts.partitions.is_empty() {
        out.line("")?;
        let told = facts.course.is_some();
        let headings = ["TOPIC", "PARTITION", "COMMITTED", "END", "LAG", "BEHIND", "LAST COMMIT", "OWNER"];
        let shown = |column: usize| told || ![5, 6].contains(&column);
        let only = |cells: Vec<String>| {
            cells.into_iter().enumerate().filter(|(column, _)| shown(*column)).map(|(_, cell)| cell).collect::<Vec<_>>()
        };
        let named = only(headings.iter().map(|&heading| heading.to_owned()).collect());
        let mut table = Table::new(&named.iter().map(String::as_str).collect::<Vec<_>>());
        for of in &facts.partitions {
            let number = |number: Option<i64>| number.map(|number| number.to_string()).unwrap_or_default();
            let ago = |seconds: Option<f64>| seconds.map(age).unwrap_or_default();
            table.row(only(vec![
                of.topic.clone(),
                of.partition.to_string(),
                number(of.committed),
                number(of.end),
                number(of.lag_records),
                ago(of.lag_seconds),
                ago(of.commit_age_seconds),
                of.owner.clone().unwrap_or_default(),
            ]));
        }
        table.print(out)?;
    }
    if facts.members.is_empty() {
        return Ok(());
    }
    out.line("")?;
    let mut table = Table::new(&["MEMBER", "INSTANCE", "CLIENT", "HOST", "PARTITIONS"]);
    for member in &facts.members {
        table.row([
            member.member_id.clone(),
            member.instance_id.clone().unwrap_or_default(),
            member.client_id.clone(),
            member.host.clone(),
            member.partitions.to_string(),
        ]);
    }
    table.print(out)
}

fn headline(facts: &Facts) -> String {
    let protocol = match facts.protocol.as_str() {
        "" => String::new(),
        protocol => format!(", {protocol}"),
    };
    let members = counted(facts.members.len(), "member");
    let behind = match facts.lag_records() {
        Some(1) => "1 record behind".to_owned(),
        Some(records) => format!("{records} records behind"),
        None => "it is not known how far behind".to_owned(),
    };
    format!("group {}: {}, {}{protocol}, {members}, {behind}", facts.group, facts.state, facts.kind)
}

async fn explain_group(runtime: &Runtime, arguments: &ExplainArguments) -> Result<()> {
    let facts = facts_of(runtime, &arguments.looked).await?;
    let sentences = explain(&facts);
    let value = json!({ "group": facts.group, "state": facts.state, "sentences": sentences });
    print(arguments.looked.reach.json, &value, |out| {
        sentences.iter().try_for_each(|sentence| out.line(&printable(sentence)))
    })
}

async fn delete(arguments: &DeleteArguments) -> Result<()> {
    let admin = connect(&arguments.reach).await?;
    let group = &arguments.group;
    match admin.delete_group(group).await {
        Ok(()) => {}
        Err(error) if error.code() == Some(ErrorCode::GROUP_ID_NOT_FOUND) => {
            return Err(no_such_group(&admin, group).await);
        }
        Err(error) if error.code() == Some(ErrorCode::NON_EMPTY_GROUP) => {
            bail!("the group {group} has members; stop them first, `millpond group describe {group}` names them")
        }
        Err(error) => return Err(hint(error)),
    }
    print(arguments.reach.json, &json!({ "deleted": group }), |out| out.line(&format!("group {group} is deleted")))
}
