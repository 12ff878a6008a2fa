//! The Python package that contains libkrunfw, fetched by pip with its proxies, mirrors and
//! certificates or, without pip, from the index itself.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use blockbox_store::atomic::NewFolder;
use blockbox_vmm::Arch;

use super::error::{Error, Result, io_error};
use super::index;
use super::wheel::REQUIREMENTS;

/// The beginning of the tag of its wheels for Linux, which ends with the architecture.
const TAG: &str = "manylinux_2_28";

/// A wheel in a temporary folder, which is removed when this is dropped.
pub(super) struct Fetched {
    wheel: PathBuf,
    _folder: NewFolder,
}

impl Fetched {
    pub(super) fn path(&self) -> &Path {
        &self.wheel
    }
}

/// Fetches the package for `arch` into a temporary folder in `folder`.
pub(super) fn fetch(folder: &Path, arch: Arch, options: &ocipull::Options) -> Result<Fetched> {
    if !cfg!(target_os = "linux") {
        return Err(Error::NoPackage { arch });
    }
    let folder = blockbox_store::atomic::temporary_folder(folder)?;
    let wheel = match python_with_pip() {
        Some(python) => by_pip(python, &folder, arch)?,
        None => {
            let path = folder.path().join("wheel");
            let mut wheel = File::create(&path).map_err(io_error(&path))?;
            index::download(
                &index::address(),
                &index::known(REQUIREMENTS),
                arch,
                &mut wheel,
                options,
            )?;
            path
        }
    };
    Ok(Fetched {
        wheel,
        _folder: folder,
    })
}

/// Downloads the package with pip to a folder in `folder`, and returns the file.
fn by_pip(python: &str, folder: &NewFolder, arch: Arch) -> Result<PathBuf> {
    let mut requirements =
        tempfile::NamedTempFile::new_in(folder).map_err(io_error(folder.path()))?;
    requirements
        .write_all(REQUIREMENTS.as_bytes())
        .map_err(io_error(requirements.path()))?;
    let download = folder.path().join("download");
    let output = Command::new(python)
        // `-m` first looks for modules in the working directory, which other users may control.
        .current_dir("/")
        .args(["-m", "pip", "download", "--quiet", "--no-deps"])
        .args(["--disable-pip-version-check", "--no-input"])
        .args(["--only-binary=:all:", "--require-hashes", "--requirement"])
        .arg(requirements.path())
        .args(["--platform", &format!("{TAG}_{arch}")])
        .arg("--dest")
        .arg(&download)
        .stdin(Stdio::null())
        .output()
        .map_err(io_error(Path::new("python3")))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<_> = text
            .lines()
            .filter(|line| line.starts_with("ERROR"))
            .collect();
        let message = match lines.last() {
            Some(line) => line.trim_start_matches("ERROR: ").to_owned(),
            None => output.status.to_string(),
        };
        return Err(Error::Pip { message });
    }
    let mut files = fs::read_dir(&download).map_err(io_error(&download))?;
    match files.next() {
        Some(entry) => Ok(entry.map_err(io_error(&download))?.path()),
        None => {
            let message = "it left no file".to_owned();
            Err(Error::Pip { message })
        }
    }
}

/// Returns the first Python that has pip: the one on `PATH` may differ from the distribution's.
fn python_with_pip() -> Option<&'static str> {
    ["python3", "/usr/bin/python3"].into_iter().find(|python| {
        let version = Command::new(python)
            .current_dir("/")
            .args(["-m", "pip", "--version"])
            .stdin(Stdio::null())
            .output();
        version.is_ok_and(|output| output.status.success())
    })
}
