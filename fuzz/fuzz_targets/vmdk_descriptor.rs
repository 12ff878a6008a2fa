//! Any bytes as a descriptor; what parses survives being written and parsed again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vmdk::Descriptor;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(descriptor) = Descriptor::parse(bytes) {
        let text = descriptor.to_string();
        assert_eq!(
            Descriptor::parse(text.as_bytes()).expect("own output"),
            descriptor
        );
    }
});
