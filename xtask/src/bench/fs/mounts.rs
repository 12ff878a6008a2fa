//! Mounts and loop devices that are removed in the end in any case.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::shell;

/// Mount points and loop devices, in the order in which they were made.
pub(in crate::bench) struct Mounts {
    folder: PathBuf,
    points: Vec<PathBuf>,
    loops: Vec<PathBuf>,
}

impl Mounts {
    /// Creates mount points in `folder`.
    pub(in crate::bench) fn in_folder(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            points: Vec::new(),
            loops: Vec::new(),
        }
    }

    /// A new folder.
    pub(in crate::bench) fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.folder.join(name);
        fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        Ok(path)
    }

    /// Mounts the file `image` on the new folder `name`.
    pub(in crate::bench) fn image(
        &mut self,
        name: &str,
        kind: &str,
        image: &Path,
    ) -> Result<PathBuf> {
        let write = kind == "ext4";
        let device = self.attach(image, write)?;
        let options = if write { "rw" } else { "ro" };
        self.mount(name, kind, &device.display().to_string(), options)
    }

    /// Mounts anything on the new folder `name`.
    pub(in crate::bench) fn mount(
        &mut self,
        name: &str,
        kind: &str,
        source: &str,
        options: &str,
    ) -> Result<PathBuf> {
        let point = self.folder(name)?;
        let mut mount = Command::new("mount");
        mount
            // Overlays of many layers use short paths, because the options of mount(2) are limited
            // to a page.
            .current_dir(&self.folder)
            .args(["-t", kind, "-o", options, source])
            .arg(&point);
        shell::output(&mut mount)?;
        self.points.push(point.clone());
        Ok(point)
    }

    /// Runs a program that mounts something on the new folder `name` and continues in the
    /// background.
    pub(in crate::bench) fn mount_with(
        &mut self,
        name: &str,
        mut program: Command,
    ) -> Result<PathBuf> {
        let point = self.folder(name)?;
        program.current_dir(&self.folder).arg(&point);
        shell::output(&mut program)?;
        self.points.push(point.clone());
        Ok(point)
    }

    /// Attaches `image` to a loop device.
    pub(in crate::bench) fn attach(&mut self, image: &Path, write: bool) -> Result<PathBuf> {
        let mut losetup = Command::new("losetup");
        losetup.args(["--find", "--show"]);
        if !write {
            losetup.arg("--read-only");
        }
        let device = PathBuf::from(shell::output(losetup.arg(image))?.trim());
        self.loops.push(device.clone());
        Ok(device)
    }

    /// Unmounts everything, the latest first.
    pub(in crate::bench) fn unmount(&mut self) -> Result<()> {
        while let Some(point) = self.points.last() {
            unmount(point)?;
            self.points.pop();
        }
        while let Some(device) = self.loops.pop() {
            shell::output(Command::new("losetup").arg("--detach").arg(&device))?;
        }
        Ok(())
    }
}

/// Unmounts, with retries: a program that served a mount holds its files until it has ended, a
/// moment later.
fn unmount(point: &Path) -> Result<()> {
    const TRIES: u32 = 50;
    for _ in 1..TRIES {
        if shell::output(Command::new("umount").arg(point)).is_ok() {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(100));
    }
    shell::output(Command::new("umount").arg(point)).map(drop)
}

impl Drop for Mounts {
    /// After an error, busy mounts are left.
    fn drop(&mut self) {
        for point in self.points.iter().rev() {
            let _ = Command::new("umount").arg("--lazy").arg(point).status();
        }
        for device in &self.loops {
            let _ = Command::new("losetup").arg("--detach").arg(device).status();
        }
    }
}
