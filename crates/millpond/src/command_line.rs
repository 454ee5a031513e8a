//! The words of a command line: what is done to them before options are told apart, and which numbers they may be.

use std::ffi::OsString;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use clap::{Command, CommandFactory, FromArgMatches};

use crate::arguments::Arguments;

/// Options whose places are named by one word or by two.
const PLACES: [&str; 2] = ["--from", "--to"];

/// Reads a command line, the program's name first.
pub(crate) fn parse(line: impl IntoIterator<Item = OsString>) -> Result<Arguments, clap::Error> {
    let matches = minus_is_no_option(Arguments::command()).try_get_matches_from(joined(line))?;
    Arguments::from_arg_matches(&matches)
}

/// `-1` behind an option is its value, so that the option says which numbers it takes.
fn minus_is_no_option(command: Command) -> Command {
    let option = |argument: clap::Arg| match argument.get_long().is_some() && argument.get_action().takes_values() {
        true => argument.allow_negative_numbers(true),
        false => argument,
    };
    command.mut_args(option).mut_subcommands(minus_is_no_option)
}

/// Joins a place of one word to its option: `--from earliest logs` would take the topic for the place's second word.
fn joined(line: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut line = line.into_iter();
    let mut words: Vec<OsString> = Vec::new();
    while let Some(word) = line.next() {
        if word == "--" {
            words.push(word);
            words.extend(line);
            break;
        }
        let option = words.last_mut().filter(|last| PLACES.iter().any(|place| **last == **place));
        match (option, word.to_str()) {
            (Some(option), Some(place)) if is_one_word(place) => {
                *option = format!("{}={place}", option.display()).into()
            }
            _ => words.push(word),
        }
    }
    words
}

/// Whether this is a place that has no second word.
pub(crate) fn is_one_word(place: &str) -> bool {
    let is_number = |text: &str| text.bytes().all(|letter| letter.is_ascii_digit());
    matches!(place, "earliest" | "latest") || place.strip_prefix('-').is_some_and(is_number)
}

/// Reads a number in a range, which is said of any other. It must be of its field's very type, or clap panics.
pub(crate) fn number<N>(range: RangeInclusive<N>) -> impl Fn(&str) -> Result<N, String> + Clone + Send + Sync + 'static
where
    N: FromStr + PartialOrd + Display + Clone + Send + Sync + 'static,
{
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| format!("it must be a number from {} to {}", range.start(), range.end()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn a_place_of_one_word_leaves_the_name_behind_it_alone() {
        for (line, expected) in [
            ("consume --from earliest logs", "consume --from=earliest logs"),
            ("consume --from -5 logs", "consume --from=-5 logs"),
            ("group reset-offsets --to latest orders", "group reset-offsets --to=latest orders"),
            ("consume --from offset 5 logs", "consume --from offset 5 logs"),
            ("consume --from begin logs", "consume --from begin logs"),
            ("consume -- --from earliest", "consume -- --from earliest"),
            ("consume earliest --from", "consume earliest --from"),
        ] {
            assert_eq!(joined(words(line)), words(expected));
        }
    }

    #[test]
    fn a_number_out_of_its_range_is_told_the_range() {
        let port = number(1..=u16::MAX);
        assert_eq!(port("7"), Ok(7));
        for bad in ["0", "65536", "-1", "x", ""] {
            assert_eq!(port(bad), Err("it must be a number from 1 to 65535".to_owned()), "{bad}");
        }
    }
}
