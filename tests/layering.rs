//! Holds the dependency graph of the workspace to its layers: an arrow only ever points down (docs/architecture.md).

use std::process::Command;

use serde::Deserialize;

/// What of the workspace a crate may depend on.
enum Uses {
    Only(&'static [&'static str]),
    EveryLayerBelow,
}

struct Layer {
    name: &'static str,
    uses: Uses,
}

const fn layer(name: &'static str, uses: &'static [&'static str]) -> Layer {
    Layer { name, uses: Uses::Only(uses) }
}

const fn top(name: &'static str) -> Layer {
    Layer { name, uses: Uses::EveryLayerBelow }
}

/// The layers, lowest first. A crate that is not listed here is a finding: decide where it belongs.
const LAYERS: &[Layer] = &[
    layer("millpond-record", &[]),
    layer("millpond-wire", &[]),
    layer("millpond-runtime", &["millpond-record"]),
    layer("millpond-storage", &["millpond-record", "millpond-runtime"]),
    layer("millpond-cluster", &["millpond-record"]),
    layer("millpond-coordinator", &["millpond-record", "millpond-wire", "millpond-cluster"]),
    layer("millpond-raft", &["millpond-record", "millpond-runtime", "millpond-storage"]),
    layer(
        "millpond-broker",
        &[
            "millpond-record",
            "millpond-wire",
            "millpond-runtime",
            "millpond-storage",
            "millpond-cluster",
            "millpond-coordinator",
            "millpond-raft",
        ],
    ),
    layer("millpond-client", &["millpond-record", "millpond-wire"]),
    top("millpond"),
    top("sim"),
    top("millpond-tests"),
    top("millpond-benches"),
];

/// Crates from outside that only some of ours may name under `[dependencies]` or `[build-dependencies]`.
struct Reserved {
    name: &'static str,
    owners: &'static [&'static str],
    /// Also holds for `[dev-dependencies]`.
    in_tests_too: bool,
}

const fn reserved(name: &'static str, owners: &'static [&'static str]) -> Reserved {
    Reserved { name, owners, in_tests_too: false }
}

/// Those that may know of tasks, sockets and timers; every other crate takes time and randomness as arguments.
const ASYNC: &[&str] = &["millpond-runtime", "millpond-raft", "millpond-broker", "millpond-client", "millpond", "sim"];

const RESERVED: &[Reserved] = &[
    Reserved { name: "openraft", owners: &["millpond-raft"], in_tests_too: true },
    Reserved { name: "openraft-rt-tokio", owners: &["millpond-raft"], in_tests_too: true },
    reserved("tokio", ASYNC),
    reserved("tokio-util", ASYNC),
    reserved("futures", ASYNC),
    reserved("futures-util", ASYNC),
    reserved("socket2", &["millpond-runtime"]),
    reserved("rustix", &["millpond-runtime", "millpond"]),
    reserved("libc", &["millpond-runtime"]),
    reserved("memmap2", &["millpond-runtime"]),
    reserved("tokio-rustls", &["millpond-client"]),
    reserved("rustls-native-certs", &["millpond-client"]),
    // millpond-raft implements its traits, so that openraft draws from the runtime.
    reserved("rand", &["millpond-runtime", "millpond-raft", "sim"]),
    reserved("uuid", &["millpond-runtime"]),
    reserved("axum", &["millpond-broker"]),
    reserved("hyper", &["millpond-broker"]),
    reserved("hyper-util", &["millpond-broker"]),
    reserved("metrics", &["millpond-broker"]),
    reserved("metrics-exporter-prometheus", &["millpond-broker"]),
    reserved("anyhow", &["millpond", "sim"]),
    reserved("clap", &["millpond", "sim"]),
    reserved("toml", &["millpond"]),
    reserved("tracing-subscriber", &["millpond", "sim"]),
    // Only ever something to compare with, or to test and measure with.
    reserved("kafka-protocol", &[]),
    reserved("criterion", &[]),
    reserved("proptest", &[]),
];

/// These ship nothing, so only what is reserved in tests too is reserved for them.
const UNSHIPPED: &[&str] = &["millpond-tests", "millpond-benches"];

#[derive(Deserialize)]
struct Graph {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    /// `None` is an ordinary dependency.
    kind: Option<String>,
}

fn rank(name: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.name == name)
}

