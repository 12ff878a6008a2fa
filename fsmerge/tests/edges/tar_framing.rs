//! EDGES "Tar framing": what an archive may look like, and what is refused.

use crate::support::{Store, layer, layer_lines, problem};
use fsmerge::{
    Attributes, Content, DataId, Error, Kind, Limits, Problem, ReadError, Segment, Sink, Timestamp,
    WarningKind, read_tar,
};
use std::io::{self, Read};
use tar::Header;
use testkit::TarBuilder as Tar;

fn only(tar: &[u8]) -> Attributes {
    let layer = layer(tar);
    let (_, id) = layer.walk().last().unwrap();
    layer.attributes(id).clone()
}

/// A header whose fields a test sets itself.
fn header(change: impl FnOnce(&mut Header)) -> [u8; 512] {
    let mut header = Header::new_gnu();
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    header.as_old_mut().name[0] = b'f';
    header.set_entry_type(tar::EntryType::Regular);
    change(&mut header);
    *header.as_bytes()
}

#[test]
fn missing_end_blocks_are_accepted() {
    assert_eq!(layer_lines(b""), [""; 0]);
    assert_eq!(layer_lines(&[0; 512]), [""; 0]);
    assert_eq!(layer_lines(&[0; 700]), [""; 0]);
    let tar = Tar::new().file("a", "1").unfinished();
    assert_eq!(layer_lines(&tar), ["a = 1"]);
    let tar = Tar::new().file("a", "1").bytes([0; 512]).unfinished();
    assert_eq!(layer_lines(&tar), ["a = 1"]);
}

#[test]
fn truncated_body_padding_or_header_is_an_error() {
    let tar = Tar::new()
        .xattr("user.a", "value")
        .file("a", vec![7; 1000])
        .file("b", "")
        .unfinished();
    // Two headers and a record block, 1000 bytes in two blocks, one header.
    assert_eq!(tar.len(), 3 * 512 + 1024 + 512);
    for cut in 1..tar.len() {
        let read = Store::default().read(&tar[..cut]);
        if [1536 + 1024].contains(&cut) {
            read.unwrap();
        } else {
            match read {
                Err(Error::Truncated { offset }) => assert_eq!(offset, cut as u64),
                // An extended header with nothing behind it.
                Ok((layer, _)) => assert!(cut == 1024 && layer.is_empty(), "{cut}"),
                Err(e) => panic!("{cut}: {e}"),
            }
        }
    }
}

#[test]
fn trailing_garbage_after_the_end_blocks_is_not_read() {
    let mut tar = Tar::new().file("a", "1").finish();
    let end = tar.len();
    tar.extend([0xa5; 5000]);
    let mut rest = &tar[..];
    let (_, stats) = read_tar(&mut rest, &mut (), &Limits::default()).unwrap();
    assert_eq!(rest.len(), 5000);
    assert_eq!((stats.archive_bytes, stats.warning_count), (end as u64, 0));
    // A single block of zeros ends it too, with a warning, as in GNU tar.
    let tar = Tar::new()
        .file("a", "1")
        .bytes([0; 512])
        .file("b", "2")
        .finish();
    let (layer, stats) = Store::default().read(&tar).unwrap();
    assert!(layer.find(b"b").is_none());
    assert_eq!(stats.warnings[0].kind, WarningKind::LoneZeroBlock);
    // Garbage where a header should be is damage.
    let tar = Tar::new().file("a", "1").bytes([0xa5; 512]).finish();
    assert_eq!(problem(&tar), Problem::Checksum);
}

#[test]
fn empty_dot_and_slash_names_carry_the_roots_attributes() {
    for name in ["", ".", "/", "./", "//", "./.", "a/.."] {
        let layer = layer(&Tar::new().mode(0o711).owner(5, 6).dir(name).finish());
        let root = layer.attributes(layer.root());
        assert_eq!((root.mode, root.uid, root.gid), (0o711, 5, 6), "{name:?}");
        let described = Kind::Directory {
            opaque: false,
            implied: false,
        };
        assert_eq!(layer.kind(layer.root()), described);
        let tar = Tar::new().file(name, "x").finish();
        if !name.ends_with('/') {
            assert_eq!(problem(&tar), Problem::RootNotDirectory, "{name:?}");
        }
    }
}

