//! Writes the Rust of the messages: plain structs, how they are read and written, and the tables over all APIs.

use std::fmt::Write;

use crate::layout::{self, Member, Struct};
use crate::names::{constant, identifier, snake_case};
use crate::notation::{DefaultValue, Document, Kind, Sort, Versions};

/// A decoded value starts as its default, because which fields follow depends on the version.
const ALLOW: &str = "#[allow(clippy::field_reassign_with_default)]";

/// The generated file for all documents.
pub fn generate(documents: &[Document]) -> String {
    let mut out = String::new();
    for document in documents {
        let structs = layout::structs(document);
        let (name, versions) = (&document.name, document.versions);
        match document.sort {
            Sort::Api(key) => writeln!(out, "/// {name} (API key {key}), versions {versions}.").unwrap(),
            Sort::RecordKey(kind) => writeln!(out, "/// {name}: the key of records of kind {kind}.").unwrap(),
            Sort::Data => writeln!(out, "/// {name}, versions {versions}.").unwrap(),
            Sort::Header => {}
        }
        let visibility = if document.sort == Sort::Header { "pub(crate)" } else { "pub" };
        writeln!(out, "{ALLOW}\n{visibility} mod {} {{", snake_case(name)).unwrap();
        out.push_str("use crate::codec::*;\n");
        for one in &structs {
            definition(&mut out, document, one);
            default_impl(&mut out, one);
            element_impl(&mut out, document, &structs, one);
        }
        match document.sort {
            Sort::Api(_) => message_impls(&mut out, document),
            Sort::RecordKey(kind) => data_impl(&mut out, document, Some(kind)),
            Sort::Data => data_impl(&mut out, document, None),
            Sort::Header => {}
        }
        out.push_str("}\n");
    }
    tables(&mut out, documents);
    out
}

fn definition(out: &mut String, document: &Document, one: &Struct) {
    if one.is_message {
        writeln!(out, "/// {}, versions {}.", one.name, document.versions).unwrap();
    } else {
        writeln!(out, "/// Part of {}, versions {}.", document.name, one.versions).unwrap();
    }
    let default = if one.fields.iter().any(layout::has_special_default) { "" } else { ", Default" };
    writeln!(out, "#[derive(Clone, Debug, PartialEq{default})]\npub struct {} {{", one.name).unwrap();
    for member in &one.fields {
        for doc in &member.field.doc {
            writeln!(out, "/// {doc}").unwrap();
        }
        let mut facts = Vec::new();
        if member.versions != one.versions {
            facts.push(format!("In versions {}.", within(member.versions, one.versions)));
        }
        if member.is_option() && member.nullable != member.versions {
            facts.push(format!("Null only in versions {}.", within(member.nullable, one.versions)));
        }
        if !facts.is_empty() {
            if !member.field.doc.is_empty() {
                out.push_str("///\n");
            }
            writeln!(out, "/// {}", facts.join(" ")).unwrap();
        }
        writeln!(out, "pub {}: {},", identifier(&member.field.name), rust_type(member)).unwrap();
    }
    out.push_str("}\n");
}

/// A range as a reader of the struct's versions puts it.
fn within(versions: Versions, whole: Versions) -> Versions {
    if versions.last == whole.last { Versions { last: i16::MAX, ..versions } } else { versions }
}

fn rust_type(member: &Member) -> String {
    let mut name = match &member.field.ty.kind {
        Kind::Bool => "bool",
        Kind::Int8 => "i8",
        Kind::Int16 => "i16",
        Kind::Uint16 => "u16",
        Kind::Int32 => "i32",
        Kind::Int64 => "i64",
        Kind::Float64 => "f64",
        Kind::String => "Str",
        Kind::Uuid => "[u8; 16]",
        Kind::Bytes => "Bytes",
        Kind::Records => "Records",
        Kind::Struct(_) => member.struct_name.as_deref().expect("a struct field has a struct name"),
    }
    .to_owned();
    if member.field.ty.array {
        name = format!("Vec<{name}>");
    }
    if member.is_option() {
        name = format!("Option<{name}>");
    }
    name
}

