//! Any text as a registries.conf, asked for a few repositories.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    for (host, repository) in [
        ("docker.io", "library/debian"),
        ("x.y:5000", "a"),
        ("[::1]", "a/b"),
    ] {
        ocipull::fuzz::registries_conf(text, host, repository);
    }
});
