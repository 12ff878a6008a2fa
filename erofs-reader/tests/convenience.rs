//! What `std::fs` has, on an image; progress; what is serialised.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Cursor, Write};
use std::sync::{Arc, Mutex};

use erofs_reader::extract::{DirOptions, TarOptions, extract_to_dir, extract_to_tar};
use erofs_reader::{CheckOptions, Corruption, Done, Error, FileType, Image, MAX_READ, Progress};
use erofs_writer::{Builder, ChunkSize, Metadata, Node, Options};

/// `/etc/text`, `/etc/bytes`, `/huge`, `/run` → `/etc`, `/broken` → nowhere.
fn image() -> Image<Vec<u8>> {
    Image::open(bytes()).unwrap()
}

fn bytes() -> Vec<u8> {
    let mut builder = Builder::new(Cursor::new(Vec::new()), Options::default()).unwrap();
    let mut data = builder.data_in_chunks(ChunkSize::from_block_bits(31).unwrap());
    data.hole(1 << 50).unwrap();
    let huge = data.finish().unwrap();
    let mut files = vec![("huge".to_owned(), huge)];
    for (path, contents) in [
        ("etc/text", &b"a\xc3\xbc\n"[..]),
        ("etc/bytes", b"\xff\x00"),
    ] {
        let mut data = builder.data();
        data.write_all(contents).unwrap();
        files.push((path.to_owned(), data.finish().unwrap()));
    }
    let mut add = |path: &str, node: Node| {
        builder
            .add_path(path.as_bytes(), Metadata::new(0o644), node)
            .unwrap();
    };
    for (path, contents) in files {
        add(&path, Node::File(contents));
    }
    add("run", Node::Symlink(b"/etc".to_vec()));
    add("broken", Node::Symlink(b"nowhere".to_vec()));
    builder.finish().unwrap().0.into_inner()
}

#[test]
fn files_are_read_whole_through_links() {
    let image = image();
    assert_eq!(image.read("/etc/bytes").unwrap(), b"\xff\x00");
    assert_eq!(image.read(b"run/bytes").unwrap(), b"\xff\x00");
    assert_eq!(image.read_to_string("run/text").unwrap(), "aü\n");
    let error = image.read_to_string("etc/bytes").unwrap_err();
    assert!(matches!(error, Error::NotUtf8 { .. }), "{error:?}");
    let error = image.read("etc").unwrap_err();
    assert!(matches!(error, Error::WrongType { .. }), "{error:?}");
    let error = image.read("etc/none").unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
}

#[test]
fn read_refuses_files_larger_than_its_limit() {
    let error = image().read("huge").unwrap_err();
    assert!(
        matches!(error, Error::Limit { limit: MAX_READ }),
        "{error:?}"
    );
}

#[test]
fn metadata_follows_links_and_symlink_metadata_all_but_the_last() {
    let image = image();
    let of = |path: &str| image.metadata(path).unwrap().file_type();
    let of_link = |path: &str| image.symlink_metadata(path).unwrap().file_type();
    assert_eq!(of("run"), FileType::Directory);
    assert_eq!(of_link("run"), FileType::Symlink);
    assert_eq!(of_link("run/text"), FileType::Regular);
    assert_eq!(of_link("broken"), FileType::Symlink);
    let error = image.metadata("broken").unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
    assert!(image.exists("run/text").unwrap());
    assert!(!image.exists("broken").unwrap());
    assert!(!image.exists("run/none").unwrap());
    assert!(image.exists("run/text/below").is_err());
    assert_eq!(image.lookup("none").unwrap(), None);
    assert_eq!(image.resolve("broken").unwrap(), None);
    let link = image.lookup("run").unwrap().unwrap();
    assert_eq!(link.file_type(), FileType::Symlink);
}