fn default_impl(out: &mut String, one: &Struct) {
    if !one.fields.iter().any(layout::has_special_default) {
        return;
    }
    writeln!(out, "impl Default for {0} {{ fn default() -> Self {{ {0} {{", one.name).unwrap();
    for member in &one.fields {
        let value = match &member.field.default {
            DefaultValue::Int(value) => value.to_string(),
            DefaultValue::Bool(value) => value.to_string(),
            _ if layout::has_special_default(member) => "Some(Default::default())".to_owned(),
            _ => "Default::default()".to_owned(),
        };
        writeln!(out, "{}: {value},", identifier(&member.field.name)).unwrap();
    }
    out.push_str("} } }\n");
}

/// An expression over `v`, the version, that is true inside `versions`; none when that is everywhere in `whole`.
fn condition(versions: Versions, whole: Versions) -> Option<String> {
    match (versions.first > whole.first, versions.last < whole.last) {
        (false, false) => None,
        (true, false) => Some(format!("v >= {}", versions.first)),
        (false, true) => Some(format!("v <= {}", versions.last)),
        (true, true) if versions.first == versions.last => Some(format!("v == {}", versions.first)),
        (true, true) => Some(format!("({}..={}).contains(&v)", versions.first, versions.last)),
    }
}

/// The expression that tells whether null is allowed where the field is present.
fn null_allowed(member: &Member) -> String {
    condition(member.nullable, member.versions).unwrap_or_else(|| "true".to_owned())
}

/// The part of the codec methods' names that tells the type.
fn method(member: &Member) -> String {
    let base = match &member.field.ty.kind {
        _ if member.field.ty.array => "array",
        Kind::Bool => "bool",
        Kind::Int8 => "int8",
        Kind::Int16 => "int16",
        Kind::Uint16 => "uint16",
        Kind::Int32 => "int32",
        Kind::Int64 => "int64",
        Kind::Float64 => "float64",
        Kind::String if member.field.inflexible => "inflexible_string",
        Kind::String => "string",
        Kind::Uuid => "uuid",
        Kind::Bytes => "bytes",
        Kind::Records => "records",
        Kind::Struct(_) => "structure",
    };
    if member.is_option() { format!("nullable_{base}") } else { base.to_owned() }
}

fn takes_version(member: &Member) -> bool {
    member.field.ty.array || matches!(member.field.ty.kind, Kind::Struct(_))
}

fn read_call(member: &Member) -> String {
    let mut arguments = Vec::new();
    if takes_version(member) {
        arguments.push("v".to_owned());
    }
    if member.is_option() {
        arguments.push(null_allowed(member));
    }
    format!("d.{}({})?", method(member), arguments.join(", "))
}

fn write_call(one: &Struct, member: &Member) -> String {
    let name = identifier(&member.field.name);
    let by_value = !member.field.ty.array
        && matches!(
            member.field.ty.kind,
            Kind::Bool | Kind::Int8 | Kind::Int16 | Kind::Uint16 | Kind::Int32 | Kind::Int64 | Kind::Float64
        );
    if by_value {
        return format!("e.{}(self.{name})", method(member));
    }
    if !member.field.ty.array && member.field.ty.kind == Kind::Uuid {
        return format!("e.uuid(&self.{name})");
    }
    let mut arguments = vec![format!("&self.{name}")];
    if takes_version(member) {
        arguments.push("v".to_owned());
    }
    if member.is_option() {
        arguments.push(null_allowed(member));
    }
    arguments.push(format!("\"{}.{}\"", one.name, member.field.name));
    format!("e.{}({})?", method(member), arguments.join(", "))
}

