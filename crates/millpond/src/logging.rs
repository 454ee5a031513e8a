//! Logs to standard error, as text or as JSON lines.

use std::io::{IsTerminal, stderr};

use anyhow::{Context, Result, ensure};
use tracing_subscriber::EnvFilter;

use crate::arguments::LogFormat;

/// openraft warns, once for each group, of what is the daily life of a cluster: votes that come late, connections that
/// break, groups that stop. What ends a group the group says itself.
const QUIET: &str = "openraft=off";
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Sends the log of the whole process to standard error.
pub(crate) fn start(format: LogFormat, level: &str) -> Result<()> {
    let filter = EnvFilter::try_new(directives(level)?).with_context(|| refusal(level))?;
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr);
    // Told on standard error, where else: when that is closed, telling it would be the panic of whoever logs.
    let logs = logs.log_internal_errors(false);
    let started = match format {
        LogFormat::Text => logs.with_ansi(stderr().is_terminal()).try_init(),
        LogFormat::Json => logs.json().try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("logging cannot start: {error}"))
}

fn refusal(level: &str) -> String {
    format!(
        "'{level}' is no value for --log-level, which is {}, or MODULE=LEVEL, separated by commas",
        LEVELS.join(", ")
    )
}

/// A level alone must be one, because the filter would take any other word for the name of a module.
fn directives(level: &str) -> Result<String> {
    let known = |word: &str| LEVELS.contains(&word.trim());
    let good = |part: &str| part.split_once('=').map_or(known(part), |(module, of)| !module.is_empty() && known(of));
    ensure!(level.split(',').all(good), refusal(level));
    let names_openraft = level.split(',').any(|part| part.trim().starts_with("openraft"));
    Ok(if names_openraft { level.to_owned() } else { format!("{level},{QUIET}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_quiets_openraft_unless_it_is_named() {
        assert_eq!(directives("info").expect("a level"), "info,openraft=off");
        assert_eq!(directives("warn,openraft=debug").expect("two levels"), "warn,openraft=debug");
    }

    #[test]
    fn a_word_that_is_no_level_is_refused_with_the_list_of_levels() {
        for bad in ["loud", "", "info,", "x=loud", "=info"] {
            let refused = directives(bad).expect_err(bad).to_string();
            assert!(refused.contains("off, error, warn, info, debug, trace"), "{refused}");
        }
    }
}
