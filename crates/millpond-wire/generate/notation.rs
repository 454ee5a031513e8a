//! The notation in which `messages/*.msg` describes Kafka's messages, and its parser.
//!
//! ```text
//! api 10 FindCoordinator 0-6, flexible 3+        # key, name, versions; `unstable 6`: version 6 is not final
//!
//! request                                        # its fields follow, four spaces deep
//!     Key                 string         0-3     # name, type, versions
//!     KeyType             int8           1+   = 0
//!
//! response
//!     Coordinators        []Coordinator  4+   ignorable
//!         NodeId          int32          4+      # deeper lines are the fields of the struct above them
//!         Rack            string         4+   null 4+, = null
//!     struct Endpoint 0+                         # a struct that several fields name; its fields follow, deeper
//! ```
//!
//! Names are Kafka's, in its spelling. Types: `bool`, `int8`, `int16`, `uint16`, `int32`, `int64`, `float64`, `string`,
//! `uuid`, `bytes`, `records`, the name of a struct, each also as an array with `[]` in front. Versions: `3`, `0-3`,
//! `3+`, `none`. Behind the versions, separated by commas, in any order:
//!
//! - `null 3+`: the field may be null in these versions;
//! - `tag 0`: it is a tagged field with this tag in all its versions;
//! - `ignorable`: a sender drops it silently when the version has no place for it; without the word that is an error,
//!   unless it holds its default;
//! - `inflexible`: a string that keeps its two-byte length also in flexible versions;
//! - `= -1`: its default. Without it: zero, false, empty (`records`: null).
//!
//! Lines that start with `#` and stand directly above a field become its doc comment; other comments are dropped.
//! A file may hold several documents; those that are not APIs start with
//!
//! - `header NAME VERSIONS`: what stands in front of a request or response;
//! - `key KIND NAME VERSIONS`: the key of a coordinator's record, and the number that tells the kind of record;
//! - `data NAME VERSIONS`: any other structure that stands behind its version, such as the value of a record.

use std::fmt;

/// An inclusive range of versions; empty when `first` is greater than `last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    pub first: i16,
    pub last: i16,
}

impl Versions {
    pub const NONE: Versions = Versions { first: 0, last: -1 };

    pub fn parse(text: &str) -> Option<Versions> {
        if text == "none" {
            return Some(Versions::NONE);
        }
        if let Some(first) = text.strip_suffix('+') {
            return Some(Versions { first: first.parse().ok()?, last: i16::MAX });
        }
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        Some(Versions { first: first.parse().ok()?, last: last.parse().ok()? })
    }

    pub fn is_empty(self) -> bool {
        self.first > self.last
    }

    pub fn contains(self, version: i16) -> bool {
        (self.first..=self.last).contains(&version)
    }

    pub fn intersect(self, other: Versions) -> Versions {
        Versions { first: self.first.max(other.first), last: self.last.min(other.last) }
    }

    /// The smallest range that holds both.
    pub fn hull(self, other: Versions) -> Versions {
        match (self.is_empty(), other.is_empty()) {
            (true, _) => other,
            (_, true) => self,
            _ => Versions { first: self.first.min(other.first), last: self.last.max(other.last) },
        }
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.is_empty(), self.last) {
            (true, _) => f.write_str("none"),
            (_, i16::MAX) => write!(f, "{}+", self.first),
            (_, last) if last == self.first => write!(f, "{last}"),
            (_, last) => write!(f, "{}-{last}", self.first),
        }
    }
}

/// What a field, or an element of an array, holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    Bool,
    Int8,
    Int16,
    Uint16,
    Int32,
    Int64,
    Float64,
    String,
    Uuid,
    Bytes,
    Records,
    Struct(String),
}

/// The type of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Type {
    pub array: bool,
    pub kind: Kind,
}

impl Type {
    pub fn parse(text: &str) -> Option<Type> {
        let (array, name) = match text.strip_prefix("[]") {
            Some(name) => (true, name),
            None => (false, text),
        };
        let kind = match name {
            "bool" => Kind::Bool,
            "int8" => Kind::Int8,
            "int16" => Kind::Int16,
            "uint16" => Kind::Uint16,
            "int32" => Kind::Int32,
            "int64" => Kind::Int64,
            "float64" => Kind::Float64,
            "string" => Kind::String,
            "uuid" => Kind::Uuid,
            "bytes" => Kind::Bytes,
            "records" => Kind::Records,
            name if name.starts_with(|c: char| c.is_ascii_uppercase()) => Kind::Struct(name.to_owned()),
            _ => return None,
        };
        Some(Type { array, kind })
    }