/// An expression that is true when the field holds something else than its default.
fn is_set(member: &Member) -> String {
    let name = format!("self.{}", identifier(&member.field.name));
    let field = &member.field;
    let sized = field.ty.array || matches!(field.ty.kind, Kind::String | Kind::Bytes | Kind::Records);
    match &field.default {
        DefaultValue::Int(value) => format!("{name} != {value}"),
        DefaultValue::Bool(true) => format!("!{name}"),
        DefaultValue::Null => format!("{name}.is_some()"),
        _ if layout::has_special_default(member) && sized => {
            format!("{name}.as_ref().is_none_or(|x| !x.is_empty())")
        }
        _ if layout::has_special_default(member) => format!("{name} != Some(Default::default())"),
        _ if member.is_option() => format!("{name}.is_some()"),
        _ if sized => format!("!{name}.is_empty()"),
        _ if field.ty.kind == Kind::Bool => name,
        _ if field.ty.kind == Kind::Uuid => format!("{name} != [0; 16]"),
        _ => format!("{name} != Default::default()"),
    }
}

fn element_impl(out: &mut String, document: &Document, structs: &[Struct], one: &Struct) {
    let flexible = !document.flexible.intersect(one.versions).is_empty();
    let uses_version = |member: &Member| {
        takes_version(member)
            || condition(member.versions, one.versions).is_some()
            || member.is_option() && condition(member.nullable, member.versions).is_some()
    };
    let v = if one.fields.iter().any(uses_version) { "v" } else { "_" };
    writeln!(out, "impl Element for {} {{", one.name).unwrap();
    min_bytes_fn(out, document, structs, one);

    let d = if one.fields.is_empty() && !flexible { "_" } else { "d" };
    writeln!(out, "fn read({d}: &mut Decoder, {v}: i16) -> Result<Self, DecodeError> {{").unwrap();
    let mutable = if d == "_" { "" } else { "mut " };
    writeln!(out, "let {mutable}x = Self::default();").unwrap();
    for member in one.fields.iter().filter(|member| member.field.tag.is_none()) {
        let assign = format!("x.{} = {};", identifier(&member.field.name), read_call(member));
        match condition(member.versions, one.versions) {
            Some(condition) => writeln!(out, "if {condition} {{ {assign} }}").unwrap(),
            None => writeln!(out, "{assign}").unwrap(),
        }
    }
    read_tags(out, one, flexible);
    out.push_str("Ok(x)\n}\n");

    let e = if one.fields.is_empty() && !flexible { "_" } else { "e" };
    writeln!(out, "fn write(&self, {e}: &mut Encoder, {v}: i16) -> Result<(), EncodeError> {{").unwrap();
    for member in one.fields.iter().filter(|member| member.field.tag.is_none()) {
        let call = write_call(one, member);
        match condition(member.versions, one.versions) {
            Some(condition) => writeln!(out, "if {condition} {{ {call}; }}{}", refuse(one, member)).unwrap(),
            None => writeln!(out, "{call};").unwrap(),
        }
    }
    write_tags(out, one, flexible);
    out.push_str("Ok(())\n}\n}\n");
}

/// The `else` branch for a version that has no place for the field.
fn refuse(one: &Struct, member: &Member) -> String {
    if member.field.ignorable {
        return String::new();
    }
    format!(" else if {} {{ {} }}", is_set(member), refusal(one, member))
}

fn refusal(one: &Struct, member: &Member) -> String {
    format!("return Err(no_place(\"{}.{}\", v));", one.name, member.field.name)
}

fn read_tags(out: &mut String, one: &Struct, flexible: bool) {
    if !flexible {
        return;
    }
    if one.fields.iter().all(|member| member.field.tag.is_none()) {
        out.push_str("d.skip_tags()?;\n");
        return;
    }
    out.push_str("d.tags(|d, tag| { match tag {\n");
    for member in &one.fields {
        let Some(tag) = member.field.tag else { continue };
        let guard = condition(member.versions, one.versions).map(|text| format!(" if {text}")).unwrap_or_default();
        let name = identifier(&member.field.name);
        writeln!(out, "{tag}{guard} => x.{name} = {},", read_call(member)).unwrap();
    }
    out.push_str("_ => return Ok(false),\n}\nOk(true) })?;\n");
}

