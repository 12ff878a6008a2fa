//! Helpers of the integration tests: the command, a separate store, and hand-made OCI layouts.

// Every test binary uses its own part of this module.
#![allow(dead_code, reason = "each test binary uses its own part")]

pub(crate) mod guest;
pub(crate) mod layout;
pub(crate) mod programs;
pub(crate) mod registry;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// A store in a temporary folder, and the `blockbox` command working on it.
pub(crate) struct Blockbox {
    home: TempDir,
    /// Further variables of the command.
    variables: Vec<(String, PathBuf)>,
}

impl Blockbox {
    pub(crate) fn new() -> Self {
        let blockbox = Self::without_kernel();
        let home = blockbox.home();
        let kernel = testkit::made("kernel/libkrunfw.so.5");
        if kernel.exists() {
            std::fs::create_dir(home.join("kernel")).unwrap();
            std::fs::copy(kernel, home.join("kernel/libkrunfw.so.5")).unwrap();
        }
        blockbox
    }

    /// Returns one whose store has no kernel.
    pub(crate) fn without_kernel() -> Self {
        let home = tempfile::tempdir().unwrap();
        Self {
            home,
            variables: Vec::new(),
        }
    }

    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_blockbox"));
        command
            .env("BLOCKBOX_HOME", self.home.path())
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        command
    }

    /// Sets a variable of the command.
    pub(crate) fn set(&mut self, name: &str, value: &Path) {
        self.variables.push((name.to_owned(), value.to_owned()));
    }

    pub(crate) fn output(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Output {
        self.command().args(args).output().unwrap()
    }

    /// Runs a command that must succeed and returns its standard output.
    pub(crate) fn ok(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> String {
        let output = self.output(args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {stderr}", output.status);
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command that must fail with one line on standard error, and returns that line.
    pub(crate) fn fails(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> String {
        let output = self.output(args);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "succeeded");
        let errors: Vec<_> = stderr
            .lines()
            .filter(|line| line.starts_with("blockbox: "))
            .collect();
        assert_eq!(errors.len(), 1, "not one error line: {stderr}");
        errors[0].to_owned()
    }

    /// Returns the paths that `image inspect` reports.
    pub(crate) fn inspect(&self, reference: &str) -> Disks {
        let json = self.ok(["image", "inspect", reference, "--format", "json"]);
        let report: Value = serde_json::from_str(&json).unwrap();
        let path = |value: &Value| PathBuf::from(value.as_str().unwrap());
        Disks {
            layers: report["layers"]
                .as_array()
                .unwrap()
                .iter()
                .map(|l| path(&l["path"]))
                .collect(),
            fsmeta: path(&report["fsmeta"]["path"]),
            disk: path(&report["disk"]),
        }
    }

    /// Lists every file of the store except the kernels, with its size and modification time, which
    /// must not change when a pull fails.
    pub(crate) fn listing(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut pending = vec![self.home.path().to_owned()];
        while let Some(dir) = pending.pop() {
            for entry in std::fs::read_dir(dir).unwrap() {
                let entry = entry.unwrap();
                let meta = entry.metadata().unwrap();
                if meta.is_dir() {
                    pending.push(entry.path());
                } else {
                    let modified = meta.modified().unwrap();
                    found.push(format!(
                        "{} {} {modified:?}",
                        entry.path().display(),
                        meta.len()
                    ));
                }
            }
        }
        found.sort();
        found
    }
}

/// Kills machines that a failed test leaves running.
impl Drop for Blockbox {
    fn drop(&mut self) {
        let sandboxes = std::fs::read_dir(self.home.path().join("sandboxes"));
        for sandbox in sandboxes.into_iter().flatten().flatten() {
            let _ = self
                .command()
                .args(["rm", "-f"])
                .arg(sandbox.file_name())
                .output();
        }
    }
}

/// The paths of an image's disks.
pub(crate) struct Disks {
    pub(crate) layers: Vec<PathBuf>,
    pub(crate) fsmeta: PathBuf,
    pub(crate) disk: PathBuf,
}

impl Disks {
    /// Writes fsmeta and layers to one file, as a VMM presents them.
    pub(crate) fn stitched(&self) -> tempfile::NamedTempFile {
        let mut stitched = tempfile::NamedTempFile::new().unwrap();
        for part in std::iter::once(&self.fsmeta).chain(&self.layers) {
            std::io::copy(&mut std::fs::File::open(part).unwrap(), &mut stitched).unwrap();
        }
        stitched
    }
}