    /// The struct's name, for a struct or an array of it.
    pub fn struct_name(&self) -> Option<&str> {
        match &self.kind {
            Kind::Struct(name) => Some(name),
            _ => None,
        }
    }
}

/// A field's default as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DefaultValue {
    /// Nothing written: zero, false, empty; null for `records`.
    Implied,
    Null,
    Bool(bool),
    Int(i64),
    EmptyString,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    pub name: String,
    pub ty: Type,
    pub versions: Versions,
    pub nullable: Versions,
    pub tag: Option<u32>,
    pub ignorable: bool,
    pub inflexible: bool,
    pub default: DefaultValue,
    pub doc: Vec<String>,
    /// The fields of the struct that this field defines; empty when it defines none.
    pub fields: Vec<Field>,
}

/// A struct that several fields name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedStruct {
    pub name: String,
    pub versions: Versions,
    pub fields: Vec<Field>,
}

/// A request, a response or a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub name: String,
    pub fields: Vec<Field>,
    pub structs: Vec<SharedStruct>,
}

/// What a document describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// With its API key.
    Api(i16),
    Header,
    /// With the kind of record that it is a key of.
    RecordKey(i16),
    Data,
}

/// What the first line of a document and the lines below it say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    pub sort: Sort,
    pub name: String,
    pub versions: Versions,
    pub flexible: Versions,
    pub unstable: Option<i16>,
    /// The request and the response, or the structure itself.
    pub messages: Vec<Message>,
}

impl Document {
    /// The API key, if it is an API.
    pub fn key(&self) -> Option<i16> {
        match self.sort {
            Sort::Api(key) => Some(key),
            _ => None,
        }
    }
}

/// What is wrong in which line (from 1).
#[derive(Debug, PartialEq, Eq)]
pub struct ParseError {
    pub line: usize,
    pub what: String,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

/// One line that says something: number, depth, text, and the comment above it.
struct Line<'a> {
    number: usize,
    depth: usize,
    text: &'a str,
    doc: Vec<&'a str>,
}

impl Line<'_> {
    fn error<T>(&self, what: impl Into<String>) -> Result<T, ParseError> {
        Err(ParseError { line: self.number, what: what.into() })
    }
}

/// Parses a file of the notation.
pub fn parse(text: &str) -> Result<Vec<Document>, ParseError> {
    let lines = split_lines(text)?;
    let mut rest = lines.as_slice();
    let mut documents = Vec::new();
    while !rest.is_empty() {
        documents.push(document(&mut rest)?);
    }
    Ok(documents)
}

fn split_lines(text: &str) -> Result<Vec<Line<'_>>, ParseError> {
    let mut lines = Vec::new();
    let mut doc = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let content = line.trim_start();
        if let Some(comment) = content.strip_prefix('#') {
            doc.push(comment.trim());
            continue;
        }
        let doc = std::mem::take(&mut doc);
        let text = content.split('#').next().unwrap_or_default().trim_end();
        if text.is_empty() {
            continue;
        }
        let indent = line.len() - content.len();
        let line = Line { number, depth: indent / 4, text, doc };
        if !indent.is_multiple_of(4) || content.contains('\t') {
            return line.error("indent with four spaces a level");
        }
        lines.push(line);
    }
    Ok(lines)
}

