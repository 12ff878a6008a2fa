//! Any bytes as a manifest, a configuration or an index.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| ocipull::fuzz::documents(bytes));
