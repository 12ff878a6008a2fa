//! GNU tar as an oracle: what it archives of a directory is read back as the directory is.

use crate::support::Store;
use fsmerge::{Content, DataId, Kind, Limits, NodeId, Segment, Sink, read_tar};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

fn make(root: &Path) {
    let long = root.join("d".repeat(120)).join("e".repeat(200));
    fs::create_dir_all(&long).unwrap();
    fs::write(long.join("file"), b"deep").unwrap();
    fs::write(root.join("empty"), b"").unwrap();
    fs::write(root.join("first"), b"linked").unwrap();
    fs::hard_link(root.join("first"), root.join("second")).unwrap();
    std::os::unix::fs::symlink("t".repeat(300), root.join("symlink")).unwrap();
    // Holes at the front, in the middle and at the end; enough of them for extension headers.
    let mut sparse = File::create(root.join("sparse")).unwrap();
    for at in 0..40_u64 {
        sparse.seek(SeekFrom::Start((at * 3 + 1) * 65_536)).unwrap();
        sparse.write_all(&[at as u8 + 1; 5000]).unwrap();
    }
    sparse.set_len(200 * 65_536).unwrap();
    File::create(root.join("hole"))
        .unwrap()
        .set_len(1 << 20)
        .unwrap();
}

/// Counts the bytes of data, holes not counted, and keeps contents.
#[derive(Default)]
struct Holes {
    data: HashMap<Vec<u8>, u64>,
}

impl Sink for Holes {
    type Error = io::Error;

    fn file(&mut self, path: &[u8], mut content: Content<'_>) -> io::Result<DataId> {
        let mut data = 0;
        while let Some(segment) = content.next_segment() {
            if let Segment::Data(len) = segment {
                data += io::copy(&mut (&mut content).take(len), &mut io::sink())?;
            }
        }
        self.data.insert(path.to_vec(), data);
        Ok(DataId(0))
    }
}

#[test]
fn archives_of_gnu_tar_in_every_format_read_back_as_the_directory() {
    if testkit::oracle("tar").is_none() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    make(root.path());
    for options in [
        &["--format=gnu"][..],
        &["--format=gnu", "--sparse"],
        &["--format=posix"],
        &["--format=posix", "--sparse", "--sparse-version=0.0"],
        &["--format=posix", "--sparse", "--sparse-version=0.1"],
        &["--format=posix", "--sparse", "--sparse-version=1.0"],
    ] {
        let tar: Command = testkit::oracle("tar").unwrap();
        let mut tar = tar;
        let output = tar
            .args(options)
            .args(["--numeric-owner", "-cf", "-", "-C"])
            .arg(root.path())
            .arg(".")
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let store = Store::default();
        let layer = store.read(&output.stdout).unwrap().0;
        let walk = testkit::walk(root.path()).unwrap();
        let names: Vec<_> = layer.walk().map(|(path, _)| path).collect();
        assert_eq!(names.len(), walk.len(), "{options:?}");
        for (path, id) in layer.walk() {
            let full = root.path().join(std::str::from_utf8(&path).unwrap());
            let meta = fs::symlink_metadata(&full).unwrap();
            let attributes = layer.metadata(id);
            assert_eq!(u32::from(attributes.mode), meta.mode() & 0o7777, "{full:?}");
            assert_eq!((attributes.uid, attributes.gid), (meta.uid(), meta.gid()));
            assert_eq!(attributes.mtime.secs, meta.mtime());
            if options[0] == "--format=posix" {
                assert_eq!(i64::from(attributes.mtime.nanos), meta.mtime_nsec());
            }
            match layer.kind(id) {
                kind @ Kind::File { .. } => {
                    assert_eq!(u64::from(layer.nlink(id)), meta.nlink(), "{full:?}");
                    assert!(
                        store.get(kind) == fs::read(&full).unwrap(),
                        "{options:?} {full:?}"
                    );
                }
                Kind::Symlink(target) => {
                    let real = fs::read_link(&full).unwrap();
                    assert_eq!(target, real.into_os_string().as_encoded_bytes());
                }
                kind => assert_eq!(
                    kind,
                    Kind::Directory {
                        opaque: false,
                        implied: false
                    }
                ),
            }
        }
        assert_eq!(layer.root(), NodeId::ROOT);
        if options.contains(&"--sparse") {
            let mut holes = Holes::default();
            read_tar(&output.stdout[..], &mut holes, &Limits::default()).unwrap();
            assert_eq!(holes.data[&b"hole"[..]], 0, "{options:?}");
            let data = holes.data[&b"sparse"[..]];
            assert!(
                (40 * 5000..=40 * 16_384).contains(&data),
                "{options:?}: {data}"
            );
        }
    }
}
