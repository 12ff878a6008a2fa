//! EDGES "Tar framing": sizes, owners and times, of any magnitude.

use crate::support::{header, layer, only, problem};
use fsmerge::{
    Content, DataId, Error, Kind, Limits, Problem, ReadError, Sink, Timestamp, read_tar,
};
use std::io::{self, Read};
use testkit::TarBuilder as Tar;

#[test]
fn pax_size_wins_over_the_headers() {
    // Read by the header's size, the contents would begin with another entry (CVE-2025-62518).
    let inner = Tar::new().file("hidden", "").unfinished();
    let tar = Tar::new()
        .raw(b"PaxHeaders/x", b'x', b"", b"12 size=512\n")
        .header(header(|h| h.set_size(0)))
        .bytes(&inner)
        .file("next", "")
        .finish();
    let layer = layer(&tar);
    assert!(layer.lookup(b"hidden").is_none());
    let f = layer.lookup(b"f").unwrap();
    assert!(matches!(layer.kind(f), Kind::File { size: 512, .. }));
    assert!(layer.lookup(b"next").is_some());
}

#[test]
fn negative_sizes_are_refused() {
    let tar = Tar::new().pax("size", "-1").file("f", "").finish();
    assert_eq!(problem(&tar), Problem::NegativeSize);
    let tar = Tar::new()
        .header(header(|h| h.as_old_mut().size = [0xff; 12]))
        .finish();
    assert_eq!(problem(&tar), Problem::NegativeSize);
    // Larger than any offset can be.
    let tar = Tar::new()
        .pax("size", "9223372036854775808")
        .file("f", "")
        .finish();
    assert_eq!(problem(&tar), Problem::Number { field: "size" });
}

/// The bytes of `head`, then zeros up to `len`, then the bytes of `tail`.
fn with_gap(head: Vec<u8>, len: u64, tail: Vec<u8>) -> impl Read {
    io::Cursor::new(head)
        .chain(io::repeat(0).take(len))
        .chain(io::Cursor::new(tail))
}

/// Says how long files are without reading them.
struct Sizes(Vec<(Vec<u8>, u64)>);

impl Sink for Sizes {
    type Error = io::Error;

    fn file(&mut self, path: &[u8], mut content: Content<'_>) -> io::Result<DataId> {
        // Some, so that what is left unread counts.
        content.read_exact(&mut [0; 100])?;
        self.0.push((path.to_vec(), content.size()));
        Ok(DataId(0))
    }
}

/// Skips what it is asked to read into without touching the memory.
struct Fast<R>(R, u64);

impl<R: Read> Read for Fast<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.1 == 0 {
            return self.0.read(buffer);
        }
        let n = usize::try_from(self.1).map_or(buffer.len(), |left| left.min(buffer.len()));
        self.1 -= n as u64;
        Ok(n)
    }
}

#[test]
fn files_over_8_gib_in_base_256_are_exact() {
    let size = (8 << 30) + 513;
    let head = Tar::new().header(header(|h| h.set_size(size))).unfinished();
    assert_eq!(head[124], 0x80);
    let mut sizes = Sizes(Vec::new());
    let tail = Tar::new().file("after", "x".repeat(100)).finish();
    let fast = Fast(with_gap(Vec::new(), 511, tail), size);
    let tar = io::Cursor::new(head).chain(io::BufReader::with_capacity(1 << 20, fast));
    read_tar(tar, &mut sizes, &Limits::default()).unwrap();
    assert_eq!(sizes.0, [(b"f".to_vec(), size), (b"after".to_vec(), 100)]);
}

#[test]
fn sizes_and_offsets_over_2_tib_do_not_wrap() {
    // Reading 2 TiB takes too long for a test: the size arrives whole, and the end of the archive
    // is noticed.
    for (limit, fails) in [(1 << 44, false), (1 << 40, true)] {
        let size = (2_u64 << 40) + 1;
        let mut limits = Limits::default();
        limits.file_bytes = limit;
        let head = Tar::new()
            .header(header(|h| h.set_size(size)))
            .bytes([0; 512])
            .unfinished();
        let mut sizes = Sizes(Vec::new());
        match read_tar(&head[..], &mut sizes, &limits) {
            Err(ReadError::Layer(Error::Truncated { offset: 1024 })) if !fails => {
                assert_eq!(sizes.0[0].1, size);
            }
            Err(ReadError::Layer(Error::Entry { problem, .. })) if fails => {
                assert_eq!(
                    problem,
                    Problem::Limit {
                        name: "file_bytes",
                        limit
                    }
                );
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn owners_up_to_32_bits_are_exact() {
    for id in [0, 65_535, 65_536, 2_097_152, u32::MAX] {
        let attributes = only(&Tar::new().owner(id, id).file("f", "").finish());
        assert_eq!((attributes.uid, attributes.gid), (id, id));
        let pax = Tar::new()
            .pax("uid", id.to_string())
            .pax("gid", id.to_string())
            .file("f", "");
        let attributes = only(&pax.finish());
        assert_eq!((attributes.uid, attributes.gid), (id, id));
    }
}

#[test]
fn times_before_1970_after_2038_and_fractional_are_exact() {
    let at = |secs, nanos| Timestamp { secs, nanos };
    assert_eq!(
        only(&Tar::new().mtime(4_000_000_000).file("f", "").finish()).mtime,
        at(4_000_000_000, 0)
    );
    let negative = header(|h| {
        let mut field = [0xff; 12];
        field[4..].copy_from_slice(&(-5_i64).to_be_bytes());
        h.as_old_mut().mtime = field;
    });
    assert_eq!(only(&Tar::new().header(negative).finish()).mtime, at(-5, 0));
    for (text, expected) in [
        ("1700000000.123456789", at(1_700_000_000, 123_456_789)),
        ("-1.5", at(-2, 500_000_000)),
        ("99999999999", at(99_999_999_999, 0)),
    ] {
        let tar = Tar::new().pax("mtime", text).file("f", "").finish();
        assert_eq!(only(&tar).mtime, expected, "{text}");
    }
}
