//! The ways to show an image's layers as one tree.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Error, Result};

use super::mounts::Mounts;
use crate::bench::Setting;
use crate::bench::input::{Image, Layer};
use crate::shell;

/// A mounted tree.
pub(super) struct Stack {
    pub(super) name: &'static str,
    pub(super) root: PathBuf,
    /// What the guest's init has the kernel read when it has mounted it: so many bytes in front of a disk.
    pub(super) read_ahead: Option<(PathBuf, u64)>,
    /// Its failure is an error, and not a remark.
    pub(super) ours: bool,
}

/// As docker and the guest's init mount overlays.
const OVERLAY: &str = "redirect_dir=off,index=off,metacopy=off";

/// Mounts every stack that can be; those that cannot are named with the reason.
pub(super) fn mount(
    setting: &Setting,
    image: &Image,
    mounts: &mut Mounts,
) -> Result<(Vec<Stack>, Vec<String>)> {
    let build = Build { setting, image };
    let layers = build.layers(mounts)?;
    let (root, metadata) = build.ours(mounts, &layers)?;
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
    let mounted = build.mount_layers(mounts, &layers)?;
    add(
        "EROFS per layer",
        build.overlay(mounts, "per-layer", &mounted),
    );
    add("mkfs.erofs", build.mkfs_erofs(mounts));
    match build.unpack(mounts, &mounted) {
        Ok(unpacked) => {
            add("ext4 per layer", build.overlay(mounts, "ext4", &unpacked));
            add("fuse-overlayfs", build.fuse_overlayfs(mounts, &unpacked));
        }
        Err(error) => skipped.push(format!("ext4 per layer, fuse-overlayfs: {error:#}")),
    }
    skipped.push("virtio-fs: it shares folders with a guest, and here is none".to_owned());
    Ok((stacks, skipped))
}

struct Build<'a> {
    setting: &'a Setting,
    image: &'a Image,
}

impl Build<'_> {
    fn blockbox(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.setting.blockbox);
        command.args(args);
        command
    }

    /// Our image of every layer, lowest first.
    fn layers(&self, mounts: &Mounts) -> Result<Vec<PathBuf>> {
        let folder = mounts.folder("layers")?;
        each(&self.image.layers, &folder, |layer, output| {
            let mut build = self.blockbox(&["erofs", "build", "--tar"]);
            build.arg(layer).arg("--output").arg(output);
            shell::output(&mut build).map(drop)
        })
    }

    /// One disk of merged metadata and layers under an overlay, and where the metadata is.
    fn ours(&self, mounts: &mut Mounts, layers: &[PathBuf]) -> Result<(PathBuf, (PathBuf, u64))> {
        let folder = mounts.folder("merged")?;
        let fsmeta = folder.join("fsmeta.erofs");
        let mut merge = self.blockbox(&["erofs", "merge", "--output"]);
        merge.arg(&fsmeta).args(layers);
        shell::output(&mut merge)?;
        let disk = folder.join("disk");
        let mut stitched = File::create(&disk)?;
        for part in [&fsmeta].into_iter().chain(layers) {
            io::copy(&mut File::open(part)?, &mut stitched)?;
        }
        let device = mounts.attach(&disk, false)?;
        let lower = mounts.mount("m", "erofs", &device.display().to_string(), "ro")?;
        let root = self.overlay(mounts, "ours", &[lower])?;
        Ok((root, (device, fs::metadata(&fsmeta)?.len())))
    }

    fn mount_layers(&self, mounts: &mut Mounts, layers: &[PathBuf]) -> Result<Vec<PathBuf>> {
        let numbered = layers.iter().enumerate();
        numbered
            .map(|(number, layer)| mounts.image(&format!("l{number}"), "erofs", layer))
            .collect()
    }

    /// Layers and merged metadata by mkfs.erofs, under an overlay.
    fn mkfs_erofs(&self, mounts: &mut Mounts) -> Result<PathBuf> {
        let mkfs = || self.setting.peers.command("mkfs.erofs").map_err(Error::msg);
        let folder = mounts.folder("mkfs.erofs")?;
        let layers = each(&self.image.layers, &folder, |layer, output| {
            let mut mkfs = mkfs()?;
            mkfs.args([
                "--quiet",
                "--aufs",
                "-Enoinline_data",
                "--tar=f",
                "--ungzip",
            ])
            .arg(output)
            .arg(layer);
            shell::output(&mut mkfs).map(drop)
        })?;
        let merged = folder.join("merged");
        shell::output(mkfs()?.arg("--quiet").arg(&merged).args(&layers))?;
        let primary = mounts.attach(&merged, false)?.display().to_string();
        let mut options = "ro".to_owned();
        for layer in &layers {
            let device = mounts.attach(layer, false)?;
            options += &format!(",device={}", device.display());
        }
        let lower = mounts.mount("k", "erofs", &primary, &options)?;
        self.overlay(mounts, "rebuilt", &[lower])
    }

    /// The layers as folders of one ext4.
    fn unpack(&self, mounts: &mut Mounts, layers: &[PathBuf]) -> Result<Vec<PathBuf>> {
        let mut mke2fs = self.setting.peers.command("mke2fs").map_err(Error::msg)?;
        let disk = mounts.folder("unpacked")?.join("disk");
        shell::output(mke2fs.args(["-q", "-t", "ext4"]).arg(&disk).arg("16G"))?;
        let folder = mounts.image("u", "ext4", &disk)?;
        let numbered = layers.iter().enumerate();
        numbered
            .map(|(number, layer)| {
                let copy = folder.join(number.to_string());
                let mut cp = Command::new("cp");
                cp.args(["--archive", "--no-target-directory"]);
                shell::output(cp.arg(layer).arg(&copy))?;
                Ok(copy)
            })
            .collect()
    }

    /// The kernel's overlay of `lower`, lowest first.
    fn overlay(&self, mounts: &mut Mounts, name: &str, lower: &[PathBuf]) -> Result<PathBuf> {
        let options = self.overlay_options(mounts, name, lower)?;
        let options = format!("{options},{OVERLAY}");
        mounts.mount(&format!("o-{name}"), "overlay", "overlay", &options)
    }

    fn fuse_overlayfs(&self, mounts: &mut Mounts, lower: &[PathBuf]) -> Result<PathBuf> {
        let peer = self.setting.peers.command("fuse-overlayfs");
        let mut program = peer.map_err(Error::msg)?;
        let options = self.overlay_options(mounts, "fuse", lower)?;
        program.args(["-o", &options]);
        mounts.mount_with("o-fuse", program)
    }

    /// The layers by paths relative to the folder of mounts, and a writable disk of our own making.
    fn overlay_options(
        &self,
        mounts: &mut Mounts,
        name: &str,
        lower: &[PathBuf],
    ) -> Result<String> {
        let disk = mounts.folder("writable")?.join(name);
        let mut create = self.blockbox(&["ext4", "create", "--size", "4G", "--output"]);
        shell::output(create.arg(&disk))?;
        let writable = mounts.image(&format!("w-{name}"), "ext4", &disk)?;
        let base = mounts.folder("")?;
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

/// Makes a file of every layer.
fn each(
    layers: &[Layer],
    folder: &Path,
    make: impl Fn(&Path, &Path) -> Result<()>,
) -> Result<Vec<PathBuf>> {
    let numbered = layers.iter().enumerate();
    numbered
        .map(|(number, layer)| {
            let output = folder.join(format!("{number:03}.erofs"));
            make(&layer.path, &output)?;
            Ok(output)
        })
        .collect()
}
