//! `millpond cluster decommission` and `rebalance`: what the cluster is asked to do with its replicas.

use std::io::{IsTerminal, Write, stderr};
use std::time::Duration;

use anyhow::{Result, bail};
use millpond_client::{Admin, Error};
use millpond_runtime::Runtime;
use serde_json::{Value, json};

use super::arguments::{DecommissionArguments, RebalanceArguments};
use super::http_post::{Answer, post};
use super::status::counted;
use super::{connect, hint};
use crate::output::{Output, quiet};

/// Between two looks at how far the cluster is.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

pub(super) async fn decommission(runtime: &Runtime, arguments: &DecommissionArguments) -> Result<()> {
    let broker = arguments.broker;
    let waiting = if arguments.wait { Some(connect(&arguments.reach).await?) } else { None };
    let answer = post(runtime, &arguments.http.http, &format!("/admin/decommission/{broker}")).await?;
    print(answer, arguments.reach.json)?;
    match waiting {
        Some(admin) => wait(runtime, || replicas_of(&admin, broker)).await,
        None => Ok(()),
    }
}

pub(super) async fn rebalance(runtime: &Runtime, arguments: &RebalanceArguments) -> Result<()> {
    let waiting = if arguments.wait { Some(connect(&arguments.reach).await?) } else { None };
    let answer = post(runtime, &arguments.http.http, "/admin/rebalance").await?;
    print(answer, arguments.reach.json)?;
    match waiting {
        Some(admin) => wait(runtime, || moves(&admin)).await,
        None => Ok(()),
    }
}

/// What a broker still holds, in words; `None` when that is nothing.
async fn replicas_of(admin: &Admin, broker: i32) -> Result<Option<String>, Error> {
    let topics = admin.describe_all_topics().await?;
    let partitions = topics.values().flatten().flat_map(|topic| &topic.partitions);
    let left = partitions.filter(|partition| partition.replicas.contains(&broker)).count();
    Ok((left > 0).then(|| format!("broker {broker} still holds {}", counted(left, "replica"))))
}

/// What is still on the move, in words; `None` when that is nothing.
async fn moves(admin: &Admin) -> Result<Option<String>, Error> {
    let left = admin.list_reassignments(None).await?.len();
    Ok((left > 0).then(|| format!("{} still on the move", counted(left, "partition"))))
}

/// Asks until nothing is left. On a terminal it says how far it is.
async fn wait<F>(runtime: &Runtime, mut left: impl FnMut() -> F) -> Result<()>
where
    F: Future<Output = Result<Option<String>, Error>>,
{
    let mut said = None;
    while let Some(now) = left().await.map_err(hint)? {
        if stderr().is_terminal() && said.as_ref() != Some(&now) {
            eprintln!("{now}");
            said = Some(now);
        }
        runtime.sleep(LOOK_AGAIN).await;
    }
    Ok(())
}

/// Prints what the cluster answered, or fails with it.
fn print(answer: Answer, json: bool) -> Result<()> {
    let said = sentence(&answer.body);
    if !(200..300).contains(&answer.status) {
        match answer.status {
            404 | 405 => bail!("the broker knows no such request; --http must name a Millpond broker's HTTP port"),
            status if said.is_empty() => bail!("the broker answered with HTTP status {status} and no reason"),
            _ => bail!("{said}"),
        }
    }
    let mut out = Output::stdout();
    let line = match json {
        true => serde_json::from_str(&answer.body).unwrap_or_else(|_| json!({ "message": said })).to_string(),
        false => said,
    };
    quiet(out.line(&line).and_then(|()| out.flush()))?;
    Ok(())
}

/// The words of an answer: those in its JSON, or all of it.
fn sentence(body: &str) -> String {
    let fields = serde_json::from_str::<Value>(body).ok();
    let text = |name: &str| fields.as_ref()?.get(name)?.as_str().map(str::to_owned);
    text("error").or_else(|| text("message")).unwrap_or_else(|| body.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_told_in_its_own_words() {
        assert_eq!(sentence(r#"{"message":"begun","moves":3}"#), "begun");
        assert_eq!(sentence(r#"{"error":"there is no broker 9"}"#), "there is no broker 9");
        assert_eq!(sentence("begun\n"), "begun");
        assert_eq!(sentence(r#"{"moves":3}"#), r#"{"moves":3}"#);
    }

    #[test]
    fn a_refusal_is_an_error_in_the_words_of_the_broker() {
        let refused = |status, body: &str| print(Answer { status, body: body.into() }, false);
        assert_eq!(refused(409, "broker 9 is unknown").expect_err("refused").to_string(), "broker 9 is unknown");
        assert!(refused(404, "x").expect_err("refused").to_string().contains("--http"));
        assert!(refused(503, "").expect_err("refused").to_string().contains("status 503"));
    }
}
