//! `millpond completions`: what a shell needs to complete commands and options.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use clap::CommandFactory;

use crate::arguments::{Arguments, CompletionsArguments};
use crate::output::{Output, quiet};

/// Prints the script.
pub(crate) fn run(arguments: &CompletionsArguments) -> Result<ExitCode> {
    let mut command = Arguments::command();
    let name = command.get_name().to_owned();
    // `generate` panics where its writer fails, and a reader may have seen enough.
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut command, name, &mut script);
    let mut out = Output::stdout();
    quiet(out.write_all(&script).and_then(|()| out.flush()))?;
    Ok(ExitCode::SUCCESS)
}