#[test]
fn names_are_normalised_inside_the_root() {
    for name in [
        "./d/f",
        "d//f",
        "/d/f",
        "d/./f",
        "d/../d/f",
        "x/../d/f",
        "//d/x/..//f",
    ] {
        let tar = Tar::new().file(name, "1").finish();
        assert_eq!(layer_lines(&tar), ["d/ implied", "d/f = 1"], "{name}");
    }
    assert_eq!(layer_lines(&Tar::new().dir("d///").finish()), ["d/"]);
}

#[test]
fn names_that_climb_above_the_root_are_refused() {
    for name in ["..", "../f", "/../f", "d/../../f", "./..", "../.wh.f"] {
        assert_eq!(
            problem(&Tar::new().file(name, "").finish()),
            Problem::Escape,
            "{name}"
        );
    }
    let tar = Tar::new().link("l", "../etc/shadow").finish();
    assert_eq!(problem(&tar), Problem::Escape);
    // A symlink's target is only text.
    let tar = Tar::new().symlink("s", "../../etc/shadow").finish();
    assert_eq!(layer_lines(&tar), ["s -> ../../etc/shadow"]);
}

#[test]
fn pax_and_gnu_names_longer_than_100_bytes_are_exact() {
    let long = format!("{}/{}", "d".repeat(255), "f".repeat(255));
    let target = "t".repeat(4095);
    let expected = [
        format!("{}/ implied", "d".repeat(255)),
        format!("{long} -> {target}"),
    ];
    let pax = Tar::new().symlink(&long, &target).finish();
    assert_eq!(layer_lines(&pax), expected);
    let gnu = Tar::new()
        .raw(
            b"././@LongLink",
            b'K',
            b"",
            format!("{target}\0").as_bytes(),
        )
        .raw(b"././@LongLink", b'L', b"", format!("{long}\0").as_bytes())
        .raw(b"cut", b'2', b"cut", b"")
        .finish();
    assert_eq!(layer_lines(&gnu), expected);
    // ustar's prefix.
    let mut ustar = Header::new_ustar();
    ustar
        .set_path(format!("{}/{}", "p".repeat(150), "n".repeat(90)))
        .unwrap();
    ustar.set_mode(0o644);
    ustar.set_size(0);
    let tar = Tar::new().header(*ustar.as_bytes()).finish();
    assert_eq!(
        layer_lines(&tar)[1],
        format!("{}/{} = ", "p".repeat(150), "n".repeat(90))
    );
}

#[test]
fn paths_of_4096_bytes_are_exact() {
    let path = "a/".repeat(2048) + "f";
    let layer = layer(&Tar::new().file(&path, "1").finish());
    assert_eq!(layer.walk().last().unwrap().0, path.as_bytes());
}

#[test]
fn pax_header_before_a_gnu_long_name_belongs_to_the_file() {
    let long = "n".repeat(200);
    let tar = Tar::new()
        .raw(b"PaxHeaders/x", b'x', b"", b"12 uid=1234\n")
        .raw(b"././@LongLink", b'L', b"", format!("{long}\0").as_bytes())
        .raw(b"cut", b'0', b"", b"1")
        .finish();
    assert_eq!(layer_lines(&tar), [format!("{long} = 1")]);
    assert_eq!(only(&tar).uid, 1234);
}

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
    assert!(layer.find(b"hidden").is_none());
    let f = layer.find(b"f").unwrap();
    assert!(matches!(layer.kind(f), Kind::File { size: 512, .. }));
    assert!(layer.find(b"next").is_some());
}

