//! The configuration file: TOML whose keys, tables flattened with dots, are the names of settings.

use std::path::Path;

use anyhow::{Context, Result, bail};
use toml::{Table, Value};

/// Reads a file into names and values.
#[expect(clippy::disallowed_methods, reason = "the configuration is read before there is a runtime")]
pub(crate) fn read(path: &Path) -> Result<Vec<(String, String)>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text).with_context(|| format!("in {}", path.display()))
}

fn parse(text: &str) -> Result<Vec<(String, String)>> {
    let table: Table = text.parse().map_err(|error: toml::de::Error| anyhow::anyhow!("{}", one_line(&error)))?;
    let mut settings = Vec::new();
    flatten("", &table, &mut settings)?;
    Ok(settings)
}

/// The parser's message without its drawing of the line.
fn one_line(error: &toml::de::Error) -> String {
    error.message().replace('\n', ", ")
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
    fn a_list_or_a_broken_line_is_refused_in_one_line() {
        for text in ["num.partitions = [1]", "num.partitions = ", "x = 1.5"] {
            let error = parse(text).expect_err(text).to_string();
            assert!(!error.contains('\n'), "{error}");
        }
    }
}
