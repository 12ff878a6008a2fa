//! Wheels of PyPI, unpacked without being installed.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::shell;

/// Returns the first Python that has pip: the one on `PATH` may differ from the distribution's.
pub(super) fn python_with_pip() -> Option<PathBuf> {
    [PathBuf::from("python3"), PathBuf::from("/usr/bin/python3")]
        .into_iter()
        .find(|python| shell::output(Command::new(python).args(["-m", "pip", "--version"])).is_ok())
}

/// Fetches the one wheel that the arguments of pip name, and unpacks it into the new folder
/// `folder`, with nothing that it depends on. Returns the wheel's file name.
pub(crate) fn wheel(arguments: &[&OsStr], folder: &Path) -> Result<OsString> {
    let python = python_with_pip().context("no Python with pip")?;
    let mut download = folder.as_os_str().to_owned();
    download.push(".download");
    let download = PathBuf::from(download);
    if download.exists() {
        fs::remove_dir_all(&download)?;
    }
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "download", "--quiet", "--no-deps"])
        .args(["--disable-pip-version-check", "--only-binary=:all:"])
        .args(arguments)
        .arg("--dest")
        .arg(&download);
    shell::output(&mut pip)?;
    let name = fs::read_dir(&download)?
        .filter_map(|entry| Some(entry.ok()?.file_name()))
        .find(|name| name.to_string_lossy().ends_with(".whl"));
    let name = name.with_context(|| format!("no wheel in {}", download.display()))?;
    let mut unzip = Command::new(&python);
    unzip
        .args(["-m", "zipfile", "-e"])
        .arg(download.join(&name))
        .arg(folder);
    shell::output(&mut unzip)?;
    fs::remove_dir_all(&download)?;
    Ok(name)
}
