//! EDGES "Tar framing": sparse files of every GNU format.

use crate::support::{Store, header, layer_lines, problem};
use fsmerge::{Content, DataId, Limits, Problem, Segment, Sink, read_tar};
use std::io::{self, BufRead, Read};
use testkit::TarBuilder as Tar;

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
fn contents_seen_where_they_are_in_memory_have_their_holes_and_end_with_the_file() {
    let tar = Tar::new()
        .pax("GNU.sparse.size", "9000")
        .pax("GNU.sparse.map", "2,3,10,3")
        .file("f", "abcdef")
        .file("next", "1234567890")
        .file("last", "")
        .finish();
    for window in [1, 5, 512, 1 << 20] {
        for most in [usize::MAX, 4] {
            let tar = io::BufReader::with_capacity(window, &tar[..]);
            let mut seen = Seen(Vec::new(), most);
            let (layer, _) = read_tar(tar, &mut seen, &Limits::default()).unwrap();
            let mut sparse = vec![0; 9000];
            sparse[2..5].copy_from_slice(b"abc");
            sparse[10..13].copy_from_slice(b"def");
            let cut = |contents: &[u8]| contents[..contents.len().min(most)].to_vec();
            assert_eq!(seen.0, [cut(&sparse), cut(b"1234567890")], "{window}");
            assert!(layer.lookup(b"last").is_some());
        }
    }
}

/// Keeps contents up to a length, which it does not copy in between.
struct Seen(Vec<Vec<u8>>, usize);

impl Sink for Seen {
    type Error = io::Error;

    fn file(&mut self, _: &[u8], mut content: Content<'_>) -> io::Result<DataId> {
        let mut all = Vec::new();
        while all.len() < self.1 {
            let bytes = content.fill_buf()?;
            if bytes.is_empty() {
                break;
            }
            let n = bytes.len().min(self.1 - all.len());
            all.extend_from_slice(&bytes[..n]);
            content.consume(n);
        }
        self.0.push(all);
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
    let contents = store.get(layer.kind(layer.lookup(b"f").unwrap()));
    assert_eq!(contents.len(), 1000);
    assert_eq!(contents.iter().filter(|&&byte| byte == b'x').count(), 25);
    assert_eq!(contents[300], b'x');
    assert!(layer.lookup(b"next").is_some());
}

#[test]
fn sparse_maps_that_contradict_the_file_are_refused() {
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
