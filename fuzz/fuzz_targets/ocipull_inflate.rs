//! Any bytes as a gzip stream that is inflated in parts: what flate2 makes of it.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, &[u8])| {
    let (part, bytes) = input;
    ocipull::fuzz::inflate(bytes, usize::from(part) * 16);
});
