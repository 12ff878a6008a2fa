//! The stacks as disks, and how a guest mounts them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Error, Result};

use super::machine::Disk;
use super::partitions;
use crate::bench::fs::{Build, Mounts, OVERLAY, copy};
use crate::share::virtiofsd;
use crate::shell;

/// Where the guest mounts the tree.
pub(super) const TREE: &str = "/tree";

/// The disks of a machine, and the commands it runs.
#[derive(Default)]
pub(super) struct Stack {
    pub(super) name: &'static str,
    /// Whether its failure is an error, rather than a remark.
    pub(super) ours: bool,
    /// The disks after the writable one, from /dev/vdb on.
    pub(super) disks: Vec<Disk>,
    /// A folder that is shared through virtio-fs.
    pub(super) share: Option<PathBuf>,
    /// Lines of a shell script that mount it at [`TREE`].
    pub(super) mount: String,
    /// Options of the measuring program.
    pub(super) options: String,
}

/// Makes the disks of every possible stack; the others are returned with the reason.
pub(super) fn make(build: &Build<'_>) -> Result<(Vec<Stack>, Vec<String>)> {
    let layers = build.layers()?;
    let mut stacks = ours(build, &layers)?;
    let mut skipped = Vec::new();
    let mut add = |name: &str, stack: Result<Stack>| match stack {
        Ok(stack) => stacks.push(stack),
        Err(error) => skipped.push(format!("{name}: {error:#}")),
    };
    add("EROFS per layer", per_layer(build, &layers));
    add("mkfs.erofs", mkfs_erofs(build));
    let mut mounts = Mounts::in_folder(build.folder);
    let mounted = build.mount_layers(&mut mounts, &layers)?;
    match build.unpack(&mut mounts, &mounted) {
        Ok((disk, _)) => {
            let folders = folders(layers.len(), "/lower/");
            add("ext4 per layer", Ok(ext4(&disk, &folders)));
            add("fuse-overlayfs", fuse_overlayfs(build, &disk, &folders));
        }
        Err(error) => add("ext4 per layer, fuse-overlayfs", Err(error)),
    }
    add("virtio-fs", virtio_fs(build, &mut mounts, &mounted));
    mounts.unmount()?;
    Ok((stacks, skipped))
}

/// Makes the disk of merged metadata and layers.
fn ours(build: &Build<'_>, layers: &[PathBuf]) -> Result<Vec<Stack>> {
    let fsmeta = build.merge(layers)?;
    let bytes = fs::metadata(&fsmeta)?.len();
    let disk = build.folder("merged")?.join("disk.vmdk");
    let mut create = build.setting.blockbox(&["vmdk", "create", "--output"]);
    shell::output(create.arg(&disk).arg(fsmeta).args(layers))?;
    let stack = |name, options| Stack {
        name,
        ours: true,
        disks: vec![Disk::vmdk(&disk)],
        mount: lower("erofs", "ro", "/dev/vdb") + &overlay(&["/lower".to_owned()]),
        options,
        ..Stack::default()
    };
    Ok(vec![
        stack("blockbox", format!("--read-ahead /dev/vdb:{bytes}")),
        stack("blockbox, not read ahead", String::new()),
    ])
}

/// Makes a partition for each layer of blockbox.
fn per_layer(build: &Build<'_>, layers: &[PathBuf]) -> Result<Stack> {
    let mut mount = String::new();
    for number in 0..layers.len() {
        let device = format!("/dev/vdb{}", partitions::FIRST + number);
        mount += &format!("mkdir /l{number}\nmount -t erofs -o ro {device} /l{number}\n");
    }
    mount += &overlay(&folders(layers.len(), "/l"));
    Ok(Stack {
        name: "EROFS per layer",
        disks: vec![Disk::vmdk(&partitions::disk(build, "per-layer", layers)?)],
        mount,
        ..Stack::default()
    })
}

/// Makes a disk of merged metadata by mkfs.erofs, and a partition for each of its layers.
fn mkfs_erofs(build: &Build<'_>) -> Result<Stack> {
    let (merged, layers) = build.mkfs_erofs()?;
    let mut options = "ro".to_owned();
    for number in 0..layers.len() {
        options += &format!(",device=/dev/vdc{}", partitions::FIRST + number);
    }
    let blobs = partitions::disk(build, "rebuilt", &layers)?;
    Ok(Stack {
        name: "mkfs.erofs",
        disks: vec![Disk::raw(&merged), Disk::vmdk(&blobs)],
        mount: lower("erofs", &options, "/dev/vdb") + &overlay(&["/lower".to_owned()]),
        ..Stack::default()
    })
}

/// Makes a disk with a folder per layer, under the kernel's overlay.
fn ext4(disk: &Path, folders: &[String]) -> Stack {
    Stack {
        name: "ext4 per layer",
        disks: vec![Disk::raw(disk)],
        mount: lower("ext4", "ro", "/dev/vdb") + &overlay(folders),
        ..Stack::default()
    }
}

/// Uses the same disk under fuse-overlayfs.
fn fuse_overlayfs(build: &Build<'_>, disk: &Path, folders: &[String]) -> Result<Stack> {
    let peer = build.setting.peers.command("fuse-overlayfs");
    peer.map_err(Error::msg)?;
    let program = format!("fuse-overlayfs -o {} {TREE}\n", overlay_options(folders));
    Ok(Stack {
        name: "fuse-overlayfs",
        mount: lower("ext4", "ro", "/dev/vdb") + &program,
        ..ext4(disk, folders)
    })
}

/// Shares the host's folder with the merged tree.
fn virtio_fs(build: &Build<'_>, mounts: &mut Mounts, mounted: &[PathBuf]) -> Result<Stack> {
    virtiofsd().context("virtiofsd is not installed (qemu-system-common or virtiofsd)")?;
    let merged = match mounted {
        [only] => only.clone(),
        _ => {
            let layers = mounted.iter().rev().map(|path| path.file_name());
            let layers = layers.map(|name| name.unwrap_or_default().to_string_lossy());
            let options = format!("lowerdir={}", layers.collect::<Vec<_>>().join(":"));
            mounts.mount("all", "overlay", "overlay", &options)?
        }
    };
    let share = build.folder("shared")?.join("tree");
    copy(&merged, &share)?;
    Ok(Stack {
        name: "virtio-fs",
        share: Some(share),
        mount: lower("virtiofs", "ro", "share") + &overlay(&["/lower".to_owned()]),
        ..Stack::default()
    })
}

/// Returns commands that mount the lower layer of the tree.
fn lower(kind: &str, options: &str, source: &str) -> String {
    format!("mkdir /lower\nmount -t {kind} -o {options} {source} /lower\n")
}

/// Returns folders by number.
fn folders(count: usize, prefix: &str) -> Vec<String> {
    (0..count)
        .map(|number| format!("{prefix}{number}"))
        .collect()
}

/// Returns commands that mount the kernel's overlay of `lower`, lowest first.
fn overlay(lower: &[String]) -> String {
    let options = overlay_options(lower);
    format!("mount -t overlay -o {options},{OVERLAY} overlay {TREE}\n")
}

fn overlay_options(lower: &[String]) -> String {
    let lower: Vec<_> = lower.iter().rev().map(String::as_str).collect();
    format!("lowerdir={},upperdir=/upper,workdir=/work", lower.join(":"))
}
