//! The table of groups and the meta properties of a data directory, checksums made right.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| millpond_storage::fuzzing::groups_table(data));
