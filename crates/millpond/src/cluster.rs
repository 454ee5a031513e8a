//! `millpond cluster`: looks after a running cluster, over the Kafka protocol and, for what that lacks, over HTTP.

mod arguments;
mod http;
mod picture;
mod plan;
mod status;
mod tls;
mod transfer;
mod trust;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use millpond_client::{Admin, ClientConfig, Cluster, Error};
use millpond_runtime::{RealDisk, Runtime};

pub(crate) use arguments::{CLUSTER_EXAMPLES, ClusterCommand, Reach};
pub(crate) use http::get;
pub(crate) use status::counted;

/// How long a connection may take to be made; a person waits for it.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// How long one question to the cluster may take, tries included.
const DEADLINE: Duration = Duration::from_secs(15);

/// Runs a command on a cluster.
pub(crate) fn run(command: &ClusterCommand) -> Result<ExitCode> {
    let thread = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    thread.block_on(async {
        let runtime = Runtime::real(RealDisk::shared());
        match command {
            ClusterCommand::Status(arguments) => status::run(arguments).await,
            ClusterCommand::Decommission(arguments) => plan::decommission(&runtime, arguments).await,
            ClusterCommand::Rebalance(arguments) => plan::rebalance(&runtime, arguments).await,
            ClusterCommand::TransferLeader(arguments) => transfer::run(&runtime, arguments).await,
            ClusterCommand::Trust(arguments) => trust::run(arguments).await,
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

/// An admin client of the cluster that is named.
pub(crate) async fn connect(reach: &Reach) -> Result<Admin> {
    let config = ClientConfig::new(&reach.bootstrap).map_err(|error| anyhow!("{error} (--bootstrap)"))?;
    let config = config.client_id("millpond-cli").connect_limit(CONNECT_LIMIT).deadline(DEADLINE);
    let transport = reach.tls.transport()?;
    Cluster::connect_with(config, transport).await.map(Admin::from).map_err(hint)
}

/// An error of the client as a sentence and what to do about it.
pub(crate) fn hint(error: Error) -> anyhow::Error {
    // What all bootstrap addresses have in common tells more than that none answers.
    let is = |kind: fn(&Error) -> bool| match &error {
        Error::NoBroker(reasons) => !reasons.is_empty() && reasons.iter().all(kind),
        error => kind(error),
    };
    if is(|error| matches!(error, Error::Untrusted { .. })) {
        return anyhow!(
            "{error}; --tls-ca, --tls-server-name, --tls-cert and --tls-key say whom to trust and who asks"
        );
    }
    if is(|error| matches!(error, Error::Protocol { .. })) {
        return anyhow!("{error}; --bootstrap must name the address for Kafka clients, and --tls that it talks TLS");
    }
    match &error {
        Error::NoBroker(_) => anyhow!("{error}; is a broker running there? --bootstrap HOST:PORT names another"),
        Error::Unsupported { .. } => anyhow!("{error}; this needs a newer broker"),
        Error::GaveUp { .. } => anyhow!("{error}; `millpond cluster status` may tell why"),
        _ => anyhow!("{error}"),
    }
}