#[test]
fn malformed_pax_is_refused() {
    for records in [
        &b"12 size=51\n"[..],
        b"99 size=512\n",
        b"size=512\n",
        b"11 size=512\n",
        b"12 size 512\n",
        b"10 path=\0\n",
        b"6 =ab\n\0",
    ] {
        let tar = Tar::new()
            .raw(b"x", b'x', b"", records)
            .file("f", "")
            .finish();
        let problem = problem(&tar);
        assert!(
            matches!(problem, Problem::Pax { .. }),
            "{records:?}: {problem:?}"
        );
    }
    for (key, value) in [
        ("uid", "x"),
        ("uid", "-1"),
        ("gid", "4294967296"),
        ("mtime", "soon"),
    ] {
        let problem = problem(&Tar::new().pax(key, value).file("f", "").finish());
        assert!(
            matches!(problem, Problem::Number { .. }),
            "{key}={value}: {problem:?}"
        );
    }
}

#[test]
fn empty_pax_value_deletes_the_key_but_an_empty_xattr_is_data() {
    let tar = Tar::new()
        .pax_global("uid", "7")
        .file("a", "")
        .owner(3, 0)
        .pax("uid", "")
        .xattr("user.empty", "")
        .file("b", "")
        .finish();
    let layer = layer(&tar);
    assert_eq!(layer.attributes(layer.find(b"a").unwrap()).uid, 7);
    let b = layer.attributes(layer.find(b"b").unwrap());
    assert_eq!(b.uid, 3);
    assert_eq!(b.xattrs.get(b"user.empty"), Some(&b""[..]));
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
        let n = buffer.len().min(self.1 as usize);
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
    let tar = io::Cursor::new(head).chain(Fast(with_gap(Vec::new(), 511, tail), size));
    read_tar(tar, &mut sizes, &Limits::default()).unwrap();
    assert_eq!(sizes.0, [(b"f".to_vec(), size), (b"after".to_vec(), 100)]);
}

