//! `millpond cluster decommission` and `rebalance`: what the cluster is asked to do with its replicas.

use std::io::{IsTerminal, Write, stderr};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use millpond_client::Admin;
use millpond_runtime::Runtime;
use serde_json::{Value, json};

use super::arguments::{DecommissionArguments, RebalanceArguments};
use super::http::{Answer, get, post};
use super::status::counted;
use super::{connect, hint};
use crate::output::{Output, quiet};

/// Between two looks at how far the cluster is.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

pub(super) async fn decommission(runtime: &Runtime, arguments: &DecommissionArguments) -> Result<()> {
    let (broker, http) = (arguments.broker, &arguments.http.http);
    let path = match arguments.cancel {
        true => format!("/admin/decommission/{broker}/cancel"),
        false => format!("/admin/decommission/{broker}"),
    };
    print(&post(runtime, http, &path).await?, arguments.json)?;
    match arguments.wait {
        true => wait(runtime, || replicas_of(runtime, http, broker)).await,
        false => Ok(()),
    }
}

pub(super) async fn rebalance(runtime: &Runtime, arguments: &RebalanceArguments) -> Result<()> {
    let waiting = if arguments.wait { Some(connect(&arguments.reach).await?) } else { None };
    let answer = post(runtime, &arguments.http.http, "/admin/rebalance").await?;
    print(&answer, arguments.reach.json)?;
    match waiting {
        Some(admin) => wait(runtime, || moves(&admin)).await,
        None => Ok(()),
    }
}

/// What a broker still holds by the controller's books, in words; `None` when that is nothing. Metadata would leave out
/// what is not served to clients.
async fn replicas_of(runtime: &Runtime, http: &str, broker: i32) -> Result<Option<String>> {
    left_on(broker, &get(runtime, http, &format!("/admin/decommission/{broker}")).await?)
}

fn left_on(broker: i32, answer: &Answer) -> Result<Option<String>> {
    if answer.status == 503 {
        // The controller changes. It is asked again.
        return Ok(Some(format!("it is not known now what broker {broker} holds: {}", sentence(&answer.body))));
    }
    judge(answer)?;
    let left = serde_json::from_str::<Value>(&answer.body).ok().and_then(|fields| fields.get("replicas")?.as_u64());
    let left = left.context("the broker does not say how many replicas are left; it may be of another version")?;
    let left = usize::try_from(left).unwrap_or(usize::MAX);
    Ok((left > 0).then(|| format!("broker {broker} still holds {}", counted(left, "replica"))))
}

/// What is still on the move, in words; `None` when that is nothing.
async fn moves(admin: &Admin) -> Result<Option<String>> {
    let left = admin.list_reassignments(None).await.map_err(hint)?.len();
    Ok((left > 0).then(|| format!("{} still on the move", counted(left, "partition"))))
}

/// Asks until nothing is left. On a terminal it says how far it is.
async fn wait<F>(runtime: &Runtime, mut left: impl FnMut() -> F) -> Result<()>
where
    F: Future<Output = Result<Option<String>>>,
{
    let mut said = None;
    while let Some(now) = left().await? {
        if stderr().is_terminal() && said.as_ref() != Some(&now) {
            eprintln!("{now}");
            said = Some(now);
        }
        runtime.sleep(LOOK_AGAIN).await;
    }
    Ok(())
}

/// Fails with what the cluster answered, unless that is good.
fn judge(answer: &Answer) -> Result<()> {
    let said = sentence(&answer.body);
    match answer.status {
        200..300 => Ok(()),
        404 | 405 => bail!("the broker knows no such request; --http must name a Millpond broker's HTTP port"),
        status if said.is_empty() => bail!("the broker answered with HTTP status {status} and no reason"),
        _ => bail!("{said}"),
    }
}

/// Prints what the cluster answered, or fails with it.
fn print(answer: &Answer, json: bool) -> Result<()> {
    judge(answer)?;
    let said = sentence(&answer.body);
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
        let refused = |status, body: &str| print(&Answer { status, body: body.into() }, false);
        assert_eq!(refused(409, "broker 9 is unknown").expect_err("refused").to_string(), "broker 9 is unknown");
        assert!(refused(404, "x").expect_err("refused").to_string().contains("--http"));
        assert!(refused(503, "").expect_err("refused").to_string().contains("status 503"));
    }

    #[test]
    fn a_decommission_is_done_when_the_controller_counts_no_replica_and_not_when_it_does_not_say() {
        let left = |status, body: &str| left_on(3, &Answer { status, body: body.into() }).map_err(|e| e.to_string());
        assert_eq!(left(200, r#"{"replicas":0}"#), Ok(None));
        assert_eq!(left(200, r#"{"replicas":2}"#), Ok(Some("broker 3 still holds 2 replicas".into())));
        let moving = left(503, r#"{"error":"there is no controller"}"#).expect("asked again").expect("not done");
        assert!(moving.contains("there is no controller"), "{moving}");
        let taken_back = left(409, r#"{"error":"broker 3 is not being decommissioned"}"#);
        assert_eq!(taken_back, Err("broker 3 is not being decommissioned".into()));
        for other in [r#"{}"#, r#"{"replicas":-1}"#, r#"{"replicas":"0"}"#, "live"] {
            assert!(left(200, other).is_err(), "{other}");
        }
    }
}
