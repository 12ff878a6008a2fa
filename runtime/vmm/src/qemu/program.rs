//! The programs of QEMU on this host.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::super::VmmError;

/// The variable that names a QEMU program outside of `PATH`.
const QEMU_VARIABLE: &str = "BLOCKBOX_QEMU";

fn program_name() -> String {
    format!("qemu-system-{}", std::env::consts::ARCH)
}

/// Returns the QEMU to use.
pub(crate) fn find() -> Result<PathBuf, VmmError> {
    if let Some(path) = std::env::var_os(QEMU_VARIABLE).filter(|value| !value.is_empty()) {
        return Ok(path.into());
    }
    let program = program_name();
    in_path(&program).ok_or(VmmError::QemuNotFound { program })
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