#[test]
fn sizes_and_offsets_over_2_tib_do_not_wrap() {
    // Reading 2 TiB takes too long for a test: the size arrives whole, and the end of the archive is noticed.
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

#[test]
fn gnu_sparse_files_of_every_format_read_with_their_holes_and_real_names() {
    let old = Tar::new()
        .header(header(|h| {
            h.as_old_mut().linkflag = *b"S";
            h.set_size(6);
            let gnu = h.as_gnu_mut().unwrap();
            gnu.sparse[0].set_offset(2);
            gnu.sparse[0].set_length(3);
            gnu.sparse[1].set_offset(10);
            gnu.sparse[1].set_length(3);
            gnu.sparse[2].set_offset(20);
            gnu.sparse[2].set_length(0);
            gnu.set_real_size(20);
        }))
        .bytes("abcdef")
        .pad()
        .file("next", "1")
        .finish();
    let v00 = Tar::new()
        .pax("GNU.sparse.size", "20")
        .pax("GNU.sparse.numblocks", "2")
        .pax("GNU.sparse.offset", "2")
        .pax("GNU.sparse.numbytes", "3")
        .pax("GNU.sparse.offset", "10")
        .pax("GNU.sparse.numbytes", "3")
        .file("f", "abcdef")
        .file("next", "1")
        .finish();
    let v01 = Tar::new()
        .pax("GNU.sparse.size", "20")
        .pax("GNU.sparse.numblocks", "2")
        .pax("GNU.sparse.map", "2,3,10,3")
        .pax("GNU.sparse.name", "f")
        .file("GNUSparseFile.1/f", "abcdef")
        .file("next", "1")
        .finish();
    let mut body = b"2\n2\n3\n10\n3\n".to_vec();
    body.resize(512, 0);
    body.extend(b"abcdef");
    let v10 = Tar::new()
        .pax("GNU.sparse.major", "1")
        .pax("GNU.sparse.minor", "0")
        .pax("GNU.sparse.realsize", "20")
        .pax("GNU.sparse.name", "f")
        .file("GNUSparseFile.1/f", body)
        .file("next", "1")
        .finish();
    for (format, tar) in [("old", old), ("0.0", v00), ("0.1", v01), ("1.0", v10)] {
        let contents = b"\0\0abc\0\0\0\0\0def\0\0\0\0\0\0\0".escape_ascii();
        assert_eq!(
            layer_lines(&tar),
            [format!("f = {contents}"), "next = 1".to_owned()],
            "{format}"
        );
        let mut segments = Segments(Vec::new());
        read_tar(&tar[..], &mut segments, &Limits::default()).unwrap();
        assert_eq!(
            segments.0[..5],
            [
                Segment::Hole(2),
                Segment::Data(3),
                Segment::Hole(5),
                Segment::Data(3),
                Segment::Hole(7)
            ],
            "{format}"
        );
    }
}

/// Notes segments, as a sink does that keeps holes.
struct Segments(Vec<Segment>);

impl Sink for Segments {
    type Error = io::Error;

    fn file(&mut self, _: &[u8], mut content: Content<'_>) -> io::Result<DataId> {
        while let Some(segment) = content.next_segment() {
            if let Segment::Data(len) = segment {
                io::copy(&mut (&mut content).take(len), &mut io::sink())?;
            }
            self.0.push(segment);
        }
        Ok(DataId(0))
    }
}

#[test]
fn old_gnu_sparse_maps_go_on_in_extension_blocks() {
    let mut extension = tar::GnuExtSparseHeader::new();
    for (at, slot) in extension.sparse.iter_mut().enumerate() {
        slot.set_offset(100 + at as u64 * 10);
        slot.set_length(1);
    }
    extension.set_is_extended(false);
    let head = header(|h| {
        h.as_old_mut().linkflag = *b"S";
        h.set_size(25);
        let gnu = h.as_gnu_mut().unwrap();
        for (at, slot) in gnu.sparse.iter_mut().enumerate() {
            slot.set_offset(at as u64 * 10);
            slot.set_length(1);
        }
        gnu.set_is_extended(true);
        gnu.set_real_size(1000);
    });
    let tar = Tar::new()
        .header(head)
        .bytes(extension.as_bytes())
        .bytes("x".repeat(25))
        .pad()
        .file("next", "")
        .finish();
    let store = Store::default();
    let layer = store.read(&tar).unwrap().0;
    let contents = store.get(layer.kind(layer.find(b"f").unwrap()));
    assert_eq!(contents.len(), 1000);
    assert_eq!(contents.iter().filter(|&&byte| byte == b'x').count(), 25);
    assert_eq!(contents[300], b'x');
    assert!(layer.find(b"next").is_some());
}

#[test]
fn sparse_maps_that_lie_are_refused() {
    for map in [
        "2,3,4,3",
        "10,3,2,3",
        "2,3,18,3",
        "2,3",
        "2,3,10,4",
        "2,3,10",
        "x,3,10,3",
        "-2,3,10,3",
    ] {
        let tar = Tar::new()
            .pax("GNU.sparse.size", "20")
            .pax("GNU.sparse.map", map)
            .file("f", "abcdef")
            .finish();
        let problem = problem(&tar);
        assert!(
            matches!(problem, Problem::SparseMap | Problem::NegativeSize),
            "{map}: {problem:?}"
        );
    }
    for body in ["", "99999999\n", "2\n2\n", "nonsense\n", "1\n0\n99999\n"] {
        let mut bytes = body.as_bytes().to_vec();
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        let tar = Tar::new()
            .pax("GNU.sparse.major", "1")
            .pax("GNU.sparse.minor", "0")
            .pax("GNU.sparse.realsize", "20")
            .file("f", bytes)
            .finish();
        let problem = problem(&tar);
        assert!(
            matches!(problem, Problem::SparseMap | Problem::Limit { .. }),
            "{body:?}: {problem:?}"
        );
    }
}

#[test]
fn global_headers_volume_labels_and_multi_volume_parts_are_tolerated() {
    let tar = Tar::new()
        .pax_global("comment", "0123456789abcdef")
        .pax_global("mtime", "5.25")
        .raw(b"label", b'V', b"", b"")
        .raw(b"part", b'M', b"", b"the rest of a file of another volume")
        .file("f", "1")
        .pax("mtime", "6")
        .file("g", "2")
        .finish();
    let (layer, stats) = Store::default().read(&tar).unwrap();
    assert_eq!(layer_lines(&tar), ["f = 1", "g = 2"]);
    let mtime = |name: &[u8]| layer.attributes(layer.find(name).unwrap()).mtime;
    assert_eq!(
        mtime(b"f"),
        Timestamp {
            secs: 5,
            nanos: 250_000_000
        }
    );
    assert_eq!(mtime(b"g"), Timestamp { secs: 6, nanos: 0 });
    assert_eq!(stats.warning_count, 2);
    assert_eq!(stats.entries, 2);
}

#[test]
fn v7_and_contiguous_files_are_regular() {
    let mut v7 = Header::new_old();
    v7.as_old_mut().name[0] = b'f';
    v7.set_mode(0o644);
    v7.set_size(1);
    v7.as_old_mut().linkflag = [0];
    let tar = Tar::new().header(*v7.as_bytes()).bytes("1").pad().finish();
    assert_eq!(layer_lines(&tar), ["f = 1"]);
    assert_eq!(
        layer_lines(&Tar::new().entry("f", b'7', "", "1").finish()),
        ["f = 1"]
    );
    // Before there was a type for directories, their names ended in a slash.
    let tar = Tar::new().entry("d/", 0, "", "").finish();
    assert_eq!(layer_lines(&tar), ["d/"]);
    let tar = Tar::new().entry("f", b'Q', "", "").finish();
    assert_eq!(problem(&tar), Problem::UnknownType { kind: b'Q' });
}

#[test]
fn names_and_targets_that_are_not_utf_8_are_kept_as_bytes() {
    let tar = Tar::new()
        .file(b"\xff\xfe\x80", "1")
        .symlink(b"\xc3\x28", b"\xa0\xa1\n")
        .pax("path", b"\xe2\x28\xa1")
        .file("x", "2")
        .file("a", "")
        .file("A", "")
        .finish();
    let layer = layer(&tar);
    assert!(layer.find(b"\xff\xfe\x80").is_some());
    assert_eq!(
        layer.kind(layer.find(b"\xc3\x28").unwrap()),
        Kind::Symlink(b"\xa0\xa1\n")
    );
    assert!(layer.find(b"\xe2\x28\xa1").is_some());
    assert_ne!(layer.find(b"a"), layer.find(b"A"));
}

#[test]
fn nul_or_a_component_over_255_bytes_is_refused() {
    let path = "x".repeat(255);
    layer(&Tar::new().file(&path, "").finish());
    for path in ["x".repeat(256), format!("{}/f", "x".repeat(256))] {
        assert_eq!(
            problem(&Tar::new().file(&path, "").finish()),
            Problem::NameTooLong { bytes: 256 }
        );
    }
    let tar = Tar::new().pax("path", b"a\0b").file("f", "").finish();
    assert!(matches!(problem(&tar), Problem::Pax { .. }));
    let tar = Tar::new()
        .pax("linkpath", b"a\0b")
        .symlink("f", "x")
        .finish();
    assert!(matches!(problem(&tar), Problem::Pax { .. }));
    let tar = Tar::new()
        .pax("GNU.sparse.name", b"a\0b")
        .file("f", "")
        .finish();
    assert_eq!(problem(&tar), Problem::Nul);
}

#[test]
fn symlink_targets_go_up_to_4095_bytes() {
    let target = "t/".repeat(2047) + "t";
    assert_eq!(target.len(), 4095);
    assert_eq!(
        layer_lines(&Tar::new().symlink("s", &target).finish()),
        [format!("s -> {target}")]
    );
    let tar = Tar::new().symlink("s", target + "t").finish();
    assert_eq!(
        problem(&tar),
        Problem::Limit {
            name: "symlink_bytes",
            limit: 4095
        }
    );
    assert_eq!(
        problem(&Tar::new().symlink("s", "").finish()),
        Problem::EmptyTarget
    );
}

#[test]
fn xattrs_of_both_spellings_are_decoded_and_unknown_namespaces_dropped() {
    let tar = Tar::new()
        .xattr("user.raw", b"a\0b\n=")
        .xattr("security.capability", b"\x01\x00\x00\x02")
        .xattr("system.posix_acl_access", b"\x02\x00\x00\x00")
        .xattr("trusted.t", "t")
        .pax("LIBARCHIVE.xattr.user.b%3d64%25", "YQBiCg")
        .pax("LIBARCHIVE.xattr.user.raw", "eHh4")
        .xattr("com.apple.quarantine", "x")
        .xattr("system.nfs4_acl", "x")
        .xattr("user.", "x")
        .file("f", "")
        .finish();
    let (_, stats) = Store::default().read(&tar).unwrap();
    let pair = |name: &[u8], value: &[u8]| (name.to_vec(), value.to_vec());
    assert_eq!(
        &only(&tar).xattrs[..],
        [
            pair(b"security.capability", b"\x01\x00\x00\x02"),
            pair(b"system.posix_acl_access", b"\x02\x00\x00\x00"),
            pair(b"trusted.t", b"t"),
            pair(b"user.b=64%", b"a\0b\n"),
            pair(b"user.raw", b"a\0b\n="),
        ]
    );
    assert_eq!(stats.warning_count, 3);
    let dropped = WarningKind::UnknownXattr {
        name: b"com.apple.quarantine".to_vec(),
    };
    assert_eq!(stats.warnings[0].kind, dropped);
    assert_eq!(stats.warnings[0].path, b"f");
    for (key, value) in [
        ("LIBARCHIVE.xattr.user.a", "Y"),
        ("LIBARCHIVE.xattr.user.%4", "YQ"),
    ] {
        let problem = problem(&Tar::new().pax(key, value).file("f", "").finish());
        assert!(matches!(problem, Problem::PaxValue { .. }));
    }
}

#[test]
fn malformed_acls_are_dropped_with_a_warning() {
    let tar = Tar::new()
        .xattr("system.posix_acl_access", "nonsense")
        .xattr(
            "system.posix_acl_default",
            b"\x02\x00\x00\x00\x03\x00\x06\x00\x00\x00\x00\x00",
        )
        .xattr("user.kept", "x")
        .file("d/\n", "")
        .finish();
    let (layer, stats) = Store::default().read(&tar).unwrap();
    let xattrs = &layer.attributes(layer.find(b"d/\n").unwrap()).xattrs;
    assert_eq!(xattrs[..], [(b"user.kept".to_vec(), b"x".to_vec())]);
    let told: Vec<_> = stats.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            r"d/\n: dropped the malformed ACL system.posix_acl_access",
            r"d/\n: dropped the malformed ACL system.posix_acl_default",
        ]
    );
}