fn write_tags(out: &mut String, one: &Struct, flexible: bool) {
    if !flexible {
        return;
    }
    let mut tagged: Vec<&Member> = one.fields.iter().filter(|member| member.field.tag.is_some()).collect();
    tagged.sort_by_key(|member| member.field.tag);
    if tagged.is_empty() {
        out.push_str("e.no_tags();\n");
        return;
    }
    for (at, member) in tagged.iter().enumerate() {
        assert!(member.versions.last >= one.versions.last, "a tagged field stays once it is there");
        let set = is_set(member);
        match condition(member.versions, one.versions) {
            Some(condition) if member.field.ignorable => {
                writeln!(out, "let set{at} = {condition} && {set};").unwrap();
            }
            Some(_) => {
                let (first, refusal) = (member.versions.first, refusal(one, member));
                writeln!(out, "let set{at} = {set};\nif set{at} && v < {first} {{ {refusal} }}").unwrap();
            }
            None => writeln!(out, "let set{at} = {set};").unwrap(),
        }
    }
    let count: Vec<String> = (0..tagged.len()).map(|at| format!("u32::from(set{at})")).collect();
    writeln!(out, "e.tag_count({});", count.join(" + ")).unwrap();
    for (at, member) in tagged.iter().enumerate() {
        let tag = member.field.tag.expect("filtered above");
        let call = write_call(one, member);
        writeln!(out, "if set{at} {{ e.tagged({tag}, |e| {{ {call}; Ok(()) }})?; }}").unwrap();
    }
}

fn min_bytes_fn(out: &mut String, document: &Document, structs: &[Struct], one: &Struct) {
    let bytes = |version| layout::min_struct_bytes(structs, &one.name, version, document.flexible.contains(version));
    let mut arms: Vec<(i16, usize)> = Vec::new();
    for version in one.versions.first..=one.versions.last {
        match arms.last_mut() {
            Some((last, known)) if *known == bytes(version) => *last = version,
            _ => arms.push((version, bytes(version))),
        }
    }
    let v = if arms.len() > 1 { "v" } else { "_" };
    writeln!(out, "fn min_bytes({v}: i16) -> usize {{").unwrap();
    if let [(_, bytes)] = arms.as_slice() {
        writeln!(out, "{bytes} }}").unwrap();
        return;
    }
    out.push_str("match v {\n");
    let mut first = String::new();
    for (at, (last, bytes)) in arms.iter().enumerate() {
        if at + 1 == arms.len() {
            writeln!(out, "_ => {bytes},").unwrap();
        } else {
            writeln!(out, "{first}..={last} => {bytes},").unwrap();
        }
        first = (last + 1).to_string();
    }
    out.push_str("} }\n");
}

fn first_flexible(document: &Document) -> i16 {
    if document.flexible.is_empty() { i16::MAX } else { document.flexible.first }
}

fn data_impl(out: &mut String, document: &Document, kind: Option<i16>) {
    writeln!(
        out,
        "impl Data for {0} {{\nconst NAME: &'static str = \"{0}\";\nconst MIN: i16 = {1};\nconst MAX: i16 = {2};\n\
         const FIRST_FLEXIBLE: i16 = {3};\n}}",
        document.name,
        document.versions.first,
        document.versions.last,
        first_flexible(document)
    )
    .unwrap();
    if let Some(kind) = kind {
        writeln!(out, "impl RecordKey for {} {{ const KIND: i16 = {kind}; }}", document.name).unwrap();
    }
}

