//! `cargo xtask cross`: tests the libraries for other machines, and checks everything for macOS.
//!
//! The libraries' tests run under QEMU's user-mode emulation of arm64, of a big-endian and of a
//! 32-bit machine. Programs of other systems cannot run here, so their code is only type-checked:
//! that of the whole repository, with its tests, for macOS; for Windows and WebAssembly that of the
//! libraries, without the features that need a C compiler.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use clap::builder::PossibleValuesParser;

use crate::package::LIBRARIES;
use crate::setup::{self, Zig};
use crate::shell;
use crate::stages::Stages;

/// A machine whose programs QEMU can run.
struct Machine {
    target: &'static str,
    /// The triplet of Debian's cross compiler and its libraries.
    triplet: &'static str,
    qemu: &'static str,
    what: &'static str,
}

const ARM64: Machine = Machine {
    target: "aarch64-unknown-linux-gnu",
    triplet: "aarch64-linux-gnu",
    qemu: "qemu-aarch64",
    what: "arm64",
};

const MACHINES: [Machine; 3] = [
    ARM64,
    Machine {
        target: "s390x-unknown-linux-gnu",
        triplet: "s390x-linux-gnu",
        qemu: "qemu-s390x",
        what: "big-endian",
    },
    Machine {
        target: "i686-unknown-linux-gnu",
        triplet: "i686-linux-gnu",
        qemu: "qemu-i386",
        what: "32-bit",
    },
];

impl Machine {
    /// Returns the name of the variable that sets `key` for the target in cargo's configuration.
    fn variable(&self, key: &str) -> String {
        let target = self.target.to_uppercase().replace('-', "_");
        format!("CARGO_TARGET_{target}_{key}")
    }

    fn compiler(&self) -> String {
        format!("{}-gcc", self.triplet)
    }
}

/// The system that everything is checked for.
const MACOS: &str = "aarch64-apple-darwin";

/// [`MACOS`] in Zig's naming.
const MACOS_OF_ZIG: &str = "aarch64-macos";

/// Systems that the libraries are checked for, as far as they are portable.
const CHECKED: [&str; 2] = ["x86_64-pc-windows-gnu", "wasm32-unknown-unknown"];

/// The libraries with the features that need neither a C compiler nor a particular system.
const PORTABLE: [(&str, &str); 6] = [
    ("erofs-reader", "deflate,lz4,lzma,std,serde"),
    ("erofs-writer", "deflate,lz4,lzma,tar"),
    ("ext4-writer", "tar"),
    ("fsmerge", "erofs"),
    ("ocipull", "async,bzip2,xz"),
    ("vmdk-image", "serde"),
];

/// Tests that take long under emulation, need the host's kernel, execute the programs of the
/// examples, which no emulator is in front of, or start a program that does not exist: for QEMU's
/// emulation that works, and the program ends at once.
const SKIPPED: [&str; 5] = [
    "kernel",
    "matrix",
    "stress",
    "examples::",
    "a_helper_that_is_not_installed_cannot_start",
];

/// `cargo xtask cross`
#[derive(clap::Args)]
pub(crate) struct Cross {
    /// Only this library; may be given several times
    #[arg(long, short, value_name = "LIBRARY", value_parser = LIBRARIES)]
    package: Vec<String>,
    /// Only this target; may be given several times
    #[arg(long, value_name = "TARGET", value_parser = PossibleValuesParser::new(targets()))]
    target: Vec<String>,
}

impl Cross {
    pub(crate) fn run(&self) -> Result<()> {
        let zig = setup::cross(MACOS_OF_ZIG)?;
        let mut stages = Stages::default();
        let wanted =
            |target| self.target.is_empty() || self.target.iter().any(|only| only == target);
        for machine in MACHINES.iter().filter(|machine| wanted(machine.target)) {
            let name = format!("test on {} ({})", machine.target, machine.what);
            stages.run(&name, || self.test(machine))?;
        }
        for target in CHECKED.into_iter().filter(|target| wanted(target)) {
            stages.run(&format!("check for {target}"), || self.check(target))?;
        }
        if wanted(MACOS) {
            let guest = match self.package.is_empty() {
                true => stages.run("build the guest's programs for arm64", guest_programs)?,
                false => Vec::new(),
            };
            stages.run(&format!("check for {MACOS}"), || {
                self.check_for_macos(&zig, guest)
            })?;
        }
        stages.print();
        Ok(())
    }

