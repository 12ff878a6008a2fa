//! `cargo xtask setup`: installs what the other commands need.
//!
//! Programs are installed with apt-get if it exists and the user is root; otherwise the command
//! prints what to install. Programs whose required version is in no distribution are unpacked under
//! `target/`, never installed.

mod archive;
mod containerd;
mod docker;
mod kernel;
mod oracles;
mod packages;
mod toolchains;
mod wheel;
mod zig;

pub(crate) use archive::{Archive, loader, mirror};
pub(crate) use containerd::containerd;
pub(crate) use docker::docker;
pub(crate) use kernel::{LIBRARY as GUEST_KERNEL, guest_kernel};
pub(crate) use toolchains::{BARE_METAL, compiler, compilers, guest_targets, has_bare_metal};
pub(crate) use wheel::wheel;
pub(crate) use zig::Zig;

use anyhow::{Result, ensure};

/// Installs what the tests need, and emulators, cross compilers and targets for `cargo xtask
/// cross`. Returns a C compiler for `system`, an architecture and a system in Zig's naming.
///
/// # Errors
///
/// If something is still missing.
pub(crate) fn cross(system: &str) -> Result<Zig> {
    let programs = run()?;
    let packages = packages::install_for_cross()?;
    ensure!(
        programs && toolchains::targets(crate::cross::targets())? && packages,
        "what runs and checks programs of other machines is missing"
    );
    zig::zig(system)
}

/// Installs everything that is missing, and prints versions. Returns `false` if something that
/// tests or demo use is still missing, after printing what and why.
pub(crate) fn run() -> Result<bool> {
    let mut complete = packages::install()?;
    for step in [oracles::install, kernel::install, toolchains::install] {
        complete &= step()?;
    }
    Ok(complete)
}
