//! The kernel as an oracle: what it shows of random stacks must be what the merge says. Its
//! overlayfs gets directories made as layer images hold layers; its file systems get one directory
//! that the layers are unpacked into, one after the other.

use crate::stacks::{Entry, Step, stacks, stacks_without_lower_links, tar};
use crate::support::{Store, try_merge};
use fsmerge::{DeviceNumber, Kind, Merged};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use rustix::fs::{XattrFlags, lsetxattr};
use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::path::Path;
use testkit::{Difference, Mount, Node, Walk, walk};

/// Makes the directory of a layer, whiteouts and marks as overlayfs has them. Whiteouts that hide
/// nothing `below` are left out: overlayfs lists them as names that do not exist, where a directory
/// is in one layer alone.
fn make_layer(entries: &[Entry], below: &Merged, root: &Path) {
    let opaque: Vec<_> = entries
        .iter()
        .filter(|entry| entry.is_opaque())
        .map(|entry| &entry.path)
        .collect();
    // What a mark in the same layer hides is not below.
    let find = |path: &[&str]| {
        let hidden = (1..path.len()).any(|len| opaque.iter().any(|opaque| **opaque == path[..len]));
        below.lookup(path.join("/").as_bytes()).filter(|_| !hidden)
    };
    // Nobody describes it: it looks as it does below, or as any other.
    let make_implied = |path: &[&str]| {
        let folder = root.join(path.join("/"));
        fs::create_dir(&folder).unwrap();
        match find(path).filter(|id| below.kind(*id).is_directory()) {
            Some(id) => {
                let attributes = below.metadata(id);
                for (name, value) in attributes.xattrs.iter() {
                    lsetxattr(&folder, name.as_slice(), value, XattrFlags::empty()).unwrap();
                }
                set_metadata(
                    &folder,
                    (attributes.uid, attributes.gid),
                    attributes.mode.into(),
                );
            }
            None => set_metadata(&folder, (0, 0), 0o755),
        }
    };
    for entry in entries {
        let path = root.join(entry.name());
        match &entry.step {
            Step::Whiteout if find(&entry.path).is_some() => {
                for parent in (1..entry.path.len()).map(|len| &entry.path[..len]) {
                    if !root.join(parent.join("/")).exists() {
                        make_implied(parent);
                    }
                }
                node(&path, Node::CharDevice(0, 0));
            }
            Step::Whiteout | Step::Link(_) => {}
            Step::Implied { .. } => make_implied(&entry.path),
            _ => make(entry, &path),
        }
        if entry.is_opaque() {
            set_xattr(&path, "trusted.overlay.opaque", "y");
        }
    }
    for entry in entries {
        if let Step::Link(target) = &entry.step {
            fs::hard_link(root.join(target.join("/")), root.join(entry.name())).unwrap();
        }
    }
}

/// Unpacks a layer over those that were unpacked into `root` before, the way the image
/// specification says it.
fn unpack(entries: &[Entry], root: &Path, aside: &Path) {
    // The targets of links, which the layer may take away.
    for (number, entry) in entries.iter().enumerate() {
        if let Step::LowerLink(target) = &entry.step {
            fs::hard_link(root.join(target.join("/")), aside.join(number.to_string())).unwrap();
        }
    }
    for entry in entries {
        let path = root.join(entry.name());
        match entry.step {
            Step::Whiteout => remove(&path),
            _ if entry.is_opaque() && is_directory(&path) => {
                for child in fs::read_dir(&path).unwrap() {
                    remove(&child.unwrap().path());
                }
            }
            _ => {}
        }
    }
    for entry in entries {
        let path = root.join(entry.name());
        let was = is_directory(&path);
        match &entry.step {
            Step::Whiteout => {}
            Step::Implied { .. } if was => {}
            Step::Directory { .. } if was => {
                set_xattr(&path, "trusted.mark", &entry.mark.to_string());
                describe(entry, &path);
            }
            Step::Link(_) | Step::LowerLink(_) => remove(&path),
            _ => {
                remove(&path);
                make(entry, &path);
            }
        }
    }
    for (number, entry) in entries.iter().enumerate() {
        let path = root.join(entry.name());
        match &entry.step {
            Step::Link(target) => fs::hard_link(root.join(target.join("/")), path).unwrap(),
            Step::LowerLink(_) => fs::rename(aside.join(number.to_string()), path).unwrap(),
            _ => {}
        }
    }
}

fn is_directory(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_dir())
}

fn remove(path: &Path) {
    if is_directory(path) {
        fs::remove_dir_all(path).unwrap();
    } else if fs::symlink_metadata(path).is_ok() {
        fs::remove_file(path).unwrap();
    }
}

/// Makes what an entry describes.
fn make(entry: &Entry, path: &Path) {
    match &entry.step {
        Step::Directory { .. } => {
            fs::create_dir(path).unwrap();
            set_xattr(path, "trusted.mark", &entry.mark.to_string());
        }
        Step::Implied { .. } => fs::create_dir(path).unwrap(),
        Step::File => {
            fs::write(path, entry.contents()).unwrap();
            set_xattr(path, "user.mark", &entry.mark.to_string());
        }
        Step::Symlink => symlink(entry.target(), path).unwrap(),
        Step::Device => node(path, Node::CharDevice(1, entry.mark.into())),
        Step::Fifo => node(path, Node::Fifo),
        Step::Link(_) | Step::LowerLink(_) | Step::Whiteout => panic!("{entry:?} is no file"),
    }
    describe(entry, path);
}

