//! Any bytes as a file of credentials, asked for a few repositories.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for (host, repository) in [
        ("docker.io", "library/debian"),
        ("x.y:5000", "a"),
        ("h", "a/b"),
    ] {
        ocipull::fuzz::auth_file(bytes, host, repository);
    }
});
