//! Any bytes as the index of a native layer's zstd frames: refused, or read as it is written.
#![no_main]

use libfuzzer_sys::fuzz_target;

use chunks::ChunkIndex;

// The module alone: the crate that has it brings 90 others, which would be built with coverage too.
#[allow(dead_code)]
#[path = "../../runtime/convert/src/native/chunks.rs"]
mod chunks;

fuzz_target!(|bytes: &[u8]| {
    let Some((end, bytes)) = bytes.split_first_chunk() else {
        return;
    };
    let end = u64::from_le_bytes(*end);
    if let Ok(index) = ChunkIndex::parse(bytes, end) {
        let chunks = index.size().div_ceil(u64::from(index.chunk_size()));
        assert_eq!(index.frames().len() as u64, chunks);
        let ends: Vec<_> = index.frames().iter().map(|frame| frame.offset).collect();
        assert!(ends.is_sorted() && ends.last().is_none_or(|last| *last < end));
        assert_eq!(
            ChunkIndex::parse(&index.to_bytes(), end).as_ref(),
            Ok(&index)
        );
    }
});