fn describe(entry: &Entry, path: &Path) {
    set_metadata(path, (entry.uid(), entry.gid()), entry.mode());
}

fn set_metadata(path: &Path, (uid, gid): (u32, u32), mode: u32) {
    lchown(path, Some(uid), Some(gid)).unwrap();
    if !fs::symlink_metadata(path).unwrap().is_symlink() {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
}

fn set_xattr(path: &Path, name: &str, value: &str) {
    lsetxattr(path, name, value.as_bytes(), XattrFlags::empty()).unwrap();
}

fn node(path: &Path, node: Node) {
    node.make(path, 0o600).unwrap();
}

/// The merged tree as [`walk`] would give it, but for what the random layers leave open: the root
/// and all times. A file's digest is that of another file with its contents.
fn as_walk(merged: &Merged, store: &Store, scratch: &Path) -> Walk {
    let mut all = Walk::new();
    let mut first_names: HashMap<_, Vec<u8>> = HashMap::new();
    let mut paths: Vec<_> = merged.walk().skip(1).collect();
    paths.sort();
    for (path, id) in paths {
        let kind = match merged.kind(id) {
            Kind::Directory { .. } => testkit::Kind::Directory,
            kind @ Kind::File { .. } => {
                fs::write(scratch.join("f"), store.get(kind)).unwrap();
                walk(scratch).unwrap().remove(&b"f"[..]).unwrap().kind
            }
            Kind::Symlink(target) => testkit::Kind::Symlink(target.to_vec()),
            Kind::CharDevice(DeviceNumber { major, minor }) => {
                testkit::Kind::CharDevice { major, minor }
            }
            Kind::Fifo => testkit::Kind::Fifo,
            other => panic!("{other:?}"),
        };
        let first = first_names
            .entry(id)
            .or_insert_with(|| path.to_vec())
            .clone();
        let attributes = merged.metadata(id);
        let entry = testkit::Entry {
            mode: attributes.mode.into(),
            kind,
            uid: attributes.uid,
            gid: attributes.gid,
            mtime: (0, 0),
            xattrs: attributes.xattrs.iter().cloned().collect(),
            first_name: (merged.nlink(id) > 1 && !merged.kind(id).is_directory()).then_some(first),
        };
        all.insert(path.into(), entry);
    }
    all
}

/// What the kernel shows, but for what the random layers leave open.
fn shown(root: &Path) -> Walk {
    let mut shown = walk(root).unwrap();
    shown.remove(&b""[..]);
    shown.values_mut().for_each(|entry| entry.mtime = (0, 0));
    shown
}

fn config() -> ProptestConfig {
    ProptestConfig {
        cases: 300,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

#[test]
fn random_stacks_look_as_under_the_kernels_overlayfs() {
    if !testkit::kernel_mounts() {
        return;
    }
    // Overlayfs has no layers with links to lower ones; they are copied up.
    TestRunner::new(config())
        .run(
            &(stacks_without_lower_links(), any::<bool>()),
            |(layers, marks_first)| {
                let scratch = tempfile::tempdir().unwrap();
                let store = Store::default();
                // overlayfs wants two layers at least.
                let mut roots = vec![scratch.path().join("base")];
                fs::create_dir(&roots[0]).unwrap();
                let mut trees = Vec::new();
                for (number, entries) in layers.iter().enumerate() {
                    let root = scratch.path().join(number.to_string());
                    fs::create_dir(&root).unwrap();
                    make_layer(entries, &try_merge(&trees).unwrap(), &root);
                    roots.push(root);
                    trees.push(store.read(&tar(entries, marks_first)).unwrap().0);
                }
                let roots: Vec<_> = roots.iter().map(|root| root.as_path()).collect();
                let mount = Mount::overlay(&roots, "");
                let theirs = shown(mount.path());
                let contents = scratch.path().join("contents");
                fs::create_dir(&contents).unwrap();
                let ours = as_walk(&try_merge(&trees).unwrap(), &store, &contents);
                let difference = Difference::between(&ours, &theirs);
                prop_assert!(difference.is_empty(), "{:?}", difference);
                Ok(())
            },
        )
        .unwrap();
}

#[test]
fn random_stacks_look_as_when_unpacked_one_after_the_other() {
    // Devices and owners need root.
    if !testkit::kernel_mounts() {
        return;
    }
    TestRunner::new(config())
        .run(&(stacks(), any::<bool>()), |(layers, marks_first)| {
            let scratch = tempfile::tempdir().unwrap();
            let [root, aside, contents] = ["root", "aside", "contents"].map(|name| {
                let folder = scratch.path().join(name);
                fs::create_dir(&folder).unwrap();
                folder
            });
            let store = Store::default();
            let mut trees = Vec::new();
            for entries in &layers {
                unpack(entries, &root, &aside);
                trees.push(store.read(&tar(entries, marks_first)).unwrap().0);
            }
            let ours = as_walk(&try_merge(&trees).unwrap(), &store, &contents);
            let difference = Difference::between(&ours, &shown(&root));
            prop_assert!(difference.is_empty(), "{:?}", difference);
            Ok(())
        })
        .unwrap();
}