fn document(rest: &mut &[Line<'_>]) -> Result<Document, ParseError> {
    let (line, below) = rest.split_first().expect("only called with a line left");
    *rest = below;
    let mut parts = line.text.split(',').map(str::trim);
    let head: Vec<&str> = parts.next().unwrap_or_default().split_whitespace().collect();
    let (sort, name, versions) = match head.as_slice() {
        ["api", key, name, versions] => match key.parse() {
            Ok(key) => (Sort::Api(key), name, versions),
            Err(_) => return line.error("an API key is a number"),
        },
        ["key", kind, name, versions] => match kind.parse() {
            Ok(kind) => (Sort::RecordKey(kind), name, versions),
            Err(_) => return line.error("the kind of a record is a number"),
        },
        ["header", name, versions] => (Sort::Header, name, versions),
        ["data", name, versions] => (Sort::Data, name, versions),
        _ => return line.error("expected `api KEY NAME VERSIONS`, or `key`, `header` or `data`"),
    };
    let Some(versions) = Versions::parse(versions) else { return line.error("versions look like 0-3") };
    let mut flexible = Versions::NONE;
    let mut unstable = None;
    for part in parts {
        match part.split_once(' ') {
            Some(("flexible", text)) if Versions::parse(text).is_some() => {
                flexible = Versions::parse(text).expect("just parsed");
            }
            Some(("unstable", text)) if text.parse::<i16>().is_ok() => unstable = text.parse().ok(),
            _ => return line.error(format!("unknown word `{part}`")),
        }
    }
    let mut messages = Vec::new();
    if matches!(sort, Sort::Api(_)) {
        for (word, suffix) in [("request", "Request"), ("response", "Response")] {
            match rest.split_first() {
                Some((line, below)) if line.depth == 0 && line.text == word => *rest = below,
                Some((line, _)) => return line.error(format!("expected `{word}`")),
                None => return line.error(format!("`{name}` has no `{word}`")),
            }
            messages.push(message(rest, format!("{name}{suffix}"))?);
        }
    } else {
        messages.push(message(rest, (*name).to_owned())?);
    }
    Ok(Document { sort, name: (*name).to_owned(), versions, flexible, unstable, messages })
}

fn message(rest: &mut &[Line<'_>], name: String) -> Result<Message, ParseError> {
    let mut message = Message { name, fields: fields(rest, 1)?, structs: Vec::new() };
    while let Some((line, below)) = rest.split_first().filter(|(line, _)| line.depth == 1) {
        let Some((name, versions)) = line.text.strip_prefix("struct ").and_then(|text| text.split_once(' ')) else {
            return line.error("fields come before shared structs");
        };
        let Some(versions) = Versions::parse(versions) else { return line.error("versions look like 0-3") };
        *rest = below;
        message.structs.push(SharedStruct { name: name.to_owned(), versions, fields: fields(rest, 2)? });
    }
    Ok(message)
}

fn fields(rest: &mut &[Line<'_>], depth: usize) -> Result<Vec<Field>, ParseError> {
    let mut fields = Vec::new();
    while let Some((line, below)) = rest.split_first().filter(|(line, _)| line.depth >= depth) {
        if line.depth > depth {
            return line.error("too deep: only a field with a struct type has fields below it");
        }
        if line.text.starts_with("struct ") {
            break;
        }
        *rest = below;
        let mut parsed = field(line)?;
        if parsed.ty.struct_name().is_some() {
            parsed.fields = self::fields(rest, depth + 1)?;
        }
        fields.push(parsed);
    }
    Ok(fields)
}

/// The text up to the first space, and what follows the spaces.
fn first_word(text: &str) -> (&str, &str) {
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    (word, rest.trim_start())
}

fn field(line: &Line<'_>) -> Result<Field, ParseError> {
    let (name, rest) = first_word(line.text);
    let (ty, rest) = first_word(rest);
    let (versions, words) = first_word(rest);
    let Some(ty) = Type::parse(ty) else { return line.error(format!("unknown type `{ty}`")) };
    let Some(versions) = Versions::parse(versions) else {
        return line.error(format!("expected versions, found `{versions}`"));
    };
    let mut field = Field {
        name: name.to_owned(),
        ty,
        versions,
        nullable: Versions::NONE,
        tag: None,
        ignorable: false,
        inflexible: false,
        default: DefaultValue::Implied,
        doc: line.doc.iter().map(|&doc| doc.to_owned()).collect(),
        fields: Vec::new(),
    };
    for word in words.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        let (first, second) = first_word(word);
        match first {
            "null" => match Versions::parse(second) {
                Some(versions) => field.nullable = versions,
                None => return line.error("`null` needs versions"),
            },
            "tag" => match second.parse() {
                Ok(tag) => field.tag = Some(tag),
                Err(_) => return line.error("`tag` needs a number"),
            },
            "ignorable" => field.ignorable = true,
            "inflexible" => field.inflexible = true,
            "=" => match default_value(second) {
                Some(value) => field.default = value,
                None => return line.error(format!("unknown default `{second}`")),
            },
            _ => return line.error(format!("unknown word `{word}`")),
        }
    }
    Ok(field)
}

/// A default as the notation and Kafka's specifications write it.
pub fn default_value(text: &str) -> Option<DefaultValue> {
    Some(match text {
        "null" => DefaultValue::Null,
        "true" => DefaultValue::Bool(true),
        "false" => DefaultValue::Bool(false),
        "\"\"" => DefaultValue::EmptyString,
        _ => DefaultValue::Int(match text.strip_prefix("0x") {
            Some(hex) => i64::from_str_radix(hex, 16).ok()?,
            None => text.parse().ok()?,
        }),
    })
}
