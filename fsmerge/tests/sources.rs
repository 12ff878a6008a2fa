//! Layers from archives, directories and images, in one call.
#![cfg(all(feature = "dir", feature = "erofs", unix))]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use fsmerge::{
    Content, ContentStore, DataId, Done, Error, Kind, LayerSource, Limits, Merge, MergeError,
    Problem, Progress, ReadError, Segment, Sink, merge, read_dir,
};
use rustix::fs::{XattrFlags, lsetxattr};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::sync::{Arc, Mutex};
use testkit::{Node, TarBuilder};

/// Keeps contents and where their data is.
#[derive(Default)]
struct Store(Vec<(Vec<u8>, Vec<Segment>)>);

impl Sink for Store {
    type Error = io::Error;

    fn file(&mut self, _: &[u8], mut content: Content<'_>) -> io::Result<DataId> {
        let (mut bytes, mut segments) = (Vec::new(), Vec::new());
        while let Some(segment) = content.next_segment() {
            segments.push(segment);
            match segment {
                Segment::Data(len) => {
                    let read = (&mut content).take(len).read_to_end(&mut bytes)?;
                    assert_eq!(read as u64, len);
                }
                Segment::Hole(len) => bytes.resize(bytes.len() + len as usize, 0),
                other => panic!("{other:?}"),
            }
        }
        self.0.push((bytes, segments));
        Ok(DataId(self.0.len() as u64 - 1))
    }
}

impl Store {
    fn get(&self, kind: Kind<'_>) -> &(Vec<u8>, Vec<Segment>) {
        let Kind::File {
            data: Some(DataId(id)),
            size,
        } = kind
        else {
            panic!("{kind:?}")
        };
        let found = &self.0[id as usize];
        assert_eq!(found.0.len() as u64, size);
        found
    }
}

const HOLE: u64 = 1 << 16;

#[test]
fn a_directory_keeps_links_holes_attributes_and_names_that_look_like_whiteouts() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    fs::create_dir(at("d")).unwrap();
    fs::set_permissions(at("d"), fs::Permissions::from_mode(0o1750)).unwrap();
    fs::write(at("d/.wh.x"), "no whiteout").unwrap();
    fs::write(at("empty"), "").unwrap();
    fs::write(at("file"), "contents").unwrap();
    fs::hard_link(at("file"), at("d/link")).unwrap();
    symlink("../file", at("d/symlink")).unwrap();
    Node::Fifo.make(at("fifo"), 0o600).unwrap();
    let sparse = File::create(at("sparse")).unwrap();
    sparse.write_all_at(&[7; 4096], HOLE).unwrap();
    sparse.set_len(3 * HOLE).unwrap();
    File::create(at("hole")).unwrap().set_len(HOLE).unwrap();
    let tagged = lsetxattr(at("file"), "user.tag", b"v", XattrFlags::empty()).is_ok();

    let mut store = Store::default();
    let (layer, stats) = read_dir(root.path(), &mut store, &Limits::default()).unwrap();
    let names: Vec<_> = layer.walk().map(|(path, _)| path.to_string()).collect();
    assert_eq!(
        names,
        [
            "",
            "d",
            "d/.wh.x",
            "d/link",
            "d/symlink",
            "empty",
            "fifo",
            "file",
            "hole",
            "sparse"
        ]
    );
    let kind = |path: &str| layer.kind(layer.lookup(path.as_bytes()).unwrap());
    assert_eq!(store.get(kind("d/.wh.x")).0, b"no whiteout");
    assert_eq!(layer.lookup(b"file"), layer.lookup(b"d/link"));
    assert_eq!(layer.nlink(layer.lookup(b"file").unwrap()), 2);
    assert_eq!(kind("d/symlink"), Kind::Symlink(b"../file"));
    assert_eq!(kind("fifo"), Kind::Fifo);
    assert_eq!(
        kind("empty"),
        Kind::File {
            size: 0,
            data: None
        }
    );
    assert_eq!(layer.metadata(layer.lookup(b"d").unwrap()).mode, 0o1750);
    let xattrs = &layer.metadata(layer.lookup(b"file").unwrap()).xattrs;
    assert_eq!(xattrs.get(b"user.tag"), tagged.then_some(&b"v"[..]));
    let (bytes, segments) = store.get(kind("sparse"));
    assert_eq!(bytes[HOLE as usize..][..4096], [7; 4096]);
    assert!(bytes[HOLE as usize + 4096..].iter().all(|&byte| byte == 0));
    // A file system without holes says that all is data.
    if segments.len() > 1 {
        let expected = [
            Segment::Hole(HOLE),
            Segment::Data(4096),
            Segment::Hole(2 * HOLE - 4096),
        ];
        assert_eq!(segments, &expected);
        assert_eq!(store.get(kind("hole")).1, [Segment::Hole(HOLE)]);
    }
    assert_eq!((stats.files, stats.warning_count), (4, 0));
}

#[test]
fn overlay_marks_of_a_directory_do_not_act_and_whiteout_devices_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let opaque = root.path().join("opaque");
    fs::create_dir(&opaque).unwrap();
    if lsetxattr(&opaque, "trusted.overlay.opaque", b"y", XattrFlags::empty()).is_err() {
        return;
    }
    let (layer, _) = read_dir(root.path(), &mut (), &Limits::default()).unwrap();
    let id = layer.lookup(b"opaque").unwrap();
    assert!(matches!(
        layer.kind(id),
        Kind::Directory { opaque: false, .. }
    ));
    let xattrs = &layer.metadata(id).xattrs;
    assert_eq!(
        xattrs.get(b"trusted.overlay.overlay.opaque"),
        Some(&b"y"[..])
    );

    let device = opaque.join("device");
    if Node::CharDevice(0, 0).make(&device, 0o600).is_err() {
        testkit::skip("only root makes devices");
        return;
    }
    let error = read_dir(root.path(), &mut (), &Limits::default()).unwrap_err();
    let ReadError::Layer(Error::Node { path, problem }) = error else {
        panic!("{error}")
    };
    assert_eq!(
        (&path[..], problem),
        (&b"opaque/device"[..], Problem::WhiteoutDevice)
    );
}

