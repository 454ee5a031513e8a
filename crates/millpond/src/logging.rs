//! Logs to standard error, as text or as JSON lines.

use std::io::{IsTerminal, stderr};

use anyhow::{Context, Result};
use tracing_subscriber::EnvFilter;

use crate::arguments::LogFormat;

/// Sends the log of the whole process to standard error.
pub(crate) fn start(format: LogFormat, level: &str) -> Result<()> {
    let filter = EnvFilter::try_new(level)
        .with_context(|| format!("'{level}' is no value for --log-level; try error, warn, info, debug or trace"))?;
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr);
    let started = match format {
        LogFormat::Text => logs.with_ansi(stderr().is_terminal()).try_init(),
        LogFormat::Json => logs.json().try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("logging cannot start: {error}"))
}
