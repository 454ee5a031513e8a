//! The configuration file: TOML whose keys, tables flattened with dots, are the names of settings.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use toml::{Table, Value};

/// Reads a file into names and values.
#[expect(clippy::disallowed_methods, reason = "the configuration is read before there is a runtime")]
pub(crate) fn read(path: &Path) -> Result<Vec<(String, String)>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text).with_context(|| format!("in {}", path.display()))
}

fn parse(text: &str) -> Result<Vec<(String, String)>> {
    let table: Table = text.parse().map_err(|error| anyhow!("{}", told(text, &error)))?;
    let mut settings = Vec::new();
    flatten("", &table, &mut settings)?;
    Ok(settings)
}

/// The parser's message with the line that it is about, and in our words where its own help nobody.
fn told(text: &str, error: &toml::de::Error) -> String {
    let said = error.message().replace('\n', ", ");
    let Some(at) = error.span().map(|span| span.start.min(text.len())) else { return said };
    let before = text[..at].matches('\n').count();
    let key = text.lines().nth(before).map(key_of).unwrap_or_default();
    let is_there = || text.lines().take(before).any(|line| key_of(line) == key);
    let said = match said.as_str() {
        "duplicate key" if is_there() => format!("{key} is given twice"),
        // TOML takes each dot for a table, and no value has parts: Kafka has such names.
        "duplicate key" | "cannot extend value of type integer with a dotted key" => {
            format!("{key} is the beginning of another name, or has one for its beginning: put both in quotation marks")
        }
        _ if said.starts_with("invalid type: integer") => format!("the number of {key} is too long"),
        _ => said,
    };
    format!("line {}: {said}", before + 1)
}

/// What stands in front of a line's value.
fn key_of(line: &str) -> &str {
    line.split('=').next().unwrap_or_default().trim()
}

fn flatten(prefix: &str, table: &Table, settings: &mut Vec<(String, String)>) -> Result<()> {
    for (key, value) in table {
        let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        match value {
            Value::Table(inner) => flatten(&name, inner, settings)?,
            Value::String(text) => settings.push((name, text.clone())),
            Value::Integer(number) => settings.push((name, number.to_string())),
            Value::Boolean(switch) => settings.push((name, switch.to_string())),
            _ => bail!("the value of {name} is not a text, a whole number, true or false"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use millpond_broker::SETTINGS;

    const SAMPLE: &str = include_str!("../../../config/millpond.toml");

    #[test]
    fn the_sample_file_names_every_setting_once_with_its_default() {
        // Every setting is there as a comment, so that a copy of the file overrides nothing; uncommented it must parse.
        let uncommented: String = SAMPLE
            .lines()
            .map(|line| line.strip_prefix("#").filter(|rest| !rest.starts_with(' ')).unwrap_or(line))
            .flat_map(|line| [line, "\n"])
            .collect();
        let mut found = parse(&uncommented).expect("the sample parses");
        let mut expected: Vec<_> = SETTINGS.iter().map(|s| (s.name.to_owned(), s.default.to_owned())).collect();
        found.sort();
        expected.sort();
        assert_eq!(found, expected);
        assert_eq!(parse(SAMPLE).expect("the sample parses"), []);
    }

    #[test]
    fn the_sample_file_describes_every_setting_in_the_words_of_the_table() {
        let words = SAMPLE.replace("\n# ", " ");
        for setting in SETTINGS {
            assert!(words.contains(setting.about), "{}: {}", setting.name, setting.about);
            assert!(words.contains(&format!("({})", setting.kind)), "{}: ({})", setting.name, setting.kind);
        }
    }

    #[test]
    fn dotted_quoted_and_table_keys_are_the_same_settings() {
        let text = "num.partitions = 6\n\"message.max.bytes\" = 2000\n[auto]\ncreate.topics.enable = false\n";
        let mut settings = parse(text).expect("it parses");
        settings.sort();
        let settings: Vec<_> = settings.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(
            settings,
            [("auto.create.topics.enable", "false"), ("message.max.bytes", "2000"), ("num.partitions", "6")]
        );
    }

    #[test]
    fn what_cannot_be_read_is_told_in_one_line_with_its_place() {
        let collides = "is the beginning of another name, or has one for its beginning: put both in quotation marks";
        for (text, expected) in [
            (
                "num.partitions = [1]",
                "the value of num.partitions is not a text, a whole number, true or false".to_owned(),
            ),
            ("x = 1.5", "the value of x is not a text, a whole number, true or false".to_owned()),
            ("a.b = 1\nc = 2\na.b = 3\n", "line 3: a.b is given twice".to_owned()),
            ("[a]\nb = 1\n[a]\nc = 1", "line 3: [a] is given twice".to_owned()),
            ("\nx.y = 1\nx.y.z = 2", format!("line 3: x.y.z {collides}")),
            ("x.y.z = 1\nx.y = 2", format!("line 2: x.y {collides}")),
            ("[x]\ny = 1\ny.z = 2", format!("line 3: y.z {collides}")),
            ("a = 1\nb = 99999999999999999999", "line 2: the number of b is too long".to_owned()),
            ("a = 1\nlog.dirs=/tmp", "line 2: string values must be quoted, expected literal string".to_owned()),
            ("[broker", "line 1: unclosed table, expected `]`".to_owned()),
        ] {
            assert_eq!(parse(text).expect_err(text).to_string(), expected);
        }
        let error = parse("num.partitions = ").expect_err("no value").to_string();
        assert!(error.starts_with("line 1: ") && !error.contains('\n'), "{error}");
    }
}
