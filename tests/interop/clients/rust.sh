#!/usr/bin/env bash
# Rust clients: rdkafka (librdkafka built with cmake), rskafka, krafka. Here ONLY is a plain part of the name. The first
# build takes a minute or two.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
command -v cargo > /dev/null && command -v cmake > /dev/null || { report SKIP "rust" "needs cargo and cmake"; finish; }
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")/rust" && pwd)"
setup cargo build --quiet --locked --manifest-path "$HERE/Cargo.toml" --target-dir "$CACHE/rust"
cases 200 "$CACHE/rust/debug/conformance-rust"
finish
