//! `cargo xtask setup`: what the other commands need and this machine lacks.
//!
//! Installs with apt-get where there is one and the user is root; elsewhere says what to install.
//! What no distribution carries in the version we need is unpacked under `target/`, never
//! installed.

mod archive;
mod containerd;
mod kernel;
mod oracles;
mod packages;
mod toolchains;

pub(crate) use archive::{Archive, mirror};
pub(crate) use containerd::containerd;
pub(crate) use kernel::{LIBRARY as GUEST_KERNEL, guest_kernel};
pub(crate) use toolchains::{BARE_METAL, compiler, compilers, has_bare_metal};

use anyhow::{Result, ensure};

/// Installs what `cargo xtask cross` needs beside what the tests do: emulators, cross compilers and
/// targets.
///
/// # Errors
///
/// Where something is missing still.
pub(crate) fn cross() -> Result<()> {
    let packages = packages::install_for_cross()?;
    ensure!(
        toolchains::targets(crate::cross::targets())? && packages,
        "what runs and checks programs of other machines is missing"
    );
    Ok(())
}

/// Makes sure that everything is there, and prints versions. False where something that tests or
/// demo use is missing still; what and why has been said then.
pub(crate) fn run() -> Result<bool> {
    let mut complete = packages::install()?;
    for step in [oracles::install, kernel::install, toolchains::install] {
        complete &= step()?;
    }
    Ok(complete)
}
