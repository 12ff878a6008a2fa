//! What `erofs-reader` finds in an image, and what it must find.

use std::collections::BTreeMap;
use std::io::Read;

use erofs_reader::{FileType, Image};
use erofs_writer::Metadata;

use crate::model::{Model, Spec};

/// What a name refers to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Seen {
    pub(crate) meta: Metadata,
    pub(crate) spec: Spec,
    pub(crate) nlink: u32,
    /// The first of all names of the inode.
    pub(crate) first_name: Vec<u8>,
}

pub(crate) type Tree = BTreeMap<Vec<u8>, Seen>;

/// Everything the reader finds, in an image with which nothing is wrong; `devices` as in the
/// image's table, none where they follow it on the same disk.
pub(crate) fn read(image: &[u8], devices: Vec<&[u8]>) -> Tree {
    let image = if devices.is_empty() {
        Image::open(image)
    } else {
        Image::open_with_devices(image, devices)
    }
    .unwrap();
    let report = image.check();
    assert!(report.is_clean(), "{report:?}");
    let mut names = BTreeMap::new();
    let mut tree = Tree::new();
    for found in image.walk() {
        let (path, inode) = found.unwrap();
        let mut xattrs = image.xattrs(&inode).unwrap();
        xattrs.sort();
        let (secs, nanos) = inode.mtime().into();
        let (major, minor) = inode.rdev().into();
        let meta = Metadata::new(inode.mode())
            .uid(inode.uid())
            .gid(inode.gid())
            .mtime(erofs_writer::Timestamp { secs, nanos })
            .xattrs(xattrs);
        let spec = match inode.file_type() {
            FileType::Directory => Spec::Dir,
            FileType::Regular => {
                let mut contents = Vec::new();
                image
                    .file(&inode)
                    .unwrap()
                    .read_to_end(&mut contents)
                    .unwrap();
                Spec::File(contents)
            }
            FileType::Symlink => Spec::Symlink(image.read_link(&inode).unwrap()),
            FileType::CharDevice => Spec::Char(major, minor),
            FileType::BlockDevice => Spec::Block(major, minor),
            FileType::Fifo => Spec::Fifo,
            FileType::Socket => Spec::Socket,
        };
        let first_name = names.entry(inode.nid()).or_insert_with(|| path.to_vec());
        let seen = Seen {
            meta,
            spec,
            nlink: inode.nlink(),
            first_name: first_name.clone(),
        };
        tree.insert(path.into(), seen);
    }
    // The walk goes through directories, not through paths in order of their bytes.
    let mut firsts: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    for (path, seen) in &tree {
        firsts
            .entry(seen.first_name.clone())
            .or_insert(path.clone());
    }
    for seen in tree.values_mut() {
        seen.first_name = firsts[&seen.first_name].clone();
    }
    tree
}

impl Model {
    /// What the reader must find.
    pub(crate) fn tree(&self) -> Tree {
        let mut tree = Tree::new();
        let mut insert = |path: &[u8], meta: &Metadata, spec: &Spec| {
            let mut meta = meta.clone();
            meta.xattrs.sort();
            let seen = Seen {
                meta,
                spec: spec.clone(),
                nlink: if matches!(spec, Spec::Dir) { 2 } else { 1 },
                first_name: path.to_vec(),
            };
            tree.insert(path.to_vec(), seen);
        };
        insert(b"", &Metadata::new(0o755), &Spec::Dir);
        for (path, _, _) in &self.entries {
            for (i, _) in path.iter().enumerate().filter(|&(_, &byte)| byte == b'/') {
                insert(&path[..i], &Metadata::new(0o755), &Spec::Dir);
            }
        }
        for (path, meta, spec) in &self.entries {
            if !matches!(spec, Spec::Link(_)) {
                insert(path, meta, spec);
            }
        }
        let mut names: BTreeMap<&[u8], Vec<&[u8]>> = BTreeMap::new();
        for (path, _, spec) in &self.entries {
            if let Spec::Link(target) = spec {
                names.entry(target).or_insert(vec![target]).push(path);
            }
        }
        for (target, mut names) in names {
            names.sort();
            let seen = Seen {
                nlink: names.len() as u32,
                first_name: names[0].to_vec(),
                ..tree[target].clone()
            };
            tree.extend(names.into_iter().map(|name| (name.to_vec(), seen.clone())));
        }
        let parents: Vec<Vec<u8>> = tree
            .iter()
            .filter(|(path, seen)| !path.is_empty() && matches!(seen.spec, Spec::Dir))
            .map(|(path, _)| {
                path[..path.iter().rposition(|&byte| byte == b'/').unwrap_or(0)].to_vec()
            })
            .collect();
        for parent in parents {
            tree.get_mut(&parent).unwrap().nlink += 1;
        }
        tree
    }
}

/// Fails the test where the trees differ, with the first difference.
pub(crate) fn assert_same(found: &Tree, expected: &Tree) {
    for path in expected.keys().chain(found.keys()) {
        let (found, expected) = (found.get(path), expected.get(path));
        assert!(
            found == expected,
            "/{}\nfound    {found:?}\nexpected {expected:?}",
            path.escape_ascii()
        );
    }
}
