//! The `millpond` binary: command line, configuration file, signals and logging around a broker.

mod arguments;
mod bench;
mod cluster;
mod command_line;
mod completions;
mod config_file;
mod consume;
mod dev;
mod dump;
mod explain;
mod group;
mod logging;
mod mistakes;
mod output;
mod produce;
mod run;
mod table;
mod terminal;
mod topic;
mod verify;

use std::process::ExitCode;

use crate::arguments::{Command, ConfigCommand};

/// The system's allocator gives the memory of large requests back and faults it in again: a tenth of produce's CPU.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments = match command_line::parse(std::env::args_os()) {
        Ok(arguments) => arguments,
        Err(error) => return refuse(&error),
    };
    let result = match &arguments.command {
        Command::Broker(arguments) => run::broker(arguments).map(|()| ExitCode::SUCCESS),
        Command::Dev(arguments) => dev::run(arguments),
        Command::Cluster(command) => cluster::run(command),
        Command::Consume(arguments) => consume::run(arguments),
        Command::Produce(arguments) => produce::run(arguments),
        Command::Bench(command) => bench::run(command),
        Command::Topic(command) => topic::run(command),
        Command::Group(command) => group::run(command),
        Command::Verify(arguments) => verify::run(arguments),
        Command::Dump(arguments) => dump::run(arguments),
        Command::Config(ConfigCommand::Explain(arguments)) => explain::run(arguments),
        Command::Completions(arguments) => completions::run(arguments),
    };
    match result {
        Ok(status) => status,
        Err(error) => {
            // One sentence, whatever the log format: this is what a user sees when the broker does not start.
            eprintln!("millpond: {}", sentence(&error));
            ExitCode::FAILURE
        }
    }
}

/// Says what is wrong with the command line, in one sentence; or prints the help that was asked for.
fn refuse(error: &clap::Error) -> ExitCode {
    let line: Vec<String> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    match mistakes::sentence(error, &line) {
        Some(sentence) => {
            eprintln!("millpond: {sentence}");
            ExitCode::from(2)
        }
        None => error.exit(),
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