#[test]
fn overlayfs_xattrs_of_a_layer_are_escaped() {
    let tar = Tar::new()
        .xattr("trusted.overlay.opaque", "y")
        .xattr("trusted.overlay.overlay.opaque", "y")
        .xattr("trusted.overlayish", "z")
        .dir("d/")
        .finish();
    assert_eq!(layer_lines(&tar), ["d/"]);
    let names: Vec<_> = only(&tar)
        .xattrs
        .iter()
        .map(|(name, _)| name.clone())
        .collect();
    assert_eq!(
        names,
        [
            &b"trusted.overlay.overlay.opaque"[..],
            b"trusted.overlay.overlay.overlay.opaque",
            b"trusted.overlayish"
        ]
    );
}

#[test]
fn xattr_names_and_values_are_bounded() {
    let tar = Tar::new()
        .xattr(&format!("user.{}", "n".repeat(250)), vec![1; 65_535])
        .file("f", "");
    assert_eq!(only(&tar.finish()).xattrs[0].1.len(), 65_535);
    let tar = Tar::new()
        .xattr(&format!("user.{}", "n".repeat(251)), "")
        .file("f", "")
        .finish();
    assert_eq!(problem(&tar), Problem::NameTooLong { bytes: 256 });
    let tar = Tar::new()
        .xattr("user.a", vec![1; 65_536])
        .file("f", "")
        .finish();
    assert!(matches!(
        problem(&tar),
        Problem::Limit {
            name: "xattr_value_bytes",
            ..
        }
    ));
}

