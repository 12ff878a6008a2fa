//! The ways to show an image's layers as one tree, mounted on this machine.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Error, Result};

use super::build::{Build, writable};
use super::mounts::Mounts;

/// A mounted tree.
pub(super) struct Stack {
    pub(super) name: &'static str,
    pub(super) root: PathBuf,
    /// A disk and the number of bytes at its beginning that are read ahead after mounting, as the
    /// guest's init does.
    pub(super) read_ahead: Option<(PathBuf, u64)>,
    /// Whether its failure is an error, rather than a remark.
    pub(super) ours: bool,
}

/// The mount options of docker and the guest's init for overlays.
pub(in crate::bench) const OVERLAY: &str = "redirect_dir=off,index=off,metacopy=off";

/// Mounts every possible stack; the others are returned with the reason.
pub(super) fn mount(build: &Build<'_>, mounts: &mut Mounts) -> Result<(Vec<Stack>, Vec<String>)> {
    let layers = build.layers()?;
    let mut mounting = Mounting { build, mounts };
    let (root, metadata) = mounting.ours(&layers)?;
    let ours = |name, read_ahead| Stack {
        name,
        root: root.clone(),
        read_ahead,
        ours: true,
    };
    let mut stacks = vec![
        ours("blockbox", Some(metadata)),
        ours("blockbox, not read ahead", None),
    ];
    let mut skipped = Vec::new();
    let mut add = |name, root: Result<PathBuf>| match root {
        Ok(root) => stacks.push(Stack {
            name,
            root,
            read_ahead: None,
            ours: false,
        }),
        Err(error) => skipped.push(format!("{name}: {error:#}")),
    };
    let mounted = build.mount_layers(mounting.mounts, &layers)?;
    add("EROFS per layer", mounting.overlay("per-layer", &mounted));
    add("mkfs.erofs", mounting.mkfs_erofs());
    match build.unpack(mounting.mounts, &mounted) {
        Ok((_, unpacked)) => {
            add("ext4 per layer", mounting.overlay("ext4", &unpacked));
            add("fuse-overlayfs", mounting.fuse_overlayfs(&unpacked));
        }
        Err(error) => skipped.push(format!("ext4 per layer, fuse-overlayfs: {error:#}")),
    }
    skipped
        .push("virtio-fs: it shares folders with a guest, which the group `guest` has".to_owned());
    Ok((stacks, skipped))
}

struct Mounting<'a> {
    build: &'a Build<'a>,
    mounts: &'a mut Mounts,
}

impl Mounting<'_> {
    /// Mounts one disk of merged metadata and layers under an overlay, and returns where the
    /// metadata is.
    fn ours(&mut self, layers: &[PathBuf]) -> Result<(PathBuf, (PathBuf, u64))> {
        let fsmeta = self.build.merge(layers)?;
        let disk = self.build.folder("merged")?.join("disk");
        let mut stitched = File::create(&disk)?;
        for part in [&fsmeta].into_iter().chain(layers) {
            io::copy(&mut File::open(part)?, &mut stitched)?;
        }
        let device = self.mounts.attach(&disk, false)?;
        let source = device.display().to_string();
        let lower = self.mounts.mount("m", "erofs", &source, "ro")?;
        let root = self.overlay("ours", &[lower])?;
        Ok((root, (device, fs::metadata(&fsmeta)?.len())))
    }

    /// Mounts layers and merged metadata of mkfs.erofs under an overlay.
    fn mkfs_erofs(&mut self) -> Result<PathBuf> {
        let (merged, layers) = self.build.mkfs_erofs()?;
        let primary = self.mounts.attach(&merged, false)?.display().to_string();
        let mut options = "ro".to_owned();
        for layer in &layers {
            let device = self.mounts.attach(layer, false)?;
            options += &format!(",device={}", device.display());
        }
        let lower = self.mounts.mount("k", "erofs", &primary, &options)?;
        self.overlay("rebuilt", &[lower])
    }

    /// Mounts the kernel's overlay of `lower`, lowest first.
    fn overlay(&mut self, name: &str, lower: &[PathBuf]) -> Result<PathBuf> {
        let options = self.overlay_options(name, lower)?;
        let options = format!("{options},{OVERLAY}");
        self.mounts
            .mount(&format!("o-{name}"), "overlay", "overlay", &options)
    }

    fn fuse_overlayfs(&mut self, lower: &[PathBuf]) -> Result<PathBuf> {
        let peer = self.build.setting.peers.command("fuse-overlayfs");
        let mut program = peer.map_err(Error::msg)?;
        let options = self.overlay_options("fuse", lower)?;
        program.args(["-o", &options]);
        self.mounts.mount_with("o-fuse", program)
    }

    /// Returns the layers as paths relative to the folder of mounts, and a writable disk.
    fn overlay_options(&mut self, name: &str, lower: &[PathBuf]) -> Result<String> {
        let disk = self.build.folder("writable")?.join(name);
        writable(self.build.setting, &disk, None)?;
        let writable = self.mounts.image(&format!("w-{name}"), "ext4", &disk)?;
        let base = self.mounts.folder("")?;
        let relative = |path: &Path| {
            path.strip_prefix(&base)
                .unwrap_or(path)
                .display()
                .to_string()
        };
        for folder in ["upper", "work"] {
            fs::create_dir(writable.join(folder))?;
        }
        let lower: Vec<_> = lower.iter().rev().map(|path| relative(path)).collect();
        let writable = relative(&writable);
        Ok(format!(
            "lowerdir={},upperdir={writable}/upper,workdir={writable}/work",
            lower.join(":")
        ))
    }
}