/// An image of a layer: a file with a hole and two names, and a whiteout of `gone`. None where no
/// tool makes one.
fn image() -> Option<Vec<u8>> {
    let mut mkfs = testkit::oracle("mkfs.erofs")?;
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    fs::create_dir(&root).unwrap();
    let file = File::create(root.join("of-image")).unwrap();
    file.write_all_at(b"behind a hole", 8192).unwrap();
    fs::hard_link(root.join("of-image"), root.join("same")).unwrap();
    let gone = root.join("gone");
    Node::CharDevice(0, 0).make(&gone, 0).ok()?;
    let image = scratch.path().join("image");
    let output = mkfs
        .arg("--chunksize=4096")
        .args([&image, &root])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    Some(fs::read(image).unwrap())
}

#[test]
fn archives_directories_and_images_merge_in_one_call() {
    let Some(image) = image() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("of-folder"), "folder").unwrap();
    fs::write(folder.path().join("gone"), "folder").unwrap();
    let tar = TarBuilder::new()
        .file("of-tar", "tar")
        .file(".wh.of-folder", "")
        .finish();
    let mut store = Store::default();
    let sources = [
        LayerSource::Directory(folder.path().to_owned()),
        LayerSource::erofs(image),
        LayerSource::tar(&tar[..]),
    ];
    let (merged, stats) = merge(sources, &mut store, &Limits::default()).unwrap();
    let names: Vec<_> = merged
        .walk()
        .skip(1)
        .map(|(path, id)| (path.to_string(), merged.layer(id)))
        .collect();
    let expected = [("of-image", 1), ("of-tar", 2), ("same", 1)];
    assert_eq!(
        names,
        expected.map(|(name, layer)| (name.to_owned(), Some(layer)))
    );
    let id = merged.lookup(b"same").unwrap();
    assert_eq!(merged.nlink(id), 2);
    let (bytes, segments) = store.get(merged.kind(id));
    assert_eq!(bytes[8192..], b"behind a hole"[..]);
    assert_eq!(segments, &[Segment::Hole(8192), Segment::Data(13)]);
    let files: Vec<_> = stats.iter().map(|stats| stats.files).collect();
    assert_eq!(files, [2, 1, 1]);
}

#[test]
fn progress_ends_with_all_entries_and_bytes() {
    const LARGE: usize = 9 << 20;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let progress = Progress::new({
        let seen = Arc::clone(&seen);
        move |done: Done| seen.lock().unwrap().push((done.entries, done.bytes))
    });
    let limits = Limits::default();
    let mut tar = TarBuilder::new().file("large", vec![1; LARGE]);
    for n in 0..300 {
        tar = tar.file(format!("{n}"), "x");
    }
    let tar = tar.finish();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "contents").unwrap();

    let mut store = ContentStore::in_memory().progress(progress.clone());
    let (layer, _) = store.read_tar(&tar[..], &limits).unwrap();
    let so_far = (301, LARGE as u64 + 300);
    {
        let seen = seen.lock().unwrap();
        assert!(seen.is_sorted());
        assert_eq!(seen.last(), Some(&so_far));
        // The large file is reported while it is read.
        assert!(seen.contains(&(0, 4 << 20)) && seen.contains(&(0, 8 << 20)));
    }
    store.read_archive(io::Cursor::new(&tar), &limits).unwrap();
    store.read_dir(folder.path(), &limits).unwrap();
    let mut so_far = (2 * so_far.0 + 1, 2 * so_far.1 + 8);
    assert_eq!(seen.lock().unwrap().last(), Some(&so_far));
    if let Some(image) = image() {
        LayerSource::erofs(image).read(&mut store, &limits).unwrap();
        // Two names of one file, and a whiteout.
        so_far = (so_far.0 + 3, so_far.1 + 8192 + 13);
        assert_eq!(seen.lock().unwrap().last(), Some(&so_far));
    }

    // One name of each file of both layers.
    let mut merge = Merge::new(&limits).progress(progress);
    merge.push(&layer).unwrap();
    merge.push(&layer).unwrap();
    let so_far = (so_far.0 + 602, so_far.1);
    assert_eq!(seen.lock().unwrap().last(), Some(&so_far));
}

#[test]
fn errors_of_one_call_name_the_layer() {
    let dangling = TarBuilder::new().link("a", "nowhere").finish();
    let sources = [LayerSource::tar(&b""[..]), LayerSource::tar(&dangling[..])];
    let MergeError { layer, source, .. } = merge(sources, &mut (), &Limits::default()).unwrap_err();
    assert_eq!(layer, 1);
    assert!(matches!(
        source,
        ReadError::Layer(Error::Merge { layer: 1, .. })
    ));
    let sources = [LayerSource::erofs(vec![0; 4096])];
    let MergeError { source, .. } = merge(sources, &mut (), &Limits::default()).unwrap_err();
    assert!(matches!(source, ReadError::Layer(Error::Image { .. })));
    let sources = [LayerSource::Directory("/nowhere".into())];
    let MergeError { source, .. } = merge(sources, &mut (), &Limits::default()).unwrap_err();
    assert!(matches!(source, ReadError::Layer(Error::Read { .. })));
}
