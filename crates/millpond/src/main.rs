//! The `millpond` binary: command line, configuration file, signals and logging around a broker.

mod arguments;
mod config_file;
mod logging;
mod run;

use std::process::ExitCode;

use clap::Parser;

use crate::arguments::{Arguments, Command};

fn main() -> ExitCode {
    let Command::Broker(arguments) = Arguments::parse().command;
    match run::broker(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One sentence, whatever the log format: this is what a user sees when the broker does not start.
            eprintln!("millpond: {}", sentence(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error with its causes, each said once: some texts hold that of their cause.
fn sentence(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_said_once() {
        let cause = || std::io::Error::other("disk gone");
        let plain = anyhow::Error::from(cause()).context("cannot read x");
        assert_eq!(sentence(&plain), "cannot read x: disk gone");
        let repeated = anyhow::Error::from(cause()).context("cannot read x: disk gone");
        assert_eq!(sentence(&repeated), "cannot read x: disk gone");
    }
}
