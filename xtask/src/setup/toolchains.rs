//! Toolchains and targets that rustup can add.

use std::process::Command;

use anyhow::{Result, ensure};

use crate::{api, fuzz, package, shell};

/// A target that has no `std`.
pub(crate) const BARE_METAL: &str = "x86_64-unknown-none";

/// Adds a nightly compiler and a target without `std`, if rustup is installed. Without them some
/// checks are skipped; a failure is printed and not an error.
pub(super) fn install() -> Result<bool> {
    let mut complete = true;
    if !fuzz::is_possible() {
        println!("setup: rustup toolchain install nightly: fuzz targets are built with it");
        complete &= rustup(&[
            "toolchain",
            "install",
            "nightly",
            "--profile",
            "minimal",
            "--no-self-update",
        ]);
    }
    if cfg!(target_os = "linux") && !api::is_possible() {
        complete &= compiler(api::COMPILER, "public interfaces are listed with it");
    }
    complete &= guest_targets();
    if !has_bare_metal() {
        println!("setup: rustup target add {BARE_METAL}: what needs no std is built for it");
        complete &= rustup(&["target", "add", BARE_METAL]);
    }
    Ok(complete)
}

/// Adds the targets that the guest's init is built for: those that it is smallest for, also for
/// guests whose processor QEMU emulates. Returns `false` if one is missing, and init is larger, or
/// there is none for the other processor.
pub(crate) fn guest_targets() -> bool {
    let targets = ["x86_64", "aarch64"]
        .map(|arch| ["linux-musl", "none"].map(|system| format!("{arch}-unknown-{system}")));
    let missing: Vec<_> = targets
        .as_flattened()
        .iter()
        .filter(|target| !has_target(target))
        .collect();
    if missing.is_empty() {
        return true;
    }
    for target in &missing {
        println!("setup: rustup target add {target}: the guest's init is built for it");
    }
    let arguments = ["target", "add"].into_iter();
    let arguments: Vec<_> = arguments
        .chain(missing.into_iter().map(String::as_str))
        .collect();
    rustup(&arguments)
}

/// Installs the oldest supported compilers.
///
/// # Errors
///
/// If one is still missing.
pub(crate) fn compilers() -> Result<()> {
    for (version, _) in package::OLDEST {
        let why = "the crates promise to build with it";
        ensure!(compiler(version, why), "Rust {version} is missing");
    }
    Ok(())
}

/// Installs one version of the compiler, unless it is installed. Returns `false` if it is still
/// missing.
pub(crate) fn compiler(version: &str, why: &str) -> bool {
    let mut rustc = Command::new("rustup");
    rustc.args(["run", version, "rustc", "--version"]);
    if shell::output(&mut rustc).is_ok() {
        return true;
    }
    println!("setup: rustup toolchain install {version}: {why}");
    let arguments = ["toolchain", "install", version, "--profile", "minimal"];
    rustup(&[&arguments[..], &["--no-self-update"]].concat())
}

/// Adds targets to the compiler that runs this. Returns `false` if one is still missing.
pub(super) fn targets(targets: impl Iterator<Item = &'static str>) -> Result<bool> {
    let missing: Vec<_> = targets.filter(|target| !has_target(target)).collect();
    if missing.is_empty() {
        return Ok(true);
    }
    println!(
        "setup: rustup target add {}: the libraries are built for them",
        missing.join(" ")
    );
    Ok(rustup(&[&["target", "add"], &missing[..]].concat()))
}

/// Returns whether the compiler that runs this can build for [`BARE_METAL`].
pub(crate) fn has_bare_metal() -> bool {
    has_target(BARE_METAL)
}

fn has_target(target: &str) -> bool {
    let mut rustc = Command::new("rustc");
    rustc.args(["--print", "target-libdir", "--target", target]);
    rustc.current_dir(shell::repository());
    shell::output(&mut rustc).is_ok_and(|folder| std::path::Path::new(folder.trim()).is_dir())
}

fn rustup(arguments: &[&str]) -> bool {
    let mut rustup = Command::new("rustup");
    rustup.args(arguments).current_dir(shell::repository());
    match shell::output(&mut rustup) {
        Ok(_) => true,
        Err(error) => {
            println!("setup: {error:#}");
            false
        }
    }
}
