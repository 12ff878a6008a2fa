//! The content store returns what each kind of layer holds, holes included, in any order.
#![cfg(all(feature = "dir", unix))]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use fsmerge::{ContentStore, Contents, Kind, LayerTree, Limits, ReadError};
use std::fs::{self, File};
use std::io::{Cursor, ErrorKind, Read};
use std::os::unix::fs::FileExt;
use testkit::TarBuilder;

/// The bytes of the file at `path`, holes as zeros.
fn read(contents: &mut ContentStore<'_>, layer: &LayerTree, path: &str) -> Vec<u8> {
    let Kind::File { size, data } = layer.kind(layer.lookup(path.as_bytes()).unwrap()) else {
        panic!("{path} is not a file")
    };
    let mut bytes = vec![0; size as usize];
    let mut opened = contents.open(data.unwrap()).unwrap();
    for range in opened.ranges {
        let part = &mut bytes[range.start as usize..range.end as usize];
        opened.data.read_exact(part).unwrap();
    }
    assert_eq!(opened.data.read(&mut [0]).unwrap(), 0);
    bytes
}

#[test]
fn contents_of_streams_archives_and_folders_are_returned_in_any_order() {
    let limits = Limits::default();
    let folder = tempfile::tempdir().unwrap();
    let sparse = File::create(folder.path().join("sparse")).unwrap();
    sparse.write_all_at(&[7; 4096], 1 << 16).unwrap();
    sparse.set_len(1 << 17).unwrap();
    fs::write(folder.path().join("plain"), "of a folder").unwrap();
    let tar = |text: &str| {
        TarBuilder::new()
            .file("first", text)
            .file("second", vec![3; 70_000])
            .finish()
    };
    let spool = tempfile::tempfile().unwrap();
    for mut contents in [
        ContentStore::in_memory(),
        ContentStore::in_file(spool).unwrap(),
    ] {
        let one = contents.read_tar(&tar("one")[..], &limits).unwrap().0;
        assert_eq!(read(&mut contents, &one, "first"), b"one");
        let two = contents.read_tar(&tar("two")[..], &limits).unwrap().0;
        let kept = Cursor::new(tar("kept"));
        let archive = contents.read_archive(kept, &limits).unwrap().0;
        let folder = contents.read_dir(folder.path(), &limits).unwrap().0;
        for _ in 0..2 {
            assert_eq!(read(&mut contents, &folder, "plain"), b"of a folder");
            assert_eq!(read(&mut contents, &two, "first"), b"two");
            assert_eq!(read(&mut contents, &archive, "second"), [3; 70_000]);
            assert_eq!(read(&mut contents, &one, "second"), [3; 70_000]);
            assert_eq!(read(&mut contents, &archive, "first"), b"kept");
            let bytes = read(&mut contents, &folder, "sparse");
            assert_eq!(bytes.len(), 1 << 17);
            assert_eq!(bytes[1 << 16..][..4096], [7; 4096]);
            assert!(bytes[..1 << 16].iter().all(|&byte| byte == 0));
        }
    }
}

#[test]
fn unknown_ids_and_cut_archives_are_errors() {
    let mut contents = ContentStore::in_memory();
    let unknown = contents.open(fsmerge::DataId(0)).unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::NotFound);
    let tar = TarBuilder::new().file("f", vec![1; 5000]).finish();
    let cut = Cursor::new(tar[..2000].to_vec());
    let refused = contents.read_archive(cut, &Limits::default());
    assert!(matches!(
        refused,
        Err(ReadError::Layer(fsmerge::Error::Truncated { .. }))
    ));
}

#[test]
fn file_of_a_folder_that_is_gone_is_an_error_when_it_is_opened() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f");
    fs::write(&path, "text").unwrap();
    let mut contents = ContentStore::in_memory();
    let limits = Limits::default();
    let layer = contents.read_dir(folder.path(), &limits).unwrap().0;
    fs::remove_file(&path).unwrap();
    let Kind::File { data, .. } = layer.kind(layer.lookup(b"f").unwrap()) else {
        panic!("not a file")
    };
    let gone = contents.open(data.unwrap()).unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
}
