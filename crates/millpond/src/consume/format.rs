//! How a record is printed.

use std::io::Write;

use millpond_broker::nearest;
use millpond_client::ConsumerRecord;
use serde_json::{Value, json};

use crate::output::printable;

/// How records are printed.
#[derive(Debug)]
pub(super) enum Format<'a> {
    /// The value and a line end; `safe` keeps orders from a terminal.
    Text {
        safe: bool,
    },
    Json,
    Custom(&'a Template),
}

impl Format<'_> {
    /// Appends a record.
    pub(super) fn print(&self, record: &ConsumerRecord, out: &mut Vec<u8>) {
        match self {
            Format::Text { safe } => {
                let value = record.value.as_deref().unwrap_or_default();
                match safe {
                    true => out.extend_from_slice(printable(&String::from_utf8_lossy(value)).as_bytes()),
                    false => out.extend_from_slice(value),
                }
                out.push(b'\n');
            }
            Format::Json => {
                let line = object(record).to_string();
                out.extend_from_slice(line.as_bytes());
                out.push(b'\n');
            }
            Format::Custom(template) => template.print(record, out),
        }
    }
}

fn object(record: &ConsumerRecord) -> Value {
    let headers = record.headers.iter();
    let headers =
        headers.map(|(name, value)| json!({ "name": text_of(Some(name)), "value": text_of(value.as_deref()) }));
    json!({
        "topic": &*record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp": record.timestamp,
        "key": text_of(record.key.as_deref()),
        "value": text_of(record.value.as_deref()),
        "headers": headers.collect::<Vec<_>>(),
    })
}

/// Bytes as JSON: a string, or an object with their base64 if they are no UTF-8.
fn text_of(bytes: Option<&[u8]>) -> Value {
    match bytes.map(|bytes| std::str::from_utf8(bytes).map_err(|_| bytes)) {
        None => Value::Null,
        Some(Ok(text)) => Value::from(text),
        Some(Err(bytes)) => json!({ "base64": base64(bytes) }),
    }
}

/// RFC 4648, with padding.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let byte = |at: usize| u32::from(three.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * at)) as usize & 63];
            text.push(if at <= three.len() { char::from(letter) } else { '=' });
        }
    }
    text
}

/// A part of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Topic,
    Partition,
    Offset,
    Timestamp,
    Key,
    Value,
    Headers,
}

const FIELDS: &[(&str, Field)] = &[
    ("topic", Field::Topic),
    ("partition", Field::Partition),
    ("offset", Field::Offset),
    ("timestamp", Field::Timestamp),
    ("key", Field::Key),
    ("value", Field::Value),
    ("headers", Field::Headers),
];

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Field(Field),
}

/// A `--format`: text with fields in braces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template(Vec<Part>);

impl Template {
    pub(super) fn parse(text: &str) -> Result<Template, String> {
        let (mut parts, mut plain) = (Vec::new(), String::new());
        let mut letters = text.chars().peekable();
        while let Some(letter) = letters.next() {
            match letter {
                '\\' => plain.push(match letters.next() {
                    Some('n') => '\n',
                    Some('t') => '\t',
                    Some('r') => '\r',
                    Some('0') => '\0',
                    Some('\\') => '\\',
                    _ => return Err("behind \\ comes n, t, r, 0 or \\".to_owned()),
                }),
                '{' | '}' if letters.next_if_eq(&letter).is_some() => plain.push(letter),
                '}' => return Err("a } alone ends nothing; }} is the letter".to_owned()),
                '{' => {
                    let rest: String = letters.clone().collect();
                    let Some((name, _)) = rest.split_once('}') else {
                        return Err(format!("the {{ of '{{{rest}' has no }}; {{{{ is the letter"));
                    };
                    let field = FIELDS.iter().find(|(known, _)| *known == name).ok_or_else(|| no_such_field(name))?;
                    letters.nth(name.chars().count());
                    if !plain.is_empty() {
                        parts.push(Part::Text(std::mem::take(&mut plain)));
                    }
                    parts.push(Part::Field(field.1));
                }
                letter => plain.push(letter),
            }
        }
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        if !parts.iter().any(|part| matches!(part, Part::Field(_))) {
            return Err("it names nothing of a record; {value} is its value".to_owned());
        }
        Ok(Template(parts))
    }

