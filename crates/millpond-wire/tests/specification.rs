//! Holds the notation in `messages/` to Kafka 4.2.1's own specifications, field by field.

#[allow(dead_code)]
#[path = "../generate/notation.rs"]
mod notation;

mod kafka_spec;

use std::path::PathBuf;

use kafka_spec::text_of;
use notation::{DefaultValue, Document, Field, Message, SharedStruct, Sort, Type, Versions};
use serde_json::Value;

fn ours() -> Vec<Document> {
    let parse = |path: &PathBuf| {
        notation::parse(&kafka_spec::read(path)).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    kafka_spec::files("messages", "msg").iter().flat_map(parse).collect()
}

fn versions_of(value: &Value, key: &str) -> Versions {
    value[key].as_str().map_or(Versions::NONE, |text| Versions::parse(text).expect("versions"))
}

/// A field as Kafka specifies it, in our terms.
fn field(spec: &Value) -> Field {
    let versions = versions_of(spec, if spec["versions"].is_string() { "versions" } else { "taggedVersions" });
    let tag = spec["tag"].as_u64().map(|tag| tag as u32);
    assert_eq!(tag.is_some(), spec["taggedVersions"].is_string(), "{spec}");
    if tag.is_some() {
        assert_eq!(
            versions_of(spec, "taggedVersions"),
            versions,
            "the notation tags a field in all its versions: {spec}"
        );
    }
    let inflexible = match spec["flexibleVersions"].as_str() {
        None => false,
        Some("none") => true,
        Some(other) => panic!("the notation cannot say flexibleVersions {other}: {spec}"),
    };
    let known = [
        "name",
        "type",
        "versions",
        "nullableVersions",
        "tag",
        "taggedVersions",
        "ignorable",
        "flexibleVersions",
        "default",
        "fields",
        "about",
        "entityType",
        "mapKey",
        // How Kafka's reader lends bytes; ours always does.
        "zeroCopy",
    ];
    for key in spec.as_object().expect("a field is an object").keys() {
        assert!(known.contains(&key.as_str()), "the notation does not say {key}: {spec}");
    }
    Field {
        name: text_of(spec, "name").to_owned(),
        ty: Type::parse(text_of(spec, "type")).expect("a type that the notation has"),
        versions,
        nullable: versions_of(spec, "nullableVersions"),
        tag,
        // One field has the text "true", which Kafka's generator reads as true.
        ignorable: spec["ignorable"] == true || spec["ignorable"] == "true",
        inflexible,
        default: spec.get("default").map_or(DefaultValue::Implied, default_of),
        doc: Vec::new(),
        fields: fields(&spec["fields"]),
    }
}

fn default_of(value: &Value) -> DefaultValue {
    match value {
        Value::Null => DefaultValue::Null,
        Value::Bool(value) => DefaultValue::Bool(*value),
        Value::Number(number) => DefaultValue::Int(number.as_i64().expect("an integer")),
        Value::String(text) if text.is_empty() => DefaultValue::EmptyString,
        Value::String(text) => notation::default_value(text).expect("a default that the notation has"),
        other => panic!("a default is not {other}"),
    }
}

fn fields(list: &Value) -> Vec<Field> {
    list.as_array().map(|list| list.iter().map(field).collect()).unwrap_or_default()
}

fn message(spec: &Value) -> Message {
    let shared = |one: &Value| SharedStruct {
        name: text_of(one, "name").to_owned(),
        versions: versions_of(one, "versions"),
        fields: fields(&one["fields"]),
    };
    Message {
        name: text_of(spec, "name").to_owned(),
        fields: fields(&spec["fields"]),
        structs: spec["commonStructs"].as_array().map(|list| list.iter().map(shared).collect()).unwrap_or_default(),
    }
}

fn without_docs(fields: &mut [Field]) {
    for field in fields {
        field.doc.clear();
        without_docs(&mut field.fields);
    }
}

/// Keys and values of records, and what consumers put into the opaque bytes of classic groups.
const RECORDS_AND_DATA: usize = 10 * 2 + 2;

#[test]
fn every_field_is_as_kafka_specifies_it() {
    let mut theirs = kafka_spec::load();
    let mut count = 0;
    for document in ours() {
        for mut ours in document.messages {
            let spec = theirs.remove(&ours.name).unwrap_or_else(|| panic!("Kafka has no {}", ours.name));
            without_docs(&mut ours.fields);
            ours.structs.iter_mut().for_each(|shared| without_docs(&mut shared.fields));
            let number = match document.sort {
                Sort::Api(key) | Sort::RecordKey(key) => Some(i64::from(key)),
                Sort::Header | Sort::Data => None,
            };
            // Kafka gives the kind of a record to its value, too; ours stands at the key.
            if spec["type"] != "coordinator-value" {
                assert_eq!(spec["apiKey"].as_i64(), number, "{}", ours.name);
            }
            assert_eq!(versions_of(&spec, "validVersions"), document.versions, "{}", ours.name);
            assert_eq!(versions_of(&spec, "flexibleVersions"), document.flexible, "{}", ours.name);
            if spec["type"] == "request" {
                let unstable = spec["latestVersionUnstable"].as_bool() == Some(true);
                assert_eq!(document.unstable, unstable.then_some(document.versions.last), "{}", ours.name);
            }
            assert_eq!(ours, message(&spec), "{}", ours.name);
            count += 1;
        }
    }
    assert!(theirs.is_empty(), "not in the notation: {:?}", theirs.keys());
    assert_eq!(count, 2 * 66 + 2 + RECORDS_AND_DATA);
}

#[test]
fn the_notation_covers_every_api_that_is_served() {
    let mut keys: Vec<i16> = ours().iter().filter_map(Document::key).collect();
    keys.sort_unstable();
    let expected: Vec<i16> =
        (0..=3).chain(8..=51).chain([55, 57, 60, 61, 64, 65, 66, 68, 69]).chain(74..=79).chain(90..=92).collect();
    assert_eq!(keys, expected);
}

#[test]
fn a_mistake_in_the_notation_is_told_with_its_line() {
    let cases = [
        ("api X Produce 0-3", 1, "an API key is a number"),
        ("key X OffsetCommitKey 0", 1, "the kind of a record is a number"),
        ("value OffsetCommitValue 0", 1, "expected `api KEY NAME VERSIONS`, or `key`, `header` or `data`"),
        ("api 0 Produce 0-x", 1, "versions look like 0-3"),
        ("api 0 Produce 0-3\nresponse", 2, "expected `request`"),
        ("api 0 Produce 0-3\nrequest\n    A int33 0+\nresponse", 3, "unknown type `int33`"),
        ("api 0 Produce 0-3\nrequest\n    A int32\nresponse", 3, "expected versions, found ``"),
        ("api 0 Produce 0-3\nrequest\n    A int32 0+ nulls 0+\nresponse", 3, "unknown word `nulls 0+`"),
        ("api 0 Produce 0-3\nrequest\n   A int32 0+\nresponse", 3, "indent with four spaces a level"),
        (
            "api 0 Produce 0-3\nrequest\n    A int32 0+\n        B int32 0+\nresponse",
            4,
            "too deep: only a field with a struct type has fields below it",
        ),
        (
            "api 0 Produce 0-3\nrequest\n    struct S 0+\n        B int32 0+\n    A S 0+\nresponse",
            5,
            "fields come before shared structs",
        ),
        ("api 0 Produce 0-3\n\nrequest\n", 1, "`Produce` has no `response`"),
    ];
    for (text, line, what) in cases {
        let error = notation::parse(text).expect_err(text);
        assert_eq!((error.line, error.what.as_str()), (line, what), "{text}");
    }
}
