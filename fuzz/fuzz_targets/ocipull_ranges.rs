//! Any text as the header of a partial answer, and any bytes as the list of what is kept of a blob.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&str, &[u8])| ocipull::fuzz::ranges(input.0, input.1));
