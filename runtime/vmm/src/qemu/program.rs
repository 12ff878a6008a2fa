//! The programs of QEMU on this host.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::super::{Arch, VmmError};

/// The variable that names the QEMU program of the host's architecture outside of `PATH`.
const QEMU_VARIABLE: &str = "BLOCKBOX_QEMU";

/// Returns the QEMU to use for machines of `arch`.
pub(crate) fn find(arch: Arch) -> Result<PathBuf, VmmError> {
    let named = std::env::var_os(QEMU_VARIABLE).filter(|value| arch.is_host() && !value.is_empty());
    if let Some(path) = named {
        return Ok(path.into());
    }
    in_path(&format!("qemu-system-{arch}")).ok_or(VmmError::QemuNotFound { arch })
}

/// Returns the first file with this name in the folders of `PATH`.
pub(super) fn in_path(program: &str) -> Option<PathBuf> {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders)
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}

/// Returns the first line of `--version`.
pub(crate) fn version(program: &Path) -> io::Result<String> {
    let output = Command::new(program).arg("--version").output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().next().unwrap_or_default().to_owned())
}
