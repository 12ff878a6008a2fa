//! Images filled from archives, directories and merged trees, in one call each.

use std::fs::{self, File};
use std::io::{self, BufReader, Cursor};
use std::os::unix::fs::{FileExt, symlink};

use erofs_writer::{Builder, Error, Metadata, Node, Options};
use fsmerge::{ContentStore, Limits, Merge};
use testkit::{Difference, Mount, TarBuilder, kernel_mounts, walk};

use crate::model::{acl, fsck, noise};

fn tar() -> Vec<u8> {
    TarBuilder::new()
        .owner(1000, 70_000)
        .dir("usr/bin")
        .symlink("bin", "usr/bin")
        .xattr("user.a", "value")
        .file("bin/tool", noise(5000))
        .file("bin/replaced", "old")
        .file("bin/replaced", "new")
        .xattr("system.posix_acl_access", acl())
        .file("usr/acl", noise(5000))
        .link("hard", "usr/bin/tool")
        .device("null", b'3', 1, 3)
        .file(".wh.gone", "")
        .finish()
}

fn build(fill: impl FnOnce(&mut Builder<Cursor<Vec<u8>>>) -> Result<(), Error>) -> Vec<u8> {
    let mut image = Builder::with_dedupe(Cursor::new(Vec::new()), Options::default()).unwrap();
    fill(&mut image).unwrap();
    image.finish().unwrap().0.into_inner()
}

#[test]
fn tar_read_from_a_stream_equals_its_merged_tree() {
    let tar = tar();
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let streamed = build(|image| image.add_tar(BufReader::with_capacity(100, &tar[..])));
    let limits = Limits::default();
    let mut contents = ContentStore::in_memory();
    let layer = contents.read_archive(Cursor::new(&tar), &limits).unwrap().0;
    let mut merge = Merge::new(&limits);
    merge.push(&layer).unwrap();
    let merged = build(|image| image.add_tree(&merge.finish(), &mut contents));
    fs::write(path("streamed"), streamed).unwrap();
    fs::write(path("merged"), merged).unwrap();
    fsck(&path("streamed"), &[]);
    fsck(&path("merged"), &[]);
    if !kernel_mounts() {
        return;
    }
    let mount = Mount::erofs(&path("streamed"), &[]);
    assert_eq!(fs::read(mount.path().join("bin/replaced")).unwrap(), b"new");
    let expected = walk(mount.path()).unwrap();
    assert_eq!(expected.len(), 9);
    let found = walk(Mount::erofs(&path("merged"), &[]).path()).unwrap();
    Difference::between(&found, &expected).assert_none();
}

#[test]
fn directory_keeps_its_attributes_in_the_kernel_and_files_can_be_replaced() {
    let source = tempfile::tempdir().unwrap();
    let at = |name: &str| source.path().join(name);
    fs::create_dir_all(at("usr/sbin")).unwrap();
    symlink("usr/sbin", at("sbin")).unwrap();
    fs::write(at("usr/sbin/init"), "old").unwrap();
    fs::hard_link(at("usr/sbin/init"), at("usr/linked")).unwrap();
    let sparse = File::create(at("sparse")).unwrap();
    sparse.write_all_at(&[7; 5000], 1 << 20).unwrap();
    sparse.set_len(4 << 20).unwrap();
    let image = build(|image| image.add_dir_all(source.path()));
    assert!(image.len() < 1 << 20);
    assert!(image == build(|image| image.add_dir_all(source.path())));
    let replaced = build(|image| {
        image.add_dir_all(source.path())?;
        let init = image.store(&b"new"[..])?;
        let mode = Metadata::new(0o755);
        image.replace(b"/sbin/init", mode, Node::File(init))?;
        Ok(())
    });
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::write(path("image"), image).unwrap();
    fs::write(path("replaced"), replaced).unwrap();
    fsck(&path("image"), &[]);
    fsck(&path("replaced"), &[]);
    if !kernel_mounts() {
        return;
    }
    let expected = walk(source.path()).unwrap();
    let found = walk(Mount::erofs(&path("image"), &[]).path()).unwrap();
    Difference::between(&found, &expected).assert_none();
    let mount = Mount::erofs(&path("replaced"), &[]);
    let read = |name: &str| fs::read(mount.path().join(name)).unwrap();
    assert_eq!(
        (read("sbin/init"), read("usr/linked")),
        (b"new".to_vec(), b"old".to_vec())
    );
}

#[test]
fn damaged_archives_and_missing_directories_are_errors_with_their_cause() {
    use std::error::Error as _;
    let new = || Builder::new(Cursor::new(Vec::new()), Options::default()).unwrap();
    let tar = tar();
    let cut = new().add_tar(&tar[..tar.len() - 3000]).unwrap_err();
    assert!(matches!(cut, Error::Archive { .. }), "{cut}");
    let cause = cut.source().unwrap().to_string();
    assert!(!cut.to_string().contains(&cause), "{cut}: {cause}");
    let missing = new().add_dir_all("/nowhere").unwrap_err();
    assert!(matches!(&missing, Error::Directory { path, .. } if path.ends_with("nowhere")));
    struct Failing;
    impl io::Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("no more"))
        }
    }
    assert!(matches!(new().store(Failing), Err(Error::Contents { .. })));
}
