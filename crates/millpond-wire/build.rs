//! Turns `messages/*.msg` and `errors.tsv` into Rust: see `generate/notation.rs` for the notation.

#![expect(clippy::disallowed_methods, reason = "reads the crate's own files, and runs before there is a program")]

use std::path::{Path, PathBuf};
use std::{env, fs};

#[path = "generate/layout.rs"]
mod layout;
#[path = "generate/names.rs"]
mod names;
#[path = "generate/notation.rs"]
mod notation;
#[path = "generate/rust.rs"]
mod rust;
#[path = "generate/samples.rs"]
mod samples;

fn main() {
    println!("cargo::rerun-if-changed=messages");
    println!("cargo::rerun-if-changed=errors.tsv");
    println!("cargo::rerun-if-changed=generate");
    println!("cargo::rerun-if-changed=build.rs");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));

    let mut files: Vec<PathBuf> = fs::read_dir("messages")
        .expect("the crate has a folder `messages`")
        .map(|entry| entry.expect("the folder is readable").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "msg"))
        .collect();
    files.sort();
    let documents: Vec<notation::Document> = files.iter().flat_map(|path| parse(path)).collect();

    fs::write(out.join("messages.rs"), rust::generate(&documents)).expect("OUT_DIR is writable");
    fs::write(out.join("samples.rs"), samples::generate(&documents)).expect("OUT_DIR is writable");
    let errors = fs::read_to_string("errors.tsv").expect("the crate has `errors.tsv`");
    let errors = rust::generate_errors(&errors).unwrap_or_else(|what| panic!("errors.tsv: {what}"));
    fs::write(out.join("errors.rs"), errors).expect("OUT_DIR is writable");
}

fn parse(path: &Path) -> Vec<notation::Document> {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    notation::parse(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
