//! From a parsed document to the structs that Rust gets: which there are, under which names, in which versions.

use std::collections::BTreeMap;

use crate::notation::{DefaultValue, Document, Field, Kind, Message, Versions};

/// One Rust struct to generate.
#[derive(Debug)]
pub struct Struct {
    /// The name in Rust.
    pub name: String,
    /// The versions in which it can occur; what lies outside is never asked.
    pub versions: Versions,
    /// The fields that exist in at least one of these versions.
    pub fields: Vec<Member>,
    /// The messages' own structs, as opposed to those nested in them.
    pub is_message: bool,
}

/// One field of a struct to generate.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    pub field: Field,
    /// The Rust name of the struct that it holds.
    pub struct_name: Option<String>,
    /// The versions that have it, within the struct's.
    pub versions: Versions,
    /// The versions in which it may be null, within the above.
    pub nullable: Versions,
}

impl Member {
    /// Whether Rust wraps it in an `Option`.
    pub fn is_option(&self) -> bool {
        !self.nullable.is_empty()
    }
}

/// A struct definition as found in one message, before names are settled.
struct Definition<'a> {
    fields: &'a [Field],
    versions: Versions,
}

type Definitions<'a> = BTreeMap<&'a str, Definition<'a>>;

/// The structs of a document, messages first. A nested struct that request and response define alike becomes one; when
/// they define it differently, its name is put behind `Request` or `Response`.
pub fn structs(document: &Document) -> Vec<Struct> {
    let found: Vec<Definitions<'_>> =
        document.messages.iter().map(|message| definitions(message, document.versions)).collect();
    let differ = |name: &str| {
        let mut all = found.iter().filter_map(|definitions| definitions.get(name));
        let first = all.next().map(|definition| definition.fields);
        all.any(|other| Some(other.fields) != first)
    };
    let mut structs: Vec<Struct> = Vec::new();
    for (message, definitions) in document.messages.iter().zip(&found) {
        let prefix = message.name.strip_prefix(document.name.as_str()).unwrap_or_default();
        let rust_name = |name: &str| if differ(name) { format!("{prefix}{name}") } else { name.to_owned() };
        structs.push(Struct {
            name: message.name.clone(),
            versions: document.versions,
            fields: members(&message.fields, document.versions, &rust_name),
            is_message: true,
        });
        for (name, definition) in definitions {
            let name = rust_name(name);
            let versions = found
                .iter()
                .filter_map(|definitions| definitions.get(name.as_str()))
                .fold(definition.versions, |all, other| all.hull(other.versions));
            if structs.iter().all(|known| known.name != name) {
                let fields = members(definition.fields, versions, &rust_name);
                structs.push(Struct { name, versions, fields, is_message: false });
            }
        }
    }
    structs
}

fn members(fields: &[Field], within: Versions, rust_name: &dyn Fn(&str) -> String) -> Vec<Member> {
    fields
        .iter()
        .map(|field| {
            let versions = field.versions.intersect(within);
            Member {
                struct_name: field.ty.struct_name().map(rust_name),
                versions,
                nullable: field.nullable.intersect(versions),
                field: field.clone(),
            }
        })
        .filter(|member| !member.versions.is_empty())
        .collect()
}

fn definitions(message: &Message, versions: Versions) -> Definitions<'_> {
    let mut found = Definitions::new();
    collect(&message.fields, versions, message, &mut found);
    found
}

fn collect<'a>(fields: &'a [Field], within: Versions, message: &'a Message, found: &mut Definitions<'a>) {
    for field in fields {
        let Some(name) = field.ty.struct_name() else { continue };
        let versions = field.versions.intersect(within);
        if versions.is_empty() {
            continue;
        }
        let (fields, versions) = if field.fields.is_empty() {
            let shared = message.structs.iter().find(|shared| shared.name == name);
            let shared = shared.unwrap_or_else(|| panic!("{}: no struct `{name}`", message.name));
            (shared.fields.as_slice(), shared.versions.intersect(versions))
        } else {
            (field.fields.as_slice(), versions)
        };
        let definition = found.entry(name).or_insert(Definition { fields, versions });
        assert!(definition.fields == fields, "{}: `{name}` is defined twice", message.name);
        definition.versions = definition.versions.hull(versions);
        collect(fields, versions, message, found);
    }
}

/// The fewest bytes that a struct takes in a version.
pub fn min_struct_bytes(structs: &[Struct], name: &str, version: i16, flexible: bool) -> usize {
    let found = structs.iter().find(|one| one.name == name).expect("every named struct is in the list");
    let fields = found.fields.iter().filter(|member| member.versions.contains(version) && member.field.tag.is_none());
    fields.map(|member| min_bytes(structs, member, version, flexible)).sum::<usize>() + usize::from(flexible)
}

fn min_bytes(structs: &[Struct], member: &Member, version: i16, flexible: bool) -> usize {
    let by_length = |fixed: usize| if flexible { 1 } else { fixed };
    if member.field.ty.array {
        return by_length(4);
    }
    match &member.field.ty.kind {
        Kind::Bool | Kind::Int8 => 1,
        Kind::Int16 | Kind::Uint16 => 2,
        Kind::Int32 => 4,
        Kind::Int64 | Kind::Float64 => 8,
        Kind::Uuid => 16,
        Kind::String if member.field.inflexible => 2,
        Kind::String => by_length(2),
        Kind::Bytes | Kind::Records => by_length(4),
        Kind::Struct(_) if member.nullable.contains(version) => 1,
        Kind::Struct(_) => {
            let name = member.struct_name.as_deref().expect("a struct field has a struct name");
            min_struct_bytes(structs, name, version, flexible)
        }
    }
}

/// Whether the field's default is not what `Default::default()` of its Rust type gives.
pub fn has_special_default(member: &Member) -> bool {
    let field = &member.field;
    match &field.default {
        DefaultValue::Implied if field.ty.kind == Kind::Records => false,
        DefaultValue::Implied | DefaultValue::EmptyString => member.is_option(),
        DefaultValue::Null => false,
        DefaultValue::Bool(value) => *value,
        DefaultValue::Int(value) => *value != 0,
    }
}
