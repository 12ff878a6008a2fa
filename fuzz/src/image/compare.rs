//! What the reader finds in an image against what the builder was given.

use std::io::Read;

use erofs_reader::{CheckOptions, Image, Inode};
use erofs_writer::{InodeLayout, Options};

use super::lab::{Expected, Kind, Lab};

pub(super) fn compare(lab: &Lab, options: &Options, image: &Image<Vec<u8>>) {
    let report = image.check_with(&CheckOptions::default().contents(true));
    assert!(report.is_clean(), "{:?}", report.findings);
    let mut nids = vec![None; lab.nodes.len()];
    let mut names = 0;
    for found in image.walk() {
        let (path, inode) = found.expect("a clean image");
        let shown = path.to_string();
        let node = *lab
            .names
            .get(path.as_bytes())
            .unwrap_or_else(|| panic!("{shown}: not given"));
        names += 1;
        assert_eq!(
            *nids[node].get_or_insert(inode.nid()),
            inode.nid(),
            "{shown}"
        );
        let expected = &lab.nodes[node];
        same(expected, options, image, &inode, &shown);
    }
    assert_eq!(names, lab.names.len());
    let mut all: Vec<_> = nids.into_iter().flatten().collect();
    all.sort();
    assert!(
        all.windows(2).all(|pair| pair[0] != pair[1]),
        "inodes of their own"
    );
}

fn same(expected: &Expected, options: &Options, image: &Image<Vec<u8>>, inode: &Inode, path: &str) {
    let meta = &expected.meta;
    assert_eq!(inode.file_type(), expected.kind.file_type(), "{path}");
    assert_eq!(inode.mode(), meta.mode, "{path}");
    assert_eq!((inode.uid(), inode.gid()), (meta.uid, meta.gid), "{path}");
    if options.inodes != InodeLayout::Compact {
        assert_eq!(<(i64, u32)>::from(inode.mtime()), (meta.mtime.secs, meta.mtime.nanos), "{path}");
    }
    let mut xattrs = image.xattrs(inode).expect("a clean image");
    let mut wanted = meta.xattrs.clone();
    xattrs.sort();
    wanted.sort();
    assert_eq!(xattrs, wanted, "{path}");
    if expected.kind != Kind::Directory {
        assert_eq!(inode.nlink(), expected.names, "{path}");
    }
    match &expected.kind {
        Kind::File(contents) => {
            let mut read = Vec::new();
            let mut file = image.file(inode).expect("a clean image");
            file.read_to_end(&mut read).expect("a clean image");
            assert!(read == *contents, "{path}");
        }
        Kind::Symlink(target) => {
            assert_eq!(
                image.read_link(inode).expect("a clean image"),
                *target,
                "{path}"
            );
        }
        Kind::Device(_, number) => assert_eq!(<(u32, u32)>::from(inode.rdev()), *number, "{path}"),
        Kind::Directory | Kind::Other(_) => {}
    }
}
