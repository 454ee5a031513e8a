//! Holds every file of the workspace to the house rules, a rule a function, each with a sample that it must catch.
#![expect(clippy::disallowed_methods, reason = "reads the source tree, not a data directory")]

use std::fs;
use std::path::{Path, PathBuf};

const MOST_COLUMNS: usize = 120;
const MOST_LINES: usize = 700;

/// Files that tell one story in more than [`MOST_LINES`]; keep this list short.
const LONG_FILES: &[&str] = &[];

/// Words that say "unfinished" or "left over". Written in halves, so that a search for them finds no rule.
const UNFINISHED: &[[&str; 2]] = &[
    ["to", "do!("],
    ["unimpl", "emented!("],
    ["db", "g!("],
    ["#[ig", "nore"],
    ["TO", "DO"],
    ["FIX", "ME"],
    ["XX", "X"],
    ["HA", "CK"],
];

/// Who may print: programs, and build scripts, which talk to cargo that way.
const PRINTERS: &[&str] =
    &["crates/millpond/", "crates/millpond-client/examples/", "crates/sim/", "benches/", "tests/interop/"];

/// Folders in which people and machines keep their checkouts: a path below one holds on one machine only.
const MACHINE_FOLDERS: &[&str] = &["home", "root", "Users", "work", "workspace", "builds"];

/// Names that tell nothing of what is inside.
const EMPTY_NAMES: &[&str] = &["utils", "util", "helpers", "helper", "common", "misc", "manager"];

/// Folders of this repository; a path below one that a document names in back ticks must exist.
const OUR_FOLDERS: &[&str] =
    &["crates/", "tests/", "benches/", "scripts/", "docs/", "config/", "fuzz/", "vendor/", ".ci/"];

/// One source file: its path from the root of the workspace, with `/`, and what is in it.
struct Source {
    path: String,
    text: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Source {
        Source { path: path.to_string(), text: text.to_string() }
    }

    fn is(&self, extension: &str) -> bool {
        Path::new(&self.path).extension().is_some_and(|found| found == extension)
    }

    fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }

    /// The lines of which the rule says something, each with its number.
    fn findings(&self, mut rule: impl FnMut(&str) -> Option<String>) -> Vec<String> {
        let lines = self.text.lines().enumerate();
        lines.filter_map(|(i, line)| Some(format!("{}:{}: {}", self.path, i + 1, rule(line)?))).collect()
    }

    fn finding(&self, what: impl std::fmt::Display) -> Vec<String> {
        vec![format!("{}: {what}", self.path)]
    }
}

type Rule = fn(&Source) -> Vec<String>;

const RULES: &[Rule] = &[
    lines_are_short,
    no_white_space_at_line_ends,
    nothing_is_unfinished,
    only_programs_print,
    no_path_of_one_machine,
    names_say_what_is_inside,
    lib_rs_is_a_table_of_contents,
    lib_rs_starts_with_its_purpose,
    files_are_not_long,
    crates_take_the_lints_of_the_workspace,
    hash_maps_name_their_hasher,
    selects_are_biased,
    documents_name_files_that_exist,
];

fn lines_are_short(file: &Source) -> Vec<String> {
    let is_data = ["tsv", "csv", "json", "jsonl", "txt"].iter().any(|extension| file.is(extension));
    if is_data {
        return Vec::new();
    }
    file.findings(|line| {
        let columns = line.chars().count();
        let table = file.is("md") && line.starts_with('|');
        let too_long = columns > MOST_COLUMNS && !table && !line.contains("https://");
        too_long.then(|| format!("{columns} columns, {MOST_COLUMNS} allowed"))
    })
}

fn no_white_space_at_line_ends(file: &Source) -> Vec<String> {
    file.findings(|line| line.ends_with([' ', '\t', '\r']).then(|| "white space at the end".to_string()))
}

