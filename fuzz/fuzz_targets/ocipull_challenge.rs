//! Any text as a `WWW-Authenticate` header: no more challenges than words.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|header: &str| {
    assert!(ocipull::fuzz::challenges(header) <= header.len());
});
