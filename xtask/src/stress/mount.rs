//! A file system of the host for the stores of tests.

use std::fs::File;
use std::path::Path;
use std::process::Command;

use anyhow::Result;
use tempfile::TempDir;

use crate::shell;

/// Its size in bytes; it takes space only as it is written.
const SIZE: u64 = 8 << 30;

/// Kinds of file systems, which differ in how files are copied.
#[derive(clap::ValueEnum, Clone, Copy, Debug)]
pub(super) enum FileSystem {
    /// Copies data
    Ext4,
    /// Shares blocks
    Xfs,
    /// Shares blocks
    Btrfs,
    /// In memory
    Tmpfs,
}

/// A mount of a new file system, which is unmounted when dropped.
pub(super) struct Mount {
    folder: TempDir,
}

impl Mount {
    pub(super) fn new(kind: FileSystem) -> Result<Self> {
        let target = shell::target("stress");
        std::fs::create_dir_all(&target)?;
        let folder = tempfile::tempdir_in(target)?;
        let name = match kind {
            FileSystem::Ext4 => "ext4",
            FileSystem::Xfs => "xfs",
            FileSystem::Btrfs => "btrfs",
            FileSystem::Tmpfs => "tmpfs",
        };
        let mount = Self { folder };
        std::fs::create_dir(mount.path())?;
        let mut command = Command::new("mount");
        command.args(["-t", name]);
        if let FileSystem::Tmpfs = kind {
            command.arg(name);
        } else {
            let image = mount.folder.path().join("image");
            File::create(&image)?.set_len(SIZE)?;
            shell::run(Command::new(format!("mkfs.{name}")).arg("-q").arg(&image))?;
            command.args(["-o", "loop"]).arg(&image);
        }
        shell::run(command.arg(mount.path()))?;
        Ok(mount)
    }

    pub(super) fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("mnt")
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let path: &Path = &self.path();
        // Errors are ignored; the remaining folder shows them.
        let _ = Command::new("umount").arg(path).status();
    }
}