fn nothing_is_unfinished(file: &Source) -> Vec<String> {
    file.findings(|line| {
        let word = UNFINISHED.iter().map(|halves| halves.concat()).find(|word| has_word(line, word))?;
        Some(format!("{word}: real or not there"))
    })
}

fn only_programs_print(file: &Source) -> Vec<String> {
    let may_print = PRINTERS.iter().any(|folder| file.path.starts_with(folder)) || file.name() == "build.rs";
    if !file.is("rs") || may_print {
        return Vec::new();
    }
    file.findings(|line| {
        let printed = ["println", "print"].into_iter().find(|name| has_word(line, &format!("{name}!(")))?;
        Some(format!("{printed} belongs to the programs; use tracing"))
    })
}

fn no_path_of_one_machine(file: &Source) -> Vec<String> {
    file.findings(|line| {
        let folder = MACHINE_FOLDERS.iter().find(|folder| {
            let path = format!("/{folder}/");
            line.match_indices(&path)
                .any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || "_.-}".contains(c)))
        })?;
        Some(format!("a path below /{folder} exists on one machine only"))
    })
}

fn names_say_what_is_inside(file: &Source) -> Vec<String> {
    let parts = file.path.split('/').map(|part| part.split('.').next().unwrap_or(part));
    parts
        .filter(|part| EMPTY_NAMES.contains(part))
        .flat_map(|part| file.finding(format!("\"{part}\" tells nothing")))
        .collect()
}

/// `lib.rs` is module docs, modules and re-exports, nothing else; what a build script generated counts as modules.
fn lib_rs_is_a_table_of_contents(file: &Source) -> Vec<String> {
    if file.name() != "lib.rs" {
        return Vec::new();
    }
    let code: Vec<&str> = file.text.lines().map(|line| line.split("//").next().unwrap_or("").trim()).collect();
    let without_attributes: String =
        code.iter().filter(|line| !line.starts_with('#')).flat_map(|line| [*line, " "]).collect();
    let mut found = Vec::new();
    for item in without_attributes.split(';').map(str::trim).filter(|item| !item.is_empty()) {
        let visibility = ["pub(crate) ", "pub "].into_iter().find(|word| item.starts_with(word)).unwrap_or("");
        let item = &item[visibility.len()..];
        if !["mod ", "use ", "include!(concat!(env!(\"OUT_DIR\")"].iter().any(|word| item.starts_with(word))
            || (item.starts_with("mod ") && item.contains('{'))
        {
            let start: String = item.chars().take(40).collect();
            found.extend(file.finding(format!("holds more than docs, modules and re-exports: {start}")));
        }
    }
    found
}

fn lib_rs_starts_with_its_purpose(file: &Source) -> Vec<String> {
    if file.name() != "lib.rs" {
        return Vec::new();
    }
    let purpose: Vec<&str> = file.text.lines().map_while(|line| line.strip_prefix("//! ")).map(str::trim).collect();
    let purpose = purpose.join(" ");
    let sentences = purpose.match_indices(". ").count() + usize::from(purpose.ends_with('.'));
    if sentences == 1 && purpose.ends_with('.') {
        return Vec::new();
    }
    file.finding("must start with one sentence of purpose: `//! …` up to a full stop, then an empty `//!`")
}

fn files_are_not_long(file: &Source) -> Vec<String> {
    let lines = file.text.lines().count();
    if !file.is("rs") || lines <= MOST_LINES || LONG_FILES.contains(&file.path.as_str()) {
        return Vec::new();
    }
    file.finding(format!("{lines} lines, {MOST_LINES} allowed: does it tell one story?"))
}

fn crates_take_the_lints_of_the_workspace(file: &Source) -> Vec<String> {
    let lines: Vec<&str> = file.text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let is_member = file.name() == "Cargo.toml" && file.path != "Cargo.toml" && !lines.contains(&"[workspace]");
    if !is_member || lines.windows(2).any(|pair| pair == ["[lints]", "workspace = true"]) {
        return Vec::new();
    }
    file.finding("lacks `[lints]` `workspace = true`")
}

