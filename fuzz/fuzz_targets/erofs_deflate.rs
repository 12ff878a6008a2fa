//! Decodes any bytes as a cluster of deflate.
#![no_main]

use erofs_reader::Algorithm;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| blockbox_fuzz::decode(Algorithm::Deflate, bytes));
