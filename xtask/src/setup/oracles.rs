//! Oracles whose versions in stable distributions are too old for blockbox's images, and a program
//! of another processor for its guests.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::archive::{Archive, loader};
use crate::shell;

/// The programs of `erofs-utils` and `erofsfuse`. Debian 12's 1.5 supports neither 512-byte blocks
/// nor a device table that is only used for addresses; nor does its erofsfuse.
pub(super) const PROGRAMS: [&str; 4] = ["mkfs.erofs", "fsck.erofs", "dump.erofs", "erofsfuse"];

/// Unpacks erofs-utils into `target/oracles/erofs-utils`, with wrappers in `target/oracles/bin`.
pub(super) fn install() -> Result<bool> {
    let bin = shell::target("oracles/bin");
    if !PROGRAMS.iter().all(|name| bin.join(name).exists()) {
        if shell::program("apt-get").is_none() || shell::program("dpkg").is_none() {
            println!(
                "setup: erofs-utils 1.9 or later: install it; its checks are skipped otherwise"
            );
            return Ok(false);
        }
        println!(
            "setup: unpacking erofs-utils from Debian sid (Debian 12's cannot read our images)"
        );
        unpack(&bin)?;
    }
    let version = shell::output(Command::new(bin.join("fsck.erofs")).arg("--version"))?;
    println!("setup: {}", version.lines().next().unwrap_or_default());
    arm64()?;
    Ok(true)
}

/// Unpacks a busybox of arm64 into `target/oracles/arm64`: what runs in emulated guests of tests.
fn arm64() -> Result<()> {
    let root = shell::target("oracles/arm64");
    if !root.join("bin/busybox").exists() {
        println!("setup: unpacking busybox for arm64 from Debian 12");
        Archive::open_for("bookworm", Some("arm64"))?.unpack(&["busybox-static"], &root)?;
    }
    Ok(())
}

fn unpack(bin: &Path) -> Result<()> {
    let root = shell::target("oracles/erofs-utils");
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    Archive::open("sid")?.unpack_closure(&["erofs-utils", "erofsfuse"], &root)?;
    let (loader, libraries) = loader(&root)?;
    fs::create_dir_all(bin)?;
    for name in PROGRAMS {
        let script = format!(
            "#!/bin/sh\n\
             # Runs a program of a newer distribution with that distribution's own libraries.\n\
             root=$(dirname \"$(readlink -f \"$0\")\")/../erofs-utils\n\
             exec \"$root/{loader}\" --library-path \"$root/{libraries}\" \"$root/usr/bin/{name}\" \"$@\"\n"
        );
        let path = bin.join(name);
        fs::write(&path, script)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}
