//! `cargo xtask cross`: tests the libraries for other machines.
//!
//! Their tests run under QEMU's user-mode emulation of arm64, of a big-endian and of a 32-bit
//! machine. For systems whose programs cannot run here, the libraries are type-checked, without the
//! features that need a C compiler.

use std::process::Command;

use anyhow::Result;

use crate::package::LIBRARIES;
use crate::setup;
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

const MACHINES: [Machine; 3] = [
    Machine {
        target: "aarch64-unknown-linux-gnu",
        triplet: "aarch64-linux-gnu",
        qemu: "qemu-aarch64",
        what: "arm64",
    },
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

/// Systems whose programs cannot run here.
const CHECKED: [&str; 3] = [
    "aarch64-apple-darwin",
    "x86_64-pc-windows-gnu",
    "wasm32-unknown-unknown",
];

/// The libraries with the features that need neither a C compiler nor a particular system.
const PORTABLE: [(&str, &str); 6] = [
    ("erofs-reader", "deflate,lz4,lzma,std,serde"),
    ("erofs-writer", "deflate,lz4,lzma,tar"),
    ("ext4-writer", "tar"),
    ("fsmerge", "erofs"),
    ("ocipull", "async,bzip2,xz"),
    ("vmdk-image", "serde"),
];

/// Tests that take long under emulation, or need the host's kernel, and would find nothing new
/// there.
const SKIPPED: [&str; 3] = ["kernel", "matrix", "stress"];

/// `cargo xtask cross`
#[derive(clap::Args)]
pub(crate) struct Cross {
    /// Only this library; may be given several times
    #[arg(long, short, value_name = "LIBRARY", value_parser = LIBRARIES)]
    package: Vec<String>,
}

impl Cross {
    pub(crate) fn run(&self) -> Result<()> {
        setup::cross()?;
        let mut stages = Stages::default();
        for machine in &MACHINES {
            let name = format!("test on {} ({})", machine.target, machine.what);
            stages.run(&name, || self.test(machine))?;
        }
        for target in CHECKED {
            stages.run(&format!("check for {target}"), || self.check(target))?;
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
    tested.chain(CHECKED)
}

impl Cross {
    fn test(&self, machine: &Machine) -> Result<()> {
        let target = machine.target;
        let upper = target.to_uppercase().replace('-', "_");
        let compiler = format!("{}-gcc", machine.triplet);
        let root = format!("/usr/{}", machine.triplet);
        let mut cargo = shell::cargo();
        cargo.args(["test", "--no-fail-fast", "--target", target]);
        for library in LIBRARIES.iter().filter(|library| self.has(library)) {
            cargo.args(["--package", library]);
        }
        cargo.args(["--lib", "--tests", "--"]);
        cargo.args(SKIPPED.iter().flat_map(|name| ["--skip", name]));
        cargo.env(format!("CARGO_TARGET_{upper}_LINKER"), &compiler);
        let runner = format!("{} -L {root}", machine.qemu);
        cargo.env(format!("CARGO_TARGET_{upper}_RUNNER"), runner);
        cargo.env(format!("CC_{}", target.replace('-', "_")), &compiler);
        // Each case takes about twenty times as long as on the host.
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
}