/// Clippy refuses `HashMap::new`, but cannot see a type that leaves its hasher out.
fn hash_maps_name_their_hasher(file: &Source) -> Vec<String> {
    if !file.is("rs") {
        return Vec::new();
    }
    file.findings(|line| {
        [("HashMap<", 3), ("HashSet<", 2)].into_iter().find_map(|(name, wanted)| {
            let mut uses = line.match_indices(name).map(|(at, _)| &line[at + name.len()..]);
            uses.any(|rest| arguments(rest).is_some_and(|given| given < wanted))
                .then(|| format!("{name}…> in a random order: take a BTree, or name a fixed hasher"))
        })
    })
}

fn selects_are_biased(file: &Source) -> Vec<String> {
    if !file.is("rs") {
        return Vec::new();
    }
    let opening = ["sele", "ct! {"].concat();
    let unbiased = |(at, _): &(usize, &str)| {
        let mut body = file.text[at + opening.len()..].lines().map(str::trim);
        let first = body.find(|line| !line.is_empty() && !line.starts_with("//"));
        !first.is_some_and(|line| line.starts_with("biased;"))
    };
    let found = file.text.match_indices(&opening).filter(unbiased);
    found
        .map(|(at, _)| {
            let line = file.text[..at].lines().count().max(1);
            format!("{}:{line}: a select without `biased;` takes its turns by chance", file.path)
        })
        .collect()
}

fn documents_name_files_that_exist(file: &Source) -> Vec<String> {
    if !file.is("md") {
        return Vec::new();
    }
    file.findings(|line| {
        let quoted = line.split('`').skip(1).step_by(2);
        let linked = line.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        let here = Path::new(&file.path).parent().unwrap_or(Path::new(""));
        let named = quoted.filter(|text| OUR_FOLDERS.iter().any(|folder| text.starts_with(folder)));
        let named = named.map(PathBuf::from);
        let linked = linked.filter(|link| !link.contains("://") && !link.starts_with('#'));
        let linked = linked.map(|link| here.join(link.split('#').next().unwrap_or(link)));
        let is_pattern = |path: &Path| path.to_string_lossy().contains(['*', '<', '{', ' ', '…']);
        let missing = named.chain(linked).find(|path| !is_pattern(path) && !root().join(path).exists())?;
        Some(format!("{} does not exist", missing.display()))
    })
}

/// Whether `line` holds `word`, not as a part of a longer word.
fn has_word(line: &str, word: &str) -> bool {
    let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let closed = !word.ends_with(part_of_word) || !line[at + word.len()..].starts_with(part_of_word);
        let opened = !word.starts_with(part_of_word) || !line[..at].ends_with(part_of_word);
        opened && closed
    })
}

/// How many generic arguments stand before the `>` that closes the list; `None` when the line ends before it.
fn arguments(list: &str) -> Option<usize> {
    let (mut depth, mut count) = (0_u32, 1);
    let mut before = ' ';
    for c in list.chars() {
        match c {
            '<' | '(' | '[' => depth += 1,
            '>' if before == '-' => {}
            '>' if depth == 0 => return Some(count),
            '>' | ')' | ']' => depth = depth.checked_sub(1)?,
            ',' if depth == 0 => count += 1,
            _ => {}
        }
        before = c;
    }
    None
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is a folder of the workspace").to_path_buf()
}

