//! EDGES "Tar framing": what an archive may look like, and what is refused.

use crate::support::{Store, layer, layer_lines, problem};
use fsmerge::{
    Content, DataId, Error, Limits, Problem, ReadError, Sink, Timestamp, WarningKind, read_tar,
    read_tar_seek,
};
use std::io::{self, BufRead, BufReader, Cursor, Read};
use tar::Header;
use testkit::TarBuilder as Tar;

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
fn truncated_body_or_header_is_an_error() {
    let tar = Tar::new()
        .xattr("user.a", "value")
        .file("a", vec![7; 1000])
        .file("b", "")
        .unfinished();
    // Two headers and a record block, 1000 bytes in two blocks, one header.
    assert_eq!(tar.len(), 3 * 512 + 1024 + 512);
    for cut in 1..tar.len() {
        let read = Store::default().read(&tar[..cut]);
        // The zeros after the last body may be missing: Go's writers leave them out now and then.
        if (1536 + 1000..=1536 + 1024).contains(&cut) {
            assert_eq!(read.unwrap().1.content_bytes, 1000, "{cut}");
        } else {
            match read {
                Err(Error::NotTar) => assert!(cut < 512, "{cut}"),
                Err(Error::Truncated { offset }) => assert_eq!(offset, cut as u64),
                // An extended header with nothing after it.
                Ok((layer, _)) => {
                    assert!((513..=1024).contains(&cut) && layer.is_empty(), "{cut}");
                }
                Err(e) => panic!("{cut}: {e}"),
            }
        }
    }
}

#[test]
fn a_file_of_another_format_is_no_empty_archive() {
    let mut disk = vec![0; 4096];
    disk[1080..1082].copy_from_slice(&[0x53, 0xef]);
    for (bytes, expected) in [
        (&disk[..], "an ext file system"),
        (b"PK\x03\x04", "a zip archive"),
    ] {
        match Store::default().read(bytes) {
            Err(Error::OtherFormat { format }) => assert_eq!(format, expected),
            other => panic!("{expected}: {other:?}"),
        }
    }
    // Zeros alone, and what nobody knows after them, are an empty archive.
    for rest in [0, 0xa5] {
        let bytes = [vec![0; 1024], vec![rest; 40_000]].concat();
        assert_eq!(layer_lines(&bytes), [""; 0]);
    }
}

#[test]
fn seeking_and_streaming_agree_wherever_the_archive_ends() {
    let tar = Tar::new()
        .xattr("user.a", "value")
        .file("a", vec![7; 20_000])
        .file("b", vec![8; 700])
        .symlink("c", "a")
        .finish();
    let limits = Limits::default();
    for cut in 0..=tar.len() {
        // Behind bytes that are not the archive's, to the end of what there is.
        let all = [&[0xa5; 100], &tar[..cut]].concat();
        let mut archive = Cursor::new(all);
        archive.set_position(100);
        // A buffer smaller than bodies, so that some of them are left out of it.
        let archive = BufReader::with_capacity(1024, archive);
        let sought = read_tar_seek(archive, &mut (), &limits);
        let read = read_tar(&tar[..cut], &mut (), &limits);
        match (sought, read) {
            (Ok((sought, stats)), Ok((read, expected))) => {
                assert_eq!(format!("{sought:?}"), format!("{read:?}"), "{cut}");
                assert_eq!(stats, expected);
            }
            (Err(sought), Err(read)) => {
                assert_eq!(sought.to_string(), read.to_string(), "{cut}");
            }
            (sought, read) => panic!("{cut}: {sought:?}, {read:?}"),
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
    assert!(layer.lookup(b"b").is_none());
    assert_eq!(stats.warnings[0].kind, WarningKind::LoneZeroBlock);
    // Garbage where a header should be is damage.
    let tar = Tar::new().file("a", "1").bytes([0xa5; 512]).finish();
    assert_eq!(problem(&tar), Problem::Checksum);
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
    assert_eq!(layer.metadata(layer.lookup(b"a").unwrap()).uid, 7);
    let b = layer.metadata(layer.lookup(b"b").unwrap());
    assert_eq!(b.uid, 3);
    assert_eq!(b.xattrs.get(b"user.empty"), Some(&b""[..]));
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
    let mtime = |name: &[u8]| layer.metadata(layer.lookup(name).unwrap()).mtime;
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
fn a_failing_sink_and_a_failing_archive_are_different_errors() {
    let tar = Tar::new().file("d/f", "12345").file("g", "6").finish();
    match read_tar(&tar[..], &mut Failing(true), &Limits::default()) {
        Err(ReadError::Sink { path, source, .. }) => {
            assert_eq!(path, b"d/f");
            assert_eq!(source.kind(), io::ErrorKind::StorageFull);
        }
        other => panic!("{other:?}"),
    }
    let (layer, _) = read_tar(&tar[..], &mut Failing(false), &Limits::default()).unwrap();
    assert!(layer.lookup(b"g").is_some());
    match read_tar(&tar[..512], &mut Failing(false), &Limits::default()) {
        Err(ReadError::Layer(Error::Truncated { offset: 512 })) => {}
        other => panic!("{other:?}"),
    }
    let broken = Cursor::new(&tar[..512]).chain(Broken);
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

impl BufRead for Broken {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        Err(io::Error::other("the line is dead"))
    }

    fn consume(&mut self, _: usize) {}
}
