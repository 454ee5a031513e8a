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
            eprintln!("millpond: {error:#}");
            ExitCode::FAILURE
        }
    }
}