/// Every text file below the root that is ours: not what `.gitignore` names, not git's own, no crate of others.
fn sources() -> Vec<Source> {
    let root = root();
    let ignored = fs::read_to_string(root.join(".gitignore")).expect(".gitignore is part of the repository");
    let ignored: Vec<&str> = ignored.lines().filter_map(|line| line.strip_suffix('/')).collect();
    let (mut folders, mut found) = (vec![root.clone()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the repository is readable") {
            let entry = entry.expect("a folder of the repository is readable");
            let below_root = entry.path().strip_prefix(&root).expect("it was found below the root").to_path_buf();
            let path = below_root.to_string_lossy().replace('\\', "/");
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.path().is_dir() {
                let of_others = name == ".git" || path.starts_with("vendor/");
                if !of_others && !ignored.contains(&name.as_str()) && !ignored.contains(&path.as_str()) {
                    folders.push(entry.path());
                }
            } else if name != "Cargo.lock"
                && name != ".git"
                && let Ok(text) = fs::read_to_string(entry.path())
            {
                found.push(Source { path, text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

#[test]
fn every_file_keeps_the_house_rules() {
    let sources = sources();
    assert!(sources.iter().any(|file| file.path == "tests/tidy.rs"), "the tree was not read");
    let found: Vec<String> = sources.iter().flat_map(|file| RULES.iter().flat_map(move |rule| rule(file))).collect();
    assert!(found.is_empty(), "{} findings\n{}", found.len(), found.join("\n"));
}

#[test]
fn every_long_file_that_is_let_through_is_still_long() {
    for path in LONG_FILES {
        let text = fs::read_to_string(root().join(path)).unwrap_or_default();
        assert!(text.lines().count() > MOST_LINES, "{path} needs no exception");
    }
}

/// Asserts that `rule` finds something in each bad sample, and nothing in the good ones.
fn tell_apart(rule: Rule, bad: &[(&str, &str)], good: &[(&str, &str)]) {
    for (path, text) in bad {
        assert!(!rule(&Source::new(path, text)).is_empty(), "let through: {path}: {text}");
    }
    for (path, text) in good {
        assert_eq!(rule(&Source::new(path, text)), Vec::<String>::new());
    }
}

#[test]
fn a_long_line_is_found_but_not_in_a_table() {
    let (long, table) = ("é".repeat(121), format!("| {} |", "x".repeat(200)));
    let bad = [("a.rs", long.as_str()), ("a.md", &long), ("a.rs", &table)];
    tell_apart(lines_are_short, &bad, &[("a.rs", &"é".repeat(120)), ("a.md", &table)]);
}

#[test]
fn white_space_at_a_line_end_is_found() {
    tell_apart(no_white_space_at_line_ends, &[("a.md", "a \nb"), ("a.rs", "a\t")], &[("a.md", " a\n\n")]);
}

#[test]
fn each_unfinished_word_is_found() {
    for halves in UNFINISHED {
        let line = format!("    {}", halves.concat());
        let line =
            if halves[0].starts_with(char::is_uppercase) { format!("// {}: later", halves.concat()) } else { line };
        tell_apart(nothing_is_unfinished, &[("a.rs", &line)], &[]);
    }
    tell_apart(nothing_is_unfinished, &[], &[("a.rs", "fn hackney(method: Todos) {}")]);
}

#[test]
fn a_library_that_prints_is_found() {
    let (line, other) = (["println", "!(1);"].concat(), ["eprintln", "!(1);"].concat());
    let bad = [("crates/millpond-raft/src/a.rs", line.as_str()), ("tests/a.rs", &line)];
    let good = [
        ("crates/millpond/src/main.rs", line.as_str()),
        ("crates/millpond-wire/build.rs", &line),
        ("crates/millpond-raft/src/a.rs", &other),
    ];
    tell_apart(only_programs_print, &bad, &good);
}

#[test]
fn a_path_of_one_machine_is_found() {
    let lines: Vec<String> = MACHINE_FOLDERS.iter().map(|folder| format!("see /{folder}/me/millpond")).collect();
    let bad: Vec<(&str, &str)> = lines.iter().map(|line| ("a.md", line.as_str())).collect();
    tell_apart(no_path_of_one_machine, &bad, &[("a.md", "https://example.org/home/me"), ("a.md", "docs/work/x")]);
}

#[test]
fn an_empty_name_is_found() {
    let bad = [("crates/x/src/utils.rs", ""), ("tests/common/mod.rs", "")];
    tell_apart(names_say_what_is_inside, &bad, &[("crates/x/src/commons.rs", "")]);
}

#[test]
fn code_in_lib_rs_is_found() {
    let bad = [
        ("lib.rs", "//! A.\nmod a;\npub fn f() {}"),
        ("lib.rs", "mod a { fn f() {} }"),
        ("lib.rs", "pub const A: u8 = 1;"),
        ("lib.rs", "include!(\"a.rs\");"),
    ];
    let good = "//! A.\n#![warn(missing_docs)]\n\nmod a;\n#[cfg(test)]\nmod b;\npub mod c; // why\n\
        pub use a::{\n    B, C,\n};\ninclude!(concat!(env!(\"OUT_DIR\"), \"/messages.rs\"));\n";
    tell_apart(lib_rs_is_a_table_of_contents, &bad, &[("lib.rs", good), ("main.rs", "fn main() {}")]);
}

#[test]
fn a_lib_rs_without_one_sentence_of_purpose_is_found() {
    let bad = [("lib.rs", "mod a;"), ("lib.rs", "//! \n"), ("lib.rs", "//! No stop"), ("lib.rs", "//! One. Two.")];
    let good = [("lib.rs", "//! One sentence,\n//! on two lines.\n//!\n//! More. And more."), ("a.rs", "")];
    tell_apart(lib_rs_starts_with_its_purpose, &bad, &good);
}

#[test]
fn a_long_file_is_found() {
    tell_apart(
        files_are_not_long,
        &[("a.rs", &"\n".repeat(701))],
        &[("a.rs", &"\n".repeat(700)), ("a.md", &"\n".repeat(701))],
    );
}

#[test]
fn a_crate_without_the_lints_of_the_workspace_is_found() {
    let bad = [("crates/a/Cargo.toml", "[package]"), ("crates/a/Cargo.toml", "[lints]\n[x]\nworkspace = true")];
    let good = [("crates/a/Cargo.toml", "[lints]\nworkspace = true\n"), ("Cargo.toml", "[workspace]")];
    tell_apart(crates_take_the_lints_of_the_workspace, &bad, &good);
}

#[test]
fn a_hash_map_without_a_hasher_is_found() {
    let (map, set) = (["Hash", "Map"].concat(), ["Hash", "Set"].concat());
    let bad =
        [format!("a: {map}<u8, Vec<(u8, u8)>>"), format!("{map}<_, _>"), format!("{set}<Box<dyn Fn(A, B) -> C>>")];
    let good = [format!("{map}<u8, (u8, u8), Fixed>"), format!("B{map}<u8, u8"), format!("{set}<u8, Fixed>")];
    let bad: Vec<(&str, &str)> = bad.iter().map(|line| ("a.rs", line.as_str())).collect();
    let good: Vec<(&str, &str)> = good.iter().map(|line| ("a.rs", line.as_str())).collect();
    tell_apart(hash_maps_name_their_hasher, &bad, &good);
}

#[test]
fn an_unbiased_select_is_found() {
    let select = ["tokio::sele", "ct! {"].concat();
    let (bad, good) = (format!("{select}\n    a = b => c,\n}}"), format!("{select}\n    // why\n    biased;\n}}"));
    tell_apart(selects_are_biased, &[("a.rs", &bad)], &[("a.rs", &good)]);
}

#[test]
fn a_document_that_names_a_missing_file_is_found() {
    let bad = [("a.md", "see `crates/nowhere/src/lib.rs`"), ("docs/a.md", "[x](README.md)")];
    let good = [("a.md", "see `tests/tidy.rs`, `crates/*/src`"), ("docs/a.md", "[x](../README.md) [y](https://a.b/c)")];
    tell_apart(documents_name_files_that_exist, &bad, &good);
}
