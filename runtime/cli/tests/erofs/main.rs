//! Options of commands that write EROFS images, checked with the kernel's mounts.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "../common/mod.rs"]
mod common;
mod full;
mod index;
mod inspect;
mod merged;
mod options;
mod rebuild;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use common::Blockbox;
use serde_json::Value;
use testkit::{Mount, Walk, oracle, walk};

/// The command, with a folder for its input and output.
struct Lab {
    blockbox: Blockbox,
    dir: tempfile::TempDir,
}

impl Lab {
    fn new() -> Self {
        Self {
            blockbox: Blockbox::new(),
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Puts a file into the folder.
    fn put(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        fs::write(self.path(name), bytes).unwrap();
        self.path(name)
    }

    fn run(&self, arguments: &[impl AsRef<OsStr>]) -> Output {
        let mut command = self.blockbox.command();
        command.current_dir(self.dir.path()).arg("erofs");
        command.args(arguments).output().unwrap()
    }

    /// Runs `blockbox erofs …` in the folder; it must succeed.
    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {stderr}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs `blockbox erofs …` in the folder; it must fail. Returns its message.
    fn fails(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(!output.status.success(), "{arguments:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// Runs mkfs.erofs in the folder; returns `false` if it is not installed.
    fn mkfs(&self, arguments: &[&str]) -> bool {
        let Some(mut mkfs) = oracle("mkfs.erofs") else {
            return false;
        };
        let output = mkfs.current_dir(self.dir.path()).arg("--quiet");
        let output = output.args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        true
    }

    /// Returns the kernel's view of an image, whose devices are other files in the folder.
    fn shown(&self, image: &str, devices: &[&str]) -> Walk {
        let devices: Vec<_> = devices.iter().map(|name| self.path(name)).collect();
        let devices: Vec<&Path> = devices.iter().map(PathBuf::as_path).collect();
        walk(Mount::erofs(&self.path(image), &devices).path()).unwrap()
    }

    /// Fails unless `erofs check` finds nothing.
    fn check(&self, image: &str, devices: &[&str]) {
        let devices = devices.iter().flat_map(|device| ["--device", *device]);
        let arguments: Vec<_> = ["check", image].into_iter().chain(devices).collect();
        let report = self.ok(&[&arguments[..], &["--format", "json"]].concat());
        let report: Value = serde_json::from_str(&report).unwrap();
        assert_eq!(report["clean"], true, "{report}");
    }
}

/// Returns bytes without a pattern, the same every time.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let bytes = std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    });
    bytes.take(length).collect()
}
