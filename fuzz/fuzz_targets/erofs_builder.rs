//! Any bytes as options and entries of an image: what the builder takes must be what the reader
//! finds, without a fault.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| blockbox_fuzz::image::build_and_compare(bytes));
