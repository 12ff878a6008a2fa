//! The programs that blockbox is compared with.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::setup::{self, Archive};
use crate::shell;

/// Programs and their Debian packages.
const PACKAGES: [(&str, &str); 7] = [
    ("libdeflate-gunzip", "libdeflate-tools"),
    ("igzip", "isal"),
    ("openssl", "openssl"),
    ("mke2fs", "e2fsprogs"),
    ("fuse-overlayfs", "fuse-overlayfs"),
    ("umoci", "umoci"),
    ("skopeo", "skopeo"),
];

/// The programs of erofs-utils.
const EROFS_UTILS: [&str; 3] = ["mkfs.erofs", "fsck.erofs", "erofsfuse"];

/// The peers that were found or installed.
pub(super) struct Peers;

impl Peers {
    /// Looks for the peers, and installs missing ones if apt-get and root are available.
    pub(super) fn find() -> Self {
        let missing = PACKAGES.iter();
        let missing: Vec<_> = missing
            .filter(|(program, _)| shell::program(program).is_none())
            .map(|(_, package)| *package)
            .collect();
        let root = rustix::process::geteuid().is_root();
        if !missing.is_empty() && root && shell::program("apt-get").is_some() {
            let mut install = Command::new("apt-get");
            install
                .args(["install", "-y", "-qq", "--no-install-recommends"])
                .args(&missing)
                .env("DEBIAN_FRONTEND", "noninteractive");
            eprintln!("bench: {}", shell::line(&install));
            if let Err(error) = shell::output(&mut install) {
                eprintln!("bench: {error:#}");
            }
        }
        Self
    }

    /// Returns a command that runs the peer, or the reason why it cannot.
    pub(super) fn command(&self, program: &str) -> std::result::Result<Command, String> {
        let missing = || {
            let mut packages = PACKAGES.iter();
            let package = packages.find(|(name, _)| *name == program);
            let package = package.map_or("cargo xtask setup", |(_, package)| package);
            format!("{program} is not installed ({package})")
        };
        if EROFS_UTILS.contains(&program) {
            let unpacked = with_loader(&shell::target("oracles/erofs-utils"), program);
            if let Some(command) = unpacked {
                return Ok(command);
            }
        }
        shell::program(program)
            .map(Command::new)
            .ok_or_else(missing)
    }

    /// Returns a command that runs the passt of Debian 13, unpacked if need be: the one of Debian 12
    /// ends now and then in the middle of an upload.
    pub(super) fn passt(&self) -> Result<Command> {
        let root = shell::target("bench/passt");
        shell::make_once(&root, |folder| {
            Archive::open("trixie")?.unpack_closure(&["passt"], folder)
        })?;
        // passt looks for the one with AVX2 beside the program, which is the loader here.
        let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let faster = processor.contains(" avx2 ").then_some("passt.avx2");
        let mut programs = faster.into_iter().chain(["passt"]);
        let found = programs.find_map(|program| with_loader(&root, program));
        found.context("Debian 13 has no passt")
    }

    /// Returns the version that mkfs.erofs reports.
    pub(super) fn mkfs_erofs_version(&self) -> Option<String> {
        let mut command = self.command("mkfs.erofs").ok()?;
        let text = shell::output(command.arg("--version")).ok()?;
        Some(text.lines().next()?.trim().to_owned())
    }
}

/// Returns a command that runs a program of an unpacked system with that system's own loader and
/// libraries; `None` if it is not there. A script that does the same would be a process to measure
/// as well.
fn with_loader(root: &Path, program: &str) -> Option<Command> {
    let program = root.join("usr/bin").join(program);
    let (loader, libraries) = setup::loader(root).ok()?;
    program.is_file().then(|| {
        let mut command = Command::new(root.join(loader));
        command.arg("--library-path").arg(root.join(libraries));
        command.arg(program);
        command
    })
}
