//! A mistake on the command line, in one sentence with the nearest valid name.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, CommandFactory};

use crate::arguments::Arguments;

/// The sentence for a parse error; `None` for what is no mistake (`--help`, `--version`).
pub(crate) fn sentence(error: &clap::Error, line: &[String]) -> Option<String> {
    let root = Arguments::command();
    let (command, path) = command_of(&root, line);
    let help = format!("see {path} --help");
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => Some(texts.join(", ")),
        _ => None,
    };
    let argument = || text(ContextKind::InvalidArg).unwrap_or_default();
    let said = match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            return None;
        }
        ErrorKind::UnknownArgument if argument().starts_with('-') => {
            let found = argument();
            let options = command.get_arguments().filter_map(|argument| argument.get_long());
            let options: Vec<String> = options.chain(["help"]).map(|name| format!("--{name}")).collect();
            let nearest = nearest(&found, &options);
            format!("there is no option {found} here; the nearest is {nearest}")
        }
        ErrorKind::UnknownArgument => format!("nothing was expected at '{}'", argument()),
        ErrorKind::InvalidSubcommand => {
            let found = text(ContextKind::InvalidSubcommand).unwrap_or_default();
            let names: Vec<String> = command.get_subcommands().map(|command| command.get_name().to_owned()).collect();
            format!("there is no command '{found}'; the nearest is '{}'", nearest(&found, &names))
        }
        ErrorKind::MissingSubcommand => "a command is missing".to_owned(),
        // There a second word may belong to the option, which has taken the name then.
        ErrorKind::MissingRequiredArgument if argument() == "<NAME>" && line.iter().any(|word| word == "--to") => {
            "NAME is missing; put NAME before --to".to_owned()
        }
        ErrorKind::MissingRequiredArgument => format!("{} is missing", argument()),
        ErrorKind::ArgumentConflict => match text(ContextKind::PriorArg).filter(|prior| *prior != argument()) {
            Some(prior) => format!("{} cannot be given with {prior}", argument()),
            None => format!("{} may be given once", argument()),
        },
        ErrorKind::InvalidValue if text(ContextKind::InvalidValue).is_none_or(|value| value.is_empty()) => {
            format!("{} needs a value", argument())
        }
        ErrorKind::InvalidValue => {
            let value = text(ContextKind::InvalidValue).unwrap_or_default();
            match error.get(ContextKind::ValidValue) {
                Some(ContextValue::Strings(valid)) if !valid.is_empty() => {
                    let nearest = nearest(&value, valid);
                    format!("'{value}' is no value of {}; the nearest is '{nearest}'", argument())
                }
                _ => format!("'{value}' is no value of {}", argument()),
            }
        }
        ErrorKind::ValueValidation => {
            let value = text(ContextKind::InvalidValue).unwrap_or_default();
            let why = std::error::Error::source(error).map(|why| format!(": {why}")).unwrap_or_default();
            format!("'{value}' is no value of {}{why}", argument())
        }
        _ => error.kind().as_str().unwrap_or("this cannot be read").to_owned(),
    };
    Some(format!("{said} ({help})"))
}

/// The command that a line is for, as far as its words name one, and how it is called.
fn command_of<'a>(root: &'a Command, line: &[String]) -> (&'a Command, String) {
    let (mut command, mut path) = (root, root.get_name().to_owned());
    for word in line.iter().skip(1) {
        let Some(found) = command.find_subcommand(word) else { break };
        command = found;
        path = format!("{path} {word}");
    }
    (command, path)
}

/// The name that is spelled most like `found`.
pub(crate) fn nearest<'a>(found: &str, names: &'a [String]) -> &'a str {
    let likeness = |name: &String| strsim::jaro_winkler(name, found);
    names.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b))).map_or("", String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn said(line: &[&str]) -> String {
        let line: Vec<String> = line.iter().map(|word| (*word).to_owned()).collect();
        let error = Arguments::try_parse_from(&line).expect_err("a mistake");
        sentence(&error, &line).expect("a mistake")
    }

    #[test]
    fn each_mistake_is_one_sentence_with_the_nearest_name() {
        for (line, expected) in [
            (&["millpond", "verfy"][..], "there is no command 'verfy'; the nearest is 'verify' (see millpond --help)"),
            (
                &["millpond", "verify", "--data", "x"],
                "there is no option --data here; the nearest is --data-dir (see millpond verify --help)",
            ),
            (&["millpond", "verify"], "--data-dir <DIR> is missing (see millpond verify --help)"),
            (
                &["millpond", "broker", "--log-format", "jsn"],
                "'jsn' is no value of --log-format <FORMAT>; the nearest is 'json' (see millpond broker --help)",
            ),
            (
                &["millpond", "broker", "--set", "x"],
                "'x' is no value of --set <KEY=VALUE>: it must have the form KEY=VALUE, for example num.partitions=6 \
                 (see millpond broker --help)",
            ),
            (&["millpond", "broker", "--kafka"], "--kafka <HOST:PORT> needs a value (see millpond broker --help)"),
            (&["millpond", "broker", "x"], "nothing was expected at 'x' (see millpond broker --help)"),
        ] {
            assert_eq!(said(line), expected);
            assert!(!said(line).contains('\n'));
        }
    }

    #[test]
    fn help_and_version_are_no_mistakes_and_every_help_has_an_example() {
        for line in [&["millpond", "--version"][..], &["millpond"], &["millpond", "--help"]] {
            let error = Arguments::try_parse_from(line).expect_err("it ends the parse");
            assert_eq!(sentence(&error, &[]), None);
        }
        fn check(command: &mut Command) {
            let name = command.get_name().to_owned();
            let help = command.render_long_help().to_string();
            assert!(help.contains("Example"), "{name}");
            command.get_subcommands_mut().filter(|command| command.get_name() != "help").for_each(check);
        }
        check(&mut Arguments::command());
    }
}
