//! Views of an image: by the kernel, by erofs-reader and by other unpackers.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use testkit::{Difference, Entry, Kind, Mount, Walk, oracle, walk};

use crate::common::Blockbox;
use crate::common::layout::{Compression, Layout};
/// Returns the kernel's view of an image's disk: combined, and as a stack of devices. erofs-reader
/// must return the same.
pub(crate) fn kernel_walk(blockbox: &Blockbox, reference: &str) -> Walk {
    let disks = blockbox.inspect(reference);
    let stitched = disks.stitched();
    let stitched = walk(Mount::erofs(stitched.path(), &[]).path()).unwrap();
    let layers: Vec<&Path> = disks.layers.iter().map(PathBuf::as_path).collect();
    // The names of more devices exceed the page of options of mount(2).
    if layers.len() <= 128 {
        let devices = walk(Mount::erofs(&disks.fsmeta, &layers).path()).unwrap();
        Difference::between(&stitched, &devices).assert_none();
    }
    Difference::between(&reader_walk(Disk::open(&disks.disk).unwrap()), &stitched).assert_none();
    for layer in &disks.layers {
        let kernel = walk(Mount::erofs(layer, &[]).path()).unwrap();
        Difference::between(&reader_walk(File::open(layer).unwrap()), &kernel).assert_none();
    }
    stitched
}

/// Returns erofs-reader's view of an image.
fn reader_walk(source: impl erofs_reader::ReadAt) -> Walk {
    use erofs_reader::FileType;
    let image = erofs_reader::Image::open(erofs_reader::Buffered::new(source)).unwrap();
    let report = image.check();
    assert!(report.is_clean(), "{:?}", report.findings);
    let mut found = Walk::new();
    let mut first_names: HashMap<_, Vec<Vec<u8>>> = HashMap::new();
    for entry in image.walk() {
        let (path, inode) = entry.unwrap();
        let (major, minor) = inode.rdev().into();
        let kind = match inode.file_type() {
            FileType::Directory => Kind::Directory,
            FileType::Regular => {
                let (size, digest) = testkit::digest(&mut image.file(&inode).unwrap()).unwrap();
                Kind::File { size, digest }
            }
            FileType::Symlink => Kind::Symlink(image.read_link(&inode).unwrap()),
            FileType::CharDevice => Kind::CharDevice { major, minor },
            FileType::BlockDevice => Kind::BlockDevice { major, minor },
            FileType::Fifo => Kind::Fifo,
            FileType::Socket => Kind::Socket,
        };
        if !inode.is_dir() && inode.nlink() > 1 {
            first_names
                .entry(inode.nid())
                .or_default()
                .push(path.to_vec());
        }
        let entry = Entry {
            kind,
            mode: inode.mode().into(),
            uid: inode.uid(),
            gid: inode.gid(),
            mtime: inode.mtime().into(),
            xattrs: image.xattrs(&inode).unwrap().into_iter().collect(),
            first_name: None,
        };
        found.insert(path.into(), entry);
    }
    for mut names in first_names.into_values().filter(|names| names.len() > 1) {
        names.sort();
        for name in &names {
            found.get_mut(name).unwrap().first_name = Some(names[0].clone());
        }
    }
    found
}

/// A disk as an image's source.
struct Disk(vmdk::Disk);

impl Disk {
    fn open(path: &Path) -> Result<Self, vmdk::Error> {
        vmdk::Disk::open(path).map(Self)
    }
}

impl erofs_reader::ReadAt for Disk {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, erofs_reader::ReadAtError> {
        Ok(self.0.read_at(buf, offset)?)
    }

    fn size(&self) -> Result<u64, erofs_reader::ReadAtError> {
        Ok(self.0.size())
    }
}

/// Returns the view of the kernel's overlayfs of an image's layers, each mounted separately.
pub(crate) fn overlay_walk(blockbox: &Blockbox, reference: &str) -> Walk {
    let disks = blockbox.inspect(reference);
    let mounts: Vec<_> = disks
        .layers
        .iter()
        .map(|layer| Mount::erofs(layer, &[]))
        .collect();
    let mut folders: Vec<&Path> = mounts.iter().map(Mount::path).collect();
    // An overlay needs at least two lower folders.
    let nothing = tempfile::tempdir().unwrap();
    folders.insert(0, nothing.path());
    walk(Mount::overlay(&folders, "metacopy=on,redirect_dir=follow").path()).unwrap()
}

