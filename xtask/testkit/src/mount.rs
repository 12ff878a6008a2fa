//! Loop devices and kernel mounts that go away with their owner.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

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

    /// The device's path.
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

/// A kernel mount on a temporary directory, unmounted when dropped.
#[derive(Debug)]
pub struct Mount {
    // Dropped in this order, after `drop` has unmounted.
    point: tempfile::TempDir,
    _loops: Vec<Loop>,
}

impl Mount {
    /// Mounts the EROFS image `image`, with `devices` as its extra devices in order.
    pub fn erofs(image: &Path, devices: &[&Path]) -> Self {
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
        Self::new("erofs", &source, &format!("ro{options}"), loops)
    }

    /// Mounts the ext4 image `image`.
    pub fn ext4(image: &Path, write: bool) -> Self {
        let device = Loop::attach(image, write);
        let source = device.path().to_owned();
        Self::new(
            "ext4",
            &source,
            if write { "rw" } else { "ro" },
            vec![device],
        )
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
        let point = tempfile::tempdir().expect("a temporary directory");
        run(Command::new("mount")
            .args(["-t", kind, "-o", options])
            .arg(source)
            .arg(point.path()));
        Self {
            point,
            _loops: loops,
        }
    }

    /// Where it is mounted.
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
                .status()
                .is_ok_and(|s| s.success())
        };
        // A process that was started meanwhile may hold what it inherited for a moment. Unmounted lazily, an image would not be
        // whole yet for whoever looks at it next.
        for _ in 0..50 {
            if umount(&["--quiet"]) {
                return;
            }
            thread::sleep(Duration::from_millis(100));
        }
        umount(&["--lazy"]);
    }
}

fn run(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(
        output.status.success(),
        "{command:?}: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("UTF-8 output")
}