#[test]
fn progress_ends_with_all_names_and_bytes() {
    let listen = || {
        let last = Arc::new(Mutex::new(Done::default()));
        let seen = last.clone();
        // Threads may report in any order.
        let progress = Progress::new(move |done| {
            let mut last = seen.lock().unwrap();
            last.entries = last.entries.max(done.entries);
            last.bytes = last.bytes.max(done.bytes);
        });
        (progress, move || *last.lock().unwrap())
    };
    let image = image();
    let all = (1 << 50) + 6;
    let (progress, last) = listen();
    let done = extract_to_tar(
        &image,
        std::io::sink(),
        &TarOptions::default().progress(progress),
    )
    .unwrap();
    assert_eq!((done.entries, done.bytes), (7, all));
    assert_eq!((last().entries, last().bytes), (7, all));

    let (progress, last) = listen();
    let report = image.check_with(&CheckOptions::default().contents(true).progress(progress));
    assert_eq!(report.findings, []);
    assert_eq!((last().entries, last().bytes), (7, all));

    // No file system takes the huge one.
    let mut builder = Builder::new(Cursor::new(Vec::new()), Options::default()).unwrap();
    for (name, length) in [("small", 10_usize), ("large", 10 << 20)] {
        let mut data = builder.data();
        data.write_all(&vec![1; length]).unwrap();
        let contents = data.finish().unwrap();
        builder
            .add_path(name.as_bytes(), Metadata::new(0o644), Node::File(contents))
            .unwrap();
    }
    let image = Image::open(builder.finish().unwrap().0.into_inner()).unwrap();
    let (progress, last) = listen();
    let folder = tempfile::tempdir().unwrap();
    let options = DirOptions::unprivileged().progress(progress);
    extract_to_dir(&image, folder.path(), &options).unwrap();
    assert_eq!((last().entries, last().bytes), (3, (10 << 20) + 10));
}

#[test]
fn an_image_in_an_image_is_read_in_place() {
    let mut builder = Builder::new(Cursor::new(Vec::new()), Options::default()).unwrap();
    let mut data = builder.data();
    data.write_all(&bytes()).unwrap();
    let inner = Node::File(data.finish().unwrap());
    builder
        .add_path(b"inner.erofs", Metadata::new(0o644), inner)
        .unwrap();
    let outer = Image::open(builder.finish().unwrap().0.into_inner()).unwrap();
    let file = outer.file(&outer.metadata("inner.erofs").unwrap()).unwrap();
    let image = Image::open(file).unwrap();
    assert_eq!(image.read_to_string("run/text").unwrap(), "aü\n");
}

#[cfg(feature = "lz4")]
#[test]
fn threads_read_one_file_at_once() {
    use erofs_writer::{Algorithm, Compression};

    let contents: Vec<u8> = (0..400_000_u32)
        .flat_map(|n| (n / 7).to_le_bytes())
        .collect();
    let options = Options::default().compression(Compression::new(Algorithm::Lz4));
    let mut builder = Builder::new(Cursor::new(Vec::new()), options).unwrap();
    let mut data = builder.data();
    data.write_all(&contents).unwrap();
    let file = Node::File(data.finish().unwrap());
    builder
        .add_path(b"file", Metadata::new(0o644), file)
        .unwrap();
    let image = Image::open(builder.finish().unwrap().0.into_inner()).unwrap();
    let file = image.file(&image.metadata("file").unwrap()).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (file, contents) = (&file, &contents);
            scope.spawn(move || {
                let mut buffer = [0; 1000];
                for step in 0..400 {
                    let at = (thread * 400 + step) * 997 % contents.len();
                    let read = file.read_at(&mut buffer, at as u64).unwrap();
                    assert!(read > 0 && buffer[..read] == contents[at..][..read]);
                }
            });
        }
    });
}

#[test]
fn a_corruption_has_a_kind_and_shows_its_detail() {
    let mut bytes = vec![0; 4096];
    bytes[1024..1028].copy_from_slice(&0xe0f5_e1e2_u32.to_le_bytes());
    bytes[1024 + 12] = 40;
    let error = Image::open(bytes).unwrap_err();
    let Error::Corrupt { what, .. } = &error else {
        panic!("{error:?}");
    };
    assert_eq!(what.kind(), erofs_reader::CorruptionKind::Superblock);
    assert_eq!(what.to_string(), "block size of 2^40 bytes");
    fn is_error<E: std::error::Error + Send + Sync>(_: &E) {}
    is_error::<Corruption>(what);
}

#[cfg(feature = "serde")]
#[test]
fn lists_are_serialised_with_names_as_text() {
    let image = image();
    let inode = image.metadata("etc/text").unwrap();
    let value = serde_json::to_value(inode).unwrap();
    assert_eq!(value["file_type"], "Regular");
    assert_eq!(value["size"], 4);
    assert_eq!(value["mtime"]["secs"], 0);
    let etc = image.metadata("etc").unwrap();
    let entries: Vec<_> = image.read_dir(&etc).unwrap().map(Result::unwrap).collect();
    let value = serde_json::to_value(&entries).unwrap();
    assert_eq!(value[0]["name"], "bytes");
    let value = serde_json::to_value(image.superblock()).unwrap();
    assert_eq!(value["devices"], serde_json::json!([]));
    assert_eq!(value.get("raw"), None);
}