/// Every edge of the graph that the tables above do not allow, as a sentence.
fn violations(graph: &Graph) -> Vec<String> {
    let mut found = Vec::new();
    for package in &graph.packages {
        let from = &package.name;
        let Some(height) = rank(from) else {
            found.push(format!("{from} has no place in the layers"));
            continue;
        };
        for dependency in &package.dependencies {
            let to = &dependency.name;
            let for_tests = dependency.kind.as_deref() == Some("dev");
            if let Some(depth) = rank(to) {
                // A package may name itself for its tests, to turn a feature of its own on.
                if depth > height || (depth == height && !for_tests) {
                    found.push(format!("{from} points up at {to}"));
                } else if let Uses::Only(allowed) = LAYERS[height].uses
                    && !for_tests
                    && !allowed.contains(&to.as_str())
                {
                    found.push(format!("{from} must know nothing of {to}"));
                }
            }
            if let Some(row) = RESERVED.iter().find(|row| row.name == to) {
                let exempt = !row.in_tests_too && (for_tests || UNSHIPPED.contains(&from.as_str()));
                if !exempt && !row.owners.contains(&from.as_str()) {
                    found.push(format!("{from} must not name {to}"));
                }
            }
        }
    }
    found
}

fn graph_of(edges: &[(&str, &str, Option<&str>)]) -> Graph {
    let packages = edges.iter().map(|(from, to, kind)| Package {
        name: (*from).to_string(),
        dependencies: vec![Dependency { name: (*to).to_string(), kind: kind.map(str::to_string) }],
    });
    Graph { packages: packages.collect() }
}

#[test]
fn the_workspace_keeps_to_its_layers() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo, which runs this test, can be run again");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let graph: Graph = serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON");
    assert!(graph.packages.iter().any(|package| package.name == "millpond-tests"), "the workspace was not read");
    let found = violations(&graph);
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn the_table_itself_only_points_down() {
    for (height, row) in LAYERS.iter().enumerate() {
        if let Uses::Only(allowed) = row.uses {
            for name in allowed {
                assert!(rank(name).is_some_and(|depth| depth < height), "{} lists {name}", row.name);
            }
        }
    }
    for row in RESERVED {
        for owner in row.owners {
            assert!(rank(owner).is_some(), "{} is reserved for {owner}, which is no layer", row.name);
        }
    }
}

#[test]
fn an_allowed_edge_is_no_finding() {
    let graph = graph_of(&[
        ("millpond-storage", "millpond-record", None),
        ("millpond-storage", "thiserror", None),
        ("millpond-storage", "tokio", Some("dev")),
        ("millpond-raft", "openraft", None),
        ("millpond-broker", "tokio", None),
        ("millpond-wire", "kafka-protocol", Some("dev")),
        ("sim", "millpond-broker", None),
        ("millpond-benches", "criterion", None),
    ]);
    assert_eq!(violations(&graph), Vec::<String>::new());
}

#[test]
fn a_wrong_edge_of_each_kind_is_found() {
    let cases: &[(&str, &str, Option<&str>, &str)] = &[
        ("millpond-record", "millpond-storage", None, "millpond-record points up at millpond-storage"),
        ("millpond-storage", "millpond-raft", Some("dev"), "millpond-storage points up at millpond-raft"),
        ("millpond-wire", "millpond-wire", None, "millpond-wire points up at millpond-wire"),
        ("millpond-raft", "millpond-wire", None, "millpond-raft must know nothing of millpond-wire"),
        ("millpond-client", "millpond-storage", None, "millpond-client must know nothing of millpond-storage"),
        ("millpond-broker", "openraft", None, "millpond-broker must not name openraft"),
        ("sim", "openraft", Some("dev"), "sim must not name openraft"),
        ("millpond-tests", "openraft", Some("dev"), "millpond-tests must not name openraft"),
        ("millpond-storage", "tokio", None, "millpond-storage must not name tokio"),
        ("millpond-wire", "tokio", Some("build"), "millpond-wire must not name tokio"),
        ("millpond-broker", "clap", None, "millpond-broker must not name clap"),
        ("millpond-raft", "anyhow", None, "millpond-raft must not name anyhow"),
        ("millpond-wire", "kafka-protocol", None, "millpond-wire must not name kafka-protocol"),
        ("millpond-newcomer", "bytes", None, "millpond-newcomer has no place in the layers"),
    ];
    for (from, to, kind, sentence) in cases {
        assert_eq!(violations(&graph_of(&[(from, to, *kind)])), [*sentence], "{from} -> {to} ({kind:?})");
    }
}
