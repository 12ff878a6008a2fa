//! The server of a share: one virtiofsd process for each.
//!
//! The server gets a listening socket to which its only client, QEMU, is already connected. So it
//! ends when QEMU does, even if QEMU never started, and no socket is left in a folder.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use serde::{Deserialize, Serialize};

use super::super::VmmError;
use super::super::device::{Share, text};
use super::program;

/// The variable that names a virtiofsd program outside of the usual folders.
const SERVER_VARIABLE: &str = "BLOCKBOX_VIRTIOFSD";

/// The folders where distributions install it, because users do not run it themselves.
const FOLDERS: [&str; 4] = [
    "/usr/libexec",
    "/usr/lib/qemu",
    "/usr/lib",
    "/usr/lib/virtiofsd",
];

/// A virtiofsd to start.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Server {
    program: PathBuf,
    args: Vec<String>,
    /// A folder to make read-only first, for servers that cannot do so.
    read_only: Option<PathBuf>,
}

/// Returns the virtiofsd to use.
pub(crate) fn server() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os(SERVER_VARIABLE).filter(|value| !value.is_empty()) {
        return Some(PathBuf::from(path)).filter(|path| path.is_file());
    }
    let mut usual = FOLDERS
        .iter()
        .map(|folder| Path::new(folder).join("virtiofsd"));
    usual
        .find(|path| path.is_file())
        .or_else(|| program::in_path("virtiofsd"))
}

/// Returns the server of `share`.
pub(crate) fn plan(share: &Share) -> Result<Server, VmmError> {
    let program = server().ok_or(VmmError::NoShareServer)?;
    let version = program::version(&program)
        .map_err(VmmError::io(format!("cannot run {}", program.display())))?;
    let source = text(&share.path)?;
    if !is_part_of_qemu(&version) {
        let mut args = vec![
            "--fd=0".to_owned(),
            format!("--shared-dir={source}"),
            "--xattr".to_owned(),
            "--log-level=error".to_owned(),
        ];
        if share.read_only {
            args.push("--readonly".to_owned());
        }
        return Ok(Server {
            program,
            args,
            read_only: None,
        });
    }
    if !rustix::process::geteuid().is_root() {
        return Err(VmmError::ShareServer {
            program,
            reason: "QEMU's own virtiofsd runs as root only; virtiofsd 1.0 and later, a package of its own, does not",
        });
    }
    // A comma separates options.
    let source = source.replace('\\', "\\\\").replace(',', "\\,");
    let options = format!("source={source},xattr,log_level=err");
    Ok(Server {
        program,
        args: ["--fd=0", "-f", "-o", &options].map(str::to_owned).to_vec(),
        read_only: share.read_only.then(|| share.path.clone()),
    })
}

/// Returns whether this is the C program that was part of QEMU before version 8, by the first line
/// of `--version`. Its version is QEMU's, while the version of the one in Rust begins with 1.
fn is_part_of_qemu(version: &str) -> bool {
    let digits = version.trim_start_matches(|c: char| !c.is_ascii_digit());
    let major = digits.split('.').next().unwrap_or_default();
    major
        .parse()
        .is_ok_and(|major: u32| (4..8).contains(&major))
}

/// Makes this process the server.
pub(crate) fn enter(server: &Server) -> Result<ExitCode, VmmError> {
    if let Some(folder) = &server.read_only {
        let what = format!("cannot make {} read-only", folder.display());
        make_read_only(folder).map_err(VmmError::io(what))?;
    }
    let io = VmmError::io(format!("cannot run {}", server.program.display()));
    let mut command = Command::new(&server.program);
    command.args(&server.args);
    Err(io(std::os::unix::process::CommandExt::exec(&mut command)))
}

/// Makes `folder`, but no mounts below it, read-only for this process.
#[cfg(target_os = "linux")]
fn make_read_only(folder: &Path) -> io::Result<()> {
    use rustix::mount::{
        MountFlags, MountPropagationFlags, mount_bind, mount_change, mount_remount,
    };

    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?;
    let private = MountPropagationFlags::REC | MountPropagationFlags::PRIVATE;
    mount_change("/", private)?;
    mount_bind(folder, folder)?;
    mount_remount(folder, MountFlags::BIND | MountFlags::RDONLY, "")?;
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn make_read_only(_folder: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qemus_own_virtiofsd_is_distinguished_from_the_one_in_rust() {
        assert!(is_part_of_qemu(
            "virtiofsd version 7.2.22 (Debian 1:7.2+dfsg-7)"
        ));
        assert!(!is_part_of_qemu("virtiofsd 1.13.2"));
        assert!(!is_part_of_qemu("virtiofsd 10.0"));
    }
}