    fn has(&self, library: &str) -> bool {
        self.package.is_empty() || self.package.iter().any(|only| only == library)
    }
}

/// Returns the targets that the compiler must support.
pub(crate) fn targets() -> impl Iterator<Item = &'static str> {
    let tested = MACHINES.iter().map(|machine| machine.target);
    tested.chain(CHECKED).chain([MACOS])
}

impl Cross {
    fn test(&self, machine: &Machine) -> Result<()> {
        let target = machine.target;
        let mut cargo = shell::cargo();
        cargo.args(["test", "--no-fail-fast", "--all-features"]);
        cargo.args(["--target", target]);
        for library in LIBRARIES.iter().filter(|library| self.has(library)) {
            cargo.args(["--package", library]);
        }
        cargo.args(["--lib", "--tests", "--"]);
        cargo.args(SKIPPED.iter().flat_map(|name| ["--skip", name]));
        cargo.env(machine.variable("LINKER"), machine.compiler());
        let runner = format!("{} -L /usr/{}", machine.qemu, machine.triplet);
        cargo.env("TEST_EMULATOR", &runner);
        cargo.env(machine.variable("RUNNER"), runner);
        let compiler = format!("CC_{}", target.replace('-', "_"));
        cargo.env(compiler, machine.compiler());
        // Nothing is missing, so nothing may be skipped.
        cargo.env("CI", "true");
        // Each instruction takes about twenty times as long as on the host.
        cargo.env("CARGO_PROFILE_DEV_OPT_LEVEL", "1");
        cargo.env("PROPTEST_CASES", "16");
        shell::run(&mut cargo)
    }

    fn check(&self, target: &str) -> Result<()> {
        for (library, features) in PORTABLE {
            // Temporary files and threads need an operating system.
            let lacks_system = target.starts_with("wasm32") && library == "ocipull";
            if lacks_system || !self.has(library) {
                continue;
            }
            let mut cargo: Command = shell::cargo();
            cargo.args(["check", "--quiet", "--target", target, "--package", library]);
            cargo.args(["--no-default-features", "--features", features]);
            shell::run(&mut cargo)?;
        }
        Ok(())
    }

    /// Checks everything, with its tests, as strictly as `cargo xtask test` does on macOS itself.
    fn check_for_macos(&self, zig: &Zig, guest: Vec<(&str, PathBuf)>) -> Result<()> {
        let mut cargo = shell::cargo();
        cargo.args(["clippy", "--quiet", "--all-targets", "--all-features"]);
        cargo.args(["--target", MACOS]);
        if self.package.is_empty() {
            cargo.arg("--workspace");
        }
        for library in &self.package {
            cargo.args(["--package", library]);
        }
        let target = MACOS.replace('-', "_");
        cargo.env(format!("CC_{target}"), zig.cc());
        cargo.env(format!("AR_{target}"), zig.ar());
        cargo.env("ZIG_GLOBAL_CACHE_DIR", zig.cache());
        // Zig has the headers. Without this, build scripts ask Xcode where they are.
        cargo.env("SDKROOT", "/").envs(guest);
        shell::run(cargo.args(["--", "-D", "warnings"]))
    }
}

/// Builds the programs of an arm64 guest, and returns the variables that pass their paths to the
/// build script of `blockbox-vmm`.
fn guest_programs() -> Result<Vec<(&'static str, PathBuf)>> {
    let mut cargo = shell::cargo();
    cargo.args(["build", "--release", "--target", ARM64.target]);
    cargo.args([
        "--package",
        "blockbox-guest",
        "--package",
        "blockbox-fsbench",
        "--bins",
    ]);
    cargo.env(ARM64.variable("LINKER"), ARM64.compiler());
    let is_static = "-Ctarget-feature=+crt-static -Crelocation-model=static";
    shell::run(cargo.env(ARM64.variable("RUSTFLAGS"), is_static))?;
    let folder = shell::target(ARM64.target).join("release");
    Ok(vec![
        ("BLOCKBOX_GUEST_INIT", folder.join("blockbox-init")),
        ("BLOCKBOX_GUEST_FSBENCH", folder.join("blockbox-fsbench")),
    ])
}
