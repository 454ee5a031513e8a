//! Reads what we write by Kafka's own specifications, with a reader that shares no code with the generator: every
//! message in every version, those included that no other implementation at hand knows.

mod kafka_spec;
mod samples;

use kafka_spec::text_of;
use millpond_wire::{Decoder, Encoder, Message};
use samples::{Arbitrary, Random, for_each_message};
use serde_json::Value;

/// Walks over an encoded message as its specification says, and fails where the two disagree.
struct Walk<'a> {
    spec: &'a Value,
    bytes: &'a [u8],
    version: i64,
    flexible: bool,
}

/// Whether a version lies in a range as the specifications write it.
fn covers(range: &Value, version: i64) -> bool {
    let Some(range) = range.as_str().filter(|range| *range != "none") else { return false };
    let (first, last) = match (range.strip_suffix('+'), range.split_once('-')) {
        (Some(first), _) => (first, "999"),
        (_, Some(range)) => range,
        _ => (range, range),
    };
    (first.parse().expect("a version")..=last.parse().expect("a version")).contains(&version)
}

impl<'a> Walk<'a> {
    fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.bytes.split_at(length);
        self.bytes = rest;
        taken
    }

    fn varint(&mut self) -> usize {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let byte = self.take(1)[0];
            value |= usize::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        value
    }

    /// A length, or none for null.
    fn length(&mut self, short: bool) -> Option<usize> {
        let length = match (self.flexible, short) {
            (true, _) => self.varint() as i64 - 1,
            (false, true) => i64::from(i16::from_be_bytes(self.take(2).try_into().expect("two bytes"))),
            (false, false) => i64::from(i32::from_be_bytes(self.take(4).try_into().expect("four bytes"))),
        };
        assert!(length >= -1, "a length is {length}");
        usize::try_from(length).ok()
    }

    fn fields(&mut self, fields: &Value) {
        let fields = fields.as_array().expect("a list of fields");
        let version = self.version;
        for field in fields.iter().filter(|field| field["tag"].is_null() && covers(&field["versions"], version)) {
            self.value(field, text_of(field, "type"));
        }
        if !self.flexible {
            return;
        }
        let mut previous = None;
        for _ in 0..self.varint() {
            let tag = self.varint() as u64;
            assert!(previous < Some(tag), "tag {tag} follows {previous:?}");
            previous = Some(tag);
            let length = self.varint();
            let left = self.bytes.len();
            let field = fields
                .iter()
                .find(|field| field["tag"].as_u64() == Some(tag) && covers(&field["taggedVersions"], version))
                .unwrap_or_else(|| panic!("no tag {tag} in version {version}"));
            self.value(field, text_of(field, "type"));
            assert_eq!(left - self.bytes.len(), length, "the length of tag {tag}");
        }
    }

    fn value(&mut self, field: &Value, ty: &str) {
        let allowed = covers(&field["nullableVersions"], self.version);
        let present = |length: Option<usize>, allowed: bool| {
            assert!(length.is_some() || allowed, "{} is null", field["name"]);
            length.unwrap_or(0)
        };
        if let Some(element) = ty.strip_prefix("[]") {
            let inner = serde_json::json!({ "name": field["name"], "fields": field["fields"] });
            for _ in 0..present(self.length(false), allowed) {
                self.value(&inner, element);
            }
            return;
        }
        match ty {
            "bool" | "int8" => drop(self.take(1)),
            "int16" | "uint16" => drop(self.take(2)),
            "int32" => drop(self.take(4)),
            "int64" | "float64" => drop(self.take(8)),
            "uuid" => drop(self.take(16)),
            "string" => {
                let length = present(self.length(true), allowed);
                std::str::from_utf8(self.take(length)).expect("UTF-8");
            }
            "bytes" | "records" => {
                let length = present(self.length(false), allowed);
                self.take(length);
            }
            name => {
                if allowed && self.take(1)[0] as i8 == -1 {
                    return;
                }
                if field["fields"].is_array() {
                    return self.fields(&field["fields"]);
                }
                let shared = self.spec["commonStructs"].as_array().expect("shared structs");
                let shared = shared.iter().find(|shared| shared["name"] == name).expect("the struct is defined");
                self.fields(&shared["fields"]);
            }
        }
    }
}

fn check<M: Message + Arbitrary + PartialEq + std::fmt::Debug>(spec: &Value) {
    for version in M::MIN..=M::MAX {
        for seed in 0..20 {
            let value = M::arbitrary(&mut Random(seed << 20 | version as u64), version);
            let mut encoder = Encoder::new();
            value.encode(&mut encoder, version).expect("a value made for this version");
            let bytes = encoder.finish().to_bytes();
            let flexible = covers(&spec["flexibleVersions"], version.into());
            let mut walk = Walk { spec, bytes: &bytes, version: version.into(), flexible };
            walk.fields(&spec["fields"]);
            assert!(walk.bytes.is_empty(), "{} {version}: {} bytes are left", M::NAME, walk.bytes.len());
            assert_eq!(M::decode(&mut Decoder::new(bytes), version).as_ref(), Ok(&value));
        }
    }
}

#[test]
fn kafkas_own_specifications_read_every_message_that_we_write() {
    let specs = kafka_spec::load();
    macro_rules! visit {
        ($module:ident, $message:ident) => {
            check::<millpond_wire::$module::$message>(&specs[stringify!($message)]);
        };
    }
    for_each_message!(visit);
}
