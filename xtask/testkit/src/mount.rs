//! Loop devices and kernel mounts that are removed when dropped.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::{panicking, sleep};
use std::time::Duration;

use crate::skip;

/// A loop device over a file, detached when dropped.
#[derive(Debug)]
pub struct Loop(PathBuf);

impl Loop {
    /// Attaches `file`, read-only unless `write`.
    pub fn attach(file: &Path, write: bool) -> Self {
        let mut losetup = Command::new("losetup");
        losetup.args(["--find", "--show"]);
        if !write {
            losetup.arg("--read-only");
        }
        Self(PathBuf::from(run(losetup.arg(file)).trim()))
    }

    /// Returns the device's path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup")
            .arg("--detach")
            .arg(&self.0)
            .status();
    }
}

/// A kernel mount on a temporary directory. It is unmounted when dropped, and the disk may be
/// examined afterwards.
#[derive(Debug)]
pub struct Mount {
    // Dropped in this order, after `drop` has unmounted.
    point: tempfile::TempDir,
    _loops: Vec<Loop>,
}

impl Mount {
    /// Mounts the EROFS image `image`, with `devices` as its extra devices in order.
    pub fn erofs(image: &Path, devices: &[&Path]) -> Self {
        Self::try_erofs(image, devices).unwrap_or_else(|e| panic!("{e}"))
    }

    /// As [`erofs`](Self::erofs), or returns the message of `mount` if that fails.
    pub fn try_erofs(image: &Path, devices: &[&Path]) -> Result<Self, String> {
        let primary = Loop::attach(image, false);
        let devices: Vec<_> = devices
            .iter()
            .map(|file| Loop::attach(file, false))
            .collect();
        let options: String = devices
            .iter()
            .map(|device| format!(",device={}", device.path().display()))
            .collect();
        let source = primary.path().to_owned();
        let loops = std::iter::once(primary).chain(devices).collect();
        Self::try_new("erofs", &source, &format!("ro{options}"), loops)
    }

    /// Mounts the ext4 image `image`.
    pub fn ext4(image: &Path, write: bool) -> Self {
        Self::try_ext4(image, write).unwrap_or_else(|e| panic!("{e}"))
    }

    /// Mounts the ext4 image `image`, or returns the message of `mount` if that fails.
    pub fn try_ext4(image: &Path, write: bool) -> Result<Self, String> {
        let device = Loop::attach(image, write);
        let source = device.path().to_owned();
        let options = if write { "rw" } else { "ro" };
        Self::try_new("ext4", &source, options, vec![device])
    }

    /// Mounts an overlay of read-only directories, lowest first.
    pub fn overlay(lowest_to_highest: &[&Path], options: &str) -> Self {
        let lower: Vec<_> = lowest_to_highest
            .iter()
            .rev()
            .map(|dir| dir.display().to_string())
            .collect();
        let options = format!("ro,lowerdir={},{options}", lower.join(":"));
        Self::new(
            "overlay",
            Path::new("overlay"),
            options.trim_end_matches(','),
            Vec::new(),
        )
    }

    fn new(kind: &str, source: &Path, options: &str, loops: Vec<Loop>) -> Self {
        Self::try_new(kind, source, options, loops).unwrap_or_else(|e| panic!("{e}"))
    }

    fn try_new(kind: &str, source: &Path, options: &str, loops: Vec<Loop>) -> Result<Self, String> {
        let point = tempfile::tempdir().expect("a temporary directory");
        try_run(
            Command::new("mount")
                .args(["-t", kind, "-o", options])
                .arg(source)
                .arg(point.path()),
        )?;
        Ok(Self {
            point,
            _loops: loops,
        })
    }

    /// Returns the mount point.
    pub fn path(&self) -> &Path {
        self.point.path()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let umount = |options: &[&str]| {
            let point = self.point.path();
            Command::new("umount")
                .args(options)
                .arg(point)
                .output()
                .is_ok_and(|output| output.status.success())
        };
        // A process that another test started may hold an inherited descriptor for a moment. After
        // a lazy unmount, the image might not be complete for its next reader.
        let unmounted = (0..1000).any(|tries| {
            if tries > 0 {
                sleep(Duration::from_millis(20));
            }
            umount(&["--quiet"])
        });
        if !unmounted {
            umount(&["--lazy"]);
            assert!(panicking(), "{} is busy", self.point.path().display());
        }
    }
}

/// A file system in memory with a limited size, unmounted when dropped.
#[derive(Debug)]
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one at a folder; reports a skipped test if this user may not mount.
    ///
    /// # Panics
    ///
    /// If `CI=true` and this user may not mount.
    pub fn mount(folder: &Path, mebibytes: u32) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            skip("mounting a small file system takes root");
            return None;
        }
        let options = format!("size={mebibytes}m,mode=0700");
        run(Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "small"])
            .arg(folder));
        Some(Self(folder.to_owned()))
    }

    /// Changes its size.
    pub fn resize(&self, mebibytes: u32) {
        let options = format!("remount,size={mebibytes}m");
        run(Command::new("mount").args(["-o", &options]).arg(&self.0));
    }

    /// Returns the mount point.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Its contents are not examined afterwards.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

fn run(command: &mut Command) -> String {
    try_run(command).unwrap_or_else(|e| panic!("{e}"))
}

/// Returns the output of a command, or a message about its failure.
fn try_run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{command:?}: {}: {stderr}", output.status));
    }
    Ok(String::from_utf8(output.stdout).expect("UTF-8 output"))
}
