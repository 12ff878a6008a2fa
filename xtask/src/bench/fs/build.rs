//! Makes the files of stacks.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Error, Result};

use super::mounts::Mounts;
use crate::bench::Setting;
use crate::bench::input::{Image, Layer};
use crate::shell;

/// Makes files from an image's layers in an existing folder.
pub(in crate::bench) struct Build<'a> {
    pub(in crate::bench) setting: &'a Setting,
    pub(in crate::bench) image: &'a Image,
    pub(in crate::bench) folder: &'a Path,
}

impl Build<'_> {
    /// Makes blockbox's image of every layer, lowest first.
    pub(in crate::bench) fn layers(&self) -> Result<Vec<PathBuf>> {
        each(
            &self.image.layers,
            &self.folder("layers")?,
            |layer, output| {
                let mut build = self.setting.blockbox(&["erofs", "build", "--tar"]);
                build.arg(layer).arg("--output").arg(output);
                shell::output(&mut build).map(drop)
            },
        )
    }

    /// Makes the merged metadata of `layers`, which follow it on the disk.
    pub(in crate::bench) fn merge(&self, layers: &[PathBuf]) -> Result<PathBuf> {
        let fsmeta = self.folder("merged")?.join("fsmeta.erofs");
        let mut merge = self.setting.blockbox(&["erofs", "merge", "--output"]);
        shell::output(merge.arg(&fsmeta).args(layers))?;
        Ok(fsmeta)
    }

    /// Makes merged metadata and layers with mkfs.erofs.
    pub(in crate::bench) fn mkfs_erofs(&self) -> Result<(PathBuf, Vec<PathBuf>)> {
        let mkfs = || self.setting.peers.command("mkfs.erofs").map_err(Error::msg);
        let folder = self.folder("mkfs.erofs")?;
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
        Ok((merged, layers))
    }

    /// Mounts blockbox's layers.
    pub(in crate::bench) fn mount_layers(
        &self,
        mounts: &mut Mounts,
        layers: &[PathBuf],
    ) -> Result<Vec<PathBuf>> {
        let numbered = layers.iter().enumerate();
        numbered
            .map(|(number, layer)| mounts.image(&format!("l{number}"), "erofs", layer))
            .collect()
    }

    /// Copies the mounted layers to folders `0` and so on of one ext4. Returns its disk and the
    /// folders, where they are mounted now.
    pub(in crate::bench) fn unpack(
        &self,
        mounts: &mut Mounts,
        layers: &[PathBuf],
    ) -> Result<(PathBuf, Vec<PathBuf>)> {
        let mut mke2fs = self.setting.peers.command("mke2fs").map_err(Error::msg)?;
        let disk = self.folder("unpacked")?.join("disk");
        shell::output(mke2fs.args(["-q", "-t", "ext4"]).arg(&disk).arg("16G"))?;
        let folder = mounts.image("u", "ext4", &disk)?;
        let numbered = layers.iter().enumerate();
        let folders = numbered.map(|(number, layer)| {
            let folder = folder.join(number.to_string());
            copy(layer, &folder)?;
            Ok(folder)
        });
        Ok((disk, folders.collect::<Result<_>>()?))
    }

    /// A new folder.
    pub(in crate::bench) fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.folder.join(name);
        fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        Ok(path)
    }
}

/// Makes a writable disk with blockbox, with the contents of the folder `contents`.
pub(in crate::bench) fn writable(
    setting: &Setting,
    disk: &Path,
    contents: Option<&Path>,
) -> Result<()> {
    let mut create = setting.blockbox(&["ext4", "create", "--size", "4G", "--output"]);
    create.arg(disk);
    if let Some(contents) = contents {
        create.arg("--dir").arg(contents);
    }
    shell::output(&mut create).map(drop)
}

/// Copies everything in a folder, with all attributes, to a new one.
pub(in crate::bench) fn copy(from: &Path, to: &Path) -> Result<()> {
    let mut cp = Command::new("cp");
    cp.args(["--archive", "--no-target-directory"]);
    shell::output(cp.arg(from).arg(to)).map(drop)
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
