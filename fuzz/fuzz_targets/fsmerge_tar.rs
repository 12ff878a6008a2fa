//! Reads any bytes as a layer's tar, with a sink that keeps holes and one that does not.
#![no_main]

use fsmerge::{Content, DataId, Limits, Merge, Segment, Sink, overlay, read_tar, read_tar_seek};
use libfuzzer_sys::fuzz_target;
use std::io::{self, Cursor, Read};

/// Reads at most so much of a file: a sparse file may be longer than memory.
const READ: u64 = 1 << 20;

struct Expanding;

impl Sink for Expanding {
    type Error = io::Error;

    fn file(&mut self, _: &[u8], content: Content<'_>) -> io::Result<DataId> {
        let size = content.size();
        let read = io::copy(&mut content.take(READ), &mut io::sink())?;
        assert_eq!(read, size.min(READ));
        Ok(DataId(size))
    }
}

struct Keeping;

impl Sink for Keeping {
    type Error = io::Error;

    fn file(&mut self, _: &[u8], mut content: Content<'_>) -> io::Result<DataId> {
        let mut end = 0;
        while let Some(segment) = content.next_segment() {
            end += match segment {
                Segment::Data(len) => io::copy(&mut (&mut content).take(len), &mut io::sink())?,
                Segment::Hole(len) => len,
                other => panic!("{other:?}"),
            };
        }
        assert_eq!(end, content.size());
        Ok(DataId(end))
    }
}

/// The bytes with the checksum of each header right, so that mutations go deeper than it.
fn repaired(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for block in bytes.chunks_exact_mut(512) {
        if block[257..].starts_with(b"ustar") {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
    bytes
}

fuzz_target!(|bytes: &[u8]| {
    let bytes = repaired(bytes);
    let limits = Limits::default();
    let expanded = read_tar(&bytes[..], &mut Expanding, &limits);
    let kept = read_tar(&bytes[..], &mut Keeping, &limits);
    let sought = read_tar_seek(Cursor::new(&bytes), &mut (), &limits);
    assert_eq!(sought.is_ok(), kept.is_ok());
    let (Ok((layer, stats)), Ok((same, _))) = (&expanded, &kept) else {
        assert_eq!(expanded.is_ok(), kept.is_ok());
        return;
    };
    assert_eq!(layer.len(), same.len());
    assert!(stats.archive_bytes <= bytes.len() as u64);
    for id in layer.nodes() {
        assert_eq!(layer.kind(id), same.kind(id));
        let (attributes, kind) = overlay::encode(layer.metadata(id), layer.kind(id));
        let (_, back) = overlay::decode(&attributes, kind).expect("what was encoded");
        assert_eq!(back, layer.kind(id));
    }
    let mut merge = Merge::new(&limits);
    if merge.push(layer).is_ok() && merge.push(same).is_ok() {
        assert!(merge.finish().walk().count() <= layer.walk().count());
    }
});