#[test]
fn limits_are_typed_errors() {
    let tar = Tar::new()
        .file("a/b/c", "1")
        .file("d", "2")
        .file("e", "3")
        .finish();
    let with = |change: fn(&mut Limits)| {
        let mut limits = Limits::default();
        change(&mut limits);
        match read_tar(&tar[..], &mut (), &limits) {
            Err(ReadError::Layer(Error::Entry {
                problem: Problem::Limit { name, .. },
                ..
            })) => name,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(with(|limits| limits.entries = 2), "entries");
    assert_eq!(with(|limits| limits.path_bytes = 4), "path_bytes");
    assert_eq!(with(|limits| limits.depth = 2), "depth");
    assert_eq!(with(|limits| limits.name_bytes = 3), "name_bytes");
    assert_eq!(with(|limits| limits.file_bytes = 0), "file_bytes");
    let mut limits = Limits::default();
    limits.extended_header_bytes = 100;
    let tar = Tar::new()
        .xattr("user.a", vec![1; 200])
        .file("f", "")
        .finish();
    match read_tar(&tar[..], &mut (), &limits) {
        Err(ReadError::Layer(Error::Entry { problem, .. })) => {
            assert_eq!(
                problem,
                Problem::Limit {
                    name: "extended_header_bytes",
                    limit: 100
                }
            );
        }
        other => panic!("{other:?}"),
    }
}

/// Reads a little and fails, or does not read at all.
struct Failing(bool);

impl Sink for Failing {
    type Error = io::Error;

    fn file(&mut self, _: &[u8], mut content: Content<'_>) -> io::Result<DataId> {
        content.read_exact(&mut [0; 1])?;
        if self.0 {
            Err(io::ErrorKind::StorageFull.into())
        } else {
            Ok(DataId(1))
        }
    }
}

#[test]
fn a_failing_sink_is_told_apart_from_a_failing_archive() {
    let tar = Tar::new().file("d/f", "12345").file("g", "6").finish();
    match read_tar(&tar[..], &mut Failing(true), &Limits::default()) {
        Err(ReadError::Sink { path, source }) => {
            assert_eq!(path, b"d/f");
            assert_eq!(source.kind(), io::ErrorKind::StorageFull);
        }
        other => panic!("{other:?}"),
    }
    let (layer, _) = read_tar(&tar[..], &mut Failing(false), &Limits::default()).unwrap();
    assert!(layer.find(b"g").is_some());
    match read_tar(&tar[..512], &mut Failing(false), &Limits::default()) {
        Err(ReadError::Layer(Error::Truncated { offset: 512 })) => {}
        other => panic!("{other:?}"),
    }
    let broken = io::Cursor::new(&tar[..512]).chain(Broken);
    match read_tar(broken, &mut Failing(false), &Limits::default()) {
        Err(ReadError::Layer(Error::Io {
            offset: 512,
            source,
        })) => {
            assert_eq!(source.to_string(), "the line is dead");
        }
        other => panic!("{other:?}"),
    }
}

struct Broken;

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::other("the line is dead"))
    }
}
