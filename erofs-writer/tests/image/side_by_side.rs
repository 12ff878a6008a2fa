//! The same directory through `mkfs.erofs` and through us: the kernel shows the same.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use erofs_writer::{Algorithm, BlockSize, Fragments, Metadata, Options, Timestamp};
use testkit::{Difference, Kind, Mount, Walk, kernel_mounts, oracle, walk};

use crate::compressed::{options, text};
use crate::model::{Model, Spec, at, nasty};

/// Everything a walk sees, and the number of links of every inode.
fn seen(root: &Path) -> (Walk, BTreeMap<Vec<u8>, u64>) {
    let walk = walk(root).unwrap();
    let links = |path: &Vec<u8>| {
        let full = root.join(OsStr::from_bytes(path));
        fs::symlink_metadata(full).unwrap().nlink()
    };
    let links = walk.keys().map(|path| (path.clone(), links(path)));
    let links = links.collect();
    (walk, links)
}

fn assert_alike(found: &Path, expected: &Path) {
    let ((found, found_links), (expected, links)) = (seen(found), seen(expected));
    Difference::between(&found, &expected).assert_none();
    for (path, links) in links {
        assert_eq!(found_links[&path], links, "{}", path.escape_ascii());
    }
}

/// What is in a directory.
fn of_directory(root: &Path) -> Model {
    let mut model = Model::default();
    for (path, entry) in walk(root).unwrap() {
        let spec = match entry.kind {
            _ if entry.first_name.as_ref().is_some_and(|name| *name != path) => {
                Spec::Link(entry.first_name.unwrap_or_default())
            }
            Kind::Directory => Spec::Dir,
            Kind::File { .. } => Spec::File(fs::read(root.join(OsStr::from_bytes(&path))).unwrap()),
            Kind::Symlink(target) => Spec::Symlink(target),
            Kind::CharDevice { major, minor } => Spec::Char(major, minor),
            Kind::BlockDevice { major, minor } => Spec::Block(major, minor),
            Kind::Fifo => Spec::Fifo,
            Kind::Socket => Spec::Socket,
        };
        let (secs, nanos) = entry.mtime;
        let meta = Metadata::new(entry.mode as u16)
            .uid(entry.uid)
            .gid(entry.gid)
            .mtime(Timestamp { secs, nanos })
            .xattrs(entry.xattrs.into_iter().collect());
        model.add(path, meta, spec);
    }
    model
}

#[test]
fn the_kernel_shows_the_same_directory_as_from_mkfs_erofs() {
    if !kernel_mounts() || oracle("mkfs.erofs").is_none() {
        return;
    }
    let mut model = nasty();
    for size in [4096, 4097, 70_000, 300_000] {
        model.add(format!("text/{size}"), at(1, 2), Spec::File(text(size)));
    }
    // mkfs.erofs gives directories with whiteouts an xattr.
    let whiteout = Spec::Char(0, 0);
    model.entries.retain(|(_, _, spec)| *spec != whiteout);
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, options: Options| -> PathBuf {
        let path = dir.path().join(name);
        fs::write(&path, model.build(options).unwrap().0).unwrap();
        path
    };
    // Both make their images of what is mounted here.
    let source = Mount::erofs(&write("source", Options::default()), &[]);
    let of_source = of_directory(source.path());
    let choices: [(&[&str], Options); 4] = [
        (
            &[],
            Options::default()
                .block_size(BlockSize::B4096)
                .inline_tails(true),
        ),
        (
            &["-zlz4hc,level=9", "-C65536", "-Eztailpacking"],
            options(Algorithm::Lz4, 9, 65_536).tail_packing(true),
        ),
        (
            &["-zzstd,level=3", "-C16384", "-Efragments"],
            options(Algorithm::Zstd, 3, 16_384).fragments(Fragments::Tails),
        ),
        (
            &["-zdeflate,level=1", "-Eall-fragments,dedupe"],
            options(Algorithm::Deflate, 1, 4096)
                .fragments(Fragments::Files)
                .dedupe_extents(true),
        ),
    ];
    for (i, (theirs, ours)) in choices.into_iter().enumerate() {
        println!("mkfs.erofs {}", theirs.join(" "));
        let path = dir.path().join(format!("theirs{i}"));
        let mut mkfs = oracle("mkfs.erofs").unwrap();
        mkfs.args(["--quiet", "-b4096"]).args(theirs);
        let output = mkfs.arg(&path).arg(source.path()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        let theirs = Mount::erofs(&path, &[]);
        let path = dir.path().join(format!("ours{i}"));
        fs::write(&path, of_source.build(ours).unwrap().0).unwrap();
        let ours = Mount::erofs(&path, &[]);
        assert_alike(ours.path(), theirs.path());
        assert_alike(ours.path(), source.path());
    }
}
