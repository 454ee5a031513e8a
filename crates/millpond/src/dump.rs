//! `millpond dump`: prints any file of a data directory, a line for each thing in it.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Result, bail};
use millpond_runtime::RealDisk;
use millpond_storage::{DumpError, DumpItem, DumpValue, dump};

use crate::arguments::DumpArguments;
use crate::output::{Output, quiet};

/// Prints the file. What is damaged in it ends the dump and is the error.
pub(crate) fn run(arguments: &DumpArguments) -> Result<ExitCode> {
    let mut out = Output::stdout();
    let (mut left, mut first) = (arguments.limit.unwrap_or(u64::MAX), true);
    let dumped = dump(&*RealDisk::shared(), &arguments.file, &mut |item| {
        // The head of a file is shown whatever is asked for.
        let wanted = first || arguments.offset.is_none_or(|from| item.until.is_some_and(|until| until.0 > from));
        if !wanted {
            return Ok(());
        }
        if !first {
            left = left.checked_sub(1).ok_or(io::ErrorKind::Interrupted)?;
        }
        first = false;
        out.line(&if arguments.json { json(&item) } else { text(&item) })
    });
    let end = match dumped {
        Err(DumpError::Sink(error)) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
        Err(DumpError::Sink(error)) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(ExitCode::SUCCESS),
        Err(error) => Err(error),
        Ok(_) => Ok(()),
    };
    quiet(out.flush())?;
    match end {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(DumpError::Read(error)) if error.kind() == io::ErrorKind::IsADirectory => bail!(
            "{} is a folder; dump prints one file, and `millpond verify --data-dir DIR` reads all of a data directory",
            arguments.file.display()
        ),
        Err(error) => bail!("{}: {error}", arguments.file.display()),
    }
}

fn text(item: &DumpItem) -> String {
    let mut line = item.what.to_owned();
    for (name, value) in item.position.map(|at| ("byte", DumpValue::from(at))).iter().chain(&item.fields) {
        let _ = write!(line, " {name}={value}");
    }
    line
}

fn json(item: &DumpItem) -> String {
    let mut line = format!("{{\"what\":{}", quoted(item.what));
    for (name, value) in item.position.map(|at| ("byte", DumpValue::from(at))).iter().chain(&item.fields) {
        let value = match value {
            DumpValue::Text(text) => quoted(text),
            plain => plain.to_string(),
        };
        let _ = write!(line, ",{}:{value}", quoted(name));
    }
    line.push('}');
    line
}

/// A JSON string.
fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for letter in text.chars() {
        match letter {
            '"' | '\\' => quoted.extend(['\\', letter]),
            control if control < ' ' => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(control));
            }
            plain => quoted.push(plain),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_is_one_line_of_text_or_json() {
        let fields = vec![("topic", DumpValue::from("a\"\n")), ("offset", 7_i64.into()), ("clean", true.into())];
        let item = DumpItem { position: Some(61), what: "group", until: None, fields };
        assert_eq!(json(&item), r#"{"what":"group","byte":61,"topic":"a\"\u000a","offset":7,"clean":true}"#);
        let plain = DumpItem { position: None, fields: vec![("n", 1_u32.into())], ..item };
        assert_eq!(text(&plain), "group n=1");
    }
}
