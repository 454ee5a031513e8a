//! Writes what the tests of the generated code include from `OUT_DIR`: random values of every struct that fit a
//! version, a list of all messages, and what an element of each array costs in memory and on the wire.

use std::fmt::Write;

use crate::layout::{self, Member, Struct};
use crate::names::{identifier, snake_case};
use crate::notation::{Document, Kind, Versions};

pub fn generate(documents: &[Document]) -> String {
    let mut out = String::new();
    let mut messages = String::new();
    let mut costs = String::new();
    for document in documents.iter().filter(|document| document.key().is_some()) {
        let module = snake_case(&document.name);
        let structs = layout::structs(document);
        for one in &structs {
            arbitrary(&mut out, &module, one);
            for version in one.versions.first..=one.versions.last {
                let flexible = document.flexible.contains(version);
                let bytes = layout::min_struct_bytes(&structs, &one.name, version, flexible);
                writeln!(
                    costs,
                    "(\"{0}\", {version}, size_of::<millpond_wire::{module}::{0}>(), {bytes}, {1}),",
                    one.name, one.is_message
                )
                .unwrap();
            }
        }
        for message in &document.messages {
            writeln!(messages, "$visit!({module}, {});", message.name).unwrap();
        }
    }
    writeln!(out, "macro_rules! for_each_message {{ ($visit:ident) => {{ {messages} }} }}").unwrap();
    writeln!(
        out,
        "/// Struct, version, bytes in memory, fewest bytes on the wire, whether it is a message.\n\
         #[allow(dead_code)]\npub fn struct_costs() -> Vec<(&'static str, i16, usize, usize, bool)> {{\n\
         vec![\n{costs}]\n}}"
    )
    .unwrap();
    out
}

fn arbitrary(out: &mut String, module: &str, one: &Struct) {
    writeln!(
        out,
        "#[allow(unused, clippy::field_reassign_with_default)]\nimpl Arbitrary for millpond_wire::{module}::{0} {{\n\
         fn arbitrary(r: &mut Random, v: i16) \
         -> Self {{\nlet mut x = Self::default();",
        one.name
    )
    .unwrap();
    for member in &one.fields {
        let assign = format!("x.{} = {};", identifier(&member.field.name), value(member));
        let mut conditions: Vec<String> = within(member.versions, one.versions).into_iter().collect();
        // A tagged field is there or not; only in half of the values it is.
        if member.field.tag.is_some() {
            conditions.push("r.chance(2)".to_owned());
        }
        if conditions.is_empty() {
            writeln!(out, "{assign}").unwrap();
        } else {
            writeln!(out, "if {} {{ {assign} }}", conditions.join(" && ")).unwrap();
        }
    }
    out.push_str("x } }\n");
}

/// The condition for a version to lie in a range; none when that is the whole.
fn within(versions: Versions, whole: Versions) -> Option<String> {
    (versions != whole).then(|| format!("({}..={}).contains(&v)", versions.first, versions.last))
}

fn value(member: &Member) -> String {
    let one = match &member.field.ty.kind {
        Kind::Struct(_) => "Arbitrary::arbitrary(r, v)".to_owned(),
        Kind::Records => "r.bytes(2_000).into()".to_owned(),
        Kind::Bytes => "r.bytes(700)".to_owned(),
        Kind::Bool => "r.chance(2)".to_owned(),
        Kind::Int8 => "r.next() as i8".to_owned(),
        Kind::Int16 => "r.next() as i16".to_owned(),
        Kind::Uint16 => "r.next() as u16".to_owned(),
        Kind::Int32 => "r.next() as i32".to_owned(),
        Kind::Int64 => "r.next() as i64".to_owned(),
        Kind::Float64 => "(r.next() as i32) as f64 / 8.0".to_owned(),
        Kind::String => "r.text()".to_owned(),
        Kind::Uuid => "r.uuid()".to_owned(),
    };
    let one = if member.field.ty.array { format!("(0..r.below(4)).map(|_| {one}).collect()") } else { one };
    if !member.is_option() {
        return one;
    }
    let allowed = within(member.nullable, member.versions).map(|range| format!("{range} && ")).unwrap_or_default();
    format!("if {allowed}r.chance(4) {{ None }} else {{ Some({one}) }}")
}
