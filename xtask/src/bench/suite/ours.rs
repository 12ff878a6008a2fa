//! Sandboxes of blockbox, and a guest of blockbox with docker's layout.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::guest::{self, BENCH, MEMORY, SECONDS};
use crate::bench::Setting;
use crate::bench::fs::{Build, Mounts, OVERLAY};
use crate::bench::input::Image;
use crate::{setup, shell};

/// The programs of a guest with docker's layout.
const APPLETS: [&str; 7] = ["sh", "cat", "chmod", "cp", "mkdir", "mount", "rm"];

/// The store in the folder of a sandbox. A store contains nothing else.
pub(super) const STORE: &str = "store";

/// Puts the guest kernel into the store in `home`.
pub(super) fn kernel(home: &Path) -> Result<()> {
    let kernel = home.join(STORE).join("kernel");
    fs::create_dir_all(&kernel)?;
    fs::copy(setup::guest_kernel(), kernel.join(setup::GUEST_KERNEL))?;
    Ok(())
}

/// Makes a store in `home` with the guest kernel and the image. Returns its reference.
pub(super) fn store(
    setting: &Setting,
    home: &Path,
    image: &Image,
    layout: &Path,
) -> Result<String> {
    kernel(home)?;
    let tag = image.tag.as_deref().unwrap_or("@0");
    let reference = format!("oci:{}:{tag}", layout.display());
    let mut pull = setting.blockbox(&["pull", "--quiet", &reference]);
    shell::output(pull.env("BLOCKBOX_HOME", home.join(STORE)))?;
    Ok(reference)
}

/// The script that runs the workloads in a new sandbox of `image`.
pub(super) fn script(
    setting: &Setting,
    home: &Path,
    options: &str,
    image: &str,
    workloads: &str,
) -> String {
    let command = format!(
        "{} run --vmm libkrun --pull never --rm --cpus 1 --memory {MEMORY}M {options} \
         --volume {}:{BENCH} {} -- /bin/sh -c {}",
        shell::quoted(setting.blockbox.as_os_str()),
        shell::quoted(home.join("bench").as_os_str()),
        shell::quoted(image.as_ref()),
        shell::quoted(workloads.as_ref()),
    );
    let store = home.join(STORE);
    let store = shell::quoted(store.as_os_str());
    guest::script(&format!("BLOCKBOX_HOME={store}"), &command, SECONDS)
}

/// Makes a disk with docker's layout: one ext4 with a folder for each layer, and one for changes.
/// Returns the disk, and the shell commands that mount the overlay in the guest.
pub(super) fn docker(build: &Build<'_>, home: &Path) -> Result<(PathBuf, String)> {
    let layers = build.layers()?;
    let mut mounts = Mounts::in_folder(build.folder);
    let mounted = build.mount_layers(&mut mounts, &layers)?;
    let (disk, folders) = build.unpack(&mut mounts, &mounted)?;
    let system = build.folder("u")?;
    for name in ["bin", "dev", "proc", "run", "sys", "tmp"] {
        fs::create_dir_all(system.join(name))?;
    }
    let busybox = shell::program("busybox").context("no busybox")?;
    fs::copy(busybox, system.join("bin/busybox"))?;
    for applet in APPLETS {
        std::os::unix::fs::symlink("busybox", system.join("bin").join(applet))?;
    }
    mounts.unmount()?;
    let to = home.join("docker.raw");
    // The target may be on another file system; mv keeps holes.
    shell::output(Command::new("mv").arg(&disk).arg(&to))?;
    let lower: Vec<_> = (0..folders.len())
        .rev()
        .map(|number| format!("/{number}"))
        .collect();
    // The folders are those of an earlier run, if there was one.
    let mount = format!(
        "rm -rf /upper /work && mkdir -p /upper /work /tree || exit\n\
         mount -t overlay -o lowerdir={},upperdir=/upper,workdir=/work,{OVERLAY} overlay /tree || exit\n",
        lower.join(":")
    );
    Ok((to, mount))
}
