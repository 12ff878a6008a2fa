//! The kernel's overlayfs as an oracle: directories made as layer images hold layers, mounted, must show what the merge
//! says.

use crate::stacks::{Entry, Step, stacks, tar};
use crate::support::{Store, try_merge};
use fsmerge::{Kind, Merged};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use rustix::fs::{CWD, FileType, Mode, XattrFlags, lsetxattr, makedev, mknodat};
use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::path::Path;
use testkit::{Difference, Mount, Walk, walk};

/// Makes the directory of a layer, whiteouts and marks as overlayfs has them. Whiteouts that hide nothing `below` are left
/// out: overlayfs lists them as names that do not exist, where a directory is in one layer alone.
fn unpack(entries: &[Entry], below: &Merged, root: &Path) {
    let opaque: Vec<_> = entries
        .iter()
        .filter(|entry| matches!(entry.step, Step::Directory { opaque: true }))
        .map(|entry| &entry.path)
        .collect();
    for entry in entries {
        if matches!(entry.step, Step::Whiteout)
            && (below.find(entry.name().as_bytes()).is_none()
                || opaque.iter().any(|path| entry.path.starts_with(path)))
        {
            continue;
        }
        let path = root.join(entry.name());
        match &entry.step {
            Step::Directory { opaque } => {
                fs::create_dir(&path).unwrap();
                set_xattr(&path, "trusted.mark", &entry.mark.to_string());
                if *opaque {
                    set_xattr(&path, "trusted.overlay.opaque", "y");
                }
            }
            Step::File => {
                fs::write(&path, entry.contents()).unwrap();
                set_xattr(&path, "user.mark", &entry.mark.to_string());
            }
            Step::Symlink => symlink(entry.target(), &path).unwrap(),
            Step::Device => node(&path, FileType::CharacterDevice, (1, entry.mark.into())),
            Step::Fifo => node(&path, FileType::Fifo, (0, 0)),
            Step::Whiteout => node(&path, FileType::CharacterDevice, (0, 0)),
            Step::Link(_) => continue,
        }
        lchown(&path, Some(entry.uid()), Some(1)).unwrap();
        if !matches!(entry.step, Step::Symlink | Step::Whiteout) {
            fs::set_permissions(&path, fs::Permissions::from_mode(entry.mode())).unwrap();
        }
    }
    for entry in entries {
        if let Step::Link(target) = &entry.step {
            fs::hard_link(root.join(target.join("/")), root.join(entry.name())).unwrap();
        }
    }
}

fn set_xattr(path: &Path, name: &str, value: &str) {
    lsetxattr(path, name, value.as_bytes(), XattrFlags::empty()).unwrap();
}

fn node(path: &Path, kind: FileType, (major, minor): (u32, u32)) {
    mknodat(
        CWD,
        path,
        kind,
        Mode::from_raw_mode(0o600),
        makedev(major, minor),
    )
    .unwrap();
}

/// The merged tree as [`walk`] would give it, but for what the random layers leave open: the root and all times. A file's
/// digest is that of another file with its contents.
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
            Kind::CharDevice { major, minor } => testkit::Kind::CharDevice { major, minor },
            Kind::Fifo => testkit::Kind::Fifo,
            other => panic!("{other:?}"),
        };
        let first = first_names
            .entry(id)
            .or_insert_with(|| path.clone())
            .clone();
        let attributes = merged.attributes(id);
        let entry = testkit::Entry {
            mode: attributes.mode.into(),
            kind,
            uid: attributes.uid,
            gid: attributes.gid,
            mtime: (0, 0),
            xattrs: attributes.xattrs.iter().cloned().collect(),
            first_name: (merged.nlink(id) > 1 && !merged.kind(id).is_directory()).then_some(first),
        };
        all.insert(path, entry);
    }
    all
}

#[test]
fn random_stacks_look_as_under_the_kernels_overlayfs() {
    if !testkit::kernel_mounts() {
        return;
    }
    let config = ProptestConfig {
        cases: 300,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    TestRunner::new(config)
        .run(&(stacks(), any::<bool>()), |(layers, marks_first)| {
            let scratch = tempfile::tempdir().unwrap();
            let store = Store::default();
            // overlayfs wants two layers at least.
            let mut roots = vec![scratch.path().join("base")];
            fs::create_dir(&roots[0]).unwrap();
            let mut trees = Vec::new();
            for (number, entries) in layers.iter().enumerate() {
                let root = scratch.path().join(number.to_string());
                fs::create_dir(&root).unwrap();
                unpack(entries, &try_merge(&trees).unwrap(), &root);
                roots.push(root);
                trees.push(store.read(&tar(entries, marks_first)).unwrap().0);
            }
            let roots: Vec<_> = roots.iter().map(|root| root.as_path()).collect();
            let mount = Mount::overlay(&roots, "");
            let mut theirs = walk(mount.path()).unwrap();
            theirs.remove(&b""[..]);
            theirs.values_mut().for_each(|entry| entry.mtime = (0, 0));
            let contents = scratch.path().join("contents");
            fs::create_dir(&contents).unwrap();
            let ours = as_walk(&try_merge(&trees).unwrap(), &store, &contents);
            let difference = Difference::between(&ours, &theirs);
            prop_assert!(difference.is_empty(), "{:?}", difference);
            Ok(())
        })
        .unwrap();
}
