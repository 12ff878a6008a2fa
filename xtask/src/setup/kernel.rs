//! The guest kernel, in the shared library libkrunfw.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::wheel::{python_with_pip, wheel};
use crate::shell;

/// The library's file name.
pub(crate) const LIBRARY: &str = "libkrunfw.so.5";

/// The folders where distributions and manual installations put it.
const SYSTEM_FOLDERS: [&str; 6] = [
    "/usr/local/lib64",
    "/usr/local/lib",
    "/usr/lib64",
    "/usr/lib",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
];

/// A package of PyPI that contains libkrunfw, with pip's hashes of its wheels (Linux x86-64, Linux
/// arm64): pip accepts no other file. `blockbox kernel install` uses the same.
const WHEEL: &str = include_str!("../../../runtime/sandbox/src/kernel/requirements.txt");

/// Returns where [`install`] puts the library.
pub(crate) fn guest_kernel() -> PathBuf {
    shell::target("kernel").join(LIBRARY)
}

/// Returns where [`install`] puts the library for arm64 guests of an x86-64 host.
fn arm64_kernel() -> PathBuf {
    shell::target("kernel/aarch64").join(LIBRARY)
}

/// Copies the system's libkrunfw, or the one of PyPI, to [`guest_kernel`], and fetches the one of
/// the processor that tests emulate.
pub(super) fn install() -> Result<bool> {
    let kernel = guest_kernel();
    if !kernel.exists() {
        let folder = shell::target("kernel");
        fs::create_dir_all(&folder)?;
        if let Some(system) = system() {
            println!("setup: the guest kernel: {}", system.display());
            place(&system, &kernel)?;
        } else if !cfg!(target_os = "linux") {
            println!(
                "setup: libkrunfw, which holds the guest kernel: install it (brew install libkrunfw)"
            );
            return Ok(false);
        } else if python_with_pip().is_some() {
            println!(
                "setup: fetching the guest kernel: no {LIBRARY} here, PyPI's microsandbox carries it"
            );
            fetch(&kernel, std::env::consts::ARCH)?;
        } else {
            println!("setup: no pip to fetch {LIBRARY} with, which holds the guest kernel");
            return Ok(false);
        }
    }
    println!("setup: guest kernel: {}", version(&kernel)?);
    if cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        let kernel = arm64_kernel();
        if !kernel.exists() {
            if python_with_pip().is_none() {
                println!("setup: no pip to fetch {LIBRARY} for arm64 with");
                return Ok(false);
            }
            println!("setup: fetching the guest kernel for arm64");
            fetch(&kernel, "aarch64")?;
        }
        println!("setup: guest kernel for arm64: {}", version(&kernel)?);
    }
    Ok(true)
}

/// Returns whether [`install`] would need pip and there is none.
pub(super) fn needs_pip() -> bool {
    let own = guest_kernel().exists() || system().is_some();
    let other = cfg!(not(target_arch = "x86_64")) || arm64_kernel().exists();
    cfg!(target_os = "linux") && !(own && other) && python_with_pip().is_none()
}

fn system() -> Option<PathBuf> {
    SYSTEM_FOLDERS
        .iter()
        .map(|folder| Path::new(folder).join(LIBRARY))
        .find(|path| path.exists())
}

/// Fetches the library for `arch` from PyPI to the file `kernel`.
fn fetch(kernel: &Path, arch: &str) -> Result<()> {
    let folder = kernel.parent().context("a folder for the kernel")?;
    fs::create_dir_all(folder)?;
    let requirements = folder.join("requirements.txt");
    fs::write(&requirements, WHEEL)?;
    let unpacked = folder.join("wheel");
    let platform = format!("manylinux_2_28_{arch}");
    let arguments = [
        "--require-hashes".as_ref(),
        "--platform".as_ref(),
        platform.as_ref(),
        "--requirement".as_ref(),
        requirements.as_os_str(),
    ];
    wheel(&arguments, &unpacked)?;
    let library = find(&unpacked.join("microsandbox/_bundled/lib"), |name| {
        name.starts_with(LIBRARY)
    })?;
    place(&library, kernel)?;
    fs::remove_dir_all(&unpacked)?;
    Ok(())
}

fn find(folder: &Path, wanted: impl Fn(&str) -> bool) -> Result<PathBuf> {
    fs::read_dir(folder)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| {
            path.file_name()
                .and_then(|name| name.to_str())
                .is_some_and(&wanted)
        })
        .with_context(|| format!("not what was expected in {}", folder.display()))
}

/// Copies a file so that `to` appears complete or not at all.
fn place(from: &Path, to: &Path) -> Result<()> {
    let partial = to.with_extension("partial");
    fs::copy(from, &partial)?;
    fs::rename(&partial, to)?;
    Ok(())
}

/// Returns the version of the kernel inside, as in `/proc/version`.
fn version(library: &Path) -> Result<String> {
    let bytes = fs::read(library)?;
    let banner = b"Linux version ";
    let start = bytes
        .windows(banner.len() + 1)
        .position(|window| window.starts_with(banner) && window[banner.len()].is_ascii_digit());
    let start = start.with_context(|| format!("no kernel in {}", library.display()))?;
    let words: Vec<_> = bytes[start..]
        .split(|&byte| byte == b' ' || byte == b'\n')
        .take(3)
        .map(String::from_utf8_lossy)
        .collect();
    ensure!(
        words.len() == 3,
        "no kernel version in {}",
        library.display()
    );
    Ok(words.join(" "))
}
