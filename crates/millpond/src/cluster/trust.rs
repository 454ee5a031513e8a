//! `millpond cluster trust`: an operator goes on with what a power cut left of a relaxed topic's partition. It is
//! Kafka's unclean election (KIP-460).

use std::io::Write;

use anyhow::{Result, anyhow, bail};
use millpond_client::{ElectionType, TopicDescription, TopicPartition};
use serde_json::json;

use super::arguments::TrustArguments;
use super::transfer::find;
use super::{connect, hint};
use crate::output::{Output, quiet};

pub(super) async fn run(arguments: &TrustArguments) -> Result<()> {
    let TrustArguments { topic, partition, reach } = arguments;
    let admin = connect(reach).await?;
    let topics = admin.describe_all_topics().await.map_err(hint)?;
    let topics: Vec<TopicDescription> = topics.into_values().flatten().collect();
    find(&topics, topic, *partition)?;
    let of = TopicPartition::new(topic.as_str(), *partition);
    let elected = admin.elect_leaders(ElectionType::Unclean, Some(std::slice::from_ref(&of))).await.map_err(hint)?;
    let (outcome, sentence) = match elected.into_iter().find(|(found, _)| *found == of).map(|(_, outcome)| outcome) {
        Some(Ok(true)) => ("led", format!("{topic}-{partition} has a leader that goes on with what remains")),
        Some(Ok(false)) => {
            ("not needed", format!("{topic}-{partition} is led, and a majority of its replicas misses nothing"))
        }
        Some(Err(error)) => return Err(hint(error)),
        None => bail!("the cluster did not say what became of {topic}-{partition}"),
    };
    let mut out = Output::stdout();
    let line = match reach.json {
        true => serde_json::to_string_pretty(&json!({"topic": topic, "partition": partition, "outcome": outcome}))
            .map_err(|error| anyhow!("{error}"))?,
        false => sentence,
    };
    quiet(out.line(&line).and_then(|()| out.flush()))?;
    Ok(())
}
