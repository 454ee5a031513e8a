//! A journal file, whole or damaged: what is read from it is what was written.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| millpond_storage::fuzzing::journal_scan(data));
