//! The programs that blockbox is compared with.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::shell;

/// Programs and their Debian packages.
const PACKAGES: [(&str, &str); 8] = [
    ("libdeflate-gunzip", "libdeflate-tools"),
    ("igzip", "isal"),
    ("openssl", "openssl"),
    ("mke2fs", "e2fsprogs"),
    ("fuse-overlayfs", "fuse-overlayfs"),
    ("umoci", "umoci"),
    ("skopeo", "skopeo"),
    ("passt", "passt"),
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
    pub(super) fn command(&self, program: &str) -> Result<Command, String> {
        let missing = || {
            let mut packages = PACKAGES.iter();
            let package = packages.find(|(name, _)| *name == program);
            let package = package.map_or("cargo xtask setup", |(_, package)| package);
            format!("{program} is not installed ({package})")
        };
        if EROFS_UTILS.contains(&program) {
            let words = erofs_utils(program).ok_or_else(missing)?;
            let mut command = Command::new(&words[0]);
            command.args(&words[1..]);
            return Ok(command);
        }
        shell::program(program)
            .map(Command::new)
            .ok_or_else(missing)
    }

    /// Returns the version that mkfs.erofs reports.
    pub(super) fn mkfs_erofs_version(&self) -> Option<String> {
        let mut command = self.command("mkfs.erofs").ok()?;
        let text = shell::output(command.arg("--version")).ok()?;
        Some(text.lines().next()?.trim().to_owned())
    }
}

/// Returns the words that start a program of erofs-utils. Those in `target/oracles/bin` are scripts
/// that start several processes, which would be measured as well; so the last command of such a
/// script is returned.
fn erofs_utils(name: &str) -> Option<Vec<PathBuf>> {
    let root = shell::target("oracles/erofs-utils");
    let program = root.join("usr/bin").join(name);
    let libraries = root.join(format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH));
    let loader = fs::read_dir(&libraries).ok().and_then(|entries| {
        entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.file_name().is_some_and(is_loader))
    });
    match loader {
        Some(loader) if program.is_file() => {
            Some(vec![loader, "--library-path".into(), libraries, program])
        }
        _ => shell::program(name).map(|program| vec![program]),
    }
}

fn is_loader(name: &std::ffi::OsStr) -> bool {
    name.to_string_lossy().starts_with("ld-linux")
}