    fn print(&self, record: &ConsumerRecord, out: &mut Vec<u8>) {
        for part in &self.0 {
            match part {
                Part::Text(text) => out.extend_from_slice(text.as_bytes()),
                Part::Field(Field::Topic) => out.extend_from_slice(record.topic.as_bytes()),
                Part::Field(Field::Partition) => number(out, record.partition.into()),
                Part::Field(Field::Offset) => number(out, record.offset),
                Part::Field(Field::Timestamp) => number(out, record.timestamp),
                Part::Field(Field::Key) => out.extend_from_slice(record.key.as_deref().unwrap_or_default()),
                Part::Field(Field::Value) => out.extend_from_slice(record.value.as_deref().unwrap_or_default()),
                Part::Field(Field::Headers) => {
                    for (at, (name, value)) in record.headers.iter().enumerate() {
                        out.extend_from_slice(if at > 0 { b"," } else { b"" });
                        out.extend_from_slice(name);
                        out.push(b'=');
                        out.extend_from_slice(value.as_deref().unwrap_or_default());
                    }
                }
            }
        }
    }
}

fn no_such_field(name: &str) -> String {
    let names = || FIELDS.iter().map(|(name, _)| *name);
    match nearest(name, names()) {
        Some(nearest) => format!("there is no field {{{name}}}; the nearest is {{{nearest}}}"),
        None => {
            let all: Vec<String> = names().map(|name| format!("{{{name}}}")).collect();
            format!("there is no field {{{name}}}; there are {}", all.join(", "))
        }
    }
}

fn number(out: &mut Vec<u8>, number: i64) {
    // Memory takes everything.
    let _ = write!(out, "{number}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: Option<&'static [u8]>, value: &'static [u8]) -> ConsumerRecord {
        ConsumerRecord {
            topic: "logs".into(),
            partition: 2,
            offset: 7,
            timestamp: 1000,
            leader_epoch: None,
            key: key.map(bytes::Bytes::from_static),
            value: Some(bytes::Bytes::from_static(value)),
            headers: vec![("a".into(), Some("1".into())), ("b".into(), None)],
        }
    }

    fn printed(format: &Format<'_>, record: &ConsumerRecord) -> String {
        let mut out = Vec::new();
        format.print(record, &mut out);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn a_template_names_fields_and_says_the_nearest_for_a_wrong_one() {
        let template = Template::parse("{topic}/{partition}@{offset} {timestamp}\\t{{{key}}}={value} {headers}\\n");
        let line = printed(&Format::Custom(&template.expect("good")), &record(Some(b"k"), b"v"));
        assert_eq!(line, "logs/2@7 1000\t{k}=v a=1,b=\n");
        for (bad, why) in [
            ("{ofset}", "the nearest is {offset}"),
            ("{foo}", "there is no field {foo}; there are {topic}, {partition}, "),
            ("a}b", "}}"),
            ("{key} {value", "the { of '{value' has no }; {{ is the letter"),
            ("{value}{", "the { of '{' has no }"),
            ("\\x", "behind \\"),
        ] {
            assert!(Template::parse(bad).expect_err(bad).contains(why), "{bad}");
        }
    }

    #[test]
    fn text_is_safe_for_terminals_and_json_tells_everything() {
        let wild = record(None, b"a\x1b[2J\xff");
        assert_eq!(printed(&Format::Text { safe: true }, &wild), "a\\u{1b}[2J\u{fffd}\n");
        let line = printed(&Format::Json, &wild);
        let value: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!((&value["key"], &value["value"]["base64"]), (&Value::Null, &"YRtbMkr/".into()));
        assert_eq!((&value["offset"], &value["headers"][0]["value"]), (&7.into(), &"1".into()));
        assert_eq!(line.matches('\n').count(), 1);
    }

    #[test]
    fn base64_is_padded() {
        let all = [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")];
        all.iter().for_each(|(plain, coded)| assert_eq!(base64(plain.as_bytes()), *coded));
    }
}