fn message_impls(out: &mut String, document: &Document) {
    let api = constant(&document.name);
    let first_flexible = first_flexible(document);
    for message in &document.messages {
        writeln!(
            out,
            "impl Message for {0} {{\nconst NAME: &'static str = \"{0}\";\nconst KEY: ApiKey = ApiKey::{api};\n\
             const MIN: i16 = {1};\nconst MAX: i16 = {2};\nconst FIRST_FLEXIBLE: i16 = {first_flexible};\n}}",
            message.name, document.versions.first, document.versions.last
        )
        .unwrap();
    }
    writeln!(out, "impl Request for {0}Request {{ type Response = {0}Response; }}", document.name).unwrap();
}

fn tables(out: &mut String, documents: &[Document]) {
    let mut apis: Vec<(i16, &Document)> =
        documents.iter().filter_map(|document| Some((document.key()?, document))).collect();
    apis.sort_by_key(|(key, _)| *key);

    out.push_str("impl ApiKey {\n");
    for (key, document) in &apis {
        writeln!(out, "/// {}.\npub const {}: ApiKey = ApiKey({key});", document.name, constant(&document.name))
            .unwrap();
    }
    writeln!(
        out,
        "}}\n/// Every API of the notation by rising key.\npub static API_TABLE: [ApiSpec; {}] = [",
        apis.len()
    )
    .unwrap();
    for (_, document) in &apis {
        let flexible = match document.flexible {
            flexible if flexible.is_empty() => "None".to_owned(),
            flexible => format!("Some({})", flexible.first),
        };
        writeln!(
            out,
            "ApiSpec {{ key: ApiKey::{}, name: \"{}\", min: {}, max: {}, first_flexible: {flexible}, \
             unstable: {:?} }},",
            constant(&document.name),
            document.name,
            document.versions.first,
            document.versions.last,
            document.unstable
        )
        .unwrap();
    }
    out.push_str(
        "];\n/// Calls the visitor with the request type of the API; none when the key is not in the notation.\n\
         pub fn visit_request<V: RequestVisitor>(key: ApiKey, visitor: V) -> Option<V::Output> {\nSome(match key {\n",
    );
    for (_, document) in &apis {
        let module = snake_case(&document.name);
        let name = &document.name;
        writeln!(out, "ApiKey::{} => visitor.visit::<{module}::{name}Request>(),", constant(name)).unwrap();
    }
    out.push_str("_ => return None,\n})\n}\n");
}

/// The error codes of `errors.tsv` (code, name, `-`, `retriable` or `refresh`), as constants and a table by rising
/// code.
pub fn generate_errors(text: &str) -> Result<String, String> {
    let mut out = String::from("impl ErrorCode {\n");
    let mut table = String::new();
    let mut last = None;
    let rows = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    for row in rows {
        let fields: Vec<&str> = row.split('\t').collect();
        let [code, name, class] = fields.as_slice() else { return Err(format!("`{row}` has not three fields")) };
        let code: i16 = code.parse().map_err(|_| format!("`{row}` has no code"))?;
        let (retriable, refresh) = match *class {
            "-" => (false, false),
            "retriable" => (true, false),
            "refresh" => (true, true),
            _ => return Err(format!("`{row}` has an unknown class")),
        };
        if last.is_some_and(|last| last >= code) {
            return Err(format!("`{row}` is not in order"));
        }
        last = Some(code);
        writeln!(out, "/// {code}\npub const {name}: ErrorCode = ErrorCode({code});").unwrap();
        writeln!(
            table,
            "ErrorSpec {{ code: ErrorCode::{name}, name: \"{name}\", retriable: {retriable}, refresh: {refresh} }},"
        )
        .unwrap();
    }
    let count = table.lines().count();
    write!(
        out,
        "}}\n/// Every error code by rising number.\npub static ERROR_TABLE: [ErrorSpec; {count}] = [\n{table}];\n"
    )
    .unwrap();
    Ok(out)
}
