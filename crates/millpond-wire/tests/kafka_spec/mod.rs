//! Kafka 4.2.1's own message specifications, read from `tests/kafka-4.2.1`.

#![expect(clippy::disallowed_methods, reason = "the specifications are files of this crate")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// The files of a folder of this crate with this extension, in order.
pub fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut files: Vec<PathBuf> = fs::read_dir(&folder)
        .expect("the folder is part of the crate")
        .map(|entry| entry.expect("the folder is readable").path())
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect();
    files.sort();
    files
}

/// The specifications by name. Comments start with `//`, also behind content; no string in them holds that.
pub fn load() -> BTreeMap<String, Value> {
    let parse = |path: &PathBuf| {
        let text = read(path);
        let lines: Vec<&str> = text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
        let value: Value =
            serde_json::from_str(&lines.join("\n")).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        (text_of(&value, "name").to_owned(), value)
    };
    files("tests/kafka-4.2.1", "json").iter().map(parse).collect()
}

pub fn text_of<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("no {key} in {value}"))
}

pub fn read(path: &Path) -> String {
    fs::read_to_string(path).expect("the file is readable")
}
