//! A mistake on the command line, in one sentence with the nearest valid name.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, CommandFactory};
use millpond_broker::nearest;

use crate::arguments::Arguments;
use crate::command_line::is_one_word;
use crate::output::printable;

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
    // A place of two words has taken what stands behind its first one.
    let took =
        |option: &str| line.iter().skip_while(|word| *word != option).nth(1).is_some_and(|word| !is_one_word(word));
    let argument = || text(ContextKind::InvalidArg).unwrap_or_default();
    let said = match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            return None;
        }
        ErrorKind::UnknownArgument if argument().starts_with('-') => {
            let found = argument();
            let options = command.get_arguments().filter_map(|argument| argument.get_long());
            let options: Vec<String> = options.chain(["help"]).map(|name| format!("--{name}")).collect();
            let near = nearest(&found, options.iter().map(String::as_str));
            let near = near.map(|near| format!("; the nearest is {near}")).unwrap_or_default();
            format!("there is no option {found} here{near}")
        }
        ErrorKind::UnknownArgument => format!("nothing was expected at '{}'", argument()),
        ErrorKind::TooManyValues => {
            format!("nothing was expected at '{}'", text(ContextKind::InvalidValue).unwrap_or_default())
        }
        ErrorKind::InvalidSubcommand => {
            let found = text(ContextKind::InvalidSubcommand).unwrap_or_default();
            let names = command.get_subcommands().map(Command::get_name);
            format!("there is no command '{found}'{}", or_nearest(&found, names, ""))
        }
        ErrorKind::MissingSubcommand => "a command is missing".to_owned(),
        ErrorKind::MissingRequiredArgument if argument() == "<NAME>" && took("--to") => {
            "NAME is missing; put NAME before --to".to_owned()
        }
        ErrorKind::MissingRequiredArgument if argument() == "<TOPIC>" && took("--from") => {
            "TOPIC is missing; put TOPIC before --from".to_owned()
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
                    format!("'{value}' is no value of {}, which is one of {}", argument(), valid.join(", "))
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
    for word in line.iter().skip(1).skip_while(|word| *word == "help") {
        let Some(found) = command.find_subcommand(word) else { break };
        command = found;
        path = format!("{path} {word}");
    }
    (command, path)
}

/// The end of a sentence: the name that is near `found`, or `otherwise` where none is.
pub(crate) fn or_nearest<'a>(found: &str, names: impl IntoIterator<Item = &'a str>, otherwise: &str) -> String {
    match nearest(found, names) {
        Some(near) => format!("; the nearest is '{}'", printable(near)),
        None => otherwise.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command_line::parse;

    fn said(line: &[&str]) -> String {
        let line: Vec<String> = line.iter().map(|word| (*word).to_owned()).collect();
        let error = parse(line.iter().map(Into::into)).expect_err("a mistake");
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
                "'jsn' is no value of --log-format <FORMAT>, which is one of text, json (see millpond broker --help)",
            ),
            (
                &["millpond", "broker", "--set", "x"],
                "'x' is no value of --set <KEY=VALUE>: it must have the form KEY=VALUE, for example num.partitions=6 \
                 (see millpond broker --help)",
            ),
            (&["millpond", "broker", "--kafka"], "--kafka <HOST:PORT> needs a value (see millpond broker --help)"),
            (&["millpond", "broker", "x"], "nothing was expected at 'x' (see millpond broker --help)"),
            (&["millpond", "broker", "--verbose"], "there is no option --verbose here (see millpond broker --help)"),
            (&["millpond", "xyz"], "there is no command 'xyz' (see millpond --help)"),
            (
                &["millpond", "help", "topic", "creat"],
                "there is no command 'creat'; the nearest is 'create' (see \
                 millpond topic --help)",
            ),
            (
                &["millpond", "cluster", "transfer-leader", "logs", "0", "1", "2"],
                "nothing was expected at '2' (see millpond cluster transfer-leader --help)",
            ),
            (&["millpond", "consume", "--from", "earliest"], "<TOPIC> is missing (see millpond consume --help)"),
            (
                &["millpond", "consume", "--from", "begin", "logs"],
                "TOPIC is missing; put TOPIC before --from (see millpond consume --help)",
            ),
            (
                &["millpond", "topic", "create", "x", "--set", "retention.ms"],
                "'retention.ms' is no value of --set <KEY=VALUE>: it must have the form KEY=VALUE, for example \
                 retention.ms=86400000 (see millpond topic create --help)",
            ),
        ] {
            assert_eq!(said(line), expected);
            assert!(!said(line).contains('\n'));
        }
    }

    #[test]
    fn a_number_that_does_not_fit_is_told_the_range_also_with_a_minus() {
        for (line, option, most) in [
            (&["topic", "create", "a"][..], "--partitions <N>", "1 to 2147483647"),
            (&["topic", "create", "a"], "--replication-factor <N>", "1 to 32767"),
            (&["topic", "alter", "a"], "--partitions <N>", "1 to 2147483647"),
            (&["produce", "a"], "--rate <N>", "1 to 4294967295"),
            (&["produce", "a"], "--partition <N>", "0 to 2147483647"),
            (&["produce", "a"], "--timeout <SECONDS>", "1 to 86400"),
            (&["consume", "a"], "--count <N>", "1 to 18446744073709551615"),
            (&["consume", "a"], "--partition <N>", "0 to 2147483647"),
            (&["bench", "produce", "a"], "--size <BYTES>", "0 to 16777216"),
            (&["bench", "produce", "a"], "--keys <N>", "1 to 4294967295"),
            (&["bench", "produce", "a"], "--seconds <S>", "1 to 86400"),
            (&["bench", "consume", "a"], "--records <N>", "1 to 18446744073709551615"),
            (&["bench", "latency", "a"], "--warmup <S>", "0 to 3600"),
            (&["dump", "a"], "--offset <OFFSET>", "0 to 9223372036854775807"),
            (&["dump", "a"], "--limit <N>", "0 to 18446744073709551615"),
            (&["dev"], "--nodes <N>", "1 to 9"),
            (&["dev"], "--kafka-port <PORT>", "0 to 65535"),
            (&["cluster", "decommission"], "<BROKER>", "0 to 2147483647"),
            (&["cluster", "trust", "a"], "<PARTITION>", "0 to 2147483647"),
        ] {
            let name = option.split(' ').next().filter(|name| name.starts_with("--"));
            let with = |number| -> Vec<&str> { [&["millpond"], line, name.as_slice(), &[number]].concat() };
            for bad in ["x", "-1", "99999999999999999999"] {
                let expected = format!("'{bad}' is no value of {option}: it must be a number from {most} (see ");
                assert!(said(&with(bad)).starts_with(&expected), "{}", said(&with(bad)));
            }
            assert!(parse(with("1").iter().map(Into::into)).is_ok(), "{option}");
        }
    }

    #[test]
    fn help_and_version_are_no_mistakes_and_every_help_has_an_example() {
        let help: [&[&str]; 5] = [&["--version"], &[], &["--help"], &["help"], &["help", "group", "reset-offsets"]];
        for line in help {
            let error = parse(["millpond"].iter().chain(line).map(Into::into)).expect_err("it ends the parse");
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