/// Returns the tree that umoci unpacks of the image `latest` in a layout.
pub(crate) fn umoci_walk(layout: &Path) -> Option<Walk> {
    let mut umoci = oracle("umoci")?;
    let bundle = tempfile::tempdir().unwrap();
    let image = format!("{}:latest", layout.display());
    let output = umoci
        .args(["unpack", "--image", &image])
        .arg(bundle.path().join("b"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Some(walk(&bundle.path().join("b/rootfs")).unwrap())
}

/// Returns the tree that skopeo unpacks of the image `latest` in a layout into containers-storage
/// without a kernel driver. `None` if skopeo is not installed.
pub(crate) fn skopeo_walk(layout: &Path) -> Option<Walk> {
    let mut skopeo = oracle("skopeo")?;
    let storage = tempfile::tempdir().unwrap();
    let (root, run) = (storage.path().join("root"), storage.path().join("run"));
    let place = format!("[vfs@{}+{}]", root.display(), run.display());
    let output = skopeo
        .args(["--insecure-policy", "copy", "-q"])
        .arg(format!("oci:{}:latest", layout.display()))
        .arg(format!("containers-storage:{place}compared:latest"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let images = std::fs::read(root.join("vfs-images/images.json")).unwrap();
    let images: serde_json::Value = serde_json::from_slice(&images).unwrap();
    let top = images[0]["layer"].as_str().unwrap();
    let mut walk = walk(&root.join("vfs/dir").join(top)).unwrap();
    // skopeo creates the root folder beforehand.
    forget_mtimes(&mut walk, &[""]);
    Some(walk)
}

/// Clears the modification times of `paths`, which no layer's entry sets, so they depend on the
/// tool.
pub(crate) fn forget_mtimes(walk: &mut Walk, paths: &[&str]) {
    for path in paths {
        walk.get_mut(path.as_bytes())
            .unwrap_or_else(|| panic!("no {path}"))
            .mtime = (0, 0);
    }
}

/// Pulls a stack of tars and compares the kernel's view with umoci's and, with `overlay`, with
/// overlayfs's.
pub(crate) fn compare(tars: &[Vec<u8>], unspecified: &[&str], overlay: bool) -> Walk {
    compare_but(tars, unspecified, overlay, Some(&[]))
}

/// As [`compare`], for images whose paths `skopeo` containers-storage treats differently, or that
/// it refuses if that is `None`. `docs/edge-cases.md` gives the reasons.
pub(crate) fn compare_but(
    tars: &[Vec<u8>],
    unspecified: &[&str],
    overlay: bool,
    skopeo: Option<&[&str]>,
) -> Walk {
    let layout = |kinds: [Compression; 3]| {
        let layers = tars.iter().zip(kinds.into_iter().cycle());
        layers
            .fold(Layout::new(), |layout, (tar, kind)| layout.layer(tar, kind))
            .finish()
    };
    // Old versions of umoci do not read zstd.
    let for_umoci = layout([Compression::Gzip; 3]);
    let layout = layout([Compression::Gzip, Compression::Zstd, Compression::None]);
    let blockbox = Blockbox::new();
    blockbox.ok(["pull", "-q", &layout.reference()]);
    let mut ours = kernel_walk(&blockbox, &layout.reference());
    let kernel = ours.clone();
    testkit::unescape_xattrs(&mut ours);
    if overlay {
        let mut theirs = overlay_walk(&blockbox, &layout.reference());
        forget_mtimes(&mut theirs, unspecified);
        let mut ours = ours.clone();
        forget_mtimes(&mut ours, unspecified);
        // Overlayfs shows each name of a hard link with a separate inode if the layers differ.
        Difference::between(&ours, &theirs).assert_none();
    }
    if let Some(mut theirs) = umoci_walk(for_umoci.path()) {
        forget_mtimes(&mut ours, unspecified);
        forget_mtimes(&mut theirs, unspecified);
        Difference::between(&ours, &theirs).assert_none();
    }
    let skopeo = skopeo.and_then(|differing| Some((skopeo_walk(for_umoci.path())?, differing)));
    if let Some((mut theirs, differing)) = skopeo {
        forget_mtimes(&mut ours, unspecified);
        forget_mtimes(&mut ours, &[""]);
        for path in differing {
            ours.remove(path.as_bytes());
            theirs.remove(path.as_bytes());
        }
        forget_mtimes(&mut theirs, unspecified);
        Difference::between(&ours, &theirs).assert_none();
    }
    kernel
}

pub(crate) fn text(walk: &Walk, path: &str) -> Option<Kind> {
    walk.get(path.as_bytes()).map(|entry| entry.kind.clone())
}

/// Changes attributes to those that containers-storage keeps, as listed in `docs/edge-cases.md`.
pub(crate) fn as_containers_storage(walk: &mut Walk) {
    for entry in walk.values_mut() {
        if entry.mtime.0 < 0 {
            entry.mtime = (0, 0);
        }
        entry
            .xattrs
            .retain(|name, _| !name.starts_with(b"system.posix_acl_"));
    }
    // For a root without an entry in any layer.
    walk.get_mut(&b""[..]).unwrap().mode = 0o555;
}
